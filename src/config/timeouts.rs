//! Limits in time that hold for what clients do, in their own words: `query_timeout` and its kin. Those of a pool, and what
//! single users have instead.

use std::time::Duration;

/// What holds in a pool. Zero: off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// A query may take this long, in the queue and on the server.
    pub query_timeout: Duration,
    /// A transaction may take this long.
    pub transaction_timeout: Duration,
    /// A client may say nothing for this long within a transaction.
    pub idle_transaction_timeout: Duration,
    /// A client that has waited for this long with a query is told so, once.
    pub query_wait_notify: Duration,
    /// The longest pause between attempts to reach a server.
    pub server_login_retry: Duration,
}

/// The keys of [`Timeouts`].
pub(super) const KEYS: [&str; 5] = [
    "query_timeout",
    "transaction_timeout",
    "idle_transaction_timeout",
    "query_wait_notify",
    "server_login_retry",
];

impl Timeouts {
    /// What holds when nothing is written.
    pub(super) fn defaults() -> Timeouts {
        Timeouts {
            query_wait_notify: Duration::from_secs(5),
            server_login_retry: Duration::from_millis(500),
            ..Timeouts::default()
        }
    }

    /// Each with its key, in the order of [`KEYS`].
    pub(super) fn by_key(&mut self) -> [(&'static str, &mut Duration); 5] {
        let [query, transaction, idle_transaction, notify, retry] = KEYS;
        [
            (query, &mut self.query_timeout),
            (transaction, &mut self.transaction_timeout),
            (idle_transaction, &mut self.idle_transaction_timeout),
            (notify, &mut self.query_wait_notify),
            (retry, &mut self.server_login_retry),
        ]
    }
}

/// What holds for a user in place of what its pool says; `None`: the pool's. The first three are those of the role that logs in to
/// the server, the others those of the user who logs in here, as in PgBouncer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserTimeouts {
    /// In place of [`Timeouts::query_timeout`].
    pub query_timeout: Option<Duration>,
    /// In place of [`Timeouts::transaction_timeout`].
    pub transaction_timeout: Option<Duration>,
    /// In place of [`Timeouts::idle_transaction_timeout`].
    pub idle_transaction_timeout: Option<Duration>,
    /// In place of [`super::PoolConfig::client_idle_timeout`].
    pub client_idle_timeout: Option<Duration>,
    /// In place of [`super::PoolConfig::acquire_timeout`].
    pub acquire_timeout: Option<Duration>,
}

/// The keys of [`UserTimeouts`].
pub(super) const USER_KEYS: [&str; 5] = [
    "query_timeout",
    "transaction_timeout",
    "idle_transaction_timeout",
    "client_idle_timeout",
    "acquire_timeout",
];

impl UserTimeouts {
    /// Each with its key, in the order of [`USER_KEYS`].
    pub(super) fn by_key(&mut self) -> [(&'static str, &mut Option<Duration>); 5] {
        let [query, transaction, idle_transaction, idle, acquire] = USER_KEYS;
        [
            (query, &mut self.query_timeout),
            (transaction, &mut self.transaction_timeout),
            (idle_transaction, &mut self.idle_transaction_timeout),
            (idle, &mut self.client_idle_timeout),
            (acquire, &mut self.acquire_timeout),
        ]
    }
}
