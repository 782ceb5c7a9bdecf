//! Servers by pool, role and state: walked once for each scrape. Clients are not walked, so their number costs nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::arena::PoolKey;
use crate::engine::{Engine, ServerState};
use crate::limits;
use crate::wire::frame::{printable, printable_str};

/// The words for what servers do, those of SHOW POOLS.
pub(super) const SERVER_STATES: [&str; 6] = [
    "active",
    "active_cancel",
    "being_canceled",
    "idle",
    "tested",
    "login",
];

/// Stands for the roles of a pool beyond the most that are told apart.
pub(super) const OTHERS: &str = "(others)";

/// How many servers are in each state.
pub(super) type Counts = [usize; SERVER_STATES.len()];

/// The servers of all pools.
#[derive(Default)]
pub(super) struct Roles {
    /// By pool; within one by name, the others last.
    rows: Vec<(PoolKey, Range<usize>, Counts)>,
    /// The names.
    text: String,
    /// Servers that a client holds.
    paired: BTreeMap<PoolKey, usize>,
}

impl Roles {
    /// As it is now.
    pub fn of(engine: &Engine) -> Roles {
        let mut seen = Vec::new();
        for (key, pool) in engine.pools().iter() {
            if let Some(user) = &pool.config.backend.user {
                seen.push((key, printable_str(user), None));
            }
        }
        let mut paired = BTreeMap::new();
        for (_, server) in engine.servers().iter() {
            let state = match server.state() {
                ServerState::Paired(_) | ServerState::Draining | ServerState::Looking(_) => 0,
                ServerState::Cancelling(_) => 1,
                // To a peer: none of a pool.
                ServerState::Forwarding(_) => continue,
                ServerState::Held => 2,
                ServerState::Idle => 3,
                ServerState::Checking(_) | ServerState::Tuning(_) | ServerState::Resetting(_) => 4,
                ServerState::Resolving
                | ServerState::AskingTls
                | ServerState::Dialing
                | ServerState::LoggingIn(_)
                | ServerState::Preparing(_) => 5,
            };
            let user = Cow::from(printable(&server.kind.user));
            seen.push((server.pool, user, Some(state)));
            if server.state().client().is_some() {
                *paired.entry(server.pool).or_default() += 1;
            }
        }
        let mut roles = Roles::sum(seen);
        roles.paired = paired;
        roles
    }

    /// Of roles, each with the state of a server; `None`: there may be none.
    fn sum(mut seen: Vec<(PoolKey, Cow<'_, str>, Option<usize>)>) -> Roles {
        seen.sort_unstable();
        let mut roles = Roles::default();
        for of_pool in seen.chunk_by(|(one, ..), (other, ..)| one == other) {
            let (mut told, mut others) = (0, Option::<Counts>::None);
            for of_role in of_pool.chunk_by(|(_, one, _), (_, other, _)| one == other) {
                let Some((pool, user, _)) = of_role.first() else {
                    continue;
                };
                let mut counts = Counts::default();
                let is_told = told < limits::METRIC_USERS_PER_POOL_MAX && user != OTHERS;
                let place = match is_told {
                    true => &mut counts,
                    false => others.get_or_insert_default(),
                };
                let states = of_role.iter().filter_map(|(.., state)| *state);
                for state in states {
                    if let Some(count) = place.get_mut(state) {
                        *count += 1;
                    }
                }
                if is_told {
                    roles.push(*pool, user, counts);
                    told += 1;
                }
            }
            if let (Some(counts), Some((pool, ..))) = (others, of_pool.first()) {
                roles.push(*pool, OTHERS, counts);
            }
        }
        roles
    }

    fn push(&mut self, pool: PoolKey, user: &str, counts: Counts) {
        let begin = self.text.len();
        self.text.push_str(user);
        self.rows.push((pool, begin..self.text.len(), counts));
    }

    /// The roles of a pool.
    pub fn of_pool(&self, key: PoolKey) -> impl Iterator<Item = (&str, &Counts)> {
        let begin = self.rows.partition_point(|(pool, ..)| *pool < key);
        let rows = self.rows.get(begin..).unwrap_or_default();
        let rows = rows.iter().take_while(move |(pool, ..)| *pool == key);
        rows.filter_map(|(_, user, counts)| Some((self.text.get(user.clone())?, counts)))
    }

    /// Servers of a pool that a client holds.
    pub fn paired(&self, key: PoolKey) -> usize {
        self.paired.get(&key).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who may come as any role, as under `"*"`, makes no more series than that.
    #[test]
    fn roles_beyond_the_most_that_are_told_apart_are_counted_together() {
        let [before, pool, after] = [0, 1, 2].map(|n| PoolKey::from_parts(n, 0));
        let names: Vec<String> = (0..10_000).map(|n| format!("role_{n:04}")).collect();
        let mut seen = vec![
            (after, "role_0000".into(), None),
            (pool, OTHERS.into(), Some(1)), // somebody is called so
            (before, "z".into(), Some(0)),
            (before, "a".into(), Some(5)),
        ];
        for name in names.iter().chain(names.iter().rev()) {
            seen.push((pool, name.as_str().into(), Some(3)));
        }
        let roles = Roles::sum(seen);
        let rows: Vec<_> = roles.of_pool(pool).collect();
        let (others, told) = rows.split_last().expect("rows");
        assert_eq!(told.len(), limits::METRIC_USERS_PER_POOL_MAX);
        for ((user, counts), name) in told.iter().zip(&names) {
            assert_eq!((*user, *counts), (name.as_str(), &[0, 0, 0, 2, 0, 0]));
        }
        assert_eq!(*others, (OTHERS, &[0, 1, 0, 2 * 9_900, 0, 0]));
        let of = |key| roles.of_pool(key).collect::<Vec<_>>();
        assert_eq!(
            of(before),
            [("a", &[0, 0, 0, 0, 0, 1]), ("z", &[1, 0, 0, 0, 0, 0])]
        );
        assert_eq!(of(after), [("role_0000", &Counts::default())]);
        assert_eq!(of(PoolKey::from_parts(3, 0)), []);
    }
}
