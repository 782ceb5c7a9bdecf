//! Section `server`: its keys, their defaults, and what an address to listen on looks like. Opens no socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::super::yaml::{Field, Problems, Section};
use super::super::{DnsConfig, ServerConfig, SqlstateCompat, UnixSocket};
use super::{Context, peers, sockets, tls};

/// The keys.
pub(super) const KEYS: [&str; 34] = [
    "listen_addr",
    "listen_port",
    "unix_socket_dir",
    "unix_socket_mode",
    "unix_socket_group",
    "tls",
    "shutdown_timeout",
    "user",
    "max_client_connections",
    "max_unauthenticated_connections",
    "client_login_timeout",
    "cancel_wait_timeout",
    "autodb_idle_timeout",
    "login_notify_message",
    "application_name_add_host",
    "tcp_keepalive",
    "tcp_keepidle",
    "tcp_keepintvl",
    "tcp_keepcnt",
    "tcp_user_timeout",
    "tcp_socket_buffer",
    "listen_backlog",
    "tcp_defer_accept",
    "bulk_after",
    "log_level",
    "dns_max_ttl",
    "dns_nxdomain_ttl",
    "dns_query_timeout",
    "pidfile",
    "sqlstate_compat",
    "suspend_timeout",
    "peer_id",
    "so_reuseport",
    "stats_period",
];
/// Aether's port, the one PgBouncer made usual.
const PORT: u16 = 6432;
const CLIENTS_DEFAULT: u64 = 10_000;
const CLIENTS_MAX: u64 = 1_000_000;
/// Such an answer takes some 20 ms at the least; what may be added at its end is 2 ms.
const BULK_AFTER: usize = 4 << 20;
const BULK_AFTER_MAX: u64 = 1 << 40;
/// Longest name of a Unix socket (`sun_path`, less its zero byte).
pub(super) const SOCKET_NAME_MAX: usize = 107;
/// As PostgreSQL and PgBouncer have it: who may log in is decided by the rules.
const SOCKET_MODE: u32 = 0o777;
const LEVELS: [(&str, log::LevelFilter); 5] = [
    ("error", log::LevelFilter::Error),
    ("warn", log::LevelFilter::Warn),
    ("info", log::LevelFilter::Info),
    ("debug", log::LevelFilter::Debug),
    ("trace", log::LevelFilter::Trace),
];

const COMPAT: [(&str, SqlstateCompat); 2] = [
    ("postgres", SqlstateCompat::Postgres),
    ("pgbouncer", SqlstateCompat::PgBouncer),
];

