//! HTTP/1.1 as far as it takes to be scraped: heads of requests to what is asked for, and the heads of answers.
//!
//! Pure: bytes in, a [`Request`] or a refusal out. Only GET and HEAD, without a body; whatever else is sent is refused, and the
//! connection is closed behind the answer, so nothing that could be taken for a request in two ways is ever read on.

use super::Format;
use crate::limits;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `/`: the page for a person.
    Status,
    /// `/metrics`
    Metrics,
    /// `/healthz`: does the process live?
    Health,
    /// `/readyz`: does it accept clients, and can it reach servers?
    Ready,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for; `None`: something that there is not.
    pub page: Option<Page>,
    /// Only the head of the answer is wanted.
    pub head_only: bool,
    /// In which format metrics are wanted.
    pub format: Format,
    /// The connection may be used for another request.
    pub keep_alive: bool,
    /// The asker knows chunks (HTTP/1.1).
    pub chunked: bool,
    /// The token that it showed.
    pub token: Option<Vec<u8>>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It is no request, or one that can be read in two ways.
    Malformed,
    /// Its head is too long.
    TooLong,
    /// It has a body.
    Body,
    /// Neither GET nor HEAD.
    Method,
    /// Neither HTTP/1.0 nor 1.1.
    Version,
    /// The token is missing or wrong.
    Unauthorized,
}

impl Bad {
    /// Status and text of the answer.
    pub fn status(self) -> &'static str {
        match self {
            Bad::Malformed => "400 Bad Request",
            Bad::TooLong => "431 Request Header Fields Too Large",
            Bad::Body => "413 Content Too Large",
            Bad::Method => "405 Method Not Allowed",
            Bad::Version => "505 HTTP Version Not Supported",
            Bad::Unauthorized => "401 Unauthorized",
        }
    }
}

/// Reads the head of a request. `None`: it is not whole. With it, how many bytes it takes.
///
/// # Errors
/// What is wrong with it; the connection cannot be read on.
pub fn read(bytes: &[u8]) -> Result<Option<(Request, usize)>, Bad> {
    let within = bytes.get(..limits::PAGE_REQUEST_MAX).unwrap_or(bytes);
    let mut headers = [httparse::EMPTY_HEADER; limits::PAGE_HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let used = match head.parse(within) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) if within.len() < limits::PAGE_REQUEST_MAX => {
            return Ok(None);
        }
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Bad::TooLong);
        }
        Err(httparse::Error::Version) => return Err(Bad::Version),
        Err(_) => return Err(Bad::Malformed),
    };
    let is_new = head.version == Some(1);
    let (method, target) = (head.method.unwrap_or(""), head.path.unwrap_or(""));
    let mut fields = Fields::default();
    for header in head.headers.iter() {
        fields.take(header.name, header.value)?;
    }
    // RFC 9112, section 3.2: exactly one in HTTP/1.1.
    if fields.hosts > 1 || (is_new && fields.hosts == 0) {
        return Err(Bad::Malformed);
    }
    if !target.starts_with('/') {
        return Err(Bad::Malformed);
    }
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(Bad::Method),
    };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let request = Request {
        page: match path {
            "/" => Some(Page::Status),
            "/metrics" => Some(Page::Metrics),
            "/healthz" => Some(Page::Health),
            "/readyz" => Some(Page::Ready),
            _ => None,
        },
        head_only,
        format: fields.format(),
        keep_alive: is_new && !fields.close,
        chunked: is_new,
        token: fields.token,
    };
    Ok(Some((request, used)))
}

/// What headers say that matters.
#[derive(Default)]
struct Fields {
    hosts: usize,
    close: bool,
    token: Option<Vec<u8>>,
    /// How much either format is wanted, in thousandths.
    open_metrics: Option<u32>,
    plain: Option<u32>,
}

