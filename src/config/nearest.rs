//! The word that was probably meant. Knows no key, and serves the console as well; an answer is only ever a hint in an error.

/// Longest word that is compared; no key is longer, and the work is the product of both lengths.
const WORD_MAX: usize = 64;

/// The candidate nearest to `word`, upper and lower case being the same, if it is near enough to be a slip of the pen: a
/// third of its letters, at least two.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.len() > WORD_MAX {
        return None;
    }
    let word = word.replace('-', "_");
    let best = candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .min()?;
    let (distance, candidate) = best;
    (distance <= (candidate.len() / 3).max(2) && distance < candidate.len()).then_some(candidate)
}

/// Levenshtein's distance in bytes, upper and lower case being the same.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            let next = (diagonal + usize::from(!x.eq_ignore_ascii_case(&y)))
                .min(left + 1)
                .min(above + 1);
            *cell = next;
            (diagonal, left) = (above, next);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let keys = ["max_connections", "min_idle_connections", "mode", "dsn"];
        assert_eq!(nearest("max_conections", keys), Some("max_connections"));
        assert_eq!(nearest("Max-Connections", keys), Some("max_connections"));
        assert_eq!(nearest("pool", ["POOLS", "SERVERS"]), Some("POOLS"));
        assert_eq!(nearest("mod", keys), Some("mode"));
        assert_eq!(nearest("dns", keys), Some("dsn"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(nearest(&"x".repeat(1000), keys), None);
    }

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("abc", "abc", 0),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
