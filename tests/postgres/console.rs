//! The console as tools use it: what it counts, filters, the extended protocol, and the very queries that exporters send.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::scene::{Row, SHOWN, columns, show, tcp};
use crate::support::wire::{
    bind, close, describe, execute, first_error, kinds, message, parse, sync, terminated,
};
use crate::support::{Cluster, Message, Pooler, Scene, Wire, wait_until};

#[track_caller]
fn row<'a>(rows: &'a [Row], column: &str, value: &str) -> &'a Row {
    let found = rows.iter().find(|row| row[column] == value);
    found.unwrap_or_else(|| panic!("no {value} in {rows:?}"))
}

#[track_caller]
fn number(row: &Row, column: &str) -> u64 {
    row[column].parse().expect("a number")
}

fn length(messages: &[Message]) -> u64 {
    let lengths = messages.iter().map(|message| message.body.len() as u64 + 5);
    lengths.sum()
}

/// Rows as an ordinary tool takes them: `column=value` of the named columns.
fn listed(answer: &[Message], wanted: &[&str]) -> Vec<String> {
    let names = columns(&answer[0]);
    let place = |name: &&str| names.iter().position(|known| known == name);
    let places: Vec<usize> = wanted.iter().filter_map(place).collect();
    let rows = answer.iter().filter_map(Message::row);
    rows.map(|row| {
        let values = places.iter().map(|&at| row[at].clone().unwrap_or_default());
        values.collect::<Vec<_>>().join(" ")
    })
    .collect()
}

/// Issue 7, proof 1: what a scripted load did is what is counted: counts and bytes exactly, times within 2 in 100 of what the
/// server took; also after a reload.
#[test]
fn the_statistics_are_what_a_scripted_load_did() {
    let cluster = Cluster::shared();
    let scene = Scene::new(
        cluster,
        "console_statistics",
        "  mode: transaction\n  max_connections: 1\n",
    );
    let (mut sent, mut got) = (0, 0);
    let mut run = |client: &mut Wire, batch: &[Vec<u8>]| {
        let bytes = batch.concat();
        sent += bytes.len() as u64;
        client.send(&bytes);
        let answer = client.read_until(b'Z');
        assert_eq!(first_error(&answer), None);
        got += length(&answer);
    };
    let query = |sql: &str| message(b'Q', &terminated(sql));
    let mut clients: Vec<Wire> = (0..3).map(|_| scene.login()).collect();
    let begin = Instant::now();
    for client in &mut clients {
        run(client, &[query("SELECT 1")]);
        for sql in ["BEGIN", "SELECT 2", "SELECT pg_sleep(0.2)", "COMMIT"] {
            run(client, &[query(sql)]);
        }
        let prepared = [parse("s", "SELECT $1::text"), sync()];
        run(client, &prepared);
        for value in ["a", "b"] {
            run(client, &[bind("", "s", &[value]), execute("", 0), sync()]);
        }
    }
    for client in &mut clients {
        run(client, &[close(b'S', "s"), sync()]);
    }
    let took = u64::try_from(begin.elapsed().as_micros()).expect("not for ever");
    let check = || {
        let stats = scene.show("STATS");
        let stats = row(&stats, "database", &scene.database);
        for (column, expected) in [
            ("total_query_count", 3 * 9),
            ("total_xact_count", 3 * 6),
            ("total_client_login_count", 3),
            ("total_client_parse_count", 3),
            ("total_server_parse_count", 1),
            ("total_bind_count", 6),
            ("total_received", sent),
        ] {
            assert_eq!(number(stats, column), expected, "{column}: {stats:?}");
        }
        // The welcomes are Aether's own.
        assert_eq!(number(stats, "total_sent"), got, "{stats:?}");
        for column in ["total_query_time", "total_xact_time"] {
            let time = number(stats, column);
            assert!(
                (600_000..=took).contains(&time),
                "{column}: {time} of {took}"
            );
        }
        let totals = scene.show("STATS_TOTALS");
        let totals = row(&totals, "database", &scene.database);
        for (column, as_in_stats) in [
            ("query_count", "total_query_count"),
            ("bytes_sent", "total_sent"),
            ("bind_count", "total_bind_count"),
            ("wait_time", "total_wait_time"),
        ] {
            assert_eq!(totals[column], stats[as_in_stats], "{column}");
        }
        let sums = scene.show("TOTALS");
        let of_console = number(
            row(&scene.show("STATS"), "database", "pgbouncer"),
            "total_query_count",
        );
        let sum = number(row(&sums, "name", "total_query_count"), "value");
        assert!(
            (3 * 9 + of_console - 2..=3 * 9 + of_console).contains(&sum),
            "{sum} and {of_console} of consoles"
        );
        number(stats, "total_wait_time")
    };
    check();
    scene.pooler.signal(Signal::SIGHUP);
    scene.pooler.wait_for_log("was reloaded");
    let before = check();
    // The only server is held for 300 ms, and somebody waits for all of it.
    let mut holder = scene.login();
    holder.run("BEGIN");
    thread::scope(|threads| {
        let mut waiter = scene.login();
        let waits = threads.spawn(move || {
            waiter.run("SELECT 1");
        });
        scene.wait_for_pool("cl_waiting", 1);
        let pools = scene.show("POOLS");
        let pool = row(&pools, "database", &scene.database);
        assert!(
            pool["waits_for"].contains("1 of 1 servers are in use"),
            "{pool:?}"
        );
        thread::sleep(Duration::from_millis(300));
        let clients = scene.show("CLIENTS WHERE state = 'waiting'");
        assert_eq!(clients.len(), 1);
        let waited = number(&clients[0], "wait_us");
        assert!(waited >= 300_000, "{waited}");
        assert!(
            clients[0]["waits_for"].contains("max_connections"),
            "{clients:?}"
        );
        holder.run("COMMIT");
        waits.join().expect("it is served");
        let after = scene.show("STATS");
        let after = number(row(&after, "database", &scene.database), "total_wait_time");
        assert!(after - before >= waited, "{before} {waited} {after}");
    });
}

