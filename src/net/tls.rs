//! TLS as a [`Stream`] over any other: it does not know sockets, so the simulation runs through it as well.
//!
//! The handshake goes on with every read. What is written before its end waits inside; what the stream below does not take waits
//! here, so that a connection at rest holds no buffer of its own: ciphertext passes through one that all share.

use std::cell::RefCell;
use std::io::{self, BufRead, Read, Write};
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ProtocolVersion, ServerConnection};
use zeroize::Zeroize;

use crate::engine::{Facts, Given, Handover, Protection, Stream, Taken, TlsFacts, TlsSide, Why};
use crate::tls::{ALPN, Witness, names, x509};

/// Ciphertext that is read at a time: what it decrypts to, with the record before it, fits into one read of the loop.
const READ: usize = 32 * 1024;
/// Plaintext that is taken at a time.
const WRITE: usize = 64 * 1024;

const CUT_OFF: &str = "the connection ended without TLS's own end (close_notify)";
const NO_ALPN: &str = "direct TLS without the protocol's name (ALPN \"postgresql\")";

/// The buffers that all streams of a loop share: for what is read, and for what is written.
#[derive(Clone, Default)]
pub struct Scratch(Rc<Buffers>);

#[derive(Default)]
struct Buffers {
    read: RefCell<Vec<u8>>,
    write: RefCell<Vec<u8>>,
}

/// A TLS connection.
pub struct TlsStream {
    below: Box<dyn Stream>,
    connection: Connection,
    /// The peer must name the protocol.
    needs_alpn: bool,
    /// Of the server's certificate, if that is ours.
    endpoint: Option<Vec<u8>>,
    /// Sees what becomes of our certificate towards a server.
    witness: Option<Arc<Witness>>,
    /// Ciphertext that has come and was not looked at.
    received: Vec<u8>,
    /// The stream below has said that there is more.
    behind: bool,
    /// Ciphertext that the stream below has not taken, from `sent` on.
    unsent: Vec<u8>,
    sent: usize,
    /// Our side ends when that has gone.
    ending: bool,
    /// How writing has ended.
    broken: Option<Why>,
    /// How reading has ended, for good.
    over: Option<Why>,
    /// A client logs in: what comes may be its password.
    private: bool,
    scratch: Scratch,
}

/// Lays TLS over a stream.
///
/// # Errors
/// What rustls says of the configuration.
pub fn secure(
    below: Box<dyn Stream>,
    side: TlsSide,
    handover: Handover,
    scratch: &Scratch,
) -> Result<Box<dyn Stream>, String> {
    let private = matches!(side, TlsSide::Client { .. });
    let (connection, needs_alpn, endpoint, witness) = match side {
        TlsSide::Client { acceptor, direct } => (
            ServerConnection::new(acceptor.config.clone()).map(Connection::from),
            direct,
            acceptor.endpoint.clone(),
            None,
        ),
        TlsSide::Server { connector, host } => {
            let name = server_name(&host)?;
            let (config, witness) = connector.for_connection();
            let connection = ClientConnection::new(config, name);
            (
                connection.map(Connection::from),
                connector.is_direct(),
                None,
                witness,
            )
        }
    };
    let mut stream = TlsStream {
        below,
        connection: connection.map_err(|error| error.to_string())?,
        needs_alpn,
        endpoint,
        witness,
        received: handover.received,
        behind: false,
        unsent: handover.unsent,
        sent: 0,
        ending: false,
        broken: None,
        over: None,
        private,
        scratch: scratch.clone(),
    };
    stream.push();
    Ok(Box::new(stream))
}

/// The host as rustls wants it: a zone is no part of an address.
fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let plain = host.split('%').next().unwrap_or(host);
    ServerName::try_from(plain.to_owned())
        .map_err(|_| format!("{host:?} cannot be the name of a TLS server"))
}

