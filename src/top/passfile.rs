//! libpq's password file, `~/.pgpass`: `host:port:database:user:password`, a line each. The first that fits counts, `*` fits
//! everything, and a backslash takes the meaning from what follows it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::options::Target;
use crate::config::{HostPort, Secret};

/// Directories of sockets that lines for `localhost` are for as well: those that psql was built with.
const USUAL_DIRECTORIES: [&str; 2] = ["/tmp", "/var/run/postgresql"];

/// The password for a target, if the file is there and has a line for it.
///
/// # Errors
/// The file is there and is not used: it is no file, or others may read it.
pub(super) fn password(file: &Path, target: &Target) -> Result<Option<Secret>, String> {
    let Ok(facts) = fs::metadata(file) else {
        return Ok(None);
    };
    let file_name = file.display();
    if !facts.is_file() {
        return Err(format!("password file \"{file_name}\" is not a plain file"));
    }
    if facts.permissions().mode() & 0o077 != 0 {
        return Err(format!(
            "password file \"{file_name}\" has group or world access; permissions should be u=rw (0600) or less"
        ));
    }
    let text = fs::read(file).map(zeroize::Zeroizing::new);
    let text = text.map_err(|error| format!("password file \"{file_name}\": {error}"))?;
    let (host, port) = place(&target.address);
    let wanted = [&host, &port, &target.database, &target.user];
    Ok(find(&text, wanted.map(|part| part.as_bytes())))
}

/// Host and port as a line names them.
fn place(address: &HostPort) -> (String, String) {
    let path = match address {
        HostPort::Tcp(host, port) => return (host.clone(), port.to_string()),
        HostPort::Unix(path) => path.to_string_lossy(),
    };
    let (directory, port) = path.rsplit_once("/.s.PGSQL.").unwrap_or((&path, ""));
    let usual = USUAL_DIRECTORIES.contains(&directory);
    let host = if usual { "localhost" } else { directory };
    (host.to_owned(), port.to_owned())
}

fn find(text: &[u8], wanted: [&[u8]; 4]) -> Option<Secret> {
    let lines = text.split(|byte| *byte == b'\n');
    let mut fitting = lines
        .filter(|line| !line.starts_with(b"#"))
        .filter_map(|line| {
            let mut rest = line.strip_suffix(b"\r").unwrap_or(line);
            for part in wanted {
                rest = fits(rest, part)?;
            }
            Some(plain(rest))
        });
    fitting.next().map(Secret::new)
}

/// What follows the first field, if that is `wanted` or fits everything.
fn fits<'a>(line: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = line.strip_prefix(b"*:") {
        return Some(rest);
    }
    let mut rest = line;
    for byte in wanted {
        rest = match rest {
            [b'\\', next, after @ ..] if next == byte => after,
            [next, after @ ..] if next == byte && *byte != b':' => after,
            _ => return None,
        };
    }
    rest.strip_prefix(b":")
}

/// A field up to its end, without backslashes.
fn plain(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => break,
            b'\\' => out.push(*bytes.next().unwrap_or(byte)),
            other => out.push(*other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, wanted: [&str; 4]) -> Option<String> {
        let secret = find(text.as_bytes(), wanted.map(str::as_bytes))?;
        Some(String::from_utf8_lossy(secret.expose()).into_owned())
    }

    /// Rules of libpq's passwordFromFile.
    #[test]
    fn the_first_line_that_fits_counts() {
        let own = ["db", "6432", "aether", "me"];
        for (text, password) in [
            ("db:6432:aether:me:secret", Some("secret")),
            ("db:6432:aether:me:secret\r\n", Some("secret")),
            ("*:*:*:*:any", Some("any")),
            (
                "other:*:*:*:no\n*:6432:*:me:yes\n*:*:*:*:late\n",
                Some("yes"),
            ),
            ("#db:6432:aether:me:no\ndb:*:*:me:yes", Some("yes")),
            (r"d\b:6432:aether:me:a\:b\\c", Some(r"a:b\c")),
            ("db:6432:aether:me:a:b", Some("a")),
            ("db:6432:aether:me:", Some("")),
            ("", None),
            ("db:6432:aether:me", None),
            ("db:6432:aether:mee:no", None),
            ("dbb:6432:aether:me:no", None),
            ("d*:6432:aether:me:no", None),
            ("*", None),
        ] {
            assert_eq!(found(text, own).as_deref(), password, "{text:?}");
        }
        let with_colon = ["::1", "1", "a", "m"];
        assert_eq!(
            found(r"\:\:1:1:a:m:yes", with_colon).as_deref(),
            Some("yes")
        );
        assert_eq!(found("::1:1:a:m:no", with_colon), None);
    }

    #[test]
    fn sockets_are_named_by_their_directories() {
        let of = |path: &str| place(&HostPort::Unix(path.into()));
        let pair = |host: &str| (host.to_owned(), "6432".to_owned());
        assert_eq!(of("/run/aether/.s.PGSQL.6432"), pair("/run/aether"));
        assert_eq!(of("/tmp/.s.PGSQL.6432"), pair("localhost"));
        assert_eq!(of("@aether/.s.PGSQL.6432"), pair("@aether"));
        assert_eq!(place(&HostPort::Tcp("db".to_owned(), 6432)), pair("db"));
    }
}
