//! What goes wrong around a pooler: servers that die, hang, restart or are not there, and clients that leave in the middle of
//! anything. After each the next client must be clean, and nothing may stay stuck.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use crate::support::cluster::{self, PASSWORD};
use crate::support::pooler::binary;
use crate::support::process::Place;
use crate::support::scene::{self, tcp, yaml};
use crate::support::wire::{self, first_error, kinds, terminated};
use crate::support::{Cluster, Pooler, Scene, Stop, Wire, process, wait_until};

/// How a client goes away without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// In order: FIN.
    Close,
    /// As when it crashes with something unread: RST, at once.
    Reset,
}

fn exit(client: Wire, how: Exit) {
    if how == Exit::Reset {
        let at_once = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&client.stream, sockopt::Linger, &at_once).expect("SO_LINGER");
    }
    drop(client);
}

/// Whether a session is as if nobody had been there before.
#[track_caller]
fn is_clean(client: &mut Wire) {
    let answer = client.run("SELECT 1");
    assert_eq!(kinds(&answer), "TDCZ");
    assert_eq!(answer[3].body, b"I", "outside of a transaction");
    let left =
        "SELECT (SELECT count(*) FROM pg_prepared_statements) + (SELECT count(*) FROM pg_cursors)";
    assert_eq!(client.value(left).as_deref(), Some("0"));
}

fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

#[track_caller]
fn refusal(pooler: &Pooler, database: &str) -> crate::support::ServerError {
    let parameters = [("user", "username"), ("database", database)];
    Wire::try_login(pooler.port(), &parameters, PASSWORD)
        .err()
        .expect("there is no server")
}

/// B30.
#[test]
fn idle_servers_that_were_terminated_cost_no_client_an_error() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "fault_idle_killed", "");
    let mut killer = Wire::login(cluster.port(), "postgres", PASSWORD, "postgres");
    let kill = format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = '{}'",
        scene.database
    );
    for _ in 0..20 {
        let clients: Vec<Wire> = (0..4).map(|_| scene.login()).collect();
        clients.into_iter().for_each(Wire::terminate);
        scene.wait_for_pool("sv_active", 0);
        assert_ne!(killer.value(&kill).as_deref(), Some("0"));
        let mut client = scene.login();
        assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
        client.terminate();
    }
}

/// S5, B50: what the server says last reaches the client as it is, and nothing comes on top of it.
#[test]
fn a_session_whose_server_is_terminated_is_told_once_in_the_servers_own_words() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "fault_active_killed", "  max_connections: 1\n");
    for in_query in [false, true] {
        let mut client = scene.login();
        if in_query {
            client.send_message(b'Q', &terminated("SELECT pg_sleep(60)"));
            let sleeps = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event = 'PgSleep'",
                client.pid
            );
            wait_until("the query runs", || cluster.sql("postgres", &sleeps) == "1");
        }
        cluster.sql(
            "postgres",
            &format!("SELECT pg_terminate_backend({})", client.pid),
        );
        let farewell = client.read_to_end();
        let errors: Vec<_> = farewell.iter().filter_map(wire::Message::error).collect();
        assert_eq!(errors.len(), 1, "{farewell:?}");
        assert_eq!(
            (errors[0].severity(), errors[0].sqlstate()),
            ("FATAL", "57P01")
        );
        assert_eq!(
            errors[0].field(b'R'),
            "ProcessInterrupts",
            "PostgreSQL's own message"
        );
        scene
            .pooler
            .wait_for_log("server closed the connection after error 57P01");
        is_clean(&mut scene.login());
    }
    scene.wait_for_rest();
}

/// S4: without a word from the server, the client gets ours, once.
#[test]
fn a_session_whose_server_is_killed_gets_an_error_of_class_08_or_the_postmasters() {
    let cluster = Cluster::start();
    let scene = Scene::new(&cluster, "fault_crash", "");
    let mut client = scene.login();
    let mut bystander = scene.login();
    client.send_message(b'Q', &terminated("SELECT pg_sleep(60)"));
    scene.wait_for_pool("sv_active", 2);
    process::signal(client.pid.unsigned_abs(), Signal::SIGKILL);
    let error = first_error(&client.read_to_end()).expect("a reason");
    assert_eq!(
        (error.severity(), error.sqlstate()),
        ("FATAL", "08006"),
        "{error:?}"
    );
    // The postmaster ends all other backends, and they say why.
    let farewell = bystander.read_to_end();
    let errors: Vec<_> = farewell.iter().filter_map(wire::Message::error).collect();
    assert_eq!(errors.len(), 1, "{farewell:?}");
    assert!(
        ["57P02", "08006"].contains(&errors[0].sqlstate()),
        "{errors:?}"
    );
    // While it recovers, clients wait (57P03 is nothing that they should see).
    is_clean(&mut scene.login());
    scene.wait_for_rest();
}

