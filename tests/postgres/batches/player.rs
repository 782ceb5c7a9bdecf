//! Plays scripts, several at once on one thread, and knows from the protocol what is still owed to each client.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::script::{Act, Script};
use crate::random::Random;
use crate::support::{Message, ServerError, Wire};

/// The index of messages that the player sends of its own accord.
const OWN: usize = usize::MAX;

/// One message of the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub message: Message,
    /// The act of the script that it seems to answer.
    pub to: Option<usize>,
}

/// Why a play was broken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing came any more, and something was owed to this player.
    Hang(usize),
    /// A message to this player that answers nothing.
    Unexplained(usize),
    /// This player's connection ended before it had said goodbye.
    Closed(usize),
    /// A login was refused.
    Refused(ServerError),
}

/// What a message is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    /// The end of the login.
    Greeting,
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Flush,
    Sync,
    Query,
    Call,
    CopyData,
    /// CopyDone, CopyFail.
    CopyEnd,
}

impl Owed {
    fn by(act: &Act) -> Option<Owed> {
        Some(match act {
            Act::Parse { .. } => Owed::Parse,
            Act::Bind { .. } => Owed::Bind,
            Act::Describe(..) => Owed::Describe,
            Act::Execute(..) => Owed::Execute,
            Act::Close(..) => Owed::Close,
            Act::Flush => Owed::Flush,
            Act::Sync => Owed::Sync,
            Act::Query(_) => Owed::Query,
            Act::Call { .. } => Owed::Call,
            Act::CopyData(_) => Owed::CopyData,
            Act::CopyDone | Act::CopyFail(_) => Owed::CopyEnd,
            Act::Wait => return None,
        })
    }

    /// Whether the server, having read it, holds nothing back.
    fn forces_answers(self) -> bool {
        use Owed::{Call, Flush, Greeting, Query, Sync};
        matches!(self, Greeting | Flush | Sync | Query | Call)
    }

    fn is_copy(self) -> bool {
        matches!(self, Owed::CopyData | Owed::CopyEnd)
    }
}

/// The messages that have been sent and not been answered yet, in order. The rules are PostgreSQL's.
struct Account {
    owed: VecDeque<(Owed, usize)>,
    /// After an error in the extended protocol: what is sent now is thrown away by the server, up to the next Sync.
    skipping: bool,
    /// The server reads the data of a COPY, which the first of `owed` has begun.
    copying: bool,
}

impl Account {
    fn new() -> Account {
        Account {
            owed: VecDeque::from([(Owed::Greeting, OWN)]),
            skipping: false,
            copying: false,
        }
    }

    fn sent(&mut self, owed: Owed, index: usize) {
        if self.skipping && owed != Owed::Sync {
            return;
        }
        self.skipping = false;
        let before_data = self.copying && self.owed.len() == 1;
        if before_data && matches!(owed, Owed::Sync | Owed::Flush) {
            return;
        }
        self.owed.push_back((owed, index));
        self.settle();
    }

    /// Takes what needs no answer from the front.
    fn settle(&mut self) {
        while let Some((owed, _)) = self.owed.front() {
            if *owed != Owed::Flush && !owed.is_copy() {
                break;
            }
            self.owed.pop_front();
        }
    }

    /// Books a message of the server's; `None` if nothing explains it.
    fn received(&mut self, kind: u8) -> Option<usize> {
        let head = self.owed.front().copied();
        if matches!(kind, b'N' | b'A' | b'S') {
            return Some(head.map_or(OWN, |(_, index)| index));
        }
        let (owed, index) = head?;
        use Owed::{Bind, Call, Close, Describe, Execute, Greeting, Parse, Query, Sync};
        match (owed, kind) {
            (Greeting, b'K') | (Describe, b't') | (Query, b'T') | (Call, b'V') => {}
            (Query | Execute, b'D' | b'H' | b'd' | b'c') => {}
            (Query | Execute, b'G') => self.copy_begins(),
            (Query | Execute, b'C' | b'I' | b's') => {
                if self.copying {
                    self.copy_ends();
                }
                if owed == Execute {
                    self.owed.pop_front();
                }
            }
            (Query | Call | Sync, b'E') => self.copying = false,
            (Parse | Bind | Describe | Execute | Close, b'E') => self.skip(),
            (Parse, b'1') | (Bind, b'2') | (Close, b'3') | (Describe, b'T' | b'n') => {
                self.owed.pop_front();
            }
            (Greeting | Query | Call | Sync, b'Z') => {
                self.owed.pop_front();
            }
            _ => return None,
        }
        self.settle();
        Some(index)
    }

