//! SHOW DATABASES: the pools as they are configured, and the console among them, as in PgBouncer.

use super::super::table::{Column, Row, Table, Value};
use super::pools::{CONSOLE, CONSOLE_PLACE, load_balance_hosts};
use crate::config::HostPort;
use crate::engine::{ClientState, Engine};
use crate::pool::Pool;
use crate::wire::backend::{INT4, TEXT};

const COLUMNS: &[Column] = &[
    ("name", TEXT),
    ("host", TEXT),
    ("port", INT4),
    ("database", TEXT),
    ("force_user", TEXT),
    ("pool_size", INT4),
    ("min_pool_size", INT4),
    ("reserve_pool_size", INT4),
    ("server_lifetime", INT4),
    ("pool_mode", TEXT),
    ("load_balance_hosts", TEXT),
    ("max_connections", INT4),
    ("current_connections", INT4),
    ("max_client_connections", INT4),
    ("current_client_connections", INT4),
    ("paused", INT4),
    ("disabled", INT4),
];

/// Rows by pool.
pub(super) struct Databases;

/// The slot of the first pool of clients at or behind a place, else that of the console.
pub(super) fn pool_place(engine: &Engine, from: u64) -> Option<u64> {
    let at_or_after = |slot: u64| engine.pools().at_or_after(u32::try_from(slot).ok()?);
    let mut next = at_or_after(from);
    while let Some((key, pool)) = next {
        let place = u64::from(key.index());
        if !pool.for_lookups {
            return Some(place);
        }
        next = at_or_after(place + 1);
    }
    (from <= CONSOLE_PLACE).then_some(CONSOLE_PLACE)
}

/// The pool at a place.
pub(super) fn pool_at(engine: &Engine, place: u64) -> Option<&Pool> {
    let slot = u32::try_from(place).ok()?;
    let (key, pool) = engine.pools().at_or_after(slot)?;
    (key.index() == slot && !pool.for_lookups).then_some(pool)
}

impl Table for Databases {
    fn columns(&self) -> Vec<Column> {
        COLUMNS.to_vec()
    }

    fn place(&self, engine: &Engine, from: u64) -> Option<u64> {
        pool_place(engine, from)
    }

    fn row<'a>(&'a self, engine: &'a Engine, place: u64) -> Option<Box<dyn Row + 'a>> {
        if place == CONSOLE_PLACE {
            return Some(Box::new(console(engine)));
        }
        let pool = pool_at(engine, place)?;
        Some(Box::new(DatabaseRow { engine, pool }))
    }

    fn sorted_by(&self) -> usize {
        1
    }
}

struct DatabaseRow<'a> {
    engine: &'a Engine,
    pool: &'a Pool,
}

impl Row for DatabaseRow<'_> {
    fn value(&self, column: usize) -> Value {
        let pool = self.pool;
        let config = &pool.config;
        let backend = &config.backend;
        match column {
            0 => Value::text(pool.label()),
            1 => {
                let host = |host: &HostPort| match host {
                    HostPort::Tcp(name, _) => name.clone(),
                    HostPort::Unix(path) => path.display().to_string(),
                };
                let hosts: Vec<String> = backend.hosts.iter().map(host).collect();
                Value::text(hosts.join(","))
            }
            2 => {
                let port = backend.hosts.iter().find_map(|host| match host {
                    HostPort::Tcp(_, port) => Some(*port),
                    HostPort::Unix(_) => None,
                });
                port.map_or(Value::Null, Value::number)
            }
            3 => match &backend.database {
                Some(database) => Value::text(&**database),
                None => Value::text(pool.label()),
            },
            4 => Value::optional(backend.user.clone()),
            // The limit of one user, which is that of the pool if there is none of its own.
            5 => Value::number(config.size_of_role()),
            6 => Value::number(config.min_idle_connections.max(config.sizes.min_pool_size)),
            7 => Value::number(config.sizes.reserve_pool_size),
            8 => Value::number(config.max_lifetime.as_secs()),
            9 => Value::text(config.mode.as_str()),
            10 => Value::optional(load_balance_hosts(pool)),
            11 => Value::number(config.max_connections),
            12 => Value::number(pool.total()),
            13 => Value::number(config.max_client_connections),
            14 => Value::number(pool.clients()),
            15 => Value::number(u8::from(pool.held)),
            16 => Value::number(u8::from(self.engine.is_disabled(&pool.name))),
            _ => Value::Null,
        }
    }
}

/// As PgBouncer shows its own.
fn console(engine: &Engine) -> Vec<Value> {
    let listen = &engine.config().server.listen;
    let sessions = engine
        .clients()
        .iter()
        .filter(|(_, client)| matches!(client.state(), ClientState::Console(_)));
    vec![
        Value::text(CONSOLE),
        Value::Null,
        listen
            .first()
            .map_or(Value::Null, |address| Value::number(address.port())),
        Value::text(CONSOLE),
        Value::text(CONSOLE),
        Value::Number(2),
        Value::Number(0),
        Value::Number(0),
        Value::Number(0),
        Value::text("statement"),
        Value::Null,
        Value::Number(0),
        Value::Number(0),
        Value::Number(0),
        Value::number(sessions.count()),
        Value::Number(0),
        Value::Number(0),
    ]
}
