//! What two statements have in common that only differ in their values: the text without them.
//!
//! Literals, numbers and parameters become `?`, comments go, blanks become one, words are in lower case, and lists of values are
//! written once: `select * from t where id in (?, ...)`. Read with standard_conforming_strings on, as it is by default. Pure:
//! bytes in, bytes out, in one pass; what is no SQL has a fingerprint, too. No value of a statement is left in it, but for
//! what stands in double quotes or is a word.

use crate::limits::{FINGERPRINT_MAX, FINGERPRINT_WITHIN, NAME_LEN};

/// Appends the fingerprint of a statement to `out`, which is empty: at most [`FINGERPRINT_MAX`] bytes of it, of its first
/// [`FINGERPRINT_WITHIN`] bytes.
pub fn write(sql: &[u8], out: &mut Vec<u8>) {
    let within = sql.get(..FINGERPRINT_WITHIN).unwrap_or(sql);
    let mut writer = Writer {
        rest: within,
        out,
        blank: false,
        groups: Vec::new(),
        last_group: None,
    };
    writer.run();
}

/// Bytes that words are made of: one look where there would be five comparisons, for most of the text.
const IN_WORDS: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let is_letter = (byte as u8).is_ascii_alphanumeric() || byte >= 0x80;
        table[byte] = is_letter || byte == b'_' as usize || byte == b'$' as usize;
        byte += 1;
    }
    table
};

/// How deep parentheses are looked at as lists.
const DEPTH_MAX: usize = 64;

/// Where a pair of parentheses stands: from, to.
type Pair = (usize, usize);

struct Writer<'a> {
    rest: &'a [u8],
    out: &'a mut Vec<u8>,
    /// There was a blank or a comment.
    blank: bool,
    /// Where the parentheses began that are open, each with the pair that was before it.
    groups: Vec<(usize, Option<Pair>)>,
    /// Where the last pair of parentheses stands, if nothing but a comma came behind it.
    last_group: Option<Pair>,
}

