//! Where lines go: standard error, a file, syslog. A sink that takes nothing costs its lines and holds up no other for long.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use ::log::Level;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::format::{self, Format, Surroundings};
use super::{Entry, Settings};

/// Where the machine's syslog takes its lines.
const SYSLOG: &str = "/dev/log";
/// How long standard error may keep the others waiting before its lines are dropped, in milliseconds.
const STALL_MS: u16 = 100;
/// What a pipe that is ready takes in one piece (`PIPE_BUF`).
const PIECE_MAX: usize = 4_096;

/// The machine's syslog, and as whom we speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syslog {
    /// The tag in front of each line.
    pub ident: String,
    /// What the lines are filed under.
    pub facility: Facility,
}

/// What lines are filed under in syslog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

/// Facilities by name, with syslog's own numbers.
const FACILITIES: [(&str, u8); 12] = [
    ("auth", 4),
    ("authpriv", 10),
    ("daemon", 3),
    ("user", 1),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

impl Facility {
    /// Where daemons are filed.
    pub const DAEMON: Facility = Facility(3);

    /// All that there are, by name.
    pub fn all() -> [(&'static str, Facility); 12] {
        FACILITIES.map(|(name, number)| (name, Facility(number)))
    }

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        let found = FACILITIES.iter().find(|(_, number)| *number == self.0);
        found.map_or("daemon", |(name, _)| name)
    }
}

/// Everything that lines go to.
pub(super) struct Sinks {
    around: Surroundings,
    stderr: Option<Stderr>,
    file: Option<Appended>,
    syslog: Option<(Syslog, Wire)>,
}

struct Appended {
    file: File,
    /// Lines that wait to be written together.
    lines: Lines,
}

/// Lines that are written together.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

struct Stderr {
    /// The journal reads it: it wants to be told the level, and knows the time.
    journal: bool,
    /// It took nothing the last time.
    stalled: bool,
    /// It is a pipe or a socket: whoever does not read it holds up who writes.
    stalls: bool,
    /// Lines that wait to be written together.
    lines: Lines,
}

/// The connection to syslog; `None`: there is none at present.
struct Wire {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Sinks {
    pub(super) fn open(settings: &Settings) -> io::Result<Sinks> {
        let mut sinks = Sinks {
            around: Surroundings::look(),
            stderr: None,
            file: None,
            syslog: None,
        };
        sinks.reopen(settings)?;
        Ok(sinks)
    }

    /// Takes settings over. Where the file cannot be opened everything stays as it is.
    pub(super) fn reopen(&mut self, settings: &Settings) -> io::Result<()> {
        let file = settings.file.as_ref().map(|path| open(path)).transpose()?;
        self.file = file.map(|file| Appended {
            file,
            lines: Lines::default(),
        });
        self.stderr = settings.stderr.then(|| Stderr {
            journal: is_journal(),
            stalled: false,
            stalls: own_stderr().is_ok_and(|own| !own.is_file()),
            lines: Lines::default(),
        });
        self.syslog = settings.syslog.clone().map(|syslog| {
            let wire = Wire {
                path: PathBuf::from(SYSLOG),
                socket: None,
            };
            (syslog, wire)
        });
        Ok(())
    }

    /// Whether a line would get through somewhere.
    pub(super) fn take_something(&self) -> bool {
        let stalled = self.stderr.as_ref().is_none_or(|stderr| stderr.stalled);
        !stalled || self.file.is_some() || self.syslog.is_some() || stderr_is_ready(0)
    }

    /// Bytes that wait to be written.
    pub(super) fn held(&self) -> usize {
        let stderr = self.stderr.as_ref().map_or(0, |to| to.lines.bytes.len());
        let file = self.file.as_ref().map_or(0, |to| to.lines.bytes.len());
        stderr.max(file)
    }

    /// Writes what waits; how many lines were lost.
    pub(super) fn flush(&mut self) -> u64 {
        let mut lost = 0;
        if let Some(to) = &mut self.file {
            let written = to.file.write_all(&to.lines.bytes);
            lost += written.map_or(to.lines.ends.len(), |()| 0);
            to.lines = Lines::default();
        }
        if let Some(stderr) = &mut self.stderr {
            let lines = std::mem::take(&mut stderr.lines);
            lost += lines.in_pieces(stderr.stalls, |piece| stderr.write(piece));
        }
        lost as u64
    }

    /// Takes a line; how many sinks did not.
    pub(super) fn write(&mut self, format: Format, entry: &Entry) -> u64 {
        let mut lost = 0;
        if let Some(stderr) = &mut self.stderr {
            let mut line = format::line(format, entry, stderr.journal, &self.around);
            if stderr.journal {
                line.splice(0..0, format!("<{}>", severity(entry)).into_bytes());
            }
            stderr.lines.add(&line);
        }
        if let Some(to) = &mut self.file {
            let line = format::line(format, entry, false, &self.around);
            to.lines.add(&line);
        }
        if let Some((syslog, wire)) = &mut self.syslog
            && entry.level <= Level::Info
        {
            let text = format::bare(format, entry, &self.around);
            let head = syslog.head(entry, &self.around);
            lost += u64::from(!wire.send(&[head.as_bytes(), &text].concat()));
        }
        lost
    }
}

impl Lines {
    fn add(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.ends.push(self.bytes.len());
    }

    /// Has them written: all at once, or in pieces of whole lines that a pipe takes in one. How many lines were lost.
    fn in_pieces(&self, small: bool, mut write: impl FnMut(&[u8]) -> bool) -> usize {
        let max = if small { PIECE_MAX } else { usize::MAX };
        let (mut lost, mut start, mut end, mut count) = (0, 0, 0, 0);
        for next in self.ends.iter().copied().chain([usize::MAX]) {
            let is_last = next == usize::MAX;
            if count > 0 && (is_last || next.saturating_sub(start) > max) {
                let piece = self.bytes.get(start..end).unwrap_or_default();
                lost += if write(piece) { 0 } else { count };
                (start, count) = (end, 0);
            }
            (end, count) = (next, count + 1);
        }
        lost
    }
}

impl Stderr {
    fn write(&mut self, line: &[u8]) -> bool {
        if !self.stalls {
            return io::stderr().write_all(line).is_ok();
        }
        self.stalled = !stderr_is_ready(if self.stalled { 0 } else { STALL_MS });
        // A pipe that is ready takes at least what is written in one piece.
        !self.stalled && io::stderr().write_all(line).is_ok()
    }
}

impl Syslog {
    fn head(&self, entry: &Entry, around: &Surroundings) -> String {
        let priority = self.facility.0 * 8 + severity(entry);
        let time = around.syslog_time(entry.at);
        format!("<{priority}>{time} {}[{}]: ", self.ident, around.pid)
    }
}

impl Wire {
    /// Sends, connecting anew where the other side was started anew.
    fn send(&mut self, line: &[u8]) -> bool {
        for _ in 0..2 {
            if self.socket.is_none() {
                self.socket = connect(&self.path).ok();
            }
            let Some(socket) = &self.socket else {
                return false;
            };
            match socket.send(line) {
                Ok(_) => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => self.socket = None,
            }
        }
        false
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("log file {}: {error}", path.display()),
        )
    })
}