/// S5, S1, B16, B17: sessions end with a reason, waiting clients wait, and are served soon after the server is back.
#[test]
fn a_restart_ends_the_sessions_and_serves_those_who_wait_as_soon_as_it_is_over() {
    let cluster = Cluster::start();
    let scene = Scene::new(&cluster, "fault_restart", "  min_idle_connections: 2\n");
    for how in [Stop::Fast, Stop::Immediate] {
        let sessions: Vec<Wire> = (0..5).map(|_| scene.login()).collect();
        cluster.stop(how);
        for mut session in sessions {
            let farewell = session.read_to_end();
            let errors: Vec<_> = farewell.iter().filter_map(wire::Message::error).collect();
            // In an immediate shutdown a backend only warns (57P01), and that passes too.
            let notices = farewell.iter().filter_map(wire::Message::notice);
            let warned = notices
                .filter(|notice| notice.sqlstate() == "57P01")
                .count();
            let told: Vec<_> = errors.iter().map(|error| error.sqlstate()).collect();
            match how {
                Stop::Fast => assert_eq!((&told[..], warned), (&["57P01"][..], 0)),
                Stop::Immediate => assert_eq!((&told[..], warned), (&["08006"][..], 1)),
            }
        }
        let served = thread::scope(|threads| {
            let waiting: Vec<_> = (0..5)
                .map(|_| {
                    threads.spawn(|| {
                        let mut client = scene.login();
                        let at = Instant::now();
                        is_clean(&mut client);
                        client.terminate();
                        at
                    })
                })
                .collect();
            scene.wait_for_pool("cl_waiting", 5);
            // Long enough that the pauses between attempts have grown to what they may grow to.
            thread::sleep(Duration::from_millis(1_200));
            let rows = scene.show("POOLS");
            assert!(rows[0]["last_error"].contains("failed"), "{rows:?}");
            cluster.start_again();
            let back = Instant::now();
            let served = waiting
                .into_iter()
                .map(|waiter| waiter.join().expect("served"));
            served.map(|at| at.saturating_duration_since(back)).max()
        });
        // About half a second; generous, since the machine may be busy.
        assert!(served < Some(Duration::from_secs(5)), "{how:?}: {served:?}");
        scene.wait_for_rest();
        assert!(!scene.show("POOLS")[0].contains_key("last_error"));
    }
}

/// S6: a server that shuts down says 57P03; clients wait for better times, and get the server's own error if they don't come.
#[test]
fn clients_wait_while_the_server_refuses_because_it_shuts_down_or_starts_up() {
    let cluster = Cluster::start();
    let scene = Scene::new(&cluster, "fault_57p03", "  acquire_timeout: 15s\n");
    let hasty = Pooler::start(&yaml(
        &tcp(&cluster, &scene.database),
        "",
        "  acquire_timeout: 700ms\n",
    ));
    let direct = Wire::login(cluster.port(), "username", PASSWORD, &scene.database);
    let postmaster = cluster.pid().expect("it runs");
    process::signal(postmaster, Signal::SIGTERM);
    wait_until("it shuts down", || {
        let parameters = [("user", "username"), ("database", scene.database.as_str())];
        let refused = Wire::try_login(cluster.port(), &parameters, PASSWORD).err();
        refused.is_some_and(|error| error.sqlstate() == "57P03")
    });
    thread::scope(|threads| {
        let waiter = threads.spawn(|| scene.login());
        scene.wait_for_pool("cl_waiting", 1);
        let error = refusal(&hasty, &scene.database);
        assert_eq!(error.sqlstate(), "57P03", "{error:?}");
        assert_eq!(error.message(), "the database system is shutting down");
        assert!(error.field(b'D').contains("acquire_timeout"), "{error:?}");
        assert_eq!(scene.pool("cl_waiting"), 1, "the other still waits");
        direct.terminate();
        cluster.restart(Stop::Fast);
        is_clean(&mut waiter.join().expect("served"));
    });
}

