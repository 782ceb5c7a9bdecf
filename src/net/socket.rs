//! Sockets as [`Stream`]s.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::{self, ffi::OsStrExt};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use nix::libc;
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, getsockopt, setsockopt, sockopt,
};
use nix::unistd::geteuid;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::config::Sockets;
use crate::config::hba::Network;
use crate::engine::{Facts, Given, Stream, Taken, Why};

/// `SO_RCVLOWAT`, which nix leaves to its users to name.
#[derive(Clone)]
struct ReceiveLowWater;

nix::setsockopt_impl!(
    ReceiveLowWater,
    libc::SOL_SOCKET,
    libc::SO_RCVLOWAT,
    i32,
    sockopt::SetStruct<i32>
);

/// `TCP_DEFER_ACCEPT`, in seconds; neither has nix a name for this one.
#[derive(Clone)]
struct DeferAccept;

nix::setsockopt_impl!(
    DeferAccept,
    libc::IPPROTO_TCP,
    libc::TCP_DEFER_ACCEPT,
    u32,
    sockopt::SetStruct<u32>
);

/// A TCP or Unix socket.
pub(super) struct Socket {
    kind: Kind,
    /// Where it is to ask for word that it can be written again, should that be needed for the first time; `None`: it has.
    asks: Option<(Rc<Registry>, Token)>,
}

/// What carries it.
pub(super) enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
}

// As small as the smallest piece of the heap: there is one for each connection. (In a debug build mio's sockets know more.)
#[cfg(not(debug_assertions))]
const _: () = assert!(size_of::<Socket>() <= 24);

impl Socket {
    /// A connection that is being made: the poll tells when it can be written. Over TCP it is given the options.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn dialled(
        mut kind: Kind,
        options: &Sockets,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Socket> {
        registry.register(kind.source(), token, BOTH)?;
        if let Kind::Tcp(stream) = &kind {
            watch(stream, options);
        }
        Ok(Socket { kind, asks: None })
    }

    /// One from a listening socket, whose options it has inherited. It can be written, as all that are new: to be told of it would wake
    /// us once more for each.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn accepted(
        mut kind: Kind,
        registry: &Rc<Registry>,
        token: Token,
    ) -> io::Result<Socket> {
        registry.register(kind.source(), token, Interest::READABLE)?;
        let asks = Some((registry.clone(), token));
        Ok(Socket { kind, asks })
    }

    /// For the calls that are made for every message: the C library makes each a point where a thread may be cancelled, which
    /// costs more than the rest of the call does on this side of the kernel.
    fn fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(stream) => stream.as_fd(),
            Kind::Unix(stream) => stream.as_fd(),
        }
    }

    /// Not all was taken: the poll is to say when more is. If there is room already, it says so at once.
    #[cold]
    fn ask(&mut self) -> io::Result<()> {
        let Some((registry, token)) = self.asks.take() else {
            return Ok(());
        };
        registry.reregister(self.kind.source(), token, BOTH)
    }
}

impl Kind {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Kind::Tcp(stream) => stream,
            Kind::Unix(stream) => stream,
        }
    }
}

/// Both directions, edge-triggered: asked for once.
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

impl Stream for Socket {
    fn read(&mut self, into: &mut [u8]) -> Taken {
        let most = into.len();
        loop {
            return match recv(self.fd(), &mut *into, RecvFlags::empty()) {
                Ok((0, _)) => Taken::Closed(Why::Eof),
                Ok((count, _)) => Taken::Bytes {
                    count,
                    more: count == most,
                },
                Err(Errno::AGAIN | Errno::NOTCONN) => Taken::Blocked,
                Err(Errno::INTR) => continue,
                Err(error) => Taken::Closed(Why::Error(describe(&error.into()))),
            };
        }
    }

    fn write(&mut self, from: &[u8]) -> Given {
        let given = loop {
            break match send(self.fd(), from, SendFlags::NOSIGNAL) {
                Ok(count) if count == from.len() => return Given::Bytes(count),
                Ok(count) => Given::Bytes(count),
                Err(Errno::AGAIN | Errno::NOTCONN) => Given::Blocked,
                Err(Errno::INTR) => continue,
                // Of how the peer closed it, this says nothing.
                Err(Errno::PIPE) => return Given::Closed(Why::Eof),
                Err(error) => return Given::Closed(Why::Error(describe(&error.into()))),
            };
        };
        match self.ask() {
            Ok(()) => given,
            Err(error) => Given::Closed(Why::Error(describe(&error))),
        }
    }

