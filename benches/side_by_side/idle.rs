//! Memory of an idle client: the slope of resident memory between two numbers of them.

use std::thread::sleep;
use std::time::Duration;

use crate::client::{Client, Leg};
use crate::contender::{Contender, Field, Running, Setup};
use crate::cost::rss;
use crate::flat::crowd;
use crate::table::{Row, render};

const FEW: usize = 1_000;
const MANY: usize = 5_000;

/// The section.
pub fn measure(field: &Field) -> String {
    let mut rows = Vec::new();
    let mut at_start = Row::new("the process at start", None);
    for leg in Leg::ALL {
        for (asked, queries) in [("that logged in", false), ("that ran one query", true)] {
            let target = match leg {
                Leg::Plain => 0.40,
                Leg::Tls => 0.55,
            };
            let mut row = Row::new(format!("a client{} {asked}", leg.label()), Some(target));
            for contender in [Contender::PgBouncer, Contender::Aether] {
                eprintln!("   {contender:?}: {}", row.workload);
                let running = field.start(contender, Setup::USUAL);
                at_start.add(contender, rss(running.pid));
                row.add(contender, slope(&running, leg, queries));
            }
            rows.push(row);
        }
    }
    rows.push(at_start);
    render(
        "Resident memory, bytes",
        "Per idle client: the difference between 1,000 and 5,000 of them in a process of its own, by their number. At start below \
         6 MB (6,291,456) is asked of Aether.",
        0,
        &rows,
    )
}

fn slope(running: &Running, leg: Leg, queries: bool) -> f64 {
    let mut clients: Vec<Client> = Vec::new();
    let mut memory = |count| {
        clients.extend(crowd(running, leg, count - clients.len()));
        if queries {
            for client in &mut clients {
                client.query("SELECT 1").expect("an answer");
            }
        }
        sleep(Duration::from_millis(300));
        rss(running.pid)
    };
    let few = memory(FEW);
    (memory(MANY) - few) / (MANY - FEW) as f64
}
