//! Startup parameters of clients that share servers: what PostgreSQL reports is set on whatever server they get, what it does
//! not report belongs to the server; issue 3, "Parameters that follow the client".
//!
//! A direct connection says what is right. Every server logs its statements, so that what Aether sends is counted.

use std::sync::OnceLock;

use crate::support::cluster::{Options, PASSWORD};
use crate::support::{Cluster, Message, Scene, Wire, wire};

/// A server that logs every statement, with the database.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::start_with(&Options {
            conf: vec![
                "log_statement = all".into(),
                "log_line_prefix = '[%d] '".into(),
            ],
            ..Options::default()
        })
    })
}

fn scene(name: &str, keys: &str) -> Scene {
    Scene::new(cluster(), name, &format!("  mode: transaction\n{keys}"))
}

/// Statements that Aether has sent to set something.
fn settings_sent(database: &str) -> usize {
    let log = cluster().log();
    let lines = log
        .lines()
        .filter(|line| line.starts_with(&format!("[{database}] ")));
    lines.filter(|line| line.contains("set_config")).count()
}

type Set = [(&'static str, &'static str)];

fn try_login(port: u16, database: &str, set: &Set) -> Result<Wire, crate::support::ServerError> {
    let own = [("user", "username"), ("database", database)];
    let parameters: Vec<(&str, &str)> = own.into_iter().chain(set.iter().copied()).collect();
    Wire::try_login(port, &parameters, PASSWORD)
}

#[track_caller]
fn login(port: u16, database: &str, set: &Set) -> Wire {
    try_login(port, database, set).expect("it is let in")
}

/// What PostgreSQL 15 reports and any session may change, and what it does not report.
const SHOWN: [&str; 10] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "IntervalStyle",
    "standard_conforming_strings",
    "search_path",
    "statement_timeout",
    "extra_float_digits",
    "work_mem",
];

#[track_caller]
fn shown(session: &mut Wire) -> Vec<String> {
    SHOWN
        .iter()
        .map(|name| session.value(&format!("SHOW {name}")).unwrap_or_default())
        .collect()
}

/// Sets of which only what is reported differs: all of them fit one server.
const ALIKE: [&Set; 6] = [
    &[],
    // libpq's, psycopg's.
    &[
        ("application_name", "one"),
        ("client_encoding", "latin1"),
        ("datestyle", "iso"),
    ],
    &[
        ("application_name", "it's \\ two"),
        ("TimeZone", "Asia/Tokyo"),
        ("DateStyle", "German"),
    ],
    &[
        ("TIMEZONE", "europe/berlin"),
        ("options", "-c IntervalStyle=iso_8601"),
    ],
    &[
        (
            "options",
            "-c TimeZone=UTC -cdatestyle=DMY  --standard-conforming-strings=off",
        ),
        ("TimeZone", "CET"),
    ],
    &[("DateStyle", "SQL"), ("options", "-c DateStyle=ISO,\\ YMD")],
];

/// Everybody always sees his own values, by SHOW and by ParameterStatus, on the one server that there is.
#[test]
fn clients_whose_reported_parameters_differ_share_one_server() {
    let scene = scene("startup_alike", "  max_connections: 1\n");
    let (port, database) = (scene.pooler.port(), &scene.database[..]);
    let direct = ALIKE.map(|set| {
        let mut session = login(cluster().port(), database, set);
        (session.parameters.clone(), shown(&mut session))
    });
    let mut pids = Vec::new();
    let mut clients: Vec<Wire> = ALIKE.iter().map(|set| login(port, database, set)).collect();
    for round in 0..3 {
        for ((client, (reported, values)), set) in clients.iter_mut().zip(&direct).zip(ALIKE) {
            assert_eq!(&client.parameters, reported, "{set:?} in round {round}");
            assert_eq!(&shown(client), values, "{set:?} in round {round}");
            pids.push(client.value("SELECT pg_backend_pid()"));
            assert_eq!(&client.parameters, reported, "{set:?} after round {round}");
        }
    }
    pids.dedup();
    assert_eq!(pids.len(), 1, "all had the same server");
    let names: Vec<String> = scene
        .show("CLIENTS")
        .iter()
        .map(|row| row["application_name"].clone())
        .collect();
    assert!(names.contains(&"it's \\ two".to_owned()), "{names:?}");
}

/// What a client changes itself follows it as well, and nobody else.
#[test]
fn what_is_set_on_top_of_a_startup_parameter_follows_its_client() {
    let scene = scene("startup_on_top", "  max_connections: 1\n");
    let (port, database) = (scene.pooler.port(), &scene.database[..]);
    let mut one = login(
        port,
        database,
        &[("TimeZone", "Asia/Tokyo"), ("application_name", "one")],
    );
    let mut other = login(
        port,
        database,
        &[("TimeZone", "Asia/Tokyo"), ("application_name", "one")],
    );
    one.run("SET TimeZone = 'UTC'");
    assert_eq!(other.value("SHOW TimeZone").as_deref(), Some("Asia/Tokyo"));
    assert_eq!(one.value("SHOW TimeZone").as_deref(), Some("UTC"));
    // Not to its startup parameter: the server was started without it. The client is told what it is now.
    one.run("RESET ALL");
    let own = cluster().sql("postgres", "SHOW TimeZone");
    assert_eq!(one.parameters["TimeZone"], own);
    assert_eq!(other.value("SHOW TimeZone").as_deref(), Some("Asia/Tokyo"));
    assert_eq!(one.value("SHOW TimeZone").as_deref(), Some(&own[..]));
    assert_eq!(one.value("SHOW application_name").as_deref(), Some(""));
}

