//! A client: logs in, follows its plan, and holds everything that it receives against its reference session.

use std::collections::VecDeque;
use std::rc::Rc;

use aether::auth::{Credentials, KeyRing, Progress, Prove, Terms};
use aether::config::{Demands, Secret, Stored};
use aether::wire::backend;
use aether::wire::frame::{self, message};
use aether::wire::frontend;
use aether::wire::refusal::{Blame, Refusal};

use crate::network::Shared;
use crate::plan::{Leave, Step};
use crate::random::Random;
use crate::sealed::Sides;
use crate::session::{Effect, STUBBORN, Session};

/// What the pooler itself tells a client that waits with a query (`query_wait_notify`).
const QUEUED: &str = "No server connection available in postgres backend, client being queued";

/// How a session ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It left, in one way or another.
    Left,
    /// It was told to go.
    Told(String),
    /// The connection ended without a word.
    Lost,
    /// It got something that no server of its own would have sent. Only excused where servers lie.
    Deceived(String),
}

/// What a client does about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ssl {
    /// Nothing.
    Unwanted,
    /// Asks, and takes what it is answered.
    Asked,
    /// Begins with it.
    Direct,
}

enum Phase {
    AwaitingSsl,
    /// `None` until it is asked for something.
    Proving(Box<Option<Prove>>),
    Welcomed {
        reported: Vec<(String, String)>,
        cancel: Option<(u32, Vec<u8>)>,
    },
    Running,
    Leaving(Leave),
    Over(End),
}

pub struct Client {
    pub id: usize,
    pub connection: Shared,
    /// There, if the pooler has TLS for it.
    sides: Option<Rc<Sides>>,
    user: String,
    /// What it proves that with, once.
    password: Option<Secret>,
    parameters: Vec<(String, String)>,
    /// It goes from server to server.
    shares: bool,
    /// It may be told that it waits.
    notified: bool,
    phase: Phase,
    ring: KeyRing,
    input: Vec<u8>,
    output: Vec<u8>,
    steps: VecDeque<Step>,
    resting_until: u64,
    session: Option<Session>,
    /// Sent, and not yet taken by the reference.
    asked: VecDeque<(u8, Vec<u8>)>,
    /// The request that the reference works on.
    request: Request,
    /// What the reference answered and has not come yet.
    expected: Vec<u8>,
    cancel: Option<(u32, Vec<u8>)>,
    cancels: Cancels,
    /// An operator sends it away.
    pub condemned: bool,
    /// Messages that it has sent in its session.
    sent: u64,
    /// Rows that it was told are committed, and rows that it was told are not.
    pub committed: Vec<String>,
    pub rolled_back: Vec<String>,
    pub tally: Tally,
}

/// Cancels that may hit what a client asks: its own, and those that operators order. Each hits one request at most, of those that were
/// there while it was under way.
#[derive(Debug, Default)]
struct Cancels {
    /// So many may still hit.
    left: u32,
    /// One of them is under way.
    under_way: bool,
    /// So many messages had been sent when one was last under way.
    until: u64,
    /// One of them is its own.
    own: bool,
}

/// A request, up to the ReadyForQuery that ends it.
#[derive(Default)]
struct Request {
    /// The reference as it was before, as long as nothing of the answer has come: what waits for a server may be cancelled as
    /// if it had never begun.
    before: Option<Session>,
    messages: Vec<(u8, Vec<u8>)>,
    /// The message was taken that is answered by ReadyForQuery.
    whole: bool,
}

/// What a client counts, to be held against the pooler's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub queries: u64,
    pub transactions: u64,
    /// Bytes that it sent in its sessions.
    pub sent: u64,
    pub received: u64,
    pub sessions: u64,
    /// Requests that operators have cancelled.
    pub cancelled: u64,
    /// Folded from everything that it received.
    pub digest: u64,
}

/// Who logs in, where to, and how.
pub struct Login {
    pub user: String,
    pub database: String,
    pub password: String,
    pub parameters: Vec<(String, String)>,
    /// It goes from server to server.
    pub shares: bool,
    /// Whoever waits with a query may be told so (`query_wait_notify`).
    pub notified: bool,
    pub ssl: Ssl,
    /// There, if the pooler has TLS for it.
    pub sides: Option<Rc<Sides>>,
}

