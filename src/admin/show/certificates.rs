//! SHOW TLS: the certificates that the configuration names, and the days that are left to them. Aether's own.

use super::super::table::{Column, Short, Value};
use super::when::{unix_now, utc};
use crate::engine::Engine;
use crate::tls::{DAY, Lifetime, Mode};
use crate::wire::backend::{INT8, TEXT};
use crate::wire::frame::printable;

const COLUMNS: &[Column] = &[
    ("side", TEXT),
    ("database", TEXT),
    ("mode", TEXT),
    ("subject", TEXT),
    ("issuer", TEXT),
    ("not_after", TEXT),
    ("days_left", INT8),
];

/// The certificates that the configuration names, each with its pool; those that several pools name are told once for each.
pub(super) fn certificates(engine: &Engine) -> Short {
    let config = engine.config();
    let mut rows = Vec::new();
    if let Some(tls) = &config.server.tls {
        rows.extend(
            tls.lifetimes()
                .iter()
                .map(|of| certificate("client", "", tls.mode(), of)),
        );
    }
    let pools = config
        .databases
        .iter()
        .map(|(name, pool)| (name.as_str(), pool));
    for (name, pool) in pools.chain(config.fallback.iter().map(|pool| ("*", pool))) {
        if let Some(tls) = &pool.backend.tls {
            rows.extend(
                tls.lifetimes()
                    .iter()
                    .map(|of| certificate("server", name, tls.mode(), of)),
            );
        }
    }
    Short {
        columns: COLUMNS,
        rows,
    }
}

fn certificate(side: &str, database: &str, mode: Mode, of: &Lifetime) -> Vec<Value> {
    let left = of.not_after - i64::try_from(unix_now()).unwrap_or(i64::MAX);
    vec![
        Value::text(side),
        Value::text(database),
        Value::text(mode.as_str()),
        Value::text(printable(of.subject.as_bytes())),
        Value::text(printable(of.issuer.as_bytes())),
        Value::text(utc(u64::try_from(of.not_after).unwrap_or(0))),
        Value::number(left.div_euclid(DAY)),
    ]
}
