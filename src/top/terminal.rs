//! The terminal: raw as long as a [`Screen`] lives, as it was before whatever ends it; keys, size and signals as they come.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::table::Line;

/// The other screen, without a cursor and without wrapping.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
/// Back again.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// What a terminal that does not know its size is taken for.
const SIZE: (usize, usize) = (80, 24);

/// Signals that are taken here.
const SIGNALS: [Signal; 6] = [
    Signal::SIGWINCH,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
];

/// What has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// Bytes of keys.
    Keys(Vec<u8>),
    /// Another size, or nothing at all: the screen is to be drawn anew.
    Resized,
    /// To the background.
    Suspend,
    /// The end: a signal says so, or the terminal has gone.
    End,
    /// The other descriptor has something.
    News,
    /// The time is over.
    Nothing,
}

/// A terminal in raw mode.
pub(super) struct Screen {
    input: OwnedFd,
    before: Termios,
    signals: SignalFd,
    colours: bool,
}

impl Screen {
    /// Takes the terminal that standard input is. To be called before there is any other thread, which would get the signals.
    pub(super) fn enter(colours: bool) -> io::Result<Screen> {
        let set = SIGNALS.into_iter().collect::<SigSet>();
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&input)?;
        let screen = Screen {
            input,
            before,
            signals,
            colours,
        };
        screen.take()?;
        Ok(screen)
    }

    fn take(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        tcsetattr(&self.input, OptionalActions::Now, &raw)?;
        say(ENTER)
    }

    /// Gives it back, stops the process, and takes it again when somebody has it go on.
    pub(super) fn suspend(&self) -> io::Result<()> {
        self.give_back();
        raise(Signal::SIGSTOP)?;
        self.take()
    }

    fn give_back(&self) {
        let _ = say(LEAVE);
        let _ = tcsetattr(&self.input, OptionalActions::Flush, &self.before);
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.input) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            _ => SIZE,
        }
    }

    /// Draws a picture, in one write.
    pub(super) fn draw(&self, lines: &[Line]) -> io::Result<()> {
        let (width, height) = self.size();
        let mut out = String::from("\x1b[H");
        for (at, line) in lines.iter().take(height).enumerate() {
            if at > 0 {
                out.push_str("\r\n");
            }
            // First: behind a line that fills its width the cursor stands on its last letter.
            out.push_str("\x1b[K");
            out.push_str(&line.to_terminal(width, self.colours));
        }
        // Behind the last line; a screen that is full has nothing there.
        if lines.len() < height {
            out.push_str("\r\n\x1b[J");
        }
        say(&out)
    }

    /// Waits for something to come, for keys before news.
    pub(super) fn wait(&self, time: Duration, news: BorrowedFd<'_>) -> io::Result<Came> {
        let mut all = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.input.as_fd(), PollFlags::POLLIN),
            PollFd::new(news, PollFlags::POLLIN),
        ];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut all, time) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Came::Nothing),
            Err(error) => return Err(error.into()),
        }
        let [signals, input, news] = all.map(|one| one.any().unwrap_or(false));
        if signals {
            return Ok(self.signal());
        }
        if input {
            let mut bytes = [0; 256];
            return Ok(match nix::unistd::read(&self.input, &mut bytes) {
                Ok(0) | Err(_) => Came::End,
                Ok(count) => Came::Keys(bytes.get(..count).unwrap_or_default().to_vec()),
            });
        }
        Ok(if news { Came::News } else { Came::Nothing })
    }

    fn signal(&self) -> Came {
        let Ok(Some(info)) = self.signals.read_signal() else {
            return Came::Nothing;
        };
        let number = i32::try_from(info.ssi_signo).unwrap_or(0);
        match Signal::try_from(number) {
            Ok(Signal::SIGWINCH) => Came::Resized,
            Ok(Signal::SIGTSTP) => Came::Suspend,
            _ => Came::End,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Asks for a password at the terminal, without an echo.
///
/// # Errors
/// There is no terminal.
pub(super) fn ask_password(prompt: &str) -> io::Result<zeroize::Zeroizing<String>> {
    let mut options = std::fs::OpenOptions::new();
    let mut terminal = options.read(true).write(true).open("/dev/tty")?;
    let before = tcgetattr(&terminal)?;
    let mut silent = before.clone();
    silent.local_modes.remove(rustix::termios::LocalModes::ECHO);
    terminal.write_all(prompt.as_bytes())?;
    tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    let mut line = zeroize::Zeroizing::new(String::new());
    let read = io::BufRead::read_line(&mut io::BufReader::new(&terminal), &mut line);
    tcsetattr(&terminal, OptionalActions::Flush, &before)?;
    terminal.write_all(b"\n")?;
    read?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}
