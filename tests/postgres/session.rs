//! A session through Aether cannot be told from a direct one: pids, startup parameters, and every exchange, reply by reply.

use std::net::Shutdown;
use std::time::Duration;

use crate::support::cluster::{Options, PASSWORD};
use crate::support::wire::{self, first_error, kinds};
use crate::support::{Cluster, Message, Pooler, Wire, wait_until};

/// A pool in front of one database, as its owner.
fn pooler(cluster: &Cluster, database: &str, more: &str) -> Pooler {
    Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nadmin: {{users: [username]}}\n\
         pool:\n  dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/{database}\"\n{more}",
        cluster.port()
    ))
}

fn login(port: u16, database: &str) -> Wire {
    Wire::login(port, "username", PASSWORD, database)
}

fn login_with(port: u16, database: &str, more: &[(&str, &str)]) -> Wire {
    match try_login_with(port, database, more) {
        Ok(wire) => wire,
        Err(error) => panic!("{more:?}: {error:?}"),
    }
}

fn try_login_with(
    port: u16,
    database: &str,
    more: &[(&str, &str)],
) -> Result<Wire, crate::support::ServerError> {
    let own = [("user", "username"), ("database", database)];
    Wire::try_login(port, &[&own, more].concat(), PASSWORD)
}

fn query(sql: &str) -> Vec<u8> {
    wire::message(b'Q', &wire::terminated(sql))
}

// ---- process ids

#[test]
fn the_process_id_that_a_client_is_told_is_its_servers() {
    let cluster = Cluster::shared();
    let database = cluster.database("session_pid");
    let pooler = pooler(cluster, &database, "");
    let mut listener = login(pooler.port(), &database);
    let mut client = login(pooler.port(), &database);
    assert_eq!(
        client.value("SELECT pg_backend_pid()"),
        Some(client.pid.to_string())
    );

    listener.run("LISTEN session_pid");
    client.run("NOTIFY session_pid, 'hello'");
    let notification = listener.read_message();
    assert_eq!(
        notification.kind, b'A',
        "it comes while the listener is idle"
    );
    let expected = [&client.pid.to_be_bytes()[..], b"session_pid\0hello\0"].concat();
    assert_eq!(notification.body, expected);

    client.run("SELECT pg_advisory_lock(7)");
    let holders = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = 7";
    assert_eq!(listener.value(holders), Some(client.pid.to_string()));

    let ended = listener.value(&format!("SELECT pg_terminate_backend({})", client.pid));
    assert_eq!(ended.as_deref(), Some("t"));
    let farewell = client.read_to_end();
    assert_eq!(
        first_error(&farewell).expect("a farewell").sqlstate(),
        "57P01"
    );
    assert_eq!(kinds(&farewell), "E", "the server's word is the last");
    assert_eq!(listener.value("SELECT 1").as_deref(), Some("1"));
}

// ---- startup parameters

