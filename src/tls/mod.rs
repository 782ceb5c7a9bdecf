//! TLS as it is configured: what we show to clients and to servers, and whom we trust.
//!
//! [`Acceptor`] and [`Connector`] are built once, when the configuration is read, from the bytes of the files that it names; the
//! connections themselves are `net::tls`. Only this floor and that file name rustls. Reads no file, knows no socket.

pub mod names;
mod own;
pub mod pem;
mod subject;
mod verify;
pub mod x509;

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use ring::digest;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, ServerConfig, StreamOwned, SupportedCipherSuite};
#[cfg(feature = "aws-lc")]
use rustls::{SignatureAlgorithm, SignatureScheme};

pub use names::Versions;
pub use own::OwnCertificate;
pub(crate) use own::Witness;
pub use verify::MEND_V1;
use verify::{Clients, Servers, Trust};

/// How much TLS is wanted: PostgreSQL's `sslmode`, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// None.
    Disable,
    /// If the other side insists.
    Allow,
    /// If the other side has it.
    Prefer,
    /// Nothing without it.
    Require,
    /// With a certificate that leads to a known root.
    VerifyCa,
    /// With one that is also that of the host. Towards clients as `VerifyCa`.
    VerifyFull,
}

impl Mode {
    /// All of them, by their words.
    pub const ALL: [(&'static str, Mode); 6] = [
        ("disable", Mode::Disable),
        ("allow", Mode::Allow),
        ("prefer", Mode::Prefer),
        ("require", Mode::Require),
        ("verify-ca", Mode::VerifyCa),
        ("verify-full", Mode::VerifyFull),
    ];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        Mode::ALL
            .into_iter()
            .find(|(_, mode)| *mode == self)
            .map_or("disable", |(word, _)| word)
    }
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Identity {
    /// Its own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first.
    pub key: PrivateKeyDer<'static>,
}

/// What is to be spoken.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Versions.
    pub versions: Versions,
    /// Cipher suites of both versions, the best first.
    pub suites: Vec<SupportedCipherSuite>,
    /// Curves.
    pub groups: Vec<&'static dyn SupportedKxGroup>,
}

impl Default for Choice {
    fn default() -> Choice {
        Choice {
            versions: Versions::ALL,
            suites: names::all_suites(),
            groups: rustls::crypto::ring::ALL_KX_GROUPS.to_vec(),
        }
    }
}

impl Choice {
    fn provider(&self) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider {
            cipher_suites: self.suites.clone(),
            kx_groups: self.groups.clone(),
            ..rustls::crypto::ring::default_provider()
        })
    }
}

/// Roots and the lists of what they have revoked.
#[derive(Debug, Default)]
pub struct Authorities {
    /// Certificates that are trusted as they are.
    pub roots: Vec<CertificateDer<'static>>,
    /// Revocation lists.
    pub revocations: Vec<CertificateRevocationListDer<'static>>,
}

impl Authorities {
    fn trust(self) -> Result<Option<Trust>, String> {
        if self.roots.is_empty() {
            return Ok(None);
        }
        Trust::new(self.roots, &self.revocations).map(Some)
    }
}

/// A certificate as its bytes.
pub type Certificate = CertificateDer<'static>;

/// Whether a certificate can be a root.
pub fn is_usable_root(der: &Certificate) -> bool {
    webpki::anchor_from_trusted_cert(der).is_ok()
}

/// Until when a certificate is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Whose it is.
    pub subject: String,
    /// By whom it was signed.
    pub issuer: String,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// The lifetimes of certificates.
pub fn lifetimes(certificates: &[CertificateDer<'static>]) -> Vec<Lifetime> {
    let lifetime = |der: &CertificateDer<'static>| {
        let read = x509::read(der)?;
        Some(Lifetime {
            subject: read.shown_subject(),
            issuer: read.shown_issuer(),
            not_after: read.not_after,
        })
    };
    certificates.iter().filter_map(lifetime).collect()
}

/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// The protocol that is spoken inside, as ALPN names it.
pub const ALPN: &[u8] = b"postgresql";
/// The same of HTTP, for metrics.
const ALPN_HTTP: &[u8] = b"http/1.1";

/// What a configuration was made of, to tell whether another one is the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Print([u8; 32]);

impl Print {
    fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Print {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut print = [0; 32];
        print.copy_from_slice(context.finish().as_ref());
        Print(print)
    }
}

