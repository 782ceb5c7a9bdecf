//! Cancel keys: what clients are given in BackendKeyData, and whom a CancelRequest means.
//!
//! Keys are ours, random, never the server's. Knows nothing of how a cancel is forwarded.

use std::collections::BTreeMap;

use crate::arena::ClientKey;
use crate::auth::same;

/// Longest key that is given out (protocol 3.2); protocol 3.0 takes the first four bytes.
pub const KEY_LEN: usize = 32;

/// A process id and a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelKey {
    /// The server's own process id where the client has one, else a random one.
    pub pid: u32,
    /// 4 or [`KEY_LEN`] bytes.
    pub key: Vec<u8>,
}

/// All keys that are out.
#[derive(Default)]
pub struct CancelKeys(BTreeMap<u32, Vec<(Vec<u8>, ClientKey)>>);

impl CancelKeys {
    /// Notes a key.
    pub fn insert(&mut self, cancel: &CancelKey, client: ClientKey) {
        self.0
            .entry(cancel.pid)
            .or_default()
            .push((cancel.key.clone(), client));
    }

    /// Forgets a client's key.
    pub fn remove(&mut self, pid: u32, client: ClientKey) {
        if let Some(keys) = self.0.get_mut(&pid) {
            keys.retain(|(_, owner)| *owner != client);
            if keys.is_empty() {
                self.0.remove(&pid);
            }
        }
    }

    /// Whether a process id is taken.
    pub fn is_taken(&self, pid: u32) -> bool {
        self.0.contains_key(&pid)
    }

    /// Whom a CancelRequest means. Keys are compared whole and in constant time.
    pub fn find(&self, pid: u32, key: &[u8]) -> Option<ClientKey> {
        let keys = self.0.get(&pid)?;
        keys.iter()
            .filter(|(known, _)| same(known, key))
            .map(|(_, client)| *client)
            .next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catalogue R15.
    #[test]
    fn only_the_whole_key_finds_its_client() {
        let (one, two) = (ClientKey::from_parts(1, 1), ClientKey::from_parts(2, 2));
        let mut keys = CancelKeys::default();
        keys.insert(
            &CancelKey {
                pid: 7,
                key: vec![1, 2, 3, 4],
            },
            one,
        );
        keys.insert(
            &CancelKey {
                pid: 7,
                key: vec![1, 2, 3, 5],
            },
            two,
        ); // two servers with one process id
        assert_eq!(keys.find(7, &[1, 2, 3, 4]), Some(one));
        assert_eq!(keys.find(7, &[1, 2, 3, 5]), Some(two));
        for (pid, key) in [
            (7, &[1, 2, 3, 6][..]),
            (8, &[1, 2, 3, 4]),
            (7, &[1, 2, 3]),
            (7, &[1, 2, 3, 4, 0]),
            (7, &[]),
        ] {
            assert_eq!(keys.find(pid, key), None);
        }
        keys.remove(7, one);
        assert_eq!(keys.find(7, &[1, 2, 3, 4]), None);
        assert!(keys.is_taken(7));
        keys.remove(7, two);
        assert!(!keys.is_taken(7));
    }
}
