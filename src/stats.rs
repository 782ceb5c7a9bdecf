//! Counters: plain integers beside what they count, and what the console makes of them.

use std::collections::BTreeMap;

use crate::reasons::{self, CONNECT_FAILURES, SERVER_CLOSES};

/// What is counted per pool. Only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times a server was given to a client.
    pub assignments: u64,
    /// Transactions.
    pub transactions: u64,
    /// Queries, as their ReadyForQuery tells.
    pub queries: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes from servers.
    pub sent: u64,
    /// Time in transactions, in microseconds.
    pub transaction_us: u64,
    /// Time in which servers worked for clients, in microseconds.
    pub query_us: u64,
    /// Time that clients waited for a server, in microseconds.
    pub wait_us: u64,
    /// Logins that succeeded.
    pub logins: u64,
    /// Server connections that were made.
    pub connects: u64,
    /// Sum of the times that servers were idle before they were used again, in microseconds.
    pub idle_us: u64,
    /// How often a server came out of idleness.
    pub idle_ends: u64,
    /// Resets that were done.
    pub resets: u64,
    /// Checks that were done.
    pub checks: u64,
    /// Named statements that clients have prepared, where Aether follows them.
    pub client_parses: u64,
    /// Named statements that were prepared on servers for them.
    pub server_parses: u64,
    /// Times that clients have bound such a statement.
    pub binds: u64,
    /// Those of them for which the server had it already.
    pub hits: u64,
    /// Named statements that were closed on servers which held too many.
    pub evictions: u64,
}

impl Counters {
    /// Both together.
    fn with(&self, other: &Counters, both: fn(u64, u64) -> u64) -> Counters {
        let (a, b) = (self, other);
        Counters {
            assignments: both(a.assignments, b.assignments),
            transactions: both(a.transactions, b.transactions),
            queries: both(a.queries, b.queries),
            received: both(a.received, b.received),
            sent: both(a.sent, b.sent),
            transaction_us: both(a.transaction_us, b.transaction_us),
            query_us: both(a.query_us, b.query_us),
            wait_us: both(a.wait_us, b.wait_us),
            logins: both(a.logins, b.logins),
            connects: both(a.connects, b.connects),
            idle_us: both(a.idle_us, b.idle_us),
            idle_ends: both(a.idle_ends, b.idle_ends),
            resets: both(a.resets, b.resets),
            checks: both(a.checks, b.checks),
            client_parses: both(a.client_parses, b.client_parses),
            server_parses: both(a.server_parses, b.server_parses),
            binds: both(a.binds, b.binds),
            hits: both(a.hits, b.hits),
            evictions: both(a.evictions, b.evictions),
        }
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Counters) {
        *self = self.with(other, |a, b| a + b);
    }
}

/// Counters with their averages over the last full period.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Since the start.
    pub total: Counters,
    at_last_period: Counters,
    period: Period,
    /// How long what happened took.
    pub times: Times,
    /// What happens seldom.
    pub events: Events,
}

/// How long what happens in a pool takes. The sums are in [`Counters`], but for connecting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Clients waited for a server.
    pub wait: Histogram,
    /// A server worked for a client, from its request to ReadyForQuery.
    pub query: Histogram,
    /// A transaction lasted, from its first request on.
    pub transaction: Histogram,
    /// A server connection was made, its login included.
    pub connect: Histogram,
    /// The sum of that, in microseconds.
    pub connect_us: u64,
}

/// What happens seldom in a pool, by reason ([`reasons`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Server connections that could not be made.
    pub connect_failures: [u64; CONNECT_FAILURES],
    /// Server connections that were closed once they had been made.
    pub server_closes: [u64; SERVER_CLOSES],
}

impl Events {
    /// A connection to a server could not be made.
    pub fn connect_failed(&mut self, sqlstate: [u8; 5]) {
        if let Some(count) = self
            .connect_failures
            .get_mut(reasons::connect_failure(sqlstate))
        {
            *count += 1;
        }
    }

    /// A server connection was closed, for the reason that the log tells.
    pub fn server_closed(&mut self, text: &str) {
        if let Some(count) = self.server_closes.get_mut(reasons::server_close(text)) {
            *count += 1;
        }
    }
}

/// Bounds of a histogram: 64 microseconds, four times that, and so on, to 67 seconds; what is beyond has a place of its own.
pub const BOUNDS: usize = 11;

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram([u64; BOUNDS + 1]);

impl Histogram {
    /// Something took so many microseconds.
    #[inline]
    pub fn note(&mut self, us: u64) {
        // The bits that are needed to count up to it: 6 for 64, 7 for 65, 8 for 256.
        let bits = (u64::BITS - us.saturating_sub(1).leading_zeros()) as usize;
        let place = ((bits.max(6) - 5) / 2).min(BOUNDS);
        if let Some(count) = self.0.get_mut(place) {
            *count += 1;
        }
    }

    /// So many things have ended at once, the first of which took so long; the others began and ended in this turn.
    #[inline]
    pub fn note_all(&mut self, us: u64, count: u64) {
        if count == 1 {
            self.note(us);
        } else if count > 1 {
            self.note(us);
            if let Some(first) = self.0.first_mut() {
                *first += count - 1;
            }
        }
    }

    /// Each bound in microseconds, and how often it took at most as long.
    pub fn at_most(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut sum = 0;
        self.0
            .iter()
            .take(BOUNDS)
            .enumerate()
            .map(move |(n, count)| {
                sum += count;
                (64 << (2 * n), sum)
            })
    }

    /// How often between one bound and the next, and beyond the last.
    pub fn counts(&self) -> &[u64] {
        &self.0
    }

