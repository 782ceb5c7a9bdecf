//! Cancel keys: what clients are given in BackendKeyData, and whom a CancelRequest means.
//!
//! Keys are ours, random, never the server's. Knows nothing of how a cancel is forwarded.
//!
//! Those of a pooler with a `peer_id` say whose they are, in PgBouncer's layout: of the four bytes of the process id the second and
//! the third are the number, the low byte first; the two low bits of the fourth byte of the secret count how often a request may
//! be passed on. The first bit is always clear.

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

    /// One of the pooler with this number; its process id is ours.
    pub fn of_peer(peer: u16, minor: u32, mut random: impl FnMut(&mut [u8])) -> CancelKey {
        let mut pid = [0; 4];
        random(&mut pid);
        let [low, high] = peer.to_le_bytes();
        let pid = u32::from_be_bytes([pid[0] & 0x7F, low, high, pid[3]]);
        let mut key = CancelKey::new(pid, minor, random);
        match &mut key.secret {
            Secret::Short(bytes) => set_hops(&mut bytes[..], HOPS),
            Secret::Long(bytes) => set_hops(&mut bytes[..], HOPS),
        }
        key
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

/// How often a request may be passed on, at first; what two bits hold.
const HOPS: u8 = 3;
/// The byte of a secret that counts it.
const HOPS_AT: usize = 3;

fn set_hops(secret: &mut [u8], hops: u8) {
    if let Some(byte) = secret.get_mut(HOPS_AT) {
        *byte = *byte & !HOPS | hops;
    }
}

/// Whose key it is, if it is that of a pooler with peers.
pub fn peer_of(pid: u32) -> u16 {
    let [_, low, high, _] = pid.to_be_bytes();
    u16::from_le_bytes([low, high])
}

/// The secret of a request that was passed on, as it was in the client's hands.
pub fn as_given(secret: &[u8]) -> Vec<u8> {
    let mut secret = secret.to_vec();
    set_hops(&mut secret, HOPS);
    secret
}

/// The secret to pass a request on with. `None`: it has been passed on often enough.
pub fn one_hop_less(secret: &[u8]) -> Option<Vec<u8>> {
    let hops = secret.get(HOPS_AT)? & HOPS;
    let mut secret = secret.to_vec();
    set_hops(&mut secret, hops.checked_sub(1)?);
    Some(secret)
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

    /// The same bytes as PgBouncer's, which may be a peer.
    #[test]
    fn the_key_of_a_pooler_with_peers_says_whose_it_is_and_how_often_it_may_be_passed_on() {
        for (minor, len) in [(0, 4), (2, 32)] {
            let key = CancelKey::of_peer(0x1234, minor, |bytes| bytes.fill(0xFC));
            assert_eq!(key.pid.to_be_bytes(), [0x7C, 0x34, 0x12, 0xFC]);
            assert_eq!(key.secret()[..4], [0xFC, 0xFC, 0xFC, 0xFF]);
            assert_eq!((key.secret().len(), peer_of(key.pid)), (len, 0x1234));
            let mut secret = key.secret().to_vec();
            for hops in [2, 1, 0] {
                secret = one_hop_less(&secret).expect("not yet");
                assert_eq!(secret[3], 0xFC | hops);
                assert!(!key.has_secret(&secret) && key.has_secret(&as_given(&secret)));
            }
            assert_eq!(one_hop_less(&secret), None);
        }
        assert_eq!(one_hop_less(&[]), None);
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
