//! Who may log in, how, and what those are told who may not; startup packets of every kind, compared with PostgreSQL.

use std::io::Read;
use std::net::Shutdown;
use std::process::Command;
use std::time::Duration;

use crate::support::cluster::PASSWORD;
use crate::support::process::Place;
use crate::support::wire::{self, first_error, kinds};
use crate::support::{Cluster, Message, Pooler, ServerError, Wire, wait_until};

/// Roles with a password of the same text, one per form in which Aether may know it.
const FORMS: [&str; 3] = ["plain_form", "md5_form", "scram_form"];

/// `md5` and the digest of password and name.
fn md5_secret(user: &str) -> String {
    use md5::Digest as _;
    let digest = md5::Md5::digest(format!("{PASSWORD}{user}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("md5{hex}")
}

/// A SCRAM verifier, as PostgreSQL itself makes it.
fn scram_secret(cluster: &Cluster) -> String {
    cluster.sql(
        "postgres",
        "SELECT rolpassword FROM pg_authid WHERE rolname = 'username'",
    )
}

fn secret(cluster: &Cluster, form: &str) -> String {
    match form {
        "plain_form" => PASSWORD.to_owned(),
        "md5_form" => md5_secret(form),
        _ => scram_secret(cluster),
    }
}

/// One pool as `username`, of one connection, with a section `auth`.
fn pooler(cluster: &Cluster, auth: &str) -> Pooler {
    Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\n{auth}\
         pool:\n  dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/database\"\n  max_connections: 1\n",
        cluster.port()
    ))
}

fn try_login(port: u16, user: &str, password: &str, database: &str) -> Result<Wire, ServerError> {
    Wire::try_login(port, &[("user", user), ("database", database)], password)
}

#[track_caller]
fn refused(port: u16, user: &str, password: &str, database: &str) -> ServerError {
    match try_login(port, user, password, database) {
        Ok(_) => panic!("{user} was let in to {database}"),
        Err(error) => error,
    }
}

/// All bytes that come until the other end closes.
fn rest(client: &mut Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    match client.stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection was not closed: {error}"),
    }
    bytes
}

// ---- methods and secrets

/// Catalogue pgpool (4.0+): the wrong passwords come when the pool is warm.
#[test]
fn every_method_works_with_every_form_of_secret_that_it_can_use() {
    let cluster = Cluster::shared();
    let place = Place::new("secrets");
    let files: Vec<_> = FORMS
        .iter()
        .map(|form| place.write(form, &format!("{}\n", secret(cluster, form))))
        .collect();
    let inline: String = FORMS
        .iter()
        .map(|form| format!("    {form}: \"{}\"\n", secret(cluster, form)))
        .collect();
    let listed: String = FORMS
        .iter()
        .map(|form| format!("\"{form}\" \"{}\"\n", secret(cluster, form)))
        .collect();
    let list = place.write("userlist.txt", &listed);
    let by_file: String = FORMS
        .iter()
        .zip(&files)
        .map(|(form, file)| format!("    {form}: {{password_file: \"{}\"}}\n", file.display()))
        .collect();
    let sources = [
        format!("  users:\n{inline}"),
        format!("  users_file: \"{}\"\n", list.display()),
        format!("  users:\n{by_file}"),
    ];
    for (source, users) in sources.iter().enumerate() {
        for method in ["password", "md5", "scram-sha-256"] {
            let pooler = pooler(cluster, &format!("auth:\n  type: {method}\n{users}"));
            for form in FORMS {
                let what = format!("{method}, {form}, source {source}");
                // A digest cannot be turned into SCRAM keys.
                let possible = (method, form) != ("scram-sha-256", "md5_form");
                if possible {
                    let mut client =
                        try_login(pooler.port(), form, PASSWORD, "database").expect(&what);
                    assert_eq!(
                        client.value("SELECT current_user").as_deref(),
                        Some("username"),
                        "{what}"
                    );
                    client.terminate();
                }
                for wrong in [
                    "wrong",
                    "Password",
                    "passwor",
                    &"x".repeat(2_000),
                    &secret(cluster, "md5_form"),
                ] {
                    let error = refused(pooler.port(), form, wrong, "database");
                    assert_eq!(
                        (error.severity(), error.sqlstate()),
                        ("FATAL", "28P01"),
                        "{what}"
                    );
                    assert_eq!(
                        error.message(),
                        format!("password authentication failed for user \"{form}\"")
                    );
                }
            }
        }
    }
}

#[test]
fn an_empty_password_lets_nobody_in() {
    let cluster = Cluster::shared();
    for method in ["password", "md5", "scram-sha-256"] {
        let pooler = pooler(
            cluster,
            &format!("auth: {{type: {method}, users: {{someone: x}}}}\n"),
        );
        for user in ["someone", "stranger"] {
            assert_eq!(
                refused(pooler.port(), user, "", "database").sqlstate(),
                "28P01",
                "{method}, {user}"
            );
        }
    }
}

#[test]
fn trust_lets_in_everybody_or_only_those_who_are_listed() {
    let cluster = Cluster::shared();
    let open = pooler(cluster, "auth: {type: trust}\n");
    let mut client = try_login(open.port(), "anybody", "", "database").expect("a session");
    assert_eq!(
        client.value("SELECT current_user").as_deref(),
        Some("username")
    );
    let listed = pooler(cluster, "auth: {type: trust, users: {alice: x}}\n");
    assert!(try_login(listed.port(), "alice", "", "database").is_ok());
    assert_eq!(
        refused(listed.port(), "anybody", "", "database").sqlstate(),
        "28P01"
    );
}

