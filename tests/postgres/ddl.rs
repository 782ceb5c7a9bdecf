//! Prepared statements in transaction mode after DDL: where the client cannot notice, they recover; everywhere else it is told
//! what a server of its own would tell it, and its next Parse is a real one.

use crate::support::cluster::PASSWORD;
use crate::support::wire::{
    bind, close, describe, execute, kinds, message, parse, sync, terminated,
};
use crate::support::{Cluster, Message, Scene, Wire, wait_until};

const TEXT: &str = "SELECT * FROM changing";
const OUTDATED: &str = "E 0A000 cached plan must not change result type";

fn scene(name: &str, servers: usize) -> Scene {
    let keys = format!("  mode: transaction\n  max_connections: {servers}\n");
    let scene = Scene::new(Cluster::shared(), &format!("ddl_{name}_{servers}"), &keys);
    admin(
        &scene,
        "CREATE TABLE changing (id int); INSERT INTO changing VALUES (1); GRANT ALL ON changing TO PUBLIC",
    );
    scene
}

fn admin(scene: &Scene, sql: &str) {
    Cluster::shared().sql(&scene.database, sql);
}

fn change(scene: &Scene) {
    admin(
        scene,
        "ALTER TABLE changing ADD COLUMN note text DEFAULT 'new'",
    );
}

fn direct(scene: &Scene) -> Wire {
    let parameters = [("user", "username"), ("database", &*scene.database)];
    Wire::try_login(Cluster::shared().port(), &parameters, PASSWORD).expect("a session of its own")
}

/// Sends messages and gives the answers up to ReadyForQuery.
#[track_caller]
fn ask(wire: &mut Wire, messages: &[Vec<u8>]) -> Vec<String> {
    wire.send(&messages.concat());
    told(&wire.read_until(b'Z'))
}

/// Answers as they compare: errors without the fields that name a place in PostgreSQL's source.
fn told(messages: &[Message]) -> Vec<String> {
    let one = |message: &Message| match (message.error(), message.row()) {
        (Some(error), _) => format!("E {} {}", error.sqlstate(), error.message()),
        (_, Some(row)) => format!("D {row:?}"),
        _ => format!("{} {:?}", char::from(message.kind), message.body),
    };
    messages.iter().map(one).collect()
}

fn letters(told: &[String]) -> String {
    told.iter().filter_map(|one| one.chars().next()).collect()
}

/// Runs the statement "s" as drivers do that ask for the shape of the rows each time.
fn described(values: &[&str]) -> Vec<Vec<u8>> {
    vec![
        bind("", "s", values),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ]
}

/// Runs the statement "s" as drivers do that know the shape of its rows.
fn bare(values: &[&str]) -> Vec<Vec<u8>> {
    vec![bind("", "s", values), execute("", 0), sync()]
}

fn prepare(wire: &mut Wire, text: &str) {
    assert_eq!(letters(&ask(wire, &[parse("s", text), sync()])), "1Z");
}

/// Sessions that have the statement, which is on every server of the pool.
fn spread(scene: &Scene, servers: usize) -> Vec<Wire> {
    let mut sessions: Vec<Wire> = (0..servers).map(|_| scene.login()).collect();
    for wire in &mut sessions {
        wire.run("BEGIN");
        prepare(wire, TEXT);
        assert_eq!(letters(&ask(wire, &bare(&[]))), "2DCZ");
    }
    for wire in &mut sessions {
        wire.run("COMMIT");
    }
    sessions
}

