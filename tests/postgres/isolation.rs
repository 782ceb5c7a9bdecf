//! What one client leaves in a session is invisible to the next one on the same server connection (catalogue R19).
//!
//! Each row of the table is tried three times: a direct connection shows what a session without a past answers, client A what
//! it answers with the state, and client B, who comes after A in a pool of one connection, must answer as the first.

use std::io::Write;

use crate::support::{Cluster, Message, Pooler, Wire, wait_until, wire};

/// What the state that a client leaves costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Nothing: the next client has the same server connection.
    Reused,
    /// The server connection, as SESSION_POOLING.md says.
    Closed,
}
use Then::{Closed, Reused};

/// A kind of state: name, what client A runs, what shows it, what it costs.
type Row = (&'static str, &'static [&'static str], &'static str, Then);

const ROWS: &[Row] = &[
    ("SET", &["SET work_mem = '7MB'"], "SHOW work_mem", Reused),
    (
        "set_config",
        &["SELECT set_config('search_path', 'pg_catalog', false)"],
        "SHOW search_path",
        Reused,
    ),
    (
        "SET of a reported parameter",
        &["SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'"],
        "SELECT '2000-01-02 03:04+00'::timestamptz",
        Reused,
    ),
    (
        "SET client_encoding",
        &["SET client_encoding = 'LATIN1'"],
        "SHOW client_encoding",
        Reused,
    ),
    (
        "SET application_name",
        &["SET application_name = 'mine'"],
        "SHOW application_name",
        Reused,
    ),
    (
        "SET SESSION CHARACTERISTICS",
        &["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE"],
        "SELECT current_setting('transaction_read_only') || current_setting('transaction_isolation')",
        Reused,
    ),
    (
        "SET ROLE",
        &["SET ROLE username"],
        "SELECT current_user",
        Reused,
    ),
    (
        "SET SESSION AUTHORIZATION",
        &["SET SESSION AUTHORIZATION username"],
        "SELECT session_user || current_user",
        Reused,
    ),
    (
        "a temporary table",
        &["CREATE TEMP TABLE left_behind (x int)"],
        "SELECT pg_my_temp_schema()",
        Closed,
    ),
    (
        "a temporary table that hides another",
        &[
            "CREATE TEMPORARY TABLE pg_class (x int)",
            "SET search_path = pg_temp, pg_catalog",
        ],
        "SELECT count(*) > 0 FROM pg_class",
        Closed,
    ),
    (
        "SELECT INTO a temporary table",
        &["SELECT 1 AS x INTO TEMP left_behind"],
        "SELECT x FROM left_behind",
        Closed,
    ),
    (
        "a temporary function",
        &["CREATE FUNCTION pg_temp.left_behind() RETURNS int LANGUAGE sql AS 'SELECT 1'"],
        "SELECT pg_temp.left_behind()",
        Closed,
    ),
    (
        "a prepared statement",
        &["PREPARE left_behind AS SELECT 1"],
        "EXECUTE left_behind",
        Reused,
    ),
    (
        "a session advisory lock",
        &["SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2)"],
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        Reused,
    ),
    (
        "LISTEN",
        &["LISTEN left_behind"],
        "SELECT count(*) FROM pg_listening_channels()",
        Reused,
    ),
    (
        "a cursor WITH HOLD",
        &["DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1"],
        "FETCH left_behind",
        Reused,
    ),
    (
        "a cursor in an open transaction",
        &["BEGIN; DECLARE left_behind CURSOR FOR SELECT 1"],
        "FETCH left_behind",
        Reused,
    ),
    (
        "an open transaction",
        &["BEGIN; INSERT INTO kept VALUES (1)"],
        "SELECT count(*) FROM kept",
        Reused,
    ),
    (
        "a failed transaction",
        &["BEGIN", "SELECT 1/0"],
        "SELECT 1",
        Reused,
    ),
    (
        "SET LOCAL in an open transaction",
        &["BEGIN; SET LOCAL work_mem = '7MB'"],
        "SHOW work_mem",
        Reused,
    ),
    (
        "currval",
        &["SELECT nextval('counter')"],
        "SELECT currval('counter')",
        Reused,
    ),
    (
        "lastval",
        &["SELECT nextval('counter')"],
        "SELECT lastval()",
        Reused,
    ),
    (
        "a large object descriptor",
        &["BEGIN; SELECT lo_open(4711, 131072)"],
        "SELECT lo_tell(0)",
        Reused,
    ),
    (
        "a loaded library",
        &["LOAD 'auto_explain'"],
        "SELECT current_setting('auto_explain.log_min_duration', true)",
        Closed,
    ),
    (
        "a dblink connection",
        &["SELECT dblink_connect('left_behind', connection) FROM myself"],
        "SELECT dblink_get_connections()",
        Closed,
    ),
    (
        "the unnamed dblink connection",
        &["SELECT dblink_connect_u(connection) FROM myself"],
        "SELECT * FROM dblink('SELECT 1') AS (x int)",
        Closed,
    ),
    (
        "a temporary replication slot",
        &["SELECT pg_create_physical_replication_slot('left_behind', false, true)"],
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'left_behind'",
        Closed,
    ),
    (
        "a replication origin",
        &["SELECT pg_replication_origin_session_setup('origin_of_isolation')"],
        "SELECT pg_replication_origin_session_is_setup()",
        Closed,
    ),
];

/// A pool of one connection as superuser.
fn pool_of_one(cluster: &Cluster, database: &str, more: &str) -> Pooler {
    Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\n\
         pool:\n  dsn: \"postgres://postgres@127.0.0.1:{}/{database}\"\n  max_connections: 1\n{more}",
        cluster.port()
    ))
}

