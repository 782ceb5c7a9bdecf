//! Names of hosts: what they stand for, for how long that is believed, and which connections wait to be told.
//!
//! Each name is asked for once at a time, however many wait. Several addresses of one name are used in rotation. While servers are
//! connected behind a name it is asked for anew whenever its answer has grown old, and servers at an address that is gone from
//! it are replaced. Knows no resolver: [`Host::resolve`] asks, [`super::Event::Resolved`] answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::{Address, Engine, Host, PoolKey, ServerKey, ServerState, Tick, Timer, Who, ms};
use crate::config::{Config, DnsConfig, HostPort};
use crate::limits;

/// Why a name could not be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// In libpq's words.
    pub text: String,
    /// No name server could say anything; the name may well exist.
    pub passing: bool,
}

/// All names that were asked for.
#[derive(Default)]
pub(super) struct Names {
    known: BTreeMap<Rc<str>, Name>,
    /// The wheel will look at them then.
    armed: Option<Tick>,
}

/// What is known of a name.
#[derive(Default)]
struct Name {
    /// The last good answer, in the order in which it came.
    addresses: Vec<SocketAddr>,
    /// When that came.
    answered_at: Tick,
    /// Why the last question got no good answer, if it did not.
    failure: Option<Unresolved>,
    /// New connections go by what is known until then.
    fresh_until: Tick,
    /// It is asked for again then, if servers are connected behind it.
    refresh_at: Option<Tick>,
    /// A question is under way.
    asked: bool,
    /// Who waits for its answer, and since when.
    waiting: Vec<(ServerKey, Tick)>,
    /// Connections that were begun by this name.
    turns: usize,
}

/// What is known of a name, for SHOW DNS_HOSTS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName<'a> {
    /// The name, as it is configured.
    pub name: &'a str,
    /// For how long new connections still go by what is known.
    pub ttl: Duration,
    /// The last good answer; ports are 0.
    pub addresses: &'a [SocketAddr],
    /// Why the last question got no good answer, if it did not.
    pub failure: Option<&'a str>,
    /// A question is under way.
    pub is_asked: bool,
}

/// What comes of asking for a name.
struct Found {
    /// What to try, in this order, or why there is nothing; `None`: an answer will come.
    addresses: Option<Result<Vec<SocketAddr>, String>>,
    /// Somebody has to ask.
    ask: bool,
}

impl Name {
    /// What to try, beginning with the one whose turn it is.
    fn take(&mut self, name: &str, now: Tick) -> Result<Vec<SocketAddr>, String> {
        if let Some(failure) = &self.failure
            && (!failure.passing || !self.serves(now))
        {
            return Err(failure.text.clone());
        }
        if self.addresses.is_empty() {
            return Err(format!("the host name \"{name}\" has no address"));
        }
        let mut addresses = self.addresses.clone();
        addresses.rotate_left(self.turns % self.addresses.len());
        self.turns = self.turns.wrapping_add(1);
        addresses.truncate(limits::ADDRESSES_MAX);
        Ok(addresses)
    }

    /// Whether the last good answer is young enough to go by when nobody knows better.
    fn serves(&self, now: Tick) -> bool {
        !self.addresses.is_empty()
            && now.since(self.answered_at) < limits::STALE_ADDRESSES_MS * 1_000
    }

    /// Takes an answer in.
    fn answered(
        &mut self,
        result: Result<Vec<SocketAddr>, Unresolved>,
        now: Tick,
        config: &DnsConfig,
    ) {
        self.asked = false;
        let again = config.max_ttl.max(ms(limits::RESOLVE_PAUSE_MS));
        self.refresh_at = (!config.max_ttl.is_zero()).then(|| now.plus(again));
        match result {
            Ok(addresses) => {
                // The same ones in another order are kept as they were: the rotation goes on.
                if sorted(&addresses) != sorted(&self.addresses) {
                    self.addresses = addresses;
                }
                (self.failure, self.answered_at) = (None, now);
                self.fresh_until = now.plus(config.max_ttl);
            }
            Err(failure) => {
                // Whoever finds no name server asks again at once: the pool has pauses of its own.
                let ttl = match failure.passing {
                    true => Duration::ZERO,
                    false => config.nxdomain_ttl,
                };
                self.fresh_until = now.plus(ttl);
                self.failure = Some(failure);
            }
        }
    }
}

