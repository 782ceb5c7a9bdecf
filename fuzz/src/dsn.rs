//! Connection strings: no text panics, no error repeats a password, and what was understood means the same when it is
//! written down again in either form.

use aether::config::dsn::{self, Dsn};
use aether::config::{Backend, HostPort};

/// A password that is looked for in errors.
const MARKER: &str = "hunter2hunter2";

/// The property.
pub fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(dsn) = dsn::parse(text) {
        complete(&dsn);
        for written in [as_uri(&dsn.backend), as_pairs(&dsn.backend)] {
            let again = dsn::parse(&written).unwrap_or_else(|error| panic!("{written}: {error}"));
            assert_eq!(again.backend, dsn.backend, "{written}");
        }
    }
    errors_tell_no_password(text);
}

fn complete(dsn: &Dsn) {
    let Backend {
        hosts,
        tls,
        tls_words,
        demands: _,
        database,
        user,
        password,
        parameters,
    } = &dsn.backend;
    assert!(!hosts.is_empty());
    assert!(tls.is_none() && tls_words.values().all(|text| !text.is_empty()));
    for host in hosts {
        match host {
            HostPort::Tcp(name, port) => assert!(!name.is_empty() && *port > 0),
            HostPort::Unix(path) => assert!(path.to_string_lossy().starts_with(['/', '@'])),
        }
    }
    let texts = [database, user]
        .into_iter()
        .flatten()
        .chain(parameters.iter().map(|(_, value)| value));
    for text in texts {
        assert!(!text.is_empty() && !text.contains('\0'));
    }
    assert!(
        password
            .as_ref()
            .is_none_or(|secret| !secret.expose().is_empty() && !secret.expose().contains(&0))
    );
    assert!(parameters.is_sorted());
    assert!(dsn.connect_timeout.is_none_or(|timeout| !timeout.is_zero()));
    assert!(
        dsn.warnings
            .iter()
            .all(|line| !line.chars().any(char::is_control))
    );
}

/// A password with a piece of the text before and behind it, in the places where a password stands.
fn errors_tell_no_password(text: &str) {
    let middle = (0..=text.len() / 2)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    let (before, behind) = text.split_at(middle);
    // What follows there are parameters with names and values of their own, which are told.
    let ends_uri = before.contains('?');
    let ends_pair = before.contains(|c: char| c == '\'' || c.is_whitespace());
    if text.contains(MARKER) {
        return;
    }
    for (written, ended) in [
        (
            format!("postgres://user:{before}{MARKER}{behind}@host/database"),
            ends_uri,
        ),
        (
            format!("postgres://user:{before}{MARKER}{behind}"),
            ends_uri,
        ),
        (
            format!("host=h password={before}{MARKER}{behind}"),
            ends_pair,
        ),
        (
            format!("host=h password='{before}{MARKER}{behind}' user=u"),
            ends_pair,
        ),
    ] {
        if ended {
            continue;
        }
        match dsn::parse(&written) {
            Err(error) => assert!(!error.contains(MARKER), "{written}: {error}"),
            Ok(dsn) => assert!(!format!("{:?}", dsn.backend.password).contains(MARKER)),
        }
    }
}

fn as_uri(backend: &Backend) -> String {
    let hosts: Vec<String> = backend
        .hosts
        .iter()
        .map(|host| match host {
            HostPort::Tcp(name, port) if name.contains(':') => {
                format!("[{}]:{port}", percent(name))
            }
            HostPort::Tcp(name, port) => format!("{}:{port}", percent(name)),
            HostPort::Unix(path) => percent(&path.to_string_lossy()),
        })
        .collect();
    let secret = backend
        .password
        .as_ref()
        .map(|secret| String::from_utf8_lossy(secret.expose()).into_owned());
    let parameters: Vec<String> = backend
        .parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", percent(value)))
        .chain(
            backend
                .tls_words
                .iter()
                .map(|(name, value)| format!("{name}={}", percent(value))),
        )
        .chain(demands(backend).map(|(name, value)| format!("{name}={}", percent(&value))))
        .collect();
    format!(
        "postgres://{}:{}@{}/{}?{}",
        percent(backend.user.as_deref().unwrap_or_default()),
        percent(&secret.unwrap_or_default()),
        hosts.join(","),
        percent(backend.database.as_deref().unwrap_or_default()),
        parameters.join("&")
    )
}

fn demands(backend: &Backend) -> impl Iterator<Item = (&'static str, String)> {
    let demands = &backend.demands;
    let require_auth = demands.require_auth.as_ref();
    let channel_binding = demands.channel_binding.as_str().to_owned();
    [("channel_binding", channel_binding)]
        .into_iter()
        .chain(require_auth.map(|list| ("require_auth", list.as_str().to_owned())))
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn as_pairs(backend: &Backend) -> String {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for host in &backend.hosts {
        match host {
            HostPort::Tcp(name, port) => {
                hosts.push(name.clone());
                ports.push(port.to_string());
            }
            HostPort::Unix(path) => {
                hosts.push(path.to_string_lossy().into_owned());
                ports.push(String::new());
            }
        }
    }
    let secret = backend
        .password
        .as_ref()
        .map(|secret| String::from_utf8_lossy(secret.expose()).into_owned());
    let mut out = String::new();
    let mut pair = |name: &str, value: &str| {
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        out.push_str(&format!("{name} = '{value}' "));
    };
    pair("host", &hosts.join(","));
    pair("port", &ports.join(","));
    pair("user", backend.user.as_deref().unwrap_or_default());
    pair("password", &secret.unwrap_or_default());
    pair("dbname", backend.database.as_deref().unwrap_or_default());
    for (name, value) in &backend.parameters {
        pair(name, value);
    }
    for (name, value) in &backend.tls_words {
        pair(name, value);
    }
    for (name, value) in demands(backend) {
        pair(name, &value);
    }
    out
}