#[test]
fn without_a_section_auth_the_dsns_user_logs_in_by_scram_and_nobody_else() {
    let cluster = Cluster::shared();
    let pooler = pooler(cluster, "");
    let mut client = Wire::connect(pooler.port());
    client.startup(&[("user", "username"), ("database", "database")]);
    let request = client.read_message();
    assert_eq!(
        request.body, b"\0\0\0\x0aSCRAM-SHA-256\0\0",
        "nothing weaker is offered"
    );
    assert!(try_login(pooler.port(), "username", PASSWORD, "database").is_ok());
    for (user, password) in [
        ("username", "wrong"),
        ("postgres", PASSWORD),
        ("postgres", ""),
        ("md5_user", PASSWORD),
    ] {
        assert_eq!(
            refused(pooler.port(), user, password, "database").sqlstate(),
            "28P01",
            "{user}"
        );
    }
}

#[test]
fn secrets_come_from_the_environment_as_well() {
    let cluster = Cluster::shared();
    // Set for every child of the tests' own process, and not to be guessed: PATH is.
    let path = std::env::var("PATH").expect("there is a PATH");
    let pooler = pooler(cluster, "auth: {users: {alice: \"${PATH}\"}}\n");
    assert!(try_login(pooler.port(), "alice", &path, "database").is_ok());
    assert_eq!(
        refused(pooler.port(), "alice", "${PATH}", "database").sqlstate(),
        "28P01"
    );
}

/// What a login that fails sees, but for what is random: the nonce of SCRAM, the salt of MD5.
fn failure(port: u16, user: &str) -> (String, Vec<Message>) {
    let mut client = Wire::connect(port);
    client.startup(&[("user", user), ("database", "database")]);
    let request = client.read_message();
    let mut salt = String::new();
    match request.body[3] {
        3 => client.send_message(b'p', b"wrong\0"),
        5 => client.send_message(b'p', b"md5000102030405060708090a0b0c0d0e0f\0"),
        10 => {
            let first = b"n,,n=,r=0123456789abcdefghij";
            let body = [
                b"SCRAM-SHA-256\0".as_slice(),
                &(first.len() as u32).to_be_bytes(),
                first,
            ]
            .concat();
            client.send_message(b'p', &body);
            let challenge = client.read_message();
            let text = String::from_utf8_lossy(&challenge.body[4..]).into_owned();
            let nonce = text.split(',').next().expect("a nonce").to_owned();
            salt = text[nonce.len()..].to_owned();
            let proof = format!("c=biws,{nonce},p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
            client.send_message(b'p', proof.as_bytes());
        }
        other => panic!("authentication request {other}"),
    }
    let mut answer = client.read_to_end();
    for message in &mut answer {
        let text = String::from_utf8_lossy(&message.body).replace(user, "USER");
        message.body = text.into_bytes();
    }
    answer.insert(
        0,
        Message {
            kind: request.kind,
            body: request.body[..4].to_vec(),
        },
    );
    (salt, answer)
}

/// Catalogue R5, C15: who asks cannot tell unknown users from known ones.
#[test]
fn an_unknown_user_sees_what_a_known_one_with_a_wrong_password_sees() {
    let cluster = Cluster::shared();
    for method in ["password", "md5", "scram-sha-256"] {
        let auth =
            format!("auth: {{type: {method}, mock_secret: seed, users: {{alice: secret}}}}\n");
        let pooler = pooler(cluster, &auth);
        let (salt, known) = failure(pooler.port(), "alice");
        let (fake, unknown) = failure(pooler.port(), "mallory");
        assert_eq!(kinds(&known), "RE", "{method}");
        assert_eq!(unknown, known, "{method}");
        assert_eq!(fake.len(), salt.len(), "{method}");
        assert_eq!(
            failure(pooler.port(), "mallory").0,
            fake,
            "{method}: the salt stays the same"
        );
        assert!(method != "scram-sha-256" || failure(pooler.port(), "trent").0 != fake);
        let again = self::pooler(cluster, &auth);
        assert_eq!(
            failure(again.port(), "mallory").0,
            fake,
            "{method}: over a restart as well"
        );
        assert_eq!(
            failure(again.port(), "alice").0,
            salt,
            "{method}: over a restart as well"
        );
    }
}

/// Catalogue R5, C15: unknown user, unknown database, wrong password: the same words, and the same class of time. Iterations enough
/// that a derivation shows; what fails first is forgotten, since that may find caches cold.
#[test]
fn failed_logins_take_as_long_whatever_was_wrong() {
    let cluster = Cluster::shared();
    let iterations = 60_000;
    let mut salted = [0; 32];
    ring::pbkdf2::derive(
        ring::pbkdf2::PBKDF2_HMAC_SHA256,
        std::num::NonZeroU32::new(iterations).expect("some"),
        b"salt",
        PASSWORD.as_bytes(),
        &mut salted,
    );
    let sign = |text: &[u8]| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &salted);
        ring::hmac::sign(&key, text).as_ref().to_vec()
    };
    let encode =
        |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let stored = ring::digest::digest(&ring::digest::SHA256, &sign(b"Client Key"));
    let verifier = format!(
        "SCRAM-SHA-256${iterations}:c2FsdA==${}:{}",
        encode(stored.as_ref()),
        encode(&sign(b"Server Key"))
    );
    for method in ["password", "md5", "scram-sha-256"] {
        let pooler = pooler(
            cluster,
            &format!(
                "auth: {{type: {method}, scram_iterations: {iterations}, failure_delay: 0, failure_limit: 0, \
                 users: {{plain_form: {PASSWORD}, md5_form: \"{}\", scram_form: \"{verifier}\"}}}}\n",
                md5_secret("md5_form")
            ),
        );
        // With md5, a verifier is asked for by SCRAM: another exchange, as with PostgreSQL.
        let places: Vec<_> = [
            ("plain_form", "database"),
            ("md5_form", "database"),
            ("scram_form", "database"),
            ("stranger", "database"),
            ("stranger", "nowhere"),
            ("scram_form", "nowhere"),
        ]
        .into_iter()
        .filter(|(user, _)| method != "md5" || *user != "scram_form")
        .collect();
        let mut times = vec![Vec::new(); places.len()];
        for round in 0..9 {
            for (place, (user, database)) in places.iter().enumerate() {
                let begin = std::time::Instant::now();
                let mut client = Wire::connect(pooler.port());
                client.startup(&[("user", user), ("database", database)]);
                let error = client.authenticate(user, "wrong").expect_err("a refusal");
                let text = format!("password authentication failed for user \"{user}\"");
                assert_eq!(
                    (error.sqlstate(), error.message()),
                    ("28P01", text.as_str()),
                    "{method}"
                );
                assert_eq!(client.read_to_end(), [], "{method}");
                if round > 0 {
                    times[place].push(begin.elapsed());
                }
            }
        }
        let medians: Vec<Duration> = times
            .iter_mut()
            .map(|times| {
                times.sort();
                times[times.len() / 2]
            })
            .collect();
        let (least, most) = (medians.iter().min(), medians.iter().max());
        let (least, most) = (*least.expect("some"), *most.expect("some"));
        // A class, not a measure: the derivation that some made and others did not would be many times this.
        assert!(
            most < least * 3 + Duration::from_millis(3),
            "{method}: {places:?}\n{medians:?}"
        );
    }
}

