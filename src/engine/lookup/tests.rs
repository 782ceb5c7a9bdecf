//! Servers that are asked for secrets and answer well, ill, or not at all; the test is the server.

use std::time::Duration;

use super::super::scene::{Scene, Shared, World, is_closed, said};
use super::super::{Event, Facts};
use super::*;
use crate::wire::{backend, frontend};

const POOL: &str = "pool: {dsn: 'postgres://127.0.0.1/db?sslmode=disable', max_connections: 1, check_query: null}\n";
const AUTH: &str =
    "auth: {type: password, auth_user: {name: asker, password: x}, failure_delay: 0}\n";

fn scene_of(config: &str) -> Scene {
    let mut scene = Scene::with(config, World::default());
    scene.engine.contain(false);
    scene
}

fn scene() -> Scene {
    scene_of(&format!("{POOL}{AUTH}"))
}

fn comes(scene: &mut Scene, user: &str, database: &str) -> Shared {
    let parameters = [
        (&b"user"[..], user.as_bytes()),
        (b"database", database.as_bytes()),
        (b"search_path", b"evil"),
        (b"options", b"-c search_path=worse"),
    ];
    scene.client_from(Facts::default(), &parameters)
}

fn types(client: &Shared, password: &[u8], scene: &mut Scene) {
    let mut bytes = Vec::new();
    frontend::password(&mut bytes, password);
    client.borrow_mut().output.clear();
    client.borrow_mut().input.extend(bytes);
    scene.ready(client);
    scene.derive();
}

/// How often a server was asked something.
fn questions(server: &Shared) -> usize {
    let sent = String::from_utf8_lossy(&server.borrow().output).into_owned();
    sent.matches("FROM pg_authid").count()
}

fn asked(scene: &Scene) -> usize {
    scene.world.servers.iter().map(questions).sum()
}

fn rows(columns: usize, rows: &[&[Option<&str>]]) -> Vec<u8> {
    let mut out = b"1\0\0\0\x042\0\0\0\x04".to_vec();
    let names = ["rolname", "rolpassword", "more"];
    let columns = names.iter().take(columns);
    backend::write_row_description(&mut out, columns.map(|name| (*name, backend::TEXT)));
    for row in rows {
        backend::write_data_row(&mut out, row.iter().copied());
    }
    backend::write_command_complete(&mut out, "SELECT 1");
    backend::write_ready(&mut out);
    out
}

fn answers(scene: &mut Scene, server: usize, bytes: &[u8]) {
    let server = scene.world.servers[server].clone();
    server.borrow_mut().input.extend(bytes);
    scene.ready(&server);
    scene.derive();
}

fn has(user: &str, secret: &str) -> Vec<u8> {
    rows(2, &[&[Some(user), Some(secret)]])
}

const WRONG: &str = "28P01 password authentication failed for user \"alice\"";

/// Issue 4: the login of a second client of the same user costs no round trip; who comes meanwhile asks the same question.
#[test]
fn a_user_is_asked_for_once() {
    let mut scene = scene();
    let first = comes(&mut scene, "alice", "db");
    let second = comes(&mut scene, "alice", "db");
    assert_eq!(
        (said(&first), said(&second)),
        (String::new(), String::new())
    );
    answers(&mut scene, 0, &has("alice", "secret"));
    assert_eq!(
        (said(&first).as_str(), said(&second).as_str()),
        ("R3", "R3")
    );
    let third = comes(&mut scene, "alice", "db");
    assert_eq!(said(&third), "R3");
    assert_eq!(asked(&scene), 1);
    types(&third, b"secret", &mut scene);
    scene.serve_last();
    assert_eq!(said(&third), "R0");
    // It logs in to the server as itself, with the secret that was found.
    let own = scene.world.servers.last().expect("its server").clone();
    assert!(own.borrow().output.starts_with(b"\0\0\0"));
    assert!(String::from_utf8_lossy(&own.borrow().output).contains("user\0alice\0"));
    // And not for ever.
    scene.wait(Duration::from_secs(31));
    let late = comes(&mut scene, "alice", "db");
    assert_eq!(said(&late), "");
    assert_eq!(asked(&scene), 2);
}

