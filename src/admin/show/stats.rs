//! SHOW STATS, STATS_TOTALS, STATS_AVERAGES and TOTALS: what the pools have counted.

use super::super::table::{Column, Row, Short, Table, Value};
use super::databases::{pool_at, pool_place};
use super::pools::{CONSOLE, CONSOLE_PLACE};
use crate::engine::Engine;
use crate::stats::{self, Counters, Period, mean};
use crate::wire::backend::{NUMERIC, TEXT};

const NAME: &[Column] = &[("database", TEXT)];
const TOTAL: &[Column] = &[
    ("total_server_assignment_count", NUMERIC),
    ("total_xact_count", NUMERIC),
    ("total_query_count", NUMERIC),
    ("total_received", NUMERIC),
    ("total_sent", NUMERIC),
    ("total_xact_time", NUMERIC),
    ("total_query_time", NUMERIC),
    ("total_wait_time", NUMERIC),
    ("total_client_parse_count", NUMERIC),
    ("total_server_parse_count", NUMERIC),
    ("total_bind_count", NUMERIC),
    ("total_client_login_count", NUMERIC),
];
const AVERAGE: &[Column] = &[
    ("avg_server_assignment_count", NUMERIC),
    ("avg_xact_count", NUMERIC),
    ("avg_query_count", NUMERIC),
    ("avg_recv", NUMERIC),
    ("avg_sent", NUMERIC),
    ("avg_xact_time", NUMERIC),
    ("avg_query_time", NUMERIC),
    ("avg_wait_time", NUMERIC),
    ("avg_client_parse_count", NUMERIC),
    ("avg_server_parse_count", NUMERIC),
    ("avg_bind_count", NUMERIC),
    ("avg_client_login_count", NUMERIC),
];
/// What STATS_TOTALS calls the same.
const PLAIN: &[Column] = &[
    ("server_assignment_count", NUMERIC),
    ("xact_count", NUMERIC),
    ("query_count", NUMERIC),
    ("bytes_received", NUMERIC),
    ("bytes_sent", NUMERIC),
    ("xact_time", NUMERIC),
    ("query_time", NUMERIC),
    ("wait_time", NUMERIC),
    ("client_parse_count", NUMERIC),
    ("server_parse_count", NUMERIC),
    ("bind_count", NUMERIC),
    ("client_login_count", NUMERIC),
];
/// And STATS_AVERAGES: only the last four differ.
const PLAIN_AVERAGE: &[Column] = &[
    ("server_assignment_count", NUMERIC),
    ("xact_count", NUMERIC),
    ("query_count", NUMERIC),
    ("bytes_received", NUMERIC),
    ("bytes_sent", NUMERIC),
    ("xact_time", NUMERIC),
    ("query_time", NUMERIC),
    ("wait_time", NUMERIC),
    ("avg_client_parse_count", NUMERIC),
    ("avg_server_parse_count", NUMERIC),
    ("avg_bind_count", NUMERIC),
    ("avg_client_login_count", NUMERIC),
];
/// And TOTALS, behind `total_` and `avg_`.
const SUMS: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];
const OWN: &[Column] = &[
    ("total_server_connects", NUMERIC),
    ("total_resets", NUMERIC),
    ("total_checks", NUMERIC),
];

/// Rows by database.
pub(super) struct Stats {
    parts: &'static [&'static [Column]],
    values: fn(&Counters, &Period) -> Vec<u64>,
}

impl Stats {
    /// SHOW STATS
    pub(super) fn all() -> Stats {
        Stats {
            parts: &[NAME, TOTAL, AVERAGE, OWN],
            values: |total, period| {
                let own = [total.connects, total.resets, total.checks];
                [&totals(total)[..], &averages(period), &own].concat()
            },
        }
    }

    /// SHOW STATS_TOTALS
    pub(super) fn totals() -> Stats {
        Stats {
            parts: &[NAME, PLAIN],
            values: |total, _| totals(total).to_vec(),
        }
    }

    /// SHOW STATS_AVERAGES
    pub(super) fn averages() -> Stats {
        Stats {
            parts: &[NAME, PLAIN_AVERAGE],
            values: |_, period| averages(period).to_vec(),
        }
    }
}

fn totals(of: &Counters) -> [u64; 12] {
    [
        of.assignments,
        of.transactions,
        of.queries,
        of.received,
        of.sent,
        of.transaction_us,
        of.query_us,
        of.wait_us,
        of.client_parses,
        of.server_parses,
        of.binds,
        of.logins,
    ]
}

/// Counts per second, and times per item, of the last full period.
fn averages(period: &Period) -> [u64; 12] {
    let per_second = |count| period.per_second(count);
    let period = &period.counters;
    [
        per_second(period.assignments),
        per_second(period.transactions),
        per_second(period.queries),
        per_second(period.received),
        per_second(period.sent),
        mean(period.transaction_us, period.transactions),
        mean(period.query_us, period.queries),
        mean(period.wait_us, period.assignments),
        per_second(period.client_parses),
        per_second(period.server_parses),
        per_second(period.binds),
        per_second(period.logins),
    ]
}

impl Table for Stats {
    fn columns(&self) -> Vec<Column> {
        self.parts.concat()
    }

    fn place(&self, engine: &Engine, from: u64) -> Option<u64> {
        pool_place(engine, from)
    }

    fn row<'a>(&'a self, engine: &'a Engine, place: u64) -> Option<Box<dyn Row + 'a>> {
        let (name, stats) = if place == CONSOLE_PLACE {
            (CONSOLE.to_owned(), engine.console_stats())
        } else {
            let pool = pool_at(engine, place)?;
            (pool.label().into_owned(), &pool.stats)
        };
        let values = (self.values)(&stats.total, stats.last_period());
        Some(Box::new(StatsRow { name, values }))
    }

    fn sorted_by(&self) -> usize {
        1
    }
}

struct StatsRow {
    name: String,
    values: Vec<u64>,
}

impl Row for StatsRow {
    fn value(&self, column: usize) -> Value {
        match column.checked_sub(1) {
            None => Value::text(&*self.name),
            Some(at) => self
                .values
                .get(at)
                .map_or(Value::Null, |value| Value::number(*value)),
        }
    }
}

/// SHOW TOTALS: everything together, the console included.
pub(super) fn sums(engine: &Engine) -> Short {
    let pools = engine.pools().iter();
    let of_pools = pools
        .filter(|(_, pool)| !pool.for_lookups)
        .map(|(_, pool)| &pool.stats);
    let (mut total, mut period) = (Counters::default(), Period::default());
    let all: Vec<&stats::Stats> = of_pools.chain([engine.console_stats()]).collect();
    for stats in all {
        total.add(&stats.total);
        period.add(stats.last_period());
    }
    let rows = |prefix: &'static str, values: [u64; 12]| {
        let row = move |(name, value): (&str, u64)| {
            vec![Value::text(format!("{prefix}{name}")), Value::number(value)]
        };
        SUMS.into_iter().zip(values).map(row)
    };
    Short {
        columns: &[("name", TEXT), ("value", NUMERIC)],
        rows: rows("total_", totals(&total))
            .chain(rows("avg_", averages(&period)))
            .collect(),
    }
}