impl Client {
    pub fn new(
        id: usize,
        connection: Shared,
        login: &Login,
        steps: VecDeque<Step>,
        random: &mut Random,
    ) -> Client {
        let mut output = Vec::new();
        if login.ssl == Ssl::Asked {
            frame::packet(&mut output, |b| {
                b.extend_from_slice(&80_877_103u32.to_be_bytes())
            });
        }
        let mut client = Client {
            id,
            connection,
            sides: login.sides.clone(),
            user: login.user.clone(),
            password: Some(Secret::new(login.password.clone())),
            parameters: login.parameters.clone(),
            shares: login.shares,
            notified: login.notified,
            phase: Phase::AwaitingSsl,
            ring: KeyRing::new(&mut |into| random.fill(into), None),
            input: Vec::new(),
            output,
            steps,
            resting_until: 0,
            session: None,
            asked: VecDeque::new(),
            request: Request::default(),
            expected: Vec::new(),
            cancel: None,
            cancels: Cancels::default(),
            condemned: false,
            sent: 0,
            committed: Vec::new(),
            rolled_back: Vec::new(),
            tally: Tally::default(),
        };
        if login.ssl == Ssl::Direct {
            let sides = login.sides.as_ref().expect("there is TLS");
            let layer = sides.of_client(true);
            client.connection.borrow_mut().far_secure(layer, Vec::new());
        }
        if login.ssl != Ssl::Asked {
            client.start(&login.database);
        } else {
            client
                .asked
                .push_back((0, login.database.clone().into_bytes()));
        }
        client
    }

    fn start(&mut self, database: &str) {
        let own = [
            (&b"user"[..], self.user.as_bytes()),
            (b"database", database.as_bytes()),
        ];
        let given = self
            .parameters
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        frontend::startup(&mut self.output, own.into_iter().chain(given));
        self.phase = Phase::Proving(Box::default());
    }

    /// Begins to prove who it is, by what carries the login: TLS is there by now, if there is to be any.
    fn begin_proof(&mut self) -> Prove {
        let credentials = Credentials {
            user: self.user.clone(),
            secret: self.password.take().map(Stored::Plain),
        };
        let terms = Terms {
            demands: Demands::default(),
            iterations_max: 1_000,
            channel: self.connection.borrow().far_channel(),
            own_certificate: None,
        };
        Prove::begin(credentials, terms)
    }

    /// What a server of its own says to its startup parameters, if it does not take them.
    pub fn refusal_due(&self) -> Option<End> {
        let refusal = Session::start(0, &self.parameters).err()?;
        Some(End::Told(format!("{} {}", refusal.code(), refusal.text())))
    }

    pub fn end(&self) -> Option<&End> {
        match &self.phase {
            Phase::Over(end) => Some(end),
            _ => None,
        }
    }

    pub fn can_run(&self, now: u64) -> bool {
        if self.end().is_some() {
            return false;
        }
        let connection = self.connection.borrow();
        if connection.far_has_input() || !self.output.is_empty() && connection.far_has_room() {
            return true;
        }
        match (&self.phase, self.steps.front()) {
            (Phase::Leaving(leave), _) => self.output.is_empty() && *leave != Leave::HalfClose,
            (Phase::Running, Some(step)) if self.output.is_empty() => self.is_due(step, now),
            _ => false,
        }
    }

    fn is_due(&self, step: &Step, now: u64) -> bool {
        match step {
            Step::Settle => self.is_settled(),
            Step::AwaitCopy => {
                let session = self.session.as_ref().expect("it runs");
                self.is_settled() || session.is_copying_in() && self.expected.is_empty()
            }
            _ => self.resting_until <= now,
        }
    }

    pub fn next_wake(&self) -> Option<u64> {
        matches!(self.phase, Phase::Running).then_some(self.resting_until)
    }

    /// Whether everything that it asked has been answered.
    pub fn is_settled(&self) -> bool {
        let sleeps = self.session.as_ref().is_some_and(Session::is_sleeping);
        self.expected.is_empty() && self.asked.is_empty() && !sleeps
    }

