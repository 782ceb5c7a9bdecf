//! Statement mode has no transaction blocks (pgbouncer-compat, sections 13 and 18): who begins one is told so, nothing of it is
//! done, and what PostgreSQL runs as one statement still is one.

use crate::support::wire::{self, first_error, kinds, terminated};
use crate::support::{Cluster, Scene};

const REFUSED: &str = "transaction blocks not allowed in statement pooling mode";

fn scene(database: &str, more: &str) -> Scene {
    let keys = format!("  mode: statement\n  max_connections: 1\n{more}");
    let scene = Scene::new(Cluster::shared(), database, &keys);
    Cluster::shared().sql(
        database,
        "CREATE TABLE rows (x int); GRANT ALL ON rows TO PUBLIC",
    );
    scene
}

fn rows(database: &str) -> String {
    Cluster::shared().sql(database, "SELECT count(*) FROM rows")
}

fn query(sql: &str) -> Vec<u8> {
    wire::message(b'Q', &terminated(sql))
}

fn batch(sql: &str) -> Vec<u8> {
    let parts = [
        wire::parse("", sql),
        wire::bind("", "", &[]),
        wire::execute("", 0),
    ];
    parts.concat()
}

/// postgres.js fell over the ReadyForQuery that came before the error, psycopg over the CommandComplete. And what was sent behind the BEGIN, its COMMIT
/// too, is not done: nobody is left to be told of it.
#[test]
fn a_transaction_block_is_refused_before_the_client_is_told_that_it_is_in_one() {
    for prepared in ["", "  max_prepared_statements: 0\n"] {
        let scene = scene("blocks_refused", prepared);
        let (begin, insert, commit) = ("BEGIN", "INSERT INTO rows VALUES (1)", "COMMIT");
        let whole = |sql| [batch(sql), wire::sync()].concat();
        let cases: [(Vec<u8>, &str); 6] = [
            (query(begin), "E"),
            ([query(begin), query(insert), query(commit)].concat(), "E"),
            (query("BEGIN; INSERT INTO rows VALUES (1)"), "CCE"),
            (query("BEGIN; SELECT 1/0"), "CEE"),
            ([whole(begin), whole(insert), whole(commit)].concat(), "12E"),
            (
                [
                    query("BEGIN; COMMIT AND CHAIN"),
                    query(insert),
                    query(commit),
                ]
                .concat(),
                "CCE",
            ),
        ];
        for (bytes, answer) in cases {
            let mut client = scene.login();
            client.send(&bytes);
            let got = client.read_to_end();
            assert_eq!(kinds(&got), answer, "{prepared}{got:?}");
            let error = got
                .last()
                .and_then(|last| last.error())
                .expect("the refusal");
            assert_eq!((error.severity(), error.message()), ("FATAL", REFUSED));
            assert_eq!(rows("blocks_refused"), "0");
        }
        scene.wait_for_rest();
        scene.pooler.wait_for_log(REFUSED);
    }
}

#[test]
fn what_begins_and_ends_in_one_message_is_one_statement() {
    let scene = scene("blocks_allowed", "");
    let mut client = scene.login();
    let answer = client.run("BEGIN; INSERT INTO rows VALUES (1); COMMIT");
    assert_eq!(kinds(&answer), "CCCZ");
    let inserts = [
        batch("BEGIN"),
        batch("INSERT INTO rows VALUES (2)"),
        batch("COMMIT"),
    ];
    client.send(&[inserts.concat(), wire::sync()].concat());
    assert_eq!(kinds(&client.read_until(b'Z')), "12C12C12CZ");
    assert_eq!(rows("blocks_allowed"), "2");
    // One statement after the other, each on its own, though they were sent together.
    client.send(
        &[
            query("INSERT INTO rows VALUES (3)"),
            query("SELECT 1/0"),
            query("SELECT 4"),
        ]
        .concat(),
    );
    let mut answers = String::new();
    for _ in 0..3 {
        answers += &kinds(&client.read_until(b'Z'));
    }
    assert_eq!(answers, "CZEZTDCZ");
    client.terminate();
    scene.wait_for_rest();
}

/// The data of a copy may be sent ahead of the server's wish for it.
#[test]
fn a_copy_goes_through_in_statement_mode_however_it_is_sent() {
    for prepared in ["", "  max_prepared_statements: 0\n"] {
        let scene = scene("blocks_copy", prepared);
        let mut client = scene.login();
        let data = [
            wire::message(b'd', b"1\n"),
            wire::message(b'd', b"2\n"),
            wire::message(b'c', b""),
        ];
        let copy = "COPY rows FROM STDIN";
        client.send(&[query(copy), data.concat(), query("SELECT 1")].concat());
        assert_eq!(kinds(&client.read_until(b'Z')), "GCZ");
        assert_eq!(kinds(&client.read_until(b'Z')), "TDCZ");
        client.send(&[batch(copy), data.concat(), wire::sync(), query("SELECT 1")].concat());
        assert_eq!(kinds(&client.read_until(b'Z')), "12GCZ");
        assert_eq!(kinds(&client.read_until(b'Z')), "TDCZ");
        // A statement in the middle of a copy is an error of the copy, as it is without a pooler.
        client.send(&query(copy));
        assert_eq!(kinds(&[client.read_message()]), "G");
        client.send(&query("SELECT 1"));
        let answer = client.read_to_end();
        let error = first_error(&answer).expect("the copy fails");
        assert_eq!(error.sqlstate(), "08P01", "{error:?}");
        assert_eq!(rows("blocks_copy"), "4");
        scene.wait_for_rest();
    }
}
