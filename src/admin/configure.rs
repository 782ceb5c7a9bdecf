//! RELOAD, RELOAD DRY RUN, SET, ADD DATABASE and DROP DATABASE: what changes the configuration, and what it would change.
//!
//! Reads no files: whoever runs the console does, as a [`Steward`]. What comes of it is taken over by the engine as any reload is.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::command::{Call, Does, is_ignored};
use super::control::wrong;
use super::table::{Column, Short, Value};
use super::words::Word;
use crate::config::{self, Change, Config, ConfigError, pgbouncer};
use crate::engine::{Engine, Event};
use crate::wire::backend::TEXT;
use crate::wire::refusal::{self, Refusal};

/// What the console asks of the process around it: the configuration, checked as a whole.
pub trait Steward {
    /// Reads it again, to be taken over; what was changed since it was read last is forgotten.
    ///
    /// # Errors
    /// Everything that is wrong; then nothing has happened.
    fn reload(&mut self) -> Result<Config, Vec<ConfigError>>;
    /// Reads it, to be looked at only.
    ///
    /// # Errors
    /// Everything that is wrong.
    fn look(&mut self) -> Result<Config, Vec<ConfigError>>;
    /// Makes one more change in it, to be taken over. `accepts`: whether what comes of it is as it was meant.
    ///
    /// # Errors
    /// Everything that is wrong; then nothing has happened.
    fn change(
        &mut self,
        change: Change,
        accepts: &dyn Fn(&Config) -> Result<(), Refusal>,
    ) -> Result<Config, Changed>;
}

/// Why a change was not made.
#[derive(Debug)]
pub enum Changed {
    /// The configuration would be wrong.
    Wrong(Vec<ConfigError>),
    /// It would be right, and is not what was meant.
    Unwanted(Refusal),
}

/// What a dry run tells.
pub(super) const DRY_RUN: &[Column] = &[
    ("key", TEXT),
    ("now", TEXT),
    ("then", TEXT),
    ("effect", TEXT),
];

/// Keys that only a restart changes.
const FIXED: [&str; 9] = [
    "auth.mock_secret",
    "metrics.listen_addr",
    "server.listen_addr",
    "server.pidfile",
    "server.so_reuseport",
    "server.unix_socket_dir",
    "server.unix_socket_group",
    "server.unix_socket_mode",
    "server.user",
];

/// Whether a key, or an option of PgBouncer's, only changes by a restart.
pub(super) fn takes_restart(key: &str) -> bool {
    FIXED.contains(&key) || pgbouncer::takes_restart(key)
}

/// Whether RELOAD is only to tell what it would do.
pub(super) fn is_dry(call: &Call) -> Result<bool, Refusal> {
    match call.rest.as_slice() {
        [] => Ok(false),
        [dry, run] if dry.is("DRY") && run.is("RUN") => Ok(true),
        _ => Err(wrong(call, "bad arguments")),
    }
}

/// Reads the configuration again.
pub(super) fn reload(steward: &mut dyn Steward, events: &mut Vec<Event>) -> Result<(), Refusal> {
    log::info!("RELOAD command issued");
    let config = steward.reload().map_err(|errors| {
        events.push(Event::ReloadFailed);
        Refusal::error(b"F0000", "RELOAD failed, see logs for additional details")
            .detail(told(&errors))
    })?;
    events.push(Event::Reload(Rc::new(config)));
    Ok(())
}

/// What a reload would change.
pub(super) fn dry_run(engine: &Engine, steward: &mut dyn Steward) -> Result<Short, Refusal> {
    let new = steward
        .look()
        .map_err(|errors| Refusal::error(b"F0000", "RELOAD would fail").detail(told(&errors)))?;
    let rows = differences(engine.config(), &new);
    let row = |row: [String; 4]| row.map(Value::Text).to_vec();
    Ok(Short {
        columns: DRY_RUN,
        rows: rows.into_iter().map(row).collect(),
    })
}

