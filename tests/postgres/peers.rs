//! Peers: two Aethers on one port; a cancel may come to either of them and ends the query that is meant.

use std::fmt::Write as _;

use nix::sys::signal::Signal;

use crate::support::cluster::PASSWORD;
use crate::support::process;
use crate::support::wire::{first_error, terminated};
use crate::support::{Cluster, Pooler, Wire, wait_until};

/// An Aether of a group on a port that all share, and on one of its own, where the others find it.
fn member(cluster: &Cluster, database: &str, shared: u16, id: u16, more: &str) -> Pooler {
    Pooler::start(&yaml(cluster, database, shared, id, more, &[]))
}

fn yaml(
    cluster: &Cluster,
    database: &str,
    shared: u16,
    id: u16,
    more: &str,
    peers: &[(u16, u16)],
) -> String {
    let mut text = format!(
        "server: {{listen_addr: [\"127.0.0.1:{{port}}\", \"127.0.0.1:{shared}\"], so_reuseport: true, peer_id: {id}}}\n\
         admin: {{users: [username]}}\n\
         pool:\n  dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/{database}\"\n  max_connections: 30\n{more}",
        cluster.port()
    );
    if !peers.is_empty() {
        text += "peers:\n";
    }
    for (id, port) in peers {
        let _ = writeln!(
            text,
            "  {id}: {{host: 127.0.0.1, port: {port}, pool_size: 2}}"
        );
    }
    text
}

/// Two of them that know each other.
fn pair(cluster: &Cluster, database: &str, shared: u16, more: &str) -> [Pooler; 2] {
    let members = [1, 2].map(|id| member(cluster, database, shared, id, more));
    let peers = [(1, members[0].port()), (2, members[1].port())];
    for (member, id) in members.iter().zip([1, 2]) {
        member.rewrite_config(&yaml(cluster, database, shared, id, more, &peers));
        member.signal(Signal::SIGHUP);
        member.wait_for_log("the configuration was reloaded");
    }
    members
}

/// Of which of them a session is, by the key that it was given.
fn member_of(client: &Wire) -> u16 {
    let [_, low, high, _] = client.pid.to_be_bytes();
    u16::from_le_bytes([low, high])
}

fn running(cluster: &Cluster, database: &str, count: usize) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'PgSleep'"
    );
    wait_until("the queries run", || {
        cluster.sql("postgres", &sql) == count.to_string()
    });
}

/// What psql does with Ctrl-C, from many clients at once: whichever process gets the request, it ends the query that is meant, and no
/// other.
#[test]
fn cancels_arrive_whichever_process_of_a_group_they_come_to() {
    let cluster = Cluster::shared();
    for mode in ["session", "transaction"] {
        let database = cluster.database(&format!("peers_{mode}"));
        let shared = process::free_port();
        let members = pair(cluster, &database, shared, &format!("  mode: {mode}\n"));
        let login = || Wire::login(shared, "username", PASSWORD, &database);
        let mut clients: Vec<Wire> = (0..16).map(|_| login()).collect();
        for id in [1, 2] {
            assert!(
                clients.iter().any(|client| member_of(client) == id),
                "{id} has some"
            );
        }
        for client in &mut clients {
            client.send_message(b'Q', &terminated("SELECT pg_sleep(120)"));
        }
        running(cluster, &database, clients.len());
        for at in 0..clients.len() {
            clients[at].cancel();
            let error = first_error(&clients[at].read_until(b'Z')).expect("cancelled");
            assert_eq!(error.sqlstate(), "57014");
            running(cluster, &database, clients.len() - at - 1);
        }
        for mut client in clients {
            assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
            client.terminate();
        }
        drop(members);
    }
}

/// Each in turn is asked at its own door for a client of the other, so that all of them have to be passed on.
#[test]
fn a_cancel_is_passed_on_to_the_process_whose_client_is_meant() {
    let cluster = Cluster::shared();
    let database = cluster.database("peers_pass_on");
    let members = pair(cluster, &database, process::free_port(), "");
    for (own, other) in [(0, 1), (1, 0)] {
        let login = || Wire::login(members[own].port(), "username", PASSWORD, &database);
        let mut clients: Vec<Wire> = (0..6).map(|_| login()).collect();
        for client in &mut clients {
            client.send_message(b'Q', &terminated("SELECT pg_sleep(120)"));
        }
        running(cluster, &database, clients.len());
        // More at once than may be under way to a peer.
        for client in &clients {
            client.cancel_by(members[other].port(), |_| {});
        }
        for client in &mut clients {
            let error = first_error(&client.read_until(b'Z')).expect("cancelled");
            assert_eq!(error.sqlstate(), "57014");
        }
        // With a wrong secret it comes to nothing.
        let client = &mut clients[0];
        client.send_message(b'Q', &terminated("SELECT pg_sleep(3)"));
        running(cluster, &database, 1);
        client.cancel_by(members[other].port(), |key| key[0] ^= 1);
        assert!(first_error(&client.read_until(b'Z')).is_none());
    }
}

/// The key says that it is for a third, whom nobody knows, or nobody can reach: the request ends, and nobody else's query.
#[test]
fn a_cancel_for_a_peer_that_is_not_there_ends() {
    let cluster = Cluster::shared();
    let database = cluster.database("peers_nobody");
    let shared = process::free_port();
    let [one, two] = pair(cluster, &database, shared, "");
    let mut client = Wire::login(two.port(), "username", PASSWORD, &database);
    client.send_message(b'Q', &terminated("SELECT pg_sleep(120)"));
    running(cluster, &database, 1);
    let peers = [(1, one.port()), (2, process::free_port())];
    one.rewrite_config(&yaml(cluster, &database, shared, 1, "", &peers));
    one.signal(Signal::SIGHUP);
    wait_until("it was reloaded", || {
        one.log().matches("the configuration was reloaded").count() == 2
    });
    client.cancel_by(one.port(), |_| {});
    one.wait_for_log("peer 2 cannot be reached with a cancel request");
    running(cluster, &database, 1);
    client.cancel();
    assert!(first_error(&client.read_until(b'Z')).is_some());
}
