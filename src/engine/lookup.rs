//! Has servers asked for the secrets of users who are not configured (`auth_query`), and remembers what they say.
//!
//! A *desk* is a database in which a role asks: a pool of its own with few connections, which carry nothing of any client
//! (CVE-2025-12819), the questions that wait there, and the answers that still serve. All who log in as the same user ask one
//! question. Beside the pools of clients, since a pool that is full must not keep out those who come; and few, since strangers may
//! have something asked before they have proven anything (catalogue R20).

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::pause;
use super::queue::{is_passing, pool_removed};
use super::{
    Client, ClientKey, ClientState, Engine, Host, Place, PoolKey, ServerKey, ServerState, Tick,
    Who, ms,
};
use crate::auth::{Found, Secrets, Verify};
use crate::config::hba::Rule;
use crate::config::{
    AUTH_QUERY, AuthMethod, AuthQuery, Backend, Config, NAME_MAX, PoolConfig, PoolMode, Secret,
    Sessions, Sizes, Stored,
};
use crate::limits;
use crate::lookup::Lookup;
use crate::pool::{Kind, Pool};
use crate::reset::{DISCARD_ALL, Reset};
use crate::wire::backend::TransactionStatus;
use crate::wire::frame::printable;
use crate::wire::refusal::{Blame, Refusal};

/// What a client goes on with once it is known what is known of its user.
pub enum Purpose {
    /// It is asked for its proof.
    Prove,
    /// It has shown by other means that it may come in, by this rule, if there is such a user.
    LetIn(Rc<Rule>),
    /// The password that it has given was wrong by an old answer; what about the new one?
    Again(Secret),
}

/// How a client's secret was found.
pub struct LookedUp {
    desk: PoolKey,
    /// It was remembered: if the login fails, it is asked for anew.
    cached: bool,
    /// Asked only so that an unknown database takes as long as a known one: nobody is let in by it.
    in_vain: bool,
    /// The password that is being tried, in case that it is right by now.
    typed: Option<Secret>,
}

/// All desks.
#[derive(Default)]
pub(super) struct Lookups {
    desks: BTreeMap<PoolKey, Desk>,
    names: BTreeMap<Name, PoolKey>,
    /// What clients are to be told.
    news: Vec<(ClientKey, News)>,
}

/// Where, as whom and what is asked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    database: String,
    user: String,
    sql: String,
}

struct Desk {
    name: Name,
    query: Rc<AuthQuery>,
    backend: Backend,
    /// Its database is one that only clients name, under `"*"`: perhaps there is no such database.
    from_fallback: bool,
    secrets: Secrets,
    /// By user.
    questions: BTreeMap<String, Question>,
    /// Users whose questions no server works on, the first to come first.
    waiting: VecDeque<String>,
    /// Nothing is asked before this, and everybody is told the same.
    closed: Option<(Tick, News)>,
    /// Why the last query gave no answer.
    last_error: Option<String>,
    used_at: Tick,
}

struct Question {
    askers: Vec<ClientKey>,
    since: Tick,
    /// Connections that were lost over it.
    tries: u32,
}

#[derive(Clone)]
enum News {
    Found(Found),
    /// Nobody can tell, until an operator has mended it.
    Misconfigured,
    /// Nobody can tell now.
    Unreachable,
    /// The configuration is another one.
    Moved,
}

impl Name {
    fn new(database: &str, query: &AuthQuery) -> Name {
        let database = query.database.as_deref().unwrap_or(database);
        Name {
            database: database.to_owned(),
            user: query.user.clone(),
            sql: query.sql.clone(),
        }
    }
}

impl Desk {
    /// One more wants to know of a user.
    fn ask(&mut self, user: &str, asker: ClientKey, now: Tick) {
        if let Some(question) = self.questions.get_mut(user) {
            return question.askers.push(asker);
        }
        self.waiting.push_back(user.to_owned());
        let question = Question {
            askers: vec![asker],
            since: now,
            tries: 0,
        };
        self.questions.insert(user.to_owned(), question);
    }

