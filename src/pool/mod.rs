//! Who gets which server: idle stacks, waiting clients, limits.
//!
//! A pool is one entry of the configuration. Its servers are of *kinds*: logged in as one role with one set of startup
//! parameters. A client only ever gets a server of its own kind, since what was given at startup cannot be changed later; but
//! what servers report can, and is no part of the kind of clients that share them ([`startup_set`]).
//! [`Pools`] holds them all, and what they share: the order in which clients came, and the limits of users.
//!
//! Pure bookkeeping over keys: says what to do ([`Checkout`]) and is told what was done. Knows no sockets and no messages.

pub mod cancel;
mod pools;
mod share;
pub mod startup_set;
mod welcomes;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

pub use pools::{Checkout, Limit, Pools, Waits};
pub use share::{Lane, Share};
pub use welcomes::Known;

use crate::arena::{ClientKey, ServerKey, Tick};
use crate::config::{PoolConfig, UserConfig};
use crate::limits;
use crate::relay::{Settings, Vars};
use crate::stats::Stats;
use crate::wire::frame::{printable, printable_str};
use crate::wire::refusal::Refusal;
use pools::Question;
use startup_set::REPORTED;
use welcomes::Welcomes;

/// A role and the startup parameters of a session: what a server must have been started with to serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The role that logs in to the server.
    pub user: Vec<u8>,
    /// The database there.
    pub database: Vec<u8>,
    /// Startup parameters by lower-case name, sorted, each once.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Ord for Kind {
    /// All who are of one kind have the pool's own copy of it as a rule: then nothing has to be read.
    fn cmp(&self, other: &Kind) -> Ordering {
        if std::ptr::eq(self, other) {
            return Ordering::Equal;
        }
        let by_user = self.user.cmp(&other.user);
        by_user
            .then_with(|| self.database.cmp(&other.database))
            .then_with(|| self.parameters.cmp(&other.parameters))
    }
}

impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Kind) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Kind {
    /// Of a connection that logs in as nobody: one that carries a request to a peer.
    pub fn nobody() -> Kind {
        Kind {
            user: Vec::new(),
            database: Vec::new(),
            parameters: Vec::new(),
        }
    }

    /// Which replication protocol it speaks, if it does: such a connection is used for one session only.
    pub fn replication(&self) -> Option<Replication> {
        let mut given = self.parameters.iter();
        let (_, value) = given.find(|(name, _)| name == b"replication")?;
        // What is neither a truth nor `database` is refused by the server.
        Some(match &value[..] {
            b"database" => Replication::Logical,
            _ => Replication::Physical,
        })
    }

    /// Whether it is a replication connection.
    pub fn is_replication(&self) -> bool {
        self.replication().is_some()
    }
}

/// What a replication connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// `replication=true`: the write-ahead log of the whole cluster, and base backups. It is in no database.
    Physical,
    /// `replication=database`: what has changed in a database.
    Logical,
}

impl Replication {
    /// The word for SHOW.
    pub fn as_str(self) -> &'static str {
        match self {
            Replication::Physical => "physical",
            Replication::Logical => "logical",
        }
    }
}

/// A client in the queue.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// Its place in the order in which clients came, over all pools.
    ticket: u64,
    /// Who waits.
    pub client: ClientKey,
    /// For what.
    pub wants: Wants,
    /// Since when.
    pub since: Tick,
}

/// What a client waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wants {
    /// A server.
    Server,
    /// To be told what servers make of the settings that it came with.
    Welcome(Rc<Settings>),
}

/// Where a lane stands: what its next client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// To be looked at.
    Ready,
    /// Until connections may be made again.
    Paused,
    /// Until there is room under a limit.
    Limited(Limit),
}

/// What a pool remembers of a kind.
#[derive(Default)]
struct KindState {
    /// Idle servers, the most recently used one last, and when they became idle as a number that grows.
    idle: Vec<(ServerKey, u64)>,
    /// Servers on their way to being idle: connecting, or being checked.
    coming: usize,
    /// When it was last asked for, as a number that grows.
    asked: u64,
    /// What its servers report of themselves.
    welcome: Option<Rc<Vars>>,
    /// Who waits for one, the first to come first.
    waiters: VecDeque<Waiter>,
    /// Who waits to be told what they make of settings. One of each is among those who wait for a server, if it needs one.
    questions: BTreeMap<Rc<Settings>, Question>,
    /// Where the lane stands, and the ticket of the client that is next in it.
    stand: Option<(u64, Stand)>,
}

