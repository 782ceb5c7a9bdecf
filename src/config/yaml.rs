//! A YAML text as nodes that know where they stand, and the errors about them with file, line and key.
//!
//! The only file that names serde_yaml. Owns reading (every problem is collected, not only the first) and the small
//! conversions that all sections share; knows none of their keys. Opens no file and reads no environment: [`Outside`] does.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::nearest;
use super::units;

/// Most problems that are reported at once; each one costs a walk through the text to find its line.
const PROBLEMS_MAX: usize = 50;

/// What a configuration may ask of the world.
pub trait Outside {
    /// The value of an environment variable; `None` when it is not set or not UTF-8.
    fn variable(&self, name: &str) -> Option<String>;
    /// The content of a file.
    ///
    /// # Errors
    /// Says why it cannot be read, without the path.
    fn file(&self, path: &Path) -> Result<Vec<u8>, String>;
    /// Whether others than its owner may use a file that holds a key, as PostgreSQL judges it.
    fn is_open_to_others(&self, _path: &Path) -> bool {
        false
    }
    /// Seconds since 1970, for the lifetimes of certificates; 0: unknown.
    fn unix_time(&self) -> i64 {
        0
    }
    /// Whether a file is there, or seems to be; one that cannot be read is.
    fn exists(&self, path: &Path) -> bool {
        self.file(path).is_ok()
    }
    /// The names in a directory.
    ///
    /// # Errors
    /// Says why it cannot be read, without the path.
    fn directory(&self, _path: &Path) -> Result<Vec<String>, String> {
        Err("there are no directories here".to_owned())
    }
}

/// One thing that is wrong in a configuration. Its `Display` is one line: `aether.yaml:7: pool.mode: ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named.
    pub file: String,
    /// Counted from 1; `None` when it is about no line in particular.
    pub line: Option<usize>,
    /// The path of the key, `pool.max_connections`; empty when it is about the whole file.
    pub key: String,
    /// What was found and what would be accepted; never a secret.
    pub text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

impl std::error::Error for ConfigError {}

/// A value in the document. Not printable: any text may be a secret.
pub(super) enum Node {
    Null,
    Flag(bool),
    Count(u64),
    /// A number that is negative, broken or huge, as text.
    OtherNumber(String),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file, duplicates included.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// What it is, without its content.
    fn kind(&self) -> &'static str {
        match self {
            Node::Null => "nothing",
            Node::Flag(_) => "true or false",
            Node::Count(_) | Node::OtherNumber(_) => "a number",
            Node::Text(_) => "a text",
            Node::List(_) => "a list",
            Node::Map(_) => "keys and values",
        }
    }

    /// Writes a value at a path, over what is there.
    pub(super) fn put(&mut self, path: &[&str], value: Node) {
        let Some((key, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        if !matches!(self, Node::Map(_)) {
            *self = Node::Map(Vec::new());
        }
        if let Node::Map(entries) = self {
            let place = entries.iter().position(|(known, _)| known == key);
            let place = place.unwrap_or_else(|| {
                entries.push(((*key).to_owned(), Node::Null));
                entries.len() - 1
            });
            if let Some((_, node)) = entries.get_mut(place) {
                node.put(rest, value);
            }
        }
    }

    /// What it is and, unless that may be long, its content; not for secrets.
    fn shown(&self) -> String {
        match self {
            Node::Flag(flag) => flag.to_string(),
            Node::Count(count) => count.to_string(),
            Node::OtherNumber(text) => text.clone(),
            Node::Text(text) if !text.contains("://") => {
                format!("{:?}", text.chars().take(60).collect::<String>())
            }
            other => other.kind().to_owned(),
        }
    }
}

/// Reads a document.
///
/// # Errors
/// Where it is no YAML.
pub(super) fn document(text: &str, file: &str) -> Result<Node, ConfigError> {
    serde_yaml::from_str::<Option<Node>>(text)
        .map(|node| node.unwrap_or(Node::Null))
        .map_err(|error| ConfigError {
            file: file.to_owned(),
            line: error.location().map(|location| location.line()),
            key: String::new(),
            text: format!(
                "not valid YAML: {}",
                usual_slip(text, &error)
                    .map_or_else(|| without_path(&error.to_string()), str::to_owned)
            ),
        })
}

/// What is usually behind an error of the YAML itself, in words that help more than the parser's. It stops at the line of the
/// slip or at the next one.
fn usual_slip(text: &str, error: &serde_yaml::Error) -> Option<&'static str> {
    let line = error.location()?.line();
    let mut lines = text
        .lines()
        .skip(line.saturating_sub(2))
        .take(if line > 1 { 2 } else { 1 });
    let indented_by_tab = |line: &str| {
        line.chars()
            .take_while(|c| c.is_whitespace())
            .any(|c| c == '\t')
    };
    if lines.clone().any(indented_by_tab) {
        return Some("a tab; indent with spaces");
    }
    lines
        .any(|line| words(line).any(is_unquoted))
        .then_some("a text that begins with *, [, @, % or ` means something else; put it in quotes")
}

