//! Each limit in time on its boundary: a millisecond before it nothing has happened, and then it has.

use std::time::Duration;

use super::super::scene::{Scene, Shared, World, is_closed, said};
use super::super::{Facts, Tick};
use super::*;
use crate::wire::{backend, frontend};

const SECOND: Duration = Duration::from_secs(1);

/// One pool with these keys, and what follows it.
fn text(keys: &str, more: &str) -> String {
    format!(
        "pool: {{dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable', max_connections: 1, query_wait_notify: 0{keys}}}\n\
         auth: {{type: trust, allow_insecure: true}}\n{more}"
    )
}

fn scene_of(keys: &str, more: &str) -> Scene {
    let mut scene = Scene::with(&text(keys, more), World::default());
    scene.engine.contain(false);
    scene
}

const SHARED: &str = ", mode: transaction";

fn query(sql: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frontend::query(&mut bytes, sql);
    bytes
}

/// An answer, after which the server is in this state.
fn answer(status: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    backend::write_command_complete(&mut bytes, "OK");
    backend::write_ready(&mut bytes);
    *bytes.last_mut().expect("its last byte") = status;
    bytes
}

fn server(scene: &Scene, at: usize) -> Shared {
    scene.world.servers[at].clone()
}

fn output(pipe: &Shared) -> String {
    String::from_utf8_lossy(&pipe.borrow().output).into_owned()
}

/// Lets time go by until `limit` after `start`, and a millisecond before that looks that nothing has come of it.
fn passes(scene: &mut Scene, start: Tick, limit: Duration, has_come: impl Fn(&Scene) -> bool) {
    let end = start.plus(limit);
    let before = Duration::from_micros(end.since(scene.engine.now())) - ms(2);
    scene.wait(before);
    assert_eq!(scene.engine.now().plus(ms(1)), end);
    assert!(
        !has_come(scene),
        "too early, {before:?} after the last step"
    );
    scene.wait(Duration::ZERO);
    assert!(has_come(scene), "late");
}

/// As [`passes`], until a client is closed with this code and text.
fn ends(scene: &mut Scene, start: Tick, limit: Duration, client: &Shared, text: &str) {
    client.borrow_mut().output.clear();
    passes(scene, start, limit, |_| said(client) == text);
}

#[test]
fn query_timeout_ends_the_query_the_client_and_the_server() {
    let mut scene = scene_of(", query_timeout: 1s", "");
    let client = scene.client();
    scene.say(&client, &query(b"select pg_sleep(9)"));
    let start = scene.engine.now();
    ends(&mut scene, start, SECOND, &client, "57014 query timeout");
    let (first, cancel) = (server(&scene, 0), server(&scene, 1));
    assert!(is_closed(&first), "the server is closed");
    assert!(output(&first).ends_with("X\0\0\0\x04"), "in good order");
    scene.ready(&cancel);
    assert_eq!(
        cancel.borrow().output.get(4..8),
        Some(&80_877_102_u32.to_be_bytes()[..])
    );
}

/// Catalogue 47 (PgBouncer 1395, 125): it fired with no query in flight.
#[test]
fn query_timeout_does_not_run_between_queries_nor_over_all_of_a_pipeline() {
    for mode in ["", SHARED] {
        let mut scene = scene_of(&format!("{mode}, query_timeout: 1s"), "");
        let client = scene.client();
        scene.say(&client, &query(b"begin"));
        scene.serve_last();
        let server = server(&scene, 0);
        scene.say(&server, &answer(b'T'));
        scene.wait(10 * SECOND);
        let pipeline = query(b"select 1").repeat(3);
        scene.say(&client, &pipeline);
        for _ in 0..3 {
            scene.wait(ms(900));
            assert!(!is_closed(&client), "each query has its own second");
            scene.say(&server, &answer(b'T'));
        }
        scene.wait(10 * SECOND);
        assert!(!is_closed(&client));
        scene.say(&client, &query(b"select 2"));
        let start = scene.engine.now();
        ends(&mut scene, start, SECOND, &client, "57014 query timeout");
    }
}

