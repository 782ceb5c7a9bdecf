//! One end of the engine: a stream, what the poll last said of it, and the few bytes that could not go on yet.
//!
//! A link at rest owns no heap beyond its stream: what it may hold is only there while it is held, since there may be very many
//! links and nearly all of them rest.

use zeroize::Zeroize;

use super::stream::{Facts, Given, Handover, Host, Protection, Ready, Stream, Taken, TlsSide, Why};
use crate::limits;

/// A connection as the engine holds it.
pub struct Link {
    stream: Box<dyn Stream>,
    /// May a read find something?
    readable: bool,
    /// May a write give something away?
    writable: bool,
    /// The poll has reported a hang-up: short reads do not mean drained any more.
    hung_up: bool,
    /// Only TLS holds anything back, or shakes hands: without it nobody is asked.
    cover: Cover,
    /// How writing ended. Reading goes on: the peer's last words may still be there.
    broken: Option<Box<Why>>,
    /// Our side is closed.
    shut: bool,
    /// Read, but not decided yet: the start of a message.
    carry: Box<[u8]>,
    /// Until its login is over: what is carried may be a password, and is overwritten when it is not needed any more.
    private: bool,
    /// The carry lacks nothing that a read would bring.
    decidable: bool,
    /// To be written when the peer takes it.
    outbox: Option<Box<Outbox>>,
    /// Whether the loop's list of what to run holds it.
    pub(super) listed: bool,
}

/// What lies over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cover {
    /// Nothing: what the stream took has been sent.
    Nothing,
    /// TLS, or it is about to.
    Tls,
    /// TLS, which has not sent everything that was written.
    Holding,
}

// There may be very many.
const _: () = assert!(size_of::<Link>() <= 56);

/// Bytes that a peer has not taken yet, at least one.
struct Outbox {
    bytes: Vec<u8>,
    /// So many of them have gone.
    sent: usize,
}

/// What a read into the loop's buffer brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// So many bytes are in the buffer: what was carried, and what was read.
    Bytes(usize),
    /// Nothing new.
    Nothing,
    /// The end, and how it came.
    Closed(Why),
}

impl Link {
    /// A connection that may be read and written until it says otherwise.
    pub fn new(stream: Box<dyn Stream>) -> Link {
        Link {
            cover: match stream.protection() {
                Protection::None => Cover::Nothing,
                _ => Cover::Tls,
            },
            stream,
            readable: false,
            writable: true,
            hung_up: false,
            broken: None,
            shut: false,
            carry: Box::default(),
            private: false,
            decidable: false,
            outbox: None,
            listed: false,
        }
    }

    /// A connection that is still being made: an event will tell.
    pub fn dialing(stream: Box<dyn Stream>) -> Link {
        Link {
            writable: false,
            ..Link::new(stream)
        }
    }

    /// A connection over which a client logs in. It may have said something before it was accepted.
    pub fn of_newcomer(stream: Box<dyn Stream>) -> Link {
        Link {
            readable: true,
            private: true,
            ..Link::new(stream)
        }
    }

    /// What comes from now on may be somebody's secret.
    pub fn brings_secrets(&mut self) {
        self.private = true;
    }

    /// The login is over: what comes now is no password.
    pub fn login_is_over(&mut self) {
        self.private = false;
        self.stream.login_is_over();
    }

    /// Overwrites what is carried if it may be a password.
    pub fn wipe(&mut self) {
        if self.private {
            self.carry.zeroize();
        }
    }

    /// Notes what the poll said.
    pub fn note(&mut self, ready: Ready) {
        self.readable |= ready.read || ready.hung_up;
        self.writable |= ready.write;
        self.hung_up |= ready.hung_up;
    }

    /// The poll is to report bytes only when there are so many.
    pub fn wake_at(&mut self, bytes: usize) {
        self.stream.wake_at(bytes);
    }

    /// Whether a read may find something.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether the peer has hung up, half or whole; there may still be bytes to read.
    pub fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Whether the peer may take something.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Whether what can be read belongs to a TLS handshake.
    pub(super) fn is_shaking(&self) -> bool {
        self.cover != Cover::Nothing && self.readable && self.protection() == Protection::Handshake
    }