    /// Does what it can. A cancel request that it wants to send is returned.
    pub fn run(&mut self, now: u64, random: &mut Random) -> Option<(u32, Vec<u8>)> {
        let (bytes, ended) = {
            let mut connection = self.connection.borrow_mut();
            (connection.far_read(), connection.far_ended())
        };
        self.input.extend(bytes);
        while self.end().is_none() && self.receive() {}
        if ended && self.end().is_none() {
            let left = match self.phase {
                Phase::Leaving(Leave::HalfClose) => self.is_settled(),
                Phase::Leaving(_) => self.output.is_empty(),
                _ => false,
            };
            self.over(if left { End::Left } else { End::Lost });
        }
        if self.end().is_some() {
            return None;
        }
        if !self.output.is_empty() {
            let most = random.below(self.output.len()) + 1;
            let count = self.connection.borrow_mut().far_write(&self.output[..most]);
            self.output.drain(..count);
            return None;
        }
        if let Phase::Leaving(leave) = self.phase {
            if leave != Leave::HalfClose {
                self.over(End::Left);
            }
            return None;
        }
        if matches!(self.phase, Phase::Running)
            && self
                .steps
                .front()
                .is_some_and(|step| self.is_due(step, now))
        {
            return self.step(now);
        }
        None
    }

    fn step(&mut self, now: u64) -> Option<(u32, Vec<u8>)> {
        match self.steps.pop_front()? {
            Step::Send(tag, body) => self.send(tag, body),
            Step::Settle | Step::AwaitCopy => {}
            Step::Rest(time) => self.resting_until = now + time,
            Step::Cancel => {
                self.cancel_begins(true);
                return self.cancel.clone();
            }
            Step::Leave(leave) => {
                match leave {
                    Leave::Terminate => frontend::terminate(&mut self.output),
                    Leave::Reset => self.connection.borrow_mut().far_reset(),
                    Leave::HalfClose => self.connection.borrow_mut().far_shutdown(),
                    Leave::Close => {}
                }
                self.phase = Phase::Leaving(leave);
            }
        }
        None
    }

    fn send(&mut self, tag: u8, body: Vec<u8>) {
        crate::trace(|| {
            format!(
                "client {} > {} {}",
                self.id,
                char::from(tag),
                frame::printable(&body)
            )
        });
        let before = self.output.len();
        message(&mut self.output, tag, |b| b.extend_from_slice(&body));
        self.tally.sent += (self.output.len() - before) as u64;
        self.asked.push_back((tag, body));
        self.sent += 1;
        self.consult();
    }

    /// Somebody asks for what it asks to be cancelled: itself or an operator.
    pub fn cancel_begins(&mut self, own: bool) {
        if !self.may_be_hit() {
            self.cancels = Cancels::default();
        }
        self.cancels.left += 1;
        self.cancels.under_way = true;
        self.cancels.own |= own;
    }

    /// Whether cancels are under way, as far as it knows.
    pub fn is_being_cancelled(&self) -> bool {
        self.cancels.under_way
    }

    /// They are over: what it asks from now on is none of theirs.
    pub fn cancels_end(&mut self) {
        self.cancels.under_way = false;
        self.cancels.until = self.sent;
    }

    /// Whether a cancel was under way at some time while the present request was there.
    fn may_be_hit(&self) -> bool {
        let begun = self.asked.len() + self.request.messages.len();
        let first = self.sent.saturating_sub(begun as u64); // what is asked before the session is no message
        self.cancels.left > 0 && (self.cancels.under_way || first < self.cancels.until)
    }

    /// The present request was cancelled. False: nobody has asked for that.
    fn is_hit(&mut self) -> bool {
        let may = self.may_be_hit();
        if may {
            self.cancels.left -= 1;
            self.tally.cancelled += u64::from(!self.cancels.own);
        }
        may
    }

    /// Lets the reference take what was sent, one request after the other.
    fn consult(&mut self) {
        let session = self.session.as_mut().expect("it runs");
        while !session.is_sleeping() {
            if self.request.whole && !self.expected.is_empty() {
                return;
            }
            if self.request.whole {
                self.request = Request::default();
            }
            let Some((tag, body)) = self.asked.pop_front() else {
                return;
            };
            if self.request.messages.is_empty() {
                self.request.before = session.is_idle().then(|| session.clone());
            }
            let before = self.expected.len();
            assert!(
                session.take(tag, &body, &mut self.expected) != Effect::Ended,
                "plans do not end sessions"
            );
            self.request.whole = ends_with_ready(&self.expected[before..]);
            self.request.messages.push((tag, body));
        }
    }

    /// Its request was cancelled while it waited for a server.
    fn cancelled_in_the_queue(&mut self, before: Session) {
        let never = self.session.replace(before).expect("it runs").committed;
        let session = self.session.as_mut().expect("it runs");
        let done = session.committed.len();
        self.rolled_back.extend(never.into_iter().skip(done));
        self.expected.clear();
        let mut messages = std::mem::take(&mut self.request).messages;
        let late = |tag: u8| matches!(tag, b'd' | b'c' | b'f' | b'H');
        let first = messages
            .iter()
            .position(|(tag, _)| !late(*tag))
            .expect("it asked");
        let whole = session.cancel(messages[first].0, &mut self.expected);
        self.request.whole = whole;
        messages.drain(..first + usize::from(whole));
        for message in messages.into_iter().rev() {
            self.asked.push_front(message);
        }
        self.consult();
    }

