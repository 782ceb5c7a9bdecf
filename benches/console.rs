//! What those who look cost those who work: the latency of ordinary clients while every SHOW is asked for in a loop, with 2,000 pools
//! and 5,000 clients there.
//!
//!     cargo bench --locked --bench console
//!
//! Rounds with and without take turns; the table has the medians over them. `AETHER_BIN` measures another build.

// The same kit as that of the tests; its own processes, directories and ports.
#[path = "../tests/support/mod.rs"]
mod support;

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::cluster::{Options, PASSWORD};
use support::scene::SHOWN;
use support::{Cluster, Pooler, Wire, raise_open_files, scale};

const POOLS: usize = 2_000;
const CLIENTS: usize = 5_000;
/// Clients that work, and how long each waits from one question to the next.
const BUSY: usize = 32;
const PAUSE: Duration = Duration::from_millis(5);
/// How long it is looked before it is measured.
const BEFORE: Duration = Duration::from_secs(2);
/// What was seen in one round.
#[derive(Clone, Copy)]
struct Seen {
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    queries: usize,
    shows: u64,
    slowest_show_us: u64,
}

fn main() {
    raise_open_files();
    let (rounds, seconds) = (
        scale("AETHER_BENCH_ROUNDS", 7),
        scale("AETHER_BENCH_SECONDS", 5),
    );
    let time = Duration::from_secs(seconds as u64);
    let cluster = Cluster::start_with(&Options {
        max_connections: 500,
        ..Options::default()
    });
    let pooler = start(&cluster);
    eprintln!("== {CLIENTS} clients come");
    let _idle: Vec<TcpStream> = (0..CLIENTS - BUSY).map(|n| idle(&pooler, n)).collect();
    let (mut quiet, mut watched) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("== round {}", round + 1);
        // Whoever comes first in one round comes last in the next.
        for turn in [round % 2 == 0, round % 2 == 1] {
            let seen = run(&pooler, turn, time);
            if turn { &mut watched } else { &mut quiet }.push(seen);
        }
    }
    report(&quiet, &watched);
}

fn start(cluster: &Cluster) -> Pooler {
    let dsn = format!(
        "postgres://username:{PASSWORD}@127.0.0.1:{}/database",
        cluster.port()
    );
    let others: String = (0..POOLS - 1)
        .map(|n| format!("  pool_{n}: {{dsn: \"{dsn}\", max_idle_time: 300ms}}\n"))
        .collect();
    Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nadmin: {{users: [username]}}\n\
         pool:\n  dsn: \"{dsn}\"\n  mode: transaction\n  max_connections: 20\n\
         metrics: {{query_fingerprints: 100}}\n\
         auth: {{type: trust, allow_insecure: true}}\ndatabases:\n{others}"
    ))
}

/// One of those who only are there, spread over all pools.
fn idle(pooler: &Pooler, n: usize) -> TcpStream {
    let database = format!("pool_{}", n % (POOLS - 1));
    Wire::login(pooler.port(), "username", PASSWORD, &database).stream
}

fn run(pooler: &Pooler, watched: bool, time: Duration) -> Seen {
    let (over, shows, slowest) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut latencies_us: Vec<f64> = thread::scope(|threads| {
        if watched {
            threads.spawn(|| look(pooler, &over, &shows, &slowest));
        }
        // A loop is one that has gone on for a while: its first answers come at the pace of who looks once.
        thread::sleep(BEFORE);
        shows.store(0, Ordering::Relaxed);
        slowest.store(0, Ordering::Relaxed);
        let end = Instant::now() + time;
        let busy: Vec<_> = (0..BUSY)
            .map(|n| {
                threads.spawn(move || {
                    thread::sleep(PAUSE * n as u32 / BUSY as u32);
                    work(pooler, end)
                })
            })
            .collect();
        let all = busy
            .into_iter()
            .flat_map(|one| one.join().expect("it is served"));
        let all = all.collect();
        over.store(true, Ordering::Relaxed);
        all
    });
    latencies_us.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = (latencies_us.len() as f64 * q) as usize;
        latencies_us[at.min(latencies_us.len() - 1)]
    };
    Seen {
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        queries: latencies_us.len(),
        shows: shows.into_inner(),
        slowest_show_us: slowest.into_inner(),
    }
}

fn work(pooler: &Pooler, end: Instant) -> Vec<f64> {
    let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
    let mut latencies_us = Vec::new();
    while Instant::now() < end {
        let begin = Instant::now();
        client.run("SELECT 1");
        latencies_us.push(begin.elapsed().as_secs_f64() * 1e6);
        thread::sleep(PAUSE);
    }
    client.terminate();
    latencies_us
}

/// Every SHOW, one after the other, without a pause.
fn look(pooler: &Pooler, over: &AtomicBool, shows: &AtomicU64, slowest: &AtomicU64) {
    // Of this thread: who looks has a machine of its own as a rule, and gives way here to what is measured.
    rustix::process::nice(19).expect("one may always be nice");
    let mut console = Wire::login(pooler.port(), "username", PASSWORD, "aether");
    while !over.load(Ordering::Relaxed) {
        for name in SHOWN.into_iter().chain(["FDS"]) {
            let begin = Instant::now();
            console.run(&format!("SHOW {name}"));
            let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
            shows.fetch_add(1, Ordering::Relaxed);
            slowest.fetch_max(took, Ordering::Relaxed);
        }
    }
    console.terminate();
}

fn report(quiet: &[Seen], watched: &[Seen]) {
    let median = |seen: &[Seen], what: fn(&Seen) -> f64| {
        let mut all: Vec<f64> = seen.iter().map(what).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "| | p50, us | p99, us | p99.9, us | queries a round | SHOWs a round | slowest SHOW, ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (name, seen) in [("nobody looks", quiet), ("every SHOW in a loop", watched)] {
        println!(
            "| {name} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            median(seen, |seen| seen.p50_us),
            median(seen, |seen| seen.p99_us),
            median(seen, |seen| seen.p999_us),
            median(seen, |seen| seen.queries as f64),
            median(seen, |seen| seen.shows as f64),
            median(seen, |seen| seen.slowest_show_us as f64 / 1e3),
        );
    }
    let mut ratios: Vec<f64> = quiet
        .iter()
        .zip(watched)
        .map(|(quiet, watched)| watched.p99_us / quiet.p99_us)
        .collect();
    ratios.sort_by(f64::total_cmp);
    let quartile = |n: usize| ratios[ratios.len() * n / 4];
    println!(
        "\np99 with to without, round by round: median {:.2}, the middle half of them {:.2} to {:.2};\n\
         quiet rounds alone, the middle half {:.2} to {:.2} of their median",
        quartile(2),
        quartile(1),
        quartile(3),
        spread(quiet, 1),
        spread(quiet, 3),
    );
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("\nload of the machine at the end: {}", load.trim());
}

/// A quartile of the p99 of these rounds, to its median: what one round differs from another by itself.
fn spread(seen: &[Seen], n: usize) -> f64 {
    let mut all: Vec<f64> = seen.iter().map(|seen| seen.p99_us).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() * n / 4] / all[all.len() / 2]
}
