//! One process takes over from another (`-R`): its listening sockets, so that no connection is refused in between.
//!
//! Beside its Unix socket a process keeps a *door* (`.s.AETHER.<port>`, a socket for packets). Whoever is to succeed it knocks there,
//! is known by its user, and is given the listening sockets, one descriptor in each packet. Nothing has happened until it says that
//! it is ready. Then the old process lets go of the sockets and their files, and goes on serving the clients that it has until they
//! leave; it is still asked, at a socket of its own, for the cancel requests that the new one does not know.
//!
//! | the new one says | the old one answers |
//! |---|---|
//! | `claim 1` | `tcp ADDRESS` and `unix PATH`, each with its descriptor; at last `all PATH`, where it takes cancels. Or `no WHY` |
//! | `ready` | `yours` |

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd::{Uid, geteuid};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::listener::Listener;
use super::socket::describe;
use crate::config::UnixSocket;

const CLAIM: &str = "claim 1";
const READY: &str = "ready";
const YOURS: &str = "yours";
/// More than any packet of ours is long: a word and the path of a socket.
const PACKET_MAX: usize = 512;
/// Sockets that are handed over at most.
const SOCKETS_MAX: usize = 256;
/// How long the new process waits for each word of the old one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The door's name.
fn door_path(socket: &UnixSocket) -> String {
    format!("{}/.s.AETHER.{}", socket.directory, socket.port)
}

/// Where a process takes cancels that has been succeeded.
pub(super) fn cancels_path(socket: &UnixSocket) -> String {
    format!("{}.{}", door_path(socket), std::process::id())
}

fn address(path: &str) -> io::Result<SocketAddrUnix> {
    Ok(match path.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(path)?,
    })
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

fn send(to: BorrowedFd<'_>, text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let bytes = [IoSlice::new(text.as_bytes())];
    rustix::net::sendmsg(to, &bytes, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A packet and the descriptor that came with it; `None`: the other end has closed.
fn receive(from: BorrowedFd<'_>) -> io::Result<Option<(String, Option<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; PACKET_MAX];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(from, &mut slices, &mut control, flags)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.into_iter().next();
        }
    }
    let text = buffer.get(..received.bytes).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some((
        String::from_utf8_lossy(text).into_owned(),
        descriptor,
    )))
}

/// The process at the other end, and its user.
fn peer_of(connection: BorrowedFd<'_>) -> Option<(i32, Uid)> {
    let peer = getsockopt(&connection, sockopt::PeerCredentials).ok()?;
    Some((peer.pid(), Uid::from_raw(peer.uid())))
}

// ---- the new process ----

/// What is taken over, as long as it is not ours yet.
pub struct Estate {
    connection: OwnedFd,
    /// The old process's number.
    pid: i32,
    sockets: BTreeMap<String, OwnedFd>,
    /// Where the old process takes cancels.
    cancels: PathBuf,
}

impl Estate {
    /// Claims the sockets of the process that runs with this configuration. `None`: there is none. `user`: whose it has to be.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub fn claim(socket: Option<&UnixSocket>, user: Uid) -> Result<Option<Estate>, String> {
        let socket = socket.ok_or(
            "-R needs server.unix_socket_dir: the process that is to be succeeded is found there",
        )?;
        let path = door_path(socket);
        let said = |error: io::Error| {
            format!(
                "cannot take over from the process at \"{path}\": {}",
                describe(&error)
            )
        };
        let connection = match knock(&path) {
            Ok(connection) => connection,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                _ => return Err(said(error)),
            },
        };
        let owner =
            peer_of(connection.as_fd()).filter(|(_, owner)| *owner == user || owner.is_root());
        let Some((pid, _)) = owner else {
            return Err(format!(
                "the process at \"{path}\" belongs to somebody else: nothing is taken from it"
            ));
        };
        send(connection.as_fd(), CLAIM, None).map_err(said)?;
        let mut estate = Estate {
            connection,
            pid,
            sockets: BTreeMap::new(),
            cancels: PathBuf::new(),
        };
        for _ in 0..SOCKETS_MAX {
            let (text, descriptor) = estate.next_word().map_err(said)?;
            match (text.split_once(' '), descriptor) {
                (Some(("tcp" | "unix", _)), Some(descriptor)) => {
                    estate.sockets.insert(text, descriptor);
                }
                (Some(("all", path)), None) => {
                    estate.cancels = PathBuf::from(path);
                    return Ok(Some(estate));
                }
                (Some(("no", why)), None) => {
                    return Err(format!("the process at \"{path}\" refuses: {why}"));
                }
                _ => break,
            }
        }
        Err(format!(
            "the process at \"{path}\" does not speak this version's language"
        ))
    }

    fn next_word(&self) -> io::Result<(String, Option<OwnedFd>)> {
        let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
        receive(self.connection.as_fd())?.ok_or_else(closed)
    }

    /// The number of the process that has it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A listening socket that is there, by its kind and name.
    pub(super) fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.sockets.remove(name)
    }

    /// Says that we are ready, and waits until the old process has let go. Where it takes cancels from now on.
    ///
    /// # Errors
    /// It has not: it goes on as if nothing had been.
    pub(super) fn enter(self) -> io::Result<PathBuf> {
        send(self.connection.as_fd(), READY, None)?;
        match self.next_word()? {
            (text, None) if text == YOURS => Ok(self.cancels),
            (text, _) => Err(io::Error::other(format!("the old process said {text:?}"))),
        }
    }
}