    /// Everybody who asks the question about a user is told.
    fn answer(&mut self, user: &str, news: &News, told: &mut Vec<(ClientKey, News)>) {
        self.waiting.retain(|waiting| waiting != user);
        let askers = self.questions.remove(user).map(|question| question.askers);
        told.extend(
            askers
                .into_iter()
                .flatten()
                .map(|asker| (asker, news.clone())),
        );
    }

    fn answer_all(&mut self, news: &News, told: &mut Vec<(ClientKey, News)>) {
        self.waiting.clear();
        let questions = std::mem::take(&mut self.questions).into_values();
        let askers = questions.flat_map(|question| question.askers);
        told.extend(askers.map(|asker| (asker, news.clone())));
    }

    /// The query has failed; an operator hears of it once.
    fn report(&mut self, why: &str) {
        let again = self.last_error.as_deref() == Some(why);
        let (level, again) = if again {
            (log::Level::Debug, " again")
        } else {
            (log::Level::Warn, "")
        };
        let (database, user) = (&self.name.database, &self.name.user);
        log::log!(
            level,
            "auth_query as {} in database {} has failed{again}: {}",
            printable(user.as_bytes()),
            printable(database.as_bytes()),
            printable(why.as_bytes())
        );
        self.last_error = Some(why.to_owned());
    }
}

// ---- what is known of a user ----

impl Engine {
    /// What is known of the user that a client names. `None`: it is being asked for and the client waits, or it was told that
    /// nobody can tell.
    pub(super) fn look_up(
        &mut self,
        key: ClientKey,
        purpose: Purpose,
        host: &mut dyn Host,
    ) -> Option<Found> {
        let config = self.config.clone();
        let user = self
            .clients
            .get(key)?
            .session
            .as_deref()?
            .claim
            .user
            .clone();
        if let Some(stored) = config.auth.users.get(&user) {
            return Some(Found::Somebody(Some(stored.clone())));
        }
        let Some((desk_key, in_vain)) = self.desk_for(key) else {
            return Some(match config.auth.anyone {
                true => Found::Somebody(None),
                false => Found::Nobody,
            });
        };
        let now = self.now;
        let desk = self.lookups.desks.get_mut(&desk_key)?;
        if self.holds.disables(&desk.name.database) {
            let label = printable(desk.name.database.as_bytes());
            let session = self.clients.get(key)?.session.as_deref()?;
            let refusal = match session.claim.database == desk.name.database {
                true => pause::disabled(&label),
                false => pause::authentication_disabled(&label),
            };
            self.refuse(key, refusal, host);
            return None;
        }
        desk.used_at = now;
        let found = desk.secrets.find(&user, now);
        if let Some(session) = self.clients.get_mut(key)?.session.as_deref_mut() {
            session.looked_up = Some(Box::new(LookedUp {
                desk: desk_key,
                cached: found.is_some(),
                in_vain,
                typed: None,
            }));
        }
        if let Some(found) = found {
            return Some(if in_vain { Found::Nobody } else { found });
        }
        match desk.closed.as_ref().filter(|(until, _)| now < *until) {
            Some((_, News::Found(found))) => return Some(found.clone()),
            Some((_, news)) => {
                let refusal = news.refusal(&user);
                self.refuse(key, refusal, host);
                return None;
            }
            None => {}
        }
        desk.ask(&user, key, now);
        self.unsettled.insert(desk_key);
        self.enter_client(key, ClientState::LookingUp(purpose));
        None
    }

    /// Where a client's user is asked for, and whether that is in vain.
    fn desk_for(&mut self, key: ClientKey) -> Option<(PoolKey, bool)> {
        let session = self.clients.get(key)?.session.as_deref()?;
        if !may_be_asked(&session.claim.user) {
            return None;
        }
        let config = &self.config;
        let global = config.auth.query.as_ref();
        let global = global.and_then(|query| Some((query.database.as_deref()?, query)));
        let (database, query, in_vain) = match session.place {
            Place::Pool(pool) => {
                let pool = self.pools.get(pool).filter(|pool| !pool.removed)?;
                (pool.name.as_str(), pool.config.auth_query.as_ref()?, false)
            }
            Place::Console => global.map(|(database, query)| (database, query, false))?,
            Place::Nowhere => {
                let fallback = config.fallback.as_ref();
                let fallback = fallback.filter(|_| may_be_asked(&session.claim.database));
                let first = || {
                    let mut all = config.databases.iter();
                    all.find_map(|(name, pool)| Some((name.as_str(), pool.auth_query.as_ref()?)))
                };
                match (fallback, global) {
                    (Some(pool), _) => (
                        session.claim.database.as_str(),
                        pool.auth_query.as_ref()?,
                        false,
                    ),
                    (None, Some((database, query))) => (database, query, false),
                    (None, None) => first().map(|(database, query)| (database, query, true))?,
                }
            }
        };
        let (name, query) = (Name::new(database, query), query.clone());
        let desk = match self.lookups.names.get(&name) {
            Some(&desk) => desk,
            None => self.open_desk(name, query)?,
        };
        Some((desk, in_vain))
    }

