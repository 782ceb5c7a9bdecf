//! A command of the console as words: names, quoted names, texts and signs.

use crate::wire::refusal::Refusal;

/// A piece of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Letters, digits and what may stand between them, as it was written.
    Plain(String),
    /// A name in double quotes.
    Quoted(String),
    /// A text in single quotes.
    Text(String),
    /// `=`, `<`, `<=`, `>`, `>=`, `<>`, `!=`, `,`, `(` or `)`.
    Sign(&'static str),
    /// `$1` and the like: a parameter of the extended protocol.
    Parameter(usize),
}

/// Longer ones first.
const SIGNS: [&str; 10] = ["<=", ">=", "<>", "!=", "=", "<", ">", ",", "(", ")"];

impl Word {
    /// Whether it is this keyword, in any case.
    pub(super) fn is(&self, keyword: &str) -> bool {
        matches!(self, Word::Plain(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// What it names; `None` for signs.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Word::Plain(word) | Word::Quoted(word) | Word::Text(word) => Some(word),
            Word::Sign(_) | Word::Parameter(_) => None,
        }
    }
}

/// Takes a command apart. Blanks and comments are left out; behind a semicolon nothing more may come.
///
/// # Errors
/// A quote that is not closed, a sign that there is not, a second command.
pub(super) fn read(text: &str) -> Result<Vec<Word>, Refusal> {
    let mut words = Vec::new();
    let mut rest = text.trim_matches(is_blank);
    loop {
        rest = rest.trim_start_matches(is_blank);
        let Some(first) = rest.chars().next() else {
            return Ok(words);
        };
        if let Some(behind) = rest.strip_prefix("--") {
            rest = behind.split_once('\n').map_or("", |(_, next)| next);
            continue;
        }
        if first == ';' {
            if rest.chars().all(|c| c == ';' || is_blank(c)) {
                return Ok(words);
            }
            return Err(wrong("one command at a time").hint("Send each command by itself."));
        }
        let (word, after) = match first {
            '"' => quoted(rest, '"').map(|(name, after)| (Word::Quoted(name), after))?,
            '\'' => quoted(rest, '\'').map(|(text, after)| (Word::Text(text), after))?,
            '$' => parameter(rest)?,
            _ if is_part(first) => {
                let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                (Word::Plain(word.to_owned()), after)
            }
            _ => sign(rest)?,
        };
        words.push(word);
        rest = after;
    }
}

fn is_blank(c: char) -> bool {
    c.is_ascii_whitespace()
}

/// Whether it may be part of a word. Names of keys have dots, those of databases dashes, and `*` is an entry of its own.
fn is_part(c: char) -> bool {
    c.is_alphanumeric() || "_.-*/:@+%".contains(c) || !c.is_ascii()
}

fn sign(rest: &str) -> Result<(Word, &str), Refusal> {
    let found = SIGNS
        .iter()
        .find_map(|sign| Some((*sign, rest.strip_prefix(sign)?)));
    found
        .map(|(sign, after)| (Word::Sign(sign), after))
        .ok_or_else(|| wrong(format!("what does {:?} mean here?", first(rest))))
}

fn first(rest: &str) -> String {
    rest.chars().take(1).collect()
}

/// `$1`
fn parameter(rest: &str) -> Result<(Word, &str), Refusal> {
    let behind = rest.strip_prefix('$').unwrap_or(rest);
    let end = behind
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(behind.len());
    let (digits, after) = behind.split_at(end);
    match digits.parse() {
        Ok(number) if number > 0 => Ok((Word::Parameter(number), after)),
        _ => Err(wrong("a parameter is $1, $2, ...")),
    }
}

/// What stands in quotes, two of them for one that is meant, and what follows.
fn quoted(rest: &str, quote: char) -> Result<(String, &str), Refusal> {
    let mut text = String::new();
    let mut inside = rest.strip_prefix(quote).unwrap_or(rest);
    loop {
        let Some((before, after)) = inside.split_once(quote) else {
            return Err(wrong(format!("a quote {quote} is not closed")));
        };
        text.push_str(before);
        match after.strip_prefix(quote) {
            Some(next) => {
                text.push(quote);
                inside = next;
            }
            None => return Ok((text, after)),
        }
    }
}

fn wrong(text: impl Into<String>) -> Refusal {
    Refusal::error(b"42601", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(word: &str) -> Word {
        Word::Plain(word.to_owned())
    }

    #[test]
    fn commands_are_taken_apart() {
        let words = read("show  \"My \"\"Db\" where a>=-1.5 and b!='it''s' ;; ").expect("words");
        let expected = [
            plain("show"),
            Word::Quoted("My \"Db".to_owned()),
            plain("where"),
            plain("a"),
            Word::Sign(">="),
            plain("-1.5"),
            plain("and"),
            plain("b"),
            Word::Sign("!="),
            Word::Text("it's".to_owned()),
        ];
        assert_eq!(words, expected);
        assert_eq!(read("-- nothing\n ;"), Ok(vec![]));
        assert_eq!(
            read("kill_client $2"),
            Ok(vec![plain("kill_client"), Word::Parameter(2)])
        );
    }

    #[test]
    fn what_cannot_be_taken_apart_is_told() {
        for text in ["a; b", "'a", "\"", "a ? b", "$0", "$x"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
