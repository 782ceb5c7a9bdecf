//! What an operator changes while the process runs, on top of what the configuration was written as: until it is read again.
//!
//! A change is made in what was written, and all of it is validated anew: what is wrong as a whole is not taken over in parts.

use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::files::{System, is_ini, text_of, working_directory};
use super::yaml::{ConfigError, Node, Outside, document};
use super::{Config, pgbouncer, schema};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key, as the file calls it (`pool.max_connections`), or as PgBouncer does (`query_wait_timeout`), and its value.
    Set(String, String),
    /// A database, and where it is: a DSN, or nothing of its own.
    Add(String, String),
    /// A database that is there no more.
    Drop(String),
}

/// A configuration as it was written. Its text, with the secrets in it, is not kept; only what it was is known.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    digest: [u8; SHA256_OUTPUT_LEN],
}

impl Source {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> Result<Source, Vec<ConfigError>> {
        let digest = digest_of(&text_of(path)?);
        let path = path.to_owned();
        Ok(Source { path, digest })
    }

    /// The configuration that it is, with these changes. Files that it names are read again.
    ///
    /// # Errors
    /// Everything that is wrong; at least one thing. That the file is another than it was, too.
    pub fn load(&self, changes: &[Change]) -> Result<Config, Vec<ConfigError>> {
        let text = text_of(&self.path)?;
        if digest_of(&text) != self.digest {
            let key = self.path.display().to_string();
            let text = "has changed since it was read; RELOAD it first (RELOAD DRY RUN tells what that would do)";
            return Err(vec![error(&key, text)]);
        }
        self.load_in(&text, changes, &working_directory(), &System)
    }

    fn load_in(
        &self,
        text: &str,
        changes: &[Change],
        directory: &Path,
        outside: &dyn Outside,
    ) -> Result<Config, Vec<ConfigError>> {
        changed((&self.path, text), changes, directory, outside)
    }
}

/// The configuration that a file with this text is, with these changes. `directory`: from where relative names count in an ini.
///
/// # Errors
/// Everything that is wrong; at least one thing.
pub fn changed(
    (path, text): (&Path, &str),
    changes: &[Change],
    directory: &Path,
    outside: &dyn Outside,
) -> Result<Config, Vec<ConfigError>> {
    let mut config = if is_ini(path, text) {
        let text = in_ini(text, changes).map_err(|error| vec![error])?;
        pgbouncer::read(&text, path, directory, outside)?
    } else {
        let change = |root: &mut Node| changes.iter().try_for_each(|change| in_yaml(root, change));
        schema::read_changed(text, path, outside, change)?
    };
    for change in changes {
        if let Change::Drop(name) = change
            && !added_later(changes, change, name)
            && config.databases.remove(name).is_none()
        {
            return Err(vec![error(name, "there is no such database")]);
        }
    }
    Ok(config)
}

