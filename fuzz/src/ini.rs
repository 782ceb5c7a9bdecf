//! `pgbouncer.ini`: any text is a configuration or a list of errors that can be read, no secret shows in either, and what it is
//! converted to means the same.

use std::path::Path;

use aether::config::{self, Config, ConfigError, Outside, ini, pgbouncer, schema};

/// The secret in every file.
const MARKER: &str = "hunter2hunter2";

struct World;

impl Outside for World {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        match path.to_str() {
            Some("/cwd/users") => Ok(format!("\"u\" \"{MARKER}\"\n\"me\" \"\"\n").into_bytes()),
            Some("/cwd/broken") => Ok(format!("\"u\" {MARKER}\n").into_bytes()),
            Some("/cwd/hba") => Ok(b"local all all peer\nhost all all all md5\n".to_vec()),
            Some("/cwd/more.ini") => Ok(b"[databases]\nm = host=m user=u password=p\n".to_vec()),
            Some("/cwd/loop.ini") => Ok(b"%include loop.ini\nbroken\n".to_vec()),
            Some("/etc/hosts") => Ok(b"127.0.0.1 localhost here\n".to_vec()),
            _ => Err("No such file".to_owned()),
        }
    }
}

fn read(text: &str) -> Result<Config, Vec<ConfigError>> {
    pgbouncer::read(text, Path::new("p.ini"), Path::new("/cwd"), &World)
}

/// The property.
pub fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = ini::is_ini(text);
    if let Ok(pairs) = ini::pairs(text) {
        assert!(
            pairs
                .iter()
                .all(|(key, value)| !key.is_empty() && !value.is_empty())
        );
    }
    let may_tell = text.contains(MARKER);
    match read(text) {
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in &errors {
                let line = error.to_string();
                assert!(!line.contains(char::is_control), "one line: {error:?}");
                assert!(may_tell || !line.contains(MARKER), "{line}");
            }
        }
        Ok(config) => {
            let shown = config::effective(&config);
            assert!(may_tell || !shown.contains(MARKER), "{shown}");
            let broken = |line: &String| line.contains(char::is_control);
            assert!(!config.warnings.iter().any(broken), "{:?}", config.warnings);
            let yaml = pgbouncer::convert(text, Path::new("p.ini"), Path::new("/cwd"), &World);
            let yaml = yaml.expect("it was read");
            let again = schema::read(&yaml, Path::new("/cwd/aether.yaml"), &World);
            let again = again.unwrap_or_else(|errors| panic!("{errors:?}\n{yaml}"));
            assert_eq!(config::effective(&again), shown);
            let passwords = |config: &Config| -> Vec<_> {
                let pools = config.databases.values().chain(&config.fallback);
                pools.map(|pool| pool.backend.password.clone()).collect()
            };
            assert_eq!(passwords(&again), passwords(&config));
            assert_eq!(again.auth.users, config.auth.users);
        }
    }
}
