//! The grammar of `pgbouncer.ini`: sections, keys and values, comments, `%include`; and of the connection strings in its sections
//! `[databases]`, `[users]` and `[peers]`.
//!
//! Knows no option: [`super::pgbouncer`] does. Everything that is wrong is collected, with file and line; no text of the file is in
//! an error but the names of sections and of files. Opens no file: [`Outside`] does.

use std::path::Path;
use std::rc::Rc;

use super::yaml::{ConfigError, Outside};

/// How deep files may include each other, as in PgBouncer.
const DEPTH_MAX: usize = 10;
/// How many files may be read in all: ten levels of a few includes each would never end.
const FILES_MAX: usize = 1_000;
/// Longest line in bytes: a connection string that is longer is a mistake, and errors come from walks over it.
const LINE_MAX: usize = 64 * 1024;

/// The sections that there are.
pub const SECTIONS: [&str; 4] = ["pgbouncer", "databases", "users", "peers"];

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The file, as it was named.
    pub file: Rc<str>,
    /// Its number among those that were read: errors are told in this order.
    pub number: usize,
    /// Counted from 1.
    pub line: usize,
}

impl Spot {
    /// An error here.
    pub fn error(&self, key: impl Into<String>, text: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.to_string(),
            line: Some(self.line),
            key: key.into(),
            text: text.into(),
        }
    }
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// `key = value`. Not printable: the value may be a secret.
pub struct Entry {
    /// The section's name, one of [`SECTIONS`].
    pub section: &'static str,
    /// Without its quotes.
    pub key: String,
    /// Without the blanks around it; perhaps empty.
    pub value: String,
    /// Where its key stands.
    pub spot: Spot,
}

/// A file and those that it includes.
#[derive(Default)]
pub struct Ini {
    /// In the order in which they are read; of the same key the last one holds.
    pub entries: Vec<Entry>,
    /// The headers, in the same order.
    pub headers: Vec<&'static str>,
    /// Everything that is wrong, with the number of its file.
    pub errors: Vec<(usize, ConfigError)>,
}

/// Whether a text is an ini and not YAML: its first line that says something is a header, an include, or a comment of an ini's kind.
pub fn is_ini(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| {
        line.starts_with(';') || is_include(line).is_some() || is_known_header(line)
    })
}

fn is_known_header(line: &str) -> bool {
    let name = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    name.is_some_and(|(name, _)| SECTIONS.contains(&name))
}

/// What follows `%include` and a blank.
fn is_include(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("%include")?;
    rest.starts_with([' ', '\t']).then(|| rest.trim())
}

/// Reads a file. Names of included ones count from `directory`.
pub fn read(text: &str, file: &str, directory: &Path, outside: &dyn Outside) -> Ini {
    let mut reader = Reader {
        ini: Ini::default(),
        section: None,
        files: 0,
        directory,
        outside,
    };
    reader.file(text, file, 0);
    reader.ini
}

struct Reader<'a> {
    ini: Ini,
    /// The section in which keys are; `Some(None)`: one that does not exist, which is told. It outlives the end of an include.
    section: Option<Option<&'static str>>,
    files: usize,
    directory: &'a Path,
    outside: &'a dyn Outside,
}

impl Reader<'_> {
    fn file(&mut self, text: &str, file: &str, depth: usize) {
        let file: Rc<str> = file.into();
        let number = self.files;
        self.files += 1;
        // A mark of UTF-8 that an editor left.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, line) in text.split('\n').enumerate() {
            let spot = Spot {
                file: file.clone(),
                number,
                line: index + 1,
            };
            if line.len() > LINE_MAX {
                self.wrong(&spot, "the line is longer than 64 kB");
                continue;
            }
            self.line(line.trim(), &spot, depth);
        }
    }

    fn wrong(&mut self, spot: &Spot, text: impl Into<String>) {
        self.ini.errors.push((spot.number, spot.error("", text)));
    }

    fn line(&mut self, line: &str, spot: &Spot, depth: usize) {
        let mut rest = line;
        if let Some(path) = is_include(rest) {
            return self.include(path, spot, depth);
        }
        while let Some(after) = rest.strip_prefix('[') {
            let Some((name, after)) = after.split_once(']') else {
                return self.wrong(spot, "syntax error: a section's name has no \"]\"");
            };
            self.header(name, spot);
            rest = after.trim_start();
        }
        if rest.is_empty() || rest.starts_with([';', '#']) {
            return;
        }
        if let Some(path) = is_include(rest) {
            return self.include(path, spot, depth);
        }
        match key_and_value(rest) {
            Ok((key, value)) => self.entry(key, value, spot),
            Err(text) => self.wrong(spot, text),
        }
    }

    fn header(&mut self, name: &str, spot: &Spot) {
        let known = SECTIONS.into_iter().find(|known| *known == name);
        self.section = Some(known);
        match known {
            Some(known) => self.ini.headers.push(known),
            None => {
                let short: String = name.chars().take(64).collect();
                let text = format!(
                    "invalid section \"{}\"; there are {}",
                    short.escape_debug(),
                    SECTIONS.join(", ")
                );
                self.wrong(spot, text);
            }
        }
    }

    fn entry(&mut self, key: String, value: &str, spot: &Spot) {
        match self.section {
            None => self.wrong(
                spot,
                "a key before any section; write [pgbouncer] or [databases] above it",
            ),
            // Of a section that does not exist, nothing more is told.
            Some(None) => {}
            Some(Some(_)) if value.contains('\0') || key.contains('\0') => {
                self.wrong(spot, "a zero byte in the line");
            }
            Some(Some(section)) => self.ini.entries.push(Entry {
                section,
                key,
                value: value.to_owned(),
                spot: spot.clone(),
            }),
        }
    }

    fn include(&mut self, path: &str, spot: &Spot, depth: usize) {
        if path.is_empty() {
            return self.wrong(spot, "%include without the name of a file");
        }
        if depth + 1 >= DEPTH_MAX {
            return self.wrong(
                spot,
                "include nesting level too deep: at most 10 files may include each other",
            );
        }
        if self.files >= FILES_MAX {
            return self.wrong(spot, "more than 1000 files are included");
        }
        let read = self.outside.file(&self.directory.join(path));
        let text =
            read.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned()));
        match text {
            Ok(text) => self.file(&text, path, depth + 1),
            Err(error) => {
                let text = format!("{} cannot be read: {error}", path.escape_debug());
                self.wrong(spot, text);
            }
        }
    }
}

