//! A scratch PostgreSQL: its own directory, port, roles and life. Programs of the newest PostgreSQL that is installed.
//!
//! Every cluster has, over TCP: superuser `postgres` (trust), and with password `password` the roles `username` (SCRAM,
//! owner of database `database`), `md5_user` (MD5) and `clear_user` (cleartext). Over its Unix socket all is trust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::sys::signal::Signal;

use super::process::{self, Place};
use super::wait_until;

/// The password of every role that has one.
pub const PASSWORD: &str = "password";

/// How PostgreSQL is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are told, and ended.
    Fast,
    /// As a crash.
    Immediate,
}

/// What may differ from one cluster to the next.
#[derive(Clone, Debug)]
pub struct Options {
    /// `max_connections`.
    pub max_connections: u32,
    /// Its TCP port, where another listens at another address; else a free one.
    pub port: Option<u16>,
    /// More lines for `postgresql.conf`.
    pub conf: Vec<String>,
    /// Lines for `pg_hba.conf` that come before the usual ones.
    pub hba: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_connections: 100,
            port: None,
            conf: Vec::new(),
            hba: Vec::new(),
        }
    }
}

/// A running, or for the moment stopped, PostgreSQL. Dropping it ends it and removes its files.
pub struct Cluster {
    port: u16,
    postmaster: Mutex<Option<Child>>,
    place: Place,
}

