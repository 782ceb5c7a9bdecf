//! Listening sockets: TCP addresses, and a Unix socket with its lock file.
//!
//! The lock file is PostgreSQL's own (`.s.PGSQL.<port>.lock`, the process's id in its first line), so that the two respect each
//! other. Whoever left one behind and is gone is not asked; whoever lives, or answers at the socket without
//! having a lock file, as PgBouncer, keeps it.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mio::event::Source;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::kill;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use nix::unistd::{Group, Pid, getppid};

use super::socket::{Kind, Socket, describe, in_place_of, listening, queue, watch_listening};
use crate::config::{Sockets, UnixSocket};

/// A listening socket.
pub struct Listener {
    socket: Listening,
    name: String,
    /// That of a Unix socket which is no service manager's.
    path: String,
    /// It was another process's before.
    is_inherited: bool,
    /// What stands for it in the file system; removed with it.
    files: Option<Files>,
}

enum Listening {
    Tcp(mio::net::TcpListener),
    Unix(mio::net::UnixListener),
}

impl Listener {
    /// Takes a connection, whose events come for the token from now on. It can be written, and there may be something to read.
    pub(super) fn accept(
        &self,
        registry: &Rc<Registry>,
        token: Token,
    ) -> io::Result<io::Result<Socket>> {
        let accepted = match &self.socket {
            Listening::Tcp(listener) => Kind::Tcp(listener.accept()?.0),
            Listening::Unix(listener) => Kind::Unix(listener.accept()?.0),
        };
        Ok(Socket::accepted(accepted, registry, token))
    }

    /// Whether somebody waits to be accepted. To accept in vain costs several times what asking does: the kernel makes a socket first.
    pub(super) fn has_more(&self) -> bool {
        let of = match &self.socket {
            Listening::Tcp(listener) => listener.as_fd(),
            Listening::Unix(listener) => listener.as_fd(),
        };
        let mut asked = [PollFd::new(of, PollFlags::POLLIN)];
        poll(&mut asked, PollTimeout::ZERO) != Ok(0) // whatever it is that it says, accepting tells
    }

    /// Takes other options over, for connections that are accepted from now on. `old`: those that it had.
    pub(super) fn reconfigure(&self, old: &Sockets, options: &Sockets) {
        let Ok(backlog) = queue(options.listen_backlog) else {
            return;
        };
        // Asked of a socket that listens already, `listen` only changes how many may wait.
        let _ = match &self.socket {
            Listening::Tcp(listener) => {
                watch_listening(listener, &in_place_of(old, options));
                socket::listen(listener, backlog)
            }
            Listening::Unix(listener) => socket::listen(listener, backlog),
        };
    }

