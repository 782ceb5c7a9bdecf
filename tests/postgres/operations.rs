//! What an operator does: the command line, signals, reloads, the log, the console, and the configuration of the README.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::support::cluster::PASSWORD;
use crate::support::pooler::binary;
use crate::support::process::{self, Place};
use crate::support::scene::{self, SHOWN, columns, tcp, yaml};
use crate::support::wire::{first_error, kinds, terminated};
use crate::support::{Cluster, Pooler, Scene, Wire, wait_for, wait_until};

/// Long enough for anything that should happen at once.
const SOON: Duration = Duration::from_secs(10);

const CANARY: &str = "canary-b5c0f1";

fn aether(place: &Place, arguments: &[&str]) -> Output {
    let mut command = process::command(binary());
    command.args(arguments).current_dir(place.path());
    command.output().expect("it runs")
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn open_files(pid: u32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
    files.expect("it runs").count()
}

#[track_caller]
fn login_error(pooler: &Pooler, user: &str, database: &str) -> crate::support::ServerError {
    let parameters = [("user", user), ("database", database)];
    let refused = Wire::try_login(pooler.port(), &parameters, PASSWORD).err();
    refused.expect("a refusal")
}

#[test]
fn the_command_line_is_what_the_help_says() {
    let place = Place::new("command-line");
    let dsn = format!("postgres://someone:{CANARY}@127.0.0.1:1/marker");
    let good = place.write("good.yaml", &format!("pool: {{dsn: \"{dsn}\"}}\n"));
    let good = good.to_str().expect("a path");

    for help in ["--help", "-h", "-help"] {
        let output = aether(&place, &[help]);
        assert!(output.status.success());
        for word in ["--check", "--config", "--version", "SIGHUP"] {
            assert!(said(&output).contains(word), "{word}");
        }
    }
    let version = format!("aether {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(said(&aether(&place, &["--version"])), version);
    assert_eq!(said(&aether(&place, &["-V"])), version);

    let by_equals = format!("--config={good}");
    let single = format!("-config={good}");
    let ways: [&[&str]; 8] = [
        &["--check", good],
        &["-check", good],
        &["-v", "-check", "-config", good],
        &["--check", "--config", good],
        &["--check", "-config", good],
        &["-config", good, "--check"],
        &["--check", &by_equals],
        &["--check", &single],
    ];
    for way in ways {
        let output = aether(&place, way);
        assert!(output.status.success(), "{way:?}: {}", said(&output));
        assert!(said(&output).contains("marker"), "{way:?}");
        assert!(said(&output).contains("acquire_timeout: 30s"), "{way:?}");
        assert!(!said(&output).contains(CANARY), "{way:?}");
    }

    let output = aether(&place, &["--check"]);
    assert_eq!(output.status.code(), Some(1));
    let nowhere = "neither ./aether.yaml nor /etc/aether/aether.yaml is there";
    assert!(said(&output).contains(nowhere), "{}", said(&output));
    place.write("aether.yaml", &format!("pool: {{dsn: \"{dsn}\"}}\n"));
    assert!(said(&aether(&place, &["--check"])).contains("marker"));

    // `-check` was taken for -c -h -e -c -k: help, and status 0 for a file that nobody had looked at.
    let wrong: [(&[&str], &str); 7] = [
        (&["--chekc"], "unknown option \"--chekc\""),
        (&["-chek", good], "unknown option \"-chek\""),
        (&["-Vx"], "unknown option \"-Vx\""),
        (&["-check", "no-such-file.yaml"], "no-such-file.yaml"),
        (&[good, good], "more than one configuration file"),
        (
            &["--config", good, good],
            "more than one configuration file",
        ),
        (&["--config"], "--config"),
    ];
    for (way, why) in wrong {
        let output = aether(&place, way);
        assert_eq!(output.status.code(), Some(1), "{way:?}");
        assert!(said(&output).contains(why), "{way:?}: {}", said(&output));
        let with_help = said(&output).contains("--help") || way.contains(&"no-such-file.yaml");
        assert!(with_help, "{way:?}");
    }
}

#[test]
fn a_wrong_file_is_refused_with_its_line_and_the_nearest_name() {
    let cluster = Cluster::shared();
    let text = yaml(&tcp(cluster, "database"), "", "  max_conections: 5\n");
    let refused = Pooler::try_start(&text).err().expect("an unknown key");
    assert_eq!(refused.status.code(), Some(1));
    for word in ["aether.yaml:5", "max_conections", "max_connections"] {
        assert!(refused.log.contains(word), "{}", refused.log);
    }
    assert!(!refused.log.contains(PASSWORD), "{}", refused.log);
}

/// R12.
#[test]
fn root_has_to_say_whom_to_become() {
    if !geteuid().is_root() {
        return; // only root can be refused for being root
    }
    let place = Place::new("root");
    let config = "server: {listen_addr: \"127.0.0.1:0\"}\n\
                  pool: {dsn: \"postgres://someone:else@127.0.0.1:1/somewhere\"}\n";
    let config = place.write("aether.yaml", config);
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.arg(&config).args(arguments);
        command.output().expect("it runs")
    };
    for (arguments, why) in [
        (&[][..], "refuses to run as root"),
        (&["--user", "root"], "is root"),
        (&["-u", "no_such_user_here"], "there is no user"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(why), "{}", said(&output));
    }
    // It can still check a file, and says what is to come.
    let checked = run(&["--check"]);
    assert!(checked.status.success() && !said(&checked).contains("warning"));
    for (name, why) in [
        ("root", "\"root\" is root"),
        (
            "no_such_user_here",
            "there is no user \"no_such_user_here\"",
        ),
    ] {
        let checked = run(&["--check", "-u", name]);
        assert!(checked.status.success());
        assert!(said(&checked).contains(why), "{}", said(&checked));
    }
}

/// Read as root at the start, and not any more at the first SIGHUP.
#[test]
fn files_that_the_user_to_become_cannot_read_are_told_at_the_start() {
    let Some(user) = process::server_user() else {
        return; // only root can become somebody else
    };
    let place = Place::new("unreadable");
    let config = place.write(
        "aether.yaml",
        &format!(
            "server: {{listen_addr: \"127.0.0.1:{}\"}}\npool: {{dsn: \"postgres://u:{CANARY}@127.0.0.1:1/d\"}}\n\
             auth: {{users: {{u: {{password_file: secret}}}}}}\n",
            process::free_port()
        ),
    );
    let start = |mode| {
        let secret = place.path().join("secret");
        std::fs::write(&secret, CANARY).expect("a file of root's");
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).expect("chmod");
        let log = place.path().join("log");
        let mut child = Command::new(binary())
            .args([config.as_os_str(), "-u".as_ref(), user.name.as_ref()])
            .stderr(std::fs::File::create(&log).expect("its log"))
            .spawn()
            .expect("it runs");
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        wait_for(SOON, || log().contains("started, process"));
        child.kill().expect("it runs");
        child.wait().expect("it is ours");
        log()
    };
    let log = start(0o600);
    let text = format!(
        "a reload would fail: user \"{}\" cannot read what root could: ",
        user.name
    );
    assert!(
        log.contains(&text) && log.contains("password_file"),
        "{log}"
    );
    let log = start(0o644);
    assert!(log.contains("started") && !log.contains("WARN"), "{log}");
}

