//! Cancels: from a CancelRequest to the query that it means, and only that one.
//!
//! A cancel travels over a connection of its own, beyond the pool's limit. It is sent when the server works on what the client
//! has asked for, it is dropped when the client waits for nothing any more, and a server is not handed on before all that were
//! aimed at it have ended. What waits in the queue is cancelled here, without any server.

use super::server::{Cancel, Stage};
use super::{
    ClientKey, ClientState, Engine, Host, Input, Link, PoolKey, Server, ServerKey, ServerState, Who,
};
use crate::limits;
use crate::pool::cancel;
use crate::relay::prepared::Unnamed;
use crate::wire::frontend;
use crate::wire::refusal::Refusal;

/// What a cancel would do if it were sent.
#[derive(Debug, PartialEq, Eq)]
enum Prospect {
    /// It hits the query that is meant.
    Hits,
    /// The server has something else to do first: a query of ours, or the end of another cancel.
    Waits,
    /// The client waits for nothing.
    Misses,
}

impl Engine {
    /// A CancelRequest came.
    pub(super) fn cancel_asked(
        &mut self,
        asker: ClientKey,
        pid: u32,
        secret: &[u8],
        host: &mut dyn Host,
    ) {
        if !self.may_guess(asker) {
            self.tally.cancel_asked("unknown");
            let why = "too many cancel requests with wrong keys came from this address";
            return self.close_client(asker, why, host);
        }
        let owner = self.owner_of(pid, secret);
        if owner.is_none() {
            return self.pass_on(asker, pid, secret, host);
        }
        let state = owner
            .and_then(|owner| self.clients.get(owner))
            .map(|client| &client.state);
        let (outcome, reason) = match (owner, state) {
            (Some(owner), Some(ClientState::Queued)) => {
                self.cancel_waiting(owner);
                ("queued", "cancel request done")
            }
            (Some(owner), Some(ClientState::Console(_))) => match self.cancel_console(owner) {
                true => ("console", "cancel request done"),
                false => ("idle", "cancel request for an idle client"),
            },
            (Some(owner), Some(state)) => match state.server() {
                Some(server) if self.forward_cancel(asker, owner, server, host) => {
                    return self.tally.cancel_asked("forwarded");
                }
                _ => ("idle", "cancel request for an idle client"),
            },
            (None, _) | (_, None) => ("unknown", "cancel request for nobody"),
        };
        self.tally.cancel_asked(outcome);
        self.close_client(asker, reason, host);
    }

    /// An operator cancels what a client runs, or waits with.
    pub(super) fn cancel_by_order(&mut self, key: ClientKey, host: &mut dyn Host) {
        match self.clients.get(key).map(|client| &client.state) {
            Some(ClientState::Queued) => self.cancel_waiting(key),
            Some(ClientState::Console(_)) => _ = self.cancel_console(key),
            Some(state) => {
                let server = state.server();
                let runs = |key: &ServerKey| {
                    let server = self.servers.get(*key);
                    server.is_some_and(|server| server.relay.can_be_cancelled())
                };
                if let Some(server) = server.filter(runs) {
                    let _ = self.cancel(server, Some(key), host);
                }
            }
            None => {}
        }
    }

    /// Whom a CancelRequest means.
    pub(super) fn owner_of(&self, pid: u32, secret: &[u8]) -> Option<ClientKey> {
        // A peer has counted in it how often it was passed on.
        let given = (self.config.server.peer_id > 0).then(|| cancel::as_given(secret));
        let has_it = |owner: &ClientKey| {
            let session = self.clients.get(*owner)?.session.as_deref()?;
            let key = session.cancel.as_ref()?;
            Some(
                key.has_secret(secret) || given.as_ref().is_some_and(|given| key.has_secret(given)),
            )
        };
        let mut owners = self.cancel_keys.owners(pid);
        owners.find(|owner| has_it(owner) == Some(true))
    }

