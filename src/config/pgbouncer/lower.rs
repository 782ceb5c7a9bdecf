//! From the entries of an ini to keys of `aether.yaml`: what the table of [`super::options`] cannot say alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::super::ini::{self, Entry, Ini};
use super::super::units::{DURATION_MAX, show_duration};
use super::super::yaml::{ConfigError, Outside};
use super::super::{PgbouncerOption, nearest, schema};
use super::options::{Change, DATABASE, Fate, GLOBAL, Kind, PEER, Preset, Row, USER};
use super::tree::{Origin, Tree, Value};

/// Where sockets are if nothing says so.
const SOCKET_DIRECTORY: &str = "/tmp";
/// The name under which PgBouncer's console is reached.
const CONSOLE: &str = "pgbouncer";

/// What an ini comes to.
pub(super) struct Lowered {
    pub(super) tree: Tree,
    /// With the number of the file.
    pub(super) errors: Vec<(usize, ConfigError)>,
    pub(super) warnings: Vec<String>,
    /// What is written and needs no key, with the reason; for `--convert`.
    pub(super) notes: Vec<String>,
    /// For SHOW CONFIG.
    pub(super) options: Vec<PgbouncerOption>,
}

/// Lowers what was read. Relative names of files count from `directory`.
pub(super) fn lower(ini: &Ini, file: &str, directory: &Path, outside: &dyn Outside) -> Lowered {
    let mut lowering = Lowering {
        options: last_of("pgbouncer", ini),
        directory,
        outside,
        out: Lowered {
            tree: Tree::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            notes: Vec::new(),
            options: Vec::new(),
        },
    };
    if !ini.headers.contains(&"pgbouncer") {
        let error = ConfigError {
            file: file.to_owned(),
            line: None,
            key: String::new(),
            text: "main section missing from config file; write [pgbouncer]".to_owned(),
        };
        lowering.out.errors.push((0, error));
    }
    lowering.globals();
    lowering.listening();
    lowering.sizes_and_times();
    lowering.authentication();
    lowering.entries("databases", ini, Lowering::database);
    lowering.entries("users", ini, Lowering::user);
    lowering.entries("peers", ini, Lowering::peer);
    lowering.out.options = lowering.told();
    lowering.out.tree.sort(&TOP);
    lowering.out
}

/// The order in which sections are written.
const TOP: [&str; 8] = [
    "server",
    "pool",
    "databases",
    "users",
    "peers",
    "auth",
    "admin",
    "log",
];

/// The entries of a section; of the same key the last one holds.
fn last_of<'a>(section: &str, ini: &'a Ini) -> BTreeMap<&'a str, &'a Entry> {
    let entries = ini.entries.iter().filter(|entry| entry.section == section);
    entries.map(|entry| (entry.key.as_str(), entry)).collect()
}

struct Lowering<'a> {
    options: BTreeMap<&'a str, &'a Entry>,
    directory: &'a Path,
    outside: &'a dyn Outside,
    out: Lowered,
}

impl<'a> Lowering<'a> {
    fn error(&mut self, entry: &Entry, key: &str, text: impl Into<String>) {
        let text: String = text.into();
        let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
        let error = entry.spot.error(key, text.collect::<String>());
        self.out.errors.push((entry.spot.number, error));
    }

    fn warn(&mut self, origin: &Origin, text: &str) {
        let head = match &origin.spot {
            Some(spot) => format!("{spot}: {}", origin.option),
            None => origin.option.clone(),
        };
        let line = format!("{head}: {text}");
        let line = line.chars().map(|c| if c.is_control() { ' ' } else { c });
        self.out.warnings.push(line.collect());
    }

    fn set(&mut self, path: &[&str], value: Value, origin: &Origin) {
        self.out.tree.set(path, value, origin);
    }