/// Settings that a client gives are the defaults of its session, however they are given; reported values are the server's.
#[test]
fn startup_parameters_are_the_defaults_of_the_session() {
    let cluster = Cluster::shared();
    let database = cluster.database("session_startup");
    let pooler = pooler(cluster, &database, "  max_connections: 3\n");
    let given = [
        ("application_name", "Größe"),
        ("client_encoding", "utf-8"),
        ("DateStyle", "german"),
        ("timezone", "asia/tokyo"),
        ("statement_timeout", "61s"),
        ("app.tenant", "one"),
        (
            "options",
            "-c work_mem=5MB -c search_path=\"a\\ b\",public --lock-timeout=62000 -c app.other=two",
        ),
    ];
    let settings = [
        ("application_name", "other"),
        ("client_encoding", "LATIN1"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
        ("statement_timeout", "1min"),
        ("app.tenant", "other"),
        ("work_mem", "9MB"),
        ("search_path", "other"),
        ("lock_timeout", "1min"),
        ("app.other", "other"),
    ];
    let mut direct = login_with(cluster.port(), &database, &given);
    let mut client = login_with(pooler.port(), &database, &given);
    assert_eq!(client.parameters, direct.parameters);
    assert_eq!(client.parameters["client_encoding"], "UTF8");
    for (name, other) in settings {
        let show = format!("SHOW {name}");
        let value = direct.value(&show);
        for back in [
            format!("RESET {name}"),
            "RESET ALL".to_owned(),
            "DISCARD ALL".to_owned(),
        ] {
            client.run(&format!("SELECT set_config('{name}', '{other}', false)"));
            assert_eq!(client.value(&show).as_deref(), Some(other));
            client.run(&back);
            assert_eq!(client.value(&show), value, "{name} after {back}");
        }
    }
    assert_eq!(client.value("SHOW work_mem").as_deref(), Some("5MB"));
    assert_eq!(client.value("SHOW app.tenant").as_deref(), Some("one"));
    client.terminate();
    let mut next = login_with(pooler.port(), &database, &given);
    for (name, _) in settings {
        let show = format!("SHOW {name}");
        assert_eq!(
            next.value(&show),
            direct.value(&show),
            "{name}, for the next client"
        );
    }
}

#[test]
fn a_bad_startup_parameter_is_refused_in_postgresqls_words() {
    let cluster = Cluster::shared();
    let database = cluster.database("session_bad_startup");
    let pooler = pooler(cluster, &database, "");
    let cases = [
        ("no_such_setting", "1", "42704"),
        ("work_mem", "lots", "22023"),
        ("options", "-c no_such_setting=1", "42704"),
        ("options", "--bogus", "42601"),
        ("shared_buffers", "1GB", "55P02"),
        ("client_encoding", "klingon", "22023"),
        ("replication", "perhaps", "22023"),
        // Not the same as user and database: PostgreSQL takes them for settings.
        ("User", "postgres", "42704"),
        ("DATABASE", "postgres", "42704"),
        ("Replication", "true", "42704"),
        ("OPTIONS", "-c work_mem=5MB", "42704"),
    ];
    for (name, value, sqlstate) in cases {
        let refused = |port| match try_login_with(port, &database, &[(name, value)]) {
            Ok(_) => panic!("{name}={value} was taken"),
            Err(error) => error,
        };
        let (direct, pooled) = (refused(cluster.port()), refused(pooler.port()));
        assert_eq!(pooled.sqlstate(), sqlstate, "{name}={value}: {pooled:?}");
        for field in [b'S', b'V', b'C', b'M', b'D', b'H'] {
            assert_eq!(pooled.field(field), direct.field(field), "{name}={value}");
        }
    }
    assert_eq!(
        login(pooler.port(), &database).value("SELECT 1").as_deref(),
        Some("1")
    );
}

/// With a server that trusts its pooler, a parameter called `User` was a way to be any role.
#[test]
fn no_startup_parameter_changes_who_logs_in() {
    let cluster = Cluster::shared();
    let database = cluster.database("session_escalation");
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\n\
         pool: {{backend: {{host: \"{}\", port: {}, database: {database}}}}}\n",
        cluster.socket_dir().display(),
        cluster.port()
    ));
    for name in ["User", "USER", "usEr"] {
        let parameters = [
            ("user", "username"),
            ("database", database.as_str()),
            (name, "postgres"),
        ];
        if let Ok(mut client) = Wire::try_login(pooler.port(), &parameters, "") {
            assert_eq!(
                client.value("SELECT current_user").as_deref(),
                Some("username"),
                "{name}"
            );
        }
    }
    // Of two equal names the last counts, as in PostgreSQL.
    let twice = [
        ("user", "postgres"),
        ("user", "username"),
        ("database", database.as_str()),
    ];
    let mut client = Wire::try_login(pooler.port(), &twice, "").expect("a session");
    assert_eq!(
        client.value("SELECT session_user").as_deref(),
        Some("username")
    );
}

#[test]
fn the_last_of_two_equal_parameters_counts() {
    let cluster = Cluster::shared();
    let database = cluster.database("session_twice");
    let pooler = pooler(cluster, &database, "");
    let twice = [
        ("work_mem", "5MB"),
        ("Work_Mem", "6MB"),
        ("options", "-c lock_timeout=5s"),
        ("options", "-c idle_session_timeout=7min"),
    ];
    for show in [
        "SHOW work_mem",
        "SHOW lock_timeout",
        "SHOW idle_session_timeout",
    ] {
        let mut direct = login_with(cluster.port(), &database, &twice);
        let mut client = login_with(pooler.port(), &database, &twice);
        assert_eq!(client.value(show), direct.value(show), "{show}");
    }
}

// ---- startup sets

#[test]
fn a_server_only_serves_the_startup_set_it_was_started_with() {
    let cluster = Cluster::shared();
    let database = cluster.database("session_sets");
    let pooler = pooler(cluster, &database, "  max_connections: 2\n");
    let mut console = Wire::login(pooler.port(), "username", PASSWORD, "aether");
    // A server whose reset is not over is not there yet.
    let both_idle = |console: &mut Wire| {
        wait_until("both servers are idle", || {
            shown(console, &database, "sv_idle") == "2"
        });
    };
    let (one, two) = ([("work_mem", "5MB")], [("work_mem", "6MB")]);
    let a = login_with(pooler.port(), &database, &one);
    let b = login_with(pooler.port(), &database, &two);
    let pids = (a.pid, b.pid);
    a.terminate();
    b.terminate();
    for _ in 0..3 {
        both_idle(&mut console);
        let mut b = login_with(pooler.port(), &database, &two);
        let mut a = login_with(pooler.port(), &database, &one);
        assert_eq!((a.pid, b.pid), pids);
        assert_eq!(a.value("SHOW work_mem").as_deref(), Some("5MB"));
        assert_eq!(b.value("SHOW work_mem").as_deref(), Some("6MB"));
        b.terminate();
        wait_until("the first is idle", || {
            shown(&mut console, &database, "sv_idle") == "1"
        });
        a.terminate();
    }
    both_idle(&mut console);
    // A third set finds the pool full of idle servers of others: that of the set asked for the longest ago makes room.
    let c = login_with(pooler.port(), &database, &[("work_mem", "7MB")]);
    assert!(c.pid != pids.0 && c.pid != pids.1);
    c.terminate();
    both_idle(&mut console);
    assert_eq!(login_with(pooler.port(), &database, &one).pid, pids.0);
    assert_ne!(login_with(pooler.port(), &database, &two).pid, pids.1);
}

/// A number of SHOW POOLS.
fn shown(console: &mut Wire, pool: &str, name: &str) -> String {
    let answer = console.run("SHOW POOLS");
    let column = column(&answer, name);
    let mut rows = answer
        .iter()
        .filter_map(Message::row)
        .filter(|row| row[0].as_deref() == Some(pool));
    rows.next()
        .and_then(|row| row[column].clone())
        .unwrap_or_default()
}

/// The place of a column in a RowDescription.
fn column(answer: &[Message], name: &str) -> usize {
    let body = &answer[0].body;
    let (mut rest, mut place) = (&body[2..], 0);
    loop {
        let end = rest
            .iter()
            .position(|&byte| byte == 0)
            .expect("a column of that name");
        if &rest[..end] == name.as_bytes() {
            return place;
        }
        rest = &rest[end + 19..];
        place += 1;
    }
}

/// Sends a startup packet to a pool that has no server free, and returns when the client is in the queue.
fn queue(
    pooler: &Pooler,
    console: &mut Wire,
    database: &str,
    work_mem: &str,
    place: usize,
) -> Wire {
    let mut client = Wire::connect(pooler.port());
    client.startup(&[
        ("user", "username"),
        ("database", database),
        ("work_mem", work_mem),
    ]);
    wait_until("the client is in the queue", || {
        shown(console, database, "cl_waiting") == place.to_string()
    });
    client
}

#[test]
fn the_oldest_waiter_comes_first_whatever_its_startup_set() {
    let cluster = Cluster::shared();
    let database = cluster.database("session_oldest");
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust, allow_insecure: true}}\nadmin: {{users: [username]}}\n\
         pool:\n  dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/{database}\"\n  max_connections: 1\n",
        cluster.port()
    ));
    let mut console = Wire::login(pooler.port(), "username", "", "aether");
    let holder = login_with(pooler.port(), &database, &[("work_mem", "5MB")]);
    let pid = holder.pid;
    let mut clients: Vec<Wire> = ["6MB", "5MB", "6MB"]
        .iter()
        .enumerate()
        .map(|(place, set)| queue(&pooler, &mut console, &database, set, place + 1))
        .collect();
    holder.terminate();
    for left in (0..3).rev() {
        let mut client = clients.remove(0);
        client.read_until(b'Z');
        assert_ne!(
            client.pid, pid,
            "its set is another than that of the one before it"
        );
        assert_eq!(
            shown(&mut console, &database, "cl_waiting"),
            left.to_string()
        );
        for other in &clients {
            other.stream.set_nonblocking(true).unwrap();
            let nothing = other
                .stream
                .peek(&mut [0])
                .expect_err("a later client was served");
            assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
            other.stream.set_nonblocking(false).unwrap();
        }
        client.terminate();
    }
}