/// S6: "too many connections" is passed on only by a pool that has no connection at all.
#[test]
fn a_server_that_has_no_more_room_makes_clients_wait_for_a_connection_of_the_pool() {
    // Three of the five are kept for superusers.
    let options = cluster::Options {
        max_connections: 5,
        ..cluster::Options::default()
    };
    let cluster = Cluster::start_with(&options);
    let scene = Scene::new(&cluster, "fault_53300", "  max_connections: 10\n");
    let mut first = scene.login();
    let second = scene.login();
    thread::scope(|threads| {
        let waiters: Vec<_> = (0..3)
            .map(|_| threads.spawn(|| scene.login().terminate()))
            .collect();
        scene.wait_for_pool("cl_waiting", 3);
        assert_eq!(first.value("SELECT 1").as_deref(), Some("1"));
        second.terminate();
        for waiter in waiters {
            waiter.join().expect("served by the two that there are");
        }
    });
    first.terminate();
    scene.wait_for_rest();
    drop(scene);

    let direct = || Wire::login(cluster.port(), "username", PASSWORD, "fault_53300");
    wait_until("the pool's connections are gone", || {
        cluster.sql(
            "postgres",
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'username'",
        ) == "0"
    });
    let _others = [direct(), direct()];
    let pooler = Pooler::start(&yaml(&tcp(&cluster, "fault_53300"), "", ""));
    let error = refusal(&pooler, "fault_53300");
    assert_eq!(
        (error.severity(), error.sqlstate()),
        ("FATAL", "53300"),
        "{error:?}"
    );
    assert!(error.message().contains("remaining"), "{error:?}");
}

/// S8: a whole server that stops answering: the check finds out, the client is told in bounded time, and all is well again
/// when it goes on.
#[test]
fn a_server_that_stops_answering_costs_clients_acquire_timeout_and_no_more() {
    let cluster = Cluster::start();
    let keys = "  check_delay: 0\n  check_timeout: 300ms\n  connect_timeout: 500ms\n  acquire_timeout: 2s\n";
    let scene = Scene::new(&cluster, "fault_frozen", keys);
    let clients: Vec<Wire> = (0..3).map(|_| scene.login()).collect();
    clients.into_iter().for_each(Wire::terminate);
    scene.wait_for_pool("sv_idle", 3);
    cluster.freeze();
    let error = scene.try_login().err().expect("nobody answers");
    assert_eq!(error.sqlstate(), "08006", "{error:?}");
    assert!(error.message().contains("connect_timeout"), "{error:?}");
    cluster.thaw();
    is_clean(&mut scene.login());
    scene.wait_for_rest();
}

/// A refused login left `last_error` empty, and was a warning each second. The server comes from a DSN with a wrong password.
#[test]
fn a_login_that_the_server_refuses_is_in_the_console_and_once_in_the_log() {
    let cluster = Cluster::shared();
    let database = cluster.database("fault_refused");
    cluster.sql("postgres", "DROP ROLE IF EXISTS fault_refused");
    cluster.sql(
        "postgres",
        "CREATE ROLE fault_refused LOGIN PASSWORD 'right'",
    );
    let dsn = format!(
        "postgres://fault_refused:wrong@127.0.0.1:{}/{database}",
        cluster.port()
    );
    let keys = "  min_idle_connections: 2\n";
    let pooler = Pooler::start(
        &yaml(&dsn, ", log_level: debug", keys).replace("[username]", "[fault_refused]"),
    );
    let mut console = Wire::login(pooler.port(), "fault_refused", "wrong", "aether");
    let mut last_error = || {
        scene::show(&mut console, "POOLS")[0]
            .get("last_error")
            .cloned()
    };
    wait_until("the console says it", || {
        last_error().is_some_and(|text| text.contains("password authentication failed"))
    });
    pooler.wait_for_log("cannot log in to a server again: password authentication failed");
    let warnings = |log: String| {
        log.matches("[WARN] pool fault_refused: cannot log in")
            .count()
    };
    let log = pooler.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("cannot log in to a server:"))
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(warnings(log.clone()) <= 1, "{log}");

    // A client that asks has an attempt of its own at once, and one success is enough.
    cluster.sql("postgres", "ALTER ROLE fault_refused PASSWORD 'wrong'");
    let client = Wire::login(pooler.port(), "fault_refused", "wrong", &database);
    pooler.wait_for_log("the server can be reached again");
    wait_until("the console has forgotten it", || last_error().is_none());
    client.terminate();
}

