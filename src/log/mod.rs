//! The log: what is said goes into a queue with a maximum, and one thread writes it to where it belongs.
//!
//! Whoever logs never waits: lines that find the queue full are dropped and counted, and so are those that a sink does not
//! take; the next line that gets through says how many. [`format`] makes lines, [`sink`] writes them, [`repeats`] keeps one
//! reason from filling the disk, before a line is made. Lines wait a moment to be written together ([`PACE`]).

mod format;
mod repeats;
mod sink;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use ::log::kv::{Error, Key, Value, VisitSource};
use ::log::{Level, LevelFilter, Log, Metadata, Record};

pub use format::Format;
pub use sink::{Facility, Syslog};

use crate::limits;
use repeats::{Reason, Repeats};
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
}

/// What goes to the thread.
enum Order {
    Entry(Box<Entry>),
    /// Settings for what comes behind.
    Apply(Box<Settings>),
    /// Everything before this has been written; stop.
    End,
}

/// The end of the queue where lines go in.
#[derive(Clone)]
struct Front {
    to: Sender<Order>,
    shared: Arc<Shared>,
    writer: Thread,
}

/// What those who log share with the thread that writes.
struct Shared {
    /// Lines in the queue.
    waiting: AtomicUsize,
    /// They are not to wait for others.
    urgent: AtomicBool,
    repeats: Mutex<Repeats>,
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
    let (to, orders) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    let settings = settings.clone();
    settings.tell();
    let shared = Arc::new(Shared::new(settings.repeat_limit));
    let mut writer = Writer {
        shared: shared.clone(),
        settings,
        sinks,
        pace: PACE,
        flushed: None,
        told: 0,
    };
    let thread = thread::Builder::new()
        .name("log".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || {
            writer.run(&orders);
            drop(done);
        })?;
    let writer = thread.thread().clone();
    let front = Front { to, shared, writer };
    let _ = ::log::set_logger(FRONT.get_or_init(|| front.clone()));
    Ok(Flush { front, is_done })
}

/// Takes other settings over; the file is opened anew in any case. What is wrong with them is logged.
pub fn apply(settings: &Settings) {
    settings.tell();
    if let Some(front) = FRONT.get() {
        front.order(Order::Apply(Box::new(settings.clone())));
    }
}

/// From now on, lines less severe than this are not written.
pub fn set_level(level: LevelFilter) {
    ::log::set_max_level(level);
}

/// When it is dropped it waits until what was logged is written, but not for a reader that does not read. To be kept until the
/// process ends, be it by a panic.
pub struct Flush {
    front: Front,
    is_done: Receiver<()>,
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.front.order(Order::End);
        let _ = self.is_done.recv_timeout(Duration::from_secs(1));
    }
}

impl Shared {
    fn new(repeat_limit: u64) -> Shared {
        Shared {
            waiting: AtomicUsize::new(0),
            urgent: AtomicBool::new(false),
            repeats: Mutex::new(Repeats::new(repeat_limit)),
        }
    }

    fn repeats(&self) -> MutexGuard<'_, Repeats> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, if nobody else looks at it.
    fn try_repeats(&self) -> Option<MutexGuard<'_, Repeats>> {
        match self.repeats.try_lock() {
            Ok(repeats) => Some(repeats),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Front {
    /// Something that does not wait for others.
    fn order(&self, order: Order) {
        let _ = self.to.send(order); // the thread is gone at the end only
        self.hurry();
    }

    fn hurry(&self) {
        self.shared.urgent.store(true, Ordering::Release);
        self.writer.unpark();
    }

    fn send(&self, entry: Entry) {
        let is_urgent = entry.level <= Level::Warn || entry.fatal;
        let before = self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        let order = Order::Entry(Box::new(entry));
        if before >= limits::LOG_QUEUE_MAX || self.to.send(order).is_err() {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if is_urgent || before == CROWD {
            self.hurry();
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
        let (at, reason) = (SystemTime::now(), Reason::of(record));
        // The thread holds them for a moment once in a while, and is not waited for.
        if record.target() != FATAL
            && let Some(mut repeats) = self.shared.try_repeats()
            && !repeats.pass(reason, at, || Entry::new(record, at))
        {
            REPEATED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.send(Entry::new(record, at));
    }

    fn flush(&self) {}
}

impl Entry {
    fn new(record: &Record<'_>, at: SystemTime) -> Entry {
        let mut fields = Fields(Vec::new());
        if FIELDS.load(Ordering::Relaxed) {
            let _ = record.key_values().visit(&mut fields);
        }
        Entry {
            at,
            level: record.level(),
            fatal: record.target() == FATAL,
            text: record.args().to_string(),
            fields: fields.0,
        }
    }
}

/// Fields of a line.
struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        self.0.push((key.to_string(), value.to_string()));
        Ok(())
    }
}

/// How lines are written together: waking a thread for every line costs more than the line.
struct Pace {
    /// How long a line may wait for others, if none of them is urgent.
    gather: Duration,
    /// What is urgent is written at once, but not more often than this.
    urgent: Duration,
}

const PACE: Pace = Pace {
    gather: Duration::from_millis(50),
    urgent: Duration::from_millis(2),
};
/// So many lines wait no longer.
const CROWD: usize = 256;

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    settings: Settings,
    sinks: Sinks,
    pace: Pace,
    /// When something was written last.
    flushed: Option<Instant>,
    /// Dropped lines that were told of.
    told: u64,
}

impl Writer {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            let patience = self.shared.repeats().patience(SystemTime::now());
            let first = match orders.recv_timeout(patience) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if matches!(first, Some(Order::Entry(_))) {
                self.wait_for_others();
            }
            let ends = self.gather(first, orders);
            self.tell_of_repeated(ends);
            self.flush();
            if ends {
                return;
            }
        }
    }

