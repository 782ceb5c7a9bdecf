//! What an operator holds up: databases that are paused, disabled, connected anew or killed, and clients that are sent away.
//!
//! A paused pool gives out no server and makes none; what its clients hold comes back when they release it, and is closed. Who
//! asks for a server waits as in a full pool. All of it is remembered by the name of the database, so that a pool that is made
//! anew, or asks for secrets in the same database, is held as well. What takes the network is done in the next turn; nothing
//! here waits: whoever gave an order asks how far it is.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{
    Client, ClientKey, ClientState, Engine, Host, PoolKey, Server, ServerKey, ServerState,
    Shutdown, Tick, Timer, Who,
};
use crate::config::{CONSOLE_NAMES, Config};
use crate::pool::Pool;
use crate::wire::refusal::{Blame, Refusal};

/// What an order is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Every database.
    All,
    /// One, by the name that clients ask for.
    Database(&'a str),
}

/// How far a pause is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is in force no more: somebody has resumed meanwhile.
    Undone,
    /// So many server connections are still there.
    Waiting(usize),
    /// No server connection is left.
    Done,
}

/// What is held up.
#[derive(Default)]
pub(super) struct Holds {
    /// Everything is paused.
    all: bool,
    /// Databases that are paused one by one.
    paused: BTreeSet<String>,
    /// Databases that take no new clients.
    disabled: BTreeSet<String>,
    /// What is to be done at the next opportunity.
    orders: Vec<Order>,
    /// Nothing moves, but for the console.
    suspended: Option<Suspension>,
}

#[derive(Clone, Copy)]
struct Suspension {
    /// When it began.
    since: Tick,
    /// Whoever has not taken what was sent to him by then is closed.
    deadline: Option<Tick>,
    /// A console was there: without one nobody could end it.
    by_console: bool,
}

enum Order {
    Kill(PoolKey),
    Kick(ClientKey),
    Cancel(ClientKey),
    Stop(Shutdown),
}

impl Scope<'_> {
    fn covers(&self, database: &str) -> bool {
        match self {
            Scope::All => true,
            Scope::Database(name) => *name == database,
        }
    }
}

impl Holds {
    fn pauses(&self, database: &str) -> bool {
        self.all || self.paused.contains(database)
    }

    /// Whether a database takes no new clients.
    pub(super) fn disables(&self, database: &str) -> bool {
        self.disabled.contains(database)
    }

    /// Whether nothing moves, but for the console.
    pub(super) fn is_suspended(&self) -> bool {
        self.suspended.is_some()
    }

    /// Whether nothing is to be done, and everything moves.
    pub(super) fn are_still(&self) -> bool {
        self.orders.is_empty() && self.suspended.is_none()
    }

    /// Whether something is to be done.
    pub(super) fn has_orders(&self) -> bool {
        !self.orders.is_empty()
    }

    /// Databases that are gone from the configuration are neither paused nor disabled when they come back.
    pub(super) fn adopt(&mut self, config: &Config) {
        let known =
            |name: &String| config.fallback.is_some() || config.databases.contains_key(name);
        self.paused.retain(known);
        self.disabled.retain(known);
    }
}

// ---- orders ----

impl Engine {
    /// Whether there is a database of this name for clients: one that is configured, or that `"*"` covers.
    pub fn has_database(&self, name: &str) -> bool {
        let covered = self.config.fallback.is_some() && !CONSOLE_NAMES.contains(&name);
        self.names.contains_key(name) || covered
    }

    /// Holds servers back: none is given out or made from now on, and those that come back are closed. Whether that is new.
    /// [`Engine::pause_progress`] tells how far it is.
    pub fn pause(&mut self, scope: Scope<'_>) -> bool {
        let new = match scope {
            Scope::All if self.is_suspended() => return false,
            Scope::All => !std::mem::replace(&mut self.holds.all, true),
            Scope::Database(name) => self.holds.paused.insert(name.to_owned()),
        };
        self.hold_pools();
        new
    }