    /// Takes one message. False: there is no whole one.
    fn receive(&mut self) -> bool {
        if matches!(self.phase, Phase::AwaitingSsl) {
            let Some(&answer) = self.input.first() else {
                return false;
            };
            if answer == b'E' {
                // It is too early for anything else to be one.
                self.phase = Phase::Welcomed {
                    reported: Vec::new(),
                    cancel: None,
                };
                return true;
            }
            let due = if self.sides.is_some() { b'S' } else { b'N' };
            assert_eq!(answer, due, "client {}: the answer to SSLRequest", self.id);
            self.input.drain(..1);
            if let Some(sides) = &self.sides {
                assert!(self.input.is_empty(), "nothing stands behind the answer");
                let layer = sides.of_client(false);
                self.connection.borrow_mut().far_secure(layer, Vec::new());
            }
            let (_, what) = self.asked.pop_front().expect("put there");
            self.start(&String::from_utf8(what).expect("text"));
            return true;
        }
        let input = std::mem::take(&mut self.input);
        let whole = frame::whole(&input, 0x4000_0000);
        let taken = match whole {
            Ok(None) => 0,
            Err(bad) => {
                self.over(End::Deceived(format!("{bad:?}")));
                0
            }
            Ok(Some((tag, body, rest))) => {
                let taken = input.len() - rest.len();
                self.digest(&input[..taken]);
                crate::trace(|| {
                    format!("client {} < {}", self.id, frame::printable(&input[..taken]))
                });
                self.message(tag, body, &input[..taken]);
                taken
            }
        };
        self.input = input;
        self.input.drain(..taken);
        taken > 0
    }

