//! What a client asks, request by request: for SHOW QUERIES, and for the log of slow ones.
//!
//! Reads what passes up a second time, and only while one of the two is on; what the relay does is not touched by it. Follows
//! pipelines, batches, and the names of prepared statements; where it loses its way it says so of that request, and is sure
//! again with the next one that the server has nothing before to do.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::{PoolKey, Queries};
use crate::config::SlowConfig;
use crate::fingerprint;
use crate::limits;
use crate::relay::prepared::ClientStatements;
use crate::wire::frame::{HEADER_LEN, Header, take_cstr};

/// What is followed of the client that a server has.
#[derive(Default)]
pub(super) struct Requests {
    /// What is to come of the message that passes, its head not counted.
    skip: usize,
    /// The message whose head is not here yet: its type letter, the head as far as it is, and how long that is to be.
    head: Option<(u8, Vec<u8>, usize)>,
    /// The first statement of the batch that is open.
    batch: Option<Asked>,
    /// What was asked and is not answered; the first is what the server works on.
    open: VecDeque<Asked>,
    /// Bytes of their texts.
    open_bytes: usize,
    /// Statements that a client has prepared which has its server for itself: without their values.
    named: BTreeMap<Box<[u8]>, Rc<[u8]>>,
    /// A text's room, to be used again.
    spare: Vec<u8>,
    /// How long the server has worked on the first of `open` before it had to wait for more.
    worked_us: u64,
    received: u64,
    sent: u64,
    transaction: Transaction,
}

/// A request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    /// Of its statement in [`Queries`]; 0: it is not known, or not kept.
    key: u64,
    /// Its statement, as much as a fingerprint is made of; empty: it is not known, or not needed.
    text: Vec<u8>,
}

/// The transaction that is open.
#[derive(Default)]
struct Transaction {
    waited_us: u64,
    worked_us: u64,
    queries: u64,
    received: u64,
    sent: u64,
    /// The statement that has taken longest.
    longest: Vec<u8>,
    longest_us: u64,
    /// One of its queries was slow for itself.
    told: bool,
}

/// Something that took too long.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slow {
    pub(super) what: What,
    /// Before it was given a server.
    pub(super) waited_us: u64,
    /// From then on.
    pub(super) took_us: u64,
    /// How long the server has worked.
    pub(super) worked_us: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    /// The statement without its values; empty: it is not known.
    pub(super) text: Vec<u8>,
}

/// What took too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum What {
    #[default]
    Query,
    /// A query that was not answered before its client or its server went.
    Unanswered,
    /// A transaction of so many queries.
    Transaction(u64),
}

/// What is done with what is seen.
pub(super) struct Watch<'a> {
    pub(super) queries: &'a mut Queries,
    pub(super) slow: &'a SlowConfig,
    /// What turned out to be slow.
    pub(super) found: &'a mut Vec<Slow>,
    /// The pool's name.
    pub(super) database: &'a str,
    pub(super) pool: PoolKey,
}

impl Watch<'_> {
    /// A transaction begins, for which the client has waited.
    pub(super) fn begin(&mut self, requests: &mut Option<Box<Requests>>, waited_us: u64) {
        requests.get_or_insert_default().begin(waited_us);
    }

    /// This passes to a server. `anew`: it owed nothing, and it begins with a message; `statements`: those of a client that shares
    /// its servers.
    pub(super) fn up(
        &mut self,
        requests: &mut Option<Box<Requests>>,
        bytes: &[u8],
        anew: bool,
        statements: Option<&ClientStatements>,
    ) {
        let requests = match requests {
            Some(requests) => requests,
            // Nothing can be followed from its middle.
            None if anew => requests.insert(Box::default()),
            None => return,
        };
        if anew {
            requests.begin_anew();
        }
        requests.up(bytes, statements, self);
    }
}

/// What came of some answers.
pub(super) struct Answers {
    /// ReadyForQuery that were among them.
    pub(super) ready: u64,
    /// How long the server has worked on the first of these.
    pub(super) took_us: u64,
    /// How long the transaction was that has ended, if one has.
    pub(super) transaction_us: Option<u64>,
    /// Nothing more is owed.
    pub(super) all: bool,
}

