//! What clients wait to be told: what servers make of the settings that they came with.
//!
//! All who came with the same wait for one answer, and one of them, the first to come, stands in the lane for it. As long as
//! a server is being asked nobody does: no second server is taken for the same question, and nobody behind is held up.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::super::{Kind, Known, Wants};
use super::{Pools, Waiter};
use crate::arena::{ClientKey, PoolKey, ServerKey};
use crate::relay::{Settings, Vars};

/// Who wants to know the same.
#[derive(Default)]
pub(in crate::pool) struct Question {
    /// Who waits for the answer, by ticket.
    pub(in crate::pool) askers: BTreeMap<u64, Waiter>,
    /// The ticket of the one that stands in the lane for all.
    pub(in crate::pool) in_lane: Option<u64>,
}

impl Pools {
    /// An idle server is asked what it makes of settings.
    pub fn asking(
        &mut self,
        pool_key: PoolKey,
        server: ServerKey,
        kind: &Rc<Kind>,
        settings: &Rc<Settings>,
    ) {
        if let Some(pool) = self.arena.get_mut(pool_key) {
            pool.welcomes.note(kind, settings, Known::Asking);
        }
        self.review(pool_key, kind, settings);
        self.checking(pool_key, server, kind);
    }

    /// A server is asked no more.
    pub fn asking_ended(&mut self, pool_key: PoolKey, kind: &Rc<Kind>, settings: &Rc<Settings>) {
        if let Some(pool) = self.arena.get_mut(pool_key) {
            pool.welcomes.give_up(kind, settings);
        }
        self.review(pool_key, kind, settings);
        self.check_ended(pool_key, kind);
    }

    /// Does a question need a server now? Who stands in the lane for it?
    pub(super) fn review(&mut self, pool_key: PoolKey, kind: &Rc<Kind>, settings: &Rc<Settings>) {
        let Some(pool) = self.arena.get_mut(pool_key) else {
            return;
        };
        let is_asked = pool.welcomes.is_asking(kind, settings);
        let is_answered = pool.welcome_with(kind, settings).is_some();
        let questions = pool.kinds.get_mut(kind).map(|state| &mut state.questions);
        let Some(question) = questions.and_then(|questions| questions.get_mut(settings)) else {
            return;
        };
        let (before, first) = (question.in_lane, question.askers.values().next().cloned());
        let first = first.filter(|_| !is_asked && !is_answered);
        question.in_lane = first.as_ref().map(|waiter| waiter.ticket);
        let (now, is_empty) = (question.in_lane, question.askers.is_empty());
        if is_empty {
            pool.state(kind).questions.remove(settings);
        } else if is_answered {
            pool.news.insert((kind.clone(), settings.clone()));
        }
        if before == now {
            return;
        }
        if let Some(ticket) = before {
            pool.step_out(kind, ticket);
        }
        if let Some(waiter) = first {
            pool.line_up(kind, waiter);
        }
        self.refront(pool_key, kind);
    }

    /// Who waits for the answer to a question, the first to come first.
    pub fn askers(
        &self,
        pool: PoolKey,
        kind: &Rc<Kind>,
        settings: &Rc<Settings>,
    ) -> Vec<ClientKey> {
        let state = self.arena.get(pool).and_then(|pool| pool.kinds.get(kind));
        let question = state.and_then(|state| state.questions.get(settings));
        let askers = question.into_iter().flat_map(|all| all.askers.values());
        askers.map(|waiter| waiter.client).collect()
    }

    /// Takes those out of the queue who wait for the answer to a question, the first to come first.
    pub fn take_askers(
        &mut self,
        pool_key: PoolKey,
        kind: &Rc<Kind>,
        settings: &Rc<Settings>,
    ) -> Vec<Waiter> {
        let Some(pool) = self.arena.get_mut(pool_key) else {
            return Vec::new();
        };
        let questions = pool.kinds.get_mut(kind).map(|state| &mut state.questions);
        let Some(question) = questions.and_then(|questions| questions.remove(settings)) else {
            return Vec::new();
        };
        if let Some(ticket) = question.in_lane {
            pool.step_out(kind, ticket);
        }
        let askers: Vec<Waiter> = question.askers.into_values().collect();
        for waiter in &askers {
            pool.tickets.remove(&waiter.client);
        }
        self.refront(pool_key, kind);
        if let Some(pool) = self.arena.get_mut(pool_key) {
            pool.drop_kind_if_unused(kind);
        }
        askers
    }

    /// Takes those out of the queue whose questions are answered.
    pub fn take_welcomed(&mut self, pool_key: PoolKey) -> Vec<(Waiter, Rc<Vars>)> {
        let mut welcomed = Vec::new();
        while let Some(pool) = self.arena.get_mut(pool_key)
            && let Some((kind, settings)) = pool.news.pop_first()
        {
            match pool.welcome_with(&kind, &settings) {
                Some(vars) => {
                    let askers = self.take_askers(pool_key, &kind, &settings).into_iter();
                    welcomed.extend(askers.map(|waiter| (waiter, vars.clone())));
                }
                // It has been forgotten again meanwhile.
                None => self.review(pool_key, &kind, &settings),
            }
        }
        welcomed
    }

    /// A client joins those who want to know the same.
    pub(super) fn wonder(&mut self, pool_key: PoolKey, waiter: Waiter, kind: &Rc<Kind>) {
        let Wants::Welcome(settings) = waiter.wants.clone() else {
            return;
        };
        if let Some(pool) = self.arena.get_mut(pool_key) {
            let questions = &mut pool.state(kind).questions;
            let question = questions.entry(settings.clone()).or_default();
            question.askers.insert(waiter.ticket, waiter);
        }
        self.review(pool_key, kind, &settings);
    }
}
