//! Trying the settings of a client that logs in on a server of its kind: does the server take them, and how does it spell
//! them?
//!
//! A cold, pure machine over the messages of a server that no client holds. The settings build on what the server was started
//! with, as they would in a session of the client's own, so that comes first if others have changed it.

use std::rc::Rc;

use crate::relay::vars::{self, Settings, Vars};
use crate::wire::frame::printable;
use crate::wire::frontend;
use crate::wire::refusal::{Blame, Refusal, Severity};

/// Settings under way.
#[derive(Debug)]
pub struct Tuning {
    /// What is tried.
    pub settings: Rc<Settings>,
    /// ReadyForQuery messages still to come.
    ready: usize,
    /// The query in progress has been answered: well, or with this error.
    answer: Option<Result<(), Refusal>>,
}

/// What an answer leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More answers are to come.
    More,
    /// The server has taken them, and has reported what they are now.
    Taken,
    /// It has not, for this reason, and is as it was started.
    Refused(Refusal),
    /// The server is not fit for use; why.
    Unfit(String),
}

impl Tuning {
    /// Appends the queries for a server that now reports `has`, and was started with `base`.
    pub fn begin(has: &Vars, base: &Vars, settings: Rc<Settings>, out: &mut Vec<u8>) -> Tuning {
        let given = settings.iter().map(|(name, value)| (&name[..], &value[..]));
        let queries = [has.bring_to(base), vars::set(given, b"UTF8")];
        let mut ready = 0;
        for sql in queries.into_iter().flatten() {
            frontend::query(out, &sql);
            ready += 1;
        }
        Tuning {
            settings,
            ready,
            answer: None,
        }
    }

    /// Looks at one message. ParameterStatus is noted elsewhere; notices and notifications mean nothing here.
    pub fn step(&mut self, tag: u8, body: &[u8]) -> Verdict {
        match tag {
            b'Z' => return self.ready(body),
            b'E' => {
                let refusal = Refusal::read(body, Blame::Server);
                if self.ready > 1 || refusal.severity == Severity::Fatal {
                    return Verdict::Unfit(refusal.text());
                }
                self.answer = Some(Err(refusal));
            }
            b'C' => self.answer = Some(Ok(())),
            b'T' | b'D' | b'S' | b'N' | b'A' => {}
            other => {
                let other = printable(&[other]);
                return Verdict::Unfit(format!("an unexpected message of type \"{other}\""));
            }
        }
        Verdict::More
    }

    fn ready(&mut self, body: &[u8]) -> Verdict {
        self.ready = self.ready.saturating_sub(1);
        match self.answer.take() {
            None => {
                Verdict::Unfit("it was ready for a query before it had answered one".to_owned())
            }
            Some(_) if body != b"I" => {
                Verdict::Unfit("the server is still in a transaction".to_owned())
            }
            Some(Ok(())) if self.ready > 0 => Verdict::More,
            Some(Ok(())) => Verdict::Taken,
            Some(Err(refusal)) => Verdict::Refused(refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &[u8] = b"SERROR\0VERROR\0C22023\0Mno\0\0";

    fn begin(has: &str, base: &str) -> (Tuning, String) {
        let vars = |zone: &str| {
            let mut vars = Vars::default();
            assert!(vars.report(format!("TimeZone\0{zone}\0").as_bytes()));
            vars
        };
        let settings = Rc::new(vec![(b"DateStyle".to_vec(), b"DMY".to_vec())]);
        let mut out = Vec::new();
        let tuning = Tuning::begin(&vars(has), &vars(base), settings, &mut out);
        (tuning, String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn what_others_have_changed_is_put_back_first() {
        let (mut tuning, sent) = begin("UTC", "UTC");
        assert_eq!(sent.matches("set_config").count(), 1);
        assert_eq!(tuning.step(b'C', b"SELECT 1\0"), Verdict::More);
        assert_eq!(tuning.step(b'Z', b"I"), Verdict::Taken);

        let (mut tuning, sent) = begin("CET", "UTC");
        let (zone, style) = (sent.find("E'UTC'"), sent.find("E'DMY'"));
        assert!(zone.is_some() && zone < style, "{sent}");
        for (tag, body) in [(b'C', &b"SELECT 1\0"[..]), (b'Z', b"I"), (b'E', ERROR)] {
            assert_eq!(tuning.step(tag, body), Verdict::More);
        }
        assert!(matches!(tuning.step(b'Z', b"I"), Verdict::Refused(no) if no.code() == "22023"));
    }

    #[test]
    fn a_server_that_says_anything_else_is_not_fit() {
        let fatal = &b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0"[..];
        for (tag, body) in [(b'Z', &b"I"[..]), (b'E', fatal), (b'1', b""), (b'G', b"")] {
            let verdict = begin("UTC", "UTC").0.step(tag, body);
            assert!(matches!(verdict, Verdict::Unfit(_)), "{}", char::from(tag));
        }
        let verdict = begin("CET", "UTC").0.step(b'E', ERROR);
        assert!(
            matches!(verdict, Verdict::Unfit(_)),
            "it cannot be put back"
        );
        let mut tuning = begin("UTC", "UTC").0;
        assert_eq!(tuning.step(b'C', b"SELECT 1\0"), Verdict::More);
        assert!(matches!(tuning.step(b'Z', b"T"), Verdict::Unfit(_)));
    }
}
