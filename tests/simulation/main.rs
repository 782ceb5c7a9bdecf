//! The whole pooler, unchanged, on a simulated network and clock, in front of a model PostgreSQL: one seed, one world.
//!
//! `AETHER_SIM_SEEDS=n` worlds are tried (12,000 when unset; a third of them have faults), beginning with seed
//! `AETHER_SIM_FIRST` (0). `AETHER_SIM_SEED=n` replays one; with `AETHER_SIM_TRACE=1` and `--nocapture` it prints
//! what is said. The same seed gives the same world, byte for byte.

mod clerk;
mod client;
mod network;
mod operator;
mod plan;
mod postgres;
mod random;
mod sealed;
mod session;
mod sizes;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use world::{Outcome, World};

/// Seeds that once found a bug, each with what it was. A change of the simulation itself makes other worlds of them.
const NAMED: [(u64, &str); 8] = [
    (
        9124,
        "an unnamed DEALLOCATE, bound again in a later batch, named what the server had no longer",
    ),
    (
        6,
        "with check_delay 0 a server was checked again and again instead of being given away",
    ),
    (
        41,
        "a server that was full with idle connections of other startup sets let a client wait for ever",
    ),
    (
        7103,
        "a server that grew too old while it was checked was taken off the books twice",
    ),
    (
        18117,
        "a shared server was given back while late data of a copy still waited to be written to it",
    ),
    (
        2497,
        "who had given a password was asked for it once more when DROP DATABASE took away who knew it",
    ),
    (
        200_285,
        "with server_fast_fail nobody waited for whom an idle server of another pool would have made room",
    ),
    (
        320_280,
        "a pool that knew only what its server refuses was never filled",
    ),
];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number"))
    })
}

/// With `AETHER_SIM_TRACE` set, what is said in a world that is replayed.
fn trace(line: impl FnOnce() -> String) {
    static TRACED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    if *TRACED.get_or_init(|| std::env::var_os("AETHER_SIM_TRACE").is_some()) {
        println!("{}", line());
    }
}

/// Runs one world; what went wrong has its seed with it.
fn run(seed: u64) -> Result<Outcome, String> {
    run_as(seed, |world| world)
}

/// The same, after something was done to it.
fn run_as(seed: u64, prepare: fn(World) -> World) -> Result<Outcome, String> {
    let whole = || prepare(World::new(seed)).run();
    catch_unwind(AssertUnwindSafe(whole)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        format!("seed {seed}: {}", text.unwrap_or_default())
    })
}

#[test]
fn no_world_violates_a_promise() {
    if let Some(seed) = number("AETHER_SIM_SEED") {
        println!("{:?}", run(seed).unwrap());
        return;
    }
    let (first, count) = (
        number("AETHER_SIM_FIRST").unwrap_or(0),
        number("AETHER_SIM_SEEDS").unwrap_or(12_000),
    );
    let (next, begin) = (AtomicU64::new(first), Instant::now());
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let work = || {
        let (mut outcomes, mut violations) = (Vec::new(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count || violations.len() >= 3 {
                return (outcomes, violations);
            }
            match run(seed) {
                Ok(outcome) => outcomes.push(outcome),
                Err(violation) => violations.push(violation),
            }
        }
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let outcomes: Vec<Outcome> = results
        .iter()
        .flat_map(|(outcomes, _)| outcomes.iter().copied())
        .collect();
    let violations: Vec<String> = results
        .into_iter()
        .flat_map(|(_, violations)| violations)
        .collect();
    let sum = |part: fn(&Outcome) -> u64| outcomes.iter().map(part).sum::<u64>();
    let operated = outcomes
        .iter()
        .filter(|outcome| outcome.commands > 0)
        .count();
    println!(
        "{} commands of operators in {operated} worlds: {} requests of clients cancelled, {} clients sent away",
        sum(|outcome| outcome.commands),
        sum(|outcome| outcome.cancelled),
        sum(|outcome| outcome.condemned)
    );
    println!(
        "{} worlds, {} of them with faults ({} faults), {} queries, {} steps, {:.0} worlds a minute, {} violations",
        outcomes.len(),
        outcomes.iter().filter(|outcome| outcome.faults > 0).count(),
        sum(|outcome| outcome.faults),
        sum(|outcome| outcome.queries),
        sum(|outcome| outcome.steps),
        outcomes.len() as f64 / begin.elapsed().as_secs_f64() * 60.0,
        violations.len()
    );
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    let faulty = outcomes.iter().filter(|outcome| outcome.faults > 0).count();
    assert!(
        count < 1_000 || faulty * 4 > outcomes.len(),
        "too few worlds with faults"
    );
    assert!(
        count < 1_000 || operated * 2 > outcomes.len(),
        "too few worlds with operators"
    );
    let cancelled = sum(|outcome| outcome.cancelled) as usize;
    let condemned = sum(|outcome| outcome.condemned) as usize;
    assert!(
        count < 1_000 || cancelled * 100 > outcomes.len() && condemned * 20 > outcomes.len(),
        "operators have cancelled too little, or sent too few away"
    );
}

#[test]
fn seeds_that_once_found_a_bug_find_it_no_more() {
    for (seed, what) in NAMED {
        run(seed).unwrap_or_else(|violation| panic!("{what}: {violation}"));
    }
}

/// What is done in one step where nothing follows from it, and what does it otherwise, state the same rules twice.
#[test]
fn the_long_way_gives_the_same_world_as_the_short_ones() {
    for seed in 0..number("AETHER_SIM_LONG").unwrap_or(200) {
        let long = run_as(seed, World::without_short_ways);
        assert!(long.is_ok(), "the long way: {long:?}");
        assert_eq!(run(seed), long, "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    for seed in 0..40 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
