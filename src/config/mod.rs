//! One validated configuration. `aether.yaml` ([`schema`]) is one way to write it, `pgbouncer.ini` ([`pgbouncer`]) is another: it
//! is lowered to the same keys, and comes to the same [`Config`].
//!
//! Everything that can be wrong is found here, before anything runs: what comes out needs no second look. Knows no sockets,
//! and the file system and the environment only through the one door [`files`].

mod changes;
mod demands;
pub mod dsn;
mod effective;
pub mod files;
pub mod hba;
pub mod ident;
pub mod ini;
mod nearest;
pub mod pgbouncer;
pub mod schema;
pub mod secret;
mod sessions;
mod sizes;
mod sockets;
mod timeouts;
mod tokens;
pub mod units;
pub mod userlist;
pub mod yaml;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use crate::log::{Format, Syslog};
use crate::tls::{Acceptor, Connector, Mode};
pub use changes::{Change, Source, changed};
pub use demands::{ChannelBinding, Demands, RequireAuth};
pub use effective::{effective, keys, settings};
pub use files::{convert, load};
pub(crate) use nearest::nearest;
pub use secret::{ScramVerifier, Secret, Stored};
pub use sessions::Sessions;
pub use sizes::{LoadBalance, Sizes};
pub use sockets::Sockets;
pub use timeouts::{Timeouts, UserTimeouts};
pub use yaml::{ConfigError, Outside};

/// Everything an operator may decide, checked and complete.
#[derive(Debug)]
pub struct Config {
    /// The process: where it listens, as whom it runs, how it stops.
    pub server: ServerConfig,
    /// Databases by the name that clients ask for.
    pub databases: BTreeMap<String, Rc<PoolConfig>>,
    /// What holds for databases that say nothing of their own.
    pub pool: Rc<PoolConfig>,
    /// The `"*"` entry: for names that are not in `databases`.
    pub fallback: Option<Rc<PoolConfig>>,
    /// Section `users`: what is set for single users.
    pub users: BTreeMap<String, UserConfig>,
    /// Its `"*"` entry: for users who are not in `users`. Those who are have inherited from it.
    pub user_defaults: UserConfig,
    /// Section `peers`: poolers behind the same address, by their `peer_id`.
    pub peers: BTreeMap<u16, PeerConfig>,
    /// Who may log in.
    pub auth: AuthConfig,
    /// Who may use the console.
    pub admin: AdminConfig,
    /// Where metrics are told.
    pub metrics: MetricsConfig,
    /// If it is from a `pgbouncer.ini`: its options, by name.
    pub options: Vec<PgbouncerOption>,
    /// Where log lines go, and what is in them.
    pub log: LogConfig,
    /// What was accepted but deserves a look, one line each; logged at start and reload.
    pub warnings: Vec<String>,
}

/// An option of PgBouncer's, as its SHOW CONFIG tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgbouncerOption {
    /// Its name.
    pub name: &'static str,
    /// What the file says, or the default. `None`: nothing.
    pub value: Option<String>,
    /// PgBouncer's. `None`: nothing.
    pub default: Option<String>,
    /// Whether a reload changes it.
    pub changeable: bool,
}

/// Keys about TLS and their texts.
pub type TlsWords = BTreeMap<&'static str, String>;

/// Section `server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Addresses to listen on; none where there is a Unix socket.
    pub listen: Vec<SocketAddr>,
    /// The Unix socket to listen on as well.
    pub unix_socket: Option<UnixSocket>,
    /// TLS towards clients.
    pub tls: Option<Rc<Acceptor>>,
    /// What section `server.tls` says, key by key.
    pub tls_words: TlsWords,
    /// How long a graceful stop may take; zero: no limit.
    pub shutdown_timeout: Duration,
    /// OS user to become when started as root.
    pub user: Option<String>,
    /// Client connections in total, those still logging in included.
    pub max_client_connections: usize,
    /// Client connections that have not proven yet who they are.
    pub max_unauthenticated_connections: usize,
    /// Absolute limit for a client's login; zero: off.
    pub client_login_timeout: Duration,
    /// A cancel may take this long on its way to the server; zero: for ever.
    pub cancel_wait_timeout: Duration,
    /// A pool made from the `"*"` entry is forgotten when it was not used for this long; zero: never.
    pub autodb_idle_timeout: Duration,
    /// What averages are taken over, and how often they are logged.
    pub stats_period: Duration,
    /// An answer that has brought so many bytes is read in large pieces, see `engine/bulk.rs`; 0: none is.
    pub bulk_after: usize,
    /// A notice for clients that have logged in; empty: none.
    pub login_notify_message: String,
    /// Whether the address of a client is added to its `application_name`.
    pub application_name_add_host: bool,
    /// What the kernel is told about sockets.
    pub sockets: Sockets,
    /// Least severe log line that is written.
    pub log_level: log::LevelFilter,
    /// The file that says which process serves.
    pub pidfile: Option<PathBuf>,
    /// How long connections may take in a suspension to read what was sent to them; zero: no limit.
    pub suspend_timeout: Duration,
    /// In whose words clients are told of errors.
    pub sqlstate_compat: SqlstateCompat,
    /// For how long names of hosts are believed.
    pub dns: DnsConfig,
    /// Our own number among `peers`; 0: there are none.
    pub peer_id: u16,
    /// Whether other processes of the same user may listen on the same addresses, too.
    pub so_reuseport: bool,
}

