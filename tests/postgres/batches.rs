//! The reply stream through Aether is, byte for byte, that of a direct connection: random batches, valid and failing, from one
//! client or from many at once (catalogue B4, B5, B8, B9, B10, B24, B25, E12, E15).
//!
//! Each client's script is played twice, against PostgreSQL and through Aether, and the two streams are compared message by
//! message, the greeting included. Only BackendKeyData and process ids may differ, and, in a mode in which errors may be
//! Aether's own, their fields F, L and R. `AETHER_BATCHES=n` batches are tried in each mode (4,000 when unset), beginning with seed
//! `AETHER_BATCH_FIRST` (0); `AETHER_BATCH_SEED=n` replays the round of one seed; `AETHER_BATCH_EXACT=1` compares F, L and R
//! always. A failing round is made small and printed.

mod author;
mod catalogue;
mod player;
mod script;
mod shrink;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use author::{Author, Classes};
use player::{Player, Reply, Trouble, play};
use script::{Script, shown};

use crate::modes::{Mode, modes, number};
use crate::random::Random;
use crate::support::cluster::{self, PASSWORD};
use crate::support::scene::{self, tcp, yaml};
use crate::support::{Cluster, Message, PATIENCE, Pooler, Scene, Wire, wait_for};

/// Batches of a script.
const LENGTH: usize = 20;

/// The most clients at once.
const CLIENTS_MAX: usize = 8;

/// A configuration of Aether, and how many clients play at once before it.
#[derive(Clone, Copy, Debug)]
struct Setting {
    mode: Mode,
    servers: usize,
    clients: usize,
    /// `max_prepared_statements`.
    statements: Option<usize>,
    /// `server_assignment: first_query`.
    late: bool,
}

impl Setting {
    /// All that a mode is tried with.
    fn of(mode: Mode) -> Vec<Setting> {
        let mut settings = Vec::new();
        for servers in [1, 3] {
            if mode == Mode::Session {
                let session = |clients, late| Setting {
                    mode,
                    servers,
                    clients,
                    statements: None,
                    late,
                };
                settings.push(session(servers, false));
                // Those that find no server wait for one with what they have sent.
                settings.push(session(servers + 2, true));
                continue;
            }
            for statements in [1, 2, 200] {
                settings.push(Setting {
                    mode,
                    servers,
                    clients: 2 * servers + 2,
                    statements: Some(statements),
                    late: false,
                });
            }
        }
        settings
    }

    fn start(&self, bench: &Bench) -> Stage {
        let mut keys = format!(
            "  mode: {}\n  max_connections: {}\n  abandoned_query_timeout: 1s\n",
            self.mode.word(),
            self.servers
        );
        if let Some(statements) = self.statements {
            keys.push_str(&format!("  max_prepared_statements: {statements}\n"));
        }
        if self.late {
            keys.push_str("  server_assignment: first_query\n");
        }
        let scene = Scene {
            pooler: Pooler::start(&yaml(&tcp(&bench.cluster, &bench.database), "", &keys)),
            database: bench.database.clone(),
        };
        Stage {
            scene,
            seen: 0,
            leaves: false,
        }
    }
}

/// What must be equal.
#[derive(Clone, Copy, Debug)]
struct Strictness {
    /// The fields F, L and R of errors and notices.
    origin: bool,
    /// The oids of tables in RowDescription.
    tables: bool,
}

/// A PostgreSQL with tables for each client.
struct Bench {
    cluster: Cluster,
    database: String,
    admin: Wire,
    classes: Classes,
    strictness: Strictness,
}

impl Bench {
    fn new(classes: Classes, strictness: Strictness) -> Bench {
        let cluster = Cluster::start_with(&cluster::Options {
            conf: vec![
                "max_prepared_transactions = 20".to_string(),
                "autovacuum = off".to_string(),
            ],
            ..cluster::Options::default()
        });
        let database = cluster.database("batches");
        for client in 0..CLIENTS_MAX {
            cluster.sql(
                &database,
                &format!(
                    "SET ROLE username; CREATE TABLE c{client} (id int PRIMARY KEY, v text, n int DEFAULT 1); \
                     CREATE TABLE c{client}_late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); \
                     CREATE SEQUENCE c{client}_seq"
                ),
            );
        }
        let admin = Wire::login(cluster.port(), "postgres", "", &database);
        Bench {
            cluster,
            database,
            admin,
            classes,
            strictness,
        }
    }

