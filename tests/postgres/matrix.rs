//! Which login works with which secret (issue 4, proof 2): stored form × client's method × server's method × occasion.
//!
//! Each combination has a role of its own on one server, so that nobody profits from what another one has shown, and goes through
//! all occasions. What is expected stands in [`TABLE`] and [`OCCASIONS`].

use std::fmt::Write as _;

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::support::cluster::Options;
use crate::support::process::{self, Place};
use crate::support::wire::first_error;
use crate::support::{Cluster, Pooler, Stop, Wire, scene, wait_until};
use crate::tls::certificates;

/// The server's methods, and in which form it stores the password: `md5` asks by SCRAM those who are stored so.
const SERVERS: [(&str, &str, &str); 5] = [
    ("trust", "trust", "scram-sha-256"),
    ("password", "password", "scram-sha-256"),
    ("md5", "md5", "md5"),
    ("md5scram", "md5", "scram-sha-256"),
    ("scram", "scram-sha-256", "scram-sha-256"),
];

/// What becomes of a secret in this form, of a client that logs in by this method, at each of [`SERVERS`]:
///
/// - `T`: it works, the server asks for nothing.
/// - `P`: it works with the password, or the md5 digest, that Aether has.
/// - `K`: it works with the keys that the client has proven.
/// - `f`: the secret has a form that cannot answer the server.
/// - `u`: no client has proven the keys of the verifier.
/// - `n`: Aether does not let the client in.
#[rustfmt::skip]
const TABLE: [(&str, &str, [char; 5]); 18] = [
    //                         trust  password  md5  md5scram  scram
    ("plain", "trust",        ['T',    'P',     'P',    'P',    'P']),
    ("plain", "peer",         ['T',    'P',     'P',    'P',    'P']),
    ("plain", "cert",         ['T',    'P',     'P',    'P',    'P']),
    ("plain", "password",     ['T',    'P',     'P',    'P',    'P']),
    ("plain", "md5",          ['T',    'P',     'P',    'P',    'P']),
    ("plain", "scram",        ['T',    'P',     'P',    'P',    'P']),
    ("md5",   "trust",        ['T',    'f',     'P',    'f',    'f']),
    ("md5",   "peer",         ['T',    'f',     'P',    'f',    'f']),
    ("md5",   "cert",         ['T',    'f',     'P',    'f',    'f']),
    ("md5",   "password",     ['T',    'f',     'P',    'f',    'f']),
    ("md5",   "md5",          ['T',    'f',     'P',    'f',    'f']),
    ("md5",   "scram",        ['n',    'n',     'n',    'n',    'n']),
    ("scram", "trust",        ['T',    'f',     'f',    'u',    'u']),
    ("scram", "peer",         ['T',    'f',     'f',    'u',    'u']),
    ("scram", "cert",         ['T',    'f',     'f',    'u',    'u']),
    ("scram", "password",     ['T',    'f',     'f',    'K',    'K']),
    ("scram", "md5",          ['T',    'f',     'f',    'K',    'K']),
    ("scram", "scram",        ['T',    'f',     'f',    'K',    'K']),
];

const FORM: &str = "cannot answer what the server asks for";
const UNPROVEN: &str = "of which Aether has only a SCRAM verifier that no client has proven";
const DIFFERS: &str =
    "the verifier on the server differs from the one that Aether has for user \"{user}\"";
const WRONG: &str = "password authentication failed for user \"{user}\"";
const OK: &str = "";

