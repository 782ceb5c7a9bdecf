//! Section `auth`: who may log in, and how. Checks no password: that is done by the floor above.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::hba::{Method, Roles, Rules};
use super::super::yaml::{Field, Place, Problems, Section};
use super::super::{AuthConfig, AuthMethod, Secret, Stored, hba, ident, userlist};
use super::lookup::{self, Asks};
use super::pool::{Draft, read_password};
use super::{Context, is_name};
use crate::limits::SCRAM_ITERATIONS_MAX;

/// The keys.
pub(super) const KEYS: [&str; 15] = [
    "type",
    "hba_file",
    "ident_file",
    "roles",
    "users_file",
    "users",
    "scram_iterations",
    "mock_secret",
    "failure_delay",
    "failure_limit",
    "allow_insecure",
    "auth_user",
    "auth_query",
    "auth_dbname",
    "auth_query_cache",
];
/// `None`: what a file says.
const TYPES: [(&str, Option<Method>); 8] = [
    ("trust", Some(Method::Check(AuthMethod::Trust))),
    ("password", Some(Method::Check(AuthMethod::Password))),
    ("md5", Some(Method::Check(AuthMethod::Md5))),
    (
        "scram-sha-256",
        Some(Method::Check(AuthMethod::ScramSha256)),
    ),
    (
        "scram-sha-256-plus",
        Some(Method::Check(AuthMethod::ScramSha256Plus)),
    ),
    ("peer", Some(Method::Peer)),
    ("cert", Some(Method::Cert)),
    ("hba", None),
];
/// Long enough to make guessing slow, too short for people to notice.
const FAILURE_DELAY: Duration = Duration::from_millis(100);
/// An application with a wrong password, which tries again and again, stays below it.
const FAILURE_LIMIT: u64 = 20;
const FAILURE_LIMIT_MAX: u64 = 1_000_000;
const FAILURE_DELAY_MAX: Duration = Duration::from_secs(60);
/// Long enough for the logins of an application that connects anew all the time, short enough for a role that is dropped.
const QUERY_CACHE: Duration = Duration::from_secs(30);
const QUERY_CACHE_MAX: Duration = Duration::from_secs(3600);
/// PostgreSQL's own default.
const SCRAM_ITERATIONS: u32 = 4096;

/// The users and passwords of the backends, who are the users when `auth` names none.
pub(super) struct Logins {
    users: BTreeMap<String, Stored>,
    /// Users with a different password in different places.
    disputed: BTreeMap<String, Place>,
    /// Whether a backend has no user and password.
    incomplete: bool,
    /// Whether the users of some database are asked for there.
    asks: bool,
}

impl Logins {
    pub(super) fn of(drafts: &[&Draft]) -> Logins {
        let mut logins = Logins {
            users: BTreeMap::new(),
            disputed: BTreeMap::new(),
            incomplete: false,
            asks: drafts.iter().any(|draft| draft.asks.names_user()),
        };
        for draft in drafts {
            let backend = &draft.pool.backend;
            let (Some(user), Some(password)) = (&backend.user, &backend.password) else {
                logins.incomplete = true;
                continue;
            };
            // Always the password itself: it is what a server takes, whatever it looks like.
            let stored = Stored::Plain(password.clone());
            match logins.users.insert(user.clone(), stored.clone()) {
                Some(other) if other != stored => {
                    logins.disputed.insert(user.clone(), draft.place.clone());
                }
                _ => {}
            }
        }
        logins
    }
}