#[test]
fn a_server_that_is_not_there_is_named_in_the_error() {
    let port = closed_port();
    for (host, said) in [
        (
            format!("127.0.0.1:{port}"),
            format!("connection to server at 127.0.0.1:{port} failed: Connection refused"),
        ),
        (
            format!("/database?host=/nonexistent&port={port}"),
            format!(
                "connection to server at /nonexistent/.s.PGSQL.{port} failed: No such file or directory"
            ),
        ),
        (
            "no-such-host.invalid".to_owned(),
            "no-such-host.invalid".to_owned(),
        ),
    ] {
        let pooler = Pooler::start(&yaml(
            &format!(
                "postgres://username:{PASSWORD}@{host}{}",
                if host.starts_with('/') {
                    ""
                } else {
                    "/database"
                }
            ),
            "",
            "  acquire_timeout: 600ms\n  connect_timeout: 400ms\n",
        ));
        let error = refusal(&pooler, "database");
        assert_eq!(
            (error.severity(), error.sqlstate()),
            ("FATAL", "08006"),
            "{error:?}"
        );
        assert!(error.message().contains(&said), "{error:?}");
        assert!(error.field(b'D').contains("Pool \"database\""), "{error:?}");
        assert!(error.hint().contains("pool.dsn"), "{error:?}");
        assert!(pooler.log_contains(&said), "it is in the log as well");
    }
}

/// B46, and what a DSN may say.
#[test]
fn a_server_is_reached_by_name_by_socket_by_ipv6_and_as_the_one_of_several_that_is_there() {
    let mut options = cluster::Options::default();
    let ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if ipv6 {
        options
            .conf
            .push("listen_addresses = '127.0.0.1, ::1'".to_owned());
    }
    let cluster = Cluster::start_with(&options);
    let (port, dead) = (cluster.port(), closed_port());
    let socket = cluster.socket_dir().display().to_string();
    let reach = |place: &str| {
        let pooler = Pooler::start(&yaml(
            &format!("postgres://username:{PASSWORD}@{place}"),
            "",
            "  acquire_timeout: 3s\n",
        ));
        let parameters = [("user", "username"), ("database", "database")];
        let mut client = Wire::try_login(pooler.port(), &parameters, PASSWORD)?;
        Ok::<_, crate::support::ServerError>(client.value("SELECT inet_server_addr()"))
    };
    let v4 = Some("127.0.0.1".to_owned());
    let places = [
        (format!("localhost:{port}/database"), v4.clone()),
        (
            format!("127.0.0.1:{dead},127.0.0.1:{port}/database"),
            v4.clone(),
        ),
        (
            format!("no-such-host.invalid:{port},127.0.0.1:{dead},127.0.0.1:{port}/database"),
            v4,
        ),
        (format!("/database?host={socket}&port={port}"), None),
    ];
    for (place, address) in places {
        let reached = reach(&place).unwrap_or_else(|error| panic!("{place}: {error:?}"));
        if !(ipv6 && place.starts_with("localhost")) {
            assert_eq!(reached, address, "{place}");
        }
    }
    let by_ipv6 = reach(&format!("[::1]:{port}/database"));
    match by_ipv6 {
        Ok(address) => assert_eq!(address.as_deref(), Some("::1")),
        Err(error) => {
            assert!(!ipv6, "{error:?}");
            assert_eq!(error.sqlstate(), "08006");
        }
    }
}

/// B3, C6, C7. A query is executed once if all of it was sent, and not at all otherwise; after a reset of the connection what
/// was sent may be lost on the way.
#[test]
fn a_client_that_goes_away_at_any_byte_of_a_query_does_no_harm() {
    let scene = Scene::new(
        Cluster::shared(),
        "fault_cut_query",
        "  max_connections: 1\n",
    );
    let message = wire::message(b'Q', &terminated("INSERT INTO cut VALUES (1)"));
    let executed = cut_everywhere(&scene, &message);
    assert_eq!(executed[0], 1, "closed after the whole query");
    assert!(executed[1] <= 1, "reset after the whole query");
}

/// B3, B7, C6, C7. Without Sync nothing is committed.
#[test]
fn a_client_that_goes_away_at_any_byte_of_an_extended_query_does_no_harm() {
    let scene = Scene::new(
        Cluster::shared(),
        "fault_cut_extended",
        "  max_connections: 1\n",
    );
    let batch = [
        wire::parse("s", "INSERT INTO cut VALUES ($1)"),
        wire::bind("p", "s", &["1"]),
        wire::execute("p", 0),
        wire::sync(),
    ]
    .concat();
    let executed = cut_everywhere(&scene, &batch);
    assert_eq!(executed[0], 1, "closed after Sync");
    assert!(executed[1] <= 1, "reset after Sync");
}

