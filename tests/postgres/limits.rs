//! Modes and limits of single users: who is let in, who waits for whom, and in which order they are served.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::cluster::{Options, PASSWORD};
use crate::support::process::Place;
use crate::support::scene::{Row, show};
use crate::support::wire::{first_error, terminated};
use crate::support::{Cluster, Pooler, ServerError, Wire, wait_until, wire};

/// Two databases, and users who log in to the server as themselves.
struct Stage {
    pooler: Pooler,
    databases: [String; 2],
    users: Vec<String>,
    keys: String,
    cluster: &'static Cluster,
}

impl Stage {
    /// `keys`: of the section pool, each with two blanks in front. `limits`: those of the users, one text each.
    #[track_caller]
    fn new(name: &str, keys: &str, limits: &[&str]) -> Stage {
        let cluster = Cluster::shared();
        let databases = ["a", "b"].map(|which| cluster.database(&format!("{name}_{which}")));
        let users: Vec<String> = (0..limits.len()).map(|n| format!("{name}_{n}")).collect();
        for user in &users {
            let sql = format!("CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'");
            cluster.sql("postgres", &sql);
        }
        let yaml = yaml(cluster, &databases, &users, keys, limits);
        Stage {
            pooler: Pooler::start(&yaml),
            databases,
            users,
            keys: keys.to_owned(),
            cluster,
        }
    }

    fn reload(&self, keys: &str, limits: &[&str]) {
        let yaml = yaml(self.cluster, &self.databases, &self.users, keys, limits);
        let before = self.reloads();
        self.pooler.rewrite_config(&yaml);
        self.pooler.signal(Signal::SIGHUP);
        wait_until("it is read again", || self.reloads() > before);
    }

    fn reloads(&self) -> usize {
        self.pooler
            .log()
            .matches("configuration was reloaded")
            .count()
    }

    fn try_login(&self, user: usize, database: usize) -> Result<Wire, ServerError> {
        let parameters = [
            ("user", &self.users[user][..]),
            ("database", &self.databases[database]),
        ];
        Wire::try_login(self.pooler.port(), &parameters, PASSWORD)
    }

    #[track_caller]
    fn login(&self, user: usize, database: usize) -> Wire {
        self.try_login(user, database).expect("it is let in")
    }

    #[track_caller]
    fn refused(&self, user: usize, database: usize) -> ServerError {
        self.try_login(user, database).err().expect("a refusal")
    }

    fn show(&self, what: &str) -> Vec<Row> {
        let mut console = Wire::login(self.pooler.port(), "username", PASSWORD, "aether");
        let rows = show(&mut console, what);
        console.terminate();
        rows
    }

    fn user(&self, user: usize, column: &str) -> String {
        let rows = self.show("USERS");
        let row = rows.iter().find(|row| row["name"] == self.users[user]);
        row.expect("the user")
            .get(column)
            .cloned()
            .unwrap_or_default()
    }

    fn waiting(&self) -> usize {
        let rows = self.show("POOLS");
        let waiting = rows.iter().map(|row| row["cl_waiting"].parse::<usize>());
        waiting.map(|count| count.expect("a number")).sum()
    }

    /// A client of its own thread, which tells when it is let in and stays until it is told to go.
    fn visitor(
        &self,
        user: usize,
        database: usize,
        number: usize,
        came: &Sender<usize>,
    ) -> Visitor {
        let (port, came) = (self.pooler.port(), came.clone());
        let (user, database) = (self.users[user].clone(), self.databases[database].clone());
        let (go, told) = channel::<()>();
        let thread = thread::spawn(move || {
            let wire = Wire::login(port, &user, PASSWORD, &database);
            came.send(number).expect("the test is there");
            let _ = told.recv();
            wire.terminate();
        });
        Visitor { go, thread }
    }

    fn log_in_behind(&self, visitors: &[(usize, usize)], came: &Sender<usize>) -> Vec<Visitor> {
        let mut all = Vec::new();
        for (number, &(user, database)) in visitors.iter().enumerate() {
            all.push(self.visitor(user, database, number, came));
            wait_until("it waits", || self.waiting() == number + 1);
        }
        all
    }
}

struct Visitor {
    go: Sender<()>,
    thread: JoinHandle<()>,
}

impl Visitor {
    fn leave(self) {
        self.go.send(()).expect("it is there");
        self.thread.join().expect("it left in good order");
    }
}

fn next(came: &Receiver<usize>) -> usize {
    came.recv_timeout(Duration::from_secs(60))
        .expect("somebody is let in")
}

