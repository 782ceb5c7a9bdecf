//! What the kernel knows of this process, for metrics.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;

use crate::log;
use crate::metrics::Facts;

/// Microseconds since 1970.
pub(super) fn now_us() -> Option<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_micros()).ok()
}

/// What it knows now. `started_us`: when the process began; `pushes`: what came of those to a collector.
pub(super) fn facts(started_us: Option<u64>, pushes: Option<(u64, u64)>) -> Facts {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
    let cpu = usage
        .map(|usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds());
    Facts {
        resident_bytes: resident(),
        // Since Linux 6.2 the size of this directory is how many are open; counting them takes long where they are many.
        open_files: fs::metadata("/proc/self/fd")
            .ok()
            .map(|of| of.len())
            .filter(|count| *count > 0),
        max_files: getrlimit(Resource::RLIMIT_NOFILE)
            .ok()
            .map(|(soft, _)| soft),
        cpu_us: cpu.and_then(|us| u64::try_from(us).ok()),
        started_us,
        pushes,
        log_dropped: log::dropped(),
        log_repeated: log::repeated(),
    }
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}
