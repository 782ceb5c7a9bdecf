//! libpq's connection strings: `postgres://user:password@host:port,host/database?key=value`, and the `key=value` form.
//!
//! Owns libpq's keys: which of them mean something to a pooler, which are harmless, and which must be refused because
//! ignoring them would break a promise. Reads no environment, no files, resolves no names. No error text ever holds a
//! password, nor a piece of the string that might be one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Backend, ChannelBinding, Demands, HostPort, RequireAuth, Secret, TlsWords, nearest};

/// Where libpq of Debian and most others looks for a server's Unix socket.
pub const SOCKET_DIRECTORY: &str = "/var/run/postgresql";
/// PostgreSQL's port.
pub const PORT: u16 = 5432;

/// A connection string, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dsn {
    /// Where the servers are and as whom to log in.
    pub backend: Backend,
    /// `connect_timeout`; `None` when it was not given or given as 0, libpq's "for ever".
    pub connect_timeout: Option<Duration>,
    /// What was accepted and has no effect, one line each.
    pub warnings: Vec<String>,
}

/// Reads a connection string of either form.
///
/// # Errors
/// One line that says what is wrong and what would be right, without the password.
pub fn parse(text: &str) -> Result<Dsn, String> {
    let text = text.trim();
    if text.contains('\0') {
        return Err("a zero byte in the connection string".to_owned());
    }
    let mut parameters = Parameters::default();
    if let Some(rest) = text
        .strip_prefix("postgres://")
        .or_else(|| text.strip_prefix("postgresql://"))
    {
        read_uri(rest, &mut parameters)?;
    } else if has_scheme(text) {
        return Err("unknown scheme; expected postgres:// or postgresql://".to_owned());
    } else if text.contains('=') {
        read_pairs(text, &mut parameters)?;
    } else {
        return Err(
            "no connection string; expected postgres://user:password@host:5432/database".to_owned(),
        );
    }
    lower(parameters)
}

/// Whether a text is some URI: a word and `://` (a value of the `key=value` form may hold that, too).
fn has_scheme(text: &str) -> bool {
    text.split_once("://")
        .is_some_and(|(scheme, _)| !scheme.contains(|c: char| c == '=' || c.is_whitespace()))
}

/// The hosts of libpq's `host` and `port` lists: a name, an address, a socket directory; empty is the default one.
///
/// # Errors
/// A list of ports that fits neither one nor all hosts, a port that is none, a host that cannot be one.
pub fn hosts(hosts: &str, ports: &str) -> Result<Vec<HostPort>, String> {
    let hosts: Vec<&str> = hosts.split(',').collect();
    let ports: Vec<&str> = ports.split(',').collect();
    if ports.len() != 1 && ports.len() != hosts.len() {
        return Err(format!(
            "{} ports for {} hosts; give one port, or one for each",
            ports.len(),
            hosts.len()
        ));
    }
    let port_of = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or("");
    hosts
        .iter()
        .enumerate()
        .map(|(index, host)| host_port(host, port(port_of(index))?))
        .collect()
}

/// One host of a backend: the path of a socket directory or of a socket itself, an abstract one behind `@`, a name, or an address.
///
/// # Errors
/// Characters that no host has. The text itself is not repeated.
pub fn host_port(host: &str, port: u16) -> Result<HostPort, String> {
    let host = if host.is_empty() {
        SOCKET_DIRECTORY
    } else {
        host
    };
    if host.contains('\0') {
        return Err("a zero byte in a host".to_owned());
    }
    if host.starts_with(['/', '@']) {
        return Ok(HostPort::Unix(socket_file(host, port)));
    }
    let strange = |c: char| c.is_whitespace() || c.is_control() || "@/?#[],${}".contains(c);
    let without_zone = host.split('%').next().unwrap_or(host);
    let address = without_zone.parse::<std::net::Ipv6Addr>().is_ok();
    if host.contains(strange) || (host.contains(':') && !address) {
        return Err("a host contains characters that no host name has; percent-encode '@', ':', '/' and '?' in user and \
                    password (%40 %3A %2F %3F), and write IPv6 addresses in brackets"
            .to_owned());
    }
    Ok(HostPort::Tcp(host.to_owned(), port))
}

