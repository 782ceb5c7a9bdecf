//! Asking a server for a user's secret (`auth_query`): one query, one name, one row.
//!
//! A cold, pure machine over the messages of a server that no client holds. The name goes up as a parameter of the extended
//! protocol, never as a part of the text; what comes back must be one row about this very user (catalogue R8, CVE-2015-6817).

use crate::auth::Found;
use crate::config::Stored;
use crate::wire::frame::{cstr, message, printable, take_u16, take_u32};
use crate::wire::frontend;
use crate::wire::refusal::{Blame, Refusal, Severity};

/// A query under way.
#[derive(Debug)]
pub struct Lookup {
    /// Whose secret is asked for.
    pub user: String,
    /// What has come of it so far; `None`: it has not said what it has done.
    answer: Option<Result<Found, String>>,
    /// The row that has come.
    row: Option<Result<Found, String>>,
    /// Columns that the rows are to have, once that is known.
    columns: Option<usize>,
}

/// What a message leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// More messages are to come.
    More,
    /// The server is ready for the next query. `Err`: the query has failed, or what it gives is no answer; why, for the log.
    Done(Result<Found, String>),
    /// The server is not fit for use; why.
    Unfit(String),
}

/// More rows than one need not come: two are too many.
const ROWS: u32 = 2;

impl Lookup {
    /// Appends the question.
    pub fn begin(sql: &str, user: &str, out: &mut Vec<u8>) -> Lookup {
        message(out, b'P', |b| {
            cstr(b, b"");
            cstr(b, sql.as_bytes());
            b.extend_from_slice(&[0, 0]); // the parameter's type is what the query makes of it, as with PgBouncer
        });
        message(out, b'B', |b| {
            cstr(b, b"");
            cstr(b, b"");
            b.extend_from_slice(&[0, 0, 0, 1]); // all as text, one parameter
            b.extend_from_slice(&(user.len() as u32).to_be_bytes());
            b.extend_from_slice(user.as_bytes());
            b.extend_from_slice(&[0, 0]);
        });
        message(out, b'D', |b| cstr(b, b"P"));
        message(out, b'E', |b| {
            cstr(b, b"");
            b.extend_from_slice(&ROWS.to_be_bytes());
        });
        frontend::sync(out);
        Lookup {
            user: user.to_owned(),
            answer: None,
            row: None,
            columns: None,
        }
    }

    /// Looks at one message. ParameterStatus is noted elsewhere; notices and notifications mean nothing here.
    pub fn step(&mut self, tag: u8, body: &[u8]) -> Step {
        match tag {
            b'Z' if body != b"I" => {
                return Step::Unfit("the server is still in a transaction".to_owned());
            }
            b'Z' => {
                let unasked = "it was ready for a query before it had answered one";
                return match self.answer.take() {
                    Some(answer) => Step::Done(answer),
                    None => Step::Unfit(unasked.to_owned()),
                };
            }
            b'E' => {
                let refusal = Refusal::read(body, Blame::Server);
                if refusal.severity == Severity::Fatal {
                    return Step::Unfit(refusal.text());
                }
                self.answer = Some(Err(format!("{} [{}]", refusal.text(), refusal.code())));
            }
            b'T' => match take_u16(body) {
                Some((columns, _)) => self.columns = Some(columns),
                None => return Step::Unfit("it sent a broken RowDescription".to_owned()),
            },
            b'n' => self.columns = Some(0),
            b'D' if self.row.is_some() => {
                self.row = Some(Err("it gives more than one row".to_owned()))
            }
            b'D' => self.row = Some(self.read_row(body)),
            b'C' | b's' | b'I' => self.answer = Some(self.conclude()),
            b'1' | b'2' | b'S' | b'N' | b'A' => {}
            other => {
                let other = printable(&[other]);
                return Step::Unfit(format!("an unexpected message of type \"{other}\""));
            }
        }
        Step::More
    }

    fn conclude(&mut self) -> Result<Found, String> {
        match self.columns {
            Some(2..) => self.row.take().unwrap_or(Ok(Found::Nobody)),
            columns => Err(format!(
                "it gives {} columns in place of two: the user's name and secret",
                columns.unwrap_or_default()
            )),
        }
    }

    fn read_row(&self, body: &[u8]) -> Result<Found, String> {
        let broken = || "it gives a broken row".to_owned();
        let (count, rest) = take_u16(body).ok_or_else(broken)?;
        if self.columns != Some(count) || count < 2 {
            return Err(broken());
        }
        let (name, rest) = take_value(rest).ok_or_else(broken)?;
        let (secret, _) = take_value(rest).ok_or_else(broken)?;
        match name {
            Some(name) if name == self.user.as_bytes() => {}
            Some(name) => {
                let name = printable(name);
                return Err(format!("it gives the secret of another user, \"{name}\""));
            }
            None => return Err("it gives no user name".to_owned()),
        }
        Ok(Found::Somebody(secret.map(Stored::parse)))
    }
}

