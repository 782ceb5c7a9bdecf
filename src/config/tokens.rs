//! What pg_hba.conf and pg_ident.conf have in common: lines of fields, fields of tokens, and the files they bring in.
//!
//! The words are cut as PostgreSQL's `hba.c` cuts them: blanks part fields, commas part the tokens of one field, `#` begins a
//! comment anywhere outside of quotes, a backslash at the end of a line goes on with the next one, `""` inside of quotes is a
//! quote, and a quoted word loses its special meaning. `include`, `include_if_exists` and `include_dir` bring in lines, `@file`
//! tokens; their names count from the directory of the file that they stand in. Unlike there, a quote that is not closed on its line is
//! an error, and so are bytes that are not UTF-8. Opens no file: [`Outside`] does.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{ConfigError, Outside};
use crate::limits;

/// A word, and whether it may mean more than itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// Its first character was a quote.
    pub(super) quoted: bool,
}

impl Token {
    /// Whether it is this word, and not a name that looks like it.
    pub(super) fn is_keyword(&self, word: &str) -> bool {
        !self.quoted && self.text == word
    }
}

/// A line that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) file: Rc<str>,
    /// Counted from 1; of several that are joined, the first.
    pub(super) number: usize,
    pub(super) fields: Vec<Vec<Token>>,
}

impl Line {
    pub(super) fn error(&self, text: impl Into<String>) -> ConfigError {
        error(&self.file, self.number, text)
    }
}

fn error(file: &str, line: usize, text: impl Into<String>) -> ConfigError {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    ConfigError {
        file: file.chars().map(printable).collect(),
        line: (line > 0).then_some(line),
        key: String::new(),
        text: text.into().chars().map(printable).collect(),
    }
}

/// A regular expression in the place of a name: `/` and the expression.
///
/// PostgreSQL's are Henry Spencer's advanced ones. These are the crate `regex-lite`'s, which agree with them in what names
/// need: `. * + ? {n,m} | ( ) [ ] ^ $`, classes, `\d \w \s`, `(?i)`; `.` takes line ends as well. What the two understand
/// differently, or only PostgreSQL understands (back references, look-around, `\m \M \y`, `\b`), is refused when the file is read.
#[derive(Clone, Debug)]
pub(super) struct Pattern(regex_lite::Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl Pattern {
    /// `None`: the word is no expression. As in PostgreSQL it is one in quotes, too.
    pub(super) fn of(token: &Token) -> Option<Result<Pattern, String>> {
        let text = token.text.strip_prefix('/')?;
        let wrong = |why: String| format!("invalid regular expression \"{text}\": {why}");
        let mut escaped = false;
        for c in text.chars() {
            if escaped && "bBAZmMyYcux0123456789".contains(c) {
                return Some(Err(wrong(format!("\\{c} is not known here"))));
            }
            escaped = c == '\\' && !escaped;
        }
        let built = regex_lite::RegexBuilder::new(text)
            .dot_matches_new_line(true)
            .size_limit(limits::HBA_PATTERN_BYTES_MAX)
            .build();
        Some(built.map(Pattern).map_err(|error| wrong(error.to_string())))
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// Whether there is a group for `\1`.
    pub(super) fn has_group(&self) -> bool {
        self.0.captures_len() > 1
    }

    /// What its first group took; empty when that had no part in the match. `None`: no match.
    pub(super) fn first_group<'a>(&self, name: &'a str) -> Option<&'a str> {
        let groups = self.0.captures(name)?;
        Some(groups.get(1).map_or("", |group| group.as_str()))
    }
}

/// The lines of a file and of those that it brings in.
pub(super) struct Lines<'a> {
    outside: &'a dyn Outside,
    pub(super) lines: Vec<Line>,
    pub(super) errors: Vec<ConfigError>,
    /// Files opened and lines read so far: together, since a file without lines costs as well.
    cost: usize,
}

