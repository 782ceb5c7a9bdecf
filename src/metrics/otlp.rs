//! OTLP/HTTP in JSON: the same families as one `ExportMetricsServiceRequest`, and what a collector answers.
//!
//! Sums and histograms are cumulative from the start of the process, so a push that is lost loses nothing. Pure: text in and out.

use super::{Family, Kind, Sink, Unit};
use crate::limits;
use crate::stats::Histogram;

/// A piece of the request. Pieces that follow each other make one.
pub struct Json {
    /// What was written so far.
    pub bytes: Vec<u8>,
    /// What every point says of its time: `"startTimeUnixNano":"..","timeUnixNano":".."`.
    times: String,
    /// Where the list of metrics is.
    at: At,
}

/// Where a piece stands in the list of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// Before the first metric.
    #[default]
    Begin,
    /// A family has begun, and has no value yet. `true`: it is not the first that is written.
    Pending(bool),
    /// Behind a value of a family.
    Open,
    /// Behind a metric.
    Between,
}

impl Json {
    /// Begins the request. `resource`: who tells; `started_us`, `now_us`: microseconds since 1970.
    pub fn begin(resource: &[(String, String)], started_us: Option<u64>, now_us: u64) -> Json {
        let mut json = Json::go_on(At::Begin, started_us, now_us);
        json.put("{\"resourceMetrics\":[{\"resource\":{\"attributes\":[");
        json.attributes(
            resource
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str())),
        );
        json.put("]},\"scopeMetrics\":[{\"scope\":{\"name\":\"aether\",\"version\":");
        json.text(env!("CARGO_PKG_VERSION"));
        json.put("},\"metrics\":[");
        json
    }

    /// Another piece, from where the last one stopped.
    pub fn go_on(at: At, started_us: Option<u64>, now_us: u64) -> Json {
        let started = started_us.unwrap_or(now_us);
        Json {
            bytes: Vec::with_capacity(limits::PAGE_PART + 16 * 1024),
            times: format!(
                "\"startTimeUnixNano\":\"{started}000\",\"timeUnixNano\":\"{now_us}000\""
            ),
            at,
        }
    }

    /// Where it stopped.
    pub fn at(&self) -> At {
        self.at
    }

    /// Ends the request.
    pub fn finish(&mut self) {
        self.put("]}]}]}");
    }

    fn put(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'"');
        for c in text.chars() {
            match c {
                '"' => self.put("\\\""),
                '\\' => self.put("\\\\"),
                c if c < ' ' => self.put(&format!("\\u{:04x}", u32::from(c))),
                c => self.put(c.encode_utf8(&mut [0; 4])),
            }
        }
        self.bytes.push(b'"');
    }

    fn attributes<'a>(&mut self, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
        for (place, (key, value)) in pairs.enumerate() {
            self.put(if place == 0 {
                "{\"key\":"
            } else {
                ",{\"key\":"
            });
            self.text(key);
            self.put(",\"value\":{\"stringValue\":");
            self.text(value);
            self.put("}}");
        }
    }

    /// The head of the family before its first value, and what every point begins with.
    fn point(&mut self, family: &Family, labels: &[&str]) {
        match self.at {
            At::Open => self.put(","),
            at => {
                if at == At::Pending(true) {
                    self.put(",");
                }
                self.put("{\"name\":");
                self.text(family.name);
                self.put(",\"description\":");
                self.text(family.help);
                self.put(match family.unit {
                    Unit::None => ",\"unit\":\"1\"",
                    Unit::Seconds => ",\"unit\":\"s\"",
                    Unit::Bytes => ",\"unit\":\"By\"",
                });
                self.put(match family.kind {
                    Kind::Counter => {
                        ",\"sum\":{\"aggregationTemporality\":2,\"isMonotonic\":true,\"dataPoints\":["
                    }
                    Kind::Gauge => ",\"gauge\":{\"dataPoints\":[",
                    Kind::Histogram => {
                        ",\"histogram\":{\"aggregationTemporality\":2,\"dataPoints\":["
                    }
                });
            }
        }
        self.at = At::Open;
        self.put("{\"attributes\":[");
        self.attributes(family.labels.iter().copied().zip(labels.iter().copied()));
        self.put("],");
        let times = std::mem::take(&mut self.times);
        self.put(&times);
        self.times = times;
    }
}

/// Seconds, as JSON writes them.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

impl Sink for Json {
    fn begin(&mut self, _: &Family) {
        self.at = At::Pending(self.at == At::Between);
    }

    fn value(&mut self, family: &Family, labels: &[&str], value: i64, micros: bool) {
        self.point(family, labels);
        match micros {
            false => self.put(&format!(",\"asInt\":\"{value}\"}}")),
            true => {
                let sign = if value < 0 { "-" } else { "" };
                let seconds = seconds(value.unsigned_abs());
                self.put(&format!(",\"asDouble\":{sign}{seconds}}}"));
            }
        }
    }

    fn histogram(&mut self, family: &Family, labels: &[&str], histogram: &Histogram, sum_us: u64) {
        self.point(family, labels);
        let quoted: Vec<String> = histogram
            .counts()
            .iter()
            .map(|count| format!("\"{count}\""))
            .collect();
        let bounds: Vec<String> = histogram.at_most().map(|(us, _)| seconds(us)).collect();
        self.put(&format!(
            ",\"count\":\"{}\",\"sum\":{},\"bucketCounts\":[{}],\"explicitBounds\":[{}]}}",
            histogram.count(),
            seconds(sum_us),
            quoted.join(","),
            bounds.join(",")
        ));
    }

    fn end(&mut self, _: &Family) {
        match self.at {
            At::Open => {
                self.put("]}}");
                self.at = At::Between;
            }
            At::Pending(true) => self.at = At::Between,
            _ => self.at = At::Begin,
        }
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= limits::PAGE_PART
    }
}

/// What a collector has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// How many seconds it wants to be left alone.
    pub retry_after_s: Option<u64>,
}

/// Reads the head of an answer; what follows does not matter. `None`: it is not whole.
///
/// # Errors
/// It is none.
pub fn answer(bytes: &[u8]) -> Result<Option<Answer>, String> {
    let mut headers = [httparse::EMPTY_HEADER; limits::PAGE_HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    match head.parse(bytes) {
        Ok(httparse::Status::Partial) if bytes.len() < limits::PAGE_REQUEST_MAX => return Ok(None),
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err("its answer is not HTTP".to_owned()),
    }
    let retry_after = head
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("retry-after"));
    let seconds = retry_after.and_then(|header| std::str::from_utf8(header.value).ok());
    Ok(Some(Answer {
        status: head.code.unwrap_or(0),
        retry_after_s: seconds.and_then(|text| text.trim().parse().ok()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status() {
        let text = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n\r\n{}";
        let read = answer(text).expect("it is one").expect("it is whole");
        assert_eq!((read.status, read.retry_after_s), (503, Some(7)));
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n"), Ok(None));
        assert!(answer(b"SSH-2.0-OpenSSH\r\n").is_err());
        let long = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 10_000]].concat();
        assert!(answer(&long).is_err());
    }

    #[test]
    fn texts_are_escaped() {
        let mut json = Json::go_on(At::Begin, None, 1);
        json.text("a\"b\\c\nd\u{e9}");
        assert_eq!(
            String::from_utf8_lossy(&json.bytes),
            "\"a\\\"b\\\\c\\u000ad\u{e9}\""
        );
    }
}
