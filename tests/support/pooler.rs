//! An Aether of a test's own: the binary under test, started from the text of a configuration file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::process::{self, Place};
use super::{PATIENCE, wait_for, wait_until};

/// What a configuration says where it means the pooler's own port.
const PORT_MARK: &str = "{port}";

/// What was said before is written by then: lines wait 50 ms for others (`log::PACE`).
const LOG_IS_WRITTEN: Duration = Duration::from_millis(200);

/// A running Aether. Dropping it ends it at once; what it logged is shown when the test has failed.
pub struct Pooler {
    port: u16,
    child: Child,
    place: Place,
    config: PathBuf,
}

/// An Aether that ended instead of listening.
#[derive(Debug)]
pub struct Refused {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub log: String,
}

impl Pooler {
    /// Starts Aether with `yaml`, in which `{port}` stands for a free port to listen on (`listen_addr: "127.0.0.1:{port}"`),
    /// and waits until it listens. Fails the test when it doesn't.
    #[track_caller]
    pub fn start(yaml: &str) -> Pooler {
        Pooler::start_under(&[], yaml)
    }

    /// As [`Pooler::start`], for configurations that Aether should refuse.
    #[track_caller]
    pub fn try_start(yaml: &str) -> Result<Pooler, Refused> {
        Pooler::try_start_under(&[], yaml)
    }

    /// As [`Pooler::start`], by way of a program that execs what its last arguments say, as `prlimit` does.
    #[track_caller]
    pub fn start_under(wrapper: &[&str], yaml: &str) -> Pooler {
        match Pooler::try_start_under(wrapper, yaml) {
            Ok(pooler) => pooler,
            Err(refused) => panic!("aether ended with {}:\n{}", refused.status, refused.log),
        }
    }

    #[track_caller]
    fn try_start_under(wrapper: &[&str], yaml: &str) -> Result<Pooler, Refused> {
        let place = Place::new("aether");
        let port = process::free_port();
        let config = place.write("aether.yaml", &yaml.replace(PORT_MARK, &port.to_string()));
        let log = fs::File::create(place.path().join("log")).expect("its log");
        let mut command = match wrapper {
            [] => process::command(binary()),
            [program, arguments @ ..] => {
                let mut command = process::command(Path::new(program));
                command.args(arguments).arg(binary());
                command
            }
        };
        command.arg(&config).current_dir(place.path());
        command
            .stdout(log.try_clone().expect("its log"))
            .stderr(log);
        let child = process::spawn(command).expect("setpriv, of util-linux, starts it");
        let mut pooler = Pooler {
            port,
            child,
            place,
            config,
        };
        let mut ended = None;
        wait_until("aether listens", || {
            ended = pooler.ended();
            ended.is_some() || process::listening(port)
        });
        match ended {
            Some(status) => Err(Refused {
                status,
                log: pooler.log(),
            }),
            None => Ok(pooler),
        }
    }

    /// Starts another process with the same configuration that takes over from this one (`-R`), as the user of `wrapper` if there
    /// is one, and waits until it says `word`.
    #[track_caller]
    pub fn successor(&self, wrapper: &[&str], word: &str) -> Result<Pooler, Refused> {
        let place = Place::new("successor");
        let log = fs::File::create(place.path().join("log")).expect("its log");
        let mut command = match wrapper {
            [] => process::command(binary()),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary());
                command
            }
        };
        command.arg("-R").arg(self.config_path());
        command
            .stdout(log.try_clone().expect("its log"))
            .stderr(log);
        let child = process::spawn(command).expect("setpriv, of util-linux, starts it");
        let mut pooler = Pooler {
            port: self.port,
            child,
            place,
            config: self.config_path(),
        };
        let mut ended = None;
        wait_until("the successor is there", || {
            ended = pooler.ended();
            ended.is_some() || pooler.log_contains(word)
        });
        match ended {
            Some(status) => Err(Refused {
                status,
                log: pooler.log(),
            }),
            None => Ok(pooler),
        }
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its configuration lies.
    pub fn config_path(&self) -> PathBuf {
        self.config.clone()
    }

    /// Writes another configuration over its file; SIGHUP makes Aether read it.
    pub fn rewrite_config(&self, yaml: &str) {
        self.place.write(
            "aether.yaml",
            &yaml.replace(PORT_MARK, &self.port.to_string()),
        );
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.child.id(), signal);
    }

    /// Resident memory in kB.
    pub fn rss_kb(&self) -> u64 {
        process::rss_kb(self.child.id())
    }

    /// What it has said so far, on both of its outputs. Waits until it is written.
    pub fn log(&self) -> String {
        thread::sleep(LOG_IS_WRITTEN);
        self.written()
    }

    /// What of it is written by now.
    fn written(&self) -> String {
        fs::read(self.place.path().join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Whether it has said this.
    pub fn log_contains(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    /// Waits until it has said this; fails the test when it doesn't.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("aether's log says {text:?}"), || {
            self.written().contains(text)
        });
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for its end, at most for the time given.
    pub fn wait_for_end(&mut self, time: Duration) -> Option<ExitStatus> {
        wait_for(time, || self.ended().is_some());
        self.ended()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGCONT);
            self.signal(Signal::SIGQUIT);
            if self.wait_for_end(PATIENCE).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        if std::thread::panicking() {
            eprintln!("---- aether's log\n{}----", self.log());
        }
    }
}

/// The binary under test (`AETHER_BIN` names another build), or a copy where the server user can reach it.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<(PathBuf, Option<Place>)> = OnceLock::new();
    let find = || {
        let other = std::env::var_os("AETHER_BIN").map(PathBuf::from);
        let built = other.unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_aether")));
        let mut look: Command = process::command(Path::new("/usr/bin/test"));
        if look
            .arg("-x")
            .arg(&built)
            .status()
            .is_ok_and(|status| status.success())
        {
            return (built, None);
        }
        let place = Place::new("binary");
        let copy = place.path().join("aether");
        fs::copy(&built, &copy).expect("a copy of the binary");
        process::own(&copy);
        (copy, Some(place))
    };
    &BINARY.get_or_init(find).0
}
