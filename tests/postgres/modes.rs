//! The pool modes in which the tests of batches and of chaos run.

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

/// The modes to run in: `on`, or those of `AETHER_MODES=session,transaction`.
pub fn modes(on: &[Mode]) -> Vec<Mode> {
    let Ok(asked) = std::env::var("AETHER_MODES") else {
        return on.to_vec();
    };
    let all = [Mode::Session, Mode::Transaction, Mode::Statement];
    let find = |word: &str| all.into_iter().find(|mode| mode.word() == word);
    asked
        .split(',')
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
