//! Which statements take the time: counted by their fingerprint, as many as were asked for, for `SHOW QUERIES`.
//!
//! A request of a client is counted for its first statement, from the request to ReadyForQuery; which that is, [`super::requests`]
//! finds out. Off unless `metrics.query_fingerprints` says how many to keep; then those that have taken least are forgotten, an eighth at a time, when
//! there are more.

use std::collections::BTreeMap;

use super::PoolKey;
use crate::fingerprint;

/// What is kept of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Where it is run.
    pub pool: PoolKey,
    /// The name of that pool.
    pub database: String,
    /// It without its values.
    pub text: Box<[u8]>,
    /// How often it has run.
    pub calls: u64,
    /// How long, all in all, in microseconds.
    pub total_us: u64,
    /// The longest time.
    pub max_us: u64,
}

/// All that are kept.
#[derive(Default)]
pub struct Queries {
    /// So many at most; 0: none.
    size: usize,
    known: BTreeMap<u64, Query>,
    /// Those that were forgotten to make room.
    forgotten: u64,
    text: Vec<u8>,
    /// Keys of prepared statements that were bound lately, by the last bits of their numbers.
    bound: Vec<Option<Bound>>,
}

/// A prepared statement whose key is known.
#[derive(Clone, Copy)]
struct Bound {
    id: u64,
    pool: PoolKey,
    key: u64,
}

/// So many of them.
const BOUND: usize = 256;

impl Queries {
    /// How many are to be kept.
    pub(super) fn resize(&mut self, size: usize) {
        self.size = size;
        if size == 0 {
            self.known.clear();
            self.bound.clear();
        }
        while self.known.len() > self.size {
            self.make_room();
        }
    }

    /// Whether any are.
    pub(super) fn is_on(&self) -> bool {
        self.size > 0
    }

