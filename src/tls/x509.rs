//! What a certificate says of itself: names, version, validity, how it was signed.
//!
//! A reader of the few fields that nothing else gives us: libpq's rules fall back to the Common Name, certificates of version 1
//! have no parser in webpki, and channel binding needs the hash of the signature. Trusts nothing and verifies nothing; paths to
//! a root are webpki's work (`verify.rs`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ring::digest;

use super::subject;

/// A certificate, taken apart; all parts are of the bytes that were given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// 1, 2 or 3.
    pub version: u8,
    /// What is signed.
    pub(super) signed: &'a [u8],
    /// By whom, the content of the Name.
    pub(super) issuer: &'a [u8],
    /// Whose it is, the content of the Name.
    pub(super) subject: &'a [u8],
    /// SubjectPublicKeyInfo, as a whole.
    pub(super) key: &'a [u8],
    /// The content of the signature's AlgorithmIdentifier.
    pub(super) algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// dNSName entries of the SubjectAltName.
    pub dns_names: Vec<String>,
    /// iPAddress entries of the SubjectAltName.
    pub addresses: Vec<IpAddr>,
}

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// A value and the rest behind it: tag, content, whole, rest.
pub(super) struct Item<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    pub(super) whole: &'a [u8],
    pub(super) rest: &'a [u8],
}

/// One value of DER: definite lengths of at most four bytes.
pub(super) fn item(input: &[u8]) -> Option<Item<'_>> {
    let (&tag, after) = input.split_first()?;
    let (&first, after) = after.split_first()?;
    let (length, after) = if first < 0x80 {
        (usize::from(first), after)
    } else {
        let (bytes, after) = after.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.is_empty() || bytes.len() > 4 {
            return None;
        }
        let length = bytes
            .iter()
            .fold(0, |sum: usize, &byte| sum << 8 | usize::from(byte));
        (length, after)
    };
    let (content, rest) = after.split_at_checked(length)?;
    let whole = input.get(..input.len() - rest.len())?;
    Some(Item {
        tag,
        content,
        whole,
        rest,
    })
}

pub(super) fn tagged(input: &[u8], tag: u8) -> Option<Item<'_>> {
    item(input).filter(|item| item.tag == tag)
}

/// The values in a sequence, up to one that cannot be read.
pub(super) fn items(mut input: &[u8]) -> impl Iterator<Item = Item<'_>> {
    std::iter::from_fn(move || {
        let next = item(input)?;
        input = next.rest;
        Some(next)
    })
}

/// Takes a certificate apart. `None`: it is none.
pub fn read(der: &[u8]) -> Option<Certificate<'_>> {
    let whole = tagged(der, SEQUENCE)?;
    let signed = tagged(whole.content, SEQUENCE)?;
    let algorithm = tagged(signed.rest, SEQUENCE)?;
    let signature = tagged(algorithm.rest, BIT_STRING)?.content.get(1..)?;
    let (version, fields) = match tagged(signed.content, 0xa0) {
        Some(version) => {
            let number = *tagged(version.content, INTEGER)?.content.first()?;
            (number.checked_add(1)?, version.rest)
        }
        None => (1, signed.content),
    };
    let serial = tagged(fields, INTEGER)?;
    let inner = tagged(serial.rest, SEQUENCE)?;
    let issuer = tagged(inner.rest, SEQUENCE)?;
    let validity = tagged(issuer.rest, SEQUENCE)?;
    let subject = tagged(validity.rest, SEQUENCE)?;
    let key = tagged(subject.rest, SEQUENCE)?;
    let begin = item(validity.content)?;
    let end = item(begin.rest)?;
    let mut certificate = Certificate {
        version,
        signed: signed.whole,
        issuer: issuer.content,
        subject: subject.content,
        key: key.whole,
        algorithm: algorithm.content,
        signature,
        not_before: time(&begin)?,
        not_after: time(&end)?,
        dns_names: Vec::new(),
        addresses: Vec::new(),
    };
    if let Some(extensions) = items(key.rest).find(|item| item.tag == 0xa3) {
        read_names(extensions.content, &mut certificate);
    }
    Some(certificate)
}