fn socket_file(path: &str, port: u16) -> PathBuf {
    let path = PathBuf::from(path);
    let is_file = path
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(".s.PGSQL."));
    if is_file {
        path
    } else {
        path.join(format!(".s.PGSQL.{port}"))
    }
}

/// A port; the empty text is PostgreSQL's.
fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        _ if text.is_empty() => Ok(PORT),
        Ok(number) if number > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        // Not quoted: behind an unencoded '@' or '/' this may be a piece of a password.
        _ => Err("a port is not a number from 1 to 65535 (if it is part of a password, percent-encode '/' as %2F)".to_owned()),
    }
}

/// libpq's keywords and their values as they were written, percent-encoding removed; a later one wins.
#[derive(Default)]
struct Parameters(BTreeMap<&'static str, Zeroed>);

/// Any value may turn out to be the password.
type Zeroed = zeroize::Zeroizing<String>;

impl Parameters {
    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        let value = Zeroed::new(value);
        let (key, value) = match (key, value.as_str()) {
            // JDBC's way, which libpq takes too.
            ("ssl", "true") => ("sslmode", Zeroed::new("require".to_owned())),
            ("ssl", "false") => ("sslmode", Zeroed::new("disable".to_owned())),
            _ => (key, value),
        };
        let known = KEYS.iter().find(|(name, _)| *name == key);
        let Some((name, _)) = known else {
            return Err(self.unknown(key));
        };
        self.0.insert(name, value);
        Ok(())
    }

    fn unknown(&self, key: &str) -> String {
        if self.0.contains_key("password") {
            return "unknown parameter after the password; percent-encode '&' in it as %26"
                .to_owned();
        }
        // Perhaps no name at all, but a piece of a broken URI.
        if !key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        {
            return "a parameter's name is no word; expected postgres://user:password@host/database, or key=value".to_owned();
        }
        let names = KEYS.iter().map(|(name, _)| *name);
        match nearest(key, names) {
            Some(name) => format!("unknown parameter; did you mean \"{name}\"?"),
            None if key.starts_with("pass") => {
                "an unknown parameter begins with pass; did you mean password=...?".to_owned()
            }
            None => {
                "unknown parameter; a setting of PostgreSQL goes into options=-c%20name%3Dvalue \
                     (if it is part of a password, percent-encode '/', '?', '&' and '=' in it)"
                    .to_owned()
            }
        }
    }

    /// A value that is there and not empty; libpq takes an empty one for none.
    fn get(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(|value| value.as_str())
            .filter(|value| !value.is_empty())
    }
}

