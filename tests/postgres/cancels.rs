//! Cancel requests: they end the query that was meant, and never another one.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::wire::{self, first_error, kinds, terminated};
use crate::support::{Cluster, Scene, Wire, wait_until};

/// Waits until the sessions of a database run so many `pg_sleep`.
fn wait_for_sleepers(cluster: &Cluster, database: &str, count: usize) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
    );
    wait_until("the queries run", || {
        cluster.sql("postgres", &sql) == count.to_string()
    });
}

/// A cancel request by process id and key, not waited for.
fn request(port: u16, pid: i32, key: &[u8]) -> TcpStream {
    let mut packet = i32::try_from(12 + key.len())
        .expect("short")
        .to_be_bytes()
        .to_vec();
    packet.extend(80_877_102_i32.to_be_bytes());
    packet.extend(pid.to_be_bytes());
    packet.extend(key);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.write_all(&packet).expect("it reads");
    stream
}

/// B14 too: the pool is full and somebody waits, yet the cancel gets through, and the session goes on.
#[test]
fn a_cancel_ends_the_query_that_runs_also_when_the_pool_is_full() {
    let cluster = Cluster::shared();
    for assignment in ["login", "first_query"] {
        let keys = format!("  max_connections: 1\n  server_assignment: {assignment}\n");
        let scene = Scene::new(cluster, &format!("cancel_{assignment}"), &keys);
        let mut client = scene.login();
        client.send_message(b'Q', &terminated("SELECT pg_sleep(60)"));
        wait_for_sleepers(cluster, &scene.database, 1);
        thread::scope(|threads| {
            let waiter = threads.spawn(|| {
                let mut waiter = scene.login();
                waiter.value("SELECT 2")
            });
            scene.wait_for_pool("cl_waiting", 1);
            let begin = Instant::now();
            client.cancel();
            let error = first_error(&client.read_until(b'Z')).expect("cancelled");
            assert!(begin.elapsed() < Duration::from_secs(5));
            assert_eq!((error.severity(), error.sqlstate()), ("ERROR", "57014"));
            assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
            client.terminate();
            assert_eq!(waiter.join().expect("served").as_deref(), Some("2"));
        });
        scene.wait_for_rest();
    }
}

/// A pool of one connection that is held, and a client that waits for it with `bytes`.
fn waiter_with(scene: &Scene, bytes: &[u8]) -> (Wire, Wire) {
    let mut holder = scene.login();
    holder.send_message(b'Q', &terminated("SELECT pg_sleep(60)"));
    wait_for_sleepers(Cluster::shared(), &scene.database, 1);
    let mut waiter = scene.login();
    waiter.send(bytes);
    scene.wait_for_pool("cl_waiting", 1);
    (holder, waiter)
}

/// Lets the server go to whoever waits.
fn leave(mut holder: Wire) {
    holder.cancel();
    holder.read_until(b'Z');
    holder.terminate();
}

/// All works on.
fn end(scene: &Scene, mut client: Wire) {
    assert_eq!(client.value("SELECT 'on'").as_deref(), Some("on"));
    client.terminate();
    scene.wait_for_rest();
}

const QUEUEING: [(&str, &str); 3] = [
    ("session", "\n  server_assignment: first_query"),
    ("transaction", ""),
    ("statement", ""),
];

fn queueing_scene(name: &str, mode: &str, more: &str) -> Scene {
    let keys = format!("  max_connections: 1\n  mode: {mode}{more}\n");
    Scene::new(Cluster::shared(), &format!("cancel_{name}_{mode}"), &keys)
}

fn batch(statement: &str, sql: &str) -> Vec<u8> {
    let parts = [
        wire::parse(statement, sql),
        wire::bind("", statement, &[]),
        wire::execute("", 0),
        wire::sync(),
    ];
    parts.concat()
}

