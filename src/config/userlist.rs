//! PgBouncer's userlist: `"user" "secret"`, one user a line, the rest of the line ignored, `;` for comments.
//!
//! Works on bytes that somebody else has read. As in PgBouncer the first broken entry ends the reading, the users before it
//! are kept, and of two entries for one user the last wins. Unlike there, both strings must begin on the same line: a
//! forgotten secret must not turn the next user's name into one.

use std::collections::BTreeMap;

use super::{NAME_MAX, Stored};

/// Longest secret, in bytes as written.
const SECRET_MAX: usize = 65_530;

/// What a userlist says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Userlist {
    /// The users up to the first broken entry. A secret may be empty: such a user has no password that could be right.
    pub users: BTreeMap<String, Stored>,
    /// Where the reading ended early, and why.
    pub broken: Option<Broken>,
}

/// The first broken entry of a userlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong; no text of the file in it.
    pub text: String,
}

/// Reads a userlist.
pub fn parse(bytes: &[u8]) -> Userlist {
    let mut list = Userlist::default();
    let mut reader = Reader {
        rest: bytes,
        line: 1,
    };
    while let Some(line) = reader.next_entry() {
        match entry(&mut reader) {
            Ok((user, secret)) => {
                list.users.insert(user, Stored::parse(&secret));
            }
            Err(text) => {
                list.broken = Some(Broken { line, text });
                break;
            }
        }
    }
    list
}

fn entry(reader: &mut Reader<'_>) -> Result<(String, Vec<u8>), String> {
    let user = reader.quoted("the user's name", NAME_MAX)?;
    let user = String::from_utf8(user).map_err(|_| "the user's name is not UTF-8".to_owned())?;
    reader.skip_to_quote();
    let secret = reader.quoted("the secret", SECRET_MAX)?;
    if secret.contains(&0) || user.contains('\0') {
        return Err("a zero byte inside of quotes".to_owned());
    }
    reader.skip_line();
    Ok((user, secret))
}

struct Reader<'a> {
    rest: &'a [u8],
    line: usize,
}

