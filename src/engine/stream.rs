//! The seam: what the engine may ask of a connection and of the world.
//!
//! Two small traits. `net` implements them over the kernel, `tests/simulation` over a simulated network and clock, so the
//! whole pooler, unchanged, runs on both.

use std::rc::Rc;

use super::names::Unresolved;
use crate::arena::{ClientKey, ServerKey};
use crate::auth::{KeyDerivation, SaltedPassword};
use crate::config::Config;
use crate::config::hba::Network;
use crate::tls::{Acceptor, Connector, OwnCertificate};

/// What a read took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// So many bytes, at least one. `more`: there may be more at once. `!more`: drained until the next readable event,
    /// unless a hang-up was reported.
    Bytes {
        /// Bytes that were put at the start of the buffer.
        count: usize,
        /// Whether another read may find something without another event.
        more: bool,
    },
    /// Nothing for us in what was there, and there may be more at once.
    Nothing,
    /// Nothing there; an event will come.
    Blocked,
    /// The connection is over for reading.
    Closed(Why),
}

/// What a write gave away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// So many bytes were taken, at least one. Fewer than offered: full until the next writable event.
    Bytes(usize),
    /// Full, or not connected yet; an event will come.
    Blocked,
    /// The connection is over for writing.
    Closed(Why),
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The peer closed its side in an orderly way.
    Eof,
    /// An error of the operating system, as text: refused, reset, timed out, unreachable.
    Error(String),
    /// TLS failed: the handshake, or a record; or the peer closed without saying so inside of it, which anybody on the way
    /// could have done.
    Tls(String),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Eof => f.write_str("closed the connection"),
            Why::Error(text) => f.write_str(text),
            Why::Tls(text) => write!(f, "TLS error: {text}"),
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The peer's address: an IP address, or `unix`.
    pub address: String,
    /// The peer's port; 0 for Unix sockets.
    pub port: u16,
    /// Our own address.
    pub local_address: String,
    /// Our own port.
    pub local_port: u16,
    /// The user at the other end of a Unix socket, as the kernel knows it.
    pub peer_uid: Option<u32>,
    /// The process there.
    pub peer_pid: Option<i32>,
    /// Whether that is the user that we run as.
    pub peer_is_owner: bool,
    /// What TLS has found out; `None` before the end of the handshake, and without TLS.
    pub tls: Option<TlsFacts>,
}

/// What a TLS handshake has found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.3`, as OpenSSL names it.
    pub protocol: &'static str,
    /// The cipher suite, as OpenSSL names it.
    pub cipher: &'static str,
    /// The curve.
    pub group: String,
    /// The Common Name of a client's certificate. Only of one that was verified: `None` means that it showed none, or that nobody
    /// was there to verify it.
    pub peer_common_name: Option<String>,
    /// The subject of the same certificate, as RFC 2253 writes it.
    pub peer_subject: Option<String>,
    /// The channel binding `tls-server-end-point` (RFC 5929): of the server's certificate, which towards clients is ours.
    pub endpoint: Option<Vec<u8>>,
    /// What became of our certificate towards a server; only watched where `sslcertmode` is `require`.
    pub own_certificate: OwnCertificate,
}

/// What protects a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing.
    None,
    /// TLS, once the handshake is over; until then nothing is read from it, and what is written waits.
    Handshake,
    /// TLS.
    Tls,
}

/// On which side of TLS we are.
#[derive(Clone, Debug)]
pub enum TlsSide {
    /// Towards a client. `direct`: it began with the handshake, without asking.
    Client {
        /// What we show.
        acceptor: Rc<Acceptor>,
        /// The client must name the protocol (ALPN).
        direct: bool,
    },
    /// Towards a server.
    Server {
        /// Whom we trust.
        connector: Rc<Connector>,
        /// The host as it was configured: its certificate must be for that.
        host: String,
    },
}

/// What a plain connection leaves to TLS.
#[derive(Debug, Default)]
pub struct Handover {
    /// Read already, and meant for TLS.
    pub received: Vec<u8>,
    /// To be sent before TLS begins.
    pub unsent: Vec<u8>,
}

