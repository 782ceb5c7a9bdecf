//! Writes scripts: batches as drivers send them, and as nobody should. Answers depend on the seed only: tables are the
//! client's own, and no statement fails in planning, since a server plans again when it likes.

use std::collections::{BTreeMap, BTreeSet};

use super::catalogue::{
    DDL, Kind, LONG_A, OWN, PORTALS, REPORTED, RESETS, SESSION, SHARED, STATEMENTS, THRESHOLDS,
    WRONG,
};
use super::script::{Act, Batch, Script};
use crate::modes::Mode;
use crate::random::Random;
use Kind::{Bytea, Few, Id, Int, Size, Text};

/// What may be in a script beside the plain protocol.
#[derive(Clone, Copy, Debug)]
pub struct Classes {
    /// Transaction blocks, and what lives in them: savepoints, cursors, PREPARE TRANSACTION.
    pub blocks: bool,
    /// SET of parameters that PostgreSQL reports.
    pub reported: bool,
    /// RESET of them: to what the client gave at startup.
    pub resets: bool,
    /// DEALLOCATE of one name.
    pub deallocate: bool,
    /// DEALLOCATE ALL.
    pub deallocate_all: bool,
    /// DISCARD ALL.
    pub discard_all: bool,
    /// PREPARE, and EXECUTE of statements that may be the protocol's.
    pub prepare: bool,
    /// LISTEN, WITH HOLD, temporary tables, advisory locks, settings that are not reported.
    pub session: bool,
    /// Another client_encoding under prepared statements whose texts are not ASCII.
    pub recoding: bool,
    /// ALTER TABLE under prepared statements.
    pub ddl: bool,
}

impl Classes {
    /// What a client of this mode may rely on. DDL is compared on its own.
    pub fn of(mode: Mode) -> Classes {
        let session = mode == Mode::Session;
        Classes {
            blocks: mode != Mode::Statement,
            reported: true,
            resets: true,
            deallocate: true,
            deallocate_all: true,
            discard_all: true,
            prepare: session,
            session,
            recoding: session,
            ddl: false,
        }
    }
}

/// A statement as it is sent.
#[derive(Clone, Debug)]
struct Statement {
    sql: String,
    parameters: &'static [Kind],
}

/// The portal that a simple query leaves when it fails in a block crashes PostgreSQL 15.18 when it is executed (`BEGIN`, then
/// `EXECUTE nothing`, then an Execute of ""). So the unnamed portal is only used after a Bind before the same Sync.
fn spare_postgresql(batch: &mut Batch) {
    let mut bound = false;
    for act in batch {
        match act {
            Act::Bind { portal, .. } => bound |= portal.is_empty(),
            Act::Sync | Act::Query(_) => bound = false,
            Act::Execute(portal, _) | Act::Describe(b'P', portal)
                if portal.is_empty() && !bound =>
            {
                *portal = "p".to_string();
            }
            _ => {}
        }
    }
}

/// What INSERT … RETURNING has done is not seen by the statements behind it while its portal is suspended; a Parse, which the
/// pooler sends ahead of a Bind on a server that has not seen the statement, changes that (PostgreSQL counts the command then).
/// So on shared servers such portals run to their end.
#[derive(Default)]
struct Suspension {
    /// Names of statements that have ever been such ones, as far as PostgreSQL looks at them.
    returning: BTreeSet<String>,
    portals: BTreeMap<String, bool>,
}

impl Suspension {
    fn spare(&mut self, batch: &mut Batch) {
        for act in batch {
            match act {
                Act::Parse { name, sql, .. } if sql.contains("RETURNING") => {
                    self.returning.insert(significant(name));
                }
                Act::Bind {
                    portal, statement, ..
                } => {
                    let returning = self.returning.contains(&significant(statement));
                    self.portals.insert(portal.clone(), returning);
                }
                Act::Execute(portal, rows) if self.portals.get(portal) == Some(&true) => *rows = 0,
                _ => {}
            }
        }
    }
}

fn significant(name: &str) -> String {
    name.chars().take(63).collect()
}

/// Writes one script.
pub struct Author<'a> {
    random: &'a mut Random,
    classes: Classes,
    table: String,
    /// Its number, as a text.
    client: String,
    /// A few statements that are used more than others.
    favourites: Vec<Statement>,
    /// What the names mean if all went well.
    known: BTreeMap<String, Statement>,
    /// Whether a block is open if all went well.
    open: bool,
    /// Whether client_encoding may change, and texts that are not ASCII may be prepared.
    recodes: bool,
    says_more: bool,
    fresh: u32,
}

