//! One session with the console: what is said in it, in the simple and in the extended protocol, and the answer in progress.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::command::{self, Call, Does};
use super::configure::{self, Steward};
use super::control::{self, Done, Standing, Waiting};
use super::cursor::{Cursor, Progress};
use super::filter::Filter;
use super::show::{self, Show};
use super::table::{Column, is_numeric, write_columns, write_row};
use super::words::{self, Word};
use crate::engine::{Engine, Event, Role};
use crate::limits;
use crate::wire::backend;
use crate::wire::frame::{take_cstr, take_u16, take_u32};
use crate::wire::frontend;
use crate::wire::refusal::{self, Refusal};

/// A session.
pub(super) struct Session {
    role: Role,
    /// After an error in the extended protocol: what comes is ignored until Sync.
    skipping: bool,
    statements: BTreeMap<Vec<u8>, Rc<Statement>>,
    portals: BTreeMap<Vec<u8>, Portal>,
    running: Option<Running>,
    /// A command waits that came by the extended protocol.
    waits_in_portal: bool,
}

/// A prepared command.
struct Statement {
    text: String,
    words: Vec<Word>,
    /// Types of its parameters.
    types: Vec<u32>,
    /// Columns of its rows; `None`: it gives none.
    columns: Option<Vec<Column>>,
}

/// A command that is bound to its parameters.
struct Portal {
    /// `None`: nothing but blanks.
    call: Option<Call>,
    columns: Option<Vec<Column>>,
    binary: Vec<bool>,
    /// Where its rows stopped; `None`: it was not executed.
    cursor: Option<Cursor>,
}

/// An answer in progress.
struct Running {
    cursor: Cursor,
    binary: Vec<bool>,
    how: How,
}

/// Whom an answer is for.
enum How {
    /// A Query: columns come first, ReadyForQuery at the end.
    Simple,
    /// An Execute of this portal, of which so many rows are wanted yet.
    Portal(Vec<u8>, u64),
}

/// What a message is answered with, besides the session itself.
pub(super) struct World<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) steward: &'a mut dyn Steward,
    /// What is to happen before anything else.
    pub(super) events: &'a mut Vec<Event>,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The answer is complete.
    Complete,
    /// More is to come when this has gone.
    GoesOn,
    /// It is answered when this is over ([`Session::waited`]).
    Waits(Waiting),
    /// It is not answered.
    Silent,
}

/// What a command begins.
enum Begun {
    Rows(Cursor),
    /// Nothing more: with this tag, and what is to be sent before it.
    Done(&'static str, Vec<u8>),
    Waits(Waiting),
    Silent,
}

const SIMPLE: &[bool] = &[];
/// OIDs of types.
const INT2: u32 = 21;
const INT4: u32 = 23;
const INT8: u32 = 20;
const TEXT: u32 = 25;

impl Session {
    pub(super) fn new(role: Role) -> Session {
        Session {
            role,
            skipping: false,
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            running: None,
            waits_in_portal: false,
        }
    }

