//! Rules, Unix sockets and peers with the real psql; and what the process does to keep its secrets (issue 4).

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::support::cluster::PASSWORD;
use crate::support::pooler::binary;
use crate::support::process::{self, Place};
use crate::support::{Cluster, Pooler, Wire, wait_until};

/// An Aether with rules: its database, its directory, and itself.
struct Ruled {
    pooler: Pooler,
    place: Place,
    database: String,
}

impl Ruled {
    fn new(name: &str, hba: &str, ident: &str) -> Ruled {
        let cluster = Cluster::shared();
        let place = Place::new(name);
        place.write("hba", hba);
        place.write("ident", ident);
        let database = cluster.database(name);
        let yaml = Ruled::yaml(cluster, &database, &place);
        let pooler = Pooler::start(&yaml);
        Ruled {
            pooler,
            place,
            database,
        }
    }

    fn yaml(cluster: &Cluster, database: &str, place: &Place) -> String {
        let directory = place.path().display();
        format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\", unix_socket_dir: {directory}, unix_socket_mode: \"0700\"}}\n\
             pool: {{dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/{database}\"}}\n\
             auth: {{hba_file: {directory}/hba, ident_file: {directory}/ident}}\n",
            cluster.port()
        )
    }

    fn socket(&self) -> PathBuf {
        self.place
            .path()
            .join(format!(".s.PGSQL.{}", self.pooler.port()))
    }

    /// What psql gets, by way of `host`, as the server user.
    fn psql(&self, host: &str, user: &str) -> Result<String, String> {
        let mut psql = process::command(Path::new("/usr/bin/psql"));
        psql.args(["-XAtw", "-c", "SELECT current_user", "-h", host, "-U", user])
            .args(["-p", &self.pooler.port().to_string(), "-d", &self.database]);
        psql.env("PGPASSWORD", PASSWORD);
        let output = psql.output().expect("psql runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    fn by_socket(&self, user: &str) -> Result<String, String> {
        self.psql(self.place.path().to_str().expect("a path"), user)
    }

    fn by_tcp(&self, user: &str) -> Result<String, String> {
        self.psql("127.0.0.1", user)
    }
}

/// The user that psql runs as.
fn own_name() -> String {
    match process::server_user() {
        Some(user) => user.name.clone(),
        None => {
            User::from_uid(geteuid())
                .ok()
                .flatten()
                .expect("we are somebody")
                .name
        }
    }
}

fn ok() -> Result<String, String> {
    Ok("username".to_owned())
}

#[track_caller]
fn refused(result: Result<String, String>, text: &str) {
    let error = result.expect_err("a refusal");
    assert!(error.contains(text), "{error}");
}

/// Issue 4: peer by SO_PEERCRED, with maps; R13.
#[test]
fn psql_logs_in_by_peer_over_the_unix_socket() {
    let name = own_name();
    let ruled = Ruled::new(
        "hba_peer",
        "local all username,guest peer map=m\nlocal all all peer\n",
        &format!("m {name} username\nm /^(.*)-nobody$ \\1\n"),
    );
    assert_eq!(ruled.by_socket("username"), ok());
    // No map for this one: the names must be the same.
    assert_eq!(ruled.by_socket(&name), ok());
    refused(
        ruled.by_socket("guest"),
        "Peer authentication failed for user \"guest\"",
    );
    refused(
        ruled.by_socket("somebody"),
        "Peer authentication failed for user \"somebody\"",
    );
    ruled.pooler.wait_for_log(&format!(
        "no match in usermap \"m\" for user \"guest\" authenticated as \"{name}\""
    ));
    refused(
        ruled.by_tcp("username"),
        "no pg_hba.conf entry for host \"127.0.0.1\", user \"username\"",
    );
}

