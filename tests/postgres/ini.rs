//! Issue 6, proof 1: options of a pgbouncer.ini by what they do, left out, set at each place where they may stand, and changed by a
//! reload.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::cluster::PASSWORD;
use crate::support::pooler::binary;
use crate::support::process::{self, Place};
use crate::support::wire::first_error;
use crate::support::{Cluster, Pooler, ServerError, Wire, wait_until};

/// An Aether that was started from an ini.
struct Ini {
    pooler: Pooler,
    place: Place,
    database: String,
}

impl Ini {
    /// `entries`: of `[databases]`; `{to}` is how to get to the database there, `{db}` its name. `options`: of `[pgbouncer]`, and
    /// more sections.
    fn start(name: &str, entries: &str, options: &str) -> Ini {
        let cluster = Cluster::shared();
        cluster.sql(
            "postgres",
            "DO $$ BEGIN CREATE ROLE other LOGIN PASSWORD 'password'; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
        );
        let place = Place::new(name);
        let users = ["username", "postgres", "other", "admin"];
        let line = |user: &str| format!("\"{user}\" \"{PASSWORD}\"\n");
        place.write("userlist.txt", &users.map(line).concat());
        let database = cluster.database(name);
        let text = Ini::text(&database, &place, entries, options);
        let pooler = Pooler::start(&text);
        Ini {
            pooler,
            place,
            database,
        }
    }

    fn text(database: &str, place: &Place, entries: &str, options: &str) -> String {
        let to = format!(
            "host=127.0.0.1 port={} dbname={database}",
            Cluster::shared().port()
        );
        let directory = place.path().display();
        format!(
            "[databases]\n{entries}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {{port}}\nunix_socket_dir =\n\
             auth_file = {directory}/userlist.txt\nadmin_users = admin\nquery_wait_timeout = 0.5\n{options}\n"
        )
        .replace("{to}", &to)
        .replace("{db}", database)
        .replace("{dir}", &directory.to_string())
    }

    fn reload(&self, entries: &str, options: &str) {
        let before = self.pooler.log().matches("re-reading").count();
        self.pooler
            .rewrite_config(&Ini::text(&self.database, &self.place, entries, options));
        self.pooler.signal(Signal::SIGHUP);
        wait_until("it was read again", || {
            self.pooler.log().matches("re-reading").count() > before
        });
        // The turn in which it counts.
        std::thread::sleep(Duration::from_millis(100));
    }

    fn try_login(&self, user: &str, database: &str) -> Result<Wire, ServerError> {
        Wire::try_login(
            self.pooler.port(),
            &[("user", user), ("database", database)],
            PASSWORD,
        )
    }

    fn login(&self, user: &str, database: &str) -> Wire {
        self.try_login(user, database)
            .unwrap_or_else(|error| panic!("{user} to {database}: {error:?}"))
    }

    /// Whether two clients get the same server one after the other while both stay.
    fn is_shared(&self, user: &str, database: &str) -> bool {
        let (mut first, mut second) = (self.login(user, database), self.login(user, database));
        pid(&mut first) == pid(&mut second)
    }

    /// How many clients can be in a transaction at once; more than `most` are not tried.
    fn servers(&self, user: &str, database: &str, most: usize) -> usize {
        let mut held = Vec::new();
        while held.len() < most {
            let mut wire = match self.try_login(user, database) {
                Ok(wire) => wire,
                Err(_) => break,
            };
            if first_error(&ask(&mut wire, "BEGIN")).is_some() {
                break;
            }
            held.push(wire);
        }
        held.len()
    }

    /// How many clients get in; more than `most` are not tried.
    fn clients(&self, user: &str, database: &str, most: usize) -> usize {
        let mut held = Vec::new();
        while held.len() < most {
            match self.try_login(user, database) {
                Ok(wire) => held.push(wire),
                Err(_) => break,
            }
        }
        held.len()
    }
}

fn pid(wire: &mut Wire) -> String {
    wire.value("SELECT pg_backend_pid()").expect("a pid")
}