    /// Cancels what a client waits with. It is answered as a server would that had just begun, and no server hears of it.
    fn cancel_waiting(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let mut out = Vec::new();
        Refusal::error(b"57014", "canceling statement due to user request").write(&mut out);
        client.link.send(&out);
        let simple = client.link.carry().first() == Some(&b'Q');
        client.link.reconsider();
        if let Some(session) = client.session.as_deref_mut() {
            session.skip.cancel();
            if simple {
                session.statements.unnamed = Unnamed::None; // with it every simple query begins
            }
        }
        if let Some(pool_key) = client.pool()
            && let Some(pool) = self.pools.get_mut(pool_key)
        {
            pool.stats.total.sent += out.len() as u64;
            self.pools.leave_queue(pool_key, key);
            self.unsettled.insert(pool_key);
        }
        self.enter_client(key, ClientState::Idle);
        self.list(Who::Client(key));
    }

    /// Whether a cancel is under way for this client now.
    fn forward_cancel(
        &mut self,
        asker: ClientKey,
        owner: ClientKey,
        victim: ServerKey,
        host: &mut dyn Host,
    ) -> bool {
        if self.prospect(Some(owner), victim) == Prospect::Misses {
            return false;
        }
        let waiting = self
            .cancels_of(victim)
            .find(|(_, cancel)| cancel.stage != Stage::Sent);
        let key = match waiting.map(|(key, _)| key) {
            Some(key) => Some(key),
            None => self.cancel(victim, Some(owner), host),
        };
        let Some(ServerState::Cancelling(cancel)) = key
            .and_then(|key| self.servers.get_mut(key))
            .map(|server| &mut server.state)
        else {
            return false;
        };
        if cancel.askers.len() >= limits::CANCEL_ASKERS_MAX {
            return false;
        }
        cancel.askers.push(asker);
        self.enter_client(asker, ClientState::Cancelling(victim));
        true
    }

    /// Begins a cancel against a server. `owner`: the client whose query is meant; `None`: whatever it runs.
    pub(super) fn cancel(
        &mut self,
        victim_key: ServerKey,
        owner: Option<ClientKey>,
        host: &mut dyn Host,
    ) -> Option<ServerKey> {
        let id = self.next_id();
        let key = self.servers.next_key();
        let victim = self.servers.get_mut(victim_key)?;
        let pool = self.pools.get_mut(victim.pool)?;
        let address = victim.address.clone().filter(|_| !victim.key.is_empty())?;
        if pool.cancels >= limits::CANCELS_MAX {
            log::warn!(
                "pool {}: a cancel request was dropped, {} are under way",
                pool.label(),
                pool.cancels
            );
            return None;
        }
        let stream = host.dial(&address, key).ok()?;
        pool.cancels += 1;
        victim.cancels += 1;
        let cancel = Cancel {
            victim: victim_key,
            owner,
            askers: Vec::new(),
            stage: Stage::Opening,
        };
        let mut server = Server::new(
            ServerState::Cancelling(Box::new(cancel)),
            id,
            victim.pool,
            victim.kind.clone(),
            self.now,
        );
        (server.pid, server.key, server.address) = (victim.pid, victim.key.clone(), Some(address));
        server.tls = victim.tls.clone();
        server.link = Some(Link::dialing(stream));
        let key = self.servers.insert(server);
        self.open_cancel(key, host);
        self.arm_server(key);
        Some(key)
    }

    /// The cancels under way against a server.
    fn cancels_of(&self, victim: ServerKey) -> impl Iterator<Item = (ServerKey, &Cancel)> {
        self.servers
            .iter()
            .filter_map(move |(key, server)| match &server.state {
                ServerState::Cancelling(cancel) if cancel.victim == victim => {
                    Some((key, &**cancel))
                }
                _ => None,
            })
    }

