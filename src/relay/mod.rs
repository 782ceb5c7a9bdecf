//! The hot table: what may pass between a client and its server, and what has to be noticed on the way.
//!
//! Pure. Scans what was read in place and says how much of it may be written to the other end as it is. Nearly everything
//! only streams by: of most messages just the header is looked at. Knows no sockets, no pool, no clock.

mod expect;
pub mod idle;
mod plain;
pub mod prepared;
mod recover;
mod rewrite;
mod skip;
pub mod traces;
#[cfg(test)]
mod tracks;
pub mod vars;
mod words;

pub use expect::Expect;
use expect::{Goes, Told};
use prepared::{Description, With};
use recover::{Failure, Recover};
use rewrite::{Deallocated, Edit};
pub use skip::Skip;
pub use vars::{Settings, Vars};
pub use words::Seen;

use std::rc::Rc;

use crate::limits;
use crate::wire::backend::TransactionStatus;
use crate::wire::frame::{self, BadLength, HEADER_LEN, Header, cstr, printable, take_cstr};
use crate::wire::refusal::{self, Blame, Refusal};
use traces::Ran;
use words::Words;

/// What one end's bytes may do.
#[derive(Debug, PartialEq, Eq)]
pub struct Passage {
    /// So many bytes from the start may be written to the other end. The rest is kept for the next read.
    pub pass: usize,
    /// Whether they pass as they are; if not, what passes in their place was written elsewhere.
    pub in_place: bool,
    /// What comes after them.
    pub then: Then,
}

/// What comes after the bytes that may pass.
#[derive(Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing yet: the rest is the start of a message that has to be seen first.
    More,
    /// Too much is owed already: the client is not read until some of it is answered.
    Full,
    /// The client says that it leaves (Terminate). It is not passed on.
    Terminate,
    /// Rules were broken: this end is closed with the error.
    Refuse(Refusal),
    /// The client's statement has begun a transaction block, where there must be none.
    Block,
}

/// What passes between one client and one server, from pairing to release.
#[derive(Debug)]
pub struct Relay {
    /// What the server still owes.
    expect: Expect,
    /// The client's message in progress.
    up: Body,
    /// The server's message in progress.
    down: Body,
    /// What is in progress from the server goes nowhere.
    swallowed: bool,
    /// From the last ReadyForQuery.
    status: TransactionStatus,
    /// Reads the words of query texts.
    words: Words,
    /// What was seen in them.
    seen: Seen,
    /// What the server says it has run, if the client shares it.
    ran: Ran,
    /// Whether the client has sent anything at all.
    touched: bool,
    /// The server has said that it ends the connection: nothing more comes, and nothing is answered in its place.
    ended: bool,
    /// The server has said more than the client's transaction brought about.
    surplus: bool,
    /// The client's next message waits for answers that decide what becomes of it.
    stalled: bool,
    /// The unnamed statement was last changed in the batch that is open.
    unnamed_is_sure: bool,
    /// What portals of these names deallocate that were made and not run, up to the end of the transaction, which is theirs.
    deallocates: Vec<(Vec<u8>, Deallocated)>,
    /// A statement was bound in the open batch that may end prepared statements.
    discarding: bool,
    /// It was run, and Flush sent behind it: its answer decides what becomes of what comes next.
    flushed: bool,
    /// The open batch, in case that it has to be tried again.
    recover: Recover,
    /// The last query may have changed what is prepared; nothing is sent before its answer.
    barrier: bool,
    /// The client has its server for one statement; nothing is sent behind one that might have begun a transaction block.
    one_statement: bool,
    /// Something was run in the open batch: the transaction may have ended with it.
    executed: bool,
    /// The first half of the answer to a Describe of ours.
    parameters: Vec<u8>,
    /// Type letter of the last message that the server began.
    last_answer: u8,
    /// SQLSTATE of the server's last error, until it is ready again.
    last_error: Option<[u8; 5]>,
    /// Queries (ReadyForQuery) and transactions (ReadyForQuery outside a block) since [`Relay::take_tally`].
    tally: Tally,
    /// Messages up to this length pass without another look; it stays from client to client.
    lenient: u32,
    /// Whether simple queries are refused.
    disable_pqexec: bool,
    /// The largest message of a client that may pass.
    max_packet_size: u32,
    /// The largest message of a server that may.
    largest_down: u32,
}

/// Counts since they were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// ReadyForQuery messages.
    pub queries: u64,
    /// Those of them that were outside a transaction block.
    pub transactions: u64,
    /// Named statements that the client has prepared.
    pub client_parses: u64,
    /// Named statements that were prepared on the server for it.
    pub server_parses: u64,
    /// Times that it has bound one.
    pub binds: u64,
    /// Those of them for which the server had it already.
    pub hits: u64,
    /// Named statements that were closed on the server because it held too many.
    pub evictions: u64,
}

/// What is left of a message whose header has passed.
#[derive(Clone, Copy, Debug, Default)]
struct Body {
    left: usize,
    /// Whether it is query text.
    text: bool,
    /// Whether it does not pass.
    swallowed: bool,
}