/// A filter on any SHOW, in any order, and a long answer in parts.
#[test]
fn rows_are_chosen_sorted_and_limited() {
    let cluster = Cluster::shared();
    let scene = Scene::new(
        cluster,
        "console_filters",
        "  mode: transaction\n  max_connections: 2\n",
    );
    let login = |name: &str| {
        let parameters = [
            ("user", "username"),
            ("database", &*scene.database),
            ("application_name", name),
        ];
        let password = crate::support::cluster::PASSWORD;
        Wire::try_login(scene.pooler.port(), &parameters, password).expect("a session")
    };
    let _clients: Vec<Wire> = (0..300).map(|n| login(&format!("app-{n:03}"))).collect();
    let mut console = scene.console();
    let mut names = |filter: &str| {
        let answer = console.run(&format!("SHOW CLIENTS {filter}"));
        assert_eq!(answer.last().map(|message| message.kind), Some(b'Z'));
        listed(&answer, &["application_name"])
    };
    let database = format!("database = '{}'", scene.database);
    assert_eq!(names(&format!("WHERE {database}")).len(), 300);
    let last = names(&format!(
        "where {database} order by application_name desc limit 3;"
    ));
    assert_eq!(last, ["app-299", "app-298", "app-297"]);
    let sorted = names(&format!("WHERE {database} ORDER BY application_name"));
    let expected: Vec<String> = (0..300).map(|n| format!("app-{n:03}")).collect();
    assert_eq!(sorted, expected);
    let some = names("WHERE application_name LIKE 'app-_50' AND state = 'idle' ORDER BY id");
    assert_eq!(some, ["app-050", "app-150", "app-250"]);
    assert_eq!(
        names("WHERE application_name IN ('app-007', 'nobody')"),
        ["app-007"]
    );
    assert_eq!(names("LIMIT 0"), Vec::<String>::new());
    for what in SHOWN.iter().filter(|what| **what != "HELP") {
        let all = console.run(&format!("SHOW {what}"));
        let few = console.run(&format!("SHOW {what} LIMIT 1"));
        assert_eq!(columns(&all[0]), columns(&few[0]));
        let rows = |answer: &[Message]| answer.iter().filter_map(Message::row).count();
        assert_eq!(rows(&few), rows(&all).min(1), "{what}");
        let first = &columns(&all[0])[0];
        let none = console.run(&format!("SHOW {what} WHERE {first} IS NULL"));
        assert_eq!(rows(&none), 0, "{what}");
    }
    let error = console.error("SHOW POOLS WHERE databse = 'x'");
    assert_eq!(error.sqlstate(), "42703");
    assert!(error.hint().contains("Did you mean database?"), "{error:?}");
}