/// CVE-2025-12819, R8.
#[test]
fn what_a_client_brings_does_not_get_to_the_connection_that_asks() {
    let mut scene = scene();
    let _client = comes(&mut scene, "alice", "db");
    let sent = scene.world.servers[0].borrow().output.clone();
    let sent = String::from_utf8_lossy(&sent).into_owned();
    let packet = "user\0asker\0database\0db\0search_path\0pg_catalog\0\0";
    assert_eq!(sent.get(8..8 + packet.len()), Some(packet));
    assert!(!sent.contains("evil") && !sent.contains("worse"), "{sent}");
}

/// R5: bytes that tell nothing apart.
#[test]
fn who_is_unknown_or_has_no_secret_is_told_what_a_wrong_password_is_told() {
    let mut scene = scene();
    let mut heard = Vec::new();
    for (user, answer) in [
        ("alice", has("alice", "secret")),
        ("carol", rows(2, &[])),
        ("david", rows(2, &[&[Some("david"), None]])),
        ("erich", has("erich", "")),
    ] {
        let client = comes(&mut scene, user, "db");
        answers(&mut scene, 0, &answer);
        assert_eq!(said(&client), "R3");
        types(&client, b"wrong", &mut scene);
        let output = client.borrow().output.clone();
        heard.push(String::from_utf8_lossy(&output).replace(user, "alice"));
    }
    assert!(
        heard[0].contains("28P01") && heard.iter().all(|text| *text == heard[0]),
        "{heard:?}"
    );
    // An unknown database costs the same question, and its answer lets nobody in.
    scene.wait(Duration::from_secs(31));
    let before = asked(&scene);
    let client = comes(&mut scene, "alice", "nowhere");
    scene.serve_last();
    assert_eq!(asked(&scene), before + 1);
    let server = scene.world.servers.len() - 1;
    answers(&mut scene, server, &has("alice", "secret"));
    types(&client, b"secret", &mut scene);
    assert_eq!(said(&client), WRONG);
}

/// CVE-2015-6817, and everything else that is no answer: nobody gets in, and the operator hears why.
#[test]
fn an_answer_that_is_none_lets_nobody_in() {
    let alice: &[Option<&str>] = &[Some("alice"), Some("secret")];
    let mut error = b"E\0\0\0\x20SERROR\0VERROR\0C42501\0Mno\0\0".to_vec();
    error[4] = (error.len() - 1) as u8;
    backend::write_ready(&mut error);
    for answer in [
        has("asker", "secret"),
        has("Alice", "secret"),
        rows(2, &[alice, alice]),
        rows(1, &[&[Some("alice")]]),
        rows(2, &[&[None, Some("secret")]]),
        error,
    ] {
        let mut scene = scene();
        let client = comes(&mut scene, "alice", "db");
        answers(&mut scene, 0, &answer);
        let text = "F0000 user \"alice\" cannot be authenticated: auth_query has failed";
        assert_eq!(said(&client), text);
        // It is not remembered: the next one asks again.
        let client = comes(&mut scene, "alice", "db");
        answers(&mut scene, 0, &has("alice", "secret"));
        assert_eq!(said(&client), "R3");
    }
}

