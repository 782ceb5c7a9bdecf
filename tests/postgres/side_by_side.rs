//! Issue 6, proof 3: Debian's PgBouncer and Aether, started from the same pgbouncer.ini before the same PostgreSQL, do the same for
//! the same script of clients; and where they do not, the reason stands in [`DIFFERENCES`] and in docs/pgbouncer.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::cluster::{PASSWORD, Stop};
use crate::support::pooler::binary;
use crate::support::process::{self, Place};
use crate::support::wire::{ServerError, bind, execute, first_error, parse, sync};
use crate::support::{Cluster, PATIENCE, Wire, wait_for, wait_until};

const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// `{port}`: its own; `{pg}`: PostgreSQL's; `{dead}`: nobody's; `{dir}`: its directory.
const INI: &str = "\
; the same file for both
[databases]
{db} = host=127.0.0.1 port={pg}
forced = host=127.0.0.1 port={pg} dbname={db} user=username password=password
wrong = host=127.0.0.1 port={pg} dbname={db} user=username password=nonsense
missing = host=127.0.0.1 port={pg} dbname=no_such_database_there user=postgres
dead = host=127.0.0.1 port={dead} user=postgres
small = host=127.0.0.1 port={pg} dbname={db} user=postgres pool_size=1
statements = host=127.0.0.1 port={pg} dbname={db} user=postgres pool_mode=statement
sessions = host=127.0.0.1 port={pg} dbname={db} user=postgres pool_mode=session pool_size=1

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir = {dir}
auth_type = md5
auth_file = {dir}/userlist.txt
admin_users = admin
stats_users = stats
pool_mode = transaction
max_client_conn = 20
query_wait_timeout = 1
query_timeout = 3
idle_transaction_timeout = 2
client_idle_timeout = 0
ignore_startup_parameters = extra_float_digits
";

const USERLIST: &str = "\"username\" \"password\"\n\"postgres\" \"password\"\n\"md5_user\" \"password\"\n\"admin\" \"password\"\n\
                        \"stats\" \"password\"\n\"limited\" \"password\"\n";

/// Where the two differ, and why. The text is for people; that there is one is what the test asks.
const DIFFERENCES: [(&str, &str); 9] = [
    (
        "the console is for its users",
        "PostgreSQL's own kind of text and code: 42501",
    ),
    ("a wrong password", "PostgreSQL's own text and code: 28P01"),
    (
        "an unknown user",
        "PostgreSQL's own text and code, as for a wrong password: it cannot be told that there is no such user",
    ),
    (
        "an unknown database",
        "PostgreSQL's own text and code: 3D000",
    ),
    (
        "a parameter that is not known",
        "Aether passes any startup parameter on to the server; who wants one ignored lists it",
    ),
    (
        "a server that cannot be reached",
        "Aether tells what is wrong with the server, PgBouncer that the time was up",
    ),
    (
        "the pool is used up",
        "the precise code, 53300, and which pool it is",
    ),
    (
        "named statements in transaction mode",
        "PgBouncer 1.18 does not have them yet; Aether, as PgBouncer since 1.21, has",
    ),
    ("too many clients", "PostgreSQL's own text and code: 53300"),
];

/// Where what the two write to their logs differs, and why.
const LOG_DIFFERENCES: [(&str, &str); 4] = [
    (
        "a parameter that is not known",
        "Aether passes it on to the server, and the client gets in",
    ),
    (
        "no such database there",
        "PgBouncer 1.18 closes the server with \"login failed\"; newer ones, and Aether, with what the server said",
    ),
    ("the password for the server is wrong", "the same"),
    (
        "what a session leaves is reset",
        "temporary tables of a session cost its server connection: DISCARD ALL leaves traces of them",
    ),
];

/// One of the two, running.
struct Twin {
    name: &'static str,
    port: u16,
    child: Child,
    place: Place,
}

impl Twin {
    fn start(name: &'static str, program: &Path, cluster: &Cluster, database: &str) -> Twin {
        Twin::start_with(name, program, cluster, database, "")
    }

