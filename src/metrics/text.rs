//! Prometheus' text format (0.0.4), and OpenMetrics (1.0.0), which differ in a few words.

use super::{Family, Kind, Sink, Unit};
use crate::limits;
use crate::stats::Histogram;

/// In which of the two it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own.
    Prometheus,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// What HTTP calls it.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What stands at the end of all.
    pub fn end(self) -> &'static str {
        match self {
            Format::Prometheus => "",
            Format::OpenMetrics => "# EOF\n",
        }
    }
}

/// A piece of the text.
pub struct Text {
    format: Format,
    /// What was written so far.
    pub bytes: Vec<u8>,
}

impl Text {
    /// An empty piece.
    pub fn new(format: Format) -> Text {
        Text {
            format,
            bytes: Vec::with_capacity(limits::PAGE_PART + 16 * 1024),
        }
    }

    fn put(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn comment(&mut self, what: &str, name: &str, suffix: &str, text: &str) {
        for part in ["# ", what, " ", name, suffix, " ", text, "\n"] {
            self.put(part);
        }
    }

    /// The name, what its kind adds, and the labels.
    fn series(&mut self, family: &Family, suffix: &str, labels: &[&str], bound: Option<&str>) {
        self.put(family.name);
        self.put(suffix);
        let mut before = b'{';
        let pairs = family.labels.iter().copied().zip(labels.iter().copied());
        for (name, value) in pairs.chain(bound.map(|bound| ("le", bound))) {
            self.bytes.push(before);
            before = b',';
            self.put(name);
            self.put("=\"");
            self.escaped(value);
            self.bytes.push(b'"');
        }
        if before == b',' {
            self.bytes.push(b'}');
        }
        self.bytes.push(b' ');
    }

    fn escaped(&mut self, value: &str) {
        if !value
            .bytes()
            .any(|byte| matches!(byte, b'\\' | b'"' | b'\n'))
        {
            return self.put(value);
        }
        for byte in value.bytes() {
            match byte {
                b'\\' => self.put("\\\\"),
                b'"' => self.put("\\\""),
                b'\n' => self.put("\\n"),
                byte => self.bytes.push(byte),
            }
        }
    }

    fn number(&mut self, value: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = value;
        loop {
            at -= 1;
            if let Some(place) = digits.get_mut(at) {
                *place = b'0' + (rest % 10) as u8;
            }
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.bytes
            .extend_from_slice(digits.get(at..).unwrap_or_default());
    }

    fn micros(&mut self, us: u64) {
        self.number(us / 1_000_000);
        let part = us % 1_000_000;
        if part > 0 {
            let text = format!(".{part:06}");
            self.put(text.trim_end_matches('0'));
        }
    }

    fn line(&mut self, value: u64) {
        self.number(value);
        self.bytes.push(b'\n');
    }
}

impl Sink for Text {
    fn begin(&mut self, family: &Family) {
        // Prometheus' own format has the suffix in the comments, too.
        let suffix = match (self.format, family.kind) {
            (Format::Prometheus, Kind::Counter) => "_total",
            _ => "",
        };
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.comment("HELP", family.name, suffix, family.help);
        self.comment("TYPE", family.name, suffix, kind);
        if self.format == Format::OpenMetrics {
            match family.unit {
                Unit::None => {}
                Unit::Seconds => self.comment("UNIT", family.name, "", "seconds"),
                Unit::Bytes => self.comment("UNIT", family.name, "", "bytes"),
            }
        }
    }

    fn value(&mut self, family: &Family, labels: &[&str], value: i64, micros: bool) {
        let suffix = match family.kind {
            Kind::Counter => "_total",
            _ => "",
        };
        self.series(family, suffix, labels, None);
        if value < 0 {
            self.bytes.push(b'-');
        }
        match micros {
            true => self.micros(value.unsigned_abs()),
            false => self.number(value.unsigned_abs()),
        }
        self.bytes.push(b'\n');
    }

    fn histogram(&mut self, family: &Family, labels: &[&str], histogram: &Histogram, sum_us: u64) {
        for ((_, count), bound) in histogram.at_most().zip(BOUNDS) {
            self.series(family, "_bucket", labels, Some(bound));
            self.line(count);
        }
        let count = histogram.count();
        self.series(family, "_bucket", labels, Some("+Inf"));
        self.line(count);
        self.series(family, "_sum", labels, None);
        self.micros(sum_us);
        self.bytes.push(b'\n');
        self.series(family, "_count", labels, None);
        self.line(count);
    }

    fn end(&mut self, _: &Family) {}

    fn is_full(&self) -> bool {
        self.bytes.len() >= limits::PAGE_PART
    }
}

/// The bounds of [`Histogram`] in seconds. A test holds them together.
const BOUNDS: [&str; crate::stats::BOUNDS] = [
    "0.000064",
    "0.000256",
    "0.001024",
    "0.004096",
    "0.016384",
    "0.065536",
    "0.262144",
    "1.048576",
    "4.194304",
    "16.777216",
    "67.108864",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_the_histogram() {
        for ((us, _), text) in Histogram::default().at_most().zip(BOUNDS) {
            let mut out = Text::new(Format::Prometheus);
            out.micros(us);
            assert_eq!(String::from_utf8_lossy(&out.bytes), text);
        }
    }

    #[test]
    fn numbers_and_labels_are_written_as_they_are_read() {
        let mut out = Text::new(Format::Prometheus);
        for value in [0, 7, 10, u64::MAX] {
            out.line(value);
        }
        for us in [0, 1, 10, 1_500_000, 60_000_000] {
            out.micros(us);
            out.put(" ");
        }
        out.escaped("a\"b\\c\nd");
        assert_eq!(
            String::from_utf8_lossy(&out.bytes),
            "0\n7\n10\n18446744073709551615\n0 0.000001 0.00001 1.5 60 a\\\"b\\\\c\\nd"
        );
    }
}