    fn prospect(&self, owner: Option<ClientKey>, victim_key: ServerKey) -> Prospect {
        let Some(owner) = owner else {
            return Prospect::Hits;
        };
        let held = |victim: &&Server| victim.state.client() == Some(owner);
        let (Some(victim), Some(client)) = (
            self.servers.get(victim_key).filter(held),
            self.clients.get(owner),
        ) else {
            return Prospect::Misses;
        };
        let relay = &victim.relay;
        // What the client waited in the queue with may still be here while our own query is not written.
        let has_asked = relay.owes_client() || !relay.is_touched() && client.link.has_carry();
        let another = || {
            self.cancels_of(victim_key)
                .any(|(_, cancel)| cancel.stage == Stage::Sent)
        };
        match () {
            () if !has_asked => Prospect::Misses,
            () if !relay.can_be_cancelled() || another() => Prospect::Waits,
            () => Prospect::Hits,
        }
    }

    /// Runs the connection of a cancel.
    pub(super) fn run_cancel(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(link) = self.servers.get_mut(key).and_then(|s| s.link.as_mut()) else {
            return;
        };
        if link.can_flush() {
            link.flush();
        }
        match self.next_of(key) {
            Some(Prospect::Misses) => {
                return self.close_server(key, "the query to be cancelled is over", host);
            }
            Some(Prospect::Hits) => self.send_cancel(key),
            Some(Prospect::Waits) | None => {}
        }
        self.read_cancel(key, host);
    }

    /// What a cancel that is not sent yet would do now.
    fn next_of(&self, key: ServerKey) -> Option<Prospect> {
        match &self.servers.get(key)?.state {
            ServerState::Cancelling(cancel) if cancel.stage != Stage::Sent => {
                Some(self.prospect(cancel.owner, cancel.victim))
            }
            _ => None,
        }
    }

    /// Sends a cancel if its connection is made.
    fn send_cancel(&mut self, key: ServerKey) {
        if !self.is_open(key) {
            return;
        }
        if let Some(server) = self.servers.get_mut(key)
            && let ServerState::Cancelling(cancel) = &mut server.state
            && let Some(link) = server.link.as_mut()
        {
            let mut packet = Vec::new();
            frontend::cancel_request(&mut packet, server.pid, &server.key);
            link.send(&packet);
            cancel.stage = Stage::Sent;
        }
    }

    /// Whether a cancel could be sent: its connection is made, that of TLS included.
    fn is_open(&self, key: ServerKey) -> bool {
        self.servers.get(key).is_some_and(|server| {
            let opening = matches!(&server.state, ServerState::Cancelling(cancel) if cancel.stage == Stage::Opening);
            let ready = |link: &Link| link.is_writable() && link.is_flushed();
            opening && server.link.as_ref().is_some_and(ready)
        })
    }