impl Fields {
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), Bad> {
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        if is("host") {
            self.hosts += 1;
        } else if is("transfer-encoding") {
            return Err(Bad::Body);
        } else if is("content-length") {
            if value != b"0" {
                return Err(Bad::Body);
            }
        } else if is("connection") {
            let words = value.split(|byte| *byte == b',');
            self.close |= words
                .map(<[u8]>::trim_ascii)
                .any(|word| word.eq_ignore_ascii_case(b"close"));
        } else if is("authorization") {
            if self.token.is_some() {
                return Err(Bad::Malformed);
            }
            let (scheme, token) = value.split_at_checked(7).unwrap_or((value, b""));
            if scheme.eq_ignore_ascii_case(b"bearer ") {
                self.token = Some(token.trim_ascii().to_vec());
            }
        } else if is("accept") {
            value
                .split(|byte| *byte == b',')
                .for_each(|range| self.accept(range));
        }
        Ok(())
    }

    /// A media range with its quality (RFC 9110, section 12.5.1).
    fn accept(&mut self, range: &[u8]) {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let kind = parts.next().unwrap_or_default();
        let quality = parts
            .find_map(|part| part.strip_prefix(b"q="))
            .map_or(1_000, thousandths);
        let wanted = |known: &mut Option<u32>| *known = Some(known.unwrap_or(0).max(quality));
        if kind.eq_ignore_ascii_case(b"application/openmetrics-text") {
            wanted(&mut self.open_metrics);
        } else if kind.eq_ignore_ascii_case(b"text/plain") || kind.eq_ignore_ascii_case(b"text/*") {
            wanted(&mut self.plain);
        }
    }

    /// OpenMetrics where it is named and nothing else is liked better.
    fn format(&self) -> Format {
        match self.open_metrics {
            Some(quality) if quality > 0 && quality >= self.plain.unwrap_or(0) => {
                Format::OpenMetrics
            }
            _ => Format::Prometheus,
        }
    }
}

/// A quality, `0.5`, in thousandths; nonsense is none.
fn thousandths(text: &[u8]) -> u32 {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    let part = format!("{part:0<3}").parse().unwrap_or(0);
    match whole {
        "1" => 1_000,
        "0" => part,
        _ => 0,
    }
}

/// What follows the head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Known(usize),
    /// Chunks.
    Chunked,
    /// All that comes, to the end of the connection.
    ToTheEnd,
}

/// Writes the head of an answer. `more`: header lines of its own, each with its line end.
pub fn head(out: &mut Vec<u8>, status: &str, kind: &str, length: Length, keep: bool, more: &str) {
    let length = match length {
        Length::Known(bytes) => format!("Content-Length: {bytes}\r\n"),
        Length::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        Length::ToTheEnd => String::new(),
    };
    let connection = if keep { "keep-alive" } else { "close" };
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{length}Connection: {connection}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\n{more}\r\n"
    );
    out.extend_from_slice(text.as_bytes());
}

/// Writes a whole answer of plain text.
pub fn plain(out: &mut Vec<u8>, status: &str, text: &str, keep: bool, head_only: bool, more: &str) {
    let kind = "text/plain; charset=utf-8";
    head(out, status, kind, Length::Known(text.len()), keep, more);
    if !head_only {
        out.extend_from_slice(text.as_bytes());
    }
}

/// Begins a chunk whose length is not known yet: its content goes behind it, then [`end_chunk`] what this returns.
pub fn begin_chunk(out: &mut Vec<u8>) -> usize {
    let begin = out.len();
    out.extend_from_slice(b"00000000\r\n");
    begin
}

/// Writes the length where the chunk began. An empty one would be the end of all, so none is left of it.
pub fn end_chunk(out: &mut Vec<u8>, begin: usize) {
    let content = out.len().saturating_sub(begin + "00000000\r\n".len());
    if content == 0 {
        return out.truncate(begin);
    }
    let length = format!("{content:08x}");
    for (place, digit) in out.iter_mut().skip(begin).zip(length.bytes()) {
        *place = digit;
    }
    out.extend_from_slice(b"\r\n");
}

/// The page for a person: it reads `/metrics` itself, and nothing from anywhere else.
pub const STATUS: &str = include_str!("status.html");

/// What browsers are told of it: nothing of it comes from elsewhere, and nothing goes there.
pub const STATUS_POLICY: &str = "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
    Referrer-Policy: no-referrer\r\n";

