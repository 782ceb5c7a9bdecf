//! Issue 6, proof 4: reloads, changed options, graceful ends and rolling restarts while pgbench is at work; no transaction fails where
//! none may fail. (SIGUSR1 and SIGUSR2 are in `signals`, `-R` in `succession`.)

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::cluster::PASSWORD;
use crate::support::process::{self, Place};
use crate::support::{Cluster, PATIENCE, Pooler, Wire, wait_until};

/// A transaction of two halves: one without the other is a failure.
const SCRIPT: &str = "BEGIN;\nINSERT INTO halves VALUES (:client_id);\nINSERT INTO halves VALUES (:client_id);\nCOMMIT;\n";

struct Bench {
    child: Child,
    _place: Place,
}

/// What came of it.
struct Came {
    is_fine: bool,
    processed: u64,
    said: String,
}

impl Bench {
    fn start(cluster: &Cluster, port: u16, database: &str, clients: u32, length: &[&str]) -> Bench {
        let place = Place::new("pgbench");
        let script = place.write("halves.sql", SCRIPT);
        let clients = clients.to_string();
        let mut command = Command::new(cluster.program("pgbench"));
        command
            .args(["-n", "-h", "127.0.0.1", "-U", "username"])
            .args(["-p", &port.to_string(), "-c", &clients, "-j", &clients])
            .args(length)
            .arg("-f")
            .arg(script)
            .arg(database)
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().expect("pgbench runs");
        Bench {
            child,
            _place: place,
        }
    }

    fn end(self) -> Came {
        let output = self.child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let processed = said
            .lines()
            .find_map(|line| line.strip_prefix("number of transactions actually processed: "))
            .and_then(|count| count.split('/').next()?.trim().parse().ok())
            .unwrap_or_else(|| panic!("{said}"));
        let is_fine = output.status.success()
            && said.contains("number of failed transactions: 0 ")
            && !["ERROR", "FATAL", "aborted"]
                .iter()
                .any(|word| said.contains(word));
        Came {
            is_fine,
            processed,
            said,
        }
    }
}

/// A pooler that was started from an ini, and its database.
struct Stage {
    pooler: Pooler,
    cluster: &'static Cluster,
    database: String,
    place: Place,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let cluster = Cluster::shared();
        let database = prepared(cluster, name);
        let place = Place::new(name);
        let line = |user: &str| format!("\"{user}\" \"{PASSWORD}\"\n");
        place.write("userlist.txt", &(line("username") + &line("admin")));
        let pooler = Pooler::start(&ini(
            cluster,
            &database,
            &place,
            "",
            "default_pool_size = 4",
        ));
        Stage {
            pooler,
            cluster,
            database,
            place,
        }
    }

    fn bench(&self, clients: u32, length: &[&str]) -> Bench {
        let bench = Bench::start(
            self.cluster,
            self.pooler.port(),
            &self.database,
            clients,
            length,
        );
        wait_until("pgbench is at work", || {
            rows(self.cluster, &self.database) > 20
        });
        bench
    }
}

fn prepared(cluster: &Cluster, name: &str) -> String {
    let database = cluster.database(name);
    let sql = "CREATE TABLE halves (client int); GRANT ALL ON halves TO username";
    cluster.sql(&database, sql);
    database
}

fn rows(cluster: &Cluster, database: &str) -> u64 {
    let count = cluster.sql(database, "SELECT count(*) FROM halves");
    count.trim().parse().expect("a number")
}

fn ini(cluster: &Cluster, database: &str, place: &Place, entry: &str, more: &str) -> String {
    format!(
        "[databases]\n{database} = host=127.0.0.1 port={} {entry}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {{port}}\n\
         unix_socket_dir =\nauth_file = {}/userlist.txt\nadmin_users = admin\npool_mode = transaction\n{more}\n",
        cluster.port(),
        place.path().display()
    )
}

/// What may be changed without anybody noticing: sizes, caps, times, how servers are chosen and replaced, the log, who gets in.
#[test]
fn pgbench_does_not_notice_reloads_and_changed_options() {
    let stage = Stage::new("bench_reload");
    let bench = stage.bench(8, &["-T", "6"]);
    let files = [
        ("", "default_pool_size = 2\nserver_idle_timeout = 0.2"),
        (
            "pool_size=6 min_pool_size=3",
            "reserve_pool_size = 2\nreserve_pool_timeout = 0.1",
        ),
        (
            "",
            "max_db_connections = 3\nserver_round_robin = 1\nserver_lifetime = 1",
        ),
        (
            "",
            "server_lifetime = 0\nlog_disconnections = 0\nmax_prepared_statements = 0",
        ),
        (
            "connect_query='SELECT 1'",
            "server_check_delay = 0\nserver_check_query = SELECT 2",
        ),
        (
            "application_name=other",
            "max_user_connections = 2\nverbose = 1\nlog_connections = 0",
        ),
        (
            "",
            "query_timeout = 30\ntransaction_timeout = 30\nidle_transaction_timeout = 30\nclient_idle_timeout = 30",
        ),
        (
            "",
            "auth_type = scram-sha-256\nmax_client_conn = 50\nserver_reset_query_always = 1",
        ),
        (
            "host=127.0.0.1,localhost",
            "server_tls_sslmode = disable\ndns_max_ttl = 1",
        ),
    ];
    let mut console = Wire::login(stage.pooler.port(), "admin", PASSWORD, "pgbouncer");
    for round in 0..3 {
        for (entry, more) in files {
            let text = ini(stage.cluster, &stage.database, &stage.place, entry, more);
            let before = stage
                .pooler
                .log()
                .matches("configuration was reloaded")
                .count();
            stage.pooler.rewrite_config(&text);
            stage.pooler.signal(Signal::SIGHUP);
            wait_until("it was read again", || {
                stage
                    .pooler
                    .log()
                    .matches("configuration was reloaded")
                    .count()
                    > before
            });
            for command in [
                "SET default_pool_size = 3",
                "SET server_idle_timeout = 1",
                "RECONNECT",
            ] {
                console.run(command);
                thread::sleep(Duration::from_millis(20));
            }
        }
        assert!(round < 3);
    }
    let came = bench.end();
    assert!(came.is_fine, "{}", came.said);
    assert_eq!(rows(stage.cluster, &stage.database), 2 * came.processed);
}

