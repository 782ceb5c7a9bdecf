//! Issue 6, proof 1: every option of a pgbouncer.ini by what it does: left out, written in the file, at each place where it may
//! stand, and changed by RELOAD and by SET. [`table`] has a row for each, `src/config/pgbouncer/options.txt` is the list of them.

#[path = "../support/mod.rs"]
mod support;

mod names;
mod probes;
mod start;
mod table;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::certificates::certificates;
use crate::support::cluster::{Options, PASSWORD};
use crate::support::pooler::binary;
use crate::support::process::{self, Place};
use crate::support::wire::{first_error, terminated};
use crate::support::{Cluster, Message, Pooler, ServerError, Wire, wait_for};
use table::{DELIBERATE, ELSEWHERE, ROWS};

/// What PgBouncer knows: section, name, when a change counts, default.
const LIST: &str = include_str!("../../src/config/pgbouncer/options.txt");
/// So many rows are tried at once: most of them wait most of the time.
const AT_ONCE: usize = 6;
/// How long what is to be seen may take to come about.
const SETTLES: Duration = Duration::from_secs(4);

/// When a change of the file counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Reload,
    /// For what comes to be from then on; what is there stays as it is.
    Later,
    /// At the next start, which is told to whoever changes it before.
    Start,
}

/// An option, and what is seen of it.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    /// What is written where the option is not; nothing: nothing.
    plain: &'static str,
    /// What is written in its place; more lines may follow.
    value: &'static str,
    /// Other lines of `[pgbouncer]`, which win over the usual ones.
    with: &'static str,
    /// Keys of database `a`, which every probe goes to.
    entry: &'static str,
    /// Other lines of `[databases]`.
    more: &'static str,
    /// What is seen without it, and with it.
    seen: [&'static str; 2],
    probe: fn(&Lab) -> String,
    /// The same as keys of database `a`, and of user `username`; nothing: it does not stand there.
    database: &'static str,
    user: &'static str,
    /// Keys of peer 2 where it is, and where it is not.
    peer: [&'static str; 2],
    /// A program by way of which it is started.
    under: &'static [&'static str],
    change: Change,
    /// Whether there is such an option of `[pgbouncer]`, and whether SET takes it.
    is_global: bool,
    by_set: bool,
    /// Where it is written at the start.
    begins: Where,
}

const fn row(
    name: &'static str,
    value: &'static str,
    seen: [&'static str; 2],
    probe: fn(&Lab) -> String,
) -> Row {
    Row {
        name,
        plain: "",
        value,
        with: "",
        entry: "",
        more: "",
        seen,
        probe,
        database: "",
        user: "",
        peer: ["", ""],
        under: &[],
        change: Change::Reload,
        is_global: true,
        by_set: true,
        begins: Where::Global,
    }
}

impl Row {
    const fn with(self, with: &'static str) -> Row {
        Row { with, ..self }
    }

    const fn entry(self, entry: &'static str) -> Row {
        Row { entry, ..self }
    }

    const fn more(self, more: &'static str) -> Row {
        Row { more, ..self }
    }

    const fn database(self, database: &'static str) -> Row {
        Row { database, ..self }
    }

    const fn user(self, user: &'static str) -> Row {
        Row { user, ..self }
    }

    const fn plain(self, plain: &'static str) -> Row {
        Row { plain, ..self }
    }

    const fn at_start(self) -> Row {
        Row {
            change: Change::Start,
            ..self
        }
    }

    const fn later(self) -> Row {
        Row {
            change: Change::Later,
            ..self
        }
    }

    const fn under(self, under: &'static [&'static str]) -> Row {
        Row { under, ..self }
    }

    /// It takes two options that only make sense together, and SET has one.
    const fn not_by_set(self) -> Row {
        Row {
            by_set: false,
            ..self
        }
    }

    /// With it, the console cannot be reached: it is written later.
    const fn begins_without(self) -> Row {
        Row {
            begins: Where::Nowhere,
            ..self
        }
    }

    /// A key of databases only.
    const fn of_database(self, keys: &'static str) -> Row {
        Row {
            is_global: false,
            begins: Where::Database,
            database: keys,
            ..self
        }
    }

    /// A key of peers only: what stands there without it, and with it.
    const fn of_peer(self, without: &'static str, with: &'static str) -> Row {
        Row {
            is_global: false,
            begins: Where::Peer,
            peer: [with, without],
            ..self
        }
    }

    /// The names of keys in a connection string of ours.
    fn keys(text: &str) -> impl Iterator<Item = &str> {
        text.split(' ')
            .filter_map(|pair| Some(pair.split_once('=')?.0))
    }
}