    /// All tables as at first.
    fn reset(&mut self) {
        let prepared = self.admin.run("SELECT gid FROM pg_prepared_xacts");
        for row in prepared.iter().filter_map(Message::row) {
            let name = row[0].as_deref().expect("a name");
            self.admin.run(&format!("ROLLBACK PREPARED '{name}'"));
        }
        let all = 0..CLIENTS_MAX;
        let tables: Vec<_> = all.map(|at| format!("c{at}, c{at}_late")).collect();
        let mut sql = format!("TRUNCATE {};", tables.join(", "));
        for client in 0..CLIENTS_MAX {
            sql.push_str(&format!(
                "INSERT INTO c{client} SELECT g, 'row ' || g, g FROM generate_series(0, 7) g; \
                 INSERT INTO c{client}_late VALUES (1); SELECT setval('c{client}_seq', 1);"
            ));
            if self.classes.ddl {
                sql.push_str(&format!(
                    "DROP TABLE IF EXISTS c{client}_ddl; CREATE TABLE c{client}_ddl (id int, v text); \
                     INSERT INTO c{client}_ddl VALUES (1, 'one'), (2, NULL); \
                     ALTER TABLE c{client}_ddl OWNER TO username;"
                ));
            }
        }
        self.admin.run(&sql);
    }

    /// Plays the scripts at once: what each client was sent, and whether something broke it off.
    fn record(
        &mut self,
        port: u16,
        scripts: &[Script],
        random: &mut Random,
        patience: Duration,
    ) -> (Vec<Vec<Reply>>, Option<Trouble>) {
        self.reset();
        let mut players = Vec::new();
        for script in scripts {
            match Player::login(port, "username", PASSWORD, &self.database, script) {
                Ok(player) => players.push(player),
                Err(error) => {
                    return (
                        vec![Vec::new(); scripts.len()],
                        Some(Trouble::Refused(error)),
                    );
                }
            }
        }
        let trouble = play(&mut players, random, patience).err();
        let replies = players.into_iter().map(|player| player.replies);
        (replies.collect(), trouble)
    }

    /// What PostgreSQL itself answers. Scripts are written so that it answers all of them.
    fn record_direct(&mut self, scripts: &[Script], seed: u64) -> Result<Vec<Vec<Reply>>, String> {
        let port = self.cluster.port();
        let random = &mut Random::new(seed);
        let (replies, trouble) = self.record(port, scripts, random, Duration::from_secs(5));
        match trouble {
            None => Ok(replies),
            Some(trouble) => {
                let last = replies.iter().map(|replies| tail(replies, replies.len()));
                Err(format!(
                    "{trouble:?}\n{}",
                    last.collect::<Vec<_>>().join("\n")
                ))
            }
        }
    }

    /// What is wrong with Aether, if anything.
    fn failure(
        &mut self,
        stage: &mut Stage,
        scripts: &[Script],
        direct: &[Vec<Reply>],
        seed: u64,
    ) -> Option<String> {
        let port = stage.scene.pooler.port();
        self.difference(port, scripts, direct, seed)
            .or_else(|| stage.unrest(scripts))
    }

    /// What is different from what PostgreSQL answers, if anything.
    fn difference(
        &mut self,
        port: u16,
        scripts: &[Script],
        direct: &[Vec<Reply>],
        seed: u64,
    ) -> Option<String> {
        let random = &mut Random::new(!seed);
        let (pooled, trouble) = self.record(port, scripts, random, PATIENCE / 2);
        let pairs = direct.iter().zip(&pooled).enumerate();
        for (client, (direct, pooled)) in pairs {
            let equal = |at: &usize| {
                let plain = |reply: &Reply| plain(&reply.message, self.strictness);
                direct.get(*at).map(plain) == pooled.get(*at).map(plain)
            };
            let most = pooled
                .len()
                .max(if trouble.is_none() { direct.len() } else { 0 });
            if let Some(at) = (0..most).find(|at| !equal(at)) {
                return Some(format!(
                    "client {client}, message {at} of the server's:\ndirect\n{}through Aether\n{}",
                    tail(direct, at + 1),
                    tail(pooled, at + 1)
                ));
            }
        }
        trouble.map(|trouble| {
            let came = pooled.iter().zip(direct).enumerate();
            let came = came.map(|(client, (pooled, direct))| {
                format!(
                    "client {client}: equal so far, {} of {} messages\n{}",
                    pooled.len(),
                    direct.len(),
                    tail(pooled, pooled.len())
                )
            });
            format!("{trouble:?}\n{}", came.collect::<String>())
        })
    }
}

