//! Peers: poolers behind the same address. A cancel request may come to any of them; its key says whose it is, and it is passed on.
//!
//! The layout of keys is PgBouncer's ([`crate::pool::cancel`]), so that both may stand in one group. A request is passed on over a
//! connection of its own, at most so many at a time for each peer, the rest wait. Keys that nobody knows are guesses: from one
//! address only so many are looked at.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

use super::admit::source;
use super::{
    Address, ClientKey, ClientState, Engine, Host, Input, Link, PoolKey, Server, ServerKey,
    ServerState, Who,
};
use crate::auth::{Attempt, Failures};
use crate::config::{HostPort, PeerConfig};
use crate::limits;
use crate::pool::cancel::{self, CancelKey};
use crate::pool::{Kind, Pool};
use crate::wire::frontend;

/// Stands for the process that we have succeeded; no peer has this number.
const PREDECESSOR: u16 = 0;

/// A request that is being passed on.
#[derive(Debug)]
pub struct Forward {
    /// To whom.
    peer: u16,
    /// The connection that brought it: closed when this one is.
    asker: ClientKey,
    /// What is sent, once the connection stands; empty when it is.
    packet: Vec<u8>,
}

/// What is under way to peers.
#[derive(Default)]
pub(super) struct Peers {
    /// Stands in for the pool that a server connection has.
    pool: Option<PoolKey>,
    under_way: BTreeMap<u16, usize>,
    waiting: VecDeque<Forward>,
    /// Where the process takes cancels that we have succeeded. It may have gone.
    predecessor: Option<PathBuf>,
    guesses: Failures,
}

/// What is known of a peer, for SHOW PEERS and SHOW PEER_POOLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPool<'a> {
    /// Its number.
    pub id: u16,
    /// What is configured.
    pub config: &'a PeerConfig,
    /// Requests that are being passed on.
    pub active: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
    /// Connections over which a request was sent.
    pub sent: usize,
    /// Connections that are being made.
    pub connecting: usize,
}

impl Engine {
    /// A cancel key for a client that is welcomed now. `own_pid`: that of the server that it has for good.
    pub(super) fn new_cancel_key(
        &mut self,
        own_pid: Option<u32>,
        minor: u32,
        host: &mut dyn Host,
    ) -> CancelKey {
        let peer = self.config.server.peer_id;
        if peer == 0 {
            let pid = own_pid.unwrap_or_else(|| {
                let is_taken = |pid| self.cancel_keys.is_taken(pid);
                super::queue::free_pid(is_taken, host)
            });
            return CancelKey::new(pid, minor, |secret| host.random(secret));
        }
        loop {
            let key = CancelKey::of_peer(peer, minor, |bytes| host.random(bytes));
            if self.owner_of(key.pid, key.secret()).is_none() {
                return key;
            }
        }
    }

    /// Whether a cancel request from there is looked at: not if too many have been guesses.
    pub(super) fn may_guess(&mut self, asker: ClientKey) -> bool {
        let (now, limit) = (self.now, limits::CANCEL_GUESSES_PER_S);
        let facts = self.clients.get(asker).map(|client| client.link.facts());
        facts.and_then(|facts| source(&facts)).is_none_or(|source| {
            let attempt = self.peers.guesses.attempt(source, now, limit);
            attempt == Attempt::Now
        })
    }

    /// A cancel request came whose key none of our clients has: it is a peer's, or a guess.
    pub(super) fn pass_on(
        &mut self,
        asker: ClientKey,
        pid: u32,
        secret: &[u8],
        host: &mut dyn Host,
    ) {
        let facts = self.clients.get(asker).map(|client| client.link.facts());
        if let Some(source) = facts.and_then(|facts| source(&facts)) {
            let limit = limits::CANCEL_GUESSES_PER_S;
            self.peers.guesses.note(source, self.now, limit);
        }
        let peer = cancel::peer_of(pid);
        let own = self.config.server.peer_id;
        let is_peers = own > 0 && peer != own;
        let known = is_peers && self.config.peers.contains_key(&peer);
        if !known && self.peers.predecessor.is_some() {
            return self.ask_predecessor(asker, pid, secret, host);
        }
        let refused = if !is_peers {
            Err("failed cancel request")
        } else if !known {
            Err("could not find peer to forward request to")
        } else {
            let why = "failed to forward cancel request because its TTL was exhausted";
            cancel::one_hop_less(secret).ok_or(why)
        };
        let secret = match refused {
            Ok(secret) => secret,
            Err(why) => {
                self.tally.cancel_asked("unknown");
                return self.close_client(asker, why, host);
            }
        };
        self.tally.cancel_asked("peer");
        let mut packet = Vec::new();
        frontend::cancel_request(&mut packet, pid, &secret);
        let forward = Forward {
            peer,
            asker,
            packet,
        };
        self.forward(forward, host);
    }