    /// What is accepted from it is to have these options. A socket that we have made has them from the start; one of the service
    /// manager's has its own, and how many may wait there is not for us to say.
    pub fn tune(&self, options: &Sockets) {
        if let Listening::Tcp(listener) = &self.socket {
            watch_listening(listener, options);
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(self.source(), token, Interest::READABLE)
    }

    /// Closes it, and removes its files.
    pub(super) fn close(mut self, registry: &Registry) {
        let _ = registry.deregister(self.source());
    }

    fn source(&mut self) -> &mut dyn Source {
        match &mut self.socket {
            Listening::Tcp(listener) => listener,
            Listening::Unix(listener) => listener,
        }
    }

    /// What it is called when it is handed over ([`super::succession`]).
    pub(super) fn key(&self) -> String {
        match &self.socket {
            Listening::Tcp(_) => format!("tcp {}", self.name),
            Listening::Unix(_) => format!("unix {}", self.path),
        }
    }

    /// The name of a Unix socket that is no service manager's; else nothing.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Its descriptor.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Listening::Tcp(listener) => listener.as_fd(),
            Listening::Unix(listener) => listener.as_fd(),
        }
    }

    /// Leaves it, with its files, to another process that has it, too.
    pub(super) fn leave(mut self, registry: &Registry) {
        let _ = registry.deregister(self.source());
        if let Some(files) = self.files.take() {
            std::mem::forget(files);
        }
    }

    /// The files of a socket that was taken over are ours from now on: whoever looks finds our process there.
    pub(super) fn adopt(&mut self) {
        if self.is_inherited && !self.path.is_empty() && !self.path.starts_with('@') {
            let files = Files::of(Path::new(&self.path));
            files.sign();
            self.files = Some(files);
        }
    }

    /// Lets in whom the configuration wants.
    ///
    /// # Errors
    /// What the operating system says; there is no such group.
    pub(super) fn permit(&self, wanted: &UnixSocket) -> Result<(), String> {
        match self.path.starts_with('@') {
            true => Ok(()),
            false => permit(&self.path, wanted),
        }
    }

    /// Listens where a process that has been succeeded takes cancels.
    pub(super) fn for_cancels(path: &str, options: &Sockets) -> io::Result<Listener> {
        let address = match path.strip_prefix('@') {
            Some(name) => UnixAddr::new_abstract(name.as_bytes()),
            None => UnixAddr::new(path),
        };
        let files = (!path.starts_with('@')).then(|| Files::of(Path::new(path)));
        if files.is_some() {
            // A process that had our number before may have left it.
            let _ = fs::remove_file(path);
        }
        let fd = unix_socket(&address?)?;
        if files.is_some() {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        }
        socket::listen(&fd, queue(options.listen_backlog)?)?;
        Ok(Listener {
            socket: Listening::Unix(mio::net::UnixListener::from_std(UnixListener::from(fd))),
            name: format!("Unix socket \"{path}\""),
            path: path.to_owned(),
            is_inherited: false,
            files,
        })
    }

    /// A TCP socket that listens already, of a process that is succeeded.
    pub(super) fn inherited_tcp(fd: OwnedFd, address: SocketAddr) -> io::Result<Listener> {
        let listener = std::net::TcpListener::from(fd);
        let has = listener.local_addr()?;
        if has != address {
            return Err(io::Error::other(format!("it listens on {has}")));
        }
        Listener::tcp_from(listener)
    }

    /// A Unix socket that listens already, of a process that is succeeded. Its files are not ours yet.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn inherited_unix(fd: OwnedFd, path: &str) -> io::Result<Listener> {
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(true)?;
        Ok(Listener {
            socket: Listening::Unix(mio::net::UnixListener::from_std(listener)),
            name: format!("Unix socket \"{path}\""),
            path: path.to_owned(),
            is_inherited: true,
            files: None,
        })
    }

    /// Whether it listens on a TCP address.
    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.socket, Listening::Tcp(_))
    }

    /// The process has another number now: its lock file says so.
    pub fn is_ours(&mut self) {
        if let Some(files) = &self.files {
            files.sign();
        }
    }

    /// Listens on a TCP address. `shared`: others may, too (`SO_REUSEPORT`).
    pub(super) fn tcp(
        address: SocketAddr,
        shared: bool,
        options: &Sockets,
    ) -> io::Result<Listener> {
        let fd = listening(address, shared, options)?;
        Listener::tcp_from(std::net::TcpListener::from(fd))
    }

    /// Takes over a TCP socket that listens.
    pub(super) fn tcp_from(listener: std::net::TcpListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        let name = listener.local_addr()?.to_string();
        Ok(Listener {
            socket: Listening::Tcp(mio::net::TcpListener::from_std(listener)),
            name,
            path: String::new(),
            is_inherited: false,
            files: None,
        })
    }

    /// Takes over a Unix socket that listens. Its file is somebody else's.
    pub(super) fn unix_from(listener: UnixListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let path = address.as_pathname().map(|path| path.display().to_string());
        Ok(Listener {
            socket: Listening::Unix(mio::net::UnixListener::from_std(listener)),
            name: format!("Unix socket \"{}\"", path.unwrap_or_default()),
            path: String::new(),
            is_inherited: false,
            files: None,
        })
    }

    /// Listens on a Unix socket.
    ///
    /// # Errors
    /// What is in the way, and what to do.
    pub fn unix(wanted: &UnixSocket, options: &Sockets) -> Result<Listener, String> {
        Listener::unix_at(&wanted.path(), wanted, options.listen_backlog)
    }

    /// Listens on the Unix socket for metrics: for its owner and group.
    ///
    /// # Errors
    /// What is in the way, and what to do.
    pub(super) fn for_metrics(path: &str, options: &Sockets) -> Result<Listener, String> {
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let wanted = UnixSocket {
            directory: directory.to_owned(),
            port: 0,
            mode: 0o660,
            group: None,
        };
        Listener::unix_at(path, &wanted, options.listen_backlog)
    }

    fn unix_at(path: &str, wanted: &UnixSocket, backlog: u32) -> Result<Listener, String> {
        let said = |error: &io::Error| {
            format!(
                "cannot listen on Unix socket \"{path}\": {}",
                describe(error)
            )
        };
        let (address, files) = match path.strip_prefix('@') {
            Some(name) => (UnixAddr::new_abstract(name.as_bytes()), None),
            None => {
                let files = Files::take(Path::new(path), wanted)?;
                (UnixAddr::new(path), Some(files))
            }
        };
        let address = address.map_err(io::Error::from);
        let fd = address.and_then(|address| unix_socket(&address));
        let fd = fd.map_err(|error| said(&error))?;
        if files.is_some() {
            // Nobody can connect before it listens.
            permit(path, wanted)?;
        }
        let backlog = queue(backlog).map_err(io::Error::from);
        backlog
            .and_then(|backlog| socket::listen(&fd, backlog).map_err(io::Error::from))
            .map_err(|error| said(&error))?;
        Ok(Listener {
            socket: Listening::Unix(mio::net::UnixListener::from_std(UnixListener::from(fd))),
            name: format!("Unix socket \"{path}\""),
            path: path.to_owned(),
            is_inherited: false,
            files,
        })
    }
}

