//! SHOW POOLS: one row per database and the role that logs in there, as in PgBouncer; a pool that nobody uses has one too.

use std::collections::BTreeMap;

use super::super::table::{Column, Row, Table, Value};
use crate::arena::{ClientKey, PoolKey};
use crate::engine::{Client, ClientState, Engine, Server, ServerState};
use crate::pool::Pool;
use crate::stats::mean;
use crate::wire::backend::{INT4, INT8, TEXT};
use crate::wire::frame::printable;

const COLUMNS: &[Column] = &[
    ("database", TEXT),
    ("user", TEXT),
    ("cl_active", INT4),
    ("cl_waiting", INT4),
    ("cl_active_cancel_req", INT4),
    ("cl_waiting_cancel_req", INT4),
    ("sv_active", INT4),
    ("sv_active_cancel", INT4),
    ("sv_being_canceled", INT4),
    ("sv_idle", INT4),
    ("sv_used", INT4),
    ("sv_tested", INT4),
    ("sv_login", INT4),
    ("maxwait", INT4),
    ("maxwait_us", INT4),
    ("pool_mode", TEXT),
    ("load_balance_hosts", TEXT),
    // Aether's own.
    ("max_connections", INT4),
    ("total_connections", INT4),
    ("total_sessions", INT8),
    ("avg_idle_us", INT8),
    ("last_error", TEXT),
    ("waits_for", TEXT),
];

/// The name under which the console stands beside the databases.
pub(super) const CONSOLE: &str = "pgbouncer";
/// The place of its row: behind all others.
pub(super) const CONSOLE_PLACE: u64 = u64::MAX - 1;

/// Rows by database and role.
pub(super) struct Pools {
    /// By place: the pool's slot and the number of the role in it.
    rows: Vec<(u64, PoolKey, Vec<u8>, Tally)>,
    console: Tally,
}

/// What a row counts.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    clients: [usize; 3],
    servers: [usize; 6],
    sessions: u64,
    longest_wait_us: u64,
    longest_waits: Option<ClientKey>,
}

impl Pools {
    /// Counts everything, once for the whole answer.
    pub(super) fn new(engine: &Engine) -> Pools {
        let mut tallies: BTreeMap<(PoolKey, &[u8]), Tally> = BTreeMap::new();
        let mut console = Tally::default();
        for (key, pool) in engine.pools().iter() {
            let user = pool.config.backend.user.as_ref();
            if let Some(user) = user.filter(|_| !pool.for_lookups) {
                tallies.entry((key, user.as_bytes())).or_default();
            }
        }
        for (key, client) in engine.clients().iter() {
            if let ClientState::Console(_) = client.state() {
                console.clients[0] += 1;
            } else if let Some(place) = client.pool_and_role() {
                let tally = tallies.entry(place).or_default();
                tally.count_client(engine, key, client);
            }
        }
        for (_, server) in engine.servers().iter() {
            if let ServerState::Forwarding(_) = server.state() {
                continue; // to a peer: SHOW PEER_POOLS
            }
            let tally = tallies.entry((server.pool, &server.kind.user));
            tally.or_default().count_server(server);
        }
        let mut rows: Vec<(u64, PoolKey, Vec<u8>, Tally)> = Vec::with_capacity(tallies.len());
        for ((key, role), tally) in tallies {
            let place = match rows.last() {
                Some((place, last, ..)) if *last == key => place + 1,
                _ => u64::from(key.index()) << 32,
            };
            rows.push((place, key, role.to_vec(), tally));
        }
        Pools { rows, console }
    }
}

impl Tally {
    fn count_client(&mut self, engine: &Engine, key: ClientKey, client: &Client) {
        let [active, waiting, cancelling] = &mut self.clients;
        match client.state() {
            ClientState::Paired(_) | ClientState::Departing(_) | ClientState::Idle => *active += 1,
            ClientState::AwaitingWelcome | ClientState::Queued => {
                *waiting += 1;
                let waited = engine.now().since(client.since());
                if self.longest_waits.is_none() || waited > self.longest_wait_us {
                    self.longest_wait_us = waited;
                    self.longest_waits = Some(key);
                }
            }
            ClientState::Cancelling(_) | ClientState::AwaitingPeer => *cancelling += 1,
            _ => {}
        }
    }

