//! Where a password that a client typed may not be: in the log, the console, an error, the memory of the process.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use super::tls::{certificates, own_certificate};
use crate::support::cluster::PASSWORD;
use crate::support::{Cluster, Pooler, Wire, process, scene};

/// Typed by clients, and never told to Aether. What frees memory writes over the first bytes of it, so all of it is looked for.
const CANARY: &str = "7d1c-the-canary-of-a-client-e995-sings";
/// Pieces of it.
const PIECES: [&str; 3] = ["7d1c-the-canary", "canary-of-a-client", "client-e995-sings"];

/// A psql that has logged in and stays, if it can.
struct Psql(Child);

impl Psql {
    /// `words` as libpq takes them. `Err`: what it says.
    fn start(cluster: &Cluster, words: &str, password: &str) -> Result<Psql, String> {
        let mut child = Command::new(cluster.program("psql"))
            .args(["-X", "-A", "-t", "-d", words])
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "20")
            .env("HOME", "/nonexistent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql");
        let _ = writeln!(child.stdin.as_mut().expect("a pipe"), "\\echo it is in");
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.as_mut().expect("a pipe"));
        said.read_line(&mut line).expect("it speaks");
        if line == "it is in\n" {
            return Ok(Psql(child));
        }
        let output = child.wait_with_output().expect("it ends");
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// What Aether keeps of the canary: nothing from which it could be had.
fn stored(cluster: &Cluster, method: &str) -> String {
    let form = if method == "md5" {
        "md5"
    } else {
        "scram-sha-256"
    };
    let role = format!("canary_{form}").replace('-', "_");
    let sql = format!(
        "SET password_encryption = '{form}'; DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD '{CANARY}'; \
         SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'"
    );
    let said = cluster.sql("postgres", &sql);
    let secret = said.lines().last().expect("a secret").trim().to_owned();
    // An MD5 secret is that of one name.
    format!("{role}: \"{secret}\"")
}

/// Issue 4, proof 3; R10: by every method, with and without TLS, right and wrong, for a database and for the console. Where the
/// memory cannot be read, that is the kernel keeping it from us, as it should.
#[test]
fn a_password_that_a_client_typed_is_nowhere_once_the_login_is_over() {
    let cluster = Cluster::shared();
    let database = cluster.database("secrets_canary");
    let files = certificates();
    for method in ["password", "md5", "scram-sha-256"] {
        let secret = stored(cluster, method);
        let user = secret.split(':').next().expect("a name").to_owned();
        let pooler = Pooler::start(&format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\", log_level: trace, tls: {{mode: prefer, {}}}}}\n\
             pool: {{dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/{database}\"}}\n\
             auth: {{type: {method}, failure_limit: 0, failure_delay: 0, users: {{{secret}}}}}\nadmin: {{users: [{user}]}}\n",
            own_certificate(&files),
            cluster.port()
        ));
        let (mut sessions, mut texts) = (Vec::new(), Vec::new());
        for mode in ["disable", "require"] {
            let words = |user: &str, database: &str| {
                let port = pooler.port();
                format!("host=127.0.0.1 port={port} sslmode={mode} user={user} dbname={database}")
            };
            for name in [database.as_str(), "aether"] {
                let right = words(&user, name);
                let session = Psql::start(cluster, &right, CANARY);
                sessions.push(session.unwrap_or_else(|error| panic!("{method}, {mode}: {error}")));
            }
            for (who, password, name) in [
                (user.as_str(), format!("no-{CANARY}"), database.as_str()),
                ("nobody", CANARY.to_owned(), &database),
                (&user, CANARY.to_owned(), "nowhere"),
                (&user, CANARY.repeat(40), &database),
            ] {
                let refused = Psql::start(cluster, &words(who, name), &password);
                texts.push(refused.err().expect("a refusal"));
            }
        }
        let parameters = [("user", user.as_str()), ("database", "aether")];
        let mut console = Wire::try_login(pooler.port(), &parameters, CANARY).expect("a session");
        for what in scene::SHOWN {
            texts.push(format!("{:?}", console.run(&format!("SHOW {what}"))));
            let bytes = console.run(&format!("SHOW {what}"));
            let bytes: Vec<u8> = bytes.into_iter().flat_map(|message| message.body).collect();
            texts.push(String::from_utf8_lossy(&bytes).into_owned());
        }
        is_nowhere(&pooler, &format!("{method}, in the sessions"));
        drop(sessions);
        console.terminate();
        is_nowhere(&pooler, &format!("{method}, behind the sessions"));
        texts.push(pooler.log());
        for text in texts {
            assert!(!PIECES.iter().any(|piece| text.contains(piece)), "{text}");
        }
    }
}

/// Secrets that an operator has written, one for each way of writing it. What is in memory once ends with its number.
struct Written {
    texts: Vec<String>,
}

impl Written {
    /// `generation`: what tells these from those of before a reload.
    fn new(generation: &str) -> Written {
        let text = |place| format!("{place}-{generation}-4f9a-written-08c3-{generation}-{place}");
        let places = ["dsn", "backend", "file", "known", "listed", "asker"];
        Written {
            texts: places.into_iter().map(text).collect(),
        }
    }

