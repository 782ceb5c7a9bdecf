//! Secrets: a password in clear, or one of the forms in which PostgreSQL stores it.
//!
//! A [`Secret`] cannot be printed and is wiped when it is dropped.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Bytes that must not be seen: no `Display`, a `Debug` without content, wiped when the last one is dropped. A clone is the same bytes: a
/// secret that many pools inherit is in memory once.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// Takes the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(Arc::new(Zeroizing::new(bytes.into())))
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
#[derive(Clone, PartialEq, Eq)]
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

impl std::fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SCRAM-SHA-256$****")
    }
}

const SCRAM_PREFIX: &[u8] = b"SCRAM-SHA-256$";

impl Stored {
    /// Recognises a secret by its form, as PgBouncer does: `md5` and 32 lower-case hexadecimal digits, a whole and valid SCRAM
    /// verifier, or else the password itself (so also a text that only begins like one of the others).
    ///
    /// The empty text becomes an empty password: who verifies logins must let nobody in with it.
    pub fn parse(text: &[u8]) -> Stored {
        if is_md5(text) {
            return Stored::Md5(Secret::new(text));
        }
        ScramVerifier::parse(text).map_or_else(|| Stored::Plain(Secret::new(text)), Stored::Scram)
    }
}

fn is_md5(text: &[u8]) -> bool {
    let lower_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.strip_prefix(b"md5")
        .is_some_and(|hex| hex.len() == 32 && hex.iter().all(lower_hex))
}

impl ScramVerifier {
    /// Whether a text begins as one does.
    pub fn is_meant(text: &[u8]) -> bool {
        text.starts_with(SCRAM_PREFIX)
    }

    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`. `None` for anything else: at least one iteration, a
    /// salt that is not empty, keys of 32 bytes, strict base64.
    pub fn parse(text: &[u8]) -> Option<ScramVerifier> {
        let text = std::str::from_utf8(text.strip_prefix(SCRAM_PREFIX)?).ok()?;
        let (head, keys) = text.split_once('$')?;
        let (iterations, salt) = head.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let all_digits = iterations.bytes().all(|byte| byte.is_ascii_digit());
        let iterations = iterations
            .parse()
            .ok()
            .filter(|count| all_digits && *count >= 1)?;
        let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty())?;
        let stored_key = STANDARD.decode(stored_key).ok()?.try_into().ok()?;
        let server_key = Secret::new(STANDARD.decode(server_key).ok()?);
        let verifier = ScramVerifier {
            iterations,
            salt,
            stored_key,
            server_key,
        };
        (verifier.server_key.expose().len() == 32).then_some(verifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn stored(text: &str) -> Stored {
        Stored::parse(text.as_bytes())
    }

    #[test]
    fn a_secret_is_never_printed() {
        let verifier = stored(&format!("SCRAM-SHA-256$4096:c2FsdA==${KEY}:{KEY}"));
        for secret in [stored("hunter2"), verifier] {
            let shown = format!("{secret:?}");
            assert!(
                shown.contains("****") && !shown.contains("hunter2"),
                "{shown}"
            );
            assert!(!shown.contains("31]"), "no key bytes: {shown}");
        }
    }

    #[test]
    fn md5_is_lower_case_hexadecimal_of_the_right_length() {
        assert!(matches!(
            stored("md50123456789abcdef0123456789abcdef"),
            Stored::Md5(_)
        ));
        for plain in [
            "md5",
            "md50123456789ABCDEF0123456789abcdef",
            "md50123456789abcdef0123456789abcde",
        ] {
            assert!(matches!(stored(plain), Stored::Plain(_)), "{plain}");
        }
    }

    #[test]
    fn a_scram_verifier_is_decoded() {
        let Stored::Scram(verifier) = stored(&format!("SCRAM-SHA-256$4096:c2FsdA==${KEY}:{KEY}"))
        else {
            panic!("not recognised");
        };
        assert_eq!(
            (verifier.iterations, verifier.salt.as_slice()),
            (4096, &b"salt"[..])
        );
        assert_eq!(verifier.stored_key[31], 31);
        assert_eq!(verifier.server_key.expose()[1], 1);
    }

    #[test]
    fn what_only_begins_like_a_verifier_is_a_password() {
        for text in [
            "SCRAM-SHA-256$".to_owned(),
            "SCRAM-SHA-256$4096".to_owned(),
            format!("SCRAM-SHA-256$0:c2FsdA==${KEY}:{KEY}"),
            format!("SCRAM-SHA-256$+1:c2FsdA==${KEY}:{KEY}"),
            format!("SCRAM-SHA-256$99999999999:c2FsdA==${KEY}:{KEY}"),
            format!("SCRAM-SHA-256$4096:${KEY}:{KEY}"),
            format!("SCRAM-SHA-256$4096:c2FsdA${KEY}:{KEY}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==$AAEC:{KEY}"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${KEY}:AAEC"),
            format!("SCRAM-SHA-256$4096:c2FsdA==${KEY}:{KEY} "),
            format!("scram-sha-256$4096:c2FsdA==${KEY}:{KEY}"),
        ] {
            assert!(matches!(stored(&text), Stored::Plain(_)), "{text}");
        }
    }
}
