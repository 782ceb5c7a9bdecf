//! Protocols, cipher suites and curves by the names that PostgreSQL's users know, which are OpenSSL's, and what rustls has of
//! them. Whatever it has not is an error with the list of what it has.

use rustls::SupportedCipherSuite;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::ring::{cipher_suite, kx_group};

/// Versions of TLS that may be spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// TLS 1.2.
    pub tls12: bool,
    /// TLS 1.3.
    pub tls13: bool,
}

impl Versions {
    /// Both.
    pub const ALL: Versions = Versions {
        tls12: true,
        tls13: true,
    };

    pub(super) fn list(self) -> Vec<&'static rustls::SupportedProtocolVersion> {
        let both = [
            (self.tls13, &rustls::version::TLS13),
            (self.tls12, &rustls::version::TLS12),
        ];
        both.into_iter()
            .filter_map(|(wanted, version)| wanted.then_some(version))
            .collect()
    }
}

const TOO_OLD: &str =
    "TLS 1.0 and 1.1 are broken and cannot be had; TLS 1.2 and 1.3 remain as they are named";

/// PgBouncer's list: `secure`, `all`, `tlsv1.2,tlsv1.3`, `all:!tlsv1.2`. The second: what deserves a warning.
///
/// # Errors
/// An unknown word, or nothing that is left.
pub fn protocols(list: &str) -> Result<(Versions, Option<&'static str>), String> {
    let mut versions = Versions {
        tls12: false,
        tls13: false,
    };
    let mut old = false;
    for word in split(list, &[',', ':', ' ']) {
        let (wanted, word) = word
            .strip_prefix('!')
            .map_or((true, word), |word| (false, word));
        let (of_12, of_13) = match word.to_ascii_lowercase().as_str() {
            "secure" | "default" => (true, true),
            "all" | "legacy" | "tlsv1" => {
                old |= wanted;
                (true, true)
            }
            "tlsv1.0" | "tlsv1.1" => {
                old |= wanted;
                (false, false)
            }
            "tlsv1.2" => (true, false),
            "tlsv1.3" => (false, true),
            _ => {
                return Err(format!(
                    "unknown protocol {word:?}; there are tlsv1.2, tlsv1.3, secure (both)"
                ));
            }
        };
        versions.tls12 = if of_12 { wanted } else { versions.tls12 };
        versions.tls13 = if of_13 { wanted } else { versions.tls13 };
    }
    if versions.list().is_empty() {
        return Err("no protocol is left; there are tlsv1.2, tlsv1.3, secure (both)".to_owned());
    }
    Ok((versions, old.then_some(TOO_OLD)))
}

/// libpq's `ssl_min_protocol_version` and `ssl_max_protocol_version`; an empty text is no limit. The second: a warning.
///
/// # Errors
/// An unknown version, or nothing that is left.
pub fn range(min: &str, max: &str) -> Result<(Versions, Option<&'static str>), String> {
    let rank = |text: &str, none: u32| match text.to_ascii_lowercase().as_str() {
        "" => Ok(none),
        "tlsv1" => Ok(0),
        "tlsv1.1" => Ok(1),
        "tlsv1.2" => Ok(2),
        "tlsv1.3" => Ok(3),
        _ => Err("a protocol version is none; there are TLSv1.2 and TLSv1.3".to_owned()),
    };
    let (from, to) = (rank(min, 2)?, rank(max, 3)?);
    let versions = Versions {
        tls12: from <= 2 && to >= 2,
        tls13: from <= 3 && to >= 3,
    };
    if versions.list().is_empty() || from > to {
        return Err(
            "no protocol version is left between ssl_min_protocol_version and ssl_max_protocol_version; \
                    there are TLSv1.2 and TLSv1.3"
                .to_owned(),
        );
    }
    Ok((versions, (from < 2).then_some(TOO_OLD)))
}

type Tags = &'static [&'static str];

/// TLS 1.2: OpenSSL's name, the words of its language that mean this suite among others.
#[rustfmt::skip]
const TLS12: [(&str, SupportedCipherSuite, Tags); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        &["aECDSA", "ECDSA", "AES", "AES256", "AESGCM", "SHA384"]),
    ("ECDHE-RSA-AES256-GCM-SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        &["aRSA", "RSA", "AES", "AES256", "AESGCM", "SHA384"]),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        &["aECDSA", "ECDSA", "CHACHA20"]),
    ("ECDHE-RSA-CHACHA20-POLY1305", cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        &["aRSA", "RSA", "CHACHA20"]),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        &["aECDSA", "ECDSA", "AES", "AES128", "AESGCM", "SHA256"]),
    ("ECDHE-RSA-AES128-GCM-SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        &["aRSA", "RSA", "AES", "AES128", "AESGCM", "SHA256"]),
];