impl Writer<'_> {
    fn run(&mut self) {
        while let Some((&first, after)) = self.rest.split_first() {
            if self.out.len() >= FINGERPRINT_MAX {
                break;
            }
            match first {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {
                    self.blank = true;
                    self.rest = after;
                }
                b'-' if after.first() == Some(&b'-') => {
                    self.skip_line();
                }
                b'/' if after.first() == Some(&b'*') => self.skip_comment(),
                b'\'' => self.literal(1, false),
                b'"' => self.quoted(),
                b'$' => self.dollar(),
                b'0'..=b'9' => self.number(),
                b'.' if after.first().is_some_and(u8::is_ascii_digit) => self.number(),
                b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => self.word(),
                b'(' => {
                    self.before(b'(');
                    if self.groups.len() < DEPTH_MAX {
                        self.groups.push((self.out.len(), self.last_group.take()));
                    }
                    self.out.push(b'(');
                    self.rest = after;
                }
                b')' => {
                    self.blank = false;
                    self.out.push(b')');
                    self.rest = after;
                    self.group_ends();
                }
                b',' => {
                    self.blank = false;
                    self.out.push(b',');
                    self.rest = after;
                }
                b';' if self.is_last() => break,
                0 => break,
                other => {
                    self.before(other);
                    self.out.push(other);
                    self.rest = after;
                }
            }
        }
        self.out.truncate(FINGERPRINT_MAX);
        while self.out.last() == Some(&b' ') {
            self.out.pop();
        }
    }

    /// Puts the blank that was before this.
    fn before(&mut self, next: u8) {
        let last = self.out.last().copied();
        let wanted = match last {
            None | Some(b'(') => false,
            Some(b',') => true,
            Some(_) => self.blank,
        };
        if wanted {
            self.out.push(b' ');
        }
        self.blank = false;
        if next != b'(' {
            self.last_group = None;
        }
    }

    fn skip_line(&mut self) {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        self.rest = self
            .rest
            .get(end.unwrap_or(self.rest.len())..)
            .unwrap_or_default();
        self.blank = true;
    }

    /// Comments may hold others.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        let mut at = 0;
        while let Some(pair) = self.rest.get(at..at + 2) {
            match pair {
                b"/*" => (depth, at) = (depth + 1, at + 2),
                b"*/" => (depth, at) = (depth.saturating_sub(1), at + 2),
                _ => at += 1,
            }
            if depth == 0 {
                break;
            }
        }
        if depth > 0 {
            at = self.rest.len();
        }
        self.rest = self.rest.get(at..).unwrap_or_default();
        self.blank = true;
    }

    /// A literal whose text begins at `from`. `escapes`: a backslash protects what follows.
    fn literal(&mut self, from: usize, escapes: bool) {
        let mut at = from;
        loop {
            match self.rest.get(at) {
                None => break,
                Some(b'\\') if escapes => at += 2,
                Some(b'\'') if self.rest.get(at + 1) == Some(&b'\'') => at += 2,
                Some(b'\'') => {
                    at += 1;
                    break;
                }
                Some(_) => at += 1,
            }
        }
        self.rest = self.rest.get(at..).unwrap_or_default();
        self.value();
    }

    /// A name in double quotes, as it is.
    fn quoted(&mut self) {
        self.before(b'"');
        let mut at = 1;
        loop {
            match self.rest.get(at) {
                None => break,
                Some(b'"') if self.rest.get(at + 1) == Some(&b'"') => at += 2,
                Some(b'"') => {
                    at += 1;
                    break;
                }
                Some(_) => at += 1,
            }
        }
        let (name, rest) = self.rest.split_at_checked(at).unwrap_or((self.rest, &[]));
        self.out.extend_from_slice(name);
        self.rest = rest;
    }

    /// `$1`, `$tag$ ... $tag$`, or a sign.
    fn dollar(&mut self) {
        let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
        let inside = self.rest.get(1..).unwrap_or_default();
        let length = inside.iter().take_while(|byte| word(byte)).count();
        let is_number = inside.first().is_some_and(u8::is_ascii_digit);
        if is_number {
            let digits = inside.iter().take_while(|byte| byte.is_ascii_digit());
            let digits = digits.count();
            self.rest = inside.get(digits..).unwrap_or_default();
            return self.value();
        }
        // A tag is a name; a longer one is none of PostgreSQL's.
        if inside.get(length) != Some(&b'$') || length > NAME_LEN {
            self.before(b'$');
            self.out.push(b'$');
            self.rest = inside;
            return;
        }
        let (tag, body) = self
            .rest
            .split_at_checked(length + 2)
            .unwrap_or((self.rest, &[]));
        let end = body.windows(tag.len()).position(|part| part == tag);
        self.rest = end
            .and_then(|end| body.get(end + tag.len()..))
            .unwrap_or_default();
        self.value();
    }

    fn number(&mut self) {
        let mut at = 0;
        while let Some(byte) = self.rest.get(at) {
            let sign = matches!(byte, b'+' | b'-')
                && at > 0
                && matches!(self.rest.get(at - 1), Some(b'e' | b'E'))
                && self.rest.get(at + 1).is_some_and(u8::is_ascii_digit)
                && !self.rest.starts_with(b"0x")
                && !self.rest.starts_with(b"0X");
            if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') || sign {
                at += 1;
            } else {
                break;
            }
        }
        self.rest = self.rest.get(at..).unwrap_or_default();
        self.value();
    }

    fn word(&mut self) {
        let end = |byte: &u8| !IN_WORDS[usize::from(*byte)];
        let length = self.rest.iter().position(end).unwrap_or(self.rest.len());
        let (word, rest) = self
            .rest
            .split_at_checked(length)
            .unwrap_or((self.rest, &[]));
        // A prefix of a literal: E'', B'', X'', N'', U&''.
        match (word, rest) {
            (b"e" | b"E", [b'\'', ..]) => return self.literal(2, true),
            (b"b" | b"B" | b"x" | b"X" | b"n" | b"N", [b'\'', ..]) => {
                return self.literal(2, false);
            }
            (b"u" | b"U", [b'&', b'\'', ..]) => return self.literal(3, false),
            _ => {}
        }
        self.before(b'a');
        let begin = self.out.len();
        self.out.extend_from_slice(word);
        if let Some(word) = self.out.get_mut(begin..) {
            word.make_ascii_lowercase();
        }
        self.rest = rest;
    }

    /// A value: `?`, or nothing more where it goes on a list of them.
    fn value(&mut self) {
        self.last_group = None;
        if self.out.ends_with(b", ...,") {
            self.out.pop();
        } else if self.out.ends_with(b"?,") {
            self.out.extend_from_slice(b" ...");
        } else {
            self.before(b'?');
            self.out.push(b'?');
        }
        self.blank = false;
    }

    /// A pair of parentheses is closed. If it is the same as the one before it, with a comma between, it is not written again.
    fn group_ends(&mut self) {
        let Some((begin, before)) = self.groups.pop() else {
            self.last_group = None;
            return;
        };
        let end = self.out.len();
        if let Some((from, to)) = before
            && let (Some(one), Some(other)) = (self.out.get(from..to), self.out.get(begin..end))
            && one == other
        {
            let between = self.out.get(to..begin).unwrap_or_default();
            match between {
                b", " => {
                    self.out.truncate(to);
                    self.out.extend_from_slice(b", ...");
                    self.last_group = before;
                    return;
                }
                b", ..., " => {
                    self.out.truncate(begin - 2);
                    self.last_group = before;
                    return;
                }
                _ => {}
            }
        }
        self.last_group = Some((begin, end));
    }

    /// Whether nothing but blanks and comments comes behind the semicolon.
    fn is_last(&self) -> bool {
        let rest = self.rest.get(1..).unwrap_or_default();
        rest.iter()
            .all(|byte| byte.is_ascii_whitespace() || matches!(byte, b';' | 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> String {
        let mut out = Vec::new();
        write(sql.as_bytes(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn values_go_and_the_rest_stays() {
        for (sql, wanted) in [
            ("SELECT 1", "select ?"),
            (
                "select  *\n from T where a = 'x''y' and b=-1.5e-3;",
                "select * from t where a = ? and b=-?",
            ),
            ("select $1, $2::int", "select ?, ...::int"),
            ("SELECT a1, b2c FROM t_3", "select a1, b2c from t_3"),
            (
                "select \"A\"\"b\" from \"T\"",
                "select \"A\"\"b\" from \"T\"",
            ),
            (
                "select E'a\\'b', B'01', x'ff', N'n', U&'\\0041'",
                "select ?, ...",
            ),
            ("select $$it's$$, $a$ $$ $a$", "select ?, ..."),
            ("select 1 -- one\n, /* a /* b */ c */ 2", "select ?, ..."),
            (
                "select * from t where id in (1, 2,3 ,4)",
                "select * from t where id in (?, ...)",
            ),
            (
                "insert into t values (1,'a'), (2,'b'),(3,'c')",
                "insert into t values (?, ...), ...",
            ),
            (
                "insert into t values (1), (2), (3)",
                "insert into t values (?), ...",
            ),
            ("select f(1), f(1)", "select f(?), f(?)"),
            ("select (1), (2)", "select (?), ..."),
            ("select 0x1F, 1_000, .5, 5.", "select ?, ..."),
            ("BEGIN; SELECT 1;", "begin; select ?"),
            ("  ;; ", ""),
            ("", ""),
            ("ALTER ROLE a PASSWORD 's3cret'", "alter role a password ?"),
            ("select 'unended", "select ?"),
            ("select $x$ unended", "select ?"),
            ("select a->>'k', b ? 'x'", "select a->>?, b ? ?"),
        ] {
            assert_eq!(of(sql), wanted, "{sql}");
            assert_eq!(of(wanted), wanted, "and stays as it is");
        }
    }

    #[test]
    fn the_same_but_for_its_values_is_the_same() {
        let all = [
            "SELECT abalance FROM pgbench_accounts WHERE aid = 17;",
            "select abalance from pgbench_accounts\n  where aid = $1",
            "select /* 5 */ abalance from pgbench_accounts where aid = 'x' -- 6",
        ];
        let texts: std::collections::BTreeSet<String> = all.iter().map(|sql| of(sql)).collect();
        assert_eq!(texts.len(), 1, "{texts:?}");
        assert_ne!(of("select a from t"), of("select b from t"));
        assert_ne!(of("select 'a' from \"T\""), of("select 'a' from \"t\""));
    }

    #[test]
    fn it_is_bounded() {
        let long = format!("select {}", "a, ".repeat(100_000));
        assert!((FINGERPRINT_MAX - 2..=FINGERPRINT_MAX).contains(&of(&long).len()));
        let deep = format!("select {}", "(".repeat(100_000));
        assert!(of(&deep).len() <= FINGERPRINT_MAX);
        let list = format!("select * from t where a in ({}1)", "1, ".repeat(2_000));
        assert_eq!(of(&list), "select * from t where a in (?, ...)");
    }
}
