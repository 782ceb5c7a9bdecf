//! Gives servers to the clients that wait, in the order in which they came, and keeps some ready.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::close::{CONFIG_CHANGED, Departure, closed_while_idle, unfit_for};
use super::{
    Client, ClientKey, ClientState, Engine, Host, Input, Link, PoolKey, Server, ServerKey,
    ServerState, Tick, Timer, Who, ms,
};
use crate::config::{PoolConfig, PoolMode};
use crate::limits;
use crate::pool::{Checkout, Kind, Limit, Pool};
use crate::relay::Vars;
use crate::relay::prepared::{Slot, Unnamed};
use crate::reset::Reset;
use crate::wire::refusal::{Blame, Refusal, notice};
use crate::wire::{backend, frontend};

impl Engine {
    /// Goes through the pools whose queue or stock has changed, and serves whom it can.
    pub(super) fn settle(&mut self, host: &mut dyn Host) {
        if self.is_settled() {
            return; // as after nearly every transaction
        }
        self.carry_out(host);
        if self.holds.is_suspended() {
            return;
        }
        for _ in 0..limits::SETTLE_ROUNDS {
            self.tell_news(host);
            if self.is_settled() {
                return;
            }
            let mut pools = std::mem::take(&mut self.unsettled);
            self.close_surplus(host);
            self.end_retired(host);
            for &pool in &pools {
                self.close_held(pool, host);
                self.close_unwanted(pool, host);
                self.welcome_waiting(pool, host);
                self.pools.wake_paused(pool, self.now);
                self.pools.wake_for_reserve(pool, self.now);
            }
            self.serve(&mut pools, host);
            pools.append(&mut self.pools.take_stood());
            for &pool in &pools {
                self.serve_lookups(pool, host);
            }
            for &pool in &pools {
                self.refill(pool, host);
                self.arm_pool(pool);
                self.drop_pool_if_done(pool);
            }
        }
    }

    /// Whether nothing has changed that anybody waits for, and nothing was ordered.
    fn is_settled(&self) -> bool {
        self.holds.are_still()
            && self.unsettled.is_empty()
            && self.pools.is_settled()
            && !self.lookups.has_news()
    }

    /// Serves those who wait, in the order in which they came. `touched`: pools in which something was done.
    fn serve(&mut self, touched: &mut BTreeSet<PoolKey>, host: &mut dyn Host) {
        while let Some((lane, checkout)) = self.pools.next(self.now) {
            touched.insert(lane.pool);
            match checkout {
                Checkout::Pair {
                    client,
                    since,
                    server,
                } => {
                    if self.is_fit(server, host) && self.is_clean_for(client, server, host) {
                        self.pair(client, server, since, host);
                        self.list(Who::Client(client));
                    }
                }
                Checkout::Ask(server, settings) => {
                    if self.is_fit(server, host) {
                        self.tune(server, settings);
                        self.welcome_waiting(lane.pool, host);
                    }
                }
                Checkout::Dial(reserve) => {
                    if let Some(client) = reserve {
                        self.tell_of_reserve(client);
                    }
                    self.dial(lane.pool, lane.kind, host);
                }
                Checkout::Evict(server, limit) => self.close_server(server, made_room(limit), host),
                Checkout::Replace(server, limit) => {
                    self.close_server(server, made_room(limit), host);
                    self.dial(lane.pool, lane.kind, host);
                }
            }
            self.pools.wake_paused(lane.pool, self.now);
        }
    }

    /// In PgBouncer's words.
    fn tell_of_reserve(&self, client: ClientKey) {
        if let Some(client) = self.clients.get(client) {
            let (id, label) = (client.id, client.label());
            log::warn!("client {id} {label}: taking connection from reserve_pool");
        }
    }

