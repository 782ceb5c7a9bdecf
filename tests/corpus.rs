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

/// Runs a property over the inputs of one folder; how many there were.
fn replay(folder: &Path, property: properties::Property) -> usize {
    let inputs = entries(folder);
    for input in &inputs {
        let bytes = fs::read(input).expect("an input");
        let outcome = std::panic::catch_unwind(|| property(&bytes));
        assert!(
            outcome.is_ok(),
            "{} breaks its property, see above",
            input.display()
        );
    }
    inputs.len()
}

#[test]
fn every_input_in_the_tree_holds() {
    let (mut all, mut crashes) = (0, 0);
    for (target, property) in properties::ALL {
        let count = replay(&fuzz().join("corpus").join(target), property);
        assert!(count > 0, "{target} has no corpus");
        all += count;
        println!("{target}: {count} inputs");
        let found = fuzz().join("crashes").join(target);
        if found.exists() {
            crashes += replay(&found, property);
        }
    }
    println!(
        "{} inputs replayed, {crashes} of them once broke something",
        all + crashes
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
