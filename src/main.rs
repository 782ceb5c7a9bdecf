//! The `aether` program: arguments, configuration, user, and then the loop. The only place that ends the process.

#![forbid(unsafe_code)]

mod arguments;

use std::alloc::System;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aether::config::{self, Config};
use aether::{log as lines, net, top};
use arguments::{Arguments, Asked, USAGE};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{
    Gid, Uid, User, daemon, geteuid, getresgid, getresuid, initgroups, setresgid, setresuid,
};
use zeroizing_alloc::ZeroAlloc;

/// Wipes what is freed (catalogue R10): neither a configuration file that was read nor a password that came through a library's buffer
/// stays behind. Nothing is freed on the way of a query.
#[global_allocator]
static HEAP: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    match arguments::read(std::env::args_os().skip(1).collect()) {
        Ok(Asked::Help) => print!("{USAGE}"),
        Ok(Asked::Version) => println!("aether {}", env!("CARGO_PKG_VERSION")),
        Ok(Asked::Run(arguments)) => return start(&arguments),
        Ok(Asked::Top(top::Asked::Help)) => print!("{}", top::USAGE),
        Ok(Asked::Top(top::Asked::Run(options))) => return look(&options),
        Err(text) => {
            eprintln!("aether: {text}\nTry \"aether --help\" for more information.");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
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

fn look(options: &top::Options) -> ExitCode {
    match top::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("aether top: {text}");
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
    if arguments.daemon && config.server.pidfile.is_none() {
        return Err("daemon needs pidfile configured: say server.pidfile".to_owned());
    }
    let mut listeners = net::inherited()?;
    let are_ours = listeners.is_empty();
    if arguments.reboot && !are_ours {
        return Err(
            "-R cannot be used while the service manager listens for us (socket activation): \
             restart the service, connections wait meanwhile"
                .to_owned(),
        );
    }
    let user = arguments.user.clone().or(config.server.user.clone());
    let mut estate = match arguments.reboot {
        true => claim(&mut config, user.as_deref())?,
        false => None,
    };
    let (shared, sockets) = (config.server.so_reuseport, &config.server.sockets);
    listeners.iter().for_each(|given| given.tune(sockets));
    if are_ours {
        listeners = net::listen(&config.server.listen, shared, sockets, &mut estate)?;
    }
    let path = std::path::absolute(&arguments.config).unwrap_or_else(|_| arguments.config.clone());
    let was_root = geteuid().is_root();
    become_user(user.as_deref())?;
    harden()?;
    let pages = net::listen_for_metrics(&config.metrics, &mut estate)?;
    if let Some(pidfile) = &config.server.pidfile {
        net::Pidfile::check(pidfile, estate.as_ref().map(net::Estate::pid))?;
    }
    // By the user who has to remove it in the end.
    if let Some(socket) = config.server.unix_socket.as_ref().filter(|_| are_ours) {
        let options = &config.server.sockets;
        listeners.push(net::listen_unix(socket, options, &mut estate)?);
    }
    if let Some(user) = user.filter(|_| was_root) {
        config.warnings.extend(unreadable(&path, &user));
    }
    let origin = origin(&config, arguments, path);
    if arguments.daemon {
        // Before there is any thread; relative names of files are gone by now.
        daemon(false, false)
            .map_err(|error| format!("cannot go to the background: {}", error.desc()))?;
        listeners.iter_mut().for_each(net::Listener::is_ours);
    }
    let flush = lines::start(&origin.log_settings(&config))
        .map_err(|error| format!("cannot start the log: {error}"))?;
    let sockets = Sockets {
        listeners,
        are_ours,
        pages,
        estate,
    };
    let served = announced(config, origin, sockets);
    if let Err(text) = &served {
        log::error!(target: lines::FATAL, "{text}");
    }
    drop(flush);
    served
}

/// Where the configuration comes from, and what of it only holds from start to end.
fn origin(config: &Config, arguments: &Arguments, path: PathBuf) -> net::Origin {
    net::Origin {
        path,
        level: arguments.level(),
        silent: arguments.is_silent(),
        listen: config.server.listen.clone(),
        so_reuseport: config.server.so_reuseport,
        unix_socket: config.server.unix_socket.clone(),
        user: config.server.user.clone(),
        user_is_given: arguments.user.is_some(),
        mock_secret: config.auth.mock_secret.clone(),
        pidfile: config.server.pidfile.clone(),
        metrics: config.metrics.clone(),
    }
}

/// Where we listen.
struct Sockets {
    listeners: Vec<net::Listener>,
    /// No service manager listens for us.
    are_ours: bool,
    /// For metrics.
    pages: Vec<net::Listener>,
    /// What is taken over from a process that runs.
    estate: Option<net::Estate>,
}

/// The sockets of the process that runs already, if there is one.
fn claim(config: &mut Config, user: Option<&str>) -> Result<Option<net::Estate>, String> {
    let user = match user {
        Some(name) if geteuid().is_root() => known_user(name)?.uid,
        _ => geteuid(),
    };
    let estate = net::Estate::claim(config.server.unix_socket.as_ref(), user)?;
    if estate.is_none() {
        let text = "old process not found, try to continue normally".to_owned();
        config.warnings.push(text);
    }
    Ok(estate)
}

/// Says what there is to say at the start, and serves.
fn announced(mut config: Config, origin: net::Origin, sockets: Sockets) -> Result<(), String> {
    // A process that is to be succeeded has the name still.
    let pidfile = origin.pidfile.as_deref();
    let pidfile = pidfile.filter(|_| sockets.estate.is_none());
    let pidfile = pidfile.map(net::Pidfile::write).transpose()?;
    let room = net::fit_descriptors(&mut config);
    config
        .warnings
        .iter()
        .for_each(|warning| log::warn!("{warning}"));
    log::info!("{room}");
    if !sockets.are_ours {
        log::warn!(
            "the service manager listens for us: listen_addr and unix_socket_dir are not used"
        );
    }
    let as_pgbouncer = config.log.format == aether::log::Format::PgBouncer;
    for listener in &sockets.listeners {
        let place = listener.to_string();
        let path = place.strip_prefix("Unix socket ").filter(|_| as_pgbouncer);
        match path {
            Some(path) => log::info!("listening on unix:{}", path.trim_matches('"')),
            None => log::info!("listening on {place}"),
        }
    }
    for listener in &sockets.pages {
        log::info!("metrics are told at {listener}");
    }
    log::info!(
        "aether {} started, process {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    );
    if as_pgbouncer {
        log::info!(
            "process up: PgBouncer (Aether {}), libevent none (epoll), adns: libc, tls: rustls",
            env!("CARGO_PKG_VERSION")
        );
    }
    let Sockets {
        listeners,
        pages,
        estate,
        ..
    } = sockets;
    let result = net::run(config, origin, listeners, pages, pidfile, estate)
        .map_err(|error| format!("the loop has failed: {error}"));
    log::info!("stopped");
    result
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