    /// Closes idle servers that are above a limit: it was lowered.
    fn close_surplus(&mut self, host: &mut dyn Host) {
        for key in self.pools.take_surplus() {
            let is_surplus = self.servers.get(key).is_some_and(|server| {
                matches!(server.state, ServerState::Idle)
                    && self.pools.is_surplus(server.pool, &server.kind)
            });
            if is_surplus {
                self.close_server(key, "too many servers in the pool", host);
            }
        }
    }

    /// Whether nothing of other clients can be seen on a server. Those who share it with others leave their settings and
    /// statements behind; after a reload that changed the mode, whoever is to have it for a session gets a new one instead.
    pub(super) fn is_clean_for(
        &mut self,
        client: ClientKey,
        key: ServerKey,
        host: &mut dyn Host,
    ) -> bool {
        let alone = self
            .clients
            .get(client)
            .is_some_and(|client| client.mode() == PoolMode::Session);
        let used = self.servers.get(key).is_some_and(|server| server.shared);
        if alone && used {
            self.close_server(
                key,
                "clients have shared it, and the mode is session now",
                host,
            );
        }
        !(alone && used)
    }

    /// Whether an idle server can be given away now. If it has been idle for long it is checked first; if it is dead or too
    /// old it is closed; in both cases it is idle no more. One that has answered in this very turn needs no check.
    pub(super) fn is_fit(&mut self, key: ServerKey, host: &mut dyn Host) -> bool {
        if !self.is_silent(key, host) {
            return false;
        }
        let (now, Some(server)) = (self.now, self.servers.get_mut(key)) else {
            return false;
        };
        if server.is_expired(now) {
            self.close_server(key, "server lifetime over", host);
            return false;
        }
        let Some(pool) = self.pools.get_mut(server.pool) else {
            return false;
        };
        let check = pool.config.check_query.as_deref();
        let Some(check) = check.filter(|_| is_check_due(server, &pool.config, now)) else {
            return true;
        };
        let mut out = Vec::new();
        let reset = Reset::check(check, &mut out);
        if let Some(link) = server.link.as_mut() {
            link.send(&out);
        }
        server.statements.slot = Slot::Empty; // a simple query ends it
        let idle_us = now.since(server.since);
        pool.stats.total.idle_us += idle_us;
        pool.stats.total.idle_ends += 1;
        pool.stats.total.checks += 1;
        let (pool, kind) = (server.pool, server.kind.clone());
        self.pools.checking(pool, key, &kind);
        self.enter_server(key, ServerState::Checking(reset));
        false
    }

