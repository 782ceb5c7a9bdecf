//! What `aether top` is told on its command line, and where the console is by that: psql's words for psql's things.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{self, HostPort};
use crate::tls::Mode;

/// What `aether top --help` prints.
pub const USAGE: &str = "\
aether top, the console of a running Aether as a screen

Usage: aether top [OPTIONS] [CONFIG]

Where the console is: -h, or else the Unix socket or the address of CONFIG, or else PGHOST, or else ./aether.yaml or
/etc/aether/aether.yaml where they can be read, or else localhost.

Options:
  -h, --host HOST       a host's name or address, or the directory of a Unix socket
  -p, --port PORT       the port (PGPORT; 6432)
  -U, --username USER   who is listed in admin.users or admin.stats_users (PGUSER; whoever runs this; by the Unix socket and as
                        the user that Aether runs as: pgbouncer, who needs no password)
  -d, --dbname NAME     the console's database (aether)
  -i, --interval TIME   from one picture to the next: 2, 500ms, 1m
  -1, --once            print one picture of everything as plain text, with the rates of one interval, and exit; so it is done
                        when the output is no terminal
  -?, --help            print this and exit

The password is PGPASSWORD, or in the file PGPASSFILE or ~/.pgpass, or else it is asked for where it is needed. PGSSLMODE, PGSSLROOTCERT,
PGSSLCERT and PGSSLKEY are psql's, with ~/.postgresql as the place of the files: TLS is used where Aether has it, its certificate is
checked with verify-ca and verify-full, and with require where there are roots. NO_COLOR leaves colours out.
";

/// The shortest time from one picture to the next.
pub(super) const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// And the longest.
pub(super) const INTERVAL_MAX: Duration = Duration::from_secs(3_600);

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// Look.
    Run(Options),
    /// Print the help.
    Help,
}

/// The command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    host: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    database: String,
    config: Option<PathBuf>,
    /// From one picture to the next.
    pub(super) interval: Duration,
    /// One picture, as text.
    pub(super) once: bool,
}

/// Reads the arguments behind `top`.
///
/// # Errors
/// What is wrong with them.
pub fn read(given: Vec<OsString>) -> Result<Asked, String> {
    let mut options = Options {
        host: None,
        port: None,
        user: None,
        database: "aether".to_owned(),
        config: None,
        interval: Duration::from_secs(2),
        once: false,
    };
    let mut words = given.into_iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        let Some((option, attached)) = split(&text) else {
            if options.config.replace(word.into()).is_some() {
                return Err("more than one configuration file was given".to_owned());
            }
            continue;
        };
        match option {
            "?" | "help" => return Ok(Asked::Help),
            "1" | "once" if attached.is_none() => {
                options.once = true;
                continue;
            }
            "h" | "host" | "p" | "port" | "U" | "username" | "d" | "dbname" | "i" | "interval" => {}
            _ => return Err(format!("unknown option \"{text}\"")),
        }
        let next = || words.next().map(|word| word.to_string_lossy().into_owned());
        let value = attached.map(str::to_owned).or_else(next);
        let value = value.ok_or_else(|| format!("{text} wants a value"))?;
        match option {
            "h" | "host" => options.host = Some(value),
            "p" | "port" => options.port = Some(port(&value)?),
            "U" | "username" => options.user = Some(value),
            "d" | "dbname" => options.database = value,
            _ => options.interval = interval(&value)?,
        }
    }
    Ok(Asked::Run(options))
}

/// An option's name, and the value in the same word; `None`: it is none.
fn split(word: &str) -> Option<(&str, Option<&str>)> {
    if let Some(long) = word.strip_prefix("--") {
        return Some(match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        });
    }
    let short = word.strip_prefix('-').filter(|short| !short.is_empty())?;
    let first = short.chars().next().map_or(0, char::len_utf8);
    let (name, value) = short.split_at(first);
    Some((name, (!value.is_empty()).then_some(value)))
}

fn port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("\"{text}\" is no port"))
}

/// A time with a unit, or seconds.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok();
    let seconds = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let time = seconds.or_else(|| config::units::duration(text).ok());
    let time = time.filter(|time| (INTERVAL_MIN..=INTERVAL_MAX).contains(time));
    time.ok_or_else(|| format!("\"{text}\" is no interval: 100ms to 1h, such as 2 or 500ms"))
}

