//! What a server still owes: one queue of expected answers, in the order of the requests.
//!
//! The rules are those of the protocol (sections "Extended Query", "COPY Operations", "Function Call"): an error skips to the
//! next Sync, Query and FunctionCall messages in between included; COPY FROM swallows a Sync; CopyData, CopyDone and CopyFail
//! are ignored outside of a copy. An answer that fits nothing is never explained away: the queue is *in doubt* from then on,
//! and its server is not used for another client.

use std::collections::VecDeque;

use crate::limits;

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    Query,
    FunctionCall,
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Sync,
    /// CopyDone or CopyFail: answered by nothing, but it decides which Sync a copy swallows.
    CopyEnd,
}

/// A copy in progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Copy {
    #[default]
    None,
    /// The server waits for the client's data.
    In,
    /// The server sends.
    Out,
    /// Both send (replication).
    Both,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Expect {
    queue: VecDeque<Owed>,
    /// After an error: what the client sends is ignored by the server until a Sync.
    skipping: bool,
    copy: Copy,
    /// A Sync was taken for swallowed by the copy in progress. Should the copy fail, nobody can tell whether it was: what the
    /// server had not read by then, it answers.
    swallowed: bool,
    /// Such a copy has failed: one more ReadyForQuery may come than is expected.
    unsure: bool,
    /// Extended-protocol messages were sent after the last Sync.
    batch: bool,
    doubt: bool,
}

impl Expect {
    /// Notes a message that goes to the server.
    pub fn sent(&mut self, tag: u8) {
        match tag {
            b'Q' => self.owe(Owed::Query),
            b'F' => self.owe(Owed::FunctionCall),
            b'P' => self.owe_in_batch(Owed::Parse),
            b'B' => self.owe_in_batch(Owed::Bind),
            b'D' => self.owe_in_batch(Owed::Describe),
            b'E' => self.owe_in_batch(Owed::Execute),
            b'C' => self.owe_in_batch(Owed::Close),
            b'S' => self.sync(),
            b'c' | b'f' => self.copy_end(),
            _ => {}
        }
    }

    fn owe(&mut self, owed: Owed) {
        if !self.skipping {
            self.queue.push_back(owed);
        }
    }

    fn owe_in_batch(&mut self, owed: Owed) {
        self.batch = true;
        self.owe(owed);
    }

    fn sync(&mut self) {
        if self.copy == Copy::In {
            self.swallowed = true;
            return;
        }
        self.skipping = false;
        self.batch = false;
        self.queue.push_back(Owed::Sync);
    }

    fn copy_end(&mut self) {
        match self.copy {
            Copy::In => self.copy = Copy::None,
            Copy::Both => {}
            // Sent before the server has said that it wants to copy, or a late one after an error.
            Copy::None | Copy::Out if self.queue.is_empty() => {}
            Copy::None | Copy::Out => self.owe(Owed::CopyEnd),
        }
    }

    /// Notes a message that came from the server.
    pub fn answered(&mut self, tag: u8) {
        use Owed::*;
        match (tag, self.queue.front().copied()) {
            (b'N' | b'A' | b'S', _) => {}
            (b'Z', Some(Query | FunctionCall | Sync)) => {
                self.copy = Copy::None;
                self.pop();
            }
            (b'E', Some(front)) => self.failed(front),
            (b'1', Some(Parse))
            | (b'2', Some(Bind))
            | (b'3', Some(Close))
            | (b'T' | b'n', Some(Describe)) => self.pop(),
            (b's' | b'I', Some(Execute)) => self.pop(),
            (b'C', Some(Execute)) => {
                self.copied();
                self.pop();
            }
            (b'C', Some(Query)) => self.copied(),
            (b'T' | b'D' | b'I', Some(Query))
            | (b'D', Some(Execute))
            | (b't', Some(Describe))
            | (b'V', Some(FunctionCall)) => {}
            (b'G', Some(Query | Execute)) => self.copy_in(),
            (b'H', Some(Query | Execute)) => self.copy = Copy::Out,
            (b'W', Some(Query | Execute)) => self.copy = Copy::Both,
            (b'd' | b'c', Some(Query | Execute)) if matches!(self.copy, Copy::Out | Copy::Both) => {
            }
            _ => self.doubt = true,
        }
    }