/// A socket with a name, at which nobody listens yet.
fn unix_socket(address: &UnixAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::bind(fd.as_raw_fd(), address)?;
    Ok(fd)
}

fn permit(path: &str, wanted: &UnixSocket) -> Result<(), String> {
    let group = wanted.group.as_deref().map(group_id).transpose()?;
    fs::set_permissions(path, fs::Permissions::from_mode(wanted.mode))
        .and_then(|()| group.map_or(Ok(()), |group| chown(path, None, Some(group))))
        .map_err(|error| {
            let to = wanted.group.as_deref().unwrap_or("its own");
            format!(
                "cannot give Unix socket \"{path}\" to group {to}: {}",
                describe(&error)
            )
        })
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut lock = socket.as_os_str().to_owned();
    lock.push(".lock");
    lock.into()
}

fn group_id(name: &str) -> Result<u32, String> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        _ => Err(format!(
            "server.unix_socket_group: there is no group \"{name}\" on this machine"
        )),
    }
}

/// A socket's file and its lock file; both go with this.
struct Files {
    socket: PathBuf,
    lock: PathBuf,
    /// What the lock file says behind the process's number.
    rest: String,
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(&self.lock);
    }
}

impl Files {
    /// Those of a socket that is there already.
    fn of(socket: &Path) -> Files {
        let lock = lock_path(socket);
        let text = fs::read_to_string(&lock).unwrap_or_default();
        let rest = text.find('\n').and_then(|end| text.get(end..));
        Files {
            socket: socket.to_owned(),
            rest: rest.unwrap_or("\n").to_owned(),
            lock,
        }
    }