#[test]
fn a_broken_file_changes_nothing_at_reload_and_says_where_it_is_broken() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "operations_broken", "  max_connections: 1\n");
    let dsn = tcp(cluster, &scene.database);
    let mut client = scene.login();
    let broken = [
        (
            "  max_connections: 9\n  max_conections: 5\n",
            "aether.yaml:6",
        ),
        (
            "  max_connections: 9\n  acquire_timeout: 5 parsecs\n",
            "aether.yaml:6",
        ),
        ("  max_connections: [\n", "aether.yaml"),
    ];
    for (count, (keys, place)) in broken.into_iter().enumerate() {
        scene.pooler.rewrite_config(&yaml(&dsn, "", keys));
        scene.pooler.signal(Signal::SIGHUP);
        let refused = "the configuration was not reloaded, the old one stays in force";
        wait_until("it says so", || {
            scene.pooler.log().matches(refused).count() == count + 1
        });
        assert!(scene.pooler.log_contains(place), "{keys}");
        assert_eq!(scene.pool("max_connections"), 1);
        assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    }
    assert!(!scene.pooler.log_contains(PASSWORD));
    scene
        .pooler
        .rewrite_config(&yaml(&dsn, "", "  max_connections: 2\n"));
    scene.pooler.signal(Signal::SIGHUP);
    scene.wait_for_pool("max_connections", 2);
}

#[test]
fn a_reload_changes_the_log_level_and_says_what_takes_a_restart() {
    let cluster = Cluster::shared();
    let dsn = tcp(cluster, "database");
    let pooler = Pooler::start(&yaml(&dsn, ", log_level: warn", ""));
    pooler.rewrite_config(&yaml(&dsn, ", log_level: info", "").replace("{port}", "1"));
    pooler.signal(Signal::SIGHUP);
    pooler.wait_for_log("the configuration was reloaded");
    let bound = pooler.port();
    pooler.wait_for_log(&format!(
        "server.listen_addr: 127.0.0.1:1 takes a restart; 127.0.0.1:{bound} stays in force"
    ));
    // It was compared with the file that was read last: the second time nothing was said, and going back was a change.
    let reload = |text: &str| {
        let before = pooler.log().matches("was reloaded").count();
        pooler.rewrite_config(text);
        pooler.signal(Signal::SIGHUP);
        wait_until("it is reloaded", || {
            pooler.log().matches("was reloaded").count() > before
        });
    };
    let warnings = || pooler.log().matches("takes a restart").count();
    let secret = yaml(&dsn, ", log_level: info", "") + "auth: {mock_secret: another}\n";
    reload(&secret);
    pooler.wait_for_log("auth.mock_secret takes a restart");
    let before = warnings();
    reload(&yaml(&dsn, ", log_level: info", "").replace("{port}", "1"));
    assert_eq!(warnings(), before + 1, "it is still so");
    reload(&yaml(&dsn, ", log_level: info", ""));
    assert_eq!(warnings(), before + 1, "that is what is in force");
    reload(&yaml(&dsn, ", log_level: info, user: somebody", ""));
    pooler.wait_for_log("server.user: \"somebody\" takes a restart; ");
    assert_eq!(warnings(), before + 2, "and the address is as it was");
    let client = Wire::login(pooler.port(), "username", PASSWORD, "database");
    client.terminate();
    pooler.wait_for_log("closing because: client close request");
}

