//! Framing: the type letter and the length word that start every message after the startup packet.
//!
//! Knows how to find a message's end and how to write one; not what a message means.

use std::borrow::Cow;
use std::ffi::CStr;

use crate::limits;

/// Bytes of a message's header: type letter and length word.
pub const HEADER_LEN: usize = 5;

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The type letter.
    pub tag: u8,
    /// The length word: it counts itself (4), not the type letter. Never below 4.
    pub length: u32,
}

/// A length word below 4: the stream cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength {
    /// The type letter in front of it.
    pub tag: u8,
    /// What the peer claimed.
    pub length: u32,
}

impl Header {
    /// Reads the header at the start of `bytes`. `Ok(None)`: fewer than five bytes are here.
    pub fn read(bytes: &[u8]) -> Result<Option<Header>, BadLength> {
        let [tag, a, b, c, d, ..] = *bytes else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        if length < 4 {
            return Err(BadLength { tag, length });
        }
        Ok(Some(Header { tag, length }))
    }

    /// Bytes of the body, without header.
    pub fn body_len(self) -> usize {
        self.length as usize - 4
    }

    /// Bytes of the whole message, header included.
    pub fn message_len(self) -> usize {
        self.length as usize + 1
    }
}

/// A whole message: its type letter, its body, and what follows it.
pub type Whole<'a> = (u8, &'a [u8], &'a [u8]);

/// Takes one whole message from the start of `bytes`: its type letter, its body, and what follows it.
///
/// `Ok(None)`: the message is not whole yet. A message longer than `max` (length word) is an error at once, before the rest
/// of it is waited for.
pub fn whole(bytes: &[u8], max: usize) -> Result<Option<Whole<'_>>, BadLength> {
    let Some(header) = Header::read(bytes)? else {
        return Ok(None);
    };
    if header.length as usize > max {
        return Err(BadLength {
            tag: header.tag,
            length: header.length,
        });
    }
    match (
        bytes.get(HEADER_LEN..header.message_len()),
        bytes.get(header.message_len()..),
    ) {
        (Some(body), Some(rest)) => Ok(Some((header.tag, body, rest))),
        _ => Ok(None),
    }
}

/// Appends a message to `out`: the type letter, the length that the body turns out to have, the body.
pub fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    packet(out, body);
}

/// Appends a packet without a type letter (startup, cancel).
pub fn packet(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = (out.len() - at) as u32;
    if let Some(word) = out.get_mut(at..at + 4) {
        word.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a NUL-terminated string. A NUL inside `text` would end it early, so the text is cut there.
pub fn cstr(out: &mut Vec<u8>, text: &[u8]) {
    // As a rule there is none, and seeing that takes a step for many bytes.
    let cut = if text.contains(&0) {
        text.iter().position(|&b| b == 0)
    } else {
        None
    };
    out.extend_from_slice(cut.and_then(|end| text.get(..end)).unwrap_or(text));
    out.push(0);
}

/// Takes a NUL-terminated string from the start of `bytes`: the string without NUL, and what follows.
pub fn take_cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = match bytes.first()? {
        0 => 0, // as most names are
        _ => CStr::from_bytes_until_nul(bytes).ok()?.count_bytes(),
    };
    Some((bytes.get(..end)?, bytes.get(end + 1..)?))
}

/// Takes a big-endian 16-bit count from the start of `bytes`.
pub fn take_u16(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*word).into(), rest))
}

/// Takes a big-endian 32-bit integer from the start of `bytes`.
pub fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*word), rest))
}

/// The same of a text that is bounded already.
pub fn printable_all(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

/// Whether [`printable`] leaves it as it is, as nearly all of what is asked of it.
fn is_printable(bytes: &[u8]) -> bool {
    bytes.len() <= limits::QUOTED_TEXT_MAX && bytes.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// [`printable`] without a copy, as a rule.
pub fn printable_str(text: &str) -> Cow<'_, str> {
    match is_printable(text.as_bytes()) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(printable(text.as_bytes())),
    }
}

/// Text from a peer, fit for a log line or an error: control bytes escaped, cut to a bounded length.
pub fn printable(bytes: &[u8]) -> String {
    if is_printable(bytes)
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        return text.to_owned();
    }
    let cut = bytes.get(..limits::QUOTED_TEXT_MAX).unwrap_or(bytes);
    let mut text = printable_all(cut);
    if cut.len() < bytes.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_in_pieces_is_no_header_yet() {
        let bytes = [b'Q', 0, 0, 0, 5, b'x'];
        for n in 0..HEADER_LEN {
            assert_eq!(Header::read(&bytes[..n]), Ok(None));
        }
        assert_eq!(
            Header::read(&bytes),
            Ok(Some(Header {
                tag: b'Q',
                length: 5
            }))
        );
    }

    #[test]
    fn a_length_below_four_is_refused() {
        for length in 0..4u8 {
            assert_eq!(
                Header::read(&[b'Q', 0, 0, 0, length]),
                Err(BadLength {
                    tag: b'Q',
                    length: u32::from(length)
                })
            );
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_it_has_arrived() {
        assert!(whole(&[b'p', 0x7F, 0xFF, 0xFF, 0xFF], 100).is_err());
        assert_eq!(whole(&[b'p', 0, 0, 0, 6, 1], 100), Ok(None));
        assert_eq!(
            whole(&[b'p', 0, 0, 0, 6, 1, 2, 3], 100),
            Ok(Some((b'p', &[1, 2][..], &[3][..])))
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        message(&mut out, b'Q', |b| cstr(b, b"select 1"));
        let (tag, body, rest) = whole(&out, 1000).ok().flatten().expect("whole");
        assert_eq!(
            (tag, take_cstr(body), rest),
            (b'Q', Some((&b"select 1"[..], &[][..])), &[][..])
        );
    }

    #[test]
    fn printable_text_has_no_control_bytes() {
        assert_eq!(printable(b"a\nb\x1b[31m"), "a\\nb\\u{1b}[31m");
        assert!(printable(&[b'x'; 10_000]).len() < 300);
    }
}
