//! What SQL state a client of transaction mode can rely on: each row of the table in TRANSACTION_POOLING.md, against the
//! real server. The table and [`ROWS`] are held together by name and verdict.

use crate::support::cluster::{self, PASSWORD};
use crate::support::scene::{self, tcp};
use crate::support::{Cluster, Message, Pooler, Scene, Wire, wait_until, wire};

/// What becomes of a state when the transaction is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is the client's on whatever server comes, and nobody else's.
    Follows,
    /// It ends with the transaction, as on a connection of one's own.
    Ends,
    /// Aether takes it away before anybody gets the server.
    Undone,
    /// The server connection is closed: nobody meets it.
    Closed,
    /// It stays on that server, where anybody may meet it.
    Stays,
}
use Verdict::{Closed, Ends, Follows, Stays, Undone};

/// How it is shown.
enum Shown {
    /// Each: what leaves the state in a transaction, and what answers differently with it than in a session without a past.
    By(&'static [(&'static str, &'static str)]),
    /// In some way of its own.
    So(fn(&mut Pool)),
}
use Shown::{By, So};

/// As the table calls it; its verdict; how it is shown.
type Row = (&'static str, Verdict, Shown);

const ROWS: &[Row] = &[
    (
        "`SET` of a setting that the server reports",
        Follows,
        By(&[
            ("SET TimeZone = 'Asia/Tokyo'", "SHOW TimeZone"),
            (
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                "SHOW default_transaction_read_only",
            ),
            (
                "SET DateStyle = 'SQL, DMY'",
                "SELECT '2000-01-02 03:04+00'::timestamptz",
            ),
            (
                "SELECT set_config('application_name', 'mine', false)",
                "SHOW application_name",
            ),
            ("SET client_encoding = 'LATIN1'", "SHOW client_encoding"),
            (
                "SET IntervalStyle = 'iso_8601'",
                "SELECT interval '1 day 2 hours'",
            ),
        ]),
    ),
    (
        "`SET` of any other setting",
        Undone,
        By(&[
            ("SET statement_timeout = '5min'", "SHOW statement_timeout"),
            (
                "SELECT set_config('work_mem', '7MB', false)",
                "SHOW work_mem",
            ),
            ("DO $$ BEGIN SET work_mem = '7MB'; END $$", "SHOW work_mem"),
            (
                "SET app.tenant = '7'",
                "SELECT coalesce(current_setting('app.tenant', true), '')",
            ),
            (
                "SET SESSION CHARACTERISTICS AS TRANSACTION DEFERRABLE",
                "SHOW default_transaction_deferrable",
            ),
        ]),
    ),
    (
        "`SET LOCAL`, `SET TRANSACTION`",
        Ends,
        By(&[
            ("SET LOCAL work_mem = '7MB'", "SHOW work_mem"),
            (
                "SELECT set_config('work_mem', '7MB', true)",
                "SHOW work_mem",
            ),
            ("SET TRANSACTION READ ONLY", "SHOW transaction_read_only"),
        ]),
    ),
    (
        "startup parameters that the server reports",
        Follows,
        So(reported_startup_parameters),
    ),
    (
        "other startup parameters",
        Follows,
        So(other_startup_parameters),
    ),
    (
        "`SET ROLE`, `SET SESSION AUTHORIZATION`",
        Undone,
        By(&[
            ("SET ROLE clear_user", "SELECT current_user"),
            (
                "SET SESSION AUTHORIZATION clear_user",
                "SELECT session_user",
            ),
            (
                "SELECT set_config('role', 'clear_user', false)",
                "SELECT current_user",
            ),
        ]),
    ),
    (
        "`session_user`, `current_user`",
        Follows,
        So(the_pools_role),
    ),
    ("`pg_backend_pid()`", Ends, So(process_ids)),
    (
        "named prepared statements of the protocol",
        Follows,
        So(named_statements),
    ),
    (
        "the unnamed statement of the protocol",
        Follows,
        So(the_unnamed_statement),
    ),
    (
        "`DEALLOCATE`, `DISCARD ALL` of the protocol's statements",
        Follows,
        So(statements_that_are_deallocated),
    ),
    ("portals of the protocol", Ends, So(portals)),
    (
        "SQL's `PREPARE`",
        Undone,
        By(&[("PREPARE left_behind AS SELECT 7", "EXECUTE left_behind")]),
    ),
    (
        "`pg_prepared_statements`",
        Stays,
        So(the_view_of_statements),
    ),
    (
        "temporary tables, views, functions",
        Undone,
        By(&[
            (
                "CREATE TEMP TABLE left_behind AS SELECT 7 AS x",
                "SELECT x FROM left_behind",
            ),
            (
                "SELECT 7 AS x INTO TEMPORARY left_behind",
                "SELECT x FROM left_behind",
            ),
            (
                "CREATE FUNCTION pg_temp.left_behind() RETURNS int LANGUAGE sql AS 'SELECT 7'",
                "SELECT count(*) FROM pg_proc WHERE proname = 'left_behind'",
            ),
        ]),
    ),
    (
        "temporary tables `ON COMMIT DROP`",
        Ends,
        By(&[(
            "CREATE TEMP TABLE left_behind ON COMMIT DROP AS SELECT 7 AS x",
            "SELECT x FROM left_behind",
        )]),
    ),
    (
        "cursors",
        Ends,
        By(&[(
            "DECLARE left_behind CURSOR FOR SELECT 7",
            "FETCH left_behind",
        )]),
    ),
    (
        "cursors `WITH HOLD`",
        Undone,
        By(&[(
            "DECLARE left_behind SCROLL CURSOR WITH HOLD FOR SELECT 7",
            "FETCH FIRST FROM left_behind",
        )]),
    ),
    ("`LISTEN`", Undone, So(listening)),
    (
        "session advisory locks",
        Undone,
        By(&[
            (
                "SELECT pg_advisory_lock(7)",
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
            ),
            (
                "SELECT pg_try_advisory_lock_shared(7)",
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
            ),
        ]),
    ),
    (
        "`pg_advisory_xact_lock`, row and table locks",
        Ends,
        By(&[
            (
                "SELECT pg_advisory_xact_lock(7)",
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
            ),
            (
                "LOCK TABLE kept IN SHARE MODE",
                "SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND relation = 'kept'::regclass",
            ),
        ]),
    ),
    ("`SAVEPOINT`", Ends, So(savepoints)),
    ("`COMMIT AND CHAIN`", Follows, So(chains)),
    ("`PREPARE TRANSACTION`", Follows, So(two_phase_commit)),
    ("exported snapshots", Ends, So(exported_snapshots)),
    (
        "descriptors of large objects",
        Ends,
        By(&[(
            "SELECT lo_open(lo_creat(-1), 131072)",
            "SELECT loread(0, 1)",
        )]),
    ),
    (
        "`currval`, `lastval`",
        Stays,
        By(&[("SELECT nextval('counter')", "SELECT lastval()")]),
    ),
    ("`setseed`", Closed, So(seeds)),
    (
        "`dblink` connections, temporary replication slots",
        Closed,
        By(&[(
            "SELECT dblink_connect('left_behind', format('host=%s port=%s user=postgres dbname=postgres', \
             current_setting('unix_socket_directories'), current_setting('port')))",
            "SELECT coalesce(array_to_string(dblink_get_connections(), ','), '')",
        )]),
    ),
    (
        "`LOAD`",
        Stays,
        By(&[(
            "LOAD 'auto_explain'",
            "SELECT count(*) > 0 FROM pg_settings WHERE name LIKE 'auto_explain.%'",
        )]),
    ),
    (
        "what a function does to its session",
        Stays,
        By(&[("SELECT sets_something()", "SHOW work_mem")]),
    ),
];

/// Two server connections in transaction mode, and a client that keeps one of them away from the others.
struct Pool<'a> {
    cluster: &'a Cluster,
    scene: &'a Scene,
    holder: Wire,
}

impl<'a> Pool<'a> {
    fn new(cluster: &'a Cluster, scene: &'a Scene) -> Pool<'a> {
        let holder = scene.login();
        Pool {
            cluster,
            scene,
            holder,
        }
    }

