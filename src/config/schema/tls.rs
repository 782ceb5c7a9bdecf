//! TLS in the configuration: section `server.tls`, and the `ssl*` keys of a backend and its DSN.
//!
//! Owns the keys, their defaults and what may not stand together; what certificates and ciphers are is `crate::tls`'s to know.

use std::path::Path;
use std::rc::Rc;

use super::super::TlsWords;
use super::super::yaml::{Field, Place, Problems, Section};
use super::Context;
use crate::tls::{
    Acceptor, Authorities, Certificate, Choice, Connector, DAY, Identity, Lifetime, Manner, Mode,
    Versions, names, pem,
};

/// The keys of `server.tls`.
pub(super) const CLIENT_KEYS: [&str; 10] = [
    "mode",
    "cert_file",
    "key_file",
    "ca_file",
    "crl_file",
    "protocols",
    "ciphers",
    "ciphersuites",
    "curves",
    "dhparams",
];
/// The keys of a backend that are libpq's parameters of the same name; the last two are called as PostgreSQL's own settings.
pub(super) const SERVER_KEYS: [&str; 12] = [
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslcrl",
    "sslcert",
    "sslkey",
    "sslcertmode",
    "sslsni",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "ssl_ciphers",
    "ssl_tls13_ciphers",
];

/// A certificate that ends within this is warned of.
const SOON: i64 = 30 * DAY;

/// Where Linux distributions keep the roots that everybody trusts.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is written, and where; reads the files that are named.
struct Reader<'a, 'p> {
    words: &'a TlsWords,
    place: &'a dyn Fn(&str) -> Place,
    context: Context<'a>,
    problems: &'p mut Problems,
}

impl Reader<'_, '_> {
    fn word(&self, key: &str) -> Option<&str> {
        self.words
            .get(key)
            .map(String::as_str)
            .filter(|word| !word.is_empty())
    }

    fn add(&mut self, key: &str, text: &str) {
        let place = (self.place)(key);
        self.problems.add(&place, format!("{key}: {text}"));
    }

    fn warn(&mut self, key: &str, text: &str) {
        let place = (self.place)(key);
        self.problems.warn(&place, format_args!("{key}: {text}"));
    }

    /// What a key's text means; `None` where it is not written, or wrong, which is told.
    fn parsed<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let read = parse(self.word(key)?);
        read.map_err(|error| self.add(key, &error)).ok()
    }

    fn file<T>(&mut self, key: &str, parse: impl Fn(&[u8]) -> Result<T, String>) -> Option<T> {
        let path = self.context.directory.join(self.word(key)?);
        // In a broken DSN it may be a piece of the password.
        let shown = match path.to_string_lossy() {
            text if text.contains(['@', ':']) => "the file".to_owned(),
            text => text.into_owned(),
        };
        let read = match self.context.outside.file(&path) {
            Ok(bytes) => {
                parse(&zeroize::Zeroizing::new(bytes)).map_err(|error| format!("{shown}: {error}"))
            }
            Err(error) => Err(format!("{shown} cannot be read: {error}")),
        };
        read.map_err(|error| self.add(key, &error)).ok()
    }

    /// A certificate and its key: both, or neither.
    fn identity(&mut self, cert: &str, key: &str) -> Option<Identity> {
        for (one, other) in [(cert, key), (key, cert)] {
            if self.word(one).is_some() && self.word(other).is_none() {
                self.add(one, &format!("without {other}; write both, or neither"));
                return None;
            }
        }
        let chain = self.file(cert, pem::certificates);
        let read = self.file(key, pem::key);
        let path = self.context.directory.join(self.word(key)?);
        if self.context.outside.is_open_to_others(&path) {
            let text = format!(
                "{} has group or world access; give it mode 0600, or 0640 if root owns it",
                path.display()
            );
            self.warn(key, &text);
        }
        Some(Identity {
            chain: chain?,
            key: read?,
        })
    }

    fn authorities(&mut self, ca: &str, crl: &str) -> Authorities {
        Authorities {
            roots: self.file(ca, pem::certificates).unwrap_or_default(),
            revocations: self.file(crl, pem::revocations).unwrap_or_default(),
        }
    }

    fn warn_of_lifetimes(&mut self, key: &str, lifetimes: &[Lifetime]) {
        let now = self.context.outside.unix_time();
        for Lifetime {
            subject, not_after, ..
        } in lifetimes
        {
            let left = not_after - now;
            if now == 0 || left > SOON {
                continue;
            }
            let text = match left / DAY {
                _ if left < 0 => format!("the certificate of {subject} has expired"),
                days => format!("the certificate of {subject} expires in {days} days"),
            };
            self.warn(key, &text);
        }
    }
}

