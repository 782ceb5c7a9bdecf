//! What is seen of an option: each probe does what a client, or an operator, would, and says in a word what came of it.

use std::fmt::Debug;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::socket::{GetSockOpt, getsockopt, setsockopt, sockopt};
use nix::unistd::{User, geteuid};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{Ground, Lab, ask};
use crate::support::certificates::s_client;
use crate::support::cluster::PASSWORD;
use crate::support::pooler::binary;
use crate::support::process;
use crate::support::wire::{Scram, bind, execute, first_error, parse, sync, terminated};
use crate::support::{ServerError, Wire, scene, wait_for, wait_until};

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// `in`, or the SQLSTATE.
fn enters<T>(login: Result<T, ServerError>) -> String {
    match login {
        Ok(_) => "in".to_owned(),
        Err(error) => error.sqlstate().to_owned(),
    }
}

fn lets_in<T>(login: Result<T, ServerError>) -> String {
    if login.is_ok() { "in" } else { "out" }.to_owned()
}

/// `fine`, or the SQLSTATE.
fn outcome(wire: &mut Wire, sql: &str) -> String {
    first_error(&ask(wire, sql))
        .map_or_else(|| "fine".to_owned(), |error| error.sqlstate().to_owned())
}

fn value(wire: &mut Wire, sql: &str) -> String {
    wire.value(sql).unwrap_or_else(|| "NULL".to_owned())
}

fn pid(wire: &mut Wire) -> String {
    value(wire, "SELECT pg_backend_pid()")
}

/// The user that programs run as.
pub(super) fn own_name() -> String {
    match process::server_user() {
        Some(user) => user.name.clone(),
        None => {
            let user = User::from_uid(geteuid()).ok().flatten();
            user.expect("we are somebody").name
        }
    }
}

// ---- the process, its files and its log ----

/// How often the log, wherever it is, gains a line with this, while something happens.
fn logged(lab: &Lab, word: &str, act: impl FnOnce()) -> usize {
    let count = || lab.pooler().log().matches(word).count();
    let before = count();
    act();
    wait_for(ms(300), || count() > before);
    count() - before
}

fn visit(lab: &Lab) {
    let mut wire = lab.login();
    ask(&mut wire, "SELECT 1");
    wire.terminate();
}

pub(super) fn logs_to_the_file(lab: &Lab) -> String {
    let path = lab.place.path().join("elsewhere.log");
    let size = || fs::metadata(&path).map_or(0, |file| file.len());
    let before = size();
    visit(lab);
    yes(wait_for(ms(300), || size() > before))
}

pub(super) fn pidfile(lab: &Lab) -> String {
    let text = fs::read_to_string(lab.place.path().join("pid")).unwrap_or_default();
    yes(text.trim() == lab.pooler().pid().to_string())
}

pub(super) fn says_login(lab: &Lab) -> String {
    yes(logged(lab, "login attempt", || visit(lab)) > 0)
}

pub(super) fn says_goodbye(lab: &Lab) -> String {
    yes(logged(lab, "closing because: client close request", || visit(lab)) > 0)
}

pub(super) fn says_errors(lab: &Lab) -> String {
    let act = || drop(lab.try_login("username", "nowhere"));
    yes(logged(lab, "pooler error", act) > 0)
}

/// Whether the line of a period comes within a second and a half.
pub(super) fn says_stats(lab: &Lab) -> String {
    let count = || lab.pooler().log().matches("LOG stats: ").count();
    let before = count();
    yes(wait_for(ms(1_500), || count() > before))
}

/// Of a new connection to the server, for instance.
pub(super) fn says_details(lab: &Lab) -> String {
    lab.console("RECONNECT a").expect("it is done");
    yes(logged(lab, "DEBUG", || visit(lab)) > 0)
}

