//! Prepared statements of clients that share their servers: what they are told where Aether cannot do as PostgreSQL does, and
//! what they need no server for. Everything else is in the module `batches`.

use crate::support::wire::{self, first_error, kinds};
use crate::support::{Cluster, Message, Scene, Wire};

/// So long that it is not kept under a name (1 MiB).
const TOO_LONG: usize = 1 << 20;

fn transaction_pool(cluster: &Cluster, name: &str) -> Scene {
    let database = cluster.database(name);
    Scene::new(
        cluster,
        &database,
        "  mode: transaction\n  max_connections: 1\n",
    )
}

fn ask(client: &mut Wire, messages: &[Vec<u8>]) -> Vec<Message> {
    client.send(&messages.concat());
    client.read_until(b'Z')
}

fn status(messages: &[Message]) -> &[u8] {
    &messages.last().expect("ReadyForQuery").body
}

/// Issue 3: "A statement text over 1 MiB is not kept: named gets 54000 with a HINT, unnamed is streamed".
#[test]
fn a_named_statement_that_is_too_long_fails_and_the_session_lives_on() {
    let cluster = Cluster::shared();
    let scene = transaction_pool(cluster, "too_long");
    let mut client = scene.login();
    let long = format!("SELECT 1 /*{}*/", "x".repeat(TOO_LONG));
    let batch = [
        wire::parse("before", "SELECT 1"),
        wire::parse("long", &long),
        wire::bind("", "long", &[]),
        wire::execute("", 0),
        wire::sync(),
    ];
    let answer = ask(&mut client, &batch);
    assert_eq!(kinds(&answer), "1EZ");
    let error = first_error(&answer).expect("an error");
    assert_eq!((error.severity(), error.sqlstate()), ("ERROR", "54000"));
    assert!(error.message().contains("too long"), "{error:?}");
    assert!(error.hint().contains("unnamed"), "{error:?}");
    assert_eq!(status(&answer), b"I");

    // It was not prepared, what came before it was, and without a name it is run.
    let answer = ask(&mut client, &[wire::bind("", "long", &[]), wire::sync()]);
    assert_eq!(first_error(&answer).expect("an error").sqlstate(), "26000");
    for name in ["before", ""] {
        let batch = [
            wire::parse("", &long),
            wire::bind("", name, &[]),
            wire::execute("", 0),
            wire::sync(),
        ];
        assert_eq!(kinds(&ask(&mut client, &batch)), "12DCZ");
    }

    // In a block it fails the block.
    client.run("BEGIN");
    let answer = ask(&mut client, &[wire::parse("long", &long), wire::sync()]);
    assert_eq!(
        (kinds(&answer).as_str(), status(&answer)),
        ("EZ", &b"E"[..])
    );
    assert_eq!(client.error("SELECT 1").sqlstate(), "25P02");
    client.run("ROLLBACK");

    // Behind an error it is skipped.
    let batch = [
        wire::bind("", "nobody", &[]),
        wire::parse("long", &long),
        wire::sync(),
        wire::parse("after", "SELECT 2"),
        wire::sync(),
    ];
    assert_eq!(
        first_error(&ask(&mut client, &batch))
            .expect("one")
            .sqlstate(),
        "26000"
    );
    assert_eq!(kinds(&client.read_until(b'Z')), "1Z");
    client.terminate();
    scene.wait_for_rest();
}

#[test]
fn a_name_of_the_poolers_own_is_refused_and_the_session_lives_on() {
    let cluster = Cluster::shared();
    let scene = transaction_pool(cluster, "reserved");
    let mut client = scene.login();
    let answer = ask(
        &mut client,
        &[wire::parse("aether_1", "SELECT 1"), wire::sync()],
    );
    let error = first_error(&answer).expect("an error");
    assert_eq!((error.severity(), error.sqlstate()), ("ERROR", "42939"));
    assert_eq!(client.value("SELECT 5").as_deref(), Some("5"));
}

