//! What the environment says about the run.

use std::env;
use std::str::FromStr;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that the largest section needs: 10,000 idle clients, and some.
const FILES: u64 = 10_500;

/// How much to measure.
pub struct Settings {
    /// How often each contender has its turn.
    pub rounds: usize,
    /// How long one measurement of a rate takes.
    pub seconds: Duration,
    /// Whether to write `benches/RESULTS.md`.
    pub save: bool,
    only: Vec<String>,
}

impl Settings {
    /// Reads them. `known`: what sections may be called.
    pub fn read(known: &[&str]) -> Settings {
        let only: Vec<String> = env::var("AETHER_BENCH_ONLY")
            .unwrap_or_default()
            .split(',')
            .map(|word| word.trim().to_owned())
            .filter(|word| !word.is_empty())
            .collect();
        for word in &only {
            assert!(
                known.contains(&word.as_str()),
                "AETHER_BENCH_ONLY: {word} is none of {known:?}"
            );
        }
        Settings {
            rounds: number("AETHER_BENCH_ROUNDS", 5),
            seconds: Duration::from_secs_f64(number("AETHER_BENCH_SECONDS", 1.0)),
            save: env::var_os("AETHER_BENCH_SAVE").is_some_and(|value| value == "1"),
            only,
        }
    }

    /// Whether a section is to be run.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| word == name)
    }

    /// The rounds' numbers, for what is dear: at most three of them.
    pub fn few_rounds(&self) -> std::ops::Range<usize> {
        0..self.rounds.min(3)
    }
}

fn number<T: FromStr>(name: &str, default: T) -> T {
    match env::var(name) {
        Err(_) => default,
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}: {text:?} is not a number")),
    }
}

/// Takes as many descriptors as we may have; those that we start inherit the limit.
pub fn raise_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    assert!(
        hard >= FILES,
        "10,000 idle clients need {FILES} descriptors, the hard limit is {hard}: raise it (ulimit -Hn)"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a limit within the hard one");
}
