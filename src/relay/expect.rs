//! What a server still owes: one queue of expected answers, in the order of the requests.
//!
//! The rules are those of the protocol (sections "Extended Query", "COPY Operations", "Function Call"): an error skips to the
//! next Sync, Query and FunctionCall messages in between included; COPY FROM swallows a Sync; CopyData, CopyDone and CopyFail
//! are ignored outside of a copy. An answer that fits nothing is never explained away: the queue is *in doubt* from then on,
//! and its server is not used for another client.

use std::collections::VecDeque;
use std::rc::Rc;

use super::prepared::{Described, Named, Undo};
use crate::limits;
use crate::wire::refusal::Refusal;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Query,
    FunctionCall,
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Sync,
    /// CopyDone or CopyFail: answered by nothing, but it decides which Sync a copy swallows.
    CopyEnd,
}

/// Whose request it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The client's: it gets the answer.
    Client,
    /// Ours: the client sees nothing of it.
    Ours,
    /// Ours, and it may well fail.
    OursTried,
    /// The client's, and nobody was asked: the answer is made here when its turn comes.
    Made,
}

impl Owner {
    fn is_us(self) -> bool {
        matches!(self, Owner::Ours | Owner::OursTried)
    }
}

/// What the client is told where the server's error would speak of what the client does not know.
#[derive(Clone, Debug)]
pub enum Told {
    /// The name of a statement that the server knows under another.
    Name(Rc<Named>),
    /// A name as the client spells it this time, or of no statement at all.
    Spelled(Rc<[u8]>),
    /// This, if the server does not know the statement.
    Instead(Rc<Refusal>),
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Owed {
    kind: Kind,
    owner: Owner,
    /// There is a note of it.
    noted: bool,
    /// How much has to be taken back if the message is skipped or fails.
    undos: u32,
}

/// What there is to be known of a request beyond what it is; of few there is anything.
#[derive(Debug, Default)]
struct Note {
    /// What an error becomes.
    told: Option<Told>,
    /// Where the answer to a Describe of ours is kept.
    described: Option<Described>,
}

/// A copy in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Copy {
    #[default]
    None,
    /// The server waits for the client's data.
    In,
    /// The server sends.
    Out,
    /// Both send (replication).
    Both,
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    /// To the client.
    Down,
    /// Nowhere: we had asked.
    Nowhere,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Expect {
    queue: VecDeque<Owed>,
    /// Of those in the queue of which there is one, in the same order.
    notes: VecDeque<Note>,
    /// What has to be taken back of each in the queue, one behind the other in the same order.
    undos: VecDeque<Undo>,
    /// After an error: what the client sends is ignored by the server until a Sync.
    skipping: bool,
    copy: Copy,
    /// A Sync was taken for swallowed by the copy in progress. Should the copy fail, nobody can tell whether it was: what the
    /// server had not read by then, it answers.
    swallowed: bool,
    /// Such a copy has failed: one more ReadyForQuery may come than is expected.
    unsure: bool,
    /// A query of our own is under way that finds out; its CommandComplete has not come.
    probing: bool,
    /// Extended-protocol messages were sent after the last Sync.
    batch: bool,
    doubt: bool,
    /// Requests in the queue that ReadyForQuery will answer, with another status perhaps.
    readies: usize,
    /// Those of them that are our own, and may fail.
    tried_readies: usize,
    /// Ends of copies in the queue.
    copy_ends: usize,
    /// Requests that leave open which named statements there are: before the last Sync, and after it.
    open_names: (usize, usize),
    /// To be taken back, in this order.
    undone: Vec<Undo>,
    /// A request of our own has failed that must not fail.
    broken: bool,
}

impl Expect {
    /// For the next client. The queue keeps its room.
    pub fn renew(&mut self) {
        let Expect {
            queue,
            notes,
            undos,
            skipping,
            copy,
            swallowed,
            unsure,
            probing,
            batch,
            doubt,
            readies,
            tried_readies,
            copy_ends,
            open_names,
            undone,
            broken,
        } = self;
        queue.clear();
        notes.clear();
        undos.clear();
        undone.clear();
        (*copy, *open_names) = (Copy::None, (0, 0));
        (*readies, *tried_readies, *copy_ends) = (0, 0, 0);
        (*skipping, *swallowed, *unsure, *probing) = (false, false, false, false);
        (*batch, *doubt, *broken) = (false, false, false);
    }

