//! Makes servers: names, connections, logins, and what servers say while no client holds them.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::admit::wipe;
use super::close::closed_while_idle;
use super::{
    Address, Engine, Host, Input, Link, PoolKey, Server, ServerKey, ServerState, Tick, TlsFacts,
    Who, Why,
};
use crate::auth::{Channel, Credentials, SaltedPassword, Terms};
use crate::config::{HostPort, LoadBalance, PoolConfig, Stored};
use crate::limits;
use crate::lookup;
use crate::pool::{Kind, Pool};
use crate::relay::prepared::Slot;
use crate::relay::{Relay, Vars, traces};
use crate::reset::Outcome;
use crate::startup::{Login, Step, Welcome};
use crate::tune::Verdict;
use crate::wire::frame;
use crate::wire::frontend;
use crate::wire::refusal::{Blame, Refusal};

/// Why a server is not fit that sends anything but what may come at any time.
const UNASKED: &str = "it spoke while nobody had asked";

/// What failed when settings were tried.
const TUNING: &str = "setting the startup parameters of a client failed";

impl Engine {
    /// Begins a server connection of a kind.
    pub(super) fn dial(&mut self, pool_key: PoolKey, kind: Rc<Kind>, host: &mut dyn Host) {
        let id = self.next_id();
        self.pools.dialed(pool_key, &kind);
        let mut server = Server::new(ServerState::Resolving, id, pool_key, kind, self.now);
        if let Some(pool) = self.pools.get_mut(pool_key) {
            server.route.first_host = pool.next_host;
            if pool.config.sizes.load_balance_hosts == LoadBalance::RoundRobin {
                pool.next_host = (pool.next_host + 1) % pool.config.backend.hosts.len().max(1);
            }
        }
        let key = self.servers.insert(server);
        self.try_next(key, "no host is configured", host);
    }

    /// Tries the next address of the present host, or the next host; `last` is why the one before failed.
    pub(super) fn try_next(&mut self, key: ServerKey, last: &str, host: &mut dyn Host) {
        let mut last = last.to_owned();
        loop {
            let Some(server) = self.servers.get_mut(key) else {
                return;
            };
            server.link = None;
            if let Some(address) = server.route.addresses.pop() {
                match host.dial(&address, key) {
                    Ok(stream) => return self.dialed(key, address, stream, host),
                    Err(why) => last = unreachable_text(&address.to_string(), &why),
                }
                continue;
            }
            let Some(pool) = self.pools.get(server.pool) else {
                return;
            };
            let hosts = &pool.config.backend.hosts;
            let at = (server.route.first_host + server.route.tried) % hosts.len().max(1);
            let Some(next) = hosts.get(at).filter(|_| server.route.tried < hosts.len()) else {
                return self.connect_failed(key, unreachable(last), host);
            };
            (server.route.tried, server.route.host) = (server.route.tried + 1, at);
            server.route.name = None;
            match next {
                HostPort::Unix(path) => server.route.addresses.push(Address::Unix(path.clone())),
                HostPort::Tcp(name, port) => match name.parse() {
                    Ok(ip) => server
                        .route
                        .addresses
                        .push(Address::Tcp(SocketAddr::new(ip, *port))),
                    Err(_) => {
                        let (name, port) = (Rc::<str>::from(name.as_str()), *port);
                        (server.route.name, server.route.port) = (Some(name.clone()), port);
                        match self.addresses_of(&name, port, key, host) {
                            None => return self.enter_server(key, ServerState::Resolving),
                            Some(Err(why)) => last = why,
                            Some(Ok(addresses)) => {
                                if let Some(server) = self.servers.get_mut(key) {
                                    server.route.addresses = addresses;
                                }
                            }
                        }
                    }
                },
            }
        }
    }

