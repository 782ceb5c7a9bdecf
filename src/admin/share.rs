//! The console's share of the loop: whoever asks without a pause does not take the time of ordinary clients.

use std::time::Duration;

use crate::arena::Tick;
use crate::engine::{Ask, Request};

/// For so long the loop is left to others, in times of what the last answers took: who looks now and then gets a tenth of it.
const REST: u32 = 9;
/// Whoever asks without a pause has used up [`AT_ONCE`] soon; from then on all of the console gets a sixtieth.
const LONG_REST: u32 = 59;
/// So much of the loop's time may be taken at the faster pace. What was taken is forgiven at the slower one, all of it in 6 s.
const AT_ONCE: Duration = Duration::from_millis(100);
/// But no rest is longer than that, after a RELOAD for instance.
const REST_MAX: Duration = Duration::from_millis(20);

/// What is asked, until it is time for an answer.
#[derive(Default)]
pub(super) struct Share {
    /// In the order in which it came.
    asked: Vec<Request>,
    /// The share is used up until then.
    rests_until: Tick,
    /// What was taken of the loop's time and is not forgiven yet, as it was at that time.
    taken: Duration,
    taken_at: Tick,
}

impl Share {
    /// Whether anybody waits for the end of a rest.
    pub(super) fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// What is to be answered now, of what has waited and of what has come.
    pub(super) fn take(&mut self, come: &[Request], now: Tick) -> Vec<Request> {
        self.asked.extend(come.iter().cloned());
        if now >= self.rests_until {
            return std::mem::take(&mut self.asked);
        }
        // Nobody who wants something to stop has to wait for that.
        let is_urgent = |request: &Request| matches!(request.ask, Ask::Cancel);
        let (urgent, others) = self.asked.drain(..).partition(is_urgent);
        self.asked = others;
        urgent
    }

    /// The answers have taken so long, and are done now. A rest that was begun goes on: in each turn of it somebody looks whether it
    /// is over, which takes next to nothing.
    pub(super) fn used(&mut self, took: Duration, now: Tick) {
        let passed = Duration::from_micros(now.since(self.taken_at));
        let forgiven = passed / (LONG_REST + 1);
        self.taken = self.taken.saturating_sub(forgiven).saturating_add(took);
        self.taken_at = now;
        let pace = if self.taken <= AT_ONCE {
            REST
        } else {
            LONG_REST
        };
        let rest = now.plus(took.saturating_mul(pace).min(REST_MAX));
        self.rests_until = self.rests_until.max(rest);
    }

    /// When somebody is to be answered who waits.
    pub(super) fn wake(&self) -> Option<Tick> {
        self.is_asked().then_some(self.rests_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ClientKey;

    fn request(client: u32, ask: Ask) -> Request {
        let client = ClientKey::from_parts(client, 0);
        Request { client, ask }
    }

    #[test]
    fn a_tenth_of_the_time_is_the_consoles_and_cancels_do_not_wait() {
        let mut share = Share::default();
        let at = |us| Tick(0).plus(Duration::from_micros(us));
        let (more, other) = (request(1, Ask::More), request(2, Ask::More));
        let first = share.take(std::slice::from_ref(&more), at(0));
        assert_eq!((first, share.wake()), (vec![more.clone()], None));
        share.used(Duration::from_micros(100), at(100));
        assert_eq!(share.take(std::slice::from_ref(&more), at(100)), []);
        share.used(Duration::from_micros(1), at(101));
        let cancel = request(3, Ask::Cancel);
        let come = [other.clone(), cancel.clone()];
        assert_eq!(share.take(&come, at(999)), [cancel]);
        assert_eq!(share.wake(), Some(at(1_000)));
        assert_eq!(share.take(&[], at(1_000)), [more, other]);
        assert!(!share.is_asked());
        // However long it took.
        share.used(Duration::from_secs(5), at(1_000));
        share.take(&[request(1, Ask::More)], at(1_001));
        assert_eq!(share.wake(), Some(at(1_000).plus(REST_MAX)));
    }

    #[test]
    fn whoever_asks_without_a_pause_has_a_sixtieth_until_a_pause_is_made() {
        let (mut share, took) = (Share::default(), Duration::from_micros(300));
        let mut now = Tick(0);
        let ask = [request(1, Ask::More)];
        // So many answers after a pause, each as soon as it may be; how long they took altogether.
        let mut answers = |pause: u64, count: u32| {
            now = now.plus(Duration::from_secs(pause));
            let begin = now;
            for _ in 0..count {
                let wake = share.rests_until.max(now);
                assert_eq!(share.take(&ask, wake).len(), 1);
                now = wake.plus(took);
                share.used(took, now);
            }
            Duration::from_micros(now.since(begin))
        };
        assert!(answers(10, 250) <= 250 * took * 10);
        answers(0, 200); // those by which what was forgiven meanwhile is used up
        let slow = answers(0, 1_000);
        assert!(slow >= 1_000 * took * 58, "{slow:?}");
        let again = answers(6, 200);
        assert!(again <= 200 * took * 10, "{again:?}");
    }
}
