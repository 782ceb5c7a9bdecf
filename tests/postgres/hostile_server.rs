//! A server that lies, breaks the protocol, floods or says nothing (catalogue S3, R22): the process lives, other clients are
//! served, and no byte of it reaches a client that it was not for.
//!
//! The server is a script in a thread. Beside it, each Aether here has a pool in front of a real PostgreSQL, whose clients must
//! not notice.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::support::cluster::PASSWORD;
use crate::support::wire::{self, first_error, kinds};
use crate::support::{Cluster, Message, PATIENCE, Pooler, ServerError, Wire, wait_until};

/// What no client but the one it was for may ever see.
const POISON: &str = "POISON";
/// The most that the process may weigh after a flood, in kB.
const FLOODED_KB: u64 = 40 * 1024;

/// A server whose every connection runs a script, in a thread of its own. The script is told the connection's number.
struct Fake {
    port: u16,
    over: Arc<AtomicBool>,
}

impl Fake {
    fn start(script: impl Fn(usize, Peer) + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let over = Arc::new(AtomicBool::new(false));
        let (is_over, script) = (over.clone(), Arc::new(script));
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (script, peer) = (script.clone(), Peer::new(stream.expect("a connection")));
                thread::spawn(move || script(number, peer));
            }
        });
        Fake { port, over }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// The server's end of a connection. When Aether has closed it, everything quietly does nothing.
struct Peer(Wire);

impl Peer {
    fn new(stream: TcpStream) -> Peer {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let _ = stream.set_write_timeout(Some(PATIENCE));
        Peer(Wire {
            stream,
            pid: 0,
            key: Vec::new(),
            parameters: BTreeMap::new(),
        })
    }

    fn say(&mut self, bytes: &[u8]) {
        let _ = std::io::Write::write_all(&mut self.0.stream, bytes);
    }

    /// The next message, if one comes.
    fn hear(&mut self) -> Option<Message> {
        self.0.try_read_message().ok().flatten()
    }

    /// Reads the startup packet; it is framed as a message without its type.
    fn hear_startup(&mut self) {
        let mut word = [0; 4];
        if std::io::Read::read_exact(&mut self.0.stream, &mut word).is_ok() {
            let length = u32::from_be_bytes(word).saturating_sub(4);
            let mut body = vec![0; usize::try_from(length).expect("small")];
            let _ = std::io::Read::read_exact(&mut self.0.stream, &mut body);
        }
    }

    fn let_in(&mut self) {
        self.hear_startup();
        self.say(&welcome());
    }

    /// Answers each query, Aether's own included: `SELECT` by a row with the connection's number.
    fn behave(&mut self, number: usize) {
        while let Some(message) = self.hear() {
            match message.kind {
                b'Q' if message.body.starts_with(b"SELECT") => {
                    self.say(&answer(&number.to_string()))
                }
                b'Q' => self.say(&[complete("RESET"), ready(b'I')].concat()),
                b'X' => return,
                _ => {}
            }
        }
    }

    /// Stays until Aether closes.
    fn linger(&mut self) {
        while self.hear().is_some() {}
    }
}

fn authentication(code: u32, data: &[u8]) -> Vec<u8> {
    wire::message(b'R', &[&code.to_be_bytes(), data].concat())
}

fn status(name: &str, value: &str) -> Vec<u8> {
    wire::message(b'S', format!("{name}\0{value}\0").as_bytes())
}

fn ready(status: u8) -> Vec<u8> {
    wire::message(b'Z', &[status])
}

fn key_data() -> Vec<u8> {
    wire::message(b'K', &[0, 0, 0x12, 0x34, 1, 2, 3, 4])
}

fn welcome() -> Vec<u8> {
    let version = status("server_version", "15.0");
    [authentication(0, b""), version, key_data(), ready(b'I')].concat()
}

fn complete(tag: &str) -> Vec<u8> {
    wire::message(b'C', &wire::terminated(tag))
}

fn row(value: &str) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("short").to_be_bytes();
    wire::message(b'D', &[&[0, 1], &length[..], value.as_bytes()].concat())
}

fn answer(value: &str) -> Vec<u8> {
    [row(value), complete("SELECT 1"), ready(b'I')].concat()
}

fn raw(kind: u8, length: u32, body: &[u8]) -> Vec<u8> {
    [&[kind], &length.to_be_bytes()[..], body].concat()
}

fn error(fields: &[u8]) -> Vec<u8> {
    wire::message(b'E', fields)
}

/// ErrorResponses with fields missing, empty, doubled and cut short (CVE-2026-6666).
fn odd_errors() -> Vec<Vec<u8>> {
    let fields: [&[u8]; 10] = [
        b"",
        b"\0",
        b"M",
        b"Mno end",
        b"C\0M\0S\0V\0\0",
        b"SFATAL\0Mno code\0\0",
        b"SFATAL\0VFATAL\0C28000\0\0",
        b"C1\0C123456\0Mcodes of other lengths\0\0",
        b"C28000\0C28001\0Mone\0Mtwo\0\0",
        b"\xff\xfe\0\x01\x02\0\0",
    ];
    fields.iter().map(|fields| error(fields)).collect()
}

