//! The log of slow queries and transactions: how long they have waited and run, and never a value of theirs.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::series::scrape;
use crate::support::process;
use crate::support::wire::{bind, execute, message, parse, sync};
use crate::support::{Cluster, Scene, Wire, wait_until};

const SECRET: &str = "hunter2-s3cret";

fn scene(name: &str, keys: &str, log: &str) -> Scene {
    let keys = format!("{keys}log: {{format: logfmt, log_disconnections: false, {log}}}\n");
    Scene::new(Cluster::shared(), name, &keys)
}

/// The lines of the log that speak of slow things.
fn slow(scene: &Scene, what: &str) -> Vec<String> {
    let log = scene.pooler.log();
    let lines = log.lines().filter(|line| line.contains(what));
    lines.map(str::to_owned).collect()
}

/// Waits for so many of them.
#[track_caller]
fn wait_for_slow(scene: &Scene, what: &str, count: usize) -> Vec<String> {
    wait_until(&format!("{count} lines of {what}"), || {
        slow(scene, what).len() >= count
    });
    let lines = slow(scene, what);
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

/// A field of a line.
#[track_caller]
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let (_, rest) = line
        .split_once(&format!(" {name}="))
        .unwrap_or_else(|| panic!("no {name} in {line}"));
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().expect("its end"),
        None => rest.split(' ').next().expect("its end"),
    }
}

#[track_caller]
fn ms(line: &str, name: &str) -> f64 {
    field(line, name).parse().expect("a number")
}

fn ask(client: &mut Wire, messages: &[Vec<u8>]) {
    client.send(&messages.concat());
    client.read_until(b'Z');
}

/// pg_sleep runs, and who finds no server waits; the line tells the two apart.
#[test]
fn waiting_and_running_are_told_apart() {
    let scene = scene(
        "slow_wait",
        "  mode: transaction\n  max_connections: 1\n",
        "slow_query_threshold: 300ms",
    );
    let (mut first, mut second) = (scene.login(), scene.login());
    first.run("SELECT 1");
    first.send(&message(b'Q', b"SELECT pg_sleep(0.6), 'first'\0"));
    scene.wait_for_pool("sv_active", 1);
    second.send(&message(b'Q', b"SELECT 'second', 17\0"));
    first.read_until(b'Z');
    second.read_until(b'Z');
    let lines = wait_for_slow(&scene, "slow query", 2);
    let of = |statement: &str| {
        let line = lines
            .iter()
            .find(|line| field(line, "statement") == statement);
        line.unwrap_or_else(|| panic!("no {statement} in {lines:#?}"))
    };
    let ran = of("select pg_sleep(?), ?");
    assert!(ms(ran, "took_ms") >= 600.0, "{ran}");
    assert_eq!(field(ran, "waited_ms"), "0.000", "a server was idle: {ran}");
    assert_eq!(field(ran, "user"), "username");
    assert_eq!(field(ran, "database"), scene.database);
    let label = format!(
        "client {} username@{}:",
        field(ran, "client"),
        scene.database
    );
    assert!(ran.contains(&label), "{ran}");
    assert_eq!(field(ran, "received"), "35", "{ran}");
    let waited = of("select ?, ...");
    // Not before the first had its answer; what is left of that is the crowded machine's.
    assert!(ms(waited, "waited_ms") >= 300.0, "{waited}");
    assert!(ms(waited, "waited_ms") <= ms(ran, "took_ms"), "{waited}");
    assert_ne!(field(ran, "client"), field(waited, "client"));
}

/// Held up by a lock, in a transaction, whose own line has all of it.
#[test]
fn a_slow_transaction_is_told_with_what_took_longest_in_it() {
    let scene = scene(
        "slow_lock",
        "  mode: transaction\n",
        "slow_query_threshold: 400ms, slow_transaction_threshold: 700ms",
    );
    let (mut holder, mut waiter) = (scene.login(), scene.login());
    holder.run("CREATE TABLE locked (a int)");
    holder.run("BEGIN");
    holder.run("LOCK TABLE locked");
    waiter.run("BEGIN");
    waiter.send(&message(b'Q', b"INSERT INTO locked VALUES (42)\0"));
    std::thread::sleep(Duration::from_millis(500));
    holder.run("COMMIT");
    waiter.read_until(b'Z');
    std::thread::sleep(Duration::from_millis(300));
    waiter.run("COMMIT");
    let [query] = wait_for_slow(&scene, "slow query", 1)
        .try_into()
        .expect("one");
    assert_eq!(field(&query, "statement"), "insert into locked values (?)");
    assert!(ms(&query, "took_ms") >= 490.0, "{query}");
    let lines = wait_for_slow(&scene, "slow transaction", 1);
    let (line, own) = (&lines[0], field(&query, "client"));
    assert_eq!(field(line, "client"), own);
    assert_eq!(field(line, "queries"), "3");
    assert_eq!(field(line, "statement"), "insert into locked values (?)");
    assert!(ms(line, "took_ms") >= 790.0, "{line}");
    let worked = ms(line, "worked_ms");
    assert!(
        worked >= 490.0 && worked + 290.0 <= ms(line, "took_ms"),
        "{line}"
    );
}