/// What every one of them is.
const COMMON: Tags = &[
    "ALL", "DEFAULT", "HIGH", "ECDHE", "EECDH", "kECDHE", "kEECDH", "TLSv1.2", "FIPS", "default",
    "secure", "fast", "normal",
];

/// Words of OpenSSL's language for what rustls has nothing of: harmless in a list, as they are in OpenSSL's own.
const EMPTY: Tags = &[
    "MEDIUM",
    "LOW",
    "EXPORT",
    "EXP",
    "NULL",
    "eNULL",
    "aNULL",
    "COMPLEMENTOFALL",
    "COMPLEMENTOFDEFAULT",
    "kRSA",
    "DH",
    "DHE",
    "EDH",
    "kDHE",
    "kEDH",
    "ADH",
    "AECDH",
    "kDH",
    "kECDH",
    "aDSS",
    "DSS",
    "PSK",
    "SRP",
    "3DES",
    "DES",
    "RC4",
    "RC2",
    "IDEA",
    "SEED",
    "CAMELLIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "ARIA",
    "AESCCM",
    "AESCCM8",
    "MD5",
    "SHA1",
    "SHA",
    "SSLv3",
    "TLSv1",
    "TLSv1.0",
];

/// A list of TLS 1.2 suites in OpenSSL's language, as far as it is about what rustls has.
///
/// # Errors
/// A suite that rustls has not, a word that is none, or nothing that is left.
pub fn ciphers(list: &str) -> Result<Vec<SupportedCipherSuite>, String> {
    let mut chosen: Vec<&str> = Vec::new();
    for word in split(list, &[':', ',', ' ', ';']).filter(|word| !word.starts_with('@')) {
        let (takes_away, word) = match word.strip_prefix(['!', '-']) {
            Some(word) => (true, word),
            None => (false, word),
        };
        let (moves, word) = match word.strip_prefix('+') {
            Some(word) => (true, word),
            None => (false, word),
        };
        let parts: Vec<&str> = word.split('+').collect();
        let meant = || {
            let matches = |(name, _, tags): &&(&'static str, SupportedCipherSuite, Tags)| {
                parts
                    .iter()
                    .all(|part| part == name || tags.contains(part) || COMMON.contains(part))
            };
            TLS12.iter().filter(matches).map(|(name, _, _)| *name)
        };
        if takes_away {
            chosen.retain(|name| !meant().any(|other| other == *name));
        } else if !moves {
            let known = parts.iter().any(|part| EMPTY.contains(part));
            if meant().next().is_none() && !known {
                return Err(format!("{word:?} cannot be had; there are {}", names12()));
            }
            let new: Vec<&str> = meant().filter(|name| !chosen.contains(name)).collect();
            chosen.extend(new);
        }
    }
    if chosen.is_empty() {
        return Err(format!("no cipher is left; there are {}", names12()));
    }
    let suite = |name: &&str| TLS12.iter().find(|(other, _, _)| other == name);
    Ok(chosen
        .iter()
        .filter_map(suite)
        .map(|(_, suite, _)| *suite)
        .collect())
}

fn names12() -> String {
    let names: Vec<&str> = TLS12.iter().map(|(name, _, _)| *name).collect();
    names.join(", ")
}

const TLS13: [(&str, SupportedCipherSuite); 3] = [
    (
        "TLS_AES_256_GCM_SHA384",
        cipher_suite::TLS13_AES_256_GCM_SHA384,
    ),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_AES_128_GCM_SHA256",
        cipher_suite::TLS13_AES_128_GCM_SHA256,
    ),
];

/// A list of TLS 1.3 suites.
///
/// # Errors
/// A suite that rustls has not, or none at all.
pub fn ciphersuites(list: &str) -> Result<Vec<SupportedCipherSuite>, String> {
    named(list, "cipher suite", &TLS13)
}

const GROUPS: [(&str, &dyn SupportedKxGroup); 6] = [
    ("X25519", kx_group::X25519),
    ("prime256v1", kx_group::SECP256R1),
    ("secp384r1", kx_group::SECP384R1),
    ("P-256", kx_group::SECP256R1),
    ("secp256r1", kx_group::SECP256R1),
    ("P-384", kx_group::SECP384R1),
];

/// A list of curves, or `auto`.
///
/// # Errors
/// A curve that rustls has not, or none at all.
pub fn groups(list: &str) -> Result<Vec<&'static dyn SupportedKxGroup>, String> {
    if list.eq_ignore_ascii_case("auto") {
        return Ok(vec![
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ]);
    }
    named(list, "curve", &GROUPS)
}

/// All suites of both versions, best first.
pub fn all_suites() -> Vec<SupportedCipherSuite> {
    let new = TLS13.iter().map(|(_, suite)| *suite);
    new.chain(TLS12.iter().map(|(_, suite, _)| *suite))
        .collect()
}