/// The beginnings of keys and values in a line.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let line = line.trim_start().trim_start_matches("- ");
    let after = move |separator: &'static str| {
        line.match_indices(separator)
            .filter_map(move |(at, _)| line.get(at + separator.len()..))
    };
    std::iter::once(line)
        .chain([": ", "{", ", "].into_iter().flat_map(after))
        .map(str::trim_start)
}

/// Whether this cannot stand without quotes: an alias that is none, a reserved character, a list with something behind it.
fn is_unquoted(word: &str) -> bool {
    let address = word.starts_with('[') && word.contains("]:");
    address || word.starts_with(['*', '@', '%', '`'])
}

/// serde_yaml puts the keys on the way in front of some errors, as they are: any bytes, perhaps a value that lost its key.
fn without_path(error: &str) -> String {
    let begin = error.rfind("invalid type: ").unwrap_or(0);
    let text = error.get(begin..).unwrap_or(error);
    one_line(text)
}

/// For a line of a log or a terminal: what the file says may hold control bytes.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

impl<'de> serde::Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false, a list, or keys and values")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Flag(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Count(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(u64::try_from(value).map_or_else(|_| Node::OtherNumber(value.to_string()), Node::Count))
    }

    // The default would put the number, perhaps a password, into the error.
    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(Node::OtherNumber(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::OtherNumber(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::OtherNumber(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

/// Finds the line of a place: walks down the same document and fails there on purpose, because serde_yaml tells positions
/// only with errors.
fn line_of(text: &str, at: &[usize]) -> Option<usize> {
    let probe = Probe { at };
    let error = probe
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .err()?;
    error.location().map(|location| location.line())
}

#[derive(Clone, Copy)]
struct Probe<'p> {
    at: &'p [usize],
}

impl<'de> DeserializeSeed<'de> for Probe<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Probe<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((index, rest)) = self.at.split_first() else {
            return Err(here());
        };
        for _ in 0..*index {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Probe { at: rest })?;
        Err(here())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((index, rest)) = self.at.split_first() else {
            return Err(here());
        };
        for _ in 0..*index {
            map.next_entry::<IgnoredAny, IgnoredAny>()?;
        }
        if rest.is_empty() {
            map.next_key_seed(Probe { at: rest })?;
        } else if map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(Probe { at: rest })?;
        }
        Err(here())
    }
}

fn here<E: serde::de::Error>() -> E {
    E::custom("here")
}

/// Where a node stands: by name for the operator, by number for [`line_of`]. The line is that of its key.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    key: String,
    at: Vec<usize>,
}

impl Place {
    fn entry(&self, name: &str, index: usize) -> Place {
        // A connection string that lost its key.
        let name = if name.contains("://") {
            "(not shown)"
        } else {
            name
        };
        let name = name.escape_debug();
        let key = if self.key.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.key)
        };
        Place {
            key,
            at: self.with(index),
        }
    }

    fn element(&self, index: usize) -> Place {
        Place {
            key: format!("{}[{index}]", self.key),
            at: self.with(index),
        }
    }

    fn with(&self, index: usize) -> Vec<usize> {
        self.at.iter().copied().chain([index]).collect()
    }

    /// The path of the key, for messages.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// The numbers of the entries on the way to it.
    pub(super) fn at(&self) -> &[usize] {
        &self.at
    }

    /// A key that is missing here: the name of the key, the line of the section.
    pub(super) fn missing(&self, name: &str) -> Place {
        let mut place = self.entry(name, 0);
        place.at.pop();
        place
    }
}

