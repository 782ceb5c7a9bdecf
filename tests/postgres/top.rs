//! `aether top`, driven by keys in a terminal as a person sees it: tmux is that terminal.

use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::cluster::PASSWORD;
use crate::support::pooler::binary;
use crate::support::process::{self, Place, children};
use crate::support::{Cluster, Pooler, Scene, wait_until};

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
        self.enter("clear; stty -a; echo the end");
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
