//! `pgbouncer.ini` as a whole: the files of `tests/ini`, every option, what is refused and in which words.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::super::{HostPort, PoolConfig, PoolMode, Secret, ServerAssignment, effective, schema};
use super::options::{Change, DATABASE, Fate, GLOBAL, Kind, PEER, Preset, Row, USER};
use super::*;

/// The files of the tree, and no environment.
struct Tree;

impl Outside for Tree {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        std::fs::read(path).map_err(|error| error.to_string())
    }
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ini")
}

fn read_text(text: &str) -> Result<Config, Vec<ConfigError>> {
    read(text, Path::new("p.ini"), &samples(), &Tree)
}

fn ok(text: &str) -> Config {
    read_text(text).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"))
}

fn errors(text: &str) -> Vec<String> {
    let errors = read_text(text).err().unwrap_or_default();
    errors.iter().map(ToString::to_string).collect()
}

/// One error, with this in it.
fn refused(text: &str, expected: &str) {
    let found = errors(text);
    assert!(
        found.len() == 1 && found[0].contains(expected),
        "{text}\n{found:#?}\nexpected: {expected}"
    );
}

fn warned(text: &str, expected: &str) {
    let config = ok(text);
    let found = config.warnings.iter().any(|line| line.contains(expected));
    assert!(
        found,
        "{text}\n{:#?}\nexpected: {expected}",
        config.warnings
    );
}

/// A file in which only these options are set.
fn with(options: &str) -> String {
    format!("[databases]\napp = host=h\n[pgbouncer]\nauth_file = files/userlist.txt\n{options}\n")
}

fn with_database(keys: &str) -> String {
    format!("[databases]\napp = {keys}\n[pgbouncer]\nauth_file = files/userlist.txt\n")
}

fn app(config: &Config) -> &PoolConfig {
    &config.databases["app"]
}

/// Everything that a configuration says, the secrets too.
fn whole(config: &Config) -> (String, Vec<(String, Option<Secret>)>, String) {
    let pools = config
        .databases
        .iter()
        .map(|(name, pool)| (name.as_str(), pool));
    let pools = pools.chain(config.fallback.iter().map(|pool| ("*", pool)));
    let passwords = pools.map(|(name, pool)| (name.to_owned(), pool.backend.password.clone()));
    let users = config.auth.users.iter();
    let secrets: Vec<String> = users
        .map(|(name, stored)| match stored {
            super::super::Stored::Plain(secret) | super::super::Stored::Md5(secret) => {
                format!("{name} {:?}", secret.expose())
            }
            super::super::Stored::Scram(verifier) => format!("{name} {:?}", verifier.stored_key),
        })
        .collect();
    (effective(config), passwords.collect(), secrets.concat())
}

/// The same after `--convert`.
fn converted(text: &str, name: &str) -> Config {
    let yaml = convert(text, Path::new(name), &samples(), &Tree)
        .unwrap_or_else(|errors| panic!("{name}: {errors:#?}"));
    schema::read(&yaml, &samples().join("aether.yaml"), &Tree)
        .unwrap_or_else(|errors| panic!("{name}: {errors:#?}\n{yaml}"))
}

/// Issue 6, proof 2.
#[test]
fn files_as_people_have_them_load_and_mean_the_same_when_converted() {
    let mut count = 0;
    for entry in std::fs::read_dir(samples()).expect("tests/ini") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if !name.ends_with(".ini") {
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(&path).expect("a text");
        let config = read(&text, Path::new(&name), &samples(), &Tree);
        let config = config.unwrap_or_else(|errors| panic!("{name}: {errors:#?}"));
        assert!(config.server.unix_socket.is_some() || !config.server.listen.is_empty());
        let again = converted(&text, &name);
        assert_eq!(whole(&again), whole(&config), "{name}");
        let shown = effective(&config);
        for secret in ["apps_secret", "secret", "s3cret", "from-a-template"] {
            assert!(
                !shown.replace("secret:", "").contains(secret),
                "{name}:\n{shown}"
            );
        }
    }
    assert!(count >= 13, "{count} files");
}

