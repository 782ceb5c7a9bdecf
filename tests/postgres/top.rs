//! `aether top`, driven by keys in a terminal as a person sees it: tmux is that terminal.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::certificates::certificates;
use crate::support::cluster::PASSWORD;
use crate::support::pooler::binary;
use crate::support::process::{self, Place, children};
use crate::support::{Cluster, Pooler, Scene, Wire, wait_until};
use crate::tls::own_certificate;

/// A tmux of the test's own, with one terminal in it, in which a shell runs.
struct Terminal {
    server: Child,
    place: Place,
}

impl Terminal {
    fn new() -> Terminal {
        let tmux = std::path::Path::new("/usr/bin/tmux");
        assert!(tmux.exists(), "tmux is missing: scripts/test installs it");
        let place = Place::new("terminal");
        let socket = place.path().join("socket");
        let mut command = process::command(tmux);
        // In the foreground, so that it ends with this process.
        command.args(["-D", "-f", "/dev/null", "-S"]).arg(&socket);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let server = process::spawn(command).expect("tmux starts");
        let terminal = Terminal { server, place };
        wait_until("tmux is there", || socket.exists());
        let size = ["-x", "160", "-y", "24"];
        let shell = ["env", "PS1=ready$ ", "TERM=screen", "sh"];
        wait_until("it has a terminal", || {
            let mut new = terminal.tmux(&["new-session", "-d"]);
            let output = new.args(size).args(shell).output().expect("tmux");
            output.status.success()
        });
        terminal.wait_for("ready$");
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = process::command(std::path::Path::new("/usr/bin/tmux"));
        command.arg("-S").arg(self.place.path().join("socket"));
        command.args(arguments);
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.tmux(arguments).output().expect("tmux");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What is to be seen.
    #[track_caller]
    fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    #[track_caller]
    fn wait_for(&self, text: &str) -> String {
        let mut screen = String::new();
        let seen = crate::support::wait_for(crate::support::PATIENCE, || {
            screen = self.screen();
            screen.contains(text)
        });
        assert!(seen, "no {text:?} on the screen:\n{screen}");
        screen
    }

    /// Presses keys, by tmux's names for them.
    fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// Types a line for the shell.
    fn enter(&self, line: &str) {
        self.run(&["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    fn resize(&self, width: &str, height: &str) {
        self.run(&["resize-window", "-x", width, "-y", height]);
    }

    /// Whether it is as it was: the usual screen, a cursor, lines that are edited and echoed.
    #[track_caller]
    fn is_restored(&self) {
        let flags = self.run(&[
            "display-message",
            "-p",
            "#{alternate_on} #{cursor_flag} #{wrap_flag}",
        ]);
        assert_eq!(flags.trim(), "0 1 1");
        // What is typed is not what it says: the line was taken for the answer.
        self.enter("clear; stty -a; echo the e''nd");
        let screen = self.wait_for("the end\n");
        for word in [" icanon ", " echo ", " isig ", " opost "] {
            let words = screen.replace('\n', " ");
            assert!(words.contains(word), "no{word}in {screen}");
        }
        self.enter("clear");
    }

    /// The process that the shell runs.
    fn job(&self) -> u32 {
        let shell = self.run(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim().parse().expect("a process");
        let mut found = Vec::new();
        wait_until("something runs", || {
            found = children(shell);
            found.len() == 1
        });
        found.first().copied().expect("one")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if thread::panicking() {
            let output = self.tmux(&["capture-pane", "-p"]).output();
            let screen = output.map(|output| output.stdout).unwrap_or_default();
            eprintln!(
                "---- the terminal\n{}----",
                String::from_utf8_lossy(&screen)
            );
        }
        let _ = self.tmux(&["kill-server"]).output();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn command_line(port: u16) -> String {
    let binary = binary().display();
    format!(
        "PGPASSWORD={PASSWORD} {binary} top -h 127.0.0.1 -p {port} -U username -i 200ms; echo status=$?"
    )
}

fn scene(name: &str) -> Scene {
    let keys = "  mode: transaction\n  max_connections: 1\nmetrics: {query_fingerprints: 100}\n";
    Scene::new(Cluster::shared(), name, keys)
}

/// Issue 7, proof 5.
#[test]
fn aether_top_shows_what_goes_on_and_does_what_keys_say() {
    let scene = scene("top_keys");
    let terminal = Terminal::new();
    terminal.enter(&command_line(scene.pooler.port()));
    terminal.wait_for("nobody waits");
    let mut holder = scene.login();
    holder.run("BEGIN");
    let port = scene.pooler.port();
    let database = scene.database.clone();
    thread::scope(|threads| {
        threads.spawn(move || {
            let parameters = [
                ("user", "username"),
                ("database", &*database),
                ("application_name", "checkout"),
            ];
            let waiter = crate::support::Wire::try_login(port, &parameters, PASSWORD);
            waiter.expect("a session").run("SELECT pg_sleep(1.5)");
        });
        let screen = terminal.wait_for("has waited");
        assert!(
            screen.contains("1 of 1 servers are in use (max_connections)"),
            "{screen}"
        );
        assert!(screen.contains("WAITING▼"), "{screen}");
        let line = |screen: &str, word: &str| {
            let found = screen.lines().find(|line| line.contains(word));
            found.unwrap_or_default().to_owned()
        };
        let pool = screen
            .lines()
            .find(|line| line.starts_with(&scene.database))
            .unwrap_or_default();
        let words: Vec<&str> = pool.split_whitespace().collect();
        assert_eq!(
            words[..4],
            [&scene.database, "username", "2", "1"],
            "{screen}"
        );
        terminal.press(&["2"]);
        let screen = terminal.wait_for("checkout");
        assert!(
            line(&screen, "checkout").contains("room: 1 of 1"),
            "{screen}"
        );
        // Once the first is through, the other runs.
        holder.run("COMMIT");
        terminal.press(&["3"]);
        terminal.wait_for("QUERY▼");
        let screen = terminal.wait_for("checkout");
        let words = line(&screen, "checkout");
        assert!(words.ends_with(" ms") || words.ends_with(" s"), "{screen}");
        terminal.press(&["4"]);
        terminal.wait_for("select pg_sleep(?)");
    });
    // Only what fits the filter, and everything again.
    terminal.press(&["/", "no", "such", "Enter"]);
    terminal.wait_for("nothing has this text in it");
    terminal.press(&["Escape"]);
    terminal.wait_for("select pg_sleep(?)");
    terminal.press(&["1", ">", ">"]);
    terminal.wait_for("BUSY▼");
    terminal.press(&["r"]);
    terminal.wait_for("BUSY▲");
    terminal.press(&["-"]);
    terminal.wait_for("every 400 ms");
    terminal.press(&["Space"]);
    terminal.wait_for("stopped: Space goes on");
    terminal.press(&["Space", "?"]);
    terminal.wait_for("sort by the column before");
    terminal.press(&["x"]);
    terminal.wait_for(&scene.database);
    // Nothing is wrapped, whatever the size.
    for (width, height) in [("40", "10"), ("12", "3"), ("2", "1"), ("160", "24")] {
        terminal.resize(width, height);
        thread::sleep(Duration::from_millis(300));
        let screen = terminal.screen();
        let lines: Vec<&str> = screen.trim_end().lines().collect();
        assert!(
            "aether ".starts_with(&lines[0][..2].to_lowercase()),
            "{width}: {screen}"
        );
        assert!(
            lines
                .iter()
                .skip(1)
                .all(|line| !line.to_lowercase().starts_with("aether")),
            "{screen}"
        );
    }
    terminal.wait_for(&scene.database);
    terminal.press(&["q"]);
    terminal.wait_for("status=0");
    terminal.is_restored();
}

#[test]
fn aether_top_connects_again_and_gives_the_terminal_back_however_it_ends() {
    let mut scene = scene("top_ends");
    let terminal = Terminal::new();
    terminal.enter(&command_line(scene.pooler.port()));
    terminal.wait_for("nobody waits");
    let clients = scene.show("CLIENTS WHERE application_name = 'aether top'");
    let kill = format!("KILL_CLIENT {}", clients[0]["id"]);
    scene.console().run(&kill);
    terminal.wait_for("trying again");
    terminal.wait_for("every 200 ms");
    // To the background and back, as any program.
    terminal.press(&["C-z"]);
    terminal.wait_for("ready$");
    let flags = terminal.run(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
    assert_eq!(flags.trim(), "0 1");
    terminal.enter("clear; fg");
    terminal.wait_for("nobody waits");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        process::signal(terminal.job(), signal);
        terminal.wait_for("ready$");
        terminal.is_restored();
        terminal.enter(&command_line(scene.pooler.port()));
        terminal.wait_for("nobody waits");
    }
    scene.pooler.signal(Signal::SIGQUIT);
    scene
        .pooler
        .wait_for_end(Duration::from_secs(10))
        .expect("it ends");
    let screen = terminal.wait_for("failed: Connection refused");
    assert!(
        screen.contains("trying again") && screen.contains(&scene.database),
        "{screen}"
    );
    terminal.press(&["C-c"]);
    terminal.wait_for("status=0");
    terminal.is_restored();
}

fn top(port: u16, host: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = process::command(binary());
    command.args(["top", "-h", host, "-p", &port.to_string(), "-i", "200ms"]);
    command.args(arguments).envs(variables.iter().copied());
    command.output().expect("it runs")
}

/// What is no terminal gets one picture of everything; and psql's words say where and who.
#[test]
fn aether_top_prints_one_picture_where_there_is_no_terminal() {
    let cluster = Cluster::shared();
    let place = Place::new("top_socket");
    let directory = place.path().display().to_string();
    let pooler = Pooler::start(&crate::support::scene::yaml(
        &crate::support::scene::tcp(cluster, &cluster.database("top_once")),
        &format!(", unix_socket_dir: \"{directory}\""),
        "auth: {type: md5}\n",
    ));
    let port = pooler.port();
    let password = [("PGPASSWORD", PASSWORD)];
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let output = top(port, "127.0.0.1", &["-U", "username", "--once"], &password);
    let text = said(&output);
    assert!(output.status.success(), "{}", wrong(&output));
    for part in [
        "Aether 0.1.0 at 127.0.0.1:",
        " as username  active",
        "queries/s",
        "pools:",
        "top_once",
        "waiting:",
        "nobody waits",
        "statements:",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains('\u{1b}'), "nothing for a terminal: {text}");
    // The owner of the socket needs no password; the configuration says where it is.
    let output = top(port, &directory, &[], &[]);
    assert!(
        said(&output).contains(" as pgbouncer  active"),
        "{}",
        wrong(&output)
    );
    let mut command = process::command(binary());
    let output = command
        .arg("top")
        .arg(pooler.config_path())
        .args(["-i", "100ms"])
        .output();
    assert!(said(&output.expect("it runs")).contains(" as pgbouncer  active"));
    for (arguments, variables, why) in [
        (&["-U", "username"][..], &[][..], "set PGPASSWORD"),
        (
            &["-U", "username"],
            &[("PGPASSWORD", "wrong")],
            "password authentication failed",
        ),
        (&["-U", "nobody"], &password, "failed"),
        (&["-U", "username", "-d", "top_once"], &password, "version"),
    ] {
        let output = top(port, "127.0.0.1", arguments, variables);
        let text = wrong(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            text.starts_with("aether top: ") && text.contains(why),
            "{arguments:?}: {text}"
        );
    }
    let free = process::free_port();
    assert!(wrong(&top(free, "127.0.0.1", &[], &[])).contains("Connection refused"));
}

/// The picture in docs/console.md is that of a run of this: a load, and clients that wait. `AETHER_TOP_CAPTURE=FILE` keeps it.
#[test]
fn aether_top_shows_a_load_as_in_the_documentation() {
    let cluster = Cluster::shared();
    let dsn = |name: &str| crate::support::scene::tcp(cluster, &cluster.database(name));
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nadmin: {{users: [username]}}\n\
         auth: {{users: {{username: {PASSWORD}}}}}\npool: {{mode: transaction}}\n\
         databases:\n  shop: {{dsn: \"{}\", max_connections: 4}}\n  wiki: {{dsn: \"{}\", max_connections: 2}}\n",
        dsn("top_shop"),
        dsn("top_wiki")
    ));
    let login = |database| Wire::login(pooler.port(), "username", PASSWORD, database);
    let mut holders = [login("wiki"), login("wiki")];
    holders.iter_mut().for_each(|one| drop(one.run("BEGIN")));
    let mut waiters = [login("wiki"), login("wiki"), login("wiki")];
    for waiter in &mut waiters {
        waiter.send_message(b'Q', b"SELECT 1\0");
    }
    let place = Place::new("top_load");
    let script = place.write(
        "load.sql",
        "SELECT count(*) FROM generate_series(1, 1000)\n",
    );
    let mut load = Command::new(cluster.program("pgbench"));
    load.args([
        "-n",
        "-c",
        "8",
        "-T",
        "60",
        "-h",
        "127.0.0.1",
        "-U",
        "username",
        "-f",
    ])
    .arg(&script)
    .args(["-p", &pooler.port().to_string(), "shop"])
    .env("PGPASSWORD", PASSWORD)
    .stdout(Stdio::null())
    .stderr(Stdio::null());
    let mut load = load.spawn().expect("pgbench");
    let terminal = Terminal::new();
    terminal.resize("190", "9");
    terminal.enter(&command_line(pooler.port()).replace("200ms", "1s"));
    let mut screen = String::new();
    let of = |screen: &str, database: &str| -> Vec<String> {
        let mut lines = screen.lines();
        let found = lines
            .find(|line| line.starts_with(database))
            .unwrap_or_default();
        found.split_whitespace().map(str::to_owned).collect()
    };
    // From the second picture on there are rates.
    wait_until("the load is shown", || {
        screen = terminal.screen();
        let rate = of(&screen, "shop")
            .get(8)
            .and_then(|text| text.parse::<f64>().ok());
        rate.is_some_and(|rate| rate > 0.0)
    });
    assert_eq!(
        of(&screen, "shop")[..3],
        ["shop", "username", "8"],
        "{screen}"
    );
    assert_eq!(
        of(&screen, "wiki")[..4],
        ["wiki", "username", "5", "3"],
        "{screen}"
    );
    let why = "room: 2 of 2 servers are in use (max_connections)";
    assert!(screen.contains(why), "{screen}");
    assert!(screen.contains("username has waited "), "{screen}");
    if let Some(file) = std::env::var_os("AETHER_TOP_CAPTURE") {
        std::fs::write(file, screen.trim_end()).expect("a picture");
    }
    holders.iter_mut().for_each(|one| drop(one.run("COMMIT")));
    for waiter in &mut waiters {
        waiter.read_until(b'Z');
    }
    terminal.wait_for("nobody waits");
    terminal.press(&["q"]);
    terminal.wait_for("status=0");
    load.kill().expect("it is ours");
    load.wait().expect("it ends");
}

/// What a user of psql has lying about: a password file, which is to be his alone, and a certificate.
#[test]
fn aether_top_takes_password_and_certificate_from_libpqs_files() {
    let files = certificates();
    let home = files.path();
    let at = home.display();
    files.write(
        "hba",
        "hostssl all all all cert\nhostnossl all all all scram-sha-256\n",
    );
    let pooler = Pooler::start(&crate::support::scene::yaml(
        &crate::support::scene::tcp(Cluster::shared(), "database"),
        &format!(
            ", tls: {{mode: allow, ca_file: {at}/root.crt, {}}}",
            own_certificate(&files)
        ),
        &format!("auth: {{hba_file: {at}/hba, users: {{username: {PASSWORD}}}}}\n"),
    ));
    let path = |name: &str| home.join(name).display().to_string();
    let write = |name: &str, text: &str, mode| {
        let file = files.write(name, text);
        std::fs::set_permissions(file, Permissions::from_mode(mode)).expect("chmod");
    };
    let nobodys = path("nowhere");
    let run = |variables: &[(&str, &str)]| {
        let usual = [("HOME", &*nobodys), ("PGSSLMODE", "disable")];
        let output = top(
            pooler.port(),
            "127.0.0.1",
            &["-U", "username"],
            &[&usual, variables].concat(),
        );
        match output.status.success() {
            true => String::new(),
            false => String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    };
    let line = format!(
        "# mine\nlocalhost:*:*:*:no\n127.0.0.1:{}:aether:username:{PASSWORD}\n",
        pooler.port()
    );
    write("mine", &line, 0o600);
    write(".pgpass", &line, 0o600);
    write("open", &line, 0o640);
    write("wrong", "*:*:*:*:wrong\n", 0o600);
    let failed = "password authentication failed";
    let from = |name: &str| format!("password retrieved from file \"{}\"", path(name));
    assert_eq!(run(&[("PGPASSFILE", &path("mine"))]), "");
    assert_eq!(run(&[("HOME", &at.to_string())]), "");
    let said = run(&[("PGPASSFILE", &path("open"))]);
    assert!(
        said.contains("open\" has group or world access") && said.contains("set PGPASSWORD"),
        "{said}"
    );
    let said = run(&[("PGPASSFILE", &at.to_string())]);
    assert!(said.contains("is not a plain file"), "{said}");
    let said = run(&[("PGPASSFILE", &path("wrong"))]);
    assert!(
        said.contains(failed) && said.contains(&from("wrong")),
        "{said}"
    );
    let said = run(&[("PGPASSFILE", &path("mine")), ("PGPASSWORD", "wrong")]);
    assert!(
        said.contains(failed) && !said.contains("retrieved"),
        "{said}"
    );

    let with_tls =
        |variables: &[(&str, &str)]| run(&[&[("PGSSLMODE", "require")], variables].concat());
    let said = with_tls(&[]);
    assert!(
        said.contains("requires a valid client certificate"),
        "{said}"
    );
    let (certificate, key) = (path("client.crt"), path("client.key"));
    let own = [("PGSSLCERT", &*certificate), ("PGSSLKEY", &*key)];
    assert_eq!(with_tls(&own), "");
    let said = with_tls(&own[..1]);
    assert!(said.contains("PGSSLKEY"), "{said}");
    // Roots are looked at with require, too.
    let (root, rogue) = (path("root.crt"), path("rogue.crt"));
    assert_eq!(
        with_tls(&[&own[..], &[("PGSSLROOTCERT", &root)]].concat()),
        ""
    );
    let said = with_tls(&[&own[..], &[("PGSSLROOTCERT", &rogue)]].concat());
    assert!(said.contains("invalid peer certificate"), "{said}");
    // The usual places.
    let usual = home.join(".postgresql");
    std::fs::create_dir(&usual).expect("a directory");
    process::own(&usual);
    for (from, to) in [
        ("client.crt", "postgresql.crt"),
        ("client.key", "postgresql.key"),
        ("root.crt", "root.crt"),
    ] {
        let text = std::fs::read_to_string(home.join(from)).expect("it is there");
        write(&format!(".postgresql/{to}"), &text, 0o600);
    }
    assert_eq!(with_tls(&[("HOME", &at.to_string())]), "");
    write(".postgresql/postgresql.key", "", 0o640);
    let said = with_tls(&[("HOME", &at.to_string())]);
    assert!(
        said.contains("postgresql.key\" has group or world access"),
        "{said}"
    );
}