/// Of the text and one block of nothing: what does not fill a block is held on the stack, and would stay there with a secret in it.
fn digest_of(text: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut context = Context::new(&SHA256);
    context.update(text.as_bytes());
    context.update(&[0; 64]);
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// Whether a database that was dropped was added again behind that.
fn added_later(changes: &[Change], dropped: &Change, name: &str) -> bool {
    let place = changes.iter().rposition(|change| change == dropped);
    let behind = changes.get(place.unwrap_or(0)..).unwrap_or_default();
    behind
        .iter()
        .any(|change| matches!(change, Change::Add(added, _) if added == name))
}

fn error(key: &str, text: impl Into<String>) -> ConfigError {
    ConfigError {
        file: "console".to_owned(),
        line: None,
        key: key.to_owned(),
        text: text.into(),
    }
}

fn in_yaml(root: &mut Node, change: &Change) -> Result<(), ConfigError> {
    match change {
        Change::Set(key, value) => {
            let known = pgbouncer::own_key(key, value);
            let (key, value) = match &known {
                Some((key, value)) => (key.as_str(), value.as_str()),
                None => (key.as_str(), value.as_str()),
            };
            let path: Vec<&str> = key.split('.').collect();
            if path.len() < 2 {
                let text =
                    "no such key; the keys are those of SHOW CONFIG, such as pool.max_connections";
                return Err(error(key, text));
            }
            root.put(&path, value_of(value));
        }
        Change::Add(name, at) => {
            let entry = match at.trim() {
                "" => Node::Map(Vec::new()),
                at if at.starts_with('{') => value_of(at),
                at => Node::Map(vec![("dsn".to_owned(), Node::Text(at.to_owned()))]),
            };
            root.put(&["databases", name], entry);
        }
        Change::Drop(_) => {}
    }
    Ok(())
}

/// A value as it would be written in the file.
fn value_of(text: &str) -> Node {
    match document(text, "") {
        Ok(Node::Map(_)) | Err(_) if !text.trim_start().starts_with('{') => {
            Node::Text(text.to_owned())
        }
        Ok(node) => node,
        Err(_) => Node::Text(text.to_owned()),
    }
}

/// What comes later in an ini wins.
fn in_ini(text: &str, changes: &[Change]) -> Result<String, ConfigError> {
    let mut text = text.to_owned();
    for change in changes {
        let (section, key, value) = match change {
            Change::Set(key, value) => ("pgbouncer", key, value),
            Change::Add(name, at) => ("databases", name, at),
            Change::Drop(_) => continue,
        };
        let is_word = |c: char| c.is_ascii_alphanumeric() || "_-*".contains(c);
        if !key.chars().all(is_word) || value.contains(['\n', '\r']) {
            return Err(error(key, "cannot be written in a pgbouncer.ini"));
        }
        text.push_str(&format!("\n[{section}]\n{key} = {value}\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Outside for Nothing {
        fn variable(&self, _: &str) -> Option<String> {
            None
        }
        fn file(&self, _: &Path) -> Result<Vec<u8>, String> {
            Err("no files here".to_owned())
        }
    }

    fn load(path: &str, text: &str, changes: &[Change]) -> Result<Config, Vec<ConfigError>> {
        let source = Source {
            path: path.into(),
            digest: digest_of(text),
        };
        source.load_in(text, changes, Path::new("/"), &Nothing)
    }

    fn set(key: &str, value: &str) -> Change {
        Change::Set(key.to_owned(), value.to_owned())
    }

    const YAML: &str = "pool: {dsn: 'postgres://u:p@127.0.0.1/db', max_connections: 5}\ndatabases: {shop: {max_connections: 3}}\n";
    const INI: &str = "[databases]\nshop = host=127.0.0.1 user=u password=p\n[pgbouncer]\nlisten_addr = 127.0.0.1\nauth_type = trust\n";

    #[test]
    fn a_change_is_as_if_it_had_been_written() {
        let changes = [
            set("pool.max_connections", "7"),
            set("databases.shop.mode", "transaction"),
            set("query_wait_timeout", "9"),
            set("server.max_client_connections", "70"),
            Change::Add("new".to_owned(), "postgres://u:p@127.0.0.2/x".to_owned()),
            Change::Drop("db".to_owned()),
        ];
        let config = load("aether.yaml", YAML, &changes).expect("valid");
        assert_eq!(config.pool.max_connections, 7);
        let shop = &config.databases["shop"];
        assert_eq!(shop.mode.as_str(), "transaction");
        assert_eq!(shop.acquire_timeout.as_secs(), 9);
        assert_eq!(shop.max_connections, 3, "its own");
        assert_eq!(config.server.max_client_connections, 70);
        assert_eq!(
            config.databases["new"].backend.database.as_deref(),
            Some("x")
        );
        assert!(!config.databases.contains_key("db"));
    }

    #[test]
    fn in_an_ini_what_comes_later_wins() {
        let changes = [
            set("max_client_conn", "77"),
            set("query_wait_timeout", "9"),
            Change::Add("new".to_owned(), "host=127.0.0.2".to_owned()),
        ];
        let config = load("pgbouncer.ini", INI, &changes).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(config.server.max_client_connections, 77);
        assert_eq!(config.databases["new"].acquire_timeout.as_secs(), 9);
    }

    #[test]
    fn what_is_wrong_changes_nothing_and_is_named() {
        for (change, word) in [
            (set("pool.max_connections", "many"), "max_connections"),
            (set("pool.max_conections", "7"), "max_connections"),
            (set("max_conections", "7"), "SHOW CONFIG"),
            (set("nonsense.key", "7"), "nonsense"),
            (Change::Drop("nobody".to_owned()), "no such database"),
            (
                Change::Add("x".to_owned(), "postgres://:::".to_owned()),
                "dsn",
            ),
        ] {
            let errors = load("aether.yaml", YAML, std::slice::from_ref(&change));
            let errors = errors.map(|_| ()).expect_err("it is wrong");
            let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let text = text.join("; ");
            assert!(text.contains(word), "{change:?}: {text}");
        }
        let wrong = load(
            "pgbouncer.ini",
            INI,
            &[set("max_client_conn", "x\nadmin_users = me")],
        );
        assert!(wrong.is_err());
    }
}
