//! The model PostgreSQL: its connections log in, run a [`Session`] each, take time, are cancelled, crash and lie.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use aether::auth::{Channel, Demand, KeyRing, Progress, Verify};
use aether::config::{AuthMethod, Secret, Stored};
use aether::wire::backend;
use aether::wire::frame;
use aether::wire::refusal::{Blame, Refusal};
use aether::wire::startup::{self, First};

use crate::clerk::{self, Clerk};
use crate::network::{Connection, Shared};
use crate::random::Random;
use crate::sealed::Sides;
use crate::session::{Effect, Session};

/// The password of every role.
pub const PASSWORD: &str = "secret of roles";

/// Whom a server lets in with TLS and without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerTls {
    /// It has none.
    Never,
    Offered,
    /// `hostssl`
    Demanded,
    /// `hostnossl`
    Shunned,
    /// Now and then its answer makes no sense.
    Confused,
}

/// What all connections share.
pub struct Postgres {
    pub backends: Vec<Backend>,
    /// Rows that were committed.
    pub rows: BTreeSet<String>,
    pub method: AuthMethod,
    /// What TLS there is, where anybody may ask for it.
    pub tls: ServerTls,
    pub sides: Option<Rc<Sides>>,
    /// The password of every role, as it is now.
    pub password: &'static str,
    /// In what form the secrets of roles are told to whom may ask for them.
    pub form: clerk::Form,
    /// Why nobody is let in, for now.
    pub refuses: Option<Refusal>,
    /// `max_connections`
    pub most: usize,
    ring: KeyRing,
    next_pid: u32,
    schema: Rc<Cell<u64>>,
}

/// How connections are let in at the moment.
struct Door<'a> {
    method: AuthMethod,
    tls: ServerTls,
    sides: Option<&'a Sides>,
    password: &'static str,
    form: clerk::Form,
    refuses: Option<Refusal>,
}

impl Door<'_> {
    /// What `pg_hba.conf` says to this way of coming.
    fn bars(&self, secured: bool) -> bool {
        match self.tls {
            ServerTls::Demanded => !secured,
            ServerTls::Shunned => secured,
            _ => false,
        }
    }
}

/// One connection.
pub struct Backend {
    pub connection: Shared,
    phase: Phase,
    input: Vec<u8>,
    /// Written but not flushed, as PostgreSQL buffers.
    held: Vec<u8>,
    /// Flushed, and not taken by the kernel yet.
    outgoing: Vec<u8>,
    pub pid: u32,
    key: Vec<u8>,
    /// Does nothing until then.
    pub frozen_until: u64,
    /// A cancel has ended what it slept over: there may be input that it has read already.
    woken: bool,
    /// The role that asks for secrets has logged in, and this answers.
    clerk: Option<Clerk>,
    /// The next answers are lies.
    pub lies: Option<Lie>,
    /// Every client that it worked for shares its connection's fate: whether it has lied, crashed or been killed.
    pub faulty: bool,
    schema: Rc<Cell<u64>>,
}

/// What a lying server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    ExtraReady,
    RowWithoutQuery,
    UnknownStatus,
    BadLength,
    HalfMessage,
}

enum Phase {
    Startup,
    Proving(Verify, Vec<(String, String)>),
    Running(Session, Option<u64>),
    Ended,
}

impl Postgres {
    pub fn new(method: AuthMethod, random: &mut Random) -> Postgres {
        let ring = KeyRing::new(&mut |into| random.fill(into), None);
        Postgres {
            backends: Vec::new(),
            rows: BTreeSet::new(),
            method,
            tls: ServerTls::Never,
            sides: None,
            password: PASSWORD,
            form: clerk::Form::Plain,
            refuses: None,
            most: usize::MAX,
            ring,
            next_pid: 1_000,
            schema: Rc::default(),
        }
    }

    pub fn connect(&mut self, connection: Shared, random: &mut Random) {
        self.next_pid += 1;
        let mut key = vec![0; 4];
        random.fill(&mut key);
        self.backends.push(Backend {
            connection,
            phase: Phase::Startup,
            input: Vec::new(),
            held: Vec::new(),
            outgoing: Vec::new(),
            pid: self.next_pid,
            key,
            frozen_until: 0,
            woken: false,
            clerk: None,
            lies: None,
            faulty: false,
            schema: self.schema.clone(),
        });
    }

    /// Whether a connection could do something now.
    pub fn can_run(&self, at: usize, now: u64) -> bool {
        self.backends
            .get(at)
            .is_some_and(|backend| backend.can_run(now))
    }

    /// When the next sleeping statement is over, or a frozen connection thaws.
    pub fn next_wake(&self, now: u64) -> Option<u64> {
        let wakes = self
            .backends
            .iter()
            .filter_map(|backend| match &backend.phase {
                _ if backend.frozen_until > now => Some(backend.frozen_until),
                Phase::Running(_, Some(until)) => Some(*until),
                _ => None,
            });
        wakes.min()
    }

