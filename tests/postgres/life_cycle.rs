//! Every key that shapes the life of a connection, by its effect on a real PostgreSQL. Each duration also as 0, where that
//! means "off" (catalogue B48: a zero that meant one millisecond, a key that was never read).

use std::io::Write;
use std::net::TcpListener;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::cluster::PASSWORD;
use crate::support::scene::{self, yaml};
use crate::support::wire::{first_error, terminated};
use crate::support::{Cluster, Pooler, Scene, Wire, process, wait_for, wait_until};

/// Process ids of the pool's backends, as PostgreSQL sees them.
fn backends(cluster: &Cluster, database: &str) -> Vec<u32> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND usename = 'username'"
    );
    let answer = cluster.sql("postgres", &sql);
    let pids = answer.lines().map(|line| line.parse().expect("a pid"));
    pids.collect()
}

fn alive(cluster: &Cluster, pid: i32) -> bool {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    cluster.sql("postgres", &sql) == "1"
}

/// Logs in so many at once, and lets them all go.
fn visit(scene: &Scene, count: usize) {
    let clients: Vec<Wire> = (0..count).map(|_| scene.login()).collect();
    clients.into_iter().for_each(Wire::terminate);
}

#[test]
fn a_full_pool_serves_its_queue_in_the_order_of_arrival() {
    let scene = Scene::new(Cluster::shared(), "life_queue", "  max_connections: 2\n");
    let holders = [scene.login(), scene.login()];
    let order = Mutex::new(Vec::new());
    thread::scope(|threads| {
        for number in 0..6 {
            let (scene, order) = (&scene, &order);
            threads.spawn(move || {
                let mut client = scene.login();
                order.lock().expect("order").push(number);
                // Held until everybody who may be served has been: the next must not come before its time.
                assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
                client.terminate();
            });
            scene.wait_for_pool("cl_waiting", number + 1);
        }
        assert!(order.lock().expect("order").is_empty(), "the pool is full");
        assert_eq!(scene.pool("total_connections"), 2);
        // One server only from here on, so that the order is a strict one.
        let [first, second] = holders;
        first.terminate();
        wait_until("all are served", || order.lock().expect("order").len() == 6);
        second.terminate();
    });
    assert_eq!(order.into_inner().expect("order"), [0, 1, 2, 3, 4, 5]);
    assert_eq!(backends(Cluster::shared(), &scene.database).len(), 2);
}

#[test]
fn a_client_that_waited_too_long_is_told_the_pool_the_limit_and_what_to_do() {
    for assignment in ["login", "first_query"] {
        let scene = Scene::new(
            Cluster::shared(),
            &format!("life_acquire_{assignment}"),
            &format!(
                "  max_connections: 1\n  acquire_timeout: 400ms\n  server_assignment: {assignment}\n"
            ),
        );
        let mut holder = scene.login();
        holder.run("SELECT 1");
        let begin = Instant::now();
        let error = if assignment == "login" {
            scene.try_login().err().expect("the pool is full")
        } else {
            let mut client = scene.login();
            client.send_message(b'Q', &terminated("SELECT 1"));
            first_error(&client.read_to_end()).expect("the pool is full")
        };
        assert!(begin.elapsed() >= Duration::from_millis(400), "{error:?}");
        assert_eq!(
            (error.severity(), error.sqlstate()),
            ("FATAL", "53300"),
            "{error:?}"
        );
        assert!(error.message().contains(&scene.database), "{error:?}");
        assert!(error.field(b'D').contains("1 of 1 server"), "{error:?}");
        assert!(error.hint().contains("max_connections"), "{error:?}");
        holder.terminate();
        scene.login().terminate();
    }
}

#[test]
fn a_queued_client_that_hangs_up_leaves_the_queue() {
    let keys = "  max_connections: 1\nauth: {type: trust, allow_insecure: true}\n";
    let scene = Scene::new(Cluster::shared(), "life_hang_up", keys);
    let holder = scene.login();
    let mut waiting: Vec<Wire> = (0..3)
        .map(|_| {
            let mut client = Wire::connect(scene.pooler.port());
            client.startup(&[("user", "username"), ("database", &scene.database)]);
            client
        })
        .collect();
    scene.wait_for_pool("cl_waiting", 3);
    drop(waiting.remove(1));
    scene.wait_for_pool("cl_waiting", 2);
    holder.terminate();
    // The first of the queue is served, and when it leaves the third is: nobody waits for the one that has gone.
    let last = waiting.pop().expect("two are left");
    let first = waiting.pop().expect("one is left");
    for mut client in [first, last] {
        client.read_until(b'Z');
        assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
        client.terminate();
    }
    scene.wait_for_rest();
}

