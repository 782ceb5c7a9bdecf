//! The process and those who look after it: pidfile, background, the service manager, and where the log goes.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt};

use crate::series::scrape;
use crate::support::cluster::PASSWORD;
use crate::support::pooler::binary;
use crate::support::process::{self, Place, listening};
use crate::support::scene::{tcp, yaml};
use crate::support::{Cluster, Wire, wait_for, wait_until};

const SOON: Duration = Duration::from_secs(20);

/// An Aether that a test starts in its own way.
struct Started {
    child: Child,
    place: Place,
    port: u16,
}

impl Started {
    /// `more`: sections behind the usual ones. `change`: what is special about its command.
    fn new(
        name: &str,
        server: &str,
        more: &str,
        change: impl FnOnce(&mut Command, &Place),
    ) -> Started {
        let cluster = Cluster::shared();
        let place = Place::new(name);
        let port = process::free_port();
        let dsn = tcp(cluster, &cluster.database(&name.replace('-', "_")));
        let text = format!("{}{more}", yaml(&dsn, server, ""));
        let text = text
            .replace("{port}", &port.to_string())
            .replace("{place}", &place.path().display().to_string());
        let file = place.write("aether.yaml", &text);
        let log = fs::File::create(place.path().join("stderr")).expect("a file");
        let mut command = process::command(binary());
        command.arg(&file).current_dir(place.path()).stderr(log);
        change(&mut command, &place);
        let child = process::spawn(command).expect("it starts");
        Started { child, place, port }
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.place.path().join(name)).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        process::signal(self.child.id(), signal);
    }

    #[track_caller]
    fn waits_to_listen(&self) {
        wait_until("it listens", || listening(self.port));
    }

    #[track_caller]
    fn ends(mut self) {
        self.signal(Signal::SIGTERM);
        let ended = wait_for(SOON, || self.child.try_wait().expect("ours").is_some());
        assert!(ended, "it ends: {}", self.file("stderr"));
        assert!(self.child.wait().expect("ours").success());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn other(started: &Started) -> String {
    let port = process::free_port();
    let text = started.file("aether.yaml");
    let text = text.replace(&started.port.to_string(), &port.to_string());
    let file = started.place.write("other.yaml", &text);
    let mut command = process::command(binary());
    command.arg(file).current_dir(started.place.path());
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_pidfile_says_who_serves_and_keeps_others_out() {
    let started = Started::new("pidfile", ", pidfile: aether.pid", "", |_, _| {});
    started.waits_to_listen();
    wait_until("the pidfile is there", || {
        started.file("aether.pid") == format!("{}\n", started.child.id())
    });
    let said = other(&started);
    assert!(said.contains("exists, another instance running?"), "{said}");
    let pidfile = started.place.path().join("aether.pid");
    let path = pidfile.clone();
    started.ends();
    assert!(!path.exists());
}

#[test]
fn a_daemon_leaves_its_starter_and_logs_to_its_file() {
    let mut started = Started::new(
        "background",
        ", pidfile: aether.pid",
        "log: {file: aether.log}\n",
        |command, _| {
            command.arg("-d");
        },
    );
    let status = started.child.wait().expect("ours");
    assert!(status.success(), "{}", started.file("stderr"));
    wait_until("the pidfile is there", || {
        !started.file("aether.pid").is_empty()
    });
    let pid: u32 = started.file("aether.pid").trim().parse().expect("a number");
    assert_ne!(pid, started.child.id());
    started.waits_to_listen();
    let database = "background".to_owned();
    let parameters = [("user", "username"), ("database", &database)];
    Wire::try_login(started.port, &parameters, PASSWORD)
        .expect("it serves")
        .terminate();
    wait_until("the file has it", || {
        started.file("aether.log").contains("client close request")
    });
    assert_eq!(started.file("stderr"), "", "nothing to standard error");
    process::signal(pid, Signal::SIGTERM);
    wait_until("it has gone", || started.file("aether.pid").is_empty());
}

#[test]
fn a_daemon_without_a_pidfile_is_refused() {
    let mut started = Started::new("no-pidfile", "", "", |command, _| {
        command.arg("--daemon");
    });
    assert_eq!(started.child.wait().expect("ours").code(), Some(1));
    let said = started.file("stderr");
    assert!(said.contains("daemon needs pidfile configured"), "{said}");
}

/// What the service manager has heard up to now.
fn heard(socket: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 1_000];
    let mut all = Vec::new();
    while let Ok(count) = socket.recv(&mut buffer) {
        all.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
    }
    all
}

#[test]
fn the_service_manager_is_told_of_start_reload_life_and_end() {
    let mut manager = None;
    let mut started = Started::new("notify", "", "", |command, place| {
        let path = place.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        process::own(&path);
        socket.set_nonblocking(true).expect("it can be");
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "400000");
        manager = Some(socket);
    });
    let manager = manager.expect("a manager");
    let mut told: Vec<String> = Vec::new();
    let mut hears = |what: &str| {
        wait_until(&format!("the manager hears {what}"), || {
            told.extend(heard(&manager));
            told.iter().any(|text| text.starts_with(what))
        });
        told.clear();
    };
    hears("READY=1");
    hears("WATCHDOG=1");
    hears("WATCHDOG=1");
    started.signal(Signal::SIGHUP);
    hears("RELOADING=1\nMONOTONIC_USEC=");
    started.signal(Signal::SIGHUP);
    hears("READY=1");
    started.signal(Signal::SIGTERM);
    hears("STOPPING=1");
    assert!(started.child.wait().expect("ours").success());
}