/// An entry of section `peers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where it listens.
    pub host: HostPort,
    /// Cancel requests that may be under way to it.
    pub pool_size: usize,
}

/// In whose words clients are told of errors that are not a server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlstateCompat {
    /// In PostgreSQL's, with its codes, details and hints.
    Postgres,
    /// In PgBouncer's, with 08P01 always.
    PgBouncer,
}

impl SqlstateCompat {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            SqlstateCompat::Postgres => "postgres",
            SqlstateCompat::PgBouncer => "pgbouncer",
        }
    }
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// What a line looks like.
    pub format: Format,
    /// Whether lines go to standard error.
    pub stderr: bool,
    /// A file that lines are appended to.
    pub file: Option<PathBuf>,
    /// The machine's syslog.
    pub syslog: Option<Syslog>,
    /// Lines of one reason that are written in a second; 0: all.
    pub repeat_limit: u64,
    /// Clients that have waited for a server for so long are told of; zero: never.
    pub long_wait: Duration,
    /// Whether logins and new server connections are logged.
    pub log_connections: bool,
    /// Whether the ends of connections are logged, with their reasons.
    pub log_disconnections: bool,
    /// Whether errors that clients are told are logged by themselves.
    pub log_pooler_errors: bool,
    /// Whether what happened in a period is logged at its end.
    pub log_stats: bool,
    /// What of the slow is logged.
    pub slow: SlowConfig,
}

/// `log.slow_*`: which queries and transactions are logged because they took long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowConfig {
    /// A query that takes as long, its wait for a server included; zero: none is logged.
    pub query: Duration,
    /// The same of a transaction.
    pub transaction: Duration,
    /// So many in a million of them are.
    pub sample: u32,
}

impl SlowConfig {
    /// Whether any are.
    pub fn is_on(&self) -> bool {
        !(self.query.is_zero() && self.transaction.is_zero()) && self.sample > 0
    }
}

/// `server.dns_*`: how names of hosts are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// For how long an answer serves new connections; zero: each connection asks.
    pub max_ttl: Duration,
    /// The same for the answer that there is no such name.
    pub nxdomain_ttl: Duration,
    /// How long a connection waits for an answer; zero: as long as it may take to connect.
    pub query_timeout: Duration,
}

impl ServerConfig {
    /// Whether no client by TCP gets in without TLS.
    pub fn only_tls(&self) -> bool {
        let mode = self.tls.as_ref().map(|tls| tls.mode());
        mode >= Some(Mode::Require)
    }
}

/// A Unix socket for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its directory, an absolute path; with `@` in front, its abstract name is made of what follows.
    pub directory: String,
    /// The port in its name: that of the first address.
    pub port: u16,
    /// Who may connect: the bits of a file's mode.
    pub mode: u32,
    /// Its group, by name or number.
    pub group: Option<String>,
}

impl UnixSocket {
    /// The file, or the abstract name behind an `@`, as PostgreSQL and libpq call it.
    pub fn path(&self) -> String {
        format!("{}/.s.PGSQL.{}", self.directory, self.port)
    }
}

/// When a server is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// When the client leaves.
    Session,
    /// When its transaction is over.
    Transaction,
    /// After every statement; transaction blocks are refused.
    Statement,
}

impl PoolMode {
    /// The word in the configuration and in SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        }
    }
}

/// When a client of a session pool gets its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerAssignment {
    /// At login: process id and parameters are the server's own.
    Login,
    /// With the first query: a client that only sits there costs no server.
    FirstQuery,
}

impl ServerAssignment {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            ServerAssignment::Login => "login",
            ServerAssignment::FirstQuery => "first_query",
        }
    }
}

