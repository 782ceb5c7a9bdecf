//! Prepared statements across servers: what each client has prepared, what each server holds, and the texts, kept once.
//!
//! A client's named statement is known to servers by a name of Aether's own, so that two clients may use one name for two
//! texts and share one text under two names. What a server holds is noted when it is asked for, in the order in which the
//! server will see it, and taken back when an error skips it ([`Undo`]). Knows nothing of messages.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::{Rc, Weak};

use ring::digest::{SHA256, digest};

use super::vars::Vars;
use super::words::{Seen, Words, first_word};
use crate::limits;
use crate::wire::frame::take_cstr;

/// What the names that Aether gives to statements on servers begin with.
pub const PREFIX: &[u8] = b"aether_";

/// The text of a statement and the types of its parameters, as Parse gave them.
#[derive(Debug)]
pub struct Statement {
    id: u64,
    text: Box<[u8]>,
    /// The count of parameter types and the types, as they stand in the message.
    types: Box<[u8]>,
    /// The client_encoding that the text is in; empty where that makes no difference.
    encoding: Box<[u8]>,
    seen: Seen,
    /// It is DEALLOCATE or DISCARD: it may end prepared statements.
    discards: bool,
    /// It may be such that a failed transaction block takes it: one that ends the block, or nothing at all.
    may_end_block: bool,
    /// What all statements take.
    bytes: Rc<Cell<usize>>,
}

impl Drop for Statement {
    fn drop(&mut self) {
        self.bytes.set(self.bytes.get() - self.size());
    }
}

impl Statement {
    /// Its id; no other ever has it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The words of its text that matter.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Whether it may end prepared statements.
    pub fn discards(&self) -> bool {
        self.discards
    }

    /// Whether PostgreSQL may prepare and run it in a failed transaction block.
    pub fn may_end_block(&self) -> bool {
        self.may_end_block
    }

    /// The text, without its NUL.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The client_encoding that the text is in; empty where that makes no difference.
    pub fn encoding(&self) -> &[u8] {
        &self.encoding
    }

    /// What follows the text in a Parse message.
    pub fn types(&self) -> &[u8] {
        &self.types
    }

    /// So many parameters, from the first on, have types that Parse gave.
    pub fn fixed_types(&self) -> usize {
        let types = self.types.get(2..).unwrap_or_default();
        let given = types.chunks_exact(4).take_while(|oid| *oid != [0; 4]);
        given.count()
    }

    fn size(&self) -> usize {
        size_of::<Statement>() + self.text.len() + self.types.len() + self.encoding.len()
    }
}

/// Stands for an empty statement whose name is taken, on servers that were asked to find out what is wrong with a Parse of a
/// name that the client has given already. As an id and as a number, since no other statement has it.
pub const TAKEN: u64 = 0;

/// What a server has said that a statement takes and gives.
#[derive(Debug)]
pub struct Description {
    /// ParameterDescription's body, which is also how Parse gives types.
    pub types: Box<[u8]>,
    /// Whether it returns rows.
    pub has_rows: bool,
}

/// A [`Description`], once it has come. Of one database, so it is not the [`Statement`]'s, which all may share.
pub type Described = Rc<OnceCell<Description>>;

/// A statement under the name that a client gave it.
#[derive(Debug)]
pub struct Named {
    /// The client's name.
    pub name: Box<[u8]>,
    /// What it stands for.
    pub statement: Rc<Statement>,
    /// What the server said of it that prepared it first.
    pub described: Described,
    /// The client was told of the types of its parameters.
    pub tells_types: Cell<bool>,
}

/// All texts of named statements, each once, and the bytes that all statements take.
#[derive(Default)]
pub struct Library {
    named: BTreeMap<[u8; 32], Weak<Statement>>,
    /// With so many, those that nobody has any more are swept out.
    sweep_at: usize,
    bytes: Rc<Cell<usize>>,
    next_id: u64,
    next_number: u64,
}

impl Library {
    /// A named statement's text: the one that is known already, or a new one. `None`: statements take too many bytes.
    pub fn named(&mut self, text: &[u8], types: &[u8], encoding: &[u8]) -> Option<Rc<Statement>> {
        let key = Library::key(text, types, encoding);
        if let Some(known) = self.named.get(&key).and_then(Weak::upgrade) {
            return Some(known);
        }
        let new = self.unnamed(text, types, encoding)?;
        self.named.insert(key, Rc::downgrade(&new));
        if self.named.len() > self.sweep_at {
            self.named
                .retain(|_, statement| statement.strong_count() > 0);
            self.sweep_at = 2 * self.named.len() + 1_000;
        }
        Some(new)
    }

