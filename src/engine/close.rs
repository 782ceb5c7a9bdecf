//! Ends things: clients, servers, pairs. What is told to whom, and what is kept.

use super::overdue::Overdone;
use super::pause::PAUSE_MODE;
use super::pump::NO_BLOCKS;
use super::requests::Watch;
use super::{
    Client, ClientKey, ClientState, Engine, Host, Input, Place, Server, ServerKey, ServerState,
    Tick, Who, Why,
};
use crate::pool::{Limit, Pool, Waits};
use crate::reasons;
use crate::relay::prepared::{ClientStatements, With};
use crate::relay::{Relay, Then};
use crate::wire::frame::printable;
use crate::wire::frontend;
use crate::wire::refusal::{Blame, Refusal, notice};

/// In PgBouncer's words.
const QUEUED: &str = "No server connection available in postgres backend, client being queued";

/// The SQLSTATE of those who are told nothing.
const NO_CODE: [u8; 5] = [0; 5];

pub(super) const CANCEL_LOST: &str = "a cancel against it did not end";
pub(super) const CONFIG_CHANGED: &str = "database configuration changed";
const LEFT_IN_THE_MIDDLE: &str = "client left in the middle of a message, a copy or a batch";

/// How a client left its server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// It only needed the server for its welcome, and stays.
    Welcomed,
    /// Its transaction is over, and it stays.
    Over,
    /// It said Terminate.
    Terminated,
    /// It closed the connection, and is owed nothing.
    Closed,
    /// The connection to it is lost.
    Lost(Why),
    /// It was refused something, or told to go.
    Refused,
}

impl Engine {
    /// A paired client has left.
    #[inline(never)]
    pub(super) fn client_left(
        &mut self,
        key: ClientKey,
        departure: Departure,
        host: &mut dyn Host,
    ) {
        let reason = match &departure {
            Departure::Terminated => "client close request".to_owned(),
            Departure::Closed => "client closed the connection without Terminate".to_owned(),
            Departure::Lost(why) => format!("client lost: {why}"),
            Departure::Welcomed | Departure::Over | Departure::Refused => "closed".to_owned(),
        };
        if self
            .clients
            .get(key)
            .is_some_and(|client| client.state.server().is_some())
        {
            let word = reasons::client_close(&reason);
            self.tally.client_closed(word, NO_CODE);
        }
        if let Some(server) = self.unpair(key) {
            self.release(server, departure, host);
        }
        self.close_client(key, &reason, host);
    }

    /// Takes a client's server from it; the client is about to go.
    fn unpair(&mut self, key: ClientKey) -> Option<ServerKey> {
        let client = self.clients.get_mut(key)?;
        let server = client.state.server()?;
        client.state = ClientState::Leaving { shut: false };
        if let Some(server) = self.servers.get_mut(server) {
            server.copy_in.end(Some(&mut client.link)); // what it still says is read to its end
        }
        if self.watches {
            self.left_unanswered(key, server);
        }
        Some(server)
    }

    /// What a client had asked last, if it goes before the answer has come.
    fn left_unanswered(&mut self, key: ClientKey, server: ServerKey) {
        let Some(server) = self.servers.get_mut(server) else {
            return;
        };
        let took_us = self.now.since(server.request_at);
        if let (true, Some(requests)) = (server.relay.owes_client(), &mut server.requests) {
            let mut watch = Watch {
                queries: &mut self.queries,
                slow: &self.config.log.slow,
                found: &mut self.slow,
                database: "",
                pool: server.pool,
            };
            requests.left(took_us, &mut watch);
            self.tell_slow(key);
        }
    }

    /// A server has no client any more: does it come to rest by itself, or is it closed?
    #[inline(never)]
    pub(super) fn release(&mut self, key: ServerKey, departure: Departure, host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        server.state = ServerState::Held;
        let cancels = server.cancels > 0;
        let stays = matches!(departure, Departure::Welcomed | Departure::Over);
        server.sessions += u64::from(!stays);
        let shut = server.link.as_ref().is_some_and(super::Link::is_shut);
        if server.relay.is_quiet() && !shut {
            self.release_rested(key, host);
        } else if server.relay.can_finish() && !shut {
            // What the client asked for is done to its end, as it would be without a pooler; it may rely on that.
            self.enter_server(key, ServerState::Draining);
            self.list(Who::Server(key));
        } else {
            self.close_server(key, LEFT_IN_THE_MIDDLE, host);
        }
        if cancels {
            self.wake_cancels(key); // those that are not sent yet have missed
        }
    }