impl Default for Relay {
    fn default() -> Self {
        Relay {
            expect: Expect::default(),
            up: Body::default(),
            down: Body::default(),
            swallowed: false,
            status: TransactionStatus::Idle,
            words: Words::default(),
            seen: Seen::default(),
            ran: Ran::default(),
            touched: false,
            surplus: false,
            ended: false,
            stalled: false,
            unnamed_is_sure: false,
            deallocates: Vec::new(),
            discarding: false,
            flushed: false,
            recover: Recover::default(),
            barrier: false,
            one_statement: false,
            executed: false,
            parameters: Vec::new(),
            last_answer: 0,
            last_error: None,
            tally: Tally::default(),
            lenient: u32::MAX,
            disable_pqexec: false,
            max_packet_size: u32::MAX,
            largest_down: limits::SERVER_MESSAGE_MAX,
        }
    }
}

impl Relay {
    /// For the next client of the same server. Buffers stay.
    pub fn renew(&mut self) {
        // All of them, so that none is forgotten; one by one, since this is done for every transaction.
        let Relay {
            expect,
            up,
            down,
            swallowed,
            status,
            words,
            seen,
            ran,
            touched,
            ended,
            surplus,
            stalled,
            unnamed_is_sure,
            deallocates,
            discarding,
            flushed,
            recover,
            barrier,
            one_statement,
            executed,
            parameters,
            last_answer,
            last_error,
            tally,
            lenient: _,
            disable_pqexec: _,
            max_packet_size: _,
            largest_down: _,
        } = self;
        expect.renew();
        recover.begin_anew();
        (*up, *down, *swallowed) = (Body::default(), Body::default(), false);
        *status = TransactionStatus::Idle;
        (*words, *seen, *ran) = (Words::default(), Seen::default(), Ran::default());
        (*touched, *ended, *surplus, *stalled) = (false, false, false, false);
        (*unnamed_is_sure, *discarding) = (false, false);
        if !deallocates.is_empty() {
            deallocates.clear();
        }
        (*flushed, *barrier, *one_statement, *executed) = (false, false, false, false);
        (*last_answer, *last_error, *tally) = (0, None, Tally::default());
        parameters.clear();
    }

    /// Begins with a client. `one_statement`: it has its server for one statement, or one batch up to its Sync, and no
    /// transaction block may come of it.
    pub fn begin(&mut self, one_statement: bool) {
        debug_assert!(self.is_quiet() && !self.touched, "of the client before");
        self.one_statement = one_statement;
    }

    /// What clients may send beside PostgreSQL's own rules, and how large what passes may be. `max_packet_size` 0: no limit of
    /// its own.
    pub fn restrict(&mut self, disable_pqexec: bool, max_packet_size: u32) {
        self.disable_pqexec = disable_pqexec;
        self.max_packet_size = match max_packet_size {
            0 => u32::MAX,
            max => max,
        };
        self.lenient = if disable_pqexec {
            0
        } else {
            self.max_packet_size
        };
        self.largest_down = self.max_packet_size.min(limits::SERVER_MESSAGE_MAX);
    }

    /// Whether a client may send this.
    fn admits(&self, header: Header) -> Result<(), Refusal> {
        if header.length > self.lenient {
            self.look_twice(header)?;
        }
        allowed(header)
    }

    #[cold]
    fn look_twice(&self, header: Header) -> Result<(), Refusal> {
        if self.disable_pqexec && header.tag == b'Q' {
            let refusal = Refusal::fatal(b"0A000", "PQexec disallowed", Blame::Client);
            return Err(refusal.hint(
                "disable_pqexec is set in Aether's configuration: simple queries are refused.",
            ));
        }
        if header.length > self.max_packet_size {
            let (tag, length) = (header.tag, header.length);
            return Err(bad_length(BadLength { tag, length })
                .hint("See max_packet_size in Aether's configuration."));
        }
        Ok(())
    }

    /// Looks at what the client sent.
    pub fn up(&mut self, input: &[u8]) -> Passage {
        self.stalled = false;
        let mut at = 0;
        loop {
            at += self.pass_body_up(input.get(at..).unwrap_or_default());
            let rest = input.get(at..).unwrap_or_default();
            if self.up.left > 0 {
                return Passage {
                    pass: at,
                    in_place: true,
                    then: Then::More,
                };
            }
            let then = match Header::read(rest) {
                Ok(None) => Then::More,
                Err(bad) => Then::Refuse(bad_length(bad)),
                Ok(Some(Header { tag: b'X', .. })) => Then::Terminate,
                Ok(Some(header)) => match self.admits(header) {
                    Err(refusal) => Then::Refuse(refusal),
                    Ok(()) if self.expect.is_full() => Then::Full,
                    Ok(()) if self.waits_for_statement(header.tag) => {
                        self.stalled = true;
                        Then::Full
                    }
                    Ok(()) => {
                        self.begin_up(header);
                        at += HEADER_LEN;
                        continue;
                    }
                },
            };
            return Passage {
                pass: at,
                in_place: true,
                then,
            };
        }
    }

