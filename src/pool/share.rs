//! What server connections are counted against: a database, a user, a user within a database. How many there are and may be,
//! which idle ones could make room, and who waits for that, the longest waiting first.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::Kind;
use crate::arena::{PoolKey, ServerKey};

/// The waiters of one pool for servers of one kind.
#[derive(Clone, Debug)]
pub struct Lane {
    /// The pool.
    pub pool: PoolKey,
    /// The kind of server.
    pub kind: Rc<Kind>,
}

/// One count of server connections, and its limit.
#[derive(Debug, Default)]
pub struct Share {
    used: usize,
    max: Option<usize>,
    /// So many more, for those who have waited for long.
    reserve: usize,
    /// Idle servers by when they became that, the least recently used one first; empty where nothing of the sort is limited
    /// ([`super::Pools`]).
    idle: VecDeque<(u64, ServerKey)>,
    /// Lanes that wait for this limit, by the ticket of the client that is next in them.
    waiting: BTreeMap<u64, Lane>,
}

impl Share {
    /// An unused one. `max` 0: no limit.
    pub fn new(max: usize) -> Share {
        let mut share = Share::default();
        share.limit(max, 0);
        share
    }

    /// Sets the limit, 0: none, and what is in reserve beyond it.
    pub fn limit(&mut self, max: usize, reserve: usize) {
        (self.max, self.reserve) = ((max > 0).then_some(max), reserve);
    }

    /// Server connections, in any state.
    pub fn used(&self) -> usize {
        self.used
    }

    /// The limit, if there is one.
    pub fn max(&self) -> Option<usize> {
        self.max
    }

    /// Idle ones among them.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Whether one more may be made.
    pub fn has_room(&self) -> bool {
        self.max.is_none_or(|max| self.used < max)
    }

    /// Whether one more may be made for somebody who has waited for long.
    pub fn has_reserve(&self) -> bool {
        self.max.is_some_and(|max| self.used < max + self.reserve)
    }

    /// Whether something of the reserve is in use.
    pub fn is_into_reserve(&self) -> bool {
        self.max.is_some_and(|max| self.used > max)
    }

    /// Server connections above the limit and the reserve; after they were lowered.
    pub fn surplus(&self) -> usize {
        let most = self.max.map(|max| max + self.reserve);
        most.map_or(0, |most| self.used.saturating_sub(most))
    }

    /// Whether one more may be made, or could be once an idle one has made room.
    pub fn can_serve(&self) -> bool {
        self.has_room() || !self.idle.is_empty()
    }

    /// The idle server that was not used for the longest time.
    pub fn oldest_idle(&self) -> Option<ServerKey> {
        self.idle.front().map(|(_, server)| *server)
    }

    /// Idle servers above the limit, the least recently used ones.
    pub fn surplus_idle(&self) -> impl Iterator<Item = ServerKey> + '_ {
        self.idle
            .iter()
            .map(|(_, server)| *server)
            .take(self.surplus())
    }

    /// Whether nothing is counted here and nobody waits.
    pub fn is_unused(&self) -> bool {
        self.used == 0 && self.waiting.is_empty()
    }

    pub(super) fn clear_idle(&mut self) {
        self.idle.clear();
    }

    pub(super) fn add(&mut self) {
        self.used += 1;
    }

    pub(super) fn remove(&mut self) {
        self.used -= 1;
    }

    /// `stamp`: later than all before.
    pub(super) fn put_idle(&mut self, stamp: u64, server: ServerKey) {
        self.idle.push_back((stamp, server));
    }

    /// As a rule it is the last one.
    pub(super) fn take_idle(&mut self, stamp: u64) {
        if self.idle.back().is_some_and(|(last, _)| *last == stamp) {
            self.idle.pop_back();
        } else if let Ok(place) = self.idle.binary_search_by_key(&stamp, |(stamp, _)| *stamp) {
            self.idle.remove(place);
        }
    }

    pub(super) fn park(&mut self, ticket: u64, lane: Lane) {
        self.waiting.insert(ticket, lane);
    }

    pub(super) fn unpark(&mut self, ticket: u64) {
        self.waiting.remove(&ticket);
    }

    /// Lanes that wait here.
    pub(super) fn parked(&self) -> usize {
        self.waiting.len()
    }

    /// The next that can be served here, if any can.
    pub(super) fn wake(&mut self) -> Option<(u64, Lane)> {
        self.can_serve().then(|| self.waiting.pop_first()).flatten()
    }

    /// Asserts what holds once everybody has been looked at.
    pub(super) fn check_settled(&self, what: &str) {
        assert!(
            self.surplus() == 0 || self.idle.is_empty(),
            "{what}: over its limit with idle servers"
        );
        assert!(
            self.waiting.is_empty() || !self.can_serve(),
            "{what}: somebody waits who could be served"
        );
    }
}
