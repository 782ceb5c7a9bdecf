//! Making a server fit for its next client, or finding out that it is not: rollback and reset query, or the check query.
//!
//! A cold, pure machine over the messages of a server that no client holds.

use crate::wire::backend::TransactionStatus;
use crate::wire::frame::printable;
use crate::wire::frontend;
use crate::wire::refusal::{Blame, Refusal};

/// Leaves the role `none`, also where the startup packet, ALTER ROLE or ALTER DATABASE say otherwise: that takes RESET ROLE.
pub const DISCARD_ALL: &str = "DISCARD ALL";

/// Queries under way whose answers are nobody's but ours.
#[derive(Debug)]
pub struct Reset {
    /// ReadyForQuery messages still to come.
    ready: usize,
    /// The query in progress has said what it did. A ReadyForQuery without that is the answer to something else.
    complete: bool,
}

/// What an answer leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// More answers are to come.
    More,
    /// All is well: the server is idle, outside of a transaction.
    Done,
    /// The server is not fit for use; why.
    Unfit(String),
}

impl Reset {
    /// Appends what a released server has to run: a rollback if a transaction is open, then the reset query. `None`: there is
    /// nothing to run.
    pub fn release(
        status: TransactionStatus,
        reset_query: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Option<Reset> {
        let mut ready = 0;
        if status != TransactionStatus::Idle {
            frontend::query(out, b"ROLLBACK");
            ready += 1;
        }
        if let Some(sql) = reset_query {
            frontend::query(out, sql.as_bytes());
            ready += 1;
            if sql.eq_ignore_ascii_case(DISCARD_ALL) {
                frontend::query(out, b"RESET ROLE");
                ready += 1;
            }
        }
        (ready > 0).then_some(Reset {
            ready,
            complete: false,
        })
    }

    /// Appends the check query.
    pub fn check(check_query: &str, out: &mut Vec<u8>) -> Reset {
        frontend::query(out, check_query.as_bytes());
        Reset {
            ready: 1,
            complete: false,
        }
    }

    /// Looks at one message. ParameterStatus, notices and notifications mean nothing here.
    pub fn step(&mut self, tag: u8, body: &[u8]) -> Outcome {
        match tag {
            b'Z' => self.ready(body),
            b'E' => Outcome::Unfit(Refusal::read(body, Blame::Server).text()),
            b'C' | b'I' => {
                self.complete = true;
                Outcome::More
            }
            b'T' | b'D' | b'S' | b'N' | b'A' => Outcome::More,
            other => Outcome::Unfit(format!(
                "an unexpected message of type \"{}\"",
                printable(&[other])
            )),
        }
    }

    fn ready(&mut self, body: &[u8]) -> Outcome {
        if !std::mem::take(&mut self.complete) {
            return Outcome::Unfit(
                "it was ready for a query before it had answered one".to_owned(),
            );
        }
        self.ready -= 1;
        match (self.ready, body) {
            (0, b"I") => Outcome::Done,
            (0, _) => Outcome::Unfit("the server is still in a transaction".to_owned()),
            _ => Outcome::More,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_transaction_is_rolled_back_before_the_reset_query() {
        let mut out = Vec::new();
        let mut reset = Reset::release(TransactionStatus::Failed, Some("DISCARD ALL"), &mut out)
            .expect("something to run");
        assert_eq!(
            out,
            b"Q\0\0\0\x0dROLLBACK\0Q\0\0\0\x10DISCARD ALL\0Q\0\0\0\x0fRESET ROLE\0"
        );
        let steps: [(u8, &[u8]); 6] = [
            (b'C', b"ROLLBACK\0"),
            (b'Z', b"I"),
            (b'S', b"TimeZone\0UTC\0"),
            (b'C', b"DISCARD ALL\0"),
            (b'Z', b"I"),
            (b'C', b"RESET\0"),
        ];
        for (tag, body) in steps {
            assert_eq!(reset.step(tag, body), Outcome::More);
        }
        assert_eq!(reset.step(b'Z', b"I"), Outcome::Done);
    }

    /// Found by reading: the answer to a Sync that a failed COPY had not swallowed was taken for the reset's, and the reset's
    /// own last answer came to the next client.
    #[test]
    fn an_answer_to_what_the_client_has_left_behind_is_not_the_resets() {
        let mut reset = Reset::release(
            TransactionStatus::Idle,
            Some("DISCARD ALL"),
            &mut Vec::new(),
        )
        .expect("something to run");
        assert!(matches!(reset.step(b'Z', b"I"), Outcome::Unfit(_)));
    }

    #[test]
    fn without_a_reset_query_an_idle_server_is_ready_at_once() {
        assert!(Reset::release(TransactionStatus::Idle, None, &mut Vec::new()).is_none());
    }

    #[test]
    fn a_failing_reset_makes_the_server_unfit() {
        for (tag, body) in [
            (b'E', &b"SERROR\0CXX000\0Mno\0\0"[..]),
            (b'Z', b"T"),
            (b'Z', b"E"),
            (b'Z', b""),
            (b'G', b""),
            (b'1', b""),
        ] {
            let mut reset = Reset::check("", &mut Vec::new());
            assert!(
                matches!(reset.step(tag, body), Outcome::Unfit(_)),
                "{}",
                tag as char
            );
        }
    }
}
