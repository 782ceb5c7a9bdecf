//! What a client of the chaos asks: transactions of steps, every answer of which is known beforehand, to the byte.

use std::fmt;
use std::time::Duration;

use crate::modes::Mode;
use crate::random::Random;
use crate::support::wire::{self, message, terminated};

/// What a step is in its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A transaction of its own.
    Alone,
    Begin,
    Inside,
    Commit,
    Rollback,
}

/// Messages up to and with one that ReadyForQuery answers.
#[derive(Clone)]
pub struct Step {
    pub role: Role,
    pub bytes: Vec<u8>,
    /// What is in it that is this client's and nobody else's.
    pub tags: Vec<String>,
    /// The types of the messages that answer it if all goes well, but for notices and ParameterStatus.
    pub kinds: String,
    /// Its rows.
    pub rows: Vec<Vec<Option<String>>>,
    /// Its COPY data.
    pub copied: Vec<String>,
    /// The rows that are in the table once it is committed.
    pub writes: Vec<String>,
    /// The error that it must give.
    pub error: Option<&'static str>,
    /// Which of [`SHARED`] it parses, and under which name.
    pub parses: Option<(usize, String)>,
    /// The value that it gives to application_name.
    pub sets: Option<String>,
    /// How long it sleeps.
    pub sleep: Duration,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step {
            role,
            bytes,
            kinds,
            error,
            ..
        } = self;
        let bytes = bytes.escape_ascii();
        write!(
            f,
            "{role:?} \"{bytes}\" (which gives {kinds}, error {error:?})"
        )
    }
}

impl Step {
    fn new(role: Role, bytes: Vec<u8>, kinds: &str) -> Step {
        Step {
            role,
            bytes,
            tags: Vec::new(),
            kinds: kinds.to_string(),
            rows: Vec::new(),
            copied: Vec::new(),
            writes: Vec::new(),
            error: None,
            parses: None,
            sets: None,
            sleep: Duration::ZERO,
        }
    }

    /// How many statements of it have a tag.
    pub fn queries(&self) -> usize {
        if self.tags.is_empty() {
            0
        } else {
            self.kinds.matches('C').count()
        }
    }

    /// The length of what comes when a COMMIT has been done already: its Sync.
    pub fn after_commit(&self) -> usize {
        if self.role == Role::Commit && self.bytes.starts_with(b"P") {
            wire::sync().len()
        } else {
            0
        }
    }

    pub fn simple(role: Role, sql: &str, kinds: &str) -> Step {
        Step::new(role, message(b'Q', &terminated(sql)), kinds)
    }
}

/// Statements that all clients prepare, each with its own values.
pub const SHARED: [&str; 3] = [
    "SELECT $1::text, repeat($1, $2::int)",
    "INSERT INTO chaos VALUES ($1)",
    "SELECT $1::text, pg_sleep($2::float8)",
];

/// What is known of a session when the next transaction is planned.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The name of each of [`SHARED`] that is surely prepared.
    pub prepared: [Option<String>; SHARED.len()],
    /// Names that have been used.
    pub names: usize,
    /// application_name, if it has been set for sure.
    pub application_name: Option<String>,
}

/// Plans transactions for one client.
pub struct Planner {
    pub client: usize,
    pub random: Random,
    mode: Mode,
    transaction: usize,
    sequence: usize,
}

impl Planner {
    pub fn new(client: usize, seed: u64, mode: Mode) -> Planner {
        let random = Random::new(seed.wrapping_mul(1_000).wrapping_add(client as u64));
        Planner {
            client,
            random,
            mode,
            transaction: 0,
            sequence: 0,
        }
    }

    /// The next transaction, or a few of single steps.
    pub fn transaction(&mut self, known: &mut Known) -> Vec<Step> {
        self.transaction += 1;
        self.sequence = 0;
        let count = 1 + self.random.below(4);
        if self.mode == Mode::Statement || self.random.chance(55) {
            return (0..count).map(|_| self.step(Role::Alone, known)).collect();
        }
        let mut steps = vec![self.word(Role::Begin)];
        steps.extend((0..count).map(|_| self.step(Role::Inside, known)));
        let end = self
            .random
            .pick(&[Role::Commit, Role::Commit, Role::Commit, Role::Rollback]);
        steps.push(self.word(end));
        steps
    }