fn yaml(
    cluster: &Cluster,
    databases: &[String; 2],
    users: &[String],
    keys: &str,
    limits: &[&str],
) -> String {
    let port = cluster.port();
    let [a, b] = databases;
    let secrets: String = users
        .iter()
        .map(|user| format!("{user}: {PASSWORD}, "))
        .collect();
    let limits: String = users
        .iter()
        .zip(limits)
        .map(|(user, limits)| format!("  {user}: {limits}\n"))
        .collect();
    format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nadmin: {{users: [username]}}\n\
         pool:\n  backend: {{host: 127.0.0.1, port: {port}}}\n{keys}\
         databases: {{{a}: {{}}, {b}: {{}}}}\nusers:\n{limits}\
         auth: {{users: {{{secrets}username: {PASSWORD}}}}}\n"
    )
}

fn pid(client: &mut Wire) -> String {
    client.value("SELECT pg_backend_pid()").expect("a number")
}

/// Issue 3: `mode`, per database and per user.
#[test]
fn the_mode_of_a_user_wins_over_that_of_the_database() {
    let shares = ["{mode: transaction}", "{}"];
    let stage = Stage::new("user_mode", "  max_connections_per_user: 1\n", &shares);
    let (mut one, mut two) = (stage.login(0, 0), stage.login(0, 0));
    assert_eq!(pid(&mut one), pid(&mut two), "one server for both, in turn");
    let mut session = stage.login(1, 0);
    session.run("CREATE TEMP TABLE mine (x int)");
    session.run("SELECT x FROM mine");
    let modes = |what: &str| -> Vec<(String, String)> {
        let rows = stage.show(what).into_iter();
        let rows = rows.filter(|row| stage.users.contains(&row["user"]));
        let mut modes: Vec<_> = rows
            .map(|row| (row["user"].clone(), row["pool_mode"].clone()))
            .collect();
        modes.sort();
        modes.dedup();
        modes
    };
    let expected = |words: [&str; 2]| -> Vec<(String, String)> {
        let users = stage.users.iter().cloned();
        users.zip(words.map(str::to_owned)).collect()
    };
    assert_eq!(modes("POOLS"), expected(["transaction", "session"]));
    assert_eq!(modes("CLIENTS"), expected(["transaction", "session"]));
    assert_eq!(stage.user(0, "pool_mode"), "transaction");

    let own = ["{mode: session}", "{mode: statement}"];
    let keys = "  mode: transaction\n  max_connections_per_user: 1\n  acquire_timeout: 300ms\n";
    let stage = Stage::new("user_session", keys, &own);
    let mut session = stage.login(0, 0);
    session.run("CREATE TEMP TABLE mine (x int)");
    session.run("SELECT x FROM mine");
    let error = stage.refused(0, 0);
    assert_eq!(error.sqlstate(), "53300", "its only server is in use");
    let mut statement = stage.login(1, 0);
    statement.send_message(b'Q', &terminated("BEGIN"));
    let error = first_error(&statement.read_to_end()).expect("blocks are refused");
    assert!(
        error.message().contains("statement pooling mode"),
        "{error:?}"
    );
}

/// Issue 3: what competes for one limit is served in the order of arrival, whatever its pool.
#[test]
fn a_users_limit_holds_over_two_databases_which_are_served_in_order_of_arrival() {
    let stage = Stage::new("user_cap", "", &["{max_connections: 1}", "{}"]);
    let first = stage.login(0, 0);
    let (came, arrivals) = channel();
    let order = [(0, 1), (0, 0), (0, 1), (0, 1), (0, 0)];
    let visitors = stage.log_in_behind(&order, &came);
    stage.login(1, 0).run("SELECT 1"); // nobody else is held up
    first.terminate();
    for (number, visitor) in visitors.into_iter().enumerate() {
        assert_eq!(next(&arrivals), number);
        assert_eq!(stage.user(0, "current_connections"), "1");
        visitor.leave();
    }
    assert!(
        stage
            .pooler
            .log_contains("made room in another pool for a client of the same user")
    );
}

#[test]
fn under_load_a_users_limit_is_kept_and_no_database_starves() {
    let keys = "  mode: transaction\n";
    let stage = Stage::new("user_load", keys, &["{max_connections: 2}"]);
    let end = Instant::now() + Duration::from_secs(2);
    let workers: Vec<JoinHandle<u32>> = (0..6)
        .map(|n| {
            let mut client = stage.login(0, n % 2);
            thread::spawn(move || {
                let mut count = 0;
                while Instant::now() < end {
                    client.run("SELECT 1");
                    count += 1;
                }
                client.terminate();
                count
            })
        })
        .collect();
    let mut console = Wire::login(stage.pooler.port(), "username", PASSWORD, "aether");
    while Instant::now() < end {
        let servers = show(&mut console, "SERVERS").len();
        assert!(servers <= 2, "{servers} servers");
    }
    for worker in workers {
        let count = worker.join().expect("no error");
        assert!(count > 5, "a client was served {count} times only");
    }
}

