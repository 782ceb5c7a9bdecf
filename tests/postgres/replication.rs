//! Replication connections, with PostgreSQL's own programs: physical and logical, one server each.

use std::cmp::Ordering;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::OnceLock;

use crate::support::cluster::Options;
use crate::support::process::{self, Place};
use crate::support::wire::{first_error, terminated};
use crate::support::{Cluster, Pooler, Wire, scene, wait_until};

/// A cluster that replicates, with few walsenders.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let conf = [
            "wal_level = logical",
            "max_wal_senders = 4",
            "max_replication_slots = 8",
        ];
        Cluster::start_with(&Options {
            conf: conf.map(str::to_owned).to_vec(),
            ..Options::default()
        })
    })
}

/// An Aether in front of one database of it, as superuser.
fn pooler(database: &str, keys: &str) -> Pooler {
    let port = cluster().port();
    Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nadmin: {{users: [postgres]}}\nauth: {{type: trust, allow_insecure: true}}\n\
         pool:\n  dsn: \"postgres://postgres@127.0.0.1:{port}/{database}\"\n{keys}"
    ))
}

/// One of PostgreSQL's programs, connected to Aether.
#[track_caller]
fn run(pooler: &Pooler, program: &str, arguments: &[&str]) -> Output {
    let mut command = process::command(&cluster().program(program));
    let port = pooler.port().to_string();
    command.args([
        "-h",
        "127.0.0.1",
        "-U",
        "postgres",
        "-p",
        &port,
        "--no-password",
    ]);
    command.args(arguments);
    command.output().expect("setpriv, of util-linux, starts it")
}

#[track_caller]
fn succeed(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

/// `replication` in SHOW SERVERS, of every server that is there.
fn replication(pooler: &Pooler, what: &str) -> Vec<String> {
    let mut console = Wire::login(pooler.port(), "postgres", "", "aether");
    let rows = scene::show(&mut console, what);
    console.terminate();
    let of_database = rows.into_iter().filter(|row| row["database"] != "aether");
    of_database.map(|row| row["replication"].clone()).collect()
}

/// Nothing is kept of a replication connection.
fn wait_until_none_is_left(pooler: &Pooler) {
    wait_until("no replication is left", || {
        replication(pooler, "SERVERS")
            .iter()
            .all(|word| word == "none")
    });
    let senders = "SELECT count(*) FROM pg_stat_replication";
    wait_until("the server has none", || {
        cluster().sql("postgres", senders) == "0"
    });
}

/// What was written arrives byte for byte, in segments that are the server's own.
#[test]
fn pg_receivewal_receives_the_servers_log() {
    let database = cluster().database("replication_wal");
    let pooler = pooler(&database, "  min_idle_connections: 1\n");
    let place = Place::new("wal");
    let slot = ["--slot", "receivewal"];
    // From here on, not from where the first one receives.
    let reserve = "SELECT pg_create_physical_replication_slot('receivewal', true)";
    cluster().sql(&database, reserve);
    cluster().sql(
        &database,
        "CREATE TABLE t AS SELECT n, repeat('x', 500) FROM generate_series(1, 9000) n",
    );
    let end = cluster().sql(&database, "SELECT pg_switch_wal()");
    let last = cluster().sql(&database, &format!("SELECT pg_walfile_name('{end}')"));
    let arguments = [
        &slot[..],
        &[
            "--directory",
            text(place.path()),
            "--endpos",
            &end,
            "--no-loop",
            "--verbose",
        ],
    ];
    succeed(&run(&pooler, "pg_receivewal", &arguments.concat()));
    // The other tests write, too: the table may lie in two segments, and the server's next one may have begun.
    let low = u64::from_str_radix(end.rsplit('/').next().expect("an LSN"), 16).expect("hex");
    let low = usize::try_from(low % (16 << 20)).expect("a place in a segment");
    let log = cluster().socket_dir().join("data/pg_wal");
    let mut compared = 0;
    for received in fs::read_dir(place.path()).expect("its directory").flatten() {
        let name = received
            .file_name()
            .into_string()
            .expect("a name of digits");
        let name = name.trim_end_matches(".partial");
        let written = match name.cmp(&last) {
            Ordering::Less => 16 << 20,
            Ordering::Equal if low == 0 => 16 << 20,
            Ordering::Equal => low,
            Ordering::Greater => continue,
        };
        let own = fs::read(log.join(name)).expect("the server's own");
        let received = fs::read(received.path()).expect("it");
        assert!(received.get(..written) == own.get(..written), "{name}");
        compared += written;
    }
    assert!(compared > 4_000_000, "{compared} bytes until {end}");
    succeed(&run(
        &pooler,
        "pg_receivewal",
        &[&slot[..], &["--drop-slot"]].concat(),
    ));
    wait_until_none_is_left(&pooler);
}

#[test]
fn pg_basebackup_makes_a_backup_that_pg_verifybackup_finds_whole() {
    let database = cluster().database("replication_base");
    let pooler = pooler(&database, "  mode: transaction\n");
    let place = Place::new("backup");
    let to = place.path().join("backup");
    let arguments = [
        "--pgdata",
        text(&to),
        "--wal-method",
        "stream",
        "--checkpoint",
        "fast",
    ];
    succeed(&run(&pooler, "pg_basebackup", &arguments));
    let mut verify = process::command(&cluster().program("pg_verifybackup"));
    succeed(&verify.arg(&to).output().expect("it starts"));
    wait_until_none_is_left(&pooler);
}

fn with<'a>(common: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [common, more].concat()
}