#[test]
fn at_most_eight_startup_sets_are_kept_idle() {
    let cluster = Cluster::shared();
    let database = cluster.database("session_eight");
    let pooler = pooler(cluster, &database, "  max_connections: 20\n");
    let set = |number: usize| format!("{number}MB");
    let mut pids = Vec::new();
    for number in 1..=11 {
        let client = login_with(pooler.port(), &database, &[("work_mem", &set(number))]);
        pids.push(client.pid.to_string());
        client.terminate();
    }
    let backends = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' ORDER BY backend_start"
    );
    wait_until("eight are left, of the sets asked for last", || {
        let left = cluster.sql("postgres", &backends);
        left.lines().eq(pids[3..].iter().map(String::as_str))
    });
}

// ---- exchanges, compared with a direct connection

/// What a script does next.
enum Do {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Reads up to so many ReadyForQuery.
    Ready(usize),
    /// Reads so many messages.
    Read(usize),
    /// Closes the client's side of the connection, and reads to the end of the other.
    HalfClose,
    /// Reads until the server closes.
    End,
}
use Do::{End, HalfClose, Read, Ready, Send};

/// All that came, as kind and body; pids that differ by nature are blanked.
fn play(client: &mut Wire, script: &[Do]) -> Vec<Message> {
    let mut all = Vec::new();
    for step in script {
        match step {
            Send(bytes) => client.send(bytes),
            Ready(count) => (0..*count).for_each(|_| all.extend(client.read_until(b'Z'))),
            Read(count) => all.extend((0..*count).map(|_| client.read_message())),
            HalfClose => {
                client.stream.shutdown(Shutdown::Write).expect("it is open");
                all.extend(client.read_to_end());
            }
            End => all.extend(client.read_to_end()),
        }
    }
    let own = client.pid.to_be_bytes();
    for message in &mut all {
        if message.kind == b'A' && message.body.starts_with(&own) {
            message.body[..4].fill(0);
        }
    }
    all
}