#[test]
fn query_timeout_holds_for_a_query_that_waits_and_for_one_whose_client_is_gone() {
    let keys = format!("{SHARED}, query_timeout: 2s, abandoned_query_timeout: 0");
    let mut scene = scene_of(&keys, "");
    let first = scene.client();
    let mut bytes = query(b"select 1");
    frontend::terminate(&mut bytes);
    let second = scene.client();
    scene.say(&first, &bytes); // it goes, and its query runs on
    let begun = scene.engine.now();
    scene.wait(SECOND);
    scene.say(&second, &query(b"select 2"));
    let waits = scene.engine.now();
    let holder = server(&scene, 0);
    scene.world.unreachable = Some("gone".to_owned());
    passes(&mut scene, begun, 2 * SECOND, |_| is_closed(&holder));
    let client = second.clone();
    passes(&mut scene, waits, 2 * SECOND, |_| {
        output(&client).contains("query_timeout")
    });
}

#[test]
fn transaction_timeout_counts_from_the_first_query_of_each_transaction() {
    for mode in ["", SHARED] {
        let mut scene = scene_of(&format!("{mode}, transaction_timeout: 2s"), "");
        let client = scene.client();
        scene.say(&client, &query(b"begin"));
        let start = scene.engine.now();
        scene.serve_last();
        let server = server(&scene, 0);
        scene.say(&server, &answer(b'T'));
        scene.wait(ms(1_500));
        scene.say(&client, &query(b"commit"));
        scene.say(&server, &answer(b'I'));
        assert!(scene.engine.now() < start.plus(2 * SECOND));
        scene.wait(10 * SECOND);
        assert!(!is_closed(&client), "outside of a transaction nothing runs");
        scene.say(&client, &query(b"begin"));
        let start = scene.engine.now();
        scene.say(&server, &answer(b'T'));
        scene.wait(SECOND);
        scene.say(&client, &query(b"select 1"));
        ends(
            &mut scene,
            start,
            2 * SECOND,
            &client,
            "25P04 transaction timeout",
        );
        assert!(is_closed(&server));
    }
}

#[test]
fn idle_transaction_timeout_counts_from_the_last_word_within_the_transaction() {
    for status in [b'T', b'E'] {
        let mut scene = scene_of(", idle_transaction_timeout: 1s", "");
        let client = scene.client();
        let server = server(&scene, 0);
        scene.say(&client, &query(b"begin"));
        scene.wait(5 * SECOND);
        assert!(!is_closed(&client), "it is the server that takes its time");
        scene.say(&server, &answer(status));
        scene.wait(ms(900));
        scene.say(&client, &query(b"select 1"));
        scene.say(&server, &answer(status));
        let start = scene.engine.now();
        ends(
            &mut scene,
            start,
            SECOND,
            &client,
            "25P03 idle transaction timeout",
        );
        assert!(is_closed(&server));
        assert_eq!(scene.world.servers.len(), 1, "there is nothing to cancel");
    }
}

#[test]
fn client_idle_timeout_counts_outside_of_transactions_with_and_without_a_server() {
    for mode in ["", SHARED] {
        let mut scene = scene_of(&format!("{mode}, client_idle_timeout: 1s"), "");
        let client = scene.client();
        scene.say(&client, &query(b"begin"));
        scene.serve_last();
        let server = server(&scene, 0);
        scene.say(&server, &answer(b'T'));
        scene.wait(5 * SECOND);
        assert!(!is_closed(&client), "{mode}: within a transaction");
        scene.say(&client, &query(b"commit"));
        scene.say(&server, &answer(b'I'));
        let start = scene.engine.now();
        let text = "57P05 terminating connection due to idle-session timeout";
        ends(&mut scene, start, SECOND, &client, text);
        assert!(!is_closed(&server), "{mode}: the server is kept");
    }
}