impl TlsStream {
    /// Feeds ciphertext in and takes plaintext out, until either is at its end. The rest of the ciphertext, and how many bytes
    /// of `into` were filled.
    fn decrypt<'a>(&mut self, mut cipher: &'a [u8], into: &mut [u8]) -> (&'a [u8], usize) {
        let mut filled = self.drain(into);
        while filled < into.len() && !cipher.is_empty() && self.over.is_none() {
            match self.connection.read_tls(&mut cipher) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => self.over = Some(Why::Tls(error.to_string())),
            }
            self.process();
            filled += self.drain(into.get_mut(filled..).unwrap_or_default());
            if self.private {
                // It decrypts in place, in a buffer of its own.
                let _ = self.connection.read_tls(&mut Eraser);
            }
        }
        (cipher, filled)
    }

    fn process(&mut self) {
        let handshaking = self.connection.is_handshaking();
        match self.connection.process_new_packets() {
            Err(error) => self.over = Some(Why::Tls(told(&error))),
            Ok(_) if handshaking && !self.connection.is_handshaking() => {
                if self.needs_alpn && self.connection.alpn_protocol() != Some(ALPN) {
                    self.connection.send_close_notify();
                    self.over = Some(Why::Tls(NO_ALPN.to_owned()));
                }
            }
            Ok(_) => {}
        }
    }

    /// Plaintext that has been decrypted.
    fn drain(&mut self, into: &mut [u8]) -> usize {
        let mut filled = 0;
        while let Some(mut space) = into.get_mut(filled..).filter(|space| !space.is_empty()) {
            let mut piece = 0;
            if self.private
                && let Ok(bytes @ [_, ..]) = self.connection.reader().fill_buf()
            {
                piece = bytes.len();
                space = space.split_at_mut(piece.min(space.len())).0;
            }
            let read = self.connection.reader().read(space);
            if piece > 0 {
                overwrite_freed(piece);
            }
            match read {
                Ok(0) => {
                    // Whatever comes behind the peer's close_notify is not from it.
                    self.over.get_or_insert(Why::Eof);
                    break;
                }
                Ok(count) => filled += count,
                Err(_) => break, // nothing is there
            }
        }
        filled
    }

    /// Sends what waits. That nobody takes it any more is remembered: it may have shown during a read.
    fn push(&mut self) -> Given {
        if self.broken.is_none() {
            match self.push_ciphertext() {
                Given::Closed(why) => self.broken = Some(why),
                given => return given,
            }
            self.unsent = Vec::new();
            self.sent = 0;
        }
        Given::Closed(self.broken.clone().unwrap_or(Why::Eof))
    }

    fn push_ciphertext(&mut self) -> Given {
        loop {
            let rest = self.unsent.get(self.sent..).unwrap_or_default();
            let (count, why) = send(&mut *self.below, rest);
            self.sent += count;
            if let Some(why) = why {
                return Given::Closed(why);
            }
            if self.holds_ciphertext() {
                return Given::Blocked;
            }
            self.unsent = Vec::new();
            self.sent = 0;
            if !self.connection.wants_write() {
                break;
            }
            if let Some(why) = self.send_records() {
                return Given::Closed(why);
            }
        }
        if std::mem::take(&mut self.ending) {
            self.below.shutdown();
        }
        Given::Bytes(0)
    }

    /// Sends records by way of the shared buffer; what is not taken is kept.
    fn send_records(&mut self) -> Option<Why> {
        let scratch = self.scratch.clone();
        let mut out = scratch.0.write.take();
        out.clear();
        while self.connection.wants_write() && out.len() < 2 * WRITE {
            if self.connection.write_tls(&mut out).is_err() {
                break; // a vector takes everything
            }
        }
        let (count, why) = send(&mut *self.below, &out);
        self.unsent = out.get(count..).unwrap_or_default().to_vec();
        scratch.0.write.replace(out);
        why
    }

    fn holds_ciphertext(&self) -> bool {
        self.unsent.len() > self.sent
    }

    /// What is here, or what one read from below brings.
    fn pull(&mut self, into: &mut [u8]) -> Taken {
        let waiting = std::mem::take(&mut self.received);
        let (rest, mut filled) = self.decrypt(&waiting, into);
        self.received = rest.to_vec();
        if filled == 0 && self.over.is_none() {
            let scratch = self.scratch.clone();
            let mut cipher = scratch.0.read.take();
            cipher.resize(READ, 0);
            let room = into.len().clamp(1, READ);
            match self.below.read(cipher.get_mut(..room).unwrap_or_default()) {
                Taken::Bytes { count, more } => {
                    let (rest, found) = self.decrypt(cipher.get(..count).unwrap_or_default(), into);
                    self.received = rest.to_vec();
                    (filled, self.behind) = (found, more);
                }
                Taken::Nothing => {}
                Taken::Blocked => {
                    self.behind = false;
                    scratch.0.read.replace(cipher);
                    return Taken::Blocked;
                }
                Taken::Closed(why) => self.over = Some(self.closed_below(why)),
            }
            scratch.0.read.replace(cipher);
        }
        if filled > 0 {
            let rest = !self.received.is_empty() || filled == into.len() || self.over.is_some();
            return Taken::Bytes {
                count: filled,
                more: self.behind || rest,
            };
        }
        // A part of a record, or of the handshake.
        self.over.clone().map_or(Taken::Nothing, Taken::Closed)
    }

    fn closed_below(&self, why: Why) -> Why {
        match why {
            Why::Eof if self.connection.is_handshaking() => {
                Why::Tls("the peer ended the connection during the handshake".to_owned())
            }
            Why::Eof => Why::Tls(CUT_OFF.to_owned()),
            other => other,
        }
    }
}

/// Overwrites the room that rustls has for what is to come, and brings nothing.
struct Eraser;

