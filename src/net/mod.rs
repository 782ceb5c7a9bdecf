//! The shell around the engine, and the only floor that knows the kernel: poll loop, sockets, name look-ups, signals.
//!
//! [`run`] is the process's loop. It turns what the kernel says into [`Event`]s, calls [`Engine::turn`], and does nothing else
//! that could block: names and key derivations are worked on by [`helper`] threads.

mod clock;
mod facts;
mod helper;
mod keeper;
mod listener;
mod pages;
mod pidfile;
mod push;
mod random;
mod signals;
mod socket;
mod succession;
mod systemd;
pub mod tls;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use mio::{Events, Interest, Poll, Registry, Token};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::admin::{Admin, Steward as _};
use crate::arena::{ClientKey, ServerKey};
use crate::auth::KeyDerivation;
use crate::config::{self, Config, PoolConfig, Sockets};
use crate::engine::{
    Accepted, Address, Engine, Event, Handover, Host, ListenerId, Ready, Scope, Shutdown, Stream,
    TlsSide, Who,
};
use crate::limits;
use crate::log::{Format, Settings};
use clock::Clock;
use helper::Helpers;
use keeper::Keeper;
pub use listener::Listener;
use pages::Pages;
pub use pidfile::Pidfile;
use push::{Hands, Push};
use random::Random;
use signals::{Signal, Signals};
use socket::{Kind, Socket};
use succession::Door;
pub use succession::Estate;
use systemd::Manager;
pub use systemd::inherited;

/// Tokens below this are keys of connections ([`token`]).
const FIRST_OWN_TOKEN: usize = usize::MAX - 1024;
/// The tokens of whoever asks for metrics begin here.
const FIRST_PAGE_TOKEN: usize = usize::MAX - 512;
/// The token of the connection to a collector.
const PUSH: Token = Token(usize::MAX - 4);
const SIGNALS: Token = Token(usize::MAX - 2);
const HELPERS: Token = Token(usize::MAX - 3);
const DOOR: Token = Token(usize::MAX - 5);
const HEIR: Token = Token(usize::MAX - 6);
/// Where cancels come after somebody has succeeded us: the only listener then.
const CANCELS: Token = Token(FIRST_OWN_TOKEN);

/// Descriptors beside those of connections: listeners, the poll, the log, names being looked up.
const SPARE_DESCRIPTORS: usize = 64;

/// The process as the engine sees it.
struct Shell {
    registry: Rc<Registry>,
    /// By number; `None`: it is closed.
    listeners: Vec<Option<Listener>>,
    /// Where a successor knocks; `None`: none can.
    door: Option<Door>,
    /// Ours, until somebody succeeds us.
    pidfile: Option<Pidfile>,
    helpers: Helpers,
    random: Random,
    scratch: tls::Scratch,
    sockets: Sockets,
}

/// Listens at the Unix socket; at that of the process which is succeeded, if it is the same.
///
/// # Errors
/// What is in the way, and what to do.
pub fn listen_unix(
    wanted: &config::UnixSocket,
    options: &Sockets,
    estate: &mut Option<Estate>,
) -> Result<Listener, String> {
    match take_unix(&wanted.path(), estate) {
        Some(inherited) => inherited.and_then(|listener| {
            listener.permit(wanted)?;
            listener.reconfigure(options, options);
            Ok(listener)
        }),
        None => Listener::unix(wanted, options),
    }
}

/// A Unix socket of the process that is succeeded, if it has it.
fn take_unix(path: &str, estate: &mut Option<Estate>) -> Option<Result<Listener, String>> {
    let fd = estate.as_mut()?.take(&format!("unix {path}"))?;
    Some(Listener::inherited_unix(fd, path).map_err(|error| error.to_string()))
}

/// Binds the configured addresses, or takes them over; `shared`: with `SO_REUSEPORT`. Where the machine has no IPv6, its
/// addresses are left out if others remain.
///
/// # Errors
///
/// The address that could not be bound, and why.
pub fn listen(
    addresses: &[SocketAddr],
    shared: bool,
    options: &Sockets,
    estate: &mut Option<Estate>,
) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    let mut absent = None;
    for address in addresses {
        let inherited = estate
            .as_mut()
            .and_then(|estate| estate.take(&format!("tcp {address}")));
        let listener = match inherited {
            Some(fd) => Listener::inherited_tcp(fd, *address)
                .inspect(|listener| listener.reconfigure(options, options)),
            None => Listener::tcp(*address, shared, options),
        };
        match listener {
            Ok(listener) => listeners.push(listener),
            Err(error) if address.is_ipv6() && is_absent(&error) => absent = Some((address, error)),
            Err(error) => {
                return Err(format!(
                    "cannot listen on {address}: {}",
                    socket::describe(&error)
                ));
            }
        }
    }
    match absent {
        Some((address, error)) if listeners.is_empty() => Err(format!(
            "cannot listen on {address}: {}",
            socket::describe(&error)
        )),
        _ => Ok(listeners),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
    )
}

