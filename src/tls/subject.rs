//! A distinguished name as RFC 2253 has it written, byte for byte as OpenSSL does it (`XN_FLAG_RFC2253`): that is what PostgreSQL
//! compares with the user's name where a rule says `clientname=DN`.
//!
//! What cannot be written that way is no name at all: a client must not get in by what was guessed of its certificate.

use super::x509::{Item, OID, SEQUENCE, SET, item, items, tagged};

/// The first character of a value.
const FIRST: u8 = 1;
/// The last one; the only one is the last one to OpenSSL.
const LAST: u8 = 2;

/// Tags of strings: UTF-8; those with a byte for each character, which OpenSSL takes for Latin 1; with four; with two.
const STRINGS: [u8; 10] = [12, 18, 19, 20, 22, 23, 24, 26, 28, 30];

/// Attributes by their names in OpenSSL. Others are written as numbers.
const NAMES: [(&str, &str); 31] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.16", "postalAddress"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.18", "postOfficeBox"),
    ("2.5.4.20", "telephoneNumber"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.72", "role"),
    ("2.5.4.97", "organizationIdentifier"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("1.2.840.113549.1.9.2", "unstructuredName"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC"),
];

/// The content of a Name, the last part first. `None`: it is broken.
pub(super) fn rfc2253(name: &[u8]) -> Option<String> {
    let sets = all(name)?.into_iter().rev().map(|set| {
        let parts = all((set.tag == SET).then_some(set.content)?)?;
        let written = parts.into_iter().rev().map(|part| attribute(&part));
        Some(written.collect::<Option<Vec<_>>>()?.join("+"))
    });
    Some(sets.collect::<Option<Vec<_>>>()?.join(","))
}

/// All values of a sequence. `None`: one of them is broken.
fn all(content: &[u8]) -> Option<Vec<Item<'_>>> {
    let all: Vec<_> = items(content).collect();
    let length: usize = all.iter().map(|item| item.whole.len()).sum();
    (length == content.len()).then_some(all)
}

fn attribute(part: &Item<'_>) -> Option<String> {
    let id = tagged((part.tag == SEQUENCE).then_some(part.content)?, OID)?;
    let value = item(id.rest).filter(|value| value.rest.is_empty())?;
    let number = number(id.content)?;
    let name = NAMES.iter().find(|(known, _)| *known == number);
    let text = match name {
        Some(_) if STRINGS.contains(&value.tag) => escaped(&decoded(value.tag, value.content)?),
        _ => hexadecimal(value.whole),
    };
    Some(format!(
        "{}={text}",
        name.map_or(&*number, |(_, name)| name)
    ))
}

/// What one of [`STRINGS`] says. `None`: it is broken.
fn decoded(tag: u8, bytes: &[u8]) -> Option<String> {
    match tag {
        12 => std::str::from_utf8(bytes).ok().map(str::to_owned),
        28 => wide(bytes, 4),
        30 => wide(bytes, 2),
        _ => Some(bytes.iter().copied().map(char::from).collect()),
    }
}

/// Characters of so many bytes each.
fn wide(bytes: &[u8], width: usize) -> Option<String> {
    let one = |bytes: &[u8]| {
        let code = bytes
            .iter()
            .fold(0, |sum: u32, &byte| sum << 8 | u32::from(byte));
        char::from_u32(code)
    };
    let chunks = bytes.chunks_exact(width);
    chunks
        .remainder()
        .is_empty()
        .then(|| chunks.map(one).collect())?
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    let last = text.chars().count().saturating_sub(1);
    for (at, character) in text.chars().enumerate() {
        let place = match at {
            _ if at == last => LAST,
            0 => FIRST,
            _ => 0,
        };
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.extend(['\\', character]),
            ' ' if place != 0 => out.push_str("\\ "),
            '#' if place == FIRST => out.push_str("\\#"),
            ' '..='~' => out.push(character),
            _ => {
                let mut bytes = [0; 4];
                let bytes = character.encode_utf8(&mut bytes).bytes();
                out.extend(bytes.map(|byte| format!("\\{byte:02X}")));
            }
        }
    }
    out
}

fn hexadecimal(der: &[u8]) -> String {
    let digits = der.iter().map(|byte| format!("{byte:02X}"));
    format!("#{}", digits.collect::<String>())
}

