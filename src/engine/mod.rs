//! Moves bytes: holds clients and servers, runs what can go on, keeps the time.
//!
//! [`Engine::turn`] is the whole loop body. It is given what happened, asks the world for what it needs through [`Host`], and
//! says when it wants to be called again. Knows no sockets, no TLS library, no clock of its own.
//!
//! One noun per file: `greet` takes clients in, `admit` holds them against the rules, `lookup` has servers asked for their
//! secrets, `newcomers` are those who have not logged in, `claim` keeps what clients say of themselves, `tune` finds out what
//! servers make of their settings, `queue` gives them servers, `dial` makes servers, `names` knows where their hosts are, `secure` agrees on TLS with both, `pump`
//! moves bytes between the two and `bulk` has it read long answers and copies in large pieces, `cancel` brings cancels to what they mean, `peers` passes on
//! those of others, `close` ends things, `requests` follows what clients ask and `queries` keeps count of it, `replication` is what replication connections have of their own, `console` reads what is said to the console,
//! `contain` keeps a panic to one connection, `chronicle` is what the log is told, `compat` says things in PgBouncer's words,
//! `overdue` knows how long anything may take, `pause` holds up what an operator wants held up,
//! `wheel` and `link` are what they sound like.
//!
//! What is not run for each message is marked `#[inline(never)]`, what hardly ever is `#[cold]`: so what each message runs through
//! stays together, in the processor's cache and on the stack.

mod admit;
mod bulk;
mod cancel;
mod chronicle;
mod claim;
mod client;
mod close;
mod compat;
mod console;
mod contain;
mod dial;
mod greet;
mod link;
mod lookup;
mod names;
mod newcomers;
mod overdue;
mod pause;
mod peers;
mod pump;
mod queries;
mod queue;
mod replication;
mod requests;
#[cfg(test)]
mod scene;
mod secure;
mod server;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod sizes;
mod stream;
mod tune;
mod waits;
mod wheel;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

pub use crate::arena::{
    Arena, ClientKey, Key, OfClient, OfPool, OfServer, PoolKey, ServerKey, Tick,
};
pub use claim::Claim;
pub use client::{Client, ClientState, Console, Place, Role, Session};
pub use console::{Ask, Request};
pub use link::{Input, Link};
pub use names::{HostName, Unresolved};
pub use pause::{Progress, Scope};
pub use peers::PeerPool;
pub use queries::{Queries, Query};
pub use server::{Server, ServerState};
pub use stream::{
    Accepted, Address, Event, Facts, Given, Handover, Host, ListenerId, Protection, Ready,
    Shutdown, Stream, Taken, TlsFacts, TlsSide, Who, Why,
};
pub use wheel::Wheel;

use crate::auth::{Failures, KeyRing};
use crate::config::Config;
use crate::config::units::show_duration;
use crate::limits;
use crate::pool::cancel::CancelKeys;
use crate::pool::{Pool, Pools};
use crate::relay::prepared::Library;
use crate::stats::{self, Stats};
use crate::wire::refusal::{Blame, Refusal};
use claim::Claims;
use contain::Party;
use lookup::Lookups;
use names::Names;
use newcomers::Newcomers;
use pause::Holds;
use peers::Peers;
use requests::{Sampler, Slow};
use waits::LongWaits;

/// The loop's buffer: one read behind the longest carry.
const BUFFER_LEN: usize = limits::CARRY_MAX + limits::READ_MAX;

/// The pooler.
pub struct Engine {
    config: Rc<Config>,
    clients: Arena<OfClient, Client>,
    servers: Arena<OfServer, Server>,
    pools: Pools,
    /// Pools by the name that clients ask for.
    names: BTreeMap<String, PoolKey>,
    wheel: Wheel<Timer>,
    /// Who can go on. Each is in it at most once (`Link::listed`).
    runnable: Vec<Who>,
    /// Its other half: whoever is run in a round. Empty between two, but for its room.
    running: Vec<Who>,
    /// Pools whose queue or stock has changed.
    unsettled: BTreeSet<PoolKey>,
    /// Listeners that somebody waits at.
    incoming: BTreeSet<ListenerId>,
    /// Not before this is anybody accepted: descriptors ran out.
    accept_after: Tick,
    ring: KeyRing,
    /// Failed logins, by where they came from.
    failures: Failures,
    /// What servers are asked of users, and have said.
    lookups: Lookups,
    hosts: Names,
    /// Servers with replication that are to be replaced.
    retired_in_use: Vec<ServerKey>,
    peers: Peers,
    newcomers: Newcomers,
    /// The wheel will look at the oldest of them.
    logins_armed: bool,
    cancel_keys: CancelKeys,
    claims: Claims,
    holds: Holds,
    stop: Option<Stop>,
    /// What happened in the last period, in a line, until it is fetched.
    status: Option<String>,
    requests: Vec<Request>,
    /// What console sessions have counted.
    console_stats: Stats,
    long_waits: LongWaits,
    /// When the period of the averages began, and when it ends.
    period_began: Tick,
    period_ends: Tick,
    /// The loop's one buffer.
    buffer: Vec<u8>,
    /// What passes where it is not what was read.
    edited: Vec<u8>,
    /// Texts of prepared statements.
    library: Library,
    next_id: u64,
    now: Tick,
    /// Steps of TLS handshakes in this turn.
    handshakes: usize,
    /// Whether servers are given out and taken back in one step where nothing else follows.
    short_ways: bool,
    /// Whether a panic is kept to its connection.
    containing: bool,
    /// Panics that were.
    contained: u64,
    /// What is counted of no pool in particular.
    tally: stats::Process,
    /// Statements that take the time.
    queries: Queries,
    /// What was slow in this step, to be told.
    slow: Vec<Slow>,
    sampler: Sampler,
    /// Whether what clients ask is followed.
    watches: bool,
}

