//! The three, started with equal settings in front of one scratch PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;

use nix::sys::signal::Signal;

use crate::settings::Settings;
use crate::support::process::{self, Place};
use crate::support::{Cluster, PATIENCE, cluster, pgbouncer, pooler, wait_for, wait_until};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Debian's `pgbouncer`, as a rule: what the others are compared with.
    PgBouncer,
    /// The one of this tree.
    Aether,
    /// A relay that knows nothing of PostgreSQL: what the kernel takes for any.
    Haproxy,
}

/// All three, in the order of a round: another one is first in the next.
pub fn in_turn(round: usize) -> impl Iterator<Item = Contender> {
    const ALL: [Contender; 3] = [Contender::PgBouncer, Contender::Aether, Contender::Haproxy];
    (0..3).map(move |place| ALL[(place + round) % 3])
}

/// The two poolers among them.
pub fn poolers_in_turn(round: usize) -> impl Iterator<Item = Contender> {
    in_turn(round).filter(|contender| *contender != Contender::Haproxy)
}

/// The user, the database and the role on the server.
pub const NAME: &str = "bench";

/// Server connections of each further pool. Aether keeps descriptors for as many servers as there may be.
const SMALL_POOL: usize = 2;

/// How clients show who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Trust,
    /// By md5, stored as PostgreSQL stores it.
    Md5,
    /// By SCRAM, stored as PostgreSQL's verifier.
    Scram,
}

/// How a pooler is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// `session` or `transaction`.
    pub mode: &'static str,
    /// Server connections.
    pub pool: usize,
    /// How clients log in.
    pub method: Method,
    /// Further databases, each with a pool of its own: `d0`, `d1`, ...
    pub more_pools: usize,
    /// More sections of Aether's configuration; `{metrics}` is a port of its own.
    pub more: &'static str,
}

impl Setup {
    /// Transaction mode, a pool of 20, trust.
    pub const USUAL: Setup = Setup {
        mode: "transaction",
        pool: 20,
        method: Method::Trust,
        more_pools: 0,
        more: "",
    };
}

/// Where all of it happens.
pub struct Field {
    /// How much to measure.
    pub settings: Settings,
    /// The server of all.
    pub cluster: Cluster,
    md5: String,
    scram: String,
}

impl Field {
    /// Starts PostgreSQL and fills pgbench's tables.
    pub fn open(settings: Settings) -> Field {
        let cluster = Cluster::start_with(&cluster::Options {
            port: None,
            max_connections: 500,
            conf: vec!["shared_buffers = 128MB".into(), "autovacuum = off".into()],
            hba: vec![format!("host all {NAME} 127.0.0.1/32 trust")],
        });
        let stored = |encryption: &str| {
            cluster.sql(
                "postgres",
                &format!(
                    "SET password_encryption = '{encryption}'; ALTER ROLE {NAME} PASSWORD '{}'; \
                     SELECT rolpassword FROM pg_authid WHERE rolname = '{NAME}'",
                    cluster::PASSWORD
                ),
            )
        };
        cluster.sql("postgres", &format!("CREATE ROLE {NAME} LOGIN"));
        cluster.sql("postgres", &format!("CREATE DATABASE {NAME} OWNER {NAME}"));
        let (md5, scram) = (stored("md5"), stored("scram-sha-256"));
        let mut fill = Command::new(cluster.program("pgbench"));
        fill.args(["-i", "-q", "-s", "3", "-h", "127.0.0.1", "-U", NAME]);
        fill.args(["-p", &cluster.port().to_string(), NAME]);
        let output = fill.output().expect("pgbench runs");
        assert!(output.status.success(), "pgbench -i: {output:?}");
        cluster.sql(
            NAME,
            &format!("CREATE TABLE rows (line text); ALTER TABLE rows OWNER TO {NAME}"),
        );
        Field {
            settings,
            cluster,
            md5,
            scram,
        }
    }

    /// Starts a contender.
    pub fn start(&self, contender: Contender, setup: Setup) -> Running {
        self.start_under(&[], contender, setup)
    }

    /// Starts all three, in the order of [`Contender`].
    pub fn start_all(&self, setup: Setup) -> [Running; 3] {
        let start = |contender| self.start(contender, setup);
        [Contender::PgBouncer, Contender::Aether, Contender::Haproxy].map(start)
    }

    /// Starts a contender by way of a program that starts what its last arguments say.
    pub fn start_under(&self, wrapper: &[&str], contender: Contender, setup: Setup) -> Running {
        let place = Place::new("bench");
        let (port, metrics) = (process::free_port(), process::free_port());
        let program: PathBuf = match contender {
            Contender::Aether => aether().to_owned(),
            Contender::PgBouncer => pgbouncer().program.clone(),
            Contender::Haproxy => "/usr/sbin/haproxy".into(),
        };
        assert!(
            program.exists(),
            "{} is missing: `make bench` installs it",
            program.display()
        );
        let config = match contender {
            Contender::Aether => {
                place.write("aether.yaml", &self.aether_yaml(setup, port, metrics))
            }
            Contender::PgBouncer => self.pgbouncer_ini(&place, setup, port),
            Contender::Haproxy => place.write("haproxy.cfg", &self.haproxy_cfg(port)),
        };
        certificate(&place);
        let mut command = match wrapper {
            [] => process::command(&program),
            [first, arguments @ ..] => {
                let mut command = process::command(Path::new(first));
                command
                    .args(arguments)
                    .args(["setpriv", "--pdeathsig", "KILL"]);
                command.arg(&program);
                command
            }
        };
        if contender == Contender::Haproxy {
            command.args(["-db", "-f"]);
        }
        let log = fs::File::create(place.path().join("log")).expect("its log");
        command.arg(config).current_dir(place.path());
        command
            .stdout(log.try_clone().expect("its log"))
            .stderr(log);
        let child = process::spawn(command).expect("setpriv, of util-linux, starts it");
        let mut running =
            Running::when_listening(contender, child, port, place, !wrapper.is_empty());
        running.metrics = metrics;
        running
    }

