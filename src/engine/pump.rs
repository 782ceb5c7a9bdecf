//! Moves bytes between a client and its server. The hot path; the only place where a pair's state is looked at on both ends.
//!
//! One rule of backpressure: if the peer's outbox is not empty, we do not read. One read per direction, then the others' turn.

use super::close::Departure;
use super::{
    Client, ClientKey, ClientState, Engine, Host, Input, Link, Server, ServerKey, Tick, Who, Why,
};
use crate::relay::{Relay, Then};
use crate::stats::Counters;
use crate::wire::backend::TransactionStatus;
use crate::wire::refusal::Refusal;

/// What came of running a pair.
enum Pumped {
    /// Nothing more can be done now.
    Waits,
    /// More can be done at once.
    GoesOn,
    /// The client has left.
    ClientLeft(Departure),
    /// The client broke the rules.
    ClientBroke(Refusal),
    /// The server has gone.
    ServerLeft(Why),
    /// The server broke the rules.
    ServerBroke(Refusal),
    /// The client closed its side while it is still owed something.
    HalfClosed,
}

impl Engine {
    /// Runs a client and its server.
    pub(super) fn run_pair(
        &mut self,
        client_key: ClientKey,
        server_key: ServerKey,
        host: &mut dyn Host,
    ) {
        let (Some(client), Some(server)) = (
            self.clients.get_mut(client_key),
            self.servers.get_mut(server_key),
        ) else {
            return;
        };
        let Some(pool) = self.pools.get_mut(server.pool) else {
            return;
        };
        let pumped = pump(
            client,
            server,
            &mut self.buffer,
            &mut pool.stats.total,
            self.now,
        );
        match pumped {
            Pumped::Waits => {
                if !pool.config.client_idle_timeout.is_zero() {
                    self.arm_client(client_key);
                }
            }
            Pumped::GoesOn => self.list(Who::Client(client_key)),
            Pumped::HalfClosed => {
                self.enter_client(client_key, ClientState::Departing(server_key));
                self.list(Who::Client(client_key));
            }
            Pumped::ClientLeft(departure) => self.client_left(client_key, departure, host),
            Pumped::ClientBroke(refusal) => self.refuse(client_key, refusal, host),
            // It was told that the client has gone.
            Pumped::ServerLeft(_) if server.link.as_ref().is_some_and(Link::is_shut) => {
                self.client_left(client_key, Departure::Closed, host)
            }
            Pumped::ServerLeft(why) => self.server_left(client_key, server_key, &why, host),
            Pumped::ServerBroke(refusal) => {
                self.server_broke(client_key, server_key, &refusal, host)
            }
        }
    }
}

fn pump(
    client: &mut Client,
    server: &mut Server,
    buffer: &mut [u8],
    counters: &mut Counters,
    now: Tick,
) -> Pumped {
    let Some(link) = server.link.as_mut() else {
        return Pumped::ServerLeft(Why::Eof);
    };
    if client.link.can_flush() {
        client.link.flush();
    }
    if link.can_flush() {
        link.flush();
    }
    if let Some(why) = client.link.broken() {
        return Pumped::ClientLeft(Departure::Lost(why.clone()));
    }
    let mut clock = Clock {
        at: &mut server.request_at,
        transaction_at: &mut server.transaction_at,
        now,
    };
    let half_closed = match up(
        client,
        link,
        &mut server.relay,
        buffer,
        counters,
        &mut clock,
    ) {
        Ok(half_closed) => half_closed,
        Err(pumped) => return pumped,
    };
    if let Err(pumped) = down(
        client,
        link,
        &mut server.relay,
        &mut server.vars,
        buffer,
        counters,
        &mut clock,
    ) {
        return pumped;
    }
    if half_closed || matches!(client.state, ClientState::Departing(_)) {
        pass_the_end_on(server);
    }
    verdict(client, server, half_closed)
}

/// If what the client began will never be whole, the server learns of the end as it would without us: it answers what it owes,
/// and closes.
fn pass_the_end_on(server: &mut Server) {
    if !server.relay.can_finish()
        && let Some(link) = server.link.as_mut()
        && !link.is_shut()
    {
        link.shutdown();
    }
}

