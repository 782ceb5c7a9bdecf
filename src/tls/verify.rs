//! Whether a peer's certificate is to be trusted, by PostgreSQL's rules.
//!
//! Paths are webpki's work. Beside it stand the certificates that PostgreSQL's documentation tells people to make and webpki
//! refuses: one that signs itself and is its own root, and version 1 straight below a root; and libpq's rules for names.

use std::net::IpAddr;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, SubjectPublicKeyInfoDer, TrustAnchor,
    UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::x509::{self, Certificate};

/// How a certificate of version 1 becomes one that everybody takes.
pub const MEND_V1: &str = "make it anew with an extension: openssl x509 -req -in server.csr -CA root.crt -CAkey root.key \
     -CAcreateserial -days 365 -extfile <(echo subjectAltName=DNS:HOST) -out server.crt";

/// Roots and revocations.
#[derive(Debug)]
pub(super) struct Trust {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    revocations: Vec<webpki::CertRevocationList<'static>>,
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::ring::default_provider().signature_verification_algorithms
}

impl Trust {
    pub(super) fn new(
        certificates: Vec<CertificateDer<'static>>,
        revocations: &[CertificateRevocationListDer<'static>],
    ) -> Result<Trust, String> {
        let anchor = |(at, der): (usize, &CertificateDer<'static>)| {
            webpki::anchor_from_trusted_cert(der)
                .map(|anchor| anchor.to_owned())
                .map_err(|error| format!("root certificate {} cannot be used: {error}", at + 1))
        };
        let anchors = certificates
            .iter()
            .enumerate()
            .map(anchor)
            .collect::<Result<_, _>>()?;
        let list = |der: &CertificateRevocationListDer<'static>| {
            webpki::OwnedCertRevocationList::from_der(der)
                .map(webpki::CertRevocationList::from)
                .map_err(|error| format!("the certificate revocation list cannot be used: {error}"))
        };
        Ok(Trust {
            anchors,
            revocations: revocations.iter().map(list).collect::<Result<_, _>>()?,
            certificates,
        })
    }

    /// Whether a path leads from `own` to a root, nothing on it being expired or revoked.
    fn check(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
        usage: webpki::KeyUsage,
    ) -> Result<(), Error> {
        let read = x509::read(own).ok_or(CertificateError::BadEncoding)?;
        if self.certificates.iter().any(|root| root == own) {
            return in_time(&read, now); // it is trusted as it is
        }
        if read.version == 1 {
            return self.check_version_1(&read, now);
        }
        let lists: Vec<_> = self.revocations.iter().collect();
        let revocation = webpki::RevocationOptionsBuilder::new(&lists)
            .ok()
            .map(|builder| {
                // As libpq and PostgreSQL do: every certificate below the root, by a list that is still valid.
                builder
                    .with_depth(webpki::RevocationCheckDepth::Chain)
                    .with_status_policy(webpki::UnknownStatusPolicy::Deny)
                    .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
                    .build()
            });
        let entity = webpki::EndEntityCert::try_from(own).map_err(refused)?;
        let path = entity.verify_for_usage(
            algorithms().all,
            &self.anchors,
            between,
            now,
            usage,
            revocation,
            None,
        );
        path.map(|_| ()).map_err(refused)
    }

    /// Version 1 has no extensions, so nothing in it can be violated; a root itself must have signed it.
    fn check_version_1(&self, own: &Certificate<'_>, now: UnixTime) -> Result<(), Error> {
        in_time(own, now)?;
        let signed_by = |root: &CertificateDer<'_>| {
            let root = x509::read(root)?;
            let signed = root.subject == own.issuer && is_signed_by(own, root.key);
            signed.then_some(())
        };
        // There is no other parser that could look its number up in a list.
        if self.revocations.is_empty() && self.certificates.iter().find_map(signed_by).is_some() {
            return Ok(());
        }
        Err(Error::General(format!(
            "the certificate is X.509 version 1, which is only taken straight below a root and without revocation lists; \
             {MEND_V1}"
        )))
    }
}

fn refused(error: webpki::Error) -> Error {
    match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired.into(),
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet.into(),
        webpki::Error::CertRevoked => CertificateError::Revoked.into(),
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus.into(),
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
        webpki::Error::CaUsedAsEndEntity => Error::General(
            "the peer's certificate is a CA's, and not among our roots: list it itself, or make one without CA:TRUE"
                .to_owned(),
        ),
        other => Error::General(format!("certificate verify failed: {other}")),
    }
}