#[test]
fn idle_connections_are_kept_ready_and_made_again_when_they_die() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "life_min_idle", "  min_idle_connections: 3\n");
    scene.wait_for_pool("sv_idle", 3);
    let first = backends(cluster, &scene.database);
    assert_eq!(first.len(), 3, "before anybody has asked");
    cluster.sql(
        "postgres",
        &format!(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{}'",
            scene.database
        ),
    );
    wait_until("three new ones are there", || {
        let now = backends(cluster, &scene.database);
        now.len() == 3 && now.iter().all(|pid| !first.contains(pid))
    });
    let clients = [scene.login(), scene.login()];
    scene.wait_for_pool("sv_idle", 3);
    assert_eq!(scene.pool("total_connections"), 5);
    clients.into_iter().for_each(Wire::terminate);
}

#[test]
fn idle_connections_above_the_minimum_are_closed_after_max_idle_time() {
    let cluster = Cluster::shared();
    let keys = "  min_idle_connections: 2\n  max_idle_time: 500ms\n";
    let scene = Scene::new(cluster, "life_max_idle", keys);
    let begin = Instant::now();
    visit(&scene, 6);
    assert!(
        scene.pool("total_connections") >= 6 || begin.elapsed() >= Duration::from_millis(500),
        "closed too early"
    );
    scene.wait_for_pool("total_connections", 2);
    wait_until("PostgreSQL's processes have ended, too", || {
        backends(cluster, &scene.database).len() == 2
    });
    let kept = backends(cluster, &scene.database);
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(
        backends(cluster, &scene.database),
        kept,
        "the minimum is not closed and made again"
    );
    assert!(scene.pooler.log_contains("server idle timeout"));
}

#[test]
fn connections_of_an_age_are_closed_when_they_are_free_and_not_all_at_once() {
    let cluster = Cluster::shared();
    let scene = Scene::new(
        cluster,
        "life_lifetime",
        "  max_connections: 40\n  max_lifetime: 2500ms\n  max_idle_time: 0\n",
    );
    let begin = Instant::now();
    let mut held = scene.login();
    visit(&scene, 30);
    let mut console = scene.console();
    let mut counts = Vec::new();
    wait_until("all but the held one have gone", || {
        let count = scene::pool(
            &scene::show(&mut console, "POOLS"),
            &scene.database,
            "total_connections",
        );
        assert!(
            count >= 31 || begin.elapsed() >= Duration::from_millis(2_000),
            "{count} are left after {:?}",
            begin.elapsed()
        );
        if counts.last() != Some(&count) {
            counts.push(count);
        }
        count <= 1
    });
    assert!(counts.len() >= 5, "they ended together: {counts:?}");
    // A session is never cut short by it; its server goes when it leaves.
    assert_eq!(
        held.value("SELECT pg_backend_pid()"),
        Some(held.pid.to_string())
    );
    let pid = held.pid;
    held.terminate();
    wait_until("the old server is closed", || !alive(cluster, pid));
    assert!(scene.pooler.log_contains("server lifetime over"));
}