    fn shutdown(&mut self) {
        let _ = match &self.kind {
            Kind::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Kind::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }

    /// No Unix socket does it.
    fn wake_at(&mut self, bytes: usize) {
        if let Kind::Tcp(stream) = &self.kind {
            let _ = setsockopt(stream, ReceiveLowWater, &i32::try_from(bytes).unwrap_or(1));
        }
    }

    fn is_unix(&self) -> bool {
        matches!(self.kind, Kind::Unix(_))
    }

    fn facts(&self) -> Facts {
        let stream = match &self.kind {
            Kind::Tcp(stream) => stream,
            Kind::Unix(stream) => {
                let peer = getsockopt(stream, sockopt::PeerCredentials);
                return Facts {
                    address: "unix".to_owned(),
                    local_address: "unix".to_owned(),
                    peer_uid: peer.ok().map(|peer| peer.uid()),
                    peer_pid: peer.ok().map(|peer| peer.pid()),
                    peer_is_owner: peer.is_ok_and(|peer| peer.uid() == geteuid().as_raw()),
                    ..Facts::default()
                };
            }
        };
        let parts = |address: io::Result<SocketAddr>| {
            address
                .map(|a| (text_of(a.ip()), a.port()))
                .unwrap_or_default()
        };
        let (address, port) = parts(stream.peer_addr());
        let (local_address, local_port) = parts(stream.local_addr());
        Facts {
            address,
            port,
            local_address,
            local_port,
            ..Facts::default()
        }
    }
}

/// An address as it is written; for each client, so the usual one takes no detour by the formatter.
fn text_of(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else {
        return address.to_string();
    };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (at, part) in address.octets().into_iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        for (least, unit) in [(100, 100), (10, 10), (0, 1)] {
            if part >= least {
                text.push(char::from(b'0' + part / unit % 10));
            }
        }
    }
    text
}

/// Small messages go at once, and a dead peer is noticed: with what is configured as a rule, after 10 + 3 * 5 seconds without
/// traffic. No `TCP_USER_TIMEOUT` beside it: that also ends the connection of a peer who lives and does not read for a while, be it a
/// client in the middle of a result or a server whose COPY waits for a lock, and a direct connection would survive that.
/// On Linux what is accepted has all this of the socket that listens.
pub(super) fn watch(socket: &impl AsFd, options: &Sockets) {
    let _ = setsockopt(socket, sockopt::TcpNoDelay, &true);
    let _ = setsockopt(socket, sockopt::KeepAlive, &options.tcp_keepalive);
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(0);
    if let idle @ 1.. = seconds(options.tcp_keepidle) {
        let _ = setsockopt(socket, sockopt::TcpKeepIdle, &idle);
    }
    if let interval @ 1.. = seconds(options.tcp_keepintvl) {
        let _ = setsockopt(socket, sockopt::TcpKeepInterval, &interval);
    }
    if options.tcp_keepcnt > 0 {
        let _ = setsockopt(socket, sockopt::TcpKeepCount, &options.tcp_keepcnt);
    }
    let timeout = u32::try_from(options.tcp_user_timeout.as_millis());
    let _ = setsockopt(
        socket,
        sockopt::TcpUserTimeout,
        &timeout.unwrap_or(u32::MAX),
    );
    if let Ok(size @ 1..) = usize::try_from(options.tcp_socket_buffer) {
        let _ = setsockopt(socket, sockopt::SndBuf, &size);
        let _ = setsockopt(socket, sockopt::RcvBuf, &size);
    }
}

/// The same for a socket that listens, and whether it keeps connections to itself until something has come by them. As with PgBouncer
/// for a second: the kernel then asks the peer once more and lets it through.
pub(super) fn watch_listening(socket: &impl AsFd, options: &Sockets) {
    watch(socket, options);
    let _ = setsockopt(socket, DeferAccept, &u32::from(options.tcp_defer_accept));
}