/// A query, and what comes up to ReadyForQuery or the end.
fn ask(wire: &mut Wire, sql: &str) -> Vec<crate::support::Message> {
    wire.send_message(b'Q', &crate::support::wire::terminated(sql));
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

/// How long it takes until the connection ends, and with which error.
fn ends(wire: &mut Wire) -> (Duration, Option<ServerError>) {
    let begun = Instant::now();
    let left = wire.read_to_end();
    (begun.elapsed(), first_error(&left))
}

#[test]
fn pool_mode_is_sessions_and_may_stand_in_three_places_and_be_reloaded() {
    let entries = "a = {to}\ns = {to} pool_mode=session\nt = {to} pool_mode=transaction";
    let ini = Ini::start("ini_mode", entries, "");
    assert!(!ini.is_shared("username", "a"));
    assert!(ini.is_shared("username", "t"));
    ini.reload(
        entries,
        "pool_mode = transaction\n[users]\nother = pool_mode=session",
    );
    assert!(ini.is_shared("username", "a"));
    assert!(!ini.is_shared("username", "s"), "the database's own wins");
    assert!(
        !ini.is_shared("other", "t"),
        "the user's own wins over the database's"
    );
    ini.reload(entries, "");
    assert!(
        !ini.is_shared("username", "a"),
        "what is not written any more is the default again"
    );
}

#[test]
fn pool_sizes_count_for_each_user_and_caps_for_the_database() {
    let entries = "a = {to}\nsmall = {to} pool_size=1\ncapped = {to} max_db_connections=1";
    let ini = Ini::start(
        "ini_sizes",
        entries,
        "pool_mode = transaction\ndefault_pool_size = 2",
    );
    assert_eq!(ini.servers("username", "a", 4), 2);
    assert_eq!(ini.servers("username", "small", 4), 1);
    assert_eq!(ini.servers("username", "capped", 4), 1);
    let mut held = ini.login("username", "small");
    ask(&mut held, "BEGIN");
    assert_eq!(
        ini.servers("other", "small", 4),
        1,
        "another user has a pool of his own"
    );
    let mut held = ini.login("username", "capped");
    ask(&mut held, "BEGIN");
    assert_eq!(
        ini.servers("other", "capped", 4),
        0,
        "but the cap is for all"
    );
    drop(held);
    ini.reload(
        entries,
        "pool_mode = transaction\ndefault_pool_size = 3\n[users]\nother = max_user_connections=1",
    );
    assert_eq!(ini.servers("username", "a", 4), 3);
    assert_eq!(ini.servers("other", "a", 4), 1);
}

#[test]
fn clients_are_counted_in_all_by_database_and_by_user() {
    let entries = "a = {to}\nfew = {to} max_db_client_connections=2";
    let ini = Ini::start(
        "ini_clients",
        entries,
        "max_client_conn = 6\n[users]\nother = max_user_client_connections=1",
    );
    assert_eq!(ini.clients("username", "a", 9), 6);
    assert_eq!(ini.clients("username", "few", 9), 2);
    assert_eq!(ini.clients("other", "a", 9), 1);
    ini.reload(
        entries,
        "max_client_conn = 4\nmax_db_client_connections = 3",
    );
    assert_eq!(ini.clients("username", "a", 9), 3);
    assert_eq!(ini.clients("other", "few", 9), 2);
}

#[test]
fn a_client_waits_for_as_long_as_query_wait_timeout_says() {
    let entries = "a = {to} pool_size=1\nb = {to} pool_size=1 query_wait_timeout=2";
    let ini = Ini::start("ini_wait", entries, "pool_mode = transaction");
    let waited = |database: &str| {
        let mut first = ini.login("username", database);
        ask(&mut first, "BEGIN");
        let mut second = ini.login("username", database);
        let begun = Instant::now();
        let error = first_error(&ask(&mut second, "SELECT 1")).expect("there is no server");
        assert!(error.message().contains("query_wait_timeout") || !error.message().is_empty());
        begun.elapsed()
    };
    let (short, long) = (waited("a"), waited("b"));
    assert!(
        (Duration::from_millis(450)..Duration::from_millis(1900)).contains(&short),
        "{short:?}"
    );
    assert!(long >= Duration::from_millis(1950), "{long:?}");
}

#[test]
fn what_a_database_says_of_its_sessions_is_there_in_them() {
    let entries = "plain = {to} user=username\n\
                   own = {to} user=username client_encoding=LATIN1 datestyle='German' timezone='Asia/Tokyo' application_name='from the ini'";
    let ini = Ini::start("ini_settings", entries, "");
    let sql = "SELECT current_user || ' ' || current_setting('client_encoding') || ' ' || current_setting('datestyle') || ' ' || \
               current_setting('timezone') || ' ' || current_setting('application_name')";
    assert_eq!(
        ini.login("other", "own").value(sql).as_deref(),
        Some("username LATIN1 German, DMY Asia/Tokyo from the ini")
    );
    let plain = ini.login("other", "plain").value(sql).expect("a text");
    assert!(plain.starts_with("username UTF8 ISO"), "{plain}");
}

#[test]
fn server_reset_query_runs_between_clients_unless_it_is_empty() {
    let entries = "a = {to} pool_size=1";
    let ini = Ini::start("ini_reset", entries, "");
    let left = || {
        let mut wire = ini.login("username", "a");
        ask(&mut wire, "SET work_mem = '77kB'");
        wire.terminate();
        ini.login("username", "a")
            .value("SHOW work_mem")
            .expect("a size")
    };
    assert_ne!(left(), "77kB");
    ini.reload(entries, "server_reset_query = SET work_mem = '88kB'");
    assert_eq!(left(), "88kB");
    ini.reload(entries, "server_reset_query =");
    assert_eq!(left(), "77kB");
}

#[test]
fn servers_are_kept_as_long_as_the_times_say() {
    let entries = "a = {to} pool_size=1";
    let ini = Ini::start("ini_times", entries, "pool_mode = transaction");
    let mut wire = ini.login("username", "a");
    assert_eq!(pid(&mut wire), pid(&mut wire));
    ini.reload(
        entries,
        "pool_mode = transaction\nserver_idle_timeout = 0.2",
    );
    let before = pid(&mut wire);
    std::thread::sleep(Duration::from_millis(1500));
    assert_ne!(pid(&mut wire), before, "it was idle for too long");
}

#[test]
fn clients_that_say_nothing_or_take_too_long_are_closed() {
    let entries = "a = {to}";
    let ini = Ini::start(
        "ini_timeouts",
        entries,
        "pool_mode = transaction\nidle_transaction_timeout = 0.3\nquery_timeout = 0.4",
    );
    let mut wire = ini.login("username", "a");
    ask(&mut wire, "BEGIN");
    let (time, error) = ends(&mut wire);
    assert!(time < Duration::from_secs(10));
    assert!(error.is_some_and(|error| error.message().contains("idle transaction timeout")));
    let mut wire = ini.login("username", "a");
    let error = first_error(&ask(&mut wire, "SELECT pg_sleep(30)")).expect("it takes too long");
    assert!(error.message().contains("query timeout"), "{error:?}");
    let mut idle = ini.login("username", "a");
    ini.reload(entries, "pool_mode = transaction\nclient_idle_timeout = 0.3\n[users]\nother = client_idle_timeout=600");
    let mut spared = ini.login("other", "a");
    let (time, error) = ends(&mut idle);
    assert!(time < Duration::from_secs(10));
    assert!(error.is_some_and(|error| error.sqlstate() == "57P05"));
    assert_eq!(
        spared.value("SELECT 1").as_deref(),
        Some("1"),
        "the user's own wins"
    );
}

#[test]
fn auth_type_says_who_gets_in() {
    let entries =
        "a = {to} user=username password=password\n* = host=127.0.0.1 port=1 user=username";
    let ini = Ini::start("ini_auth", entries, "");
    let gets_in = |user: &str, password: &str| {
        let parameters = [("user", user), ("database", "a")];
        Wire::try_login(ini.pooler.port(), &parameters, password).is_ok()
    };
    assert!(
        gets_in("username", PASSWORD)
            && !gets_in("username", "wrong")
            && !gets_in("stranger", PASSWORD)
    );
    for auth_type in ["plain", "scram-sha-256"] {
        ini.reload(entries, &format!("auth_type = {auth_type}"));
        assert!(
            gets_in("username", PASSWORD) && !gets_in("username", "wrong"),
            "{auth_type}"
        );
    }
    ini.reload(entries, "auth_type = trust");
    assert!(
        gets_in("username", "wrong") && !gets_in("stranger", "wrong"),
        "who is listed"
    );
    ini.reload(entries, "auth_type = any");
    assert!(gets_in("stranger", "wrong"), "everybody");
}

#[test]
fn a_reload_takes_all_of_a_file_or_nothing() {
    let entries = "a = {to}";
    let ini = Ini::start("ini_atomic", entries, "pool_mode = transaction");
    ini.reload(
        entries,
        "pool_mode = session\nmax_client_conn = lots\nnonsense = 1",
    );
    ini.pooler
        .wait_for_log("max_client_conn: found \"lots\", expected a whole number above 0");
    ini.pooler
        .wait_for_log("unknown parameter: pgbouncer/nonsense");
    assert!(
        ini.is_shared("username", "a"),
        "the mode before the error is not taken over"
    );
    ini.place.write(
        "more.ini",
        "[databases]\nb = host=127.0.0.1 port=1 pool_mode=transaction\n",
    );
    ini.reload(
        &format!("{entries}\n%include {{dir}}/more.ini"),
        "pool_mode = session",
    );
    assert!(!ini.is_shared("username", "a"));
}

#[test]
fn a_unix_socket_has_the_port_and_the_mode_of_the_file_and_tcp_is_only_listened_on_if_asked_for() {
    let place = Place::new("ini_socket");
    let directory = place.path().display();
    place.write("userlist.txt", "\"username\" \"password\"\n");
    let cluster = Cluster::shared();
    let database = cluster.database("ini_socket");
    let port = process::free_port();
    let ini = place.write(
        "p.ini",
        &format!(
            "[databases]\n{database} = host={} port={}\n[pgbouncer]\nlisten_port = {port}\nunix_socket_dir = {directory}\n\
             unix_socket_mode = 0700\nauth_file = userlist.txt\n",
            cluster.socket_dir().display(),
            cluster.port()
        ),
    );
    let mut command = process::command(binary());
    command.arg(&ini).current_dir(place.path());
    let mut child = process::spawn(command).expect("it starts");
    let socket = place.path().join(format!(".s.PGSQL.{port}"));
    wait_until("the socket is there", || socket.exists());
    let kind = fs::metadata(&socket).expect("the socket");
    assert!(kind.file_type().is_socket());
    assert_eq!(kind.permissions().mode() & 0o777, 0o700);
    assert!(!process::listening(port), "nobody asked for TCP");
    let mut psql = process::command(Path::new("/usr/bin/psql"));
    psql.args([
        "-XAtw",
        "-c",
        "SELECT current_user",
        "-U",
        "username",
        "-d",
        &database,
    ])
    .args(["-h", &directory.to_string(), "-p", &port.to_string()])
    .env("PGPASSWORD", PASSWORD);
    let output = psql.output().expect("psql runs");
    process::signal(child.id(), Signal::SIGQUIT);
    let _ = child.wait();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "username",
        "{output:?}"
    );
}