/// B48: a zero is "off", not "at once".
#[test]
fn zero_turns_a_limit_off() {
    let cluster = Cluster::shared();
    let scene = Scene::with_server(
        cluster,
        "life_zero",
        ", client_login_timeout: 0, shutdown_timeout: 0",
        "  max_connections: 2\n  max_idle_time: 0\n  max_lifetime: 0\n  acquire_timeout: 0\n  \
         client_idle_timeout: 0\n  abandoned_query_timeout: 0\n",
    );
    cluster.sql(
        &scene.database,
        "CREATE TABLE done (n int); GRANT ALL ON done TO PUBLIC",
    );
    let stranger = Wire::connect(scene.pooler.port());
    let mut idle = scene.login();
    let mut leaver = scene.login();
    leaver.send_message(
        b'Q',
        &terminated("SELECT pg_sleep(1); INSERT INTO done VALUES (1)"),
    );
    thread::scope(|threads| {
        let waiter = threads.spawn(|| scene.login());
        scene.wait_for_pool("cl_waiting", 1);
        let left = leaver.pid;
        drop(leaver);
        // The waiter waits for the abandoned query: that is more than a second.
        let mut waiter = waiter.join().expect("it was served");
        assert_eq!(waiter.pid, left, "the query's own server, reused");
        assert_eq!(
            waiter.value("SELECT count(*) FROM done").as_deref(),
            Some("1"),
            "the abandoned query was done to its end"
        );
        let pid = waiter.pid;
        waiter.terminate();
        scene.wait_for_pool("sv_idle", 1);
        assert_eq!(idle.value("SELECT 1").as_deref(), Some("1"));
        idle.terminate();
        thread::sleep(Duration::from_millis(500));
        assert!(alive(cluster, pid), "an idle server was closed");
    });
    let mut stranger = stranger;
    stranger.startup(&[("user", "username"), ("database", &scene.database)]);
    stranger
        .authenticate("username", PASSWORD)
        .expect("it may take its time");
}

#[test]
fn a_server_that_takes_the_connection_and_says_nothing_is_given_up_after_connect_timeout() {
    let cluster = Cluster::shared();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_port = silent.local_addr().expect("bound").port();
    let alone = Pooler::start(&yaml(
        &format!("postgres://username:{PASSWORD}@127.0.0.1:{silent_port}/database"),
        "",
        "  connect_timeout: 200ms\n  acquire_timeout: 1s\n",
    ));
    let parameters = [("user", "username"), ("database", "database")];
    let error = Wire::try_login(alone.port(), &parameters, PASSWORD)
        .err()
        .expect("nobody answers");
    assert_eq!(error.sqlstate(), "08006", "{error:?}");
    assert!(error.message().contains("connect_timeout"), "{error:?}");
    assert!(
        error.message().contains(&silent_port.to_string()),
        "{error:?}"
    );

    // With another host behind it, the client only waits that long.
    let both = Pooler::start(&yaml(
        &format!(
            "postgres://username:{PASSWORD}@127.0.0.1:{silent_port},127.0.0.1:{}/database",
            cluster.port()
        ),
        "",
        "  connect_timeout: 200ms\n",
    ));
    let mut client = Wire::login(both.port(), "username", PASSWORD, "database");
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
}

/// S8: a server that hangs is found by the check, and the client that was to get it gets another one. With `check_delay: 0`
/// the server that had just answered its check was found to be idle for "0 or longer", and checked again, for ever.
#[test]
fn a_server_that_hangs_or_fails_the_check_is_replaced_without_the_client_noticing() {
    let cluster = Cluster::shared();
    let keys = "  check_delay: 0\n  check_timeout: 300ms\n  max_connections: 2\n";
    let scene = Scene::new(cluster, "life_check", keys);
    let mut first = scene.login();
    let pid = first.pid;
    assert_eq!(first.value("SELECT 1").as_deref(), Some("1"));
    first.terminate();
    scene.wait_for_pool("sv_idle", 1);

    let second = scene.login();
    assert_eq!(second.pid, pid, "a server that answers the check is used");
    second.terminate();
    scene.wait_for_pool("sv_idle", 1);
    let stats = scene.show("STATS");
    assert_ne!(stats[0]["total_checks"], "0", "check_delay 0: always");

    process::signal(pid.unsigned_abs(), Signal::SIGSTOP);
    let mut third = scene.login();
    assert_ne!(third.pid, pid);
    assert_eq!(third.value("SELECT 1").as_deref(), Some("1"));
    process::signal(pid.unsigned_abs(), Signal::SIGCONT);
    assert!(
        scene
            .pooler
            .log_contains("test query failed: no answer within check_timeout")
    );
    third.terminate();
}