    fn client(&self) -> Wire {
        self.scene.login()
    }

    fn client_with(&self, name: &str, value: &str) -> Wire {
        let parameters = [
            ("user", "username"),
            ("database", &self.scene.database),
            (name, value),
        ];
        Wire::try_login(self.scene.pooler.port(), &parameters, PASSWORD).expect("it may log in")
    }

    /// Takes the server that has served `client` last: the client's next transaction is on another one.
    fn take_server_of(&mut self, client: &mut Wire) {
        let pid = pid(client);
        wait_until("the client's last server is held", || {
            self.holder.run("BEGIN");
            let held = self::pid(&mut self.holder) == pid;
            if !held {
                self.holder.run("ROLLBACK");
            }
            held
        });
    }

    fn give_it_back(&mut self) {
        self.holder.run("ROLLBACK");
    }

    /// What a session without a past answers.
    fn fresh(&self, sql: &str) -> String {
        let mut direct = Wire::login(
            self.cluster.port(),
            "username",
            PASSWORD,
            &self.scene.database,
        );
        let answer = outcome(&direct.query(sql));
        direct.terminate();
        answer
    }
}

fn pid(wire: &mut Wire) -> String {
    wire.value("SELECT pg_backend_pid()").expect("a pid")
}

/// The values of the answer, or the SQLSTATE of its error.
fn outcome(answer: &[Message]) -> String {
    if let Some(error) = wire::first_error(answer) {
        return error.sqlstate().to_owned();
    }
    let rows = answer.iter().filter_map(Message::row);
    let values: Vec<String> = rows
        .flatten()
        .map(|value| value.unwrap_or_else(|| "NULL".to_owned()))
        .collect();
    values.join(",")
}