    /// Writes our present number over the one that we had. Whoever reads the file must not find it empty.
    fn sign(&self) {
        let mut new = self.lock.as_os_str().to_owned();
        new.push(".new");
        let text = format!("{}{}", std::process::id(), self.rest);
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &self.lock));
        if let Err(error) = written {
            log::warn!("lock file {}: {}", self.lock.display(), describe(&error));
        }
    }

    /// Makes sure that the name is ours.
    fn take(socket: &Path, wanted: &UnixSocket) -> Result<Files, String> {
        let lock = lock_path(socket);
        let shown = lock.display();
        let said =
            |error: io::Error| format!("cannot create lock file \"{shown}\": {}", describe(&error));
        // Somebody may come in between, but not for ever.
        for _ in 0..100 {
            let created = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(&lock);
            match created {
                Ok(mut file) => {
                    let (port, directory) = (wanted.port, &wanted.directory);
                    let files = Files {
                        socket: socket.to_owned(),
                        lock: lock.clone(),
                        rest: format!("\n{directory}\n0\n{port}\n{directory}\n"),
                    };
                    let pid = std::process::id();
                    write!(file, "{pid}{}", files.rest).map_err(said)?;
                    return files.free();
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let text = match fs::read_to_string(&lock) {
                        Ok(text) => text,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(said(error)),
                    };
                    owner_is_gone(&text, socket, &lock)?;
                    match fs::remove_file(&lock) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(format!(
                                "cannot remove old lock file \"{shown}\": {}; remove it by hand",
                                describe(&error)
                            ));
                        }
                        _ => {}
                    }
                }
                Err(error) => return Err(said(error)),
            }
        }
        Err(format!(
            "lock file \"{shown}\" is made anew all the time by somebody else"
        ))
    }

    /// Removes a socket that nobody listens at.
    fn free(self) -> Result<Files, String> {
        let shown = self.socket.display().to_string();
        match UnixStream::connect(&self.socket) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(self),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(&self.socket).map_err(|error| {
                    format!(
                        "cannot remove old Unix socket \"{shown}\": {}",
                        describe(&error)
                    )
                })?;
                Ok(self)
            }
            other => {
                // Not ours: only the lock goes.
                let lock = self.lock.clone();
                std::mem::forget(self);
                let _ = fs::remove_file(lock);
                Err(match other {
                    Ok(_) => format!(
                        "somebody listens on Unix socket \"{shown}\" already; stop it, or choose another unix_socket_dir or port"
                    ),
                    Err(error) => {
                        format!("cannot use Unix socket \"{shown}\": {}", describe(&error))
                    }
                })
            }
        }
    }
}

/// As PostgreSQL's `CreateLockFile`: our own number, and our parent's, were somebody else's before a restart of the machine or
/// the container.
fn owner_is_gone(text: &str, socket: &Path, lock: &Path) -> Result<(), String> {
    let shown = lock.display();
    let first = text.lines().next().unwrap_or_default().trim();
    let Ok(pid) = first.trim_start_matches('-').parse::<i32>() else {
        return Err(format!(
            "lock file \"{shown}\" holds no process id: another server is starting, or it is left from a crash; \
             if none is, remove it"
        ));
    };
    let own = [Pid::this().as_raw(), getppid().as_raw(), 0];
    if own.contains(&pid) || kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
        return Ok(());
    }
    Err(format!(
        "lock file \"{shown}\" already exists: process {pid} uses socket file \"{}\"; stop it, or choose another \
         unix_socket_dir or port",
        socket.display()
    ))
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_whether_others_wait() {
        let own = mio::net::TcpListener::bind("127.0.0.1:0".parse().expect("an address"));
        let own = own.expect("a port");
        let address = own.local_addr().expect("an address");
        let listener = Listener {
            socket: Listening::Tcp(own),
            name: String::new(),
            path: String::new(),
            is_inherited: false,
            files: None,
        };
        let poll = mio::Poll::new().expect("a poll");
        let registry = Rc::new(poll.registry().try_clone().expect("its registry"));
        assert!(!listener.has_more());
        let _clients = [0; 3].map(|_| std::net::TcpStream::connect(address).expect("a client"));
        let more = [0; 3].map(|number| {
            let accepted = listener.accept(&registry, Token(number));
            assert!(accepted.expect("somebody waits").is_ok());
            listener.has_more()
        });
        assert_eq!(more, [true, true, false]);
    }
}
