//! All pools, and what they share: the order in which clients came, and the limits of users over all databases.
//!
//! Clients that wait stand in *lanes*, one for each kind of server in each pool. Of a lane only the next client counts: the
//! first for whom no server is under way. It has a ticket, a number that grows over all pools, and with it the lane stands in
//! exactly one queue: among those to be looked at, or where it waits for something. Whatever becomes free wakes the first in
//! the queue for it, and that one is looked at before all others that came later; so whoever competes for the same thing is
//! served in the order of arrival, and whoever does not is not held up. No step looks at all clients, or at all pools.
//!
//! Clients that only want to be told something need a server together, not each: of them one stands in the lane ([`questions`]).

mod questions;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

pub(super) use questions::Question;

use super::{Kind, Lane, Pool, Share, Stand, Waiter, Wants, limit_role};
use crate::arena::{Arena, ClientKey, OfPool, PoolKey, ServerKey, Tick};
use crate::config::{Config, PoolConfig, PoolMode, UserConfig};
use crate::limits;
use crate::relay::Settings;
use crate::wire::frame::printable;

/// What a number of server connections is held against, from the widest to the narrowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `users.NAME.max_connections`: those of a role in all pools.
    User,
    /// `max_connections`: those of a pool.
    Database,
    /// `max_connections_per_user`: those of a role in a pool.
    DatabaseUser,
}

const LIMITS: [Limit; 3] = [Limit::User, Limit::Database, Limit::DatabaseUser];

/// What the client that is next is to get.
#[derive(Debug, PartialEq, Eq)]
pub enum Checkout {
    /// This idle server.
    Pair {
        /// Who.
        client: ClientKey,
        /// Since when it waits.
        since: Tick,
        /// What it gets.
        server: ServerKey,
    },
    /// This idle server is to be asked what it makes of settings, for all who wait to be told.
    Ask(ServerKey, Rc<Settings>),
    /// A new server; out of the reserve if somebody is named, who has waited for long.
    Dial(Option<ClientKey>),
    /// This idle server is to be closed first, to make room under a limit.
    Evict(ServerKey, Limit),
    /// A new server in place of this idle one: there are more than there may be without the reserve.
    Replace(ServerKey, Limit),
}

/// What comes of looking at a lane.
enum Verdict {
    Do(Checkout),
    Stand(Stand),
}

/// What a waiting client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// For a connection that is under way, or that may not be tried yet.
    ForConnection,
    /// The same, and the last login of its kind was refused.
    ForLogin,
    /// For room under a limit.
    ForRoom {
        /// Which one.
        limit: Limit,
        /// Server connections that count against it and are not idle.
        in_use: usize,
        /// How many there may be.
        max: usize,
    },
}

/// What is known of a user in all pools.
#[derive(Default)]
struct User {
    /// Server connections as this role.
    servers: Share,
    /// Clients that logged in as this user and have entered a pool.
    clients: usize,
    /// Pools in which servers are to be kept as this role, and there was no room for them.
    lacking: BTreeSet<PoolKey>,
}

/// All pools.
#[derive(Default)]
pub struct Pools {
    arena: Arena<OfPool, Pool>,
    configured: BTreeMap<String, UserConfig>,
    /// For those who are not.
    user_defaults: UserConfig,
    /// Whether any user has limits in time of its own.
    users_have_timeouts: bool,
    /// Whether any user has a limit over all pools. As long as none has, nobody keeps lists of users' idle servers.
    users_are_limited: bool,
    /// Whether any user has a limit of its own within a pool.
    users_have_pool_sizes: bool,
    users: BTreeMap<Vec<u8>, User>,
    /// Lanes to be looked at, by the ticket of the client that is next in them.
    ready: BTreeMap<u64, Lane>,
    /// Lanes that wait for room under a limit.
    parked: usize,
    /// Where lanes have come to wait for the time in which they may have what is in reserve, and where servers that are to be kept
    /// may be made now.
    stood: BTreeSet<PoolKey>,
    /// Idle servers that may be above a limit.
    surplus: Vec<ServerKey>,
    last_ticket: u64,
    last_stamp: u64,
}

impl Pools {
    /// Looks one up.
    pub fn get(&self, key: PoolKey) -> Option<&Pool> {
        self.arena.get(key)
    }

    /// Looks one up.
    pub fn get_mut(&mut self, key: PoolKey) -> Option<&mut Pool> {
        self.arena.get_mut(key)
    }

    /// All of them, in an order that stays the same.
    pub fn iter(&self) -> impl Iterator<Item = (PoolKey, &Pool)> {
        self.arena.iter()
    }

    /// The first at or after a slot: for cursors that go on where they stopped.
    pub fn at_or_after(&self, slot: u32) -> Option<(PoolKey, &Pool)> {
        self.arena.at_or_after(slot)
    }