fn function_call(oid: u32, arguments: &[&[u8]]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend([0, 1, 0, 1]); // one format for all: binary
    body.extend(u16::try_from(arguments.len()).expect("few").to_be_bytes());
    for argument in arguments {
        body.extend(u32::try_from(argument.len()).expect("short").to_be_bytes());
        body.extend(*argument);
    }
    body.extend([0, 1]); // result: binary
    wire::message(b'F', &body)
}

fn int(value: i32) -> [u8; 4] {
    value.to_be_bytes()
}

fn copy_data(text: &str) -> Vec<u8> {
    wire::message(b'd', text.as_bytes())
}

/// Parse, Bind and Execute of an unnamed statement, without Sync.
fn batch(sql: &str, values: &[&str]) -> Vec<u8> {
    [
        wire::parse("", sql),
        wire::bind("", "", values),
        wire::execute("", 0),
    ]
    .concat()
}

fn scripts() -> Vec<(&'static str, Vec<Do>)> {
    let copy_done = || wire::message(b'c', b"");
    let flush = || wire::message(b'H', b"");
    vec![
        (
            "a query",
            vec![Send(query("SELECT 1 AS one, NULL, 'zwei'")), Ready(1)],
        ),
        (
            "an empty query",
            vec![
                Send([query(""), query(" ;; -- nothing")].concat()),
                Ready(2),
            ],
        ),
        (
            "several statements in one query",
            vec![
                Send(query(
                    "INSERT INTO kept VALUES (1); SELECT * FROM kept; ; DELETE FROM kept RETURNING x",
                )),
                Ready(1),
            ],
        ),
        (
            "an error undoes the statements before it in the query",
            vec![
                Send(query("INSERT INTO kept VALUES (2); SELECT 1/0; SELECT 3")),
                Ready(1),
                Send(query("SELECT count(*) FROM kept")),
                Ready(1),
            ],
        ),
        (
            "a failed block",
            vec![
                Send(
                    [
                        query("BEGIN"),
                        query("SELECT no"),
                        query("SELECT 1"),
                        query("COMMIT"),
                    ]
                    .concat(),
                ),
                Ready(4),
            ],
        ),
        (
            "notices, warnings and reports",
            vec![
                Send(query(
                    "DO $$BEGIN RAISE NOTICE 'ahoi'; RAISE WARNING 'w' USING HINT = 'h'; END$$",
                )),
                Send(query(
                    "COMMIT; SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'sql'; SET client_min_messages = error",
                )),
                Send(query("DISCARD ALL")),
                Ready(3),
            ],
        ),
        (
            "notifications to oneself",
            vec![
                Send(query("LISTEN here; NOTIFY here, 'in one query'")),
                Send(query("NOTIFY here")),
                Send(query("SELECT 1")),
                Ready(3),
            ],
        ),
        (
            "the extended protocol",
            vec![
                Send(
                    [
                        wire::parse("s", "SELECT $1::int + 1 AS more"),
                        wire::describe(b'S', "s"),
                        wire::bind("p", "s", &["41"]),
                        wire::describe(b'P', "p"),
                        wire::execute("p", 0),
                        wire::close(b'P', "p"),
                        wire::close(b'S', "no such statement"),
                        wire::sync(),
                        wire::parse("s", "SELECT 1"),
                        wire::sync(),
                        wire::bind("", "nowhere", &[]),
                        wire::sync(),
                        wire::execute("nowhere", 0),
                        wire::sync(),
                    ]
                    .concat(),
                ),
                Ready(4),
                Send(
                    [
                        query("EXECUTE s(1)"),
                        query("DEALLOCATE s"),
                        query("EXECUTE s(1)"),
                    ]
                    .concat(),
                ),
                Ready(3),
            ],
        ),
        (
            "a portal with a row limit",
            vec![
                Send(query("BEGIN")),
                Ready(1),
                Send(
                    [
                        wire::parse("", "SELECT generate_series(1, 5)"),
                        wire::bind("p", "", &[]),
                        wire::execute("p", 2),
                        wire::execute("p", 2),
                        wire::sync(),
                        wire::execute("p", 1),
                        wire::execute("p", 1),
                        flush(),
                    ]
                    .concat(),
                ),
                Ready(1),
                Read(3), // the last row and both ends
                Send([wire::execute("p", 0), wire::sync(), query("COMMIT")].concat()),
                Ready(2),
                // Outside of a block the Sync ends the portal.
                Send(
                    [
                        batch("SELECT 1", &[]),
                        wire::sync(),
                        wire::execute("", 0),
                        wire::sync(),
                    ]
                    .concat(),
                ),
                Ready(2),
            ],
        ),
        (
            "an empty statement, and one without result",
            vec![
                Send(
                    [
                        batch("", &[]),
                        wire::describe(b'S', ""),
                        wire::describe(b'P', ""),
                        wire::sync(),
                    ]
                    .concat(),
                ),
                Send(
                    [
                        wire::parse("", "SET work_mem = '5MB'"),
                        wire::describe(b'S', ""),
                        wire::sync(),
                    ]
                    .concat(),
                ),
                Ready(2),
            ],
        ),
        (
            "Flush without Sync",
            vec![
                Send([wire::parse("", "SELECT 7"), flush()].concat()),
                Read(1),
                Send([wire::bind("", "", &[]), wire::execute("", 0), flush()].concat()),
                Read(3),
                Send(wire::sync()),
                Ready(1),
            ],
        ),
        (
            "an error in a pipeline skips to the next Sync",
            vec![
                Send(
                    [
                        batch("INSERT INTO kept VALUES (3)", &[]),
                        batch("SELECT 1/$1::int", &["0"]),
                        batch("SELECT 'never'", &[]),
                        wire::sync(),
                        batch("SELECT 'next'", &[]),
                        batch("SELECT count(*) FROM kept", &[]),
                        wire::sync(),
                    ]
                    .concat(),
                ),
                Ready(2),
            ],
        ),
        (
            // Catalogue B5.
            "an error skips Query and FunctionCall as well",
            vec![
                Send(
                    [
                        batch("SELECT 1/$1::int", &["0"]),
                        query("SELECT 'skipped'"),
                        function_call(31, &[]),
                        query("SELECT 'skipped too'"),
                        wire::sync(),
                        query("SELECT 'answered'"),
                    ]
                    .concat(),
                ),
                Ready(2),
            ],
        ),
        (
            "a Query in the middle of a batch",
            vec![
                Send(
                    [
                        batch("SELECT 1", &[]),
                        query("SELECT 2"),
                        batch("SELECT 3", &[]),
                        wire::sync(),
                    ]
                    .concat(),
                ),
                Ready(2),
            ],
        ),
        (
            "a constraint that fails at Sync",
            vec![
                Send(
                    [
                        batch("INSERT INTO deferred VALUES (1), (1)", &[]),
                        wire::sync(),
                        query("SELECT 1"),
                    ]
                    .concat(),
                ),
                Ready(2),
            ],
        ),
        (
            "COPY out and in",
            vec![
                Send(query(
                    "COPY (SELECT g, 'x' FROM generate_series(1, 3) g) TO STDOUT",
                )),
                Send(query("COPY kept FROM STDIN")),
                Ready(1),
                Read(1),
                Send([copy_data("1\n2"), copy_data("\n3\n"), copy_done()].concat()),
                Ready(1),
                Send(query("COPY kept TO STDOUT; DELETE FROM kept; SELECT 1")),
                Ready(1),
            ],
        ),
        (
            "COPY in, everything sent ahead",
            vec![
                Send(
                    [
                        query("COPY kept FROM STDIN"),
                        copy_data("1\n"),
                        copy_done(),
                        query("DELETE FROM kept"),
                    ]
                    .concat(),
                ),
                Ready(2),
            ],
        ),
        (
            "COPY in that the client gives up",
            vec![
                Send(query("COPY kept FROM STDIN")),
                Read(1),
                Send([copy_data("1\n"), wire::message(b'f', b"enough\0")].concat()),
                Ready(1),
                Send(query("SELECT count(*) FROM kept")),
                Ready(1),
            ],
        ),
        (
            // Catalogue B10.
            "COPY in that fails, and the data that comes late",
            vec![
                Send(query("COPY kept FROM STDIN")),
                Read(1),
                Send([copy_data("not a number\n"), copy_done()].concat()),
                Ready(1),
                Send(
                    [
                        copy_data("4\n"),
                        copy_data("5\n"),
                        copy_done(),
                        query("SELECT count(*) FROM kept"),
                    ]
                    .concat(),
                ),
                Ready(1),
            ],
        ),
        (
            "a COPY that is refused, its data sent ahead",
            vec![
                Send(
                    [
                        query("COPY nowhere FROM STDIN"),
                        copy_data("1\n"),
                        copy_done(),
                        query("SELECT 1"),
                    ]
                    .concat(),
                ),
                Ready(2),
            ],
        ),
        (
            "COPY in by the extended protocol",
            vec![
                Send([batch("COPY kept FROM STDIN", &[]), wire::sync()].concat()),
                Read(3),
                Send([copy_data("1\n"), copy_done(), wire::sync()].concat()),
                Ready(1),
                Send([batch("COPY kept FROM STDIN", &[]), wire::sync()].concat()),
                Read(3),
                Send(
                    [
                        copy_data("no\n"),
                        copy_done(),
                        wire::sync(),
                        query("DELETE FROM kept"),
                    ]
                    .concat(),
                ),
                Ready(2),
            ],
        ),
        (
            "two copies in one query",
            vec![
                Send(query(
                    "COPY kept FROM STDIN; COPY kept FROM STDIN; COPY kept TO STDOUT; DELETE FROM kept",
                )),
                Read(1),
                Send([copy_data("1\n"), copy_done()].concat()),
                Read(2),
                Send([copy_data("2\n"), copy_done()].concat()),
                Ready(1),
            ],
        ),
        (
            "a message that does not belong into a COPY",
            vec![
                Send(query("COPY kept FROM STDIN")),
                Read(1),
                Send(query("SELECT 1")),
                End,
            ],
        ),
        (
            "large objects by FunctionCall",
            vec![
                Send(query("BEGIN")),
                Send(function_call(715, &[&int(777_001)])), // lo_create
                Send(function_call(952, &[&int(777_001), &int(0x6_0000)])), // lo_open
                Send(function_call(955, &[&int(0), b"some bytes"])), // lowrite
                Send(function_call(956, &[&int(0), &int(5), &int(0)])), // lo_lseek
                Send(function_call(954, &[&int(0), &int(100)])), // loread
                Send(function_call(954, &[&int(9), &int(100)])), // no such descriptor
                Send(query("ROLLBACK")),
                Send(function_call(1, &[])), // no such function
                Ready(9),
            ],
        ),
        (
            "two-phase commit",
            vec![
                Send(query(
                    "BEGIN; INSERT INTO kept VALUES (9); PREPARE TRANSACTION 'session_2pc'",
                )),
                Send(query(
                    "SELECT gid, owner FROM pg_prepared_xacts; COMMIT PREPARED 'session_2pc'",
                )),
                Send(query("COMMIT PREPARED 'session_2pc'")),
                Send(query("DELETE FROM kept RETURNING x")),
                Ready(4),
            ],
        ),
        (
            "a cursor WITH HOLD",
            vec![
                Send(query(
                    "DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 9); FETCH 2 FROM c",
                )),
                Send(query("FETCH 3 FROM c; CLOSE c")),
                Ready(2),
            ],
        ),
        (
            "statements that do not run in a block",
            vec![
                Send(
                    [
                        query("VACUUM kept"),
                        query("VACUUM kept; SELECT 1"),
                        query("BEGIN; DISCARD ALL"),
                    ]
                    .concat(),
                ),
                Ready(3),
            ],
        ),
        (
            "a large row, a large query",
            vec![
                Send(query("SELECT repeat('abc', 300000), repeat('d', 65536)")),
                Send(query(&format!("SELECT length('{}')", "e".repeat(200_000)))),
                Ready(2),
            ],
        ),
        (
            "many queries sent at once",
            vec![
                Send(
                    (0..500)
                        .flat_map(|n| query(&format!("SELECT {n}")))
                        .collect(),
                ),
                Ready(500),
            ],
        ),
        (
            "an error that ends the session",
            vec![
                Send(query("SELECT pg_terminate_backend(pg_backend_pid())")),
                End,
            ],
        ),
        (
            "a half-closed connection gets what it is owed",
            vec![
                Send([query("SELECT pg_sleep(0.05)"), query("SELECT 2")].concat()),
                HalfClose,
            ],
        ),
        (
            "a half-closed connection with half a message",
            vec![
                Send([query("SELECT 1"), query("SELECT 2")[..9].to_vec()].concat()),
                HalfClose,
            ],
        ),
        (
            "a half-closed connection with half a batch",
            vec![Send([batch("SELECT 1", &[]), flush()].concat()), HalfClose],
        ),
        (
            "a half-closed COPY",
            vec![
                Send([query("COPY kept FROM STDIN"), copy_data("1\n")].concat()),
                HalfClose,
            ],
        ),
    ]
}

