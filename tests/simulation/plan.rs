//! What a client is going to do in one session, drawn beforehand. Every row it writes or asks for carries its tag
//! `client.session.number`, so that a foreign byte shows.

use std::collections::VecDeque;

use super::session::{DDL, LIVE};
use crate::random::Random;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a message.
    Send(u8, Vec<u8>),
    /// Wait until everything that is owed has come.
    Settle,
    /// Wait until the server wants data, or has refused to.
    AwaitCopy,
    /// Ask for what runs to be cancelled.
    Cancel,
    /// Do nothing for so many microseconds.
    Rest(u64),
    Leave(Leave),
}

/// How a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Terminate,
    Close,
    Reset,
    /// Says that it has nothing more to say, and reads what it is owed.
    HalfClose,
}

/// What a plan may contain.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Process ids are the servers' own.
    pub pids: bool,
    /// Servers are the client's own: what a session keeps beside transactions, prepared statements and reported settings can be
    /// relied on.
    pub session: bool,
    /// Servers are shared. If they may be either, what differs between the two is in no plan: where RESET goes, and whether
    /// a statement outlives DDL.
    pub shares: bool,
    /// Transaction blocks are allowed.
    pub blocks: bool,
    /// Settle and say goodbye, so that counters can be compared.
    pub tidy: bool,
    /// Clients may half-close. One that waits for a server is taken for gone then.
    pub half_closes: bool,
    /// Rows may be large.
    pub large: bool,
    /// Sessions may leave behind what DISCARD ALL does not undo.
    pub leftovers: bool,
}

pub struct Planner<'a> {
    random: &'a mut Random,
    scope: Scope,
    tag: String,
    number: u32,
    steps: VecDeque<Step>,
}

