//! The configuration in force, written as `aether.yaml`: every default filled in, every inheritance resolved, every secret
//! masked. Reads nothing back; a test does.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::hba::Method;
use super::units::show_duration;
use super::{
    AdminConfig, AuthConfig, AuthQuery, Backend, Config, HostPort, LogConfig, MetricsConfig,
    PoolConfig, RequireAuth, ServerConfig, Sizes, TlsWords, UserConfig,
};

/// Stands for every secret.
const MASK: &str = "\"****\"";

/// The effective configuration as YAML, for `aether --check`.
pub fn effective(config: &Config) -> String {
    let mut page = Page::default();
    write_server(&config.server, &mut page);
    let none = config.databases.is_empty() && config.fallback.is_none();
    page.line(0, "databases", if none { "{}" } else { "" });
    for (name, pool) in &config.databases {
        write_pool(&quoted(name), pool, &mut page);
    }
    if let Some(pool) = &config.fallback {
        write_pool(&quoted("*"), pool, &mut page);
    }
    write_users(config, &mut page);
    write_peers(config, &mut page);
    write_auth(&config.auth, &mut page);
    write_admin(&config.admin, &mut page);
    write_metrics(&config.metrics, &mut page);
    write_log(&config.log, &mut page);
    page.0
}

/// The same by key, as `SHOW CONFIG` tells it: `section.key` and its value, without the quotes of YAML. What is said of single
/// databases and users is left out; `pool.` is what holds for databases that say nothing of their own.
pub fn settings(config: &Config) -> Vec<(String, String)> {
    let mut page = Page::default();
    write_server(&config.server, &mut page);
    page.line(0, "databases", "");
    write_pool("pool", &config.pool, &mut page);
    write_auth(&config.auth, &mut page);
    write_admin(&config.admin, &mut page);
    let keys = flat(&page.0).into_iter();
    let keys = keys.map(|(path, value)| {
        let path = path
            .strip_prefix("databases.")
            .map_or(path.clone(), str::to_owned);
        (path, value)
    });
    let of_a_user = |path: &str| path.starts_with("auth.users.") || path.starts_with("auth.roles.");
    keys.filter(|(path, _)| !of_a_user(path) && path.contains('.'))
        .collect()
}

/// All keys with their values, secrets masked: those of databases and users too.
pub fn keys(config: &Config) -> Vec<(String, String)> {
    flat(&effective(config))
}

fn flat(page: &str) -> Vec<(String, String)> {
    let mut path: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for line in page.lines() {
        let text = line.trim_start();
        // Behind a name in quotes, in which there may be colons.
        let from = match text.strip_prefix('"').and_then(|rest| rest.find("\":")) {
            Some(end) => end + 2,
            None => text.find(':').unwrap_or(text.len()),
        };
        let (key, value) = text.split_at(from);
        path.truncate((line.len() - text.len()) / 2);
        path.push(plain(key));
        let value = value.trim_start_matches(':').trim_start();
        if !value.is_empty() {
            found.push((path.join("."), plain(value)));
        }
    }
    found
}

/// A value as people write it where no YAML is.
fn plain(value: &str) -> String {
    let inner = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let inner = inner.filter(|inner| !inner.contains(['"', '\\']));
    let list = |value: &str| {
        let inner = value.strip_prefix('[')?.strip_suffix(']')?;
        let items: Vec<String> = inner.split(", ").map(plain).collect();
        Some(items.join(", "))
    };
    match inner {
        Some(inner) => inner.to_owned(),
        None if value == "null" => String::new(),
        None => list(value).unwrap_or_else(|| value.to_owned()),
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, depth: usize, key: &str, value: &str) {
        let blank = if value.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.0,
            "{:indent$}{key}:{blank}{value}",
            "",
            indent = depth * 2
        );
    }
}