/// Everything that is wrong so far, and everything that deserves a look.
#[derive(Default)]
pub(super) struct Problems {
    found: Vec<(Place, String)>,
    /// Errors of other files, with their own places.
    elsewhere: Vec<ConfigError>,
    /// Some key is unknown: what seems to be missing may stand under it.
    strangers: bool,
    warnings: Vec<(Place, String)>,
}

/// Where a problem is told to be: a file, a line of it, and a key there.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) file: String,
    pub(super) line: Option<usize>,
    pub(super) key: String,
}

impl Problems {
    /// Notes an error. `text` holds no secret.
    pub(super) fn add(&mut self, place: &Place, text: impl AsRef<str>) {
        if self.found.len() < PROBLEMS_MAX {
            self.found.push((place.clone(), one_line(text.as_ref())));
        }
    }

    /// Notes something that is accepted but deserves a look.
    pub(super) fn warn(&mut self, place: &Place, text: impl fmt::Display) {
        let text = one_line(&text.to_string());
        self.warnings.push((place.clone(), text));
    }

    /// The warnings, each behind what `head` says of its place.
    pub(super) fn take_warnings(&mut self, head: &dyn Fn(&Place) -> String) -> Vec<String> {
        let told = |(place, text): (Place, String)| match head(&place) {
            head if head.is_empty() => text,
            head => format!("{head}: {text}"),
        };
        std::mem::take(&mut self.warnings)
            .into_iter()
            .map(told)
            .collect()
    }

    /// Notes the errors of another file.
    pub(super) fn add_elsewhere(&mut self, errors: Vec<ConfigError>) {
        self.elsewhere.extend(errors);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty() && self.elsewhere.is_empty()
    }

    /// How many errors there are so far.
    pub(super) fn count(&self) -> usize {
        self.found.len() + self.elsewhere.len()
    }

    /// Notes that something is missing, unless it probably stands under a wrong name, which is told already.
    pub(super) fn add_missing(&mut self, place: &Place, text: &str) {
        if !self.strangers {
            self.add(place, text);
        }
    }

    /// The errors, each at the spot that `spot` gives for its place; those of other files at the end.
    pub(super) fn into_errors(self, spot: &dyn Fn(&Place) -> Spot) -> Vec<ConfigError> {
        let told = |(place, text): (Place, String)| {
            let Spot { file, line, key } = spot(&place);
            ConfigError {
                file,
                line,
                key,
                text,
            }
        };
        let mut errors: Vec<ConfigError> = self.found.into_iter().map(told).collect();
        errors.sort_by_key(|error| error.line);
        errors.extend(self.elsewhere);
        errors
    }
}

/// Finds the spots of a YAML text.
pub(super) fn spot_in(text: &str, file: &str, place: &Place) -> Spot {
    Spot {
        file: file.to_owned(),
        line: (!place.at.is_empty())
            .then(|| line_of(text, &place.at))
            .flatten(),
        key: place.key.clone(),
    }
}

/// A node and its place.
#[derive(Clone)]
pub(super) struct Field<'a> {
    node: &'a Node,
    pub(super) place: Place,
}

/// Keys and values.
#[derive(Clone)]
pub(super) struct Section<'a> {
    entries: &'a [(String, Node)],
    pub(super) place: Place,
}

