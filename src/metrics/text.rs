//! Prometheus' text format (0.0.4), and OpenMetrics (1.0.0), which differ in a few words.

use std::ops::Range;

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
    /// The name of the family that the next two are for.
    of: &'static str,
    /// What its lines begin with, up to the value of the first label.
    head: Vec<u8>,
    /// What stands between the values of its labels.
    between: Vec<Vec<u8>>,
    /// The value of the first label of its last line, and where that line stands up to the end of it.
    first: String,
    until_first: Range<usize>,
    /// What stands behind the labels of each line of a histogram that has counted nothing, up to the labels of the next line.
    zeros: Vec<Vec<u8>>,
}

impl Text {
    /// A piece that goes behind what there is.
    pub fn behind(mut bytes: Vec<u8>, format: Format) -> Text {
        // The last family before it is full writes on.
        bytes.reserve(limits::PAGE_PART + 16 * 1024);
        Text {
            format,
            bytes,
            of: "",
            head: Vec::new(),
            between: Vec::new(),
            first: String::new(),
            until_first: 0..0,
            zeros: Vec::new(),
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

    /// The name, what its kind adds, and the labels up to the end of the last one's value. Most of it is the same for every line
    /// of a family, and made once; the lines of one pool follow each other.
    fn series(&mut self, family: &Family, suffix: &str, labels: &[&str]) {
        if !std::ptr::eq(self.of, family.name) {
            self.prepare(family, suffix);
        }
        let Some((first, others)) = labels.split_first() else {
            return self.bytes.extend_from_slice(&self.head);
        };
        if !self.until_first.is_empty() && *first == self.first {
            self.bytes.extend_from_within(self.until_first.clone());
        } else {
            let begin = self.bytes.len();
            self.bytes.extend_from_slice(&self.head);
            escaped(&mut self.bytes, first);
            self.until_first = begin..self.bytes.len();
            self.first.clear();
            self.first.push_str(first);
        }
        for (between, value) in self.between.iter().zip(others) {
            self.bytes.extend_from_slice(between);
            escaped(&mut self.bytes, value);
        }
    }

    #[cold]
    fn prepare(&mut self, family: &Family, suffix: &str) {
        self.of = family.name;
        self.until_first = 0..0;
        self.head = [family.name, suffix].concat().into_bytes();
        self.between.clear();
        for (nth, name) in family.labels.iter().enumerate() {
            let before = if nth == 0 { "{" } else { "\"," };
            let text = [before, name, "=\""].concat().into_bytes();
            match nth {
                0 => self.head.extend_from_slice(&text),
                _ => self.between.push(text),
            }
        }
        self.zeros.clear();
        if family.kind == Kind::Histogram && !family.labels.is_empty() {
            let labels = self.head.get(family.name.len() + suffix.len()..);
            let labels = labels.unwrap_or_default();
            let bounds = BOUNDS.into_iter().chain(["+Inf"]);
            let ends = bounds.map(|bound| ["\",le=\"", bound, "\"} 0\n"].concat());
            let ends = ends.chain(["\"} 0\n".to_owned()]);
            let nexts = BOUNDS.iter().map(|_| suffix).chain(["_sum", "_count"]);
            let texts = ends.zip(nexts).map(|(end, next)| {
                let text = [
                    end.as_bytes(),
                    family.name.as_bytes(),
                    next.as_bytes(),
                    labels,
                ];
                text.concat()
            });
            self.zeros.extend(texts);
        }
    }

    /// The lines of a histogram that has counted nothing, as most have where there are many: behind the labels of its first line.
    fn zeros(&mut self, labels: Range<usize>) {
        for text in &self.zeros {
            self.bytes.extend_from_slice(text);
            self.bytes.extend_from_within(labels.clone());
        }
        self.put("\"} 0\n");
    }

    /// The same bytes as there are from `from` to `to`, once more.
    fn again(&mut self, from: usize, to: usize) {
        self.bytes.extend_from_within(from..to);
    }

    fn number(&mut self, value: u64) {
        if value < 10 {
            return self.bytes.push(b'0' + value as u8); // as most of them
        }
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

/// The value of a label.
fn escaped(bytes: &mut Vec<u8>, value: &str) {
    let is_special = |byte: u8| byte == b'\\' || byte == b'"' || byte == b'\n';
    // All of it is looked at, without a branch for each byte: as a rule there is none.
    let any = |any: bool, byte: u8| any | is_special(byte);
    if !value.bytes().fold(false, any) {
        return bytes.extend_from_slice(value.as_bytes());
    }
    for byte in value.bytes() {
        if is_special(byte) {
            bytes.push(b'\\');
        }
        bytes.push(if byte == b'\n' { b'n' } else { byte });
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
        self.series(family, suffix, labels);
        self.put(if labels.is_empty() { " " } else { "\"} " });
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
        let (begin, name) = (self.bytes.len(), family.name.len());
        self.series(family, "_bucket", labels);
        let end = self.bytes.len();
        if histogram.count() == 0 && sum_us == 0 && !labels.is_empty() {
            return self.zeros(begin + self.head.len()..end);
        }
        // Behind the last label comes the bound.
        self.put(if labels.is_empty() {
            "{le=\""
        } else {
            "\",le=\""
        });
        let bound = self.bytes.len();
        let count = histogram.count();
        let all = histogram.at_most().map(|(_, count)| count);
        let bounds = all.zip(BOUNDS).chain([(count, "+Inf")]);
        for (nth, (count, text)) in bounds.enumerate() {
            if nth > 0 {
                self.again(begin, bound);
            }
            self.put(text);
            self.put("\"} ");
            self.line(count);
        }
        for (suffix, value) in [("_sum", None), ("_count", Some(count))] {
            self.again(begin, begin + name);
            self.put(suffix);
            self.again(begin + name + "_bucket".len(), end);
            self.put(if labels.is_empty() { " " } else { "\"} " });
            match value {
                Some(count) => self.line(count),
                None => {
                    self.micros(sum_us);
                    self.bytes.push(b'\n');
                }
            }
        }
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
            let mut out = Text::behind(Vec::new(), Format::Prometheus);
            out.micros(us);
            assert_eq!(String::from_utf8_lossy(&out.bytes), text);
        }
    }

    #[test]
    fn numbers_and_labels_are_written_as_they_are_read() {
        let mut out = Text::behind(Vec::new(), Format::Prometheus);
        for value in [0, 7, 10, u64::MAX] {
            out.line(value);
        }
        for us in [0, 1, 10, 1_500_000, 60_000_000] {
            out.micros(us);
            out.put(" ");
        }
        escaped(&mut out.bytes, "a\"b\\c\nd");
        assert_eq!(
            String::from_utf8_lossy(&out.bytes),
            "0\n7\n10\n18446744073709551615\n0 0.000001 0.00001 1.5 60 a\\\"b\\\\c\\nd"
        );
    }

    /// Line by line, whatever is copied from one to the next; with labels and without, and in pieces.
    #[test]
    fn histograms_and_labels_are_written_out() {
        let find = |name: &str| {
            let found = crate::metrics::FAMILIES.iter().find(|of| of.name == name);
            found.expect("it is told")
        };
        let mut histogram = Histogram::default();
        [10, 100, 100, 70_000_000]
            .into_iter()
            .for_each(|us| histogram.note(us));
        let mut text = Text::behind(Vec::new(), Format::Prometheus);
        text.histogram(
            find("aether_login_duration_seconds"),
            &[],
            &histogram,
            70_000_210,
        );
        text.histogram(
            find("aether_pool_wait_duration_seconds"),
            &["a\"b"],
            &histogram,
            12,
        );
        text.histogram(
            find("aether_pool_wait_duration_seconds"),
            &["c"],
            &histogram,
            0,
        );
        // One that has counted nothing, as if it had.
        let (begin, nothing) = (text.bytes.len(), Histogram::default());
        let family = find("aether_pool_wait_duration_seconds");
        text.histogram(family, &["d\\"], &nothing, 0);
        let middle = text.bytes.len();
        text.histogram(family, &["d\\"], &nothing, 1);
        let zeros = String::from_utf8_lossy(&text.bytes[begin..middle]);
        let counted = String::from_utf8_lossy(&text.bytes[middle..]);
        assert_eq!(zeros, counted.replace(" 0.000001\n", " 0\n"));
        text.value(
            find("aether_pool_statement_parses"),
            &["c", "client"],
            12,
            false,
        );
        text.value(find("aether_stopping"), &[], 0, false);
        let labels = ["client", "", "CN=x"];
        text.value(
            find("aether_tls_certificate_expiry_timestamp_seconds"),
            &labels,
            -5,
            false,
        );
        let text = String::from_utf8(text.bytes).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5 * 14 + 3);
        for line in [
            "aether_login_duration_seconds_bucket{le=\"0.000064\"} 1",
            "aether_login_duration_seconds_bucket{le=\"67.108864\"} 3",
            "aether_login_duration_seconds_bucket{le=\"+Inf\"} 4",
            "aether_login_duration_seconds_sum 70.00021",
            "aether_login_duration_seconds_count 4",
            "aether_pool_wait_duration_seconds_bucket{database=\"a\\\"b\",le=\"0.000064\"} 1",
            "aether_pool_wait_duration_seconds_bucket{database=\"a\\\"b\",le=\"+Inf\"} 4",
            "aether_pool_wait_duration_seconds_sum{database=\"a\\\"b\"} 0.000012",
            "aether_pool_wait_duration_seconds_count{database=\"a\\\"b\"} 4",
            "aether_pool_wait_duration_seconds_bucket{database=\"c\",le=\"0.000256\"} 3",
            "aether_pool_wait_duration_seconds_sum{database=\"c\"} 0",
            "aether_pool_statement_parses_total{database=\"c\",side=\"client\"} 12",
            "aether_stopping 0",
            "aether_tls_certificate_expiry_timestamp_seconds{side=\"client\",database=\"\",subject=\"CN=x\"} -5",
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{text}");
        }
    }
}
