//! Section `log`: where lines go and what they look like. How much is said is `server.log_level`.

use std::path::Path;
use std::time::Duration;

use super::super::yaml::{Problems, Section};
use super::super::{LogConfig, SlowConfig};
use crate::log::{Facility, Format, Syslog};

/// The keys.
pub(super) const KEYS: [&str; 15] = [
    "format",
    "stderr",
    "file",
    "syslog",
    "syslog_ident",
    "syslog_facility",
    "repeat_limit",
    "log_connections",
    "log_disconnections",
    "log_pooler_errors",
    "log_stats",
    "slow_query_threshold",
    "slow_transaction_threshold",
    "slow_sample_rate",
    "long_wait",
];

const FORMATS: [(&str, Format); 4] = [
    ("text", Format::Text),
    ("json", Format::Json),
    ("logfmt", Format::Logfmt),
    ("pgbouncer", Format::PgBouncer),
];
const IDENT: &str = "aether";
const REPEAT_LIMIT: u64 = 100;
const LONG_WAIT: Duration = Duration::from_secs(1);

/// Reads the section. Relative file names count from `directory`.
pub(super) fn read(section: &Section<'_>, directory: &Path, problems: &mut Problems) -> LogConfig {
    let format = section
        .get("format")
        .and_then(|field| field.word(&FORMATS, problems));
    let mut flag = |key| section.get(key).and_then(|field| field.flag(problems));
    let (stderr, syslog) = (flag("stderr"), flag("syslog").unwrap_or(false));
    let connections = flag("log_connections");
    let disconnections = flag("log_disconnections");
    let (errors, stats) = (flag("log_pooler_errors"), flag("log_stats"));
    let file = section.get("file").and_then(|field| field.name(problems));
    let ident = section
        .get("syslog_ident")
        .and_then(|field| field.name(problems));
    let facility = section
        .get("syslog_facility")
        .and_then(|field| field.word(&Facility::all(), problems));
    let limit = section
        .get("repeat_limit")
        .and_then(|field| field.count(0..=1_000_000, problems));
    let long_wait = section
        .get("long_wait")
        .and_then(|field| field.duration(problems));
    let format = format.unwrap_or(Format::Text);
    // PgBouncer logs all of it; else one line when a connection ends is enough.
    let is_pgbouncer = format == Format::PgBouncer;
    let log = LogConfig {
        format,
        log_connections: connections.unwrap_or(is_pgbouncer),
        log_disconnections: disconnections.unwrap_or(true),
        log_pooler_errors: errors.unwrap_or(is_pgbouncer),
        log_stats: stats.unwrap_or(is_pgbouncer),
        stderr: stderr.unwrap_or(true),
        file: file.map(|name| directory.join(name)),
        syslog: syslog.then(|| Syslog {
            ident: ident.unwrap_or(IDENT).to_owned(),
            facility: facility.unwrap_or(Facility::DAEMON),
        }),
        repeat_limit: limit.unwrap_or(REPEAT_LIMIT),
        long_wait: long_wait.unwrap_or(LONG_WAIT),
        slow: slow(section, problems),
    };
    if let Some(field) = section.get("stderr")
        && !log.stderr
        && log.file.is_none()
        && log.syslog.is_none()
    {
        problems.warn(
            &field.place,
            "nothing is logged anywhere: there is no file and no syslog",
        );
    }
    log
}

/// Which slow queries and transactions are logged.
fn slow(section: &Section<'_>, problems: &mut Problems) -> SlowConfig {
    let mut threshold = |key| {
        let field = section.get(key);
        field.and_then(|field| field.duration(problems))
    };
    let query = threshold("slow_query_threshold").unwrap_or_default();
    let transaction = threshold("slow_transaction_threshold").unwrap_or_default();
    let sample = section.get("slow_sample_rate");
    SlowConfig {
        query,
        transaction,
        sample: sample
            .and_then(|field| field.share(problems))
            .unwrap_or(1_000_000),
    }
}
