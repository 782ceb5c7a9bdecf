//! What a line looks like. Writes nothing.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::SystemTime;

use ::log::Level;
use tz::{TimeZone, UtcDateTime};

use super::Entry;
use crate::limits;

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `2026-11-29T08:00:00.000Z [INFO] text`
    Text,
    /// One JSON object a line.
    Json,
    /// `time=… level=info msg="…"`
    Logfmt,
    /// PgBouncer's: `2026-11-29 08:00:00.000 UTC [4711] LOG text`, and its texts.
    PgBouncer,
}

impl Format {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Json => "json",
            Format::Logfmt => "logfmt",
            Format::PgBouncer => "pgbouncer",
        }
    }
}

/// What lines need to know of the process.
pub(super) struct Surroundings {
    zone: TimeZone,
    pub(super) pid: u32,
    second: RefCell<Second>,
}

/// Date and time of a second: most lines come in the same one as the line before.
#[derive(Default)]
struct Second {
    at: i64,
    date: String,
    time: String,
}

impl Surroundings {
    pub(super) fn look() -> Surroundings {
        let zone = match std::env::var("TZ") {
            Ok(name) => TimeZone::from_posix_tz(&name).ok(),
            Err(_) => TimeZone::local().ok(),
        };
        Surroundings {
            zone: zone.unwrap_or_else(TimeZone::utc),
            pid: std::process::id(),
            second: RefCell::default(),
        }
    }

    /// RFC 3339 with milliseconds, in UTC: every line begins at the same width.
    fn rfc3339(&self, at: SystemTime) -> String {
        let (seconds, millis) = unix(at);
        let mut second = self.second.borrow_mut();
        second.become_that_of(seconds);
        format!("{}T{}.{millis:03}Z", second.date, second.time)
    }

    /// Date and time here, and what this time is called.
    fn local(&self, at: SystemTime) -> (String, String, String) {
        let (seconds, millis) = unix(at);
        let found = self.zone.find_local_time_type(seconds);
        let (offset, name) = match &found {
            Ok(local) => (i64::from(local.ut_offset()), local.time_zone_designation()),
            Err(_) => (0, "UTC"),
        };
        let mut second = self.second.borrow_mut();
        second.become_that_of(seconds + offset);
        let time = format!("{}.{millis:03}", second.time);
        (second.date.clone(), time, name.to_owned())
    }

    /// As syslog wants it: `Nov 29 08:00:00`.
    pub(super) fn syslog_time(&self, at: SystemTime) -> String {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let (date, time, _) = self.local(at);
        let mut parts = date
            .split('-')
            .skip(1)
            .map(|part| part.parse().unwrap_or(1));
        let (month, day): (usize, usize) = (parts.next().unwrap_or(1), parts.next().unwrap_or(1));
        let month = MONTHS.get(month - 1).copied().unwrap_or("Jan");
        let time = time.split('.').next().unwrap_or_default();
        format!("{month} {day:2} {time}")
    }
}

fn unix(at: SystemTime) -> (i64, u32) {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
    (seconds, since.subsec_millis())
}

impl Second {
    fn become_that_of(&mut self, seconds: i64) {
        if self.at == seconds && !self.date.is_empty() {
            return;
        }
        let (date, time) = match UtcDateTime::from_timespec(seconds, 0) {
            Ok(at) => (
                format!("{:04}-{:02}-{:02}", at.year(), at.month(), at.month_day()),
                format!("{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second()),
            ),
            Err(_) => ("1970-01-01".to_owned(), "00:00:00".to_owned()),
        };
        *self = Second {
            at: seconds,
            date,
            time,
        };
    }
}

/// A line, its end included. `plain`: whoever reads it knows time and level already.
pub(super) fn line(format: Format, entry: &Entry, plain: bool, around: &Surroundings) -> Vec<u8> {
    let text = cut(&entry.text);
    let mut line = match format {
        Format::Text | Format::PgBouncer if plain => folded(text),
        Format::Text => {
            let time = around.rfc3339(entry.at);
            format!("{time} [{}] {}", entry.level, folded(text))
        }
        Format::PgBouncer => {
            let (date, time, zone) = around.local(entry.at);
            let level = pgbouncer_level(entry);
            format!(
                "{date} {time} {zone} [{}] {level} {}",
                around.pid,
                folded(text)
            )
        }
        Format::Json => json(entry, text, around),
        Format::Logfmt => logfmt(entry, text, around),
    };
    line.push('\n');
    line.into_bytes()
}

/// What goes to syslog, which adds time and level itself.
pub(super) fn bare(format: Format, entry: &Entry, around: &Surroundings) -> Vec<u8> {
    let mut line = line(format, entry, true, around);
    line.pop();
    line
}

fn pgbouncer_level(entry: &Entry) -> &'static str {
    match entry.level {
        _ if entry.fatal => "FATAL",
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "LOG",
        Level::Debug => "DEBUG",
        Level::Trace => "NOISE",
    }
}

