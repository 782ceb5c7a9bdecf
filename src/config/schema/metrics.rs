//! Section `metrics`: where metrics are told, and to whom.

use super::super::yaml::{Field, Problems, Section};
use super::super::{MetricsConfig, Secret};
use super::{Context, server};

/// The keys.
pub(super) const KEYS: [&str; 4] = [
    "listen_addr",
    "unix_socket",
    "bearer_token",
    "required_databases",
];
/// The port that the pooler's exporters have made usual.
const PORT: u16 = 9127;

pub(super) fn read(
    section: &Section<'_>,
    is_database: impl Fn(&str) -> bool,
    context: Context<'_>,
    problems: &mut Problems,
) -> MetricsConfig {
    let listen = section
        .get("listen_addr")
        .and_then(|field| server::read_addresses(&field, PORT, true, problems))
        .unwrap_or_default();
    let bearer_token = section.get("bearer_token").and_then(|field| {
        let text = field.secret(context.outside, problems)?;
        if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            problems.add(
                &field.place,
                "a token goes through HTTP: letters, digits and signs of ASCII, no blanks",
            );
        }
        Some(Secret::new(text))
    });
    if bearer_token.is_none()
        && let Some(field) = section.get("listen_addr")
        && listen.iter().any(|at| !at.ip().is_loopback())
    {
        problems.warn(
            &field.place,
            "other machines may read the names of databases and users here; set bearer_token to ask for one",
        );
    }
    MetricsConfig {
        listen,
        unix_socket: section
            .get("unix_socket")
            .and_then(|field| read_socket(&field, problems)),
        bearer_token,
        required_databases: section
            .get("required_databases")
            .and_then(|field| read_required(&field, is_database, problems)),
    }
}

fn read_socket(field: &Field<'_>, problems: &mut Problems) -> Option<String> {
    let path = field.name(problems)?;
    if !path.starts_with('/') || path.ends_with('/') {
        problems.add(
            &field.place,
            "expected the absolute path of a socket, as /run/aether/metrics",
        );
    }
    if path.len() > server::SOCKET_NAME_MAX {
        let max = server::SOCKET_NAME_MAX;
        problems.add(
            &field.place,
            format!("the path is too long (maximum {max} bytes)"),
        );
    }
    Some(path.to_owned())
}

fn read_required(
    field: &Field<'_>,
    is_database: impl Fn(&str) -> bool,
    problems: &mut Problems,
) -> Option<Vec<String>> {
    let names = field.names_list(problems)?;
    for (name, place) in &names {
        if !is_database(name) {
            problems.add(place, format!("{name:?} is not among the databases"));
        }
    }
    Some(names.into_iter().map(|(name, _)| name.to_owned()).collect())
}