/// Where an option is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Nowhere,
    Global,
    Database,
    User,
    Peer,
}

/// A PostgreSQL with TLS, two databases, and certificates, for all rows.
struct Ground {
    cluster: Cluster,
    certificates: Place,
}

impl Ground {
    fn shared() -> &'static Ground {
        static GROUND: OnceLock<Ground> = OnceLock::new();
        GROUND.get_or_init(|| {
            let files = certificates();
            let at = files.path().display();
            let cluster = Cluster::start_with(&Options {
                max_connections: 300,
                conf: vec![
                    "listen_addresses = '127.0.0.1, 127.0.0.2'".to_owned(),
                    "ssl = on".to_owned(),
                    format!("ssl_cert_file = '{at}/server.crt'"),
                    format!("ssl_key_file = '{at}/server.key'"),
                    format!("ssl_ca_file = '{at}/root.crt'"),
                ],
                ..Options::default()
            });
            cluster.database("first");
            cluster.database("second");
            let sql = "SET password_encryption = 'scram-sha-256'; CREATE ROLE other LOGIN PASSWORD 'password'; \
                       CREATE ROLE unlisted LOGIN PASSWORD 'password'";
            cluster.sql("postgres", sql);
            for database in ["first", "second"] {
                cluster.sql(
                    database,
                    "CREATE TABLE noted (pid int DEFAULT pg_backend_pid()); GRANT ALL ON noted TO PUBLIC",
                );
            }
            Ground {
                cluster,
                certificates: files,
            }
        })
    }
}

/// An Aether that was started for a row.
struct Lab {
    running: Option<(Pooler, RefCell<Wire>)>,
    place: Place,
    row: Row,
    /// The port of a listener that takes connections and ends them, and how many there were.
    refusing: u16,
    refused: Arc<AtomicUsize>,
    /// The port of one that says nothing.
    silent: TcpListener,
    /// A syslog, for those who see it as `/dev/log`.
    syslog: UnixDatagram,
}

