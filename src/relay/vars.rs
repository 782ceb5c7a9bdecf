//! The parameters that a server reports (ParameterStatus), as it spells them, and the query that sets them.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::limits;
use crate::wire::backend;

/// Names and values in the order in which they were first reported. Names compare without case, as PostgreSQL's do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vars(Vec<(Text, Text)>);

type Text = Box<[u8]>;

/// Parameters to be set on a server, in this order, as they were given.
pub type Settings = Vec<(Vec<u8>, Vec<u8>)>;

/// Reported, but not to be set from one session to the next: facts of the server, and who the session is.
const FIXED: [&str; 6] = [
    "server_version",
    "server_encoding",
    "integer_datetimes",
    "in_hot_standby",
    "is_superuser",
    "session_authorization",
];

/// Whether a parameter is a fact that no session changes.
pub fn is_fixed(name: &[u8]) -> bool {
    FIXED
        .iter()
        .any(|fixed| fixed.as_bytes().eq_ignore_ascii_case(name))
}

impl Vars {
    /// Notes the body of a ParameterStatus. `false`: it is broken, or there are too many.
    pub fn report(&mut self, body: &[u8]) -> bool {
        let Some((name, value)) = backend::parameter_status(body) else {
            return false;
        };
        if let Some((_, old)) = self
            .0
            .iter_mut()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
        {
            if **old != *value {
                *old = value.into();
            }
            return true;
        }
        if self.0.len() >= limits::PARAMETERS_MAX {
            return false;
        }
        self.0.push((name.into(), value.into()));
        true
    }

    /// The same for one that others may look at: it is copied only if the report says something new.
    pub fn report_shared(vars: &mut Rc<Vars>, body: &[u8]) -> bool {
        match backend::parameter_status(body) {
            Some((name, value)) if vars.get(name) == Some(value) => true,
            _ => Rc::make_mut(vars).report(body),
        }
    }

    /// Whether two have the same values. Both hold the same copy of them then, the one that more hold: soon there is only one,
    /// and nothing has to be compared any more.
    pub fn agree(one: &mut Rc<Vars>, other: &mut Rc<Vars>) -> bool {
        if Rc::ptr_eq(one, other) {
            return true;
        }
        if one != other {
            return false;
        }
        if Rc::strong_count(one) > Rc::strong_count(other) {
            *other = one.clone();
        } else {
            *one = other.clone();
        }
        true
    }

    /// The query that brings a server from these values to others; `None`: they agree in all that can be set.
    pub fn bring_to(&self, wanted: &Vars) -> Option<Vec<u8>> {
        let differs = |&(name, value): &(&[u8], &[u8])| {
            !is_fixed(name) && self.get(name).is_some_and(|has| has != value)
        };
        let encoding = wanted.get(b"client_encoding").unwrap_or(b"UTF8");
        set(wanted.iter().filter(differs), encoding)
    }

    /// Whether the reports of who the session is agree. PostgreSQL does not report `role`; where a superuser takes one that is
    /// none, `is_superuser` tells.
    pub fn is_same_user(&self, other: &Vars) -> bool {
        [&b"session_authorization"[..], b"is_superuser"]
            .iter()
            .all(|name| self.get(name) == other.get(name))
    }

    /// The value of a parameter.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
    }

    /// Whether these, in lower case, are the names of all of them.
    pub fn are_named(&self, names: &BTreeSet<Vec<u8>>) -> bool {
        let is_known = |(name, _): (&[u8], &[u8])| names.contains(&name.to_ascii_lowercase());
        self.0.len() == names.len() && self.iter().all(is_known)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// The query that sets parameters, one after the other, all or none. `encoding`: that of the values.
pub fn set<'a>(
    settings: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    encoding: &[u8],
) -> Option<Vec<u8>> {
    let mut sql = Vec::new();
    for (name, value) in settings {
        sql.extend_from_slice(if sql.is_empty() { b"SELECT " } else { b", " });
        sql.extend_from_slice(b"pg_catalog.set_config(");
        literal(&mut sql, name);
        sql.extend_from_slice(b", ");
        if value.is_ascii() {
            literal(&mut sql, value);
        } else {
            foreign(&mut sql, value, encoding);
        }
        sql.extend_from_slice(b", false)");
    }
    (!sql.is_empty()).then_some(sql)
}