impl KindState {
    /// The ticket of the client that is next: the first for whom no server is under way.
    fn front(&self) -> Option<u64> {
        self.next().map(|waiter| waiter.ticket)
    }

    /// The client that is next.
    fn next(&self) -> Option<&Waiter> {
        let place = if self.idle.is_empty() { self.coming } else { 0 };
        self.waiters.get(place)
    }

    /// The idle server that is given away next. `oldest`: the one that was not used for the longest time.
    fn next_idle(&self, oldest: bool) -> Option<ServerKey> {
        let idle = if oldest {
            self.idle.first()
        } else {
            self.idle.last()
        };
        idle.map(|(server, _)| *server)
    }

    /// Whether nobody is next in the lane, nor was a moment ago.
    fn is_calm(&self) -> bool {
        self.waiters.is_empty() && self.stand.is_none()
    }

    fn place_of(&self, ticket: u64) -> Result<usize, usize> {
        self.waiters
            .binary_search_by_key(&ticket, |waiter| waiter.ticket)
    }

    fn has_servers_or_waiters(&self) -> bool {
        let has_waiters = !self.waiters.is_empty() || !self.questions.is_empty();
        !self.idle.is_empty() || self.coming > 0 || has_waiters
    }
}

/// Why no server can be had, and when to try again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The error of the last attempt.
    pub refusal: Refusal,
    /// Attempts that failed in a row.
    pub attempts: u32,
    /// Not before this.
    pub retry_at: Tick,
}

/// A login that the server has refused for good. Clients that ask are let try at once; idle connections wait.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Whose login it was.
    kind: Rc<Kind>,
    /// What the server said.
    pub refusal: Refusal,
    /// Pauses that have begun in a row.
    pauses: u32,
    /// No idle connection is tried before this.
    pub retry_at: Tick,
}

/// A pool.
pub struct Pool {
    /// The name that clients ask for.
    pub name: String,
    /// Its configuration.
    pub config: Rc<PoolConfig>,
    /// The entry is gone from the configuration: no new logins, servers are closed as they are released.
    pub removed: bool,
    /// Made from the `"*"` entry.
    pub from_fallback: bool,
    /// Its servers are asked for secrets (`auth_query`) or carry requests to peers, and no client ever has one.
    pub for_lookups: bool,
    /// An operator has paused the database: no server is given out or made, and none is kept.
    pub held: bool,
    /// Clients may be late with their servers: whoever runs one looks at the time.
    pub watched: bool,
    /// Counters.
    pub stats: Stats,
    /// Set while no server can be reached.
    pub failure: Option<Failure>,
    /// Set while the server refuses a login.
    pub refused: Option<Refused>,
    /// Idle servers are not made before this, after one could not be made.
    pub refill_after: Tick,
    /// The pool's own timer is armed for this.
    pub armed: Option<Tick>,
    /// Clients that have entered it and are still there.
    clients: usize,
    /// The same by the user who logged in; only kept where servers are for those who are there (`min_pool_size`).
    logins: BTreeMap<Vec<u8>, usize>,
    /// Since when nobody is in it; of one that is made from the `"*"` entry.
    pub unused_since: Option<Tick>,
    /// The host that new connections try first.
    pub next_host: usize,
    /// Servers of the pool in any state, cancel connections not counted.
    share: Share,
    /// The same for each role that logs in.
    roles: BTreeMap<Vec<u8>, Share>,
    /// Whether the roles' idle servers are listed: some role has a limit here.
    lists_roles: bool,
    /// Servers that are connecting or logging in.
    connecting: usize,
    /// Those, and idle ones that are being checked.
    coming: usize,
    /// Kinds with idle servers.
    idle_kinds: usize,
    /// Cancel connections under way.
    pub cancels: usize,
    /// Sessions served by server connections that are gone.
    pub sessions_ended: u64,
    /// Who waits, under which ticket, and for what.
    tickets: BTreeMap<ClientKey, (u64, Rc<Kind>, Wants)>,
    /// Lanes that wait until connections may be made again.
    paused: BTreeMap<u64, Rc<Kind>>,
    kinds: BTreeMap<Rc<Kind>, KindState>,
    asked: u64,
    last_asked: Option<Rc<Kind>>,
    /// What servers make of the settings that clients come with.
    pub welcomes: Welcomes,
    /// What all of its servers report, by lower-case name; as long as none is known, what they are expected to.
    reported: BTreeSet<Vec<u8>>,
    /// Counts what changes the kinds of clients that are here.
    pub epoch: u32,
    /// Questions that are answered, or were a moment ago.
    news: BTreeSet<(Rc<Kind>, Rc<Settings>)>,
}