#[test]
fn limits_of_users_are_changed_by_a_reload() {
    let stage = Stage::new("user_reload", "", &["{max_connections: 1}"]);
    let first = stage.login(0, 0);
    let (came, arrivals) = channel();
    let visitors = stage.log_in_behind(&[(0, 1), (0, 0)], &came);
    stage.reload(&stage.keys, &["{max_connections: 2}"]);
    assert_eq!(next(&arrivals), 0);
    assert_eq!(stage.waiting(), 1);
    stage.reload(&stage.keys, &["{}"]);
    assert_eq!(next(&arrivals), 1);
    stage.reload(&stage.keys, &["{max_connections: 2}"]);
    assert_eq!(
        stage.user(0, "current_connections"),
        "3",
        "nobody is cut off"
    );
    visitors.into_iter().for_each(Visitor::leave);
    first.terminate();
    wait_until("one is closed", || {
        stage.user(0, "current_connections") == "2"
    });
    stage.pooler.wait_for_log("too many servers in the pool");
}

/// Catalogue R20: before anything is asked of a server.
#[test]
fn clients_above_the_limit_of_a_database_or_a_user_are_refused() {
    let keys = "  mode: transaction\n  max_client_connections: 2\n";
    let stage = Stage::new("client_cap", keys, &["{}", "{max_client_connections: 1}"]);
    let (one, two) = (stage.login(0, 0), stage.login(1, 0));
    let error = stage.refused(0, 0);
    assert_eq!(error.sqlstate(), "53300");
    let text = format!(
        "too many connections for database \"{}\"",
        stage.databases[0]
    );
    assert_eq!(error.message(), text);
    assert!(
        error
            .field(b'D')
            .contains("at most 2 clients of this database (max_client_connections)")
    );
    let error = stage.refused(1, 1);
    assert_eq!(error.sqlstate(), "53300");
    let text = format!("too many connections for role \"{}\"", stage.users[1]);
    assert_eq!(error.message(), text);
    assert!(
        error
            .hint()
            .contains("max_client_connections in section users")
    );
    assert_eq!(stage.user(1, "current_client_connections"), "1");
    two.terminate();
    wait_until("it has left", || {
        stage.user(1, "current_client_connections") == "0"
    });
    stage.login(1, 1).terminate();
    stage.reload("  mode: transaction\n", &["{}", "{}"]);
    let more: Vec<Wire> = (0..4).map(|n| stage.login(n % 2, 0)).collect();
    let rows = stage.show("DATABASES");
    let row = rows.iter().find(|row| row["name"] == stage.databases[0]);
    assert_eq!(row.expect("it is there")["current_client_connections"], "5");
    drop((one, more));
}

#[test]
fn who_waits_too_long_is_told_for_which_limit() {
    let keys = "  acquire_timeout: 300ms\n";
    let stage = Stage::new("cap_error", keys, &["{max_connections: 1}", "{}"]);
    let first = stage.login(0, 0);
    let error = stage.refused(0, 1);
    assert_eq!(error.sqlstate(), "53300");
    let detail = format!(
        "1 of 1 server connections as \"{}\" in all pools are in use",
        stage.users[0]
    );
    assert!(error.field(b'D').contains(&detail), "{error:?}");
    let hint = format!(
        "Raise max_connections of \"{}\" in section users",
        stage.users[0]
    );
    assert!(error.hint().contains(&hint), "{error:?}");

    stage.reload(
        "  acquire_timeout: 300ms\n  max_connections_per_user: 1\n",
        &["{}", "{}"],
    );
    let error = stage.refused(0, 0);
    let detail = format!(
        "1 of 1 server connections as \"{}\" in this pool are in use",
        stage.users[0]
    );
    assert!(error.field(b'D').contains(&detail), "{error:?}");
    assert!(
        error.hint().contains("max_connections_per_user"),
        "{error:?}"
    );

    stage.reload(
        "  acquire_timeout: 300ms\n  max_connections: 1\n",
        &["{}", "{}"],
    );
    let error = stage.refused(1, 0);
    assert!(
        error
            .field(b'D')
            .contains("1 of 1 server connections are in use"),
        "{error:?}"
    );
    assert!(
        error.hint().contains("max_connections of the pool"),
        "{error:?}"
    );
    first.terminate();
}

