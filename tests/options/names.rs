//! Names of hosts by way of the machine's own resolver: a name server of the test's own answers, which the process finds in a
//! `/etc/resolv.conf` that it alone has.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::Ground;
use crate::support::cluster::PASSWORD;
use crate::support::process::Place;
use crate::support::{Pooler, Wire, scene, wait_until};

/// What is known of a name, and how often its addresses were asked for.
#[derive(Default)]
struct Entry {
    addresses: Vec<Ipv4Addr>,
    asked: usize,
}

/// A name server at an address of the loopback network, at the port that all ask.
struct NameServer {
    address: Ipv4Addr,
    names: Arc<Mutex<BTreeMap<String, Entry>>>,
}

impl NameServer {
    fn start() -> NameServer {
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 53, high, low.clamp(1, 254));
        let socket = UdpSocket::bind((address, 53)).expect("port 53 is for root");
        let names: Arc<Mutex<BTreeMap<String, Entry>>> = Arc::default();
        let known = names.clone();
        thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let mut names = known.lock().expect("nobody panics with it");
                if let Some(answer) = answer(&packet[..length], &mut names) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        NameServer { address, names }
    }

    fn says(&self, name: &str, addresses: &[&str]) {
        let parse = |text: &&str| text.parse().expect("an address");
        let addresses = addresses.iter().map(parse).collect();
        let mut names = self.names.lock().expect("nobody panics with it");
        names.entry(name.to_owned()).or_default().addresses = addresses;
    }

    fn asked(&self, name: &str) -> usize {
        let names = self.names.lock().expect("nobody panics with it");
        names.get(name).map_or(0, |entry| entry.asked)
    }
}

/// To a question for IPv4 addresses those that are known, to others nothing, and that there is no name without addresses (RFC 1035).
fn answer(question: &[u8], names: &mut BTreeMap<String, Entry>) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while let length @ 1.. = usize::from(*question.get(at)?) {
        labels.push(String::from_utf8_lossy(question.get(at + 1..=at + length)?).into_owned());
        at += length + 1;
    }
    let end = at + 5;
    let is_for_ipv4 = question.get(at + 1..end)? == [0, 1, 0, 1];
    let entry = names.entry(labels.join(".")).or_default();
    entry.asked += usize::from(is_for_ipv4);
    let exists = !entry.addresses.is_empty();
    let found = if is_for_ipv4 {
        &entry.addresses[..]
    } else {
        &[]
    };
    let code = if exists { 0 } else { 3 };
    let mut answer = question.get(..2)?.to_vec();
    answer.extend([
        0x81,
        0x80 | code,
        0,
        1,
        0,
        u8::try_from(found.len()).ok()?,
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question.get(12..end)?);
    for address in found {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// An Aether that knows no other name server.
fn start(server: &NameServer, place: &Place) -> Pooler {
    place.write("resolv.conf", &format!("nameserver {}\n", server.address));
    place.write("userlist.txt", &format!("\"username\" \"{PASSWORD}\"\n"));
    let directory = place.path().display();
    let port = Ground::shared().cluster.port();
    let database = |name: &str| format!("{name} = host={name}.test port={port} dbname=first\n");
    let databases = ["turns", "moves", "never", "later"].map(database).concat();
    let mount = format!("mount --bind {directory}/resolv.conf /etc/resolv.conf && exec \"$@\"");
    let own = ["unshare", "--map-current-user", "--keep-caps", "--mount"];
    let under = [&own[..], &["sh", "-c", &mount, "sh"]].concat();
    Pooler::start_under(
        &under,
        &format!(
            "[databases]\n{databases}[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {{port}}\nunix_socket_dir =\n\
             auth_file = {directory}/userlist.txt\nadmin_users = username\npool_mode = transaction\nquery_wait_timeout = 0.5\n\
             server_login_retry = 0.1\ndns_max_ttl = 600\ndns_nxdomain_ttl = 600\n"
        ),
    )
}

fn address(wire: &mut Wire) -> String {
    wire.value("SELECT inet_server_addr()").expect("an address")
}

#[test]
fn names_are_those_of_the_machines_resolver_and_kept_for_as_long_as_the_times_say() {
    let (server, place) = (NameServer::start(), Place::new("names"));
    let pooler = start(&server, &place);
    let login = |database: &str| {
        let parameters = [("user", "username"), ("database", database)];
        Wire::try_login(pooler.port(), &parameters, PASSWORD)
    };

    // Several addresses are used in rotation, out of one answer.
    server.says("turns.test", &["127.0.0.1", "127.0.0.2"]);
    let mut held: Vec<Wire> = (0..4).map(|_| login("turns").expect("a login")).collect();
    let used: Vec<String> = held
        .iter_mut()
        .map(|wire| {
            wire.run("BEGIN");
            address(wire)
        })
        .collect();
    let (odd, even) = (&used[0], &used[1]);
    assert_ne!(odd, even);
    assert_eq!([&used[2], &used[3]], [odd, even]);
    assert_eq!(server.asked("turns.test"), 1);

    // That there is no such name is kept.
    for _ in 0..3 {
        assert!(login("never").is_err());
    }
    assert_eq!(server.asked("never.test"), 1);
    assert!(pooler.log_contains("DNS lookup failed: never.test: could not translate host name"));

    let mut console = login("pgbouncer").expect("a login");
    console.run("SET dns_max_ttl = 1");
    console.run("SET dns_nxdomain_ttl = 1");

    // The same answer again changes nothing; another one retires the servers behind the old one.
    server.says("moves.test", &["127.0.0.1"]);
    let mut wire = login("moves").expect("a login");
    let pid = wire.value("SELECT pg_backend_pid()");
    wait_until("it is asked again", || server.asked("moves.test") > 2);
    assert_eq!(wire.value("SELECT pg_backend_pid()"), pid);
    assert_eq!(address(&mut wire), "127.0.0.1");
    server.says("moves.test", &["127.0.0.2"]);
    wait_until("the server behind the old answer has gone", || {
        let servers = scene::show(&mut console, "SERVERS");
        !servers
            .iter()
            .any(|row| row["database"] == "moves" && row["addr"] == "127.0.0.1")
    });
    assert_eq!(address(&mut wire), "127.0.0.2");

    // That there was no such name is not kept for longer.
    assert!(login("later").is_err());
    wait_until("it is asked again", || {
        login("later").is_err() && server.asked("later.test") > 1
    });
    server.says("later.test", &["127.0.0.1"]);
    wait_until("it is there", || login("later").is_ok());
}