#[test]
fn acquire_timeout_ends_the_wait_and_query_wait_notify_tells_of_it_once() {
    let keys = format!("{SHARED}, acquire_timeout: 3s, query_wait_notify: 1s");
    let mut scene = Scene::with(
        &text("", "").replace(", query_wait_notify: 0", &keys),
        World::default(),
    );
    let first = scene.client();
    scene.say(&first, &query(b"select 1"));
    let second = scene.client();
    scene.say(&second, &query(b"select 1"));
    let start = scene.engine.now();
    let notices = |client: &Shared| output(client).matches("client being queued").count();
    let client = second.clone();
    passes(&mut scene, start, SECOND, |_| notices(&client) == 1);
    assert!(output(&second).contains("SNOTICE\0VNOTICE\0C00000\0MNo server connection available"));
    passes(&mut scene, start, 3 * SECOND, |_| {
        output(&client).contains("C53300")
    });
    assert_eq!((notices(&second), notices(&first)), (1, 0));
    assert!(output(&second).contains("acquire_timeout"));
}

#[test]
fn who_waits_for_the_welcome_is_told_nothing_before_it() {
    let mut scene = Scene::with(
        &text(", acquire_timeout: 3s", "").replace("notify: 0", "notify: 1s"),
        World::default(),
    );
    let _first = scene.client();
    let second = scene.client();
    let start = scene
        .engine
        .clients()
        .iter()
        .last()
        .expect("the second")
        .1
        .since();
    let client = second.clone();
    passes(&mut scene, start, 3 * SECOND, |_| {
        output(&client).contains("C53300")
    });
    assert!(!output(&second).contains("NOTICE"), "{}", output(&second));
}

#[test]
fn client_login_timeout_counts_from_the_connection() {
    let scene_and_client = || {
        let auth = "server: {client_login_timeout: 2s}\n";
        let mut scene = Scene::with(
            &text("", auth).replace("trust", "password, users: {me: x}"),
            World::default(),
        );
        let client = scene.late_client(Facts::default(), &[(b"user", b"me"), (b"database", b"db")]);
        let start = scene.engine.now();
        scene.ready(&client);
        (scene, client, start)
    };
    let (mut scene, client, start) = scene_and_client();
    let told = "57014 canceling authentication due to timeout";
    ends(&mut scene, start, 2 * SECOND, &client, told);
    // A limit that is lowered holds for those who are there.
    let (mut scene, client, start) = scene_and_client();
    let shorter = text("", "server: {client_login_timeout: 1s}\n");
    scene.reload(&shorter.replace("trust", "password, users: {me: x}"));
    ends(&mut scene, start, SECOND, &client, told);
}

#[test]
fn connect_timeout_gives_up_an_attempt() {
    let world = World {
        greeting: b"N".to_vec(),
        ..World::default()
    }; // the start of a notice, and no more
    let mut scene = Scene::with(&text(", connect_timeout: 2s", ""), world);
    let _client = scene.client();
    let (first, start) = (
        server(&scene, 0),
        scene.engine.servers().iter().next().expect("one").1.since(),
    );
    passes(&mut scene, start, 2 * SECOND, |_| is_closed(&first));
}

/// Each pause is twice the one before, up to `server_login_retry`; the first one is short whatever that is.
#[test]
fn server_login_retry_is_the_longest_pause_between_attempts() {
    for (key, expected) in [
        ("", &[50, 100, 200, 400, 500, 500][..]),
        (
            ", server_login_retry: 2s",
            &[50, 100, 200, 400, 800, 1_600, 2_000, 2_000],
        ),
        (", server_login_retry: 0", &[50, 50, 50, 50]),
    ] {
        let world = World {
            unreachable: Some("gone".to_owned()),
            ..World::default()
        };
        let mut scene = Scene::with(&text(key, ""), world);
        let own: [(&[u8], &[u8]); 2] = [(b"user", b"me"), (b"database", b"db")];
        scene.late_client(Facts::default(), &own);
        for &pause in expected {
            let attempts = |scene: &Scene| {
                let (_, pool) = scene.engine.pools().iter().next().expect("a pool");
                pool.failure.as_ref().expect("it fails").attempts
            };
            let (start, before) = (scene.engine.now(), attempts(&scene));
            passes(&mut scene, start, ms(pause), |scene| {
                attempts(scene) == before + 1
            });
        }
    }
}