    /// Lets a connection do what it can.
    pub fn run(&mut self, at: usize, now: u64, random: &mut Random) {
        let full = self
            .backends
            .iter()
            .filter(|backend| backend.is_running())
            .count()
            >= self.most;
        let refuses = self.refuses.clone().or_else(|| {
            full.then(|| {
                Refusal::fatal(b"53300", "sorry, too many clients already", Blame::Operator)
            })
        });
        let Some(backend) = self.backends.get_mut(at) else {
            return;
        };
        let door = Door {
            method: self.method,
            tls: self.tls,
            sides: self.sides.as_deref(),
            password: self.password,
            form: self.form,
            refuses,
        };
        let cancel = backend.run(now, door, &mut self.ring, random);
        if let Phase::Running(session, _) = &mut backend.phase {
            for row in session.committed.drain(..) {
                // A prepared INSERT, marked by its x, may well be executed twice.
                assert!(
                    self.rows.insert(row.clone()) || row.starts_with('x'),
                    "{row} was committed twice"
                );
            }
            session.rolled_back.clear();
        }
        if let Some((pid, key)) = cancel {
            self.cancel(pid, &key, now);
        }
        self.backends.retain(|backend| !backend.is_over());
    }

    fn cancel(&mut self, pid: u32, key: &[u8], now: u64) {
        let victim = self
            .backends
            .iter_mut()
            .find(|backend| backend.pid == pid && backend.key == key);
        if let Some(victim) = victim
            && let Phase::Running(session, until) = &mut victim.phase
            && until.take_if(|until| *until > now).is_some()
        {
            let effect = session.wake(true, &mut victim.held);
            victim.settle(effect, now);
            victim.flush();
            victim.woken = true;
        }
    }
}

