//! Counters: plain integers beside what they count, and what the console makes of them.

use std::time::Duration;

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
}

/// Counters with their averages over the last full period.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Since the start.
    pub total: Counters,
    at_last_period: Counters,
    period: Counters,
}

/// How often averages are made.
pub const PERIOD: Duration = Duration::from_secs(60);

impl Stats {
    /// A period is over.
    pub fn close_period(&mut self) {
        let (now, then) = (self.total, self.at_last_period);
        self.period = Counters {
            assignments: now.assignments - then.assignments,
            transactions: now.transactions - then.transactions,
            queries: now.queries - then.queries,
            received: now.received - then.received,
            sent: now.sent - then.sent,
            transaction_us: now.transaction_us - then.transaction_us,
            query_us: now.query_us - then.query_us,
            wait_us: now.wait_us - then.wait_us,
            logins: now.logins - then.logins,
            connects: now.connects - then.connects,
            idle_us: now.idle_us - then.idle_us,
            idle_ends: now.idle_ends - then.idle_ends,
            resets: now.resets - then.resets,
            checks: now.checks - then.checks,
        };
        self.at_last_period = now;
    }

    /// What happened in the last full period.
    pub fn last_period(&self) -> &Counters {
        &self.period
    }
}

/// Events per second of a period.
pub fn per_second(count: u64) -> u64 {
    count / PERIOD.as_secs()
}

/// Mean of `sum` over `count`; 0 when there is nothing to average.
pub fn mean(sum: u64, count: u64) -> u64 {
    sum.checked_div(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_those_of_the_last_full_period() {
        let mut stats = Stats::default();
        stats.total.queries = 120;
        stats.close_period();
        stats.total.queries = 180;
        assert_eq!(per_second(stats.last_period().queries), 2);
        stats.close_period();
        assert_eq!(per_second(stats.last_period().queries), 1);
        assert_eq!(mean(10, 0), 0);
    }
}
