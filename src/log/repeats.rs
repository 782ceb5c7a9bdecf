//! Keeps one reason from filling the log: of lines that say the same, so many a second are written; then one tells how many more
//! there were. Pure: the time is given.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use super::Entry;
use crate::limits;

/// A reason has its share anew after this.
const WINDOW: Duration = Duration::from_secs(1);

/// What lines have in common: the place in our source, and the reason where one is given.
pub(super) fn reason(file: Option<&str>, line: Option<u32>, reason: Option<&String>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (file, line, reason).hash(&mut hasher);
    hasher.finish()
}

/// What was said lately, by reason.
pub(super) struct Repeats {
    limit: u64,
    seen: BTreeMap<u64, Seen>,
}

struct Seen {
    since: SystemTime,
    count: u64,
    /// The last line that was not written.
    last: Option<Entry>,
}

impl Repeats {
    pub(super) fn new(limit: u64) -> Repeats {
        Repeats {
            limit,
            seen: BTreeMap::new(),
        }
    }

    pub(super) fn limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Whether a line is to be written.
    pub(super) fn pass(&mut self, entry: &Entry) -> bool {
        if self.limit == 0 || entry.fatal {
            return true;
        }
        if self.seen.len() >= limits::LOG_REASONS_MAX && !self.seen.contains_key(&entry.reason) {
            return true;
        }
        let seen = self.seen.entry(entry.reason).or_insert(Seen {
            since: entry.at,
            count: 0,
            last: None,
        });
        seen.count += 1;
        let passes = seen.count <= self.limit;
        if !passes {
            seen.last = Some(Entry {
                text: entry.text.clone(),
                fields: entry.fields.clone(),
                ..*entry
            });
        }
        passes
    }

    /// How long nothing may have to be said.
    pub(super) fn patience(&self) -> Duration {
        match self.seen.is_empty() {
            true => Duration::from_secs(3600),
            false => WINDOW,
        }
    }

    /// Lines that tell of what was not written, of reasons whose time is over by `now`; `None`: of all.
    pub(super) fn over(&mut self, now: Option<SystemTime>) -> Vec<Entry> {
        let is_over = |seen: &Seen| {
            // A clock that was set back ends it, too.
            now.is_none_or(|now| {
                now.duration_since(seen.since)
                    .is_ok_and(|age| age >= WINDOW)
                    || now < seen.since
            })
        };
        let keys: Vec<u64> = self
            .seen
            .iter()
            .filter(|(_, seen)| is_over(seen))
            .map(|(key, _)| *key)
            .collect();
        let over = keys.iter().filter_map(|key| self.seen.remove(key));
        let over = over.filter_map(|seen| {
            let mut last = seen.last?;
            let more = seen.count - self.limit;
            last.text = format!("repeated {more} times: {}", last.text);
            last.fields.push(("repeated".to_owned(), more.to_string()));
            Some(last)
        });
        over.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::log::Level;

    fn entry(reason: u64, text: &str, ms: u64) -> Entry {
        Entry {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(ms),
            level: Level::Info,
            fatal: false,
            text: text.to_owned(),
            fields: Vec::new(),
            reason,
        }
    }

    #[test]
    fn a_reason_has_its_share_of_a_second_and_the_rest_is_counted() {
        let mut repeats = Repeats::new(2);
        let passed = (0..5).map(|n| repeats.pass(&entry(1, &format!("line {n}"), n)));
        assert_eq!(
            passed.collect::<Vec<_>>(),
            [true, true, false, false, false]
        );
        assert!(repeats.pass(&entry(2, "another reason", 5)));
        let at = |ms| Some(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        assert!(repeats.over(at(900)).is_empty());
        let told = repeats.over(at(1_005));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].text, "repeated 3 times: line 4");
        assert!(repeats.pass(&entry(1, "anew", 1_100)));
        assert!(repeats.over(None).is_empty(), "nothing was held back");
    }

    #[test]
    fn without_a_limit_everything_is_written() {
        let mut repeats = Repeats::new(0);
        assert!((0..1_000).all(|n| repeats.pass(&entry(1, "line", n))));
    }

    #[test]
    fn the_place_and_the_reason_make_the_difference() {
        let of = |line, text: &str| reason(Some("close.rs"), Some(line), Some(&text.to_owned()));
        assert_eq!(of(1, "a"), of(1, "a"));
        assert_ne!(of(1, "a"), of(1, "b"));
        assert_ne!(of(1, "a"), of(2, "a"));
    }
}
