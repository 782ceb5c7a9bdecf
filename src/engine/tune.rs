//! What clients come with at startup: which servers they need for it, what they are welcomed with, and asking servers that.
//!
//! A client that shares its servers needs none to be logged in, if it is known what servers make of its settings. If it is not,
//! the first server of its kind that is free is asked, for all who come with the same; nobody holds it meanwhile.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::{ClientKey, ClientState, Engine, Host, PoolKey, ServerKey, ServerState, Session, Who};
use crate::config::PoolMode;
use crate::pool::startup_set::{self, Asked};
use crate::pool::{Kind, Known, Pool, Wants};
use crate::relay::prepared::Slot;
use crate::relay::{Settings, Vars};
use crate::startup::Welcome;
use crate::tune::{Tuning, Verdict};
use crate::wire::refusal::{Blame, Refusal, Severity};

impl Engine {
    /// A client that is who it says goes into its pool: it is welcomed at once, or waits in the queue.
    pub(super) fn enter_queue(&mut self, key: ClientKey, pool_key: PoolKey, host: &mut dyn Host) {
        let (Some(pool), Some(client)) = (self.pools.get(pool_key), self.clients.get_mut(key))
        else {
            return;
        };
        let Some(session) = client.session.as_deref_mut() else {
            return;
        };
        let config = pool.config.clone();
        let role = config.backend.user.as_ref().unwrap_or(&session.claim.user);
        session.mode = self.pools.mode(&config, role.as_bytes());
        let Some(pool) = self.pools.get_mut(pool_key) else {
            return;
        };
        let (kind, settings) = match set_of(pool_key, pool, session, true) {
            Ok(set) => set,
            Err(refusal) => return self.refuse(key, refusal, host),
        };
        if kind.is_replication() {
            session.mode = PoolMode::Session;
        }
        (session.kind, session.epoch) = (Some(kind.clone()), pool.epoch);
        pool.stats.total.logins += 1;
        let welcome = pool.welcome_with(&kind, &settings);
        session.counted = true;
        self.pools.entered(pool_key, session.claim.user.as_bytes());
        let wants = match session.mode {
            PoolMode::Session => Wants::Server,
            PoolMode::Transaction | PoolMode::Statement => Wants::Welcome(settings),
        };
        let frugal = client.is_frugal(&config) && !kind.is_replication();
        let is_known = welcome.is_some();
        if let Some(vars) = welcome.filter(|_| frugal) {
            self.welcome(key, &vars, None, host);
            if config.sizes.min_pool_size > 0 {
                self.unsettled.insert(pool_key);
            }
            return self.enter_client(key, ClientState::Idle);
        }
        // PgBouncer would have welcomed it without a server, and told it so at its first query.
        let fails_fast = config.sizes.server_fast_fail && wants == Wants::Server && is_known;
        if fails_fast && let Some(refusal) = self.fails_fast(pool_key, &kind, host) {
            return self.refuse(key, refusal, host);
        }
        self.wait(key, pool_key, &kind, wants, ClientState::AwaitingWelcome);
    }

    /// A client that is logged in waits for a server.
    #[inline(never)]
    pub(super) fn wait_for_server(
        &mut self,
        key: ClientKey,
        pool_key: PoolKey,
        host: &mut dyn Host,
    ) {
        let (Some(pool), Some(client)) = (self.pools.get_mut(pool_key), self.clients.get_mut(key))
        else {
            return;
        };
        let Some(session) = client.session.as_deref_mut() else {
            return;
        };
        // One whose parameters are too long together with those of the pool by now goes on as it was.
        if session.epoch != pool.epoch
            && let Ok((kind, _)) = set_of(pool_key, pool, session, false)
        {
            (session.kind, session.epoch) = (Some(kind), pool.epoch);
        }
        let Some(kind) = session.kind.clone() else {
            return;
        };
        let fails_fast = pool.config.sizes.server_fast_fail;
        if self.gives_out_nothing() {
            return self.refuse(key, super::shutting_down(), host);
        }
        if fails_fast && let Some(refusal) = self.fails_fast(pool_key, &kind, host) {
            return self.refuse(key, refusal, host);
        }
        if self.unsettled.is_empty()
            && let Some(server) = self.pools.at_hand(pool_key, &kind)
            && self.is_fit(server, host)
            && self.is_clean_for(key, server, host)
        {
            return self.pair(key, server, self.now, host);
        }
        self.wait(key, pool_key, &kind, Wants::Server, ClientState::Queued);
    }

