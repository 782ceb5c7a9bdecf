//! Keeps a panic to the connection that it happened to (ARCHITECTURE, invariant 12).
//!
//! No bytes from any peer can make the engine panic; should code panic all the same, the step is ended, its connection and
//! the one that it is paired with are closed without another word, and the books are held against the arenas. If they do not
//! agree, the panic goes on and ends the process: better stop than mix clients. Off unless asked for, so that in tests and
//! in the simulation every panic is one.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::{
    BUFFER_LEN, Client, ClientKey, ClientState, Engine, Host, ServerKey, ServerState, Who,
};
use crate::wire::frame::printable;
use crate::wire::refusal::{Blame, Refusal};

/// Whom a step is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Party {
    /// A client without a server.
    Client(ClientKey),
    /// A server without a client.
    Server(ServerKey),
    /// Both.
    Pair(ClientKey, ServerKey),
}

impl Party {
    /// A client, and its server if it has one.
    pub(super) fn of_client(key: ClientKey, state: &ClientState) -> Party {
        match state.server() {
            Some(server) => Party::Pair(key, server),
            None => Party::Client(key),
        }
    }

    /// A server, and its client if it has one.
    pub(super) fn of_server(key: ServerKey, state: &ServerState) -> Party {
        match state.client() {
            Some(client) => Party::Pair(client, key),
            None => Party::Server(key),
        }
    }
}

impl Engine {
    /// Whether a panic is kept to the connection that it happened to. Off at first.
    pub fn contain(&mut self, on: bool) {
        self.containing = on;
    }

    /// Panics that were kept to their connection.
    pub fn contained(&self) -> u64 {
        self.contained
    }

    /// Runs a step of one connection, and keeps a panic to that and its pair.
    pub fn guard(
        &mut self,
        who: Who,
        host: &mut dyn Host,
        step: impl FnOnce(&mut Engine, &mut dyn Host),
    ) {
        if let Some(party) = self.party(who) {
            self.guarded(party, host, step);
        }
    }

    /// Who is meant, and the other end if there is one; `None`: it has gone.
    pub(super) fn party(&self, who: Who) -> Option<Party> {
        Some(match who {
            Who::Client(key) => Party::of_client(key, &self.clients.get(key)?.state),
            Who::Server(key) => Party::of_server(key, &self.servers.get(key)?.state),
        })
    }

    pub(super) fn guarded(
        &mut self,
        party: Party,
        host: &mut dyn Host,
        step: impl FnOnce(&mut Engine, &mut dyn Host),
    ) {
        if !self.containing {
            return step(self, host);
        }
        // What a broken step leaves behind is looked at before anybody else is run.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| step(self, host))) {
            self.end_party(party, panic, host);
        }
    }

    #[cold]
    fn end_party(&mut self, party: Party, panic: Box<dyn Any + Send>, host: &mut dyn Host) {
        self.contained += 1;
        log::error!(
            "internal error no. {} since the start: {}; closing {}",
            self.contained,
            text_of(&*panic),
            self.describe(party)
        );
        self.buffer.resize(BUFFER_LEN, 0); // the step may have taken it along
        let closed = catch_unwind(AssertUnwindSafe(|| {
            self.abandon(party, host);
            self.check_books();
        }));
        if closed.is_err() {
            log::error!(
                "the books do not agree after an internal error: better stop than mix clients"
            );
            resume_unwind(panic);
        }
    }

    /// Ends both ends without touching their connections, and takes them off the books.
    fn abandon(&mut self, party: Party, host: &mut dyn Host) {
        let (client, server) = match party {
            Party::Client(client) => (Some(client), None),
            Party::Server(server) => (None, Some(server)),
            Party::Pair(client, server) => (Some(client), Some(server)),
        };
        // Perhaps they were parted, or came together, in the step that broke.
        let server = server.or_else(|| self.clients.get(client?)?.state.server());
        let client = client.or_else(|| self.servers.get(server?)?.state.client());
        if let Some(key) = client {
            self.forget(key);
            let is_counted = |client: &Client| matches!(client.state, ClientState::Leaving { .. });
            if self
                .clients
                .remove(key)
                .is_some_and(|client| !is_counted(&client))
            {
                self.tally.client_closed("internal", *b"XX000");
            }
        }
        if let Some(key) = server {
            self.abandon_server(key, host);
        }
    }

    fn abandon_server(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some(server) = self.servers.get(key) else {
            return;
        };
        if server.state.is_connecting() {
            // Whoever waits for it is told, and the next attempt has a pause.
            let refusal = Refusal::fatal(b"XX000", "internal error of the pooler", Blame::Operator)
                .detail("It happened while the pooler logged in to a server.")
                .hint("See Aether's log.");
            return self.connect_failed(key, refusal, host);
        }
        match server.state {
            ServerState::Cancelling(_) | ServerState::Forwarding(_) => self.drop_cancel(key, host),
            _ => {
                if let Some(pool) = self.pools.get_mut(server.pool) {
                    pool.stats.events.server_closed("internal error");
                }
                self.drop_server(key);
            }
        }
    }

    fn describe(&self, party: Party) -> String {
        let client = |key| {
            self.clients.get(key).map_or_else(
                || "a client".to_owned(),
                |client| format!("client {} {}", client.id, client.label()),
            )
        };
        let server = |key| {
            self.servers.get(key).map_or_else(
                || "a server".to_owned(),
                |server| format!("server {}", server.id),
            )
        };
        match party {
            Party::Client(key) => client(key),
            Party::Server(key) => server(key),
            Party::Pair(client_key, server_key) => {
                format!("{} and {}", client(client_key), server(server_key))
            }
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    printable(text.unwrap_or("a panic without a text").as_bytes())
}

#[cfg(test)]
mod tests;