#[test]
fn a_reload_applies_to_those_who_are_there() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "operations_reload", "  max_connections: 1\n");
    let dsn = tcp(cluster, &scene.database);
    let reload = |text: &str| {
        let before = scene.pooler.log().matches("was reloaded").count();
        scene.pooler.rewrite_config(text);
        scene.pooler.signal(Signal::SIGHUP);
        wait_until("it is reloaded", || {
            scene.pooler.log().matches("was reloaded").count() > before
        });
    };
    let mut holder = scene.login();
    thread::scope(|threads| {
        let waiter = threads.spawn(|| scene.login());
        scene.wait_for_pool("cl_waiting", 1);
        reload(&yaml(&dsn, "", "  max_connections: 2\n"));
        // The one that waits is served by the room that there is now.
        let waiter = waiter.join().expect("served");
        // Fewer again: nobody is thrown out, and the surplus goes when it is released.
        reload(&yaml(
            &dsn,
            "",
            "  max_connections: 1\n  acquire_timeout: 300ms\n  reset_query: null\n",
        ));
        let error = scene.try_login().err().expect("it is full");
        assert_eq!(error.sqlstate(), "53300");
        waiter.terminate();
        scene.wait_for_pool("total_connections", 1);
    });
    holder.run("SET work_mem = '7MB'");
    let pid = holder.pid;
    holder.terminate();
    let mut next = scene.login();
    assert_eq!(next.pid, pid);
    assert_eq!(next.value("SHOW work_mem").as_deref(), Some("7MB"));

    // Another place: the session stays where it is, its server is not used again.
    let other = cluster.database("operations_moved");
    let dsn = tcp(cluster, &other);
    reload(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\npool:\n  dsn: \"{dsn}\"\n  max_connections: 2\n\
         databases: {{{0}: {{backend: {{database: {other}}}}}}}\nauth: {{users: {{username: {PASSWORD}, second: two}}}}\n\
         admin: {{users: [second], stats_users: [username]}}\n",
        scene.database
    ));
    let whereami = "SELECT current_database()";
    assert_eq!(next.value(whereami), Some(scene.database.clone()));
    let mut moved = scene.login();
    assert_eq!(moved.value(whereami), Some(other));
    next.terminate();
    moved.terminate();
    scene.wait_for_pool("sv_active", 0);
    wait_until("the old server is gone", || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
        cluster.sql("postgres", &sql) == "0"
    });
    // New users count too.
    let console = [("user", "second"), ("database", "aether")];
    assert!(Wire::try_login(scene.pooler.port(), &console, "two").is_ok());
}

