//! The console: answers the commands of clients that asked for the database `aether` or `pgbouncer`.
//!
//! Stands above the engine: reads it through its public methods and sends what it has to say through [`Engine::answer_part`].
//! What is said is taken apart by [`words`], [`command`] is the table of what there is, [`session`] keeps a session's statements
//! and the answer in progress, [`cursor`] makes long answers a part at a time, [`share`] leaves the loop's time to others,
//! [`filter`] is what may follow a SHOW, [`show`] has the tables, [`control`] what changes the engine, and [`configure`] what
//! changes the configuration.

mod command;
mod configure;
mod control;
mod cursor;
mod filter;
mod session;
mod share;
mod show;
mod table;
mod words;

use std::collections::BTreeMap;
use std::time::Duration;

pub use configure::{Changed, Steward};

use crate::arena::Tick;
use crate::engine::{Ask, ClientKey, ClientState, Engine, Event, Host, Ready, Request, Who};
use crate::wire::refusal::Refusal;
use control::{Standing, Waiter};
use session::{Session, Step, World};
use share::Share;

/// What is kept of console sessions between their messages.
#[derive(Default)]
pub struct Admin {
    sessions: BTreeMap<ClientKey, Session>,
    /// Commands that wait, the first to come first.
    waiters: Vec<Waiter>,
    share: Share,
}

impl Admin {
    /// Whether there is anything to do after a turn that has brought these.
    pub fn has_work(&self, requests: &[Request]) -> bool {
        !requests.is_empty() || self.share.is_asked() || !self.waiters.is_empty()
    }

    /// The last call of [`Admin::serve`] has taken so long, and ended now.
    pub fn served(&mut self, took: Duration, now: Tick) {
        self.share.used(took, now);
    }

    /// Answers what is asked, and what has waited and need not wait any more; to be called after every turn. What comes back is
    /// to be told to the engine before anything else. A panic is kept to the session that it happened to.
    pub fn serve(
        &mut self,
        engine: &mut Engine,
        requests: &[Request],
        steward: &mut dyn Steward,
        host: &mut dyn Host,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for request in self.share.take(requests, engine.now()) {
            let asker = Who::Client(request.client);
            engine.guard(asker, host, |engine, _| {
                self.answer(engine, &request, steward, &mut events)
            });
            events.push(Event::Ready(asker, Ready::default()));
        }
        if !self.waiters.is_empty() {
            self.look_at_waiters(engine, &mut events);
        }
        events
    }

    /// When there is something to do, whatever happens: the end of a rest for which somebody waits, or of a command's own time.
    pub fn wake(&self) -> Option<Tick> {
        let until = self.waiters.iter().map(|waiter| waiter.waiting.until());
        until.flatten().chain(self.share.wake()).min()
    }

    /// Answers a message, or goes on with an answer.
    fn answer(
        &mut self,
        engine: &mut Engine,
        request: &Request,
        steward: &mut dyn Steward,
        events: &mut Vec<Event>,
    ) {
        let key = request.client;
        let client = engine.clients().get(key);
        let Some(ClientState::Console(console)) = client.map(|client| client.state()) else {
            return;
        };
        let role = console.role;
        if !self.sessions.contains_key(&key) {
            // Whoever has gone is forgotten when somebody comes.
            self.sessions
                .retain(|key, _| engine.clients().get(*key).is_some());
        }
        let session = self
            .sessions
            .entry(key)
            .or_insert_with(|| Session::new(role));
        let mut out = Vec::new();
        let step = match &request.ask {
            Ask::Message(tag, body) => {
                let mut world = World {
                    engine: &mut *engine,
                    steward,
                    events,
                };
                session.message(&mut world, *tag, body, &mut out)
            }
            Ask::More => session.go_on(engine, &mut out),
            Ask::Cancel => return self.cancel(engine, key),
        };
        match step {
            Step::Complete => engine.answer_end(key, &out),
            Step::GoesOn => engine.answer_part(key, &out),
            Step::Waits(waiting) => {
                let client = key;
                self.waiters.push(Waiter { client, waiting });
            }
            Step::Silent => {}
        }
    }

    /// A command that waits does so no longer; what it has begun is undone.
    fn cancel(&mut self, engine: &mut Engine, key: ClientKey) {
        let place = self.waiters.iter().position(|waiter| waiter.client == key);
        let Some(place) = place else {
            return; // it has been answered meanwhile
        };
        let waiter = self.waiters.remove(place);
        let others = self.waiters.iter_mut().map(|waiter| &mut waiter.waiting);
        waiter.waiting.cancelled(engine, others);
        if let Some(session) = self.sessions.get_mut(&key) {
            let mut out = Vec::new();
            let text = "canceling statement due to user request";
            session.waited(&Standing::Failed(Refusal::error(b"57014", text)), &mut out);
            engine.answer_end(key, &out);
        }
    }

    /// Answers commands whose wait is over. One whose session has gone is looked at all the same: it may have to be undone.
    fn look_at_waiters(&mut self, engine: &mut Engine, events: &mut Vec<Event>) {
        let mut at = 0;
        while let Some(waiter) = self.waiters.get(at) {
            let key = waiter.client;
            let is_there = engine.clients().get(key).is_some();
            let standing = waiter.waiting.standing(engine);
            if let Standing::On(what) = standing {
                engine.answer_later(key, what);
                // Nobody is there to be told, and there is nothing to undo.
                if is_there || waiter.waiting.until().is_some() {
                    at += 1;
                } else {
                    self.waiters.remove(at);
                }
                continue;
            }
            let waiter = self.waiters.remove(at);
            if waiter.waiting.is_late(engine.now()) && matches!(standing, Standing::Failed(_)) {
                let others = self.waiters.iter_mut().map(|waiter| &mut waiter.waiting);
                waiter.waiting.give_up(engine, others);
            }
            if let Some(session) = self.sessions.get_mut(&key).filter(|_| is_there) {
                let mut out = Vec::new();
                session.waited(&standing, &mut out);
                engine.answer_end(key, &out);
            }
            events.push(Event::Ready(Who::Client(key), Ready::default()));
        }
    }
}