fn verdict(client: &Client, server: &Server, half_closed: bool) -> Pumped {
    let departing = matches!(client.state, ClientState::Departing(_));
    if (departing || half_closed) && !server.relay.is_busy() && client.link.is_flushed() {
        return Pumped::ClientLeft(Departure::Closed);
    }
    if half_closed {
        return Pumped::HalfClosed;
    }
    let Some(link) = &server.link else {
        return Pumped::ServerLeft(Why::Eof);
    };
    let goes_up = !departing && may_go_up(client, link, &server.relay);
    let goes_down = link.is_readable() && client.link.is_flushed();
    if goes_up || goes_down || client.link.broken().is_some() {
        Pumped::GoesOn
    } else {
        Pumped::Waits
    }
}

fn may_go_up(client: &Client, server: &Link, relay: &Relay) -> bool {
    (client.link.is_readable() || client.link.has_carry())
        && server.is_flushed()
        && relay.has_room()
}

/// When the present request and transaction began.
struct Clock<'a> {
    at: &'a mut Tick,
    transaction_at: &'a mut Tick,
    now: Tick,
}

/// From the client to the server. `Ok(true)`: the client has closed its side.
fn up(
    client: &mut Client,
    server: &mut Link,
    relay: &mut Relay,
    buffer: &mut [u8],
    counters: &mut Counters,
    clock: &mut Clock<'_>,
) -> Result<bool, Pumped> {
    if matches!(client.state, ClientState::Departing(_)) || !may_go_up(client, server, relay) {
        return Ok(false);
    }
    let count = if client.link.has_carry() {
        client.link.take_carry(buffer)
    } else {
        match client.link.read(buffer) {
            Input::Bytes(count) => count,
            Input::Nothing => return Ok(false),
            Input::Closed(Why::Eof) => return Ok(true),
            Input::Closed(why) => return Err(Pumped::ClientLeft(Departure::Lost(why))),
        }
    };
    let input = buffer.get(..count).unwrap_or_default();
    let (was_busy, status) = (relay.is_busy(), relay.status());
    let passage = relay.up(input);
    let (pass, rest) = input.split_at_checked(passage.pass).unwrap_or((input, &[]));
    server.send(pass);
    counters.received += pass.len() as u64;
    client.since = clock.now;
    if !was_busy && relay.is_busy() {
        *clock.at = clock.now;
        if status == TransactionStatus::Idle {
            *clock.transaction_at = clock.now;
        }
    }
    match passage.then {
        Then::More | Then::Full => client.link.keep(rest),
        // What it has asked for before is answered all the same, as PostgreSQL does it.
        Then::Terminate if relay.is_busy() => return Ok(true),
        Then::Terminate => return Err(Pumped::ClientLeft(Departure::Terminated)),
        Then::Refuse(refusal) => return Err(Pumped::ClientBroke(refusal)),
    }
    Ok(false)
}

/// From the server to the client.
fn down(
    client: &mut Client,
    link: &mut Link,
    relay: &mut Relay,
    vars: &mut crate::relay::Vars,
    buffer: &mut [u8],
    counters: &mut Counters,
    clock: &mut Clock<'_>,
) -> Result<(), Pumped> {
    if !link.is_readable() || !client.link.is_flushed() {
        return Ok(());
    }
    let count = match link.read(buffer) {
        Input::Bytes(count) => count,
        Input::Nothing => return Ok(()),
        Input::Closed(why) => return Err(Pumped::ServerLeft(why)),
    };
    let input = buffer.get(..count).unwrap_or_default();
    let was_busy = relay.is_busy();
    let passage = relay.down(input, vars);
    let (pass, rest) = input.split_at_checked(passage.pass).unwrap_or((input, &[]));
    client.link.send(pass);
    counters.sent += pass.len() as u64;
    let tally = relay.take_tally();
    counters.queries += tally.queries;
    counters.transactions += tally.transactions;
    if was_busy && !relay.is_busy() {
        counters.query_us += clock.now.since(*clock.at);
        if relay.status() == TransactionStatus::Idle {
            counters.transaction_us += clock.now.since(*clock.transaction_at);
        }
        client.since = clock.now;
    }
    match passage.then {
        Then::Refuse(refusal) => Err(Pumped::ServerBroke(refusal)),
        _ => {
            link.keep(rest);
            Ok(())
        }
    }
}