    /// Notes a message that goes to the server. False: it will be ignored there, and nothing is owed for it.
    pub fn sent(&mut self, tag: u8) -> bool {
        match tag {
            b'Q' => self.owe(Kind::Query, Owner::Client),
            b'F' => self.owe(Kind::FunctionCall, Owner::Client),
            b'P' => self.owe_in_batch(Kind::Parse, Owner::Client),
            b'B' => self.owe_in_batch(Kind::Bind, Owner::Client),
            b'D' => self.owe_in_batch(Kind::Describe, Owner::Client),
            b'E' => self.owe_in_batch(Kind::Execute, Owner::Client),
            b'C' => self.owe_in_batch(Kind::Close, Owner::Client),
            b'S' => self.sync(),
            b'c' | b'f' => self.copy_end(),
            _ => false,
        }
    }

    /// Notes a Parse, Close or Query of our own.
    pub fn sent_by_us(&mut self, tag: u8) {
        let _ = match tag {
            b'Q' => self.owe(Kind::Query, Owner::Ours),
            b'C' => self.owe_in_batch(Kind::Close, Owner::Ours),
            _ => self.owe_in_batch(Kind::Parse, Owner::Ours),
        };
    }

    /// Notes a Query of our own that may fail; what the client has sent behind it fails then as well.
    pub fn tried_by_us(&mut self) {
        self.owe(Kind::Query, Owner::OursTried);
    }

    /// Notes a Parse or Close of the client that the server is not asked about.
    pub fn answered_here(&mut self, tag: u8) {
        let kind = if tag == b'C' {
            Kind::Close
        } else {
            Kind::Parse
        };
        self.owe_in_batch(kind, Owner::Made);
    }

    /// Notes a Sync of our own, in a batch that the server skips.
    pub fn synced_by_us(&mut self) {
        self.sync();
        self.own_sync();
    }

    /// The Sync that comes next, in a batch that has failed, is ours: the client sees nothing of its answer.
    pub fn own_sync(&mut self) {
        if let Some(owed) = self.queue.front_mut().filter(|o| o.kind == Kind::Sync) {
            owed.owner = Owner::Ours;
            self.recount();
        }
    }

    /// Adds what has to be taken back if the message noted last comes to nothing.
    pub fn undo(&mut self, undo: Undo) {
        let Some(last) = self.queue.back_mut() else {
            return;
        };
        if undo.is_named() {
            let mut its_own = self.undos.iter().rev().take(last.undos as usize);
            self.open_names.1 += usize::from(!its_own.any(Undo::is_named));
        }
        last.undos += 1;
        self.undos.push_back(undo);
    }

    /// The note of the message noted last.
    fn note_of_last(&mut self) -> Option<&mut Note> {
        let last = self.queue.back_mut()?;
        if !std::mem::replace(&mut last.noted, true) {
            self.notes.push_back(Note::default());
        }
        self.notes.back_mut()
    }

    /// The note of the request that is answered next, if there is one.
    fn note_of_next(&self) -> Option<&Note> {
        let next = self.queue.front().filter(|owed| owed.noted);
        next.and_then(|_| self.notes.front())
    }

    /// The message noted last is not what the client has sent: what it is told of an error.
    pub fn tell(&mut self, told: Told) {
        if let Some(note) = self.note_of_last() {
            note.told = Some(told);
        }
    }

    /// Notes a Describe of our own, and where its answer is kept.
    pub fn described_by_us(&mut self, described: &Described) {
        if self.owe_in_batch(Kind::Describe, Owner::Ours)
            && let Some(note) = self.note_of_last()
        {
            note.described = Some(described.clone());
        }
    }

