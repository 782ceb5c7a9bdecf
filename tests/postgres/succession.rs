//! One process takes over from another (`-R`): nobody is refused, nobody loses a transaction, and cancels find their query.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};

use crate::support::cluster::PASSWORD;
use crate::support::process::Place;
use crate::support::wire::{first_error, terminated};
use crate::support::{Cluster, Pooler, Wire, scene, wait_until};

const TAKEN: &str = "took over from the process";
const ALONE: &str = "old process not found";

fn start(cluster: &Cluster, database: &str, directory: &str) -> Pooler {
    let server = format!(", unix_socket_dir: \"{directory}\", shutdown_timeout: 1s");
    start_with(cluster, database, &server)
}

fn start_with(cluster: &Cluster, database: &str, server: &str) -> Pooler {
    Pooler::start(&scene::yaml(
        &scene::tcp(cluster, database),
        server,
        "  mode: transaction\n",
    ))
}

#[track_caller]
fn succeed(old: &Pooler) -> Pooler {
    match old.successor(&[], TAKEN) {
        Ok(new) => new,
        Err(refused) => panic!("{}:\n{}", refused.status, refused.log),
    }
}

fn login(pooler: &Pooler, database: &str) -> Wire {
    Wire::login(pooler.port(), "username", PASSWORD, database)
}

fn running(cluster: &Cluster, database: &str, count: usize) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
    );
    wait_until("the queries run", || {
        cluster.sql("postgres", &sql) == count.to_string()
    });
}

fn sockets(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("it is there").flatten();
    let sockets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    let mut sockets: Vec<PathBuf> = sockets.map(|entry| entry.path()).collect();
    sockets.sort();
    sockets
}

/// Clients come and go and commit, one holds a transaction all the time, while three processes follow one another.
#[test]
fn nobody_is_refused_and_no_transaction_fails_while_processes_follow_one_another() {
    let cluster = Cluster::shared();
    let database = cluster.database("succession_load");
    cluster.sql(
        &database,
        "CREATE TABLE t (n int); GRANT ALL ON t TO username",
    );
    let place = Place::new("succession");
    let directory = place.path().to_str().expect("a path of ours");
    let mut first = start(cluster, &database, directory);
    let (stop, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let port = first.port();
    let mut held = login(&first, &database);
    held.run("BEGIN");
    held.run("INSERT INTO t VALUES (0)");
    let (second, third) = thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Wire::login(port, "username", PASSWORD, &database);
                    for _ in 0..3 {
                        client.run("BEGIN");
                        client.run("INSERT INTO t VALUES (1)");
                        client.run("COMMIT");
                        committed.fetch_add(1, Ordering::Relaxed);
                    }
                    client.terminate();
                }
            });
        }
        // Connections alone, as fast as they can be made.
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                drop(TcpStream::connect(("127.0.0.1", port)).expect("nobody is refused"));
                thread::sleep(Duration::from_millis(1));
            }
        });
        let some = |more: u64| {
            let before = committed.load(Ordering::Relaxed);
            wait_until("transactions are committed", || {
                committed.load(Ordering::Relaxed) >= before + more
            });
        };
        some(20);
        let second = succeed(&first);
        some(20);
        let third = succeed(&second);
        some(20);
        stop.store(true, Ordering::Relaxed);
        (second, third)
    });
    let mut second = second;
    assert!(
        second
            .wait_for_end(Duration::from_secs(20))
            .is_some_and(|end| end.success())
    );
    // Longer than shutdown_timeout, which does not count here.
    assert!(first.ended().is_none(), "its client is there");
    assert_eq!(
        held.value("SELECT count(*) FROM t WHERE n = 0").as_deref(),
        Some("1")
    );
    held.run("COMMIT");
    held.terminate();
    assert!(
        first
            .wait_for_end(Duration::from_secs(20))
            .is_some_and(|end| end.success())
    );
    let rows = cluster.sql(&database, "SELECT count(*) FROM t");
    assert_eq!(rows, (committed.load(Ordering::Relaxed) + 1).to_string());
    let left = sockets(place.path());
    assert_eq!(
        left.len(),
        2,
        "the socket of the last one, and its door: {left:?}"
    );
    let lock = place.path().join(format!(".s.PGSQL.{port}.lock"));
    let lock = std::fs::read_to_string(lock).expect("the lock file");
    assert_eq!(lock.lines().next(), Some(third.pid().to_string().as_str()));
    drop(third);
    assert!(sockets(place.path()).is_empty());
}