/// A pool: one entry of `databases`, or the single `pool`. A duration of zero means "off" unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Where the servers are.
    pub backend: Backend,
    /// When a server is given back.
    pub mode: PoolMode,
    /// When a client gets its server; counts in session mode only.
    pub server_assignment: ServerAssignment,
    /// Named prepared statements that one server holds for clients which share it; 0: names pass as they are. Counts in
    /// transaction and statement mode.
    pub max_prepared_statements: usize,
    /// Names of parameters that servers report beside the usual ones.
    pub track_extra_parameters: Vec<String>,
    /// Whether what a client leaves in a session that it shares is undone before the next client gets it. Counts in
    /// transaction and statement mode.
    pub transaction_reset: bool,
    /// Most server connections, over all users; 0: no limit but those of roles.
    pub max_connections: usize,
    /// Most server connections as one role; 0: no limit but that of the pool.
    pub max_connections_per_user: usize,
    /// How many server connections there are, and of whom, beside these limits.
    pub sizes: Sizes,
    /// Most clients; 0: no limit.
    pub max_client_connections: usize,
    /// Idle server connections kept ready.
    pub min_idle_connections: usize,
    /// An idle server connection is closed after this.
    pub max_idle_time: Duration,
    /// Iterations of SCRAM that a server may ask for.
    pub max_scram_iterations: u32,
    /// A server connection is not used again after this age.
    pub max_lifetime: Duration,
    /// A client waits at most this long for a server.
    pub acquire_timeout: Duration,
    /// One attempt to connect and log in to a server takes at most this long. Never zero.
    pub connect_timeout: Duration,
    /// A server that was idle for longer is checked before it is used again; zero: always checked.
    pub check_delay: Duration,
    /// What the check runs; `None`: no check. The empty text is an empty query, which PostgreSQL answers.
    pub check_query: Option<String>,
    /// The check must answer within this. Never zero.
    pub check_timeout: Duration,
    /// What is run before a server goes to the next client; `None`: nothing (only a rollback).
    pub reset_query: Option<String>,
    /// The reset must be done within this. Never zero.
    pub reset_timeout: Duration,
    /// A client that sends nothing for this long outside of a transaction is closed.
    pub client_idle_timeout: Duration,
    /// A query whose client has gone may run on for this long; then it is cancelled. Zero: to its end.
    pub abandoned_query_timeout: Duration,
    /// What clients may take their time for.
    pub timeouts: Timeouts,
    /// What its sessions begin with.
    pub sessions: Sessions,
    /// Where the secrets of users are asked for who are not in `auth.users`; `None`: nowhere.
    pub auth_query: Option<Rc<AuthQuery>>,
}

impl PoolConfig {
    /// Most server connections as one role that has no size of its own; 0: no limit.
    pub fn size_of_role(&self) -> usize {
        match (self.max_connections_per_user, self.max_connections) {
            (0, max) | (max, 0) => max,
            (own, max) => own.min(max),
        }
    }
}

/// How the secrets of users are asked for who are not configured: `auth_user`, `auth_query`, `auth_dbname`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthQuery {
    /// The role that asks.
    pub user: String,
    /// Its password; `None`: the one in `auth.users`, if there is one.
    pub password: Option<Secret>,
    /// What it asks, with the user's name as `$1`.
    pub sql: String,
    /// The database entry where it asks; `None`: the one that the client wants to go to.
    pub database: Option<String>,
}

/// PgBouncer's, since 1.24.1: whose password has expired has none (CVE-2025-2291).
pub const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END \
                              FROM pg_authid WHERE rolname=$1 AND rolcanlogin";

/// An entry of section `users`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserConfig {
    /// When clients give their servers back for which this role logs in to the server; `None`: as their pool says.
    pub mode: Option<PoolMode>,
    /// Most server connections as this role, over all pools; 0: no limit.
    pub max_connections: usize,
    /// In place of [`PoolConfig::max_connections_per_user`], for this role; `None`: the pool's.
    pub pool_size: Option<usize>,
    /// In place of [`Sizes::reserve_pool_size`], for this role; `None`: the pool's.
    pub reserve_pool_size: Option<usize>,
    /// Most clients that log in as this user; 0: no limit.
    pub max_client_connections: usize,
    /// What is different for this user from what the pools say.
    pub timeouts: UserTimeouts,
}

/// Where the servers of a pool are and as whom Aether logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Tried in order until one answers; never empty.
    pub hosts: Vec<HostPort>,
    /// TLS towards them; `None`: none. Not over Unix sockets.
    pub tls: Option<Rc<Connector>>,
    /// The `ssl*` keys as they are written; relative names of files count from the configuration's directory.
    pub tls_words: TlsWords,
    /// The database there; `None`: the name that the client asked for.
    pub database: Option<String>,
    /// The role for all clients; `None`: each client's own.
    pub user: Option<String>,
    /// The password of `user`.
    pub password: Option<Secret>,
    /// What the servers have to show before they get anything.
    pub demands: Demands,
    /// Startup parameters for every server (`application_name`, `options`, ...), lower-case names, sorted; a client's own win,
    /// and its `options` come after these.
    pub parameters: Vec<(String, String)>,
}

