//! The relay: whatever the pieces in which bytes come, the same bytes pass, the same are kept, and the same state is reached.
//!
//! Two relays are run through the same conversation. One is given each step whole, the other in random pieces.

use aether::limits;
use aether::relay::{Relay, Tally, Then, Vars};
use aether::wire::frame::{self, Header};
use arbitrary::{Result, Unstructured};

/// Types of a client's messages, some of them wrong.
const UP: &[u8] = b"QPBDECSHFdcfXpZ\0";
/// Types of a server's messages, some of them wrong.
const DOWN: &[u8] = b"ZCTDISNAE123tnsVGHWdcRKXQ\0";
/// Query texts with the words that are looked for.
const TEXTS: [&[u8]; 6] = [
    b"select 1\0",
    b"LOAD 'x'\0",
    b"create temp table t()\0",
    b"set a = 1; listen c\0",
    b"select dblink_connect('')\0",
    b"\0",
];

/// Up to here queues of expected answers are compared one by one.
const SHORT_QUEUE: usize = 100;
/// Longer conversations find nothing that shorter ones do not.
const STEPS_MAX: usize = 100;

/// The property.
pub fn holds(data: &[u8]) {
    let _ = conversation(&mut Unstructured::new(data));
}

fn conversation(u: &mut Unstructured<'_>) -> Result<()> {
    let mut whole = End::default();
    let mut pieces = End {
        chunks: Some(u.arbitrary::<u32>()?),
        ..End::default()
    };
    for _ in 0..STEPS_MAX {
        if u.is_empty() {
            break;
        }
        let (up, bytes) = step(u)?;
        let ended = if up {
            whole.up(&bytes)
        } else {
            whole.down(&bytes)
        };
        let also = if up {
            pieces.up(&bytes)
        } else {
            pieces.down(&bytes)
        };
        assert_eq!(ended, also, "the same end");
        whole.agrees_with(&pieces, ended.is_some());
        whole.check();
        if ended.is_some() {
            return Ok(());
        }
    }
    Ok(())
}

/// What comes next, and from where: from the client (`true`) or the server.
fn step(u: &mut Unstructured<'_>) -> Result<(bool, Vec<u8>)> {
    let choice = u.int_in_range(0..=7)?;
    let up = choice % 2 == 0;
    let mut bytes = Vec::new();
    match choice {
        0 | 1 => {
            let length = u.arbitrary::<u8>()?;
            bytes.extend_from_slice(u.bytes(usize::from(length).min(u.len()))?);
        }
        2 => frame::message(&mut bytes, b'Q', |b| {
            b.extend_from_slice(TEXTS[usize::from(u.arbitrary().unwrap_or(0u8)) % TEXTS.len()])
        }),
        3 => frame::message(&mut bytes, b'Z', |b| {
            b.push(*u.choose(b"IIITEx").unwrap_or(&b'I'))
        }),
        _ => {
            let tag = *u.choose(if up { UP } else { DOWN })?;
            let length = usize::from(u.arbitrary::<u8>()?).min(u.len());
            let body = u.bytes(length)?;
            // Up to twice as many as may be owed.
            let copies = if choice >= 6 {
                usize::from(u.arbitrary::<u8>()?) * 64
            } else {
                1
            };
            for _ in 0..copies {
                frame::message(&mut bytes, tag, |b| b.extend_from_slice(body));
                if bytes.len() > limits::READ_MAX {
                    break;
                }
            }
        }
    }
    bytes.truncate(limits::READ_MAX);
    Ok((up, bytes))
}

/// A relay with what has gone through it.
#[derive(Default)]
struct End {
    relay: Relay,
    vars: Vars,
    /// Given, passed and kept, per direction.
    up: Way,
    down: Way,
    tally: Tally,
    /// Decides the sizes of the pieces; `None`: everything at once.
    chunks: Option<u32>,
}

#[derive(Default)]
struct Way {
    given: Vec<u8>,
    passed: Vec<u8>,
    kept: Vec<u8>,
}

impl Way {
    /// What is looked at now: what was kept, and what is new.
    fn offered(&mut self, new: &[u8]) -> Vec<u8> {
        self.given.extend_from_slice(new);
        let mut all = std::mem::take(&mut self.kept);
        all.extend_from_slice(new);
        all
    }

    fn took(&mut self, offered: &[u8], pass: usize) {
        let (pass, keep) = offered.split_at(pass);
        self.passed.extend_from_slice(pass);
        self.kept = keep.to_vec();
    }
}