    fn open_desk(&mut self, name: Name, query: Rc<AuthQuery>) -> Option<PoolKey> {
        let config = self.config.clone();
        let (target, from_fallback) = target(&config, &name)?;
        if self.lookups.len() >= limits::LOOKUP_DATABASES_MAX {
            let unused = self.lookups.desks.iter();
            let unused = unused.filter(|(_, desk)| desk.questions.is_empty());
            let (&oldest, _) = unused.min_by_key(|(_, desk)| desk.used_at)?;
            self.close_desk(oldest);
        }
        let pool_config = Rc::new(asking(target, &name, &query));
        let mut pool = Pool::new(name.database.clone(), pool_config, false);
        pool.for_lookups = true;
        let key = self.insert_pool(pool);
        self.lookups.names.insert(name.clone(), key);
        let desk = Desk {
            name,
            query,
            backend: target.backend.clone(),
            from_fallback,
            secrets: Secrets::default(),
            questions: BTreeMap::new(),
            waiting: VecDeque::new(),
            closed: None,
            last_error: None,
            used_at: self.now,
        };
        self.lookups.desks.insert(key, desk);
        Some(key)
    }

    fn close_desk(&mut self, key: PoolKey) {
        if let Some(mut desk) = self.lookups.desks.remove(&key) {
            self.lookups.names.remove(&desk.name);
            desk.answer_all(&News::Moved, &mut self.lookups.news);
        }
        if let Some(pool) = self.pools.get_mut(key) {
            pool.removed = true;
        }
        self.unsettled.insert(key);
    }

    /// Another configuration: what was asked otherwise, or elsewhere, is forgotten.
    pub(super) fn adopt_lookups(&mut self, config: &Config) {
        let keys: Vec<PoolKey> = self.lookups.desks.keys().copied().collect();
        for key in keys {
            let Some(desk) = self.lookups.desks.get_mut(&key) else {
                continue;
            };
            let target = target(config, &desk.name)
                .filter(|(target, _)| target.backend == desk.backend && is_asked(config, desk));
            let Some((target, _)) = target else {
                self.close_desk(key);
                continue;
            };
            desk.closed = None;
            let pool_config = Rc::new(asking(target, &desk.name, &desk.query));
            self.pools.configure(key, &pool_config);
            if let Some(pool) = self.pools.get_mut(key) {
                pool.forgive();
            }
            self.unsettled.insert(key);
        }
    }

    /// A client's login has failed with what is known of its user. Whether that is asked for anew: a password in clear is
    /// still there to be tried again.
    pub(super) fn look_up_again(&mut self, key: ClientKey) -> bool {
        let session = self
            .clients
            .get_mut(key)
            .and_then(|client| client.session.as_deref_mut());
        let Some(session) = session else {
            return false;
        };
        let Some(mut looked_up) = session.looked_up.take().filter(|found| found.cached) else {
            return false;
        };
        let Some(desk) = self.lookups.desks.get_mut(&looked_up.desk) else {
            return false;
        };
        let was_known = desk.secrets.doubt(&session.claim.user);
        let Some(typed) = looked_up.typed.take().filter(|_| was_known) else {
            return false;
        };
        let now = self.now;
        let desk_key = looked_up.desk;
        let user = session.claim.user.clone();
        looked_up.cached = false;
        session.looked_up = Some(looked_up);
        desk.ask(&user, key, now);
        self.unsettled.insert(desk_key);
        self.enter_client(key, ClientState::LookingUp(Purpose::Again(typed)));
        true
    }

