//! What a client leaves in the session of a server that it shares, and the SQL that takes it away again.
//!
//! Two witnesses: the words of the client's texts ([`Seen`]) and the tags of the commands that the server says it has run
//! ([`Ran`]). The tags keep it cheap: `SET` is a word of every UPDATE, but the tag of few transactions. What a function does is
//! seen by neither.

use super::words::Seen;

/// Commands that were run, by their tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran(u8);

impl Ran {
    const SET: Ran = Ran(1);
    /// `SELECT`, and what is told as such.
    pub const SELECT: Ran = Ran(2);
    const LISTEN: Ran = Ran(4);
    const PREPARE: Ran = Ran(8);
    const DECLARE: Ran = Ran(16);
    /// `DO`: its words may have been run, whichever they are.
    const DO: Ran = Ran(32);

    /// Notes the tag of a CommandComplete.
    pub fn note(&mut self, tag: &[u8]) {
        let what = match tag {
            b"SET" => Ran::SET,
            b"LISTEN" => Ran::LISTEN,
            b"PREPARE" => Ran::PREPARE,
            b"DECLARE CURSOR" => Ran::DECLARE,
            b"DO" => Ran::DO,
            _ if tag.starts_with(b"SELECT") => Ran::SELECT,
            _ => return,
        };
        self.0 |= what.0;
    }

    /// Adds what `other` has.
    pub fn add(&mut self, other: Ran) {
        self.0 |= other.0;
    }

    fn has(self, other: Ran) -> bool {
        self.0 & other.0 != 0
    }
}

/// Whether the session may hear of notifications that the client has asked for.
pub fn listens(seen: Seen, ran: Ran) -> bool {
    ran.has(Ran::LISTEN) || ran.has(Ran::DO) && seen.contains(Seen::LISTEN)
}

/// What undoes that a session has become somebody else.
pub const RESET_ROLE: &str = "RESET SESSION AUTHORIZATION; RESET ROLE";
/// Ends the statements that Aether has prepared for all clients, too.
pub const DEALLOCATE_ALL: &str = "DEALLOCATE ALL";

/// Whether [`undoing`] has nothing to say, seen at a glance. False if in doubt.
pub fn leaves_nothing(seen: Seen, ran: Ran) -> bool {
    let only_select = ran.0 & !Ran::SELECT.0 == 0;
    only_select && !seen.has_any(Seen::SET_CONFIG) && !seen.has_any(Seen::LOCK) && {
        !seen.has_any(Seen::TEMPORARY)
    }
}

