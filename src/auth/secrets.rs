//! What servers have said of users' secrets (`auth_query`), for as long as it serves: so that a second login of the same user costs
//! no query, and guessing at names few.
//!
//! A bounded number of users, those longest unused go first; those that there are not have places of their own, so that guesses push
//! nobody out. Secrets are wiped when they are dropped.

use std::collections::BTreeMap;

use crate::arena::Tick;
use crate::config::Stored;
use crate::limits;

/// What is known of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is none of this name.
    Nobody,
    /// There is one; `None`: with no secret, or one that has expired, so that no password is right.
    Somebody(Option<Stored>),
}

/// Answers by user.
#[derive(Default)]
pub struct Secrets {
    known: Recent<Option<Stored>>,
    unknown: Recent<()>,
}

impl Secrets {
    /// What is known of a user, if it still serves.
    pub fn find(&mut self, user: &str, now: Tick) -> Option<Found> {
        if let Some(entry) = self.known.touch(user).filter(|entry| now < entry.until) {
            return Some(Found::Somebody(entry.value.clone()));
        }
        let unknown = self.unknown.touch(user);
        unknown
            .is_some_and(|entry| now < entry.until)
            .then_some(Found::Nobody)
    }

    /// The last secret of a user that was seen, however old: to log in to a server, which holds it against its own.
    pub fn last(&self, user: &str) -> Option<&Stored> {
        self.known.entries.get(user)?.value.as_ref()
    }

    /// Takes an answer in, to serve until then.
    pub fn note(&mut self, user: &str, found: Found, until: Tick) {
        match found {
            Found::Somebody(secret) => {
                self.unknown.remove(user);
                self.known.insert(user, secret, until, limits::SECRETS_MAX);
            }
            Found::Nobody => {
                self.known.remove(user);
                self.unknown.insert(user, (), until, limits::SECRETS_MAX);
            }
        }
    }

    /// A login with what is known of a user has failed: it is to be asked for anew, if the user was known.
    pub fn doubt(&mut self, user: &str) -> bool {
        let entry = self.known.touch(user);
        entry.map(|entry| entry.until = Tick(0)).is_some()
    }
}

/// A bounded number of values; the one that is longest unused makes room.
struct Recent<V> {
    entries: BTreeMap<String, Entry<V>>,
    /// Names in the order in which they were used.
    order: BTreeMap<u64, String>,
    uses: u64,
}

struct Entry<V> {
    value: V,
    until: Tick,
    used: u64,
}

impl<V> Default for Recent<V> {
    fn default() -> Recent<V> {
        Recent {
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            uses: 0,
        }
    }
}

impl<V> Recent<V> {
    fn touch(&mut self, name: &str) -> Option<&mut Entry<V>> {
        let entry = self.entries.get_mut(name)?;
        self.uses += 1;
        let name = self
            .order
            .remove(&std::mem::replace(&mut entry.used, self.uses))?;
        self.order.insert(self.uses, name);
        Some(entry)
    }

    fn insert(&mut self, name: &str, value: V, until: Tick, max: usize) {
        self.remove(name);
        if self.entries.len() >= max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.uses += 1;
        let used = self.uses;
        self.entries
            .insert(name.to_owned(), Entry { value, until, used });
        self.order.insert(used, name.to_owned());
    }

    fn remove(&mut self, name: &str) {
        if let Some(entry) = self.entries.remove(name) {
            self.order.remove(&entry.used);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Found {
        Found::Somebody(Some(Stored::parse(text.as_bytes())))
    }

    #[test]
    fn an_answer_serves_for_its_time_and_the_secret_longer() {
        let mut secrets = Secrets::default();
        secrets.note("alice", secret("a"), Tick(10));
        assert_eq!(secrets.find("alice", Tick(9)), Some(secret("a")));
        assert_eq!(secrets.find("alice", Tick(10)), None);
        assert_eq!(secrets.last("alice"), Some(&Stored::parse(b"a")));
        secrets.note("alice", Found::Nobody, Tick(20));
        assert_eq!(secrets.find("alice", Tick(19)), Some(Found::Nobody));
        assert_eq!(secrets.last("alice"), None);
        secrets.note("alice", secret("b"), Tick(30));
        assert_eq!(secrets.find("alice", Tick(29)), Some(secret("b")));
        assert!(secrets.doubt("alice") && !secrets.doubt("bob"));
        assert_eq!(secrets.find("alice", Tick(29)), None);
    }

    /// R20: guesses at names push nobody out who is known, and neither takes more than its places.
    #[test]
    fn those_longest_unused_make_room_and_guesses_only_for_guesses() {
        let mut secrets = Secrets::default();
        let never = Tick(u64::MAX);
        for number in 0..limits::SECRETS_MAX {
            secrets.note(&format!("user {number}"), secret("x"), never);
            secrets.note(&format!("guess {number}"), Found::Nobody, never);
        }
        assert!(secrets.find("user 0", Tick(0)).is_some());
        for guess in ["one more", "and one"] {
            secrets.note(guess, Found::Nobody, never);
        }
        secrets.note("new", secret("x"), never);
        assert_eq!(secrets.find("user 1", Tick(0)), None);
        for known in ["user 0", "user 2", "new"] {
            assert_eq!(secrets.find(known, Tick(0)), Some(secret("x")), "{known}");
        }
        for kind in [secrets.known.order.len(), secrets.unknown.order.len()] {
            assert_eq!(kind, limits::SECRETS_MAX);
        }
    }
}
