//! What the service manager is told, and what it hands over: systemd's protocol of datagrams, and sockets that it listens on.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::Listener;

/// The service manager, if there is one that wants to be told something.
pub struct Manager {
    told: Option<(UnixDatagram, SocketAddr)>,
    /// It must hear of us that often.
    watchdog: Option<Duration>,
    next: Instant,
}

impl Manager {
    /// The one that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`).
    pub fn find() -> Manager {
        let variable = |name| std::env::var(name).ok();
        let own = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC").filter(|_| own);
        let watchdog = watchdog
            .and_then(|time| time.parse().ok())
            .filter(|&us| us > 0);
        Manager::at(
            variable("NOTIFY_SOCKET").as_deref(),
            watchdog.map(Duration::from_micros),
        )
    }

    fn at(socket: Option<&str>, watchdog: Option<Duration>) -> Manager {
        let address = socket.and_then(|name| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(name).ok(),
        });
        let told = address.and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        Manager {
            watchdog: watchdog.filter(|_| told.is_some()),
            told,
            next: Instant::now(),
        }
    }

    fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.told {
            // Nobody else can be told that it does not listen.
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }

    /// The process serves.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving\n");
    }

    /// The configuration is being read again; [`Manager::ready`] ends that.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
        let now = now.unwrap_or_default().as_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}\n"));
    }

    /// The process is going to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\n");
    }

    /// Another process serves from now on, and is the one to watch. Only we can say so, being the main process still.
    pub fn succeeded_by(&self, pid: i32) {
        self.tell(&format!("MAINPID={pid}\n"));
    }

    /// How things are, in a line.
    pub fn status(&self, text: &str) {
        self.tell(&format!("STATUS={text}\n"));
    }

    /// Tells that we live, twice as often as it has to be; in how long that is to be done again.
    pub fn is_alive(&mut self) -> Option<Duration> {
        let period = self.watchdog? / 2;
        let now = Instant::now();
        if now >= self.next {
            self.tell("WATCHDOG=1\n");
            self.next = now + period;
        }
        Some(self.next.saturating_duration_since(now))
    }
}

/// Sockets that the service manager listens on for us (`LISTEN_FDS`).
///
/// # Errors
/// One that is neither TCP nor a Unix socket for connections.
pub fn inherited() -> Result<Vec<Listener>, String> {
    let mut given = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for at in 0..given.len() {
        let said = |error: io::Error| format!("socket {at} of the service manager: {error}");
        let listener = match given.take_tcp_listener(at) {
            Ok(Some(listener)) => Listener::tcp_from(listener),
            Ok(None) => continue,
            Err(_) => match given.take_unix_listener(at).map_err(said)? {
                Some(listener) => Listener::unix_from(listener),
                None => continue,
            },
        };
        listeners.push(listener.map_err(said)?);
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &str) -> (UnixDatagram, Manager) {
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        socket.set_nonblocking(true).expect("it can be");
        let manager = Manager::at(Some(&format!("@{name}")), Some(Duration::from_millis(40)));
        (socket, manager)
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 500];
        let count = socket.recv(&mut buffer).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }

    #[test]
    fn the_manager_is_told_what_systemd_expects() {
        let (socket, mut manager) = manager(&format!("aether-notify-{}", std::process::id()));
        manager.ready();
        assert_eq!(heard(&socket), "READY=1\nSTATUS=serving\n");
        manager.reloading();
        let reloading = heard(&socket);
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        let time = time.and_then(|time| time.trim().parse::<u64>().ok());
        assert!(time.is_some_and(|time| time > 0), "{reloading:?}");
        manager.stopping();
        assert_eq!(heard(&socket), "STOPPING=1\n");
        let wait = manager.is_alive().expect("there is a watchdog");
        assert_eq!(heard(&socket), "WATCHDOG=1\n");
        assert!(wait <= Duration::from_millis(20));
        manager.is_alive();
        assert_eq!(heard(&socket), "", "not more often than it has to be");
        std::thread::sleep(wait);
        manager.is_alive();
        assert_eq!(heard(&socket), "WATCHDOG=1\n");
    }

    #[test]
    fn without_a_manager_nothing_is_told() {
        let mut manager = Manager::at(None, Some(Duration::from_secs(1)));
        manager.ready();
        assert_eq!(manager.is_alive(), None);
    }
}
