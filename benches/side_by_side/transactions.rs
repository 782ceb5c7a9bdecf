//! CPU time per transaction and latency, under pgbench: its own read-only script, and `SELECT 1`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::contender::{Contender, Field, NAME, Running, Setup, in_turn};
use crate::cost::{self, quantile};
use crate::support::pgbouncer;
use crate::support::process::Place;
use crate::support::wait_until;
use crate::table::{Row, number, render};

/// Bytes of pgbench's log, of some 35 to the transaction, that make a measurement.
const ENOUGH: u64 = 12_000;

/// What pgbench is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// `simple`, `extended` or `prepared`.
    pub protocol: &'static str,
    /// Connections, all busy.
    pub clients: usize,
    /// Its own script of reads, or `SELECT 1`.
    pub script: Script,
    /// Over TLS.
    pub tls: bool,
}

/// What a transaction is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Script {
    /// `pgbench -S`.
    Read,
    /// The least there is.
    SelectOne,
}

/// What was seen of a load.
pub struct Seen {
    /// CPU time of the contender per transaction, in µs.
    pub cpu_us: f64,
    /// Latencies in µs.
    pub latencies_us: Vec<f64>,
}

struct Case {
    name: &'static str,
    load: Load,
    target: Option<f64>,
}

fn cases(field: &Field) -> Vec<Case> {
    let mut cases = Vec::new();
    for protocol in ["simple", "extended", "prepared"] {
        for clients in [1, 16, 64, 500] {
            let target = match (protocol, clients) {
                ("simple", 16 | 64) => Some(0.95),
                ("simple", 500) | ("extended", 16) => Some(0.92),
                ("prepared", 16 | 64) if pgbouncer().prepares => Some(PREPARED_TARGET),
                _ => None,
            };
            cases.push(Case {
                name: protocol,
                load: Load {
                    protocol,
                    clients,
                    script: Script::Read,
                    tls: false,
                },
                target,
            });
        }
    }
    let read = Load {
        protocol: "simple",
        clients: 16,
        script: Script::Read,
        tls: false,
    };
    let (tls, script) = (true, Script::SelectOne);
    for (name, load) in [
        ("simple", Load { tls, ..read }),
        ("select", Load { script, ..read }),
    ] {
        cases.push(Case {
            name,
            load,
            target: None,
        });
    }
    let all = field.settings.wants("transactions");
    cases.retain(|case| all || field.settings.wants(case.name));
    cases
}

const WHAT: &str = "`pgbench -S`, or `SELECT 1`; all of the contender's threads. HAProxy has a server per client, hence no row of 500.";
const NO_PREPARED: &str = " This PgBouncer has no prepared statements in transaction mode: *prepared* is Aether's transaction mode beside \
    its session mode with a server per client, and again beside its *extended* in transaction mode, which the target is about then.";
/// Of PgBouncer's prepared statements in transaction mode; without any, of its extended protocol.
const PREPARED_TARGET: f64 = 0.80;

/// The section.
pub fn measure(field: &Field) -> String {
    let shared = field.start_all(Setup::USUAL);
    // Without prepared statements in transaction mode it needs a server for each client, and cannot have 500.
    let prepares = pgbouncer().prepares;
    let session = Setup {
        mode: "session",
        pool: 64,
        ..Setup::USUAL
    };
    let sessions = (!prepares).then(|| field.start(Contender::PgBouncer, session));
    let cases = cases(field);
    let mut rows: Vec<Row> = cases
        .iter()
        .map(|case| Row::new(label(case.load), case.target))
        .collect();
    let mut latencies: Vec<[Vec<f64>; 3]> = cases.iter().map(|_| Default::default()).collect();
    for round in 0..field.settings.rounds {
        eprintln!("   round {}", round + 1);
        for (number, case) in cases.iter().enumerate() {
            for contender in in_turn(round) {
                if case.load.tls && contender == Contender::Haproxy {
                    continue;
                }
                let running = match (contender, case.load.protocol, case.load.clients) {
                    (Contender::Haproxy, _, 500) => continue,
                    (Contender::PgBouncer, "prepared", 500) if !prepares => continue,
                    (Contender::PgBouncer, "prepared", _) => {
                        sessions.as_ref().unwrap_or(&shared[contender as usize])
                    }
                    _ => &shared[contender as usize],
                };
                let seen = run(field, running, case.load);
                rows[number].add(contender, seen.cpu_us);
                latencies[number][contender as usize].extend(seen.latencies_us);
            }
        }
    }
    let text = render(
        "CPU time per transaction, µs",
        &(WHAT.to_owned() + if prepares { "" } else { NO_PREPARED }),
        1,
        &match prepares {
            true => rows,
            false => with_prepared(&cases, rows),
        },
    );
    text + &latency_table(&cases, &latencies)
}

