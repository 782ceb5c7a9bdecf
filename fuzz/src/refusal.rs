//! An ErrorResponse of any shape is an error with a code and a text, and is passed on as it was understood.

use aether::limits;
use aether::wire::frame;
use aether::wire::refusal::{Blame, Refusal};

/// The property.
pub fn holds(data: &[u8]) {
    let refusal = Refusal::read(data, Blame::Server);
    assert!(!refusal.message.is_empty());
    assert!(refusal.sqlstate.iter().all(u8::is_ascii_alphanumeric));
    assert_eq!(refusal.code().as_bytes(), refusal.sqlstate);
    let text = refusal.text();
    assert!(!text.is_empty() && !text.chars().any(char::is_control));
    assert!(text.chars().count() <= limits::QUOTED_TEXT_MAX * 10 + 1);

    let mut out = Vec::new();
    refusal.write(&mut out);
    let (tag, body, rest) = frame::whole(&out, usize::MAX)
        .ok()
        .flatten()
        .expect("a whole message");
    assert_eq!((tag, rest), (b'E', &[][..]));
    assert_eq!(Refusal::read(body, Blame::Server), refusal);
}
