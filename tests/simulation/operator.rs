//! Those who run the pooler: each has a console of his own, by the Unix socket, and gives commands at any time, those that wait among
//! them; gives up some of them, loses patience, and checks what he is told.

use std::collections::VecDeque;

use aether::wire::backend;
use aether::wire::frame::{message, take_cstr, take_u16, take_u32, whole};
use aether::wire::frontend;
use aether::wire::refusal::{Blame, Refusal};

use crate::network::Shared;
use crate::random::Random;

/// What an operator of a world may do.
#[derive(Clone, Copy, Debug)]
pub struct Power {
    /// Send people away.
    pub harsh: bool,
    /// Make databases.
    pub adds: bool,
    /// Their time is what it is: no hour passes at once.
    pub timely: bool,
}

/// What he asks the world to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A CancelRequest with this key.
    Cancel(u32, Vec<u8>),
    /// He has begun with this.
    Began(String),
}

/// What is on his mind.
#[derive(Debug)]
enum Command {
    Text(String),
    /// A verb, and whom of those it means who are there when he gives it.
    At(&'static str, usize),
}

impl Command {
    /// As it is given. `people`: the numbers of those whom it can mean.
    fn text(self, people: &[u64]) -> String {
        match self {
            Command::Text(text) => text,
            Command::At(verb, which) => {
                let id = people.get(which % (people.len() + 1));
                format!("{verb} {}", id.unwrap_or(&NOBODY))
            }
        }
    }
}

/// A number that no client has.
const NOBODY: u64 = 1_000_000;

/// A command under way.
#[derive(Debug)]
struct Given {
    text: String,
    since: u64,
    /// It came by the extended protocol.
    extended: bool,
    columns: Vec<(String, u32)>,
    /// CommandComplete.
    tag: Option<String>,
    refusal: Option<Refusal>,
}

pub struct Operator {
    connection: Shared,
    output: Vec<u8>,
    input: Vec<u8>,
    script: VecDeque<Command>,
    given: VecDeque<Given>,
    power: Power,
    key: Option<(u32, Vec<u8>)>,
    is_in: bool,
    /// He does nothing before.
    rests_until: u64,
    /// He gives up what waits then.
    patience: Option<u64>,
    said_goodbye: bool,
    gone: bool,
    /// Commands that were answered.
    pub answered: u64,
}

impl Operator {
    pub fn new(connection: Shared, power: Power, now: u64, random: &mut Random) -> Operator {
        let mut output = Vec::new();
        frontend::startup(
            &mut output,
            [(&b"user"[..], &b"pgbouncer"[..]), (b"database", b"aether")],
        );
        let count = random.between(2, 9);
        let script = (0..count).map(|_| command(power, random)).collect();
        Operator {
            connection,
            output,
            input: Vec::new(),
            script,
            given: VecDeque::new(),
            power,
            key: None,
            is_in: false,
            rests_until: now + random.pick(&[0, 1_000, 30_000, 500_000]),
            patience: None,
            said_goodbye: false,
            gone: false,
            answered: 0,
        }
    }

    /// Nothing more is begun.
    pub fn close(&mut self) {
        self.script.clear();
        self.rests_until = 0;
    }

    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether he has given this and has no answer yet.
    pub fn has_given(&self, text: &str) -> bool {
        self.given.iter().any(|given| given.text == text)
    }

    pub fn can_run(&self, now: u64) -> bool {
        let far = self.connection.borrow();
        far.far_has_input()
            || !self.output.is_empty() && far.far_has_room()
            || self.may_begin(now)
            || self.patience.is_some_and(|at| at <= now)
    }

    fn may_begin(&self, now: u64) -> bool {
        self.is_in
            && self.output.is_empty()
            && self.given.is_empty()
            && !self.said_goodbye
            && self.rests_until <= now
    }

    pub fn next_wake(&self) -> Option<u64> {
        let rests =
            (self.is_in && self.given.is_empty() && !self.said_goodbye).then_some(self.rests_until);
        rests.into_iter().chain(self.patience).min()
    }

    pub fn describe(&self) -> String {
        format!(
            "{:?}, {:?} to come, rests until {}",
            self.given, self.script, self.rests_until
        )
    }

