//! Two ends of TLS over pipes in memory, with chunks down to one byte.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::*;
use crate::tls::{Acceptor, Authorities, Choice, Connector, Identity, Manner, Mode, pem};

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/certificates/", $name))
    };
}

#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    closed: bool,
    /// At most so many bytes at a time, and in all.
    chunk: usize,
    room: usize,
}

/// One end of two pipes.
struct End {
    from: Rc<RefCell<Way>>,
    to: Rc<RefCell<Way>>,
}

impl Stream for End {
    fn read(&mut self, into: &mut [u8]) -> Taken {
        let way = &mut *self.from.borrow_mut();
        let count = way.bytes.len().min(into.len()).min(way.chunk);
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
        let space = way.room.saturating_sub(way.bytes.len());
        let part = from.get(..space.min(way.chunk)).unwrap_or(from);
        way.bytes.extend(part);
        if part.is_empty() {
            Given::Blocked
        } else {
            Given::Bytes(part.len())
        }
    }

    fn shutdown(&mut self) {
        self.to.borrow_mut().closed = true;
    }

    fn facts(&self) -> Facts {
        Facts::default()
    }
}

struct Two {
    client: Box<dyn Stream>,
    server: Box<dyn Stream>,
    up: Rc<RefCell<Way>>,
    down: Rc<RefCell<Way>>,
}

fn identity(chain: &[u8], key: &[u8]) -> Identity {
    Identity {
        chain: pem::certificates(chain).unwrap(),
        key: pem::key(key).unwrap(),
    }
}

fn roots(files: &[u8]) -> Authorities {
    Authorities {
        roots: pem::certificates(files).unwrap(),
        ..Authorities::default()
    }
}

fn acceptor(chain: &[u8], key: &[u8]) -> Acceptor {
    Acceptor::new(
        Mode::Require,
        identity(chain, key),
        Authorities::default(),
        &Choice::default(),
    )
    .unwrap()
}

fn connector(mode: Mode, direct: bool, authorities: Authorities) -> Connector {
    let manner = Manner {
        mode,
        direct,
        sni: true,
        needs_certificate: false,
    };
    Connector::new(manner, None, authorities, &Choice::default()).unwrap()
}

fn two_with(
    acceptor: Acceptor,
    connector: Connector,
    host: &str,
    chunk: usize,
    room: usize,
) -> Two {
    let way = || {
        Rc::new(RefCell::new(Way {
            chunk,
            room,
            ..Way::default()
        }))
    };
    let (up, down, scratch) = (way(), way(), Scratch::default());
    let ends = [(down.clone(), up.clone()), (up.clone(), down.clone())];
    let [client, server] = ends.map(|(from, to)| Box::new(End { from, to }));
    let direct = connector.is_direct();
    let side = TlsSide::Server {
        connector: Rc::new(connector),
        host: host.to_owned(),
    };
    let client = secure(client, side, Handover::default(), &scratch).unwrap();
    let side = TlsSide::Client {
        acceptor: Rc::new(acceptor),
        direct,
    };
    let server = secure(server, side, Handover::default(), &scratch).unwrap();
    Two {
        client,
        server,
        up,
        down,
    }
}

fn two(chunk: usize, room: usize) -> Two {
    let acceptor = acceptor(file!("server.crt"), file!("server.key"));
    let connector = connector(Mode::VerifyFull, false, roots(file!("root.crt")));
    two_with(acceptor, connector, "localhost", chunk, room)
}

/// Reads what there is; how it ended, if it did.
fn read_all(stream: &mut dyn Stream, into: &mut Vec<u8>, size: usize) -> Option<Why> {
    let mut buffer = vec![0; size];
    loop {
        match stream.read(&mut buffer) {
            Taken::Bytes { count, more } => {
                into.extend(&buffer[..count]);
                if !more {
                    return None;
                }
            }
            Taken::Nothing => {}
            Taken::Blocked => return None,
            Taken::Closed(why) => return Some(why),
        }
    }
}

impl Two {
    /// Both shake hands until nothing moves; how either ended.
    fn shake(&mut self) -> (Option<Why>, Option<Why>) {
        let (mut ends, mut nothing) = ((None, None), Vec::new());
        for _ in 0..20_000 {
            ends.0 = ends.0.or(read_all(&mut *self.client, &mut nothing, 4096));
            ends.1 = ends.1.or(read_all(&mut *self.server, &mut nothing, 4096));
            let _ = (self.client.flush(), self.server.flush());
            let moving = !self.up.borrow().bytes.is_empty() || !self.down.borrow().bytes.is_empty();
            if !moving && !self.client.holds() && !self.server.holds() {
                break;
            }
            if ends.0.is_some() && ends.1.is_some() {
                break;
            }
        }
        assert!(nothing.is_empty());
        ends
    }