/// Raises the soft limit of open files to the hard one, and keeps descriptors for servers and for ourselves: there may be no
/// more clients than it leaves room for. Tells what it allows.
///
/// Servers are not kept more than half of them: of very many pools, not all are full at a time.
pub fn fit_descriptors(config: &mut Config) -> String {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return "the limit of open files is not known".to_owned();
    };
    let limit = if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        hard
    } else {
        soft
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let pools = config.databases.values();
    let most = |pool: &Rc<PoolConfig>| match pool.max_connections {
        0 => limit, // nobody knows how many roles there will be
        max => max + pool.sizes.reserve_pool_size,
    };
    let servers = pools.map(most).fold(0, usize::saturating_add);
    let servers = servers.min(limit / 2);
    let pages = match config.metrics.is_on() {
        true => limits::PAGES_MAX,
        false => 0,
    };
    let room = limit
        .saturating_sub(servers + SPARE_DESCRIPTORS + pages)
        .max(1);
    let wanted = config.server.max_client_connections;
    if wanted > room {
        config.server.max_client_connections = room;
        config.warnings.push(format!(
            "at most {limit} files may be open: max_client_connections is {room} instead of {wanted}; \
             raise the limit (ulimit -n, LimitNOFILE)"
        ));
    }
    if config.log.format == Format::PgBouncer {
        let max = config.server.max_client_connections;
        let most = servers
            .saturating_add(max)
            .saturating_add(SPARE_DESCRIPTORS);
        return format!(
            "kernel file descriptor limit: {limit} (hard: {hard}); max_client_conn: {max}, max expected fd use: {most}"
        );
    }
    format!("at most {limit} files may be open: {servers} for servers, and {room} for clients")
}

/// Binds the addresses at which metrics are told, and their Unix socket.
///
/// # Errors
///
/// What could not be bound, and why.
pub fn listen_for_metrics(
    config: &config::MetricsConfig,
    estate: &mut Option<Estate>,
) -> Result<Vec<Listener>, String> {
    let options = Sockets::default();
    let listeners = listen(&config.listen, false, &options, estate);
    let mut listeners = listeners.map_err(|error| format!("metrics: {error}"))?;
    if let Some(path) = &config.unix_socket {
        listeners.push(match take_unix(path, estate) {
            Some(inherited) => inherited?,
            None => Listener::for_metrics(path, &options)?,
        });
    }
    Ok(listeners)
}

/// Blocks the signals that [`run`] handles; to be called before any thread is started.
///
/// # Errors
///
/// What the operating system says.
pub fn block_signals() -> io::Result<()> {
    signals::block()
}

/// Where the configuration comes from, for SIGHUP.
pub struct Origin {
    /// The file.
    pub path: PathBuf,
    /// What the command line said of the log level.
    pub level: Option<log::LevelFilter>,
    /// The command line wants nothing logged to standard error.
    pub silent: bool,
    /// Where we listen, as the file had it at the start.
    pub listen: Vec<SocketAddr>,
    /// `server.so_reuseport`, as the file had it at the start.
    pub so_reuseport: bool,
    /// The Unix socket, as the file had it at the start.
    pub unix_socket: Option<config::UnixSocket>,
    /// `server.user`, as the file had it at the start.
    pub user: Option<String>,
    /// The command line names the user: what the file says does not matter.
    pub user_is_given: bool,
    /// `auth.mock_secret`, as the file had it at the start.
    pub mock_secret: Option<config::Secret>,
    /// Section `metrics`, as the file had it at the start.
    pub metrics: config::MetricsConfig,
    /// `server.pidfile`, as the file had it at the start.
    pub pidfile: Option<PathBuf>,
}