    /// Sync and Flush that come before the data are read as part of it, and mean nothing there.
    fn copy_begins(&mut self) {
        self.copying = true;
        while matches!(self.owed.get(1), Some((Owed::Sync | Owed::Flush, _))) {
            self.owed.remove(1);
        }
    }

    fn copy_ends(&mut self) {
        self.copying = false;
        let end = self
            .owed
            .iter()
            .position(|(owed, _)| *owed == Owed::CopyEnd);
        if let Some(end) = end {
            self.owed.drain(1..=end);
        }
    }

    fn skip(&mut self) {
        self.copying = false;
        self.skipping = true;
        while let Some((owed, _)) = self.owed.front() {
            if *owed == Owed::Sync {
                self.skipping = false;
                break;
            }
            self.owed.pop_front();
        }
    }

    /// Whether the server now waits for the data of a COPY, or for its end.
    fn wants_data(&self) -> bool {
        self.copying && !self.owed.iter().any(|(owed, _)| *owed == Owed::CopyEnd)
    }

    /// Whether everything has come that must have come.
    fn is_settled(&self) -> bool {
        self.wants_data() || !self.owed.iter().any(|(owed, _)| owed.forces_answers())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Playing,
    /// The last Sync has been sent.
    Ending,
    /// Terminate has been sent.
    Leaving,
    /// The connection has ended after that.
    Left,
}

/// A client that plays a script.
pub struct Player<'a> {
    acts: Vec<(usize, &'a Act)>,
    /// The next of `acts`.
    next: usize,
    wire: Wire,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    account: Account,
    stage: Stage,
    waits: bool,
    /// What has come.
    pub replies: Vec<Reply>,
}

impl<'a> Player<'a> {
    /// Logs in, up to AuthenticationOk; what follows is in the replies.
    pub fn login(
        port: u16,
        user: &str,
        password: &str,
        database: &str,
        script: &'a Script,
    ) -> Result<Player<'a>, ServerError> {
        let mut wire = Wire::connect(port);
        let mut parameters = vec![("user", user), ("database", database)];
        let more = script.parameters.iter();
        parameters.extend(more.map(|(name, value)| (name.as_str(), value.as_str())));
        wire.startup(&parameters);
        wire.authenticate(user, password)?;
        wire.stream.set_nonblocking(true).expect("a socket");
        let batches = script.batches.iter().enumerate();
        let acts = batches.flat_map(|(at, batch)| batch.iter().map(move |act| (at, act)));
        Ok(Player {
            acts: acts.collect(),
            next: 0,
            wire,
            inbox: Vec::new(),
            outbox: Vec::new(),
            account: Account::new(),
            stage: Stage::Playing,
            waits: true,
            replies: Vec::new(),
        })
    }

    fn can_advance(&self) -> bool {
        match self.stage {
            Stage::Playing => !self.waits || self.account.is_settled(),
            Stage::Ending => self.account.is_settled(),
            Stage::Leaving | Stage::Left => false,
        }
    }

    /// Puts the messages up to the next pause, or the end of the batch, into the outbox.
    fn advance(&mut self) {
        if self.waits && self.account.wants_data() && !self.next_is_copy() {
            self.send(&Act::CopyFail("the script has no data".to_string()), OWN);
            return;
        }
        self.waits = false;
        let Some(&(batch, _)) = self.acts.get(self.next) else {
            return self.end();
        };
        while let Some(&(of, act)) = self.acts.get(self.next) {
            if of != batch {
                return;
            }
            let index = self.next;
            self.next += 1;
            if *act == Act::Wait {
                self.waits = true;
                return;
            }
            self.send(act, index);
        }
    }

    /// Whether data comes next, but for what means nothing in front of it.
    fn next_is_copy(&self) -> bool {
        let mut coming = self.acts[self.next..].iter().map(|(_, act)| act);
        coming
            .find(|act| !matches!(act, Act::Sync | Act::Flush | Act::Wait))
            .and_then(|act| Owed::by(act))
            .is_some_and(Owed::is_copy)
    }

