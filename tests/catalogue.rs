//! Every CVE and every rule of the catalogue of failures has a test that cites it in its doc comment. Reads the source text.
//!
//! The catalogue lies outside of this repository; what stands here is its numbers, each with a word on what it is about. A row of
//! the fault model whose number is a rule's too is cited as `fault R1`.

use std::fs;
use std::path::{Path, PathBuf};

/// Table A1, the rows of part B that are about resources, the rules of part C.
const CITED: [(&str, &str); 50] = [
    ("CVE-2026-6664", "lengths in packets before the login"),
    (
        "CVE-2026-6667",
        "console commands without the right to them",
    ),
    ("CVE-2021-3935", "plaintext behind SSLRequest"),
    ("CVE-2021-23222", "plaintext behind a server's S"),
    ("CVE-2024-10977", "a server's error before TLS"),
    (
        "CVE-2021-43766",
        "plaintext around the TLS negotiation, Odyssey",
    ),
    ("CVE-2021-43767", "the same, towards servers"),
    ("CVE-2012-4575", "names too long"),
    ("CVE-2026-6665", "a server's nonce and salt"),
    ("CVE-2026-6666", "ErrorResponse without fields"),
    ("CVE-2026-42198", "a server's iteration count"),
    ("CVE-2025-12819", "search_path and auth_query"),
    ("CVE-2025-2291", "VALID UNTIL and auth_query"),
    ("CVE-2015-6817", "an unknown user and auth_user"),
    ("PgB 1.5.5", "a packet before the startup packet"),
    ("pgpool (4.0+)", "a login against a warm pool"),
    (
        "Dog#1053",
        "the console's password where roles are passed on",
    ),
    ("fault R1", "EMFILE"),
    ("fault R2", "ENOMEM"),
    ("fault R3", "ENOSPC, a log that nobody reads"),
    ("fault R4", "EADDRNOTAVAIL"),
    ("fault R5", "no CPU time"),
    ("R1", "nothing after SSLRequest"),
    ("R2", "encryption is asked for once"),
    ("R3", "limits before the login"),
    ("R4", "comparisons in constant time"),
    ("R5", "unknown users"),
    ("R5b", "settings are looked at after the login"),
    ("R6", "logins to servers"),
    ("R7", "weak methods"),
    ("R8", "auth_query"),
    ("R9", "startup parameters"),
    ("R10", "secrets"),
    ("R11", "foreign text in the log"),
    ("R12", "privileges"),
    ("R13", "Unix sockets"),
    ("R14", "the console"),
    ("R15", "cancel keys"),
    ("R16", "what TLS is made of"),
    ("R17", "no unsafe code"),
    ("R18", "supply chain"),
    ("R19", "nothing is left in a session"),
    ("R20", "limits of users and databases"),
    ("R21", "every state has a timeout"),
    ("R22", "hostile servers"),
    ("C1", "connections that say nothing"),
    ("C13", "guessing"),
    ("C14", "storms of connections"),
    ("C15", "probing for users"),
    ("G5", "console commands by role"),
];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("tests")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("it can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("source text");
                found.push((path, text));
            }
        }
    }
    found
}

/// The doc comments that stand above tests, each with its test's name.
fn documented(text: &str) -> Vec<(String, String)> {
    let (mut found, mut doc) = (Vec::new(), String::new());
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if let Some(said) = line.strip_prefix("///") {
            doc += said;
        } else if line == "#[test]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
            let name = rest.split('(').next().unwrap_or_default();
            found.push((name.to_owned(), std::mem::take(&mut doc)));
            is_test = false;
        } else if !line.starts_with("#[") {
            (is_test, doc) = (false, String::new());
        }
    }
    found
}

/// Whether a comment names an id: as a word of its own, and a rule not as a row of the fault model.
fn cites(doc: &str, id: &str) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    doc.match_indices(id).any(|(at, _)| {
        let before = doc.get(..at).unwrap_or_default();
        let is_fault = id.starts_with('R') && before.ends_with("fault ");
        let after = doc.as_bytes().get(at + id.len());
        !is_fault && !is_word(before.as_bytes().last()) && !is_word(after)
    })
}

#[test]
fn every_cve_and_every_rule_of_the_catalogue_is_cited_by_a_test() {
    let sources = sources();
    let tests: Vec<_> = sources
        .iter()
        .flat_map(|(_, text)| documented(text))
        .collect();
    assert!(tests.len() > 300, "the tests were found");
    let missing: Vec<String> = CITED
        .iter()
        .filter(|(id, _)| !tests.iter().any(|(_, doc)| cites(doc, id)))
        .map(|(id, what)| format!("{id}: {what}"))
        .collect();
    assert!(missing.is_empty(), "no test cites\n{}", missing.join("\n"));
}

#[test]
fn the_check_itself_sees_citations() {
    let text =
        "/// Catalogue R1, C15.\n#[test]\nfn a() {}\n/// R2\nfn b() {}\n#[test]\nfn c() {}\n";
    let tests = documented(text);
    assert_eq!(tests.len(), 2, "{tests:?}");
    assert_eq!(tests[1].1, "", "a comment on something else");
    assert!(cites(&tests[0].1, "R1") && cites(&tests[0].1, "C15"));
    for other in ["R", "R15", "C1", "fault R1"] {
        assert!(!cites(&tests[0].1, other), "{other}");
    }
    assert!(!cites("fault R1", "R1") && cites("fault R1", "fault R1"));
}