/// What becomes of a libpq keyword.
#[derive(Clone, Copy)]
enum Fate {
    /// It means something here.
    Used,
    /// Only these values (or none) can be honoured; the text says why others cannot.
    Only(&'static [&'static str], &'static str),
    /// Without effect, and no promise is broken by it: a warning.
    Ignored(&'static str),
    /// Not to be ignored.
    Refused(&'static str),
}

const KEEPALIVE: &str = "Aether sets TCP keepalive itself";
const NO_GSS: &str = "GSSAPI is not available";
const NO_FILE: &str = "only password and password_file are read";

/// All keywords of libpq 18.
#[rustfmt::skip]
const KEYS: [(&str, Fate); 56] = [
    ("host", Fate::Used), ("hostaddr", Fate::Used), ("port", Fate::Used), ("dbname", Fate::Used),
    ("user", Fate::Used), ("password", Fate::Used), ("connect_timeout", Fate::Used),
    ("client_encoding", Fate::Used), ("options", Fate::Used), ("application_name", Fate::Used),
    ("fallback_application_name", Fate::Used),
    ("sslmode", Fate::Used), ("sslnegotiation", Fate::Used), ("sslrootcert", Fate::Used), ("sslcrl", Fate::Used),
    ("sslcert", Fate::Used), ("sslkey", Fate::Used), ("sslcertmode", Fate::Used), ("sslsni", Fate::Used),
    ("ssl_min_protocol_version", Fate::Used), ("ssl_max_protocol_version", Fate::Used),
    ("requiressl", Fate::Only(&["0"], "write sslmode=require")),
    ("sslpassword", Fate::Refused("decrypt the key: openssl pkey -in OLD -out NEW")),
    ("sslcrldir", Fate::Refused("put the lists into one file, sslcrl")),
    ("sslcompression", Fate::Ignored("TLS does not compress")),
    ("sslkeylogfile", Fate::Ignored("keys are not written anywhere")),
    ("channel_binding", Fate::Used), ("require_auth", Fate::Used),
    ("gssencmode", Fate::Only(&["disable", "prefer"], NO_GSS)),
    ("target_session_attrs", Fate::Only(&["any"], "Aether takes the first host that answers")),
    ("load_balance_hosts", Fate::Only(&["disable"], "Aether tries the hosts in order")),
    ("replication", Fate::Only(&["false", "off", "no", "0"], "the servers of a pool are ordinary sessions")),
    ("min_protocol_version", Fate::Only(&["3.0"], "the protocol version follows each client")),
    ("max_protocol_version", Fate::Ignored("the protocol version follows each client")),
    ("keepalives", Fate::Ignored(KEEPALIVE)), ("keepalives_idle", Fate::Ignored(KEEPALIVE)),
    ("keepalives_interval", Fate::Ignored(KEEPALIVE)), ("keepalives_count", Fate::Ignored(KEEPALIVE)),
    ("tcp_user_timeout", Fate::Ignored(KEEPALIVE)),
    ("krbsrvname", Fate::Ignored(NO_GSS)), ("gsslib", Fate::Ignored(NO_GSS)), ("gssdelegation", Fate::Ignored(NO_GSS)),
    ("authtype", Fate::Ignored("libpq ignores it as well")), ("tty", Fate::Ignored("libpq ignores it as well")),
    ("passfile", Fate::Refused(NO_FILE)), ("service", Fate::Refused(NO_FILE)), ("servicefile", Fate::Refused(NO_FILE)),
    ("requirepeer", Fate::Refused("Aether cannot hold this promise")),
    ("scram_client_key", Fate::Refused("give the password")), ("scram_server_key", Fate::Refused("give the password")),
    ("oauth_issuer", Fate::Refused("OAuth is not available")), ("oauth_client_id", Fate::Refused("OAuth is not available")),
    ("oauth_client_secret", Fate::Refused("OAuth is not available")), ("oauth_scope", Fate::Refused("OAuth is not available")),
    ("oauth_ca_file", Fate::Refused("OAuth is not available")),
    ("ssl", Fate::Only(&[], "write sslmode=disable")),
];

/// Words of libpq that may be repeated where they are refused.
const REFUSED_VALUES: [&str; 18] = [
    "require",
    "verify-ca",
    "verify-full",
    "direct",
    "read-write",
    "read-only",
    "primary",
    "standby",
    "prefer-standby",
    "random",
    "true",
    "on",
    "yes",
    "1",
    "database",
    "3.2",
    "latest",
    "false",
];

/// Splits what follows `postgres://` as libpq does: the first `@` before the first `/` ends user and password.
fn read_uri(rest: &str, parameters: &mut Parameters) -> Result<(), String> {
    let stop = rest.find(['@', '/']).unwrap_or(rest.len());
    let (login, rest) = match rest.split_at(stop) {
        (login, at) if at.starts_with('@') => (Some(login), at.get(1..).unwrap_or_default()),
        _ => (None, rest),
    };
    let (path, query) = rest
        .split_once('?')
        .map_or((rest, None), |(path, query)| (path, Some(query)));
    if path.contains('@') {
        return Err(
            "an '@' behind the host: percent-encode '@' as %40 and '/' as %2F in user and password"
                .to_owned(),
        );
    }
    if let Some(login) = login {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        parameters.set("user", decoded(user, "the user")?)?;
        parameters.set("password", decoded(password, "the password")?)?;
    }
    let (authority, database) = path.split_once('/').unwrap_or((path, ""));
    read_authority(authority, parameters)?;
    parameters.set("dbname", decoded(database, "the database")?)?;
    query.map_or(Ok(()), |query| read_query(query, parameters))
}

/// `host:port,[v6]:port`. An empty part of a list stays in it: it means the default.
fn read_authority(text: &str, parameters: &mut Parameters) -> Result<(), String> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for part in text.split(',') {
        let (host, port) = split_host(part)?;
        let host = decoded(host, "a host")?;
        if host.contains(',') {
            return Err("a comma inside of a host".to_owned());
        }
        hosts.push(host);
        ports.push(decoded(port, "a port")?);
    }
    parameters.set("host", hosts.join(","))?;
    parameters.set("port", ports.join(","))
}

/// A host (IPv6 without its brackets) and the text of its port, which may be empty.
fn split_host(part: &str) -> Result<(&str, &str), String> {
    let Some(inside) = part.strip_prefix('[') else {
        return Ok(part.split_once(':').unwrap_or((part, "")));
    };
    let (host, rest) = inside
        .split_once(']')
        .ok_or("an IPv6 address has no closing bracket")?;
    if host.is_empty() {
        return Err("nothing between the brackets of an IPv6 address".to_owned());
    }
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if rest.is_empty() => Ok((host, "")),
        None => Err(
            "after the bracket of an IPv6 address: expected ':' and a port, or the end".to_owned(),
        ),
    }
}

