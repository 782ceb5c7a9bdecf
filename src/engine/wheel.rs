//! The timer wheel: six levels of 64 slots, one millisecond in the lowest.
//!
//! Timers are lazy. Who is armed here is asked for its deadline again when the slot comes up, so activity only stores a
//! time and touches no timer. Inserting is O(1); so is finding the next slot. A timer fires at most one millisecond late.

use crate::arena::Tick;

const LEVELS: usize = 6;
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// Two years: later deadlines come up then, and are armed again. Not a whole turn of the top level, where a deadline would
/// come into the slot of the present.
const FARTHEST_MS: u64 = (SLOTS as u64 - 1) << (BITS * (LEVELS as u32 - 1));
const NEVER: u64 = u64::MAX;

/// Timers of `T`.
pub struct Wheel<T> {
    /// Everything up to here has fired.
    elapsed_ms: u64,
    /// No slot comes up before this; as a rule one does then.
    soonest_ms: u64,
    levels: Vec<Level<T>>,
}

struct Level<T> {
    /// Bit n: slot n holds something.
    occupied: u64,
    slots: Vec<Vec<(u64, T)>>,
}

/// When the wheel will look at somebody, as that one remembers it. There may be very many of these.
#[derive(Clone, Copy, Debug)]
pub struct Armed(Tick);

impl Armed {
    /// It will not.
    pub const NOT: Armed = Armed(Tick(u64::MAX));

    /// Notes that it is to do so at `at`; whether that is news for it.
    pub fn arm(&mut self, at: Tick) -> bool {
        let earlier = at < self.0;
        if earlier {
            self.0 = at;
        }
        earlier
    }

    /// It does so now: for when that was meant. `None`: for nothing, since another time was noted meanwhile.
    pub fn come_up(&mut self, now: Tick) -> Option<Tick> {
        if self.0 > now {
            return None;
        }
        Some(std::mem::replace(self, Armed::NOT).0)
    }
}

impl<T> Wheel<T> {
    /// A wheel that starts at `now`.
    pub fn new(now: Tick) -> Wheel<T> {
        let level = || Level {
            occupied: 0,
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
        };
        Wheel {
            elapsed_ms: now.0 / 1000,
            soonest_ms: NEVER,
            levels: (0..LEVELS).map(|_| level()).collect(),
        }
    }

    /// Arms `who` for `at`, or for the next millisecond if that has passed.
    pub fn insert(&mut self, at: Tick, who: T) {
        let earliest = self.elapsed_ms + 1;
        let at_ms =
            at.0.div_ceil(1000)
                .clamp(earliest, self.elapsed_ms + FARTHEST_MS);
        self.put(at_ms, who);
    }

    fn put(&mut self, at_ms: u64, who: T) {
        let differing = (self.elapsed_ms ^ at_ms) | (SLOTS as u64 - 1);
        let level = (((63 - differing.leading_zeros()) / BITS) as usize).min(LEVELS - 1);
        let slot = slot_of(at_ms, level);
        let shift = BITS * level as u32;
        self.soonest_ms = self.soonest_ms.min(at_ms >> shift << shift);
        if let Some(level) = self.levels.get_mut(level) {
            level.occupied |= 1 << slot;
            if let Some(slot) = level.slots.get_mut(slot) {
                slot.push((at_ms, who));
            }
        }
    }

    /// The level, slot and time of what comes up next.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        self.levels.iter().enumerate().find_map(|(number, level)| {
            if level.occupied == 0 {
                return None;
            }
            let now_slot = slot_of(self.elapsed_ms, number);
            let ahead = level
                .occupied
                .rotate_right(now_slot as u32)
                .trailing_zeros() as usize;
            let slot = (now_slot + ahead) % SLOTS;
            let slot_ms = 1u64 << (BITS * number as u32);
            let turn_ms = slot_ms << BITS;
            let start = self.elapsed_ms - self.elapsed_ms % turn_ms;
            let mut at = start + slot as u64 * slot_ms;
            if at + slot_ms <= self.elapsed_ms || (at <= self.elapsed_ms && slot != now_slot) {
                at += turn_ms;
            }
            Some((number, slot, at))
        })
    }

    /// When [`Wheel::expire`] should be called next; possibly too early, never too late.
    pub fn next(&self) -> Option<Tick> {
        let at_ms = self.soonest_ms;
        (at_ms != NEVER).then(|| Tick(at_ms.max(self.elapsed_ms) * 1000))
    }

    /// Moves what is due at `now` to `due`.
    pub fn expire(&mut self, now: Tick, due: &mut Vec<T>) {
        let now_ms = now.0 / 1000;
        if now_ms < self.soonest_ms {
            self.elapsed_ms = self.elapsed_ms.max(now_ms);
            return;
        }
        self.soonest_ms = NEVER;
        while let Some((number, slot, at_ms)) = self.next_slot() {
            if at_ms > now_ms {
                self.soonest_ms = at_ms;
                break;
            }
            self.elapsed_ms = self.elapsed_ms.max(at_ms);
            let Some(level) = self.levels.get_mut(number) else {
                break;
            };
            level.occupied &= !(1 << slot);
            let entries = level
                .slots
                .get_mut(slot)
                .map(std::mem::take)
                .unwrap_or_default();
            for (at_ms, who) in entries {
                if at_ms <= self.elapsed_ms {
                    due.push(who)
                } else {
                    self.put(at_ms, who)
                }
            }
        }
        self.elapsed_ms = self.elapsed_ms.max(now_ms);
    }
}