    fn owe(&mut self, kind: Kind, owner: Owner) -> bool {
        if self.skipping {
            return false;
        }
        self.readies += usize::from(changes_status(kind, owner));
        self.tried_readies += usize::from(is_ready(kind) && owner == Owner::OursTried);
        self.queue.push_back(Owed {
            kind,
            owner,
            noted: false,
            undos: 0,
        });
        true
    }

    fn owe_in_batch(&mut self, kind: Kind, owner: Owner) -> bool {
        self.batch = true;
        self.owe(kind, owner)
    }

    fn sync(&mut self) -> bool {
        if self.copy == Copy::In {
            self.swallowed = true;
            return false;
        }
        self.skipping = false;
        self.batch = false;
        self.open_names = (self.open_names.0 + self.open_names.1, 0);
        self.owe(Kind::Sync, Owner::Client)
    }

    fn copy_end(&mut self) -> bool {
        match self.copy {
            Copy::In => self.copy = Copy::None,
            Copy::Both => {}
            // Sent before the server has said that it wants to copy, or a late one after an error.
            Copy::None | Copy::Out if self.queue.is_empty() => {}
            Copy::None | Copy::Out => {
                let owed = self.owe(Kind::CopyEnd, Owner::Client);
                self.copy_ends += usize::from(owed);
                return owed;
            }
        }
        false
    }

    /// Notes a message that came from the server, and says where it goes.
    pub fn answered(&mut self, tag: u8) -> Goes {
        use Kind::*;
        let (front, owner) = match self.queue.front() {
            Some(owed) => (Some(owed.kind), owed.owner),
            None => (None, Owner::Client),
        };
        match (tag, front) {
            (b'N' | b'A', _) => return Goes::Down,
            (b'S', _) => {}
            // The answer to a Sync that was taken for swallowed: it comes before that to the question which clears it up.
            (b'Z', Some(Query)) if self.probing => return Goes::Down,
            (b'Z', Some(Query | FunctionCall | Sync)) => {
                self.copy = Copy::None;
                self.pop();
            }
            (b'E', Some(front)) => {
                self.failed(front, owner);
                // An injected Parse fails in the place of the client's message behind it.
                return if front == Query && owner.is_us() {
                    Goes::Nowhere
                } else {
                    Goes::Down
                };
            }
            (b'1', Some(Parse))
            | (b'2', Some(Bind))
            | (b'3', Some(Close))
            | (b'T' | b'n', Some(Describe)) => self.pop(),
            (b's' | b'I', Some(Execute)) => self.pop(),
            (b'C', Some(Execute)) => {
                self.copied();
                self.pop();
            }
            (b'C', Some(Query)) => self.copied(),
            (b'T' | b'D' | b'I', Some(Query))
            | (b'D', Some(Execute))
            | (b't', Some(Describe))
            | (b'V', Some(FunctionCall)) => {}
            (b'G', Some(Query | Execute)) => self.copy_in(),
            (b'H', Some(Query | Execute)) => self.copy = Copy::Out,
            (b'W', Some(Query | Execute)) => self.copy = Copy::Both,
            (b'd' | b'c', Some(Query | Execute)) if matches!(self.copy, Copy::Out | Copy::Both) => {
            }
            _ => self.doubt = true,
        }
        if owner.is_us() {
            Goes::Nowhere
        } else {
            Goes::Down
        }
    }

    /// Whether answers that only move on in the queue may be noted by [`Expect::answered_plainly`], which changes nothing of that.
    pub fn takes_plain_answers(&self) -> bool {
        self.copy == Copy::None && !self.probing
    }

    /// The same as [`Expect::answered`] for an answer to a request of the client's that only moves on in the queue. False: it is
    /// none of these, and nothing is noted.
    pub fn answered_plainly(&mut self, tag: u8) -> bool {
        use Kind::*;
        debug_assert!(self.takes_plain_answers());
        let Some(front) = self.queue.front() else {
            return false;
        };
        if front.owner != Owner::Client {
            return false;
        }
        let moves_on = match (tag, front.kind) {
            (b'T', Query) => false,
            (b'C', Query) => {
                self.swallowed = false;
                false
            }
            (b'C', Execute) => {
                self.swallowed = false;
                true
            }
            (b'Z', Query | Sync)
            | (b'1', Parse)
            | (b'2', Bind)
            | (b'3', Close)
            | (b'n' | b'T', Describe)
            | (b's' | b'I', Execute) => true,
            _ => return false,
        };
        if moves_on {
            self.pop();
        }
        true
    }

