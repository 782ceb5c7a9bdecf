//! Random bytes of the operating system, some more than are asked for at once: a login takes a few bytes three times.

use ring::error::Unspecified;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroize;

/// How many are fetched at once.
const FETCHED: usize = 128;

/// Where they come from.
pub(super) struct Random {
    source: SystemRandom,
    fetched: [u8; FETCHED],
    /// So many of them, the first ones, have not been given out; the others are zero.
    left: usize,
}

impl Random {
    pub(super) fn new() -> Random {
        Random {
            source: SystemRandom::new(),
            fetched: [0; FETCHED],
            left: 0,
        }
    }

    /// Fills `into`. No byte is given out twice, and none that was stays here.
    ///
    /// # Errors
    /// The operating system gives none.
    pub(super) fn fill(&mut self, into: &mut [u8]) -> Result<(), Unspecified> {
        if into.len() > FETCHED {
            return self.source.fill(into);
        }
        if into.len() > self.left {
            self.source.fill(&mut self.fetched)?;
            self.left = FETCHED;
        }
        let rest = self.left - into.len();
        let given = self.fetched.get_mut(rest..self.left).ok_or(Unspecified)?;
        into.copy_from_slice(given);
        given.zeroize();
        self.left = rest;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_is_given_out_twice_or_kept() {
        let mut random = Random::new();
        let mut all = std::collections::BTreeSet::new();
        for _ in 0..1_000 {
            let mut key = [0; 18];
            random.fill(&mut key).unwrap();
            assert!(all.insert(key), "{key:?} came twice");
            let (left, given) = random.fetched.split_at(random.left);
            assert!(
                given.iter().all(|byte| *byte == 0),
                "what was given out is here"
            );
            assert!(left.windows(9).all(|part| !key.ends_with(part)));
        }
        let mut long = [0; 3 * FETCHED];
        random.fill(&mut long).unwrap();
        assert!(
            long.chunks(8).all(|part| part != [0; 8]),
            "filled to its end"
        );
    }
}