    /// A transaction that takes so many seconds.
    pub fn long(&mut self, seconds: f64) -> Vec<Step> {
        self.transaction += 1;
        let tag = self.tag();
        let mut step = Step::simple(
            Role::Alone,
            &format!("SELECT '{tag}', pg_sleep({seconds})"),
            "TDCZ",
        );
        step.rows = vec![vec![Some(tag.clone()), Some(String::new())]];
        step.tags = vec![tag];
        vec![step]
    }

    fn word(&mut self, role: Role) -> Step {
        let sql = match role {
            Role::Begin => "BEGIN",
            Role::Commit => "COMMIT",
            _ => "ROLLBACK",
        };
        if self.random.chance(70) {
            return Step::simple(role, sql, "CZ");
        }
        let bytes = [
            wire::parse("", sql),
            wire::bind("", "", &[]),
            wire::execute("", 0),
            wire::sync(),
        ];
        Step::new(role, bytes.concat(), "12CZ")
    }

    fn tag(&mut self) -> String {
        self.sequence += 1;
        format!("<{}:{}:{}>", self.client, self.transaction, self.sequence)
    }

    /// How often a tag is repeated in a row: mostly seldom, sometimes until it fills buffers.
    fn times(&mut self) -> usize {
        match self.random.below(40) {
            0 => self.random.below(6_000),
            1..6 => self.random.below(400),
            _ => self.random.below(4),
        }
    }

    fn step(&mut self, role: Role, known: &mut Known) -> Step {
        let tag = self.tag();
        let row = |values: &[&str]| values.iter().map(|value| Some(value.to_string())).collect();
        let mut step = match self.random.below(100) {
            0..14 => {
                let times = self.times();
                let sql = format!("SELECT '{tag}', repeat('{tag}', {times})");
                let mut step = Step::simple(role, &sql, "TDCZ");
                step.rows = vec![row(&[&tag, &tag.repeat(times)])];
                step
            }
            14..22 => {
                let other = self.tag();
                let mut step = Step::simple(
                    role,
                    &format!("SELECT '{tag}'; SELECT '{other}'"),
                    "TDCTDCZ",
                );
                step.rows = vec![row(&[&tag]), row(&[&other])];
                step.tags = vec![other];
                step
            }
            22..36 => {
                let times = self.times().to_string();
                let sql = format!("SELECT $1::text, '{tag}', repeat($1, $2::int)");
                let bytes = [
                    wire::parse("", &sql),
                    wire::bind("", "", &[&tag, &times]),
                    wire::describe(b'P', ""),
                    wire::execute("", 0),
                    wire::sync(),
                ];
                let mut step = Step::new(role, bytes.concat(), "12TDCZ");
                step.rows = vec![row(&[
                    &tag,
                    &tag,
                    &tag.repeat(times.parse().expect("a number")),
                ])];
                step
            }
            36..56 => {
                let times = self.times();
                let mut step = self.prepared(role, 0, &[&tag, &times.to_string()], "DC", known);
                step.rows = vec![row(&[&tag, &tag.repeat(times)])];
                step
            }
            56..66 => {
                let mut step =
                    Step::simple(role, &format!("INSERT INTO chaos VALUES ('{tag}')"), "CZ");
                step.writes = vec![tag.clone()];
                step
            }
            66..76 => {
                let mut step = self.prepared(role, 1, &[&tag], "C", known);
                step.writes = vec![tag.clone()];
                step
            }
            76..79 => {
                let sleep = Duration::from_micros(self.random.between(2_000, 20_000));
                let seconds = sleep.as_secs_f64();
                let mut step = if self.random.chance(50) {
                    Step::simple(
                        role,
                        &format!("SELECT '{tag}', pg_sleep({seconds})"),
                        "TDCZ",
                    )
                } else {
                    self.prepared(role, 2, &[&tag, &seconds.to_string()], "DC", known)
                };
                step.rows = vec![row(&[&tag, ""])];
                step.sleep = sleep;
                step
            }
            79..83 => {
                let mut step = Step::simple(role, &format!("SELECT '{tag}'::int"), "TDCZ");
                step.error = Some("22P02");
                step
            }
            83..86 => {
                let sql = format!("DO $$ BEGIN RAISE NOTICE '{tag}'; END $$");
                Step::simple(role, &sql, "CZ")
            }
            86..89 => {
                let sql = format!("COPY (SELECT '{tag}' FROM generate_series(1, 3)) TO STDOUT");
                let mut step = Step::simple(role, &sql, "HdddcCZ");
                step.copied = vec![format!("{tag}\n"); 3];
                step
            }
            89..92 => {
                let other = self.tag();
                let mut step = Step::simple(role, "COPY chaos FROM STDIN", "GCZ");
                step.bytes
                    .extend(message(b'd', format!("{tag}\n{other}\n").as_bytes()));
                step.bytes.extend(message(b'c', &[]));
                step.writes = vec![tag.clone(), other.clone()];
                step.tags = vec![other];
                step
            }
            92..96 if role == Role::Alone => match known.application_name.take() {
                Some(name) => {
                    let mut step = Step::simple(role, "SHOW application_name", "TDCZ");
                    step.rows = vec![row(&[&name])];
                    step.sets = Some(name.clone());
                    step.tags = vec![name];
                    step
                }
                None => {
                    let sql = format!("SET application_name = '{tag}'");
                    let mut step = Step::simple(role, &sql, "CZ");
                    step.sets = Some(tag.clone());
                    step
                }
            },
            _ => {
                // Two statements, one of which writes, in one batch: both or none.
                let other = self.tag();
                let bytes = [
                    wire::parse("", "INSERT INTO chaos VALUES ($1), ($2) RETURNING 1"),
                    wire::bind("", "", &[&tag, &other]),
                    wire::execute("", 0),
                    wire::parse("", "SELECT $1::text"),
                    wire::bind("", "", &[&other]),
                    wire::execute("", 0),
                    wire::sync(),
                ];
                let mut step = Step::new(role, bytes.concat(), "12DDC12DCZ");
                step.rows = vec![row(&["1"]), row(&["1"]), row(&[&other])];
                step.writes = vec![tag.clone(), other.clone()];
                step.tags = vec![other];
                step
            }
        };
        step.tags.push(tag);
        step
    }