    /// A server does not let a role in with the secret that was found for it.
    pub(super) fn doubt_role(&mut self, pool: PoolKey, user: &[u8]) {
        let Some(pool) = self.pools.get(pool) else {
            return;
        };
        if let (Some(query), None) = (&pool.config.auth_query, &pool.config.backend.user)
            && let Some(key) = self.lookups.names.get(&Name::new(&pool.name, query))
            && let Some(desk) = self.lookups.desks.get_mut(key)
            && let Ok(user) = std::str::from_utf8(user)
        {
            desk.secrets.doubt(user);
        }
    }
}

// ---- asking ----

impl Lookups {
    /// How many pools there are for this.
    pub(super) fn len(&self) -> usize {
        self.desks.len()
    }

    /// Whether somebody is to be told something.
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Whether something waits to be asked there.
    pub(super) fn is_asked(&self, pool: PoolKey) -> bool {
        let desk = self.desks.get(&pool);
        desk.is_some_and(|desk| !desk.waiting.is_empty())
    }

    /// All questions have waited for less: nobody could be asked for so long.
    pub(super) fn postpone(&mut self, time: Duration) {
        let desks = self.desks.values_mut();
        for question in desks.flat_map(|desk| desk.questions.values_mut()) {
            question.since = question.since.plus(time);
        }
    }

    /// The last secret that was seen of a user of a pool.
    pub(super) fn last_secret(&self, pool: &Pool, user: &str) -> Option<&Stored> {
        let query = pool.config.auth_query.as_ref()?;
        let desk = self.names.get(&Name::new(&pool.name, query))?;
        self.desks.get(desk)?.secrets.last(user)
    }

    /// A connection was lost while it worked on a question: another one is asked, or that was enough.
    pub(super) fn lost(&mut self, pool: PoolKey, user: &str) {
        let Some(desk) = self.desks.get_mut(&pool) else {
            return;
        };
        let Some(question) = desk.questions.get_mut(user) else {
            return;
        };
        question.tries += 1;
        if question.tries < limits::LOOKUP_TRIES_MAX {
            desk.waiting.push_front(user.to_owned());
        } else {
            desk.answer(user, &News::Unreachable, &mut self.news);
        }
    }

    /// The server does not let the asking role in.
    pub(super) fn refused(&mut self, pool: PoolKey, refusal: &Refusal, now: Tick) {
        let Some(desk) = self.desks.get_mut(&pool) else {
            return;
        };
        let news = match &refusal.sqlstate {
            b"3D000" if desk.from_fallback => News::Found(Found::Nobody),
            b"53300" => News::Unreachable,
            _ if is_passing(refusal) => News::Unreachable,
            _ => News::Misconfigured,
        };
        desk.closed = Some((now.plus(ms(limits::LOOKUP_PAUSE_MS)), news.clone()));
        desk.answer_all(&news, &mut self.news);
    }
}

impl Engine {
    /// Has the questions asked that wait at a desk, as far as there are connections.
    pub(super) fn serve_lookups(&mut self, key: PoolKey, host: &mut dyn Host) {
        self.give_up_old(key);
        while let Some(user) = self.next_question(key) {
            let Some(pool) = self.pools.get(key) else {
                return;
            };
            match pool.idle_servers().pop() {
                Some(server) if self.is_fit(server, host) => self.begin_lookup(server, user),
                Some(_) => {} // it is idle no more
                None if self.may_dial_lookup(key, host) => {
                    let kind = self
                        .pools
                        .get_mut(key)
                        .map(|pool| pool.ask(Rc::new(kind_of(&pool.config))));
                    if let Some(kind) = kind {
                        self.dial(key, kind, host);
                    }
                }
                None => return,
            }
        }
    }