    /// Takes a message, and appends its answer, or the first part.
    pub(super) fn message(
        &mut self,
        world: &mut World<'_>,
        tag: u8,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Step {
        if tag == b'S' {
            self.skipping = false;
            // As at the end of a transaction.
            self.portals.clear();
            backend::write_ready(out);
            return Step::Complete;
        }
        if self.skipping {
            return Step::Complete;
        }
        let step = match tag {
            b'Q' => return self.query(world, body, out),
            b'P' => self.parse(world.engine, body, out),
            b'B' => self.bind(body, out),
            b'D' => self.describe(body, out),
            b'C' => self.close(body, out),
            b'E' => return self.execute(world, body, out),
            // FunctionCall
            _ => Err(Refusal::error(b"0A000", "the console has no functions")),
        };
        if let Err(refusal) = step {
            self.fail(&refusal, tag, out);
        }
        Step::Complete
    }

    fn fail(&mut self, refusal: &Refusal, tag: u8, out: &mut Vec<u8>) {
        refusal.write(out);
        match tag {
            b'Q' | b'F' => backend::write_ready(out),
            _ => self.skipping = true,
        }
    }

    // ---- simple ----

    fn query(&mut self, world: &mut World<'_>, body: &[u8], out: &mut Vec<u8>) -> Step {
        let text = frontend::query_text(body).unwrap_or(body);
        let text = String::from_utf8_lossy(text).into_owned();
        self.statements.remove(&b""[..]);
        self.portals.clear();
        let call = match command::read(&text) {
            Ok(None) => {
                backend::write_empty_query(out);
                backend::write_ready(out);
                return Step::Complete;
            }
            Ok(Some(call)) => Ok(call),
            Err(refusal) => Err(refusal),
        };
        let begun = call.and_then(|call| {
            command::allow(&call, self.role)?;
            begin(world, &call)
        });
        match begun {
            Ok(Begun::Rows(cursor)) => {
                write_columns(cursor.columns(), SIMPLE, out);
                self.running = Some(Running {
                    cursor,
                    binary: Vec::new(),
                    how: How::Simple,
                });
                self.go_on(world.engine, out)
            }
            Ok(Begun::Done(tag, before)) => {
                out.extend_from_slice(&before);
                backend::write_command_complete(out, tag);
                backend::write_ready(out);
                Step::Complete
            }
            Ok(Begun::Waits(waiting)) => {
                self.waits_in_portal = false;
                Step::Waits(waiting)
            }
            Ok(Begun::Silent) => Step::Silent,
            Err(refusal) => {
                self.fail(&refusal, b'Q', out);
                Step::Complete
            }
        }
    }

    /// Appends the next part of the answer in progress.
    pub(super) fn go_on(&mut self, engine: &Engine, out: &mut Vec<u8>) -> Step {
        let Some(mut running) = self.running.take() else {
            return Step::Complete;
        };
        let Running {
            cursor,
            binary,
            how,
        } = &mut running;
        let most = match how {
            How::Simple => u64::MAX,
            How::Portal(_, left) => *left,
        };
        let columns = cursor.columns().to_vec();
        let mut given = 0;
        let progress = cursor.part(engine, most, &mut |row| {
            write_row(&columns, binary, row, out);
            given += 1;
        });
        if let How::Portal(_, left) = how {
            *left = left.saturating_sub(given);
        }
        match (progress, running.how) {
            (Progress::Done, How::Simple) => {
                backend::write_command_complete(out, "SHOW");
                backend::write_ready(out);
            }
            (Progress::Done, How::Portal(..)) => backend::write_command_complete(out, "SHOW"),
            (Progress::More, How::Portal(name, 0)) => {
                if let Some(portal) = self.portals.get_mut(&name) {
                    portal.cursor = Some(running.cursor);
                }
                backend::write_portal_suspended(out);
            }
            (Progress::More, how) => {
                running.how = how;
                self.running = Some(Running {
                    cursor: running.cursor,
                    binary: running.binary,
                    how: running.how,
                });
                return Step::GoesOn;
            }
        }
        Step::Complete
    }

    /// What a command has waited for is over: its answer.
    pub(super) fn waited(&mut self, standing: &Standing, out: &mut Vec<u8>) {
        let tag = if self.waits_in_portal { b'E' } else { b'Q' };
        match standing {
            Standing::On(_) => {}
            Standing::Failed(refusal) => self.fail(refusal, tag, out),
            Standing::Over(tag) => {
                backend::write_command_complete(out, tag);
                if !self.waits_in_portal {
                    backend::write_ready(out);
                }
            }
        }
    }

    // ---- extended ----

    fn parse(&mut self, engine: &Engine, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (name, rest) = take_cstr(body).ok_or_else(broken)?;
        let (text, rest) = take_cstr(rest).ok_or_else(broken)?;
        let (count, mut rest) = take_u16(rest).ok_or_else(broken)?;
        let mut given = Vec::new();
        for _ in 0..count {
            let (oid, after) = take_u32(rest).ok_or_else(broken)?;
            given.push(oid);
            rest = after;
        }
        if !name.is_empty() && self.statements.contains_key(name) {
            let name = String::from_utf8_lossy(name);
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(Refusal::error(b"42P05", text));
        }
        if self.statements.len() >= limits::CONSOLE_STATEMENTS_MAX {
            return Err(Refusal::error(b"54000", "too many prepared statements"));
        }
        let text = String::from_utf8_lossy(text).into_owned();
        let words = words::read(&text)?;
        let call = command::find(&text, words.clone())?;
        let columns = match &call {
            Some(call) => {
                command::allow(call, self.role)?;
                let call = with_parameters(call.clone(), |_| Some("0".into()))?;
                columns_of(engine, &call)?
            }
            None => None,
        };
        let types = parameter_types(&words, &given, columns.as_deref().unwrap_or_default())?;
        let statement = Statement {
            text,
            words,
            types,
            columns,
        };
        self.statements.insert(name.to_vec(), Rc::new(statement));
        backend::write_parse_complete(out);
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<Rc<Statement>, Refusal> {
        self.statements.get(name).cloned().ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            let text = format!("prepared statement \"{name}\" does not exist");
            Refusal::error(b"26000", text)
        })
    }