/// `key = value`, the key perhaps in quotes: `"` with `""` for one of them, as the manual says, or `'`, as the parser does.
fn key_and_value(line: &str) -> Result<(String, &str), String> {
    const SYNTAX: &str = "syntax error: expected a key, \"=\" and a value";
    let (key, rest) = match line.as_bytes().first() {
        Some(b'"') => double_quoted(line).ok_or("syntax error: a quoted name has no end")?,
        Some(b'\'') => {
            let inside = line.get(1..).unwrap_or_default();
            let (key, rest) = inside
                .split_once('\'')
                .ok_or("syntax error: a quoted name has no end")?;
            (key.to_owned(), rest)
        }
        _ => {
            let own = |c: char| c.is_ascii_alphanumeric() || "_.-*".contains(c);
            let end = line.find(|c| !own(c)).unwrap_or(line.len());
            let (key, rest) = line.split_at(end);
            if key.is_empty() {
                return Err(format!(
                    "{SYNTAX}; a name with other characters than letters, digits, \"_.-*\" stands in double quotes"
                ));
            }
            (key.to_owned(), rest)
        }
    };
    let value = rest.trim_start().strip_prefix('=').ok_or(SYNTAX)?;
    Ok((key, value.trim()))
}

/// A text in double quotes, and what follows it.
fn double_quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut key = String::new();
    loop {
        let (piece, after) = rest.split_once('"')?;
        key.push_str(piece);
        match after.strip_prefix('"') {
            Some(after) => {
                key.push('"');
                rest = after;
            }
            None => return Some((key, after)),
        }
    }
}

/// Splits a connection string, `key=value key='a value'`, as PgBouncer does: blanks may stand around `=`, `''` in quotes is one
/// quote, an empty value is an error.
///
/// # Errors
/// What is wrong, without a piece of it: there may be a password in it.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    const SYNTAX: &str = "syntax error in connection string";
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or_else(|| format!("{SYNTAX}: a word without \"=\""))?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(format!("{SYNTAX}: expected key=value, separated by blanks"));
        }
        let after = after.trim_start();
        let (value, tail) = match after.strip_prefix('\'') {
            Some(inside) => single_quoted(inside).ok_or_else(|| {
                format!("{SYNTAX}: the value of {} has no closing quote", shown(key))
            })?,
            None => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                let (value, tail) = after.split_at(end);
                (value.to_owned(), tail)
            }
        };
        if value.is_empty() {
            return Err(format!(
                "{SYNTAX}: {} has an empty value; leave it away",
                shown(key)
            ));
        }
        pairs.push((key.to_owned(), value));
        rest = tail.trim_start();
    }
    Ok(pairs)
}

/// The key of a pair if it looks like one: in a broken string it may be a piece of a password.
pub fn shown(key: &str) -> String {
    let own = |c: char| c.is_ascii_lowercase() || c == '_';
    if key.len() <= 32 && key.chars().all(own) {
        format!("\"{key}\"")
    } else {
        "a key".to_owned()
    }
}

