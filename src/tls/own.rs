//! Sees whether a server asks for our certificate, and whether it gets it (libpq's `sslcertmode=require`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

/// What became of our certificate in a handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnCertificate {
    /// The server has not asked for it.
    #[default]
    NotAsked,
    /// It has, and can do nothing with the kind of key that we have.
    NotSent,
    /// It was sent.
    Sent,
}

/// Stands between one connection and our certificate.
#[derive(Debug)]
pub(crate) struct Witness {
    own: Arc<dyn ResolvesClientCert>,
    seen: AtomicU8,
}

impl Witness {
    pub(super) fn new(own: Arc<dyn ResolvesClientCert>) -> Witness {
        Witness {
            own,
            seen: AtomicU8::new(0),
        }
    }

    /// What it has seen so far.
    pub(crate) fn seen(&self) -> OwnCertificate {
        match self.seen.load(Ordering::Relaxed) {
            0 => OwnCertificate::NotAsked,
            1 => OwnCertificate::NotSent,
            _ => OwnCertificate::Sent,
        }
    }
}

impl ResolvesClientCert for Witness {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let found = self.own.resolve(issuers, schemes);
        let is_sent = found
            .as_ref()
            .is_some_and(|own| own.key.choose_scheme(schemes).is_some());
        self.seen.store(1 + u8::from(is_sent), Ordering::Relaxed);
        found
    }

    fn has_certs(&self) -> bool {
        self.own.has_certs()
    }
}