fn login(port: u16, database: &str) -> Wire {
    Wire::login(port, "postgres", "", database)
}

fn server_pid(client: &mut Wire) -> Option<String> {
    client.value("SELECT pg_backend_pid()")
}

/// Everything that an answer says: each row or error, and the transaction status at its end.
fn answer(client: &mut Wire, sql: &str) -> String {
    describe(&client.query(sql))
}

fn describe(messages: &[Message]) -> String {
    let mut text = String::new();
    for message in messages {
        match (message.row(), message.error()) {
            (Some(row), _) => text.push_str(&format!("{row:?} ")),
            (_, Some(error)) => {
                text.push_str(&format!("{} {} ", error.sqlstate(), error.message()))
            }
            _ if message.kind == b'Z' => text.push_str(&String::from_utf8_lossy(&message.body)),
            _ => {}
        }
    }
    text
}

/// A database with what the rows need.
fn furnished(cluster: &Cluster, name: &str) -> String {
    let database = cluster.database(name);
    cluster.sql(
        &database,
        &format!(
            "CREATE EXTENSION dblink; CREATE SEQUENCE counter; CREATE TABLE kept (x int); SELECT lo_create(4711); \
             CREATE TABLE myself AS SELECT 'host=127.0.0.1 port={} user=postgres dbname={database}' AS connection; \
             SELECT pg_replication_origin_create('origin_of_isolation') \
             WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'origin_of_isolation')",
            cluster.port()
        ),
    );
    database
}