fn single_quoted(inside: &str) -> Option<(String, &str)> {
    let mut rest = inside;
    let mut value = String::new();
    loop {
        let (piece, after) = rest.split_once('\'')?;
        value.push_str(piece);
        match after.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default)]
    struct Files(BTreeMap<&'static str, String>);

    impl Outside for Files {
        fn variable(&self, _: &str) -> Option<String> {
            None
        }

        fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
            let text = self.0.get(path.to_str().unwrap_or_default());
            text.map(|text| text.clone().into_bytes())
                .ok_or_else(|| "No such file".to_owned())
        }
    }

    fn with_files(text: &str, files: &[(&'static str, &str)]) -> Ini {
        let files = files.iter().map(|(name, text)| (*name, (*text).to_owned()));
        let files = Files(files.collect());
        read(text, "p.ini", Path::new("/cwd"), &files)
    }

    fn entries(ini: &Ini) -> Vec<(&str, &str, &str, usize)> {
        let line = |entry: &Entry| entry.spot.line;
        ini.entries
            .iter()
            .map(|e| (e.section, e.key.as_str(), e.value.as_str(), line(e)))
            .collect()
    }

    fn errors(text: &str) -> Vec<String> {
        let ini = with_files(text, &[]);
        ini.errors
            .iter()
            .map(|(_, error)| error.to_string())
            .collect()
    }

    #[test]
    fn sections_keys_values_and_comments_are_told_apart() {
        let text = "; comment\n# comment\n\n [databases]  a = host=h ; no comment\n\t b.c-d_*=\r\n\
                    [pgbouncer]\nlogfile = /x y # z  \t\r\n[databases]\n\"q\"\"x\" = dbname=1\n'r\"x' = p=1\n* = host=h";
        let ini = with_files(text, &[]);
        assert!(ini.errors.is_empty(), "{:?}", ini.errors);
        assert_eq!(
            entries(&ini),
            [
                ("databases", "a", "host=h ; no comment", 4),
                ("databases", "b.c-d_*", "", 5),
                ("pgbouncer", "logfile", "/x y # z", 7),
                ("databases", "q\"x", "dbname=1", 9),
                ("databases", "r\"x", "p=1", 10),
                ("databases", "*", "host=h", 11),
            ]
        );
        assert_eq!(ini.headers, ["databases", "pgbouncer", "databases"]);
    }

    #[test]
    fn all_errors_are_collected_with_their_lines() {
        let text = "early = 1\n[pgbouncer\n[PgBouncer]\nx = hunter2\n[users]\nno equals\nä = 1\n\"x = 1\n%include\n%include /none\n";
        let found = errors(text);
        let lines: Vec<&str> = found
            .iter()
            .map(|line| line.split(": ").next().unwrap())
            .collect();
        assert_eq!(
            lines,
            [
                "p.ini:1", "p.ini:2", "p.ini:3", "p.ini:6", "p.ini:7", "p.ini:8", "p.ini:9",
                "p.ini:10"
            ]
        );
        assert!(
            found[2].contains("invalid section \"PgBouncer\""),
            "{}",
            found[2]
        );
        assert!(!found.concat().contains("hunter2"));
    }

    #[test]
    fn included_files_stand_in_place_of_the_line_and_know_their_own_lines() {
        let ini = with_files(
            "[pgbouncer]\n%include sub/a.ini\nverbose=1\n",
            &[
                ("/cwd/sub/a.ini", "\nlogfile=x\n[users]\n%include b.ini\n"),
                ("/cwd/b.ini", "u=pool_size=1"),
            ],
        );
        assert!(ini.errors.is_empty());
        let spots: Vec<String> = ini
            .entries
            .iter()
            .map(|e| format!("{} {}", e.spot, e.section))
            .collect();
        // As in PgBouncer, the section of an include goes on behind it.
        assert_eq!(
            spots,
            ["sub/a.ini:2 pgbouncer", "b.ini:1 users", "p.ini:3 users"]
        );
    }

    #[test]
    fn includes_end() {
        let ini = with_files(
            "%include p.ini",
            &[("/cwd/p.ini", "%include p.ini\n%include p.ini")],
        );
        assert!(
            ini.errors
                .iter()
                .any(|(_, error)| error.text.contains("nesting level too deep"))
        );
        let many = "%include m.ini\n".repeat(40);
        let ini = with_files(&many, &[("/cwd/m.ini", &many)]);
        assert!(
            ini.errors
                .iter()
                .any(|(_, error)| error.text.contains("1000 files"))
        );
    }

    #[test]
    fn connection_strings_are_split_as_in_pgbouncer() {
        let owned = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        assert_eq!(
            pairs(" host=h  port = 1 password='it''s =' connect_query='select 1'").unwrap(),
            owned(&[
                ("host", "h"),
                ("port", "1"),
                ("password", "it's ="),
                ("connect_query", "select 1")
            ])
        );
        assert_eq!(pairs("").unwrap(), []);
        assert_eq!(pairs("a=b=c").unwrap(), owned(&[("a", "b=c")]));
        for text in [
            "host",
            "host=",
            "host=''",
            "=x",
            "a b=c",
            "password='hunter2",
            "a='x",
        ] {
            let error = pairs(text).unwrap_err();
            assert!(
                error.starts_with("syntax error in connection string"),
                "{text}: {error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_ini_is_told_from_yaml() {
        for text in [
            "[databases]\n",
            "\n# c\n [pgbouncer]\n",
            ";x\nserver:\n",
            "%include /x\n",
        ] {
            assert!(is_ini(text), "{text}");
        }
        for text in [
            "",
            "# c\nserver:\n",
            "%YAML 1.2\n",
            "[a, b]\n",
            "pool: {}\n",
            "%includes",
        ] {
            assert!(!is_ini(text), "{text}");
        }
    }
}
