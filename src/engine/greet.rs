//! Takes clients in: from accepting to the queue of their pool.
//!
//! Startup packets, authentication, and where a client wants to go. Order as in PostgreSQL: who proves nothing learns
//! nothing, not even whether a database exists.

use std::rc::Rc;

use super::admit::wipe;
use super::claim::Claim;
use super::client::{Console, Login, Place, Role, Session, Talk};
use super::lookup::remember_typed;
use super::pause::disabled;
use super::secure::CLIENT_HELLO;
use super::{
    Accepted, Client, ClientKey, ClientState, Engine, Host, Input, Link, ListenerId, Timer, Who,
    Why, ms,
};
use crate::auth::{Progress, SaltedPassword, Verify};
use crate::config::{CONSOLE_NAMES, PoolMode};
use crate::limits;
use crate::pool::Pool;
use crate::relay::Skip;
use crate::relay::prepared::ClientStatements;
use crate::wire::frame::{self, printable};
use crate::wire::refusal::{Blame, Refusal};
use crate::wire::startup::{self, First, NotStartup, Startup};

impl Engine {
    pub(super) fn can_accept(&self) -> bool {
        let somebody_waits = !self.incoming.is_empty();
        somebody_waits && !self.holds.is_suspended() && self.now >= self.accept_after
    }

    /// Accepts whoever waits, a bounded number per listener and turn.
    #[inline(never)]
    pub(super) fn accept(&mut self, host: &mut dyn Host) {
        for listener in self.incoming.clone() {
            self.accept_at(listener, host);
        }
    }

    /// Before a listener is closed: whoever the kernel has let in is here before the stop, and would be reset with it.
    pub(super) fn accept_the_last(&mut self, host: &mut dyn Host) {
        for listener in (0..host.listeners()).map(ListenerId) {
            self.incoming.insert(listener);
            for _ in 0..limits::LAST_ACCEPTS {
                if self.can_accept() && self.incoming.contains(&listener) {
                    self.accept_at(listener, host);
                }
            }
        }
    }

    fn accept_at(&mut self, listener: ListenerId, host: &mut dyn Host) {
        for _ in 0..limits::ACCEPTS_PER_TURN {
            if !self.has_room_for_newcomer() {
                return;
            }
            match host.accept(listener, self.clients.next_key()) {
                Accepted::Stream { stream, more } => {
                    self.tally.accepted += 1;
                    let id = self.next_id();
                    let key =
                        self.clients
                            .insert(Client::new(Link::of_newcomer(stream), id, self.now));
                    self.greet_newcomer(key, host);
                    // As a rule it has said something already.
                    self.list(Who::Client(key));
                    let over = self
                        .clients
                        .len()
                        .saturating_sub(self.config.server.max_client_connections);
                    if over > 2 * limits::OVER_LIMIT_MAX {
                        self.close_client(key, "far too many clients", host);
                    } else if over > limits::OVER_LIMIT_MAX {
                        self.refuse(key, self.too_many_clients(), host);
                    }
                    if !more {
                        self.incoming.remove(&listener);
                        return;
                    }
                }
                Accepted::Blocked => {
                    self.incoming.remove(&listener);
                    return;
                }
                Accepted::Exhausted(what) => {
                    log::error!(
                        "cannot accept connections: {what}; raise the limit of open files, or lower max_client_connections"
                    );
                    self.accept_after = self.now.plus(ms(limits::ACCEPT_PAUSE_MS));
                    self.wheel.insert(self.accept_after, Timer::Accept);
                    return;
                }
            }
        }
    }

    fn too_many_clients(&self) -> Refusal {
        let max = self.config.server.max_client_connections;
        Refusal::fatal(b"53300", "sorry, too many clients already", Blame::Operator)
            .detail(format!("Aether serves at most {max} client connections (server.max_client_connections)."))
            .hint("Close connections that are not used, or raise server.max_client_connections in aether.yaml.")
            .pgbouncer("no more connections allowed (max_client_conn)")
    }

