//! Options of which the table's way of starting decides: whose process it is, and at which port it listens.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command};

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use crate::ask;
use crate::support::cluster::PASSWORD;
use crate::support::pooler::binary;
use crate::support::process::{self, Place};
use crate::support::{Message, Pooler, Wire, wait_until};

/// What stands in these files beside the option.
const USUAL: &str = "listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_file = {dir}/userlist.txt\nadmin_users = admin\n";

/// `port`: a number, or `{port}` for the one that [`Pooler`] draws.
fn text(place: &Place, port: &str, more: &str) -> String {
    place.write("userlist.txt", &format!("\"admin\" \"{PASSWORD}\"\n"));
    let usual = USUAL
        .replace("{port}", port)
        .replace("{dir}", &place.path().display().to_string());
    format!("[databases]\n[pgbouncer]\n{usual}{more}\n")
}

/// RELOAD and SET of what only a start changes; both say so.
fn change_in_vain(console: &mut Wire, option: &str, value: &str, log: &dyn Fn() -> String) {
    assert!(!log().contains("takes a restart"));
    ask(console, "RELOAD");
    wait_until("it says that it takes a restart", || {
        log().contains(" takes a restart; ")
    });
    let answer = ask(console, &format!("SET {option} = '{value}'"));
    let notice = answer.iter().find_map(Message::notice).expect("a notice");
    assert_eq!(
        notice.message(),
        format!("{option} cannot be changed while the process runs")
    );
}

#[test]
fn the_port_is_that_of_the_file_and_only_a_start_changes_it() {
    let place = Place::new("port");
    let pooler = Pooler::start(&text(&place, "{port}", ""));
    let other = process::free_port().to_string();
    let mut console = Wire::login(pooler.port(), "admin", PASSWORD, "pgbouncer");
    pooler.rewrite_config(&text(&place, &other, ""));
    change_in_vain(&mut console, "listen_port", &other, &|| pooler.log());
    assert!(TcpStream::connect(("127.0.0.1", pooler.port())).is_ok());
    assert!(TcpStream::connect(format!("127.0.0.1:{other}")).is_err());

    // Left out; where others may listen, too, only the Unix socket says which it is.
    let default = place.write(
        "default.ini",
        &format!(
            "[databases]\n[pgbouncer]\nunix_socket_dir = {}\n",
            place.path().display()
        ),
    );
    let mut command = process::command(binary());
    command.arg(default).stderr(std::process::Stdio::null());
    let mut child = process::spawn(command).expect("it starts");
    let socket = place.path().join(".s.PGSQL.6432");
    wait_until("its socket is there", || socket.exists());
    process::signal(child.id(), Signal::SIGQUIT);
    child.wait().expect("it ends");
}

#[test]
fn a_unix_socket_has_the_group_of_the_file_and_only_a_start_changes_it() {
    let place = Place::new("group");
    let text = |group: &str| {
        let directory = place.path().display();
        let socket = format!("unix_socket_dir = {directory}\nunix_socket_group = {group}");
        text(&place, "{port}", &socket).replace("unix_socket_dir =\n", "")
    };
    let refused = Pooler::try_start(&text("no_such_group_here")).err();
    let said = refused.expect("nobody is of that group").log;
    assert!(said.contains("no_such_group_here"), "{said}");
    let own = fs::metadata(place.path()).expect("it is there").gid();
    let pooler = Pooler::start(&text(&own.to_string()));
    let socket = place.path().join(format!(".s.PGSQL.{}", pooler.port()));
    let gid = || fs::metadata(&socket).expect("the socket").gid();
    assert_eq!(gid(), own);
    let mut console = Wire::login(pooler.port(), "admin", PASSWORD, "pgbouncer");
    pooler.rewrite_config(&text("no_such_group_here"));
    change_in_vain(
        &mut console,
        "unix_socket_group",
        "no_such_group_here",
        &|| pooler.log(),
    );
    assert!(pooler.log_contains("for group no_such_group_here takes a restart"));
    assert_eq!(gid(), own);
}

/// A process that has left our user, and with that what would end it together with us.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        process::signal(self.0.id(), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Whose process it is.
fn uid(child: &Child) -> u32 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("Uid:"));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    word.and_then(|word| word.parse().ok()).expect("a number")
}

#[test]
fn root_becomes_the_user_of_the_file_and_only_a_start_changes_that() {
    if !geteuid().is_root() {
        return; // only root can become somebody else
    }
    let place = Place::new("user");
    let own = process::server_user().expect("we are root");
    let other = User::from_name("daemon")
        .expect("a list of users")
        .expect("of Debian's");
    let port = process::free_port();
    let log = place.path().join("log");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let start = |user: &str| {
        let file = place.write("p.ini", &text(&place, &port.to_string(), user));
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(binary())
            .arg(file);
        command.stdout(std::process::Stdio::null());
        command.stderr(fs::File::create(&log).expect("its log"));
        Other(process::spawn(command).expect("it starts"))
    };

    let mut nobody = start("");
    let mut ended = None;
    wait_until("it refuses to be root", || {
        ended = nobody.0.try_wait().expect("it is our child");
        ended.is_some()
    });
    assert!(ended.is_some_and(|status| !status.success()));
    assert!(said().contains("root"), "{}", said());

    let child = start(&format!("user = {}", own.name));
    wait_until("it listens", || process::listening(port));
    assert_eq!(uid(&child.0), own.uid.as_raw());
    let mut console = Wire::login(port, "admin", PASSWORD, "pgbouncer");
    let changed = text(&place, &port.to_string(), &format!("user = {}", other.name));
    place.write("p.ini", &changed);
    change_in_vain(&mut console, "user", &other.name, &said);
    assert_eq!(uid(&child.0), own.uid.as_raw());
}