/// As whom and under what it tells syslog of a login.
pub(super) fn syslog(lab: &Lab) -> String {
    let mut packet = [0; 1_000];
    let wait = |time| lab.syslog.set_read_timeout(Some(time)).expect("a socket");
    wait(ms(1));
    while lab.syslog.recv(&mut packet).is_ok() {}
    visit(lab);
    wait(ms(400));
    while let Ok(count) = lab.syslog.recv(&mut packet) {
        let line = String::from_utf8_lossy(&packet[..count]);
        if !line.contains("login attempt") {
            continue;
        }
        let priority = behind(&line, "<", '>').parse::<u8>().expect("a number");
        // "<30>Nov 29 19:13:36 pgbouncer[123]: ..."
        let ident = line
            .split(' ')
            .find_map(|word| Some(word.strip_suffix("]:")?.split_once('[')?.0));
        let facility = match priority / 8 {
            3 => "daemon".to_owned(),
            19 => "local3".to_owned(),
            other => other.to_string(),
        };
        return format!("{facility} {}", ident.unwrap_or("nobody"));
    }
    "nothing".to_owned()
}

// ---- sockets ----

pub(super) fn listens_twice(lab: &Lab) -> String {
    let at = |address: &str| {
        let to: SocketAddr = format!("{address}:{}", lab.pooler().port())
            .parse()
            .expect("an address");
        TcpStream::connect_timeout(&to, ms(500)).is_ok()
    };
    format!("{} {}", at("127.0.0.1"), at("127.0.0.2"))
}

/// How many connections the kernel takes while the process takes none; more than eight are not tried.
pub(super) fn backlog(lab: &Lab) -> String {
    let to = SocketAddr::from(([127, 0, 0, 1], lab.pooler().port()));
    lab.pooler().signal(Signal::SIGSTOP);
    let mut held = Vec::new();
    while held.len() < 8 {
        match TcpStream::connect_timeout(&to, ms(300)) {
            Ok(stream) => held.push(stream),
            Err(_) => break,
        }
    }
    lab.pooler().signal(Signal::SIGCONT);
    held.len().to_string()
}

/// The mode of the Unix socket there, if there is one.
fn socket_in(lab: &Lab, directory: &str) -> String {
    let path = format!("{directory}/.s.PGSQL.{}", lab.pooler().port());
    match fs::metadata(path) {
        Ok(file) if file.file_type().is_socket() => {
            format!("{:o}", file.permissions().mode() & 0o777)
        }
        _ => "none".to_owned(),
    }
}

pub(super) fn socket_mode(lab: &Lab) -> String {
    socket_in(lab, &lab.place.path().display().to_string())
}

pub(super) fn socket_directory(lab: &Lab) -> String {
    let own = lab.place.path().display().to_string();
    format!("{} {}", socket_in(lab, "/tmp"), socket_in(lab, &own))
}

/// The line of /proc/net/tcp of the process's end of a connection.
fn tcp_line(lab: &Lab, wire: &Wire) -> Option<Vec<String>> {
    let theirs = wire.stream.local_addr().expect("connected").port();
    let ends = format!("0100007F:{:04X} 0100007F:{theirs:04X}", lab.pooler().port());
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    let line = table.lines().find(|line| line.contains(&ends))?;
    Some(line.split_whitespace().map(str::to_owned).collect())
}

/// In how many seconds the timer of keepalive is up, when what was sent is acknowledged and it is the one that runs.
fn keepalive(lab: &Lab) -> Option<u64> {
    let wire = lab.login();
    let mut seconds = None;
    wait_for(ms(500), || {
        let line = tcp_line(lab, &wire).expect("the connection");
        let (kind, left) = line[5].split_once(':').expect("a timer");
        let jiffies = u64::from_str_radix(left, 16).expect("a time");
        seconds = (kind == "02").then_some(jiffies / 100);
        seconds.is_some()
    });
    seconds
}

pub(super) fn keeps_alive(lab: &Lab) -> String {
    yes(keepalive(lab).is_some())
}

pub(super) fn keepalive_is_soon(lab: &Lab) -> String {
    keepalive(lab).map_or_else(|| "none".to_owned(), |seconds| yes(seconds <= 60))
}

