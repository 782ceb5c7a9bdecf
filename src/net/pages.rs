//! The address at which metrics are told: sockets and answers. What is asked for is read by [`crate::metrics::http`], what is told
//! comes out of a [`Scrape`].
//!
//! Answers are made in parts, the next one when the last has gone, and one turn of the loop makes one part at most, for the askers
//! in turn; an asker that does not read is left alone, and has to make room after a while. Nothing here knows the engine's
//! clients, and none of its limits counts these connections.

use std::io;
use std::rc::Rc;

use mio::{Registry, Token};
use slab::Slab;

use super::listener::Listener;
use super::{socket, tls};
use crate::arena::Tick;
use crate::config::MetricsConfig;
use crate::engine::{Engine, Given, Handover, Protection, Stream, Taken, TlsSide};
use crate::limits;
use crate::metrics::http::{self, Bad, Length, Page, Request};
use crate::metrics::{self, Facts, Scrape, Text};

/// Listening sockets there may be.
const LISTENERS_MAX: usize = 64;
/// Tokens from `first` on that belong to all of this.
pub(super) const TOKENS: usize = LISTENERS_MAX + limits::PAGES_MAX;

/// Listeners and connections.
pub(super) struct Pages {
    first: usize,
    listeners: Vec<Listener>,
    connections: Slab<Connection>,
    /// Somebody may wait to be accepted; not before then.
    incoming: Option<Tick>,
    /// The asker for whom a part was made last.
    served: usize,
}

/// Somebody who asks.
struct Connection {
    stream: Box<dyn Stream>,
    state: State,
    /// When the state began.
    since: Tick,
    readable: bool,
    writable: bool,
    /// What has come of the next request.
    input: Vec<u8>,
    /// What is to be sent, from `sent` on.
    output: Vec<u8>,
    sent: usize,
}

enum State {
    /// A request is read, or waited for.
    Reading,
    /// An answer is being sent. `Some`: it goes on when this has gone.
    Answering { rest: Option<Rest>, keep: bool },
    /// Our side is closed; the end of the other is waited for.
    Leaving,
}

/// What is left of an answer.
struct Rest {
    scrape: Box<Scrape>,
    format: metrics::Format,
    chunked: bool,
}

impl Pages {
    /// Takes listeners over. `first`: the first token that is theirs.
    pub(super) fn new(
        first: usize,
        listeners: Vec<Listener>,
        registry: &Registry,
    ) -> io::Result<Pages> {
        let mut pages = Pages {
            first,
            listeners: Vec::new(),
            connections: Slab::new(),
            incoming: Some(Tick(0)),
            served: 0,
        };
        for (at, mut listener) in listeners.into_iter().take(LISTENERS_MAX).enumerate() {
            listener.register(registry, Token(first + at))?;
            pages.listeners.push(listener);
        }
        Ok(pages)
    }

    /// The sockets that listen, to be handed over.
    pub(super) fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The same, to be taken over.
    pub(super) fn listeners_mut(&mut self) -> &mut [Listener] {
        &mut self.listeners
    }

    /// Leaves the sockets that listen to another process that has them, too.
    pub(super) fn leave(&mut self, registry: &Registry) {
        for listener in self.listeners.drain(..) {
            listener.leave(registry);
        }
    }

    /// Whether anybody can ask, or waits for an answer.
    pub(super) fn is_on(&self) -> bool {
        !self.listeners.is_empty() || !self.connections.is_empty()
    }

    /// Notes what the poll said, if it is about one of these.
    pub(super) fn note(&mut self, token: usize, event: &mio::event::Event) -> bool {
        let Some(place) = token.checked_sub(self.first).filter(|at| *at < TOKENS) else {
            return false;
        };
        match place.checked_sub(LISTENERS_MAX) {
            None => self.incoming = Some(Tick(0)),
            Some(slot) => {
                if let Some(connection) = self.connections.get_mut(slot) {
                    let over = event.is_read_closed() || event.is_error();
                    connection.readable |= event.is_readable() || over;
                    connection.writable |= event.is_writable() || over;
                }
            }
        }
        true
    }