/// Leaves a state in a transaction, and holds what is found later to the verdict.
fn follow(pool: &mut Pool, verdict: Verdict, leave: &str, show: &str) {
    let fresh = pool.fresh(show);
    let (mut client, mut next) = (pool.client(), pool.client());
    client.run("BEGIN");
    let server = pid(&mut client);
    client.run(leave);
    let with_it = outcome(&client.query(show));
    assert_ne!(
        with_it, fresh,
        "{leave}: it shows nothing in its own transaction"
    );
    client.run("COMMIT");

    // The server goes to whoever asks first, once it has come to rest.
    pool.scene.wait_for_pool("sv_tested", 0);
    next.run("BEGIN");
    let (next_server, met) = (pid(&mut next), outcome(&next.query(show)));
    next.run("ROLLBACK");
    assert_eq!(
        next_server == server,
        verdict != Closed,
        "{leave}: the same server serves the next client"
    );
    let expected = if verdict == Stays { &with_it } else { &fresh };
    assert_eq!(
        &met, expected,
        "{leave}: what the next client on the server meets"
    );

    let expected = if matches!(verdict, Follows | Stays) {
        &with_it
    } else {
        &fresh
    };
    assert_eq!(
        &outcome(&client.query(show)),
        expected,
        "{leave}: what the client itself finds later, on the same server"
    );
    pool.take_server_of(&mut client);
    let expected = if verdict == Follows { &with_it } else { &fresh };
    assert_eq!(
        &outcome(&client.query(show)),
        expected,
        "{leave}: what the client itself finds on another server"
    );
    pool.give_it_back();
    client.terminate();
    next.terminate();
}

// ---- rows of their own ----

fn reported_startup_parameters(pool: &mut Pool) {
    let (mut client, mut other) = (pool.client_with("application_name", "mine"), pool.client());
    for _ in 0..2 {
        assert_eq!(
            client.value("SHOW application_name").as_deref(),
            Some("mine")
        );
        assert_eq!(other.value("SHOW application_name").as_deref(), Some(""));
    }
    other.terminate();
    pool.holder = pool.client_with("application_name", "mine");
    pool.take_server_of(&mut client);
    assert_eq!(
        client.value("SHOW application_name").as_deref(),
        Some("mine")
    );
    pool.give_it_back();
}

fn other_startup_parameters(pool: &mut Pool) {
    for (name, value) in [
        ("options", "-c statement_timeout=5min"),
        ("statement_timeout", "5min"),
    ] {
        let (mut client, mut other) = (pool.client_with(name, value), pool.client());
        for _ in 0..2 {
            assert_eq!(
                client.value("SHOW statement_timeout").as_deref(),
                Some("5min")
            );
            assert_eq!(other.value("SHOW statement_timeout").as_deref(), Some("0"));
        }
        client.run("SET statement_timeout = '6min'");
        client.run("RESET ALL");
        assert_eq!(
            client.value("SHOW statement_timeout").as_deref(),
            Some("5min")
        );
        client.terminate();
        other.terminate();
    }
}