/// Settings that the server does not report belong to its startup set: a client is only paired with a server started with them.
#[test]
fn clients_whose_unreported_parameters_differ_never_see_each_others() {
    let scene = scene("startup_apart", "  max_connections: 2\n");
    let (port, database) = (scene.pooler.port(), &scene.database[..]);
    let sets: [&Set; 5] = [
        &[("options", "-c search_path=t1"), ("application_name", "a")],
        &[
            ("options", "-c search_path=t2 -c TimeZone=CET"),
            ("application_name", "b"),
        ],
        // JDBC's.
        &[
            ("extra_float_digits", "2"),
            ("DateStyle", "ISO"),
            ("TimeZone", "GMT+2"),
            ("client_encoding", "UTF8"),
        ],
        &[("statement_timeout", "5s"), ("work_mem", "7MB")],
        &[
            ("options", "-c statement_timeout=7s -e"),
            ("TimeZone", "CET"),
        ],
    ];
    let direct = sets.map(|set| shown(&mut login(cluster().port(), database, set)));
    let mut clients: Vec<Wire> = sets.iter().map(|set| login(port, database, set)).collect();
    for round in 0..2 {
        for ((client, values), set) in clients.iter_mut().zip(&direct).zip(sets) {
            assert_eq!(&shown(client), values, "{set:?} in round {round}");
        }
    }
}

/// Apart from where in PostgreSQL's source it was found (F, L, R), byte for byte. Nobody else's session suffers from it.
#[test]
fn a_bad_value_is_refused_as_by_a_direct_connection() {
    let scene = scene("startup_bad", "  max_connections: 1\n");
    let (port, database) = (scene.pooler.port(), &scene.database[..]);
    let mut other = login(port, database, &[("TimeZone", "CET")]);
    let sets: [&Set; 11] = [
        &[("TimeZone", "nonsense")],
        &[("client_encoding", "nonsense")],
        &[("client_encoding", "MULE_INTERNAL")],
        &[("DateStyle", "ISO, whatever")],
        &[("intervalstyle", "x'\\y")],
        &[
            ("standard_conforming_strings", "perhaps"),
            ("application_name", "x"),
        ],
        &[("options", "-c TimeZone=nonsense"), ("TimeZone", "CET")],
        &[("options", "-c TimeZone"), ("DateStyle", "ISO")],
        &[("options", "--Date-Style=x")],
        &[("no_such_parameter", "1"), ("application_name", "x")],
        &[("is_superuser", "on"), ("application_name", "x")],
    ];
    for set in sets {
        let said = |port| {
            let error = try_login(port, database, set).err().expect("it is refused");
            let codes = (b'A'..=b'z').filter(|code| !b"FLR".contains(code));
            let fields = codes.map(|code| error.field(code).to_owned());
            fields.filter(|text| !text.is_empty()).collect::<Vec<_>>()
        };
        let (direct, pooled) = (said(cluster().port()), said(port));
        assert!(direct.len() > 3, "{set:?}: {direct:?}");
        assert_eq!(pooled, direct, "{set:?}");
        assert_eq!(
            other.value("SHOW TimeZone").as_deref(),
            Some("CET"),
            "after {set:?}"
        );
    }
}

/// A set's first login pairs once, and that welcome is cached: the second needs no server.
#[test]
fn the_second_login_of_a_set_needs_no_server() {
    let scene = scene("startup_second", "  max_connections: 1\n");
    let (port, database) = (scene.pooler.port(), &scene.database[..]);
    let set: &Set = &[("TimeZone", "europe/berlin"), ("application_name", "app")];
    let first = login(port, database, set);
    let mut holder = login(port, database, &[]);
    holder.run("BEGIN");
    let sent = settings_sent(database);
    let mut second = login(port, database, set);
    assert_eq!(second.parameters, first.parameters);
    assert_eq!(second.parameters["TimeZone"], "Europe/Berlin");
    assert_eq!(settings_sent(database), sent, "nobody was asked");
    holder.run("COMMIT");
    assert_eq!(
        second.value("SHOW application_name").as_deref(),
        Some("app")
    );
}

