//! Pushes metrics to an OpenTelemetry collector (OTLP/HTTP, JSON): one request each interval, over a connection of its own.
//!
//! The request is made in parts as it is sent, like an answer of [`super::pages`]. What a collector did not get it gets with
//! the next push, since everything in it counts from the start; so nothing is kept, and after a failure the next attempt is
//! only later and later.

use std::net::SocketAddr;
use std::time::Duration;

use mio::{Registry, Token};

use super::helper::Helpers;
use super::socket::{self, Kind, Socket};
use super::{facts, tls};
use crate::arena::Tick;

use crate::config::{OtlpConfig, Sockets, units::show_duration};
use crate::engine::{Engine, Event, Given, Handover, Protection, Stream, Taken, TlsSide};
use crate::limits;
use crate::metrics::otlp::{self, At, Json};
use crate::metrics::{Scrape, http};

/// Where pushing stands.
pub(super) struct Push {
    token: Token,
    state: State,
    /// Attempts that failed in a row.
    failures: u32,
    /// Pushes that were taken, and that failed.
    counts: (u64, u64),
    started_us: Option<u64>,
}

enum State {
    /// The next push begins then; `None`: it is not known yet.
    Waiting(Option<Tick>),
    /// The collector's name is looked up.
    Resolving {
        /// The name.
        name: String,
        /// At most until then.
        until: Tick,
        /// What came of it.
        found: Option<Result<Vec<SocketAddr>, String>>,
    },
    /// A push is under way.
    Busy(Box<Delivery>),
}

/// A push under way.
struct Delivery {
    stream: Box<dyn Stream>,
    /// Addresses that were not tried, the next one last.
    others: Vec<SocketAddr>,
    until: Tick,
    readable: bool,
    writable: bool,
    output: Vec<u8>,
    sent: usize,
    /// What is still to be told, and where its last part stopped.
    rest: Option<(Scrape, At)>,
    now_us: u64,
    input: Vec<u8>,
}

/// What the loop has at hand.
pub(super) struct Hands<'a> {
    pub(super) engine: &'a Engine,
    pub(super) registry: &'a Registry,
    pub(super) helpers: &'a mut Helpers,
    pub(super) scratch: &'a tls::Scratch,
}

impl Push {
    pub(super) fn new(token: Token) -> Push {
        Push {
            token,
            state: State::Waiting(None),
            failures: 0,
            counts: (0, 0),
            started_us: facts::now_us(),
        }
    }