/// A graceful stop in progress.
#[derive(Clone, Copy, Debug)]
struct Stop {
    how: Shutdown,
    /// Whoever is still there then is told to go; `None`: nobody is.
    deadline: Option<Tick>,
    /// They have been told.
    told: bool,
    /// The number of the last who came before it began.
    last_id: u64,
}

impl Stop {
    /// Whether clients that are here are still given servers.
    fn serves(&self) -> bool {
        matches!(self.how, Shutdown::WaitForClients | Shutdown::Succeeded) && !self.told
    }
}

/// What the wheel wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    Client(ClientKey),
    Server(ServerKey),
    Bulk(ServerKey),
    Pool(PoolKey),
    Logins,
    Names,
    Accept,
    Stop,
    Period,
    Waits,
}

/// What a turn leaves to be done.
pub struct Turn {
    /// Call again at this time at the latest; not later than now when something can go on. `None`: only events matter.
    pub wake: Option<Tick>,
    /// Commands for the console, to be answered by `admin`.
    pub requests: Vec<Request>,
    /// A stop is complete: nothing is left to wait for.
    pub stopped: bool,
    /// A period is over: what happened in it, in a line.
    pub status: Option<String>,
}

impl Engine {
    /// A pooler without clients.
    pub fn new(config: Rc<Config>, now: Tick, host: &mut dyn Host) -> Engine {
        let ring = KeyRing::new(
            &mut |into| host.random(into),
            config.auth.mock_secret.as_ref(),
        );
        let mut engine = Engine {
            config: config.clone(),
            clients: Arena::default(),
            servers: Arena::default(),
            pools: Pools::default(),
            names: BTreeMap::new(),
            wheel: Wheel::new(now),
            runnable: Vec::new(),
            running: Vec::new(),
            unsettled: BTreeSet::new(),
            incoming: BTreeSet::new(),
            accept_after: now,
            ring,
            failures: Failures::default(),
            lookups: Lookups::default(),
            hosts: Names::default(),
            retired_in_use: Vec::new(),
            peers: Peers::default(),
            newcomers: Newcomers::default(),
            logins_armed: false,
            cancel_keys: CancelKeys::default(),
            claims: Claims::default(),
            holds: Holds::default(),
            stop: None,
            status: None,
            requests: Vec::new(),
            console_stats: Stats::default(),
            long_waits: LongWaits::default(),
            period_began: now,
            period_ends: now,
            buffer: vec![0; BUFFER_LEN],
            edited: Vec::new(),
            library: Library::default(),
            next_id: 0,
            now,
            handshakes: 0,
            short_ways: true,
            containing: false,
            contained: 0,
            tally: stats::Process::default(),
            queries: Queries::default(),
            slow: Vec::new(),
            sampler: Sampler::default(),
            watches: false,
        };
        engine.begin_period();
        engine.adopt(config);
        engine
    }

    /// One turn of the loop: takes in what happened, moves what can be moved.
    pub fn turn(&mut self, now: Tick, events: &mut Vec<Event>, host: &mut dyn Host) -> Turn {
        self.now = self.now.max(now);
        self.handshakes = 0;
        if !events.is_empty() {
            self.take_in(events, host);
        }
        self.timers(host);
        if self.can_accept() {
            self.accept(host);
        }
        for round in 0..limits::ROUNDS_PER_TURN {
            if round > 0 && self.runnable.is_empty() {
                break; // as a rule
            }
            std::mem::swap(&mut self.running, &mut self.runnable);
            let mut at = 0;
            while let Some(&who) = self.running.get(at) {
                self.run(who, host);
                at += 1;
            }
            self.running.clear();
            self.settle(host);
        }
        let stopped = self.stop_is_complete(host);
        let busy = !self.runnable.is_empty()
            || self.holds.has_orders()
            || !self.holds.is_suspended()
                && (!self.unsettled.is_empty()
                    || self.pools.has_ready()
                    || self.lookups.has_news()
                    || self.can_accept());
        Turn {
            wake: if busy {
                Some(self.now)
            } else {
                self.wheel.next()
            },
            requests: std::mem::take(&mut self.requests),
            stopped,
            status: self.status.take(),
        }
    }

