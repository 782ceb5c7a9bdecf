//! Clients without a server: what they say to the console, and the first query of those that sit idle.
//!
//! Commands for the console leave the engine as [`Request`]s; `admin` answers them with the methods here.

use super::client::Talk;
use super::pump::shares_statements;
use super::{Client, ClientKey, ClientState, Engine, Host, Input, Who, Why};
use crate::limits;
use crate::pool::cancel::CancelKey;
use crate::relay::{Skip, idle};
use crate::wire::backend;
use crate::wire::frame::{self, Header};
use crate::wire::refusal::{Refusal, notice};

/// Something for the console to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub client: ClientKey,
    /// What it asks for.
    pub ask: Ask,
}

/// What a console session asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The answer to a message: its letter and body.
    Message(u8, Vec<u8>),
    /// The next part of the answer.
    More,
    /// No longer the answer to what it waits for: a CancelRequest says so.
    Cancel,
}

/// AuthenticationOk and what a console session is told of itself.
pub(super) fn welcome(cancel: &CancelKey, message: &str) -> Vec<u8> {
    let mut out = Vec::new();
    backend::write_authentication_ok(&mut out);
    let version = format!("{}/aether", env!("CARGO_PKG_VERSION"));
    let parameters = [
        ("server_version", version.as_str()),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO"),
        ("TimeZone", "GMT"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
    ];
    for (name, value) in parameters {
        backend::write_parameter_status(&mut out, name.as_bytes(), value.as_bytes());
    }
    backend::write_backend_key_data(&mut out, cancel.pid, cancel.secret());
    if !message.is_empty() {
        notice(&mut out, message, None);
    }
    backend::write_ready(&mut out);
    out
}

impl Engine {
    /// Reads a console session.
    #[cold]
    pub(super) fn read_console(&mut self, key: ClientKey, host: &mut dyn Host) {
        self.ask_admin(key);
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let ClientState::Console(console) = &client.state else {
            return;
        };
        if console.talk != Talk::Quiet || !client.link.is_flushed() {
            if client.link.is_hung_up() || client.link.broken().is_some() {
                self.close_client(key, "client closed the connection", host);
            }
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        // What is carried comes first: nothing tells of it again, and more would not fit behind it.
        let carried = frame::whole(client.link.carry(), limits::CONSOLE_COMMAND_MAX);
        let input = if !matches!(carried, Ok(None)) {
            Input::Bytes(client.link.take_carry(&mut buffer))
        } else if client.link.is_readable() {
            client.link.read(&mut buffer)
        } else {
            Input::Nothing
        };
        match input {
            Input::Nothing => {}
            Input::Bytes(count) => {
                self.console_bytes(key, buffer.get(..count).unwrap_or_default(), host)
            }
            Input::Closed(_) => self.close_client(key, "client closed the connection", host),
        }
        self.buffer = buffer;
        if self
            .clients
            .get(key)
            .is_some_and(|client| client.link.is_readable())
        {
            self.list(Who::Client(key));
        }
    }

    fn console_bytes(&mut self, key: ClientKey, bytes: &[u8], host: &mut dyn Host) {
        let mut rest = bytes;
        loop {
            let Some(client) = self.clients.get_mut(key) else {
                return;
            };
            let ClientState::Console(console) = &mut client.state else {
                return;
            };
            if console.talk != Talk::Quiet || !client.link.is_flushed() {
                break;
            }
            match frame::whole(rest, limits::CONSOLE_COMMAND_MAX) {
                Ok(None) => break,
                Ok(Some((tag, body, after))) => {
                    rest = after;
                    self.console_message(key, tag, body, host);
                }
                Err(_) => {
                    return self.refuse(
                        key,
                        Refusal::protocol("the console takes no messages of that size"),
                        host,
                    );
                }
            }
        }
        if let Some(client) = self.clients.get_mut(key) {
            client.link.keep(rest);
        }
        self.ask_admin(key);
    }

    fn console_message(&mut self, key: ClientKey, tag: u8, body: &[u8], host: &mut dyn Host) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let ClientState::Console(console) = &mut client.state else {
            return;
        };
        match tag {
            b'X' => self.close_client(key, "client close request", host),
            // Everything is sent at once anyhow; and of a copy there is none.
            b'H' | b'd' | b'c' | b'f' => {}
            b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'S' | b'F' => {
                if !std::mem::replace(&mut console.used, true) {
                    self.console_stats.total.queries += 1;
                    self.console_stats.total.transactions += 1;
                }
                console.talk = Talk::Asked;
                self.requests.push(Request {
                    client: key,
                    ask: Ask::Message(tag, body.to_vec()),
                });
            }
            other => self.refuse(
                key,
                Refusal::protocol(format!("invalid frontend message type {other}")),
                host,
            ),
        }
    }

    /// Asks for the next part of an answer, once, when everything that was written before has gone.
    fn ask_admin(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let ClientState::Console(console) = &mut client.state else {
            return;
        };
        if console.talk == Talk::Answering && client.link.is_flushed() {
            console.talk = Talk::Asked;
            let ask = Ask::More;
            self.requests.push(Request { client: key, ask });
        }
    }

    /// A command waits for something: it is answered later.
    pub fn answer_later(&mut self, key: ClientKey, waits_for: String) {
        if let Some(client) = self.clients.get_mut(key)
            && let ClientState::Console(console) = &mut client.state
        {
            console.waits_for = Some(waits_for);
        }
    }

    /// A CancelRequest means this session. Whether there is anything that could be cancelled: a command that waits.
    pub(super) fn cancel_console(&mut self, key: ClientKey) -> bool {
        let state = self.clients.get(key).map(|client| client.state());
        let waits =
            matches!(state, Some(ClientState::Console(console)) if console.waits_for.is_some());
        if waits {
            let ask = Ask::Cancel;
            self.requests.push(Request { client: key, ask });
        }
        waits
    }

    /// Sends a part of an answer; the next one is asked for when this has gone.
    pub fn answer_part(&mut self, key: ClientKey, bytes: &[u8]) {
        self.answer(key, bytes, Talk::Answering);
    }

    /// Sends the end of an answer.
    pub fn answer_end(&mut self, key: ClientKey, bytes: &[u8]) {
        self.answer(key, bytes, Talk::Quiet);
    }

    fn answer(&mut self, key: ClientKey, bytes: &[u8], then: Talk) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let ClientState::Console(console) = &mut client.state else {
            return;
        };
        client.link.send(bytes);
        console.talk = then;
        console.waits_for = None;
        self.list(Who::Client(key));
    }

    /// Reads a client that is logged in and has no server: its first query needs one.
    pub(super) fn read_idle(&mut self, key: ClientKey, host: &mut dyn Host) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let buffer = &mut self.buffer;
        let input = if client.link.is_readable() && client.link.is_flushed() {
            client.link.read(buffer)
        } else {
            Input::Nothing
        };
        let input = match input {
            Input::Nothing if client.link.has_carry() => {
                Input::Bytes(client.link.take_carry(buffer))
            }
            input => input,
        };
        match input {
            Input::Bytes(count) if is_plain(client, buffer.get(..count).unwrap_or_default()) => {
                client.since = self.now;
                self.serve_at_once(key, count, host);
            }
            // Part of a record.
            Input::Nothing if client.link.is_readable() && client.link.is_flushed() => {
                self.list(Who::Client(key))
            }
            Input::Nothing => {}
            Input::Bytes(count) => {
                let buffer = std::mem::take(&mut self.buffer);
                let asks = self.idle_bytes(key, buffer.get(..count).unwrap_or_default(), host);
                self.buffer = buffer;
                if asks {
                    self.serve_at_once(key, 0, host);
                }
            }
            Input::Closed(Why::Eof) => {
                self.close_client(key, "client closed the connection without Terminate", host)
            }
            Input::Closed(why) => self.close_client(key, &format!("client lost: {why}"), host),
        }
    }

    /// A client asks for a server: it gets one and is run with it, or waits. `fresh`: what it has sent is in the loop's buffer, not
    /// in its link.
    fn serve_at_once(&mut self, key: ClientKey, fresh: usize, host: &mut dyn Host) {
        if fresh > 0
            && let Some(server) = self.pair_at_hand(key)
        {
            return self.run_pair_with(key, server, fresh, host);
        }
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        if fresh > 0 {
            let bytes = self.buffer.get(..fresh).unwrap_or_default();
            client.link.keep(bytes);
        }
        let Some(pool) = client.pool() else {
            return;
        };
        self.wait_for_server(key, pool, host);
        let client = self.clients.get(key);
        if let Some(ClientState::Paired(server)) = client.map(super::Client::state) {
            self.run_pair(key, *server, host);
        }
    }

    /// Whether they ask for a server.
    #[inline(never)]
    fn idle_bytes(&mut self, key: ClientKey, bytes: &[u8], host: &mut dyn Host) -> bool {
        let Some(client) = self.clients.get_mut(key) else {
            return false;
        };
        client.since = self.now;
        let skip = client
            .session
            .as_deref_mut()
            .map(|session| &mut session.skip);
        let (skipped, ready) = skip.map_or((0, false), |skip| skip.take(bytes));
        let bytes = bytes.get(skipped..).unwrap_or_default();
        let mut answer = Vec::new();
        if ready {
            backend::write_ready(&mut answer);
            client.link.send(&answer);
        }
        if let Some(pool) = client.pool().and_then(|pool| self.pools.get_mut(pool)) {
            let counters = &mut pool.stats.total;
            counters.received += skipped as u64;
            counters.sent += answer.len() as u64;
            counters.queries += u64::from(ready);
            counters.transactions += u64::from(ready);
        }
        let told = self.answer_idle(key, bytes);
        let bytes = bytes.get(told..).unwrap_or_default();
        let Some(client) = self.clients.get_mut(key) else {
            return false;
        };
        let header = Header::read(bytes);
        client.link.keep_start(bytes);
        let is_here =
            |header: &Header| bytes.len() >= header.message_len().min(limits::FIRST_MESSAGE_WITHIN);
        match header {
            Ok(header) if !header.is_some_and(|header| is_here(&header)) => {
                if client.link.is_readable() {
                    self.list(Who::Client(key));
                }
            }
            Ok(Some(Header { tag: b'X', .. })) => {
                self.close_client(key, "client close request", host)
            }
            // Nonsense is refused by the relay, without costing anybody more than a turn.
            _ => {
                client.link.reconsider();
                return true;
            }
        }
        false
    }

    /// Tells a client what it need not have a server for; how many of the bytes that answers.
    fn answer_idle(&mut self, key: ClientKey, bytes: &[u8]) -> usize {
        let Some(client) = self.clients.get_mut(key) else {
            return 0;
        };
        let Some(pool) = client.pool().and_then(|pool| self.pools.get_mut(pool)) else {
            return 0;
        };
        let shares = shares_statements(client, pool.config.max_prepared_statements);
        let Some(session) = client.session.as_deref_mut().filter(|_| shares) else {
            return 0;
        };
        self.edited.clear();
        let (told, batches) = idle::answer(bytes, &mut session.statements, &mut self.edited);
        client.link.send(&self.edited);
        let total = &mut pool.stats.total;
        total.received += told as u64;
        total.sent += self.edited.len() as u64;
        total.queries += batches;
        total.transactions += batches;
        told
    }
}