    /// Does what can be done. When it wants to be called again; not later than now if there is more to do at once.
    pub(super) fn turn(
        &mut self,
        now: Tick,
        engine: &Engine,
        registry: &Rc<Registry>,
        scratch: &tls::Scratch,
        facts: &dyn Fn() -> Facts,
    ) -> Option<Tick> {
        if self.incoming.take_if(|at| *at <= now).is_some() {
            self.incoming = self.accept(now, engine, registry, scratch);
        }
        let mut handshakes = limits::HANDSHAKES_PER_TURN;
        let mut wake: Option<Tick> = self.incoming;
        // The one behind the last that was served is first.
        let mut parts = 1;
        let (before, behind): (Vec<usize>, Vec<usize>) = self
            .connections
            .iter()
            .map(|(slot, _)| slot)
            .partition(|slot| *slot <= self.served);
        for slot in behind.into_iter().chain(before) {
            let Some(connection) = self.connections.get_mut(slot) else {
                continue;
            };
            if connection.stream.protection() == Protection::Handshake && connection.readable {
                if handshakes == 0 {
                    wake = Some(now);
                    continue;
                }
                handshakes -= 1;
            }
            let had = parts;
            let after = connection.go_on(now, engine, facts, &mut parts);
            if parts < had {
                self.served = slot;
            }
            let next = match after {
                After::Waits => Some(connection.deadline()).filter(|at| *at > now),
                After::GoesOn => Some(now),
                After::Ends => None,
            };
            match next {
                Some(at) => wake = Some(wake.map_or(at, |wake| wake.min(at))),
                None => drop(self.connections.remove(slot)),
            }
        }
        wake
    }

    /// Takes those who wait, so many of them. When more may be taken: the poll tells of no one who was there before.
    fn accept(
        &mut self,
        now: Tick,
        engine: &Engine,
        registry: &Rc<Registry>,
        scratch: &tls::Scratch,
    ) -> Option<Tick> {
        let mut again = None;
        let tls = engine.config().metrics.tls.clone();
        for at in 0..self.listeners.len() {
            for nth in 1..=limits::PAGES_MAX {
                if nth == limits::PAGES_MAX {
                    again = Some(now);
                }
                if self.connections.len() >= limits::PAGES_MAX {
                    self.make_room();
                }
                let first = self.first + LISTENERS_MAX;
                let entry = self.connections.vacant_entry();
                let token = Token(first + entry.key());
                let listener = self.listeners.get(at);
                let accepted = listener.map(|of| of.accept(registry, token));
                match accepted {
                    Some(Ok(Ok(socket))) => {
                        let by_tcp = !socket.is_unix();
                        let stream: Box<dyn Stream> = Box::new(socket);
                        let stream = match tls.clone().filter(|_| by_tcp) {
                            None => Ok(stream),
                            Some(acceptor) => {
                                let direct = false;
                                let side = TlsSide::Client { acceptor, direct };
                                tls::secure(stream, side, Handover::default(), scratch)
                            }
                        };
                        match stream {
                            Ok(stream) => drop(entry.insert(Connection::new(stream, now))),
                            Err(why) => log::warn!("metrics: TLS cannot be set up: {why}"),
                        }
                    }
                    Some(Ok(Err(error))) => {
                        log::warn!("metrics: cannot take a connection: {error}");
                    }
                    Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Some(Err(error)) => {
                        let error = socket::describe(&error);
                        log::warn!("metrics: cannot accept connections: {error}");
                        let pause = std::time::Duration::from_millis(limits::ACCEPT_PAUSE_MS);
                        again = again.or(Some(now.plus(pause)));
                        break;
                    }
                    None => break,
                }
            }
        }
        again
    }

    /// Closes the connection whose state has lasted longest.
    fn make_room(&mut self) {
        let oldest = self.connections.iter().min_by_key(|(_, of)| of.since);
        if let Some((slot, _)) = oldest {
            self.connections.remove(slot);
        }
    }
}

