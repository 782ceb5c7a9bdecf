//! Fingerprints of statements: bounded, the same for the same bytes, and no value of a literal is left in them.

use aether::fingerprint;
use aether::limits::{FINGERPRINT_MAX, FINGERPRINT_WITHIN};

fn of(sql: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    fingerprint::write(sql, &mut out);
    assert!(out.len() <= FINGERPRINT_MAX);
    out
}

/// The property.
pub fn holds(data: &[u8]) {
    assert_eq!(of(data), of(data));
    let value = data.get(..FINGERPRINT_WITHIN / 4).unwrap_or(data);
    let doubled = |of: &[u8]| {
        let twice = |byte: &u8| {
            of.contains(byte)
                .then_some(*byte)
                .into_iter()
                .chain([*byte])
        };
        value.iter().flat_map(twice).collect::<Vec<u8>>()
    };
    let wanted = b"select ? from t";
    for (before, inside, after) in [
        ("SELECT '", doubled(b"'"), "' FROM t;"),
        ("select E'", doubled(b"'\\"), "'  from T"),
        ("select /*", b"x".to_vec(), "*/ 5 from t"),
    ] {
        let sql = [before.as_bytes(), &inside, after.as_bytes()].concat();
        assert_eq!(of(&sql), wanted, "{}", String::from_utf8_lossy(&sql));
    }
    if !value.windows(3).any(|part| part == b"$q$") && !value.ends_with(b"$q") {
        let sql = [b"select $q$", value, b"$q$ from t"].concat();
        assert_eq!(of(&sql), wanted, "{}", String::from_utf8_lossy(&sql));
    }
}