/// Section `server.tls`.
pub(super) fn read_clients(
    section: &Section<'_>,
    context: Context<'_>,
    problems: &mut Problems,
) -> (TlsWords, Option<Rc<Acceptor>>) {
    let mut words = words_of(section, &CLIENT_KEYS, problems);
    let before = problems.count();
    let place = |key: &str| {
        section
            .get(key)
            .map_or(section.place.clone(), |field| field.place)
    };
    let mut reader = Reader {
        words: &words,
        place: &place,
        context,
        problems,
    };
    let acceptor = acceptor(&mut reader);
    let fine = problems.count() == before;
    let mode = acceptor.as_ref().map_or(Mode::Disable, Acceptor::mode);
    words.insert("mode", mode.as_str().to_owned());
    (words, acceptor.filter(|_| fine).map(Rc::new))
}

fn acceptor(reader: &mut Reader<'_, '_>) -> Option<Acceptor> {
    let certificate = reader.word("cert_file").is_some() || reader.word("key_file").is_some();
    let default = if certificate {
        Mode::Prefer
    } else {
        Mode::Disable
    };
    let mode = reader.parsed("mode", mode).unwrap_or(default);
    let mut choice = Choice::default();
    if let Some((versions, warning)) = reader.parsed("protocols", names::protocols) {
        choice.versions = versions;
        warning
            .into_iter()
            .for_each(|text| reader.warn("protocols", text));
    }
    choose_suites(reader, &mut choice, ["ciphers", "ciphersuites"]);
    if let Some(groups) = reader.parsed("curves", names::groups) {
        choice.groups = groups;
    }
    if reader.word("dhparams").is_some() {
        reader.warn(
            "dhparams",
            "ignored: keys are exchanged over elliptic curves only",
        );
    }
    let identity = reader.identity("cert_file", "key_file");
    let authorities = reader.authorities("ca_file", "crl_file");
    if mode == Mode::Disable {
        if certificate {
            reader.warn("mode", "disable: the certificate is not used");
        }
        return None;
    }
    if !certificate {
        reader.add(
            "mode",
            "to allow TLS connections from clients, key_file and cert_file must be set",
        );
        return None;
    }
    if mode >= Mode::VerifyCa && reader.word("ca_file").is_none() {
        let text = format!(
            "{} needs ca_file: the roots of the clients' certificates",
            mode.as_str()
        );
        reader.add("mode", &text);
        return None;
    }
    if reader.word("crl_file").is_some() && reader.word("ca_file").is_none() {
        reader.add(
            "crl_file",
            "without ca_file: no certificate of a client is looked at",
        );
        return None;
    }
    match Acceptor::new(mode, identity?, authorities, &choice) {
        Ok(acceptor) => {
            reader.warn_of_lifetimes("cert_file", acceptor.lifetimes());
            Some(acceptor)
        }
        Err(error) => {
            reader.add("cert_file", &error);
            None
        }
    }
}

/// The cipher suites by the keys for TLS 1.2 and 1.3.
fn choose_suites(reader: &mut Reader<'_, '_>, choice: &mut Choice, keys: [&str; 2]) {
    let [key_12, key_13] = keys;
    let of_12 = reader.parsed(key_12, names::ciphers);
    let of_13 = reader.parsed(key_13, names::ciphersuites);
    if let Some(of_12) = of_12 {
        choice.suites.retain(|suite| suite.tls13().is_some());
        choice.suites.extend(of_12);
    }
    if let Some(of_13) = of_13 {
        choice.suites.retain(|suite| suite.tls13().is_none());
        choice.suites.splice(0..0, of_13);
    }
}

/// Who wrote the `ssl*` words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hand {
    /// A DSN, which libpq reads the same way.
    Dsn,
    /// Keys of ours.
    Keys,
}

/// TLS towards the servers of a backend. `None`: there is none.
pub(super) fn connector(
    words: &TlsWords,
    hand: Hand,
    place: &dyn Fn(&str) -> Place,
    context: Context<'_>,
    problems: &mut Problems,
) -> Option<Rc<Connector>> {
    let before = problems.count();
    let mut reader = Reader {
        words,
        place,
        context,
        problems,
    };
    let connector = build_connector(&mut reader, hand);
    connector
        .filter(|_| problems.count() == before)
        .map(Rc::new)
}

