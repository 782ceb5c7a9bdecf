//! System calls per transaction, counted by strace: the difference between a short run and a long one, so that starting,
//! logging in and stopping do not count.

use std::collections::BTreeMap;
use std::fs;

use crate::contender::{Contender, Field, Setup, in_turn};
use crate::support::pgbouncer;
use crate::support::process::Place;
use crate::transactions::{Load, Script, pgbench};

const CLIENTS: usize = 16;
const SHORT: usize = 50;
const LONG: usize = 550;
/// Kinds of calls that are named: those of which there is at least so much of one per transaction.
const WORTH_NAMING: f64 = 0.02;

/// Calls by name.
type Calls = BTreeMap<String, f64>;

/// The section.
pub fn measure(field: &Field) -> String {
    let mut text = format!(
        "\n## System calls per transaction\n\n`pgbench -S`, {CLIENTS} clients, by `strace -c -f`. 4 and the amortised epoll_wait are asked of Aether. \
         *prepared*: PgBouncer in {} mode.\n\n| Workload | pooler | calls | which |\n|---|---|---|---|\n",
        pgbouncer().mode_for_prepared()
    );
    for (protocol, tls) in [
        ("simple", false),
        ("extended", false),
        ("prepared", false),
        ("simple", true),
    ] {
        for contender in in_turn(0) {
            if tls && contender == Contender::Haproxy {
                continue;
            }
            let over = if tls { " over TLS" } else { "" };
            eprintln!("   {contender:?}: {protocol}{over}");
            let calls = per_transaction(field, contender, protocol, tls);
            let mut named: Vec<(&String, &f64)> = calls
                .iter()
                .filter(|(_, count)| **count >= WORTH_NAMING)
                .collect();
            named.sort_by(|a, b| b.1.total_cmp(a.1));
            let named: Vec<String> = named
                .iter()
                .map(|(name, count)| format!("{name} {count:.2}"))
                .collect();
            let total: f64 = calls.values().sum();
            text += &format!(
                "| {protocol}{over} | {contender:?} | {total:.2} | {} |\n",
                named.join(", ")
            );
        }
    }
    eprint!("{text}");
    text
}

fn per_transaction(
    field: &Field,
    contender: Contender,
    protocol: &'static str,
    tls: bool,
) -> Calls {
    let [short, long] = [SHORT, LONG].map(|count| counted(field, contender, protocol, tls, count));
    let transactions = ((LONG - SHORT) * CLIENTS) as f64;
    long.into_iter()
        .map(|(name, count)| {
            let less = short.get(&name).copied().unwrap_or(0.0);
            (name, (count - less) / transactions)
        })
        .collect()
}

/// All calls of a contender from its start to its end, with so many transactions of each client in between.
fn counted(
    field: &Field,
    contender: Contender,
    protocol: &'static str,
    tls: bool,
    count: usize,
) -> Calls {
    let place = Place::new("strace");
    let summary = place.write("summary", "");
    let wrapper = [
        "strace",
        "-f",
        "-c",
        "-qq",
        "-o",
        summary.to_str().expect("a plain path"),
    ];
    let setup = match (contender, protocol) {
        (Contender::PgBouncer, "prepared") => Setup {
            mode: pgbouncer().mode_for_prepared(),
            ..Setup::USUAL
        },
        _ => Setup::USUAL,
    };
    let mut running = field.start_under(&wrapper, contender, setup);
    let load = Load {
        protocol,
        clients: CLIENTS,
        script: Script::Read,
        tls,
    };
    let mut command = pgbench(field, running.port, load, &place);
    command.args(["-t", &count.to_string()]);
    let status = command.status().expect("pgbench runs");
    let said = fs::read_to_string(place.path().join("said")).unwrap_or_default();
    assert!(status.success(), "pgbench, {contender:?}: {said}");
    running.stop();
    parse(&fs::read_to_string(summary).expect("strace's summary"))
}

/// Lines of `% time, seconds, usecs/call, calls, errors or nothing, syscall`.
fn parse(summary: &str) -> Calls {
    let of_line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let count: f64 = words.get(3)?.parse().ok()?;
        let name = *words.last()?;
        (name != "total").then(|| (name.to_owned(), count))
    };
    let calls: Calls = summary.lines().filter_map(of_line).collect();
    assert!(calls.len() > 5, "strace counted nothing: {summary}");
    calls
}