    /// Runs a client that holds no server.
    pub(super) fn run_client(&mut self, key: ClientKey, host: &mut dyn Host) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if client.link.can_flush() {
            client.link.flush();
        }
        match client.state {
            ClientState::Greeting { .. } | ClientState::Proving(_) => self.read_login(key, host),
            ClientState::Deriving(_) => {}
            ClientState::Identifying(_)
            | ClientState::LookingUp(_)
            | ClientState::HeldBack(_)
            | ClientState::Failing(..) => {
                if client.link.is_hung_up() {
                    self.gave_up_login(key, host);
                }
            }
            ClientState::AwaitingWelcome | ClientState::Queued => {
                if client.link.is_hung_up() {
                    self.close_client(
                        key,
                        "client closed the connection while it waited for a server",
                        host,
                    );
                }
            }
            ClientState::Idle => self.read_idle(key, host),
            ClientState::Console(_) => self.read_console(key, host),
            ClientState::Cancelling(_) | ClientState::AwaitingPeer => {}
            ClientState::Leaving { .. } => self.linger(key, host),
            ClientState::Paired(_) | ClientState::Departing(_) => {}
        }
    }

    #[inline(never)]
    fn read_login(&mut self, key: ClientKey, host: &mut dyn Host) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        if client.link.is_readable() {
            match client.link.read(&mut buffer) {
                Input::Bytes(count) => {
                    self.login_bytes(key, buffer.get(..count).unwrap_or_default(), host);
                    wipe(&mut buffer, count);
                }
                Input::Nothing => {}
                Input::Closed(why) => {
                    if matches!(why, Why::Tls(_)) {
                        log::info!(
                            "client {} from {}: {why}",
                            client.id,
                            client.link.facts().address
                        );
                    }
                    self.close_client(key, &format!("client {why} before it was logged in"), host)
                }
            }
            self.list(Who::Client(key));
        }
        self.buffer = buffer;
    }

    /// Goes on with what came while a derivation ran.
    pub(super) fn read_ahead(&mut self, key: ClientKey, host: &mut dyn Host) {
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Some(client) = self.clients.get_mut(key) {
            let count = client.link.take_carry(&mut buffer);
            self.login_bytes(key, buffer.get(..count).unwrap_or_default(), host);
            wipe(&mut buffer, count);
            self.list(Who::Client(key));
        }
        self.buffer = buffer;
    }

    /// Goes through what has come, as far as the client's state allows, and keeps the rest.
    fn login_bytes(&mut self, key: ClientKey, bytes: &[u8], host: &mut dyn Host) {
        let mut rest = bytes;
        while let Some(used) = self.login_step(key, rest, host) {
            rest = rest.get(used..).unwrap_or_default();
        }
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if matches!(
            client.state,
            ClientState::Leaving { .. } | ClientState::Cancelling(_) | ClientState::AwaitingPeer
        ) {
            return;
        }
        if !self.newcomers.hold(client.id, rest.len()) {
            let text = "too much memory is taken by connections that have not logged in";
            self.refuse(key, Refusal::fatal(b"53200", text, Blame::Operator), host);
        } else if rest.len() > limits::AHEAD_MAX {
            self.refuse(
                key,
                Refusal::protocol("too much data before the login was complete"),
                host,
            );
        } else {
            client.link.keep(rest);
            if !rest.is_empty() {
                self.list(Who::Client(key));
            }
        }
    }

    /// One packet or message of a login: how many bytes it took. `None`: nothing more can be taken now.
    fn login_step(&mut self, key: ClientKey, rest: &[u8], host: &mut dyn Host) -> Option<usize> {
        if rest.first() == Some(&CLIENT_HELLO) && self.direct_tls(key, rest, host) {
            return Some(rest.len());
        }
        match &self.clients.get(key)?.state {
            ClientState::Greeting { .. } => match startup::read(rest) {
                Ok(None) => None,
                Ok(Some((first, used))) => {
                    self.first_packet(key, first, rest.len() > used, host);
                    Some(used)
                }
                Err(NotStartup::Silent) => {
                    self.close_client(key, "client sent something that is no startup packet", host);
                    None
                }
                Err(NotStartup::Refused(refusal)) => {
                    self.refuse(key, refusal, host);
                    None
                }
            },
            ClientState::Proving(verify) => match frame::whole(rest, verify.message_max()) {
                Ok(None) => None,
                Ok(Some((b'p', body, after))) => {
                    self.prove(key, body, host);
                    Some(rest.len() - after.len())
                }
                Ok(Some((b'X', _, _))) => {
                    self.close_client(key, "client left before it was logged in", host);
                    None
                }
                Ok(Some((tag, _, _))) => {
                    self.refuse(
                        key,
                        Refusal::protocol(format!(
                            "expected password response, got message type {tag}"
                        )),
                        host,
                    );
                    None
                }
                Err(_) => {
                    self.refuse(key, Refusal::protocol("invalid password packet size"), host);
                    None
                }
            },
            _ => None,
        }
    }

    fn first_packet(
        &mut self,
        key: ClientKey,
        first: First<'_>,
        more_behind: bool,
        host: &mut dyn Host,
    ) {
        match first {
            First::Ssl => self.encryption_asked(key, true, more_behind, host),
            First::GssEnc => self.encryption_asked(key, false, more_behind, host),
            First::Cancel { pid, key: cancel } => self.cancel_asked(key, pid, &cancel, host),
            First::Startup(startup) => self.startup(key, startup, host),
        }
    }

    /// Answers a request for encryption, with `N` if there is none. Anything already sent behind the request was not meant for a plain connection (CVE-2021-3935).
    fn encryption_asked(
        &mut self,
        key: ClientKey,
        ssl: bool,
        more_behind: bool,
        host: &mut dyn Host,
    ) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let ClientState::Greeting {
            ssl_asked,
            gss_asked,
        } = &mut client.state
        else {
            return;
        };
        let asked = if ssl { ssl_asked } else { gss_asked };
        if std::mem::replace(asked, true) {
            self.refuse(
                key,
                Refusal::protocol("encryption was asked for twice"),
                host,
            );
            return;
        }
        if ssl && self.ssl_asked(key, more_behind, host) {
            return;
        }
        self.send_to_client(key, b"N");
        if more_behind {
            let what = if ssl { "SSL" } else { "GSSAPI encryption" };
            self.refuse(
                key,
                Refusal::protocol(format!("received unencrypted data after {what} request")),
                host,
            );
        }
    }

    fn startup(&mut self, key: ClientKey, startup: Startup<'_>, host: &mut dyn Host) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let mut out = Vec::new();
        startup.negotiate(&mut out);
        client.link.send(&out);
        let facts = self
            .config
            .server
            .application_name_add_host
            .then(|| client.link.facts());
        let mut claim = Claim::new(&startup);
        if let Some(facts) = facts {
            claim = claim.with_host(&format!("{}:{}", facts.address, facts.port));
        }
        if let Some(refusal) = self.plain_refused(key, &claim.user, &claim.database) {
            return self.refuse(key, refusal, host);
        }
        let mut session = Session {
            place: self.place(&claim),
            claim: Rc::new(claim),
            cancel: None,
            mode: PoolMode::Session,
            counted: false,
            vars: Rc::default(),
            statements: ClientStatements::default(),
            skip: Skip::default(),
            kind: None,
            looked_up: None,
            charged: false,
            epoch: 0,
            login: Login::Unruled,
        };
        if session.claim.user.contains('\u{FFFD}') || session.claim.database.contains('\u{FFFD}') {
            session.place = Place::Nowhere;
        }
        if let Some(client) = self.clients.get_mut(key) {
            client.session = Some(Box::new(session));
        }
        // As in PgBouncer: who wants to see what goes on is counted, and gets in.
        let full = self.clients.len() > self.config.server.max_client_connections;
        if full && !self.is_to_console(key) && !self.is_owner(key) {
            let refusal = self.too_many_clients();
            return self.refuse(key, refusal, host);
        }
        self.tell_login(key);
        if self.stop.is_some_and(|stop| stop.told) {
            return self.refuse(key, super::shutting_down(), host);
        }
        self.begin_proof(key, host);
    }

    fn is_to_console(&self, key: ClientKey) -> bool {
        let client = self.clients.get(key);
        let session = client.and_then(|client| client.session.as_deref());
        session.is_some_and(|session| session.place == Place::Console)
    }

    /// Where a client wants to go.
    fn place(&self, claim: &Claim) -> Place {
        if let Some(&pool) = self.names.get(&claim.database) {
            return Place::Pool(pool);
        }
        if CONSOLE_NAMES.contains(&claim.database.as_str()) {
            return Place::Console;
        }
        self.place_of_replication(claim).unwrap_or(Place::Nowhere)
    }

    fn prove(&mut self, key: ClientKey, body: &[u8], host: &mut dyn Host) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let ClientState::Proving(verify) =
            std::mem::replace(&mut client.state, ClientState::undecided())
        else {
            return;
        };
        remember_typed(client, &verify, body);
        let mut out = Vec::new();
        let progress = verify.step(body, &mut self.ring, &mut out);
        self.answer_proof(key, out, progress, host);
    }

    /// Sends what a proof is answered with, and the welcome in one piece with it where it follows at once.
    fn answer_proof(
        &mut self,
        key: ClientKey,
        out: Vec<u8>,
        progress: Result<Progress<Verify>, Refusal>,
        host: &mut dyn Host,
    ) {
        if let Some(client) = self.clients.get_mut(key) {
            client.link.send_with_next(out);
        }
        self.proof_progress(key, progress, host);
        if let Some(client) = self.clients.get_mut(key)
            && client.link.can_flush()
        {
            client.link.flush();
        }
    }

    pub(super) fn client_derived(
        &mut self,
        key: ClientKey,
        salted: &SaltedPassword,
        host: &mut dyn Host,
    ) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if !matches!(client.state, ClientState::Deriving(_)) {
            return;
        }
        let ClientState::Deriving(verify) =
            std::mem::replace(&mut client.state, ClientState::undecided())
        else {
            return;
        };
        let mut out = Vec::new();
        let progress = verify.derived(salted, &mut self.ring, &mut out);
        self.answer_proof(key, out, progress, host);
        self.read_ahead(key, host);
    }

    pub(super) fn proof_progress(
        &mut self,
        key: ClientKey,
        progress: Result<Progress<Verify>, Refusal>,
        host: &mut dyn Host,
    ) {
        match progress {
            Ok(Progress::Next(verify)) => {
                self.enter_client(key, ClientState::Proving(Box::new(verify)))
            }
            Ok(Progress::Derive(verify, job)) => {
                self.enter_client(key, ClientState::Deriving(Box::new(verify)));
                host.derive(job, Who::Client(key));
            }
            Ok(Progress::Done) => {
                self.authenticated(key, host);
                self.trim_proven();
            }
            Err(refusal) if refusal.sqlstate == *b"28P01" => {
                if !self.look_up_again(key) {
                    self.answer_failure(key, refusal, host)
                }
            }
            Err(refusal) => self.refuse(key, refusal, host),
        }
    }

    /// Too many keys: those of users who are here, or whose servers are kept ready, are the last to go.
    fn trim_proven(&mut self) {
        if !self.ring.proven.is_over_limit() {
            return;
        }
        let here = self
            .pools
            .users()
            .filter(|(_, _, servers, clients)| servers + clients > 0);
        let here = here.map(|(name, ..)| name);
        let ready = self.pools.iter().filter(|(_, pool)| {
            pool.config.min_idle_connections > 0 || pool.config.sizes.min_pool_size > 0
        });
        let ready = ready.filter_map(|(_, pool)| Some(&pool.last_asked()?.user[..]));
        self.ring.proven.trim(&here.chain(ready).collect());
    }

    /// The client is who it says: where does it want to go?
    pub(super) fn authenticated(&mut self, key: ClientKey, host: &mut dyn Host) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        client.link.login_is_over();
        let Some(session) = client.session.as_deref_mut() else {
            return;
        };
        session.looked_up = None;
        session.claim = self.claims.share(&session.claim);
        self.count_login(key, "ok");
        let Some(session) = self
            .clients
            .get(key)
            .and_then(|client| client.session.as_deref())
        else {
            return;
        };
        let place = session.place;
        // A session that begins now would only be cut off. Operators may look on.
        if self.is_too_late(key) && place != Place::Console {
            return self.refuse(
                key,
                super::shutting_down().pgbouncer("pooler is shutting down"),
                host,
            );
        }
        match place {
            Place::Console => self.enter_console(key, host),
            Place::Pool(pool) => self.enter_pool(key, pool, host),
            Place::Nowhere => match self.fallback_pool(key) {
                Some(pool) => self.enter_pool(key, pool, host),
                None => {
                    let session = self.clients.get(key);
                    let session = session.and_then(|client| client.session.as_deref());
                    let name = session.map_or("", |session| &session.claim.database);
                    let name = printable(name.as_bytes());
                    let refusal = Refusal::fatal(
                        b"3D000",
                        format!("database \"{name}\" does not exist"),
                        Blame::Client,
                    )
                    .hint("It is not among the databases in Aether's configuration.")
                    .pgbouncer(format!("no such database: {name}"));
                    self.refuse(key, refusal, host);
                }
            },
        }
    }

    /// The pool for a name that only the `"*"` entry covers; made when it is first asked for, by somebody who has logged in.
    fn fallback_pool(&mut self, key: ClientKey) -> Option<super::PoolKey> {
        let config = self.config.fallback.clone()?;
        let session = self.clients.get(key)?.session.as_deref()?;
        if session.claim.database.contains('\u{FFFD}') {
            return None;
        }
        let database = session.claim.database.clone();
        if !self.names.contains_key(&database) {
            self.make_room_for_fallback();
        }
        let client = self.clients.get_mut(key)?;
        let session = client.session.as_deref_mut()?;
        let pool = match self.names.get(&database) {
            Some(&pool) => pool,
            None if self.pools.len() - self.lookups.len()
                < limits::FALLBACK_POOLS_MAX + self.config.databases.len() =>
            {
                let name = session.claim.database.clone();
                let pool = self.insert_pool(Pool::new(name.clone(), config, true));
                self.names.insert(name, pool);
                pool
            }
            None => return None,
        };
        let session = self.clients.get_mut(key)?.session.as_deref_mut()?;
        session.place = Place::Pool(pool);
        Some(pool)
    }

    /// Forgets the pool that nobody has used for the longest time, if there are as many as there may be.
    fn make_room_for_fallback(&mut self) {
        let made = self.pools.len() - self.lookups.len();
        if made < limits::FALLBACK_POOLS_MAX + self.config.databases.len() {
            return;
        }
        let unused = self.pools.iter().filter(|(_, pool)| {
            pool.from_fallback && pool.total() == 0 && pool.clients() == 0 && pool.cancels == 0
        });
        let oldest = unused
            .filter_map(|(key, pool)| Some((pool.unused_since?, key)))
            .min();
        if let Some((_, key)) = oldest
            && !self
                .clients
                .iter()
                .any(|(_, client)| client.pool() == Some(key))
        {
            if let Some(pool) = self.pools.get(key) {
                self.names.remove(&pool.name);
            }
            self.pools.remove(key);
        }
    }

    fn enter_console(&mut self, key: ClientKey, host: &mut dyn Host) {
        let Some(session) = self
            .clients
            .get(key)
            .and_then(|client| client.session.as_deref())
        else {
            return;
        };
        let admin = &self.config.admin;
        let role =
            if admin.users.contains(&session.claim.user) || self.is_owner(key) {
                Role::Admin
            } else if admin.stats_users.contains(&session.claim.user) {
                Role::Stats
            } else {
                let text = format!(
                    "user \"{}\" may not use the console",
                    printable(session.claim.user.as_bytes())
                );
                let refusal = Refusal::fatal(b"42501", text, Blame::Client).hint(
                "List the user in admin.users or admin.stats_users of Aether's configuration.",
            ).pgbouncer("not allowed");
                return self.refuse(key, refusal, host);
            };
        let minor = session.claim.minor;
        let proven = self.has_proven_itself(key, host);
        if !proven && !self.config.auth.allow_insecure {
            let text = "the console lets in nobody by TCP without a proof";
            let refusal = Refusal::fatal(b"28000", text, Blame::Client).hint(
                "Use a Unix socket, a rule that asks for one (scram-sha-256), or auth.allow_insecure: true.",
            ).pgbouncer("not allowed");
            return self.refuse(key, refusal, host);
        }
        let cancel = self.new_cancel_key(None, minor, host);
        let out = super::console::welcome(&cancel, &self.config.server.login_notify_message);
        self.cancel_keys.insert(cancel.pid, key);
        let client = self.clients.get_mut(key);
        if let Some(session) = client.and_then(|client| client.session.as_deref_mut()) {
            session.cancel = Some(cancel);
        }
        self.enter_client(
            key,
            ClientState::Console(Box::new(Console {
                role,
                talk: Talk::Quiet,
                used: false,
                waits_for: None,
            })),
        );
        self.send_to_client(key, &out);
        self.console_stats.total.logins += 1;
        self.list(Who::Client(key));
    }

    /// Why one more client of this user may not enter a pool.
    fn too_many_of(&self, pool_key: super::PoolKey, user: &str) -> Option<Refusal> {
        let pool = self.pools.get(pool_key)?;
        let (of_pool, of_user) = self.pools.client_counts(pool_key, user.as_bytes());
        let refusal = |text: String, detail: String, hint: String, pgbouncer: &'static str| {
            Some(
                Refusal::fatal(b"53300", text, Blame::Operator)
                    .detail(detail)
                    .hint(hint)
                    .pgbouncer(pgbouncer),
            )
        };
        let max = pool.config.max_client_connections;
        if max > 0 && of_pool >= max {
            let name = pool.label();
            return refusal(
                format!("too many connections for database \"{name}\""),
                format!(
                    "Aether serves at most {max} clients of this database (max_client_connections), and {of_pool} are there."
                ),
                format!(
                    "Close connections that are not used, or raise max_client_connections of \"{name}\" in Aether's configuration."
                ),
                "client connections exceeded (max_db_client_connections)",
            );
        }
        let max = self
            .pools
            .user_config(user.as_bytes())
            .max_client_connections;
        if max > 0 && of_user >= max {
            let name = printable(user.as_bytes());
            return refusal(
                format!("too many connections for role \"{name}\""),
                format!("Aether serves at most {max} clients of this user (users.{name}.max_client_connections), and {of_user} are there."),
                "Close connections that are not used, or raise the user's max_client_connections in section users of Aether's configuration.".to_owned(),
                "client connections exceeded (max_user_client_connections)",
            );
        }
        None
    }

    /// Why a client may not enter a pool.
    fn barred(&self, key: ClientKey, pool_key: super::PoolKey) -> Option<Refusal> {
        let session = self.clients.get(key)?.session.as_deref()?;
        let pool = self.pools.get(pool_key)?;
        if self.holds.disables(&pool.name) {
            return Some(disabled(&pool.label()));
        }
        if !pool.removed {
            return self.too_many_of(pool_key, &session.claim.user);
        }
        let text = format!(
            "database \"{}\" does not exist",
            printable(session.claim.database.as_bytes())
        );
        let hint = "It was removed from Aether's configuration.";
        let name = printable(session.claim.database.as_bytes());
        let refusal = Refusal::fatal(b"3D000", text, Blame::Operator).hint(hint);
        Some(refusal.pgbouncer(format!("no such database: {name}")))
    }

    fn enter_pool(&mut self, key: ClientKey, pool_key: super::PoolKey, host: &mut dyn Host) {
        if let Some(refusal) = self.barred(key, pool_key) {
            return self.refuse(key, refusal, host);
        }
        self.enter_queue(key, pool_key, host);
    }

    pub(super) fn send_to_client(&mut self, key: ClientKey, bytes: &[u8]) {
        if let Some(client) = self.clients.get_mut(key) {
            client.link.send(bytes);
        }
    }
}