#[test]
fn check_shows_and_convert_writes_what_an_ini_means() {
    let place = Place::new("ini_program");
    place.write("userlist.txt", "\"u\" \"hunter2\"\n");
    let ini = place.write(
        "p.ini",
        "[databases]\na = host=h user=u password=hunter2\n[pgbouncer]\nauth_file = userlist.txt\n",
    );
    let run = |arguments: &[&str], file: &Path| {
        let mut command = process::command(binary());
        let output = command
            .args(arguments)
            .arg(file)
            .current_dir(place.path())
            .output()
            .expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (fine, shown, _) = run(&["--check"], &ini);
    assert!(
        fine && shown.contains("max_client_connections: 100") && !shown.contains("hunter2"),
        "{shown}"
    );
    let (fine, yaml, _) = run(&["--convert"], &ini);
    assert!(fine && yaml.contains("hunter2"), "{yaml}");
    let converted = place.write("aether.yaml", &yaml);
    assert_eq!(run(&["--check"], &converted).1, shown);
    let broken = place.write("broken.ini", "[pgbouncer]\npool_mode = x\n");
    let (fine, _, said) = run(&["--check"], &broken);
    assert!(
        !fine && said.contains("broken.ini:2: pool_mode: found \"x\""),
        "{said}"
    );
    assert!(
        !run(&["--convert"], &converted).0,
        "there is nothing to convert"
    );
}

#[test]
fn show_config_has_every_option_under_its_own_name() {
    let ini = Ini::start(
        "ini_config",
        "a = {to}",
        "max_client_conn = 77\nunix_socket_mode = 0700\npool_idle_timeout = 7",
    );
    let mut console = ini.login("admin", "pgbouncer");
    let rows: Vec<_> = console
        .run("SHOW CONFIG")
        .iter()
        .filter_map(|message| message.row())
        .collect();
    let of = |key: &str| {
        let found = rows.iter().find(|row| row[0].as_deref() == Some(key));
        let row = found.unwrap_or_else(|| panic!("no {key}"));
        row.iter()
            .map(|cell| cell.clone().unwrap_or_else(|| "NULL".to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of("max_client_conn"),
        ["max_client_conn", "77", "100", "yes"]
    );
    assert_eq!(
        of("unix_socket_mode"),
        ["unix_socket_mode", "448", "511", "no"]
    );
    assert_eq!(
        of("auth_ldap_options"),
        ["auth_ldap_options", "NULL", "NULL", "yes"]
    );
    assert_eq!(
        of("max_db_connections"),
        ["max_db_connections", "0", "0", "yes"]
    );
}
