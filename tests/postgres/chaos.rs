//! Isolation under chaos: 50 clients on three servers, while clients are killed, queries cancelled, backends terminated, and
//! servers do not become free in time. Every query carries tags of its client, and an oracle holds each message that comes
//! against what was asked (catalogue B2, B3, B7, B13, B31, C7; ARCHITECTURE's promises 1 to 4).
//!
//! `AETHER_CHAOS=n` queries are asked in all modes together (100,000 when unset), `AETHER_CHAOS_SEED=n` draws other ones.

mod plan;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use plan::{Known, Planner, Role, Step, tags_in};

use crate::modes::{Mode, modes, number};
use crate::support::wire::{self, kinds};
use crate::support::{Cluster, Message, PATIENCE, Scene, ServerError, Wire, wait_until};

const CLIENTS: usize = 50;
const SERVERS: usize = 3;

/// How long a client waits for a server.
const ACQUIRE_MS: u64 = 700;

/// What happens, by name.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<&'static str, u64>>);

impl Counts {
    fn add(&self, what: &'static str) {
        *lock(&self.0).entry(what).or_default() += 1;
    }

    fn of(&self, what: &str) -> u64 {
        lock(&self.0).get(what).copied().unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all threads know.
struct World {
    port: u16,
    database: String,
    mode: Mode,
    target: u64,
    asked: AtomicU64,
    over: AtomicBool,
    /// How many servers are held on purpose; nobody is terminated then.
    held: AtomicU64,
    counts: Counts,
    violations: Mutex<Vec<String>>,
}

impl World {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.asked.load(Ordering::Relaxed) >= self.target
    }

    fn violated(&self, text: String) {
        lock(&self.violations).push(text);
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Whether a row that was asked for is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Once,
    Never,
    /// The client was not told: once or never.
    Perhaps,
}

/// A row that a client has asked for.
struct Row {
    tag: String,
    written: Written,
    /// How its transaction went, unless all went well.
    story: Arc<str>,
}

/// Why a session does not go on.
#[derive(Debug)]
enum Stop {
    /// It is over, as may be.
    Over,
    /// The oracle has something to say.
    Violation(String),
}

/// The times of a session's cancel requests: begun, and known to be over.
type CancelTimes = Arc<Mutex<Vec<(Instant, Option<Instant>)>>>;

/// A cancel request that is to be made.
struct Order {
    after: Duration,
    pid: i32,
    key: Vec<u8>,
    times: CancelTimes,
}

/// How a client that is killed goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Reset,
    Close,
    /// It says no more, but listens to what it is owed.
    HalfClose,
}

/// Where a client is killed: after so many bytes of what it would send, or messages of what it is sent.
#[derive(Clone, Copy, Debug)]
enum Kill {
    Sending(usize, Exit),
    Reading(usize, Exit),
}

/// One connection.
struct Session<'w> {
    world: &'w World,
    client: usize,
    wire: Wire,
    cancels: CancelTimes,
    /// Whether a cancel has been ordered, which may come at any time.
    may_cancel: bool,
    known: Known,
    /// The last steps and how they ended, for a violation's text.
    past: VecDeque<String>,
}