    /// Notes a Query of our own which finds out whether one more ReadyForQuery comes than is expected.
    pub fn probed_by_us(&mut self) {
        self.owe(Kind::Query, Owner::Ours);
        (self.probing, self.unsure) = (true, false);
    }

    /// A command is complete: of a copy, that all of it was read, Syncs included.
    fn copied(&mut self) {
        self.probing = false;
        self.copy = Copy::None;
        self.swallowed = false;
    }

    /// The server begins to take data: what the client has sent ahead is either part of it or swallowed.
    fn copy_in(&mut self) {
        let end = self
            .queue
            .iter()
            .position(|owed| owed.kind == Kind::CopyEnd);
        self.copy = if end.is_some() { Copy::None } else { Copy::In };
        let ahead = 1..end.map_or(self.queue.len(), |at| at + 1);
        let front = self.queue.front();
        let first = usize::from(front.is_some_and(|owed| owed.noted));
        let kept = front.map_or(0, |owed| owed.undos as usize);
        let mut dropped = 0;
        for owed in self.queue.drain(ahead) {
            match owed.kind {
                Kind::Sync => self.swallowed = true,
                Kind::CopyEnd => {}
                _ => self.doubt = true,
            }
            if owed.noted {
                self.notes.remove(first);
            }
            dropped += owed.undos as usize;
        }
        self.undos.drain(kept..kept + dropped);
        self.recount();
        let front = self.queue.front().map(|owed| owed.kind);
        if front == Some(Kind::Execute) && !self.queue.iter().any(|owed| owed.kind == Kind::Sync) {
            self.batch = true; // the Sync that closed it was swallowed
        }
    }

    fn failed(&mut self, front: Kind, owner: Owner) {
        self.copy = Copy::None;
        self.unsure |= std::mem::take(&mut self.swallowed);
        let mut undone: Vec<(Undo, bool)> = Vec::new();
        if is_ready(front) {
            self.broken |= owner == Owner::Ours;
            if let Some(front) = self.queue.front_mut() {
                let count = std::mem::take(&mut front.undos) as usize;
                undone.extend(self.undos.drain(..count).map(|undo| (undo, true)));
            }
        } else {
            let end = self.queue.iter().position(|owed| owed.kind == Kind::Sync);
            let skipped = self.queue.drain(..end.unwrap_or(self.queue.len()));
            for (at, owed) in skipped.enumerate() {
                if owed.noted {
                    self.notes.pop_front();
                }
                let its_own = self.undos.drain(..owed.undos as usize);
                undone.extend(its_own.map(|undo| (undo, at == 0)));
            }
            self.skipping = self.queue.is_empty();
        }
        for (undo, failed) in undone.into_iter().rev() {
            self.take_back(undo, failed);
        }
        self.recount();
    }

    /// If a message that is still to be answered has changed the same since, it is what came before that change.
    fn take_back(&mut self, undo: Undo, failed: bool) {
        if let Some(left) = undo.put_before(failed, self.undos.iter_mut()) {
            self.undone.push(left);
        }
    }

    /// Counts again, after more than one request went at once.
    fn recount(&mut self) {
        let last_sync = self.queue.iter().rposition(|owed| owed.kind == Kind::Sync);
        debug_assert_eq!(
            self.queue.iter().filter(|owed| owed.noted).count(),
            self.notes.len()
        );
        self.open_names = self.count_open_names(last_sync);
        let count =
            |counts: fn(&Owed) -> bool| self.queue.iter().filter(|owed| counts(owed)).count();
        self.readies = count(|owed| changes_status(owed.kind, owed.owner));
        self.tried_readies = count(|owed| is_ready(owed.kind) && owed.owner == Owner::OursTried);
        self.copy_ends = count(|owed| owed.kind == Kind::CopyEnd);
    }