/// "named gets 54000": so does one name more than a client may have.
#[test]
fn a_statement_too_many_fails_and_the_session_lives_on() {
    const MOST: usize = 10_000;
    let cluster = Cluster::shared();
    let scene = transaction_pool(cluster, "too_many");
    let mut client = scene.login();
    for thousand in 0..MOST / 1_000 {
        let names = (0..1_000).map(|at| wire::parse(&format!("s{thousand}_{at}"), "SELECT 1"));
        let batch: Vec<_> = names.chain([wire::sync()]).collect();
        assert_eq!(first_error(&ask(&mut client, &batch)), None);
    }
    let more = [wire::parse("more", "SELECT 1"), wire::sync()];
    let error = first_error(&ask(&mut client, &more)).expect("an error");
    assert_eq!((error.severity(), error.sqlstate()), ("ERROR", "54000"));
    assert!(error.hint().contains("Close statements"), "{error:?}");
    let close = [wire::close(b'S', "s0_0"), wire::sync()];
    assert_eq!(kinds(&ask(&mut client, &close)), "3Z");
    assert_eq!(kinds(&ask(&mut client, &more)), "1Z");
}

/// Drivers close statements while they are idle: psycopg, pgjdbc, sqlx.
#[test]
fn closing_ones_own_statements_needs_no_server() {
    let cluster = Cluster::shared();
    let scene = transaction_pool(cluster, "housekeeping");
    let (mut client, mut holder) = (scene.login(), scene.login());
    let parse = wire::parse("mine", "SELECT 7");
    assert_eq!(
        kinds(&ask(&mut client, &[parse.clone(), wire::sync()])),
        "1Z"
    );
    holder.run("BEGIN");
    let mut batches = [
        wire::close(b'S', "mine"),
        wire::close(b'S', ""),
        wire::message(b'H', &[]),
        wire::sync(),
        wire::sync(),
    ]
    .concat();
    // And what cannot be answered without a server waits for one.
    let rest = [
        parse,
        wire::bind("", "mine", &[]),
        wire::execute("", 0),
        wire::sync(),
    ];
    batches.extend(rest.concat());
    client.send(&batches);
    assert_eq!(kinds(&client.read_until(b'Z')), "33Z");
    assert_eq!(kinds(&client.read_until(b'Z')), "Z");
    scene.wait_for_pool("cl_waiting", 1);
    holder.run("COMMIT");
    assert_eq!(kinds(&client.read_until(b'Z')), "12DCZ");
    client.terminate();
    holder.terminate();
    scene.wait_for_rest();
}

/// A statement that was never prepared on this server is described there, in a failed block, as it would be elsewhere.
#[test]
fn a_failed_block_describes_what_its_server_has_never_had() {
    let cluster = Cluster::shared();
    let database = cluster.database("failed_block");
    let keys = "  mode: transaction\n  max_connections: 1\n  max_prepared_statements: 1\n";
    let scene = Scene::new(cluster, &database, keys);
    let mut client = scene.login();
    client.run("CREATE TABLE t (id int, v text)");
    let batch = [
        wire::parse("insert", "INSERT INTO t VALUES ($1, $2)"),
        wire::parse("select", "SELECT v FROM t WHERE id = $1"),
        wire::parse("last", "SELECT 1"),
        wire::sync(),
    ];
    assert_eq!(kinds(&ask(&mut client, &batch)), "111Z");
    // The server has the last of them and no other.
    client.run("BEGIN");
    client.error("SELECT 1 / 0");
    let described = ask(&mut client, &[wire::describe(b'S', "insert"), wire::sync()]);
    assert_eq!(kinds(&described), "tnZ");
    assert_eq!(described[0].body, [0, 2, 0, 0, 0, 23, 0, 0, 0, 25]);
    for (batch, code) in [
        (wire::describe(b'S', "select"), "25P02"),
        (wire::bind("", "select", &["1"]), "25P02"),
        (wire::bind("", "insert", &["1", "x"]), "25P02"),
        (wire::bind("", "insert", &["1"]), "08P01"),
        (wire::describe(b'S', "nobody"), "26000"),
    ] {
        let error = first_error(&ask(&mut client, &[batch, wire::sync()])).expect("an error");
        assert_eq!(error.sqlstate(), code, "{error:?}");
        assert!(!error.message().contains("aether"), "{error:?}");
    }
    client.run("ROLLBACK");
    let run = [
        wire::bind("", "insert", &["1", "x"]),
        wire::execute("", 0),
        wire::sync(),
    ];
    assert_eq!(kinds(&ask(&mut client, &run)), "2CZ");
    let names = "SELECT string_agg(name, ' ') FROM pg_prepared_statements";
    let names = client.value(names).expect("names");
    assert!(
        names.split(' ').count() <= 2,
        "one, and the stand-in: {names}"
    );
}

