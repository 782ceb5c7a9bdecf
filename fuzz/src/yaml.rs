//! `aether.yaml`: any text is a configuration or a list of errors that can be read, no secret shows in either, and what is
//! shown as in force can be read back and means the same.

use std::path::Path;

use aether::config::{self, Config, ConfigError, Outside, schema, units};

/// The secret in every variable and file.
const MARKER: &str = "hunter2hunter2";

struct World;

impl Outside for World {
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "PW" => Some(MARKER.to_owned()),
            "DSN" => Some(format!("postgres://u:{MARKER}@h/d")),
            _ => None,
        }
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        match path.to_str() {
            Some("/etc/aether/pw") => Ok(format!("{MARKER}\n").into_bytes()),
            Some("/etc/aether/users") => {
                Ok(format!("\"u\" \"{MARKER}\"\n\"me\" \"\"\n").into_bytes())
            }
            Some("/etc/aether/broken") => Ok(format!("\"u\" {MARKER}\n").into_bytes()),
            _ => Err("No such file".to_owned()),
        }
    }
}

fn read(text: &str) -> Result<Config, Vec<ConfigError>> {
    schema::read(text, Path::new("/etc/aether/aether.yaml"), &World)
}

/// The property.
pub fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    units_are_read_back(text);
    // Where a text of its own is put together with a variable, what comes out may be anything, a user's name too.
    let may_tell = text.contains(MARKER) || text.contains("postgres");
    match read(text) {
        Err(errors) => {
            check_errors(&errors, text);
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert!(may_tell || !lines.concat().contains(MARKER), "{lines:?}");
        }
        Ok(config) => {
            let shown = config::effective(&config);
            assert!(may_tell || !shown.contains(MARKER), "{shown}");
            assert!(
                may_tell || !config.warnings.concat().contains(MARKER),
                "{:?}",
                config.warnings
            );
            let broken = |line: &String| line.contains(char::is_control);
            assert!(
                !config.warnings.iter().any(broken),
                "one line each: {:?}",
                config.warnings
            );
            let again = read(&shown).unwrap_or_else(|errors| panic!("{errors:?}\n{shown}"));
            assert_eq!(config::effective(&again), shown);
            means_the_same(&config, &again);
        }
    }
}

fn check_errors(errors: &[ConfigError], text: &str) {
    assert!(!errors.is_empty() && errors.len() <= 50);
    assert!(errors.is_sorted_by_key(|error| error.line));
    let lines = text
        .split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
        .count();
    for error in errors {
        assert!(
            error
                .line
                .is_none_or(|line| (1..=lines + 1).contains(&line)),
            "{error:?}"
        );
        assert!(
            !error.to_string().chars().any(char::is_control),
            "one line: {error:?}"
        );
    }
}

/// All but the secrets, and what only the shown one names.
fn means_the_same(config: &Config, again: &Config) {
    assert_eq!(again.server, config.server);
    assert_eq!(again.admin, config.admin);
    assert_eq!(
        (
            &again.auth.rules,
            again.auth.anyone,
            again.auth.scram_iterations
        ),
        (
            &config.auth.rules,
            config.auth.anyone,
            config.auth.scram_iterations
        )
    );
    assert!(again.auth.users.keys().eq(config.auth.users.keys()));
    let pools = |config: &Config| {
        let named = config
            .databases
            .iter()
            .map(|(name, pool)| (name.clone(), pool));
        let mut pools: Vec<_> = named.map(|(name, pool)| (name, (**pool).clone())).collect();
        pools.extend(
            config
                .fallback
                .as_ref()
                .map(|pool| ("*".to_owned(), (**pool).clone())),
        );
        for (_, pool) in &mut pools {
            pool.backend.password = None;
        }
        pools
    };
    assert_eq!(pools(again), pools(config));
}

fn units_are_read_back(text: &str) {
    if let Ok(duration) = units::duration(text) {
        assert!(duration <= units::DURATION_MAX);
        assert_eq!(
            units::duration(&units::show_duration(duration)),
            Ok(duration)
        );
    }
    let _ = units::size(text);
}