impl<'a> Section<'a> {
    /// A section that is not written.
    pub(super) fn none(place: Place) -> Section<'a> {
        Section {
            entries: &[],
            place,
        }
    }

    /// The value of a key; `None` when it is absent or empty (`key:` or `key: null`), which is the same.
    pub(super) fn get(&self, name: &str) -> Option<Field<'a>> {
        self.get_or_null(name).filter(|field| !field.is_null())
    }

    /// The value of a key for which `null` has a meaning of its own.
    pub(super) fn get_or_null(&self, name: &str) -> Option<Field<'a>> {
        let (index, (_, node)) = self
            .entries
            .iter()
            .enumerate()
            .find(|(_, (key, _))| key == name)?;
        Some(Field {
            node,
            place: self.place.entry(name, index),
        })
    }

    /// All keys that are written, for sections whose keys are names of the operator's choice.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> {
        let entries: &'a [(String, Node)] = self.entries;
        let place = self.place.clone();
        entries
            .iter()
            .enumerate()
            .map(move |(index, (name, node))| {
                (
                    name.as_str(),
                    Field {
                        node,
                        place: place.entry(name, index),
                    },
                )
            })
    }

    fn report_strangers(&self, known: &[&str], problems: &mut Problems) {
        for (index, (key, _)) in self.entries.iter().enumerate() {
            if known.contains(&key.as_str()) {
                continue;
            }
            problems.strangers = true;
            // Perhaps a value that lost its key.
            let hidden = key.contains(['@', ':']) || key.len() > 64;
            let place = self
                .place
                .entry(if hidden { "(not shown)" } else { key }, index);
            let advice = match nearest(key, known.iter().copied()) {
                Some(name) if !hidden => format!("did you mean \"{name}\"?"),
                _ => format!("known are {}", known.join(", ")),
            };
            problems.add(&place, format!("unknown key; {advice}"));
        }
    }

    fn report_duplicates(&self, problems: &mut Problems) {
        let mut seen = std::collections::BTreeSet::new();
        for (index, (key, _)) in self.entries.iter().enumerate() {
            if !seen.insert(key) {
                problems.add(
                    &self.place.entry(key, index),
                    "written twice in the same section; keep one",
                );
            }
        }
    }
}

impl<'a> Field<'a> {
    /// The whole document.
    pub(super) fn root(node: &'a Node) -> Field<'a> {
        Field {
            node,
            place: Place::default(),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node, Node::Null)
    }

    /// Whether it is a section (and not, say, a text that may stand in its place).
    pub(super) fn is_section(&self) -> bool {
        matches!(self.node, Node::Map(_))
    }

    /// As keys and values, of which only `known` ones are right.
    pub(super) fn section(&self, known: &[&str], problems: &mut Problems) -> Section<'a> {
        let section = self.names(problems);
        section.report_strangers(known, problems);
        section
    }