/// Catalogue R19.
#[test]
fn no_state_of_a_session_is_visible_to_the_next_client() {
    let cluster = Cluster::shared();
    let database = furnished(cluster, "isolation_table");
    let pooler = pool_of_one(cluster, &database, "");
    for (name, leave, probe, then) in ROWS {
        let mut fresh = login(cluster.port(), &database);
        let untouched = answer(&mut fresh, probe);

        let mut a = login(pooler.port(), &database);
        let first = server_pid(&mut a);
        leave.iter().for_each(|sql| drop(a.query(sql)));
        assert_ne!(
            answer(&mut a, probe),
            untouched,
            "{name}: the probe shows nothing"
        );
        a.terminate();

        let mut b = login(pooler.port(), &database);
        let second = server_pid(&mut b);
        assert_eq!(
            second == first,
            *then == Reused,
            "{name}: {first:?}, then {second:?}"
        );
        match then {
            Reused => assert_eq!(answer(&mut b, probe), untouched, "{name}"),
            // The backend of the closed connection may take a moment to go.
            Closed => wait_until(name, || answer(&mut b, probe) == untouched),
        }
        assert_eq!(
            b.parameters, fresh.parameters,
            "{name}: what the welcome reports"
        );
        b.terminate();
    }
}

#[test]
fn protocol_statements_are_gone_named_and_unnamed() {
    let cluster = Cluster::shared();
    let database = cluster.database("isolation_statements");
    let pooler = pool_of_one(cluster, &database, "");
    let mut a = login(pooler.port(), &database);
    let pid = server_pid(&mut a);
    let both = [
        wire::parse("", "SELECT 1"),
        wire::parse("named", "SELECT 2"),
        wire::sync(),
    ];
    a.send(&both.concat());
    assert_eq!(wire::kinds(&a.read_until(b'Z')), "11Z");
    a.terminate();

    let mut b = login(pooler.port(), &database);
    for name in ["named", ""] {
        b.send(
            &[
                wire::bind("", name, &[]),
                wire::execute("", 0),
                wire::sync(),
            ]
            .concat(),
        );
        let answer = b.read_until(b'Z');
        let error = wire::first_error(&answer).expect("a statement of client A's is still there");
        assert_eq!(error.sqlstate(), "26000", "{name:?}");
    }
    assert_eq!(server_pid(&mut b), pid);
}

/// The seed of `random()` survives DISCARD ALL. `SET seed` does what `setseed` does, and was not seen at first.
#[test]
fn the_seed_of_random_is_not_left_to_the_next_client() {
    let cluster = Cluster::shared();
    let database = cluster.database("isolation_seed");
    let mut direct = login(cluster.port(), &database);
    direct.run("SELECT setseed(0.25)");
    let seeded = direct.value("SELECT random()");
    let pooler = pool_of_one(cluster, &database, "");
    for seed in [
        "SELECT setseed(0.25)",
        "SET seed = 0.25",
        "set session Seed to 0.25",
        "SELECT set_config('seed', '0.25', false)",
    ] {
        let mut a = login(pooler.port(), &database);
        a.run(seed);
        a.terminate();
        let mut b = login(pooler.port(), &database);
        assert_ne!(b.value("SELECT random()"), seeded, "{seed}");
        b.terminate();
    }
    // A word of that name alone costs nothing.
    let mut a = login(pooler.port(), &database);
    let pid = server_pid(&mut a);
    a.run("SELECT 1 AS seed");
    a.terminate();
    assert_eq!(server_pid(&mut login(pooler.port(), &database)), pid);
}

/// DISCARD ALL leaves the role `none`, also where the startup packet, ALTER ROLE or ALTER DATABASE say otherwise: the second
/// client of such a startup set was the login role, with other rights than it had asked for.
#[test]
fn a_role_given_at_startup_holds_for_every_client_of_that_set() {
    let cluster = Cluster::shared();
    let database = cluster.database("isolation_startup_role");
    let pooler = pool_of_one(cluster, &database, "");
    let check = |given: (&str, &str)| {
        let mut pids = Vec::new();
        for turn in ["first", "second"] {
            let parameters = [("user", "postgres"), ("database", database.as_str()), given];
            let mut client = Wire::try_login(pooler.port(), &parameters, "").expect("a session");
            let role = client.value("SELECT current_user");
            assert_eq!(
                role.as_deref(),
                Some("username"),
                "{given:?}, the {turn} client"
            );
            pids.push(client.pid);
            client.terminate();
        }
        assert_eq!(pids[0], pids[1], "{given:?}: the connection is kept");
    };
    check(("role", "username"));
    check(("Role", "username"));
    check(("options", "-c role=username"));
    check(("options", "--role=username"));
    cluster.sql(
        &database,
        &format!("ALTER ROLE postgres IN DATABASE {database} SET role = username"),
    );
    check(("application_name", "set by ALTER ROLE"));
}