#[test]
fn a_server_that_breaks_over_a_question_is_replaced_once() {
    let mut scene = scene();
    let client = comes(&mut scene, "alice", "db");
    answers(&mut scene, 0, b"G\0\0\0\x07\0\0\0");
    assert!(is_closed(&scene.world.servers[0]));
    scene.serve_last();
    assert_eq!((said(&client).as_str(), asked(&scene)), ("", 2));
    answers(&mut scene, 1, b"Z\0\0\0\x05I");
    assert_eq!(
        said(&client),
        "57P03 user \"alice\" cannot be authenticated now"
    );
    // One that says nothing at all is cancelled, and the question has failed.
    let client = comes(&mut scene, "alice", "db");
    scene.serve_last();
    scene.wait(Duration::from_secs(16));
    assert_eq!(
        said(&client),
        "57P03 user \"alice\" cannot be authenticated now"
    );
    assert_eq!(
        scene.world.servers.len(),
        4,
        "the last one carries a cancel"
    );
}

/// Found by reading: what an operator's query left in the session that asks (a prepared statement, a search_path) was there for the
/// next question, which it broke or answered. Our own query leaves nothing, and costs no round trip more.
#[test]
fn a_question_leaves_nothing_for_the_next_one() {
    let discards = |scene: &Scene| -> usize {
        let servers = scene.world.servers.iter();
        servers
            .map(|server| String::from_utf8_lossy(&server.borrow().output).into_owned())
            .map(|sent| sent.matches("DISCARD ALL").count())
            .sum()
    };
    let own = AUTH.replace(
        "auth_user",
        "auth_query: 'SELECT f($1) FROM pg_authid', auth_user",
    );
    let mut scene = scene_of(&format!("{POOL}{own}"));
    let alice = comes(&mut scene, "alice", "db");
    answers(&mut scene, 0, &has("alice", "x"));
    assert_eq!((said(&alice).as_str(), discards(&scene)), ("R3", 1));
    // Not while it is discarded: another connection is made for the next.
    let _bob = comes(&mut scene, "bob", "db");
    assert_eq!(questions(&scene.world.servers[0]), 1);
    let mut done = Vec::new();
    for tag in ["DISCARD ALL", "RESET"] {
        backend::write_command_complete(&mut done, tag);
        backend::write_ready(&mut done);
    }
    answers(&mut scene, 0, &done);
    let _carol = comes(&mut scene, "carol", "db");
    assert_eq!(questions(&scene.world.servers[0]), 2);
    // What cannot be discarded is not used again.
    let mut error = b"E\0\0\0\x20SERROR\0VERROR\0C25001\0Mno\0\0".to_vec();
    error[4] = (error.len() - 1) as u8;
    answers(&mut scene, 0, &has("carol", "x"));
    answers(&mut scene, 0, &error);
    assert!(is_closed(&scene.world.servers[0]));

    let mut scene = self::scene();
    let _alice = comes(&mut scene, "alice", "db");
    answers(&mut scene, 0, &has("alice", "x"));
    assert_eq!(discards(&scene), 0);
    let _bob = comes(&mut scene, "bob", "db");
    assert_eq!(questions(&scene.world.servers[0]), 2);
}

/// A password that was changed: one in clear is held against the new one at once, others at the next attempt.
#[test]
fn a_login_that_fails_drops_what_was_remembered() {
    let mut scene = scene();
    let client = comes(&mut scene, "alice", "db");
    answers(&mut scene, 0, &has("alice", "old"));
    types(&client, b"old", &mut scene);
    let client = comes(&mut scene, "alice", "db");
    types(&client, b"new", &mut scene);
    assert_eq!(said(&client), "");
    answers(&mut scene, 0, &has("alice", "new"));
    scene.serve_last();
    assert_eq!(asked(&scene), 2);
    assert!(!said(&client).starts_with("28"), "{}", said(&client));
    // A wrong one is wrong after one more question.
    let client = comes(&mut scene, "alice", "db");
    types(&client, b"old", &mut scene);
    answers(&mut scene, 0, &has("alice", "new"));
    assert_eq!((said(&client).as_str(), asked(&scene)), (WRONG, 3));

    let mut scene = scene_of(&format!("{POOL}{}", AUTH.replace("password,", "md5,")));
    let client = comes(&mut scene, "alice", "db");
    answers(&mut scene, 0, &has("alice", "old"));
    assert_eq!(said(&client), "R5");
    let client = comes(&mut scene, "alice", "db");
    types(&client, b"md5wrong", &mut scene);
    assert_eq!((said(&client).as_str(), asked(&scene)), (WRONG, 1));
    let client = comes(&mut scene, "alice", "db");
    assert_eq!((said(&client).as_str(), asked(&scene)), ("", 2));
}

