//! The `aether` program: arguments, configuration, user, and then the loop. The only place that ends the process.

#![forbid(unsafe_code)]

use std::alloc::System;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aether::config::{self, Config};
use aether::{log as lines, net};
use log::LevelFilter;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{
    Gid, Uid, User, geteuid, getresgid, getresuid, initgroups, setresgid, setresuid,
};
use zeroizing_alloc::ZeroAlloc;

/// Wipes what is freed (catalogue R10): neither a configuration file that was read nor a password that came through a library's buffer
/// stays behind. Nothing is freed on the way of a query.
#[global_allocator]
static HEAP: ZeroAlloc<System> = ZeroAlloc(System);

const USAGE: &str = "\
aether, a PostgreSQL connection pooler

Usage: aether [OPTIONS] [CONFIG]

CONFIG is the configuration file: ./aether.yaml if it is there, else /etc/aether/aether.yaml. A pgbouncer.ini is one, too.

Options:
      --config FILE   the configuration file (also: -config FILE)
      --check         check the configuration, print what is in force with secrets masked, and exit
      --convert       write a pgbouncer.ini as the aether.yaml that means the same, secrets included, and exit
  -u, --user NAME     become this user when started as root (wins over server.user)
  -v, --verbose       log more: once for debug, twice for trace
  -q, --quiet         log warnings and errors only
  -V, --version       print the version and exit
  -h, --help          print this and exit

Signals: SIGHUP reads the configuration again, SIGTERM waits for the clients to leave, SIGINT for the servers to be
released, SIGQUIT or a second signal ends at once. SIGUSR1 pauses: servers are closed as they are released, and no new
ones are given out; SIGUSR2 resumes.
";

struct Arguments {
    config: PathBuf,
    check: bool,
    convert: bool,
    user: Option<String>,
    verbose: usize,
    quiet: bool,
}

enum Asked {
    Run(Arguments),
    Help,
    Version,
}

fn main() -> ExitCode {
    match arguments(std::env::args_os().skip(1).collect()) {
        Ok(Asked::Help) => print!("{USAGE}"),
        Ok(Asked::Version) => println!("aether {}", env!("CARGO_PKG_VERSION")),
        Ok(Asked::Run(arguments)) => return start(&arguments),
        Err(text) => {
            eprintln!("aether: {text}\nTry \"aether --help\" for more information.");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn arguments(given: Vec<OsString>) -> Result<Asked, String> {
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
        .ok_or("no configuration: neither ./aether.yaml nor /etc/aether/aether.yaml is there; name a file")?;
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
        [b'-', letters @ ..] => letters.iter().all(|letter| b"vqVh".contains(letter)),
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

fn start(arguments: &Arguments) -> ExitCode {
    if arguments.convert {
        return convert(&arguments.config);
    }
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("aether: {error}"));
            return ExitCode::FAILURE;
        }
    };
    if arguments.check {
        print!("{}", config::effective(&config));
        let user = arguments.user.as_deref().or(config.server.user.as_deref());
        let user = user.and_then(|name| known_user(name).err());
        config
            .warnings
            .iter()
            .chain(&user)
            .for_each(|warning| eprintln!("aether: warning: {warning}"));
        return ExitCode::SUCCESS;
    }
    match serve(config, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("aether: {text}");
            ExitCode::FAILURE
        }
    }
}