#[test]
fn the_check_query_is_what_was_configured_and_only_after_check_delay() {
    let cluster = Cluster::shared();
    let check = "  check_query: \"SELECT nextval('checks')\"\n  max_connections: 1\n";
    let count = |database: &str| cluster.sql(database, "SELECT last_value FROM checks");
    for (name, delay, checked) in [
        ("life_check_always", "0", true),
        ("life_check_later", "1h", false),
    ] {
        let scene = Scene::new(cluster, name, &format!("{check}  check_delay: {delay}\n"));
        cluster.sql(
            name,
            "CREATE SEQUENCE checks START 100; GRANT ALL ON checks TO PUBLIC; SELECT nextval('checks')",
        );
        for _ in 0..3 {
            let mut client = scene.login();
            client.run("SELECT 1");
            client.terminate();
            // One that comes straight from its reset to a client that waits has just answered.
            scene.wait_for_pool("sv_idle", 1);
        }
        let number: u32 = count(name).parse().expect("a number");
        // One for each time that it was used again; a new server need not be checked.
        if checked {
            assert!((102..=103).contains(&number), "{number}");
        } else {
            assert_eq!(number, 100);
        }
    }
    // A check that fails costs the server, not the client.
    let scene = Scene::new(
        cluster,
        "life_check_fails",
        "  check_query: \"SELECT 1/0\"\n  check_delay: 1ms\n  max_connections: 1\n",
    );
    let first = scene.login();
    let pid = first.pid;
    first.terminate();
    thread::sleep(Duration::from_millis(20));
    let mut second = scene.login();
    assert_ne!(second.pid, pid);
    assert_eq!(second.value("SELECT 1").as_deref(), Some("1"));
    assert!(
        scene
            .pooler
            .log_contains("test query failed: division by zero")
    );
}

#[test]
fn the_reset_query_is_what_was_configured() {
    let cluster = Cluster::shared();
    for (name, key, work_mem, locks) in [
        ("life_reset_default", "", "4MB", "0"),
        ("life_reset_null", "  reset_query: null\n", "7MB", "1"),
        ("life_reset_empty", "  reset_query: \"\"\n", "7MB", "1"),
        (
            "life_reset_own",
            "  reset_query: \"SELECT pg_advisory_unlock_all()\"\n",
            "7MB",
            "0",
        ),
    ] {
        let scene = Scene::new(cluster, name, &format!("  max_connections: 1\n{key}"));
        let mut first = scene.login();
        first.run("SET work_mem = '7MB'; SELECT pg_advisory_lock(4711)");
        first.run("BEGIN");
        let pid = first.pid;
        first.terminate();
        let mut second = scene.login();
        assert_eq!(second.pid, pid, "{name}: reused");
        assert_eq!(
            second.value("SHOW work_mem").as_deref(),
            Some(work_mem),
            "{name}"
        );
        let held =
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
        assert_eq!(second.value(held).as_deref(), Some(locks), "{name}");
        let status = second.run("").pop().expect("ReadyForQuery").body;
        assert_eq!(status, b"I", "{name}: the transaction was rolled back");
        second.terminate();
    }
}

#[test]
fn a_reset_that_fails_or_hangs_costs_the_connection() {
    let cluster = Cluster::shared();
    for (name, query, said) in [
        (
            "life_reset_hangs",
            "SELECT pg_sleep(60)",
            "no answer within reset_timeout",
        ),
        ("life_reset_fails", "SELECT 1/0", "division by zero"),
        (
            "life_reset_begins",
            "BEGIN",
            "the server is still in a transaction",
        ),
    ] {
        let keys =
            format!("  max_connections: 1\n  reset_query: \"{query}\"\n  reset_timeout: 300ms\n");
        let scene = Scene::new(cluster, name, &keys);
        let mut first = scene.login();
        first.run("SELECT 1");
        let pid = first.pid;
        first.terminate();
        let mut second = scene.login();
        assert_ne!(second.pid, pid, "{name}");
        assert_eq!(second.value("SELECT 1").as_deref(), Some("1"));
        scene
            .pooler
            .wait_for_log(&format!("reset query failed: {said}"));
    }
}