    #[inline(never)]
    fn take_in(&mut self, events: &mut Vec<Event>, host: &mut dyn Host) {
        for event in events.drain(..) {
            self.event(event, host);
        }
    }

    fn event(&mut self, event: Event, host: &mut dyn Host) {
        match event {
            Event::Ready(who, ready) => self.ready(who, ready),
            Event::Incoming(listener) => {
                self.incoming.insert(listener);
            }
            Event::Resolved { name, result } => self.resolved(&name, result, host),
            Event::Derived { who, salted } => self.guard(who, host, |engine, host| match who {
                Who::Client(key) => engine.client_derived(key, &salted, host),
                Who::Server(key) => engine.server_derived(key, &salted, host),
            }),
            Event::UserNamed { key, name } => self.guard(Who::Client(key), host, |engine, host| {
                engine.user_named(key, name, host)
            }),
            Event::Reload(config) => {
                log::info!("the configuration was reloaded");
                self.tally.reloads += 1;
                host.configured(&config);
                self.adopt(config);
            }
            Event::ReloadFailed => self.tally.reload_failures += 1,
            Event::Shutdown(how) => self.begin_stop(how, host),
        }
    }

    /// Takes in what the poll says of a connection, as [`Engine::turn`] does with such an event: there are so many that they
    /// need not be collected first.
    pub fn ready(&mut self, who: Who, ready: Ready) {
        if let Some(link) = self.link_mut(who) {
            link.note(ready);
            if !std::mem::replace(&mut link.listed, true) {
                self.runnable.push(who);
            }
        }
    }

    /// Puts somebody on that list for whom there is something to do.
    fn list_if_it_can_go_on(&mut self, who: Who) {
        if self.link_mut(who).is_some_and(|link| link.can_go_on()) {
            self.list(who);
        }
    }

    /// Puts somebody on the list of what to run.
    fn list(&mut self, who: Who) {
        if let Some(link) = self.link_mut(who)
            && !std::mem::replace(&mut link.listed, true)
        {
            self.runnable.push(who);
        }
    }

    fn run(&mut self, who: Who, host: &mut dyn Host) {
        if self.holds.is_suspended() && self.is_held_back(who) {
            return;
        }
        let (link, party) = match who {
            Who::Client(key) => {
                let Some(client) = self.clients.get_mut(key) else {
                    return;
                };
                (&mut client.link, Party::of_client(key, &client.state))
            }
            Who::Server(key) => {
                let Some(server) = self.servers.get_mut(key) else {
                    return;
                };
                let party = Party::of_server(key, &server.state);
                let Some(link) = &mut server.link else {
                    return;
                };
                (link, party)
            }
        };
        link.listed = false;
        if link.is_shaking() && !self.may_shake(who) {
            return;
        }
        self.guarded(party, host, |engine, host| match party {
            Party::Client(client) => engine.run_client(client, host),
            Party::Server(server) => engine.run_server(server, host),
            Party::Pair(client, server) => engine.run_pair(client, server, host),
        });
    }

    fn link_mut(&mut self, who: Who) -> Option<&mut Link> {
        match who {
            Who::Client(key) => self.clients.get_mut(key).map(|client| &mut client.link),
            Who::Server(key) => self.servers.get_mut(key)?.link.as_mut(),
        }
    }

    /// Takes a configuration over: pools that are gone are marked, new ones made, the others told of their new settings.
    fn adopt(&mut self, config: Rc<Config>) {
        let (old, new) = (&self.config.auth.users, &config.auth.users);
        self.ring.proven.reconfigured(old, new);
        let period = self.config.server.stats_period;
        self.config = config.clone();
        if self.config.server.stats_period != period {
            self.arm_period();
        }
        self.queries.resize(config.metrics.query_fingerprints);
        self.watches = self.queries.is_on() || config.log.slow.is_on();
        if !self.watches {
            for key in self.servers.keys() {
                if let Some(server) = self.servers.get_mut(key) {
                    server.requests = None;
                }
            }
        }
        self.pools.configure_users(&config);
        for key in self.pools.keys() {
            self.adopt_pool(key, &config);
        }
        self.adopt_lookups(&config);
        self.holds.adopt(&config);
        self.hold_pools();
        self.adopt_names(&config);
        for (name, pool_config) in &config.databases {
            if !self.names.contains_key(name) {
                let mut pool = Pool::new(name.clone(), pool_config.clone(), false);
                pool.expect_base_kind();
                let key = self.insert_pool(pool);
                self.names.insert(name.clone(), key);
                self.unsettled.insert(key);
            }
        }
        self.arm_all();
    }

