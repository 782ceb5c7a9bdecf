//! What `aether.yaml` says: its sections, read in order and then held against each other.
//!
//! Owns the top level and the rules between sections; each section's keys and defaults are in its own file. Pure: whatever
//! lies outside of the text comes through [`Outside`].

mod auth;
mod logs;
mod lookup;
mod metrics;
mod peers;
mod pool;
mod server;
mod sizes;
mod sockets;
mod tls;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use self::auth::Logins;
use self::pool::Draft;
use super::hba::{ClientCert, Method, Rule};
use super::yaml::{ConfigError, Field, Node, Outside, Place, Problems, Section, document, spot_in};
use super::{
    AdminConfig, AuthConfig, AuthMethod, CONSOLE_NAMES, Config, NAME_MAX, PoolConfig,
    ScramVerifier, ServerConfig, Stored,
};

/// The keys of section `admin`.
const ADMIN_KEYS: [&str; 2] = ["users", "stats_users"];
/// The sections.
const SECTIONS: [&str; 9] = [
    "server",
    "pool",
    "databases",
    "users",
    "peers",
    "auth",
    "admin",
    "metrics",
    "log",
];

/// Reads the text of an `aether.yaml`. `path` is its name in errors and the place from which relative file names count.
///
/// # Errors
/// Everything that is wrong (at most 50 things), in the order of the file; at least one. No secret is in any of them.
pub fn read(text: &str, path: &Path, outside: &dyn Outside) -> Result<Config, Vec<ConfigError>> {
    read_changed(text, path, outside, |_| Ok(()))
}

/// The same of what a change makes of the text.
pub(super) fn read_changed(
    text: &str,
    path: &Path,
    outside: &dyn Outside,
    change: impl FnOnce(&mut Node) -> Result<(), ConfigError>,
) -> Result<Config, Vec<ConfigError>> {
    let file = path.display().to_string();
    let mut root = document(text, &file).map_err(|error| vec![error])?;
    change(&mut root).map_err(|error| vec![error])?;
    let directory = path.parent().unwrap_or(Path::new(""));
    read_nodes(&root, directory, outside).map_or_else(
        |problems| Err(problems.into_errors(&|place| spot_in(text, &file, place))),
        |(mut config, mut problems)| {
            config.warnings = problems.take_warnings(&|place| place.key().to_owned());
            Ok(config)
        },
    )
}

/// Reads what was written in whatever language. Relative file names count from `directory`. The problems beside a configuration
/// are warnings.
pub(super) fn read_nodes(
    root: &Node,
    directory: &Path,
    outside: &dyn Outside,
) -> Result<(Config, Problems), Problems> {
    let mut problems = Problems::default();
    let context = Context { directory, outside };
    match read_sections(&Field::root(root), context, &mut problems) {
        Some(config) if problems.is_empty() => Ok((config, problems)),
        _ => Err(problems),
    }
}

/// Whether there is a key of this path. Names of databases and users in it are any.
pub(super) fn has(path: &str) -> bool {
    let keys: Vec<&str> = path.split('.').collect();
    match keys.as_slice() {
        ["server", "tls", key] => tls::CLIENT_KEYS.contains(key),
        ["server", key] => server::KEYS.contains(key),
        ["pool", "backend", key] | ["databases", _, "backend", key] => pool::has_backend_key(key),
        ["pool", key] | ["databases", _, key] => pool::KEYS.contains(key),
        ["users", _, key] => users::KEYS.contains(key),
        ["peers", _, _] => SECTIONS.contains(&"peers"),
        ["auth", key] => auth::KEYS.contains(key),
        ["admin", key] => ADMIN_KEYS.contains(key),
        ["log", key] => logs::KEYS.contains(key),
        _ => false,
    }
}

/// Where secrets come from.
#[derive(Clone, Copy)]
struct Context<'a> {
    directory: &'a Path,
    outside: &'a dyn Outside,
}

