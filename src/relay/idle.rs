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
