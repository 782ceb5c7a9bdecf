//! Prepared statements after DDL: an error that says that a statement is outdated, and a batch that is sent once more.
//!
//! PostgreSQL refuses a statement whose result has another shape than when it was parsed, or whose parameters have types that
//! are gone; the client has to parse it again. Here two things are done about it. The text is *forgotten*
//! ([`Library::forget`](super::prepared::Library::forget)): whoever parses it from now on gets a statement of its own on every
//! server, while those who parsed it before go on to be told by PostgreSQL, each for itself. And where the client cannot
//! notice, the batch is *tried again* with the new statement: nothing of it was answered and nothing has happened, since the
//! error was the first answer outside of a block.
//!
//! What the client believes of the statement must stay true, or wrong data would be worse than an error. So a batch that runs
//! the statement is tried again only if it describes it before, or has parsed it itself, so that rows of another shape come
//! with their description; and if the client cannot have chosen its parameters by types that the server has told it of, unless
//! Parse has fixed these. Everything else is told the error, as without us.

use std::rc::Rc;

use super::Relay;
use super::expect::Told;
use super::prepared::{Named, With};
use crate::limits;
use crate::wire::backend::TransactionStatus;
use crate::wire::frame::{self, HEADER_LEN, Header, take_cstr, take_u16, whole};

/// Where the client's batch stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// One may begin. All that it has so far is answered here.
    #[default]
    Start,
    /// It is kept, and nothing of it is answered.
    Kept(Last),
    /// It has failed, and the client knows nothing of it yet: it has not asked for answers.
    Failed,
    /// It has failed, and is tried again when the server is ready. Is it asked to be?
    Again { last: Last, asked: bool },
    /// It is being sent again.
    Resent(Last),
    /// It is not kept.
    Passed,
}

/// What a kept batch ends with as yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// More has to come.
    Message,
    /// The client waits for answers.
    Flush,
    /// It is whole, and the client waits for answers.
    Sync,
}

/// The statement that has failed, and how the client would be told.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) named: Rc<Named>,
    pub(super) error: Vec<u8>,
}

/// The client's batch as long as it may have to be tried again.
#[derive(Debug, Default)]
pub(super) struct Recover {
    stage: Stage,
    /// As the client sent it.
    kept: Vec<u8>,
    /// What was read last is in `kept` up to here.
    from: usize,
    /// A statement that this batch has parsed; the server was not asked.
    parsed: Option<Rc<Named>>,
    /// The statement that was bound last.
    pub(super) bound: Option<Rc<Named>>,
    /// How often it was tried again.
    tries: u32,
    /// What comes before the error.
    held: Vec<u8>,
    failure: Option<Failure>,
}

/// A message that has passed, as far as it matters here.
pub(super) struct Passed {
    pub(super) header: Header,
    /// Before it, the server was idle and owed the client nothing.
    pub(super) begins: bool,
    /// It is answered here.
    pub(super) made: bool,
    /// The statement that it names, if it is a shared one.
    pub(super) named: Option<Rc<Named>>,
}

impl Recover {
    /// For the next client. The buffer stays.
    pub(super) fn begin_anew(&mut self) {
        let Recover {
            stage,
            kept,
            from,
            parsed,
            bound,
            tries,
            held,
            failure,
        } = self;
        kept.clear();
        (*stage, *from, *tries) = (Stage::Start, 0, 0);
        (*parsed, *bound, *failure) = (None, None, None);
        held.clear();
    }

    /// Whether a batch may begin now.
    pub(super) fn is_at_start(&self) -> bool {
        self.stage == Stage::Start
    }

    /// Whether a batch may begin now, and no error is due.
    pub(super) fn is_idle(&self) -> bool {
        self.is_at_start() && self.failure.is_none()
    }

    /// A simple query has passed that ends at `end` of what was read, where a batch might have begun.
    pub(super) fn query_passed(&mut self, end: usize) {
        (self.parsed, self.from) = (None, end);
    }