/// An Aether in use.
struct Stage {
    scene: Scene,
    /// How much of its log has been looked at.
    seen: usize,
    /// Whether the scripts played last may leave something behind: its log comes a little late.
    leaves: bool,
}

impl Stage {
    /// What is wrong with it when the clients that play these scripts have said goodbye with nothing owed to them, if anything: the
    /// streams may be right and its books wrong.
    fn unrest(&mut self, scripts: &[Script]) -> Option<String> {
        let mut console = self.scene.console();
        let columns = [
            "cl_active",
            "cl_waiting",
            "sv_active",
            "sv_being_canceled",
            "sv_tested",
            "sv_login",
        ];
        let mut pools = Vec::new();
        let rests = wait_for(PATIENCE / 2, || {
            pools = scene::show(&mut console, "POOLS");
            let number = |column: &&str| scene::pool(&pools, &self.scene.database, column);
            columns.iter().map(number).sum::<u64>() == 0
        });
        console.terminate();
        if !rests {
            return Some(format!("it does not come to rest: {pools:?}"));
        }
        let mut wrong = vec![
            "in the middle",
            "abandoned_query",
            "broke the protocol",
            "internal error",
        ];
        let leaves = scripts.iter().any(Script::leaves_something);
        if !leaves && !self.leaves {
            wrong.push("client left something behind");
        }
        self.leaves = leaves;
        let log = self.scene.pooler.log();
        let new = log.get(self.seen..).unwrap_or_default();
        self.seen = log.len();
        let line = new
            .lines()
            .find(|line| wrong.iter().any(|words| line.contains(words)));
        line.map(|line| format!("every client had said goodbye, yet: {line}"))
    }
}

/// The last replies before number `end`.
fn tail(replies: &[Reply], end: usize) -> String {
    let mut text = String::new();
    for at in end.saturating_sub(4)..end {
        match replies.get(at) {
            Some(Reply { message, to }) => {
                let to = to.map_or("-".to_string(), |to| to.to_string());
                let (kind, body) = (char::from(message.kind), shown(&message.body));
                text.push_str(&format!("  {at:>4} (to {to:>3}) {kind} {body}\n"));
            }
            None => text.push_str(&format!("  {at:>4} nothing\n")),
        }
    }
    text
}

/// The message without what may differ.
fn plain(message: &Message, strictness: Strictness) -> Message {
    let Message { kind, body } = message.clone();
    let body = match kind {
        b'K' => Vec::new(),
        b'A' => body[4..].to_vec(),
        b'E' | b'N' if !strictness.origin => {
            let fields = body.split_inclusive(|&byte| byte == 0);
            let kept = fields.filter(|field| !b"FLR".contains(&field[0]));
            kept.flatten().copied().collect()
        }
        b'T' if !strictness.tables => without_tables(&body),
        _ => body,
    };
    Message { kind, body }
}

/// A RowDescription with zeroes for the oids of the tables.
fn without_tables(body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    let mut at = 2;
    while let Some(name) = body[at..].iter().position(|&byte| byte == 0) {
        let oid = at + name + 1;
        body[oid..oid + 4].fill(0);
        at = oid + 18;
    }
    body
}

/// What was tried.
#[derive(Default)]
struct Figures {
    rounds: u64,
    batches: usize,
    messages: usize,
    replies: BTreeMap<u8, u64>,
    bytes: usize,
    errors: BTreeMap<String, u64>,
}