    /// A server that nobody holds has come to rest: is it reset, held back, or closed?
    pub(super) fn release_rested(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(server) = self.servers.get(key) else {
            return;
        };
        let cancels = server.cancels > 0;
        match self.unfit(key) {
            Some(reason) => self.close_server(key, reason, host),
            None if cancels => self.enter_server(key, ServerState::Held),
            None => self.reset(key, host),
        }
    }

    /// Why a server that has come to rest is of no more use, if it is not.
    pub(super) fn unfit(&self, key: ServerKey) -> Option<&'static str> {
        let server = self.servers.get(key)?;
        match self.pools.get(server.pool) {
            Some(pool) => unfit_for(pool, server, self.now, self.gives_out_nothing()),
            None => Some(CONFIG_CHANGED),
        }
    }

    /// Takes what a server still says to a client that has gone, until it has come to rest.
    pub(super) fn drain(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        let Some(link) = server.link.as_mut().filter(|link| link.is_readable()) else {
            self.buffer = buffer;
            return;
        };
        let input = link.read(&mut buffer);
        let mut broke = None;
        if let Input::Bytes(count) = input {
            let bytes = buffer.get(..count).unwrap_or_default();
            let passage = if server.shared {
                let mut with = With {
                    client: &mut ClientStatements::default(), // those of the client have gone with it
                    server: &mut server.statements,
                    vars: None,
                    library: &mut self.library,
                    max: 0,
                };
                self.edited.clear();
                let vars = &mut server.vars;
                server
                    .relay
                    .down_rewriting(bytes, vars, &mut with, &mut self.edited)
            } else {
                server.relay.down(bytes, &mut server.vars)
            };
            match passage.then {
                Then::Refuse(refusal) => broke = Some(refusal.text()),
                Then::Block => broke = Some(NO_BLOCKS.to_owned()),
                _ => link.keep(bytes.get(passage.pass..).unwrap_or_default()),
            }
        }
        let (readable, quiet) = (link.is_readable(), server.relay.is_quiet());
        let stuck = !server.relay.can_finish();
        self.buffer = buffer;
        match (input, broke) {
            (Input::Closed(why), _) => {
                self.close_server(key, &format!("server conn crashed? {why}"), host)
            }
            (_, Some(text)) => self.close_server(key, &text, host),
            _ if quiet => self.release_rested(key, host),
            _ if stuck => self.close_server(key, LEFT_IN_THE_MIDDLE, host),
            _ if readable => self.list(Who::Server(key)),
            _ => {}
        }
    }

    /// Tells a client why it has to go. Its server, if it has one, is released.
    pub(super) fn refuse(&mut self, key: ClientKey, refusal: Refusal, host: &mut dyn Host) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        if matches!(client.state, ClientState::Leaving { .. }) {
            return; // it has been told
        }
        self.tally.client_closed("refused", refusal.sqlstate);
        let timed_out = refusal.sqlstate == *b"57014";
        self.count_login(key, if timed_out { "timeout" } else { "refused" });
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let server = client
            .state
            .server()
            .and_then(|server| self.servers.get(server));
        let may_tell = server.is_none_or(|server| server.relay.may_add_error());
        let cancels = ClientState::is_cancel(&client.state);
        if may_tell && !cancels {
            self.tell(key, &refusal);
        }
        self.forget(key);
        if let Some(server) = self.unpair(key) {
            self.release(server, Departure::Refused, host);
        }
        self.leave(key);
    }

    /// Sends an error, and logs it.
    fn tell(&mut self, key: ClientKey, refusal: &Refusal) {
        let mut out = Vec::new();
        self.worded(refusal).write(&mut out);
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        client.link.send(&out);
        if let Some(client) = self.clients.get(key) {
            self.tell_refused(client, refusal);
        }
    }

    /// What was sent is still delivered, then the connection ends.
    fn leave(&mut self, key: ClientKey) {
        self.enter_client(key, ClientState::Leaving { shut: false });
        self.list(Who::Client(key));
    }

    /// Takes a client out of the queue and off the books, and forgets its cancel key.
    pub(super) fn forget(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        self.newcomers.remove(client.id);
        if matches!(client.state, ClientState::AwaitingPeer) {
            self.stop_waiting_for_peer(key);
        }
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let Some(session) = client.session.as_deref_mut() else {
            return;
        };
        if let Some(cancel) = session.cancel.take() {
            self.cancel_keys.remove(cancel.pid, key);
        }
        let waits = client.state.is_waiting();
        if waits {
            client.state = ClientState::Leaving { shut: false };
        }
        if let Place::Pool(pool) = session.place {
            if waits {
                self.pools.leave_queue(pool, key);
            }
            if std::mem::take(&mut session.counted) {
                self.pools.left(pool, session.claim.user.as_bytes());
            }
            // With the last client of a name that only `"*"` covers, the pool may go as well; and where servers are kept ready, it is
            // seen whether enough are.
            let is_looked_at = self.pools.get(pool).is_some_and(|pool| {
                let config = &pool.config;
                let keeps = config.min_idle_connections > 0 || config.sizes.min_pool_size > 0;
                pool.from_fallback || keeps
            });
            if waits || is_looked_at || !self.is_calm(pool) {
                self.unsettled.insert(pool);
            }
        }
    }

    /// Ends a client's connection without another word. A server that it holds is released.
    #[inline(never)]
    pub(super) fn close_client(&mut self, key: ClientKey, reason: &str, host: &mut dyn Host) {
        let is_counted = |client: &Client| matches!(client.state, ClientState::Leaving { .. });
        if self
            .clients
            .get(key)
            .is_some_and(|client| !is_counted(client))
        {
            let word = reasons::client_close(reason);
            self.tally.client_closed(word, NO_CODE);
            self.count_login(key, "left");
        }
        self.forget(key);
        if let Some(server) = self.unpair(key) {
            self.release(server, Departure::Closed, host);
        }
        let Some(mut client) = self.clients.remove(key) else {
            return;
        };
        client.link.wipe();
        let age = self.now.since(client.connected_at) / 1_000_000;
        match &client.session {
            // It was told why, or it never said who it is: health checks do that all the time.
            _ if matches!(client.state, ClientState::Leaving { shut: true }) => {}
            None => log::debug!("client {}: {reason} (age {age}s)", client.id),
            Some(_) => self.tell_closed(&client, reason),
        }
    }

    /// Lets a client read its last message: writes, closes our side, and waits for the end of the other.
    #[inline(never)]
    pub(super) fn linger(&mut self, key: ClientKey, host: &mut dyn Host) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        if client.link.is_flushed()
            && let ClientState::Leaving { shut } = &mut client.state
            && !std::mem::replace(shut, true)
        {
            client.link.shutdown();
        }
        let mut over = client.link.broken().is_some();
        if client.link.is_readable() {
            let carried = client.link.take_carry(&mut buffer);
            super::admit::wipe(&mut buffer, carried);
            let input = client.link.read(&mut buffer);
            over |= matches!(input, Input::Closed(_));
            if let Input::Bytes(count) = input {
                super::admit::wipe(&mut buffer, count); // perhaps the password of one who failed
            }
            // What came may ask for an answer of the TLS layer.
            if client.link.is_readable() || client.link.can_flush() {
                self.list(Who::Client(key));
            }
        }
        self.buffer = buffer;
        if over {
            self.end_lingering(key, host);
        }
    }

    fn end_lingering(&mut self, key: ClientKey, host: &mut dyn Host) {
        if let Some(client) = self.clients.get_mut(key) {
            client.state = ClientState::Leaving { shut: true }; // it is in the log already
        }
        self.close_client(key, "", host);
    }

    /// A server has closed its connection to a client that holds it.
    #[cold]
    pub(super) fn server_left(
        &mut self,
        client: ClientKey,
        key: ServerKey,
        why: &Why,
        host: &mut dyn Host,
    ) {
        let Some(server) = self.servers.get(key) else {
            return;
        };
        let place = server
            .address
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        let refusal = Refusal::fatal(
            b"08006",
            "the server closed the connection unexpectedly",
            Blame::Server,
        )
        .detail(format!(
            "The connection of the pooler to {place} ended: {why}."
        ))
        .hint(
            "The server may have crashed or been restarted; connect again. \
                 A transaction that was being committed may or may not have been.",
        )
        .pgbouncer("server conn crashed?");
        let reason = match server.relay.last_error() {
            Some(code) => format!("server {why} after error {}", printable(&code)),
            None => format!("server conn crashed? {why}"),
        };
        self.end_pair(client, key, &refusal, &reason, host);
    }

    /// A server broke the protocol: its connection is closed, and so is its client's.
    #[cold]
    pub(super) fn server_broke(
        &mut self,
        client: ClientKey,
        key: ServerKey,
        refusal: &Refusal,
        host: &mut dyn Host,
    ) {
        log::error!(
            "a server broke the protocol: {}",
            refusal.detail.as_deref().map(printable).unwrap_or_default()
        );
        self.end_pair(client, key, refusal, "bad packet", host);
    }

    /// Ends both ends of a pair, through the server's fault as a rule. If the server has said why itself, the client is told no more.
    #[cold]
    pub(super) fn end_pair(
        &mut self,
        client: ClientKey,
        server: ServerKey,
        refusal: &Refusal,
        reason: &str,
        host: &mut dyn Host,
    ) {
        let relay = self.servers.get(server).map(|server| &server.relay);
        let may_tell = relay.is_some_and(Relay::may_add_error);
        let told = match may_tell {
            true => refusal.sqlstate,
            false => relay.and_then(Relay::last_error).unwrap_or(NO_CODE),
        };
        self.tally.client_closed("server", told);
        let _ = self.unpair(client);
        self.close_server(server, reason, host);
        self.forget(client);
        if may_tell {
            self.tell(client, refusal);
        } else if let Some(client) = self.clients.get(client) {
            self.tell_closed(client, reason);
        }
        self.leave(client);
    }

    /// Ends a server connection that no client holds, and takes it off its pool's books.
    pub(super) fn close_server(&mut self, key: ServerKey, reason: &str, host: &mut dyn Host) {
        if let Some(server) = self.servers.get_mut(key) {
            let mut bye = Vec::new();
            frontend::terminate(&mut bye);
            // In the middle of a message the server would take the goodbye for the rest of it.
            if !server.state.is_connecting()
                && !server.state.is_cancel()
                && server.relay.is_between_messages()
                && let Some(link) = server.link.as_mut()
            {
                link.send(&bye);
            }
            let was_made = !server.state.is_cancel() && !server.state.is_connecting();
            if let Some(pool) = self.pools.get_mut(server.pool).filter(|_| was_made) {
                pool.stats.events.server_closed(reason);
            }
        }
        if let Some(server) = self.servers.get(key).filter(|s| !s.state.is_cancel()) {
            self.tell_server_closed(server, reason);
        }
        if self
            .servers
            .get(key)
            .is_some_and(|server| server.state.is_cancel())
        {
            log::debug!("cancel: {reason}");
            self.drop_cancel(key, host);
        } else {
            self.drop_server(key);
        }
    }

    /// Ends the connection of a cancel.
    pub(super) fn drop_cancel(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(server) = self.servers.remove(key) else {
            return;
        };
        match server.state {
            ServerState::Cancelling(cancel) => self.cancel_ended(*cancel, server.pool, host),
            ServerState::Forwarding(forward) => self.forward_ended(&forward, host),
            _ => {}
        }
    }

    /// Takes a server off its pool's books.
    pub(super) fn drop_server(&mut self, key: ServerKey) {
        let Some(server) = self.servers.remove(key) else {
            return;
        };
        let (pool, kind) = (server.pool, &server.kind);
        match server.state {
            ServerState::Resolving
            | ServerState::AskingTls
            | ServerState::Dialing
            | ServerState::LoggingIn(_)
            | ServerState::Preparing(_) => self.pools.dial_ended(pool, kind),
            ServerState::Idle => self.pools.take_idle(pool, key, kind),
            ServerState::Checking(_) => self.pools.check_ended(pool, kind),
            ServerState::Tuning(tuning) => self.pools.asking_ended(pool, kind, &tuning.settings),
            ServerState::Looking(lookup) => self.lookups.lost(pool, &lookup.user),
            ServerState::Paired(_)
            | ServerState::Draining
            | ServerState::Held
            | ServerState::Resetting(_)
            | ServerState::Cancelling(_)
            | ServerState::Forwarding(_) => {}
        }
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.sessions_ended += server.sessions;
        }
        self.pools.gone(pool, kind);
        self.unsettled.insert(server.pool);
    }

    /// A client's state has lasted too long.
    pub(super) fn client_expired(&mut self, key: ClientKey, host: &mut dyn Host) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        match &client.state {
            ClientState::Greeting { .. } if client.session.is_none() => {
                self.close_client(
                    key,
                    "client_login_timeout before a startup packet came",
                    host,
                );
            }
            ClientState::Greeting { .. }
            | ClientState::Proving(_)
            | ClientState::Deriving(_)
            | ClientState::Identifying(_)
            | ClientState::LookingUp(_)
            | ClientState::HeldBack(_)
            | ClientState::Failing(..) => {
                if self.held_back_expired(key, host) {
                    return;
                }
                let refusal = Refusal::fatal(
                    b"57014",
                    "canceling authentication due to timeout",
                    Blame::Client,
                )
                .hint("See server.client_login_timeout in Aether's configuration.")
                .pgbouncer("client_login_timeout");
                self.refuse(key, refusal, host);
            }
            ClientState::AwaitingWelcome | ClientState::Queued => {
                let refusal = self
                    .waited_too_long(key, client)
                    .pgbouncer("query_wait_timeout");
                self.refuse(key, refusal, host);
            }
            ClientState::Idle => self.refuse(key, idle_for_too_long(), host),
            ClientState::Paired(server) | ClientState::Departing(server) => {
                let (server, what) = (*server, self.has_overdone(client));
                self.pair_expired(key, server, what, host);
            }
            ClientState::Cancelling(_) => self.close_client(key, "cancel request timed out", host),
            ClientState::AwaitingPeer => self.close_client(key, "cancel_wait_timeout", host),
            ClientState::Leaving { .. } => self.end_lingering(key, host),
            ClientState::Console(_) => {}
        }
    }

    /// A client has overdone something with its server.
    fn pair_expired(
        &mut self,
        key: ClientKey,
        server: ServerKey,
        what: Option<Overdone>,
        host: &mut dyn Host,
    ) {
        let Some(what) = what else {
            return self.arm_client(key);
        };
        if let Some(refusal) = what.refusal() {
            if self
                .servers
                .get(server)
                .is_some_and(|server| server.relay.is_busy())
            {
                let _ = self.cancel(server, None, host); // the server does not notice by itself that nobody waits
            }
            let reason = refusal.text();
            return self.end_pair(key, server, &refusal, &reason, host);
        }
        if what == Overdone::Idle {
            return self.refuse(key, idle_for_too_long(), host);
        }
        self.client_left(key, Departure::Lost(Why::Eof), host);
        let drains = |server: &super::Server| matches!(server.state, ServerState::Draining);
        if self.servers.get(server).is_some_and(drains) {
            self.server_expired(server, host); // its time is over as well, and does not begin anew
        }
    }

    /// `query_wait_notify`: a client that waits with a query is told so once, in PgBouncer's words. `armed`: the time for which the
    /// timer was set that has brought us here.
    pub(super) fn tell_of_queue(&mut self, key: ClientKey, armed: Tick) {
        let Some(at) = self.notice_of_queue(key) else {
            return;
        };
        if armed <= at && at <= self.now {
            let mut out = Vec::new();
            notice(&mut out, QUEUED, None);
            self.send_to_client(key, &out);
            self.list_if_it_can_go_on(Who::Client(key));
        }
    }

    /// Why a client did not get a server in time: the server's own error if there is one, else the limit that was reached.
    fn waited_too_long(&self, key: ClientKey, client: &Client) -> Refusal {
        let found = client
            .pool()
            .and_then(|key| Some((key, self.pools.get(key)?)));
        let Some((pool_key, pool)) = found else {
            return Refusal::fatal(
                b"57014",
                "canceling authentication due to timeout",
                Blame::Operator,
            );
        };
        let name = pool.label();
        let (limit, timeout) = self.limit_of_wait(client);
        let waited = format!("Pool \"{name}\": waited {timeout:?} ({limit})");
        if pool.held {
            return Refusal::fatal(
                b"53300",
                format!("no server connection of pool \"{name}\" became free in time"),
                Blame::Operator,
            )
            .detail(format!("{waited}; an operator has paused the database (PAUSE, KILL or SIGUSR1), and not resumed it."));
        }
        if let Some(failure) = &pool.failure {
            return failure.refusal.clone().detail(format!(
                "{waited}; {} attempts to reach the server failed.",
                failure.attempts
            ));
        }
        let refusal = Refusal::fatal(
            b"53300",
            format!("no server connection of pool \"{name}\" became free in time"),
            Blame::Operator,
        );
        let clients = pool.waiting();
        let role = client
            .session
            .as_deref()
            .and_then(|session| session.kind.as_deref())
            .map(|kind| printable(&kind.user))
            .unwrap_or_default();
        let Some(Waits::ForRoom { limit, in_use, max }) = self.pools.waits_for(pool_key, key)
        else {
            return refusal
                .detail(format!("{waited}; no limit was reached, but new server connections were not ready, {clients} clients wait."))
                .hint("Aether's log says how its attempts to log in to the server went.");
        };
        let (what, knob) = match limit {
            Limit::Database => (String::new(), "max_connections of the pool".to_owned()),
            Limit::DatabaseUser => (
                format!(" as \"{role}\" in this pool"),
                "max_connections_per_user of the pool".to_owned(),
            ),
            Limit::User => (
                format!(" as \"{role}\" in all pools"),
                format!("max_connections of \"{role}\" in section users"),
            ),
        };
        refusal
            .detail(format!("{waited}; {in_use} of {max} server connections{what} are in use, {clients} clients wait."))
            .hint(format!("Raise {knob}, or look for clients that hold on to their sessions: SHOW CLIENTS in the console."))
    }
}

