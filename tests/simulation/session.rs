//! A model of one PostgreSQL session: messages in, answers out.
//!
//! The servers of the simulation run it, and so does every client beside its real connection, as the reference: through a
//! session pool, the answers must be those of a session of one's own, byte for byte. Speaks just enough SQL to leave traces.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use aether::wire::backend;
use aether::wire::frame::{cstr, message, take_cstr, take_u32};
use aether::wire::refusal::{Refusal, notice};

/// Settings whose changes are reported.
pub const REPORTED: [&str; 4] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "TimeZone",
];
/// Settings that a startup packet may name, and what they are without it.
const DEFAULTS: [(&str, &str); 6] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "Etc/UTC"),
    ("search_path", "\"$user\", public"),
    ("statement_timeout", "0"),
];

/// What a session says whose DISCARD ALL fails.
pub const STUBBORN: &str = "nothing is discarded here";

/// What statements begin with that are outdated after DDL, and DDL.
pub const LIVE: &str = "SELECT 'live ";
pub const DDL: &str = "ALTER TABLE live";

type Settings = BTreeMap<String, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Idle,
    Block,
    Failed,
}

#[derive(Clone, Debug)]
struct Portal {
    sql: String,
    sent: u32,
    over: bool,
}

/// A COPY FROM STDIN in progress.
#[derive(Clone, Debug)]
struct CopyIn {
    extended: bool,
    lines: Vec<String>,
}

/// What a message leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    Done,
    /// A statement takes so many microseconds; [`Session::wake`] goes on.
    Sleep(u64),
    /// The session is over.
    Ended,
}

/// What a statement leads to.
enum Flow {
    Next,
    Sleep(u64),
    CopyIn,
}

#[derive(Clone, Debug)]
pub struct Session {
    pid: u32,
    defaults: Settings,
    settings: Settings,
    reported: Settings,
    /// Settings as they were when the transaction began.
    saved: Option<Settings>,
    status: Status,
    statements: BTreeMap<String, String>,
    portals: BTreeMap<String, Portal>,
    skipping: bool,
    copy: Option<CopyIn>,
    /// Statements of a simple query that are still to be run.
    rest: VecDeque<String>,
    /// A statement sleeps: in the extended protocol?
    sleeping: Option<bool>,
    /// The statement of a portal that is run for one row at most: it is suspended behind it.
    suspends: bool,
    /// What DISCARD ALL undoes...
    locks: BTreeSet<String>,
    listens: BTreeSet<String>,
    /// ...and what it does not.
    temporary: bool,
    loaded: bool,
    notified: Vec<String>,
    written: Vec<String>,
    /// Tags of rows that were committed, and of rows that never will be.
    pub committed: Vec<String>,
    pub rolled_back: Vec<String>,
    /// DISCARD ALL fails: a fault.
    pub stubborn: bool,
    /// How often DDL has changed the shape of [`LIVE`] rows, on all connections. `None`: the reference knows nothing of it.
    pub schema: Option<Rc<Cell<u64>>>,
    /// What it was when a statement was parsed.
    parsed: BTreeMap<String, u64>,
    /// Parsed or used in this transaction: it has a lock that DDL waits for.
    locked: BTreeSet<String>,
}

impl Session {
    /// A session with the given startup parameters; an unknown one, or one with a wrong value, is refused.
    pub fn start(pid: u32, parameters: &[(String, String)]) -> Result<Session, Refusal> {
        let mut defaults: Settings = DEFAULTS
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        for (name, value) in in_order(parameters) {
            assign(&mut defaults, &name, &value).map_err(|refusal| Refusal {
                severity: aether::wire::refusal::Severity::Fatal,
                ..refusal
            })?;
        }
        let reported = reported_of(&defaults);
        Ok(Session {
            pid,
            settings: defaults.clone(),
            reported,
            defaults,
            saved: None,
            status: Status::Idle,
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            skipping: false,
            copy: None,
            rest: VecDeque::new(),
            sleeping: None,
            suspends: false,
            locks: BTreeSet::new(),
            listens: BTreeSet::new(),
            temporary: false,
            loaded: false,
            notified: Vec::new(),
            written: Vec::new(),
            committed: Vec::new(),
            rolled_back: Vec::new(),
            stubborn: false,
            schema: None,
            parsed: BTreeMap::new(),
            locked: BTreeSet::new(),
        })
    }