    /// Another process had our sockets before; its clients are still there.
    pub fn succeed(&mut self, cancels: PathBuf) {
        self.peers.predecessor = Some(cancels);
    }

    /// The client may be one of the process that we have succeeded.
    fn ask_predecessor(&mut self, asker: ClientKey, pid: u32, secret: &[u8], host: &mut dyn Host) {
        self.tally.cancel_asked("predecessor");
        let mut packet = Vec::new();
        frontend::cancel_request(&mut packet, pid, secret);
        let forward = Forward {
            peer: PREDECESSOR,
            asker,
            packet,
        };
        self.forward(forward, host);
    }

    /// Where a peer is, and how many requests may be under way to it.
    fn way_to(&self, peer: u16) -> Option<(HostPort, usize)> {
        if peer == PREDECESSOR {
            let cancels = self.peers.predecessor.clone()?;
            return Some((HostPort::Unix(cancels), limits::CANCELS_MAX));
        }
        let peer = self.config.peers.get(&peer)?;
        Some((peer.host.clone(), peer.pool_size))
    }

    /// Passes a request on, or lets it wait until there is a connection for it.
    fn forward(&mut self, forward: Forward, host: &mut dyn Host) {
        let under_way = self.under_way(forward.peer);
        let Some((_, most)) = self.way_to(forward.peer) else {
            return self.close_client(forward.asker, "peer removed", host);
        };
        if under_way < most {
            return self.begin_forward(forward, host);
        }
        if self.peers.waiting.len() >= limits::FORWARDS_WAITING_MAX {
            let why = "too many cancel requests wait to be passed on";
            return self.close_client(forward.asker, why, host);
        }
        self.enter_client(forward.asker, ClientState::AwaitingPeer);
        self.peers.waiting.push_back(forward);
    }

    fn under_way(&self, peer: u16) -> usize {
        self.peers.under_way.get(&peer).copied().unwrap_or(0)
    }

    fn begin_forward(&mut self, forward: Forward, host: &mut dyn Host) {
        let (peer, asker) = (forward.peer, forward.asker);
        let (Some((place, _)), Some(pool)) = (self.way_to(peer), self.peers_pool()) else {
            return self.close_client(asker, "peer removed", host);
        };
        let id = self.next_id();
        let state = ServerState::Forwarding(Box::new(forward));
        let kind = Rc::new(Kind::nobody());
        let key = self
            .servers
            .insert(Server::new(state, id, pool, kind, self.now));
        *self.peers.under_way.entry(peer).or_default() += 1;
        self.enter_client(asker, ClientState::Cancelling(key));
        self.arm_server(key);
        let found = match place {
            HostPort::Unix(path) => Some(Ok(vec![Address::Unix(path)])),
            HostPort::Tcp(name, port) => match name.parse() {
                Ok(ip) => Some(Ok(vec![Address::Tcp(SocketAddr::new(ip, port))])),
                Err(_) => {
                    let name = Rc::<str>::from(name);
                    if let Some(server) = self.servers.get_mut(key) {
                        (server.route.name, server.route.port) = (Some(name.clone()), port);
                    }
                    self.addresses_of(&name, port, key, host)
                }
            },
        };
        match found {
            Some(Ok(addresses)) => self.forward_to(key, addresses, host),
            Some(Err(why)) => self.close_server(key, &why, host),
            None => {} // the answer comes to `forward_to`
        }
    }

    /// What a server connection needs beside a peer: the deadlines of a pool, and nobody's name on its books.
    fn peers_pool(&mut self) -> Option<PoolKey> {
        if self.peers.pool.is_none() {
            let config = &self.config;
            let like = config
                .databases
                .values()
                .next()
                .or(config.fallback.as_ref())?;
            let mut pool = Pool::new("(peers)".to_owned(), like.clone(), false);
            pool.for_lookups = true;
            self.peers.pool = Some(self.pools.insert(pool));
        }
        self.peers.pool
    }