fn level_word(entry: &Entry) -> &'static str {
    match entry.level {
        _ if entry.fatal => "fatal",
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// The start of a text that is too long.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(limits::LOG_TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

/// One line stays one: what comes behind a line end begins with a tab.
fn folded(text: &str) -> String {
    text.replace('\n', "\n\t")
}

fn json(entry: &Entry, text: &str, around: &Surroundings) -> String {
    let mut out = format!(
        "{{\"time\":\"{}\",\"level\":\"{}\",\"pid\":{},\"message\":",
        around.rfc3339(entry.at),
        level_word(entry),
        around.pid
    );
    json_text(&mut out, text);
    for (key, value) in &entry.fields {
        out.push(',');
        json_text(&mut out, key);
        out.push(':');
        json_text(&mut out, cut(value));
    }
    out.push('}');
    out
}

fn json_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c)); // a String takes everything
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn logfmt(entry: &Entry, text: &str, around: &Surroundings) -> String {
    let (time, level, pid) = (around.rfc3339(entry.at), level_word(entry), around.pid);
    let mut out = format!("time={time} level={level} pid={pid} msg=");
    logfmt_text(&mut out, text);
    for (key, value) in &entry.fields {
        out.push(' ');
        out.push_str(key);
        out.push('=');
        logfmt_text(&mut out, cut(value));
    }
    out
}

fn logfmt_text(out: &mut String, text: &str) {
    let is_word = |c: char| c.is_ascii_graphic() && !"\"=\\".contains(c);
    if !text.is_empty() && text.chars().all(is_word) {
        out.push_str(text);
    } else {
        json_text(out, text);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn entry(level: Level, text: &str) -> Entry {
        Entry {
            at: SystemTime::UNIX_EPOCH + Duration::from_nanos(86_400_036_464_240),
            level,
            fatal: false,
            text: text.to_owned(),
            fields: vec![
                ("user".to_owned(), "o\"neil".to_owned()),
                ("client".to_owned(), "7".to_owned()),
            ],
        }
    }

    fn shown(format: Format, entry: &Entry) -> String {
        let around = Surroundings {
            zone: TimeZone::from_posix_tz("CET-1").expect("a zone"),
            pid: 4711,
            second: RefCell::default(),
        };
        String::from_utf8(line(format, entry, false, &around)).expect("text")
    }

    #[test]
    fn each_format_is_what_its_readers_expect() {
        let entry = entry(Level::Info, "closing because: a=b");
        assert_eq!(
            shown(Format::Text, &entry),
            "1970-01-02T00:00:00.036Z [INFO] closing because: a=b\n"
        );
        assert_eq!(
            shown(Format::PgBouncer, &entry),
            "1970-01-02 01:00:00.036 CET [4711] LOG closing because: a=b\n"
        );
        assert_eq!(
            shown(Format::Json, &entry),
            "{\"time\":\"1970-01-02T00:00:00.036Z\",\"level\":\"info\",\"pid\":4711,\"message\":\"closing because: a=b\",\
             \"user\":\"o\\\"neil\",\"client\":\"7\"}\n"
        );
        assert_eq!(
            shown(Format::Logfmt, &entry),
            "time=1970-01-02T00:00:00.036Z level=info pid=4711 msg=\"closing because: a=b\" user=\"o\\\"neil\" client=7\n"
        );
    }

    #[test]
    fn each_line_has_the_time_of_its_own_second() {
        let around = Surroundings {
            zone: TimeZone::fixed(3_600).expect("an hour"),
            pid: 1,
            second: RefCell::default(),
        };
        let mut entry = entry(Level::Info, "text");
        let mut starts = |after: u64, format| {
            entry.at = SystemTime::UNIX_EPOCH + Duration::from_secs(after);
            let line = line(format, &entry, false, &around);
            String::from_utf8_lossy(&line)[..19].to_owned()
        };
        assert_eq!(starts(0, Format::Text), "1970-01-01T00:00:00");
        assert_eq!(starts(86_399, Format::Text), "1970-01-01T23:59:59");
        assert_eq!(starts(86_399, Format::PgBouncer), "1970-01-02 00:59:59");
        assert_eq!(starts(86_400, Format::Text), "1970-01-02T00:00:00");
    }

    #[test]
    fn levels_are_called_as_pgbouncer_calls_them() {
        let levels = [
            Level::Error,
            Level::Warn,
            Level::Info,
            Level::Debug,
            Level::Trace,
        ];
        let words = levels.map(|level| pgbouncer_level(&entry(level, "")));
        assert_eq!(words, ["ERROR", "WARNING", "LOG", "DEBUG", "NOISE"]);
        let fatal = Entry {
            fatal: true,
            ..entry(Level::Error, "")
        };
        assert_eq!(pgbouncer_level(&fatal), "FATAL");
    }

    #[test]
    fn a_line_stays_one_record_and_is_not_endless() {
        let two = entry(Level::Info, "first\nsecond");
        assert!(shown(Format::Text, &two).ends_with("first\n\tsecond\n"));
        assert!(shown(Format::Json, &two).contains("first\\nsecond"));
        let long = entry(Level::Info, &"ö".repeat(10_000));
        let shown = shown(Format::PgBouncer, &long);
        assert!(shown.len() <= limits::LOG_TEXT_MAX + 60, "{}", shown.len());
    }

    #[test]
    fn syslog_has_a_time_of_its_own() {
        let around = Surroundings {
            zone: TimeZone::utc(),
            pid: 1,
            second: RefCell::default(),
        };
        assert_eq!(
            around.syslog_time(entry(Level::Info, "").at),
            "Jan  2 00:00:00"
        );
        let bare = bare(Format::Text, &entry(Level::Info, "text"), &around);
        assert_eq!(bare, b"text");
    }
}