impl<'a> Author<'a> {
    /// A script of so many batches for client number `client`, whose tables begin with `table`.
    pub fn write(
        random: &'a mut Random,
        classes: Classes,
        table: &str,
        client: usize,
        batches: usize,
    ) -> Script {
        let mut author = Author {
            random,
            classes,
            table: table.to_string(),
            client: client.to_string(),
            favourites: Vec::new(),
            known: BTreeMap::new(),
            open: false,
            recodes: true,
            says_more: true,
            fresh: 1_000,
        };
        if !classes.recoding {
            author.recodes = author.random.chance(50);
            author.says_more = !author.recodes;
        }
        let parameters = match author.random.below(6) {
            0 => vec![("application_name", "batches")],
            1 => vec![("DateStyle", "German"), ("client_encoding", "utf-8")],
            2 => vec![("options", "-c TimeZone=Europe/Rome")],
            _ => Vec::new(),
        };
        // On a shared server, they lead to its own defaults, not to what the client gave at startup.
        let keeps = classes.session || parameters.is_empty();
        author.classes.resets &= keeps;
        author.classes.discard_all &= keeps;
        for _ in 0..4 {
            let favourite = author.statement();
            author.favourites.push(favourite);
        }
        let own = |(name, value): (&str, &str)| (name.to_string(), value.to_string());
        let mut script = Script {
            parameters: parameters.into_iter().map(own).collect(),
            batches: Vec::new(),
        };
        let mut suspension = Suspension::default();
        while script.batches.len() < batches {
            for mut batch in author.batches() {
                spare_postgresql(&mut batch);
                if !classes.session {
                    suspension.spare(&mut batch);
                }
                if author.random.chance(50) {
                    batch.push(Act::Wait);
                }
                script.batches.push(batch);
            }
        }
        script
    }

    /// One batch, or a few that belong together.
    fn batches(&mut self) -> Vec<Batch> {
        if self.classes.ddl && self.random.chance(30) {
            let sql = self.random.pick(DDL);
            return vec![self.as_either(sql)];
        }
        let chance = if self.open { 35 } else { 10 };
        if self.classes.blocks && self.random.chance(chance) {
            return self.block();
        }
        match self.random.below(115) {
            0..24 => vec![self.flow()],
            24..38 => vec![self.reuse()],
            38..54 => vec![self.anything()],
            54..68 => vec![self.simple()],
            68..75 => vec![self.failing()],
            75..80 => self.copy_in(),
            80..83 => self.copy_out(),
            83..86 => vec![vec![self.call()]],
            86..90 => self.row_limits(),
            90..93 => vec![self.close_and_again()],
            93..97 => self.unnamed_over_batches(),
            97..100 => vec![self.equal_names()],
            100..104 => vec![self.alternating()],
            _ => self.special(),
        }
    }

    // ---- pieces

    fn local(&self, sql: &str) -> String {
        sql.replace("{t}", &self.table).replace("{k}", &self.client)
    }

    fn statement(&mut self) -> Statement {
        if !self.favourites.is_empty() && self.random.chance(40) {
            let at = self.random.below(self.favourites.len());
            return self.favourites[at].clone();
        }
        let (sql, parameters) = if self.classes.ddl && self.random.chance(50) {
            ("SELECT * FROM {t}_ddl", &[][..])
        } else if self.random.chance(60) {
            self.random.pick(SHARED)
        } else {
            self.random.pick(OWN)
        };
        if !sql.is_ascii() && !self.says_more {
            return self.statement();
        }
        let mut sql = self.local(sql);
        if self.random.chance(2) {
            let size = self.size();
            sql = format!("{sql}/*{}*/", "c".repeat(size));
        }
        Statement { sql, parameters }
    }

    /// Mostly one without parameters.
    fn plain_statement(&mut self) -> String {
        for _ in 0..4 {
            let Statement { sql, parameters } = self.statement();
            if parameters.is_empty() {
                return sql;
            }
        }
        self.statement().sql
    }

    fn wrong(&mut self) -> Statement {
        let (sql, parameters) = self.random.pick(WRONG);
        let sql = self.local(sql);
        Statement { sql, parameters }
    }