#[test]
fn a_database_that_is_gone_from_the_file_serves_its_sessions_and_no_new_ones() {
    let cluster = Cluster::shared();
    let kept = cluster.database("operations_kept");
    let text = |databases: &str| {
        format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\npool: {{dsn: \"{}\", max_connections: 1}}\n\
             databases: {{{databases}}}\nauth: {{type: trust, allow_insecure: true}}\nadmin: {{users: [username]}}\n",
            tcp(cluster, &kept)
        )
    };
    let pooler = Pooler::start(&text("gone: {}, stays: {}"));
    let mut session = Wire::login(pooler.port(), "username", PASSWORD, "gone");
    let mut waiter = Wire::connect(pooler.port());
    waiter.startup(&[("user", "username"), ("database", "gone")]);
    let mut console = Wire::login(pooler.port(), "username", PASSWORD, "aether");
    let mut waiting = |count| {
        wait_until("somebody waits", || {
            scene::pool(&scene::show(&mut console, "POOLS"), "gone", "cl_waiting") == count
        });
    };
    waiting(1);
    pooler.rewrite_config(&text("stays: {}"));
    pooler.signal(Signal::SIGHUP);
    let error = first_error(&waiter.read_to_end()).expect("it is told");
    assert_eq!(error.sqlstate(), "57P01", "{error:?}");
    assert_eq!(login_error(&pooler, "username", "gone").sqlstate(), "3D000");
    assert_eq!(session.value("SELECT 1").as_deref(), Some("1"));
    session.terminate();
    wait_until("the pool is gone", || {
        let rows = scene::show(&mut console, "POOLS");
        rows.iter().all(|row| row["database"] != "gone")
    });
    Wire::login(pooler.port(), "username", PASSWORD, "stays").terminate();
    // And it may come back.
    pooler.rewrite_config(&text("gone: {}, stays: {}"));
    pooler.signal(Signal::SIGHUP);
    wait_until("it is back", || {
        let parameters = [("user", "username"), ("database", "gone")];
        Wire::try_login(pooler.port(), &parameters, PASSWORD).is_ok()
    });
}

/// Its pool is there for as long as somebody has a session, and takes nobody who has not shown yet who he is.
#[test]
fn who_logs_in_while_its_database_is_removed_is_told_so() {
    let dsn = tcp(Cluster::shared(), "database");
    let text = |databases: &str| {
        format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\npool: {{dsn: \"{dsn}\"}}\n\
             databases: {{{databases}}}\nauth: {{users: {{username: {PASSWORD}}}}}\n"
        )
    };
    let pooler = Pooler::start(&text("gone: {}, stays: {}"));
    let mut session = Wire::login(pooler.port(), "username", PASSWORD, "gone");
    let mut late = Wire::connect(pooler.port());
    late.startup(&[("user", "username"), ("database", "gone")]);
    let count = late.stream.peek(&mut [0]).expect("it is asked who it is");
    assert_eq!(count, 1);
    pooler.rewrite_config(&text("stays: {}"));
    pooler.signal(Signal::SIGHUP);
    pooler.wait_for_log("the configuration was reloaded");
    let error = match late.authenticate("username", PASSWORD) {
        Err(error) => error,
        Ok(()) => first_error(&late.read_to_end()).expect("it is told"),
    };
    assert_eq!(error.sqlstate(), "3D000", "{error:?}");
    assert_eq!(error.message(), "database \"gone\" does not exist");
    assert_eq!(error.hint(), "It was removed from Aether's configuration.");
    assert_eq!(session.value("SELECT 1").as_deref(), Some("1"));
}

/// G2.
#[test]
fn a_storm_of_reloads_disturbs_nobody_and_leaks_nothing() {
    let scene = Scene::new(
        Cluster::shared(),
        "operations_storm",
        "  max_connections: 4\n",
    );
    let visit = |count: usize| {
        for _ in 0..count {
            let mut client = scene.login();
            assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
            client.terminate();
        }
    };
    // Together, so that all servers are there that there may be.
    let clients: Vec<Wire> = (0..4).map(|_| scene.login()).collect();
    clients.into_iter().for_each(Wire::terminate);
    scene.wait_for_rest();
    let before = open_files(scene.pooler.pid());
    let over = AtomicBool::new(false);
    thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    visit(1);
                }
            });
        }
        for _ in 0..1_000 {
            scene.pooler.signal(Signal::SIGHUP);
            thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Ordering::Relaxed);
    });
    scene.wait_for_rest();
    wait_until("no more files are open than before", || {
        open_files(scene.pooler.pid()) <= before
    });
}

/// G3.
#[test]
fn sigterm_waits_for_the_clients_and_takes_no_new_ones() {
    let mut scene = Scene::new(Cluster::shared(), "operations_term", "");
    let mut client = scene.login();
    client.run("BEGIN");
    client.run("CREATE TABLE saved (n int)");
    scene.pooler.signal(Signal::SIGTERM);
    wait_until("it has stopped listening", || {
        !process::listening(scene.pooler.port())
    });
    scene.pooler.wait_for_log(
        "stopping: clients left: 1, servers in use: 1; those left after 30s are closed",
    );
    assert!(Wire::try_connect(scene.pooler.port()).is_err());
    client.run("COMMIT");
    assert_eq!(scene.pooler.ended(), None);
    client.terminate();
    let status = scene.pooler.wait_for_end(SOON).expect("nobody is left");
    assert_eq!(status.code(), Some(0));
    assert!(scene.pooler.log_contains("stopped"));
    Cluster::shared().sql(&scene.database, "SELECT * FROM saved");
}

/// G3: those who wait are told at once, those without a server when they need one, and everybody at the end.
#[test]
fn sigint_waits_for_the_servers_to_be_released() {
    let keys = "  server_assignment: first_query\n  max_connections: 1\n";
    let mut scene = Scene::new(Cluster::shared(), "operations_int", keys);
    let mut busy = scene.login();
    busy.run("SELECT 1");
    let mut idle = scene.login();
    let (mut silent, mut console) = (scene.login(), scene.console());
    let mut waiting = scene.login();
    waiting.send_message(b'Q', &terminated("SELECT 1"));
    scene.wait_for_pool("cl_waiting", 1);
    scene.pooler.signal(Signal::SIGINT);
    let told = |client: &mut Wire| {
        let error = first_error(&client.read_to_end()).expect("it is told");
        assert_eq!((error.severity(), error.sqlstate()), ("FATAL", "57P01"));
    };
    told(&mut waiting);
    idle.send_message(b'Q', &terminated("SELECT 1"));
    told(&mut idle);
    assert_eq!(busy.value("SELECT 1").as_deref(), Some("1"));
    assert_eq!(scene.pooler.ended(), None);
    busy.terminate();
    told(&mut silent);
    told(&mut console);
    let status = scene.pooler.wait_for_end(SOON).expect("it ends");
    assert_eq!(status.code(), Some(0));
}

