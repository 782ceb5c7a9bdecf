//! Ratios out of samples, and Markdown out of ratios.

use std::fmt::Write as _;

use crate::contender::Contender;
use crate::cost::{median, quantile};

/// What was measured of one workload, a sample per round and contender.
#[derive(Clone)]
pub struct Row {
    /// What was done.
    pub workload: String,
    /// The ratio to PgBouncer that issue 5 asks for.
    pub target: Option<f64>,
    samples: [Vec<f64>; 3],
}

impl Row {
    /// Nothing measured yet.
    pub fn new(workload: impl Into<String>, target: Option<f64>) -> Row {
        Row {
            workload: workload.into(),
            target,
            samples: Default::default(),
        }
    }

    /// Takes a sample in. Samples of the same round stand at the same place.
    pub fn add(&mut self, contender: Contender, sample: f64) {
        self.samples[contender as usize].push(sample);
    }

    /// The same work, compared with what PgBouncer took for other work.
    pub fn against(&self, other: &Row, workload: impl Into<String>, target: Option<f64>) -> Row {
        let mut row = self.clone();
        row.workload = workload.into();
        row.target = target;
        row.samples[Contender::PgBouncer as usize] =
            other.samples[Contender::PgBouncer as usize].clone();
        row
    }

    fn of(&self, contender: Contender) -> &[f64] {
        &self.samples[contender as usize]
    }

    /// The ratios of paired rounds.
    fn ratios(&self, contender: Contender) -> Vec<f64> {
        let base = self.of(Contender::PgBouncer);
        let pairs = self.of(contender).iter().zip(base);
        pairs.map(|(one, base)| one / base).collect()
    }

    /// Their median.
    fn paired(&self, contender: Contender) -> Option<f64> {
        let ratios = self.ratios(contender);
        (!ratios.is_empty()).then(|| median(&ratios))
    }

    /// How far they differ: least and largest.
    fn spread(&self, contender: Contender) -> String {
        let ratios = self.ratios(contender);
        match ratios.len() {
            0 | 1 => String::new(),
            _ => format!(
                " ({:.2}–{:.2})",
                quantile(&ratios, 0.0),
                quantile(&ratios, 1.0)
            ),
        }
    }

    /// Ratio of the least sample to the least.
    fn best(&self, contender: Contender) -> Option<f64> {
        let least = |samples: &[f64]| samples.iter().copied().min_by(f64::total_cmp);
        Some(least(self.of(contender))? / least(self.of(Contender::PgBouncer))?)
    }
}

/// A table of one unit. `digits`: those behind the point.
pub fn render(title: &str, note: &str, digits: usize, rows: &[Row]) -> String {
    let mut text = format!(
        "\n## {title}\n\n{note}\n\n| Workload | PgBouncer | Aether | HAProxy | Aether / PgBouncer: paired (range) | best | HAProxy / PgBouncer | target | |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    );
    for row in rows {
        let absolute = |contender| {
            let samples = row.of(contender);
            (!samples.is_empty()).then(|| median(samples))
        };
        let paired = row.paired(Contender::Aether);
        let verdict = match (paired, row.target) {
            (Some(ratio), Some(target)) if ratio <= target => "met",
            (Some(_), Some(_)) => "**missed**",
            _ => "",
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {}{} | {} | {} | {} | {verdict} |",
            row.workload,
            number(absolute(Contender::PgBouncer), digits),
            number(absolute(Contender::Aether), digits),
            number(absolute(Contender::Haproxy), digits),
            number(paired, 2),
            row.spread(Contender::Aether),
            number(row.best(Contender::Aether), 2),
            number(row.paired(Contender::Haproxy), 2),
            number(row.target, 2),
        );
    }
    eprint!("{text}");
    text
}

/// A number, or a dash where there is none.
pub fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}