/// Catalogue R5b: who has not logged in does not learn what becomes of a setting.
#[test]
fn settings_are_only_looked_at_after_the_login() {
    let cluster = Cluster::shared();
    let pooler = pooler(cluster, "");
    for (password, expected) in [("wrong", "28P01"), (PASSWORD, "42704")] {
        let parameters = [
            ("user", "username"),
            ("database", "database"),
            ("no_such_setting", "on"),
        ];
        let error = Wire::try_login(pooler.port(), &parameters, password)
            .err()
            .expect("a refusal");
        assert_eq!(error.sqlstate(), expected, "{error:?}");
    }
}

#[test]
fn only_who_has_logged_in_learns_which_databases_there_are() {
    let cluster = Cluster::shared();
    let pooler = pooler(cluster, "");
    let error = refused(pooler.port(), "username", "wrong", "nowhere");
    assert_eq!(error.sqlstate(), "28P01");
    let error = refused(pooler.port(), "username", PASSWORD, "nowhere");
    assert_eq!((error.severity(), error.sqlstate()), ("FATAL", "3D000"));
    assert_eq!(error.message(), "database \"nowhere\" does not exist");
    // The name of the database is the user's when none is given.
    let only_user = [("user", "username")];
    let error = Wire::try_login(pooler.port(), &only_user, PASSWORD)
        .err()
        .expect("a refusal");
    assert_eq!(error.message(), "database \"username\" does not exist");
}

// ---- to the server

#[test]
fn aether_logs_in_to_a_server_by_every_method() {
    let cluster = Cluster::shared();
    for user in ["postgres", "clear_user", "md5_user", "username"] {
        let start = |password: &str| {
            Pooler::start(&format!(
                "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\n\
                 pool: {{dsn: \"postgres://{user}:{password}@127.0.0.1:{}/database\"}}\n",
                cluster.port()
            ))
        };
        let pooler = start(PASSWORD);
        let mut client = try_login(pooler.port(), "somebody", "", "database").expect(user);
        assert_eq!(client.value("SELECT session_user").as_deref(), Some(user));
        if user == "postgres" {
            continue; // trusted
        }
        let pooler = start("wrong");
        let direct = refused(cluster.port(), user, "wrong", "database");
        let error = refused(pooler.port(), "somebody", "", "database");
        assert_eq!(
            (error.sqlstate(), error.message()),
            ("28P01", direct.message()),
            "{user}"
        );
        pooler.wait_for_log("cannot log in to a server");
        assert!(
            !pooler.log_contains("wrong"),
            "a password in the log: {}",
            pooler.log()
        );
    }
}