    /// Waits for other lines: for a moment only if something is urgent.
    fn wait_for_others(&self) {
        let begin = Instant::now();
        while !self.shared.urgent.swap(false, Ordering::Acquire) {
            let Some(left) = self.pace.gather.checked_sub(begin.elapsed()) else {
                return;
            };
            thread::park_timeout(left);
        }
        let age = self.flushed.map(|flushed| flushed.elapsed());
        if let Some(left) = age.and_then(|age| self.pace.urgent.checked_sub(age)) {
            thread::sleep(left);
        }
    }

    /// Takes all lines that are there, or as many as are written together. Whether the last one has come.
    fn gather(&mut self, first: Option<Order>, orders: &Receiver<Order>) -> bool {
        for order in first.into_iter().chain(orders.try_iter()) {
            match order {
                Order::Entry(entry) => {
                    self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
                    self.tell_of_dropped();
                    self.write(&entry);
                }
                Order::Apply(settings) => self.apply(*settings),
                Order::End => return true,
            }
            if self.sinks.held() >= limits::LOG_WRITE_MAX {
                self.shared.urgent.store(true, Ordering::Relaxed); // the others have waited
                break;
            }
        }
        false
    }

    fn flush(&mut self) {
        self.flushed = Some(Instant::now());
        let lost = self.sinks.flush();
        DROPPED.fetch_add(lost, Ordering::Relaxed);
    }

    fn apply(&mut self, settings: Settings) {
        self.shared.repeats().limit(settings.repeat_limit);
        self.flush();
        if let Err(error) = self.sinks.reopen(&settings) {
            let text = format!("the log stays where it is: {error}");
            self.say(Level::Error, text);
        }
        self.settings = settings;
    }

