//! Moves bytes between a client and its server. The hot path; the only place where a pair's state is looked at on both ends.
//!
//! One rule of backpressure: if the peer's outbox is not empty, we do not read. One read per direction, then the others' turn.

use super::close::Departure;
use super::requests::{Answers, Watch};
use super::{
    Client, ClientKey, ClientState, Engine, Host, Input, Link, Server, ServerKey, Session, Tick,
    Who, Why,
};
use crate::config::{PoolConfig, PoolMode};
use crate::relay::prepared::{Library, ServerStatements, Slot, With};
use crate::relay::{Relay, Then, Vars};
use crate::stats::Stats;
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend;
use crate::wire::refusal::{Blame, Refusal};

/// What came of running a pair.
enum Pumped {
    /// Nothing more can be done now.
    Waits,
    /// More can be done at once.
    GoesOn,
    /// The client's transaction is over, and it shares its servers.
    Over,
    /// Its transaction is over, and the server is to be replaced at once.
    Retired,
    /// It has begun a transaction block where there must be none.
    BlockBegun,
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
        self.run_pair_with(client_key, server_key, 0, host);
    }

    /// The same; so many bytes of the client's are in the loop's buffer already.
    pub(super) fn run_pair_with(
        &mut self,
        client_key: ClientKey,
        server_key: ServerKey,
        fresh: usize,
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
        let pool_key = server.pool;
        let mut watch = self.watches.then(|| Watch {
            queries: &mut self.queries,
            slow: &self.config.log.slow,
            found: &mut self.slow,
            database: &pool.name,
            pool: pool_key,
        });
        let mut pair = Pair {
            client,
            server,
            pool: &pool.config,
            stats: &mut pool.stats,
            buffer: &mut self.buffer,
            edited: &mut self.edited,
            library: &mut self.library,
            watch: &mut watch,
            now: self.now,
            fresh,
            bulk_after: self.config.server.bulk_after,
        };
        let mut pumped = pair.pump();
        let is_shut = |server: &Server| server.link.as_ref().is_some_and(Link::is_shut);
        if matches!(pumped, Pumped::ServerLeft(_)) && is_shut(server) {
            pumped = Pumped::ClientLeft(Departure::Closed); // the server was told that the client has gone
        }
        let (cancels, watched) = (server.cancels > 0, pool.watched);
        if server.copy_in.is_begun() && !server.relay.is_copying_in() {
            server.copy_in.end(Some(&mut client.link));
        }
        if server.bulk.is_timed() || server.copy_in.is_timed() {
            self.arm_bulk(server_key);
        }
        if !self.slow.is_empty() {
            self.tell_slow(client_key);
        }
        match pumped {
            Pumped::Waits => {
                if watched {
                    self.arm_client(client_key);
                }
            }
            Pumped::GoesOn => {
                if watched {
                    self.arm_client(client_key); // it may go on without a pause for as long as it likes
                }
                self.list(Who::Client(client_key));
            }
            Pumped::Over => self.give_back(client_key, server_key, host),
            Pumped::Retired => self.end_retired_session(client_key, server_key, host),
            Pumped::BlockBegun => {
                self.end_pair(client_key, server_key, &no_blocks(), NO_BLOCKS, host)
            }
            Pumped::HalfClosed => {
                self.enter_client(client_key, ClientState::Departing(server_key));
                self.list(Who::Client(client_key));
            }
            Pumped::ClientLeft(departure) => self.client_left(client_key, departure, host),
            Pumped::ClientBroke(refusal) => self.refuse(client_key, refusal, host),
            Pumped::ServerLeft(why) => self.server_left(client_key, server_key, &why, host),
            Pumped::ServerBroke(refusal) => {
                self.server_broke(client_key, server_key, &refusal, host)
            }
        }
        if cancels {
            self.wake_cancels(server_key);
        }
    }
}