/// What drivers send: Parse, Bind, Describe, Execute and Sync, with parameters, in text and in binary.
#[test]
fn the_extended_protocol_works_on_the_console() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "console_extended", "");
    let mut client = scene.login();
    client.run("SELECT 1");
    let mut console = scene.console();
    let mut ask = |batch: &[Vec<u8>]| {
        console.send(&batch.concat());
        console.read_until(b'Z')
    };
    let sql = "SHOW DATABASES WHERE name = $1 LIMIT $2";
    let answer = ask(&[
        parse("by_name", sql),
        describe(b'S', "by_name"),
        bind("", "by_name", &[&scene.database, "5"]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(kinds(&answer), "1tT2TDCZ");
    assert_eq!(answer[1].body, [0, 2, 0, 0, 0, 25, 0, 0, 0, 20]);
    let row = answer.iter().find_map(Message::row).expect("a row");
    assert_eq!(row[0].as_deref(), Some(&*scene.database));
    // It is kept, and may be run again; the rows of a portal may be fetched in pieces.
    let answer = ask(&[
        bind("p", "by_name", &["pgbouncer", "5"]),
        execute("p", 1),
        execute("p", 1),
        close(b'S', "by_name"),
        sync(),
    ]);
    assert_eq!(kinds(&answer), "2DsC3Z");
    let answer = ask(&[
        parse("", "SHOW LISTS"),
        bind("", "", &[]),
        execute("", 5),
        execute("", 5),
        execute("", 5),
        sync(),
    ]);
    assert_eq!(kinds(&answer), "12DDDDDsDDDDDsDDDDCZ");
    // After an error everything up to Sync is ignored, and the session goes on.
    for (batch, code) in [
        (vec![parse("", "SHOW POOL"), bind("", "", &[])], "42601"),
        (vec![parse("", sql), bind("", "", &["only one"])], "08P01"),
        (vec![bind("", "nobody", &[])], "26000"),
        (
            vec![execute("nobody", 0), describe(b'S', "by_name")],
            "34000",
        ),
        (
            vec![
                parse("", "SHOW CLIENTS WHERE wait = $1"),
                bind("", "", &["x"]),
                execute("", 0),
            ],
            "22P02",
        ),
        (vec![message(b'P', b"broken")], "08P01"),
    ] {
        let answer = ask(&[batch.concat(), sync()]);
        let error = first_error(&answer).expect("an error");
        assert_eq!(error.sqlstate(), code, "{error:?}");
        assert!(kinds(&answer).ends_with("EZ"), "{}", kinds(&answer));
    }
    // Binary: an int4 and an int8 to choose by, numbers and numerics in the rows.
    let mut bound = b"\0\0".to_vec();
    bound.extend([0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1, 0, 1, 0, 1]);
    let mut parsed = b"\0SHOW PEERS LIMIT $1\0".to_vec();
    parsed.extend([0, 1, 0, 0, 0, 23]);
    let answer = ask(&[
        message(b'P', &parsed),
        message(b'B', &bound),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ]);
    assert_eq!(kinds(&answer), "12TCZ");
    let mut lists = b"\0\0".to_vec();
    lists.extend([0, 0, 0, 0, 0, 1, 0, 1]);
    let answer = ask(&[
        parse("", "SHOW LISTS WHERE list = 'databases'"),
        message(b'B', &lists),
        execute("", 0),
        sync(),
    ]);
    let row = answer
        .iter()
        .find(|message| message.kind == b'D')
        .expect("a row");
    assert!(row.body.ends_with(&[0, 0, 0, 4, 0, 0, 0, 2]), "{row:?}");
    let mut odd = b"\0\0".to_vec();
    odd.extend([0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 0]);
    let mut flag = b"\0SHOW PEERS LIMIT $1\0".to_vec();
    flag.extend([0, 1, 0, 0, 0, 16]);
    let answer = ask(&[message(b'P', &flag), message(b'B', &odd), sync()]);
    let error = first_error(&answer).expect("no bool");
    assert!(
        error.message().contains("no binary parameters of type 16"),
        "{error:?}"
    );
    // What drivers send at the start of every session, and what they try for a transaction.
    for quiet in [
        "SET extra_float_digits = 3",
        "SET application_name = 'driver'",
    ] {
        assert_eq!(kinds(&console.run(quiet)), "NCZ", "{quiet}");
    }
    let error = console.error("BEGIN");
    assert!(error.hint().contains("autocommit"), "{error:?}");
    assert_eq!(
        console.value("SHOW client_encoding").as_deref(),
        Some("UTF-8")
    );
    assert_eq!(kinds(&console.run("SHOW HELP")), "NCZ");
    assert_eq!(kinds(&console.run("SHOW HELP CLIENTS")), "NCZ");
}

/// Issue 7, proof 2: the literal queries of prometheus-community's pgbouncer_exporter (0.11), with the columns that it turns into
/// numbers; and those of pgwatch and of check_pgbouncer scripts.
#[test]
fn exporters_find_what_they_ask_for() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "console_exporters", "");
    let mut client = scene.login();
    client.run("SELECT 1");
    let mut console = Wire::login(
        scene.pooler.port(),
        "username",
        crate::support::cluster::PASSWORD,
        "pgbouncer",
    );
    let numbers: [(&str, &str); 3] = [
        (
            "SHOW DATABASES;",
            "pool_size reserve_pool_size min_pool_size max_connections current_connections paused disabled \
             max_client_connections current_client_connections",
        ),
        (
            "SHOW POOLS;",
            "cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel sv_being_canceled \
             sv_idle sv_used sv_tested sv_login maxwait maxwait_us",
        ),
        (
            "SHOW STATS;",
            "total_server_assignment_count total_xact_count total_query_count total_received total_sent total_xact_time \
             total_query_time total_wait_time total_client_parse_count total_server_parse_count total_bind_count \
             avg_server_assignment_count avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time avg_query_time \
             avg_wait_time",
        ),
    ];
    for (query, wanted) in numbers {
        let answer = console.run(query);
        let names = columns(&answer[0]);
        let rows: Vec<_> = answer.iter().filter_map(Message::row).collect();
        assert!(!rows.is_empty(), "{query}");
        for column in wanted.split_whitespace() {
            let at = names.iter().position(|name| name == column);
            let at = at.unwrap_or_else(|| panic!("{query}: no {column}"));
            for row in &rows {
                let value = row[at].as_deref().expect(column);
                value.parse::<f64>().expect("a number");
            }
        }
    }
    // Key and value.
    let lists = show(&mut console, "LISTS;");
    for list in [
        "databases",
        "users",
        "pools",
        "free_clients",
        "used_clients",
        "login_clients",
        "free_servers",
        "used_servers",
        "dns_names",
        "dns_zones",
        "dns_queries",
        "dns_pending",
    ] {
        number(row(&lists, "list", list), "items");
    }
    assert_eq!(number(row(&lists, "list", "databases"), "items"), 2);
    assert_eq!(number(row(&lists, "list", "used_clients"), "items"), 2);
    let config = show(&mut console, "CONFIG;");
    for key in [
        "max_client_conn",
        "max_user_connections",
        "default_pool_size",
    ] {
        number(row(&config, "key", key), "value");
    }
    let version = console.value("SHOW VERSION;").expect("a version");
    assert!(version.starts_with("Aether "), "{version}");
    // pgwatch's presets, and scripts that read psql's unaligned output by place.
    for query in [
        "show stats",
        "show pools",
        "show lists",
        "show databases",
        "SHOW STATS_AVERAGES",
        "SHOW MEM",
        "SHOW USERS",
        "SHOW ACTIVE_SOCKETS",
    ] {
        console.run(query);
    }
    let psql = std::process::Command::new(cluster.program("psql"))
        .args(["-X", "-A", "-t", "-F", ",", "-c", "show pools"])
        .arg(format!(
            "postgres://username:{}@127.0.0.1:{}/pgbouncer",
            crate::support::cluster::PASSWORD,
            scene.pooler.port()
        ))
        .output()
        .expect("psql");
    let text = String::from_utf8_lossy(&psql.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with(&scene.database));
    let fields: Vec<&str> = line.expect("its pool").split(',').collect();
    assert_eq!(
        (fields[1], fields[2], fields[6], fields[15]),
        ("username", "1", "1", "session")
    );
}