/// Whoever the kernel has let in is served, though it has said nothing yet when the stop begins.
#[test]
fn who_has_connected_before_a_graceful_stop_is_served() {
    let mut scene = Scene::with_server(Cluster::shared(), "operations_let_in", "", "");
    let client = scene.login();
    let mut late = Wire::connect(scene.pooler.port());
    scene.pooler.signal(Signal::SIGTERM);
    wait_until("it listens no more", || {
        !process::listening(scene.pooler.port())
    });
    late.startup(&[("user", "username"), ("database", &scene.database)]);
    late.authenticate("username", PASSWORD)
        .expect("it is let in");
    late.read_until(b'Z');
    assert_eq!(late.value("SELECT 1").as_deref(), Some("1"));
    late.terminate();
    client.terminate();
    let status = scene.pooler.wait_for_end(SOON).expect("nobody is left");
    assert_eq!(status.code(), Some(0));
}

/// G3: bounded by shutdown_timeout; the rest is told why.
#[test]
fn a_graceful_stop_ends_after_shutdown_timeout() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut scene = Scene::with_server(
            Cluster::shared(),
            "operations_timeout",
            ", shutdown_timeout: 400ms",
            "",
        );
        let mut client = scene.login();
        client.run("BEGIN");
        scene.pooler.signal(signal);
        let error = first_error(&client.read_to_end()).expect("it is told");
        assert_eq!((error.severity(), error.sqlstate()), ("FATAL", "57P01"));
        drop(client);
        let status = scene.pooler.wait_for_end(SOON).expect("it ends");
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(scene.pooler.log_contains("shutdown_timeout is over"));
    }
}

/// G3.
#[test]
fn sigquit_or_a_second_signal_ends_it_at_once() {
    for signals in [
        &[Signal::SIGQUIT][..],
        &[Signal::SIGTERM, Signal::SIGTERM],
        &[Signal::SIGINT, Signal::SIGTERM],
        &[Signal::SIGTERM, Signal::SIGQUIT],
    ] {
        let keys = "";
        let mut scene = Scene::new(Cluster::shared(), "operations_quit", keys);
        let mut client = scene.login();
        client.run("BEGIN");
        let (last, first) = signals.split_last().expect("a signal");
        for signal in first {
            scene.pooler.signal(*signal);
            scene.pooler.wait_for_log("stopping");
            assert_eq!(scene.pooler.ended(), None);
        }
        scene.pooler.signal(*last);
        let status = scene.pooler.wait_for_end(SOON).expect("it ends at once");
        let said = if first.is_empty() {
            "stopping at once"
        } else {
            "second signal: ending at once"
        };
        assert!(scene.pooler.log_contains(said), "{signals:?}");
        assert_eq!(status.code(), Some(0), "{signals:?}");
        client.read_to_end();
    }
}

/// R10: at the most talkative level, through failures and successes.
#[test]
fn secrets_are_never_in_the_log_nor_in_the_console() {
    let cluster = Cluster::shared();
    let database = cluster.database("operations_secret");
    cluster.sql(
        "postgres",
        &format!(
            "DROP ROLE IF EXISTS secretive; CREATE ROLE secretive LOGIN PASSWORD '{CANARY}-server'"
        ),
    );
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\", log_level: trace}}\n\
         pool:\n  dsn: \"postgres://secretive:{CANARY}-server@127.0.0.1:{0}/{database}\"\n\
         databases: {{wrong: {{dsn: \"postgres://secretive:{CANARY}-wrong@127.0.0.1:{0}/{database}\"}}}}\n\
         auth: {{type: scram-sha-256, users: {{alice: {CANARY}-client}}, mock_secret: {CANARY}-mock}}\n\
         admin: {{users: [alice]}}\n",
        cluster.port()
    ));
    let login = |password: &str, database: &str| {
        let parameters = [("user", "alice"), ("database", database)];
        Wire::try_login(pooler.port(), &parameters, password)
    };
    let right = format!("{CANARY}-client");
    let client = login(&right, &database).unwrap_or_else(|error| panic!("{error:?}"));
    let mut texts = Vec::new();
    for (password, database) in [
        (format!("{CANARY}-guess"), database.as_str()),
        (right.clone(), "wrong"),
        (right.clone(), "nowhere"),
    ] {
        let error = login(&password, database).err().expect("a refusal");
        texts.push(format!("{error:?}"));
    }
    let mut console = login(&right, "aether").unwrap_or_else(|error| panic!("{error:?}"));
    for what in SHOWN {
        texts.push(format!("{:?}", console.run(&format!("SHOW {what}"))));
        let bytes = console.run(&format!("SHOW {what}"));
        let bytes = bytes.into_iter().flat_map(|message| message.body).collect();
        texts.push(String::from_utf8(bytes).unwrap_or_default());
    }
    client.terminate();
    pooler.signal(Signal::SIGHUP);
    pooler.wait_for_log("was reloaded");
    texts.push(pooler.log());
    for text in texts {
        assert!(!text.contains(CANARY), "{text}");
    }
}

