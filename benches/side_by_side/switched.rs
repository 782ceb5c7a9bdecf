//! What fingerprints and the log of slow queries cost. They can be switched while a process works, so it is one process and one load,
//! with the thing on and off in turns of a fraction of a second: what else differs between two processes, or from one second to
//! the next, is not in it.

use std::thread::sleep;
use std::time::Instant;

use crate::contender::{Contender, Field, NAME, Running, Setup};
use crate::cost::{self, median, quantile};
use crate::support::Wire;
use crate::support::process::Place;
use crate::transactions::{Load, Script, start};

/// What is switched: the key, its value for on, and that for off.
const SWITCHES: [(&str, &str, &str); 2] = [
    ("metrics.query_fingerprints", "1000", "0"),
    ("log.slow_query_threshold", "10s", "0"),
];

/// Pairs of turns in a round, and turns in the time of one measurement.
const PAIRS: usize = 16;
const TURNS: u32 = 5;

/// One turn.
struct Turn {
    /// CPU time of Aether per transaction, in µs.
    cpu_us: f64,
    /// Transactions per second.
    rate: f64,
}

/// The section.
pub fn measure(field: &Field) -> String {
    let setup = Setup {
        more: "admin: {users: [bench]}\n",
        ..Setup::USUAL
    };
    assert_eq!(NAME, "bench", "who may change settings");
    let running = field.start(Contender::Aether, setup);
    let pairs = field.settings.rounds * PAIRS;
    let mut text = format!(
        "\n## What fingerprints and the log of slow queries cost\n\n`pgbench -S`, 16 clients; one process, on and off in {pairs} pairs of turns of {} ms. \
         Ratios of on to off of each pair: the median, and in brackets where it lies with 95 %.\n\n\
         | Switched | protocol | CPU per transaction, \u{b5}s, off | CPU, on to off | transactions per second, on to off |\n|---|---|---|---|---|\n",
        (field.settings.seconds / TURNS).as_millis(),
    );
    for (key, on, off) in SWITCHES {
        for protocol in ["simple", "extended", "prepared"] {
            eprintln!("   {key}, {protocol}");
            let load = Load {
                protocol,
                clients: 16,
                script: Script::Read,
                tls: false,
            };
            let place = Place::new("pgbench");
            let (_pgbench, _) = start(field, &running, load, &place);
            let mut console = Wire::login(running.port, NAME, "", "pgbouncer");
            let mut turn = |value: &str| {
                console.run(&format!("SET {key} = '{value}'"));
                take_turn(field, &running, &mut console)
            };
            let (mut cpu, mut rates, mut base) = (Vec::new(), Vec::new(), Vec::new());
            for pair in 0..pairs {
                // Neither is always the first.
                let (with, without) = if pair % 2 == 0 {
                    let with = turn(on);
                    (with, turn(off))
                } else {
                    let without = turn(off);
                    (turn(on), without)
                };
                cpu.push(with.cpu_us / without.cpu_us);
                rates.push(with.rate / without.rate);
                base.push(without.cpu_us);
            }
            turn(off);
            console.terminate();
            text += &format!(
                "| `{key}: {on}` | {protocol} | {:.2} | {} | {} |\n",
                median(&base),
                shown(&cpu),
                shown(&rates)
            );
        }
    }
    eprint!("{text}");
    text
}

fn take_turn(field: &Field, running: &Running, console: &mut Wire) -> Turn {
    let mut counted = || {
        let stats = console.run("SHOW STATS WHERE database = 'bench'");
        let row = stats.iter().find_map(|message| message.row());
        let count = row.and_then(|row| row.get(2)?.as_deref()?.parse::<f64>().ok());
        let transactions = count.expect("total_xact_count is the third column");
        (transactions, cost::cpu(running.pid), Instant::now())
    };
    let before = counted();
    sleep(field.settings.seconds / TURNS);
    let after = counted();
    let transactions = after.0 - before.0;
    assert!(transactions > 0.0, "nothing was done");
    Turn {
        cpu_us: (after.1 - before.1).as_secs_f64() * 1e6 / transactions,
        rate: transactions / (after.2 - before.2).as_secs_f64(),
    }
}

/// The median of ratios, and its interval: whatever their distribution is, half of them lie below it, as with a coin.
fn shown(ratios: &[f64]) -> String {
    let off = 0.98 / (ratios.len() as f64).sqrt();
    let [low, high] = [0.5 - off, 0.5 + off].map(|part| quantile(ratios, part.clamp(0.0, 1.0)));
    format!("{:.3} ({low:.3}\u{2013}{high:.3})", median(ratios))
}