/// Where the console is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The socket.
    pub(super) address: HostPort,
    /// Who logs in.
    pub(super) user: String,
    /// To which of the console's names.
    pub(super) database: String,
    /// `PGSSLMODE`
    pub(super) tls: Mode,
    /// `PGSSLROOTCERT`
    pub(super) roots: Option<PathBuf>,
    /// `PGSSLCERT`
    pub(super) certificate: Option<PathBuf>,
    /// `PGSSLKEY`
    pub(super) key: Option<PathBuf>,
    /// Where files are that are not named.
    pub(super) home: Option<PathBuf>,
    /// `PGPASSFILE`, or the one in the home directory.
    pub(super) passfile: Option<PathBuf>,
}

/// What is outside of the command line.
pub(super) struct Surroundings<'a> {
    /// A variable of the environment.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
    /// The user that runs this.
    pub(super) user: &'a str,
    /// Whether that user owns this file.
    pub(super) owns: &'a dyn Fn(&Path) -> bool,
}

impl Options {
    /// Puts the target together.
    ///
    /// # Errors
    /// A configuration file that was named cannot be read; a variable makes no sense.
    pub(super) fn target(&self, outside: &Surroundings<'_>) -> Result<Target, String> {
        let set = |name| (outside.variable)(name).filter(|value| !value.is_empty());
        let port = match (self.port, set("PGPORT")) {
            (Some(port), _) => Some(port),
            (None, Some(text)) => Some(port(&text)?),
            (None, None) => None,
        };
        let address = match (&self.host, &self.config) {
            (Some(host), _) => at(host, port),
            (None, Some(path)) => by_config(path, self.port)?,
            (None, None) => match set("PGHOST") {
                Some(host) => at(&host, port),
                None => by_default(self.port).unwrap_or_else(|| at("localhost", port)),
            },
        };
        let is_owner = matches!(&address, HostPort::Unix(path) if (outside.owns)(path));
        let usual = if is_owner { "pgbouncer" } else { outside.user };
        let user = self.user.clone().or_else(|| set("PGUSER"));
        let tls = match set("PGSSLMODE").as_deref() {
            None | Some("prefer") => Mode::Prefer,
            Some("disable") => Mode::Disable,
            Some("allow") => Mode::Allow,
            Some("require") => Mode::Require,
            Some("verify-ca") => Mode::VerifyCa,
            Some("verify-full") => Mode::VerifyFull,
            Some(other) => return Err(format!("PGSSLMODE: \"{other}\" is none of psql's")),
        };
        let path = |name| set(name).map(PathBuf::from);
        let home = path("HOME");
        let usual_passfile = || Some(home.as_ref()?.join(".pgpass"));
        Ok(Target {
            address,
            user: user.unwrap_or_else(|| usual.to_owned()),
            database: self.database.clone(),
            tls,
            roots: path("PGSSLROOTCERT"),
            certificate: path("PGSSLCERT"),
            key: path("PGSSLKEY"),
            passfile: path("PGPASSFILE").or_else(usual_passfile),
            home,
        })
    }
}

/// A host as psql takes it.
fn at(host: &str, port: Option<u16>) -> HostPort {
    let port = port.unwrap_or(6432);
    if host.starts_with('/') || host.starts_with('@') {
        return HostPort::Unix(format!("{host}/.s.PGSQL.{port}").into());
    }
    HostPort::Tcp(host.to_owned(), port)
}

/// Where a configuration listens: the Unix socket, if there is one.
fn by_config(path: &Path, port: Option<u16>) -> Result<HostPort, String> {
    let config = config::load(path).map_err(|errors| {
        let first = errors.first().map(ToString::to_string).unwrap_or_default();
        format!("{first}\nWithout the file: aether top -h HOST or DIRECTORY -p PORT")
    })?;
    if let Some(socket) = &config.server.unix_socket {
        return Ok(at(&socket.directory, port.or(Some(socket.port))));
    }
    let address = config.server.listen.first();
    let address = address.ok_or("the configuration listens nowhere")?;
    let host = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => "127.0.0.1".to_owned(),
        ip if ip.is_unspecified() => "::1".to_owned(),
        ip => ip.to_string(),
    };
    Ok(at(&host, port.or(Some(address.port()))))
}