/// Two pools: `bad` before the fake, of one connection, and `good` before PostgreSQL. `more`: keys of `bad`.
fn pooler(fake: &Fake, more: &str) -> Pooler {
    pooler_waiting(fake, "15s", more)
}

/// As [`pooler`], with an `acquire_timeout`.
fn pooler_waiting(fake: &Fake, acquire_timeout: &str, more: &str) -> Pooler {
    Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\ndatabases:\n\
         \x20 good: {{dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/database\"}}\n\
         \x20 bad:\n    dsn: \"postgres://fake:secret@127.0.0.1:{}/fake?sslmode=disable\"\n    max_connections: 1\n\
         \x20   acquire_timeout: {acquire_timeout}\n{more}",
        Cluster::shared().port(),
        fake.port
    ))
}

fn try_bad(pooler: &Pooler) -> Result<Wire, ServerError> {
    Wire::try_login(
        pooler.port(),
        &[("user", "anybody"), ("database", "bad")],
        "",
    )
}

#[track_caller]
fn bad(pooler: &Pooler) -> Wire {
    try_bad(pooler).expect("a session with the fake")
}

fn good(pooler: &Pooler) -> Wire {
    Wire::login(pooler.port(), "anybody", "", "good")
}

/// Aether lives and serves others, those who were there and those who come.
#[track_caller]
fn unharmed(pooler: &mut Pooler, others: &mut Wire, what: &str) {
    assert!(
        pooler.ended().is_none(),
        "{what}: aether has ended\n{}",
        pooler.log()
    );
    assert_eq!(
        others.value("SELECT 'other'").as_deref(),
        Some("other"),
        "{what}"
    );
    good(pooler).terminate();
}

/// Runs a login script against Aether, and returns what a client is told who waits for that server, and how long it took.
fn refused_login(
    script: impl Fn(&mut Peer) + Send + Sync + 'static,
    what: &str,
) -> (ServerError, Duration) {
    let fake = Fake::start(move |_, mut peer| {
        peer.hear_startup();
        script(&mut peer);
        peer.linger();
    });
    let mut pooler = pooler(&fake, "");
    let mut others = good(&pooler);
    let begin = Instant::now();
    let error = match try_bad(&pooler) {
        Ok(_) => panic!("{what}: let in"),
        Err(error) => error,
    };
    let took = begin.elapsed();
    unharmed(&mut pooler, &mut others, what);
    assert_eq!(error.severity(), "FATAL", "{what}: {error:?}");
    assert_eq!(error.sqlstate().len(), 5, "{what}: {error:?}");
    assert!(!error.message().is_empty(), "{what}: {error:?}");
    assert!(
        pooler.rss_kb() < FLOODED_KB,
        "{what}: {} kB",
        pooler.rss_kb()
    );
    (error, took)
}

// ---- logins

/// Answers the client's first SCRAM message with this; `NONCE` is the client's.
fn scram_first(peer: &mut Peer, template: &str) {
    peer.say(&authentication(10, b"SCRAM-SHA-256\0\0"));
    let Some(first) = peer.hear() else { return };
    let text = String::from_utf8_lossy(&first.body).into_owned();
    let nonce = text.rsplit("r=").next().unwrap_or_default().to_owned();
    peer.say(&authentication(
        11,
        template.replace("NONCE", &nonce).as_bytes(),
    ));
}

/// CVE-2026-6665, CVE-2026-42198. Such a server is not waited for: the client is told at once.
#[test]
fn a_hostile_scram_exchange_is_a_login_that_fails_at_once() {
    let long = |length: usize| "x".repeat(length);
    let salt = |length: usize| BASE64.encode(vec![7; length]);
    let cases = [
        (
            "a nonce of 4 kB",
            format!("r=NONCE{},s=c2FsdA==,i=4096", long(4_096)),
        ),
        (
            "a nonce of 29 kB",
            format!("r=NONCE{},s=c2FsdA==,i=4096", long(29_000)),
        ),
        (
            "a nonce of 1 MB",
            format!("r=NONCE{},s=c2FsdA==,i=4096", long(1 << 20)),
        ),
        ("no salt", "r=NONCEx,s=,i=4096".to_owned()),
        (
            "a salt of 20 kB",
            format!("r=NONCEx,s={},i=4096", salt(20_000)),
        ),
        (
            "a salt of 1 MB",
            format!("r=NONCEx,s={},i=4096", salt(1 << 20)),
        ),
        (
            "a salt that is no base64",
            "r=NONCEx,s=***,i=4096".to_owned(),
        ),
        (
            "2^31 - 1 iterations",
            "r=NONCEx,s=c2FsdA==,i=2147483647".to_owned(),
        ),
        (
            "2^32 - 1 iterations",
            "r=NONCEx,s=c2FsdA==,i=4294967295".to_owned(),
        ),
        (
            "100001 iterations",
            "r=NONCEx,s=c2FsdA==,i=100001".to_owned(),
        ),
        ("no iterations", "r=NONCEx,s=c2FsdA==,i=0".to_owned()),
        ("negative iterations", "r=NONCEx,s=c2FsdA==,i=-1".to_owned()),
        ("only our nonce", "r=NONCE,s=c2FsdA==,i=4096".to_owned()),
        ("another nonce", "r=other,s=c2FsdA==,i=4096".to_owned()),
        ("nothing", String::new()),
        ("an extension", "m=x,r=NONCEx,s=c2FsdA==,i=4096".to_owned()),
        ("an error", "e=other-error".to_owned()),
    ];
    for (name, template) in cases {
        let (error, took) = refused_login(move |peer| scram_first(peer, &template), name);
        assert_eq!(error.sqlstate(), "08P01", "{name}: {error:?}");
        assert!(
            took < Duration::from_secs(10),
            "{name}: only after {took:?}"
        );
    }
}