fn knock(path: &str) -> io::Result<OwnedFd> {
    let connection = socket(SocketFlags::empty())?;
    let time = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&connection, sockopt::ReceiveTimeout, &time)?;
    setsockopt(&connection, sockopt::SendTimeout, &time)?;
    rustix::net::connect(&connection, &address(path)?)?;
    Ok(connection)
}

// ---- the old process ----

/// Where a successor knocks, and the one that is there.
pub(super) struct Door {
    socket: OwnedFd,
    path: String,
    heir: Option<OwnedFd>,
    token: Token,
}

impl Door {
    /// Opens it. Whoever has the Unix socket of that name has the door, too: one that is left over is removed.
    pub(super) fn open(
        socket: &UnixSocket,
        registry: &Registry,
        token: Token,
        heir: Token,
    ) -> io::Result<Door> {
        let path = door_path(socket);
        let is_file = !path.starts_with('@');
        if is_file {
            let _ = fs::remove_file(&path);
        }
        let door = self::socket(SocketFlags::NONBLOCK)?;
        rustix::net::bind(&door, &address(&path)?)?;
        if is_file {
            // Nobody can knock before it listens.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        }
        rustix::net::listen(&door, 4)?;
        registry.register(&mut SourceFd(&door.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Door {
            socket: door,
            path,
            heir: None,
            token: heir,
        })
    }

    /// Lets in whoever knocks, if it is of our user, or root. The last one counts.
    pub(super) fn answer(&mut self, registry: &Registry) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(heir) = rustix::net::accept_with(&self.socket, flags) {
            let user = peer_of(heir.as_fd()).map(|(_, user)| user);
            if user != Some(geteuid()) && user != Some(Uid::from_raw(0)) {
                log::warn!(
                    "somebody else, {user:?}, wanted to take over at \"{}\"",
                    self.path
                );
                continue;
            }
            self.dismiss(registry);
            let interest = Interest::READABLE;
            let registered =
                registry.register(&mut SourceFd(&heir.as_raw_fd()), self.token, interest);
            if registered.is_ok() {
                self.heir = Some(heir);
            }
        }
    }

    fn dismiss(&mut self, registry: &Registry) {
        if let Some(heir) = self.heir.take() {
            let _ = registry.deregister(&mut SourceFd(&heir.as_raw_fd()));
        }
    }

    /// Hears what the heir has to say. `listeners`: what it gets; `cancels`: where we take cancels from then on, or why it gets
    /// nothing. Whether it is ready, and all is its own.
    pub(super) fn hear(
        &mut self,
        listeners: &[&Listener],
        cancels: Result<&Path, &str>,
        registry: &Registry,
    ) -> bool {
        while let Some(heir) = &self.heir {
            let answered = match receive(heir.as_fd()) {
                Ok(Some((text, _))) if text == CLAIM => hand_out(heir.as_fd(), listeners, cancels),
                Ok(Some((text, _))) if text == READY && cancels.is_ok() => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Ok(_) | Err(_) => Err(io::ErrorKind::InvalidData.into()),
            };
            if answered.is_err() {
                self.dismiss(registry);
            }
        }
        false
    }

    /// Tells the heir that all is its own. Whether it is still there.
    pub(super) fn hand_over(&mut self, registry: &Registry) -> bool {
        let told = self
            .heir
            .as_ref()
            .map(|heir| send(heir.as_fd(), YOURS, None));
        self.dismiss(registry);
        matches!(told, Some(Ok(())))
    }

    /// The process that knocked last.
    pub(super) fn heir(&self) -> Option<i32> {
        let heir = self.heir.as_ref()?;
        peer_of(heir.as_fd()).map(|(pid, _)| pid)
    }

    /// Closes it for good. The file is the heir's by now.
    pub(super) fn leave(mut self, registry: &Registry) {
        let _ = registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()));
        self.path.clear();
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if !self.path.is_empty() && !self.path.starts_with('@') {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn hand_out(
    heir: BorrowedFd<'_>,
    listeners: &[&Listener],
    cancels: Result<&Path, &str>,
) -> io::Result<()> {
    let cancels = match cancels {
        Ok(path) => path.display().to_string(),
        Err(why) => return send(heir, &format!("no {why}"), None),
    };
    for listener in listeners {
        send(heir, &listener.key(), Some(listener.as_fd()))?;
    }
    send(heir, &format!("all {cancels}"), None)
}