fn sorted(addresses: &[SocketAddr]) -> BTreeSet<SocketAddr> {
    addresses.iter().copied().collect()
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

impl Names {
    fn look_up(&mut self, name: &Rc<str>, key: ServerKey, now: Tick) -> Found {
        let known = self.known.entry(name.clone()).or_default();
        let is_known = known.failure.is_some() || !known.addresses.is_empty();
        let fresh = is_known && now < known.fresh_until;
        // As long as no name server answers, nobody waits for that again where there is something to go by.
        let makeshift = known.failure.as_ref().is_some_and(|why| why.passing) && known.serves(now);
        let addresses = (fresh || makeshift).then(|| known.take(name, now));
        if addresses.is_none() {
            known.waiting.push((key, now));
        }
        Found {
            addresses,
            ask: !fresh && !std::mem::replace(&mut known.asked, true),
        }
    }

    /// When something is to be done about one of them; `limit`: how long an answer may take.
    fn next(&self, limit: Duration) -> Option<Tick> {
        let late = |name: &Name| {
            let (_, since) = name.waiting.first().filter(|_| !limit.is_zero())?;
            Some(since.plus(limit))
        };
        let times = self
            .known
            .values()
            .flat_map(|name| [late(name), name.refresh_at.filter(|_| !name.asked)]);
        times.flatten().min()
    }

    /// Whether an address is among those that a name stands for, as far as that is known.
    fn holds(&self, name: &str, address: &Address) -> bool {
        let Address::Tcp(address) = address else {
            return true;
        };
        self.known.get(name).is_none_or(|known| {
            known.addresses.is_empty() || known.addresses.contains(&with_port(*address, 0))
        })
    }
}

impl Engine {
    /// Finds the addresses of a host for a server connection. `None`: the answer will come; `Err`: why there is none.
    pub(super) fn addresses_of(
        &mut self,
        name: &Rc<str>,
        port: u16,
        key: ServerKey,
        host: &mut dyn Host,
    ) -> Option<Result<Vec<Address>, String>> {
        let found = self.hosts.look_up(name, key, self.now);
        if found.ask {
            host.resolve(name);
        }
        self.arm_names();
        let addresses = found.addresses?;
        Some(addresses.map(|addresses| to_try(addresses, port)))
    }

    /// A name was looked up.
    pub(super) fn resolved(
        &mut self,
        name: &str,
        result: Result<Vec<SocketAddr>, Unresolved>,
        host: &mut dyn Host,
    ) {
        let (now, config) = (self.now, self.config.server.dns);
        let Some(known) = self.hosts.known.get_mut(name) else {
            return;
        };
        let before = known.addresses.clone();
        let new_failure = result.as_ref().err().filter(|why| {
            let last = known.failure.as_ref().map(|failure| &failure.text);
            last != Some(&why.text)
        });
        if let Some(why) = new_failure {
            log::warn!("DNS lookup failed: {name}: {}", why.text);
        }
        known.answered(result, now, &config);
        let waiting = std::mem::take(&mut known.waiting);
        let after = known.addresses.clone();
        if sorted(&before) != sorted(&after) {
            if !before.is_empty() {
                let (new, old) = (listed(&after), listed(&before));
                log::info!("host name \"{name}\" stands for {new} now, it was {old}");
            }
            self.leave_addresses(name);
        }
        self.tell_waiting(name, waiting, host);
        self.arm_names();
    }

    /// Those who have waited for a name go on with what is known of it.
    fn tell_waiting(&mut self, name: &str, waiting: Vec<(ServerKey, Tick)>, host: &mut dyn Host) {
        for (key, _) in waiting {
            // It may be at another host by now, or gone.
            let waits = self.servers.get(key).is_some_and(|server| {
                matches!(
                    server.state,
                    ServerState::Resolving | ServerState::Forwarding(_)
                ) && server.link.is_none()
                    && server.route.addresses.is_empty()
                    && server.route.name.as_deref() == Some(name)
            });
            if !waits {
                continue;
            }
            self.guard(Who::Server(key), host, |engine, host| {
                let now = engine.now;
                let found = engine.hosts.known.get_mut(name);
                let found = found.map_or_else(|| Ok(Vec::new()), |known| known.take(name, now));
                engine.route_found(key, found, host);
            });
        }
    }

    fn route_found(
        &mut self,
        key: ServerKey,
        found: Result<Vec<SocketAddr>, String>,
        host: &mut dyn Host,
    ) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let found = found.map(|addresses| to_try(addresses, server.route.port));
        match (found, &server.state) {
            (Ok(addresses), ServerState::Forwarding(_)) => self.forward_to(key, addresses, host),
            (Err(why), ServerState::Forwarding(_)) => self.close_server(key, &why, host),
            (Ok(addresses), _) => {
                server.route.addresses = addresses;
                self.try_next(key, "", host);
            }
            (Err(why), _) => self.try_next(key, &why, host),
        }
    }

    /// The time of a question, or of an answer, may be over.
    pub(super) fn names_timer(&mut self, host: &mut dyn Host) {
        self.hosts.armed.take_if(|at| *at <= self.now);
        let limit = self.config.server.dns.query_timeout;
        let names: Vec<Rc<str>> = self.hosts.known.keys().cloned().collect();
        for name in names {
            self.end_waits(&name, limit, host);
            self.refresh(&name, host);
        }
        self.arm_names();
    }

    /// Those who have waited for too long go on without an answer. The question stays under way: nobody asks a second time.
    fn end_waits(&mut self, name: &Rc<str>, limit: Duration, host: &mut dyn Host) {
        let now = self.now;
        let Some(known) = self.hosts.known.get_mut(name) else {
            return;
        };
        let is_late = |(_, since): &(ServerKey, Tick)| !limit.is_zero() && since.plus(limit) <= now;
        let late: Vec<_> = known.waiting.extract_if(.., |one| is_late(one)).collect();
        if late.is_empty() {
            return;
        }
        known.failure = Some(Unresolved {
            text: format!(
                "could not translate host name \"{name}\": no answer within dns_query_timeout"
            ),
            passing: true,
        });
        log::warn!("DNS lookup failed: {name}: no answer within dns_query_timeout");
        self.tell_waiting(name, late, host);
    }

    /// Asks anew for a name whose answer has grown old, if servers are connected behind it.
    fn refresh(&mut self, name: &Rc<str>, host: &mut dyn Host) {
        let now = self.now;
        let due = |known: &Name| !known.asked && known.refresh_at.is_some_and(|at| at <= now);
        if !self.hosts.known.get(name).is_some_and(due) {
            return;
        }
        let behind = self
            .servers
            .iter()
            .any(|(_, server)| server.route.name.as_ref() == Some(name));
        if let Some(known) = self.hosts.known.get_mut(name) {
            known.refresh_at = None;
            known.asked = behind;
            if behind {
                host.resolve(name);
            }
        }
    }

    fn arm_names(&mut self) {
        let next = self.hosts.next(self.config.server.dns.query_timeout);
        if let Some(at) = next
            && self.hosts.armed.is_none_or(|armed| at < armed)
        {
            self.hosts.armed = Some(at);
            self.wheel.insert(at, Timer::Names);
        }
    }

    /// Forgets names that no configuration speaks of any more.
    pub(super) fn adopt_names(&mut self, config: &Config) {
        let pools = config.databases.values().chain(&config.fallback);
        let peers = config.peers.values().map(|peer| &peer.host);
        let configured: BTreeSet<&str> = pools
            .flat_map(|pool| &pool.backend.hosts)
            .chain(peers)
            .filter_map(|host| match host {
                HostPort::Tcp(name, _) => Some(name.as_str()),
                HostPort::Unix(_) => None,
            })
            .collect();
        self.hosts
            .known
            .retain(|name, known| known.asked || configured.contains(&**name));
    }

    /// Has the servers replaced that are at addresses which their host's name does not stand for any more.
    fn leave_addresses(&mut self, name: &str) {
        let behind = self.servers.keys().into_iter().filter(|key| {
            let server = self.servers.get(*key);
            server.is_some_and(|server| server.route.name.as_deref() == Some(name))
        });
        for key in behind.collect::<Vec<_>>() {
            let Some(server) = self.servers.get_mut(key) else {
                continue;
            };
            let holds = |address: &Address| self.hosts.holds(name, address);
            server.route.addresses.retain(holds);
            if !server.address.as_ref().is_none_or(holds) {
                self.retire_server(key);
            }
        }
    }

    fn retire_server(&mut self, key: ServerKey) {
        if let Some(server) = self.servers.get_mut(key) {
            server.recycle = true;
            self.unsettled.insert(server.pool);
            let pool = self.pools.get(server.pool);
            let fast = pool.is_some_and(|pool| pool.config.sizes.server_fast_close);
            if server.kind.is_replication() || fast {
                self.retired_in_use.push(key);
            }
        }
    }

    /// Has all servers of a pool replaced: the idle ones are closed in the next turn, before anybody is given one, the others when
    /// their clients leave them, or with `server_fast_close` when their transactions are over. Replication is ended.
    pub fn retire(&mut self, pool: PoolKey) {
        let of_pool = self.servers.iter().filter(|(_, s)| s.pool == pool);
        let keys: Vec<ServerKey> = of_pool.map(|(key, _)| key).collect();
        for key in keys {
            self.retire_server(key);
        }
    }

    /// The names of hosts that are known, for SHOW DNS_HOSTS. (Of zones, as in SHOW DNS_ZONES, nothing is known.)
    pub fn host_names(&self) -> impl Iterator<Item = HostName<'_>> {
        self.hosts.known.iter().map(|(name, known)| HostName {
            name,
            ttl: Duration::from_micros(known.fresh_until.since(self.now)),
            addresses: &known.addresses,
            failure: known.failure.as_ref().map(|failure| &*failure.text),
            is_asked: known.asked,
        })
    }

    /// Asserts that no server is kept idle at an address that its name has left, and that whoever waits for a name is told in time.
    pub(super) fn check_names(&self) {
        for (key, server) in self.servers.iter() {
            let idle = matches!(server.state, ServerState::Idle);
            if let (Some(name), Some(address)) = (&server.route.name, &server.address)
                && idle
                && !server.recycle
            {
                let holds = self.hosts.holds(name, address);
                assert!(
                    holds,
                    "server {key:?} is kept at {address}, which {name} has left"
                );
            }
        }
        for (name, known) in &self.hosts.known {
            let asked = known.asked || known.waiting.is_empty();
            assert!(asked, "somebody waits for {name}, and nobody asks");
        }
        let next = self.hosts.next(self.config.server.dns.query_timeout);
        let armed = next.is_none_or(|at| self.hosts.armed.is_some_and(|armed| armed <= at));
        assert!(armed, "nobody looks at the names in time");
    }
}