/// R6: nonce and signature.
#[test]
fn a_server_that_cannot_prove_itself_is_not_believed() {
    type Last = fn() -> Vec<u8>;
    let cases: [(&str, Last); 5] = [
        ("a wrong signature", || {
            authentication(12, format!("v={}", BASE64.encode([0; 32])).as_bytes())
        }),
        ("no signature", || authentication(12, b"")),
        ("a signature that is no base64", || {
            authentication(12, b"v=!!")
        }),
        ("success instead of a signature", || authentication(0, b"")),
        ("another challenge", || authentication(5, b"salt")),
    ];
    for (name, last) in cases {
        let script = move |peer: &mut Peer| {
            scram_first(peer, "r=NONCEx,s=c2FsdA==,i=4096");
            peer.hear();
            peer.say(&[last(), welcome()].concat());
        };
        let (error, _) = refused_login(script, name);
        assert!(
            matches!(error.sqlstate(), "28000" | "08P01"),
            "{name}: {error:?}"
        );
    }
}

/// Aether read on while it derived its keys, and kept all of it: beyond the bound, an assertion of its own ended the process.
#[test]
fn a_flood_while_keys_are_derived_is_not_kept() {
    let script = |peer: &mut Peer| {
        scram_first(peer, "r=NONCEx,s=c2FsdA==,i=100000");
        peer.say(&vec![b'x'; 8 << 20]);
    };
    refused_login(script, "8 MB during the derivation");
}

/// Issue 4, R6: libpq's `require_auth`. What is not allowed is told, and the server hears nothing behind the startup packet.
#[test]
fn a_server_that_asks_for_what_require_auth_forbids_gets_nothing() {
    for (list, request, says) in [
        (
            "scram-sha-256",
            authentication(3, b""),
            "server requested a cleartext password",
        ),
        (
            "scram-sha-256",
            authentication(5, b"salt"),
            "server requested a hashed password",
        ),
        (
            "scram-sha-256",
            welcome(),
            "server did not complete authentication",
        ),
        (
            "!none",
            authentication(0, b""),
            "server did not complete authentication",
        ),
        (
            "md5",
            authentication(10, b"SCRAM-SHA-256\0\0"),
            "server requested SASL authentication",
        ),
        (
            "!password",
            authentication(3, b""),
            "server requested a cleartext password",
        ),
    ] {
        let (heard, hears) = mpsc::channel();
        let heard = Mutex::new(heard);
        let fake = Fake::start(move |_, mut peer| {
            peer.hear_startup();
            peer.say(&request);
            let _ = heard.lock().expect("alive").send(peer.hear());
        });
        let mut pooler = Pooler::start(&format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\ndatabases:\n\
             \x20 good: {{dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/database\"}}\n\
             \x20 bad: {{dsn: \"postgres://fake:secret@127.0.0.1:{}/fake?sslmode=disable&require_auth={list}\"}}\n",
            Cluster::shared().port(),
            fake.port
        ));
        let mut others = good(&pooler);
        let error = try_bad(&pooler).err().expect("it is refused");
        assert_eq!(error.sqlstate(), "28000", "{list}: {error:?}");
        let said = format!("{error:?}");
        for part in [list, says, "require_auth"] {
            assert!(said.contains(part), "{list}: {said}");
        }
        let message = hears.recv_timeout(PATIENCE).expect("a connection");
        assert!(message.is_none(), "{list}: it was told {message:?}");
        unharmed(&mut pooler, &mut others, list);
    }
}

/// Found by reading: with `allow` and `prefer` our own refusal, of a wrong signature too, made Aether try the same server the other
/// way, which may be without TLS; only the server's own error is a reason for that.
#[test]
fn what_we_find_wrong_with_a_server_is_no_reason_to_try_it_the_other_way() {
    let asked = Arc::new(AtomicBool::new(false));
    let was_asked = asked.clone();
    let fake = Fake::start(move |_, mut peer| {
        let mut word = [0; 4];
        let _ = std::io::Read::read_exact(&mut peer.0.stream, &mut word);
        was_asked.fetch_or(word == [0, 0, 0, 8], Ordering::Relaxed);
        peer.say(&authentication(3, b""));
        peer.linger();
    });
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\ndatabases:\n\
         \x20 bad: {{dsn: \"postgres://fake:secret@127.0.0.1:{}/fake?sslmode=allow&require_auth=md5\"}}\n",
        fake.port
    ));
    let error = try_bad(&pooler).err().expect("it is refused");
    assert!(
        error.message().contains("requirement \"md5\" failed"),
        "{error:?}"
    );
    assert!(!asked.load(Ordering::Relaxed), "it was asked for TLS");
}

/// R13: libpq's `host=@name`.
#[test]
fn a_server_is_reached_by_its_abstract_socket() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("aether-test-server-{}", std::process::id());
    let address = format!("{name}/.s.PGSQL.5433");
    let address = std::os::unix::net::SocketAddr::from_abstract_name(address).expect("a name");
    let listener = std::os::unix::net::UnixListener::bind_addr(&address).expect("it is free");
    let port = Cluster::shared().port();
    thread::spawn(move || {
        for client in listener.incoming().take(2) {
            let (client, server) = (
                client.expect("one"),
                TcpStream::connect(("127.0.0.1", port)).expect("the server"),
            );
            let (mut up, mut down) = (
                (
                    client.try_clone().expect("up"),
                    server.try_clone().expect("up"),
                ),
                (server, client),
            );
            thread::spawn(move || std::io::copy(&mut up.0, &mut up.1));
            thread::spawn(move || std::io::copy(&mut down.0, &mut down.1));
        }
    });
    for dsn in [
        format!("dsn: 'postgres://username:{PASSWORD}@/database?host=@{name}&port=5433'"),
        format!(
            "backend: {{host: '@{name}', port: 5433, database: database, user: username, password: {PASSWORD}}}"
        ),
    ] {
        let pooler = Pooler::start(&format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\npool: {{{dsn}}}\n"
        ));
        let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
        assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    }
}

