//! Answers and copies that are read in large pieces (`bulk_after`) are those of a direct connection, with their pauses, and whoever
//! comes next is served as always.

use std::time::{Duration, Instant};

use crate::support::cluster::PASSWORD;
use crate::support::wire::{Message, first_error, kinds, message, terminated};
use crate::support::{Cluster, Pooler, Wire};

/// Rows of all lengths, more than some kilobytes of them too, and a pause every now and then: 12 MB.
const UNEVEN: &str = "SELECT n, repeat('x', (n * 7919) % 1700), CASE WHEN n % 3000 = 0 THEN pg_sleep(0.02)::text END, \
                      CASE WHEN n % 2000 = 1 THEN repeat('y', 300000) END FROM generate_series(1, 10000) n";
const COPY: &str = "COPY (SELECT repeat('z', 99) FROM generate_series(1, 60000)) TO STDOUT";
/// Fails after two megabytes.
const FAILING: &str = "SELECT 1 / (20000 - n), repeat('x', 100) FROM generate_series(1, 30000) n";
/// Says that it goes on for long, and does not.
const PAUSING: &str = "SELECT CASE WHEN n = 3000 THEN pg_sleep(30)::text ELSE repeat('x', 1000) END FROM generate_series(1, 4000) n";

/// Modes, and `bulk_after`.
const WAYS: [(&str, usize); 5] = [
    ("session", 1),
    ("transaction", 0),
    ("transaction", 1),
    ("transaction", 100_000),
    ("statement", 100_000),
];

/// With one server, which all have one after the other.
fn pooler(cluster: &Cluster, database: &str, mode: &str, after: usize) -> Pooler {
    Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\", bulk_after: {after}}}\n\
         pool:\n  dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/{database}\"\n  mode: {mode}\n  max_connections: 1\n",
        cluster.port()
    ))
}

fn same(here: &[Message], there: &[Message], what: &str) {
    assert_eq!(here.len(), there.len(), "{what}");
    for (here, there) in here.iter().zip(there) {
        assert!(here == there, "{what}: {here:?} is not {there:?}");
    }
}

#[test]
fn long_answers_are_those_of_a_direct_connection_however_they_are_read() {
    let cluster = Cluster::shared();
    let database = cluster.database("long_answers");
    let mut direct = Wire::login(cluster.port(), "username", PASSWORD, &database);
    for (mode, after) in WAYS {
        let pooler = pooler(cluster, &database, mode, after);
        let mut client = Wire::login(pooler.port(), "username", PASSWORD, &database);
        for sql in [UNEVEN, "SELECT 1", COPY, FAILING, "SELECT 2", COPY] {
            let what = format!("{mode}, {after}: {sql}");
            same(&client.query(sql), &direct.query(sql), &what);
        }
        // A cancel while nothing comes, and somebody else on the same server.
        client.send_message(b'Q', &terminated(PAUSING));
        let begin = Instant::now();
        let mut rows = 0;
        while rows < 2_900 {
            rows += usize::from(client.read_message().kind == b'D');
        }
        client.cancel();
        let rest = client.read_until(b'Z');
        let error = first_error(&rest).expect("it was cancelled");
        assert_eq!(error.sqlstate(), "57014", "{mode}, {after}");
        assert!(begin.elapsed() < Duration::from_secs(30), "it slept");
        client.terminate();
        let mut next = Wire::login(pooler.port(), "username", PASSWORD, &database);
        assert_eq!(next.value("SELECT 'next'"), Some("next".to_owned()));
        next.terminate();
    }
}

/// What a client copies, in pieces that are no lines, nor of one length, some of them of a few bytes and some of a megabyte.
fn pieces() -> Vec<Vec<u8>> {
    let lines: Vec<String> = (0..60_000)
        .map(|n| format!("{n}\t{}\n", "x".repeat(n * 7919 % 170)))
        .collect();
    let text = lines.concat().into_bytes();
    let mut rest = &text[..];
    let mut pieces = Vec::new();
    for number in 0.. {
        let length = match number % 100 {
            7 => 1_000_000,
            at if at % 10 == 0 => 1 + at / 10,
            at => 8_192 - at,
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        pieces.push(message(b'd', piece));
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    pieces
}

/// Begins a copy and sends a part of it; every now and then nothing for a while.
fn copy(client: &mut Wire, table: &str, pieces: &[Vec<u8>]) {
    client.send_message(b'Q', &terminated(&format!("COPY {table} FROM STDIN")));
    assert_eq!(kinds(&[client.read_message()]), "G");
    for (number, piece) in pieces.iter().enumerate() {
        client.send(piece);
        if number % 50 == 49 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What the server answers to the end of a copy: its messages, or the SQLSTATE of its error.
fn ended(client: &mut Wire) -> String {
    let answer = client.read_until(b'Z');
    first_error(&answer).map_or(kinds(&answer), |error| error.sqlstate().to_owned())
}

#[test]
fn long_copies_from_a_client_arrive_whole_however_they_are_read() {
    let cluster = Cluster::shared();
    let database = cluster.database("long_copies");
    let mut direct = Wire::login(cluster.port(), "username", PASSWORD, &database);
    for table in ["there", "here"] {
        direct.run(&format!("CREATE TABLE {table} (n int, line text)"));
    }
    let sum = |table: &str| {
        format!("SELECT count(*) || md5(string_agg(line, '' ORDER BY n)) FROM {table}")
    };
    let pieces = pieces();
    copy(&mut direct, "there", &pieces);
    direct.send_message(b'c', b"");
    assert_eq!(ended(&mut direct), "CZ");
    let whole = direct.value(&sum("there")).expect("a sum");
    assert!(whole.starts_with("60000"), "{whole}");
    for (mode, after) in WAYS {
        let pooler = pooler(cluster, &database, mode, after);
        let what = format!("{mode}, {after}");
        let mut client = Wire::login(pooler.port(), "username", PASSWORD, &database);
        for round in 0..2 {
            copy(&mut client, "here", &pieces);
            client.send_message(b'c', b"");
            assert_eq!(ended(&mut client), "CZ", "{what}");
            let here = client.value(&sum("here"));
            assert_eq!(here.as_deref(), Some(&*whole), "{what}, {round}");
            client.run("TRUNCATE here");
        }
        // The client thinks better of it, the server does, or somebody else.
        copy(&mut client, "here", &pieces[..300]);
        client.send_message(b'f', &terminated("enough"));
        assert_eq!(ended(&mut client), "57014", "{what}");
        copy(&mut client, "here", &pieces[..300]);
        client.send(&message(b'd', b"\nnonsense\n"));
        client.send_message(b'c', b"");
        assert_eq!(ended(&mut client), "22P02", "{what}");
        copy(&mut client, "here", &pieces[..300]);
        client.cancel();
        std::thread::sleep(Duration::from_millis(200)); // PostgreSQL looks at it when more data comes
        client.send(&pieces[300]);
        client.send_message(b'c', b"");
        assert_eq!(ended(&mut client), "57014", "{what}");
        assert_eq!(
            client.value("SELECT count(*) FROM here").as_deref(),
            Some("0")
        );
        // The client goes, and the next one is served.
        copy(&mut client, "here", &pieces[..300]);
        drop(client);
        let mut next = Wire::login(pooler.port(), "username", PASSWORD, &database);
        assert_eq!(
            next.value("SELECT count(*) FROM here").as_deref(),
            Some("0")
        );
        next.terminate();
    }
}
