//! A scripted load whose every number is known, held against every counter that there is: what is not listed here has to be zero.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::series::scrape;
use crate::support::cluster::PASSWORD;
use crate::support::process::{self, Place};
use crate::support::scene::tcp;
use crate::support::wire::{bind, execute, message, parse, sync, terminated};
use crate::support::{Cluster, Message, PATIENCE, Pooler, Wire, wait_until};

/// A client that knows how many bytes it has sent and received since its login.
struct Client {
    wire: Wire,
    sent: u64,
    received: u64,
}

impl Client {
    fn new(wire: Wire) -> Client {
        Client {
            wire,
            sent: 0,
            received: 0,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.sent += bytes.len() as u64;
        self.wire.send(bytes);
    }

    /// Reads up to so many ReadyForQuery.
    fn read(&mut self, ready: usize) -> Vec<Message> {
        let mut all = Vec::new();
        for _ in 0..ready {
            all.extend(self.wire.read_until(b'Z'));
        }
        let of = |message: &Message| 5 + message.body.len() as u64;
        self.received += all.iter().map(of).sum::<u64>();
        all
    }

    fn ask(&mut self, messages: &[Vec<u8>]) -> Vec<Message> {
        self.send(&messages.concat());
        self.read(1)
    }

    fn query(&mut self, sql: &str) -> Vec<Message> {
        self.ask(&[query(sql)])
    }
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &terminated(sql))
}

fn run(statement: &str) -> [Vec<u8>; 3] {
    [bind("", statement, &[]), execute("", 0), sync()]
}

/// Whether a series counts events, and these are known. Those of the process itself are not: CPU time, turns.
fn is_counted(series: &str) -> bool {
    let name = series.split('{').next().unwrap_or_default();
    let counts = name.ends_with("_total") || name.ends_with("_count");
    let is_last = name.ends_with("_bucket") && series.contains("le=\"+Inf\"");
    (counts || is_last)
        && name != "process_cpu_seconds_total"
        && !name.starts_with("aether_loop_turn_duration_seconds")
}

/// Where the two are not the same.
fn differences(found: &BTreeMap<String, f64>, wanted: &BTreeMap<String, f64>) -> Vec<String> {
    let keys = found.keys().chain(wanted.keys());
    let mut all: Vec<String> = keys
        .filter(|key| found.get(*key) != wanted.get(*key))
        .map(|key| {
            format!(
                "{key}: found {:?}, wanted {:?}",
                found.get(key),
                wanted.get(key)
            )
        })
        .collect();
    all.dedup();
    all
}

struct Script {
    pooler: Pooler,
    port: u16,
    wanted: BTreeMap<String, f64>,
    tx: Traffic,
    se: Traffic,
}

/// Bytes of one pool.
#[derive(Default)]
struct Traffic {
    sent: u64,
    received: u64,
}

impl Traffic {
    fn add(&mut self, client: &Client) {
        self.sent += client.sent;
        self.received += client.received;
    }
}

impl Script {
    fn login(&self, database: &str) -> Client {
        Client::new(Wire::login(
            self.pooler.port(),
            "username",
            PASSWORD,
            database,
        ))
    }

    fn login_as(&self, user: &str, database: &str, password: &str) -> Result<Wire, String> {
        let parameters = [("user", user), ("database", database)];
        Wire::try_login(self.pooler.port(), &parameters, password)
            .map_err(|error| error.sqlstate().to_owned())
    }

    /// So many more of a series.
    fn want(&mut self, series: &str, more: u64) {
        *self.wanted.entry(series.to_owned()).or_default() += more as f64;
    }

    /// The same of a pool's.
    fn want_of(&mut self, pool: &str, name: &str, more: u64) {
        self.want(&format!("aether_pool_{name}{{database=\"{pool}\"}}"), more);
    }

