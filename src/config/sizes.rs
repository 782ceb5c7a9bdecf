//! How a pool makes its server connections and hands them out: how many are kept, what is kept in reserve, which host is next.

use std::time::Duration;

/// In the words of PgBouncer where it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Server connections of a role that are kept, in use or not, as long as the role has a client in the pool, or is the pool's own.
    pub min_pool_size: usize,
    /// Server connections beyond the limit of a role in the pool, or that of the pool where roles have none.
    pub reserve_pool_size: usize,
    /// They are only made for clients that have waited for this long; zero: never.
    pub reserve_pool_timeout: Duration,
    /// Server connections that may be connecting and logging in at once.
    pub max_connecting: usize,
    /// The idle server is next that was not used for the longest time, not the one that was used last.
    pub server_round_robin: bool,
    /// Clients that ask for a server while none can be reached are told so at once.
    pub server_fast_fail: bool,
    /// A server connection is closed after its first client.
    pub single_use: bool,
    /// In session mode, a server that is to be replaced is closed when its transaction is over, and its client with it.
    pub server_fast_close: bool,
    /// Which of several hosts is next.
    pub load_balance_hosts: LoadBalance,
}

impl Sizes {
    /// What holds when nothing is written.
    pub(super) fn defaults() -> Sizes {
        Sizes {
            min_pool_size: 0,
            reserve_pool_size: 0,
            reserve_pool_timeout: Duration::from_secs(5),
            max_connecting: 16,
            server_round_robin: false,
            server_fast_fail: false,
            single_use: false,
            server_fast_close: false,
            load_balance_hosts: LoadBalance::Disable,
        }
    }
}

/// Which of several hosts a new server connection tries first. If that one cannot be reached, it tries the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadBalance {
    /// The first of the list, or the one that was reached after it could not be.
    Disable,
    /// The one behind the last one's.
    RoundRobin,
}

impl LoadBalance {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            LoadBalance::Disable => "disable",
            LoadBalance::RoundRobin => "round-robin",
        }
    }
}
