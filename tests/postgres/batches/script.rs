//! What one client does: batches of messages, as bytes and as people read them.

use std::fmt;

use crate::support::wire::{self, message, terminated};

/// One message, or a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind {
        portal: String,
        statement: String,
        formats: Vec<u16>,
        values: Vec<Option<Vec<u8>>>,
        results: Vec<u16>,
    },
    /// Of a statement (`S`) or portal (`P`).
    Describe(u8, String),
    Execute(String, i32),
    /// Of a statement (`S`) or portal (`P`).
    Close(u8, String),
    Flush,
    Sync,
    Query(String),
    /// FunctionCall.
    Call {
        function: u32,
        formats: Vec<u16>,
        arguments: Vec<Option<Vec<u8>>>,
        result: u16,
    },
    CopyData(Vec<u8>),
    CopyDone,
    CopyFail(String),
    /// Nothing is sent before everything has been answered that the server must answer by now.
    Wait,
}

/// Messages that are sent at once, if there is no [`Act::Wait`] among them.
pub type Batch = Vec<Act>;

/// A client's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Startup parameters beside user and database.
    pub parameters: Vec<(String, String)>,
    /// What it sends.
    pub batches: Vec<Batch>,
}

impl Script {
    /// How many messages there are.
    pub fn messages(&self) -> usize {
        let acts = self.batches.iter().flatten();
        acts.filter(|act| **act != Act::Wait).count()
    }
}

impl Script {
    /// Whether it may leave in the server what no reset removes.
    pub fn leaves_something(&self) -> bool {
        let temporary = |sql: &str| sql.contains("TEMP");
        self.batches.iter().flatten().any(|act| match act {
            Act::Query(sql) | Act::Parse { sql, .. } => temporary(sql),
            _ => false,
        })
    }
}

impl Act {
    /// The bytes; none for a pause.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Act::Parse { name, sql, types } => {
                let mut body = terminated(name);
                body.extend(terminated(sql));
                body.extend(count(types));
                types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
                message(b'P', &body)
            }
            Act::Bind {
                portal,
                statement,
                formats,
                values,
                results,
            } => {
                let mut body = terminated(portal);
                body.extend(terminated(statement));
                put_words(&mut body, formats);
                put_values(&mut body, values);
                put_words(&mut body, results);
                message(b'B', &body)
            }
            Act::Describe(what, name) => wire::describe(*what, name),
            Act::Execute(portal, rows) => wire::execute(portal, *rows),
            Act::Close(what, name) => wire::close(*what, name),
            Act::Flush => message(b'H', &[]),
            Act::Sync => wire::sync(),
            Act::Query(sql) => message(b'Q', &terminated(sql)),
            Act::Call {
                function,
                formats,
                arguments,
                result,
            } => {
                let mut body = function.to_be_bytes().to_vec();
                put_words(&mut body, formats);
                put_values(&mut body, arguments);
                body.extend(result.to_be_bytes());
                message(b'F', &body)
            }
            Act::CopyData(data) => message(b'd', data),
            Act::CopyDone => message(b'c', &[]),
            Act::CopyFail(reason) => message(b'f', &terminated(reason)),
            Act::Wait => Vec::new(),
        }
    }
}

fn count<T>(of: &[T]) -> [u8; 2] {
    u16::try_from(of.len()).expect("few").to_be_bytes()
}

fn put_words(body: &mut Vec<u8>, words: &[u16]) {
    body.extend(count(words));
    words
        .iter()
        .for_each(|word| body.extend(word.to_be_bytes()));
}

fn put_values(body: &mut Vec<u8>, values: &[Option<Vec<u8>>]) {
    body.extend(count(values));
    for value in values {
        match value {
            None => body.extend((-1_i32).to_be_bytes()),
            Some(bytes) => {
                body.extend(i32::try_from(bytes.len()).expect("short").to_be_bytes());
                body.extend(bytes);
            }
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Parse { name, sql, types } => {
                write!(f, "Parse {name:?} {}", shown(sql.as_bytes()))?;
                if types.is_empty() {
                    Ok(())
                } else {
                    write!(f, " types {types:?}")
                }
            }
            Act::Bind {
                portal,
                statement,
                formats,
                values,
                results,
            } => {
                write!(f, "Bind portal {portal:?} of {statement:?}")?;
                write!(f, " values {}", shown_values(values))?;
                write!(f, " formats {formats:?} results {results:?}")
            }
            Act::Describe(what, name) => write!(f, "Describe {} {name:?}", char::from(*what)),
            Act::Execute(portal, rows) => write!(f, "Execute {portal:?} rows {rows}"),
            Act::Close(what, name) => write!(f, "Close {} {name:?}", char::from(*what)),
            Act::Flush => write!(f, "Flush"),
            Act::Sync => write!(f, "Sync"),
            Act::Query(sql) => write!(f, "Query {}", shown(sql.as_bytes())),
            Act::Call {
                function,
                formats,
                arguments,
                result,
            } => {
                let arguments = shown_values(arguments);
                write!(f, "FunctionCall {function} arguments {arguments}")?;
                write!(f, " formats {formats:?} result {result}")
            }
            Act::CopyData(data) => write!(f, "CopyData {}", shown(data)),
            Act::CopyDone => write!(f, "CopyDone"),
            Act::CopyFail(reason) => write!(f, "CopyFail {reason:?}"),
            Act::Wait => write!(f, "(waits)"),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  startup parameters {:?}", self.parameters)?;
        let mut number = 0;
        for (at, batch) in self.batches.iter().enumerate() {
            writeln!(f, "  batch {at}:")?;
            for act in batch {
                writeln!(f, "    {number:>3} {act}")?;
                number += 1;
            }
        }
        Ok(())
    }
}

/// Bytes as text, long ones shortened.
pub fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 160;
    if bytes.len() <= MOST {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    let (head, tail) = (&bytes[..MOST / 2], &bytes[bytes.len() - 16..]);
    let length = bytes.len();
    format!(
        "\"{}\" ... \"{}\" ({length} bytes)",
        head.escape_ascii(),
        tail.escape_ascii()
    )
}

fn shown_values(values: &[Option<Vec<u8>>]) -> String {
    let words: Vec<String> = values
        .iter()
        .map(|value| value.as_deref().map_or("NULL".to_string(), shown))
        .collect();
    format!("[{}]", words.join(", "))
}