    /// Whether no bytes are held, in neither direction.
    pub fn is_at_rest(&self) -> bool {
        self.carry.is_empty() && self.is_flushed()
    }

    /// Whether everything was written.
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_none() && self.cover != Cover::Holding
    }

    /// Whether there is something to write and the peer may take it.
    pub fn can_flush(&self) -> bool {
        self.writable && !self.is_flushed()
    }

    /// Whether there is something to do for it.
    pub fn can_go_on(&self) -> bool {
        self.readable || self.has_carry() || self.can_flush()
    }

    /// How writing ended, if it has.
    pub fn broken(&self) -> Option<&Why> {
        self.broken.as_deref()
    }

    /// Bytes held: for bounds and SHOW.
    pub fn held(&self) -> (usize, usize) {
        (self.carry.len(), self.waiting())
    }

    /// Room in the outbox before it is full.
    pub fn room(&self) -> usize {
        limits::OUTBOX_MAX.saturating_sub(self.waiting())
    }

    /// Bytes in the outbox.
    fn waiting(&self) -> usize {
        let outbox = self.outbox.as_deref();
        outbox.map_or(0, |outbox| outbox.bytes.len() - outbox.sent)
    }

    /// Who is there. Not for nothing: the kernel is asked.
    pub fn facts(&self) -> Facts {
        self.stream.facts()
    }

    /// Whether it is a Unix socket: nobody can listen in between.
    pub fn is_unix(&self) -> bool {
        self.stream.is_unix()
    }

    /// Whether something in the carry can be looked at without more being read.
    pub fn has_carry(&self) -> bool {
        self.decidable && !self.carry.is_empty()
    }

    /// What was read and not decided yet.
    pub fn carry(&self) -> &[u8] {
        &self.carry
    }

    /// Moves the carry into the start of `buffer` without reading.
    pub fn take_carry(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.carry.len();
        if count == 0 {
            return 0; // as a rule
        }
        if let Some(front) = buffer.get_mut(..count) {
            front.copy_from_slice(&self.carry);
        }
        self.wipe();
        self.carry = Box::default();
        count
    }

    /// Keeps the undecided rest of what was read: it was not looked at yet, or something other than its end was missing.
    pub fn keep(&mut self, rest: &[u8]) {
        debug_assert!(self.carry.is_empty() && rest.len() <= limits::CARRY_MAX);
        self.decidable = true;
        if !rest.is_empty() {
            self.carry = rest.into();
        }
    }

    /// Keeps the start of a message of which more has to be read.
    pub fn keep_start(&mut self, rest: &[u8]) {
        self.keep(rest);
        self.decidable = false;
    }

    /// What is kept can be looked at again.
    pub fn reconsider(&mut self) {
        self.decidable = true;
    }

    /// Reads once, behind the carry. `Bytes` is only returned when something new came.
    pub fn read(&mut self, buffer: &mut [u8]) -> Input {
        let held = self.carry.len();
        let Some(space) = buffer.get_mut(held..held + limits::READ_MAX) else {
            return Input::Closed(Why::Error("a message did not fit the buffer".to_owned()));
        };
        let taken = self.stream.read(space);
        self.look_at_held();
        match taken {
            Taken::Bytes { count, more } => {
                self.readable = more || self.hung_up;
                Input::Bytes(self.take_carry(buffer) + count)
            }
            Taken::Nothing => Input::Nothing,
            Taken::Blocked => {
                self.readable = false;
                // A connection that can be written no more and says nothing more is over.
                let said = self.broken().cloned();
                said.map_or(Input::Nothing, Input::Closed)
            }
            Taken::Closed(why) => {
                self.readable = false;
                // The kernel says an error once, and to a write it was said already: "connection refused", for one.
                let said = self.broken().cloned().filter(|_| why == Why::Eof);
                Input::Closed(said.unwrap_or(why))
            }
        }
    }

    /// Writes, and keeps what the peer does not take yet.
    pub fn send(&mut self, bytes: &[u8]) {
        if self.broken.is_some() || bytes.is_empty() {
            return;
        }
        if let Some(outbox) = &mut self.outbox {
            return outbox.bytes.extend_from_slice(bytes);
        }
        let taken = self.write(bytes);
        let rest = bytes.get(taken..).unwrap_or_default();
        if self.broken.is_none() && !rest.is_empty() {
            let bytes = rest.to_vec();
            self.outbox = Some(Box::new(Outbox { bytes, sent: 0 }));
        }
    }

    /// Keeps what is to be written together with what comes next; [`flush`](Link::flush) is to follow in the same step.
    pub fn send_with_next(&mut self, bytes: Vec<u8>) {
        if self.broken.is_some() || bytes.is_empty() {
            return;
        }
        match &mut self.outbox {
            Some(outbox) => outbox.bytes.extend_from_slice(&bytes),
            None => self.outbox = Some(Box::new(Outbox { bytes, sent: 0 })),
        }
    }

    /// A stream that holds something back says so with an event, or with the end of its handshake, which a read brings.
    fn look_at_held(&mut self) {
        let before = self.cover;
        if before == Cover::Nothing {
            return;
        }
        if self.stream.holds() {
            (self.cover, self.writable) = (Cover::Holding, false);
        } else {
            self.cover = Cover::Tls;
            self.writable |= before == Cover::Holding;
        }
    }

    /// Lays TLS over the connection: `received` was read already and is meant for it, and what still waits to be written goes
    /// before it.
    ///
    /// # Errors
    /// Why it cannot be done; the connection is of no more use then.
    pub fn secure(
        &mut self,
        side: TlsSide,
        received: Vec<u8>,
        host: &mut dyn Host,
    ) -> Result<(), String> {
        let unsent = self.outbox.take().map(|mut outbox| {
            outbox.bytes.drain(..outbox.sent);
            outbox.bytes
        });
        let unsent = unsent.unwrap_or_default();
        let below = std::mem::replace(&mut self.stream, Box::new(Nowhere));
        self.stream = host.secure(below, side, Handover { received, unsent })?;
        self.cover = Cover::Tls;
        self.readable = true; // what was received tells of itself no more
        self.look_at_held();
        Ok(())
    }

    /// What protects it.
    pub fn protection(&self) -> Protection {
        self.stream.protection()
    }

    /// Writes what waits.
    pub fn flush(&mut self) {
        if self.cover == Cover::Holding {
            if let Given::Closed(why) = self.stream.flush() {
                return self.broke(why);
            }
            self.look_at_held();
        }
        let Some(mut outbox) = self.outbox.take() else {
            return;
        };
        outbox.sent += self.write(outbox.bytes.get(outbox.sent..).unwrap_or_default());
        if self.broken.is_none() && outbox.sent < outbox.bytes.len() {
            self.outbox = Some(outbox);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        if !self.writable {
            return 0;
        }
        match self.stream.write(bytes) {
            Given::Bytes(count) => {
                self.writable = count == bytes.len();
                self.look_at_held();
                count
            }
            Given::Blocked => {
                self.writable = false;
                0
            }
            Given::Closed(why) => {
                self.broke(why);
                0
            }
        }
    }

    fn broke(&mut self, why: Why) {
        self.writable = false;
        if self.cover == Cover::Holding {
            self.cover = Cover::Tls;
        }
        self.outbox = None;
        self.broken = Some(Box::new(why));
        self.readable = true; // the read side says the rest
    }

    /// Nothing more will be written.
    pub fn shutdown(&mut self) {
        self.shut = true;
        self.stream.shutdown();
        self.look_at_held();
    }

    /// Whether our side is closed.
    pub fn is_shut(&self) -> bool {
        self.shut
    }
}

/// In the place of a stream that is being laid under another.
struct Nowhere;

impl Stream for Nowhere {
    fn read(&mut self, _: &mut [u8]) -> Taken {
        Taken::Closed(Why::Eof)
    }

    fn write(&mut self, _: &[u8]) -> Given {
        Given::Closed(Why::Eof)
    }

    fn shutdown(&mut self) {}

    fn facts(&self) -> Facts {
        Facts::default()
    }
}