    /// Requests that leave open which named statements there are: before this place in the queue, and from there on.
    fn count_open_names(&self, last_sync: Option<usize>) -> (usize, usize) {
        let (mut before, mut behind) = (0, 0);
        let mut undos = self.undos.iter();
        for (at, owed) in self.queue.iter().enumerate() {
            let its_own = undos.by_ref().take(owed.undos as usize); // all of it is gone through
            let open = its_own.fold(false, |open, undo| open | undo.is_named());
            if at < last_sync.unwrap_or(0) {
                before += usize::from(open);
            } else {
                behind += usize::from(open);
            }
        }
        (before, behind)
    }

    /// Asserts that queue, notes and counts tell the same.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let noted = self.queue.iter().filter(|owed| owed.noted).count();
        assert_eq!(noted, self.notes.len(), "notes out of step");
        let count =
            |counts: fn(&Owed) -> bool| self.queue.iter().filter(|owed| counts(owed)).count();
        assert_eq!(
            self.readies,
            count(|owed| changes_status(owed.kind, owed.owner)),
            "readies"
        );
        assert_eq!(
            self.tried_readies,
            count(|owed| is_ready(owed.kind) && owed.owner == Owner::OursTried),
            "tried"
        );
        assert_eq!(
            self.copy_ends,
            count(|owed| owed.kind == Kind::CopyEnd),
            "copy ends"
        );
        let last_sync = self.queue.iter().rposition(|owed| owed.kind == Kind::Sync);
        let open = self.count_open_names(last_sync);
        assert_eq!(self.open_names, open, "open names {self:?}");
        let undos: usize = self.queue.iter().map(|owed| owed.undos as usize).sum();
        assert_eq!(undos, self.undos.len(), "undos out of step");
        // A note with a kind that can have none.
        let (mut notes, mut undos) = (self.notes.iter(), self.undos.iter());
        for owed in &self.queue {
            if owed.noted && notes.next().expect("a note").described.is_some() {
                assert!(
                    owed.kind == Kind::Describe && owed.owner == Owner::Ours,
                    "described {self:?}"
                );
            }
            for undo in undos.by_ref().take(owed.undos as usize) {
                let fits = match undo {
                    Undo::Name(..) => matches!(
                        owed.kind,
                        Kind::Parse | Kind::Close | Kind::Query | Kind::Execute
                    ),
                    Undo::Present(..) => {
                        matches!(owed.kind, Kind::Parse | Kind::Close | Kind::Query)
                    }
                    Undo::Unnamed(_) | Undo::Slot(_) => {
                        matches!(owed.kind, Kind::Parse | Kind::Close | Kind::Query)
                    }
                };
                assert!(fits, "undo of another {self:?}");
            }
        }
    }

    #[inline]
    fn pop(&mut self) {
        self.take_front();
        if self.copy_ends > 0 {
            self.drop_copy_ends();
        }
    }

    /// Outside of a copy they are ignored by the server.
    #[cold]
    fn drop_copy_ends(&mut self) {
        let is_end = |owed: &Owed| owed.kind == Kind::CopyEnd;
        while self.queue.front().is_some_and(is_end) {
            self.copy_ends -= 1;
            self.take_front();
        }
    }

    #[inline]
    fn take_front(&mut self) {
        let Some(owed) = self.queue.pop_front() else {
            return;
        };
        if is_ready(owed.kind) {
            self.readies -= usize::from(owed.owner != Owner::Ours);
            self.tried_readies -= usize::from(owed.owner == Owner::OursTried);
        }
        if owed.noted {
            self.notes.pop_front();
        }
        if owed.undos > 0 {
            self.forget(owed.undos);
        }
    }