    /// A length such that a message of this length, with or without its own overhead, is near a threshold.
    fn size(&mut self) -> usize {
        let near = self.random.pick(THRESHOLDS) + 8;
        let width = self.random.pick(&[16, 48]);
        near - self.random.below(width)
    }

    fn parse_as(&mut self, name: &str, statement: Statement) -> Act {
        let types = match self.random.below(10) {
            0..6 => Vec::new(),
            6..9 => statement.parameters.iter().map(|kind| kind.oid()).collect(),
            _ => vec![self.random.pick(&[0, 23, 25, 20, 17, 705])],
        };
        let sql = statement.sql.clone();
        self.known.insert(name.to_string(), statement);
        let name = name.to_string();
        Act::Parse { name, sql, types }
    }

    fn bind_as(&mut self, portal: &str, name: &str) -> Act {
        let known = self.known.get(name);
        let kinds: &[Kind] = known.map_or(&[], |statement| statement.parameters);
        let mut formats = match self.random.below(10) {
            0..5 => Vec::new(),
            5 => vec![0],
            6 | 7 => vec![1],
            _ => kinds
                .iter()
                .map(|_| u16::from(self.random.chance(50)))
                .collect(),
        };
        let format_of = |formats: &[u16], at: usize| match formats {
            [] => 0,
            [one] => *one,
            many => many[at],
        };
        let mut values: Vec<_> = kinds
            .iter()
            .enumerate()
            .map(|(at, kind)| self.value(*kind, format_of(&formats, at) == 1))
            .collect();
        match self.random.below(100) {
            0 => values.push(Some(b"1".to_vec())),
            1 => drop(values.pop()),
            2 => formats = vec![0, 1, 0, 1, 0],
            _ => {}
        }
        let results = match self.random.below(20) {
            0..12 => Vec::new(),
            12..15 => vec![0],
            15..19 => vec![1],
            _ => vec![0, 1],
        };
        Act::Bind {
            portal: portal.to_string(),
            statement: name.to_string(),
            formats,
            values,
            results,
        }
    }

    fn value(&mut self, kind: Kind, binary: bool) -> Option<Vec<u8>> {
        if self.random.chance(4) {
            return None;
        }
        let number = match kind {
            Int => self.random.pick(&[0, 1, -1, 42, 1_000_000]),
            Id => self.id(),
            Few => self.random.pick(&[0, 1, 2, 3, 5]),
            Size => i32::try_from(self.size()).expect("small"),
            Text | Bytea => {
                let text = self.text(kind);
                return Some(text);
            }
        };
        Some(match (binary, self.random.below(40)) {
            (false, 0) => b"no number".to_vec(),
            (true, 0) => vec![0, 0, 1],
            (true, 1) => vec![0, 0, 0, 0, 1],
            (false, _) => number.to_string().into_bytes(),
            (true, _) => number.to_be_bytes().to_vec(),
        })
    }

    fn text(&mut self, kind: Kind) -> Vec<u8> {
        match self.random.below(40) {
            0 => Vec::new(),
            1 | 2 => "Grüße, 世界".as_bytes().to_vec(),
            3 => vec![0xC3, b'x'],
            4 if kind == Text => vec![b't'; self.size()],
            5 if kind == Bytea => b"\\x00ff".to_vec(),
            _ => format!("text {}", self.random.below(1_000)).into_bytes(),
        }
    }

    /// Often of a row that exists, at first.
    fn id(&mut self) -> i32 {
        if self.random.chance(60) {
            i32::try_from(self.random.below(8)).expect("small")
        } else {
            self.fresh += 1;
            i32::try_from(self.fresh).expect("small")
        }
    }

    fn describe(&mut self, statement: &str, portal: &str) -> Act {
        if self.random.chance(50) {
            Act::Describe(b'S', statement.to_string())
        } else {
            Act::Describe(b'P', portal.to_string())
        }
    }

    fn rows(&mut self) -> i32 {
        self.random.pick(&[0, 0, 0, 0, 0, 1, 2, 3])
    }

    fn any_name(&mut self) -> String {
        self.random.pick(STATEMENTS).to_string()
    }

    /// A name that should mean something.
    fn some_name(&mut self) -> String {
        if self.known.is_empty() || self.random.chance(10) {
            return self.any_name();
        }
        let at = self.random.below(self.known.len());
        self.known
            .keys()
            .nth(at)
            .expect("there are so many")
            .clone()
    }