fn by_default(port: Option<u16>) -> Option<HostPort> {
    let files = ["aether.yaml", "/etc/aether/aether.yaml"].map(Path::new);
    let file = files.into_iter().find(|path| path.exists())?;
    by_config(file, port).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        match read(line.split_whitespace().map(OsString::from).collect()) {
            Ok(Asked::Run(options)) => options,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn wrong(line: &str) -> String {
        let read = read(line.split_whitespace().map(OsString::from).collect());
        read.err().unwrap_or_default()
    }

    fn target(line: &str, variables: &[(&str, &str)], owns: bool) -> Target {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let outside = Surroundings {
            variable: &variable,
            user: "me",
            owns: &|_| owns,
        };
        options(line).target(&outside).expect(line)
    }

    #[test]
    fn arguments_are_psqls() {
        for line in [
            "-h /run/aether -p 6433 -U admin -d pgbouncer -i 500ms",
            "-h/run/aether -p6433 -Uadmin -dpgbouncer -i500ms",
            "--host=/run/aether --port=6433 --username=admin --dbname=pgbouncer --interval=0.5",
            "--host /run/aether --port 6433 --username admin --dbname pgbouncer --interval .5",
        ] {
            let target = target(line, &[("PGHOST", "elsewhere"), ("PGPORT", "1")], false);
            assert_eq!(
                target.address,
                HostPort::Unix("/run/aether/.s.PGSQL.6433".into()),
                "{line}"
            );
            assert_eq!((&*target.user, &*target.database), ("admin", "pgbouncer"));
            assert_eq!(options(line).interval, Duration::from_millis(500));
            assert!(!options(line).once);
        }
        assert!(options("-1").once && options("--once").once);
        let help = |word: &str| matches!(read(vec![word.into()]), Ok(Asked::Help));
        assert!(help("-?") && help("--help"));
    }

    #[test]
    fn the_environment_says_what_the_arguments_do_not() {
        let variables = [
            ("PGHOST", "db.example.com"),
            ("PGPORT", "7000"),
            ("PGUSER", "stats"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "root.crt"),
            ("PGSSLCERT", "own.crt"),
            ("PGSSLKEY", "own.key"),
            ("HOME", "/home/me"),
        ];
        let found = target("", &variables, false);
        assert_eq!(found.address.to_string(), "db.example.com:7000");
        assert_eq!(found.user, "stats");
        assert_eq!(found.tls, Mode::VerifyFull);
        assert_eq!(found.roots, Some("root.crt".into()));
        let own = (found.certificate, found.key);
        assert_eq!(own, (Some("own.crt".into()), Some("own.key".into())));
        assert_eq!(found.passfile, Some("/home/me/.pgpass".into()));
        let found = target("", &[("HOME", "/home/me"), ("PGPASSFILE", "/p")], false);
        assert_eq!(found.passfile, Some("/p".into()));
        let found = target("-h 127.0.0.1", &[("PGUSER", "")], false);
        assert_eq!(found.address.to_string(), "127.0.0.1:6432");
        assert_eq!((&*found.user, found.tls), ("me", Mode::Prefer));
    }

    /// Who owns the socket needs no name and no password.
    #[test]
    fn the_owner_of_the_socket_is_pgbouncer() {
        assert_eq!(target("-h /run/aether", &[], true).user, "pgbouncer");
        assert_eq!(target("-h /run/aether", &[], false).user, "me");
        assert_eq!(target("-h localhost", &[], true).user, "me");
        assert_eq!(target("-h /run/aether -U you", &[], true).user, "you");
    }

    #[test]
    fn a_configuration_says_where_it_listens() {
        let place = std::env::temp_dir().join(format!("aether-top-{}.yaml", std::process::id()));
        let write = |server: &str| {
            let pool = "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'}";
            std::fs::write(&place, format!("server: {{{server}}}\n{pool}\n")).expect("a file");
            let line = place.to_string_lossy().into_owned();
            let found = target(&line, &[("PGHOST", "elsewhere")], false).address;
            (
                found.to_string(),
                target(&format!("{line} -p 9"), &[], false).address,
            )
        };
        let (found, moved) = write("listen_addr: '0.0.0.0:6000'");
        assert_eq!(found, "127.0.0.1:6000");
        assert_eq!(moved.to_string(), "127.0.0.1:9");
        let (found, _) = write("listen_addr: '[::]:6000'");
        assert_eq!(found, "[::1]:6000");
        let (found, _) = write("listen_addr: '10.1.2.3:6000', unix_socket_dir: /run/aether");
        assert_eq!(found, "/run/aether/.s.PGSQL.6000");
        std::fs::remove_file(&place).expect("it is there");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, why) in [
            ("-x", "unknown option \"-x\""),
            ("--hots a", "unknown option \"--hots\""),
            ("-h", "-h wants a value"),
            ("-p 0", "\"0\" is no port"),
            ("-i 1ms", "\"1ms\" is no interval"),
            ("-i soon", "\"soon\" is no interval"),
            ("a.yaml b.yaml", "more than one configuration file"),
        ] {
            assert!(wrong(line).contains(why), "{line}: {}", wrong(line));
        }
    }
}
