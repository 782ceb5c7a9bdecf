//! What metrics cost: CPU time per transaction and latency of Aether with metrics scraped, beside an Aether without. In turns, round
//! by round, as with the others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::contender::{Contender, Field, Running, Setup};
use crate::cost::{median, quantile};
use crate::transactions::{Load, Script, run};

/// What is on: what it is called, the configuration, and whether somebody scrapes.
const WAYS: [(&str, &str, bool); 3] = [
    ("nothing", "", false),
    ("metrics, nobody asks", METRICS, false),
    ("metrics, a scrape each second", METRICS, true),
];

const METRICS: &str = "metrics: {listen_addr: '127.0.0.1:{metrics}'}\n";

/// The section.
pub fn measure(field: &Field) -> String {
    let started: Vec<Running> = WAYS
        .iter()
        .map(|(_, more, _)| {
            field.start(
                Contender::Aether,
                Setup {
                    more,
                    ..Setup::USUAL
                },
            )
        })
        .collect();
    let mut text = String::from(
        "\n## What it costs to look\n\n`pgbench -S`, 16 clients; CPU time of Aether's process per transaction in \u{b5}s, its ratio to that of the \
         same round with nothing on (median, range), and latency p50 / p99 of all rounds.\n\n\
         | On | protocol | CPU | to nothing | best | latency |\n|---|---|---|---|---|---|\n",
    );
    for protocol in ["simple", "extended", "prepared"] {
        let load = Load {
            protocol,
            clients: 16,
            script: Script::Read,
            tls: false,
        };
        let mut seen: [(Vec<f64>, Vec<f64>); WAYS.len()] = Default::default();
        for round in 0..field.settings.rounds {
            eprintln!("   {protocol}, round {}", round + 1);
            for place in 0..WAYS.len() {
                let way = (place + round) % WAYS.len();
                let (running, scraped) = (&started[way], WAYS[way].2);
                let one = scraped_meanwhile(running, scraped, || run(field, running, load));
                seen[way].0.push(one.cpu_us);
                seen[way].1.extend(one.latencies_us);
            }
        }
        let least = |samples: &[f64]| samples.iter().copied().fold(f64::INFINITY, f64::min);
        let (base, _) = seen[0].clone();
        for ((name, ..), (cpu, latencies)) in WAYS.iter().zip(&seen) {
            let ratios: Vec<f64> = cpu
                .iter()
                .zip(&base)
                .map(|(one, base)| one / base)
                .collect();
            text += &format!(
                "| {name} | {protocol} | {:.2} | {:.3} ({:.3}\u{2013}{:.3}) | {:.3} | {:.0} / {:.0} |\n",
                median(cpu),
                median(&ratios),
                quantile(&ratios, 0.0),
                quantile(&ratios, 1.0),
                least(cpu) / least(&base),
                quantile(latencies, 0.5),
                quantile(latencies, 0.99),
            );
        }
    }
    eprint!("{text}");
    text
}

/// Does this while somebody asks for metrics each second, or nobody does.
fn scraped_meanwhile<T>(running: &Running, scraped: bool, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(!scraped);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let mut stream =
                    TcpStream::connect(("127.0.0.1", running.metrics)).expect("it listens");
                stream
                    .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
                    .expect("it reads");
                let mut text = String::new();
                stream.read_to_string(&mut text).expect("it answers");
                assert!(text.contains("aether_pool_queries_total"), "{text}");
                thread::sleep(Duration::from_secs(1));
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}
