//! Replays every input of `fuzz/corpus/` and `fuzz/crashes/` through the property of its target. `make fuzz` looks for more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
mod properties;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// What a folder holds, sorted.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let listed =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = listed
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_stem()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}

fn targets() -> BTreeSet<String> {
    properties::ALL
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect()
}

fn names(folder: &str) -> BTreeSet<String> {
    entries(&fuzz().join(folder))
        .iter()
        .map(|path| name(path))
        .collect()
}

/// Runs a property over the inputs of one folder; how many there were, and which broke it.
fn replay(folder: &Path, property: properties::Property) -> (usize, Vec<PathBuf>) {
    let inputs = entries(folder);
    let breaks = |input: &PathBuf| {
        let bytes = fs::read(input).expect("an input");
        std::panic::catch_unwind(|| property(&bytes)).is_err()
    };
    let broken = inputs.iter().filter(|input| breaks(input)).cloned();
    (inputs.len(), broken.collect())
}

#[test]
fn every_input_in_the_tree_holds() {
    let (mut inputs, mut crashes, mut broken) = (0, 0, Vec::new());
    for (target, property) in properties::ALL {
        let (count, found) = replay(&fuzz().join("corpus").join(target), property);
        assert!(count > 0, "{target} has no corpus");
        println!("{target}: {count} inputs");
        inputs += count;
        broken.extend(found);
        let once_broken = fuzz().join("crashes").join(target);
        if once_broken.exists() {
            let (count, found) = replay(&once_broken, property);
            crashes += count;
            broken.extend(found);
        }
    }
    println!("{inputs} inputs and {crashes} that once broke something were replayed");
    assert!(
        broken.is_empty(),
        "these break their property, see above: {broken:#?}"
    );
}

#[test]
fn every_target_has_a_property_and_a_corpus_and_none_is_left_over() {
    assert_eq!(
        names("fuzz_targets"),
        targets(),
        "fuzz_targets/ and ALL in fuzz/src/lib.rs"
    );
    assert_eq!(names("corpus"), targets(), "corpus/ and ALL");
    assert!(
        names("crashes").is_subset(&targets()),
        "crashes/ of no target"
    );
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the manifest");
    for target in targets() {
        assert!(
            manifest.contains(&format!("\nname = \"{target}\"\n")),
            "{target} is not in fuzz/Cargo.toml"
        );
    }
}
