//! What a client's startup packet asks for, taken apart: what a server must have been started with ([`Kind`]), and what can be
//! set on any server and is reported back ([`Settings`]).
//!
//! Reads `options` as PostgreSQL does (`pg_split_opts`, `process_postgres_switches`). Whatever it does not understand stays in
//! the kind, untouched: then the server that is started with it says what it has to say.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::Kind;
use crate::config::Backend;
use crate::limits;
use crate::relay::Settings;
use crate::relay::vars::is_fixed;
use crate::wire::refusal::Refusal;

/// What PostgreSQL reports that a session can change; search_path is among it from version 18 on.
pub const REPORTED: [&str; 7] = [
    "application_name",
    "client_encoding",
    "datestyle",
    "default_transaction_read_only",
    "intervalstyle",
    "standard_conforming_strings",
    "timezone",
];

/// Who asks, and with which parameters.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The role that logged in.
    pub user: &'a str,
    /// The database asked for.
    pub database: &'a str,
    /// Startup parameters as given, in their order, without user and database.
    pub parameters: &'a [(&'a [u8], &'a [u8])],
}

/// The kind of a client that has its server for itself: all of its parameters are in it.
///
/// # Errors
/// They are too long together with those of the pool.
pub fn whole(backend: &Backend, asked: Asked<'_>) -> Result<Kind, Refusal> {
    kind_of(backend, asked, asked.parameters)
}

/// Whether what is asked for is a replication connection, as its [whole kind](whole) would be.
pub fn is_for_replication(backend: &Backend, asked: Asked<'_>) -> bool {
    let mut own = backend.parameters.iter();
    let mut given = asked.parameters.iter().rev();
    let given = given.find(|(name, _)| *name == b"replication");
    given.is_some_and(|(_, value)| !is_false(value)) || own.any(|(name, _)| name == "replication")
}

/// The kind of a client that shares its servers, and what is set on them for it. `reported`: names in lower case.
///
/// # Errors
/// As for [`whole`].
pub fn shared(
    backend: &Backend,
    asked: Asked<'_>,
    reported: &BTreeSet<Vec<u8>>,
) -> Result<(Kind, Settings), Refusal> {
    // PostgreSQL applies the options first, then the parameters in their order. The last options win, whole.
    let options = asked
        .parameters
        .iter()
        .rev()
        .find(|(name, _)| is_options(name));
    let options = options.map_or(Some(Settings::new()), |(_, text)| read_options(text));
    let others = asked
        .parameters
        .iter()
        .filter(|(name, _)| !is_options(name));
    let in_options = options
        .iter()
        .flatten()
        .map(|(name, value)| (&name[..], &value[..]));
    let all: Vec<(&[u8], &[u8])> = in_options.chain(others.copied()).collect();
    // Whatever the server's encoding at hand would make of other bytes, it is not what it makes of them at startup.
    let foreign: BTreeSet<Vec<u8>> = all
        .iter()
        .filter(|(name, value)| !(name.is_ascii() && value.is_ascii()))
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect();
    let is_setting = |name: &[u8]| {
        let name = name.to_ascii_lowercase();
        reported.contains(&name) && !is_fixed(&name) && !foreign.contains(&name)
    };
    let settings = all.iter().filter(|(name, _)| is_setting(name));
    let settings = settings
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect();

    let left = options.map(|all| write_options(all.iter().filter(|(name, _)| !is_setting(name))));
    let mut parameters = Vec::new();
    for &(name, value) in asked.parameters {
        match &left {
            Some(left) if is_options(name) && left.is_empty() => {}
            Some(left) if is_options(name) => parameters.push((name, &left[..])),
            _ if is_setting(name) => {}
            _ => parameters.push((name, value)),
        }
    }
    Ok((kind_of(backend, asked, &parameters)?, settings))
}

