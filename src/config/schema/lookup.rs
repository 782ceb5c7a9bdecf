//! `auth_user`, `auth_query`, `auth_dbname`: who asks a server for the secrets of users, what, and where. The same keys in section
//! `auth` and in every pool, whose own win, as in PgBouncer.

use std::rc::Rc;
use std::time::Duration;

use super::super::yaml::{Field, Place, Problems, Section};
use super::super::{AUTH_QUERY, AuthQuery, CONSOLE_NAMES, Secret};
use super::pool::{Draft, read_password};
use super::{Context, is_name};

/// The keys while they are put together; `None`: not given.
#[derive(Clone, Default)]
pub(super) struct Asks {
    /// The empty name: nobody asks.
    user: Option<(String, Option<Secret>)>,
    sql: Option<String>,
    /// The empty name: the client's own.
    database: Option<(String, Place)>,
}

impl Asks {
    /// Takes over what a section says.
    pub(super) fn overlaid(
        mut self,
        section: &Section<'_>,
        context: Context<'_>,
        problems: &mut Problems,
    ) -> Asks {
        if let Some(field) = section.get("auth_user") {
            self.user = read_user(&field, context, problems).or(self.user);
        }
        if let Some(field) = section.get("auth_query")
            && let Some(sql) = field.text(problems)
        {
            if !sql.contains("$1") {
                problems.add(
                    &field.place,
                    "there is no $1 in it, which stands for the user's name",
                );
            }
            self.sql = Some(sql.to_owned());
        }
        if let Some(field) = section.get("auth_dbname")
            && let Some(name) = field.text(problems)
        {
            self.database = Some((name.to_owned(), field.place));
        }
        self
    }

    /// With what `other` says where nothing is said here.
    pub(super) fn or(self, other: &Asks) -> Asks {
        Asks {
            user: self.user.or_else(|| other.user.clone()),
            sql: self.sql.or_else(|| other.sql.clone()),
            database: self.database.or_else(|| other.database.clone()),
        }
    }

    /// Whether it says who asks.
    pub(super) fn names_user(&self) -> bool {
        self.user.as_ref().is_some_and(|(name, _)| !name.is_empty())
    }

    /// What comes of it; `None`: nobody asks.
    pub(super) fn finished(self) -> Option<Rc<AuthQuery>> {
        let (user, password) = self.user.filter(|(name, _)| !name.is_empty())?;
        let database = self.database.map(|(name, _)| name);
        Some(Rc::new(AuthQuery {
            user,
            password,
            sql: self.sql.unwrap_or_else(|| AUTH_QUERY.to_owned()),
            database: database.filter(|name| !name.is_empty()),
        }))
    }
}

/// `NAME`, or `{name: NAME, password: SECRET}`, or with `password_file`.
fn read_user(
    field: &Field<'_>,
    context: Context<'_>,
    problems: &mut Problems,
) -> Option<(String, Option<Secret>)> {
    let (name, password) = if field.is_section() {
        let section = field.section(&["name", "password", "password_file"], problems);
        let Some(name) = section.get("name") else {
            problems.add(
                &field.place,
                "no name; write {name: NAME, password_file: FILE}",
            );
            return None;
        };
        let password = read_password(&section, context, problems);
        (name.text(problems)?, password)
    } else {
        (field.text(problems)?, None)
    };
    if !name.is_empty() && !is_name(name) {
        problems.add(
            &field.place,
            "not a user name: longer than 127 bytes, or with a zero byte",
        );
    }
    Some((name.to_owned(), password))
}

/// `auth_query_cache`.
pub(super) fn read_cache(
    section: &Section<'_>,
    max: Duration,
    problems: &mut Problems,
) -> Option<Duration> {
    let field = section.get("auth_query_cache")?;
    let cache = field.duration(problems)?;
    if cache > max {
        let text = "longer than 1h: so long a role that was dropped, or has expired, would still be let in";
        problems.add(&field.place, text);
    }
    Some(cache)
}

/// Holds what databases ask, and what section `auth` says for all of them, against the databases there are. Whether any asks.
pub(super) fn check<'a>(
    databases: impl Iterator<Item = (&'a String, &'a Draft)> + Clone,
    fallback: Option<&Draft>,
    asks: &Asks,
    problems: &mut Problems,
) -> bool {
    let drafts = databases.clone().map(|(_, draft)| draft).chain(fallback);
    let all: Vec<Asks> = std::iter::once(asks.clone())
        .chain(drafts.map(|draft| draft.asks.clone().or(asks)))
        .collect();
    let is_there =
        |name: &str| fallback.is_some() || databases.clone().any(|(other, _)| other == name);
    let mut told = Vec::new();
    for asks in &all {
        let Some((name, place)) = asks.database.as_ref().filter(|(name, _)| !name.is_empty())
        else {
            continue;
        };
        let is_listed = databases.clone().any(|(other, _)| other == name);
        let text = if !is_listed && CONSOLE_NAMES.contains(&name.as_str()) {
            format!("{name:?} is the console, where nothing can be asked; name a database")
        } else if !is_there(name) {
            format!("{name:?} is not among the databases")
        } else {
            continue;
        };
        if !told.contains(&(name, place)) {
            problems.add(place, text);
            told.push((name, place));
        }
    }
    all.into_iter().any(|asks| asks.finished().is_some())
}
