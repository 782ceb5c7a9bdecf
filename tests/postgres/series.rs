//! Metrics by series: how many there may be, and what readiness means.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use nix::sys::signal::Signal;

use crate::support::cluster::PASSWORD;
use crate::support::process;
use crate::support::scene::tcp;
use crate::support::{Cluster, PATIENCE, Pooler, Wire, wait_until};

/// What `/metrics` says, by series.
pub fn scrape(port: u16) -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = "GET /metrics HTTP/1.0\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it is sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (_, body) = text.split_once("\r\n\r\n").expect("a head");
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        (series.to_owned(), value.parse().expect("a number"))
    };
    lines.map(pair).collect()
}

/// Labels are bounded: of thousands of users, a thousand are told apart, and the sum is right all the same.
#[test]
fn users_beyond_the_most_that_are_told_apart_are_counted_together() {
    let port = process::free_port();
    let users: String = (0..1_500)
        .map(|n| format!("  user_{n}: {{max_client_connections: 2}}\n"))
        .collect();
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\npool: {{dsn: \"postgres://u:p@127.0.0.1:1/d\"}}\n\
         metrics: {{listen_addr: \"127.0.0.1:{port}\"}}\nusers:\n{users}"
    ));
    let found = scrape(port);
    for name in [
        "aether_user_clients",
        "aether_user_servers",
        "aether_user_clients_max",
    ] {
        let of = |series: &&String| series.split('{').next() == Some(name);
        assert_eq!(found.keys().filter(of).count(), 1_001, "{name}");
    }
    assert_eq!(found["aether_user_clients_max{user=\"(others)\"}"], 1_000.0);
    drop(pooler);
}

/// Ready: clients are accepted, and a server of each required database can be reached. Others may be down.
#[test]
fn readiness_is_of_the_required_databases_and_ends_with_the_stop() {
    let cluster = Cluster::shared();
    let dsn = tcp(cluster, &cluster.database("metrics_ready"));
    let nowhere = format!("postgres://u:p@127.0.0.1:{}/d", process::free_port());
    let start = |required: &str| {
        let port = process::free_port();
        let pooler = Pooler::start(&format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\", shutdown_timeout: 30s}}\n\
             pool: {{mode: transaction, acquire_timeout: 1s}}\n\
             databases:\n  up: {{dsn: \"{dsn}\"}}\n  down: {{dsn: \"{nowhere}\", min_idle_connections: 1}}\n\
             metrics: {{listen_addr: \"127.0.0.1:{port}\"{required}}}\n\
             auth: {{users: {{username: {PASSWORD}}}}}\n"
        ));
        (pooler, port)
    };
    let ready = |port: u16| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = "GET /readyz HTTP/1.0\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it is sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let code = head.split(' ').nth(1).expect("a code");
        (code.to_owned(), body.to_owned())
    };
    let (_all, port) = start("");
    wait_until("the attempt has failed", || ready(port).0 == "503");
    assert_eq!(ready(port).1, "databases that cannot be reached: down\n");
    let (pooler, port) = start(", required_databases: [up]");
    wait_until("the attempt has failed", || {
        scrape(port)["aether_pool_up{database=\"down\"}"] == 0.0
    });
    assert_eq!(ready(port), ("200".to_owned(), "ready\n".to_owned()));
    // A client holds up the stop: nobody is to be sent here any more.
    let mut client = Wire::login(pooler.port(), "username", PASSWORD, "up");
    client.run("BEGIN");
    pooler.signal(Signal::SIGTERM);
    wait_until("it stops", || ready(port).0 == "503");
    assert_eq!(ready(port).1, "stopping\n");
    client.run("COMMIT");
}
