//! Long answers, read in large pieces.
//!
//! PostgreSQL writes 8 kB at a time. A pooler that is as fast as the server is woken for each of them, and what it costs to be woken,
//! to read and to write is then the cost of a large result. Once an answer is long (`server.bulk_after`), the kernel is therefore asked
//! to wake us only when more than a whole read is there (`SO_RCVLOWAT`). Its end, and whatever comes slowly, would lie there unseen: so
//! a timer always runs meanwhile, and what is there when it comes up is read then; is that little, all is as it was. A client that
//! sends something meanwhile may wait for each answer before it sends on, and gets them at once.
//!
//! Knows nothing of what the bytes are: `pump` tells how many came, and when an answer is over.

use super::link::Link;
use super::wheel::Armed;
use super::{Engine, Server, ServerKey, Tick, Timer, Who, ms};
use crate::limits;

/// What a server's present answer has brought so far, and how it is read.
#[derive(Debug)]
pub(super) struct Bulk {
    /// Bytes since its client has sent something, or since they last came slowly.
    bytes: usize,
    /// It is read in large pieces, and what is there is read at this time at the latest.
    until: Option<Tick>,
    /// That time came before a piece did.
    late: bool,
    /// When the wheel will look at it; it may have been put off since.
    armed: Armed,
}

impl Bulk {
    /// Nothing has come.
    pub(super) const NONE: Bulk = Bulk {
        bytes: 0,
        until: None,
        late: false,
        armed: Armed::NOT,
    };

    /// Notes what one read of the server has brought. The hot path.
    pub(super) fn note(&mut self, count: usize, after: usize, now: Tick, link: &mut Link) {
        self.bytes += count;
        if self.bytes < after || after == 0 {
            return;
        }
        let late = std::mem::take(&mut self.late);
        if late && count < limits::BULK_LEAST {
            self.bytes = 0;
            return;
        }
        if self.until.is_none() {
            link.wake_at(limits::BULK_PIECE);
        }
        self.until = Some(now.plus(ms(limits::BULK_WAIT_MS)));
    }

    /// The answer is over, or its client does not only listen.
    pub(super) fn end(&mut self, link: Option<&mut Link>) {
        (self.bytes, self.late) = (0, false);
        self.read_at_once(link);
    }

    /// Whatever comes is read as soon as it is there.
    fn read_at_once(&mut self, link: Option<&mut Link>) {
        if self.until.take().is_some()
            && let Some(link) = link
        {
            link.wake_at(1);
        }
    }

    /// Whether the wheel is to look at it.
    pub(super) fn is_timed(&self) -> bool {
        self.until.is_some()
    }
}

impl Engine {
    /// Sees to it that the wheel looks at an answer that is read in large pieces.
    #[inline(never)]
    pub(super) fn arm_bulk(&mut self, key: ServerKey) {
        if let Some(Server { bulk, .. }) = self.servers.get_mut(key)
            && let Some(until) = bulk.until
            && bulk.armed.arm(until)
        {
            self.wheel.insert(until, Timer::Bulk(key));
        }
    }

    /// The wheel looks at such an answer.
    pub(super) fn bulk_timer(&mut self, key: ServerKey) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        if server.bulk.armed.come_up(self.now).is_none() {
            return;
        }
        match server.bulk.until {
            None => {}
            Some(until) if until > self.now => self.arm_bulk(key),
            Some(_) => {
                server.bulk.read_at_once(server.link.as_mut());
                server.bulk.late = true;
                self.ready(Who::Server(key), super::Ready::READ);
            }
        }
    }
}

#[cfg(test)]
mod tests;