    /// The next user who is still asked for; questions that nobody asks any more are dropped.
    fn next_question(&mut self, key: PoolKey) -> Option<String> {
        let desk = self.lookups.desks.get_mut(&key)?;
        let clients = &self.clients;
        let waits = |asker: &ClientKey| {
            let client = clients.get(*asker);
            client.is_some_and(|client| matches!(client.state, ClientState::LookingUp(_)))
        };
        while let Some(user) = desk.waiting.front() {
            let question = desk.questions.get(user);
            if question.is_some_and(|question| question.askers.iter().any(waits)) {
                return Some(user.clone());
            }
            if let Some(user) = desk.waiting.pop_front() {
                desk.questions.remove(&user);
            }
        }
        None
    }

    /// While no server can be reached, questions wait as clients do.
    fn give_up_old(&mut self, key: PoolKey) {
        let now = self.now;
        let (Some(desk), Some(pool)) = (self.lookups.desks.get_mut(&key), self.pools.get(key))
        else {
            return;
        };
        let patience = pool.config.acquire_timeout;
        let is_old = |question: &Question| question.since.plus(patience) <= now;
        // What was so before a pause is no reason; RESUME is waited for.
        let fails = pool.failure.is_some() && !pool.held;
        if fails && !patience.is_zero() && desk.questions.values().any(is_old) {
            desk.answer_all(&News::Unreachable, &mut self.lookups.news);
        }
    }

    /// Whether one more connection may be made for a desk. At the limit for all, another desk gives up one that it does not use.
    fn may_dial_lookup(&mut self, key: PoolKey, host: &mut dyn Host) -> bool {
        let (Some(desk), Some(pool)) = (self.lookups.desks.get(&key), self.pools.get(key)) else {
            return false;
        };
        let role = desk.name.user.clone().into_bytes();
        if pool.coming() >= desk.waiting.len() || !pool.may_connect(self.now) {
            return false;
        }
        if !self.pools.has_room(key, &role) {
            let Some(idle) = self.pools.in_the_way(key, &role) else {
                return false;
            };
            self.close_server(idle, "made room for a look-up of users", host);
            if !self.pools.has_room(key, &role) {
                return false;
            }
        }
        let desks = || {
            self.lookups
                .desks
                .keys()
                .filter_map(|key| self.pools.get(*key))
        };
        if desks().map(Pool::total).sum::<usize>() < limits::LOOKUP_CONNECTIONS_MAX {
            return true;
        }
        let idle = desks().find_map(Pool::oldest_idle);
        if let Some(idle) = idle {
            self.close_server(idle, "made room to ask for users of another database", host);
        }
        idle.is_some()
    }

    fn begin_lookup(&mut self, key: ServerKey, user: String) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let (pool, kind) = (server.pool, server.kind.clone());
        let Some(desk) = self.lookups.desks.get_mut(&pool) else {
            return;
        };
        desk.waiting.retain(|waiting| *waiting != user);
        let mut out = Vec::new();
        let lookup = Lookup::begin(&desk.name.sql, &user, &mut out);
        if let Some(link) = server.link.as_mut() {
            link.brings_secrets();
            link.send(&out);
        }
        self.pools.take_idle(pool, key, &kind);
        self.enter_server(key, ServerState::Looking(Box::new(lookup)));
        self.list(Who::Server(key));
    }

    /// A server has answered.
    pub(super) fn looked_up(&mut self, key: ServerKey, answer: Result<Found, String>) {
        let Some(server) = self.servers.get(key) else {
            return;
        };
        let ServerState::Looking(lookup) = &server.state else {
            return;
        };
        let (pool, user) = (server.pool, lookup.user.clone());
        self.tidy(key);
        let cache = self.config.auth.query_cache;
        let until = self.now.plus(match &answer {
            Ok(Found::Somebody(Some(_))) => cache,
            _ => cache.min(ms(limits::LOOKUP_PAUSE_MS)),
        });
        let Some(desk) = self.lookups.desks.get_mut(&pool) else {
            return;
        };
        let news = match answer {
            Ok(found) => {
                desk.last_error = None;
                desk.secrets.note(&user, found.clone(), until);
                News::Found(found)
            }
            Err(why) => {
                desk.report(&why);
                News::Misconfigured
            }
        };
        desk.answer(&user, &news, &mut self.lookups.news);
    }

    /// A server has answered, and the next question must find its session as the first one did: what an operator's query leaves there
    /// (settings, prepared statements, cursors, temporary tables) is discarded. Our own query leaves nothing.
    fn tidy(&mut self, key: ServerKey) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let desk = self.lookups.desks.get(&server.pool);
        if desk.is_some_and(|desk| desk.name.sql == AUTH_QUERY) {
            return self.put_idle(key);
        }
        let mut out = Vec::new();
        let idle = TransactionStatus::Idle;
        match Reset::release(idle, Some(DISCARD_ALL), &mut out) {
            None => self.put_idle(key),
            Some(reset) => {
                if let Some(link) = server.link.as_mut() {
                    link.send(&out);
                }
                self.enter_server(key, ServerState::Resetting(reset));
                self.list(Who::Server(key));
            }
        }
    }

    /// A server takes too long over a question; it would be no better the second time.
    pub(super) fn lookup_unanswered(&mut self, key: ServerKey, why: &str) {
        if let Some(server) = self.servers.get(key)
            && let ServerState::Looking(lookup) = &server.state
            && let Some(desk) = self.lookups.desks.get_mut(&server.pool)
        {
            desk.report(why);
            desk.answer(&lookup.user, &News::Unreachable, &mut self.lookups.news);
        }
    }
}

