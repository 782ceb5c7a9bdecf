//! Secrets: a password in clear, or one of the forms in which PostgreSQL stores it.
//!
//! A [`Secret`] cannot be printed and is wiped when it is dropped.

use zeroize::Zeroizing;

/// Bytes that must not be seen: no `Display`, a `Debug` without content, wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(Zeroizing::new(bytes.into()))
    }

    /// The bytes, for the one computation that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("****")
    }
}

/// A user's secret as an operator writes it, in PgBouncer's userlist or in `auth.users`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The password itself.
    Plain(Secret),
    /// `md5` and 32 lower-case hexadecimal digits of md5(password + user), the whole text.
    Md5(Secret),
    /// A SCRAM-SHA-256 verifier.
    Scram(ScramVerifier),
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Rounds of PBKDF2.
    pub iterations: u32,
    /// The salt, not in base64.
    pub salt: Vec<u8>,
    /// H(ClientKey).
    pub stored_key: [u8; 32],
    /// HMAC(SaltedPassword, "Server Key").
    pub server_key: Secret,
}