/// The occasions: the first login; queries of that session, each on a new server connection, after the servers' end, a reload
/// without change, a restart of the server, and a new password on the server only; a query of another session that has waited
/// since the beginning, after a reload with the new secret; logins with the old and the new password.
#[rustfmt::skip]
const OCCASIONS: [(char, [&str; 8]); 6] = [
    //     first     remade    reloaded  restarted rotated   renewed   old       new
    ('T', [OK,       OK,       OK,       OK,       OK,       OK,       WRONG,    OK]),
    ('P', [OK,       OK,       OK,       OK,       WRONG,    OK,       WRONG,    OK]),
    ('K', [OK,       OK,       OK,       OK,       DIFFERS,  UNPROVEN, WRONG,    OK]),
    ('f', [FORM,     FORM,     FORM,     FORM,     FORM,     FORM,     WRONG,    FORM]),
    ('u', [UNPROVEN, UNPROVEN, UNPROVEN, UNPROVEN, UNPROVEN, UNPROVEN, UNPROVEN, UNPROVEN]),
    ('n', [WRONG,    WRONG,    WRONG,    WRONG,    WRONG,    WRONG,    WRONG,    WRONG]),
];

const FIRST: usize = 0;
const REMADE: usize = 1;
const RELOADED: usize = 2;
const RESTARTED: usize = 3;
const ROTATED: usize = 4;
const RENEWED: usize = 5;
const OLD: usize = 6;
const NEW: usize = 7;

/// One combination.
struct Cell {
    stored: &'static str,
    client: &'static str,
    server: (&'static str, &'static str, &'static str),
    code: char,
    /// Sessions since the first login: one that asks on every occasion, one that waits for its one.
    sessions: [Option<Wire>; 2],
    /// The server process of the last answer.
    pid: String,
}

impl Cell {
    fn user(&self) -> String {
        format!("{}_{}_{}", self.stored, self.server.0, self.client)
    }

    fn password(&self, age: &str) -> String {
        format!("{age} of {}", self.user())
    }

    /// Whether the client shows a password at all.
    fn types(&self) -> bool {
        !["trust", "peer", "cert"].contains(&self.client)
    }

    fn expected(&self, occasion: usize) -> String {
        // Who types nothing has no old password.
        let occasion = if occasion == OLD && !self.types() {
            NEW
        } else {
            occasion
        };
        let (_, row) = OCCASIONS
            .iter()
            .find(|(code, _)| *code == self.code)
            .expect("a code");
        row[occasion].replace("{user}", &self.user())
    }
}

/// The server, the pooler, and what psql needs to reach it.
struct Matrix {
    cluster: Cluster,
    pooler: Pooler,
    files: Place,
    cells: Vec<Cell>,
    checked: usize,
    wrong: Vec<String>,
}

/// What a login or a query has come to: user and process id on the server, or the error.
type Outcome = Result<String, String>;

const QUERY: &str = "SELECT session_user || ' ' || pg_backend_pid()";

impl Matrix {
    fn new() -> Matrix {
        let methods = SERVERS.map(|(name, method, _)| format!("host all +by_{name} all {method}"));
        let cluster = Cluster::start_with(&Options {
            hba: methods.to_vec(),
            ..Options::default()
        });
        let roles = SERVERS.map(|(name, ..)| format!("CREATE ROLE by_{name};"));
        cluster.sql("postgres", &roles.concat());
        let cells: Vec<Cell> = TABLE
            .iter()
            .flat_map(|(stored, client, codes)| {
                SERVERS.into_iter().zip(codes).map(|(server, code)| Cell {
                    stored,
                    client,
                    server,
                    code: *code,
                    sessions: [None, None],
                    pid: String::new(),
                })
            })
            .collect();
        let create = |cell: &Cell| {
            format!(
                "CREATE ROLE {} LOGIN IN ROLE by_{};",
                cell.user(),
                cell.server.0
            )
        };
        cluster.sql("postgres", &cells.iter().map(create).collect::<String>());
        let files = certificates();
        let yaml = secrets(&cluster, &cells, &files, "old");
        Matrix {
            pooler: Pooler::start(&yaml),
            cluster,
            files,
            cells,
            checked: 0,
            wrong: Vec::new(),
        }
    }

    fn reload(&self, yaml: &str) {
        self.pooler.rewrite_config(yaml);
        let reloads = || {
            let log = self.pooler.log();
            log.matches("the configuration was reloaded").count()
        };
        let before = reloads();
        self.pooler.signal(Signal::SIGHUP);
        wait_until("it is reloaded", || reloads() > before);
    }