fn parts<'a>(
    words: &'a str,
    identity: Option<&'a Identity>,
    authorities: &'a Authorities,
) -> Vec<&'a [u8]> {
    let mut parts = vec![words.as_bytes()];
    if let Some(identity) = identity {
        parts.extend(identity.chain.iter().map(|der| &der[..]));
        parts.push(identity.key.secret_der());
    }
    parts.push(b"roots");
    parts.extend(authorities.roots.iter().map(|der| &der[..]));
    parts.push(b"lists");
    parts.extend(authorities.revocations.iter().map(|der| &der[..]));
    parts
}

/// The key and certificate as rustls wants them. Not its own way there: that takes no certificate of version 1.
fn certified(identity: Identity) -> Result<Arc<CertifiedKey>, String> {
    let key = signing_key(&identity.key).ok_or(
        "the key cannot be used; there are RSA of 2048 to 8192 bits, ECDSA on P-256 and P-384, and Ed25519",
    )?;
    let own = identity.chain.first().and_then(|der| x509::read(der));
    let (Some(own), Some(public)) = (own, key.public_key()) else {
        return Err("the certificate is broken".to_owned());
    };
    if own.key != &public[..] {
        return Err(
            "the key is not that of the certificate (of a chain, the server's own comes first)"
                .to_owned(),
        );
    }
    Ok(Arc::new(CertifiedKey::new(identity.chain, key)))
}

/// The key, if ring can use it. With the feature `aws-lc`, those of RSA sign by way of AWS-LC.
fn signing_key(key: &PrivateKeyDer<'_>) -> Option<Arc<dyn SigningKey>> {
    let own = rustls::crypto::ring::sign::any_supported_type(key).ok()?;
    #[cfg(feature = "aws-lc")]
    if own.algorithm() == SignatureAlgorithm::RSA
        && let Ok(faster) = rustls::crypto::aws_lc_rs::sign::RsaSigningKey::new(key)
        // Its first signature waits some 25 ms for randomness: not that of a client, beside whom all others would stand still.
        && let Some(signer) = faster.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256])
        && signer.sign(b"").is_ok()
    {
        return Some(Arc::new(faster));
    }
    Some(own)
}

/// TLS towards clients.
#[derive(Clone)]
pub struct Acceptor {
    mode: Mode,
    pub(crate) config: Arc<ServerConfig>,
    asks_clients: bool,
    /// The channel binding of our certificate.
    pub(crate) endpoint: Option<Vec<u8>>,
    lifetimes: Vec<Lifetime>,
    print: Print,
}

impl Acceptor {
    /// Puts it together.
    ///
    /// # Errors
    /// Which part of it does not fit.
    pub fn new(
        mode: Mode,
        identity: Identity,
        authorities: Authorities,
        choice: &Choice,
    ) -> Result<Acceptor, String> {
        let words = format!("{mode:?} {choice:?}");
        let print = Print::of(parts(&words, Some(&identity), &authorities));
        let lifetimes = lifetimes(&identity.chain);
        let endpoint = identity
            .chain
            .first()
            .and_then(|der| x509::endpoint_hash(der));
        let certified = certified(identity)?;
        let builder = ServerConfig::builder_with_provider(choice.provider())
            .with_protocol_versions(&choice.versions.list())
            .map_err(|_| NO_SUITE.to_owned())?;
        let asks_clients = !authorities.roots.is_empty();
        let builder = match authorities.trust()? {
            Some(trust) => builder
                .with_client_cert_verifier(Arc::new(Clients::new(trust, mode >= Mode::VerifyCa))),
            None if mode >= Mode::VerifyCa => {
                return Err("no roots are there for the certificates of clients".to_owned());
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A session that is taken up again would outlive the certificate of its client.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Acceptor {
            mode,
            config: Arc::new(config),
            asks_clients,
            endpoint,
            lifetimes,
            print,
        })
    }

    /// The same for those who speak HTTP inside.
    pub fn for_http(&self) -> Acceptor {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = vec![ALPN_HTTP.to_vec()];
        Acceptor {
            config: Arc::new(config),
            ..self.clone()
        }
    }

    /// How much TLS is wanted.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether clients are asked for their certificates, because there are roots to check them by.
    pub fn asks_clients(&self) -> bool {
        self.asks_clients
    }

    /// Whether SCRAM can be bound to our certificate.
    pub fn is_bindable(&self) -> bool {
        self.endpoint.is_some()
    }

    /// How long our certificates are valid.
    pub fn lifetimes(&self) -> &[Lifetime] {
        &self.lifetimes
    }
}

const NO_SUITE: &str = "no cipher suite is left for the protocols that are named";

impl PartialEq for Acceptor {
    fn eq(&self, other: &Acceptor) -> bool {
        self.print == other.print
    }
}

impl Eq for Acceptor {}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acceptor({})", self.mode.as_str())
    }
}