    /// Ends a pause. That of everything leaves alone what was paused one by one, and the other way round. Whether there was one.
    pub fn resume(&mut self, scope: Scope<'_>) -> bool {
        let was = match scope {
            Scope::All if self.is_suspended() => {
                self.go_on();
                true
            }
            Scope::All => std::mem::take(&mut self.holds.all),
            Scope::Database(name) => self.holds.paused.remove(name),
        };
        self.hold_pools();
        was
    }

    /// Stops everything where it is, but for the console: nobody is accepted, read or timed; only what waits to be written still goes
    /// out. [`Engine::resume`] of all ends it, and so does the end of the last console session.
    ///
    /// # Errors
    /// In PgBouncer's words, why not.
    pub fn suspend(&mut self) -> Result<(), &'static str> {
        if self.holds.all || self.is_suspended() {
            return Err("already suspended/paused");
        }
        if !self.holds.paused.is_empty() {
            return Err("cannot suspend with paused databases");
        }
        let limit = self.config.server.suspend_timeout;
        let deadline = (!limit.is_zero()).then(|| self.now.plus(limit));
        if let Some(deadline) = deadline {
            self.wheel.insert(deadline, Timer::Accept);
        }
        self.holds.suspended = Some(Suspension {
            since: self.now,
            deadline,
            by_console: self.has_console(),
        });
        Ok(())
    }

    /// Whether everything is suspended.
    pub fn is_suspended(&self) -> bool {
        self.holds.is_suspended()
    }

    /// How far a suspension is: connections that have not taken yet what was sent to them.
    pub fn suspend_progress(&self) -> Progress {
        if !self.is_suspended() {
            return Progress::Undone;
        }
        match self.unflushed().len() {
            0 => Progress::Done,
            left => Progress::Waiting(left),
        }
    }

    fn has_console(&self) -> bool {
        let mut clients = self.clients.iter();
        clients.any(|(_, client)| matches!(client.state, ClientState::Console(_)))
    }

    fn unflushed(&self) -> Vec<Who> {
        let clients = self.clients.iter().filter(|(_, client)| {
            !client.link.is_flushed() && !matches!(client.state, ClientState::Console(_))
        });
        let servers = self.servers.iter();
        let servers =
            servers.filter(|(_, server)| server.link().is_some_and(|link| !link.is_flushed()));
        let servers = servers.map(|(key, _)| Who::Server(key));
        clients
            .map(|(key, _)| Who::Client(key))
            .chain(servers)
            .collect()
    }

    /// Everything goes on where it stopped: nobody is charged with the time in which nobody was listened to.
    fn go_on(&mut self) {
        let Some(suspension) = self.holds.suspended.take() else {
            return;
        };
        let (now, stood) = (self.now, self.now.since(suspension.since));
        let stood = Duration::from_micros(stood);
        let later = |at: Tick| at.plus(stood).min(now);
        for key in self.clients.keys() {
            if let Some(client) = self.clients.get_mut(key) {
                client.since = later(client.since);
                if client.state.is_unauthenticated() {
                    client.connected_at = later(client.connected_at);
                }
            }
            self.list(Who::Client(key));
            self.arm_client(key);
        }
        for key in self.servers.keys() {
            // An idle one has been that all the time, and may have to be looked at.
            if let Some(server) = self.servers.get_mut(key)
                && !matches!(server.state, ServerState::Idle)
            {
                for at in [
                    &mut server.since,
                    &mut server.request_at,
                    &mut server.transaction_at,
                ] {
                    *at = later(*at);
                }
            }
            self.list(Who::Server(key));
            self.arm_server(key);
        }
        self.pools.postpone(stood);
        self.lookups.postpone(stood);
        self.arm_logins();
        self.unsettled.extend(self.pools.keys());
    }

    /// Whether this very pause is in force: of everything, or of a database by itself.
    pub fn is_paused(&self, scope: Scope<'_>) -> bool {
        match scope {
            Scope::All => self.holds.all,
            Scope::Database(name) => self.holds.paused.contains(name),
        }
    }

    /// How far a pause is.
    pub fn pause_progress(&self, scope: Scope<'_>) -> Progress {
        if !self.is_paused(scope) {
            return Progress::Undone;
        }
        let pools = self.pools.iter().map(|(_, pool)| pool);
        let pools = pools.filter(|pool| scope.covers(&pool.name));
        match pools.map(|pool| pool.total() + pool.cancels).sum() {
            0 => Progress::Done,
            left => Progress::Waiting(left),
        }
    }

    /// Lets no new clients into a database. Whether that is new.
    pub fn disable(&mut self, name: &str) -> bool {
        self.holds.disabled.insert(name.to_owned())
    }

    /// Lets clients into a database again. Whether none were let in.
    pub fn enable(&mut self, name: &str) -> bool {
        self.holds.disabled.remove(name)
    }

    /// Whether a database takes no new clients.
    pub fn is_disabled(&self, name: &str) -> bool {
        self.holds.disables(name)
    }

    /// Has servers connected anew: idle ones are closed at once, the others when they are released.
    pub fn reconnect(&mut self, scope: Scope<'_>) {
        for key in self.pools_in(scope) {
            self.retire(key);
        }
    }

    /// Server connections that are to be closed as soon as they are released.
    pub fn left_to_close(&self, scope: Scope<'_>) -> usize {
        let is_left = |(_, server): &(ServerKey, &Server)| {
            let pool = self.pools.get(server.pool);
            server.recycle && pool.is_some_and(|pool| scope.covers(&pool.name))
        };
        self.servers.iter().filter(is_left).count()
    }

    /// Drops the clients and servers of a database, or of all; each stays paused by itself. Statistics are kept.
    pub fn kill(&mut self, scope: Scope<'_>) {
        if let Scope::Database(name) = scope {
            self.holds.paused.insert(name.to_owned());
        }
        for key in self.pools_in(scope) {
            // What has no name for RESUME could not be resumed.
            if let Some(pool) = self.pools.get(key)
                && !pool.for_lookups
                && self.has_database(&pool.name)
            {
                self.holds.paused.insert(pool.name.clone());
            }
            self.holds.orders.push(Order::Kill(key));
        }
        self.hold_pools();
    }

    /// Sends a client away, by the number that SHOW CLIENTS has for it. Whether it is there.
    pub fn kill_client(&mut self, id: u64) -> bool {
        let mut clients = self.clients.iter();
        let found = clients.find(|(_, client)| client.id == id);
        let found = found.map(|(key, _)| key);
        self.holds.orders.extend(found.map(Order::Kick));
        found.is_some()
    }

    /// Cancels what a client runs, or waits with, by the number that SHOW CLIENTS has for it. Whether it is there.
    pub fn cancel_client(&mut self, id: u64) -> bool {
        let mut clients = self.clients.iter();
        let found = clients.find(|(_, client)| client.id == id);
        let found = found.map(|(key, _)| key);
        self.holds.orders.extend(found.map(Order::Cancel));
        found.is_some()
    }

    /// Begins to stop, as a signal does.
    pub fn shut_down(&mut self, how: Shutdown) {
        self.holds.orders.push(Order::Stop(how));
    }

    fn pools_in(&self, scope: Scope<'_>) -> Vec<PoolKey> {
        let pools = self.pools.iter();
        let pools = pools.filter(|(_, pool)| scope.covers(&pool.name));
        pools.map(|(key, _)| key).collect()
    }
}