    /// The limits may be shorter than when the timers were set.
    fn arm_all(&mut self) {
        for key in self.clients.keys() {
            self.arm_client(key);
        }
        for key in self.servers.keys() {
            self.arm_server(key);
        }
        self.logins_armed = false;
        self.arm_logins();
    }

    fn adopt_pool(&mut self, key: PoolKey, config: &Config) {
        let Some(pool) = self.pools.get_mut(key).filter(|pool| !pool.for_lookups) else {
            return;
        };
        let new = config
            .databases
            .get(&pool.name)
            .or(config.fallback.as_ref().filter(|_| pool.from_fallback));
        let Some(new) = new.filter(|_| !pool.removed) else {
            pool.removed = true;
            if self.names.get(&pool.name) == Some(&key) {
                self.names.remove(&pool.name);
            }
            self.unsettled.insert(key);
            return;
        };
        let new = new.clone();
        let moved = pool.config.backend != new.backend;
        let (old, begins) = (&pool.config.sessions, &new.sessions);
        let balance = pool.config.sizes.load_balance_hosts != new.sizes.load_balance_hosts;
        let elsewhere = balance && new.backend.hosts.len() > 1;
        let outdated = old.connect_query != begins.connect_query || elsewhere;
        let (lived, lives) = (pool.config.max_lifetime, new.max_lifetime);
        let strict = (begins.disable_pqexec, begins.max_packet_size);
        pool.forgive();
        pool.from_fallback &= !config.databases.contains_key(&pool.name);
        self.pools.configure(key, &new);
        if let Some(pool) = self.pools.get_mut(key).filter(|_| moved) {
            pool.moved();
            self.retire(key);
            self.ask_all_anew(key);
        }
        if outdated {
            self.retire(key);
        }
        self.close_fast(key);
        for server in self.servers.keys() {
            if let Some(server) = self.servers.get_mut(server).filter(|s| s.pool == key) {
                server.relay.restrict(strict.0, strict.1);
                if lived != lives && !server.state.is_connecting() {
                    server.change_lifetime(lived, lives);
                }
            }
        }
        self.unsettled.insert(key);
    }

    fn timers(&mut self, host: &mut dyn Host) {
        let mut due = Vec::new();
        self.wheel.expire(self.now, &mut due);
        for timer in due {
            match timer {
                Timer::Client(key) => self.guard(Who::Client(key), host, |engine, host| {
                    engine.client_timer(key, host)
                }),
                Timer::Server(key) => self.guard(Who::Server(key), host, |engine, host| {
                    engine.server_timer(key, host)
                }),
                Timer::Pool(key) => {
                    if let Some(pool) = self.pools.get_mut(key) {
                        pool.armed = None;
                        self.unsettled.insert(key);
                    }
                }
                Timer::Bulk(key) => self.bulk_timer(key),
                Timer::Logins => self.logins_expired(host),
                Timer::Names => self.names_timer(host),
                Timer::Accept | Timer::Stop => {}
                Timer::Period => self.period_timer(),
                Timer::Waits => self.waits_timer(),
            }
        }
    }