#[test]
fn the_end_of_every_connection_is_one_line_with_its_reason() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "operations_log", "");
    let mut killed = scene.login();
    cluster.sql(
        "postgres",
        &format!("SELECT pg_terminate_backend({})", killed.pid),
    );
    killed.read_to_end();
    drop(killed);
    scene.login().terminate();
    drop(scene.login());
    let mut rude = scene.login();
    rude.send(b"\0\0\0\0\0");
    assert_eq!(
        first_error(&rude.read_to_end()).map(|error| error.sqlstate().to_owned()),
        Some("08P01".to_owned())
    );
    drop(rude);
    let parameters = [("user", "username"), ("database", "operations_log")];
    assert!(Wire::try_login(scene.pooler.port(), &parameters, "wrong").is_err());
    login_error(&scene.pooler, "username", "nowhere");
    scene.wait_for_rest();
    let lines = |of: &str| -> Vec<String> {
        let log = scene.pooler.log();
        let lines = log.lines().filter(|line| line.contains(of));
        lines.map(str::to_owned).collect()
    };
    for reason in [
        "client close request",
        "client closed the connection without Terminate",
        "[08P01]",
        "[28P01]",
        "[3D000]",
    ] {
        wait_until(reason, || !lines(reason).is_empty());
    }
    let ends = lines("closing because");
    let mut whose: Vec<&str> = ends
        .iter()
        .filter_map(|line| line.split("[INFO] ").nth(1)?.split(['@', ':']).next())
        .filter(|who| who.starts_with("client"))
        .collect();
    let count = whose.len();
    assert!(count >= 6, "{ends:?}");
    whose.sort_unstable();
    whose.dedup();
    assert_eq!(whose.len(), count, "twice: {ends:?}");
    assert!(ends.iter().all(|line| line.contains("(age ")), "{ends:?}");
}

#[test]
fn the_console_shows_what_there_is() {
    let cluster = Cluster::shared();
    let scene = Scene::new(
        cluster,
        "operations_console",
        "  max_connections: 2\nauth: {type: trust, allow_insecure: true}\n",
    );
    for _ in 0..3 {
        let mut client = scene.login();
        client.run("SELECT 1");
        client.run("BEGIN");
        client.run("SELECT 1");
        client.run("COMMIT");
        client.terminate();
        scene.wait_for_pool("sv_idle", 1);
    }
    let mut open = scene.login();
    open.run("BEGIN");
    open.run("SET LOCAL work_mem = '7MB'");
    let mut failed = scene.login();
    failed.run("BEGIN");
    failed.error("SELECT 1/0");
    let mut waiting = Wire::connect(scene.pooler.port());
    waiting.startup(&[
        ("user", "username"),
        ("database", &scene.database),
        ("application_name", "patient"),
    ]);
    scene.wait_for_pool("cl_waiting", 1);

    let pools = scene.show("POOLS");
    let pool = pools
        .iter()
        .find(|row| row["database"] == scene.database)
        .expect("its line");
    for (column, value) in [
        ("user", "username"),
        ("cl_active", "2"),
        ("cl_waiting", "1"),
        ("sv_active", "2"),
        ("sv_idle", "0"),
        ("pool_mode", "session"),
        ("max_connections", "2"),
        ("total_connections", "2"),
        ("total_sessions", "3"),
    ] {
        assert_eq!(pool[column], value, "{column}: {pool:?}");
    }
    let servers = scene.show("SERVERS");
    let of = |pid: i32| {
        let found = servers
            .iter()
            .find(|row| row["remote_pid"] == pid.to_string());
        found.unwrap_or_else(|| panic!("{pid} is not in {servers:?}"))
    };
    assert_eq!(of(open.pid)["transaction"], "open");
    assert!(of(open.pid)["dirty"].contains("set"), "{servers:?}");
    assert_eq!(of(failed.pid)["transaction"], "failed");
    let clients = scene.show("CLIENTS");
    let linked = |row: &&scene::Row| row["link"] == of(open.pid)["ptr"];
    assert_eq!(clients.iter().filter(linked).count(), 1, "{clients:?}");
    let patient = clients
        .iter()
        .find(|row| row["application_name"] == "patient");
    assert_eq!(patient.expect("it is there")["state"], "waiting");
    // Three sessions of four queries and two transactions, and what the two open ones did.
    let stats = &scene.show("STATS")[0];
    for (column, value) in [
        ("total_query_count", 3 * 4 + 2 + 2),
        ("total_xact_count", 3 * 2),
        ("total_server_assignment_count", 5),
        ("total_client_login_count", 6),
        ("total_server_connects", 2),
        ("total_resets", 3),
    ] {
        assert_eq!(stats[column], value.to_string(), "{column}: {stats:?}");
    }
    assert_eq!(
        scene.show("VERSION")[0]["version"],
        format!("Aether {}", env!("CARGO_PKG_VERSION"))
    );
}