/// Why clients wait, by the server's own words, in SHOW POOLS and SHOW CLIENTS.
#[test]
fn the_console_says_why_clients_wait() {
    let cluster = Cluster::shared();
    let port = crate::support::process::free_port();
    let dsn =
        tcp(cluster, "database").replace(&format!(":{}/", cluster.port()), &format!(":{port}/"));
    let trust = "auth: {type: trust, allow_insecure: true}\n";
    let pooler = Pooler::start(&crate::support::scene::yaml(&dsn, "", trust));
    let mut waiting = Wire::connect(pooler.port());
    waiting.startup(&[("user", "username"), ("database", "database")]);
    let mut console = Wire::login(
        pooler.port(),
        "username",
        crate::support::cluster::PASSWORD,
        "aether",
    );
    wait_until("it is said", || {
        let pools = show(&mut console, "POOLS WHERE cl_waiting > 0");
        let clients = show(&mut console, "CLIENTS WHERE state = 'waiting'");
        let said = |row: &Row| {
            row.get("waits_for")
                .is_some_and(|text| text.contains("can be reached") && text.contains("refused"))
        };
        pools.first().is_some_and(said) && clients.first().is_some_and(said)
    });
}

/// SUSPEND: nobody but the console is served, until RESUME; then everybody is, and nothing was lost.
#[test]
fn suspend_stops_everything_but_the_console_until_resume() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "console_suspend", "  mode: transaction\n");
    let mut console = scene.console();
    let mut client = scene.login();
    assert_eq!(kinds(&console.run("SUSPEND")), "CZ");
    let yes =
        |console: &mut Wire| show(console, "STATE WHERE key = 'suspended'")[0]["value"].clone();
    assert_eq!(yes(&mut console), "yes");
    assert_eq!(
        console.error("SUSPEND").message(),
        "already suspended/paused"
    );
    client.send_message(b'Q', &terminated("SELECT 1"));
    thread::sleep(Duration::from_millis(300));
    let pools = show(&mut console, "POOLS");
    let pool = row(&pools, "database", &scene.database);
    assert_eq!(number(pool, "sv_active"), 0, "nothing has moved");
    assert_eq!(kinds(&console.run("RESUME")), "CZ");
    assert_eq!(
        client
            .read_until(b'Z')
            .iter()
            .filter_map(Message::row)
            .count(),
        1
    );
    assert_eq!(yes(&mut console), "no");
}