    /// The keys of all of them.
    pub fn keys(&self) -> Vec<PoolKey> {
        self.arena.keys()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.arena.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.arena.is_empty()
    }

    /// Takes a pool in.
    pub fn insert(&mut self, pool: Pool) -> PoolKey {
        let key = self.arena.insert(pool);
        self.adopt(key);
        key
    }

    /// Takes over what is configured of a pool and of the users, as far as each step asks for it.
    fn adopt(&mut self, key: PoolKey) {
        if let Some(pool) = self.arena.get_mut(key) {
            pool.watched = pool.is_to_be_watched() || self.users_have_timeouts;
            pool.list_roles(self.users_have_pool_sizes);
        }
    }

    /// Forgets a pool in which nobody is.
    pub fn remove(&mut self, key: PoolKey) {
        self.arena.remove(key);
    }

    /// What the configuration says of a user.
    pub fn user_config(&self, user: &[u8]) -> UserConfig {
        std::str::from_utf8(user)
            .ok()
            .and_then(|name| self.configured.get(name))
            .copied()
            .unwrap_or(self.user_defaults)
    }

    /// Whether any user has limits in time that differ from those of the pools.
    pub fn users_have_timeouts(&self) -> bool {
        self.users_have_timeouts
    }

    /// When clients give their servers back for which a role logs in to a pool: the role's own setting wins, as in PgBouncer.
    pub fn mode(&self, pool: &PoolConfig, role: &[u8]) -> PoolMode {
        self.user_config(role).mode.unwrap_or(pool.mode)
    }

    /// Users that are configured or that are there: name, what is configured, server connections as this role, clients.
    pub fn users(&self) -> impl Iterator<Item = (&[u8], UserConfig, usize, usize)> {
        let idle = self
            .configured
            .iter()
            .filter(|(name, _)| !self.users.contains_key(name.as_bytes()));
        let idle = idle.map(|(name, config)| (name.as_bytes(), *config, 0, 0));
        let there = self.users.iter().map(|(name, user)| {
            let config = self.user_config(name);
            (&name[..], config, user.servers.used(), user.clients)
        });
        idle.chain(there)
    }

    /// Takes over what is configured of users.
    pub fn configure_users(&mut self, config: &Config) {
        self.configured = config.users.clone();
        self.user_defaults = config.user_defaults;
        let any = |has: fn(&UserConfig) -> bool| {
            let all = config.users.values().chain([&config.user_defaults]);
            all.into_iter().any(has)
        };
        self.users_have_timeouts = any(|user| user.timeouts != Default::default());
        self.users_are_limited = any(|user| user.max_connections > 0);
        self.users_have_pool_sizes = any(|user| user.pool_size.is_some());
        for key in self.keys() {
            self.adopt(key);
        }
        self.list_users();
        let names: Vec<Vec<u8>> = self.users.keys().cloned().collect();
        for name in names {
            let max = self.user_config(&name).max_connections;
            if let Some(user) = self.users.get_mut(&name) {
                user.servers.limit(max, 0);
                self.surplus.extend(user.servers.surplus_idle());
            }
            self.wake_user(&name);
        }
        for key in self.keys() {
            self.limit(key);
        }
    }

    /// Makes the lists of users' idle servers anew, if any are kept.
    fn list_users(&mut self) {
        for user in self.users.values_mut() {
            user.servers.clear_idle();
        }
        if !self.users_are_limited {
            return;
        }
        let idle = self.arena.iter().flat_map(|(_, pool)| pool.idle_by_kind());
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable_by_key(|(_, stamp, _)| *stamp);
        for (kind, stamp, server) in idle {
            if let Some(user) = self.users.get_mut(&kind.user) {
                user.servers.put_idle(stamp, server);
            }
        }
    }

    /// Takes the limits of a pool and of the roles in it over from the configuration.
    fn limit(&mut self, key: PoolKey) {
        let Some(pool) = self.arena.get_mut(key) else {
            return;
        };
        pool.limit();
        self.surplus.extend(pool.share.surplus_idle());
        let names: Vec<Vec<u8>> = pool.roles.keys().cloned().collect();
        for name in names {
            let own = self.user_config(&name);
            if let Some(pool) = self.arena.get_mut(key)
                && let Some(role) = pool.roles.get_mut(&name)
            {
                limit_role(role, &pool.config, &own);
                self.surplus.extend(role.surplus_idle());
            }
            self.wake(key, &name);
        }
    }

    /// Takes over what is configured of a pool.
    pub fn configure(&mut self, key: PoolKey, config: &Rc<PoolConfig>) {
        let Some(pool) = self.arena.get_mut(key) else {
            return;
        };
        pool.config = config.clone();
        self.adopt(key);
        self.limit(key);
    }