/// TLS towards the servers of a pool.
#[derive(Clone)]
pub struct Connector {
    mode: Mode,
    direct: bool,
    needs_certificate: bool,
    pub(crate) config: Arc<ClientConfig>,
    lifetimes: Vec<Lifetime>,
    print: Print,
}

/// What may differ from one pool to the next, beside files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// How much TLS is wanted.
    pub mode: Mode,
    /// TLS from the first byte on.
    pub direct: bool,
    /// The host is named in the clear.
    pub sni: bool,
    /// Servers have to ask for our certificate (`sslcertmode=require`).
    pub needs_certificate: bool,
}

impl Connector {
    /// Puts it together.
    ///
    /// # Errors
    /// Which part of it does not fit.
    pub fn new(
        manner: Manner,
        identity: Option<Identity>,
        authorities: Authorities,
        choice: &Choice,
    ) -> Result<Connector, String> {
        let Manner {
            mode,
            direct,
            sni,
            needs_certificate,
        } = manner;
        let words = format!("{manner:?} {choice:?}");
        let print = Print::of(parts(&words, identity.as_ref(), &authorities));
        let mut seen = identity
            .as_ref()
            .map_or(Vec::new(), |own| lifetimes(&own.chain));
        // The system's roots are somebody else's concern.
        if authorities.roots.len() <= 16 {
            seen.extend(lifetimes(&authorities.roots));
        }
        let trust = authorities.trust()?;
        if mode >= Mode::VerifyCa && trust.is_none() {
            return Err("no roots are there for the certificates of servers".to_owned());
        }
        let checks_name = mode == Mode::VerifyFull;
        let builder = ClientConfig::builder_with_provider(choice.provider())
            .with_protocol_versions(&choice.versions.list())
            .map_err(|_| NO_SUITE.to_owned())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Servers { trust, checks_name }));
        let mut config = match identity {
            Some(identity) => builder
                .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified(identity)?))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = sni;
        Ok(Connector {
            mode,
            direct,
            needs_certificate,
            config: Arc::new(config),
            lifetimes: seen,
            print,
        })
    }

    /// The same for a server that speaks HTTP inside.
    pub fn for_http(&self) -> Connector {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![ALPN_HTTP.to_vec()];
        Connector {
            config: Arc::new(config),
            ..self.clone()
        }
    }

    /// How much TLS is wanted.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether TLS begins with the first byte.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether servers have to ask for our certificate.
    pub fn needs_certificate(&self) -> bool {
        self.needs_certificate
    }

    /// What a connection is made with, and who sees what becomes of our certificate, where that is asked.
    pub(crate) fn for_connection(&self) -> (Arc<ClientConfig>, Option<Arc<Witness>>) {
        if !self.needs_certificate {
            return (self.config.clone(), None);
        }
        let mut config = ClientConfig::clone(&self.config);
        let witness = Arc::new(Witness::new(config.client_auth_cert_resolver));
        config.client_auth_cert_resolver = witness.clone();
        (Arc::new(config), Some(witness))
    }

    /// TLS over a stream that blocks, for somebody who can wait.
    ///
    /// # Errors
    /// The host cannot be the name of a TLS server.
    pub fn over<T: Read + Write + Send>(
        &self,
        host: &str,
        stream: T,
    ) -> Result<impl Read + Write + Send + use<T>, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host:?} cannot be the name of a TLS server"))?;
        let connection = ClientConnection::new(self.config.clone(), name);
        let connection = connection.map_err(|error| error.to_string())?;
        Ok(StreamOwned::new(connection, stream))
    }

    /// How long the certificates are valid that we show, and those of our own roots.
    pub fn lifetimes(&self) -> &[Lifetime] {
        &self.lifetimes
    }
}

impl PartialEq for Connector {
    fn eq(&self, other: &Connector) -> bool {
        self.print == other.print
    }
}

impl Eq for Connector {}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direct = if self.direct { ", direct" } else { "" };
        write!(f, "Connector({}{direct})", self.mode.as_str())
    }
}