    /// Looks whether a server has said something, or has closed the connection, that the poll has not told yet.
    fn is_silent(&mut self, key: ServerKey, host: &mut dyn Host) -> bool {
        if self.servers.get(key).is_some_and(Server::is_quiet) {
            return true;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let input = match self
            .servers
            .get_mut(key)
            .and_then(|server| server.link.as_mut())
        {
            Some(link) => link.read(&mut buffer),
            None => Input::Nothing,
        };
        match input {
            Input::Nothing => {}
            Input::Bytes(count) => {
                self.server_bytes(key, buffer.get(..count).unwrap_or_default(), host)
            }
            Input::Closed(why) => self.close_server(key, &closed_while_idle(&why), host),
        }
        self.buffer = buffer;
        self.list(Who::Server(key));
        self.servers
            .get(key)
            .is_some_and(|server| matches!(server.state, ServerState::Idle))
    }

    /// Gives a server to a client. Somebody has to run the pair then.
    pub(super) fn pair(
        &mut self,
        client_key: ClientKey,
        server_key: ServerKey,
        since: Tick,
        host: &mut dyn Host,
    ) {
        let now = self.now;
        let (Some(client), Some(server)) = (
            self.clients.get_mut(client_key),
            self.servers.get_mut(server_key),
        ) else {
            return;
        };
        let Some(pool) = self.pools.get_mut(server.pool) else {
            return;
        };
        let awaiting = matches!(client.state, ClientState::AwaitingWelcome);
        begin(client, server, pool, now, since);
        let only_welcome =
            awaiting && client.is_frugal(&pool.config) && !server.kind.is_replication();
        let vars = awaiting.then(|| server.vars.clone());
        let pool = server.pool;
        if client.state.is_waiting() {
            self.pools.leave_queue(pool, client_key);
        }
        self.pools.take_idle(pool, server_key, &server.kind);
        self.enter_server(server_key, ServerState::Paired(client_key));
        self.enter_client(client_key, ClientState::Paired(server_key));
        if let Some(vars) = vars {
            self.welcome(client_key, &vars, Some(server_key), host);
        }
        if only_welcome {
            self.enter_client(client_key, ClientState::Idle);
            self.release(server_key, Departure::Welcomed, host);
        }
        if self.pools.is_short(pool, self.now) {
            self.unsettled.insert(pool);
        }
    }

    /// Whether servers are given out and taken back in one step, where nothing else follows from that: as a rule. The long way does the
    /// same, which the simulation sees by going it.
    pub fn take_short_ways(&mut self, on: bool) {
        self.short_ways = on;
    }

    /// Gives the server at hand, if there is one that needs no look at it, to an idle client, where nothing else follows from that.
    pub(super) fn pair_at_hand(&mut self, client_key: ClientKey) -> Option<ServerKey> {
        if !self.short_ways || !self.unsettled.is_empty() {
            return None;
        }
        let now = self.now;
        let client = self.clients.get_mut(client_key)?;
        let pool_key = client.pool()?;
        let session = client.session.as_deref()?;
        if session.mode == PoolMode::Session {
            return None;
        }
        let kind = session.kind.as_ref()?;
        let servers = &self.servers;
        let fit = |server: ServerKey, config: &PoolConfig| {
            servers.get(server).is_some_and(|server| {
                server.is_quiet() && !server.is_expired(now) && !is_check_due(server, config, now)
            })
        };
        let server_key = self
            .pools
            .take_at_hand(pool_key, kind, session.epoch, fit)?;
        let (server, pool) = (
            self.servers.get_mut(server_key)?,
            self.pools.get_mut(pool_key)?,
        );
        begin(client, server, pool, now, now);
        client.enter(ClientState::Paired(server_key), now);
        server.enter(ServerState::Paired(client_key), now);
        if pool.is_short(now) {
            self.unsettled.insert(pool_key);
        }
        Some(server_key)
    }

    /// Tells a client that it is logged in. `server`: the one whose process id it is given, if it has one for good.
    #[inline(never)]
    pub(super) fn welcome(
        &mut self,
        key: ClientKey,
        vars: &Rc<Vars>,
        server: Option<ServerKey>,
        host: &mut dyn Host,
    ) {
        let server = server.and_then(|server| self.servers.get(server));
        let keep = server.is_some_and(|server| {
            let pool = self.pools.get(server.pool);
            let client = self.clients.get(key);
            pool.zip(client)
                .is_some_and(|(pool, client)| !client.is_frugal(&pool.config))
        });
        let pid = server
            .map(|server| server.pid)
            .filter(|&pid| keep && pid != 0);
        let notices = server
            .map(|server| server.notices.clone())
            .unwrap_or_default();
        let session = self.clients.get(key).and_then(|c| c.session.as_deref());
        let Some(minor) = session.map(|session| session.claim.minor) else {
            return;
        };
        let cancel = self.new_cancel_key(pid, minor, host);
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let Some(session) = client.session.as_deref_mut() else {
            return;
        };
        let mut out = Vec::with_capacity(512);
        backend::write_authentication_ok(&mut out);
        for (name, value) in vars.iter() {
            backend::write_parameter_status(&mut out, name, value);
        }
        backend::write_backend_key_data(&mut out, cancel.pid, cancel.secret());
        out.extend_from_slice(&notices);
        let message = &self.config.server.login_notify_message;
        if !message.is_empty() {
            notice(&mut out, message, None);
        }
        backend::write_ready(&mut out);
        self.cancel_keys.insert(cancel.pid, key);
        session.cancel = Some(cancel);
        session.vars = vars.clone();
        client.link.send(&out);
    }

    /// A client's transaction is over: its server is free for others.
    pub(super) fn give_back(
        &mut self,
        client_key: ClientKey,
        server_key: ServerKey,
        host: &mut dyn Host,
    ) {
        let stopping = self.gives_out_nothing();
        let (Some(client), Some(server)) = (
            self.clients.get_mut(client_key),
            self.servers.get_mut(server_key),
        ) else {
            return;
        };
        let Some(pool) = self.pools.get(server.pool) else {
            return;
        };
        if let Some(session) = client.session.as_deref_mut() {
            if !Rc::ptr_eq(&session.vars, &server.vars) {
                session.vars = server.vars.clone();
            }
            if matches!(session.statements.unnamed, Unnamed::OnServer) {
                session.statements.unnamed = Unnamed::None;
            }
        }
        let rests = leaves_nothing(server) && unfit_for(pool, server, self.now, stopping).is_none();
        let (pool_key, watched) = (server.pool, pool.watched);
        if rests {
            server.relay.renew();
        }
        // As nearly always: nobody waits for it.
        if rests
            && self.short_ways
            && server.idle_watched
            && self.stop.is_none()
            && !self.lookups.is_asked(pool_key)
            && self.pools.put_back(pool_key, server_key, &server.kind)
        {
            client.enter(ClientState::Idle, self.now);
            server.enter(ServerState::Idle, self.now);
            server.bulk.end(server.link.as_mut());
            let server_goes_on = server.link.as_ref().is_some_and(Link::can_go_on);
            let client_goes_on = client.link.can_go_on();
            if watched {
                self.arm_client(client_key);
            }
            if server_goes_on {
                self.list(Who::Server(server_key));
            }
            if client_goes_on {
                self.list(Who::Client(client_key));
            }
            return;
        }
        self.enter_client(client_key, ClientState::Idle);
        match rests {
            true => self.put_idle(server_key),
            false => self.release(server_key, Departure::Over, host),
        }
        self.list_if_it_can_go_on(Who::Client(client_key));
    }

    /// A server is free: back to its stack.
    pub(super) fn put_idle(&mut self, key: ServerKey) {
        self.enter_server(key, ServerState::Idle);
        if let Some(server) = self.servers.get(key) {
            self.pools.put_idle(server.pool, key, &server.kind);
            let is_kept = !server.recycle && !server.kind.is_replication();
            if !is_kept || !self.is_calm(server.pool) {
                self.unsettled.insert(server.pool);
            }
        }
        self.list_if_it_can_go_on(Who::Server(key));
    }

    /// Whether nobody waits for anything in a pool, and nothing of it is to go.
    pub(super) fn is_calm(&self, pool: PoolKey) -> bool {
        self.pools.is_calm(pool) && !self.lookups.is_asked(pool) && self.stop.is_none()
    }

    /// Closes idle servers that should not be kept.
    fn close_unwanted(&mut self, pool_key: PoolKey, host: &mut dyn Host) {
        let Some(pool) = self.pools.get(pool_key) else {
            return;
        };
        if pool.removed {
            self.refuse_all(pool_key, &pool_removed(&pool.name), host);
        }
        let Some(pool) = self.pools.get(pool_key) else {
            return;
        };
        let removed = pool.removed;
        let stopping = self.gives_out_nothing();
        for key in pool.idle_servers() {
            let recycle = self.servers.get(key).is_some_and(|server| server.recycle);
            if stopping && !self.lookups.is_asked(pool_key) {
                self.close_server(key, "the pooler stops", host);
            } else if recycle || removed {
                self.close_server(key, CONFIG_CHANGED, host);
            } else if self.is_left_over(key) {
                self.close_server(key, "replication client disconnected", host);
            }
        }
        while let Some(surplus) = self.pools.get(pool_key).and_then(Pool::surplus_kind) {
            self.close_server(surplus, "idle servers of too many startup sets", host);
        }
    }

    fn refuse_all(&mut self, pool_key: PoolKey, refusal: &Refusal, host: &mut dyn Host) {
        let waiting = |client: &Client| {
            client.state.is_waiting() || matches!(client.state, ClientState::Idle)
        };
        let clients: Vec<ClientKey> = self
            .clients
            .iter()
            .filter(|(_, c)| c.pool() == Some(pool_key) && waiting(c))
            .map(|(key, _)| key)
            .collect();
        for client in clients {
            self.refuse(client, refusal.clone(), host);
        }
    }

    /// Makes idle servers until the configured number is there; not as somebody whose keys only a client can bring.
    fn refill(&mut self, pool_key: PoolKey, host: &mut dyn Host) {
        while let Some(kind) = self
            .pools
            .refill(pool_key, self.now)
            .filter(|kind| self.stop.is_none() && self.may_log_in_unasked(pool_key, kind))
        {
            self.dial(pool_key, kind, host);
        }
    }

    fn may_log_in_unasked(&self, pool_key: PoolKey, kind: &Rc<Kind>) -> bool {
        self.pools.get(pool_key).is_some_and(|pool| {
            pool.lets_in(kind) || !self.credentials(pool, kind).are_unproven(&self.ring)
        })
    }

    /// Sees to it that the pool is looked at when a pause is over.
    fn arm_pool(&mut self, pool_key: PoolKey) {
        let Some(pool) = self.pools.get_mut(pool_key) else {
            return;
        };
        let short = pool.idle() < pool.config.min_idle_connections || pool.is_below_min();
        let asked = self.lookups.is_asked(pool_key);
        let retry = pool
            .failure
            .as_ref()
            .map(|failure| failure.retry_at)
            .filter(|_| short || pool.waiting() > 0 || asked);
        // Whatever else keeps a question waiting is over without a word.
        let look = asked.then(|| self.now.plus(ms(limits::LOOKUP_LOOK_MS)));
        let refill = Some(pool.refill_after).filter(|_| short);
        let refused = pool
            .refused
            .as_ref()
            .map(|refused| refused.retry_at)
            .filter(|_| short);
        let reserve = pool.next_for_reserve();
        let at = [retry, refill, refused, look, reserve]
            .into_iter()
            .flatten()
            .filter(|&at| at > self.now)
            .min();
        if let Some(at) = at
            && pool.armed.is_none_or(|armed| at < armed)
        {
            pool.armed = Some(at);
            self.wheel.insert(at, Timer::Pool(pool_key));
        }
    }

    /// Forgets a pool that is gone from the configuration, or was made for a name that nobody asks for any more, once nobody
    /// is in it.
    fn drop_pool_if_done(&mut self, pool_key: PoolKey) {
        let Some(pool) = self.pools.get(pool_key) else {
            return;
        };
        let unused = pool.total() == 0 && pool.clients() == 0 && pool.cancels == 0;
        if !(unused && (pool.removed || pool.from_fallback)) {
            return;
        }
        let name = pool.name.clone();
        if self.keep_unused(pool_key) {
            return;
        }
        // Nobody has entered it. Somebody may be about to.
        if self
            .clients
            .iter()
            .any(|(_, client)| client.pool() == Some(pool_key))
        {
            return;
        }
        if self.names.get(&name) == Some(&pool_key) {
            self.names.remove(&name);
        }
        self.pools.remove(pool_key);
    }

    /// `autodb_idle_timeout`: a pool made for a name that nobody asks for now is kept for a while, if it has ever had a server.
    fn keep_unused(&mut self, pool_key: PoolKey) -> bool {
        let (now, timeout) = (self.now, self.config.server.autodb_idle_timeout);
        let Some(pool) = self.pools.get_mut(pool_key) else {
            return false;
        };
        if pool.removed || pool.stats.total.connects == 0 {
            return false;
        }
        let since = *pool.unused_since.get_or_insert(now);
        if timeout.is_zero() {
            return true;
        }
        let until = since.plus(timeout);
        if until > now && pool.armed.is_none_or(|armed| until < armed) {
            pool.armed = Some(until);
            self.wheel.insert(until, Timer::Pool(pool_key));
        }
        until > now
    }

    /// A connection attempt has failed: who is told, and when is the next one?
    pub(super) fn dial_failed(
        &mut self,
        pool_key: PoolKey,
        kind: &Rc<Kind>,
        refusal: Refusal,
        host: &mut dyn Host,
    ) {
        let now = self.now;
        let Some(pool) = self.pools.get_mut(pool_key) else {
            return;
        };
        pool.refill_after = now.plus(ms(limits::REFILL_PAUSE_MS));
        self.unsettled.insert(pool_key);
        // Of replication connections (max_wal_senders) there may be enough while there is room for others.
        let full = refusal.sqlstate == *b"53300" && !kind.is_replication();
        if is_passing(&refusal) || (full && pool.total() > 0) {
            let last = pool.failure.take();
            let (before, due) = last.map_or((0, now), |last| (last.attempts, last.retry_at));
            // Of attempts that were made together the first counts.
            let counts = now >= due;
            let attempts = before.saturating_add(u32::from(counts));
            let first = ms(limits::RETRY_FIRST_MS);
            let longest = pool.config.timeouts.server_login_retry.max(first);
            let pause = (first * (1 << attempts.saturating_sub(1).min(10))).min(longest);
            pool.refused = None;
            pool.failure = Some(crate::pool::Failure {
                refusal,
                attempts,
                retry_at: if counts { now.plus(pause) } else { due },
            });
            // The server is full, partly with connections of ours that nobody uses: the waiter's next attempt gets the place.
            if full
                && pool.waiting() > 0
                && let Some(idle) = pool.oldest_idle()
            {
                self.close_server(
                    idle,
                    "made room on the server for a client with other startup parameters",
                    host,
                );
            }
            return;
        }
        pool.login_refused(kind, refusal.clone(), now);
        pool.prefer_another(kind);
        self.lookups.refused(pool_key, &refusal, now);
        for client in self.pools.dequeue_kind(pool_key, kind) {
            self.refuse(client, refusal.clone(), host);
        }
    }
}

/// Whether a failure is one that waiting may mend: the server cannot be reached, or is starting up or shutting down. One that
/// makes no sense (08P01) is not.
pub(super) fn is_passing(refusal: &Refusal) -> bool {
    matches!(&refusal.sqlstate, b"57P03" | b"57P01" | b"57P02")
        || (refusal.sqlstate.starts_with(b"08") && refusal.sqlstate != *b"08P01")
}

/// Whether a server has been idle for so long that it is checked before it is used.
pub(super) fn is_check_due(server: &Server, config: &PoolConfig, now: Tick) -> bool {
    config.check_query.is_some() && now > server.since.plus(config.check_delay)
}

/// Notes the time and whose the server is, when a client is given one. `since`: when it began to wait.
#[inline(always)]
fn begin(client: &mut Client, server: &mut Server, pool: &mut Pool, now: Tick, since: Tick) {
    let counters = &mut pool.stats.total;
    counters.assignments += 1;
    let waited = now.since(since);
    counters.wait_us += waited;
    pool.stats.times.wait.note(waited);
    counters.idle_us += now.since(server.since);
    counters.idle_ends += 1;
    let mode = client.mode();
    server.relay.begin(mode == PoolMode::Statement);
    (server.request_at, server.transaction_at) = (now, now);
    server.shared = mode != PoolMode::Session;
    let awaiting = matches!(client.state, ClientState::AwaitingWelcome);
    server.waited_us = if awaiting { 0 } else { waited };
    if let Some(requests) = &mut server.requests {
        requests.renew();
    }
    if server.shared && !awaiting {
        restore_settings(client, server);
    }
}

/// Whether a server whose client's transaction is over can go back to its stack as it is, as nearly always.
#[inline(always)]
fn leaves_nothing(server: &mut Server) -> bool {
    let cancels = server.cancels > 0;
    !cancels
        && server.shared
        && server.relay.is_quiet()
        && server.relay.leaves_nothing()
        && server.link.as_ref().is_some_and(|link| !link.is_shut())
        && server.is_itself()
}

/// Sends what brings a server's reported settings to those that the client believes in, ahead of the client's own request.
fn restore_settings(client: &mut Client, server: &mut Server) {
    let Some(session) = client.session.as_deref_mut() else {
        return;
    };
    if Vars::agree(&mut session.vars, &mut server.vars) {
        return;
    }
    if let Some(sql) = server.vars.bring_to(&session.vars)
        && let Some(link) = server.link.as_mut()
    {
        let mut out = Vec::new();
        frontend::query(&mut out, &sql);
        link.send(&out);
        server.statements.slot = Slot::Empty; // a simple query ends it
        server.relay.sent_by_us();
    }
}

fn made_room(limit: Limit) -> &'static str {
    match limit {
        Limit::Database => "made room for a client with other startup parameters",
        Limit::DatabaseUser => "made room under max_connections_per_user",
        Limit::User => "made room in another pool for a client of the same user",
    }
}