    /// `server_fast_fail`: why a client that asks for a server need not wait for one, since none can be reached. Whether that is
    /// still so is found out for the next one; where room has to be made for trying, that is the queue's work, and the client waits.
    fn fails_fast(
        &mut self,
        pool_key: PoolKey,
        kind: &Rc<Kind>,
        host: &mut dyn Host,
    ) -> Option<Refusal> {
        let pool = self.pools.get(pool_key)?;
        let failure = pool.failure.as_ref()?;
        if pool.held || pool.total() > pool.connecting() {
            return None;
        }
        let has_room = self.pools.has_room(pool_key, &kind.user);
        let tries = pool.may_connect(self.now);
        if tries && !has_room && pool.connecting() == 0 {
            return None;
        }
        let refusal = failure.refusal.clone();
        let text = format!(
            "server login has been failing, cached error: {} (server_login_retry)",
            refusal.text()
        );
        if tries && has_room {
            self.dial(pool_key, kind.clone(), host);
        }
        Some(Refusal {
            message: text.into_bytes(),
            severity: Severity::Fatal,
            ..refusal
        })
    }

    /// Puts a client into its pool's queue.
    fn wait(
        &mut self,
        client: ClientKey,
        pool: PoolKey,
        kind: &Rc<Kind>,
        wants: Wants,
        state: ClientState,
    ) {
        self.pools.enqueue(pool, client, kind, wants, self.now);
        self.unsettled.insert(pool);
        self.enter_client(client, state);
    }

    /// All who wait in a pool have asked for something as it was seen then: what do they need now?
    pub(super) fn ask_all_anew(&mut self, pool_key: PoolKey) {
        if let Some(pool) = self.pools.get(pool_key) {
            self.ask_anew(pool_key, pool.waiting_clients());
        }
    }

    fn ask_anew(&mut self, pool_key: PoolKey, waiting: Vec<ClientKey>) {
        for key in waiting {
            let (Some(pool), Some(client)) =
                (self.pools.get_mut(pool_key), self.clients.get_mut(key))
            else {
                continue;
            };
            if let Some(session) = client.session.as_deref_mut()
                && let Ok((kind, settings)) = set_of(pool_key, pool, session, false)
            {
                (session.kind, session.epoch) = (Some(kind.clone()), pool.epoch);
                self.pools.wait_for(pool_key, key, &kind, &settings);
            }
        }
        self.unsettled.insert(pool_key);
    }

