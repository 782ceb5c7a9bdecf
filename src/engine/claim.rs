//! What clients say of themselves in their startup packets, kept once for all that say the same, and with it what their pool made of it.
//!
//! Of thousands of clients nearly all come from a few applications, and differ in nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use ring::digest::{SHA256, digest};

use super::PoolKey;
use crate::config::PoolConfig;
use crate::pool::{Kind, Pool};
use crate::relay::Settings;
use crate::wire::frame::{cstr, printable, take_cstr};
use crate::wire::startup::Startup;

/// So many have to share a claim for what was understood of it to be kept when another was shared last: it takes some hundred bytes,
/// and thousands may differ in their `application_name`.
const SHARED_BY: usize = 8;

/// What a startup packet says.
#[derive(Debug)]
pub struct Claim {
    /// The role it logs in as.
    pub user: String,
    /// The database it asked for.
    pub database: String,
    /// Startup parameters as given, without user and database: names and values, a zero byte behind each. In one piece, so that
    /// thousands of them cost no more than the packet that brought them.
    parameters: Box<[u8]>,
    /// Minor version of the protocol.
    pub(super) minor: u32,
    /// What the pool made of it where somebody last came with it, if it is the one that was shared last or [`SHARED_BY`] many.
    understood: RefCell<Option<Box<Understood>>>,
}

/// What a claim asks of servers that are shared: in this pool, as it was configured, and as far as it was known in this epoch.
#[derive(Debug)]
struct Understood {
    pool: PoolKey,
    config: Weak<PoolConfig>,
    epoch: u32,
    kind: Rc<Kind>,
    settings: Rc<Settings>,
}

impl Understood {
    fn is_of(&self, key: PoolKey, pool: &Pool) -> bool {
        let is_as_configured = std::ptr::eq(self.config.as_ptr(), Rc::as_ptr(&pool.config));
        is_as_configured && (self.pool, self.epoch) == (key, pool.epoch)
    }
}

impl PartialEq for Claim {
    fn eq(&self, other: &Claim) -> bool {
        (self.minor, &self.user, &self.database) == (other.minor, &other.user, &other.database)
            && self.parameters == other.parameters
    }
}

impl Eq for Claim {}

impl Claim {
    pub(super) fn new(startup: &Startup<'_>) -> Claim {
        let text = |name: &[u8]| {
            let value = startup.parameter(name).unwrap_or_default();
            String::from_utf8_lossy(value).into_owned()
        };
        let (user, mut database) = (text(b"user"), text(b"database"));
        if database.is_empty() {
            database.clone_from(&user);
        }
        let others = || {
            let all = startup.parameters.iter();
            all.filter(|(name, _)| *name != b"user" && *name != b"database")
        };
        let length = others()
            .map(|(name, value)| name.len() + value.len() + 2)
            .sum();
        let mut parameters = Vec::with_capacity(length);
        for (name, value) in others() {
            cstr(&mut parameters, name);
            cstr(&mut parameters, value);
        }
        Claim {
            user,
            database,
            parameters: parameters.into_boxed_slice(),
            minor: startup.agreed_minor(),
            understood: RefCell::default(),
        }
    }

    /// The kind of server and the settings that it asks for, if that was [noted](Claim::note) and nothing has changed since.
    pub(super) fn understood(&self, key: PoolKey, pool: &Pool) -> Option<(Rc<Kind>, Rc<Settings>)> {
        let understood = self.understood.borrow();
        let understood = understood.as_ref().filter(|of| of.is_of(key, pool))?;
        Some((understood.kind.clone(), understood.settings.clone()))
    }

    /// Notes what it asks for: of the one that was shared last.
    pub(super) fn note(&self, key: PoolKey, pool: &Pool, kind: &Rc<Kind>, settings: &Rc<Settings>) {
        *self.understood.borrow_mut() = Some(Box::new(Understood {
            pool: key,
            config: Rc::downgrade(&pool.config),
            epoch: pool.epoch,
            kind: kind.clone(),
            settings: settings.clone(),
        }));
    }

