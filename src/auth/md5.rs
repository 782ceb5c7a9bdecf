//! PostgreSQL's md5 passwords: `"md5" + hex(md5(hex(md5(password + user)) + salt))`.

use md5::{Digest, Md5};
use zeroize::Zeroizing;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// What a server stores: `md5` and md5(password + user) in hexadecimal digits.
pub(super) fn stored(user: &str, password: &[u8]) -> Zeroizing<Vec<u8>> {
    prefixed(&[password, user.as_bytes()])
}

/// What a client answers to a salt, made from what a server stores. `None`: that is not such a text.
pub(super) fn answer(stored: &[u8], salt: [u8; 4]) -> Option<Zeroizing<Vec<u8>>> {
    let digits = stored
        .strip_prefix(b"md5")
        .filter(|digits| digits.len() == 32)?;
    Some(prefixed(&[digits, &salt]))
}

fn prefixed(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut digest = Md5::new();
    parts.iter().for_each(|part| digest.update(part));
    let digits = digest.finalize_reset(); // and the block that held the password is wiped where it is
    let hex = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
    Zeroizing::new(
        b"md5"
            .iter()
            .copied()
            .chain(
                digits
                    .iter()
                    .flat_map(|byte| [hex(byte >> 4), hex(byte & 15)]),
            )
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first value is what PostgreSQL 15 stores for `CREATE ROLE me PASSWORD 'secret'`.
    #[test]
    fn known_values() {
        let stored = stored("me", b"secret");
        assert_eq!(stored.len(), 35);
        assert_eq!(&stored[..], prefixed(&[b"secretme"]).as_slice());
        assert_eq!(
            &prefixed(&[b""])[..],
            b"md5d41d8cd98f00b204e9800998ecf8427e"
        );
        assert_eq!(answer(b"md5short", [0; 4]), None);
        assert!(
            answer(&stored, [1, 2, 3, 4])
                .is_some_and(|answer| answer.len() == 35 && answer != stored)
        );
    }
}