/// An option of the process's sockets: the one of a client, and the one of a server.
pub(super) fn of_sockets<O: GetSockOpt + Copy>(lab: &Lab, option: O) -> String
where
    O::Val: Debug + PartialEq,
{
    // What was connected before the option was changed keeps what it had.
    lab.console("RECONNECT a").expect("it is done");
    let mut wire = lab.login();
    let to_server = value(&mut wire, "SELECT inet_client_port()");
    let to_client = wire.stream.local_addr().expect("connected").port();
    let fresh = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let usual = getsockopt(&fresh, option).expect("an option");
    let of = |is_it: &dyn Fn(&TcpStream) -> bool| {
        let all = sockets_of(lab.pooler().pid());
        let stream = all
            .into_iter()
            .find(is_it)
            .expect("a socket of the process");
        match getsockopt(&stream, option).expect("an option") {
            value if value == usual && option_is_a_number(&value) => "usual".to_owned(),
            value => format!("{value:?}"),
        }
    };
    let port = |address: std::io::Result<SocketAddr>| address.map_or(0, |address| address.port());
    let client = of(&|stream| port(stream.peer_addr()) == to_client);
    let server = of(&|stream| port(stream.local_addr()).to_string() == to_server);
    format!("{client} {server}")
}

fn option_is_a_number(value: &impl Debug) -> bool {
    format!("{value:?}").parse::<u32>().is_ok()
}

/// What a process has open, as ours: root may have it. What is no socket has no address.
fn sockets_of(pid: u32) -> Vec<TcpStream> {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
    let files = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).expect("we are root");
    let number =
        |file: std::io::Result<fs::DirEntry>| file.ok()?.file_name().to_str()?.parse().ok();
    let ours = |number: i32| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok();
    files
        .filter_map(number)
        .filter_map(ours)
        .map(TcpStream::from)
        .collect()
}

/// Whether another process of the same user can listen at the same address.
pub(super) fn listens_beside(lab: &Lab) -> String {
    let port = lab.pooler().port();
    let text = format!(
        "[databases]\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nso_reuseport = 1\n"
    );
    let file = lab.place.write("beside.ini", &text);
    let log = lab.place.path().join("beside.log");
    let mut command = process::command(binary());
    command
        .arg(&file)
        .stderr(fs::File::create(&log).expect("its log"));
    let mut child = process::spawn(command).expect("it starts");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let mut listens = false;
    wait_until("it listens, or has ended", || {
        listens = said().contains("process up");
        listens || child.try_wait().expect("it is our child").is_some()
    });
    process::signal(child.id(), Signal::SIGQUIT);
    child.wait().expect("it ends");
    assert!(
        listens || said().contains("Address already in use"),
        "{}",
        said()
    );
    yes(listens)
}