    fn count_server(&mut self, server: &Server) {
        let [active, cancel, held, idle, tested, login] = &mut self.servers;
        self.sessions += server.sessions;
        *match server.state() {
            ServerState::Paired(_) | ServerState::Draining | ServerState::Looking(_) => active,
            ServerState::Cancelling(_) | ServerState::Forwarding(_) => cancel,
            ServerState::Held => held,
            ServerState::Idle => idle,
            ServerState::Checking(_) | ServerState::Tuning(_) | ServerState::Resetting(_) => tested,
            ServerState::Resolving
            | ServerState::AskingTls
            | ServerState::Dialing
            | ServerState::LoggingIn(_)
            | ServerState::Preparing(_) => login,
        } += 1;
    }
}

impl Table for Pools {
    fn columns(&self) -> Vec<Column> {
        COLUMNS.to_vec()
    }

    fn place(&self, _: &Engine, from: u64) -> Option<u64> {
        let at = self.rows.partition_point(|(place, ..)| *place < from);
        match self.rows.get(at) {
            Some((place, ..)) => Some(*place),
            None => (from <= CONSOLE_PLACE).then_some(CONSOLE_PLACE),
        }
    }

    fn row<'a>(&'a self, engine: &'a Engine, place: u64) -> Option<Box<dyn Row + 'a>> {
        if place == CONSOLE_PLACE {
            return Some(Box::new(ConsoleRow(&self.console)));
        }
        let at = self.rows.binary_search_by_key(&place, |(place, ..)| *place);
        let (_, key, role, tally) = self.rows.get(at.ok()?)?;
        Some(Box::new(PoolRow {
            engine,
            key: *key,
            pool: engine.pools().get(*key)?,
            role,
            tally,
        }))
    }

    fn sorted_by(&self) -> usize {
        2
    }
}

struct PoolRow<'a> {
    engine: &'a Engine,
    key: PoolKey,
    pool: &'a Pool,
    role: &'a [u8],
    tally: &'a Tally,
}

impl PoolRow<'_> {
    /// What the client waits for that has waited longest.
    fn waits_for(&self) -> Option<String> {
        let client = self.tally.longest_waits?;
        self.engine.why_waiting(self.key, client, self.role)
    }
}

impl Row for PoolRow<'_> {
    fn value(&self, column: usize) -> Value {
        let (pool, tally) = (self.pool, self.tally);
        let counters = &pool.stats.total;
        match column {
            0 => Value::text(pool.label()),
            1 => Value::text(printable(self.role)),
            2 => Value::number(tally.clients[0]),
            3 => Value::number(tally.clients[1]),
            4 => Value::number(tally.clients[2]),
            5 | 10 => Value::Number(0),
            6..=9 => Value::number(tally.servers[column - 6]),
            11 | 12 => Value::number(tally.servers[column - 7]),
            13 => Value::number(tally.longest_wait_us / 1_000_000),
            14 => Value::number(tally.longest_wait_us % 1_000_000),
            15 => Value::text(self.engine.pools().mode(&pool.config, self.role).as_str()),
            16 => Value::optional(load_balance_hosts(pool)),
            17 => Value::number(pool.config.max_connections),
            18 => Value::number(pool.total()),
            19 => Value::number(pool.sessions_ended + tally.sessions),
            20 => Value::number(mean(counters.idle_us, counters.idle_ends)),
            21 => Value::optional(pool.last_error().map(|refusal| refusal.text())),
            22 => Value::optional(self.waits_for()),
            _ => Value::Null,
        }
    }
}

/// In which order hosts of a list are tried; NULL where there is one.
pub(super) fn load_balance_hosts(pool: &Pool) -> Option<String> {
    let order = pool.config.sizes.load_balance_hosts.as_str();
    (pool.config.backend.hosts.len() > 1).then(|| order.to_owned())
}

/// Console sessions, as if they were clients of a database of that name.
struct ConsoleRow<'a>(&'a Tally);

impl Row for ConsoleRow<'_> {
    fn value(&self, column: usize) -> Value {
        match column {
            0 | 1 => Value::text(CONSOLE),
            2 => Value::number(self.0.clients[0]),
            15 => Value::text("statement"),
            3..=14 | 17..=20 => Value::Number(0),
            _ => Value::Null,
        }
    }
}