    fn client_timer(&mut self, key: ClientKey, host: &mut dyn Host) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let Some(armed) = client.armed.come_up(self.now) else {
            return; // it was armed anew since
        };
        if self.holds.is_suspended() {
            return; // its time goes on after that
        }
        match self.client_deadline(key) {
            Some(at) if at <= self.now => self.client_expired(key, host),
            _ => {
                self.tell_of_queue(key, armed);
                self.arm_client(key);
            }
        }
    }

    /// Ends the logins that have taken too long.
    fn logins_expired(&mut self, host: &mut dyn Host) {
        self.logins_armed = false;
        if self.holds.is_suspended() {
            return;
        }
        let is_late = |key: &ClientKey| {
            let client = self.clients.get(*key);
            let deadline = client.and_then(|client| client.login_deadline(&self.config));
            deadline.is_some_and(|at| at <= self.now)
        };
        let late: Vec<ClientKey> = self.newcomers.by_age().take_while(is_late).collect();
        for key in late {
            self.guard(Who::Client(key), host, |engine, host| {
                engine.client_expired(key, host)
            });
        }
        self.arm_logins();
    }

    /// Sees to it that the wheel looks at the oldest newcomer when its login must be over: all have the same time, and it is the
    /// first whose time is.
    fn arm_logins(&mut self) {
        let oldest = self.newcomers.by_age().next();
        let oldest = oldest.and_then(|key| self.clients.get(key));
        if let Some(at) = oldest.and_then(|client| client.login_deadline(&self.config))
            && !std::mem::replace(&mut self.logins_armed, true)
        {
            self.wheel.insert(at, Timer::Logins);
        }
    }

    fn server_timer(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        if server.armed.come_up(self.now).is_none() || self.holds.is_suspended() {
            return;
        }
        match self.server_deadline(key) {
            Some(at) if at <= self.now => self.server_expired(key, host),
            _ => self.arm_server(key),
        }
    }

    /// Sees to it that the wheel looks at a client when its state must be over.
    fn arm_client(&mut self, key: ClientKey) {
        let deadline = self.client_deadline(key);
        if let (Some(at), Some(client)) = (deadline, self.clients.get_mut(key))
            && client.armed.arm(at)
        {
            self.wheel.insert(at, Timer::Client(key));
        }
    }

    /// Sees to it that the wheel looks at a server when its state must be over.
    fn arm_server(&mut self, key: ServerKey) {
        let deadline = self.server_deadline(key);
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        server.idle_watched = matches!(server.state, ServerState::Idle);
        if let Some(at) = deadline
            && server.armed.arm(at)
        {
            self.wheel.insert(at, Timer::Server(key));
        }
    }

    /// Puts a client into a state.
    fn enter_client(&mut self, key: ClientKey, state: ClientState) {
        if let Some(client) = self.clients.get_mut(key) {
            if client.state.is_unauthenticated() && !state.is_unauthenticated() {
                self.newcomers.remove(client.id);
            }
            client.enter(state, self.now);
            if matches!(client.state, ClientState::Paired(_)) {
                return; // whoever runs the pair sees to that
            }
            let waits = client.state.is_waiting();
            let watched = |pool| self.pools.get(pool).is_none_or(|pool| pool.watched);
            if matches!(client.state, ClientState::Idle) && !client.pool().is_none_or(watched) {
                return; // it may last for ever
            }
            if waits {
                self.somebody_waits();
            }
        }
        self.arm_client(key);
    }

    /// Puts a server into a state.
    fn enter_server(&mut self, key: ServerKey, state: ServerState) {
        if let Some(server) = self.servers.get_mut(key) {
            server.enter(state, self.now);
            server.bulk.end(server.link.as_mut());
            match server.state {
                ServerState::Paired(_) => return, // it may last for ever
                ServerState::Idle if server.idle_watched => return,
                _ => {}
            }
        }
        self.arm_server(key);
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn begin_stop(&mut self, how: Shutdown, host: &mut dyn Host) {
        if how == Shutdown::Succeeded {
            return self.succeeded();
        }
        let again = self.is_stopping() && !self.is_succeeded();
        let how = if again { Shutdown::Immediate } else { how };
        let limit = self.config.server.shutdown_timeout;
        self.announce_stop(how, again, limit);
        if how != Shutdown::Immediate {
            self.accept_the_last(host);
        }
        host.stop_listening();
        let last_id = self.stop.map_or(self.next_id, |stop| stop.last_id);
        let deadline = (!limit.is_zero()).then(|| self.now.plus(limit));
        if let Some(deadline) = deadline {
            self.wheel.insert(deadline, Timer::Stop);
        }
        self.stop = Some(Stop {
            how,
            deadline,
            told: false,
            last_id,
        });
        if how == Shutdown::WaitForServers {
            for key in self.clients.keys() {
                if self.clients.get(key).is_some_and(|c| c.state.is_waiting()) {
                    self.refuse(key, shutting_down(), host);
                }
            }
        }
        self.unsettled.extend(self.pools.keys());
    }

    /// Another process has taken over: there is no limit in time, and nobody comes any more but with cancels.
    fn succeeded(&mut self) {
        let clients = self.clients.len();
        log::info!(
            "another process has taken over; clients left: {clients}, they are served until they leave"
        );
        self.stop = Some(Stop {
            how: Shutdown::Succeeded,
            deadline: None,
            told: false,
            last_id: self.next_id,
        });
        self.unsettled.extend(self.pools.keys());
    }

    fn announce_stop(&self, how: Shutdown, again: bool, limit: Duration) {
        let clients = self.clients.len();
        if again {
            return log::info!("second signal: ending at once, clients left: {clients}");
        }
        if how == Shutdown::Immediate {
            return log::info!("stopping at once, clients left: {clients}");
        }
        let in_use = |(_, server): &(ServerKey, &Server)| server.state.client().is_some();
        let servers = self.servers.iter().filter(in_use).count();
        let until = if limit.is_zero() {
            "there is no limit (shutdown_timeout: 0)".to_owned()
        } else {
            format!("those left after {} are closed", show_duration(limit))
        };
        log::info!("stopping: clients left: {clients}, servers in use: {servers}; {until}");
    }

    fn stop_is_complete(&mut self, host: &mut dyn Host) -> bool {
        let Some(stop) = self.stop else { return false };
        let late = stop.deadline.is_some_and(|deadline| self.now >= deadline);
        match stop.how {
            Shutdown::Immediate => return true,
            _ if stop.told => return late || self.clients.is_empty(),
            Shutdown::WaitForClients | Shutdown::Succeeded if self.clients.is_empty() => {
                log::info!("client connections dropped, exiting");
                return true;
            }
            Shutdown::WaitForServers if self.servers.is_empty() => {
                log::info!("server connections dropped, exiting");
                if self.clients.is_empty() {
                    return true;
                }
            }
            _ if late => log::warn!(
                "shutdown_timeout is over, closing {} client connections",
                self.clients.len()
            ),
            _ => return false,
        }
        self.say_farewell(stop, host);
        false
    }

    /// Tells everybody who is still there that the process ends, the console and those who log in included. Whoever does not
    /// read it is not waited for.
    fn say_farewell(&mut self, stop: Stop, host: &mut dyn Host) {
        let deadline = self.now.plus(ms(limits::FAREWELL_MS));
        self.wheel.insert(deadline, Timer::Stop);
        self.stop = Some(Stop {
            told: true,
            deadline: Some(deadline),
            ..stop
        });
        for key in self.clients.keys() {
            self.refuse(key, shutting_down(), host);
        }
    }

    /// Whether nobody gets a server any more.
    fn gives_out_nothing(&self) -> bool {
        self.stop.is_some_and(|stop| !stop.serves())
    }

    /// Whether a client that logs in has come too late: one that was here before a stop began that waits for clients is served.
    fn is_too_late(&self, key: ClientKey) -> bool {
        let id = self.clients.get(key).map(|client| client.id);
        let late = |stop: Stop| id.is_none_or(|id| id > stop.last_id);
        self.gives_out_nothing() || self.stop.is_some_and(late)
    }

    /// Whether a graceful stop has begun.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    /// Whether another process has taken over, and nobody has asked this one to hurry.
    pub fn is_succeeded(&self) -> bool {
        self.stop
            .is_some_and(|stop| stop.how == Shutdown::Succeeded)
    }

    /// The configuration in force.
    pub fn config(&self) -> &Rc<Config> {
        &self.config
    }

    /// Statements that take the time.
    pub fn queries(&self) -> &Queries {
        &self.queries
    }

    /// What is counted of no pool in particular.
    pub fn tally(&self) -> &stats::Process {
        &self.tally
    }

    /// A turn, and what came of it, has taken so many microseconds. The engine has no clock of its own.
    pub fn turned(&mut self, us: u64) {
        self.tally.turned(us);
    }

    /// Clients that have not shown yet who they are.
    pub fn newcomer_count(&self) -> usize {
        self.newcomers.len()
    }

    /// Bytes that the texts of prepared statements take.
    pub fn statement_bytes(&self) -> usize {
        self.library.bytes()
    }

    /// The time of the present turn.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// Clients in any state.
    pub fn client_count(&self) -> usize {
        self.clients.len()
    }

    /// Server connections in any state.
    pub fn server_count(&self) -> usize {
        self.servers.len()
    }

    /// The clients.
    pub fn clients(&self) -> &Arena<OfClient, Client> {
        &self.clients
    }

    /// The servers.
    pub fn servers(&self) -> &Arena<OfServer, Server> {
        &self.servers
    }

    /// What console sessions have counted: their logins, and one query and transaction for each that has asked for something.
    pub fn console_stats(&self) -> &Stats {
        &self.console_stats
    }

    /// The pools.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Asserts every invariant of ARCHITECTURE section 6 that can be seen from here. For the simulation: it walks everything.
    pub fn check(&self) {
        self.check_books();
        self.check_cancels();
        for (key, client) in self.clients.iter() {
            self.check_link(Who::Client(key), &client.link);
        }
        for (key, server) in self.servers.iter() {
            assert!(
                server.state.client().is_some() || !server.copy_in.is_begun(),
                "server {key:?} has no client, and reads a copy"
            );
            if let Some(client) = server.state.client() {
                assert!(
                    server.relay.owed() <= limits::OWED_MAX,
                    "server {key:?} owes more than may be owed"
                );
                self.check_pair(client, key);
            }
            if let Some(link) = &server.link {
                self.check_link(Who::Server(key), link);
            }
        }
        self.check_names();
        if self.unsettled.is_empty() && !self.holds.is_suspended() {
            self.pools.check_settled(self.now);
        }
    }

    /// Asserts what holds between any two steps: both ends of a pair know each other, the pools count what there is.
    fn check_books(&self) {
        for (key, client) in self.clients.iter() {
            if let Some(server) = client.state.server() {
                let back = self
                    .servers
                    .get(server)
                    .and_then(|server| server.state.client());
                assert_eq!(
                    back,
                    Some(key),
                    "client {key:?} is paired with a server that is not paired with it"
                );
            }
        }
        for (key, server) in self.servers.iter() {
            if let Some(client) = server.state.client() {
                let back = self
                    .clients
                    .get(client)
                    .and_then(|client| client.state.server());
                assert_eq!(
                    back,
                    Some(key),
                    "server {key:?} is paired with a client that is not paired with it"
                );
            }
        }
        self.check_users();
        self.check_peers();
        let new = self.clients.iter();
        let new = new.filter(|(_, client)| client.state.is_unauthenticated());
        self.newcomers
            .check(&new.map(|(key, client)| (client.id, key)).collect());
        for (key, pool) in self.pools.iter() {
            let of_pool = || {
                self.servers
                    .iter()
                    .map(|(_, s)| s)
                    .filter(move |s| s.pool == key && !s.state.is_cancel())
            };
            let idle = of_pool()
                .filter(|s| matches!(s.state, ServerState::Idle))
                .count();
            let connecting = of_pool().filter(|s| s.state.is_connecting()).count();
            pool.check(of_pool().count(), idle, connecting);
            let waiting = self
                .clients
                .iter()
                .filter(|(_, c)| c.pool() == Some(key) && c.state.is_waiting())
                .count();
            assert_eq!(
                pool.waiting(),
                waiting,
                "pool {}: the queue and the waiting clients",
                pool.name
            );
        }
    }

    fn check_users(&self) {
        let mut counts: BTreeMap<&[u8], (usize, usize)> = BTreeMap::new();
        for (name, ..) in self.pools.users() {
            counts.insert(name, (0, 0));
        }
        for (_, server) in self.servers.iter().filter(|(_, s)| !s.state.is_cancel()) {
            counts.entry(&server.kind.user).or_default().0 += 1;
        }
        for (_, client) in self.clients.iter() {
            if let Some(session) = client.session.as_deref().filter(|session| session.counted) {
                counts.entry(session.claim.user.as_bytes()).or_default().1 += 1;
            }
        }
        for (name, (servers, clients)) in counts {
            self.pools.check_user(name, servers, clients);
        }
    }

    fn check_link(&self, who: Who, link: &Link) {
        let (carry, outbox) = link.held();
        assert!(
            carry <= limits::CARRY_MAX && outbox <= limits::OUTBOX_MAX + limits::READ_MAX,
            "{who:?} holds {carry}, {outbox}"
        );
        assert_eq!(
            link.listed,
            self.runnable.contains(&who),
            "{who:?} and the list of what to run"
        );
        if link.can_flush() {
            assert!(
                self.can_run(who),
                "{who:?} could be flushed but nobody runs it"
            );
        }
    }

    /// The wake-up rule: whatever may still be read while its peer has taken everything is on the list.
    fn check_pair(&self, client: ClientKey, server: ServerKey) {
        if self.holds.is_suspended() {
            return; // nothing goes on
        }
        let (Some(c), Some(s)) = (self.clients.get(client), self.servers.get(server)) else {
            return;
        };
        let Some(link) = &s.link else { return };
        let up = c.link.is_readable()
            && link.is_flushed()
            && s.relay.has_room()
            && matches!(c.state, ClientState::Paired(_));
        let down = link.is_readable() && c.link.is_flushed();
        if up || down {
            assert!(
                self.can_run(Who::Client(client)),
                "{client:?} and {server:?} could go on but are not on the list"
            );
        }
    }

    fn can_run(&self, who: Who) -> bool {
        let other = match who {
            Who::Client(key) => self
                .clients
                .get(key)
                .and_then(|client| client.state.server())
                .map(Who::Server),
            Who::Server(key) => self
                .servers
                .get(key)
                .and_then(|server| server.state.client())
                .map(Who::Client),
        };
        self.runnable.contains(&who) || other.is_some_and(|other| self.runnable.contains(&other))
    }
}

