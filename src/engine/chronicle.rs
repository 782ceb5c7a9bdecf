//! What the log is told of connections and periods: in our words, or in PgBouncer's, which people's tools read (`log.format`).
//!
//! A connection is good for one line, when it ends; `log_connections` and its sisters make it more. Beside the text go fields, for
//! formats that have some.

use std::fmt;

use super::compat;
use super::requests::{Slow, What};
use super::{Client, ClientKey, Engine, Server, ServerKey, ServerState, Timer, TlsFacts};
use crate::log::Format;
use crate::pool::Pool;
use crate::stats::{Period, mean};
use crate::wire::frame::{printable, printable_all};
use crate::wire::refusal::Refusal;

/// A text that is made where it is written.
struct Written<F>(F);

impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for Written<F> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0(to)
    }
}

impl Engine {
    fn is_pgbouncer(&self) -> bool {
        self.config.log.format == Format::PgBouncer
    }

    /// Who a line is about, whose database and user are these. Written when the line is: many are only counted.
    fn of_client<'a>(
        &'a self,
        client: &'a Client,
        database: &'a str,
        user: &'a str,
    ) -> impl fmt::Display + 'a {
        Written(move |to: &mut fmt::Formatter<'_>| {
            if !self.is_pgbouncer() {
                return match client.session {
                    Some(_) => write!(to, "client {} {user}@{database}:", client.id),
                    None => write!(to, "client {} (no user):", client.id),
                };
            }
            let facts = client.link.facts();
            let place = match facts.address.as_str() {
                "unix" => {
                    let pid = facts.peer_pid.unwrap_or_default();
                    let port = self.config.server.listen.first();
                    format!("unix({pid}):{}", port.map_or(0, std::net::SocketAddr::port))
                }
                address => at(address, facts.port),
            };
            write!(to, "C-0x{:x}: {database}/{user}@{place}", client.id)
        })
    }

    /// Who a line is about.
    fn of_server(&self, server: &Server) -> String {
        let pool = self.pools.get(server.pool);
        let pool = pool.map(Pool::label).unwrap_or_default();
        if !self.is_pgbouncer() {
            return format!("server {} of pool {pool}:", server.id);
        }
        let place = server.address.as_ref().map(ToString::to_string);
        let user = printable(&server.kind.user);
        let place = place.unwrap_or_else(|| "(bad-af):0".to_owned());
        format!("S-0x{:x}: {pool}/{user}@{place}", server.id)
    }

    fn age(&self, age: u64) -> impl fmt::Display {
        let is_pgbouncer = self.is_pgbouncer();
        Written(move |to: &mut fmt::Formatter<'_>| match is_pgbouncer {
            true => write!(to, "(age={age}s)"),
            false => write!(to, "(age {age}s)"),
        })
    }

    /// A startup packet has come.
    pub(super) fn tell_login(&self, key: ClientKey) {
        let Some(client) = self
            .clients
            .get(key)
            .filter(|_| self.config.log.log_connections)
        else {
            return;
        };
        let Some(session) = client.session.as_deref() else {
            return;
        };
        let (database, user) = client.database_and_user();
        let tls = client
            .link
            .facts()
            .tls
            .as_ref()
            .map_or("no".to_owned(), shown);
        let given = |name: &[u8]| {
            let mut parameters = session.claim.parameters();
            parameters
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value)
        };
        let replication = match given(b"replication") {
            None | Some(b"0" | b"no" | b"off" | b"false") => "no",
            Some(b"database") => "database",
            Some(_) => "yes",
        };
        log::info!(
            client = client.id, user:% = user, database:% = database;
            "{} login attempt: db={database} user={user} tls={tls} replication={replication}",
            self.of_client(client, &database, &user)
        );
    }

    /// A server has let us in.
    pub(super) fn tell_server(&self, key: ServerKey) {
        let Some(server) = self
            .servers
            .get(key)
            .filter(|_| self.config.log.log_connections)
        else {
            return;
        };
        let facts = server
            .link
            .as_ref()
            .map(super::Link::facts)
            .unwrap_or_default();
        let from = match facts.local_port {
            0 => String::new(),
            port => format!(" (from {})", at(&facts.local_address, port)),
        };
        let who = self.of_server(server);
        log::info!(server = server.id; "{who} new connection to server{from}");
        if let Some(tls) = &facts.tls {
            log::info!(server = server.id; "{who} SSL established: {}", shown(tls));
        }
    }

    /// A client was told why it has to go.
    pub(super) fn tell_refused(&self, client: &Client, refusal: &Refusal) {
        let log = &self.config.log;
        let (database, user) = client.database_and_user();
        let who = self.of_client(client, &database, &user);
        let age = self.now.since(client.connected_at) / 1_000_000;
        let (words, code) = match self.is_pgbouncer() {
            true => (compat::text(refusal), String::new()),
            false => (refusal.text(), format!(" [{}]", refusal.code())),
        };
        if log.log_disconnections {
            log::info!(
                client = client.id, user:% = user, database:% = database, reason:% = words,
                sqlstate:% = refusal.code(), age = age;
                "{who} closing because: {words}{code} {}", self.age(age)
            );
        }
        if log.log_pooler_errors {
            log::warn!(
                client = client.id, user:% = user, database:% = database, reason:% = words;
                "{who} pooler error: {words}"
            );
        }
    }

    /// A client's connection has ended without a word of ours.
    pub(super) fn tell_closed(&self, client: &Client, reason: &str) {
        if !self.config.log.log_disconnections {
            return;
        }
        let (database, user) = client.database_and_user();
        let age = self.now.since(client.connected_at) / 1_000_000;
        let reason = if self.is_pgbouncer() {
            in_pgbouncers_words(reason)
        } else {
            reason
        };
        log::info!(
            client = client.id, user:% = user, database:% = database, reason:% = reason, age = age;
            "{} closing because: {reason} {}", self.of_client(client, &database, &user),
            self.age(age)
        );
    }

    /// A server's connection has ended.
    pub(super) fn tell_server_closed(&self, server: &Server, reason: &str) {
        if !self.config.log.log_disconnections {
            return;
        }
        let pool = self.pools.get(server.pool);
        let pool = pool.map(Pool::label).unwrap_or_default();
        let age = self.now.since(server.created_at) / 1_000_000;
        let reason = if self.is_pgbouncer() {
            in_pgbouncers_words(reason)
        } else {
            reason
        };
        log::info!(
            server = server.id, user:% = printable(&server.kind.user), database:% = pool,
            reason:% = reason, age = age;
            "{} closing because: {reason} {}", self.of_server(server), self.age(age)
        );
    }

    /// No server connection came of an attempt. PgBouncer's readers look for that; our own line is the pool's, in `dial`.
    pub(super) fn tell_connect_failed(&self, server: &Server, refusal: &Refusal) {
        if !self.is_pgbouncer() {
            return;
        }
        let who = self.of_server(server);
        let text = refusal.text();
        let is_ours = refusal.sqlstate.starts_with(b"08");
        let reason = match &server.state {
            _ if !is_ours => &*text,
            ServerState::Resolving => "server DNS lookup failed",
            ServerState::Dialing => "connect failed",
            _ if text.ends_with(super::dial::NO_ANSWER) => "connect timeout",
            // A question for TLS that could not even be sent.
            ServerState::AskingTls if !text.contains("closed") => "connect failed",
            _ => "server conn crashed?",
        };
        if !is_ours {
            log::warn!("server login failed: FATAL {text}");
        }
        if self.config.log.log_disconnections {
            let age = self.now.since(server.created_at) / 1_000_000;
            log::info!("{who} closing because: {reason} {}", self.age(age));
        }
    }

    /// What a client asked took too long, once or more often.
    #[cold]
    pub(super) fn tell_slow(&mut self, key: ClientKey) {
        let mut found = std::mem::take(&mut self.slow);
        for slow in found.drain(..) {
            let is_told = self.sampler.takes(self.config.log.slow.sample);
            if let Some(client) = self.clients.get(key).filter(|_| is_told) {
                self.tell_one_slow(client, &slow);
            }
        }
        self.slow = found;
    }

    fn tell_one_slow(&self, client: &Client, slow: &Slow) {
        let (database, user) = client.database_and_user();
        let who = self.of_client(client, &database, &user);
        let ms = |us: u64| format!("{}.{:03}", us / 1_000, us % 1_000);
        let (waited, took) = (ms(slow.waited_us), ms(slow.took_us));
        let (received, sent) = (slow.received, slow.sent);
        let statement = match slow.text.is_empty() {
            true => "(not known)".to_owned(),
            false => printable_all(&slow.text),
        };
        let (what, answered) = match slow.what {
            What::Query => ("slow query", true),
            What::Unanswered => ("slow query, not answered", false),
            What::Transaction(queries) => {
                let worked = ms(slow.worked_us);
                log::info!(
                    client = client.id, user:% = user, database:% = database, waited_ms:% = waited, took_ms:% = took,
                    worked_ms:% = worked, queries = queries, received = received, sent = sent, statement:% = statement;
                    "{who} slow transaction: waited {waited} ms for a server, took {took} ms, {worked} of them for \
                     {queries} queries, {received} bytes received, {sent} sent; longest: {statement}"
                );
                return;
            }
        };
        log::info!(
            client = client.id, user:% = user, database:% = database, waited_ms:% = waited, took_ms:% = took,
            answered = answered, received = received, sent = sent, statement:% = statement;
            "{who} {what}: waited {waited} ms for a server, took {took} ms, {received} bytes received, {sent} sent: \
             {statement}"
        );
    }

    /// The period of the averages begins.
    pub(super) fn begin_period(&mut self) {
        self.period_began = self.now;
        self.arm_period();
    }

    /// It ends when `stats_period` says; also if it says something else than when it began.
    pub(super) fn arm_period(&mut self) {
        let ends = self.period_began.plus(self.config.server.stats_period);
        self.period_ends = ends.max(self.now);
        self.wheel.insert(self.period_ends, Timer::Period);
    }

    /// Whether or not it is over, as one may have been armed before another.
    pub(super) fn period_timer(&mut self) {
        if self.now < self.period_ends {
            return;
        }
        let us = self.now.since(self.period_began);
        for key in self.pools.keys() {
            if let Some(pool) = self.pools.get_mut(key) {
                pool.stats.close_period(us);
            }
        }
        self.console_stats.close_period(us);
        self.tell_period();
        self.begin_period();
    }

    /// A period is over: what happened in it, in PgBouncer's words.
    fn tell_period(&mut self) {
        let mut all = Period::default();
        for (_, pool) in self.pools.iter() {
            all.add(pool.stats.last_period());
        }
        let line = line(&all);
        if self.config.log.log_stats {
            log::info!("{line}");
        }
        self.status = Some(line);
    }
}