/// Whether much can be sent to the process while it does not read.
pub(super) fn takes_much(lab: &Lab) -> String {
    let mut wire = lab.login();
    setsockopt(&wire.stream, sockopt::SndBuf, &4_096).expect("a small one of our own");
    lab.pooler().signal(Signal::SIGSTOP);
    wire.stream.set_nonblocking(true).expect("a socket");
    let (mut sent, mut idle_since) = (0, Instant::now());
    while idle_since.elapsed() < ms(150) && sent < 200_000 {
        match wire.stream.write(&[0; 4_096]) {
            Ok(count) => (sent, idle_since) = (sent + count, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(ms(5)),
            Err(_) => break,
        }
    }
    lab.pooler().signal(Signal::SIGCONT);
    yes(sent > 16_000)
}

// ---- pools and limits ----

/// Whether two clients get the same server one after the other while both stay.
pub(super) fn is_shared(lab: &Lab) -> String {
    let (mut first, mut second) = (lab.login(), lab.login());
    yes(pid(&mut first) == pid(&mut second))
}

/// How many clients can be in a transaction at once; more than four are not tried.
pub(super) fn servers(lab: &Lab) -> String {
    let mut held = Vec::new();
    while held.len() < 4 {
        let Ok(mut wire) = lab.try_login("username", "a") else {
            break;
        };
        if outcome(&mut wire, "BEGIN") != "fine" {
            break;
        }
        held.push(wire);
    }
    held.len().to_string()
}

/// The same, when all have been idle for a while.
pub(super) fn servers_after_a_rest(lab: &Lab) -> String {
    std::thread::sleep(ms(700));
    servers(lab)
}

/// The same, of two users that take turns.
pub(super) fn servers_of_two(lab: &Lab) -> String {
    let mut held = Vec::new();
    while held.len() < 6 {
        let user = ["username", "other"][held.len() % 2];
        let Ok(mut wire) = lab.try_login(user, "a") else {
            break;
        };
        if outcome(&mut wire, "BEGIN") != "fine" {
            break;
        }
        held.push(wire);
    }
    held.len().to_string()
}

/// How many clients get in; more than eight are not tried. The console is one more.
pub(super) fn clients(lab: &Lab) -> String {
    let mut held = Vec::new();
    while held.len() < 8 {
        match lab.try_login("username", "a") {
            Ok(wire) => held.push(wire),
            Err(_) => break,
        }
    }
    held.len().to_string()
}

/// Of SHOW POOLS.
fn pool(lab: &Lab, database: &str, column: &str) -> u64 {
    let (_, console) = lab.running.as_ref().expect("it was started");
    let rows = scene::show(&mut console.borrow_mut(), "POOLS");
    let of_database = rows.iter().filter(|row| row["database"] == database);
    of_database
        .map(|row| row[column].parse::<u64>().expect("a number"))
        .sum()
}

/// Servers that are there without a client.
pub(super) fn kept(lab: &Lab) -> String {
    std::thread::sleep(ms(200));
    pool(lab, "a", "sv_idle").to_string()
}

/// Two servers are idle: is the one that was used last used again?
pub(super) fn next_server(lab: &Lab) -> String {
    let (mut first, mut second) = (lab.login(), lab.login());
    for wire in [&mut first, &mut second] {
        ask(wire, "BEGIN");
        ask(wire, "SELECT 1");
    }
    for wire in [&mut first, &mut second] {
        ask(wire, "COMMIT");
    }
    let seen: Vec<String> = (0..4).map(|_| pid(&mut first)).collect();
    let same = seen.windows(2).all(|pair| pair[0] == pair[1]);
    if same { "the same" } else { "the other" }.to_owned()
}

pub(super) fn brings_a_strange_parameter(lab: &Lab) -> String {
    let more = [("strange_parameter", "1")];
    match lab.login_with("username", "a", &more, PASSWORD) {
        Ok(mut wire) => outcome(&mut wire, "SELECT 1"),
        Err(error) => error.sqlstate().to_owned(),
    }
}

pub(super) fn simple_query(lab: &Lab) -> String {
    outcome(&mut lab.login(), "SELECT 1")
}

pub(super) fn application_name(lab: &Lab) -> String {
    let mut wire = lab
        .login_with("username", "a", &[("application_name", "me")], PASSWORD)
        .expect("a login");
    let port = wire.stream.local_addr().expect("connected").port();
    let name = value(&mut wire, "SELECT current_setting('application_name')");
    name.replace(&port.to_string(), "port")
}

pub(super) fn application_name_of_the_database(lab: &Lab) -> String {
    value(
        &mut lab.login(),
        "SELECT current_setting('application_name')",
    )
}

/// A named statement, over two transactions, which another client's lies between.
pub(super) fn named_statement(lab: &Lab) -> String {
    let (mut first, mut second) = (lab.login(), lab.login());
    for wire in [&mut first, &mut second] {
        let batch = [parse("s", "SELECT 1"), sync()];
        wire.send(&batch.concat());
        let messages = wire.read_until(b'Z');
        if let Some(error) = first_error(&messages) {
            return error.sqlstate().to_owned();
        }
    }
    first.send(&[bind("", "s", &[]), execute("", 0), sync()].concat());
    first_error(&first.read_until(b'Z'))
        .map_or_else(|| "fine".to_owned(), |error| error.sqlstate().to_owned())
}

pub(super) fn large_query(lab: &Lab) -> String {
    let sql = format!("SELECT 1 -- {}", "x".repeat(900));
    outcome(&mut lab.login(), &sql)
}

pub(super) fn large_row(lab: &Lab) -> String {
    outcome(&mut lab.login(), "SELECT repeat('x', 900)")
}

/// The id that the key of a session carries.
pub(super) fn peer_id(lab: &Lab) -> String {
    let ids: Vec<u16> = (0..2)
        .map(|_| {
            let [_, low, high, _] = lab.login().pid.to_be_bytes();
            u16::from_le_bytes([low, high])
        })
        .collect();
    yes(ids == [7, 7])
}

// ---- authentication ----

pub(super) fn wrong_password(lab: &Lab) -> String {
    enters(lab.login_with("username", "a", &[], "wrong"))
}

pub(super) fn other_password(lab: &Lab) -> String {
    lets_in(lab.login_with("username", "a", &[], "others"))
}

pub(super) fn usual_login(lab: &Lab) -> String {
    lets_in(lab.try_login("username", "a"))
}

/// Somebody who is on the server, and in no file.
pub(super) fn unlisted(lab: &Lab) -> String {
    lets_in(lab.login_with("unlisted", "a", &[], PASSWORD))
}

/// Which of these passwords an unlisted user has.
pub(super) fn unlisted_password(lab: &Lab) -> String {
    let right = ["password", "first", "second"]
        .into_iter()
        .find(|password| lab.login_with("unlisted", "a", &[], password).is_ok());
    right.unwrap_or("none").to_owned()
}

/// Rounds that the server's first message of SCRAM asks for.
pub(super) fn iterations(lab: &Lab) -> String {
    let mut wire = Wire::connect(lab.pooler().port());
    wire.startup(&[("user", "username"), ("database", "a")]);
    wire.read_message();
    let first = Scram::new().client_first();
    let mut body = terminated("SCRAM-SHA-256");
    body.extend(i32::try_from(first.len()).expect("short").to_be_bytes());
    body.extend(first.as_bytes());
    wire.send_message(b'p', &body);
    let answer = String::from_utf8_lossy(&wire.read_message().body).into_owned();
    let rounds = answer
        .rsplit_once("i=")
        .map(|(_, rounds)| rounds.to_owned());
    rounds.unwrap_or(answer)
}

/// By way of the Unix socket.
pub(super) fn peer_login(lab: &Lab) -> String {
    psql(lab, &format!("host={}", lab.place.path().display()))
}

/// With a certificate, over TLS.
pub(super) fn certificate_login(lab: &Lab) -> String {
    let at = Ground::shared().certificates.path().display();
    psql(
        lab,
        &format!("host=127.0.0.1 sslmode=require sslcert={at}/client.crt sslkey={at}/client.key"),
    )
}

/// Whether psql gets in without a password.
fn psql(lab: &Lab, words: &str) -> String {
    let cluster = &Ground::shared().cluster;
    let words = format!(
        "{words} port={} user=username dbname=a",
        lab.pooler().port()
    );
    let mut psql = process::command(&cluster.program("psql"));
    psql.args(["-XAtw", "-c", "SELECT 1", &words]);
    let output = psql.output().expect("psql runs");
    if output.status.success() { "in" } else { "out" }.to_owned()
}

// ---- the console and what clients are told ----

/// What user `other` may do at the console.
pub(super) fn rights(lab: &Lab) -> String {
    let Ok(mut console) = lab.try_login("other", "pgbouncer") else {
        return "none".to_owned();
    };
    let can = |wire: &mut Wire, command: &str| first_error(&ask(wire, command)).is_none();
    match (
        can(&mut console, "SHOW POOLS"),
        can(&mut console, "RECONNECT a"),
    ) {
        (true, true) => "all".to_owned(),
        (true, false) => "to look".to_owned(),
        other => format!("{other:?}"),
    }
}

/// What a client is told between its login and its first ReadyForQuery.
pub(super) fn notice_at_login(lab: &Lab) -> String {
    let mut wire = Wire::connect(lab.pooler().port());
    wire.startup(&[("user", "username"), ("database", "a")]);
    wire.authenticate("username", PASSWORD).expect("a login");
    let messages = wire.read_until(b'Z');
    let notice = messages.iter().find_map(|message| message.notice());
    notice.map_or_else(|| "none".to_owned(), |notice| notice.message().to_owned())
}

/// Whether who waits for a server is told so within a second and a half.
pub(super) fn notice_of_wait(lab: &Lab) -> String {
    let (mut first, mut second) = (lab.login(), lab.login());
    ask(&mut first, "BEGIN");
    second.send_message(b'Q', &terminated("SELECT 1"));
    second
        .stream
        .set_read_timeout(Some(ms(2_500)))
        .expect("a socket");
    yes(matches!(second.try_read_message(), Ok(Some(message)) if message.kind == b'N'))
}

// ---- servers ----

/// What the next client finds of what one has set.
pub(super) fn left_behind(lab: &Lab) -> String {
    let mut wire = lab.login();
    ask(&mut wire, "SET work_mem = '77kB'");
    wire.terminate();
    value(&mut lab.login(), "SHOW work_mem")
}

/// Whether something was noted in the database between two clients.
pub(super) fn notes(lab: &Lab) -> String {
    let mut wire = lab.login();
    let pid = pid(&mut wire);
    let sql = format!("SELECT count(*) FROM noted WHERE pid = {pid}");
    let count = || Ground::shared().cluster.sql("first", &sql);
    wire.terminate();
    let before = count();
    for _ in 0..2 {
        let mut wire = lab.login();
        ask(&mut wire, "SELECT 1");
        wire.terminate();
    }
    yes(count() != before)
}

/// Whether a session that idles ends when its server is to be replaced.
pub(super) fn session_ends_at_reconnect(lab: &Lab) -> String {
    let mut wire = lab.login();
    ask(&mut wire, "SELECT 1");
    lab.console("RECONNECT a").expect("it is done");
    yes(closes(&mut wire, 400))
}

/// Whether it is closed by the other end within this time.
fn closes(wire: &mut Wire, time: u64) -> bool {
    wire.stream
        .set_read_timeout(Some(ms(time)))
        .expect("a socket");
    loop {
        match wire.stream.read(&mut [0; 4_096]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            }
        }
    }
}