    /// As keys and values with names of the operator's choice.
    pub(super) fn names(&self, problems: &mut Problems) -> Section<'a> {
        let place = self.place.clone();
        let section = match self.node {
            Node::Map(entries) => Section { entries, place },
            Node::Null => Section::none(place),
            other => {
                problems.add(
                    &place,
                    format!("found {}, expected keys and values", other.kind()),
                );
                Section::none(place)
            }
        };
        section.report_duplicates(problems);
        section
    }

    /// Notes that this value is not what the key takes.
    fn wrong(&self, expected: &str, problems: &mut Problems) {
        problems.add(
            &self.place,
            format!("found {}, expected {expected}", self.node.shown()),
        );
    }

    /// As a text without zero bytes.
    pub(super) fn text(&self, problems: &mut Problems) -> Option<&'a str> {
        match self.node {
            Node::Text(text) if text.contains('\0') => {
                problems.add(&self.place, "a zero byte in the text");
                None
            }
            Node::Text(text) => Some(text),
            Node::Flag(_) | Node::Count(_) | Node::OtherNumber(_) => {
                problems.add(
                    &self.place,
                    format!(
                        "found {}, expected a text; put it in quotes",
                        self.node.kind()
                    ),
                );
                None
            }
            other => {
                problems.add(
                    &self.place,
                    format!("found {}, expected a text", other.kind()),
                );
                None
            }
        }
    }

    /// As a text that is not empty.
    pub(super) fn name(&self, problems: &mut Problems) -> Option<&'a str> {
        let text = self.text(problems)?;
        if text.is_empty() {
            problems.add(
                &self.place,
                "found an empty text; leave the key away instead",
            );
            return None;
        }
        Some(text)
    }

    /// As a text or a list of texts, none of them empty.
    pub(super) fn names_list(&self, problems: &mut Problems) -> Option<Vec<(&'a str, Place)>> {
        let Node::List(nodes) = self.node else {
            return self
                .name(problems)
                .map(|text| vec![(text, self.place.clone())]);
        };
        let fields = nodes.iter().enumerate().map(|(index, node)| Field {
            node,
            place: self.place.element(index),
        });
        let before = problems.found.len();
        let texts = fields
            .filter_map(|field| field.name(problems).map(|text| (text, field.place)))
            .collect();
        (problems.found.len() == before).then_some(texts)
    }

    /// As one of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)], problems: &mut Problems) -> Option<T> {
        let Node::Text(text) = self.node else {
            self.wrong(&one_of(words), problems);
            return None;
        };
        let found = words.iter().find(|(word, _)| word == text);
        if found.is_none() {
            let meant = nearest(text, words.iter().map(|(word, _)| *word));
            let advice = meant.map(|word| format!("; did you mean \"{word}\"?"));
            self.wrong(&(one_of(words) + &advice.unwrap_or_default()), problems);
        }
        found.map(|(_, value)| *value)
    }

    pub(super) fn flag(&self, problems: &mut Problems) -> Option<bool> {
        match self.node {
            Node::Flag(flag) => Some(*flag),
            _ => {
                self.wrong("true or false", problems);
                None
            }
        }
    }

    /// As a whole number in a range.
    pub(super) fn count(&self, range: RangeInclusive<u64>, problems: &mut Problems) -> Option<u64> {
        match self.node {
            Node::Count(count) if range.contains(count) => Some(*count),
            _ => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                self.wrong(&expected, problems);
                None
            }
        }
    }

    /// As a share, a number from 0 to 1: so many in a million.
    pub(super) fn share(&self, problems: &mut Problems) -> Option<u32> {
        let share = match self.node {
            Node::Count(count) => u32::try_from(*count).ok().map(f64::from),
            Node::OtherNumber(text) => text.parse::<f64>().ok(),
            _ => None,
        };
        match share.filter(|share| (0.0..=1.0).contains(share)) {
            Some(share) => Some((share * 1e6).round() as u32),
            None => {
                self.wrong("a number from 0 to 1, like 0.05", problems);
                None
            }
        }
    }

    /// As a duration; zero included.
    pub(super) fn duration(&self, problems: &mut Problems) -> Option<Duration> {
        let read = match self.node {
            Node::Text(text) => units::duration(text),
            Node::Count(count) => units::duration(&count.to_string()),
            other => Err(format!(
                "found {}, expected {}",
                other.shown(),
                units::DURATION_FORMS
            )),
        };
        read.map_err(|text| problems.add(&self.place, text)).ok()
    }

    /// As a duration that cannot be switched off.
    pub(super) fn duration_above_zero(&self, problems: &mut Problems) -> Option<Duration> {
        let duration = self.duration(problems)?;
        if duration.is_zero() {
            problems.add(
                &self.place,
                "found 0, but this limit cannot be switched off; for instance 5s",
            );
            return None;
        }
        Some(duration)
    }

    /// As a secret text, `${VARIABLE}` replaced. Its content is in no error.
    pub(super) fn secret(&self, outside: &dyn Outside, problems: &mut Problems) -> Option<String> {
        let text = self.text(problems)?;
        match expanded(text, outside) {
            Ok(secret) if secret.is_empty() => {
                problems.add(&self.place, "the secret is empty");
                None
            }
            Ok(secret) if secret.contains('\0') => {
                problems.add(&self.place, "a zero byte in the secret");
                None
            }
            Ok(secret) => Some(secret),
            Err(text) => {
                problems.add(&self.place, text);
                None
            }
        }
    }
}

fn one_of<T>(words: &[(&str, T)]) -> String {
    let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    format!("one of {}", words.join(", "))
}