#[test]
fn pg_recvlogical_receives_what_has_changed() {
    let database = cluster().database("replication_logical");
    let pooler = pooler(&database, "  server_assignment: first_query\n");
    let place = Place::new("logical");
    let to = place.path().join("changes");
    let common = ["--dbname", &database, "--slot", "recvlogical"];
    let create = with(&common, &["--create-slot", "--plugin", "test_decoding"]);
    succeed(&run(&pooler, "pg_recvlogical", &create));
    cluster().sql(
        &database,
        "CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 20000)",
    );
    // The clusters of tests commit asynchronously: what is written is behind what was done, until a checkpoint.
    cluster().sql(&database, "CHECKPOINT");
    let end = cluster().sql(&database, "SELECT pg_current_wal_lsn()");
    let start = with(
        &common,
        &[
            "--start",
            "--endpos",
            &end,
            "--no-loop",
            "--file",
            text(&to),
        ],
    );
    succeed(&run(&pooler, "pg_recvlogical", &start));
    let changes = fs::read_to_string(&to).expect("what it received");
    let begin: String = changes.chars().take(300).collect();
    assert_eq!(
        changes.matches("table public.t: INSERT").count(),
        20_000,
        "{begin}"
    );
    assert!(changes.contains("n[integer]:20000"));
    succeed(&run(
        &pooler,
        "pg_recvlogical",
        &with(&common, &["--drop-slot"]),
    ));
    wait_until_none_is_left(&pooler);
}

/// A session that replicates.
fn replicate(pooler: &Pooler, more: &[(&str, &str)]) -> Wire {
    let own = [("user", "postgres"), ("database", "replication")];
    let parameters = [&own[..], more].concat();
    Wire::try_login(pooler.port(), &parameters, "").expect("it is let in")
}

/// PgBouncer's rules: they count against the pool, have idle servers closed, wait when there is no room, and end with their client.
#[test]
fn replication_counts_against_the_pool_and_ends_with_its_client() {
    let database = cluster().database("replication_pool");
    let pooler = pooler(&database, "  max_connections: 2\n  acquire_timeout: 2s\n");
    let login = || Wire::login(pooler.port(), "postgres", "", &database);
    let (one, two) = (login(), login());
    one.terminate();
    let mut logical = replicate(
        &pooler,
        &[
            ("database", &database),
            ("replication", "database"),
            ("options", "-c wal_sender_timeout=12345"),
        ],
    );
    assert_eq!(
        logical.value("SHOW wal_sender_timeout").as_deref(),
        Some("12345ms")
    );
    assert_eq!(
        logical.value("SELECT current_database()").as_deref(),
        Some(database.as_str())
    );
    let mut words = replication(&pooler, "SERVERS");
    words.sort();
    assert_eq!(words, ["logical", "none"], "the idle one made room");
    assert!(replication(&pooler, "CLIENTS").contains(&"logical".to_owned()));
    let own = [
        ("user", "postgres"),
        ("database", "replication"),
        ("replication", "true"),
    ];
    let full = Wire::try_login(pooler.port(), &own, "")
        .err()
        .expect("there is no room");
    assert_eq!(full.sqlstate(), "53300");
    two.terminate();
    let mut physical = replicate(&pooler, &[("replication", "true")]);
    physical.send_message(b'Q', &terminated("IDENTIFY_SYSTEM"));
    assert!(
        physical
            .read_until(b'Z')
            .iter()
            .any(|message| message.kind == b'D')
    );
    physical.send_message(b'Q', &terminated("START_REPLICATION 0/1000000 TIMELINE 99"));
    let error = first_error(&physical.read_until(b'Z')).expect("no such timeline");
    assert!(error.message().contains("timeline"), "{error:?}");
    logical.terminate();
    physical.terminate();
    wait_until_none_is_left(&pooler);
    assert_eq!(login().value("SELECT 1").as_deref(), Some("1"));
}

/// Found by reading: PostgreSQL says 53300 when there are as many walsenders as there may be, and the whole pool took that for a
/// server that is full.
#[test]
fn too_many_walsenders_are_nobody_elses_trouble() {
    let database = cluster().database("replication_full");
    let pooler = pooler(&database, "  max_connections: 20\n");
    let own = [
        ("user", "postgres"),
        ("database", "replication"),
        ("replication", "true"),
    ];
    let mut senders = Vec::new();
    let error = loop {
        assert!(senders.len() <= 4, "max_wal_senders is 4");
        match Wire::try_login(pooler.port(), &own, "") {
            Ok(sender) => senders.push(sender),
            Err(error) => break error,
        }
    };
    assert_eq!(error.sqlstate(), "53300");
    assert!(error.message().contains("max_wal_senders"), "{error:?}");
    let mut client = Wire::login(pooler.port(), "postgres", "", &database);
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    drop(senders);
    wait_until_none_is_left(&pooler);
}
