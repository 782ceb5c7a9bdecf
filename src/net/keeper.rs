//! Keeps the configuration while the process runs: reads it again, and changes it for the console.

use super::{Origin, fit_descriptors};
use crate::admin::{Changed, Steward};
use crate::config::{self, Change, Config, ConfigError, Source};
use crate::wire::refusal::Refusal;

/// The configuration as it was read last, and what was changed since.
pub(super) struct Keeper {
    pub(super) origin: Origin,
    /// `None`: it could not be read again.
    source: Option<Source>,
    changes: Vec<Change>,
}

impl Keeper {
    /// The one that is in force was just read.
    pub(super) fn new(origin: Origin) -> Keeper {
        Keeper {
            source: Source::read(&origin.path).ok(),
            origin,
            changes: Vec::new(),
        }
    }

    /// What depends on the machine, and on what was at the start.
    fn fitted(&self, mut new: Config) -> Config {
        fit_descriptors(&mut new);
        let texts = self.origin.takes_restart(&new);
        new.warnings.extend(texts);
        new
    }
}

impl Steward for Keeper {
    fn reload(&mut self) -> Result<Config, Vec<ConfigError>> {
        // Before the load: should the file change in between, it is the next SET that is refused.
        let source = Source::read(&self.origin.path).ok();
        match config::load(&self.origin.path) {
            Ok(new) => {
                let new = self.fitted(new);
                crate::log::apply(&self.origin.log_settings(&new));
                new.warnings
                    .iter()
                    .for_each(|warning| log::warn!("{warning}"));
                self.source = source;
                self.changes.clear();
                Ok(new)
            }
            Err(errors) => {
                errors.iter().for_each(|error| log::error!("{error}"));
                log::error!("the configuration was not reloaded, the old one stays in force");
                Err(errors)
            }
        }
    }

    fn look(&mut self) -> Result<Config, Vec<ConfigError>> {
        config::load(&self.origin.path).map(|new| self.fitted(new))
    }

    fn change(
        &mut self,
        change: Change,
        accepts: &dyn Fn(&Config) -> Result<(), Refusal>,
    ) -> Result<Config, Changed> {
        let source = self.source.as_ref().ok_or_else(|| {
            Changed::Unwanted(Refusal::error(
                b"55000",
                "the configuration cannot be read again",
            ))
        })?;
        let mut changes = self.changes.clone();
        changes.push(change);
        let new = source.load(&changes).map_err(Changed::Wrong)?;
        accepts(&new).map_err(Changed::Unwanted)?;
        let new = self.fitted(new);
        crate::log::apply(&self.origin.log_settings(&new));
        self.changes = changes;
        Ok(new)
    }
}