fn build_connector(reader: &mut Reader<'_, '_>, hand: Hand) -> Option<Connector> {
    let system = reader.word("sslrootcert") == Some("system");
    let has_roots = reader.word("sslrootcert").is_some();
    let written = reader.parsed("sslmode", mode);
    if reader.word("sslmode").is_some() && written.is_none() {
        return None;
    }
    let mode = written.unwrap_or(match hand {
        _ if system => Mode::VerifyFull,
        Hand::Keys if has_roots => Mode::VerifyFull,
        _ => Mode::Prefer,
    });
    let certificate = reader
        .parsed("sslcertmode", cert_mode)
        .unwrap_or(CertMode::Allow);
    let missing = match mode {
        Mode::Disable => {
            Some("require: there is no certificate without TLS, and sslmode is disable")
        }
        _ if reader.word("sslcert").is_none() => Some("require needs sslcert and sslkey"),
        _ => None,
    };
    if let (CertMode::Require, Some(missing)) = (certificate, missing) {
        reader.add("sslcertmode", missing);
        return None;
    }
    if mode == Mode::Disable {
        return None;
    }
    let direct = reader
        .parsed("sslnegotiation", negotiation)
        .unwrap_or(false);
    let sni = reader.parsed("sslsni", flag).unwrap_or(true);
    let roots = if system {
        system_roots(reader)
    } else {
        reader
            .file("sslrootcert", pem::certificates)
            .unwrap_or_default()
    };
    let authorities = Authorities {
        roots,
        revocations: reader.file("sslcrl", pem::revocations).unwrap_or_default(),
    };
    let identity = match certificate {
        CertMode::Disable => None,
        CertMode::Allow | CertMode::Require => reader.identity("sslcert", "sslkey"),
    };
    let versions = versions(reader)?;
    if !fits_together(reader, mode, direct) {
        return None;
    }
    let mut choice = Choice {
        versions,
        ..Choice::default()
    };
    choose_suites(reader, &mut choice, ["ssl_ciphers", "ssl_tls13_ciphers"]);
    let manner = Manner {
        mode,
        direct,
        sni,
        needs_certificate: certificate == CertMode::Require,
    };
    match Connector::new(manner, identity, authorities, &choice) {
        Ok(connector) => {
            reader.warn_of_lifetimes("sslrootcert", connector.lifetimes());
            Some(connector)
        }
        Err(error) => {
            reader.add("sslrootcert", &error);
            None
        }
    }
}

/// TLS towards a collector of metrics: its certificate must be for its name, by a root of the file or one of the system.
pub(super) fn collector(
    endpoint: &Field<'_>,
    ca_file: Option<&Field<'_>>,
    context: Context<'_>,
    problems: &mut Problems,
) -> Option<Rc<Connector>> {
    let roots = match ca_file {
        Some(field) => {
            let bytes = context.file(field, problems)?;
            pem::certificates(&bytes)
                .map_err(|error| problems.add(&field.place, error))
                .ok()?
        }
        None => {
            let (words, place) = (TlsWords::new(), |_: &str| endpoint.place.clone());
            system_roots(&mut Reader {
                words: &words,
                place: &place,
                context,
                problems,
            })
        }
    };
    let manner = Manner {
        mode: Mode::VerifyFull,
        direct: false,
        sni: true,
        needs_certificate: false,
    };
    let authorities = Authorities {
        roots,
        revocations: Vec::new(),
    };
    match Connector::new(manner, None, authorities, &Choice::default()) {
        Ok(connector) => Some(Rc::new(connector.for_http())),
        Err(error) => {
            problems.add(&endpoint.place, error);
            None
        }
    }
}

/// libpq's `sslcertmode`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CertMode {
    /// Our certificate is not shown, although it is named.
    Disable,
    /// It is shown to servers that ask.
    Allow,
    /// A server that does not ask for it gets nothing.
    Require,
}

