//! Section `pool` and the entries of `databases`: the same keys, an entry's written over its parent's.
//!
//! Owns the defaults of a pool and the rule which database is meant. Knows nothing of users but the one of the backend.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::dsn::{self, Dsn};
use super::super::yaml::{Field, Place, Problems, Section};
use super::super::{
    Backend, ChannelBinding, Demands, HostPort, NAME_MAX, PoolConfig, PoolMode, RequireAuth,
    Secret, ServerAssignment, Sessions, Sizes, Stored, Timeouts, TlsWords,
};
use super::lookup::Asks;
use super::tls::{self, Hand};
use super::{Context, is_name, sizes};
use crate::limits;
use crate::tls::Mode;

/// The keys.
pub(super) const KEYS: [&str; 44] = [
    "dsn",
    "backend",
    "mode",
    "server_assignment",
    "max_prepared_statements",
    "track_extra_parameters",
    "transaction_reset",
    "max_connections",
    "max_connections_per_user",
    "max_client_connections",
    "min_idle_connections",
    "min_pool_size",
    "reserve_pool_size",
    "reserve_pool_timeout",
    "max_connecting",
    "server_round_robin",
    "server_fast_fail",
    "single_use",
    "server_fast_close",
    "load_balance_hosts",
    "ignore_startup_parameters",
    "connect_query",
    "disable_pqexec",
    "max_packet_size",
    "max_idle_time",
    "max_lifetime",
    "max_scram_iterations",
    "acquire_timeout",
    "connect_timeout",
    "check_delay",
    "check_query",
    "check_timeout",
    "reset_query",
    "reset_timeout",
    "client_idle_timeout",
    "abandoned_query_timeout",
    "query_timeout",
    "transaction_timeout",
    "idle_transaction_timeout",
    "query_wait_notify",
    "server_login_retry",
    "auth_user",
    "auth_query",
    "auth_dbname",
];
const BACKEND_KEYS: [&str; 25] = [
    "host",
    "port",
    "database",
    "user",
    "password",
    "password_file",
    "application_name",
    "options",
    "client_encoding",
    "datestyle",
    "timezone",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslcrl",
    "sslcert",
    "sslkey",
    "sslcertmode",
    "sslsni",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "ssl_ciphers",
    "ssl_tls13_ciphers",
    "channel_binding",
    "require_auth",
];

/// Whether a backend has such a key.
pub(super) fn has_backend_key(key: &str) -> bool {
    BACKEND_KEYS.contains(&key)
}

/// The keys of a backend that are startup parameters of the same name.
const PARAMETERS: [&str; 5] = [
    "application_name",
    "client_encoding",
    "datestyle",
    "options",
    "timezone",
];
/// PostgreSQL's own maximum for `max_connections`.
pub(super) const CONNECTIONS_MAX: u64 = 262_143;
const ASSIGNMENTS: [(&str, ServerAssignment); 2] = [
    ("login", ServerAssignment::Login),
    ("first_query", ServerAssignment::FirstQuery),
];

const NO_CHANNEL: &str = "channel_binding: require needs TLS, and sslmode is disable; write sslmode: verify-full (or require)";

/// The words for a mode.
pub(super) const MODES: [(&str, PoolMode); 3] = [
    ("session", PoolMode::Session),
    ("transaction", PoolMode::Transaction),
    ("statement", PoolMode::Statement),
];

/// A pool while it is put together.
#[derive(Clone)]
pub(super) struct Draft {
    /// Where it is written.
    pub(super) place: Place,
    pub(super) pool: PoolConfig,
    /// Whether some `dsn` or `backend` was given, here or by the parent.
    has_backend: bool,
    /// Whether the `dsn` that was given could not be read: that is told, and nothing that follows from it.
    broken: bool,
    /// Whether this section itself names the database.
    names_database: bool,
    /// Where the secrets of its users are asked for.
    pub(super) asks: Asks,
}