impl Pool {
    /// An empty pool.
    pub fn new(name: String, config: Rc<PoolConfig>, from_fallback: bool) -> Pool {
        let reported = expected(&config);
        let mut pool = Pool {
            name,
            share: Share::default(),
            roles: BTreeMap::new(),
            lists_roles: false,
            clients: 0,
            logins: BTreeMap::new(),
            unused_since: None,
            next_host: 0,
            config,
            removed: false,
            from_fallback,
            for_lookups: false,
            held: false,
            watched: false,
            stats: Stats::default(),
            failure: None,
            refused: None,
            refill_after: Tick(0),
            armed: None,
            connecting: 0,
            coming: 0,
            idle_kinds: 0,
            cancels: 0,
            sessions_ended: 0,
            tickets: BTreeMap::new(),
            paused: BTreeMap::new(),
            kinds: BTreeMap::new(),
            asked: 0,
            last_asked: None,
            welcomes: Welcomes::default(),
            reported,
            epoch: 0,
            news: BTreeSet::new(),
        };
        pool.limit();
        pool
    }

    /// Whether any limit in time holds for what clients do with their servers.
    fn is_to_be_watched(&self) -> bool {
        let timeouts = &self.config.timeouts;
        let all = [
            timeouts.query_timeout,
            timeouts.transaction_timeout,
            timeouts.idle_transaction_timeout,
            self.config.client_idle_timeout,
        ];
        all.iter().any(|limit| !limit.is_zero())
    }

