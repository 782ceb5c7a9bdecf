//! `pgbouncer.ini`, read into the keys of `aether.yaml` and then by the same schema: one validated [`Config`], whatever it was
//! written in.
//!
//! Owns what PgBouncer's options mean here: the table of all of them ([`options`]), and what the table cannot say alone
//! ([`lower`]). Names and defaults are PgBouncer's, values are checked by the schema, and its messages are told in the words and
//! at the line of the ini. Where PgBouncer does what the schema refuses as unsafe, it is done, with a warning.

mod lower;
mod options;
#[cfg(test)]
mod tests;
mod tree;

use std::path::Path;

use self::lower::{Lowered, lower};
use self::tree::{Origins, Tree};
use super::yaml::{ConfigError, Outside, Place, Spot};
use super::{Config, ini, schema};

/// Reads the text of a `pgbouncer.ini`. Relative names of files, those that are included too, count from `directory`: for PgBouncer
/// that is where it was started.
///
/// # Errors
/// Everything that is wrong, in the order of the files; at least one. No secret is in any of them.
pub fn read(
    text: &str,
    path: &Path,
    directory: &Path,
    outside: &dyn Outside,
) -> Result<Config, Vec<ConfigError>> {
    understood(text, path, directory, outside).map(|(config, _)| config)
}

/// The same configuration as an `aether.yaml`, behind each key what it is from, secrets included.
///
/// # Errors
/// As [`read`].
pub fn convert(
    text: &str,
    path: &Path,
    directory: &Path,
    outside: &dyn Outside,
) -> Result<String, Vec<ConfigError>> {
    let (config, lowered) = understood(text, path, directory, outside)?;
    let mut page = format!(
        "# What {} says, for Aether; written by aether --convert. Behind each key stands what it is from.\n\
         # Keys that are not here have Aether's defaults, see its annotated aether.yaml.\n",
        one_line(&path.display().to_string())
    );
    comment("Without a key of their own:", &lowered.notes, &mut page);
    comment("Of these you should know:", &config.warnings, &mut page);
    page.push('\n');
    let mut yaml = String::new();
    lowered.tree.yaml(&mut yaml);
    page.push_str(&yaml);
    Ok(page)
}

/// What a global option with this value is in `aether.yaml`: path and value. `None`: no single key, or no such option.
pub(super) fn own_key(option: &str, value: &str) -> Option<(String, String)> {
    let row = options::GLOBAL.iter().find(|row| row.name == option)?;
    let options::Fate::Key(path) = row.fate else {
        return None;
    };
    let value = match row.kind {
        options::Kind::Time | options::Kind::Seconds => format!("{}ms", milliseconds(value)?),
        options::Kind::Millis => format!("{value}ms"),
        options::Kind::Bool => (value != "0").to_string(),
        options::Kind::List => {
            let quoted = value.split(',').map(|item| format!("{:?}", item.trim()));
            format!("[{}]", quoted.collect::<Vec<_>>().join(", "))
        }
        options::Kind::Words(words) => {
            let found = words
                .iter()
                .find(|(word, _)| word.eq_ignore_ascii_case(value));
            found.map_or(value, |(_, own)| own).to_owned()
        }
        _ => value.to_owned(),
    };
    Some((path.to_owned(), value))
}

/// Options that PgBouncer reads at its start only, and that count at once here.
const AT_ONCE: [&str; 2] = ["listen_backlog", "disable_pqexec"];

/// Whether this is an option of `[pgbouncer]` that only a restart changes, there and here.
pub fn takes_restart(option: &str) -> bool {
    let row = options::GLOBAL.iter().find(|row| row.name == option);
    row.is_some_and(|row| row.change == options::Change::Restart) && !AT_ONCE.contains(&option)
}