    /// Idle servers that are above a limit, or were a moment ago.
    pub fn take_surplus(&mut self) -> Vec<ServerKey> {
        std::mem::take(&mut self.surplus)
    }

    /// Whether there are more servers than there may be, of those that one of this kind counts among.
    pub fn is_surplus(&self, pool_key: PoolKey, kind: &Kind) -> bool {
        let Some(pool) = self.arena.get(pool_key) else {
            return false;
        };
        let is_over = |share: Option<&Share>| share.is_some_and(|share| share.surplus() > 0);
        is_over(Some(&pool.share))
            || pool.lists_roles && is_over(pool.roles.get(&kind.user))
            || self.users_are_limited
                && is_over(self.users.get(&kind.user).map(|user| &user.servers))
    }

    /// The pool's clients, and those of a login user in all pools.
    pub fn client_counts(&self, pool: PoolKey, user: &[u8]) -> (usize, usize) {
        (
            self.arena.get(pool).map_or(0, |pool| pool.clients),
            self.users.get(user).map_or(0, |user| user.clients),
        )
    }

    /// A client has entered a pool.
    pub fn entered(&mut self, pool: PoolKey, user: &[u8]) {
        if let Some(pool) = self.arena.get_mut(pool) {
            pool.clients += 1;
            pool.unused_since = None;
            *pool.logins.entry(user.to_vec()).or_default() += 1;
        }
        self.know_user(user);
        if let Some(user) = self.users.get_mut(user) {
            user.clients += 1;
        }
    }

    /// A client that had entered a pool is gone.
    pub fn left(&mut self, pool: PoolKey, user: &[u8]) {
        if let Some(pool) = self.arena.get_mut(pool) {
            pool.clients -= 1;
            if let Some(count) = pool.logins.get_mut(user) {
                *count -= 1;
                if *count == 0 {
                    pool.logins.remove(user);
                }
            }
        }
        if let Some(user) = self.users.get_mut(user) {
            user.clients -= 1;
        }
        self.drop_user_if_unused(user);
    }

    fn know_user(&mut self, name: &[u8]) {
        if !self.users.contains_key(name) {
            let servers = Share::new(self.user_config(name).max_connections);
            let user = User {
                servers,
                ..User::default()
            };
            self.users.insert(name.to_vec(), user);
        }
    }

    fn drop_user_if_unused(&mut self, name: &[u8]) {
        let unused = |user: &User| user.clients == 0 && user.servers.is_unused();
        if self.users.get(name).is_some_and(unused) {
            self.users.remove(name);
        }
    }

    // ---- what is counted ----

    fn share(&self, pool: PoolKey, user: &[u8], limit: Limit) -> Option<&Share> {
        match limit {
            Limit::User => self.users.get(user).map(|user| &user.servers),
            Limit::Database => Some(&self.arena.get(pool)?.share),
            Limit::DatabaseUser => self.arena.get(pool)?.roles.get(user),
        }
    }

    fn share_mut(&mut self, pool: PoolKey, user: &[u8], limit: Limit) -> Option<&mut Share> {
        match limit {
            Limit::User => self.users.get_mut(user).map(|user| &mut user.servers),
            Limit::Database => Some(&mut self.arena.get_mut(pool)?.share),
            Limit::DatabaseUser => self.arena.get_mut(pool)?.roles.get_mut(user),
        }
    }

    fn in_shares(&mut self, pool: PoolKey, kind: &Kind, mut change: impl FnMut(&mut Share)) {
        for limit in LIMITS {
            if let Some(share) = self.share_mut(pool, &kind.user, limit) {
                change(share);
            }
        }
    }

    /// Those in which idle servers are listed, because they may have to make room there.
    fn in_idle_lists(&mut self, key: PoolKey, kind: &Kind, mut change: impl FnMut(&mut Share)) {
        if let Some(pool) = self.arena.get_mut(key) {
            change(&mut pool.share);
            if pool.lists_roles
                && let Some(role) = pool.roles.get_mut(&kind.user)
            {
                change(role);
            }
        }
        if self.users_are_limited
            && let Some(user) = self.users.get_mut(&kind.user)
        {
            change(&mut user.servers);
        }
    }

    /// Whether there may be one more server of a pool as this role.
    pub fn has_room(&self, pool: PoolKey, user: &[u8]) -> bool {
        let has_room = |limit| self.share(pool, user, limit).is_none_or(Share::has_room);
        LIMITS.into_iter().all(has_room)
    }

