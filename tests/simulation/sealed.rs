//! A connection of the simulated network under two layers of TLS, back to back: what the engine writes is sealed by the stream
//! that it has in production, opened by its counterpart, and goes on in the clear to the model; and the same way back. So the
//! models need not know TLS, and the engine meets its stream's habits: bytes held back, records in pieces, ends of its own.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use aether::engine::{Facts, Given, Handover, Protection, Stream, Taken, TlsSide, Why};
use aether::net::tls::{self, Scratch};
use aether::tls::{Acceptor, Authorities, Choice, Connector, Identity, Manner, Mode, pem};

use crate::random::Random;

/// Ciphertext between the two layers, one way.
#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    closed: bool,
}

/// The end of a layer: bytes come in pieces, and there is not room for many.
struct End {
    from: Rc<RefCell<Way>>,
    to: Rc<RefCell<Way>>,
    piece: usize,
}

impl Stream for End {
    fn read(&mut self, into: &mut [u8]) -> Taken {
        let way = &mut *self.from.borrow_mut();
        let count = way.bytes.len().min(into.len()).min(self.piece);
        for (to, byte) in into.iter_mut().zip(way.bytes.drain(..count)) {
            *to = byte;
        }
        match count {
            0 if way.closed => Taken::Closed(Why::Eof),
            0 => Taken::Blocked,
            _ => Taken::Bytes {
                count,
                more: !way.bytes.is_empty(),
            },
        }
    }

    fn write(&mut self, from: &[u8]) -> Given {
        let way = &mut *self.to.borrow_mut();
        let space = ROOM.saturating_sub(way.bytes.len()).min(from.len());
        way.bytes.extend(&from[..space]);
        match space {
            0 => Given::Blocked,
            count => Given::Bytes(count),
        }
    }

    fn shutdown(&mut self) {
        self.to.borrow_mut().closed = true;
    }

    fn facts(&self) -> Facts {
        Facts::default()
    }
}

/// Ciphertext that may be between the layers: some records.
const ROOM: usize = 20_000;

/// What both sides show and trust. Ed25519: its signatures have one length, so a seed's world is the same every time.
pub struct Sides {
    acceptor: Rc<Acceptor>,
    connector: Rc<Connector>,
    scratch: Scratch,
}

impl Sides {
    pub fn new() -> Sides {
        let chain = pem::certificates(include_bytes!("../certificates/ed25519.crt"));
        let chain = chain.expect("a certificate");
        let key = pem::key(include_bytes!("../certificates/ed25519.key")).expect("a key");
        let authorities = Authorities {
            roots: chain.clone(),
            ..Authorities::default()
        };
        let manner = Manner {
            mode: Mode::VerifyFull,
            direct: true,
            sni: true,
            needs_certificate: false,
        };
        let choice = Choice::default();
        let identity = Identity { chain, key };
        let acceptor = Acceptor::new(Mode::Require, identity, Authorities::default(), &choice);
        let connector = Connector::new(manner, None, authorities, &choice);
        Sides {
            acceptor: Rc::new(acceptor.expect("an acceptor")),
            connector: Rc::new(connector.expect("a connector")),
            scratch: Scratch::default(),
        }
    }

    fn end(&self, is_server: bool) -> TlsSide {
        if is_server {
            TlsSide::Client {
                acceptor: self.acceptor.clone(),
                direct: true,
            }
        } else {
            TlsSide::Server {
                connector: self.connector.clone(),
                host: "localhost".to_owned(),
            }
        }
    }

    /// Lays both layers over a connection. `accepted`: the engine is TLS's server.
    pub fn seal(
        &self,
        plain: Box<dyn Stream>,
        accepted: bool,
        random: &mut Random,
    ) -> Box<dyn Stream> {
        let (out, back) = (Rc::<RefCell<Way>>::default(), Rc::<RefCell<Way>>::default());
        let piece = random.pick(&[1, 30, 1_500, 70_000]);
        let secure = |from: &Rc<RefCell<Way>>, to: &Rc<RefCell<Way>>, is_server| {
            let end = Box::new(End {
                from: from.clone(),
                to: to.clone(),
                piece,
            });
            tls::secure(end, self.end(is_server), Handover::default(), &self.scratch).expect("TLS")
        };
        let mut sealed = Sealed {
            near: secure(&back, &out, accepted),
            far: secure(&out, &back, !accepted),
            plain,
            back,
            outward: Vec::new(),
            inward: Vec::new(),
            out_ended: false,
            out_broken: None,
            in_ended: None,
            told_end: false,
            shut: false,
        };
        let mut nothing = [0; 8];
        while sealed.near.protection() != Protection::Tls
            || sealed.far.protection() != Protection::Tls
        {
            for layer in [&mut sealed.near, &mut sealed.far] {
                assert!(!matches!(
                    layer.read(&mut nothing),
                    Taken::Closed(_) | Taken::Bytes { .. }
                ));
            }
        }
        Box::new(sealed)
    }
}