    /// Those that are known, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &Query> {
        self.known.values()
    }

    /// How many were forgotten to make room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// A client asks this: the key of the statement; 0: there is none.
    pub(super) fn asked(&mut self, sql: &[u8], pool: PoolKey, database: &str) -> u64 {
        self.text.clear();
        fingerprint::write(sql, &mut self.text);
        let mut key = self.hash(u64::from(pool.index()));
        // Another statement may have the same hash.
        for _ in 0..8 {
            match self.known.get(&key) {
                Some(known) if known.pool == pool && *known.text == *self.text => return key,
                Some(_) => key = key.wrapping_add(1).max(1),
                None => {
                    if self.known.len() >= self.size {
                        self.make_room();
                    }
                    let new = Query {
                        pool,
                        database: database.to_owned(),
                        text: self.text.as_slice().into(),
                        calls: 0,
                        total_us: 0,
                        max_us: 0,
                    };
                    self.known.insert(key, new);
                    return key;
                }
            }
        }
        0
    }

    /// A client asks for a prepared statement by the number that it has here, as [`Queries::asked`] otherwise.
    pub(super) fn bound(&mut self, id: u64, sql: &[u8], pool: PoolKey, database: &str) -> u64 {
        let place = (id % BOUND as u64) as usize;
        match self.bound.get(place) {
            Some(Some(bound)) if bound.id == id && bound.pool == pool => bound.key,
            _ => {
                let key = self.asked(sql, pool, database);
                self.bound.resize(BOUND, None);
                if let Some(bound) = self.bound.get_mut(place) {
                    *bound = Some(Bound { id, pool, key });
                }
                key
            }
        }
    }

    /// It was answered.
    pub(super) fn answered(&mut self, key: u64, took_us: u64) {
        if let Some(query) = self.known.get_mut(&key) {
            query.calls += 1;
            query.total_us += took_us;
            query.max_us = query.max_us.max(took_us);
        }
    }

    /// Forgets an eighth of them: those that have taken least.
    fn make_room(&mut self) {
        self.bound.clear();
        let mut by_time: Vec<(u64, u64)> = self
            .known
            .iter()
            .map(|(key, query)| (query.total_us, *key))
            .collect();
        by_time.sort_unstable();
        for (_, key) in by_time.iter().take(self.known.len() / 8 + 1) {
            self.known.remove(key);
            self.forgotten += 1;
        }
    }

    /// Never 0. Whoever makes two statements meet finds them told apart by their texts all the same.
    fn hash(&self, pool: u64) -> u64 {
        const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut hash = pool.wrapping_mul(ODD);
        let mut mix = |word: [u8; 8]| {
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(ODD);
            hash ^= hash >> 32;
        };
        let (words, rest) = self.text.as_chunks::<8>();
        words.iter().copied().for_each(&mut mix);
        if !rest.is_empty() {
            let mut last = [0; 8];
            last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            mix(last);
        }
        (hash ^ self.text.len() as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(queries: &mut Queries, sql: &str) -> u64 {
        queries.asked(sql.as_bytes(), PoolKey::from_parts(0, 0), "db")
    }

    #[test]
    fn what_only_differs_in_values_is_counted_together() {
        let mut queries = Queries::default();
        queries.resize(10);
        for n in 0..100 {
            let key = ask(&mut queries, &format!("select {n}"));
            queries.answered(key, n);
        }
        let all: Vec<&Query> = queries.iter().collect();
        assert_eq!(all.len(), 1);
        assert_eq!(
            (all[0].calls, all[0].total_us, all[0].max_us),
            (100, 4_950, 99)
        );
        assert_eq!(&*all[0].text, b"select ?");
        let other = PoolKey::from_parts(1, 0);
        queries.asked(b"select 5", other, "other");
        assert_eq!(queries.iter().count(), 2, "another database's is another");
    }

    #[test]
    fn those_that_take_the_time_stay_when_there_are_too_many() {
        let mut queries = Queries::default();
        queries.resize(64);
        for n in 0..10 {
            let key = ask(&mut queries, &format!("select long{n}"));
            queries.answered(key, 1_000_000);
        }
        for n in 0..10_000 {
            let key = ask(&mut queries, &format!("select short{n}"));
            queries.answered(key, 1);
        }
        assert!(queries.iter().count() <= 64);
        assert_eq!(
            queries
                .iter()
                .filter(|query| query.total_us == 1_000_000)
                .count(),
            10
        );
        assert!(queries.forgotten() > 9_000);
        queries.resize(0);
        assert_eq!(queries.iter().count(), 0);
    }

    /// The key of a statement that was forgotten is not used again.
    #[test]
    fn prepared_statements_are_known_by_their_number() {
        let mut queries = Queries::default();
        queries.resize(8);
        let (one, other) = (PoolKey::from_parts(0, 0), PoolKey::from_parts(1, 0));
        let mut bind = |id, sql: &[u8], pool| {
            let key = queries.bound(id, sql, pool, "db");
            queries.answered(key, 5);
        };
        for _ in 0..3 {
            bind(1, b"select 1, 2", one);
            bind(1 + BOUND as u64, b"select a", one);
            bind(1, b"select 1, 2", other);
        }
        let calls = |queries: &Queries, text: &[u8], pool| {
            let of = |query: &&Query| *query.text == *text && query.pool == pool;
            queries.iter().find(of).map_or(0, |query| query.calls)
        };
        assert_eq!(calls(&queries, b"select ?, ...", one), 3);
        assert_eq!(calls(&queries, b"select a", one), 3);
        assert_eq!(calls(&queries, b"select ?, ...", other), 3);
        let key = queries.bound(7, b"select gone", one, "db");
        for n in 0..20 {
            let key = ask(&mut queries, &format!("select b{n}"));
            queries.answered(key, 1_000);
        }
        assert_eq!(calls(&queries, b"select gone", one), 0);
        let again = queries.bound(7, b"select gone", one, "db");
        queries.answered(again, 1);
        assert_eq!((calls(&queries, b"select gone", one), again), (1, key));
    }
}