    fn any_portal(&mut self) -> String {
        self.random.pick(PORTALS).to_string()
    }

    /// SQL without parameters, by Query or the unnamed statement.
    fn as_either(&mut self, sql: &str) -> Batch {
        let sql = self.local(sql);
        if self.random.chance(60) {
            return vec![Act::Query(sql)];
        }
        let parameters = &[][..];
        let mut batch = vec![
            self.parse_as("", Statement { sql, parameters }),
            self.bind_as("", ""),
        ];
        if self.random.chance(50) {
            batch.push(Act::Describe(b'P', String::new()));
        }
        batch.extend([Act::Execute(String::new(), 0), Act::Sync]);
        batch
    }

    // ---- batches

    /// Parse, Bind, Describe, Execute, Sync, as drivers do it, once or several times before the Sync.
    fn flow(&mut self) -> Batch {
        let mut batch = Vec::new();
        for _ in 0..self.random.pick(&[1, 1, 1, 2, 3]) {
            let (name, portal) = (self.any_name(), self.any_portal());
            if !name.is_empty() && self.random.chance(70) {
                batch.push(Act::Close(b'S', name.clone()));
            }
            let statement = self.statement();
            batch.push(self.parse_as(&name, statement));
            if self.random.chance(30) {
                batch.push(Act::Describe(b'S', name.clone()));
            }
            batch.push(self.bind_as(&portal, &name));
            if self.random.chance(60) {
                batch.push(Act::Describe(b'P', portal.clone()));
            }
            batch.push(Act::Execute(portal.clone(), self.rows()));
            if self.random.chance(30) {
                batch.push(Act::Close(b'P', portal));
            }
        }
        batch.push(Act::Sync);
        self.flushed(batch)
    }

    /// Sometimes with Flush behind every message, or any, with or without a pause.
    fn flushed(&mut self, batch: Batch) -> Batch {
        let chance = match self.random.below(12) {
            0 => 100,
            1 => 40,
            _ => return batch,
        };
        let mut flushed = Vec::new();
        for act in batch {
            let is_last = act == Act::Sync;
            flushed.push(act);
            if !is_last && self.random.chance(chance) {
                flushed.push(Act::Flush);
                if self.random.chance(50) {
                    flushed.push(Act::Wait);
                }
            }
        }
        flushed
    }

    /// What was parsed before.
    fn reuse(&mut self) -> Batch {
        let mut batch = Vec::new();
        for _ in 0..self.random.pick(&[1, 1, 2, 4]) {
            let (name, portal) = (self.some_name(), self.any_portal());
            if self.random.chance(25) {
                batch.push(Act::Describe(b'S', name.clone()));
            }
            batch.push(self.bind_as(&portal, &name));
            if self.random.chance(30) {
                batch.push(Act::Describe(b'P', portal.clone()));
            }
            batch.push(Act::Execute(portal, self.rows()));
            if self.random.chance(15) {
                batch.push(Act::Sync);
            }
        }
        batch.push(Act::Sync);
        self.flushed(batch)
    }

    /// Messages without sense.
    fn anything(&mut self) -> Batch {
        let mut batch = Vec::new();
        for _ in 0..1 + self.random.below(9) {
            let act = match self.random.below(100) {
                0..20 => {
                    let name = self.any_name();
                    let statement = if self.random.chance(12) {
                        self.wrong()
                    } else {
                        self.statement()
                    };
                    self.parse_as(&name, statement)
                }
                20..45 => {
                    let (portal, name) = (self.any_portal(), self.some_name());
                    self.bind_as(&portal, &name)
                }
                45..57 => {
                    let (name, portal) = (self.some_name(), self.any_portal());
                    self.describe(&name, &portal)
                }
                57..75 => Act::Execute(self.any_portal(), self.rows()),
                75..80 => Act::Close(b'S', self.some_name()),
                80..84 => Act::Close(b'P', self.any_portal()),
                84..88 => Act::Flush,
                88..92 => Act::Sync,
                92..97 => Act::Query(self.text_of_query()),
                _ => self.call(),
            };
            batch.push(act);
        }
        batch.push(Act::Sync);
        batch
    }

    fn simple(&mut self) -> Batch {
        vec![Act::Query(self.text_of_query())]
    }