    /// A server has let us in: what does it say of itself, and so of all of its kind?
    pub(super) fn learn(&mut self, key: ServerKey, welcome: Welcome) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let (pool_key, kind) = (server.pool, server.kind.clone());
        (server.pid, server.key) = (welcome.pid, welcome.key);
        (server.vars, server.notices) = (Rc::new(welcome.vars), welcome.notices);
        server.base = Some(server.vars.clone());
        // One of another backend than the present one has nothing to tell.
        let Some(pool) = self.pools.get_mut(pool_key).filter(|_| !server.recycle) else {
            return;
        };
        pool.learn(&kind, &server.vars);
        // All that report the same share it.
        if let Some(vars) = pool.welcome(&kind) {
            (server.vars, server.base) = (vars.clone(), Some(vars));
        }
        if server.vars.are_named(pool.reported()) || kind.is_replication() {
            return; // so do all others, or more; or nobody shares it
        }
        let names = self.reported_by_all(pool_key, key);
        if let Some(pool) = self.pools.get_mut(pool_key)
            && pool.all_report(names)
        {
            self.ask_all_anew(pool_key);
        }
    }

    /// What the new server of a pool and all others report: whoever counts on it may get any of them.
    fn reported_by_all(&self, pool: PoolKey, new: ServerKey) -> BTreeSet<Vec<u8>> {
        let base = self
            .servers
            .get(new)
            .and_then(|server| server.base.as_deref());
        let names = base.into_iter().flat_map(Vars::iter);
        let mut names: BTreeSet<Vec<u8>> =
            names.map(|(name, _)| name.to_ascii_lowercase()).collect();
        let of_pool = self
            .servers
            .iter()
            .filter(|(_, server)| server.pool == pool);
        for base in of_pool.filter_map(|(_, server)| server.base.as_deref()) {
            names.retain(|name| base.get(name).is_some());
        }
        names
    }

    /// Welcomes those who wait for nothing else, once it is known what with.
    pub(super) fn welcome_waiting(&mut self, pool_key: PoolKey, host: &mut dyn Host) {
        for (waiter, vars) in self.pools.take_welcomed(pool_key) {
            if let Some(pool) = self.pools.get_mut(pool_key) {
                let waited = self.now.since(waiter.since);
                pool.stats.total.wait_us += waited;
                pool.stats.times.wait.note(waited);
            }
            self.enter_client(waiter.client, ClientState::Idle);
            self.welcome(waiter.client, &vars, None, host);
            self.list(Who::Client(waiter.client));
        }
    }

    /// Asks an idle server what it makes of a client's settings.
    pub(super) fn tune(&mut self, key: ServerKey, settings: Rc<Settings>) {
        let now = self.now;
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let Some(pool) = self.pools.get_mut(server.pool) else {
            return;
        };
        // As it was started; it has said so by now.
        let base = server.base.clone().unwrap_or_else(|| server.vars.clone());
        if settings.is_empty() {
            pool.learn(&server.kind, &base);
            self.unsettled.insert(server.pool);
            return;
        }
        let (pool_key, kind, asked) = (server.pool, server.kind.clone(), settings.clone());
        pool.stats.total.idle_us += now.since(server.since);
        pool.stats.total.idle_ends += 1;
        let mut out = Vec::new();
        let tuning = Tuning::begin(&server.vars, &base, settings, &mut out);
        if let Some(link) = server.link.as_mut() {
            link.send(&out);
        }
        server.statements.slot = Slot::Empty; // a simple query ends it
        server.shared = true; // who has a server for a session does not get one on which settings were tried
        self.pools.asking(pool_key, key, &kind, &asked);
        self.enter_server(key, ServerState::Tuning(Box::new(tuning)));
        self.list(Who::Server(key));
    }

    /// A server has said what it makes of settings, or not yet.
    pub(super) fn tuned(&mut self, key: ServerKey, verdict: Verdict, host: &mut dyn Host) {
        let Some(server) = self.servers.get(key) else {
            return;
        };
        let (ServerState::Tuning(tuning), Some(base)) = (&server.state, server.base.clone()) else {
            return;
        };
        let (pool_key, kind) = (server.pool, server.kind.clone());
        let (settings, vars) = (tuning.settings.clone(), server.vars.clone());
        match verdict {
            Verdict::More => return,
            Verdict::Unfit(why) => return self.server_unfit(key, &why, host),
            // Of another backend than the present one.
            _ if server.recycle => {}
            Verdict::Taken => self.known(pool_key, &kind, &settings, Known::Taken { base, vars }),
            Verdict::Refused(refusal) => {
                // If the value itself is wrong, a server that is started with it says the same. If not, it cannot be set, or
                // not like this: one that is started with it may take it, or say why it does not.
                if refusal.sqlstate != *b"22023" {
                    log::debug!("startup parameters cannot be set: {}", refusal.text());
                    self.known(pool_key, &kind, &settings, Known::NotBySet);
                    let askers = self.pools.askers(pool_key, &kind, &settings);
                    self.ask_anew(pool_key, askers);
                }
                let refusal = Refusal {
                    severity: Severity::Fatal,
                    blame: Blame::Client,
                    ..refusal
                };
                for waiter in self.pools.take_askers(pool_key, &kind, &settings) {
                    self.refuse(waiter.client, refusal.clone(), host);
                }
            }
        }
        self.reset_done(key, host);
    }

    fn known(&mut self, pool: PoolKey, kind: &Rc<Kind>, settings: &Rc<Settings>, known: Known) {
        self.unsettled.insert(pool);
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.know(kind, settings, known);
        }
    }
}

