//! Who gets which server: idle stacks, the queue of waiting clients, limits.
//!
//! A pool is one entry of the configuration. Its servers are of *kinds*: logged in as one role with one set of startup
//! parameters. A client only ever gets a server of its own kind, since what was given at startup cannot be changed later; but
//! what servers report can, and is no part of the kind of clients that share them ([`startup_set`]).
//!
//! Pure bookkeeping over keys: says what to do ([`Checkout`]) and is told what was done. Knows no sockets and no messages.

pub mod cancel;
pub mod startup_set;
mod welcomes;

pub use welcomes::Known;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use crate::arena::{ClientKey, ServerKey, Tick};
use crate::config::PoolConfig;
use crate::limits;
use crate::relay::{Settings, Vars};
use crate::stats::Stats;
use crate::wire::frame::printable;
use crate::wire::refusal::Refusal;
use startup_set::REPORTED;
use welcomes::Welcomes;

/// A role and the startup parameters of a session: what a server must have been started with to serve it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The role that logs in to the server.
    pub user: Vec<u8>,
    /// The database there.
    pub database: Vec<u8>,
    /// Startup parameters by lower-case name, sorted, each once.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Kind {
    /// Whether it is a replication connection, which is used for one session only.
    pub fn is_replication(&self) -> bool {
        self.parameters
            .iter()
            .any(|(name, _)| name == b"replication")
    }
}

/// A client in the queue.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// Who waits.
    pub client: ClientKey,
    /// For a server of which kind.
    pub kind: Rc<Kind>,
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

impl Waiter {
    fn is_asking_for(&self, settings: &Rc<Settings>) -> bool {
        matches!(&self.wants, Wants::Welcome(wanted) if wanted == settings)
    }
}

/// What a pool says to a client that wants a server.
#[derive(Debug, PartialEq, Eq)]
pub enum Checkout {
    /// This idle server.
    Pair(ServerKey),
    /// One is under way for this waiter.
    Coming,
    /// Make a new one.
    Dial,
    /// Close this idle server of another kind first: the pool is full.
    Evict(ServerKey),
    /// Not now, but others may be served: too many connections are being made, or the last attempt has just failed.
    Later,
    /// Not now, and nobody behind may go first: the pool is full.
    Wait,
}

/// What a pool remembers of a kind.
#[derive(Default)]
struct KindState {
    /// Idle servers, the most recently used one last.
    idle: Vec<ServerKey>,
    /// Servers on their way to being idle: connecting, or being checked.
    coming: usize,
    /// When it was last asked for, as a number that grows.
    asked: u64,
    /// What its servers report of themselves.
    welcome: Option<Rc<Vars>>,
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
    /// Servers of the pool in any state, cancel connections not counted.
    total: usize,
    /// Those of them that are connecting or logging in.
    connecting: usize,
    /// Those of them that are idle.
    idle: usize,
    /// Cancel connections under way.
    pub cancels: usize,
    /// Sessions served by server connections that are gone.
    pub sessions_ended: u64,
    waiters: VecDeque<Waiter>,
    kinds: BTreeMap<Rc<Kind>, KindState>,
    asked: u64,
    last_asked: Option<Rc<Kind>>,
    /// What servers make of the settings that clients come with.
    pub welcomes: Welcomes,
    /// What all of its servers report, by lower-case name; as long as none is known, what they are expected to.
    reported: BTreeSet<Vec<u8>>,
    /// Counts what changes the kinds of clients that are here.
    pub epoch: u32,
    /// Somebody who waits for his welcome can perhaps be given it.
    pub has_news: bool,
}

impl Pool {
    /// An empty pool.
    pub fn new(name: String, config: Rc<PoolConfig>, from_fallback: bool) -> Pool {
        let reported = expected(&config);
        Pool {
            name,
            config,
            removed: false,
            from_fallback,
            stats: Stats::default(),
            failure: None,
            refused: None,
            refill_after: Tick(0),
            armed: None,
            total: 0,
            connecting: 0,
            idle: 0,
            cancels: 0,
            sessions_ended: 0,
            waiters: VecDeque::new(),
            kinds: BTreeMap::new(),
            asked: 0,
            last_asked: None,
            welcomes: Welcomes::default(),
            reported,
            epoch: 0,
            has_news: false,
        }
    }

