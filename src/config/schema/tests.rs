//! `aether.yaml` as a whole: what is accepted, what it comes to, what is refused and in which words.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::{HostPort, PoolMode, Secret, ServerAssignment, UserConfig, effective};
use super::*;

const ISSUE: &str = r#"server:
  listen_addr: "0.0.0.0:6432"
  shutdown_timeout: 30s
pool:
  dsn: "postgres://username:password@localhost:5432/database?sslmode=disable"
  mode: "session"
  max_connections: 100
  min_idle_connections: 10
  max_idle_time: 10m
  max_lifetime: 1h
  acquire_timeout: 30s
"#;
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

struct World;

impl Outside for World {
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "PW" => Some("hunter2".to_owned()),
            "DSN" => Some("postgres://u:hunter2@h/d".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        match path.to_str() {
            Some("/etc/aether/pw") => Ok(b"hunter2\r\n".to_vec()),
            Some("/etc/aether/nobody") => Ok(b"; nobody\n".to_vec()),
            Some("/etc/aether/empty") => Ok(b"\n".to_vec()),
            Some("/etc/aether/users") => Ok(b"\"alice\" \"a\"\n\"bob\" \"b\"\n".to_vec()),
            Some("/etc/aether/hba") => Ok(
                b"local all all peer map=m\nlocal all +r peer map=nowhere\nhost all all 127.0.0.1/32 md5\n"
                    .to_vec(),
            ),
            Some("/etc/aether/ident") => Ok(b"m a b\n".to_vec()),
            Some("/etc/aether/broken_hba") => Ok(b"local all +unknown\nhots all all all md5\n".to_vec()),
            Some("/etc/aether/open") => {
                Ok(b"local all all trust\nhost all all 10.0.0.0/8 trust\n".to_vec())
            }
            Some("/etc/aether/broken") => Ok(b"\n\"alice\" hunter2\n".to_vec()),
            _ => Err("No such file".to_owned()),
        }
    }
}

/// Issue 4: a broken rule is told with its own file and line, beside what else is wrong.
#[test]
fn rules_and_maps_are_read_from_files_beside_the_configuration() {
    let with = |auth: &str| format!("pool: {{dsn: 'postgres://u:p@h/d'}}\nauth: {auth}\n");
    let config = ok(&with(
        "{hba_file: hba, ident_file: ident, roles: {r: [a, b]}}",
    ));
    assert_eq!(config.auth.rules.iter().count(), 3);
    assert!(config.auth.anyone && config.auth.users.contains_key("u"));
    assert!(
        config
            .warnings
            .iter()
            .any(|text| text.contains("no map \"nowhere\"")),
        "{:?}",
        config.warnings
    );
    let shown = effective(&config);
    assert!(
        shown.contains("type: hba\n  hba_file: \"/etc/aether/hba\""),
        "{shown}"
    );
    let again = ok(&shown.replace("\"****\"", "x"));
    assert_eq!(again.auth.rules, config.auth.rules);
    // Only rules with passwords need users.
    let peer = ok("pool: {dsn: 'postgres://h/d'}\nauth: {type: peer}\n");
    assert!(peer.auth.anyone && peer.auth.users.is_empty());
    for (auth, expected) in [
        ("{type: hba}", "auth.type: hba needs hba_file"),
        (
            "{type: md5, hba_file: hba}",
            "auth.type: hba_file says who has to prove what",
        ),
        (
            "{ident_file: ident}",
            "auth.ident_file: only the rules of a hba_file refer to it",
        ),
        ("{type: trust, roles: {}}", "auth.roles: only the rules"),
        (
            "{hba_file: nowhere}",
            "nowhere: cannot be read: No such file",
        ),
        (
            "{hba_file: broken_hba}",
            "broken_hba:2: invalid connection type \"hots\"",
        ),
        (
            "{hba_file: hba, ident_file: broken_hba}",
            "broken_hba:1: nothing is known",
        ),
        ("{failure_delay: 2m}", "auth.failure_delay: longer than 60s"),
    ] {
        let found = errors(&with(auth));
        assert!(
            found.iter().any(|text| text.contains(expected)),
            "{auth}: {found:?}"
        );
    }
    let two = errors("pool: {dsn: 'postgres://u:p@h/d', mode: x}\nauth: {hba_file: broken_hba}\n");
    assert_eq!(two.len(), 3, "{two:?}");
}

/// R7: what lets in without a proof from other machines takes a word more, also in a file.
#[test]
fn rules_that_trust_other_machines_need_allow_insecure() {
    let with = |auth: &str| {
        format!(
            "server: {{listen_addr: '*'}}\npool: {{dsn: 'postgres://u:p@h/d'}}\nauth: {{hba_file: open{auth}}}\n"
        )
    };
    let found = errors(&with(""));
    assert!(
        found[0].contains("auth.hba_file: ") && found[0].contains("open:2: trust on an address"),
        "{found:?}"
    );
    ok(&with(", allow_insecure: true"));
    ok(&with("").replace("'*'", "localhost"));
}

#[test]
fn a_unix_socket_has_a_directory_a_mode_and_the_first_port() {
    let with =
        |server: &str| format!("server: {{{server}}}\npool: {{dsn: 'postgres://u:p@h/d'}}\n");
    let socket = |text: &str| ok(&with(text)).server.unix_socket;
    assert_eq!(socket("listen_addr: localhost"), None);
    let all = socket(
        "listen_addr: ['[::1]:7', ':8'], unix_socket_dir: /run/aether/, unix_socket_mode: 0770, unix_socket_group: g",
    );
    let all = all.expect("a socket");
    assert_eq!(
        (all.path().as_str(), all.mode, all.group.as_deref()),
        ("/run/aether/.s.PGSQL.7", 0o770, Some("g"))
    );
    let plain = socket("unix_socket_dir: '@aether'").expect("a socket");
    assert_eq!(
        (plain.path().as_str(), plain.mode),
        ("@aether/.s.PGSQL.6432", 0o777)
    );
    for (server, expected) in [
        ("unix_socket_mode: '0770'", "unix_socket_dir is not given"),
        ("unix_socket_dir: run", "expected an absolute directory"),
        ("unix_socket_dir: '@'", "expected an absolute directory"),
        (
            "unix_socket_dir: /r, unix_socket_mode: 770",
            "put it in quotes",
        ),
        (
            "unix_socket_dir: /r, unix_socket_mode: '770'",
            "three octal digits behind a 0",
        ),
        (
            "unix_socket_dir: /r, unix_socket_mode: '0790'",
            "three octal digits behind a 0",
        ),
        (
            "unix_socket_dir: '@x', unix_socket_mode: '0770'",
            "an abstract name has no file",
        ),
        (
            &format!("unix_socket_dir: /{}", "x".repeat(100)),
            "is too long (maximum 107 bytes)",
        ),
    ] {
        let found = errors(&with(server));
        assert!(found[0].contains(expected), "{server}: {found:?}");
    }
}

fn read_text(text: &str) -> Result<Config, Vec<ConfigError>> {
    read(text, Path::new("/etc/aether/aether.yaml"), &World)
}

fn ok(text: &str) -> Config {
    read_text(text).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"))
}

/// The errors as lines, without the directory.
fn errors(text: &str) -> Vec<String> {
    let errors = read_text(text).expect_err(text);
    assert!(!errors.is_empty());
    errors
        .iter()
        .map(|error| error.to_string().replace("/etc/aether/", ""))
        .collect()
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let errors = errors(text);
    assert!(
        errors.iter().any(|error| error.contains(expected)),
        "{text}\nexpected: {expected}\n{errors:#?}"
    );
}

#[track_caller]
fn warned(text: &str, expected: &str) {
    let warnings = ok(text).warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains(expected)),
        "{text}\nexpected: {expected}\n{warnings:#?}"
    );
}

fn pool<'a>(config: &'a Config, name: &str) -> &'a PoolConfig {
    config
        .databases
        .get(name)
        .unwrap_or_else(|| panic!("no {name}"))
}

/// A pool with more keys, one a line.
fn with_pool(keys: &str) -> String {
    format!(
        "pool:\n  dsn: postgres://u:p@h/d\n  {}\n",
        keys.replace('\n', "\n  ")
    )
}