    /// As [`Session::start`], for one that goes from server to server: what is reported is no startup parameter of those, so
    /// RESET goes to what they were started with.
    pub fn start_shared(pid: u32, parameters: &[(String, String)]) -> Result<Session, Refusal> {
        let is_reported = |name: &str| {
            REPORTED
                .iter()
                .any(|other| other.eq_ignore_ascii_case(name))
        };
        let mut left = in_order(parameters);
        left.retain(|(name, _)| !is_reported(name));
        let whole = Session::start(pid, parameters)?;
        Ok(Session {
            defaults: Session::start(pid, &left)?.defaults,
            ..whole
        })
    }

    /// What a client is told of the settings at its login.
    pub fn reported(&self) -> impl Iterator<Item = (&str, &str)> {
        self.reported
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether it is outside of a transaction block.
    pub fn is_idle(&self) -> bool {
        self.status == Status::Idle
    }

    /// The request that begins with a message of this type is cancelled before it does anything. False: the message is still
    /// to be taken, with all that is skipped.
    pub fn cancel(&mut self, tag: u8, out: &mut Vec<u8>) -> bool {
        let refusal = Refusal::error(b"57014", "canceling statement due to user request");
        self.fail(&refusal, out);
        let whole = matches!(tag, b'Q' | b'F');
        if tag == b'Q' {
            self.statements.remove("");
        }
        if whole {
            self.ready(out);
        } else {
            self.skipping = true;
        }
        whole
    }

    /// Lines of a COPY that has begun and not ended.
    pub fn unfinished_copy(&self) -> Vec<String> {
        self.copy
            .as_ref()
            .map(|copy| copy.lines.clone())
            .unwrap_or_default()
    }

    pub fn is_copying_in(&self) -> bool {
        self.copy.is_some()
    }

    pub fn is_sleeping(&self) -> bool {
        self.sleeping.is_some()
    }

    /// The connection is gone: what was not committed never will be.
    pub fn end(&mut self) {
        self.copy = None;
        self.roll_back();
    }

    /// Takes a message. Not to be called while a statement sleeps.
    pub fn take(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Effect {
        if self.copy.is_some() && !matches!(tag, b'X' | b'S' | b'H') {
            return self.copy_data(tag, body, out);
        }
        match tag {
            b'X' => {
                self.end();
                return Effect::Ended;
            }
            b'S' if self.copy.is_none() => {
                self.skipping = false;
                self.ready(out);
            }
            b'H' | b'S' | b'd' | b'c' | b'f' => {}
            _ if self.skipping => {}
            b'Q' => {
                self.statements.remove("");
                let text = take_cstr(body)
                    .map(|(text, _)| String::from_utf8_lossy(text).into_owned())
                    .unwrap_or_default();
                self.rest = text
                    .split(';')
                    .map(|piece| piece.trim().to_owned())
                    .filter(|piece| !piece.is_empty())
                    .collect();
                if self.rest.is_empty() {
                    backend::write_empty_query(out);
                }
                let alone = self.rest.len() == 1;
                return self.go_on(alone, out);
            }
            b'F' => {
                match take_u32(body) {
                    _ if self.status == Status::Failed => self.fail(&aborted(), out),
                    Some((1, _)) => {
                        message(out, b'V', |b| b.extend_from_slice(&[0, 0, 0, 1, b'x']))
                    }
                    _ => self.fail(&Refusal::error(b"42883", "no such function"), out),
                }
                self.ready(out);
            }
            _ => match self.extended(tag, body, out) {
                Ok(Flow::Next) => {}
                Ok(Flow::CopyIn) => {
                    self.copy = Some(CopyIn {
                        extended: true,
                        lines: Vec::new(),
                    })
                }
                Ok(Flow::Sleep(time)) => {
                    self.sleeping = Some(true);
                    return Effect::Sleep(time);
                }
                Err(refusal) => {
                    self.fail(&refusal, out);
                    self.skipping = true;
                }
            },
        }
        Effect::Done
    }

    /// The sleeping statement is over.
    pub fn wake(&mut self, cancelled: bool, out: &mut Vec<u8>) -> Effect {
        let extended = self.sleeping.take().expect("it slept");
        let suspends = std::mem::take(&mut self.suspends);
        let result = if cancelled {
            Err(Refusal::error(
                b"57014",
                "canceling statement due to user request",
            ))
        } else {
            row(out, "");
            if suspends {
                message(out, b's', |_| {});
            } else {
                backend::write_command_complete(out, "SELECT 1");
            }
            Ok(())
        };
        match (result, extended) {
            (Ok(()), true) => Effect::Done,
            (Ok(()), false) => self.go_on(false, out),
            (Err(refusal), _) => {
                self.fail(&refusal, out);
                if extended {
                    self.skipping = true;
                } else {
                    self.rest.clear();
                    self.ready(out);
                }
                Effect::Done
            }
        }
    }

    /// Runs what is left of a simple query.
    fn go_on(&mut self, alone: bool, out: &mut Vec<u8>) -> Effect {
        while let Some(sql) = self.rest.pop_front() {
            // Only one that gets so far as to be run takes the place of the unnamed portal.
            if !is_wrong(&sql) && (self.status != Status::Failed || ends_transaction(&sql)) {
                self.portals.remove("");
            }
            match self.run(&sql, alone, true, out) {
                Ok(Flow::Next) => {}
                Ok(Flow::Sleep(time)) => {
                    self.sleeping = Some(false);
                    return Effect::Sleep(time);
                }
                Ok(Flow::CopyIn) => {
                    self.copy = Some(CopyIn {
                        extended: false,
                        lines: Vec::new(),
                    });
                    return Effect::Done;
                }
                Err(refusal) => {
                    self.rest.clear();
                    self.fail(&refusal, out);
                }
            }
        }
        self.ready(out);
        Effect::Done
    }

    fn ready(&mut self, out: &mut Vec<u8>) {
        if self.status == Status::Idle {
            self.commit(out);
            self.portals.clear();
            self.locked.clear();
        }
        let now = reported_of(&self.settings);
        for (name, value) in now
            .iter()
            .filter(|(name, value)| self.reported.get(*name) != Some(value))
        {
            backend::write_parameter_status(out, name.as_bytes(), value.as_bytes());
        }
        self.reported = now;
        message(out, b'Z', |b| {
            b.push(match self.status {
                Status::Idle => b'I',
                Status::Block => b'T',
                Status::Failed => b'E',
            })
        });
    }

    fn commit(&mut self, out: &mut Vec<u8>) {
        self.saved = None;
        self.committed.append(&mut self.written);
        for channel in std::mem::take(&mut self.notified) {
            if self.listens.contains(&channel) {
                message(out, b'A', |b| {
                    b.extend_from_slice(&self.pid.to_be_bytes());
                    cstr(b, channel.as_bytes());
                    cstr(b, b"");
                });
            }
        }
    }

    fn roll_back(&mut self) {
        if let Some(saved) = self.saved.take() {
            self.settings = saved;
        }
        self.rolled_back.append(&mut self.written);
        self.notified.clear();
    }

    fn fail(&mut self, refusal: &Refusal, out: &mut Vec<u8>) {
        let begin = out.len();
        refusal.write(out);
        if refusal.sqlstate == *b"0A000" {
            let body = out.split_off(begin).split_off(5);
            message(out, b'E', |b| {
                b.extend_from_slice(&body[..body.len() - 1]);
                b.extend_from_slice(b"RRevalidateCachedQuery\0\0");
            });
        }
        match self.status {
            Status::Idle => self.roll_back(),
            Status::Block => {
                self.status = Status::Failed;
                self.roll_back(); // at once, not with ROLLBACK
            }
            Status::Failed => {}
        }
    }

    fn copy_data(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Effect {
        let Some(mut copy) = self.copy.take() else {
            return Effect::Done;
        };
        let result = match tag {
            b'd' if body == b"broken\n" => Err(Refusal::error(
                b"22P04",
                "extra data after last expected column",
            )),
            b'd' => {
                copy.lines
                    .push(String::from_utf8_lossy(body).trim_end().to_owned());
                self.copy = Some(copy);
                return Effect::Done;
            }
            b'c' => Ok(()),
            b'f' => Err(Refusal::error(
                b"57014",
                "COPY from stdin failed: the client gave up",
            )),
            other => Err(Refusal::fatal(
                b"08P01",
                format!("unexpected message type 0x{other:02X} during COPY from stdin"),
                aether::wire::refusal::Blame::Client,
            )),
        };
        match result {
            Ok(()) => {
                backend::write_command_complete(out, &format!("COPY {}", copy.lines.len()));
                self.written.append(&mut copy.lines);
                if copy.extended {
                    Effect::Done
                } else {
                    self.go_on(false, out)
                }
            }
            Err(refusal) => {
                self.rolled_back.append(&mut copy.lines);
                self.fail(&refusal, out);
                if copy.extended {
                    self.skipping = true;
                } else {
                    self.rest.clear();
                    self.ready(out);
                }
                Effect::Done
            }
        }
    }

    fn extended(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> Result<Flow, Refusal> {
        let mut strings = Strings(body);
        match tag {
            b'P' => {
                let (name, sql) = (strings.next(), strings.next());
                if name.is_empty() {
                    self.statements.remove(""); // also if the new one comes to nothing
                }
                if is_wrong(&sql) {
                    return Err(Refusal::error(b"42601", "syntax error"));
                }
                // An empty one is nothing that could be refused.
                let refused = !sql.is_empty() && !ends_transaction(&sql);
                if self.status == Status::Failed && refused {
                    return Err(aborted());
                }
                if !name.is_empty() && self.statements.contains_key(&name) {
                    return Err(Refusal::error(
                        b"42P05",
                        format!("prepared statement \"{name}\" already exists"),
                    ));
                }
                let schema = self.schema.as_ref().map_or(0, |schema| schema.get());
                self.parsed.insert(name.clone(), schema);
                self.locked.insert(name.clone());
                self.statements.insert(name, sql);
                message(out, b'1', |_| {});
            }
            b'B' => {
                let (portal, name) = (strings.next(), strings.next());
                let sql = self.statement(&name)?;
                if self.status == Status::Failed && !ends_transaction(&sql) {
                    return Err(aborted());
                }
                self.revalidate(&name, &sql)?;
                if !portal.is_empty() && self.portals.contains_key(&portal) {
                    return Err(Refusal::error(
                        b"42P03",
                        format!("cursor \"{portal}\" already exists"),
                    ));
                }
                self.portals.insert(
                    portal,
                    Portal {
                        sql,
                        sent: 0,
                        over: false,
                    },
                );
                message(out, b'2', |_| {});
            }
            b'D' => {
                let (kind, name) = (body.first().copied(), Strings(&body[1..]).next());
                let sql = if kind == Some(b'S') {
                    self.statement(&name)?
                } else {
                    self.portal(&name)?.sql
                };
                if self.status == Status::Failed && returns_rows(&sql) {
                    return Err(aborted());
                }
                if kind == Some(b'S') {
                    message(out, b't', |b| b.extend_from_slice(&[0, 0]));
                    self.revalidate(&name, &sql)?;
                }
                if returns_rows(&sql) {
                    description(out)
                } else {
                    message(out, b'n', |_| {})
                }
            }
            b'E' => {
                let name = strings.next();
                let most = take_u32(strings.0).map_or(0, |(most, _)| most);
                return self.execute(&name, most, out);
            }
            b'C' => {
                let (kind, name) = (body.first().copied(), Strings(&body[1..]).next());
                if kind == Some(b'S') {
                    self.statements.remove(&name);
                } else {
                    self.portals.remove(&name);
                }
                message(out, b'3', |_| {});
            }
            other => panic!("a message that no client of ours sends: {}", other as char),
        }
        Ok(Flow::Next)
    }

    fn execute(&mut self, name: &str, most: u32, out: &mut Vec<u8>) -> Result<Flow, Refusal> {
        let mut portal = self.portal(name)?;
        if self.status == Status::Failed && !ends_transaction(&portal.sql) {
            return Err(aborted());
        }
        if let Some(select) = Select::read(&portal.sql) {
            let left = select.rows.saturating_sub(portal.sent);
            let now = if most > 0 && left >= most { most } else { left };
            self.begin();
            (0..now).for_each(|_| row(out, &select.value()));
            portal.sent += now;
            if most > 0 && left >= most {
                message(out, b's', |_| {});
            } else {
                backend::write_command_complete(out, &format!("SELECT {now}"));
            }
            self.portals.insert(name.to_owned(), portal);
            return Ok(Flow::Next);
        }
        let run_before = std::mem::replace(&mut portal.over, true);
        if run_before && returns_rows(&portal.sql) {
            let tag = if portal.sql.starts_with("SHOW") {
                "SHOW"
            } else {
                "SELECT 0"
            };
            backend::write_command_complete(out, tag);
            return Ok(Flow::Next);
        }
        if run_before && !portal.sql.is_empty() {
            return Err(Refusal::error(
                b"55000",
                format!("portal \"{name}\" cannot be run"),
            ));
        }
        let sql = portal.sql.clone();
        self.portals.insert(name.to_owned(), portal);
        if sql.is_empty() {
            backend::write_empty_query(out);
            return Ok(Flow::Next);
        }
        let before = out.len();
        self.suspends = most == 1 && returns_rows(&sql);
        let flow = self.run(&sql, false, false, out);
        if !matches!(flow, Ok(Flow::Sleep(_))) && std::mem::take(&mut self.suspends) && flow.is_ok()
        {
            // Its one row came, and there may be more.
            out.truncate(before + end_of_row(&out[before..]));
            message(out, b's', |_| {});
        }
        flow
    }

    fn statement(&self, name: &str) -> Result<String, Refusal> {
        let unknown = || {
            Refusal::error(
                b"26000",
                format!("prepared statement \"{name}\" does not exist"),
            )
        };
        self.statements.get(name).cloned().ok_or_else(unknown)
    }

    /// PostgreSQL's RevalidateCachedQuery.
    fn revalidate(&mut self, name: &str, sql: &str) -> Result<(), Refusal> {
        let same = |schema: &Rc<Cell<u64>>| self.parsed.get(name) == Some(&schema.get());
        if !sql.starts_with(LIVE)
            || self.locked.contains(name)
            || self.schema.as_ref().is_none_or(same)
        {
            self.locked.insert(name.to_owned());
            return Ok(());
        }
        Err(Refusal::error(
            b"0A000",
            "im zwischengespeicherten Plan darf sich der Ergebnistyp nicht ändern",
        ))
    }

    fn portal(&self, name: &str) -> Result<Portal, Refusal> {
        let unknown = || Refusal::error(b"34000", format!("portal \"{name}\" does not exist"));
        self.portals.get(name).cloned().ok_or_else(unknown)
    }

    fn begin(&mut self) {
        if self.saved.is_none() {
            self.saved = Some(self.settings.clone());
        }
    }

    /// Runs one statement. `described`: its rows come with their description, as in a simple query.
    fn run(
        &mut self,
        sql: &str,
        alone: bool,
        described: bool,
        out: &mut Vec<u8>,
    ) -> Result<Flow, Refusal> {
        if is_wrong(sql) {
            return Err(Refusal::error(b"42601", "syntax error"));
        }
        if self.status == Status::Failed && !ends_transaction(sql) {
            return Err(aborted());
        }
        self.begin();
        let words: Vec<&str> = sql.split_whitespace().collect();
        let quoted = sql.split('\'').nth(1).unwrap_or_default().to_owned();
        if let Some(select) = Select::read(sql) {
            if described {
                description(out);
            }
            (0..select.rows).for_each(|_| row(out, &select.value()));
            backend::write_command_complete(out, &format!("SELECT {}", select.rows));
            return Ok(Flow::Next);
        }
        if sql.starts_with("SELECT pg_catalog.set_config(") {
            let quoted: Vec<&str> = sql
                .split("E'")
                .skip(1)
                .filter_map(|part| part.split('\'').next())
                .collect();
            for pair in quoted.chunks(2) {
                assign(&mut self.settings, pair[0], pair[1])?;
            }
            if described {
                description(out);
            }
            row(out, "");
            backend::write_command_complete(out, "SELECT 1");
            return Ok(Flow::Next);
        }
        let tag = match words[..] {
            ["SELECT", "pg_sleep", time] => {
                if described {
                    description(out);
                }
                return Ok(Flow::Sleep(time.parse().unwrap_or(0)));
            }
            ["SELECT", "error", ..] => {
                if described {
                    description(out);
                }
                return Err(Refusal::error(
                    b"22P02",
                    format!("invalid input: \"{quoted}\""),
                ));
            }
            ["SHOW", name] | ["SHOW", name, "--", ..] => {
                let value = match name {
                    "state" => self.state(),
                    "pid" => self.pid.to_string(),
                    _ => self
                        .settings
                        .get(name)
                        .cloned()
                        .ok_or_else(|| Refusal::error(b"42704", "unknown parameter"))?,
                };
                if described {
                    description(out);
                }
                row(out, &value);
                "SHOW"
            }
            ["SET", name, ..] => {
                assign(&mut self.settings, name, &quoted)?;
                "SET"
            }
            ["RESET", "ALL"] => {
                self.settings = self.defaults.clone();
                "RESET"
            }
            ["SELECT"] => {
                if described {
                    description(out);
                }
                "SELECT 1"
            }
            ["RESET", "SESSION", "AUTHORIZATION"] | ["RESET", "ROLE"] => "RESET",
            ["BEGIN"] => {
                if self.status == Status::Block {
                    notice(out, "there is already a transaction in progress", None);
                }
                self.status = Status::Block;
                "BEGIN"
            }
            ["COMMIT"] if self.status == Status::Failed => {
                self.status = Status::Idle;
                self.roll_back();
                "ROLLBACK"
            }
            ["COMMIT"] => {
                if self.status == Status::Idle {
                    notice(out, "there is no transaction in progress", None);
                }
                self.status = Status::Idle;
                self.commit(out);
                "COMMIT"
            }
            ["ROLLBACK"] => {
                if self.status == Status::Idle {
                    notice(out, "there is no transaction in progress", None);
                }
                self.status = Status::Idle;
                self.roll_back();
                "ROLLBACK"
            }
            ["INSERT", ..] => {
                self.written.push(quoted);
                "INSERT 0 1"
            }
            ["UNLISTEN", "*"] => {
                self.listens.clear();
                "UNLISTEN"
            }
            ["CLOSE", "ALL"] => "CLOSE CURSOR ALL",
            ["DISCARD", "TEMP"] => {
                self.temporary = false;
                "DISCARD TEMP"
            }
            ["SELECT", "pg_catalog.pg_advisory_unlock_all()"] => {
                self.locks.clear();
                if described {
                    description(out);
                }
                row(out, "");
                "SELECT 1"
            }
            ["LISTEN", channel] => {
                self.listens.insert(channel.to_owned());
                "LISTEN"
            }
            ["NOTIFY", channel] => {
                self.notified.push(channel.to_owned());
                "NOTIFY"
            }
            ["SELECT", "pg_advisory_lock", key] => {
                self.locks.insert(key.to_owned());
                if described {
                    description(out);
                }
                row(out, "");
                "SELECT 1"
            }
            ["CREATE", "TEMP", ..] => {
                self.temporary = true;
                "CREATE TABLE"
            }
            ["PREPARE", name, ..] => {
                self.statements
                    .insert(name.to_owned(), "SELECT 'x'".to_owned());
                "PREPARE"
            }
            ["DEALLOCATE", "ALL"] => {
                self.statements.retain(|name, _| name.is_empty());
                "DEALLOCATE ALL"
            }
            ["DEALLOCATE", name] => {
                let unknown = format!("prepared statement \"{name}\" does not exist");
                let gone = self.statements.remove(name);
                gone.ok_or_else(|| Refusal::error(b"26000", unknown))?;
                "DEALLOCATE"
            }
            ["ALTER", "TABLE", "live"] => {
                if let Some(schema) = &self.schema {
                    schema.set(schema.get() + 1);
                }
                "ALTER TABLE"
            }
            ["LOAD", ..] => {
                self.loaded = true;
                "LOAD"
            }
            ["DISCARD", "ALL"] => {
                if self.status != Status::Idle || !alone {
                    return Err(Refusal::error(
                        b"25001",
                        "DISCARD ALL cannot run inside a transaction block",
                    ));
                }
                if self.stubborn {
                    return Err(Refusal::error(b"XX000", STUBBORN));
                }
                self.settings = self.defaults.clone();
                self.saved = None;
                self.statements.retain(|name, _| name.is_empty());
                self.portals.clear();
                self.locks.clear();
                self.listens.clear();
                "DISCARD ALL"
            }
            ["COPY", _, "FROM", "STDIN"] => {
                message(out, b'G', |b| b.extend_from_slice(&[0, 0, 1, 0, 0]));
                return Ok(Flow::CopyIn);
            }
            ["COPY", rows, "TO", "STDOUT", ..] => {
                message(out, b'H', |b| b.extend_from_slice(&[0, 0, 1, 0, 0]));
                let rows: u32 = rows.parse().unwrap_or(0);
                let line = format!("{quoted}\n");
                (0..rows)
                    .for_each(|_| message(out, b'd', |b| b.extend_from_slice(line.as_bytes())));
                message(out, b'c', |_| {});
                backend::write_command_complete(out, &format!("COPY {rows}"));
                return Ok(Flow::Next);
            }
            _ => return Err(Refusal::error(b"42601", format!("syntax error: {sql}"))),
        };
        backend::write_command_complete(out, tag);
        Ok(Flow::Next)
    }

    /// Everything that another client's traces would show in.
    fn state(&self) -> String {
        format!(
            "{:?} {:?} {:?} {:?} temp={} loaded={}",
            self.settings, self.statements, self.locks, self.listens, self.temporary, self.loaded
        )
    }
}

/// `SELECT 'tag'`, `SELECT 'tag' x ROWS`, `SELECT 'tag' x ROWS x SIZE`.
struct Select {
    tag: String,
    rows: u32,
    size: usize,
}

impl Select {
    fn read(sql: &str) -> Option<Select> {
        let (tag, rest) = sql.strip_prefix("SELECT '")?.split_once('\'')?;
        let mut numbers = rest
            .split('x')
            .map(|word| word.trim().parse::<u32>().ok())
            .skip(1);
        let rows = numbers.next().flatten().unwrap_or(1);
        Some(Select {
            tag: tag.to_owned(),
            rows,
            size: numbers.next().flatten().unwrap_or(0) as usize,
        })
    }

    fn value(&self) -> String {
        let times = self.size / (self.tag.len() + 1) + 1;
        format!("{} ", self.tag).repeat(times)
    }
}

/// Takes NUL-terminated strings one after the other.
struct Strings<'a>(&'a [u8]);

impl Strings<'_> {
    fn next(&mut self) -> String {
        let (text, rest) = take_cstr(self.0).unwrap_or((b"", b""));
        self.0 = rest;
        String::from_utf8_lossy(text).into_owned()
    }
}

/// Where the first message of these ends.
fn end_of_row(messages: &[u8]) -> usize {
    let length: [u8; 4] = messages[1..5].try_into().expect("a message");
    1 + u32::from_be_bytes(length) as usize
}

fn reported_of(settings: &Settings) -> Settings {
    settings
        .iter()
        .filter(|(name, _)| REPORTED.contains(&name.as_str()))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect()
}

/// Startup parameters in the order in which they are applied: those in `options` first.
fn in_order(parameters: &[(String, String)]) -> Vec<(String, String)> {
    let (options, others): (Vec<_>, Vec<_>) = parameters
        .iter()
        .cloned()
        .partition(|(name, _)| name == "options");
    let settings = options.iter().flat_map(|(_, text)| text.split("-c "));
    let settings = settings.filter_map(|setting| setting.trim().split_once('='));
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    settings.chain(others).collect()
}

/// Sets a parameter, spelled as it is reported then: not always as it was given.
fn assign(settings: &mut Settings, name: &str, value: &str) -> Result<(), Refusal> {
    let known = settings
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name));
    let Some((known, now)) = known else {
        if name == "role" {
            settings.insert(name.to_owned(), value.to_owned());
            return Ok(());
        }
        let text = format!("unrecognized configuration parameter \"{name}\"");
        return Err(Refusal::error(b"42704", text));
    };
    let wrong = || {
        let text = format!("invalid value for parameter \"{known}\": \"{value}\"");
        Refusal::error(b"22023", text)
    };
    let value = match (&known[..], value) {
        ("TimeZone", "nonsense") => return Err(wrong()),
        ("client_encoding", "utf-8") => "UTF8".to_owned(),
        // What is not said stays as it is, but for German.
        ("DateStyle", value) => {
            let (mut style, mut order) = now.split_once(", ").expect("both");
            for word in value.split(", ") {
                match word {
                    "ISO" | "SQL" => style = word,
                    "German" => (style, order) = (word, "DMY"),
                    "MDY" | "DMY" => order = word,
                    _ => return Err(wrong()),
                }
            }
            format!("{style}, {order}")
        }
        (_, value) => value.to_owned(),
    };
    settings.insert(known.clone(), value);
    Ok(())
}

/// What the parser refuses, whatever the state of the transaction.
fn is_wrong(sql: &str) -> bool {
    sql.starts_with("SYNTAX") || sql.starts_with("nonsense")
}

fn returns_rows(sql: &str) -> bool {
    sql.starts_with("SELECT") || sql.starts_with("SHOW")
}

fn ends_transaction(sql: &str) -> bool {
    sql.starts_with("COMMIT") || sql.starts_with("ROLLBACK")
}

fn aborted() -> Refusal {
    Refusal::error(
        b"25P02",
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

fn description(out: &mut Vec<u8>) {
    backend::write_row_description(out, [("value", backend::TEXT)].into_iter());
}

fn row(out: &mut Vec<u8>, value: &str) {
    message(out, b'D', |b| {
        b.extend_from_slice(&[0, 1]);
        b.extend_from_slice(&(value.len() as u32).to_be_bytes());
        b.extend_from_slice(value.as_bytes());
    });
}
