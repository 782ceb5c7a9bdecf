//! Proofs of identity: how a client proves itself to us ([`Verify`]), how we prove ourselves to a server ([`Prove`]).
//!
//! Pure, cold machines over message bodies. They draw no randomness of their own and never run PBKDF2: that is a
//! [`KeyDerivation`], which the engine has run off the loop and whose result the [`KeyRing`] remembers, as
//! it does what clients have [`Proven`]. Knows no sockets, no
//! users' list, no clock.

mod failures;
mod keyring;
mod md5;
mod prove;
mod proven;
mod saslprep;
mod scram;
mod secrets;
mod terms;
mod verify;

pub use failures::{Attempt, Failures, Source};
pub use keyring::{KeyDerivation, KeyRing, SaltedPassword};
pub use prove::{Credentials, Prove};
pub use proven::Proven;
pub use secrets::{Found, Secrets};
pub use terms::{Channel, Terms};
pub use verify::{Demand, Verify};

/// What a step of a proof leads to.
#[derive(Debug)]
pub enum Progress<S> {
    /// Wait for the peer's next message.
    Next(S),
    /// Have this derived and come back with `derived`.
    Derive(S, KeyDerivation),
    /// The proof is complete.
    Done,
}

/// Whether two byte strings are equal, in a time that tells nothing but their lengths.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && std::hint::black_box(
            a.iter()
                .zip(b)
                .fold(0, |differing, (a, b)| differing | (a ^ b)),
        ) == 0
}

#[cfg(test)]
mod tests;