/// Syslog's severities, which the journal has as well.
fn severity(entry: &Entry) -> u8 {
    match entry.level {
        _ if entry.fatal => 2,
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn stderr_is_ready(ms: u16) -> bool {
    let stderr = io::stderr();
    let mut wanted = [PollFd::new(
        std::os::fd::AsFd::as_fd(&stderr),
        PollFlags::POLLOUT,
    )];
    let found = poll(&mut wanted, PollTimeout::from(ms));
    // What fails, fails when it is written to.
    !matches!(found, Ok(0))
}

fn own_stderr() -> io::Result<std::fs::Metadata> {
    std::fs::metadata("/proc/self/fd/2")
}

/// Whether standard error is what systemd says that the journal reads (`JOURNAL_STREAM`: device and inode).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    own_stderr().is_ok_and(|own| stream == format!("{}:{}", own.dev(), own.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn entry(level: Level, text: &str) -> Entry {
        Entry {
            at: SystemTime::UNIX_EPOCH,
            level,
            fatal: false,
            text: text.to_owned(),
            fields: Vec::new(),
        }
    }

    fn place(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("aether-log-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn sinks(file: Option<PathBuf>, syslog: Option<&Path>) -> (Sinks, Settings) {
        let settings = Settings {
            level: ::log::LevelFilter::Info,
            format: Format::Text,
            stderr: false,
            file,
            syslog: None,
            repeat_limit: 0,
        };
        let mut sinks = Sinks::open(&settings).expect("it opens");
        sinks.syslog = syslog.map(|path| {
            let wire = Wire {
                path: path.to_owned(),
                socket: None,
            };
            let syslog = Syslog {
                ident: "pooler".to_owned(),
                facility: Facility(16),
            };
            (syslog, wire)
        });
        (sinks, settings)
    }

    #[test]
    fn a_pipe_is_given_whole_lines_in_pieces_that_it_takes() {
        let mut lines = Lines::default();
        for n in 0..10 {
            lines.add(format!("{n}{}\n", "x".repeat(1_500)).as_bytes());
        }
        let mut pieces = Vec::new();
        let mut take = |piece: &[u8]| {
            pieces.push(piece.to_vec());
            pieces.len() != 2
        };
        assert_eq!(
            lines.in_pieces(true, &mut take),
            2,
            "the second was not taken"
        );
        assert!(
            pieces
                .iter()
                .all(|piece| piece.len() <= PIECE_MAX && piece.ends_with(b"\n"))
        );
        assert_eq!(pieces.concat(), lines.bytes);
        let mut whole = 0;
        lines.in_pieces(false, |_| {
            whole += 1;
            true
        });
        assert_eq!(whole, 1);
        Lines::default().in_pieces(true, |_| panic!("there is nothing"));
    }

    #[test]
    fn a_file_is_appended_to_and_opened_anew() {
        let path = place("file");
        let (mut sinks, settings) = sinks(Some(path.clone()), None);
        sinks.write(Format::Text, &entry(Level::Info, "one"));
        assert_eq!(sinks.flush(), 0);
        let old = place("file.1");
        std::fs::rename(&path, &old).expect("rotated");
        sinks.write(Format::Text, &entry(Level::Info, "two"));
        sinks.flush();
        sinks.reopen(&settings).expect("it opens");
        sinks.write(Format::Text, &entry(Level::Info, "three"));
        sinks.flush();
        let read = |path: &PathBuf| std::fs::read_to_string(path).expect("a file");
        assert!(read(&old).contains("one") && read(&old).contains("two"));
        assert!(read(&path).contains("three") && !read(&path).contains("two"));
        let _ = (std::fs::remove_file(&old), std::fs::remove_file(&path));
    }

    #[test]
    fn a_file_that_cannot_be_opened_leaves_the_old_one_in_place() {
        let path = place("kept");
        let (mut sinks, settings) = sinks(Some(path.clone()), None);
        let nowhere = Settings {
            file: Some("/nowhere/at/all.log".into()),
            ..settings
        };
        let error = sinks.reopen(&nowhere).expect_err("there is no such place");
        assert!(error.to_string().contains("/nowhere/at/all.log"), "{error}");
        sinks.write(Format::Text, &entry(Level::Info, "goes on"));
        sinks.flush();
        assert!(
            std::fs::read_to_string(&path)
                .expect("a file")
                .contains("goes on")
        );
        let _ = std::fs::remove_file(&path);
    }

    #[test]
    fn syslog_is_told_who_speaks_and_how_grave_it_is() {
        let path = place("syslog");
        let log = UnixDatagram::bind(&path).expect("a socket");
        let (mut sinks, _) = sinks(None, Some(&path));
        assert_eq!(sinks.write(Format::Text, &entry(Level::Warn, "beware")), 0);
        assert_eq!(
            sinks.write(Format::Text, &entry(Level::Debug, "chatter")),
            0
        );
        let mut buffer = [0; 200];
        let count = log.recv(&mut buffer).expect("a line");
        let said = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let pid = std::process::id();
        assert!(said.starts_with("<132>Jan  1 "), "{said}");
        assert!(said.ends_with(&format!(" pooler[{pid}]: beware")), "{said}");
        log.set_nonblocking(true).expect("it can be");
        assert!(log.recv(&mut buffer).is_err(), "debug is not for syslog");

        // Nobody reads: what does not fit is lost, at once.
        let lost: u64 = (0..2_000)
            .map(|_| sinks.write(Format::Text, &entry(Level::Info, "flood")))
            .sum();
        assert!(lost > 0);
        // The other side is started anew.
        drop(log);
        std::fs::remove_file(&path).expect("it was there");
        assert_eq!(sinks.write(Format::Text, &entry(Level::Info, "lost")), 1);
        let log = UnixDatagram::bind(&path).expect("a socket");
        assert_eq!(sinks.write(Format::Text, &entry(Level::Info, "back")), 0);
        let count = log.recv(&mut buffer).expect("a line");
        assert!(String::from_utf8_lossy(&buffer[..count]).ends_with("back"));
        let _ = std::fs::remove_file(&path);
    }

    #[test]
    fn facilities_have_the_names_that_pgbouncer_knows() {
        for (name, facility) in Facility::all() {
            assert_eq!(facility.as_str(), name);
        }
        assert_eq!(Facility::DAEMON.as_str(), "daemon");
    }
}