fn server_after(lab: &Lab, time: u64) -> String {
    let mut wire = lab.login();
    let before = pid(&mut wire);
    std::thread::sleep(ms(time));
    if pid(&mut wire) == before {
        "the same"
    } else {
        "another"
    }
    .to_owned()
}

pub(super) fn server_of_the_next_transaction(lab: &Lab) -> String {
    server_after(lab, 0)
}

pub(super) fn server_after_a_second(lab: &Lab) -> String {
    server_after(lab, 1_500)
}

/// Whether a server that says nothing is given up within a second.
pub(super) fn gives_up(lab: &Lab) -> String {
    let act = || drop(lab.try_login("username", "silent"));
    let count = || lab.pooler().log().matches("connect timeout").count();
    let before = count();
    act();
    yes(wait_for(ms(700), || count() > before))
}

/// Whether a server that refuses is tried again and again while a client waits.
pub(super) fn attempts(lab: &Lab) -> String {
    let before = lab.refused.load(Ordering::Relaxed);
    drop(lab.try_login("username", "refusing"));
    let count = lab.refused.load(Ordering::Relaxed) - before;
    if count > 9 { "many" } else { "few" }.to_owned()
}

/// Whether who has only begun to say something is closed within a second.
pub(super) fn silence_ends(lab: &Lab) -> String {
    let mut wire = Wire::connect(lab.pooler().port());
    wire.send(&[0]);
    yes(closes(&mut wire, 1_000))
}

