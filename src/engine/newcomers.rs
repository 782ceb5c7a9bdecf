//! Clients that have not shown yet who they are: in which order they came, and what is held of them.
//!
//! There may be many, and most mean no good: no step looks at all of them.

use std::collections::BTreeMap;

use crate::arena::ClientKey;
use crate::limits;

/// All of them, by their number ([`super::Client::id`]), which grows.
#[derive(Default)]
pub(super) struct Newcomers {
    all: BTreeMap<u64, Newcomer>,
    /// What they hold together.
    bytes: usize,
}

struct Newcomer {
    key: ClientKey,
    bytes: usize,
}

impl Newcomers {
    pub(super) fn insert(&mut self, id: u64, key: ClientKey) {
        self.all.insert(id, Newcomer { key, bytes: 0 });
    }

    /// It is none any more.
    pub(super) fn remove(&mut self, id: u64) {
        if let Some(gone) = self.all.remove(&id) {
            self.bytes -= gone.bytes;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// All of them, the one that has taken longest first.
    pub(super) fn by_age(&self) -> impl Iterator<Item = ClientKey> {
        self.all.values().map(|newcomer| newcomer.key)
    }

    /// Notes that one holds so many bytes from now on. `false`: that would be too many, and it is not noted.
    pub(super) fn hold(&mut self, id: u64, bytes: usize) -> bool {
        let Some(newcomer) = self.all.get_mut(&id) else {
            return true;
        };
        let all = self.bytes - newcomer.bytes + bytes;
        let may = bytes <= limits::LOGIN_BYTES_FREE || all <= limits::LOGIN_BYTES_MAX;
        if may {
            (newcomer.bytes, self.bytes) = (bytes, all);
        }
        may
    }

    /// Asserts that these are all, and what is known of them; in the order of their numbers.
    pub(super) fn check(&self, all: &BTreeMap<u64, ClientKey>) {
        let known = self.all.iter().map(|(id, newcomer)| (id, &newcomer.key));
        assert!(known.eq(all), "those who have not logged in");
        let bytes: usize = self.all.values().map(|newcomer| newcomer.bytes).sum();
        assert_eq!(self.bytes, bytes, "what they hold");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32) -> ClientKey {
        ClientKey::from_parts(slot, 0)
    }

    fn oldest(newcomers: &Newcomers) -> Option<ClientKey> {
        newcomers.by_age().next()
    }

    #[test]
    fn who_has_logged_in_is_no_newcomer_and_holds_nothing() {
        let mut newcomers = Newcomers::default();
        newcomers.insert(1, key(5));
        newcomers.insert(2, key(3));
        assert_eq!((oldest(&newcomers), newcomers.len()), (Some(key(5)), 2));
        assert!(newcomers.hold(1, limits::LOGIN_BYTES_MAX));
        assert!(!newcomers.hold(2, limits::LOGIN_BYTES_FREE + 1));
        assert!(
            newcomers.hold(2, limits::LOGIN_BYTES_FREE),
            "a little is free"
        );
        newcomers.remove(1);
        newcomers.remove(1);
        assert_eq!(oldest(&newcomers), Some(key(3)));
        assert!(newcomers.hold(2, limits::LOGIN_BYTES_MAX));
        assert!(newcomers.hold(2, 0));
        newcomers.check(&BTreeMap::from([(2, key(3))]));
        assert_eq!(newcomers.bytes, 0);
    }
}