/// A connection, whatever carries it. Never blocks.
pub trait Stream {
    /// Reads into the start of `into`, which is not empty.
    fn read(&mut self, into: &mut [u8]) -> Taken;
    /// Writes from the start of `from`, which is not empty. On a connection that is still being made: `Blocked`.
    fn write(&mut self, from: &[u8]) -> Given;
    /// Sends what it holds. `Blocked`: not all of it; an event will come.
    fn flush(&mut self) -> Given {
        Given::Bytes(0)
    }
    /// Whether it holds something that was written and has not been sent.
    fn holds(&self) -> bool {
        false
    }
    /// No more will be written: half-close, so that the peer reads what was sent and then the end.
    fn shutdown(&mut self);
    /// What comes from now on is no password any more. Before that, nothing of what was read is left behind in it.
    fn login_is_over(&mut self) {}
    /// From now on an event says that there is something to read when so many bytes are there, or the end; with 1 as usual.
    fn wake_at(&mut self, _bytes: usize) {}
    /// What protects it.
    fn protection(&self) -> Protection {
        Protection::None
    }
    /// Who is there. Not for nothing: the kernel is asked.
    fn facts(&self) -> Facts;
    /// Whether it is a Unix socket: nobody can listen in between.
    fn is_unix(&self) -> bool {
        self.facts().address == "unix"
    }
}

/// Where to dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// An address and port.
    Tcp(std::net::SocketAddr),
    /// A Unix socket.
    Unix(std::path::PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A listening socket, by its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenerId(pub usize);

/// What accepting brought.
pub enum Accepted {
    /// A connection.
    Stream {
        /// Its stream.
        stream: Box<dyn Stream>,
        /// Others wait; if not, an event will come.
        more: bool,
    },
    /// Nobody waits any more; an event will come.
    Blocked,
    /// Out of descriptors or memory: try again after a pause. The text says of what.
    Exhausted(String),
}

/// What the engine may ask of the world.
pub trait Host {
    /// Takes a new connection; its events will come for `key`.
    fn accept(&mut self, listener: ListenerId, key: ClientKey) -> Accepted;
    /// Begins a connection; its events will come for `key`. An error is one that is known at once.
    fn dial(&mut self, to: &Address, key: ServerKey) -> Result<Box<dyn Stream>, String>;
    /// Lays TLS over a connection.
    fn secure(
        &mut self,
        stream: Box<dyn Stream>,
        side: TlsSide,
        handover: Handover,
    ) -> Result<Box<dyn Stream>, String>;
    /// Looks a name up, off the loop; the answer comes as [`Event::Resolved`].
    fn resolve(&mut self, name: &str);
    /// Runs PBKDF2 off the loop; the answer comes as [`Event::Derived`].
    fn derive(&mut self, job: KeyDerivation, who: Who);
    /// Looks up the name of a user of this machine, off the loop; the answer comes as [`Event::UserNamed`].
    fn user_name(&mut self, uid: u32, key: ClientKey);
    /// The addresses of this machine, and the masks of their networks.
    fn networks(&self) -> Vec<Network>;
    /// Fills `into` from a cryptographically secure source.
    fn random(&mut self, into: &mut [u8]);
    /// Closes the listening sockets for good.
    fn stop_listening(&mut self);
    /// Where it listens: identifiers from 0 up to this.
    fn listeners(&self) -> usize {
        0
    }
    /// Another configuration is in force.
    fn configured(&mut self, _config: &Config) {}
}

/// One end of the engine's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// A client.
    Client(ClientKey),
    /// A server.
    Server(ServerKey),
}

/// What the poll said of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Something can be read, or the end.
    pub read: bool,
    /// Something can be written, or a connection attempt is over.
    pub write: bool,
    /// The peer hung up or the connection failed: read until the end shows.
    pub hung_up: bool,
}

impl Ready {
    /// Something can be read.
    pub const READ: Ready = Ready {
        read: true,
        write: false,
        hung_up: false,
    };
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    /// Stop listening, wait for the clients to leave (SIGTERM).
    WaitForClients,
    /// Stop listening, wait for the servers to be released (SIGINT).
    WaitForServers,
    /// At once (SIGQUIT, or a second signal).
    Immediate,
    /// Another process has our listening sockets: wait for the clients to leave, as long as it takes. Cancels still come, at a
    /// socket of our own.
    Succeeded,
}

/// What the world tells the engine.
pub enum Event {
    /// A connection can do something.
    Ready(Who, Ready),
    /// Somebody waits to be accepted.
    Incoming(ListenerId),
    /// A name was looked up.
    Resolved {
        /// Which.
        name: String,
        /// Its addresses, or why there are none. Their ports do not count.
        result: Result<Vec<std::net::SocketAddr>, Unresolved>,
    },
    /// A key derivation is done.
    Derived {
        /// Who asked.
        who: Who,
        /// The result.
        salted: SaltedPassword,
    },
    /// The name of a user was looked up.
    UserNamed {
        /// The client that it was looked up for.
        key: ClientKey,
        /// The name, or why there is none.
        name: Result<String, String>,
    },
    /// A new configuration, checked.
    Reload(Rc<Config>),
    /// Another configuration was to be taken over, and has errors.
    ReloadFailed,
    /// Stop.
    Shutdown(Shutdown),
}