/// Sends every prefix of `bytes` on a session of its own, and goes away; how often it was executed by FIN and by RST.
fn cut_everywhere(scene: &Scene, bytes: &[u8]) -> [u64; 2] {
    let mut watcher = Wire::login(
        Cluster::shared().port(),
        "username",
        PASSWORD,
        &scene.database,
    );
    watcher.run("CREATE TABLE cut (n int)");
    [Exit::Close, Exit::Reset].map(|how| {
        for length in 0..=bytes.len() {
            let mut client = scene.login();
            client.send(&bytes[..length]);
            exit(client, how);
            // The pool has one connection: this is the next client, on the same server or a new one.
            is_clean(&mut scene.login());
            if length < bytes.len() {
                let count = watcher.value("SELECT count(*) FROM cut");
                assert_eq!(count.as_deref(), Some("0"), "{how:?} after {length} bytes");
            }
        }
        scene.wait_for_rest();
        let count =
            watcher.value("WITH gone AS (DELETE FROM cut RETURNING 1) SELECT count(*) FROM gone");
        count.and_then(|text| text.parse().ok()).expect("a count")
    })
}

/// C6, found here: the goodbye to the server was appended to a half query, and with two bytes missing "X\0" made it whole:
/// another statement than the client's was executed.
#[test]
fn half_a_query_is_never_completed_by_somebody_else() {
    let scene = Scene::new(
        Cluster::shared(),
        "fault_goodbye_in_query",
        "  max_connections: 1\n",
    );
    let mut watcher = Wire::login(
        Cluster::shared().port(),
        "username",
        PASSWORD,
        &scene.database,
    );
    watcher.run("CREATE TABLE data_x AS SELECT 1 AS n");
    let query = wire::message(b'Q', &terminated("DROP TABLE data_y"));
    for how in [Exit::Close, Exit::Reset] {
        let mut client = scene.login();
        client.run("SELECT 1");
        let pid = client.pid;
        let received = || scene.show("STATS")[0]["total_received"].clone();
        let before = received();
        client.send(&query[..query.len() - 2]);
        wait_until("it is on its way to the server", || received() != before);
        exit(client, how);
        is_clean(&mut scene.login());
        wait_until("the backend is gone", || {
            let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
            watcher.value(&sql).as_deref() == Some("0")
        });
        assert_eq!(
            watcher.value("SELECT count(*) FROM data_x").as_deref(),
            Some("1"),
            "{how:?}"
        );
    }
}

/// C7, B11: half a COPY is not committed.
#[test]
fn a_client_that_goes_away_in_the_middle_of_a_copy_commits_nothing() {
    let scene = Scene::new(Cluster::shared(), "fault_copy", "  max_connections: 1\n");
    let mut watcher = scene.login();
    watcher.run("CREATE TABLE copied (n int)");
    watcher.terminate();
    let row = wire::message(b'd', b"1\n");
    for how in [Exit::Close, Exit::Reset] {
        // Before any row, after some, and in the middle of one.
        for sent in [Vec::new(), row.repeat(100), row[..6].to_vec()] {
            let mut client = scene.login();
            client.send_message(b'Q', &terminated("COPY copied FROM STDIN"));
            assert_eq!(client.read_message().kind, b'G');
            client.send(&sent);
            exit(client, how);
            let mut next = scene.login();
            is_clean(&mut next);
            assert_eq!(
                next.value("SELECT count(*) FROM copied").as_deref(),
                Some("0"),
                "{how:?}"
            );
            next.terminate();
        }
    }
    scene.wait_for_rest();
}

/// C7, B31.
#[test]
fn a_transaction_that_is_left_open_is_rolled_back_however_the_client_leaves() {
    let scene = Scene::new(
        Cluster::shared(),
        "fault_transaction",
        "  max_connections: 1\n",
    );
    let mut client = scene.login();
    client.run("CREATE TABLE kept (n int)");
    let pid = client.pid;
    client.terminate();
    let leave: [fn(Wire); 3] = [
        |client| client.terminate(),
        |client| exit(client, Exit::Close),
        |client| exit(client, Exit::Reset),
    ];
    for leave in leave {
        for failed in [false, true] {
            let mut client = scene.login();
            client.run("BEGIN");
            client.run("INSERT INTO kept VALUES (1)");
            if failed {
                client.error("SELECT 1/0");
            }
            leave(client);
            let mut next = scene.login();
            is_clean(&mut next);
            assert_eq!(next.pid, pid, "the server is good for another client");
            assert_eq!(
                next.value("SELECT count(*) FROM kept").as_deref(),
                Some("0")
            );
            next.terminate();
        }
    }
    scene.wait_for_rest();
}