/// A client's startup parameters without those that count for nothing (`ignore_startup_parameters`). With `options` among these, of
/// the options those stay that servers report, as in PgBouncer. Who replicates has all of its parameters.
pub fn heeded<'a>(
    parameters: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ignored: &[String],
    reported: &BTreeSet<Vec<u8>>,
) -> Vec<(&'a [u8], Cow<'a, [u8]>)> {
    let all: Vec<(&[u8], &[u8])> = parameters.collect();
    let whole = ignored.is_empty() || all.iter().any(|(name, _)| *name == b"replication");
    let ignores = |name: &[u8]| {
        let mut ignored = ignored.iter();
        !whole && ignored.any(|one| one.as_bytes().eq_ignore_ascii_case(name))
    };
    let kept = all.into_iter().filter_map(|(name, value)| {
        if is_options(name) && !whole {
            let settings = read_options(value);
            let Some(settings) = settings else {
                return (!ignores(name)).then_some((name, Cow::Borrowed(value)));
            };
            let is_kept = |setting: &[u8]| {
                let lower = setting.to_ascii_lowercase();
                !ignores(setting) && (!ignores(name) || reported.contains(&lower))
            };
            let kept = settings.iter().filter(|(setting, _)| is_kept(setting));
            let text = write_options(kept);
            return (!text.is_empty()).then_some((name, Cow::Owned(text)));
        }
        (!ignores(name)).then_some((name, Cow::Borrowed(value)))
    });
    kept.collect()
}

fn is_options(name: &[u8]) -> bool {
    name == b"options"
}

/// The settings in a text of `options`; `None`: there is something else in it.
fn read_options(text: &[u8]) -> Option<Settings> {
    let mut settings = Settings::new();
    let mut words = split(text).into_iter();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix(b"-")? {
            b"c" => words.next()?,
            rest => rest
                .strip_prefix(b"-")
                .or(rest.strip_prefix(b"c"))?
                .to_vec(),
        };
        let equals = setting.iter().position(|&byte| byte == b'=')?;
        let (name, value) = setting.split_at_checked(equals)?;
        let dash = |&byte: &u8| if byte == b'-' { b'_' } else { byte };
        let name: Vec<u8> = name.iter().map(dash).collect();
        if name.is_empty() {
            return None;
        }
        settings.push((name, value.get(1..)?.to_vec()));
    }
    Some(settings)
}

/// The words of a text of `options`: a backslash takes the next byte as it is.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut word, mut escaped) = (Vec::new(), None::<Vec<u8>>, false);
    for &byte in text {
        if !escaped && is_space(byte) {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        if !escaped && byte == b'\\' {
            escaped = true;
        } else {
            escaped = false;
            word.push(byte);
        }
    }
    words.extend(word);
    words
}

fn write_options<'a>(settings: impl Iterator<Item = &'a (Vec<u8>, Vec<u8>)>) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in settings {
        text.extend_from_slice(if text.is_empty() { b"-c " } else { b" -c " });
        for &byte in [name, &b"="[..], value].concat().iter() {
            if is_space(byte) || byte == b'\\' {
                text.push(b'\\');
            }
            text.push(byte);
        }
    }
    text
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    byte == b' ' || (b'\t'..=b'\r').contains(&byte)
}

fn kind_of(backend: &Backend, asked: Asked<'_>, given: &[(&[u8], &[u8])]) -> Result<Kind, Refusal> {
    let text = |text: &str| text.as_bytes().to_vec();
    let mut parameters: BTreeMap<Vec<u8>, Vec<u8>> = backend
        .parameters
        .iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    let given: BTreeMap<Vec<u8>, &[u8]> = given
        .iter()
        .map(|(name, value)| (parameter_name(name), *value))
        .collect();
    for (name, value) in given {
        match (parameters.get_mut(&name), &name[..]) {
            (Some(options), b"options") => {
                options.push(b' ');
                options.extend_from_slice(value);
            }
            (_, b"replication") if is_false(value) => {}
            _ => {
                parameters.insert(name, value.to_vec());
            }
        }
    }
    let kind = Kind {
        user: text(backend.user.as_deref().unwrap_or(asked.user)),
        database: text(backend.database.as_deref().unwrap_or(asked.database)),
        parameters: parameters.into_iter().collect(),
    };
    let length: usize = kind
        .parameters
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    // Length word, version, the ends of two names and two values, and the last one.
    let frame = 4 + 4 + "user".len() + "database".len() + 4 + 1;
    if length + kind.user.len() + kind.database.len() + frame > limits::STARTUP_PACKET_MAX {
        return Err(Refusal::protocol(
            "the startup parameters are too long together with those of the pool",
        ));
    }
    Ok(kind)
}

