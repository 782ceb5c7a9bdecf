//! What a client's messages become on a server that it holds for one transaction only: its prepared statements have other
//! names there, and are prepared when they are first needed.
//!
//! Most bytes pass in place. From the first change on, what passes is put together anew in `out`.

use std::rc::Rc;

use super::expect::Told;
use super::prepared::{
    Described, Held, Named, ServerName, Slot, Statement, TAKEN, Undo, Unnamed, With,
    is_one_of_ours, server_name, statement_name,
};
use super::words::{Seen, first_word, skip_blanks, take_word};
use super::{Body, Passage, Relay, Then, bad_length};
use crate::limits;
use crate::wire::backend::TransactionStatus;
use crate::wire::frame::{HEADER_LEN, Header, cstr, message, printable, take_cstr};
use crate::wire::refusal::Refusal;

/// A name that no statement on a server has.
const NOBODY: &[u8] = b"aether_nobody";

/// The name of a statement that is prepared for one Bind or Describe, in the place of one that cannot be had.
const STAND_IN: &[u8] = b"aether_stand_in";

/// The name of a statement that is prepared to be deallocated.
const GONE: &[u8] = b"aether_gone";

/// What a portal deallocates, as it was when the portal was made.
#[derive(Debug)]
pub(super) enum Deallocated {
    /// The client's; on the server the portal speaks of [`GONE`].
    Prepared(Rc<Named>),
    /// Nothing that the client had prepared: SQL may have, or the client may before the portal is run. It speaks of this name.
    Unknown(Vec<u8>),
}

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

/// What a client's name of a statement is on the server.
enum Found {
    /// Answers have to come first.
    Wait,
    /// It cannot be had.
    Refused(Refusal),
    /// The same.
    AsItIs,
    /// This name.
    As(ServerName, Told),
}