/// B47: it must not fire in a transaction, nor while a query runs.
#[test]
fn a_client_that_says_nothing_outside_of_a_transaction_is_closed_after_client_idle_timeout() {
    let keys = "  client_idle_timeout: 500ms\n";
    let scene = Scene::new(Cluster::shared(), "life_client_idle", keys);
    let mut idle = scene.login();
    let mut busy = scene.login();
    let mut open = scene.login();
    open.run("BEGIN");
    busy.send_message(b'Q', &terminated("SELECT pg_sleep(1.2)"));
    let farewell = first_error(&idle.read_to_end()).expect("a reason");
    assert_eq!(
        (farewell.severity(), farewell.sqlstate()),
        ("FATAL", "57P05")
    );
    assert!(
        farewell.hint().contains("client_idle_timeout"),
        "{farewell:?}"
    );
    assert!(first_error(&busy.read_until(b'Z')).is_none());
    assert_eq!(open.value("SELECT 1").as_deref(), Some("1"));
    open.run("COMMIT");
    // From here on it counts for them too.
    for client in [&mut open, &mut busy] {
        let farewell = first_error(&client.read_to_end()).expect("a reason");
        assert_eq!(farewell.sqlstate(), "57P05");
    }
    scene.wait_for_rest();
    assert_eq!(scene.pool("sv_idle"), 3, "their servers are clean and kept");
}

#[test]
fn an_abandoned_query_is_cancelled_after_its_time() {
    let cluster = Cluster::shared();
    let keys = "  abandoned_query_timeout: 300ms\n";
    let scene = Scene::new(cluster, "life_abandoned", keys);
    let mut client = scene.login();
    let pid = client.pid;
    client.send_message(b'Q', &terminated("SELECT pg_sleep(60)"));
    let sleeps = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'"
    );
    wait_until("the query runs", || cluster.sql("postgres", &sleeps) == "1");
    drop(client);
    wait_until("the backend is gone", || !alive(cluster, pid));
    scene.pooler.wait_for_log("abandoned_query_timeout");
    scene.wait_for_rest();
}

#[test]
fn a_client_too_many_is_told_so_and_the_next_one_gets_in_when_another_has_left() {
    let scene = Scene::with_server(
        Cluster::shared(),
        "life_max_clients",
        ", max_client_connections: 3",
        "  max_connections: 10\n",
    );
    let mut clients: Vec<Wire> = (0..3).map(|_| scene.login()).collect();
    let error = scene.try_login().err().expect("one too many");
    assert_eq!((error.severity(), error.sqlstate()), ("FATAL", "53300"));
    assert!(
        error.hint().contains("server.max_client_connections"),
        "{error:?}"
    );
    assert!(error.field(b'D').contains("at most 3"), "{error:?}");
    clients.pop().expect("three").terminate();
    wait_until("there is room again", || match scene.try_login() {
        Ok(client) => {
            client.terminate();
            true
        }
        Err(error) => {
            assert_eq!(error.sqlstate(), "53300");
            false
        }
    });
    for client in &mut clients {
        assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    }
}

/// C1, C2: the limit is for the login as a whole; bytes that come in between do not put it off.
#[test]
fn a_login_that_is_not_complete_in_time_is_ended() {
    let scene = Scene::with_server(
        Cluster::shared(),
        "life_login_timeout",
        ", client_login_timeout: 500ms",
        "",
    );
    let mut silent = Wire::connect(scene.pooler.port());
    let mut halfway = Wire::connect(scene.pooler.port());
    halfway.startup(&[("user", "username"), ("database", &scene.database)]);
    let mut slow = Wire::connect(scene.pooler.port());
    let begin = Instant::now();
    slow.send(&9_000_u32.to_be_bytes());
    let ended = wait_for(Duration::from_secs(10), || {
        slow.stream.write_all(b"x").is_err()
    });
    assert!(ended, "a byte now and then keeps it alive");
    assert!(begin.elapsed() >= Duration::from_millis(400));
    assert_eq!(silent.read_to_end(), []);
    let messages = halfway.read_to_end();
    let error = first_error(&messages).expect("it has said who it is");
    assert_eq!((error.severity(), error.sqlstate()), ("FATAL", "57014"));
    assert!(error.hint().contains("client_login_timeout"), "{error:?}");
    // Those who are logged in are not meant.
    let mut client = scene.login();
    thread::sleep(Duration::from_millis(700));
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
}
