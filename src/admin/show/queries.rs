//! SHOW QUERIES: the statements that take the time, without their values. Aether's own.

use super::super::table::{Column, Short, Value};
use crate::engine::Engine;
use crate::stats::mean;
use crate::wire::backend::{INT8, NUMERIC, TEXT};
use crate::wire::frame::printable_all;

const COLUMNS: &[Column] = &[
    ("database", TEXT),
    ("calls", NUMERIC),
    ("total_time", NUMERIC),
    ("mean_time", INT8),
    ("max_time", INT8),
    ("percent", INT8),
    ("query", TEXT),
];

/// Those that are known, the one first that has taken most; times in microseconds.
pub(super) fn queries(engine: &Engine) -> Short {
    let mut all: Vec<_> = engine.queries().iter().filter(|of| of.calls > 0).collect();
    all.sort_by(|a, b| {
        b.total_us
            .cmp(&a.total_us)
            .then_with(|| a.text.cmp(&b.text))
    });
    let sum: u64 = all.iter().map(|of| of.total_us).sum();
    let row = |of: &crate::engine::Query| {
        vec![
            Value::text(printable_all(of.database.as_bytes())),
            Value::number(of.calls),
            Value::number(of.total_us),
            Value::number(mean(of.total_us, of.calls)),
            Value::number(of.max_us),
            Value::number(mean(of.total_us.saturating_mul(100), sum)),
            Value::text(printable_all(&of.text)),
        ]
    };
    Short {
        columns: COLUMNS,
        rows: all.into_iter().map(row).collect(),
    }
}