#[test]
fn without_a_user_in_the_dsn_each_client_is_its_own_role() {
    let cluster = Cluster::shared();
    let digest = md5_secret("md5_user");
    let users = format!(
        "{{username: {PASSWORD}, clear_user: {PASSWORD}, md5_user: \"{digest}\", scram_only: \"{}\"}}",
        scram_secret(cluster)
    );
    let start = |method| {
        Pooler::start(&format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: {method}, users: {users}}}\n\
             pool: {{dsn: \"postgres://127.0.0.1:{}/database\"}}\n",
            cluster.port()
        ))
    };
    let pooler = start("md5");
    for user in ["username", "clear_user", "md5_user"] {
        let mut client = try_login(pooler.port(), user, PASSWORD, "database").expect(user);
        assert_eq!(client.value("SELECT session_user").as_deref(), Some(user));
        client.terminate();
        let mut client = try_login(pooler.port(), user, PASSWORD, "database").expect(user);
        assert_eq!(
            client.value("SELECT session_user").as_deref(),
            Some(user),
            "the second time"
        );
    }
    // A role that the server does not know cannot be told from one whose password is another.
    let error = refused(
        start("scram-sha-256").port(),
        "scram_only",
        PASSWORD,
        "database",
    );
    assert_eq!(error.sqlstate(), "28P01");
    assert!(
        error
            .message()
            .contains("the verifier on the server differs"),
        "{error:?}"
    );
    assert!(
        error.hint().contains("A role that does not exist there"),
        "{error:?}"
    );
}

#[test]
fn databases_are_found_by_name_and_the_rest_by_the_fallback() {
    let cluster = Cluster::shared();
    let database = cluster.database("logins_other");
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\n\
         pool: {{backend: {{host: 127.0.0.1, port: {}, user: username, password: {PASSWORD}}}}}\n\
         databases:\n  app: {{backend: {{database: {database}}}}}\n\
         \x20 admin: {{backend: {{database: {database}, user: postgres}}}}\n\
         \x20 \"*\": {{max_connections: 2}}\n",
        cluster.port()
    ));
    let who = |name: &str| {
        let mut client = try_login(pooler.port(), "anybody", "", name)?;
        Ok::<_, ServerError>(
            client
                .value("SELECT session_user || '@' || current_database()")
                .expect("a row"),
        )
    };
    assert_eq!(who("app").as_deref(), Ok("username@logins_other"));
    assert_eq!(who("admin").as_deref(), Ok("postgres@logins_other"));
    assert_eq!(who("database").as_deref(), Ok("username@database"));
    assert_eq!(who("logins_other").as_deref(), Ok("username@logins_other"));
    let error = who("no_such_database").expect_err("a refusal of the server's");
    assert_eq!(
        (error.sqlstate(), error.message()),
        ("3D000", "database \"no_such_database\" does not exist")
    );
    assert_eq!(who("app").as_deref(), Ok("username@logins_other"));
}

/// Catalogue R11. Found by reading: under `"*"` a pool has the name that a client asks for, and log lines held it as it came.
#[test]
fn a_database_name_cannot_forge_lines_of_the_log() {
    let cluster = Cluster::shared();
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\n\
         pool: {{backend: {{host: 127.0.0.1, port: {}, user: username, password: {PASSWORD}}}}}\n\
         databases: {{\"*\": {{}}}}\n",
        cluster.port()
    ));
    let error = refused(pooler.port(), "me", "", "no\n[INFO] forged\x1b[31m");
    assert_eq!(error.sqlstate(), "3D000");
    pooler.wait_for_log("cannot log in to a server");
    pooler.wait_for_log("closing because: ");
    let log = pooler.log();
    assert!(
        !log.lines().any(|line| line.starts_with("[INFO] forged")),
        "{log}"
    );
    assert!(
        !log.contains('\x1b') && log.contains("pool no\\n[INFO] forged"),
        "{log}"
    );
}

// ---- startup packets

fn startup(code: i32, body: &[u8]) -> Vec<u8> {
    let mut packet = (u32::try_from(body.len()).expect("short") + 8)
        .to_be_bytes()
        .to_vec();
    packet.extend(code.to_be_bytes());
    packet.extend(body);
    packet
}

const V3: i32 = 3 << 16;
const SSL: i32 = 80_877_103;
const GSS: i32 = 80_877_104;
const CANCEL: i32 = 80_877_102;

/// What comes on a connection on which only these bytes were sent, until it ends or a session has begun: the errors' codes and
/// texts, the types of the rest.
fn outcome(port: u16, bytes: &[u8]) -> String {
    let mut client = Wire::connect(port);
    client.send(bytes);
    let claimed = bytes
        .first_chunk()
        .map_or(usize::MAX, |word| u32::from_be_bytes(*word) as usize);
    if claimed > bytes.len() {
        client.stream.shutdown(Shutdown::Write).expect("it is open");
    }
    let mut said = String::new();
    while !said.ends_with('Z') {
        let message = match client.try_read_message() {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{bytes:?}: {said} and then {error}"),
        };
        match message.error() {
            Some(error) => said.push_str(&format!(
                "{} {} {}; ",
                error.severity(),
                error.sqlstate(),
                error.message()
            )),
            // PostgreSQL says AuthenticationOk before it refuses a database or a setting; Aether says it with the welcome.
            None if matches!(message.kind, b'R' | b'S') => {}
            None => said.push(char::from(message.kind)),
        }
    }
    said
}

