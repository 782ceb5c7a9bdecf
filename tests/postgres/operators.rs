//! What an operator needs when something is wrong: the log says why clients wait, a command that waits can be given up, averages are
//! those of the period that was asked for.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::cluster::{self, PASSWORD};
use crate::support::process;
use crate::support::scene::{show, tcp, yaml};
use crate::support::wire::first_error;
use crate::support::{Cluster, Pooler, Scene, Wire, wait_until};

const ONE: &str = "  mode: transaction\n  max_connections: 1\nlog: {long_wait: 200ms}\n";

/// One line when a wait has become long, one when it is over, whatever has been waited for.
#[test]
fn the_log_says_why_clients_wait_and_for_how_long() {
    let scene = Scene::new(Cluster::shared(), "operators_wait", ONE);
    let name = scene.database.clone();
    let mut holder = scene.login();
    let mut waiter = scene.login();
    holder.run("BEGIN");
    thread::scope(|threads| {
        let waits = threads.spawn(|| waiter.run("SELECT 1"));
        scene.pooler.wait_for_log(&format!(
            "[WARN] pool {name}: 1 client waits for long, the first (username) for "
        ));
        let why = "it waits for room: 1 of 1 servers are in use (max_connections)";
        assert!(scene.pooler.log_contains(why), "{}", scene.pooler.log());
        // And no more, however long that goes on.
        thread::sleep(Duration::from_secs(1));
        assert_eq!(scene.pooler.log().matches("waits for long").count(), 1);
        holder.run("COMMIT");
        waits.join().expect("it is served");
    });
    scene.pooler.wait_for_log(&format!(
        "[INFO] pool {name}: clients wait for long no more; they did for "
    ));
    // An operator's own doing.
    scene.console().run(&format!("PAUSE {name}"));
    thread::scope(|threads| {
        let waits = threads.spawn(|| waiter.run("SELECT 1"));
        scene
            .pooler
            .wait_for_log("it waits for RESUME: the database is paused");
        scene.console().run(&format!("RESUME {name}"));
        waits.join().expect("it is served");
    });
}

#[test]
fn the_log_says_that_a_server_is_down_with_its_own_error() {
    let free = process::free_port();
    let dsn = format!("postgres://username:{PASSWORD}@127.0.0.1:{free}/nowhere?sslmode=disable");
    let trust = format!("{ONE}auth: {{type: trust, allow_insecure: true}}\n");
    let pooler = Pooler::start(&yaml(&dsn, "", &trust));
    // What it is told first is told once there is a server.
    let mut client = Wire::connect(pooler.port());
    client.startup(&[("user", "username"), ("database", "nowhere")]);
    pooler.wait_for_log("pool nowhere: 1 client waits for long");
    let log = pooler.log();
    let line = log.lines().find(|line| line.contains("waits for long"));
    let line = line.expect("it was there");
    assert!(
        line.contains("a server that can be reached") && line.contains("refused"),
        "{line}"
    );
}

/// A login that the server refuses is told to its client at once. Whoever comes after that waits for the next attempt, and why it may take
/// long is what the server said last: to this role. Another one's error was shown as well, and to whoever waited for room.
#[test]
fn a_login_that_fails_is_why_those_wait_who_would_log_in_so() {
    let cluster = Cluster::start_with(&cluster::Options {
        hba: vec!["host all barred all reject".to_owned()],
        ..cluster::Options::default()
    });
    cluster.sql("postgres", "CREATE ROLE rotated LOGIN PASSWORD 'old'");
    cluster.sql("postgres", "CREATE ROLE barred LOGIN");
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nadmin: {{users: [username]}}\nlog: {{long_wait: 200ms}}\n\
         pool: {{dsn: \"postgres://127.0.0.1:{}/database?sslmode=disable\", connect_timeout: 60s, max_connections: 2}}\n\
         databases: {{rotated: {{backend: {{database: database}}}}, barred: {{backend: {{database: database}}}}}}\n\
         auth: {{type: trust, allow_insecure: true, users: {{username: {PASSWORD}, rotated: new, barred: \"no\", clear_user: {PASSWORD}}}}}\n",
        cluster.port()
    ));
    let mut console = Wire::login(pooler.port(), "username", PASSWORD, "aether");
    for (role, sqlstate, error) in [
        (
            "rotated",
            "28P01",
            "password authentication failed for user \"rotated\"",
        ),
        (
            "barred",
            "28000",
            "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"barred\", database \"database\", no encryption",
        ),
    ] {
        let parameters = [("user", role), ("database", role)];
        let refused = Wire::try_login(pooler.port(), &parameters, "").err();
        let refused = refused.expect("the server refuses");
        assert_eq!((refused.sqlstate(), refused.message()), (sqlstate, error));
        cluster.sql("postgres", "ALTER ROLE rotated PASSWORD 'new'");
        cluster.freeze();
        let mut waiting = Wire::connect(pooler.port());
        waiting.startup(&parameters);
        let why = format!("a server that lets {role} in: {error}");
        pooler.wait_for_log(&format!(
            "[WARN] pool {role}: 1 client waits for long, the first ({role}) for "
        ));
        let log = pooler.log();
        let line = log.lines().rfind(|line| line.contains("waits for long"));
        assert!(
            line.is_some_and(|line| line.ends_with(&format!("it waits for {why}"))),
            "{line:?}"
        );
        // Somebody else in the same pool, who was not refused.
        let mut other = Wire::connect(pooler.port());
        other.startup(&[("user", "clear_user"), ("database", role)]);
        let of = |console: &mut Wire, user: &str| {
            let rows = show(
                console,
                &format!("POOLS WHERE database = '{role}' AND user = '{user}'"),
            );
            rows.first().cloned().unwrap_or_default()
        };
        wait_until("both wait", || {
            of(&mut console, "clear_user")
                .get("cl_waiting")
                .is_some_and(|count| count == "1")
        });
        let row = of(&mut console, role);
        let seconds = row["maxwait"].parse::<u64>().expect("a number");
        let waited = seconds * 1_000_000 + row["maxwait_us"].parse::<u64>().expect("a number");
        assert!(waited >= 200_000, "it is what the log calls long: {row:?}");
        assert_eq!((&*row["cl_waiting"], &*row["waits_for"]), ("1", &*why));
        assert_eq!(row["last_error"], error);
        let row = of(&mut console, "clear_user");
        assert_eq!(row["waits_for"], "a server connection that is being made");
        let of_client = show(&mut console, &format!("CLIENTS WHERE user = '{role}'"));
        assert_eq!(of_client[0]["waits_for"], why);
        cluster.thaw();
        other.read_until(b'Z');
        if role == "barred" {
            let refused = first_error(&waiting.read_to_end()).expect("it is told");
            assert_eq!((refused.sqlstate(), refused.message()), (sqlstate, error));
        } else {
            waiting.read_until(b'Z'); // with the password that is right now
        }
        pooler.wait_for_log(&format!(
            "[INFO] pool {role}: clients wait for long no more; they did for "
        ));
    }
}

