//! What must hold for any bytes at all: one property per file, `holds(data)`, which panics where it does not.
//!
//! `fuzz_targets/` looks for bytes that break them, `tests/corpus.rs` of the main crate includes this file and replays every
//! input of `corpus/` and `crashes/` through the same functions. So nothing here may need more crates than the main one
//! has, but for `arbitrary`.

pub mod certificate;
pub mod console;
pub mod dsn;
pub mod fingerprint;
pub mod frame;
pub mod hba;
pub mod http;
pub mod ident;
pub mod ini;
pub mod login;
pub mod refusal;
pub mod relay;
pub mod scram;
pub mod startup;
pub mod userlist;
pub mod yaml;

/// A property: panics if it does not hold for these bytes.
pub type Property = fn(&[u8]);

/// Every property, under the name of its target.
pub const ALL: [(&str, Property); 16] = [
    ("certificate", certificate::holds),
    ("console", console::holds),
    ("dsn", dsn::holds),
    ("fingerprint", fingerprint::holds),
    ("frame", frame::holds),
    ("hba", hba::holds),
    ("http", http::holds),
    ("ident", ident::holds),
    ("ini", ini::holds),
    ("login", login::holds),
    ("refusal", refusal::holds),
    ("relay", relay::holds),
    ("scram", scram::holds),
    ("startup", startup::holds),
    ("userlist", userlist::holds),
    ("yaml", yaml::holds),
];

/// Bytes that look random and are the same in every run.
pub fn random(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut state = seed | 1;
    move |into: &mut [u8]| {
        for byte in into {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
    }
}