    /// A text that is nobody else's. `None`: statements take too many bytes.
    pub fn unnamed(&mut self, text: &[u8], types: &[u8], encoding: &[u8]) -> Option<Rc<Statement>> {
        let mut seen = Seen::default();
        let mut words = Words::default();
        words.read(text, &mut seen);
        words.end(&mut seen);
        self.next_id += 1;
        let size = size_of::<Statement>() + text.len() + types.len() + encoding.len();
        if self.bytes.get() + size > limits::STATEMENT_BYTES_MAX {
            return None;
        }
        self.bytes.set(self.bytes.get() + size);
        Some(Rc::new(Statement {
            id: self.next_id,
            text: text.into(),
            types: types.into(),
            encoding: encoding.into(),
            seen,
            discards: discards(first_word(text)),
            may_end_block: may_end_block(text),
            bytes: self.bytes.clone(),
        }))
    }

    /// Whoever asks for this text from now on gets another statement. Those who have this one keep it.
    pub fn forget(&mut self, statement: &Rc<Statement>) {
        let key = Library::key(&statement.text, &statement.types, &statement.encoding);
        let same = |known: &Weak<Statement>| std::ptr::eq(known.as_ptr(), Rc::as_ptr(statement));
        if self.named.get(&key).is_some_and(same) {
            self.named.remove(&key);
        }
    }

    fn key(text: &[u8], types: &[u8], encoding: &[u8]) -> [u8; 32] {
        let whole = [encoding, b"\0", text, b"\0", types].concat();
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, &whole).as_ref());
        key
    }

    /// A name for a statement on a server, as a number that is never used again.
    pub fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Bytes that statements take, texts of all clients together.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

/// A client's unnamed statement.
#[derive(Clone, Debug, Default)]
pub enum Unnamed {
    /// It has none.
    #[default]
    None,
    /// This; it works on whatever server comes.
    Kept(Rc<Statement>),
    /// One that was too long to be kept; it lives on the server that the client holds.
    OnServer,
}

type Names = BTreeMap<Box<[u8]>, Rc<Named>>;

/// What a client has prepared.
#[derive(Debug, Default)]
pub struct ClientStatements {
    /// By name; nothing for the many clients that have named none.
    names: Option<Box<Names>>,
    /// Its unnamed statement.
    pub unnamed: Unnamed,
}

impl ClientStatements {
    /// The statement of a name.
    pub fn get(&self, name: &[u8]) -> Option<&Rc<Named>> {
        self.names.as_ref()?.get(significant(name))
    }

    /// The statement of a name, or the unnamed one if it is kept.
    pub fn statement(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        match (&self.unnamed, name) {
            (Unnamed::Kept(statement), b"") => Some(statement),
            (_, b"") => None,
            _ => self.get(name).map(|named| &named.statement),
        }
    }

    /// Whether it may prepare no more.
    pub fn is_full(&self) -> bool {
        self.count() >= limits::STATEMENTS_PER_CLIENT_MAX
    }

    /// Notes a statement, or that there is none; gives back what was there.
    pub fn set(&mut self, name: &[u8], named: Option<Rc<Named>>) -> Option<Rc<Named>> {
        match named {
            Some(named) => self
                .names
                .get_or_insert_default()
                .insert(significant(name).into(), named),
            None => self.names.as_mut()?.remove(significant(name)),
        }
    }

    /// Forgets all named statements.
    pub fn clear(&mut self) {
        self.names = None;
    }

    /// How many named ones there are.
    pub fn count(&self) -> usize {
        self.names.as_ref().map_or(0, |names| names.len())
    }
}

impl Named {
    /// A statement that was parsed under a name.
    pub fn new(name: &[u8], statement: Rc<Statement>, described: Described) -> Named {
        Named {
            name: name.into(),
            statement,
            described,
            tells_types: Cell::new(false),
        }
    }

    /// Whether a name, as it is spelled, is this one.
    pub fn is_called(&self, name: &[u8]) -> bool {
        significant(&self.name) == significant(name)
    }

    /// Whether it is the same statement under the same name.
    pub fn is_same(&self, other: &Named) -> bool {
        self.is_called(&other.name) && Rc::ptr_eq(&self.statement, &other.statement)
    }

    /// The same statement parsed anew; the client has learnt nothing of that, and no server has described it.
    pub fn renewed(&self, statement: Rc<Statement>) -> Named {
        Named {
            name: self.name.clone(),
            statement,
            described: Described::default(),
            tells_types: self.tells_types.clone(),
        }
    }
}

/// The part of a statement's name that PostgreSQL looks at: `NAMEDATALEN` less one bytes.
fn significant(name: &[u8]) -> &[u8] {
    name.get(..limits::NAME_LEN).unwrap_or(name)
}

