//! A connection to the console, for somebody who can wait: logs in, asks, reads rows.
//!
//! Each step that needs the other side takes at most [`PATIENCE`].

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use ring::rand::SecureRandom;

use super::certificate;
use super::options::Target;
use crate::auth::{Channel, Credentials, KeyRing, Terms};
use crate::config::{Demands, HostPort, Secret, Stored};
use crate::limits;
use crate::startup::{Login, Step};
use crate::tls::{self, Authorities, Connector, Manner, Mode};
use crate::wire::frame::{take_cstr, take_u16, take_u32, whole};
use crate::wire::refusal::{Blame, Refusal};
use crate::wire::{frame, frontend};

/// How long the other side may take for a step.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The most of one message.
const MESSAGE_MAX: usize = 1 << 20;

/// What can be read and written.
trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

/// Why there is no connection, or no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// A password is asked for, and there is none.
    PasswordWanted,
    /// Anything else.
    Other(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure::Other(text)
    }
}

/// The rows of an answer, by the names of its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The columns.
    pub(super) columns: Vec<String>,
    /// Their values in each row.
    pub(super) rows: Vec<Vec<Option<String>>>,
}

/// A session with the console.
pub(super) struct Link {
    wire: Box<dyn Wire>,
    /// What has been read and not looked at.
    read: Vec<u8>,
}

impl Link {
    /// Connects and logs in.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn open(target: &Target, password: Option<&Secret>) -> Result<Link, Failure> {
        let failed = |text: &dyn std::fmt::Display| {
            Failure::Other(format!("connection to {} failed: {text}", target.address))
        };
        let wire: Box<dyn Wire> = match &target.address {
            HostPort::Unix(path) => {
                let path = path.to_string_lossy();
                Box::new(connect_unix(&path).map_err(|error| failed(&error))?)
            }
            HostPort::Tcp(host, port) => {
                let plain = connect_tcp(host, *port).map_err(|error| failed(&error))?;
                secured(target, host, plain).map_err(|text| failed(&text))?
            }
        };
        let mut link = Link {
            wire,
            read: Vec::new(),
        };
        link.log_in(target, password).map_err(|error| match error {
            Failure::Other(text) => failed(&text),
            wanted => wanted,
        })?;
        Ok(link)
    }

    fn log_in(&mut self, target: &Target, password: Option<&Secret>) -> Result<(), Failure> {
        let random = ring::rand::SystemRandom::new();
        let mut random = |into: &mut [u8]| {
            // Without randomness nothing else of this machine works either; a nonce of zeros only fails the login.
            if random.fill(into).is_err() {
                into.fill(0);
            }
        };
        let mut keys = KeyRing::new(&mut random, None);
        let credentials = Credentials {
            user: target.user.clone(),
            secret: password.map(|secret| Stored::Plain(secret.clone())),
        };
        let terms = Terms {
            demands: Demands::default(),
            iterations_max: limits::SCRAM_ITERATIONS_CEILING,
            channel: Channel::Plain,
            own_certificate: None,
        };
        let mut out = Vec::new();
        let parameters = [
            ("user", target.user.as_str()),
            ("database", target.database.as_str()),
            ("application_name", "aether top"),
        ];
        let parameters = parameters.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        frontend::startup(&mut out, parameters);
        let mut login = Login::begin(credentials, terms);
        loop {
            self.send(&out)?;
            out.clear();
            let (tag, body) = self.message()?;
            let asks = tag == b'R' && !matches!(body.as_slice(), [0, 0, 0, 0, ..]);
            if asks && password.is_none() {
                return Err(Failure::PasswordWanted);
            }
            let mut step = login.step(tag, &body, &mut keys, &mut random, &mut out);
            while let Ok(Step::Derive(waits, job)) = step {
                step = waits.derived(&job.run(), &mut keys, &mut out);
            }
            match step.map_err(|refusal| told(&refusal))? {
                Step::More(next) => login = next,
                Step::Ready(_) => return Ok(()),
                Step::Derive(..) => return Err(Failure::Other("a key is missing".to_owned())),
            }
        }
    }

    /// Asks for a SHOW.
    ///
    /// # Errors
    /// The console's own error, or what has become of the connection.
    pub(super) fn ask(&mut self, command: &str) -> Result<Answer, Failure> {
        let mut out = Vec::new();
        frontend::query(&mut out, command.as_bytes());
        self.send(&out)?;
        let mut answer = Answer::default();
        let mut refused = None;
        loop {
            let (tag, body) = self.message()?;
            match tag {
                b'T' => answer.columns = columns(&body).ok_or_else(nonsense)?,
                b'D' => answer.rows.push(row(&body).ok_or_else(nonsense)?),
                b'E' => refused = Some(told(&Refusal::read(&body, Blame::Server))),
                b'Z' => return refused.map_or(Ok(answer), |text| Err(Failure::Other(text))),
                _ => {}
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let sent = self.wire.write_all(bytes).and_then(|()| self.wire.flush());
        Ok(sent.map_err(|error| lost(&error))?)
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>), Failure> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let found = whole(&self.read, MESSAGE_MAX).map_err(|_| nonsense())?;
            if let Some((tag, body, rest)) = found {
                let message = (tag, body.to_vec());
                let used = self.read.len() - rest.len();
                self.read.drain(..used);
                return Ok(message);
            }
            let count = self.wire.read(&mut buffer).map_err(|error| lost(&error))?;
            if count == 0 {
                return Err("the connection was closed".to_owned().into());
            }
            let bytes = buffer.get(..count).unwrap_or_default();
            self.read.extend_from_slice(bytes);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut out = Vec::new();
        frontend::terminate(&mut out);
        let _ = self.send(&out);
    }
}