impl Figures {
    fn count(&mut self, scripts: &[Script], replies: &[Vec<Reply>]) {
        self.rounds += 1;
        self.batches += scripts
            .iter()
            .map(|script| script.batches.len())
            .sum::<usize>();
        self.messages += scripts.iter().map(Script::messages).sum::<usize>();
        for Reply { message, .. } in replies.iter().flatten() {
            *self.replies.entry(message.kind).or_default() += 1;
            self.bytes += message.body.len() + 5;
            if let Some(error) = message.error() {
                let code = error.sqlstate().to_string();
                *self.errors.entry(code).or_default() += 1;
            }
        }
    }

    fn print(&self, what: &str, time: Duration) {
        let kinds = self
            .replies
            .iter()
            .map(|(kind, count)| format!("{} {count}", char::from(*kind)));
        let errors = self
            .errors
            .iter()
            .map(|(code, count)| format!("{code} {count}"));
        println!(
            "{what}: {} rounds, {} batches, {} messages; {} MB came back: {}; errors: {}; {:.0} batches/s",
            self.rounds,
            self.batches,
            self.messages,
            self.bytes / 1_000_000,
            kinds.collect::<Vec<_>>().join(", "),
            errors.collect::<Vec<_>>().join(", "),
            self.batches as f64 / time.as_secs_f64()
        );
    }

    /// What a run of some length must have met, or it proves nothing.
    fn check(&self, classes: Classes) {
        let kinds = b"123tTnDCIsEZGHdcVNSK";
        let missing = kinds.iter().filter(|kind| !self.replies.contains_key(kind));
        assert_eq!(
            missing.count(),
            0,
            "messages that never came: {:?}",
            self.replies
        );
        let mut codes = vec![
            "42601", "42P01", "42703", "42P18", "22P02", "22012", "23505", "42P05", "26000",
            "34000", "08P01", "57014", "22P04", "42883", "22021", "22P03",
        ];
        if classes.blocks {
            codes.extend(["25P02", "25006", "3B001", "25001"]);
        }
        codes.retain(|code| !self.errors.contains_key(*code));
        assert!(
            codes.is_empty(),
            "errors that never came: {codes:?} ({:?})",
            self.errors
        );
    }
}

fn scripts(seed: u64, clients: usize, classes: Classes) -> Vec<Script> {
    let random = &mut Random::new(seed);
    (0..clients)
        .map(|client| Author::write(random, classes, &format!("c{client}"), client, LENGTH))
        .collect()
}

/// Fails the test with a failing round, made small.
fn report(bench: &mut Bench, setting: Setting, seed: u64, all: Vec<Script>, failure: &str) -> ! {
    let mut fails = |scripts: &[Script]| {
        let direct = bench.record_direct(scripts, seed).ok()?;
        let mut stage = setting.start(bench);
        (0..2).find_map(|_| bench.failure(&mut stage, scripts, &direct, seed))
    };
    let word = setting.mode.word();
    println!("AETHER_MODES={word} AETHER_BATCH_SEED={seed} fails ({setting:?}):\n{failure}");
    let Some(failure) = fails(&all) else {
        let text: String = all
            .iter()
            .map(|script| format!("a client\n{script}"))
            .collect();
        panic!(
            "{text}\nseed {seed}: not with a pooler that is new and cold, so it is not made smaller"
        );
    };
    let (small, failure) = shrink::shrink(all, failure, fails);
    let mut text = String::new();
    for (client, script) in small.iter().enumerate() {
        text.push_str(&format!("client {client}\n{script}"));
    }
    panic!("seed {seed} in mode {word}, made small:\n{text}{failure}");
}