    /// The startup packet goes out, or waits for the connection that is being made.
    pub(super) fn begin_login(&mut self, key: ServerKey) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let kind = server.kind.clone();
        let mut packet = Vec::new();
        let own = [
            (&b"user"[..], &kind.user[..]),
            (&b"database"[..], &kind.database[..]),
        ];
        let given = kind
            .parameters
            .iter()
            .map(|(name, value)| (&name[..], &value[..]));
        frontend::startup(&mut packet, own.into_iter().chain(given));
        if let Some(link) = server.link.as_mut() {
            link.send(&packet);
        }
        self.enter_server(key, ServerState::Dialing);
    }

    /// The startup packet has gone, and what TLS there is stands.
    fn opened(&mut self, key: ServerKey) {
        let Some(server) = self.servers.get(key) else {
            return;
        };
        let (Some(pool), Some(link)) = (self.pools.get(server.pool), server.link.as_ref()) else {
            return;
        };
        let terms = terms(&pool.config, link.facts().tls);
        let login = Login::begin(self.credentials(pool, &server.kind), terms);
        if let Some(server) = self.servers.get_mut(key) {
            server.state = ServerState::LoggingIn(Box::new(login));
        }
    }

    /// As whom we log in: with the pool's own password, or with what the configuration or `auth_query` knows of the user.
    pub(super) fn credentials(&self, pool: &Pool, kind: &Kind) -> Credentials {
        let backend = &pool.config.backend;
        let user = String::from_utf8_lossy(&kind.user).into_owned();
        let own = backend.user.as_ref().and(backend.password.clone());
        let known = || {
            let listed = self.config.auth.users.get(&user);
            let found = || self.lookups.last_secret(pool, &user);
            listed.or_else(found).cloned()
        };
        let secret = own.map(Stored::Plain).or_else(known);
        Credentials { user, secret }
    }

    /// Runs a server that no client holds.
    #[inline(never)]
    pub(super) fn run_server(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let Some(link) = server.link.as_mut() else {
            return;
        };
        match server.state {
            ServerState::Cancelling(_) => return self.run_cancel(key, host),
            ServerState::Forwarding(_) => return self.run_forward(key, host),
            _ => {}
        }
        if link.can_flush() {
            link.flush();
        }
        if matches!(server.state, ServerState::Draining) {
            return self.drain(key, host);
        }
        if link.is_flushed() && matches!(server.state, ServerState::Dialing) {
            self.opened(key);
        }
        self.read_server(key, host);
    }

    fn read_server(&mut self, key: ServerKey, host: &mut dyn Host) {
        let state = self.servers.get(key).map(|server| &server.state);
        if matches!(state, Some(ServerState::LoggingIn(login)) if login.is_deriving()) {
            return; // what it says meanwhile stays in the kernel; `server_derived` goes on
        }
        let asking = matches!(state, Some(ServerState::AskingTls));
        let looking = matches!(state, Some(ServerState::Looking(_)));
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Some(link) = self
            .servers
            .get_mut(key)
            .and_then(|server| server.link.as_mut())
            && link.is_readable()
        {
            match link.read(&mut buffer) {
                Input::Bytes(count) if asking => {
                    self.ssl_answered(key, buffer.get(..count).unwrap_or_default(), host)
                }
                Input::Bytes(count) => {
                    self.server_bytes(key, buffer.get(..count).unwrap_or_default(), host);
                    if looking {
                        wipe(&mut buffer, count);
                    }
                }
                Input::Nothing => {}
                Input::Closed(why) => self.server_closed(key, &why, host),
            }
            if self
                .servers
                .get(key)
                .and_then(|server| server.link.as_ref())
                .is_some_and(Link::is_readable)
            {
                self.list(Who::Server(key));
            }
        }
        self.buffer = buffer;
    }

    /// Goes through what a server has said that no client holds, message by message, and keeps the rest.
    pub(super) fn server_bytes(&mut self, key: ServerKey, bytes: &[u8], host: &mut dyn Host) {
        let mut rest = bytes;
        loop {
            let Some(server) = self.servers.get(key) else {
                return;
            };
            // The connection may have been given up for another address on the way.
            if matches!(
                server.state,
                ServerState::Resolving | ServerState::AskingTls | ServerState::Dialing
            ) || server.link.is_none()
            {
                return;
            }
            if matches!(&server.state, ServerState::LoggingIn(login) if login.is_deriving()) {
                break;
            }
            match frame::whole(rest, limits::LOGIN_MESSAGE_MAX) {
                Ok(None) => {
                    let idle = matches!(server.state, ServerState::Idle | ServerState::Held);
                    if idle && rest.first().is_some_and(|tag| !b"SNAE".contains(tag)) {
                        return self.server_unfit(key, UNASKED, host);
                    }
                    break;
                }
                Ok(Some((tag, body, after))) => {
                    self.server_message(key, tag, body, host);
                    rest = after;
                }
                Err(bad) => {
                    let text = format!(
                        "it sent a message of type {:?} and length {}",
                        char::from(bad.tag),
                        bad.length
                    );
                    return self.server_unfit(key, &text, host);
                }
            }
        }
        if let Some(link) = self
            .servers
            .get_mut(key)
            .and_then(|server| server.link.as_mut())
        {
            link.keep(rest);
        }
    }

    fn server_message(&mut self, key: ServerKey, tag: u8, body: &[u8], host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        match &mut server.state {
            ServerState::LoggingIn(_) => self.login_message(key, tag, body, host),
            ServerState::Preparing(_) => self.prepare_message(key, tag, body, host),
            ServerState::Idle | ServerState::Held => match tag {
                b'S' if Vars::report_shared(&mut server.vars, body) => {}
                b'N' | b'A' => {}
                b'E' => {
                    let text = Refusal::read(body, Blame::Server).text();
                    self.close_server(key, &text, host);
                }
                _ => self.server_unfit(key, UNASKED, host),
            },
            ServerState::Tuning(tuning) => {
                let known = tag != b'S' || Vars::report_shared(&mut server.vars, body);
                let verdict = match tuning.step(tag, body) {
                    Verdict::More if !known => {
                        Verdict::Unfit("it sent a broken ParameterStatus".to_owned())
                    }
                    verdict => verdict,
                };
                self.tuned(key, verdict, host);
            }
            ServerState::Looking(lookup) => {
                let known = tag != b'S' || Vars::report_shared(&mut server.vars, body);
                match lookup.step(tag, body) {
                    lookup::Step::More if known => {}
                    lookup::Step::More => {
                        self.server_unfit(key, "it sent a broken ParameterStatus", host)
                    }
                    lookup::Step::Done(answer) => self.looked_up(key, answer),
                    lookup::Step::Unfit(why) => self.server_unfit(key, &why, host),
                }
            }
            ServerState::Checking(reset) | ServerState::Resetting(reset) => {
                let known = tag != b'S' || Vars::report_shared(&mut server.vars, body);
                match reset.step(tag, body) {
                    Outcome::More if known => {}
                    Outcome::More => {
                        self.server_unfit(key, "it sent a broken ParameterStatus", host)
                    }
                    Outcome::Done => self.reset_done(key, host),
                    Outcome::Unfit(why) => self.server_unfit(key, &why, host),
                }
            }
            _ => {}
        }
    }

    fn login_message(&mut self, key: ServerKey, tag: u8, body: &[u8], host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let ServerState::LoggingIn(login) =
            std::mem::replace(&mut server.state, ServerState::Resolving)
        else {
            return;
        };
        let mut out = Vec::new();
        let step = login.step(
            tag,
            body,
            &mut self.ring,
            &mut |into| host.random(into),
            &mut out,
        );
        // Only the server's own word is a reason to go without TLS; what we find wrong is not.
        match &step {
            Err(refusal) if tag == b'E' && self.login_refused(key, refusal, host) => {}
            _ => self.login_progress(key, step, &out, host),
        }
    }

    pub(super) fn server_derived(
        &mut self,
        key: ServerKey,
        salted: &SaltedPassword,
        host: &mut dyn Host,
    ) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        if !matches!(server.state, ServerState::LoggingIn(_)) {
            return;
        }
        let ServerState::LoggingIn(login) =
            std::mem::replace(&mut server.state, ServerState::Resolving)
        else {
            return;
        };
        let mut out = Vec::new();
        let step = login.derived(salted, &mut self.ring, &mut out);
        self.login_progress(key, step, &out, host);
        self.list(Who::Server(key));
    }

    /// What came of a step of a login. Until here the server is `Resolving`, which counts as connecting like `LoggingIn`.
    fn login_progress(
        &mut self,
        key: ServerKey,
        step: Result<Step, Refusal>,
        out: &[u8],
        host: &mut dyn Host,
    ) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        if let Some(link) = server.link.as_mut() {
            link.send(out);
        }
        match step {
            Ok(Step::More(login)) => server.state = ServerState::LoggingIn(Box::new(login)),
            Ok(Step::Derive(login, job)) => {
                server.state = ServerState::LoggingIn(Box::new(login));
                host.derive(job, Who::Server(key));
            }
            Ok(Step::Ready(welcome)) => self.prepare(key, welcome, host),
            Err(refusal) => self.connect_failed(key, refusal, host),
        }
    }

    /// The server has let us in: it is ready, or runs `connect_query` before that.
    fn prepare(&mut self, key: ServerKey, welcome: Welcome, host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let pool = self.pools.get(server.pool);
        let query = pool.map(|pool| &pool.config.sessions.connect_query[..]);
        let Some(query) = query.filter(|query| !query.is_empty()) else {
            return self.logged_in(key, welcome, host);
        };
        let mut out = Vec::new();
        frontend::query(&mut out, query.as_bytes());
        if let Some(link) = server.link.as_mut() {
            link.send(&out);
        }
        let begun = server.since;
        self.enter_server(key, ServerState::Preparing(Box::new(welcome)));
        if let Some(server) = self.servers.get_mut(key) {
            server.since = begun; // connect_timeout is for all of it
        }
        self.arm_server(key);
    }

    /// What a server says to `connect_query`. Errors are only logged, as by PgBouncer; what it reports is how it begins.
    fn prepare_message(&mut self, key: ServerKey, tag: u8, body: &[u8], host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let ServerState::Preparing(welcome) = &mut server.state else {
            return;
        };
        match tag {
            b'S' if welcome.vars.report(body) => {}
            b'C' | b'I' | b'T' | b'D' | b'N' | b'A' => {}
            b'E' => {
                let text = Refusal::read(body, Blame::Server).text();
                let id = server.id;
                log::warn!("server {id}: S: error while executing exec_on_query: {text}");
            }
            b'Z' if body == b"I" => {
                let state = std::mem::replace(&mut server.state, ServerState::Resolving);
                if let ServerState::Preparing(welcome) = state {
                    self.logged_in(key, *welcome, host);
                }
            }
            b'Z' => self.server_unfit(key, "connect_query leaves a transaction open", host),
            _ => self.server_unfit(key, UNASKED, host),
        }
    }

    fn logged_in(&mut self, key: ServerKey, welcome: Welcome, host: &mut dyn Host) {
        let now = self.now;
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let Some(pool) = self.pools.get_mut(server.pool) else {
            return;
        };
        server.retire_at = retire_at(now, pool.config.max_lifetime, host);
        let sessions = &pool.config.sessions;
        server
            .relay
            .restrict(sessions.disable_pqexec, sessions.max_packet_size);
        log::debug!(
            "pool {}: new server connection, process {}",
            pool.label(),
            welcome.pid
        );
        if pool.login_succeeded(&server.kind) {
            log::info!("pool {}: the server can be reached again", pool.label());
        }
        pool.stats.total.connects += 1;
        let took = now.since(server.created_at);
        pool.stats.times.connect.note(took);
        pool.stats.times.connect_us += took;
        if pool.config.sizes.load_balance_hosts == LoadBalance::Disable && !server.recycle {
            pool.next_host = server.route.host;
        }
        let (pool, kind) = (server.pool, server.kind.clone());
        self.tell_server(key);
        self.learn(key, welcome);
        self.pools.dial_ended(pool, &kind);
        self.put_idle(key);
    }

    /// A connection attempt is over and has failed.
    pub(super) fn connect_failed(&mut self, key: ServerKey, refusal: Refusal, host: &mut dyn Host) {
        let Some(server) = self.servers.get(key) else {
            return;
        };
        self.tell_connect_failed(server, &refusal);
        let (pool_key, kind) = (server.pool, server.kind.clone());
        if let Some(pool) = self.pools.get_mut(pool_key) {
            pool.stats.events.connect_failed(refusal.sqlstate);
            let again = pool
                .last_error()
                .is_some_and(|last| last.message == refusal.message);
            let (level, again) = if again {
                (log::Level::Debug, " again")
            } else {
                (log::Level::Warn, "")
            };
            let hint = refusal
                .hint
                .as_deref()
                .map(|hint| format!(" ({})", frame::printable(hint)))
                .unwrap_or_default();
            log::log!(
                level,
                "pool {}: cannot log in to a server{again}: {} [{}]{hint}",
                pool.label(),
                refusal.text(),
                refusal.code()
            );
        }
        if refusal.sqlstate == *b"28P01" {
            self.doubt_role(pool_key, &kind.user);
        }
        self.drop_server(key);
        self.dial_failed(pool_key, &kind, refusal, host);
    }

    /// A server that no client holds has closed its connection.
    fn server_closed(&mut self, key: ServerKey, why: &Why, host: &mut dyn Host) {
        let Some(server) = self.servers.get(key) else {
            return;
        };
        match server.state {
            ServerState::Dialing if matches!(why, Why::Tls(_)) => {
                self.encryption_failed(key, &why.to_string(), host)
            }
            ServerState::AskingTls
            | ServerState::Dialing
            | ServerState::LoggingIn(_)
            | ServerState::Preparing(_) => {
                let address = server
                    .address
                    .as_ref()
                    .map(Address::to_string)
                    .unwrap_or_default();
                self.try_next(key, &unreachable_text(&address, &why.to_string()), host);
            }
            _ => self.close_server(key, &closed_while_idle(why), host),
        }
    }

    /// A server is not fit for use.
    pub(super) fn server_unfit(&mut self, key: ServerKey, why: &str, host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        match server.state {
            ServerState::LoggingIn(_) | ServerState::Preparing(_) => {
                let refusal = Refusal::fatal(
                    b"08P01",
                    format!("the server's answer to the login makes no sense: {why}"),
                    Blame::Server,
                );
                self.connect_failed(key, refusal, host);
            }
            ServerState::Resetting(_) => {
                self.close_server(key, &format!("reset query failed: {why}"), host)
            }
            ServerState::Checking(_) => {
                self.close_server(key, &format!("test query failed: {why}"), host)
            }
            ServerState::Tuning(_) => self.close_server(key, &format!("{TUNING}: {why}"), host),
            ServerState::Looking(_) => {
                self.close_server(key, &format!("auth_query failed: {why}"), host)
            }
            _ => self.close_server(key, why, host),
        }
    }

    /// The reset, or the check, went well, or it has said what it makes of settings.
    pub(super) fn reset_done(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(server) = self.servers.get(key) else {
            return;
        };
        if server.is_expired(self.now) {
            return self.close_server(key, "server lifetime over", host);
        }
        let Some(pool) = self.pools.get_mut(server.pool) else {
            return;
        };
        let (pool_key, kind) = (server.pool, &server.kind);
        match &server.state {
            ServerState::Checking(_) => self.pools.check_ended(pool_key, kind),
            ServerState::Tuning(tuning) => {
                self.pools.asking_ended(pool_key, kind, &tuning.settings)
            }
            _ => pool.stats.total.resets += 1,
        }
        self.put_idle(key);
    }

    /// A server's state has lasted too long.
    pub(super) fn server_expired(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        match &server.state {
            ServerState::Resolving
            | ServerState::AskingTls
            | ServerState::Dialing
            | ServerState::LoggingIn(_)
            | ServerState::Preparing(_) => {
                let place = server
                    .address
                    .as_ref()
                    .map_or("the name server".to_owned(), Address::to_string);
                let text = unreachable_text(&place, NO_ANSWER);
                // The rest of this host's addresses is still tried; a login that hangs may hang everywhere.
                self.try_next(key, &text, host);
            }
            ServerState::Checking(_) => self.close_server(
                key,
                "test query failed: no answer within check_timeout",
                host,
            ),
            ServerState::Tuning(_) => self.close_server(
                key,
                &format!("{TUNING}: no answer within connect_timeout"),
                host,
            ),
            ServerState::Looking(_) => {
                let _ = self.cancel(key, None, host);
                let text = "auth_query failed: no answer within connect_timeout";
                self.lookup_unanswered(key, text);
                self.close_server(key, text, host);
            }
            ServerState::Resetting(_) => self.close_server(
                key,
                "reset query failed: no answer within reset_timeout",
                host,
            ),
            ServerState::Held => self.close_server(key, super::close::CANCEL_LOST, host),
            ServerState::Cancelling(_) => self.close_server(key, "cancel request timed out", host),
            ServerState::Forwarding(_) => self.close_server(key, "cancel_wait_timeout", host),
            ServerState::Idle if server.is_expired(self.now) => {
                self.close_server(key, "server lifetime over", host)
            }
            ServerState::Idle => {
                let kind = server.kind.clone();
                if self
                    .pools
                    .get(server.pool)
                    .is_some_and(|pool| pool.is_spared(&kind))
                {
                    server.spared_at = self.now;
                    self.arm_server(key);
                } else {
                    self.close_server(key, "server idle timeout", host);
                }
            }
            ServerState::Draining => {
                let _ = self.cancel(key, None, host);
                self.close_server(
                    key,
                    "abandoned_query_timeout: its client has gone, its query was cancelled",
                    host,
                );
            }
            ServerState::Paired(_) => {}
        }
    }

    /// Makes a released server fit for the next client.
    pub(super) fn reset(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let Some(pool) = self.pools.get(server.pool) else {
            return;
        };
        if !server.relay.is_touched() {
            server.relay.renew();
            return self.put_idle(key);
        }
        let is_itself = server.is_itself();
        let shared = server
            .shared
            .then(|| undoing(&server.relay, is_itself, &pool.config));
        let query = match &shared {
            Some(sql) => Some(sql.join("; ")).filter(|sql| !sql.is_empty()),
            None => pool.config.reset_query.clone(),
        };
        if shared.is_some_and(|sql| sql.contains(&traces::DEALLOCATE_ALL)) {
            server.statements.clear();
        }
        let mut out = Vec::new();
        let (status, unsure) = (server.relay.status(), server.relay.is_unsure());
        server.relay.renew();
        match crate::reset::Reset::release(status, query.as_deref(), &mut out) {
            None if unsure => self.close_server(
                key,
                "client left a COPY that failed, and no reset query tells what is answered",
                host,
            ),
            None => self.put_idle(key),
            Some(reset) => {
                if let Some(link) = server.link.as_mut() {
                    link.send(&out);
                }
                server.statements.slot = Slot::Empty; // a simple query ends it
                self.enter_server(key, ServerState::Resetting(reset));
                self.list(Who::Server(key));
            }
        }
    }
}