/// PgBouncer's own columns come first, in its order: tools read them by place.
#[test]
fn the_columns_are_pgbouncers_first() {
    let scene = Scene::new(Cluster::shared(), "operations_columns", "");
    let pools = "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active \
                 sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode";
    let sockets = "type user database replication state addr port local_addr local_port connect_time request_time \
                   wait wait_us close_needed ptr link remote_pid tls application_name prepared_statements id";
    let stats = "database total_server_assignment_count total_xact_count total_query_count total_received total_sent \
                 total_xact_time total_query_time total_wait_time";
    // The same console under both of its names.
    for name in ["aether", "pgbouncer"] {
        let mut console = Wire::login(scene.pooler.port(), "username", PASSWORD, name);
        for (what, expected) in [
            ("POOLS", pools),
            ("SERVERS", sockets),
            ("CLIENTS", sockets),
            ("STATS", stats),
            ("VERSION", "version"),
        ] {
            let answer = console.run(&format!("show {what};"));
            let found = columns(&answer[0]).join(" ");
            assert!(found.starts_with(expected), "{what}: {found}");
        }
        console.terminate();
    }
}

/// G5, CVE-2026-6667. A refusal that came after the last message of the authentication was once not told at all: the
/// connection just ended, after a wrong password too.
/// Nobody gets in who is not named, and what is not known is refused with a hint.
#[test]
fn the_console_is_for_those_who_are_named() {
    let cluster = Cluster::shared();
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\npool: {{dsn: \"{}\"}}\n\
         auth: {{users: {{admin: {PASSWORD}, viewer: {PASSWORD}, somebody: {PASSWORD}}}}}\n\
         admin: {{users: [admin], stats_users: [viewer]}}\n",
        tcp(cluster, "database")
    ));
    for name in ["aether", "pgbouncer"] {
        let error = login_error(&pooler, "somebody", name);
        assert_eq!((error.severity(), error.sqlstate()), ("FATAL", "42501"));
        assert!(error.hint().contains("admin.users"), "{error:?}");
        // Who he is has to be shown first.
        assert_eq!(login_error(&pooler, "nobody", name).sqlstate(), "28P01");
    }
    for user in ["admin", "viewer"] {
        let mut console = Wire::login(pooler.port(), user, PASSWORD, "aether");
        console.run("SHOW POOLS");
        let error = console.error("SHOW POOL");
        assert_eq!(error.sqlstate(), "42601");
        assert!(error.hint().contains("SHOW POOLS"), "{error:?}");
        assert!(console.error("SELECT 1").message().contains("SHOW HELP"));
        assert_eq!(kinds(&console.run("")), "IZ");
    }
    let psql = Command::new(cluster.program("psql"))
        .args(["-X", "-A", "-t", "-c", "SHOW VERSION"])
        .arg(format!(
            "postgres://admin:{PASSWORD}@127.0.0.1:{}/aether",
            pooler.port()
        ))
        .output()
        .expect("psql");
    assert_eq!(
        said(&psql),
        format!("Aether {}\n", env!("CARGO_PKG_VERSION"))
    );
}