impl Draft {
    /// What holds when nothing is written.
    pub(super) fn defaults(place: Place) -> Draft {
        let seconds = Duration::from_secs;
        let pool = PoolConfig {
            backend: empty_backend(),
            mode: PoolMode::Session,
            max_prepared_statements: 200,
            track_extra_parameters: Vec::new(),
            transaction_reset: true,
            server_assignment: ServerAssignment::Login,
            max_connections: 20,
            max_connections_per_user: 0,
            max_client_connections: 0,
            sizes: Sizes::defaults(),
            min_idle_connections: 0,
            max_scram_iterations: limits::SCRAM_ITERATIONS_MAX,
            max_idle_time: seconds(600),
            max_lifetime: seconds(3600),
            acquire_timeout: seconds(30),
            connect_timeout: seconds(15),
            check_delay: seconds(30),
            check_query: Some(String::new()),
            check_timeout: seconds(5),
            reset_query: Some("DISCARD ALL".to_owned()),
            reset_timeout: seconds(10),
            client_idle_timeout: Duration::ZERO,
            abandoned_query_timeout: seconds(10),
            timeouts: Timeouts::defaults(),
            sessions: Sessions::default(),
            auth_query: None,
        };
        Draft {
            place,
            pool,
            has_backend: false,
            broken: false,
            names_database: false,
            asks: Asks::default(),
        }
    }

    /// The same at another place, for an entry that inherits it.
    pub(super) fn at(self, place: Place) -> Draft {
        Draft {
            place,
            names_database: false,
            ..self
        }
    }

    /// With the keys of `section` over what was there.
    pub(super) fn overlaid(
        mut self,
        section: &Section<'_>,
        context: Context<'_>,
        problems: &mut Problems,
    ) -> Draft {
        self.overlay_backend(section, context, problems);
        self.overlay_sizes(section, problems);
        sizes::overlay(&mut self.pool, section, problems);
        self.overlay_times(section, problems);
        self.overlay_queries(section, problems);
        self.asks = std::mem::take(&mut self.asks).overlaid(section, context, problems);
        if let Some(mode) = section
            .get("mode")
            .and_then(|field| field.word(&MODES, problems))
        {
            self.pool.mode = mode;
        }
        if let Some(field) = section.get("transaction_reset")
            && let Some(reset) = field.flag(problems)
        {
            self.pool.transaction_reset = reset;
            if !reset {
                problems.warn(
                    &field.place,
                    "off: in transaction and statement mode, what one client sets in a session is met by the next",
                );
            }
        }
        if let Some(assignment) = section
            .get("server_assignment")
            .and_then(|field| field.word(&ASSIGNMENTS, problems))
        {
            self.pool.server_assignment = assignment;
        }
        if let Some(names) = section
            .get("track_extra_parameters")
            .and_then(|field| field.names_list(problems))
        {
            self.pool.track_extra_parameters =
                names.into_iter().map(|(name, _)| name.to_owned()).collect();
        }
        self.overlay_sessions(section, problems);
        self
    }

    fn overlay_sessions(&mut self, section: &Section<'_>, problems: &mut Problems) {
        let sessions = &mut self.pool.sessions;
        if let Some(names) = section
            .get("ignore_startup_parameters")
            .and_then(|field| field.names_list(problems))
        {
            let names = names.into_iter().map(|(name, _)| name.to_ascii_lowercase());
            sessions.ignore_startup_parameters = names.collect();
        }
        if let Some(field) = section.get_or_null("connect_query") {
            sessions.connect_query = read_query(&field, problems).unwrap_or_default();
        }
        let disabled = section.get("disable_pqexec");
        let disabled = disabled.and_then(|field| field.flag(problems));
        sessions.disable_pqexec = disabled.unwrap_or(sessions.disable_pqexec);
        let most = u64::from(u32::MAX / 2);
        let size = section.get("max_packet_size");
        let size = size.and_then(|field| field.count(0..=most, problems));
        sessions.max_packet_size = size
            .and_then(|size| u32::try_from(size).ok())
            .unwrap_or(sessions.max_packet_size);
    }