/// What a socket is told that had the old options: where the new ones leave something to the kernel, its own value, since it keeps the
/// old one otherwise. (Buffers that were set once do not grow by themselves any more.)
pub(super) fn in_place_of(old: &Sockets, new: &Sockets) -> Sockets {
    let kernel = |name: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let small = |name: &str| u32::try_from(kernel(name)).unwrap_or(0);
    let mut told = *new;
    let is_unsaid = |new: Duration, old: Duration| new.is_zero() && !old.is_zero();
    if is_unsaid(new.tcp_keepidle, old.tcp_keepidle) {
        told.tcp_keepidle = Duration::from_secs(kernel("ipv4/tcp_keepalive_time"));
    }
    if is_unsaid(new.tcp_keepintvl, old.tcp_keepintvl) {
        told.tcp_keepintvl = Duration::from_secs(kernel("ipv4/tcp_keepalive_intvl"));
    }
    if new.tcp_keepcnt == 0 && old.tcp_keepcnt > 0 {
        told.tcp_keepcnt = small("ipv4/tcp_keepalive_probes");
    }
    if new.tcp_socket_buffer == 0 && old.tcp_socket_buffer > 0 {
        told.tcp_socket_buffer = small("core/rmem_default") / 2; // which it doubles
    }
    told
}

/// Begins a connection to a Unix socket: a file, or an abstract name behind `@`, as libpq writes it.
pub(super) fn dial_unix(path: &Path) -> io::Result<UnixStream> {
    match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => UnixStream::connect_addr(&unix::net::SocketAddr::from_abstract_name(name)?),
        None => UnixStream::connect(path),
    }
}

/// The operating system's error as a person would say it, without Rust's "(os error n)".
pub(super) fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

/// Room for those who wait to be accepted; 0: as much as the kernel gives.
pub(super) fn queue(backlog: u32) -> nix::Result<socket::Backlog> {
    let most = i32::try_from(backlog).ok().filter(|most| *most > 0);
    most.map_or(Ok(socket::Backlog::MAXCONN), socket::Backlog::new)
}

/// A listening socket. An IPv6 address takes IPv6 only, so that `0.0.0.0` and `[::]` can stand beside each other.
pub(super) fn listening(
    address: SocketAddr,
    shared: bool,
    options: &Sockets,
) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket::socket(
        family,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if shared {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    socket::bind(
        std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd()),
        &SockaddrStorage::from(address),
    )?;
    watch_listening(&fd, options);
    socket::listen(&fd, queue(options.listen_backlog)?)?;
    Ok(fd)
}