impl<'w> Session<'w> {
    /// Logs in; what may go wrong there is [`Stop::Over`].
    fn begin(world: &'w World, client: usize) -> Result<Session<'w>, Stop> {
        let wire = Wire::try_connect(world.port)
            .map_err(|error| violation(client, &format!("connect: {error}")))?;
        let mut session = Session {
            world,
            client,
            wire,
            cancels: CancelTimes::default(),
            may_cancel: false,
            known: Known::default(),
            past: VecDeque::new(),
        };
        session
            .wire
            .startup(&[("user", "username"), ("database", &world.database)]);
        loop {
            let message = session.read()?;
            // Any bytes may be in a cancel key.
            if let Some(tag) = tags_in(&message.body)
                .first()
                .filter(|_| message.kind != b'K')
            {
                return Err(session.violation(&format!("{tag} in the greeting: {message:?}")));
            }
            if let Some(error) = message.error() {
                return Err(session.fatal(&error));
            }
            if message.kind == b'Z' {
                world.counts.add("sessions");
                return Ok(session);
            }
        }
    }

    fn violation(&self, text: &str) -> Stop {
        violation(
            self.client,
            &format!("{text}; before that {:#?}", self.past),
        )
    }

    fn remember(&mut self, step: &Step, error: Option<&ServerError>, status: u8) {
        if self.past.len() >= 6 {
            self.past.pop_front();
        }
        let how = error.map_or("done", ServerError::sqlstate);
        let status = char::from(status);
        self.past.push_back(format!(
            "{:?} {how} {status}: {}",
            step.role,
            step.bytes.escape_ascii()
        ));
    }

    /// The next message, or `None` at the end of the connection, however it ends.
    fn read_on(&mut self) -> Result<Option<Message>, Stop> {
        match self.wire.try_read_message() {
            Ok(message) => Ok(message),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(self.violation(&format!("nothing came for {PATIENCE:?}, not even the end")))
            }
            Err(_) => Ok(None),
        }
    }

    /// The next message. There must be one, unless a server was terminated in the middle of it.
    fn read(&mut self) -> Result<Message, Stop> {
        self.read_on()?.ok_or_else(|| {
            self.world.counts.add("cut off");
            Stop::Over
        })
    }

    /// An error that ends the session.
    fn fatal(&mut self, error: &ServerError) -> Stop {
        let what = match error.sqlstate() {
            "57P01" => "57P01",
            "08006" => "08006",
            "53300" if error.message().contains("became free in time") => "53300",
            _ => return self.violation(&format!("{error:?}")),
        };
        match self.read_on() {
            Ok(Some(message)) => return self.violation(&format!("{message:?} behind {error:?}")),
            Ok(None) => {}
            Err(stop) => return stop,
        }
        self.world.counts.add(what);
        Stop::Over
    }

    /// Whether a cancel of ours was under way at some time since.
    fn may_be_cancelled(&self, since: Instant) -> bool {
        lock(&self.cancels)
            .iter()
            .any(|(_, end)| end.is_none_or(|end| end >= since))
    }

    /// Asks all of a transaction and checks each answer. `written`: what became of its rows, also if it stops.
    fn run(
        &mut self,
        steps: &[Step],
        at_once: bool,
        kill: Option<Kill>,
        written: &mut Vec<Row>,
    ) -> Result<(), Stop> {
        let queries: usize = steps.iter().map(Step::queries).sum();
        self.world
            .asked
            .fetch_add(queries as u64, Ordering::Relaxed);
        self.world.counts.add("transactions");
        let mut outcomes = Outcomes::new(steps);
        let result = self.exchange(steps, at_once, kill, &mut outcomes);
        let story = match (
            &result,
            outcomes
                .answers
                .iter()
                .all(|answer| *answer == Some(Answer::Done)),
        ) {
            (Ok(()), true) => Arc::from(""),
            _ => Arc::from(format!(
                "{kill:?}, at once {at_once}, {outcomes:?}: {steps:?}"
            )),
        };
        outcomes.settle(steps, self.may_cancel, &story, written);
        result
    }

