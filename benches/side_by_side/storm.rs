//! Whether those who are in notice those who come: latency of 50 established clients while 300 SCRAM logins a second arrive.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::client::{Client, Leg};
use crate::contender::{Contender, Field, Method, Running, Setup, poolers_in_turn};
use crate::cost::{self, median, quantile};

const ESTABLISHED: usize = 50;
/// How often each of them asks.
const PERIOD: Duration = Duration::from_millis(50);
const LOGINS_PER_SECOND: u32 = 300;
const LOGIN_THREADS: usize = 16;

/// What comes meanwhile.
const WEATHER: [(&str, Option<Leg>); 3] = [
    ("quiet", None),
    ("SCRAM", Some(Leg::Plain)),
    ("SCRAM over TLS", Some(Leg::Tls)),
];

/// What was seen in one run.
struct Seen {
    p50_us: f64,
    p99_us: f64,
    logins_per_s: f64,
    cpu_share: f64,
}

/// The section.
pub fn measure(field: &Field) -> String {
    let setup = Setup {
        method: Method::Scram,
        ..Setup::USUAL
    };
    let all = [Contender::PgBouncer, Contender::Aether].map(|who| field.start(who, setup));
    let mut seen: [[Vec<Seen>; 2]; 3] = Default::default();
    for round in field.settings.few_rounds() {
        eprintln!("   round {}", round + 1);
        for ((_, storm), seen) in WEATHER.iter().zip(&mut seen) {
            for contender in poolers_in_turn(round) {
                let time = field.settings.seconds * 3;
                seen[contender as usize].push(run(&all[contender as usize], *storm, time));
            }
        }
    }
    table(&seen)
}

fn table(seen: &[[Vec<Seen>; 2]; 3]) -> String {
    let mut text = format!(
        "\n## Login storm\n\n{ESTABLISHED} established clients, each with a `SELECT 1` every {PERIOD:?}, while {LOGINS_PER_SECOND} logins a second \
         are tried: medians over the rounds. RSA 2048.\n\n| | pooler | p50, µs | p99, µs | p99 to quiet | logins/s | pooler's CPU |\n|---|---|---|---|---|---|---|\n"
    );
    for ((weather, _), both) in WEATHER.iter().zip(seen) {
        for contender in [Contender::PgBouncer, Contender::Aether] {
            let of = |rounds: &[Seen], what: fn(&Seen) -> f64| {
                median(&rounds.iter().map(what).collect::<Vec<f64>>())
            };
            let rounds = &both[contender as usize];
            let quiet = of(&seen[0][contender as usize], |seen| seen.p99_us);
            let p99 = of(rounds, |seen| seen.p99_us);
            text += &format!(
                "| {weather} | {contender:?} | {:.0} | {p99:.0} | {:.2} | {:.0} | {:.1} % |\n",
                of(rounds, |seen| seen.p50_us),
                p99 / quiet,
                of(rounds, |seen| seen.logins_per_s),
                of(rounds, |seen| seen.cpu_share) * 100.0,
            );
        }
    }
    eprint!("{text}");
    text
}

fn run(running: &Running, storm: Option<Leg>, time: Duration) -> Seen {
    let clients: Vec<Client> = (0..ESTABLISHED)
        .map(|_| Client::login(running.port, Leg::Plain).expect("a login"))
        .collect();
    let logins = AtomicUsize::new(0);
    let before = cost::cpu(running.pid);
    let begin = Instant::now();
    let latencies_us: Vec<f64> = thread::scope(|scope| {
        if let Some(leg) = storm {
            for number in 0..LOGIN_THREADS {
                let logins = &logins;
                scope.spawn(move || arrive(running, leg, number, begin, time, logins));
            }
        }
        let asking: Vec<_> = (0u32..)
            .zip(clients)
            .map(|(number, client)| {
                let first = begin + PERIOD * number / ESTABLISHED as u32;
                scope.spawn(move || ask(client, first, begin + time))
            })
            .collect();
        asking
            .into_iter()
            .flat_map(|thread| thread.join().expect("an established client was not served"))
            .collect()
    });
    let taken = begin.elapsed().as_secs_f64();
    Seen {
        p50_us: quantile(&latencies_us, 0.5),
        p99_us: quantile(&latencies_us, 0.99),
        logins_per_s: logins.into_inner() as f64 / taken,
        cpu_share: (cost::cpu(running.pid) - before).as_secs_f64() / taken,
    }
}

/// One established client: what each of its questions took.
fn ask(mut client: Client, first: Instant, end: Instant) -> Vec<f64> {
    let mut latencies_us = Vec::new();
    let mut due = first;
    while due < end {
        sleep(due.saturating_duration_since(Instant::now()));
        let begin = Instant::now();
        client.query("SELECT 1").expect("an answer");
        latencies_us.push(begin.elapsed().as_secs_f64() * 1e6);
        due += PERIOD;
    }
    latencies_us
}

/// One of those who log in: every so manieth of the arrivals is its.
fn arrive(
    running: &Running,
    leg: Leg,
    number: usize,
    begin: Instant,
    time: Duration,
    logins: &AtomicUsize,
) {
    let interval = Duration::from_secs(1) / LOGINS_PER_SECOND;
    let mut due = begin + interval * number as u32;
    while due < begin + time && Instant::now() < begin + time {
        sleep(due.saturating_duration_since(Instant::now()));
        let client = Client::login(running.port, leg).expect("a login");
        client.terminate().expect("a goodbye");
        logins.fetch_add(1, Ordering::Relaxed);
        due += interval * LOGIN_THREADS as u32;
    }
}