impl Requests {
    /// The server is given to a client.
    pub(super) fn renew(&mut self) {
        self.begin_anew();
        (self.batch, self.worked_us) = (None, 0);
        if !self.named.is_empty() {
            self.named.clear();
        }
    }

    /// The server has nothing to do, and what comes begins with a message.
    fn begin_anew(&mut self) {
        self.skip = 0;
        if self.head.is_some() {
            self.head = None;
        }
        if !self.open.is_empty() {
            self.open.clear();
            self.open_bytes = 0;
        }
    }

    /// A transaction begins, for which the client has waited.
    fn begin(&mut self, waited_us: u64) {
        if self.batch.is_some() {
            return; // it has begun: a Flush was answered, and the rest of the batch comes now
        }
        let longest = std::mem::take(&mut self.transaction.longest);
        self.transaction = Transaction {
            waited_us,
            longest,
            ..Transaction::default()
        };
        self.transaction.longest.clear();
        (self.received, self.sent) = (0, 0);
    }

    fn up(&mut self, bytes: &[u8], statements: Option<&ClientStatements>, watch: &mut Watch<'_>) {
        self.received += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Some((tag, mut head, wanted)) = self.head.take() {
                let missing = wanted.saturating_sub(head.len()).min(rest.len());
                let (more, after) = rest.split_at(missing);
                head.extend_from_slice(more);
                rest = after;
                match head.len() < wanted {
                    true => self.head = Some((tag, head, wanted)),
                    false => self.message(tag, &head, statements, watch),
                }
                continue;
            }
            let skipped = self.skip.min(rest.len());
            self.skip -= skipped;
            rest = rest.get(skipped..).unwrap_or_default();
            let (Ok(Some(header)), Some(body)) = (Header::read(rest), rest.get(HEADER_LEN..))
            else {
                return; // the end, as a rule: headers come whole
            };
            let wanted = head_of(header.tag).min(header.body_len());
            self.skip = header.body_len() - wanted;
            match body.split_at_checked(wanted) {
                Some((head, after)) => {
                    self.message(header.tag, head, statements, watch);
                    rest = after;
                }
                None => {
                    self.head = Some((header.tag, body.to_vec(), wanted));
                    return;
                }
            }
        }
    }

    /// This goes to the client.
    pub(super) fn down(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    fn message(
        &mut self,
        tag: u8,
        head: &[u8],
        statements: Option<&ClientStatements>,
        watch: &mut Watch<'_>,
    ) {
        match tag {
            b'Q' => {
                self.batch = None;
                let asked = self.statement(head, None, watch);
                self.ask(asked);
            }
            b'P' => {
                let Some((name, text)) = take_cstr(head) else {
                    return;
                };
                if statements.is_none() && !name.is_empty() {
                    self.prepared(name, text);
                }
                if self.batch.is_none() {
                    self.batch = Some(self.statement(text, None, watch));
                }
            }
            b'B' if self.batch.is_none() => {
                let names = take_cstr(head).and_then(|(_, rest)| take_cstr(rest));
                let Some((name, _)) = names else {
                    return;
                };
                let own = self.named.get(name).cloned();
                self.batch = match statements {
                    Some(statements) => statements
                        .statement(name)
                        .map(|of| self.statement(of.text(), Some(of.id()), watch)),
                    None => own.map(|text| self.statement(&text, None, watch)),
                };
            }
            b'C' => {
                if let Some((b'S', name)) = head.split_first()
                    && let Some((name, _)) = take_cstr(name)
                {
                    self.named.remove(name);
                }
            }
            b'S' => {
                let asked = self.batch.take().unwrap_or_default();
                self.ask(asked);
            }
            b'F' => self.ask(Asked::default()),
            _ => {}
        }
    }

    fn prepared(&mut self, name: &[u8], text: &[u8]) {
        let is_room = self.named.len() < limits::FOLLOWED_STATEMENTS_MAX;
        if is_room || self.named.contains_key(name) {
            let mut short = Vec::new();
            fingerprint::write(text, &mut short);
            self.named.insert(name.into(), short.into());
        }
    }

    /// `id`: the number of a prepared one.
    fn statement(&mut self, text: &[u8], id: Option<u64>, watch: &mut Watch<'_>) -> Asked {
        let key = match id {
            _ if !watch.queries.is_on() => 0,
            Some(id) => watch.queries.bound(id, text, watch.pool, watch.database),
            None => watch.queries.asked(text, watch.pool, watch.database),
        };
        let mut kept = std::mem::take(&mut self.spare);
        kept.clear();
        if watch.slow.is_on() {
            let text = text.get(..limits::FINGERPRINT_WITHIN).unwrap_or(text);
            kept.extend_from_slice(text);
        }
        Asked { key, text: kept }
    }

    /// Something is asked. The client is not read when more is owed than that; a Sync that the server does not answer, as in a
    /// copy, is one too many until the server has nothing to do.
    fn ask(&mut self, mut asked: Asked) {
        if self.open.len() >= limits::OWED_MAX {
            return;
        }
        if self.open_bytes + asked.text.len() > limits::FOLLOWED_TEXT_MAX && !self.open.is_empty() {
            asked.text = Vec::new();
        }
        self.open_bytes += asked.text.len();
        self.open.push_back(asked);
    }

    /// The server has answered, with so many bytes.
    pub(super) fn answered(&mut self, answers: &Answers, bytes: usize, watch: &mut Watch<'_>) {
        self.down(bytes);
        self.worked_us += answers.took_us;
        for _ in 0..answers.ready {
            let asked = self.open.pop_front().unwrap_or_default();
            self.open_bytes = self.open_bytes.saturating_sub(asked.text.len());
            self.query_ends(asked, What::Query, watch);
        }
        if answers.all && answers.ready > 0 {
            self.open.clear();
            self.open_bytes = 0;
        }
        if let Some(took_us) = answers.transaction_us {
            self.transaction_ends(took_us, watch);
        }
    }

    /// The pair ends while something is owed, on which the server has worked for so long.
    pub(super) fn left(&mut self, took_us: u64, watch: &mut Watch<'_>) {
        self.worked_us += took_us;
        let asked = self.open.pop_front().or_else(|| self.batch.take());
        self.query_ends(asked.unwrap_or_default(), What::Unanswered, watch);
    }

    fn query_ends(&mut self, asked: Asked, what: What, watch: &mut Watch<'_>) {
        let worked_us = std::mem::take(&mut self.worked_us);
        let (received, sent) = (
            std::mem::take(&mut self.received),
            std::mem::take(&mut self.sent),
        );
        if what == What::Query {
            watch.queries.answered(asked.key, worked_us);
        }
        let transaction = &mut self.transaction;
        let waited_us = match transaction.queries {
            0 => transaction.waited_us,
            _ => 0,
        };
        transaction.queries += 1;
        transaction.worked_us += worked_us;
        transaction.received += received;
        transaction.sent += sent;
        if is_over(watch.slow.query, waited_us + worked_us) {
            transaction.told = true;
            watch.found.push(Slow {
                what,
                waited_us,
                took_us: worked_us,
                worked_us,
                received,
                sent,
                text: without_values(&asked.text),
            });
        }
        let mut text = asked.text;
        if worked_us >= transaction.longest_us {
            transaction.longest_us = worked_us;
            std::mem::swap(&mut text, &mut transaction.longest);
        }
        self.spare = text;
    }

    /// One of a single query is that query, and is not told twice.
    fn transaction_ends(&mut self, took_us: u64, watch: &mut Watch<'_>) {
        let of = &mut self.transaction;
        let is_told = of.told && of.queries == 1;
        if is_over(watch.slow.transaction, of.waited_us + took_us) && !is_told {
            watch.found.push(Slow {
                what: What::Transaction(of.queries),
                waited_us: of.waited_us,
                took_us,
                worked_us: of.worked_us,
                received: of.received,
                sent: of.sent,
                text: without_values(&of.longest),
            });
        }
        self.begin(0);
    }
}