fn write_server(server: &ServerConfig, page: &mut Page) {
    page.line(0, "server", "");
    page.line(
        1,
        "listen_addr",
        &list(server.listen.iter().map(ToString::to_string)),
    );
    if !server.tls_words.is_empty() {
        page.line(1, "tls", "");
        write_words(2, &server.tls_words, page);
    }
    if let Some(socket) = &server.unix_socket {
        page.line(1, "listen_port", &socket.port.to_string());
    }
    page.line(
        1,
        "unix_socket_dir",
        &optional(
            server
                .unix_socket
                .as_ref()
                .map(|socket| socket.directory.as_str()),
        ),
    );
    if let Some(socket) = &server.unix_socket
        && !socket.directory.starts_with('@')
    {
        page.line(1, "unix_socket_mode", &format!("\"0{:03o}\"", socket.mode));
        page.line(1, "unix_socket_group", &optional(socket.group.as_deref()));
    }
    page.line(
        1,
        "shutdown_timeout",
        &show_duration(server.shutdown_timeout),
    );
    page.line(1, "user", &optional(server.user.as_deref()));
    page.line(
        1,
        "max_client_connections",
        &server.max_client_connections.to_string(),
    );
    page.line(
        1,
        "max_unauthenticated_connections",
        &server.max_unauthenticated_connections.to_string(),
    );
    page.line(
        1,
        "client_login_timeout",
        &show_duration(server.client_login_timeout),
    );
    page.line(
        1,
        "cancel_wait_timeout",
        &show_duration(server.cancel_wait_timeout),
    );
    let sockets = &server.sockets;
    for (key, value) in [
        (
            "autodb_idle_timeout",
            show_duration(server.autodb_idle_timeout),
        ),
        ("stats_period", show_duration(server.stats_period)),
        ("login_notify_message", quoted(&server.login_notify_message)),
        (
            "application_name_add_host",
            server.application_name_add_host.to_string(),
        ),
        ("tcp_keepalive", sockets.tcp_keepalive.to_string()),
        ("tcp_keepidle", show_duration(sockets.tcp_keepidle)),
        ("tcp_keepintvl", show_duration(sockets.tcp_keepintvl)),
        ("tcp_keepcnt", sockets.tcp_keepcnt.to_string()),
        ("tcp_user_timeout", show_duration(sockets.tcp_user_timeout)),
        ("tcp_socket_buffer", sockets.tcp_socket_buffer.to_string()),
        ("listen_backlog", sockets.listen_backlog.to_string()),
        ("tcp_defer_accept", sockets.tcp_defer_accept.to_string()),
        ("bulk_after", server.bulk_after.to_string()),
    ] {
        page.line(1, key, &value);
    }
    page.line(
        1,
        "log_level",
        &server.log_level.as_str().to_ascii_lowercase(),
    );
    let dns = &server.dns;
    page.line(1, "dns_max_ttl", &show_duration(dns.max_ttl));
    page.line(1, "dns_nxdomain_ttl", &show_duration(dns.nxdomain_ttl));
    page.line(1, "dns_query_timeout", &show_duration(dns.query_timeout));
    let pidfile = server
        .pidfile
        .as_ref()
        .map(|path| path.display().to_string());
    page.line(1, "pidfile", &optional(pidfile.as_deref()));
    page.line(1, "suspend_timeout", &show_duration(server.suspend_timeout));
    page.line(1, "sqlstate_compat", server.sqlstate_compat.as_str());
    page.line(1, "peer_id", &server.peer_id.to_string());
    page.line(1, "so_reuseport", &server.so_reuseport.to_string());
}