/// The first two processes still have a client each, and all requests come to the third.
#[test]
fn cancels_are_passed_to_the_process_whose_client_is_meant() {
    let cluster = Cluster::shared();
    let database = cluster.database("succession_cancel");
    let place = Place::new("succession");
    let first = start(cluster, &database, place.path().to_str().expect("ours"));
    let mut clients = vec![login(&first, &database)];
    let second = succeed(&first);
    clients.push(login(&second, &database));
    let third = succeed(&second);
    clients.push(login(&third, &database));
    for client in &mut clients {
        client.send_message(b'Q', &terminated("SELECT pg_sleep(120)"));
    }
    running(cluster, &database, 3);
    // Nobody's key: it goes through all three, and nothing happens.
    clients[0].cancel_by(first.port(), |key| key[1] ^= 1);
    running(cluster, &database, 3);
    for (at, client) in clients.iter_mut().enumerate() {
        client.cancel();
        let error = first_error(&client.read_until(b'Z')).expect("cancelled");
        assert_eq!(error.sqlstate(), "57014");
        running(cluster, &database, 2 - at);
        assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    }
    // The first has gone: its keys are nobody's.
    let stale = clients.remove(0);
    first.signal(Signal::SIGKILL);
    stale.cancel();
    assert_eq!(clients[1].value("SELECT 1").as_deref(), Some("1"));
    drop(second);
}

#[test]
fn without_an_old_process_it_starts_as_usual() {
    let cluster = Cluster::shared();
    let database = cluster.database("succession_alone");
    let place = Place::new("succession");
    let mut dead = start(cluster, &database, place.path().to_str().expect("ours"));
    dead.signal(Signal::SIGKILL);
    assert!(dead.wait_for_end(Duration::from_secs(20)).is_some());
    assert_eq!(sockets(place.path()).len(), 2, "it left its sockets behind");
    let new = dead.successor(&[], "started, process");
    let new = new.unwrap_or_else(|refused| panic!("{}", refused.log));
    assert!(new.log_contains(ALONE));
    let mut client = login(&new, &database);
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
}

/// Neither by a file nor by an abstract name, which everybody can connect to.
#[test]
fn another_users_process_is_not_succeeded() {
    let cluster = Cluster::shared();
    let database = cluster.database("succession_user");
    let place = Place::new("succession");
    let abstract_name = format!("@aether-succession-{}", std::process::id());
    for directory in [place.path().to_str().expect("ours"), &abstract_name] {
        let old = start(cluster, &database, directory);
        if !nix::unistd::geteuid().is_root() {
            return; // nobody else to be
        }
        let uid = nix::unistd::User::from_name("games")
            .ok()
            .flatten()
            .expect("a user")
            .uid;
        let reuid = format!("--reuid={uid}");
        let other = [
            "setpriv",
            &reuid,
            "--clear-groups",
            "--pdeathsig",
            "KILL",
            "--",
        ];
        let config = old.config_path();
        let directory = config.parent().expect("its directory");
        let open = |mode| {
            use std::os::unix::fs::PermissionsExt;
            for path in [directory, &config] {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
                    .expect("ours");
            }
        };
        open(0o755);
        let refused = old.successor(&other, TAKEN).err().expect("it is refused");
        let why = ["belongs to somebody else", "Permission denied"];
        let said = why.iter().any(|why| refused.log.contains(why));
        assert!(said && refused.log.contains("aether: "), "{}", refused.log);
        assert_eq!(
            login(&old, &database).value("SELECT 1").as_deref(),
            Some("1")
        );
    }
}

/// The pidfile names whoever has the sockets, from the moment on at which it has them.
#[test]
fn the_pidfile_is_the_new_processs() {
    let cluster = Cluster::shared();
    let database = cluster.database("succession_pidfile");
    let place = Place::new("succession");
    let pidfile = place.path().join("aether.pid");
    let said = || std::fs::read_to_string(&pidfile).unwrap_or_default();
    let directory = place.path().display();
    let server = format!(
        ", unix_socket_dir: \"{directory}\", pidfile: \"{}\"",
        pidfile.display()
    );
    let mut old = start_with(cluster, &database, &server);
    wait_until("it is written", || said() == format!("{}\n", old.pid()));
    let mut client = login(&old, &database);
    let new = succeed(&old);
    assert_eq!(said(), format!("{}\n", new.pid()));
    // The old one is not in a hurry, and leaves the file alone when it goes.
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    client.terminate();
    let end = old.wait_for_end(Duration::from_secs(20));
    assert!(end.is_some_and(|end| end.success()));
    assert_eq!(said(), format!("{}\n", new.pid()));
    drop(new);
    assert!(!pidfile.exists());
}