#[test]
fn a_notification_for_the_last_client_does_not_reach_the_next() {
    let cluster = Cluster::shared();
    let database = cluster.database("isolation_notify");
    let pooler = pool_of_one(cluster, &database, "");
    let mut a = login(pooler.port(), &database);
    let pid = server_pid(&mut a);
    a.run("LISTEN everybody");
    cluster.sql(&database, "NOTIFY everybody, 'for A'");
    a.terminate();
    let mut b = login(pooler.port(), &database);
    cluster.sql(&database, "NOTIFY everybody, 'for nobody'");
    let messages = b.query("SELECT pg_backend_pid()");
    assert_eq!(wire::kinds(&messages), "TDCZ");
    assert_eq!(messages[1].row().unwrap()[0], pid);
}

/// The value is gone; that there was one can be seen, as after RESET in a direct session (SESSION_POOLING.md).
#[test]
fn the_value_of_a_custom_setting_is_gone() {
    let cluster = Cluster::shared();
    let database = cluster.database("isolation_custom");
    let pooler = pool_of_one(cluster, &database, "");
    let mut a = login(pooler.port(), &database);
    let pid = server_pid(&mut a);
    a.run("SET app.tenant = 'A'");
    a.terminate();
    let mut b = login(pooler.port(), &database);
    let tenant = b.value("SELECT current_setting('app.tenant', true)");
    assert_eq!((server_pid(&mut b), tenant.as_deref()), (pid, Some("")));
}

#[test]
fn results_that_a_client_left_unread_are_nobodys() {
    let cluster = Cluster::shared();
    let database = cluster.database("isolation_unread");
    let pooler = pool_of_one(cluster, &database, "");
    let mut a = login(pooler.port(), &database);
    let pid = server_pid(&mut a);
    a.send_message(
        b'Q',
        &wire::terminated("SELECT repeat('A', 500) FROM generate_series(1, 40000)"),
    );
    a.read_until(b'D');
    drop(a);
    let mut b = login(pooler.port(), &database);
    let messages = b.query("SELECT 'B' || pg_backend_pid()");
    assert_eq!(wire::kinds(&messages), "TDCZ");
    assert_eq!(
        messages[1].row().unwrap()[0],
        pid.map(|pid| format!("B{pid}"))
    );
}

/// Catalogue C7, B3: what a client leaves half done costs the connection, and nothing of it is done. A client that had not said
/// goodbye was thought to be owed an answer at first: its server waited for `abandoned_query_timeout`, here without end.
#[test]
fn what_is_left_half_done_costs_the_connection_at_once() {
    let cluster = Cluster::shared();
    let database = cluster.database("isolation_half_done");
    cluster.sql(&database, "CREATE TABLE kept (x int)");
    let pooler = pool_of_one(cluster, &database, "  abandoned_query_timeout: 0\n");
    let copy = wire::message(b'Q', &wire::terminated("COPY kept FROM STDIN"));
    let insert = wire::message(b'Q', &wire::terminated("INSERT INTO kept VALUES (1)"));
    let batch = [
        wire::parse("", "INSERT INTO kept VALUES (2)"),
        wire::bind("", "", &[]),
        wire::execute("", 0),
    ];
    let cases: [(&str, Vec<u8>, &str); 4] = [
        ("a COPY", [copy, wire::message(b'd', b"3\n")].concat(), "G"),
        ("half a message", insert[..insert.len() - 10].to_vec(), ""),
        ("half a header", insert[..3].to_vec(), ""),
        (
            "a batch without Sync",
            [batch.concat(), wire::message(b'H', b"")].concat(),
            "12C",
        ),
    ];
    for (name, bytes, answered) in cases {
        for goodbye in [false, true] {
            let mut a = login(pooler.port(), &database);
            let pid = server_pid(&mut a);
            a.send(&bytes);
            let answer: Vec<Message> = answered.chars().map(|_| a.read_message()).collect();
            assert_eq!(wire::kinds(&answer), answered, "{name}");
            if goodbye {
                a.stream.write_all(b"X\0\0\0\x04").unwrap();
            }
            drop(a);
            let mut b = login(pooler.port(), &database);
            // Of three bytes none has reached the server; with the goodbye behind them they are half a message.
            let same = name == "half a header" && !goodbye;
            assert_eq!(
                server_pid(&mut b) == pid,
                same,
                "{name}, goodbye: {goodbye}"
            );
            assert_eq!(
                b.value("SELECT count(*) FROM kept").as_deref(),
                Some("0"),
                "{name}"
            );
            b.terminate();
        }
    }
}