/// R20: strangers cost few connections, however many and whatever they name; under `"*"` that is databases, too.
#[test]
fn what_strangers_cost_is_bounded() {
    let mut scene = scene();
    for number in 0..200 {
        comes(&mut scene, &format!("guess {number}"), "db");
    }
    assert_eq!(
        scene.world.servers.len(),
        limits::LOOKUP_CONNECTIONS_PER_DATABASE
    );
    // The pool's own connections are not touched.
    let config = format!("{POOL}databases: {{\"*\": {{}}}}\n{AUTH}");
    let mut scene = scene_of(&config);
    for number in 0..200 {
        comes(&mut scene, "alice", &format!("guess {number}"));
    }
    assert_eq!(scene.world.servers.len(), limits::LOOKUP_CONNECTIONS_MAX);
}

/// A question of somebody who has gone is not asked.
#[test]
fn those_who_hang_up_are_not_asked_for() {
    let mut scene = scene();
    let clients: Vec<Shared> = (0..9)
        .map(|n| comes(&mut scene, &format!("user {n}"), "db"))
        .collect();
    for client in &clients[2..8] {
        scene.hang_up(client);
    }
    for (server, user) in ["user 0", "user 1"].into_iter().enumerate() {
        scene.ready(&scene.world.servers[server].clone());
        answers(&mut scene, server, &has(user, "x"));
    }
    assert_eq!(asked(&scene), 3);
}