impl Context<'_> {
    /// The content of a file that a key names.
    fn file(self, field: &Field<'_>, problems: &mut Problems) -> Option<Vec<u8>> {
        let path = self.directory.join(field.name(problems)?);
        let read = self.outside.file(&path);
        read.map_err(|error| {
            problems.add(
                &field.place,
                format!("{} cannot be read: {error}", path.display()),
            )
        })
        .ok()
    }

    /// The password in a file: all of it but one line end.
    fn password_file(self, field: &Field<'_>, problems: &mut Problems) -> Option<Vec<u8>> {
        let bytes = self.file(field, problems)?;
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.is_empty() || text.contains(&0) {
            problems.add(
                &field.place,
                "the file holds no password: it is empty, or has a zero byte",
            );
            return None;
        }
        Some(text.to_vec())
    }
}

/// `None` only where something was added to `problems`.
fn read_sections(
    root: &Field<'_>,
    context: Context<'_>,
    problems: &mut Problems,
) -> Option<Config> {
    let top = root.section(&SECTIONS, problems);
    let server = server::read(
        &section(&top, "server", &server::KEYS, problems),
        context,
        problems,
    );
    let (mut databases, mut fallback, parent) = read_databases(&top, context, problems);
    let drafts: Vec<&Draft> = databases.values().chain(&fallback).collect();
    let logins = Logins::of(&drafts);
    let auth_section = section(&top, "auth", &auth::KEYS, problems);
    let (auth, asks) = auth::read(&auth_section, &logins, context, problems);
    if !auth.allow_insecure && server.listen.iter().any(|at| !at.ip().is_loopback()) {
        report_insecure(&auth_section, &auth, server.only_tls(), problems);
    }
    warn_of_tls(&auth_section, &auth, &server, problems);
    require_binding(&auth_section, &auth, &server, problems);
    for draft in databases.values_mut().chain(&mut fallback) {
        draft.borrow_password(&auth.users);
    }
    warn_of_databases(&databases, problems);
    warn_of_secrets(&auth, databases.values().chain(&fallback), problems);
    let roles: Vec<Option<&String>> = databases
        .values()
        .chain(&fallback)
        .map(|draft| draft.pool.backend.user.as_ref())
        .collect();
    let looked_up = lookup::check(databases.iter(), fallback.as_ref(), &asks, problems);
    let (users, user_defaults) = users::read(&top, &roles, &auth, looked_up, problems);
    let peers = peers::read(&top, server.peer_id, problems);
    let admin = read_admin(
        &section(&top, "admin", &ADMIN_KEYS, problems),
        &auth,
        problems,
    );
    let metrics = metrics::read(
        &section(&top, "metrics", &metrics::KEYS, problems),
        &server,
        |name| databases.contains_key(name),
        context,
        problems,
    );
    let log = logs::read(
        &section(&top, "log", &logs::KEYS, problems),
        context.directory,
        problems,
    );
    let databases: BTreeMap<String, Rc<PoolConfig>> = databases
        .into_iter()
        .map(|(name, draft)| (name, Rc::new(draft.finished(&asks))))
        .collect();
    let fallback = fallback.map(|draft| Rc::new(draft.finished(&asks)));
    problems.is_empty().then_some(Config {
        server,
        databases,
        pool: Rc::new(parent.finished(&asks)),
        fallback,
        users,
        user_defaults,
        peers,
        auth,
        admin,
        metrics,
        options: Vec::new(),
        log,
        warnings: Vec::new(),
    })
}

/// Where the rules are said.
fn place_of_rules(section: &Section<'_>, auth: &AuthConfig) -> Place {
    let key = match auth.rules.file {
        Some(_) => "hba_file",
        None => "type",
    };
    section
        .get(key)
        .map_or(section.place.clone(), |field| field.place)
}