#[test]
fn idle_servers_are_closed_after_max_idle_time_and_others_after_max_lifetime() {
    let mut scene = scene_of(&format!("{SHARED}, max_idle_time: 3s, max_lifetime: 0"), "");
    let _client = scene.client();
    let (first, start) = (server(&scene, 0), scene.engine.now());
    passes(&mut scene, start, 3 * SECOND, |_| is_closed(&first));

    // Each use begins the time anew, whatever the wheel was told before.
    let mut scene = scene_of(&format!("{SHARED}, max_idle_time: 3s, max_lifetime: 0"), "");
    let (client, first) = (scene.client(), server(&scene, 0));
    for _ in 0..5 {
        scene.wait(2 * SECOND);
        scene.works(&client, &first);
    }
    let start = scene.engine.now();
    passes(&mut scene, start, 3 * SECOND, |_| is_closed(&first));

    let mut scene = scene_of(
        &format!("{SHARED}, max_idle_time: 0, max_lifetime: 10s"),
        "",
    );
    let _client = scene.client();
    let (first, retire_at) = (
        server(&scene, 0),
        scene
            .engine
            .servers()
            .iter()
            .next()
            .expect("one")
            .1
            .retire_at,
    );
    let retire_at = retire_at.expect("it has an age limit");
    let start = scene.engine.now();
    assert!(retire_at > start.plus(7 * SECOND) && retire_at <= start.plus(10 * SECOND));
    let left = Duration::from_micros(retire_at.since(start)).as_millis();
    let left = Duration::from_millis(u64::try_from(left).expect("few"));
    scene.wait(left - ms(2));
    assert!(!is_closed(&first));
    scene.wait(ms(1));
    assert!(is_closed(&first));
}

#[test]
fn check_delay_is_how_long_a_server_may_be_idle_unchecked() {
    for (delay, wait, checked) in [
        ("2s", ms(1_990), false),
        ("2s", ms(2_010), true),
        ("0", ms(0), true),
    ] {
        let mut scene = scene_of(
            &format!("{SHARED}, check_delay: {delay}, check_query: 'select 7'"),
            "",
        );
        let client = scene.client();
        let server = server(&scene, 0);
        scene.wait(wait);
        scene.say(&client, &query(b"select 1"));
        assert_eq!(
            output(&server).contains("select 7"),
            checked,
            "{delay} {wait:?}"
        );
        assert_eq!(
            output(&server).contains("select 1"),
            !checked,
            "{delay} {wait:?}"
        );
    }
}

#[test]
fn a_check_and_a_reset_have_their_time() {
    let mut scene = scene_of(&format!("{SHARED}, check_delay: 1s, check_timeout: 2s"), "");
    let client = scene.client();
    let first = server(&scene, 0);
    scene.wait(5 * SECOND);
    scene.say(&client, &query(b"select 1"));
    let start = scene.engine.now();
    passes(&mut scene, start, 2 * SECOND, |_| is_closed(&first));

    let mut scene = scene_of(", reset_timeout: 2s", "");
    let client = scene.client();
    let first = server(&scene, 0);
    scene.works(&client, &first);
    let mut bye = Vec::new();
    frontend::terminate(&mut bye);
    scene.say(&client, &bye);
    let start = scene.engine.now();
    passes(&mut scene, start, 2 * SECOND, |_| is_closed(&first));
}

#[test]
fn an_abandoned_query_is_cancelled_after_its_time() {
    let mut scene = scene_of(", abandoned_query_timeout: 2s", "");
    let client = scene.client();
    let first = server(&scene, 0);
    let mut bytes = query(b"select 1");
    frontend::terminate(&mut bytes);
    scene.say(&client, &bytes);
    let start = scene.engine.now();
    passes(&mut scene, start, 2 * SECOND, |_| is_closed(&first));
    assert_eq!(scene.world.servers.len(), 2, "a cancel went out");
}