    /// Whether the batch will be tried again: nothing more may be sent before that.
    pub(super) fn is_pending(&self) -> bool {
        matches!(self.stage, Stage::Again { .. })
    }

    /// More was read from the client.
    pub(super) fn begin_read(&mut self) {
        self.from = 0;
    }

    /// Everything before `end` of what was read has passed.
    pub(super) fn keep(&mut self, input: &[u8], end: usize) {
        if !matches!(self.stage, Stage::Start | Stage::Resent(_) | Stage::Passed) {
            let passed = input.get(self.from..end).unwrap_or_default();
            self.kept.extend_from_slice(passed);
        }
        self.from = end;
    }

    /// Notes a message of the client that begins at `at`. True: the client waits now, for the answer to a batch that has failed.
    pub(super) fn passed(&mut self, passed: Passed, at: usize) -> bool {
        let tag = passed.header.tag;
        if tag == b'B' && passed.named.is_some() {
            self.bound = passed.named.clone();
        }
        match self.stage {
            Stage::Start => self.passed_first(passed, at),
            Stage::Kept(Last::Sync) => {
                self.give_up(); // whatever comes behind it must not overtake it
                self.end_at(tag);
            }
            Stage::Kept(_) | Stage::Failed => return self.passed_more(passed.header, at),
            Stage::Again { .. } | Stage::Resent(_) => {}
            Stage::Passed => self.end_at(tag),
        }
        false
    }

    /// The same for the Describe of a portal, Execute or Sync of a batch that nothing has happened to. False: something has, and
    /// nothing was noted.
    pub(super) fn passed_plainly(&mut self, header: Header, at: usize) -> bool {
        match self.stage {
            Stage::Passed => self.end_at(header.tag),
            Stage::Kept(Last::Message | Last::Flush) => {
                self.passed_more(header, at);
            }
            _ => return false,
        }
        true
    }

    fn passed_first(&mut self, passed: Passed, at: usize) {
        match passed.header.tag {
            b'S' | b'Q' | b'F' => self.parsed = None,
            b'B' | b'D' if passed.begins && passed.named.is_some() => {
                self.stage = Stage::Kept(Last::Message);
                self.tries = 0;
                self.from = at;
                self.limit(passed.header, at);
            }
            b'P' if passed.begins && passed.made => self.parsed = passed.named,
            b'C' if passed.begins && passed.made => {}
            b'H' => {}
            _ => self.give_up(),
        }
    }

    fn passed_more(&mut self, header: Header, at: usize) -> bool {
        let last = match header.tag {
            b'P' | b'B' | b'D' | b'E' | b'C' => Last::Message,
            b'H' if header.body_len() == 0 => Last::Flush,
            b'S' if header.body_len() == 0 => Last::Sync,
            tag => {
                self.give_up();
                self.end_at(tag);
                return false;
            }
        };
        self.limit(header, at);
        match self.stage {
            Stage::Kept(_) => self.stage = Stage::Kept(last),
            Stage::Failed => return last != Last::Message,
            _ => self.end_at(header.tag),
        }
        false
    }

    /// A batch that is too long is not kept.
    fn limit(&mut self, header: Header, at: usize) {
        let before = self.kept.len() + at.saturating_sub(self.from);
        if before + header.message_len() > limits::BATCH_KEPT_MAX {
            self.give_up();
        }
    }

    /// The batch is not tried again.
    fn give_up(&mut self) {
        self.stage = Stage::Passed;
        self.kept.clear();
    }

    /// A batch that is not kept may end with this message.
    fn end_at(&mut self, tag: u8) {
        if matches!(tag, b'S' | b'Q' | b'F') {
            self.stage = Stage::Start;
            self.parsed = None;
        }
    }

    /// The client is given an answer: the batch is not tried again.
    pub(super) fn answered(&mut self) {
        if let Stage::Kept(last) = self.stage {
            self.give_up();
            if last == Last::Sync {
                self.end_at(b'S');
            }
        }
    }

    /// Whether an error that comes now is the first answer to a batch that is kept.
    pub(super) fn is_keeping(&self) -> bool {
        matches!(self.stage, Stage::Kept(_))
    }