/// What is run on a shared server before it goes to the next client.
fn undoing(relay: &Relay, is_itself: bool, config: &PoolConfig) -> Vec<&'static str> {
    let mut sql = traces::undoing(relay.seen(), relay.ran(), config.transaction_reset);
    if !is_itself && !sql.contains(&traces::RESET_ROLE) {
        sql.insert(0, traces::RESET_ROLE);
    }
    if sql.is_empty() && relay.is_unsure() {
        sql.push(traces::RESET_ROLE); // its answer shows that nothing else comes
    }
    sql
}

/// What the server has to show.
fn terms(config: &PoolConfig, tls: Option<TlsFacts>) -> Terms {
    let connector = config.backend.tls.as_ref();
    let own_certificate = connector.filter(|tls| tls.needs_certificate()).map(|_| {
        tls.as_ref()
            .map(|tls| tls.own_certificate)
            .unwrap_or_default()
    });
    Terms {
        demands: config.backend.demands.clone(),
        iterations_max: config.max_scram_iterations,
        channel: match tls {
            None => Channel::Plain,
            Some(tls) => tls.endpoint.map_or(Channel::Unbindable, Channel::Bindable),
        },
        own_certificate,
    }
}

/// A server was silent for too long.
pub(super) const NO_ANSWER: &str = "no answer within connect_timeout";