fn with_auth(keys: &str) -> String {
    format!(
        "pool:\n  dsn: postgres://u:p@h/d\nauth:\n  {}\n",
        keys.replace('\n', "\n  ")
    )
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn the_file_of_the_issue_means_what_it_says() {
    let config = ok(ISSUE);
    assert_eq!(
        config.server.listen,
        ["0.0.0.0:6432".parse::<SocketAddr>().unwrap()]
    );
    assert_eq!(config.server.shutdown_timeout, seconds(30));
    assert_eq!(config.databases.len(), 1);
    let pool = pool(&config, "database");
    assert_eq!(
        pool.backend.hosts,
        [HostPort::Tcp("localhost".to_owned(), 5432)]
    );
    assert_eq!(pool.backend.database.as_deref(), Some("database"));
    assert_eq!(pool.backend.user.as_deref(), Some("username"));
    assert_eq!(
        (pool.mode, pool.max_connections, pool.min_idle_connections),
        (PoolMode::Session, 100, 10)
    );
    assert_eq!(
        (pool.max_idle_time, pool.max_lifetime, pool.acquire_timeout),
        (seconds(600), seconds(3600), seconds(30))
    );
    assert_eq!(
        config.auth.rules.single(),
        Some(Method::Check(AuthMethod::ScramSha256))
    );
    assert_eq!(
        config.auth.users.get("username"),
        Some(&Stored::Plain(Secret::new("password")))
    );
    assert_eq!((config.auth.users.len(), config.auth.anyone), (1, false));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn the_annotated_file_says_the_same_as_the_issue() {
    let annotated = ok(include_str!("../../../aether.yaml"));
    assert_eq!(effective(&annotated), effective(&ok(ISSUE)));
    assert!(annotated.warnings.is_empty());
}

/// Every line `# key: value` of the annotated file, set, is the default: it changes nothing.
#[test]
fn the_annotated_file_tells_the_defaults() {
    let text = include_str!("../../../aether.yaml");
    let keys = server::KEYS
        .iter()
        .chain(&pool::KEYS)
        .chain(&users::KEYS)
        .chain(&auth::KEYS)
        .chain(&logs::KEYS)
        .chain(&tls::CLIENT_KEYS)
        .chain(&tls::SERVER_KEYS)
        .chain(&metrics::KEYS)
        .chain(&["databases", "admin", "stats_users"]);
    for key in keys {
        assert!(
            text.contains(&format!("{key}:")),
            "{key} is not in aether.yaml"
        );
    }
    let (commented, wanted) = (
        ["# user: aether", "# backend:"],
        [
            "check_",
            "reset_",
            "client_",
            "max_client",
            "max_unauthenticated",
            "max_connections_per",
            "max_connecting",
            "max_packet",
            "autodb_",
            "login_notify",
            "application_name_add",
            "tcp_",
            "listen_backlog",
            "ignore_startup",
            "connect_query",
            "disable_pqexec",
            "min_pool",
            "reserve_",
            "server_",
            "single_use",
            "load_balance",
            "cancel_",
            "query_",
            "transaction_timeout",
            "idle_transaction",
            "connect_timeout",
            "log_level",
        ],
    );
    let set: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix("  # ") {
            Some(key)
                if !commented.contains(&line.trim())
                    && wanted.iter().any(|start| key.starts_with(start)) =>
            {
                format!("  {key}")
            }
            _ => line.to_owned(),
        })
        .collect();
    let set = set.join("\n");
    assert!(set.contains("\n  check_timeout: 5s") && set.contains("\n  client_login_timeout: 60s"));
    assert_eq!(effective(&ok(&set)), effective(&ok(ISSUE)));
}

#[test]
fn the_commented_sections_of_the_annotated_file_are_right_too() {
    let text = include_str!("../../../aether.yaml");
    let (_, sections) = text.split_once("# databases:").unwrap();
    let prose = |line: &str| {
        line.starts_with("# ")
            && !line.starts_with("#  ")
            && !line.contains(":\n")
            && !line.ends_with(':')
    };
    let sections: String = format!("# databases:{sections}")
        .lines()
        .filter(|line| !prose(line))
        .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
        .collect();
    struct All;
    impl Outside for All {
        fn variable(&self, _: &str) -> Option<String> {
            Some("x".to_owned())
        }
        fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
            Ok(if path.ends_with("userlist.txt") {
                b"\"u\" \"s\"".to_vec()
            } else {
                b"x".to_vec()
            })
        }
    }
    let config = read(
        &format!("{ISSUE}{sections}"),
        Path::new("aether.yaml"),
        &All,
    )
    .unwrap();
    assert_eq!(
        config.databases.keys().collect::<Vec<_>>(),
        ["app", "database", "reports"]
    );
    assert_eq!(
        config.auth.users.keys().collect::<Vec<_>>(),
        ["alice", "bob", "u"]
    );
    assert_eq!(config.users["alice"].mode, Some(PoolMode::Transaction));
    assert!(config.fallback.is_some());
}

#[test]
fn defaults_hold_where_nothing_is_written() {
    let config = ok("pool: {dsn: 'postgres://u:p@h/d'}");
    assert_eq!(
        config.server.listen,
        ["127.0.0.1:6432".parse::<SocketAddr>().unwrap()]
    );
    assert_eq!(
        (
            config.server.max_client_connections,
            config.server.client_login_timeout
        ),
        (10_000, seconds(60))
    );
    assert_eq!(
        (config.server.log_level, config.server.user.as_deref()),
        (log::LevelFilter::Info, None)
    );
    let pool = pool(&config, "d");
    assert_eq!((pool.max_connections, pool.min_idle_connections), (20, 0));
    assert_eq!(pool.server_assignment, ServerAssignment::Login);
    assert_eq!(
        (pool.connect_timeout, pool.check_delay, pool.check_timeout),
        (seconds(15), seconds(30), seconds(5))
    );
    assert_eq!(
        (
            pool.reset_timeout,
            pool.client_idle_timeout,
            pool.abandoned_query_timeout
        ),
        (seconds(10), Duration::ZERO, seconds(10))
    );
    assert_eq!(
        (pool.check_query.as_deref(), pool.reset_query.as_deref()),
        (Some(""), Some("DISCARD ALL"))
    );
    assert_eq!(
        (config.auth.scram_iterations, &config.auth.mock_secret),
        (4096, &None)
    );
    assert_eq!(config.admin, AdminConfig::default());
}

#[test]
fn a_section_or_key_left_empty_is_as_if_absent() {
    let config = ok(
        "server:\npool:\n  dsn: postgres://u:p@h/d\n  max_connections:\nauth:\nadmin: ~\ndatabases:\n",
    );
    assert_eq!(pool(&config, "d").max_connections, 20);
}

#[test]
fn an_unknown_key_is_told_with_file_line_path_and_nearest_name() {
    assert_eq!(
        errors("pool:\n  dsn: postgres://u:p@h/d\n  max_conections: 5\n"),
        ["aether.yaml:3: pool.max_conections: unknown key; did you mean \"max_connections\"?"]
    );
    refused(
        "poool:\n  dsn: x\n",
        "aether.yaml:1: poool: unknown key; did you mean \"pool\"?",
    );
    refused(
        &with_pool("colour: red"),
        "pool.colour: unknown key; known are dsn, backend, mode",
    );
    refused(
        "pool: {backend: {hots: x}}",
        "pool.backend.hots: unknown key; did you mean \"host\"?",
    );
    refused(
        "databases:\n  app:\n    mod: session\n",
        "aether.yaml:3: databases.app.mod: unknown key; did you mean \"mode\"?",
    );
    refused(
        &with_auth("typ: md5"),
        "auth.typ: unknown key; did you mean \"type\"?",
    );
    refused(
        "admin: {user: [a]}",
        "admin.user: unknown key; did you mean \"users\"?",
    );
    refused(
        "server: {listen: x}",
        "server.listen: unknown key; known are listen_addr",
    );
}

#[test]
fn all_errors_come_at_once_and_in_order() {
    let errors = errors(
        "server:\n  listen_addr: example.com:1\n  log_level: loud\n  x: 1\npool:\n  dsn: postgres://h/d?gssencmode=require\n  \
         max_connections: -1\n  max_idle_time: 10\n  mode: loud\n  mode: session\n  check_timeout: 0\nauth:\n  type: none\n",
    );
    let starts: Vec<String> = errors
        .iter()
        .map(|error| error.split(": ").take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        starts,
        [
            "aether.yaml:2 server.listen_addr",
            "aether.yaml:3 server.log_level",
            "aether.yaml:4 server.x",
            "aether.yaml:6 pool.dsn",
            "aether.yaml:7 pool.max_connections",
            "aether.yaml:8 pool.max_idle_time",
            "aether.yaml:9 pool.mode",
            "aether.yaml:10 pool.mode",
            "aether.yaml:11 pool.check_timeout",
            "aether.yaml:13 auth.type",
        ],
        "{errors:#?}"
    );
}