    /// An answer that belongs to the error behind it.
    pub(super) fn hold(&mut self, answer: &[u8]) {
        self.held = answer.to_vec();
    }

    /// What was held.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// The batch has failed. True: the client waits.
    pub(super) fn failed(&mut self, failure: Failure) -> bool {
        self.failure = Some(failure);
        let before = std::mem::replace(&mut self.stage, Stage::Failed);
        before != Stage::Kept(Last::Message)
    }

    /// The name of the statement that has failed.
    pub(super) fn failed_name(&self) -> Option<&[u8]> {
        Some(&self.failure.as_ref()?.named.name)
    }

    /// Whether it is safe to try the batch again: `current` is what the client knows by that name.
    pub(super) fn safe(&self, current: Option<&Rc<Named>>) -> bool {
        let Some(named) = self.failure.as_ref().map(|failure| &failure.named) else {
            return false;
        };
        let Some(current) = current.filter(|now| Rc::ptr_eq(&now.statement, &named.statement))
        else {
            return false;
        };
        let parsed = self
            .parsed
            .as_ref()
            .is_some_and(|parsed| parsed.is_same(named));
        !named.statement.discards() && is_safe(&self.kept, current, parsed).unwrap_or(false)
    }

    /// It is tried again; `synced`: the client has sent a Sync.
    pub(super) fn try_again(&mut self, synced: bool) {
        let last = if synced { Last::Sync } else { Last::Flush };
        self.stage = Stage::Again {
            last,
            asked: synced,
        };
    }

    /// Whether the server has to be asked to be ready; it is, from now on.
    pub(super) fn take_unasked(&mut self) -> bool {
        match &mut self.stage {
            Stage::Again { asked, .. } => !std::mem::replace(asked, true),
            _ => false,
        }
    }

    /// The statement that has failed and the batch, to be sent now. The buffer comes back with [`Recover::sent_again`].
    pub(super) fn take_batch(&mut self) -> Option<(Rc<Named>, Vec<u8>)> {
        let Stage::Again { last, .. } = self.stage else {
            return None;
        };
        let failure = self.failure.take()?;
        self.stage = Stage::Resent(last);
        Some((failure.named, std::mem::take(&mut self.kept)))
    }

    /// The statement that has failed was parsed anew, or is about to be.
    pub(super) fn renew(&mut self, old: &Rc<Named>, new: &Rc<Named>) {
        if self
            .parsed
            .as_ref()
            .is_some_and(|parsed| parsed.is_same(old))
        {
            self.parsed = Some(new.clone());
        }
    }

    /// The batch was sent. The text may have been parsed by others in the meantime, and that be outdated too: then the second
    /// try fails as well, and the third is with a statement that nobody has had.
    pub(super) fn sent_again(&mut self, batch: Vec<u8>) {
        let Stage::Resent(last) = self.stage else {
            return;
        };
        self.kept = batch;
        self.stage = Stage::Kept(last);
        self.tries += 1;
        if self.tries >= limits::TRIES_AGAIN_MAX {
            self.answered();
        }
    }

    /// Whether the batch has failed, and the client does not know.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// The error that the client has to be told after all.
    pub(super) fn take_error(&mut self) -> Option<Vec<u8>> {
        match self.stage {
            Stage::Start | Stage::Passed => Some(self.failure.take()?.error),
            _ => None,
        }
    }

    /// The client is told. `synced`: it has sent a Sync.
    pub(super) fn tell(&mut self, synced: bool) {
        self.give_up();
        if synced {
            self.end_at(b'S');
        }
    }
}