/// Catalogue C3, C4, PgB 1.5.5: the same bytes to Aether and to PostgreSQL.
#[test]
fn odd_startup_packets_end_as_with_postgresql() {
    let cluster = Cluster::shared();
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\n\
         pool: {{backend: {{host: 127.0.0.1, port: {}}}}}\ndatabases: {{\"*\": {{}}}}\n",
        cluster.port()
    ));
    let me = b"user\0postgres\0database\0database\0";
    let with = |more: &[u8]| startup(V3, &[&me[..], more].concat());
    let many: Vec<u8> = (0..400)
        .flat_map(|n| format!("a{n}.b\0{n}\0").into_bytes())
        .collect();
    let fits = 10_004 - 8 - me.len() - "long.value\0\0\0".len();
    let long = |length: usize| format!("long.value\0{}\0\0", "n".repeat(length)).into_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("one byte", vec![0]),
        ("a length and no more", vec![0, 0, 0, 8]),
        ("length 0", vec![0; 8]),
        ("length 4", vec![0, 0, 0, 4, 0, 3, 0, 0]),
        ("length 7", vec![0, 0, 0, 7, 0, 3, 0]),
        (
            "length 10005",
            [&10_005u32.to_be_bytes()[..], &[0; 10_001]].concat(),
        ),
        (
            "length 2^31",
            [&0x8000_0000u32.to_be_bytes()[..], &[0; 60]].concat(),
        ),
        ("length -1", vec![0xff; 60]),
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ),
        (
            "TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        ("a Query", wire::message(b'Q', b"SELECT 1\0")),
        ("a password", wire::message(b'p', b"password\0")),
        ("version 4.0", startup(4 << 16, b"user\0postgres\0\0")),
        ("version 0.0", startup(0, b"user\0postgres\0\0")),
        ("no parameters", startup(V3, b"\0")),
        ("an empty body", startup(V3, b"")),
        ("no terminator", startup(V3, b"user\0postgres\0")),
        ("a name without a value", startup(V3, b"user\0")),
        ("a value without an end", startup(V3, b"user\0postgres")),
        (
            "bytes behind the terminator",
            startup(V3, b"user\0postgres\0\0x"),
        ),
        ("an empty user", startup(V3, b"user\0\0\0")),
        ("no user", startup(V3, b"database\0database\0\0")),
        (
            "an unknown database",
            startup(V3, b"user\0postgres\0database\0no such database\0\0"),
        ),
        (
            "an empty database",
            startup(V3, b"user\0postgres\0database\0\0\0"),
        ),
        ("only a user", startup(V3, b"user\0postgres\0\0")),
        ("an ordinary packet", with(b"\0")),
        ("an empty name in the middle", with(b"\0value\0\0")),
        ("a zero too many", with(b"application_name\0x\0\0\0")),
        (
            "two users",
            startup(
                V3,
                b"user\0no such user\0user\0postgres\0database\0database\0\0",
            ),
        ),
        ("two databases", with(b"database\0no such database\0\0")),
        ("an empty value", with(b"application_name\0\0\0")),
        ("names in capitals", startup(V3, b"USER\0postgres\0\0")),
        ("hundreds of parameters", with(&[&many[..], b"\0"].concat())),
        ("the longest packet", with(&long(fits))),
        ("a longer packet", with(&long(fits + 1))),
        ("an unknown setting", with(b"no_such_setting\0on\0\0")),
        ("an unknown extension", with(b"_pq_.unknown\0on\0\0")),
        ("an extension in capitals", with(b"_PQ_.unknown\0on\0\0")),
        (
            "a setting that must be given at start",
            with(b"shared_buffers\x001GB\0\0"),
        ),
        ("a cancel request too short", startup(CANCEL, &[0; 4])),
        ("a cancel request for nobody", startup(CANCEL, &[1; 8])),
        ("a cancel request too long", startup(CANCEL, &[1; 300])),
    ];
    for (name, bytes) in cases {
        // Aether knows newer versions than this server.
        let ours = outcome(pooler.port(), &bytes).replace("3.0 to 3.2", "3.0 to 3.0");
        let theirs = outcome(cluster.port(), &bytes);
        assert_eq!(ours, theirs, "{name}");
    }
    // PostgreSQL answers this one in the format of that version.
    let old = outcome(pooler.port(), &startup(2 << 16, &[0; 288]));
    assert_eq!(
        old,
        "FATAL 0A000 unsupported frontend protocol 2.0: server supports 3.0 to 3.2; "
    );
    assert!(
        try_login(pooler.port(), "postgres", "", "database").is_ok(),
        "after all that"
    );
}

/// CVE-2021-3935, catalogue R1, R2.
#[test]
fn requests_for_encryption_are_declined_and_nothing_may_stand_behind_them() {
    let cluster = Cluster::shared();
    let pooler = pooler(cluster, "");
    let parameters = [("user", "username"), ("database", "database")];
    for requests in [&[SSL][..], &[GSS], &[GSS, SSL], &[SSL, GSS]] {
        let mut client = Wire::connect(pooler.port());
        requests
            .iter()
            .for_each(|&request| assert_eq!(client.ask_encryption(request), b'N'));
        client.startup(&parameters);
        client
            .authenticate("username", PASSWORD)
            .expect("a session");
        client.read_until(b'Z');
        assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    }
    let login = startup(V3, b"user\0username\0database\0database\0\0");
    for request in [SSL, GSS] {
        for behind in [&login[..], &startup(SSL, b""), &startup(GSS, b""), b"x"] {
            let mut client = Wire::connect(pooler.port());
            client.send(&[&startup(request, b""), behind].concat());
            let mut answer = [0];
            client.stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, *b"N");
            let error = first_error(&client.read_to_end()).expect("an error");
            assert_eq!((error.severity(), error.sqlstate()), ("FATAL", "08P01"));
            assert!(
                error
                    .message()
                    .starts_with("received unencrypted data after"),
                "{error:?}"
            );
        }
        let mut client = Wire::connect(pooler.port());
        assert_eq!(client.ask_encryption(request), b'N');
        client.send(&startup(request, b""));
        let error = first_error(&client.read_to_end()).expect("an error");
        assert_eq!(error.sqlstate(), "08P01", "asked twice");
    }
}