    fn exchange(
        &mut self,
        steps: &[Step],
        at_once: bool,
        kill: Option<Kill>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Stop> {
        let size = if at_once { steps.len() } else { 1 };
        let (mut bytes_left, mut messages_left) = match kill {
            None => (usize::MAX, usize::MAX),
            Some(Kill::Sending(count, _)) => (count, usize::MAX),
            Some(Kill::Reading(count, _)) => (usize::MAX, count),
        };
        let exit = match kill {
            Some(Kill::Sending(_, exit) | Kill::Reading(_, exit)) => exit,
            None => Exit::Close,
        };
        let mut block = Block::None;
        for (number, burst) in steps.chunks(size).enumerate() {
            let begin = Instant::now();
            let bytes = burst
                .iter()
                .map(|step| step.bytes.as_slice())
                .collect::<Vec<_>>()
                .concat();
            if bytes.len() > bytes_left {
                let part = &bytes[..bytes_left];
                let mut end = 0;
                for (at, step) in burst.iter().enumerate() {
                    end += step.bytes.len();
                    outcomes.sent[number * size + at] = end - step.after_commit() <= bytes_left;
                }
                // Nobody may listen any more; then the reason is to be read.
                let _ = self.wire.stream.write_all(part);
                return self.leave(exit, steps);
            }
            bytes_left -= bytes.len();
            outcomes.sent[number * size..number * size + burst.len()].fill(true);
            let _ = self.wire.stream.write_all(&bytes);
            for (at, step) in burst.iter().enumerate() {
                let index = number * size + at;
                match self.answer(step, begin, &mut block, &mut messages_left)? {
                    Some(Answer::Refused) => {
                        outcomes.answers[index] = Some(Answer::Refused);
                        return Err(Stop::Over);
                    }
                    Some(answer) => outcomes.answers[index] = Some(answer),
                    None => return self.leave(exit, steps),
                }
            }
        }
        // A cancel may hit what would have ended the block.
        let rollback = Step::simple(Role::Rollback, "ROLLBACK", "CZ");
        while block == Block::Failed {
            let begin = Instant::now();
            let _ = self.wire.stream.write_all(&rollback.bytes);
            self.answer(&rollback, begin, &mut block, &mut { usize::MAX })?;
        }
        Ok(())
    }

    /// Reads the answer to a step and holds it against what it must be. `None`: it is time to be killed.
    fn answer(
        &mut self,
        step: &Step,
        begin: Instant,
        block: &mut Block,
        messages_left: &mut usize,
    ) -> Result<Option<Answer>, Stop> {
        let mut messages: Vec<Message> = Vec::new();
        let mut error: Option<ServerError> = None;
        let (mut rows, mut copied) = (step.rows.iter(), step.copied.iter());
        let status = loop {
            if *messages_left == 0 {
                return Ok(None);
            }
            *messages_left -= 1;
            let message = self.read()?;
            if let Some(tag) = tags_in(&message.body)
                .iter()
                .find(|tag| !step.tags.contains(tag))
            {
                let shown = message.body.escape_ascii().to_string();
                let foreign = !tag.starts_with(&format!("<{}:", self.client));
                let whose = if foreign { "a foreign" } else { "an old" };
                return Err(self.violation(&format!(
                    "{whose} tag {tag} in the answer to {step:?}: {shown}"
                )));
            }
            match message.kind {
                b'N' | b'S' => continue,
                b'D' if message.row().as_ref() != rows.next() => {
                    return Err(self.violation(&format!(
                        "not the row that was asked for by {step:?}: {message:?}"
                    )));
                }
                b'd' if copied.next().map(String::as_bytes) != Some(&message.body) => {
                    return Err(self.violation(&format!(
                        "not the data that was asked for by {step:?}: {message:?}"
                    )));
                }
                b'E' => {
                    let told = message.error().expect("it is one");
                    if told.severity() == "FATAL" {
                        let stop = self.fatal(&told);
                        if told.sqlstate() == "53300" {
                            // Never sent to a server.
                            return if matches!(stop, Stop::Over) {
                                Ok(Some(Answer::Refused))
                            } else {
                                Err(stop)
                            };
                        }
                        return Err(stop);
                    }
                    let so_far = kinds(&messages);
                    let committed = step.role == Role::Commit && so_far.contains('C');
                    if error.is_some() || committed || !step.kinds.starts_with(&so_far) {
                        return Err(
                            self.violation(&format!("{told:?} behind {messages:?} for {step:?}"))
                        );
                    }
                    error = Some(told);
                    continue;
                }
                b'Z' => break message.body[0],
                _ => {}
            }
            if error.is_some() {
                return Err(self.violation(&format!("{message:?} behind {error:?} for {step:?}")));
            }
            messages.push(message);
        };
        self.remember(step, error.as_ref(), status);
        if let Some(error) = &error {
            self.judge(error, step, begin, *block)?;
        } else if kinds(&messages) + "Z" != step.kinds {
            return Err(self.violation(&format!("{} came for {step:?}", kinds(&messages))));
        } else if step.error.is_some() || (*block == Block::Failed && step.role == Role::Inside) {
            return Err(self.violation(&format!("no error came for {step:?}")));
        }
        *block = match (step.role, error.is_some()) {
            (Role::Alone, _) | (Role::Commit | Role::Rollback, false) => Block::None,
            (Role::Begin, true) => Block::Missing,
            (Role::Inside, true) if *block != Block::Missing => Block::Failed,
            // Before it was done, or in doing it.
            (Role::Commit | Role::Rollback, true) if status == b'E' => Block::Failed,
            (Role::Commit | Role::Rollback, true) => Block::None,
            (Role::Begin, false) => Block::Open,
            (Role::Inside, _) => *block,
        };
        let must = match *block {
            Block::None | Block::Missing => b'I',
            Block::Open => b'T',
            Block::Failed => b'E',
        };
        if status != must {
            let status = char::from(status);
            return Err(self.violation(&format!(
                "status {status} when {block:?}, after {error:?}, for {step:?}"
            )));
        }
        if error.is_none() {
            if let Some((which, name)) = &step.parses {
                self.known.prepared[*which] = Some(name.clone());
            }
            if step.sets.is_some() {
                self.known.application_name = step.sets.clone();
            }
        }
        let tag = messages.iter().rev().find(|message| message.kind == b'C');
        let committed = tag.is_some_and(|tag| tag.body == b"COMMIT\0");
        Ok(Some(match error {
            Some(_) => Answer::Failed,
            None if step.role == Role::Commit && !committed => Answer::Failed,
            None => Answer::Done,
        }))
    }

    /// Whether this error may be.
    fn judge(
        &self,
        error: &ServerError,
        step: &Step,
        begin: Instant,
        block: Block,
    ) -> Result<(), Stop> {
        let code = error.sqlstate();
        if step.error == Some(code) {
            // With the tag in its text, which was looked at already.
            return Ok(());
        }
        match code {
            "57014" if self.may_be_cancelled(begin) => self.world.counts.add("57014"),
            "57014" => {
                return Err(self.violation(&format!("a foreign cancel: {error:?} for {step:?}")));
            }
            "25P02" if block == Block::Failed => {}
            _ => return Err(self.violation(&format!("{error:?} for {step:?}"))),
        }
        Ok(())
    }

    /// Is killed.
    fn leave(&mut self, exit: Exit, steps: &[Step]) -> Result<(), Stop> {
        match exit {
            Exit::Reset => {
                self.world.counts.add("killed by RST");
                let at_once = nix::libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&self.wire.stream, sockopt::Linger, &at_once).expect("SO_LINGER");
            }
            Exit::Close => self.world.counts.add("killed by close"),
            Exit::HalfClose => {
                self.world.counts.add("killed by FIN");
                let _ = self.wire.stream.shutdown(Shutdown::Write);
                while let Some(message) = self.read_on()? {
                    for tag in tags_in(&message.body) {
                        if !steps.iter().any(|step| step.tags.contains(&tag)) {
                            return Err(self.violation(&format!(
                                "{tag} after the end of what was said: {message:?}"
                            )));
                        }
                    }
                }
            }
        }
        Err(Stop::Over)
    }
}