    /// One statement or several, with errors and empty ones among them.
    fn text_of_query(&mut self) -> String {
        let mut parts = Vec::new();
        for _ in 0..self.random.pick(&[1, 1, 1, 1, 2, 3, 4]) {
            let part = match self.random.below(20) {
                0 => self.local("INSERT INTO {t} VALUES (0, 'a duplicate')"),
                1 => self.local("UPDATE {t} SET v = 'by Query' WHERE id = 3"),
                2 => "SELECT 1 / 0".to_string(),
                3 => format!("SELECT repeat('q', {})", self.size()),
                4 => self.wrong().sql,
                5 => self.local("TABLE {t} ORDER BY 1"),
                6 => self.local("INSERT INTO {t}_late VALUES (1)"),
                7 => String::new(),
                _ => self.plain_statement(),
            };
            parts.push(part);
        }
        parts.join(self.random.pick(&[";", "; ", ";\n"]))
    }

    /// An error, and behind it, before the Sync, messages that must not be heard.
    fn failing(&mut self) -> Batch {
        let name = self.any_name();
        let mut batch = if name.is_empty() {
            Vec::new()
        } else {
            vec![Act::Close(b'S', name.clone())]
        };
        match self.random.below(5) {
            0 => {
                let wrong = self.wrong();
                batch.push(self.parse_as(&name, wrong));
                // The name may be used again at once, but not before the Sync (E15).
                if self.random.chance(50) {
                    let statement = self.statement();
                    batch.push(self.parse_as(&name, statement.clone()));
                    batch.push(Act::Sync);
                    batch.push(self.parse_as(&name, statement));
                }
            }
            1 => {
                let sql = "SELECT $1::int".to_string();
                let parameters = &[Int];
                batch.push(self.parse_as(&name, Statement { sql, parameters }));
                let mut bind = self.bind_as("", &name);
                if let Act::Bind {
                    formats, values, ..
                } = &mut bind
                {
                    (*formats, *values) = (vec![0], vec![Some(b"x".to_vec())]);
                }
                batch.push(bind);
            }
            2 => {
                let sql = self.local("SELECT 1 / n FROM {t} WHERE id = 0");
                let parameters = &[];
                batch.push(self.parse_as(&name, Statement { sql, parameters }));
                batch.push(self.bind_as("", &name));
            }
            3 => {
                let statement = self.statement();
                batch.push(self.parse_as(LONG_A, statement.clone()));
                batch.push(self.parse_as(LONG_A, statement));
            }
            _ => batch.push(self.bind_as("", "nobody_parsed_this")),
        }
        batch.push(Act::Execute(String::new(), 0));
        for _ in 0..self.random.below(4) {
            let act = match self.random.below(6) {
                0 => Act::Query(self.text_of_query()),
                1 => self.call(),
                2 => Act::Close(b'S', self.some_name()),
                3 => Act::Flush,
                4 => {
                    let statement = self.statement();
                    let name = self.any_name();
                    self.parse_as(&name, statement)
                }
                _ => {
                    let name = self.some_name();
                    self.bind_as("", &name)
                }
            };
            batch.push(act);
        }
        batch.push(Act::Sync);
        batch
    }

    fn call(&mut self) -> Act {
        // int4pl, int4div, textcat, textlen, and none.
        let function = self.random.pick(&[177, 177, 154, 1258, 1257, 4_000_000]);
        let binary = self.random.chance(40);
        let count = match function {
            1257 => 1,
            _ if self.random.chance(5) => 1,
            _ => 2,
        };
        let kind = if function == 1258 || function == 1257 {
            Text
        } else {
            Int
        };
        Act::Call {
            function,
            formats: if binary { vec![1] } else { Vec::new() },
            arguments: (0..count).map(|_| self.value(kind, binary)).collect(),
            result: u16::from(self.random.chance(40)),
        }
    }

