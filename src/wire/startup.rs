//! The packets before login, which have no type letter: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.
//!
//! Reads them and says what they are; what to answer is decided elsewhere. Limits and error texts are PostgreSQL's own.

use super::frame::{message, take_cstr, take_u32};
use super::refusal::{Blame, Refusal};
use crate::limits;

/// Protocol 3.2, the newest that Aether speaks with clients: it allows cancel keys of up to 256 bytes.
pub const NEWEST_MINOR: u32 = 2;
/// Protocol 3.0 as a version code, which is what Aether speaks with servers.
pub const PROTOCOL_3_0: u32 = 196_608;

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// The first packet, or one of the first packets, of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First<'a> {
    /// Asks for TLS.
    Ssl,
    /// Asks for GSSAPI encryption.
    GssEnc,
    /// Asks to cancel what a session runs.
    Cancel {
        /// The process id from BackendKeyData.
        pid: u32,
        /// The key from BackendKeyData: 4 bytes in protocol 3.0, up to 256 in 3.2.
        key: Vec<u8>,
    },
    /// Asks for a session.
    Startup(Startup<'a>),
}

/// A StartupMessage, in the bytes that it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup<'a> {
    /// Minor version asked for; the major version is 3.
    pub minor: u32,
    /// Key and value pairs in the order in which they came, `_pq_.` ones left out.
    pub parameters: Vec<(&'a [u8], &'a [u8])>,
    /// Names of protocol extensions (`_pq_.`...) that were asked for. Aether knows none.
    pub extensions: Vec<&'a [u8]>,
}

impl<'a> Startup<'a> {
    /// The value of a parameter; the last one wins, as in PostgreSQL.
    pub fn parameter(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.parameters
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .map(|(_, v)| *v)
    }

    /// The minor version that the session will use.
    pub fn agreed_minor(&self) -> u32 {
        match self.minor {
            // 3.1 was never a version; an old pooler accepted it by mistake.
            0 | 1 => 0,
            _ => NEWEST_MINOR,
        }
    }

    /// Appends NegotiateProtocolVersion if the client asked for something that we do not have.
    pub fn negotiate(&self, out: &mut Vec<u8>) {
        if self.minor == self.agreed_minor() && self.extensions.is_empty() {
            return;
        }
        message(out, b'v', |b| {
            b.extend_from_slice(&(PROTOCOL_3_0 + self.agreed_minor()).to_be_bytes());
            b.extend_from_slice(&(self.extensions.len() as u32).to_be_bytes());
            for name in &self.extensions {
                super::frame::cstr(b, name);
            }
        });
    }
}

/// Why a first packet is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStartup {
    /// Not PostgreSQL at all, or a length that cannot be: close without a word, as PostgreSQL does.
    Silent,
    /// Close with this error.
    Refused(Refusal),
}

/// Reads the packet at the start of `bytes`: what it is, and how many bytes it took. `Ok(None)`: not whole yet.
pub fn read(bytes: &[u8]) -> Result<Option<(First<'_>, usize)>, NotStartup> {
    let Some((length, rest)) = take_u32(bytes) else {
        return Ok(None);
    };
    let length = length as usize;
    if !(8..=limits::STARTUP_PACKET_MAX).contains(&length) {
        return Err(NotStartup::Silent);
    }
    let Some((body, code)) = rest
        .get(..length - 4)
        .and_then(|b| take_u32(b).map(|(code, body)| (body, code)))
    else {
        return Ok(None);
    };
    let first = match code {
        SSL_REQUEST => First::Ssl,
        GSSENC_REQUEST => First::GssEnc,
        CANCEL_REQUEST => cancel(body)?,
        _ => First::Startup(startup(code, body).map_err(NotStartup::Refused)?),
    };
    Ok(Some((first, length)))
}

fn cancel(body: &[u8]) -> Result<First<'_>, NotStartup> {
    let Some((pid, key)) = take_u32(body) else {
        return Err(NotStartup::Silent);
    };
    if !(4..=256).contains(&key.len()) {
        return Err(NotStartup::Silent);
    }
    Ok(First::Cancel {
        pid,
        key: key.to_vec(),
    })
}

