//! SASLprep (RFC 4013) for passwords, by the tables of `stringprep` but without its temporaries, which nobody wipes.

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use crate::config::Secret;

/// The password as SCRAM uses it: SASLprep, or the raw bytes where that is not possible, as PostgreSQL does.
pub(super) fn prepared(password: &[u8]) -> Secret {
    let text = std::str::from_utf8(password).ok();
    // In ASCII nothing changes: a control character is prohibited, and the password is taken as it is.
    let text = text.filter(|text| !text.is_ascii());
    match text.map(normalized).filter(|text| is_allowed(text)) {
        Some(text) => Secret::new(text.as_bytes()),
        None => Secret::new(password),
    }
}

/// Mapped (2.1) and in form KC (2.2).
fn normalized(text: &str) -> Zeroizing<String> {
    let chars = || {
        let blank = |char| match tables::non_ascii_space_character(char) {
            true => ' ',
            false => char,
        };
        let mapped = text.chars().map(blank);
        mapped
            .filter(|char| !tables::commonly_mapped_to_nothing(*char))
            .nfkc()
    };
    // As long as it has to be: one that grows leaves parts of itself behind.
    let length = chars().map(char::len_utf8).sum();
    let mut normalized = Zeroizing::new(String::with_capacity(length));
    normalized.extend(chars());
    normalized
}

/// Neither prohibited (2.3) nor unassigned (2.5) characters, and right-to-left text in one piece (2.4).
fn is_allowed(text: &str) -> bool {
    let prohibited = |char| {
        tables::non_ascii_space_character(char)
            || tables::ascii_control_character(char)
            || tables::non_ascii_control_character(char)
            || tables::private_use(char)
            || tables::non_character_code_point(char)
            || tables::surrogate_code(char)
            || tables::inappropriate_for_plain_text(char)
            || tables::inappropriate_for_canonical_representation(char)
            || tables::change_display_properties_or_deprecated(char)
            || tables::tagging_character(char)
            || tables::unassigned_code_point(char)
    };
    let right_to_left = text.contains(tables::bidi_r_or_al);
    let in_one_piece = || {
        !text.contains(tables::bidi_l)
            && text.starts_with(tables::bidi_r_or_al)
            && text.ends_with(tables::bidi_r_or_al)
    };
    !text.contains(prohibited) && (!right_to_left || in_one_piece())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the library makes of it, or the raw bytes.
    fn by_the_library(text: &str) -> Secret {
        match stringprep::saslprep(text) {
            Ok(text) => Secret::new(text.as_bytes()),
            Err(_) => Secret::new(text),
        }
    }

    #[test]
    fn passwords_are_prepared_as_by_stringprep() {
        let all = || (0..=0x0010_ffff).filter_map(char::from_u32);
        let among_others = all().step_by(11).map(|char| format!("\u{e4}{char}b"));
        for text in all().map(String::from).chain(among_others) {
            assert_eq!(prepared(text.as_bytes()), by_the_library(&text), "{text:?}");
        }
        for text in [
            "",
            "secret",
            "tab\tin it",
            "\u{2168}",
            "I\u{ad}X",
            "\u{a0}\u{3000}",
            "e\u{301}\u{327} \u{fdfa}",
            "\u{627}1",
            "\u{627}1\u{628}",
            "\u{627}a\u{628}",
        ] {
            assert_eq!(prepared(text.as_bytes()), by_the_library(text), "{text:?}");
        }
        assert_eq!(prepared(b"\xc3\x28"), Secret::new(*b"\xc3\x28"));
    }
}