/// Whether what a client without a server has sent begins with a request that takes one, and enough of it is here.
fn is_plain(client: &Client, bytes: &[u8]) -> bool {
    let session = client.session.as_deref();
    let is_next = session.is_some_and(|session| session.skip == Skip::default());
    match Header::read(bytes) {
        Ok(Some(header)) if is_next && matches!(header.tag, b'Q' | b'P' | b'B') => {
            bytes.len() >= header.message_len().min(limits::FIRST_MESSAGE_WITHIN)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::Scene;
    use super::*;
    use crate::engine::{Event, Ready};
    use crate::wire::frontend;

    fn queries(count: usize) -> Vec<u8> {
        let mut out = Vec::new();
        (0..count).for_each(|_| frontend::query(&mut out, b"SHOW VERSION"));
        out
    }

    /// Found by reading: a readable event that came for bytes already read made the next read find nothing, and the commands
    /// that had come with them waited for the client to say something more.
    #[test]
    fn commands_sent_ahead_are_answered_although_a_read_finds_nothing() {
        let mut scene = Scene::new();
        let pipe = scene.console();
        pipe.borrow_mut().input.extend(queries(3));
        scene.ready(&pipe);
        assert_eq!(scene.answer_console(), 1);
        scene.ready(&pipe);
        assert_eq!(scene.answer_console(), 1);
        scene.ready(&pipe);
        assert_eq!(scene.answer_console(), 1);
    }

    /// Found by reading: behind commands that waited for their turn more was read, without a limit, until it did not fit.
    #[test]
    fn a_flood_of_commands_is_answered_to_its_end_and_read_in_bounded_pieces() {
        let mut scene = Scene::new();
        scene.engine.contain(false);
        let pipe = scene.console();
        let many = 20_000;
        pipe.borrow_mut().input.extend(queries(many));
        let mut answered = 0;
        for _ in 0..2 * many {
            scene.ready(&pipe);
            answered += scene.answer_console();
        }
        assert_eq!(answered, many);
    }

    /// A console client that does not read is sent one answer and no more: its outbox is bounded.
    #[test]
    fn a_console_client_that_does_not_read_is_not_read_either() {
        let mut scene = Scene::new();
        let pipe = scene.console();
        pipe.borrow_mut().stuck = true;
        let mut calls = Vec::new();
        (0..10_000).for_each(|_| frame::message(&mut calls, b'F', |_| {}));
        pipe.borrow_mut().input.extend(calls);
        let who = pipe.borrow().who.expect("the engine knows it");
        let ready = Ready {
            read: true,
            ..Ready::default()
        };
        scene.turn(vec![Event::Ready(who, ready)]);
        let Who::Client(key) = who else {
            panic!("a client")
        };
        let client = scene.engine.clients().get(key).expect("it lives");
        assert!(client.link().held().1 < 1_000, "{:?}", client.link().held());
    }
}