impl Relay {
    /// Whether a message that comes from the server says that the statement of a kept batch is outdated, as the first answer to
    /// it. The next Parse of its text is a real one, wherever the error comes.
    pub(super) fn outdated(
        &mut self,
        header: Header,
        rest: &[u8],
        told: Option<&Told>,
        with: &mut With<'_>,
    ) -> Option<Rc<Named>> {
        let end = header.message_len().min(rest.len());
        let body = rest.get(HEADER_LEN..end).unwrap_or_default();
        if !is_outdated(body) {
            return None;
        }
        let direct = match told {
            Some(Told::Name(named)) if self.expect.uses_statement() => Some(named),
            _ => None,
        };
        if let Some(named) = direct.or(self.recover.bound.as_ref()) {
            with.library.forget(&named.statement);
        }
        direct.filter(|_| self.recover.is_keeping()).cloned()
    }

    /// The types of a statement's parameters, which come before the error that the statement is outdated, as the first answer to
    /// a kept batch. `None`: not enough is here to tell.
    pub(super) fn types_of_outdated<'a>(&self, header: Header, rest: &'a [u8]) -> Option<&'a [u8]> {
        let kept = self.recover.is_keeping() && !self.expect.is_ours();
        if !kept || header.message_len() > limits::BATCH_KEPT_MAX {
            return Some(b"");
        }
        let (types, next) = rest.split_at_checked(header.message_len())?;
        match Header::read(next) {
            Ok(None) => None,
            Ok(Some(error))
                if error.tag == b'E' && error.body_len() <= limits::LOGIN_MESSAGE_MAX =>
            {
                let body = next.get(HEADER_LEN..error.message_len())?;
                Some(if is_outdated(body) { types } else { b"" })
            }
            _ => Some(b""),
        }
    }

    /// A client that is told of the types of a statement's parameters goes by them.
    pub(super) fn notice_types(&self, with: &With<'_>) {
        if let Some(Told::Name(named)) = self.expect.told()
            && let Some(named) = with.client.get(&named.name)
        {
            named.tells_types.set(true);
        }
    }

    /// Before a message of the client's: whether a batch may begin with it that can be tried again.
    pub(super) fn begins_batch(&self) -> bool {
        let idle = self.status == TransactionStatus::Idle;
        self.recover.is_at_start() && idle && !self.expect.has_asked()
    }

    /// Notes a message of the client's of which `count` bytes from `at` on are decided.
    pub(super) fn keep_batch(
        &mut self,
        header: Header,
        begins: bool,
        input: &[u8],
        at: usize,
        count: usize,
        with: &With<'_>,
    ) {
        let (made, named) = self.expect.last();
        let passed = Passed {
            header,
            begins,
            made,
            named,
        };
        if self.recover.passed(passed, at) {
            self.recover.keep(input, at + count);
            self.decide(with);
        }
    }

    /// The client waits for the answer to a batch that has failed: is it tried again, or told?
    pub(super) fn decide(&mut self, with: &With<'_>) {
        let synced = self.expect.status_is_open();
        let name = self.recover.failed_name();
        let current = name.and_then(|name| with.client.get(name));
        if !self.recover.safe(current) {
            return self.recover.tell(synced);
        }
        self.recover.try_again(synced);
        if synced {
            self.expect.own_sync();
        }
    }

    /// An error that was kept from the client and is due.
    pub(super) fn take_error(&mut self) -> Option<Vec<u8>> {
        let error = self.recover.take_error()?;
        self.last_answer = b'E';
        Some(error)
    }

    /// Whether [`Relay::try_again`] has something to say, now or when the server has answered.
    pub fn is_to_try_again(&self) -> bool {
        self.recover.is_pending()
    }

    /// What goes to the server, if a batch is to be tried again: what makes it ready, or the batch.
    pub fn try_again(&mut self, with: &mut With<'_>, out: &mut Vec<u8>) {
        if self.recover.take_unasked() {
            self.expect.synced_by_us();
            return frame::message(out, b'S', |_| {});
        }
        if !self.recover.is_pending() || self.expect.owed() > 0 {
            return;
        }
        let Some((named, batch)) = self.recover.take_batch() else {
            return;
        };
        let statement = &named.statement;
        if let Some(new) =
            with.library
                .named(statement.text(), statement.types(), statement.encoding())
            && let Some(old) = with.client.get(&named.name)
        {
            let renewed = Rc::new(old.renewed(new));
            self.recover.renew(&named, &renewed);
            with.client.set(&named.name, Some(renewed));
        }
        let passage = self.up_rewriting(&batch, with, out);
        if passage.pass < batch.len() {
            self.expect.doubt(); // it had passed once
        }
        self.recover.sent_again(batch);
    }
}

