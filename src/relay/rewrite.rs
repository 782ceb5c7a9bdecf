//! What a client's messages become on a server that it holds for one transaction only: its prepared statements have other
//! names there, and are prepared when they are first needed.
//!
//! Most bytes pass in place. From the first change on, what passes is put together anew in `out`.

use std::rc::Rc;

use super::prepared::{
    Named, PREFIX, Slot, Statement, TAKEN, Undo, Unnamed, With, discards, server_name,
};
use super::words::first_word;
use super::{Body, Passage, Relay, Then, allowed, bad_length};
use crate::limits;
use crate::wire::frame::{HEADER_LEN, Header, cstr, message, take_cstr};
use crate::wire::refusal::{Blame, Refusal};

/// A name that no statement on a server has.
const NOBODY: &[u8] = b"aether_nobody";

/// What was read, and what it becomes.
pub(super) struct Edit<'a> {
    input: &'a [u8],
    out: &'a mut Vec<u8>,
    /// Everything before this is in `out`, or passes in place as long as `out` is empty.
    copied: usize,
}

impl<'a> Edit<'a> {
    pub(super) fn new(input: &'a [u8], out: &'a mut Vec<u8>) -> Edit<'a> {
        Edit {
            input,
            out,
            copied: 0,
        }
    }

    /// Puts something in before the byte at `at`.
    pub(super) fn insert(&mut self, at: usize, write: impl FnOnce(&mut Vec<u8>)) {
        self.out
            .extend_from_slice(self.input.get(self.copied..at).unwrap_or_default());
        self.copied = at;
        write(self.out);
    }

    /// Leaves out what is between.
    pub(super) fn skip(&mut self, from: usize, to: usize) {
        self.insert(from, |_| {});
        self.copied = to;
    }

    /// Everything up to `end` is decided. Whether it passes in place.
    pub(super) fn finish(self, end: usize) -> bool {
        if self.copied == 0 && self.out.is_empty() {
            return true;
        }
        self.out
            .extend_from_slice(self.input.get(self.copied..end).unwrap_or_default());
        false
    }
}

/// What became of a message's start.
enum Begun {
    /// So many bytes are decided.
    Bytes(usize),
    /// More of it has to be seen.
    More,
    /// Answers have to come first.
    Wait,
}

impl Relay {
    /// Looks at what a client sent, as [`Relay::up`] does; what passes is in `out`, or passes in place if nothing is changed.
    pub fn up_rewriting(
        &mut self,
        input: &[u8],
        with: &mut With<'_>,
        out: &mut Vec<u8>,
    ) -> Passage {
        self.stalled = false;
        let mut edit = Edit::new(input, out);
        let mut at = 0;
        let then = loop {
            at += self.pass_body_up(input.get(at..).unwrap_or_default());
            let rest = input.get(at..).unwrap_or_default();
            if self.up.left > 0 {
                break Then::More;
            }
            let header = match Header::read(rest) {
                Ok(None) => break Then::More,
                Err(bad) => break Then::Refuse(bad_length(bad)),
                Ok(Some(Header { tag: b'X', .. })) => break Then::Terminate,
                Ok(Some(header)) => header,
            };
            if let Err(refusal) = allowed(header) {
                break Then::Refuse(refusal);
            }
            if self.expect.is_full() {
                break Then::Full;
            }
            match self.begin_rewriting(header, rest, at, with, &mut edit) {
                Ok(Begun::Bytes(count)) => at += count,
                Ok(Begun::More) => break Then::More,
                Ok(Begun::Wait) => {
                    self.stalled = true;
                    break Then::Full;
                }
                Err(refusal) => break Then::Refuse(refusal),
            }
        };
        Passage {
            pass: at,
            in_place: edit.finish(at),
            then,
        }
    }