    /// Pushes that were taken, and that failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.counts
    }

    /// Notes what the poll said, if it is about the connection to the collector.
    pub(super) fn note(&mut self, token: Token, event: &mio::event::Event) -> bool {
        if token != self.token {
            return false;
        }
        if let State::Busy(delivery) = &mut self.state {
            let over = event.is_read_closed() || event.is_error();
            delivery.readable |= event.is_readable() || over;
            delivery.writable |= event.is_writable() || over;
        }
        true
    }

    /// Looks whether the collector's name was looked up, among what is for the engine.
    pub(super) fn overhear(&mut self, events: &[Event]) {
        let State::Resolving { name, found, .. } = &mut self.state else {
            return;
        };
        for event in events {
            match event {
                Event::Resolved { name: of, result } if of == name => {
                    *found = Some(result.clone().map_err(|why| why.text));
                }
                _ => {}
            }
        }
    }

    /// Does what can be done; when it wants to be called again.
    pub(super) fn turn(&mut self, now: Tick, hands: &mut Hands<'_>) -> Option<Tick> {
        let Some(config) = hands.engine.config().metrics.otlp.clone() else {
            self.state = State::Waiting(None);
            return None;
        };
        match &mut self.state {
            State::Waiting(None) => self.state = State::Waiting(Some(now.plus(config.interval))),
            State::Waiting(Some(at)) if *at > now => {}
            State::Waiting(Some(_)) => self.begin(&config, now, hands),
            State::Resolving { found, until, .. } => match found.take() {
                None if *until > now => {}
                None => self.failed("its name is not found in time", None, &config, now),
                Some(Err(why)) => self.failed(&why, None, &config, now),
                Some(Ok(addresses)) => {
                    let mut addresses: Vec<SocketAddr> = addresses
                        .into_iter()
                        .take(limits::ADDRESSES_MAX)
                        .map(|at| SocketAddr::new(at.ip(), config.port))
                        .collect();
                    addresses.reverse();
                    self.dial(addresses, &config, now, hands);
                }
            },
            State::Busy(delivery) => {
                match delivery.go_on(hands.engine, self.started_us, now) {
                    Ok(None) => {}
                    Ok(Some(answer)) => self.answered(&answer, &config, now),
                    // Nothing of it has gone: perhaps another address of the same name takes it.
                    Err(why) if delivery.sent == 0 && !delivery.others.is_empty() => {
                        log::debug!("metrics: a collector's address is not reached: {why}");
                        let others = std::mem::take(&mut delivery.others);
                        self.dial(others, &config, now, hands);
                    }
                    Err(why) => self.failed(&why, None, &config, now),
                }
            }
        }
        match &self.state {
            State::Waiting(at) => *at,
            State::Resolving { until, .. } => Some(*until),
            State::Busy(delivery) if delivery.can_go_on() => Some(now),
            State::Busy(delivery) => Some(delivery.until),
        }
    }

    fn begin(&mut self, config: &OtlpConfig, now: Tick, hands: &mut Hands<'_>) {
        match config.host.parse() {
            Ok(ip) => self.dial(vec![SocketAddr::new(ip, config.port)], config, now, hands),
            Err(_) => {
                hands.helpers.resolve(config.host.clone());
                self.state = State::Resolving {
                    name: config.host.clone(),
                    until: now.plus(limit()),
                    found: None,
                };
            }
        }
    }

    fn dial(
        &mut self,
        mut addresses: Vec<SocketAddr>,
        config: &OtlpConfig,
        now: Tick,
        hands: &mut Hands<'_>,
    ) {
        // The old connection has to go before the new one takes its token.
        self.state = State::Waiting(None);
        let Some(address) = addresses.pop() else {
            return self.failed("its name has no address", None, config, now);
        };
        let dialled = mio::net::TcpStream::connect(address).and_then(|stream| {
            let (kind, options) = (Kind::Tcp(stream), Sockets::default());
            Socket::dialled(kind, &options, hands.registry, self.token)
        });
        let stream: Box<dyn Stream> = match dialled {
            Ok(socket) => Box::new(socket),
            Err(error) => return self.failed(&socket::describe(&error), None, config, now),
        };
        let stream = match &config.tls {
            None => stream,
            Some(connector) => {
                let side = TlsSide::Server {
                    connector: connector.clone(),
                    host: config.host.clone(),
                };
                match tls::secure(stream, side, Handover::default(), hands.scratch) {
                    Ok(stream) => stream,
                    Err(why) => return self.failed(&why, None, config, now),
                }
            }
        };
        let now_us = facts::now_us().unwrap_or(0);
        let told = facts::facts(self.started_us, Some(self.counts));
        let mut json = Json::begin(&config.resource, self.started_us, now_us);
        let mut output = head(config);
        let mut scrape = Scrape::begin(hands.engine, told);
        let done = scrape.go_on(hands.engine, &mut json);
        let rest = end_part(&mut output, json, scrape, done);
        self.state = State::Busy(Box::new(Delivery {
            stream,
            others: addresses,
            until: now.plus(limit()),
            readable: false,
            writable: false,
            output,
            sent: 0,
            rest,
            now_us,
            input: Vec::new(),
        }));
    }

    fn answered(&mut self, answer: &otlp::Answer, config: &OtlpConfig, now: Tick) {
        if !(200..300).contains(&answer.status) {
            let why = format!("it answered {}", answer.status);
            return self.failed(&why, answer.retry_after_s, config, now);
        }
        if self.failures > 0 {
            log::info!("metrics: {} takes them again", config.url());
        }
        self.failures = 0;
        self.counts.0 += 1;
        self.state = State::Waiting(Some(now.plus(config.interval)));
    }

    fn failed(&mut self, why: &str, after_s: Option<u64>, config: &OtlpConfig, now: Tick) {
        let first = self.failures == 0;
        let pause = pause(config.interval, self.failures, after_s);
        let level = if first {
            log::Level::Warn
        } else {
            log::Level::Debug
        };
        let (url, next) = (config.url(), show_duration(pause));
        log::log!(
            level,
            "metrics: cannot be pushed to {url}: {why}; the next attempt is in {next}"
        );
        self.failures = self.failures.saturating_add(1);
        self.counts.1 += 1;
        self.state = State::Waiting(Some(now.plus(pause)));
    }
}