/// What follows from an error is not told beside it: it hid the line that has to be mended.
#[test]
fn what_follows_from_an_error_is_not_told() {
    for (text, only) in [
        (
            "pools: {dsn: 'postgres://u:p@h/d'}",
            "aether.yaml:1: pools: unknown key; did you mean \"pool\"?",
        ),
        (
            "pool: {dns: 'postgres://u:p@h/d'}",
            "aether.yaml:1: pool.dns: unknown key; did you mean \"dsn\"?",
        ),
        (
            "poool: {dsn: 'postgres://u:p@h/d'}\ndatabases: {a: {}}",
            "aether.yaml:1: poool: unknown key; did you mean \"pool\"?",
        ),
        (
            &with_auth("users: {a: 5}"),
            "aether.yaml:4: auth.users.a: found a number, expected a text; put it in quotes",
        ),
        (
            &with_auth("users_file: broken"),
            "aether.yaml:4: auth.users_file: line 2 of that file: the secret must be in double quotes",
        ),
        (
            "databases:\n  a: {dsn: 'postgres://u:1@h/a'}\n  b: {dsn: 'postgres://u:2@h/b'}\n  c: {dsn: 'postgres://h/c'}\n",
            "aether.yaml:3: databases.b: \"u\" has different passwords in different databases; say in auth.users which one lets in",
        ),
    ] {
        let found = errors(text);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(only), "{found:#?}");
    }
}

/// YAML's own words for these help nobody.
#[test]
fn a_tab_and_a_text_without_its_quotes_are_told_as_what_they_are() {
    for text in [
        "pool:\n\tdsn: postgres://u:p@h/d\n",
        "pool:\n  dsn: postgres://u:p@h/d\n\tmode: session\n",
    ] {
        refused(text, "a tab; indent with spaces");
    }
    for text in [
        "server:\n  listen_addr: *:6432\npool:\n  dsn: postgres://u:p@h/d\n",
        "server: {listen_addr: *:6432}\n",
        "server:\n  listen_addr:\n    - *:6432\n",
        "server:\n  listen_addr: [::1]:6432\npool:\n  dsn: postgres://u:p@h/d\n",
        "pool:\n  dsn: postgres://u:p@h/d\ndatabases:\n  *:\n    mode: session\n",
        "auth:\n  users:\n    a: @secret\n",
        "auth:\n  users:\n    a: %secret\n",
    ] {
        refused(text, "put it in quotes");
        assert!(!errors(text)[0].contains("secret"), "{:?}", errors(text));
    }
    let plain = &errors("pool: {dsn: a\n")[0];
    assert!(
        !plain.contains("quotes") && !plain.contains("tab"),
        "{plain}"
    );
}

#[test]
fn a_key_written_twice_is_an_error_at_its_second_line() {
    assert_eq!(
        errors("pool:\n  dsn: postgres://u:p@h/d\nserver: {}\nserver: {}\n"),
        ["aether.yaml:4: server: written twice in the same section; keep one"]
    );
    refused(
        "databases:\n  a: {dsn: 'postgres://u:p@h/d'}\n  a: {}\n",
        "aether.yaml:3: databases.a: written twice",
    );
}

#[test]
fn metrics_are_off_until_an_address_is_named() {
    let config = ok(ISSUE);
    assert!(!config.metrics.is_on());
    let with = |keys: &str| format!("{ISSUE}metrics: {{{keys}}}\n");
    let config = ok(&with(
        "listen_addr: localhost, unix_socket: /run/m, bearer_token: t, required_databases: database",
    ));
    assert_eq!(
        config.metrics.places(),
        ["127.0.0.1:9127", "[::1]:9127", "/run/m"]
    );
    assert!(config.warnings.is_empty() && config.metrics.is_on());
    let shown = effective(&config);
    assert!(shown.contains("  bearer_token: \"****\"\n"));
    assert!(shown.contains("  required_databases: [\"database\"]\n"));
    let open = ok(&with("listen_addr: \"*\""));
    assert!(
        open.warnings[0].contains("other machines may read"),
        "{:?}",
        open.warnings
    );
    refused(&with("listen_addr: []"), "the list is empty");
    refused(&with("unix_socket: metrics"), "expected the absolute path");
    refused(&with("bearer_token: 'a b'"), "a token goes through HTTP");
    refused(
        &with("required_databases: [x]"),
        "\"x\" is not among the databases",
    );
    refused(&with("listen_add: 1"), "did you mean \"listen_addr\"?");
}

#[test]
fn a_collector_has_an_address_and_headers() {
    let with = |keys: &str| format!("{ISSUE}metrics: {{{keys}}}\n");
    let config = ok(&with(
        "otlp_endpoint: 'http://c', otlp_headers: {k: v}, otlp_resource: {service.name: x}",
    ));
    let otlp = config.metrics.otlp.as_ref().unwrap();
    assert_eq!(otlp.url(), "http://c:4318/v1/metrics");
    assert!(
        otlp.resource
            .contains(&("service.name".to_owned(), "x".to_owned()))
    );
    assert!(!config.metrics.is_on(), "nobody can ask");
    let shown = effective(&config);
    assert!(
        shown.contains("  otlp_headers:\n    \"k\": \"****\"\n"),
        "{shown}"
    );
    refused(&with("otlp_interval: 5s"), "otlp_endpoint is not given");
    refused(
        &with("otlp_endpoint: 'localhost:1'"),
        "expected an address like http://",
    );
    let more = |keys: &str| with(&format!("otlp_endpoint: 'http://c', {keys}"));
    refused(&more("otlp_interval: 10ms"), "expected at least 1s");
    refused(
        &more("otlp_headers: {Host: x}"),
        "not a header that may be set",
    );
    refused(&more("otlp_ca_file: x"), "there is no TLS");
}

#[test]
fn values_of_the_wrong_kind_say_what_was_found_and_what_is_right() {
    refused(
        "server: {log_level: loud}",
        "found \"loud\", expected one of error, warn, info, debug, trace",
    );
    refused(
        "server: 5",
        "server: found a number, expected keys and values",
    );
    refused("- a", "found a list, expected keys and values");
    refused(
        &with_pool("max_connections: many"),
        "found \"many\", expected a whole number from 0 to 262143",
    );
    refused(
        &with_pool("max_connections: 1.5"),
        "found 1.5, expected a whole number from 0",
    );
    refused(
        &with_pool("max_connections: -1"),
        "found -1, expected a whole number from 0",
    );
    refused(&with_pool("max_connections: 1e2"), "found 100.0, expected");
    refused(
        &with_pool("acquire_timeout: -1"),
        "found -1, expected a duration",
    );
    refused(
        &with_pool("acquire_timeout: 30"),
        "found 30 without a unit; did you mean 30s?",
    );
    refused(
        &with_pool("acquire_timeout: soon"),
        "found \"soon\", expected a duration like 500ms",
    );
    refused(
        &with_pool("acquire_timeout: [1s]"),
        "found a list, expected a duration",
    );
    refused(
        &with_pool("connect_timeout: 0"),
        "this limit cannot be switched off",
    );
    refused(
        &with_pool("mode: sesion"),
        "expected one of session, transaction, statement; did you mean \"session\"?",
    );
    refused(
        &with_pool("server_assignment: later"),
        "expected one of login, first_query",
    );
    refused(
        "server: {user: 5}",
        "found a number, expected a text; put it in quotes",
    );
    refused("server: {user: \"a\\0b\"}", "zero byte");
    refused("server: {listen_addr: []}", "the list is empty");
    refused(
        "server: {listen_addr: [a, {b: c}]}",
        "server.listen_addr[1]: found keys and values, expected a text",
    );
    refused(&with_auth("allow_insecure: 1"), "expected true or false");
    refused(&with_auth("scram_iterations: 100001"), "from 1 to 100000");
}

#[test]
fn zero_switches_durations_off() {
    let config = ok(&with_pool(
        "acquire_timeout: 0\nmax_idle_time: 0s\nmax_lifetime: 0",
    ));
    let pool = pool(&config, "d");
    assert!(
        pool.acquire_timeout.is_zero()
            && pool.max_idle_time.is_zero()
            && pool.max_lifetime.is_zero()
    );
}

