//! The plain track: messages that are what they are, taken one after the other with no further look.
//!
//! Nearly all are such. Whatever is not, or is not here whole, is left to [`Relay::down`], [`Relay::down_rewriting`] and
//! [`Relay::up_rewriting`], which do the same with these messages, one by one and in more steps.

use super::Relay;
use super::prepared::{Slot, Unnamed, With};
use super::recover::Passed;
use super::traces::Ran;
use super::words::Seen;
use crate::wire::backend::TransactionStatus;
use crate::wire::frame::{HEADER_LEN, Header};

#[cfg(test)]
thread_local! {
    /// Everything goes the long way: [`super::tracks`] looks whether that makes a difference.
    pub(super) static OFF: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn is_off() -> bool {
    #[cfg(test)]
    return OFF.get();
    #[cfg(not(test))]
    false
}

impl Relay {
    /// Passes a simple query that is all that the client has sent, to a server that owes nothing, as [`Relay::up_rewriting`]
    /// would. `None`: it is something else.
    pub(super) fn pass_plain_query(&mut self, input: &[u8], with: &mut With<'_>) -> Option<usize> {
        let [b'Q', a, b, c, d, first, ..] = *input else {
            return None;
        };
        let is_whole = u32::from_be_bytes([a, b, c, d]) as usize + 1 == input.len();
        // Not one that may be DEALLOCATE.
        let is_plain = first.is_ascii_alphabetic() && !matches!(first, b'd' | b'D');
        let is_free = self.up.left == 0 && !self.ended && self.expect.is_at_rest();
        let is_free = is_free && self.lenient == u32::MAX && !is_off();
        if !(is_whole && is_plain && is_free && self.recover.is_idle()) {
            return None;
        }
        self.seen.take(Seen::ENDS_STATEMENTS); // it is answered
        (self.barrier, self.flushed, self.executed) = (false, false, false);
        (self.touched, self.up.swallowed) = (true, false);
        self.expect.sent(b'Q');
        let text = input.get(HEADER_LEN..).unwrap_or_default();
        self.words.read(text, &mut self.seen);
        self.words.end(&mut self.seen);
        with.client.unnamed = Unnamed::None;
        with.server.slot = Slot::Empty;
        self.recover.query_passed(input.len());
        Some(input.len())
    }

    /// Passes the messages of a batch from `at` on that name no statement and are here whole: the Describe of a portal, Execute
    /// and Sync. Where they end.
    pub(super) fn pass_plain_messages(
        &mut self,
        input: &[u8],
        mut at: usize,
        with: &With<'_>,
    ) -> usize {
        if !self.has_a_plain_batch() {
            return at;
        }
        while let Some([tag @ (b'D' | b'E' | b'S'), a, b, c, d, body @ ..]) = input.get(at..) {
            let header = Header {
                tag: *tag,
                length: u32::from_be_bytes([*a, *b, *c, *d]),
            };
            let is_small = header.length <= self.lenient.min(1_000) && header.length >= 4;
            let is_here = is_small && body.len() >= header.body_len();
            let is_plain = match tag {
                b'D' => header.length > 4 && body.first() == Some(&b'P'),
                b'E' => self.deallocates.is_empty() && !self.discarding,
                _ => true,
            };
            let is_free = self.expect.takes_plain_messages() && !self.recover.is_pending();
            if !(is_here && is_plain && is_free) {
                break;
            }
            match tag {
                b'E' => self.executed = true,
                b'S' => {
                    self.unnamed_is_sure = false;
                    (self.discarding, self.executed) = (false, false);
                }
                _ => {}
            }
            (self.touched, self.up.swallowed) = (true, false);
            self.expect.sent(*tag);
            let next = at + header.message_len();
            if !self.recover.passed_plainly(header, at) {
                let passed = Passed {
                    header,
                    begins: false, // it matters with a name only
                    made: false,
                    named: None,
                };
                if self.recover.passed(passed, at) {
                    self.recover.keep(input, next);
                    self.decide(with);
                }
            }
            at = next;
        }
        at
    }

    /// Whether nothing holds up the messages of a batch, or makes them others, that those which are passed here could change.
    fn has_a_plain_batch(&self) -> bool {
        let waits = self.barrier || self.flushed || self.one_statement;
        !waits && !is_off() && !self.ended && !self.seen.contains(Seen::ENDS_STATEMENTS)
    }

    /// Passes the plain answers at the start of what the server sent: how many bytes they have. `shared`: the client has the
    /// server for a transaction only, and what was run is noted.
    pub(super) fn pass_plain(&mut self, input: &[u8], shared: bool) -> usize {
        if is_off() {
            return 0;
        }
        let moves_on = !self.one_statement && self.expect.takes_plain_answers();
        let (mut at, mut last) = (0, None);
        while let Some([tag, a, b, c, d, body @ ..]) = input.get(at..) {
            if matches!(tag, b'D' | b'd') {
                let rows = self.pass_rows(input, at);
                if rows == at {
                    break;
                }
                (at, last) = (rows, Some(*tag));
                continue;
            }
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let body = length.checked_sub(4).and_then(|length| body.get(..length));
            let Some(body) = body.filter(|_| moves_on && length <= self.largest_down as usize)
            else {
                break;
            };
            let mut ran = Ran::default();
            match tag {
                b'C' if shared => match plain_tag(body) {
                    Some(tells) => ran = tells,
                    None => break,
                },
                b'Z' if !matches!(body, [b'I' | b'T' | b'E']) => break,
                _ => {}
            }
            if !self.expect.answered_plainly(*tag) {
                break;
            }
            match (tag, body) {
                (b'C', _) => self.ran.add(ran),
                (b'Z', [status]) => {
                    if let Some(status) = TransactionStatus::from_byte(*status) {
                        self.ready_for_client(status);
                    }
                }
                _ => {}
            }
            (at, last) = (at + HEADER_LEN + body.len(), Some(*tag));
        }
        if let Some(tag) = last {
            self.last_answer = tag;
            self.recover.answered();
        }
        at
    }
}

/// What a CommandComplete tells, if its tag is a common one that ends nothing.
fn plain_tag(body: &[u8]) -> Option<Ran> {
    match body.first_chunk::<7>()? {
        b"SELECT " => Some(Ran::SELECT),
        b"INSERT " | b"UPDATE " | b"DELETE " => Some(Ran::default()),
        _ => None,
    }
}