fn violation(client: usize, text: &str) -> Stop {
    const MOST: usize = 4_000;
    let mut text = format!("client {client}: {text}");
    if text.len() > MOST {
        let end = (0..=MOST).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
    }
    Stop::Violation(text)
}

/// The transaction block as the client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    None,
    Open,
    Failed,
    /// Its BEGIN failed, so its steps are on their own.
    Missing,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Failed,
    /// It got no server, and those behind it got none either.
    Refused,
}

/// What is known of the steps of a transaction.
#[derive(Debug)]
struct Outcomes {
    sent: Vec<bool>,
    answers: Vec<Option<Answer>>,
}

impl Outcomes {
    fn new(steps: &[Step]) -> Outcomes {
        Outcomes {
            sent: vec![false; steps.len()],
            answers: vec![None; steps.len()],
        }
    }

    /// What has become of the rows. `may_cancel`: whether a step may have failed without our having heard of it.
    fn settle(&self, steps: &[Step], may_cancel: bool, story: &Arc<str>, rows: &mut Vec<Row>) {
        let refused = self.answers.contains(&Some(Answer::Refused));
        let fate = |at: usize| match self.answers[at] {
            Some(Answer::Done) => Written::Once,
            Some(Answer::Failed | Answer::Refused) => Written::Never,
            None if refused || !self.sent[at] => Written::Never,
            None => Written::Perhaps,
        };
        // Where BEGIN fails, what was sent behind it is on its own.
        let alone = steps[0].role == Role::Begin && self.answers[0] == Some(Answer::Failed);
        let perhaps_alone = steps[0].role == Role::Begin && self.answers[0].is_none() && may_cancel;
        let end = steps.len() - 1;
        for (at, step) in steps.iter().enumerate() {
            let written = match step.role {
                Role::Inside if alone || perhaps_alone => fate(at),
                Role::Inside if fate(at) == Written::Never => Written::Never,
                Role::Inside if steps[end].role == Role::Rollback => Written::Never,
                Role::Inside => fate(end),
                _ => fate(at),
            };
            rows.extend(step.writes.iter().map(|tag| Row {
                tag: tag.clone(),
                written,
                story: story.clone(),
            }));
        }
    }
}