/// Whether who has said nothing yet is among the clients half a second later.
pub(super) fn silence_counts(lab: &Lab) -> String {
    let _silent = Wire::connect(lab.pooler().port());
    let (_, console) = lab.running.as_ref().expect("it was started");
    let comes = || {
        let rows = scene::show(&mut console.borrow_mut(), "LISTS");
        let mut clients = rows.iter().filter(|row| row["list"] == "login_clients");
        clients.any(|row| row["items"] == "1")
    };
    yes(wait_for(ms(500), comes))
}

/// Whether a cancel that a peer who says nothing is to be told of is given up within a second.
pub(super) fn cancel_ends(lab: &Lab) -> String {
    yes(closes(&mut cancel_at_peer(lab), 1_000))
}

/// Asks for the end of what a session of peer 2 does.
fn cancel_at_peer(lab: &Lab) -> Wire {
    let mut wire = Wire::connect(lab.pooler().port());
    let mut request = 80_877_102_i32.to_be_bytes().to_vec();
    // The key of a session of peer 2, which has not been passed on yet.
    request.extend([1, 2, 0, 4, 5, 6, 7, 3]);
    wire.send_untyped(&request);
    wire
}

/// Connections that come to the listener which says nothing, up to a rest.
fn come_to_silent(lab: &Lab) -> Vec<TcpStream> {
    lab.silent.set_nonblocking(true).expect("a socket");
    let mut come = Vec::new();
    while wait_for(ms(400), || {
        lab.silent.accept().is_ok_and(|(stream, _)| {
            come.push(stream);
            true
        })
    }) {}
    come
}

