//! The rows of every SHOW: PgBouncer's columns first, in its order and types, Aether's own at the end.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::command::{Command, SHOW};
use crate::arena::{PoolKey, Tick};
use crate::config::{HostPort, UserConfig};
use crate::engine::{Client, ClientState, Engine, Facts, Server, ServerState, Session};
use crate::pool::Pool;
use crate::stats::{Counters, mean, per_second};
use crate::tls::{DAY, Lifetime, Mode};
use crate::wire::backend::{self, ColumnType, INT4, INT8, NUMERIC, TEXT, TransactionStatus};
use crate::wire::frame::printable;
use crate::wire::refusal;

type Columns = &'static [(&'static str, ColumnType)];
type Row = Vec<Option<String>>;

const POOLS: Columns = &[
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
];

const SOCKETS: Columns = &[
    ("type", TEXT),
    ("user", TEXT),
    ("database", TEXT),
    ("replication", TEXT),
    ("state", TEXT),
    ("addr", TEXT),
    ("port", INT4),
    ("local_addr", TEXT),
    ("local_port", INT4),
    ("connect_time", TEXT),
    ("request_time", TEXT),
    ("wait", INT4),
    ("wait_us", INT4),
    ("close_needed", INT4),
    ("ptr", TEXT),
    ("link", TEXT),
    ("remote_pid", INT4),
    ("tls", TEXT),
    ("application_name", TEXT),
    ("prepared_statements", INT4),
    ("id", INT4),
];

const CLIENTS_OWN: Columns = &[("pool_mode", TEXT)];