/// A client, its server, and what is needed to move bytes between them.
struct Pair<'a, 'b> {
    client: &'a mut Client,
    server: &'a mut Server,
    pool: &'a PoolConfig,
    stats: &'a mut Stats,
    buffer: &'a mut [u8],
    /// What passes where it is not what was read.
    edited: &'a mut Vec<u8>,
    library: &'a mut Library,
    /// What the client asks is followed for this.
    watch: &'a mut Option<Watch<'b>>,
    now: Tick,
    /// So many bytes of the client's are in the buffer already.
    fresh: usize,
    /// `bulk_after`: an answer or a copy of so many bytes is read in large pieces.
    bulk_after: usize,
}

impl Pair<'_, '_> {
    fn pump(&mut self) -> Pumped {
        let Some(link) = self.server.link.as_mut() else {
            return Pumped::ServerLeft(Why::Eof);
        };
        if self.client.link.can_flush() {
            self.client.link.flush();
        }
        if link.can_flush() {
            link.flush();
        }
        if let Some(why) = self.client.link.broken() {
            return Pumped::ClientLeft(Departure::Lost(why.clone()));
        }
        let half_closed = match self.up() {
            Ok(half_closed) => half_closed,
            Err(pumped) => return pumped,
        };
        if let Err(pumped) = self.down() {
            return pumped;
        }
        if self.server.relay.is_to_try_again() {
            self.try_again();
        }
        if half_closed || matches!(self.client.state, ClientState::Departing(_)) {
            pass_the_end_on(self.server);
        }
        if self.server.relay.is_unsure() {
            self.probe();
        }
        self.verdict(half_closed)
    }

    /// From the client to the server. `Ok(true)`: the client has closed its side.
    fn up(&mut self) -> Result<bool, Pumped> {
        let Some(link) = self.server.link.as_mut() else {
            return Ok(false);
        };
        let client = &mut *self.client;
        let relay = &mut self.server.relay;
        let fresh = std::mem::take(&mut self.fresh);
        if matches!(client.state, ClientState::Departing(_))
            || !may_go_up(client, fresh, link, relay)
        {
            if fresh > 0 {
                client
                    .link
                    .keep(self.buffer.get(..fresh).unwrap_or_default());
            }
            return Ok(false);
        }
        let count = if fresh > 0 {
            fresh
        } else if client.link.has_carry() {
            client.link.take_carry(self.buffer)
        } else {
            match client.link.read(self.buffer) {
                Input::Bytes(count) => {
                    if relay.is_copying_in() {
                        let (after, now) = (self.bulk_after, self.now);
                        self.server
                            .copy_in
                            .note(count, after, now, &mut client.link);
                    }
                    count
                }
                Input::Nothing => return Ok(false),
                Input::Closed(Why::Eof) => return Ok(true),
                Input::Closed(why) => return Err(Pumped::ClientLeft(Departure::Lost(why))),
            }
        };
        let input = self.buffer.get(..count).unwrap_or_default();
        let (was_busy, status) = (relay.is_busy(), relay.status());
        let anew = self.watch.is_some() && !was_busy && relay.is_between_messages();
        let shares = shares_statements(client, self.pool.max_prepared_statements);
        self.edited.clear();
        let passage = match client.session.as_deref_mut().filter(|_| shares) {
            Some(session) => {
                let server = (&mut self.server.statements, Some(&*self.server.vars));
                let mut with = with(session, server, self.library, self.pool);
                relay.up_rewriting(input, &mut with, self.edited)
            }
            None => relay.up(input),
        };
        let (pass, rest) = input.split_at_checked(passage.pass).unwrap_or((input, &[]));
        link.send(if passage.in_place { pass } else { self.edited });
        self.server.bulk.end(Some(link));
        self.stats.total.received += pass.len() as u64;
        client.since = self.now;
        if !was_busy && relay.is_busy() {
            self.server.request_at = self.now;
            if status == TransactionStatus::Idle {
                self.server.transaction_at = self.now;
            }
        }
        if let Some(watch) = self.watch {
            let begins = !was_busy && relay.is_busy() && status == TransactionStatus::Idle;
            let session = client.session.as_deref().filter(|_| shares);
            let statements = session.map(|session| &session.statements);
            if begins {
                watch.begin(&mut self.server.requests, self.server.waited_us);
                self.server.waited_us = 0;
            }
            watch.up(&mut self.server.requests, pass, anew, statements);
        }
        if shares && relay.has_due() {
            self.edited.clear();
            relay.take_made(self.edited);
            client.link.send(self.edited);
            self.stats.total.sent += self.edited.len() as u64;
        }
        match passage.then {
            Then::More => client.link.keep_start(rest),
            Then::Full | Then::Block => client.link.keep(rest),
            // What it has asked for before is answered all the same, as PostgreSQL does it.
            Then::Terminate if relay.is_busy() => return Ok(true),
            Then::Terminate => return Err(Pumped::ClientLeft(Departure::Terminated)),
            Then::Refuse(refusal) => return Err(Pumped::ClientBroke(refusal)),
        }
        Ok(false)
    }

