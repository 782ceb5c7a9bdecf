//! What a transaction costs in instructions of the pooler's own, counted by valgrind: unlike times, the figures repeat.
//!
//! `scripts/instructions` runs it, with a release build in `AETHER_BIN`. With `AETHER_COMPARE` set, PgBouncer is counted as
//! well, 16 clients beside the one, and a table printed.

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::Child;

use nix::sys::signal::Signal;
use support::process::{self, Place};
use support::wire::{bind, describe, execute, parse, sync, terminated};
use support::{Cluster, PATIENCE, Wire, pgbouncer, wait_for, wait_until};

/// Transactions of a long run and of a short one; what is between their counts belongs to the transactions alone.
const RUNS: [u32; 2] = [3_000, 1_000];

/// How far a count may be from what is written here, in percent. One that is better by more is to be written here.
const MARGIN: f64 = 5.0;

/// How a transaction is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Simple,
    Extended,
    Prepared,
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Simple, Protocol::Extended, Protocol::Prepared];

impl Protocol {
    /// Instructions per transaction with so many clients, as last measured with the static release build: of one client, who
    /// wakes the pooler for each message; and of several, who do not get the same server each time.
    fn known(self) -> [(usize, f64); 2] {
        match self {
            Protocol::Simple => [(1, 4_660.0), (16, 3_940.0)],
            Protocol::Extended => [(1, 6_350.0), (16, 5_740.0)],
            Protocol::Prepared => [(1, 6_110.0), (16, 5_370.0)],
        }
    }

    /// What `pgbench -S` says in this protocol.
    fn messages(self, aid: u32) -> Vec<u8> {
        let value = aid.to_string();
        let run = [describe(b'P', ""), execute("", 0), sync()].concat();
        match self {
            Protocol::Simple => {
                let sql = format!("SELECT abalance FROM pgbench_accounts WHERE aid = {aid};");
                support::wire::message(b'Q', &terminated(&sql))
            }
            Protocol::Extended => [parse("", BY_ID), bind("", "", &[&value]), run].concat(),
            Protocol::Prepared => [bind("", "P_0", &[&value]), run].concat(),
        }
    }
}

const BY_ID: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1;";

fn cluster() -> Cluster {
    let cluster = Cluster::start();
    cluster.database("bench");
    cluster.sql(
        "bench",
        "CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84)); \
         INSERT INTO pgbench_accounts SELECT n, 1, 0, '' FROM generate_series(1, 2000) n; \
         GRANT ALL ON pgbench_accounts TO PUBLIC; ANALYZE pgbench_accounts",
    );
    cluster
}

/// Transactions of `clients` clients, all of them sent before the first is answered.
fn work(port: u16, protocol: Protocol, clients: usize, transactions: u32) {
    let parameters = [
        ("user", "postgres"),
        ("database", "bench"),
        ("application_name", "pgbench"),
    ];
    let login = |_| Wire::try_login(port, &parameters, "").expect("a login");
    let mut wires: Vec<Wire> = (0..clients).map(login).collect();
    if protocol == Protocol::Prepared {
        for wire in &mut wires {
            wire.send(&[parse("P_0", BY_ID), sync()].concat());
            wire.read_until(b'Z');
        }
    }
    let mut buffer = vec![0; 4_096];
    for n in 0..transactions / u32::try_from(clients).expect("few") {
        for wire in &mut wires {
            wire.send(&protocol.messages(1_000 + n % 1_000));
        }
        for wire in &mut wires {
            let mut count = 0;
            while !buffer[..count].ends_with(b"Z\0\0\0\x05I") {
                count +=
                    std::io::Read::read(&mut wire.stream, &mut buffer[count..]).expect("an answer");
            }
            assert!(
                buffer[..count]
                    .windows(5)
                    .any(|part| part == b"D\0\0\0\x0b"),
                "no row"
            );
        }
    }
    wires.into_iter().for_each(Wire::terminate);
}

/// A pooler whose instructions are counted, from its start to its end.
struct Counted {
    child: Child,
    port: u16,
    place: Place,
}

const VALGRIND: &str = "/usr/bin/valgrind";

impl Counted {
    fn start(program: &Path, arguments: &[&str], file: &str, text: &str) -> Counted {
        assert!(
            Path::new(VALGRIND).exists(),
            "valgrind is not installed: `make test` installs it"
        );
        let place = Place::new("counted");
        let port = process::free_port();
        let config = place.write(file, &text.replace("{port}", &port.to_string()));
        let log = fs::File::create(place.path().join("log")).expect("its log");
        let mut command = process::command(Path::new(VALGRIND));
        let out = std::env::var("AETHER_CALLGRIND_OUT").unwrap_or_else(|_| "/dev/null".to_owned());
        command.args([
            "--tool=callgrind",
            "--vgdb=no",
            &format!("--callgrind-out-file={out}"),
        ]);
        command
            .arg(program)
            .args(arguments)
            .arg(config)
            .current_dir(place.path());
        command
            .stdout(log.try_clone().expect("its log"))
            .stderr(log);
        let child = process::spawn(command).expect("setpriv, of util-linux, starts it");
        let counted = Counted { child, port, place };
        wait_until("the pooler listens", || process::listening(port));
        counted
    }

