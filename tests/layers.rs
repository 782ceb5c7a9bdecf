//! Holds the floors: which module may use which, and what the pure ones may not name. Reads the source text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up. A module may use its own floor and those before it.
const FLOORS: [&[&str]; 12] = [
    &["limits", "arena", "reasons", "stats", "log"],
    &["tls"],
    &["config"],
    &["wire", "fingerprint"],
    &["auth"],
    &["relay"],
    &["startup", "tune", "reset", "lookup"],
    &["pool"],
    &["engine"],
    &["admin", "metrics"],
    &["net", "top"],
    &["main", "lib", "arguments"],
];

/// Modules that decide and never touch the world.
const PURE: [&str; 14] = [
    "limits",
    "arena",
    "reasons",
    "stats",
    "tls",
    "wire",
    "fingerprint",
    "auth",
    "relay",
    "startup",
    "tune",
    "reset",
    "lookup",
    "pool",
];

/// What only the shell may name.
const WORLD: [&str; 6] = [
    "mio::",
    "std::fs",
    "Instant",
    "SystemTime",
    "std::thread",
    "TcpStream",
];

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let first = path
                    .strip_prefix(&root)
                    .expect("below src")
                    .components()
                    .next()
                    .expect("a name");
                let module = first
                    .as_os_str()
                    .to_string_lossy()
                    .trim_end_matches(".rs")
                    .to_owned();
                let text = fs::read_to_string(&path).expect("source text");
                found.push((module, path, text));
            }
        }
    }
    assert!(found.len() > 30, "the whole source was found");
    found
}

fn floor(module: &str) -> usize {
    FLOORS
        .iter()
        .position(|floor| floor.contains(&module))
        .unwrap_or_else(|| panic!("{module} has no floor: add it to FLOORS"))
}

/// The modules that a line of code names behind `crate::` or `aether::`.
fn named(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    ["crate::", "aether::"]
        .iter()
        .flat_map(|prefix| {
            code.match_indices(prefix)
                .map(|(at, _)| &code[at + prefix.len()..])
        })
        .flat_map(|rest| {
            let list = rest
                .strip_prefix('{')
                .map_or(rest, |rest| rest.split('}').next().unwrap_or_default());
            let names = if rest.starts_with('{') {
                list.split(',').collect::<Vec<_>>()
            } else {
                vec![list]
            };
            names.into_iter().map(|name| {
                name.trim()
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect()
            })
        })
        .filter(|name: &String| FLOORS.iter().any(|floor| floor.contains(&name.as_str())))
        .collect()
}