/// Starts one that is given a socket, as by a service manager, and `option` beside its configuration.
fn activated(name: &str, listener: std::net::TcpListener, server: &str, option: &str) -> Started {
    Started::new(name, server, "", |command, place| {
        let own: Vec<String> = command
            .get_args()
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .skip_while(|word| word != "'--'")
            .skip(1)
            .collect();
        // The shell, which becomes Aether, has it as its standard input; LISTEN_PID is its own number.
        let script = format!(
            "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec {} {option}",
            own.join(" ")
        );
        let log = fs::File::create(place.path().join("stderr")).expect("a file");
        *command = process::command(Path::new("/bin/sh"));
        command.arg("-c").arg(script).current_dir(place.path());
        command.stdin(OwnedFd::from(listener)).stderr(log);
    })
}

#[test]
fn sockets_of_the_service_manager_are_not_taken_over_from_a_process() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a socket");
    let server = ", unix_socket_dir: \"{place}\"";
    let mut started = activated("activated-reboot", listener, server, "-R");
    assert_eq!(started.child.wait().expect("ours").code(), Some(1));
    let said = started.file("stderr");
    assert!(
        said.contains("-R cannot be used while the service manager listens"),
        "{said}"
    );
}

#[test]
fn sockets_of_the_service_manager_are_listened_on() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a socket");
    let port = listener.local_addr().expect("it is bound").port();
    let same = listener.try_clone().expect("a descriptor");
    let started = activated("activated", listener, "", "");
    let parameters = [("user", "username"), ("database", "activated")];
    let mut client = None;
    wait_until("it serves", || {
        client = Wire::try_login(port, &parameters, PASSWORD).ok();
        client.is_some()
    });
    assert!(!listening(started.port), "its own address is not used");
    // Found by reading: who was accepted there had small messages held back, and was not watched.
    assert_eq!(getsockopt(&same, sockopt::TcpNoDelay), Ok(true));
    assert_eq!(getsockopt(&same, sockopt::KeepAlive), Ok(true));
    assert_eq!(getsockopt(&same, sockopt::TcpKeepIdle), Ok(10));
    client.expect("a client").terminate();
    started.ends();
}

#[test]
fn the_log_file_is_opened_anew_and_its_format_changes_with_a_reload() {
    let more = "log: {file: aether.log, format: json, stderr: false}\n";
    let started = Started::new("rotated", "", more, |_, _| {});
    started.waits_to_listen();
    wait_until("it is in the file", || {
        started.file("aether.log").contains("started")
    });
    let first = started.file("aether.log");
    let is_object = |line: &str| {
        line.starts_with("{\"time\":\"")
            && line.contains("\"level\":\"info\"")
            && line.ends_with('}')
    };
    assert!(first.lines().all(is_object), "{first}");
    assert_eq!(started.file("stderr"), "");
    let path = |name: &str| started.place.path().join(name);
    fs::rename(path("aether.log"), path("aether.log.1")).expect("rotated");
    let text = started
        .file("aether.yaml")
        .replace("format: json", "format: pgbouncer");
    started.place.write("aether.yaml", &text);
    started.signal(Signal::SIGHUP);
    wait_until("the new file is there", || {
        started.file("aether.log").contains("reloaded")
    });
    let second = started.file("aether.log");
    let pid = format!(" [{}] LOG ", started.child.id());
    assert!(second.lines().all(|line| line.contains(&pid)), "{second}");
    started.ends();
}