/// A reload that changes the mode leaves servers behind that were used in the other one.
#[test]
fn after_a_change_of_mode_nothing_of_the_other_mode_is_seen() {
    let keys = "  max_connections: 1\n";
    let stage = Stage::new("mode_change", keys, &["{mode: transaction}"]);
    let mut shares = stage.login(0, 0);
    let batch = [
        wire::parse("mine", "SELECT 'shared'::text"),
        wire::bind("", "mine", &[]),
        wire::execute("", 0),
        wire::sync(),
    ];
    shares.send(&batch.concat());
    shares.read_until(b'Z');
    shares.run("SET work_mem = '7MB'");
    let named = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'aether%'";
    assert_eq!(
        shares.value(named).as_deref(),
        Some("1"),
        "it is there to be seen"
    );

    stage.reload(keys, &["{mode: session}"]);
    let mut session = stage.login(0, 0);
    assert_eq!(session.value(named).as_deref(), Some("0"));
    assert_ne!(session.value("SHOW work_mem").as_deref(), Some("7MB"));
    session.run("PREPARE mine AS SELECT 'session'::text");
    session.run("SET work_mem = '8MB'");
    session.terminate();

    // The client that is there keeps its mode, and its statement; of the session there is nothing left.
    let again = [
        wire::bind("", "mine", &[]),
        wire::execute("", 0),
        wire::sync(),
    ];
    shares.send(&again.concat());
    let answer = shares.read_until(b'Z');
    let rows: Vec<_> = answer.iter().filter_map(|message| message.row()).collect();
    assert_eq!(rows, [[Some("shared".to_owned())]]);
    assert_ne!(shares.value("SHOW work_mem").as_deref(), Some("8MB"));
    let others = "SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'";
    assert_eq!(shares.value(others).as_deref(), Some("0"));
    let mut session = stage.login(0, 0);
    assert_eq!(session.value(named).as_deref(), Some("0"));
    session.run("SELECT 1");
}

/// A pgbouncer.ini before databases of one server, with users who log in to it as themselves.
struct Evicting {
    pooler: Pooler,
    cluster: &'static Cluster,
    name: &'static str,
    _place: Place,
}

impl Evicting {
    /// Databases `NAME_a` to `NAME_c`, users `NAME_0` to `NAME_2`.
    fn start(name: &'static str, options: &str) -> Evicting {
        let cluster = Cluster::shared();
        let place = Place::new(name);
        let (mut entries, mut users) = (String::new(), format!("\"username\" \"{PASSWORD}\"\n"));
        for which in ["a", "b", "c"] {
            let database = cluster.database(&format!("{name}_{which}"));
            entries += &format!("{database} = host=127.0.0.1 port={}\n", cluster.port());
        }
        for number in 0..3 {
            let sql = format!("CREATE ROLE {name}_{number} LOGIN PASSWORD '{PASSWORD}'");
            cluster.sql("postgres", &sql);
            users += &format!("\"{name}_{number}\" \"{PASSWORD}\"\n");
        }
        place.write("userlist.txt", &users);
        let pooler = Pooler::start(&format!(
            "[databases]\n{entries}[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {{port}}\nunix_socket_dir =\n\
             auth_file = {}/userlist.txt\nadmin_users = username\npool_mode = transaction\n{options}\n",
            place.path().display()
        ));
        Evicting {
            pooler,
            cluster,
            name,
            _place: place,
        }
    }

    fn login(&self, user: usize, database: &str) -> Wire {
        let (user, database) = (
            format!("{}_{user}", self.name),
            format!("{}_{database}", self.name),
        );
        Wire::login(self.pooler.port(), &user, PASSWORD, &database)
    }

    /// What PostgreSQL says: the process ids that users of ours have.
    fn there(&self) -> Vec<String> {
        let sql = format!(
            "SELECT pid FROM pg_stat_activity WHERE usename LIKE '{}\\__' ORDER BY backend_start",
            self.name
        );
        let text = self.cluster.sql("postgres", &sql);
        text.lines().map(str::to_owned).collect()
    }

    /// Who has left, and that nothing was ever above the limit.
    fn wait_for_servers(&self, expected: [&String; 2]) {
        wait_until("the servers are these", || {
            let there = self.there();
            there.iter().collect::<Vec<_>>() == expected
        });
    }

    fn evicted(&self) -> usize {
        self.pooler
            .log()
            .matches("closing because: evicted")
            .count()
    }
}