    /// With where the client is added to its `application_name`, as PgBouncer does it.
    pub(super) fn with_host(mut self, place: &str) -> Claim {
        let names = self.parameters();
        let last = names
            .filter(|(name, _)| *name == b"application_name")
            .last();
        let name = last
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty());
        let name = [name.unwrap_or(b"app"), b" - ", place.as_bytes()].concat();
        let others: Vec<(Vec<u8>, Vec<u8>)> = self
            .parameters()
            .filter(|(name, _)| *name != b"application_name")
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
        let mut parameters = Vec::new();
        for (name, value) in others.iter().chain([&(b"application_name".to_vec(), name)]) {
            cstr(&mut parameters, name);
            cstr(&mut parameters, value);
        }
        self.parameters = parameters.into_boxed_slice();
        self
    }

    /// Startup parameters as given, without user and database.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.parameters[..];
        std::iter::from_fn(move || {
            let (name, after) = take_cstr(rest)?;
            let (value, after) = take_cstr(after)?;
            rest = after;
            Some((name, value))
        })
    }

    /// What it is called; printable. The last one counts, as in PostgreSQL.
    pub(super) fn application_name(&self) -> String {
        let names = self
            .parameters()
            .filter(|(name, _)| *name == b"application_name");
        printable(names.last().map(|(_, value)| value).unwrap_or_default())
    }

    fn digest(&self) -> [u8; 32] {
        let minor = self.minor.to_be_bytes();
        let (user, database) = (self.user.as_bytes(), self.database.as_bytes());
        let parts = [&minor[..], user, b"\0", database, b"\0", &self.parameters];
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, &parts.concat()).as_ref());
        key
    }
}

/// The claims of clients that have logged in.
#[derive(Default)]
pub(super) struct Claims {
    known: BTreeMap<[u8; 32], Weak<Claim>>,
    /// With so many, those that nobody has any more are swept out.
    sweep_at: usize,
    /// The one that was shared last, kept for the next client: as a rule it says the same.
    last: Option<Rc<Claim>>,
}

impl Claims {
    /// The one that others have already who say the same, or else this one.
    pub(super) fn share(&mut self, claim: &Rc<Claim>) -> Rc<Claim> {
        if let Some(last) = self.last.as_ref().filter(|last| *last == claim) {
            return last.clone();
        }
        let known = self.known.entry(claim.digest()).or_default();
        if let Some(known) = known.upgrade() {
            self.replace_last(&known);
            return known;
        }
        *known = Rc::downgrade(claim);
        self.replace_last(claim);
        if self.known.len() > self.sweep_at {
            self.known.retain(|_, claim| claim.strong_count() > 0);
            self.sweep_at = 2 * self.known.len() + 100;
        }
        claim.clone()
    }

    fn replace_last(&mut self, claim: &Rc<Claim>) {
        let old = self.last.replace(claim.clone());
        if let Some(old) = old.filter(|old| Rc::strong_count(old) <= SHARED_BY) {
            old.understood.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(minor: u32, parameters: &[(&str, &str)]) -> Rc<Claim> {
        let parameters = parameters
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        Rc::new(Claim::new(&Startup {
            minor,
            parameters: parameters.collect(),
            extensions: Vec::new(),
        }))
    }

    #[test]
    fn who_says_the_same_shares_it_and_nobody_else() {
        let all = [
            claim(0, &[("user", "a")]),
            claim(2, &[("user", "a")]),
            claim(0, &[("user", "a"), ("database", "b")]),
            claim(0, &[("user", "b"), ("database", "a")]),
            claim(0, &[("user", "a"), ("b", "")]),
            claim(0, &[("user", "a"), ("", "b")]),
        ];
        let mut claims = Claims::default();
        for claim in &all {
            assert!(Rc::ptr_eq(&claims.share(claim), claim), "{claim:?} is new");
        }
        let again = claim(0, &[("database", "a"), ("user", "a")]);
        assert!(
            Rc::ptr_eq(&claims.share(&again), &all[0]),
            "the order of the two is not kept"
        );
    }

    #[test]
    fn what_nobody_has_any_more_is_swept_out() {
        let mut claims = Claims::default();
        let kept = claims.share(&claim(0, &[("user", "kept")]));
        for n in 0..10_000 {
            claims.share(&claim(0, &[("user", &n.to_string())]));
        }
        assert!(claims.known.len() < 200, "{}", claims.known.len());
        assert!(Rc::ptr_eq(
            &claims.share(&claim(0, &[("user", "kept")])),
            &kept
        ));
    }

    #[test]
    fn the_last_application_name_counts() {
        let twice = [("application_name", "a"), ("application_name", "b\n")];
        assert_eq!(claim(0, &twice).application_name(), printable(b"b\n"));
        assert_eq!(claim(0, &[]).application_name(), "");
    }
}
