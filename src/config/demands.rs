//! What a server has to show before it gets anything out of us: libpq's `require_auth` and `channel_binding`.

/// Both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// How it may have us prove ourselves; `None`: in any way, or not at all.
    pub require_auth: Option<RequireAuth>,
    /// Whether SCRAM has to be bound to the TLS connection.
    pub channel_binding: ChannelBinding,
}

/// libpq's `channel_binding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    #[default]
    Prefer,
    /// Nothing without it.
    Require,
}

impl ChannelBinding {
    const ALL: [(&str, ChannelBinding); 3] = [
        ("disable", ChannelBinding::Disable),
        ("prefer", ChannelBinding::Prefer),
        ("require", ChannelBinding::Require),
    ];

    /// Reads the word.
    ///
    /// # Errors
    /// What would be right. The text itself is not repeated: in a broken DSN it may be a piece of a password.
    pub fn parse(text: &str) -> Result<ChannelBinding, String> {
        let found = ChannelBinding::ALL.iter().find(|(word, _)| *word == text);
        found
            .map(|(_, binding)| *binding)
            .ok_or_else(|| "channel_binding: expected one of disable, prefer, require".to_owned())
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        let found = ChannelBinding::ALL.iter().find(|(_, own)| *own == self);
        found.map_or("prefer", |(word, _)| word)
    }
}

/// The method that means that a server asks for nothing.
const NONE: &str = "none";
/// libpq 18's methods. Of gss, sspi and oauth there is none here, whatever is allowed.
const METHODS: [&str; 7] = [
    "password",
    "md5",
    "gss",
    "sspi",
    "scram-sha-256",
    "oauth",
    NONE,
];

/// libpq's `require_auth`, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequireAuth {
    text: String,
    allowed: Vec<&'static str>,
}

impl RequireAuth {
    /// Reads a list of methods by libpq's rules: those that are allowed, or, with `!`, those that are not.
    ///
    /// # Errors
    /// What is wrong. Words that are no methods are not repeated: in a broken DSN they may be pieces of a password.
    pub fn parse(text: &str) -> Result<RequireAuth, String> {
        let negative = text.starts_with('!');
        let mut allowed = if negative {
            METHODS.to_vec()
        } else {
            Vec::new()
        };
        for part in text.split(',') {
            let word = part.strip_prefix('!');
            let method = METHODS
                .into_iter()
                .find(|method| *method == word.unwrap_or(part))
                .ok_or_else(|| {
                    format!(
                        "require_auth: expected a list of {}, each with '!' in front or none",
                        METHODS.join(", ")
                    )
                })?;
            if word.is_some() != negative {
                return Err(match word {
                    Some(_) => format!(
                        "negative require_auth method \"{method}\" cannot be mixed with non-negative methods"
                    ),
                    None => format!(
                        "require_auth method \"{method}\" cannot be mixed with negative methods"
                    ),
                });
            }
            if allowed.contains(&method) != negative {
                return Err(format!(
                    "require_auth method \"{method}\" is specified more than once"
                ));
            }
            match negative {
                true => allowed.retain(|other| *other != method),
                false => allowed.push(method),
            }
        }
        let text = text.to_owned();
        Ok(RequireAuth { text, allowed })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a server may ask for this; the methods are `password`, `md5` and `scram-sha-256`.
    pub fn allows(&self, method: &str) -> bool {
        self.allowed.contains(&method)
    }

    /// Whether a server may let us in without asking for anything.
    pub fn allows_none(&self) -> bool {
        self.allows(NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_methods_mean_what_they_mean_to_libpq() {
        let asked = ["password", "md5", "scram-sha-256", "none"];
        for (text, allowed) in [
            ("scram-sha-256", [false, false, true, false]),
            ("password,md5", [true, true, false, false]),
            ("none", [false, false, false, true]),
            ("scram-sha-256,none", [false, false, true, true]),
            ("!password", [false, true, true, true]),
            ("!password,!md5,!none", [false, false, true, false]),
            ("gss,sspi,oauth", [false; 4]),
            ("!gss", [true; 4]),
        ] {
            let read = RequireAuth::parse(text).expect(text);
            assert_eq!(asked.map(|method| read.allows(method)), allowed, "{text}");
            assert_eq!(read.as_str(), text);
        }
    }

    #[test]
    fn lists_that_libpq_refuses_are_refused_without_words_of_unknown_kind() {
        for (text, says) in [
            ("scram-sha-256,", "expected a list"),
            ("secret", "expected a list"),
            ("md5, password", "expected a list"),
            ("!", "expected a list"),
            ("SCRAM-SHA-256", "expected a list"),
            (
                "md5,!password",
                "negative require_auth method \"password\" cannot be mixed with non-negative methods",
            ),
            (
                "!md5,password",
                "require_auth method \"password\" cannot be mixed with negative methods",
            ),
            (
                "md5,md5",
                "require_auth method \"md5\" is specified more than once",
            ),
            (
                "!none,!none",
                "require_auth method \"none\" is specified more than once",
            ),
        ] {
            let error = RequireAuth::parse(text).expect_err(text);
            assert!(
                error.contains(says) && !error.contains("secret"),
                "{text}: {error}"
            );
        }
        assert!(ChannelBinding::parse("secret").is_err_and(|error| !error.contains("secret")));
    }
}