/// The section, and what databases ask that say nothing else.
pub(super) fn read(
    section: &Section<'_>,
    logins: &Logins,
    context: Context<'_>,
    problems: &mut Problems,
) -> (AuthConfig, Asks) {
    let asks = Asks::default().overlaid(section, context, problems);
    let looked_up = logins.asks || asks.names_user();
    let rules = read_rules(section, context, problems);
    let named = section.get("users").is_some() || section.get("users_file").is_some();
    let needs_password = |rule: &hba::Rule| match rule.method {
        Method::Check(method) => method != AuthMethod::Trust,
        Method::Reject | Method::Peer | Method::Cert => false,
    };
    let users = match named {
        true => read_users(section, looked_up, context, problems),
        false if rules.iter().any(needs_password) => {
            backend_users(section, logins, looked_up, problems)
        }
        false => BTreeMap::new(),
    };
    let iterations = section
        .get("scram_iterations")
        .and_then(|field| field.count(1..=u64::from(SCRAM_ITERATIONS_MAX), problems));
    let mock_secret = section
        .get("mock_secret")
        .and_then(|field| field.secret(context.outside, problems));
    let allow_insecure = section
        .get("allow_insecure")
        .and_then(|field| field.flag(problems))
        .unwrap_or(false);
    let delay = section
        .get("failure_delay")
        .and_then(|field| Some((field.duration(problems)?, field.place)));
    if let Some((delay, place)) = &delay
        && *delay > FAILURE_DELAY_MAX
    {
        problems.add(place, "longer than 60s");
    }
    let limit = section
        .get("failure_limit")
        .and_then(|field| field.count(0..=FAILURE_LIMIT_MAX, problems));
    let query_cache = lookup::read_cache(section, QUERY_CACHE_MAX, problems);
    let auth = AuthConfig {
        anyone: !named
            && !rules
                .single()
                .is_some_and(|_| rules.iter().any(needs_password)),
        rules,
        users,
        failure_delay: delay.map_or(FAILURE_DELAY, |(delay, _)| delay),
        failure_limit: u32::try_from(limit.unwrap_or(FAILURE_LIMIT)).unwrap_or(u32::MAX),
        scram_iterations: iterations
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(SCRAM_ITERATIONS),
        mock_secret: mock_secret.map(Secret::new),
        query: asks.clone().finished(),
        query_cache: query_cache.unwrap_or(QUERY_CACHE),
        allow_insecure,
    };
    (auth, asks)
}

/// `type`, or what the files say.
fn read_rules(section: &Section<'_>, context: Context<'_>, problems: &mut Problems) -> Rules {
    let scram = Rules::always(Method::Check(AuthMethod::ScramSha256));
    let word = section
        .get("type")
        .and_then(|field| Some((field.word(&TYPES, problems)?, field.place)));
    let file = section.get("hba_file");
    let file = match (word, file) {
        (Some((None, place)), None) => {
            problems.add(&place, "hba needs hba_file, the file with the rules");
            return scram;
        }
        (Some((None, _)) | None, Some(file)) => file,
        (Some((Some(method), _)), None) => {
            without_rules(section, problems);
            return Rules::always(method);
        }
        (Some((Some(_), place)), Some(_)) => {
            problems.add(&place, "hba_file says who has to prove what; write type: hba, or leave one of the two away");
            return scram;
        }
        (None, None) => {
            without_rules(section, problems);
            return scram;
        }
    };
    let roles = read_roles(section, problems);
    let maps = section.get("ident_file").map(|field| {
        let path = field.name(problems)?;
        let maps = ident::read(&context.directory.join(path), &roles, context.outside);
        maps.map_err(|errors| problems.add_elsewhere(errors)).ok()
    });
    let maps = maps.flatten().unwrap_or_default();
    let Some(path) = file.name(problems) else {
        return scram;
    };
    match hba::read(&context.directory.join(path), maps, roles, context.outside) {
        Ok(rules) => {
            warn_of_rules(&rules, problems);
            rules
        }
        Err(errors) => {
            problems.add_elsewhere(errors);
            scram
        }
    }
}

fn without_rules(section: &Section<'_>, problems: &mut Problems) {
    for key in ["ident_file", "roles"] {
        if let Some(field) = section.get(key) {
            problems.add(
                &field.place,
                "only the rules of a hba_file refer to it, and there is none",
            );
        }
    }
}

fn warn_of_rules(rules: &Rules, problems: &mut Problems) {
    for rule in rules.iter() {
        if let Some(map) = rule.map.as_deref().filter(|map| !map.is_empty())
            && !rules.maps.has(map)
        {
            let text = format!(
                "{}: ident_file has no map \"{map}\", so this rule lets nobody in",
                rule.place
            );
            problems.warn(&Place::default(), text);
        }
    }
}

