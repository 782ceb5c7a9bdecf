//! Clients that wait for a server: why, in words, for SHOW and for the log, which says once that a wait of a pool has become long
//! (`log.long_wait`), and once that it has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ClientKey, Engine, PoolKey, Timer};
use crate::arena::Tick;
use crate::pool::{Limit, Waits};
use crate::wire::frame::printable;

/// After this long without a long wait there is none any more: one line for what comes and goes.
const CALM: Duration = Duration::from_secs(5);
/// How often waits are looked at, at most and at least.
const PACE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What the log has been told.
#[derive(Default)]
pub(super) struct LongWaits {
    /// A timer is set.
    armed: bool,
    told: BTreeMap<PoolKey, Told>,
}

/// Of a pool whose clients wait for long.
struct Told {
    /// When the first of them began to wait.
    since: Tick,
    /// When one was seen last that has waited for long.
    last: Tick,
    longest_us: u64,
}

impl Engine {
    /// Why a client of a pool waits: the server's own error if there is one that stands in its way, else the limit. `None`: it does
    /// not.
    pub fn why_waiting(&self, pool_key: PoolKey, client: ClientKey, role: &[u8]) -> Option<String> {
        let pool = self.pools.get(pool_key)?;
        if pool.held {
            return Some("RESUME: the database is paused".to_owned());
        }
        if let Some(failure) = &pool.failure {
            let attempts = failure.attempts;
            let error = failure.refusal.text();
            return Some(format!(
                "a server that can be reached ({attempts} attempts failed): {error}"
            ));
        }
        let waits = self.pools.waits_for(pool_key, client)?;
        let text = describe(waits, &printable(role));
        let refused = pool.refused.as_ref();
        let error = refused.filter(|_| waits == Waits::ForLogin);
        Some(match error {
            Some(last) => format!("{text}: {}", last.refusal.text()),
            None => text,
        })
    }

    /// Somebody begins to wait.
    pub(super) fn somebody_waits(&mut self) {
        let long = self.config.log.long_wait;
        if !self.long_waits.armed && !long.is_zero() {
            self.long_waits.armed = true;
            let pace = (long / 2).clamp(PACE.0, PACE.1);
            self.wheel.insert(self.now.plus(pace), Timer::Waits);
        }
    }

    /// Looks who waits, and for how long.
    pub(super) fn waits_timer(&mut self) {
        self.long_waits.armed = false;
        let long = self.config.log.long_wait;
        let mut somebody = false;
        // What is suspended waits for RESUME, and whoever has said SUSPEND knows.
        let suspended = self.holds.is_suspended();
        for key in self.pools.keys() {
            let pool = self.pools.get(key).filter(|pool| !pool.for_lookups);
            let Some(since) = pool.and_then(|pool| pool.oldest_wait()) else {
                continue;
            };
            somebody = true;
            let waited = self.now.since(since);
            let is_long = u128::from(waited) >= long.as_micros() && !long.is_zero();
            if is_long && !suspended {
                self.note_long_wait(key, since);
            }
        }
        if suspended {
            let told = self.long_waits.told.values_mut();
            told.for_each(|told| told.last = self.now);
        }
        let calm = long.max(CALM);
        let is_over = |told: &Told| u128::from(self.now.since(told.last)) >= calm.as_micros();
        let over: Vec<PoolKey> = self
            .long_waits
            .told
            .iter()
            .filter(|(_, told)| is_over(told))
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            self.tell_wait_ended(key);
        }
        if somebody || !self.long_waits.told.is_empty() {
            self.somebody_waits();
        }
    }

    fn note_long_wait(&mut self, key: PoolKey, since: Tick) {
        let (now, waited) = (self.now, self.now.since(since));
        if let Some(told) = self.long_waits.told.get_mut(&key) {
            told.last = now;
            told.longest_us = told.longest_us.max(waited);
            return;
        }
        let told = Told {
            since,
            last: now,
            longest_us: waited,
        };
        self.long_waits.told.insert(key, told);
        let Some(pool) = self.pools.get(key) else {
            return;
        };
        let Some(first) = pool.waiting_clients().first().copied() else {
            return;
        };
        let role = self.clients.get(first);
        let role = role.and_then(|client| client.pool_and_role());
        let role = role.map_or(&[][..], |(_, role)| role);
        let why = self.why_waiting(key, first, role);
        let why = why.unwrap_or_else(|| "a server connection".to_owned());
        let (label, role, count) = (pool.label(), printable(role), pool.waiting());
        let clients = if count == 1 {
            "client waits"
        } else {
            "clients wait"
        };
        log::warn!(
            database:% = label, user:% = role, waiting = count, wait_us = waited, waits_for:% = why;
            "pool {label}: {count} {clients} for long, the first ({role}) for {}; it waits for {why}",
            seconds(waited)
        );
    }

    fn tell_wait_ended(&mut self, key: PoolKey) {
        let Some(told) = self.long_waits.told.remove(&key) else {
            return;
        };
        let Some(pool) = self.pools.get(key) else {
            return; // it has gone, and so have they
        };
        let label = pool.label();
        let lasted = told.last.since(told.since);
        log::info!(
            database:% = label, lasted_us = lasted, longest_us = told.longest_us;
            "pool {label}: clients wait for long no more; they did for {}, the longest wait took {}",
            seconds(lasted), seconds(told.longest_us)
        );
    }
}

fn seconds(us: u64) -> String {
    format!("{:.1} s", Duration::from_micros(us).as_secs_f64())
}

/// What a client waits for, in words.
fn describe(waits: Waits, role: &str) -> String {
    match waits {
        Waits::ForConnection => "a server connection that is being made".to_owned(),
        Waits::ForLogin => format!("a server that lets {role} in"),
        Waits::ForRoom { limit, in_use, max } => {
            let knob = match limit {
                Limit::Database => "max_connections".to_owned(),
                Limit::DatabaseUser => format!("max_connections_per_user of {role}"),
                Limit::User => format!("users.{role}.max_connections"),
            };
            format!("room: {in_use} of {max} servers are in use ({knob})")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::pause::Scope;
    use super::super::scene::{Scene, World};

    const SECOND: Duration = Duration::from_secs(1);

    /// What waits for RESUME has not ended, though nobody is looked at meanwhile.
    #[test]
    fn a_long_wait_does_not_end_with_a_suspension() {
        let config = "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable', max_connections: 1, acquire_timeout: 0}\n\
                      auth: {type: trust, allow_insecure: true}\nlog: {long_wait: 1s}\nadmin: {users: [me]}\n";
        let mut scene = Scene::with(config, World::default());
        let _clients = [scene.client(), scene.client()];
        let _console = scene.console();
        let passes = |scene: &mut Scene| {
            for _ in 0..30 {
                scene.wait(SECOND);
            }
            scene.engine.long_waits.told.len()
        };
        assert_eq!(passes(&mut scene), 1, "one waits for long");
        scene.engine.suspend().expect("nothing is held");
        assert_eq!(passes(&mut scene), 1, "it still does");
        scene.engine.resume(Scope::All);
        assert_eq!(passes(&mut scene), 1, "it still does after that");
    }
}