const DATABASES: Columns = &[
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

const USERS: Columns = &[
    ("name", TEXT),
    ("pool_size", TEXT),
    ("reserve_pool_size", TEXT),
    ("pool_mode", TEXT),
    ("max_user_connections", INT4),
    ("current_connections", INT4),
    ("max_user_client_connections", INT4),
    ("current_client_connections", INT4),
];

const SERVERS_OWN: Columns = &[
    ("transaction", TEXT),
    ("dirty", TEXT),
    ("last_used", TEXT),
    ("sessions", INT8),
    ("age_s", INT8),
    ("startup_set", TEXT),
];

const CERTIFICATES: Columns = &[
    ("side", TEXT),
    ("database", TEXT),
    ("mode", TEXT),
    ("subject", TEXT),
    ("issuer", TEXT),
    ("not_after", TEXT),
    ("days_left", INT8),
];

const STATS: Columns = &[
    ("database", TEXT),
    ("total_server_assignment_count", NUMERIC),
    ("total_xact_count", NUMERIC),
    ("total_query_count", NUMERIC),
    ("total_received", NUMERIC),
    ("total_sent", NUMERIC),
    ("total_xact_time", NUMERIC),
    ("total_query_time", NUMERIC),
    ("total_wait_time", NUMERIC),
    ("total_client_parse_count", NUMERIC),
    ("total_server_parse_count", NUMERIC),
    ("total_bind_count", NUMERIC),
    ("total_client_login_count", NUMERIC),
    ("avg_server_assignment_count", NUMERIC),
    ("avg_xact_count", NUMERIC),
    ("avg_query_count", NUMERIC),
    ("avg_recv", NUMERIC),
    ("avg_sent", NUMERIC),
    ("avg_xact_time", NUMERIC),
    ("avg_query_time", NUMERIC),
    ("avg_wait_time", NUMERIC),
    ("avg_client_parse_count", NUMERIC),
    ("avg_server_parse_count", NUMERIC),
    ("avg_bind_count", NUMERIC),
    ("avg_client_login_count", NUMERIC),
    // Aether's own.
    ("total_server_connects", NUMERIC),
    ("total_resets", NUMERIC),
    ("total_checks", NUMERIC),
];

/// Appends rows from slot `from` on, the header before the first. `Some(slot)`: that is not all.
pub(super) fn rows(
    engine: &Engine,
    command: Command,
    from: u32,
    most: usize,
    out: &mut Vec<u8>,
) -> Option<u32> {
    match command {
        Command::Version => {
            header(&[&[("version", TEXT)]], from, out);
            row(
                &[text(&format!("Aether {}", env!("CARGO_PKG_VERSION")))],
                out,
            );
        }
        Command::Help => help(out),
        Command::Stats => {
            header(&[STATS], from, out);
            let pools = engine.pools().iter().filter(|(_, pool)| !pool.for_lookups);
            pools.for_each(|(_, pool)| row(&stats(pool), out));
        }
        Command::Tls => {
            header(&[CERTIFICATES], from, out);
            certificates(engine)
                .iter()
                .for_each(|values| row(values, out));
        }
        Command::Pools => {
            header(&[POOLS], from, out);
            pools(engine).iter().for_each(|values| row(values, out));
        }
        Command::Databases => {
            header(&[DATABASES], from, out);
            let pools = engine.pools().iter().filter(|(_, pool)| !pool.for_lookups);
            let mut rows: Vec<Row> = pools.map(|(_, pool)| database(pool)).collect();
            rows.sort();
            rows.iter().for_each(|values| row(values, out));
        }
        Command::Users => {
            header(&[USERS], from, out);
            users(engine).iter().for_each(|values| row(values, out));
        }
        Command::Clients => {
            header(&[SOCKETS, CLIENTS_OWN], from, out);
            return clients(engine, from, most, out);
        }
        Command::Servers => {
            header(&[SOCKETS, SERVERS_OWN], from, out);
            return servers(engine, from, most, out);
        }
    }
    None
}

fn header(parts: &[Columns], from: u32, out: &mut Vec<u8>) {
    if from == 0 {
        let columns: Vec<(&str, ColumnType)> =
            parts.iter().flat_map(|part| part.iter().copied()).collect();
        backend::write_row_description(out, columns.into_iter());
    }
}

fn row(values: &[Option<String>], out: &mut Vec<u8>) {
    backend::write_data_row(out, values.iter().map(Option::as_deref));
}

fn help(out: &mut Vec<u8>) {
    let commands: Vec<String> = SHOW
        .iter()
        .map(|(word, _)| format!("\tSHOW {word}"))
        .collect();
    refusal::notice(
        out,
        "Console usage",
        Some(&format!("\n{}", commands.join("\n"))),
    );
}

fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

fn number(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

fn stats(pool: &Pool) -> Row {
    let (total, period): (&Counters, &Counters) = (&pool.stats.total, pool.stats.last_period());
    let values = [
        total.assignments,
        total.transactions,
        total.queries,
        total.received,
        total.sent,
        total.transaction_us,
        total.query_us,
        total.wait_us,
        0, // statements are not followed in session pooling, as in PgBouncer
        0,
        0,
        total.logins,
        per_second(period.assignments),
        per_second(period.transactions),
        per_second(period.queries),
        per_second(period.received),
        per_second(period.sent),
        mean(period.transaction_us, period.transactions),
        mean(period.query_us, period.queries),
        mean(period.wait_us, period.assignments),
        0,
        0,
        0,
        per_second(period.logins),
        total.connects,
        total.resets,
        total.checks,
    ];
    [text(&pool.name)]
        .into_iter()
        .chain(values.into_iter().map(number))
        .collect()
}

/// What a row of SHOW POOLS counts.
#[derive(Default)]
struct Tally {
    clients: [usize; 3],
    servers: [usize; 6],
    sessions: u64,
    longest_wait_us: u64,
}

/// One row per database and server user, as in PgBouncer; a pool that nobody uses has one too.
fn pools(engine: &Engine) -> Vec<Row> {
    let mut tallies: BTreeMap<(PoolKey, String), Tally> = BTreeMap::new();
    for (key, pool) in engine.pools().iter() {
        let user = pool.config.backend.user.as_ref();
        if let Some(user) = user.filter(|_| !pool.for_lookups) {
            tallies.entry((key, user.clone())).or_default();
        }
    }
    for (_, client) in engine.clients().iter() {
        if let Some(key) = client.pool_and_server_user() {
            count_client(engine, client, tallies.entry(key).or_default());
        }
    }
    for (_, server) in engine.servers().iter() {
        let user = printable(&server.kind.user);
        let tally = tallies.entry((server.pool, user)).or_default();
        tally.sessions += server.sessions;
        let place = match server.state() {
            ServerState::Paired(_) | ServerState::Draining | ServerState::Looking(_) => 0,
            ServerState::Cancelling(_) => 1,
            ServerState::Held => 2,
            ServerState::Idle => 3,
            ServerState::Checking(_) | ServerState::Tuning(_) | ServerState::Resetting(_) => 4,
            ServerState::Resolving
            | ServerState::AskingTls
            | ServerState::Dialing
            | ServerState::LoggingIn(_) => 5,
        };
        if let Some(count) = tally.servers.get_mut(place) {
            *count += 1;
        }
    }
    tallies
        .iter()
        .filter_map(|((key, user), tally)| {
            let pool = engine.pools().get(*key)?;
            let mode = engine.pools().mode(&pool.config, user.as_bytes());
            Some(pool_row(pool, mode.as_str(), user, tally))
        })
        .collect()
}

fn count_client(engine: &Engine, client: &Client, tally: &mut Tally) {
    let [active, waiting, cancelling] = &mut tally.clients;
    match client.state() {
        ClientState::Paired(_) | ClientState::Departing(_) | ClientState::Idle => *active += 1,
        ClientState::AwaitingWelcome | ClientState::Queued => {
            *waiting += 1;
            tally.longest_wait_us = tally
                .longest_wait_us
                .max(engine.now().since(client.since()));
        }
        ClientState::Cancelling(_) => *cancelling += 1,
        _ => {}
    }
}

fn pool_row(pool: &Pool, mode: &str, user: &str, tally: &Tally) -> Row {
    let [cl_active, cl_waiting, cl_cancel] = tally.clients;
    let [active, cancel, held, idle, tested, login] = tally.servers;
    let counters = &pool.stats.total;
    vec![
        text(&pool.name),
        text(user),
        number(cl_active),
        number(cl_waiting),
        number(cl_cancel),
        number(0),
        number(active),
        number(cancel),
        number(held),
        number(idle),
        number(0),
        number(tested),
        number(login),
        number(tally.longest_wait_us / 1_000_000),
        number(tally.longest_wait_us % 1_000_000),
        text(mode),
        None,
        number(pool.config.max_connections),
        number(pool.total()),
        number(pool.sessions_ended + tally.sessions),
        number(mean(counters.idle_us, counters.idle_ends)),
        pool.last_error().map(|refusal| refusal.text()),
    ]
}

fn clients(engine: &Engine, from: u32, most: usize, out: &mut Vec<u8>) -> Option<u32> {
    let mut slot = from;
    for _ in 0..most {
        let (key, client) = engine.clients().at_or_after(slot)?;
        slot = key.index() + 1;
        if client.session.is_some()
            && (client.state().is_logged_in() || client.state().is_waiting())
        {
            row(&client_row(engine, client), out);
        }
    }
    Some(slot)
}

fn client_row(engine: &Engine, client: &Client) -> Row {
    let session = client.session.as_deref();
    let facts = client.link().facts();
    let waited = if client.state().is_waiting() {
        engine.now().since(client.since())
    } else {
        0
    };
    let server = client
        .state()
        .server()
        .and_then(|key| engine.servers().get(key));
    vec![
        text("C"),
        text(
            &session
                .map(|session| printable(session.claim.user.as_bytes()))
                .unwrap_or_default(),
        ),
        text(
            &session
                .map(|session| printable(session.claim.database.as_bytes()))
                .unwrap_or_default(),
        ),
        text("none"),
        text(client.state().name()),
        text(&facts.address),
        number(facts.port),
        text(&facts.local_address),
        number(facts.local_port),
        text(&time(engine, client.connected_at)),
        text(&time(engine, client.since())),
        number(waited / 1_000_000),
        number(waited % 1_000_000),
        number(0),
        text(&format!("c{}", client.id)),
        text(
            &server
                .map(|server| format!("s{}", server.id))
                .unwrap_or_default(),
        ),
        number(server.map_or(0, |server| server.pid)),
        text(&tls(&facts)),
        text(&session.map(Session::application_name).unwrap_or_default()),
        number(0),
        number(client.id),
        text(client.mode().as_str()),
    ]
}

fn database(pool: &Pool) -> Row {
    let config = &pool.config;
    let backend = &config.backend;
    let host = |host: &HostPort| match host {
        HostPort::Tcp(name, _) => name.clone(),
        HostPort::Unix(path) => path.display().to_string(),
    };
    let hosts: Vec<String> = backend.hosts.iter().map(host).collect();
    let port = backend.hosts.iter().find_map(|host| match host {
        HostPort::Tcp(_, port) => Some(*port),
        HostPort::Unix(_) => None,
    });
    // The limit of one user, which is that of the pool if there is none of its own.
    let size = match config.max_connections_per_user {
        0 => config.max_connections,
        max => max.min(config.max_connections),
    };
    vec![
        text(&pool.label()),
        text(&hosts.join(",")),
        port.and_then(number),
        text(backend.database.as_deref().unwrap_or(&pool.name)),
        backend.user.clone(),
        number(size),
        number(config.min_idle_connections),
        number(0),
        number(config.max_lifetime.as_secs()),
        text(config.mode.as_str()),
        None,
        number(config.max_connections),
        number(pool.total()),
        number(config.max_client_connections),
        number(pool.clients()),
        number(0),
        number(0),
    ]
}

/// Those who may log in, those of section `users`, and whoever else is there; sorted by name.
fn users(engine: &Engine) -> Vec<Row> {
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
    let row = |(name, (config, servers, clients)): (&[u8], (UserConfig, usize, usize))| {
        vec![
            text(&printable(name)),
            text(""),
            text(""),
            config.mode.map(|mode| mode.as_str().to_owned()),
            number(config.max_connections),
            number(servers),
            number(config.max_client_connections),
            number(clients),
        ]
    };
    users.into_iter().map(row).collect()
}

fn servers(engine: &Engine, from: u32, most: usize, out: &mut Vec<u8>) -> Option<u32> {
    let mut slot = from;
    for _ in 0..most {
        let (key, server) = engine.servers().at_or_after(slot)?;
        slot = key.index() + 1;
        row(&server_row(engine, server), out);
    }
    Some(slot)
}

fn server_row(engine: &Engine, server: &Server) -> Row {
    let facts = server
        .link()
        .map(crate::engine::Link::facts)
        .unwrap_or_default();
    let pool = engine.pools().get(server.pool);
    let client = server
        .state()
        .client()
        .and_then(|key| engine.clients().get(key));
    let transaction = match (server.state(), server.relay.status()) {
        (ServerState::Paired(_), TransactionStatus::InBlock) => "open",
        (ServerState::Paired(_), TransactionStatus::Failed) => "failed",
        _ => "",
    };
    let set: Vec<String> = server
        .kind
        .parameters
        .iter()
        .map(|(name, value)| format!("{}={}", printable(name), printable(value)))
        .collect();
    vec![
        text("S"),
        text(&printable(&server.kind.user)),
        text(&pool.map(|pool| pool.name.clone()).unwrap_or_default()),
        text(if server.kind.is_replication() {
            "logical"
        } else {
            "none"
        }),
        text(server.state().name()),
        text(&facts.address),
        number(facts.port),
        text(&facts.local_address),
        number(facts.local_port),
        text(&time(engine, server.created_at)),
        text(&time(engine, server.since())),
        number(0),
        number(0),
        number(u8::from(server.is_to_be_closed())),
        text(&format!("s{}", server.id)),
        text(
            &client
                .map(|client| format!("c{}", client.id))
                .unwrap_or_default(),
        ),
        number(server.pid),
        text(&tls(&facts)),
        text(
            &server
                .vars
                .get(b"application_name")
                .map(printable)
                .unwrap_or_default(),
        ),
        number(0),
        number(server.id),
        text(transaction),
        text(&server.relay.seen().describe()),
        text(&time(engine, server.since())),
        number(server.sessions),
        number(engine.now().since(server.created_at) / 1_000_000),
        text(&set.join(" ")),
    ]
}

/// What protects a connection, as PgBouncer writes it.
fn tls(facts: &Facts) -> String {
    facts.tls.as_ref().map_or_else(String::new, |tls| {
        format!("{}/{}/{}", tls.protocol, tls.cipher, tls.group)
    })
}

/// The certificates that the configuration names, each with its pool; those that several pools name are told once for each.
fn certificates(engine: &Engine) -> Vec<Row> {
    let config = engine.config();
    let mut rows = Vec::new();
    if let Some(tls) = &config.server.tls {
        rows.extend(
            tls.lifetimes()
                .iter()
                .map(|of| certificate("client", "", tls.mode(), of)),
        );
    }
    let pools = config
        .databases
        .iter()
        .map(|(name, pool)| (name.as_str(), pool));
    for (name, pool) in pools.chain(config.fallback.iter().map(|pool| ("*", pool))) {
        if let Some(tls) = &pool.backend.tls {
            rows.extend(
                tls.lifetimes()
                    .iter()
                    .map(|of| certificate("server", name, tls.mode(), of)),
            );
        }
    }
    rows
}

fn certificate(side: &str, database: &str, mode: Mode, of: &Lifetime) -> Row {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let left = of.not_after - i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    vec![
        text(side),
        text(database),
        text(mode.as_str()),
        text(&printable(of.subject.as_bytes())),
        text(&printable(of.issuer.as_bytes())),
        text(&utc(u64::try_from(of.not_after).unwrap_or(0))),
        number(left.div_euclid(DAY)),
    ]
}

/// A moment of the engine's clock as wall-clock time in UTC.
fn time(engine: &Engine, at: Tick) -> String {
    let ago = Duration::from_micros(engine.now().since(at));
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    utc(now.saturating_sub(ago).as_secs())
}

/// Seconds since 1970 as wall-clock time in UTC.
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Days since 1970-01-01 as a date (proleptic Gregorian calendar; Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_781), (2026, 11, 24));
    }
}
