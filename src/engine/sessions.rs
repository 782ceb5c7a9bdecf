//! What sessions begin with, as the configuration has it: startup parameters, what servers run first, notices, what may be sent.
//! Only tests; the rules are `pool::startup_set`'s, `dial`'s and `relay`'s.

use std::time::Duration;

use super::scene::{Scene, Shared, World, is_closed, said};
use super::{Facts, Scope, ms};
use crate::wire::refusal::Refusal;
use crate::wire::{backend, frontend};

fn text(keys: &str, more: &str) -> String {
    format!(
        "pool: {{dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable', check_query: null{keys}}}\n\
         auth: {{type: trust, allow_insecure: true}}\nadmin: {{users: [me]}}\n{more}"
    )
}

fn scene_of(keys: &str, more: &str) -> Scene {
    let mut scene = Scene::with(&text(keys, more), World::default());
    scene.engine.contain(false);
    scene
}

fn output(pipe: &Shared) -> String {
    String::from_utf8_lossy(&pipe.borrow().output).into_owned()
}

fn query(sql: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frontend::query(&mut bytes, sql);
    bytes
}

const PACKET: &[(&str, &str)] = &[
    ("extra_float_digits", "3"),
    ("geqo", "off"),
    ("options", "-c jit=off -c DateStyle=SQL"),
];

#[test]
fn ignored_startup_parameters_do_not_reach_the_server() {
    let packet = |ignored: &str| {
        let mut scene = scene_of(&format!(", ignore_startup_parameters: [{ignored}]"), "");
        let _client = scene.client_with("db", PACKET);
        output(&scene.world.servers[0])
    };
    let whole = packet("");
    assert!(
        whole.contains("extra_float_digits") && whole.contains("jit") && whole.contains("geqo")
    );
    let some = packet("Extra_Float_Digits, jit");
    assert!(!some.contains("extra_float_digits") && !some.contains("jit"));
    assert!(some.contains("geqo") && some.contains("DateStyle=SQL"));
    let options = packet("options");
    assert!(
        !options.contains("jit") && options.contains("geqo") && options.contains("DateStyle=SQL")
    );
}

/// Clients that differ only in what is ignored share their servers.
#[test]
fn what_is_ignored_parts_nobody() {
    let mut scene = scene_of(", mode: transaction, ignore_startup_parameters: [geqo]", "");
    for value in ["on", "off"] {
        let client = scene.client_with("db", &[("geqo", value)]);
        scene.say(&client, &query(b"select 1"));
        let server = scene.world.servers[0].clone();
        let mut answer = Vec::new();
        backend::write_command_complete(&mut answer, "SELECT 1");
        backend::write_ready(&mut answer);
        scene.say(&server, &answer);
    }
    assert_eq!(scene.world.servers.len(), 1);
}

#[test]
fn the_address_of_a_client_is_added_to_its_application_name() {
    let named = |key: &str, parameters: &[(&[u8], &[u8])]| {
        let mut scene = scene_of(
            "",
            &format!("server: {{application_name_add_host: {key}}}\n"),
        );
        let facts = Facts {
            address: "192.0.2.7".to_owned(),
            port: 4711,
            ..Facts::default()
        };
        let own: [(&[u8], &[u8]); 2] = [(b"user", b"me"), (b"database", b"db")];
        let _client = scene.client_from(facts, &[&own, parameters].concat());
        output(&scene.world.servers[0])
    };
    assert!(named("true", &[]).contains("application_name\0app - 192.0.2.7:4711\0"));
    let psql = named("true", &[(b"application_name", b"psql")]);
    assert!(
        psql.contains("application_name\0psql - 192.0.2.7:4711\0"),
        "{psql}"
    );
    assert!(!named("false", &[]).contains("192.0.2.7"));
}

#[test]
fn those_who_have_logged_in_are_told_what_they_are_to_know() {
    let mut scene = scene_of("", "server: {login_notify_message: 'maintenance at 9'}\n");
    for client in [scene.client(), scene.console()] {
        let output = output(&client);
        let notice = output.find("Mmaintenance at 9").expect("it is told");
        let ready = output.rfind("Z\0\0\0\x05I").expect("it is ready");
        assert!(notice < ready, "{output}");
    }
    scene.reload(&text("", ""));
    let late = scene.client_with("db", &[]);
    assert!(!output(&late).contains("maintenance"));
}