/// How much of a message's body is looked at.
fn head_of(tag: u8) -> usize {
    match tag {
        b'Q' => limits::FINGERPRINT_WITHIN,
        b'P' => limits::FINGERPRINT_WITHIN + limits::FOLLOWED_NAME_MAX,
        b'B' => 2 * limits::FOLLOWED_NAME_MAX,
        b'C' => limits::FOLLOWED_NAME_MAX,
        _ => 0,
    }
}

fn is_over(threshold: Duration, took_us: u64) -> bool {
    !threshold.is_zero() && u128::from(took_us) >= threshold.as_micros()
}

fn without_values(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    fingerprint::write(text, &mut out);
    out
}

/// Which of those that were slow are told: as many as was asked for, without a pattern in time.
#[derive(Default)]
pub(super) struct Sampler(u64);

impl Sampler {
    /// Whether the next one is. `rate`: so many in a million.
    pub(super) fn takes(&mut self, rate: u32) -> bool {
        // The numbers of splitmix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut drawn = self.0;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (drawn ^ (drawn >> 31)) % 1_000_000 < u64::from(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{cstr, message};
    use crate::wire::frontend;

    /// Requests of one client and what is found in them.
    struct Followed {
        requests: Option<Box<Requests>>,
        queries: Queries,
        slow: SlowConfig,
        found: Vec<Slow>,
    }

    const SECOND: u64 = 1_000_000;

    impl Followed {
        fn new() -> Followed {
            let mut queries = Queries::default();
            queries.resize(100);
            Followed {
                requests: None,
                queries,
                slow: SlowConfig {
                    query: Duration::from_secs(1),
                    transaction: Duration::from_secs(5),
                    sample: 1_000_000,
                },
                found: Vec::new(),
            }
        }

        fn with(&mut self, run: impl FnOnce(&mut Watch<'_>, &mut Option<Box<Requests>>)) {
            let mut watch = Watch {
                queries: &mut self.queries,
                slow: &self.slow,
                found: &mut self.found,
                database: "db",
                pool: PoolKey::from_parts(0, 0),
            };
            run(&mut watch, &mut self.requests);
        }

        fn begin(&mut self, waited_us: u64) {
            self.with(|watch, requests| watch.begin(requests, waited_us));
        }

        fn up(&mut self, bytes: &[u8], anew: bool) {
            self.with(|watch, requests| watch.up(requests, bytes, anew, None));
        }

        fn answered(&mut self, ready: u64, took_us: u64, transaction_us: Option<u64>, all: bool) {
            let answers = Answers {
                ready,
                took_us,
                transaction_us,
                all,
            };
            self.with(|watch, requests| {
                if let Some(requests) = requests {
                    requests.answered(&answers, 10, watch);
                }
            });
        }

        /// A request, and its answer after so many seconds.
        fn ask(&mut self, bytes: &[u8], seconds: u64) {
            self.up(bytes, true);
            self.answered(1, seconds * SECOND, None, true);
        }

        fn texts(&self) -> Vec<String> {
            let text = |slow: &Slow| String::from_utf8_lossy(&slow.text).into_owned();
            self.found.iter().map(text).collect()
        }

        fn calls(&self, text: &str) -> u64 {
            let of = |query: &&crate::engine::Query| *query.text == *text.as_bytes();
            self.queries.iter().find(of).map_or(0, |query| query.calls)
        }
    }

    fn query(sql: &str) -> Vec<u8> {
        let mut out = Vec::new();
        frontend::query(&mut out, sql.as_bytes());
        out
    }

    fn said(tag: u8, texts: &[&str], more: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        message(&mut out, tag, |body| {
            texts.iter().for_each(|text| cstr(body, text.as_bytes()));
            body.extend_from_slice(more);
        });
        out
    }

    fn parse(name: &str, sql: &str) -> Vec<u8> {
        said(b'P', &[name, sql], &[0, 0])
    }

    fn run(name: &str) -> Vec<u8> {
        let bind = said(
            b'B',
            &["", name],
            &[
                0, 0, 0, 1, 0, 0, 0, 6, b's', b'3', b'c', b'r', b'e', b't', 0, 0,
            ],
        );
        [bind, said(b'E', &[""], &[0; 4]), said(b'S', &[], &[])].concat()
    }

    #[test]
    fn what_is_slow_is_told_with_its_wait_and_without_values() {
        let mut followed = Followed::new();
        followed.begin(700_000);
        followed.up(&query("SELECT 's3cret', 17"), true);
        followed.answered(1, 400_000, None, true);
        assert_eq!(
            followed.found,
            [Slow {
                what: What::Query,
                waited_us: 700_000,
                took_us: 400_000,
                worked_us: 400_000,
                received: 25,
                sent: 10,
                text: b"select ?, ...".to_vec(),
            }]
        );
        // The wait was for the first one.
        followed.ask(&query("SELECT 2"), 0);
        assert_eq!(followed.found.len(), 1);
        followed.ask(&query("SELECT a"), 1);
        assert_eq!(followed.texts()[1], "select a");
        assert_eq!(followed.found[1].waited_us, 0);
        assert_eq!(followed.calls("select ?"), 1);
    }

    #[test]
    fn a_transaction_is_told_with_the_statement_that_took_longest() {
        let mut followed = Followed::new();
        followed.slow.query = Duration::ZERO;
        followed.begin(SECOND);
        for (sql, ms) in [("BEGIN", 1), ("SELECT 'slow'", 300), ("SELECT quick", 2)] {
            followed.up(&query(sql), true);
            followed.answered(1, ms * 1_000, None, true);
        }
        followed.up(&query("COMMIT"), true);
        followed.answered(1, 1_000, Some(4 * SECOND), true);
        let [slow] = followed.found.as_slice() else {
            panic!("{:?}", followed.found);
        };
        assert_eq!((slow.what, slow.waited_us), (What::Transaction(4), SECOND));
        assert_eq!((slow.took_us, slow.worked_us), (4 * SECOND, 304_000));
        assert_eq!((slow.sent, slow.text.as_slice()), (40, &b"select ?"[..]));
        // The next one begins from nothing.
        followed.begin(0);
        followed.up(&query("SELECT 1"), true);
        followed.answered(1, 1_000, Some(6 * SECOND), true);
        assert_eq!(followed.found[1].what, What::Transaction(1));
        assert_eq!(followed.found[1].worked_us, 1_000);
    }

    #[test]
    fn a_transaction_of_one_query_is_told_once() {
        let mut followed = Followed::new();
        followed.begin(0);
        followed.up(&query("SELECT 1"), true);
        followed.answered(1, 9 * SECOND, Some(9 * SECOND), true);
        assert_eq!(followed.found.len(), 1);
        assert_eq!(followed.found[0].what, What::Query);
    }

    /// In session mode a Bind was nobody's: only in transaction mode Aether follows names anyway.
    #[test]
    fn names_of_a_session_of_its_own_are_followed() {
        let mut followed = Followed::new();
        let sync = said(b'S', &[], &[]);
        followed.ask(
            &[parse("s", "SELECT 'literal', $1"), sync.clone()].concat(),
            0,
        );
        followed.ask(&run("s"), 2);
        followed.ask(&[parse("s", "SELECT again"), sync.clone()].concat(), 0);
        followed.ask(&run("s"), 2);
        followed.ask(&[said(b'C', &["Ss"], &[]), sync].concat(), 0);
        followed.ask(&run("s"), 2);
        followed.ask(&run("never"), 2);
        assert_eq!(followed.texts(), ["select ?, ...", "select again", "", ""]);
        assert_eq!(followed.calls("select ?, ..."), 2);
        for n in 0..3_000 {
            followed.ask(&parse(&format!("n{n}"), "SELECT 1"), 0);
        }
        let requests = followed.requests.as_ref().expect("it is followed");
        assert_eq!(requests.named.len(), limits::FOLLOWED_STATEMENTS_MAX);
    }

    /// Each request of a pipeline has its own statement, however it is cut.
    #[test]
    fn pipelines_are_followed_in_pieces() {
        let pipeline = [
            query("SELECT one"),
            parse("", "SELECT two"),
            run(""),
            said(b'd', &[], &[b'Q'; 30_000]),
            parse("p", &format!("SELECT three {}", " ".repeat(20_000))),
            run("p"),
            run("p"),
            said(b'F', &[], &[1; 8]),
            query("SELECT four"),
        ]
        .concat();
        for piece in [1, 2, 3, 5, 7, 100, 9_999, pipeline.len()] {
            let mut followed = Followed::new();
            let mut rest = pipeline.as_slice();
            let mut anew = true;
            while !rest.is_empty() {
                // Headers come whole, as the relay lets them pass.
                let mut count = piece.min(rest.len());
                while count < rest.len()
                    && !may_be_cut(&pipeline, pipeline.len() - rest.len() + count)
                {
                    count += 1;
                }
                let (now, later) = rest.split_at(count);
                followed.up(now, std::mem::take(&mut anew));
                rest = later;
            }
            for n in 0..6 {
                followed.answered(1, 2 * SECOND, None, n == 5);
            }
            let wanted = [
                "select one",
                "select two",
                "select three",
                "select three",
                "",
                "select four",
            ];
            assert_eq!(followed.texts(), wanted, "in pieces of {piece}");
        }
    }

    /// Whether a piece may end there: not inside a header.
    fn may_be_cut(bytes: &[u8], at: usize) -> bool {
        let mut begin = 0;
        while let Ok(Some(header)) = Header::read(&bytes[begin..]) {
            if at < begin + HEADER_LEN {
                return at <= begin;
            }
            begin += header.message_len();
            if begin > at {
                return true;
            }
        }
        true
    }

    #[test]
    fn what_is_kept_of_a_pipeline_is_bounded() {
        let mut followed = Followed::new();
        let long = query(&format!("SELECT {}", "x, ".repeat(5_000)));
        let pipeline = long.repeat(20_000 / 100).repeat(60);
        followed.up(&pipeline, true);
        let requests = followed.requests.as_ref().expect("it is followed");
        assert!(requests.open.len() <= limits::OWED_MAX);
        let kept: usize = requests
            .open
            .iter()
            .map(|asked| asked.text.capacity())
            .sum();
        assert!(kept <= 2 * limits::FOLLOWED_TEXT_MAX, "{kept}");
        followed.answered(limits::OWED_MAX as u64, 2 * SECOND, None, true);
        let requests = followed.requests.as_ref().expect("it is followed");
        assert_eq!((requests.open.len(), requests.open_bytes), (0, 0));
    }

    /// A Flush brings answers without a ReadyForQuery: what was worked for them belongs to the request.
    #[test]
    fn a_batch_that_is_answered_in_parts_is_one_request() {
        let mut followed = Followed::new();
        followed.begin(800_000);
        followed.up(
            &[parse("", "SELECT 1"), said(b'H', &[], &[])].concat(),
            true,
        );
        followed.answered(0, 300_000, None, true);
        followed.begin(0);
        followed.ask(&run(""), 0);
        followed.answered(0, 0, Some(0), true);
        let [slow] = followed.found.as_slice() else {
            panic!("{:?}", followed.found);
        };
        assert_eq!((slow.waited_us, slow.took_us), (800_000, 300_000));
        assert_eq!(slow.text, b"select ?");
    }

    #[test]
    fn who_goes_before_the_answer_is_told_of_as_well() {
        let mut followed = Followed::new();
        followed.begin(0);
        followed.up(&query("SELECT 1"), true);
        followed.with(|watch, requests| {
            if let Some(requests) = requests {
                requests.left(3 * SECOND, watch);
            }
        });
        assert_eq!(followed.found[0].what, What::Unanswered);
        assert_eq!(followed.texts(), ["select ?"]);
        assert_eq!(followed.calls("select ?"), 0, "it has not been run");
    }

    #[test]
    fn a_share_of_them_is_told() {
        for (rate, from, to) in [
            (0, 0, 0),
            (50_000, 400, 600),
            (500_000, 4_700, 5_300),
            (1_000_000, 10_000, 10_000),
        ] {
            let mut sampler = Sampler::default();
            let taken = (0..10_000).filter(|_| sampler.takes(rate)).count();
            assert!((from..=to).contains(&taken), "{rate}: {taken}");
        }
    }
}
