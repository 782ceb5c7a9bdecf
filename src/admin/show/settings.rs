//! SHOW CONFIG: every key with its value and its default; and what PgBouncer calls the same, for tools that ask for that.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::super::configure::takes_restart;
use super::super::table::{Column, Short, Value};
use crate::config::{self, Config, Outside, PgbouncerOption, PoolConfig, schema};
use crate::engine::Engine;
use crate::wire::backend::TEXT;

const COLUMNS: &[Column] = &[
    ("key", TEXT),
    ("value", TEXT),
    ("default", TEXT),
    ("changeable", TEXT),
];

/// Says nothing but what must be said.
const EMPTY: &str = "pool: {dsn: 'postgres://user:password@host/database'}";

/// A key of PgBouncer's: its name, its default there, and what it is here.
type Alias = (&'static str, &'static str, fn(&Config) -> String);

/// Keys of PgBouncer's that tools read. Sizes and times as it writes them.
const ALIASES: [Alias; 27] = [
    ("admin_users", "", |config| config.admin.users.join(",")),
    ("auth_type", "md5", |config| {
        let method = config.auth.rules.single();
        let word = method.map_or("hba", |method| method.as_str());
        // PgBouncer's word.
        let word = if word == "password" { "plain" } else { word };
        word.to_owned()
    }),
    ("client_idle_timeout", "0", |config| {
        seconds(config.pool.client_idle_timeout)
    }),
    ("client_login_timeout", "60", |config| {
        seconds(config.server.client_login_timeout)
    }),
    ("default_pool_size", "20", |config| {
        pool_size(&config.pool).to_string()
    }),
    ("listen_addr", "", |config| {
        let addresses = config.server.listen.iter().map(|at| at.ip().to_string());
        addresses.collect::<Vec<_>>().join(",")
    }),
    ("listen_port", "6432", |config| {
        config
            .server
            .listen
            .first()
            .map(|at| at.port())
            .or(config.server.unix_socket.as_ref().map(|at| at.port))
            .map_or(0, u32::from)
            .to_string()
    }),
    ("max_client_conn", "100", |config| {
        config.server.max_client_connections.to_string()
    }),
    ("max_db_client_connections", "0", |config| {
        config.pool.max_client_connections.to_string()
    }),
    ("max_db_connections", "0", |config| {
        config.pool.max_connections.to_string()
    }),
    ("max_prepared_statements", "200", |config| {
        config.pool.max_prepared_statements.to_string()
    }),
    ("max_user_client_connections", "0", |_| "0".to_owned()),
    ("max_user_connections", "0", |_| "0".to_owned()),
    ("min_pool_size", "0", |config| {
        config.pool.min_idle_connections.to_string()
    }),
    ("pool_mode", "session", |config| {
        config.pool.mode.as_str().to_owned()
    }),
    ("query_wait_timeout", "120", |config| {
        seconds(config.pool.acquire_timeout)
    }),
    ("reserve_pool_size", "0", |_| "0".to_owned()),
    ("server_check_delay", "30", |config| {
        seconds(config.pool.check_delay)
    }),
    ("server_check_query", "", |config| {
        config.pool.check_query.clone().unwrap_or_default()
    }),
    ("server_connect_timeout", "15", |config| {
        seconds(config.pool.connect_timeout)
    }),
    ("server_idle_timeout", "600", |config| {
        seconds(config.pool.max_idle_time)
    }),
    ("server_lifetime", "3600", |config| {
        seconds(config.pool.max_lifetime)
    }),
    ("server_reset_query", "DISCARD ALL", |config| {
        config.pool.reset_query.clone().unwrap_or_default()
    }),
    ("stats_period", "60", |config| {
        seconds(config.server.stats_period)
    }),
    ("stats_users", "", |config| {
        config.admin.stats_users.join(",")
    }),
    ("track_extra_parameters", "IntervalStyle", |config| {
        config.pool.track_extra_parameters.join(",")
    }),
    ("unix_socket_dir", "/tmp", |config| {
        let socket = config.server.unix_socket.as_ref();
        socket
            .map(|socket| socket.directory.clone())
            .unwrap_or_default()
    }),
];

fn seconds(time: Duration) -> String {
    let text = format!("{:.3}", time.as_secs_f64());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn pool_size(pool: &PoolConfig) -> usize {
    pool.size_of_role()
}

/// There is nothing outside.
pub(super) struct Nothing;

impl Outside for Nothing {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &Path) -> Result<Vec<u8>, String> {
        Err("no files are read here".to_owned())
    }
}

/// An option of the `pgbouncer.ini` that all this is from.
fn option(option: &PgbouncerOption) -> (String, Vec<Value>) {
    let changeable = if option.changeable { "yes" } else { "no" };
    let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::Text);
    let key = option.name.to_owned();
    let cells = vec![
        Value::Text(key.clone()),
        text(&option.value),
        text(&option.default),
        Value::text(changeable),
    ];
    (key, cells)
}

/// SHOW CONFIG
pub(super) fn settings(engine: &Engine) -> Short {
    let config = engine.config();
    let unset = schema::read(EMPTY, Path::new(""), &Nothing).ok();
    let defaults: BTreeMap<String, String> = unset
        .map(|unset| config::settings(&unset).into_iter().collect())
        .unwrap_or_default();
    // Where they are cannot have a default.
    let default = |key: &str| {
        let of_backend = key.starts_with("pool.backend.");
        defaults.get(key).filter(|_| !of_backend).cloned()
    };
    let own = config::settings(config).into_iter();
    let own = own.map(|(key, value)| {
        let default = default(&key).unwrap_or_default();
        (key, value, default)
    });
    let aliases = ALIASES
        .iter()
        .map(|(name, default, value)| ((*name).to_owned(), value(config), (*default).to_owned()));
    let row = |(key, value, default): (String, String, String)| {
        let changeable = if takes_restart(&key) { "no" } else { "yes" };
        let cells = [key.clone(), value, default, changeable.to_owned()];
        (key, cells.map(Value::Text).to_vec())
    };
    let written = config.options.iter();
    let written = written.filter(|option| !ALIASES.iter().any(|(name, ..)| *name == option.name));
    let all = own.chain(aliases).map(row).chain(written.map(option));
    let all: BTreeMap<String, Vec<Value>> = all.collect();
    Short {
        columns: COLUMNS,
        rows: all.into_values().collect(),
    }
}
