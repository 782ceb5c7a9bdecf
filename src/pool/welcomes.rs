//! What clients that share servers are welcomed with: what a pool has learnt of the settings that they came with.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Kind;
use crate::limits;
use crate::relay::{Settings, Vars};

/// What is known of the settings of a client, on servers of a kind.
#[derive(Clone, Debug)]
pub enum Known {
    /// A server is being asked.
    Asking,
    /// It takes them, and reports this then.
    Taken {
        /// What a server of the kind reports without them.
        base: Rc<Vars>,
        /// What it reports with them.
        vars: Rc<Vars>,
    },
    /// They cannot be set on a server that was started without them.
    NotBySet,
}

type Key = (Rc<Kind>, Rc<Settings>);

/// The most recently used ones.
#[derive(Debug, Default)]
pub struct Welcomes {
    known: BTreeMap<Key, (Known, u64)>,
    used: u64,
}

impl Welcomes {
    /// What is known.
    pub fn get(&mut self, kind: &Rc<Kind>, settings: &Rc<Settings>) -> Option<&Known> {
        self.used += 1;
        let (known, used) = self.known.get_mut(&(kind.clone(), settings.clone()))?;
        *used = self.used;
        Some(known)
    }

    /// Whether a server is being asked.
    pub fn is_asking(&self, kind: &Rc<Kind>, settings: &Rc<Settings>) -> bool {
        let known = self.known.get(&(kind.clone(), settings.clone()));
        matches!(known, Some((Known::Asking, _)))
    }

    /// Notes what has become known.
    pub fn note(&mut self, kind: &Rc<Kind>, settings: &Rc<Settings>, known: Known) {
        self.used += 1;
        let key = (kind.clone(), settings.clone());
        self.known.insert(key, (known, self.used));
        if self.known.len() > limits::SETTINGS_MAX {
            let settled = self
                .known
                .iter()
                .filter(|(_, (known, _))| !matches!(known, Known::Asking));
            let oldest = settled.min_by_key(|(_, (_, used))| *used);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.known.remove(&key);
            }
        }
    }

    /// Nobody is asked any more; nothing has become known.
    pub fn give_up(&mut self, kind: &Rc<Kind>, settings: &Rc<Settings>) {
        if self.is_asking(kind, settings) {
            self.known.remove(&(kind.clone(), settings.clone()));
        }
    }

    /// Servers of a kind report this from now on, without any settings: what builds on anything else is forgotten.
    pub fn rebase(&mut self, kind: &Rc<Kind>, base: &Rc<Vars>) {
        self.known.retain(|(of, _), (known, _)| match known {
            Known::Taken { base: old, .. } => of != kind || old == base,
            Known::NotBySet => of != kind,
            Known::Asking => true,
        });
    }

    /// Forgets all that is settled.
    pub fn clear(&mut self) {
        self.known
            .retain(|_, (known, _)| matches!(known, Known::Asking));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Rc<Settings> {
        Rc::new(vec![(
            b"application_name".to_vec(),
            name.as_bytes().to_vec(),
        )])
    }

    fn kind() -> Rc<Kind> {
        Rc::new(Kind {
            user: Vec::new(),
            database: Vec::new(),
            parameters: Vec::new(),
        })
    }

    #[test]
    fn the_least_recently_used_is_forgotten_but_never_what_is_being_asked() {
        let (mut welcomes, kind) = (Welcomes::default(), kind());
        welcomes.note(&kind, &named("asked"), Known::Asking);
        welcomes.note(&kind, &named("first"), Known::NotBySet);
        for n in 0..2 * limits::SETTINGS_MAX {
            welcomes.note(&kind, &named(&n.to_string()), Known::NotBySet);
            assert!(
                welcomes.get(&kind, &named("first")).is_some(),
                "it is in use"
            );
        }
        assert_eq!(welcomes.known.len(), limits::SETTINGS_MAX);
        assert!(welcomes.is_asking(&kind, &named("asked")));
        assert!(welcomes.get(&kind, &named("0")).is_none());
    }

    #[test]
    fn what_builds_on_values_that_servers_report_no_more_is_forgotten() {
        let (mut welcomes, kind) = (Welcomes::default(), kind());
        let (old, mut new) = (Rc::new(Vars::default()), Vars::default());
        assert!(new.report(b"server_version\x0019\0"));
        let known = Known::Taken {
            base: old.clone(),
            vars: old.clone(),
        };
        welcomes.note(&kind, &named("a"), known);
        welcomes.rebase(&kind, &old);
        assert!(welcomes.get(&kind, &named("a")).is_some());
        welcomes.rebase(&kind, &Rc::new(new));
        assert!(welcomes.get(&kind, &named("a")).is_none());
    }
}