    /// From the server to the client.
    fn down(&mut self) -> Result<(), Pumped> {
        let Some(link) = self.server.link.as_mut() else {
            return Ok(());
        };
        let client = &mut *self.client;
        if !link.is_readable() || !client.link.is_flushed() {
            return Ok(());
        }
        let count = match link.read(self.buffer) {
            Input::Bytes(count) => count,
            Input::Nothing => return Ok(()),
            Input::Closed(why) => return Err(Pumped::ServerLeft(why)),
        };
        let input = self.buffer.get(..count).unwrap_or_default();
        let relay = &mut self.server.relay;
        let was_busy = relay.is_busy();
        let rewrites = client.mode() != PoolMode::Session;
        self.edited.clear();
        let passage = match client.session.as_deref_mut().filter(|_| rewrites) {
            Some(session) => {
                let server = (&mut self.server.statements, None);
                let mut with = with(session, server, self.library, self.pool);
                relay.down_rewriting(input, &mut self.server.vars, &mut with, self.edited)
            }
            None => relay.down(input, &mut self.server.vars),
        };
        let (pass, rest) = input.split_at_checked(passage.pass).unwrap_or((input, &[]));
        let passes: &[u8] = if passage.in_place { pass } else { self.edited };
        client.link.send(passes);
        self.stats.total.sent += passes.len() as u64;
        let tally = relay.take_tally();
        self.stats.total.queries += tally.queries;
        self.stats.total.transactions += tally.transactions;
        self.stats.total.client_parses += tally.client_parses;
        self.stats.total.server_parses += tally.server_parses;
        self.stats.total.binds += tally.binds;
        self.stats.total.hits += tally.hits;
        self.stats.total.evictions += tally.evictions;
        let rests = was_busy && !relay.is_busy();
        match rests {
            true => self.server.bulk.end(Some(link)),
            false => self
                .server
                .bulk
                .note(count, self.bulk_after, self.now, link),
        }
        if rests || tally.queries > 0 {
            let took = self.now.since(self.server.request_at);
            self.stats.total.query_us += took;
            self.stats.times.query.note_all(took, tally.queries);
            let transaction_at = self.server.transaction_at;
            let transaction_us = (tally.transactions > 0).then(|| self.now.since(transaction_at));
            // What comes behind it in a pipeline begins now.
            if let Some(took) = transaction_us {
                self.stats.total.transaction_us += took;
                self.stats
                    .times
                    .transaction
                    .note_all(took, tally.transactions);
                self.server.transaction_at = self.now;
            }
            match rests {
                true => client.since = self.now,
                false => self.server.request_at = self.now,
            }
            if let (Some(watch), Some(requests)) = (&mut *self.watch, &mut self.server.requests) {
                let answers = Answers {
                    ready: tally.queries,
                    took_us: took,
                    transaction_us,
                    all: rests,
                };
                requests.answered(&answers, passes.len(), watch);
            }
        } else if let Some(requests) = &mut self.server.requests {
            requests.down(passes.len());
        }
        if relay.is_broken() {
            return Err(Pumped::ServerBroke(invalid_parameter()));
        }
        match passage.then {
            Then::Refuse(refusal) => Err(Pumped::ServerBroke(refusal)),
            Then::Block => Err(Pumped::BlockBegun),
            _ => {
                link.keep(rest);
                Ok(())
            }
        }
    }

