//! Files of certificates, keys and revocation lists: no bytes panic, and what is taken for a certificate can be told of.

use aether::tls::{
    self, Acceptor, Authorities, Choice, Connector, Identity, Manner, Mode, pem, x509,
};

/// The property.
pub fn holds(data: &[u8]) {
    let (certificates, key) = (pem::certificates(data), pem::key(data));
    for error in [certificates.as_ref().err(), key.as_ref().err()]
        .into_iter()
        .flatten()
    {
        assert!(!error.is_empty());
    }
    let _ = pem::revocations(data);
    if let Some(read) = x509::read(data) {
        assert!((1..=u8::MAX).contains(&read.version));
        assert!(!read.shown_subject().chars().any(char::is_control));
        let _ = (read.common_name(), x509::endpoint_hash(data));
        let name = read.distinguished_name().unwrap_or_default();
        assert!(
            name.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{name:?}"
        );
    }
    let Ok(chain) = certificates else { return };
    assert!(!chain.is_empty());
    assert_eq!(tls::lifetimes(&chain).len(), chain.len());
    let authorities = Authorities {
        roots: chain.clone(),
        revocations: pem::revocations(data).unwrap_or_default(),
    };
    let manner = Manner {
        mode: Mode::VerifyFull,
        direct: false,
        sni: true,
        needs_certificate: false,
    };
    let choice = Choice::default();
    let _ = Connector::new(manner, None, authorities, &choice);
    if let Ok(key) = key {
        let identity = Identity { chain, key };
        let _ = Acceptor::new(Mode::Prefer, identity, Authorities::default(), &choice);
    }
}