/// Found by the simulation, seed 18396: a DEALLOCATE that was still to fail, in a failed block, was believed by the Parse behind it.
#[test]
fn a_deallocate_that_fails_is_not_believed() {
    let cluster = Cluster::shared();
    let scene = transaction_pool(cluster, "believed");
    let mut client = scene.login();
    let parse = [wire::parse("one", "SELECT 1"), wire::sync()];
    assert_eq!(kinds(&ask(&mut client, &parse)), "1Z");
    let query = |sql: &str| wire::message(b'Q', &wire::terminated(sql));
    let pipeline = ["BEGIN", "SELECT 1 / 0", "DEALLOCATE one", "COMMIT"].map(query);
    client.send(&[pipeline.concat(), parse.concat()].concat());
    for expected in ["CZ", "EZ", "EZ", "CZ", "EZ"] {
        let answer = client.read_until(b'Z');
        assert_eq!(kinds(&answer), expected, "{answer:?}");
    }
    // A portal deallocates, by name, what has the name when it is run.
    let batch = [
        wire::parse("end", "DEALLOCATE one"),
        wire::bind("", "end", &[]),
        wire::execute("", 0),
        wire::parse("one", "SELECT 2"),
        wire::bind("", "one", &[]),
        wire::execute("", 0),
        wire::close(b'S', "one"),
        wire::sync(),
        wire::bind("p", "end", &[]),
        wire::execute("p", 0),
        wire::sync(),
    ];
    assert_eq!(kinds(&ask(&mut client, &batch)), "12C12DC3Z");
    let answer = client.read_until(b'Z');
    let error = first_error(&answer).expect("an error");
    assert_eq!(error.message(), "prepared statement \"one\" does not exist");
}

