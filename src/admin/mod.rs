//! The console: answers the commands of clients that asked for the database `aether` or `pgbouncer`.
//!
//! Stands above the engine: reads it through its public methods and sends what it has to say through [`Engine::answer_part`].
//! What is said is taken apart by [`words`], [`command`] is the table of what there is, [`session`] keeps a session's statements
//! and the answer in progress, [`cursor`] makes long answers a part at a time, [`filter`] is what may follow a SHOW, and [`show`]
//! has the tables.

mod command;
mod cursor;
mod filter;
mod session;
mod show;
mod table;
mod words;

use std::collections::BTreeMap;

use crate::engine::{Ask, ClientKey, ClientState, Engine, Request};
use session::{Session, Step};

/// What is kept of console sessions between their messages.
#[derive(Default)]
pub struct Admin {
    sessions: BTreeMap<ClientKey, Session>,
}

impl Admin {
    /// Answers a message, or goes on with an answer.
    pub fn answer(&mut self, engine: &mut Engine, request: &Request) {
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
            Ask::Message(tag, body) => session.message(engine, *tag, body, &mut out),
            Ask::More => session.go_on(engine, &mut out),
        };
        match step {
            Step::Complete => engine.answer_end(key, &out),
            Step::GoesOn => engine.answer_part(key, &out),
        }
    }
}