impl Origin {
    /// What the log is to be, by the configuration and the command line.
    pub fn log_settings(&self, config: &Config) -> Settings {
        let log = &config.log;
        Settings {
            level: self.level.unwrap_or(config.server.log_level),
            format: log.format,
            stderr: log.stderr && !self.silent,
            file: log.file.clone(),
            syslog: log.syslog.clone(),
            repeat_limit: log.repeat_limit,
        }
    }

    /// What a new configuration asks for that only a restart can bring.
    fn takes_restart(&self, new: &Config) -> Vec<String> {
        let metrics = &new.metrics;
        let (new, mock_secret) = (&new.server, &new.auth.mock_secret);
        let addresses = |list: &[SocketAddr]| {
            let list: Vec<String> = list.iter().map(SocketAddr::to_string).collect();
            list.join(", ")
        };
        let user = |user: &Option<String>| match user {
            Some(user) => format!("\"{user}\""),
            None => "no other user".to_owned(),
        };
        let mut found = Vec::new();
        if new.listen != self.listen {
            found.push((
                "listen_addr",
                addresses(&new.listen),
                addresses(&self.listen),
            ));
        }
        if new.so_reuseport != self.so_reuseport {
            let is = |shared: bool| shared.to_string();
            found.push(("so_reuseport", is(new.so_reuseport), is(self.so_reuseport)));
        }
        if new.unix_socket != self.unix_socket {
            let path = |socket: &Option<config::UnixSocket>| match socket {
                Some(socket) => {
                    let group = socket.group.as_ref();
                    let group = group.map_or(String::new(), |group| format!(" for group {group}"));
                    let (path, mode) = (socket.path(), socket.mode);
                    format!("\"{path}\" with mode 0{mode:03o}{group}")
                }
                None => "none".to_owned(),
            };
            found.push((
                "unix_socket_dir",
                path(&new.unix_socket),
                path(&self.unix_socket),
            ));
        }
        if new.pidfile != self.pidfile {
            let path = |path: &Option<PathBuf>| match path {
                Some(path) => format!("\"{}\"", path.display()),
                None => "none".to_owned(),
            };
            found.push(("pidfile", path(&new.pidfile), path(&self.pidfile)));
        }
        if new.user != self.user && !self.user_is_given {
            found.push(("user", user(&new.user), user(&self.user)));
        }
        let text =
            |(key, new, old)| format!("server.{key}: {new} takes a restart; {old} stays in force");
        let mut texts: Vec<String> = found.into_iter().map(text).collect();
        if *mock_secret != self.mock_secret {
            texts.push("auth.mock_secret takes a restart; the old one stays in force".to_owned());
        }
        let (old, metrics) = (self.metrics.places(), metrics.places());
        if metrics != old {
            texts.push(format!(
                "metrics: {} takes a restart; {} stays in force",
                metrics.join(", "),
                old.join(", ")
            ));
        }
        texts
    }
}