/// To which of our listeners the request goes.
pub(super) fn cancelled_at(lab: &Lab) -> String {
    let before = lab.refused.load(Ordering::Relaxed);
    let _wire = cancel_at_peer(lab);
    let come = come_to_silent(lab);
    match (come.len(), lab.refused.load(Ordering::Relaxed) - before) {
        (0, 0) => "nobody",
        (1, 0) => "silent",
        (0, 1..) => "refusing",
        _ => "several",
    }
    .to_owned()
}

/// How many of five are under way at once.
pub(super) fn cancels_at_once(lab: &Lab) -> String {
    let _wires: Vec<Wire> = (0..5).map(|_| cancel_at_peer(lab)).collect();
    come_to_silent(lab).len().to_string()
}

/// Whether a database that was made for a name is still there a while after its last client.
pub(super) fn automatic_database(lab: &Lab) -> String {
    let mut wire = lab.try_login("username", "made_up").expect("a login");
    ask(&mut wire, "SELECT 1");
    wire.terminate();
    std::thread::sleep(ms(1_200));
    let (_, console) = lab.running.as_ref().expect("it was started");
    let rows = scene::show(&mut console.borrow_mut(), "STATS");
    yes(rows.iter().any(|row| row["database"] == "made_up"))
}

pub(super) fn long_query(lab: &Lab) -> String {
    outcome(&mut lab.login(), "SELECT pg_sleep(1.4)")
}

/// What becomes of who waits for a server for a second and a half.
pub(super) fn long_wait(lab: &Lab) -> String {
    let (mut first, mut second) = (lab.login(), lab.login());
    ask(&mut first, "BEGIN");
    second.send_message(b'Q', &terminated("SELECT 1"));
    second
        .stream
        .set_read_timeout(Some(ms(1_500)))
        .expect("a socket");
    match second.try_read_message() {
        Ok(Some(message)) => message
            .error()
            .map_or_else(|| "served".to_owned(), |error| error.sqlstate().to_owned()),
        Ok(None) => "closed".to_owned(),
        Err(_) => "waits".to_owned(),
    }
}

pub(super) fn idle_client_ends(lab: &Lab) -> String {
    let mut wire = lab.login();
    ask(&mut wire, "SELECT 1");
    yes(closes(&mut wire, 1_600))
}

pub(super) fn idle_transaction_ends(lab: &Lab) -> String {
    let mut wire = lab.login();
    ask(&mut wire, "BEGIN");
    yes(closes(&mut wire, 1_600))
}

pub(super) fn busy_transaction_ends(lab: &Lab) -> String {
    let mut wire = lab.login();
    ask(&mut wire, "BEGIN");
    let ended = (0..8).any(|_| outcome(&mut wire, "SELECT pg_sleep(0.2)") != "fine");
    yes(ended)
}

// ---- names ----

/// For how many seconds the answer for the name of the host will be kept.
fn ttl(lab: &Lab) -> u64 {
    visit(lab);
    ttl_of(lab, "localhost")
}

/// Whether it is kept for more than two seconds that there is no such name, at the moment in which that is new. There can be none
/// with two dots in a row: no name server is asked.
pub(super) fn absence_is_kept_for_two_seconds(lab: &Lab) -> String {
    let end = Instant::now() + ms(3_300);
    let mut most = 0;
    while Instant::now() < end {
        drop(lab.try_login("username", "nowhere"));
        most = most.max(ttl_of(lab, "no..host"));
    }
    yes(most >= 2)
}

fn ttl_of(lab: &Lab, name: &str) -> u64 {
    let (_, console) = lab.running.as_ref().expect("it was started");
    let rows = scene::show(&mut console.borrow_mut(), "DNS_HOSTS");
    let row = rows.iter().find(|row| row["hostname"] == name);
    row.map_or(0, |row| row["ttl"].parse().expect("seconds"))
}

/// Whether the answer for the name of a host is kept for more than a minute.
pub(super) fn name_is_kept(lab: &Lab) -> String {
    yes(ttl(lab) > 60)
}

