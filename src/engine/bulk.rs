//! Long answers, and long copies from clients, read in large pieces.
//!
//! PostgreSQL writes 8 kB at a time, and so does libpq. A pooler that is as fast is woken for each of them, and what it costs to be
//! woken, to read and to write is then the cost of a large result. Once an answer is long (`server.bulk_after`), the kernel is therefore
//! asked to wake us only when more than a whole read is there (`SO_RCVLOWAT`). Its end, and whatever comes slowly, would lie there
//! unseen: so a timer always runs meanwhile, and what is there when it comes up is read then; is that little, all is as it was. A client
//! that sends something meanwhile may wait for each answer before it sends on, and gets them at once. The data of COPY FROM STDIN is
//! read in the same way: until it is over the client waits for nothing.
//!
//! Knows nothing of what the bytes are: `pump` tells how many came, and when an answer or a copy is over.

use super::link::Link;
use super::wheel::Armed;
use super::{Engine, Server, ServerKey, Tick, Timer, Who, ms};
use crate::limits;

/// What a server's present answer has brought so far, or the copy that its client sends, and how it is read.
#[derive(Debug)]
pub(super) struct Bulk {
    /// Bytes since it began, since its client has sent something meanwhile, or since they last came slowly.
    bytes: usize,
    /// It is read in large pieces, and what is there is read at this time at the latest.
    until: Option<Tick>,
    /// That time came before a piece did.
    late: bool,
    /// When the wheel will look at it; it may have been put off since.
    armed: Armed,
}

/// What is to be done when the wheel looks at one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Nothing,
    /// It was put off.
    Again,
    /// What is there is to be read.
    Read,
}

impl Bulk {
    /// Nothing has come.
    pub(super) const NONE: Bulk = Bulk {
        bytes: 0,
        until: None,
        late: false,
        armed: Armed::NOT,
    };

    /// Notes what one read has brought. The hot path.
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

    /// It is over, or its client does not only listen.
    pub(super) fn end(&mut self, link: Option<&mut Link>) {
        (self.bytes, self.late) = (0, false);
        if self.until.take().is_some()
            && let Some(link) = link
        {
            link.wake_at(1);
        }
    }

    /// Whether anything has come that counts.
    pub(super) fn is_begun(&self) -> bool {
        self.bytes > 0
    }

    /// Whether the wheel is to look at it.
    pub(super) fn is_timed(&self) -> bool {
        self.until.is_some()
    }

    /// The wheel looks at it.
    fn look(&mut self, now: Tick) -> Look {
        if self.armed.come_up(now).is_none() {
            return Look::Nothing;
        }
        match self.until {
            None => Look::Nothing,
            Some(until) if until > now => Look::Again,
            Some(_) => {
                (self.until, self.late) = (None, true);
                Look::Read
            }
        }
    }
}

impl Engine {
    /// Sees to it that the wheel looks at what is read in large pieces.
    #[inline(never)]
    pub(super) fn arm_bulk(&mut self, key: ServerKey) {
        let Some(Server { bulk, copy_in, .. }) = self.servers.get_mut(key) else {
            return;
        };
        for bulk in [bulk, copy_in] {
            if let Some(until) = bulk.until
                && bulk.armed.arm(until)
            {
                self.wheel.insert(until, Timer::Bulk(key));
            }
        }
    }

    /// The wheel looks at that.
    pub(super) fn bulk_timer(&mut self, key: ServerKey) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let client = server.state.client().map(Who::Client);
        let looks = [
            (Some(Who::Server(key)), server.bulk.look(self.now)),
            (client, server.copy_in.look(self.now)),
        ];
        for (who, look) in looks {
            match (who, look) {
                (_, Look::Again) => self.arm_bulk(key),
                (Some(who), Look::Read) => {
                    if let Some(link) = self.link_mut(who) {
                        link.wake_at(1);
                    }
                    self.ready(who, super::Ready::READ);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