    fn begin_rewriting(
        &mut self,
        header: Header,
        rest: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Result<Begun, Refusal> {
        if self.barrier && self.expect.status_is_open() {
            return Ok(Begun::Wait);
        }
        if self.waits_for_discard() {
            return Ok(Begun::Wait);
        }
        self.flushed = false;
        self.barrier = false;
        if header.tag == b'S' {
            self.deallocates = None;
            self.unnamed_is_sure = false;
            self.discarding = false;
        }
        let passes = self.ended || self.expect.is_skipping() || self.expect.is_copying_in();
        let needed = match header.tag {
            b'P' if header.message_len() > limits::STATEMENT_MAX => HEADER_LEN + 1,
            b'P' | b'C' => header.message_len(),
            b'D' if rest.get(HEADER_LEN) == Some(&b'S') => header.message_len(),
            b'D' => header.message_len().min(HEADER_LEN + 1),
            b'E' if self.deallocates.is_some() || self.discarding => header.message_len(),
            b'Q' => header
                .message_len()
                .min(HEADER_LEN + limits::KEYWORD_WITHIN),
            _ => HEADER_LEN,
        };
        if passes {
            return Ok(self.passes(header));
        }
        let Some(start) = rest.get(..needed) else {
            return Ok(Begun::More);
        };
        let body = start.get(HEADER_LEN..).unwrap_or_default();
        match header.tag {
            b'P' if needed == HEADER_LEN + 1 && header.body_len() > 1 => {
                self.parse_unkept(header, body, with)
            }
            b'P' => self.parse(header, body, at, with, edit),
            b'B' => self.bind(header, rest, at, with, edit),
            b'D' => self.describe(header, body, at, with, edit),
            b'C' => self.close(header, body, at, with, edit),
            b'E' => Ok(self.execute(header, body, at, with, edit)),
            b'Q' => self.query(header, rest, at, with, edit),
            _ => Ok(self.passes(header)),
        }
    }

    /// The message passes as it is.
    fn passes(&mut self, header: Header) -> Begun {
        self.begin_up(header);
        Begun::Bytes(HEADER_LEN)
    }

    /// The message has been seen whole, and something else, or nothing, goes in its place.
    fn replaced(&mut self, header: Header, at: usize, edit: &mut Edit<'_>) -> Begun {
        self.touched = true;
        edit.skip(at, at + header.message_len());
        Begun::Bytes(header.message_len())
    }

    // ---- Parse ----

    fn parse(
        &mut self,
        header: Header,
        body: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Result<Begun, Refusal> {
        let Some((name, after)) = take_cstr(body) else {
            return Ok(self.passes(header)); // the server says what is wrong with it
        };
        let Some((text, types)) = take_cstr(after) else {
            return Ok(self.passes(header));
        };
        if name.is_empty() && !first_word(text).eq_ignore_ascii_case(b"deallocate") {
            return Ok(self.parse_unnamed(header, text, types, with));
        }
        if self.expect.statements_are_open() {
            return Ok(Begun::Wait);
        }
        if name.is_empty() {
            return Ok(self.parse_deallocate(header, text, types, at, with, edit));
        }
        if let Some(named) = with.client.get(name).cloned() {
            let named = named.spelled(name);
            return Ok(self.parse_again(header, &named, text, types, at, with, edit));
        }
        if is_one_of_ours(name) || with.client.is_full() {
            return Err(too_many(with.client.count()));
        }
        let Some(statement) = with.library.named(text, types) else {
            return Err(too_many(with.client.count()));
        };
        let known = with.server.number(statement.id()).is_some();
        if known && self.expect.status_is_open() {
            return Ok(Begun::Wait);
        }
        let begun = self.replaced(header, at, edit);
        self.seen.insert(statement.seen());
        if known && self.status != super::TransactionStatus::Failed {
            self.expect.answered_here(b'P');
        } else {
            let number = with.library.number();
            edit.insert(at + header.message_len(), |out| {
                write_parse(out, &server_name(number), text, types)
            });
            self.expect.sent(b'P');
            let before = with.server.set(statement.id(), Some(number));
            self.expect.undo(Undo::Present(statement.id(), before));
        }
        let named = Rc::new(Named {
            name: name.into(),
            statement,
        });
        self.expect.named(&named);
        let before = with.client.set(name, Some(named));
        self.expect.undo(Undo::Name(name.into(), before));
        self.evict(at + header.message_len(), with, edit);
        Ok(begun)
    }

    /// The name is taken: the server finds out, unless the text is wrong to begin with.
    #[expect(clippy::too_many_arguments, reason = "parts of one message")]
    fn parse_again(
        &mut self,
        header: Header,
        named: &Rc<Named>,
        text: &[u8],
        types: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Begun {
        if with.server.number(TAKEN).is_none() {
            // Empty, so that it can be parsed in a failed transaction too.
            edit.insert(at, |out| {
                write_parse(out, &server_name(TAKEN), b"", b"\0\0")
            });
            self.prepared(TAKEN, TAKEN, at, with, edit);
        }
        let begun = self.replaced(header, at, edit);
        edit.insert(at + header.message_len(), |out| {
            write_parse(out, &server_name(TAKEN), text, types)
        });
        self.expect.sent(b'P');
        self.expect.named(named);
        begun
    }

    /// DEALLOCATE in the extended protocol: of the name that the server knows. It happens with the next Execute.
    fn parse_deallocate(
        &mut self,
        header: Header,
        text: &[u8],
        types: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Begun {
        let known = deallocated(text).and_then(|name| with.client.get(&name).cloned());
        let Some(named) = known else {
            return self.parse_unnamed(header, text, types, with);
        };
        let number = self.prepare(&named.statement, at, with, edit);
        let begun = self.replaced(header, at, edit);
        let sql = [b"DEALLOCATE ".as_slice(), &server_name(number)].concat();
        edit.insert(at + header.message_len(), |out| {
            write_parse(out, b"", &sql, types)
        });
        self.expect.sent(b'P');
        let (unnamed, slot) = kept(with.library.unnamed(text, types));
        self.note_unnamed(unnamed, slot, with);
        self.deallocates = Some((named, None));
        begun
    }

    fn execute(
        &mut self,
        header: Header,
        body: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Begun {
        self.begin_up(header);
        let portal = take_cstr(body).map(|(portal, _)| portal);
        let runs = |(_, bound): &mut (_, Option<Vec<u8>>)| bound.as_deref() == portal;
        if let Some((named, _)) = self.deallocates.take_if(runs) {
            self.deallocate(&named, with);
        }
        if !self.discarding {
            return Begun::Bytes(HEADER_LEN);
        }
        // What comes behind it depends on what it does: its answer is fetched first.
        self.up.left = 0;
        self.flushed = true;
        edit.insert(at + header.message_len(), |out| message(out, b'H', |_| {}));
        Begun::Bytes(header.message_len())
    }

    /// Notes which portal runs the client's unnamed statement, if that is a DEALLOCATE.
    fn note_portal(&mut self, portal: &[u8], of_unnamed: bool) {
        if let Some((_, bound)) = &mut self.deallocates {
            if of_unnamed {
                *bound = Some(portal.to_vec());
            } else if bound.as_deref() == Some(portal) {
                *bound = None;
            }
        }
    }

    /// What the message noted last does, if it goes well: a statement is gone, for the client and on the server.
    fn deallocate(&mut self, named: &Rc<Named>, with: &mut With<'_>) {
        self.expect.named(named);
        let before = with.client.set(&named.name, None);
        self.expect.undo(Undo::Name(named.name.clone(), before));
        let id = named.statement.id();
        let before = with.server.set(id, None);
        self.expect.undo(Undo::Present(id, before));
    }

    fn parse_unnamed(
        &mut self,
        header: Header,
        text: &[u8],
        types: &[u8],
        with: &mut With<'_>,
    ) -> Begun {
        let again = match &with.client.unnamed {
            Unnamed::Kept(old) if old.text() == text && old.types() == types => Some(old.clone()),
            _ => None,
        };
        let (unnamed, slot) = kept(again.or_else(|| with.library.unnamed(text, types)));
        self.begin_unnamed(header, unnamed, slot, with)
    }

    /// A text too long to be kept: without a name it lives on the server that the client holds now.
    fn parse_unkept(
        &mut self,
        header: Header,
        body: &[u8],
        with: &mut With<'_>,
    ) -> Result<Begun, Refusal> {
        if body.first() != Some(&0) {
            let text = "the text of a named prepared statement is too long";
            let max = limits::STATEMENT_MAX >> 10;
            return Err(Refusal::fatal(b"54000", text, Blame::Client)
                .detail(format!(
                    "The Parse message has {} bytes, {max} kB are kept.",
                    header.message_len()
                ))
                .hint("Use the unnamed statement, or pool_mode session for this client."));
        }
        Ok(self.begin_unnamed(header, Unnamed::OnServer, Slot::Unknown, with))
    }

    fn begin_unnamed(
        &mut self,
        header: Header,
        unnamed: Unnamed,
        slot: Slot,
        with: &mut With<'_>,
    ) -> Begun {
        let begun = self.passes(header);
        self.note_unnamed(unnamed, slot, with);
        begun
    }

    fn note_unnamed(&mut self, unnamed: Unnamed, slot: Slot, with: &mut With<'_>) {
        self.unnamed_is_sure = true;
        self.deallocates = None;
        let before = std::mem::replace(&mut with.client.unnamed, unnamed);
        self.expect.undo(Undo::Unnamed(before));
        self.note_slot(slot, with);
    }

    fn note_slot(&mut self, slot: Slot, with: &mut With<'_>) {
        let before = std::mem::replace(&mut with.server.slot, slot);
        self.expect.undo(Undo::Slot(before));
    }

    /// Sees to it that a named statement is on the server; its number there.
    fn prepare(
        &mut self,
        statement: &Rc<Statement>,
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> u64 {
        self.seen.insert(statement.seen());
        if let Some(number) = with.server.number(statement.id()) {
            return number;
        }
        let number = with.library.number();
        edit.insert(at, |out| {
            write_parse(
                out,
                &server_name(number),
                statement.text(),
                statement.types(),
            )
        });
        self.prepared(statement.id(), number, at, with, edit);
        number
    }

    /// A Parse of our own was sent.
    fn prepared(
        &mut self,
        id: u64,
        number: u64,
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) {
        self.expect.sent_by_us(b'P');
        with.server.set(id, Some(number));
        self.expect.undo(Undo::Present(id, None));
        self.evict(at, with, edit);
    }

    /// Closes what the server holds beyond its limit. It has seen everything that refers to it by then.
    fn evict(&mut self, at: usize, with: &mut With<'_>, edit: &mut Edit<'_>) {
        while let Some((id, number)) = with.server.surplus(with.max) {
            with.server.set(id, None);
            edit.insert(at, |out| {
                message(out, b'C', |b| {
                    b.push(b'S');
                    cstr(b, &server_name(number));
                })
            });
            self.expect.sent_by_us(b'C');
            self.expect.undo(Undo::Present(id, Some(number)));
        }
    }

    // ---- Bind, Describe, Close ----

    fn bind(
        &mut self,
        header: Header,
        rest: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Result<Begun, Refusal> {
        let here = rest
            .get(HEADER_LEN..header.message_len().min(rest.len()))
            .unwrap_or_default();
        let names = take_cstr(here).and_then(|(portal, after)| {
            let (name, _) = take_cstr(after)?;
            Some((portal, name))
        });
        let Some((portal, name)) = names else {
            let all = here.len() == header.body_len() || here.len() > limits::NAMES_MAX;
            return Ok(if all {
                self.passes(header)
            } else {
                Begun::More
            });
        };
        if name.is_empty() {
            if !self.find_unnamed(at, with, edit) {
                return Ok(Begun::Wait);
            }
            self.note_portal(portal, true);
            if let Unnamed::Kept(statement) = &with.client.unnamed {
                self.discarding |= statement.discards();
            }
            return Ok(self.passes(header));
        }
        if self.expect.statements_are_open() {
            return Ok(Begun::Wait);
        }
        self.note_portal(portal, false);
        let Some((server_name, named)) = self.find(name, at, with, edit) else {
            return Ok(self.passes(header));
        };
        let skipped = HEADER_LEN + portal.len() + 1 + name.len() + 1;
        let length = header.length as usize + server_name.len() - name.len();
        edit.skip(at, at + skipped);
        edit.insert(at + skipped, |out| {
            out.push(b'B');
            out.extend_from_slice(&(length as u32).to_be_bytes());
            cstr(out, portal);
            cstr(out, &server_name);
        });
        self.begin_up(header);
        self.expect.named(&named);
        self.discarding |= named.statement.discards();
        self.up = Body {
            left: header.message_len() - skipped,
            text: false,
        };
        Ok(Begun::Bytes(skipped))
    }

    /// What a client's name is on the server, prepared there by now. `None`: it is nobody's but perhaps SQL's, and passes.
    fn find(
        &mut self,
        name: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Option<(Vec<u8>, Rc<Named>)> {
        match with.client.get(name).cloned() {
            Some(named) => {
                let number = self.prepare(&named.statement, at, with, edit);
                Some((server_name(number), named.spelled(name)))
            }
            None if is_one_of_ours(name) => {
                let statement = with.library.unnamed(b"", b"\0\0")?;
                let named = Named {
                    name: name.into(),
                    statement,
                };
                Some((NOBODY.to_vec(), Rc::new(named)))
            }
            None => None,
        }
    }

    /// Sees to it that the server's unnamed statement is the client's. False: it is open yet what that is.
    fn find_unnamed(&mut self, at: usize, with: &mut With<'_>, edit: &mut Edit<'_>) -> bool {
        if !self.unnamed_is_sure && self.expect.status_is_open() {
            return false;
        }
        self.unnamed_is_sure = true;
        match &with.client.unnamed {
            Unnamed::Kept(statement) if with.server.slot_holds(statement) => {
                self.seen.insert(statement.seen());
            }
            Unnamed::Kept(statement) => {
                let statement = statement.clone();
                self.seen.insert(statement.seen());
                edit.insert(at, |out| {
                    write_parse(out, b"", statement.text(), statement.types())
                });
                self.expect.sent_by_us(b'P');
                self.note_slot(Slot::Holds(statement.id()), with);
            }
            Unnamed::None if with.server.slot != Slot::Empty => {
                edit.insert(at, |out| {
                    message(out, b'C', |b| b.extend_from_slice(b"S\0"))
                });
                self.expect.sent_by_us(b'C');
                self.note_slot(Slot::Empty, with);
            }
            _ => {}
        }
        true
    }

    fn describe(
        &mut self,
        header: Header,
        body: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Result<Begun, Refusal> {
        let Some(name) = body
            .strip_prefix(b"S")
            .and_then(take_cstr)
            .map(|(name, _)| name)
        else {
            return Ok(self.passes(header));
        };
        if name.is_empty() {
            if !self.find_unnamed(at, with, edit) {
                return Ok(Begun::Wait);
            }
            return Ok(self.passes(header));
        }
        if self.expect.statements_are_open() {
            return Ok(Begun::Wait);
        }
        let Some((server_name, named)) = self.find(name, at, with, edit) else {
            return Ok(self.passes(header));
        };
        let begun = self.replaced(header, at, edit);
        edit.insert(at + header.message_len(), |out| {
            message(out, b'D', |b| {
                b.push(b'S');
                cstr(b, &server_name);
            })
        });
        self.expect.sent(b'D');
        self.expect.named(&named);
        Ok(begun)
    }

    fn close(
        &mut self,
        header: Header,
        body: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Result<Begun, Refusal> {
        let Some(name) = body
            .strip_prefix(b"S")
            .and_then(take_cstr)
            .map(|(name, _)| name)
        else {
            return Ok(self.passes(header));
        };
        if name.is_empty() {
            return Ok(self.begin_unnamed(header, Unnamed::None, Slot::Empty, with));
        }
        if self.expect.statements_are_open() {
            return Ok(Begun::Wait);
        }
        if with.client.get(name).is_none() && !is_one_of_ours(name) {
            return Ok(self.passes(header)); // perhaps SQL has prepared it
        }
        let begun = self.replaced(header, at, edit);
        self.expect.answered_here(b'C');
        let before = with.client.set(name, None);
        self.expect.undo(Undo::Name(name.into(), before));
        Ok(begun)
    }

    // ---- Query ----

    /// A simple query ends the unnamed statement; and DEALLOCATE may speak of a name that the server knows by another.
    fn query(
        &mut self,
        header: Header,
        rest: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Result<Begun, Refusal> {
        let start = rest
            .get(HEADER_LEN..header.message_len().min(rest.len()))
            .unwrap_or_default();
        let word = first_word(start);
        if word.eq_ignore_ascii_case(b"deallocate") && header.message_len() <= limits::NAMES_MAX {
            let Some(body) = rest.get(HEADER_LEN..header.message_len()) else {
                return Ok(Begun::More);
            };
            if self.expect.statements_are_open() {
                return Ok(Begun::Wait);
            }
            if let Some(name) = deallocated(body)
                && let Some(named) = with.client.get(&name).cloned()
            {
                let number = self.make_up(&named.statement, at, with, edit);
                let begun = self.replaced(header, at, edit);
                let sql = [b"DEALLOCATE ".as_slice(), &server_name(number)].concat();
                edit.insert(at + header.message_len(), |out| {
                    message(out, b'Q', |b| cstr(b, &sql))
                });
                self.expect.sent(b'Q');
                self.deallocate(&named, with);
                self.end_unnamed(with);
                return Ok(begun);
            }
        }
        self.barrier = discards(word);
        let begun = self.passes(header);
        self.end_unnamed(with);
        Ok(begun)
    }

    /// Sees to it that the server has something of a statement's name, for a DEALLOCATE by simple query. A Parse would not do:
    /// should it fail, in a failed transaction, the query behind it would be skipped.
    fn make_up(
        &mut self,
        statement: &Rc<Statement>,
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> u64 {
        if let Some(number) = with.server.number(statement.id()) {
            return number;
        }
        let number = with.library.number();
        let sql = [
            b"PREPARE ".as_slice(),
            &server_name(number),
            b" AS SELECT 1",
        ]
        .concat();
        edit.insert(at, |out| message(out, b'Q', |b| cstr(b, &sql)));
        self.expect.tried_by_us();
        number
    }

    /// A simple query that is run, well or not, ends the unnamed statement; one that is skipped does not.
    fn end_unnamed(&mut self, with: &mut With<'_>) {
        if self.expect.is_in_batch() || self.expect.owed() > 1 {
            self.note_unnamed(Unnamed::None, Slot::Empty, with);
        } else {
            with.client.unnamed = Unnamed::None;
            with.server.slot = Slot::Empty;
        }
    }
}

/// What an unnamed statement is to the client and to its server; without room to keep it, it stays where it is.
fn kept(statement: Option<Rc<Statement>>) -> (Unnamed, Slot) {
    match statement {
        Some(statement) => {
            let slot = Slot::Holds(statement.id());
            (Unnamed::Kept(statement), slot)
        }
        None => (Unnamed::OnServer, Slot::Unknown),
    }
}

fn write_parse(out: &mut Vec<u8>, name: &[u8], text: &[u8], types: &[u8]) {
    message(out, b'P', |b| {
        cstr(b, name);
        cstr(b, text);
        b.extend_from_slice(types);
    });
}

fn is_one_of_ours(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

fn too_many(names: usize) -> Refusal {
    Refusal::fatal(
        b"54000",
        "too many prepared statements",
        Blame::Client,
    )
    .detail(format!("This client has {names}; texts take up to {} MB in all.", limits::STATEMENT_BYTES_MAX >> 20))
    .hint("Close statements that are no longer needed, or prepare fewer different texts. Names that begin with \"aether_\" are the pooler's own.")
}

/// The name in `DEALLOCATE [PREPARE] name`, if that is all there is and it is not `ALL`.
fn deallocated(body: &[u8]) -> Option<Vec<u8>> {
    let text = body.strip_suffix(b"\0").unwrap_or(body);
    let word = first_word(text);
    let start = word.as_ptr() as usize - text.as_ptr() as usize + word.len();
    let mut rest = text.get(start..)?.trim_ascii();
    rest = rest.strip_suffix(b";").unwrap_or(rest).trim_ascii();
    let lower = rest.to_ascii_lowercase();
    if lower.starts_with(b"prepare") && rest.get(7).is_some_and(u8::is_ascii_whitespace) {
        rest = rest.get(7..)?.trim_ascii();
    }
    if let Some(quoted) = rest.strip_prefix(b"\"").and_then(|r| r.strip_suffix(b"\"")) {
        let name = String::from_utf8_lossy(quoted).replace("\"\"", "\"");
        return Some(name.into_bytes());
    }
    let plain = !rest.is_empty()
        && rest.iter().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || *byte >= 0x80
        });
    let name = rest.to_ascii_lowercase();
    (plain && name != b"all").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deallocate_speaks_of() {
        for (sql, name) in [
            (&b"DEALLOCATE one\0"[..], Some(&b"one"[..])),
            (b"deallocate PREPARE One;\0", Some(b"one")),
            (b"/* x */ deallocate \"A \"\"b\"\"\" ;\0", Some(b"A \"b\"")),
            (b"deallocate prepare\0", Some(b"prepare")),
            (b"DEALLOCATE ALL\0", None),
            (b"DEALLOCATE a; DEALLOCATE b\0", None),
            (b"DEALLOCATE\0", None),
        ] {
            assert_eq!(deallocated(sql).as_deref(), name);
        }
    }
}
