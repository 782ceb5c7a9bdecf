//! A client that does what pgbench can't: logs in hundreds of times a second, stays idle by the thousand, counts bytes.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::contender::NAME;
use crate::support::cluster::PASSWORD;
use crate::support::wire::{Scram, md5_answer, message, terminated};

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// In the clear.
    Plain,
    /// Over TLS, with a full handshake.
    Tls,
}

impl Leg {
    /// Both.
    pub const ALL: [Leg; 2] = [Leg::Plain, Leg::Tls];

    /// In a table.
    pub fn label(self) -> &'static str {
        match self {
            Leg::Plain => "",
            Leg::Tls => " over TLS",
        }
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A session.
pub struct Client {
    stream: Box<dyn Stream>,
    /// What has been read and not been looked at begins at `at`.
    input: Vec<u8>,
    at: usize,
}

impl Client {
    /// Logs in to the usual database.
    pub fn login(port: u16, leg: Leg) -> io::Result<Client> {
        Client::login_to(port, leg, NAME)
    }

    /// Logs in and waits for ReadyForQuery.
    pub fn login_to(port: u16, leg: Leg, database: &str) -> io::Result<Client> {
        let mut client = Client {
            stream: connect(port, leg)?,
            input: Vec::new(),
            at: 0,
        };
        let mut body = vec![0, 3, 0, 0];
        for word in ["user", NAME, "database", database, ""] {
            body.extend(terminated(word));
        }
        // The same as any message, without its type.
        client.stream.write_all(&message(0, &body)[1..])?;
        client.authenticate()?;
        client.read_to_ready()?;
        Ok(client)
    }

    fn authenticate(&mut self) -> io::Result<()> {
        let mut scram = Scram::new();
        loop {
            let (kind, body) = self.read()?;
            let (Some((code, rest)), b'R') = (body.split_at_checked(4), kind) else {
                return Err(refused(kind, &body));
            };
            let answer = match code {
                [0, 0, 0, 0] => return Ok(()),
                [0, 0, 0, 5] => terminated(&md5_answer(NAME, PASSWORD, rest)),
                [0, 0, 0, 10] => {
                    let first = scram.client_first();
                    let length = u32::try_from(first.len()).map_err(io::Error::other)?;
                    let name = terminated("SCRAM-SHA-256");
                    [&name, &length.to_be_bytes()[..], first.as_bytes()].concat()
                }
                [0, 0, 0, 11] => {
                    let said = String::from_utf8_lossy(rest);
                    scram.client_final(&said, PASSWORD).into_bytes()
                }
                [0, 0, 0, 12] => {
                    scram.check_server(&String::from_utf8_lossy(rest));
                    continue;
                }
                _ => return Err(refused(kind, &body)),
            };
            self.stream.write_all(&message(b'p', &answer))?;
        }
    }

    /// Runs a query to its end; the bytes that came.
    pub fn query(&mut self, sql: &str) -> io::Result<u64> {
        self.stream.write_all(&message(b'Q', &terminated(sql)))?;
        self.read_to_ready()
    }

    /// Sends `bytes` of lines by COPY, in messages as large as psql's; the bytes that went.
    pub fn copy_in(&mut self, sql: &str, line: &str, bytes: u64) -> io::Result<u64> {
        const MESSAGE: usize = 8192;
        self.stream.write_all(&message(b'Q', &terminated(sql)))?;
        let (kind, body) = self.read()?;
        if kind != b'G' {
            return Err(refused(kind, &body));
        }
        let data = message(b'd', line.repeat(MESSAGE / line.len()).as_bytes());
        let mut sent = 0;
        while sent < bytes {
            self.stream.write_all(&data)?;
            sent += data.len() as u64;
        }
        self.stream.write_all(&message(b'c', b""))?;
        self.read_to_ready()?;
        Ok(sent)
    }

    /// Says goodbye.
    pub fn terminate(mut self) -> io::Result<()> {
        self.stream.write_all(&message(b'X', b""))
    }

    /// Reads on to ReadyForQuery; the bytes that came.
    fn read_to_ready(&mut self) -> io::Result<u64> {
        let mut bytes = 0;
        loop {
            let (kind, end) = self.next()?;
            bytes += (end - self.at) as u64;
            if kind == b'E' {
                return Err(refused(kind, &self.input[self.at..end]));
            }
            self.at = end;
            if kind == b'Z' {
                return Ok(bytes);
            }
        }
    }

    fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let (kind, end) = self.next()?;
        let body = self.input[self.at + 5..end].to_vec();
        self.at = end;
        Ok((kind, body))
    }

    /// Sees to it that a whole message is there; its type, and where it ends.
    fn next(&mut self) -> io::Result<(u8, usize)> {
        loop {
            if let Some((&[kind, a, b, c, d], _)) = self.input[self.at..].split_first_chunk() {
                let end = self.at + 1 + u32::from_be_bytes([a, b, c, d]) as usize;
                if end <= self.input.len() {
                    return Ok((kind, end));
                }
            }
            self.input.drain(..self.at);
            self.at = 0;
            let mut buffer = [0; 64 * 1024];
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.input.extend_from_slice(&buffer[..count]),
            }
        }
    }
}

fn refused(kind: u8, body: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(body).replace('\0', " ");
    io::Error::other(format!("message {:?}: {text}", char::from(kind)))
}

fn connect(port: u16, leg: Leg) -> io::Result<Box<dyn Stream>> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    if leg == Leg::Plain {
        return Ok(Box::new(socket));
    }
    socket.write_all(&SSL_REQUEST)?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    if answer != *b"S" {
        return Err(io::Error::other("TLS is refused"));
    }
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let tls = ClientConnection::new(tls_config(), name).map_err(io::Error::other)?;
    Ok(Box::new(StreamOwned::new(tls, socket)))
}

fn tls_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates/root.crt");
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_file(path).expect("a certificate");
        roots.add(root).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("its own versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    };
    CONFIG.get_or_init(make).clone()
}
