//! CPU time per login: connect, log in, ReadyForQuery, Terminate, by four clients that do nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::client::{Client, Leg};
use crate::contender::{Contender, Field, Method, Running, Setup, poolers_in_turn};
use crate::cost::{self, median};
use crate::table::{Row, render};

const THREADS: usize = 4;

const WAYS: [(&str, Method, Leg, Option<f64>); 5] = [
    ("trust", Method::Trust, Leg::Plain, Some(0.90)),
    ("md5", Method::Md5, Leg::Plain, None),
    ("scram-sha-256", Method::Scram, Leg::Plain, Some(0.65)),
    ("trust", Method::Trust, Leg::Tls, Some(0.80)),
    ("scram-sha-256", Method::Scram, Leg::Tls, Some(0.80)),
];

/// The section.
pub fn measure(field: &Field) -> String {
    let start = |method| {
        let setup = Setup {
            method,
            ..Setup::USUAL
        };
        [Contender::PgBouncer, Contender::Aether].map(|who| field.start(who, setup))
    };
    let all = [Method::Trust, Method::Md5, Method::Scram].map(start);
    let mut rows: Vec<Row> = WAYS
        .iter()
        .map(|(name, _, leg, target)| Row::new(format!("{name}{}", leg.label()), *target))
        .collect();
    let mut rates: [[Vec<f64>; 2]; WAYS.len()] = Default::default();
    for round in 0..field.settings.rounds {
        eprintln!("   round {}", round + 1);
        for (number, (_, method, leg, _)) in WAYS.iter().enumerate() {
            for contender in poolers_in_turn(round) {
                let running = &all[*method as usize][contender as usize];
                let (cpu_us, rate) = log_in_for(running, *leg, field.settings.seconds);
                rows[number].add(contender, cpu_us);
                rates[number][contender as usize].push(rate);
            }
        }
    }
    let text = render(
        "CPU time per login, µs",
        "Four clients that connect, log in and leave, over and over. Secrets are stored as PostgreSQL stores them (md5 hash, SCRAM \
         verifier) in both. TLS 1.3, RSA 2048, full handshakes.",
        0,
        &rows,
    );
    text + &rate_table(&rows, &rates)
}

fn rate_table(rows: &[Row], rates: &[[Vec<f64>; 2]]) -> String {
    let mut text = String::from(
        "\nLogins a second in the same runs (the clients and PostgreSQL share the cores):\n\n| Login | PgBouncer | Aether |\n|---|---|---|\n",
    );
    for (row, [pgbouncer, aether]) in rows.iter().zip(rates) {
        let (pgbouncer, aether) = (median(pgbouncer), median(aether));
        text += &format!("| {} | {pgbouncer:.0} | {aether:.0} |\n", row.workload);
    }
    eprint!("{text}");
    text
}

/// CPU time per login in µs, and logins a second.
fn log_in_for(running: &Running, leg: Leg, time: Duration) -> (f64, f64) {
    once(running, leg);
    let count = AtomicUsize::new(0);
    let before = cost::cpu(running.pid);
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while begin.elapsed() < time {
                    once(running, leg);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let taken = begin.elapsed();
    // The last ones have said goodbye; let it be heard.
    sleep(Duration::from_millis(20));
    let cpu = cost::cpu(running.pid) - before;
    let count = count.into_inner() as f64;
    (cpu.as_secs_f64() * 1e6 / count, count / taken.as_secs_f64())
}

fn once(running: &Running, leg: Leg) {
    let client = Client::login(running.port, leg).expect("a login");
    client.terminate().expect("a goodbye");
}