/// The addresses of this machine, and the masks of their networks.
pub(super) fn networks() -> Vec<Network> {
    let ip = |address: Option<SockaddrStorage>| -> Option<IpAddr> {
        let address = address?;
        let v4 = address.as_sockaddr_in().map(|address| address.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    };
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|interface| Some((ip(interface.address)?, ip(interface.netmask)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn addresses_are_written_as_ever() {
        for part in 0..=255 {
            let address = std::net::Ipv4Addr::new(part, 0, 255 - part, 10);
            assert_eq!(text_of(address.into()), address.to_string());
        }
        assert_eq!(text_of(std::net::Ipv6Addr::LOCALHOST.into()), "::1");
    }

    fn listens(options: &Sockets) -> std::net::TcpListener {
        let address = "127.0.0.1:0".parse().expect("an address");
        std::net::TcpListener::from(listening(address, false, options).expect("a socket"))
    }

    fn connects(listener: &std::net::TcpListener) -> std::net::TcpStream {
        let address = listener.local_addr().expect("an address");
        std::net::TcpStream::connect(address).expect("a connection")
    }

    /// A client that has said something, and what was accepted.
    fn says_something(
        listener: &std::net::TcpListener,
    ) -> (std::net::TcpStream, std::net::TcpStream) {
        let mut client = connects(listener);
        client.write_all(b"hello").expect("it is connected");
        (client, listener.accept().expect("a connection").0)
    }

    /// Nobody is woken for a new connection that could be written; who was told to wait is.
    #[test]
    fn what_is_accepted_tells_that_it_can_be_written_again_when_it_could_not() {
        let listener = listens(&Sockets::default());
        let (mut client, accepted) = says_something(&listener);
        accepted.set_nonblocking(true).expect("it listens to us");
        let mut poll = mio::Poll::new().expect("a poll");
        let registry = Rc::new(poll.registry().try_clone().expect("its registry"));
        let kind = Kind::Tcp(TcpStream::from_std(accepted));
        let mut socket = Socket::accepted(kind, &registry, Token(7)).expect("a socket");
        let mut told = || {
            let mut events = mio::Events::with_capacity(8);
            poll.poll(&mut events, Some(Duration::from_millis(10)))
                .expect("it polls");
            let of = |event: &mio::event::Event| {
                assert_eq!(event.token(), Token(7));
                (event.is_readable(), event.is_writable())
            };
            events.iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(told(), [(true, false)], "it has said something");
        for round in 1..=2 {
            let mut sent = 0;
            loop {
                match socket.write(&[round; 10_000]) {
                    Given::Bytes(count) => sent += count,
                    other => break assert_eq!(other, Given::Blocked),
                }
            }
            assert!(sent > 100_000, "{sent}");
            let writable = |told: Vec<(bool, bool)>| told.iter().any(|told| told.1);
            assert!(!writable(told()), "round {round}: it is full");
            let mut taken = vec![0; sent];
            client.read_exact(&mut taken).expect("all of it");
            assert!(writable(told()), "round {round}");
            assert!(taken.iter().all(|byte| *byte == round));
        }
    }

    /// As `server.tcp_defer_accept` has it now, whatever it was before.
    #[test]
    fn who_has_said_nothing_is_accepted_at_once_only_if_that_is_wanted() {
        let wanted = |tcp_defer_accept| Sockets {
            tcp_defer_accept,
            ..Sockets::default()
        };
        let listener = listens(&wanted(true));
        let is_accepted = || match listener.accept() {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        };
        for deferred in [true, false, true] {
            watch_listening(&listener, &wanted(deferred));
            let mut client = connects(&listener);
            assert_eq!(is_accepted(), !deferred);
            client.write_all(b"hello").expect("it is connected");
            assert_eq!(is_accepted(), deferred);
        }
    }

    /// They are set once, on the socket that listens, not for each client.
    #[test]
    fn what_is_accepted_has_inherited_its_options() {
        let listener = listens(&Sockets::default());
        let (_client, accepted) = says_something(&listener);
        assert!(getsockopt(&accepted, sockopt::TcpNoDelay).expect("an option"));
        assert!(getsockopt(&accepted, sockopt::KeepAlive).expect("an option"));
        let times = [
            getsockopt(&accepted, sockopt::TcpKeepIdle),
            getsockopt(&accepted, sockopt::TcpKeepInterval),
            getsockopt(&accepted, sockopt::TcpKeepCount),
        ];
        let times = times.map(|time| time.expect("an option"));
        assert_eq!(times, [10, 5, 3]);
    }

    /// Each option by its effect, at the start and when it is changed.
    #[test]
    fn what_is_accepted_has_the_options_that_are_configured_now() {
        let mut options = Sockets {
            tcp_keepidle: Duration::from_secs(7),
            tcp_keepintvl: Duration::from_secs(8),
            tcp_keepcnt: 9,
            tcp_user_timeout: Duration::from_millis(1_234),
            tcp_socket_buffer: 20_000,
            ..Sockets::default()
        };
        let listener = listens(&options);
        let told = || {
            let (_client, accepted) = says_something(&listener);
            let alive = getsockopt(&accepted, sockopt::KeepAlive).expect("an option");
            let numbers = [
                getsockopt(&accepted, sockopt::TcpKeepIdle),
                getsockopt(&accepted, sockopt::TcpKeepInterval),
                getsockopt(&accepted, sockopt::TcpKeepCount),
                getsockopt(&accepted, sockopt::TcpUserTimeout),
            ];
            // The kernel doubles what it is asked for.
            let buffer = getsockopt(&accepted, sockopt::SndBuf).expect("an option") / 2;
            (
                alive,
                numbers.map(|number| number.expect("an option")),
                buffer,
            )
        };
        assert_eq!(told(), (true, [7, 8, 9, 1_234], 20_000));
        options.tcp_user_timeout = Duration::ZERO;
        (
            options.tcp_keepalive,
            options.tcp_keepcnt,
            options.tcp_socket_buffer,
        ) = (false, 4, 30_000);
        watch_listening(&listener, &options);
        assert_eq!(told(), (false, [7, 8, 4, 0], 30_000));
        let kernels = Sockets {
            tcp_keepidle: Duration::ZERO,
            tcp_keepintvl: Duration::ZERO,
            tcp_keepcnt: 0,
            tcp_socket_buffer: 0,
            ..options
        };
        watch_listening(&listener, &in_place_of(&options, &kernels));
        let fresh = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        let own = [
            getsockopt(&fresh, sockopt::TcpKeepIdle),
            getsockopt(&fresh, sockopt::TcpKeepInterval),
            getsockopt(&fresh, sockopt::TcpKeepCount),
        ];
        let own = own.map(|number| number.expect("an option"));
        let (_, [idle, interval, count, _], buffer) = told();
        assert_eq!([idle, interval, count], own);
        assert!(buffer > 30_000);
    }
}
