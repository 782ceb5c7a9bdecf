//! Very many clients and pools that do nothing: what they cost those who do something, and what they cost while nobody does.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use crate::support::cluster::PASSWORD;
use crate::support::{Cluster, Pooler, Wire, raise_open_files, scale, wire};

/// As many pools as the scene has beside the one that works.
const POOLS: usize = 2_000;
/// Clients that work.
const BUSY: usize = 16;

fn start(cluster: &Cluster, pools: usize) -> Pooler {
    let dsn = format!(
        "postgres://username:{PASSWORD}@127.0.0.1:{}/database",
        cluster.port()
    );
    let others: String = (0..pools)
        .map(|n| format!("  pool_{n}: {{dsn: \"{dsn}\"}}\n"))
        .collect();
    let databases = if pools > 0 { "databases:\n" } else { "" };
    Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\", max_client_connections: 1000000}}\n\
         pool:\n  dsn: \"{dsn}\"\n  mode: transaction\n  max_connections: 4\n\
         auth: {{type: trust}}\n{databases}{others}"
    ))
}

/// Many idle clients, of which nothing is read behind their welcome; each hundredth goes to a pool of its own, if there are.
fn idle_clients(pooler: &Pooler, many: usize, pools: usize) -> Vec<TcpStream> {
    (0..many)
        .map(|n| {
            let database = match n % 100 {
                0 if pools > 0 => format!("pool_{}", n % pools),
                _ => "database".to_owned(),
            };
            Wire::login(pooler.port(), "username", PASSWORD, &database).stream
        })
        .collect()
}

/// Nanoseconds of CPU that the loop has had.
fn cpu_ns(pooler: &Pooler) -> u64 {
    let path = format!("/proc/{}/schedstat", pooler.pid());
    let text = fs::read_to_string(path).expect("it lives");
    let first = text.split_whitespace().next();
    first
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

/// How often the loop has slept.
fn sleeps(pooler: &Pooler) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", pooler.pid())).expect("it lives");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|number| number.trim().parse().ok())
        .expect("a number")
}

/// CPU for one transaction in each of these, in nanoseconds: the best of many rounds in turn, so that what else the machine does
/// matters little.
fn per_transaction<const N: usize>(poolers: [&Pooler; N]) -> [u64; N] {
    let query = wire::message(b'Q', &wire::terminated("SELECT 1"));
    let mut clients = poolers.map(busy_clients);
    let mut best = [u64::MAX; N];
    for _ in 0..30 {
        for (at, clients) in clients.iter_mut().enumerate() {
            let before = cpu_ns(poolers[at]);
            for _ in 0..20 {
                for client in clients.iter_mut() {
                    client.stream.write_all(&query).expect("it is sent");
                }
                for client in clients.iter_mut() {
                    client.read_until(b'Z');
                }
            }
            best[at] = best[at].min((cpu_ns(poolers[at]) - before) / (20 * BUSY as u64));
        }
    }
    best
}

fn busy_clients(pooler: &Pooler) -> Vec<Wire> {
    let login = |_| Wire::login(pooler.port(), "username", PASSWORD, "database");
    (0..BUSY).map(login).collect()
}

/// Issue 5: the cost of a transaction is flat, the ratio at most 1.05. Here with room for what a shared machine does to a ratio: a step
/// that looks at all clients, or at all pools, costs a multiple.
#[test]
fn idle_clients_and_pools_cost_busy_ones_nothing() {
    let cluster = Cluster::shared();
    let many = scale("AETHER_IDLE_CLIENTS", 5_000.min(raise_open_files() / 4));
    let (alone, crowd, pools) = (start(cluster, 0), start(cluster, 0), start(cluster, POOLS));
    let _held = idle_clients(&crowd, many, 0);
    let [cost_alone, beside_clients, beside_pools] = per_transaction([&alone, &crowd, &pools]);
    println!(
        "CPU per transaction: {cost_alone} ns; beside {many} idle clients {beside_clients} ns; \
         beside {POOLS} pools {beside_pools} ns"
    );
    for beside in [beside_clients, beside_pools] {
        assert!(
            beside < 2 * cost_alone,
            "{beside} ns instead of {cost_alone} ns"
        );
    }
}

/// Issue 5: as many idle clients as there may be files, and while nobody does anything, the loop sleeps.
#[test]
fn idle_clients_and_pools_do_not_wake_the_loop() {
    let cluster = Cluster::shared();
    let limit = raise_open_files();
    let many = scale("AETHER_IDLE_CLIENTS", 5_000.min(limit / 4));
    let pooler = start(cluster, POOLS);
    let servers = (4 * (POOLS + 1)).min(limit / 2);
    let room = limit - servers - 64;
    let said = "files may be open";
    pooler.wait_for_log(&format!(
        "at most {limit} {said}: {servers} for servers, and {room} for clients"
    ));
    let before = pooler.rss_kb();
    let clients = idle_clients(&pooler, many, POOLS);
    let rss = pooler.rss_kb();
    // What a login has left to be done, and what its timer says.
    thread::sleep(Duration::from_millis(500));
    let (cpu, slept) = (cpu_ns(&pooler), sleeps(&pooler));
    thread::sleep(Duration::from_secs(3));
    let (cpu, woken) = (cpu_ns(&pooler) - cpu, sleeps(&pooler) - slept);
    println!(
        "{} idle clients, {POOLS} pools: {before} kB, then {rss} kB; in 3 s {cpu} ns of CPU, woken {woken} times",
        clients.len()
    );
    assert!(woken < 10, "woken {woken} times, {cpu} ns of CPU");
}