#[test]
fn a_login_that_makes_no_sense_fails() {
    let flood = |one: &dyn Fn(usize) -> Vec<u8>, count: usize| {
        (0..count).flat_map(one).collect::<Vec<u8>>()
    };
    let ok = authentication(0, b"");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "HTTP",
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec()),
        ("zeros", vec![0; 1_000]),
        ("ReadyForQuery first", [ready(b'I'), welcome()].concat()),
        ("a row first", row(POISON)),
        (
            "an empty Authentication",
            [wire::message(b'R', b""), welcome()].concat(),
        ),
        ("an unknown Authentication", authentication(99, b"")),
        ("GSS", authentication(7, b"")),
        ("MD5 with a short salt", authentication(5, b"abc")),
        ("SASL without mechanisms", authentication(10, b"")),
        (
            "SASL of another mechanism",
            authentication(10, b"SCRAM-SHA-1\0\0"),
        ),
        ("SASL final first", authentication(12, b"v=")),
        (
            "SASL challenge first",
            authentication(11, b"r=a,s=c2FsdA==,i=4096"),
        ),
        (
            "Authentication twice",
            [ok.clone(), authentication(3, b"")].concat(),
        ),
        ("a status of another kind", [&ok[..], &ready(b'X')].concat()),
        ("a transaction at once", [&ok[..], &ready(b'T')].concat()),
        (
            "ReadyForQuery without status",
            [&ok[..], &wire::message(b'Z', b"")].concat(),
        ),
        (
            "a broken ParameterStatus",
            [&ok[..], &wire::message(b'S', b"name")].concat(),
        ),
        (
            "a short key",
            [&ok[..], &wire::message(b'K', &[0; 7])].concat(),
        ),
        (
            "a key of 300 bytes",
            [&ok[..], &wire::message(b'K', &[0; 304])].concat(),
        ),
        (
            "a row in the login",
            [&ok[..], &row(POISON), &ready(b'I')].concat(),
        ),
        ("length 0", [&ok[..], &raw(b'S', 0, b"")].concat()),
        ("length 3", [&ok[..], &raw(b'S', 3, b"")].concat()),
        (
            "length 2^31 - 1",
            [&ok[..], &raw(b'S', 0x7fff_ffff, b"x")].concat(),
        ),
        (
            "length -1",
            [&ok[..], &raw(b'N', 0xffff_ffff, b"x")].concat(),
        ),
        (
            "a parameter of 1 MB",
            [&ok[..], &status("name", &"v".repeat(1 << 20))].concat(),
        ),
        (
            "notices without end before it says what it wants",
            flood(&|_| wire::message(b'N', b"Mx\0\0"), 50_000),
        ),
        (
            "notices without end",
            [
                ok.clone(),
                flood(&|_| wire::message(b'N', b"Mx\0\0"), 50_000),
            ]
            .concat(),
        ),
        (
            "one parameter without end",
            [ok.clone(), flood(&|n| status("p", &n.to_string()), 50_000)].concat(),
        ),
        (
            "keys without end",
            [ok.clone(), flood(&|_| key_data(), 50_000)].concat(),
        ),
        (
            "a flood of parameters",
            [
                ok.clone(),
                flood(&|n| status(&format!("p{n}"), "v"), 50_000),
            ]
            .concat(),
        ),
    ];
    for (name, bytes) in cases {
        let (error, _) = refused_login(move |peer| peer.say(&bytes), name);
        assert!(
            matches!(error.sqlstate(), "08P01" | "28000"),
            "{name}: {error:?}"
        );
    }
    // The server's own refusals, in whatever form: the client gets an error that is one.
    for bytes in odd_errors() {
        let what = format!("{bytes:?}");
        refused_login(move |peer| peer.say(&bytes), &what);
    }
}

