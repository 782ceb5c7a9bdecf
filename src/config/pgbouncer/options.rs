//! Every option of PgBouncer: its type, its default, whether a reload changes it, and what it comes to here.
//!
//! The order is that of PgBouncer's manual; `options.txt` beside the tests is the list that must be complete.

/// What a value looks like, and how it is written for `aether.yaml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any text; the empty one is none.
    Text,
    /// The name of a file; relative ones count from the working directory.
    Path,
    /// Words between commas.
    List,
    /// A whole number as C writes it: `0x` and a leading `0` count.
    Int,
    /// The same, at least 1.
    Above0,
    /// A whole number: 0 is off.
    Bool,
    /// Seconds, with a fraction.
    Time,
    /// Whole seconds.
    Seconds,
    /// Whole milliseconds.
    Millis,
    /// One of these words in any case, and what each is called here.
    Words(&'static [(&'static str, &'static str)]),
}

/// What holds where nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preset {
    /// What Aether does by itself, too.
    Same(&'static str),
    /// Not so: it has to be said.
    Other(&'static str),
    /// Nothing.
    Null,
}

impl Preset {
    /// As it would be written in the file.
    pub(super) fn text(self) -> &'static str {
        match self {
            Preset::Same(text) | Preset::Other(text) => text,
            Preset::Null => "",
        }
    }
}

/// When a change of the file counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// At the next reload.
    Reload,
    /// At the next start.
    Restart,
}

