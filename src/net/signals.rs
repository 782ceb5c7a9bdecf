//! Signals as something that can be polled.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::signal::{SigSet, Signal as Number};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What an operator can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGHUP
    Hangup,
    /// SIGTERM
    Terminate,
    /// SIGINT
    Interrupt,
    /// SIGQUIT
    Quit,
    /// SIGUSR1
    Pause,
    /// SIGUSR2
    Resume,
}

const HANDLED: [(Number, Signal); 6] = [
    (Number::SIGHUP, Signal::Hangup),
    (Number::SIGTERM, Signal::Terminate),
    (Number::SIGINT, Signal::Interrupt),
    (Number::SIGQUIT, Signal::Quit),
    (Number::SIGUSR1, Signal::Pause),
    (Number::SIGUSR2, Signal::Resume),
];

fn handled() -> SigSet {
    let mut set = SigSet::empty();
    HANDLED.iter().for_each(|(number, _)| set.add(*number));
    set
}

/// Blocks the signals in this thread and all that it starts.
pub(super) fn block() -> io::Result<()> {
    Ok(handled().thread_block()?)
}

/// Where they arrive.
pub(super) struct Signals(SignalFd);

impl Signals {
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals(SignalFd::with_flags(
            &handled(),
            SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
        )?))
    }

    /// Hands over what has arrived. Several of one kind that came together are one.
    pub(super) fn drain(&mut self, take: &mut dyn FnMut(Signal)) {
        while let Ok(Some(info)) = self.0.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if let Some((_, signal)) = HANDLED.iter().find(|(known, _)| *known as i32 == number) {
                take(*signal);
            }
        }
    }
}

impl Source for Signals {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.0.as_fd().as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.0.as_fd().as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.0.as_fd().as_raw_fd()).deregister(registry)
    }
}