/// What stands behind the last chunk.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, headers: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").into_bytes()
    }

    fn ok(bytes: &[u8]) -> Request {
        let (request, used) = read(bytes).expect("it is right").expect("it is whole");
        assert_eq!(used, bytes.len());
        request
    }

    #[test]
    fn a_request_says_what_it_wants() {
        let request = ok(&get("/metrics?x=1", "Authorization: Bearer  secret \r\n"));
        assert_eq!(request.page, Some(Page::Metrics));
        assert_eq!(request.token.as_deref(), Some(&b"secret"[..]));
        assert!(request.keep_alive && request.chunked && !request.head_only);
        assert!(!ok(&get("/readyz", "Connection: x, Close\r\n")).keep_alive);
        assert_eq!(ok(&get("/readyz", "")).page, Some(Page::Ready));
        assert_eq!(ok(&get("/readyzz", "")).page, None);
        let old = ok(b"HEAD /healthz HTTP/1.0\r\n\r\n");
        assert!(old.head_only && !old.keep_alive && !old.chunked);
        assert_eq!(read(b"GET /metrics HTTP/1.1\r\nHost: x\r\n"), Ok(None));
        assert_eq!(read(b""), Ok(None));
    }

    /// One file, which asks nobody else: no address of another machine is in it, but for the name of SVG.
    #[test]
    fn the_page_for_a_person_is_self_contained() {
        assert_eq!(ok(&get("/", "")).page, Some(Page::Status));
        let page = STATUS.replace("http://www.w3.org/2000/svg", "");
        for foreign in [
            "http:",
            "https:",
            "src=",
            "href=",
            "@import",
            "url(",
            "innerHTML",
        ] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(STATUS_POLICY.ends_with("\r\n") && !STATUS_POLICY.contains('\t'));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let bad = |bytes: &[u8]| read(bytes).expect_err("it is refused");
        assert_eq!(bad(b"\x16\x03\x01\x02\x00"), Bad::Malformed);
        assert_eq!(bad(b"GET /metrics HTTP/1.1\r\n\r\n"), Bad::Malformed);
        assert_eq!(bad(&get("/", "Host: y\r\n")), Bad::Malformed);
        assert_eq!(bad(&get("http://x/metrics", "")), Bad::Malformed);
        assert_eq!(bad(&get("/", "Content-Length: 5\r\n")), Bad::Body);
        assert_eq!(bad(&get("/", "Transfer-Encoding: chunked\r\n")), Bad::Body);
        assert_eq!(bad(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"), Bad::Method);
        assert_eq!(bad(b"GET / HTTP/2.0\r\nHost: x\r\n\r\n"), Bad::Version);
        let two = "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n";
        assert_eq!(bad(&get("/", two)), Bad::Malformed);
        assert_eq!(bad(&get("/", &"A: b\r\n".repeat(100))), Bad::TooLong);
        let long = get(&format!("/{}", "x".repeat(limits::PAGE_REQUEST_MAX)), "");
        assert_eq!(bad(&long), Bad::TooLong);
    }

    #[test]
    fn the_format_is_negotiated() {
        let format = |accept: &str| ok(&get("/metrics", &format!("Accept: {accept}\r\n"))).format;
        assert_eq!(ok(&get("/metrics", "")).format, Format::Prometheus);
        assert_eq!(format("*/*"), Format::Prometheus);
        assert_eq!(format("application/openmetrics-text"), Format::OpenMetrics);
        assert_eq!(
            format(
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
            ),
            Format::OpenMetrics
        );
        assert_eq!(
            format("application/openmetrics-text; q=0.2, text/plain"),
            Format::Prometheus
        );
        assert_eq!(
            format("application/openmetrics-text;q=0"),
            Format::Prometheus
        );
    }

    #[test]
    fn chunks_are_as_long_as_they_say() {
        let mut out = b"head".to_vec();
        for content in [&b"first"[..], b"", &[b'x'; 300]] {
            let begin = begin_chunk(&mut out);
            out.extend_from_slice(content);
            end_chunk(&mut out, begin);
        }
        let wanted = [
            b"head00000005\r\nfirst\r\n0000012c\r\n".as_slice(),
            &[b'x'; 300],
            b"\r\n",
        ]
        .concat();
        assert_eq!(out, wanted);
    }
}