    /// Execute in portions, inside of a block or not, with Sync or Flush between.
    fn row_limits(&mut self) -> Vec<Batch> {
        let name = self.any_name();
        let portal = self.random.pick(&["a", "b", "p"]).to_string();
        let sql = self.random.pick(&[
            "SELECT g, NULL::text, -g FROM generate_series(1, 7) g",
            "SELECT g, repeat('m', 900 * g) FROM generate_series(1, 12) g",
            "VALUES (1, 'one'), (2, 'two'), (3, NULL)",
        ]);
        let sql = sql.to_string();
        let parameters = &[][..];
        let mut batch = vec![Act::Close(b'S', name.clone())];
        batch.push(self.parse_as(&name, Statement { sql, parameters }));
        batch.push(self.bind_as(&portal, &name));
        let mut batches = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            let rows = self.random.pick(&[1, 2, 3, 7, 0]);
            batch.push(Act::Execute(portal.clone(), rows));
            match self.random.below(6) {
                0 => batch.extend([Act::Flush, Act::Wait]),
                1 => batch.push(Act::Flush),
                2 => batch.push(Act::Sync),
                3 => {
                    batch.push(Act::Sync);
                    batches.push(std::mem::take(&mut batch));
                }
                _ => {}
            }
        }
        batch.push(Act::Sync);
        batches.push(batch);
        batches
    }

    /// A name that gets another meaning within one pipeline.
    fn close_and_again(&mut self) -> Batch {
        let name = self.random.pick(&["a", "b", LONG_A]);
        let mut batch = Vec::new();
        for _ in 0..2 + self.random.below(2) {
            if self.random.chance(85) {
                batch.push(Act::Close(b'S', name.to_string()));
            }
            let statement = self.statement();
            batch.push(self.parse_as(name, statement));
            if self.random.chance(70) {
                batch.push(self.bind_as("", name));
                batch.push(Act::Execute(String::new(), 0));
            }
        }
        batch.push(Act::Sync);
        self.flushed(batch)
    }

    /// Catalogue E12: parsed in one batch, bound in another, also after a simple Query, which ends it.
    fn unnamed_over_batches(&mut self) -> Vec<Batch> {
        let statement = self.statement();
        let mut batches = vec![vec![self.parse_as("", statement), Act::Sync]];
        match self.random.below(4) {
            0 => batches.push(self.simple()),
            1 => batches.push(self.reuse()),
            2 => batches.push(vec![self.call()]),
            _ => {}
        }
        for _ in 0..1 + self.random.below(2) {
            let mut batch = Vec::new();
            if self.random.chance(30) {
                batch.push(Act::Describe(b'S', String::new()));
            }
            batch.push(self.bind_as("", ""));
            batch.extend([Act::Execute(String::new(), 0), Act::Sync]);
            batches.push(batch);
        }
        batches
    }

    /// Catalogue B24: a statement and a portal of one name are two things.
    fn equal_names(&mut self) -> Batch {
        let name = self.random.pick(&["a", "b"]);
        let mut batch = vec![Act::Close(b'S', name.to_string())];
        let statement = self.statement();
        batch.push(self.parse_as(name, statement));
        batch.push(self.bind_as(name, name));
        batch.push(Act::Execute(name.to_string(), self.rows()));
        batch.push(Act::Close(self.random.pick(b"PPS"), name.to_string()));
        let portal = self.random.pick(&["", name]);
        batch.push(self.bind_as(portal, name));
        batch.push(Act::Execute(self.random.pick(&["", name]).to_string(), 0));
        batch.push(Act::Describe(self.random.pick(b"SP"), name.to_string()));
        batch.push(Act::Sync);
        self.flushed(batch)
    }

    /// Catalogue B8: more statements than a small cache holds, turn and turn about.
    fn alternating(&mut self) -> Batch {
        let names = ["a", "b", "c"];
        let mut batch = Vec::new();
        for name in names {
            batch.push(Act::Close(b'S', name.to_string()));
            let statement = self.statement();
            batch.push(self.parse_as(name, statement));
            if self.random.chance(60) {
                batch.push(self.bind_as(name, name));
            }
        }
        for _ in 0..2 + self.random.below(5) {
            let name = self.random.pick(&names);
            let act = match self.random.below(5) {
                0 => Act::Execute(name.to_string(), self.rows()),
                1 => Act::Describe(b'S', name.to_string()),
                2 => Act::Flush,
                _ => {
                    batch.push(self.bind_as("", name));
                    Act::Execute(String::new(), 0)
                }
            };
            batch.push(act);
        }
        batch.push(Act::Sync);
        batch
    }

    // ---- COPY

    fn copy_in(&mut self) -> Vec<Batch> {
        let sql = self.random.pick(&[
            "COPY {t} FROM STDIN",
            "COPY {t} (id, v) FROM STDIN (FORMAT csv)",
            "COPY no_such_table FROM STDIN",
        ]);
        let sql = self.local(sql);
        let csv = sql.ends_with("csv)");
        if self.random.chance(50) {
            // One COPY, or several statements.
            let copies = self.random.pick(&[1, 1, 1, 2]);
            let mut texts = vec![sql; copies];
            if self.random.chance(30) {
                texts.insert(self.random.below(copies + 1), "SELECT 1".to_string());
            }
            let mut batch = vec![Act::Query(texts.join(";"))];
            if self.random.chance(30) {
                batch.push(Act::Wait);
            }
            (0..copies).for_each(|_| batch.extend(self.data(csv)));
            return vec![batch];
        }
        let name = self.random.pick(&["", "copy"]);
        let parameters = &[][..];
        let mut batch = vec![
            self.parse_as(name, Statement { sql, parameters }),
            Act::Bind {
                portal: name.to_string(),
                statement: name.to_string(),
                formats: Vec::new(),
                values: Vec::new(),
                results: Vec::new(),
            },
            Act::Execute(name.to_string(), 0),
        ];
        // Read, and forgotten, by the server.
        match self.random.below(6) {
            0 => batch.push(Act::Sync),
            1 => batch.push(Act::Flush),
            2 => batch.extend([Act::Sync, Act::Wait]),
            3 => batch.extend([Act::Flush, Act::Wait, Act::Sync]),
            4 => batch.extend([Act::Flush, Act::Wait, Act::Flush, Act::Sync, Act::Sync]),
            _ => {}
        }
        batch.extend(self.data(csv));
        batch.push(Act::Sync);
        // So that nobody executes it by chance, without data.
        self.known.remove(name);
        let forget = if name.is_empty() {
            let statement = self.statement();
            self.parse_as("", statement)
        } else {
            Act::Close(b'S', name.to_string())
        };
        vec![batch, vec![forget, Act::Sync]]
    }

    /// Rows, right or wrong, in pieces that need not be rows, and the end.
    fn data(&mut self, csv: bool) -> Vec<Act> {
        let mut rows = String::new();
        let between = if csv { "," } else { "\t" };
        let last = if csv { "" } else { "\t1" };
        for _ in 0..self.random.below(12) {
            let row = match self.random.below(30) {
                0 => format!("1{between}a duplicate{last}\n"),
                1 => "7000\n".to_string(),
                2 => {
                    let id = self.id();
                    let long = "d".repeat(self.size());
                    format!("{id}{between}{long}{last}\n")
                }
                _ => {
                    self.fresh += 1;
                    format!("{}{between}copied{last}\n", self.fresh)
                }
            };
            rows.push_str(&row);
        }
        let mut rest = rows.as_bytes();
        let mut acts = Vec::new();
        while !rest.is_empty() {
            let length = if self.random.chance(50) {
                rest.len()
            } else {
                1 + self.random.below(rest.len())
            };
            let (piece, after) = rest.split_at(length);
            acts.push(Act::CopyData(piece.to_vec()));
            rest = after;
        }
        acts.push(match self.random.below(8) {
            0 => Act::CopyFail("the client gives up".to_string()),
            _ => Act::CopyDone,
        });
        acts
    }

    fn copy_out(&mut self) -> Vec<Batch> {
        let sql = match self.random.below(4) {
            0 => "COPY {t} TO STDOUT".to_string(),
            1 => format!(
                "COPY (SELECT g, repeat('o', {}) FROM generate_series(1, 3) g) TO STDOUT",
                self.size()
            ),
            2 => "COPY (SELECT 1 / (3 - g) FROM generate_series(1, 5) g) TO STDOUT".to_string(),
            _ => "COPY (SELECT 1) TO STDOUT (FORMAT binary); SELECT 2".to_string(),
        };
        vec![self.as_either(&sql)]
    }

    // ---- blocks

    /// What begins a block, ends it, or happens in it.
    fn block(&mut self) -> Vec<Batch> {
        let begins = [
            "BEGIN",
            "BEGIN",
            "START TRANSACTION READ ONLY",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "BEGIN; SELECT 1",
        ];
        let inside = [
            "SAVEPOINT s",
            "ROLLBACK TO s",
            "RELEASE s",
            "DECLARE c CURSOR FOR SELECT g FROM generate_series(1, 9) g",
            "FETCH 2 FROM c",
            "CLOSE c",
            "COMMIT AND CHAIN",
            "ROLLBACK AND CHAIN",
            "SELECT 1 / 0",
            "COMMIT; SELECT 1",
            "COMMIT; BEGIN",
        ];
        let ends = ["COMMIT", "COMMIT", "ROLLBACK", "END", "ABORT"];
        if !self.open || self.random.chance(3) {
            self.open = true;
            if self.random.chance(10) {
                return self.two_phases();
            }
            let sql = self.random.pick(&begins);
            return vec![self.as_either(sql)];
        }
        if self.random.chance(55) {
            let sql = self.random.pick(&inside);
            let mut batch = self.as_either(sql);
            if sql.starts_with("DECLARE") && self.random.chance(50) {
                // A cursor is a portal.
                batch.push(Act::Describe(b'P', "c".to_string()));
                batch.push(Act::Execute("c".to_string(), 2));
                batch.push(Act::Sync);
            }
            return vec![batch];
        }
        self.open = false;
        let sql = self.random.pick(&ends);
        vec![self.as_either(sql)]
    }

    fn two_phases(&mut self) -> Vec<Batch> {
        self.open = false;
        self.fresh += 1;
        let end = self.random.pick(&["COMMIT", "ROLLBACK"]);
        let texts = [
            "BEGIN".to_string(),
            format!("INSERT INTO {{t}} VALUES ({}, 'prepared')", self.fresh),
            "PREPARE TRANSACTION '{t}'".to_string(),
            format!("{end} PREPARED '{{t}}'"),
        ];
        texts.iter().map(|sql| self.as_either(sql)).collect()
    }

    // ---- classes of their own

    fn special(&mut self) -> Vec<Batch> {
        let name = self.random.pick(&["a", "b", "c", "\"d\"", "q1"]);
        let sql = match self.random.below(14) {
            0..3 if self.classes.reported => self.random.pick(REPORTED).to_string(),
            3 if self.classes.resets => self.random.pick(RESETS).to_string(),
            4 if self.classes.deallocate => {
                let word = self
                    .random
                    .pick(&["DEALLOCATE", "deallocate /* */ prepare"]);
                self.known.remove(name);
                format!("{word} {name}")
            }
            5 if self.classes.deallocate_all => {
                self.known.clear();
                let texts = ["DEALLOCATE ALL", "SELECT 1; deallocate prepare all"];
                self.random.pick(&texts).to_string()
            }
            6 if self.classes.discard_all => {
                if !self.open {
                    self.known.clear();
                }
                self.random
                    .pick(&["DISCARD ALL", "discard  all;"])
                    .to_string()
            }
            7..9 if self.classes.prepare => {
                let texts = [
                    "PREPARE q1 AS SELECT 1",
                    "PREPARE q1(int) AS SELECT $1",
                    "EXECUTE q1",
                    "EXECUTE q1(5)",
                    "EXECUTE a",
                    "SELECT name, statement, parameter_types, from_sql FROM pg_prepared_statements ORDER BY name",
                ];
                if self.random.chance(20) {
                    let mut batch = vec![Act::Describe(b'S', "q1".to_string())];
                    batch.push(self.bind_as("", "q1"));
                    batch.extend([Act::Execute(String::new(), 0), Act::Sync]);
                    return vec![batch];
                }
                self.random.pick(&texts).to_string()
            }
            9.. if self.classes.session => self.random.pick(SESSION).to_string(),
            _ => return vec![self.flow()],
        };
        if sql.contains("client_encoding") && !self.recodes {
            return vec![self.flow()];
        }
        let ends = ["deallocate", "discard"];
        let ends_statements = ends.iter().any(|word| sql.to_lowercase().starts_with(word));
        if ends_statements && self.random.chance(25) {
            return self.named_over_batches(sql);
        }
        vec![self.as_either(&sql)]
    }

    /// Parsed under a name in one batch, run in others.
    fn named_over_batches(&mut self, sql: String) -> Vec<Batch> {
        let name = "n".to_string();
        let parameters = &[][..];
        let mut first = vec![Act::Close(b'S', name.clone())];
        first.push(self.parse_as(&name, Statement { sql, parameters }));
        let portal = self.random.pick(&["", "p"]).to_string();
        let mut second = vec![
            self.bind_as(&portal, &name),
            self.describe(&name, &portal),
            Act::Execute(portal, 0),
            Act::Sync,
        ];
        if self.random.chance(30) {
            first.append(&mut second);
            return vec![first];
        }
        first.push(Act::Sync);
        let between = self.flow();
        vec![first, between, second]
    }
}
