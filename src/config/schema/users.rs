//! Section `users`: modes and limits of single users. Their secrets stand in `auth`.

use std::collections::BTreeMap;

use super::super::yaml::{Field, Problems, Section};
use super::super::{AuthConfig, UserConfig};
use super::is_name;
use super::pool::{CONNECTIONS_MAX, MODES};

/// The keys of an entry.
pub(super) const KEYS: [&str; 10] = [
    "mode",
    "max_connections",
    "max_client_connections",
    "pool_size",
    "reserve_pool_size",
    "query_timeout",
    "transaction_timeout",
    "idle_transaction_timeout",
    "client_idle_timeout",
    "acquire_timeout",
];
/// The entry that the others inherit from, and that holds for users who have none.
const ALL: &str = "*";

/// Reads the section. `roles`: as whom the pools log in; `None` is each client's own role. `looked_up`: users are asked
/// for who are not listed.
pub(super) fn read(
    top: &Section<'_>,
    roles: &[Option<&String>],
    auth: &AuthConfig,
    looked_up: bool,
    problems: &mut Problems,
) -> (BTreeMap<String, UserConfig>, UserConfig) {
    let mut users = BTreeMap::new();
    let entries = top.get("users").map(|field| field.names(problems));
    let all = entries.iter().flat_map(Section::iter);
    let defaults = all.filter(|(name, _)| *name == ALL).last();
    let none = UserConfig::default();
    let defaults = defaults.map_or(none, |(_, field)| read_user(&field, none, problems));
    let others = entries.iter().flat_map(Section::iter);
    for (name, field) in others.filter(|(name, _)| *name != ALL) {
        if !is_name(name) {
            problems.add(
                &field.place,
                "not a user name: empty, longer than 127 bytes, or with a zero byte",
            );
            continue;
        }
        let logs_in = auth.anyone || looked_up || auth.users.contains_key(name);
        let is_role = roles
            .iter()
            .any(|role| role.map_or(logs_in, |role| role == name));
        let user = read_user(&field, defaults, problems);
        let own = read_user(&field, none, &mut Problems::default());
        if !is_role && (own.mode.is_some() || own.max_connections > 0 || own.pool_size.is_some()) {
            let text = format!(
                "no pool logs in to a server as {name:?}, so mode and max_connections mean nothing here: they count by the \
                 role on the server, not by the login of the client"
            );
            problems.warn(&field.place, text);
        }
        if !logs_in && own.max_client_connections > 0 {
            let text = format!(
                "{name:?} is not among the users of auth, so max_client_connections means nothing here"
            );
            problems.warn(&field.place, text);
        }
        users.insert(name.to_owned(), user);
    }
    (users, defaults)
}

/// `inherited`: what holds where nothing is written.
fn read_user(field: &Field<'_>, inherited: UserConfig, problems: &mut Problems) -> UserConfig {
    let section = field.section(&KEYS, problems);
    let mode = section
        .get("mode")
        .and_then(|field| field.word(&MODES, problems));
    let mut size = |key, inherited: Option<usize>| {
        let read = section.get(key);
        let read = read.and_then(|field| field.count(0..=CONNECTIONS_MAX, problems));
        read.and_then(|count| usize::try_from(count).ok())
            .or(inherited)
    };
    let pool_size = size("pool_size", inherited.pool_size);
    let reserve_pool_size = size("reserve_pool_size", inherited.reserve_pool_size);
    let mut count = |key, inherited| size(key, Some(inherited)).unwrap_or(inherited);
    let mut user = UserConfig {
        mode: mode.or(inherited.mode),
        max_connections: count("max_connections", inherited.max_connections),
        max_client_connections: count("max_client_connections", inherited.max_client_connections),
        pool_size,
        reserve_pool_size,
        timeouts: inherited.timeouts,
    };
    for (key, target) in user.timeouts.by_key() {
        let read = section.get(key).and_then(|field| field.duration(problems));
        *target = read.or(*target);
    }
    user
}