/// Wherever a value may stand: in literals of every kind, in what is bound, in names of session mode, in what fails.
#[test]
fn no_value_is_ever_told() {
    for mode in ["transaction", "session"] {
        let scene = scene(
            &format!("slow_secret_{mode}"),
            &format!("  mode: {mode}\n"),
            "slow_query_threshold: 1ms, slow_transaction_threshold: 1ms, repeat_limit: 0",
        );
        let mut client = scene.login();
        for literal in [
            format!("'{SECRET}'"),
            format!("E'\\'{SECRET}'"),
            format!("$${SECRET}$$"),
            format!("$q${SECRET}$q$"),
            format!("'it''s {SECRET}'"),
            format!("/* {SECRET} */ 1"),
        ] {
            client.run(&format!("SELECT {literal}, pg_sleep(0.01)"));
            ask(
                &mut client,
                &[
                    parse("", &format!("SELECT {literal}, $1::text, pg_sleep(0.01)")),
                    bind("", "", &[SECRET]),
                    execute("", 0),
                    sync(),
                ],
            );
        }
        let named = format!("SELECT pg_sleep(0.01), $1::text, '{SECRET}'");
        ask(&mut client, &[parse("of_name", &named), sync()]);
        for _ in 0..2 {
            ask(
                &mut client,
                &[bind("", "of_name", &[SECRET]), execute("", 0), sync()],
            );
        }
        // It fails, and says why with the value in it.
        ask(
            &mut client,
            &[
                parse("", "SELECT pg_sleep(0.01), $1::int FROM pg_sleep(0.01)"),
                bind("", "", &[SECRET]),
                execute("", 0),
                sync(),
            ],
        );
        client.run("BEGIN");
        client.run(&format!("SELECT pg_sleep(0.01), '{SECRET}'"));
        client.run("COMMIT");
        wait_until("the transaction is told", || {
            slow(&scene, "slow transaction")
                .iter()
                .any(|line| field(line, "queries") == "3")
        });
        let log = scene.pooler.log();
        assert!(!log.contains("hunter2"), "{mode}: {log}");
        let of_name = slow(&scene, "statement=\"select pg_sleep(?), ?::text, ?\"");
        let runs = of_name.iter().filter(|line| line.contains("slow query"));
        assert!(runs.count() >= 2, "{mode}: {log}");
    }
}

/// Off by default; on, a share of them, or none, as the file says after a reload. Who is sent away before
/// the answer is told of as well.
#[test]
fn a_reload_changes_what_is_told() {
    let keys = "  mode: transaction\n  query_timeout: 400ms\n";
    let scene = scene("slow_reload", keys, "stderr: true");
    let mut client = scene.login();
    client.run("SELECT pg_sleep(0.05)");
    let yaml = std::fs::read_to_string(scene.pooler.config_path()).expect("its configuration");
    let mut reloads = 0;
    let mut apply = |keys: &str| {
        scene
            .pooler
            .rewrite_config(&yaml.replace("stderr: true", keys));
        scene.pooler.signal(Signal::SIGHUP);
        reloads += 1;
        wait_until("it is reloaded", || {
            let log = scene.pooler.log();
            log.matches("the configuration was reloaded").count() == reloads
        });
    };
    apply("slow_query_threshold: 30ms");
    assert_eq!(slow(&scene, "slow query").len(), 0);
    client.run("SELECT pg_sleep(0.05)");
    wait_for_slow(&scene, "slow query", 1);
    apply("slow_query_threshold: 30ms, slow_sample_rate: 0");
    client.run("SELECT pg_sleep(0.05)");
    apply("slow_query_threshold: 30ms, slow_sample_rate: 1");
    client.send(&message(b'Q', b"SELECT pg_sleep(5), 'overdue'\0"));
    client.read_to_end();
    let lines = wait_for_slow(&scene, "slow query", 2);
    assert_eq!(field(&lines[1], "answered"), "false");
    assert_eq!(field(&lines[1], "statement"), "select pg_sleep(?), ?");
}

/// As many a second as any other line, and what was not written is counted in the metrics.
#[test]
fn the_limit_of_repeats_holds() {
    let port = process::free_port();
    let scene = scene(
        "slow_flood",
        &format!("  mode: transaction\nmetrics: {{listen_addr: \"127.0.0.1:{port}\"}}\n"),
        "slow_query_threshold: 1ms, repeat_limit: 5",
    );
    let mut client = scene.login();
    for _ in 0..40 {
        client.run("SELECT pg_sleep(0.002)");
    }
    client.terminate();
    wait_until("the rest is told in one line", || {
        scene.pooler.log_contains("times: client")
    });
    let told = |name: &str| {
        let found = scrape(port);
        found[&format!("aether_log_lines_{name}_total")]
    };
    // Each line says how many more there were; the last second of them may not be over.
    wait_until("all forty are accounted for", || {
        let lines = slow(&scene, "slow query");
        let written = lines
            .iter()
            .filter(|line| !line.contains("msg=\"repeated "));
        written.count() as f64 + told("repeated") == 40.0
    });
    assert!(told("repeated") >= 20.0, "{:?}", slow(&scene, "slow query"));
    assert_eq!(told("dropped"), 0.0);
}
