//! The parameters that a server reports (ParameterStatus), as it spells them.

use std::rc::Rc;

use crate::limits;
use crate::wire::backend;

/// Names and values in the order in which they were first reported. Names compare without case, as PostgreSQL's do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vars(Vec<(Text, Text)>);

type Text = Box<[u8]>;

/// Reported, but not to be set from one session to the next: facts of the server, and who the session is.
const FIXED: [&str; 7] = [
    "server_version",
    "server_encoding",
    "integer_datetimes",
    "in_hot_standby",
    "is_superuser",
    "session_authorization",
    "scram_iterations",
];

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

    /// The query that brings a server from these values to others; `None`: they agree in all that can be set.
    pub fn bring_to(&self, wanted: &Vars) -> Option<Vec<u8>> {
        let mut sql = Vec::new();
        for (name, value) in wanted.iter() {
            let fixed = FIXED
                .iter()
                .any(|fixed| fixed.as_bytes().eq_ignore_ascii_case(name));
            if fixed || self.get(name).is_none_or(|has| has == value) {
                continue;
            }
            sql.extend_from_slice(if sql.is_empty() { b"SELECT " } else { b", " });
            sql.extend_from_slice(b"pg_catalog.set_config(");
            literal(&mut sql, name);
            sql.extend_from_slice(b", ");
            literal(&mut sql, value);
            sql.extend_from_slice(b", false)");
        }
        (!sql.is_empty()).then_some(sql)
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

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
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