/// Issue 7: the commands that change something, their tags, what they wait for, and what they say when they are given twice.
#[test]
fn control_commands_do_what_they_say() {
    let cluster = Cluster::shared();
    let keys = "  mode: transaction\n  max_connections: 2\n";
    let scene = Scene::new(cluster, "console_control", keys);
    let database = scene.database.clone();
    let mut console = scene.console();
    let tag = |answer: &[Message]| {
        let done = answer.iter().find(|message| message.kind == b'C');
        done.map(|done| {
            String::from_utf8_lossy(&done.body)
                .trim_end_matches('\0')
                .to_owned()
        })
    };
    let mut client = scene.login();
    client.run("SELECT 1");
    // PAUSE waits for the transaction, others see what it waits for, and RESUME lets go on who waits.
    client.run("BEGIN");
    thread::scope(|threads| {
        let mut pauser = scene.console();
        let paused = threads.spawn(move || pauser.run(&format!("PAUSE {}", "console_control")));
        wait_until("it is told what PAUSE waits for", || {
            let rows = show(&mut console, "CLIENTS WHERE waits_for LIKE 'PAUSE%'");
            rows.first()
                .is_some_and(|row| row["waits_for"].contains("1 server connections"))
        });
        let databases = show(&mut console, "DATABASES");
        assert_eq!(row(&databases, "name", &database)["paused"], "1");
        client.run("COMMIT");
        assert_eq!(
            tag(&paused.join().expect("paused")).as_deref(),
            Some("PAUSE")
        );
    });
    let late = scene.login();
    thread::scope(|threads| {
        let mut late = late;
        let waits = threads.spawn(move || late.run("SELECT 1").len());
        wait_until("it waits for RESUME", || {
            let rows = show(&mut console, "POOLS WHERE cl_waiting > 0");
            rows.first()
                .is_some_and(|row| row["waits_for"].contains("RESUME"))
        });
        assert_eq!(
            kinds(&console.run(&format!("PAUSE {database}"))),
            "CZ",
            "again"
        );
        assert_eq!(
            tag(&console.run(&format!("RESUME {database}"))).as_deref(),
            Some("RESUME")
        );
        assert!(waits.join().expect("served") > 0);
    });
    assert_eq!(
        kinds(&console.run(&format!("RESUME {database}"))),
        "NCZ",
        "it is not paused"
    );
    // A timeout undoes it.
    client.run("BEGIN");
    let error = console.error(&format!("PAUSE {database} TIMEOUT '200ms'"));
    assert_eq!(error.sqlstate(), "57014", "{error:?}");
    assert!(
        error
            .message()
            .contains("1 server connections are still in use"),
        "{error:?}"
    );
    let databases = show(&mut console, "DATABASES");
    assert_eq!(row(&databases, "name", &database)["paused"], "0");
    client.run("COMMIT");
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    // RECONNECT and WAIT_CLOSE.
    let before = client.value("SELECT pg_backend_pid()");
    console.run("RECONNECT");
    assert_eq!(
        tag(&console.run("WAIT_CLOSE TIMEOUT '5s'")).as_deref(),
        Some("WAIT_CLOSE")
    );
    assert_ne!(client.value("SELECT pg_backend_pid()"), before);
    // DISABLE and ENABLE.
    console.run(&format!("DISABLE {database}"));
    assert!(scene.try_login().is_err());
    console.run(&format!("ENABLE {database}"));
    scene.login().terminate();
    // One client is cancelled, another one killed.
    let id = |console: &mut Wire, filter: &str| {
        let rows = show(
            console,
            &format!("CLIENTS WHERE database = '{database}' {filter}"),
        );
        rows.first().map(|row| row["id"].clone())
    };
    thread::scope(|threads| {
        let client = &mut client;
        let sleeps = threads.spawn(move || client.error("SELECT pg_sleep(60)"));
        let mut found = None;
        wait_until("it runs", || {
            found = id(&mut console, "AND state = 'active'");
            found.is_some()
        });
        thread::sleep(Duration::from_millis(200));
        console.run(&format!("CANCEL_CLIENT {}", found.expect("it runs")));
        assert_eq!(sleeps.join().expect("cancelled").sqlstate(), "57014");
    });
    let victim = id(&mut console, "").expect("it is there");
    console.run(&format!("KILL_CLIENT {victim}"));
    let error = first_error(&client.read_to_end()).expect("it is told");
    assert_eq!(error.sqlstate(), "57P01");
    assert_eq!(
        console.error("KILL_CLIENT 999999").message(),
        "client not found"
    );
    // What is wrong is named, with the form.
    for (command, text, hint) in [
        ("PAUSE nobody", "no such database: nobody", "SHOW DATABASES"),
        ("PAUSE pgbouncer", "cannot pause admin db: pgbouncer", ""),
        ("DISABLE", "a database is required", "DISABLE database"),
        (
            "KILL_CLIENT x",
            "invalid client pointer supplied",
            "KILL_CLIENT id",
        ),
        ("PAUSE a b", "bad arguments", "PAUSE [database]"),
        ("RELOAD NOW", "bad arguments", "RELOAD [DRY RUN]"),
    ] {
        let error = console.error(command);
        assert_eq!(error.message(), text);
        assert!(error.hint().contains(hint), "{error:?}");
    }
}