#[test]
fn what_a_server_says_in_its_errors_cannot_forge_lines_of_the_log() {
    let fake = Fake::start(|_, mut peer| {
        peer.hear_startup();
        peer.say(&error(
            b"SFATAL\0C28000\0Mno\n2030-01-01 [INFO] forged \x1b[31m\r\xff\0Hhint\nforged too\0\0",
        ));
    });
    let pooler = pooler(&fake, "");
    let error = try_bad(&pooler).err().expect("a refusal");
    assert_eq!(error.sqlstate(), "28000");
    pooler.wait_for_log("cannot log in to a server");
    let log = pooler.log();
    assert!(
        log.lines()
            .all(|line| !line.starts_with("2030") && !line.starts_with("forged")),
        "{log}"
    );
    assert!(!log.contains('\x1b') && !log.contains('\r'), "{log}");
}

#[test]
fn notices_of_a_login_are_passed_on_but_not_without_end() {
    let notice =
        |text: &str| wire::message(b'N', format!("SNOTICE\0C00000\0M{text}\0\0").as_bytes());
    let fake = Fake::start(move |number, mut peer| {
        peer.hear_startup();
        peer.say(&notice("a word before the login"));
        (0..2_000).for_each(|_| peer.say(&notice(&"n".repeat(1_000))));
        peer.say(&welcome());
        peer.behave(number);
    });
    let mut pooler = pooler(&fake, "");
    let mut client = Wire::connect(pooler.port());
    client.startup(&[("user", "anybody"), ("database", "bad")]);
    let messages = client.read_until(b'Z');
    let notices: Vec<_> = messages.iter().filter_map(Message::notice).collect();
    assert_eq!(
        notices.first().map(|notice| notice.message()),
        Some("a word before the login")
    );
    assert!(notices.len() < 20, "{} notices", notices.len());
    assert_eq!(client.value("SELECT").as_deref(), Some("0"));
    let mut others = good(&pooler);
    unharmed(&mut pooler, &mut others, "notices");
}

// ---- silence, and connections that end

/// Catalogue B17: one server connection that hangs in its login stops nobody else's.
#[test]
fn a_server_that_accepts_and_says_nothing_holds_up_only_its_own_client() {
    let fake = Fake::start(|number, mut peer| match number {
        0 => peer.linger(),
        1 => {
            peer.hear_startup();
            peer.say(&authentication(10, b"SCRAM-SHA-256\0\0"));
            peer.linger();
        }
        _ => {
            peer.let_in();
            peer.behave(number);
        }
    });
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\n\
         pool:\n  dsn: \"postgres://fake:secret@127.0.0.1:{}/bad?sslmode=disable\"\n  max_connections: 5\n  connect_timeout: 15s\n",
        fake.port
    ));
    let waiting: Vec<Wire> = (0..2)
        .map(|_| {
            let mut client = Wire::connect(pooler.port());
            client.startup(&[("user", "anybody"), ("database", "bad")]);
            client
        })
        .collect();
    // The two that hang are before the others, in the queue as well.
    let mut served: Vec<Wire> = waiting.into_iter().collect();
    let mut others: Vec<Wire> = (0..3)
        .map(|_| {
            let mut client = Wire::connect(pooler.port());
            client.startup(&[("user", "anybody"), ("database", "bad")]);
            client
        })
        .collect();
    served.append(&mut others);
    // Three connections can be had, and five clients want one: the first three of the queue get them, whichever connection is
    // whose; as they leave, the last two follow.
    for place in [0, 1, 2, 3, 4] {
        served[place].read_until(b'Z');
        let number = served[place].value("SELECT").expect("a row");
        assert!(number != "0" && number != "1", "{number}");
        served[place].send_message(b'X', b"");
    }
}

#[test]
fn a_server_that_never_answers_is_an_error_in_bounded_time() {
    let fake = Fake::start(|_, mut peer| peer.linger());
    let mut pooler = pooler_waiting(&fake, "500ms", "    connect_timeout: 200ms\n");
    let mut others = good(&pooler);
    let error = try_bad(&pooler).err().expect("a refusal");
    assert_eq!(error.sqlstate(), "08006", "{error:?}");
    assert!(
        error.message().contains("no answer within connect_timeout"),
        "{error:?}"
    );
    unharmed(&mut pooler, &mut others, "silence");
}

