//! TLS at the far end of a connection of the simulated network, once it was agreed upon: the models say and hear plaintext, what is
//! under way is ciphertext, and the engine meets it as it does in production, from the request on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use aether::engine::{Facts, Given, Handover, Stream, Taken, TlsSide, Why};
use aether::net::tls::{self, Scratch};
use aether::tls::{Acceptor, Authorities, Choice, Connector, Identity, Manner, Mode, pem};

/// Of an Ed25519 key, whose signatures have one length, so that a seed's world is the same every time; signed by RSA, so that SCRAM can
/// be bound to it (RFC 5929).
pub const CERTIFICATE: &[u8] = include_bytes!("../certificates/bound.crt");
pub const KEY: &[u8] = include_bytes!("../certificates/bound.key");
/// Who has signed it.
pub const ROOT: &[u8] = include_bytes!("../certificates/root.crt");
/// What clients show who have to show something: their system's name is [`CERTIFIED`].
const CLIENT_CERTIFICATE: &[u8] = include_bytes!("../certificates/client.crt");
const CLIENT_KEY: &[u8] = include_bytes!("../certificates/client.key");
/// The name in it.
pub const CERTIFIED: &str = "username";

/// Ciphertext between a layer and the network, one way.
#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    closed: bool,
}

/// What the layer stands on: the network takes from it, and puts into it.
struct End {
    from: Rc<RefCell<Way>>,
    to: Rc<RefCell<Way>>,
}

impl Stream for End {
    fn read(&mut self, into: &mut [u8]) -> Taken {
        let way = &mut *self.from.borrow_mut();
        let count = way.bytes.len().min(into.len());
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
        self.to.borrow_mut().bytes.extend(from);
        Given::Bytes(from.len())
    }

    fn shutdown(&mut self) {
        self.to.borrow_mut().closed = true;
    }

    fn facts(&self) -> Facts {
        Facts::default()
    }
}

/// The layer itself.
pub struct Layer {
    tls: Box<dyn Stream>,
    from: Rc<RefCell<Way>>,
    to: Rc<RefCell<Way>>,
    over: bool,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TLS, over: {}", self.over)
    }
}

impl Layer {
    fn new(side: TlsSide, scratch: &Scratch) -> Layer {
        let (from, to) = (Rc::<RefCell<Way>>::default(), Rc::<RefCell<Way>>::default());
        let end = Box::new(End {
            from: from.clone(),
            to: to.clone(),
        });
        let tls = tls::secure(end, side, Handover::default(), scratch).expect("TLS");
        Layer {
            tls,
            from,
            to,
            over: false,
        }
    }

    /// Opens what has come from the network; `ended`: nothing more will.
    pub fn open(&mut self, bytes: Vec<u8>, ended: bool) -> Vec<u8> {
        {
            let from = &mut *self.from.borrow_mut();
            from.bytes.extend(bytes);
            from.closed |= ended;
        }
        let (mut plain, mut buffer) = (Vec::new(), [0; 5_000]);
        while !self.over {
            match self.tls.read(&mut buffer) {
                Taken::Bytes { count, .. } => plain.extend(&buffer[..count]),
                Taken::Nothing => {}
                Taken::Blocked => break,
                Taken::Closed(_) => self.over = true,
            }
        }
        plain
    }

    /// How much of this was sealed.
    pub fn seal(&mut self, bytes: &[u8]) -> usize {
        match self.tls.write(bytes) {
            Given::Bytes(count) => count,
            Given::Blocked => 0,
            Given::Closed(_) => bytes.len(),
        }
    }

    pub fn shutdown(&mut self) {
        self.tls.shutdown();
    }

    /// Ciphertext for the network.
    pub fn sealed(&mut self) -> Vec<u8> {
        self.to.borrow_mut().bytes.drain(..).collect()
    }

    /// `tls-server-end-point`.
    pub fn endpoint(&self) -> Option<Vec<u8>> {
        self.tls.facts().tls?.endpoint
    }

    /// Whether the engine has ended its side of TLS.
    pub fn is_over(&self) -> bool {
        self.over
    }
}

/// What the models show and trust.
pub struct Sides {
    acceptor: Rc<Acceptor>,
    asking: Rc<Connector>,
    direct: Rc<Connector>,
    scratch: Scratch,
}

impl Sides {
    /// `certified`: clients have a certificate of their own.
    pub fn new(certified: bool) -> Sides {
        let certificates = |text| pem::certificates(text).expect("certificates");
        let choice = Choice::default();
        let identity = |chain, key| Identity {
            chain: certificates(chain),
            key: pem::key(key).expect("a key"),
        };
        let own = certified.then_some((CLIENT_CERTIFICATE, CLIENT_KEY));
        let identity_of_clients = || own.map(|(chain, key)| identity(chain, key));
        let identity = identity(CERTIFICATE, KEY);
        let acceptor = Acceptor::new(Mode::Prefer, identity, Authorities::default(), &choice);
        let connector = |direct| {
            let manner = Manner {
                mode: Mode::VerifyFull,
                direct,
                sni: true,
                needs_certificate: false,
            };
            let authorities = Authorities {
                roots: certificates(ROOT),
                ..Authorities::default()
            };
            let own = identity_of_clients();
            Rc::new(Connector::new(manner, own, authorities, &choice).expect("a connector"))
        };
        Sides {
            acceptor: Rc::new(acceptor.expect("an acceptor")),
            asking: connector(false),
            direct: connector(true),
            scratch: Scratch::default(),
        }
    }

    /// For a client; `direct`: without having asked.
    pub fn of_client(&self, direct: bool) -> Layer {
        let connector = if direct { &self.direct } else { &self.asking };
        let side = TlsSide::Server {
            connector: connector.clone(),
            host: "localhost".to_owned(),
        };
        Layer::new(side, &self.scratch)
    }

    /// For a server; `direct`: it was not asked.
    pub fn of_server(&self, direct: bool) -> Layer {
        let side = TlsSide::Client {
            acceptor: self.acceptor.clone(),
            direct,
        };
        Layer::new(side, &self.scratch)
    }
}