/// Issue 6, proof 1: no option without a row, and no row that is not PgBouncer's.
#[test]
fn every_option_of_pgbouncer_has_its_row() {
    let mut listed = BTreeSet::new();
    for line in include_str!("options.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().expect("four words");
        let (section, name, change, default) = (word(), word(), word(), word());
        let rows = match section {
            "pgbouncer" => GLOBAL,
            "databases" => DATABASE,
            "users" => USER,
            _ => PEER,
        };
        let row = rows.iter().find(|row| row.name == name);
        let row = row.unwrap_or_else(|| panic!("[{section}] {name} has no row"));
        let expected = match change {
            "X" => Change::Restart,
            _ => Change::Reload,
        };
        assert_eq!(row.change, expected, "{name}");
        match default {
            "*" => {}
            "null" if row.default == Preset::Same("0") => assert_eq!(name, "verbose"),
            "null" => assert_eq!(row.default, Preset::Null, "{name}"),
            "\"\"" => assert_eq!(row.default.text(), "", "{name}"),
            _ => assert_eq!(row.default.text(), default, "{name}"),
        }
        listed.insert((section, name));
    }
    let all = [
        ("pgbouncer", GLOBAL),
        ("databases", DATABASE),
        ("users", USER),
        ("peers", PEER),
    ];
    for (section, rows) in all {
        for row in rows {
            let name = row.name;
            assert!(
                listed.contains(&(section, name)) || name == "service_name",
                "{name}"
            );
        }
    }
}

/// What a default is called: written out, it changes nothing.
#[test]
fn written_out_pgbouncers_defaults_change_nothing() {
    let bare = whole(&ok(&with("")));
    for row in GLOBAL.iter().filter(|row| row.name != "auth_file") {
        if row.default != Preset::Null {
            let config = ok(&with(&format!("{} = {}", row.name, row.default.text())));
            assert_eq!(whole(&config), bare, "{}", row.name);
        }
    }
}

/// A value of a kind that is not the default, for options whose values are not words of their own.
fn other_value(row: &Row) -> &'static str {
    match (row.name, row.kind) {
        ("client_tls_protocols" | "server_tls_protocols", _) => "tlsv1.3",
        ("client_tls_ciphers" | "server_tls_ciphers", _) => "ECDHE-ECDSA-AES256-GCM-SHA384",
        ("client_tls13_ciphers" | "server_tls13_ciphers", _) => "TLS_AES_256_GCM_SHA384",
        ("client_tls_ecdhcurve", _) => "prime256v1",
        ("client_tls_ca_file" | "server_tls_ca_file", _) => "../certificates/root.crt",
        ("client_tls_cert_file" | "server_tls_cert_file", _) => "../certificates/server.crt",
        ("client_tls_key_file" | "server_tls_key_file", _) => "../certificates/server.key",
        ("syslog_facility", _) => "local3",
        ("listen_addr", _) => "127.0.0.1",
        ("auth_query", _) => "SELECT a, b FROM c($1)",
        ("auth_dbname", _) => "app",
        ("auth_type", _) => "trust",
        ("server_reset_query" | "server_check_query" | "connect_query", _) => "SELECT 7",
        (_, Kind::Text) => "something",
        (_, Kind::Path) => "/some/thing",
        (_, Kind::List) => "one, two",
        (_, Kind::Int | Kind::Above0 | Kind::Seconds | Kind::Millis | Kind::Time) => "7",
        (_, Kind::Bool) if row.default.text() == "1" => "0",
        (_, Kind::Bool) => "1",
        (_, Kind::Words(words)) if row.default == Preset::Null => {
            words.last().map_or("", |(word, _)| word)
        }
        (_, Kind::Words(words)) => {
            let other = words.iter().find(|(word, _)| *word != row.default.text());
            other.map_or("", |(word, _)| word)
        }
    }
}

