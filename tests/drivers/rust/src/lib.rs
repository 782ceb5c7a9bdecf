//! What the programs share: where to connect, and a line per check for scripts/drivers to count.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Clients of the checks with many of them.
pub const CLIENTS: usize = 17;
/// How long one of those goes on, and at most until it has met enough servers.
pub const ROUNDS: i32 = 40;
pub const MOST_ROUNDS: i32 = 600;
pub const REFUSED: &str = "transaction blocks not allowed in statement pooling mode";
pub const MEGABYTE: usize = 1024 * 1024;

/// Where to connect and what a client may rely on, as the environment says.
#[derive(Clone)]
pub struct Kit {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    pub database: String,
    /// Server connections of the pool.
    pub servers: usize,
    /// A client's session is one server's, with all its state.
    pub session: bool,
    /// Transactions of several statements.
    pub blocks: bool,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    backends: HashSet<i32>,
    statement_on: usize,
}

impl Kit {
    pub fn from_env() -> Result<Kit> {
        let var = |name: &str| {
            std::env::var(format!("DRIVERS_{name}")).map_err(|_| format!("no DRIVERS_{name}"))
        };
        let mode = var("MODE")?;
        Ok(Kit {
            host: var("HOST")?,
            port: var("PORT")?.parse()?,
            user: var("USER")?,
            password: var("PASSWORD")?,
            database: var("DATABASE")?,
            servers: var("SERVERS")?.parse()?,
            session: mode == "session",
            blocks: mode != "statement",
            seen: Arc::default(),
        })
    }

    /// Runs one check to its end; a panic in it is caught, and a hang ended after a minute.
    pub async fn check(&self, name: &str, body: impl Future<Output = Result> + Send + 'static) {
        eprintln!("running {name}");
        let begin = Instant::now();
        let outcome = match tokio::time::timeout(Duration::from_secs(60), tokio::spawn(body)).await
        {
            Err(_) => Err("it hangs".to_owned()),
            Ok(Err(panicked)) => Err(panicked.to_string()),
            Ok(Ok(Err(error))) => Err(format!("{error} ({error:?})")),
            Ok(Ok(Ok(()))) => Ok(()),
        };
        match outcome {
            Ok(()) => println!("ok {name} ({:.2} s)", begin.elapsed().as_secs_f32()),
            Err(why) => println!(
                "not ok {name}: {}",
                why.split_whitespace().collect::<Vec<_>>().join(" ")
            ),
        }
    }

    /// Takes down the servers that ran one prepared statement of one client, and holds the mode to its promise.
    pub fn saw(&self, pids: &HashSet<i32>) {
        let mut seen = self
            .seen
            .lock()
            .expect("no check panics while it holds this");
        seen.statement_on = seen.statement_on.max(pids.len());
        seen.backends.extend(pids);
        drop(seen);
        assert!(
            if self.session {
                pids.len() == 1
            } else {
                pids.len() >= 3
            },
            "the statement ran on {} servers",
            pids.len()
        );
    }

    /// Does a client of the concurrency check go on after so many rounds?
    pub fn goes_on(&self, rounds: i32, pids: &HashSet<i32>) -> bool {
        rounds < ROUNDS || (!self.session && pids.len() < 3 && rounds < MOST_ROUNDS)
    }

    /// How long a tagged query sleeps, in seconds: uneven, so that clients and servers do not fall into step.
    pub fn uneven(i: usize, n: i32) -> f64 {
        f64::from((n * 7 + i as i32 * 13) % 11) / 5000.0
    }

    /// The closing lines.
    pub fn done(&self) {
        let seen = self
            .seen
            .lock()
            .expect("no check panics while it holds this");
        println!(
            "servers {} {}\ndone",
            seen.backends.len(),
            seen.statement_on
        );
    }
}

/// Awaits the tasks and returns what they found; the first failure is passed on.
pub async fn all<T>(tasks: Vec<tokio::task::JoinHandle<Result<T>>>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    for task in tasks {
        found.push(task.await??);
    }
    Ok(found)
}