impl Planner<'_> {
    pub fn plan(
        random: &mut Random,
        scope: Scope,
        client: usize,
        session: usize,
    ) -> VecDeque<Step> {
        let mut planner = Planner {
            random,
            scope,
            tag: format!("{client}.{session}."),
            number: 0,
            steps: VecDeque::new(),
        };
        planner.session();
        planner.steps
    }

    fn session(&mut self) {
        match self.random.below(10) {
            0 if self.scope.session => self.query("SHOW state".to_owned()),
            1 => self.query("SELECT pg_sleep 50000".to_owned()),
            _ => {}
        }
        for _ in 0..self.random.between(1, 6) {
            match self.random.below(20) {
                0..7 => {
                    let sql = self.statement();
                    self.query(sql);
                }
                7..10 if self.scope.blocks => self.transaction(),
                10..15 => self.batch(),
                15 | 16 => self.copy(),
                17 => self.cancel(),
                18 => self.call(),
                19 if self.scope.shares => self.live(),
                _ => {
                    let time = self.random.pick(&[500, 20_000, 3_000_000]);
                    self.steps.push_back(Step::Rest(time));
                }
            }
            if self.random.chance(60) {
                self.steps.push_back(Step::Settle);
            }
        }
        if self.random.chance(15) {
            self.cancel(); // the last thing it does: the cancel may be under way when somebody else has the server
        }
        if self.scope.tidy || self.random.chance(70) {
            self.steps.push_back(Step::Settle);
        }
        let leave = if self.scope.tidy {
            Leave::Terminate
        } else {
            let last = if self.scope.half_closes {
                Leave::HalfClose
            } else {
                Leave::Terminate
            };
            self.random.pick(&[
                Leave::Terminate,
                Leave::Terminate,
                Leave::Close,
                Leave::Reset,
                last,
            ])
        };
        self.steps.push_back(Step::Leave(leave));
    }

    fn tag(&mut self) -> String {
        self.number += 1;
        format!("c{}{}", self.tag, self.number)
    }

    fn send(&mut self, tag: u8, parts: &[&[u8]]) {
        self.steps.push_back(Step::Send(tag, parts.concat()));
    }

    fn query(&mut self, sql: String) {
        self.send(b'Q', &[sql.as_bytes(), b"\0"]);
    }

    fn select(&mut self) -> String {
        let tag = self.tag();
        let rows = self.random.pick(&[1, 1, 2, 3, 7]);
        match self.random.below(30) {
            0 if self.scope.large => format!(
                "SELECT '{tag}' x {rows} x {}",
                self.random.pick(&[9_000, 65_500, 65_536, 70_000])
            ),
            1 if self.scope.large => format!("SELECT '{tag}' x 900"),
            _ => format!("SELECT '{tag}' x {rows}"),
        }
    }

    fn statement(&mut self) -> String {
        let alone = self.scope.session;
        match self.random.below(26) {
            0 => format!("SELECT error '{}'", self.tag()),
            1 if alone => "SHOW state".to_owned(),
            2 if self.scope.pids => "SHOW pid".to_owned(),
            3 => format!("SET application_name = '{}'", self.tag()),
            4 if alone => {
                let name = self.random.pick(&["TimeZone", "search_path", "role"]);
                format!("SET {name} = '{}'", self.tag())
            }
            4 => {
                let name = self.random.pick(&["TimeZone", "search_path"]);
                format!("SET {name} = '{}'", self.tag())
            }
            5 => format!(
                "SET DateStyle = '{}'",
                self.random.pick(&["SQL", "ISO, MDY", "DMY"])
            ),
            6 | 20 if !alone && !self.scope.shares => "SHOW DateStyle".to_owned(),
            6 => "RESET ALL".to_owned(),
            7..10 => format!("INSERT INTO t '{}'", self.tag()),
            10 if alone => format!("LISTEN {}", self.random.pick(&["here", "there"])),
            11 if self.scope.pids => format!("NOTIFY {}", self.random.pick(&["here", "there"])),
            12 => format!("SELECT pg_advisory_lock {}", self.random.below(9)),
            13 if self.scope.leftovers || !alone => "CREATE TEMP TABLE x".to_owned(),
            14 if self.scope.leftovers && alone => "LOAD library".to_owned(),
            15 => String::new(),
            16 => format!("{}; {}; SHOW TimeZone", self.select(), self.select()),
            17 => format!(
                "INSERT INTO t '{}'; SELECT error '{}'; {}",
                self.tag(),
                self.tag(),
                self.select()
            ),
            18 => format!("COPY {} TO STDOUT '{}'", self.random.below(5), self.tag()),
            19 => format!(
                "SELECT pg_sleep {}",
                self.random.pick(&[10, 1_000, 200_000])
            ),
            20 => "DISCARD ALL".to_owned(),
            21 => "nonsense".to_owned(),
            22 => format!("DEALLOCATE {}", self.random.pick(&["one", "two", "ALL"])),
            23 => "SHOW DateStyle".to_owned(),
            24 => "SHOW application_name".to_owned(),
            _ => self.select(),
        }
    }

    fn transaction(&mut self) {
        self.query("BEGIN".to_owned());
        for _ in 0..self.random.below(4) {
            match self.random.below(5) {
                0 => self.batch(),
                1 => self.copy(),
                _ => {
                    let sql = self.statement();
                    self.query(sql);
                }
            }
            if self.random.chance(50) {
                self.steps.push_back(Step::Settle);
            }
        }
        match self.random.below(10) {
            0 if !self.scope.tidy => {} // left open
            1..4 => self.query("ROLLBACK".to_owned()),
            _ => self.query("COMMIT".to_owned()),
        }
    }

    /// An extended-protocol batch, with a Sync at its end nearly always.
    fn batch(&mut self) {
        let mut name = String::new();
        for _ in 0..self.random.between(1, 4) {
            name = self.random.pick(&["", "", "one", "two"]).to_owned();
            let portal = self.random.pick(&["", "", "", "cursor"]).to_owned();
            if self.random.chance(80) {
                let sql = match self.random.below(8) {
                    0 => "SYNTAX".to_owned(),
                    1..3 => self
                        .statement()
                        .split(';')
                        .next()
                        .unwrap_or_default()
                        .replace("DISCARD ALL", "SHOW DateStyle")
                        .replace(
                            "DEALLOCATE",
                            if name.is_empty() {
                                "DEALLOCATE"
                            } else {
                                "SHOW DateStyle -- "
                            },
                        )
                        .replace("t 'c", "t 'xc"),
                    _ => self.select(),
                };
                self.send(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"]);
            }
            if self.random.chance(20) {
                self.send(b'D', &[b"S", name.as_bytes(), b"\0"]);
            }
            if self.random.chance(90) {
                self.send(
                    b'B',
                    &[portal.as_bytes(), b"\0", name.as_bytes(), b"\0\0\0\0\0\0\0"],
                );
            }
            if self.random.chance(60) {
                self.send(b'D', &[b"P", portal.as_bytes(), b"\0"]);
            }
            for _ in 0..self.random.between(0, 2) {
                let most: u32 = self.random.pick(&[0, 0, 1, 2]);
                self.send(b'E', &[portal.as_bytes(), b"\0", &most.to_be_bytes()]);
            }
            if self.random.chance(10) {
                self.send(b'H', &[]);
            }
            if self.random.chance(15) {
                let kind: &[u8] = self.random.pick(&[b"S", b"P"]);
                self.send(b'C', &[kind, name.as_bytes(), b"\0"]);
            }
        }
        match self.random.below(12) {
            // Catalogue B5: a simple query, or a function call, inside of a batch.
            0 => {
                let sql = self.select();
                self.query(sql);
            }
            1 => self.call(),
            _ => {}
        }
        if !name.is_empty() && self.random.chance(50) {
            self.send(b'C', &[b"S", name.as_bytes(), b"\0"]);
        }
        self.send(b'S', &[]);
    }

    /// Statements that DDL makes outdated, used only in ways in which nobody must notice.
    fn live(&mut self) {
        if self.scope.blocks {
            self.query("ROLLBACK".to_owned()); // perhaps one was left open
        }
        let sql = format!("{LIVE}{}' x 2", self.random.below(3));
        let parse = [b"live\0", sql.as_bytes(), b"\0\0\0"].concat();
        self.send(b'C', &[b"Slive\0"]);
        self.send(b'P', &[&parse]);
        self.send(b'S', &[]);
        self.steps.push_back(Step::Settle);
        for _ in 0..self.random.between(1, 5) {
            if self.random.chance(40) {
                self.query(DDL.to_owned());
                self.steps.push_back(Step::Settle);
            }
            let anew = self.random.chance(30);
            if anew {
                self.send(b'C', &[b"Slive\0"]);
                self.send(b'P', &[&parse]);
            }
            let statement_first = self.random.chance(30);
            if statement_first {
                self.send(b'D', &[b"Slive\0"]);
            }
            if self.random.chance(10) {
                self.send(b'H', &[]);
            }
            if !statement_first || self.random.chance(70) {
                self.send(b'B', &[b"\0live\0\0\0\0\0\0\0"]);
                if !anew && !statement_first || self.random.chance(30) {
                    self.send(b'D', &[b"P\0"]);
                }
                if self.random.chance(10) {
                    self.send(b'H', &[]);
                }
                self.send(b'E', &[b"\0\0\0\0\0"]);
            }
            self.send(b'S', &[]);
            self.steps.push_back(Step::Settle);
        }
    }

    fn copy(&mut self) {
        let extended = self.random.chance(40);
        if extended {
            // A name of its own: nobody else shall run it by mistake.
            self.send(b'C', &[b"Scopy\0"]);
            self.send(b'P', &[b"copy\0COPY t FROM STDIN\0\0\0"]);
            self.send(b'B', &[b"\0copy\0\0\0\0\0\0\0"]);
            self.send(b'E', &[b"\0\0\0\0\0"]);
            if self.random.chance(70) {
                self.send(b'S', &[]);
            } else {
                self.send(b'H', &[]);
            }
        } else if self.random.chance(80) {
            self.query("COPY t FROM STDIN".to_owned());
        } else {
            let sql = format!("{}; COPY t FROM STDIN; {}", self.select(), self.select());
            self.query(sql);
        }
        if self.random.chance(70) {
            self.steps.push_back(Step::AwaitCopy);
        }
        let broken = self.random.chance(20).then(|| self.random.below(4));
        for n in 0..self.random.between(0, 4) as usize {
            let line = if broken == Some(n) {
                "broken\n".to_owned()
            } else {
                format!("{}\n", self.tag())
            };
            self.send(b'd', &[line.as_bytes()]);
        }
        if self.random.chance(80) {
            self.send(b'c', &[]);
        } else {
            self.send(b'f', &[b"gave up\0"]);
        }
        if extended {
            self.send(b'S', &[]);
        }
    }

    fn call(&mut self) {
        let function: u32 = self.random.pick(&[1, 1, 2]);
        self.send(b'F', &[&function.to_be_bytes(), &[0, 0, 0, 0, 0, 0]]);
    }

    fn cancel(&mut self) {
        match self.random.below(6) {
            0 => self.batch(),
            1 => {
                let row = self.tag();
                self.query(format!("INSERT INTO t '{row}'"));
            }
            2 if self.scope.blocks => self.transaction(),
            _ => {
                let time = self.random.pick(&[0, 1_000, 400_000]);
                self.query(format!("SELECT pg_sleep {time}"));
            }
        }
        if self.random.chance(30) {
            self.steps.push_back(Step::Rest(300));
        }
        self.steps.push_back(Step::Cancel);
        self.steps.push_back(Step::Settle);
    }
}