/// C17: its query has not been sent anywhere, and is answered as PostgreSQL would answer it; the session lives on.
#[test]
fn a_client_that_waits_with_a_query_is_cancelled_without_any_server() {
    for (mode, more) in QUEUEING {
        let scene = queueing_scene("waiting", mode, more);
        let query = wire::message(b'Q', &terminated("SELECT 1"));
        let (holder, mut waiter) = waiter_with(&scene, &query);
        waiter.cancel();
        let answer = waiter.read_until(b'Z');
        assert_eq!(kinds(&answer), "EZ", "{mode}");
        assert_eq!(answer[1].body, b"I");
        let error = answer[0].error().expect("cancelled");
        assert_eq!((error.severity(), error.sqlstate()), ("ERROR", "57014"));
        assert_eq!(error.message(), "canceling statement due to user request");
        scene.wait_for_pool("cl_waiting", 0);
        // What it asks next is not cancelled, and waits anew.
        waiter.send(&query);
        scene.wait_for_pool("cl_waiting", 1);
        leave(holder);
        assert_eq!(kinds(&waiter.read_until(b'Z')), "TDCZ");
        end(&scene, waiter);
    }
}

/// As behind any error: one ErrorResponse, and all is skipped up to the Sync. What it has parsed there does not exist, and the
/// batch behind it is not touched.
#[test]
fn of_a_pipeline_only_the_first_batch_is_cancelled() {
    for (mode, more) in QUEUEING {
        let scene = queueing_scene("pipeline", mode, more);
        let bytes = [batch("mine", "SELECT 1"), batch("", "SELECT 2")].concat();
        let (holder, mut waiter) = waiter_with(&scene, &bytes);
        waiter.cancel();
        assert_eq!(kinds(&waiter.read_until(b'Z')), "EZ", "{mode}");
        scene.wait_for_pool("cl_waiting", 1);
        leave(holder);
        assert_eq!(kinds(&waiter.read_until(b'Z')), "12DCZ", "{mode}");
        waiter.send(&[wire::bind("", "mine", &[]), wire::sync()].concat());
        let error = first_error(&waiter.read_until(b'Z')).expect("it was never parsed");
        assert_eq!(error.sqlstate(), "26000");
        end(&scene, waiter);
    }
}

/// A large message is skipped as it comes; the Sync, when it comes at last, is answered.
#[test]
fn a_large_message_of_a_cancelled_client_is_skipped_as_it_comes() {
    for (mode, more) in QUEUEING {
        let scene = queueing_scene("large", mode, more);
        let text = format!("SELECT '{}'", "x".repeat(32 << 20));
        let large = batch("", &text);
        let (start, rest) = large.split_at(100_000);
        let (holder, mut waiter) = waiter_with(&scene, start);
        waiter.cancel();
        assert_eq!(kinds(&[waiter.read_message()]), "E", "{mode}");
        let before = scene.pooler.rss_kb();
        waiter.send(rest);
        assert_eq!(kinds(&[waiter.read_message()]), "Z", "{mode}");
        let grown = scene.pooler.rss_kb().saturating_sub(before);
        assert!(grown < 8 << 10, "{mode}: {grown} kB more");
        leave(holder);
        end(&scene, waiter);
    }
}

#[test]
fn a_cancel_of_an_idle_client_does_nothing_to_it_now_or_later() {
    let scene = Scene::new(Cluster::shared(), "cancel_idle", "  max_connections: 1\n");
    let mut client = scene.login();
    for _ in 0..50 {
        client.cancel();
        let answer = client.query("SELECT pg_sleep(0.002)");
        assert_eq!(kinds(&answer), "TDCZ", "{answer:?}");
    }
    // In a transaction there is nothing to cancel either.
    client.run("BEGIN");
    client.cancel();
    assert_eq!(kinds(&client.query("SELECT 1")), "TDCZ");
    let (pid, key) = (client.pid, client.key.clone());
    client.terminate();
    // The key is worth nothing when its session is over, though the server lives on under the same process id.
    let mut next = scene.login();
    assert_eq!(next.pid, pid);
    assert_ne!(next.key, key);
    next.send_message(b'Q', &terminated("SELECT pg_sleep(0.5)"));
    wait_for_sleepers(Cluster::shared(), &scene.database, 1);
    drop(request(scene.pooler.port(), pid, &key));
    assert_eq!(kinds(&next.read_until(b'Z')), "TDCZ");
    next.terminate();
    scene.wait_for_rest();
}

