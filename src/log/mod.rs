//! The log: what is said goes into a queue with a maximum, and one thread writes it to where it belongs.
//!
//! Whoever logs never waits: lines that find the queue full are dropped and counted, and so are those that a sink does not
//! take; the next line that gets through says how many. [`format`] makes lines, [`sink`] writes them, [`repeats`] keeps one
//! reason from filling the disk.

mod format;
mod repeats;
mod sink;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use ::log::kv::{Error, Key, Value, VisitSource};
use ::log::{Level, LevelFilter, Log, Metadata, Record};

pub use format::Format;
pub use sink::{Facility, Syslog};

use crate::limits;
use repeats::Repeats;
use sink::Sinks;

/// What an operator decides about the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Lines less severe than this are not written.
    pub level: LevelFilter,
    /// What a line looks like.
    pub format: Format,
    /// Whether it goes to standard error.
    pub stderr: bool,
    /// A file that lines are appended to.
    pub file: Option<PathBuf>,
    /// The machine's syslog.
    pub syslog: Option<Syslog>,
    /// Lines of one reason that are written in a second; 0: all.
    pub repeat_limit: u64,
}

impl Settings {
    /// Those who log are to know what is wanted.
    fn tell(&self) {
        ::log::set_max_level(self.level);
        let has_fields = matches!(self.format, Format::Json | Format::Logfmt);
        FIELDS.store(has_fields, Ordering::Relaxed);
    }
}

/// A line on its way.
struct Entry {
    at: SystemTime,
    level: Level,
    /// The process ends with it.
    fatal: bool,
    text: String,
    fields: Vec<(String, String)>,
    /// What lines that say the same have in common.
    reason: u64,
}

/// What goes to the thread.
enum Order {
    Entry(Box<Entry>),
    /// There are new settings.
    Apply,
    /// Everything before this has been written; stop.
    End,
}

/// The end of the queue where lines go in.
struct Front {
    to: SyncSender<Order>,
    /// Settings that the thread has not seen yet.
    next: Mutex<Option<Settings>>,
}

static FRONT: OnceLock<Front> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);
static REPEATED: AtomicU64 = AtomicU64::new(0);
/// Somebody reads the fields of lines.
static FIELDS: AtomicBool = AtomicBool::new(true);

/// Lines that were not written since the start of the process, because their way out was full.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Lines that were not written since the start of the process, because their reason had had its share of the second
/// ([`Settings::repeat_limit`]); how many there were is told in a line of its own.
pub fn repeated() -> u64 {
    REPEATED.load(Ordering::Relaxed)
}

/// Target of lines with which the process ends.
pub const FATAL: &str = "fatal";

/// Starts logging. To be called once.
///
/// # Errors
///
/// What the operating system says when the thread cannot be started or the file not be opened.
pub fn start(settings: &Settings) -> io::Result<Flush> {
    let sinks = Sinks::open(settings)?;
    let (to, orders) = mpsc::sync_channel(limits::LOG_QUEUE_MAX);
    let (done, is_done) = mpsc::channel();
    let settings = settings.clone();
    settings.tell();
    let front = FRONT.get_or_init(|| Front {
        to: to.clone(),
        next: Mutex::new(None),
    });
    let mut writer = Writer {
        repeats: Repeats::new(settings.repeat_limit),
        settings,
        sinks,
        told: 0,
    };
    thread::Builder::new()
        .name("log".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || {
            writer.run(&orders);
            drop(done);
        })?;
    let _ = ::log::set_logger(front);
    Ok(Flush { to, is_done })
}

/// Takes other settings over; the file is opened anew in any case. What is wrong with them is logged.
pub fn apply(settings: &Settings) {
    settings.tell();
    if let Some(front) = FRONT.get() {
        *front.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings.clone());
        let _ = front.to.try_send(Order::Apply); // when it is full the thread looks anyhow
    }
}

/// From now on, lines less severe than this are not written.
pub fn set_level(level: LevelFilter) {
    ::log::set_max_level(level);
}

/// Waits at the end of the process until what was logged is written.
pub struct Flush {
    to: SyncSender<Order>,
    is_done: Receiver<()>,
}

impl Flush {
    /// Waits, but not for a reader that does not read.
    pub fn wait(self) {
        if self.to.try_send(Order::End).is_ok() {
            let _ = self.is_done.recv_timeout(Duration::from_secs(1));
        }
    }
}

impl Log for Front {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= ::log::max_level() && !metadata.target().starts_with("mio")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let order = Order::Entry(Box::new(Entry::new(record)));
        if self.to.try_send(order).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

impl Entry {
    fn new(record: &Record<'_>) -> Entry {
        let mut fields = Fields {
            found: Vec::new(),
            all: FIELDS.load(Ordering::Relaxed),
        };
        let _ = record.key_values().visit(&mut fields);
        let fields = fields.found;
        let reason = fields.iter().find(|(key, _)| key == REASON);
        Entry {
            at: SystemTime::now(),
            level: record.level(),
            fatal: record.target() == FATAL,
            text: record.args().to_string(),
            reason: repeats::reason(record.file(), record.line(), reason.map(|(_, text)| text)),
            fields,
        }
    }
}

/// The field of lines that say the same for different reasons.
const REASON: &str = "reason";

/// Fields of a line.
struct Fields {
    found: Vec<(String, String)>,
    /// Not the reason alone.
    all: bool,
}

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        if self.all || key.as_str() == REASON {
            self.found.push((key.to_string(), value.to_string()));
        }
        Ok(())
    }
}