    /// The idle server that would make room for one more of a pool as this role, under the narrowest limit that is reached.
    /// `None`: there is one that no idle server makes room under.
    pub fn in_the_way(&self, pool: PoolKey, user: &[u8]) -> Option<ServerKey> {
        let share = |limit| self.share(pool, user, limit);
        let can_serve = |limit| share(limit).is_none_or(Share::can_serve);
        if !LIMITS.into_iter().all(can_serve) {
            return None;
        }
        let full = |limit: &Limit| share(*limit).is_some_and(|share| !share.has_room());
        let limit = LIMITS.into_iter().rev().find(full)?;
        share(limit)?.oldest_idle()
    }

    /// A connection attempt begins.
    pub fn dialed(&mut self, pool_key: PoolKey, kind: &Rc<Kind>) {
        debug_assert!(
            LIMITS.into_iter().all(|limit| self
                .share(pool_key, &kind.user, limit)
                .is_none_or(|share| share.has_room() || share.has_reserve())),
            "one more than there may be"
        );
        self.know_user(&kind.user);
        let own = self.user_config(&kind.user);
        if let Some(pool) = self.arena.get_mut(pool_key) {
            pool.know_role(&kind.user, &own);
            pool.connecting += 1;
            pool.coming += 1;
            pool.state(kind).coming += 1;
        }
        self.in_shares(pool_key, kind, Share::add);
        self.refront(pool_key, kind);
    }

    /// A connection attempt is over, well or not.
    pub fn dial_ended(&mut self, pool_key: PoolKey, kind: &Rc<Kind>) {
        if let Some(pool) = self.arena.get_mut(pool_key) {
            pool.connecting -= 1;
        }
        self.check_ended(pool_key, kind);
    }

    /// An idle server is checked before use.
    pub fn checking(&mut self, pool_key: PoolKey, server: ServerKey, kind: &Rc<Kind>) {
        if let Some(pool) = self.arena.get_mut(pool_key) {
            pool.coming += 1;
            pool.state(kind).coming += 1;
        }
        self.take_idle(pool_key, server, kind);
    }

    /// A check is over, well or not.
    pub fn check_ended(&mut self, pool_key: PoolKey, kind: &Rc<Kind>) {
        if let Some(pool) = self.arena.get_mut(pool_key) {
            pool.coming -= 1;
            pool.state(kind).coming -= 1;
        }
        self.refront(pool_key, kind);
    }

    /// A server is idle from now on.
    pub fn put_idle(&mut self, pool_key: PoolKey, server: ServerKey, kind: &Rc<Kind>) {
        self.last_stamp += 1;
        let stamp = self.last_stamp;
        let Some(pool) = self.arena.get_mut(pool_key) else {
            return;
        };
        let state = pool.state(kind);
        let first = state.idle.is_empty();
        state.idle.push((server, stamp));
        let calm = state.is_calm();
        pool.idle_kinds += usize::from(first);
        let mut over = false;
        self.in_idle_lists(pool_key, kind, |share| {
            share.put_idle(stamp, server);
            over |= share.surplus() > 0;
        });
        if over {
            self.surplus.push(server);
        }
        if !calm {
            self.refront(pool_key, kind);
        }
        self.wake(pool_key, &kind.user);
    }

    /// The idle server that a client gets who comes now, if nobody waits who might want it.
    pub fn at_hand(&mut self, pool_key: PoolKey, kind: &Rc<Kind>) -> Option<ServerKey> {
        if !self.is_settled() {
            return None;
        }
        let pool = self.arena.get_mut(pool_key)?;
        if pool.held {
            return None;
        }
        let oldest = pool.config.sizes.server_round_robin;
        let state = pool.note_asked(kind)?;
        let server = state.next_idle(oldest)?;
        state.waiters.is_empty().then_some(server)
    }

    /// [`Pools::put_idle`] where nothing follows from it: nobody waits, and nothing is above a limit. `false`: something may, and
    /// nothing was done.
    pub fn put_back(&mut self, pool_key: PoolKey, server: ServerKey, kind: &Rc<Kind>) -> bool {
        let calm = self.is_settled() && self.parked == 0;
        let Some(pool) = self.arena.get_mut(pool_key) else {
            return false;
        };
        if !(calm && pool.is_calm()) || pool.share.surplus() > 0 {
            return false;
        }
        let is_listed = pool.lists_roles || self.users_are_limited;
        let pool = if is_listed {
            if self.is_surplus(pool_key, kind) {
                return false;
            }
            self.arena.get_mut(pool_key)
        } else {
            Some(pool)
        };
        let Some(pool) = pool else {
            return false;
        };
        let Some(state) = pool.kinds.get_mut(kind).filter(|state| state.is_calm()) else {
            return false;
        };
        let first = state.idle.is_empty();
        if first && pool.idle_kinds == limits::IDLE_KINDS_MAX {
            return false;
        }
        self.last_stamp += 1;
        let stamp = self.last_stamp;
        state.idle.push((server, stamp));
        pool.idle_kinds += usize::from(first);
        if is_listed {
            self.in_idle_lists(pool_key, kind, |share| share.put_idle(stamp, server));
        } else {
            pool.share.put_idle(stamp, server);
        }
        true
    }