/// What a startup packet of a version is answered with before authentication: the body of NegotiateProtocolVersion.
fn negotiated(client: &mut Wire, code: i32, extensions: &[&str]) -> Option<Vec<u8>> {
    let mut body = b"user\0username\0database\0database\0".to_vec();
    extensions
        .iter()
        .for_each(|name| body.extend(format!("{name}\0value\0").bytes()));
    body.push(0);
    client.send(&startup(code, &body));
    let message = client.read_message();
    if message.kind == b'v' {
        return Some(message.body);
    }
    assert_eq!(message.kind, b'R');
    None
}

#[test]
fn protocol_versions_are_negotiated() {
    let cluster = Cluster::shared();
    let pooler = pooler(cluster, "auth: {type: trust}\n");
    let answer = |newest: i32, names: &[&str]| {
        let mut body = newest.to_be_bytes().to_vec();
        body.extend(u32::try_from(names.len()).expect("few").to_be_bytes());
        names
            .iter()
            .for_each(|name| body.extend(format!("{name}\0").bytes()));
        Some(body)
    };
    let grease = "_pq_.test_protocol_negotiation";
    type Case<'a> = (i32, &'a [&'a str], Option<Vec<u8>>, usize);
    let cases: [Case; 8] = [
        (V3, &[], None, 4),
        (V3 + 2, &[], None, 32),
        (V3 + 1, &[], answer(V3, &[]), 4),
        (V3 + 3, &[], answer(V3 + 2, &[]), 32),
        (V3 + 9999, &[grease], answer(V3 + 2, &[grease]), 32),
        (V3, &["_pq_.a"], answer(V3, &["_pq_.a"]), 4),
        (
            V3,
            &["_pq_.a", "_pq_.b"],
            answer(V3, &["_pq_.a", "_pq_.b"]),
            4,
        ),
        (V3 + 2, &["_pq_.a"], answer(V3 + 2, &["_pq_.a"]), 32),
    ];
    for (code, extensions, expected, key) in cases {
        let mut client = Wire::connect(pooler.port());
        assert_eq!(
            negotiated(&mut client, code, extensions),
            expected,
            "{code:#x} {extensions:?}"
        );
        client.read_until(b'Z');
        assert_eq!(client.key.len(), key, "{code:#x}");
        assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));

        client.send_message(b'Q', &wire::terminated("SELECT pg_sleep(15)"));
        let running = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event = 'PgSleep'",
            client.pid
        );
        wait_until("the query runs", || {
            cluster.sql("postgres", &running) == "1"
        });
        // A key that differs in its last byte cancels nothing.
        let right = client.key.clone();
        *client.key.last_mut().unwrap() ^= 1;
        client.cancel();
        client.key.truncate(3);
        client.cancel();
        assert_eq!(
            cluster.sql("postgres", &running),
            "1",
            "cancelled with a wrong key"
        );
        client.key = right;
        client.cancel();
        assert_eq!(
            first_error(&client.read_until(b'Z'))
                .expect("an error")
                .sqlstate(),
            "57014"
        );
        client.terminate();
    }
}

/// Catalogue B32, N1.
#[test]
fn a_login_may_come_byte_by_byte() {
    let cluster = Cluster::shared();
    let pooler = pooler(cluster, "auth: {type: password, users: {alice: secret}}\n");
    let mut client = Wire::connect(pooler.port());
    let mut bytes = startup(V3, b"user\0alice\0database\0database\0\0");
    bytes.extend(wire::message(b'p', b"secret\0"));
    bytes.extend(wire::message(b'Q', b"SELECT 'byte by byte'\0"));
    for byte in bytes {
        client.send(&[byte]);
        std::thread::yield_now();
    }
    assert_eq!(kinds(&client.read_until(b'Z')[..2]), "RR");
    assert_eq!(kinds(&client.read_until(b'Z')), "TDCZ");
    client.terminate();
    // All in one piece as well.
    let mut client = Wire::connect(pooler.port());
    client.send(
        &[
            startup(V3, b"user\0alice\0database\0database\0\0"),
            wire::message(b'p', b"secret\0"),
            wire::message(b'Q', b"SELECT 1\0"),
        ]
        .concat(),
    );
    assert_eq!(kinds(&client.read_until(b'Z')[..2]), "RR");
    assert_eq!(kinds(&client.read_until(b'Z')), "TDCZ");
}