/// Compatibility specification, section 13: at `max_db_connections` the least recently used idle server of any user of the
/// database is closed for who has none; one that is in use never is.
#[test]
fn at_max_db_connections_an_idle_server_of_another_user_makes_room() {
    let stage = Evicting::start(
        "evict_db",
        "max_db_connections = 2\nquery_wait_timeout = 60",
    );
    let mut clients: Vec<Wire> = (0..3).map(|user| stage.login(user, "a")).collect();
    let mut of = |user: usize| pid(&mut clients[user]);
    let (zero, one) = (of(0), of(1));
    stage.wait_for_servers([&zero, &one]);
    assert_eq!(
        of(0),
        zero,
        "so that it is the other that was not used for longer"
    );
    let evicted = stage.evicted();
    let two = of(2);
    stage.wait_for_servers([&zero, &two]);
    assert_eq!(stage.evicted(), evicted + 1);

    // Both are in use: the third waits, until one is free.
    clients[0].run("BEGIN");
    clients[2].run("BEGIN");
    clients[1].send_message(b'Q', &terminated("SELECT pg_backend_pid()"));
    let time = Some(Duration::from_millis(700));
    clients[1].stream.set_read_timeout(time).expect("a socket");
    assert!(
        clients[1].try_read_message().is_err(),
        "nobody is thrown out of a transaction"
    );
    assert_eq!(stage.there(), [zero, two.clone()]);
    clients[1].stream.set_read_timeout(None).expect("a socket");
    clients[0].run("COMMIT");
    let answer = clients[1].read_until(b'Z');
    let rows: Vec<_> = answer.iter().filter_map(|message| message.row()).collect();
    let one = rows[0][0].clone().expect("a number");
    stage.wait_for_servers([&two, &one]);
    clients[2].run("COMMIT");
    assert_eq!(stage.evicted(), evicted + 2);
}

/// At `max_user_connections` it is one of the same user's in any database.
#[test]
fn at_max_user_connections_an_idle_server_of_another_database_makes_room() {
    let stage = Evicting::start("evict_user", "max_user_connections = 2");
    let mut clients: Vec<Wire> = ["a", "b", "c"]
        .into_iter()
        .map(|database| stage.login(0, database))
        .collect();
    let mut of = |database: usize| pid(&mut clients[database]);
    let (a, b) = (of(0), of(1));
    stage.wait_for_servers([&a, &b]);
    assert_eq!(of(0), a);
    let evicted = stage.evicted();
    let c = of(2);
    stage.wait_for_servers([&a, &c]);
    assert_eq!(stage.evicted(), evicted + 1);
    // Another user's are not counted among them, and not closed for them.
    let other = pid(&mut stage.login(1, "b"));
    assert_eq!(stage.there(), [a, c, other]);
    assert_eq!(stage.evicted(), evicted + 1);
}

/// The limit that no option says: PostgreSQL's own, `max_connections`. What it has no room for gets the place of an idle server.
#[test]
fn when_the_server_is_full_an_idle_server_of_another_user_makes_room() {
    // Three of five are for superusers.
    let cluster = Cluster::start_with(&Options {
        max_connections: 5,
        ..Options::default()
    });
    let place = Place::new("evict_full");
    let mut users = String::new();
    for number in 0..3 {
        let sql = format!("CREATE ROLE full_{number} LOGIN PASSWORD '{PASSWORD}'");
        cluster.sql("postgres", &sql);
        users += &format!("\"full_{number}\" \"{PASSWORD}\"\n");
    }
    place.write("userlist.txt", &users);
    let pooler = Pooler::start(&format!(
        "[databases]\ndatabase = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {{port}}\n\
         unix_socket_dir =\nauth_file = {}/userlist.txt\npool_mode = transaction\n",
        cluster.port(),
        place.path().display()
    ));
    let login = |user: usize| {
        let user = format!("full_{user}");
        Wire::login(pooler.port(), &user, PASSWORD, "database")
    };
    let (mut first, mut second) = (login(0), login(1));
    pid(&mut first);
    let stays = pid(&mut second);
    let mut third = login(2);
    pid(&mut third);
    assert_eq!(pid(&mut second), stays, "the one that was used last");
    assert!(pooler.log_contains("closing because: evicted"));
    // In use, they are left alone, and who finds no room waits for one of them.
    second.run("BEGIN");
    third.run("BEGIN");
    let waits = thread::spawn(move || pid(&mut first));
    thread::sleep(Duration::from_millis(500));
    assert!(!waits.is_finished(), "there is no room");
    third.run("COMMIT");
    waits.join().expect("it is served");
    second.run("COMMIT");
}
