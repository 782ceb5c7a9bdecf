//! pgbench through a session pool: every protocol, more clients than servers and fewer; nothing fails, and the books balance.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use crate::support::cluster::{self, PASSWORD};
use crate::support::{Cluster, Scene};

/// As pgbench's own, but over tables of ours.
const TRANSFER: &str = "\
\\set aid random(1, 1000)
\\set tid random(1, 10)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE accounts SET balance = balance + :delta WHERE id = :aid;
SELECT balance FROM accounts WHERE id = :aid;
UPDATE tellers SET balance = balance + :delta WHERE id = :tid;
INSERT INTO history (account, teller, delta) VALUES (:aid, :tid, :delta);
END;
";

const LOOK: &str = "\\set aid random(1, 1000)\nSELECT balance FROM accounts WHERE id = :aid;\n";

const TABLES: &str = "\
CREATE TABLE accounts AS SELECT n AS id, 0::bigint AS balance FROM generate_series(1, 1000) n;
CREATE TABLE tellers AS SELECT n AS id, 0::bigint AS balance FROM generate_series(1, 10) n;
CREATE TABLE history (account int, teller int, delta bigint);
ALTER TABLE accounts ADD PRIMARY KEY (id);
GRANT ALL ON accounts, tellers, history TO PUBLIC";

/// One for all tests of this module: they use more connections than others should have to do without.
fn cluster() -> &'static Cluster {
    static LOADED: OnceLock<Cluster> = OnceLock::new();
    LOADED.get_or_init(|| {
        Cluster::start_with(&cluster::Options {
            max_connections: 200,
            ..cluster::Options::default()
        })
    })
}

/// Runs a script and returns how many transactions pgbench says there were.
fn pgbench(
    scene: &Scene,
    script: &str,
    clients: u32,
    transactions: u32,
    arguments: &[&str],
) -> u64 {
    let file = std::env::temp_dir().join(format!(
        "aether-load-{}-{}.sql",
        std::process::id(),
        scene.database
    ));
    fs::write(&file, script).expect("a script");
    let mut command = Command::new(cluster().program("pgbench"));
    command.args(["-n", "-h", "127.0.0.1", "-U", "username"]);
    command
        .args(["-p", &scene.pooler.port().to_string()])
        .env("PGPASSWORD", PASSWORD);
    // A thread for each: it waits in PQprepare and PQconnect, and its other clients with it.
    command.args(["-c", &clients.to_string(), "-j", &clients.to_string()]);
    command.args(["-t", &transactions.to_string()]);
    command.arg("-f").arg(&file).args(arguments);
    let output = command.arg(&scene.database).output().expect("pgbench runs");
    fs::remove_file(&file).expect("it is ours");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaints}{said}");
    for word in ["ERROR", "FATAL", "aborted", "failed:"] {
        assert!(!complaints.contains(word), "{arguments:?}: {complaints}");
    }
    assert!(
        said.contains("number of failed transactions: 0 "),
        "{arguments:?}: {said}"
    );
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("number of transactions actually processed: "))
        .unwrap_or_else(|| panic!("{said}"));
    let count = line.split('/').next().and_then(|count| count.parse().ok());
    count.unwrap_or_else(|| panic!("{said}"))
}

/// Every number of clients in every protocol, reading and writing.
fn all_of_it(database: &str, max_connections: u32, assignment: &str) {
    let keys = format!("  max_connections: {max_connections}\n  server_assignment: {assignment}\n");
    let scene = Scene::new(cluster(), database, &keys);
    cluster().sql(database, TABLES);
    let mut transfers = 0;
    let mut queries = 0;
    for protocol in ["simple", "extended", "prepared"] {
        for clients in [1, 10, 50] {
            let each = if clients == 1 { 300 } else { 800 / clients };
            transfers += pgbench(&scene, TRANSFER, clients, each, &["-M", protocol]);
            queries += pgbench(&scene, LOOK, clients, each * 2, &["-M", protocol]);
        }
    }
    let sum = "SELECT (SELECT sum(balance) FROM accounts), (SELECT sum(balance) FROM tellers), \
               (SELECT sum(delta) FROM history), (SELECT count(*) FROM history)";
    let sums = cluster().sql(database, sum);
    let sums: Vec<&str> = sums.split('|').collect();
    assert_eq!(sums[0], sums[1], "accounts and tellers");
    assert_eq!(sums[0], sums[2], "accounts and history");
    assert_eq!(
        sums[3],
        transfers.to_string(),
        "transactions that were confirmed"
    );
    scene.wait_for_rest();
    let total = scene.pool("total_connections");
    assert!((1..=u64::from(max_connections)).contains(&total), "{total}");
    let counted: u64 = scene.show("STATS")[0]["total_xact_count"]
        .parse()
        .expect("a number");
    assert!(counted >= transfers + queries, "{counted}");
}

/// pgbench connects all its clients before the first of them begins. In session pooling that takes as many servers, unless
/// they are given out with the first query; then the clients take turns, each until it has done its share.
#[test]
fn pgbench_runs_in_every_protocol_with_more_clients_than_servers() {
    all_of_it("load_10", 10, "first_query");
}

#[test]
fn pgbench_runs_in_every_protocol_with_a_server_for_each_client() {
    all_of_it("load_50", 50, "login");
}

/// Each transaction on a connection of its own: the pool is what this is about.
#[test]
fn pgbench_connects_anew_for_every_transaction() {
    let scene = Scene::new(
        cluster(),
        "load_connect",
        "  max_connections: 5\n  server_assignment: first_query\n",
    );
    cluster().sql("load_connect", TABLES);
    let transfers = pgbench(&scene, TRANSFER, 10, 40, &["-C"]);
    assert_eq!(transfers, 400);
    assert_eq!(
        cluster().sql("load_connect", "SELECT count(*) FROM history"),
        "400"
    );
    scene.wait_for_rest();
    let made: u64 = scene.show("STATS")[0]["total_server_connects"]
        .parse()
        .expect("a number");
    assert!(made <= 5, "{made} server connections for 400 sessions");
}