    /// A command is complete: of a copy, that all of it was read, Syncs included.
    fn copied(&mut self) {
        self.copy = Copy::None;
        self.swallowed = false;
    }

    /// The server begins to take data: what the client has sent ahead is either part of it or swallowed.
    fn copy_in(&mut self) {
        let end = self.queue.iter().position(|&owed| owed == Owed::CopyEnd);
        self.copy = if end.is_some() { Copy::None } else { Copy::In };
        let ahead = 1..end.map_or(self.queue.len(), |at| at + 1);
        for owed in self.queue.drain(ahead) {
            match owed {
                Owed::Sync => self.swallowed = true,
                Owed::CopyEnd => {}
                _ => self.doubt = true,
            }
        }
        if self.queue.front() == Some(&Owed::Execute) && !self.queue.contains(&Owed::Sync) {
            self.batch = true; // the Sync that closed it was swallowed
        }
    }

    fn failed(&mut self, front: Owed) {
        self.copy = Copy::None;
        self.unsure |= std::mem::take(&mut self.swallowed);
        if matches!(front, Owed::Query | Owed::FunctionCall | Owed::Sync) {
            return; // ReadyForQuery follows
        }
        while self.queue.front().is_some_and(|&owed| owed != Owed::Sync) {
            self.queue.pop_front();
        }
        self.skipping = self.queue.is_empty();
    }

    fn pop(&mut self) {
        self.queue.pop_front();
        while self.queue.front() == Some(&Owed::CopyEnd) {
            self.queue.pop_front(); // outside of a copy: ignored by the server
        }
    }

    /// Something came that cannot be explained.
    pub fn doubt(&mut self) {
        self.doubt = true;
    }

    /// Whether something came that could not be explained.
    pub fn in_doubt(&self) -> bool {
        self.doubt
    }

    /// Whether ReadyForQuery may come although nothing is owed: the reset tells, by the CommandComplete that comes before its own.
    pub fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// Whether nothing is owed and nothing is open: no batch without Sync, no copy.
    pub fn is_quiet(&self) -> bool {
        self.queue.is_empty() && !self.skipping && !self.batch && self.copy == Copy::None
    }

    /// Whether the server can come to rest by itself: every batch is closed by a Sync, and it waits for no data.
    pub fn can_finish(&self) -> bool {
        !self.batch && !self.skipping && !matches!(self.copy, Copy::In | Copy::Both)
    }

    /// Whether an answer is owed or a copy runs: something that a cancel could end.
    pub fn is_owed(&self) -> bool {
        !self.queue.is_empty() || self.copy != Copy::None
    }

    /// How many requests wait.
    pub fn owed(&self) -> usize {
        self.queue.len()
    }

    /// Whether no more may be sent.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= limits::OWED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script: lower case `>` before what the client sends, `<` before what the server answers.
    fn run(script: &str) -> Expect {
        let mut expect = Expect::default();
        for step in script.split_whitespace() {
            let (direction, tags) = step.split_at(1);
            for tag in tags.bytes() {
                if direction == ">" {
                    expect.sent(tag)
                } else {
                    expect.answered(tag)
                }
            }
        }
        expect
    }

    fn quiet(script: &str) {
        let expect = run(script);
        assert!(
            expect.is_quiet() && !expect.in_doubt(),
            "{script}: {expect:?}"
        );
    }

    fn open(script: &str) {
        let expect = run(script);
        assert!(
            !expect.is_quiet() && !expect.in_doubt(),
            "{script}: {expect:?}"
        );
    }

    fn doubtful(script: &str) {
        assert!(run(script).in_doubt(), "{script}");
    }