/// CVE-2012-4575: under `"*"` every name goes on to the server, however long; what does not fit a packet ends its connection.
#[test]
fn names_of_any_length_end_a_login_and_nothing_else() {
    let cluster = Cluster::shared();
    let mut pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\n\
         pool: {{backend: {{host: 127.0.0.1, port: {}, user: username, password: {PASSWORD}}}}}\n\
         databases: {{\"*\": {{}}}}\n",
        cluster.port()
    ));
    for length in [63, 64, 127, 128, 1_000, 9_000, 64_000] {
        let long = "n".repeat(length);
        for parameters in [
            [
                ("user", "me"),
                ("database", long.as_str()),
                ("application_name", "x"),
            ],
            [
                ("user", &long),
                ("database", &long),
                ("application_name", "x"),
            ],
            [
                ("user", "me"),
                ("database", "nowhere"),
                ("application_name", &long),
            ],
            [("user", "me"), ("database", "nowhere"), (&long, "x")],
        ] {
            let mut client = Wire::connect(pooler.port());
            let pairs = parameters.iter().flat_map(|(name, value)| [name, value]);
            let body: Vec<u8> = pairs.flat_map(|text| wire::terminated(text)).collect();
            // One that does not fit may be gone before it was sent.
            let packet = startup(V3, &[body, vec![0]].concat());
            let _ = std::io::Write::write_all(&mut client.stream, &packet);
            let answer = client.read_to_end();
            match first_error(&answer) {
                Some(error) => assert_eq!(error.severity(), "FATAL", "{length}"),
                None => assert!(
                    answer.is_empty() && packet.len() > 10_004,
                    "{length}: {answer:?}"
                ),
            }
        }
    }
    assert!(try_login(pooler.port(), "me", "", "database").is_ok());
    assert!(pooler.ended().is_none());
    assert!(!pooler.log_contains("panicked"), "{}", pooler.log());
    let longest = pooler.log().lines().map(str::len).max();
    assert!(
        longest < Some(2_000),
        "R11: no line of the log is as long as a client likes: {longest:?}"
    );
}

/// Catalogue PgB 1.5.5: packets in any order from the first byte on.
#[test]
fn packets_in_any_order_end_a_login_and_nothing_else() {
    let cluster = Cluster::shared();
    let mut pooler = pooler(
        cluster,
        "auth: {failure_delay: 0, failure_limit: 0, users: {username: password}}\n",
    );
    let sasl = [
        b"SCRAM-SHA-256\0\0\0\0\x18".as_slice(),
        b"n,,n=,r=0123456789abcdef",
    ]
    .concat();
    let pieces = [
        startup(SSL, b""),
        startup(GSS, b""),
        startup(CANCEL, &[1; 8]),
        startup(V3, b"user\0username\0database\0database\0\0"),
        startup(V3, b"\0"),
        wire::message(b'p', b"password\0"),
        wire::message(b'p', &sasl),
        wire::message(b'Q', b"SELECT 1\0"),
        wire::sync(),
        wire::message(b'X', b""),
        vec![0; 9],
        b"\x16\x03\x01".to_vec(),
    ];
    let mut random = crate::random::Random::new(7);
    for _ in 0..300 {
        let count = random.below(5) + 1;
        let bytes: Vec<u8> = (0..count)
            .flat_map(|_| pieces[random.below(pieces.len())].clone())
            .collect();
        let mut client = Wire::connect(pooler.port());
        // What is refused early may be gone before the rest is sent.
        let _ = std::io::Write::write_all(&mut client.stream, &bytes);
        let _ = client.stream.shutdown(Shutdown::Write);
        let answer = rest(&mut client);
        let is_in = answer.windows(6).any(|part| part == b"Z\0\0\0\x05I");
        assert!(!is_in, "{bytes:?}");
    }
    assert!(try_login(pooler.port(), "username", PASSWORD, "database").is_ok());
    assert!(
        pooler.ended().is_none() && !pooler.log_contains("panicked"),
        "{}",
        pooler.log()
    );
}

