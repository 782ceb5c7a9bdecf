//! Replication connections: one server each, with the startup parameters that the client brought, relayed as they are and closed
//! at the end.
//!
//! They count against the limits of their pool and may have its idle servers closed for them, but are never kept, never kept ready,
//! and never handed on. Most of that is the pool's [`Kind`]: nobody else asks for the same. Here is what is left.
//!
//! [`Kind`]: crate::pool::Kind

use super::{Claim, ClientKey, Engine, Host, Place, PoolKey, ServerKey, ServerState};
use crate::pool::Replication;
use crate::wire::refusal::{Blame, Refusal};

/// What libpq's programs for physical replication name as their database. There need not be one of that name.
const NO_DATABASE: &str = "replication";

impl Claim {
    /// Which replication a client asks for. Nothing that is neither a truth nor `database` is a request for it; the server
    /// refuses that.
    pub fn replication(&self) -> Option<Replication> {
        let given = self
            .parameters()
            .filter(|(name, _)| *name == b"replication");
        let (_, value) = given.last()?;
        if value == b"database" {
            return Some(Replication::Logical);
        }
        let value = value.to_ascii_lowercase();
        let is_prefix = |word: &[u8]| !value.is_empty() && word.starts_with(&value);
        let is_truth =
            is_prefix(b"true") || is_prefix(b"yes") || matches!(&value[..], b"on" | b"1");
        is_truth.then_some(Replication::Physical)
    }
}

impl Engine {
    /// Where a client goes that asks for physical replication and names no database of ours: where there is only one, the cluster
    /// that is meant is known.
    pub(super) fn place_of_replication(&self, claim: &Claim) -> Option<Place> {
        let asks = claim.replication() == Some(Replication::Physical);
        let mut names = self.config.databases.keys();
        let (only, more) = (names.next()?, names.next());
        let is_clear = asks && claim.database == NO_DATABASE && more.is_none();
        let pool = self.names.get(only).filter(|_| is_clear)?;
        self.config.fallback.is_none().then_some(Place::Pool(*pool))
    }

    /// Whether an idle server is to be closed because nobody wants it: its client has left while it logged in.
    pub(super) fn is_left_over(&self, key: ServerKey) -> bool {
        let server = self.servers.get(key);
        let server = server.filter(|server| server.kind.is_replication());
        server.is_some_and(|server| {
            let pool = self.pools.get(server.pool);
            !pool.is_some_and(|pool| pool.is_wanted(&server.kind))
        })
    }

    /// Ends what would keep a server that is to be replaced: replication, which would go on for ever, and whoever receives it begins
    /// where he has stopped; and with `server_fast_close` a session that is not in a transaction. (In one: `pump` sees to it.)
    pub(super) fn end_retired(&mut self, host: &mut dyn Host) {
        for key in std::mem::take(&mut self.retired_in_use) {
            let Some(server) = self.servers.get(key) else {
                continue;
            };
            let ServerState::Paired(client) = server.state else {
                continue;
            };
            if server.kind.is_replication() {
                let refusal = replaced("Connect again, and go on where replication has stopped.");
                self.end_pair(client, key, &refusal, REPLACED, host);
            } else if !server.shared && server.relay.is_over() {
                self.end_retired_session(client, key, host);
            }
        }
    }

    /// A session whose server is to be replaced is over now.
    #[cold]
    pub(super) fn end_retired_session(
        &mut self,
        client: ClientKey,
        server: ServerKey,
        host: &mut dyn Host,
    ) {
        let refusal = replaced("Connect again.");
        self.end_pair(client, server, &refusal, REPLACED, host);
    }

    /// Servers of a pool that were to be replaced before it was said how fast.
    pub(super) fn close_fast(&mut self, pool: PoolKey) {
        let config = self.pools.get(pool).map(|pool| &pool.config);
        if config.is_some_and(|config| config.sizes.server_fast_close) {
            let servers = self.servers.iter();
            let retired = servers.filter(|(_, server)| server.pool == pool && server.recycle);
            self.retired_in_use.extend(retired.map(|(key, _)| key));
        }
    }
}

/// Why a server is closed, in PgBouncer's words.
const REPLACED: &str = "database configuration changed";

fn replaced(hint: &'static str) -> Refusal {
    Refusal::fatal(
        b"57P01",
        "terminating connection due to administrator command",
        Blame::Operator,
    )
    .detail("The pooler replaces its connections to this server.")
    .hint(hint)
    .pgbouncer(REPLACED)
}