/// Catalogue fault R3: standard error is a pipe that nobody reads; clients are served as ever, and the file goes on.
#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    let metrics = process::free_port();
    let more = format!(
        "log: {{file: aether.log, repeat_limit: 0}}\nmetrics: {{listen_addr: \"127.0.0.1:{metrics}\"}}\n"
    );
    let mut started = Started::new("unread", "", &more, |command, _| {
        command.stderr(Stdio::piped()).arg("-v");
    });
    started.waits_to_listen();
    let parameters = [("user", "username"), ("database", "unread")];
    let login = || Wire::try_login(started.port, &parameters, PASSWORD).expect("it serves");
    let lines = |started: &Started| started.file("aether.log").lines().count();
    // 64 kB fit into the pipe; each session is good for some hundred bytes.
    for _ in 0..600 {
        login().terminate();
    }
    let begin = std::time::Instant::now();
    assert_eq!(login().value("SELECT 1"), Some("1".to_owned()));
    assert!(begin.elapsed() < Duration::from_secs(5));
    wait_until("the file has all of them", || lines(&started) >= 600);
    let lost = || scrape(metrics)["aether_log_lines_dropped_total"];
    wait_until("the loss is counted", || lost() > 0.0);
    // Somebody reads at last.
    let mut pipe = started.child.stderr.take().expect("a pipe");
    std::thread::spawn(move || std::io::copy(&mut pipe, &mut std::io::sink()));
    wait_until("the loss is told", || {
        login().terminate();
        started
            .file("aether.log")
            .contains("log lines were dropped")
    });
    started.ends();
}

/// What systemd itself finds wrong with the unit, but for the type that it has since 253 only.
#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let unit = include_str!("../../packaging/aether.service");
    let place = Place::new("unit");
    let there = unit.replace("/usr/bin/aether", "/bin/true");
    let file = place.write("aether.service", &there);
    for way in [
        &["verify"][..],
        &["security", "--offline=true", "--no-pager", "--threshold=20"],
    ] {
        let mut command = Command::new("systemd-analyze");
        let Ok(output) = command.args(way).arg(&file).output() else {
            return; // there is no systemd here
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_old = |line: &str| line.contains("notify-reload");
        assert!(output.status.success(), "{way:?}: {said}");
        assert!(said.lines().all(is_old), "{way:?}: {said}");
    }
}

/// Whoever runs the process is its administrator, by the Unix socket and as `pgbouncer`, whatever the rules say; nobody else is.
#[test]
fn the_owner_gets_into_the_console_without_a_password() {
    let server = ", max_client_connections: 1, unix_socket_dir: \"{place}\"";
    let started = Started::new("owner", server, "", |_, _| {});
    started.waits_to_listen();
    let port = started.port;
    let socket = started.place.path().join(format!(".s.PGSQL.{port}"));
    wait_until("its socket is there", || socket.exists());
    let psql = |user: &str| {
        let mut command = process::command(&Cluster::shared().program("psql"));
        command
            .args(["-X", "-A", "-t", "-w", "-c", "SHOW VERSION", "-U", user])
            .args(["-p", &port.to_string(), "pgbouncer", "-h"])
            .arg(started.place.path());
        command.output().expect("it runs")
    };
    // The only place is taken, and an operator gets in all the same.
    let parameters = [("user", "username"), ("database", "owner")];
    let client = Wire::try_login(port, &parameters, PASSWORD).expect("it serves");
    let output = psql("pgbouncer");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(!psql("username").status.success(), "others need a password");
    client.terminate();
    let by_tcp = [("user", "pgbouncer"), ("database", "pgbouncer")];
    assert!(Wire::try_login(port, &by_tcp, "").is_err(), "nor by TCP");
    started.ends();
}

#[test]
fn those_who_read_pgbouncers_log_find_its_lines() {
    let more = "log: {format: pgbouncer}\n";
    let started = Started::new("lines", ", sqlstate_compat: pgbouncer", more, |_, _| {});
    started.waits_to_listen();
    let login = |database: &str| {
        let parameters = [("user", "username"), ("database", database)];
        Wire::try_login(started.port, &parameters, PASSWORD)
    };
    let mut client = login("lines").expect("it serves");
    client.run("SELECT 1");
    client.terminate();
    let error = login("nowhere").err().expect("there is none");
    assert_eq!((error.severity(), error.sqlstate()), ("FATAL", "08P01"));
    assert_eq!(error.message(), "no such database: nowhere");
    let lines = [
        (
            " LOG C-0x",
            " lines/username@127.0.0.1:",
            " login attempt: db=lines user=username tls=no replication=no",
        ),
        (
            " LOG S-0x",
            " lines/username@127.0.0.1:",
            " new connection to server (from 127.0.0.1:",
        ),
        (
            " LOG C-0x",
            " lines/username@127.0.0.1:",
            " closing because: client close request (age=0s)",
        ),
        (
            " LOG C-0x",
            " nowhere/username@127.0.0.1:",
            " closing because: no such database: nowhere (age=0s)",
        ),
        (
            " WARNING C-0x",
            " nowhere/username@127.0.0.1:",
            " pooler error: no such database: nowhere",
        ),
    ];
    let pid = format!(" [{}] ", started.child.id());
    for (level, who, what) in lines {
        let is_it = |line: &str| {
            line.contains(&pid) && line.contains(level) && line.contains(who) && line.contains(what)
        };
        wait_until(&format!("the log has {level}{who}{what}"), || {
            started.file("stderr").lines().any(is_it)
        });
    }
    started.ends();
}