/// What clients are told when the process stops.
fn shutting_down() -> Refusal {
    Refusal::fatal(
        b"57P01",
        "terminating connection due to administrator command",
        Blame::Operator,
    )
    .detail("Aether, the connection pooler, is being stopped.")
    .hint("Connect again: another instance may already be there.")
    .pgbouncer("server shutting down")
}

/// Milliseconds as a duration.
const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[cfg(test)]
mod tests {
    use super::scene::Scene;
    use super::*;
    use crate::wire::frontend;

    fn dsn(user: &str, keys: &str) -> String {
        format!(
            "pool: {{dsn: 'postgres://{user}:secret@127.0.0.1/db?sslmode=disable'{keys}}}\nauth: {{type: trust}}\n"
        )
    }

    /// As whom the server connections were begun.
    fn users(scene: &mut Scene) -> Vec<String> {
        for server in scene.world.servers.clone() {
            scene.ready(&server);
        }
        let user = |output: &[u8]| {
            let name = output.get(13..).unwrap_or_default().split(|&b| b == 0);
            String::from_utf8_lossy(name.into_iter().next().unwrap_or_default()).into_owned()
        };
        scene
            .world
            .servers
            .iter()
            .map(|pipe| user(&pipe.borrow().output))
            .collect()
    }

    fn leave(scene: &mut Scene, client: &scene::Shared) {
        let mut bye = Vec::new();
        frontend::terminate(&mut bye);
        client.borrow_mut().input.extend(bye);
        scene.ready(client);
    }

