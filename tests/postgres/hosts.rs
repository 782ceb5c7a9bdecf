//! A host list of a pgbouncer.ini before two PostgreSQL at one port: who is used, and what becomes of clients when one refuses or
//! dies (compatibility specification, section 13).

use crate::support::cluster::{Options, PASSWORD, Stop};
use crate::support::process::Place;
use crate::support::wire::first_error;
use crate::support::{Cluster, Pooler, Wire, wait_until};

const FIRST: &str = "127.0.0.1";
const SECOND: &str = "127.0.0.2";

/// Two clusters that differ in their address, and an Aether before both.
struct Pair {
    first: Cluster,
    second: Cluster,
    pooler: Pooler,
    _place: Place,
}

impl Pair {
    /// `keys`: of the database.
    fn start(keys: &str) -> Pair {
        let first = Cluster::start();
        let port = first.port();
        let second = Cluster::start_with(&Options {
            port: Some(port),
            conf: vec!["listen_addresses = '127.0.0.2'".to_owned()],
            ..Options::default()
        });
        let place = Place::new("hosts");
        place.write("userlist.txt", &format!("\"username\" \"{PASSWORD}\"\n"));
        let pooler = Pooler::start(&format!(
            "[databases]\ndatabase = host=127.0.0.1,127.0.0.2 port={port} {keys}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {{port}}\nunix_socket_dir =\nauth_file = {}/userlist.txt\npool_mode = transaction\n",
            place.path().display()
        ));
        Pair {
            first,
            second,
            pooler,
            _place: place,
        }
    }

    fn login(&self) -> Wire {
        Wire::login(self.pooler.port(), "username", PASSWORD, "database")
    }

    /// So many clients in a transaction each, and how many of them are at the first host and at the second.
    fn spread(&self, clients: &mut Vec<Wire>, count: usize) -> [usize; 2] {
        let begun = clients.len();
        clients.extend((0..count).map(|_| self.login()));
        let places: Vec<String> = clients[begun..]
            .iter_mut()
            .map(|client| {
                client.run("BEGIN");
                address(client)
            })
            .collect();
        [FIRST, SECOND].map(|host| places.iter().filter(|place| *place == host).count())
    }
}

fn address(client: &mut Wire) -> String {
    client.value("SELECT inet_server_addr()").expect("over TCP")
}

/// The default. A host that is down costs nobody more than the attempt; once it is back it has its share again.
#[test]
fn round_robin_spreads_new_servers_evenly_and_passes_by_a_host_that_is_down() {
    let pair = Pair::start("");
    let mut clients = Vec::new();
    assert_eq!(pair.spread(&mut clients, 6), [3, 3]);
    clients.into_iter().for_each(Wire::terminate);

    pair.first.stop(Stop::Immediate);
    // Those in the middle of nothing are not told; new servers come from the other.
    let mut clients = Vec::new();
    assert_eq!(pair.spread(&mut clients, 6), [0, 6]);
    clients.into_iter().for_each(Wire::terminate);

    pair.first.start_again();
    let mut clients = Vec::new();
    let [first, second] = pair.spread(&mut clients, 12);
    assert_eq!(
        second, 9,
        "the six that were there, and half of the new ones"
    );
    assert_eq!(first, 3);
}

/// `disable`: one host for all, in the order of the list, until it fails; then the next for all, which stays preferred.
#[test]
fn without_load_balancing_the_next_host_takes_over_when_the_one_in_use_dies() {
    let pair = Pair::start("load_balance_hosts=disable");
    let mut clients = Vec::new();
    assert_eq!(pair.spread(&mut clients, 4), [4, 0]);
    let mut idle = pair.login();
    assert_eq!(address(&mut idle), FIRST);

    pair.first.stop(Stop::Immediate);
    for client in &mut clients {
        let told = first_error(&client.read_to_end()).expect("its transaction is lost");
        assert!(["57P02", "08006"].contains(&told.sqlstate()), "{told:?}");
    }
    wait_until("its servers are given up", || {
        pair.pooler.log().matches("S-0x").count() >= 5
    });
    assert_eq!(address(&mut idle), SECOND, "who had no transaction goes on");
    let mut clients = Vec::new();
    assert_eq!(pair.spread(&mut clients, 3), [0, 3]);
    pair.first.start_again();
    assert_eq!(
        pair.spread(&mut clients, 3),
        [0, 3],
        "the one that serves stays"
    );
    clients.into_iter().for_each(Wire::terminate);

    // And back, when the second goes as well.
    pair.second.stop(Stop::Fast);
    assert_eq!(address(&mut idle), FIRST);
}
