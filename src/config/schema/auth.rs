//! Section `auth`: who may log in, and how. Checks no password: that is done by the floor above.

use std::collections::BTreeMap;

use super::super::yaml::{Field, Place, Problems, Section};
use super::super::{AuthConfig, AuthMethod, Secret, Stored, userlist};
use super::pool::{Draft, read_password};
use super::{Context, is_name};
use crate::limits::SCRAM_ITERATIONS_MAX;

/// The keys.
pub(super) const KEYS: [&str; 6] = [
    "type",
    "users_file",
    "users",
    "scram_iterations",
    "mock_secret",
    "allow_insecure",
];
const METHODS: [(&str, AuthMethod); 4] = [
    ("trust", AuthMethod::Trust),
    ("password", AuthMethod::Password),
    ("md5", AuthMethod::Md5),
    ("scram-sha-256", AuthMethod::ScramSha256),
];
/// PostgreSQL's own default.
const SCRAM_ITERATIONS: u32 = 4096;

/// The users and passwords of the backends, who are the users when `auth` names none.
pub(super) struct Logins {
    users: BTreeMap<String, Stored>,
    /// Users with a different password in different places.
    disputed: BTreeMap<String, Place>,
    /// Whether a backend has no user and password.
    incomplete: bool,
}

impl Logins {
    pub(super) fn of(drafts: &[&Draft]) -> Logins {
        let mut logins = Logins {
            users: BTreeMap::new(),
            disputed: BTreeMap::new(),
            incomplete: false,
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

/// The section, and `allow_insecure`.
pub(super) fn read(
    section: &Section<'_>,
    logins: &Logins,
    context: Context<'_>,
    problems: &mut Problems,
) -> (AuthConfig, bool) {
    let method = section
        .get("type")
        .and_then(|field| field.word(&METHODS, problems));
    let method = method.unwrap_or(AuthMethod::ScramSha256);
    let named = section.get("users").is_some() || section.get("users_file").is_some();
    let users = match (named, method) {
        (true, _) => read_users(section, context, problems),
        (false, AuthMethod::Trust) => BTreeMap::new(),
        (false, _) => backend_users(section, logins, problems),
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
    let auth = AuthConfig {
        method,
        users,
        anyone: method == AuthMethod::Trust && !named,
        scram_iterations: iterations
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(SCRAM_ITERATIONS),
        mock_secret: mock_secret.map(Secret::new),
    };
    (auth, allow_insecure)
}

fn backend_users(
    section: &Section<'_>,
    logins: &Logins,
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
    if logins.incomplete && logins.disputed.is_empty() {
        problems.add(
            &section.place,
            "nothing says who may log in: the dsn has no user and password; write them there, or auth.users, auth.users_file \
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
    if users.is_empty() && problems.count() == before {
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