/// Catalogue R21: a login without an end is worth a word.
#[test]
fn what_is_slow_is_logged_when_asked_for() {
    let with = |log: &str| format!("pool: {{dsn: 'postgres://u:p@h/d'}}\nlog: {{{log}}}\n");
    let slow = |log: &str| ok(&with(log)).log.slow;
    assert!(!slow("stderr: true").is_on());
    let on = slow("slow_query_threshold: 250ms");
    assert!(on.is_on() && on.transaction.is_zero());
    assert_eq!(
        (on.query, on.sample),
        (Duration::from_millis(250), 1_000_000)
    );
    let share = slow("slow_transaction_threshold: 1m, slow_sample_rate: 0.05");
    assert_eq!(
        (share.transaction, share.sample),
        (Duration::from_secs(60), 50_000)
    );
    let text = effective::effective(&ok(&with(
        "slow_query_threshold: 2s, slow_sample_rate: 0.25",
    )));
    assert!(
        text.contains(
            "slow_query_threshold: 2s\n  slow_transaction_threshold: 0\n  slow_sample_rate: 0.25\n"
        ),
        "{text}"
    );
    assert!(!slow("slow_query_threshold: 1s, slow_sample_rate: 0").is_on());
    for (log, wanted) in [
        (
            "slow_sample_rate: 1.5",
            "log.slow_sample_rate: found 1.5, expected a number from 0 to 1, like 0.05",
        ),
        ("slow_sample_rate: -1", "expected a number from 0 to 1"),
        ("slow_sample_rate: .nan", "expected a number from 0 to 1"),
        ("slow_sample_rate: some", "expected a number from 0 to 1"),
        ("slow_query_threshold: 5", "without a unit"),
        (
            "slow_query_treshold: 5s",
            "did you mean \"slow_query_threshold\"?",
        ),
    ] {
        let found = errors(&with(log));
        assert!(found[0].contains(wanted), "{found:?}");
    }
}

#[test]
fn a_login_timeout_that_is_off_is_warned_of() {
    let off = "server: {client_login_timeout: 0}\npool: {dsn: 'postgres://u:p@h/d'}";
    warned(off, "server.client_login_timeout: off: connections");
    assert!(ok(&off.replace(": 0}", ": 1s}")).warnings.is_empty());
}

#[test]
fn queries_can_be_switched_off() {
    let text = with_pool("check_query: null\nreset_query: ''");
    let config = ok(&text);
    assert_eq!(
        (
            &pool(&config, "d").check_query,
            &pool(&config, "d").reset_query
        ),
        (&None, &None)
    );
    warned(&text, "pool.reset_query: off");
}

#[test]
fn more_idle_than_connections_is_an_error_where_it_arises_and_told_once() {
    let text = with_pool("max_connections: 5\nmin_idle_connections: 6") + "databases:\n  a: {}\n";
    assert_eq!(
        errors(&text),
        [
            "aether.yaml:4: pool.min_idle_connections: min_idle_connections is 6, more than max_connections, which is 5"
        ]
    );
    let text = with_pool("min_idle_connections: 6") + "databases:\n  a:\n    max_connections: 5\n";
    refused(
        &text,
        "aether.yaml:6: databases.a.max_connections: min_idle_connections is 6",
    );
}

#[test]
fn listen_addresses_are_a_text_or_a_list_without_doubles() {
    let config = ok(
        "server: {listen_addr: ['localhost:1', '127.0.0.1:1', '10.0.0.1']}\npool: {dsn: 'postgres://u:p@h/d'}",
    );
    let shown: Vec<String> = config
        .server
        .listen
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(shown, ["127.0.0.1:1", "[::1]:1", "10.0.0.1:6432"]);
    // Nobody can listen on an address of which another listener has all.
    for list in [
        "[127.0.0.1:7, '*:7']",
        "['*:7', 127.0.0.1:7]",
        "['[::]:7', '[::1]:7']",
    ] {
        refused(
            &format!("server: {{listen_addr: {list}}}"),
            "server.listen_addr: ",
        );
        refused(&format!("server: {{listen_addr: {list}}}"), " is part of ");
    }
    ok(
        "server: {listen_addr: ['0.0.0.0:7', '[::]:7', '127.0.0.1:8']}\npool: {dsn: 'postgres://u:p@h/d'}",
    );
}

#[test]
fn a_backend_in_single_keys() {
    let config = ok(
        "pool:\n  backend: {host: [db1, 'db2:5434', /run/pg, '::1', '[::1]:7'], port: 5433, database: d, user: u, \
                     password: '${PW}', application_name: a, options: -c x=y}",
    );
    let backend = &pool(&config, "d").backend;
    let hosts: Vec<String> = backend.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(
        hosts,
        [
            "db1:5433",
            "db2:5434",
            "/run/pg/.s.PGSQL.5433",
            "[::1]:5433",
            "[::1]:7"
        ]
    );
    assert_eq!(backend.password, Some(Secret::new("hunter2")));
    assert_eq!(backend.parameters.len(), 2);
    let socket = ok("pool: {backend: {user: u, password: p}}");
    assert_eq!(
        pool(&socket, "u").backend.hosts[0].to_string(),
        "/var/run/postgresql/.s.PGSQL.5432"
    );
    refused(
        "pool: {backend: {host: 'a:b', user: u, password: p}}",
        "port behind the host is not a number",
    );
    refused(
        "pool: {backend: {host: h, password: p}}",
        "a password without a user",
    );
    refused(
        "pool: {dsn: 'postgres://:p@h/d'}",
        "pool.dsn: a password without a user",
    );
    refused(
        "pool: {dsn: 'postgres://u:p@h/d', backend: {host: h}}",
        "dsn and backend exclude each other",
    );
}

#[test]
fn secrets_come_from_the_environment_and_from_files() {
    let config = ok("pool: {dsn: '${DSN}'}");
    assert_eq!(
        config.auth.users.get("u"),
        Some(&Stored::Plain(Secret::new("hunter2")))
    );
    let config = ok("pool: {backend: {user: u, password_file: pw}}");
    assert_eq!(
        pool(&config, "u").backend.password,
        Some(Secret::new("hunter2"))
    );
    refused(
        "pool: {dsn: 'postgres://u:${NOPE}@h/d'}",
        "pool.dsn: the environment variable NOPE is not set",
    );
    refused(
        "pool: {backend: {user: u, password: '${EMPTY}'}}",
        "pool.backend.password: the secret is empty",
    );
    refused(
        "pool: {backend: {user: u, password_file: empty}}",
        "the file holds no password",
    );
    refused(
        "pool: {backend: {user: u, password_file: nope}}",
        "nope cannot be read: No such file",
    );
    refused(
        "pool: {backend: {user: u, password: p, password_file: pw}}",
        "exclude each other",
    );
}

#[test]
fn entries_inherit_key_by_key() {
    let text = with_pool("max_connections: 7\nmax_lifetime: 2h\ncheck_query: null")
        + "databases:\n  plain:\n  other: {backend: {database: x}, max_connections: 3, check_query: ''}\n  \
           elsewhere: {dsn: 'postgres://a:b@k?connect_timeout=3'}\n  role: {backend: {user: v}}\n  port: {backend: {port: 9}}\n  '*': {}\n";
    let config = ok(&(text + "auth: {users: {alice: s}}\n"));
    assert_eq!(
        config.databases.keys().collect::<Vec<_>>(),
        ["d", "elsewhere", "other", "plain", "port", "role"]
    );
    let database = |name| pool(&config, name).backend.database.clone().unwrap();
    assert_eq!(
        pool(&config, "plain"),
        &PoolConfig {
            ..pool(&config, "d").clone()
        }
    );
    assert_eq!(
        (database("d"), database("plain"), database("other")),
        ("d".into(), "d".into(), "x".into())
    );
    let other = pool(&config, "other");
    assert_eq!(
        (other.max_connections, other.max_lifetime),
        (3, seconds(7200))
    );
    assert_eq!(
        (
            other.check_query.as_deref(),
            pool(&config, "plain").check_query.as_deref()
        ),
        (Some(""), None)
    );
    assert_eq!(
        (other.backend.user.as_deref(), &other.backend.hosts),
        (Some("u"), &pool(&config, "d").backend.hosts)
    );
    // A dsn replaces the whole backend: the database is then the entry's name.
    let elsewhere = pool(&config, "elsewhere");
    assert_eq!(
        (database("elsewhere"), elsewhere.backend.user.as_deref()),
        ("elsewhere".into(), Some("a"))
    );
    assert_eq!(
        (elsewhere.connect_timeout, elsewhere.max_connections),
        (seconds(3), 7)
    );
    // Another user does not inherit the password.
    assert_eq!(
        (
            pool(&config, "role").backend.user.as_deref(),
            &pool(&config, "role").backend.password
        ),
        (Some("v"), &None)
    );
    assert_eq!(pool(&config, "port").backend.hosts[0].to_string(), "h:9");
    assert_eq!(config.fallback.unwrap().backend.database, None);
}

