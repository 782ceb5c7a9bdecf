//! What the engine has counted, told to whoever measures: Prometheus, OpenTelemetry, or a person with a browser.
//!
//! The table [`FAMILIES`] names everything that is told, and how it is read off the engine; the names are a contract
//! (`docs/metrics.md`). A [`Scrape`] goes through it in pieces and writes them into a [`Sink`], so that a long answer never
//! holds up the loop. Stands above the engine and beside the console: reads through the engine's public methods and counts
//! nothing itself. [`http`] reads requests; `net` has the sockets.

mod families;
pub mod http;
#[cfg(test)]
mod literals;
pub mod otlp;
mod roles;
mod text;

use crate::arena::PoolKey;
use crate::engine::Engine;
use crate::pool::Pool;
use crate::stats::Histogram;
pub use families::FAMILIES;
use roles::Roles;
pub use text::{Format, Text};

/// A metric with all of its labels.
pub struct Family {
    /// Its name without what its kind adds (`_total` of a counter, `_bucket` and others of a histogram); with its unit.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it is measured in.
    pub unit: Unit,
    /// What it says, in one line.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What the OpenTelemetry conventions call the same; empty where they have no name for it.
    pub otel: &'static str,
    of: Of,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often something took how long, in seconds.
    Histogram,
}

/// What a metric is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    None,
    /// Seconds; held in microseconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// How a family is read.
enum Of {
    /// All of it at once: few values.
    Process(fn(&Sight<'_>, &mut Out<'_>)),
    /// What there is of one pool, whose database is the first label.
    Pool(fn(&Sight<'_>, PoolKey, &Pool, &mut Out<'_>)),
}

/// What takes metrics, one family after the other.
pub trait Sink {
    /// A family begins.
    fn begin(&mut self, family: &Family);
    /// A value of it. `micros`: it is in millionths.
    fn value(&mut self, family: &Family, labels: &[&str], value: i64, micros: bool);
    /// A histogram, and the sum of what it has counted, in microseconds.
    fn histogram(&mut self, family: &Family, labels: &[&str], histogram: &Histogram, sum_us: u64);
    /// The last value of the family was told.
    fn end(&mut self, family: &Family);
    /// Whether enough is in it for the moment.
    fn is_full(&self) -> bool;
}

/// What the kernel knows of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Resident memory in bytes; `None`: it is not known, as below.
    pub resident_bytes: Option<u64>,
    /// Open files.
    pub open_files: Option<u64>,
    /// The limit of open files.
    pub max_files: Option<u64>,
    /// CPU time in microseconds.
    pub cpu_us: Option<u64>,
    /// When the process began, in microseconds since 1970.
    pub started_us: Option<u64>,
    /// Pushes to a collector that were taken, and that failed; `None`: there are none.
    pub pushes: Option<(u64, u64)>,
    /// Log lines that were lost.
    pub log_dropped: u64,
    /// Log lines that were only counted.
    pub log_repeated: u64,
}

/// What a family is read off.
struct Sight<'a> {
    engine: &'a Engine,
    facts: &'a Facts,
    roles: &'a Roles,
}

/// Where values go, with what is the same for all of them.
struct Out<'a> {
    sink: &'a mut dyn Sink,
    family: &'a Family,
    /// The database, if it is about a pool.
    pool: Option<&'a str>,
}

impl Out<'_> {
    fn labelled(&mut self, labels: &[&str], write: impl FnOnce(&mut dyn Sink, &Family, &[&str])) {
        let mut all = [""; 4];
        let given = self.pool.into_iter().chain(labels.iter().copied());
        let mut count = 0;
        for (place, label) in all.iter_mut().zip(given) {
            *place = label;
            count += 1;
        }
        debug_assert_eq!(count, self.family.labels.len(), "{}", self.family.name);
        write(self.sink, self.family, all.get(..count).unwrap_or_default());
    }

    fn count(&mut self, labels: &[&str], count: u64) {
        let value = i64::try_from(count).unwrap_or(i64::MAX);
        self.labelled(labels, |sink, family, labels| {
            sink.value(family, labels, value, false)
        });
    }

    fn number(&mut self, labels: &[&str], count: usize) {
        self.count(labels, count as u64);
    }

    fn micros(&mut self, labels: &[&str], us: u64) {
        let value = i64::try_from(us).unwrap_or(i64::MAX);
        self.labelled(labels, |sink, family, labels| {
            sink.value(family, labels, value, true)
        });
    }

    fn signed(&mut self, labels: &[&str], value: i64) {
        self.labelled(labels, |sink, family, labels| {
            sink.value(family, labels, value, false)
        });
    }

    fn times(&mut self, labels: &[&str], histogram: &Histogram, sum_us: u64) {
        self.labelled(labels, |sink, family, labels| {
            sink.histogram(family, labels, histogram, sum_us)
        });
    }
}