    /// [`Pools::at_hand`] and [`Pools::take_idle`] in one, where nothing else follows from that. `epoch`: the pool's when the client's kind
    /// was made. `None`: something may follow, or the server is not `fit`, and none was taken.
    pub fn take_at_hand(
        &mut self,
        pool_key: PoolKey,
        kind: &Kind,
        epoch: u32,
        fit: impl FnOnce(ServerKey, &PoolConfig) -> bool,
    ) -> Option<ServerKey> {
        if !self.is_settled() {
            return None;
        }
        let pool = self.arena.get_mut(pool_key)?;
        if pool.held || pool.epoch != epoch {
            return None;
        }
        pool.asked += 1;
        let state = pool.kinds.get_mut(kind)?;
        state.asked = pool.asked;
        let oldest = pool.config.sizes.server_round_robin;
        let server = state.next_idle(oldest)?;
        if !state.is_calm() || state.welcome.is_none() || !fit(server, &pool.config) {
            return None;
        }
        let (_, stamp) = match oldest {
            true => state.idle.remove(0),
            false => state.idle.pop()?,
        };
        pool.idle_kinds -= usize::from(state.idle.is_empty());
        if pool.lists_roles || self.users_are_limited {
            self.in_idle_lists(pool_key, kind, |share| share.take_idle(stamp));
        } else {
            pool.share.take_idle(stamp);
        }
        Some(server)
    }

    /// Whether nobody is to be looked at, and nothing to be closed.
    pub fn is_settled(&self) -> bool {
        self.ready.is_empty() && self.surplus.is_empty()
    }

    /// Whether nothing follows from a server of a pool having become idle.
    pub fn is_calm(&self, pool: PoolKey) -> bool {
        self.is_settled() && self.parked == 0 && self.arena.get(pool).is_some_and(Pool::is_calm)
    }

    /// Whether something is to be done about the idle servers of a pool being too few, now or later.
    pub fn is_short(&self, pool: PoolKey, now: Tick) -> bool {
        self.arena.get(pool).is_some_and(|pool| pool.is_short(now))
    }

    /// A server is idle no more.
    pub fn take_idle(&mut self, pool_key: PoolKey, server: ServerKey, kind: &Rc<Kind>) {
        let Some(pool) = self.arena.get_mut(pool_key) else {
            return;
        };
        let Some(state) = pool.kinds.get_mut(kind) else {
            return;
        };
        let Some(place) = state.idle.iter().rposition(|(idle, _)| *idle == server) else {
            return;
        };
        let (_, stamp) = state.idle.remove(place);
        let last = state.idle.is_empty();
        let (calm, is_known) = (state.is_calm(), state.welcome.is_some());
        pool.idle_kinds -= usize::from(last);
        self.in_idle_lists(pool_key, kind, |share| share.take_idle(stamp));
        if !calm {
            self.refront(pool_key, kind);
        }
        if last
            && !is_known
            && let Some(pool) = self.arena.get_mut(pool_key)
        {
            pool.drop_kind_if_unused(kind);
        }
    }

    /// A server is gone.
    pub fn gone(&mut self, pool_key: PoolKey, kind: &Rc<Kind>) {
        self.in_shares(pool_key, kind, Share::remove);
        if let Some(user) = self.users.get_mut(&kind.user)
            && user.servers.has_room()
        {
            self.stood.append(&mut user.lacking);
        }
        self.wake(pool_key, &kind.user);
        if let Some(pool) = self.arena.get_mut(pool_key) {
            pool.drop_kind_if_unused(kind);
            if pool.roles.get(&kind.user).is_some_and(Share::is_unused) {
                pool.roles.remove(&kind.user);
            }
        }
        self.drop_user_if_unused(&kind.user);
    }

    // ---- who waits ----

    /// A client waits from now on.
    pub fn enqueue(
        &mut self,
        pool_key: PoolKey,
        client: ClientKey,
        kind: &Rc<Kind>,
        wants: Wants,
        since: Tick,
    ) {
        self.last_ticket += 1;
        let waiter = Waiter {
            ticket: self.last_ticket,
            client,
            wants,
            since,
        };
        self.join(pool_key, waiter, kind);
    }

    /// What a client that waits needs is a server of this kind from now on, with these settings. It keeps its place.
    pub fn wait_for(
        &mut self,
        pool_key: PoolKey,
        client: ClientKey,
        kind: &Rc<Kind>,
        settings: &Rc<Settings>,
    ) {
        if let Some(mut waiter) = self.leave_queue(pool_key, client) {
            if let Wants::Welcome(wanted) = &mut waiter.wants {
                *wanted = settings.clone();
            }
            self.join(pool_key, waiter, kind);
        }
    }