#[test]
fn every_exchange_is_answered_byte_by_byte_as_by_the_server_itself() {
    let options = Options {
        conf: vec!["max_prepared_transactions = 5".to_owned()],
        ..Options::default()
    };
    let cluster = Cluster::start_with(&options);
    let database = cluster.database("session_exchanges");
    cluster.sql(
        &database,
        "SET ROLE username; CREATE TABLE kept (x int); CREATE TABLE deferred (x int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
    );
    let pooler = pooler(&cluster, &database, "");
    for (name, script) in scripts() {
        let direct = play(&mut login(cluster.port(), &database), &script);
        let pooled = play(&mut login(pooler.port(), &database), &script);
        assert_eq!(kinds(&pooled), kinds(&direct), "{name}: {pooled:?}");
        for (ours, theirs) in pooled.iter().zip(&direct) {
            assert_eq!(ours, theirs, "{name}");
        }
        let kept = cluster.sql(&database, "SELECT count(*) FROM kept");
        assert_eq!(kept, "0", "{name}");
    }
}

#[test]
fn the_welcome_is_the_servers() {
    let cluster = Cluster::shared();
    let database = cluster.database("session_welcome");
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\n\
         pool: {{dsn: \"postgres://postgres@127.0.0.1:{}/{database}\"}}\n",
        cluster.port()
    ));
    cluster.sql(
        &database,
        &format!("ALTER DATABASE {database} SET search_path = 'x', \"Y y\""),
    );
    let welcome = |port| {
        let mut client = Wire::connect(port);
        client.startup(&[("user", "postgres"), ("database", &database)]);
        let mut messages = client.read_until(b'Z');
        for message in messages.iter_mut().filter(|message| message.kind == b'K') {
            assert_eq!(message.body.len(), 8);
            message.body.clear(); // pid and key
        }
        messages
    };
    let direct = welcome(cluster.port());
    for turn in 0..2 {
        assert_eq!(welcome(pooler.port()), direct, "client {turn}");
    }
}

