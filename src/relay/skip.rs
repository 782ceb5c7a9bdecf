//! What a client without a server sends and no server gets to see: late messages that mean nothing, and what was cancelled
//! before any server had it.
//!
//! Read as it streams by; nothing is kept of it.

use super::allowed;
use crate::wire::frame::Header;

/// Where a client without a server stands in what is skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skip {
    /// Bytes still to come of the message in progress.
    left: u32,
    until: Until,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Until {
    /// The next message that means something.
    #[default]
    Meaning,
    /// The next message that means something was cancelled: it decides how far the skipping goes.
    Cancelled,
    /// The message in progress is the last one, and ReadyForQuery answers it.
    Answer,
    /// Up to a Sync, as behind every error in a batch.
    Sync,
}

impl Skip {
    /// The request that comes next was cancelled.
    pub fn cancel(&mut self) {
        self.until = Until::Cancelled;
    }

    /// How many bytes are skipped, and whether ReadyForQuery is due for them.
    ///
    /// Messages without a meaning outside of a copy and a batch are those that a client sends of a copy which the server has
    /// refused, or ended with an error, and Flush. A server of one's own ignores them.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        let (mut at, mut ready) = (0, false);
        loop {
            let here = u32::try_from(bytes.len() - at).unwrap_or(u32::MAX);
            let count = self.left.min(here);
            self.left -= count;
            at += count as usize;
            if self.left > 0 {
                return (at, ready);
            }
            if self.until == Until::Answer {
                self.until = Until::Meaning;
                ready = true;
            }
            let header = Header::read(bytes.get(at..).unwrap_or_default());
            match header {
                Ok(None) => return (at, ready),
                Ok(Some(header)) if header.tag != b'X' && allowed(header).is_ok() => {
                    if !self.begin(header.tag) {
                        return (at, ready);
                    }
                    self.left = header.length + 1;
                }
                // It is refused, or understood, where all others are.
                _ => {
                    self.until = Until::Meaning;
                    return (at, ready);
                }
            }
        }
    }

    /// Whether a message is skipped that begins.
    fn begin(&mut self, tag: u8) -> bool {
        let late = matches!(tag, b'd' | b'c' | b'f' | b'H');
        self.until = match (self.until, tag) {
            (Until::Meaning, _) => return late,
            (until, _) if late => until,
            (_, b'S') | (Until::Cancelled, b'Q' | b'F') => Until::Answer,
            _ => Until::Sync,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::message;

    /// Messages of these types, of some length each.
    fn messages(tags: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for (at, tag) in tags.bytes().enumerate() {
            message(&mut out, tag, |b| b.resize(b.len() + at % 3 * 4, b'Q'));
        }
        out
    }

    /// What is left of the messages, read in pieces of every size, and how many ReadyForQuery were due.
    fn skipped(cancelled: bool, tags: &str) -> (String, usize) {
        let whole = messages(tags);
        let mut results = Vec::new();
        for size in 1..=whole.len() {
            let mut skip = Skip::default();
            if cancelled {
                skip.cancel();
            }
            let (mut held, mut readies) = (Vec::new(), 0);
            for piece in whole.chunks(size) {
                held.extend_from_slice(piece);
                let (taken, ready) = skip.take(&held);
                held.drain(..taken);
                readies += usize::from(ready);
            }
            let kept = (0..=tags.len()).find(|at| {
                held == whole[whole.len() - held.len()..] && {
                    messages(tags).len() - messages(&tags[..*at]).len() == held.len()
                }
            });
            let kept = kept.expect("it ends between two messages");
            results.push((tags[kept..].to_owned(), readies));
        }
        assert!(
            results.windows(2).all(|two| two[0] == two[1]),
            "{tags}: {results:?}"
        );
        results.remove(0)
    }

    #[test]
    fn late_messages_of_a_copy_mean_nothing() {
        assert_eq!(skipped(false, "ddcHQ"), ("Q".to_owned(), 0));
        assert_eq!(skipped(false, "dfHS"), ("S".to_owned(), 0));
        assert_eq!(skipped(false, "PBES"), ("PBES".to_owned(), 0));
    }

    /// C17: what PostgreSQL skips of a request that it cancels, and no more.
    #[test]
    fn a_cancelled_request_ends_with_its_readyforquery() {
        for (sent, left) in [
            ("QQ", "Q"),
            ("FQ", "Q"),
            ("HQQ", "Q"),
            ("PBESPBES", "PBES"),
            ("PBEQFdcHSQ", "Q"),
            ("BDSS", "S"),
            ("SQ", "Q"),
            ("QddX", "X"),
        ] {
            assert_eq!(skipped(true, sent), (left.to_owned(), 1), "{sent}");
        }
    }

    #[test]
    fn terminate_and_nonsense_end_the_skipping() {
        assert_eq!(skipped(true, "PBX"), ("X".to_owned(), 0));
        assert_eq!(skipped(true, "Py"), ("y".to_owned(), 0));
    }
}
