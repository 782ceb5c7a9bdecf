//! Durations (`500ms 30s 10m 1h 2d`) and sizes (`64kB 1MB 1GB`), as an operator writes them.
//!
//! Owns the units and their arithmetic. Knows no key, and so neither defaults nor what a value of zero means.

use std::time::Duration;

/// Units of time and their length in milliseconds.
const TIME_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];
/// Units of size and their length in bytes. A kB is 1024 bytes, as in postgresql.conf.
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30)];
/// What a duration may look like, for errors.
pub const DURATION_FORMS: &str = "a duration like 500ms, 30s, 10m, 1h or 2d (0 is off)";
/// What a size may look like, for errors.
pub const SIZE_FORMS: &str = "a size like 64kB, 1MB or 1GB";
/// Longest duration that is accepted: ten years, so that sums of times cannot overflow.
pub const DURATION_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Reads a duration: a whole number and a unit, blanks between them allowed; or `0`.
///
/// # Errors
/// Says what was found and what is accepted; a number without a unit gets one suggested.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split(text);
    let number = digits.parse::<u64>();
    match (number, unit) {
        (Ok(0), "") => Ok(Duration::ZERO),
        (Ok(_), "") => Err(format!(
            "found {digits} without a unit; did you mean {digits}s? Accepted: {DURATION_FORMS}"
        )),
        (Ok(number), unit) => {
            let factor = factor(&TIME_UNITS, unit).ok_or_else(|| wrong(text, DURATION_FORMS))?;
            number
                .checked_mul(factor)
                .map(Duration::from_millis)
                .filter(|sum| *sum <= DURATION_MAX)
                .ok_or_else(|| format!("{} is too long; at most 3650d", shown(text)))
        }
        (Err(_), _) => Err(wrong(text, DURATION_FORMS)),
    }
}

/// Reads a size in bytes: a whole number and a unit, blanks between them allowed; or `0`.
///
/// # Errors
/// Says what was found and what is accepted.
pub fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = split(text);
    match (digits.parse::<u64>(), unit) {
        (Ok(0), "") => Ok(0),
        (Ok(_), "") => Err(format!(
            "found {digits} without a unit; did you mean {digits}kB? Accepted: {SIZE_FORMS}"
        )),
        (Ok(number), unit) => {
            let factor = factor(&SIZE_UNITS, unit).ok_or_else(|| wrong(text, SIZE_FORMS))?;
            number
                .checked_mul(factor)
                .ok_or_else(|| format!("{} is too large", shown(text)))
        }
        (Err(_), _) => Err(wrong(text, SIZE_FORMS)),
    }
}

/// Writes a duration in the largest unit that holds it exactly; [`duration`] reads it back.
pub fn show_duration(value: Duration) -> String {
    let ms = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0".to_owned();
    }
    let exact = TIME_UNITS.iter().rev().find(|(_, factor)| ms % factor == 0);
    let (unit, factor) = exact.copied().unwrap_or(("ms", 1));
    format!("{}{unit}", ms / factor)
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    (digits, unit.trim())
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
}

fn wrong(text: &str, accepted: &str) -> String {
    format!("found {}, expected {accepted}", shown(text))
}

/// A text from outside, quoted and of bounded length; not a connection string that came into the wrong place.
fn shown(text: &str) -> String {
    if text.contains("://") {
        return "a text".to_owned();
    }
    let short: String = text.chars().take(40).collect();
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_five_units() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            (" 5 s ", 5_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn a_bare_number_gets_a_unit_suggested() {
        assert!(duration("30").unwrap_err().contains("did you mean 30s?"));
        assert!(size("64").unwrap_err().contains("did you mean 64kB?"));
    }

    #[test]
    fn what_is_no_duration_is_told_what_one_is() {
        for text in [
            "",
            "s",
            "-5s",
            "1.5h",
            "5 parsecs",
            "30S",
            "9999999999999999999999s",
            "ß",
            "5ß",
        ] {
            let error = duration(text).unwrap_err();
            assert!(
                error.contains("500ms, 30s, 10m, 1h or 2d"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn arithmetic_does_not_wrap() {
        assert!(
            duration("18446744073709551615d")
                .unwrap_err()
                .contains("too long")
        );
        assert!(duration("3651d").unwrap_err().contains("at most 3650d"));
        assert!(
            size("18446744073709551615GB")
                .unwrap_err()
                .contains("too large")
        );
    }

    #[test]
    fn sizes_are_powers_of_two_as_in_postgresql() {
        assert_eq!(size("64kB"), Ok(65_536));
        assert_eq!(size("1MB"), Ok(1 << 20));
        assert_eq!(size("2 GB"), Ok(2 << 30));
        assert_eq!(size("17B"), Ok(17));
        assert_eq!(size("0"), Ok(0));
        assert!(size("64KB").unwrap_err().contains("64kB"));
    }

    #[test]
    fn a_duration_is_written_as_it_would_be_read() {
        for text in ["0", "1ms", "1500ms", "90s", "10m", "1h", "2d"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
    }
}