// ---- carrying them out ----

impl Engine {
    /// Takes a pool in, held if its database is.
    pub(super) fn insert_pool(&mut self, mut pool: Pool) -> PoolKey {
        pool.held = self.holds.pauses(&pool.name);
        self.pools.insert(pool)
    }

    /// Tells pools whether they are held.
    pub(super) fn hold_pools(&mut self) {
        for key in self.pools.keys() {
            let Some(pool) = self.pools.get_mut(key) else {
                continue;
            };
            let held = self.holds.pauses(&pool.name);
            if std::mem::replace(&mut pool.held, held) != held {
                if !held {
                    pool.failure = None; // whether that is still so is found out at once
                }
                self.unsettled.insert(key);
            }
        }
    }

    /// While everything is suspended: only what waits to be written goes out. Whether that is so for this one.
    pub(super) fn is_held_back(&mut self, who: Who) -> bool {
        let console = |key| {
            let client = self.clients.get(key);
            client.is_some_and(|client| matches!(client.state, ClientState::Console(_)))
        };
        if !self.is_suspended() || matches!(who, Who::Client(key) if console(key)) {
            return false;
        }
        if let Some(link) = self.link_mut(who) {
            link.listed = false;
            if link.can_flush() {
                link.flush();
            }
        }
        true
    }