/// libpq's rules for what weakens what.
fn fits_together(reader: &mut Reader<'_, '_>, mode: Mode, direct: bool) -> bool {
    let weak = mode.as_str();
    if direct && mode < Mode::Require {
        let text = format!(
            "weak sslmode {weak} may not be used with direct; use require, verify-ca or verify-full"
        );
        reader.add("sslnegotiation", &text);
        return false;
    }
    match reader.word("sslrootcert") {
        Some("system") if mode != Mode::VerifyFull => {
            let text = format!(
                "weak sslmode {weak} may not be used with sslrootcert=system; use verify-full"
            );
            reader.add("sslmode", &text);
            return false;
        }
        None if mode >= Mode::VerifyCa => {
            let text = format!(
                "{weak} needs sslrootcert: a file of roots (or of the server's own certificate), or system"
            );
            reader.add("sslmode", &text);
            return false;
        }
        None if reader.word("sslcrl").is_some() => {
            reader.add(
                "sslcrl",
                "without sslrootcert: no certificate of a server is looked at",
            );
            return false;
        }
        Some(_) if mode < Mode::Require => {
            let text = format!(
                "with sslmode {weak} whoever stands in between can still turn TLS off; write sslmode verify-full"
            );
            reader.warn("sslrootcert", &text);
        }
        _ => {}
    }
    true
}

fn versions(reader: &mut Reader<'_, '_>) -> Option<Versions> {
    let (min, max) = ("ssl_min_protocol_version", "ssl_max_protocol_version");
    let range = names::range(
        reader.word(min).unwrap_or_default(),
        reader.word(max).unwrap_or_default(),
    );
    match range {
        Ok((versions, warning)) => {
            warning.into_iter().for_each(|text| reader.warn(min, text));
            Some(versions)
        }
        Err(error) => {
            let key = if reader.word(max).is_some() { max } else { min };
            reader.add(key, &error);
            None
        }
    }
}

/// The roots of the system, or those that the environment names in their place, by the variables that OpenSSL knows.
fn system_roots(reader: &mut Reader<'_, '_>) -> Vec<Certificate> {
    let outside = reader.context.outside;
    let [file, directories] = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(|name| outside.variable(name));
    let is_told = file.is_some() || directories.is_some();
    let in_file = |path: &Path| {
        let read = outside.file(path).ok();
        read.and_then(|bytes| pem::certificates(&bytes).ok())
    };
    let mut roots = match file {
        Some(path) => in_file(Path::new(&path)).unwrap_or_default(),
        None if is_told => Vec::new(),
        None => {
            let mut found = SYSTEM_ROOTS.iter().map(Path::new).filter_map(in_file);
            found.next().unwrap_or_default()
        }
    };
    for directory in directories.iter().flat_map(|all| all.split(':')) {
        let directory = Path::new(directory);
        let names = outside.directory(directory).unwrap_or_default();
        // Each is there twice as a rule: under its own name, and under that of its digest, by which OpenSSL finds it.
        for root in names
            .iter()
            .filter_map(|name| in_file(&directory.join(name)))
            .flatten()
        {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
    }
    // One that cannot be used is no reason to do without the others.
    roots.retain(crate::tls::is_usable_root);
    if roots.is_empty() {
        let text = match is_told {
            true => "system: no roots are found where SSL_CERT_FILE and SSL_CERT_DIR point to",
            false => {
                "system: no roots of the system are found; install ca-certificates, or set SSL_CERT_FILE"
            }
        };
        reader.add("sslrootcert", text);
    }
    roots
}

fn mode(text: &str) -> Result<Mode, String> {
    let found = Mode::ALL.into_iter().find(|(word, _)| *word == text);
    // Not quoted: in a DSN it may be a piece of a password.
    found.map(|(_, mode)| mode).ok_or_else(|| {
        "expected one of disable, allow, prefer, require, verify-ca, verify-full".to_owned()
    })
}

fn negotiation(text: &str) -> Result<bool, String> {
    match text {
        "postgres" => Ok(false),
        "direct" => Ok(true),
        _ => Err("expected postgres or direct".to_owned()),
    }
}

fn cert_mode(text: &str) -> Result<CertMode, String> {
    match text {
        "disable" => Ok(CertMode::Disable),
        "allow" => Ok(CertMode::Allow),
        "require" => Ok(CertMode::Require),
        _ => Err("expected disable, allow or require".to_owned()),
    }
}

fn flag(text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("expected 1 or 0".to_owned()),
    }
}

/// The keys of a section that are written, as texts.
pub(super) fn words_of(
    section: &Section<'_>,
    keys: &[&'static str],
    problems: &mut Problems,
) -> TlsWords {
    let word = |key: &&'static str| {
        let field = section.get(key)?;
        let text = match *key {
            "sslsni" => u8::from(field.flag(problems)?).to_string(),
            _ => field.text(problems)?.to_owned(),
        };
        Some((*key, text))
    };
    keys.iter().filter_map(word).collect()
}