fn write_pool(name: &str, pool: &PoolConfig, page: &mut Page) {
    page.line(1, name, "");
    write_backend(&pool.backend, page);
    page.line(2, "mode", pool.mode.as_str());
    page.line(2, "server_assignment", pool.server_assignment.as_str());
    page.line(
        2,
        "max_prepared_statements",
        &pool.max_prepared_statements.to_string(),
    );
    page.line(
        2,
        "track_extra_parameters",
        &list(pool.track_extra_parameters.iter().cloned()),
    );
    page.line(
        2,
        "transaction_reset",
        if pool.transaction_reset {
            "true"
        } else {
            "false"
        },
    );
    page.line(2, "max_connections", &pool.max_connections.to_string());
    page.line(
        2,
        "max_connections_per_user",
        &pool.max_connections_per_user.to_string(),
    );
    page.line(
        2,
        "max_client_connections",
        &pool.max_client_connections.to_string(),
    );
    page.line(
        2,
        "min_idle_connections",
        &pool.min_idle_connections.to_string(),
    );
    page.line(
        2,
        "max_scram_iterations",
        &pool.max_scram_iterations.to_string(),
    );
    write_sizes(&pool.sizes, page);
    page.line(2, "max_idle_time", &show_duration(pool.max_idle_time));
    page.line(2, "max_lifetime", &show_duration(pool.max_lifetime));
    page.line(2, "acquire_timeout", &show_duration(pool.acquire_timeout));
    page.line(2, "connect_timeout", &show_duration(pool.connect_timeout));
    page.line(2, "check_delay", &show_duration(pool.check_delay));
    page.line(2, "check_query", &optional(pool.check_query.as_deref()));
    page.line(2, "check_timeout", &show_duration(pool.check_timeout));
    page.line(2, "reset_query", &optional(pool.reset_query.as_deref()));
    page.line(2, "reset_timeout", &show_duration(pool.reset_timeout));
    page.line(
        2,
        "client_idle_timeout",
        &show_duration(pool.client_idle_timeout),
    );
    page.line(
        2,
        "abandoned_query_timeout",
        &show_duration(pool.abandoned_query_timeout),
    );
    let sessions = &pool.sessions;
    for (key, value) in [
        (
            "ignore_startup_parameters",
            list(sessions.ignore_startup_parameters.iter().cloned()),
        ),
        ("connect_query", quoted(&sessions.connect_query)),
        ("disable_pqexec", sessions.disable_pqexec.to_string()),
        ("max_packet_size", sessions.max_packet_size.to_string()),
    ] {
        page.line(2, key, &value);
    }
    for (key, time) in { pool.timeouts }.by_key() {
        page.line(2, key, &show_duration(*time));
    }
    write_asks(2, pool.auth_query.as_deref(), page);
}

fn write_sizes(sizes: &Sizes, page: &mut Page) {
    let Sizes {
        min_pool_size,
        reserve_pool_size,
        reserve_pool_timeout,
        max_connecting,
        server_round_robin,
        server_fast_fail,
        single_use,
        server_fast_close,
        load_balance_hosts,
    } = sizes;
    for (key, value) in [
        ("min_pool_size", min_pool_size.to_string()),
        ("reserve_pool_size", reserve_pool_size.to_string()),
        ("reserve_pool_timeout", show_duration(*reserve_pool_timeout)),
        ("max_connecting", max_connecting.to_string()),
        ("server_round_robin", server_round_robin.to_string()),
        ("server_fast_fail", server_fast_fail.to_string()),
        ("single_use", single_use.to_string()),
        ("server_fast_close", server_fast_close.to_string()),
        ("load_balance_hosts", load_balance_hosts.as_str().to_owned()),
    ] {
        page.line(2, key, &value);
    }
}

/// A database that says nothing of its own would have what section `auth` says.
fn write_asks(depth: usize, asks: Option<&AuthQuery>, page: &mut Page) {
    let Some(asks) = asks else {
        return page.line(depth, "auth_user", "\"\"");
    };
    let user = match asks.password {
        Some(_) => format!("{{name: {}, password: {MASK}}}", quoted(&asks.user)),
        None => quoted(&asks.user),
    };
    page.line(depth, "auth_user", &user);
    page.line(depth, "auth_query", &quoted(&asks.sql));
    let database = asks.database.as_deref().unwrap_or_default();
    page.line(depth, "auth_dbname", &quoted(database));
}

fn write_backend(backend: &Backend, page: &mut Page) {
    page.line(2, "backend", "");
    page.line(
        3,
        "host",
        &list(backend.hosts.iter().map(ToString::to_string)),
    );
    page.line(3, "database", &optional(backend.database.as_deref()));
    page.line(3, "user", &optional(backend.user.as_deref()));
    page.line(
        3,
        "password",
        backend.password.as_ref().map_or("null", |_| MASK),
    );
    for (name, value) in &backend.parameters {
        page.line(3, name, &quoted(value));
    }
    write_words(3, &backend.tls_words, page);
    let demands = &backend.demands;
    page.line(3, "channel_binding", demands.channel_binding.as_str());
    let require_auth = demands.require_auth.as_ref().map(RequireAuth::as_str);
    page.line(3, "require_auth", &optional(require_auth));
}

