//! The ground floor: typed, generation-checked keys over a slab, and the engine's time.
//!
//! A stale key misses instead of finding somebody else. Keys are marked for what they lead to, so that floors which only keep
//! keys need not know the things themselves.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// Marks the keys of clients.
pub enum OfClient {}
/// Marks the keys of servers.
pub enum OfServer {}
/// Marks the keys of pools.
pub enum OfPool {}
/// Where a client is.
pub type ClientKey = Key<OfClient>;
/// Where a server connection is.
pub type ServerKey = Key<OfServer>;
/// Where a pool is.
pub type PoolKey = Key<OfPool>;

/// The place of something in its [`Arena`]. `Copy`; kept across turns, it simply misses once that is gone.
pub struct Key<Of> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> Of>,
}

/// A moment on the engine's clock: microseconds, never going back, from an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// Later by so much.
    pub fn plus(self, delay: Duration) -> Tick {
        let seconds = delay.as_secs().saturating_mul(1_000_000);
        Tick(
            self.0
                .saturating_add(seconds.saturating_add(delay.subsec_micros().into())),
        )
    }

    /// Microseconds from `earlier` to this; 0 if it is not later.
    pub fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl<T> Key<T> {
    /// The slot, for the poll's tokens.
    pub fn index(self) -> u32 {
        self.index
    }

    /// Which occupant of the slot, for the poll's tokens.
    pub fn generation(self) -> u32 {
        self.generation
    }

    /// Puts a key together again from what [`Key::index`] and [`Key::generation`] gave.
    pub fn from_parts(index: u32, generation: u32) -> Key<T> {
        Key {
            index,
            generation,
            of: PhantomData,
        }
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.generation) == (other.index, other.generation)
    }
}
impl<T> Eq for Key<T> {}
impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.index, self.generation).cmp(&(other.index, other.generation))
    }
}
impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// Holds the clients, or the servers. Insertion and removal are O(1); iteration is in slot order, the same in every run.
pub struct Arena<Of, T> {
    slots: slab::Slab<(u32, T)>,
    generation: u32,
    of: PhantomData<fn() -> Of>,
}

impl<Of, T> Default for Arena<Of, T> {
    fn default() -> Self {
        Arena {
            slots: slab::Slab::new(),
            generation: 0,
            of: PhantomData,
        }
    }
}

impl<Of, T> Arena<Of, T> {
    /// The key that the next [`Arena::insert`] will give out.
    pub fn next_key(&self) -> Key<Of> {
        Key::from_parts(self.slots.vacant_key() as u32, self.generation)
    }

    /// Takes `value` in.
    pub fn insert(&mut self, value: T) -> Key<Of> {
        let key = self.next_key();
        self.slots.insert((key.generation, value));
        self.generation = self.generation.wrapping_add(1);
        key
    }

    /// Gives it back.
    pub fn remove(&mut self, key: Key<Of>) -> Option<T> {
        self.get(key)?;
        self.slots
            .try_remove(key.index as usize)
            .map(|(_, value)| value)
    }

    /// Looks it up.
    pub fn get(&self, key: Key<Of>) -> Option<&T> {
        match self.slots.get(key.index as usize) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Looks it up.
    pub fn get_mut(&mut self, key: Key<Of>) -> Option<&mut T> {
        match self.slots.get_mut(key.index as usize) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Places that are kept for more.
    pub fn free(&self) -> usize {
        self.slots.capacity() - self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All of them, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (Key<Of>, &T)> {
        self.slots
            .iter()
            .map(|(index, (generation, value))| (Key::from_parts(index as u32, *generation), value))
    }

    /// The keys of all of them, in slot order.
    pub fn keys(&self) -> Vec<Key<Of>> {
        self.iter().map(|(key, _)| key).collect()
    }

    /// The first at or after a slot: for cursors that go on where they stopped.
    pub fn at_or_after(&self, slot: u32) -> Option<(Key<Of>, &T)> {
        let end = self.slots.capacity() as u32;
        (slot..end).find_map(|index| {
            self.slots
                .get(index as usize)
                .map(|(generation, value)| (Key::from_parts(index, *generation), value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_misses_the_next_occupant() {
        let mut arena = Arena::<OfClient, _>::default();
        let first = arena.insert("first");
        assert_eq!(arena.remove(first), Some("first"));
        let second = arena.insert("second");
        assert_eq!(first.index(), second.index());
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        assert_eq!(arena.get(second), Some(&"second"));
    }

    #[test]
    fn the_next_key_is_the_one_that_insert_gives() {
        let mut arena = Arena::<OfClient, _>::default();
        for n in 0..10 {
            let expected = arena.next_key();
            let key = arena.insert(n);
            assert_eq!(key, expected);
            if n % 3 == 0 {
                arena.remove(key);
            }
        }
        assert_eq!(arena.iter().count(), arena.len());
    }
}