/// What a server's unnamed statement is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slot {
    /// There is none.
    #[default]
    Empty,
    /// The statement of this id.
    Holds(u64),
    /// One that nobody knows any more.
    Unknown,
}

/// A statement as a server has it.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// Its name there ([`server_name`]).
    pub number: u64,
    /// What it takes and gives.
    pub described: Described,
}

/// What a server holds, once it has seen all that was sent to it.
#[derive(Debug, Default)]
pub struct ServerStatements {
    /// By statement: what the server has, and when it was used last.
    present: BTreeMap<u64, (Held, u64)>,
    by_use: BTreeMap<u64, u64>,
    uses: u64,
    /// The unnamed one.
    pub slot: Slot,
}

impl ServerStatements {
    /// A statement if it is there; it counts as used.
    pub fn find(&mut self, id: u64) -> Option<&Held> {
        let (held, used) = self.present.get_mut(&id)?;
        if *used != self.uses {
            self.by_use.remove(used);
            self.uses += 1;
            *used = self.uses;
            self.by_use.insert(self.uses, id);
        }
        Some(held)
    }

    /// How many named ones there are.
    pub fn count(&self) -> usize {
        self.present.len()
    }

    /// Whether its unnamed statement is this one.
    pub fn slot_holds(&self, statement: &Statement) -> bool {
        self.slot == Slot::Holds(statement.id)
    }

    /// Notes a statement, or that it is gone; gives back what was there.
    pub fn set(&mut self, id: u64, held: Option<Held>) -> Option<Held> {
        let old = self.present.remove(&id);
        if let Some((_, used)) = &old {
            self.by_use.remove(used);
        }
        if let Some(held) = held {
            self.uses += 1;
            self.present.insert(id, (held, self.uses));
            self.by_use.insert(self.uses, id);
        }
        old.map(|(held, _)| held)
    }

    /// The statement that was not used for the longest, when there are more than `max`: its id.
    pub fn surplus(&self, max: usize) -> Option<u64> {
        if self.present.len() <= max {
            return None;
        }
        self.by_use.first_key_value().map(|(_, id)| *id)
    }

    /// All named statements are gone.
    pub fn clear(&mut self) {
        self.present.clear();
        self.by_use.clear();
    }
}

/// How to take back what a message was noted to do, should it be skipped or fail. An unnamed statement that could not be parsed
/// has ended the one before all the same.
#[derive(Debug)]
pub enum Undo {
    /// The client had this, or nothing, under a name.
    Name(Box<[u8]>, Option<Rc<Named>>),
    /// The client had this unnamed statement.
    Unnamed(Unnamed),
    /// The server had this, or nothing, for a statement.
    Present(u64, Option<Held>),
    /// The server had this unnamed statement.
    Slot(Slot),
}

impl Undo {
    /// Whether it is about named statements.
    pub fn is_named(&self) -> bool {
        matches!(self, Undo::Name(..) | Undo::Present(..))
    }

    /// Hands what was before to the first of the `later` changes of the same, which will have to take back as much. What is
    /// left: nothing has changed it since. Named statements are never changed while it is open what they are.
    pub fn put_before<'a>(
        self,
        failed: bool,
        mut later: impl Iterator<Item = &'a mut Undo>,
    ) -> Option<Undo> {
        match self {
            Undo::Unnamed(before) => {
                let before = if failed { Unnamed::None } else { before };
                match later.find(|undo| matches!(undo, Undo::Unnamed(_))) {
                    Some(next) => *next = Undo::Unnamed(before),
                    None => return Some(Undo::Unnamed(before)),
                }
            }
            Undo::Slot(before) => {
                let before = if failed { Slot::Empty } else { before };
                match later.find(|undo| matches!(undo, Undo::Slot(_))) {
                    Some(next) => *next = Undo::Slot(before),
                    None => return Some(Undo::Slot(before)),
                }
            }
            named => return Some(named),
        }
        None
    }
}

/// Everything that one client's messages to one server may change.
pub struct With<'a> {
    /// The client's.
    pub client: &'a mut ClientStatements,
    /// The server's.
    pub server: &'a mut ServerStatements,
    /// The server's settings, where something may be prepared.
    pub vars: Option<&'a Vars>,
    /// Everybody's.
    pub library: &'a mut Library,
    /// Most named statements that one server holds.
    pub max: usize,
}

impl With<'_> {
    /// The client_encoding of the session as the server has reported it.
    pub fn encoding(&self) -> &[u8] {
        let value = self.vars.and_then(|vars| vars.get(b"client_encoding"));
        value.unwrap_or_default()
    }

    /// Takes something back.
    pub fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Name(name, before) => drop(self.client.set(&name, before)),
            Undo::Unnamed(before) => self.client.unnamed = before,
            Undo::Present(id, before) => drop(self.server.set(id, before)),
            Undo::Slot(before) => self.server.slot = before,
        }
    }
}