#[test]
fn simple_queries_are_refused_where_they_are_disabled() {
    for mode in ["session", "transaction"] {
        let mode = format!(", mode: {mode}");
        let mut scene = scene_of(&mode, "");
        let early = scene.client();
        scene.reload(&text(&format!("{mode}, disable_pqexec: true"), ""));
        let late = scene.client();
        for client in [early, late] {
            client.borrow_mut().output.clear();
            scene.say(&client, &query(b"select 1"));
            scene.serve_last();
            assert!(
                said(&client).starts_with("0A000 PQexec disallowed"),
                "{}",
                said(&client)
            );
        }
        assert!(!output(&scene.world.servers[0]).contains("select 1"));
    }
}

#[test]
fn a_message_that_is_larger_than_max_packet_size_is_refused() {
    for mode in ["session", "transaction"] {
        let mut scene = scene_of(&format!(", mode: {mode}, max_packet_size: 100"), "");
        for (length, passes) in [(95, true), (96, false)] {
            let client = scene.client();
            client.borrow_mut().output.clear();
            // Its length word counts itself and the zero byte at the end.
            scene.say(&client, &query(&vec![b' '; length]));
            scene.serve_last();
            assert_eq!(
                said(&client).is_empty(),
                passes,
                "{mode} {length}: {}",
                said(&client)
            );
            let mut bye = Vec::new();
            frontend::terminate(&mut bye);
            if passes {
                let server = scene.world.servers.last().cloned().expect("a server");
                let mut answer = Vec::new();
                backend::write_empty_query(&mut answer);
                backend::write_ready(&mut answer);
                scene.say(&server, &answer);
            }
            scene.say(&client, &bye);
        }
    }
}

#[test]
fn an_answer_that_is_larger_than_max_packet_size_ends_the_connection() {
    for mode in ["session", "transaction"] {
        for (size, passes) in [(90, true), (91, false), (9_000, false)] {
            let mut scene = scene_of(&format!(", mode: {mode}, max_packet_size: 100"), "");
            let client = scene.client();
            scene.say(&client, &query(b"select 1"));
            let server = scene.world.servers[0].clone();
            client.borrow_mut().output.clear();
            let mut answer = Vec::new();
            let cell = vec![b'x'; size];
            // A row of one column: 4 + 2 + 4 + size.
            crate::wire::frame::message(&mut answer, b'D', |row| {
                row.extend(1_u16.to_be_bytes());
                row.extend((size as u32).to_be_bytes());
                row.extend(&cell);
            });
            backend::write_command_complete(&mut answer, "SELECT 1");
            backend::write_ready(&mut answer);
            scene.say(&server, &answer);
            let got = output(&client);
            assert_eq!(is_closed(&server), !passes, "{mode} {size}");
            assert_eq!(got.contains("answer of the server is too large"), !passes);
            assert_eq!(got.contains("xxxx"), passes, "nothing of it came before");
        }
    }
}

/// PgBouncer's `server_fast_close`: who keeps a server that is to be replaced loses it between two transactions.
#[test]
fn with_server_fast_close_a_session_ends_with_its_transaction_when_its_server_is_replaced() {
    let retire = |scene: &mut Scene| {
        scene.engine.reconnect(Scope::All);
        scene.turn(Vec::new());
    };
    let config = |fast: bool| text(&format!(", mode: session, server_fast_close: {fast}"), "");
    for fast in [false, true] {
        let mut scene = Scene::with(&config(fast), World::default());
        scene.engine.contain(false);
        let (idle, busy) = (scene.client(), scene.client());
        for client in [&idle, &busy] {
            scene.say(client, &query(b"begin"));
        }
        let servers = scene.world.servers.clone();
        let says = |scene: &mut Scene, server: &Shared, status: u8| {
            let mut answer = Vec::new();
            backend::write_command_complete(&mut answer, "BEGIN");
            backend::write_ready(&mut answer);
            *answer.last_mut().expect("its status") = status;
            scene.say(server, &answer);
        };
        says(&mut scene, &servers[0], b'I');
        says(&mut scene, &servers[1], b'T');
        retire(&mut scene);
        let is_over = |client: &Shared| output(client).contains("57P01");
        assert_eq!((is_over(&idle), is_over(&busy)), (fast, false));
        scene.say(&busy, &query(b"commit"));
        assert!(!is_over(&busy), "its answer comes first");
        says(&mut scene, &servers[1], b'I');
        assert_eq!(is_over(&busy), fast);
        if !fast {
            scene.reload(&config(true));
            assert!(
                is_over(&idle) && is_over(&busy),
                "it was to be replaced already"
            );
        }
    }
}