    fn end(&mut self) {
        if self.stage == Stage::Playing {
            self.send(&Act::Sync, OWN);
            self.waits = true;
            self.stage = Stage::Ending;
        } else {
            self.outbox.extend(crate::support::wire::message(b'X', &[]));
            self.stage = Stage::Leaving;
        }
    }

    fn send(&mut self, act: &Act, index: usize) {
        self.outbox.extend(act.encode());
        if let Some(owed) = Owed::by(act) {
            self.account.sent(owed, index);
        }
    }

    /// Writes `most` bytes at most. An error shows when the connection is read.
    fn write(&mut self, most: usize) {
        let bytes = &self.outbox[..most.min(self.outbox.len())];
        if let Ok(written) = self.wire.stream.write(bytes) {
            self.outbox.drain(..written);
        }
    }

    /// Reads what has come; `Err` for what no server may do.
    fn read(&mut self) -> Result<(), fn(usize) -> Trouble> {
        let mut buffer = [0; 64 * 1024];
        let count = match self.wire.stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // The other end has closed with our Terminate unread.
            Err(_) if self.stage == Stage::Leaving => 0,
            Err(_) => return Err(Trouble::Closed),
        };
        if count == 0 {
            if self.stage != Stage::Leaving {
                return Err(Trouble::Closed);
            }
            self.stage = Stage::Left;
            return Ok(());
        }
        self.inbox.extend(&buffer[..count]);
        while let Some((message, length)) = first_message(&self.inbox) {
            self.inbox.drain(..length);
            let to = self.account.received(message.kind);
            let index = to.filter(|index| *index != OWN);
            self.replies.push(Reply { message, to: index });
            if to.is_none() {
                return Err(Trouble::Unexplained);
            }
        }
        Ok(())
    }
}

/// The first message of these bytes, and how long it is, if it is whole.
fn first_message(bytes: &[u8]) -> Option<(Message, usize)> {
    let head: [u8; 4] = bytes.get(1..5)?.try_into().ok()?;
    let length = 1 + usize::try_from(u32::from_be_bytes(head)).ok()?;
    let body = bytes.get(5..length.max(5))?.to_vec();
    let kind = bytes[0];
    Some((Message { kind, body }, length.max(5)))
}

/// Plays all scripts to their ends, the players' turns and the sizes of their writes as chance has it.
pub fn play(
    players: &mut [Player<'_>],
    random: &mut Random,
    patience: Duration,
) -> Result<(), Trouble> {
    loop {
        let mut ready = false;
        let first = random.below(players.len());
        for turn in 0..players.len() {
            let at = (first + turn) % players.len();
            let player = &mut players[at];
            if player.can_advance() && random.chance(60) {
                player.advance();
            }
            ready |= player.can_advance();
        }
        if players.iter().all(|player| player.stage == Stage::Left) {
            return Ok(());
        }
        let timeout = if ready { Duration::ZERO } else { patience };
        let events = wait(players, timeout);
        if events.is_empty() && !ready {
            let stuck = players
                .iter()
                .position(|player| player.stage != Stage::Left && !player.can_advance());
            return Err(Trouble::Hang(stuck.unwrap_or(0)));
        }
        for (at, events) in events {
            if events.contains(PollFlags::POLLOUT) {
                let length = players[at].outbox.len();
                let most = if random.chance(15) {
                    1 + random.below(length)
                } else {
                    length
                };
                players[at].write(most);
            }
            if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
                players[at].read().map_err(|trouble| trouble(at))?;
            }
        }
    }
}

/// Which players can be read or, where something is to be written, written.
fn wait(players: &[Player<'_>], timeout: Duration) -> Vec<(usize, PollFlags)> {
    let present = |(_, player): &(usize, &Player<'_>)| player.stage != Stage::Left;
    let present: Vec<_> = players.iter().enumerate().filter(present).collect();
    let mut fds: Vec<PollFd<'_>> = present
        .iter()
        .map(|(_, player)| {
            let mut interest = PollFlags::POLLIN;
            interest.set(PollFlags::POLLOUT, !player.outbox.is_empty());
            PollFd::new(player.wire.stream.as_fd(), interest)
        })
        .collect();
    let timeout = PollTimeout::try_from(timeout).expect("a short time");
    poll(&mut fds, timeout).expect("poll");
    let events = fds.iter().map(|fd| fd.revents());
    let pairs = present.iter().zip(events);
    pairs
        .filter_map(|((at, _), events)| Some((*at, events?)))
        .filter(|(_, events)| !events.is_empty())
        .collect()
}
