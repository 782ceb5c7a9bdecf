//! What is overdue, and when it will be: the one place that knows how long each state of a client and of a server may last.
//!
//! Timers are lazy: the wheel asks here again when a slot comes up. What happens then is in `close` and `dial`.

use std::time::Duration;

use super::{Client, ClientKey, ClientState, Engine, Server, ServerKey, ServerState, Tick, ms};
use crate::config::{Config, PoolConfig};
use crate::limits;
use crate::pool::Pools;
use crate::wire::backend::TransactionStatus;
use crate::wire::refusal::{Blame, Refusal};

/// The limits that hold for one client. Zero: off.
#[derive(Clone, Copy, Debug)]
struct Limits {
    query: Duration,
    transaction: Duration,
    idle_transaction: Duration,
    client_idle: Duration,
    acquire: Duration,
}

/// What a client with a server has overdone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdone {
    /// It has said nothing, outside of a transaction.
    Idle,
    /// Its query runs too long.
    Query,
    /// So does its transaction.
    Transaction,
    /// It has said nothing within a transaction.
    IdleTransaction,
    /// It has half-closed, and its query runs too long for that.
    Departing,
}

impl Limits {
    /// What the pool says, but for what the user, or the role on the server, has of its own.
    fn of(client: &Client, pool: &PoolConfig, pools: &Pools) -> Limits {
        let timeouts = &pool.timeouts;
        let mut limits = Limits {
            query: timeouts.query_timeout,
            transaction: timeouts.transaction_timeout,
            idle_transaction: timeouts.idle_transaction_timeout,
            client_idle: pool.client_idle_timeout,
            acquire: pool.acquire_timeout,
        };
        if !pools.users_have_timeouts() {
            return limits;
        }
        let Some(session) = client.session.as_deref() else {
            return limits;
        };
        if let Some(kind) = session.kind.as_deref() {
            let own = pools.user_config(&kind.user).timeouts;
            limits.query = own.query_timeout.unwrap_or(limits.query);
            limits.transaction = own.transaction_timeout.unwrap_or(limits.transaction);
            let idle = own.idle_transaction_timeout;
            limits.idle_transaction = idle.unwrap_or(limits.idle_transaction);
        }
        let own = pools.user_config(session.claim.user.as_bytes()).timeouts;
        limits.client_idle = own.client_idle_timeout.unwrap_or(limits.client_idle);
        limits.acquire = own.acquire_timeout.unwrap_or(limits.acquire);
        limits
    }

    /// How long a client may wait for a server. A query counts as one from the moment in which it waits, as in PgBouncer.
    fn of_wait(&self, client: &Client) -> Option<Duration> {
        let query = match client.state {
            ClientState::Queued => self.query,
            _ => Duration::ZERO,
        };
        let all = [self.acquire, query];
        all.into_iter().filter(|limit| !limit.is_zero()).min()
    }

    /// When what a client does with its server is overdone first, and what that is.
    fn of_pair(&self, client: &Client, server: &Server) -> Option<(Tick, Overdone)> {
        let after = |since: Tick, limit: Duration, what| {
            (!limit.is_zero()).then(|| (since.plus(limit), what))
        };
        let relay = &server.relay;
        let (busy, outside) = (relay.is_busy(), relay.status() == TransactionStatus::Idle);
        let silent = match (busy, outside) {
            (true, _) => after(server.request_at, self.query, Overdone::Query),
            (false, true) => after(client.since, self.client_idle, Overdone::Idle),
            (false, false) => {
                let limit = self.idle_transaction;
                after(client.since, limit, Overdone::IdleTransaction)
            }
        };
        let transaction = after(
            server.transaction_at,
            self.transaction,
            Overdone::Transaction,
        );
        let transaction = transaction.filter(|_| busy || !outside);
        // Of two at the same time the narrower one is told.
        [silent, transaction]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }
}

impl Engine {
    /// When a client's state must be over, or something is to be done about it; `None`: it may last for ever, or is part of a
    /// login, for which there is one timer for all ([`Engine::login_deadline`]).
    pub(super) fn client_deadline(&self, key: ClientKey) -> Option<Tick> {
        let client = self.clients.get(key)?;
        let after = |delay: Duration| (!delay.is_zero()).then(|| client.since.plus(delay));
        match &client.state {
            ClientState::Greeting { .. }
            | ClientState::Proving(_)
            | ClientState::Deriving(_)
            | ClientState::Identifying(_)
            | ClientState::LookingUp(_)
            | ClientState::Console(_) => None,
            ClientState::HeldBack(until) => Some(*until),
            ClientState::Failing(last) => Some(last.0),
            ClientState::AwaitingWelcome => after(self.limits_of(client)?.acquire),
            ClientState::Queued => {
                let pool = self.pool_config(client)?;
                let limits = Limits::of(client, pool, &self.pools);
                let over = limits.of_wait(client).and_then(after);
                // Once it has been told, this is in the past.
                let notice = after(pool.timeouts.query_wait_notify);
                let notice = notice.filter(|at| *at > self.now);
                over.into_iter().chain(notice).min()
            }
            ClientState::Idle => after(self.limits_of(client)?.client_idle),
            ClientState::Paired(_) | ClientState::Departing(_) => {
                self.overdone(client).map(|(at, _)| at)
            }
            ClientState::Cancelling(_) | ClientState::AwaitingPeer => {
                after(self.config.server.cancel_wait_timeout)
            }
            ClientState::Leaving { .. } => after(ms(limits::LINGER_MS)),
        }
    }

