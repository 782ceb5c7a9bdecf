//! A protocol client as raw as the tests need it: it sends what it is told, byte by byte if it must, and shows each reply.
//! Written from the protocol's documentation and apart from Aether's own code, so that both can't be wrong the same way.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest as _, Md5};
use ring::rand::SecureRandom as _;
use ring::{digest, hmac, pbkdf2, rand};

use super::PATIENCE;

/// Protocol 3.0.
const PROTOCOL: i32 = 3 << 16;

/// One backend message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type byte.
    pub kind: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

/// An ErrorResponse or NoticeResponse, field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError(BTreeMap<u8, String>);

impl ServerError {
    /// The text of a field; empty when the message has no such field.
    pub fn field(&self, code: u8) -> &str {
        self.0.get(&code).map_or("", String::as_str)
    }

    /// `FATAL`, `ERROR`, ...
    pub fn severity(&self) -> &str {
        self.field(b'V')
    }

    /// The SQLSTATE.
    pub fn sqlstate(&self) -> &str {
        self.field(b'C')
    }

    /// The primary message.
    pub fn message(&self) -> &str {
        self.field(b'M')
    }

    /// The hint.
    pub fn hint(&self) -> &str {
        self.field(b'H')
    }
}

impl Message {
    /// The fields, if this is an ErrorResponse.
    pub fn error(&self) -> Option<ServerError> {
        (self.kind == b'E').then(|| self.fields())
    }

    /// The fields, if this is a NoticeResponse.
    pub fn notice(&self) -> Option<ServerError> {
        (self.kind == b'N').then(|| self.fields())
    }

    /// The columns, if this is a DataRow; `None` is NULL.
    pub fn row(&self) -> Option<Vec<Option<String>>> {
        if self.kind != b'D' {
            return None;
        }
        let mut rest = Cursor(&self.body);
        let columns = rest.int16();
        Some(
            (0..columns)
                .map(|_| {
                    usize::try_from(rest.int32())
                        .ok()
                        .map(|len| lossy(rest.take(len)))
                })
                .collect(),
        )
    }

    fn fields(&self) -> ServerError {
        let fields = self
            .body
            .split(|&byte| byte == 0)
            .filter_map(|field| field.split_first());
        ServerError(fields.map(|(&code, text)| (code, lossy(text))).collect())
    }
}

/// A connection. Every read ends after [`PATIENCE`], with an error.
pub struct Wire {
    /// The socket, for tests that do to it what no client should.
    pub stream: TcpStream,
    /// From BackendKeyData.
    pub pid: i32,
    /// From BackendKeyData: 4 bytes in protocol 3.0.
    pub key: Vec<u8>,
    /// The latest ParameterStatus of each name.
    pub parameters: BTreeMap<String, String>,
}

impl Wire {
    /// Opens a connection and says nothing.
    #[track_caller]
    pub fn connect(port: u16) -> Wire {
        Wire::try_connect(port).expect("nobody listens")
    }