    fn bind(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (portal, rest) = take_cstr(body).ok_or_else(broken)?;
        let (name, rest) = take_cstr(rest).ok_or_else(broken)?;
        let statement = self.statement(name)?;
        let (formats, rest) = take_formats(rest)?;
        let (count, mut rest) = take_u16(rest).ok_or_else(broken)?;
        if count != statement.types.len() {
            let text = format!(
                "the command takes {} parameters, {count} were given",
                statement.types.len()
            );
            return Err(Refusal::error(b"08P01", text));
        }
        let mut values = Vec::new();
        for at in 0..count {
            let (len, after) = take_u32(rest).ok_or_else(broken)?;
            let binary = format_of(&formats, at);
            let oid = statement.types.get(at).copied().unwrap_or(TEXT);
            if len == u32::MAX {
                let text = "a parameter is NULL, and nothing equals that";
                return Err(Refusal::error(b"22004", text).hint("Write IS NULL."));
            }
            let (value, after) = after.split_at_checked(len as usize).ok_or_else(broken)?;
            values.push(read_parameter(value, oid, binary)?);
            rest = after;
        }
        let (results, rest) = take_formats(rest)?;
        if !rest.is_empty() {
            return Err(broken());
        }
        if self.portals.len() >= limits::CONSOLE_STATEMENTS_MAX {
            return Err(Refusal::error(b"54000", "too many portals"));
        }
        let call = command::find(&statement.text, statement.words.clone())?;
        let value = |number: usize| values.get(number.checked_sub(1)?).cloned();
        let call = call.map(|call| with_parameters(call, value)).transpose()?;
        let columns = statement.columns.clone();
        let width = columns.as_ref().map_or(0, Vec::len);
        let new = Portal {
            call,
            columns,
            binary: (0..width).map(|at| format_of(&results, at)).collect(),
            cursor: None,
        };
        self.portals.insert(portal.to_vec(), new);
        backend::write_bind_complete(out);
        Ok(())
    }

    fn portal(&mut self, name: &[u8]) -> Result<&mut Portal, Refusal> {
        self.portals.get_mut(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Refusal::error(b"34000", format!("portal \"{name}\" does not exist"))
        })
    }

    fn describe(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (what, name) = take_target(body)?;
        let (columns, binary) = if what == b'S' {
            let statement = self.statement(name)?;
            backend::write_parameter_description(out, &statement.types);
            (statement.columns.clone(), Vec::new())
        } else {
            let portal = self.portal(name)?;
            (portal.columns.clone(), portal.binary.clone())
        };
        match columns {
            Some(columns) => write_columns(&columns, &binary, out),
            None => backend::write_no_data(out),
        }
        Ok(())
    }

    fn close(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let (what, name) = take_target(body)?;
        if what == b'S' {
            self.statements.remove(name);
        } else {
            self.portals.remove(name);
        }
        backend::write_close_complete(out);
        Ok(())
    }