fn report_insecure(
    section: &Section<'_>,
    auth: &AuthConfig,
    only_tls: bool,
    problems: &mut Problems,
) {
    let rule = auth.rules.iter().find(|rule| rule.is_insecure(only_tls));
    let place = place_of_rules(section, auth);
    let Some(rule) = rule else {
        return;
    };
    let rule_place = rule_place(auth, rule);
    problems.add(
        &place,
        format!(
            "{rule_place}{} on an address that other machines reach: listen on 127.0.0.1, choose scram-sha-256, {}or write \
             allow_insecure: true",
            rule.method.as_str(),
            match rule.method {
                Method::Check(AuthMethod::Password) => "take clients with TLS only (server.tls.mode: require), ",
                _ => "",
            }
        ),
    );
}

/// Rules that wait for what section `server.tls` does not bring: they are right, and let nobody in.
fn warn_of_tls(
    section: &Section<'_>,
    auth: &AuthConfig,
    server: &ServerConfig,
    problems: &mut Problems,
) {
    let (tls, place) = (server.tls.as_ref(), place_of_rules(section, auth));
    let mut told = BTreeSet::new();
    for rule in auth.rules.iter() {
        let text = match rule.client_cert {
            ClientCert::Off if tls.is_some() || !rule.is_for_tls() => continue,
            ClientCert::Off => {
                "there is no TLS without a certificate in server.tls, so hostssl lets nobody in"
            }
            _ if tls.is_some_and(|tls| tls.asks_clients()) => continue,
            _ => {
                "certificates of clients are only asked for with ca_file in server.tls, so this lets nobody in"
            }
        };
        if told.insert(text) {
            let rule_place = rule_place(auth, rule);
            problems.warn(&place, format_args!("{rule_place}{text}"));
        }
    }
}

/// `scram-sha-256-plus` lets nobody in where SCRAM cannot be bound to TLS.
fn require_binding(
    section: &Section<'_>,
    auth: &AuthConfig,
    server: &ServerConfig,
    problems: &mut Problems,
) {
    let method = Method::Check(AuthMethod::ScramSha256Plus);
    // Where something is broken, it cannot be told what TLS there will be.
    if auth.rules.single() != Some(method) || !problems.is_empty() {
        return;
    }
    let text = match &server.tls {
        None => {
            "scram-sha-256-plus needs TLS for clients: write server.tls.cert_file and key_file, and no mode: disable"
        }
        Some(tls) if tls.is_bindable() => return,
        Some(_) => {
            "scram-sha-256-plus: RFC 5929 defines no channel binding for the signature algorithm of server.tls.cert_file; take \
             a certificate that is signed by RSA or ECDSA"
        }
    };
    problems.add(&place_of_rules(section, auth), text);
}

/// For messages: the line of the file that it is in, if there is one.
fn rule_place(auth: &AuthConfig, rule: &Rule) -> String {
    match auth.rules.file {
        Some(_) => format!("{}: ", rule.place),
        None => String::new(),
    }
}

fn section<'a>(
    top: &Section<'a>,
    name: &str,
    known: &[&str],
    problems: &mut Problems,
) -> Section<'a> {
    let none = || Section::none(top.place.missing(name));
    top.get(name)
        .map_or_else(none, |field| field.section(known, problems))
}

/// Whether something can be the name of a database or a user.
fn is_name(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len()) && !text.contains('\0')
}

type Drafts = (BTreeMap<String, Draft>, Option<Draft>, Draft);

/// The databases that clients may name: each entry of `databases`, and the one that `pool` itself points at. What holds for
/// names that are not there, and what they all build upon.
fn read_databases(top: &Section<'_>, context: Context<'_>, problems: &mut Problems) -> Drafts {
    let own = top
        .get("pool")
        .map(|field| field.section(&pool::KEYS, problems));
    let parent = match &own {
        Some(section) => {
            Draft::defaults(section.place.clone()).overlaid(section, context, problems)
        }
        None => Draft::defaults(top.place.missing("pool")),
    };
    let mut databases = BTreeMap::new();
    let mut fallback = None;
    let entries = top.get("databases").map(|field| field.names(problems));
    for (name, field) in entries.iter().flat_map(Section::iter) {
        if !is_name(name) {
            problems.add(
                &field.place,
                "not a database name: empty, longer than 127 bytes, or with a zero byte",
            );
            continue;
        }
        let section = field.section(&pool::KEYS, problems);
        let draft = parent
            .clone()
            .at(section.place.clone())
            .overlaid(&section, context, problems);
        if name == "*" {
            fallback = Some(draft.serving(None, problems));
        } else {
            databases.insert(name.to_owned(), draft.serving(Some(name), problems));
        }
    }
    // A section without entries is a statement: then there is the console only.
    let alone = entries.is_none() && databases.is_empty() && fallback.is_none();
    if let Some((name, draft)) = parent.clone().own_database(alone, problems) {
        databases.entry(name).or_insert(draft);
    }
    (databases, fallback, parent)
}