/// A client's life: sessions, until enough has been asked. Gives what became of its rows.
fn live(world: &World, client: usize, seed: u64, orders: &mpsc::Sender<Order>) -> Vec<Row> {
    let mut planner = Planner::new(client, seed, world.mode);
    let mut written = Vec::new();
    while !world.is_over() {
        let result = Session::begin(world, client)
            .and_then(|mut session| visit(&mut session, &mut planner, orders, &mut written));
        if let Err(Stop::Violation(text)) = result {
            world.violated(text);
        }
    }
    written
}

fn visit(
    session: &mut Session<'_>,
    planner: &mut Planner,
    orders: &mpsc::Sender<Order>,
    written: &mut Vec<Row>,
) -> Result<(), Stop> {
    // In session mode servers are shared in time only.
    let most = match session.world.mode {
        Mode::Session => 1 + planner.random.below(6),
        _ => usize::MAX,
    };
    for _ in 0..most {
        if session.world.is_over() {
            break;
        }
        let steps = planner.transaction(&mut session.known);
        let random = &mut planner.random;
        let sleep = steps
            .iter()
            .map(|step| step.sleep)
            .find(|sleep| !sleep.is_zero());
        let mut aimed = false;
        if random.chance(if sleep.is_some() { 60 } else { 2 }) {
            // At any moment, or just when the query ends and its server may go to somebody else.
            let mut after = random.between(0, 25_000);
            if let Some(sleep) = sleep
                && random.chance(50)
            {
                aimed = true;
                let end = u64::try_from(sleep.as_micros()).expect("short");
                after = (end + random.between(0, 1_500)).saturating_sub(1_000);
            }
            session.may_cancel = true;
            for _ in 0..1 + random.below(2) {
                let order = Order {
                    after: Duration::from_micros(after),
                    pid: session.wire.pid,
                    key: session.wire.key.clone(),
                    times: session.cancels.clone(),
                };
                orders.send(order).expect("the canceller waits for orders");
            }
        }
        let exit = random.pick(&[Exit::Reset, Exit::Close, Exit::HalfClose]);
        let bytes = steps.iter().map(|step| step.bytes.len()).sum::<usize>();
        let kill = match random.below(100) {
            0 => Some(Kill::Sending(random.below(bytes), exit)),
            1 => Some(Kill::Reading(random.below(12), exit)),
            _ => None,
        };
        let at_once = random.chance(35);
        session.run(&steps, at_once, kill, written)?;
        if aimed && session.world.mode == Mode::Session {
            break;
        }
        if planner.random.chance(10) {
            thread::sleep(Duration::from_micros(planner.random.between(0, 2_000)));
        }
    }
    // Not `Wire::terminate`: a server that is terminated now may cut us off.
    let _ = session.wire.stream.write_all(&wire::message(b'X', &[]));
    let Some(message) = session.read_on()? else {
        return Ok(());
    };
    match message.error() {
        Some(error) => Err(session.fatal(&error)),
        None => Err(session.violation(&format!("{message:?} after Terminate"))),
    }
}