fn the_pools_role(pool: &mut Pool) {
    let mut client = pool.client();
    let show = "SELECT session_user || ' ' || current_user";
    assert_eq!(client.value(show).as_deref(), Some("username username"));
    pool.take_server_of(&mut client);
    assert_eq!(client.value(show).as_deref(), Some("username username"));
    pool.give_it_back();
}

fn process_ids(pool: &mut Pool) {
    let mut client = pool.client();
    client.run("BEGIN");
    let first = pid(&mut client);
    assert_eq!(pid(&mut client), first, "one transaction, one server");
    client.run("COMMIT");
    pool.take_server_of(&mut client);
    assert_ne!(pid(&mut client), first);
    pool.give_it_back();
    // The number that the client was told at its login is good for a cancel.
    client.send_message(b'Q', &wire::terminated("SELECT pg_sleep(60)"));
    wait_until("it sleeps", || {
        pool.cluster.sql(
            "postgres",
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
        ) == "1"
    });
    client.cancel();
    assert_eq!(outcome(&client.read_until(b'Z')), "57014");
}

fn send(client: &mut Wire, messages: &[Vec<u8>]) -> String {
    client.send(&[messages.concat(), wire::sync()].concat());
    outcome(&client.read_until(b'Z'))
}

fn bound(name: &str) -> [Vec<u8>; 2] {
    [wire::bind("", name, &[]), wire::execute("", 0)]
}

fn named_statements(pool: &mut Pool) {
    let (mut client, mut other) = (pool.client(), pool.client());
    send(&mut client, &[wire::parse("p", "SELECT 7")]);
    assert_eq!(send(&mut client, &bound("p")), "7");
    pool.take_server_of(&mut client);
    assert_eq!(send(&mut client, &bound("p")), "7");
    pool.give_it_back();
    assert_eq!(send(&mut other, &bound("p")), "26000");
    assert_eq!(send(&mut other, &[wire::parse("p", "SELECT 8")]), "");
    assert_eq!(send(&mut other, &bound("p")), "8");
    assert_eq!(send(&mut client, &bound("p")), "7");
    assert_eq!(send(&mut client, &[wire::parse("p", "SELECT 9")]), "42P05");
}

fn the_unnamed_statement(pool: &mut Pool) {
    let (mut client, mut other) = (pool.client(), pool.client());
    send(&mut client, &[wire::parse("", "SELECT 7")]);
    send(&mut other, &[wire::parse("", "SELECT 8")]);
    assert_eq!(send(&mut client, &bound("")), "7");
    // A simple query ends it, as ever; what takes the server away is another client's.
    pool.take_server_of(&mut other);
    assert_eq!(send(&mut client, &bound("")), "7");
    pool.give_it_back();
    assert_eq!(send(&mut other, &bound("")), "26000");
}

fn statements_that_are_deallocated(pool: &mut Pool) {
    for gone in ["DEALLOCATE p", "DEALLOCATE ALL", "DISCARD ALL"] {
        let mut client = pool.client();
        send(&mut client, &[wire::parse("p", "SELECT 7")]);
        client.run(gone);
        assert_eq!(send(&mut client, &bound("p")), "26000", "{gone}");
        pool.take_server_of(&mut client);
        assert_eq!(
            send(&mut client, &bound("p")),
            "26000",
            "{gone}, on another server"
        );
        pool.give_it_back();
    }
}

fn portals(pool: &mut Pool) {
    let mut client = pool.client();
    client.run("BEGIN");
    let open = [
        wire::parse("", "SELECT generate_series(1, 3)"),
        wire::bind("c", "", &[]),
        wire::execute("c", 1),
    ];
    assert_eq!(send(&mut client, &open), "1");
    assert_eq!(send(&mut client, &[wire::execute("c", 1)]), "2");
    client.run("COMMIT");
    assert_eq!(send(&mut client, &[wire::execute("c", 1)]), "34000");
}

fn the_view_of_statements(pool: &mut Pool) {
    let (mut client, mut other) = (pool.client(), pool.client());
    send(&mut client, &[wire::parse("p", "SELECT 7")]);
    let names = "SELECT count(*) FILTER (WHERE name LIKE 'aether\\_%') || ' of ' || count(*) FROM pg_prepared_statements";
    assert_eq!(other.value(names).as_deref(), Some("1 of 1"));
}