/// What a client needs, as things are known now: servers of this kind, with these settings. `notes`: for the next who comes with the same.
fn set_of(
    pool_key: PoolKey,
    pool: &mut Pool,
    session: &Session,
    notes: bool,
) -> Result<(Rc<Kind>, Rc<Settings>), Refusal> {
    let understood = session.claim.understood(pool_key, pool);
    if session.mode != PoolMode::Session
        && let Some((kind, settings)) = understood
        && !matches!(pool.welcomes.get(&kind, &settings), Some(Known::NotBySet))
    {
        return Ok((pool.ask(kind), settings));
    }
    let ignored = &pool.config.sessions.ignore_startup_parameters;
    let heeded = startup_set::heeded(session.claim.parameters(), ignored, pool.reported());
    let parameters: Vec<(&[u8], &[u8])> = heeded
        .iter()
        .map(|(name, value)| (*name, &value[..]))
        .collect();
    let asked = Asked {
        user: &session.claim.user,
        database: &session.claim.database,
        parameters: &parameters,
    };
    let backend = &pool.config.backend;
    if session.mode == PoolMode::Session || startup_set::is_for_replication(backend, asked) {
        let whole = startup_set::whole(backend, asked)?;
        return Ok((pool.ask(Rc::new(whole)), Rc::default()));
    }
    let (kind, settings) = startup_set::shared(backend, asked, pool.reported())?;
    let (kind, settings) = (Rc::new(kind), Rc::new(settings));
    if let Some(Known::NotBySet) = pool.welcomes.get(&kind, &settings) {
        let whole = startup_set::whole(backend, asked)?;
        return Ok((pool.ask(Rc::new(whole)), Rc::default()));
    }
    let kind = pool.ask(kind);
    if notes {
        session.claim.note(pool_key, pool, &kind, &settings);
    }
    Ok((kind, settings))
}

#[cfg(test)]
mod tests {
    use super::super::client::Place;
    use super::super::ms;
    use super::super::scene::{Scene, Shared, World, is_closed};
    use crate::wire::backend;

    const CONFIG: &str = "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable', mode: transaction, max_connections: 1}\n\
                          auth: {type: trust}\n";
    const CET: &[(&str, &str)] = &[("TimeZone", "CET")];

    /// What a server says that reports its time zone.
    fn greeting(zone: &[u8]) -> Vec<u8> {
        let mut greeting = Vec::new();
        backend::write_authentication_ok(&mut greeting);
        backend::write_parameter_status(&mut greeting, b"TimeZone", zone);
        backend::write_backend_key_data(&mut greeting, 1, b"key!");
        backend::write_ready(&mut greeting);
        greeting
    }

    fn scene() -> Scene {
        let world = World {
            greeting: greeting(b"UTC"),
            ..World::default()
        };
        let mut scene = Scene::with(CONFIG, world);
        scene.engine.contain(false);
        scene
    }

    fn said(pipe: &Shared) -> String {
        String::from_utf8_lossy(&pipe.borrow().output).into_owned()
    }

    fn asked(scene: &Scene, server: usize) -> usize {
        said(&scene.world.servers[server])
            .matches("set_config")
            .count()
    }

    fn answer(scene: &mut Scene, server: usize) {
        let mut answer = Vec::new();
        backend::write_command_complete(&mut answer, "SELECT 1");
        backend::write_parameter_status(&mut answer, b"TimeZone", b"CET");
        backend::write_ready(&mut answer);
        let server = scene.world.servers[server].clone();
        server.borrow_mut().input.extend(answer);
        scene.ready(&server);
    }