// ---- telling ----

impl Engine {
    /// Those who have asked go on with what has come of it.
    pub(super) fn tell_news(&mut self, host: &mut dyn Host) {
        for (key, news) in std::mem::take(&mut self.lookups.news) {
            self.guard(Who::Client(key), host, |engine, host| {
                engine.told(key, news, host)
            });
        }
    }

    fn told(&mut self, key: ClientKey, news: News, host: &mut dyn Host) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let purpose = match std::mem::replace(&mut client.state, ClientState::undecided()) {
            ClientState::LookingUp(purpose) => purpose,
            other => return client.state = other,
        };
        let Some(session) = client.session.as_deref() else {
            return;
        };
        let in_vain = session
            .looked_up
            .as_ref()
            .is_some_and(|found| found.in_vain);
        match (news, purpose) {
            (News::Moved, Purpose::Again(typed)) => self.try_elsewhere(key, &typed, host),
            (News::Moved, _) => self.begin_anew(key, host),
            (News::Found(found), purpose) => {
                let found = if in_vain { Found::Nobody } else { found };
                match purpose {
                    Purpose::Prove => {
                        let facts = client.link.facts();
                        self.challenge(key, found, &facts, host)
                    }
                    Purpose::LetIn(rule) => self.let_in(key, &rule, &found, host),
                    Purpose::Again(typed) => self.prove_again(key, &typed, found, host),
                }
            }
            (news, _) => {
                let refusal = news.refusal(&session.claim.user);
                self.refuse(key, refusal, host);
            }
        }
        self.read_ahead(key, host);
    }

    fn begin_anew(&mut self, key: ClientKey, host: &mut dyn Host) {
        let pool = self.clients.get(key).and_then(Client::pool);
        match pool.and_then(|pool| self.pools.get(pool)) {
            Some(pool) if pool.removed => {
                let refusal = pool_removed(&pool.name);
                self.refuse(key, refusal, host);
            }
            _ => self.begin_proof(key, host),
        }
    }

    /// The same for a client that has given its password: it is not asked for it twice.
    fn try_elsewhere(&mut self, key: ClientKey, typed: &Secret, host: &mut dyn Host) {
        let pool = self.clients.get(key).and_then(Client::pool);
        if let Some(pool) = pool.and_then(|pool| self.pools.get(pool))
            && pool.removed
        {
            let refusal = pool_removed(&pool.name);
            return self.refuse(key, refusal, host);
        }
        if let Some(found) = self.look_up(key, Purpose::Again(typed.clone()), host) {
            self.prove_again(key, typed, found, host);
        }
    }

    /// Tries the password that a client has given, by what is known now.
    fn prove_again(&mut self, key: ClientKey, typed: &Secret, found: Found, host: &mut dyn Host) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let facts = client.link.facts();
        let proof = self.proof_of(key, found, &facts, host);
        let Some((AuthMethod::Password, user, stored)) = proof else {
            return;
        };
        let iterations = self.config.auth.scram_iterations;
        let random = &mut |into: &mut [u8]| host.random(into);
        let verify = Verify::of_password(&user, stored, iterations, &self.ring, random);
        let progress = verify.step(typed.expose(), &mut self.ring, &mut Vec::new());
        self.proof_progress(key, progress, host);
    }
}