// ---- server_assignment: first_query

#[test]
fn with_first_query_a_client_costs_no_server_until_it_asks() {
    let cluster = Cluster::shared();
    let database = cluster.database("session_frugal");
    let pooler = pooler(
        cluster,
        &database,
        "  server_assignment: first_query\n  max_connections: 1\n",
    );
    let backends = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'");

    let direct = login(cluster.port(), &database);
    let mut first = login(pooler.port(), &database);
    assert_eq!(
        first.parameters, direct.parameters,
        "the first, who was told by a server"
    );
    direct.terminate();
    cluster.sql(
        "postgres",
        &format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        ),
    );
    wait_until("no server is left", || {
        cluster.sql("postgres", &backends) == "0"
    });
    let mut clients: Vec<Wire> = (0..20).map(|_| login(pooler.port(), &database)).collect();
    assert!(
        clients
            .iter()
            .all(|client| client.parameters == first.parameters)
    );
    assert_eq!(
        cluster.sql("postgres", &backends),
        "0",
        "the welcome is remembered"
    );

    let pid = first.value("SELECT pg_backend_pid()");
    assert_ne!(
        pid,
        Some(first.pid.to_string()),
        "the pid that it was told is Aether's own"
    );
    assert_eq!(
        first.value("SELECT pg_backend_pid()"),
        pid,
        "it keeps its server"
    );
    let mut second = clients.remove(0);
    second.send(&query("SELECT pg_backend_pid()"));
    second
        .stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(
        second.try_read_message().is_err(),
        "there is one server, and the first client holds it"
    );
    second
        .stream
        .set_read_timeout(Some(crate::support::PATIENCE))
        .unwrap();

    // The pid of Aether's own is good for a cancel.
    first.send(&query("SELECT pg_sleep(15)"));
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
    );
    wait_until("the query runs", || {
        cluster.sql("postgres", &running) == "1"
    });
    first.cancel();
    assert_eq!(
        first_error(&first.read_until(b'Z'))
            .expect("an error")
            .sqlstate(),
        "57014"
    );
    first.terminate();
    let answer = second.read_until(b'Z');
    assert_eq!(
        answer[1].row().unwrap()[0],
        pid,
        "the next one has the same server"
    );
    assert_eq!(kinds(&answer), "TDCZ");
}

