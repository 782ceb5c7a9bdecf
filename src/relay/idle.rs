//! What a client that holds no server can be told at once: drivers close statements, and synchronise, while they are idle,
//! and need not wait for a server to hear what is known here.

use super::prepared::{ClientStatements, Unnamed, is_one_of_ours, statement_name};
use crate::wire::backend::write_ready;
use crate::wire::frame::{HEADER_LEN, Header, message};

/// Answers the batches at the start of what a client has sent that are nothing but Close of statements of its own, Flush, and
/// Sync: how many bytes they have, and how many they are.
pub fn answer(input: &[u8], statements: &mut ClientStatements, out: &mut Vec<u8>) -> (usize, u64) {
    let (mut done, mut batches) = (0, 0);
    while let Some((count, closed)) = batch(input.get(done..).unwrap_or_default(), statements) {
        for name in closed {
            if name.is_empty() {
                statements.unnamed = Unnamed::None;
            } else {
                statements.set(name, None);
            }
            message(out, b'3', |_| {});
        }
        write_ready(out);
        done += count;
        batches += 1;
    }
    (done, batches)
}

/// The first batch, if it is such a one and whole: its length, and the names that it closes.
fn batch<'a>(input: &'a [u8], statements: &ClientStatements) -> Option<(usize, Vec<&'a [u8]>)> {
    let (mut at, mut closed) = (0, Vec::new());
    loop {
        let rest = input.get(at..)?;
        let header = Header::read(rest).ok()??;
        super::allowed(header).ok()?;
        let body = rest.get(HEADER_LEN..header.message_len())?;
        at += header.message_len();
        match (header.tag, body) {
            (b'S', []) => return Some((at, closed)),
            (b'H', []) => {}
            (b'C', body) => {
                let name = statement_name(body).filter(|name| body.len() == name.len() + 2)?;
                let is_own = name.is_empty() || statements.get(name).is_some();
                // One that is not may be a name that SQL has given.
                closed.push(Some(name).filter(|name| is_own || is_one_of_ours(name))?);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::prepared::{Described, Library, Named};
    use super::*;
    use crate::wire::frame::cstr;
    use std::rc::Rc;

    fn close(what: u8, name: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        message(&mut out, b'C', |b| {
            b.push(what);
            cstr(b, name);
        });
        out
    }

    /// Bytes that were answered, the answers' types, and the names that are left of "a" and "b".
    fn told(input: &[Vec<u8>]) -> (usize, String, usize) {
        let mut statements = ClientStatements::default();
        let mut library = Library::default();
        for name in [b"a", b"b"] {
            let statement = library.named(b"select 1", b"\0\0", b"").expect("room");
            let named = Named::new(name, statement, Described::default());
            statements.set(name, Some(Rc::new(named)));
        }
        let mut out = Vec::new();
        let (count, _) = answer(&input.concat(), &mut statements, &mut out);
        let tags = out.iter().filter(|byte| b"3Z".contains(byte));
        let tags = tags.map(|&byte| char::from(byte)).collect();
        (count, tags, statements.count())
    }

    #[test]
    fn only_whole_batches_about_ones_own_statements_are_answered() {
        let sync = b"S\0\0\0\x04".to_vec();
        let flush = b"H\0\0\0\x04".to_vec();
        let (a, none) = (close(b'S', b"a"), close(b'S', b""));
        let (portal, foreign) = (close(b'P', b"a"), close(b'S', b"by SQL"));
        let wrong = [&a[..], b"x"].concat();
        let sync_with_body = b"S\0\0\0\x05x".to_vec();
        for (input, expected) in [
            (vec![sync.clone()], (5, "Z", 2)),
            (vec![sync.clone(), sync.clone(), a.clone()], (10, "ZZ", 2)),
            (
                vec![a.clone(), flush, a.clone(), none, sync.clone()],
                (33, "333Z", 1),
            ),
            (vec![a.clone()], (0, "", 2)),
            (vec![a.clone(), sync[..4].to_vec()], (0, "", 2)),
            (vec![a.clone(), portal, sync.clone()], (0, "", 2)),
            (vec![foreign, sync.clone()], (0, "", 2)),
            (vec![wrong, sync], (0, "", 2)),
            (vec![sync_with_body], (0, "", 2)),
        ] {
            let (count, tags, left) = told(&input);
            assert_eq!((count, tags.as_str(), left), expected, "{input:?}");
        }
    }
}
