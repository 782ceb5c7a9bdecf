//! PEM files, in the forms that people have them: chains, PKCS#1, PKCS#8 and SEC1 keys, text around it all.
//!
//! What cannot be used is told with the command of openssl that mends it. No error holds a piece of a key.

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::x509;

/// The certificates of a file, in their order; at least one.
///
/// # Errors
/// What the file is instead.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = all::<CertificateDer<'static>>(text, "certificate", "x509")?;
    if let Some(at) = found.iter().position(|der| x509::read(der).is_none()) {
        return Err(format!("certificate {} of that file is broken", at + 1));
    }
    Ok(found)
}

/// The revocation lists of a file; at least one.
///
/// # Errors
/// What the file is instead.
pub fn revocations(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    all(text, "certificate revocation list", "crl")
}

/// The private key of a file, the first that is there.
///
/// # Errors
/// What the file is instead; an encrypted key among that.
pub fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let holds = |what: &[u8]| text.windows(what.len()).any(|window| window == what);
    if holds(b"BEGIN ENCRYPTED PRIVATE KEY") || holds(b"Proc-Type: 4,ENCRYPTED") {
        return Err(
            "the key is encrypted, and nobody is there to type its password; decrypt it: \
                    openssl pkey -in OLD -out NEW"
                .to_owned(),
        );
    }
    Ok(all::<PrivateKeyDer<'static>>(text, "private key", "pkey")?.swap_remove(0))
}

fn all<T: PemObject>(text: &[u8], what: &str, command: &str) -> Result<Vec<T>, String> {
    let found: Result<Vec<T>, pem::Error> = T::pem_slice_iter(&modern(text)).collect();
    let found = found.map_err(|error| format!("the file is not valid PEM: {error}"))?;
    if !found.is_empty() {
        return Ok(found);
    }
    // What else is it?
    if text.first() == Some(&0x30) {
        return Err(format!(
            "the file is DER, expected PEM: openssl {command} -inform der -in OLD -out NEW"
        ));
    }
    let others = <(SectionKind, Vec<u8>)>::pem_slice_iter(text).filter_map(Result::ok);
    let others: Vec<String> = others.map(|(kind, _)| label(kind)).collect();
    if others.is_empty() {
        return Err(format!("the file holds no {what} in PEM"));
    }
    Err(format!(
        "the file holds no {what}, but {}",
        others.join(", ")
    ))
}

fn label(kind: SectionKind) -> String {
    let text = match kind {
        SectionKind::Certificate => "a certificate",
        SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
            "a private key"
        }
        SectionKind::Crl => "a certificate revocation list",
        SectionKind::Csr => "a certificate request",
        SectionKind::PublicKey => "a public key",
        _ => "something else",
    };
    text.to_owned()
}

/// Old labels as they are written today.
fn modern(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_prefix(b"-----BEGIN X509 CERT") {
            Some(rest) => out.extend([b"-----BEGIN CERT", rest].concat()),
            None => match line.strip_prefix(b"-----END X509 CERT") {
                Some(rest) => out.extend([b"-----END CERT", rest].concat()),
                None => out.extend_from_slice(line),
            },
        }
    }
    out
}