fn write_words(depth: usize, words: &TlsWords, page: &mut Page) {
    for (key, text) in words {
        match (*key, text.as_str()) {
            ("sslsni", "0" | "false") => page.line(depth, key, "false"),
            ("sslsni", _) => page.line(depth, key, "true"),
            _ => page.line(depth, key, &quoted(text)),
        }
    }
}

fn write_users(config: &Config, page: &mut Page) {
    let defaults = (config.user_defaults != UserConfig::default())
        .then(|| ("*".to_owned(), config.user_defaults));
    if config.users.is_empty() && defaults.is_none() {
        return page.line(0, "users", "null");
    }
    page.line(0, "users", "");
    let users = config.users.iter();
    for (name, user) in defaults
        .iter()
        .map(|(name, user)| (name, user))
        .chain(users)
    {
        let UserConfig {
            mode,
            max_connections,
            max_client_connections,
            pool_size,
            reserve_pool_size,
            timeouts,
        } = user;
        page.line(1, &quoted(name), "");
        page.line(2, "mode", mode.map_or("null", |mode| mode.as_str()));
        page.line(2, "max_connections", &max_connections.to_string());
        page.line(
            2,
            "max_client_connections",
            &max_client_connections.to_string(),
        );
        for (key, size) in [
            ("pool_size", pool_size),
            ("reserve_pool_size", reserve_pool_size),
        ] {
            page.line(
                2,
                key,
                &size.map_or("null".to_owned(), |size| size.to_string()),
            );
        }
        for (key, time) in { *timeouts }.by_key() {
            let text = time.map_or("null".to_owned(), show_duration);
            page.line(2, key, &text);
        }
    }
}

fn write_peers(config: &Config, page: &mut Page) {
    if config.peers.is_empty() {
        return page.line(0, "peers", "null");
    }
    page.line(0, "peers", "");
    for (id, peer) in &config.peers {
        page.line(1, &id.to_string(), "");
        let (host, port) = match &peer.host {
            HostPort::Tcp(name, port) => (name.clone(), port.to_string()),
            HostPort::Unix(path) => {
                // As it was put together: a directory and the port in the file's name.
                let path = path.display().to_string();
                let (directory, port) = path.rsplit_once("/.s.PGSQL.").unwrap_or((&path, ""));
                (directory.to_owned(), port.to_owned())
            }
        };
        page.line(2, "host", &quoted(&host));
        page.line(2, "port", &port);
        page.line(2, "pool_size", &peer.pool_size.to_string());
    }
}

fn write_auth(auth: &AuthConfig, page: &mut Page) {
    page.line(0, "auth", "");
    let rules = &auth.rules;
    page.line(1, "type", rules.single().map_or("hba", Method::as_str));
    if let Some(file) = &rules.file {
        page.line(1, "hba_file", &quoted(file));
        page.line(1, "ident_file", &optional(rules.maps.file.as_deref()));
    }
    if let Some(roles) = &rules.roles.0 {
        let empty = if roles.is_empty() { "{}" } else { "" };
        page.line(1, "roles", empty);
        for (role, members) in roles {
            page.line(2, &quoted(role), &list(members.iter().cloned()));
        }
    }
    page.line(1, "failure_delay", &show_duration(auth.failure_delay));
    page.line(1, "failure_limit", &auth.failure_limit.to_string());
    page.line(1, "scram_iterations", &auth.scram_iterations.to_string());
    page.line(
        1,
        "mock_secret",
        auth.mock_secret.as_ref().map_or("null", |_| MASK),
    );
    write_asks(1, auth.query.as_deref(), page);
    page.line(1, "auth_query_cache", &show_duration(auth.query_cache));
    page.line(1, "allow_insecure", &auth.allow_insecure.to_string());
    if auth.anyone {
        return page.line(1, "users", "null");
    }
    page.line(1, "users", if auth.users.is_empty() { "{}" } else { "" });
    for name in auth.users.keys() {
        page.line(2, &quoted(name), MASK);
    }
}