/// A startup parameter's name in the form in which kinds compare. Settings have names without case; those that mean something
/// in the packet itself do not, so that `User` is no way to another role: the server does not know such a setting and says so.
fn parameter_name(name: &[u8]) -> Vec<u8> {
    let lower = name.to_ascii_lowercase();
    match &lower[..] {
        b"user" | b"database" | b"options" | b"replication" => name.to_vec(),
        _ if lower.starts_with(b"_pq_.") => name.to_vec(),
        _ => lower,
    }
}

/// PostgreSQL's `parse_bool`, as far as the values for "no" go.
fn is_false(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    let prefix = |word: &[u8], least: usize| value.len() >= least && word.starts_with(&value);
    value == b"0" || prefix(b"false", 1) || prefix(b"no", 1) || prefix(b"off", 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_does_not_count_in_options_neither() {
        let reported: BTreeSet<Vec<u8>> = REPORTED
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let kept = |ignored: &[&str], packet: &[(&str, &str)]| -> Vec<(String, String)> {
            let ignored: Vec<String> = ignored.iter().map(|name| name.to_string()).collect();
            let packet = packet
                .iter()
                .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            let kept = heeded(packet, &ignored, &reported).into_iter();
            kept.map(|(name, value)| {
                (
                    String::from_utf8_lossy(name).into_owned(),
                    String::from_utf8_lossy(&value).into_owned(),
                )
            })
            .collect()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let packet = [
            ("Extra_Float_Digits", "3"),
            ("application_name", ""),
            (
                "options",
                "-c geqo=off --TimeZone=CET -cextra_float_digits=2",
            ),
        ];
        assert_eq!(kept(&[], &packet).len(), 3);
        assert_eq!(kept(&[], &packet)[2].1, packet[2].1, "untouched");
        assert_eq!(
            kept(&["extra_float_digits"], &packet),
            [
                pair("application_name", ""),
                pair("options", "-c geqo=off -c TimeZone=CET")
            ]
        );
        assert_eq!(
            kept(&["extra_float_digits", "options"], &packet),
            [
                pair("application_name", ""),
                pair("options", "-c TimeZone=CET")
            ]
        );
        assert_eq!(kept(&["options"], &[("options", "-c geqo=off")]), []);
        assert_eq!(kept(&["options"], &[("options", "-B 5")]), []);
        let replicates = [
            ("replication", "true"),
            ("geqo", "off"),
            ("options", "-c geqo=on"),
        ];
        assert_eq!(kept(&["geqo", "options"], &replicates).len(), 3);
    }

    type Pairs = Vec<(String, String)>;

    /// A backend with parameters of its own.
    fn backend(own: &[(&str, &str)]) -> Backend {
        let text = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        Backend {
            hosts: Vec::new(),
            database: None,
            user: None,
            password: None,
            parameters: own.iter().map(text).collect(),
            tls: None,
            tls_words: Default::default(),
            demands: Default::default(),
        }
    }

    #[test]
    fn replication_is_known_before_the_kind_is_made() {
        let given: [&[(&[u8], &[u8])]; 7] = [
            &[],
            &[(b"replication", b"database")],
            &[(b"replication", b"off")],
            &[(b"replication", b"on"), (b"replication", b"no")],
            &[(b"replication", b"0"), (b"replication", b"1")],
            &[(b"Replication", b"on")],
            &[(b"replication", b"")],
        ];
        let own: [&[(&str, &str)]; 2] = [&[], &[("replication", "true")]];
        let mut seen = Vec::new();
        for backend in own.map(backend) {
            for parameters in given {
                let asked = Asked {
                    user: "me",
                    database: "db",
                    parameters,
                };
                let found = is_for_replication(&backend, asked);
                let kind = whole(&backend, asked).expect("short");
                assert_eq!(found, kind.is_replication(), "{parameters:?}");
                seen.push(found);
            }
        }
        let (without, with) = seen.split_at(given.len());
        assert_eq!(without, [false, true, false, false, true, false, true]);
        assert_eq!(with, [true; 7]);
    }

    /// The kind's parameters and the settings of a packet with these parameters.
    fn taken(own: &[(&str, &str)], packet: &[(&str, &[u8])]) -> (Pairs, Pairs) {
        let backend = backend(own);
        let parameters: Vec<(&[u8], &[u8])> = packet
            .iter()
            .map(|(name, value)| (name.as_bytes(), *value))
            .collect();
        let asked = Asked {
            user: "me",
            database: "db",
            parameters: &parameters,
        };
        let reported = REPORTED
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let (kind, settings) = shared(&backend, asked, &reported).expect("short");
        let lossy = |pairs: Settings| {
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            pairs
                .into_iter()
                .map(|(name, value)| (text(name), text(value)))
                .collect()
        };
        (lossy(kind.parameters), lossy(settings))
    }

    fn pairs(pairs: &[(&str, &str)]) -> Pairs {
        pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn what_is_reported_is_set_and_the_rest_stays_in_the_kind() {
        let packet: [(&str, &[u8]); 5] = [
            ("TimeZone", b"CET"),
            ("extra_float_digits", b"3"),
            (
                "options",
                b"-c statement_timeout=5 --DATE-STYLE=x --DateStyle=German -csearch_path=a\\ b,c",
            ),
            ("application_name", b"it"),
            ("is_superuser", b"on"),
        ];
        let (kind, settings) = taken(&[], &packet);
        let options = "-c statement_timeout=5 -c DATE_STYLE=x -c search_path=a\\ b,c";
        let left = [
            ("extra_float_digits", "3"),
            ("is_superuser", "on"),
            ("options", options),
        ];
        assert_eq!(kind, pairs(&left));
        let set = [
            ("DateStyle", "German"),
            ("TimeZone", "CET"),
            ("application_name", "it"),
        ];
        assert_eq!(settings, pairs(&set), "the options come first");
        let (kind, _) = taken(&[], &[("options", b"-c TimeZone=CET")]);
        assert_eq!(kind, []);
    }

    #[test]
    fn what_the_pool_itself_gives_stays_and_the_clients_comes_after_it() {
        let own = [("application_name", "pool"), ("options", "-c work_mem=1MB")];
        let packet: [(&str, &[u8]); 2] = [
            ("application_name", b"mine"),
            ("options", b"-c geqo=off -c timezone=CET"),
        ];
        let (kind, settings) = taken(&own, &packet);
        let left = [
            ("application_name", "pool"),
            ("options", "-c work_mem=1MB -c geqo=off"),
        ];
        assert_eq!(kind, pairs(&left));
        assert_eq!(
            settings,
            pairs(&[("timezone", "CET"), ("application_name", "mine")])
        );
    }

    /// R9: what is not understood is not dropped, and not guessed at.
    #[test]
    fn options_of_another_form_stay_as_they_are() {
        for text in [
            "-e",
            "-c",
            "-c TimeZone",
            "-c =x",
            "--",
            "--TimeZone",
            "x",
            "-",
            "-d 5",
            "-c a=b x",
            "\\",
            "-c TimeZone=CET -B 5",
        ] {
            let (kind, settings) = taken(&[], &[("options", text.as_bytes())]);
            assert_eq!(
                (kind, settings),
                (pairs(&[("options", text)]), pairs(&[])),
                "{text:?}"
            );
        }
    }

    /// A name is either set or in the kind, wherever it stands: else the order in which it is given would be another one.
    #[test]
    fn a_value_that_is_not_ascii_keeps_all_values_of_its_name_in_the_kind() {
        let packet: [(&str, &[u8]); 2] = [
            ("options", b"-c Application_Name=x -c TimeZone=CET"),
            ("application_name", "B\u{fc}ro".as_bytes()),
        ];
        let (kind, settings) = taken(&[], &packet);
        let left = [
            ("application_name", "B\u{fc}ro"),
            ("options", "-c Application_Name=x"),
        ];
        assert_eq!(kind, pairs(&left));
        assert_eq!(settings, pairs(&[("TimeZone", "CET")]));
    }

    /// Whatever a client writes, what is left is read as it was meant.
    #[test]
    fn what_is_left_of_options_is_read_again_as_the_same() {
        let mut state = 1u32;
        for _ in 0..20_000 {
            let mut text = b"-c a=".to_vec();
            for _ in 0..12 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let alphabet = b"-c= \\\t\x0bab\xc3-\n";
                text.push(alphabet[(state >> 16) as usize % alphabet.len()]);
            }
            if let Some(settings) = read_options(&text) {
                assert_eq!(
                    read_options(&write_options(settings.iter())),
                    Some(settings)
                );
            }
        }
    }
}