pub(super) fn pool_removed(name: &str) -> Refusal {
    let name = crate::wire::frame::printable(name.as_bytes());
    Refusal::fatal(
        b"57P01",
        format!("database \"{name}\" was removed from the pooler's configuration"),
        Blame::Operator,
    )
    .pgbouncer("database removed")
}

pub(super) fn free_pid(is_taken: impl Fn(u32) -> bool, host: &mut dyn Host) -> u32 {
    loop {
        let mut bytes = [0; 4];
        host.random(&mut bytes);
        let pid = u32::from_be_bytes(bytes) & 0x7FFF_FFFF;
        if pid != 0 && !is_taken(pid) {
            return pid;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Event;
    use super::super::scene::{Scene, World, is_closed};
    use super::*;

    const CONFIG: &str = "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable', min_idle_connections: 2}\n\
                          auth: {type: trust}\n";

    /// A server that answers every login with an error.
    fn refusing(sqlstate: &[u8; 5]) -> World {
        let mut greeting = Vec::new();
        Refusal::fatal(sqlstate, "no", Blame::Server).write(&mut greeting);
        World {
            greeting,
            ..World::default()
        }
    }

    /// Lets time go by, second by second, and servers say what they have to; how many were dialled in it.
    fn dialled(scene: &mut Scene, seconds: usize) -> usize {
        let before = scene.world.servers.len();
        for _ in 0..seconds {
            scene.wait(ms(1_000));
            let servers = scene.world.servers.clone();
            for server in servers.iter().filter(|server| !is_closed(server)) {
                scene.ready(server);
            }
        }
        scene.world.servers.len() - before
    }

    /// Found by the matrix of logins: sessions that share their servers asked for a kind at their login only, so that the server
    /// made for the one that had logged in first was closed as one kind too many before the session had it, again and again.
    #[test]
    fn a_server_that_somebody_waits_for_is_not_one_kind_too_many() {
        let config = CONFIG.replace("min_idle_connections: 2", "mode: transaction");
        let mut scene = Scene::with(&config, World::default());
        let kinds = limits::IDLE_KINDS_MAX + 2;
        let clients: Vec<_> = (0..kinds)
            .map(|number| scene.client_with("db", &[("search_path", &format!("s{number}"))]))
            .collect();
        for client in clients {
            let before = scene.world.servers.len();
            let mut query = Vec::new();
            frontend::query(&mut query, b"select 1");
            client.borrow_mut().input.extend(query);
            scene.ready(&client);
            for _ in 0..3 {
                scene.serve_last();
            }
            assert!(scene.world.servers.len() <= before + 1, "one is enough");
            let (_, pool) = scene.engine.pools().iter().next().expect("a pool");
            assert_eq!(pool.waiting(), 0, "it has its server");
        }
    }

    const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    /// Issue 4: without a client that has proven the keys there is nothing to log in with, and nothing is tried in the background.
    #[test]
    fn a_role_whose_keys_are_unknown_is_not_tried_in_the_background() {
        let config = CONFIG.replace("me:secret", "me").replace(
            "type: trust",
            &format!("type: trust, users: {{me: '{VERIFIER}'}}"),
        );
        let mut world = World::default();
        backend::write_authentication(&mut world.greeting, 10, b"SCRAM-SHA-256\0\0");
        let mut scene = Scene::with(&config, world);
        assert_eq!(dialled(&mut scene, 70), 0, "nobody has asked");
        let client = scene.client();
        assert_eq!(scene.world.servers.len(), 1, "it might have been let in");
        let said = String::from_utf8_lossy(&client.borrow().output).into_owned();
        assert!(said.contains("that no client has proven"), "{said}");
        assert_eq!(dialled(&mut scene, 600), 0, "nothing has changed");

        // A server that does not ask lets in without keys, from then on in the background, too.
        scene.world.greeting.clear();
        let client = scene.client();
        assert!(!is_closed(&client), "it is let in");
        dialled(&mut scene, 2);
        let (_, pool) = scene.engine.pools().iter().next().expect("a pool");
        assert_eq!(pool.idle(), 2, "the stock is filled");

        // Other servers may ask.
        backend::write_authentication(&mut scene.world.greeting, 10, b"SCRAM-SHA-256\0\0");
        scene.reload(&config.replace("127.0.0.1", "127.0.0.2"));
        assert_eq!(dialled(&mut scene, 70), 0, "nobody has asked there");
    }

    /// A wrong password in the DSN was tried every second for ever, once for each idle connection that was wanted, with a
    /// warning each: noise in two logs, and an account that locks itself.
    #[test]
    fn idle_connections_whose_login_is_refused_are_tried_less_and_less_often() {
        let mut scene = Scene::with(CONFIG, refusing(b"28P01"));
        scene.turn(Vec::new());
        assert_eq!(scene.world.servers.len(), 2, "both are tried at once");
        // 1, 2, 4, 8, 16, 32 and then 60 seconds apart.
        let first = dialled(&mut scene, 70);
        assert!((5..=7).contains(&first), "{first} in the first 70 s");
        let later = dialled(&mut scene, 600);
        assert!((8..=10).contains(&later), "{later} in ten minutes");

        // A client is not made to wait for any of that.
        let before = scene.world.servers.len();
        let client = scene.client();
        assert_eq!(scene.world.servers.len(), before + 1);
        let said = String::from_utf8_lossy(&client.borrow().output).into_owned();
        assert!(said.contains("28P01"), "{said}");

        // A new configuration may have mended it.
        let config = scene.engine.config().clone();
        scene.turn(vec![Event::Reload(config)]);
        assert!(dialled(&mut scene, 4) >= 2, "after a reload it begins anew");

        // And one success is enough for all.
        scene.world.greeting.clear();
        let client = scene.client();
        assert!(!is_closed(&client), "it is let in");
        assert!(dialled(&mut scene, 2) >= 2, "the stock is filled again");
        let (_, pool) = scene.engine.pools().iter().next().expect("a pool");
        assert!(pool.idle() >= 2 && pool.last_error().is_none());
    }
}