/// What came of working on a connection.
enum After {
    Waits,
    GoesOn,
    Ends,
}

impl Connection {
    fn new(stream: Box<dyn Stream>, now: Tick) -> Connection {
        Connection {
            stream,
            state: State::Reading,
            since: now,
            readable: true,
            writable: true,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
        }
    }

    fn deadline(&self) -> Tick {
        let ms = match self.state {
            State::Reading => limits::PAGE_REQUEST_MS,
            State::Answering { .. } => limits::PAGE_ANSWER_MS,
            State::Leaving => limits::LINGER_MS,
        };
        self.since.plus(std::time::Duration::from_millis(ms))
    }

    fn enter(&mut self, state: State, now: Tick) {
        (self.state, self.since) = (state, now);
    }

    /// `parts`: so many may be made in this turn; beyond that there is another one.
    fn go_on(
        &mut self,
        now: Tick,
        engine: &Engine,
        facts: &dyn Fn() -> Facts,
        parts: &mut usize,
    ) -> After {
        loop {
            if !self.flush() {
                return After::Ends;
            }
            let shakes = self.stream.protection() == Protection::Handshake;
            if self.sent < self.output.len() || (self.stream.holds() && !shakes) {
                return After::Waits;
            }
            self.sent = 0;
            match self.state {
                // The next part has use for it; each one that was freed would be wiped.
                State::Answering { rest: Some(_), .. } => self.output.clear(),
                _ => self.output = Vec::new(),
            }
            match &mut self.state {
                State::Reading => match self.read(now, engine, facts) {
                    Some(after) => return after,
                    None => continue,
                },
                State::Answering { rest: Some(_), .. } if *parts == 0 => return After::GoesOn,
                State::Answering { rest, .. } if rest.is_some() => {
                    *parts -= 1;
                    if let Some(part) = rest.as_mut()
                        && part.write(engine, &mut self.output)
                    {
                        *rest = None;
                    }
                }
                State::Answering { keep: true, .. } => self.enter(State::Reading, now),
                State::Answering { .. } => {
                    self.stream.shutdown();
                    self.enter(State::Leaving, now);
                }
                State::Leaving => return self.linger(),
            }
        }
    }

    /// Sends what it can. Whether anybody is there still.
    fn flush(&mut self) -> bool {
        while self.writable {
            let rest = self.output.get(self.sent..).unwrap_or_default();
            if rest.is_empty() {
                // In a handshake it holds nothing that could be sent, and says that it does.
                match self.stream.flush() {
                    Given::Bytes(_) => return true,
                    Given::Blocked => self.writable = false,
                    Given::Closed(_) => return false,
                }
                continue;
            }
            match self.stream.write(rest) {
                Given::Bytes(count) => self.sent += count,
                Given::Blocked => self.writable = false,
                Given::Closed(_) => return false,
            }
        }
        true
    }

    /// Reads on, and answers a request that is whole. `None`: there is something to send.
    fn read(&mut self, now: Tick, engine: &Engine, facts: &dyn Fn() -> Facts) -> Option<After> {
        loop {
            match http::read(&self.input) {
                Ok(Some((request, used))) => {
                    self.input.drain(..used);
                    self.answer(&request, now, engine, facts);
                    return None;
                }
                Ok(None) => {}
                Err(bad) => {
                    self.refuse(bad, false, now);
                    return None;
                }
            }
            if !self.readable {
                if self.input.is_empty() {
                    self.input = Vec::new();
                }
                return Some(After::Waits);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Taken::Bytes { count, .. } => self
                    .input
                    .extend_from_slice(piece.get(..count).unwrap_or_default()),
                Taken::Nothing => {}
                Taken::Blocked => self.readable = false,
                Taken::Closed(_) => return Some(After::Ends),
            }
        }
    }

    fn linger(&mut self) -> After {
        let mut piece = [0; 4096];
        while self.readable {
            match self.stream.read(&mut piece) {
                Taken::Bytes { .. } | Taken::Nothing => {}
                Taken::Blocked => self.readable = false,
                Taken::Closed(_) => return After::Ends,
            }
        }
        After::Waits
    }

