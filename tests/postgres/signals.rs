//! What signals do to those who are there: nobody loses a transaction that need not be lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Cluster, Scene, Wire, wait_until};

/// Clients that work all the time, and count.
struct Load {
    enough: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Transactions of three statements, which fail the test when one of them does.
    fn start(scene: &Scene, clients: usize) -> Load {
        let enough = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let work = |mut client: Wire, number: usize| {
            let (enough, done) = (enough.clone(), done.clone());
            move || {
                while !enough.load(Ordering::Relaxed) {
                    for sql in ["BEGIN", "SELECT pg_sleep(0.002)", "COMMIT"] {
                        client.run(sql);
                    }
                    assert_eq!(
                        client.value(&format!("SELECT {number}")),
                        Some(number.to_string())
                    );
                    done.fetch_add(1, Ordering::Relaxed);
                }
                client.terminate();
            }
        };
        let clients = (0..clients).map(|number| thread::spawn(work(scene.login(), number)));
        let clients = clients.collect();
        Load {
            enough,
            done,
            clients,
        }
    }

    fn count(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Some transactions of each client later.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.count();
        let more = 5 * self.clients.len() as u64;
        wait_until("the load goes on", || self.count() >= before + more);
    }

    /// Ends it; a client that failed fails the test.
    fn stop(self) {
        self.enough.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no transaction has failed");
        }
    }
}

/// Connections of a database's clients to the server, as the server sees them.
fn backends(cluster: &Cluster, database: &str) -> usize {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'");
    let count = cluster.sql("postgres", &sql);
    count.trim().parse().expect("a number")
}

#[test]
fn sigusr1_empties_the_server_and_sigusr2_goes_on_and_no_transaction_fails() {
    let cluster = Cluster::shared();
    let keys = "  mode: transaction\n  max_connections: 4\n  min_idle_connections: 2\n";
    let scene = Scene::new(cluster, "pause", keys);
    let load = Load::start(&scene, 12);
    for round in 0..4 {
        load.goes_on();
        scene.pooler.signal(Signal::SIGUSR1);
        wait_until("no server is left", || {
            backends(cluster, &scene.database) == 0
        });
        let paused_at = load.count();
        thread::sleep(Duration::from_millis(300));
        assert_eq!(backends(cluster, &scene.database), 0, "round {round}");
        assert_eq!(load.count(), paused_at, "nobody works");
        scene.pooler.signal(Signal::SIGUSR2);
        load.goes_on();
    }
    load.stop();
    scene.pooler.signal(Signal::SIGUSR2);
    // Of two that wait, the kernel brings the lower number first.
    scene
        .pooler
        .wait_for_log("got SIGUSR2, but not paused/suspended");
    scene.pooler.signal(Signal::SIGUSR1);
    for said in [
        "got SIGUSR1, pausing all activity",
        "got SIGUSR2, continuing from PAUSE",
        "got SIGUSR2, but not paused/suspended",
    ] {
        scene.pooler.wait_for_log(said);
    }
    wait_until("it is paused", || backends(cluster, &scene.database) == 0);
    scene.pooler.signal(Signal::SIGUSR1);
    scene
        .pooler
        .wait_for_log("got SIGUSR1, but already paused/suspended");
}

/// In session mode a pause waits for those who have a server, and they are served as ever.
#[test]
fn a_session_outlives_a_pause_and_new_ones_wait_for_its_end() {
    let cluster = Cluster::shared();
    let scene = Scene::new(cluster, "pause_session", "");
    let mut there = scene.login();
    scene.pooler.signal(Signal::SIGUSR1);
    scene.pooler.wait_for_log("got SIGUSR1");
    assert_eq!(there.value("SELECT 1"), Some("1".to_owned()));
    let (port, database) = (scene.pooler.port(), scene.database.clone());
    let late = thread::spawn(move || {
        let parameters = [("user", "username"), ("database", &database)];
        Wire::try_login(port, &parameters, crate::support::cluster::PASSWORD)
            .expect("after the pause")
            .value("SELECT 2")
    });
    scene.wait_for_pool("cl_waiting", 1);
    there.terminate();
    wait_until("no server is left", || {
        backends(cluster, &scene.database) == 0
    });
    thread::sleep(Duration::from_millis(100));
    assert!(!late.is_finished());
    scene.pooler.signal(Signal::SIGUSR2);
    assert_eq!(late.join().expect("it logs in"), Some("2".to_owned()));
}