    fn digest(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.tally.digest =
                (self.tally.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn message(&mut self, tag: u8, body: &[u8], whole: &[u8]) {
        if matches!(&self.phase, Phase::Proving(prove) if prove.is_none()) && tag == b'R' {
            self.phase = Phase::Proving(Box::new(Some(self.begin_proof())));
        }
        match &mut self.phase {
            _ if tag == b'E' && !self.expected.starts_with(whole) && is_fatal(body) => {
                let refusal = Refusal::read(body, Blame::Server);
                self.over(End::Told(format!("{} {}", refusal.code(), refusal.text())));
            }
            Phase::Proving(prove) if tag == b'R' => {
                let taken = prove.take().expect("a proof goes on");
                let mut out = Vec::new();
                let mut random = Random::new(self.id as u64);
                let progress = taken.step(
                    body,
                    &mut self.ring,
                    &mut |into| random.fill(into),
                    &mut out,
                );
                let progress = match progress {
                    Ok(Progress::Derive(next, job)) => {
                        next.derived(&job.run(), &mut self.ring, &mut out)
                    }
                    other => other,
                };
                self.output.append(&mut out);
                match progress {
                    Ok(Progress::Next(next)) => **prove = Some(next),
                    Ok(Progress::Done) => {
                        self.phase = Phase::Welcomed {
                            reported: Vec::new(),
                            cancel: None,
                        }
                    }
                    other => panic!("client {}: the login makes no sense: {other:?}", self.id),
                }
            }
            Phase::Welcomed { reported, .. } if tag == b'S' => {
                let (name, value) = backend::parameter_status(body).expect("a ParameterStatus");
                reported.push((text(name), text(value)));
            }
            Phase::Welcomed { cancel, .. } if tag == b'K' => {
                *cancel = backend::backend_key_data(body).map(|(pid, key)| (pid, key.to_vec()));
            }
            Phase::Welcomed { .. } if tag == b'N' => {}
            Phase::Welcomed { reported, cancel } if tag == b'Z' => {
                let (mut reported, cancel) = (std::mem::take(reported), cancel.take());
                let pid = cancel.as_ref().expect("a client is given a cancel key").0;
                let start = if self.shares {
                    Session::start_shared
                } else {
                    Session::start
                };
                let session = start(pid, &self.parameters).expect("known settings");
                reported.sort();
                let mut own: Vec<_> = session
                    .reported()
                    .map(|(n, v)| (n.to_owned(), v.to_owned()))
                    .collect();
                own.sort();
                assert_eq!(
                    reported, own,
                    "client {}: what it was told of its settings",
                    self.id
                );
                self.session = Some(session);
                self.cancel = cancel;
                self.phase = Phase::Running;
                self.tally.sessions += 1;
            }
            Phase::Running | Phase::Leaving(_) => self.answer(tag, body, whole),
            _ => self.over(End::Deceived(format!(
                "{:?} during the login",
                char::from(tag)
            ))),
        }
    }

    fn answer(&mut self, tag: u8, body: &[u8], whole: &[u8]) {
        let sleeps = self.session.as_ref().is_some_and(Session::is_sleeping);
        if self.expected.is_empty() && sleeps {
            let cancelled = tag == b'E' && Refusal::read(body, Blame::Server).code() == "57014";
            if cancelled && !self.is_hit() {
                return self.over(End::Deceived(
                    "a cancel that it has not asked for".to_owned(),
                ));
            }
            let session = self.session.as_mut().expect("it runs");
            session.wake(cancelled, &mut self.expected);
            self.request.whole = ends_with_ready(&self.expected);
            self.consult();
        }
        let cancelled = tag == b'E' && Refusal::read(body, Blame::Server).code() == "57014";
        if cancelled
            && !self.expected.starts_with(whole)
            && self.request.before.is_some()
            && self.is_hit()
            && let Some(before) = self.request.before.take()
        {
            self.cancelled_in_the_queue(before);
        }
        if !self.expected.starts_with(whole) {
            let says = || Refusal::read(body, Blame::Server).message;
            if tag == b'N' && self.notified && says() == QUEUED.as_bytes() {
                return; // query_wait_notify
            }
            if tag == b'E' && Refusal::read(body, Blame::Server).message == STUBBORN.as_bytes() {
                return self.over(End::Lost); // it was its own DISCARD ALL that failed
            }
            let (came, wanted) = (frame::printable(whole), frame::printable(&self.expected));
            return self.over(End::Deceived(format!(
                "\"{came}\" came where \"{wanted}\" was expected"
            )));
        }
        self.expected.drain(..whole.len());
        if !matches!(tag, b'N' | b'A' | b'S') {
            self.request.before = None;
        }
        self.consult();
        self.tally.received += whole.len() as u64;
        if tag == b'Z' {
            self.tally.queries += 1;
            self.tally.transactions += u64::from(body == b"I");
        }
        if self.is_settled() {
            self.acknowledge();
        }
    }

    /// What it has been told is certain.
    fn acknowledge(&mut self) {
        if let Some(session) = self.session.as_mut() {
            self.committed.append(&mut session.committed);
            self.rolled_back.append(&mut session.rolled_back);
        }
    }

    fn over(&mut self, end: End) {
        if self.is_settled() {
            self.acknowledge();
        }
        let never_ended = !self.asked.iter().any(|(tag, _)| *tag == b'c');
        if let Some(session) = self.session.as_ref().filter(|_| never_ended) {
            self.rolled_back.append(&mut session.unfinished_copy());
        }
        let mut connection = self.connection.borrow_mut();
        if end != End::Left || matches!(self.phase, Phase::Leaving(Leave::Close | Leave::HalfClose))
        {
            connection.far_close();
        } else {
            connection.far_shutdown();
            connection.far_close();
        }
        drop(connection);
        self.phase = Phase::Over(end);
    }

    /// Vanishes, wherever it is: a fault.
    pub fn vanish(&mut self, reset: bool) {
        if reset {
            self.connection.borrow_mut().far_reset();
        }
        self.over(End::Left);
    }

    /// What it still waits for, when nothing happens any more.
    pub fn describe(&self) -> String {
        let phase = match &self.phase {
            Phase::AwaitingSsl | Phase::Proving(_) | Phase::Welcomed { .. } => "logging in",
            Phase::Running => "running",
            Phase::Leaving(_) => "leaving",
            Phase::Over(_) => "over",
        };
        format!(
            "client {} is {phase}, next {:?}, waits for \"{}\", unsent {}",
            self.id,
            self.steps.front(),
            frame::printable(&self.expected),
            self.output.len()
        )
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ends_with_ready(answer: &[u8]) -> bool {
    matches!(answer, [.., b'Z', 0, 0, 0, 5, _])
}

fn is_fatal(body: &[u8]) -> bool {
    body.windows(7).any(|window| window == b"VFATAL\0")
}