    #[test]
    fn simple_queries() {
        quiet(">Q <TDDC <Z");
        quiet(">Q <I <Z");
        quiet(">Q <E <Z");
        quiet(">QQQ <C <Z <TC <Z <E <Z");
        quiet(">F <V <Z >F <E <Z");
        open(">Q <TDDC");
        open(">QQ <C <Z");
        doubtful(">Q <C <Z <Z");
        doubtful("<D");
        doubtful(">Q <1");
    }

    #[test]
    fn extended_queries() {
        quiet(">PBDES <12TDDC <Z");
        quiet(">PDS <1tTZ >BES <2sZ");
        quiet(">PDBDE >S <1tn2nIZ");
        quiet(">CS <3Z");
        quiet(">PBES >PBES <12CZ <12CZ");
        quiet(">PBES <12C <E <Z"); // a deferred constraint fails at Sync
        open(">P");
        open(">PH <1"); // answered, but a batch is open
        open(">PBE <12C");
    }

    /// B5: an error skips Query and FunctionCall as well, up to the Sync.
    #[test]
    fn an_error_skips_to_sync() {
        quiet(">PBES <E <Z");
        quiet(">PBEPBES <12E <Z");
        quiet(">BEQFS <E <Z");
        quiet(">PBE <E >PBQF >S <Z");
        quiet(">PBES >PBES <E <Z <12CZ");
        open(">PBE <E");
        open(">PBE <E >PBQ");
        doubtful(">BEQS <E <C");
    }

    #[test]
    fn copy_in_simple() {
        quiet(">Q <G >ddc <C <Z");
        quiet(">Q >ddc <G <C <Z");
        quiet(">Q <G >f <E <Z");
        quiet(">Q <G >d <E <Z >ddc"); // late data after an error
        quiet(">Q >c >c <G <C <G <C <Z"); // two copies in one Query, data sent ahead
        quiet(">Q <G >S >c <C <Z"); // a Sync in the middle is swallowed
        quiet(">Q <E <Z >dc >Q <C <Z");
        quiet(">Q >dc >Q <E <Z <C <Z"); // the copy was refused, its data is ignored
        open(">Q <G >d");
    }

    #[test]
    fn copy_in_extended_swallows_the_sync() {
        quiet(">PBES <12G >dc >S <C <Z");
        quiet(">PBES >dcS <12G <C <Z");
        quiet(">PBE >dcS <12G <C <Z");
        quiet(">PBES <12G >d <E >dc >S <Z");
        quiet(">PBES >dcS <12E <Z <Z"); // refused: the first Sync ends the skipping, the second answers too
        open(">PBES <12G >dc");
        open(">PBES <12G >dc <C");
        doubtful(">PBESPBES <12G");
    }

    /// Found by reading: a Sync behind bad data is not swallowed but answered, after the error and the ReadyForQuery of the
    /// COPY. Between the two the queue was taken for quiet; a client that left just then left the second ReadyForQuery to the
    /// reset, and the reset's own last answer to the next client.
    #[test]
    fn a_sync_sent_into_a_copy_that_fails_may_be_answered() {
        for unsure in [
            ">Q <G >dS <E <Z",
            ">QdS <G <E <Z",
            ">QS <G <E <Z", // a BEFORE STATEMENT trigger fails before the server reads
            ">PBES <12G >d <E >dc >S <Z",
        ] {
            assert!(run(unsure).is_unsure(), "{unsure}");
        }
        for sure in [
            ">Q <G >dSc <C <Z >Q <E <Z", // it was read to its end
            ">QdcS <G <E <Z <Z",
            ">PBE >dcS <12G <E <Z",
        ] {
            assert!(!run(sure).is_unsure(), "{sure}");
        }
    }

    #[test]
    fn copy_out_and_both() {
        quiet(">Q <Hddc <C <Z");
        quiet(">Q <Hd <E <Z");
        quiet(">PBES <12HddcC <Z");
        quiet(">Q <Wd >d <d >c <c <C <Z");
        open(">Q <Wd");
        doubtful(">Q <d");
    }

    #[test]
    fn what_comes_at_any_time_means_nothing() {
        quiet("<NAS >Q <NSA <C <NAS <Z <A");
        doubtful("<E");
        doubtful(">Q <K");
    }
}