#[test]
fn a_server_that_closes_in_the_middle_of_its_login_is_tried_again() {
    let fake = Fake::start(|number, mut peer| {
        let login = welcome();
        if number < 3 {
            peer.hear_startup();
            peer.say(&login[..[0, 3, login.len() - 1][number]]);
            return;
        }
        peer.let_in();
        peer.behave(number);
    });
    let mut pooler = pooler(&fake, "");
    let mut others = good(&pooler);
    let mut client = bad(&pooler);
    assert_eq!(client.value("SELECT").as_deref(), Some("3"));
    unharmed(&mut pooler, &mut others, "closes");
}

/// With `check_delay: 0` a server that had passed its check was checked again at once, without end.
#[test]
fn a_server_that_is_silent_when_it_is_reset_or_checked_is_replaced() {
    let fake = Fake::start(|number, mut peer| {
        peer.let_in();
        if number < 2 {
            // Answers the first query of the session, and then no more.
            while let Some(message) = peer.hear() {
                if message.body.starts_with(b"SELECT") {
                    peer.say(&answer(&number.to_string()));
                } else if number == 1 && !message.body.starts_with(b"CHECK") {
                    peer.say(&[complete("RESET"), ready(b'I')].concat());
                }
            }
        }
        peer.behave(number);
    });
    let more = "    reset_timeout: 100ms\n    check_timeout: 100ms\n    check_delay: 0\n    check_query: CHECK\n";
    let pooler = pooler(&fake, more);
    let served_by = || {
        let mut client = bad(&pooler);
        let number = client.value("SELECT");
        client.terminate();
        number
    };
    assert_eq!(served_by().as_deref(), Some("0"));
    assert_eq!(served_by().as_deref(), Some("1"));
    // Who comes while the reset runs gets the server without a check.
    wait_until("the check is not answered", || {
        served_by().as_deref() == Some("2")
    });
    pooler.wait_for_log("reset query failed: no answer within reset_timeout");
    pooler.wait_for_log("test query failed: no answer within check_timeout");
}

/// Some servers and proxies send none.
#[test]
fn without_backend_key_data_a_session_works_and_a_cancel_does_nothing() {
    let fake = Fake::start(|number, mut peer| {
        peer.hear_startup();
        peer.say(&[authentication(0, b""), ready(b'I')].concat());
        peer.behave(number);
    });
    let mut pooler = pooler(&fake, "");
    let mut client = bad(&pooler);
    assert!(
        client.pid > 0 && client.key.len() == 4,
        "Aether's own are told instead"
    );
    assert!(client.parameters.is_empty());
    client.cancel();
    assert_eq!(client.value("SELECT").as_deref(), Some("0"));
    client.send_message(b'Q', b"SELECT\0");
    client.cancel();
    assert_eq!(kinds(&client.read_until(b'Z')), "DCZ");
    client.terminate();
    assert_eq!(
        bad(&pooler).value("SELECT").as_deref(),
        Some("0"),
        "the same connection"
    );
    let mut others = good(&pooler);
    unharmed(&mut pooler, &mut others, "no key");
}

// ---- answers

