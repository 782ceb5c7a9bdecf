//! Whether many idle clients, or many pools, make the busy ones dearer; and what idle clients cost by themselves.

use std::thread::{self, sleep};

use crate::client::{Client, Leg};
use crate::contender::{Contender, Field, Running, Setup};
use crate::cost::{self, median};
use crate::transactions::{Load, Script, run};

const CROWD: usize = 10_000;
const POOLS: usize = 2_000;
/// Pools that have a client and a server, too: as many as a server of the usual size has room for.
const POOLS_IN_USE: usize = 200;
const THREADS: usize = 4;

/// The section.
pub fn measure(field: &Field) -> String {
    let mut text = format!(
        "\n## Flat cost\n\nCPU time per transaction in µs, `pgbench -S` with 16 clients: alone, beside {CROWD} idle clients, and with {POOLS} pools, \
         {POOLS_IN_USE} of which have a client and a server. Ratios are medians of paired rounds, to the same pooler alone; at most 1.05 is asked of Aether. \
         Idle CPU: of {CROWD} idle clients and nobody else, in ms per second.\n\n\
         | pooler | alone | idle clients | ratio | pools | ratio | idle CPU |\n|---|---|---|---|---|---|---|\n"
    );
    for contender in [Contender::PgBouncer, Contender::Aether] {
        text += &line(field, contender);
    }
    eprint!("{text}");
    text
}

fn line(field: &Field, contender: Contender) -> String {
    eprintln!("   {contender:?}");
    let alone = field.start(contender, Setup::USUAL);
    let crowded = field.start(contender, Setup::USUAL);
    let divided = field.start(
        contender,
        Setup {
            more_pools: POOLS,
            ..Setup::USUAL
        },
    );
    let crowd = crowd(&crowded, Leg::Plain, CROWD);
    let in_pools: Vec<Client> = (0..POOLS_IN_USE)
        .map(|number| {
            Client::login_to(divided.port, Leg::Plain, &format!("d{number}")).expect("a login")
        })
        .collect();
    let before = cost::cpu(crowded.pid);
    sleep(field.settings.seconds * 2);
    let idle_ms = (cost::cpu(crowded.pid) - before).as_secs_f64() * 1e3
        / (field.settings.seconds.as_secs_f64() * 2.0);
    let load = Load {
        protocol: "simple",
        clients: 16,
        script: Script::Read,
        tls: false,
    };
    let mut samples: [Vec<f64>; 3] = Default::default();
    for _ in 0..field.settings.rounds {
        for (running, samples) in [&alone, &crowded, &divided].into_iter().zip(&mut samples) {
            samples.push(run(field, running, load).cpu_us);
        }
    }
    drop((crowd, in_pools));
    let ratio = |which: usize| {
        let ratios: Vec<f64> = samples[which]
            .iter()
            .zip(&samples[0])
            .map(|(one, alone)| one / alone)
            .collect();
        median(&ratios)
    };
    let [alone_us, crowded_us, divided_us] = [0, 1, 2].map(|which: usize| median(&samples[which]));
    format!(
        "| {contender:?} | {alone_us:.1} | {crowded_us:.1} | {:.2} | {divided_us:.1} | {:.2} | {idle_ms:.2} |\n",
        ratio(1),
        ratio(2)
    )
}

/// Clients that log in and say nothing more.
pub fn crowd(running: &Running, leg: Leg, count: usize) -> Vec<Client> {
    let some = |number: usize| {
        let mine = count / THREADS + usize::from(number < count % THREADS);
        (0..mine)
            .map(|_| Client::login(running.port, leg).expect("a login"))
            .collect::<Vec<Client>>()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| scope.spawn(move || some(number)))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("logins"))
            .collect()
    })
}