    /// Ends a suspension that nobody could end, and closes those who have not taken what was sent to them in its time.
    fn look_after_suspension(&mut self, host: &mut dyn Host) {
        let Some(suspension) = self.holds.suspended else {
            return;
        };
        if suspension.by_console && !self.has_console() {
            log::info!("admin disappeared when suspended, doing RESUME");
            return self.go_on();
        }
        if suspension
            .deadline
            .is_some_and(|deadline| self.now >= deadline)
        {
            self.holds.suspended = Some(Suspension {
                deadline: None,
                ..suspension
            });
            for who in self.unflushed() {
                match who {
                    Who::Client(key) => self.close_client(key, SUSPEND_TIMEOUT, host),
                    Who::Server(key) => {
                        let client = self.servers.get(key).and_then(|s| s.state.client());
                        if let Some(client) = client {
                            self.close_client(client, SUSPEND_TIMEOUT, host);
                        }
                        self.close_server(key, SUSPEND_TIMEOUT, host);
                    }
                }
            }
        }
    }

    /// Carries out what operators have ordered since the last time.
    pub(super) fn carry_out(&mut self, host: &mut dyn Host) {
        self.look_after_suspension(host);
        for order in std::mem::take(&mut self.holds.orders) {
            match order {
                Order::Kill(pool) => self.kill_pool(pool, host),
                Order::Kick(client) => self.send_away(
                    client,
                    killed("KILL_CLIENT", "admin forced disconnect"),
                    host,
                ),
                Order::Cancel(client) => self.cancel_by_order(client, host),
                Order::Stop(how) => {
                    if self.is_suspended() {
                        self.go_on();
                    }
                    self.begin_stop(how, host)
                }
            }
        }
    }

    fn kill_pool(&mut self, key: PoolKey, host: &mut dyn Host) {
        let is_in = |client: &Client| {
            let is_in = client.state.is_waiting() || client.state.is_logged_in();
            client.pool() == Some(key) && is_in
        };
        for client in self.clients.keys() {
            if self.clients.get(client).is_some_and(is_in) {
                self.send_away(client, killed("KILL", "database removed"), host);
            }
        }
        for server in self.servers_of(key) {
            self.close_server(server, "database removed", host);
        }
    }

    /// Ends a client, and what its server works on for it.
    fn send_away(&mut self, key: ClientKey, refusal: Refusal, host: &mut dyn Host) {
        let server = self.clients.get(key).and_then(|c| c.state.server());
        self.refuse(key, refusal, host);
        let drains = |server: &Server| matches!(server.state, ServerState::Draining);
        if let Some(key) = server.filter(|key| self.servers.get(*key).is_some_and(drains)) {
            let _ = self.cancel(key, None, host);
            let reason = "its client was sent away, its query was cancelled";
            self.close_server(key, reason, host);
        }
    }

    /// What must not be there while a pool is held: idle servers, and such as are being made.
    pub(super) fn close_held(&mut self, pool_key: PoolKey, host: &mut dyn Host) {
        let Some(pool) = self.pools.get(pool_key).filter(|pool| pool.held) else {
            return;
        };
        let mut keys = pool.idle_servers();
        if pool.connecting() > 0 {
            let new = self.servers.iter();
            let new = new.filter(|(_, s)| s.pool == pool_key && s.state.is_connecting());
            keys.extend(new.map(|(key, _)| key));
        }
        for key in keys {
            self.close_server(key, PAUSE_MODE, host);
        }
    }

    fn servers_of(&self, pool: PoolKey) -> Vec<ServerKey> {
        let servers = self.servers.iter();
        let servers =
            servers.filter(|(_, server)| server.pool == pool && !server.state.is_cancel());
        servers.map(|(key, _)| key).collect()
    }
}

/// Why connections are closed that do not take what was sent to them.
const SUSPEND_TIMEOUT: &str = "suspend_timeout";