/// What becomes of the client whose server answers so.
enum Ending {
    /// It gets these bytes as they are, and lives.
    Passes,
    /// It gets what came before, and an error of this code.
    Told(&'static str),
    /// It gets what came before, and the connection ends: no error can be put behind half a message, or behind an error.
    Cut,
}
use Ending::{Cut, Passes, Told};

/// The first connection of the fake answers the first query with these bytes, and then closes if it is told to. What a client
/// sees of it, and that the next client sees nothing.
fn hostile_answer(name: &str, bytes: &[u8], close: bool, ending: &Ending) {
    let said = bytes.to_vec();
    let fake = Fake::start(move |number, mut peer| {
        peer.let_in();
        if number == 0 {
            while peer.hear().is_some_and(|message| message.kind != b'Q') {}
            peer.say(&said);
            if close {
                return;
            }
        }
        peer.behave(number);
    });
    let mut pooler = pooler(&fake, "");
    let mut others = good(&pooler);
    let mut client = bad(&pooler);
    client.send_message(b'Q', b"SELECT\0");
    match ending {
        Passes => {
            let mut got = vec![0; bytes.len()];
            std::io::Read::read_exact(&mut client.stream, &mut got)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(got == bytes, "{name}");
            client.terminate();
        }
        Told(sqlstate) => {
            let messages = client.read_to_end();
            let error = first_error(&messages).unwrap_or_else(|| panic!("{name}: {messages:?}"));
            assert_eq!(
                (error.severity(), error.sqlstate()),
                ("FATAL", *sqlstate),
                "{name}: {error:?}"
            );
        }
        Cut => {
            let mut got = Vec::new();
            let _ = std::io::Read::read_to_end(&mut client.stream, &mut got);
            assert!(got == bytes, "{name}: {} bytes", got.len());
        }
    }
    for turn in 0..2 {
        let mut next = bad(&pooler);
        let messages = next.query("SELECT");
        assert_eq!(kinds(&messages), "DCZ", "{name}, turn {turn}");
        let seen = messages
            .iter()
            .any(|message| String::from_utf8_lossy(&message.body).contains(POISON));
        assert!(!seen, "{name}: another client's answer");
        next.terminate();
    }
    unharmed(&mut pooler, &mut others, name);
    assert!(
        pooler.rss_kb() < FLOODED_KB,
        "{name}: {} kB",
        pooler.rss_kb()
    );
}

#[test]
fn an_answer_that_makes_no_sense_reaches_its_own_client_at_most() {
    let end = || [complete("SELECT 1"), ready(b'I')].concat();
    let cases: Vec<(&str, Vec<u8>, Ending)> = vec![
        (
            "CommandComplete without NUL",
            [row(POISON), wire::message(b'C', b"SELECT 1"), ready(b'I')].concat(),
            Passes,
        ),
        (
            "an empty CommandComplete",
            [wire::message(b'C', b""), ready(b'I')].concat(),
            Passes,
        ),
        (
            "a row that lies",
            [wire::message(b'D', b"\xff\xff\0\0\0\x10x"), end()].concat(),
            Passes,
        ),
        (
            "an empty row",
            [wire::message(b'D', b""), end()].concat(),
            Passes,
        ),
        ("two ReadyForQuery", [end(), ready(b'I')].concat(), Passes),
        (
            "an answer more than was asked for",
            [end(), answer(POISON)].concat(),
            Passes,
        ),
        (
            "an unknown message",
            [wire::message(b'?', POISON.as_bytes()), end()].concat(),
            Passes,
        ),
        (
            "an authentication request",
            [authentication(3, b""), end()].concat(),
            Passes,
        ),
        ("another key", [key_data(), end()].concat(), Passes),
        (
            "a copy out of nowhere",
            [wire::message(b'd', POISON.as_bytes()), end()].concat(),
            Passes,
        ),
        (
            "parse complete",
            [wire::message(b'1', b""), end()].concat(),
            Passes,
        ),
        (
            "a broken ParameterStatus",
            [wire::message(b'S', b"name"), end()].concat(),
            Passes,
        ),
        (
            "a ParameterStatus of 100 kB",
            [status("name", &"v".repeat(100_000)), end()].concat(),
            Passes,
        ),
        (
            "a flood of ParameterStatus",
            [
                (0..20_000)
                    .flat_map(|n| status(&format!("p{n}"), "v"))
                    .collect(),
                end(),
            ]
            .concat(),
            Passes,
        ),
        (
            "a flood of notices and notifications",
            [
                [
                    wire::message(b'N', b"\0"),
                    wire::message(b'A', b"\0\0\0\x01c\0\0"),
                ]
                .concat()
                .repeat(20_000),
                end(),
            ]
            .concat(),
            Passes,
        ),
        (
            "an unknown status",
            [complete("SELECT 1"), ready(b'X')].concat(),
            Told("08P01"),
        ),
        (
            "ReadyForQuery without status",
            wire::message(b'Z', b""),
            Told("08P01"),
        ),
        (
            "ReadyForQuery of two bytes",
            wire::message(b'Z', b"II"),
            Told("08P01"),
        ),
        ("length 0", raw(b'D', 0, b""), Told("08P01")),
        ("length 3", raw(b'D', 3, b""), Told("08P01")),
        (
            "length 2^31 - 1",
            raw(b'D', 0x7fff_ffff, b"x"),
            Told("08P01"),
        ),
        ("length -1", raw(b'D', 0xffff_ffff, b"x"), Told("08P01")),
        ("zeros", vec![0; 100], Told("08P01")),
    ];
    for (name, bytes, ending) in cases {
        hostile_answer(name, &bytes, false, &ending);
    }
    for bytes in odd_errors() {
        hostile_answer(
            &format!("{bytes:?}"),
            &[&bytes[..], &ready(b'I')].concat(),
            false,
            &Passes,
        );
    }
}

/// Catalogue S4, C6.
#[test]
fn a_server_that_closes_in_its_answer_is_told_as_far_as_it_can_be() {
    let cases: Vec<(&str, Vec<u8>, Ending)> = vec![
        ("before the first byte", vec![], Told("08006")),
        ("between two rows", row(POISON), Told("08006")),
        ("in the middle of a row", row(POISON)[..9].to_vec(), Cut),
        (
            "in the middle of a large row",
            [&raw(b'D', 0x3fff_ffff, b"")[..], &[b'x'; 300_000]].concat(),
            Cut,
        ),
        (
            "behind an error",
            error(b"SFATAL\0VFATAL\0C57P01\0Mgoodbye\0\0"),
            Cut,
        ),
    ];
    for (name, bytes, ending) in cases {
        hostile_answer(name, &bytes, true, &ending);
    }
}

/// What a server says while no client holds it: at its login, behind its reset, later.
#[test]
fn what_a_server_says_while_nobody_asked_reaches_nobody() {
    let harmless = || {
        [
            wire::message(b'N', format!("SNOTICE\0M{POISON}\0\0").as_bytes()),
            wire::message(b'A', format!("\0\0\0\x01{POISON}\0\0").as_bytes()),
            status("application_name", "changed"),
        ]
        .concat()
    };
    let cases: Vec<(&str, Vec<u8>, bool)> = vec![
        ("a row", row(POISON), false),
        ("an answer", answer(POISON), false),
        ("ReadyForQuery", ready(b'I'), false),
        (
            "an error",
            error(format!("SFATAL\0C57P01\0M{POISON}\0\0").as_bytes()),
            false,
        ),
        ("an authentication request", authentication(3, b""), false),
        ("a length that lies", raw(b'N', 3, b""), false),
        ("half a message", row(POISON)[..8].to_vec(), false),
        ("a letter", b"D".to_vec(), false),
        ("notice, notification, parameter", harmless(), true),
    ];
    for when in ["login", "reset", "later"] {
        for (name, bytes, kept) in &cases {
            let (said, kept) = (bytes.clone(), *kept);
            // The test says when, and waits until it has been said: then it is in Aether's socket.
            let ((go, when_to), (done, is_done)) = (mpsc::channel::<()>(), mpsc::channel::<()>());
            let (when_to, done) = (Mutex::new(when_to), Mutex::new(done));
            let fake = Fake::start(move |number, mut peer| {
                peer.hear_startup();
                let poison = |at: &str| {
                    if number == 0 && at == when {
                        said.clone()
                    } else {
                        Vec::new()
                    }
                };
                peer.say(&[welcome(), poison("login")].concat());
                while let Some(message) = peer.hear() {
                    match message.kind {
                        b'Q' if message.body.starts_with(b"SELECT") => {
                            peer.say(&answer(&number.to_string()))
                        }
                        b'Q' if message.body.starts_with(b"RESET") => {
                            peer.say(&[complete("RESET"), ready(b'I'), poison("reset")].concat());
                            if number == 0 && when == "later" {
                                let _ = when_to
                                    .lock()
                                    .expect("one at a time")
                                    .recv_timeout(PATIENCE);
                                peer.say(&poison("later"));
                                let _ = done.lock().expect("one at a time").send(());
                            }
                        }
                        b'Q' => peer.say(&[complete("DISCARD ALL"), ready(b'I')].concat()),
                        _ => {}
                    }
                }
            });
            let mut pooler = pooler(&fake, "");
            let what = format!("{name}, {when}");
            if when != "login" {
                let mut first = bad(&pooler);
                assert_eq!(first.value("SELECT").as_deref(), Some("0"), "{what}");
                first.terminate();
            }
            if when == "later" {
                go.send(()).expect("the fake waits for it");
                is_done.recv_timeout(PATIENCE).expect("the fake has spoken");
            }
            if !kept && when != "login" {
                pooler.wait_for_log("server 2 of pool bad: closing because");
            }
            let mut next = Wire::connect(pooler.port());
            next.startup(&[("user", "anybody"), ("database", "bad")]);
            let mut messages = next.read_until(b'Z');
            messages.extend(next.query("SELECT"));
            assert!(kinds(&messages).ends_with("ZDCZ"), "{what}: {messages:?}");
            let leaked =
                |message: &Message| String::from_utf8_lossy(&message.body).contains(POISON);
            assert!(!messages.iter().any(leaked), "{what}: {messages:?}");
            let mut others = good(&pooler);
            unharmed(&mut pooler, &mut others, &what);
        }
    }
}

/// A client that has gone leaves a server that still floods: it is drained, in bounded memory, and closed in the end.
#[test]
fn a_flood_for_a_client_that_has_gone_ends() {
    let fake = Fake::start(|number, mut peer| {
        peer.let_in();
        if number == 0 {
            peer.hear();
            let rows = row(&"x".repeat(60_000));
            while std::io::Write::write_all(&mut peer.0.stream, &rows).is_ok() {}
            return;
        }
        peer.behave(number);
    });
    let mut pooler = pooler(&fake, "    abandoned_query_timeout: 300ms\n");
    let mut others = good(&pooler);
    let mut client = bad(&pooler);
    client.send_message(b'Q', b"SELECT\0");
    client.read_message();
    drop(client);
    wait_until("the server connection was closed", || {
        pooler.log_contains("abandoned_query_timeout")
    });
    // The second connection brought the cancel.
    assert_eq!(bad(&pooler).value("SELECT").as_deref(), Some("2"));
    unharmed(&mut pooler, &mut others, "a flood");
    assert!(pooler.rss_kb() < FLOODED_KB, "{} kB", pooler.rss_kb());
}