    fn refuse(&mut self, bad: Bad, head_only: bool, now: Tick) {
        let more = match bad {
            Bad::Method => "Allow: GET, HEAD\r\n",
            Bad::Unauthorized => "WWW-Authenticate: Bearer\r\n",
            _ => "",
        };
        let status = bad.status();
        let text = format!("{status}\n");
        http::plain(&mut self.output, status, &text, false, head_only, more);
        let (rest, keep) = (None, false);
        self.enter(State::Answering { rest, keep }, now);
    }

    fn answer(&mut self, request: &Request, now: Tick, engine: &Engine, facts: &dyn Fn() -> Facts) {
        let (keep, head_only) = (request.keep_alive, request.head_only);
        let mut rest = None;
        let config = &engine.config().metrics;
        let (status, text) = match request.page {
            Some(Page::Metrics) if !is_known(config, request) => {
                return self.refuse(Bad::Unauthorized, head_only, now);
            }
            Some(Page::Metrics) => {
                let length = match request.chunked {
                    true => Length::Chunked,
                    false => Length::ToTheEnd,
                };
                let kind = request.format.content_type();
                http::head(&mut self.output, "200 OK", kind, length, keep, "");
                rest = (!head_only).then(|| Rest {
                    scrape: Box::new(Scrape::begin(engine, facts())),
                    format: request.format,
                    chunked: request.chunked,
                });
                return self.enter(State::Answering { rest, keep }, now);
            }
            Some(Page::Status) => {
                let (kind, text) = ("text/html; charset=utf-8", http::STATUS);
                let length = Length::Known(text.len());
                let out = &mut self.output;
                http::head(out, "200 OK", kind, length, keep, http::STATUS_POLICY);
                if !head_only {
                    out.extend_from_slice(text.as_bytes());
                }
                return self.enter(State::Answering { rest, keep }, now);
            }
            Some(Page::Health) => ("200 OK", "ok\n".to_owned()),
            Some(Page::Ready) => readiness(engine, is_known(config, request)),
            None => (
                "404 Not Found",
                "there is /, /metrics, /healthz, /readyz\n".to_owned(),
            ),
        };
        http::plain(&mut self.output, status, &text, keep, head_only, "");
        self.enter(State::Answering { rest, keep }, now);
    }
}

impl Rest {
    /// Writes the next part, behind what there is. Whether it was the last.
    fn write(&mut self, engine: &Engine, out: &mut Vec<u8>) -> bool {
        let begin = self.chunked.then(|| http::begin_chunk(out));
        let mut text = Text::behind(std::mem::take(out), self.format);
        let done = self.scrape.go_on(engine, &mut text);
        if done {
            text.bytes.extend_from_slice(self.format.end().as_bytes());
        }
        *out = text.bytes;
        if let Some(begin) = begin {
            http::end_chunk(out, begin);
            if done {
                out.extend_from_slice(http::LAST_CHUNK);
            }
        }
        done
    }
}

/// Whether it has shown the token, if one is asked for.
fn is_known(config: &MetricsConfig, request: &Request) -> bool {
    let shown = request.token.as_deref().unwrap_or_default();
    let token = config.bearer_token.as_ref();
    token.is_none_or(|token| crate::auth::same(token.expose(), shown))
}

/// The answer of `/readyz`. `tells`: it may name databases.
fn readiness(engine: &Engine, tells: bool) -> (&'static str, String) {
    const NOT: &str = "503 Service Unavailable";
    match metrics::unreachable(engine) {
        None => (NOT, "stopping\n".to_owned()),
        Some(down) if down.is_empty() => ("200 OK", "ready\n".to_owned()),
        Some(down) if tells => {
            let names = down.join(", ");
            (NOT, format!("databases that cannot be reached: {names}\n"))
        }
        Some(down) => {
            let count = down.len();
            (NOT, format!("databases that cannot be reached: {count}\n"))
        }
    }
}