impl Backend {
    fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running(..))
    }

    pub fn has_said_all(&self) -> bool {
        self.outgoing.is_empty()
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended) && self.outgoing.is_empty()
    }

    /// Whether nothing is open in its session. For faults that must not hit a working server.
    pub fn is_at_rest(&self) -> bool {
        matches!(&self.phase, Phase::Running(session, None) if !session.is_copying_in())
            && self.outgoing.is_empty()
    }

    fn can_run(&self, now: u64) -> bool {
        if self.frozen_until > now {
            return false;
        }
        let connection = self.connection.borrow();
        if !self.outgoing.is_empty() {
            return connection.far_has_room();
        }
        match self.phase {
            Phase::Running(_, Some(until)) => until <= now || connection.far_ended(),
            _ => connection.far_has_input() || self.woken,
        }
    }

    fn flush(&mut self) {
        self.outgoing.append(&mut self.held);
    }

    fn write(&mut self, random: &mut Random) {
        let most = random.below(self.outgoing.len()) + 1;
        let count = self
            .connection
            .borrow_mut()
            .far_write(&self.outgoing[..most.min(self.outgoing.len())]);
        self.outgoing.drain(..count);
        if self.outgoing.is_empty() && matches!(self.phase, Phase::Ended) {
            self.connection.borrow_mut().far_close();
        }
    }

    fn settle(&mut self, effect: Effect, now: u64) {
        match (effect, &mut self.phase) {
            (Effect::Sleep(time), Phase::Running(_, until)) => {
                *until = Some(now + time);
                self.flush();
            }
            (Effect::Ended, _) => self.phase = Phase::Ended,
            _ => {}
        }
    }

    /// Does what it can. A cancel request that it has received is returned.
    fn run(
        &mut self,
        now: u64,
        door: Door<'_>,
        ring: &mut KeyRing,
        random: &mut Random,
    ) -> Option<(u32, Vec<u8>)> {
        if let Some(clerk) = &mut self.clerk {
            clerk.learn(door.password);
        }
        if !self.outgoing.is_empty() {
            // A server that cannot write does not read either.
            self.write(random);
            return None;
        }
        self.woken = false;
        if let Phase::Running(session, until) = &mut self.phase
            && until.take_if(|until| *until <= now).is_some()
        {
            let effect = session.wake(false, &mut self.held);
            self.settle(effect, now);
            self.flush();
        }
        let ended = {
            let mut connection = self.connection.borrow_mut();
            self.input.extend(connection.far_read());
            connection.far_ended()
        };
        let mut cancel = None;
        loop {
            let taken = match &self.phase {
                Phase::Startup if self.begins_with_tls() => {
                    let sides = door.sides.expect("nobody else would begin with TLS");
                    let received = std::mem::take(&mut self.input);
                    let mut connection = self.connection.borrow_mut();
                    self.input = connection.far_secure(sides.of_server(true), received);
                    0
                }
                Phase::Startup => match startup::read(&self.input.clone()) {
                    Ok(Some((First::Cancel { pid, key }, _))) => {
                        cancel = Some((pid, key));
                        self.phase = Phase::Ended;
                        break;
                    }
                    Ok(Some((First::Startup(startup), taken))) => {
                        self.begin(&startup, &door, ring, random);
                        taken
                    }
                    Ok(Some((First::Ssl, taken))) => {
                        assert_eq!(taken, self.input.len(), "nothing stands behind the request");
                        self.input.clear();
                        self.answer_ssl(&door, random);
                        break;
                    }
                    Ok(None) => break,
                    other => {
                        panic!("the pooler sent a startup packet that makes no sense: {other:?}")
                    }
                },
                Phase::Running(_, Some(_)) | Phase::Ended => break,
                _ => {
                    let input = std::mem::take(&mut self.input);
                    let whole =
                        frame::whole(&input, 0x4000_0000).expect("the pooler breaks no frames");
                    let taken = match whole {
                        None => 0,
                        Some((tag, body, rest)) => {
                            self.message(tag, body, now, ring);
                            input.len() - rest.len()
                        }
                    };
                    self.input = input;
                    if taken == 0 {
                        break;
                    }
                    taken
                }
            };
            self.input.drain(..taken);
        }
        if ended {
            if let Phase::Running(session, _) = &mut self.phase {
                session.end();
            }
            self.phase = Phase::Ended;
        }
        if matches!(self.phase, Phase::Ended) || self.held.len() > 8_192 {
            self.flush();
        }
        if matches!(self.phase, Phase::Ended) && self.outgoing.is_empty() {
            self.connection.borrow_mut().far_close();
        }
        cancel
    }

    fn begins_with_tls(&self) -> bool {
        self.input.first() == Some(&0x16) && !self.connection.borrow().is_secured()
    }

    fn answer_ssl(&mut self, door: &Door<'_>, random: &mut Random) {
        let answer: &[u8] = match door.tls {
            ServerTls::Confused if random.chance(40) => random.pick(&[
                &b"?"[..],
                b"E\0\0\0\x18SFATAL\0C28P01\0Mno\0\0",
                b"SR\0\0\0\x08\0\0\0\0",
                b"NR\0\0\0\x08\0\0\0\0",
            ]),
            ServerTls::Never => b"N",
            _ => b"S",
        };
        if answer.len() > 1 || answer == b"?" {
            // Nothing that comes now can mean anything.
            self.held.extend(answer);
            self.phase = Phase::Ended;
            return;
        }
        let mut connection = self.connection.borrow_mut();
        assert_eq!(
            connection.far_write(answer),
            1,
            "there is room for one byte"
        );
        if answer == b"S" {
            let sides = door.sides.expect("it has TLS");
            connection.far_secure(sides.of_server(false), Vec::new());
        }
    }

    fn begin(
        &mut self,
        startup: &startup::Startup<'_>,
        door: &Door<'_>,
        ring: &mut KeyRing,
        random: &mut Random,
    ) {
        if let Some(refusal) = &door.refuses {
            return self.refuse(refusal);
        }
        if door.bars(self.connection.borrow().is_secured()) {
            let text = "no pg_hba.conf entry for host \"pooler\"";
            return self.refuse(&Refusal::fatal(b"28000", text, Blame::Operator));
        }
        let method = door.method;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let parameters = startup
            .parameters
            .iter()
            .filter(|(name, _)| *name != b"user" && *name != b"database");
        let parameters: Vec<_> = parameters
            .map(|(name, value)| (text(name), text(value)))
            .collect();
        let user = text(startup.parameter(b"user").unwrap_or_default());
        if user == clerk::ASKER {
            // Nothing of any client (CVE-2025-12819).
            let own = ("search_path".to_owned(), "pg_catalog".to_owned());
            assert_eq!(parameters, [own], "what the one who asks brings along");
            self.clerk = Some(Clerk::new(door.form, door.password));
        }
        if method == AuthMethod::Trust {
            return self.welcome(parameters);
        }
        let stored = match door.form {
            // The very one that is told: who has proven something to Aether can prove it here.
            clerk::Form::Scram
                if matches!(
                    method,
                    AuthMethod::ScramSha256 | AuthMethod::ScramSha256Plus
                ) =>
            {
                Stored::parse(door.form.secret(&user, door.password).as_bytes())
            }
            _ => Stored::Plain(Secret::new(door.password)),
        };
        let endpoint = match self.connection.borrow().far_channel() {
            Channel::Bindable(endpoint) => Some(endpoint),
            Channel::Plain | Channel::Unbindable => None,
        };
        let progress = Verify::begin(
            Demand {
                method,
                iterations: 2,
                endpoint: endpoint.as_deref(),
            },
            &user,
            Some(&stored),
            ring,
            &mut |into| random.fill(into),
            &mut self.held,
        );
        self.progress(Ok(progress), parameters, ring);
    }

    fn progress(
        &mut self,
        mut progress: Result<Progress<Verify>, Refusal>,
        parameters: Vec<(String, String)>,
        ring: &mut KeyRing,
    ) {
        if let Ok(Progress::Derive(verify, job)) = progress {
            progress = verify.derived(&job.run(), ring, &mut self.held);
        }
        match progress {
            Ok(Progress::Next(verify)) => self.phase = Phase::Proving(verify, parameters),
            Ok(Progress::Done) => return self.welcome(parameters),
            Ok(Progress::Derive(..)) => panic!("derived once already"),
            Err(refusal) => return self.refuse(&refusal),
        }
        self.flush();
    }

    fn refuse(&mut self, refusal: &Refusal) {
        refusal.write(&mut self.held);
        self.phase = Phase::Ended;
        self.flush();
    }

    fn welcome(&mut self, parameters: Vec<(String, String)>) {
        backend::write_authentication_ok(&mut self.held);
        match Session::start(self.pid, &parameters) {
            Err(refusal) => self.refuse(&refusal),
            Ok(mut session) => {
                session.schema = Some(self.schema.clone());
                for (name, value) in session.reported() {
                    backend::write_parameter_status(
                        &mut self.held,
                        name.as_bytes(),
                        value.as_bytes(),
                    );
                }
                backend::write_backend_key_data(&mut self.held, self.pid, &self.key);
                backend::write_ready(&mut self.held);
                self.phase = Phase::Running(session, None);
                self.flush();
            }
        }
    }

    fn message(&mut self, tag: u8, body: &[u8], now: u64, ring: &mut KeyRing) {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Proving(verify, parameters) if tag == b'p' => {
                let progress = verify.step(body, ring, &mut self.held);
                self.progress(progress, parameters, ring);
            }
            Phase::Running(mut session, until) => {
                crate::trace(|| {
                    format!(
                        "  server {} > {} {}",
                        self.pid,
                        char::from(tag),
                        frame::printable(body)
                    )
                });
                let before = self.held.len();
                let clerk = self.clerk.as_mut();
                let effect = match clerk.map(|clerk| clerk.take(tag, body, &mut self.held)) {
                    Some(true) => Effect::Done,
                    _ => session.take(tag, body, &mut self.held),
                };
                crate::trace(|| {
                    format!(
                        "  server {} < {}",
                        self.pid,
                        frame::printable(&self.held[before..])
                    )
                });
                let flush =
                    !matches!(tag, b'P' | b'B' | b'D' | b'E' | b'C') || session.is_copying_in();
                self.phase = Phase::Running(session, until);
                self.settle(effect, now);
                if flush {
                    self.lie();
                    self.flush();
                }
            }
            _ => panic!(
                "the pooler sent {:?} to a server that expects no such message",
                char::from(tag)
            ),
        }
    }

    fn lie(&mut self) {
        let Some(lie) = self.lies.take() else { return };
        self.faulty = true;
        match lie {
            Lie::ExtraReady => backend::write_ready(&mut self.held),
            Lie::RowWithoutQuery => {
                frame::message(&mut self.held, b'D', |b| b.extend_from_slice(&[0, 0]))
            }
            Lie::UnknownStatus => frame::message(&mut self.held, b'Z', |b| b.push(b'?')),
            Lie::BadLength => self.held.extend_from_slice(b"D\0\0\0\x03"),
            Lie::HalfMessage => {
                let half = self.held.len() / 2;
                self.held.truncate(half);
                self.phase = Phase::Ended;
            }
        }
    }

    // ---- faults ----

    /// `pg_terminate_backend`, or a fast shutdown.
    pub fn terminate(&mut self) {
        self.faulty = true;
        if let Phase::Running(session, _) = &mut self.phase {
            session.end();
            let text = "terminating connection due to administrator command";
            Refusal::fatal(b"57P01", text, Blame::Operator).write(&mut self.held);
        }
        self.phase = Phase::Ended;
        self.flush();
        if self.outgoing.is_empty() {
            self.connection.borrow_mut().far_close();
        }
    }

    /// The machine goes away.
    pub fn crash(&mut self) {
        self.faulty = true;
        self.phase = Phase::Ended;
        self.outgoing.clear();
        self.held.clear();
        Connection::far_reset(&mut self.connection.borrow_mut());
    }

    /// Its next DISCARD ALL fails.
    pub fn make_stubborn(&mut self) {
        if let Phase::Running(session, _) = &mut self.phase {
            session.stubborn = true;
        }
    }
}
