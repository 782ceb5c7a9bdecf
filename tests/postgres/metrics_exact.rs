//! A scripted load whose every number is known, held against every counter that there is: what is not listed here has to be zero.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::series::scrape;
use crate::support::cluster::PASSWORD;
use crate::support::process::{self, Place};
use crate::support::scene::{Row, show, tcp};
use crate::support::wire::{bind, execute, first_error, message, parse, sync, terminated};
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
        self.received += all.iter().map(size).sum::<u64>();
        all
    }

    /// Reads up to and with a message of this type.
    fn read_until(&mut self, kind: u8) {
        let all = self.wire.read_until(kind);
        self.received += all.iter().map(size).sum::<u64>();
    }

    /// Reads to the end, where it is told why: the SQLSTATE.
    fn read_to_end(&mut self) -> String {
        let all = self.wire.read_to_end();
        self.received += all.iter().map(size).sum::<u64>();
        let error = first_error(&all).expect("it is told why");
        error.sqlstate().to_owned()
    }

    fn ask(&mut self, messages: &[Vec<u8>]) -> Vec<Message> {
        self.send(&messages.concat());
        self.read(1)
    }

    fn query(&mut self, sql: &str) -> Vec<Message> {
        self.ask(&[query(sql)])
    }
}

fn size(message: &Message) -> u64 {
    5 + message.body.len() as u64
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
    all.sort();
    all.dedup();
    all
}

struct Script {
    pooler: Pooler,
    /// It is there from the first login on.
    console: Option<Wire>,
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
        if more == 0 {
            return; // what is zero is not listed
        }
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

    fn want_server_close(&mut self, pool: &str, reason: &str) {
        let name = "aether_pool_server_closes_total";
        self.want(
            &format!("{name}{{database=\"{pool}\",reason=\"{reason}\"}}"),
            1,
        );
    }

    fn want_connect_failures(&mut self, pool: &str, reason: &str, count: u64) {
        let name = "aether_pool_server_connect_failures_total";
        self.want(
            &format!("{name}{{database=\"{pool}\",reason=\"{reason}\"}}"),
            count,
        );
    }

    fn console(&mut self) -> &mut Wire {
        self.console.as_mut().expect("it has logged in")
    }

    /// Waits until the counters are as they should be, which those of ends are only when both sides know of them. The console says the
    /// same.
    #[track_caller]
    fn check(&mut self, part: &str) {
        let mut last = Vec::new();
        let found = crate::support::wait_for(PATIENCE, || {
            let mut found = scrape(self.port);
            found.retain(|series, value| is_counted(series) && *value != 0.0);
            last = differences(&found, &self.wanted);
            last.is_empty()
        });
        assert!(found, "{part}: {last:#?}\n{}", self.pooler.log());
        if let Some(console) = self.console.as_mut() {
            wait_until("nobody has a server", || {
                show(console, "POOLS").iter().all(rests)
            });
            let series = scrape(self.port);
            let (stats, totals) = (show(console, "STATS"), show(console, "TOTALS"));
            check_stats(part, &series, &stats, &totals);
            check_servers(part, &series, &show(console, "POOLS"));
        }
    }
}

/// What SHOW STATS counts, what SHOW TOTALS calls it, and the series.
const SAME: [(&str, &str, &str); 15] = [
    (
        "server_assignment_count",
        "server_assignment_count",
        "assignments_total{D}",
    ),
    ("xact_count", "xact_count", "transactions_total{D}"),
    ("query_count", "query_count", "queries_total{D}"),
    ("received", "client_bytes", "received_bytes_total{D}"),
    ("sent", "server_bytes", "sent_bytes_total{D}"),
    (
        "xact_time",
        "xact_time",
        "transaction_duration_seconds_sum{D}",
    ),
    ("query_time", "query_time", "query_duration_seconds_sum{D}"),
    ("wait_time", "wait_time", "wait_duration_seconds_sum{D}"),
    (
        "client_parse_count",
        "ps_client_parse_count",
        "statement_parses_total{D,side=\"client\"}",
    ),
    (
        "server_parse_count",
        "ps_server_parse_count",
        "statement_parses_total{D,side=\"server\"}",
    ),
    ("bind_count", "ps_bind_count", "statement_binds_total{D}"),
    (
        "client_login_count",
        "client_login_count",
        "logins_total{D}",
    ),
    ("server_connects", "", "server_connects_total{D}"),
    ("resets", "", "resets_total{D}"),
    ("checks", "", "checks_total{D}"),
];