    /// Times of something in a pool.
    fn want_times(&mut self, pool: &str, name: &str, more: u64) {
        let labels = format!("{{database=\"{pool}\"");
        self.want(
            &format!("aether_pool_{name}_duration_seconds_count{labels}}}"),
            more,
        );
        let bucket = format!("aether_pool_{name}_duration_seconds_bucket{labels},le=\"+Inf\"}}");
        self.want(&bucket, more);
    }

    fn want_queries(&mut self, pool: &str, queries: u64, transactions: u64) {
        self.want_of(pool, "queries_total", queries);
        self.want_times(pool, "query", queries);
        self.want_of(pool, "transactions_total", transactions);
        self.want_times(pool, "transaction", transactions);
    }

    /// Servers were given to clients so many times.
    fn want_assignments(&mut self, pool: &str, count: u64) {
        self.want_of(pool, "assignments_total", count);
        self.want_times(pool, "wait", count);
    }

    fn want_connects(&mut self, pool: &str, count: u64) {
        self.want_of(pool, "server_connects_total", count);
        self.want_times(pool, "connect", count);
    }

    fn want_login(&mut self, method: &str, outcome: &str, count: u64) {
        let series = format!("aether_logins_total{{method=\"{method}\",outcome=\"{outcome}\"}}");
        self.want(&series, count);
        self.want("aether_clients_accepted_total", count);
        if outcome == "ok" {
            self.want("aether_login_duration_seconds_count", count);
            self.want("aether_login_duration_seconds_bucket{le=\"+Inf\"}", count);
        }
    }

    fn want_close(&mut self, reason: &str, sqlstate: &str, count: u64) {
        self.want(
            &format!("aether_client_closes_total{{reason=\"{reason}\",sqlstate=\"{sqlstate}\"}}"),
            count,
        );
    }

    fn want_cancel(&mut self, outcome: &str) {
        let series = format!("aether_cancel_requests_total{{outcome=\"{outcome}\"}}");
        self.want(&series, 1);
        self.want("aether_clients_accepted_total", 1);
        self.want_close("cancel_request", "", 1);
    }

    /// Waits until the counters are as they should be, which those of ends are only when both sides know of them.
    #[track_caller]
    fn check(&self, part: &str) {
        let mut last = Vec::new();
        let found = crate::support::wait_for(PATIENCE, || {
            let mut found = scrape(self.port);
            found.retain(|series, value| is_counted(series) && *value != 0.0);
            last = differences(&found, &self.wanted);
            last.is_empty()
        });
        assert!(found, "{part}: {last:#?}\n{}", self.pooler.log());
    }
}

#[test]
fn every_counter_is_what_the_script_makes_it() {
    let cluster = Cluster::shared();
    let database = cluster.database("metrics_exact");
    let dsn = tcp(cluster, &database);
    let (port, place) = (process::free_port(), Place::new("exact"));
    let hba = place.write(
        "hba",
        "host all by_md5 127.0.0.1/32 md5\nhost all by_password 127.0.0.1/32 password\n\
         host all trusted 127.0.0.1/32 trust\nhost all rejected 127.0.0.1/32 reject\n\
         host all all 127.0.0.1/32 scram-sha-256\n",
    );
    let users: String = ["by_md5", "by_password", "trusted", "rejected", "username"]
        .map(|user| format!("    {user}: \"{PASSWORD}\"\n"))
        .concat();
    let yaml = format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\", client_login_timeout: 30s}}\n\
         admin: {{users: [username]}}\nmetrics: {{listen_addr: \"127.0.0.1:{port}\"}}\n\
         auth:\n  hba_file: \"{}\"\n  users:\n{users}\
         databases:\n\
         \x20 tx: {{dsn: \"{dsn}\", mode: transaction, max_connections: 1, max_prepared_statements: 2}}\n\
         \x20 se: {{dsn: \"{dsn}\", server_assignment: first_query, max_connections: 2, check_delay: 1ms}}\n",
        hba.display()
    );
    let mut script = Script {
        pooler: Pooler::start(&yaml),
        port,
        wanted: BTreeMap::new(),
        tx: Traffic::default(),
        se: Traffic::default(),
    };
    script.check("nothing has happened");
    logins(&mut script);
    script.check("logins");
    transactions(&mut script);
    script.check("transactions");
    statements(&mut script);
    script.check("statements");
    cancels(&mut script);
    script.check("cancels");
    sessions(&mut script);
}