/// SET, ADD DATABASE, DROP DATABASE, RELOAD and RELOAD DRY RUN: all of it or nothing, until the next reload.
#[test]
fn the_configuration_is_changed_from_the_console() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "console_settings", "  max_connections: 2\n");
    let mut console = scene.console();
    console.run("SET pool.max_connections = 5");
    assert_eq!(scene.pool("max_connections"), 5);
    console.run("SET query_wait_timeout = '7'");
    let config = show(&mut console, "CONFIG WHERE key = 'pool.acquire_timeout'");
    assert_eq!(config[0]["value"], "7s");
    let error = console.error("SET pool.max_conections = 5");
    assert_eq!(error.message(), "SET failed");
    assert!(error.field(b'D').contains("max_connections"), "{error:?}");
    assert_eq!(console.error("SET server.user = 'me'").sqlstate(), "55P02");
    // The option of PgBouncer's is answered as there, whatever the value, and nothing comes of it.
    for command in ["SET user = 'me'", "SET listen_port = 'none'"] {
        let answer = console.run(command);
        assert_eq!(kinds(&answer), "NCZ", "{command}");
        let notice = answer[0].notice().expect("a notice");
        assert!(
            notice.message().contains("while the process runs"),
            "{notice:?}"
        );
    }
    let config = show(&mut console, "CONFIG WHERE key = 'listen_port'");
    assert_eq!(config[0]["value"], scene.pooler.port().to_string());
    // The file says something else: told beforehand, and then done.
    let other = cluster.database("console_other");
    let dsn = tcp(cluster, &scene.database);
    let more = format!(
        "  max_connections: 3\ndatabases: {{{other}: {{backend: {{database: {other}}}}}}}\n"
    );
    scene
        .pooler
        .rewrite_config(&crate::support::scene::yaml(&dsn, ", user: nobody", &more));
    let plan = show(&mut console, "VERSION");
    assert_eq!(plan.len(), 1);
    let answer = console.run("RELOAD DRY RUN");
    let rows = listed(&answer, &["key", "now", "then", "effect"]);
    let has = |text: &str| rows.iter().any(|row| row.contains(text));
    assert!(has(&format!("databases.{other}  there added")), "{rows:?}");
    assert!(has("server.user  nobody takes a restart"), "{rows:?}");
    assert!(has("max_connections 5 3 at once"), "{rows:?}");
    assert_eq!(scene.pool("max_connections"), 5, "nothing was done");
    console.run("RELOAD");
    assert_eq!(scene.pool("max_connections"), 3);
    scene.pooler.rewrite_config("nonsense: [");
    assert_eq!(console.error("RELOAD").sqlstate(), "F0000");
    assert_eq!(console.error("RELOAD DRY RUN").sqlstate(), "F0000");
    // Databases come and go, in a file that is what was read last.
    let dsn = tcp(cluster, &other);
    assert!(
        console
            .error(&format!("ADD DATABASE added '{dsn}'"))
            .field(b'D')
            .contains("has changed since it was read")
    );
    let own = tcp(cluster, &scene.database);
    scene
        .pooler
        .rewrite_config(&crate::support::scene::yaml(&own, ", user: nobody", &more));
    console.run(&format!("ADD DATABASE added '{dsn}'"));
    let password = crate::support::cluster::PASSWORD;
    let mut client = Wire::login(scene.pooler.port(), "username", password, "added");
    assert_eq!(client.value("SELECT current_database()"), Some(other));
    assert_eq!(console.error("ADD DATABASE added").sqlstate(), "42P04");
    console.run("DROP DATABASE added");
    let parameters = [("user", "username"), ("database", "added")];
    let gone = Wire::try_login(scene.pooler.port(), &parameters, password);
    assert_eq!(gone.err().expect("it is gone").sqlstate(), "3D000");
    assert_eq!(
        client.value("SELECT 1").as_deref(),
        Some("1"),
        "who was there goes on"
    );
    assert_eq!(console.error("DROP DATABASE added").sqlstate(), "3D000");
    scene.pool("max_connections");
}

/// SHUTDOWN ends the process: at once without a word, or when the clients have gone.
#[test]
fn shutdown_ends_the_process() {
    let cluster = Cluster::shared();
    let mut scene = Scene::new(cluster, "console_shutdown", "");
    let mut console = scene.console();
    console.send_message(b'Q', &terminated("SHUTDOWN"));
    assert_eq!(kinds(&console.read_to_end()), "");
    assert!(scene.pooler.wait_for_end(Duration::from_secs(10)).is_some());
    let mut scene = Scene::new(cluster, "console_shutdown", "");
    let mut client = scene.login();
    let mut console = scene.console();
    assert_eq!(kinds(&console.run("SHUTDOWN WAIT_FOR_CLIENTS")), "CZ");
    console.terminate();
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    client.terminate();
    assert!(scene.pooler.wait_for_end(Duration::from_secs(10)).is_some());
}