    fn begin_up(&mut self, header: Header) {
        self.touched = true;
        self.expect.sent(header.tag);
        // A Flush is not answered, but an error is one that has a body: nobody waits for it.
        if header.tag == b'H' && header.body_len() > 0 {
            self.expect.doubt();
        }
        if header.tag == b'P' {
            self.seen.insert(Seen::PREPARED);
        }
        self.up = Body {
            left: header.body_len(),
            text: matches!(header.tag, b'Q' | b'P'),
            swallowed: false,
        };
    }

    fn pass_body_up(&mut self, rest: &[u8]) -> usize {
        let count = self.up.left.min(rest.len());
        if self.up.text {
            self.words
                .read(rest.get(..count).unwrap_or_default(), &mut self.seen);
        }
        self.up.left -= count;
        if self.up.left == 0 && self.up.text {
            self.up.text = false;
            self.words.end(&mut self.seen);
        }
        count
    }

    /// Looks at what the server sent. ParameterStatus is noted in `vars`.
    pub fn down(&mut self, input: &[u8], vars: &mut Rc<Vars>) -> Passage {
        let mut at = 0;
        loop {
            at += self.pass_body_down(input.len() - at);
            let then = if self.down.left > 0 {
                Then::More
            } else {
                at += self.pass_plain(input.get(at..).unwrap_or_default(), false);
                let rest = input.get(at..).unwrap_or_default();
                let header = self.header_down(rest);
                match header.and_then(|header| match header {
                    Some(header) => self.begin_down(header, rest, vars),
                    None => Ok(None),
                }) {
                    Ok(None) => Then::More,
                    Ok(Some((count, _))) => {
                        at += count;
                        continue;
                    }
                    Err(refusal) => Then::Refuse(refusal),
                }
            };
            return Passage {
                pass: at,
                in_place: true,
                then,
            };
        }
    }

    fn pass_body_down(&mut self, here: usize) -> usize {
        let count = self.down.left.min(here);
        self.down.left -= count;
        count
    }

    /// Looks at what the server sent to a client that holds it for a transaction; what passes is in `out`, or passes in place
    /// if nothing of it is changed.
    pub fn down_rewriting(
        &mut self,
        input: &[u8],
        vars: &mut Rc<Vars>,
        with: &mut With<'_>,
        out: &mut Vec<u8>,
    ) -> Passage {
        let mut at = 0;
        if self.down.left == 0 && !self.has_due() {
            self.swallowed = false;
            at = self.pass_plain(input, true);
            if at == input.len() && !self.has_due() {
                return Passage {
                    pass: at,
                    in_place: true,
                    then: Then::More,
                }; // as a rule
            }
        }
        let mut edit = Edit::new(input, out);
        let then = loop {
            let count = self.pass_body_down(input.len() - at);
            if self.swallowed {
                edit.skip(at, at + count);
            }
            at += count;
            if self.down.left > 0 {
                break Then::More;
            }
            self.swallowed = false;
            self.write_due(at, &mut edit);
            let plain = self.pass_plain(input.get(at..).unwrap_or_default(), true);
            if plain > 0 {
                at += plain;
                self.write_due(at, &mut edit);
            }
            let rest = input.get(at..).unwrap_or_default();
            if self.is_over() && rest.first().is_some_and(|tag| !b"SNA".contains(tag)) {
                // Said after the end of the client's transaction, its end as a rule: that is not the client's.
                self.surplus = true;
                break Then::More;
            }
            match self.begins_a_block(rest) {
                Some(false) => {}
                Some(true) => {
                    self.last_answer = b'Z';
                    break Then::Block;
                }
                None => break Then::More,
            }
            let header = match self.header_down(rest) {
                Ok(Some(header)) if self.is_here(header, rest) => header,
                Ok(_) => break Then::More,
                Err(refusal) => break Then::Refuse(refusal),
            };
            self.learn(header, rest);
            let count = match header.tag {
                b't' => self.pass_types(header, rest, at, vars, with, &mut edit),
                b'E' => self.pass_error(header, rest, at, vars, with, &mut edit),
                _ => self.pass_answer(header, rest, at, vars, with, &mut edit),
            };
            match count {
                Ok(Some(count)) => at += count,
                Ok(None) => break Then::More,
                Err(refusal) => break Then::Refuse(refusal),
            }
        };
        Passage {
            pass: at,
            in_place: edit.finish(at),
            then,
        }
    }

    /// Passes the rows, or the data of a copy, from `at` on that are here whole and that the client waits for. Nearly all bytes are
    /// such. Where they end.
    fn pass_rows(&self, input: &[u8], mut at: usize) -> usize {
        let Some(tag) = self.expect.tag_of_rows() else {
            return at;
        };
        let largest = self.largest_down as usize + 1;
        while let Some([first, a, b, c, d]) = input.get(at..at + HEADER_LEN)
            && *first == tag
        {
            let length = 1 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let end = at + length;
            if end > input.len() || length < HEADER_LEN || length > largest {
                break;
            }
            at = pass_alike(input, at, length);
        }
        at
    }

    /// The header of the server's next message; `None`: it is not here yet.
    fn header_down(&self, rest: &[u8]) -> Result<Option<Header>, Refusal> {
        match Header::read(rest) {
            Ok(Some(Header { tag, length })) if length > self.largest_down => {
                let bad = BadLength { tag, length };
                Err(if length > limits::SERVER_MESSAGE_MAX {
                    server_broke(bad)
                } else {
                    too_large(bad)
                })
            }
            Ok(header) => Ok(header),
            Err(bad) => Err(server_broke(bad)),
        }
    }

