//! The engine's time, read once in each turn.

use nix::time::{ClockId, clock_gettime};

use crate::arena::Tick;

/// Counts from when it was made. `CLOCK_MONOTONIC`, as [`std::time::Instant`], without the way through seconds and nanoseconds
/// that comparing two of those takes.
pub(super) struct Clock {
    start: Tick,
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { start: read() }
    }

    pub(super) fn now(&self) -> Tick {
        Tick(read().since(self.start))
    }
}

/// Since the machine was started.
fn read() -> Tick {
    // Every Linux has it, and it is never negative.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Tick(0), |time| {
        Tick(time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1_000)
    })
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn it_goes_as_fast_as_that_of_the_library_and_begins_at_nothing() {
        let (before, clock) = (Instant::now(), Clock::start());
        let first = clock.now();
        let within = Instant::now();
        sleep(Duration::from_millis(20));
        let (last, after) = (clock.now(), Instant::now());
        assert!(first <= Tick(0).plus(within - before));
        assert!(last <= Tick(0).plus(after - before), "{last:?}");
        assert!(last.since(first) + 1 >= 20_000, "{last:?} after {first:?}");
    }
}