    fn is_secured(&self) -> bool {
        [&self.client, &self.server]
            .into_iter()
            .all(|end| end.protection() == Protection::Tls)
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// The short-read rule, and back pressure: whatever the chunks, everything arrives once and in order, and a stream that says
/// that there is no more has none.
#[test]
fn everything_arrives_in_order_whatever_the_chunks() {
    for (chunk, room, length, size) in [
        (1, 1, 3_000, 1),
        (1, 70_000, 40_000, 65_536),
        (70_000, 70_000, 300_000, 65_536),
        (1_400, 5_000, 300_000, 100),
        (70_000, 700_000, 300_000, 1),
    ] {
        let mut two = two(chunk, room);
        assert_eq!(two.shake(), (None, None), "{chunk} {room}");
        assert!(two.is_secured());
        let (sent, mut at, mut come) = (pattern(length), 0, Vec::new());
        while come.len() < sent.len() {
            if at < sent.len() {
                match two.client.write(&sent[at..]) {
                    Given::Bytes(count) => at += count,
                    Given::Blocked => {}
                    Given::Closed(why) => panic!("{why}"),
                }
            }
            let _ = two.client.flush();
            assert_eq!(read_all(&mut *two.server, &mut come, size), None);
        }
        assert!(come == sent, "{chunk} {room} {length} {size}");
        assert!(!two.client.holds());
    }
}

/// Catalogue B29 (Odyssey bdeee535): a large row over TLS took time quadratic in its length.
#[test]
fn what_the_network_does_not_take_is_not_sealed() {
    let mut two = two(70_000, 1_000);
    two.shake();
    let mut taken = 0;
    while let Given::Bytes(count) = two.client.write(&pattern(1 << 20)) {
        taken += count;
    }
    assert!(taken <= 2 * WRITE, "{taken}");
    assert!(two.client.holds());
}

/// Catalogue T1: a connection that is cut off is no orderly end.
#[test]
fn an_end_without_close_notify_is_told_from_an_orderly_one() {
    let mut two_ends = two(70_000, 70_000);
    two_ends.shake();
    let mut come = Vec::new();
    two_ends.client.write(b"last words");
    two_ends.client.shutdown();
    assert_eq!(
        read_all(&mut *two_ends.server, &mut come, 3),
        Some(Why::Eof)
    );
    assert_eq!(come, b"last words");

    let mut cut = two(70_000, 70_000);
    cut.shake();
    cut.client.write(b"half of a mess");
    cut.up.borrow_mut().closed = true;
    let mut come = Vec::new();
    assert_eq!(read_all(&mut *cut.server, &mut come, 65_536), None); // the end has an event of its own
    let why = read_all(&mut *cut.server, &mut come, 65_536);
    assert_eq!(why, Some(Why::Tls(CUT_OFF.to_owned())));
    assert_eq!(come, b"half of a mess");
}

/// Catalogue T2: a record that was tampered with.
#[test]
fn a_broken_record_ends_the_connection_and_nothing_of_it_is_read() {
    let mut two = two(70_000, 70_000);
    two.shake();
    two.client.write(b"transfer 1 to alice");
    *two.up.borrow_mut().bytes.back_mut().expect("a record") ^= 1;
    let mut come = Vec::new();
    let why = read_all(&mut *two.server, &mut come, 65_536);
    assert!(matches!(why, Some(Why::Tls(_))), "{why:?}");
    assert!(come.is_empty());
}

/// A connection that is dropped says its last word, so that its peer does not take the end for an attack.
#[test]
fn a_dropped_connection_says_so() {
    let mut two = two(70_000, 70_000);
    two.shake();
    let Two {
        client, server, up, ..
    } = &mut two;
    *server = Box::new(End {
        from: up.clone(),
        to: up.clone(),
    });
    up.borrow_mut().closed = true;
    let why = read_all(&mut **client, &mut Vec::new(), 100);
    assert_eq!(why, Some(Why::Eof));
}

fn fails(acceptor: Acceptor, connector: Connector, host: &str) -> String {
    let mut two = two_with(acceptor, connector, host, 70_000, 70_000);
    let (why, _) = two.shake();
    match why {
        Some(why) => why.to_string(),
        None => {
            assert!(two.is_secured());
            String::new()
        }
    }
}

/// What it is about; certificate, key and root; sslmode, host, and what is said of it.
type Case = (
    &'static str,
    &'static [u8],
    &'static [u8],
    &'static [u8],
    Mode,
    &'static str,
    &'static str,
);

/// Issue 4: the certificates that PostgreSQL's documentation tells people to make; libpq's rules for names.
#[test]
fn servers_are_judged_as_libpq_judges_them() {
    let full = Mode::VerifyFull;
    #[rustfmt::skip]
    let cases: [Case; 16] = [
        ("by DNS name", file!("server.crt"), file!("server.key"), file!("root.crt"), full, "localhost", ""),
        ("by address", file!("server.crt"), file!("server.key"), file!("root.crt"), full, "127.0.0.1", ""),
        ("wrong address", file!("server.crt"), file!("server.key"), file!("root.crt"), full, "127.0.0.2", "does not match"),
        ("wrong name", file!("other_host.crt"), file!("other_host.key"), file!("root.crt"), full, "localhost", "\"db.example.com\" does not match host name \"localhost\""),
        ("name does not count", file!("other_host.crt"), file!("other_host.key"), file!("root.crt"), Mode::VerifyCa, "localhost", ""),
        ("CN only", file!("common_name.crt"), file!("common_name.key"), file!("root.crt"), full, "localhost", ""),
        ("CN beside a SAN", file!("server.crt"), file!("server.key"), file!("root.crt"), full, "server", "does not match"),
        ("its own root", file!("self.crt"), file!("self.key"), file!("self.crt"), full, "localhost", ""),
        ("its own root, wrong name", file!("self.crt"), file!("self.key"), file!("self.crt"), full, "other", "does not match"),
        ("somebody else's own root", file!("self.crt"), file!("self.key"), file!("root.crt"), full, "localhost", "is a CA's"),
        ("version 1", file!("version_1.crt"), file!("version_1.key"), file!("root.crt"), full, "localhost", ""),
        ("version 1, unknown root", file!("version_1.crt"), file!("version_1.key"), file!("rogue.crt"), full, "localhost", "openssl x509 -req"),
        ("a chain", file!("chained.crt"), file!("chained.key"), file!("root.crt"), full, "localhost", ""),
        ("unknown root", file!("server.crt"), file!("server.key"), file!("rogue.crt"), Mode::VerifyCa, "localhost", "certificate verify failed"),
        ("expired", file!("expired.crt"), file!("expired.key"), file!("root.crt"), full, "localhost", "it has expired"),
        ("ECDSA, its own root", file!("sec1.crt"), file!("sec1.key"), file!("sec1.crt"), full, "localhost", ""),
    ];
    for (what, chain, key, root, mode, host, error) in cases {
        let said = fails(
            acceptor(chain, key),
            connector(mode, false, roots(root)),
            host,
        );
        assert!(
            said.contains(error) && said.is_empty() == error.is_empty(),
            "{what}: {said:?}"
        );
    }
    // require without roots takes anything.
    let any = connector(Mode::Require, false, Authorities::default());
    assert_eq!(
        fails(
            acceptor(file!("expired.crt"), file!("expired.key")),
            any,
            "x"
        ),
        ""
    );
}

/// TLS 1.2 has signatures of its own, for certificates of version 1 as well.
#[test]
fn both_versions_of_tls_take_certificates_of_both_kinds() {
    for (version, name) in [("tlsv1.2", "TLSv1.2"), ("tlsv1.3", "TLSv1.3")] {
        for (chain, key) in [
            (&file!("version_1.crt")[..], &file!("version_1.key")[..]),
            (file!("server.crt"), file!("server.key")),
        ] {
            let (versions, _) = crate::tls::names::protocols(version).unwrap();
            let choice = Choice {
                versions,
                ..Choice::default()
            };
            let acceptor = Acceptor::new(
                Mode::Require,
                identity(chain, key),
                Authorities::default(),
                &choice,
            )
            .unwrap();
            let connector = connector(Mode::VerifyFull, false, roots(file!("root.crt")));
            let mut two = two_with(acceptor, connector, "localhost", 1_000, 70_000);
            assert_eq!(two.shake(), (None, None), "{version}");
            let facts = two.client.facts().tls.expect("TLS");
            assert_eq!(facts.protocol, name);
            assert!(
                facts.cipher.ends_with("AES256-GCM-SHA384")
                    || facts.cipher == "TLS_AES_256_GCM_SHA384"
            );
            assert_eq!(facts.peer_common_name, None, "no client's");
            // Both ends bind to the server's certificate (RFC 5929).
            assert_eq!(
                facts.endpoint,
                two.server.facts().tls.expect("TLS").endpoint
            );
            assert_eq!(facts.endpoint.map(|hash| hash.len()), Some(32));
        }
    }
}

/// Catalogue T4: certificates of clients.
#[test]
fn clients_are_judged_by_their_certificates() {
    let offer = |own: Option<Identity>| {
        let manner = Manner {
            mode: Mode::Require,
            direct: false,
            sni: true,
            needs_certificate: false,
        };
        Connector::new(manner, own, Authorities::default(), &Choice::default()).unwrap()
    };
    let ask = |mode| {
        let authorities = Authorities {
            revocations: pem::revocations(file!("root.crl")).unwrap(),
            ..roots(file!("root.crt"))
        };
        let own = identity(file!("server.crt"), file!("server.key"));
        Acceptor::new(mode, own, authorities, &Choice::default()).unwrap()
    };
    let client = || Some(identity(file!("client.crt"), file!("client.key")));
    let revoked = || Some(identity(file!("revoked.crt"), file!("revoked.key")));
    let stranger = || Some(identity(file!("stranger.crt"), file!("stranger.key")));
    for (mode, own, error) in [
        (Mode::VerifyCa, client(), ""),
        (Mode::VerifyFull, None, "no certificate"),
        (Mode::Require, None, ""),
        (Mode::Require, client(), ""),
        (Mode::Require, revoked(), "revoked"),
        (Mode::VerifyCa, stranger(), "certificate verify failed"),
    ] {
        let named = own.is_some();
        let mut two = two_with(ask(mode), offer(own), "localhost", 70_000, 70_000);
        let (_, why) = two.shake();
        let why = why.map(|why| why.to_string()).unwrap_or_default();
        assert!(
            why.contains(error) && why.is_empty() == error.is_empty(),
            "{mode:?} {named}: {why}"
        );
        if error.is_empty() {
            let facts = two.server.facts().tls.expect("TLS");
            let name = facts.peer_common_name;
            assert_eq!(name.as_deref(), named.then_some("username"));
            let subject = facts.peer_subject;
            assert_eq!(subject.as_deref(), named.then_some("CN=username"));
        }
    }
}

/// protocol-notes 17: in direct TLS the protocol must be named, and where it is named it must be ours.
#[test]
fn direct_tls_is_not_to_be_had_without_the_name_of_the_protocol() {
    for (direct, alpn, error) in [
        (true, None, "ALPN"),
        (false, None, ""),
        (true, Some("postgresql"), ""),
        (false, Some("h2"), "known protocol"),
    ] {
        let mut connector = connector(Mode::Require, direct, Authorities::default());
        let mut config = (*connector.config).clone();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        connector.config = std::sync::Arc::new(config);
        let acceptor = acceptor(file!("server.crt"), file!("server.key"));
        let mut two = two_with(acceptor, connector, "localhost", 70_000, 70_000);
        let why = two.shake().1.map(|why| why.to_string()).unwrap_or_default();
        let right = error
            .split(' ')
            .all(|word| why.to_lowercase().contains(&word.to_lowercase()));
        assert!(
            right && why.is_empty() == error.is_empty(),
            "{direct} {alpn:?}: {why}"
        );
    }
}

/// What was read before TLS began is where TLS begins; what had not been sent goes out before it, unsealed.
#[test]
fn what_was_read_and_what_was_not_sent_is_handed_over() {
    let mut two = two(70_000, 70_000);
    two.client.flush();
    let hello: Vec<u8> = two.up.borrow_mut().bytes.drain(..).collect();
    let below = Box::new(End {
        from: two.up.clone(),
        to: two.down.clone(),
    });
    let side = TlsSide::Client {
        acceptor: Rc::new(acceptor(file!("server.crt"), file!("server.key"))),
        direct: false,
    };
    let handover = Handover {
        received: hello,
        unsent: b"S".to_vec(),
    };
    two.server = secure(below, side, handover, &Scratch::default()).unwrap();
    assert_eq!(two.down.borrow_mut().bytes.pop_front(), Some(b'S'));
    assert_eq!(two.shake(), (None, None));
    assert!(two.is_secured());
}

/// What a handshake costs the loop: printed, and not asserted tightly (`cargo test --lib handshake_costs -- --nocapture`).
#[test]
fn handshake_costs_are_told() {
    for (what, chain, key) in [
        (
            "RSA 2048",
            &file!("server.crt")[..],
            &file!("server.key")[..],
        ),
        ("P-256", file!("sec1.crt"), file!("sec1.key")),
        ("Ed25519", file!("ed25519.crt"), file!("ed25519.key")),
    ] {
        let acceptor = acceptor(chain, key);
        let mut longest = std::time::Duration::ZERO;
        let mut sum = std::time::Duration::ZERO;
        let rounds = 20;
        for _ in 0..rounds {
            let connector = connector(Mode::Require, false, Authorities::default());
            let mut two = two_with(acceptor.clone(), connector, "localhost", 70_000, 70_000);
            let mut of_server = std::time::Duration::ZERO;
            for _ in 0..6 {
                read_all(&mut *two.client, &mut Vec::new(), 4096);
                let begin = std::time::Instant::now();
                read_all(&mut *two.server, &mut Vec::new(), 4096);
                of_server += begin.elapsed();
                longest = longest.max(begin.elapsed());
            }
            assert!(two.is_secured());
            sum += of_server;
        }
        println!(
            "{what}: {:?} of the server's for each handshake, longest step {longest:?}",
            sum / rounds
        );
    }
}
