//! Keys that clients have proven: what logs in to a server that holds the same verifier, where nobody knows the password.

use std::collections::{BTreeMap, BTreeSet};

use super::scram::{ClientKey, Keys};
use crate::config::secret::ScramVerifier;
use crate::config::{Secret, Stored};
use crate::limits;

/// A user and the StoredKey of its verifier, which goes with one password, one salt and one iteration count.
type Place = (String, [u8; 32]);

/// Remembers RFC 5802's ClientKey of users whose secret is a SCRAM verifier, once a client has proven it. A verifier that has
/// changed, wherever it came from, finds nothing here.
#[derive(Default)]
pub struct Proven {
    keys: BTreeMap<Place, Entry>,
    /// Grows with each use.
    uses: u64,
}

struct Entry {
    client_key: Secret,
    used: u64,
}

impl Proven {
    /// Notes what a client has proven.
    pub(super) fn note(&mut self, user: &str, verifier: &ScramVerifier, client_key: &ClientKey) {
        self.uses += 1;
        let entry = self.keys.entry(place(user, verifier));
        // One that is known is the same: its hash is the StoredKey.
        let entry = entry.or_insert_with(|| Entry {
            client_key: Secret::new(**client_key),
            used: 0,
        });
        entry.used = self.uses;
    }

    /// All that is needed to log in as this user where the verifier is this one.
    pub(super) fn find(&mut self, user: &str, verifier: &ScramVerifier) -> Option<Keys> {
        self.uses += 1;
        let entry = self.keys.get_mut(&place(user, verifier))?;
        entry.used = self.uses;
        Keys::of(verifier, entry.client_key.expose())
    }

    /// Whether there is something to [`Proven::find`].
    pub(super) fn knows(&self, user: &str, verifier: &ScramVerifier) -> bool {
        self.keys.contains_key(&place(user, verifier))
    }

    /// A server does not take them.
    pub(super) fn forget(&mut self, user: &str, verifier: &ScramVerifier) {
        self.keys.remove(&place(user, verifier));
    }

    /// Forgets the keys of users whose secret is another one now.
    pub fn reconfigured(&mut self, old: &BTreeMap<String, Stored>, new: &BTreeMap<String, Stored>) {
        self.keys
            .retain(|(user, _), _| old.get(user) == new.get(user));
    }

    /// Whether there are more than there may be: see [`Proven::trim`].
    pub fn is_over_limit(&self) -> bool {
        self.keys.len() > limits::PROVEN_KEYS_MAX
    }

    /// Makes room: the keys that were not used for the longest time go, those of users who have clients or servers last.
    pub fn trim(&mut self, in_use: &BTreeSet<&[u8]>) {
        let mut all: Vec<(bool, u64, Place)> = self
            .keys
            .iter()
            .map(|(place, entry)| {
                (
                    in_use.contains(place.0.as_bytes()),
                    entry.used,
                    place.clone(),
                )
            })
            .collect();
        all.sort_unstable();
        let most = limits::PROVEN_KEYS_MAX - limits::PROVEN_KEYS_MAX / 16;
        let surplus = all.len().saturating_sub(most);
        for (_, _, place) in all.into_iter().take(surplus) {
            self.keys.remove(&place);
        }
    }
}

fn place(user: &str, verifier: &ScramVerifier) -> Place {
    (user.to_owned(), verifier.stored_key)
}
