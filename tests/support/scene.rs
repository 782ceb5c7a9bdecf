//! The usual scene: a database of the test's own, an Aether in front of it, and its console as a test reads it.

use std::collections::BTreeMap;

use super::cluster::PASSWORD;
use super::{Cluster, Message, Pooler, Wire, wait_until};

/// What the console shows to whoever may look. (FDS is for those who may do everything.)
pub const SHOWN: [&str; 23] = [
    "ACTIVE_SOCKETS",
    "CLIENTS",
    "CONFIG",
    "DATABASES",
    "DNS_HOSTS",
    "DNS_ZONES",
    "HELP",
    "LISTS",
    "MEM",
    "PEERS",
    "PEER_POOLS",
    "POOLS",
    "QUERIES",
    "SERVERS",
    "SOCKETS",
    "STATE",
    "STATS",
    "STATS_AVERAGES",
    "STATS_TOTALS",
    "TLS",
    "TOTALS",
    "USERS",
    "VERSION",
];

/// A row of the console, by column name. NULL is missing.
pub type Row = BTreeMap<String, String>;

/// An Aether in front of one database. `username` may do everything, in the console too.
pub struct Scene {
    /// The Aether.
    pub pooler: Pooler,
    /// The database, of the same name here and on the server.
    pub database: String,
}

impl Scene {
    /// Makes the database and starts Aether. `keys`: more lines of the section `pool`, two blanks in front of each; other
    /// sections may follow them, but for `server` (see [`Scene::with_server`]) and `admin`.
    #[track_caller]
    pub fn new(cluster: &Cluster, database: &str, keys: &str) -> Scene {
        Scene::with_server(cluster, database, "", keys)
    }

    /// As [`Scene::new`]. `server`: more keys of that section, each with a comma in front: `, shutdown_timeout: 1s`.
    #[track_caller]
    pub fn with_server(cluster: &Cluster, database: &str, server: &str, keys: &str) -> Scene {
        let database = cluster.database(database);
        let pooler = Pooler::start(&yaml(&tcp(cluster, &database), server, keys));
        Scene { pooler, database }
    }

    /// A session of `username`.
    #[track_caller]
    pub fn login(&self) -> Wire {
        Wire::login(self.pooler.port(), "username", PASSWORD, &self.database)
    }

    /// As [`Scene::login`], when it may be refused.
    pub fn try_login(&self) -> Result<Wire, super::ServerError> {
        let parameters = [("user", "username"), ("database", &self.database)];
        Wire::try_login(self.pooler.port(), &parameters, PASSWORD)
    }

    /// A session with the console.
    #[track_caller]
    pub fn console(&self) -> Wire {
        Wire::login(self.pooler.port(), "username", PASSWORD, "aether")
    }

    /// What the console answers to SHOW.
    #[track_caller]
    pub fn show(&self, what: &str) -> Vec<Row> {
        let mut console = self.console();
        let rows = show(&mut console, what);
        console.terminate();
        rows
    }

    /// A number out of the pool's line in SHOW POOLS.
    #[track_caller]
    pub fn pool(&self, column: &str) -> u64 {
        pool(&self.show("POOLS"), &self.database, column)
    }

    /// Waits until a number of SHOW POOLS is this.
    #[track_caller]
    pub fn wait_for_pool(&self, column: &str, value: u64) {
        let mut console = self.console();
        wait_until(&format!("{column} is {value}"), || {
            pool(&show(&mut console, "POOLS"), &self.database, column) == value
        });
        console.terminate();
    }

    /// Waits until no client and no server of the pool is in the middle of anything: nothing got stuck.
    #[track_caller]
    pub fn wait_for_rest(&self) {
        for column in ["cl_active", "cl_waiting", "cl_active_cancel_req"] {
            self.wait_for_pool(column, 0);
        }
        for column in ["sv_active", "sv_active_cancel", "sv_being_canceled"] {
            self.wait_for_pool(column, 0);
        }
        for column in ["sv_tested", "sv_login"] {
            self.wait_for_pool(column, 0);
        }
    }
}

/// The text of a configuration whose pool is at `dsn`. `server` and `keys` as in [`Scene::with_server`].
pub fn yaml(dsn: &str, server: &str, keys: &str) -> String {
    format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"{server}}}\nadmin: {{users: [username]}}\n\
         pool:\n  dsn: \"{dsn}\"\n{keys}"
    )
}

/// The way to a database of a cluster, as `username`.
pub fn tcp(cluster: &Cluster, database: &str) -> String {
    format!(
        "postgres://username:{PASSWORD}@127.0.0.1:{}/{database}",
        cluster.port()
    )
}

/// Asks the console and gives the rows of its answer.
#[track_caller]
pub fn show(console: &mut Wire, what: &str) -> Vec<Row> {
    let answer = console.run(&format!("SHOW {what}"));
    let names = answer.first().map(columns).unwrap_or_default();
    let rows = answer.iter().filter_map(Message::row);
    let pair = |(name, value): (&String, Option<String>)| Some((name.clone(), value?));
    rows.map(|row| names.iter().zip(row).filter_map(pair).collect())
        .collect()
}

/// The column names of a RowDescription.
#[track_caller]
pub fn columns(message: &Message) -> Vec<String> {
    assert_eq!(message.kind, b'T', "no RowDescription: {message:?}");
    let mut rest = message.body.get(2..).unwrap_or_default();
    let mut names = Vec::new();
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = rest.get(end + 19..).unwrap_or_default();
    }
    names
}

/// A number out of a database's line in SHOW POOLS.
#[track_caller]
pub fn pool(rows: &[Row], database: &str, column: &str) -> u64 {
    let row = rows.iter().find(|row| row["database"] == database);
    let row = row.unwrap_or_else(|| panic!("no pool {database} in {rows:?}"));
    row[column].parse().expect("a number")
}