    /// The addresses of a peer are known, or the one before could not be reached: the next one is tried.
    pub(super) fn forward_to(
        &mut self,
        key: ServerKey,
        addresses: Vec<Address>,
        host: &mut dyn Host,
    ) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        server.route.addresses = addresses;
        let mut last = "its name has no address".to_owned();
        while let Some(address) = server.route.addresses.pop() {
            match host.dial(&address, key) {
                Ok(stream) => {
                    server.link = Some(Link::dialing(stream));
                    server.address = Some(address);
                    return self.list(Who::Server(key));
                }
                Err(why) => last = why,
            }
        }
        self.forward_failed(key, &last, host);
    }

    fn forward_failed(&mut self, key: ServerKey, why: &str, host: &mut dyn Host) {
        let forward = self.servers.get(key).map(|server| &server.state);
        if let Some(ServerState::Forwarding(forward)) = forward {
            match forward.peer {
                // As a rule it has gone.
                PREDECESSOR => log::debug!("the process that was here before: {why}"),
                peer => log::warn!("peer {peer} cannot be reached with a cancel request: {why}"),
            }
        }
        self.close_server(key, "failed to send cancel request", host);
    }

    /// Runs a connection to a peer: the request goes out, and then the peer closes.
    pub(super) fn run_forward(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let (Some(link), ServerState::Forwarding(forward)) = (&mut server.link, &mut server.state)
        else {
            return;
        };
        if link.can_flush() {
            link.flush();
        }
        if link.is_writable() && link.is_flushed() && !forward.packet.is_empty() {
            link.send(&forward.packet);
            // A connection that was refused takes it as well, and fails.
            if link.broken().is_none() {
                forward.packet.clear();
            }
        }
        let sent = forward.packet.is_empty();
        if !link.is_readable() {
            return;
        }
        let input = link.read(&mut self.buffer);
        let readable = link.is_readable();
        match input {
            Input::Closed(_) if sent => {
                self.close_server(key, "successfully sent cancel request", host)
            }
            Input::Closed(why) => {
                let rest = std::mem::take(&mut server.route.addresses);
                match rest.is_empty() {
                    true => self.forward_failed(key, &why.to_string(), host),
                    false => self.forward_to(key, rest, host),
                }
            }
            // Nothing that a peer says means anything.
            Input::Bytes(_) | Input::Nothing if readable => self.list(Who::Server(key)),
            Input::Bytes(_) | Input::Nothing => {}
        }
    }

    /// A connection to a peer is over, in whatever way.
    pub(super) fn forward_ended(&mut self, forward: &Forward, host: &mut dyn Host) {
        if let Some(count) = self.peers.under_way.get_mut(&forward.peer) {
            *count -= 1;
            if *count == 0 {
                self.peers.under_way.remove(&forward.peer);
            }
        }
        let waits = |client: &super::Client| matches!(client.state, ClientState::Cancelling(_));
        if self.clients.get(forward.asker).is_some_and(waits) {
            self.close_client(forward.asker, "cancel request done", host);
        }
        let waiting = &mut self.peers.waiting;
        let next = waiting.iter().position(|next| next.peer == forward.peer);
        if let Some(next) = next.and_then(|at| waiting.remove(at)) {
            let waits = |client: &super::Client| matches!(client.state, ClientState::AwaitingPeer);
            if self.clients.get(next.asker).is_some_and(waits) {
                self.forward(next, host);
            }
        }
    }

    /// A client has gone that waited for its request to be passed on.
    pub(super) fn stop_waiting_for_peer(&mut self, asker: ClientKey) {
        self.peers.waiting.retain(|forward| forward.asker != asker);
    }

    /// The peers that are configured, for SHOW PEERS and SHOW PEER_POOLS.
    pub fn peer_pools(&self) -> impl Iterator<Item = PeerPool<'_>> {
        let own = self.config.server.peer_id;
        let others = self.config.peers.iter().filter(move |(id, _)| **id != own);
        others.map(|(&id, config)| {
            let of_peer = || {
                self.servers.iter().filter_map(move |(_, server)| {
                    let ServerState::Forwarding(forward) = &server.state else {
                        return None;
                    };
                    (forward.peer == id).then_some(forward)
                })
            };
            let sent = of_peer().filter(|forward| forward.packet.is_empty());
            let (active, sent) = (of_peer().count(), sent.count());
            let waiting = self.peers.waiting.iter();
            PeerPool {
                id,
                config,
                active,
                waiting: waiting.filter(|forward| forward.peer == id).count(),
                sent,
                connecting: active - sent,
            }
        })
    }

    /// Asserts that what is under way to peers is counted.
    pub(super) fn check_peers(&self) {
        let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
        for (_, server) in self.servers.iter() {
            if let ServerState::Forwarding(forward) = &server.state {
                *counts.entry(forward.peer).or_default() += 1;
            }
        }
        assert_eq!(self.peers.under_way, counts, "what is under way to peers");
    }
}