fn read_names(extensions: &[u8], certificate: &mut Certificate<'_>) {
    let list = tagged(extensions, SEQUENCE).map_or(&[][..], |list| list.content);
    let names = items(list).filter_map(|extension| {
        let id = tagged(extension.content, OID).filter(|id| id.content == SUBJECT_ALT_NAME)?;
        let value = match tagged(id.rest, BOOLEAN) {
            Some(critical) => critical.rest,
            None => id.rest,
        };
        Some(tagged(tagged(value, OCTET_STRING)?.content, SEQUENCE)?.content)
    });
    for name in names.flat_map(items) {
        match name.tag {
            // A zero byte inside of a name is an attack that is as old as the field.
            0x82 if !name.content.contains(&0) => certificate
                .dns_names
                .extend(std::str::from_utf8(name.content).map(str::to_owned)),
            0x87 => certificate.addresses.extend(address(name.content)),
            _ => {}
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    let v6 = <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into());
    v4.or(v6).ok()
}

/// UTCTime or GeneralizedTime, in the one form that RFC 5280 allows.
fn time(item: &Item<'_>) -> Option<i64> {
    let text = std::str::from_utf8(item.content).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (item.tag, text.len()) {
        (0x17, 12) => {
            let short: i64 = text.get(..2)?.parse().ok()?;
            (short + if short < 50 { 2000 } else { 1900 }, text.get(2..)?)
        }
        (0x18, 14) => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    let seconds = part(4)? * 3600 + part(6)? * 60 + part(8)?;
    Some(days(year, month, day) * 86_400 + seconds)
}

/// Days from 1970 to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    year * 365 + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 1
        - 719_468
}

/// Hash functions of signatures by the content of the algorithm's OID: those of RSA PKCS#1 v1.5 and of ECDSA.
#[rustfmt::skip]
const HASHES: [(&[u8], &digest::Algorithm); 10] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04], &digest::SHA256), // MD5, which RFC 5929 replaces
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05], &digest::SHA256), // SHA-1, which it replaces too
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01], &digest::SHA256),             // SHA-1
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b], &digest::SHA256),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c], &digest::SHA384),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d], &digest::SHA512),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02], &digest::SHA256),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03], &digest::SHA384),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04], &digest::SHA512),
    // PSS without parameters is SHA-1.
    (RSA_PSS, &digest::SHA256),
];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
/// SHA-2 itself, as RSA-PSS names it in its parameters.
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03];

/// The channel binding `tls-server-end-point` (RFC 5929) of a server's certificate: its hash, by the hash function of its
/// signature. `None`: there is none defined (Ed25519).
pub fn endpoint_hash(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = read(der)?;
    let id = tagged(certificate.algorithm, OID)?;
    let (_, mut hash) = HASHES.into_iter().find(|(oid, _)| *oid == id.content)?;
    if id.content == RSA_PSS {
        let named = |oid: &[u8]| id.rest.windows(oid.len()).any(|window| window == oid);
        // The hash stands in the parameters twice: for the message, and for the mask.
        hash = match (named(SHA512), named(SHA384)) {
            (true, _) => &digest::SHA512,
            (_, true) => &digest::SHA384,
            _ => hash,
        };
    }
    Some(digest::digest(hash, der).as_ref().to_vec())
}

impl Certificate<'_> {
    /// The Common Name of the subject; of several the first, as PostgreSQL and libpq take it.
    pub fn common_name(&self) -> Option<String> {
        common_name(self.subject)
    }

    /// Whether it names itself as its issuer.
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// The subject as RFC 2253 writes it. `None`: it cannot be read.
    pub fn distinguished_name(&self) -> Option<String> {
        subject::rfc2253(self.subject)
    }

    /// The subject for people: `CN=db.example.com`, or what else there is.
    pub fn shown_subject(&self) -> String {
        shown(self.subject)
    }

    /// The issuer for people.
    pub fn shown_issuer(&self) -> String {
        shown(self.issuer)
    }
}

/// The parts of a Name: OID and value.
fn parts(name: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    items(name)
        .filter(|set| set.tag == SET)
        .flat_map(|set| items(set.content))
        .filter_map(|part| {
            let id = tagged(part.content, OID)?;
            Some((id.content, item(id.rest)?.content))
        })
}

fn common_name(name: &[u8]) -> Option<String> {
    let (_, value) = parts(name).find(|(id, _)| *id == COMMON_NAME)?;
    let text = std::str::from_utf8(value).ok()?;
    (!text.contains('\0')).then(|| text.to_owned())
}

fn shown(name: &[u8]) -> String {
    let known: [(&[u8], &str); 5] = [
        (COMMON_NAME, "CN"),
        (&[0x55, 0x04, 0x06], "C"),
        (&[0x55, 0x04, 0x07], "L"),
        (&[0x55, 0x04, 0x0a], "O"),
        (&[0x55, 0x04, 0x0b], "OU"),
    ];
    let texts = parts(name).filter_map(|(id, value)| {
        let (_, label) = known.iter().find(|(oid, _)| *oid == id)?;
        let text = String::from_utf8_lossy(value);
        let clean: String = text.chars().filter(|c| !c.is_control()).take(64).collect();
        Some(format!("{label}={clean}"))
    });
    texts.collect::<Vec<_>>().join(", ")
}