/// Both layers and the connection below.
struct Sealed {
    near: Box<dyn Stream>,
    far: Box<dyn Stream>,
    plain: Box<dyn Stream>,
    /// Ciphertext for the near layer.
    back: Rc<RefCell<Way>>,
    /// Opened, and not taken by the connection below.
    outward: Vec<u8>,
    /// From below, and not taken by the far layer.
    inward: Vec<u8>,
    /// The engine's side of TLS has ended, and that has been passed on.
    out_ended: bool,
    /// How writing below ended, out of order.
    out_broken: Option<Why>,
    /// How reading from below ended.
    in_ended: Option<Why>,
    /// The far layer has told the near one of that.
    told_end: bool,
    shut: bool,
}

/// Plaintext between a layer and the connection below.
const BETWEEN: usize = 5_000;

impl Sealed {
    /// Moves what can be moved, until nothing does. Inward only with a read: whoever is not about to read has been told that
    /// there is nothing, and would never learn of it.
    fn settle(&mut self, reads: bool) {
        loop {
            let moved = self.outward() | (reads && self.inward());
            let held = (self.near.holds(), self.far.holds());
            let _ = (self.near.flush(), self.far.flush());
            if !moved && held == (self.near.holds(), self.far.holds()) {
                return;
            }
        }
    }

    fn outward(&mut self) -> bool {
        let mut moved = false;
        let mut buffer = [0; BETWEEN];
        while self.outward.is_empty() && !self.out_ended {
            match self.far.read(&mut buffer) {
                Taken::Bytes { count, .. } => self.outward.extend(&buffer[..count]),
                Taken::Nothing => {}
                Taken::Blocked => break,
                Taken::Closed(_) => self.out_ended = true,
            }
            moved = true;
        }
        if !self.outward.is_empty() {
            match self.plain.write(&self.outward) {
                Given::Bytes(count) => {
                    self.outward.drain(..count);
                    moved = true;
                }
                Given::Blocked => {}
                Given::Closed(why) => {
                    self.out_broken = Some(why);
                    self.outward.clear();
                    moved = true;
                }
            }
        }
        if self.out_ended && self.outward.is_empty() && !std::mem::replace(&mut self.shut, true) {
            self.plain.shutdown();
        }
        moved
    }

    fn inward(&mut self) -> bool {
        let mut moved = false;
        let mut buffer = [0; BETWEEN];
        if self.inward.is_empty() && self.in_ended.is_none() {
            match self.plain.read(&mut buffer) {
                Taken::Bytes { count, .. } => {
                    self.inward.extend(&buffer[..count]);
                    moved = true;
                }
                Taken::Nothing | Taken::Blocked => {}
                Taken::Closed(why) => {
                    self.in_ended = Some(why);
                    moved = true;
                }
            }
        }
        if !self.inward.is_empty()
            && let Given::Bytes(count) = self.far.write(&self.inward)
        {
            self.inward.drain(..count);
            moved = true;
        }
        if self.in_ended.is_some()
            && self.inward.is_empty()
            && !std::mem::replace(&mut self.told_end, true)
        {
            self.far.shutdown();
            moved = true;
        }
        moved
    }
}

impl Stream for Sealed {
    fn read(&mut self, into: &mut [u8]) -> Taken {
        self.settle(true);
        let taken = self.near.read(into);
        self.settle(true);
        match taken {
            Taken::Bytes { count, .. } => Taken::Bytes { count, more: true },
            // It was an error below, and it is one above.
            Taken::Closed(Why::Eof) => Taken::Closed(self.in_ended.clone().unwrap_or(Why::Eof)),
            Taken::Blocked if self.is_stirring() => Taken::Nothing,
            other => other,
        }
    }

    fn write(&mut self, from: &[u8]) -> Given {
        self.settle(false);
        if let Some(why) = &self.out_broken {
            return Given::Closed(why.clone());
        }
        let given = self.near.write(from);
        self.settle(false);
        self.out_broken.clone().map_or(given, Given::Closed)
    }

    fn flush(&mut self) -> Given {
        self.settle(false);
        match &self.out_broken {
            Some(why) => Given::Closed(why.clone()),
            None if self.holds() => Given::Blocked,
            None => Given::Bytes(0),
        }
    }

    fn holds(&self) -> bool {
        self.out_broken.is_none() && (self.near.holds() || !self.outward.is_empty())
    }

    fn shutdown(&mut self) {
        self.settle(false);
        self.near.shutdown();
        self.settle(false);
    }

    fn protection(&self) -> Protection {
        self.near.protection()
    }

    fn facts(&self) -> Facts {
        self.plain.facts()
    }
}

impl Sealed {
    /// Whether the next read may find something without an event.
    fn is_stirring(&self) -> bool {
        let back = self.back.borrow();
        !back.bytes.is_empty() || back.closed || !self.inward.is_empty()
    }
}