#[test]
fn an_entry_named_like_the_pools_database_wins_over_it() {
    let config = ok(&(with_pool("max_connections: 7") + "databases: {d: {max_connections: 3}}\n"));
    assert_eq!(
        (config.databases.len(), pool(&config, "d").max_connections),
        (1, 3)
    );
}

#[test]
fn connect_timeout_is_the_keys_or_else_the_dsns() {
    let config = ok("pool: {dsn: 'postgres://u:p@h/d?connect_timeout=3'}");
    assert_eq!(pool(&config, "d").connect_timeout, seconds(3));
    let config = ok("pool: {dsn: 'postgres://u:p@h/d?connect_timeout=3', connect_timeout: 4s}");
    assert_eq!(pool(&config, "d").connect_timeout, seconds(4));
}

#[test]
fn without_a_database_there_is_nothing_to_serve() {
    assert_eq!(
        pool(&ok("pool: {dsn: 'postgres://u:p@h'}"), "u")
            .backend
            .database
            .as_deref(),
        Some("u")
    );
    refused(
        "pool: {dsn: 'postgres://h'}\nauth: {type: trust}",
        "no database is named",
    );
    for text in [
        "",
        "server: {}",
        "pool: {max_connections: 5}",
        "# nothing\n",
    ] {
        refused(text, "nothing says where the server is");
    }
    refused(
        "databases: {app: {}}",
        "databases.app: nothing says where the server is",
    );
    refused(
        "databases: {'': {dsn: 'postgres://u:p@h/d'}}",
        "not a database name",
    );
}

#[test]
fn without_auth_the_logins_are_the_dsns() {
    refused(
        "pool: {dsn: 'postgres://h/d'}",
        "auth: nothing says who may log in",
    );
    refused(
        "pool: {dsn: 'postgres://u@h/d'}",
        "auth: nothing says who may log in",
    );
    let two = "databases:\n  a: {dsn: 'postgres://u:1@h/a'}\n  b: {dsn: 'postgres://v:2@h/b'}\n";
    assert_eq!(ok(two).auth.users.len(), 2);
    warned(
        two,
        "the user of each dsn may log in, and use every database",
    );
    let disputed =
        "databases:\n  a: {dsn: 'postgres://u:1@h/a'}\n  b: {dsn: 'postgres://u:2@h/b'}\n";
    refused(
        disputed,
        "\"u\" has different passwords in different databases",
    );
    // A password that looks like a stored form is still a password.
    let config = ok("pool: {dsn: 'postgres://u:md50123456789abcdef0123456789abcdef@h/d'}");
    assert!(matches!(config.auth.users["u"], Stored::Plain(_)));
    assert_eq!(ok(&with_auth("type: md5")).auth.users.len(), 1);
}

#[test]
fn modes_and_limits_of_single_users_are_read_and_told() {
    let text = "pool: {dsn: 'postgres://h/d', max_connections_per_user: 3, max_client_connections: 7}\n\
                auth: {users: {alice: a, bob: b}}\n\
                users:\n  alice: {mode: transaction, max_connections: 4}\n  bob: {max_client_connections: 5}\n";
    let config = ok(text);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let d = pool(&config, "d");
    assert_eq!(
        (d.max_connections_per_user, d.max_client_connections),
        (3, 7)
    );
    let alice = UserConfig {
        mode: Some(PoolMode::Transaction),
        max_connections: 4,
        ..UserConfig::default()
    };
    let bob = UserConfig {
        max_client_connections: 5,
        ..UserConfig::default()
    };
    assert_eq!((config.users["alice"], config.users["bob"]), (alice, bob));
    let again = ok(&effective(&config));
    assert_eq!(again.users, config.users);
    assert_eq!(pool(&again, "d").max_connections_per_user, 3);
    assert_eq!(pool(&again, "d").max_client_connections, 7);

    let with = |entry: &str| format!("pool: {{dsn: 'postgres://u:p@h/d'}}\nusers:\n  {entry}\n");
    refused(
        &with("u: {max_connection: 1}"),
        "aether.yaml:3: users.u.max_connection: unknown key; did you mean \"max_connections\"?",
    );
    refused(&with("u: {mode: sesion}"), "users.u.mode: ");
    refused(
        &with("u: {query_timeout: 5 apples}"),
        "users.u.query_timeout: ",
    );
    refused(
        &with("u: {max_connections: -1}"),
        "users.u.max_connections: ",
    );
    refused(&with("u: 5"), "users.u: ");
    warned(
        &with("v: {mode: statement}"),
        "no pool logs in to a server as \"v\"",
    );
    warned(
        &with("v: {max_client_connections: 1}"),
        "\"v\" is not among the users of auth",
    );
}

#[test]
fn users_stand_in_place_or_in_a_userlist() {
    let config = ok(&with_auth(&format!(
        "users_file: users\nusers:\n  alice: '${{PW}}'\n  carol: {{password_file: pw}}\n  dave: {{password: SCRAM-SHA-256$1:c2FsdA==${KEY}:{KEY}}}"
    )));
    assert_eq!(
        config.auth.users.keys().collect::<Vec<_>>(),
        ["alice", "bob", "carol", "dave"]
    );
    assert_eq!(
        config.auth.users["alice"],
        Stored::Plain(Secret::new("hunter2"))
    );
    assert_eq!(config.auth.users["carol"], config.auth.users["alice"]);
    assert!(matches!(config.auth.users["dave"], Stored::Scram(_)));
    assert!(
        config.warnings[0].contains("auth.users.alice: also in users_file"),
        "{:?}",
        config.warnings
    );
    refused(
        &with_auth("users_file: broken"),
        "auth.users_file: line 2 of that file: the secret must be in double quotes",
    );
    refused(&with_auth("users_file: nope"), "cannot be read");
    warned(
        &with_auth("users: {}"),
        "no user is listed, so nobody can log in",
    );
    refused(&with_auth("users_file: nobody"), "no user is listed");
    warned(
        &with_auth("users_file: nobody\nusers: {}"),
        "no user is listed, so nobody can log in",
    );
    refused(&with_auth("users: {a: }"), "auth.users.a: no secret");
    refused(
        &with_auth("users: {a: ''}"),
        "auth.users.a: the secret is empty",
    );
    refused(
        &with_auth("users: {a: 12345}"),
        "found a number, expected a text; put it in quotes",
    );
    refused(
        &with_auth("users: [a]"),
        "found a list, expected keys and values",
    );
}

#[test]
fn trust_lets_anyone_in_only_without_a_list() {
    let anyone = ok(&with_auth("type: trust"));
    assert!(anyone.auth.anyone && anyone.auth.users.is_empty());
    let listed = ok(&with_auth("type: trust\nusers: {a: b}"));
    assert!(!listed.auth.anyone && listed.auth.users.len() == 1);
}

#[test]
fn insecure_methods_on_open_addresses_must_be_asked_for() {
    for method in ["trust", "password"] {
        let text = format!(
            "server:\n  listen_addr: '*:6432'\n{}",
            with_auth(&format!("type: {method}"))
        );
        refused(
            &text,
            &format!("auth.type: {method} on an address that other machines reach"),
        );
        ok(&(text + "  allow_insecure: true\n"));
        ok(&with_auth(&format!("type: {method}")));
    }
    ok(&format!(
        "server:\n  listen_addr: '*:6432'\n{}",
        with_auth("type: md5")
    ));
}

#[test]
fn a_pools_password_may_stand_among_the_users() {
    let config = ok("pool: {dsn: 'postgres://u@h/d'}\nauth: {users: {u: secret, v: other}}");
    assert_eq!(
        pool(&config, "d").backend.password,
        Some(Secret::new("secret"))
    );
}

