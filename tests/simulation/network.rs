//! Connections as the kernel would give them to the engine: bounded buffers, bytes that are on their way for a while, edges
//! instead of levels, ends that come with data or without, resets.
//!
//! A connection has the engine at its near end and a model (a client, a PostgreSQL) at its far end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use aether::auth::Channel;
use aether::engine::{Facts, Given, Ready, Stream, Taken, Why};

use crate::random::Random;
use crate::sealed::Layer;

pub type Shared = Rc<RefCell<Connection>>;

/// One direction.
#[derive(Debug, Default)]
pub struct Pipe {
    /// Sent, not arrived.
    flight: VecDeque<u8>,
    /// Arrived, not read.
    here: VecDeque<u8>,
    /// How much of both there may be.
    room: usize,
    /// The writer has closed it; the end is on its way behind the bytes.
    closed: bool,
    /// The end has arrived.
    ended: bool,
    /// A writer has found it full and waits for an event.
    starved: bool,
    /// The reader is told of no fewer bytes (`SO_RCVLOWAT`).
    low: usize,
}

impl Pipe {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let space = self
            .room
            .saturating_sub(self.flight.len() + self.here.len());
        let count = space.min(bytes.len());
        self.flight.extend(&bytes[..count]);
        self.starved |= count < bytes.len();
        count
    }

    fn has_room(&self) -> bool {
        self.flight.len() + self.here.len() < self.room
    }

    /// Whether the reader is to be told: as Linux has it, also when no more can come.
    fn is_worth_telling(&self) -> bool {
        let enough = self.here.len() >= self.low.max(1) || self.here.len() >= self.room;
        enough || self.ended
    }

    fn is_under_way(&self) -> bool {
        !self.flight.is_empty() || (self.closed && !self.ended)
    }

    fn arrive(&mut self, count: usize) {
        let count = count.min(self.flight.len());
        self.here.extend(self.flight.drain(..count));
        self.ended |= self.closed && self.flight.is_empty();
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Phase {
    Dialing,
    Open,
    Refused,
}

#[derive(Debug)]
pub struct Connection {
    pub phase: Phase,
    /// From the engine.
    out: Pipe,
    /// To the engine.
    into: Pipe,
    /// An event for the engine is due.
    edge: bool,
    /// Reads come as with TLS: fewer bytes than there are, and the stream says that there are more.
    layered: bool,
    /// Bytes that arrive at a time, at most.
    chunk: usize,
    /// How often out of a hundred times nothing arrives although it could.
    sloth: u64,
    /// A reset has arrived at the engine.
    reset: bool,
    near_closed: bool,
    far_closed: bool,
    /// It is a Unix socket, with the user of this number at its far end.
    pub peer_uid: Option<u32>,
    /// That is the user that the pooler runs as.
    pub peer_is_owner: bool,
    /// What lies over the far end.
    layer: Option<Layer>,
    random: Random,
}

impl Connection {
    pub fn new(random: &mut Random, phase: Phase, tiny: bool) -> Shared {
        let room = |random: &mut Random| {
            if tiny {
                random.pick(&[1, 7, 64, 5_000])
            } else {
                random.pick(&[600, 8_192, 70_000, 300_000])
            }
        };
        let pipe = |room| Pipe {
            room,
            ..Pipe::default()
        };
        let (out, into) = (pipe(room(random)), pipe(room(random)));
        Rc::new(RefCell::new(Connection {
            phase,
            out,
            into,
            edge: false,
            layered: random.chance(25),
            chunk: if tiny {
                random.pick(&[1, 3, 20])
            } else {
                random.pick(&[40, 1_500, 70_000])
            },
            sloth: random.pick(&[0, 0, 0, 0, 0, 50, 95]),
            reset: false,
            near_closed: false,
            far_closed: false,
            peer_uid: None,
            peer_is_owner: false,
            layer: None,
            random: Random::new(random.next()),
        }))
    }

    // ---- the network ----

    /// Whether bytes, or an end, are on their way.
    pub fn is_under_way(&self) -> bool {
        self.phase == Phase::Open && (self.out.is_under_way() || self.into.is_under_way())
    }

    /// Lets some of what is on its way arrive.
    pub fn carry(&mut self) {
        if self.random.chance(self.sloth) {
            return;
        }
        let most = self.random.below(self.chunk) + 1;
        let outward =
            self.out.is_under_way() && (!self.into.is_under_way() || self.random.chance(50));
        if outward {
            self.out.arrive(most);
            if self.far_closed && !self.out.here.is_empty() {
                // Nobody is there any more: the kernel of the far end answers with a reset.
                self.out.here.clear();
                self.reset = true;
                self.edge = true;
            }
        } else {
            self.into.arrive(most);
            self.edge |= self.into.is_worth_telling();
        }
    }

    /// A dial is over, well or not.
    pub fn connected(&mut self, well: bool) {
        self.phase = if well { Phase::Open } else { Phase::Refused };
        self.edge = true;
    }

    /// An event without a reason; allowed at any time.
    pub fn spurious(&mut self) {
        self.edge |= self.phase == Phase::Open;
    }

    pub fn has_edge(&self) -> bool {
        self.edge && !self.near_closed
    }

    /// What the poll says: once per edge, and all that is true at the moment.
    pub fn take_edge(&mut self) -> Ready {
        self.edge = false;
        let broken = self.reset || self.phase == Phase::Refused;
        let ended = self.into.ended || broken;
        Ready {
            read: self.into.is_worth_telling() || ended,
            write: self.phase == Phase::Open && self.out.has_room() || broken,
            hung_up: ended,
        }
    }

    /// Whether neither end is interested any more.
    pub fn is_gone(&self) -> bool {
        self.near_closed && (self.far_closed || self.phase != Phase::Open)
    }

    // ---- the far end ----

    /// From here on the far end speaks TLS. `received`: what it has read already; the plaintext of that.
    pub fn far_secure(&mut self, mut layer: Layer, received: Vec<u8>) -> Vec<u8> {
        assert!(self.layer.is_none(), "once is enough");
        let plain = layer.open(received, false);
        self.layer = Some(layer);
        self.send_sealed();
        plain
    }

    pub fn is_secured(&self) -> bool {
        self.layer.is_some()
    }

    /// What the far end knows of what carries it, for SCRAM.
    pub fn far_channel(&self) -> Channel {
        match &self.layer {
            None => Channel::Plain,
            Some(layer) => layer
                .endpoint()
                .map_or(Channel::Unbindable, Channel::Bindable),
        }
    }

    /// The room is for what the model says; what TLS adds to that goes along.
    fn send_sealed(&mut self) {
        if let Some(layer) = &mut self.layer {
            self.into.flight.extend(layer.sealed());
        }
    }

    pub fn far_write(&mut self, bytes: &[u8]) -> usize {
        if self.far_closed || self.near_closed || self.reset {
            return bytes.len(); // into the void
        }
        let Some(layer) = &mut self.layer else {
            return self.into.write(bytes);
        };
        if !self.into.has_room() {
            return 0;
        }
        let count = layer.seal(bytes);
        self.send_sealed();
        count
    }

    pub fn far_read(&mut self) -> Vec<u8> {
        let bytes = self.out.here.drain(..).collect();
        if self.out.starved && self.out.has_room() {
            self.out.starved = false;
            self.edge = true;
        }
        let Some(layer) = &mut self.layer else {
            return bytes;
        };
        let plain = layer.open(bytes, self.out.ended);
        self.send_sealed();
        plain
    }

    /// Whether a read would bring something: bytes, or the end.
    pub fn far_has_input(&self) -> bool {
        !self.far_closed && (!self.out.here.is_empty() || self.out.ended)
    }

    pub fn far_has_room(&self) -> bool {
        self.into.has_room() || self.near_closed || self.reset
    }

    /// The engine has closed, and everything it sent has arrived.
    pub fn far_ended(&self) -> bool {
        let over = self.layer.as_ref().is_some_and(Layer::is_over);
        over || self.out.ended && self.out.here.is_empty()
    }

    /// Half-close.
    pub fn far_shutdown(&mut self) {
        if let Some(layer) = self.layer.as_mut().filter(|_| !self.into.closed) {
            layer.shutdown();
        }
        self.send_sealed();
        self.into.closed = true;
    }

    pub fn far_close(&mut self) {
        self.far_shutdown();
        self.far_closed = true;
        if !self.out.here.is_empty() {
            self.far_reset(); // unread bytes: the kernel resets instead
        }
    }

    /// Everything that is on its way is lost.
    pub fn far_reset(&mut self) {
        self.into.flight.clear();
        self.into.closed = true;
        self.far_closed = true;
        self.reset = true;
        self.edge = true;
    }
}

/// The engine's end.
pub struct NearEnd(pub Shared);

fn reset_by_peer() -> Why {
    Why::Error("Connection reset by peer".to_owned())
}

impl Stream for NearEnd {
    fn read(&mut self, into: &mut [u8]) -> Taken {
        let connection = &mut *self.0.borrow_mut();
        match connection.phase {
            Phase::Dialing => return Taken::Blocked,
            Phase::Refused => return Taken::Closed(Why::Error("Connection refused".to_owned())),
            Phase::Open => {}
        }
        let here = &mut connection.into.here;
        if here.is_empty() {
            return match (connection.reset, connection.into.ended) {
                (true, _) => Taken::Closed(reset_by_peer()),
                (_, true) => Taken::Closed(Why::Eof),
                _ => Taken::Blocked,
            };
        }
        let mut count = here.len().min(into.len());
        if connection.layered {
            count = connection.random.below(count) + 1;
        }
        for (to, from) in into.iter_mut().zip(here.drain(..count)) {
            *to = from;
        }
        let more = if connection.layered {
            !here.is_empty()
        } else {
            count == into.len()
        };
        Taken::Bytes { count, more }
    }

    fn write(&mut self, from: &[u8]) -> Given {
        let connection = &mut *self.0.borrow_mut();
        match connection.phase {
            Phase::Dialing => return Given::Blocked,
            Phase::Refused => return Given::Closed(Why::Error("Connection refused".to_owned())),
            Phase::Open => {}
        }
        if connection.reset {
            return Given::Closed(Why::Error("Broken pipe".to_owned()));
        }
        match connection.out.write(from) {
            0 => Given::Blocked,
            count => Given::Bytes(count),
        }
    }

    fn shutdown(&mut self) {
        self.0.borrow_mut().out.closed = true;
    }

    fn wake_at(&mut self, bytes: usize) {
        let connection = &mut *self.0.borrow_mut();
        connection.into.low = bytes;
        connection.edge |= connection.into.is_worth_telling();
    }

    fn facts(&self) -> Facts {
        let peer_uid = self.0.borrow().peer_uid;
        let peer_is_owner = self.0.borrow().peer_is_owner;
        let address = peer_uid.map_or("simulated", |_| "unix");
        Facts {
            address: address.to_owned(),
            peer_uid,
            peer_is_owner,
            ..Facts::default()
        }
    }
}

impl Drop for NearEnd {
    fn drop(&mut self) {
        let mut connection = self.0.borrow_mut();
        connection.near_closed = true;
        connection.out.closed = true;
    }
}
