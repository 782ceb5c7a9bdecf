//! Child processes that can't be left behind, run by somebody else than root, in directories of their own.
//!
//! A test may be killed at any point, so no destructor can be relied on. Each child asks the kernel (by `setpriv
//! --pdeathsig`) to be killed when the thread that started it ends; that is a thread of ours which ends with the process
//! only. Directories carry our process id and are swept by the next test run when nobody of that id lives any more.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::mpsc;

use nix::sys::signal::Signal;
use nix::unistd::{Pid, User, geteuid};

/// What directories of ours are called in the temporary directory.
const PREFIX: &str = "aether-test-";

/// The user for servers when the tests run as root; `None`: the tests' own user will do.
pub fn server_user() -> Option<&'static User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    let find = || {
        let known = |name| User::from_name(name).ok().flatten();
        geteuid().is_root().then(|| {
            known("postgres")
                .or_else(|| known("nobody"))
                .expect("neither user postgres nor nobody exists")
        })
    };
    USER.get_or_init(find).as_ref()
}

/// A command that runs `program` as the server user and dies with this process.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(user) = server_user() {
        command
            .arg(format!("--reuid={}", user.uid))
            .arg(format!("--regid={}", user.gid));
        command.args(["--clear-groups", "--inh-caps=-all"]);
    }
    command.args(["--pdeathsig", "KILL"]).arg("--").arg(program);
    command.stdin(std::process::Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
}

/// Starts a [`command`] from the thread that lives as long as the process.
pub fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::SyncSender<io::Result<Child>>);
    static KEEPER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        orders
    });
    let (answer, child) = mpsc::sync_channel(1);
    keeper
        .send((command, answer))
        .expect("the keeper thread has ended");
    child.recv().expect("the keeper thread has ended")
}

/// Sends a signal to one process; a process that has gone is none of the sender's business.
pub fn signal(pid: u32, signal: Signal) {
    let _ = nix::sys::signal::kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// The direct children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // "pid (name, which may hold anything) state ppid ..."
        let parent = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(1));
        if parent == Some(&pid.to_string()) {
            found.push(id);
        }
    }
    found
}

/// Resident memory of a process in kB.
pub fn rss_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process has ended");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("a zombie has no memory");
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse().ok())
        .expect("VmRSS is a number")
}

/// Whether somebody listens on the TCP port: asked of the kernel, so that no connection is made.
pub fn listening(port: u16) -> bool {
    let is_it = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().unwrap_or_default();
        let state = words.nth(1).unwrap_or_default();
        state == "0A" && local.ends_with(&format!(":{port:04X}"))
    };
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .any(|table| fs::read_to_string(table).is_ok_and(|text| text.lines().any(is_it)))
}

/// A loopback port that is free now and not from the range out of which the kernel serves others.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..5_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = u16::try_from(std::process::id() % 100 * 120).expect("small");
        let port = 20_000 + start.wrapping_add(step) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 20000 and 32000");
}

/// A directory that the server user owns, removed when dropped.
pub struct Place(PathBuf);

impl Place {
    /// Makes one; `name` is for people who look.
    pub fn new(name: &str) -> Place {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        sweep();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("{PREFIX}{}-{count}-{name}", std::process::id()));
        fs::create_dir(&path).expect("a directory in the temporary directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
        own(&path);
        Place(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file that the server user owns.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file of the test's own");
        own(&path);
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Gives a path to the server user.
pub fn own(path: &Path) {
    if let Some(user) = server_user() {
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown");
    }
}

/// Removes what test processes left that are no more, once a process.
fn sweep() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        for entry in fs::read_dir(std::env::temp_dir())
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    });
}