impl Read for Eraser {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        into.zeroize();
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// rustls gives the memory of what it has decrypted back as it is. Whoever asks the allocator for as much gets it: some
/// blocks, since it may be any of the last few.
fn overwrite_freed(length: usize) {
    const BLOCKS: usize = 16;
    // Not zeros: a block that is asked for as zeroed may come from elsewhere.
    let blocks: [Vec<u8>; BLOCKS] = std::array::from_fn(|_| {
        let mut block = Vec::with_capacity(length);
        block.resize(length, b'*');
        block
    });
    std::hint::black_box(&blocks);
}

/// What rustls says, in the words of an operator.
fn told(error: &rustls::Error) -> String {
    use rustls::{CertificateError, Error};
    match error {
        Error::General(text) => text.clone(),
        Error::NoCertificatesPresented => {
            "the peer sent no certificate, and one is required".to_owned()
        }
        Error::InvalidCertificate(why) => match why {
            CertificateError::Expired => "certificate verify failed: it has expired".to_owned(),
            CertificateError::NotValidYet => {
                "certificate verify failed: it is not valid yet".to_owned()
            }
            CertificateError::Revoked => "certificate verify failed: it is revoked".to_owned(),
            CertificateError::UnknownIssuer => {
                "certificate verify failed: nothing leads from it to one of our roots".to_owned()
            }
            CertificateError::UnknownRevocationStatus => {
                "certificate verify failed: no revocation list tells of it".to_owned()
            }
            other => format!("certificate verify failed: {other}"),
        },
        Error::AlertReceived(alert) => format!("the peer sent the alert {alert:?}"),
        other => other.to_string(),
    }
}

/// Writes as much as is taken, and how writing ended if it did.
fn send(below: &mut dyn Stream, bytes: &[u8]) -> (usize, Option<Why>) {
    if bytes.is_empty() {
        return (0, None);
    }
    match below.write(bytes) {
        Given::Bytes(count) => (count, None),
        Given::Blocked => (0, None),
        Given::Closed(why) => (0, Some(why)),
    }
}

impl Stream for TlsStream {
    fn read(&mut self, into: &mut [u8]) -> Taken {
        let taken = self.pull(into);
        // Its answers, an alert among them. That nobody takes them shows with the next write.
        let _ = self.push();
        taken
    }

    fn write(&mut self, from: &[u8]) -> Given {
        let mut taken = 0;
        loop {
            match self.push() {
                Given::Closed(why) => return Given::Closed(why),
                Given::Blocked if taken == 0 => return Given::Blocked,
                Given::Blocked => return Given::Bytes(taken),
                Given::Bytes(_) => {}
            }
            let rest = from.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                return Given::Bytes(taken);
            }
            match self
                .connection
                .writer()
                .write(rest.get(..WRITE).unwrap_or(rest))
            {
                Ok(count @ 1..) => taken += count,
                _ if taken == 0 => return Given::Blocked,
                _ => return Given::Bytes(taken),
            }
        }
    }

    fn flush(&mut self) -> Given {
        self.push()
    }

    fn holds(&self) -> bool {
        let shaking = self.connection.is_handshaking() && self.over.is_none();
        self.broken.is_none() && (shaking || self.holds_ciphertext())
    }

    fn shutdown(&mut self) {
        self.connection.send_close_notify();
        self.ending = true;
        let _ = self.push();
    }

    fn login_is_over(&mut self) {
        self.private = false;
    }

    fn wake_at(&mut self, bytes: usize) {
        self.below.wake_at(bytes);
    }

    fn protection(&self) -> Protection {
        if self.connection.is_handshaking() {
            Protection::Handshake
        } else {
            Protection::Tls
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            tls: self.tls_facts(),
            ..self.below.facts()
        }
    }

    fn is_unix(&self) -> bool {
        self.below.is_unix()
    }
}

impl TlsStream {
    fn tls_facts(&self) -> Option<TlsFacts> {
        let connection = &self.connection;
        if connection.is_handshaking() {
            return None;
        }
        let peer = connection.peer_certificates().and_then(<[_]>::first);
        let towards_server = matches!(connection, Connection::Client(_));
        // A client's certificate is only asked for where there are roots, and is refused unless they vouch for it
        // (`tls::verify`). A server's need not have been verified.
        let verified = peer.filter(|_| !towards_server);
        let read = verified.and_then(|der| x509::read(der));
        let of_peer = || {
            peer.filter(|_| towards_server)
                .and_then(|der| x509::endpoint_hash(der))
        };
        Some(TlsFacts {
            protocol: match connection.protocol_version()? {
                ProtocolVersion::TLSv1_2 => "TLSv1.2",
                _ => "TLSv1.3",
            },
            cipher: names::suite_name(connection.negotiated_cipher_suite()?),
            group: connection
                .negotiated_key_exchange_group()
                .map(|group| format!("{:?}", group.name()))
                .unwrap_or_default(),
            peer_common_name: read.as_ref().and_then(x509::Certificate::common_name),
            peer_subject: read
                .as_ref()
                .and_then(x509::Certificate::distinguished_name),
            endpoint: self.endpoint.clone().or_else(of_peer),
            own_certificate: self
                .witness
                .as_ref()
                .map(|own| own.seen())
                .unwrap_or_default(),
        })
    }
}

impl Drop for TlsStream {
    /// A last word, if it still can be said: without it the peer takes the end for an attack.
    fn drop(&mut self) {
        if !self.connection.is_handshaking() && !self.holds_ciphertext() {
            self.connection.send_close_notify();
            let _ = self.push();
        }
    }
}

#[cfg(test)]
mod tests;