/// G5, CVE-2026-6667, R14: whatever is not in the table is refused, and only who is named gets as far as the table. Dog#1053: also where
/// roles are passed on to the server, the console wants the password.
#[test]
fn every_command_of_the_console_is_refused_to_those_without_a_right_to_it() {
    let cluster = Cluster::shared();
    let database = cluster.database("operations_matrix");
    let verbs = [
        "PAUSE",
        "RESUME",
        "SUSPEND",
        "KILL",
        "KILL_CLIENT",
        "RELOAD",
        "SHUTDOWN",
        "RECONNECT",
        "DISABLE",
        "ENABLE",
        "WAIT_CLOSE",
        "CANCEL_CLIENT",
        "ADD DATABASE",
        "DROP DATABASE",
        "SHOW FDS",
        "SET",
        "SHOW EVERYTHING",
        "SELECT 1",
        "BEGIN",
    ];
    let arguments = [
        "".to_owned(),
        " 1".to_owned(),
        format!(" {database}"),
        " max_client_connections = 1".to_owned(),
    ];
    let with_user = tcp(cluster, &database);
    let without = with_user.replace(&format!("username:{PASSWORD}@"), "");
    for (dsn, method) in [
        (&with_user, "scram-sha-256"),
        (&without, "scram-sha-256"),
        (&without, "md5"),
        (&without, "password"),
    ] {
        let mut pooler = Pooler::start(&format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\npool: {{dsn: \"{dsn}\"}}\n\
             auth: {{type: {method}, failure_delay: 0, failure_limit: 0, users: {{admin: {PASSWORD}, viewer: {PASSWORD}, username: {PASSWORD}}}}}\n\
             admin: {{users: [admin], stats_users: [viewer]}}\n"
        ));
        let login = |user: &str, password: &str| {
            Wire::try_login(
                pooler.port(),
                &[("user", user), ("database", "aether")],
                password,
            )
        };
        for user in ["admin", "viewer", "username", "nobody"] {
            for wrong in ["wrong", "", "admin"] {
                let error = login(user, wrong).err().expect("a refusal");
                assert_eq!(error.sqlstate(), "28P01", "{method}: {user}");
            }
        }
        let normal = login("username", PASSWORD).err().expect("a refusal");
        assert_eq!(normal.sqlstate(), "42501", "{method}");
        // Nobody yet: a command in the place of the startup packet, and in that of the password.
        let mut nobody = Wire::connect(pooler.port());
        nobody.send_message(b'Q', b"SHUTDOWN\0");
        assert_eq!(nobody.read_to_end(), []);
        let mut nobody = Wire::connect(pooler.port());
        nobody.startup(&[("user", "admin"), ("database", "aether")]);
        nobody.read_message();
        nobody.send_message(b'Q', b"SHUTDOWN\0");
        let error = first_error(&nobody.read_to_end()).expect("an error");
        assert_eq!(error.sqlstate(), "08P01");
        for user in ["admin", "viewer"] {
            let mut console = login(user, PASSWORD).unwrap_or_else(|error| panic!("{error:?}"));
            for shown in SHOWN {
                assert_eq!(
                    first_error(&console.query(&format!("SHOW {shown}"))),
                    None,
                    "{user}"
                );
            }
            // Who may do everything does it elsewhere: these would.
            for verb in verbs.iter().filter(|_| user == "viewer") {
                for argument in &arguments {
                    let error = console.error(&format!("{verb}{argument};"));
                    let code = error.sqlstate();
                    assert!(
                        ["42601", "42501"].contains(&code),
                        "{user}: {verb}{argument}: {error:?}"
                    );
                }
            }
            console.terminate();
        }
        // And nothing of all that was done.
        let mut client = Wire::login(pooler.port(), "username", PASSWORD, &database);
        assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
        assert!(pooler.ended().is_none());
    }
}

#[test]
fn a_database_that_is_called_like_the_console_wins() {
    let cluster = Cluster::shared();
    let database = cluster.database("operations_namesake");
    let pooler = Pooler::start(&yaml(
        &tcp(cluster, &database),
        "",
        "databases: {aether: {}}\n",
    ));
    let mut client = Wire::login(pooler.port(), "username", PASSWORD, "aether");
    assert_eq!(client.value("SELECT current_database()"), Some(database));
    // The other name still leads to the console.
    let mut console = Wire::login(pooler.port(), "username", PASSWORD, "pgbouncer");
    assert_eq!(kinds(&console.run("SHOW VERSION")), "TDCZ");
    assert!(pooler.log_contains("hides the console"));
}

/// The file of README.md, taken from there; only addresses and credentials differ.
#[test]
fn the_configuration_of_the_readme_works_as_it_stands() {
    let cluster = Cluster::shared();
    let database = cluster.database("operations_readme");
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md");
    let text = readme
        .split("```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("a configuration");
    assert_eq!(
        text,
        "server:\n  listen_addr: \"0.0.0.0:6432\"\n  shutdown_timeout: 30s\npool:\n  \
         dsn: \"postgres://username:password@localhost:5432/database?sslmode=disable\"\n  \
         mode: \"session\"\n  max_connections: 100\n  min_idle_connections: 10\n  max_idle_time: 10m\n  \
         max_lifetime: 1h\n  acquire_timeout: 30s\n",
        "the issue asks for exactly this file"
    );
    let here = text.replace("0.0.0.0:6432", "127.0.0.1:{port}").replace(
        "localhost:5432/database",
        &format!("localhost:{}/{database}", cluster.port()),
    );
    let pooler = Pooler::start(&here);
    wait_until("ten connections are kept ready", || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'");
        cluster.sql("postgres", &sql) == "10"
    });
    let mut client = Wire::login(pooler.port(), "username", PASSWORD, &database);
    assert_eq!(
        client.value("SELECT pg_backend_pid()"),
        Some(client.pid.to_string())
    );
    // Without auth, only the user of the DSN may log in, and nobody may use the console.
    assert_eq!(
        login_error(&pooler, "postgres", &database).sqlstate(),
        "28P01"
    );
    assert_eq!(
        login_error(&pooler, "username", "aether").sqlstate(),
        "42501"
    );
    assert_eq!(
        login_error(&pooler, "username", "postgres").sqlstate(),
        "3D000"
    );
}