fn read_admin(section: &Section<'_>, auth: &AuthConfig, problems: &mut Problems) -> AdminConfig {
    let mut list = |key| {
        let names = section
            .get(key)
            .and_then(|field| field.names_list(problems))
            .unwrap_or_default();
        for (name, place) in &names {
            let is_asked = auth
                .query
                .as_ref()
                .is_some_and(|query| query.database.is_some());
            if !auth.anyone && !auth.users.contains_key(*name) && !is_asked {
                problems.warn(
                    place,
                    format_args!("{name:?} is not among the users of auth and cannot log in"),
                );
            }
        }
        names.into_iter().map(|(name, _)| name.to_owned()).collect()
    };
    AdminConfig {
        users: list("users"),
        stats_users: list("stats_users"),
    }
}

fn warn_of_databases(databases: &BTreeMap<String, Draft>, problems: &mut Problems) {
    let hidden: Vec<&str> = CONSOLE_NAMES
        .into_iter()
        .filter(|name| databases.contains_key(*name))
        .collect();
    let left = CONSOLE_NAMES.iter().find(|name| !hidden.contains(name));
    for name in &hidden {
        let consequence = match left {
            None => "cannot be reached".to_owned(),
            Some(other) => format!("is only reached as \"{other}\""),
        };
        let text = format!(
            "a database named \"{name}\" hides the console of that name, which {consequence}"
        );
        problems.warn(&Place::default(), text);
    }
}

/// Warns of secrets with which a user cannot get in here, or not further to a server.
fn warn_of_secrets<'a>(
    auth: &AuthConfig,
    drafts: impl Iterator<Item = &'a Draft>,
    problems: &mut Problems,
) {
    let own_roles = drafts
        .filter(|draft| draft.pool.backend.user.is_none())
        .count()
        > 0;
    let methods: Vec<AuthMethod> = auth
        .rules
        .iter()
        .filter_map(|rule| match rule.method {
            Method::Check(method) => Some(method),
            Method::Reject | Method::Peer | Method::Cert => None,
        })
        .collect();
    let always = |wanted: &[AuthMethod]| methods.iter().all(|method| wanted.contains(method));
    let (scram, trust) = (
        !methods.is_empty() && always(&[AuthMethod::ScramSha256, AuthMethod::ScramSha256Plus]),
        always(&[AuthMethod::Trust]),
    );
    for (user, stored) in &auth.users {
        let text = match stored {
            Stored::Md5(_) if scram => {
                "has an MD5 secret and cannot log in with type scram-sha-256; store the password or a SCRAM verifier, \
                 or use type md5"
            }
            Stored::Scram(_) if own_roles && trust => {
                "is known by a SCRAM verifier only, and no rule asks for the password: Aether cannot log in to servers as this user \
                 where they ask for one; use type scram-sha-256, store the password, or give the pool a user of its own"
            }
            Stored::Plain(secret) if ScramVerifier::is_meant(secret.expose()) => {
                "has a secret that begins like a SCRAM verifier and is none: it is taken for the password itself"
            }
            Stored::Plain(secret) if secret.expose().is_empty() && !trust => {
                "has an empty secret and cannot log in"
            }
            _ => continue,
        };
        problems.warn(
            &Place::default(),
            format_args!("auth: user {user:?} {text}"),
        );
    }
}

#[cfg(test)]
mod tests;
