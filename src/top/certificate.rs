//! The files of libpq's `~/.postgresql`: our certificate and its key, and the roots that Aether's is checked by.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::options::Target;
use crate::tls::{Authorities, Identity, pem};

/// A file that was named, or else the one in the usual place, if it is there.
fn file(named: &Option<PathBuf>, target: &Target, usual: &str) -> Option<PathBuf> {
    let usual = || Some(target.home.as_ref()?.join(".postgresql").join(usual));
    let path = named.clone().or_else(usual);
    path.filter(|path| path.exists())
}

fn read<T>(path: &Path, parse: impl Fn(&[u8]) -> Result<T, String>) -> Result<T, String> {
    let read = fs::read(path).map(zeroize::Zeroizing::new);
    let read = read.map_err(|error| error.to_string());
    let parsed = read.and_then(|text| parse(&text));
    parsed.map_err(|text| format!("{}: {text}", path.display()))
}

/// What we show to whoever asks for a certificate. As in libpq, one that is not there is no error: not everybody asks.
///
/// # Errors
/// It is there and cannot be used, or its key cannot, or others may read that.
pub(super) fn identity(target: &Target) -> Result<Option<Identity>, String> {
    let Some(certificate) = file(&target.certificate, target, "postgresql.crt") else {
        return Ok(None);
    };
    let key = file(&target.key, target, "postgresql.key").ok_or_else(|| {
        let path = certificate.display();
        format!("certificate \"{path}\" is there, and its private key (PGSSLKEY) is not")
    })?;
    let facts = fs::metadata(&key).map_err(|error| format!("{}: {error}", key.display()))?;
    let others = if facts.uid() == 0 { 0o027 } else { 0o077 };
    if facts.mode() & others != 0 {
        return Err(format!(
            "private key file \"{}\" has group or world access; file must have permissions u=rw (0600) or less if owned by the \
             current user, or permissions u=rw,g=r (0640) or less if owned by root",
            key.display()
        ));
    }
    Ok(Some(Identity {
        chain: read(&certificate, pem::certificates)?,
        key: read(&key, pem::key)?,
    }))
}

/// What Aether's certificate is checked by; none: nothing.
///
/// # Errors
/// The file is there and cannot be used, or was named and is not there.
pub(super) fn authorities(target: &Target) -> Result<Authorities, String> {
    let usual = || file(&None, target, "root.crt");
    let path = target.roots.clone().or_else(usual);
    let mut authorities = Authorities::default();
    if let Some(path) = path {
        authorities.roots = read(&path, pem::certificates)?;
    }
    Ok(authorities)
}