fn connect_unix(path: &str) -> std::io::Result<UnixStream> {
    let stream = match path.strip_prefix('@') {
        Some(name) => UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => UnixStream::connect(path)?,
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn connect_tcp(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks for TLS as libpq does. `allow` is taken for `disable`: it would only be tried when the login without it has failed.
fn secured(target: &Target, host: &str, mut plain: TcpStream) -> Result<Box<dyn Wire>, String> {
    if matches!(target.tls, Mode::Disable | Mode::Allow) {
        return Ok(Box::new(plain));
    }
    let mut out = Vec::new();
    frontend::ssl_request(&mut out);
    let mut answer = [0];
    plain
        .write_all(&out)
        .and_then(|()| plain.read_exact(&mut answer))
        .map_err(|error| lost(&error))?;
    match answer {
        [b'S'] => {}
        [b'N'] if target.tls == Mode::Prefer => return Ok(Box::new(plain)),
        [b'N'] => return Err("Aether has no TLS there, and PGSSLMODE demands it".to_owned()),
        _ => return Err(nonsense()),
    }
    let authorities = certificate::authorities(target)?;
    // libpq's: where there are roots, `require` is `verify-ca`.
    let mode = match target.tls {
        Mode::Require if !authorities.roots.is_empty() => Mode::VerifyCa,
        mode => mode,
    };
    let authorities = match mode >= Mode::VerifyCa {
        true => authorities,
        false => Authorities::default(),
    };
    let manner = Manner {
        mode,
        direct: false,
        sni: true,
        needs_certificate: false,
    };
    let identity = certificate::identity(target)?;
    let connector = Connector::new(manner, identity, authorities, &tls::Choice::default())?;
    Ok(Box::new(connector.over(host, plain)?))
}

fn lost(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            format!("no answer within {} s", PATIENCE.as_secs())
        }
        _ => error.to_string(),
    }
}

fn nonsense() -> String {
    "the answer makes no sense: is that an Aether?".to_owned()
}

fn told(refusal: &Refusal) -> String {
    refusal.text()
}

/// The names in a RowDescription.
fn columns(body: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = take_u16(body)?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let (name, after) = take_cstr(rest)?;
        columns.push(frame::printable_all(name));
        rest = after.get(18..)?;
    }
    Some(columns)
}

/// The values of a DataRow.
fn row(body: &[u8]) -> Option<Vec<Option<String>>> {
    let (count, mut rest) = take_u16(body)?;
    let mut values = Vec::new();
    for _ in 0..count {
        let (len, after) = take_u32(rest)?;
        if len == u32::MAX {
            values.push(None);
            rest = after;
            continue;
        }
        let (value, after) = after.split_at_checked(usize::try_from(len).ok()?)?;
        values.push(Some(frame::printable_all(value)));
        rest = after;
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::backend;

    fn body(message: &[u8]) -> &[u8] {
        message.get(5..).unwrap_or_default()
    }

    #[test]
    fn rows_are_read_as_the_console_writes_them() {
        let mut out = Vec::new();
        let names = [("a", backend::TEXT), ("b", backend::INT8)];
        backend::write_row_description(&mut out, names.into_iter());
        assert_eq!(columns(body(&out)), Some(vec!["a".into(), "b".into()]));
        out.clear();
        backend::write_data_row(&mut out, [Some("x\u{1b}[2J"), None].into_iter());
        let values = row(body(&out)).unwrap_or_default();
        let first = values.first().cloned().flatten().unwrap_or_default();
        assert!(
            !first.contains('\u{1b}'),
            "nothing that moves a cursor: {first:?}"
        );
        assert_eq!(values.get(1), Some(&None));
        for cut in 0..out.len() - 5 {
            assert_eq!(row(body(&out).get(..cut).unwrap_or_default()), None);
        }
    }
}