/// What a client is told in a transaction in which somebody says something on the channel.
fn notified(pool: &Pool, client: &mut Wire) -> Vec<Message> {
    client.run("BEGIN");
    pool.cluster.sql(&pool.scene.database, "NOTIFY news");
    client.run("COMMIT")
}

fn listening(pool: &mut Pool) {
    let (mut client, mut next) = (pool.client(), pool.client());
    let heard = |answer: &[Message]| answer.iter().any(|message| message.kind == b'A');
    // What is said in the very transaction is heard.
    client.run("BEGIN; LISTEN news; NOTIFY news");
    assert!(heard(&client.run("COMMIT")));
    for wire in [&mut client, &mut next] {
        assert_eq!(
            wire.value("SELECT count(*) FROM pg_listening_channels()")
                .as_deref(),
            Some("0")
        );
        assert!(!heard(&notified(pool, wire)));
    }
    // One that a function has brought about is seen by nobody: at least it is not heard of.
    let listens = "DO $$ BEGIN EXECUTE 'LIS' || 'TEN news'; END $$";
    client.run(listens);
    assert_eq!(
        next.value("SELECT count(*) FROM pg_listening_channels()")
            .as_deref(),
        Some("1")
    );
    assert!(!heard(&notified(pool, &mut next)));
    // NOTIFY works.
    let mut direct = Wire::login(
        pool.cluster.port(),
        "username",
        PASSWORD,
        &pool.scene.database,
    );
    direct.run("LISTEN news");
    client.run("NOTIFY news");
    assert_eq!(direct.read_message().kind, b'A');
}

fn savepoints(pool: &mut Pool) {
    let mut client = pool.client();
    client.run("BEGIN");
    client.run("SAVEPOINT left_behind");
    assert_eq!(client.error("SELECT 1/0").sqlstate(), "22012");
    client.run("ROLLBACK TO left_behind");
    client.run("COMMIT");
    assert_eq!(client.error("ROLLBACK TO left_behind").sqlstate(), "25P01");
}

fn chains(pool: &mut Pool) {
    let mut client = pool.client();
    client.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    let server = pid(&mut client);
    client.run("COMMIT AND CHAIN");
    assert_eq!(
        client.value("SHOW transaction_isolation").as_deref(),
        Some("serializable")
    );
    assert_eq!(pid(&mut client), server);
    client.run("ROLLBACK");
}

fn two_phase_commit(pool: &mut Pool) {
    let mut client = pool.client();
    client.run("BEGIN; INSERT INTO kept VALUES (7); PREPARE TRANSACTION 'left_behind'");
    pool.take_server_of(&mut client);
    client.run("COMMIT PREPARED 'left_behind'");
    pool.give_it_back();
    assert_eq!(
        client
            .value("SELECT count(*) FROM kept WHERE x = 7")
            .as_deref(),
        Some("1")
    );
}

fn exported_snapshots(pool: &mut Pool) {
    let (mut client, mut other) = (pool.client(), pool.client());
    client.run("BEGIN");
    let id = client.value("SELECT pg_export_snapshot()").expect("an id");
    let import = format!("SET TRANSACTION SNAPSHOT '{id}'");
    other.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    other.run(&import);
    other.run("ROLLBACK");
    client.run("COMMIT");
    other.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert!(wire::first_error(&other.query(&import)).is_some());
    other.run("ROLLBACK");
}

fn seeds(pool: &mut Pool) {
    for seed in ["SELECT setseed(0.5)", "SET seed = 0.5"] {
        let (mut client, mut next) = (pool.client(), pool.client());
        client.run("BEGIN");
        client.run(seed);
        let (server, drawn) = (pid(&mut client), client.value("SELECT random()"));
        client.run(seed);
        assert_eq!(
            client.value("SELECT random()"),
            drawn,
            "in a transaction it holds"
        );
        client.run("COMMIT");
        assert_ne!(pid(&mut next), server, "{seed}");
        assert_ne!(pid(&mut client), server, "{seed}");
    }
}

// ---- the tests ----

fn cluster() -> Cluster {
    let options = cluster::Options {
        conf: vec!["max_prepared_transactions = 5".to_owned()],
        ..cluster::Options::default()
    };
    let cluster = Cluster::start_with(&options);
    cluster.sql("postgres", "ALTER ROLE username SUPERUSER");
    cluster
}