#[test]
fn trust_holds_locally_scram_by_tcp_and_reject_for_those_it_names() {
    let ruled = Ruled::new(
        "hba_mixed",
        "local all username trust\nhost all bob 127.0.0.1/32 reject\nhost all all samehost scram-sha-256\n",
        "",
    );
    assert_eq!(ruled.by_socket("username"), ok());
    assert_eq!(ruled.by_tcp("username"), ok());
    let wrong = Wire::try_login(
        ruled.pooler.port(),
        &[("user", "username"), ("database", &ruled.database)],
        "wrong",
    );
    assert_eq!(wrong.err().expect("a refusal").sqlstate(), "28P01");
    let expected = format!(
        "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"bob\", database \"{}\", no encryption",
        ruled.database
    );
    refused(ruled.by_tcp("bob"), &expected);
    let expected = format!(
        "no pg_hba.conf entry for host \"[local]\", user \"bob\", database \"{}\", no encryption",
        ruled.database
    );
    refused(ruled.by_socket("bob"), &expected);
}

/// Issue 4: a bad line is reported with file and line; at start it is an error, at reload the old rules stay.
#[test]
fn a_broken_file_stops_the_start_and_leaves_the_old_rules_at_reload() {
    let ruled = Ruled::new("hba_reload", "local all all trust\n", "");
    ruled.place.write(
        "hba",
        "# none\nlocal all all reject\nhots all all all md5\n",
    );
    ruled.pooler.signal(Signal::SIGHUP);
    ruled
        .pooler
        .wait_for_log("/hba:3: invalid connection type \"hots\"");
    ruled.pooler.wait_for_log("the old one stays in force");
    assert_eq!(ruled.by_socket("username"), ok());
    ruled.place.write("hba", "local all all reject\n");
    ruled.pooler.signal(Signal::SIGHUP);
    ruled.pooler.wait_for_log("the configuration was reloaded");
    refused(
        ruled.by_socket("username"),
        "pg_hba.conf rejects connection",
    );

    ruled
        .place
        .write("hba", "hots all all all md5\n\nlocal all all what\n");
    let place = Place::new("hba_start");
    place.write("hba", "hots all all all md5\n\nlocal all all what\n");
    place.write("ident", "");
    let yaml = Ruled::yaml(Cluster::shared(), "any", &place);
    let stopped = Pooler::try_start(&yaml).err().expect("broken rules");
    for text in [
        "/hba:1: invalid connection type",
        "/hba:3: invalid authentication method \"what\"",
    ] {
        assert!(stopped.log.contains(text), "{}", stopped.log);
    }
}

/// As PostgreSQL's lock file has it: a living owner keeps its socket, one that has gone loses it, and at the end nothing is left.
#[test]
fn a_unix_socket_is_taken_from_the_dead_and_not_from_the_living() {
    let cluster = Cluster::shared();
    let mut ruled = Ruled::new("hba_socket", "local all all trust\n", "");
    let (socket, lock) = (
        ruled.socket(),
        ruled
            .place
            .path()
            .join(format!(".s.PGSQL.{}.lock", ruled.pooler.port())),
    );
    let metadata = fs::metadata(&socket).expect("its socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
    let pid = ruled.pooler.pid().to_string();
    assert_eq!(
        fs::read_to_string(&lock).expect("its lock").lines().next(),
        Some(pid.as_str())
    );

    // The living: another port by TCP, the same by name.
    let (port, database) = (ruled.pooler.port(), ruled.database.clone());
    let another = |place: &Place| {
        let text = Ruled::yaml(cluster, &database, place);
        let text = text.replace(
            "\"127.0.0.1:{port}\"",
            &format!("[\"127.0.0.2:{}\", \"127.0.0.1:{{port}}\"]", port),
        );
        Pooler::try_start(&text)
    };
    let log = log_of_refused(another(&ruled.place));
    assert!(
        log.contains(&format!("process {pid} uses socket file")),
        "{}",
        log
    );
    assert_eq!(ruled.by_socket("username"), ok());

    // The dead: killed without a word.
    ruled.pooler.signal(Signal::SIGKILL);
    let end = ruled.pooler.wait_for_end(Duration::from_secs(20));
    assert!(end.is_some(), "it is dead");
    assert!(socket.exists() && lock.exists());
    let mut next = another(&ruled.place).expect("the name is free");
    wait_until("the socket is the next one's", || {
        UnixStream::connect(&socket).is_ok()
    });
    next.signal(Signal::SIGTERM);
    next.wait_for_end(Duration::from_secs(20)).expect("it ends");
    assert!(!socket.exists() && !lock.exists());

    // Somebody without a lock file, as PgBouncer.
    let listener = UnixListener::bind(&socket).expect("the name is free");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).expect("its mode");
    let log = log_of_refused(another(&ruled.place));
    assert!(log.contains("somebody listens on Unix socket"), "{}", log);
    assert!(socket.exists() && !lock.exists());
    drop(listener);
}

