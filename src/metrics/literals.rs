//! Holds the tables of [`crate::reasons`] against the engine's source: every text for which a connection is closed is in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::reasons::{is_known_of_clients, is_known_of_servers};

/// The engine's source without its tests and comments, by file.
fn sources() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the engine") {
        let path = entry.expect("the engine").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if path.is_dir() || name == "scene.rs" {
            continue;
        }
        let text = fs::read_to_string(&path).expect("source text");
        let code = text
            .split("#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default();
        let lines = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        found.insert(name, lines.collect::<Vec<_>>().join("\n"));
    }
    assert!(found.len() > 15, "the whole engine was found");
    found
}

/// What is between a parenthesis that opens just before `at` and the one that closes it; texts may hold any.
fn inside(code: &str, at: usize) -> &str {
    let (mut depth, mut quoted, mut escaped) = (1, false, false);
    for (place, c) in code[at..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '{' if !quoted => depth += 1,
            ')' | '}' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &code[at..at + place];
        }
    }
    panic!("it does not end: {}", &code[at..at + 80]);
}

/// The texts in a piece of code, with what they are filled in with.
fn literals(code: &str) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = code;
    while let Some(begin) = rest.find('"') {
        let bytes = rest.get(..begin).unwrap_or_default();
        let after = &rest[begin + 1..];
        let end = after.find('"').expect("a text ends");
        if !bytes.ends_with('b') {
            let text = after[..end].replace("{why}", "closed the connection");
            texts.push(text.replace(
                "{TUNING}",
                "setting the startup parameters of a client failed",
            ));
        }
        rest = &after[end + 1..];
    }
    texts
}

/// The texts that calls of a function are given, and those of constants that they name.
fn given(calls: &[&str]) -> Vec<String> {
    let sources = sources();
    let all: String = sources.values().cloned().collect::<Vec<_>>().join("\n");
    let mut constants = BTreeMap::new();
    for (at, _) in all.match_indices("const ") {
        let line = all[at + 6..].split(';').next().unwrap_or_default();
        if let Some((name, value)) = line.split_once(": &str =") {
            let text = literals(value).into_iter().next();
            constants.insert(name.trim().to_owned(), text.unwrap_or_default());
        }
    }
    let mut found = Vec::new();
    for call in calls {
        let places: Vec<usize> = all
            .match_indices(call)
            .map(|(at, _)| at + call.len())
            .collect();
        assert!(
            !places.is_empty(),
            "{call} is not called any more: mend this test"
        );
        for at in places {
            let arguments = inside(&all, at);
            found.extend(literals(arguments));
            let words = arguments.split(|c: char| !c.is_alphanumeric() && c != '_');
            found.extend(words.filter_map(|word| constants.get(word).cloned()));
        }
    }
    found.retain(|text| text.len() > 1);
    found
}

#[test]
fn every_text_for_which_a_server_connection_is_closed_is_counted_as_something() {
    let texts = given(&[
        ".close_server(",
        ".server_unfit(",
        ".end_pair(",
        "fn unfit(&self, key: ServerKey) -> Option<&'static str> {",
        "fn made_room(limit: Limit) -> &'static str {",
        "fn closed_while_idle(why: &Why) -> String {",
        "let reason = match server.relay.last_error() {",
    ]);
    assert!(texts.len() > 30, "{texts:#?}");
    // Of cancels' connections, which are not counted.
    let of_cancels = |text: &str| {
        text.starts_with("cancel request ")
            || text.contains("to be cancelled")
            || text.starts_with("a cancel got no TLS")
            || text.ends_with(" cancel request") // passed on to a peer
            || text == "cancel_wait_timeout"
    };
    let unknown: Vec<&String> = texts
        .iter()
        .filter(|text| !is_known_of_servers(text) && !of_cancels(text))
        .collect();
    assert!(
        unknown.is_empty(),
        "add these to SERVER in src/reasons.rs: {unknown:#?}"
    );
}

#[test]
fn every_text_for_which_a_client_connection_is_closed_is_counted_as_something() {
    let texts = given(&[".close_client(", "let reason = match &departure {"]);
    assert!(texts.len() > 12, "{texts:#?}");
    let unknown: Vec<&String> = texts
        .iter()
        .filter(|text| !is_known_of_clients(text) && *text != "closed")
        .collect();
    assert!(
        unknown.is_empty(),
        "add these to CLIENT in src/reasons.rs: {unknown:#?}"
    );
}