    /// Tells how often reasons were met that have had their share: those whose time is over, at the end all.
    fn tell_of_repeated(&mut self, ends: bool) {
        let mut repeats = self.shared.repeats();
        let now = SystemTime::now(); // nobody has begun a share after this
        let over = repeats.over((!ends).then_some(now));
        drop(repeats);
        for held in over {
            self.write(&held.told(now));
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

    fn say(front: &Front, level: Level, text: &str) {
        let mut record = Record::builder();
        front.log(&record.level(level).args(format_args!("{text}")).build());
    }

    /// One that writes to a file of this name.
    fn writer(name: &str, shared: Arc<Shared>, told: u64) -> (Writer, PathBuf) {
        let name = format!("aether-log-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let settings = Settings {
            level: LevelFilter::Info,
            format: Format::Text,
            stderr: false,
            file: Some(path.clone()),
            syslog: None,
            repeat_limit: 0,
        };
        let writer = Writer {
            shared,
            sinks: Sinks::open(&settings).expect("it opens"),
            settings,
            pace: PACE,
            flushed: None,
            told,
        };
        (writer, path)
    }

    const LONG: Duration = Duration::from_secs(3_600);

    /// A thread that writes, the way to it, and what it has written.
    struct Running {
        flush: Flush,
        path: PathBuf,
    }

    impl Running {
        fn start(name: &str, pace: Pace, repeat_limit: u64) -> Running {
            let (to, orders) = mpsc::channel();
            let (done, is_done) = mpsc::channel();
            let shared = Arc::new(Shared::new(repeat_limit));
            let (mut writer, path) = writer(name, shared.clone(), dropped());
            writer.pace = pace;
            let thread = thread::spawn(move || {
                writer.run(&orders);
                drop(done);
            });
            ::log::set_max_level(LevelFilter::Info);
            let writer = thread.thread().clone();
            let front = Front { to, shared, writer };
            let flush = Flush { front, is_done };
            Running { flush, path }
        }

        fn say(&self, level: Level, text: &str) {
            say(&self.flush.front, level, text);
        }

        fn has(&self, text: &str) -> bool {
            let written = std::fs::read_to_string(&self.path);
            written.unwrap_or_default().contains(text)
        }

        fn comes(&self, text: &str) {
            let begin = Instant::now();
            while !self.has(text) {
                assert!(begin.elapsed() < Duration::from_secs(30), "{text}");
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn an_error_a_crowd_and_the_end_do_not_wait_for_others() {
        let pace = Pace {
            gather: LONG,
            urgent: Duration::ZERO,
        };
        let running = Running::start("urgent", pace, 0);
        running.say(Level::Info, "first");
        thread::sleep(Duration::from_millis(100));
        assert!(!running.has("first"), "it waits for others");
        running.say(Level::Error, "second");
        running.comes("first");
        running.comes("second");
        (0..=CROWD).for_each(|n| running.say(Level::Info, &format!("number {n}.")));
        running.comes(&format!("number {}.", CROWD - 1));
        running.say(Level::Info, "last");
        let path = running.path.clone();
        // A panic that ends the process waits, too.
        let ended = thread::spawn(move || {
            let _running = running;
            panic!("the process ends");
        });
        assert!(ended.join().is_err());
        let text = std::fs::read_to_string(&path).expect("a file");
        assert!(text.contains("last"), "{text}");
        let _ = std::fs::remove_file(&path);
    }

    /// A storm of errors must not cost a write each.
    #[test]
    fn what_is_urgent_is_written_at_its_pace() {
        let pace = Pace {
            gather: LONG,
            urgent: Duration::from_secs(3),
        };
        let running = Running::start("pace", pace, 0);
        running.say(Level::Error, "first");
        running.comes("first");
        running.say(Level::Error, "second");
        thread::sleep(Duration::from_millis(100));
        assert!(!running.has("second"), "it was written by itself");
        running.say(Level::Error, "third");
        running.comes("third");
        assert!(running.has("second"));
        let _ = std::fs::remove_file(&running.path);
    }

    #[test]
    fn what_was_only_counted_is_told_and_settings_hold_for_what_comes_behind() {
        let running = Running::start("counted", PACE, 1);
        (0..3).for_each(|n| running.say(Level::Info, &format!("line {n}")));
        running.comes("repeated 2 times: line 1");
        assert!(!running.has("[INFO] line 1"));
        running.say(Level::Info, "before");
        let other = running.path.with_extension("other");
        let settings = Settings {
            level: LevelFilter::Info,
            format: Format::Logfmt,
            stderr: false,
            file: Some(other.clone()),
            syslog: None,
            repeat_limit: 0,
        };
        running.flush.front.order(Order::Apply(Box::new(settings)));
        running.say(Level::Error, "behind");
        let path = running.path.clone();
        drop(running);
        let text = |path: &PathBuf| std::fs::read_to_string(path).expect("a file");
        assert!(text(&path).ends_with("[INFO] before\n"), "{}", text(&path));
        assert!(text(&other).contains("level=error"), "{}", text(&other));
        assert!(text(&other).contains("behind") && !text(&other).contains("before"));
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(&other));
    }

    /// A thread that is gone costs lines that are counted.
    #[test]
    fn nobody_writes_any_more() {
        let (to, orders) = mpsc::channel();
        drop(orders);
        let shared = Arc::new(Shared::new(0));
        let front = Front {
            to,
            shared: shared.clone(),
            writer: thread::current(),
        };
        ::log::set_max_level(LevelFilter::Info);
        say(&front, Level::Info, "into the void");
        assert_eq!(shared.waiting.load(Ordering::Relaxed), 0);
    }

    /// Catalogue fault R3: a log sink that is not read must not hold up the loop.
    #[test]
    fn a_sink_that_is_not_read_costs_lines_and_not_time() {
        let (to, orders) = mpsc::channel();
        let shared = Arc::new(Shared::new(0));
        let front = Front {
            to,
            shared: shared.clone(),
            writer: thread::current(),
        };
        ::log::set_max_level(LevelFilter::Info);
        let say = |n: usize| say(&front, Level::Error, &format!("line {n}"));
        let before = dropped();
        (0..limits::LOG_QUEUE_MAX + 8).for_each(say);
        assert_eq!(dropped() - before, 8);
        let (mut writer, path) = writer("full", shared, before);
        drop(front);
        writer.run(&orders);
        let text = std::fs::read_to_string(&path).expect("a file");
        let _ = std::fs::remove_file(&path);
        let lines: Vec<&str> = text
            .lines()
            .map(|line| line.get(25..).unwrap_or_default())
            .collect();
        assert_eq!(lines.len(), limits::LOG_QUEUE_MAX + 1);
        assert!(lines[0].starts_with("[WARN] 8 log lines were dropped"));
        assert_eq!(lines[1..3], ["[ERROR] line 0", "[ERROR] line 1"]);
    }
}