/// psql's Ctrl-C: what PAUSE had begun is undone, the session goes on.
#[test]
fn a_command_that_waits_can_be_cancelled() {
    let scene = Scene::new(Cluster::shared(), "operators_cancel", ONE);
    let mut holder = scene.login();
    holder.run("BEGIN");
    let mut console = scene.console();
    let paused = || {
        let rows = scene.show(&format!("DATABASES WHERE name = '{}'", scene.database));
        rows[0]["paused"].clone()
    };
    let waits = || {
        let rows = scene.show("CLIENTS WHERE waits_for LIKE 'PAUSE%'");
        rows.len() == 1
    };
    console.send_message(b'Q', format!("PAUSE {}\0", scene.database).as_bytes());
    wait_until("it waits", waits);
    assert_eq!(paused(), "1");
    console.cancel();
    let answer = console.read_until(b'Z');
    let error = crate::support::wire::first_error(&answer).expect("an error");
    assert_eq!(error.sqlstate(), "57014");
    assert_eq!(error.message(), "canceling statement due to user request");
    assert_eq!(paused(), "0");
    // Nothing to cancel is nothing.
    console.cancel();
    assert_eq!(show(&mut console, "VERSION").len(), 1);
    // Two wait for the same: what one of them wants no more, the other still does.
    let mut other = scene.console();
    for console in [&mut console, &mut other] {
        console.send_message(b'Q', format!("PAUSE {}\0", scene.database).as_bytes());
    }
    wait_until("both wait", || {
        scene.show("CLIENTS WHERE waits_for LIKE 'PAUSE%'").len() == 2
    });
    console.cancel();
    console.read_until(b'Z');
    assert_eq!(paused(), "1");
    holder.run("COMMIT");
    let answer = other.read_until(b'Z');
    assert_eq!(crate::support::wire::first_error(&answer), None);
    other.run(&format!("RESUME {}", scene.database));
    // As psql does it.
    holder.run("BEGIN");
    let psql = Cluster::shared().program("psql");
    let mut command = process::command(&psql);
    command.args([
        "-X",
        "-h",
        "127.0.0.1",
        "-U",
        "username",
        "-d",
        "aether",
        "-p",
    ]);
    command.arg(scene.pooler.port().to_string());
    command
        .arg("-c")
        .arg(format!("WAIT_CLOSE {}", scene.database));
    command.env("PGPASSWORD", PASSWORD).stderr(Stdio::piped());
    other.run(&format!("RECONNECT {}", scene.database));
    let child = process::spawn(command).expect("psql");
    wait_until("it waits", || {
        scene
            .show("CLIENTS WHERE waits_for LIKE 'WAIT_CLOSE%'")
            .len()
            == 1
    });
    process::signal(child.id(), Signal::SIGINT);
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("canceling statement due to user request"),
        "{text}"
    );
    holder.run("COMMIT");
}

#[test]
fn averages_are_those_of_the_period_that_was_asked_for() {
    let cluster = Cluster::shared();
    let database = cluster.database("operators_period");
    let text = |period: &str| {
        let server = format!(", stats_period: {period}");
        yaml(
            &tcp(cluster, &database),
            &server,
            "log: {log_stats: true}\n",
        )
    };
    let pooler = Pooler::start(&text("1h"));
    let mut client = Wire::login(pooler.port(), "username", PASSWORD, &database);
    let mut console = Wire::login(pooler.port(), "username", PASSWORD, "aether");
    for _ in 0..200 {
        client.run("SELECT 1");
    }
    let average = |console: &mut Wire| -> u64 {
        let rows = show(console, "STATS");
        let row = rows.iter().find(|row| row["database"] == database);
        row.expect("its row")["avg_query_count"]
            .parse()
            .expect("a number")
    };
    assert_eq!(average(&mut console), 0, "the hour is not over");
    // A shorter one is taken over by a reload, and the period that runs ends by it.
    pooler.rewrite_config(&text("500ms"));
    let begin = Instant::now();
    pooler.signal(Signal::SIGHUP);
    wait_until("the period is over", || average(&mut console) > 0);
    assert!(begin.elapsed() < Duration::from_secs(10));
    pooler.wait_for_log("queries/s");
    wait_until("nothing happens in the next one", || {
        average(&mut console) == 0
    });
}