fn furnish(cluster: &Cluster, database: &str) {
    cluster.sql(
        database,
        "CREATE EXTENSION dblink; CREATE TABLE kept (x int); CREATE SEQUENCE counter; \
         CREATE FUNCTION sets_something() RETURNS void LANGUAGE sql SET search_path FROM CURRENT \
         AS $$ SELECT pg_catalog.set_config('work_mem', '7MB', false) $$",
    );
}

/// Issue 3, proof 5; catalogue E9 to E16.
#[test]
fn every_row_of_the_table_holds() {
    let cluster = cluster();
    let database = cluster.database("relied_on");
    furnish(&cluster, &database);
    let keys = "  mode: transaction\n  max_connections: 2\n";
    let begin = std::time::Instant::now();
    for (state, verdict, shown) in ROWS {
        eprintln!("{:?} {state}", begin.elapsed());
        // Servers without a past: what stays on one is not to confuse the next row.
        let scene = Scene {
            pooler: Pooler::start(&scene::yaml(&tcp(&cluster, &database), "", keys)),
            database: database.clone(),
        };
        match shown {
            By(examples) => {
                for (leave, show) in *examples {
                    follow(&mut Pool::new(&cluster, &scene), *verdict, leave, show);
                }
            }
            So(show) => show(&mut Pool::new(&cluster, &scene)),
        }
    }
}

/// Without the reset it is as with PgBouncer, but for the role and for notifications.
#[test]
fn without_the_reset_what_is_set_stays_but_for_the_role() {
    let cluster = Cluster::shared();
    let keys = "  mode: transaction\n  max_connections: 1\n  transaction_reset: false\n";
    let scene = Scene::new(cluster, "relied_on_nothing", keys);
    let (mut client, mut next) = (scene.login(), scene.login());
    client.run("SET work_mem = '7MB'");
    client.run("LISTEN news");
    client.run("SET ROLE username");
    assert_eq!(next.value("SHOW work_mem").as_deref(), Some("7MB"));
    assert_eq!(next.value("SHOW role").as_deref(), Some("none"));
    next.run("BEGIN");
    cluster.sql(&scene.database, "NOTIFY news");
    let answer = wire::kinds(&next.run("COMMIT"));
    assert_eq!(answer, "CZ", "a notification for somebody else");
}

/// A transaction that leaves nothing is not followed by anything.
#[test]
fn what_leaves_nothing_is_not_followed_by_a_reset() {
    let keys = "  mode: transaction\n  max_connections: 1\n";
    let scene = Scene::new(Cluster::shared(), "leaves_nothing", keys);
    let mut client = scene.login();
    Cluster::shared().sql(
        &scene.database,
        "CREATE TABLE users (role text, temp int); GRANT ALL ON users TO PUBLIC",
    );
    let resets = || {
        let rows = scene.show("STATS");
        let row = rows.iter().find(|row| row["database"] == scene.database);
        row.expect("its line")["total_resets"].clone()
    };
    let before = resets();
    client.run("UPDATE users SET role = 'x', temp = 1");
    client.run("INSERT INTO users (role, temp) VALUES ('y', 2)");
    client.run("BEGIN; SET LOCAL work_mem = '7MB'; SELECT temp FROM users; COMMIT");
    client.run("BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT");
    assert_eq!(resets(), before);
    client.run("SET work_mem = '7MB'");
    wait_until("that one is undone", || resets() != before);
}

/// The table in the document and [`ROWS`] say the same.
#[test]
fn the_table_in_the_document_and_the_tests_are_one() {
    let document = include_str!("../../TRANSACTION_POOLING.md");
    let table = document
        .lines()
        .skip_while(|line| !line.starts_with("| State |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let written: Vec<(String, String)> = table
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 4, "four columns: {line}");
            let verdict = cells[2].split("**").nth(1).unwrap_or_default();
            (cells[0].to_owned(), verdict.to_owned())
        })
        .collect();
    let tested: Vec<(String, String)> = ROWS
        .iter()
        .map(|(state, verdict, _)| ((*state).to_owned(), format!("{verdict:?}").to_lowercase()))
        .collect();
    assert_eq!(written, tested);
}