fn slot_of(at_ms: u64, level: usize) -> usize {
    ((at_ms >> (BITS * level as u32)) & (SLOTS as u64 - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Tick {
        Tick(n * 1000)
    }

    #[test]
    fn each_timer_fires_once_on_its_millisecond() {
        for start in [0, 1, 63, 64, 4_095, 1_000_003] {
            for delay in [
                1,
                2,
                63,
                64,
                65,
                127,
                4_095,
                4_096,
                4_097,
                262_144,
                300_000,
                3_600_000,
                86_400_000 * 30,
            ] {
                let mut wheel = Wheel::new(ms(start));
                wheel.insert(ms(start + delay), delay);
                let (mut due, mut steps) = (Vec::new(), 0);
                while due.is_empty() {
                    let next = wheel.next().expect("armed");
                    assert!(next <= ms(start + delay), "never too late");
                    wheel.expire(next, &mut due);
                    steps += 1;
                    assert!(steps < 10, "few steps for {start} {delay}");
                    assert!(due.is_empty() || next == ms(start + delay), "on time");
                }
                assert_eq!((due, wheel.next()), (vec![delay], None));
            }
        }
    }

    /// Catalogue fault R5: a loop that was not run for a while finds its timers late, and in order.
    #[test]
    fn many_timers_come_in_order_whatever_the_steps() {
        let mut seed = 7u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        };
        let mut wheel = Wheel::new(ms(12_345));
        let (mut now, mut armed, mut fired) = (12_345, std::collections::BTreeMap::new(), 0);
        for id in 0..20_000u64 {
            let at = now + 1 + random() % 10u64.pow(1 + (random() % 7) as u32);
            wheel.insert(ms(at), id);
            armed.insert(id, at);
            if random() % 3 == 0 {
                now += random() % 5_000;
                let mut due = Vec::new();
                wheel.expire(ms(now), &mut due);
                for id in due {
                    assert!(armed.remove(&id).expect("fires once") <= now);
                    fired += 1;
                }
                assert!(armed.values().all(|&at| at > now), "nothing is left behind");
            }
        }
        assert!(fired > 1_000);
    }

    /// Found by reading: a deadline a whole turn of the top level away came into the slot of the present, and `expire` took
    /// it out and put it back for ever. `max_lifetime: 1000d` hung the process with the first server connection.
    #[test]
    fn a_deadline_beyond_the_wheel_comes_up_early_and_never_in_the_present_slot() {
        for start in [0, 1, 12_345, (1 << 30) - 1, (1 << 36) + 5] {
            let mut wheel = Wheel::new(ms(start));
            wheel.insert(ms(start + 3_650 * 86_400_000), "far");
            let next = wheel.next().expect("armed");
            assert!(next > ms(start), "not at once: {next:?} at {start}");
            let mut due = Vec::new();
            for _ in 0..10 {
                let next = wheel.next().expect("armed");
                wheel.expire(next, &mut due);
                if !due.is_empty() {
                    break;
                }
            }
            assert_eq!(due, ["far"]);
        }
    }

    #[test]
    fn what_is_already_due_fires_at_the_next_millisecond() {
        let mut wheel = Wheel::new(ms(100));
        wheel.insert(ms(5), "late");
        let mut due = Vec::new();
        wheel.expire(ms(101), &mut due);
        assert_eq!(due, ["late"]);
    }
}