    /// A batch whose statement was outdated.
    #[cold]
    fn try_again(&mut self) {
        if let Some(session) = self.client.session.as_deref_mut()
            && let Some(link) = self.server.link.as_mut()
        {
            let server = (&mut self.server.statements, Some(&*self.server.vars));
            let mut with = with(session, server, self.library, self.pool);
            self.edited.clear();
            self.server.relay.try_again(&mut with, self.edited);
            link.send(self.edited);
        }
    }

    /// Before a server is given back: is it certain that it has said everything?
    #[cold]
    fn probe(&mut self) {
        if self.client.mode() != PoolMode::Session
            && let Some(sql) = self.server.relay.probe()
            && let Some(link) = self.server.link.as_mut()
        {
            let mut out = Vec::new();
            frontend::query(&mut out, sql);
            link.send(&out);
            self.server.statements.slot = Slot::Empty; // a simple query ends it
        }
    }

    fn verdict(&self, half_closed: bool) -> Pumped {
        let (client, server) = (&*self.client, &*self.server);
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
        match client.mode() {
            PoolMode::Session
                if self.pool.sizes.server_fast_close
                    && server.recycle
                    && !departing
                    && server.relay.is_over() =>
            {
                return Pumped::Retired;
            }
            PoolMode::Session => {}
            _ if departing => {}
            // Nothing of the client's may still wait to be written, not even late data of a copy.
            _ if server.relay.is_over() && (server.relay.has_surplus() || link.is_at_rest()) => {
                return Pumped::Over;
            }
            _ => {}
        }
        let goes_up = !departing && may_go_up(client, 0, link, &server.relay);
        let goes_down = link.is_readable() && client.link.is_flushed();
        if goes_up || goes_down || client.link.broken().is_some() {
            Pumped::GoesOn
        } else {
            Pumped::Waits
        }
    }
}

/// What the relay works with. `server`: what it holds, and its settings where something may be prepared.
fn with<'a>(
    session: &'a mut Session,
    server: (&'a mut ServerStatements, Option<&'a Vars>),
    library: &'a mut Library,
    pool: &PoolConfig,
) -> With<'a> {
    With {
        client: &mut session.statements,
        server: server.0,
        vars: server.1,
        library,
        max: pool.max_prepared_statements,
    }
}

/// Whether a client's prepared statements are kept for it from one server to the next.
pub(super) fn shares_statements(client: &Client, max_prepared: usize) -> bool {
    max_prepared > 0 && client.mode() != PoolMode::Session
}

fn invalid_parameter() -> Refusal {
    Refusal::fatal(b"08P01", "invalid server parameter", Blame::Server)
        .detail("The settings of this session could not be restored on the server connection that it was given.")
        .hint("The server's log says which one it did not take.")
}

/// In PgBouncer's words.
pub(super) const NO_BLOCKS: &str = "transaction blocks not allowed in statement pooling mode";

fn no_blocks() -> Refusal {
    Refusal::fatal(b"0A000", NO_BLOCKS, Blame::Client).hint("Use a pool with mode: transaction.")
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

fn may_go_up(client: &Client, fresh: usize, server: &Link, relay: &Relay) -> bool {
    (fresh > 0 || client.link.is_readable() || client.link.has_carry())
        && server.is_flushed()
        && relay.has_room()
}