    /// Found by reading: one client with a startup parameter that the server refuses, and from then on the pool tried to keep
    /// ready what could not be had: an attempt a second, and no idle server for anybody.
    #[test]
    fn what_the_server_refuses_is_not_kept_ready() {
        let mut scene = Scene::new();
        scene.reload(&dsn("me", ", max_connections: 1, min_idle_connections: 1"));
        assert_eq!(users(&mut scene), ["me"]);
        let key = scene.engine.pools.keys()[0];
        let pool = scene.engine.pools.get_mut(key).expect("the pool");
        let good = pool.last_asked().expect("the DSN's own").clone();
        let mut bad = (*good).clone();
        bad.parameters = vec![(b"nonsense".to_vec(), b"1".to_vec())];
        let bad = pool.ask(Rc::new(bad));
        assert_eq!(pool.last_asked(), Some(&bad));
        let refusal = Refusal::fatal(b"42704", "unrecognized", Blame::Client);
        scene
            .engine
            .dial_failed(key, &bad, refusal, &mut scene.world);
        let pool = scene.engine.pools.get(key).expect("the pool");
        assert_eq!(pool.last_asked(), Some(&good));
    }

    /// Found by reading: who proved himself after SIGINT was still given a session.
    #[test]
    fn who_logs_in_while_the_servers_are_waited_for_is_told_to_go() {
        let mut scene = Scene::new();
        let auth = "auth: {type: password, users: {me: secret}}\n";
        scene.reload(&dsn("me", "").replace("auth: {type: trust}\n", auth));
        let client = scene.client();
        scene.turn(vec![Event::Shutdown(Shutdown::WaitForServers)]);
        client.borrow_mut().input.extend(b"p\0\0\0\x0bsecret\0");
        scene.ready(&client);
        let output = String::from_utf8_lossy(&client.borrow().output).into_owned();
        assert!(output.contains("57P01"), "{output:?}");
        assert!(scene.world.servers.is_empty());
    }