/// A lifetime that differs from server to server, so that those made together do not end together: the last fifth is random.
fn retire_at(now: Tick, max_lifetime: Duration, host: &mut dyn Host) -> Option<Tick> {
    if max_lifetime.is_zero() {
        return None;
    }
    let mut bytes = [0; 4];
    host.random(&mut bytes);
    let spread = max_lifetime / 5;
    let share = f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX);
    Some(now.plus(max_lifetime - spread.mul_f64(share)))
}

impl Server {
    /// `max_lifetime` is another one now: where the server was in the spread of the old one, it is in that of the new one.
    pub(super) fn change_lifetime(&mut self, old: Duration, new: Duration) {
        let whole = |time: Duration| time.as_secs_f64().max(0.001);
        let made_at = self.created_at;
        let share = match self.retire_at {
            _ if new.is_zero() => return self.retire_at = None,
            Some(at) => at.since(made_at) as f64 / 1e6 / whole(old),
            None => 1.0,
        };
        self.retire_at = Some(made_at.plus(new.mul_f64(share.clamp(0.8, 1.0))));
    }
}

pub(super) fn unreachable_text(place: &str, why: &str) -> String {
    format!("connection to server at {place} failed: {why}")
}

fn unreachable(text: String) -> Refusal {
    Refusal::fatal(b"08006", text, Blame::Server)
        .hint("Is PostgreSQL running there and accepting connections? See pool.dsn in Aether's configuration.")
}