    /// The request is answered of which so much would have had to be taken back.
    #[inline(never)]
    fn forget(&mut self, undos: u32) {
        let mut open = false;
        for _ in 0..undos {
            open |= self.undos.pop_front().is_some_and(|undo| undo.is_named());
        }
        if open {
            let open = if self.open_names.0 > 0 {
                &mut self.open_names.0
            } else {
                &mut self.open_names.1
            };
            *open = open.saturating_sub(1);
        }
    }

    /// Whether the request that is next is answered here.
    pub fn is_made(&self) -> bool {
        let front = self.queue.front();
        front.is_some_and(|owed| owed.owner == Owner::Made)
    }

    /// The answer to the request that is next, if it is one that is answered here: ParseComplete or CloseComplete.
    pub fn take_made(&mut self) -> Option<u8> {
        if !self.is_made() {
            return None;
        }
        let front = self.queue.front()?;
        let answer = if front.kind == Kind::Close {
            b'3'
        } else {
            b'1'
        };
        self.pop();
        Some(answer)
    }

    /// What an error becomes that answers the next request.
    pub fn told(&self) -> Option<Told> {
        self.note_of_next()?.told.clone()
    }

    /// Where the next answer is kept, if it is to a Describe of our own.
    pub fn described(&self) -> Option<&Described> {
        self.note_of_next()?.described.as_ref()
    }

    /// Whether the next answer is to a Bind or to a Describe.
    pub fn uses_statement(&self) -> bool {
        let front = self.queue.front().map(|owed| owed.kind);
        matches!(front, Some(Kind::Bind | Kind::Describe))
    }

    /// Of the request noted last: whether it is answered here, and the statement that it names.
    pub fn last(&self) -> (bool, Option<Rc<Named>>) {
        let Some(last) = self.queue.back() else {
            return (false, None);
        };
        let note = self.notes.back().filter(|_| last.noted);
        let named = match note.and_then(|note| note.told.as_ref()) {
            Some(Told::Name(named)) => Some(named.clone()),
            _ => None,
        };
        (last.owner == Owner::Made, named)
    }

    /// Whether the server itself was asked something by the client that is not answered to its end.
    pub fn has_asked(&self) -> bool {
        let clients = |owed: &Owed| owed.owner == Owner::Client;
        self.queue.iter().any(clients) || self.skipping || self.copy != Copy::None
    }

    /// Whether the next answer is to a request of our own.
    pub fn is_ours(&self) -> bool {
        !self.probing && self.queue.front().is_some_and(|owed| owed.owner.is_us())
    }

    /// Whether the server works on a query of our own, such as sets parameters.
    pub fn is_query_of_ours(&self) -> bool {
        let front = self.queue.front();
        front.is_some_and(|owed| owed.kind == Kind::Query && owed.owner.is_us())
    }

    /// Whether the server works for the client. Behind a Parse of ours it may, since the server keeps the answer to that until
    /// it flushes; behind a query of ours it does not yet.
    pub fn is_clients(&self) -> bool {
        let waits = |owed: &Owed| owed.owner.is_us() && owed.kind == Kind::Query;
        match self.queue.front() {
            None => self.copy != Copy::None,
            Some(front) if waits(front) => false,
            Some(_) => self.owes_client(),
        }
    }

    /// Whether the client waits for something, be it behind a query of ours.
    pub fn owes_client(&self) -> bool {
        self.copy != Copy::None || self.queue.iter().any(|owed| !owed.owner.is_us())
    }

    /// The type letter of the messages that the server may send any number of now, for the client and without a consequence.
    pub fn tag_of_rows(&self) -> Option<u8> {
        let front = self.queue.front()?;
        let runs = matches!(front.kind, Kind::Query | Kind::Execute);
        if !runs || front.owner != Owner::Client {
            return None;
        }
        match self.copy {
            Copy::None => Some(b'D'),
            Copy::Out | Copy::Both => Some(b'd'),
            Copy::In => None,
        }
    }

    /// Whether something has to be taken back.
    pub fn has_undone(&self) -> bool {
        !self.undone.is_empty()
    }

    /// What has to be taken back since the last call.
    pub fn take_undone(&mut self) -> Vec<Undo> {
        std::mem::take(&mut self.undone)
    }

