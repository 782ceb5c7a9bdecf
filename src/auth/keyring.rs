//! Derived keys, so that PBKDF2 runs once per password and not once per login, and the salts shown to those who are unknown.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use ring::{hmac, pbkdf2};
use zeroize::Zeroizing;

use super::Proven;
use super::scram::Keys;
use crate::config::Secret;
use crate::limits;

/// A PBKDF2 job, to be run off the loop.
#[derive(Clone, Debug)]
pub struct KeyDerivation {
    /// After SASLprep; the raw bytes if that fails.
    pub password: Secret,
    /// Not in base64.
    pub salt: Vec<u8>,
    /// At least 1.
    pub iterations: u32,
}

impl KeyDerivation {
    /// Runs it: about a millisecond and a half for 4,096 iterations.
    pub fn run(&self) -> SaltedPassword {
        let mut salted = Zeroizing::new([0; 32]);
        let iterations = NonZeroU32::new(self.iterations).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            &self.salt,
            self.password.expose(),
            &mut *salted,
        );
        SaltedPassword(salted)
    }
}

/// RFC 5802's SaltedPassword: as good as the password itself. Wiped on drop.
#[derive(Clone)]
pub struct SaltedPassword(Zeroizing<[u8; 32]>);

impl SaltedPassword {
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for SaltedPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("****")
    }
}

/// Remembers derived keys, by a keyed hash of what they were derived from.
pub struct KeyRing {
    /// Finds keys again; random, so that the map holds nothing that could be guessed at.
    finder: hmac::Key,
    /// Makes the salts of users who have none.
    salts: hmac::Key,
    keys: BTreeMap<[u8; 32], Keys>,
    /// What clients have proven; nobody derived it.
    pub proven: Proven,
}

impl KeyRing {
    /// An empty ring. `mock_secret` makes invented salts stay the same over a restart.
    pub fn new(random: &mut dyn FnMut(&mut [u8]), mock_secret: Option<&Secret>) -> KeyRing {
        let mut fresh = || {
            let mut bytes = Zeroizing::new([0; 32]);
            random(&mut *bytes);
            hmac::Key::new(hmac::HMAC_SHA256, &*bytes)
        };
        let finder = fresh();
        let salts = mock_secret.map_or_else(fresh, |secret| {
            hmac::Key::new(hmac::HMAC_SHA256, secret.expose())
        });
        KeyRing {
            finder,
            salts,
            keys: BTreeMap::new(),
            proven: Proven::default(),
        }
    }

    /// The salt of a user who has none of his own: always the same one for the same name.
    pub(super) fn salt(&self, user: &str) -> Vec<u8> {
        hmac::sign(&self.salts, user.as_bytes())
            .as_ref()
            .iter()
            .copied()
            .take(16)
            .collect()
    }

    /// Keys that were derived before.
    pub(super) fn find(&self, job: &KeyDerivation) -> Option<&Keys> {
        self.keys.get(&self.place(job))
    }

    /// Remembers keys. When there are too many, some go: they are only derived again.
    pub(super) fn remember(&mut self, job: &KeyDerivation, keys: Keys) {
        if self.keys.len() >= limits::DERIVED_KEYS_MAX {
            self.keys.pop_first();
        }
        self.keys.insert(self.place(job), keys);
    }

    fn place(&self, job: &KeyDerivation) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.finder);
        context.update(&job.iterations.to_be_bytes());
        context.update(&(job.salt.len() as u64).to_be_bytes());
        context.update(&job.salt);
        context.update(job.password.expose());
        // What does not fill a block waits in the context, and stays on the stack: two blocks of zeros lie over all of it.
        context.update(&[0; 128]);
        let mut place = [0; 32];
        place.copy_from_slice(context.sign().as_ref());
        place
    }
}