fn read_query(query: &str, parameters: &mut Parameters) -> Result<(), String> {
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or("a parameter behind '?' has no '='; expected key=value")?;
        let key = decoded(key, "a parameter's name")?;
        parameters.set(&key, decoded(value, "a parameter's value")?)?;
    }
    Ok(())
}

/// Takes percent-encoding away. A '+' is a '+'.
fn decoded(text: &str, what: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let mut byte = *first;
        if byte == b'%' {
            let [high, low, tail @ ..] = tail else {
                return Err(bad_percent(what));
            };
            byte = hex(*high, *low).ok_or_else(|| bad_percent(what))?;
            rest = tail;
        }
        bytes.push(byte);
    }
    if bytes.contains(&0) {
        return Err(format!("%00 in {what}"));
    }
    String::from_utf8(bytes).map_err(|_| format!("{what} is not UTF-8 after percent-decoding"))
}

fn bad_percent(what: &str) -> String {
    format!("'%' in {what} is not followed by two hexadecimal digits; a '%' itself is %25")
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// libpq's other form: `key = value key='quoted \' value'`.
fn read_pairs(text: &str, parameters: &mut Parameters) -> Result<(), String> {
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or("a word without '='; expected key=value, or key='a value'")?;
        let key = key.trim_end();
        if key.contains(char::is_whitespace) {
            return Err(
                "a word without '='; expected key=value, or key='a value' where it has blanks"
                    .to_owned(),
            );
        }
        let (value, tail) = pair_value(after.trim_start())?;
        parameters.set(key, value)?;
        rest = tail.trim_start();
    }
    Ok(())
}

/// One value, quoted or not, a backslash escaping the next character; and what follows it.
fn pair_value(text: &str) -> Result<(String, &str), String> {
    let (quoted, body) = text
        .strip_prefix('\'')
        .map_or((false, text), |body| (true, body));
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, body.get(at + 1..).unwrap_or_default())),
            c if !quoted && c.is_whitespace() => {
                return Ok((value, body.get(at..).unwrap_or_default()));
            }
            c => value.push(c),
        }
    }
    if quoted {
        Err("a quoted value has no closing quote".to_owned())
    } else {
        Ok((value, ""))
    }
}

fn lower(parameters: Parameters) -> Result<Dsn, String> {
    let mut warnings = judge(&parameters)?;
    let connect_timeout = connect_timeout(&parameters, &mut warnings)?;
    let backend = Backend {
        hosts: all_hosts(&parameters)?,
        tls: None,
        tls_words: tls_words(&parameters),
        demands: demands(&parameters)?,
        database: parameters.get("dbname").map(str::to_owned),
        user: parameters.get("user").map(str::to_owned),
        password: parameters.get("password").map(Secret::new),
        parameters: startup(&parameters, &mut warnings),
    };
    Ok(Dsn {
        backend,
        connect_timeout,
        warnings,
    })
}

fn demands(parameters: &Parameters) -> Result<Demands, String> {
    let require_auth = parameters.get("require_auth").map(RequireAuth::parse);
    let channel_binding = parameters.get("channel_binding").map(ChannelBinding::parse);
    Ok(Demands {
        require_auth: require_auth.transpose()?,
        channel_binding: channel_binding.transpose()?.unwrap_or_default(),
    })
}