/// Found by the simulation, seed 16094: the name was nobody's when the portal was made, and the server never had it.
#[test]
fn a_portal_deallocates_what_was_prepared_after_it() {
    let cluster = Cluster::shared();
    let scene = transaction_pool(cluster, "after_it");
    let mut direct = Wire::login(cluster.port(), "username", "password", &scene.database);
    let mut client = scene.login();
    let make = [
        wire::parse("", "DEALLOCATE one"),
        wire::bind("", "", &[]),
        wire::parse("one", "SELECT 1"),
    ];
    let run = [wire::execute("", 0), wire::sync()];
    let bind_one = [wire::bind("", "one", &[]), wire::sync()];
    let both = [make.concat(), run.concat()];
    for (batch, expected) in [
        (both.concat(), "121CZ"),
        (bind_one.concat(), "EZ"), // it is gone
        (
            [
                both[0].clone(),
                wire::parse("", "SELECT 2"),
                both[1].clone(),
            ]
            .concat(),
            "1211CZ",
        ),
        (bind_one.concat(), "EZ"),
        // Nobody's to the end.
        ([make[..2].concat(), both[1].clone()].concat(), "12EZ"),
        // One of each, neither of which is run at once.
        (
            [
                wire::parse("one", "SELECT 1"),
                wire::parse("end", "DEALLOCATE one"),
                wire::bind("known", "end", &[]),
                wire::parse("", "DEALLOCATE two"),
                wire::bind("unknown", "", &[]),
                wire::parse("two", "SELECT 2"),
                wire::execute("known", 0),
                wire::execute("unknown", 0),
                wire::close(b'S', "end"),
                wire::sync(),
            ]
            .concat(),
            "112121CC3Z",
        ),
        (bind_one.concat(), "EZ"),
        // What SQL has prepared.
        (
            wire::message(b'Q', &wire::terminated("BEGIN; PREPARE one AS SELECT 3")),
            "CCZ",
        ),
        ([make[..2].concat(), run.concat()].concat(), "12CZ"),
        (wire::message(b'Q', &wire::terminated("EXECUTE one")), "EZ"),
        (wire::message(b'Q', &wire::terminated("ROLLBACK")), "CZ"),
    ] {
        for (wire, whose) in [(&mut direct, "PostgreSQL"), (&mut client, "Aether")] {
            wire.send(&batch);
            let answer = wire.read_until(b'Z');
            assert_eq!(kinds(&answer), expected, "{whose}: {answer:?}");
            if let Some(error) = first_error(&answer) {
                assert_eq!(error.message(), "prepared statement \"one\" does not exist");
            }
        }
    }
    // No client makes more of them than are kept.
    let many: Vec<u8> = (0..=100)
        .flat_map(|n| wire::bind(&format!("p{n}"), "end", &[]))
        .collect();
    let end = wire::parse("end", "DEALLOCATE two");
    client.send(&[end, many, wire::sync()].concat());
    let answer = client.read_until(b'Z');
    assert_eq!(kinds(&answer), format!("1{}EZ", "2".repeat(100)));
    assert_eq!(first_error(&answer).expect("an error").sqlstate(), "54000");
    // Nothing is left on the server.
    let names =
        "SELECT string_agg(name, ' ') FROM pg_prepared_statements WHERE name NOT LIKE 'aether%'";
    assert_eq!(client.value(names), None);
}

/// Found by the batches, seed 20014: the bytes of a text mean something else in another client_encoding. They were sent to
/// a server as they were, and what came of it was wrong data.
#[test]
fn a_text_is_only_shared_and_prepared_again_in_its_own_encoding() {
    let cluster = Cluster::shared();
    let database = cluster.database("encodings");
    let keys = "  mode: transaction\n  max_connections: 1\n  max_prepared_statements: 1\n";
    let scene = Scene::new(cluster, &database, keys);
    let (mut utf8, mut latin1) = (scene.login(), scene.login());
    latin1.run("SET client_encoding = 'LATIN1'");
    let length = [
        wire::parse("e", "SELECT length('\u{e9}')"),
        wire::bind("", "e", &[]),
        wire::execute("", 0),
        wire::sync(),
    ];
    let value = |messages: &[Message]| messages.iter().find_map(Message::row);
    for (client, expected) in [(&mut utf8, "1"), (&mut latin1, "2")] {
        let row = value(&ask(client, &length)).expect("a row");
        assert_eq!(row[0].as_deref(), Some(expected), "characters");
    }
    // What is no longer on the server cannot be prepared there in another encoding.
    utf8.run("SET client_encoding = 'LATIN1'");
    for batch in [
        [wire::describe(b'S', "e"), wire::sync()],
        [wire::bind("", "e", &[]), wire::sync()],
    ] {
        let error = first_error(&ask(&mut utf8, &batch)).expect("an error");
        assert_eq!((error.severity(), error.sqlstate()), ("ERROR", "0A000"));
        assert!(error.message().contains("client_encoding"), "{error:?}");
    }
    utf8.run("SET client_encoding = 'UTF8'");
    let row = value(&ask(&mut utf8, &length[1..])).expect("a row");
    assert_eq!(row[0].as_deref(), Some("1"));
}