fn convert(path: &Path) -> ExitCode {
    match config::convert(path) {
        Ok(yaml) => print!("{yaml}"),
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("aether: {error}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn serve(mut config: Config, arguments: &Arguments) -> Result<(), String> {
    net::block_signals().map_err(|error| format!("cannot block signals: {error}"))?;
    let mut listeners = net::listen(&config.server.listen)?;
    let path = std::path::absolute(&arguments.config).unwrap_or_else(|_| arguments.config.clone());
    let user = arguments.user.clone().or(config.server.user.clone());
    let was_root = geteuid().is_root();
    become_user(user.as_deref())?;
    harden()?;
    let pages = net::listen_for_metrics(&config.metrics)?;
    // By the user who has to remove it in the end.
    if let Some(socket) = &config.server.unix_socket {
        listeners.push(net::Listener::unix(socket)?);
    }
    if let Some(user) = user.filter(|_| was_root) {
        config.warnings.extend(unreadable(&path, &user));
    }
    let level = level(arguments);
    let flush = lines::start(level.unwrap_or(config.server.log_level))
        .map_err(|error| format!("cannot start the log: {error}"))?;
    let room = net::fit_descriptors(&mut config);
    config
        .warnings
        .iter()
        .for_each(|warning| log::warn!("{warning}"));
    log::info!("{room}");
    for listener in &listeners {
        log::info!("listening on {listener}");
    }
    for listener in &pages {
        log::info!("metrics are told at {listener}");
    }
    log::info!(
        "aether {} started, process {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    );
    let origin = net::Origin {
        path,
        level,
        listen: config.server.listen.clone(),
        unix_socket: config.server.unix_socket.clone(),
        user: config.server.user.clone(),
        user_is_given: arguments.user.is_some(),
        mock_secret: config.auth.mock_secret.clone(),
        metrics: config.metrics.clone(),
    };
    let result = net::run(config, origin, listeners, pages)
        .map_err(|error| format!("the loop has failed: {error}"));
    log::info!("stopped");
    flush.wait();
    result
}

/// What the command line says of the log; it wins over the configuration.
fn level(arguments: &Arguments) -> Option<LevelFilter> {
    match (arguments.quiet, arguments.verbose) {
        (true, _) => Some(LevelFilter::Warn),
        (false, 0) => None,
        (false, 1) => Some(LevelFilter::Debug),
        (false, _) => Some(LevelFilter::Trace),
    }
}

/// A user of this machine who may serve.
fn known_user(name: &str) -> Result<User, String> {
    let user = User::from_name(name).map_err(|error| error.desc().to_owned())?;
    let user = user.ok_or_else(|| format!("there is no user \"{name}\" on this machine"))?;
    if user.uid.is_root() {
        return Err(format!("refuses to run as root, and \"{name}\" is root"));
    }
    Ok(user)
}

/// What root could read and its successor cannot: that would come to light at the first reload.
fn unreadable(path: &Path, user: &str) -> Vec<String> {
    let errors = config::load(path).err().unwrap_or_default();
    let text = |error| {
        format!("a reload would fail: user \"{user}\" cannot read what root could: {error}")
    };
    errors.iter().map(text).collect()
}

/// Gives root away for good.
fn become_user(name: Option<&str>) -> Result<(), String> {
    if !geteuid().is_root() {
        return match name.map(|name| User::from_name(name).ok().flatten()) {
            Some(Some(user)) if user.uid == geteuid() => Ok(()),
            None => Ok(()),
            Some(_) => Err(format!(
                "cannot become user \"{}\": only root can",
                name.unwrap_or_default()
            )),
        };
    }
    let name = name.ok_or(
        "refuses to run as root: say with server.user, or with --user, which user to become",
    )?;
    let user = known_user(name)?;
    let (uid, gid) = (user.uid, user.gid);
    let c_name = CString::new(name).map_err(|_| "a zero byte in the user's name")?;
    // All three of each, so that none is left to come back to; and the groups of the user, by which it may read keys.
    let given_away = initgroups(&c_name, gid)
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid));
    given_away.map_err(|error| format!("cannot become user \"{name}\": {}", error.desc()))?;
    let root = (Uid::from_raw(0), Gid::from_raw(0));
    let uids = getresuid().map(|now| (now.real, now.effective, now.saved));
    let gids = getresgid().map(|now| (now.real, now.effective, now.saved));
    if uids != Ok((uid, uid, uid))
        || gids != Ok((gid, gid, gid))
        || setresuid(root.0, root.0, root.0).is_ok()
        || (gid != root.1 && setresgid(root.1, root.1, root.1).is_ok())
    {
        return Err("could become root again after giving it away".to_owned());
    }
    Ok(())
}

/// What holds passwords leaves no image of its memory behind, is read by nobody else, and gains no privileges any more. After the
/// change of the user, which undoes some of it.
fn harden() -> Result<(), String> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
        .and_then(|()| prctl::set_dumpable(false))
        .and_then(|()| prctl::set_no_new_privs())
        .map_err(|error| {
            format!(
                "cannot give up core dumps and new privileges: {}",
                error.desc()
            )
        })
}