fn startup(code: u32, body: &[u8]) -> Result<Startup<'_>, Refusal> {
    let (major, minor) = (code >> 16, code & 0xFFFF);
    if major != 3 {
        let text = format!(
            "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}"
        );
        let refusal = Refusal::fatal(b"0A000", text, Blame::Client);
        return Err(refusal.pgbouncer("old V2 protocol not supported"));
    }
    let mut startup = Startup {
        minor,
        parameters: Vec::new(),
        extensions: Vec::new(),
    };
    let mut rest = body;
    loop {
        let Some((name, after)) = take_cstr(rest) else {
            return Err(no_terminator());
        };
        if name.is_empty() {
            if !after.is_empty() {
                return Err(no_terminator());
            }
            break;
        }
        let Some((value, after)) = take_cstr(after) else {
            return Err(no_terminator());
        };
        if name.starts_with(b"_pq_.") {
            startup.extensions.push(name);
        } else {
            startup.parameters.push((name, value));
        }
        rest = after;
    }
    if startup.parameter(b"user").is_none_or(<[u8]>::is_empty) {
        let text = "no PostgreSQL user name specified in startup packet";
        let refusal = Refusal::fatal(b"28000", text, Blame::Client);
        return Err(refusal.pgbouncer("no username supplied"));
    }
    Ok(startup)
}

fn no_terminator() -> Refusal {
    Refusal::protocol("invalid startup packet layout: expected terminator as last byte")
}

#[cfg(test)]
mod tests {
    use super::super::{frame, frontend};
    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::packet(&mut out, |b| {
            b.extend_from_slice(&code.to_be_bytes());
            b.extend_from_slice(body);
        });
        out
    }

    #[test]
    fn a_packet_in_pieces_waits_for_the_rest() {
        let mut bytes = Vec::new();
        frontend::startup(&mut bytes, [(&b"user"[..], &b"me"[..])]);
        for n in 0..bytes.len() {
            assert_eq!(read(&bytes[..n]), Ok(None));
        }
        assert!(matches!(read(&bytes), Ok(Some((First::Startup(_), n))) if n == bytes.len()));
    }

    /// Catalogue C3: what PostgreSQL 15 does with each.
    #[test]
    fn broken_startup_packets_end_as_with_postgresql() {
        assert_eq!(read(&[0, 0, 0, 7, 0, 3, 0]), Err(NotStartup::Silent));
        assert_eq!(read(&10_005u32.to_be_bytes()), Err(NotStartup::Silent));
        assert_eq!(read(&u32::MAX.to_be_bytes()), Err(NotStartup::Silent));
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Err(NotStartup::Silent));
        let code = |bytes: &[u8]| match read(bytes) {
            Err(NotStartup::Refused(refusal)) => refusal.code().to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(code(&packet(PROTOCOL_3_0, b"\0")), "28000");
        assert_eq!(code(&packet(PROTOCOL_3_0, b"")), "08P01");
        assert_eq!(code(&packet(PROTOCOL_3_0, b"user\0me\0")), "08P01");
        assert_eq!(code(&packet(PROTOCOL_3_0, b"user\0me\0\0x")), "08P01");
        assert_eq!(code(&packet(2 << 16, b"user\0me\0\0")), "0A000");
        assert_eq!(code(&packet(4 << 16, b"user\0me\0\0")), "0A000");
    }

    #[test]
    fn the_last_of_two_equal_keys_wins() {
        let packet = packet(PROTOCOL_3_0, b"user\0a\0user\0b\0\0");
        let Ok(Some((First::Startup(startup), _))) = read(&packet) else {
            panic!("a startup message")
        };
        assert_eq!(startup.parameter(b"user"), Some(&b"b"[..]));
    }

    #[test]
    fn newer_versions_and_extensions_are_negotiated_down() {
        let negotiated = |minor: u32, body: &[u8]| {
            let packet = packet(PROTOCOL_3_0 + minor, body);
            let Ok(Some((First::Startup(startup), _))) = read(&packet) else {
                panic!("a startup message")
            };
            let mut out = Vec::new();
            startup.negotiate(&mut out);
            out
        };
        assert_eq!(negotiated(0, b"user\0a\0\0"), b"");
        assert_eq!(negotiated(2, b"user\0a\0\0"), b"");
        assert_eq!(
            negotiated(1, b"user\0a\0\0"),
            b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0"
        );
        let grease = negotiated(9999, b"user\0a\0_pq_.test_protocol_negotiation\0\0\0");
        assert_eq!(&grease[..13], b"v\0\0\0\x2b\0\x03\0\x02\0\0\0\x01");
    }

    #[test]
    fn cancel_keys_have_4_to_256_bytes() {
        assert!(matches!(
            read(&packet(CANCEL_REQUEST, &[0; 8])),
            Ok(Some((First::Cancel { .. }, 16)))
        ));
        assert!(matches!(
            read(&packet(CANCEL_REQUEST, &[0; 260])),
            Ok(Some((First::Cancel { .. }, _)))
        ));
        assert_eq!(
            read(&packet(CANCEL_REQUEST, &[0; 261])),
            Err(NotStartup::Silent)
        );
        assert_eq!(
            read(&packet(CANCEL_REQUEST, &[0; 7])),
            Err(NotStartup::Silent)
        );
    }
}