/// Nothing is sent in steady state.
#[test]
fn clients_of_one_set_that_take_turns_cost_no_statement() {
    let scene = scene("startup_steady", "  max_connections: 1\n");
    let (port, database) = (scene.pooler.port(), &scene.database[..]);
    let set: &Set = &[
        ("TimeZone", "CET"),
        ("application_name", "app"),
        ("datestyle", "SQL"),
    ];
    let mut clients = [set; 3].map(|set| login(port, database, set));
    assert_eq!(settings_sent(database), 1, "the first one's, at its login");
    for _ in 0..5 {
        for client in &mut clients {
            client.run("SELECT 1");
        }
    }
    assert_eq!(settings_sent(database), 1);
    // With another between them, one statement for each change.
    let mut other = login(
        port,
        database,
        &[("TimeZone", "UTC"), ("application_name", "app")],
    );
    let before = settings_sent(database);
    for _ in 0..3 {
        clients[0].run("SELECT 1");
        clients[1].run("SELECT 1");
        other.run("SELECT 1");
    }
    assert_eq!(settings_sent(database), before + 6);
}

/// A name that is expected to be reported and is not splits the pool; it is never dropped.
#[test]
fn an_extra_parameter_that_the_server_does_not_report_splits_the_pool() {
    let keys = "  max_connections: 2\n  track_extra_parameters: [search_path, work_mem]\n";
    let scene = scene("startup_extra", keys);
    let (port, database) = (scene.pooler.port(), &scene.database[..]);
    let sets: [&Set; 2] = [
        &[("search_path", "t1"), ("TimeZone", "CET")],
        &[("work_mem", "7MB"), ("search_path", "t2")],
    ];
    let direct = sets.map(|set| shown(&mut login(cluster().port(), database, set)));
    let mut clients = sets.map(|set| login(port, database, set));
    for _ in 0..2 {
        for (client, values) in clients.iter_mut().zip(&direct) {
            assert_eq!(&shown(client), values);
        }
    }
}

/// Names and values that need care: what is not ASCII is left to the server that is started with it.
#[test]
fn values_that_are_not_ascii_are_what_a_direct_connection_makes_of_them() {
    let scene = scene("startup_bytes", "  max_connections: 2\n");
    let (port, database) = (scene.pooler.port(), &scene.database[..]);
    let long = "x".repeat(100);
    let long: &'static str = Box::leak(long.into_boxed_str());
    let sets: [&Set; 4] = [
        &[
            ("application_name", "B\u{fc}ro"),
            ("client_encoding", "LATIN1"),
        ],
        &[("application_name", "tab\tand 'quotes' \\ \" $1")],
        &[("application_name", "")],
        &[("application_name", long)],
    ];
    for set in sets {
        let mut direct = login(cluster().port(), database, set);
        let mut pooled = login(port, database, set);
        assert_eq!(pooled.parameters, direct.parameters, "{set:?}");
        assert_eq!(shown(&mut pooled), shown(&mut direct), "{set:?}");
    }
}

/// A server with other values of its own: what was learnt from the old one is not told to anybody any more.
#[test]
fn after_a_restart_with_other_defaults_new_logins_are_told_those() {
    let own = Cluster::start();
    let database = own.database("startup_restart");
    let yaml = crate::support::scene::yaml(
        &crate::support::scene::tcp(&own, &database),
        "",
        "  mode: transaction\n  max_connections: 2\n",
    );
    let pooler = crate::support::Pooler::start(&yaml);
    let set: &Set = &[("application_name", "app"), ("DateStyle", "SQL")];
    let before = login(pooler.port(), &database, set);
    assert_eq!(before.parameters["DateStyle"], "SQL, MDY");
    own.sql("postgres", "ALTER SYSTEM SET DateStyle = 'ISO, DMY'");
    own.sql("postgres", "ALTER SYSTEM SET TimeZone = 'Asia/Tokyo'");
    own.restart(crate::support::Stop::Fast);
    let direct = login(own.port(), &database, set);
    // Until a new server has told, nobody can know: a query makes one.
    let mut waker = login(pooler.port(), &database, &[]);
    waker.run("SELECT 1");
    let after = login(pooler.port(), &database, set);
    assert_eq!(after.parameters, direct.parameters);
    assert_eq!(after.parameters["DateStyle"], "SQL, DMY");
    drop(before);
}

/// The bytes of a whole welcome, but for the process id and key, are those of a direct connection.
#[test]
fn a_welcome_is_that_of_a_direct_connection() {
    let scene = scene("startup_welcome", "");
    let set = [
        ("user", "username"),
        ("database", &scene.database[..]),
        ("DateStyle", "German"),
        ("options", "-c client_encoding=latin1"),
    ];
    let said = |port| {
        let mut client = Wire::connect(port);
        client.startup(&set);
        client
            .authenticate("username", PASSWORD)
            .expect("it is let in");
        let mut messages: Vec<Message> = client.read_until(b'Z');
        messages.retain(|message| message.kind != b'K');
        messages.sort_by(|a, b| a.body.cmp(&b.body));
        messages
    };
    let (direct, first) = (said(cluster().port()), said(scene.pooler.port()));
    assert_eq!(wire::kinds(&first), wire::kinds(&direct));
    assert_eq!(first, direct);
    assert_eq!(said(scene.pooler.port()), direct, "from what was learnt");
}