    fn yaml(&self, cluster: &Cluster, database: &str, directory: &Path) -> String {
        let [dsn, backend, file, user, userlist, asker] = &self.texts[..] else {
            panic!("six");
        };
        let list = directory.join("users.txt");
        let password = directory.join("password");
        fs::write(&list, format!("\"listed\" \"{userlist}\"\n")).expect("a userlist");
        fs::write(&password, format!("{file}\n")).expect("a password");
        for path in [&list, &password] {
            process::own(path);
        }
        let port = cluster.port();
        format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\n\
             pool: {{dsn: \"postgres://written:{dsn}@127.0.0.1:{port}/{database}\"}}\n\
             databases:\n  \
             second: {{backend: {{user: written, password: {backend}}}}}\n  \
             third: {{backend: {{user: written, password_file: {}}}}}\n\
             auth:\n  type: scram-sha-256\n  failure_limit: 0\n  failure_delay: 0\n  users_file: {}\n  \
             users: {{known: {user}}}\n  auth_user: {{name: asker, password: {asker}}}\n",
            password.display(),
            list.display()
        )
    }
}

/// Issue 4; R10: what an operator has written is in the memory of the process where it is needed, and in no other place: not as the
/// text of a file, nor in what is left of reading it; after a reload, and an unused server's end, nothing is left of it at all.
#[test]
fn a_secret_that_was_configured_is_in_one_place() {
    let cluster = Cluster::shared();
    let database = cluster.database("secrets_canary_written");
    let directory = process::Place::new("written");
    let (first, second) = (Written::new("first"), Written::new("second"));
    cluster.sql(
        "postgres",
        &format!(
            "DROP ROLE IF EXISTS written; CREATE ROLE written LOGIN PASSWORD '{}'",
            first.texts[0]
        ),
    );
    let pooler = Pooler::start(&first.yaml(cluster, &database, directory.path()));
    let mut client = Wire::login(pooler.port(), "known", &first.texts[3], &database);
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    client.terminate();
    are_there(&pooler, &first, 1, "after the start");
    pooler.rewrite_config(&second.yaml(cluster, &database, directory.path()));
    pooler.signal(Signal::SIGHUP);
    pooler.wait_for_log("was reloaded");
    are_there(&pooler, &second, 1, "after the reload");
    are_there(&pooler, &first, 0, "after the reload");
    // One that is broken leaves nothing either.
    let third = Written::new("third");
    let broken = third.yaml(cluster, &database, directory.path()) + "nonsense: [1\n";
    pooler.rewrite_config(&broken);
    pooler.signal(Signal::SIGHUP);
    pooler.wait_for_log("not valid YAML");
    are_there(&pooler, &second, 1, "after a broken reload");
    are_there(&pooler, &third, 0, "after a broken reload");
}

/// Each secret is in memory so many times.
#[track_caller]
fn are_there(pooler: &Pooler, written: &Written, times: usize, when: &str) {
    let Some(memory) = memory(pooler.pid()) else {
        return assert!(!geteuid().is_root(), "root can read it");
    };
    for text in &written.texts {
        // What frees memory may write over the beginning of a piece; not over both halves.
        let (head, tail) = text.split_at(text.len() / 2);
        for piece in [head, tail] {
            let found: Vec<String> = all(&memory, piece);
            assert_eq!(
                found.len(),
                times,
                "{when}: {piece:?} of {text:?}: {found:#?}"
            );
        }
    }
}

/// Looks for the canary in the memory of the process.
#[track_caller]
fn is_nowhere(pooler: &Pooler, when: &str) {
    let Some(memory) = memory(pooler.pid()) else {
        return assert!(!geteuid().is_root(), "root can read it");
    };
    assert!(
        found(&memory, "secrets_canary").is_some(),
        "the memory was read"
    );
    for piece in PIECES {
        if let Some(around) = found(&memory, piece) {
            panic!("{when}: still there: {around:?}");
        }
    }
}

/// What surrounds a text in memory, if it is there.
fn found(memory: &[(String, Vec<u8>)], text: &str) -> Option<String> {
    all(memory, text).into_iter().next()
}

/// What surrounds a text in memory, everywhere.
fn all(memory: &[(String, Vec<u8>)], text: &str) -> Vec<String> {
    let of_part = |(name, part): &(String, Vec<u8>)| -> Vec<String> {
        let windows = part.windows(text.len()).enumerate();
        windows
            .filter(|(_, window)| *window == text.as_bytes())
            .filter_map(|(at, _)| part.get(at.saturating_sub(40)..part.len().min(at + 80)))
            .map(|around| format!("{name}: {}", around.escape_ascii()))
            .collect()
    };
    memory.iter().flat_map(of_part).collect()
}

/// All that a process can write to, with what the kernel calls each part; `None`: it may not be read.
fn memory(pid: u32) -> Option<Vec<(String, Vec<u8>)>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let file = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut parts = Vec::new();
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let parse = |text| u64::from_str_radix(text, 16).ok();
        let (from, to) = (parse(from)?, parse(to)?);
        if !rest.starts_with("rw") {
            continue;
        }
        let mut part = vec![0; usize::try_from(to - from).ok()?];
        if file.read_exact_at(&mut part, from).is_ok() {
            parts.push((rest.to_owned(), part));
        }
    }
    (!parts.is_empty()).then_some(parts)
}