#[test]
fn what_deserves_a_look_is_warned_of() {
    let scram = format!(
        "pool: {{dsn: 'postgres://h/d'}}\nauth: {{users: {{a: 'SCRAM-SHA-256$1:c2FsdA==${KEY}:{KEY}'}}}}"
    );
    assert!(ok(&scram).warnings.is_empty());
    let scram = scram.replace("auth: {", "auth: {type: trust, ");
    warned(
        &scram,
        "user \"a\" is known by a SCRAM verifier only, and no rule asks for the password",
    );
    let forced = scram.replace("//h", "//u:p@h");
    assert!(ok(&forced).warnings.is_empty());
    warned(
        &with_auth("users: {a: md50123456789abcdef0123456789abcdef}"),
        "has an MD5 secret and cannot log in",
    );
    warned(
        &with_auth("users: {a: 'SCRAM-SHA-256$4096:hunter2'}"),
        "user \"a\" has a secret that begins like a SCRAM verifier and is none",
    );
    warned(
        "pool: {dsn: 'postgres://u:p@h/pgbouncer'}",
        "hides the console of that name, which is only reached as \"aether\"",
    );
    warned(
        &(with_pool("max_connections: 3") + "admin: {users: [root]}"),
        "\"root\" is not among the users of auth",
    );
    warned(
        "pool: {dsn: 'postgres://u:p@h/d?keepalives=1'}",
        "pool.dsn: \"keepalives\" is ignored",
    );
}

#[test]
fn the_effective_configuration_can_be_read_back_and_masks_every_secret() {
    let text = "server: {listen_addr: '*:1', user: \"a\\\"b\\\\c\\n\\u0085\"}\npool:\n  dsn: postgres://u:hunter2@h1,[::1]:7,%2Frun:3/d?options=-c%20a\n\
                \x20 reset_query: null\n  max_idle_time: 1500ms\ndatabases: {\"*\": {}, 'we\"ird: ': {mode: session}}\n\
                auth: {type: password, allow_insecure: true, users: {u: '${PW}', \"o'b\": {password_file: pw}}, mock_secret: hunter2}\nadmin: {users: [u]}";
    let config = ok(text);
    let shown = effective(&config);
    assert!(
        !shown.contains("hunter2") && !format!("{config:?}").contains("hunter2"),
        "{shown}"
    );
    let again = ok(&shown);
    assert_eq!(effective(&again), shown);
    assert_eq!(again.server, config.server);
    assert_eq!(
        again.databases.keys().collect::<Vec<_>>(),
        config.databases.keys().collect::<Vec<_>>()
    );
    assert_eq!(
        again.databases["d"].backend.hosts,
        config.databases["d"].backend.hosts
    );
    assert_eq!(
        again.fallback.map(|pool| pool.backend.database.clone()),
        Some(None)
    );
    let trust = effective(&ok(&with_auth("type: trust")));
    assert_eq!(effective(&ok(&trust)), trust);
}

/// Found by the fuzz target yaml: as a key of YAML a name of 1,024 bytes could not be read back from what --check prints.
#[test]
fn names_of_databases_and_users_have_at_most_127_bytes() {
    let (longest, longer) = ("\u{1}".repeat(127), "d".repeat(128));
    let shown = effective(&ok(&format!(
        "pool: {{dsn: 'postgres://{longest}:p@h/{longest}'}}"
    )
    .replace('\u{1}', "%01")));
    assert_eq!(effective(&ok(&shown)), shown);
    for (text, expected) in [
        (
            format!("pool: {{dsn: 'postgres://u:p@h/{longer}'}}"),
            "the database's name is longer than 127 bytes",
        ),
        (
            format!("pool: {{backend: {{user: {longer}, password: p, database: d}}}}"),
            "the user's name is longer",
        ),
        (
            format!("pool: {{dsn: 'postgres://u:p@h/d'}}\ndatabases: {{{longer}: {{}}}}"),
            "not a database name",
        ),
        (
            with_auth(&format!("users: {{{longer}: x}}")),
            "not a user name",
        ),
    ] {
        refused(&text, expected);
    }
}

/// Found by the fuzz target yaml: a file's name was repeated as it stands.
#[test]
fn errors_are_one_line_each() {
    for text in [
        with_auth("users_file: \"a\\e[31m\\nb\""),
        with_pool("\"x\\ny\": 1"),
    ] {
        let errors = errors(&text).concat();
        assert!(!errors.contains(char::is_control), "{errors:?}");
    }
}

#[test]
fn errors_hold_no_secret() {
    for text in [
        "pool: postgres://u:hunter2@h/d",
        "pool:\n  postgres://u:hunter2@h/d:\n",
        "pool: [postgres://u:hunter2@h/d]",
        "pool: {dsn: 'postgres://u:hunter2@h/d?sslmode=verify-full'}",
        "pool: {dsn: 'postgres://u:x/?sslrootcert=hunter2@h/d'}",
        "pool: {dsn: 'postgres://u:${PW}@@h/d'}",
        "pool: {dsn: {hunter2: x}, mode: 'postgres://u:hunter2@h'}",
        "pool: {backend: {host: 'u:hunter2@h'}}",
        "pool: {dsn: 'postgres://u:p@h/d', x: hunter2}",
        "auth: {users: 'hunter2'}",
        "auth: {users: {a: {pasword: hunter2}}}",
        "auth: {users_file: broken}",
        "auth: {mock_secret: ['hunter2']}",
        "auth: {mock_secret: '${hunter2-}'}",
        "pool: {dsn: !tag hunter2}",
        "pool: {dsn: 'hunter2",
        "databases: {'postgres://u:hunter2@h/d': x}",
        "databases: {'postgres://u:hunter2@h/d': {mode: x}}",
        "pool: {dsn: 'postgres://h/d', 'postgres://u:hunter2@h/d': 1, 'postgres://u:hunter2@h/d': 1}",
        "server: {listen_addr: 'postgres://u:hunter2@h/d'}",
        "pool: {dsn: 'postgres://h/d', max_idle_time: 'postgres://u:hunter2@h/d'}",
        "pool: {dsn: 'postgres://u:x/?sslmode=hunter2@h/d'}",
        "hunter2",
    ] {
        let errors = errors(text)
            .join("\n")
            .replace("mock_secret", "")
            .replace("dsn.hunter2", "");
        assert!(!errors.contains("hunter2"), "{text}: {errors}");
    }
}

#[test]
fn no_piece_of_a_file_panics() {
    let text = format!(
        "{ISSUE}databases: {{a: {{backend: {{host: [x, y]}}}}, '*': ~}}\nauth: {{users: {{a: '${{PW}}'}}}}\nadmin: {{users: [a]}}\n"
    );
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(7).collect();
    for end in &ends {
        let _ = read_text(&text[..*end]);
        let _ = read_text(&text[*end..]);
        let _ = read_text(&text.replace(&text[*end..*end + 1], "ß"));
    }
}

/// Certificates of `tests/certificates`, and a clock.
const TLS_RULES: &str = "hostssl all alice all scram-sha-256\n\
                         host all all all password\n\
                         hostssl all all all cert\n";

struct Certificates;

impl Outside for Certificates {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
        let name = path.file_name().ok_or("no name")?;
        if name == "tls_hba" {
            return Ok(TLS_RULES.into());
        }
        std::fs::read(directory.join(name)).map_err(|error| error.to_string())
    }

    fn is_open_to_others(&self, path: &Path) -> bool {
        path.ends_with("pkcs1.key")
    }

    fn unix_time(&self) -> i64 {
        4_948_600_000 // some days before those of 2126 expire
    }
}

fn with_certificates(yaml: &str) -> Result<Config, String> {
    read(yaml, Path::new("/etc/aether/aether.yaml"), &Certificates).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })
}

