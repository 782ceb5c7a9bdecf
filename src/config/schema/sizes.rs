//! The keys of a pool that say how its server connections are made and handed out.

use super::super::yaml::{Problems, Section};
use super::super::{LoadBalance, PoolConfig};
use super::pool::CONNECTIONS_MAX;

const BALANCES: [(&str, LoadBalance); 2] = [
    ("disable", LoadBalance::Disable),
    ("round-robin", LoadBalance::RoundRobin),
];

/// Writes what `section` says over what a pool has.
pub(super) fn overlay(pool: &mut PoolConfig, section: &Section<'_>, problems: &mut Problems) {
    let sizes = &mut pool.sizes;
    for (key, from, target) in [
        ("min_pool_size", 0, &mut sizes.min_pool_size),
        ("reserve_pool_size", 0, &mut sizes.reserve_pool_size),
        ("max_connecting", 1, &mut sizes.max_connecting),
    ] {
        let read = section.get(key);
        let read = read.and_then(|field| field.count(from..=CONNECTIONS_MAX, problems));
        *target = read
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(*target);
    }
    for (key, target) in [
        ("server_round_robin", &mut sizes.server_round_robin),
        ("server_fast_fail", &mut sizes.server_fast_fail),
        ("single_use", &mut sizes.single_use),
        ("server_fast_close", &mut sizes.server_fast_close),
    ] {
        let read = section.get(key).and_then(|field| field.flag(problems));
        *target = read.unwrap_or(*target);
    }
    let timeout = section.get("reserve_pool_timeout");
    let timeout = timeout.and_then(|field| field.duration(problems));
    sizes.reserve_pool_timeout = timeout.unwrap_or(sizes.reserve_pool_timeout);
    let balance = section.get("load_balance_hosts");
    let balance = balance.and_then(|field| field.word(&BALANCES, problems));
    sizes.load_balance_hosts = balance.unwrap_or(sizes.load_balance_hosts);

    let most = [pool.max_connections, pool.max_connections_per_user];
    let most = most.into_iter().filter(|max| *max > 0).min();
    if let (Some(field), Some(most)) = (section.get("min_pool_size"), most)
        && sizes.min_pool_size > most
    {
        let text = format!("there may be {most} at most, so no more than that are kept");
        problems.warn(&field.place, text);
    }
}