    /// Found by reading: whoever came beyond the maximum was told so and lingered, however many they were.
    #[test]
    fn a_flood_of_clients_that_only_connect_is_bounded() {
        let mut scene = Scene::new();
        scene.reload(&dsn("me", "").replace(
            "auth:",
            "server: {max_client_connections: 1, max_unauthenticated_connections: 1000}\nauth:",
        ));
        for _ in 0..400 {
            scene.connect();
        }
        assert_eq!(scene.engine.client_count(), 1 + 2 * limits::OVER_LIMIT_MAX);
    }

    /// Found by reading: who waited while a reload changed the pool's user was logged in as the old one, with the new one's
    /// password.
    #[test]
    fn who_waits_during_a_reload_is_logged_in_as_the_new_user() {
        let mut scene = Scene::new();
        scene.reload(&dsn("me", ", max_connections: 1"));
        let (first, second) = (scene.client(), scene.client());
        assert_eq!(users(&mut scene), ["me"]);
        scene.reload(&dsn("other", ", max_connections: 1"));
        leave(&mut scene, &first);
        assert_eq!(users(&mut scene), ["me", "other"]);
        let server = scene.world.servers[1].clone();
        scene.works(&second, &server);
    }

    /// The same for clients that have no server, and for the idle connections that are kept ready.
    #[test]
    fn after_a_reload_idle_servers_and_frugal_clients_are_the_new_users() {
        let mut scene = Scene::new();
        scene.reload(&dsn("me", ", server_assignment: first_query"));
        let client = scene.client();
        assert_eq!(users(&mut scene), ["me"]);
        scene.reload(&dsn(
            "other",
            ", server_assignment: first_query, min_idle_connections: 1",
        ));
        assert_eq!(users(&mut scene), ["me", "other"]);
        let server = scene.world.servers[1].clone();
        scene.works(&client, &server);
    }
}
