//! What the kernel is told about sockets. In PgBouncer's words; 0 is the operating system's own.

use std::time::Duration;

/// Options of sockets, towards clients and servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sockets {
    /// Whether the kernel asks a peer that says nothing whether it is still there.
    pub tcp_keepalive: bool,
    /// After so much silence; whole seconds.
    pub tcp_keepidle: Duration,
    /// So often; whole seconds.
    pub tcp_keepintvl: Duration,
    /// So many times without an answer.
    pub tcp_keepcnt: u32,
    /// Data may wait this long for its acknowledgement.
    pub tcp_user_timeout: Duration,
    /// Bytes that the kernel holds for a connection in each direction.
    pub tcp_socket_buffer: u32,
    /// Connections that may wait to be accepted.
    pub listen_backlog: u32,
    /// Whether a connection is accepted only when something has come by it, or after a second.
    pub tcp_defer_accept: bool,
}

impl Default for Sockets {
    fn default() -> Sockets {
        Sockets {
            tcp_keepalive: true,
            tcp_keepidle: Duration::from_secs(10),
            tcp_keepintvl: Duration::from_secs(5),
            tcp_keepcnt: 3,
            tcp_user_timeout: Duration::ZERO,
            tcp_socket_buffer: 0,
            listen_backlog: 1024,
            tcp_defer_accept: false,
        }
    }
}
