//! The parameters that a server reports (ParameterStatus), as it spells them.

use crate::limits;
use crate::wire::backend;

/// Names and values in the order in which they were first reported. Names compare without case, as PostgreSQL's do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vars(Vec<(Text, Text)>);

type Text = Box<[u8]>;

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