/// The keywords about TLS, for who knows files.
fn tls_words(parameters: &Parameters) -> TlsWords {
    let about_tls = |(name, fate): &(&'static str, Fate)| {
        let wanted = name.starts_with("ssl") && matches!(fate, Fate::Used);
        Some((*name, parameters.get(name).filter(|_| wanted)?.to_owned()))
    };
    KEYS.iter().filter_map(about_tls).collect()
}

/// Refuses what cannot be honoured and collects what has no effect.
fn judge(parameters: &Parameters) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    for (name, fate) in KEYS {
        let Some(value) = parameters.get(name) else {
            continue;
        };
        match fate {
            Fate::Used => {}
            Fate::Ignored(why) => warnings.push(format!("\"{name}\" is ignored: {why}")),
            Fate::Refused(why) => return Err(format!("\"{name}\" is not supported: {why}")),
            Fate::Only(accepted, _) if accepted.contains(&value) => {}
            Fate::Only(accepted, why) => {
                // Behind an unencoded '/' or '?' any other text may be a piece of a password.
                let shown = REFUSED_VALUES.iter().find(|known| **known == value);
                return Err(format!(
                    "{name}={} is not supported: {why} (accepted: {})",
                    shown.unwrap_or(&"(not shown)"),
                    accepted.join(", ")
                ));
            }
        }
    }
    if parameters.get("sslmode") == Some("verify-full")
        && parameters
            .get("host")
            .is_some_and(|host| host.contains(|c: char| c != ','))
        && parameters.get("hostaddr").is_some()
    {
        return Err(
            "sslmode=verify-full needs the name of the host that the certificate is for; leave hostaddr out"
                .to_owned(),
        );
    }
    Ok(warnings)
}

fn connect_timeout(
    parameters: &Parameters,
    warnings: &mut Vec<String>,
) -> Result<Option<Duration>, String> {
    let Some(text) = parameters.get("connect_timeout") else {
        return Ok(None);
    };
    let Ok(seconds) = text.trim().parse::<i32>() else {
        return Err("connect_timeout is not a whole number of seconds".to_owned());
    };
    match u64::try_from(seconds) {
        Ok(seconds @ 1..) => Ok(Some(Duration::from_secs(seconds))),
        _ => {
            warnings.push(
                "connect_timeout=0 (no limit) is ignored: an attempt always has a limit here"
                    .to_owned(),
            );
            Ok(None)
        }
    }
}

/// `hostaddr` stands in for `host`, as in libpq: the name beside it would only matter to TLS and GSSAPI.
fn all_hosts(parameters: &Parameters) -> Result<Vec<HostPort>, String> {
    let names = parameters.get("host").unwrap_or("");
    let ports = parameters.get("port").unwrap_or("");
    let Some(addresses) = parameters.get("hostaddr") else {
        return hosts(names, ports);
    };
    let count = addresses.split(',').count();
    if !names.is_empty() && names.split(',').count() != count {
        return Err("hostaddr and host have a different number of entries".to_owned());
    }
    // An empty hostaddr in a list means: look the name up.
    let mut merged = Vec::with_capacity(count);
    for (index, address) in addresses.split(',').enumerate() {
        if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
            return Err("hostaddr is not a list of IP addresses".to_owned());
        }
        let name = names.split(',').nth(index).unwrap_or("");
        merged.push(if address.is_empty() { name } else { address });
    }
    hosts(&merged.join(","), ports)
}