/// As a route has them: the next one to be tried is the last.
fn to_try(addresses: Vec<SocketAddr>, port: u16) -> Vec<Address> {
    let addresses = addresses.into_iter().rev();
    addresses
        .map(|address| Address::Tcp(with_port(address, port)))
        .collect()
}

fn listed(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(|at| at.ip().to_string()).collect();
    match texts.is_empty() {
        true => "nothing".to_owned(),
        false => texts.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Event;
    use super::super::scene::{Scene, Shared, World, is_closed};
    use super::*;
    use crate::wire::{backend, frontend};

    fn config(host: &str, server: &str) -> String {
        format!(
            "pool: {{dsn: 'postgres://me:secret@{host}/db?sslmode=disable', server_assignment: first_query, reset_query: null}}\n\
             server: {{{server}}}\nauth: {{type: trust}}\n"
        )
    }

    fn scene(host: &str, server: &str) -> Scene {
        Scene::with(&config(host, server), World::default())
    }

    /// All servers say what they have to say.
    fn serve_all(scene: &mut Scene) {
        for server in scene.world.servers.clone() {
            if !is_closed(&server) {
                scene.ready(&server);
            }
        }
    }

    /// The name servers answer.
    fn answer(scene: &mut Scene, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|ip| {
            let ip = ip.parse().expect("an address");
            SocketAddr::new(ip, 0)
        });
        let result = Ok(addresses.collect());
        let name = name.to_owned();
        scene.turn(vec![Event::Resolved { name, result }]);
        serve_all(scene);
    }

    fn fail(scene: &mut Scene, name: &str, passing: bool) {
        let text = "could not translate host name".to_owned();
        let result = Err(Unresolved { text, passing });
        let name = name.to_owned();
        scene.turn(vec![Event::Resolved { name, result }]);
    }

    /// Names that were asked for since the last look.
    fn asked(scene: &mut Scene) -> Vec<String> {
        std::mem::take(&mut scene.world.names)
    }

    /// Where servers were dialled since the last look.
    fn dialed(scene: &mut Scene) -> Vec<String> {
        let dialed = std::mem::take(&mut scene.world.dialed);
        dialed.iter().map(ToString::to_string).collect()
    }

    /// A client asks something, and the server that it gets for that answers; which one that is.
    fn query(scene: &mut Scene, client: &Shared) -> Option<Shared> {
        let mut query = Vec::new();
        frontend::query(&mut query, b"select 1");
        let servers = |scene: &Scene| scene.world.servers.clone();
        servers(scene)
            .iter()
            .for_each(|server| server.borrow_mut().output.clear());
        client.borrow_mut().input.extend(&query);
        scene.ready(client);
        serve_all(scene);
        let asked = |server: &Shared| server.borrow().output.ends_with(&query);
        let server = servers(scene).into_iter().find(asked)?;
        let mut answer = Vec::new();
        backend::write_command_complete(&mut answer, "SELECT 1");
        backend::write_ready(&mut answer);
        scene.passes(&server, &answer, client);
        Some(server)
    }

    fn leave(scene: &mut Scene, client: &Shared) {
        let mut bye = Vec::new();
        frontend::terminate(&mut bye);
        client.borrow_mut().input.extend(bye);
        scene.ready(client);
    }

    #[test]
    fn one_question_serves_all_who_wait_and_an_answer_those_who_come_in_time() {
        let mut scene = scene("db.example", "dns_max_ttl: 5s");
        let (first, second) = (scene.client(), scene.client());
        assert_eq!(asked(&mut scene), ["db.example"]);
        answer(&mut scene, "db.example", &["10.0.0.1"]);
        assert!(query(&mut scene, &first).is_some());
        assert!(query(&mut scene, &second).is_some());
        assert!(dialed(&mut scene).iter().all(|at| at == "10.0.0.1:5432"));
        assert!(asked(&mut scene).is_empty(), "it is known");
        scene.wait(ms(5_001));
        assert_eq!(asked(&mut scene), ["db.example"], "servers are behind it");
        let known: Vec<_> = scene.engine.host_names().collect();
        assert_eq!(
            (known.len(), known[0].name, known[0].is_asked),
            (1, "db.example", true)
        );
    }

    #[test]
    fn several_addresses_are_used_in_rotation() {
        let mut scene = scene("db.example", "");
        let clients: Vec<_> = (0..3).map(|_| scene.client()).collect();
        answer(&mut scene, "db.example", &["10.0.0.1", "10.0.0.2"]);
        for client in &clients {
            query(&mut scene, client);
        }
        assert_eq!(
            dialed(&mut scene),
            ["10.0.0.1:5432", "10.0.0.2:5432", "10.0.0.1:5432"]
        );
    }

    /// What PgBouncer leaves to the next connection: here a name with servers behind it is looked at by itself.
    #[test]
    fn a_changed_answer_retires_the_servers_behind_the_old_one() {
        let mut scene = scene("db.example", "dns_max_ttl: 5s");
        let (busy, idle) = (scene.client(), scene.client());
        answer(&mut scene, "db.example", &["10.0.0.1"]);
        let its = query(&mut scene, &busy).expect("a server");
        query(&mut scene, &idle);
        leave(&mut scene, &idle);
        let servers = scene.world.servers.clone();
        assert_eq!(scene.engine.server_count(), 2);
        scene.wait(ms(5_001));
        answer(&mut scene, "db.example", &["10.0.0.1"]);
        assert!(
            servers.iter().all(|server| !is_closed(server)),
            "nothing has changed"
        );
        scene.wait(ms(5_001));
        dialed(&mut scene);
        answer(&mut scene, "db.example", &["10.0.0.2"]);
        assert!(!is_closed(&its), "its client has it");
        assert_eq!(scene.engine.server_count(), 1, "the idle one is gone");
        leave(&mut scene, &busy);
        assert_eq!(
            scene.engine.server_count(),
            0,
            "nobody is left at the old address"
        );
        let client = scene.client();
        query(&mut scene, &client);
        assert_eq!(dialed(&mut scene), ["10.0.0.2:5432"]);
    }

    #[test]
    fn a_name_that_does_not_exist_is_not_asked_for_again_at_once() {
        let config = config("db.example,10.0.0.9", "dns_nxdomain_ttl: 5s");
        let turns = "reset_query: null, load_balance_hosts: round-robin";
        let config = config.replace("reset_query: null", turns);
        let mut scene = Scene::with(&config, World::default());
        let client = scene.client();
        fail(&mut scene, "db.example", false);
        serve_all(&mut scene);
        query(&mut scene, &client);
        assert_eq!(dialed(&mut scene)[0], "10.0.0.9:5432");
        assert_eq!(asked(&mut scene).len(), 1);
        // One begins with the other host, and one with this.
        let others = [scene.client(), scene.client()];
        for other in &others {
            query(&mut scene, other);
        }
        assert!(asked(&mut scene).is_empty(), "it is known not to exist");
        scene.wait(ms(5_001));
        let others = [scene.client(), scene.client()];
        for other in &others {
            query(&mut scene, other);
        }
        assert_eq!(asked(&mut scene), ["db.example"]);
    }

    /// Catalogue D1.
    #[test]
    fn while_no_name_server_answers_the_last_addresses_serve() {
        let mut scene = scene("db.example", "dns_max_ttl: 5s");
        let first = scene.client();
        answer(&mut scene, "db.example", &["10.0.0.1"]);
        assert!(query(&mut scene, &first).is_some());
        scene.wait(ms(5_001));
        fail(&mut scene, "db.example", true);
        dialed(&mut scene);
        let second = scene.client();
        assert!(query(&mut scene, &second).is_some());
        assert_eq!(dialed(&mut scene), ["10.0.0.1:5432"]);
        scene.wait(ms(limits::STALE_ADDRESSES_MS));
        fail(&mut scene, "db.example", true);
        let third = scene.client();
        query(&mut scene, &third);
        assert!(dialed(&mut scene).is_empty(), "it is too old");
    }

    #[test]
    fn who_waits_for_a_name_too_long_goes_on_to_the_next_host() {
        let mut scene = scene("db.example,10.0.0.9", "dns_query_timeout: 2s");
        let _client = scene.client();
        assert_eq!(asked(&mut scene), ["db.example"]);
        scene.wait(ms(2_001));
        assert_eq!(dialed(&mut scene), ["10.0.0.9:5432"]);
        // The late answer is for whom it may concern.
        answer(&mut scene, "db.example", &["10.0.0.1"]);
        assert!(dialed(&mut scene).is_empty());
    }

    /// Found by reading: who had waited for a name in vain and now waited for the next one took the answer for the first as if it
    /// were for the second.
    #[test]
    fn the_late_answer_for_one_name_is_not_taken_for_another() {
        let mut scene = scene("one.example,two.example", "dns_query_timeout: 2s");
        let _client = scene.client();
        scene.wait(ms(2_001));
        assert_eq!(asked(&mut scene), ["one.example", "two.example"]);
        answer(&mut scene, "one.example", &["10.0.0.1"]);
        assert!(dialed(&mut scene).is_empty());
        answer(&mut scene, "two.example", &["10.0.0.2"]);
        assert_eq!(dialed(&mut scene), ["10.0.0.2:5432"]);
    }

    #[test]
    fn all_servers_of_a_pool_can_be_retired() {
        let mut scene = scene("10.0.0.1", "");
        let (busy, idle) = (scene.client(), scene.client());
        query(&mut scene, &busy);
        query(&mut scene, &idle);
        let (key, _) = scene.engine.pools().iter().next().expect("the pool");
        scene.engine.retire(key);
        scene.turn(Vec::new());
        assert_eq!(scene.engine.server_count(), 2, "clients have them");
        leave(&mut scene, &idle);
        assert_eq!(scene.engine.server_count(), 1);
        leave(&mut scene, &busy);
        assert_eq!(scene.engine.server_count(), 0);
    }
}