impl Cluster {
    /// The one that all tests of a binary share: use a database of your own there ([`Cluster::database`]), change nothing
    /// that belongs to all, and start your own cluster to stop it.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Cluster::start)
    }

    /// A cluster of the caller's own, with the usual options.
    pub fn start() -> Cluster {
        Cluster::start_with(&Options::default())
    }

    /// A cluster of the caller's own.
    pub fn start_with(options: &Options) -> Cluster {
        let place = Place::new("postgres");
        let data = place.path().join("data");
        let mut initdb = process::command(&program("initdb"));
        initdb.arg("-D").arg(&data);
        initdb.args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]);
        succeed("initdb", &mut initdb);

        let port = options.port.unwrap_or_else(process::free_port);
        let conf = format!(
            "\nport = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nmax_connections = {}\n\
             fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nshared_buffers = 32MB\n\
             log_line_prefix = '%m [%p] %u@%d '\n{}\n",
            place.path().display(),
            options.max_connections,
            options.conf.join("\n"),
        );
        let shipped = fs::read_to_string(data.join("postgresql.conf")).expect("initdb wrote it");
        place.write("data/postgresql.conf", &(shipped + &conf));
        let hba = format!(
            "{}\nlocal all all trust\nhost all postgres all trust\nhost replication postgres all trust\n\
             host all md5_user all md5\nhost all clear_user all password\nhost all all all scram-sha-256\n",
            options.hba.join("\n")
        );
        place.write("data/pg_hba.conf", &hba);

        let cluster = Cluster {
            port,
            postmaster: Mutex::new(None),
            place,
        };
        cluster.start_again();
        cluster.sql(
            "postgres",
            "SET password_encryption = 'scram-sha-256'; CREATE ROLE username LOGIN PASSWORD 'password'; \
             CREATE ROLE clear_user LOGIN PASSWORD 'password'; \
             SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'password'",
        );
        cluster.sql("postgres", "CREATE DATABASE database OWNER username");
        cluster
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.place.path()
    }

    /// The process id of the postmaster; none while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(Child::id)
    }

    /// Creates an empty database for one test. Everybody may do everything there.
    pub fn database(&self, name: &str) -> String {
        self.sql(
            "postgres",
            &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
        );
        self.sql(
            "postgres",
            &format!("CREATE DATABASE {name} OWNER username"),
        );
        self.sql(name, "GRANT ALL ON SCHEMA public TO PUBLIC");
        name.to_string()
    }

    /// Runs SQL as superuser over the Unix socket: values only, one row a line, columns separated by `|`. Fails the test
    /// when the statement fails.
    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = Command::new(program("psql"));
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
        ]);
        psql.arg("-h")
            .arg(self.socket_dir())
            .arg("-p")
            .arg(self.port.to_string());
        psql.args(["-d", database, "-c", sql])
            .env("PGCONNECT_TIMEOUT", "20");
        succeed(sql, &mut psql).trim_end().to_string()
    }

    /// A client program of the same PostgreSQL (`psql`, `pgbench`, `pg_dump`), by its full path.
    pub fn program(&self, name: &str) -> PathBuf {
        program(name)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read(self.place.path().join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Stops it, sessions included, and waits until it has gone.
    #[track_caller]
    pub fn stop(&self, how: Stop) {
        let mut postmaster = self
            .postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(child) = postmaster.as_mut() else {
            return;
        };
        let signal = if how == Stop::Fast {
            Signal::SIGINT
        } else {
            Signal::SIGQUIT
        };
        process::signal(child.id(), signal);
        wait_until("PostgreSQL has stopped", || {
            matches!(child.try_wait(), Ok(Some(_)))
        });
        *postmaster = None;
    }

    /// Starts it (again) and waits until it takes connections.
    #[track_caller]
    pub fn start_again(&self) {
        let mut postmaster = self
            .postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        assert!(postmaster.is_none(), "PostgreSQL is running");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.place.path().join("log"))
            .expect("its log");
        let mut command = process::command(&program("postgres"));
        command
            .arg("-D")
            .arg(self.data())
            .stdout(log.try_clone().expect("its log"))
            .stderr(log);
        let mut child = process::spawn(command).expect("setpriv, of util-linux, starts it");
        wait_until("PostgreSQL takes connections", || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("PostgreSQL ended with {status}:\n{}", self.log());
            }
            self.is_ready(child.id())
        });
        *postmaster = Some(child);
    }

    /// [`Cluster::stop`], then [`Cluster::start_again`].
    #[track_caller]
    pub fn restart(&self, how: Stop) {
        self.stop(how);
        self.start_again();
    }

    /// Stops every process of it in its tracks: connections stay, the kernel still accepts new ones, nobody answers.
    pub fn freeze(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Ends [`Cluster::freeze`].
    pub fn thaw(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    fn signal_all(&self, signal: Signal) {
        let postmaster = self.pid().expect("PostgreSQL is stopped");
        process::signal(postmaster, signal);
        process::children(postmaster)
            .into_iter()
            .for_each(|child| process::signal(child, signal));
    }

    fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    /// The postmaster writes its state into the eighth line of its pid file.
    fn is_ready(&self, pid: u32) -> bool {
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines();
        lines.next() == Some(&pid.to_string())
            && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let postmaster = self
            .postmaster
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(child) = postmaster.as_mut() else {
            return;
        };
        for one in process::children(child.id()) {
            process::signal(one, Signal::SIGCONT);
        }
        process::signal(child.id(), Signal::SIGCONT);
        process::signal(child.id(), Signal::SIGQUIT);
        if !super::wait_for(super::PATIENCE, || matches!(child.try_wait(), Ok(Some(_)))) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program of the newest installed PostgreSQL. None is a failure, not a reason to skip.
fn program(name: &str) -> PathBuf {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let versions = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten();
        let mut found: Vec<(u32, PathBuf)> = versions
            .filter_map(|entry| {
                Some((
                    entry.file_name().to_str()?.parse().ok()?,
                    entry.path().join("bin"),
                ))
            })
            .filter(|(_, bin): &(u32, PathBuf)| bin.join("initdb").exists())
            .collect();
        found.sort();
        if let Some((_, bin)) = found.pop() {
            return bin;
        }
        let asked = Command::new("pg_config").arg("--bindir").output().ok();
        let said = asked.map(|output| {
            PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_string())
        });
        said.filter(|bin| bin.join("initdb").exists())
            .expect("no PostgreSQL server is installed: `make test` installs one")
    };
    let path = BIN.get_or_init(find).join(name);
    assert!(
        path.exists(),
        "PostgreSQL's {name} is not installed: `make test` installs it"
    );
    path
}

/// Runs a command to its end and returns what it printed; fails the test when the command fails.
#[track_caller]
fn succeed(what: &str, command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(
        status.success(),
        "{what}: {status}\n{}{text}",
        String::from_utf8_lossy(&stderr)
    );
    text
}