impl End {
    fn up(&mut self, bytes: &[u8]) -> Option<Then> {
        // A client that is owed too much is not read, what it has sent is looked at again.
        let offers = self.pieces(bytes);
        for piece in offers {
            let offered = self.up.offered(piece);
            let passage = self.relay.up(&offered);
            self.up.took(&offered, passage.pass);
            match passage.then {
                Then::More => assert!(
                    self.up.kept.len() < frame::HEADER_LEN,
                    "only a piece of a header is kept"
                ),
                Then::Full => assert_eq!(self.relay.owed(), limits::OWED_MAX),
                end => return Some(end),
            }
        }
        None
    }

    fn down(&mut self, bytes: &[u8]) -> Option<Then> {
        let offers = self.pieces(bytes);
        for piece in offers {
            let offered = self.down.offered(piece);
            let passage = self.relay.down(&offered, &mut self.vars);
            self.down.took(&offered, passage.pass);
            let tally = self.relay.take_tally();
            self.tally.queries += tally.queries;
            self.tally.transactions += tally.transactions;
            match passage.then {
                Then::More => {
                    assert!(
                        self.down.kept.len() < frame::HEADER_LEN + limits::PARAMETER_STATUS_MAX,
                        "what is kept is bounded"
                    )
                }
                Then::Full | Then::Terminate => panic!("that is for clients"),
                end => return Some(end),
            }
        }
        None
    }

    fn pieces<'b>(&mut self, bytes: &'b [u8]) -> Vec<&'b [u8]> {
        let Some(state) = &mut self.chunks else {
            return vec![bytes];
        };
        let (mut rest, mut pieces) = (bytes, Vec::new());
        while pieces.is_empty() || !rest.is_empty() {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Mostly small ones; of large steps some hundred pieces.
            let size = 1 + (*state >> 24) as usize % (bytes.len() / 64).max(7);
            let (piece, after) = rest.split_at(size.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces
    }

    fn agrees_with(&self, other: &End, ended: bool) {
        assert_eq!(
            (&self.up.passed, &self.down.passed),
            (&other.up.passed, &other.down.passed),
            "the same bytes pass"
        );
        assert_eq!(self.relay.owed(), other.relay.owed());
        // Long queues take long to be written out; they are compared when they have become short again.
        if self.relay.owed() < SHORT_QUEUE {
            let (state, also) = (format!("{:?}", self.relay), format!("{:?}", other.relay));
            assert_eq!(state, also, "the same state");
        }
        assert_eq!((&self.vars, self.tally), (&other.vars, other.tally));
        if !ended {
            assert_eq!(
                (&self.up.kept, &self.down.kept),
                (&other.up.kept, &other.down.kept),
                "the same bytes are kept"
            );
        }
    }

    /// What must hold of one relay, as an independent scan of what has passed sees it.
    fn check(&self) {
        for way in [&self.up, &self.down] {
            let (passed, kept) = way.given.split_at(way.passed.len());
            assert_eq!(
                (passed, kept),
                (&way.passed[..], &way.kept[..]),
                "what passed and what is kept is what came"
            );
        }
        let (up, down) = (scan(&self.up.passed), scan(&self.down.passed));
        let relay = &self.relay;
        assert!(
            !relay.is_quiet() || !(up.open || down.open),
            "quiet in the middle of a message"
        );
        assert!(
            !relay.may_add_error() || !down.open,
            "an error may be put into a message"
        );
        assert!(
            !relay.can_finish() || !up.open,
            "can finish in the middle of a client's message"
        );
        assert!(relay.is_quiet() || !relay.is_reusable());
        assert!(relay.owed() <= limits::OWED_MAX);
        assert_eq!(
            down.ready, self.tally.queries,
            "every ReadyForQuery is counted"
        );
        assert!(!up.terminate, "Terminate is not passed on");
    }
}

struct Scan {
    /// The last message is not whole.
    open: bool,
    ready: u64,
    terminate: bool,
}

fn scan(bytes: &[u8]) -> Scan {
    let (mut at, mut scan) = (
        0,
        Scan {
            open: false,
            ready: 0,
            terminate: false,
        },
    );
    while at < bytes.len() {
        let header = Header::read(&bytes[at..])
            .ok()
            .flatten()
            .expect("a header passes whole, and only a right one");
        scan.ready += u64::from(header.tag == b'Z');
        scan.terminate |= header.tag == b'X';
        at += header.message_len();
    }
    scan.open = at > bytes.len();
    scan
}