/// Under `"*"` a database that does not exist is as good as an unknown user; a listed one is the operator's mistake.
#[test]
fn a_database_that_does_not_exist_lets_nobody_in() {
    for (entries, expected) in [
        ("databases: {\"*\": {}}\n", "R3"),
        (
            "",
            "F0000 user \"alice\" cannot be authenticated: auth_query has failed",
        ),
    ] {
        let mut greeting = Vec::new();
        Refusal::fatal(b"3D000", "no", Blame::Server).write(&mut greeting);
        let world = World {
            greeting,
            ..World::default()
        };
        let pool = match entries {
            "" => POOL.to_owned(),
            _ => POOL.replace("/db", ""),
        };
        let mut scene = Scene::with(&format!("{pool}{entries}{AUTH}"), world);
        for _ in 0..2 {
            let client = comes(&mut scene, "alice", "db");
            assert_eq!(said(&client), expected);
        }
        assert_eq!(
            scene.world.servers.len(),
            1,
            "it is not tried again at once"
        );
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_waited_for() {
    let mut greeting = Vec::new();
    Refusal::fatal(b"57P03", "starting up", Blame::Server).write(&mut greeting);
    let world = World {
        greeting,
        ..World::default()
    };
    let mut scene = Scene::with(&format!("{POOL}{AUTH}"), world);
    let client = comes(&mut scene, "alice", "db");
    assert_eq!(said(&client), "");
    scene.world.greeting.clear();
    scene.wait(Duration::from_millis(600));
    scene.serve_last();
    assert_eq!(asked(&scene), 1);
    let server = scene.world.servers.len() - 1;
    answers(&mut scene, server, &has("alice", "x"));
    assert_eq!(said(&client), "R3");
}

/// A reload while a question is under way: what is asked otherwise is asked anew, and a database that is gone is told of.
#[test]
fn a_reload_asks_anew_or_tells_that_the_database_is_gone() {
    let mut scene = scene();
    let client = comes(&mut scene, "alice", "db");
    scene.reload(&format!("{POOL}{}", AUTH.replace("asker", "other")));
    assert_eq!(said(&client), "");
    scene.serve_last();
    let server = scene.world.servers.len() - 1;
    answers(&mut scene, server, &has("alice", "x"));
    assert_eq!((said(&client).as_str(), asked(&scene)), ("R3", 2));
    answers(&mut scene, 0, &has("alice", "of another time"));
    assert!(is_closed(&scene.world.servers[0]));

    // The same again keeps what is known; another query does not.
    let again = format!("{POOL}{}", AUTH.replace("asker", "other"));
    scene.reload(&again);
    assert_eq!(said(&comes(&mut scene, "alice", "db")), "R3");
    scene.reload(&again.replace(
        "auth_user",
        "auth_query: 'SELECT f($1) FROM pg_authid', auth_user",
    ));
    let client = comes(&mut scene, "alice", "db");
    assert_eq!(said(&client), "");
    scene.reload(&again.replace("/db", "/other"));
    assert_eq!(
        said(&client),
        "57P01 database \"db\" was removed from the pooler's configuration"
    );
}

/// Under trust, peer and cert a row is what makes a user known, as with PgBouncer; the list of users still counts.
#[test]
fn where_no_password_is_asked_for_a_row_makes_a_user_known() {
    let auth = AUTH.replace("password, auth", "trust, users: {bob: x}, auth");
    let mut scene = scene_of(&format!("{POOL}{auth}"));
    let client = comes(&mut scene, "alice", "db");
    answers(&mut scene, 0, &rows(2, &[&[Some("alice"), None]]));
    scene.serve_last();
    assert_eq!(said(&client), "R0");
    let client = comes(&mut scene, "carol", "db");
    answers(&mut scene, 0, &rows(2, &[]));
    assert!(said(&client).starts_with("28P01"), "{}", said(&client));
    let before = asked(&scene);
    let _bob = comes(&mut scene, "bob", "db");
    assert_eq!(asked(&scene), before);
}

/// The console has no database of its own to ask in.
#[test]
fn the_console_takes_users_from_auth_dbname_if_they_are_listed() {
    let admin = "admin: {users: [alice]}\n";
    let mut scene = scene_of(&format!("{POOL}{AUTH}{admin}"));
    let client = comes(&mut scene, "alice", "aether");
    assert_eq!((said(&client).as_str(), asked(&scene)), ("R3", 0));
    types(&client, b"secret", &mut scene);
    assert_eq!(said(&client), WRONG);

    let auth = AUTH.replace("auth_user", "auth_dbname: db, auth_user");
    let mut scene = scene_of(&format!("{POOL}{auth}{admin}"));
    for (user, expected) in [
        ("alice", "R0"),
        ("carol", "42501 user \"carol\" may not use the console"),
    ] {
        let client = comes(&mut scene, user, "aether");
        answers(&mut scene, 0, &has(user, "secret"));
        types(&client, b"secret", &mut scene);
        assert_eq!(said(&client), expected);
    }
}

/// The rule decides the method, the query who is known: here with a name that the kernel tells.
#[test]
fn rules_hold_for_those_who_are_looked_up() {
    let files = vec![(
        "hba".to_owned(),
        "local all all peer\nhost all all all password\n".to_owned(),
    )];
    let auth = AUTH.replace("type: password", "hba_file: hba");
    let mut scene = Scene::with_files(&format!("{POOL}{auth}"), files, World::default());
    let local = Facts {
        address: "unix".to_owned(),
        peer_uid: Some(42),
        ..Facts::default()
    };
    for (answer, expected) in [
        (
            rows(2, &[]),
            "28000 Peer authentication failed for user \"alice\"",
        ),
        (has("alice", "secret"), "R0"),
    ] {
        let client = scene.client_from(local.clone(), &[(b"user", b"alice"), (b"database", b"db")]);
        let (_, key) = scene.world.users.pop().expect("its name is asked for");
        let name = Ok("alice".to_owned());
        scene.turn(vec![Event::UserNamed { key, name }]);
        scene.serve_last();
        assert_eq!(said(&client), "");
        answers(&mut scene, 0, &answer);
        scene.serve_last();
        assert_eq!(said(&client), expected);
        scene.wait(Duration::from_secs(2));
    }
    let tcp = Facts {
        address: "10.0.0.1".to_owned(),
        ..Facts::default()
    };
    let client = scene.client_from(tcp, &[(b"user", b"alice"), (b"database", b"db")]);
    assert_eq!(said(&client), "R3");
}

/// Each server that was to ask was closed as idle before it had, and another one dialled, as fast as the network goes.
#[test]
fn a_stop_that_waits_for_servers_is_no_storm_of_look_ups() {
    let mut scene = scene();
    let parameters: [(&[u8], &[u8]); 2] = [(b"user", b"alice"), (b"database", b"db")];
    let client = scene.late_client(Facts::default(), &parameters);
    scene.ready(&client);
    assert_eq!(scene.world.servers.len(), 1, "it is being dialled");
    scene.turn(vec![Event::Shutdown(
        super::super::Shutdown::WaitForServers,
    )]);
    for _ in 0..100 {
        scene.serve_last();
    }
    assert!(
        scene.world.servers.len() <= 2,
        "{} were dialled, {} asked, {:?}",
        scene.world.servers.len(),
        asked(&scene),
        said(&client)
    );
}

/// Nobody could log in elsewhere until the idle server of the first look-up was closed for its age.
#[test]
fn idle_servers_make_room_for_a_look_up_as_the_same_role() {
    let config = format!(
        "pool: {{dsn: 'postgres://127.0.0.1?sslmode=disable', check_query: null}}\ndatabases: {{db: {{}}, other: {{}}}}\n\
         users: {{'*': {{max_connections: 1}}}}\n{AUTH}"
    );
    let mut scene = scene_of(&config);
    let first = comes(&mut scene, "alice", "db");
    answers(&mut scene, 0, &has("alice", "secret"));
    assert_eq!(said(&first), "R3");
    let second = comes(&mut scene, "bob", "other");
    for _ in 0..20 {
        scene.wait(Duration::from_secs(1));
        scene.serve_last();
    }
    assert_eq!(asked(&scene), 2, "{:?}", said(&second));
}

/// Who waits for an answer of a server that is starting up, with an `acquire_timeout` of five seconds.
fn asks_in_vain() -> (Scene, Shared) {
    let mut greeting = Vec::new();
    Refusal::fatal(b"57P03", "starting up", Blame::Server).write(&mut greeting);
    let world = World {
        greeting,
        ..World::default()
    };
    let pool = POOL.replace(
        "check_query: null",
        "check_query: null, acquire_timeout: 5s",
    );
    let mut scene = Scene::with(&format!("{pool}{AUTH}"), world);
    let client = comes(&mut scene, "alice", "db");
    (scene, client)
}

#[test]
fn a_question_waits_for_resume_whatever_had_failed_before() {
    let (mut scene, client) = asks_in_vain();
    scene.engine.pause(pause::Scope::All);
    scene.turn(Vec::new());
    for _ in 0..10 {
        scene.wait(Duration::from_secs(1));
    }
    let text = said(&client);
    assert!(text.is_empty(), "{text}");
}

#[test]
fn a_question_is_not_charged_with_a_suspension() {
    let (mut scene, client) = asks_in_vain();
    scene.wait(Duration::from_secs(1));
    scene.engine.suspend().expect("nothing is held");
    scene.turn(Vec::new());
    scene.wait(Duration::from_secs(10));
    scene.engine.resume(pause::Scope::All);
    scene.turn(Vec::new());
    let text = said(&client);
    assert!(text.is_empty(), "{text}");
    for _ in 0..10 {
        scene.wait(Duration::from_secs(1));
        scene.serve_last();
    }
    let text = said(&client);
    assert!(text.starts_with("57P03"), "its time goes on: {text}");
}