/// What one said that did not start. It may have listened by TCP for a moment.
fn log_of_refused(started: Result<Pooler, crate::support::pooler::Refused>) -> String {
    match started {
        Err(refused) => refused.log,
        Ok(mut pooler) => {
            let end = pooler.wait_for_end(Duration::from_secs(20));
            assert!(end.is_some_and(|status| !status.success()), "it started");
            pooler.log()
        }
    }
}

/// Abstract names, as PostgreSQL and libpq write them.
#[test]
fn psql_finds_an_abstract_socket() {
    let cluster = Cluster::shared();
    let database = cluster.database("hba_abstract");
    let directory = format!("@aether-test-{}", std::process::id());
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\", unix_socket_dir: \"{directory}\"}}\n\
         pool: {{dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/{database}\"}}\n",
        cluster.port()
    ));
    let mut psql = process::command(Path::new("/usr/bin/psql"));
    psql.args([
        "-XAtw", "-c", "SELECT 1", "-h", &directory, "-U", "username", "-d", &database,
    ])
    .args(["-p", &pooler.port().to_string()])
    .env("PGPASSWORD", PASSWORD);
    let output = psql.output().expect("psql runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn status(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.expect("a line of it")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// R10, R12: no core dumps, no new privileges.
#[test]
fn the_process_leaves_no_core_and_gains_no_privileges() {
    let ruled = Ruled::new("hba_core", "local all all trust\n", "");
    let pid = ruled.pooler.pid();
    assert_eq!(status(pid, "NoNewPrivs:"), "1");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .expect("a line");
    assert_eq!(
        core.split_whitespace().collect::<Vec<_>>()[4..6],
        ["0", "0"]
    );
    // What is not dumpable belongs to root, whoever runs it.
    let owner = std::os::unix::fs::MetadataExt::uid(
        &fs::metadata(format!("/proc/{pid}/environ")).expect("it runs"),
    );
    assert_eq!(owner, 0);
}

/// R12: a user switch that cannot be undone.
#[test]
fn root_is_given_away_for_good_with_all_its_groups() {
    if !geteuid().is_root() {
        return; // only root has something to give away
    }
    let user = process::server_user().expect("we are root");
    let place = Place::new("hba_user");
    let port = process::free_port();
    let config = place.write(
        "aether.yaml",
        &format!("server: {{listen_addr: \"127.0.0.1:{port}\", unix_socket_dir: {}}}\npool: {{dsn: \"postgres://a:b@127.0.0.1:1/c\"}}\n", place.path().display()),
    );
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(binary())
        .arg(&config)
        .args(["-u", &user.name]);
    let mut child = command
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it runs");
    wait_until("it listens", || process::listening(port));
    let socket = place.path().join(format!(".s.PGSQL.{port}"));
    wait_until("its socket is there", || socket.exists());
    let (pid, uid, gid) = (child.id(), user.uid, user.gid);
    assert_eq!(status(pid, "Uid:"), format!("{uid} {uid} {uid} {uid}"));
    assert_eq!(status(pid, "Gid:"), format!("{gid} {gid} {gid} {gid}"));
    let groups = status(pid, "Groups:");
    assert!(!groups.split(' ').any(|group| group == "0"), "{groups}");
    for set in ["CapInh:", "CapPrm:", "CapEff:"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    // The socket is of the one who has to remove it.
    process::signal(pid, Signal::SIGTERM);
    assert!(child.wait().expect("it is our child").success());
    assert!(!socket.exists());
}