pub(super) fn read(
    section: &Section<'_>,
    context: Context<'_>,
    problems: &mut Problems,
) -> ServerConfig {
    let (tls_words, tls) = match section.get("tls") {
        Some(field) => tls::read_clients(
            &field.section(&tls::CLIENT_KEYS, problems),
            context,
            problems,
        ),
        None => Default::default(),
    };
    let mut duration = |key, default| {
        section
            .get(key)
            .and_then(|field| field.duration(problems))
            .unwrap_or(Duration::from_secs(default))
    };
    let shutdown_timeout = duration("shutdown_timeout", 30);
    let suspend_timeout = duration("suspend_timeout", 10);
    let client_login_timeout = duration("client_login_timeout", 60);
    let dns = DnsConfig {
        max_ttl: duration("dns_max_ttl", 15),
        nxdomain_ttl: duration("dns_nxdomain_ttl", 15),
        query_timeout: duration("dns_query_timeout", 10),
    };
    let cancel_wait_timeout = duration("cancel_wait_timeout", 10);
    let stats_period = duration("stats_period", 60);
    let autodb_idle_timeout = duration("autodb_idle_timeout", 3_600);
    if client_login_timeout.is_zero()
        && let Some(field) = section.get("client_login_timeout")
    {
        let text = "off: connections that never log in stay for ever";
        problems.warn(&field.place, text);
    }
    if stats_period.is_zero()
        && let Some(field) = section.get("stats_period")
    {
        problems.add(&field.place, "0 is no period");
    }
    let clients = section
        .get("max_client_connections")
        .and_then(|field| field.count(1..=CLIENTS_MAX, problems));
    let own_port = section
        .get("listen_port")
        .and_then(|field| field.count(1..=65_535, problems))
        .and_then(|port| u16::try_from(port).ok());
    let listen = read_listen(section, own_port.unwrap_or(PORT), problems);
    let clients = usize::try_from(clients.unwrap_or(CLIENTS_DEFAULT)).unwrap_or(usize::MAX);
    let unauthenticated = section
        .get("max_unauthenticated_connections")
        .and_then(|field| field.count(1..=CLIENTS_MAX, problems))
        .and_then(|count| usize::try_from(count).ok());
    let peer_id = section
        .get("peer_id")
        .and_then(|field| field.count(0..=peers::ID_MAX, problems))
        .and_then(|id| u16::try_from(id).ok())
        .unwrap_or(0);
    ServerConfig {
        unix_socket: read_unix_socket(section, own_port, &listen, problems),
        listen,
        tls,
        tls_words,
        shutdown_timeout,
        user: section
            .get("user")
            .and_then(|field| field.name(problems))
            .map(str::to_owned),
        max_client_connections: clients,
        max_unauthenticated_connections: unauthenticated.unwrap_or(clients.div_ceil(4).max(64)),
        client_login_timeout,
        cancel_wait_timeout,
        autodb_idle_timeout,
        stats_period,
        login_notify_message: section
            .get("login_notify_message")
            .and_then(|field| field.text(problems))
            .unwrap_or_default()
            .to_owned(),
        application_name_add_host: section
            .get("application_name_add_host")
            .and_then(|field| field.flag(problems))
            .unwrap_or(false),
        sockets: sockets::read(section, problems),
        bulk_after: section
            .get("bulk_after")
            .and_then(|field| field.count(0..=BULK_AFTER_MAX, problems))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(BULK_AFTER),
        log_level: section
            .get("log_level")
            .and_then(|field| field.word(&LEVELS, problems))
            .unwrap_or(log::LevelFilter::Info),
        dns,
        pidfile: section
            .get("pidfile")
            .and_then(|field| field.name(problems))
            .map(|name| context.directory.join(name)),
        suspend_timeout,
        sqlstate_compat: section
            .get("sqlstate_compat")
            .and_then(|field| field.word(&COMPAT, problems))
            .unwrap_or(SqlstateCompat::Postgres),
        peer_id,
        so_reuseport: section
            .get("so_reuseport")
            .and_then(|field| field.flag(problems))
            .unwrap_or(false),
    }
}

fn read_unix_socket(
    section: &Section<'_>,
    own_port: Option<u16>,
    listen: &[SocketAddr],
    problems: &mut Problems,
) -> Option<UnixSocket> {
    let Some(field) = section.get("unix_socket_dir") else {
        for key in ["unix_socket_mode", "unix_socket_group"] {
            if let Some(field) = section.get(key) {
                problems.add(
                    &field.place,
                    "there is no Unix socket: unix_socket_dir is not given",
                );
            }
        }
        return None;
    };
    let directory = field.name(problems)?.trim_end_matches('/');
    if directory.is_empty() || directory == "@" || !directory.starts_with(['/', '@']) {
        problems.add(
            &field.place,
            "expected an absolute directory, as /run/aether, or @NAME for an abstract name",
        );
        return None;
    }
    let is_abstract = directory.starts_with('@');
    let mode = section.get("unix_socket_mode").and_then(|field| {
        let text = field.text(problems)?;
        let octal = text.len() <= 4 && text.starts_with('0');
        let mode = u32::from_str_radix(text, 8).ok().filter(|_| octal);
        if mode.is_none() {
            problems.add(
                &field.place,
                "expected three octal digits behind a 0, as \"0770\"",
            );
        }
        mode
    });
    let group = section
        .get("unix_socket_group")
        .and_then(|field| field.name(problems));
    for key in ["unix_socket_mode", "unix_socket_group"] {
        if let Some(field) = section.get(key)
            && is_abstract
        {
            problems.add(
                &field.place,
                "an abstract name has no file, hence no mode and no group: everybody on this machine can connect",
            );
        }
    }
    let socket = UnixSocket {
        directory: directory.to_owned(),
        port: own_port.unwrap_or(listen.first().map_or(PORT, SocketAddr::port)),
        mode: mode.unwrap_or(SOCKET_MODE),
        group: group.map(str::to_owned),
    };
    if socket.path().len() > SOCKET_NAME_MAX {
        let text = format!(
            "Unix-domain socket path \"{}\" is too long (maximum {SOCKET_NAME_MAX} bytes)",
            socket.path()
        );
        problems.add(&field.place, text);
    }
    Some(socket)
}

