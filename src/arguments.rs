//! The command line: Aether's own options beside PgBouncer's, with its meanings.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use aether::top;
use log::LevelFilter;

/// What `--help` prints.
pub const USAGE: &str = "\
aether, a PostgreSQL connection pooler

Usage: aether [OPTIONS] [CONFIG]
       aether top [OPTIONS] [CONFIG]    a screen for the console of a running Aether (aether top --help)

CONFIG is the configuration file: ./aether.yaml if it is there, else /etc/aether/aether.yaml. A pgbouncer.ini is one, too.

Options:
      --config FILE   the configuration file (also: -config FILE)
      --check         check the configuration, print what is in force with secrets masked, and exit
      --convert       write a pgbouncer.ini as the aether.yaml that means the same, secrets included, and exit
  -d, --daemon        go to the background (needs server.pidfile; nothing is logged to standard error)
  -R, --reboot        take over the listening sockets of the process that runs with this configuration, which goes on
                      serving its clients until they leave
  -u, --user NAME     become this user when started as root (wins over server.user)
  -v, --verbose       log more: once for debug, twice for trace
  -q, --quiet         log nothing to standard error
  -V, --version       print the version and exit
  -h, --help          print this and exit

Signals: SIGHUP reads the configuration again and opens the log file anew. SIGTERM waits for the clients to leave, SIGINT for
the servers to be released; SIGQUIT, or a second one of these, ends at once. SIGUSR1 pauses: servers are closed as they are
released, and no new ones are given out; SIGUSR2 resumes.
";

/// What the process is to do.
pub enum Asked {
    /// Serve, or check.
    Run(Arguments),
    /// Look at one that runs.
    Top(top::Asked),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// How the process is to run.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The configuration file.
    pub config: PathBuf,
    /// Only look at the configuration.
    pub check: bool,
    /// Only write it as aether.yaml.
    pub convert: bool,
    /// Go to the background.
    pub daemon: bool,
    /// Take over from the process that runs.
    pub reboot: bool,
    /// Whom to become.
    pub user: Option<String>,
    /// How many times more is to be logged.
    pub verbose: usize,
    /// Nothing to standard error.
    pub quiet: bool,
}

impl Arguments {
    /// What is said of the log level here; it wins over the configuration.
    pub fn level(&self) -> Option<LevelFilter> {
        match self.verbose {
            0 => None,
            1 => Some(LevelFilter::Debug),
            _ => Some(LevelFilter::Trace),
        }
    }

    /// Whether standard error is not for log lines.
    pub fn is_silent(&self) -> bool {
        self.quiet || self.daemon
    }
}

/// Reads the arguments, the program's name not among them.
///
/// # Errors
/// What is wrong with them.
pub fn read(given: Vec<OsString>) -> Result<Asked, String> {
    // A configuration file of that name is ./top.
    if let Some((_, rest)) = given.split_first().filter(|(first, _)| *first == "top") {
        return top::read(rest.to_vec()).map(Asked::Top);
    }
    let given: Vec<OsString> = given.into_iter().flat_map(config_option).collect();
    if let Some(word) = given.iter().find(|word| !are_short_options(word)) {
        return Err(unknown_option(word));
    }
    let mut given = pico_args::Arguments::from_vec(given);
    if given.contains(["-h", "--help"]) {
        return Ok(Asked::Help);
    }
    if given.contains(["-V", "--version"]) {
        return Ok(Asked::Version);
    }
    let mut arguments = Arguments {
        config: PathBuf::new(),
        check: given.contains("--check"),
        convert: given.contains("--convert"),
        daemon: given.contains(["-d", "--daemon"]),
        reboot: given.contains(["-R", "--reboot"]),
        user: given
            .opt_value_from_str(["-u", "--user"])
            .map_err(|error| error.to_string())?,
        verbose: std::iter::from_fn(|| given.contains(["-v", "--verbose"]).then_some(())).count(),
        quiet: given.contains(["-q", "--quiet"]),
    };
    let named: Option<PathBuf> = given
        .opt_value_from_os_str("--config", to_path)
        .map_err(|error| error.to_string())?;
    let mut rest = given.finish();
    if let Some(option) = rest
        .iter()
        .find(|word| word.to_string_lossy().starts_with('-'))
    {
        return Err(unknown_option(option));
    }
    if rest.len() + usize::from(named.is_some()) > 1 {
        return Err("more than one configuration file was given".to_owned());
    }
    arguments.config = named
        .or_else(|| rest.pop().map(PathBuf::from))
        .or_else(default_config)
        .ok_or("no configuration file specified: neither ./aether.yaml nor /etc/aether/aether.yaml is there; name a file")?;
    Ok(Asked::Run(arguments))
}