    /// Whether it is open what the server's status will be when it comes to the next message: a ReadyForQuery is to come.
    pub fn status_is_open(&self) -> bool {
        self.readies > 0
    }

    /// Whether a statement of the client's, or a batch, is complete and its ReadyForQuery is to come; not while the server waits
    /// for the data of its copy.
    pub fn statement_is_open(&self) -> bool {
        self.readies > self.tried_readies && self.copy != Copy::In
    }

    /// Whether it is open what is prepared where: an earlier batch that changes it is not answered.
    pub fn statements_are_open(&self) -> bool {
        self.open_names.0 > 0
    }

    /// Whether the server ignores what is sent until a Sync.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether the server waits for the data of a copy.
    pub fn is_copying_in(&self) -> bool {
        self.copy == Copy::In
    }

    /// Whether a batch is open: messages were sent that no Sync has followed.
    pub fn is_in_batch(&self) -> bool {
        self.batch
    }

    /// Whether a request of our own has failed that must not fail.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Something came that cannot be explained.
    pub fn doubt(&mut self) {
        self.doubt = true;
    }

    /// Whether something came that could not be explained.
    pub fn in_doubt(&self) -> bool {
        self.doubt
    }

    /// Whether ReadyForQuery may come although nothing is owed: the reset tells, by the CommandComplete that comes before its own.
    pub fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// Whether nothing is owed and nothing is open: no batch without Sync, no copy.
    pub fn is_quiet(&self) -> bool {
        self.queue.is_empty() && !self.skipping && !self.batch && self.copy == Copy::None
    }

    /// Whether nothing is owed, open, or unexplained.
    pub fn is_at_rest(&self) -> bool {
        self.is_quiet() && !self.unsure && !self.probing
    }

    /// Whether one more message of a batch may be sent, and the server takes it for that.
    pub fn takes_plain_messages(&self) -> bool {
        !self.skipping && self.copy == Copy::None && !self.is_full()
    }

    /// Whether the server can come to rest by itself: every batch is closed by a Sync, and it waits for no data.
    pub fn can_finish(&self) -> bool {
        !self.batch && !self.skipping && !matches!(self.copy, Copy::In | Copy::Both)
    }

    /// Whether an answer is owed or a copy runs: something that a cancel could end.
    pub fn is_owed(&self) -> bool {
        !self.queue.is_empty() || self.copy != Copy::None
    }

    /// How many requests wait.
    pub fn owed(&self) -> usize {
        self.queue.len()
    }

    /// Whether no more may be sent.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= limits::OWED_MAX
    }
}

fn is_ready(kind: Kind) -> bool {
    matches!(kind, Kind::Query | Kind::FunctionCall | Kind::Sync)
}