/// A column's value of a DataRow; `None` inside: NULL.
fn take_value(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = take_u32(bytes)?;
    if length == u32::MAX {
        return Some((None, rest));
    }
    let (value, rest) = rest.split_at_checked(length as usize)?;
    Some((Some(value), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::backend;

    fn begin() -> Lookup {
        Lookup::begin("SELECT 1", "me", &mut Vec::new())
    }

    /// The body of a DataRow.
    fn row(values: &[Option<&str>]) -> Vec<u8> {
        let mut out = Vec::new();
        backend::write_data_row(&mut out, values.iter().copied());
        out.split_off(5)
    }

    fn columns(count: u16) -> Vec<u8> {
        count.to_be_bytes().to_vec()
    }

    fn answer(messages: &[(u8, Vec<u8>)]) -> Step {
        let mut lookup = begin();
        for (tag, body) in messages {
            match lookup.step(*tag, body) {
                Step::More => {}
                last => return last,
            }
        }
        lookup.step(b'Z', b"I")
    }

    fn rows(width: u16, rows: &[&[Option<&str>]]) -> Step {
        let mut messages = vec![
            (b'1', Vec::new()),
            (b'2', Vec::new()),
            (b'T', columns(width)),
        ];
        messages.extend(rows.iter().map(|values| (b'D', row(values))));
        messages.push((b'C', b"SELECT\0".to_vec()));
        answer(&messages)
    }

    /// R8: never a part of the text, whatever is in it.
    #[test]
    fn the_name_is_a_parameter() {
        let mut out = Vec::new();
        Lookup::begin("SELECT $1", "x'; DROP TABLE y", &mut out);
        assert!(out.starts_with(b"P\0\0\0\x11\0SELECT $1\0\0\0B"));
        assert!(out.ends_with(b"D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\x02S\0\0\0\x04"));
        let bound = b"\0\0\0\0\0\x01\0\0\0\x10x'; DROP TABLE y\0\0D";
        assert!(out.windows(bound.len()).any(|part| part == bound));
    }

    #[test]
    fn one_row_of_the_user_is_the_answer_and_none_is_nobody() {
        let somebody = |secret: Option<&str>| {
            Step::Done(Ok(Found::Somebody(
                secret.map(|text| Stored::parse(text.as_bytes())),
            )))
        };
        assert_eq!(rows(2, &[&[Some("me"), Some("x")]]), somebody(Some("x")));
        assert_eq!(
            rows(3, &[&[Some("me"), Some("x"), None]]),
            somebody(Some("x"))
        );
        assert_eq!(rows(2, &[&[Some("me"), None]]), somebody(None));
        assert_eq!(rows(2, &[]), Step::Done(Ok(Found::Nobody)));
    }

    /// CVE-2015-6817, and PgBouncer's own checks of the shape (compat section 19).
    #[test]
    fn what_is_not_one_row_of_the_user_is_no_answer() {
        let me: &[Option<&str>] = &[Some("me"), Some("x")];
        for (step, why) in [
            (rows(2, &[me, me]), "more than one row"),
            (
                rows(2, &[&[Some("postgres"), Some("x")]]),
                "another user, \"postgres\"",
            ),
            (rows(2, &[&[Some("me "), Some("x")]]), "another user"),
            (rows(2, &[&[None, Some("x")]]), "no user name"),
            (rows(1, &[&[Some("me")]]), "1 columns"),
            (rows(1, &[]), "1 columns"),
            (rows(2, &[&[Some("me")]]), "broken row"),
            (
                answer(&[(b'n', Vec::new()), (b'C', b"SET\0".to_vec())]),
                "0 columns",
            ),
            (answer(&[(b'I', Vec::new())]), "0 columns"),
            (
                answer(&[
                    (b'T', columns(2)),
                    (b'D', b"\0\x02\0\0\0\x09me".to_vec()),
                    (b'C', Vec::new()),
                ]),
                "broken row",
            ),
            (
                answer(&[(b'E', b"SERROR\0VERROR\0C42P01\0Mno table\0\0".to_vec())]),
                "no table [42P01]",
            ),
        ] {
            match step {
                Step::Done(Err(text)) => assert!(text.contains(why), "{text}"),
                other => panic!("{why}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_server_that_says_anything_else_is_not_fit() {
        for message in [
            (b'Z', &b"I"[..]),
            (b'Z', b"T"),
            (b'G', b""),
            (b'T', b"\0"),
            (b'E', b"SFATAL\0VFATAL\0\0"),
        ] {
            let step = begin().step(message.0, message.1);
            assert!(matches!(step, Step::Unfit(_)), "{message:?}");
        }
    }
}
