//! SHOW USERS: those who may log in, those of section `users`, and whoever else is there.

use std::collections::BTreeMap;

use super::super::table::{Column, Row, Table, Value};
use crate::config::UserConfig;
use crate::engine::Engine;
use crate::wire::backend::{INT4, TEXT};
use crate::wire::frame::printable;

const COLUMNS: &[Column] = &[
    ("name", TEXT),
    ("pool_size", TEXT),
    ("reserve_pool_size", TEXT),
    ("pool_mode", TEXT),
    ("max_user_connections", INT4),
    ("current_connections", INT4),
    ("max_user_client_connections", INT4),
    ("current_client_connections", INT4),
];

/// Rows by name.
pub(super) struct Users {
    rows: Vec<(Vec<u8>, UserConfig, usize, usize)>,
}

impl Users {
    pub(super) fn new(engine: &Engine) -> Users {
        let listed = engine.config().auth.users.keys();
        let mut users: BTreeMap<&[u8], (UserConfig, usize, usize)> = listed
            .map(|name| {
                let config = engine.pools().user_config(name.as_bytes());
                (name.as_bytes(), (config, 0, 0))
            })
            .collect();
        for (name, config, servers, clients) in engine.pools().users() {
            users.insert(name, (config, servers, clients));
        }
        let row = |(name, (config, servers, clients)): (&[u8], _)| {
            (name.to_vec(), config, servers, clients)
        };
        Users {
            rows: users.into_iter().map(row).collect(),
        }
    }
}

impl Table for Users {
    fn columns(&self) -> Vec<Column> {
        COLUMNS.to_vec()
    }

    fn place(&self, _: &Engine, from: u64) -> Option<u64> {
        (from < self.rows.len() as u64).then_some(from)
    }

    fn row<'a>(&'a self, _: &'a Engine, place: u64) -> Option<Box<dyn Row + 'a>> {
        let (name, config, servers, clients) = self.rows.get(usize::try_from(place).ok()?)?;
        Some(Box::new(vec![
            Value::text(printable(name)),
            size(config.pool_size),
            size(config.reserve_pool_size),
            Value::optional(config.mode.map(|mode| mode.as_str().to_owned())),
            Value::number(config.max_connections),
            Value::number(*servers),
            Value::number(config.max_client_connections),
            Value::number(*clients),
        ]))
    }
}

/// As a text, empty where the pools' own counts, as in PgBouncer.
fn size(own: Option<usize>) -> Value {
    Value::text(own.map_or(String::new(), |own| own.to_string()))
}

impl Users {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }
}