    /// How often at all.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What is counted of the whole process, pools or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Client connections that were accepted.
    pub accepted: u64,
    /// Client connections that ended: by a word for the reason, and the SQLSTATE that the client was told; bounded.
    pub client_closes: BTreeMap<(&'static str, [u8; 5]), u64>,
    /// Logins by method and outcome.
    pub logins: BTreeMap<(&'static str, &'static str), u64>,
    /// How long those took that succeeded, from accepting on.
    pub login_times: Histogram,
    /// The sum of that, in microseconds.
    pub login_us: u64,
    /// Cancel requests by what became of them.
    pub cancels: BTreeMap<&'static str, u64>,
    /// How long turns of the loop took.
    pub turns: Histogram,
    /// The sum of that, in microseconds.
    pub turn_us: u64,
    /// Configurations that were taken over.
    pub reloads: u64,
    /// Those that could not be, for their errors.
    pub reload_failures: u64,
}

/// Stands for SQLSTATEs beyond the most that are told apart: servers choose theirs freely.
const OTHER: [u8; 5] = *b"other";
/// Pairs of reason and SQLSTATE that are told apart.
const CLOSES_MAX: usize = 128;

impl Process {
    /// A client connection ended. `sqlstate`: what it was told; zeros: nothing.
    pub fn client_closed(&mut self, reason: &'static str, sqlstate: [u8; 5]) {
        let key = (reason, sqlstate);
        let is_room =
            self.client_closes.len() < CLOSES_MAX || self.client_closes.contains_key(&key);
        let key = if is_room { key } else { (reason, OTHER) };
        *self.client_closes.entry(key).or_default() += 1;
    }

    /// A login has come to its end.
    pub fn login_ended(&mut self, method: &'static str, outcome: &'static str) {
        *self.logins.entry((method, outcome)).or_default() += 1;
    }

    /// A cancel request came, and this became of it.
    pub fn cancel_asked(&mut self, outcome: &'static str) {
        *self.cancels.entry(outcome).or_default() += 1;
    }

    /// A turn of the loop has taken so many microseconds.
    pub fn turned(&mut self, us: u64) {
        self.turns.note(us);
        self.turn_us += us;
    }
}

impl Stats {
    /// A period is over that took so many microseconds.
    pub fn close_period(&mut self, us: u64) {
        let now = self.total;
        self.period = Period {
            counters: now.with(&self.at_last_period, |now, then| now - then),
            us,
        };
        self.at_last_period = now;
    }

    /// What happened in the last full period.
    pub fn last_period(&self) -> &Period {
        &self.period
    }
}

/// What happened in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// Of it alone.
    pub counters: Counters,
    /// How long it was, in microseconds; 0: there was none yet.
    pub us: u64,
}

impl Period {
    /// Adds what happened elsewhere in the same time.
    pub fn add(&mut self, other: &Period) {
        self.counters.add(&other.counters);
        self.us = self.us.max(other.us);
    }

    /// Events per second.
    pub fn per_second(&self, count: u64) -> u64 {
        let scaled = u128::from(count) * 1_000_000;
        let each = scaled.checked_div(u128::from(self.us)).unwrap_or(0);
        u64::try_from(each).unwrap_or(u64::MAX)
    }
}

/// Mean of `sum` over `count`; 0 when there is nothing to average.
pub fn mean(sum: u64, count: u64) -> u64 {
    sum.checked_div(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_belongs_to_the_first_bound_that_it_does_not_exceed() {
        let bounds: Vec<u64> = Histogram::default().at_most().map(|(us, _)| us).collect();
        assert_eq!(bounds.len(), BOUNDS);
        assert_eq!((bounds[0], bounds[1], bounds[2]), (64, 256, 1024));
        assert_eq!(bounds[BOUNDS - 1], 67_108_864);
        for (n, bound) in bounds.into_iter().enumerate() {
            for (us, place) in [(bound - 1, n), (bound, n), (bound + 1, n + 1)] {
                let mut histogram = Histogram::default();
                histogram.note(us);
                assert_eq!(histogram.counts()[place], 1, "{us}");
            }
        }
        let mut histogram = Histogram::default();
        for us in [0, 1, 65, u64::MAX] {
            histogram.note(us);
        }
        assert_eq!(histogram.count(), 4);
        assert_eq!(histogram.at_most().last().map(|(_, count)| count), Some(3));
    }

    /// Servers choose their SQLSTATEs freely.
    #[test]
    fn kinds_of_ends_are_bounded() {
        let mut process = Process::default();
        for n in 0..100_000_u32 {
            let mut code = [b'0'; 5];
            code.copy_from_slice(format!("{n:05}").as_bytes());
            process.client_closed("refused", code);
        }
        assert!(process.client_closes.len() <= CLOSES_MAX + 1);
        assert_eq!(process.client_closes.values().sum::<u64>(), 100_000);
    }

    #[test]
    fn averages_are_those_of_the_last_full_period() {
        let mut stats = Stats::default();
        stats.total.queries = 120;
        let queries = |stats: &Stats| {
            let period = stats.last_period();
            period.per_second(period.counters.queries)
        };
        assert_eq!(queries(&stats), 0, "none is full yet");
        stats.close_period(60_000_000);
        stats.total.queries = 180;
        assert_eq!(queries(&stats), 2);
        stats.close_period(60_000_000);
        assert_eq!(queries(&stats), 1);
        stats.total.queries += 30;
        stats.close_period(500_000);
        assert_eq!(queries(&stats), 60, "as long as it was");
        assert_eq!(mean(10, 0), 0);
    }
}