fn unknown_option(word: &OsStr) -> String {
    format!("unknown option \"{}\"", word.to_string_lossy())
}

/// Whether a word with one dash, if it is one, is made of options that there are: pico-args picks those that it knows out of
/// any word, and `-chek` would be a call for help.
fn are_short_options(word: &OsStr) -> bool {
    match word.as_bytes() {
        [b'-', b'-' | b'u', ..] => true,
        // The user's name follows its letter, in the same word or the next.
        [b'-', letters @ ..] => letters
            .split(|letter| *letter == b'u')
            .next()
            .unwrap_or_default()
            .iter()
            .all(|letter| b"dvqVRh".contains(letter)),
        _ => true,
    }
}

/// Go's flag package taught people `-config` and `-check`, which pico-args would take for so many short options; and of
/// values that need not be UTF-8, as names of files, it does not know the form with `=`.
fn config_option(word: OsString) -> Vec<OsString> {
    let bytes = word.as_bytes();
    if let b"-check" | b"-help" | b"-version" = bytes {
        return vec![OsString::from_vec([b"-", bytes].concat())];
    }
    let option = bytes.strip_prefix(b"--").or(bytes.strip_prefix(b"-"));
    match option.and_then(|option| option.strip_prefix(b"config")) {
        Some(b"") => vec!["--config".into()],
        Some([b'=', file @ ..]) => vec!["--config".into(), OsStr::from_bytes(file).to_owned()],
        _ => bundled_user(word),
    }
}

/// `-du NAME` and `-duNAME`, as getopt reads them: pico-args only knows `-d -u NAME`.
fn bundled_user(word: OsString) -> Vec<OsString> {
    let [b'-', letters @ ..] = word.as_bytes() else {
        return vec![word];
    };
    match letters.iter().position(|letter| *letter == b'u') {
        Some(at) if at > 0 && letters.first() != Some(&b'-') => {
            let (before, user) = letters.split_at(at);
            let with_dash = |letters: &[u8]| OsString::from_vec([b"-", letters].concat());
            vec![with_dash(before), with_dash(user)]
        }
        _ => vec![word],
    }
}

fn to_path(text: &OsStr) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

fn default_config() -> Option<PathBuf> {
    ["aether.yaml", "/etc/aether/aether.yaml"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Arguments {
        match read(line.split_whitespace().map(OsString::from).collect()) {
            Ok(Asked::Run(arguments)) => arguments,
            Ok(_) => panic!("{line}: help or version"),
            Err(text) => panic!("{line}: {text}"),
        }
    }

    fn wrong(line: &str) -> String {
        let read = read(line.split_whitespace().map(OsString::from).collect());
        read.err().unwrap_or_default()
    }

    #[test]
    fn pgbouncers_options_are_read_as_pgbouncer_reads_them() {
        for line in [
            "-R -d -q -u postgres -v -v pgbouncer.ini",
            "-dRqvv -u postgres pgbouncer.ini",
            "-dqRvvu postgres pgbouncer.ini",
            "-Rdqvvupostgres pgbouncer.ini",
            "--reboot --daemon --quiet --user postgres --verbose --verbose pgbouncer.ini",
            "--daemon --quiet --user=postgres --verbose --verbose --reboot pgbouncer.ini",
            "pgbouncer.ini -vd --user=postgres -vqR",
        ] {
            let expected = Arguments {
                config: "pgbouncer.ini".into(),
                check: false,
                convert: false,
                daemon: true,
                reboot: true,
                user: Some("postgres".to_owned()),
                verbose: 2,
                quiet: true,
            };
            assert_eq!(run(line), expected, "{line}");
            assert_eq!(run(line).level(), Some(LevelFilter::Trace));
        }
        assert_eq!(run("a.yaml").level(), None);
        assert_eq!(
            run("-qv a.yaml").level(),
            Some(LevelFilter::Debug),
            "-q is no level"
        );
        assert!(run("-q a.yaml").is_silent() && run("-d a.yaml").is_silent());
        assert!(!run("-v a.yaml").is_silent() && !run("-v a.yaml").reboot);
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for (line, why) in [
            ("-x a.yaml", "unknown option \"-x\""),
            ("--demon a.yaml", "unknown option \"--demon\""),
            ("-dx a.yaml", "unknown option \"-dx\""),
            ("a.yaml b.yaml", "more than one configuration file"),
            ("--config a.yaml b.yaml", "more than one configuration file"),
        ] {
            assert!(wrong(line).contains(why), "{line}: {}", wrong(line));
        }
    }
}