/// Runs until a signal ends it. `pidfile`: ours already; with an `estate`, whose process has the name still, it is written here.
///
/// # Errors
///
/// What the operating system says when the loop cannot be set up.
pub fn run(
    config: Config,
    origin: Origin,
    listeners: Vec<Listener>,
    pages: Vec<Listener>,
    pidfile: Option<Pidfile>,
    estate: Option<Estate>,
) -> io::Result<()> {
    let unix_socket = config.server.unix_socket.clone();
    let mut poll = Poll::new()?;
    let registry = Rc::new(poll.registry().try_clone()?);
    let mut signals = Signals::new()?;
    registry.register(&mut signals, SIGNALS, Interest::READABLE)?;
    let helpers = Helpers::start(mio::Waker::new(&registry, HELPERS)?)?;
    let mut shell = Shell {
        registry,
        listeners: Vec::new(),
        door: None,
        pidfile,
        helpers,
        random: Random::new(),
        scratch: tls::Scratch::default(),
        sockets: config.server.sockets,
    };
    for (at, mut listener) in listeners.into_iter().enumerate() {
        listener.register(&shell.registry, Token(FIRST_OWN_TOKEN + at))?;
        shell.listeners.push(Some(listener));
    }
    let mut pages = Pages::new(FIRST_PAGE_TOKEN, pages, &shell.registry)?;
    let mut push = Push::new(PUSH);
    let started_us = facts::now_us();
    let clock = Clock::start();
    let mut engine = Engine::new(Rc::new(config), clock.now(), &mut shell);
    engine.contain(true);
    // The old process lets go: from here on nothing can fail any more.
    if let Some(estate) = estate {
        let cancels = estate.enter()?;
        shell.adopt(&origin, &mut pages);
        log::info!(
            "took over from the process that takes cancels at {}",
            cancels.display()
        );
        engine.succeed(cancels);
    }
    if let Some(socket) = &unix_socket {
        shell.open_door(socket);
    }
    let mut admin = Admin::default();
    let mut keeper = Keeper::new(origin);
    let (mut polled, mut events) = (Events::with_capacity(1024), Vec::new());
    let mut manager = Manager::find();
    manager.ready();
    // Whoever connected before the loop began has no edge of its own.
    events.extend((0..shell.listeners.len()).map(|at| Event::Incoming(ListenerId(at))));
    loop {
        let begun = clock.now();
        let turn = engine.turn(begun, &mut events, &mut shell);
        if admin.has_work(&turn.requests) {
            let begun = clock.now();
            events.extend(admin.serve(&mut engine, &turn.requests, &mut keeper, &mut shell));
            let ended = clock.now();
            admin.served(Duration::from_micros(ended.since(begun)), ended);
        }
        if turn.stopped {
            return Ok(());
        }
        if let Some(status) = turn.status {
            manager.status(&status);
        }
        let alive = manager.is_alive();
        let mut wake = turn.wake.into_iter().chain(admin.wake()).min();
        let pushes = engine.config().metrics.otlp.is_some();
        if pushes {
            let mut hands = Hands {
                engine: &engine,
                registry: &shell.registry,
                helpers: &mut shell.helpers,
                scratch: &shell.scratch,
            };
            wake = wake.into_iter().chain(push.turn(begun, &mut hands)).min();
        }
        if pages.is_on() {
            let counts = pushes.then(|| push.counts());
            let facts = || facts::facts(started_us, counts);
            let (registry, scratch) = (&shell.registry, &shell.scratch);
            let at = pages.turn(begun, &engine, registry, scratch, &facts);
            wake = wake.into_iter().chain(at).min();
        }
        if pages.is_on() || pushes {
            engine.turned(clock.now().since(begun));
        }
        let timeout = match wake {
            _ if !events.is_empty() => Some(Duration::ZERO),
            Some(wake) => Some(next_millisecond(wake.since(begun))),
            None => None,
        };
        let timeout = timeout.into_iter().chain(alive).min();
        match poll.poll(&mut polled, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &polled {
            match event.token() {
                token if token.0 < FIRST_OWN_TOKEN => engine.ready(owner(token), readiness(event)),
                SIGNALS => signals.drain(&mut |signal| {
                    on_signal(signal, &mut keeper, &manager, &mut engine, &mut events)
                }),
                HELPERS => {
                    shell.helpers.drain(&mut events);
                    push.overhear(&events);
                }
                DOOR => shell.answer_door(),
                HEIR => shell.hear_heir(&engine, &keeper.origin, &mut pages, &manager, &mut events),
                Token(token) if pages.note(token, event) => {}
                token if push.note(token, event) => {}
                Token(token) => events.push(Event::Incoming(ListenerId(token - FIRST_OWN_TOKEN))),
            }
        }
    }
}

impl Shell {
    /// What stands in the file system for what was taken over is ours.
    fn adopt(&mut self, origin: &Origin, pages: &mut Pages) {
        let listeners = self.listeners.iter_mut().flatten();
        for listener in listeners.chain(pages.listeners_mut()) {
            listener.adopt();
        }
        self.write_pidfile(origin);
    }

    /// As long as we serve, it is no reason to end that the file cannot be written.
    fn write_pidfile(&mut self, origin: &Origin) {
        let written = origin.pidfile.as_deref().map(Pidfile::write).transpose();
        self.pidfile = written.unwrap_or_else(|error| {
            log::error!("{error}");
            None
        });
    }

    /// Lets a successor find us, if the Unix socket is ours and no service manager's.
    fn open_door(&mut self, socket: &config::UnixSocket) {
        let path = socket.path();
        if !self.listeners.iter().flatten().any(|l| l.path() == path) {
            return;
        }
        match Door::open(socket, &self.registry, DOOR, HEIR) {
            Ok(door) => self.door = Some(door),
            Err(error) => log::warn!("no process can take over from this one (-R): {error}"),
        }
    }

    fn answer_door(&mut self) {
        if let Some(door) = &mut self.door {
            door.answer(&self.registry);
        }
    }

    /// Somebody who is to take over has said something. When it is ready, all but the clients that are here is its own.
    fn hear_heir(
        &mut self,
        engine: &Engine,
        origin: &Origin,
        pages: &mut Pages,
        manager: &Manager,
        events: &mut Vec<Event>,
    ) {
        let (Some(door), Some(socket)) = (&mut self.door, &origin.unix_socket) else {
            return;
        };
        let path = succession::cancels_path(socket);
        let cancels = match engine.is_stopping() {
            true => Err("it is being stopped"),
            false => Ok(std::path::Path::new(&path)),
        };
        let listeners = self.listeners.iter().flatten().chain(pages.listeners());
        if !door.hear(&listeners.collect::<Vec<_>>(), cancels, &self.registry) {
            return;
        }
        // The heir writes its own as soon as it hears of us.
        self.pidfile = None;
        let opened = Listener::for_cancels(&path, &self.sockets).and_then(|mut listener| {
            listener.register(&self.registry, CANCELS)?;
            Ok(listener)
        });
        let heir = door.heir();
        if !door.hand_over(&self.registry) {
            log::warn!("the process that was to take over has gone: all stays as it was");
            if let Ok(listener) = opened {
                listener.close(&self.registry);
            }
            return self.write_pidfile(origin);
        }
        if let Some(pid) = heir {
            manager.succeeded_by(pid);
        }
        if let Some(door) = self.door.take() {
            door.leave(&self.registry);
        }
        pages.leave(&self.registry);
        for listener in self.listeners.drain(..).flatten() {
            listener.leave(&self.registry);
        }
        match opened {
            Ok(listener) => self.listeners.push(Some(listener)),
            Err(error) => {
                log::warn!("cancels for the clients that are left cannot be taken: {error}")
            }
        }
        events.push(Event::Shutdown(Shutdown::Succeeded));
    }
}

/// So many microseconds, rounded up: a poll that returns a little early only costs another turn, but it costs it every time.
fn next_millisecond(us: u64) -> Duration {
    Duration::from_millis(us.div_ceil(1000))
}

fn readiness(event: &mio::event::Event) -> Ready {
    Ready {
        read: event.is_readable(),
        write: event.is_writable(),
        hung_up: event.is_read_closed() || event.is_error(),
    }
}

fn on_signal(
    signal: Signal,
    keeper: &mut Keeper,
    manager: &Manager,
    engine: &mut Engine,
    events: &mut Vec<Event>,
) {
    let stopping = engine.is_stopping() && !engine.is_succeeded();
    match signal {
        Signal::Hangup => {
            manager.reloading();
            log::info!("got SIGHUP, re-reading {}", keeper.origin.path.display());
            let new = keeper.reload().map(|new| Event::Reload(Rc::new(new)));
            events.push(new.unwrap_or(Event::ReloadFailed));
            manager.ready();
        }
        Signal::Terminate if stopping => log::info!("got SIGTERM while shutting down, fast exit"),
        Signal::Terminate => {
            log::info!("got SIGTERM, shutting down, waiting for all clients disconnect")
        }
        Signal::Interrupt if stopping => log::info!("got SIGINT while shutting down, fast exit"),
        Signal::Interrupt => log::info!(
            "got SIGINT, shutting down, waiting for all servers connections to be released"
        ),
        Signal::Quit => log::info!("got SIGQUIT, fast exit"),
        Signal::Pause if engine.pause(Scope::All) => {
            log::info!("got SIGUSR1, pausing all activity")
        }
        Signal::Pause => log::info!("got SIGUSR1, but already paused/suspended"),
        Signal::Resume if stopping => log::info!("got SIGUSR2 while shutting down, ignoring"),
        Signal::Resume if engine.is_suspended() => {
            engine.resume(Scope::All);
            log::info!("got SIGUSR2, continuing from SUSPEND")
        }
        Signal::Resume if engine.resume(Scope::All) => {
            log::info!("got SIGUSR2, continuing from PAUSE")
        }
        Signal::Resume => log::info!("got SIGUSR2, but not paused/suspended"),
    }
    let how = match signal {
        // What stands still would never come to its end.
        Signal::Terminate | Signal::Interrupt if engine.is_suspended() => Shutdown::Immediate,
        Signal::Terminate => Shutdown::WaitForClients,
        Signal::Interrupt => Shutdown::WaitForServers,
        Signal::Quit => Shutdown::Immediate,
        Signal::Hangup | Signal::Pause | Signal::Resume => return,
    };
    manager.stopping();
    events.push(Event::Shutdown(how));
}

// A token has 64 bits, and no arena has 2^31 slots.
const _: () = assert!(usize::BITS == 64);

/// The whole key, so that nothing has to be kept beside it: generation, slot, and in the last bit whether it is a server's.
fn token(who: Who) -> Token {
    let (generation, slot, server) = match who {
        Who::Client(key) => (key.generation(), key.index(), 0),
        Who::Server(key) => (key.generation(), key.index(), 1),
    };
    Token((generation as usize) << 32 | (slot as usize) << 1 | server)
}

/// Whose a token is.
fn owner(Token(token): Token) -> Who {
    let (generation, slot) = ((token >> 32) as u32, (token as u32) >> 1);
    if token & 1 == 0 {
        Who::Client(ClientKey::from_parts(slot, generation))
    } else {
        Who::Server(ServerKey::from_parts(slot, generation))
    }
}

impl Host for Shell {
    fn accept(&mut self, listener: ListenerId, key: ClientKey) -> Accepted {
        loop {
            let Some(Some(listener)) = self.listeners.get(listener.0) else {
                return Accepted::Blocked;
            };
            match listener.accept(&self.registry, token(Who::Client(key))) {
                Ok(Ok(socket)) => {
                    return Accepted::Stream {
                        stream: Box::new(socket),
                        more: listener.has_more(),
                    };
                }
                Ok(Err(error)) => return Accepted::Exhausted(error.to_string()),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Accepted::Blocked,
                    // It hung up before it was taken in.
                    io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset => {}
                    _ => return Accepted::Exhausted(error.to_string()),
                },
            }
        }
    }

    fn dial(&mut self, to: &Address, key: ServerKey) -> Result<Box<dyn Stream>, String> {
        let dialled = || -> io::Result<Box<dyn Stream>> {
            let kind = match to {
                Address::Tcp(address) => Kind::Tcp(mio::net::TcpStream::connect(*address)?),
                Address::Unix(path) => Kind::Unix(socket::dial_unix(path)?),
            };
            let token = token(Who::Server(key));
            let socket = Socket::dialled(kind, &self.sockets, &self.registry, token)?;
            Ok(Box::new(socket))
        };
        dialled().map_err(|error| socket::describe(&error))
    }

    fn secure(
        &mut self,
        stream: Box<dyn Stream>,
        side: TlsSide,
        handover: Handover,
    ) -> Result<Box<dyn Stream>, String> {
        tls::secure(stream, side, handover, &self.scratch)
    }

    fn resolve(&mut self, name: &str) {
        self.helpers.resolve(name.to_owned());
    }

    fn derive(&mut self, job: KeyDerivation, who: Who) {
        self.helpers.derive(job, who);
    }

    fn user_name(&mut self, uid: u32, key: ClientKey) {
        self.helpers.user_name(uid, key);
    }

    fn networks(&self) -> Vec<config::hba::Network> {
        socket::networks()
    }

    fn random(&mut self, into: &mut [u8]) {
        // Without randomness there are no cancel keys and no nonces: better no service than a guessable one.
        assert!(
            self.random.fill(into).is_ok(),
            "the operating system gives no random bytes"
        );
    }

    fn configured(&mut self, config: &Config) {
        let old = std::mem::replace(&mut self.sockets, config.server.sockets);
        for listener in self.listeners.iter().flatten() {
            listener.reconfigure(&old, &self.sockets);
        }
    }

    fn listeners(&self) -> usize {
        self.listeners.len()
    }

    fn stop_listening(&mut self) {
        for place in &mut self.listeners {
            if let Some(listener) = place.take_if(|listener| listener.is_tcp()) {
                listener.close(&self.registry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_whole_key() {
        for (slot, generation) in [(0, 0), (1, 7), ((1 << 31) - 1, u32::MAX), (5, u32::MAX)] {
            for who in [
                Who::Client(ClientKey::from_parts(slot, generation)),
                Who::Server(ServerKey::from_parts(slot, generation)),
            ] {
                assert_eq!(owner(token(who)), who);
            }
        }
        let last = Who::Server(ServerKey::from_parts(1 << 30, u32::MAX));
        assert!(token(last).0 < FIRST_OWN_TOKEN);
    }
}
