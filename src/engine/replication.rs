//! Replication connections: one server each, with the startup parameters that the client brought, relayed as they are and closed
//! at the end.
//!
//! They count against the limits of their pool and may have its idle servers closed for them, but are never kept, never kept ready,
//! and never handed on. Most of that is the pool's [`Kind`]: nobody else asks for the same. Here is what is left.
//!
//! [`Kind`]: crate::pool::Kind

use super::{Claim, Engine, Host, Place, ServerKey, ServerState};
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

    /// Ends replication whose servers are to be replaced: it would go on for ever, and whoever receives it begins where he has
    /// stopped.
    pub(super) fn end_retired_replication(&mut self, host: &mut dyn Host) {
        for key in std::mem::take(&mut self.retired_replication) {
            let Some(ServerState::Paired(client)) = self.servers.get(key).map(|s| &s.state) else {
                continue;
            };
            let refusal = Refusal::fatal(
                b"57P01",
                "terminating connection due to administrator command",
                Blame::Operator,
            )
            .detail("The pooler replaces its connections to this server.")
            .hint("Connect again, and go on where replication has stopped.");
            self.end_pair(
                *client,
                key,
                &refusal,
                "database configuration changed",
                host,
            );
        }
    }
}