    fn execute(&mut self, world: &mut World<'_>, body: &[u8], out: &mut Vec<u8>) -> Step {
        let begun = self.begin_portal(world, body);
        match begun {
            Ok((name, most, Some(Begun::Rows(cursor)))) => {
                let binary = self.portals.get(&name).map(|portal| portal.binary.clone());
                self.running = Some(Running {
                    cursor,
                    binary: binary.unwrap_or_default(),
                    how: How::Portal(name, most),
                });
                return self.go_on(world.engine, out);
            }
            Ok((_, _, Some(Begun::Done(tag, before)))) => {
                out.extend_from_slice(&before);
                backend::write_command_complete(out, tag);
            }
            Ok((_, _, Some(Begun::Waits(waiting)))) => {
                self.waits_in_portal = true;
                return Step::Waits(waiting);
            }
            Ok((_, _, Some(Begun::Silent))) => return Step::Silent,
            Ok((_, _, None)) => backend::write_empty_query(out),
            Err(refusal) => self.fail(&refusal, b'E', out),
        }
        Step::Complete
    }

    /// What an Execute begins, or goes on with; and how many rows it asks for.
    fn begin_portal(
        &mut self,
        world: &mut World<'_>,
        body: &[u8],
    ) -> Result<(Vec<u8>, u64, Option<Begun>), Refusal> {
        let (name, rest) = take_cstr(body).ok_or_else(broken)?;
        let (most, _) = take_u32(rest).ok_or_else(broken)?;
        let most = match i32::from_be_bytes(most.to_be_bytes()) {
            ..=0 => u64::MAX,
            most => u64::from(most.unsigned_abs()),
        };
        let role = self.role;
        let portal = self.portal(name)?;
        if let Some(cursor) = portal.cursor.take() {
            return Ok((name.to_vec(), most, Some(Begun::Rows(cursor))));
        }
        let Some(call) = &portal.call else {
            return Ok((name.to_vec(), most, None));
        };
        command::allow(call, role)?;
        let begun = begin(world, call)?;
        Ok((name.to_vec(), most, Some(begun)))
    }
}

/// The columns of what a command gives; `None`: it gives no rows.
fn columns_of(engine: &Engine, call: &Call) -> Result<Option<Vec<Column>>, Refusal> {
    match call.does {
        Does::Show(Show::Help) => Ok(None),
        Does::Show(what) => {
            let columns = show::open(engine, what).columns();
            Filter::read(&call.rest, &columns)?;
            Ok(Some(columns))
        }
        Does::Reload if configure::is_dry(call)? => Ok(Some(configure::DRY_RUN.to_vec())),
        _ => Ok(None),
    }
}

/// Begins what a command asks for.
fn begin(world: &mut World<'_>, call: &Call) -> Result<Begun, Refusal> {
    let tag = call.spec.name;
    match call.does {
        Does::Show(Show::Help) => {
            let mut out = Vec::new();
            show::help(world.engine, &call.rest, &mut out)?;
            Ok(Begun::Done("SHOW", out))
        }
        Does::Show(what) => {
            let table = show::open(world.engine, what);
            let columns = table.columns();
            let filter = Filter::read(&call.rest, &columns)?;
            Ok(Begun::Rows(Cursor::new(table, columns, filter)))
        }
        Does::Reload if configure::is_dry(call)? => {
            let table = configure::dry_run(world.engine, world.steward)?;
            let columns = configure::DRY_RUN.to_vec();
            let cursor = Cursor::new(Box::new(table), columns, Filter::default());
            Ok(Begun::Rows(cursor))
        }
        Does::Reload => {
            configure::reload(world.steward, world.events)?;
            Ok(Begun::Done(tag, Vec::new()))
        }
        Does::Set | Does::AddDatabase | Does::DropDatabase => {
            let said = configure::change(world.engine, call, world.steward, world.events)?;
            Ok(Begun::Done(tag, said.unwrap_or_default()))
        }
        _ => Ok(match control::run(world.engine, call)? {
            Done::At(tag, said) => {
                let mut out = Vec::new();
                if let Some(text) = said {
                    refusal::notice(&mut out, &text, None);
                }
                Begun::Done(tag, out)
            }
            Done::Waits(waiting) => Begun::Waits(waiting),
            Done::Silently => Begun::Silent,
        }),
    }
}