/// B31: goodbye right behind a query. PostgreSQL does the query; so must we.
#[test]
fn goodbye_while_a_query_runs_lets_the_query_finish() {
    let scene = Scene::new(Cluster::shared(), "fault_goodbye", "  max_connections: 1\n");
    let mut client = scene.login();
    client.run("CREATE TABLE done (n int)");
    let bytes = [
        wire::message(
            b'Q',
            &terminated("SELECT pg_sleep(0.3); INSERT INTO done VALUES (1)"),
        ),
        wire::message(b'X', &[]),
    ];
    client.send(&bytes.concat());
    client.read_to_end();
    let mut next = scene.login();
    is_clean(&mut next);
    assert_eq!(
        next.value("SELECT count(*) FROM done").as_deref(),
        Some("1")
    );
}

/// C7, B12: results that nobody reads, as many small rows and as a single large one.
#[test]
fn a_client_that_leaves_with_unread_results_frees_its_server() {
    let scene = Scene::new(Cluster::shared(), "fault_unread", "  max_connections: 1\n");
    for sql in [
        "SELECT repeat('x', 1000) FROM generate_series(1, 30000)",
        "SELECT repeat('x', 60000000)",
    ] {
        for how in [Exit::Close, Exit::Reset] {
            for read in [0, 1, 100_000] {
                let mut client = scene.login();
                client.send_message(b'Q', &terminated(sql));
                let mut taken = vec![0; read];
                client.stream.read_exact(&mut taken).expect("results");
                exit(client, how);
                is_clean(&mut scene.login());
            }
        }
    }
    scene.wait_for_rest();
}

/// C8.
#[test]
fn a_client_that_closes_its_sending_side_still_gets_what_it_asked_for() {
    let scene = Scene::new(Cluster::shared(), "fault_half", "  max_connections: 1\n");
    let mut client = scene.login();
    let queries = [
        wire::message(b'Q', &terminated("SELECT pg_sleep(0.3)")),
        wire::message(
            b'Q',
            &terminated("SELECT repeat('x', 1000) FROM generate_series(1, 5000)"),
        ),
    ];
    client.send(&queries.concat());
    client.stream.shutdown(Shutdown::Write).expect("half-close");
    let answer = client.read_to_end();
    let rows = answer.iter().filter_map(wire::Message::row).count();
    assert_eq!(rows, 5_001);
    assert_eq!(answer.last().map(|last| last.kind), Some(b'Z'));
    is_clean(&mut scene.login());
    scene.wait_for_rest();
}

/// C9: it gets all of it, unharmed, and holds up nobody else.
#[test]
fn a_slow_reader_gets_everything_and_holds_up_nobody() {
    let scene = Scene::new(Cluster::shared(), "fault_slow", "");
    let mut slow = scene.login();
    slow.send_message(
        b'Q',
        &terminated("SELECT lpad(n::text, 1000, '0') FROM generate_series(1, 20000) n"),
    );
    for round in 0..20 {
        // Nothing is read here, so that everything on the way is full.
        let mut quick = scene.login();
        assert_eq!(quick.value("SELECT 1").as_deref(), Some("1"));
        quick.terminate();
        for _ in 0..10 {
            let message = slow.read_message();
            assert!(b"TD".contains(&message.kind), "round {round}: {message:?}");
        }
    }
    let rest = slow.read_until(b'Z');
    let last = rest.iter().filter_map(wire::Message::row).next_back();
    let number = last.and_then(|row| row.into_iter().next().flatten());
    assert_eq!(number, Some(format!("{:0>1000}", 20_000)));
    assert_eq!(rest.iter().filter(|m| m.kind == b'D').count(), 20_000 - 199);
    slow.terminate();
    scene.wait_for_rest();
}

/// B10: the server has given the COPY up, and the client, who cannot know yet, goes on sending.
#[test]
fn a_copy_that_fails_early_does_not_cost_the_pool_its_server() {
    let scene = Scene::new(
        Cluster::shared(),
        "fault_copy_late",
        "  max_connections: 1\n",
    );
    let mut client = scene.login();
    client.run("CREATE TABLE few (n int PRIMARY KEY)");
    client.terminate();
    let rows = wire::message(b'd', b"1\n").repeat(200);
    for round in 0..100 {
        let in_transaction = round % 2 == 1;
        let mut client = scene.login();
        if in_transaction {
            client.run("BEGIN");
        }
        client.send_message(b'Q', &terminated("COPY few FROM STDIN"));
        assert_eq!(client.read_message().kind, b'G');
        client.send(&rows);
        if round % 4 < 2 {
            // Late for sure: the error is here already.
            client.send_message(b'c', &[]);
            let answer = client.read_until(b'Z');
            assert_eq!(kinds(&answer), "EZ");
            assert_eq!(first_error(&answer).expect("an error").sqlstate(), "23505");
            client.send(&rows);
            client.send_message(b'c', &[]);
            let status = client.run("ROLLBACK").pop().expect("ReadyForQuery").body;
            assert_eq!(status, b"I");
            assert_eq!(
                client.value("SELECT count(*) FROM few").as_deref(),
                Some("0")
            );
        } else {
            client.send_message(b'f', &terminated("given up"));
            let answer = client.read_until(b'Z');
            assert_eq!(kinds(&answer), "EZ");
        }
        client.terminate();
    }
    scene.wait_for_rest();
    assert_eq!(
        scene.show("STATS")[0]["total_server_connects"],
        "1",
        "the same server, a hundred times"
    );
    is_clean(&mut scene.login());
}