/// Whether it is for more than two seconds, at the moment in which it is new.
pub(super) fn name_is_kept_for_two_seconds(lab: &Lab) -> String {
    let end = Instant::now() + ms(3_300);
    let mut most = 0;
    while Instant::now() < end {
        lab.console("RECONNECT a").expect("it is done");
        most = most.max(ttl(lab));
        std::thread::sleep(ms(50));
    }
    yes(most >= 2)
}

// ---- TLS ----

pub(super) fn asks_for_tls(lab: &Lab) -> String {
    let answer = Wire::connect(lab.pooler().port()).ask_encryption(80_877_103) as char;
    format!("{answer} {}", lets_in(lab.try_login("username", "a")))
}

fn hello(lab: &Lab, more: &[&str]) -> String {
    s_client(
        lab.pooler().port(),
        &[&["-starttls", "postgres"], more].concat(),
    )
}

/// What stands behind this in what openssl says.
fn behind(said: &str, mark: &str, end: char) -> String {
    let rest = said.split_once(mark).map(|(_, rest)| rest);
    let word = rest.and_then(|rest| rest.split(end).next());
    word.unwrap_or("nothing").trim().to_owned()
}

pub(super) fn client_tls_version(lab: &Lab) -> String {
    behind(&hello(lab, &[]), "New, ", ',')
}

pub(super) fn client_cipher(lab: &Lab) -> String {
    behind(&hello(lab, &[]), "Cipher is ", '\n')
}

pub(super) fn client_curve(lab: &Lab) -> String {
    let offered = ["-groups", "X25519:P-256:P-384"];
    let temporary = behind(&hello(lab, &offered), "Temp Key: ", '\n');
    yes(temporary.contains("X25519"))
}

pub(super) fn certificate_shown(lab: &Lab) -> String {
    behind(&hello(lab, &[]), "subject=CN = ", '\n')
}

/// The server's side of the connection to it.
fn server_tls(lab: &Lab, column: &str) -> String {
    match lab.try_login("username", "a") {
        Ok(mut wire) => {
            let sql = format!(
                "SELECT coalesce({column}::text, 'none') FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            );
            let answer = ask(&mut wire, &sql);
            match first_error(&answer) {
                Some(error) => error.sqlstate().to_owned(),
                None => answer
                    .iter()
                    .find_map(|message| message.row())
                    .and_then(|row| row.into_iter().next().flatten())
                    .unwrap_or_else(|| "NULL".to_owned()),
            }
        }
        Err(_) => "no server".to_owned(),
    }
}

pub(super) fn server_is_over_tls(lab: &Lab) -> String {
    server_tls(lab, "ssl")
}

pub(super) fn server_tls_version(lab: &Lab) -> String {
    server_tls(lab, "version")
}

pub(super) fn server_cipher(lab: &Lab) -> String {
    server_tls(lab, "cipher")
}

pub(super) fn certificate_of_ours(lab: &Lab) -> String {
    server_tls(lab, "client_dn")
}

// ---- what only databases say ----

pub(super) fn database_there(lab: &Lab) -> String {
    value(&mut lab.login(), "SELECT current_database()")
}

pub(super) fn role_there(lab: &Lab) -> String {
    match lab.try_login("other", "a") {
        Ok(mut wire) => value(&mut wire, "SELECT current_user"),
        Err(error) => error.sqlstate().to_owned(),
    }
}

pub(super) fn is_served(lab: &Lab) -> String {
    match lab.try_login("username", "a") {
        Ok(mut wire) => outcome(&mut wire, "SELECT 1"),
        Err(_) => "no server".to_owned(),
    }
}

pub(super) fn work_mem(lab: &Lab) -> String {
    value(&mut lab.login(), "SHOW work_mem")
}

pub(super) fn encoding(lab: &Lab) -> String {
    value(&mut lab.login(), "SHOW client_encoding")
}

pub(super) fn date_style(lab: &Lab) -> String {
    value(&mut lab.login(), "SHOW DateStyle")
}

pub(super) fn time_zone(lab: &Lab) -> String {
    value(&mut lab.login(), "SHOW TimeZone")
}

/// Two hosts, one database: are both used?
pub(super) fn hosts_used(lab: &Lab) -> String {
    let mut held = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let mut wire = lab.login();
        seen.insert(value(&mut wire, "SELECT inet_server_addr()"));
        held.push(wire);
    }
    seen.len().to_string()
}
