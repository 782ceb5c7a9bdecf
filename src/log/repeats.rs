//! Keeps one reason from filling the log: of lines that say the same, so many a second are written; then one tells how many more
//! there were. Pure: the time is given.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, SystemTime};

use ::log::Record;

use super::Entry;
use crate::limits;

/// A reason has its share anew after this.
const WINDOW: Duration = Duration::from_secs(1);

/// What lines that say the same have in common: the place in our source, and the field `reason` where there is one; as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reason(u64);

impl Reason {
    pub(super) fn of(record: &Record<'_>) -> Reason {
        let given = record.key_values().get("reason".into());
        Reason::new(record.file(), record.line(), given)
    }

    fn new(file: Option<&str>, line: Option<u32>, given: Option<impl fmt::Display>) -> Reason {
        let mut hashed = Hashed(DefaultHasher::new());
        (file, line, given.is_some()).hash(&mut hashed.0);
        if let Some(given) = given {
            let _ = write!(hashed, "{given}");
        }
        Reason(hashed.0.finish())
    }
}

/// A text of which nothing but the hash is wanted.
struct Hashed(DefaultHasher);

impl fmt::Write for Hashed {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        self.0.write(piece.as_bytes());
        Ok(())
    }
}

/// What was said lately, by reason.
pub(super) struct Repeats {
    limit: u64,
    seen: BTreeMap<Reason, Seen>,
}

struct Seen {
    since: SystemTime,
    count: u64,
    held: Option<Held>,
}

impl Seen {
    /// How much of its window is left. A clock that was set back ends it, too.
    fn left(&self, now: SystemTime) -> Duration {
        let age = now.duration_since(self.since).unwrap_or(WINDOW);
        WINDOW.saturating_sub(age)
    }
}

/// Lines that were not written: the first, and how many there were.
pub(super) struct Held {
    first: Entry,
    count: u64,
}

impl Held {
    /// The line that tells of them.
    pub(super) fn told(self, at: SystemTime) -> Entry {
        let Held { first, count } = self;
        let mut fields = first.fields;
        fields.push(("repeated".to_owned(), count.to_string()));
        Entry {
            at,
            text: format!("repeated {count} times: {}", first.text),
            fields,
            ..first
        }
    }
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

    /// Whether a line is to be written that is said at this time. `entry` makes it.
    pub(super) fn pass(
        &mut self,
        reason: Reason,
        at: SystemTime,
        entry: impl FnOnce() -> Entry,
    ) -> bool {
        if self.limit == 0 {
            return true;
        }
        if self.seen.len() >= limits::LOG_REASONS_MAX && !self.seen.contains_key(&reason) {
            return true;
        }
        let seen = self.seen.entry(reason).or_insert(Seen {
            since: at,
            count: 0,
            held: None,
        });
        seen.count += 1;
        let passes = seen.count <= self.limit;
        if !passes {
            let held = seen.held.get_or_insert_with(|| Held {
                first: entry(),
                count: 0,
            });
            held.count += 1;
        }
        passes
    }

    /// How long nothing may have to be said.
    pub(super) fn patience(&self, now: SystemTime) -> Duration {
        let left = self.seen.values().map(|seen| seen.left(now));
        left.min().unwrap_or(Duration::from_secs(3600))
    }

    /// What was not written of reasons whose time is over by `now`; `None`: of all.
    pub(super) fn over(&mut self, now: Option<SystemTime>) -> Vec<Held> {
        let mut over = Vec::new();
        self.seen.retain(|_, seen| {
            let stays = now.is_some_and(|now| !seen.left(now).is_zero());
            if !stays {
                over.extend(seen.held.take());
            }
            stays
        });
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::log::Level;

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }

    fn pass(repeats: &mut Repeats, reason: u64, text: &str, ms: u64) -> bool {
        repeats.pass(Reason(reason), at(ms), || Entry {
            at: at(ms),
            level: Level::Info,
            fatal: false,
            text: text.to_owned(),
            fields: Vec::new(),
        })
    }

    #[test]
    fn a_reason_has_its_share_of_a_second_and_the_rest_is_counted() {
        let mut repeats = Repeats::new(2);
        let passed = (0..5).map(|n| pass(&mut repeats, 1, &format!("line {n}"), n));
        assert_eq!(
            passed.collect::<Vec<_>>(),
            [true, true, false, false, false]
        );
        assert!(pass(&mut repeats, 2, "another reason", 5));
        assert!(repeats.over(Some(at(900))).is_empty());
        let told = repeats.over(Some(at(1_005)));
        assert_eq!(told.len(), 1);
        let told = told.into_iter().map(|held| held.told(at(1_005)));
        for entry in told {
            assert_eq!(entry.at, at(1_005));
            assert_eq!(entry.text, "repeated 3 times: line 2");
            assert_eq!(entry.fields, [("repeated".to_owned(), "3".to_owned())]);
        }
        assert!(pass(&mut repeats, 1, "anew", 1_100));
        assert!(repeats.over(None).is_empty(), "nothing was held back");
    }

    #[test]
    fn what_was_held_back_is_told_under_another_limit_too() {
        let mut repeats = Repeats::new(1);
        assert!(pass(&mut repeats, 1, "line", 0));
        assert!(!pass(&mut repeats, 1, "line", 1));
        repeats.limit(10);
        assert!(pass(&mut repeats, 1, "line", 2));
        let told = repeats.over(None);
        assert_eq!(told.len(), 1);
        let told = told.into_iter().map(|held| held.told(at(3)).text);
        assert_eq!(told.collect::<Vec<_>>(), ["repeated 1 times: line"]);
    }

    #[test]
    fn patience_ends_with_the_first_window() {
        let mut repeats = Repeats::new(1);
        assert!(repeats.patience(at(0)) > Duration::from_secs(60));
        assert!(pass(&mut repeats, 1, "line", 10_000));
        assert!(pass(&mut repeats, 2, "line", 10_300));
        assert_eq!(repeats.patience(at(10_950)), Duration::from_millis(50));
        assert_eq!(repeats.patience(at(11_200)), Duration::ZERO);
        assert!(repeats.over(Some(at(11_200))).is_empty());
        assert_eq!(repeats.patience(at(11_200)), Duration::from_millis(100));
        assert_eq!(repeats.patience(at(9_000)), Duration::ZERO, "set back");
    }

    #[test]
    fn without_a_limit_everything_is_written() {
        let mut repeats = Repeats::new(0);
        assert!((0..1_000).all(|n| pass(&mut repeats, 1, "line", n)));
    }

    #[test]
    fn only_a_line_that_is_held_back_first_is_made() {
        let mut repeats = Repeats::new(1);
        let mut made = 0;
        for n in 0..10 {
            repeats.pass(Reason(1), at(n), || {
                made += 1;
                Entry {
                    at: at(n),
                    level: Level::Info,
                    fatal: false,
                    text: String::new(),
                    fields: Vec::new(),
                }
            });
        }
        assert_eq!(made, 1);
    }

    #[test]
    fn the_place_and_the_reason_make_the_difference() {
        let of = |line, text: &str| Reason::new(Some("close.rs"), Some(line), Some(text));
        assert_eq!(of(1, "a"), of(1, "a"));
        assert_ne!(of(1, "a"), of(1, "b"));
        assert_ne!(of(1, "a"), of(2, "a"));
    }
}