    /// Ends all server connections, and waits until the pooler knows.
    fn end_servers(&self) {
        self.cluster.sql(
            "postgres",
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        );
        self.wait_for_no_server();
    }

    fn wait_for_no_server(&self) {
        let mut console = Wire::login(self.pooler.port(), "postgres", "", "aether");
        wait_until("no server is left", || {
            let pools = scene::show(&mut console, "POOLS");
            ["sv_idle", "sv_active", "sv_login"]
                .iter()
                .all(|column| scene::pool(&pools, "postgres", column) == 0)
        });
        console.terminate();
    }

    fn psql(&self, cell: &Cell) -> Outcome {
        let at = self.files.path().display();
        let way = match cell.client {
            "peer" => format!("host={at}"),
            _ => format!(
                "host=127.0.0.1 sslmode=require sslcert={at}/client.crt sslkey={at}/client.key"
            ),
        };
        let (port, user) = (self.pooler.port(), cell.user());
        let mut psql = process::command(&self.cluster.program("psql"));
        psql.args(["-XAtw", "-c", QUERY, "-d"])
            .arg(format!("{way} port={port} user={user} dbname=postgres"))
            .env("HOME", "/nonexistent");
        let output = psql.output().expect("psql runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// A login and a query; the session, if there is one to keep.
    fn login(&self, cell: &Cell, password: &str) -> (Outcome, Option<Wire>) {
        if ["peer", "cert"].contains(&cell.client) {
            return (self.psql(cell), None);
        }
        let user = cell.user();
        let parameters = [("user", &user[..]), ("database", "postgres")];
        match Wire::try_login(self.pooler.port(), &parameters, password) {
            Ok(mut session) => (ask(&mut session), Some(session)),
            Err(error) => (Err(error.message().to_owned()), None),
        }
    }

    /// Goes through all cells on one occasion.
    fn each(&mut self, occasion: usize) {
        let mut cells = std::mem::take(&mut self.cells);
        for cell in &mut cells {
            let age = if occasion < RENEWED || occasion == OLD {
                "old"
            } else {
                "new"
            };
            let session = match occasion {
                FIRST | OLD | NEW => None,
                RENEWED => cell.sessions[1].as_mut(),
                _ => cell.sessions[0].as_mut(),
            };
            let outcome = match session {
                Some(session) => ask(session),
                None => {
                    let (outcome, session) = self.login(cell, &cell.password(age));
                    if occasion == FIRST {
                        let second = session
                            .is_some()
                            .then(|| self.login(cell, &cell.password(age)).1);
                        cell.sessions = [session, second.flatten()];
                    }
                    outcome
                }
            };
            self.check(cell, occasion, outcome);
        }
        self.cells = cells;
    }

    fn check(&mut self, cell: &mut Cell, occasion: usize, outcome: Outcome) {
        self.checked += 1;
        let expected = cell.expected(occasion);
        let right = match &outcome {
            Ok(answer) => match answer.split_once(' ') {
                Some((user, pid)) => {
                    let anew =
                        occasion >= OLD || std::mem::replace(&mut cell.pid, pid.to_owned()) != pid;
                    expected == OK && user == cell.user() && anew
                }
                None => false,
            },
            Err(error) => expected != OK && error.contains(&expected),
        };
        if !right {
            let head = OCCASION_NAMES[occasion];
            let expected = if expected == OK {
                "it works"
            } else {
                &expected
            };
            let line = format!(
                "{}, {head}: expected {expected}, got {outcome:?}",
                cell.user()
            );
            self.wrong.push(line);
        }
    }
}

const OCCASION_NAMES: [&str; 8] = [
    "first login",
    "servers made anew",
    "reload without change",
    "server restarted",
    "new password on the server",
    "new secret in the configuration",
    "old password",
    "new password",
];

/// Gives each role a password on the server; the configuration in which Aether knows it in the cell's form.
fn secrets(cluster: &Cluster, cells: &[Cell], files: &Place, age: &str) -> String {
    let alter = |cell: &Cell| {
        let (user, password) = (cell.user(), cell.password(age));
        format!("ALTER ROLE {user} PASSWORD '{password}';")
    };
    let encrypted = |form: &str, wanted: &dyn Fn(&Cell) -> bool| {
        let altered: String = cells
            .iter()
            .filter(|cell| wanted(cell))
            .map(alter)
            .collect();
        cluster.sql(
            "postgres",
            &format!("SET password_encryption = '{form}'; {altered}"),
        );
        cluster.sql("postgres", "SELECT rolname, rolpassword FROM pg_authid")
    };
    let digests = encrypted("md5", &|cell| cell.stored == "md5");
    // Also where the server will have a digest: a verifier of the same password.
    let verifiers = encrypted("scram-sha-256", &|_| true);
    encrypted("md5", &|cell| cell.server.2 == "md5");
    let of = |rows: &str, user: &str| {
        let row = rows
            .lines()
            .find_map(|row| row.strip_prefix(user)?.strip_prefix('|'));
        row.expect("a password").to_owned()
    };
    let (mut users, mut maps) = (String::new(), String::new());
    for cell in cells {
        let user = cell.user();
        let secret = match cell.stored {
            "plain" => cell.password(age),
            "md5" => of(&digests, &user),
            _ => of(&verifiers, &user),
        };
        writeln!(users, "    {user}: \"{secret}\"").expect("a string takes it");
        writeln!(maps, "m {} {user}\nm username {user}", own_name()).expect("a string takes it");
    }
    files.write("ident", &maps);
    files.write(
        "hba",
        "host aether postgres 127.0.0.1/32 trust\n\
         local all /_peer$ peer map=m\n\
         hostssl all /_cert$ 127.0.0.1/32 cert map=m\n\
         host all /_trust$ 127.0.0.1/32 trust\n\
         host all /_password$ 127.0.0.1/32 password\n\
         host all /_md5$ 127.0.0.1/32 md5\n\
         host all /_scram$ 127.0.0.1/32 scram-sha-256\n",
    );
    let at = files.path().display();
    let tls = format!(
        "mode: allow, cert_file: {at}/server.crt, key_file: {at}/server.key, ca_file: {at}/root.crt"
    );
    format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\", unix_socket_dir: {at}, unix_socket_mode: \"0700\", tls: {{{tls}}}}}\n\
         pool: {{dsn: \"postgres://127.0.0.1:{}/postgres\", mode: transaction, max_connections: 20, min_idle_connections: 0}}\n\
         admin: {{users: [postgres]}}\n\
         auth:\n  failure_delay: 0s\n  failure_limit: 0\n  allow_insecure: true\n  hba_file: {at}/hba\n  ident_file: {at}/ident\n  users:\n    postgres: x\n{users}",
        cluster.port()
    )
}

/// The user that psql runs as.
fn own_name() -> String {
    let own = || User::from_uid(geteuid()).ok().flatten();
    let user = process::server_user().cloned().or_else(own);
    user.expect("we are somebody").name
}

/// A query in a session that may end with it.
fn ask(session: &mut Wire) -> Outcome {
    session.send_message(b'Q', &crate::support::wire::terminated(QUERY));
    let mut answer = Vec::new();
    while let Ok(Some(message)) = session.try_read_message() {
        let last = message.kind == b'Z';
        answer.push(message);
        if last {
            break;
        }
    }
    if let Some(error) = first_error(&answer) {
        return Err(error.message().to_owned());
    }
    let row = answer.iter().find_map(crate::support::Message::row);
    let value = row.and_then(|row| row.into_iter().next().flatten());
    value.ok_or_else(|| "no answer".to_owned())
}

/// Issue 4: all stored forms × client methods × server methods × occasions.
#[test]
fn every_secret_works_where_it_can_and_says_why_where_it_cannot() {
    let mut matrix = Matrix::new();
    matrix.each(FIRST);
    matrix.end_servers();
    matrix.each(REMADE);
    let unchanged = std::fs::read_to_string(matrix.pooler.config_path()).expect("it is there");
    matrix.reload(&unchanged);
    matrix.end_servers();
    matrix.each(RELOADED);
    matrix.cluster.stop(Stop::Fast);
    matrix.wait_for_no_server();
    matrix.cluster.start_again();
    matrix.each(RESTARTED);
    let renewed = secrets(&matrix.cluster, &matrix.cells, &matrix.files, "new");
    matrix.end_servers();
    matrix.each(ROTATED);
    matrix.reload(&renewed);
    matrix.end_servers();
    matrix.each(RENEWED);
    matrix.each(OLD);
    matrix.each(NEW);
    eprintln!("{} cells of the matrix were tried", matrix.checked);
    assert_eq!(
        matrix.checked,
        TABLE.len() * SERVERS.len() * OCCASION_NAMES.len()
    );
    assert!(
        matrix.wrong.is_empty(),
        "{} cells are wrong:\n{}",
        matrix.wrong.len(),
        matrix.wrong.join("\n")
    );
}

/// Idle connections are made with proven keys when all have been lost, and clients that prove nothing get servers by them.
#[test]
fn keys_that_one_client_has_proven_serve_those_who_prove_nothing() {
    let cluster = Cluster::shared();
    let (open, shut) = (cluster.database("keys_open"), cluster.database("keys_shut"));
    let verifier = cluster.sql(
        "postgres",
        "CREATE ROLE keys_user LOGIN PASSWORD 'a b\u{2168}'; SELECT rolpassword FROM pg_authid WHERE rolname = 'keys_user'",
    );
    let place = Place::new("keys");
    place.write(
        "hba",
        "host keys_open,aether all 127.0.0.1/32 trust\nhost keys_shut all 127.0.0.1/32 password\n",
    );
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nadmin: {{users: [keys_user]}}\n\
         auth: {{allow_insecure: true, hba_file: {}/hba, users: {{keys_user: \"{verifier}\"}}}}\n\
         pool: {{dsn: \"postgres://127.0.0.1:{}\", min_idle_connections: 2}}\n\
         databases: {{{open}: {{}}, {shut}: {{}}}}\n",
        place.path().display(),
        cluster.port()
    ));
    let try_login = |database: &str, password: &str| {
        let parameters = [("user", "keys_user"), ("database", database)];
        Wire::try_login(pooler.port(), &parameters, password)
    };
    let error = try_login(&open, "").err().expect("nothing is proven");
    assert!(error.message().contains(UNPROVEN), "{error:?}");
    assert!(
        error.hint().contains("Log in to Aether as this user"),
        "{error:?}"
    );
    assert!(try_login(&shut, "wrong").is_err());
    assert!(
        try_login(&open, "").is_err(),
        "a wrong password proves nothing"
    );

    // The same password in SASLprep's form.
    try_login(&shut, "a\u{a0}bIX")
        .expect("the right password")
        .terminate();
    let mut client = try_login(&open, "").expect("keys are known");
    assert_eq!(
        client.value("SELECT session_user").as_deref(),
        Some("keys_user")
    );
    let mut console = try_login("aether", "").expect("the console");
    let mut wait_for_stock = || {
        wait_until("the stock is filled", || {
            scene::pool(&scene::show(&mut console, "POOLS"), &open, "sv_idle") >= 2
        });
    };
    wait_for_stock();
    let since = cluster.sql("postgres", "SELECT clock_timestamp()");
    let of_pool = "FROM pg_stat_activity WHERE datname = 'keys_open' AND state = 'idle'";
    cluster.sql(
        "postgres",
        &format!("SELECT count(pg_terminate_backend(pid)) {of_pool}"),
    );
    let made = || {
        let count = format!("SELECT count(*) {of_pool} AND backend_start > '{since}'");
        cluster.sql("postgres", &count) == "2"
    };
    wait_until("idle connections are there again", made);
    wait_for_stock();
}