    /// As [`Wire::connect`], when nobody may listen.
    pub fn try_connect(port: u16) -> io::Result<Wire> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Wire {
            stream,
            pid: 0,
            key: Vec::new(),
            parameters: BTreeMap::new(),
        })
    }

    /// A session up to its first ReadyForQuery. Fails the test when the login fails.
    #[track_caller]
    pub fn login(port: u16, user: &str, password: &str, database: &str) -> Wire {
        match Wire::try_login(port, &[("user", user), ("database", database)], password) {
            Ok(wire) => wire,
            Err(error) => panic!("login of {user} to {database}: {error:?}"),
        }
    }

    /// As [`Wire::login`], with any startup parameters (`user` among them), when the login may be refused.
    #[track_caller]
    pub fn try_login(
        port: u16,
        parameters: &[(&str, &str)],
        password: &str,
    ) -> Result<Wire, ServerError> {
        let mut wire = Wire::connect(port);
        wire.startup(parameters);
        let user = parameters
            .iter()
            .find(|(name, _)| *name == "user")
            .map_or("", |(_, user)| user);
        wire.authenticate(user, password)?;
        loop {
            let message = wire.read_message();
            match message.kind {
                b'E' => return Err(message.fields()),
                b'Z' => return Ok(wire),
                _ => {}
            }
        }
    }

    /// Sends a startup packet of protocol 3.0.
    #[track_caller]
    pub fn startup(&mut self, parameters: &[(&str, &str)]) {
        let mut body = PROTOCOL.to_be_bytes().to_vec();
        for (name, value) in parameters {
            text(&mut body, name);
            text(&mut body, value);
        }
        body.push(0);
        self.send_untyped(&body);
    }

    /// Answers whatever authentication is asked for, up to AuthenticationOk.
    #[track_caller]
    pub fn authenticate(&mut self, user: &str, password: &str) -> Result<(), ServerError> {
        let mut scram: Option<Scram> = None;
        loop {
            let message = self.read_message();
            if let Some(error) = message.error() {
                return Err(error);
            }
            if message.kind == b'v' {
                continue;
            }
            assert_eq!(
                message.kind, b'R',
                "expected an authentication request, got {message:?}"
            );
            let mut rest = Cursor(&message.body);
            match rest.int32() {
                0 => return Ok(()),
                3 => self.send_message(b'p', &terminated(password)),
                5 => self.send_message(b'p', &terminated(&md5_answer(user, password, rest.0))),
                10 => {
                    let offered = lossy(rest.0);
                    assert!(
                        offered.split('\0').any(|name| name == "SCRAM-SHA-256"),
                        "offered only {offered:?}"
                    );
                    let new = Scram::new();
                    let first = new.client_first();
                    let mut body = terminated("SCRAM-SHA-256");
                    body.extend(i32::try_from(first.len()).expect("short").to_be_bytes());
                    body.extend(first.as_bytes());
                    self.send_message(b'p', &body);
                    scram = Some(new);
                }
                11 => {
                    let scram = scram.as_mut().expect("a SCRAM exchange has begun");
                    self.send_message(
                        b'p',
                        scram.client_final(&lossy(rest.0), password).as_bytes(),
                    );
                }
                12 => scram
                    .as_ref()
                    .expect("a SCRAM exchange has begun")
                    .check_server(&lossy(rest.0)),
                other => panic!("authentication request {other} is unknown"),
            }
        }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .expect("the connection is gone");
    }

    /// Sends one message.
    #[track_caller]
    pub fn send_message(&mut self, kind: u8, body: &[u8]) {
        self.send(&message(kind, body));
    }

    /// Sends a packet without a type byte, as at the start of a connection.
    #[track_caller]
    pub fn send_untyped(&mut self, body: &[u8]) {
        let mut packet = length(body);
        packet.extend(body);
        self.send(&packet);
    }

    /// Sends an SSLRequest (80877103), or GSSENCRequest (80877104), and returns the one byte that answers it.
    #[track_caller]
    pub fn ask_encryption(&mut self, request: i32) -> u8 {
        self.send_untyped(&request.to_be_bytes());
        let mut answer = [0];
        self.stream
            .read_exact(&mut answer)
            .expect("no answer to the request for encryption");
        answer[0]
    }

    /// The next message. Fails the test when there is none.
    #[track_caller]
    pub fn read_message(&mut self) -> Message {
        match self.try_read_message() {
            Ok(Some(message)) => message,
            Ok(None) => panic!("the connection was closed where a message was due"),
            Err(error) => panic!("no message came: {error}"),
        }
    }

    /// The next message; `None` at an orderly end. A message cut short is an error.
    pub fn try_read_message(&mut self) -> io::Result<Option<Message>> {
        let mut head = [0; 5];
        if self.stream.read(&mut head[..1])? == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut head[1..])?;
        let length = i32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = u64::try_from(length - 4).map_err(io::Error::other)?;
        let mut body = Vec::new();
        if (&mut self.stream).take(length).read_to_end(&mut body)? as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let message = Message {
            kind: head[0],
            body,
        };
        self.note(&message);
        Ok(Some(message))
    }

    /// Messages up to and with the next of this type.
    #[track_caller]
    pub fn read_until(&mut self, kind: u8) -> Vec<Message> {
        let mut messages = vec![self.read_message()];
        while messages.last().is_some_and(|last| last.kind != kind) {
            messages.push(self.read_message());
        }
        messages
    }

    /// Messages until the other end closes; a reset counts as a close.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.try_read_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return messages,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return messages,
                Err(error) => panic!("the connection was not closed: {error}"),
            }
        }
    }

    /// A simple query and all of its answer, ReadyForQuery included.
    #[track_caller]
    pub fn query(&mut self, sql: &str) -> Vec<Message> {
        self.send_message(b'Q', &terminated(sql));
        self.read_until(b'Z')
    }

    /// As [`Wire::query`]; an error of the server's fails the test.
    #[track_caller]
    pub fn run(&mut self, sql: &str) -> Vec<Message> {
        let answer = self.query(sql);
        if let Some(error) = first_error(&answer) {
            panic!("{sql}: {error:?}");
        }
        answer
    }

    /// The first column of the first row; `None` for NULL and for no row.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> Option<String> {
        self.run(sql)
            .iter()
            .find_map(Message::row)
            .and_then(|row| row.into_iter().next().flatten())
    }

    /// The error that this must give.
    #[track_caller]
    pub fn error(&mut self, sql: &str) -> ServerError {
        first_error(&self.query(sql)).unwrap_or_else(|| panic!("{sql}: no error"))
    }

    /// Says goodbye and waits until the other end has closed.
    #[track_caller]
    pub fn terminate(mut self) {
        self.send_message(b'X', &[]);
        self.read_to_end();
    }

    /// Asks, on a connection of its own, to cancel what this session runs; returns when that connection was closed.
    #[track_caller]
    pub fn cancel(&self) {
        self.cancel_by(self.stream.peer_addr().expect("connected").port(), |_| {});
    }

    /// The same at another port, with a key that may be changed on the way.
    pub fn cancel_by(&self, port: u16, change: impl FnOnce(&mut [u8])) {
        let mut body = 80_877_102_i32.to_be_bytes().to_vec();
        body.extend(self.pid.to_be_bytes());
        let mut key = self.key.clone();
        change(&mut key);
        body.extend(key);
        let mut other = Wire::connect(port);
        other.send_untyped(&body);
        other.read_to_end();
    }

    /// Remembers what a client library would.
    fn note(&mut self, message: &Message) {
        match message.kind {
            b'K' if message.body.len() >= 4 => {
                let mut rest = Cursor(&message.body);
                self.pid = rest.int32();
                self.key = rest.0.to_vec();
            }
            b'S' => {
                let mut words = message.body.split(|&byte| byte == 0).map(lossy);
                let (name, value) = (
                    words.next().unwrap_or_default(),
                    words.next().unwrap_or_default(),
                );
                self.parameters.insert(name, value);
            }
            _ => {}
        }
    }
}