    /// `options`: more lines of `[pgbouncer]`, which win over the usual ones.
    fn start_with(
        name: &'static str,
        program: &Path,
        cluster: &Cluster,
        database: &str,
        options: &str,
    ) -> Twin {
        let place = Place::new(name);
        let (port, dead) = (process::free_port(), process::free_port());
        place.write("userlist.txt", USERLIST);
        let directory = place.path().to_string_lossy().into_owned();
        let ini = (INI.to_owned() + options)
            .replace("{db}", database)
            .replace("{pg}", &cluster.port().to_string())
            .replace("{dead}", &dead.to_string())
            .replace("{dir}", &directory)
            .replace("{port}", &port.to_string());
        let file = place.write("pgbouncer.ini", &ini);
        let log = fs::File::create(place.path().join("log")).expect("its log");
        let mut command = process::command(program);
        command.arg(file).current_dir(place.path());
        command
            .stdout(log.try_clone().expect("its log"))
            .stderr(log);
        let child = process::spawn(command).expect("it starts");
        let twin = Twin {
            name,
            port,
            child,
            place,
        };
        wait_until(&format!("{name} listens: {}", twin.log()), || {
            process::listening(port)
        });
        twin
    }

    fn log(&self) -> String {
        let bytes = fs::read(self.place.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Why connections were closed since the log had this many bytes, and what clients were told by it: `C` or `S`, and the text,
    /// without times and ports.
    fn reasons_since(&self, start: usize) -> BTreeSet<String> {
        let log = self.log();
        let lines = log.get(start..).unwrap_or_default().lines();
        lines.filter_map(reason).collect()
    }

    fn login(&self, user: &str, password: &str, database: &str) -> Result<Wire, ServerError> {
        Wire::try_login(
            self.port,
            &[("user", user), ("database", database)],
            password,
        )
    }

    /// What SHOW CONFIG says of it.
    fn config(&self, console: &mut Wire, key: &str) -> Option<String> {
        let messages = console.query("SHOW CONFIG");
        let mut rows = messages.iter().filter_map(|message| message.row());
        let row = rows.find(|row| row.first().cloned().flatten().as_deref() == Some(key));
        row.unwrap_or_else(|| panic!("{} has no {key}", self.name))
            .get(1)
            .cloned()
            .flatten()
    }

    /// What becomes of one query.
    fn asked(&self, user: &str, database: &str, sql: &str) -> String {
        match self.login(user, PASSWORD, database) {
            Ok(mut wire) => said(&mut wire, sql),
            Err(error) => told(&error),
        }
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        process::signal(self.child.id(), Signal::SIGQUIT);
        let child = &mut self.child;
        if !wait_for(PATIENCE, || matches!(child.try_wait(), Ok(Some(_)))) {
            let _ = child.kill();
        }
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- the log of {}\n{}----", self.name, self.log());
        }
    }
}

/// What a line says of the end of a connection, or of an error.
fn reason(line: &str) -> Option<String> {
    const MARKS: [&str; 3] = [
        "closing because: ",
        "pooler error: ",
        "server login failed: ",
    ];
    let (before, text) = MARKS
        .iter()
        .find_map(|mark| Some((line.split_once(mark)?.0, line.split_once(mark)?.1, mark)))
        .map(|(before, text, mark)| (before, format!("{mark}{text}")))?;
    let whose = before.split_whitespace().find_map(|word| {
        let side = word.split_once("-0x")?.0;
        matches!(side, "C" | "S").then(|| side.to_owned())
    })?;
    let text = text.split(" (age=").next().unwrap_or_default();
    Some(format!("{whose} {}", text.trim_end()))
}

fn told(error: &ServerError) -> String {
    format!("{} {}", error.sqlstate(), error.message())
}

/// The rows of an answer, or its error.
fn said(wire: &mut Wire, sql: &str) -> String {
    let messages = wire.query_or_end(sql);
    match first_error(&messages) {
        Some(error) => told(&error),
        None => messages
            .iter()
            .filter_map(|message| message.row())
            .map(|row| {
                let cells = row
                    .into_iter()
                    .map(|cell| cell.unwrap_or_else(|| "NULL".to_owned()));
                cells.collect::<Vec<_>>().join("|")
            })
            .collect::<Vec<_>>()
            .join(";"),
    }
}

trait QueryOrEnd {
    fn query_or_end(&mut self, sql: &str) -> Vec<crate::support::Message>;
}

impl QueryOrEnd for Wire {
    /// A simple query, and its answer up to ReadyForQuery or the end of the connection.
    fn query_or_end(&mut self, sql: &str) -> Vec<crate::support::Message> {
        self.send_message(b'Q', &crate::support::wire::terminated(sql));
        let mut messages = Vec::new();
        while let Ok(Some(message)) = self.try_read_message() {
            let last = message.kind == b'Z';
            messages.push(message);
            if last {
                break;
            }
        }
        messages
    }
}

/// What Aether, too, only reads at its start; with values that are none.
const RESTART_ONLY: [(&str, &str); 11] = [
    ("pidfile", "/nowhere/pid"),
    ("user", "nobody"),
    ("job_name", "other"),
    ("listen_addr", "no address"),
    ("listen_port", "none"),
    ("unix_socket_dir", "/nowhere"),
    ("unix_socket_mode", "none"),
    ("unix_socket_group", "nobody_of_this_name"),
    ("so_reuseport", "perhaps"),
    ("pkt_buf", "none"),
    ("resolv_conf", "/nowhere"),
];

type Case = (&'static str, fn(&Twin, &str) -> String);

const SCRIPT: [Case; 25] = [
    ("a query", |twin, db| {
        twin.asked("username", db, "SELECT 1, NULL, 'x'")
    }),
    ("a query by a user with an MD5 secret there", |twin, db| {
        twin.asked("md5_user", db, "SELECT current_user")
    }),
    ("a forced user", |twin, _| {
        twin.asked(
            "stats",
            "forced",
            "SELECT current_user, current_database() <> 'forced'",
        )
    }),
    ("an error of the server", |twin, db| {
        twin.asked("username", db, "SELECT 1/0")
    }),
    ("a wrong password", |twin, db| {
        twin.login("username", "wrong", db)
            .map_or_else(|e| told(&e), |_| "in".to_owned())
    }),
    ("an unknown user", |twin, db| {
        twin.login("nobody", PASSWORD, db)
            .map_or_else(|e| told(&e), |_| "in".to_owned())
    }),
    ("an unknown database", |twin, _| {
        twin.login("username", PASSWORD, "nowhere")
            .map_or_else(|e| told(&e), |_| "in".to_owned())
    }),
    ("no TLS", |twin, _| {
        (Wire::connect(twin.port).ask_encryption(80_877_103) as char).to_string()
    }),
    ("no GSSAPI", |twin, _| {
        (Wire::connect(twin.port).ask_encryption(80_877_104) as char).to_string()
    }),
    ("a parameter that is ignored", |twin, db| {
        let parameters = [
            ("user", "username"),
            ("database", db),
            ("extra_float_digits", "nonsense"),
        ];
        Wire::try_login(twin.port, &parameters, PASSWORD)
            .map_or_else(|e| told(&e), |mut wire| said(&mut wire, "SELECT 1"))
    }),
    ("a parameter that is not known", |twin, db| {
        let parameters = [
            ("user", "username"),
            ("database", db),
            ("search_path", "public"),
        ];
        Wire::try_login(twin.port, &parameters, PASSWORD)
            .map_or_else(|e| told(&e), |mut wire| said(&mut wire, "SELECT 1"))
    }),
    ("a parameter that is tracked", |twin, db| {
        let parameters = [
            ("user", "username"),
            ("database", db),
            ("TimeZone", "Asia/Tokyo"),
            ("application_name", "me"),
        ];
        Wire::try_login(twin.port, &parameters, PASSWORD).map_or_else(
            |e| told(&e),
            |mut wire| {
                said(
                    &mut wire,
                    "SELECT current_setting('TimeZone'), current_setting('application_name')",
                )
            },
        )
    }),
    ("no such database there", |twin, _| {
        twin.asked("postgres", "missing", "SELECT 1")
            .replace("FATAL:  ", "")
    }),
    ("the password for the server is wrong", |twin, _| {
        twin.asked("postgres", "wrong", "SELECT 1")
    }),
    ("a server that cannot be reached", |twin, _| {
        twin.asked("postgres", "dead", "SELECT 1")
    }),
    ("two clients share a server", |twin, _| {
        let mut first = twin.login("postgres", PASSWORD, "small").expect("a login");
        let mut second = twin.login("postgres", PASSWORD, "small").expect("a login");
        let pid = "SELECT pg_backend_pid()";
        (said(&mut first, pid) == said(&mut second, pid)).to_string()
    }),
    ("the pool is used up", |twin, _| {
        let mut first = twin.login("postgres", PASSWORD, "small").expect("a login");
        let mut second = twin.login("postgres", PASSWORD, "small").expect("a login");
        said(&mut first, "BEGIN");
        let error = said(&mut second, "SELECT 1");
        said(&mut first, "ROLLBACK");
        error
    }),
    ("a transaction that idles", |twin, db| {
        let mut wire = twin.login("username", PASSWORD, db).expect("a login");
        said(&mut wire, "BEGIN");
        let left = wire.read_to_end();
        first_error(&left).map_or_else(|| "closed".to_owned(), |error| told(&error))
    }),
    ("a query that takes too long", |twin, db| {
        twin.asked("username", db, "SELECT pg_sleep(60)")
    }),
    ("what a session leaves is reset", |twin, _| {
        let mut first = twin
            .login("postgres", PASSWORD, "sessions")
            .expect("a login");
        said(
            &mut first,
            "SET work_mem = '1MB'; CREATE TEMP TABLE left_behind ()",
        );
        first.terminate();
        twin.asked(
            "postgres",
            "sessions",
            "SELECT current_setting('work_mem'), to_regclass('left_behind')",
        )
    }),
    ("blocks in statement mode", |twin, _| {
        twin.asked("postgres", "statements", "BEGIN")
    }),
    ("named statements in transaction mode", |twin, _| {
        let mut first = twin.login("postgres", PASSWORD, "small").expect("a login");
        let mut second = twin.login("postgres", PASSWORD, "small").expect("a login");
        for wire in [&mut first, &mut second] {
            wire.send(
                &[
                    parse("s", "SELECT 1"),
                    bind("", "s", &[]),
                    execute("", 0),
                    sync(),
                ]
                .concat(),
            );
            let messages = wire.read_until(b'Z');
            if let Some(error) = first_error(&messages) {
                return told(&error);
            }
        }
        "fine".to_owned()
    }),
    ("the console is for its users", |twin, _| {
        twin.login("username", PASSWORD, "pgbouncer")
            .map_or_else(|e| told(&e), |_| "in".to_owned())
    }),
    ("SET of what only a restart changes", |twin, _| {
        let mut console = twin.login("admin", PASSWORD, "pgbouncer").expect("a login");
        let mut answers = Vec::new();
        for (key, value) in RESTART_ONLY {
            let before = twin.config(&mut console, key);
            let answer = console.query_or_end(&format!("SET {key} = '{value}'"));
            let error = first_error(&answer).map(|error| told(&error));
            let kept = twin.config(&mut console, key) == before;
            let said = error.unwrap_or_else(|| "done".to_owned());
            answers.push(format!("{key}: {said}, as it was: {kept}"));
        }
        answers.join("; ")
    }),
    ("too many clients", |twin, db| {
        let mut held = Vec::new();
        for _ in 0..40 {
            match twin.login("username", PASSWORD, db) {
                Ok(wire) => held.push(wire),
                Err(error) => return format!("{} {}", held.len() >= 18, told(&error)),
            }
        }
        "all are in".to_owned()
    }),
];

/// SQLSTATE aside: PgBouncer has one for everything, 08P01.
fn text_of(outcome: &str) -> &str {
    outcome.strip_prefix("08P01 ").unwrap_or(outcome)
}

#[test]
fn the_same_clients_meet_the_same_before_pgbouncer_and_aether() {
    let cluster = Cluster::shared();
    let database = cluster.database("side_by_side");
    cluster.sql(
        "postgres",
        "DO $$ BEGIN CREATE ROLE stats LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    );
    let old = Twin::start("pgbouncer", Path::new(PGBOUNCER), cluster, &database);
    let new = Twin::start("aether", binary(), cluster, &database);
    let known: BTreeMap<&str, &str> = DIFFERENCES.into_iter().collect();
    let logged: BTreeMap<&str, &str> = LOG_DIFFERENCES.into_iter().collect();
    let (mut unexplained, mut gone) = (Vec::new(), Vec::new());
    for (name, client) in SCRIPT {
        let starts = [&old, &new].map(|twin| twin.log().len());
        let (before, after) = (client(&old, &database), client(&new, &database));
        // PgBouncer looks three times a second.
        std::thread::sleep(Duration::from_millis(450));
        let (was, is) = (old.reasons_since(starts[0]), new.reasons_since(starts[1]));
        let theirs: Vec<&String> = was.difference(&is).collect();
        let ours: Vec<&String> = is.difference(&was).collect();
        let same_log = theirs.is_empty() && ours.is_empty();
        if !same_log {
            println!("/ {name}, in the log\n    pgbouncer: {theirs:?}\n    aether:    {ours:?}");
        }
        match (same_log, logged.contains_key(name)) {
            (false, false) => {
                unexplained.push(format!("the log of {name}: {theirs:?}, but {ours:?}"))
            }
            (true, true) => gone.push(format!("the log of {name}")),
            _ => {}
        }
        let same = before == after;
        println!(
            "{} {name}\n    pgbouncer: {before}\n    aether:    {after}",
            if same { "=" } else { "/" }
        );
        // The precise code in place of 08P01 is one and the same difference everywhere.
        let same_text =
            text_of(&before) == after.get(6..).unwrap_or(&after) && before.starts_with("08P01 ");
        match (same || same_text, known.contains_key(name)) {
            (false, false) => unexplained.push(format!("{name}: {before:?}, but {after:?}")),
            (true, true) => gone.push(name.to_owned()),
            _ => {}
        }
    }
    assert!(unexplained.is_empty(), "{unexplained:#?}");
    assert!(
        gone.is_empty(),
        "what is the same by now is no difference: {gone:#?}"
    );
    for name in known.keys().chain(logged.keys()) {
        assert!(
            SCRIPT.iter().any(|(case, _)| case == name),
            "no case {name}"
        );
    }
}

/// A short restart of the server: who logs in during it is served by both, whether or not the pooler has found out before, and so is
/// who waits with a query. Who asks once it is known is told so by both (docs/pgbouncer.md, "What is different").
#[test]
fn who_comes_while_the_server_is_down_is_served_when_it_is_back() {
    let cluster = Cluster::start();
    let options = "query_wait_timeout = 20\nquery_timeout = 0\nserver_login_retry = 1\n";
    let old = Twin::start_with(
        "pgbouncer",
        Path::new(PGBOUNCER),
        &cluster,
        "database",
        options,
    );
    let new = Twin::start_with("aether", binary(), &cluster, "database", options);
    let twins = [&old, &new];
    let query = |twin: &Twin| twin.asked("username", "database", "SELECT 'served'");
    // Nobody knows anything of the server yet, or it has been there; then somebody is told while another waits.
    for was_there in [false, true] {
        let mut held = Vec::new();
        if was_there {
            let login = |twin: &Twin| twin.login("username", PASSWORD, "database");
            held.extend(twins.map(|twin| login(twin).expect("a login")));
        }
        cluster.stop(Stop::Fast);
        std::thread::scope(|threads| {
            let clients = twins.map(|twin| threads.spawn(move || query(twin)));
            // Long enough for an attempt to fail, and for what PgBouncer looks at three times a second.
            std::thread::sleep(Duration::from_millis(2_500));
            for (twin, client) in twins.iter().zip(&clients) {
                assert!(!client.is_finished(), "{} gave up", twin.name);
            }
            for (twin, client) in twins.iter().zip(&mut held) {
                let told = said(client, "SELECT 1");
                let at_once = told.contains("server login has been failing")
                    && told.ends_with("(server_login_retry)");
                assert!(at_once, "{}: {told}", twin.name);
            }
            cluster.start_again();
            for (twin, client) in twins.iter().zip(clients) {
                assert_eq!(client.join().expect("an answer"), "served", "{}", twin.name);
            }
        });
    }
}

/// The one difference: a login that waits for the server is ended by `client_login_timeout` there, by `query_wait_timeout` here.
#[test]
fn a_login_waits_for_the_server_until_client_login_timeout_or_query_wait_timeout() {
    let cluster = Cluster::shared();
    let database = cluster.database("side_by_side_login");
    let options = "client_login_timeout = 1\nquery_wait_timeout = 3\n";
    let old = Path::new(PGBOUNCER);
    let old = Twin::start_with("pgbouncer", old, cluster, &database, options);
    let new = Twin::start_with("aether", binary(), cluster, &database, options);
    let told = |twin: &Twin| twin.asked("postgres", "dead", "SELECT 1");
    assert_eq!(told(&old), "08P01 client_login_timeout (server down)");
    let begun = Instant::now();
    let told = told(&new);
    assert!(begun.elapsed() >= Duration::from_secs(3), "{told}");
    assert!(told.starts_with("08006 "), "{told}");
    assert!(told.contains("Connection refused"), "{told}");
}

/// What those look for who read the log of PgBouncer: how a start is told.
#[test]
fn starts_are_told_in_the_same_words() {
    let cluster = Cluster::shared();
    let database = cluster.database("side_by_side_lines");
    let old = Twin::start("pgbouncer", Path::new(PGBOUNCER), cluster, &database);
    let new = Twin::start("aether", binary(), cluster, &database);
    // Up to what differs from start to start, and from version to version.
    const LINES: [&str; 4] = [
        " LOG kernel file descriptor limit: ",
        " LOG listening on 127.0.0.1:",
        " LOG listening on unix:/",
        " LOG process up: PgBouncer ",
    ];
    for twin in [&old, &new] {
        twin.asked("username", &database, "SELECT 1");
        for line in LINES {
            wait_until(&format!("{} says {line}", twin.name), || {
                twin.log().contains(line)
            });
        }
        let log = twin.log();
        let places = LINES.map(|line| log.find(line).expect("it is there"));
        assert!(places.is_sorted(), "{}: {places:?}", twin.name);
    }
    let words = |twin: &Twin, line: &str| -> Vec<String> {
        let log = twin.log();
        let found = log.lines().find_map(|said| said.split_once(line));
        let (_, rest) = found.expect("it is there");
        let words = rest.split([' ', ',']).filter(|word| !word.is_empty());
        words
            .filter(|word| !word.starts_with(|c: char| c.is_ascii_digit()))
            .map(str::to_owned)
            .collect()
    };
    let limits = LINES[0];
    assert_eq!(words(&old, limits), words(&new, limits));
    let up = LINES[3];
    for (twin, mark) in [
        (&old, "libevent"),
        (&new, "libevent"),
        (&old, "adns:"),
        (&new, "adns:"),
        (&new, "tls:"),
    ] {
        assert!(
            words(twin, up).iter().any(|word| word == mark),
            "{}",
            twin.name
        );
    }
}

/// Every option that the real one has is one that Aether knows, with the value that it shows.
#[test]
fn what_show_config_of_pgbouncer_says_is_a_file_that_aether_reads() {
    let cluster = Cluster::shared();
    let database = cluster.database("side_by_side_config");
    let old = Twin::start("pgbouncer", Path::new(PGBOUNCER), cluster, &database);
    let mut console = old.login("admin", PASSWORD, "pgbouncer").expect("a login");
    let rows: Vec<_> = console
        .query("SHOW CONFIG")
        .iter()
        .filter_map(|message| message.row())
        .collect();
    assert!(rows.len() > 80, "{} options", rows.len());
    let mut text = String::from("[pgbouncer]\n");
    for row in &rows {
        let cell = |at: usize| row.get(at).cloned().flatten();
        if let (Some(key), Some(value)) = (cell(0), cell(1)) {
            // What is left out of Aether, at its default.
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    // And under its own name in Aether's SHOW CONFIG.
    let new = Twin::start("aether", binary(), cluster, &database);
    let mut own = new.login("admin", PASSWORD, "pgbouncer").expect("a login");
    let own: Vec<_> = own
        .query("SHOW CONFIG")
        .iter()
        .filter_map(|message| message.row())
        .filter_map(|row| row.first().cloned().flatten())
        .collect();
    let missing: Vec<_> = rows
        .iter()
        .filter_map(|row| row.first().cloned().flatten())
        .filter(|key| !own.contains(key))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let place = Place::new("shown");
    let file = place.write("shown.ini", &text);
    let output = process::command(binary())
        .arg("--check")
        .arg(file)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}");
    assert!(output.status.success(), "{text}\n{said}");
}