impl News {
    /// What a client is told that cannot be told anything better; nothing of what an operator finds in the log.
    fn refusal(&self, user: &str) -> Refusal {
        let user = printable(user.as_bytes());
        match self {
            News::Unreachable => {
                let text = format!("user \"{user}\" cannot be authenticated now");
                Refusal::fatal(b"57P03", text, Blame::Server)
                    .detail("The server that knows the user's password cannot be reached.")
                    .hint("Try again in some seconds; Aether's log says why.")
                    .pgbouncer("bouncer config error")
            }
            _ => {
                let text =
                    format!("user \"{user}\" cannot be authenticated: auth_query has failed");
                Refusal::fatal(b"F0000", text, Blame::Operator).hint(
                    "Aether's log says why; see auth_user and auth_query in Aether's configuration.",
                )
                .pgbouncer("bouncer config error")
            }
        }
    }
}

/// Keeps a password that is about to be held against what was remembered: if it is wrong, it may be right by now.
pub(super) fn remember_typed(client: &mut Client, verify: &Verify, body: &[u8]) {
    let session = client.session.as_deref_mut();
    let looked_up = session.and_then(|session| session.looked_up.as_deref_mut());
    if let Some(looked_up) = looked_up
        && looked_up.cached
        && verify.takes_password()
    {
        looked_up.typed = Some(Secret::new(body));
    }
}

/// No server has a role or a database of any other name.
fn may_be_asked(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && !name.contains('\u{FFFD}')
}

/// The database entry that a desk asks in, and whether it is the one for all other names.
fn target<'a>(config: &'a Config, name: &Name) -> Option<(&'a PoolConfig, bool)> {
    let listed = config.databases.get(&name.database);
    let fallback = config.fallback.as_ref();
    let listed = listed.map(|pool| (&**pool, false));
    listed.or(fallback.map(|pool| (&**pool, true)))
}

/// Whether the same is still asked in the same place.
fn is_asked(config: &Config, desk: &Desk) -> bool {
    if desk.query.database.is_none() {
        let own = target(config, &desk.name).and_then(|(pool, _)| pool.auth_query.as_ref());
        return own == Some(&desk.query);
    }
    let pools = config.databases.values().chain(&config.fallback);
    pools
        .filter_map(|pool| pool.auth_query.as_ref())
        .chain(&config.auth.query)
        .any(|query| *query == desk.query)
}

/// The pool of a desk: the servers of the database, but the asking role, nothing that anybody has set, and few connections.
fn asking(target: &PoolConfig, name: &Name, query: &AuthQuery) -> PoolConfig {
    let backend = &target.backend;
    let same_role = backend.user.as_ref() == Some(&query.user);
    let own = backend.password.clone().filter(|_| same_role);
    let database = backend.database.as_ref().unwrap_or(&name.database);
    PoolConfig {
        backend: Backend {
            database: Some(database.clone()),
            user: Some(query.user.clone()),
            password: query.password.clone().or(own),
            parameters: vec![("search_path".to_owned(), "pg_catalog".to_owned())],
            ..backend.clone()
        },
        mode: PoolMode::Session,
        max_connections: limits::LOOKUP_CONNECTIONS_PER_DATABASE,
        max_connections_per_user: 0,
        min_idle_connections: 0,
        reset_query: None,
        sizes: Sizes {
            min_pool_size: 0,
            reserve_pool_size: 0,
            ..target.sizes
        },
        sessions: Sessions::default(),
        auth_query: None,
        ..target.clone()
    }
}

fn kind_of(config: &PoolConfig) -> Kind {
    let backend = &config.backend;
    let bytes = |text: &Option<String>| text.clone().unwrap_or_default().into_bytes();
    let parameters = backend.parameters.iter().cloned();
    Kind {
        user: bytes(&backend.user),
        database: bytes(&backend.database),
        parameters: parameters
            .map(|(name, value)| (name.into_bytes(), value.into_bytes()))
            .collect(),
    }
}

#[cfg(test)]
mod tests;