/// Found by reading: a Sync sent into a COPY is swallowed, but answered where the COPY fails before it is read. A client that
/// leaves on the first ReadyForQuery leaves the second one to the reset.
#[test]
fn a_sync_behind_a_copy_that_fails_confuses_no_reset_and_no_next_client() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "fault_copy_sync", "  max_connections: 1\n");
    let mut client = scene.login();
    client.run(
        "CREATE TABLE never (n int); \
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$no$$; END'; \
         CREATE TRIGGER refuse BEFORE INSERT ON never FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
    );
    client.terminate();
    let copy = [
        wire::message(b'Q', &terminated("COPY never FROM STDIN")),
        wire::sync(),
    ]
    .concat();
    for round in 0..60 {
        let mut client = scene.login();
        client.send(&copy);
        assert_eq!(kinds(&client.read_until(b'Z')), "GEZ");
        if round == 0 {
            assert_eq!(
                kinds(&client.read_until(b'Z')),
                "Z",
                "this is what PostgreSQL does"
            );
        }
        client.terminate();
        is_clean(&mut scene.login());
    }
}

/// B28: nobody may stop reading because he cannot write, if the other end does the same.
#[test]
fn queries_and_results_stream_past_each_other() {
    let scene = Scene::new(Cluster::shared(), "fault_duplex", "");
    let mut client = scene.login();
    let count = 16_000;
    let query = |n: usize| {
        let padding = "y".repeat(1_000);
        let sql = format!("SELECT {n}, repeat('x', 1000) /* {padding} */");
        wire::message(b'Q', &terminated(&sql))
    };
    let mut writer = client.stream.try_clone().expect("a second handle");
    thread::scope(|threads| {
        threads.spawn(move || {
            for from in (0..count).step_by(100) {
                let chunk: Vec<u8> = (from..from + 100).flat_map(query).collect();
                writer.write_all(&chunk).expect("it is read in the end");
            }
        });
        for n in 0..count {
            let answer = client.read_until(b'Z');
            assert_eq!(kinds(&answer), "TDCZ");
            let row = answer[1].row().expect("a row");
            assert_eq!(row[0], Some(n.to_string()), "in order");
        }
    });
    client.terminate();
    scene.wait_for_rest();
}

/// C10.
#[test]
fn a_hundred_thousand_tiny_queries_in_one_go_are_all_answered() {
    let scene = Scene::new(Cluster::shared(), "fault_pipeline", "");
    let mut client = scene.login();
    let count = 100_000;
    let mut writer = client.stream.try_clone().expect("a second handle");
    thread::scope(|threads| {
        threads.spawn(move || {
            let simple = wire::message(b'Q', &terminated("")).repeat(count);
            writer.write_all(&simple).expect("it is read in the end");
            // And as many messages that are answered by nothing more than a Sync asks for.
            let bound = [wire::parse("", ""), wire::bind("", "", &[])].concat();
            let pipeline = [bound.repeat(count / 4), wire::sync()].concat();
            writer.write_all(&pipeline).expect("it is read in the end");
        });
        let mut answers = std::collections::BTreeMap::new();
        let mut ready = 0;
        while ready < count + 1 {
            let kind = client.read_message().kind;
            *answers.entry(char::from(kind)).or_insert(0) += 1;
            ready += usize::from(kind == b'Z');
        }
        let expected = [
            ('1', count / 4),
            ('2', count / 4),
            ('I', count),
            ('Z', count + 1),
        ];
        assert_eq!(answers.into_iter().collect::<Vec<_>>(), expected);
    });
    is_clean(&mut client);
    client.terminate();
    scene.wait_for_rest();
}

fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks: u64 = fields[11..=12]
        .iter()
        .map(|text| text.parse::<u64>().expect("ticks"))
        .sum();
    Duration::from_millis(ticks * 10)
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it runs")
        .count()
}