/// The first ErrorResponse among the messages.
pub fn first_error(messages: &[Message]) -> Option<ServerError> {
    messages.iter().find_map(Message::error)
}

/// The type bytes in order, as text: `TDCZ`.
pub fn kinds(messages: &[Message]) -> String {
    messages
        .iter()
        .map(|message| char::from(message.kind))
        .collect()
}

/// The bytes of one frontend message.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(length(body));
    bytes.extend(body);
    bytes
}

/// Text with its terminating zero.
pub fn terminated(value: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    text(&mut bytes, value);
    bytes
}

/// Parse, with no parameter types.
pub fn parse(statement: &str, sql: &str) -> Vec<u8> {
    let mut body = terminated(statement);
    text(&mut body, sql);
    body.extend([0, 0]);
    message(b'P', &body)
}

/// Bind of text parameters, results as text.
pub fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let mut body = terminated(portal);
    text(&mut body, statement);
    body.extend([0, 0]);
    body.extend(
        u16::try_from(values.len())
            .expect("few values")
            .to_be_bytes(),
    );
    for value in values {
        body.extend(
            i32::try_from(value.len())
                .expect("short values")
                .to_be_bytes(),
        );
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    message(b'B', &body)
}

/// Execute, at most `rows` rows (0: all).
pub fn execute(portal: &str, rows: i32) -> Vec<u8> {
    let mut body = terminated(portal);
    body.extend(rows.to_be_bytes());
    message(b'E', &body)
}