#[cfg(test)]
mod tests {
    use super::super::scene::Scene;
    use super::*;
    use crate::wire::backend;

    /// Catalogue fault R4: no port is left (EADDRNOTAVAIL). Who waits is told why, in the class of lost connections, and the next one
    /// is served when there is one.
    #[test]
    fn without_a_free_port_the_client_is_told_so_and_the_pool_recovers() {
        let mut scene = Scene::new();
        let text = "Cannot assign requested address";
        scene.world.unreachable = Some(text.to_owned());
        let client = scene.client();
        scene.wait(Duration::from_secs(61));
        let said = client.borrow().output.clone();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(said.contains("C08") && said.contains(text), "{said:?}");
        scene.world.unreachable = None;
        let client = scene.client();
        let server = scene.world.servers[0].clone();
        scene.works(&client, &server);
    }

    /// Found by reading: what came while a key derivation ran was taken in without a limit, and the engine asserted.
    #[test]
    fn a_server_that_floods_us_while_a_key_is_derived_is_not_read_on() {
        let mut scene = Scene::new();
        scene.engine.contain(false);
        backend::write_authentication(&mut scene.world.greeting, 10, b"SCRAM-SHA-256\0\0");
        let _client = scene.client();
        let server = scene.world.servers[0].clone();
        let sent = String::from_utf8_lossy(&server.borrow().output).into_owned();
        let nonce = sent
            .rsplit_once("r=")
            .expect("our first message")
            .1
            .to_owned();
        let mut flood = Vec::new();
        let first = format!("r={nonce}more,s=c2FsdA==,i=4096");
        backend::write_authentication(&mut flood, 11, first.as_bytes());
        flood.resize(4 * limits::READ_MAX, b'N');
        let length = flood.len();
        server.borrow_mut().input.extend(flood);
        scene.ready(&server);
        assert_eq!(scene.world.derivations.len(), 1);
        let left = server.borrow().input.len();
        assert_eq!(length - left, limits::READ_MAX, "one read");
    }
}