/// Whether a query that begins with this word is DEALLOCATE or DISCARD.
fn discards(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"deallocate") || word.eq_ignore_ascii_case(b"discard")
}

/// Whether a text may be one that PostgreSQL takes in a failed transaction block. If in doubt it may.
fn may_end_block(text: &[u8]) -> bool {
    let words: [&[u8]; 6] = [b"", b"commit", b"end", b"rollback", b"abort", b"prepare"];
    let first = first_word(text);
    words.iter().any(|word| first.eq_ignore_ascii_case(word))
}

/// The name in the body of a Describe or Close, if it is a statement's.
pub fn statement_name(body: &[u8]) -> Option<&[u8]> {
    let (name, _) = body.strip_prefix(b"S").and_then(take_cstr)?;
    Some(name)
}

/// Whether a name is one of those that Aether gives to statements on servers.
pub fn is_one_of_ours(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

/// Of a name on servers and the NUL behind it.
const SERVER_NAME_ROOM: usize = 24;

/// A name of a statement on servers. It is made for every message that names one, so it takes no heap.
#[derive(Clone, Copy, Debug)]
pub struct ServerName {
    bytes: [u8; SERVER_NAME_ROOM],
    length: usize,
}

impl ServerName {
    /// One of those that have no number.
    pub fn of(name: &[u8]) -> ServerName {
        let mut new = ServerName {
            bytes: [0; SERVER_NAME_ROOM],
            length: 0,
        };
        new.push(name);
        new
    }

    /// With the NUL that ends it in a message.
    pub fn ended(&self) -> &[u8] {
        self.bytes.get(..=self.length).unwrap_or_default()
    }

    /// One byte stays 0.
    fn push(&mut self, part: &[u8]) {
        let end = self.length + part.len();
        let room = self.bytes.get_mut(self.length..end);
        if let Some(room) = room.filter(|_| end < SERVER_NAME_ROOM) {
            room.copy_from_slice(part);
            self.length = end;
        }
    }
}

impl Deref for ServerName {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// The name of a statement on servers.
pub fn server_name(number: u64) -> ServerName {
    let mut name = ServerName::of(PREFIX);
    let digits = number.checked_ilog2().unwrap_or(0) / 4 + 1;
    for digit in (0..digits).rev() {
        let digit = number >> (4 * digit) & 15;
        name.push(&b"0123456789abcdef"[digit as usize..=digit as usize]);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_forgotten_with_its_last_client() {
        let mut library = Library::default();
        let one = library.named(b"select 1", b"\0\0", b"").expect("room");
        let two = library.named(b"select 1", b"\0\0", b"").expect("room");
        let other = library
            .named(b"select 1", b"\0\x01\0\0\0\x17", b"")
            .expect("room");
        assert!(Rc::ptr_eq(&one, &two) && !Rc::ptr_eq(&one, &other));
        assert!(library.bytes() > 0);
        drop(one);
        let again = library.named(b"select 1", b"\0\0", b"").expect("room");
        assert!(Rc::ptr_eq(&again, &two));
        drop((two, again, other));
        assert_eq!(library.bytes(), 0);
    }

    #[test]
    fn names_on_servers_are_numbers_in_hexadecimal() {
        for number in [0, 1, 9, 15, 16, 255, 256, 0xABCDE, u64::MAX] {
            let expected = format!("aether_{number:x}");
            assert_eq!(&*server_name(number), expected.as_bytes());
        }
        assert_eq!(&*ServerName::of(b"aether_nobody"), b"aether_nobody");
    }

    #[test]
    fn the_least_recently_used_statement_is_the_surplus() {
        let (mut library, mut server) = (Library::default(), ServerStatements::default());
        let statements: Vec<_> = (0..3)
            .map(|n| {
                library
                    .named(format!("{n}").as_bytes(), b"", b"")
                    .expect("room")
            })
            .collect();
        for (number, statement) in statements.iter().enumerate() {
            let number = number as u64;
            let held = Held {
                number,
                ..Held::default()
            };
            server.set(statement.id, Some(held));
        }
        assert_eq!(server.surplus(3), None);
        assert_eq!(server.surplus(2), Some(statements[0].id));
        assert_eq!(
            server.find(statements[0].id()).map(|held| held.number),
            Some(0)
        );
        assert_eq!(server.surplus(2), Some(statements[1].id));
        let before = server.set(statements[1].id, None);
        assert_eq!(before.map(|held| held.number), Some(1));
        assert_eq!(server.surplus(2), None);
    }
}