/// Every method, and every way in which a login ends.
fn logins(script: &mut Script) {
    for (user, method) in [
        ("by_md5", "md5"),
        ("by_password", "password"),
        ("trusted", "trust"),
        ("username", "scram-sha-256"),
    ] {
        let client = script.login_as(user, "se", PASSWORD).expect("it is let in");
        client.terminate();
        script.want_login(method, "ok", 1);
        script.want_of("se", "logins_total", 1);
        script.want_close("terminate", "", 1);
    }
    // The first of a pool is welcomed by a server.
    script.want_connects("se", 1);
    script.want_assignments("se", 1);
    for (user, method) in [
        ("by_md5", "md5"),
        ("by_password", "password"),
        ("username", "scram-sha-256"),
    ] {
        let code = script.login_as(user, "se", "wrong").err();
        assert_eq!(code.as_deref(), Some("28P01"));
        script.want_login(method, "failed", 1);
        script.want_close("refused", "28P01", 1);
    }
    let code = script.login_as("rejected", "se", PASSWORD).err();
    assert_eq!(code.as_deref(), Some("28000"));
    script.want_login("reject", "refused", 1);
    script.want_close("refused", "28000", 1);
    let code = script.login_as("username", "nowhere", PASSWORD).err();
    assert_eq!(code.as_deref(), Some("3D000"));
    script.want_login("scram-sha-256", "ok", 1);
    script.want_close("refused", "3D000", 1);
    // Two leave before they have shown who they are, one of them before it has said a word.
    let port = script.pooler.port();
    drop(Wire::connect(port)); // no login
    script.want("aether_clients_accepted_total", 1);
    let mut halfway = Wire::connect(port);
    halfway.startup(&[("user", "username"), ("database", "se")]);
    halfway.read_message();
    drop(halfway);
    script.want_login("scram-sha-256", "left", 1);
    script.want_close("left_login", "", 2);
    // The console is no pool.
    script.login("aether").wire.terminate();
    script.want_login("scram-sha-256", "ok", 1);
    script.want_close("terminate", "", 1);
}

/// One after the other, over one server.
fn transactions(script: &mut Script) {
    let mut client = script.login("tx");
    script.want_login("scram-sha-256", "ok", 1);
    script.want_of("tx", "logins_total", 1);
    script.want_connects("tx", 1);
    script.want_times("tx", "wait", 1); // for its welcome
    for n in 0..5 {
        client.query(&format!("SELECT {n}"));
    }
    script.want_queries("tx", 5, 5);
    script.want_assignments("tx", 5);
    for sql in ["BEGIN", "SELECT 1", "SELECT 1/0", "ROLLBACK"] {
        client.query(sql);
    }
    script.want_queries("tx", 4, 1);
    script.want_assignments("tx", 1);
    // What comes together is counted apart.
    client.send(&query("SELECT 1").repeat(7));
    client.read(7);
    script.want_queries("tx", 7, 7);
    script.want_assignments("tx", 1);
    client.ask(&[
        parse("", "SELECT $1::int"),
        bind("", "", &["17"]),
        execute("", 0),
        sync(),
    ]);
    script.want_queries("tx", 1, 1);
    script.want_assignments("tx", 1);
    script.tx.add(&client);
    drop(client);
    script.want_close("disconnect", "", 1);
    bytes(script);
}

