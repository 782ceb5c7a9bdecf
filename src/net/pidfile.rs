//! The file that says which process serves. Its name is ours as long as we live, as PgBouncer has it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::socket::describe;

/// A pidfile of ours; removed with this.
pub struct Pidfile(PathBuf);

impl Pidfile {
    /// Looks whether the name is free; what a process left there that is gone is removed. `predecessor`: who will remove it.
    ///
    /// # Errors
    /// Another process lives that has it.
    pub fn check(path: &Path, predecessor: Option<i32>) -> Result<(), String> {
        let shown = path.display();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("pidfile '{shown}': {}", describe(&error))),
        };
        let pid = text.trim().parse().ok().filter(|&pid: &i32| pid > 0);
        if pid.is_some() && pid == predecessor {
            return Ok(());
        }
        let lives = pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH));
        if lives {
            return Err(format!(
                "pidfile '{shown}' exists, another instance running?"
            ));
        }
        log::info!("stale pidfile, removing");
        fs::remove_file(path).map_err(|error| format!("pidfile '{shown}': {}", describe(&error)))
    }

    /// Writes it.
    ///
    /// # Errors
    /// What the operating system says; somebody may have been faster.
    pub fn write(path: &Path) -> Result<Pidfile, String> {
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .and_then(|mut file| {
                let ours = Pidfile(path.to_owned());
                writeln!(file, "{}", std::process::id())?;
                Ok(ours)
            });
        written.map_err(|error| format!("pidfile '{}': {}", path.display(), describe(&error)))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfile_is_ours_or_somebodys_who_lives() {
        let path = std::env::temp_dir().join(format!("aether-pid-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        Pidfile::check(&path, None).expect("nobody has it");
        let ours = Pidfile::write(&path).expect("it is ours now");
        let text = fs::read_to_string(&path).expect("it is there");
        assert_eq!(text, format!("{}\n", std::process::id()));
        let us = std::process::id().cast_signed();
        Pidfile::check(&path, Some(us)).expect("whoever has it will let go");
        assert!(path.exists());
        assert!(
            Pidfile::check(&path, Some(us + 1)).is_err(),
            "somebody else"
        );
        let refused = Pidfile::check(&path, None).expect_err("we live");
        assert!(
            refused.ends_with("exists, another instance running?"),
            "{refused}"
        );
        assert!(Pidfile::write(&path).is_err(), "exclusively");
        drop(ours);
        assert!(!path.exists());
        // No process has this number.
        for stale in ["2147483000\n", "nonsense", ""] {
            fs::write(&path, stale).expect("a file");
            Pidfile::check(&path, None).expect("nobody lives who has it");
            assert!(!path.exists(), "{stale:?}");
        }
    }
}