/// The SQL that undoes what may be left, in order; nothing as a rule. `all`: everything, or only who the session is.
pub fn undoing(seen: Seen, ran: Ran, all: bool) -> Vec<&'static str> {
    if seen == Seen::default() && !ran.has(Ran::LISTEN) && !ran.has(Ran::PREPARE) {
        return Vec::new(); // as a rule
    }
    let by_set = (ran.has(Ran::SET) || ran.has(Ran::DO)) && seen.contains(Seen::SET_SESSION);
    let set = by_set || seen.contains(Seen::SET_CONFIG);
    let prepared = ran.has(Ran::PREPARE) || ran.has(Ran::DO) && seen.contains(Seen::PREPARED);
    let held = (ran.has(Ran::DECLARE) || ran.has(Ran::DO)) && seen.contains(Seen::HOLD);
    let into = seen.contains(Seen::INTO) && (ran.has(Ran::SELECT) || ran.has(Ran::DO));
    let temporary = seen.contains(Seen::TEMPORARY) && (seen.contains(Seen::CREATE) || into);
    let locked = seen.contains(Seen::LOCK);
    [
        (set && seen.contains(Seen::IDENTITY), RESET_ROLE),
        (all && set, "RESET ALL"),
        (all && listens(seen, ran), "UNLISTEN *"),
        (all && held, "CLOSE ALL"),
        (all && prepared, DEALLOCATE_ALL),
        (all && locked, "SELECT pg_catalog.pg_advisory_unlock_all()"),
        (all && temporary, "DISCARD TEMP"),
    ]
    .into_iter()
    .filter_map(|(left, sql)| left.then_some(sql))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::words::Words;
    use super::*;

    /// What is undone after a transaction of this text, whose commands had these tags.
    fn undone(text: &str, tags: &[&str]) -> String {
        let (mut words, mut seen, mut ran) = (Words::default(), Seen::default(), Ran::default());
        words.read(text.as_bytes(), &mut seen);
        words.end(&mut seen);
        tags.iter().for_each(|tag| ran.note(tag.as_bytes()));
        undoing(seen, ran, true).join("; ")
    }

    fn at_a_glance(text: &str, tags: &[&str]) -> bool {
        let (mut words, mut seen, mut ran) = (Words::default(), Seen::default(), Ran::default());
        words.read(text.as_bytes(), &mut seen);
        words.end(&mut seen);
        tags.iter().for_each(|tag| ran.note(tag.as_bytes()));
        leaves_nothing(seen, ran)
    }

    #[test]
    fn what_a_client_leaves_is_undone() {
        let rows: [(&str, &[&str], &str); 17] = [
            ("set search_path = a", &["SET"], "RESET ALL"),
            ("SET/**/search_path = a", &["SET"], "RESET ALL"),
            ("SET -- local\n x = 1", &["SET"], "RESET ALL"),
            ("SET LOCAL x = 1; SET y = 2", &["SET", "SET"], "RESET ALL"),
            (
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                &["SET"],
                "RESET ALL",
            ),
            (
                "SELECT set_config('x', 'y', false)",
                &["SELECT 1"],
                "RESET ALL",
            ),
            ("DO $$ BEGIN SET x = 1; END $$", &["DO"], "RESET ALL"),
            (
                "SET ROLE x",
                &["SET"],
                "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL",
            ),
            (
                "SELECT set_config('role', 'x', false)",
                &["SELECT 1"],
                "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL",
            ),
            ("LISTEN c", &["LISTEN"], "UNLISTEN *"),
            (
                "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
                &["DECLARE CURSOR"],
                "CLOSE ALL",
            ),
            ("PREPARE p AS SELECT 1", &["PREPARE"], "DEALLOCATE ALL"),
            (
                "SELECT pg_try_advisory_lock(1)",
                &["SELECT 1"],
                "SELECT pg_catalog.pg_advisory_unlock_all()",
            ),
            (
                "CREATE TEMP TABLE t (x int)",
                &["CREATE TABLE"],
                "DISCARD TEMP",
            ),
            (
                "CREATE /* */ TEMP TABLE t AS SELECT 1",
                &["SELECT 1"],
                "DISCARD TEMP",
            ),
            ("SELECT 1 INTO TEMP t", &["SELECT 1"], "DISCARD TEMP"),
            (
                "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
                &["CREATE FUNCTION"],
                "DISCARD TEMP",
            ),
        ];
        for (text, tags, sql) in rows {
            assert_eq!(undone(text, tags), sql, "{text}");
            assert!(!at_a_glance(text, tags), "{text}");
        }
    }

    /// Each would be a round trip more for every transaction of its kind.
    #[test]
    fn what_leaves_nothing_costs_nothing() {
        let rows: [(&str, &[&str]); 10] = [
            ("UPDATE users SET role = 'x', temp = 1", &["UPDATE 1"]),
            (
                "BEGIN; SET LOCAL x = 1; COMMIT",
                &["BEGIN", "SET", "COMMIT"],
            ),
            ("SET TRANSACTION READ ONLY", &["SET"]),
            ("SET CONSTRAINTS ALL DEFERRED", &["SET CONSTRAINTS"]),
            ("SELECT temp FROM sensors", &["SELECT 1"]),
            ("INSERT INTO sensors (temp) VALUES (1)", &["INSERT 0 1"]),
            ("DECLARE c CURSOR FOR SELECT 1", &["DECLARE CURSOR"]),
            ("SELECT pg_advisory_xact_lock(1)", &["SELECT 1"]),
            ("NOTIFY c", &["NOTIFY"]),
            ("SELECT hold, role FROM listen", &["SELECT 1"]),
        ];
        for (text, tags) in rows {
            assert_eq!(undone(text, tags), "", "{text}");
        }
    }
}