    fn secret(&self, method: Method) -> &str {
        match method {
            Method::Md5 => &self.md5,
            Method::Trust | Method::Scram => &self.scram,
        }
    }

    fn aether_yaml(&self, setup: Setup, port: u16, metrics: u16) -> String {
        let method = match setup.method {
            Method::Trust => "trust",
            Method::Md5 => "md5",
            Method::Scram => "scram-sha-256",
        };
        let more: String = (0..setup.more_pools)
            .map(|number| format!("  d{number}: {{max_connections: {SMALL_POOL}}}\n"))
            .collect();
        let databases = if more.is_empty() {
            String::new()
        } else {
            format!("databases:\n{more}")
        };
        format!(
            "server:\n  listen_addr: '127.0.0.1:{port}'\n  max_client_connections: 12000\n  \
             max_unauthenticated_connections: 12000\n  tcp_defer_accept: true\n  tls: {{cert_file: server.crt, key_file: server.key}}\n\
             pool:\n  dsn: 'postgres://{NAME}@127.0.0.1:{}/{NAME}?sslmode=disable'\n  mode: {}\n  max_connections: {}\n\
             auth:\n  type: {method}\n  allow_insecure: true\n  users: {{{NAME}: '{}'}}\n{databases}{}",
            self.cluster.port(),
            setup.mode,
            setup.pool,
            self.secret(setup.method),
            setup.more.replace("{metrics}", &metrics.to_string()),
        )
    }

    fn pgbouncer_ini(&self, place: &Place, setup: Setup, port: u16) -> PathBuf {
        let method = match setup.method {
            Method::Trust => "trust",
            Method::Md5 => "md5",
            Method::Scram => "scram-sha-256",
        };
        place.write(
            "users",
            &format!("\"{NAME}\" \"{}\"\n", self.secret(setup.method)),
        );
        let server = format!(
            "host=127.0.0.1 port={} dbname={NAME} user={NAME}",
            self.cluster.port()
        );
        let more: String = (0..setup.more_pools)
            .map(|number| format!("d{number} = {server} pool_size={SMALL_POOL}\n"))
            .collect();
        let text = format!(
            "[databases]\n{NAME} = {server}\n{more}[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = {method}\nauth_file = users\npool_mode = {}\ndefault_pool_size = {}\nmax_client_conn = 12000\n\
             client_tls_sslmode = allow\nclient_tls_cert_file = server.crt\nclient_tls_key_file = server.key\n\
             server_tls_sslmode = disable\nignore_startup_parameters = extra_float_digits\n{}",
            setup.mode,
            setup.pool,
            pgbouncer().more_ini(),
        );
        place.write("pgbouncer.ini", &text)
    }

    fn haproxy_cfg(&self, port: u16) -> String {
        format!(
            "global\n  nbthread 1\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n\
             frontend clients\n  bind 127.0.0.1:{port}\n  default_backend servers\nbackend servers\n  server postgres 127.0.0.1:{}\n",
            self.cluster.port()
        )
    }
}

/// The certificate of all.
fn certificate(place: &Place) {
    for file in ["server.crt", "server.key"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/certificates")
            .join(file);
        let text = fs::read_to_string(from).expect("tests/certificates");
        place.write(file, &text);
    }
}

/// The Aether to measure.
fn aether() -> &'static Path {
    static GIVEN: OnceLock<Option<PathBuf>> = OnceLock::new();
    let given = GIVEN.get_or_init(|| std::env::var_os("AETHER_BENCH_BINARY").map(PathBuf::from));
    given.as_deref().unwrap_or_else(|| pooler::binary())
}

/// A contender at work. Dropping it ends it.
pub struct Running {
    /// Its TCP port on 127.0.0.1.
    pub port: u16,
    /// The port of its metrics, where they are asked for.
    pub metrics: u16,
    /// Its process.
    pub pid: u32,
    who: Contender,
    child: Child,
    _place: Place,
}

impl Running {
    fn when_listening(
        who: Contender,
        mut child: Child,
        port: u16,
        place: Place,
        wrapped: bool,
    ) -> Running {
        wait_until("a pooler listens", || {
            if let Ok(Some(status)) = child.try_wait() {
                let log = fs::read_to_string(place.path().join("log")).unwrap_or_default();
                panic!("{who:?} ended with {status}:\n{log}");
            }
            process::listening(port)
        });
        let pid = match process::children(child.id()).first() {
            Some(pid) if wrapped => *pid,
            _ => child.id(),
        };
        Running {
            port,
            metrics: 0,
            pid,
            who,
            child,
            _place: place,
        }
    }

    /// Ends it at once, in its own way, and waits until it has gone: an instrumented one leaves its profile then (scripts/pgo).
    pub fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return; // it has gone, and its number may be somebody else's
        }
        let signal = match self.who {
            Contender::Aether => Signal::SIGQUIT,
            Contender::PgBouncer | Contender::Haproxy => Signal::SIGTERM,
        };
        process::signal(self.pid, signal);
        if !wait_for(PATIENCE, || matches!(self.child.try_wait(), Ok(Some(_)))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}