    fn join(&mut self, pool_key: PoolKey, waiter: Waiter, kind: &Rc<Kind>) {
        let Some(pool) = self.arena.get_mut(pool_key) else {
            return;
        };
        let place = (waiter.ticket, kind.clone(), waiter.wants.clone());
        pool.tickets.insert(waiter.client, place);
        match waiter.wants {
            Wants::Welcome(_) => self.wonder(pool_key, waiter, kind),
            Wants::Server => {
                pool.line_up(kind, waiter);
                self.refront(pool_key, kind);
            }
        }
    }

    /// A client waits no more, or has what it waited for.
    pub fn leave_queue(&mut self, pool_key: PoolKey, client: ClientKey) -> Option<Waiter> {
        let pool = self.arena.get_mut(pool_key)?;
        let (ticket, kind, wants) = pool.tickets.remove(&client)?;
        let waiter = match wants {
            Wants::Welcome(settings) => {
                let question = pool.state(&kind).questions.get_mut(&settings)?;
                let waiter = question.askers.remove(&ticket);
                self.review(pool_key, &kind, &settings);
                waiter
            }
            Wants::Server => {
                let waiter = pool.step_out(&kind, ticket);
                self.refront(pool_key, &kind);
                waiter
            }
        };
        self.arena.get_mut(pool_key)?.drop_kind_if_unused(&kind);
        waiter
    }

    /// All who wait have done so for less: nobody could be served for so long.
    pub fn postpone(&mut self, time: Duration) {
        for key in self.arena.keys() {
            let kinds = self.arena.get_mut(key).map(|pool| &mut pool.kinds);
            for state in kinds.into_iter().flat_map(BTreeMap::values_mut) {
                let questions = state.questions.values_mut();
                let askers = questions.flat_map(|question| question.askers.values_mut());
                for waiter in state.waiters.iter_mut().chain(askers) {
                    waiter.since = waiter.since.plus(time);
                }
            }
        }
    }

    /// Takes all who wait for a kind out of the queue.
    pub fn dequeue_kind(&mut self, pool_key: PoolKey, kind: &Rc<Kind>) -> Vec<ClientKey> {
        let Some(pool) = self.arena.get_mut(pool_key) else {
            return Vec::new();
        };
        let Some(state) = pool.kinds.get_mut(kind) else {
            return Vec::new();
        };
        let lane = std::mem::take(&mut state.waiters);
        let questions = std::mem::take(&mut state.questions).into_values();
        let askers = questions.flat_map(|question| question.askers.into_values());
        let clients: BTreeMap<u64, ClientKey> = lane
            .into_iter()
            .chain(askers)
            .map(|waiter| (waiter.ticket, waiter.client))
            .collect();
        for client in clients.values() {
            pool.tickets.remove(client);
        }
        self.refront(pool_key, kind);
        if let Some(pool) = self.arena.get_mut(pool_key) {
            pool.drop_kind_if_unused(kind);
        }
        clients.into_values().collect()
    }

    /// What a waiting client, or the one that is next before it, waits for.
    pub fn waits_for(&self, pool_key: PoolKey, client: ClientKey) -> Option<Waits> {
        let pool = self.arena.get(pool_key)?;
        let (_, kind, wants) = pool.tickets.get(&client)?;
        let state = pool.kinds.get(kind)?;
        let is_asked =
            matches!(wants, Wants::Welcome(settings) if pool.welcomes.is_asking(kind, settings));
        let stand = state.stand.filter(|_| !is_asked);
        let Some((_, Stand::Limited(limit))) = stand else {
            let refused = pool.refused.as_ref().is_some_and(|last| last.kind == *kind);
            return Some(match refused {
                true => Waits::ForLogin,
                false => Waits::ForConnection,
            });
        };
        let share = self.share(pool_key, &kind.user, limit)?;
        Some(Waits::ForRoom {
            limit,
            in_use: share.used() - share.idle(),
            max: share.max().unwrap_or(share.used()),
        })
    }

    /// Whether somebody is still to be looked at.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Connections may perhaps be made again: whoever waits for that the longest is to be looked at.
    pub fn wake_paused(&mut self, pool_key: PoolKey, now: Tick) {
        let Some(pool) = self.arena.get_mut(pool_key) else {
            return;
        };
        if !pool.paused.is_empty()
            && pool.may_connect(now)
            && let Some((ticket, kind)) = pool.paused.pop_first()
        {
            let lane = Lane {
                pool: pool_key,
                kind,
            };
            self.stand(lane, ticket, Stand::Ready);
        }
    }

