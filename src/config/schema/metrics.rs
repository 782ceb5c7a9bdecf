//! Section `metrics`: where metrics are told, and to whom.

use super::super::yaml::{Field, Problems, Section};
use super::super::{MetricsConfig, OtlpConfig, Secret, ServerConfig};
use super::{Context, server, tls};
use crate::limits;
use crate::tls::Mode;
use std::rc::Rc;
use std::time::Duration;

/// The keys.
pub(super) const KEYS: [&str; 11] = [
    "listen_addr",
    "unix_socket",
    "tls",
    "bearer_token",
    "required_databases",
    "otlp_endpoint",
    "otlp_ca_file",
    "otlp_interval",
    "otlp_headers",
    "otlp_resource",
    "query_fingerprints",
];
/// The port that the pooler's exporters have made usual.
const PORT: u16 = 9127;

pub(super) fn read(
    section: &Section<'_>,
    server: &ServerConfig,
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
    let (tls_words, tls) = match section.get("tls") {
        Some(field) => {
            let section = field.section(&tls::CLIENT_KEYS, problems);
            let (words, acceptor) = tls::read_clients(&section, context, problems);
            let mode = acceptor.as_ref().map(|acceptor| acceptor.mode());
            let is_written = section.get("mode").is_some();
            let fits = matches!(mode, None | Some(Mode::Require | Mode::VerifyCa));
            if is_written && !fits {
                problems.add(
                    &field.place,
                    "mode: who asks for metrics begins with TLS or without: disable, require, or verify-ca",
                );
            }
            (words, acceptor)
        }
        None => Default::default(),
    };
    let fingerprints = section
        .get("query_fingerprints")
        .and_then(|field| field.count(0..=limits::FINGERPRINTS_MAX, problems));
    MetricsConfig {
        query_fingerprints: usize::try_from(fingerprints.unwrap_or(0)).unwrap_or(0),
        otlp: read_otlp(section, server, context, problems).map(Rc::new),
        tls: tls.map(|acceptor| Rc::new(acceptor.for_http())),
        tls_words,
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

/// The collector to push to.
fn read_otlp(
    section: &Section<'_>,
    server: &ServerConfig,
    context: Context<'_>,
    problems: &mut Problems,
) -> Option<OtlpConfig> {
    let Some(field) = section.get("otlp_endpoint") else {
        for key in [
            "otlp_ca_file",
            "otlp_interval",
            "otlp_headers",
            "otlp_resource",
        ] {
            if let Some(field) = section.get(key) {
                problems.add(
                    &field.place,
                    "nothing is pushed: otlp_endpoint is not given",
                );
            }
        }
        return None;
    };
    let text = field.name(problems)?;
    let Some((is_secure, host, port, path)) = endpoint(text) else {
        problems.add(
            &field.place,
            "expected an address like http://localhost:4318 or https://collector.example:4318/v1/metrics, without user and password",
        );
        return None;
    };
    let ca_file = section.get("otlp_ca_file");
    if let Some(field) = ca_file.as_ref().filter(|_| !is_secure) {
        problems.add(
            &field.place,
            "there is no TLS: otlp_endpoint begins with http://",
        );
    }
    let connector = is_secure.then(|| tls::collector(&field, ca_file.as_ref(), context, problems));
    let interval = section
        .get("otlp_interval")
        .and_then(|field| field.duration_above_zero(problems))
        .unwrap_or(Duration::from_secs(60));
    if interval < Duration::from_secs(1)
        && let Some(field) = section.get("otlp_interval")
    {
        problems.add(&field.place, "expected at least 1s");
    }
    let headers = section
        .get("otlp_headers")
        .map(|field| field.names(problems));
    let mut named = Vec::new();
    for (name, field) in headers.iter().flat_map(Section::iter) {
        let value = field.secret(context.outside, problems);
        let is_token = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        let is_ours = [
            "host",
            "content-type",
            "content-length",
            "transfer-encoding",
            "connection",
        ]
        .iter()
        .any(|ours| name.eq_ignore_ascii_case(ours));
        if name.is_empty() || !name.bytes().all(is_token) || is_ours {
            problems.add(&field.place, "not a header that may be set");
        }
        if let Some(value) = value {
            if value.bytes().any(|c| c != b' ' && !c.is_ascii_graphic()) {
                problems.add(&field.place, "expected letters, digits and signs of ASCII");
            }
            named.push((name.to_owned(), Secret::new(value)));
        }
    }
    Some(OtlpConfig {
        host,
        port,
        path,
        tls: connector.flatten(),
        ca_file: ca_file.and_then(|field| field.text(problems).map(str::to_owned)),
        interval,
        headers: named,
        resource: read_resource(section, server, context, problems),
    })
}

/// Who tells: what is written, and what is known without.
fn read_resource(
    section: &Section<'_>,
    server: &ServerConfig,
    context: Context<'_>,
    problems: &mut Problems,
) -> Vec<(String, String)> {
    let mut all = std::collections::BTreeMap::from([
        ("service.name".to_owned(), "aether".to_owned()),
        (
            "service.version".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        ),
    ]);
    let host = context
        .outside
        .file(std::path::Path::new("/proc/sys/kernel/hostname"));
    let host = host.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let host = host.map(|host| host.trim().to_owned()).unwrap_or_default();
    if !host.is_empty() {
        let port = server.listen.first().map_or(0, std::net::SocketAddr::port);
        all.insert("service.instance.id".to_owned(), format!("{host}:{port}"));
        all.insert("host.name".to_owned(), host);
    }
    let written = section
        .get("otlp_resource")
        .map(|field| field.names(problems));
    for (name, field) in written.iter().flat_map(Section::iter) {
        if let Some(text) = field.text(problems) {
            all.insert(name.to_owned(), text.to_owned());
        }
    }
    all.into_iter().collect()
}

/// Reads `http://HOST[:PORT][/PATH]`: whether it is https, host, port and path.
fn endpoint(text: &str) -> Option<(bool, String, u16, String)> {
    let (is_secure, rest) = match text.split_once("://")? {
        ("http", rest) => (false, rest),
        ("https", rest) => (true, rest),
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = match path {
        "" | "/" => "/v1/metrics",
        path => path,
    };
    let is_sane = |text: &str| text.bytes().all(|c| c.is_ascii_graphic()) && !text.contains('#');
    if authority.contains('@') || !is_sane(authority) || !is_sane(path) {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                port.strip_prefix(':').or((port.is_empty()).then_some(""))?,
            )
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let port = match port {
        "" => 4318,
        port => port.parse().ok().filter(|port| *port > 0)?,
    };
    (!host.is_empty()).then(|| (is_secure, host.to_owned(), port, path.to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_taken_apart() {
        let read = |text| {
            let (is_secure, host, port, path) = endpoint(text)?;
            Some(format!("{is_secure} {host} {port} {path}"))
        };
        let fine = |text| read(text).expect("it is one");
        assert_eq!(fine("http://localhost"), "false localhost 4318 /v1/metrics");
        assert_eq!(
            fine("https://c.example:443/x/y?z"),
            "true c.example 443 /x/y?z"
        );
        assert_eq!(fine("http://[::1]:99/"), "false ::1 99 /v1/metrics");
        for text in [
            "localhost:4318",
            "ftp://a",
            "http://",
            "http://u:p@h",
            "http://a:0",
            "http://a:x",
            "http://[a]",
            "http://[::1]x",
            "http://a/b c",
            "http://a/\r\nX: y",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