/// Describe of a statement (`S`) or portal (`P`).
pub fn describe(what: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[what], terminated(name).as_slice()].concat())
}

/// Close of a statement (`S`) or portal (`P`).
pub fn close(what: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[what], terminated(name).as_slice()].concat())
}

/// Sync.
pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

fn length(body: &[u8]) -> Vec<u8> {
    i32::try_from(body.len() + 4)
        .expect("tests send less than 2 GB")
        .to_be_bytes()
        .to_vec()
}

fn text(into: &mut Vec<u8>, value: &str) {
    into.extend(value.as_bytes());
    into.push(0);
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads big-endian numbers off the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    #[track_caller]
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .expect("the message is longer than it is");
        self.0 = rest;
        taken
    }

    #[track_caller]
    fn int16(&mut self) -> i16 {
        i16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    #[track_caller]
    fn int32(&mut self) -> i32 {
        i32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }
}

/// `md5` and the hex digits of md5(md5(password user) salt).
pub fn md5_answer(user: &str, password: &str, salt: &[u8]) -> String {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let inner = hex(&Md5::digest(format!("{password}{user}")));
    let mut salted = inner.into_bytes();
    salted.extend(salt);
    format!("md5{}", hex(&Md5::digest(&salted)))
}

/// The salted password, worked out once for all who log in with the same, as a driver does.
fn salted(password: &str, salt: Vec<u8>, iterations: NonZeroU32) -> [u8; 32] {
    type Known = BTreeMap<(String, Vec<u8>, NonZeroU32), [u8; 32]>;
    static KNOWN: Mutex<Known> = Mutex::new(Known::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (password.to_owned(), salt, iterations);
    *known.entry(key).or_insert_with_key(|(password, salt, _)| {
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            password.as_bytes(),
            &mut salted,
        );
        salted
    })
}

/// The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding, for passwords in ASCII.
pub struct Scram {
    nonce: String,
    server_signature: Vec<u8>,
}

impl Scram {
    /// An exchange with a nonce of its own.
    pub fn new() -> Scram {
        let mut random = [0; 18];
        rand::SystemRandom::new()
            .fill(&mut random)
            .expect("randomness");
        Scram {
            nonce: BASE64.encode(random),
            server_signature: Vec::new(),
        }
    }

    /// The client-first-message.
    pub fn client_first(&self) -> String {
        format!("n,,{}", self.client_first_bare())
    }

    fn client_first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// The client-final-message.
    pub fn client_final(&mut self, server_first: &str, password: &str) -> String {
        let field = |name: &str| {
            server_first
                .split(',')
                .find_map(|part| part.strip_prefix(name))
                .expect("server-first-message")
        };
        let nonce = field("r=");
        assert!(
            nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len(),
            "the server's nonce does not extend ours"
        );
        let salt = BASE64.decode(field("s=")).expect("the salt is base64");
        let iterations: NonZeroU32 = field("i=").parse().expect("an iteration count");

        let salted = salted(password, salt, iterations);
        let sign = |key: &[u8], text: &[u8]| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
                .as_ref()
                .to_vec()
        };
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!(
            "{},{server_first},{without_proof}",
            self.client_first_bare()
        );
        let signature = sign(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(key, sign)| key ^ sign)
            .collect();
        self.server_signature = sign(&sign(&salted, b"Server Key"), signed.as_bytes());
        format!("{without_proof},p={}", BASE64.encode(proof))
    }

    /// Whether the server knows the password, by its server-final-message.
    #[track_caller]
    pub fn check_server(&self, server_final: &str) {
        let expected = format!("v={}", BASE64.encode(&self.server_signature));
        assert_eq!(
            server_final, expected,
            "the server does not know the password"
        );
    }
}