    /// Does what he can. `people`: the numbers of the clients whom his commands can mean.
    pub fn run(&mut self, now: u64, people: &[u64], random: &mut Random) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let bytes = self.connection.borrow_mut().far_read();
        self.input.extend(bytes);
        while let Ok(Some((tag, body, rest))) = whole(&self.input, 1 << 20) {
            let (body, left) = (body.to_vec(), rest.len());
            self.input.drain(..self.input.len() - left);
            self.told(tag, &body, now, random);
        }
        if self.connection.borrow().far_ended() {
            self.connection.borrow_mut().far_close();
            self.gone = true;
            return wishes;
        }
        if self.patience.is_some_and(|at| at <= now) {
            self.patience = None;
            match (&self.key, random.below(4)) {
                // As if the terminal were closed.
                (_, 0) => {
                    self.connection.borrow_mut().far_reset();
                    self.gone = true;
                    return wishes;
                }
                (Some((pid, key)), _) => wishes.push(Wish::Cancel(*pid, key.clone())),
                (None, _) => {}
            }
        }
        if self.may_begin(now) {
            wishes.extend(self.begin(now, people, random));
        }
        let count = self.connection.borrow_mut().far_write(&self.output);
        self.output.drain(..count);
        wishes
    }

    fn begin(&mut self, now: u64, people: &[u64], random: &mut Random) -> Vec<Wish> {
        // Some give two at a time.
        let count = random.pick(&[1, 1, 1, 2]).min(self.script.len());
        let mut wishes = Vec::new();
        for command in self.script.drain(..count) {
            let text = command.text(people);
            let extended = random.chance(30);
            if extended {
                message(&mut self.output, b'P', |b| {
                    b.push(0);
                    b.extend_from_slice(text.as_bytes());
                    b.extend_from_slice(&[0, 0, 0]);
                });
                message(&mut self.output, b'B', |b| b.extend_from_slice(&[0; 8]));
                message(&mut self.output, b'D', |b| b.extend_from_slice(b"P\0"));
                message(&mut self.output, b'E', |b| b.extend_from_slice(&[0; 5]));
                frontend::sync(&mut self.output);
            } else {
                frontend::query(&mut self.output, text.as_bytes());
            }
            wishes.push(Wish::Began(text.clone()));
            self.given.push_back(Given {
                text,
                since: now,
                extended,
                columns: Vec::new(),
                tag: None,
                refusal: None,
            });
        }
        if count == 0 {
            self.said_goodbye = true;
            frontend::terminate(&mut self.output);
        } else if random.chance(30) {
            self.patience = Some(now + random.pick(&[100, 20_000, 800_000]));
        }
        wishes
    }

    fn told(&mut self, tag: u8, body: &[u8], now: u64, random: &mut Random) {
        let refusal = (tag == b'E').then(|| Refusal::read(body, Blame::Server));
        let code = refusal.as_ref().map(|refusal| refusal.code().to_owned());
        // Others send him away, or an hour passes while he logs in.
        let last_words: &[&str] = if self.is_in {
            &["57P01"]
        } else {
            &["57P01", "57014"]
        };
        if self.power.harsh && code.is_some_and(|code| last_words.contains(&code.as_str())) {
            self.given.clear();
            (self.said_goodbye, self.patience) = (true, None);
            return;
        }
        match tag {
            b'R' => assert_eq!(body, [0, 0, 0, 0], "the owner is asked for a proof"),
            b'K' if !self.is_in => {
                let (pid, key) = backend::backend_key_data(body).expect("a key");
                self.key = Some((pid, key.to_vec()));
            }
            b'S' | b'N' => {}
            b'Z' if !self.is_in => self.is_in = true,
            b'E' if !self.is_in => {
                let refusal = Refusal::read(body, Blame::Server);
                panic!("the owner is not let in: {}", refusal.text());
            }
            _ => {
                let given = self.given.front_mut();
                let given = given.unwrap_or_else(|| panic!("nothing was asked, and {tag} comes"));
                match tag {
                    b'T' => given.columns = columns(body).expect("columns"),
                    b'D' => check_row(given, body),
                    b'C' => {
                        let (text, _) = take_cstr(body).expect("a tag");
                        given.tag = Some(String::from_utf8_lossy(text).into_owned());
                    }
                    b'E' => given.refusal = Some(Refusal::read(body, Blame::Server)),
                    b'1' | b'2' | b'n' if given.extended => {}
                    b'Z' => self.done(now, random),
                    other => panic!("{given:?}: {} comes", char::from(other)),
                }
            }
        }
    }