/// Adds the rows that compare prepared with PgBouncer's extended.
fn with_prepared(cases: &[Case], rows: Vec<Row>) -> Vec<Row> {
    let mut all = rows.clone();
    for (case, row) in cases.iter().zip(&rows) {
        let same =
            |other: &Case| other.name == "extended" && other.load.clients == case.load.clients;
        if case.name == "prepared"
            && let Some(extended) = cases.iter().position(same)
        {
            let target = matches!(case.load.clients, 16 | 64).then_some(PREPARED_TARGET);
            all.push(row.against(
                &rows[extended],
                format!("{}, to PgBouncer's extended", row.workload),
                target,
            ));
        }
    }
    all
}

fn latency_table(cases: &[Case], latencies: &[[Vec<f64>; 3]]) -> String {
    let mut text = String::from(
        "\n## Latency, µs\n\nOf the same runs, p50 / p99 of all rounds. pgbench has to share the cores with PostgreSQL and the contender.\n\n\
         | Workload | PgBouncer | Aether | HAProxy |\n|---|---|---|---|\n",
    );
    for (case, latencies) in cases.iter().zip(latencies) {
        let cell = |contender: Contender| {
            let values = &latencies[contender as usize];
            let of = |part| number((!values.is_empty()).then(|| quantile(values, part)), 0);
            format!("{} / {}", of(0.5), of(0.99))
        };
        text += &format!(
            "| {} | {} | {} | {} |\n",
            label(case.load),
            cell(Contender::PgBouncer),
            cell(Contender::Aether),
            cell(Contender::Haproxy)
        );
    }
    eprint!("{text}");
    text
}

fn label(load: Load) -> String {
    let what = match load.script {
        Script::Read => load.protocol,
        Script::SelectOne => "SELECT 1",
    };
    let over = if load.tls { " over TLS" } else { "" };
    let plural = if load.clients == 1 { "" } else { "s" };
    format!("{what}{over}, {} client{plural}", load.clients)
}

/// Runs a load for as long as one measurement takes.
pub fn run(field: &Field, running: &Running, load: Load) -> Seen {
    let place = Place::new("pgbench");
    let (pgbench, log) = start(field, running, load, &place);
    sleep(Duration::from_millis(100));
    let at_begin = len(&log);
    let (begin, before) = (now(), cost::cpu(running.pid));
    sleep(field.settings.seconds);
    // A crowded machine may need longer to get anywhere.
    wait_until("there are transactions to count", || {
        len(&log) >= at_begin + ENOUGH
    });
    let (end, after) = (now(), cost::cpu(running.pid));
    // pgbench writes its log by the buffer.
    sleep(Duration::from_millis(150));
    drop(pgbench);
    let latencies_us = finished_between(&log, begin, end);
    Seen {
        cpu_us: (after - before).as_secs_f64() * 1e6 / latencies_us.len() as f64,
        latencies_us,
    }
}

/// Begins a load that ends when it is dropped, and tells where its log is.
pub fn start(field: &Field, running: &Running, load: Load, place: &Place) -> (Pgbench, PathBuf) {
    let mut command = pgbench(field, running.port, load, place);
    command
        .args(["-T", "1000", "--log", "--log-prefix"])
        .arg(place.path().join("log"));
    let mut pgbench = Pgbench(command.spawn().expect("pgbench runs"));
    let log = place.path().join(format!("log.{}", pgbench.0.id()));
    wait_until("pgbench runs transactions", || {
        if let Ok(Some(status)) = pgbench.0.try_wait() {
            let said = fs::read_to_string(place.path().join("said")).unwrap_or_default();
            panic!("pgbench, {load:?}: {status}\n{said}");
        }
        len(&log) > 0
    });
    (pgbench, log)
}

/// pgbench, to be told how long.
pub fn pgbench(field: &Field, port: u16, load: Load, place: &Place) -> Command {
    let said = fs::File::create(place.path().join("said")).expect("a file");
    let mut command = Command::new(field.cluster.program("pgbench"));
    let sslmode = if load.tls { "require" } else { "disable" };
    command.env("PGSSLMODE", sslmode).stdin(Stdio::null());
    command
        .stdout(said.try_clone().expect("a file"))
        .stderr(said);
    command.args(["-n", "-h", "127.0.0.1", "-U", NAME, "-M", load.protocol]);
    command.args(["-p", &port.to_string(), "-c", &load.clients.to_string()]);
    match load.script {
        Script::Read => command.arg("-S"),
        Script::SelectOne => command.arg("-f").arg(place.write("script", "SELECT 1;\n")),
    };
    command.arg(NAME);
    command
}

/// Killed when dropped.
pub struct Pgbench(Child);

impl Drop for Pgbench {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn len(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |log| log.len())
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a time after 1970").as_secs_f64()
}

/// Latencies of transactions that ended in this time, out of pgbench's log. Its last line may be cut short.
fn finished_between(log: &Path, begin: f64, end: f64) -> Vec<f64> {
    let text = fs::read_to_string(log).expect("pgbench's log");
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let of_line = |line: &str| {
        let words: Vec<f64> = line
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        let [_, _, latency, _, seconds, micros] = words[..] else {
            panic!("pgbench's log: {line}");
        };
        let at = seconds + micros / 1e6;
        (begin <= at && at < end).then_some(latency)
    };
    whole.lines().filter_map(of_line).collect()
}