/// The labels of pools, side by side: read off the pools, they would be looked for in as many places for every family.
struct Labels {
    text: String,
    /// In the order of the slots, with the end of each.
    ends: Vec<(PoolKey, usize)>,
}

impl Labels {
    fn of(engine: &Engine) -> Labels {
        let mut text = String::new();
        let told = engine.pools().iter().filter(|(_, pool)| !pool.for_lookups);
        let ends = told
            .map(|(key, pool)| {
                text.push_str(&pool.label());
                (key, text.len())
            })
            .collect();
        Labels { text, ends }
    }

    /// The pool of a place, and its label.
    fn at(&self, place: usize) -> Option<(PoolKey, &str)> {
        let (key, end) = *self.ends.get(place)?;
        let before = place
            .checked_sub(1)
            .and_then(|before| self.ends.get(before));
        let begin = before.map_or(0, |(_, end)| *end);
        Some((key, self.text.get(begin..end)?))
    }
}

/// One going through of all families, in pieces, about the pools that there are at its beginning and still are. A counter of one
/// piece may be a little younger than that of another.
pub struct Scrape {
    family: usize,
    /// The next pool of that family; `None`: it has not begun.
    place: Option<usize>,
    facts: Facts,
    labels: Labels,
    roles: Roles,
}

impl Scrape {
    /// At its beginning. `facts`: what the kernel says then; it takes long to ask.
    pub fn begin(engine: &Engine, facts: Facts) -> Scrape {
        Scrape {
            family: 0,
            place: None,
            facts,
            labels: Labels::of(engine),
            roles: Roles::of(engine),
        }
    }

    /// Goes on until the sink is full. Whether everything was told.
    pub fn go_on(&mut self, engine: &Engine, sink: &mut dyn Sink) -> bool {
        while let Some(family) = FAMILIES.get(self.family) {
            let sight = Sight {
                engine,
                facts: &self.facts,
                roles: &self.roles,
            };
            if self.place.is_none() {
                sink.begin(family);
                self.place = Some(0);
            }
            match family.of {
                Of::Process(read) => read(
                    &sight,
                    &mut Out {
                        sink,
                        family,
                        pool: None,
                    },
                ),
                Of::Pool(read) => {
                    let mut place = self.place.unwrap_or(0);
                    while let Some((key, label)) = self.labels.at(place) {
                        if sink.is_full() {
                            self.place = Some(place);
                            return false;
                        }
                        place += 1;
                        let Some(pool) = engine.pools().get(key) else {
                            continue;
                        };
                        let mut out = Out {
                            sink,
                            family,
                            pool: Some(label),
                        };
                        read(&sight, key, pool, &mut out);
                    }
                }
            }
            sink.end(family);
            self.family += 1;
            self.place = None;
            if sink.is_full() {
                return false;
            }
        }
        true
    }
}

/// Which of the required databases cannot be reached, as far as it is known: no server connection is there, and the last attempt
/// to make one has failed. One that nobody has asked for yet counts as reachable. `None`: Aether takes no clients, it is
/// stopping.
pub fn unreachable(engine: &Engine) -> Option<Vec<String>> {
    if engine.is_stopping() {
        return None;
    }
    let required = &engine.config().metrics.required_databases;
    let is_required = |pool: &Pool| match required {
        Some(names) => names.contains(&pool.name),
        None => !pool.from_fallback,
    };
    let is_down = |pool: &Pool| {
        let is_reached = pool.total() > pool.connecting();
        !pool.for_lookups && !pool.removed && !is_reached && pool.last_error().is_some()
    };
    let pools = engine.pools().iter().map(|(_, pool)| pool);
    let down = pools.filter(|pool| is_required(pool) && is_down(pool));
    Some(down.map(|pool| pool.label().into_owned()).collect())
}

#[cfg(test)]
mod tests;
