//! What an ini comes to in the keys of `aether.yaml`, each with the line that it is from: read by the schema, or written down as YAML.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::ini::Spot;
use super::super::yaml::{Node, Place};

/// A value for a native key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing, where that is a statement.
    Null,
    Flag(bool),
    Count(u64),
    Text(String),
    List(Vec<String>),
    /// A section without keys, where that is a statement.
    Empty,
}

impl Value {
    fn node(&self) -> Node {
        match self {
            Value::Null => Node::Null,
            Value::Flag(flag) => Node::Flag(*flag),
            Value::Count(count) => Node::Count(*count),
            Value::Text(text) => Node::Text(text.clone()),
            Value::List(texts) => Node::List(texts.iter().cloned().map(Node::Text).collect()),
            Value::Empty => Node::Map(Vec::new()),
        }
    }

    fn yaml(&self) -> String {
        match self {
            Value::Null => "null".to_owned(),
            Value::Flag(flag) => flag.to_string(),
            Value::Count(count) => count.to_string(),
            Value::Text(text) => scalar(text),
            Value::List(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| scalar(text)).collect();
                format!("[{}]", texts.join(", "))
            }
            Value::Empty => "{}".to_owned(),
        }
    }
}

/// A text without quotes where nobody could take it for something else.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c == '_' || c == '-';
    let words = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase());
    let duration = text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(['s', 'm', 'h', 'd'])
        && text
            .chars()
            .all(|c| c.is_ascii_digit() || "mshd".contains(c));
    if duration || starts && text.chars().all(plain) && !words.contains(&text) {
        return text.to_owned();
    }
    super::super::effective::quoted(text)
}

/// Where a value is from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// `None`: nothing in the file says it.
    pub(super) spot: Option<Spot>,
    /// The option as the ini names it, `[databases] app pool_size`; or why the value is there.
    pub(super) option: String,
    /// Whether a change counts after a restart only.
    pub(super) restart: bool,
}

impl Origin {
    /// Of something that is written.
    pub(super) fn written(spot: &Spot, option: impl Into<String>) -> Origin {
        Origin {
            spot: Some(spot.clone()),
            option: option.into(),
            restart: false,
        }
    }

    /// Of something that follows from what is not written.
    pub(super) fn implied(why: impl Into<String>) -> Origin {
        Origin {
            spot: None,
            option: why.into(),
            restart: false,
        }
    }
}

enum Branch {
    Leaf(Value),
    Section(Vec<(String, Tree)>),
}

/// A section or a value.
pub(super) struct Tree {
    branch: Branch,
    origin: Option<Origin>,
}

impl Tree {
    /// With nothing in it.
    pub(super) fn new() -> Tree {
        Tree {
            branch: Branch::Section(Vec::new()),
            origin: None,
        }
    }

    /// Sets the value of a key; what was there before is gone.
    pub(super) fn set(&mut self, path: &[&str], value: Value, origin: &Origin) {
        let Some((name, rest)) = path.split_first() else {
            self.branch = Branch::Leaf(value);
            self.origin = Some(origin.clone());
            return;
        };
        self.origin.get_or_insert_with(|| origin.clone());
        if matches!(self.branch, Branch::Leaf(_)) {
            self.branch = Branch::Section(Vec::new());
        }
        if let Branch::Section(entries) = &mut self.branch {
            let at = entries.iter().position(|(key, _)| key == name);
            let at = at.unwrap_or_else(|| {
                entries.push(((*name).to_owned(), Tree::new()));
                entries.len() - 1
            });
            if let Some((_, tree)) = entries.get_mut(at) {
                tree.set(rest, value, origin);
            }
        }
    }

    /// Puts the sections at the top in this order.
    pub(super) fn sort(&mut self, order: &[&str]) {
        if let Branch::Section(entries) = &mut self.branch {
            entries.sort_by_key(|(key, _)| order.iter().position(|name| name == key));
        }
    }

    /// For the schema.
    pub(super) fn node(&self) -> Node {
        match &self.branch {
            Branch::Leaf(value) => value.node(),
            Branch::Section(entries) => Node::Map(
                entries
                    .iter()
                    .map(|(key, tree)| (key.clone(), tree.node()))
                    .collect(),
            ),
        }
    }

    /// Where everything is from.
    pub(super) fn origins(&self) -> Origins<'_> {
        let mut origins = Origins(BTreeMap::new());
        self.collect(&mut Vec::new(), &mut origins);
        origins
    }

    fn collect<'a>(&'a self, at: &mut Vec<usize>, origins: &mut Origins<'a>) {
        if let Some(origin) = &self.origin {
            origins.0.insert(at.clone(), origin);
        }
        if let Branch::Section(entries) = &self.branch {
            for (index, (_, tree)) in entries.iter().enumerate() {
                at.push(index);
                tree.collect(at, origins);
                at.pop();
            }
        }
    }

    /// As YAML, behind each value what it is from.
    pub(super) fn yaml(&self, page: &mut String) {
        if let Branch::Section(entries) = &self.branch {
            write_entries(entries, 0, page);
        }
    }
}

fn write_entries(entries: &[(String, Tree)], depth: usize, page: &mut String) {
    for (key, tree) in entries {
        let key = match depth {
            0 => key.clone(),
            _ => scalar(key),
        };
        let (head, indent) = (format!("{key}:"), depth * 2);
        // Writing to a String cannot fail.
        let _ = match &tree.branch {
            Branch::Section(entries) if entries.is_empty() => {
                writeln!(page, "{:indent$}{head} {{}}", "")
            }
            Branch::Section(entries) => {
                if depth == 0 && !page.is_empty() {
                    page.push('\n');
                }
                let _ = writeln!(page, "{:indent$}{head}", "");
                write_entries(entries, depth + 1, page);
                continue;
            }
            Branch::Leaf(value) => {
                let line = format!("{:indent$}{head} {}", "", value.yaml());
                writeln!(page, "{line:<50}  # {}", comment(tree.origin.as_ref()))
            }
        };
    }
}

fn comment(origin: Option<&Origin>) -> String {
    let Some(Origin {
        spot,
        option,
        restart,
    }) = origin
    else {
        return String::new();
    };
    let restart = if *restart { ", takes a restart" } else { "" };
    let text = match spot {
        Some(spot) => format!("{option} ({spot}{restart})"),
        None => option.clone(),
    };
    let line = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(line).collect()
}

/// What every place of the tree is from.
pub(super) struct Origins<'a>(BTreeMap<Vec<usize>, &'a Origin>);

impl Origins<'_> {
    /// The number of a file that something is from; the last one for any other.
    pub(super) fn number_of(&self, file: &str) -> usize {
        let spots = self.0.values().filter_map(|origin| origin.spot.as_ref());
        let mut same = spots.filter(|spot| &*spot.file == file);
        same.next().map_or(usize::MAX, |spot| spot.number)
    }

    /// That of a place, or of the nearest section around it.
    pub(super) fn of(&self, place: &Place) -> Option<&Origin> {
        let at = place.at();
        let around = (0..=at.len()).rev().filter_map(|len| at.get(..len));
        let mut known = around.filter_map(|at| self.0.get(at));
        known.next().copied()
    }
}