/// A text that means the same whatever the session's client_encoding is. In some encodings a backslash is part of a character.
fn foreign(sql: &mut Vec<u8>, text: &[u8], encoding: &[u8]) {
    sql.extend_from_slice(b"pg_catalog.convert_from(pg_catalog.decode('");
    for byte in text {
        sql.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    sql.extend_from_slice(b"', 'hex'), ");
    literal(sql, encoding);
    sql.push(b')');
}

/// A literal that means the same whatever standard_conforming_strings says.
fn literal(sql: &mut Vec<u8>, text: &[u8]) {
    sql.extend_from_slice(b"E'");
    for &byte in text {
        if matches!(byte, b'\'' | b'\\') {
            sql.push(byte);
        }
        sql.push(byte);
    }
    sql.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_and_case_does_not() {
        let mut vars = Vars::default();
        assert!(vars.report(b"DateStyle\0ISO, MDY\0"));
        assert!(vars.report(b"datestyle\0SQL, DMY\0"));
        assert_eq!(
            vars.iter().collect::<Vec<_>>(),
            [(&b"DateStyle"[..], &b"SQL, DMY"[..])]
        );
    }

    #[test]
    fn a_server_is_brought_to_what_differs_and_can_be_set() {
        let vars = |pairs: &[(&str, &str)]| {
            let mut vars = Vars::default();
            for (name, value) in pairs {
                assert!(vars.report(format!("{name}\0{value}\0").as_bytes()));
            }
            vars
        };
        let has = vars(&[
            ("TimeZone", "UTC"),
            ("DateStyle", "ISO"),
            ("is_superuser", "on"),
        ]);
        let sql = |wanted: &[(&str, &str)]| {
            let sql = has.bring_to(&vars(wanted));
            sql.map(|sql| String::from_utf8_lossy(&sql).into_owned())
        };
        assert_eq!(sql(&[("TimeZone", "UTC"), ("is_superuser", "off")]), None);
        assert_eq!(
            sql(&[("timezone", "it's\\"), ("DateStyle", "ISO")]).as_deref(),
            Some("SELECT pg_catalog.set_config(E'timezone', E'it''s\\\\', false)")
        );
        assert_eq!(
            sql(&[("TimeZone", "\u{e9}"), ("client_encoding", "SJIS")]).as_deref(),
            Some(
                "SELECT pg_catalog.set_config(E'TimeZone', \
                 pg_catalog.convert_from(pg_catalog.decode('c3a9', 'hex'), E'SJIS'), false)"
            )
        );
    }

    /// Found by counting instructions with 16 clients: pairs only ever changed copies, and all values were compared for ever.
    #[test]
    fn whoever_agrees_comes_to_hold_one_copy() {
        let vars = |value: &str| {
            let mut vars = Vars::default();
            assert!(vars.report(format!("TimeZone\0{value}\0").as_bytes()));
            Rc::new(vars)
        };
        let (mut clients, mut servers) = ([0; 8].map(|_| vars("UTC")), [0; 5].map(|_| vars("UTC")));
        let mut other = vars("CET");
        for n in 0..40 {
            let (client, server) = (&mut clients[n % 8], &mut servers[n * 7 % 5]);
            assert!(Vars::agree(client, server));
            assert!(Rc::ptr_eq(client, server));
            assert!(!Vars::agree(client, &mut other));
        }
        let all = || clients.iter().chain(&servers);
        assert!(all().all(|vars| Rc::ptr_eq(vars, &clients[0])));
        assert_eq!(Rc::strong_count(&clients[0]), 13);
        assert_eq!(other.get(b"timezone"), Some(&b"CET"[..]));
    }

    /// R22: a flood of reports is bounded.
    #[test]
    fn broken_and_too_many_reports_are_not_taken() {
        let mut vars = Vars::default();
        assert!(!vars.report(b"x"));
        assert!(!vars.report(b""));
        for n in 0..limits::PARAMETERS_MAX {
            assert!(vars.report(format!("p{n}\0v\0").as_bytes()));
        }
        assert!(!vars.report(b"one more\0v\0"));
    }
}