/// Makes cancel requests when their time has come, also those of sessions that are no more.
fn cancel(world: &World, orders: &mpsc::Receiver<Order>) {
    for order in orders {
        thread::sleep(order.after);
        let number = {
            let mut times = lock(&order.times);
            times.push((Instant::now(), None));
            times.len() - 1
        };
        let request = || -> std::io::Result<()> {
            let mut stream = TcpStream::connect(("127.0.0.1", world.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let length = i32::try_from(12 + order.key.len()).expect("short");
            let mut packet = length.to_be_bytes().to_vec();
            packet.extend(80_877_102_i32.to_be_bytes());
            packet.extend(order.pid.to_be_bytes());
            packet.extend(&order.key);
            stream.write_all(&packet)?;
            // Closed by the other end when it is through.
            let answer = stream.read(&mut [0; 64]);
            match answer {
                Ok(0) => Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
                Ok(_) => Err(std::io::Error::other("an answer to a cancel request")),
                Err(error) => Err(error),
            }
        };
        if let Err(error) = request() {
            world.violated(format!("a cancel request: {error}"));
        }
        world.counts.add("cancel requests");
        lock(&order.times)[number].1 = Some(Instant::now());
    }
}

/// Terminates one backend of the pool after another.
fn terminate(world: &World, cluster: &Cluster) {
    let mut admin = Wire::login(cluster.port(), "postgres", "", "postgres");
    let random = &mut Planner::new(CLIENTS, 0, world.mode).random;
    let kill = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND usename = 'username' \
         ORDER BY random() LIMIT 1",
        world.database
    );
    while !world.is_over() {
        thread::sleep(Duration::from_millis(random.between(20, 120)));
        if world.held.load(Ordering::Relaxed) == 0 && admin.value(&kill).as_deref() == Some("t") {
            world.counts.add("terminated");
        }
    }
    admin.terminate();
}

/// Now and then all servers are held for longer than a client waits.
fn hog(world: &World, client: usize, seed: u64) {
    let mut planner = Planner::new(client, seed, world.mode);
    for part in [1, 4, 7] {
        while world.asked.load(Ordering::Relaxed) < world.target * part / 10 && !world.is_over() {
            thread::sleep(Duration::from_millis(5));
        }
        let steps = planner.long(1.5 * ACQUIRE_MS as f64 / 1_000.0);
        world.held.fetch_add(1, Ordering::Relaxed);
        let result = Session::begin(world, client)
            .and_then(|mut session| session.run(&steps, true, None, &mut Vec::new()));
        world.held.fetch_sub(1, Ordering::Relaxed);
        if let Err(Stop::Violation(text)) = result {
            world.violated(text);
        }
    }
}

/// The table against what the clients know.
fn check_rows(world: &World, cluster: &Cluster, written: &[Row]) {
    let mut direct = Wire::login(cluster.port(), "postgres", "", &world.database);
    let answer = direct.run("SELECT tag, count(*) FROM chaos GROUP BY tag");
    let mut rows: HashMap<String, String> = answer
        .iter()
        .filter_map(Message::row)
        .filter_map(|row| {
            let mut row = row.into_iter().flatten();
            Some((row.next()?, row.next()?))
        })
        .collect();
    let mut seen = HashSet::new();
    for Row {
        tag,
        written,
        story,
    } in written
    {
        assert!(
            seen.insert(tag),
            "{tag} was written twice by the test itself"
        );
        let count = rows.remove(tag);
        let right = match written {
            Written::Once => count.as_deref() == Some("1"),
            Written::Never => count.is_none(),
            Written::Perhaps => count.as_deref().is_none_or(|count| count == "1"),
        };
        assert!(
            right,
            "{tag} must be there {written:?}, and is {count:?}: {story}"
        );
    }
    assert!(rows.is_empty(), "rows that nobody wrote: {rows:?}");
}

fn chaos(mode: Mode, target: u64) {
    let cluster = Cluster::start();
    let keys = format!(
        "  mode: {}\n  max_connections: {SERVERS}\n  acquire_timeout: {ACQUIRE_MS}ms\nauth: {{type: trust, allow_insecure: true}}\n",
        mode.word()
    );
    let scene = Scene::new(&cluster, "chaos", &keys);
    cluster.sql(
        "chaos",
        "CREATE TABLE chaos (tag text); GRANT ALL ON chaos TO PUBLIC",
    );
    let world = &World {
        port: scene.pooler.port(),
        database: scene.database.clone(),
        mode,
        target,
        asked: AtomicU64::new(0),
        over: AtomicBool::new(false),
        held: AtomicU64::new(0),
        counts: Counts::default(),
        violations: Mutex::default(),
    };
    let seed = number("AETHER_CHAOS_SEED").unwrap_or(0);
    let begin = Instant::now();
    let written: Vec<Row> = thread::scope(|threads| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (orders, inbox) = mpsc::channel();
                threads.spawn(move || cancel(world, &inbox));
                threads.spawn(move || live(world, client, seed, &orders))
            })
            .collect();
        threads.spawn(|| terminate(world, &cluster));
        for hogger in 0..SERVERS {
            threads.spawn(move || hog(world, CLIENTS + 1 + hogger, seed));
        }
        clients
            .into_iter()
            .flat_map(|client| client.join().expect("the oracle does not panic"))
            .collect()
    });
    let time = begin.elapsed();
    let asked = world.asked.load(Ordering::Relaxed);
    let rate = asked as f64 / time.as_secs_f64();
    let certain = written
        .iter()
        .filter(|row| row.written == Written::Once)
        .count();
    println!(
        "{}: {asked} queries in {time:.1?}, {rate:.0}/s; {certain} rows committed; {:?}",
        mode.word(),
        lock(&world.counts.0)
    );
    let violations = lock(&world.violations);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    let count = |what| world.counts.of(what);

    // Nothing is stuck.
    scene.wait_for_rest();
    let mut fresh = scene.login();
    assert_eq!(fresh.value("SELECT 'fresh'").as_deref(), Some("fresh"));
    fresh.terminate();
    let backends =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'chaos' AND usename = 'username'";
    wait_until("no server is left that the pool does not know", || {
        cluster.sql("postgres", backends) == scene.pool("total_connections").to_string()
    });
    check_rows(world, &cluster, &written);

    // A terminated backend is noticed by one client at most.
    assert!(count("57P01") + count("08006") + count("cut off") <= count("terminated"));
    if asked >= 30_000 {
        for what in [
            "57014",
            "57P01",
            "53300",
            "killed by RST",
            "killed by FIN",
            "killed by close",
            "terminated",
        ] {
            assert!(count(what) > 0, "there was no {what}");
        }
    }
}

#[test]
fn no_client_sees_what_is_anothers_whatever_happens() {
    let modes = modes(&[Mode::Session, Mode::Transaction, Mode::Statement]);
    let all = number("AETHER_CHAOS").unwrap_or(100_000);
    for &mode in &modes {
        chaos(mode, all / modes.len() as u64);
    }
}