/// How long a line may wait for others, to be written together: waking a thread for every line costs more than the line.
const GATHER: Duration = Duration::from_millis(2);

/// The thread that writes.
struct Writer {
    settings: Settings,
    sinks: Sinks,
    repeats: Repeats,
    /// Dropped lines that were told of.
    told: u64,
}

impl Writer {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            let first = match orders.recv_timeout(self.repeats.patience()) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if matches!(first, Some(Order::Entry(_))) {
                thread::sleep(GATHER);
            }
            self.look_at_settings();
            let ends = self.gather(first, orders);
            self.repeated((!ends).then(SystemTime::now));
            self.flush();
            if ends {
                return;
            }
        }
    }

    /// Takes all lines that are there. Whether the last one has come.
    fn gather(&mut self, first: Option<Order>, orders: &Receiver<Order>) -> bool {
        for order in first.into_iter().chain(orders.try_iter()) {
            match order {
                Order::Entry(entry) => self.take(*entry),
                Order::Apply => {}
                Order::End => return true,
            }
            if self.sinks.held() >= limits::LOG_WRITE_MAX {
                break;
            }
        }
        false
    }

    fn flush(&mut self) {
        let lost = self.sinks.flush();
        DROPPED.fetch_add(lost, Ordering::Relaxed);
    }

    fn look_at_settings(&mut self) {
        let next = FRONT.get().and_then(|front| {
            let mut next = front.next.lock().unwrap_or_else(PoisonError::into_inner);
            next.take()
        });
        let Some(settings) = next else {
            return;
        };
        self.repeats.limit(settings.repeat_limit);
        self.flush();
        if let Err(error) = self.sinks.reopen(&settings) {
            let text = format!("the log stays where it is: {error}");
            self.say(Level::Error, text);
        }
        self.settings = settings;
    }

    fn take(&mut self, entry: Entry) {
        if self.repeats.pass(&entry) {
            self.tell_of_dropped();
            self.write(&entry);
        } else {
            REPEATED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells how often reasons were met that have had their share. `now`: of those whose time is over; `None`: of all.
    fn repeated(&mut self, now: Option<SystemTime>) {
        for entry in self.repeats.over(now) {
            self.write(&entry);
        }
    }

    fn tell_of_dropped(&mut self) {
        let new = dropped().saturating_sub(self.told);
        if new > 0 && self.sinks.take_something() {
            self.told += new;
            let what = "standard error, the file or syslog does not take them fast enough";
            self.say(Level::Warn, format!("{new} log lines were dropped: {what}"));
        }
    }

    fn say(&mut self, level: Level, text: String) {
        self.write(&Entry {
            at: SystemTime::now(),
            level,
            fatal: false,
            text,
            fields: Vec::new(),
            reason: 0,
        });
    }

    fn write(&mut self, entry: &Entry) {
        let lost = self.sinks.write(self.settings.format, entry);
        DROPPED.fetch_add(lost, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catalogue fault R3: a log sink that is not read must not hold up the loop.
    #[test]
    fn a_sink_that_is_not_read_costs_lines_and_not_time() {
        let (to, orders) = mpsc::sync_channel(2);
        let front = Front {
            to,
            next: Mutex::new(None),
        };
        ::log::set_max_level(LevelFilter::Info);
        let say = |n: u32| {
            let mut record = Record::builder();
            front.log(
                &record
                    .level(Level::Error)
                    .args(format_args!("line {n}"))
                    .build(),
            );
        };
        let before = dropped();
        (0..10).for_each(say);
        assert_eq!(dropped() - before, 8);
        let path = std::env::temp_dir().join(format!("aether-log-{}-full", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let settings = Settings {
            level: LevelFilter::Info,
            format: Format::Text,
            stderr: false,
            file: Some(path.clone()),
            syslog: None,
            repeat_limit: 0,
        };
        let mut writer = Writer {
            repeats: Repeats::new(0),
            sinks: Sinks::open(&settings).expect("it opens"),
            settings,
            told: before,
        };
        drop(front);
        writer.run(&orders);
        let text = std::fs::read_to_string(&path).expect("a file");
        let _ = std::fs::remove_file(&path);
        let lines: Vec<&str> = text
            .lines()
            .map(|line| line.get(25..).unwrap_or_default())
            .collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[0].starts_with("[WARN] 8 log lines were dropped"),
            "{text}"
        );
        assert_eq!(lines[1..], ["[ERROR] line 0", "[ERROR] line 1"]);
    }
}