    /// Pools that have to be looked at, now or when somebody has waited for long there, though nothing else was done in them: what
    /// is short under the limit of a user may have come free in another pool.
    pub fn take_stood(&mut self) -> BTreeSet<PoolKey> {
        std::mem::take(&mut self.stood)
    }

    /// Lanes whose next client has waited long enough for the reserve are to be looked at.
    pub fn wake_for_reserve(&mut self, pool_key: PoolKey, now: Tick) {
        let Some(pool) = self.arena.get(pool_key) else {
            return;
        };
        let due = pool.waits_for_reserve().filter(|(at, ..)| *at <= now);
        let due: BTreeMap<u64, (Rc<Kind>, Limit)> = due
            .map(|(_, ticket, kind, limit)| (ticket, (kind.clone(), limit)))
            .collect();
        for (ticket, (kind, limit)) in due {
            if let Some(share) = self.share_mut(pool_key, &kind.user, limit) {
                share.unpark(ticket);
                self.parked -= 1;
            }
            let lane = Lane {
                pool: pool_key,
                kind,
            };
            self.stand(lane, ticket, Stand::Ready);
        }
    }

    /// What is to be done next, in the order in which clients came; `None`: nothing, all who wait have to.
    pub fn next(&mut self, now: Tick) -> Option<(Lane, Checkout)> {
        loop {
            let (&ticket, lane) = self.ready.first_key_value()?;
            let lane = lane.clone();
            match self.look_at(&lane, now)? {
                Verdict::Do(checkout) => return Some((lane, checkout)),
                Verdict::Stand(stand) => {
                    self.ready.remove(&ticket);
                    self.stand(lane.clone(), ticket, stand);
                    // What it was woken for and could not take is the next one's.
                    self.wake(lane.pool, &lane.kind.user);
                    self.wake_paused(lane.pool, now);
                }
            }
        }
    }

    fn look_at(&self, lane: &Lane, now: Tick) -> Option<Verdict> {
        let pool = self.arena.get(lane.pool)?;
        if pool.held {
            return Some(Verdict::Stand(Stand::Paused));
        }
        let state = pool.kinds.get(&lane.kind)?;
        let share = |limit| self.share(lane.pool, &lane.kind.user, limit);
        let wait = |limit| Some(Verdict::Stand(Stand::Limited(limit)));
        let idle = state.next_idle(pool.config.sizes.server_round_robin);
        if let (Some(server), Some(waiter)) = (idle, state.waiters.front()) {
            return Some(Verdict::Do(match &waiter.wants {
                Wants::Welcome(settings) => Checkout::Ask(server, settings.clone()),
                Wants::Server => Checkout::Pair {
                    client: waiter.client,
                    since: waiter.since,
                    server,
                },
            }));
        }
        if !pool.may_connect(now) {
            return Some(Verdict::Stand(Stand::Paused));
        }
        // The reserve is for those who have waited for long, where nothing idle can make room.
        let waiter = state.next()?;
        let timeout = pool.config.sizes.reserve_pool_timeout;
        let patient = !timeout.is_zero() && waiter.since.plus(timeout) <= now;
        let reserved = |share: &Share| patient && share.idle() == 0 && share.has_reserve();
        let stuck = |limit: &Limit| {
            share(*limit).is_some_and(|share| !share.can_serve() && !reserved(share))
        };
        if let Some(limit) = LIMITS.into_iter().find(stuck) {
            return wait(limit);
        }
        // The narrowest first: what makes room there makes room under the wider limits, too.
        let full = |limit: &Limit| {
            share(*limit).is_some_and(|share| !share.has_room() && !reserved(share))
        };
        let Some(limit) = LIMITS.into_iter().rev().find(full) else {
            let by_reserve = |limit| share(limit).is_some_and(|share| !share.has_room());
            let reserve = LIMITS.into_iter().any(by_reserve);
            let client = reserve.then_some(waiter.client);
            return Some(Verdict::Do(Checkout::Dial(client)));
        };
        let own = pool.oldest_idle_of(&lane.kind.user);
        if let Some(own) = own
            && share(limit).is_some_and(Share::is_into_reserve)
        {
            return Some(Verdict::Do(Checkout::Replace(own, limit)));
        }
        let victim = match (full(&Limit::User), full(&Limit::Database)) {
            (true, true) => own,
            _ => None,
        };
        let victim = victim.or_else(|| share(limit)?.oldest_idle())?;
        Some(Verdict::Do(Checkout::Evict(victim, limit)))
    }