/// OpenSSL's name of a suite.
pub fn suite_name(suite: SupportedCipherSuite) -> &'static str {
    let new = TLS13.iter().map(|(name, suite)| (*name, *suite));
    let old = TLS12.iter().map(|(name, suite, _)| (*name, *suite));
    new.chain(old)
        .find(|(_, other)| *other == suite)
        .map_or("unknown", |(name, _)| name)
}

fn named<T: Copy>(list: &str, what: &str, all: &[(&str, T)]) -> Result<Vec<T>, String> {
    let known = || {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    };
    let mut found = Vec::new();
    for word in split(list, &[':', ',', ' ']) {
        let (_, value) = all
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(word))
            .ok_or_else(|| format!("{what} {word:?} cannot be had; there are {}", known()))?;
        found.push(*value);
    }
    if found.is_empty() {
        return Err(format!("no {what} is named; there are {}", known()));
    }
    Ok(found)
}

fn split<'a>(list: &'a str, separators: &'a [char]) -> impl Iterator<Item = &'a str> {
    list.split(separators).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(suites: Result<Vec<SupportedCipherSuite>, String>) -> Vec<&'static str> {
        suites.unwrap().into_iter().map(suite_name).collect()
    }

    /// Issue 4: protocol lists that also name TLS 1.0 or 1.1, `all` and `legacy` included, load with a warning.
    #[test]
    fn old_protocols_load_with_a_warning_and_mean_what_can_be_had() {
        for (list, of_12, of_13, warns) in [
            ("secure", true, true, false),
            ("default", true, true, false),
            ("all", true, true, true),
            ("legacy", true, true, true),
            ("tlsv1.0,tlsv1.1,tlsv1.2", true, false, true),
            ("TLSv1.2:TLSv1.3", true, true, false),
            ("all:!tlsv1.2", false, true, true),
            ("secure,!tlsv1.3", true, false, false),
        ] {
            let (versions, warning) = protocols(list).unwrap();
            assert_eq!(
                (versions.tls12, versions.tls13, warning.is_some()),
                (of_12, of_13, warns),
                "{list}"
            );
        }
        for list in ["", "tlsv1.1", "ssl3", "secure:!secure"] {
            assert!(
                protocols(list).unwrap_err().contains("tlsv1.2, tlsv1.3"),
                "{list}"
            );
        }
    }

    #[test]
    fn the_range_of_libpq_is_cut_to_what_there_is() {
        let both = Versions::ALL;
        assert_eq!(range("", ""), Ok((both, None)));
        assert_eq!(range("TLSv1", ""), Ok((both, Some(TOO_OLD))));
        assert!(!range("tlsv1.3", "").unwrap().0.tls12);
        assert!(!range("TLSv1.2", "TLSv1.2").unwrap().0.tls13);
        for (min, max) in [("TLSv1.3", "TLSv1.2"), ("", "TLSv1.1"), ("SSLv3", "")] {
            assert!(range(min, max).is_err(), "{min} {max}");
        }
    }

    #[test]
    fn openssl_lists_of_ciphers_mean_what_rustls_has_of_them() {
        assert_eq!(shown(ciphers("default")).len(), 6);
        // PostgreSQL's own default.
        assert_eq!(shown(ciphers("HIGH:MEDIUM:+3DES:!aNULL")).len(), 6);
        assert_eq!(
            shown(ciphers("EECDH+AESGCM:!aECDSA:!AES128")),
            ["ECDHE-RSA-AES256-GCM-SHA384"]
        );
        assert_eq!(
            shown(ciphers("ECDHE-RSA-AES128-GCM-SHA256,@STRENGTH")),
            ["ECDHE-RSA-AES128-GCM-SHA256"]
        );
        for list in ["AES128-SHA", "HIGH:AES256-SHA256", "MEDIUM", "nonsense", ""] {
            let error = ciphers(list).unwrap_err();
            assert!(
                error.contains("ECDHE-RSA-CHACHA20-POLY1305"),
                "{list}: {error}"
            );
        }
    }

    #[test]
    fn suites_and_curves_that_are_not_there_are_refused_with_those_that_are() {
        assert_eq!(
            shown(ciphersuites(
                "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
            )),
            ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"]
        );
        assert!(
            ciphersuites("TLS_AES_128_CCM_SHA256")
                .unwrap_err()
                .ends_with(
                    "TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256, TLS_AES_128_GCM_SHA256"
                )
        );
        assert_eq!(groups("auto").unwrap().len(), 3);
        assert_eq!(groups("prime256v1:X25519").unwrap().len(), 2);
        for list in ["secp521r1", "X448", "none"] {
            assert!(
                groups(list).unwrap_err().contains("X25519, prime256v1"),
                "{list}"
            );
        }
    }
}