/// An environment that names where roots are.
struct Roots([Option<&'static str>; 2]);

impl Outside for Roots {
    fn variable(&self, name: &str) -> Option<String> {
        let place = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
            .iter()
            .position(|one| *one == name)?;
        self.0[place].map(str::to_owned)
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        Certificates.file(path)
    }

    fn directory(&self, path: &Path) -> Result<Vec<String>, String> {
        match path.to_str() {
            Some("/roots") => Ok(vec!["server.key".to_owned(), "root.crt".to_owned()]),
            Some("/keys") => Ok(vec!["server.key".to_owned()]),
            _ => Err("No such directory".to_owned()),
        }
    }
}

/// `sslrootcert=system` trusts what OpenSSL's variables name in the place of the system's own roots, and nothing beside it.
#[test]
fn the_systems_roots_are_where_the_environment_says() {
    for (file, directories, error) in [
        (None, None, "install ca-certificates"),
        (Some("/x/root.crt"), None, ""),
        (None, Some("/nowhere:/roots"), ""),
        (Some("/x/absent.crt"), Some("/roots"), ""),
        (
            Some("/x/absent.crt"),
            None,
            "where SSL_CERT_FILE and SSL_CERT_DIR point to",
        ),
        (
            None,
            Some("/keys"),
            "where SSL_CERT_FILE and SSL_CERT_DIR point to",
        ),
    ] {
        let yaml = "pool: {dsn: 'postgres://u:p@h/d?sslrootcert=system'}\n";
        let world = Roots([file, directories]);
        let said = read(yaml, Path::new("/etc/aether/aether.yaml"), &world)
            .err()
            .map(|errors| errors.iter().map(ToString::to_string).collect::<String>());
        let said = said.unwrap_or_default();
        assert!(
            said.contains(error) && said.is_empty() == error.is_empty(),
            "{file:?} {directories:?}: {said}"
        );
    }
}

/// Issue 4: PEM in all the forms that people have; what cannot be used is told with the command that mends it.
#[test]
fn certificates_and_keys_in_every_form_are_read_or_told_what_is_wrong() {
    for (cert, key, error) in [
        ("server.crt", "server.key", ""),
        ("server.crt", "pkcs1.key", ""),
        ("chained.crt", "chained.key", ""),
        ("version_1.crt", "version_1.key", ""),
        ("sec1.crt", "sec1.key", ""),
        ("ed25519.crt", "ed25519.key", ""),
        ("pss.crt", "pss.key", ""),
        (
            "server.crt",
            "encrypted.key",
            "openssl pkey -in OLD -out NEW",
        ),
        (
            "server.crt",
            "encrypted_old.key",
            "openssl pkey -in OLD -out NEW",
        ),
        (
            "server.crt",
            "client.key",
            "the key is not that of the certificate",
        ),
        ("server.der", "server.key", "openssl x509 -inform der"),
        (
            "server.key",
            "server.key",
            "the file holds no certificate, but a private key",
        ),
        (
            "server.crt",
            "server.crt",
            "the file holds no private key, but a certificate",
        ),
        ("p521.crt", "p521.key", "P-256 and P-384"),
        ("small.crt", "small.key", "2048 to 8192 bits"),
        (
            "absent.crt",
            "server.key",
            "/etc/aether/absent.crt cannot be read: No such file",
        ),
    ] {
        let yaml = format!(
            "server: {{tls: {{cert_file: {cert}, key_file: {key}}}}}\npool: {{dsn: 'postgres://u:p@h/d'}}\n"
        );
        match with_certificates(&yaml) {
            Ok(config) => {
                assert_eq!(error, "", "{cert} {key}");
                let tls = config.server.tls.as_ref().expect("TLS");
                assert_eq!(tls.mode(), crate::tls::Mode::Prefer);
                let open = config
                    .warnings
                    .iter()
                    .any(|line| line.contains("mode 0600"));
                assert_eq!(open, key == "pkcs1.key");
                assert!(
                    config
                        .warnings
                        .iter()
                        .any(|line| line.contains("expires in") && line.contains("days"))
                );
                let again = with_certificates(&effective(&config)).expect("what is in force");
                assert_eq!(again.server, config.server);
            }
            Err(said) => {
                assert!(
                    said.contains(error) && !error.is_empty(),
                    "{cert} {key}: {said}"
                );
                assert!(said.contains("aether.yaml:1: server.tls."), "{said}");
            }
        }
    }
}

/// libpq's and PgBouncer's rules for what may not stand together; catalogue R16.
#[test]
fn what_weakens_tls_or_cannot_be_had_is_refused() {
    let own = "cert_file: server.crt, key_file: server.key";
    for (keys, error) in [
        ("mode: require", "key_file and cert_file must be set"),
        ("cert_file: server.crt", "without key_file"),
        (
            &format!("mode: verify-full, {own}"),
            "verify-full needs ca_file",
        ),
        (&format!("crl_file: root.crl, {own}"), "without ca_file"),
        (
            &format!("ciphers: AES128-SHA, {own}"),
            "ECDHE-RSA-AES256-GCM-SHA384",
        ),
        (&format!("curves: secp521r1, {own}"), "X25519"),
        (&format!("protocols: tlsv1.1, {own}"), "tlsv1.2"),
        (
            &format!(
                "mode: verify-ca, ca_file: root.crt, crl_file: root.crl, protocols: all, ciphers: HIGH, {own}"
            ),
            "",
        ),
    ] {
        let yaml = format!("server: {{tls: {{{keys}}}}}\npool: {{dsn: 'postgres://u:p@h/d'}}\n");
        let said = with_certificates(&yaml).err().unwrap_or_default();
        assert!(
            said.contains(error) && said.is_empty() == error.is_empty(),
            "{keys}: {said}"
        );
    }
    for (parameters, error) in [
        ("sslmode=verify-full", "needs sslrootcert"),
        ("sslmode=verify-full&sslrootcert=root.crt", ""),
        (
            "sslmode=require&sslrootcert=system",
            "weak sslmode require may not be used with sslrootcert=system",
        ),
        (
            "sslnegotiation=direct",
            "weak sslmode prefer may not be used with direct",
        ),
        ("sslmode=require&sslnegotiation=direct", ""),
        ("sslcert=client.crt", "without sslkey"),
        ("sslcrl=root.crl", "without sslrootcert"),
        ("sslmode=sometimes", "expected one of disable, allow"),
        ("ssl_max_protocol_version=TLSv1.1", "TLSv1.2 and TLSv1.3"),
    ] {
        let yaml = format!("pool: {{dsn: 'postgres://u:p@h/d?{parameters}'}}\n");
        let said = with_certificates(&yaml).err().unwrap_or_default();
        assert!(
            said.contains(error) && said.is_empty() == error.is_empty(),
            "{parameters}: {said}"
        );
    }
    // With a root, keys of ours mean verify-full.
    let keys =
        "pool: {backend: {host: h, user: u, password: p, database: d, sslrootcert: root.crt}}\n";
    let config = with_certificates(keys).expect("it is right");
    let tls = config.databases["d"].backend.tls.as_ref().expect("TLS");
    assert_eq!(tls.mode(), crate::tls::Mode::VerifyFull);
}

/// What only works with TLS is right without it, and lets nobody in: a warning says so.
#[test]
fn rules_that_wait_for_tls_are_warned_of_where_there_is_none() {
    let cert = with_auth("type: cert");
    let unasked =
        "auth.type: certificates of clients are only asked for with ca_file in server.tls";
    warned(&cert, unasked);
    let own = "cert_file: server.crt, key_file: server.key";
    let of = |tls: &str, auth: &str| {
        let yaml = format!(
            "server: {{tls: {{{tls}}}}}\npool: {{dsn: 'postgres://u:p@h/d'}}\nauth: {{{auth}}}\n"
        );
        with_certificates(&yaml).expect("fine").warnings.join("\n")
    };
    assert!(of(own, "type: cert").contains(unasked));
    let all = format!("{own}, ca_file: root.crt");
    assert!(!of(&all, "type: cert").contains("asked for"));
    let file = "hba_file: tls_hba";
    let none = of("mode: disable", file);
    assert!(
        none.contains("tls_hba:1: there is no TLS without a certificate"),
        "{none}"
    );
    assert!(
        none.contains("tls_hba:3: certificates of clients"),
        "{none}"
    );
    let own = of(own, file);
    assert!(!own.contains("there is no TLS") && own.contains("tls_hba:3: "));
    assert!(!of(&all, file).contains("tls_hba"));
}

/// R7: a password is read by nobody on the way where everybody comes with TLS.
#[test]
fn passwords_in_the_clear_are_fine_where_tls_is_required() {
    let of = |mode: &str, auth: &str| {
        with_certificates(&format!(
            "server: {{listen_addr: '*', tls: {{mode: {mode}, cert_file: server.crt, key_file: server.key}}}}\n\
             pool: {{dsn: 'postgres://u:p@h/d'}}\nauth: {{{auth}}}\n"
        ))
    };
    for auth in ["type: password", "hba_file: tls_hba"] {
        for mode in ["allow", "prefer"] {
            let said = of(mode, auth).expect_err("it is insecure");
            assert!(
                said.contains("password on an address")
                    && said.contains("server.tls.mode: require"),
                "{said}"
            );
        }
        let config = of("require", auth).expect("fine");
        assert!(effective(&config).contains("allow_insecure: false"));
    }
    assert!(of("require", "type: trust").is_err());
}

/// Issue 4: `channel_binding`, `require_auth` and `sslcertmode` by DSN and by key, each where it can be held.
#[test]
fn what_servers_have_to_show_is_read_by_dsn_and_by_key() {
    let text = "pool: {backend: {host: h, user: u, password: p, require_auth: '!password', channel_binding: require}}\n\
                databases: {plain: {}, other: {backend: {require_auth: '', channel_binding: disable}}, \
                dsn: {dsn: 'postgres://u:p@h/d?require_auth=scram-sha-256'}}\n";
    let config = ok(text);
    let demands = |name| &pool(&config, name).backend.demands;
    let shown = |name| {
        let list = demands(name)
            .require_auth
            .as_ref()
            .map(|list| list.as_str());
        (list, demands(name).channel_binding.as_str())
    };
    assert_eq!(shown("plain"), (Some("!password"), "require"));
    assert_eq!(shown("other"), (None, "disable"));
    assert_eq!(shown("dsn"), (Some("scram-sha-256"), "prefer"));
    let again = ok(&effective(&config));
    assert_eq!(&again.databases["plain"].backend.demands, demands("plain"));
    for (dsn, says) in [
        (
            "sslmode=disable&channel_binding=require",
            "channel_binding: require needs TLS",
        ),
        ("sslmode=disable&sslcertmode=require", "sslmode is disable"),
        ("sslcertmode=require", "sslcertmode: require needs sslcert"),
        ("sslcertmode=maybe", "expected disable, allow or require"),
    ] {
        refused(&format!("pool: {{dsn: 'postgres://u:p@h/d?{dsn}'}}"), says);
    }
    refused(
        "pool: {backend: {host: h, require_auth: secret}}",
        "require_auth: expected a list of password",
    );
    refused(
        &with_auth("type: scram-sha-256-plus"),
        "auth.type: scram-sha-256-plus needs TLS for clients",
    );
    let iterations = |text: &str| pool(&ok(&with_pool(text)), "d").max_scram_iterations;
    assert_eq!(iterations("max_scram_iterations: 600000"), 600_000);
    assert_eq!(iterations("max_connections: 3"), 100_000);
    refused(
        &with_pool("max_scram_iterations: 10000001"),
        "from 1 to 10000000",
    );
}

/// Compat sections 5.3 and 9: `auth_user`, `auth_query` and `auth_dbname` stand in the databases or for all of them.
#[test]
fn what_a_database_asks_wins_over_what_all_ask() {
    let config = ok("pool: {dsn: 'postgres://h/d'}\n\
         databases: {own: {auth_user: {name: b, password: hunter2}, auth_dbname: d}, none: {auth_user: ''}, all: {auth_query: 'f($1)'}}\n\
         auth: {auth_user: a, auth_query_cache: 5s}\nadmin: {users: [alice]}");
    let asks = |name: &str| {
        let query = pool(&config, name).auth_query.clone()?;
        let database = query.database.clone().unwrap_or_default();
        Some((
            query.user.clone(),
            database,
            query.sql == crate::config::AUTH_QUERY,
        ))
    };
    let asked = |user: &str, database: &str, own: bool| Some((user.into(), database.into(), own));
    assert_eq!(asks("d"), asked("a", "", true));
    assert_eq!(asks("own"), asked("b", "d", true));
    assert_eq!(asks("all"), asked("a", "", false));
    assert_eq!(asks("none"), None);
    // Nobody is listed, and nobody need be; but the console has no database to ask in.
    assert!(config.auth.users.is_empty() && !config.auth.anyone);
    assert_eq!(config.auth.query_cache, seconds(5));
    assert!(
        config
            .warnings
            .iter()
            .any(|text| text.contains("\"alice\" is not among"))
    );
    let shown = effective(&config);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(effective(&ok(&shown)), shown);

    let with = |auth: &str| format!("pool: {{dsn: 'postgres://u:p@h/d'}}\nauth: {auth}\n");
    for (auth, expected) in [
        (
            "{auth_user: a, auth_query: 'SELECT 1'}",
            "auth.auth_query: there is no $1 in it",
        ),
        (
            "{auth_user: a, auth_dbname: e}",
            "auth.auth_dbname: \"e\" is not among the databases",
        ),
        (
            "{auth_user: a, auth_dbname: pgbouncer}",
            "auth.auth_dbname: \"pgbouncer\" is the console",
        ),
        ("{auth_user: {password: x}}", "auth.auth_user: no name"),
        (
            "{auth_user: a, auth_query_cache: 2h}",
            "auth.auth_query_cache: longer than 1h",
        ),
    ] {
        let found = errors(&with(auth));
        assert!(
            found.iter().any(|text| text.contains(expected)),
            "{auth}: {found:?}"
        );
    }
}

#[test]
fn limits_in_time_are_inherited_key_by_key_and_told() {
    let text = "pool: {dsn: 'postgres://h/d', query_timeout: 5s, query_wait_notify: 0, server_login_retry: 2s}\n\
                databases:\n  e: {query_timeout: 0, transaction_timeout: 1m}\n\
                auth: {users: {alice: a, bob: b}}\n\
                users:\n  alice: {query_timeout: 0, acquire_timeout: 7s}\n  bob: {}\n  '*': {query_timeout: 3s, max_client_connections: 9}\n";
    let config = ok(text);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let (d, e) = (pool(&config, "d").timeouts, pool(&config, "e").timeouts);
    assert_eq!(
        (d.query_timeout, d.transaction_timeout),
        (seconds(5), seconds(0))
    );
    assert_eq!(
        (e.query_timeout, e.transaction_timeout),
        (seconds(0), seconds(60))
    );
    assert_eq!(
        (e.query_wait_notify, e.server_login_retry),
        (seconds(0), seconds(2))
    );
    let user = |name: &str| config.users[name];
    assert_eq!(user("alice").timeouts.query_timeout, Some(seconds(0)));
    assert_eq!(user("alice").timeouts.acquire_timeout, Some(seconds(7)));
    assert_eq!(user("bob"), config.user_defaults);
    assert_eq!(
        config.user_defaults.timeouts.query_timeout,
        Some(seconds(3))
    );
    assert_eq!(user("alice").max_client_connections, 9);
    assert_eq!((config.users.len(), config.user_defaults.mode), (2, None));
    let again = ok(&effective(&config));
    assert_eq!(
        (&again.users, again.user_defaults),
        (&config.users, config.user_defaults)
    );
    assert_eq!(pool(&again, "e").timeouts, e);
}

#[test]
fn sizes_sessions_and_sockets_are_inherited_key_by_key_and_told() {
    let text = "server: {tcp_keepidle: 1m, tcp_user_timeout: 1500ms, listen_backlog: 0, login_notify_message: hello}\n\
                pool: {dsn: 'postgres://u:p@h,k/d?sslmode=disable', max_connections: 0, max_connections_per_user: 4, min_pool_size: 2, \
                reserve_pool_size: 3, load_balance_hosts: round-robin, ignore_startup_parameters: [Extra_Float_Digits, options]}\n\
                databases:\n  e: {reserve_pool_timeout: 1s, single_use: true, connect_query: 'select 1', max_packet_size: 9}\n\
                users:\n  u: {pool_size: 7}\n  '*': {reserve_pool_size: 1}\n";
    let config = ok(text);
    let (d, e) = (pool(&config, "d"), pool(&config, "e"));
    assert_eq!((d.sizes.min_pool_size, d.max_connections), (2, 0));
    assert_eq!(e.sizes.load_balance_hosts.as_str(), "round-robin");
    assert_eq!(
        (e.sizes.reserve_pool_timeout, e.sizes.single_use),
        (seconds(1), true)
    );
    assert_eq!(
        (d.sizes.reserve_pool_timeout, d.sizes.single_use),
        (seconds(5), false)
    );
    assert_eq!(
        e.sessions.ignore_startup_parameters,
        ["extra_float_digits", "options"]
    );
    assert_eq!(
        (&e.sessions.connect_query[..], e.sessions.max_packet_size),
        ("select 1", 9)
    );
    let u = config.users["u"];
    assert_eq!((u.pool_size, u.reserve_pool_size), (Some(7), Some(1)));
    let again = ok(&effective(&config));
    for (name, before) in [("e", e), ("d", d)] {
        let after = pool(&again, name);
        assert_eq!(
            (&after.sizes, &after.sessions),
            (&before.sizes, &before.sessions)
        );
        assert_eq!(after.max_connections, before.max_connections);
    }
    assert_eq!((again.users["u"], again.server), (u, config.server.clone()));

    warned(
        "pool: {dsn: 'postgres://u:p@h/d', max_connections: 3, min_pool_size: 5}\n",
        "there may be 3 at most",
    );
    refused(
        "server: {tcp_keepidle: 1500ms}\npool: {dsn: 'postgres://u:p@h/d'}\n",
        "expected whole seconds",
    );
}
