//! SHOW PEERS, PEER_POOLS and DNS_HOSTS: what is known of other machines.

use super::super::table::{Short, Value};
use super::{DNS_HOSTS, PEER_POOLS, PEERS};
use crate::config::HostPort;
use crate::engine::Engine;

/// SHOW PEERS
pub(super) fn peers(engine: &Engine) -> Short {
    let row = |peer: crate::engine::PeerPool<'_>| {
        let (host, port) = match &peer.config.host {
            HostPort::Tcp(name, port) => (name.clone(), Some(*port)),
            HostPort::Unix(path) => (path.display().to_string(), None),
        };
        vec![
            Value::number(peer.id),
            Value::text(host),
            port.map_or(Value::Null, Value::number),
            Value::number(peer.config.pool_size),
        ]
    };
    Short {
        columns: PEERS,
        rows: engine.peer_pools().map(row).collect(),
    }
}

/// SHOW PEER_POOLS
pub(super) fn peer_pools(engine: &Engine) -> Short {
    let row = |peer: crate::engine::PeerPool<'_>| {
        vec![
            Value::number(peer.id),
            Value::number(peer.active),
            Value::number(peer.waiting),
            Value::number(peer.sent),
            Value::number(peer.connecting),
        ]
    };
    Short {
        columns: PEER_POOLS,
        rows: engine.peer_pools().map(row).collect(),
    }
}

/// SHOW DNS_HOSTS
pub(super) fn dns_hosts(engine: &Engine) -> Short {
    let row = |host: crate::engine::HostName<'_>| {
        let addresses = host.addresses.iter();
        let addresses: Vec<String> = addresses.map(|address| address.ip().to_string()).collect();
        vec![
            Value::text(host.name),
            Value::number(host.ttl.as_secs()),
            Value::text(addresses.join(",")),
        ]
    };
    Short {
        columns: DNS_HOSTS,
        rows: engine.host_names().map(row).collect(),
    }
}