/// The startup parameters among the keys, sorted by name.
fn startup(parameters: &Parameters, warnings: &mut Vec<String>) -> Vec<(String, String)> {
    let mut encoding = parameters.get("client_encoding");
    if encoding == Some("auto") {
        warnings
            .push("client_encoding=auto is ignored: a pooler has no locale of its own".to_owned());
        encoding = None;
    }
    let application = parameters
        .get("application_name")
        .or(parameters.get("fallback_application_name"));
    let options = parameters.get("options");
    [
        ("application_name", application),
        ("client_encoding", encoding),
        ("options", options),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> Dsn {
        parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn error(text: &str) -> String {
        parse(text).expect_err(text)
    }

    fn shown(dsn: &Dsn) -> Vec<String> {
        dsn.backend.hosts.iter().map(ToString::to_string).collect()
    }

    fn hosts_of(text: &str) -> Vec<String> {
        shown(&ok(text))
    }

    fn parameter(dsn: &Dsn, name: &str) -> Option<String> {
        dsn.backend
            .parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    }

    #[test]
    fn the_dsn_of_the_issue() {
        let dsn = ok("postgres://username:password@localhost:5432/database?sslmode=disable");
        assert_eq!(shown(&dsn), ["localhost:5432"]);
        assert_eq!(dsn.backend.database.as_deref(), Some("database"));
        assert_eq!(dsn.backend.user.as_deref(), Some("username"));
        assert_eq!(dsn.backend.password, Some(Secret::new("password")));
        assert!(dsn.warnings.is_empty() && dsn.backend.parameters.is_empty());
        assert_eq!(dsn.connect_timeout, None);
    }

    #[test]
    fn percent_encoding_is_taken_away_everywhere() {
        let dsn =
            ok("postgresql://us%40er:p%3A%2F%40ss%25@h%6Fst/d%20b%2F?application_name=a%26b+c");
        assert_eq!(dsn.backend.user.as_deref(), Some("us@er"));
        assert_eq!(dsn.backend.password, Some(Secret::new("p:/@ss%")));
        assert_eq!(shown(&dsn), ["host:5432"]);
        assert_eq!(dsn.backend.database.as_deref(), Some("d b/"));
        assert_eq!(
            parameter(&dsn, "application_name").as_deref(),
            Some("a&b+c")
        );
        assert_eq!(
            ok("postgres://h/?p%61ssword=x").backend.password,
            Some(Secret::new("x"))
        );
    }

    #[test]
    fn unix_sockets_by_empty_host_by_encoded_host_and_by_parameter() {
        assert_eq!(
            hosts_of("postgres:///db"),
            ["/var/run/postgresql/.s.PGSQL.5432"]
        );
        assert_eq!(
            hosts_of("postgres://u@/db"),
            ["/var/run/postgresql/.s.PGSQL.5432"]
        );
        assert_eq!(
            hosts_of("postgres://u@:5433/db"),
            ["/var/run/postgresql/.s.PGSQL.5433"]
        );
        assert_eq!(
            hosts_of("postgres://%2Ftmp%2Fpg:5433/db"),
            ["/tmp/pg/.s.PGSQL.5433"]
        );
        assert_eq!(
            hosts_of("postgres:///db?host=/tmp/pg&port=5433"),
            ["/tmp/pg/.s.PGSQL.5433"]
        );
        assert_eq!(
            hosts_of("postgres:///db?host=/tmp/.s.PGSQL.7"),
            ["/tmp/.s.PGSQL.7"]
        );
        assert_eq!(
            hosts_of("postgres:///db?host=@abstract&port=7"),
            ["@abstract/.s.PGSQL.7"]
        );
        assert_eq!(hosts_of("host=@a,h"), ["@a/.s.PGSQL.5432", "h:5432"]);
    }

    #[test]
    fn several_hosts_with_their_ports() {
        assert_eq!(
            hosts_of("postgres://h1:5433,h2:5434/db"),
            ["h1:5433", "h2:5434"]
        );
        assert_eq!(hosts_of("postgres://h1,h2:5434/db"), ["h1:5432", "h2:5434"]);
        assert_eq!(hosts_of("postgres://h1,h2/db?port=7"), ["h1:7", "h2:7"]);
        assert_eq!(
            hosts_of("postgres:///db?host=h1,/s,h3&port=1,2,3"),
            ["h1:1", "/s/.s.PGSQL.2", "h3:3"]
        );
        assert!(error("postgres:///db?host=h1,h2,h3&port=1,2").contains("2 ports for 3 hosts"));
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets() {
        assert_eq!(hosts_of("postgres://[::1]:5433/db"), ["[::1]:5433"]);
        assert_eq!(
            hosts_of("postgres://[::1],[fe80::1]:1/db"),
            ["[::1]:5432", "[fe80::1]:1"]
        );
        assert_eq!(hosts_of("host=::1 port=5"), ["[::1]:5"]);
        for text in [
            "postgres://[::1/db",
            "postgres://[]/db",
            "postgres://[::1]x/db",
            "postgres://::1/db",
        ] {
            error(text);
        }
    }

    #[test]
    fn hostaddr_stands_in_for_host() {
        assert_eq!(
            hosts_of("host=a,b hostaddr=10.0.0.1,"),
            ["10.0.0.1:5432", "b:5432"]
        );
        assert!(error("host=a,b hostaddr=10.0.0.1").contains("different number"));
        assert!(error("hostaddr=nowhere").contains("IP addresses"));
    }

    #[test]
    fn login_and_database_may_be_parameters_and_the_later_wins() {
        let dsn = ok("postgres://a:b@h/c?user=u&password=p&dbname=d");
        assert_eq!(dsn.backend.user.as_deref(), Some("u"));
        assert_eq!(dsn.backend.password, Some(Secret::new("p")));
        assert_eq!(dsn.backend.database.as_deref(), Some("d"));
        let none = ok("postgres://:@h/");
        assert_eq!(
            (
                none.backend.user,
                none.backend.password,
                none.backend.database
            ),
            (None, None, None)
        );
    }

    #[test]
    fn what_is_said_of_tls_is_handed_on_as_it_is_written() {
        let words = ok(
            "postgres://h/d?ssl=true&sslrootcert=ca.crt&sslsni=0&ssl_min_protocol_version=TLSv1.3",
        )
        .backend
        .tls_words;
        let words: Vec<(&str, &str)> = words
            .iter()
            .map(|(key, text)| (*key, text.as_str()))
            .collect();
        assert_eq!(
            words,
            [
                ("ssl_min_protocol_version", "TLSv1.3"),
                ("sslmode", "require"),
                ("sslrootcert", "ca.crt"),
                ("sslsni", "0")
            ]
        );
        assert!(
            error("host=h hostaddr=10.0.0.1 sslmode=verify-full").contains("leave hostaddr out")
        );
        ok("hostaddr=10.0.0.1 sslmode=verify-full");
        assert!(error("postgres://h/d?sslpassword=x").contains("openssl pkey"));
    }

    #[test]
    fn startup_parameters_are_kept_sorted() {
        let dsn = ok(
            "postgres://h/d?options=-c%20a%3Db&fallback_application_name=f&client_encoding=UTF8",
        );
        let names: Vec<&str> = dsn
            .backend
            .parameters
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["application_name", "client_encoding", "options"]);
        assert_eq!(parameter(&dsn, "options").as_deref(), Some("-c a=b"));
        assert_eq!(parameter(&dsn, "application_name").as_deref(), Some("f"));
        let both = ok(
            "postgres://h/d?application_name=a&fallback_application_name=f&client_encoding=auto",
        );
        assert_eq!(parameter(&both, "application_name").as_deref(), Some("a"));
        assert_eq!(both.warnings.len(), 1);
    }

    #[test]
    fn connect_timeout_is_in_seconds_and_never_for_ever() {
        assert_eq!(
            ok("postgres://h/d?connect_timeout=7").connect_timeout,
            Some(Duration::from_secs(7))
        );
        for none in ["0", "-1"] {
            let dsn = ok(&format!("postgres://h/d?connect_timeout={none}"));
            assert_eq!((dsn.connect_timeout, dsn.warnings.len()), (None, 1));
        }
        assert!(error("postgres://h/d?connect_timeout=7s").contains("whole number of seconds"));
    }

    #[test]
    fn harmless_keys_are_warned_of_and_promises_refused() {
        let dsn = ok(
            "postgres://h/d?keepalives_idle=5&tcp_user_timeout=1&sslcompression=0&gssencmode=disable&target_session_attrs=any",
        );
        assert_eq!(dsn.warnings.len(), 3, "{:?}", dsn.warnings);
        for refused in [
            "target_session_attrs=primary",
            "gssencmode=require",
            "requirepeer=postgres",
            "load_balance_hosts=random",
            "service=x",
            "passfile=y",
            "replication=database",
        ] {
            assert!(
                error(&format!("postgres://h/d?{refused}")).contains("is not supported"),
                "{refused}"
            );
        }
    }

    #[test]
    fn what_a_server_has_to_show_is_libpqs_to_say() {
        let demands =
            |parameters: &str| ok(&format!("postgres://h/d?{parameters}")).backend.demands;
        assert_eq!(demands(""), Demands::default());
        let both = demands("require_auth=scram-sha-256,none&channel_binding=require");
        assert_eq!(both.channel_binding, ChannelBinding::Require);
        let list = both.require_auth.expect("a list");
        assert_eq!(list.as_str(), "scram-sha-256,none");
        assert!(error("postgres://h/d?require_auth=md5,md5").contains("more than once"));
        assert!(error("postgres://h/d?channel_binding=on").contains("disable, prefer, require"));
    }

    #[test]
    fn a_word_of_libpq_that_is_refused_is_repeated() {
        assert!(error("postgres://h/d?replication=database").contains("replication=database is"));
    }

    #[test]
    fn an_unknown_key_is_told_its_nearest_name() {
        assert!(
            error("postgres://h/d?aplication_name=x")
                .contains("did you mean \"application_name\"?")
        );
        assert!(error("postgres://h/d?ssl_mode=x").contains("did you mean \"sslmode\"?"));
        assert!(error("postgres://h/d?search_path=x").contains("options=-c%20name%3Dvalue"));
    }

    #[test]
    fn the_keyword_form_is_read_too() {
        let dsn = ok(r"host = h port=5433 user='a b' password='it\'s \\' dbname=x\ y");
        assert_eq!(shown(&dsn), ["h:5433"]);
        assert_eq!(dsn.backend.user.as_deref(), Some("a b"));
        assert_eq!(dsn.backend.password, Some(Secret::new(r"it's \")));
        assert_eq!(dsn.backend.database.as_deref(), Some("x y"));
        let dsn = ok("host=h user=u password=a://b");
        assert_eq!(dsn.backend.password, Some(Secret::new("a://b")));
        for text in [
            "host",
            "host=a b c=d",
            "password='x",
            "host=a port",
            "user=a\\\0b",
        ] {
            error(text);
        }
    }

    #[test]
    fn errors_hold_no_piece_of_a_password() {
        for text in [
            "postgres://u:hunter2@x@h/d",
            "postgres://u:hun/ter2@h/d",
            "postgres://u:5/hunter2@h/d",
            "postgres://hunter2%zz@h/d",
            "postgres://u:hunter2%zz@h/d",
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@h/d?channel_binding=hunter2",
            "postgres://u:hunter2@h/d?require_auth=hunter2",
            "postgres://u:hunter2@h/d?require_auth=md5,hunter2",
            "postgres://u:hunter2@h/d?nonsense=1",
            "postgres://h/d?password=a&hunter2",
            "postgres://h/d?password=a&hunter2=b",
            "postgres://u:hunter2",
            "postgres:/u:hunter2@h/d?sslmode=disable",
            "host=h passwordhunter2 = x",
            "host=h passwordhunter2=x",
            "mysql://u:hunter2@h/d",
            "hunter2",
            "host=h password=hunter2 x",
            "host=h password='hunter2",
            "host=h password=a hunter2=x",
            "host=h password=a hunter2 user=x",
            // Passwords x/?..., with '/' and '?' as they are.
            "postgres://u:x/?requiressl=hunter2@h/d",
            "postgres://u:x/?gssencmode=hunter2@h/d",
            "postgres://u:x/?hunter2=y@h/d",
            "postgres://u:x/?sslmodehunter2=y@h/d",
            "postgres://u:x/?hunter2@h/d",
        ] {
            assert!(!error(text).contains("ter2"), "{text}: {}", error(text));
        }
        assert!(!format!("{:?}", ok("postgres://u:hunter2@h/d")).contains("hunter2"));
    }

    #[test]
    fn no_text_panics() {
        let seed = "postgres://us%20er:pa%ß@[::1]:5,h2:/d?host=%2f&port='\\=";
        let chars: Vec<char> = seed.chars().collect();
        for from in 0..chars.len() {
            for to in from..=chars.len() {
                let piece: String = chars[from..to].iter().collect();
                let _ = parse(&piece);
                let _ = parse(&format!("postgres://{piece}"));
                let _ = parse(&format!("host={piece}"));
            }
        }
        for text in [
            "",
            "postgres://",
            "postgres://%",
            "postgres://%4",
            "postgres://%00",
            "postgres://h/%ff",
            "=",
            "==",
        ] {
            let _ = parse(text);
        }
    }
}