/// An address and a port; IPv6 in brackets.
fn at(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

/// What PgBouncer shows of TLS: the curve up to TLS 1.2 only.
fn shown(tls: &TlsFacts) -> String {
    match (tls.protocol, tls.group.as_str()) {
        ("TLSv1.3", _) | (_, "") => format!("{}/{}", tls.protocol, tls.cipher),
        (protocol, group) => format!("{protocol}/{}/ECDH={group}", tls.cipher),
    }
}

/// Why a connection has ended, as PgBouncer says it; what it has no word for is left as it is.
fn in_pgbouncers_words(reason: &str) -> &str {
    const WORDS: [(&str, &str); 11] = [
        ("client closed the connection", "client unexpected eof"),
        ("client lost", "client unexpected eof"),
        ("server conn crashed?", "server conn crashed?"),
        ("the server ", "server conn crashed?"),
        ("the pooler stops", super::pause::PAUSE_MODE),
        ("made room", "evicted"),
        (
            "client left in the middle",
            "client disconnect while server was not ready",
        ),
        (
            "abandoned_query_timeout",
            "client disconnected with query in progress",
        ),
        ("reset query failed", "reset query failed"),
        ("test query failed", "test query failed"),
        ("idle servers of too many", "too many servers in the pool"),
    ];
    let known = WORDS.iter().find(|(start, _)| reason.starts_with(start));
    known.map_or(reason, |(_, words)| words)
}

fn line(period: &Period) -> String {
    let per_second = |count: u64| period.per_second(count);
    let all = &period.counters;
    format!(
        "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, {} client logins/s, \
         in {} B/s, out {} B/s, xact {} us, query {} us, wait {} us",
        per_second(all.transactions),
        per_second(all.queries),
        per_second(all.client_parses),
        per_second(all.server_parses),
        per_second(all.binds),
        per_second(all.logins),
        per_second(all.received),
        per_second(all.sent),
        mean(all.transaction_us, all.transactions),
        mean(all.query_us, all.queries),
        mean(all.wait_us, all.assignments),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::scene::Scene;
    use crate::stats::Counters;

    #[test]
    fn reasons_are_pgbouncers_where_it_has_some() {
        for (ours, theirs) in [
            ("client close request", "client close request"),
            (
                "client lost: Connection reset by peer",
                "client unexpected eof",
            ),
            (
                "the server closed the connection while it was not in use",
                "server conn crashed?",
            ),
            ("made room under max_connections_per_user", "evicted"),
            ("server lifetime over", "server lifetime over"),
        ] {
            assert_eq!(in_pgbouncers_words(ours), theirs);
        }
    }

    #[test]
    fn addresses_and_tls_look_as_in_pgbouncer() {
        assert_eq!(at("127.0.0.1", 5432), "127.0.0.1:5432");
        assert_eq!(at("::1", 5432), "[::1]:5432");
        let tls = |protocol, group: &str| {
            shown(&TlsFacts {
                protocol,
                cipher: "SUITE",
                group: group.to_owned(),
                ..TlsFacts::default()
            })
        };
        assert_eq!(tls("TLSv1.3", "X25519"), "TLSv1.3/SUITE");
        assert_eq!(tls("TLSv1.2", "X25519"), "TLSv1.2/SUITE/ECDH=X25519");
    }

    #[test]
    fn a_period_is_told_in_a_line_with_means_and_rates() {
        let counters = Counters {
            transactions: 120,
            queries: 240,
            logins: 60,
            client_parses: 180,
            server_parses: 120,
            binds: 300,
            received: 6_000,
            sent: 12_000,
            transaction_us: 12_000,
            query_us: 2_400,
            wait_us: 50,
            assignments: 5,
            ..Counters::default()
        };
        let expected = "stats: 2 xacts/s, 4 queries/s, 3 client parses/s, 2 server parses/s, 5 binds/s, 1 client logins/s, \
                        in 100 B/s, out 200 B/s, xact 100 us, query 10 us, wait 10 us";
        let us = 60_000_000;
        assert_eq!(line(&Period { counters, us }), expected);
        let mut scene = Scene::new();
        scene.wait(std::time::Duration::from_secs(60));
        let told = scene.status().unwrap_or_default();
        assert!(
            told.starts_with("stats: 0 xacts/s, 0 queries/s, "),
            "{told}"
        );
    }
}