/// `roles: {ROLE: [MEMBER, ...]}`.
fn read_roles(section: &Section<'_>, problems: &mut Problems) -> Roles {
    let Some(field) = section.get("roles") else {
        return Roles::default();
    };
    let mut roles = BTreeMap::new();
    for (name, field) in field.names(problems).iter() {
        let members = field.names_list(problems).unwrap_or_default();
        let members: BTreeSet<String> = members
            .into_iter()
            .map(|(member, _)| member.to_owned())
            .collect();
        roles.insert(name.to_owned(), members);
    }
    Roles(Some(roles))
}

fn backend_users(
    section: &Section<'_>,
    logins: &Logins,
    looked_up: bool,
    problems: &mut Problems,
) -> BTreeMap<String, Stored> {
    // What stands elsewhere is broken: who may log in cannot be told yet.
    if !problems.is_empty() {
        return BTreeMap::new();
    }
    for (user, place) in &logins.disputed {
        let text = format!(
            "{user:?} has different passwords in different databases; say in auth.users which one lets in"
        );
        problems.add(place, text);
    }
    if logins.incomplete && logins.disputed.is_empty() && !looked_up {
        problems.add(
            &section.place,
            "nothing says who may log in: the dsn has no user and password; write them there, or auth.users, auth.users_file, auth.auth_user \
             (or auth.type: trust)",
        );
    }
    if logins.users.len() > 1 {
        problems.warn(
            &section.place,
            "not given: the user of each dsn may log in, and use every database here",
        );
    }
    logins.users.clone()
}

/// `users_file`, and `users` over it.
fn read_users(
    section: &Section<'_>,
    looked_up: bool,
    context: Context<'_>,
    problems: &mut Problems,
) -> BTreeMap<String, Stored> {
    let before = problems.count();
    let file = section.get("users_file");
    let mut users = file
        .map(|field| read_file(&field, context, problems))
        .unwrap_or_default();
    let inline = section.get("users").map(|field| field.names(problems));
    for (name, field) in inline.iter().flat_map(Section::iter) {
        if !is_name(name) {
            problems.add(
                &field.place,
                "not a user name: empty, longer than 127 bytes, or with a zero byte",
            );
        }
        let Some(stored) = read_user(&field, context, problems) else {
            continue;
        };
        if users.insert(name.to_owned(), stored).is_some() {
            problems.warn(&field.place, "also in users_file; the secret here holds");
        }
    }
    let nobody = users.is_empty() && !looked_up && problems.count() == before;
    // Written out, a list without users is a statement.
    if nobody && section.get("users").is_some() {
        problems.warn(&section.place, "no user is listed, so nobody can log in");
    } else if nobody {
        problems.add(
            &section.place,
            "no user is listed, so nobody could log in; add one to users or users_file",
        );
    }
    users
}

fn read_file(
    field: &Field<'_>,
    context: Context<'_>,
    problems: &mut Problems,
) -> BTreeMap<String, Stored> {
    let list = userlist::parse(&context.file(field, problems).unwrap_or_default());
    if let Some(broken) = list.broken {
        problems.add(
            &field.place,
            format!("line {} of that file: {}", broken.line, broken.text),
        );
    }
    list.users
}

/// `name: secret`, or `name: {password: secret}`, or `name: {password_file: path}`.
fn read_user(field: &Field<'_>, context: Context<'_>, problems: &mut Problems) -> Option<Stored> {
    if !field.is_section() && !field.is_null() {
        return field
            .secret(context.outside, problems)
            .map(|secret| Stored::parse(secret.as_bytes()));
    }
    let section = field.section(&["password", "password_file"], problems);
    let before = section.get("password").or(section.get("password_file"));
    if before.is_none() {
        problems.add(
            &field.place,
            "no secret; write NAME: \"secret\", or NAME: {password_file: FILE}",
        );
    }
    read_password(&section, context, problems).map(|secret| Stored::parse(secret.expose()))
}