#[test]
fn no_arrow_points_up() {
    let mut wrong = Vec::new();
    for (module, path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            for used in named(line) {
                if floor(&used) > floor(&module) && module != "lib" {
                    wrong.push(format!(
                        "{}:{}: {module} uses {used}",
                        path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_do_not_name_the_world() {
    let mut wrong = Vec::new();
    for (module, path, text) in sources()
        .into_iter()
        .filter(|(module, _, _)| PURE.contains(&module.as_str()) || module == "engine")
    {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(world) = WORLD.iter().find(|world| code.contains(**world)) {
                wrong.push(format!(
                    "{}:{}: {module} names {world}",
                    path.display(),
                    number + 1
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Catalogue R17.
#[test]
fn only_one_file_knows_serde_yaml_and_no_file_is_unsafe() {
    for (_, path, text) in sources() {
        let code = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("\n");
        let knows = code.contains("serde_yaml");
        assert!(
            !knows || path.ends_with("config/yaml.rs"),
            "{} names serde_yaml",
            path.display()
        );
        assert!(
            !code.replace("unsafe_code", "").contains("unsafe "),
            "{}",
            path.display()
        );
    }
}

/// Catalogue R4: what is held against a secret goes through the one comparison that takes as long whatever differs.
#[test]
fn secrets_are_compared_in_constant_time() {
    let secret = [
        "stored_key",
        "server_key",
        "client_key",
        "expected",
        "digest",
        "proof",
        "signature",
        "salted",
        "password",
        "known",
    ];
    let mut compared = 0;
    for (_, path, text) in sources() {
        let in_auth = path.components().any(|part| part.as_os_str() == "auth");
        if !(in_auth || path.ends_with("pool/cancel.rs")) || path.ends_with("tests.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim().starts_with("//")) {
            compared += line.matches("same(").count();
            let plain = ["==", "!=", ".eq(", ".cmp(", "starts_with("]
                .iter()
                .any(|how| line.contains(how));
            // A nonce is no secret.
            let length =
                line.contains("nonce ==") || line.contains("len() ==") || line.contains("len() !=");
            let bare = plain && !length && secret.iter().any(|word| line.contains(word));
            assert!(!bare, "{}: {line}", path.display());
        }
    }
    assert!(compared >= 6, "{compared} comparisons were found");
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Catalogue R17: no unsafe code, no unwrap, and arithmetic on lengths that does not wrap in the binary that is delivered.
#[test]
fn the_compiler_holds_what_is_promised_of_it() {
    let manifest = read("Cargo.toml");
    for line in [
        "unsafe_code = \"forbid\"",
        "unwrap_used = \"deny\"",
        "overflow-checks = true",
    ] {
        assert!(manifest.contains(line), "{line}");
    }
    for file in ["src/lib.rs", "src/main.rs"] {
        assert!(read(file).contains("#![forbid(unsafe_code)]"), "{file}");
    }
}

/// Catalogue R18: every dependency says why it is there, comes from the registry, and is the one that was looked at.
#[test]
fn dependencies_are_few_known_and_pinned() {
    let manifest = read("Cargo.toml");
    let of_ours = manifest
        .split("[dependencies]")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next());
    let mut lines = of_ours.expect("dependencies").trim().lines().peekable();
    let mut ours = 0;
    while let Some(line) = lines.next() {
        assert!(line.starts_with('#'), "no word on why: {line}");
        while lines.next_if(|line| !line.starts_with('#')).is_some() {
            ours += 1;
        }
    }
    assert!((10..30).contains(&ours), "{ours} dependencies");
    let lock = read("Cargo.lock");
    let packages: Vec<&str> = lock.split("[[package]]").skip(1).collect();
    assert!(packages.len() < 120, "{} packages", packages.len());
    for package in packages
        .iter()
        .filter(|package| !package.contains("name = \"aether\""))
    {
        let from_registry =
            package.contains("source = \"registry+https://github.com/rust-lang/crates.io-index\"");
        assert!(
            from_registry && package.contains("checksum = "),
            "{package}"
        );
    }
    let deny = read("deny.toml");
    assert!(
        deny.contains("unknown-registry = \"deny\"") && deny.contains("unknown-git = \"deny\"")
    );
    for script in ["scripts/build", "scripts/static"] {
        assert!(read(script).contains("--locked"), "{script}");
    }
}

/// Catalogue R18: the bill of materials that comes with a build names what is linked, each package with its licence and checksum.
#[test]
fn a_build_tells_what_it_is_made_of() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/sbom");
    let output = std::process::Command::new(script).output().expect("bash");
    let text = String::from_utf8(output.stdout).expect("text");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let bill: serde_yaml::Value = serde_yaml::from_str(&text).expect("JSON");
    assert_eq!(bill["bomFormat"].as_str(), Some("CycloneDX"));
    assert_eq!(
        bill["metadata"]["component"]["name"].as_str(),
        Some("aether")
    );
    let components = bill["components"].as_sequence().expect("a list");
    let lock = read("Cargo.lock");
    let mut names = BTreeSet::new();
    for component in components {
        let text = |key: &str| component[key].as_str().expect(key);
        let checksum = component["hashes"][0]["content"].as_str().expect("a hash");
        let entry = format!(
            "name = \"{}\"\nversion = \"{}\"\n",
            text("name"),
            text("version")
        );
        let locked = lock
            .split("[[package]]")
            .find(|package| package.contains(&entry));
        let locked = locked.expect("it is in the lock file");
        assert!(
            locked.contains(&format!("checksum = \"{checksum}\"")),
            "{entry}"
        );
        assert!(
            component["licenses"][0]["expression"]
                .as_str()
                .is_some_and(|l| !l.is_empty())
        );
        names.insert(text("name"));
    }
    for linked in ["ring", "rustls", "mio", "unsafe-libyaml", "zeroizing-alloc"] {
        assert!(names.contains(linked), "{linked}");
    }
    assert!(!names.contains("divan"), "that is for tests only");
}

/// The slow step that builds them comes late; here it is told at once when a line has changed.
#[test]
fn broken_builds_find_the_lines_that_they_break() {
    let script = read("scripts/mutants").replace("'\\''", "'");
    let mutants = script.lines().filter(|line| line.contains(" ¦ "));
    let mut count = 0;
    for mutant in mutants.filter(|line| !line.starts_with('#') && !line.starts_with(' ')) {
        let parts: Vec<_> = mutant.split(" ¦ ").collect();
        let [name, _, file, from, _] = parts[..] else {
            panic!("{mutant}: five parts");
        };
        assert!(read(file).contains(from), "{name}: {file} has no {from:?}");
        count += 1;
    }
    assert!(count >= 10, "{count} broken builds");
}

#[test]
fn only_the_configuration_of_tls_and_its_streams_know_rustls() {
    for (module, path, text) in sources() {
        let knows = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("rustls::") || code.contains("webpki::")
        });
        assert!(
            !knows || module == "tls" || path.ends_with("net/tls.rs"),
            "{} names rustls",
            path.display()
        );
    }
}

#[test]
fn the_check_itself_sees_arrows() {
    assert_eq!(named("use crate::net::run;"), ["net"]);
    assert_eq!(named("use crate::{limits, engine};"), ["limits", "engine"]);
    assert_eq!(named("// use crate::net;"), Vec::<String>::new());
    assert!(floor("net") > floor("engine"));
}