#[test]
fn cancel_wait_timeout_gives_up_a_cancel_that_does_not_get_through() {
    for (limit, wait) in [("2s", 2 * SECOND), ("0", SECOND)] {
        let mut scene = scene_of("", &format!("server: {{cancel_wait_timeout: {limit}}}\n"));
        let client = scene.client();
        scene.say(&client, &query(b"select 1"));
        let said = client.borrow().output.clone();
        let at = said
            .windows(5)
            .position(|part| part[0] == b'K' && part[1..4] == [0; 3])
            .expect("its key");
        let key = said[at + 5..at + 1 + usize::from(said[at + 4])].to_vec();
        let mut packet = Vec::new();
        frontend::cancel_request(
            &mut packet,
            u32::from_be_bytes(key[..4].try_into().expect("four")),
            &key[4..],
        );
        let asker = Shared::default();
        asker.borrow_mut().input.extend(packet);
        scene.arrive(&asker);
        let start = scene.engine.now();
        let cancel = server(&scene, 1);
        cancel.borrow_mut().stuck = true;
        if limit == "0" {
            scene.wait(3_600 * SECOND);
            assert!(!is_closed(&asker) && !is_closed(&cancel), "0 is off");
        } else {
            passes(&mut scene, start, wait, |_| {
                is_closed(&asker) && is_closed(&cancel)
            });
        }
    }
}

/// Catalogue 48: 0 meant something else than off.
#[test]
fn autodb_idle_timeout_counts_from_when_the_last_server_has_gone() {
    let keys = "databases: {'*': {dsn: 'postgres://me:secret@127.0.0.1?sslmode=disable', max_idle_time: 1s}}\n\
                auth: {type: trust, allow_insecure: true}\nserver: {autodb_idle_timeout: 10s}\n";
    let mut scene = Scene::with(keys, World::default());
    let client = scene.client_with("some", &[]);
    let server = server(&scene, 0);
    scene.works(&client, &server);
    let mut bye = Vec::new();
    frontend::terminate(&mut bye);
    scene.say(&client, &bye);
    scene.say(&server, &[answer(b'I'), answer(b'I')].concat());
    let start = scene.engine.now();
    passes(&mut scene, start, SECOND, |_| is_closed(&server));
    let start = scene.engine.now();
    passes(&mut scene, start, 10 * SECOND, |scene| {
        scene.engine.pools().is_empty()
    });
}

#[test]
fn suspend_timeout_closes_who_does_not_take_what_was_sent() {
    for (timeout, limit) in [("3s", Some(3 * SECOND)), ("0", None)] {
        let more = format!("server: {{suspend_timeout: {timeout}}}\n");
        let mut scene = scene_of(SHARED, &more);
        let client = scene.client();
        scene.say(&client, &query(b"select 1"));
        client.borrow_mut().stuck = true;
        let server = server(&scene, 0);
        scene.say(&server, &answer(b'I'));
        scene.engine.suspend().expect("nothing is held");
        let start = scene.engine.now();
        match limit {
            Some(limit) => passes(&mut scene, start, limit, |_| is_closed(&client)),
            None => {
                scene.wait(3_600 * SECOND);
                assert!(!is_closed(&client));
            }
        }
    }
}

#[test]
fn zero_is_off_everywhere() {
    let off = "query_timeout: 0, transaction_timeout: 0, idle_transaction_timeout: 0, client_idle_timeout: 0, acquire_timeout: 0, \
               max_idle_time: 0, max_lifetime: 0, abandoned_query_timeout: 0";
    let mut scene = scene_of(&format!(", {off}"), "server: {client_login_timeout: 0}\n");
    let client = scene.client();
    let server = server(&scene, 0);
    scene.say(&client, &query(b"begin"));
    scene.wait(86_400 * SECOND);
    scene.say(&server, &answer(b'T'));
    scene.wait(86_400 * SECOND);
    let second = scene.client();
    let mute = Shared::default();
    scene.arrive(&mute);
    scene.wait(86_400 * SECOND);
    let mut bytes = query(b"commit");
    frontend::terminate(&mut bytes);
    for pipe in [&client, &second, &mute, &server] {
        assert!(!is_closed(pipe));
    }
    scene.say(&client, &bytes);
    scene.wait(86_400 * SECOND);
    assert!(
        !is_closed(&server),
        "it still works for the one who has gone"
    );
    scene.say(&server, &answer(b'I'));
    scene.wait(86_400 * SECOND);
}

