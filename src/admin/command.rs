//! The console's commands, as words.

use crate::config::nearest;
use crate::wire::frame::printable;
use crate::wire::refusal::Refusal;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `SHOW POOLS`
    Pools,
    /// `SHOW DATABASES`
    Databases,
    /// `SHOW USERS`
    Users,
    /// `SHOW SERVERS`
    Servers,
    /// `SHOW CLIENTS`
    Clients,
    /// `SHOW STATS`
    Stats,
    /// `SHOW TLS`
    Tls,
    /// `SHOW VERSION`
    Version,
    /// `SHOW HELP`
    Help,
}

/// Every command by its word behind SHOW.
pub(super) const SHOW: [(&str, Command); 9] = [
    ("CLIENTS", Command::Clients),
    ("DATABASES", Command::Databases),
    ("HELP", Command::Help),
    ("POOLS", Command::Pools),
    ("SERVERS", Command::Servers),
    ("STATS", Command::Stats),
    ("TLS", Command::Tls),
    ("USERS", Command::Users),
    ("VERSION", Command::Version),
];

/// Reads a command: words without case, a semicolon at the end if one likes. `None`: nothing but blanks.
pub(super) fn parse(text: &str) -> Result<Option<Command>, Refusal> {
    let words: Vec<String> = text
        .trim()
        .trim_end_matches(';')
        .split_whitespace()
        .map(str::to_ascii_uppercase)
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] => Ok(None),
        ["SHOW"] => Ok(Some(Command::Help)),
        ["SHOW", what] => match SHOW.iter().find(|(word, _)| *word == what) {
            Some((_, command)) => Ok(Some(*command)),
            None => Err(unknown(
                text,
                nearest(what, SHOW.iter().map(|(word, _)| *word)),
            )),
        },
        [what] => {
            let word = SHOW
                .iter()
                .map(|(word, _)| *word)
                .find(|word| *word == what && what != "HELP");
            Err(unknown(text, word))
        }
        _ => Err(unknown(text, None)),
    }
}

fn unknown(text: &str, nearest: Option<&str>) -> Refusal {
    let text = printable(text.trim().as_bytes());
    let refusal = Refusal::error(
        b"42601",
        format!("invalid command '{text}', use SHOW HELP;"),
    );
    match nearest {
        Some(word) => refusal.hint(format!("Did you mean SHOW {word}?")),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_in_any_case_with_or_without_semicolon() {
        assert_eq!(parse(" show  Pools ; "), Ok(Some(Command::Pools)));
        assert_eq!(parse("SHOW STATS"), Ok(Some(Command::Stats)));
        assert_eq!(parse(" ; "), Ok(None));
    }

    #[test]
    fn a_wrong_command_names_the_nearest() {
        let refusal = parse("show pool").expect_err("no such command");
        assert!(String::from_utf8_lossy(&refusal.hint.unwrap_or_default()).contains("SHOW POOLS"));
        let refusal = parse("pools;").expect_err("no such command");
        assert_eq!(
            refusal.hint.as_deref(),
            Some(&b"Did you mean SHOW POOLS?"[..])
        );
        for text in ["select 1", "help"] {
            let refusal = parse(text).expect_err("no such command");
            assert!(refusal.message.ends_with(b"use SHOW HELP;"));
            assert_eq!(refusal.hint, None, "that is said already");
        }
    }
}