/// Three named statements where a server may hold two.
fn statements(script: &mut Script) {
    let mut client = script.login("tx");
    let mut asked = 0;
    for n in 0..3 {
        client.ask(&[parse(&format!("s{n}"), &format!("SELECT {n}")), sync()]);
        asked += 1;
    }
    for name in ["s2", "s2", "s0", "s0", "s2"] {
        client.ask(&run(name));
        asked += 1;
    }
    let mut other = script.login("tx");
    other.ask(&[parse("mine", "SELECT 2"), sync()]);
    other.ask(&run("mine"));
    asked += 2;
    script.want_login("scram-sha-256", "ok", 2);
    script.want_of("tx", "logins_total", 2);
    script.want_queries("tx", asked, asked);
    script.want_assignments("tx", asked);
    let parses =
        |side| format!("aether_pool_statement_parses_total{{database=\"tx\",side=\"{side}\"}}");
    script.want(&parses("client"), 4);
    script.want(&parses("server"), 4); // s0 once more
    script.want_of("tx", "statement_binds_total", 6);
    script.want_of("tx", "statement_hits_total", 5);
    script.want_of("tx", "statement_evictions_total", 2); // s0, then s1
    script.tx.add(&client);
    script.tx.add(&other);
    client.wire.terminate();
    other.wire.terminate();
    script.want_close("terminate", "", 2);
    bytes(script);
}

/// All that may become of a cancel request.
fn cancels(script: &mut Script) {
    let (mut holder, mut waiter) = (script.login("tx"), script.login("tx"));
    script.want_login("scram-sha-256", "ok", 2);
    script.want_of("tx", "logins_total", 2);
    holder.wire.cancel();
    script.want_cancel("idle");
    holder
        .wire
        .cancel_by(script.pooler.port(), |key| key[0] ^= 1);
    script.want_cancel("unknown");
    holder.send(&query("SELECT pg_sleep(60)"));
    let levels = |state: &str| {
        let found = scrape(script.port);
        found[&format!("aether_pool_clients{{database=\"tx\",state=\"{state}\"}}")]
    };
    wait_until("the server works", || levels("active") == 1.0);
    waiter.send(&query("SELECT 1"));
    wait_until("one waits", || levels("waiting") == 1.0);
    waiter.wire.cancel();
    waiter.read(1);
    script.want_cancel("queued");
    script.want_of("tx", "queries_total", 1);
    script.want_of("tx", "transactions_total", 1);
    holder.wire.cancel();
    holder.read(1);
    script.want_cancel("forwarded");
    script.want_queries("tx", 1, 1);
    script.want_assignments("tx", 1);
    script.tx.add(&holder);
    script.tx.add(&waiter);
    holder.wire.terminate();
    waiter.wire.terminate();
    script.want_close("terminate", "", 2);
    bytes(script);
}

/// Sessions of their own: reset and checked.
fn sessions(script: &mut Script) {
    let mut first = script.login("se");
    std::thread::sleep(Duration::from_millis(20));
    first.query("CREATE TABLE copied (a int)");
    first.query("SELECT 1");
    script.want_login("scram-sha-256", "ok", 1);
    script.want_of("se", "logins_total", 1);
    script.want_of("se", "checks_total", 1);
    script.want_assignments("se", 1);
    script.want_queries("se", 2, 2);
    script.se.add(&first);
    first.wire.terminate();
    script.want_close("terminate", "", 1);
    script.want_of("se", "resets_total", 1);
    bytes(script);
    script.check("a session");
}

/// The bytes of all pools, as their clients have counted them.
fn bytes(script: &mut Script) {
    for (pool, sent, received) in [
        ("tx", script.tx.sent, script.tx.received),
        ("se", script.se.sent, script.se.received),
    ] {
        for (name, bytes) in [
            ("received_bytes_total", sent),
            ("sent_bytes_total", received),
        ] {
            if bytes > 0 {
                let series = format!("aether_pool_{name}{{database=\"{pool}\"}}");
                script.wanted.insert(series, bytes as f64);
            }
        }
    }
}