/// Whether a kept batch may be tried again with `named` parsed anew. `None`: it has a message that makes no sense.
fn is_safe(batch: &[u8], named: &Named, parsed: bool) -> Option<bool> {
    let mut rest = batch;
    let mut described = parsed;
    let mut portal: Option<&[u8]> = None;
    while !rest.is_empty() {
        let (tag, body, after) = whole(rest, limits::BATCH_KEPT_MAX).ok()??;
        rest = after;
        match tag {
            b'B' => {
                let bind = Bind::read(body)?;
                let ours = named.is_called(bind.statement);
                if portal.is_some() || !ours || !bind.holds(named, parsed) {
                    return Some(false);
                }
                portal = Some(bind.portal);
            }
            b'D' => {
                let (name, _) = take_cstr(body.get(1..)?)?;
                described |= match body.first()? {
                    b'S' => named.is_called(name),
                    _ => portal == Some(name),
                };
            }
            b'E' if !described => return Some(false),
            _ => {}
        }
    }
    Some(described || portal.is_none()) // else it could be run later, behind a Flush
}

/// What matters of a Bind.
struct Bind<'a> {
    portal: &'a [u8],
    statement: &'a [u8],
    values: usize,
    result_formats: usize,
}

impl Bind<'_> {
    fn read(body: &[u8]) -> Option<Bind<'_>> {
        let (portal, rest) = take_cstr(body)?;
        let (statement, rest) = take_cstr(rest)?;
        let (formats, rest) = take_u16(rest)?;
        let (values, mut rest) = take_u16(rest.get(2 * formats..)?)?;
        for _ in 0..values {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0); // -1: NULL
            rest = after.get(length..)?;
        }
        let (result_formats, _) = take_u16(rest)?;
        Some(Bind {
            portal,
            statement,
            values,
            result_formats,
        })
    }

    /// Whether it means the same when the statement was parsed anew.
    fn holds(&self, named: &Named, parsed: bool) -> bool {
        let one_for_all = self.result_formats <= 1;
        let types_are_fixed = self.values <= named.statement.fixed_types();
        (one_for_all || parsed) && (types_are_fixed || !named.tells_types.get())
    }
}