/// Puts environment variables in: `${NAME}`. `$${` stands for `${`; any other `$` for itself.
fn expanded(text: &str, outside: &dyn Outside) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let inside = from.get(2..).unwrap_or_default();
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            rest = inside;
            continue;
        }
        let (name, after) = inside
            .split_once('}')
            .ok_or("\"${\" without \"}\"; a plain \"${\" is written $${")?;
        out.push_str(before);
        out.push_str(&variable(name, outside)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn variable(name: &str, outside: &dyn Outside) -> Result<String, String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(word) || name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Err(
            "no name of an environment variable in \"${...}\"; a plain \"${\" is written $${"
                .to_owned(),
        );
    }
    outside
        .variable(name)
        .ok_or_else(|| format!("the environment variable {name} is not set"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Outside for Nothing {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "SET").then(|| "value".to_owned())
        }

        fn file(&self, _: &Path) -> Result<Vec<u8>, String> {
            Err("no files here".to_owned())
        }
    }

    fn line(text: &str, at: &[usize]) -> Option<usize> {
        line_of(text, at)
    }

    #[test]
    fn lines_are_found_in_block_and_flow_style_and_behind_comments() {
        let text = "# c\na: 1\n\nb:\n  # c\n  c: [x,\n    y]\n  d: {e: 1,\n   f: 2}\n";
        assert_eq!(line(text, &[0]), Some(2));
        assert_eq!(line(text, &[1]), Some(4));
        assert_eq!(line(text, &[1, 0]), Some(6));
        assert_eq!(line(text, &[1, 0, 1]), Some(7));
        assert_eq!(line(text, &[1, 1, 0]), Some(8));
        assert_eq!(line(text, &[1, 1, 1]), Some(9));
    }

    #[test]
    fn a_broken_document_is_an_error_with_its_line() {
        for (text, line) in [
            ("a: [1\nb: 2", Some(2)),
            ("a: *x", Some(1)),
            ("a:\n\t- b", Some(2)),
        ] {
            let error = document(text, "f.yaml").err().unwrap();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.to_string().starts_with("f.yaml:"), "{error}");
        }
    }

    /// Found by the fuzz target yaml: serde_yaml repeats the keys that lead to a broken one, control bytes and all.
    #[test]
    fn a_broken_document_is_told_on_one_line_without_its_keys() {
        let text =
            "pool:\n  postgres://u:hunter2@h/d:\n    \"\\e[31m\":\n      ? {a: b}\n      : c\n";
        let error = document(text, "f.yaml").err().unwrap().to_string();
        assert!(
            error.starts_with("f.yaml:4: not valid YAML: invalid type: map"),
            "{error}"
        );
        assert!(
            !error.contains("hunter2") && !error.contains('\x1b'),
            "{error}"
        );
    }

    #[test]
    fn an_empty_document_is_nothing() {
        for text in ["", "# only a comment\n", "---\n", "~"] {
            assert!(matches!(document(text, "f"), Ok(Node::Null)), "{text}");
        }
    }

    #[test]
    fn aliases_cannot_blow_a_document_up_and_depth_is_bounded() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..9 {
            let list = vec![format!("*a{}", level - 1); 9].join(",");
            text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert!(document(&text, "f").is_err());
        assert!(document(&"[".repeat(5_000), "f").is_err());
    }

    #[test]
    fn variables_are_put_in_and_only_where_asked_for() {
        assert_eq!(
            expanded("a${SET}b${SET}", &Nothing).unwrap(),
            "avaluebvalue"
        );
        assert_eq!(
            expanded("pa$$word$ $x $${SET} $", &Nothing).unwrap(),
            "pa$$word$ $x ${SET} $"
        );
        assert_eq!(
            expanded("SCRAM-SHA-256$1:a$b:c", &Nothing).unwrap(),
            "SCRAM-SHA-256$1:a$b:c"
        );
        assert_eq!(
            expanded("${UNSET}", &Nothing).unwrap_err(),
            "the environment variable UNSET is not set"
        );
        for text in ["x${", "x${SET", "${}", "${9A}", "${a b}", "${hunter2-}"] {
            let error = expanded(text, &Nothing).unwrap_err();
            assert!(
                error.contains("is written $${") && !error.contains("hunter2"),
                "{text}: {error}"
            );
        }
    }
}