#[test]
fn sigterm_waits_until_pgbench_has_finished() {
    let mut stage = Stage::new("bench_sigterm");
    let bench = stage.bench(6, &["-t", "400"]);
    stage.pooler.signal(Signal::SIGTERM);
    stage
        .pooler
        .wait_for_log("waiting for all clients disconnect");
    wait_until("nobody listens", || {
        !process::listening(stage.pooler.port())
    });
    let came = bench.end();
    assert!(came.is_fine, "{}", came.said);
    assert_eq!(came.processed, 6 * 400);
    assert_eq!(rows(stage.cluster, &stage.database), 2 * came.processed);
    let end = stage.pooler.wait_for_end(PATIENCE);
    assert!(end.is_some_and(|end| end.success()), "{end:?}");
    stage
        .pooler
        .wait_for_log("client connections dropped, exiting");
}

/// pgbench is told to go between two transactions: none is left half done, none is done that it does not know of.
#[test]
fn sigint_ends_pgbench_between_two_transactions() {
    let mut stage = Stage::new("bench_sigint");
    let bench = stage.bench(6, &["-T", "30"]);
    stage.pooler.signal(Signal::SIGINT);
    let came = bench.end();
    assert!(!came.is_fine, "it cannot go on");
    assert!(came.said.contains("is being stopped"), "{}", came.said);
    assert_eq!(rows(stage.cluster, &stage.database), 2 * came.processed);
    let end = stage.pooler.wait_for_end(PATIENCE);
    assert!(end.is_some_and(|end| end.success()), "{end:?}");
    stage
        .pooler
        .wait_for_log("server connections dropped, exiting");
}

/// Two processes on one port, each of which is replaced while pgbench works through both and others come and go all the time.
#[test]
fn in_a_rolling_restart_no_transaction_fails_and_nobody_is_refused() {
    let cluster = Cluster::shared();
    let database = prepared(cluster, "bench_rolling");
    let shared = process::free_port();
    let member = |id: u16| {
        Pooler::start(&format!(
            "server: {{listen_addr: [\"127.0.0.1:{{port}}\", \"127.0.0.1:{shared}\"], so_reuseport: true, peer_id: {id}, \
             shutdown_timeout: 0}}\n\
             pool:\n  dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/{database}\"\n  max_connections: 6\n  mode: transaction\n",
            cluster.port()
        ))
    };
    let mut members = vec![member(1), member(2)];
    let (stop, visits, again) = (
        AtomicBool::new(false),
        AtomicU64::new(0),
        AtomicUsize::new(0),
    );
    let bench = Bench::start(cluster, shared, &database, 8, &["-T", "5"]);
    wait_until("pgbench is at work", || rows(cluster, &database) > 20);
    let mut old = Vec::new();
    thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Between the last look at its queue and its end, a listener may lose whom the kernel has just let in.
                    let Some(mut client) = visitor(shared, &database) else {
                        again.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    assert_eq!(client.value("SELECT 7").as_deref(), Some("7"));
                    client.terminate();
                    visits.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let some = || {
            let before = visits.load(Ordering::Relaxed);
            wait_until("others come and go", || {
                visits.load(Ordering::Relaxed) > before + 30
            });
        };
        for id in [3, 4] {
            some();
            let leaves = members.remove(0);
            leaves.signal(Signal::SIGTERM);
            leaves.wait_for_log("waiting for all clients disconnect");
            some();
            members.push(member(id));
            old.push(leaves);
        }
        some();
        stop.store(true, Ordering::Relaxed);
    });
    let came = bench.end();
    assert!(came.is_fine, "{}", came.said);
    assert_eq!(rows(cluster, &database), 2 * came.processed);
    assert!(
        again.load(Ordering::Relaxed) <= 2,
        "{again:?} were turned away"
    );
    for mut pooler in old {
        let end = pooler.wait_for_end(PATIENCE);
        assert!(end.is_some_and(|end| end.success()), "{end:?}");
    }
}

/// A login; `None`: the connection was reset before anything was said.
fn visitor(port: u16, database: &str) -> Option<Wire> {
    let mut wire = Wire::try_connect(port).ok()?;
    let mut body = 196_608_i32.to_be_bytes().to_vec();
    for word in ["user", "username", "database", database, ""] {
        body.extend(word.as_bytes());
        body.push(0);
    }
    let packet = [
        &(u32::try_from(body.len() + 4).expect("short")).to_be_bytes()[..],
        &body,
    ]
    .concat();
    std::io::Write::write_all(&mut wire.stream, &packet).ok()?;
    // What comes first is peeked at, so that a reset is told from an answer.
    wire.stream.peek(&mut [0]).ok().filter(|count| *count > 0)?;
    wire.authenticate("username", PASSWORD)
        .expect("it is let in");
    wire.read_until(b'Z');
    Some(wire)
}