    /// By a named statement, which is parsed first if this session does not surely have it.
    fn prepared(
        &mut self,
        role: Role,
        which: usize,
        values: &[&str],
        kinds: &str,
        known: &mut Known,
    ) -> Step {
        let old = known.prepared[which].clone();
        let name = old.clone().unwrap_or_else(|| {
            known.names += 1;
            format!("statement {}", known.names)
        });
        let mut bytes = Vec::new();
        let mut all = String::new();
        if old.is_none() {
            bytes.extend(wire::parse(&name, SHARED[which]));
            all.push('1');
        }
        bytes.extend(wire::bind("", &name, values));
        bytes.extend(wire::execute("", 0));
        bytes.extend(wire::sync());
        let mut step = Step::new(role, bytes, &format!("{all}2{kinds}Z"));
        step.parses = old.is_none().then_some((which, name));
        step
    }
}

/// Everything that looks like a tag: `<client:transaction:sequence>`.
pub fn tags_in(bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(begin) = rest.iter().position(|&byte| byte == b'<') {
        rest = &rest[begin..];
        let inside = |byte: &u8| byte.is_ascii_digit() || *byte == b':';
        let length = 1 + rest[1..].iter().take_while(|byte| inside(byte)).count();
        let numbers: Vec<_> = rest[1..length].split(|&byte| byte == b':').collect();
        let is_tag = numbers.len() == 3 && numbers.iter().all(|number| !number.is_empty());
        if is_tag && rest.get(length) == Some(&b'>') {
            found.push(String::from_utf8_lossy(&rest[..=length]).into_owned());
        }
        rest = &rest[length..];
    }
    found
}