/// E13, and the issue: `cached plan must not change result type` recovers by itself where that is safe.
#[test]
fn a_batch_that_describes_what_it_runs_recovers_on_every_server() {
    for servers in [1, 3] {
        let scene = scene("described", servers);
        let mut sessions = spread(&scene, servers);
        change(&scene);
        for round in 0..2 {
            for wire in &mut sessions {
                let answer = ask(wire, &described(&[]));
                assert_eq!(letters(&answer), "2TDCZ", "round {round}: {answer:?}");
                assert_eq!(answer[2], r#"D [Some("1"), Some("new")]"#);
            }
        }
        admin(&scene, "ALTER TABLE changing ALTER COLUMN id TYPE text");
        let by_statement = [
            describe(b'S', "s"),
            bind("", "s", &[]),
            execute("", 0),
            sync(),
        ];
        for wire in &mut sessions {
            assert_eq!(letters(&ask(wire, &by_statement)), "tT2DCZ");
            assert_eq!(letters(&ask(wire, &bare(&[]))), "2DCZ");
        }
        for wire in &mut sessions {
            wire.run("BEGIN"); // each on a server of its own now
            assert_eq!(letters(&ask(wire, &bare(&[]))), "2DCZ");
        }
        for wire in &mut sessions {
            wire.run("COMMIT");
        }
        scene.wait_for_pool("sv_active", 0);
    }
}

/// A client that knows the shape of the rows must not be given others: it is told what a server of its own tells it, again and
/// again, until it parses the statement anew.
#[test]
fn whoever_knows_the_shape_of_the_rows_is_told_that_it_has_changed() {
    for servers in [1, 3] {
        let scene = scene("bare", servers);
        let mut sessions = spread(&scene, servers);
        let mut own = direct(&scene);
        prepare(&mut own, TEXT);
        change(&scene);
        for wire in sessions.iter_mut().chain([&mut own]) {
            for _ in 0..2 {
                assert_eq!(letters(&ask(wire, &bare(&[]))), "EZ");
            }
            assert_eq!(ask(wire, &bare(&[]))[0], OUTDATED);
            let answer = ask(wire, &[close(b'S', "s"), parse("s", TEXT), sync()]);
            assert_eq!(letters(&answer), "31Z");
        }
        for wire in sessions.iter_mut().chain([&mut own]) {
            wire.run("BEGIN");
            assert_eq!(ask(wire, &bare(&[]))[1], r#"D [Some("1"), Some("new")]"#);
        }
        for wire in sessions.iter_mut() {
            wire.run("COMMIT");
        }
        scene.wait_for_pool("sv_active", 0);
    }
}

/// The statement is forgotten also if the client ends it by SQL.
#[test]
fn a_statement_that_is_deallocated_and_parsed_again_is_a_new_one() {
    let scene = scene("deallocate", 1);
    let mut wire = spread(&scene, 1).remove(0);
    change(&scene);
    assert_eq!(ask(&mut wire, &bare(&[]))[0], OUTDATED);
    wire.run("DEALLOCATE s");
    prepare(&mut wire, TEXT);
    assert_eq!(letters(&ask(&mut wire, &bare(&[]))), "2DCZ");
}

/// E13: a client that has never seen the statement before the DDL is not told of it.
#[test]
fn a_statement_parsed_after_ddl_never_meets_the_plan_of_another_client() {
    let ways: [(&str, &[Vec<u8>]); 3] = [
        ("1tTZ", &[describe(b'S', "s"), sync()]),
        ("12DCZ", &[bind("", "s", &[]), execute("", 0), sync()]),
        (
            "1tT2DCZ",
            &[
                describe(b'S', "s"),
                message(b'H', b""),
                bind("", "s", &[]),
                execute("", 0),
                sync(),
            ],
        ),
    ];
    for (at, (expected, rest)) in ways.into_iter().enumerate() {
        let scene = scene(&format!("fresh{at}"), 1);
        let _sessions = spread(&scene, 1);
        change(&scene);
        let mut fresh = scene.login();
        let answer = ask(
            &mut fresh,
            &[vec![parse("s", TEXT)], rest.to_vec()].concat(),
        );
        assert_eq!(letters(&answer), expected, "{answer:?}");
        assert_eq!(letters(&ask(&mut fresh, &bare(&[]))), "2DCZ");
        scene.wait_for_pool("sv_active", 0);
    }
}

/// As asyncpg prepares: it waits for answers without a Sync.
#[test]
fn a_batch_that_waits_at_a_flush_recovers_too() {
    let scene = scene("flush", 1);
    let _sessions = spread(&scene, 1);
    change(&scene);
    let mut wire = scene.login();
    let start = [parse("s", TEXT), describe(b'S', "s"), message(b'H', b"")];
    wire.send(&start.concat());
    assert_eq!(kinds(&wire.read_until(b'T')), "1tT");
    assert_eq!(letters(&ask(&mut wire, &bare(&[]))), "2DCZ");

    admin(&scene, "ALTER TABLE changing DROP COLUMN note");
    wire.send(&[bind("", "s", &[]), message(b'H', b"")].concat());
    let error = wire.read_message();
    assert_eq!(told(&[error])[0], OUTDATED, "nothing is described");
    assert_eq!(letters(&ask(&mut wire, &[sync()])), "Z");
}

/// The server has refused the Bind before the rest of the batch is sent.
#[test]
fn a_batch_that_comes_in_pieces_is_judged_as_a_whole() {
    let scene = scene("pieces", 1);
    for (described, expected) in [(true, "2TDCZ"), (false, "EZ")] {
        let text = format!("SELECT *, {described} FROM changing");
        let mut wire = scene.login();
        prepare(&mut wire, &text);
        assert_eq!(letters(&ask(&mut wire, &bare(&[]))), "2DCZ");
        admin(
            &scene,
            &format!("ALTER TABLE changing ADD COLUMN {described}_ int"),
        );
        wire.send(&bind("", "s", &[]));
        wait_until("the server has refused", || {
            Cluster::shared()
                .log()
                .contains(&format!("STATEMENT:  {text}"))
        });
        if described {
            wire.send(&describe(b'P', ""));
        }
        wire.send(&execute("", 0));
        assert_eq!(letters(&ask(&mut wire, &[sync()])), expected);
        assert_eq!(wire.value("SELECT 5").as_deref(), Some("5"));
        scene.wait_for_pool("sv_active", 0);
    }
}

/// Where it is not safe the client is told, as by a server of its own; and nothing of what it sent has happened.
#[test]
fn where_a_second_try_is_not_safe_the_answers_are_those_of_a_session_of_ones_own() {
    let scene = scene("unsafe", 1);
    let long = "x".repeat(17_000);
    let with_value = "SELECT c.*, length($1) FROM changing c";
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        // Two Binds.
        (
            TEXT,
            [described(&[])[..3].to_vec(), described(&[])].concat(),
        ),
        // A second batch is behind it on the way.
        (
            TEXT,
            [described(&[]), vec![parse("", "SELECT 1"), sync()]].concat(),
        ),
        (
            TEXT,
            [described(&[]), vec![message(b'Q', &terminated("SELECT 1"))]].concat(),
        ),
        // Too long to be kept.
        (with_value, described(&[&long])),
        // Described too late.
        (
            TEXT,
            vec![
                bind("", "s", &[]),
                execute("", 0),
                describe(b'P', ""),
                sync(),
            ],
        ),
        // Not what is run.
        (
            TEXT,
            vec![
                bind("", "s", &[]),
                describe(b'P', "p"),
                execute("", 0),
                sync(),
            ],
        ),
        // An answer came before.
        (TEXT, [vec![parse("", "SELECT 1")], described(&[])].concat()),
    ];
    let mut columns = 0;
    for (case, (text, batch)) in cases.into_iter().enumerate() {
        let mut answers = Vec::new();
        for mut wire in [scene.login(), direct(&scene)] {
            wire.run(&format!("SET application_name = 'case {case}'"));
            prepare(&mut wire, text);
            let values: &[&str] = if text == TEXT { &[] } else { &["x"] };
            assert_eq!(letters(&ask(&mut wire, &described(values))), "2TDCZ");
            columns += 1;
            admin(
                &scene,
                &format!("ALTER TABLE changing ADD COLUMN c{columns} int"),
            );
            let mut all = ask(&mut wire, &batch);
            wire.send(&message(b'Q', &terminated("SHOW application_name")));
            while !all.iter().any(|one: &String| one.contains("case ")) {
                all.extend(told(&wire.read_until(b'Z')));
            }
            answers.push(all);
        }
        assert_eq!(answers[0], answers[1], "case {case}");
        assert!(
            answers[0].iter().any(|one| one == OUTDATED),
            "case {case}: {:?}",
            answers[0]
        );
    }
    scene.wait_for_pool("sv_active", 0);
}

#[test]
fn in_a_block_the_error_ends_the_transaction_as_ever() {
    let scene = scene("block", 1);
    let mut answers = Vec::new();
    for (mut wire, column) in [(scene.login(), "one"), (direct(&scene), "two")] {
        prepare(&mut wire, TEXT);
        ask(&mut wire, &described(&[]));
        wire.run("BEGIN");
        admin(
            &scene,
            &format!("ALTER TABLE changing ADD COLUMN {column} int"),
        );
        let mut all = ask(&mut wire, &described(&[]));
        all.extend(ask(&mut wire, &described(&[])));
        all.extend(told(&wire.query("ROLLBACK")));
        assert_eq!(all[0], OUTDATED);
        answers.push(all);
        ask(&mut wire, &[close(b'S', "s"), parse("s", TEXT), sync()]);
        assert_eq!(letters(&ask(&mut wire, &bare(&[]))), "2DCZ");
    }
    assert_eq!(answers[0], answers[1]);
}

/// `cache lookup failed for type`: a parameter's type is gone and there is another of its name. A client that has been told
/// of the types chooses its values by them, and is told that they have changed; another one never notices.
#[test]
fn a_type_that_was_made_anew_is_found_again_if_the_client_knows_nothing_of_it() {
    let scene = scene("types", 1);
    admin(&scene, "CREATE TYPE mood AS ENUM ('sad', 'ok')");
    let text = "SELECT $1::mood::text";
    let mut innocent = scene.login();
    let mut knowing = scene.login();
    for wire in [&mut innocent, &mut knowing] {
        prepare(wire, text);
        assert_eq!(letters(&ask(wire, &described(&["sad"]))), "2TDCZ");
    }
    assert_eq!(
        letters(&ask(&mut knowing, &[describe(b'S', "s"), sync()])),
        "tTZ"
    );
    admin(
        &scene,
        "DROP TYPE mood; CREATE TYPE mood AS ENUM ('ok', 'happy')",
    );
    for _ in 0..2 {
        let answer = ask(&mut knowing, &described(&["ok"]));
        assert!(
            answer[0].starts_with("E XX000 cache lookup failed for type"),
            "{answer:?}"
        );
    }
    for _ in 0..2 {
        let answer = ask(&mut innocent, &described(&["happy"]));
        assert_eq!(letters(&answer), "2TDCZ", "{answer:?}");
        assert_eq!(answer[2], r#"D [Some("happy")]"#);
    }
    ask(&mut knowing, &[close(b'S', "s"), parse("s", text), sync()]);
    assert_eq!(letters(&ask(&mut knowing, &bare(&["happy"]))), "2DCZ");
    scene.wait_for_pool("sv_active", 0);
}

/// The text can't be parsed any more: the client is told why.
#[test]
fn a_second_try_that_fails_gives_the_error_of_the_second_try() {
    let scene = scene("gone", 1);
    admin(&scene, "ALTER TABLE changing ADD COLUMN note text");
    let mut wire = scene.login();
    let text = "SELECT note::text AS note, c.* FROM changing c";
    prepare(&mut wire, text);
    assert_eq!(letters(&ask(&mut wire, &described(&[]))), "2TDCZ");
    // The plan is outdated first; by the time of the second try there is no such table.
    admin(&scene, "ALTER TABLE changing ADD COLUMN more text");
    let answer = ask(&mut wire, &described(&[]));
    assert_eq!(letters(&answer), "2TDCZ");
    admin(&scene, "ALTER TABLE changing DROP COLUMN note");
    let answer = ask(&mut wire, &described(&[]));
    assert_eq!(answer[0], "E 42703 column \"note\" does not exist");
    assert_eq!(wire.value("SELECT 1").as_deref(), Some("1"));
    scene.wait_for_pool("sv_active", 0);
}

/// Found by the simulation: the second try is with what others have parsed since, and that may be outdated by then as well.
#[test]
fn a_second_try_with_a_statement_that_is_outdated_too_is_followed_by_a_third() {
    let scene = scene("twice", 1);
    let mut first = spread(&scene, 1).remove(0);
    change(&scene);
    let mut second = scene.login();
    prepare(&mut second, TEXT);
    assert_eq!(letters(&ask(&mut second, &described(&[]))), "2TDCZ");
    admin(&scene, "ALTER TABLE changing ADD COLUMN more int");
    assert_eq!(letters(&ask(&mut first, &described(&[]))), "2TDCZ");
    assert_eq!(ask(&mut second, &bare(&[]))[0], OUTDATED);
    assert_eq!(letters(&ask(&mut second, &described(&[]))), "2TDCZ");
    scene.wait_for_pool("sv_active", 0);
}