    /// What a client with a server will have overdone first, and when.
    fn overdone(&self, client: &Client) -> Option<(Tick, Overdone)> {
        let pool = self.pool_config(client)?;
        let departing = match client.state {
            ClientState::Departing(_) if !pool.abandoned_query_timeout.is_zero() => {
                let at = client.since.plus(pool.abandoned_query_timeout);
                Some((at, Overdone::Departing))
            }
            _ => None,
        };
        let server = self.servers.get(client.state.server()?)?;
        // Replication is one query that goes on for ever.
        let ends = !server.kind.is_replication();
        let limits = Limits::of(client, pool, &self.pools);
        let pair = limits.of_pair(client, server).filter(|_| ends);
        departing.into_iter().chain(pair).min_by_key(|(at, _)| *at)
    }

    /// What a client with a server has overdone by now.
    pub(super) fn has_overdone(&self, client: &Client) -> Option<Overdone> {
        let (at, what) = self.overdone(client)?;
        (at <= self.now).then_some(what)
    }

    /// When a client that waits with a query is to be told so.
    pub(super) fn notice_of_queue(&self, key: ClientKey) -> Option<Tick> {
        let client = self.clients.get(key)?;
        let delay = self.pool_config(client)?.timeouts.query_wait_notify;
        let queued = matches!(client.state, ClientState::Queued);
        (queued && !delay.is_zero()).then(|| client.since.plus(delay))
    }

    /// The limit for a client that waits for a server: its name and how long.
    pub(super) fn limit_of_wait(&self, client: &Client) -> (&'static str, Duration) {
        let Some(limits) = self.limits_of(client) else {
            return ("acquire_timeout", Duration::ZERO);
        };
        match limits.of_wait(client) {
            Some(limit) if limit != limits.acquire => ("query_timeout", limit),
            _ => ("acquire_timeout", limits.acquire),
        }
    }

    fn pool_config(&self, client: &Client) -> Option<&PoolConfig> {
        Some(&self.pools.get(client.pool()?)?.config)
    }

    fn limits_of(&self, client: &Client) -> Option<Limits> {
        Some(Limits::of(client, self.pool_config(client)?, &self.pools))
    }

    /// When a server's state must be over, or be looked at again.
    pub(super) fn server_deadline(&self, key: ServerKey) -> Option<Tick> {
        let server = self.servers.get(key)?;
        let pool = &self.pools.get(server.pool)?.config;
        let after = |delay: Duration| (!delay.is_zero()).then(|| server.since.plus(delay));
        match &server.state {
            ServerState::Resolving
            | ServerState::AskingTls
            | ServerState::Dialing
            | ServerState::LoggingIn(_)
            | ServerState::Preparing(_)
            | ServerState::Tuning(_)
            | ServerState::Looking(_) => after(pool.connect_timeout),
            ServerState::Checking(_) => after(pool.check_timeout),
            ServerState::Resetting(_) => after(pool.reset_timeout),
            ServerState::Held | ServerState::Cancelling(_) | ServerState::Forwarding(_) => {
                after(self.config.server.cancel_wait_timeout)
            }
            ServerState::Paired(_) => None,
            ServerState::Draining => self.drain_deadline(server, pool),
            ServerState::Idle => {
                let idle = (!pool.max_idle_time.is_zero())
                    .then(|| server.since.max(server.spared_at).plus(pool.max_idle_time));
                [idle, server.retire_at].into_iter().flatten().min()
            }
        }
    }

    /// When the query of a client that has gone must be over: it is a query all the same.
    fn drain_deadline(&self, server: &Server, pool: &PoolConfig) -> Option<Tick> {
        let after = |since: Tick, limit: Duration| (!limit.is_zero()).then(|| since.plus(limit));
        let own = self.pools.user_config(&server.kind.user).timeouts;
        let query = own.query_timeout.unwrap_or(pool.timeouts.query_timeout);
        let transaction = own.transaction_timeout;
        let transaction = transaction.unwrap_or(pool.timeouts.transaction_timeout);
        [
            after(server.since, pool.abandoned_query_timeout),
            after(server.request_at, query),
            after(server.transaction_at, transaction),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl Client {
    /// When its login must be over.
    pub(super) fn login_deadline(&self, config: &Config) -> Option<Tick> {
        let limit = config.server.client_login_timeout;
        (!limit.is_zero()).then(|| self.connected_at.plus(limit))
    }
}

impl Overdone {
    /// Why the server connection is closed, and the client with it, in PgBouncer's words; `None`: the server is kept.
    pub(super) fn refusal(self) -> Option<Refusal> {
        let (code, text, key) = match self {
            Overdone::Idle | Overdone::Departing => return None,
            Overdone::Query => (b"57014", "query timeout", "query_timeout"),
            Overdone::Transaction => (b"25P04", "transaction timeout", "transaction_timeout"),
            Overdone::IdleTransaction => (
                b"25P03",
                "idle transaction timeout",
                "idle_transaction_timeout",
            ),
        };
        Some(Refusal::fatal(code, text, Blame::Client).hint(format!(
            "See {key} of the pool, or of the role in section users, in Aether's configuration."
        )))
    }
}

#[cfg(test)]
mod tests;