/// Catalogue 48: what a level below says was ignored in six places.
#[test]
fn what_a_user_has_of_its_own_wins_and_all_others_have_the_default() {
    let idle = |users: &str, expected: Option<Duration>| {
        let mut scene = scene_of(&format!("{SHARED}, client_idle_timeout: 5s"), users);
        let client = scene.client();
        let start = scene.engine.now();
        let text = "57P05 terminating connection due to idle-session timeout";
        match expected {
            Some(limit) => ends(&mut scene, start, limit, &client, text),
            None => {
                scene.wait(3_600 * SECOND);
                assert!(!is_closed(&client));
            }
        }
    };
    idle("", Some(5 * SECOND));
    idle("users: {me: {client_idle_timeout: 2s}}\n", Some(2 * SECOND));
    idle("users: {me: {client_idle_timeout: 9s}}\n", Some(9 * SECOND));
    idle("users: {me: {client_idle_timeout: 0}}\n", None);
    idle(
        "users: {other: {client_idle_timeout: 1s}}\n",
        Some(5 * SECOND),
    );
    idle(
        "users: {'*': {client_idle_timeout: 3s}}\n",
        Some(3 * SECOND),
    );
    idle(
        "users: {'*': {client_idle_timeout: 3s}, me: {}}\n",
        Some(3 * SECOND),
    );
    idle(
        "users: {'*': {client_idle_timeout: 3s}, me: {client_idle_timeout: 4s}}\n",
        Some(4 * SECOND),
    );

    for (key, sql, status, text) in [
        ("query_timeout", None, b'I', "57014 query timeout"),
        (
            "transaction_timeout",
            None,
            b'I',
            "25P04 transaction timeout",
        ),
        (
            "idle_transaction_timeout",
            Some(b'T'),
            b'T',
            "25P03 idle transaction timeout",
        ),
    ] {
        let mut scene = scene_of(
            &format!(", {key}: 1h"),
            &format!("users: {{me: {{{key}: 1s}}}}\n"),
        );
        let client = scene.client();
        let server = server(&scene, 0);
        scene.say(&client, &query(b"begin"));
        if sql.is_some() {
            scene.say(&server, &answer(status));
        }
        let start = scene.engine.now();
        ends(&mut scene, start, SECOND, &client, text);
    }
}

/// Who is there, and whatever it does, is held against what is configured now.
#[test]
fn a_reload_counts_for_those_who_are_there() {
    for (key, status, text) in [
        ("query_timeout", None, "57014 query timeout"),
        (
            "transaction_timeout",
            Some(b'T'),
            "25P04 transaction timeout",
        ),
        (
            "idle_transaction_timeout",
            Some(b'T'),
            "25P03 idle transaction timeout",
        ),
        (
            "client_idle_timeout",
            Some(b'I'),
            "57P05 terminating connection due to idle-session timeout",
        ),
    ] {
        let mut scene = scene_of("", "");
        let client = scene.client();
        let server = server(&scene, 0);
        scene.say(&client, &query(b"begin"));
        let mut start = scene.engine.now();
        if let Some(status) = status {
            scene.say(&server, &answer(status));
        }
        if key != "transaction_timeout" {
            start = scene.engine.now();
        }
        scene.wait(2 * SECOND);
        scene.reload(&self::text(&format!(", {key}: 5s"), ""));
        ends(&mut scene, start, 5 * SECOND, &client, text);
    }
    let mut scene = scene_of(&format!("{SHARED}, max_idle_time: 1h"), "");
    let _client = scene.client();
    let (first, start) = (server(&scene, 0), scene.engine.now());
    scene.wait(SECOND);
    scene.reload(&text(&format!("{SHARED}, max_idle_time: 5s"), ""));
    passes(&mut scene, start, 5 * SECOND, |_| is_closed(&first));

    // And for one that is in use just then.
    let mut scene = scene_of(&format!("{SHARED}, max_idle_time: 1h"), "");
    let (client, first) = (scene.client(), server(&scene, 0));
    scene.works(&client, &first);
    scene.ask(&client, b"select 1");
    scene.reload(&text(&format!("{SHARED}, max_idle_time: 5s"), ""));
    scene.say(&first, &answer(b'I'));
    let start = scene.engine.now();
    passes(&mut scene, start, 5 * SECOND, |_| is_closed(&first));
}