/// What comes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// A key of `aether.yaml` with the same meaning: its path, or, for databases and users, the path below their entry.
    Key(&'static str),
    /// The same where the value is above 0; else what holds for all.
    Over(&'static str),
    /// More than one key, or a value that means something else there; [`super::lower`] knows.
    Own,
    /// Whatever its value, what it asks for holds anyway. Why.
    Met(&'static str),
    /// Without effect, which does no harm. Why, or what to do instead.
    Ignored(&'static str),
    /// Not to be had, and not to be passed over. What to do instead.
    Refused(&'static str),
}

/// An option.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Preset,
    pub(super) change: Change,
    pub(super) fate: Fate,
}

const fn row(name: &'static str, kind: Kind, default: Preset, change: Change, fate: Fate) -> Row {
    Row {
        name,
        kind,
        default,
        change,
        fate,
    }
}

use Change::{Reload, Restart};
use Fate::{Ignored, Key, Met, Over, Own, Refused};
use Kind::{Above0, Bool, Int, List, Millis, Path, Seconds, Text, Time, Words};
use Preset::{Null, Other, Same};

const MODES: Kind = Words(&[
    ("session", "session"),
    ("transaction", "transaction"),
    ("statement", "statement"),
]);
const SSLMODES: Kind = Words(&[
    ("disable", "disable"),
    ("allow", "allow"),
    ("prefer", "prefer"),
    ("require", "require"),
    ("verify-ca", "verify-ca"),
    ("verify-full", "verify-full"),
]);
/// `any` is trust for everybody; [`super::lower`] sees to the difference.
const AUTH_TYPES: Kind = Words(&[
    ("any", "trust"),
    ("trust", "trust"),
    ("plain", "password"),
    ("md5", "md5"),
    ("scram-sha-256", "scram-sha-256"),
    ("cert", "cert"),
    ("hba", "hba"),
    ("pam", "pam"),
    ("ldap", "ldap"),
]);
const BALANCE: Kind = Words(&[("round-robin", "round-robin"), ("disable", "disable")]);

const BUFFERS: &str =
    "Aether has one buffer for all connections and gives each its turn; leave the option out";
const NO_LDAP: &str = "LDAP is not available; use auth_query, auth_file or auth_type = hba";

/// Section `[pgbouncer]`.
#[rustfmt::skip]
pub(super) const GLOBAL: &[Row] = &[
    // Process, listening, sockets.
    row("logfile", Path, Same(""), Reload, Key("log.file")),
    row("pidfile", Path, Same(""), Restart, Key("server.pidfile")),
    row("user", Text, Null, Restart, Key("server.user")),
    row("conffile", Path, Null, Reload, Ignored("a reload reads the file that was named at the start")),
    row("job_name", Text, Same("pgbouncer"), Restart, Ignored("only PgBouncer's log shows it; for syslog there is syslog_ident")),
    row("service_name", Text, Same("pgbouncer"), Restart, Ignored("it names a service of Windows")),
    row("listen_addr", List, Same(""), Restart, Own),
    row("listen_port", Int, Same("6432"), Restart, Own),
    row("listen_backlog", Int, Other("128"), Restart, Key("server.listen_backlog")),
    row("unix_socket_dir", Path, Other("/tmp"), Restart, Own),
    row("unix_socket_mode", Int, Same("0777"), Restart, Own),
    row("unix_socket_group", Text, Same(""), Restart, Own),
    row("so_reuseport", Bool, Same("0"), Restart, Key("server.so_reuseport")),
    row("tcp_defer_accept", Bool, Other("1"), Reload, Key("server.tcp_defer_accept")),
    row("tcp_socket_buffer", Int, Same("0"), Reload, Key("server.tcp_socket_buffer")),
    row("tcp_keepalive", Bool, Same("1"), Reload, Key("server.tcp_keepalive")),
    row("tcp_keepcnt", Int, Other("0"), Reload, Key("server.tcp_keepcnt")),
    row("tcp_keepidle", Seconds, Other("0"), Reload, Key("server.tcp_keepidle")),
    row("tcp_keepintvl", Seconds, Other("0"), Reload, Key("server.tcp_keepintvl")),
    row("tcp_user_timeout", Millis, Same("0"), Reload, Key("server.tcp_user_timeout")),
    row("pkt_buf", Int, Same("4096"), Restart, Ignored(BUFFERS)),
    row("sbuf_loopcnt", Int, Same("5"), Reload, Ignored(BUFFERS)),
    row("max_packet_size", Int, Same("2147483647"), Reload, Key("pool.max_packet_size")),
    row("peer_id", Int, Same("0"), Reload, Key("server.peer_id")),
    // Pooling and limits.
    row("pool_mode", MODES, Same("session"), Reload, Key("pool.mode")),
    row("max_client_conn", Above0, Other("100"), Reload, Key("server.max_client_connections")),
    row("default_pool_size", Above0, Other("20"), Reload, Key("pool.max_connections_per_user")),
    row("min_pool_size", Int, Same("0"), Reload, Key("pool.min_pool_size")),
    row("reserve_pool_size", Int, Same("0"), Reload, Key("pool.reserve_pool_size")),
    row("reserve_pool_timeout", Time, Same("5"), Reload, Key("pool.reserve_pool_timeout")),
    row("max_db_connections", Int, Other("0"), Reload, Own),
    row("max_db_client_connections", Int, Same("0"), Reload, Key("pool.max_client_connections")),
    row("max_user_connections", Int, Same("0"), Reload, Key("users.*.max_connections")),
    row("max_user_client_connections", Int, Same("0"), Reload, Key("users.*.max_client_connections")),
    row("server_round_robin", Bool, Same("0"), Reload, Key("pool.server_round_robin")),
    row("track_extra_parameters", List, Other("IntervalStyle"), Restart, Key("pool.track_extra_parameters")),
    row("ignore_startup_parameters", List, Same(""), Reload, Key("pool.ignore_startup_parameters")),
    row("disable_pqexec", Bool, Same("0"), Restart, Key("pool.disable_pqexec")),
    row("application_name_add_host", Bool, Same("0"), Reload, Key("server.application_name_add_host")),
    row("max_prepared_statements", Int, Same("200"), Reload, Key("pool.max_prepared_statements")),
    // Authentication.
    row("auth_type", AUTH_TYPES, Other("md5"), Reload, Own),
    row("auth_file", Path, Null, Reload, Own),
    row("auth_hba_file", Path, Same(""), Reload, Own),
    row("auth_ident_file", Path, Null, Reload, Own),
    row("auth_user", Text, Null, Reload, Key("auth.auth_user")),
    row("auth_query", Text, Same(super::super::AUTH_QUERY), Reload, Key("auth.auth_query")),
    row("auth_dbname", Text, Null, Reload, Key("auth.auth_dbname")),
    row("auth_ldap_options", Text, Null, Reload, Refused(NO_LDAP)),
    row("scram_iterations", Above0, Same("4096"), Reload, Key("auth.scram_iterations")),
    // Log and console.
    row("syslog", Bool, Same("0"), Reload, Key("log.syslog")),
    row("syslog_ident", Text, Other("pgbouncer"), Reload, Key("log.syslog_ident")),
    row("syslog_facility", Text, Same("daemon"), Reload, Key("log.syslog_facility")),
    row("log_connections", Bool, Same("1"), Reload, Key("log.log_connections")),
    row("log_disconnections", Bool, Same("1"), Reload, Key("log.log_disconnections")),
    row("log_pooler_errors", Bool, Same("1"), Reload, Key("log.log_pooler_errors")),
    row("log_stats", Bool, Same("1"), Reload, Key("log.log_stats")),
    row("stats_period", Seconds, Same("60"), Reload, Key("server.stats_period")),
    row("verbose", Int, Same("0"), Reload, Own),
    row("admin_users", List, Same(""), Reload, Key("admin.users")),
    row("stats_users", List, Same(""), Reload, Key("admin.stats_users")),
    row("query_wait_notify", Seconds, Same("5"), Reload, Key("pool.query_wait_notify")),
    row("login_notify_message", Text, Same(""), Reload, Key("server.login_notify_message")),
    // Server checks and timeouts.
    row("server_reset_query", Text, Same("DISCARD ALL"), Reload, Own),
    row("server_reset_query_always", Bool, Same("0"), Reload, Met(
        "in transaction and statement mode, what a transaction left in its session is undone before the next client, and nothing else")),
    row("server_check_delay", Time, Same("30"), Reload, Key("pool.check_delay")),
    row("server_check_query", Text, Same("<empty>"), Reload, Own),
    row("server_fast_close", Bool, Same("0"), Reload, Key("pool.server_fast_close")),
    row("server_lifetime", Time, Same("3600"), Reload, Own),
    row("server_idle_timeout", Time, Same("600"), Reload, Key("pool.max_idle_time")),
    row("server_connect_timeout", Time, Same("15"), Reload, Own),
    row("server_login_retry", Time, Other("15"), Reload, Key("pool.server_login_retry")),
    row("client_login_timeout", Time, Same("60"), Reload, Key("server.client_login_timeout")),
    row("autodb_idle_timeout", Time, Same("3600"), Reload, Key("server.autodb_idle_timeout")),
    row("pool_idle_timeout", Time, Same("0"), Reload, Met(
        "a user's pool is forgotten with its last client and its last connection; server_idle_timeout closes those that idle")),
    row("query_timeout", Time, Same("0"), Reload, Key("pool.query_timeout")),
    row("query_wait_timeout", Time, Other("120"), Reload, Key("pool.acquire_timeout")),
    row("cancel_wait_timeout", Time, Same("10"), Reload, Key("server.cancel_wait_timeout")),
    row("client_idle_timeout", Time, Same("0"), Reload, Key("pool.client_idle_timeout")),
    row("idle_transaction_timeout", Time, Same("0"), Reload, Key("pool.idle_transaction_timeout")),
    row("transaction_timeout", Time, Same("0"), Reload, Key("pool.transaction_timeout")),
    row("suspend_timeout", Time, Same("10"), Reload, Key("server.suspend_timeout")),
    // Names of hosts.
    row("dns_max_ttl", Time, Same("15"), Reload, Key("server.dns_max_ttl")),
    row("dns_nxdomain_ttl", Time, Same("15"), Reload, Key("server.dns_nxdomain_ttl")),
    row("dns_zone_check_period", Time, Same("0"), Reload, Ignored(
        "Aether asks for the names that are in use every dns_max_ttl; leave the option out")),
    row("resolv_conf", Path, Same(""), Restart, Refused(
        "names are looked up as the system does it; write the name servers to /etc/resolv.conf, for instance that of a container")),
    // TLS.
    row("client_tls_sslmode", SSLMODES, Other("disable"), Reload, Key("server.tls.mode")),
    row("client_tls_key_file", Path, Same(""), Reload, Key("server.tls.key_file")),
    row("client_tls_cert_file", Path, Same(""), Reload, Key("server.tls.cert_file")),
    row("client_tls_ca_file", Path, Same(""), Reload, Key("server.tls.ca_file")),
    row("client_tls_protocols", Text, Same("secure"), Reload, Key("server.tls.protocols")),
    row("client_tls_ciphers", Text, Same("default"), Reload, Key("server.tls.ciphers")),
    row("client_tls13_ciphers", Text, Null, Reload, Key("server.tls.ciphersuites")),
    row("client_tls_ecdhcurve", Text, Same("auto"), Reload, Key("server.tls.curves")),
    row("client_tls_dheparams", Text, Same("auto"), Reload, Ignored(
        "keys are exchanged over elliptic curves only; leave the option out")),
    row("server_tls_sslmode", SSLMODES, Other("prefer"), Reload, Key("pool.backend.sslmode")),
    row("server_tls_ca_file", Path, Same(""), Reload, Key("pool.backend.sslrootcert")),
    row("server_tls_key_file", Path, Same(""), Reload, Key("pool.backend.sslkey")),
    row("server_tls_cert_file", Path, Same(""), Reload, Key("pool.backend.sslcert")),
    row("server_tls_protocols", Text, Same("secure"), Reload, Own),
    row("server_tls_ciphers", Text, Same("default"), Reload, Key("pool.backend.ssl_ciphers")),
    row("server_tls13_ciphers", Text, Null, Reload, Key("pool.backend.ssl_tls13_ciphers")),
];

/// The keys of a connection string in `[databases]`. Without one, what section `[pgbouncer]` says holds.
#[rustfmt::skip]
pub(super) const DATABASE: &[Row] = &[
    row("dbname", Text, Null, Reload, Key("backend.database")),
    row("host", List, Null, Reload, Own),
    row("port", Above0, Same("5432"), Reload, Key("backend.port")),
    row("user", Text, Null, Reload, Key("backend.user")),
    row("password", Text, Null, Reload, Own),
    row("auth_user", Text, Null, Reload, Key("auth_user")),
    row("auth_query", Text, Null, Reload, Key("auth_query")),
    row("auth_dbname", Text, Null, Reload, Key("auth_dbname")),
    row("pool_size", Above0, Null, Reload, Key("max_connections_per_user")),
    row("min_pool_size", Int, Null, Reload, Key("min_pool_size")),
    row("reserve_pool_size", Int, Null, Reload, Key("reserve_pool_size")),
    row("reserve_pool", Int, Null, Reload, Key("reserve_pool_size")),
    row("pool_mode", MODES, Null, Reload, Key("mode")),
    row("max_db_connections", Int, Null, Reload, Over("max_connections")),
    row("max_db_client_connections", Int, Null, Reload, Over("max_client_connections")),
    row("server_lifetime", Seconds, Null, Reload, Over("max_lifetime")),
    row("query_wait_timeout", Seconds, Null, Reload, Key("acquire_timeout")),
    row("load_balance_hosts", BALANCE, Same("round-robin"), Reload, Key("load_balance_hosts")),
    row("connect_query", Text, Null, Reload, Key("connect_query")),
    row("client_encoding", Text, Null, Reload, Key("backend.client_encoding")),
    row("datestyle", Text, Null, Reload, Key("backend.datestyle")),
    row("timezone", Text, Null, Reload, Key("backend.timezone")),
    row("application_name", Text, Null, Reload, Key("backend.application_name")),
];

/// The keys of an entry in `[users]`.
#[rustfmt::skip]
pub(super) const USER: &[Row] = &[
    row("pool_size", Above0, Null, Reload, Key("pool_size")),
    row("reserve_pool_size", Int, Null, Reload, Key("reserve_pool_size")),
    row("pool_mode", MODES, Null, Reload, Key("mode")),
    row("max_user_connections", Int, Null, Reload, Over("max_connections")),
    row("max_user_client_connections", Int, Null, Reload, Over("max_client_connections")),
    row("query_timeout", Seconds, Null, Reload, Over("query_timeout")),
    row("query_wait_timeout", Seconds, Null, Reload, Key("acquire_timeout")),
    row("idle_transaction_timeout", Seconds, Null, Reload, Over("idle_transaction_timeout")),
    row("transaction_timeout", Seconds, Null, Reload, Over("transaction_timeout")),
    row("client_idle_timeout", Seconds, Null, Reload, Over("client_idle_timeout")),
];

/// The keys of an entry in `[peers]`.
#[rustfmt::skip]
pub(super) const PEER: &[Row] = &[
    row("host", Text, Null, Reload, Key("host")),
    row("port", Above0, Same("6432"), Reload, Key("port")),
    row("pool_size", Above0, Null, Reload, Key("pool_size")),
];
