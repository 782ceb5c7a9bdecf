//! Framing: what is whole is found whole, what is not is waited for, and what was read is written back to the same bytes.

use aether::limits;
use aether::wire::frame::{self, Header};
use aether::wire::{backend, frontend};

/// Largest message that is accepted here, so that both sides of the limit are near.
const MAX: usize = 300;

/// The property.
pub fn holds(data: &[u8]) {
    walk(data);
    for end in 0..=data.len().min(frame::HEADER_LEN + 1) {
        let header = Header::read(&data[..end]);
        if end < frame::HEADER_LEN {
            assert_eq!(header, Ok(None));
        } else {
            assert_eq!(header, Header::read(data), "only five bytes decide");
        }
    }
    let shown = frame::printable(data);
    assert!(!shown.chars().any(char::is_control));
    assert!(shown.chars().count() <= limits::QUOTED_TEXT_MAX * 10 + 1);
    if let Some((text, rest)) = frame::take_cstr(data) {
        let mut out = Vec::new();
        frame::cstr(&mut out, text);
        out.extend_from_slice(rest);
        assert_eq!(out, data);
    }
}

fn walk(data: &[u8]) {
    let mut rest = data;
    let mut written = Vec::new();
    while let Ok(Some((tag, body, after))) = frame::whole(rest, MAX) {
        let length = rest.len() - after.len();
        assert_eq!(length, frame::HEADER_LEN + body.len());
        assert!(length <= MAX + 1);
        for end in 0..length {
            assert_eq!(
                frame::whole(&rest[..end], MAX),
                Ok(None),
                "in pieces it is waited for"
            );
        }
        frame::message(&mut written, tag, |b| b.extend_from_slice(body));
        bodies(body);
        rest = after;
    }
    written.extend_from_slice(rest);
    assert_eq!(
        written, data,
        "what was read is written back to the same bytes"
    );
    if let Ok(Some(header)) = Header::read(rest) {
        let (refused, short) = (
            header.length as usize > MAX,
            rest.len() < header.message_len(),
        );
        assert!(refused || short, "a whole message was left");
        assert_eq!(frame::whole(rest, MAX).is_err(), refused);
    }
}

/// Every reader of a body takes exactly what its writer would have written.
fn bodies(body: &[u8]) {
    let body_of = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        let (_, body, rest) = frame::whole(&out, usize::MAX)
            .ok()
            .flatten()
            .expect("a whole message was written");
        assert!(rest.is_empty());
        body.to_vec()
    };
    if let Some((name, value)) = backend::parameter_status(body) {
        assert_eq!(
            body_of(&|out| backend::write_parameter_status(out, name, value)),
            body
        );
    }
    if let Some((pid, key)) = backend::backend_key_data(body) {
        assert_eq!(
            body_of(&|out| backend::write_backend_key_data(out, pid, key)),
            body
        );
    }
    if let Some(sql) = frontend::query_text(body) {
        assert_eq!(body_of(&|out| frontend::query(out, sql)), body);
    }
    if let Some((mechanism, Some(data))) = frontend::read_sasl_initial(body) {
        assert_eq!(
            body_of(&|out| frontend::sasl_initial(out, mechanism, data)),
            body
        );
    }
    let _ = backend::authentication(body);
}
