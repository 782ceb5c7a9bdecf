//! Section `peers`: the other poolers behind the same address, by their numbers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::yaml::{Field, Problems, Section};
use super::super::{HostPort, PeerConfig};

/// The keys of an entry.
const KEYS: [&str; 3] = ["host", "port", "pool_size"];
/// What two bytes of a cancel key hold. (PgBouncer documents 16383, and does not check.)
pub(super) const ID_MAX: u64 = 65_535;
/// Aether's, and PgBouncer's.
const PORT: u16 = 6432;
/// PgBouncer's `default_pool_size`.
const POOL_SIZE: usize = 20;

/// Reads the section. `own`: our own number; an entry for it is taken, so that all may have the same section.
pub(super) fn read(
    top: &Section<'_>,
    own: u16,
    problems: &mut Problems,
) -> BTreeMap<u16, PeerConfig> {
    let mut peers = BTreeMap::new();
    let section = top.get("peers");
    let entries = section.as_ref().map(|field| field.names(problems));
    for (name, field) in entries.iter().flat_map(Section::iter) {
        let id = name.parse::<u16>().ok();
        let id = id.filter(|id| (1..=ID_MAX).contains(&u64::from(*id)));
        let Some(id) = id else {
            let text = format!("found {name:?}, expected the peer's number: 1 to {ID_MAX}");
            problems.add(&field.place, text);
            continue;
        };
        if let Some(peer) = read_peer(&field, problems)
            && peers.insert(id, peer).is_some()
        {
            problems.add(&field.place, format!("there is a peer {id} already"));
        }
    }
    if own == 0
        && !peers.is_empty()
        && let Some(field) = section
    {
        let text = "there is no server.peer_id, so no cancel request is passed on to them";
        problems.warn(&field.place, text);
    }
    peers
}

fn read_peer(field: &Field<'_>, problems: &mut Problems) -> Option<PeerConfig> {
    let section = field.section(&KEYS, problems);
    let Some(host) = section.get("host") else {
        problems.add(
            &field.place,
            "has no host: a name, an address, or the directory of a Unix socket",
        );
        return None;
    };
    let host = host.name(problems)?;
    let port = section
        .get("port")
        .and_then(|field| field.count(1..=u64::from(u16::MAX), problems))
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(PORT);
    let pool_size = section
        .get("pool_size")
        .and_then(|field| field.count(1..=1_000, problems))
        .and_then(|count| usize::try_from(count).ok());
    let host = if host.starts_with(['/', '@']) {
        HostPort::Unix(PathBuf::from(format!("{host}/.s.PGSQL.{port}")))
    } else {
        HostPort::Tcp(host.to_owned(), port)
    };
    Some(PeerConfig {
        host,
        pool_size: pool_size.unwrap_or(POOL_SIZE),
    })
}