/// Why a server that has come to rest is of no more use in a pool, if it is not. `stopping`: no server is.
#[inline(always)]
pub(super) fn unfit_for(
    pool: &Pool,
    server: &Server,
    now: Tick,
    stopping: bool,
) -> Option<&'static str> {
    let (relay, config) = (&server.relay, &pool.config);
    if relay.has_surplus() {
        Some("it spoke while nobody had asked")
    } else if relay.is_in_doubt() || relay.is_broken() {
        Some("it sent an answer that nothing explains")
    } else if !server.shared && !relay.is_reusable() {
        Some("client left something behind that DISCARD ALL does not remove")
    } else if server.shared && relay.seen().cannot_be_undone() && config.transaction_reset {
        Some("client left something behind that no query undoes")
    } else if server.kind.is_replication() {
        Some("replication connections serve one session")
    } else if server.cancel_lost {
        Some(CANCEL_LOST)
    } else if server.recycle || pool.removed {
        Some(CONFIG_CHANGED)
    } else if server.is_expired(now) || (config.sizes.single_use && relay.is_touched()) {
        Some("server lifetime over")
    } else if stopping {
        Some("the pooler stops")
    } else if pool.held {
        Some(PAUSE_MODE)
    } else {
        None
    }
}

fn idle_for_too_long() -> Refusal {
    Refusal::fatal(
        b"57P05",
        "terminating connection due to idle-session timeout",
        Blame::Operator,
    )
    .hint("See client_idle_timeout of the pool in Aether's configuration.")
    .pgbouncer("client_idle_timeout")
}

/// Why an idle server's connection is over.
pub(super) fn closed_while_idle(why: &Why) -> String {
    format!("the server {why} while it was not in use")
}