fn number(row: &Row, column: &str) -> u64 {
    let text = row
        .get(column)
        .unwrap_or_else(|| panic!("no {column}: {row:?}"));
    text.parse().expect("a number")
}

/// SHOW STATS and SHOW TOTALS, held against the series.
#[track_caller]
fn check_stats(part: &str, series: &BTreeMap<String, f64>, stats: &[Row], totals: &[Row]) {
    for (column, total, name) in SAME {
        let mut sum = 0;
        for row in stats {
            let count = number(row, &format!("total_{column}"));
            let database = format!("database=\"{}\"", row["database"]);
            let series = series.get(&format!("aether_pool_{}", name.replace('D', &database)));
            sum += count;
            if row["database"] == "pgbouncer" {
                assert_eq!(series, None, "the console is no pool");
                continue;
            }
            let told = *series.unwrap_or_else(|| panic!("{part}: no {name} {database}"));
            let told = if name.contains("_seconds_sum") {
                told * 1e6
            } else {
                told
            };
            assert_eq!(count, told.round() as u64, "{part}: {column} of {database}");
        }
        if !total.is_empty() {
            let name = format!("total_{total}");
            let row = totals.iter().find(|row| row["name"] == name);
            assert_eq!(
                number(row.expect("a total"), "value"),
                sum,
                "{part}: {name}"
            );
        }
    }
}

/// Whether nobody of a pool does anything, by SHOW POOLS.
fn rests(row: &Row) -> bool {
    let busy = [
        "cl_active",
        "cl_waiting",
        "cl_active_cancel_req",
        "sv_active",
        "sv_active_cancel",
        "sv_being_canceled",
    ];
    row["database"] == "pgbouncer" || busy.iter().all(|column| number(row, column) == 0)
}

/// SHOW POOLS, held against the series: servers are those that were made and not closed.
#[track_caller]
fn check_servers(part: &str, series: &BTreeMap<String, f64>, pools: &[Row]) {
    for row in pools.iter().filter(|row| row["database"] != "pgbouncer") {
        let database = &row["database"];
        let of = |name: &str| {
            let begin = format!("aether_pool_{name}{{database=\"{database}\"");
            let all = series
                .iter()
                .filter(|(series, _)| series.starts_with(&begin));
            all.map(|(_, value)| *value as u64).sum::<u64>()
        };
        let servers = of("server_connects_total") - of("server_closes_total");
        assert_eq!(number(row, "sv_idle"), servers, "{part}: {row:?}");
        assert_eq!(of("servers"), servers, "{part}");
    }
}

/// Takes connections, says nothing and closes them; how many there were.
fn slams_the_door() -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    (port, count)
}