    /// Its name, fit for a log line: under `"*"` it is whatever a client has asked for.
    pub fn label(&self) -> Cow<'_, str> {
        printable_str(&self.name)
    }

    /// Makes the pool keep idle servers ready before anybody has asked, if it is known as whom.
    pub fn expect_base_kind(&mut self) {
        let backend = &self.config.backend;
        if let (Some(user), Some(database)) = (&backend.user, &backend.database) {
            let bytes = |text: &String| text.as_bytes().to_vec();
            let parameters = backend
                .parameters
                .iter()
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect();
            let kind = Kind {
                user: bytes(user),
                database: bytes(database),
                parameters,
            };
            self.ask(Rc::new(kind));
        }
    }

    /// The server refuses this kind for good: servers are kept ready of the one that was asked for before it and has worked, or of the
    /// one that nobody has to ask for.
    pub fn prefer_another(&mut self, kind: &Rc<Kind>) {
        if self.last_asked.as_ref() != Some(kind) {
            return;
        }
        let others = self
            .kinds
            .iter()
            .filter(|(other, state)| *other != kind && state.welcome.is_some());
        match others.max_by_key(|(_, state)| state.asked) {
            Some((other, _)) => self.last_asked = Some(other.clone()),
            None => self.expect_base_kind(),
        }
    }

    /// The servers are elsewhere now, or the roles other ones: what was learnt of them is forgotten.
    pub fn moved(&mut self) {
        (self.failure, self.refused) = (None, None);
        self.next_host = 0;
        self.last_asked = None;
        self.welcomes.clear();
        self.reported = expected(&self.config);
        self.epoch += 1;
        self.kinds.retain(|_, state| {
            state.welcome = None;
            state.has_servers_or_waiters()
        });
        self.expect_base_kind();
    }

    /// Notes that a kind is asked for, and gives back the pool's own copy of it.
    pub fn ask(&mut self, kind: Rc<Kind>) -> Rc<Kind> {
        let kind = match self.kinds.get_key_value(&kind) {
            Some((own, _)) => own.clone(),
            None => kind,
        };
        self.asked += 1;
        self.state(&kind).asked = self.asked;
        // Connections that serve one session are not kept ready.
        if !kind.is_replication() {
            self.last_asked = Some(kind.clone());
        }
        self.forget_old_kinds();
        kind
    }

    fn state(&mut self, kind: &Rc<Kind>) -> &mut KindState {
        self.kinds.entry(kind.clone()).or_default()
    }

    /// Forgets the welcomes of kinds that nobody has asked for in a while and that have no servers.
    fn forget_old_kinds(&mut self) {
        if self.kinds.len() <= limits::WELCOMES_MAX {
            return;
        }
        let unused = self
            .kinds
            .iter()
            .filter(|(_, state)| !state.has_servers_or_waiters());
        if let Some(oldest) = unused
            .min_by_key(|(_, state)| state.asked)
            .map(|(kind, _)| kind.clone())
        {
            self.kinds.remove(&oldest);
        }
    }

    /// What servers of this kind report of themselves, if one was seen.
    pub fn welcome(&self, kind: &Rc<Kind>) -> Option<Rc<Vars>> {
        self.kinds.get(kind)?.welcome.clone()
    }

    /// Notes what a server of this kind reports, as it was started.
    pub fn learn(&mut self, kind: &Rc<Kind>, vars: &Rc<Vars>) {
        let state = self.state(kind);
        if state.welcome.as_ref() != Some(vars) {
            state.welcome = Some(vars.clone());
            self.welcomes.rebase(kind, vars);
        }
        self.news.insert((kind.clone(), Rc::default()));
    }

    /// Notes what servers of this kind make of settings.
    pub fn know(&mut self, kind: &Rc<Kind>, settings: &Rc<Settings>, known: Known) {
        self.welcomes.note(kind, settings, known);
        self.news.insert((kind.clone(), settings.clone()));
    }

    /// What all servers report, by lower-case name.
    pub fn reported(&self) -> &BTreeSet<Vec<u8>> {
        &self.reported
    }

    /// Notes what all servers report. Whether that changes what clients have to be asked anew.
    pub fn all_report(&mut self, names: BTreeSet<Vec<u8>>) -> bool {
        let changes = self.reported != names;
        self.epoch += u32::from(changes);
        self.reported = names;
        changes
    }

    /// What a client with these settings is welcomed with, if that is known.
    pub fn welcome_with(&mut self, kind: &Rc<Kind>, settings: &Rc<Settings>) -> Option<Rc<Vars>> {
        if settings.is_empty() {
            return self.welcome(kind);
        }
        match self.welcomes.get(kind, settings) {
            Some(Known::Taken { vars, .. }) => Some(vars.clone()),
            _ => None,
        }
    }

    /// The kind that was asked for last.
    pub fn last_asked(&self) -> Option<&Rc<Kind>> {
        self.last_asked.as_ref()
    }

    /// Whether somebody waits for a server of this kind.
    pub fn is_wanted(&self, kind: &Kind) -> bool {
        let state = self.kinds.get(kind);
        state.is_some_and(|state| !state.waiters.is_empty())
    }

    /// Clients that wait.
    pub fn waiting(&self) -> usize {
        self.tickets.len()
    }

    /// Since when the one has waited that has waited longest.
    pub fn oldest_wait(&self) -> Option<Tick> {
        let askers = |state: &KindState| {
            let first = |question: &Question| question.askers.values().next().map(|of| of.since);
            state.questions.values().filter_map(first).min()
        };
        let oldest = |state: &KindState| {
            let first = state.waiters.front().map(|waiter| waiter.since);
            first.into_iter().chain(askers(state)).min()
        };
        if self.tickets.is_empty() {
            return None;
        }
        self.kinds.values().filter_map(oldest).min()
    }

    /// Who waits, the first to come first.
    pub fn waiting_clients(&self) -> Vec<ClientKey> {
        let tickets = self.tickets.iter();
        let by_ticket: BTreeMap<u64, ClientKey> = tickets
            .map(|(client, (ticket, ..))| (*ticket, *client))
            .collect();
        by_ticket.into_values().collect()
    }

    /// Notes that a kind that is known is asked for now.
    fn note_asked(&mut self, kind: &Kind) -> Option<&mut KindState> {
        self.asked += 1;
        let state = self.kinds.get_mut(kind)?;
        state.asked = self.asked;
        Some(state)
    }

    /// Puts a client into its lane.
    fn line_up(&mut self, kind: &Rc<Kind>, waiter: Waiter) {
        self.state(kind);
        let Some(state) = self.note_asked(kind) else {
            return;
        };
        let place = state.place_of(waiter.ticket).unwrap_or_else(|place| place);
        state.waiters.insert(place, waiter);
    }

    /// Takes a client out of its lane.
    fn step_out(&mut self, kind: &Rc<Kind>, ticket: u64) -> Option<Waiter> {
        let state = self.state(kind);
        state.waiters.remove(state.place_of(ticket).ok()?)
    }

    /// Clients that have entered the pool and are still there.
    pub fn clients(&self) -> usize {
        self.clients
    }

    /// Servers in any state, cancel connections not counted.
    pub fn total(&self) -> usize {
        self.share.used()
    }

    /// Whether nothing is left to be done when a server of this pool becomes idle: nobody waits, and it is to be kept.
    fn is_calm(&self) -> bool {
        let nobody_waits = self.tickets.is_empty() && self.paused.is_empty();
        nobody_waits
            && self.news.is_empty()
            && !self.removed
            && !self.held
            && self.idle_kinds <= limits::IDLE_KINDS_MAX
    }

    /// Whether fewer servers are idle than are to be kept ready, and something is to be done about it: now, or later.
    pub fn is_short(&self, now: Tick) -> bool {
        !self.held
            && self.idle() < self.config.min_idle_connections
            && (self.failure.is_some()
                || self.refused.is_some()
                || self.refill_after > now
                || self.refill(now, &mut |_| true).is_some())
    }

    /// Idle servers.
    pub fn idle(&self) -> usize {
        self.share.idle()
    }

    /// Servers that are connecting or logging in.
    pub fn connecting(&self) -> usize {
        self.connecting
    }

    /// Roles that have servers.
    pub fn role_count(&self) -> usize {
        self.roles.len()
    }

    /// The servers of one role.
    pub fn of_role(&self, user: &[u8]) -> Option<&Share> {
        self.roles.get(user)
    }

    /// `own`: what is configured of this role for all pools.
    fn know_role(&mut self, user: &[u8], own: &UserConfig) {
        if !self.roles.contains_key(user) {
            let mut share = Share::default();
            limit_role(&mut share, &self.config, own);
            self.roles.insert(user.to_vec(), share);
        }
    }

    /// Makes the lists of roles' idle servers anew, if any are kept. `own`: some user has a limit of its own in each pool.
    fn list_roles(&mut self, own: bool) {
        self.lists_roles = own || self.config.max_connections_per_user > 0;
        for role in self.roles.values_mut() {
            role.clear_idle();
        }
        if !self.lists_roles {
            return;
        }
        let idle = self.idle_by_kind();
        let mut idle: Vec<_> = idle
            .map(|(kind, of, key)| (of, key, kind.clone()))
            .collect();
        idle.sort_unstable_by_key(|(stamp, ..)| *stamp);
        for (stamp, server, kind) in idle {
            if let Some(role) = self.roles.get_mut(&kind.user) {
                role.put_idle(stamp, server);
            }
        }
    }

    /// Idle servers, and when they became that as a number that grows.
    fn idle_by_kind(&self) -> impl Iterator<Item = (&Rc<Kind>, u64, ServerKey)> {
        self.kinds.iter().flat_map(|(kind, state)| {
            let idle = state.idle.iter();
            idle.map(move |(server, stamp)| (kind, *stamp, *server))
        })
    }

    /// A role's idle server that was not used for the longest time.
    fn oldest_idle_of(&self, user: &[u8]) -> Option<ServerKey> {
        let of_role = self.idle_by_kind().filter(|(kind, ..)| kind.user == user);
        let oldest = of_role.min_by_key(|(_, stamp, _)| *stamp);
        oldest.map(|(.., server)| server)
    }

    /// Takes the configured limits over, but for those of roles.
    fn limit(&mut self) {
        let sizes = &self.config.sizes;
        // Where roles have limits in the pool, the reserve is theirs.
        let reserve = match self.config.max_connections_per_user {
            0 => sizes.reserve_pool_size,
            _ => 0,
        };
        self.share.limit(self.config.max_connections, reserve);
    }

    /// Roles of which servers are kept because somebody may need them.
    fn wanted_roles(&self) -> Vec<&[u8]> {
        if self.config.sizes.min_pool_size == 0 || self.removed || self.for_lookups {
            return Vec::new();
        }
        match &self.config.backend.user {
            Some(user) => vec![user.as_bytes()],
            None => self.logins.keys().map(Vec::as_slice).collect(),
        }
    }

    fn has_too_few(&self, user: &[u8]) -> bool {
        let used = self.roles.get(user).map_or(0, Share::used);
        used < self.config.sizes.min_pool_size
    }

    /// Whether there are fewer servers of some role than `min_pool_size`.
    pub fn is_below_min(&self) -> bool {
        let roles = self.wanted_roles();
        roles.into_iter().any(|user| self.has_too_few(user))
    }

    /// The kind of which a server should be made, since its role has fewer than `min_pool_size`.
    fn refill_role(&self, now: Tick, fits: &mut dyn FnMut(&Kind) -> bool) -> Option<Rc<Kind>> {
        let roles = self.wanted_roles().into_iter();
        let mut kinds = roles
            .filter(|user| self.has_too_few(user))
            .filter_map(|user| {
                let of_role = self.kinds.iter().filter(|(kind, _)| kind.user == user);
                let of_role = of_role.filter(|(kind, _)| !kind.is_replication());
                // What a client has asked for last may be what no server takes.
                of_role.max_by_key(|(kind, state)| {
                    (!self.is_refused(kind), state.welcome.is_some(), state.asked)
                })
            });
        let found = kinds.find(|(kind, _)| self.may_refill(kind, now) && fits(kind));
        found.map(|(kind, _)| kind.clone())
    }

    /// Whether a connection of this kind may be made that nobody has asked for.
    fn may_refill(&self, kind: &Kind, now: Tick) -> bool {
        let refused = self.refused.as_ref().is_some_and(|refused| {
            *refused.kind == *kind && (now < refused.retry_at || self.connecting > 0)
        });
        let failing = self.is_failing(now) || now < self.refill_after || refused;
        let role = self.roles.get(&kind.user).is_none_or(Share::has_room);
        let room = self.share.has_room() && role;
        let wanted_at_all = !self.removed && !self.held;
        wanted_at_all && !failing && room && self.connecting < self.config.sizes.max_connecting
    }

    /// Servers that are connecting, and idle ones that are being checked.
    pub fn coming(&self) -> usize {
        self.coming
    }

    /// Whether a connection may be tried now.
    pub fn may_connect(&self, now: Tick) -> bool {
        !self.held && !self.is_failing(now) && self.connecting < self.config.sizes.max_connecting
    }

    /// Whether no connection is to be tried now: the last attempt has failed, and its pause or the next attempt is not over.
    fn is_failing(&self, now: Tick) -> bool {
        self.failure
            .as_ref()
            .is_some_and(|failure| now < failure.retry_at || self.connecting > 0)
    }

    /// Notes that the server was reached and has refused a login. Of attempts that were made together the first counts.
    pub fn login_refused(&mut self, kind: &Rc<Kind>, refusal: Refusal, now: Tick) {
        self.failure = None;
        let last = self.refused.take().filter(|last| last.kind == *kind);
        let (mut pauses, mut retry_at) = last.map_or((0, now), |last| (last.pauses, last.retry_at));
        if pauses == 0 || now >= retry_at {
            let pause =
                (limits::REFILL_PAUSE_MS << pauses.min(10)).min(limits::REFILL_PAUSE_MAX_MS);
            retry_at = now.plus(Duration::from_millis(pause));
            pauses += 1;
        }
        self.refused = Some(Refused {
            kind: kind.clone(),
            refusal,
            pauses,
            retry_at,
        });
    }

    /// A login went well. Whether it ended a time in which none did.
    pub fn login_succeeded(&mut self, kind: &Rc<Kind>) -> bool {
        let refused = self.refused.take().is_some_and(|last| last.kind == *kind);
        self.failure.take().is_some() || refused
    }

    /// The configuration was read again: what was refused may not be any more, what could not be reached may be there.
    pub fn forgive(&mut self) {
        if let Some(failure) = &mut self.failure {
            (failure.attempts, failure.retry_at) = (0, Tick(0));
        }
        if let Some(refused) = &mut self.refused {
            (refused.pauses, refused.retry_at) = (0, Tick(0));
        }
    }

    /// Why the last attempt to get a server has failed, if it has.
    pub fn last_error(&self) -> Option<&Refusal> {
        let refused = self.refused.as_ref().map(|refused| &refused.refusal);
        self.failure
            .as_ref()
            .map(|failure| &failure.refusal)
            .or(refused)
    }

    /// Whether a server has let this kind in, and the last one did not refuse it.
    pub fn lets_in(&self, kind: &Rc<Kind>) -> bool {
        self.welcome(kind).is_some() && !self.is_refused(kind)
    }

    /// Whether the last login of this kind was refused, and none of another has succeeded since.
    fn is_refused(&self, kind: &Rc<Kind>) -> bool {
        self.refused.as_ref().is_some_and(|last| last.kind == *kind)
    }

    /// The idle server that was not used for the longest time.
    pub fn oldest_idle(&self) -> Option<ServerKey> {
        self.share.oldest_idle()
    }

    /// An idle server of a kind too many that nobody waits for: kinds that are kept idle are limited.
    pub fn surplus_kind(&self) -> Option<ServerKey> {
        if self.idle_kinds <= limits::IDLE_KINDS_MAX {
            return None;
        }
        let others = self.kinds.iter().filter(|(kind, state)| {
            !state.idle.is_empty()
                && state.waiters.is_empty()
                && self.last_asked.as_ref() != Some(*kind)
        });
        let (_, state) = others.min_by_key(|(_, state)| state.asked)?;
        state.idle.first().map(|(server, _)| *server)
    }

    /// Whether an idle server should be made to keep the configured number ready; of which kind, if it `fits` under limits that
    /// are not the pool's.
    fn refill(&self, now: Tick, fits: &mut dyn FnMut(&Kind) -> bool) -> Option<Rc<Kind>> {
        let few = self.has_too_few_ready();
        let kind = self.last_asked.as_ref();
        let kind = kind.filter(|kind| few && self.may_refill(kind, now) && fits(kind));
        kind.cloned().or_else(|| self.refill_role(now, fits))
    }

    /// Whether fewer servers than are to be kept ready are idle, or on their way to that and not for those who wait.
    fn has_too_few_ready(&self) -> bool {
        let least = self.config.min_idle_connections;
        let spare = |state: &KindState| {
            let all = state.idle.len() + state.coming;
            all.saturating_sub(state.waiters.len())
        };
        least > 0 && self.kinds.values().map(spare).sum::<usize>() < least
    }

    /// Whether an idle server that has been idle for too long is kept all the same.
    pub fn is_spared(&self, kind: &Rc<Kind>) -> bool {
        let ready = self.last_asked.as_ref() == Some(kind)
            && self.idle() <= self.config.min_idle_connections;
        let used = self.roles.get(&kind.user).map_or(0, Share::used);
        let kept = used <= self.config.sizes.min_pool_size
            && self.wanted_roles().contains(&&kind.user[..]);
        ready || kept
    }

    fn drop_kind_if_unused(&mut self, kind: &Rc<Kind>) {
        let unused = |state: &KindState| !state.has_servers_or_waiters() && state.welcome.is_none();
        if self.kinds.get(kind).is_some_and(unused) && self.last_asked.as_ref() != Some(kind) {
            self.kinds.remove(kind);
        }
    }

    /// All idle servers.
    pub fn idle_servers(&self) -> Vec<ServerKey> {
        self.kinds
            .values()
            .flat_map(|state| state.idle.iter().map(|(server, _)| *server))
            .collect()
    }

    /// Asserts what holds between any two steps, given the pool's servers as the arena has them.
    pub fn check(&self, servers: usize, idle: usize, connecting: usize) {
        let name = &self.name;
        assert_eq!(self.total(), servers, "pool {name}: total");
        assert_eq!(self.idle(), idle, "pool {name}: idle");
        assert_eq!(self.connecting, connecting, "pool {name}: connecting");
        let sum = |count: fn(&KindState) -> usize| self.kinds.values().map(count).sum::<usize>();
        assert_eq!(idle, sum(|state| state.idle.len()), "pool {name}: stacks");
        assert_eq!(
            self.coming,
            sum(|state| state.coming),
            "pool {name}: coming"
        );
        let kinds = sum(|state| usize::from(!state.idle.is_empty()));
        assert_eq!(
            self.idle_kinds, kinds,
            "pool {name}: kinds with idle servers"
        );
        let for_servers = |waiter: &&Waiter| waiter.wants == Wants::Server;
        let waiting: usize = self
            .kinds
            .values()
            .map(|state| {
                let questions = state
                    .questions
                    .values()
                    .map(|question| question.askers.len());
                state.waiters.iter().filter(for_servers).count() + questions.sum::<usize>()
            })
            .sum();
        assert_eq!(self.tickets.len(), waiting, "pool {name}: who waits");
        let of_roles: usize = self.roles.values().map(Share::used).sum();
        assert_eq!(of_roles, servers, "pool {name}: servers by role");
        for (kind, state) in &self.kinds {
            let front = state.stand.map(|(ticket, _)| ticket);
            assert_eq!(front, state.front(), "pool {name}: the lane of {kind:?}");
            self.check_questions(kind, state);
        }
    }

    /// Asserts that of those who want to know the same one stands in the lane, the first, or none if no server is needed.
    fn check_questions(&self, kind: &Rc<Kind>, state: &KindState) {
        let name = &self.name;
        for (settings, question) in &state.questions {
            let is_asked = self.welcomes.is_asking(kind, settings);
            let is_answered = self.news.contains(&(kind.clone(), settings.clone()));
            let first = question.askers.keys().next().copied();
            assert!(first.is_some(), "pool {name}: nobody asks that");
            match question.in_lane {
                None => assert!(is_asked || is_answered, "pool {name}: nobody asks for them"),
                front => assert!(
                    front == first && !is_asked,
                    "pool {name}: who asks for them"
                ),
            }
        }
        let asking = state
            .waiters
            .iter()
            .filter_map(|waiter| match &waiter.wants {
                Wants::Welcome(settings) => Some((waiter.ticket, settings)),
                Wants::Server => None,
            });
        for (ticket, settings) in asking {
            let question = state.questions.get(settings);
            let in_lane = question.and_then(|question| question.in_lane);
            assert_eq!(in_lane, Some(ticket), "pool {name}: a lane of {kind:?}");
        }
    }

    /// Lanes whose next client waits for room that the reserve has, and since when: from when on they may have it.
    fn waits_for_reserve(&self) -> impl Iterator<Item = (Tick, u64, &Rc<Kind>, Limit)> {
        let sizes = &self.config.sizes;
        let (timeout, on) = (
            sizes.reserve_pool_timeout,
            !sizes.reserve_pool_timeout.is_zero(),
        );
        let lanes = self.kinds.iter().filter(move |_| on);
        lanes.filter_map(move |(kind, state)| {
            let Some((ticket, Stand::Limited(limit))) = state.stand else {
                return None;
            };
            let share = match limit {
                Limit::User => return None,
                Limit::Database => &self.share,
                Limit::DatabaseUser => self.roles.get(&kind.user)?,
            };
            let since = state.next()?.since;
            let waits = share.has_reserve();
            waits.then(|| (since.plus(timeout), ticket, kind, limit))
        })
    }

    /// When the next client may have a server of the reserve.
    pub fn next_for_reserve(&self) -> Option<Tick> {
        self.waits_for_reserve().map(|(at, ..)| at).min()
    }

    /// Asserts what holds once the queue has been served.
    fn check_settled(&self, now: Tick) {
        let name = &self.name;
        let mut waiting = self.waits_for_reserve();
        assert!(
            self.held || self.armed.is_some() || waiting.all(|(at, ..)| at > now),
            "pool {name}: somebody waits who could have what is in reserve"
        );
        self.share.check_settled(&format!("pool {name}"));
        for (user, role) in &self.roles {
            let of_role = self.idle_by_kind().filter(|(kind, ..)| kind.user == *user);
            let idle = if self.lists_roles { of_role.count() } else { 0 };
            let user = printable(user);
            assert_eq!(role.idle(), idle, "pool {name}: idle as {user}");
            role.check_settled(&format!("pool {name}, {user}"));
        }
        // The pool's timer may be a moment behind the end of a pause.
        let pauses = !self.may_connect(now) || self.armed.is_some();
        assert!(
            self.paused.is_empty() || pauses,
            "pool {name}: somebody waits for a connection that could be made"
        );
        assert!(self.news.is_empty(), "pool {name}: somebody was not told");
        assert!(
            !self.held || (self.idle(), self.connecting) == (0, 0),
            "pool {name}: paused with servers that nobody uses"
        );
        for (kind, state) in &self.kinds {
            assert!(
                state.waiters.is_empty() || state.idle.is_empty(),
                "pool {name}: a client waits beside an idle server of {kind:?}"
            );
        }
    }
}

/// What a role may have in a pool: its own size, or the pool's.
fn limit_role(share: &mut Share, config: &PoolConfig, own: &UserConfig) {
    let max = own.pool_size.unwrap_or(config.max_connections_per_user);
    let reserve = own
        .reserve_pool_size
        .unwrap_or(config.sizes.reserve_pool_size);
    share.limit(max, reserve);
}

/// What servers are expected to report as long as none has been seen.
fn expected(config: &PoolConfig) -> BTreeSet<Vec<u8>> {
    let more = config.track_extra_parameters.iter().map(String::as_str);
    let names = REPORTED.into_iter().chain(more);
    names
        .map(|name| name.to_ascii_lowercase().into_bytes())
        .collect()
}
