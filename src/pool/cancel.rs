//! Cancel keys: what clients are given in BackendKeyData, and whom a CancelRequest means.
//!
//! Keys are ours, random, never the server's. Knows nothing of how a cancel is forwarded.

use std::collections::BTreeSet;

use crate::arena::ClientKey;
use crate::auth::same;

/// A process id and a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelKey {
    /// The server's own process id where the client has one, else a random one.
    pub pid: u32,
    secret: Secret,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Secret {
    /// Protocol 3.0.
    Short([u8; 4]),
    /// Protocol 3.2, where it may be longer.
    Long(Box<[u8; 32]>),
}

impl CancelKey {
    /// A new one, as long as this minor version of the protocol lets it be. `random` fills what it is given.
    pub fn new(pid: u32, minor: u32, random: impl FnOnce(&mut [u8])) -> CancelKey {
        let mut secret = match minor {
            0 | 1 => Secret::Short([0; 4]),
            _ => Secret::Long(Box::new([0; 32])),
        };
        random(match &mut secret {
            Secret::Short(bytes) => &mut bytes[..],
            Secret::Long(bytes) => &mut bytes[..],
        });
        CancelKey { pid, secret }
    }

    /// What follows the process id.
    pub fn secret(&self) -> &[u8] {
        match &self.secret {
            Secret::Short(bytes) => &bytes[..],
            Secret::Long(bytes) => &bytes[..],
        }
    }

    /// Whether this is the secret. It is compared whole and in constant time.
    pub fn has_secret(&self, secret: &[u8]) -> bool {
        same(self.secret(), secret)
    }
}

/// Who has a key with which process id. The keys themselves are the clients'.
#[derive(Default)]
pub struct CancelKeys(BTreeSet<(u32, ClientKey)>);

impl CancelKeys {
    /// Notes that a client has a key.
    pub fn insert(&mut self, pid: u32, client: ClientKey) {
        self.0.insert((pid, client));
    }

    /// Forgets that.
    pub fn remove(&mut self, pid: u32, client: ClientKey) {
        self.0.remove(&(pid, client));
    }

    /// Whether a process id is taken.
    pub fn is_taken(&self, pid: u32) -> bool {
        self.owners(pid).next().is_some()
    }

    /// The clients with this process id: more than one where two servers, on two machines, have the same.
    pub fn owners(&self, pid: u32) -> impl Iterator<Item = ClientKey> {
        let first = ClientKey::from_parts(0, 0);
        let last = ClientKey::from_parts(u32::MAX, u32::MAX);
        let owners = self.0.range((pid, first)..=(pid, last));
        owners.map(|(_, client)| *client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catalogue R15.
    #[test]
    fn only_the_whole_secret_is_the_secret() {
        for (minor, len) in [(0, 4), (2, 32)] {
            let key = CancelKey::new(7, minor, |bytes| bytes.fill(9));
            assert!(key.has_secret(&vec![9; len]));
            let mut other = vec![9; len];
            other[len - 1] = 8;
            for wrong in [&other[..], &vec![9; len - 1], &vec![9; len + 1], &[]] {
                assert!(!key.has_secret(wrong), "{wrong:?}");
            }
        }
    }

    #[test]
    fn two_servers_may_have_one_process_id() {
        let (one, two) = (ClientKey::from_parts(1, 1), ClientKey::from_parts(2, 2));
        let mut keys = CancelKeys::default();
        keys.insert(7, one);
        keys.insert(7, two);
        keys.insert(8, two);
        assert_eq!(keys.owners(7).collect::<Vec<_>>(), [one, two]);
        keys.remove(7, one);
        assert_eq!(keys.owners(7).collect::<Vec<_>>(), [two]);
        keys.remove(7, two);
        assert!(!keys.is_taken(7) && keys.is_taken(8));
    }
}