/// Whether an error says that a statement is outdated, of which the end may be missing. Its text may be translated, but for
/// that of an internal error.
pub(super) fn is_outdated(body: &[u8]) -> bool {
    let (mut code, mut text, mut routine): (&[u8], &[u8], &[u8]) = (b"", b"", b"");
    let mut rest = body;
    while let Some((&field, after)) = rest.split_first()
        && let Some((value, after)) = take_cstr(after)
    {
        match field {
            b'C' => code = value,
            b'M' => text = value,
            b'R' => routine = value,
            _ => {}
        }
        rest = after;
    }
    match code {
        b"0A000" => routine == b"RevalidateCachedQuery",
        b"XX000" => text.starts_with(b"cache lookup failed for type "),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::prepared::{Described, Library};
    use super::*;
    use crate::wire::frame::{cstr, message};

    fn error(fields: &[(u8, &str)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (field, text) in fields {
            body.push(*field);
            cstr(&mut body, text.as_bytes());
        }
        body.push(0);
        body
    }

    #[test]
    fn an_outdated_statement_is_known_by_the_routine_whatever_the_language() {
        let german = "im zwischengespeicherten Plan darf sich der Ergebnistyp nicht ändern";
        let routine = "RevalidateCachedQuery";
        let gone = "cache lookup failed for type 16400";
        for (fields, outdated) in [
            ([(b'C', "0A000"), (b'M', german), (b'R', routine)], true),
            ([(b'C', "0A000"), (b'M', german), (b'R', "ExecCopy")], false),
            ([(b'C', "42703"), (b'M', german), (b'R', routine)], false),
            ([(b'C', "XX000"), (b'M', gone), (b'R', "any")], true),
            (
                [
                    (b'C', "XX000"),
                    (b'M', "cache lookup failed for index 1"),
                    (b'R', "any"),
                ],
                false,
            ),
            ([(b'C', "22P02"), (b'M', gone), (b'R', "any")], false),
        ] {
            let body = error(&fields);
            assert_eq!(is_outdated(&body), outdated, "{fields:?}");
            for end in 0..body.len() {
                let _ = is_outdated(&body[..end]);
            }
        }
    }

    /// `B`ind and `E`xecute of the statement, `D`escribe of the portal, `d`escribe of the statement, `o`ther statement's.
    fn batch(script: &str, values: u8, result_formats: u8) -> Vec<u8> {
        let mut out = Vec::new();
        for step in script.bytes() {
            match step {
                b'B' => message(&mut out, b'B', |b| {
                    b.extend_from_slice(b"\0s\0\0\0");
                    b.extend_from_slice(&[0, values]);
                    (0..values).for_each(|_| b.extend_from_slice(b"\0\0\0\x011"));
                    b.extend_from_slice(&[0, result_formats]);
                    (0..result_formats).for_each(|_| b.extend_from_slice(&[0, 1]));
                }),
                b'D' => message(&mut out, b'D', |b| b.extend_from_slice(b"P\0")),
                b'd' => message(&mut out, b'D', |b| b.extend_from_slice(b"Ss\0")),
                b'o' => message(&mut out, b'D', |b| b.extend_from_slice(b"Sother\0")),
                b'E' => message(&mut out, b'E', |b| b.extend_from_slice(b"\0\0\0\0\0")),
                other => message(&mut out, other, |_| {}),
            }
        }
        out
    }

    fn named(types: &[u8]) -> Named {
        let statement = Library::default().named(b"SELECT $1", types, b"");
        Named::new(b"s", statement.expect("room"), Described::default())
    }

    fn safe(batch: &[u8], named: &Named, parsed: bool) -> bool {
        is_safe(batch, named, parsed).expect("it makes sense")
    }

    #[test]
    fn a_batch_that_runs_a_statement_has_to_tell_of_the_shape_of_its_rows() {
        let named = named(b"\0\0");
        for script in ["BDES", "dBES", "dS", "dH", "dHBES", "BDHES", "BDEES", "BDS"] {
            assert!(safe(&batch(script, 0, 1), &named, false), "{script}");
        }
        for script in ["BES", "BEDS", "BH", "oBES", "BoES", "BDEBES", "BDEBDES"] {
            assert!(!safe(&batch(script, 0, 1), &named, false), "{script}");
        }
        assert!(
            safe(&batch("BES", 0, 1), &named, true),
            "it was parsed in it"
        );
        assert!(
            !safe(&batch("BDES", 0, 2), &named, false),
            "for two columns"
        );
        let cut = batch("BDES", 0, 1);
        assert_eq!(is_safe(&cut[..cut.len() - 1], &named, false), None);
    }

    /// A value in the binary form of an int4 is a float4 too, and another one.
    #[test]
    fn values_chosen_by_types_that_may_have_changed_are_not_sent_again() {
        let told = |types: &[u8]| {
            let named = named(types);
            named.tells_types.set(true);
            named
        };
        let one = batch("BDES", 1, 1);
        assert!(!safe(&one, &told(b"\0\0"), false));
        assert!(!safe(&one, &told(b"\0\x01\0\0\0\0"), false));
        assert!(safe(&one, &told(b"\0\x01\0\0\0\x17"), false), "fixed");
        assert!(!safe(
            &batch("BDES", 2, 1),
            &told(b"\0\x01\0\0\0\x17"),
            false
        ));
        assert!(safe(&one, &named(b"\0\0"), false), "it was never told");
        assert!(
            safe(&batch("BDES", 0, 1), &told(b"\0\0"), false),
            "no values"
        );
    }
}