    #[test]
    fn all_who_come_with_the_same_are_welcomed_by_one_answer() {
        let mut scene = scene();
        let clients = [scene.client_with("db", CET), scene.client_with("db", CET)];
        assert_eq!((scene.world.servers.len(), asked(&scene, 0)), (1, 1));
        answer(&mut scene, 0);
        for client in &clients {
            assert!(said(client).contains("TimeZone\0CET\0"), "{}", said(client));
        }
        let late = scene.client_with("db", CET);
        assert!(said(&late).contains("TimeZone\0CET\0"));
        assert_eq!(asked(&scene, 0), 1);
    }

    #[test]
    fn a_server_that_is_lost_while_it_is_asked_leaves_the_question_to_the_next() {
        let mut scene = scene();
        let client = scene.client_with("db", CET);
        let server = scene.world.servers[0].clone();
        server
            .borrow_mut()
            .input
            .extend(b"E\0\0\0\x19SFATAL\0VFATAL\0C57P01\0\0");
        scene.ready(&server);
        assert!(is_closed(&server), "{}", said(&server));
        let next = scene.world.servers[1].clone();
        scene.ready(&next);
        answer(&mut scene, 1);
        assert!(said(&client).contains("TimeZone\0CET\0"));
    }

    #[test]
    fn a_server_that_does_not_answer_is_given_up_after_connect_timeout() {
        let mut scene = scene();
        let client = scene.client_with("db", CET);
        let server = scene.world.servers[0].clone();
        scene.wait(ms(14_000));
        assert!(!is_closed(&server));
        scene.wait(ms(2_000));
        assert!(is_closed(&server));
        let next = scene.world.servers[1].clone();
        scene.ready(&next);
        answer(&mut scene, 1);
        assert!(said(&client).contains("TimeZone\0CET\0"));
    }

    /// Nobody holds the server meanwhile: it is the next client's, and what was learnt is kept.
    #[test]
    fn a_client_that_goes_while_its_server_is_asked_costs_nothing() {
        let mut scene = scene();
        let client = scene.client_with("db", CET);
        let gone = super::super::Ready {
            read: true,
            write: true,
            hung_up: true,
        };
        let who = client.borrow().who.expect("the engine knows it");
        scene.turn(vec![super::super::Event::Ready(who, gone)]);
        answer(&mut scene, 0);
        let next = scene.client_with("db", CET);
        assert!(said(&next).contains("TimeZone\0CET\0"));
        assert_eq!((scene.world.servers.len(), asked(&scene, 0)), (1, 1));
    }

    /// What a server that belongs to another backend by now has answered is no more than that.
    #[test]
    fn a_reload_while_a_server_is_asked_makes_the_new_one_be_asked() {
        let mut scene = scene();
        let client = scene.client_with("db", CET);
        scene.reload(&CONFIG.replace("127.0.0.1", "127.0.0.2"));
        answer(&mut scene, 0);
        assert!(!said(&client).contains("TimeZone\0CET\0"));
        let next = scene.world.servers[1].clone();
        scene.ready(&next);
        assert_eq!(asked(&scene, 1), 1);
        answer(&mut scene, 1);
        assert!(said(&client).contains("TimeZone\0CET\0"));
    }

    /// It would be asked for a setting whose result it never tells: it must have been started with it.
    #[test]
    fn a_parameter_that_any_server_of_the_pool_does_not_report_is_given_at_startup() {
        let mut scene = scene();
        let _client = scene.client_with("db", &[("DateStyle", "SQL"), ("TimeZone", "CET")]);
        let packets: Vec<String> = scene.world.servers.iter().map(said).collect();
        assert!(!packets[0].contains("datestyle"), "{packets:?}");
        assert!(is_closed(&scene.world.servers[0]), "it made room");
        let next = scene.world.servers[1].clone();
        scene.ready(&next);
        assert!(said(&next).contains("datestyle\0SQL\0"), "{}", said(&next));
        assert!(!said(&next).contains("DateStyle"), "{}", said(&next));
        answer(&mut scene, 1);
        assert!(said(&_client).contains("TimeZone\0CET\0"));
    }