/// C16, R15: and the server's own key is worth nothing here.
#[test]
fn keys_that_were_never_given_out_cancel_nothing() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "cancel_guessed", "");
    let mut client = scene.login();
    client.send_message(b'Q', &terminated("SELECT pg_sleep(1.5)"));
    wait_for_sleepers(cluster, &scene.database, 1);
    let mut requests = Vec::new();
    for guess in 0..600_u32 {
        let mut key = client.key.clone();
        match guess % 4 {
            // One bit off, all of it off, too long, too short.
            0 => key[guess as usize / 4 % 4] ^= 1 << (guess / 16 % 8),
            1 => key = guess.wrapping_mul(0x9E37_79B9).to_be_bytes().to_vec(),
            2 => key.push(0),
            _ => key.truncate(guess as usize / 4 % 4),
        }
        if key != client.key {
            requests.push(request(scene.pooler.port(), client.pid, &key));
        }
    }
    assert_eq!(kinds(&client.read_until(b'Z')), "TDCZ");
    drop(requests);
    client.terminate();
    scene.wait_for_rest();
}

/// B13, C17: cancels at random moments against sessions that come and go on two servers, in between sessions that nobody
/// cancels. None of those may ever see one, whichever way the request was overtaken.
#[test]
fn a_cancel_never_hits_the_next_client() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "cancel_race", "  max_connections: 2\n");
    let (over, hits, cancels) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(5);
    let port = scene.pooler.port();
    let attack = |seed: u64| {
        let mut random = seed;
        while Instant::now() < end {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let mut client = scene.login();
            let pause = Duration::from_micros(random % 3_000);
            let (pid, key) = (client.pid, client.key.clone());
            let canceller = thread::spawn(move || {
                for _ in 0..3 {
                    thread::sleep(pause / 3);
                    drop(request(port, pid, &key));
                }
            });
            let answer = client.query("SELECT pg_sleep(0.002)");
            if let Some(error) = first_error(&answer) {
                assert_eq!(error.sqlstate(), "57014");
                hits.fetch_add(1, Ordering::Relaxed);
            }
            cancels.fetch_add(3, Ordering::Relaxed);
            // Without waiting for the cancels: some arrive when the session is over.
            match random % 3 {
                0 => client.terminate(),
                1 => drop(client),
                _ => {
                    client.send_message(b'Q', &terminated("SELECT pg_sleep(0.001)"));
                    drop(client);
                }
            }
            canceller.join().expect("it only sends");
        }
    };
    let be_a_victim = || {
        while !over.load(Ordering::Relaxed) {
            let mut client: Wire = scene.login();
            for _ in 0..3 {
                let answer = client.query("SELECT pg_sleep(0.001)");
                assert_eq!(kinds(&answer), "TDCZ", "a foreign cancel: {answer:?}");
            }
            client.terminate();
        }
    };
    thread::scope(|threads| {
        let victims: Vec<_> = (0..2).map(|_| threads.spawn(be_a_victim)).collect();
        let attackers: Vec<_> = (1..=3)
            .map(|seed| threads.spawn(move || attack(seed * 0x2545_F491_4F6C_DD1D)))
            .collect();
        let attacked: Vec<_> = attackers.into_iter().map(|one| one.join()).collect();
        over.store(true, Ordering::Relaxed);
        for one in attacked
            .into_iter()
            .chain(victims.into_iter().map(|one| one.join()))
        {
            one.expect("nobody saw what was not meant for him");
        }
    });
    let (hits, cancels) = (hits.into_inner(), cancels.into_inner());
    println!("{cancels} cancel requests, {hits} queries cancelled");
    assert!(hits > 20, "only {hits} of {cancels} hit anything at all");
    scene.wait_for_rest();
}