/// What else has to be there for an option to mean something.
fn company(name: &str) -> &'static str {
    match name {
        "syslog_ident" | "syslog_facility" => "syslog = 1\n",
        "client_tls_sslmode"
        | "client_tls_ca_file"
        | "client_tls_protocols"
        | "client_tls_ciphers"
        | "client_tls13_ciphers"
        | "client_tls_ecdhcurve" => {
            "client_tls_sslmode = require\nclient_tls_cert_file = ../certificates/server.crt\nclient_tls_key_file = ../certificates/server.key\n"
        }
        "client_tls_cert_file" => "client_tls_key_file = ../certificates/server.key\n",
        "client_tls_key_file" => "client_tls_cert_file = ../certificates/server.crt\n",
        "server_tls_cert_file" => "server_tls_key_file = ../certificates/server.key\n",
        "server_tls_key_file" => "server_tls_cert_file = ../certificates/server.crt\n",
        "auth_hba_file" => "auth_type = hba\n",
        "auth_ident_file" => "auth_type = hba\nauth_hba_file = files/hba.conf\n",
        "auth_query" | "auth_dbname" => "auth_user = u\n",
        _ => "",
    }
}

/// Every option does what its row says: it changes the configuration, or is met, warned of or refused. None is passed over.
#[test]
fn no_option_is_passed_over_in_silence() {
    let mut waiting = Vec::new();
    for row in GLOBAL {
        let value = match row.name {
            "auth_file" => "files/empty_userlist.txt",
            "auth_hba_file" => "files/hba.conf",
            "auth_ident_file" => "files/ident.conf",
            _ => other_value(row),
        };
        let company = company(row.name);
        let bare = match row.name {
            "auth_hba_file"
            | "client_tls_cert_file"
            | "client_tls_key_file"
            | "server_tls_cert_file"
            | "server_tls_key_file" => with(""),
            _ => with(&company.replace(
                "client_tls_sslmode = require",
                match row.name {
                    "client_tls_sslmode" => "",
                    _ => "client_tls_sslmode = require",
                },
            )),
        };
        let line = format!("{}\n{} = {value}", company.trim(), row.name);
        let text = match row.name {
            "auth_file" => with("").replace("files/userlist.txt", value),
            "client_tls_sslmode" => with(&company.replace("require", "prefer")),
            _ => with(&line),
        };
        if let Fate::Refused(why) = row.fate {
            refused(&text, why);
            continue;
        }
        let config = ok(&text);
        let is_warned = config.warnings.iter().any(|line| line.contains(row.name));
        match row.fate {
            Fate::Met(_) => assert!(yaml_of(&text).contains(row.name), "{}", row.name),
            Fate::Ignored(why) => {
                assert!(
                    config.warnings.iter().any(|line| line.contains(why)),
                    "{}",
                    row.name
                );
            }
            Fate::Key(path) if !schema::has(path) => {
                assert!(is_warned, "{}", row.name);
                waiting.push(row.name);
            }
            _ => assert_ne!(
                whole(&config),
                whole(&ok(&bare)),
                "{} has no effect",
                row.name
            ),
        }
    }
    println!("without effect yet: {waiting:?}");
}

fn yaml_of(text: &str) -> String {
    convert(text, Path::new("p.ini"), &samples(), &Tree).expect("it is read")
}