#[test]
fn without_a_reset_query_only_the_transaction_is_undone() {
    let cluster = Cluster::shared();
    let database = cluster.database("isolation_no_reset");
    let pooler = pool_of_one(cluster, &database, "  reset_query: null\n");
    let mut a = login(pooler.port(), &database);
    let pid = server_pid(&mut a);
    a.run("SET work_mem = '7MB'; PREPARE mine AS SELECT 1");
    a.run("BEGIN; CREATE TABLE undone (x int); SET LOCAL work_mem = '9MB'");
    a.terminate();
    let mut b = login(pooler.port(), &database);
    assert_eq!(server_pid(&mut b), pid);
    assert_eq!(answer(&mut b, "SHOW work_mem"), "[Some(\"7MB\")] I");
    assert_eq!(answer(&mut b, "EXECUTE mine"), "[Some(\"1\")] I");
    assert_eq!(answer(&mut b, "SELECT to_regclass('undone')"), "[None] I");
}

#[test]
fn a_reset_query_of_ones_own_is_run_after_the_rollback() {
    let cluster = Cluster::shared();
    let database = cluster.database("isolation_own_reset");
    cluster.sql(&database, "CREATE TABLE resets (open bool)");
    let query = "INSERT INTO resets SELECT now() <> statement_timestamp(); RESET ALL";
    let pooler = pool_of_one(cluster, &database, &format!("  reset_query: \"{query}\"\n"));
    let mut a = login(pooler.port(), &database);
    let pid = server_pid(&mut a);
    a.run("SET work_mem = '7MB'; PREPARE mine AS SELECT 1");
    a.query("BEGIN; SELECT 1/0");
    a.terminate();
    let mut b = login(pooler.port(), &database);
    assert_eq!(server_pid(&mut b), pid);
    assert_eq!(answer(&mut b, "SHOW work_mem"), "[Some(\"4MB\")] I");
    assert_eq!(answer(&mut b, "EXECUTE mine"), "[Some(\"1\")] I");
    assert_eq!(answer(&mut b, "SELECT open FROM resets"), "[Some(\"f\")] I");
}

#[test]
fn a_reset_query_that_fails_costs_the_connection() {
    let cluster = Cluster::shared();
    let database = cluster.database("isolation_bad_reset");
    for query in [
        "SELECT 1/0",
        "BEGIN",
        "COPY (SELECT 1) TO STDOUT",
        "COPY pg_class FROM STDIN",
    ] {
        let pooler = pool_of_one(cluster, &database, &format!("  reset_query: \"{query}\"\n"));
        let mut a = login(pooler.port(), &database);
        let pid = server_pid(&mut a);
        a.terminate();
        let mut b = login(pooler.port(), &database);
        assert_ne!(server_pid(&mut b), pid, "{query}");
        pooler.wait_for_log("reset query failed");
    }
}