    /// Puts in what is due before the server's next message.
    fn write_due(&mut self, at: usize, edit: &mut Edit<'_>) {
        if !self.has_due() {
            return; // as a rule
        }
        if let Some(error) = self.take_error() {
            edit.insert(at, |out| out.extend_from_slice(&error));
        }
        while let Some(tag) = self.expect.take_made() {
            edit.insert(at, |out| frame::message(out, tag, |_| {}));
        }
    }

    /// Begins a message that is what it is, unless it is not for the client. How many of its bytes are decided.
    fn pass_answer(
        &mut self,
        header: Header,
        rest: &[u8],
        at: usize,
        vars: &mut Rc<Vars>,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Result<Option<usize>, Refusal> {
        let Some((count, goes)) = self.begin_down(header, rest, vars)? else {
            return Ok(None);
        };
        if goes == Goes::Down {
            if header.tag == b'C' {
                self.notice_tag(rest, with);
            }
            if !b"NSA".contains(&header.tag) {
                self.recover.answered();
            }
        }
        if goes == Goes::Nowhere || self.is_unasked(header.tag) {
            self.swallowed = true;
            edit.skip(at, at + count);
        }
        self.take_back(with);
        Ok(Some(count))
    }

    /// The types of a statement's parameters. They may be the first half of an answer whose second one says that the statement
    /// is outdated.
    fn pass_types(
        &mut self,
        header: Header,
        rest: &[u8],
        at: usize,
        vars: &mut Rc<Vars>,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Result<Option<usize>, Refusal> {
        let Some(types) = self.types_of_outdated(header, rest) else {
            return Ok(None);
        };
        if !types.is_empty() {
            // Answered with the error, or not at all. The Describe waits for that.
            self.recover.hold(types);
            edit.skip(at, at + types.len());
            return Ok(Some(types.len()));
        }
        let count = self.pass_answer(header, rest, at, vars, with, edit)?;
        if count.is_some() {
            self.notice_types(with);
        }
        Ok(count)
    }

    /// An error: with a name in it, perhaps, that the client does not know; or one that it need not hear of.
    fn pass_error(
        &mut self,
        header: Header,
        rest: &[u8],
        at: usize,
        vars: &mut Rc<Vars>,
        with: &mut With<'_>,
        edit: &mut Edit<'_>,
    ) -> Result<Option<usize>, Refusal> {
        let told = self.told(header);
        let outdated = self.outdated(header, rest, told.as_ref(), with);
        let last_answer = self.last_answer;
        let Some((count, goes)) = self.begin_down(header, rest, vars)? else {
            return Ok(None);
        };
        if goes == Goes::Down && outdated.is_none() {
            self.recover.answered();
        }
        let (mut passed, mut waits) = (count, false);
        if goes == Goes::Nowhere {
            self.swallowed = true;
            edit.skip(at, at + count);
        } else if let Some(told) = told {
            passed += std::mem::take(&mut self.down.left);
            edit.skip(at, at + passed);
            let body = rest.get(HEADER_LEN..passed).unwrap_or_default();
            match outdated {
                Some(named) => {
                    let mut error = self.recover.take_held();
                    rename(&mut error, body, &named.name);
                    self.last_answer = last_answer;
                    waits = self.recover.failed(Failure { named, error });
                }
                None => edit.insert(at + passed, |out| tell(out, body, &told)),
            }
        }
        self.take_back(with);
        if waits {
            self.decide(with);
        }
        Ok(Some(passed))
    }

    /// Takes back what requests were noted to do that have come to nothing.
    fn take_back(&mut self, with: &mut With<'_>) {
        if self.expect.has_undone() {
            for undo in self.expect.take_undone() {
                with.undo(undo);
            }
        }
    }

    /// Whether the server is about to say that it is in a transaction block, to a client that may have none. The end of the
    /// command that began it is not told either: drivers take one answer for all there is. `None`: not enough is here to tell.
    fn begins_a_block(&self, rest: &[u8]) -> Option<bool> {
        if !self.one_statement || self.expect.is_ours() {
            return Some(false);
        }
        let began = |tag: &&[u8]| self.expect.statement_is_open() && rest.starts_with(tag);
        let begun = BEGUN.iter().find(|tag| began(tag));
        let ready = rest.get(begun.map_or(0, |tag| tag.len())..)?;
        match ready {
            [b'Z', 0, 0, 0, 5, status, ..] => Some(matches!(status, b'T' | b'E')),
            [] | [b'Z', ..] if begun.is_some() && ready.len() <= HEADER_LEN => None,
            _ => Some(false),
        }
    }

    /// Whether ReadyForQuery comes before the server wants anything more.
    fn waits_for_ready(&self) -> bool {
        self.expect.status_is_open() && !self.expect.is_copying_in()
    }

    /// Whether a message must not be sent before the client's last statement is over. The data of a copy may.
    fn waits_for_statement(&self, tag: u8) -> bool {
        let data = matches!(tag, b'd' | b'c' | b'f' | b'H');
        self.one_statement && !data && self.expect.statement_is_open()
    }

    /// What an error becomes for the client, if it is another one.
    fn told(&self, header: Header) -> Option<Told> {
        let is_kept = header.body_len() <= limits::LOGIN_MESSAGE_MAX;
        is_kept.then(|| self.expect.told()).flatten()
    }

    /// Whether enough of the next message is here.
    fn is_here(&self, header: Header, rest: &[u8]) -> bool {
        let needed = match header.tag {
            b'C' => header.message_len().min(HEADER_LEN + limits::TAG_WITHIN),
            b'E' if self.told(header).is_some() => header.message_len(),
            b't' if header.body_len() <= limits::DESCRIPTION_MAX
                && self.expect.described().is_some() =>
            {
                header.message_len()
            }
            _ => HEADER_LEN,
        };
        rest.len() >= needed
    }

    /// Keeps the answer to a Describe of ours.
    fn learn(&mut self, header: Header, rest: &[u8]) {
        if !matches!(header.tag, b't' | b'n' | b'T') {
            return;
        }
        let Some(described) = self.expect.described() else {
            return;
        };
        if header.tag == b't' {
            let is_kept = header.body_len() <= limits::DESCRIPTION_MAX;
            let end = if is_kept { header.message_len() } else { 0 };
            self.parameters = rest.get(HEADER_LEN..end).unwrap_or_default().to_vec();
        } else if !self.parameters.is_empty() {
            let _ = described.set(Description {
                types: std::mem::take(&mut self.parameters).into(),
                has_rows: header.tag == b'T',
            });
        }
    }

    /// Notes what was run. SQL that ends all prepared statements of the session ends those of the client, and those that the
    /// server held.
    fn notice_tag(&mut self, rest: &[u8], with: &mut With<'_>) {
        let Some(text) = rest.strip_prefix(b"C").and_then(|rest| rest.get(4..)) else {
            return;
        };
        let start = text.iter().take(limits::TAG_WITHIN);
        let length = start.take_while(|&&byte| byte != 0).count();
        let tag = text.get(..length).unwrap_or_default();
        self.ran.note(tag);
        if tag == b"DISCARD ALL" || tag == b"DEALLOCATE ALL" {
            with.client.clear();
            with.server.clear();
        }
    }

    /// A notification that the client has not asked for while it held this server: somebody else has.
    fn is_unasked(&self, tag: u8) -> bool {
        tag == b'A' && !traces::listens(self.seen, self.ran)
    }

    /// Whether the client may be due something that is made here.
    pub fn has_due(&self) -> bool {
        self.recover.has_failed() || self.expect.is_made()
    }

    /// Answers that are due and made here: what no server was asked. To be sent when the server is between two messages.
    pub fn take_made(&mut self, out: &mut Vec<u8>) {
        if self.down.left == 0 {
            if let Some(error) = self.take_error() {
                out.extend_from_slice(&error);
            }
            while let Some(tag) = self.expect.take_made() {
                frame::message(out, tag, |_| {});
            }
        }
    }

    /// A query whose answer shows that nothing more comes for the client, after a copy has failed in a way that leaves this open.
    pub fn probe(&mut self) -> Option<&'static [u8]> {
        if !self.expect.is_unsure() || !self.is_over() {
            return None;
        }
        self.expect.probed_by_us();
        Some(b"SELECT")
    }

    /// Notes a query of our own that goes to the server before anything of the client's.
    pub fn sent_by_us(&mut self) {
        self.expect.sent_by_us(b'Q');
    }

    /// Whether a query of our own has failed.
    pub fn is_broken(&self) -> bool {
        self.expect.is_broken()
    }

    /// Begins the server's next message: how many bytes of it are decided, and where it goes. `None`: not enough is here.
    fn begin_down(
        &mut self,
        header: Header,
        rest: &[u8],
        vars: &mut Rc<Vars>,
    ) -> Result<Option<(usize, Goes)>, Refusal> {
        let seen = match header.tag {
            b'Z' => {
                let broke = BadLength {
                    tag: b'Z',
                    length: header.length,
                };
                match rest.get(HEADER_LEN) {
                    _ if header.length != 5 => return Err(server_broke(broke)),
                    None => return Ok(None),
                    Some(&status) => {
                        let status = TransactionStatus::from_byte(status);
                        self.ready(status.ok_or_else(|| server_broke(broke))?);
                        1
                    }
                }
            }
            b'S' if header.body_len() <= limits::PARAMETER_STATUS_MAX => {
                match rest.get(HEADER_LEN..header.message_len()) {
                    None => return Ok(None),
                    Some(body) => {
                        if !Vars::report_shared(vars, body) {
                            self.expect.doubt();
                        }
                        header.body_len()
                    }
                }
            }
            _ => 0,
        };
        if header.tag == b'S' && seen == 0 {
            self.expect.doubt();
        }
        if header.tag == b'E' {
            let start = header.body_len().min(limits::ERROR_CODE_WITHIN);
            match rest.get(HEADER_LEN..HEADER_LEN + start) {
                None => return Ok(None),
                Some(start) => self.last_error = refusal::sqlstate(start),
            }
        }
        let ends = header.tag == b'E' && self.last_error.is_some_and(is_the_end);
        self.ended |= ends;
        let goes = if ends && self.expect.is_ours() {
            // Whatever we had asked: this is said to whoever is connected.
            self.expect.doubt();
            Goes::Down
        } else {
            self.expect.answered(header.tag)
        };
        if goes == Goes::Down {
            self.last_answer = header.tag;
        }
        self.down.left = header.body_len() - seen;
        Ok(Some((HEADER_LEN + seen, goes)))
    }

    fn ready(&mut self, status: TransactionStatus) {
        if self.expect.is_ours() {
            (self.status, self.last_error) = (status, None);
        } else {
            self.ready_for_client(status);
        }
    }

    fn ready_for_client(&mut self, status: TransactionStatus) {
        (self.status, self.last_error) = (status, None);
        self.tally.queries += 1;
        if status == TransactionStatus::Idle {
            self.tally.transactions += 1;
            if !self.deallocates.is_empty() {
                self.deallocates.clear();
            }
        }
    }

    /// Whether the server owes nothing and both ends are between two messages.
    pub fn is_quiet(&self) -> bool {
        self.expect.is_quiet() && self.up.left == 0 && self.down.left == 0
    }

    /// Whether the server can come to rest without the client: what the client sent is whole.
    pub fn can_finish(&self) -> bool {
        self.expect.can_finish() && self.up.left == 0
    }

    /// Whether all that went to the server are whole messages.
    pub fn is_between_messages(&self) -> bool {
        self.up.left == 0
    }

    /// Whether the server owes nothing and its transaction is over.
    pub fn is_over(&self) -> bool {
        let idle = self.status == TransactionStatus::Idle;
        self.touched && idle && self.is_quiet() && !self.recover.is_pending()
    }

    /// Whether the server has said more than the client's transaction brought about.
    pub fn has_surplus(&self) -> bool {
        self.surplus
    }

    /// Whether something came that nothing explains.
    pub fn is_in_doubt(&self) -> bool {
        self.expect.in_doubt()
    }

    /// Whether the server may be used by another client once it has been reset.
    pub fn is_reusable(&self) -> bool {
        self.is_quiet() && !self.expect.in_doubt() && !self.seen.leaves_something()
    }

    /// Whether a client that shares the server has left nothing in its session that has to be undone, as nearly always.
    pub fn leaves_nothing(&self) -> bool {
        self.status == TransactionStatus::Idle
            && self.touched
            && !self.expect.is_unsure()
            && traces::leaves_nothing(self.seen, self.ran)
    }

    /// Whether the server may say ReadyForQuery once more although it owes nothing.
    pub fn is_unsure(&self) -> bool {
        self.expect.is_unsure()
    }

    /// Whether the server works on something that a cancel could end.
    pub fn is_busy(&self) -> bool {
        self.expect.is_owed() || self.recover.is_pending()
    }

    /// Whether the server owes the client something, be it that it has to answer us first.
    pub fn owes_client(&self) -> bool {
        self.expect.owes_client()
    }

    fn waits_for_discard(&self) -> bool {
        self.flushed && self.expect.owed() > 0 && !self.expect.is_copying_in()
    }

    /// Whether it works on something of the client's, not of ours.
    pub fn can_be_cancelled(&self) -> bool {
        self.expect.is_clients() || self.recover.is_pending()
    }

    /// Whether the server waits for the data of the client's copy.
    pub fn is_copying_in(&self) -> bool {
        self.expect.is_copying_in()
    }

    /// Whether the client may be read, as far as the number of owed answers goes.
    pub fn has_room(&self) -> bool {
        let waits =
            self.waits_for_ready() || self.expect.is_query_of_ours() || self.waits_for_discard();
        let stalled = self.stalled && waits;
        !stalled && !self.expect.is_full()
    }

    /// Whether an error message can be put between what the server sent and what follows: the last message is whole, and it
    /// was not itself the server's last word.
    pub fn may_add_error(&self) -> bool {
        self.down.left == 0 && self.last_answer != b'E'
    }

    /// SQLSTATE of the error that the server sent last and has not recovered from.
    pub fn last_error(&self) -> Option<[u8; 5]> {
        self.last_error
    }

    /// Whether the client has sent anything.
    pub fn is_touched(&self) -> bool {
        self.touched
    }

    /// Status of the last ReadyForQuery.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// What the client's query texts spoke of.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// What the server says it has run; known only if it is shared.
    pub fn ran(&self) -> Ran {
        self.ran
    }

    /// Counts since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// How many answers the server owes.
    pub fn owed(&self) -> usize {
        self.expect.owed()
    }
}

/// The end of the message at `at`, which is here whole, and of those behind it that are whole and begin as it does. Rows are
/// often of one length: then no step has to wait for the length that the one before has read.
fn pass_alike(input: &[u8], at: usize, length: usize) -> usize {
    const HEADER: u64 = (1 << (8 * HEADER_LEN)) - 1;
    let head = |at: usize| {
        let word = input.get(at..).and_then(<[u8]>::first_chunk::<8>);
        word.map(|word| u64::from_le_bytes(*word) & HEADER)
    };
    let mut end = at + length;
    if let Some(first) = head(at) {
        while head(end) == Some(first) && end + length <= input.len() {
            end += length;
        }
    }
    end
}

/// CommandComplete of the commands that begin a transaction block.
const BEGUN: [&[u8]; 2] = [b"C\0\0\0\x0aBEGIN\0", b"C\0\0\0\x16START TRANSACTION\0"];

/// Whether an error means that the server ends the connection: it is told to, it crashes, or it is shut down.
fn is_the_end(code: [u8; 5]) -> bool {
    code.starts_with(b"57P")
}

/// An error as the client would have it from a server of its own.
fn tell(out: &mut Vec<u8>, body: &[u8], told: &Told) {
    match told {
        Told::Name(named) => rename(out, body, &named.name),
        Told::Spelled(name) => rename(out, body, name),
        Told::Instead(refusal) if refusal::sqlstate(body) == Some(*b"26000") => refusal.write(out),
        Told::Instead(_) => frame::message(out, b'E', |b| b.extend_from_slice(body)),
    }
}

/// An error with a name of ours in its text.
fn rename(out: &mut Vec<u8>, body: &[u8], name: &[u8]) {
    frame::message(out, b'E', |b| {
        let mut rest = body;
        while let Some((&field, after)) = rest.split_first() {
            let Some((text, after)) = take_cstr(after).filter(|_| field != 0) else {
                break;
            };
            b.push(field);
            match text
                .windows(prepared::PREFIX.len())
                .position(|part| part == prepared::PREFIX)
            {
                Some(start) if field == b'M' => {
                    let (before, ours) = text.split_at(start);
                    let length = ours
                        .iter()
                        .position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_')
                        .unwrap_or(ours.len());
                    b.extend_from_slice(before);
                    b.extend_from_slice(name);
                    cstr(b, ours.get(length..).unwrap_or_default());
                }
                _ => cstr(b, text),
            }
            rest = after;
        }
        b.push(0);
    });
}

/// Whether PostgreSQL would take such a message at all, in PostgreSQL's words.
pub fn allowed(header: Header) -> Result<(), Refusal> {
    let max = match header.tag {
        b'Q' | b'P' | b'B' | b'F' | b'd' => limits::LARGE_MESSAGE_MAX,
        b'S' | b'H' | b'C' | b'D' | b'E' | b'c' | b'f' => limits::SMALL_MESSAGE_MAX,
        other => {
            return Err(Refusal::protocol(format!(
                "invalid frontend message type {other}"
            )));
        }
    };
    if header.length > max {
        return Err(bad_length(BadLength {
            tag: header.tag,
            length: header.length,
        }));
    }
    Ok(())
}

fn bad_length(bad: BadLength) -> Refusal {
    let tag = printable(&[bad.tag]);
    Refusal::protocol("invalid message length").detail(format!(
        "A message of type \"{tag}\" claims {} bytes.",
        bad.length
    ))
}

/// The server's message is one, but larger than what may pass.
fn too_large(bad: BadLength) -> Refusal {
    let tag = printable(&[bad.tag]);
    Refusal::fatal(
        b"54000",
        "the answer of the server is too large, its connection was closed",
        Blame::Server,
    )
    .detail(format!(
        "A message of type \"{tag}\" has {} bytes.",
        bad.length
    ))
    .hint("See max_packet_size in Aether's configuration.")
    .pgbouncer("bad pkt header")
}

fn server_broke(bad: BadLength) -> Refusal {
    let tag = printable(&[bad.tag]);
    Refusal::fatal(
        b"08P01",
        "the server broke the protocol, its connection was closed",
        Blame::Server,
    )
    .detail(format!(
        "A message of type \"{tag}\" with length {} makes no sense.",
        bad.length
    ))
    .hint("Is there really a PostgreSQL server behind this pool? See Aether's log.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{cstr, message};
    use crate::wire::frontend;

    fn down(relay: &mut Relay, bytes: &[u8]) -> Passage {
        relay.down(bytes, &mut Rc::default())
    }

    fn answer(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        message(&mut out, tag, |b| b.extend_from_slice(body));
        out
    }

    #[test]
    fn a_query_passes_whole_and_in_pieces_of_any_size() {
        let mut query = Vec::new();
        frontend::query(&mut query, b"select 1");
        for size in 1..=query.len() {
            let mut relay = Relay::default();
            let (mut kept, mut passed) = (Vec::new(), Vec::new());
            for piece in query.chunks(size) {
                kept.extend_from_slice(piece);
                let passage = relay.up(&kept);
                assert_eq!(passage.then, Then::More);
                passed.extend(kept.drain(..passage.pass));
            }
            assert_eq!((passed, kept.len()), (query.clone(), 0));
            assert!(relay.is_busy() && !relay.is_quiet());
            down(&mut relay, &answer(b'C', b"SELECT 1\0"));
            down(&mut relay, &answer(b'Z', b"I"));
            assert!(relay.is_quiet() && relay.is_reusable());
            assert_eq!(
                relay.take_tally(),
                Tally {
                    queries: 1,
                    transactions: 1,
                    ..Tally::default()
                }
            );
        }
    }

    #[test]
    fn terminate_is_not_passed_on() {
        let mut bytes = Vec::new();
        frontend::query(&mut bytes, b"");
        let query = bytes.len();
        frontend::terminate(&mut bytes);
        assert_eq!(
            Relay::default().up(&bytes),
            Passage {
                in_place: true,
                pass: query,
                then: Then::Terminate
            }
        );
    }

    #[test]
    fn messages_that_postgresql_refuses_are_refused() {
        for bytes in [
            &b"p\0\0\0\x05x"[..],
            b"Z\0\0\0\x05I",
            b"S\0\0\x27\x11",
            b"Q\x7f\xff\xff\xff",
            b"Q\0\0\0\x03",
            b"\0\0\0\0\x08",
        ] {
            assert!(matches!(
                Relay::default().up(bytes),
                Passage {
                    pass: 0,
                    then: Then::Refuse(_),
                    ..
                }
            ));
        }
    }

    #[test]
    fn a_server_that_makes_no_sense_is_refused() {
        for bytes in [
            &b"Z\0\0\0\x05x"[..],
            b"Z\0\0\0\x04",
            b"Z\0\0\0\x06II",
            b"D\0\0\0\x01",
            b"D\x7f\xff\xff\xff",
        ] {
            assert!(matches!(
                down(&mut Relay::default(), bytes).then,
                Then::Refuse(_)
            ));
        }
    }

    #[test]
    fn a_parameter_status_waits_until_it_is_whole() {
        let status = answer(b'S', b"TimeZone\0UTC\0");
        let mut vars = Rc::new(Vars::default());
        for n in 0..status.len() {
            assert_eq!(Relay::default().down(&status[..n], &mut vars).pass, 0);
        }
        assert_eq!(Relay::default().down(&status, &mut vars).pass, status.len());
        assert_eq!(vars.get(b"timezone"), Some(&b"UTC"[..]));
    }

    /// Rows are skimmed; one that nobody waits for is noticed all the same.
    #[test]
    fn rows_pass_in_pieces_of_any_size_but_only_to_who_waits_for_them() {
        let rows = [answer(b'D', b"x").repeat(3), answer(b'D', &[0; 300])].concat();
        let end = [answer(b'C', b"SELECT 4\0"), answer(b'Z', b"I")].concat();
        let whole = [answer(b'T', b"\0\0"), rows.clone(), end].concat();
        let mut query = Vec::new();
        frontend::query(&mut query, b"select");
        for size in 1..=whole.len() {
            let mut relay = Relay::default();
            relay.up(&query);
            let (mut kept, mut passed) = (Vec::new(), Vec::new());
            for piece in whole.chunks(size) {
                kept.extend_from_slice(piece);
                let passage = down(&mut relay, &kept);
                assert_eq!(passage.then, Then::More);
                passed.extend(kept.drain(..passage.pass));
            }
            assert_eq!((passed, kept.len()), (whole.clone(), 0));
            assert!(relay.is_quiet() && !relay.is_in_doubt());
        }
        let mut relay = Relay::default();
        down(&mut relay, &rows);
        assert!(relay.is_in_doubt());
        relay = Relay::default();
        relay.up(&query);
        down(&mut relay, &answer(b'd', b"of no copy"));
        assert!(relay.is_in_doubt());
    }

    #[test]
    fn a_half_read_answer_is_not_quiet() {
        let mut relay = Relay::default();
        let row = answer(b'D', &[0; 100]);
        down(&mut relay, &row[..50]);
        assert!(!relay.is_quiet() && !relay.may_add_error());
    }

    #[test]
    fn what_discard_all_leaves_behind_costs_the_server() {
        let mut relay = Relay::default();
        let mut bytes = Vec::new();
        message(&mut bytes, b'Q', |b| cstr(b, b"select DBLINK_connect('x')"));
        relay.up(&bytes);
        down(&mut relay, &answer(b'Z', b"I"));
        assert!(relay.is_quiet() && !relay.is_reusable());
    }

    /// PostgreSQL answers a Flush with a body by an error, and skips everything up to the next Sync, a reset query too.
    #[test]
    fn a_flush_that_will_be_refused_costs_the_server() {
        for (flush, reusable) in [(&b"H\0\0\0\x04"[..], true), (b"H\0\0\0\x05x", false)] {
            let mut relay = Relay::default();
            relay.up(&[b"Q\0\0\0\x05\0", flush].concat());
            down(&mut relay, &answer(b'Z', b"I"));
            assert!(relay.is_quiet());
            assert_eq!(relay.is_reusable(), reusable);
        }
    }

    #[test]
    fn a_client_that_is_owed_too_much_has_to_wait() {
        let mut relay = Relay::default();
        let mut bytes = Vec::new();
        frontend::query(&mut bytes, b"");
        let many: Vec<u8> = bytes
            .iter()
            .copied()
            .cycle()
            .take(bytes.len() * (limits::OWED_MAX + 5))
            .collect();
        let passage = relay.up(&many);
        assert_eq!(
            (passage.pass, passage.then),
            (bytes.len() * limits::OWED_MAX, Then::Full)
        );
        assert!(!relay.has_room());
    }
}