/// The same for the keys of databases and users.
#[test]
fn no_key_of_a_database_or_a_user_is_passed_over_in_silence() {
    let mut waiting = Vec::new();
    let bare = whole(&ok(&with_database("host=h user=u auth_user=x")));
    for row in DATABASE {
        let value = match row.name {
            "host" => "other",
            "password" => "hunter2",
            _ => other_value(row),
        };
        let text = with_database(&format!("host=h user=u auth_user=x {}='{value}'", row.name));
        let config = ok(&text);
        match row.fate {
            Fate::Key(path) if !schema::has(&format!("databases.app.{path}")) => {
                warned(&text, &format!("{}: has no effect yet", row.name));
                waiting.push(row.name);
            }
            _ => assert_ne!(whole(&config), bare, "{} has no effect", row.name),
        }
    }
    let user = |keys: &str| ok(&(with("") + "[users]\napp = " + keys));
    for row in USER {
        let value = match row.kind {
            Kind::Words(_) => "transaction",
            _ => "7",
        };
        let config = user(&format!("{}={value}", row.name));
        match row.fate {
            Fate::Key(path) | Fate::Over(path) if !schema::has(&format!("users.app.{path}")) => {
                assert!(
                    config
                        .warnings
                        .iter()
                        .any(|line| line.contains("has no effect yet"))
                );
                waiting.push(row.name);
            }
            _ => assert_ne!(
                whole(&config),
                whole(&user("")),
                "{} has no effect",
                row.name
            ),
        }
    }
    println!("without effect yet: {waiting:?}");
}