impl Lab {
    fn start(row: Row, at: Where) -> Lab {
        let place = Place::new("options");
        let secrets = |users: &[&str], password: &str| {
            let line = |user: &&str| format!("\"{user}\" \"{password}\"\n");
            users.iter().map(line).collect::<String>()
        };
        let users = ["username", "postgres", "other", "admin"];
        place.write("userlist.txt", &secrets(&users, PASSWORD));
        let others = secrets(&["username"], "others") + &secrets(&["admin", "postgres"], PASSWORD);
        place.write("others.txt", &others);
        let admin = "host all admin 127.0.0.1/32 md5\n";
        place.write("all.hba", "host all all 127.0.0.1/32 md5\n");
        let reject = "host all username 127.0.0.1/32 reject\n";
        place.write("reject.hba", &format!("{admin}{reject}"));
        let certified = "hostssl all username 127.0.0.1/32 cert\n";
        place.write("cert.hba", &format!("{admin}{certified}"));
        place.write("peer.hba", &format!("{admin}local all all peer map=m\n"));
        place.write("nobody.ident", "m nobody-of-this-name username\n");
        let own = format!("m {} username\n", probes::own_name());
        place.write("own.ident", &own);
        let refusing = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = refusing.local_addr().expect("bound").port();
        let refused = Arc::new(AtomicUsize::new(0));
        let count = refused.clone();
        thread::spawn(move || {
            for stream in refusing.incoming() {
                drop(stream);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = place.path().join("syslog");
        let syslog = UnixDatagram::bind(&socket).expect("a socket of our own");
        process::own(&socket);
        let mut lab = Lab {
            running: None,
            place,
            row,
            refusing: port,
            refused,
            silent,
            syslog,
        };
        let under: Vec<String> = row.under.iter().map(|word| lab.filled(word)).collect();
        let under: Vec<&str> = under.iter().map(String::as_str).collect();
        let pooler = Pooler::start_under(&under, &lab.text(at));
        let console = Wire::login(pooler.port(), "admin", PASSWORD, "pgbouncer");
        lab.running = Some((pooler, RefCell::new(console)));
        lab
    }

    fn pooler(&self) -> &Pooler {
        &self.running.as_ref().expect("it was started").0
    }

    /// The file, with the option written there.
    fn text(&self, at: Where) -> String {
        let row = &self.row;
        let keys = match at {
            Where::Database => row.database,
            _ => "",
        };
        let mut text = format!(
            "[databases]\na = host=127.0.0.1 port={{pg}} dbname=first {} {keys}\n{}\n[pgbouncer]\n",
            row.entry, row.more
        );
        let written = match (row.is_global, at) {
            (true, Where::Global) => row.value,
            _ => row.plain,
        };
        let own = match written {
            "" => String::new(),
            value => format!("{} = {value}\n", row.name),
        };
        let usual = "listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_file = {dir}/userlist.txt\n\
                     admin_users = admin\nquery_wait_timeout = 0.5\n";
        let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        let mut said: BTreeSet<String> = row.with.lines().chain(own.lines()).map(name).collect();
        said.insert(row.name.to_owned());
        let usual = usual.lines().filter(|line| !said.contains(&name(line)));
        let lines: Vec<&str> = usual.chain(row.with.lines()).chain(own.lines()).collect();
        text += &lines.join("\n");
        if at == Where::User {
            text += &format!("\n[users]\nusername = {}", row.user);
        }
        let [with, without] = row.peer;
        let peer = if at == Where::Peer { with } else { without };
        if !peer.is_empty() {
            text += &format!("\n[peers]\n2 = {peer}");
        }
        self.filled(&text) + "\n"
    }

    fn filled(&self, text: &str) -> String {
        let ground = Ground::shared();
        let silent = self.silent.local_addr().expect("bound").port();
        text.replace("{pg}", &ground.cluster.port().to_string())
            .replace("{dir}", &self.place.path().display().to_string())
            .replace("{certs}", &ground.certificates.path().display().to_string())
            .replace("{refusing}", &self.refusing.to_string())
            .replace("{silent}", &silent.to_string())
    }

    /// At the console; the error, if there is one.
    fn console(&self, command: &str) -> Result<Vec<Message>, String> {
        let (_, console) = self.running.as_ref().expect("it was started");
        let answer = ask(&mut console.borrow_mut(), command);
        match first_error(&answer) {
            Some(error) => Err(format!("{command}: {error:?}")),
            None => Ok(answer),
        }
    }

    fn rewrite(&self, at: Where) -> Result<(), String> {
        self.pooler().rewrite_config(&self.text(at));
        self.console("RELOAD").map(|_| ())
    }

    fn set(&self) -> Result<Vec<Message>, String> {
        let value = self.filled(self.row.value).replace('\'', "''");
        self.console(&format!("SET {} = '{value}'", self.row.name))
    }

    /// RELOAD of a file that is to count at the next start only, and says so.
    fn rewrite_in_vain(&self, at: Where) -> Result<(), String> {
        let said = || self.pooler().log().matches(" takes a restart; ").count();
        let before = said();
        self.rewrite(at)?;
        match wait_for(SETTLES, || said() > before) {
            true => Ok(()),
            false => Err("RELOAD does not say that it takes a restart".to_owned()),
        }
    }

    /// The same by SET, which PgBouncer answers as if it had been done.
    fn set_in_vain(&self) -> Result<(), String> {
        let answer = self.set()?;
        let notice = answer.iter().find_map(Message::notice);
        let said = notice.map_or(String::new(), |notice| notice.message().to_owned());
        let expected = format!("{} cannot be changed while the process runs", self.row.name);
        match said == expected {
            true => Ok(()),
            false => Err(format!("SET says {said:?}")),
        }
    }

    fn try_login(&self, user: &str, database: &str) -> Result<Wire, ServerError> {
        self.login_with(user, database, &[], PASSWORD)
    }

    fn login_with(
        &self,
        user: &str,
        database: &str,
        more: &[(&str, &str)],
        password: &str,
    ) -> Result<Wire, ServerError> {
        let own = [("user", user), ("database", database)];
        let parameters = [&own[..], more].concat();
        Wire::try_login(self.pooler().port(), &parameters, password)
    }

    fn login(&self) -> Wire {
        self.try_login("username", "a")
            .unwrap_or_else(|error| panic!("username to a: {error:?}"))
    }

    /// Whether the probe sees this at the first look, as it did before.
    fn still_sees(&self, expected: &str, when: &str) -> Result<(), String> {
        match (self.row.probe)(self) {
            seen if seen == expected => Ok(()),
            seen => Err(format!("{when}: seen {seen:?}, expected {expected:?}")),
        }
    }

    /// Whether the probe comes to see this.
    fn sees(&self, expected: &str, when: &str) -> Result<(), String> {
        let mut last = String::new();
        let seen = wait_for(SETTLES, || {
            last = (self.row.probe)(self);
            last == expected
        });
        match seen {
            true => Ok(()),
            false => Err(format!("{when}: seen {last:?}, expected {expected:?}")),
        }
    }
}

/// A query, and what comes up to ReadyForQuery or the end.
fn ask(wire: &mut Wire, sql: &str) -> Vec<Message> {
    wire.send_message(b'Q', &terminated(sql));
    let mut messages = Vec::new();
    while let Ok(Some(message)) = wire.try_read_message() {
        let last = message.kind == b'Z';
        messages.push(message);
        if last {
            break;
        }
    }
    messages
}

/// A row in all its places.
fn try_row(row: Row) -> Result<(), String> {
    let [without, with] = row.seen;
    let lab = Lab::start(row, row.begins);
    if row.begins == Where::Nowhere {
        lab.rewrite(Where::Global)?;
    }
    lab.sees(with, "in the file")?;
    if row.change != Change::Reload {
        let is_fixed = row.change == Change::Start;
        match is_fixed {
            true => lab.rewrite_in_vain(Where::Nowhere)?,
            false => lab.rewrite(Where::Nowhere)?,
        }
        lab.still_sees(with, "when it has gone from the file, up to a restart")?;
        drop(lab);
        let lab = Lab::start(row, Where::Nowhere);
        lab.sees(without, "by default")?;
        match is_fixed {
            true => lab.set_in_vain()?,
            false => lab.set().map(|_| ())?,
        }
        lab.still_sees(without, "after SET, up to a restart")?;
        if is_fixed {
            lab.rewrite_in_vain(Where::Global)?;
            lab.still_sees(without, "when it is new in the file, up to a restart")?;
        }
        return Ok(());
    }
    lab.rewrite(Where::Nowhere)?;
    lab.sees(without, "by default, after a reload")?;
    if row.is_global && row.by_set {
        lab.set()?;
        lab.sees(with, "after SET")?;
        lab.rewrite(Where::Nowhere)?;
        lab.sees(without, "after the reload that ends SET")?;
    }
    for (at, keys) in [(Where::Database, row.database), (Where::User, row.user)] {
        if !keys.is_empty() {
            lab.rewrite(at)?;
            lab.sees(with, &format!("at {at:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn every_option_does_what_it_says_wherever_it_stands_and_however_it_is_changed() {
    let asked = std::env::var("AETHER_OPTION").ok();
    let is_asked = |row: &Row| asked.as_deref().is_none_or(|name| row.name == name);
    let rows: Vec<Row> = ROWS.iter().copied().filter(is_asked).collect();
    Ground::shared();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let tried = catch_unwind(AssertUnwindSafe(|| try_row(*row)));
                    let failed = match tried {
                        Ok(Ok(())) => continue,
                        Ok(Err(text)) => text,
                        Err(panic) => match panic.downcast_ref::<String>() {
                            Some(text) => text.clone(),
                            None => "the probe panicked".to_owned(),
                        },
                    };
                    let mut failures = failures.lock().expect("nobody panics with it");
                    failures.push(format!("{}: {failed}", row.name));
                }
            });
        }
    });
    let failures = failures.into_inner().expect("nobody panics with it");
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The list is the compatibility specification's, which `src/config/pgbouncer/tests.rs` compares with what is read.
#[test]
fn every_option_has_a_row() {
    let mut missing = Vec::new();
    let lines = LIST.lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        let mut words = line.split(' ');
        let (section, name) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let has_row = ROWS.iter().any(|row| match section {
            "pgbouncer" => row.is_global && row.name == name,
            "databases" => Row::keys(row.database).any(|key| key == name),
            "users" => Row::keys(row.user).any(|key| key == name),
            "peers" => Row::keys(row.peer[0]).any(|key| key == name),
            _ => false,
        });
        let elsewhere = ELSEWHERE
            .iter()
            .any(|(of, what, ..)| (*of, *what) == (section, name));
        let deliberate = section == "pgbouncer" && DELIBERATE.iter().any(|row| row.0 == name);
        if !has_row && !elsewhere && !deliberate {
            missing.push(format!("{section} {name}"));
        }
    }
    assert!(
        missing.is_empty(),
        "options that nobody looks at: {missing:#?}"
    );
    for (section, name, file, test) in ELSEWHERE {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = fs::read_to_string(path).expect("the file with the test");
        assert!(
            text.contains(&format!("fn {test}(")),
            "{section} {name}: no test {test} in {file}"
        );
    }
}

/// A client that does not take its rows: by default it is waited for, with half a second it is closed.
#[test]
fn a_client_that_takes_nothing_holds_up_suspend_for_suspend_timeout() {
    let row = row("suspend_timeout", "0.5", ["no", "yes"], |lab| {
        let mut stuck = lab.login();
        stuck.send_message(
            b'Q',
            &terminated("SELECT repeat('x', 1000) FROM generate_series(1, 40000)"),
        );
        thread::sleep(Duration::from_millis(700));
        let begun = Instant::now();
        let mut other = lab.try_login("admin", "pgbouncer").expect("a login");
        other
            .stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("a socket");
        other.send_message(b'Q', &terminated("SUSPEND"));
        let done =
            matches!(other.try_read_message(), Ok(Some(message)) if message.error().is_none());
        println!("{:?}", begun.elapsed());
        let _ = lab.console("RESUME");
        if done { "yes" } else { "no" }.to_owned()
    });
    assert_eq!(try_row(row.with("pool_mode = transaction")), Ok(()));
}

/// What does nothing here says so, and what to do instead.
#[test]
fn what_has_no_effect_is_told_or_needs_none() {
    let place = Place::new("deliberate");
    for (name, value, expected) in DELIBERATE {
        let text = format!("[databases]\n[pgbouncer]\n{name} = {value}\n");
        let file = place.write("p.ini", &text);
        let mut check = process::command(binary());
        let output = check.arg("--check").arg(&file).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let (fails, word) = match *expected {
            "" => (false, ""),
            text => match text.strip_prefix("refused: ") {
                Some(text) => (true, text),
                None => (false, text),
            },
        };
        assert_eq!(output.status.success(), !fails, "{name}: {said}");
        assert!(said.contains(word), "{name}: {said}");
        assert_eq!(said.contains(name), !word.is_empty(), "{name}: {said}");
    }
}