impl Reader<'_> {
    fn advance(&mut self) {
        if let Some((first, rest)) = self.rest.split_first() {
            self.line += usize::from(*first == b'\n');
            self.rest = rest;
        }
    }

    fn skip_while(&mut self, skipped: impl Fn(u8) -> bool) {
        while let Some(&byte) = self.rest.first()
            && skipped(byte)
        {
            self.advance();
        }
    }

    fn skip_line(&mut self) {
        self.skip_while(|byte| byte != b'\n');
    }

    fn skip_to_quote(&mut self) {
        self.skip_while(|byte| byte != b'"' && byte != b'\n');
    }

    /// Goes to the next entry over blanks and comments and gives its line; `None` at the end.
    fn next_entry(&mut self) -> Option<usize> {
        loop {
            // 0x0b is a blank for C's isspace, though not for Rust.
            self.skip_while(|byte| byte.is_ascii_whitespace() || byte == 0x0b);
            match self.rest.first()? {
                b';' => self.skip_line(),
                _ => return Some(self.line),
            }
        }
    }

    /// Reads `"..."` with `""` for a quote.
    fn quoted(&mut self, what: &str, max: usize) -> Result<Vec<u8>, String> {
        if self.rest.first() != Some(&b'"') {
            return Err(format!(
                "{what} must be in double quotes: \"user\" \"secret\""
            ));
        }
        self.advance();
        let mut value = Vec::new();
        let mut written = 0;
        loop {
            match self.rest {
                [b'"', b'"', ..] => {
                    value.push(b'"');
                    written += 2;
                    self.advance();
                }
                [b'"', ..] => {
                    self.advance();
                    return Ok(value);
                }
                [byte, ..] => {
                    value.push(*byte);
                    written += 1;
                }
                [] => return Err(format!("{what} has no closing quote")),
            }
            if written > max {
                return Err(format!("{what} is longer than {max} bytes"));
            }
            self.advance();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    fn plain(text: &str) -> Stored {
        Stored::Plain(Secret::new(text))
    }

    fn broken(text: &str) -> (usize, String) {
        let broken = parse(text.as_bytes()).broken.unwrap();
        (broken.line, broken.text)
    }

    #[test]
    fn users_comments_blanks_and_the_ignored_rest_of_a_line() {
        let list = parse(b"; comment \"x\" \"y\"\n\n  \"alice\" \"secret\" \"more\" ; rest\r\n\"bob\"\t\"\"\n\"c\",\"d\"");
        assert_eq!(list.broken, None);
        assert_eq!(list.users.len(), 3);
        assert_eq!(list.users["alice"], plain("secret"));
        assert_eq!(list.users["bob"], plain(""));
        assert_eq!(list.users["c"], plain("d"));
    }

    #[test]
    fn a_doubled_quote_is_one_quote() {
        let list = parse(br#""o""brien" """quoted""""#);
        assert_eq!(list.users["o\"brien"], plain("\"quoted\""));
    }

    #[test]
    fn of_two_entries_for_one_user_the_last_wins() {
        assert_eq!(parse(b"\"a\" \"1\"\n\"a\" \"2\"").users["a"], plain("2"));
    }

    #[test]
    fn stored_forms_are_recognised() {
        let list = parse(b"\"a\" \"md50123456789abcdef0123456789abcdef\"\n");
        assert!(matches!(list.users["a"], Stored::Md5(_)));
    }

    #[test]
    fn the_first_broken_entry_is_told_with_its_line_and_earlier_ones_stay() {
        let list = parse(b"\"a\" \"1\"\n\n; x\nb \"2\"\n\"c\" \"3\"\n");
        assert_eq!(list.users.len(), 1);
        let broken = list.broken.unwrap();
        assert_eq!(broken.line, 4);
        assert!(
            broken
                .text
                .contains("the user's name must be in double quotes")
        );
    }

    #[test]
    fn a_missing_secret_does_not_take_the_next_line_for_one() {
        let (line, text) = broken("\"a\"\n\"b\" \"2\"\n");
        assert_eq!(line, 1);
        assert!(
            text.contains("the secret must be in double quotes"),
            "{text}"
        );
    }

    #[test]
    fn open_quotes_long_names_and_strange_bytes_are_errors() {
        assert!(broken("\"a").1.contains("no closing quote"));
        assert!(broken("\"a\" \"x\ny").1.contains("no closing quote"));
        assert!(
            broken(&format!("\"{}\" \"x\"", "u".repeat(128)))
                .1
                .contains("longer than 127 bytes")
        );
        assert!(
            broken(&format!("\"u\" \"{}\"", "x".repeat(65_531)))
                .1
                .contains("longer than 65530")
        );
        assert!(broken("\"a\" \"x\0y\"").1.contains("zero byte"));
        assert!(
            parse(b"\"\xff\" \"x\"")
                .broken
                .unwrap()
                .text
                .contains("UTF-8")
        );
        let longest = format!("\"{}\" \"{}\"", "u".repeat(127), "x".repeat(65_530));
        assert_eq!(parse(longest.as_bytes()).broken, None);
    }

    #[test]
    fn lines_are_counted_through_a_secret_of_several_lines() {
        let list = parse(b"\"a\" \"x\ny\"\n!");
        assert_eq!(list.users["a"], plain("x\ny"));
        assert_eq!(list.broken.unwrap().line, 3);
    }

    #[test]
    fn no_bytes_panic() {
        for bytes in [
            &b""[..],
            b"\"",
            b"\"\"",
            b"\"\" \"\"",
            b";",
            b"\"a\" \"",
            b"\x00",
            b"\"\"\"",
        ] {
            let _ = parse(bytes);
        }
    }
}
