//! Section `users`: modes and limits of single users. Their secrets stand in `auth`.

use std::collections::BTreeMap;

use super::super::yaml::{Field, Problems, Section};
use super::super::{AuthConfig, UserConfig};
use super::is_name;
use super::pool::{CONNECTIONS_MAX, MODES};

/// The keys of an entry.
pub(super) const KEYS: [&str; 3] = ["mode", "max_connections", "max_client_connections"];

/// Reads the section. `roles`: as whom the pools log in; `None` is each client's own role. `looked_up`: users are asked
/// for who are not listed.
pub(super) fn read(
    top: &Section<'_>,
    roles: &[Option<&String>],
    auth: &AuthConfig,
    looked_up: bool,
    problems: &mut Problems,
) -> BTreeMap<String, UserConfig> {
    let mut users = BTreeMap::new();
    let entries = top.get("users").map(|field| field.names(problems));
    for (name, field) in entries.iter().flat_map(Section::iter) {
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
        let user = read_user(&field, problems);
        if !is_role && (user.mode.is_some() || user.max_connections > 0) {
            let text = format!(
                "no pool logs in to a server as {name:?}, so mode and max_connections mean nothing here: they count by the \
                 role on the server, not by the login of the client"
            );
            problems.warn(&field.place, text);
        }
        if !logs_in && user.max_client_connections > 0 {
            let text = format!(
                "{name:?} is not among the users of auth, so max_client_connections means nothing here"
            );
            problems.warn(&field.place, text);
        }
        users.insert(name.to_owned(), user);
    }
    users
}

fn read_user(field: &Field<'_>, problems: &mut Problems) -> UserConfig {
    let section = field.section(&KEYS, problems);
    let mode = section
        .get("mode")
        .and_then(|field| field.word(&MODES, problems));
    let mut count = |key| {
        section
            .get(key)
            .and_then(|field| field.count(0..=CONNECTIONS_MAX, problems))
            .and_then(|count| usize::try_from(count).ok())
            .unwrap_or(0)
    };
    UserConfig {
        mode,
        max_connections: count("max_connections"),
        max_client_connections: count("max_client_connections"),
    }
}