/// What a server says to `connect_query`.
fn prepared(status: u8, more: &[u8]) -> Vec<u8> {
    let mut answer = more.to_vec();
    backend::write_command_complete(&mut answer, "SET");
    backend::write_parameter_status(&mut answer, b"TimeZone", b"CET");
    backend::write_ready(&mut answer);
    *answer.last_mut().expect("its last byte") = status;
    answer
}

#[test]
fn a_server_runs_connect_query_before_anybody_has_it() {
    let mut error = Vec::new();
    Refusal::error(b"42601", "syntax error").write(&mut error);
    for more in [&[][..], &error] {
        let mut scene = scene_of(", connect_query: \"SET timezone = 'CET'\"", "");
        let client = scene.client();
        let server = scene.world.servers[0].clone();
        assert!(output(&server).contains("SET timezone = 'CET'"));
        assert!(said(&client).is_empty(), "it waits");
        scene.say(&server, &prepared(b'I', more));
        assert!(
            output(&client).contains("TimeZone\0CET\0"),
            "{}",
            output(&client)
        );
        scene.works(&client, &server);
        let query = "connect_query: \"SET timezone = 'UTC'\"";
        scene.reload(&text(&format!(", {query}"), ""));
        let mut bye = Vec::new();
        frontend::terminate(&mut bye);
        scene.say(&client, &bye);
        assert!(is_closed(&server), "it has run another one");
    }
}

#[test]
fn a_server_that_does_not_come_to_the_end_of_connect_query_is_given_up() {
    let keys = ", connect_query: 'select pg_sleep(9)', connect_timeout: 2s";
    let mut scene = scene_of(keys, "");
    let client = scene.client();
    let first = scene.world.servers[0].clone();
    scene.wait(ms(1_900));
    assert!(!is_closed(&first));
    scene.wait(ms(200));
    assert!(is_closed(&first));
    assert!(!is_closed(&client), "the next one may");
    scene.wait(Duration::from_secs(1));
    let second = scene.world.servers.last().cloned().expect("another one");
    scene.ready(&second);
    scene.say(&second, &prepared(b'T', &[]));
    assert!(is_closed(&second), "a transaction is open");
    assert!(said(&client).starts_with("08P01"), "{}", said(&client));
}

#[test]
fn a_pool_that_was_made_for_a_name_is_forgotten_when_it_was_not_used_for_long() {
    let config = |timeout: &str| {
        format!(
            "databases: {{'*': {{dsn: 'postgres://me:secret@127.0.0.1?sslmode=disable', max_idle_time: 1s}}}}\n\
             auth: {{type: trust, allow_insecure: true}}\nserver: {{autodb_idle_timeout: {timeout}}}\n"
        )
    };
    for (timeout, kept) in [("10s", false), ("0", true)] {
        let mut scene = Scene::with(&config(timeout), World::default());
        let client = scene.client_with("some", &[]);
        let server = scene.world.servers[0].clone();
        scene.works(&client, &server);
        scene.wait(Duration::from_secs(60));
        assert_eq!(scene.engine.pools().len(), 1);
        let mut bye = Vec::new();
        frontend::terminate(&mut bye);
        scene.say(&client, &bye);
        let mut answer = Vec::new();
        for _ in 0..2 {
            backend::write_command_complete(&mut answer, "OK");
            backend::write_ready(&mut answer);
        }
        scene.say(&server, &answer);
        scene.wait(Duration::from_millis(1_500));
        assert!(is_closed(&server), "it was idle for too long");
        scene.wait(Duration::from_secs(9));
        assert_eq!(
            scene.engine.pools().len(),
            1,
            "{timeout}: it is kept for a while"
        );
        scene.wait(Duration::from_secs(2));
        assert_eq!(scene.engine.pools().len(), usize::from(kept), "{timeout}");
    }
}