fn write_admin(admin: &AdminConfig, page: &mut Page) {
    page.line(0, "admin", "");
    page.line(1, "users", &list(admin.users.iter().cloned()));
    page.line(1, "stats_users", &list(admin.stats_users.iter().cloned()));
}

fn write_metrics(metrics: &MetricsConfig, page: &mut Page) {
    page.line(0, "metrics", "");
    let listen = list(metrics.listen.iter().map(ToString::to_string));
    let listen = if metrics.listen.is_empty() {
        "null"
    } else {
        &listen
    };
    page.line(1, "listen_addr", listen);
    page.line(1, "unix_socket", &optional(metrics.unix_socket.as_deref()));
    if !metrics.tls_words.is_empty() {
        page.line(1, "tls", "");
        let mut words = metrics.tls_words.clone();
        if metrics.tls.is_some() {
            words.entry("mode").and_modify(|mode| {
                if mode == "prefer" {
                    "require".clone_into(mode);
                }
            });
        }
        write_words(2, &words, page);
    }
    let token = metrics.bearer_token.as_ref();
    page.line(1, "bearer_token", token.map_or("null", |_| MASK));
    if let Some(otlp) = &metrics.otlp {
        page.line(1, "otlp_endpoint", &quoted(&otlp.url()));
        if otlp.ca_file.is_some() {
            page.line(1, "otlp_ca_file", &optional(otlp.ca_file.as_deref()));
        }
        page.line(1, "otlp_interval", &show_duration(otlp.interval));
        if !otlp.headers.is_empty() {
            page.line(1, "otlp_headers", "");
            for (name, _) in &otlp.headers {
                page.line(2, &quoted(name), MASK);
            }
        }
        page.line(1, "otlp_resource", "");
        for (name, value) in &otlp.resource {
            page.line(2, &quoted(name), &quoted(value));
        }
    }
    page.line(
        1,
        "query_fingerprints",
        &metrics.query_fingerprints.to_string(),
    );
    let required = metrics.required_databases.as_ref();
    page.line(
        1,
        "required_databases",
        &required.map_or("null".to_owned(), |names| list(names.iter().cloned())),
    );
}

fn write_log(log: &LogConfig, page: &mut Page) {
    let path = |path: &PathBuf| quoted(&path.display().to_string());
    page.line(0, "log", "");
    page.line(1, "format", log.format.as_str());
    page.line(1, "stderr", &log.stderr.to_string());
    let file = log.file.as_ref().map(path);
    page.line(1, "file", file.as_deref().unwrap_or("null"));
    page.line(1, "syslog", &log.syslog.is_some().to_string());
    if let Some(syslog) = &log.syslog {
        page.line(1, "syslog_ident", &quoted(&syslog.ident));
        page.line(1, "syslog_facility", syslog.facility.as_str());
    }
    page.line(1, "repeat_limit", &log.repeat_limit.to_string());
    page.line(1, "long_wait", &show_duration(log.long_wait));
    page.line(1, "log_connections", &log.log_connections.to_string());
    page.line(1, "log_disconnections", &log.log_disconnections.to_string());
    page.line(1, "log_pooler_errors", &log.log_pooler_errors.to_string());
    page.line(1, "log_stats", &log.log_stats.to_string());
    let slow = &log.slow;
    page.line(1, "slow_query_threshold", &show_duration(slow.query));
    let transaction = show_duration(slow.transaction);
    page.line(1, "slow_transaction_threshold", &transaction);
    let share = f64::from(slow.sample) / 1e6;
    page.line(1, "slow_sample_rate", &share.to_string());
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| quoted(&item)).collect();
    format!("[{}]", items.join(", "))
}

fn optional(text: Option<&str>) -> String {
    text.map_or_else(|| "null".to_owned(), quoted)
}

/// A YAML text in double quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            // Also what YAML takes for a line end or does not print.
            c if c.is_control() || "\u{2028}\u{2029}\u{feff}\u{fffe}\u{ffff}".contains(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