/// A process that has been succeeded can be told to hurry, and its first signal is no second one.
#[test]
fn a_succeeded_process_still_obeys_signals() {
    let cluster = Cluster::shared();
    let database = cluster.database("succession_signals");
    let place = Place::new("succession");
    let mut old = start(cluster, &database, place.path().to_str().expect("ours"));
    let mut client = login(&old, &database);
    let new = succeed(&old);
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    old.signal(Signal::SIGTERM);
    // shutdown_timeout counts from now on: the client is told, not cut off.
    let error = first_error(&client.read_until(b'E')).expect("it is told");
    assert_eq!(error.sqlstate(), "57P01");
    let end = old.wait_for_end(Duration::from_secs(20));
    assert!(end.is_some_and(|end| end.success()));
    let mut client = login(&new, &database);
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    assert_eq!(sockets(place.path()).len(), 2, "those of the new one");
}

/// Whoever claims and does not come to be ready changes nothing, and says nothing that makes sense neither.
#[test]
fn an_heir_that_dies_leaves_all_as_it_was() {
    let cluster = Cluster::shared();
    let database = cluster.database("succession_heir");
    let place = Place::new("succession");
    let old = start(cluster, &database, place.path().to_str().expect("ours"));
    let door = place.path().join(format!(".s.AETHER.{}", old.port()));
    let word = |heir: &OwnedFd, word: &str| {
        let raw = std::os::fd::AsRawFd::as_raw_fd(heir);
        let _ = socket::send(raw, word.as_bytes(), socket::MsgFlags::MSG_NOSIGNAL);
    };
    let knock = |words: &[&str]| -> OwnedFd {
        let flags = SockFlag::SOCK_CLOEXEC;
        let heir = socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None);
        let heir = heir.expect("a socket");
        let raw = std::os::fd::AsRawFd::as_raw_fd(&heir);
        socket::connect(raw, &UnixAddr::new(&door).expect("short")).expect("somebody is in");
        words.iter().for_each(|said| word(&heir, said));
        heir
    };
    // It dies with the last word on its lips: the old process has not let go of anything yet.
    let dies = knock(&["claim 1"]);
    let heard = || {
        let mut buffer = [0; 500];
        let raw = std::os::fd::AsRawFd::as_raw_fd(&dies);
        let count = socket::recv(raw, &mut buffer, socket::MsgFlags::empty()).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    wait_until("it was told what there is", || heard().starts_with("all "));
    old.signal(Signal::SIGSTOP);
    word(&dies, "ready");
    drop(dies);
    old.signal(Signal::SIGCONT);
    wait_until("it is noticed", || {
        old.log_contains("the process that was to take over has gone")
    });
    assert_eq!(
        sockets(place.path()).len(),
        2,
        "no socket for cancels is left"
    );
    drop(knock(&["claim 1"]));
    drop(knock(&["nonsense"]));
    drop(knock(&["claim 1", "nonsense"]));
    let waits = knock(&["claim 1"]);
    assert_eq!(
        login(&old, &database).value("SELECT 1").as_deref(),
        Some("1")
    );
    let new = succeed(&old);
    drop(waits);
    assert_eq!(
        login(&new, &database).value("SELECT 1").as_deref(),
        Some("1")
    );
}

/// Whoever restarts it under systemd does not lose the service with the old process: that says who the main process is now.
#[test]
fn the_service_manager_is_told_who_serves_from_now_on() {
    let cluster = Cluster::shared();
    let database = cluster.database("succession_manager");
    let place = Place::new("succession");
    let directory = place.path().to_str().expect("a path of ours");
    let name = format!("aether-manager-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = UnixDatagram::bind_addr(&address).expect("a socket");
    manager
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a socket");
    let socket = format!("NOTIFY_SOCKET=@{name}");
    let yaml = scene::yaml(
        &scene::tcp(cluster, &database),
        &format!(", unix_socket_dir: \"{directory}\""),
        "  mode: transaction\n",
    );
    let old = Pooler::start_under(&["/usr/bin/env", &socket], &yaml);
    let mut told = Vec::new();
    let mut hears = |what: &str| {
        while !told.iter().any(|text: &String| text.starts_with(what)) {
            let mut buffer = [0; 500];
            let count = manager.recv(&mut buffer).expect("it is told");
            told.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
    };
    hears("READY=1");
    let new = succeed(&old);
    hears(&format!("MAINPID={}\n", new.pid()));
}
