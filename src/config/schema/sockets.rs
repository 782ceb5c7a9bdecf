//! The keys about sockets in section `server`.

use std::time::Duration;

use super::super::Sockets;
use super::super::yaml::{Problems, Section};

/// Most that the kernel takes for keepalive, in seconds.
const KEEPALIVE_MAX_S: u64 = 32_767;

pub(super) fn read(section: &Section<'_>, problems: &mut Problems) -> Sockets {
    let mut sockets = Sockets::default();
    for (key, most, target) in [
        ("tcp_keepcnt", 127, &mut sockets.tcp_keepcnt),
        ("tcp_socket_buffer", 1 << 30, &mut sockets.tcp_socket_buffer),
        ("listen_backlog", 1 << 16, &mut sockets.listen_backlog),
    ] {
        let read = section.get(key);
        let read = read.and_then(|field| field.count(0..=most, problems));
        *target = read
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(*target);
    }
    for (key, whole, target) in [
        ("tcp_keepidle", true, &mut sockets.tcp_keepidle),
        ("tcp_keepintvl", true, &mut sockets.tcp_keepintvl),
        ("tcp_user_timeout", false, &mut sockets.tcp_user_timeout),
    ] {
        let Some(field) = section.get(key) else {
            continue;
        };
        let Some(time) = field.duration(problems) else {
            continue;
        };
        if whole && (time.subsec_nanos() > 0 || time > Duration::from_secs(KEEPALIVE_MAX_S)) {
            let text = format!("expected whole seconds, at most {KEEPALIVE_MAX_S}s");
            problems.add(&field.place, text);
        }
        *target = time;
    }
    for (key, target) in [
        ("tcp_keepalive", &mut sockets.tcp_keepalive),
        ("tcp_defer_accept", &mut sockets.tcp_defer_accept),
    ] {
        let read = section.get(key);
        let read = read.and_then(|field| field.flag(problems));
        *target = read.unwrap_or(*target);
    }
    sockets
}