    fn overlay_sizes(&mut self, section: &Section<'_>, problems: &mut Problems) {
        let mut count = |key, from: u64, target: &mut usize| {
            let read = section
                .get(key)
                .and_then(|field| field.count(from..=CONNECTIONS_MAX, problems));
            *target = read
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(*target);
        };
        let pool = &mut self.pool;
        count(
            "max_prepared_statements",
            0,
            &mut pool.max_prepared_statements,
        );
        count("max_connections", 0, &mut pool.max_connections);
        count(
            "max_connections_per_user",
            0,
            &mut pool.max_connections_per_user,
        );
        count(
            "max_client_connections",
            0,
            &mut pool.max_client_connections,
        );
        count("min_idle_connections", 0, &mut pool.min_idle_connections);
        let iterations = section.get("max_scram_iterations").and_then(|field| {
            field.count(1..=u64::from(limits::SCRAM_ITERATIONS_CEILING), problems)
        });
        pool.max_scram_iterations = iterations
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(pool.max_scram_iterations);
        let (min, max) = (pool.min_idle_connections, pool.max_connections);
        if min > max && max > 0 {
            let written = section
                .get("min_idle_connections")
                .or(section.get("max_connections"));
            let place = written.map_or(self.place.clone(), |field| field.place);
            let text =
                format!("min_idle_connections is {min}, more than max_connections, which is {max}");
            problems.add(&place, text);
            // Told once: the entries that inherit it are not to repeat it.
            self.pool.min_idle_connections = 0;
        }
    }

    fn overlay_times(&mut self, section: &Section<'_>, problems: &mut Problems) {
        let pool = &mut self.pool;
        for (key, target) in [
            ("max_idle_time", &mut pool.max_idle_time),
            ("max_lifetime", &mut pool.max_lifetime),
            ("acquire_timeout", &mut pool.acquire_timeout),
            ("check_delay", &mut pool.check_delay),
            ("client_idle_timeout", &mut pool.client_idle_timeout),
            ("abandoned_query_timeout", &mut pool.abandoned_query_timeout),
        ]
        .into_iter()
        .chain(pool.timeouts.by_key())
        {
            *target = section
                .get(key)
                .and_then(|field| field.duration(problems))
                .unwrap_or(*target);
        }
        for (key, target) in [
            ("connect_timeout", &mut pool.connect_timeout),
            ("check_timeout", &mut pool.check_timeout),
            ("reset_timeout", &mut pool.reset_timeout),
        ] {
            *target = section
                .get(key)
                .and_then(|field| field.duration_above_zero(problems))
                .unwrap_or(*target);
        }
    }

    fn overlay_queries(&mut self, section: &Section<'_>, problems: &mut Problems) {
        if let Some(field) = section.get_or_null("check_query") {
            self.pool.check_query = read_query(&field, problems);
        }
        if let Some(field) = section.get_or_null("reset_query") {
            self.pool.reset_query = read_query(&field, problems).filter(|query| !query.is_empty());
            if self.pool.reset_query.is_none() {
                problems.warn(
                    &field.place,
                    "off: what one client leaves in its session is seen by the next",
                );
            }
        }
    }

    fn overlay_backend(
        &mut self,
        section: &Section<'_>,
        context: Context<'_>,
        problems: &mut Problems,
    ) {
        let before = problems.count();
        let backend = section.get("backend");
        if let Some(field) = section.get("dsn") {
            if backend.is_some() {
                problems.add(&field.place, "dsn and backend exclude each other; keep one");
            }
            self.has_backend = true;
            let read = read_dsn(&field, context, problems);
            self.broken = read.is_none();
            if let Some(read) = read {
                self.names_database = read.backend.database.is_some();
                self.pool.backend = read.backend;
                let words = &self.pool.backend.tls_words;
                let place = |_: &str| field.place.clone();
                self.pool.backend.tls = tls::connector(words, Hand::Dsn, &place, context, problems);
                self.pool.connect_timeout =
                    read.connect_timeout.unwrap_or(self.pool.connect_timeout);
            }
        } else if let Some(field) = backend {
            self.has_backend = true;
            let section = field.section(&BACKEND_KEYS, problems);
            self.names_database = section.get("database").is_some();
            overlay_backend_keys(&mut self.pool.backend, &section, context, problems);
            overlay_demands(&mut self.pool.backend.demands, &section, problems);
            let words = tls::words_of(&section, &tls::SERVER_KEYS, problems);
            self.pool.backend.tls_words.extend(words);
            let words = &self.pool.backend.tls_words;
            let place = |key: &str| {
                section
                    .get(key)
                    .map_or(section.place.clone(), |key| key.place)
            };
            self.pool.backend.tls = tls::connector(words, Hand::Keys, &place, context, problems);
        }
        let written = section.get("dsn").or(section.get("backend"));
        let backend = &self.pool.backend;
        if let (Some(field), None, false) = (&written, &backend.tls, self.broken)
            && backend.demands.channel_binding == ChannelBinding::Require
            && problems.count() == before
        {
            problems.add(&field.place, NO_CHANNEL);
        }
        for (what, name) in [("user", &backend.user), ("database", &backend.database)] {
            if let (Some(field), Some(name)) = (&written, name)
                && !is_name(name)
            {
                let text = format!("the {what}'s name is longer than {NAME_MAX} bytes");
                problems.add(&field.place, text);
            }
        }
        if let (Some(field), None, Some(_)) = (written, &backend.user, &backend.password) {
            problems.add(
                &field.place,
                "a password without a user; write both, or neither",
            );
        }
    }

