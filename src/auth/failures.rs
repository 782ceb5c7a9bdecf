//! Failed logins by where they came from, so that guessing is slow (catalogue C13).
//!
//! Each failure takes its share of the time to come; who has taken too much of it waits before the next attempt, one behind the
//! other, and is turned away when the wait would be long. Where nobody fails, nobody is charged anything. What
//! is remembered is bounded: the source that is free again first is forgotten first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::arena::Tick;
use crate::limits;

/// One source of logins: an IPv4 address, or an IPv6 network of 64 bits, which is what one subscriber has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source(IpAddr);

impl Source {
    /// The source that an address belongs to.
    pub fn of(address: IpAddr) -> Source {
        Source(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(network.into())
            }
        })
    }
}

/// Whether a login may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// At once.
    Now,
    /// Not before this.
    At(Tick),
    /// Not at all: too many wait already.
    Refused,
}

/// The failures of late.
#[derive(Debug, Default)]
pub struct Failures {
    /// Until when the failures of a source, one by one, would have lasted.
    taken: BTreeMap<Source, Tick>,
    /// The same, by time.
    free: BTreeSet<(Tick, Source)>,
}

impl Failures {
    /// Whether a login from there may be tried. `per_second`: failures allowed in the long run; 0: any number. An attempt that has to
    /// wait is charged in advance; if it fails, that is no second failure to be noted.
    pub fn attempt(&mut self, source: Source, now: Tick, per_second: u32) -> Attempt {
        let (Some(step), Some(&taken)) = (step(per_second), self.taken.get(&source)) else {
            return Attempt::Now;
        };
        let free_until = now.plus(Duration::from_millis(limits::FAILURE_BURST_MS));
        if taken <= free_until {
            return Attempt::Now;
        }
        let wait = Duration::from_micros(taken.since(free_until));
        if wait > Duration::from_millis(limits::FAILURE_WAIT_MAX_MS) {
            return Attempt::Refused;
        }
        self.set(source, taken.plus(step));
        Attempt::At(now.plus(wait))
    }

    /// A login from there has failed.
    pub fn note(&mut self, source: Source, now: Tick, per_second: u32) {
        let Some(step) = step(per_second) else {
            return;
        };
        let longest = limits::FAILURE_BURST_MS + 2 * limits::FAILURE_WAIT_MAX_MS;
        let longest = now.plus(Duration::from_millis(longest));
        let taken = self
            .taken
            .get(&source)
            .map_or(now, |taken| (*taken).max(now));
        self.set(source, taken.plus(step).min(longest));
    }

    fn set(&mut self, source: Source, taken: Tick) {
        if let Some(before) = self.taken.insert(source, taken) {
            self.free.remove(&(before, source));
        }
        self.free.insert((taken, source));
        if self.taken.len() > limits::FAILURE_SOURCES_MAX
            && let Some((_, source)) = self.free.pop_first()
        {
            self.taken.remove(&source);
        }
    }
}

fn step(per_second: u32) -> Option<Duration> {
    Duration::from_secs(1).checked_div(per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().expect("an address"))
    }

    fn later(ms: u64) -> Tick {
        Tick(ms * 1000)
    }

    #[test]
    fn who_fails_seldom_never_waits() {
        let mut failures = Failures::default();
        let who = source("10.0.0.1");
        for second in 0..100 {
            assert_eq!(failures.attempt(who, later(second * 1000), 2), Attempt::Now);
            failures.note(who, later(second * 1000), 2);
            failures.note(who, later(second * 1000), 2);
        }
    }

    /// Catalogue C13: however many attempts are made at once, in the long run it is so many a second.
    #[test]
    fn who_fails_often_waits_one_behind_the_other_and_is_then_turned_away() {
        let mut failures = Failures::default();
        let who = source("10.0.0.1");
        let (mut tried, mut waiting) = (0, BTreeSet::new());
        for ms in 0..60_000 {
            match failures.attempt(who, later(ms), 10) {
                Attempt::Now => {
                    failures.note(who, later(ms), 10);
                    tried += 1;
                }
                Attempt::At(tick) => {
                    assert!(tick >= later(ms) && tick <= later(ms + limits::FAILURE_WAIT_MAX_MS));
                    assert!(waiting.insert(tick), "no two at once");
                    tried += 1;
                }
                Attempt::Refused => {}
            }
            while waiting.first().is_some_and(|tick| *tick <= later(ms)) {
                waiting.pop_first();
            }
        }
        let burst = limits::FAILURE_BURST_MS / 100;
        let waits = limits::FAILURE_WAIT_MAX_MS / 100;
        assert!(tried <= 600 + burst + waits + 1, "{tried}");
        assert!(tried >= 600, "{tried}");
        let mut failures = Failures::default();
        (0..burst + 2).for_each(|_| failures.note(who, later(0), 10));
        let at = |attempt| match attempt {
            Attempt::At(tick) => tick.since(Tick(0)) / 1000,
            other => panic!("{other:?}"),
        };
        let (first, second) = (
            at(failures.attempt(who, later(0), 10)),
            at(failures.attempt(who, later(0), 10)),
        );
        assert_eq!((first, second), (200, 300));
        (0..1000).for_each(|_| failures.note(who, later(0), 10));
        assert_eq!(failures.attempt(who, later(0), 10), Attempt::Refused);
        // And after a while it is forgiven.
        assert_eq!(failures.attempt(who, later(60_000), 10), Attempt::Now);
        assert_eq!(failures.attempt(who, later(0), 0), Attempt::Now);
    }

    #[test]
    fn ipv6_counts_by_network_and_others_are_not_touched() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        let mut failures = Failures::default();
        (0..1000).for_each(|_| failures.note(source("10.0.0.1"), later(0), 1));
        assert_eq!(
            failures.attempt(source("10.0.0.1"), later(0), 1),
            Attempt::Refused
        );
        assert_eq!(
            failures.attempt(source("10.0.0.2"), later(0), 1),
            Attempt::Now
        );
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_worst_are_kept() {
        let mut failures = Failures::default();
        let worst = source("10.0.0.1");
        (0..1000).for_each(|_| failures.note(worst, later(0), 1));
        let network: u128 = 0x2001_0db8 << 96;
        for n in 0..u128::from(limits::FAILURE_SOURCES_MAX as u32) + 1000 {
            let address = IpAddr::V6((network + (n << 64)).into());
            failures.note(Source::of(address), later(0), 1);
        }
        assert_eq!(failures.taken.len(), limits::FAILURE_SOURCES_MAX);
        assert_eq!(failures.free.len(), limits::FAILURE_SOURCES_MAX);
        assert_eq!(failures.attempt(worst, later(0), 1), Attempt::Refused);
    }
}
