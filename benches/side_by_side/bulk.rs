//! CPU time per gigabyte: a large SELECT, COPY out, COPY in, in the clear and over TLS.

use std::io;

use crate::client::{Client, Leg};
use crate::contender::{Contender, Field, Setup, in_turn};
use crate::cost;
use crate::table::{Row, render};

const NARROW: &str = "SELECT generate_series(1000000, 4000000)";
const WIDE: &str = "SELECT repeat('x', 1000) FROM generate_series(1, 200000)";
const COPY_OUT: &str = "COPY (SELECT repeat('x', 99) FROM generate_series(1, 1000000)) TO STDOUT";
/// Takes every line and keeps none.
const COPY_IN: &str = "COPY rows FROM STDIN WHERE line IS NULL";
const COPY_IN_BYTES: u64 = 100_000_000;

type Transfer = fn(&mut Client) -> io::Result<u64>;

const TRANSFERS: [(&str, Transfer, [Option<f64>; 2]); 4] = [
    ("SELECT, rows of 18 bytes", narrow, [Some(0.30), Some(0.50)]),
    (
        "SELECT, rows of 1,000 bytes",
        wide,
        [Some(0.30), Some(0.50)],
    ),
    ("COPY out, rows of 100 bytes", copy_out, [Some(0.60), None]),
    ("COPY in, rows of 100 bytes", copy_in, [Some(0.60), None]),
];

fn narrow(client: &mut Client) -> io::Result<u64> {
    client.query(NARROW)
}

fn wide(client: &mut Client) -> io::Result<u64> {
    client.query(WIDE)
}

fn copy_out(client: &mut Client) -> io::Result<u64> {
    client.query(COPY_OUT)
}

fn copy_in(client: &mut Client) -> io::Result<u64> {
    client.copy_in(COPY_IN, &format!("{}\n", "x".repeat(99)), COPY_IN_BYTES)
}

/// The section.
pub fn measure(field: &Field) -> String {
    let all = field.start_all(Setup::USUAL);
    let mut rows = Vec::new();
    for leg in Leg::ALL {
        for (what, _, targets) in TRANSFERS {
            rows.push(Row::new(
                format!("{what}{}", leg.label()),
                targets[leg as usize],
            ));
        }
    }
    for round in 0..field.settings.rounds {
        eprintln!("   round {}", round + 1);
        let mut rows = rows.iter_mut();
        for leg in Leg::ALL {
            for ((_, transfer, _), row) in TRANSFERS.iter().zip(&mut rows) {
                for contender in in_turn(round) {
                    if leg == Leg::Tls && contender == Contender::Haproxy {
                        continue;
                    }
                    let running = &all[contender as usize];
                    let mut client = Client::login(running.port, leg).expect("a login");
                    let before = cost::cpu(running.pid);
                    let bytes = transfer(&mut client).expect("a transfer");
                    let taken = cost::cpu(running.pid) - before;
                    row.add(contender, taken.as_secs_f64() * 1e9 / bytes as f64);
                    client.terminate().expect("a goodbye");
                }
            }
        }
    }
    render(
        "CPU time per gigabyte, s",
        "TLS 1.3 on the client's side only, AES-256-GCM. HAProxy is not asked to speak TLS. Issue 5 does not say how wide the \
         rows of its large SELECT are; the narrower they are, the more messages PgBouncer looks at.",
        3,
        &rows,
    )
}
