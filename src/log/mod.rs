//! The log: what is said goes into a queue with a maximum, and one thread writes it to where it belongs.
//!
//! Whoever logs never waits: lines that find the queue full are dropped and counted, and so are those that a sink does not
//! take; the next line that gets through says how many. [`format`] makes lines, [`sink`] writes them, [`repeats`] keeps one
//! reason from filling the disk, before a line is made. Lines wait a moment for others ([`GATHER`]), errors and warnings do not.

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
    /// There are new settings.
    Apply,
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
    let (to, orders) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    let settings = settings.clone();
    settings.tell();
    let shared = Arc::new(Shared::new(settings.repeat_limit));
    let mut writer = Writer {
        shared: shared.clone(),
        settings,
        sinks,
        patience: GATHER,
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
        *lock(&front.shared.next) = Some(settings.clone());
        front.order(Order::Apply);
    }
}

/// From now on, lines less severe than this are not written.
pub fn set_level(level: LevelFilter) {
    ::log::set_max_level(level);
}

/// Waits at the end of the process until what was logged is written.
pub struct Flush {
    front: Front,
    is_done: Receiver<()>,
}

impl Flush {
    /// Waits, but not for a reader that does not read.
    pub fn wait(self) {}
}

impl Drop for Flush {
    /// A panic that ends the process waits, too.
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
            next: Mutex::new(None),
        }
    }

    /// What was said lately, if nobody else looks at it.
    fn try_repeats(&self) -> Option<MutexGuard<'_, Repeats>> {
        match self.repeats.try_lock() {
            Ok(repeats) => Some(repeats),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        if before >= limits::LOG_QUEUE_MAX {
            self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let _ = self.to.send(Order::Entry(Box::new(entry)));
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
        let at = SystemTime::now();
        // The thread holds them for a moment once in a while, and is not waited for.
        if record.target() != FATAL
            && let Some(mut repeats) = self.shared.try_repeats()
        {
            let reason = Reason::of(record);
            if !repeats.pass(reason, at, || Entry::new(record, at)) {
                REPEATED.fetch_add(1, Ordering::Relaxed);
                return;
            }
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

/// How long a line may wait for others, to be written together: waking a thread for every line costs more than the line.
const GATHER: Duration = Duration::from_millis(50);
/// So many lines wait no longer.
const CROWD: usize = 256;

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    settings: Settings,
    sinks: Sinks,
    /// How long lines wait for others.
    patience: Duration,
    /// Dropped lines that were told of.
    told: u64,
}

impl Writer {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            let patience = lock(&self.shared.repeats).patience();
            let first = match orders.recv_timeout(patience) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if matches!(first, Some(Order::Entry(_))) {
                self.wait_for_others();
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

    /// Waits for other lines, unless something is urgent.
    fn wait_for_others(&self) {
        let begin = Instant::now();
        while !self.shared.urgent.swap(false, Ordering::Acquire) {
            let Some(left) = self.patience.checked_sub(begin.elapsed()) else {
                return;
            };
            thread::park_timeout(left);
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
                Order::Apply => {}
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
        let lost = self.sinks.flush();
        DROPPED.fetch_add(lost, Ordering::Relaxed);
    }

    fn look_at_settings(&mut self) {
        let next = lock(&self.shared.next).take();
        let Some(settings) = next else {
            return;
        };
        lock(&self.shared.repeats).limit(settings.repeat_limit);
        self.flush();
        if let Err(error) = self.sinks.reopen(&settings) {
            let text = format!("the log stays where it is: {error}");
            self.say(Level::Error, text);
        }
        self.settings = settings;
    }

    /// Tells how often reasons were met that have had their share. `now`: of those whose time is over; `None`: of all.
    fn repeated(&mut self, now: Option<SystemTime>) {
        let over = lock(&self.shared.repeats).over(now);
        for entry in over {
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
            patience: GATHER,
            told,
        };
        (writer, path)
    }

    #[test]
    fn an_error_and_the_end_do_not_wait_for_others() {
        let (to, orders) = mpsc::channel();
        let shared = Arc::new(Shared::new(0));
        let (mut writer, path) = writer("urgent", shared.clone(), dropped());
        writer.patience = Duration::from_secs(3_600);
        let thread = thread::spawn(move || writer.run(&orders));
        let front = Front {
            to,
            shared,
            writer: thread.thread().clone(),
        };
        ::log::set_max_level(LevelFilter::Info);
        let has = |texts: &[&str]| {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            texts.iter().all(|wanted| text.contains(wanted))
        };
        let come = |texts: &[&str]| {
            let begin = Instant::now();
            while !has(texts) {
                assert!(begin.elapsed() < Duration::from_secs(30), "{texts:?}");
                thread::sleep(Duration::from_millis(5));
            }
        };
        say(&front, Level::Info, "first");
        thread::sleep(Duration::from_millis(100));
        assert!(!has(&["first"]), "it waits for others");
        say(&front, Level::Error, "second");
        come(&["first", "second"]);
        (0..=CROWD).for_each(|n| say(&front, Level::Info, &format!("number {n}")));
        come(&["number 0", &format!("number {}", CROWD - 1)]);
        say(&front, Level::Info, "last");
        front.order(Order::End);
        come(&["last"]);
        thread.join().expect("it ends");
        let _ = std::fs::remove_file(&path);
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
