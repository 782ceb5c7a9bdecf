//! Which user of the system may be which user here: the maps of a `pg_ident.conf`, as PostgreSQL 16 reads it.
//!
//! A line is a map's name, a user of the system and a user of the database. Either user may be a regular expression (`/...`);
//! where the first is one, `\1` in the second is what its first group took. `all` and `+role` stand for more than
//! one user of the database. As in PostgreSQL any line of the map that fits will do.

use std::path::Path;

use super::hba::{Roles, Users};
use super::tokens::{Line, Lines, Pattern};
use super::{ConfigError, Outside};

/// All maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Maps {
    lines: Vec<Mapping>,
    /// The file that they come from.
    pub file: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    map: String,
    system: System,
    users: To,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum System {
    Named(String),
    Matching(Pattern),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    Users(Users),
    /// With what the group took between the two.
    Around(String, String),
}

/// Reads the maps of a file.
///
/// # Errors
/// Everything that is wrong, with file and line; at least one.
pub fn read(path: &Path, roles: &Roles, outside: &dyn Outside) -> Result<Maps, Vec<ConfigError>> {
    let mut lines = Lines::read(path, outside);
    let mut maps = Maps {
        lines: Vec::new(),
        file: Some(path.display().to_string()),
    };
    for line in std::mem::take(&mut lines.lines) {
        match mapping(&line, roles) {
            Ok(mapping) => maps.lines.push(mapping),
            Err(text) => lines.add(line.error(text)),
        }
    }
    if lines.errors.is_empty() {
        Ok(maps)
    } else {
        Err(lines.errors)
    }
}

fn mapping(line: &Line, roles: &Roles) -> Result<Mapping, String> {
    let [map, system, user] = &line.fields[..] else {
        return Err(if line.fields.len() < 3 {
            "missing entry at end of line".to_owned()
        } else {
            "more than a map, a user of the system and a user of the database".to_owned()
        });
    };
    let ([map], [system], [user]) = (&map[..], &system[..], &user[..]) else {
        return Err("multiple values in ident field".to_owned());
    };
    let system = match Pattern::of(system) {
        Some(pattern) => System::Matching(pattern?),
        None => System::Named(system.text.clone()),
    };
    let users = Users::read(user, roles)?;
    let parts = user.text.split_once("\\1");
    let users = match (&system, &users, parts) {
        (System::Matching(pattern), Users::Named(_), Some((before, after))) => {
            if !pattern.has_group() {
                return Err(format!(
                    "the regular expression has no subexpressions as requested by backreference in \"{}\"",
                    user.text
                ));
            }
            To::Around(before.to_owned(), after.to_owned())
        }
        _ => To::Users(users),
    };
    Ok(Mapping {
        map: map.text.clone(),
        system,
        users,
    })
}

impl Maps {
    /// Whether a map of this name has a line.
    pub fn has(&self, map: &str) -> bool {
        self.lines.iter().any(|line| line.map == map)
    }

    /// Whether a user of the system may be a user here. Without a map the two must have the same name.
    pub fn allows(&self, map: Option<&str>, user: &str, system_user: &str, roles: &Roles) -> bool {
        match map {
            None | Some("") => user == system_user,
            Some(map) => self
                .lines
                .iter()
                .any(|line| line.map == map && line.allows(user, system_user, roles)),
        }
    }
}

impl Mapping {
    fn allows(&self, user: &str, system_user: &str, roles: &Roles) -> bool {
        let group = match &self.system {
            System::Named(name) if name == system_user => "",
            System::Named(_) => return false,
            System::Matching(pattern) => match pattern.first_group(system_user) {
                Some(group) => group,
                None => return false,
            },
        };
        match &self.users {
            To::Users(users) => users.take(user, roles),
            // A name, whatever it looks like.
            To::Around(before, after) => user
                .strip_prefix(before.as_str())
                .and_then(|rest| rest.strip_suffix(after.as_str()))
                .is_some_and(|middle| middle == group),
        }
    }
}

#[cfg(test)]
mod tests;
