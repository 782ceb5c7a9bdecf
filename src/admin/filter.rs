//! What may follow a SHOW: `WHERE`, `ORDER BY` and `LIMIT`.
//!
//! A small language, not SQL: columns are held against constants. Numbers are compared as such, everything else by its bytes, and
//! whatever is compared with NULL is false.

use std::cmp::Ordering;

use super::table::{Column, Row, Value, is_numeric};
use super::words::Word;
use crate::config::nearest;
use crate::wire::refusal::Refusal;

/// Parentheses and NOT may be nested so deep.
const DEPTH_MAX: usize = 16;

/// Which rows, in which order, and how many.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Filter {
    condition: Option<Condition>,
    /// Columns to sort by, and whether the largest comes first.
    pub(super) order: Vec<(usize, bool)>,
    /// Most rows; `None`: all.
    pub(super) limit: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    Either(Box<Condition>, Box<Condition>),
    Both(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
    Compare(usize, Comparison, Value),
    Among(usize, Vec<Value>),
    Like(usize, String),
    IsNull(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Filter {
    /// Reads what follows a SHOW with these columns.
    ///
    /// # Errors
    /// A column that there is not, with the nearest; a word that is not expected.
    pub(super) fn read(words: &[Word], columns: &[Column]) -> Result<Filter, Refusal> {
        let mut reader = Reader { words, columns };
        let mut filter = Filter::default();
        if reader.takes("WHERE") {
            filter.condition = Some(reader.either(0)?);
        }
        if reader.takes("ORDER") {
            if !reader.takes("BY") {
                return Err(reader.expected("BY"));
            }
            loop {
                let column = reader.column()?;
                let descending = reader.takes("DESC") || {
                    reader.takes("ASC");
                    false
                };
                filter.order.push((column, descending));
                if !reader.takes_sign(",") {
                    break;
                }
            }
        }
        if reader.takes("LIMIT") {
            filter.limit = Some(reader.count()?);
        }
        match reader.words {
            [] => Ok(filter),
            _ => Err(reader.expected("WHERE, ORDER BY, LIMIT or the end")),
        }
    }

    /// Whether a row is meant.
    pub(super) fn accepts(&self, row: &dyn Row) -> bool {
        self.condition
            .as_ref()
            .is_none_or(|condition| condition.holds(row))
    }

    /// What a row is sorted by.
    pub(super) fn sort_key(&self, row: &dyn Row) -> Vec<Value> {
        let value = |(column, _): &(usize, bool)| row.value(*column);
        self.order.iter().map(value).collect()
    }

    /// Which of two rows comes first, by what they are sorted by.
    pub(super) fn compare(&self, a: &[Value], b: &[Value]) -> Ordering {
        let pairs = a.iter().zip(b).zip(&self.order);
        pairs
            .map(|((a, b), (_, descending))| match descending {
                true => b.order(a),
                false => a.order(b),
            })
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

impl Condition {
    fn holds(&self, row: &dyn Row) -> bool {
        match self {
            Condition::Either(a, b) => a.holds(row) || b.holds(row),
            Condition::Both(a, b) => a.holds(row) && b.holds(row),
            Condition::Not(of) => !of.holds(row),
            Condition::IsNull(column) => row.value(*column) == Value::Null,
            Condition::Among(column, values) => values.contains(&row.value(*column)),
            Condition::Like(column, pattern) => match row.value(*column).into_text() {
                Some(text) => is_like(text.as_bytes(), pattern.as_bytes()),
                None => false,
            },
            Condition::Compare(column, comparison, constant) => {
                let value = row.value(*column);
                let order = value.order(constant);
                value != Value::Null
                    && match comparison {
                        Comparison::Equal => order.is_eq(),
                        Comparison::Unequal => order.is_ne(),
                        Comparison::Less => order.is_lt(),
                        Comparison::AtMost => order.is_le(),
                        Comparison::More => order.is_gt(),
                        Comparison::AtLeast => order.is_ge(),
                    }
            }
        }
    }
}

/// LIKE: `%` is any number of bytes, `_` is one. In time that is bounded by the product of the lengths.
fn is_like(text: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut of) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(of) {
            Some(b'%') => {
                last = Some((at, of));
                of += 1;
            }
            Some(&byte) if byte == b'_' || text.get(at) == Some(&byte) => {
                at += 1;
                of += 1;
            }
            _ => {
                // The last % takes one more.
                let Some((from, place)) = last else {
                    return false;
                };
                last = Some((from + 1, place));
                (at, of) = (from + 1, place + 1);
            }
        }
    }
    let rest = pattern.get(of..).unwrap_or_default();
    rest.iter().all(|byte| *byte == b'%')
}

struct Reader<'a> {
    words: &'a [Word],
    columns: &'a [Column],
}

impl Reader<'_> {
    fn takes(&mut self, keyword: &str) -> bool {
        match self.words {
            [first, rest @ ..] if first.is(keyword) => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }

    fn takes_sign(&mut self, sign: &str) -> bool {
        match self.words {
            [Word::Sign(found), rest @ ..] if *found == sign => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }

    fn expected(&self, what: &str) -> Refusal {
        let found = match self.words.first() {
            None => "the end of the command".to_owned(),
            Some(Word::Sign(sign)) => format!("\"{sign}\""),
            Some(Word::Parameter(number)) => format!("${number}"),
            Some(word) => format!("\"{}\"", word.name().unwrap_or_default()),
        };
        Refusal::error(b"42601", format!("expected {what}, found {found}"))
            .hint("For example: SHOW CLIENTS WHERE database = 'shop' AND state = 'waiting' ORDER BY wait DESC, wait_us DESC LIMIT 20")
    }

    fn column(&mut self) -> Result<usize, Refusal> {
        let name = match self.words.first() {
            Some(Word::Plain(name)) => name.to_ascii_lowercase(),
            Some(Word::Quoted(name)) => name.clone(),
            _ => return Err(self.expected("a column")),
        };
        let names = || self.columns.iter().map(|(name, _)| *name);
        let Some(place) = names().position(|known| known == name) else {
            let refusal = Refusal::error(b"42703", format!("there is no column \"{name}\""));
            return Err(match nearest(&name, names()) {
                Some(nearest) => refusal.hint(format!("Did you mean {nearest}?")),
                None => refusal.hint(format!(
                    "The columns are {}.",
                    names().collect::<Vec<_>>().join(", ")
                )),
            });
        };
        self.words = self.words.get(1..).unwrap_or_default();
        Ok(place)
    }

    fn count(&mut self) -> Result<u64, Refusal> {
        self.in_parentheses(|reader| {
            let word = reader.words.first();
            let count = word.and_then(|word| word.name()?.parse().ok());
            let count = count.ok_or_else(|| reader.expected("a number"))?;
            reader.words = reader.words.get(1..).unwrap_or_default();
            Ok(count)
        })
    }

    /// A constant as it is, or as drivers write one that put parameters into the text: `('1'::int4)`.
    fn in_parentheses<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let opened = self.takes_sign("(");
        let value = read(self)?;
        if let [Word::Plain(cast), rest @ ..] = self.words
            && cast.starts_with("::")
        {
            self.words = rest;
        }
        match opened && !self.takes_sign(")") {
            true => Err(self.expected("\")\"")),
            false => Ok(value),
        }
    }

    /// A constant to hold a column against.
    fn constant(&mut self, column: usize) -> Result<Value, Refusal> {
        self.in_parentheses(|reader| reader.bare_constant(column))
    }

    fn bare_constant(&mut self, column: usize) -> Result<Value, Refusal> {
        let Some((name, kind)) = self.columns.get(column).copied() else {
            return Err(self.expected("a column"));
        };
        let text = match self.words.first() {
            Some(Word::Text(text)) => text,
            Some(Word::Plain(word)) if is_number(word) => word,
            _ => return Err(self.expected("a number, or a text in single quotes")),
        };
        let value = if is_numeric(kind) {
            let number = text.parse().map(Value::Number);
            number.map_err(|_| {
                let found = format!("{name} is a whole number, and {text:?} is none");
                Refusal::error(b"22P02", found)
            })?
        } else {
            Value::text(&**text)
        };
        self.words = self.words.get(1..).unwrap_or_default();
        Ok(value)
    }

    fn deeper(&self, depth: usize) -> Result<usize, Refusal> {
        if depth >= DEPTH_MAX {
            return Err(Refusal::error(b"54001", "the condition is nested too deep"));
        }
        Ok(depth + 1)
    }

    fn either(&mut self, depth: usize) -> Result<Condition, Refusal> {
        let mut condition = self.both(depth)?;
        while self.takes("OR") {
            condition = Condition::Either(Box::new(condition), Box::new(self.both(depth)?));
        }
        Ok(condition)
    }

    fn both(&mut self, depth: usize) -> Result<Condition, Refusal> {
        let mut condition = self.single(depth)?;
        while self.takes("AND") {
            condition = Condition::Both(Box::new(condition), Box::new(self.single(depth)?));
        }
        Ok(condition)
    }

    fn single(&mut self, depth: usize) -> Result<Condition, Refusal> {
        if self.takes("NOT") {
            let inner = self.single(self.deeper(depth)?)?;
            return Ok(Condition::Not(Box::new(inner)));
        }
        if self.takes_sign("(") {
            let inner = self.either(self.deeper(depth)?)?;
            return match self.takes_sign(")") {
                true => Ok(inner),
                false => Err(self.expected("\")\"")),
            };
        }
        let column = self.column()?;
        if self.takes("IS") {
            let not = self.takes("NOT");
            if !self.takes("NULL") {
                return Err(self.expected("NULL"));
            }
            return Ok(negated(not, Condition::IsNull(column)));
        }
        let not = self.takes("NOT");
        if self.takes("IN") {
            return Ok(negated(not, self.among(column)?));
        }
        if self.takes("LIKE") {
            let pattern = self.in_parentheses(|reader| {
                let Some(Word::Text(pattern)) = reader.words.first() else {
                    return Err(reader.expected("a pattern in single quotes"));
                };
                reader.words = reader.words.get(1..).unwrap_or_default();
                Ok(pattern.clone())
            })?;
            return Ok(negated(not, Condition::Like(column, pattern)));
        }
        let comparison = match self.words.first() {
            Some(Word::Sign("=")) => Comparison::Equal,
            Some(Word::Sign("<>" | "!=")) => Comparison::Unequal,
            Some(Word::Sign("<")) => Comparison::Less,
            Some(Word::Sign("<=")) => Comparison::AtMost,
            Some(Word::Sign(">")) => Comparison::More,
            Some(Word::Sign(">=")) => Comparison::AtLeast,
            _ => return Err(self.expected("=, <>, <, <=, >, >=, IN, LIKE or IS")),
        };
        if not {
            return Err(self.expected("IN or LIKE"));
        }
        self.words = self.words.get(1..).unwrap_or_default();
        Ok(Condition::Compare(
            column,
            comparison,
            self.constant(column)?,
        ))
    }

    fn among(&mut self, column: usize) -> Result<Condition, Refusal> {
        if !self.takes_sign("(") {
            return Err(self.expected("\"(\""));
        }
        let mut values = vec![self.constant(column)?];
        while self.takes_sign(",") {
            values.push(self.constant(column)?);
        }
        if !self.takes_sign(")") {
            return Err(self.expected("\")\""));
        }
        Ok(Condition::Among(column, values))
    }
}

fn negated(not: bool, condition: Condition) -> Condition {
    if not {
        Condition::Not(Box::new(condition))
    } else {
        condition
    }
}

fn is_number(word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;
    use crate::wire::backend::{INT4, TEXT};

    const COLUMNS: [Column; 3] = [("database", TEXT), ("wait_us", INT4), ("error", TEXT)];

    fn read(text: &str) -> Result<Filter, Refusal> {
        Filter::read(&words::read(text)?, &COLUMNS)
    }

    fn row(database: &str, wait: i64, error: Option<&str>) -> Vec<Value> {
        let error = error.map(str::to_owned);
        vec![
            Value::text(database),
            Value::Number(wait),
            Value::optional(error),
        ]
    }

    fn accepted(text: &str) -> String {
        let filter = read(text).unwrap_or_else(|refusal| panic!("{text}: {refusal:?}"));
        let rows = [
            row("a", 9, None),
            row("b", 10, Some("gone")),
            row("c%", -1, Some("")),
        ];
        let of = |row: &&Vec<Value>| filter.accepts(*row);
        let names = rows
            .iter()
            .filter(of)
            .filter_map(|row| row[0].clone().into_text());
        names.collect()
    }

    #[test]
    fn conditions_choose_rows() {
        for (text, expected) in [
            ("", "abc%"),
            ("where database = 'a'", "a"),
            ("WHERE wait_us > 9", "b"),
            // As pgjdbc writes parameters in its simple mode.
            ("WHERE database = ('a') AND wait_us = ('9'::int4)", "a"),
            (
                "WHERE database IN (('a'), ('b'::text)) LIMIT ('5'::int4)",
                "ab",
            ),
            ("WHERE database LIKE ('c%')", "c%"),
            ("where wait_us >= '9' and wait_us<>10", "a"),
            (
                "where database = 'a' or database = 'b' and wait_us = 0",
                "a",
            ),
            (
                "where (database = 'a' or database = 'b') and wait_us = 9",
                "a",
            ),
            ("where not database = 'a'", "bc%"),
            ("where database in ('a', 'c%')", "ac%"),
            ("where database not in ('a')", "bc%"),
            ("where error is null", "a"),
            ("where error is not null", "bc%"),
            ("where error <> 'x'", "bc%"),
            ("where error like 'g%n_'", "b"),
            ("where database not like '%'", ""),
            ("where wait_us like '1%'", "b"),
            ("where \"database\" = 'b'", "b"),
            ("where wait_us = -1", "c%"),
        ] {
            assert_eq!(accepted(text), expected, "{text}");
        }
    }

    #[test]
    fn rows_are_sorted_and_counted() {
        let filter = read("order by error desc, wait_us limit 2").expect("a filter");
        assert_eq!(
            (&filter.order[..], filter.limit),
            (&[(2, true), (1, false)][..], Some(2))
        );
        let keys = [
            row("a", 9, None),
            row("b", 10, Some("x")),
            row("c", 8, None),
        ];
        let keys: Vec<Vec<Value>> = keys.iter().map(|row| filter.sort_key(row)).collect();
        assert!(
            filter.compare(&keys[0], &keys[1]).is_lt(),
            "NULL is above all"
        );
        assert!(filter.compare(&keys[2], &keys[0]).is_lt());
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        for (text, code, word) in [
            ("where databse = 'a'", "42703", "database"),
            ("where database", "42601", "LIKE"),
            ("where database = a", "42601", "single quotes"),
            ("where wait_us = 'x'", "22P02", "whole number"),
            ("order wait_us", "42601", "BY"),
            ("limit many", "42601", "a number"),
            ("limit 5 where 1", "42601", "the end"),
            ("where (database = 'a'", "42601", ")"),
            ("sort", "42601", "WHERE"),
        ] {
            let refusal = read(text).expect_err(text);
            let hint = refusal.hint.clone().unwrap_or_default();
            let all = format!("{} {}", refusal.text(), String::from_utf8_lossy(&hint));
            assert!(all.contains(word), "{text}: {all}");
            assert_eq!(refusal.code(), code, "{text}");
        }
        let deep = format!("where {}wait_us = 1", "not ".repeat(100));
        assert_eq!(read(&deep).expect_err("too deep").code(), "54001");
    }
}
