//! `make bench`: what a pooler costs, Aether beside Debian's PgBouncer and HAProxy in `mode tcp`.
//!
//! On a machine of few cores throughput is noise. What counts here is the CPU time of the pooler's process for the same work,
//! in rounds in which the contenders take turns, as a ratio to PgBouncer in the same round. `scripts/bench` says how to size it.
//!
//! One section per file: `transactions`, `bulk`, `logins`, `idle`, `flat`, `calls`, `storm`, and `observed` and `switched`, which compare
//! Aether with itself. `contender` starts the three, `cost` asks the kernel what they took, `client` is a client that does what pgbench can't, `table` makes ratios of it.

mod bulk;
mod calls;
mod client;
mod contender;
mod cost;
mod flat;
mod idle;
mod logins;
mod observed;
mod settings;
mod storm;
mod switched;
mod table;
mod transactions;

// The same kit as that of the tests; its own processes, directories and ports.
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::process::Command;
use std::time::Instant;

use contender::Field;
use settings::Settings;

/// A section: what it may be called in `AETHER_BENCH_ONLY`, and what measures it. Answers with Markdown.
type Section = (&'static [&'static str], fn(&Field) -> String);

const SECTIONS: &[Section] = &[
    (
        &["transactions", "simple", "extended", "prepared", "select"],
        transactions::measure,
    ),
    (&["bulk"], bulk::measure),
    (&["login"], logins::measure),
    (&["storm"], storm::measure),
    (&["flat"], flat::measure),
    (&["idle"], idle::measure),
    (&["calls"], calls::measure),
    (&["observed"], observed::measure),
    (&["switched"], switched::measure),
];

fn main() {
    let known: Vec<&str> = SECTIONS
        .iter()
        .flat_map(|(names, _)| *names)
        .copied()
        .collect();
    let settings = Settings::read(&known);
    let begin = Instant::now();
    settings::raise_files();
    let field = Field::open(settings);
    let mut text = heading(&field);
    for (names, measure) in SECTIONS {
        if names.iter().any(|name| field.settings.wants(name)) {
            eprintln!("== {} ({:.0?})", names[0], begin.elapsed());
            text += &measure(&field);
        }
    }
    text += &format!("\nTaken in {:.0?}.\n", begin.elapsed());
    println!("{text}");
    if field.settings.save {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/RESULTS.md");
        fs::write(path, text).expect("benches/RESULTS.md can be written");
        eprintln!("== saved to {path}");
    }
}

/// What was measured where.
fn heading(field: &Field) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").expect("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let memory = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let memory_kb: u64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("MemTotal");
    let load = fs::read_to_string("/proc/loadavg").expect("/proc/loadavg");
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let settings = &field.settings;
    format!(
        "# Side by side\n\nWritten by `make bench`. Ratios are to PgBouncer, less is better: the median of the ratios of paired \
         rounds, and the best of all rounds by the best of all rounds. Columns of a pooler are its median.\n\n\
         - {} cores of {}, {:.0} GB; Linux {}; load before: {}; {}\n- Aether {} ({}), PostgreSQL {}\n- {}\n- {}\n\
         - {} rounds of {} s each; transaction mode, a pool of 20, one thread, unless a row says otherwise; over loopback; servers without TLS\n",
        std::thread::available_parallelism().map_or(0, usize::from),
        model.unwrap_or("an unknown processor"),
        memory_kb as f64 / 1e6,
        first_line(Command::new("uname").arg("-r")),
        load.join(" "),
        first_line(Command::new("date").args(["-u", "+%F %H:%M UTC"])),
        env!("CARGO_PKG_VERSION"),
        measured(),
        field.cluster.sql("postgres", "SHOW server_version"),
        support::pgbouncer().name,
        first_line(Command::new("/usr/sbin/haproxy").arg("-v")),
        settings.rounds,
        settings.seconds.as_secs_f64(),
    )
}

/// Which Aether.
fn measured() -> String {
    match std::env::var("AETHER_BENCH_BINARY") {
        Ok(given) => given,
        Err(_) => first_line(Command::new("git").args(["describe", "--always", "--dirty"])),
    }
}

fn first_line(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}
