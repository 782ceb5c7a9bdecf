//! Holds the floors: which module may use which, and what the pure ones may not name. Reads the source text.

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up. A module may use its own floor and those before it.
const FLOORS: [&[&str]; 12] = [
    &["limits", "arena", "stats", "log"],
    &["tls"],
    &["config"],
    &["wire"],
    &["auth"],
    &["relay"],
    &["startup", "tune", "reset", "lookup"],
    &["pool"],
    &["engine"],
    &["admin"],
    &["net"],
    &["main", "lib"],
];

/// Modules that decide and never touch the world.
const PURE: [&str; 12] = [
    "limits", "arena", "stats", "tls", "wire", "auth", "relay", "startup", "tune", "reset",
    "lookup", "pool",
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