    /// A command has been answered.
    fn done(&mut self, now: u64, random: &mut Random) {
        let given = self.given.pop_front().expect("it was given");
        self.patience = None;
        self.answered += 1;
        let verb = given.text.split(' ').next().unwrap_or_default();
        if let Some(refusal) = &given.refusal {
            let code = refusal.code();
            let allowed: &[&str] = match verb {
                "PAUSE" => &["57014", "3D000"],
                "WAIT_CLOSE" => &["57014", "3D000"],
                "SUSPEND" => &["57014", "55000"],
                "SET" => &["22023", "55000"],
                "ADD" => &["42P04", "22023", "55000"],
                "DROP" => &["3D000", "22023", "55000"],
                "KILL_CLIENT" | "CANCEL_CLIENT" => &["22023"],
                "SHOW" | "RELOAD" => &[],
                _ => &["3D000"],
            };
            assert!(
                allowed.contains(&code),
                "{}: {code} {}",
                given.text,
                refusal.text()
            );
        } else {
            let tag = match verb {
                "ADD" | "DROP" => format!("{verb} DATABASE"),
                "RELOAD" if given.text.contains("DRY") => "SHOW".to_owned(),
                _ => verb.to_owned(),
            };
            assert_eq!(given.tag.as_ref(), Some(&tag), "{}", given.text);
        }
        if let Some(time) = timeout(&given.text).filter(|_| self.power.timely) {
            let took = now - given.since;
            assert!(took < time + 60_000_000, "{} took {took} us", given.text);
        }
        self.rests_until = now + random.pick(&[0, 300, 20_000, 700_000]);
    }
}

/// Of `TIMEOUT 'time'`, in microseconds.
fn timeout(text: &str) -> Option<u64> {
    let (_, time) = text.split_once("TIMEOUT '")?;
    let digits: String = time.chars().take_while(char::is_ascii_digit).collect();
    let unit = if time.contains("ms") {
        1_000
    } else {
        1_000_000
    };
    Some(digits.parse::<u64>().ok()? * unit)
}

fn command(power: Power, random: &mut Random) -> Command {
    let database = random.pick(&["", " base", " base", " other"]);
    let named = random.pick(&["base", "other"]);
    let time = random.pick(&["", "", " TIMEOUT '50ms'", " TIMEOUT '2s'"]);
    let id = random.between(1, 12);
    let what = if power.harsh { 24 } else { 19 };
    Command::Text(match random.below(what) {
        0..4 => format!("PAUSE{database}{time}"),
        4..6 => format!("RESUME{database}"),
        6 => "SUSPEND".to_owned(),
        7 => format!("RECONNECT{database}"),
        8 => format!("WAIT_CLOSE{database}{time}"),
        9 => "RELOAD".to_owned(),
        10 => "RELOAD DRY RUN".to_owned(),
        11 => format!("SET pool.max_connections = {}", random.between(1, 4)),
        12 => format!(
            "SET log.long_wait = '{}'",
            random.pick(&["0", "10ms", "1s"])
        ),
        13 => format!("ENABLE {named}"),
        14 => {
            let verb = random.pick(&["KILL_CLIENT", "CANCEL_CLIENT"]);
            return Command::At(verb, id as usize);
        }
        15 if power.adds => "ADD DATABASE third".to_owned(),
        15..19 => random
            .pick(&[
                "SHOW POOLS",
                "SHOW CLIENTS WHERE state = 'waiting' ORDER BY wait DESC LIMIT 3",
                "SHOW SERVERS",
                "SHOW LISTS",
                "SHOW DATABASES",
                "SHOW USERS",
                "SHOW STATS",
                "SHOW TOTALS",
                "SHOW MEM",
            ])
            .to_owned(),
        19 => format!("DISABLE {named}"),
        20 => format!("KILL{database}"),
        21 => format!("KILL_CLIENT {id}"),
        22 if power.adds => format!("DROP DATABASE {}", random.pick(&["third", "other", "base"])),
        _ => format!("ENABLE {named}"),
    })
}

fn columns(body: &[u8]) -> Option<Vec<(String, u32)>> {
    let (count, mut rest) = take_u16(body)?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let (name, after) = take_cstr(rest)?;
        let (oid, _) = take_u32(after.get(6..)?)?;
        columns.push((String::from_utf8_lossy(name).into_owned(), oid));
        rest = after.get(18..)?;
    }
    Some(columns)
}

/// Numbers are none that have wrapped: neither negative, nor more than there can be.
fn check_row(given: &Given, body: &[u8]) {
    const NUMBERS: [u32; 3] = [20, 23, 1700];
    let (count, mut rest) = take_u16(body).expect("a row");
    assert_eq!(count, given.columns.len(), "{}", given.text);
    for (name, oid) in &given.columns {
        let (len, after) = take_u32(rest).expect("a value");
        if len == u32::MAX {
            rest = after;
            continue;
        }
        let (value, after) = after.split_at(len as usize);
        rest = after;
        if !NUMBERS.contains(oid) {
            continue;
        }
        let number: i64 = std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("{}: {name} is {value:?}", given.text));
        let gauge = ["cl_", "sv_", "current_", "total_connections"];
        let most = if gauge.iter().any(|start| name.starts_with(start)) {
            1_000
        } else {
            1_000_000_000_000_000
        };
        assert!(
            (0..=most).contains(&number),
            "{}: {name} is {number}",
            given.text
        );
    }
}
