//! What a process has taken, as the kernel counts it.

use std::fs;
use std::time::Duration;

/// CPU time of all threads of a process. To the nanosecond; threads that ended are not in it, but no contender has any such.
pub fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process has ended");
    let of_task = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).expect("schedstat");
        let first = text.split(' ').next().and_then(|word| word.parse().ok());
        Duration::from_nanos(first.expect("nanoseconds on the CPU"))
    };
    tasks.flatten().map(of_task).sum()
}

/// Resident memory in bytes that is the process's own: pages of its heap and stacks, to the page.
pub fn rss(pid: u32) -> f64 {
    crate::support::process::rss_kb(pid) as f64 * 1024.0
}

/// The middle of some numbers.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that this part of the numbers is not above.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    assert!(!sorted.is_empty(), "nothing was measured");
    let middle = (sorted.len() - 1) as f64 * part;
    let (low, high) = (
        sorted[middle.floor() as usize],
        sorted[middle.ceil() as usize],
    );
    low + (high - low) * middle.fract()
}