    /// Reads the connection of a cancel: the answer to its SSLRequest, the handshake, or the end.
    fn read_cancel(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(link) = self.servers.get_mut(key).and_then(|s| s.link.as_mut()) else {
            return;
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        let input = if link.is_readable() {
            link.read(&mut buffer)
        } else {
            Input::Nothing
        };
        let goes_on = link.is_readable() || link.can_flush();
        let agreed = matches!(input, Input::Bytes(count) if buffer.get(..count) == Some(b"S"));
        self.buffer = buffer;
        match input {
            Input::Bytes(_) => self.cancel_answered(key, agreed, host),
            Input::Nothing => {}
            Input::Closed(_) => {
                self.cancel_is_done(key);
                self.close_server(key, "cancel request done", host);
            }
        }
        // The end of a handshake is no event: what waited for it goes out now.
        if goes_on || self.is_open(key) && self.next_of(key) == Some(Prospect::Hits) {
            self.list(Who::Server(key));
        }
    }

    /// The server has closed the connection of a cancel.
    fn cancel_is_done(&mut self, key: ServerKey) {
        if let Some(server) = self.servers.get_mut(key)
            && let ServerState::Cancelling(cancel) = &mut server.state
        {
            cancel.stage = Stage::Done;
        }
    }

    /// Something has changed for a server: the cancels that wait for it look again.
    #[cold]
    pub(super) fn wake_cancels(&mut self, victim: ServerKey) {
        let waiting: Vec<ServerKey> = self
            .cancels_of(victim)
            .filter(|(_, cancel)| cancel.stage != Stage::Sent)
            .map(|(key, _)| key)
            .collect();
        for key in waiting {
            self.list(Who::Server(key));
        }
    }

    /// A cancel is over, in whatever way.
    pub(super) fn cancel_ended(&mut self, cancel: Cancel, pool_key: PoolKey, host: &mut dyn Host) {
        if let Some(pool) = self.pools.get_mut(pool_key) {
            pool.cancels -= 1;
            self.unsettled.insert(pool_key);
        }
        for asker in cancel.askers {
            if self
                .clients
                .get(asker)
                .is_some_and(|client| matches!(client.state, ClientState::Cancelling(_)))
            {
                self.close_client(asker, "cancel request done", host);
            }
        }
        let Some(victim) = self.servers.get_mut(cancel.victim) else {
            return;
        };
        victim.cancels -= 1;
        victim.cancel_lost |= cancel.stage == Stage::Sent;
        if victim.cancels > 0 {
            self.wake_cancels(cancel.victim);
        } else if matches!(victim.state, ServerState::Held) {
            self.release_rested(cancel.victim, host);
        }
    }

    /// Asserts that a server against which a cancel was sent is nobody's but the one's who is meant, and at nobody's hand.
    pub(super) fn check_cancels(&self) {
        for (key, server) in self.servers.iter() {
            let ServerState::Cancelling(cancel) = &server.state else {
                continue;
            };
            let victim = self.servers.get(cancel.victim);
            let Some(victim) = victim.filter(|_| cancel.stage == Stage::Sent) else {
                continue;
            };
            let client = victim.state.client();
            assert!(
                client.is_none_or(|client| Some(client) == cancel.owner)
                    && !matches!(victim.state, ServerState::Idle),
                "cancel {key:?} for {:?} is under way to a server that {client:?} has",
                cancel.owner
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Scene, Shared, World, is_closed};
    use super::*;
    use crate::wire::backend;

    /// One client of a pool that shares its servers, and a server that it was welcomed by.
    fn scene() -> (Scene, Shared, Shared) {
        let mut greeting = Vec::new();
        backend::write_authentication_ok(&mut greeting);
        backend::write_parameter_status(&mut greeting, b"TimeZone", b"UTC");
        backend::write_backend_key_data(&mut greeting, 1, b"key!");
        backend::write_ready(&mut greeting);
        let world = World {
            greeting,
            ..World::default()
        };
        let config = "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable', mode: transaction}\n\
                      auth: {type: trust}\n";
        let mut scene = Scene::with(config, world);
        let client = scene.client();
        let server = scene.world.servers[0].clone();
        (scene, client, server)
    }

    fn query() -> Vec<u8> {
        let mut query = Vec::new();
        frontend::query(&mut query, b"select 1");
        query
    }

    fn answer() -> Vec<u8> {
        let mut answer = Vec::new();
        backend::write_command_complete(&mut answer, "SELECT 1");
        backend::write_ready(&mut answer);
        answer
    }

    /// The request that a cancel's connection carries to the server.
    fn packet() -> Vec<u8> {
        let mut packet = Vec::new();
        frontend::cancel_request(&mut packet, 1, b"key!");
        packet
    }

    /// Somebody asks for the client's query to be cancelled.
    fn ask(scene: &mut Scene) -> Shared {
        let asker = Shared::default();
        let mut packet = Vec::new();
        let (_, client) = scene.engine.clients.iter().next().expect("the client");
        let session = client.session.as_deref().expect("it is logged in");
        let cancel = session.cancel.as_ref().expect("it was welcomed");
        frontend::cancel_request(&mut packet, cancel.pid, cancel.secret());
        asker.borrow_mut().input.extend(packet);
        scene.arrive(&asker);
        scene.ready(&asker);
        asker
    }

    /// The client asks something, and the server is first told which settings it wants.
    fn behind_settings(scene: &mut Scene, client: &Shared, server: &Shared) {
        let mut report = Vec::new();
        backend::write_parameter_status(&mut report, b"TimeZone", b"CET");
        scene.passes(server, &report, client);
        let sent = scene.passes(client, &query(), server);
        assert!(sent.ends_with(&query()) && sent.len() > query().len());
        assert!(String::from_utf8_lossy(&sent).contains("set_config"));
    }

    /// It was dropped: the server was not at the client's query yet.
    #[test]
    fn a_cancel_that_comes_while_settings_are_restored_waits_for_the_clients_query() {
        let (mut scene, client, server) = scene();
        behind_settings(&mut scene, &client, &server);
        let asker = ask(&mut scene);
        let cancel = scene.world.servers[1].clone();
        scene.ready(&cancel);
        assert_eq!(cancel.borrow().output, b"", "it would hit our own query");
        scene.passes(&server, &answer(), &client);
        assert_eq!(cancel.borrow().output, packet());
        assert!(!is_closed(&asker), "until the server has heard of it");
        assert_eq!(scene.passes(&server, &answer(), &client), answer());
    }

    #[test]
    fn a_cancel_that_waits_is_dropped_when_its_client_has_its_answer() {
        let (mut scene, client, server) = scene();
        behind_settings(&mut scene, &client, &server);
        let asker = ask(&mut scene);
        let cancel = scene.world.servers[1].clone();
        scene.ready(&cancel);
        let both = [answer(), answer()].concat();
        assert_eq!(scene.passes(&server, &both, &client), answer());
        assert_eq!(cancel.borrow().output, b"");
        assert!(is_closed(&cancel) && is_closed(&asker));
        scene.works(&client, &server);
    }

    /// Found by reading: the server went to the next client, whose query could be hit when the request came through at last.
    #[test]
    fn a_server_whose_cancel_may_still_come_goes_to_nobody_else() {
        let lost_at = |with_answer: bool| {
            let (mut scene, client, server) = scene();
            scene.passes(&client, &query(), &server);
            let asker = ask(&mut scene);
            let cancel = scene.world.servers[1].clone();
            scene.ready(&cancel);
            assert_eq!(cancel.borrow().output, packet());
            let later = |scene: &mut Scene| {
                scene.wait(std::time::Duration::from_secs(11)); // cancel_wait_timeout is 10 s
                assert!(is_closed(&cancel) && is_closed(&asker));
            };
            if !with_answer {
                later(&mut scene);
            }
            assert_eq!(scene.passes(&server, &answer(), &client), answer());
            if with_answer {
                assert!(!is_closed(&server), "it is held back");
                later(&mut scene);
            }
            assert!(is_closed(&server));
            assert!(!is_closed(&client));
        };
        lost_at(true);
        lost_at(false);
    }

    /// One client could hold all of a pool's.
    #[test]
    fn the_cancels_of_one_client_are_two_at_most() {
        let (mut scene, client, server) = scene();
        assert_eq!(scene.passes(&client, &query(), &server), query());
        let askers: Vec<Shared> = (0..40).map(|_| ask(&mut scene)).collect();
        assert_eq!(scene.world.servers.len(), 2, "they all mean the same");
        let waiting = askers.iter().filter(|asker| !is_closed(asker)).count();
        assert_eq!(waiting, limits::CANCEL_ASKERS_MAX);
        let first = scene.world.servers[1].clone();
        scene.ready(&first);
        assert_eq!(first.borrow().output, packet());
        // What is asked for now may mean the client's next query: not the same, but it waits for its turn.
        (0..40).for_each(|_| drop(ask(&mut scene)));
        assert_eq!(scene.world.servers.len(), 3);
        let second = scene.world.servers[2].clone();
        scene.ready(&second);
        assert_eq!(second.borrow().output, b"");
    }
}