#[test]
fn every_counter_is_what_the_script_makes_it() {
    let cluster = Cluster::shared();
    let database = cluster.database("metrics_exact");
    let dsn = tcp(cluster, &database);
    let wrong = dsn.replace(PASSWORD, "another");
    let (slams, slammed) = slams_the_door();
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
         \x20 se: {{dsn: \"{dsn}\", server_assignment: first_query, max_connections: 2, check_delay: 1ms}}\n\
         \x20 wrong: {{dsn: \"{wrong}\"}}\n\
         \x20 missing: {{dsn: \"{dsn}_missing\"}}\n\
         \x20 slams: {{dsn: \"postgres://username:p@127.0.0.1:{slams}/d?sslmode=disable\", acquire_timeout: 400ms}}\n\
         \x20 full: {{dsn: \"{dsn}\", mode: transaction, max_connections: 1, acquire_timeout: 200ms}}\n\
         \x20 late: {{dsn: \"{dsn}\", mode: transaction, idle_transaction_timeout: 200ms}}\n\
         \x20 two: {{dsn: \"{dsn}\", mode: transaction, max_client_connections: 1}}\n",
        hba.display()
    );
    let mut script = Script {
        pooler: Pooler::start(&yaml),
        console: None,
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
    let pids = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND query"
    );
    let terminate = |query: &str| drop(cluster.sql("postgres", &format!("{pids} LIKE '{query}%'")));
    ended_servers(&mut script, terminate);
    script.check("servers that end");
    failed_connections(&mut script, &slammed);
    script.check("connections that fail");
    reloads(&mut script, &yaml);
    script.check("reloads");
    orders(&mut script);
    script.check("an operator's orders");
    refusals(&mut script);
    script.check("refusals");
    late_logins(&mut script);
    script.check("logins that take too long");
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
    script.want_login("scram-sha-256", "ok", 2);
    script.want_close("terminate", "", 1);
    script.console = Some(script.login("aether").wire);
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

/// Servers that an administrator ends: in the middle of a COPY, of a query, of a transaction, and when nobody has them.
fn ended_servers(script: &mut Script, terminate: impl Fn(&str)) {
    for (sql, begins) in [
        ("COPY copied FROM STDIN", "COPY"),
        ("SELECT pg_sleep(60)", "SELECT pg_sleep"),
        ("BEGIN", "BEGIN"),
    ] {
        let mut client = script.login("tx");
        client.send(&query(sql));
        match begins {
            "COPY" => {
                client.read_until(b'G');
                client.send(&message(b'd', b"1\n"));
            }
            "BEGIN" => {
                client.read(1);
                script.want_queries("tx", 1, 0);
            }
            _ => {
                let asks =
                    || scrape(script.port)["aether_pool_clients{database=\"tx\",state=\"active\"}"];
                wait_until("the server works", || asks() == 1.0);
            }
        }
        terminate(begins);
        assert_eq!(client.read_to_end(), "57P01");
        script.tx.add(&client);
        script.want_login("scram-sha-256", "ok", 1);
        script.want_of("tx", "logins_total", 1);
        script.want_assignments("tx", 1);
        script.want_server_close("tx", "lost");
        script.want_close("server", "57P01", 1);
        script.want_connects("tx", 1); // for the next one
        bytes(script);
        let mut next = script.login("tx");
        next.query("SELECT 1");
        script.tx.add(&next);
        next.wire.terminate();
        script.want_login("scram-sha-256", "ok", 1);
        script.want_of("tx", "logins_total", 1);
        script.want_assignments("tx", 1);
        script.want_queries("tx", 1, 1);
        script.want_close("terminate", "", 1);
        bytes(script);
        script.check(sql);
    }
    // One in each pool, that nobody has: what the server says is why.
    terminate("");
    script.want_server_close("tx", "server_error");
    script.want_server_close("se", "server_error");
}

/// A server that refuses the login, one without the database, and one that closes every connection.
fn failed_connections(script: &mut Script, slammed: &AtomicU64) {
    for (database, sqlstate, reason) in [
        ("wrong", "28P01", "authentication"),
        ("missing", "3D000", "no_database"),
        ("slams", "08006", "unreachable"),
    ] {
        let code = script.login_as("username", database, PASSWORD).err();
        assert_eq!(code.as_deref(), Some(sqlstate));
        script.want_login("scram-sha-256", "ok", 1); // it has shown who it is
        script.want_of(database, "logins_total", 1);
        script.want_close("refused", sqlstate, 1);
        let count = match database {
            "slams" => slammed.load(Ordering::SeqCst),
            _ => 1,
        };
        assert!(count > 0, "it was tried");
        script.want_connect_failures(database, reason, count);
    }
}

/// By the signal and by the command; and a file that is wrong.
fn reloads(script: &mut Script, yaml: &str) {
    let failed = "aether_config_reload_failures_total";
    script.pooler.signal(Signal::SIGHUP);
    script.want("aether_config_reloads_total", 1);
    script.check("a signal");
    script.pooler.rewrite_config("pool: {dns: wrong}\n");
    script.pooler.signal(Signal::SIGHUP);
    script.want(failed, 1);
    script.check("a signal, and a wrong file");
    script.console().error("RELOAD");
    script.want(failed, 1);
    script.pooler.rewrite_config(yaml);
    script.console().run("RELOAD DRY RUN"); // changes nothing, and is none
    script.console().run("RELOAD");
    script.want("aether_config_reloads_total", 1);
}

/// PAUSE and RESUME, CANCEL_CLIENT and KILL_CLIENT, DISABLE and ENABLE.
fn orders(script: &mut Script) {
    let mut client = script.login("tx");
    script.want_login("scram-sha-256", "ok", 1);
    script.want_of("tx", "logins_total", 1);
    client.query("SELECT 1");
    script.want_queries("tx", 1, 1);
    script.want_connects("tx", 1);
    script.want_assignments("tx", 1);
    for command in ["PAUSE tx", "PAUSE tx"] {
        script.console().run(command);
    }
    script.want_server_close("tx", "paused");
    client.send(&query("SELECT 2"));
    let clients = |script: &mut Script, state: &str| {
        let rows = show(
            script.console(),
            &format!("CLIENTS WHERE database = 'tx' AND state = '{state}'"),
        );
        rows.first().map(|row| row["id"].clone())
    };
    wait_until("it waits", || clients(script, "waiting").is_some());
    script.console().run("RESUME tx");
    client.read(1);
    script.want_queries("tx", 1, 1);
    script.want_connects("tx", 1);
    script.want_assignments("tx", 1);
    // A query that an operator cancels is one like any other; no client has asked for that.
    client.send(&query("SELECT pg_sleep(60)"));
    wait_until("it works", || clients(script, "active").is_some());
    let id = clients(script, "active").expect("it works");
    script.console().run(&format!("CANCEL_CLIENT {id}"));
    let answer = client.read(1);
    assert_eq!(
        first_error(&answer).expect("it was cancelled").sqlstate(),
        "57014"
    );
    script.want_queries("tx", 1, 1);
    script.want_assignments("tx", 1);
    script.console().run(&format!("KILL_CLIENT {id}"));
    let before = client.received;
    assert_eq!(client.read_to_end(), "57P01");
    client.received = before; // no server has said it
    script.want_close("refused", "57P01", 1);
    script.tx.add(&client);
    bytes(script);
    script.console().run("DISABLE tx");
    let code = script.login_as("username", "tx", PASSWORD).err();
    assert_eq!(code.as_deref(), Some("55000"));
    script.want_login("scram-sha-256", "ok", 1);
    script.want_close("refused", "55000", 1);
    script.console().run("ENABLE tx");
}

/// What clients are told when they are sent away, by its SQLSTATE.
fn refusals(script: &mut Script) {
    // No startup packet at all.
    let port = script.pooler.port();
    let mut nonsense = Wire::connect(port);
    nonsense.send(b"GET / HTTP/1.0\r\n\r\n");
    nonsense.read_to_end();
    script.want("aether_clients_accepted_total", 1);
    script.want_close("protocol", "", 1);
    // One too many.
    let first = script.login("two");
    let code = script.login_as("username", "two", PASSWORD).err();
    assert_eq!(code.as_deref(), Some("53300"));
    script.want_login("scram-sha-256", "ok", 2);
    script.want_of("two", "logins_total", 1);
    script.want_connects("two", 1);
    script.want_times("two", "wait", 1);
    script.want_close("refused", "53300", 1);
    first.wire.terminate();
    script.want_close("terminate", "", 1);
    // It waits for a server for too long.
    let (mut holder, mut waiter) = (script.login("full"), script.login("full"));
    script.want_login("scram-sha-256", "ok", 2);
    script.want_of("full", "logins_total", 2);
    script.want_connects("full", 1);
    script.want_times("full", "wait", 1);
    holder.query("BEGIN");
    waiter.send(&query("SELECT 1"));
    assert_eq!(waiter.read_to_end(), "53300");
    script.want_close("refused", "53300", 1);
    holder.query("COMMIT");
    script.want_queries("full", 2, 1);
    script.want_assignments("full", 1);
    let (sent, received) = (holder.sent, holder.received);
    holder.wire.terminate();
    script.want_close("terminate", "", 1);
    script.want_of("full", "received_bytes_total", sent);
    script.want_of("full", "sent_bytes_total", received);
    // It keeps a transaction open for too long.
    let mut late = script.login("late");
    late.query("BEGIN");
    let (sent, received) = (late.sent, late.received);
    assert_eq!(late.read_to_end(), "25P03");
    script.want_login("scram-sha-256", "ok", 1);
    script.want_of("late", "logins_total", 1);
    script.want_connects("late", 1);
    script.want_times("late", "wait", 1);
    script.want_assignments("late", 1);
    script.want_queries("late", 1, 0);
    script.want_close("server", "25P03", 1);
    script.want_server_close("late", "client_overdue");
    script.want_of("late", "received_bytes_total", sent);
    script.want_of("late", "sent_bytes_total", received);
}

/// Who says nothing is told nothing; who says who they are and does not show it is told why.
fn late_logins(script: &mut Script) {
    script
        .console()
        .run("SET server.client_login_timeout = '300ms'");
    script.want("aether_config_reloads_total", 1);
    let mut silent = Wire::connect(script.pooler.port());
    assert_eq!(silent.read_to_end(), []);
    script.want("aether_clients_accepted_total", 1);
    script.want_close("login_timeout", "", 1);
    let mut shy = Wire::connect(script.pooler.port());
    shy.startup(&[("user", "username"), ("database", "tx")]);
    let error = first_error(&shy.read_to_end()).expect("it is told why");
    assert_eq!(error.sqlstate(), "57014");
    script.want_login("scram-sha-256", "timeout", 1);
    script.want_close("refused", "57014", 1);
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