    /// The next one is in a session of its own: it must not meet what others came with.
    #[test]
    fn a_server_on_which_settings_were_tried_is_nobodys_for_a_session() {
        let mut scene = scene();
        let _client = scene.client_with("db", CET);
        answer(&mut scene, 0);
        scene.reload(&CONFIG.replace("mode: transaction", "mode: session"));
        let alone = scene.client_with("db", &[]);
        assert!(is_closed(&scene.world.servers[0]));
        let next = scene.world.servers[1].clone();
        scene.ready(&next);
        assert!(said(&alone).contains("TimeZone\0UTC\0"), "{}", said(&alone));
    }

    /// What was understood of the same words before counts no more.
    #[test]
    fn a_reload_counts_for_the_next_who_comes_with_the_same() {
        let mut scene = scene();
        let first = scene.client_with("db", CET);
        answer(&mut scene, 0);
        let ignoring = CONFIG.replace(
            "mode: transaction",
            "mode: transaction, ignore_startup_parameters: [timezone]",
        );
        for (config, zone) in [(&ignoring[..], "UTC"), (CONFIG, "CET"), (CONFIG, "CET")] {
            scene.reload(config);
            for _ in 0..2 {
                let next = scene.client_with("db", CET);
                assert!(
                    said(&next).contains(&format!("TimeZone\0{zone}\0")),
                    "{zone}"
                );
            }
        }
        assert!(said(&first).contains("TimeZone\0CET\0"));
        assert_eq!((scene.world.servers.len(), asked(&scene, 0)), (1, 1));
    }

    /// Thousands of clients may differ in their `application_name`.
    #[test]
    fn what_was_understood_of_few_is_forgotten_when_somebody_else_comes() {
        let mut scene = scene();
        let keeps = |scene: &Scene| {
            let sessions = scene.engine.clients.iter();
            let sessions = sessions.filter_map(|(_, client)| client.session.as_deref());
            let kept = sessions.filter(|session| {
                let Place::Pool(key) = session.place else {
                    return false;
                };
                let pool = scene.engine.pools.get(key).expect("its pool");
                session.claim.understood(key, pool).is_some()
            });
            kept.count()
        };
        let mut clients = vec![scene.client_with("db", CET)];
        answer(&mut scene, 0);
        clients.push(scene.client_with("db", CET)); // by now it is known what servers report
        assert_eq!(keeps(&scene), 2, "the two who came last");
        clients.push(scene.client_with("db", &[]));
        assert_eq!(keeps(&scene), 1, "the one who came last");
        for _ in 0..6 {
            clients.push(scene.client_with("db", CET));
        }
        assert_eq!(keeps(&scene), 8, "all who say the same");
        clients.push(scene.client_with("db", &[]));
        assert_eq!(keeps(&scene), 10, "the eight as well");
        assert!(!clients.iter().any(is_closed));
    }

    /// Section `users` decides who shares servers, and so whose settings are tried on one.
    #[test]
    fn a_user_with_sessions_of_its_own_brings_its_settings_to_the_startup() {
        for (of_pool, of_user) in [("transaction", "session"), ("session", "transaction")] {
            let config = CONFIG.replace("mode: transaction", &format!("mode: {of_pool}"));
            let world = World {
                greeting: greeting(b"UTC"),
                ..World::default()
            };
            let users = format!("users: {{me: {{mode: {of_user}}}}}\n");
            let mut scene = Scene::with(&format!("{config}{users}"), world);
            let _client = scene.client_with("db", CET);
            let alone = of_user == "session";
            assert_eq!(asked(&scene, 0), usize::from(!alone), "{of_user}");
            let at_startup = said(&scene.world.servers[0]).contains("timezone\0CET\0");
            assert_eq!(at_startup, alone, "{of_user}");
        }
    }
}