/// A query of our own that must not fail leaves the status as it is.
fn changes_status(kind: Kind, owner: Owner) -> bool {
    is_ready(kind) && owner != Owner::Ours
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script: lower case `>` before what the client sends, `<` before what the server answers.
    fn run(script: &str) -> Expect {
        let mut expect = Expect::default();
        for step in script.split_whitespace() {
            let (direction, tags) = step.split_at(1);
            for tag in tags.bytes() {
                if direction == ">" {
                    expect.sent(tag);
                } else {
                    expect.answered(tag);
                }
            }
        }
        expect
    }

    fn quiet(script: &str) {
        let expect = run(script);
        assert!(
            expect.is_quiet() && !expect.in_doubt(),
            "{script}: {expect:?}"
        );
    }

    fn open(script: &str) {
        let expect = run(script);
        assert!(
            !expect.is_quiet() && !expect.in_doubt(),
            "{script}: {expect:?}"
        );
    }

    fn doubtful(script: &str) {
        assert!(run(script).in_doubt(), "{script}");
    }

    #[test]
    fn simple_queries() {
        quiet(">Q <TDDC <Z");
        quiet(">Q <I <Z");
        quiet(">Q <E <Z");
        quiet(">QQQ <C <Z <TC <Z <E <Z");
        quiet(">F <V <Z >F <E <Z");
        open(">Q <TDDC");
        open(">QQ <C <Z");
        doubtful(">Q <C <Z <Z");
        doubtful("<D");
        doubtful(">Q <1");
    }

    #[test]
    fn extended_queries() {
        quiet(">PBDES <12TDDC <Z");
        quiet(">PDS <1tTZ >BES <2sZ");
        quiet(">PDBDE >S <1tn2nIZ");
        quiet(">CS <3Z");
        quiet(">PBES >PBES <12CZ <12CZ");
        quiet(">PBES <12C <E <Z"); // a deferred constraint fails at Sync
        open(">P");
        open(">PH <1"); // answered, but a batch is open
        open(">PBE <12C");
    }

    /// B5: an error skips Query and FunctionCall as well, up to the Sync.
    #[test]
    fn an_error_skips_to_sync() {
        quiet(">PBES <E <Z");
        quiet(">PBEPBES <12E <Z");
        quiet(">BEQFS <E <Z");
        quiet(">PBE <E >PBQF >S <Z");
        quiet(">PBES >PBES <E <Z <12CZ");
        open(">PBE <E");
        open(">PBE <E >PBQ");
        doubtful(">BEQS <E <C");
    }

    #[test]
    fn copy_in_simple() {
        quiet(">Q <G >ddc <C <Z");
        quiet(">Q >ddc <G <C <Z");
        quiet(">Q <G >f <E <Z");
        quiet(">Q <G >d <E <Z >ddc"); // late data after an error
        quiet(">Q >c >c <G <C <G <C <Z"); // two copies in one Query, data sent ahead
        quiet(">Q <G >S >c <C <Z"); // a Sync in the middle is swallowed
        quiet(">Q <E <Z >dc >Q <C <Z");
        quiet(">Q >dc >Q <E <Z <C <Z"); // the copy was refused, its data is ignored
        open(">Q <G >d");
    }

    #[test]
    fn copy_in_extended_swallows_the_sync() {
        quiet(">PBES <12G >dc >S <C <Z");
        quiet(">PBES >dcS <12G <C <Z");
        quiet(">PBE >dcS <12G <C <Z");
        quiet(">PBES <12G >d <E >dc >S <Z");
        quiet(">PBES >dcS <12E <Z <Z"); // refused: the first Sync ends the skipping, the second answers too
        open(">PBES <12G >dc");
        open(">PBES <12G >dc <C");
        doubtful(">PBESPBES <12G");
    }

    /// Found by reading: a Sync behind bad data is not swallowed but answered, after the error and the ReadyForQuery of the
    /// COPY. Between the two the queue was taken for quiet; a client that left just then left the second ReadyForQuery to the
    /// reset, and the reset's own last answer to the next client.
    #[test]
    fn a_sync_sent_into_a_copy_that_fails_may_be_answered() {
        for unsure in [
            ">Q <G >dS <E <Z",
            ">QdS <G <E <Z",
            ">QS <G <E <Z", // a BEFORE STATEMENT trigger fails before the server reads
            ">PBES <12G >d <E >dc >S <Z",
        ] {
            assert!(run(unsure).is_unsure(), "{unsure}");
        }
        for sure in [
            ">Q <G >dSc <C <Z >Q <E <Z", // it was read to its end
            ">QdcS <G <E <Z <Z",
            ">PBE >dcS <12G <E <Z",
        ] {
            assert!(!run(sure).is_unsure(), "{sure}");
        }
    }

    #[test]
    fn copy_out_and_both() {
        quiet(">Q <Hddc <C <Z");
        quiet(">Q <Hd <E <Z");
        quiet(">PBES <12HddcC <Z");
        quiet(">Q <Wd >d <d >c <c <C <Z");
        open(">Q <Wd");
        doubtful(">Q <d");
    }

    #[test]
    fn what_comes_at_any_time_means_nothing() {
        quiet("<NAS >Q <NSA <C <NAS <Z <A");
        doubtful("<E");
        doubtful(">Q <K");
    }
}