/// `port`: that of addresses which have none of their own.
fn read_listen(section: &Section<'_>, port: u16, problems: &mut Problems) -> Vec<SocketAddr> {
    let default = vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)];
    let Some(field) = section.get("listen_addr") else {
        return default;
    };
    let none = section.get("unix_socket_dir").is_none();
    read_addresses(&field, port, none, problems).unwrap_or(default)
}

/// Addresses to listen on, at this port where they say nothing else; at least one where it is `needed`. `None`: it is no
/// list of texts.
pub(super) fn read_addresses(
    field: &Field<'_>,
    port: u16,
    needed: bool,
    problems: &mut Problems,
) -> Option<Vec<SocketAddr>> {
    let texts = field.names_list(problems)?;
    let mut all = Vec::new();
    for (text, place) in &texts {
        match addresses(text, port) {
            Ok(addresses) => all.extend(addresses),
            Err(error) => problems.add(place, error),
        }
    }
    if texts.is_empty() && needed {
        problems.add(
            &field.place,
            format!("nowhere to listen on: the list is empty; expected an address, like 127.0.0.1:{port}"),
        );
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|address| seen.insert(*address));
    for part in all.iter().filter(|at| !at.ip().is_unspecified()) {
        let same = |at: &&SocketAddr| {
            at.ip().is_unspecified() && at.port() == part.port() && at.is_ipv4() == part.is_ipv4()
        };
        if let Some(whole) = all.iter().find(same) {
            problems.add(
                &field.place,
                format!("{part} is part of {whole}; keep one of the two"),
            );
        }
    }
    Some(all)
}

/// What `HOST:PORT` stands for. `*` and no host at all: every address, of both families; `localhost`: both loopbacks.
fn addresses(text: &str, default_port: u16) -> Result<Vec<SocketAddr>, String> {
    let shown = if text.contains("://") {
        "a text".to_owned() // a connection string, with its password
    } else {
        format!("{text:?}")
    };
    let wrong = || {
        format!(
            "found {shown}, expected an address and a port: 0.0.0.0:{default_port}, [::1]:{default_port}, \
             localhost:{default_port}, *:{default_port}"
        )
    };
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, default_port)]);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse::<u16>().map_err(|_| wrong())?)
        }
        _ => (text, default_port),
    };
    let inside = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let ips: Vec<IpAddr> = match (host, inside) {
        ("" | "*", _) => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        ("localhost", _) => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        (_, Some(v6)) => vec![v6.parse::<Ipv6Addr>().map_err(|_| wrong())?.into()],
        (v4, None) => vec![v4.parse::<Ipv4Addr>().map_err(|_| wrong())?.into()],
    };
    Ok(ips
        .into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        addresses(text, PORT)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn addresses_may_leave_out_host_or_port() {
        assert_eq!(shown("0.0.0.0:6432"), ["0.0.0.0:6432"]);
        assert_eq!(shown("10.0.0.1"), ["10.0.0.1:6432"]);
        assert_eq!(shown(":7000"), ["0.0.0.0:7000", "[::]:7000"]);
        assert_eq!(shown("*:7000"), ["0.0.0.0:7000", "[::]:7000"]);
        assert_eq!(shown("*"), ["0.0.0.0:6432", "[::]:6432"]);
        assert_eq!(shown("localhost:1"), ["127.0.0.1:1", "[::1]:1"]);
        assert_eq!(shown("[::1]:7"), ["[::1]:7"]);
        assert_eq!(shown("[::1]"), ["[::1]:6432"]);
        assert_eq!(shown("::1"), ["[::1]:6432"]);
    }

    #[test]
    fn names_and_nonsense_are_no_addresses() {
        for text in [
            "example.com:6432",
            "1.2.3.4:x",
            "1.2.3.4:65536",
            "[::1]:",
            "[::1",
            "1.2.3:1",
            ":",
            "1.2.3.4:",
        ] {
            assert!(
                addresses(text, PORT)
                    .unwrap_err()
                    .contains("expected an address"),
                "{text}"
            );
        }
    }
}