    /// The text of an option; `None`: it is not written, or nothing stands behind its `=`.
    fn text(&self, name: &str) -> Option<&'a str> {
        let text = self.options.get(name)?.value.as_str();
        (!text.is_empty()).then_some(text)
    }

    /// Where an option is from, be it written or not.
    fn origin(&self, name: &str) -> Origin {
        let row = GLOBAL.iter().find(|row| row.name == name);
        match self.options.get(name) {
            Some(entry) => Origin {
                restart: row.is_some_and(|row| row.change == Change::Restart),
                ..Origin::written(&entry.spot, name)
            },
            None => default_of(name),
        }
    }

    /// An option as a value, or its default; `None` where that is nothing, or what is written is wrong, which is told elsewhere.
    fn value(&self, name: &str) -> Option<Value> {
        let row = GLOBAL.iter().find(|row| row.name == name)?;
        let written = self.options.get(name).map(|entry| entry.value.as_str());
        let text = written.unwrap_or(row.default.text());
        if text.is_empty() {
            return None;
        }
        convert(row.kind, text, self.directory).ok()
    }

    fn count(&self, name: &str) -> u64 {
        match self.value(name) {
            Some(Value::Count(count)) => count,
            _ => 0,
        }
    }

    /// Every option as PgBouncer would tell it.
    fn told(&self) -> Vec<PgbouncerOption> {
        let known = GLOBAL.iter().filter(|row| row.name != "service_name");
        let told = |row: &Row| {
            let default = (row.default != Preset::Null).then(|| row.default.text());
            let written = self.options.get(row.name).map(|entry| entry.value.as_str());
            let shown = |text: &str| shown(row.kind, text);
            PgbouncerOption {
                name: row.name,
                value: written.or(default).map(shown),
                default: default.map(shown),
                changeable: row.change == Change::Reload,
            }
        };
        known.map(told).collect()
    }

    /// Section `[pgbouncer]`, as far as the table goes.
    fn globals(&mut self) {
        let written: Vec<&Entry> = self.options.values().copied().collect();
        for entry in written {
            if !GLOBAL.iter().any(|row| row.name == entry.key) {
                let names = GLOBAL.iter().map(|row| row.name);
                let advice = nearest(&entry.key, names)
                    .map(|name| format!("; did you mean \"{name}\"?"))
                    .unwrap_or_default();
                let key: String = entry.key.chars().take(64).collect();
                let text = format!(
                    "unknown parameter: pgbouncer/{}{advice}",
                    key.escape_debug()
                );
                self.error(entry, "", text);
            }
        }
        for row in GLOBAL {
            match self.options.get(row.name).copied() {
                Some(entry) => self.global(row, entry),
                None => {
                    if let (Preset::Other(text), Fate::Key(path)) = (row.default, row.fate)
                        && schema::has(path)
                        && let Ok(value) = convert(row.kind, text, self.directory)
                    {
                        self.set(&split(path), value, &default_of(row.name));
                    }
                }
            }
        }
    }

    fn global(&mut self, row: &Row, entry: &Entry) {
        let origin = self.origin(row.name);
        if entry.value.is_empty() {
            // As if it were not written; a number or a word cannot be empty.
            if !matches!(row.kind, Kind::Text | Kind::Path | Kind::List) {
                self.error(
                    entry,
                    row.name,
                    format!("found nothing, {}", expected(row.kind)),
                );
            } else if let (Preset::Other(_), Fate::Key(path)) = (row.default, row.fate)
                && row.kind == Kind::List
                && schema::has(path)
            {
                self.set(&split(path), Value::List(Vec::new()), &origin);
            }
            return;
        }
        match convert(row.kind, &entry.value, self.directory) {
            Ok(value) => self.placed(row, &[], value, &entry.value, entry, origin),
            Err(text) => self.error(entry, row.name, text),
        }
    }

    /// Puts a value where its row says. `base`: the path of the entry that it belongs to.
    fn placed(
        &mut self,
        row: &Row,
        base: &[&str],
        value: Value,
        text: &str,
        entry: &Entry,
        origin: Origin,
    ) {
        let default = convert(row.kind, row.default.text(), self.directory).ok();
        let is_default = default.as_ref() == Some(&value);
        match row.fate {
            Fate::Over(_) if matches!(&value, Value::Count(0)) || is_zero(&value) => {}
            Fate::Key(_)
                if base.is_empty() && is_default && matches!(row.default, Preset::Same(_)) =>
            {
                let note = format!("{} = {text}: so it is without it", origin.option);
                self.out.notes.push(note);
            }
            Fate::Key(path) | Fate::Over(path) => {
                let path: Vec<&str> = base.iter().copied().chain(split(path)).collect();
                if schema::has(&path.join(".")) {
                    self.set(&path, value, &origin);
                } else if !is_default {
                    self.warn(&origin, "has no effect yet");
                }
            }
            Fate::Own => {}
            Fate::Met(why) => self
                .out
                .notes
                .push(format!("{} = {text}: {why}", origin.option)),
            Fate::Ignored(why) if is_default => {
                self.out
                    .notes
                    .push(format!("{} = {text}: {why}", origin.option));
            }
            Fate::Ignored(why) => self.warn(&origin, &format!("has no effect: {why}")),
            Fate::Refused(why) => {
                self.error(entry, &origin.option, format!("not supported: {why}"))
            }
        }
    }

    /// Addresses and sockets.
    fn listening(&mut self) {
        let port = self.count("listen_port");
        if !(1..=65_535).contains(&port) {
            if let Some(entry) = self.options.get("listen_port").copied() {
                self.error(entry, "listen_port", "expected a port from 1 to 65535");
            }
            return;
        }
        self.set(
            &["server", "listen_port"],
            Value::Count(port),
            &self.origin("listen_port"),
        );
        let origin = self.origin("listen_addr");
        let hosts = self.text("listen_addr").map(words).unwrap_or_default();
        let mut addresses = Vec::new();
        for host in hosts {
            match self.addresses(&host) {
                Ok(found) => addresses.extend(found),
                Err(text) => {
                    if let Some(entry) = self.options.get("listen_addr").copied() {
                        self.error(entry, "listen_addr", text);
                    }
                }
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        if addresses.iter().any(|address| address == "*") && addresses.len() > 1 {
            self.warn(
                &origin,
                "\"*\" is every address; the others in the list are part of it",
            );
            addresses.retain(|address| address == "*");
        }
        self.set(&["server", "listen_addr"], Value::List(addresses), &origin);
        self.unix_socket();
    }

    /// What a name in `listen_addr` stands for.
    fn addresses(&self, host: &str) -> Result<Vec<String>, String> {
        if host == "*" || host == "localhost" {
            return Ok(vec![host.to_owned()]);
        }
        let inside = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = inside.unwrap_or(host).parse::<std::net::IpAddr>() {
            return Ok(vec![ip.to_string()]);
        }
        // As at the start of PgBouncer, but without asking the network: a reload would wait for it.
        let table = self
            .outside
            .file(Path::new("/etc/hosts"))
            .unwrap_or_default();
        let table = String::from_utf8_lossy(&table).into_owned();
        let line = |line: &str| {
            let mut words = line
                .split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            let ip = words.next()?.parse::<std::net::IpAddr>().ok()?;
            words
                .any(|name| name.eq_ignore_ascii_case(host))
                .then(|| ip.to_string())
        };
        let found: Vec<String> = table.lines().filter_map(line).collect();
        if found.is_empty() {
            let text = format!(
                "\"{}\" is not in /etc/hosts, and no other place is asked; write the address",
                host.escape_debug()
            );
            return Err(text);
        }
        Ok(found)
    }

    fn unix_socket(&mut self) {
        let Some(Value::Text(directory)) = self.value("unix_socket_dir") else {
            return;
        };
        let is_abstract = directory.starts_with('@');
        self.set(
            &["server", "unix_socket_dir"],
            Value::Text(directory),
            &self.origin("unix_socket_dir"),
        );
        if is_abstract {
            return;
        }
        if let Some(Value::Count(mode)) = self.value("unix_socket_mode") {
            let text = Value::Text(format!("0{mode:03o}"));
            self.set(
                &["server", "unix_socket_mode"],
                text,
                &self.origin("unix_socket_mode"),
            );
        }
        if let Some(group) = self.value("unix_socket_group") {
            self.set(
                &["server", "unix_socket_group"],
                group,
                &self.origin("unix_socket_group"),
            );
        }
    }

    fn sizes_and_times(&mut self) {
        self.set(
            &["pool", "max_connections"],
            Value::Count(self.count("max_db_connections")),
            &self.origin("max_db_connections"),
        );
        for (name, key) in [
            ("server_lifetime", "max_lifetime"),
            ("server_connect_timeout", "connect_timeout"),
        ] {
            let Some(value) = self.value(name).filter(|_| self.options.contains_key(name)) else {
                continue;
            };
            match (name, is_zero(&value)) {
                (_, false) => self.set(&["pool", key], value, &self.origin(name)),
                // A server is good for one client.
                ("server_lifetime", true) if schema::has("pool.single_use") => {
                    self.set(
                        &["pool", "single_use"],
                        Value::Flag(true),
                        &self.origin(name),
                    );
                }
                ("server_lifetime", true) => {
                    let shortest = Value::Text("1ms".to_owned());
                    self.set(&["pool", key], shortest, &self.origin(name));
                }
                _ => self.set(
                    &["pool", key],
                    Value::Text(show_duration(DURATION_MAX)),
                    &self.origin(name),
                ),
            }
        }
        for (name, key) in [
            ("server_reset_query", "reset_query"),
            ("server_check_query", "check_query"),
        ] {
            if let Some(entry) = self.options.get(name).copied() {
                let value = match entry.value.as_str() {
                    "" => Value::Null,
                    "<empty>" => Value::Text(String::new()),
                    query => Value::Text(query.to_owned()),
                };
                self.set(&["pool", key], value, &self.origin(name));
            }
        }
        if let Some(entry) = self.options.get("verbose").copied() {
            let level = match entry.value.parse() {
                Ok(0) => "info",
                Ok(1) => "debug",
                Ok(2_u32..) => "trace",
                Err(_) => return,
            };
            self.set(
                &["server", "log_level"],
                Value::Text(level.to_owned()),
                &self.origin("verbose"),
            );
        }
        let text = |text: &str| Value::Text(text.to_owned());
        self.set(
            &["pool", "server_assignment"],
            text("first_query"),
            &Origin::implied("as in PgBouncer, a client gets its server with its first query"),
        );
        if schema::has("pool.server_fast_fail") {
            self.set(
                &["pool", "server_fast_fail"],
                Value::Flag(true),
                &Origin::implied(
                    "as in PgBouncer, who asks while no server can be reached is told so",
                ),
            );
        }
        if schema::has("pool.load_balance_hosts") {
            self.set(
                &["pool", "load_balance_hosts"],
                text("round-robin"),
                &default_of("load_balance_hosts"),
            );
        }
        self.set(
            &["server", "shutdown_timeout"],
            text("0"),
            &Origin::implied("as in PgBouncer, SIGTERM waits for the clients without a limit"),
        );
        self.set(
            &["log", "format"],
            Value::Text("pgbouncer".to_owned()),
            &Origin::implied("the lines that those expect who read PgBouncer's log"),
        );
        self.set(
            &["log", "repeat_limit"],
            Value::Count(0),
            &Origin::implied("as in PgBouncer, every line is written"),
        );
        self.server_protocols();
    }

    /// `server_tls_protocols`, a list, as the range that the native keys are.
    fn server_protocols(&mut self) {
        let Some(entry) = self.options.get("server_tls_protocols").copied() else {
            return;
        };
        let origin = self.origin("server_tls_protocols");
        match crate::tls::names::protocols(&entry.value) {
            Ok((versions, warning)) => {
                let (min, max) = match (versions.tls12, versions.tls13) {
                    (true, true) => ("", ""),
                    (true, false) => ("TLSv1.2", "TLSv1.2"),
                    (false, _) => ("TLSv1.3", ""),
                };
                let backend = |key| ["pool", "backend", key];
                for (key, version) in [
                    ("ssl_min_protocol_version", min),
                    ("ssl_max_protocol_version", max),
                ] {
                    if !version.is_empty() {
                        self.set(&backend(key), Value::Text(version.to_owned()), &origin);
                    }
                }
                if let Some(text) = warning {
                    self.warn(&origin, text);
                }
            }
            Err(text) => self.error(entry, "server_tls_protocols", text),
        }
    }

    /// Who may log in.
    fn authentication(&mut self) {
        let auth_type = self.text("auth_type").unwrap_or("md5").to_ascii_lowercase();
        let origin = self.origin("auth_type");
        let entry = self.options.get("auth_type").copied();
        match auth_type.as_str() {
            "pam" | "ldap" => {
                if let Some(entry) = entry {
                    let text = "not supported: use auth_query, auth_file, or auth_type = hba with methods that are";
                    self.error(entry, "auth_type", text);
                }
                return;
            }
            "hba" if self.text("auth_hba_file").is_none() => {
                if let Some(entry) = entry {
                    self.error(
                        entry,
                        "auth_type",
                        "hba needs auth_hba_file, the file with the rules",
                    );
                }
                return;
            }
            _ => {}
        }
        let method = match self.value("auth_type") {
            Some(Value::Text(method)) => method,
            // Told already.
            _ => return,
        };
        self.set(&["auth", "type"], Value::Text(method.clone()), &origin);
        for (name, key) in [
            ("auth_hba_file", "hba_file"),
            ("auth_ident_file", "ident_file"),
        ] {
            let Some(value) = self.value(name) else {
                continue;
            };
            if auth_type == "hba" {
                self.set(&["auth", key], value, &self.origin(name));
            } else {
                self.warn(&self.origin(name), "is only read with auth_type = hba");
            }
        }
        self.known_users(&auth_type);
        if ["trust", "password", "hba"].contains(&method.as_str()) {
            let origin = Origin {
                option: "auth_type: as in PgBouncer, whatever the rules let in is let in"
                    .to_owned(),
                ..origin
            };
            self.set(&["auth", "allow_insecure"], Value::Flag(true), &origin);
        }
    }

    /// The users that there are: those of the file, or none; with `any`, everybody.
    fn known_users(&mut self, auth_type: &str) {
        let file = self.value("auth_file");
        if auth_type == "any" {
            if file.is_some() {
                self.warn(
                    &self.origin("auth_file"),
                    "is not read with auth_type = any: everybody is let in",
                );
            }
            return;
        }
        let why = match file {
            Some(file) => {
                self.set(&["auth", "users_file"], file, &self.origin("auth_file"));
                "the file may be empty"
            }
            None => "there is no auth_file",
        };
        self.set(&["auth", "users"], Value::Empty, &Origin::implied(why));
    }

    /// One of the sections whose keys are names.
    fn entries(
        &mut self,
        section: &str,
        ini: &Ini,
        each: fn(&mut Self, &Entry, Vec<Pair<'_>>, &Origin),
    ) {
        let entries = last_of(section, ini);
        // In the order of the file.
        let mut entries: Vec<&Entry> = entries.into_values().collect();
        if section == "databases" && entries.is_empty() {
            let origin = Origin::implied("there is only the console");
            self.set(&["databases"], Value::Empty, &origin);
        }
        entries.sort_by_key(|entry| (entry.spot.number, entry.spot.line));
        for entry in entries {
            let rows = match section {
                "databases" => DATABASE,
                "users" => USER,
                _ => PEER,
            };
            let name: String = entry.key.chars().take(127).collect();
            let head = format!("[{section}] {}", name.escape_debug());
            let pairs = match ini::pairs(&entry.value) {
                Ok(pairs) => self.pairs(entry, &head, section, rows, pairs),
                Err(text) => {
                    self.error(entry, &head, text);
                    continue;
                }
            };
            let origin = Origin::written(&entry.spot, head);
            each(self, entry, pairs, &origin);
        }
    }

    /// The pairs of a connection string with their rows and values; what is wrong is told and left out.
    fn pairs(
        &mut self,
        entry: &Entry,
        head: &str,
        section: &str,
        rows: &'static [Row],
        pairs: Vec<(String, String)>,
    ) -> Vec<Pair<'static>> {
        let mut found: Vec<Pair<'static>> = Vec::new();
        for (key, text) in pairs {
            let Some(row) = rows.iter().find(|row| row.name == key) else {
                let what = match section {
                    "users" => "user",
                    "peers" => "peer",
                    _ => "connection",
                };
                let advice = nearest(&key, rows.iter().map(|row| row.name))
                    .map(|name| format!("; did you mean \"{name}\"?"))
                    .unwrap_or_default();
                let text = format!(
                    "unrecognized {what} parameter: {}{advice}",
                    ini::shown(&key)
                );
                self.error(entry, head, text);
                continue;
            };
            let key = format!("{head} {}", row.name);
            let text = self.led(row, &key, text, entry);
            match convert(row.kind, &text, self.directory) {
                Ok(value) => {
                    found.retain(|pair| pair.row.name != row.name);
                    let origin = Origin::written(&entry.spot, key);
                    found.push(Pair {
                        row,
                        value,
                        text,
                        origin,
                    });
                }
                Err(text) => self.error(entry, &key, text),
            }
        }
        found
    }

    /// Numbers are read by their leading digits, as PgBouncer does; with a warning where there is more.
    fn led(&mut self, row: &Row, key: &str, text: String, entry: &Entry) -> String {
        if !matches!(row.kind, Kind::Int | Kind::Above0 | Kind::Seconds) {
            return text;
        }
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        if digits.is_empty() || digits == text {
            return text;
        }
        let origin = Origin::written(&entry.spot, key);
        self.warn(&origin, &format!("only the digits are read, {digits}"));
        digits
    }

    fn database(&mut self, entry: &Entry, pairs: Vec<Pair<'_>>, origin: &Origin) {
        let name = entry.key.as_str();
        if name == CONSOLE {
            return self.error(
                entry,
                &origin.option,
                "database name \"pgbouncer\" is reserved",
            );
        }
        let base = ["databases", name];
        let host = pairs.iter().find(|pair| pair.row.name == "host");
        let (hosts, from) = match host {
            Some(Pair {
                value: Value::List(hosts),
                origin,
                ..
            }) => (hosts.clone(), origin.clone()),
            _ => (vec![self.socket_directory()], origin.clone()),
        };
        self.set(
            &["databases", name, "backend", "host"],
            Value::List(hosts),
            &from,
        );
        let has_user = pairs.iter().any(|pair| pair.row.name == "user");
        for Pair {
            row,
            value,
            text,
            origin,
        } in pairs
        {
            match (row.name, value) {
                ("password", Value::Text(_)) if !has_user => {
                    self.warn(&origin, "has no effect without user");
                }
                ("password", Value::Text(password)) => {
                    // In aether.yaml, a variable would be put in.
                    let password = Value::Text(password.replace("${", "$${"));
                    self.set(
                        &["databases", name, "backend", "password"],
                        password,
                        &origin,
                    );
                }
                (_, value) => self.placed(row, &base, value, &text, entry, origin),
            }
        }
        self.without_user(entry, has_user, origin);
    }

    /// With `auth_type = any` PgBouncer lets nobody into a database without a user: whoever comes would be whoever he says.
    fn without_user(&mut self, entry: &Entry, has_user: bool, origin: &Origin) {
        let any = self
            .text("auth_type")
            .is_some_and(|text| text.eq_ignore_ascii_case("any"));
        if any && !has_user {
            let text = "auth_type=any requires forced user: write user=... behind it";
            self.error(entry, &origin.option, text);
        }
    }

    fn socket_directory(&self) -> String {
        match self.value("unix_socket_dir") {
            Some(Value::Text(directory)) => directory,
            _ => SOCKET_DIRECTORY.to_owned(),
        }
    }

    fn user(&mut self, entry: &Entry, pairs: Vec<Pair<'_>>, origin: &Origin) {
        let name = entry.key.as_str();
        if name == "*" {
            return self.warn(
                origin,
                "is a user of that name and not everybody: it has no effect",
            );
        }
        if pairs.is_empty() {
            self.set(&["users", name], Value::Empty, origin);
        }
        for Pair {
            row,
            value,
            text,
            origin,
        } in pairs
        {
            self.placed(row, &["users", name], value, &text, entry, origin);
        }
    }

    fn peer(&mut self, entry: &Entry, pairs: Vec<Pair<'_>>, origin: &Origin) {
        let id = entry.key.as_str();
        if !id.parse().is_ok_and(|id: u32| (1..=65_535).contains(&id)) {
            return self.error(
                entry,
                &origin.option,
                "expected the number of a peer from 1 to 65535",
            );
        }
        let has = |name| pairs.iter().any(|pair: &Pair<'_>| pair.row.name == name);
        if !has("host") {
            return self.error(entry, &origin.option, "host was not provided for peer");
        }
        if !schema::has(&format!("peers.{id}.host")) {
            return self.warn(origin, "has no effect yet");
        }
        if !has("pool_size")
            && let Some(size) = self.value("default_pool_size")
        {
            let from = self.origin("default_pool_size");
            self.set(&["peers", id, "pool_size"], size, &from);
        }
        for Pair {
            row,
            value,
            text,
            origin,
        } in pairs
        {
            self.placed(row, &["peers", id], value, &text, entry, origin);
        }
    }
}

/// A key of a connection string, understood.
struct Pair<'a> {
    row: &'a Row,
    value: Value,
    text: String,
    origin: Origin,
}

fn default_of(name: &str) -> Origin {
    Origin::implied(format!("PgBouncer's default of {name}"))
}

fn split(path: &str) -> Vec<&str> {
    path.split('.').collect()
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(',').map(str::trim);
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

fn is_zero(value: &Value) -> bool {
    matches!(value, Value::Text(text) if text == "0")
}

/// A text as the value of a native key.
pub(super) fn convert(kind: Kind, text: &str, directory: &Path) -> Result<Value, String> {
    let wrong = || {
        let short: String = text.chars().take(60).collect();
        format!("found {short:?}, {}", expected(kind))
    };
    match kind {
        Kind::Text => Ok(Value::Text(text.to_owned())),
        Kind::Path if text.starts_with('@') => Ok(Value::Text(text.to_owned())),
        Kind::Path => {
            let path = directory.join(text);
            let path = path.to_str().map(str::to_owned);
            path.map(Value::Text).ok_or_else(wrong)
        }
        Kind::List => Ok(Value::List(words(text))),
        Kind::Int => integer(text).map(Value::Count).ok_or_else(wrong),
        Kind::Above0 => {
            let count = integer(text).filter(|count| *count > 0);
            count.map(Value::Count).ok_or_else(wrong)
        }
        Kind::Bool => signed(text).map(|n| Value::Flag(n != 0)).ok_or_else(wrong),
        Kind::Time => seconds(text).map(duration).ok_or_else(wrong),
        Kind::Seconds => {
            let count = integer(text).ok_or_else(wrong)?;
            Ok(duration(Duration::from_secs(count)))
        }
        Kind::Millis => {
            let count = integer(text).ok_or_else(wrong)?;
            Ok(duration(Duration::from_millis(count)))
        }
        Kind::Words(words) => {
            let found = words
                .iter()
                .find(|(word, _)| word.eq_ignore_ascii_case(text));
            let found = found.map(|(_, own)| Value::Text((*own).to_owned()));
            found.ok_or_else(|| {
                let meant = nearest(text, words.iter().map(|(word, _)| *word));
                let advice = meant.map(|word| format!("; did you mean \"{word}\"?"));
                wrong() + &advice.unwrap_or_default()
            })
        }
    }
}

/// A value as SHOW CONFIG of PgBouncer writes it: numbers are decimal, words as they are called.
fn shown(kind: Kind, text: &str) -> String {
    let number = match kind {
        Kind::Int | Kind::Above0 | Kind::Seconds | Kind::Millis => {
            integer(text).map(|n| n.to_string())
        }
        Kind::Bool => signed(text).map(|n| n.to_string()),
        Kind::Time => seconds(text).map(|time| time.as_secs_f64().to_string()),
        Kind::Words(words) => words
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(text))
            .map(|(word, _)| (*word).to_owned()),
        Kind::Text | Kind::Path | Kind::List => None,
    };
    number.unwrap_or_else(|| text.to_owned())
}

/// What would be right.
fn expected(kind: Kind) -> String {
    let text = match kind {
        Kind::Text => "expected a text",
        Kind::Path => "expected the name of a file",
        Kind::List => "expected words between commas",
        Kind::Int => "expected a whole number, 0 or more",
        Kind::Above0 => "expected a whole number above 0",
        Kind::Bool => "expected 0 or 1",
        Kind::Time => "expected seconds, as 30 or 0.5",
        Kind::Seconds => "expected whole seconds",
        Kind::Millis => "expected whole milliseconds",
        Kind::Words(words) => {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            return format!("expected one of {}", words.join(", "));
        }
    };
    text.to_owned()
}

/// As `strtol` reads it with base 0, all of it.
fn signed(text: &str) -> Option<i64> {
    let (minus, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, base) = match lower.strip_prefix("0x") {
        Some(hex) => (hex, 16),
        None if lower.len() > 1 && lower.starts_with('0') => (lower.get(1..)?, 8),
        None => (lower.as_str(), 10),
    };
    // from_str_radix would take a second sign.
    let number = Some(digits).filter(|digits| !digits.starts_with(['+', '-']));
    let number = i64::from_str_radix(number?, base).ok()?;
    Some(if minus { -number } else { number })
}

fn integer(text: &str) -> Option<u64> {
    u64::try_from(signed(text)?).ok()
}

/// Decimal seconds; what is shorter than a millisecond and is not 0 is one.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + part.len() == 0 || !digits(whole) || !digits(part) {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let part: String = part.chars().chain("000000".chars()).take(6).collect();
    let micros: u64 = part.parse().ok()?;
    let millis = Duration::from_millis(micros.div_ceil(1000));
    Duration::from_secs(whole).checked_add(millis)
}

/// For `aether.yaml`, where ten years are the most.
fn duration(value: Duration) -> Value {
    Value::Text(show_duration(value.min(DURATION_MAX)))
}