/// Why servers of a paused pool are closed.
pub(super) const PAUSE_MODE: &str = "pause mode";

/// What new clients of a disabled database are told.
pub(super) fn disabled(label: &str) -> Refusal {
    let text = format!("database \"{label}\" is disabled");
    Refusal::fatal(b"55000", text, Blame::Operator)
        .hint("An operator has disabled it (DISABLE in the console); ENABLE lets clients in again.")
}

/// What clients are told that would have to be looked up in a disabled database.
pub(super) fn authentication_disabled(label: &str) -> Refusal {
    let text = format!("authentication database \"{label}\" is disabled");
    Refusal::fatal(b"55000", text, Blame::Operator)
}

fn killed(command: &str, pgbouncer: &'static str) -> Refusal {
    Refusal::fatal(
        b"57P01",
        "terminating connection due to administrator command",
        Blame::Operator,
    )
    .detail(format!(
        "An operator of Aether, the connection pooler, has ended it ({command})."
    ))
    .pgbouncer(pgbouncer)
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Scene, Shared, World, is_closed, said};
    use super::*;
    use crate::engine::Facts;
    use crate::wire::{backend, frontend};

    fn dsn(keys: &str) -> String {
        format!(
            "pool: {{dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'{keys}}}\n\
             auth: {{type: trust, allow_insecure: true}}\n"
        )
    }

    fn scene(keys: &str) -> Scene {
        Scene::with(&dsn(keys), World::default())
    }

    fn say(scene: &mut Scene, client: &Shared, message: impl Fn(&mut Vec<u8>)) {
        let mut out = Vec::new();
        message(&mut out);
        client.borrow_mut().input.extend(out);
        scene.ready(client);
    }

    fn query(scene: &mut Scene, client: &Shared) {
        say(scene, client, |out| frontend::query(out, b"select 1"));
    }

    fn answer(scene: &mut Scene, server: &Shared, client: &Shared) -> Vec<u8> {
        let mut answer = Vec::new();
        backend::write_command_complete(&mut answer, "SELECT 1");
        backend::write_ready(&mut answer);
        scene.passes(server, &answer, client)
    }

    fn settled(scene: &mut Scene) {
        scene.turn(Vec::new());
    }

    /// A client that asks to be let in; the server that is made for it says nothing yet.
    fn newcomer(scene: &mut Scene) -> Shared {
        let parameters = [(&b"user"[..], &b"me"[..]), (b"database", b"db")];
        let client = scene.late_client(Facts::default(), &parameters);
        scene.ready(&client);
        client
    }

    /// A client that knocks.
    fn newcomer_waits(scene: &mut Scene) -> Shared {
        let client = Shared::default();
        scene.arrive(&client);
        client
    }

    const DB: Scope<'_> = Scope::Database("db");

    #[test]
    fn a_paused_database_gives_out_no_server_until_it_is_resumed() {
        for scope in [Scope::All, DB] {
            let mut scene = scene(", mode: transaction");
            let (busy, idle) = (scene.client(), scene.client());
            query(&mut scene, &busy);
            assert!(scene.engine.pause(scope) && !scene.engine.pause(scope));
            settled(&mut scene);
            assert_eq!(scene.engine.pause_progress(scope), Progress::Waiting(1));
            query(&mut scene, &idle);
            let server = scene.world.servers[0].clone();
            assert!(!answer(&mut scene, &server, &busy).is_empty());
            assert!(is_closed(&server), "it has come back");
            assert_eq!(scene.engine.pause_progress(scope), Progress::Done);
            query(&mut scene, &busy);
            scene.wait(std::time::Duration::from_secs(5));
            assert_eq!(scene.world.servers.len(), 1, "none is made");
            assert!(scene.engine.resume(scope) && !scene.engine.resume(scope));
            assert_eq!(scene.engine.pause_progress(scope), Progress::Undone);
            settled(&mut scene);
            let server = scene.world.servers[1].clone();
            scene.ready(&server);
            for client in [&idle, &busy] {
                assert!(!answer(&mut scene, &server, client).is_empty());
            }
        }
    }

    /// PgBouncer goes on making servers then, and tells clients of them after RESUME: "cached error: pause mode".
    #[test]
    fn a_pause_ends_what_is_being_connected_and_nobody_is_told() {
        let mut scene = scene(", min_idle_connections: 1");
        let client = newcomer(&mut scene);
        let made = scene.world.servers.len();
        scene.engine.pause(Scope::All);
        settled(&mut scene);
        assert!(scene.world.servers.iter().all(is_closed));
        assert_eq!(scene.engine.pause_progress(Scope::All), Progress::Done);
        scene.wait(std::time::Duration::from_secs(20));
        assert_eq!(scene.world.servers.len(), made);
        scene.engine.resume(Scope::All);
        settled(&mut scene);
        for server in scene.world.servers.clone().iter().skip(made) {
            scene.ready(server);
        }
        assert_eq!(said(&client), "R0", "it is welcomed");
    }

    #[test]
    fn each_pause_is_undone_by_itself() {
        let mut scene = scene("");
        scene.engine.pause(DB);
        scene.engine.pause(Scope::All);
        assert!(scene.engine.resume(Scope::All));
        settled(&mut scene);
        let client = newcomer(&mut scene);
        assert!(
            scene.world.servers.is_empty(),
            "it is still paused by itself"
        );
        assert!(!scene.engine.resume(Scope::Database("other")));
        assert!(scene.engine.resume(DB));
        settled(&mut scene);
        scene.serve_last();
        assert_eq!(said(&client), "R0");
    }

    #[test]
    fn a_database_that_only_the_star_covers_is_paused_before_anybody_has_asked_for_it() {
        let config = dsn("").replace("auth:", "databases: {'*': {}}\nauth:");
        let mut scene = Scene::with(&config, World::default());
        assert!(scene.engine.has_database("late") && !scene.engine.has_database("pgbouncer"));
        scene.engine.pause(Scope::Database("late"));
        let client = scene.client_with("late", &[]);
        assert!(scene.world.servers.is_empty());
        scene.engine.resume(Scope::Database("late"));
        settled(&mut scene);
        scene.serve_last();
        assert_eq!(said(&client), "R0");
    }

    #[test]
    fn a_disabled_database_keeps_its_clients_and_takes_no_others() {
        let mut scene = scene("");
        let client = scene.client();
        assert!(scene.engine.disable("db") && !scene.engine.disable("db"));
        let other = scene.client();
        assert_eq!(said(&other), "55000 database \"db\" is disabled");
        let server = scene.world.servers[0].clone();
        scene.works(&client, &server);
        assert!(scene.engine.enable("db") && !scene.engine.enable("db"));
        let other = scene.client();
        assert_eq!(said(&other), "R0");
    }

    #[test]
    fn kill_ends_clients_and_servers_and_leaves_the_database_paused() {
        let mut scene = scene(", mode: transaction");
        let (busy, idle) = (scene.client(), scene.client());
        query(&mut scene, &busy);
        busy.borrow_mut().output.clear();
        idle.borrow_mut().output.clear();
        scene.engine.kill(DB);
        settled(&mut scene);
        let told = "57P01 terminating connection due to administrator command";
        assert_eq!(
            (said(&busy), said(&idle)),
            (told.to_owned(), told.to_owned())
        );
        let server = scene.world.servers[0].clone();
        assert!(is_closed(&server));
        assert!(scene.engine.is_paused(DB) && !scene.engine.is_paused(Scope::All));
        assert_eq!(scene.world.servers.len(), 2, "and its query was cancelled");
    }

    #[test]
    fn a_client_that_is_killed_takes_its_query_along() {
        let mut scene = scene(", mode: transaction, max_connections: 1");
        let (busy, idle) = (scene.client(), scene.client());
        query(&mut scene, &busy);
        let ids: Vec<u64> = scene.engine.clients.iter().map(|(_, c)| c.id).collect();
        assert!(!scene.engine.kill_client(99));
        assert!(scene.engine.kill_client(ids[0]));
        settled(&mut scene);
        let server = scene.world.servers[0].clone();
        assert!(is_closed(&server));
        query(&mut scene, &idle);
        scene.serve_last();
        let server = scene.world.servers.last().expect("another one").clone();
        assert!(!answer(&mut scene, &server, &idle).is_empty());
    }

    #[test]
    fn servers_are_connected_anew_as_they_are_released() {
        let mut scene = scene(", mode: transaction");
        let (busy, idle) = (scene.client(), scene.client());
        query(&mut scene, &busy);
        query(&mut scene, &idle);
        scene.serve_last();
        let servers = scene.world.servers.clone();
        answer(&mut scene, &servers[1], &idle);
        scene.engine.reconnect(DB);
        settled(&mut scene);
        assert!(is_closed(&servers[1]) && !is_closed(&servers[0]));
        assert_eq!(scene.engine.left_to_close(Scope::All), 1);
        answer(&mut scene, &servers[0], &busy);
        assert!(is_closed(&servers[0]));
        assert_eq!(scene.engine.left_to_close(DB), 0);
    }

    /// Nothing is read, nobody is accepted, no time runs out; but for the console.
    #[test]
    fn while_everything_is_suspended_nothing_moves() {
        let mut scene = scene(", mode: transaction, client_idle_timeout: 3s");
        let (busy, idle) = (scene.client(), scene.client());
        query(&mut scene, &busy);
        assert_eq!(scene.engine.suspend(), Ok(()));
        assert_eq!(scene.engine.suspend(), Err("already suspended/paused"));
        assert!(!scene.engine.pause(Scope::All));
        settled(&mut scene);
        assert_eq!(scene.engine.suspend_progress(), Progress::Done);
        let server = scene.world.servers[0].clone();
        assert!(
            answer(&mut scene, &server, &busy).is_empty(),
            "it is not read"
        );
        query(&mut scene, &idle);
        let newcomer = newcomer_waits(&mut scene);
        scene.wait(std::time::Duration::from_secs(8));
        assert!(
            !is_closed(&busy) && !is_closed(&idle),
            "nobody is idle for too long"
        );
        assert_eq!(scene.world.servers.len(), 1);
        assert!(newcomer.borrow().who.is_none(), "nobody is accepted");
        busy.borrow_mut().output.clear();
        assert!(scene.engine.resume(Scope::All));
        settled(&mut scene);
        assert!(
            !busy.borrow().output.is_empty(),
            "the answer goes on its way"
        );
        assert!(newcomer.borrow().who.is_some());
        assert_eq!(scene.engine.suspend_progress(), Progress::Undone);
    }

    #[test]
    fn who_does_not_take_what_was_sent_is_closed_after_suspend_timeout() {
        let mut scene = scene(", mode: transaction");
        let (busy, other) = (scene.client(), scene.client());
        query(&mut scene, &busy);
        busy.borrow_mut().stuck = true;
        let server = scene.world.servers[0].clone();
        answer(&mut scene, &server, &busy);
        scene.engine.suspend().expect("nothing is held");
        settled(&mut scene);
        assert_eq!(scene.engine.suspend_progress(), Progress::Waiting(1));
        scene.wait(std::time::Duration::from_secs(11));
        assert_eq!(scene.engine.suspend_progress(), Progress::Done);
        assert!(is_closed(&busy) && !is_closed(&other));
    }

    #[test]
    fn paused_databases_are_not_suspended() {
        let mut scene = scene("");
        scene.engine.pause(DB);
        let refused = Err("cannot suspend with paused databases");
        assert_eq!(scene.engine.suspend(), refused);
    }

    #[test]
    fn a_suspension_ends_with_the_last_console() {
        let config = dsn("").replace("pool:", "admin: {users: [me]}\npool:");
        let mut scene = Scene::with(&config, World::default());
        let console = scene.console();
        scene.engine.suspend().expect("nothing is held");
        settled(&mut scene);
        assert!(scene.engine.is_suspended());
        say(&mut scene, &console, frontend::terminate);
        settled(&mut scene);
        assert!(!scene.engine.is_suspended());
    }

    #[test]
    fn a_stop_that_the_console_orders_is_that_of_a_signal() {
        let mut scene = scene("");
        scene.engine.shut_down(Shutdown::WaitForClients);
        settled(&mut scene);
        assert!(scene.engine.is_stopping());
    }
}