/// An object identifier with dots.
fn number(bytes: &[u8]) -> Option<String> {
    let mut arcs = Vec::new();
    let mut arc: u64 = 0;
    let ended = bytes.last().is_some_and(|byte| byte & 0x80 == 0);
    for byte in bytes {
        arc = arc.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(std::mem::take(&mut arc));
        }
    }
    let both = *arcs.first().filter(|_| ended)?;
    let first = (both / 40).min(2);
    let mut text = format!("{first}.{}", both - first * 40);
    for arc in arcs.get(1..)? {
        text.push_str(&format!(".{arc}"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
    }

    /// A part of a name: the last bytes of its OID behind 2.5.4, and its value.
    fn part(id: u8, tag: u8, content: &[u8]) -> Vec<u8> {
        let oid = value(OID, &[0x55, 0x04, id]);
        value(SEQUENCE, &[oid, value(tag, content)].concat())
    }

    fn set(parts: &[Vec<u8>]) -> Vec<u8> {
        value(SET, &parts.concat())
    }

    fn of_cn(tag: u8, content: &[u8]) -> Option<String> {
        rfc2253(&set(&[part(3, tag, content)]))
    }

    /// What openssl says of the same certificate (`tests/certificates/make.sh`) with `-nameopt RFC2253`.
    #[test]
    fn a_subject_is_written_as_openssl_writes_it() {
        let pem = include_bytes!("../../tests/certificates/subject.crt");
        let chain = super::super::pem::certificates(pem).unwrap();
        let read = super::super::x509::read(&chain[0]).unwrap();
        assert_eq!(
            read.distinguished_name().as_deref(),
            Some(include_str!("../../tests/certificates/subject.txt").trim_end_matches('\n'))
        );
        // The first, as PostgreSQL takes it.
        assert_eq!(read.common_name().as_deref(), Some("username"));
    }

    #[test]
    fn parts_come_last_first_and_those_of_one_set_are_joined() {
        let name = [
            set(&[part(6, 19, b"DE")]),
            set(&[part(10, 12, b"a"), part(11, 12, b"b")]),
            set(&[part(3, 12, b"me")]),
        ];
        assert_eq!(
            rfc2253(&name.concat()).as_deref(),
            Some("CN=me,OU=b+O=a,C=DE")
        );
        assert_eq!(rfc2253(b"").as_deref(), Some(""));
    }

    #[test]
    fn what_would_end_a_value_or_hide_in_it_is_escaped() {
        for (text, written) in [
            ("a,b+c\"d\\e<f>g;h", "CN=a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h"),
            (" # x ", "CN=\\ # x\\ "),
            ("#x#", "CN=\\#x#"),
            ("#", "CN=#"),
            ("a=b/c", "CN=a=b/c"),
            ("a\0b\n\x7f", "CN=a\\00b\\0A\\7F"),
            ("ü€", "CN=\\C3\\BC\\E2\\82\\AC"),
        ] {
            assert_eq!(of_cn(12, text.as_bytes()).as_deref(), Some(written));
        }
    }

    #[test]
    fn every_kind_of_string_is_read_and_what_is_none_is_written_in_hexadecimal() {
        assert_eq!(of_cn(20, b"\xfc").as_deref(), Some("CN=\\C3\\BC"));
        assert_eq!(of_cn(30, b"\0m\0e").as_deref(), Some("CN=me"));
        assert_eq!(of_cn(28, b"\0\0\0m\0\0\0e").as_deref(), Some("CN=me"));
        assert_eq!(of_cn(4, b"me").as_deref(), Some("CN=#04026D65"));
        let unknown = set(&[part(120, 12, b"me")]);
        assert_eq!(rfc2253(&unknown).as_deref(), Some("2.5.4.120=#0C026D65"));
    }

    #[test]
    fn a_broken_name_is_none() {
        let good = set(&[part(3, 12, b"me")]);
        for broken in [
            &good[..good.len() - 1],
            &[&good[..], b"\x31"].concat(),
            &value(SEQUENCE, &part(3, 12, b"me")),
            &set(&[value(SEQUENCE, &value(OID, &[0x55, 0x84]))]),
            &set(&[value(SEQUENCE, &value(OID, &[0x55, 0x04, 0x03]))]),
        ] {
            assert_eq!(rfc2253(broken), None, "{broken:?}");
        }
        assert_eq!(of_cn(12, b"\xff"), None);
        assert_eq!(of_cn(30, b"\0m\0"), None);
        assert_eq!(of_cn(30, b"\xd8\x00"), None);
    }
}