impl<'a> Lines<'a> {
    /// Reads all of it. What is wrong is in `errors`.
    pub(super) fn read(path: &Path, outside: &'a dyn Outside) -> Lines<'a> {
        let mut lines = Lines {
            outside,
            lines: Vec::new(),
            errors: Vec::new(),
            cost: 0,
        };
        let found = lines.file(path, 0).unwrap_or_else(|text| {
            lines.add(error(&path.display().to_string(), 0, text));
            Vec::new()
        });
        lines.lines = found;
        lines
    }

    pub(super) fn add(&mut self, error: ConfigError) {
        if self.errors.len() < limits::HBA_ERRORS_MAX {
            self.errors.push(error);
        }
    }

    fn file(&mut self, path: &Path, depth: usize) -> Result<Vec<Line>, String> {
        if depth > limits::HBA_DEPTH_MAX {
            return Err(format!(
                "files bring in one another more than {} levels deep",
                limits::HBA_DEPTH_MAX
            ));
        }
        self.charge()?;
        let bytes = self
            .outside
            .file(path)
            .map_err(|error| format!("cannot be read: {error}"))?;
        let name: Rc<str> = path.display().to_string().into();
        let mut found = Vec::new();
        for (number, text) in joined(&bytes) {
            if let Err(text) = self
                .charge()
                .and_then(|()| self.line(&name, path, number, &text, depth, &mut found))
            {
                self.add(error(&name, number, text));
                if self.is_over() {
                    break;
                }
            }
        }
        Ok(found)
    }

    fn charge(&mut self) -> Result<(), String> {
        self.cost += 1;
        if self.is_over() {
            return Err(format!(
                "more than {} lines, with the files that are brought in",
                limits::HBA_LINES_MAX
            ));
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.cost > limits::HBA_LINES_MAX
    }

    fn line(
        &mut self,
        name: &Rc<str>,
        path: &Path,
        number: usize,
        text: &[u8],
        depth: usize,
        found: &mut Vec<Line>,
    ) -> Result<(), String> {
        if text.len() > limits::HBA_LINE_BYTES_MAX {
            return Err(format!(
                "a line of more than {} bytes",
                limits::HBA_LINE_BYTES_MAX
            ));
        }
        let text = std::str::from_utf8(text).map_err(|_| "not UTF-8")?;
        if text.contains('\0') {
            return Err("a zero byte".to_owned());
        }
        let mut rest = text;
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let field = self.field(&mut rest, path, depth)?;
            if !field.is_empty() {
                fields.push(field);
            }
        }
        if let [directive, names] = &fields[..]
            && let Some(directive) = directive.first()
            && let "include" | "include_if_exists" | "include_dir" = directive.text.as_str()
        {
            let [name] = &names[..] else {
                return Err(format!("multiple values specified for {}", directive.text));
            };
            found.extend(self.include(&directive.text, &beside(path, &name.text), depth)?);
        } else if !fields.is_empty() {
            found.push(Line {
                file: name.clone(),
                number,
                fields,
            });
        }
        Ok(())
    }

    fn include(&mut self, how: &str, path: &Path, depth: usize) -> Result<Vec<Line>, String> {
        let named = |text: String| format!("{}: {text}", path.display());
        if how != "include_dir" {
            if how == "include_if_exists" && !self.outside.exists(path) {
                return Ok(Vec::new());
            }
            return self.file(path, depth + 1).map_err(named);
        }
        let mut names = self
            .outside
            .directory(path)
            .map_err(|error| named(format!("cannot be read: {error}")))?;
        names.retain(|name| name.ends_with(".conf") && !name.starts_with('.'));
        names.sort();
        let mut found = Vec::new();
        for name in names {
            let file = path.join(name);
            found.extend(
                self.file(&file, depth + 1)
                    .map_err(|text| format!("{}: {text}", file.display()))?,
            );
        }
        Ok(found)
    }

    /// One field: tokens with commas between them, files in their place.
    fn field(&mut self, rest: &mut &str, path: &Path, depth: usize) -> Result<Vec<Token>, String> {
        let mut tokens = Vec::new();
        loop {
            let (token, comma) = next(rest)?;
            let Some(token) = token else {
                break;
            };
            match token.text.strip_prefix('@') {
                Some(name) if !token.quoted && !name.is_empty() => {
                    let inner = beside(path, name);
                    let lines = self
                        .file(&inner, depth + 1)
                        .map_err(|text| format!("{}: {text}", inner.display()))?;
                    tokens.extend(lines.into_iter().flat_map(|line| line.fields).flatten());
                }
                _ => tokens.push(token),
            }
            if !comma {
                break;
            }
        }
        Ok(tokens)
    }
}

fn beside(path: &Path, name: &str) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(name)
}

/// The lines with their numbers, those that end in a backslash joined with the next.
fn joined(bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut lines: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut goes_on = false;
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let end = line
            .iter()
            .rposition(|&byte| byte != b'\r')
            .map_or(0, |last| last + 1);
        let line = line.get(..end).unwrap_or_default();
        let (line, continued) = match line.strip_suffix(b"\\") {
            Some(line) => (line, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, last)) if goes_on => last.extend_from_slice(line),
            _ => lines.push((at + 1, line.to_vec())),
        }
        goes_on = continued;
    }
    lines
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

/// The next token of a line, and whether a comma ends it.
fn next(rest: &mut &str) -> Result<(Option<Token>, bool), String> {
    let text = rest.trim_start_matches(|c| is_blank(c) || c == ',');
    let mut token = Token {
        text: String::new(),
        quoted: false,
    };
    let (mut in_quote, mut saw_quote, mut was_quote, mut comma) = (false, false, false, false);
    let mut end = text.len();
    for (at, c) in text.char_indices() {
        if !in_quote {
            if c == '#' {
                break;
            }
            if c == ',' || is_blank(c) {
                comma = c == ',';
                end = at + usize::from(comma);
                break;
            }
        }
        if c != '"' || was_quote {
            token.text.push(c);
        }
        was_quote = in_quote && c == '"' && !was_quote;
        if c == '"' {
            in_quote = !in_quote;
            saw_quote = true;
            token.quoted |= token.text.is_empty();
        }
    }
    *rest = text.get(end..).unwrap_or_default();
    if in_quote {
        return Err("a quote is not closed".to_owned());
    }
    let any = saw_quote || !token.text.is_empty();
    Ok((any.then_some(token), comma))
}