#[test]
fn with_first_query_startup_parameters_hold_and_bad_ones_are_refused_at_login() {
    let cluster = Cluster::shared();
    let database = cluster.database("session_frugal_startup");
    let pooler = pooler(cluster, &database, "  server_assignment: first_query\n");
    for _ in 0..2 {
        let error = try_login_with(pooler.port(), &database, &[("no_such_setting", "1")]).err();
        assert_eq!(error.expect("a refusal").sqlstate(), "42704");
        let mut client = login_with(
            pooler.port(),
            &database,
            &[("timezone", "asia/tokyo"), ("work_mem", "5MB")],
        );
        assert_eq!(client.parameters["TimeZone"], "Asia/Tokyo");
        client.run("SET work_mem = '6MB'; RESET ALL");
        assert_eq!(client.value("SHOW work_mem").as_deref(), Some("5MB"));
        client.terminate();
    }
}

/// A goodbye right behind a query: PostgreSQL answers the query, and closes then.
#[test]
fn what_was_asked_before_the_goodbye_is_answered() {
    let cluster = Cluster::shared();
    let pooler = Pooler::start(&crate::support::scene::yaml(
        &crate::support::scene::tcp(cluster, "database"),
        "",
        "",
    ));
    for port in [cluster.port(), pooler.port()] {
        let mut client = Wire::login(port, "username", PASSWORD, "database");
        let query = wire::message(b'Q', &wire::terminated("SELECT 1 FROM pg_sleep(0.1)"));
        client.send(&[query, wire::message(b'X', b"")].concat());
        assert_eq!(wire::kinds(&client.read_to_end()), "TDCZ");
    }
}
