//! The maps against PostgreSQL's documentation and its `hba.c`.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

struct OneFile(String);

impl Outside for OneFile {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        match path.to_str() {
            Some("/etc/ident.conf") => Ok(self.0.clone().into_bytes()),
            _ => Err("No such file".to_owned()),
        }
    }
}

fn roles() -> Roles {
    let members = BTreeSet::from(["helga".to_owned()]);
    Roles(Some(BTreeMap::from([("support".to_owned(), members)])))
}

fn read_text(text: &str) -> Result<Maps, Vec<ConfigError>> {
    let file = OneFile(text.to_owned());
    read(Path::new("/etc/ident.conf"), &roles(), &file)
}

fn allows(text: &str, system_user: &str, user: &str) -> bool {
    let maps = read_text(text).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"));
    maps.allows(Some("m"), user, system_user, &roles())
}

/// The example of PostgreSQL's documentation (20.2, "User Name Maps").
#[test]
fn the_example_of_postgresqls_documentation_says_what_it_says_there() {
    let text = "# MAPNAME  SYSTEM-USERNAME  PG-USERNAME\n\nm  bryanh  bryanh\nm  ann  ann\n\
                # bob has user name robert on these machines\nm  robert  bob\n# bryanh can also connect as guest1\nm  bryanh  guest1\n";
    for (system, user, expected) in [
        ("bryanh", "bryanh", true),
        ("bryanh", "guest1", true),
        ("robert", "bob", true),
        ("robert", "robert", false),
        ("ann", "bob", false),
        ("bryanh", "ann", false),
    ] {
        assert_eq!(allows(text, system, user), expected, "{system} as {user}");
    }
}

/// The documentation's second example: a domain is removed, another one logs in as guest.
#[test]
fn an_expression_hands_on_what_its_group_took() {
    let text = "m /^(.*)@mydomain\\.com$ \\1\nm /^(.*)@otherdomain\\.com$ guest\n";
    assert!(allows(text, "joe@mydomain.com", "joe"));
    assert!(!allows(text, "joe@mydomain.com", "ann"));
    assert!(!allows(text, "joe@mydomainxcom", "joe"));
    assert!(allows(text, "joe@otherdomain.com", "guest"));
    assert!(!allows(text, "joe@otherdomain.com", "joe"));
    let text = "m /^x-(.*)$ pre-\\1-post-\\1\n";
    assert!(
        allows(text, "x-a", "pre-a-post-\\1"),
        "only the first is replaced, as in PostgreSQL"
    );
    assert!(!allows(text, "x-a", "pre-a-post-a"));
}

/// What a group took is a name, even if it looks like a word with a meaning: a user called "all" must not become everybody.
#[test]
fn what_a_group_took_is_never_more_than_a_name() {
    let text = "m /^(.*)$ \\1\n";
    for name in ["all", "+support", "/.*"] {
        assert!(allows(text, name, name));
        assert!(!allows(text, name, "helga"), "{name}");
    }
    assert!(
        !allows("m /^(a)?b$ \\1\n", "b", "helga"),
        "a group that took nothing is nobody"
    );
}

#[test]
fn users_of_the_database_may_be_all_members_or_an_expression() {
    assert!(allows("m root all\n", "root", "anybody"));
    assert!(!allows("m root \"all\"\n", "root", "anybody"));
    assert!(allows("m root +support\n", "root", "helga"));
    assert!(!allows("m root \"+support\"\n", "root", "helga"));
    assert!(allows("m root /^app_\n", "root", "app_1"));
    assert!(!allows("m root /^app_\n", "root", "my_app_1"));
    assert!(!allows("m root all\n", "rooted", "anybody"));
}

#[test]
fn without_a_map_the_names_must_be_the_same_and_an_unknown_map_lets_nobody_in() {
    let maps = Maps::default();
    assert!(maps.allows(None, "ann", "ann", &roles()));
    assert!(!maps.allows(None, "ann", "bob", &roles()));
    assert!(!maps.allows(Some("m"), "ann", "ann", &roles()));
    let maps = read_text("m ann ann\n").expect("a map");
    assert!(maps.has("m") && !maps.has("n"));
    assert!(!maps.allows(Some("n"), "ann", "ann", &roles()));
}

#[test]
fn every_bad_line_is_told_with_its_file_and_line() {
    let errors =
        read_text("m a\nm a,b c\nm a b c\nm /( x\nm /x \\1\nm a +nobody\ninclude more\nm \"a b\n")
            .expect_err("broken");
    let mut lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.sort();
    for (at, expected) in [
        "missing entry at end of line",
        "multiple values in ident field",
        "more than a map",
        "invalid regular expression \"(\"",
        "has no subexpressions as requested by backreference in \"\\1\"",
        "nothing is known of the members of role \"nobody\"",
        "/etc/more: cannot be read",
        "a quote is not closed",
    ]
    .iter()
    .enumerate()
    {
        let place = format!("/etc/ident.conf:{}: ", at + 1);
        assert!(
            lines[at].starts_with(&place) && lines[at].contains(expected),
            "{lines:?}"
        );
    }
}