/// Catalogue C5, CVE-2026-6664.
#[test]
fn a_message_that_does_not_fit_the_phase_ends_the_connection_and_nothing_else() {
    let cluster = Cluster::shared();
    let pooler = pooler(cluster, "");
    let hello = startup(V3, b"user\0username\0database\0database\0\0");
    let raw =
        |kind: u8, length: u32, body: &[u8]| [&[kind], &length.to_be_bytes()[..], body].concat();
    let sasl = |mechanism: &str, length: i32, data: &[u8]| {
        let mut body = wire::terminated(mechanism);
        body.extend(length.to_be_bytes());
        body.extend(data);
        wire::message(b'p', &body)
    };
    let first = b"n,,n=,r=0123456789abcdef";
    let before: Vec<(&str, Vec<u8>)> = vec![
        ("a Query", wire::message(b'Q', b"SELECT 1\0")),
        ("a Sync", wire::sync()),
        ("CopyData", wire::message(b'd', b"x")),
        ("an unknown type", wire::message(b'?', b"")),
        ("length 0", raw(b'p', 0, b"")),
        ("length 3", raw(b'p', 3, b"")),
        ("length 4", raw(b'p', 4, b"")),
        ("length 65536", raw(b'p', 65_536, &[b'x'; 100])),
        ("length 2^31 - 1", raw(b'p', 0x7fff_ffff, b"x")),
        ("length -1", raw(b'p', 0xffff_ffff, b"x")),
        ("no mechanism", wire::message(b'p', b"SCRAM-SHA-256")),
        ("another mechanism", sasl("SCRAM-SHA-256-PLUS", 24, first)),
        ("a length that lies", sasl("SCRAM-SHA-256", 1000, first)),
        ("a negative length", sasl("SCRAM-SHA-256", -2, first)),
        ("no data", sasl("SCRAM-SHA-256", -1, b"")),
        (
            "channel binding",
            sasl("SCRAM-SHA-256", 24, b"p=tls-server-end-point,,"),
        ),
        ("not UTF-8", sasl("SCRAM-SHA-256", 4, b"\xff\xfe\xfd\xfc")),
        ("a password", wire::message(b'p', b"password\0")),
    ];
    for (name, bytes) in before {
        let mut client = Wire::connect(pooler.port());
        client.send(&hello);
        assert_eq!(client.read_message().kind, b'R');
        client.send(&bytes);
        let error =
            first_error(&client.read_to_end()).unwrap_or_else(|| panic!("{name}: no error"));
        assert_eq!(
            (error.severity(), error.sqlstate()),
            ("FATAL", "08P01"),
            "{name}: {error:?}"
        );
    }
    let pid = Wire::login(pooler.port(), "username", PASSWORD, "database").pid;
    let after: Vec<(&str, Vec<u8>)> = vec![
        ("a password", wire::message(b'p', b"password\0")),
        ("an unknown type", wire::message(b'?', b"")),
        ("type 0", wire::message(0, b"")),
        ("a server's message", wire::message(b'Z', b"I")),
        ("length 3", raw(b'Q', 3, b"")),
        ("length 2^31 - 1", raw(b'Q', 0x7fff_ffff, b"x")),
        ("a Sync that is too long", raw(b'S', 10_001, b"")),
    ];
    for (name, bytes) in after {
        let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
        client.send(&bytes);
        let answer = client.read_to_end();
        let error = first_error(&answer).unwrap_or_else(|| panic!("{name}: no error"));
        assert_eq!(
            (error.severity(), error.sqlstate()),
            ("FATAL", "08P01"),
            "{name}: {error:?}"
        );
        assert_eq!(kinds(&answer), "E", "{name}");
        assert_eq!(client.pid, pid, "{name}: nothing of it reached the server");
    }
    // Outside of a copy its messages mean nothing, as with PostgreSQL.
    let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
    client.send(
        &[
            wire::message(b'd', b"x"),
            wire::message(b'c', b""),
            wire::message(b'f', b"no\0"),
        ]
        .concat(),
    );
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
}

/// Catalogue C1: that is what load balancers and monitoring do all day.
#[test]
fn a_connection_without_a_word_is_not_worth_a_warning() {
    let cluster = Cluster::shared();
    let mut pooler = pooler(cluster, "");
    let before = pooler.log().lines().count();
    for _ in 0..5 {
        drop(Wire::connect(pooler.port()));
        let mut client = Wire::connect(pooler.port());
        client.ask_encryption(SSL);
        drop(client);
        let mut client = Wire::connect(pooler.port());
        client.send(b"GET / HTTP/1.0\r\n\r\n");
        assert_eq!(rest(&mut client), b"");
    }
    Wire::login(pooler.port(), "username", PASSWORD, "database").terminate();
    pooler.wait_for_log("client close request");
    let log = pooler.log();
    let lines: Vec<&str> = log.lines().skip(before).collect();
    assert!(
        lines
            .iter()
            .all(|line| !line.contains("WARN") && !line.contains("ERROR")),
        "{log}"
    );
    assert_eq!(
        lines.len(),
        1,
        "one line for the session that was one: {log}"
    );
    assert!(pooler.ended().is_none());
}

/// Catalogue C2, R21.
#[test]
fn a_login_that_is_not_finished_in_time_is_ended() {
    let cluster = Cluster::shared();
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\", client_login_timeout: 300ms}}\n\
         pool: {{dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/database\"}}\n",
        cluster.port()
    ));
    let mut silent = Wire::connect(pooler.port());
    let mut begun = Wire::connect(pooler.port());
    begun.startup(&[("user", "username"), ("database", "database")]);
    let mut slow = Wire::connect(pooler.port());
    // Catalogue C2: bytes that trickle in do not move the deadline.
    for byte in startup(V3, b"user\0username\0database\0database\0\0")
        .iter()
        .take(8)
    {
        if std::io::Write::write_all(&mut slow.stream, &[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(60));
    }
    assert_eq!(rest(&mut slow), b"");
    assert_eq!(rest(&mut silent), b"");
    let error = first_error(&begun.read_to_end()).expect("an error");
    assert_eq!(
        (error.sqlstate(), error.message()),
        ("57014", "canceling authentication due to timeout")
    );
}

#[test]
fn psql_logs_in_by_every_method_plain_and_with_sslmode_prefer() {
    let cluster = Cluster::shared();
    for method in ["trust", "password", "md5", "scram-sha-256"] {
        let users = format!("users: {{username: {PASSWORD}}}");
        let pooler = pooler(cluster, &format!("auth: {{type: {method}, {users}}}\n"));
        for mode in ["disable", "allow", "prefer"] {
            let output = Command::new(cluster.program("psql"))
                .args([
                    "-X",
                    "-A",
                    "-t",
                    "-h",
                    "127.0.0.1",
                    "-U",
                    "username",
                    "-d",
                    "database",
                ])
                .args([
                    "-p",
                    &pooler.port().to_string(),
                    "-c",
                    "SELECT pg_backend_pid() > 0",
                ])
                .env("PGPASSWORD", PASSWORD)
                .env("PGSSLMODE", mode)
                .env("PGCONNECT_TIMEOUT", "20")
                .output()
                .expect("psql runs");
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(
                said.trim(),
                "t",
                "{method}, {mode}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}