    /// Puts a lane into a queue.
    fn stand(&mut self, lane: Lane, ticket: u64, stand: Stand) {
        if let Some(pool) = self.arena.get_mut(lane.pool) {
            pool.state(&lane.kind).stand = Some((ticket, stand));
            if stand == Stand::Paused {
                pool.paused.insert(ticket, lane.kind.clone());
            }
        }
        match stand {
            Stand::Paused => {}
            Stand::Ready => {
                self.ready.insert(ticket, lane);
            }
            Stand::Limited(limit) => {
                let kind = lane.kind.clone();
                let pool = lane.pool;
                let Some(share) = self.share_mut(pool, &kind.user, limit) else {
                    return;
                };
                share.park(ticket, lane);
                let has_reserve = share.has_reserve();
                self.parked += 1;
                if has_reserve {
                    self.stood.insert(pool);
                }
            }
        }
    }

    /// A lane, or what it can have, has changed: who is next in it, and is it to be looked at?
    fn refront(&mut self, pool_key: PoolKey, kind: &Rc<Kind>) {
        let Some(pool) = self.arena.get_mut(pool_key) else {
            return;
        };
        let Some(state) = pool.kinds.get_mut(kind) else {
            return;
        };
        let (front, before) = (state.front(), state.stand);
        let stays = before.is_some_and(|(ticket, stand)| {
            front == Some(ticket) && (state.idle.is_empty() || stand == Stand::Ready)
        });
        if stays || (front.is_none() && before.is_none()) {
            return;
        }
        state.stand = None;
        match before {
            None => {}
            Some((ticket, Stand::Ready)) => {
                self.ready.remove(&ticket);
            }
            Some((ticket, Stand::Paused)) => {
                pool.paused.remove(&ticket);
            }
            Some((ticket, Stand::Limited(limit))) => {
                if let Some(share) = self.share_mut(pool_key, &kind.user, limit) {
                    share.unpark(ticket);
                    self.parked -= 1;
                }
            }
        }
        if let Some(ticket) = front {
            let lane = Lane {
                pool: pool_key,
                kind: kind.clone(),
            };
            self.stand(lane, ticket, Stand::Ready);
        }
        self.wake(pool_key, &kind.user);
    }

    /// Whoever waits the longest for a limit under which there is room now is to be looked at.
    fn wake(&mut self, pool: PoolKey, user: &[u8]) {
        if self.parked == 0 {
            return;
        }
        self.wake_user(user);
        for limit in [Limit::Database, Limit::DatabaseUser] {
            let woken = self.share_mut(pool, user, limit).and_then(Share::wake);
            if let Some((ticket, lane)) = woken {
                self.parked -= 1;
                self.stand(lane, ticket, Stand::Ready);
            }
        }
    }

    fn wake_user(&mut self, user: &[u8]) {
        let woken = self
            .users
            .get_mut(user)
            .and_then(|user| user.servers.wake());
        if let Some((ticket, lane)) = woken {
            self.parked -= 1;
            self.stand(lane, ticket, Stand::Ready);
        }
    }

    /// Whether an idle server should be made in a pool to keep the configured number ready; of which kind.
    pub fn refill(&mut self, pool: PoolKey, now: Tick) -> Option<Rc<Kind>> {
        let (arena, users) = (&self.arena, &mut self.users);
        let mut fits = |kind: &Kind| match users.get_mut(&kind.user) {
            Some(user) if !user.servers.has_room() => {
                user.lacking.insert(pool);
                false
            }
            _ => true,
        };
        arena.get(pool)?.refill(now, &mut fits)
    }

    /// Asserts what holds once everybody has been looked at.
    pub fn check_settled(&self, now: Tick) {
        assert!(self.ready.is_empty(), "somebody was not looked at");
        let pools = self.arena.iter().map(|(_, pool)| pool);
        let of_pools = pools.flat_map(|pool| pool.roles.values().chain([&pool.share]));
        let of_users = self.users.values().map(|user| &user.servers);
        let parked: usize = of_pools.chain(of_users).map(Share::parked).sum();
        assert_eq!(self.parked, parked, "lanes that wait for room");
        for (_, pool) in self.arena.iter() {
            pool.check_settled(now);
        }
        let is_idle_as = |name: &[u8]| {
            let all = self.arena.iter().flat_map(|(_, pool)| pool.idle_by_kind());
            all.filter(|(kind, ..)| kind.user == name).count()
        };
        for (name, user) in &self.users {
            let idle = match self.users_are_limited {
                true => is_idle_as(name),
                false => 0,
            };
            assert_eq!(user.servers.idle(), idle, "user {}", printable(name));
            user.servers
                .check_settled(&format!("user {}", printable(name)));
        }
    }

    /// Asserts what holds between any two steps of a user's counts, given those of the arenas.
    pub fn check_user(&self, name: &[u8], servers: usize, clients: usize) {
        let counted = self
            .users
            .get(name)
            .map_or((0, 0), |user| (user.servers.used(), user.clients));
        assert_eq!(counted, (servers, clients), "user {}", printable(name));
    }
}

#[cfg(test)]
mod tests;