    fn aether(cluster: &Cluster, mode: &str) -> Counted {
        Counted::aether_with(cluster, mode, "")
    }

    /// `more`: further sections of its configuration.
    fn aether_with(cluster: &Cluster, mode: &str, more: &str) -> Counted {
        let yaml = format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nauth: {{type: trust}}\n\
             pool: {{dsn: \"postgres://postgres@127.0.0.1:{}/bench?sslmode=disable\", mode: {mode}, max_connections: 20}}\n{more}",
            cluster.port()
        );
        Counted::start(support::pooler::binary(), &[], "aether.yaml", &yaml)
    }

    fn pgbouncer(cluster: &Cluster, mode: &str) -> Counted {
        let ini = format!(
            "[databases]\nbench = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {{port}}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 20\n\
             max_client_conn = 1000\n{}",
            cluster.port(),
            pgbouncer().more_ini()
        );
        Counted::start(&pgbouncer().program, &[], "pgbouncer.ini", &ini)
    }

    /// Ends it and says how many instructions it has taken.
    fn end(mut self, how: Signal) -> f64 {
        process::signal(self.child.id(), how);
        let ended = wait_for(PATIENCE, || matches!(self.child.try_wait(), Ok(Some(_))));
        let log = fs::read_to_string(self.place.path().join("log")).expect("its log");
        assert!(ended, "it does not end:\n{log}");
        let collected = log.lines().find_map(|line| line.split_once("Collected : "));
        let (_, count) = collected.unwrap_or_else(|| panic!("callgrind says nothing:\n{log}"));
        count.trim().parse().expect("a number")
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Instructions per transaction.
fn count(start: &dyn Fn() -> Counted, how: Signal, protocol: Protocol, clients: usize) -> f64 {
    let [long, short] = RUNS.map(|transactions| {
        let counted = start();
        work(counted.port, protocol, clients, transactions);
        counted.end(how)
    });
    (long - short) / f64::from(RUNS[0] - RUNS[1])
}

#[test]
fn a_transaction_takes_as_many_instructions_as_it_did() {
    if std::env::var_os("AETHER_COMPARE").is_some() {
        return compare();
    }
    if std::env::var_os("AETHER_OBSERVED").is_some() {
        return observed();
    }
    let cluster = cluster();
    let mut wrong = Vec::new();
    // AETHER_PROTOCOL=simple: one of them, to look at it closely.
    let chosen = std::env::var("AETHER_PROTOCOL").unwrap_or_default();
    let is_chosen = |protocol: &Protocol| {
        let name = format!("{protocol:?}").to_lowercase();
        chosen.is_empty() || name == chosen
    };
    for protocol in PROTOCOLS.into_iter().filter(is_chosen) {
        let start = || Counted::aether(&cluster, "transaction");
        for (clients, known) in protocol.known() {
            let count = count(&start, Signal::SIGQUIT, protocol, clients);
            let percent = 100.0 * (count - known) / known;
            let line = format!(
                "{protocol:?}, {clients} clients: {count:.0} instructions, {known:.0} are known, {percent:+.1} %"
            );
            println!("{line}");
            if percent.abs() > MARGIN {
                wrong.push(line);
            }
        }
    }
    assert!(wrong.is_empty(), "more than {MARGIN} % away: {wrong:#?}");
}

/// What it costs to look: beside the same with nothing on.
fn observed() {
    let cluster = cluster();
    for protocol in PROTOCOLS {
        let counted = |more| {
            let start = || Counted::aether_with(&cluster, "transaction", more);
            count(&start, Signal::SIGQUIT, protocol, 1)
        };
        let nothing = counted("");
        println!("{protocol:?}: {nothing:.0} instructions");
        let port = process::free_port();
        for (name, more) in [
            (
                "metrics",
                &*format!("metrics: {{listen_addr: \"127.0.0.1:{port}\"}}\n"),
            ),
            (
                "query_fingerprints",
                "metrics: {query_fingerprints: 1000}\n",
            ),
            ("slow_query_threshold", "log: {slow_query_threshold: 10s}\n"),
        ] {
            println!("{protocol:?}, {name}: {:+.0}", counted(more) - nothing);
        }
    }
}

fn compare() {
    let cluster = cluster();
    println!("beside {}", pgbouncer().name);
    for clients in [1, 16] {
        for protocol in PROTOCOLS {
            let aether = || Counted::aether(&cluster, "transaction");
            let mode = match protocol {
                Protocol::Prepared => pgbouncer().mode_for_prepared(),
                Protocol::Simple | Protocol::Extended => "transaction",
            };
            let pgbouncer = || Counted::pgbouncer(&cluster, mode);
            let ours = count(&aether, Signal::SIGQUIT, protocol, clients);
            let theirs = count(&pgbouncer, Signal::SIGINT, protocol, clients);
            println!(
                "{clients:>2} clients, {protocol:?}: aether {ours:.0}, pgbouncer ({mode}) {theirs:.0}, ratio {:.2}",
                ours / theirs
            );
        }
    }
}
