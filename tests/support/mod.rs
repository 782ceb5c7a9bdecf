//! What the tests against real processes stand on: a scratch PostgreSQL ([`cluster`]), an Aether in front of it
//! ([`pooler`]) and a raw protocol client that shares no code with Aether ([`wire`]).
//!
//! Everything is on loopback, every wait ends, and nothing outlives the test process, however it ends: see [`process`].

// Each test binary compiles this module for itself and uses its own part of it.
#![allow(dead_code, unused_imports)]

pub mod certificates;
pub mod cluster;
pub mod pgbouncer;
pub mod pooler;
pub mod process;
pub mod scene;
pub mod wire;

pub use cluster::{Cluster, Stop};
pub use pgbouncer::pgbouncer;
pub use pooler::Pooler;
pub use scene::Scene;
pub use wire::{Message, ServerError, Wire};

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The longest that any single wait of a test takes before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How much of something; a variable of the environment may ask for more, or for less.
pub fn scale(variable: &str, usual: usize) -> usize {
    let asked = std::env::var(variable).ok();
    asked.map_or(usual, |text| text.parse().expect("a number"))
}

/// Lets this process, and what it starts, open as many files as it may; how many that is.
pub fn raise_open_files() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
    usize::try_from(hard).unwrap_or(usize::MAX)
}

/// Tries until `done` is true; fails the test with `what` after [`PATIENCE`].
#[track_caller]
pub fn wait_until(what: &str, done: impl FnMut() -> bool) {
    assert!(
        wait_for(PATIENCE, done),
        "waited {PATIENCE:?} in vain until {what}"
    );
}

/// Tries until `done` is true or the time is up; says which.
pub fn wait_for(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if done() {
            return true;
        }
        if begin.elapsed() >= time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