fn in_time(read: &Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < read.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > read.not_after {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Whether the key, a SubjectPublicKeyInfo, has signed the certificate.
fn is_signed_by(own: &Certificate<'_>, key: &[u8]) -> bool {
    let key = SubjectPublicKeyInfoDer::from(key);
    let Ok(key) = webpki::RawPublicKeyEntity::try_from(&key) else {
        return false;
    };
    algorithms().all.iter().any(|algorithm| {
        algorithm.signature_alg_id().as_ref() == own.algorithm
            && key
                .verify_signature(*algorithm, own.signed, own.signature)
                .is_ok()
    })
}

/// Whether a certificate is one for this host, by libpq's rules: names of the same kind (DNS, or IP address) in the
/// SubjectAltName count, and where there is none of that kind, the Common Name. A `*` stands for one label, the first.
pub(super) fn is_for(read: &Certificate<'_>, host: &str) -> bool {
    let address: Option<IpAddr> = host.split('%').next().and_then(|host| host.parse().ok());
    if address.is_some_and(|address| read.addresses.contains(&address)) {
        return true;
    }
    // libpq compares these with an address, too, as text.
    if read.dns_names.iter().any(|name| name_matches(name, host)) {
        return true;
    }
    let of_kind = match address {
        Some(_) => !read.addresses.is_empty(),
        None => !read.dns_names.is_empty(),
    };
    !of_kind
        && read
            .common_name()
            .is_some_and(|name| name_matches(&name, host))
}

fn name_matches(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    if pattern.eq_ignore_ascii_case(host) {
        return !host.is_empty();
    }
    let Some(suffix) = pattern
        .strip_prefix('*')
        .filter(|rest| rest.starts_with('.'))
    else {
        return false;
    };
    let first_dot = host.find('.').filter(|at| *at > 0);
    let is_address = host.parse::<IpAddr>().is_ok();
    first_dot.is_some_and(|at| {
        host.get(at..)
            .is_some_and(|rest| rest.eq_ignore_ascii_case(suffix))
    }) && suffix.len() > 1
        && !is_address
}

/// Signatures of the handshake, by a certificate of whatever version.
fn check_12(
    message: &[u8],
    own: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let read = x509::read(own).ok_or(CertificateError::BadEncoding)?;
    if read.version != 1 {
        return verify_tls12_signature(message, own, signed, &algorithms());
    }
    let key = SubjectPublicKeyInfoDer::from(read.key);
    let key = webpki::RawPublicKeyEntity::try_from(&key).map_err(refused)?;
    let supported = algorithms();
    let candidates = supported
        .mapping
        .iter()
        .filter(|(scheme, _)| *scheme == signed.scheme)
        .flat_map(|(_, algorithms)| algorithms.iter());
    for algorithm in candidates {
        if key
            .verify_signature(*algorithm, message, signed.signature())
            .is_ok()
        {
            return Ok(HandshakeSignatureValid::assertion());
        }
    }
    Err(CertificateError::BadSignature.into())
}

fn check_13(
    message: &[u8],
    own: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let read = x509::read(own).ok_or(CertificateError::BadEncoding)?;
    let key = SubjectPublicKeyInfoDer::from(read.key);
    rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signed, &algorithms())
}

/// Judges servers. Without roots every certificate is taken, as `sslmode=require` means it.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) trust: Option<Trust>,
    pub(super) checks_name: bool,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(trust) = &self.trust {
            trust.check(own, between, now, webpki::KeyUsage::server_auth())?;
        }
        if self.checks_name {
            let read = x509::read(own).ok_or(CertificateError::BadEncoding)?;
            let host = name.to_str();
            if !is_for(&read, &host) {
                return Err(Error::General(format!(
                    "server certificate for {} does not match host name \"{host}\"",
                    names(&read)
                )));
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_12(message, own, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_13(message, own, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn names(read: &Certificate<'_>) -> String {
    let mut all: Vec<String> = read.dns_names.iter().take(5).cloned().collect();
    all.extend(read.addresses.iter().take(5).map(ToString::to_string));
    if all.is_empty() {
        all.extend(read.common_name());
    }
    let clean =
        |name: String| -> String { name.chars().filter(|c| !c.is_control()).take(80).collect() };
    let shown: Vec<String> = all
        .into_iter()
        .map(|name| format!("\"{}\"", clean(name)))
        .collect();
    shown.join(", ")
}

/// Judges clients.
#[derive(Debug)]
pub(super) struct Clients {
    trust: Trust,
    hints: Vec<DistinguishedName>,
    /// One without a certificate is refused.
    required: bool,
}

impl Clients {
    pub(super) fn new(trust: Trust, required: bool) -> Clients {
        let hint = |anchor: &TrustAnchor<'_>| DistinguishedName::in_sequence(&anchor.subject);
        let hints = trust.anchors.iter().map(hint).collect();
        Clients {
            trust,
            hints,
            required,
        }
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let usage = webpki::KeyUsage::client_auth();
        self.trust.check(own, between, now, usage)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_12(message, own, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_13(message, own, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