/// The pause after a push that failed, before which so many have: twice the last one, or what the collector asks for.
fn pause(interval: Duration, failures: u32, after_s: Option<u64>) -> Duration {
    let longest = interval.max(Duration::from_millis(limits::PUSH_PAUSE_MAX_MS));
    let doubled = interval.saturating_mul(1 << failures.min(10));
    let asked = Duration::from_secs(after_s.unwrap_or(0));
    doubled.max(asked).min(longest)
}

/// How long a push may take.
fn limit() -> Duration {
    Duration::from_millis(limits::PUSH_MS)
}

/// The head of the request.
fn head(config: &OtlpConfig) -> Vec<u8> {
    let host = match config.host.contains(':') {
        true => format!("[{}]", config.host),
        false => config.host.clone(),
    };
    let mut text = format!(
        "POST {} HTTP/1.1\r\nHost: {host}:{}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\
         Connection: close\r\nUser-Agent: aether/{}\r\n",
        config.path,
        config.port,
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes();
    for (name, value) in &config.headers {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.expose());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// Puts a part behind what is to be sent; what is left then.
fn end_part(
    output: &mut Vec<u8>,
    mut json: Json,
    scrape: Scrape,
    done: bool,
) -> Option<(Scrape, At)> {
    if done {
        json.finish();
    }
    let begin = http::begin_chunk(output);
    output.extend_from_slice(&json.bytes);
    http::end_chunk(output, begin);
    if done {
        output.extend_from_slice(http::LAST_CHUNK);
    }
    (!done).then(|| (scrape, json.at()))
}

impl Delivery {
    /// Whether there is more to do before anything happens.
    fn can_go_on(&self) -> bool {
        self.writable && self.sent == self.output.len() && self.rest.is_some()
    }

    fn go_on(
        &mut self,
        engine: &Engine,
        started_us: Option<u64>,
        now: Tick,
    ) -> Result<Option<otlp::Answer>, String> {
        if now >= self.until {
            return Err("it takes too long".to_owned());
        }
        if self.sent == self.output.len()
            && let Some((mut scrape, at)) = self.rest.take()
        {
            let mut json = Json::go_on(at, started_us, self.now_us);
            let done = scrape.go_on(engine, &mut json);
            // What was sent counts on: another address is only tried while nothing was.
            self.output.clear();
            self.sent = 0;
            self.others.clear();
            self.rest = end_part(&mut self.output, json, scrape, done);
        }
        let shakes = |stream: &dyn Stream| stream.protection() == Protection::Handshake;
        let was_shaking = shakes(&*self.stream);
        self.read()?;
        // The end of a handshake is no event: what waited for it goes out now.
        self.writable |= was_shaking && !shakes(&*self.stream);
        while self.writable {
            let rest = self.output.get(self.sent..).unwrap_or_default();
            if rest.is_empty() {
                match self.stream.flush() {
                    Given::Bytes(_) => break,
                    Given::Blocked => self.writable = false,
                    Given::Closed(why) => return Err(why.to_string()),
                }
                continue;
            }
            match self.stream.write(rest) {
                Given::Bytes(count) => self.sent += count,
                Given::Blocked => self.writable = false,
                Given::Closed(why) => return Err(why.to_string()),
            }
        }
        self.read()?;
        otlp::answer(&self.input)
    }

    fn read(&mut self) -> Result<(), String> {
        let mut piece = [0; 4096];
        while self.readable && self.input.len() < limits::PAGE_REQUEST_MAX {
            match self.stream.read(&mut piece) {
                Taken::Bytes { count, .. } => self
                    .input
                    .extend_from_slice(piece.get(..count).unwrap_or_default()),
                Taken::Nothing => {}
                Taken::Blocked => self.readable = false,
                Taken::Closed(_) if matches!(otlp::answer(&self.input), Ok(Some(_))) => {
                    self.readable = false;
                }
                Taken::Closed(why) => return Err(why.to_string()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_fails_is_left_alone_for_longer_and_longer() {
        let seconds = |interval, failures, after| {
            pause(Duration::from_secs(interval), failures, after).as_secs()
        };
        let pauses: Vec<u64> = (0..8).map(|failures| seconds(10, failures, None)).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(seconds(10, u32::MAX, None), 300);
        assert_eq!(
            seconds(600, 3, None),
            600,
            "never more often than configured, nor seldom"
        );
        assert_eq!(seconds(10, 0, Some(90)), 90, "as it asks for");
        assert_eq!(seconds(10, 3, Some(15)), 80);
        assert_eq!(seconds(10, 0, Some(u64::MAX)), 300, "within reason");
    }
}