/// Catalogue fault R1, B41: the loop must not spin on a listener that it cannot serve, and those who are in are served on.
#[test]
fn a_process_without_descriptors_neither_spins_nor_forgets_its_clients() {
    let scene = Scene::new(Cluster::shared(), "fault_emfile", "");
    let mut clients = [scene.login(), scene.login()];
    scene.wait_for_pool("cl_active", 2);
    let pid = scene.pooler.pid();
    let room = 4;
    let limit = format!("--nofile={}", open_files(pid) + room);
    let mut prlimit = process::command(Path::new("/usr/bin/prlimit"));
    let status = prlimit.args(["--pid", &pid.to_string(), &limit]).status();
    assert!(status.expect("prlimit, of util-linux").success());
    let strangers: Vec<Wire> = (0..20)
        .map(|_| Wire::connect(scene.pooler.port()))
        .collect();
    scene.pooler.wait_for_log("cannot accept connections");
    let before = cpu_time(pid);
    thread::sleep(Duration::from_millis(1_500));
    let used = cpu_time(pid) - before;
    assert!(used < Duration::from_millis(500), "{used:?} of CPU time");
    for client in &mut clients {
        is_clean(client);
    }
    drop(strangers);
    // Room for the client and for its server.
    is_clean(&mut scene.login());
}

/// Catalogue fault R1: normally it does not come to that, since clients are only let in as far as descriptors are left for servers.
#[test]
fn a_low_limit_of_open_files_leaves_descriptors_for_servers() {
    let cluster = Cluster::shared();
    let database = cluster.database("fault_nofile");
    let keys = "  max_connections: 5\n";
    let pooler = Pooler::start_under(
        &["/usr/bin/prlimit", "--nofile=100"],
        &yaml(&tcp(cluster, &database), "", keys),
    );
    pooler.wait_for_log("at most 100 files may be open: max_client_connections is 31");
    let login = || Wire::login(pooler.port(), "username", PASSWORD, &database);
    let mut clients = [login(), login(), login()];
    let strangers: Vec<Wire> = (0..28).map(|_| Wire::connect(pooler.port())).collect();
    wait_until("they are in", || open_files(pooler.pid()) >= 34);
    let error = refusal(&pooler, &database);
    assert_eq!(error.sqlstate(), "53300", "{error:?}");
    for client in &mut clients {
        is_clean(client);
    }
    drop(strangers);
    wait_until("there is room for two more, and for their servers", || {
        let parameters = [("user", "username"), ("database", database.as_str())];
        Wire::try_login(pooler.port(), &parameters, PASSWORD).is_ok_and(|mut client| {
            is_clean(&mut client);
            true
        })
    });
    assert!(!pooler.log_contains("cannot accept connections"));
}

/// Catalogue fault R3: a full disk under the log costs lines.
#[test]
fn a_log_that_cannot_be_written_disturbs_nobody() {
    let cluster = Cluster::shared();
    let database = cluster.database("fault_enospc");
    let place = Place::new("enospc");
    let port = process::free_port();
    let text = yaml(&tcp(cluster, &database), "", "").replace("{port}", &port.to_string());
    let mut command = process::command(binary());
    command.arg(place.write("aether.yaml", &text));
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    command
        .stderr(full.try_clone().expect("a copy"))
        .stdout(full);
    let mut child = process::spawn(command).expect("it starts");
    wait_until("it listens", || process::listening(port));
    for _ in 0..3 {
        let parameters = [("user", "username"), ("database", database.as_str())];
        assert!(Wire::try_login(port, &parameters, "wrong").is_err());
        is_clean(&mut Wire::login(port, "username", PASSWORD, &database));
    }
    assert!(child.try_wait().expect("it is ours").is_none(), "it lives");
    process::signal(child.id(), Signal::SIGTERM);
    assert!(child.wait().expect("it ends").success());
}

/// The console answers while the server is gone; so an operator can look.
#[test]
fn the_console_works_without_any_server() {
    let pooler = Pooler::start(&yaml(
        &format!(
            "postgres://username:{PASSWORD}@127.0.0.1:{}/database",
            closed_port()
        ),
        "",
        "  min_idle_connections: 1\n",
    ));
    pooler.wait_for_log("cannot log in to a server");
    let mut console = Wire::login(pooler.port(), "username", PASSWORD, "aether");
    let rows = scene::show(&mut console, "POOLS");
    assert_eq!(scene::pool(&rows, "database", "total_sessions"), 0);
    assert!(rows[0]["last_error"].contains("failed"), "{rows:?}");
}