/// A command with texts in the place of its parameters.
fn with_parameters(
    mut call: Call,
    value: impl Fn(usize) -> Option<String>,
) -> Result<Call, Refusal> {
    for word in &mut call.rest {
        if let Word::Parameter(number) = *word {
            let text = value(number).ok_or_else(|| {
                let text = format!("there is no parameter ${number}");
                Refusal::error(b"42P02", text)
            })?;
            *word = Word::Text(text);
        }
    }
    Ok(call)
}

/// The types of a command's parameters: as given, else what they are held against.
fn parameter_types(words: &[Word], given: &[u32], columns: &[Column]) -> Result<Vec<u32>, Refusal> {
    let mut types = given.to_vec();
    let mut kind = TEXT;
    for word in words {
        match word {
            Word::Plain(name) if name.eq_ignore_ascii_case("limit") => kind = INT8,
            Word::Plain(name) => {
                let of = columns
                    .iter()
                    .find(|(known, _)| known.eq_ignore_ascii_case(name));
                kind = match of {
                    Some((_, of)) if is_numeric(*of) => INT8,
                    Some(_) => TEXT,
                    None => kind,
                };
            }
            Word::Parameter(number) if *number > limits::CONSOLE_PARAMETERS_MAX => {
                return Err(Refusal::error(b"54000", "too many parameters"));
            }
            Word::Parameter(number) => {
                if types.len() < *number {
                    types.resize(*number, 0);
                }
                if let Some(oid) = types.get_mut(*number - 1).filter(|oid| **oid == 0) {
                    *oid = kind;
                }
            }
            _ => {}
        }
    }
    types
        .iter_mut()
        .filter(|oid| **oid == 0)
        .for_each(|oid| *oid = TEXT);
    Ok(types)
}

/// A parameter as text.
fn read_parameter(value: &[u8], oid: u32, binary: bool) -> Result<String, Refusal> {
    let number = match (binary, oid, value) {
        (true, INT2, &[a, b]) => i64::from(i16::from_be_bytes([a, b])),
        (true, INT4, &[a, b, c, d]) => i64::from(i32::from_be_bytes([a, b, c, d])),
        (true, INT8, &[a, b, c, d, e, f, g, h]) => i64::from_be_bytes([a, b, c, d, e, f, g, h]),
        // text, unknown, varchar, name
        (false, ..) | (true, TEXT | 705 | 1043 | 19, _) => {
            let text = std::str::from_utf8(value);
            return text
                .map(str::to_owned)
                .map_err(|_| Refusal::error(b"22021", "a parameter is not UTF-8"));
        }
        _ => {
            let text = format!("the console takes no binary parameters of type {oid}");
            return Err(Refusal::error(b"0A000", text).hint("Send it as text."));
        }
    };
    Ok(number.to_string())
}

fn broken() -> Refusal {
    Refusal::error(b"08P01", "invalid message format")
}

/// A list of format codes.
fn take_formats(bytes: &[u8]) -> Result<(Vec<bool>, &[u8]), Refusal> {
    let (count, mut rest) = take_u16(bytes).ok_or_else(broken)?;
    let mut formats = Vec::new();
    for _ in 0..count {
        let (code, after) = take_u16(rest).ok_or_else(broken)?;
        formats.push(match code {
            0 => false,
            1 => true,
            other => {
                let text = format!("unsupported format code: {other}");
                return Err(Refusal::error(b"22023", text));
            }
        });
        rest = after;
    }
    Ok((formats, rest))
}

/// Whether the value at this place is binary: one code counts for all, none means text.
fn format_of(formats: &[bool], at: usize) -> bool {
    match formats {
        [one] => *one,
        many => many.get(at).copied().unwrap_or(false),
    }
}

/// What a Describe or Close means: the letter, and the name.
fn take_target(body: &[u8]) -> Result<(u8, &[u8]), Refusal> {
    let (what, rest) = body.split_first().ok_or_else(broken)?;
    let (name, _) = take_cstr(rest).ok_or_else(broken)?;
    match what {
        b'S' | b'P' => Ok((*what, name)),
        _ => Err(broken()),
    }
}
