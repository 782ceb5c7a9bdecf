//! An error as a value, and as an ErrorResponse or NoticeResponse on the wire.
//!
//! What goes wrong with a peer is told as a [`Refusal`] and passed up until somebody can tell the client or the log. Knows
//! nothing of who gets it.

use std::borrow::Cow;

use super::frame::{cstr, message, take_cstr};

/// Whose fault it is: decides who is told, and how loudly it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client broke a rule, or may not do what it asked for.
    Client,
    /// The server, or the way to it.
    Server,
    /// A limit of the configuration, or the operator's doing (shutdown, kill).
    Operator,
    /// A failed internal check: our own mistake.
    Ours,
}

/// An error for a client: everything that an ErrorResponse carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `FATAL` or `ERROR`.
    pub severity: Severity,
    /// Five characters, from PostgreSQL's table of error codes.
    pub sqlstate: [u8; 5],
    /// Field M, in the encoding in which it came.
    pub message: Vec<u8>,
    /// Field D.
    pub detail: Option<Vec<u8>>,
    /// Field H: what a person can do about it.
    pub hint: Option<Vec<u8>>,
    /// Whose fault it is.
    pub blame: Blame,
    /// In whose words it is, and in which PgBouncer says the same.
    pub words: Words,
}

/// In whose words an error is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Words {
    /// Ours; PgBouncer's are the same, as far as it has any.
    Ours,
    /// Ours; PgBouncer says it like this.
    Otherwise(Cow<'static, str>),
    /// A server's.
    Servers,
}

/// Whether the connection ends with the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The session lives on.
    Error,
    /// The connection ends.
    Fatal,
}

impl Refusal {
    /// A FATAL error without detail and hint.
    pub fn fatal(sqlstate: &[u8; 5], message: impl Into<String>, blame: Blame) -> Refusal {
        Refusal {
            severity: Severity::Fatal,
            sqlstate: *sqlstate,
            message: message.into().into_bytes(),
            detail: None,
            hint: None,
            blame,
            words: Words::Ours,
        }
    }

    /// An ERROR after which the session lives on.
    pub fn error(sqlstate: &[u8; 5], message: impl Into<String>) -> Refusal {
        Refusal {
            severity: Severity::Error,
            ..Refusal::fatal(sqlstate, message, Blame::Client)
        }
    }

    /// The client broke the protocol (08P01).
    pub fn protocol(message: impl Into<String>) -> Refusal {
        Refusal::fatal(b"08P01", message, Blame::Client)
    }

    /// With field D.
    pub fn detail(mut self, detail: impl Into<String>) -> Refusal {
        self.detail = Some(detail.into().into_bytes());
        self
    }

    /// With field H.
    pub fn hint(mut self, hint: impl Into<String>) -> Refusal {
        self.hint = Some(hint.into().into_bytes());
        self
    }

    /// As PgBouncer says it.
    pub fn pgbouncer(mut self, text: impl Into<Cow<'static, str>>) -> Refusal {
        self.words = Words::Otherwise(text.into());
        self
    }

    /// The message as text, for a log line.
    pub fn text(&self) -> String {
        super::frame::printable(&self.message)
    }

    /// The SQLSTATE as text.
    pub fn code(&self) -> &str {
        std::str::from_utf8(&self.sqlstate).unwrap_or("XX000")
    }

    /// Appends the ErrorResponse.
    pub fn write(&self, out: &mut Vec<u8>) {
        let severity: &[u8] = match self.severity {
            Severity::Error => b"ERROR",
            Severity::Fatal => b"FATAL",
        };
        fields(
            out,
            b'E',
            severity,
            &self.sqlstate,
            &self.message,
            self.detail.as_deref(),
            self.hint.as_deref(),
        );
    }

    /// Reads the body of an ErrorResponse from a server. Any field may be missing, empty or repeated (CVE-2026-6666): then
    /// the code is XX000 and the message says so. Never fails.
    pub fn read(body: &[u8], blame: Blame) -> Refusal {
        let mut refusal = Refusal::fatal(
            b"XX000",
            "the server sent an error without a message",
            blame,
        );
        refusal.words = Words::Servers;
        let mut rest = body;
        while let Some((&field, after)) = rest.split_first() {
            if field == 0 {
                break;
            }
            let Some((text, after)) = take_cstr(after) else {
                break;
            };
            match field {
                b'C' => {
                    if let Ok(code) = <[u8; 5]>::try_from(text)
                        && code.iter().all(u8::is_ascii_alphanumeric)
                    {
                        refusal.sqlstate = code;
                    }
                }
                b'V' if text == b"ERROR" => refusal.severity = Severity::Error,
                b'M' if !text.is_empty() => refusal.message = text.to_vec(),
                b'D' => refusal.detail = Some(text.to_vec()),
                b'H' => refusal.hint = Some(text.to_vec()),
                _ => {}
            }
            rest = after;
        }
        refusal
    }
}

/// The SQLSTATE in the body of an ErrorResponse, of which the end may be missing.
pub fn sqlstate(body: &[u8]) -> Option<[u8; 5]> {
    let mut rest = body;
    while let Some((&field, after)) = rest.split_first() {
        let (text, after) = take_cstr(after)?;
        if field == b'C' {
            return text.try_into().ok();
        }
        rest = after;
    }
    None
}

/// Appends a NoticeResponse of severity NOTICE.
pub fn notice(out: &mut Vec<u8>, text: &str, detail: Option<&str>) {
    fields(
        out,
        b'N',
        b"NOTICE",
        b"00000",
        text.as_bytes(),
        detail.map(str::as_bytes),
        None,
    );
}

fn fields(
    out: &mut Vec<u8>,
    tag: u8,
    severity: &[u8],
    sqlstate: &[u8; 5],
    text: &[u8],
    detail: Option<&[u8]>,
    hint: Option<&[u8]>,
) {
    message(out, tag, |b| {
        let mut field = |code: u8, text: &[u8]| {
            b.push(code);
            cstr(b, text);
        };
        field(b'S', severity);
        field(b'V', severity);
        field(b'C', sqlstate);
        field(b'M', text);
        if let Some(detail) = detail {
            field(b'D', detail);
        }
        if let Some(hint) = hint {
            field(b'H', hint);
        }
        b.push(0);
    });
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;

    #[test]
    fn an_error_is_read_as_it_was_written() {
        let mut refusal = Refusal::fatal(b"53300", "full", Blame::Server)
            .detail("d")
            .hint("h");
        refusal.words = Words::Servers;
        let mut out = Vec::new();
        refusal.write(&mut out);
        let (tag, body, _) = frame::whole(&out, 1000).ok().flatten().expect("whole");
        assert_eq!(tag, b'E');
        assert_eq!(Refusal::read(body, Blame::Server), refusal);
        assert_eq!(sqlstate(body), Some(*b"53300"));
        assert_eq!(sqlstate(body.get(..10).expect("a part")), None);
    }

    /// CVE-2026-6666: an ErrorResponse without SQLSTATE crashed PgBouncer.
    #[test]
    fn an_error_with_fields_missing_empty_doubled_or_cut_is_still_an_error() {
        for body in [
            &b""[..],
            b"\0",
            b"M",
            b"Mabc",
            b"C\0\0",
            b"C12\0M\0\0",
            b"CXX000\0C28P01\0\0",
            b"\xff\xff\0",
            b"Ca\nb!c\0\0",
        ] {
            let refusal = Refusal::read(body, Blame::Server);
            assert!(!refusal.message.is_empty());
            assert!(refusal.sqlstate.iter().all(u8::is_ascii_alphanumeric));
        }
    }
}