/// What a statement is looked for for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Bind,
    Describe,
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
        self.recover.begin_read();
        if let Some(count) = self.pass_plain_query(input, with) {
            return Passage {
                pass: count,
                in_place: true,
                then: Then::More,
            };
        }
        let mut edit = Edit::new(input, out);
        let mut at = 0;
        let then = loop {
            let swallowed = self.up.swallowed;
            let count = self.pass_body_up(input.get(at..).unwrap_or_default());
            if swallowed {
                edit.skip(at, at + count);
            }
            at += count;
            if self.up.left > 0 {
                break Then::More;
            }
            at = self.pass_plain_messages(input, at, with);
            let rest = input.get(at..).unwrap_or_default();
            let header = match Header::read(rest) {
                Ok(None) => break Then::More,
                Err(bad) => break Then::Refuse(bad_length(bad)),
                Ok(Some(Header { tag: b'X', .. })) => break Then::Terminate,
                Ok(Some(header)) => header,
            };
            if let Err(refusal) = self.admits(header) {
                break Then::Refuse(refusal);
            }
            if self.expect.is_full() {
                break Then::Full;
            }
            let begins = self.begins_batch();
            match self.begin_rewriting(header, rest, at, with, &mut edit) {
                Begun::Bytes(count) => {
                    self.keep_batch(header, begins, input, at, count, with);
                    at += count;
                }
                Begun::More => break Then::More,
                Begun::Wait => {
                    self.stalled = true;
                    break Then::Full;
                }
            }
        };
        self.recover.keep(input, at);
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
    ) -> Begun {
        self.barrier |= self.seen.take(Seen::ENDS_STATEMENTS);
        if self.barrier && self.waits_for_ready() || self.waits_for_statement(header.tag) {
            return Begun::Wait;
        }
        if self.waits_for_discard() || self.recover.is_pending() {
            return Begun::Wait;
        }
        self.flushed = false;
        self.barrier = false;
        if header.tag == b'S' {
            self.unnamed_is_sure = false;
            self.discarding = false;
            self.executed = false;
        }
        let passes = self.ended || self.expect.is_skipping() || self.expect.is_copying_in();
        let needed = match header.tag {
            b'P' if header.message_len() > limits::STATEMENT_MAX => HEADER_LEN + 1,
            b'P' | b'C' => header.message_len(),
            b'D' if rest.get(HEADER_LEN) == Some(&b'S') => header.message_len(),
            b'D' => header.message_len().min(HEADER_LEN + 1),
            b'E' if !self.deallocates.is_empty() || self.discarding => header.message_len(),
            b'Q' => header
                .message_len()
                .min(HEADER_LEN + limits::KEYWORD_WITHIN),
            _ => HEADER_LEN,
        };
        if passes {
            return self.passes(header);
        }
        let Some(start) = rest.get(..needed) else {
            return Begun::More;
        };
        let body = start.get(HEADER_LEN..).unwrap_or_default();
        match header.tag {
            b'P' if needed == HEADER_LEN + 1 && header.body_len() > 1 => {
                self.parse_unkept(header, body, at, with, edit)
            }
            b'P' => self.parse(header, body, at, with, edit),
            b'B' => self.bind(header, rest, at, with, edit),
            b'D' => self.describe(header, body, at, with, edit),
            b'C' => self.close(header, body, at, with, edit),
            b'E' => self.execute(header, body, at, with, edit),
            b'Q' => self.query(header, rest, at, with, edit),
            _ => self.passes(header),
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
    ) -> Begun {
        let parts = take_cstr(body).and_then(|(name, after)| {
            let (text, types) = take_cstr(after)?;
            Some((name, text, types))
        });
        let Some((name, text, types)) = parts else {
            return self.passes(header); // the server says what is wrong with it
        };
        if self.encoding_is_open(text) {
            return Begun::Wait;
        }
        if name.is_empty() {
            return self.parse_unnamed(header, text, types, with);
        }
        if self.expect.statements_are_open() {
            return Begun::Wait;
        }
        if let Some(named) = with.client.get(name).cloned() {
            let told = spelled(&named, name);
            return self.parse_again(header, told, text, types, at, with, edit);
        }
        if is_one_of_ours(name) {
            return self.refuse(header, reserved(name), at, edit);
        }
        let encoding = encoding_of(text, with).to_vec();
        let room = (!with.client.is_full()).then(|| with.library.named(text, types, &encoding));
        let Some(statement) = room.flatten() else {
            return self.refuse(header, too_many(with.client.count()), at, edit);
        };
        let known = with.server.find(statement.id()).cloned();
        if known.is_some() && self.expect.status_is_open() {
            return Begun::Wait;
        }
        let begun = self.replaced(header, at, edit);
        let end = at + header.message_len();
        self.tally.client_parses += 1;
        self.seen.insert(statement.seen());
        // In a failed block it is the server that knows what may be prepared.
        let is_asked = known.is_none() || self.status == TransactionStatus::Failed;
        let (old, described) = match known {
            Some(held) => (Some(held.number), held.described),
            None => (None, Described::default()),
        };
        let number = with.library.number();
        if is_asked {
            edit.insert(end, |out| {
                write_parse(out, &server_name(number), text, types)
            });
            self.tally.server_parses += 1;
            self.expect.sent(b'P');
            let held = Held {
                number,
                described: described.clone(),
            };
            let before = with.server.set(statement.id(), Some(held));
            self.expect.undo(Undo::Present(statement.id(), before));
        } else {
            self.expect.answered_here(b'P');
        }
        let named = Rc::new(Named::new(name, statement, described.clone()));
        self.expect.tell(Told::Name(named.clone()));
        let before = with.client.set(name, Some(named));
        self.expect.undo(Undo::Name(name.into(), before));
        if is_asked && described.get().is_none() {
            edit.insert(end, |out| write_describe(out, &server_name(number)));
            self.expect.described_by_us(&described);
        }
        if let Some(old) = old.filter(|_| is_asked) {
            edit.insert(end, |out| write_close(out, &server_name(old)));
            self.expect.sent_by_us(b'C');
        }
        self.evict(end, with, edit);
        begun
    }

    /// A message that is not passed on fails as any does: the server is asked about nobody in its place, and what it says
    /// is replaced.
    fn refuse(
        &mut self,
        header: Header,
        refusal: Refusal,
        at: usize,
        edit: &mut Edit<'_>,
    ) -> Begun {
        self.touched = true;
        edit.skip(at, at + HEADER_LEN);
        edit.insert(at + HEADER_LEN, |out| write_describe(out, NOBODY));
        self.expect.sent(b'D');
        self.expect.tell(Told::Instead(Rc::new(refusal)));
        self.up = Body {
            left: header.body_len(),
            text: false,
            swallowed: true,
        };
        Begun::Bytes(HEADER_LEN)
    }

    /// The name is taken: the server finds out, unless the text is wrong to begin with.
    #[expect(clippy::too_many_arguments, reason = "parts of one message")]
    fn parse_again(
        &mut self,
        header: Header,
        told: Told,
        text: &[u8],
        types: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Begun {
        if with.server.find(TAKEN).is_none() {
            // Empty, so that it can be parsed in a failed transaction too.
            edit.insert(at, |out| {
                write_parse(out, &server_name(TAKEN), b"", b"\0\0")
            });
            self.prepared(TAKEN, Held::default(), at, with, edit);
        }
        let begun = self.replaced(header, at, edit);
        self.tally.client_parses += 1;
        edit.insert(at + header.message_len(), |out| {
            write_parse(out, &server_name(TAKEN), text, types)
        });
        self.expect.sent(b'P');
        self.expect.tell(told);
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
        let portal = take_cstr(body).map(|(portal, _)| portal);
        let mut portals = self.deallocates.iter();
        let place = portals.position(|(bound, _)| Some(&bound[..]) == portal);
        if place.is_some() && self.expect.statements_are_open() {
            return Begun::Wait;
        }
        self.executed = true;
        match place.map(|place| self.deallocates.swap_remove(place)) {
            Some((_, target)) => self.execute_deallocate(header, target, at, with, edit),
            None => self.begin_up(header),
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

    /// What the server deallocates has to exist if the statement does, and is of no other use.
    fn execute_deallocate(
        &mut self,
        header: Header,
        target: Deallocated,
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) {
        let ends = match target {
            Deallocated::Prepared(named) => {
                if with.client.get(&named.name).is_some() {
                    self.prepare_aside(GONE, b"", b"\0\0", at, edit);
                } else {
                    edit.insert(at, |out| write_close(out, GONE));
                    self.expect.sent_by_us(b'C');
                }
                Some(named)
            }
            Deallocated::Unknown(name) => {
                let found = with.client.get(&name).cloned();
                if found.is_some() {
                    self.prepare_aside(&name, b"", b"\0\0", at, edit);
                    self.seen.insert(Seen::PREPARED); // under the client's own name, should it stay there
                }
                found
            }
        };
        self.begin_up(header);
        if let Some(named) = ends {
            self.forget(&named, with);
        }
    }

    /// What the message noted last does, if it goes well: the client's statement is gone.
    fn forget(&mut self, named: &Rc<Named>, with: &mut With<'_>) {
        self.expect.tell(Told::Name(named.clone()));
        let before = with.client.set(&named.name, None);
        self.expect.undo(Undo::Name(named.name.clone(), before));
    }

    fn parse_unnamed(
        &mut self,
        header: Header,
        text: &[u8],
        types: &[u8],
        with: &mut With<'_>,
    ) -> Begun {
        let encoding = encoding_of(text, with).to_vec();
        let same = |old: &Rc<Statement>| {
            old.text() == text && old.types() == types && *old.encoding() == *encoding
        };
        let old = with.client.statement(b"").filter(|old| same(old));
        let new = old.cloned();
        let (unnamed, slot) = kept(new.or_else(|| with.library.unnamed(text, types, &encoding)));
        self.begin_unnamed(header, unnamed, slot, with)
    }

    /// A text too long to be kept: without a name it lives on the server that the client holds now.
    fn parse_unkept(
        &mut self,
        header: Header,
        body: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Begun {
        if body.first() != Some(&0) {
            return self.refuse(header, too_long(header), at, edit);
        }
        self.begin_unnamed(header, Unnamed::OnServer, Slot::Unknown, with)
    }

    fn begin_unnamed(
        &mut self,
        header: Header,
        unnamed: Unnamed,
        slot: Slot,
        with: &mut With<'_>,
    ) -> Begun {
        let begun = self.passes(header);
        if let (b'P', Unnamed::Kept(statement)) = (header.tag, &unnamed) {
            self.seen.insert(statement.seen());
            self.up.text = false; // its words are read
        }
        self.note_unnamed(unnamed, slot, with);
        begun
    }

    fn note_unnamed(&mut self, unnamed: Unnamed, slot: Slot, with: &mut With<'_>) {
        self.unnamed_is_sure = true;
        let before = std::mem::replace(&mut with.client.unnamed, unnamed);
        self.expect.undo(Undo::Unnamed(before));
        self.note_slot(slot, with);
    }

    fn note_slot(&mut self, slot: Slot, with: &mut With<'_>) {
        let before = std::mem::replace(&mut with.server.slot, slot);
        self.expect.undo(Undo::Slot(before));
    }

    /// Whether it is open yet in which encoding a text is.
    fn encoding_is_open(&self, text: &[u8]) -> bool {
        let may_change = self.seen.contains(Seen::SET) && self.expect.status_is_open();
        !text.is_ascii() && (may_change || self.expect.is_query_of_ours())
    }

    /// Sees to it that a named statement is on the server; its name there.
    fn prepare(
        &mut self,
        named: &Rc<Named>,
        name: &[u8],
        purpose: Use,
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Found {
        let statement = &named.statement;
        self.seen.insert(statement.seen());
        let told = spelled(named, name);
        if let Some(held) = with.server.find(statement.id()) {
            return Found::As(server_name(held.number), told);
        }
        if self.expect.status_is_open() || self.encoding_is_open(statement.text()) {
            return Found::Wait;
        }
        if self.block_has_failed()
            && !statement.may_end_block()
            && let Some(description) = named.described.get()
            && !(purpose == Use::Describe && description.has_rows)
        {
            // It cannot be prepared there, nor run: an empty one with the same parameters fails, or is described, as it would.
            self.prepare_aside(STAND_IN, b"", &description.types, at, edit);
            return Found::As(ServerName::of(STAND_IN), told);
        }
        if encoding_of(statement.text(), with) != statement.encoding() {
            return Found::Refused(other_encoding(statement, with));
        }
        let held = Held {
            number: with.library.number(),
            described: named.described.clone(),
        };
        let server_name = server_name(held.number);
        edit.insert(at, |out| {
            write_parse(out, &server_name, statement.text(), statement.types())
        });
        self.tally.server_parses += 1;
        self.prepared(statement.id(), held, at, with, edit);
        Found::As(server_name, told)
    }

    /// Whether the server refuses whatever does not end the transaction block.
    fn block_has_failed(&self) -> bool {
        self.status == TransactionStatus::Failed && !self.executed
    }

    /// Prepares a statement for the message that comes next and no other.
    fn prepare_aside(
        &mut self,
        name: &[u8],
        text: &[u8],
        types: &[u8],
        at: usize,
        edit: &mut Edit<'_>,
    ) {
        edit.insert(at, |out| {
            write_close(out, name);
            write_parse(out, name, text, types);
        });
        self.expect.sent_by_us(b'C');
        self.expect.sent_by_us(b'P');
    }

    /// A Parse of our own was sent.
    fn prepared(
        &mut self,
        id: u64,
        held: Held,
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) {
        self.expect.sent_by_us(b'P');
        with.server.set(id, Some(held));
        self.expect.undo(Undo::Present(id, None));
        self.evict(at, with, edit);
    }

    /// Closes what the server holds beyond its limit. It has seen everything that refers to it by then.
    fn evict(&mut self, at: usize, with: &mut With<'_>, edit: &mut Edit<'_>) {
        while let Some(id) = with.server.surplus(with.max) {
            let Some(held) = with.server.set(id, None) else {
                return;
            };
            edit.insert(at, |out| write_close(out, &server_name(held.number)));
            self.tally.evictions += 1;
            self.expect.sent_by_us(b'C');
            self.expect.undo(Undo::Present(id, Some(held)));
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
    ) -> Begun {
        let here = rest
            .get(HEADER_LEN..header.message_len().min(rest.len()))
            .unwrap_or_default();
        let names = take_cstr(here).and_then(|(portal, after)| {
            let (name, _) = take_cstr(after)?;
            Some((portal, name))
        });
        let Some((portal, name)) = names else {
            let all = here.len() == header.body_len() || here.len() > limits::NAMES_MAX;
            return if all {
                self.passes(header)
            } else {
                Begun::More
            };
        };
        let named = with.client.get(name).cloned();
        let statement = named.as_ref().map(|named| &named.statement);
        let discards = statement
            .or_else(|| with.client.statement(name))
            .is_some_and(|statement| statement.discards());
        let target = if discards {
            what_it_deallocates(name, with)
        } else {
            None
        };
        let parses = self.tally.server_parses;
        if target.is_some() && self.expect.status_is_open() {
            return Begun::Wait;
        }
        let target = target.filter(|_| !self.block_has_failed());
        if target.is_some() && self.deallocates.len() >= limits::DEALLOCATING_PORTALS_MAX {
            return self.refuse(header, too_many_portals(), at, edit);
        }
        let found = match target {
            Some(Deallocated::Prepared(_)) => self.bind_deallocate(name, at, with, edit),
            _ => self.find(name, named, Use::Bind, at, with, edit),
        };
        match found {
            Found::Wait => return Begun::Wait,
            Found::Refused(refusal) => return self.refuse(header, refusal, at, edit),
            Found::AsItIs | Found::As(..) => {}
        }
        if !self.deallocates.is_empty() {
            self.deallocates.retain(|(bound, _)| bound != portal);
        }
        if let Some(target) = target {
            self.deallocates.push((portal.to_vec(), target));
        }
        self.discarding |= discards;
        let Found::As(server_name, told) = found else {
            return self.passes(header);
        };
        let skipped = HEADER_LEN + portal.len() + 1 + name.len() + 1;
        let length = header.length as usize + server_name.len() - name.len();
        edit.skip(at, at + skipped);
        edit.insert(at + skipped, |out| {
            let [a, b, c, d] = (length as u32).to_be_bytes();
            out.extend_from_slice(&[b'B', a, b, c, d]);
            // With what ends it, as it came.
            out.extend_from_slice(here.get(..=portal.len()).unwrap_or_default());
            out.extend_from_slice(server_name.ended());
        });
        self.begin_up(header);
        self.tally.binds += u64::from(!name.is_empty());
        self.tally.hits += u64::from(!name.is_empty() && self.tally.server_parses == parses);
        self.expect.tell(told);
        self.up.left = header.message_len() - skipped;
        Begun::Bytes(skipped)
    }

    /// What a client's name is on the server, prepared there by now. `named`: what it knows by it.
    fn find(
        &mut self,
        name: &[u8],
        named: Option<Rc<Named>>,
        purpose: Use,
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Found {
        if name.is_empty() {
            return self.find_unnamed(at, with, edit);
        }
        if self.expect.statements_are_open() {
            return Found::Wait;
        }
        match named {
            Some(named) => self.prepare(&named, name, purpose, at, with, edit),
            None if is_one_of_ours(name) => {
                Found::As(ServerName::of(NOBODY), Told::Spelled(name.into()))
            }
            None => Found::AsItIs, // nobody's but perhaps SQL's
        }
    }

    /// Sees to it that the server's unnamed statement is the client's.
    fn find_unnamed(&mut self, at: usize, with: &mut With<'_>, edit: &mut Edit<'_>) -> Found {
        if !self.unnamed_is_sure && self.expect.status_is_open() {
            return Found::Wait;
        }
        self.unnamed_is_sure = true;
        match &with.client.unnamed {
            Unnamed::Kept(statement) if with.server.slot_holds(statement) => {
                self.seen.insert(statement.seen());
            }
            Unnamed::Kept(statement) => {
                let statement = statement.clone();
                if self.encoding_is_open(statement.text()) {
                    return Found::Wait;
                }
                if encoding_of(statement.text(), with) != statement.encoding() {
                    return Found::Refused(other_encoding(&statement, with));
                }
                self.seen.insert(statement.seen());
                edit.insert(at, |out| {
                    write_parse(out, b"", statement.text(), statement.types())
                });
                self.expect.sent_by_us(b'P');
                self.note_slot(Slot::Holds(statement.id()), with);
            }
            Unnamed::None if with.server.slot != Slot::Empty => {
                edit.insert(at, |out| write_close(out, b""));
                self.expect.sent_by_us(b'C');
                self.note_slot(Slot::Empty, with);
            }
            _ => {}
        }
        Found::AsItIs
    }

    /// Binds a DEALLOCATE of a name that the server knows. It happens when the portal is executed.
    fn bind_deallocate(
        &mut self,
        name: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Found {
        let sql = [b"DEALLOCATE ".as_slice(), GONE].concat();
        let statement = with.client.statement(name);
        let types = statement.map_or(&b"\0\0"[..], |statement| statement.types());
        self.prepare_aside(STAND_IN, &sql, types, at, edit);
        Found::As(ServerName::of(STAND_IN), Told::Spelled(name.into()))
    }

    fn describe(
        &mut self,
        header: Header,
        body: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Begun {
        let Some(name) = statement_name(body) else {
            return self.passes(header);
        };
        let named = with.client.get(name).cloned();
        let (server_name, told) = match self.find(name, named, Use::Describe, at, with, edit) {
            Found::Wait => return Begun::Wait,
            Found::Refused(refusal) => return self.refuse(header, refusal, at, edit),
            Found::AsItIs => return self.passes(header),
            Found::As(server_name, told) => (server_name, told),
        };
        let begun = self.replaced(header, at, edit);
        let end = at + header.message_len();
        edit.insert(end, |out| write_describe(out, &server_name));
        self.expect.sent(b'D');
        self.expect.tell(told);
        begun
    }

    fn close(
        &mut self,
        header: Header,
        body: &[u8],
        at: usize,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Begun {
        let Some(name) = statement_name(body) else {
            return self.passes(header);
        };
        if name.is_empty() {
            return self.begin_unnamed(header, Unnamed::None, Slot::Empty, with);
        }
        if self.expect.statements_are_open() {
            return Begun::Wait;
        }
        if with.client.get(name).is_none() && !is_one_of_ours(name) {
            return self.passes(header); // perhaps SQL has prepared it
        }
        let begun = self.replaced(header, at, edit);
        self.expect.answered_here(b'C');
        let before = with.client.set(name, None);
        self.expect.undo(Undo::Name(name.into(), before));
        begun
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
    ) -> Begun {
        let start = rest
            .get(HEADER_LEN..header.message_len().min(rest.len()))
            .unwrap_or_default();
        let word = first_word(start);
        if word.eq_ignore_ascii_case(b"deallocate") && header.message_len() <= limits::NAMES_MAX {
            let Some(body) = rest.get(HEADER_LEN..header.message_len()) else {
                return Begun::More;
            };
            if self.expect.statements_are_open() {
                return Begun::Wait;
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
                self.forget(&named, with);
                let id = named.statement.id();
                let before = with.server.set(id, None);
                self.expect.undo(Undo::Present(id, before));
                self.end_unnamed(with);
                self.barrier = true;
                return begun;
            }
        }
        self.executed = false;
        let begun = self.passes(header);
        self.end_unnamed(with);
        begun
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
        if let Some(held) = with.server.find(statement.id()) {
            return held.number;
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

/// What the statement of this name deallocates, if that is what it does.
fn what_it_deallocates(name: &[u8], with: &With<'_>) -> Option<Deallocated> {
    let statement = with.client.statement(name)?;
    let target = statement
        .discards()
        .then(|| deallocated(statement.text()))??;
    Some(match with.client.get(&target) {
        Some(named) => Deallocated::Prepared(named.clone()),
        None => Deallocated::Unknown(target),
    })
}

fn write_describe(out: &mut Vec<u8>, name: &[u8]) {
    message(out, b'D', |b| {
        b.push(b'S');
        cstr(b, name);
    });
}

fn write_close(out: &mut Vec<u8>, name: &[u8]) {
    message(out, b'C', |b| {
        b.push(b'S');
        cstr(b, name);
    });
}

/// A statement's name as the client spells it now: names may differ behind what PostgreSQL looks at.
fn spelled(named: &Rc<Named>, name: &[u8]) -> Told {
    if *named.name == *name {
        Told::Name(named.clone())
    } else {
        Told::Spelled(name.into())
    }
}

/// The encoding that a text is in, if that makes a difference.
fn encoding_of<'a>(text: &[u8], with: &'a With<'_>) -> &'a [u8] {
    if text.is_ascii() {
        return b"";
    }
    with.encoding()
}

fn other_encoding(statement: &Statement, with: &With<'_>) -> Refusal {
    let (before, now) = (printable(statement.encoding()), printable(with.encoding()));
    let text = "cannot prepare the statement again in another client_encoding";
    Refusal::error(b"0A000", text)
        .detail(format!(
            "Its text is in {before}, client_encoding is {now}, and this server connection does not have it yet."
        ))
        .hint("Close the statement and prepare it again, or use mode: session for this client.")
}

fn reserved(name: &[u8]) -> Refusal {
    let text = format!(
        "prepared statement name \"{}\" is reserved",
        printable(name)
    );
    Refusal::error(b"42939", text)
        .hint("Names that begin with \"aether_\" are the pooler's own; choose another one.")
}

fn too_many(names: usize) -> Refusal {
    let (names_max, texts_max) = (
        limits::STATEMENTS_PER_CLIENT_MAX,
        limits::STATEMENT_BYTES_MAX >> 20,
    );
    Refusal::error(b"54000", "too many prepared statements")
        .detail(format!(
            "This client has {names} of {names_max}; the texts of all clients may take {texts_max} MB."
        ))
        .hint("Close statements that are no longer needed, or prepare fewer different texts.")
}

fn too_many_portals() -> Refusal {
    let max = limits::DEALLOCATING_PORTALS_MAX;
    Refusal::error(b"54000", "too many portals that deallocate statements")
        .detail(format!(
            "There may be {max} in one transaction that are not run."
        ))
        .hint("Run them, or use mode: session for this client.")
}

fn too_long(header: Header) -> Refusal {
    let (length, max) = (header.message_len(), limits::STATEMENT_MAX >> 10);
    let text = "the text of a named prepared statement is too long";
    Refusal::error(b"54000", text)
        .detail(format!(
            "The Parse message has {length} bytes, {max} kB are kept."
        ))
        .hint("Use the unnamed statement, or mode: session for this client.")
}

/// The name in `DEALLOCATE [PREPARE] name`, if that is all there is and it is not `ALL`.
fn deallocated(body: &[u8]) -> Option<Vec<u8>> {
    let text = body.strip_suffix(b"\0").unwrap_or(body);
    let (word, rest) = take_word(text);
    if !word.eq_ignore_ascii_case(b"deallocate") {
        return None;
    }
    let (word, after) = take_word(rest);
    let is_prefix = word.eq_ignore_ascii_case(b"prepare") && !ends(after);
    let (name, after) = take_name(if is_prefix { after } else { rest })?;
    ends(after).then_some(name)
}

/// An identifier as PostgreSQL reads it, if it is not `ALL`, and what follows it.
fn take_name(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let text = skip_blanks(text);
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let is_in =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80;
        let end = text.iter().position(|&byte| !is_in(byte));
        let (name, rest) = text.split_at_checked(end.unwrap_or(text.len()))?;
        let name = name.to_ascii_lowercase();
        let is_wrong = name.first()?.is_ascii_digit() || name.starts_with(b"$");
        return (!is_wrong && name != b"all").then_some((name, rest));
    };
    let mut name = Vec::new();
    loop {
        let end = rest.iter().position(|&byte| byte == b'"')?;
        let (part, after) = rest.split_at_checked(end)?;
        name.extend_from_slice(part);
        rest = after.get(1..)?;
        match rest.strip_prefix(b"\"") {
            Some(more) => rest = more,
            None => return Some((name, rest)),
        }
        name.push(b'"');
    }
}

/// Whether no more follows in a text than what ends a statement.
fn ends(text: &[u8]) -> bool {
    let mut rest = skip_blanks(text);
    while let Some(after) = rest.strip_prefix(b";") {
        rest = skip_blanks(after);
    }
    rest.is_empty()
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
            (b"deallocate /* */ prepare -- x\n\"d\";;\0", Some(b"d")),
            (b"DEALLOCATE\"d\"\0", Some(b"d")),
            (b"DEALLOCATE \"all\"\0", Some(b"all")),
            (b"DEALLOCATE 1\0", None),
            (b"DEALLOCATE \"open\0", None),
            (b"DEALLOCATE ALL\0", None),
            (b"DEALLOCATE a; DEALLOCATE b\0", None),
            (b"DEALLOCATE\0", None),
            (b"DISCARD plans\0", None),
        ] {
            assert_eq!(deallocated(sql).as_deref(), name);
        }
    }
}