    /// As the pool that clients reach under `name`; `None`: under any name.
    pub(super) fn serving(mut self, name: Option<&str>, problems: &mut Problems) -> Draft {
        if !self.has_backend {
            problems.add_missing(
                &self.place,
                "nothing says where the server is; write dsn or backend, here or in pool",
            );
        }
        if !self.names_database {
            let inherited = self.pool.backend.database.take();
            self.pool.backend.database =
                name.map(|name| inherited.unwrap_or_else(|| name.to_owned()));
        }
        self
    }

    /// The database that `pool` itself points at. Where it is the only pool and names none, libpq's rule: the user's name.
    pub(super) fn own_database(
        mut self,
        alone: bool,
        problems: &mut Problems,
    ) -> Option<(String, Draft)> {
        if self.broken {
            return None;
        }
        if !self.has_backend {
            if alone {
                problems.add_missing(
                    &self.place,
                    "nothing says where the server is; write pool.dsn, pool.backend or databases",
                );
            }
            return None;
        }
        let backend = &mut self.pool.backend;
        if backend.database.is_none() && alone {
            backend.database = backend.user.clone();
        }
        let Some(name) = backend.database.clone() else {
            if alone {
                problems.add(
                    &self.place,
                    "no database is named; end the dsn with /DATABASE, or write databases",
                );
            }
            return None;
        };
        Some((name, self))
    }

    /// The pool, its sslmode written out: what the default is depends on who wrote the other keys. `asks`: what section `auth` says.
    pub(super) fn finished(self, asks: &Asks) -> PoolConfig {
        let mut pool = self.pool;
        pool.auth_query = self.asks.or(asks).finished();
        let mode = pool
            .backend
            .tls
            .as_ref()
            .map_or(Mode::Disable, |tls| tls.mode());
        pool.backend
            .tls_words
            .insert("sslmode", mode.as_str().to_owned());
        pool
    }

    /// As in PgBouncer, the password of a pool's user may stand among the users who may log in.
    pub(super) fn borrow_password(&mut self, users: &BTreeMap<String, Stored>) {
        let backend = &mut self.pool.backend;
        let known = backend.user.as_ref().and_then(|user| users.get(user));
        if let (None, Some(Stored::Plain(secret))) = (&backend.password, known)
            && !secret.expose().is_empty()
        {
            backend.password = Some(secret.clone());
        }
    }
}

fn empty_backend() -> Backend {
    let socket = dsn::host_port("", dsn::PORT).into_iter().collect();
    Backend {
        hosts: socket,
        tls: None,
        tls_words: TlsWords::new(),
        demands: Demands::default(),
        database: None,
        user: None,
        password: None,
        parameters: Vec::new(),
    }
}

/// `null` is none.
fn read_query(field: &Field<'_>, problems: &mut Problems) -> Option<String> {
    if field.is_null() {
        None
    } else {
        field.text(problems).map(str::to_owned)
    }
}

fn read_dsn(field: &Field<'_>, context: Context<'_>, problems: &mut Problems) -> Option<Dsn> {
    let text = field.secret(context.outside, problems)?;
    match dsn::parse(&text) {
        Ok(dsn) => {
            for warning in &dsn.warnings {
                problems.warn(&field.place, warning);
            }
            Some(dsn)
        }
        Err(error) => {
            problems.add(&field.place, error);
            None
        }
    }
}

