//! Log lines that never hold up the loop: simplelog formats, a thread writes, and between them is a queue with a maximum.
//!
//! Lines that find the queue full are dropped and counted; the next one that gets through says how many.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use simplelog::{ConfigBuilder, FormatItem, LevelFilter, WriteLogger, format_description};

use crate::limits;

/// RFC 3339 with milliseconds, in UTC: every line begins at the same width.
const TIME: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Starts logging to standard error. To be called once.
///
/// # Errors
///
/// What the operating system says when the thread cannot be started.
pub fn start(level: LevelFilter) -> io::Result<Flush> {
    let (to, lines) = mpsc::sync_channel(limits::LOG_QUEUE_MAX);
    let (done, is_done) = mpsc::channel();
    thread::Builder::new()
        .name("log".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || {
            write_lines(&lines);
            drop(done);
        })?;
    let config = ConfigBuilder::new()
        .set_time_format_custom(TIME)
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .add_filter_ignore_str("mio")
        .build();
    let flush = Flush {
        to: to.clone(),
        is_done,
    };
    let _ = WriteLogger::init(
        LevelFilter::Trace,
        config,
        Lines {
            to,
            line: Vec::new(),
            dropped: 0,
        },
    );
    set_level(level);
    Ok(flush)
}

/// From now on, lines less severe than this are not written.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// What goes to the thread.
enum Line {
    Text(Vec<u8>),
    /// Everything before this has been written; stop.
    End,
}

/// Waits at the end of the process until what was logged is written.
pub struct Flush {
    to: SyncSender<Line>,
    is_done: Receiver<()>,
}

impl Flush {
    /// Waits, but not for a reader that does not read.
    pub fn wait(self) {
        if self.to.try_send(Line::End).is_ok() {
            let _ = self.is_done.recv_timeout(std::time::Duration::from_secs(1));
        }
    }
}

/// How long a line may wait for others, to be written together: waking a thread for every line costs more than the line.
const GATHER: Duration = Duration::from_millis(2);

fn write_lines(lines: &Receiver<Line>) {
    let mut stderr = io::stderr();
    let mut text = Vec::new();
    while let Ok(first) = lines.recv() {
        if matches!(first, Line::Text(_)) {
            thread::sleep(GATHER);
        }
        let ends = gather(first, lines, &mut text);
        // Nobody can be told that standard error is closed.
        let _ = stderr.write_all(&text);
        text.clear();
        if ends {
            return;
        }
    }
}

/// Takes all lines that are there. Whether the last one has come.
fn gather(first: Line, lines: &Receiver<Line>, text: &mut Vec<u8>) -> bool {
    for line in std::iter::once(first).chain(lines.try_iter()) {
        match line {
            Line::Text(line) => text.extend_from_slice(&line),
            Line::End => return true,
        }
        if text.len() >= limits::LOG_WRITE_MAX {
            break;
        }
    }
    false
}

/// Collects what simplelog writes, line by line.
struct Lines {
    to: SyncSender<Line>,
    line: Vec<u8>,
    dropped: u64,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if self.line.last() == Some(&b'\n') {
            self.hand_over();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn hand_over(&mut self) {
        let line = std::mem::take(&mut self.line);
        if self.dropped > 0 {
            let note = format!(
                "[WARN] {} log lines were dropped: standard error is not read fast enough\n",
                self.dropped
            );
            match self.to.try_send(Line::Text(note.into_bytes())) {
                Ok(()) => self.dropped = 0,
                Err(_) => return self.dropped += 1,
            }
        }
        if let Err(TrySendError::Full(_)) = self.to.try_send(Line::Text(line)) {
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trailing zero was left away, so lines began at one of nine widths.
    #[test]
    fn every_line_begins_at_the_same_width() {
        let shown = |nanosecond| {
            time::OffsetDateTime::UNIX_EPOCH
                .replace_nanosecond(nanosecond)
                .expect("a time")
                .format(TIME)
                .expect("it is complete")
        };
        assert_eq!(shown(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(shown(36_464_240), "1970-01-01T00:00:00.036Z");
    }

    /// Catalogue fault R3: a log sink that is not read must not hold up the loop.
    #[test]
    fn a_sink_that_is_not_read_costs_lines_and_not_time() {
        let (to, lines) = mpsc::sync_channel(2);
        let mut log = Lines {
            to,
            line: Vec::new(),
            dropped: 0,
        };
        for n in 0..10 {
            write!(log, "line ").expect("never fails");
            writeln!(log, "{n}").expect("never fails");
        }
        assert_eq!(log.dropped, 8);
        let text = |line| match line {
            Line::Text(text) => String::from_utf8(text).expect("text"),
            Line::End => String::new(),
        };
        assert_eq!(
            lines.try_iter().map(text).collect::<Vec<_>>(),
            ["line 0\n", "line 1\n"]
        );
        writeln!(log, "after").expect("never fails");
        let rest: Vec<String> = lines.try_iter().map(text).collect();
        assert!(rest[0].contains("8 log lines were dropped") && rest[1] == "after\n");
    }
}