/// One host of a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPort {
    /// A name or an address, and a port.
    Tcp(String, u16),
    /// The path of a Unix socket, file name included.
    Unix(PathBuf),
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HostPort::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            HostPort::Tcp(host, port) => write!(f, "{host}:{port}"),
            HostPort::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How a client proves who it is, as far as a password goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// It need not.
    Trust,
    /// The password in clear.
    Password,
    /// MD5 challenge; SCRAM for users who hold a SCRAM verifier.
    Md5,
    /// SCRAM-SHA-256; bound to the TLS connection if the client wants that.
    ScramSha256,
    /// The same, always bound to the TLS connection.
    ScramSha256Plus,
}

impl AuthMethod {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMethod::Trust => "trust",
            AuthMethod::Password => "password",
            AuthMethod::Md5 => "md5",
            AuthMethod::ScramSha256 => "scram-sha-256",
            AuthMethod::ScramSha256Plus => "scram-sha-256-plus",
        }
    }
}

/// Section `auth`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthConfig {
    /// Who has to prove what.
    pub rules: hba::Rules,
    /// Users and their secrets.
    pub users: BTreeMap<String, Stored>,
    /// Whether a user who is not in `users` may log in where no password is asked for (trust, peer, cert) and no `auth_query` says
    /// who is known; only ever true without a list of users.
    pub anyone: bool,
    /// What holds for databases that say nothing else, and for what is no database: the console.
    pub query: Option<Rc<AuthQuery>>,
    /// For how long an answer of `auth_query` serves.
    pub query_cache: Duration,
    /// How long the answer to a failed login takes at least; zero: none longer than it must.
    pub failure_delay: Duration,
    /// Failed logins that one address may make in a second, in the long run; 0: no limit.
    pub failure_limit: u32,
    /// Iterations of the verifiers that are made from plain passwords.
    pub scram_iterations: u32,
    /// Seeds the salts shown to unknown users, so that they stay the same over a restart.
    pub mock_secret: Option<Secret>,
    /// Whether others than this machine may be let in without a safe proof, and anybody into the console without one by TCP.
    pub allow_insecure: bool,
}

/// Section `admin`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminConfig {
    /// May run every command.
    pub users: Vec<String>,
    /// May only look.
    pub stats_users: Vec<String>,
}

/// Section `metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Addresses to be asked at; none: off.
    pub listen: Vec<SocketAddr>,
    /// The Unix socket to be asked at as well: its path.
    pub unix_socket: Option<String>,
    /// TLS towards those who ask by TCP.
    pub tls: Option<Rc<Acceptor>>,
    /// What section `metrics.tls` says, key by key.
    pub tls_words: TlsWords,
    /// What whoever asks for metrics has to show.
    pub bearer_token: Option<Secret>,
    /// The collector that they are pushed to.
    pub otlp: Option<Rc<OtlpConfig>>,
    /// So many statements are kept by their fingerprint; 0: none.
    pub query_fingerprints: usize,
    /// Databases of which `/readyz` wants a server to be reachable; `None`: all that are configured.
    pub required_databases: Option<Vec<String>>,
}

/// An OpenTelemetry collector, and what it is told beside the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpConfig {
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The path there.
    pub path: String,
    /// TLS, for `https`.
    pub tls: Option<Rc<Connector>>,
    /// The roots that its certificate is held against, as a file; `None`: those of the system.
    pub ca_file: Option<String>,
    /// From one push to the next.
    pub interval: Duration,
    /// More headers, as for a token.
    pub headers: Vec<(String, Secret)>,
    /// Who tells: the attributes of the resource.
    pub resource: Vec<(String, String)>,
}

impl OtlpConfig {
    /// Its address.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let (port, path) = (self.port, &self.path);
        match self.host.contains(':') {
            true => format!("{scheme}://[{}]:{port}{path}", self.host),
            false => format!("{scheme}://{}:{port}{path}", self.host),
        }
    }
}

impl MetricsConfig {
    /// Whether anybody can ask for metrics.
    pub fn is_on(&self) -> bool {
        !self.listen.is_empty() || self.unix_socket.is_some()
    }

    /// Where they are told.
    pub fn places(&self) -> Vec<String> {
        let mut places: Vec<String> = self.listen.iter().map(SocketAddr::to_string).collect();
        places.extend(self.unix_socket.clone());
        if places.is_empty() {
            places.push("no address".to_owned());
        }
        places
    }
}

/// Longest name of a user or a database, in bytes. PostgreSQL's own have at most 63; a key of YAML has some thousand.
pub const NAME_MAX: usize = 127;

/// Names under which the console is reached, unless a database of that name is configured.
pub const CONSOLE_NAMES: [&str; 2] = ["aether", "pgbouncer"];