    /// Its name, fit for a log line: under `"*"` it is whatever a client has asked for.
    pub fn label(&self) -> String {
        printable(self.name.as_bytes())
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
            self.ask(kind);
        }
    }

    /// The server refuses this kind for good: servers are kept ready of the one that was asked for before it and has worked.
    pub fn prefer_another(&mut self, kind: &Rc<Kind>) {
        if self.last_asked.as_ref() != Some(kind) {
            return;
        }
        let others = self
            .kinds
            .iter()
            .filter(|(other, state)| *other != kind && state.welcome.is_some());
        if let Some((other, _)) = others.max_by_key(|(_, state)| state.asked) {
            self.last_asked = Some(other.clone());
            self.drop_kind_if_unused(kind);
        }
    }

    /// The servers are elsewhere now, or the roles other ones: what was learnt of them is forgotten.
    pub fn moved(&mut self) {
        (self.failure, self.refused) = (None, None);
        self.last_asked = None;
        self.welcomes.clear();
        self.reported = expected(&self.config);
        self.epoch += 1;
        self.kinds.retain(|_, state| {
            state.welcome = None;
            !state.idle.is_empty() || state.coming > 0
        });
        self.expect_base_kind();
    }

    /// Whoever waits at a place wants something else from now on.
    pub fn wait_for(&mut self, place: usize, kind: &Rc<Kind>, settings: &Rc<Settings>) {
        if let Some(waiter) = self.waiters.get_mut(place) {
            waiter.kind = kind.clone();
            if let Wants::Welcome(wanted) = &mut waiter.wants {
                *wanted = settings.clone();
            }
        }
    }

    /// Notes that a kind is asked for, and gives back the pool's own copy of it.
    pub fn ask(&mut self, kind: Kind) -> Rc<Kind> {
        let kind = match self.kinds.get_key_value(&kind) {
            Some((kind, _)) => kind.clone(),
            None => Rc::new(kind),
        };
        self.asked += 1;
        self.state(&kind).asked = self.asked;
        self.last_asked = Some(kind.clone());
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
            .filter(|(_, state)| state.idle.is_empty() && state.coming == 0);
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
            self.has_news = true;
        }
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

    /// Takes those out of the queue who can be welcomed.
    pub fn take_welcomed(&mut self) -> Vec<(Waiter, Rc<Vars>)> {
        let mut welcomed = Vec::new();
        for waiter in std::mem::take(&mut self.waiters) {
            let vars = match &waiter.wants {
                Wants::Welcome(settings) => self.welcome_with(&waiter.kind, settings),
                Wants::Server => None,
            };
            match vars {
                Some(vars) => welcomed.push((waiter, vars)),
                None => self.waiters.push_back(waiter),
            }
        }
        welcomed
    }

    /// Takes those out of the queue whose settings were refused.
    pub fn dequeue_settings(&mut self, kind: &Rc<Kind>, settings: &Rc<Settings>) -> Vec<Waiter> {
        let (of_set, others) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.kind == *kind && waiter.is_asking_for(settings));
        self.waiters = others;
        VecDeque::into(of_set)
    }

    /// The kind that was asked for last.
    pub fn last_asked(&self) -> Option<&Rc<Kind>> {
        self.last_asked.as_ref()
    }

    /// Puts a client at the end of the queue.
    pub fn enqueue(&mut self, waiter: Waiter) {
        self.waiters.push_back(waiter);
    }

    /// The waiter at a place in the queue.
    pub fn waiter(&self, place: usize) -> Option<&Waiter> {
        self.waiters.get(place)
    }

    /// Takes the waiter at a place out of the queue.
    pub fn dequeue(&mut self, place: usize) -> Option<Waiter> {
        self.waiters.remove(place)
    }

    /// Takes a client out of the queue, wherever it is.
    pub fn leave_queue(&mut self, client: ClientKey) {
        if let Some(place) = self
            .waiters
            .iter()
            .position(|waiter| waiter.client == client)
        {
            self.waiters.remove(place);
        }
    }

    /// Takes all waiters of a kind out of the queue.
    pub fn dequeue_kind(&mut self, kind: &Rc<Kind>) -> Vec<Waiter> {
        let (of_kind, others) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.kind == *kind);
        self.waiters = others;
        VecDeque::into(of_kind)
    }

    /// Clients that wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Servers in any state, cancel connections not counted.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Idle servers.
    pub fn idle(&self) -> usize {
        self.idle
    }

    /// Servers that are connecting or logging in.
    pub fn connecting(&self) -> usize {
        self.connecting
    }

    /// What a waiter gets, when `ahead` others of its kind stand before it and nobody else could be served.
    pub fn checkout(&self, kind: &Rc<Kind>, ahead: usize, now: Tick) -> Checkout {
        let state = self.kinds.get(kind);
        if let Some(&server) = state.and_then(|state| state.idle.last()) {
            return Checkout::Pair(server);
        }
        if state.is_some_and(|state| state.coming > ahead) {
            return Checkout::Coming;
        }
        if self.is_failing(now) || self.connecting >= limits::CONNECTING_MAX {
            return if self.idle > 0 {
                Checkout::Later
            } else {
                Checkout::Wait
            };
        }
        if self.total < self.config.max_connections {
            return Checkout::Dial;
        }
        self.oldest_idle(None)
            .map_or(Checkout::Wait, Checkout::Evict)
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

    /// The configuration was read again: what was refused may not be any more.
    pub fn forgive(&mut self) {
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

    /// The idle server of the kind that was asked for the longest ago, `but` not of this one.
    pub fn oldest_idle(&self, but: Option<&Rc<Kind>>) -> Option<ServerKey> {
        let idle = self
            .kinds
            .iter()
            .filter(|(kind, state)| !state.idle.is_empty() && but != Some(*kind));
        idle.min_by_key(|(_, state)| state.asked)
            .and_then(|(_, state)| state.idle.first().copied())
    }

    /// An idle server of a kind too many: kinds that are kept idle are limited.
    pub fn surplus_kind(&self) -> Option<ServerKey> {
        let kinds = self
            .kinds
            .values()
            .filter(|state| !state.idle.is_empty())
            .count();
        (kinds > limits::IDLE_KINDS_MAX)
            .then(|| self.oldest_idle(self.last_asked.as_ref()))
            .flatten()
    }

    /// Whether an idle server should be made to keep the configured number ready; of which kind.
    pub fn refill(&self, now: Tick) -> Option<Rc<Kind>> {
        let kind = self.last_asked.as_ref()?;
        let refused = self.refused.as_ref().is_some_and(|refused| {
            refused.kind == *kind && (now < refused.retry_at || self.connecting > 0)
        });
        let failing = self.is_failing(now) || now < self.refill_after || refused;
        let coming: usize = self.kinds.values().map(|state| state.coming).sum();
        let wanted = self.config.min_idle_connections + self.waiters.len();
        let room =
            self.total < self.config.max_connections && self.connecting < limits::CONNECTING_MAX;
        (!self.removed && !failing && room && self.idle + coming < wanted).then(|| kind.clone())
    }

    /// Whether an idle server that has been idle for too long is kept all the same.
    pub fn is_spared(&self, kind: &Rc<Kind>) -> bool {
        self.last_asked.as_ref() == Some(kind) && self.idle <= self.config.min_idle_connections
    }

    /// A connection attempt begins.
    pub fn dialed(&mut self, kind: &Rc<Kind>) {
        self.total += 1;
        self.connecting += 1;
        self.state(kind).coming += 1;
    }

    /// A connection attempt is over, well or not.
    pub fn dial_ended(&mut self, kind: &Rc<Kind>) {
        self.connecting -= 1;
        self.state(kind).coming -= 1;
    }

    /// An idle server is checked before use.
    pub fn checking(&mut self, server: ServerKey, kind: &Rc<Kind>) {
        self.take_idle(server, kind);
        self.state(kind).coming += 1;
    }

    /// An idle server is asked what it makes of settings.
    pub fn asking(&mut self, server: ServerKey, kind: &Rc<Kind>, settings: &Rc<Settings>) {
        self.checking(server, kind);
        self.welcomes.note(kind, settings, Known::Asking);
    }

    /// A server is asked no more.
    pub fn asking_ended(&mut self, kind: &Rc<Kind>, settings: &Rc<Settings>) {
        self.check_ended(kind);
        self.welcomes.give_up(kind, settings);
    }

    /// A check is over, well or not.
    pub fn check_ended(&mut self, kind: &Rc<Kind>) {
        self.state(kind).coming -= 1;
    }

    /// A server is idle from now on.
    pub fn put_idle(&mut self, server: ServerKey, kind: &Rc<Kind>) {
        self.idle += 1;
        self.state(kind).idle.push(server);
    }

    /// A server is idle no more.
    pub fn take_idle(&mut self, server: ServerKey, kind: &Rc<Kind>) {
        let state = self.state(kind);
        if let Some(place) = state.idle.iter().rposition(|&idle| idle == server) {
            state.idle.remove(place);
            self.idle -= 1;
        }
        self.drop_kind_if_unused(kind);
    }

    /// A server is gone.
    pub fn gone(&mut self, kind: &Rc<Kind>) {
        self.total -= 1;
        self.drop_kind_if_unused(kind);
    }

    fn drop_kind_if_unused(&mut self, kind: &Rc<Kind>) {
        let unused = |state: &KindState| {
            state.idle.is_empty() && state.coming == 0 && state.welcome.is_none()
        };
        if self.kinds.get(kind).is_some_and(unused) && self.last_asked.as_ref() != Some(kind) {
            self.kinds.remove(kind);
        }
    }

    /// All idle servers.
    pub fn idle_servers(&self) -> Vec<ServerKey> {
        self.kinds
            .values()
            .flat_map(|state| state.idle.iter().copied())
            .collect()
    }

    /// Asserts what holds between any two steps, given the pool's servers as the arena has them.
    pub fn check(&self, servers: usize, idle: usize, connecting: usize) {
        assert_eq!(self.total, servers, "pool {}: total", self.name);
        assert_eq!(self.idle, idle, "pool {}: idle", self.name);
        assert_eq!(
            self.connecting, connecting,
            "pool {}: connecting",
            self.name
        );
        assert_eq!(
            self.idle,
            self.kinds
                .values()
                .map(|state| state.idle.len())
                .sum::<usize>(),
            "pool {}: stacks",
            self.name
        );
    }

    /// Asserts what holds once the queue has been served.
    pub fn check_settled(&self) {
        // After a reload with a lower limit, those that are in use, or under way, may stay until they are idle.
        assert!(
            self.total <= self.config.max_connections || self.idle == 0,
            "pool {}: over its limit",
            self.name
        );
        for waiter in &self.waiters {
            let Waiter { kind, wants, .. } = waiter;
            if matches!(wants, Wants::Welcome(settings) if self.welcomes.is_asking(kind, settings))
            {
                continue; // it waits for the answer of a server, which it need not have
            }
            let idle = self
                .kinds
                .get(&waiter.kind)
                .map_or(0, |state| state.idle.len());
            assert_eq!(
                idle, 0,
                "pool {}: a client waits beside an idle server",
                self.name
            );
        }
    }
}

/// What servers are expected to report as long as none has been seen.
fn expected(config: &PoolConfig) -> BTreeSet<Vec<u8>> {
    let more = config.track_extra_parameters.iter().map(String::as_str);
    let names = REPORTED.into_iter().chain(more);
    names
        .map(|name| name.to_ascii_lowercase().into_bytes())
        .collect()
}