fn told(errors: &[ConfigError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Key, value now, value then, and what that does.
fn differences(old: &Config, new: &Config) -> Vec<[String; 4]> {
    let (now, then): (BTreeMap<String, String>, BTreeMap<String, String>) = (
        config::keys(old).into_iter().collect(),
        config::keys(new).into_iter().collect(),
    );
    let mut rows = Vec::new();
    // Databases that come and go are one row each.
    let names: BTreeSet<&String> = old.databases.keys().chain(new.databases.keys()).collect();
    let mut whole = Vec::new();
    for name in names {
        let effect = match (old.databases.get(name), new.databases.get(name)) {
            (None, _) => "added",
            (_, None) => "removed: no new clients; sessions end by themselves",
            (Some(old), Some(new)) if old.backend != new.backend => {
                let shown = |(key, value): (&String, &String)| {
                    key.starts_with(&format!("databases.{name}.backend."))
                        && then.get(key) != Some(value)
                };
                // Passwords are not shown.
                if !now.iter().any(shown) {
                    let key = format!("databases.{name}.backend.password");
                    rows.push([key, "****".into(), "****".into(), RECYCLED.into()]);
                }
                continue;
            }
            _ => continue,
        };
        let (was, is) = match effect {
            "added" => ("", "there"),
            _ => ("there", ""),
        };
        rows.push([
            format!("databases.{name}"),
            was.into(),
            is.into(),
            effect.into(),
        ]);
        whole.push(format!("databases.{name}."));
    }
    for (name, secret) in &new.auth.users {
        if old.auth.users.get(name).is_some_and(|old| old != secret) {
            let key = format!("auth.users.{name}");
            let effect = "at once, for who logs in from then on";
            rows.push([key, "****".into(), "****".into(), effect.into()]);
        }
    }
    let keys: BTreeSet<&String> = now.keys().chain(then.keys()).collect();
    for key in keys {
        let (old, new) = (now.get(key), then.get(key));
        if old == new || whole.iter().any(|prefix| key.starts_with(prefix)) {
            continue;
        }
        let effect = if takes_restart(key) {
            "takes a restart"
        } else if key.starts_with("databases.") && key.contains(".backend.") {
            RECYCLED
        } else {
            "at once"
        };
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        rows.push([key.clone(), text(old), text(new), effect.into()]);
    }
    rows.sort();
    rows
}

const RESTART: &str = "Write it into the configuration and restart.";

fn unchanged(key: &str) -> String {
    format!("{key} cannot be changed while the process runs")
}

const RECYCLED: &str = "its servers are closed, busy ones when they are released";

/// Changes a key, or a database. What is to be said besides the tag.
pub(super) fn change(
    engine: &Engine,
    call: &Call,
    steward: &mut dyn Steward,
    events: &mut Vec<Event>,
) -> Result<Option<Vec<u8>>, Refusal> {
    let (change, key) = match call.does {
        Does::Set if is_ignored(&call.rest) => {
            let mut out = Vec::new();
            refusal::notice(&mut out, "SET ignored", None);
            return Ok(Some(out));
        }
        Does::Set => match set(call)? {
            // As PgBouncer, whatever the value: scripts that set them go on. That nothing comes of it is told.
            (Change::Set(key, _), _) if pgbouncer::takes_restart(&key) => {
                log::info!("SET {key} command issued");
                let mut out = Vec::new();
                refusal::notice(&mut out, &unchanged(&key), Some(RESTART));
                return Ok(Some(out));
            }
            set => set,
        },
        Does::AddDatabase => add(engine, call)?,
        _ => drop_database(engine, call)?,
    };
    log::info!("{} {key} command issued", call.spec.name);
    let before = engine.config().clone();
    let dropped = match &change {
        Change::Drop(name) => Some(name.clone()),
        _ => None,
    };
    let accepts = move |new: &Config| {
        let is_kept =
            |name: &&String| new.databases.contains_key(*name) || Some(*name) == dropped.as_ref();
        let lost = before.databases.keys().find(|name| !is_kept(name));
        match lost {
            None => Ok(()),
            Some(name) => Err(Refusal::error(
                b"55000",
                format!("database \"{name}\" would be gone with that"),
            )),
        }
    };
    let failed = |errors: Vec<ConfigError>| {
        let text = match call.does {
            Does::Set => "SET failed".to_owned(),
            _ => format!("{} failed", call.spec.name),
        };
        let found: Vec<String> = errors
            .iter()
            .map(|error| format!("{}: {}", error.key, error.text))
            .collect();
        Refusal::error(b"22023", text).detail(found.join("\n"))
    };
    match steward.change(change, &accepts) {
        Ok(config) => events.push(Event::Reload(Rc::new(config))),
        Err(Changed::Wrong(errors)) => return Err(failed(errors)),
        Err(Changed::Unwanted(refusal)) => return Err(refusal),
    }
    Ok(None)
}

fn set(call: &Call) -> Result<(Change, String), Refusal> {
    let (key, value) = match call.rest.as_slice() {
        [key, Word::Sign("="), value] => (key.name(), value.name()),
        [key, to, value] if to.is("TO") => (key.name(), value.name()),
        _ => (None, None),
    };
    let (Some(key), Some(value)) = (key, value) else {
        return Err(wrong(call, "bad arguments"));
    };
    if FIXED.contains(&key) {
        return Err(Refusal::error(b"55P02", unchanged(key)).hint(RESTART));
    }
    Ok((
        Change::Set(key.to_owned(), value.to_owned()),
        key.to_owned(),
    ))
}

fn add(engine: &Engine, call: &Call) -> Result<(Change, String), Refusal> {
    let (name, at) = match call.rest.as_slice() {
        [name] => (name.name(), ""),
        [name, at] => (name.name(), at.name().unwrap_or_default()),
        _ => (None, ""),
    };
    let name = name.ok_or_else(|| wrong(call, "bad arguments"))?;
    if engine.config().databases.contains_key(name) {
        let text = format!("database \"{name}\" is there already");
        return Err(Refusal::error(b"42P04", text));
    }
    Ok((Change::Add(name.to_owned(), at.to_owned()), name.to_owned()))
}

fn drop_database(engine: &Engine, call: &Call) -> Result<(Change, String), Refusal> {
    let name = match call.rest.as_slice() {
        [name] => name.name(),
        _ => None,
    };
    let name = name.ok_or_else(|| wrong(call, "bad arguments"))?;
    if !engine.config().databases.contains_key(name) {
        return Err(super::control::unknown(engine, name));
    }
    Ok((Change::Drop(name.to_owned()), name.to_owned()))
}
