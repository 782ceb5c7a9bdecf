//! Makes a failing set of scripts small: fewer clients, then batches, then messages, as long as it still fails.

use std::time::{Duration, Instant};

use super::script::Script;

/// How long it may take.
const TIME: Duration = Duration::from_secs(90);

/// Tries smaller scripts with `fails`, which says what went wrong, if anything. Gives the smallest with its failure.
pub fn shrink(
    scripts: Vec<Script>,
    failure: String,
    mut fails: impl FnMut(&[Script]) -> Option<String>,
) -> (Vec<Script>, String) {
    let end = Instant::now() + TIME;
    let mut best = (scripts, failure);
    let mut is_worse = |best: &mut (Vec<Script>, String), scripts: Vec<Script>| {
        let failure = (Instant::now() < end).then(|| fails(&scripts)).flatten();
        let fails = failure.is_some();
        if let Some(failure) = failure {
            *best = (scripts, failure);
        }
        fails
    };

    // Clients: one alone, or as few as will do.
    let alone = best.0.clone().into_iter().map(|script| vec![script]);
    if best.0.len() > 1 && !alone.into_iter().any(|one| is_worse(&mut best, one)) {
        let mut at = 0;
        while at < best.0.len() {
            let mut fewer = best.0.clone();
            fewer.remove(at);
            if !is_worse(&mut best, fewer) {
                at += 1;
            }
        }
    }
    loop {
        let before = size(&best.0);
        for client in 0..best.0.len() {
            let count = best.0[client].batches.len();
            without_runs(count, |from, to| {
                let mut smaller = best.0.clone();
                smaller[client].batches.drain(from..to);
                is_worse(&mut best, smaller)
            });
            for batch in 0..best.0[client].batches.len() {
                let count = best.0[client].batches[batch].len();
                without_runs(count, |from, to| {
                    let mut smaller = best.0.clone();
                    smaller[client].batches[batch].drain(from..to);
                    is_worse(&mut best, smaller)
                });
            }
            let mut plain = best.0.clone();
            plain[client].batches.retain(|batch| !batch.is_empty());
            plain[client].parameters.clear();
            if plain != best.0 {
                is_worse(&mut best, plain);
            }
        }
        if size(&best.0) == before || Instant::now() >= end {
            return best;
        }
    }
}

/// Offers runs of a list to be left out, long ones first, from its end.
fn without_runs(count: usize, mut leave_out: impl FnMut(usize, usize) -> bool) {
    let (mut count, mut length) = (count, count);
    while length > 0 {
        let mut to = count;
        while to > 0 {
            let from = to.saturating_sub(length);
            if leave_out(from, to) {
                count -= to - from;
            }
            to = from;
        }
        length /= 2;
    }
}

fn size(scripts: &[Script]) -> usize {
    scripts
        .iter()
        .flat_map(|script| &script.batches)
        .map(|batch| 1 + batch.len())
        .sum()
}