/// Seconds, with a fraction, as whole milliseconds.
fn milliseconds(seconds: &str) -> Option<u64> {
    let seconds: f64 = seconds.trim().parse().ok()?;
    let range = 0.0..=1e12;
    range
        .contains(&seconds)
        .then(|| (seconds * 1000.0).round() as u64)
}

fn comment(head: &str, lines: &[String], page: &mut String) {
    if lines.is_empty() {
        return;
    }
    page.push_str(&format!("#\n# {head}\n"));
    for line in lines {
        page.push_str(&format!("#   {}\n", one_line(line)));
    }
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn understood(
    text: &str,
    path: &Path,
    directory: &Path,
    outside: &dyn Outside,
) -> Result<(Config, Lowered), Vec<ConfigError>> {
    let file = path.display().to_string();
    let read = ini::read(text, &file, directory, outside);
    let mut lowered = lower(&read, &file, directory, outside);
    let mut errors = read.errors;
    errors.append(&mut lowered.errors);
    match config(&lowered.tree, &file, directory, outside) {
        Ok(mut config) if errors.is_empty() => {
            let own = std::mem::take(&mut lowered.warnings);
            config.warnings.splice(0..0, own);
            config.warnings.extend(insecure(&config));
            config.options = std::mem::take(&mut lowered.options);
            Ok((config, lowered))
        }
        Ok(_) => Err(in_order(errors)),
        Err(found) => {
            // What is missing may be what was wrong: only what is written is told as well.
            let told = found
                .into_iter()
                .filter(|(_, error)| errors.is_empty() || error.line.is_some());
            let told: Vec<_> = told.collect();
            errors.extend(told);
            Err(in_order(errors))
        }
    }
}

/// The schema's reading of a tree, its errors with the numbers of their files, and its warnings, in words of the ini.
fn config(
    tree: &Tree,
    file: &str,
    directory: &Path,
    outside: &dyn Outside,
) -> Result<Config, Vec<(usize, ConfigError)>> {
    let origins = tree.origins();
    match schema::read_nodes(&tree.node(), directory, outside) {
        Ok((mut config, mut problems)) => {
            config.warnings = problems.take_warnings(&|place| head(&origins, place));
            Ok(config)
        }
        Err(problems) => {
            let spot = |place: &Place| {
                let origin = origins.of(place);
                let spot = origin.and_then(|origin| origin.spot.as_ref());
                Spot {
                    file: spot.map_or(file.to_owned(), |spot| spot.file.to_string()),
                    line: spot.map(|spot| spot.line),
                    key: origin.map_or(place.key().to_owned(), |origin| origin.option.clone()),
                }
            };
            let errors = problems.into_errors(&spot);
            let number = |error: &ConfigError| origins.number_of(&error.file);
            Err(errors
                .into_iter()
                .map(|error| (number(&error), error))
                .collect())
        }
    }
}

fn head(origins: &Origins<'_>, place: &Place) -> String {
    match origins.of(place).filter(|_| !place.key().is_empty()) {
        Some(origin) => match &origin.spot {
            Some(spot) => format!("{spot}: {}", origin.option),
            None => origin.option.clone(),
        },
        None => place.key().to_owned(),
    }
}

fn in_order(mut errors: Vec<(usize, ConfigError)>) -> Vec<ConfigError> {
    errors.sort_by_key(|(number, error)| (*number, error.line));
    errors.dedup();
    errors.into_iter().map(|(_, error)| error).collect()
}

/// What Aether's own configuration would have to allow by a word of its own.
fn insecure(config: &Config) -> Option<String> {
    let server = &config.server;
    if !server.listen.iter().any(|at| !at.ip().is_loopback()) {
        return None;
    }
    let only_tls = server.only_tls();
    let rule = config
        .auth
        .rules
        .iter()
        .find(|rule| rule.is_insecure(only_tls))?;
    Some(format!(
        "{} on an address that other machines reach: whoever gets there, or listens in between, gets in; listen on 127.0.0.1, or \
         choose scram-sha-256",
        rule.method.as_str()
    ))
}