/// Tries so many batches in a mode.
fn compare(mode: Mode, classes: Classes, strictness: Strictness, batches: u64) -> Figures {
    let bench = &mut Bench::new(classes, strictness);
    let settings = Setting::of(mode);
    let begin = Instant::now();
    let mut stages: BTreeMap<usize, Stage> = BTreeMap::new();
    let mut figures = Figures::default();
    let mut seed = number("AETHER_BATCH_SEED")
        .or(number("AETHER_BATCH_FIRST"))
        .unwrap_or(0);
    loop {
        let at = usize::try_from(seed).expect("64 bits") % settings.len();
        let setting = settings[at];
        // Caches are cold now and then.
        if figures.rounds.is_multiple_of(100) {
            stages.clear();
        }
        let stage = stages.entry(at).or_insert_with(|| setting.start(bench));
        let scripts = scripts(seed, setting.clients, classes);
        let direct = bench
            .record_direct(&scripts, seed)
            .unwrap_or_else(|trouble| {
                let text: String = scripts
                    .iter()
                    .map(|script| format!("a client\n{script}"))
                    .collect();
                panic!(
                    "{text}seed {seed}: the script itself, or its player, is wrong: {trouble}\n{}",
                    bench.cluster.log()
                )
            });
        figures.count(&scripts, &direct);
        if let Some(failure) = bench.failure(stage, &scripts, &direct, seed) {
            stages.clear();
            report(bench, setting, seed, scripts, &failure);
        }
        seed += 1;
        if figures.batches as u64 >= batches || number("AETHER_BATCH_SEED").is_some() {
            break;
        }
    }
    figures.print(mode.word(), begin.elapsed());
    figures
}

fn strictness(mode: Mode) -> Strictness {
    Strictness {
        // Whatever PostgreSQL says in session mode is PostgreSQL's.
        origin: mode == Mode::Session || number("AETHER_BATCH_EXACT").is_some(),
        tables: true,
    }
}

#[test]
fn the_reply_stream_is_that_of_a_direct_connection() {
    let batches = number("AETHER_BATCHES").unwrap_or(4_000);
    for mode in modes(&[Mode::Session, Mode::Transaction, Mode::Statement]) {
        let classes = Classes::of(mode);
        let figures = compare(mode, classes, strictness(mode), batches);
        if figures.batches > 3_000 {
            figures.check(classes);
        }
    }
}

/// Batches with DDL on their own. Where statements are shared, Aether recovers from DDL where PostgreSQL alone does not, so this
/// is for sessions only. The oids of new tables differ.
#[test]
fn the_reply_stream_is_that_of_a_direct_connection_with_ddl_in_it() {
    let batches = number("AETHER_BATCHES").unwrap_or(6_000) / 10;
    let classes = Classes {
        ddl: true,
        ..Classes::of(Mode::Session)
    };
    let strictness = Strictness {
        origin: true,
        tables: false,
    };
    compare(Mode::Session, classes, strictness, batches);
}

/// The comparison itself, tried on a relay that now and then makes one byte wrong.
#[test]
fn a_wrong_byte_is_found_and_what_brings_it_about_is_made_small() {
    let classes = Classes::of(Mode::Session);
    let bench = &mut Bench::new(classes, strictness(Mode::Session));
    let relay = wrong_relay(bench.cluster.port());
    let mut fails = |scripts: &[Script]| {
        let direct = bench.record_direct(scripts, 0).ok()?;
        bench.difference(relay, scripts, &direct, 0)
    };
    let found = (0..20).find_map(|seed| {
        let all = scripts(seed, 3, classes);
        let failure = fails(&all)?;
        Some((all, failure))
    });
    let (all, failure) = found.expect("a script with the tag that is made wrong");
    assert!(all.iter().map(Script::messages).sum::<usize>() > 100);
    let (small, failure) = shrink::shrink(all, failure, fails);
    assert_eq!(small.len(), 1, "clients");
    assert!(small[0].messages() <= 3, "{}", small[0]);
    let (direct, wrong) = failure.split_once("through Aether").expect("two streams");
    assert!(
        direct.contains("SELECT 3\\x00") && wrong.contains("SELECT 4\\x00"),
        "{failure}"
    );
}

/// A relay to a PostgreSQL which says "SELECT 4" for "SELECT 3".
fn wrong_relay(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let own = listener.local_addr().expect("bound").port();
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = &mut buffer[..count];
            let tag = b"SELECT 3\0";
            if let Some(at) = bytes.windows(tag.len()).position(|window| window == tag) {
                bytes[at + 7] = b'4';
            }
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    };
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", port)).expect("PostgreSQL listens");
            let (from, to) = (
                client.try_clone().expect("a handle"),
                server.try_clone().expect("a handle"),
            );
            thread::spawn(move || copy(from, to));
            thread::spawn(move || copy(server, client));
        }
    });
    own
}
