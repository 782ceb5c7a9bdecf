//! The pool modes in which the tests of batches and of chaos run. A mode is switched on by adding its word to [`ON`].

/// The modes that Aether has. `AETHER_MODES=session,transaction` takes others instead.
const ON: &[&str] = &["session"];

/// A value of the key `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Session,
    Transaction,
    Statement,
}

impl Mode {
    /// How the configuration spells it.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Session => "session",
            Mode::Transaction => "transaction",
            Mode::Statement => "statement",
        }
    }
}

/// The modes to run in.
pub fn modes() -> Vec<Mode> {
    those_of(ON)
}

/// The modes to run in, where all of them are on.
pub fn every_mode() -> Vec<Mode> {
    those_of(&["session", "transaction", "statement"])
}

fn those_of(on: &[&str]) -> Vec<Mode> {
    let asked = std::env::var("AETHER_MODES").ok();
    let words = match &asked {
        Some(text) => text.split(',').collect(),
        None => on.to_vec(),
    };
    let all = [Mode::Session, Mode::Transaction, Mode::Statement];
    let find = |word: &str| all.into_iter().find(|mode| mode.word() == word);
    words
        .into_iter()
        .map(|word| find(word).unwrap_or_else(|| panic!("{word:?} is no mode")))
        .collect()
}

/// A number out of the environment.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a number"))
    })
}