#[test]
fn what_pgbouncer_does_by_default_holds_under_an_ini() {
    let config = ok(&with(""));
    let seconds = Duration::from_secs;
    assert_eq!(config.server.listen, []);
    let socket = config.server.unix_socket.as_ref().expect("a socket");
    assert_eq!(
        (socket.path().as_str(), socket.mode),
        ("/tmp/.s.PGSQL.6432", 0o777)
    );
    assert_eq!(config.server.max_client_connections, 100);
    assert_eq!(config.server.shutdown_timeout, Duration::ZERO);
    let pool = app(&config);
    assert_eq!(pool.mode, PoolMode::Session);
    assert_eq!(pool.server_assignment, ServerAssignment::FirstQuery);
    assert_eq!(
        (pool.max_connections_per_user, pool.max_connections),
        (20, 0)
    );
    assert_eq!(pool.acquire_timeout, seconds(120));
    assert_eq!(
        (pool.max_lifetime, pool.max_idle_time),
        (seconds(3600), seconds(600))
    );
    assert_eq!(pool.reset_query.as_deref(), Some("DISCARD ALL"));
    assert_eq!(pool.check_query.as_deref(), Some(""));
    assert_eq!(pool.track_extra_parameters, ["IntervalStyle"]);
    assert_eq!(pool.backend.tls_words["sslmode"], "prefer");
    assert_eq!(pool.backend.hosts, [HostPort::Tcp("h".to_owned(), 5432)]);
    assert_eq!(pool.backend.database.as_deref(), Some("app"));
    assert!(pool.transaction_reset);
    assert_eq!(
        config.auth.rules.single().map(|method| method.as_str()),
        Some("md5")
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn values_are_read_as_pgbouncer_reads_them() {
    let socket = |mode: &str| {
        ok(&with(&format!("unix_socket_mode = {mode}")))
            .server
            .unix_socket
    };
    assert_eq!(socket("0700").map(|socket| socket.mode), Some(0o700));
    assert_eq!(socket("0x1C0").map(|socket| socket.mode), Some(0o700));
    assert_eq!(socket("448").map(|socket| socket.mode), Some(0o700));
    let wait =
        |text: &str| app(&ok(&with(&format!("query_wait_timeout = {text}")))).acquire_timeout;
    assert_eq!(wait("1.5"), Duration::from_millis(1500));
    assert_eq!(wait(".0001"), Duration::from_millis(1));
    assert_eq!(wait("0"), Duration::ZERO);
    assert_eq!(
        ok(&with("pool_mode = TransAction")).databases["app"].mode,
        PoolMode::Transaction
    );
    let shown = effective(&ok(&with("server_lifetime = 0")));
    assert!(
        shown.contains("single_use: true") || shown.contains("max_lifetime: 1ms"),
        "a server is good for one client"
    );
    for (line, expected) in [
        ("tcp_keepalive = yes", "found \"yes\", expected 0 or 1"),
        (
            "max_client_conn = many",
            "found \"many\", expected a whole number above 0",
        ),
        ("max_client_conn = 10k", "expected a whole number above 0"),
        (
            "max_client_conn =",
            "found nothing, expected a whole number above 0",
        ),
        ("query_timeout = -1", "expected seconds"),
        ("query_timeout = 1e3", "expected seconds"),
        ("pool_mode = transation", "did you mean \"transaction\"?"),
        (
            "max_client_con = 1",
            "unknown parameter: pgbouncer/max_client_con; did you mean \"max_client_conn\"?",
        ),
        (
            "Pool_Mode = session",
            "unknown parameter: pgbouncer/Pool_Mode",
        ),
        ("listen_port = 65536", "expected a port"),
        ("listen_addr = no.such.name.example", "is not in /etc/hosts"),
        ("auth_type = ldap", "not supported: use auth_query"),
        ("auth_type = hba", "hba needs auth_hba_file"),
        (
            "max_prepared_statements = 300000",
            "p.ini:5: max_prepared_statements: found 300000",
        ),
        (
            "client_tls_sslmode = require",
            "p.ini:5: client_tls_sslmode: mode: to allow TLS connections from clients",
        ),
    ] {
        refused(&with(line), expected);
    }
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file_and_without_secrets() {
    let text = "[databases]\na = host=h password='hunter2\nb = host=h pool_sise=2\nc = host=h pool_size=x hunter2=1\n\
                pgbouncer = host=h\nd = host=h port=70000\n[users]\nu = pool_mode=no\n[peers]\nx = host=h\n1 = port=1\n\
                [pgbouncer]\nnonsense = 1\npool_mode = x\n";
    let found = errors(text);
    let lines: Vec<&str> = found
        .iter()
        .map(|line| line.split(": ").next().expect("a place"))
        .collect();
    assert_eq!(
        lines,
        [2, 3, 4, 4, 5, 6, 8, 10, 11, 13, 14].map(|line| format!("p.ini:{line}")),
        "{found:#?}"
    );
    assert!(!found.concat().contains("hunter2"), "{found:#?}");
    assert!(found[1].contains("[databases] b: unrecognized connection parameter: \"pool_sise\"; did you mean \"pool_size\"?"));
    assert!(
        found[5]
            .contains("[databases] d port: found 70000, expected a whole number from 1 to 65535"),
        "{}",
        found[5]
    );
    refused("[databases]\na = host=h\n", "main section missing");
    refused(
        "[pgbouncer]\n[database]\na=b\n",
        "invalid section \"database\"",
    );
}

#[test]
fn databases_are_what_their_connection_strings_say() {
    let config = ok(
        "[databases]\na = dbname=x host=h1,/run/pg,::1 port=5433 user=u password='p ${X}' client_encoding=LATIN1 \
                     datestyle=ISO timezone='Europe/Berlin' application_name=me pool_size=3 max_db_connections=0 server_lifetime=0\n\
                     b =\n* = host=h pool_mode=statement\na.b-c = host=h\n'it is' = host=h\n\
                     [pgbouncer]\nunix_socket_dir = /sockets\nmax_db_connections = 50\nserver_lifetime = 60\nauth_file = files/userlist.txt",
    );
    let a = &config.databases["a"];
    assert_eq!(
        a.backend.hosts,
        [
            HostPort::Tcp("h1".to_owned(), 5433),
            HostPort::Unix("/run/pg/.s.PGSQL.5433".into()),
            HostPort::Tcp("::1".to_owned(), 5433)
        ]
    );
    assert_eq!(a.backend.database.as_deref(), Some("x"));
    assert_eq!(a.backend.user.as_deref(), Some("u"));
    assert_eq!(a.backend.password, Some(Secret::new("p ${X}")));
    let parameters: BTreeMap<&str, &str> = a
        .backend
        .parameters
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        parameters,
        BTreeMap::from([
            ("application_name", "me"),
            ("client_encoding", "LATIN1"),
            ("datestyle", "ISO"),
            ("timezone", "Europe/Berlin")
        ])
    );
    // 0 is what holds for all.
    assert_eq!((a.max_connections_per_user, a.max_connections), (3, 50));
    assert_eq!(a.max_lifetime, Duration::from_secs(60));
    assert_eq!(
        config.databases["b"].backend.hosts,
        [HostPort::Unix("/sockets/.s.PGSQL.5432".into())]
    );
    assert_eq!(
        config.fallback.as_ref().map(|pool| pool.mode),
        Some(PoolMode::Statement)
    );
    assert!(config.databases.contains_key("it is") && config.databases.contains_key("a.b-c"));
    warned(
        &with_database("host=h pool_size=20x"),
        "only the digits are read, 20",
    );
    warned(
        &with_database("host=h password=hunter2"),
        "has no effect without user",
    );
    refused(
        "[databases]\na = host=h\n[pgbouncer]\nauth_type = any",
        "auth_type=any requires forced user",
    );
}

#[test]
fn what_is_unsafe_is_done_with_a_warning() {
    warned(
        &with("listen_addr = *\nauth_type = trust"),
        "trust on an address that other machines reach",
    );
    warned(
        &with("listen_addr = *\nauth_type = plain"),
        "password on an address that other machines reach",
    );
    let any = ok("[databases]\na = host=h user=u\n[pgbouncer]\nauth_type = any");
    assert!(any.auth.anyone);
    let nobody = ok("[databases]\na = host=h\n[pgbouncer]\nauth_type = trust");
    assert!(!nobody.auth.anyone && nobody.auth.users.is_empty());
    let console = ok("[pgbouncer]\nauth_type = md5\nauth_file = files/empty_userlist.txt");
    assert!(console.databases.is_empty() && console.fallback.is_none());
    let quiet = ok(&with("listen_addr = *\nauth_type = scram-sha-256"));
    assert!(
        quiet
            .warnings
            .iter()
            .all(|line| !line.contains("other machines")),
        "{:?}",
        quiet.warnings
    );
}

#[test]
fn what_comes_later_wins_and_headers_may_come_again() {
    let config = ok(
        "[pgbouncer]\npool_mode = statement\nquery_wait_timeout = 7\n[databases]\napp = host=a\napp = host=b\n\
                     [pgbouncer]\npool_mode = transaction\nauth_file = files/userlist.txt\n",
    );
    let pool = app(&config);
    assert_eq!(
        (pool.mode, pool.acquire_timeout),
        (PoolMode::Transaction, Duration::from_secs(7))
    );
    assert_eq!(pool.backend.hosts, [HostPort::Tcp("b".to_owned(), 5432)]);
}

#[test]
fn a_converted_file_tells_where_everything_is_from() {
    let yaml = yaml_of(&with(
        "pool_mode = transaction\nserver_reset_query_always = 0\npkt_buf = 8192\nlisten_addr = 127.0.0.1",
    ));
    for expected in [
        "# pool_mode (p.ini:5)",
        "# PgBouncer's default of max_client_conn",
        "# listen_addr (p.ini:8, takes a restart)",
        "server_reset_query_always = 0: in transaction",
        "p.ini:7: pkt_buf: has no effect",
    ] {
        assert!(yaml.contains(expected), "{expected}\n{yaml}");
    }
}

/// No piece of a file, however it is cut, makes anything panic, and no secret is told.
#[test]
fn no_piece_of_a_file_panics() {
    let text = std::fs::read_to_string(samples().join("forced_users.ini")).expect("a text");
    let boundaries = (0..text.len()).filter(|at| text.is_char_boundary(*at));
    for at in boundaries.step_by(7) {
        let (head, tail) = text.split_at(at);
        for piece in [
            head.to_owned(),
            tail.to_owned(),
            format!("{head}\u{0}\"{tail}"),
        ] {
            for line in errors(&piece) {
                assert!(
                    !line.contains("it''s") && !line.contains("secret\""),
                    "{line}"
                );
            }
        }
    }
}