fn overlay_backend_keys(
    backend: &mut Backend,
    section: &Section<'_>,
    context: Context<'_>,
    problems: &mut Problems,
) {
    overlay_hosts(backend, section, problems);
    if let Some(database) = section
        .get("database")
        .and_then(|field| field.name(problems))
    {
        backend.database = Some(database.to_owned());
    }
    if let Some(user) = section.get("user").and_then(|field| field.name(problems)) {
        // A password belongs to its user: it is not inherited by another one.
        if backend.user.as_deref() != Some(user) {
            backend.password = None;
        }
        backend.user = Some(user.to_owned());
    }
    if let Some(password) = read_password(section, context, problems) {
        backend.password = Some(password);
        if backend.user.is_none() {
            problems.add(
                &section.place,
                "a password without a user; write both, or neither",
            );
        }
    }
    for name in PARAMETERS {
        if let Some(value) = section.get(name).and_then(|field| field.text(problems)) {
            backend.parameters.retain(|(key, _)| key != name);
            // The empty text takes an inherited one away.
            if !value.is_empty() {
                backend.parameters.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    backend.parameters.sort();
}

fn overlay_demands(demands: &mut Demands, section: &Section<'_>, problems: &mut Problems) {
    if let Some(field) = section.get("channel_binding")
        && let Some(text) = field.text(problems)
    {
        let read = ChannelBinding::parse(text).map_err(|error| problems.add(&field.place, error));
        demands.channel_binding = read.unwrap_or_default();
    }
    if let Some(field) = section.get("require_auth")
        && let Some(text) = field.text(problems)
    {
        // The empty text takes an inherited one away.
        let written = Some(text).filter(|text| !text.is_empty());
        let read = written.map(RequireAuth::parse).transpose();
        demands.require_auth = read
            .map_err(|error| problems.add(&field.place, error))
            .unwrap_or_default();
    }
}

/// `password` or `password_file`.
pub(super) fn read_password(
    section: &Section<'_>,
    context: Context<'_>,
    problems: &mut Problems,
) -> Option<Secret> {
    let file = section.get("password_file");
    if let Some(field) = section.get("password") {
        if file.is_some() {
            problems.add(
                &field.place,
                "password and password_file exclude each other; keep one",
            );
        }
        return field.secret(context.outside, problems).map(Secret::new);
    }
    context.password_file(&file?, problems).map(Secret::new)
}

fn overlay_hosts(backend: &mut Backend, section: &Section<'_>, problems: &mut Problems) {
    let port = section
        .get("port")
        .and_then(|field| field.count(1..=65_535, problems));
    let port = port.and_then(|port| u16::try_from(port).ok());
    if let Some(field) = section.get("host") {
        let port = port.unwrap_or(dsn::PORT);
        let Some(texts) = field.names_list(problems) else {
            return;
        };
        if texts.is_empty() {
            problems.add(
                &field.place,
                "the list is empty; expected a host name, an address or a socket directory",
            );
        }
        let hosts = texts.iter().filter_map(|(text, place)| {
            read_host(text, port)
                .map_err(|error| problems.add(place, error))
                .ok()
        });
        backend.hosts = hosts.collect();
    } else if let Some(port) = port {
        for host in &mut backend.hosts {
            *host = at_port(host, port);
        }
    }
}

/// A host, perhaps with a port of its own: `db1`, `db1:5433`, `10.0.0.1`, `::1`, `[::1]:5433`, `/var/run/postgresql`.
fn read_host(text: &str, port: u16) -> Result<HostPort, String> {
    if text.starts_with(['/', '@']) || text.parse::<std::net::Ipv6Addr>().is_ok() {
        return dsn::host_port(text, port);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, own)) if !own.ends_with(']') => {
            let own = own.parse().ok().filter(|port| *port > 0);
            (
                host,
                own.ok_or("the port behind the host is not a number from 1 to 65535")?,
            )
        }
        _ => (text, port),
    };
    let inside = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    dsn::host_port(inside.unwrap_or(host), port)
}

fn at_port(host: &HostPort, port: u16) -> HostPort {
    match host {
        HostPort::Tcp(host, _) => HostPort::Tcp(host.clone(), port),
        HostPort::Unix(path) => HostPort::Unix(path.with_file_name(format!(".s.PGSQL.{port}"))),
    }
}
