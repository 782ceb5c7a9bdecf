//! The one door from the configuration to the file system and the environment: [`load`]. Knows no key.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::yaml::{ConfigError, Outside};
use super::{Config, ini, pgbouncer, schema};

/// Largest file that is read as configuration, userlist or password.
const FILE_MAX: u64 = 16 << 20;

/// The process's own environment and files.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Outside for System {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
        let read = file.take(FILE_MAX + 1).read_to_end(&mut bytes);
        match read {
            Ok(count) if count as u64 > FILE_MAX => Err("larger than 16 MB".to_owned()),
            Ok(_) => Ok(bytes),
            Err(error) => Err(error.to_string()),
        }
    }

    fn is_open_to_others(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|file| {
            let forbidden = if file.uid() == 0 { 0o037 } else { 0o077 };
            file.mode() & forbidden != 0
        })
    }

    fn unix_time(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0))
    }

    fn exists(&self, path: &Path) -> bool {
        path.try_exists().unwrap_or(true)
    }

    fn directory(&self, path: &Path) -> Result<Vec<String>, String> {
        let entries = std::fs::read_dir(path).map_err(|error| error.to_string())?;
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.map_err(|error| error.to_string())?.file_name();
            Ok(name.to_string_lossy().into_owned())
        };
        entries.map(name).collect()
    }
}

/// Reads the configuration at `path`, and the files it names: an `aether.yaml`, where they count from its own directory, or a
/// `pgbouncer.ini`, where they count from the working directory.
///
/// # Errors
/// Everything that is wrong, in the order of the file; at least one.
pub fn load(path: &Path) -> Result<Config, Vec<ConfigError>> {
    let text = text_of(path)?;
    if is_ini(path, &text) {
        pgbouncer::read(&text, path, &working_directory(), &System)
    } else {
        schema::read(&text, path, &System)
    }
}

/// The `pgbouncer.ini` at `path` as an `aether.yaml`; the secrets in it are not masked.
///
/// # Errors
/// As [`load`]; and where the file is no ini.
pub fn convert(path: &Path) -> Result<String, Vec<ConfigError>> {
    let text = text_of(path)?;
    if !is_ini(path, &text) {
        return Err(whole(
            path,
            "is no pgbouncer.ini, so there is nothing to convert",
        ));
    }
    pgbouncer::convert(&text, path, &working_directory(), &System)
}

pub(super) fn is_ini(path: &Path, text: &str) -> bool {
    path.extension().is_some_and(|end| end == "ini") || ini::is_ini(text)
}

pub(super) fn working_directory() -> PathBuf {
    std::env::current_dir().unwrap_or_default()
}

pub(super) fn text_of(path: &Path) -> Result<String, Vec<ConfigError>> {
    let bytes = System
        .file(path)
        .map_err(|error| whole(path, &format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|_| whole(path, "not UTF-8"))
}

/// One error about all of a file.
fn whole(path: &Path, text: &str) -> Vec<ConfigError> {
    vec![ConfigError {
        file: path.display().to_string(),
        line: None,
        key: String::new(),
        text: text.to_owned(),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_one_error_with_its_name() {
        let errors = load(Path::new("/nonexistent/aether.yaml")).unwrap_err();
        assert_eq!(errors.len(), 1);
        let line = errors[0].to_string();
        assert!(
            line.starts_with("/nonexistent/aether.yaml: cannot be read: No such file"),
            "{line}"
        );
    }

    #[test]
    fn files_are_found_beside_the_configuration() {
        let directory = std::env::temp_dir().join(format!("aether-config-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("users.txt"), "\"u\" \"s\"\n").unwrap();
        let yaml = directory.join("aether.yaml");
        std::fs::write(
            &yaml,
            "pool: {dsn: 'postgres://h/d'}\nauth: {users_file: users.txt}\n",
        )
        .unwrap();
        let config = load(&yaml);
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(config.unwrap().auth.users.contains_key("u"));
    }
}
