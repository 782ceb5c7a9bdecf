//! What the console has answered, as numbers; and what has happened from one sample to the next.
//!
//! Pure: knows no socket and no clock. A column that is not there counts as nothing, so that an older Aether can be looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::link::Answer;
use super::view::View;

/// The most rows that are asked for where there may be one for each client.
const ROWS_MAX: usize = 500;

/// What has been asked, at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Microseconds, of any clock that goes forward.
    pub(super) at_us: u64,
    /// `active`, `paused` or `suspended`; `stopping` when it is none of them.
    pub(super) state: String,
    /// SHOW POOLS without the console's own line.
    pub(super) pools: Vec<Pool>,
    /// SHOW STATS_TOTALS by database.
    pub(super) totals: BTreeMap<String, Totals>,
    /// Databases that are paused, and those that are disabled.
    pub(super) paused: BTreeSet<String>,
    /// See there.
    pub(super) disabled: BTreeSet<String>,
    /// Clients that wait, the longest first; `None`: nobody has asked.
    pub(super) waiting: Option<Vec<Client>>,
    /// Clients whose query runs, the longest first.
    pub(super) running: Option<Vec<Client>>,
    /// Statements without their values.
    pub(super) statements: Option<Vec<Statement>>,
}

/// A line of SHOW POOLS.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pool {
    pub(super) database: String,
    pub(super) user: String,
    pub(super) mode: String,
    pub(super) cl_active: u64,
    pub(super) cl_waiting: u64,
    pub(super) maxwait_us: u64,
    pub(super) sv_active: u64,
    pub(super) sv_idle: u64,
    /// Being made, tested, cancelled.
    pub(super) sv_other: u64,
    pub(super) max_connections: u64,
    pub(super) waits_for: String,
    pub(super) last_error: String,
}

/// Counters of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) transactions: u64,
    pub(super) queries: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) query_us: u64,
    pub(super) wait_us: u64,
    pub(super) assignments: u64,
}

/// A client.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) application: String,
    pub(super) address: String,
    /// The server's process.
    pub(super) pid: u64,
    pub(super) wait_us: u64,
    pub(super) query_us: u64,
    pub(super) transaction_us: u64,
    pub(super) waits_for: String,
}

/// A statement.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Statement {
    pub(super) database: String,
    pub(super) text: String,
    pub(super) calls: u64,
    pub(super) total_us: u64,
    pub(super) max_us: u64,
}

/// What a database does in a second; times in microseconds for each item.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) transactions: f64,
    pub(super) queries: f64,
    pub(super) received: f64,
    pub(super) sent: f64,
    pub(super) query_us: f64,
    pub(super) wait_us: f64,
}

/// What is asked of the console for a view; `None`: for all of them.
pub(super) fn commands(view: Option<View>) -> Vec<String> {
    let mut commands = vec![
        "SHOW STATE".to_owned(),
        "SHOW DATABASES WHERE paused = 1 OR disabled = 1".to_owned(),
        "SHOW POOLS".to_owned(),
        "SHOW STATS_TOTALS".to_owned(),
    ];
    let mut of = |this, command: String| {
        if view.is_none_or(|view| view == this) {
            commands.push(command);
        }
    };
    of(
        View::Waiting,
        format!(
            "SHOW CLIENTS WHERE state = 'waiting' ORDER BY wait DESC, wait_us DESC LIMIT {ROWS_MAX}"
        ),
    );
    of(
        View::Running,
        format!("SHOW CLIENTS WHERE query_us > 0 ORDER BY query_us DESC LIMIT {ROWS_MAX}"),
    );
    of(
        View::Statements,
        format!("SHOW QUERIES ORDER BY total_time DESC LIMIT {ROWS_MAX}"),
    );
    commands
}

impl Sample {
    /// Takes what was answered to a command of [`commands`].
    pub(super) fn take(&mut self, command: &str, answer: &Answer) {
        let rows = || (0..answer.rows.len()).map(|at| Row { answer, at });
        if command == "SHOW STATE" {
            let is = |name: &str| {
                rows().any(|row| row.text("key") == name && row.text("value") == "yes")
            };
            let known = ["suspended", "paused", "active"]
                .into_iter()
                .find(|name| is(name));
            known.unwrap_or("stopping").clone_into(&mut self.state);
        } else if command.starts_with("SHOW DATABASES") {
            let names = |column: &str| {
                let those = rows().filter(|row| row.number(column) != 0);
                those.map(|row| row.text("name")).collect()
            };
            (self.paused, self.disabled) = (names("paused"), names("disabled"));
        } else if command == "SHOW POOLS" {
            let pools = rows().map(|row| row.pool());
            self.pools = pools.filter(|pool| pool.database != "pgbouncer").collect();
        } else if command == "SHOW STATS_TOTALS" {
            for row in rows() {
                let name = row.text("database");
                if name != "pgbouncer" {
                    self.totals.entry(name).or_default().add(&row.totals());
                }
            }
        } else if command.starts_with("SHOW CLIENTS WHERE state") {
            self.waiting = Some(rows().map(|row| row.client()).collect());
        } else if command.starts_with("SHOW CLIENTS") {
            self.running = Some(rows().map(|row| row.client()).collect());
        } else if command.starts_with("SHOW QUERIES") {
            self.statements = Some(rows().map(|row| row.statement()).collect());
        }
    }

    /// What a database has done since; `None`: nobody knows, as when it is new or was counted anew.
    pub(super) fn rates(&self, before: &Sample, database: &str) -> Option<Rates> {
        let (now, then) = (self.totals.get(database)?, before.totals.get(database)?);
        now.since(then)?.over(self.seconds_since(before)?)
    }

    /// The same of all together.
    pub(super) fn all_rates(&self, before: &Sample) -> Option<Rates> {
        let mut sum = Totals::default();
        for (name, now) in &self.totals {
            let then = before.totals.get(name).copied().unwrap_or_default();
            sum.add(&now.since(&then).unwrap_or_default());
        }
        sum.over(self.seconds_since(before)?)
    }

    /// Calls in a second, and of a second how many microseconds were spent, of a statement.
    pub(super) fn pace(&self, before: &Sample, of: &Statement) -> Option<(f64, f64)> {
        let seconds = self.seconds_since(before)?;
        let then = before.statements.as_ref()?.iter();
        let mut same = then.filter(|then| (&then.database, &then.text) == (&of.database, &of.text));
        let then = same.next().cloned().unwrap_or_default();
        let calls = of.calls.checked_sub(then.calls)?;
        let time = of.total_us.checked_sub(then.total_us)?;
        Some((calls as f64 / seconds, time as f64 / seconds))
    }

    fn seconds_since(&self, before: &Sample) -> Option<f64> {
        let us = self.at_us.checked_sub(before.at_us).filter(|us| *us > 0)?;
        Some(us as f64 / 1e6)
    }
}

impl Totals {
    fn add(&mut self, other: &Totals) {
        self.transactions += other.transactions;
        self.queries += other.queries;
        self.received += other.received;
        self.sent += other.sent;
        self.query_us += other.query_us;
        self.wait_us += other.wait_us;
        self.assignments += other.assignments;
    }

    fn since(&self, then: &Totals) -> Option<Totals> {
        Some(Totals {
            transactions: self.transactions.checked_sub(then.transactions)?,
            queries: self.queries.checked_sub(then.queries)?,
            received: self.received.checked_sub(then.received)?,
            sent: self.sent.checked_sub(then.sent)?,
            query_us: self.query_us.checked_sub(then.query_us)?,
            wait_us: self.wait_us.checked_sub(then.wait_us)?,
            assignments: self.assignments.checked_sub(then.assignments)?,
        })
    }

    fn over(&self, seconds: f64) -> Option<Rates> {
        let each = |us: u64, items: u64| {
            if items == 0 {
                0.0
            } else {
                us as f64 / items as f64
            }
        };
        Some(Rates {
            transactions: self.transactions as f64 / seconds,
            queries: self.queries as f64 / seconds,
            received: self.received as f64 / seconds,
            sent: self.sent as f64 / seconds,
            query_us: each(self.query_us, self.queries),
            wait_us: each(self.wait_us, self.assignments),
        })
    }
}

/// A row of an answer.
struct Row<'a> {
    answer: &'a Answer,
    at: usize,
}

impl Row<'_> {
    fn value(&self, column: &str) -> Option<&str> {
        let at = self
            .answer
            .columns
            .iter()
            .position(|known| known == column)?;
        self.answer.rows.get(self.at)?.get(at)?.as_deref()
    }

    fn text(&self, column: &str) -> String {
        self.value(column).unwrap_or_default().to_owned()
    }

    fn number(&self, column: &str) -> u64 {
        let number = self.value(column).and_then(|text| text.parse().ok());
        number.unwrap_or(0)
    }

    fn pool(&self) -> Pool {
        Pool {
            database: self.text("database"),
            user: self.text("user"),
            mode: self.text("pool_mode"),
            cl_active: self.number("cl_active"),
            cl_waiting: self.number("cl_waiting"),
            maxwait_us: self.number("maxwait") * 1_000_000 + self.number("maxwait_us"),
            sv_active: self.number("sv_active"),
            sv_idle: self.number("sv_idle") + self.number("sv_used"),
            sv_other: [
                "sv_active_cancel",
                "sv_being_canceled",
                "sv_tested",
                "sv_login",
            ]
            .iter()
            .map(|column| self.number(column))
            .sum(),
            max_connections: self.number("max_connections"),
            waits_for: self.text("waits_for"),
            last_error: self.text("last_error"),
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            transactions: self.number("xact_count"),
            queries: self.number("query_count"),
            received: self.number("bytes_received"),
            sent: self.number("bytes_sent"),
            query_us: self.number("query_time"),
            wait_us: self.number("wait_time"),
            assignments: self.number("server_assignment_count"),
        }
    }

    fn client(&self) -> Client {
        let address = match self.number("port") {
            0 => self.text("addr"),
            port => format!("{}:{port}", self.text("addr")),
        };
        Client {
            id: self.number("id"),
            database: self.text("database"),
            user: self.text("user"),
            application: self.text("application_name"),
            address,
            pid: self.number("remote_pid"),
            wait_us: self.number("wait") * 1_000_000 + self.number("wait_us"),
            query_us: self.number("query_us"),
            transaction_us: self.number("transaction_us"),
            waits_for: self.text("waits_for"),
        }
    }

    fn statement(&self) -> Statement {
        Statement {
            database: self.text("database"),
            text: self.text("query"),
            calls: self.number("calls"),
            total_us: self.number("total_time"),
            max_us: self.number("max_time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(columns: &str, rows: &[&str]) -> Answer {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let row = |text: &&str| {
            let words: Vec<String> = words(text);
            words
                .into_iter()
                .map(|word| (word != "NULL").then_some(word))
                .collect()
        };
        Answer {
            columns: words(columns),
            rows: rows.iter().map(row).collect(),
        }
    }

    fn totals(rows: &[&str], at_us: u64) -> Sample {
        let columns = "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time \
                       wait_time";
        let mut sample = Sample {
            at_us,
            ..Sample::default()
        };
        sample.take("SHOW STATS_TOTALS", &answer(columns, rows));
        sample
    }

    #[test]
    fn rates_are_what_has_happened_over_the_time_that_it_took() {
        let before = totals(
            &[
                "a 10 100 200 1000 2000 0 5000 100",
                "pgbouncer 1 1 1 1 1 1 1 1",
            ],
            1_000_000,
        );
        let now = totals(
            &["a 20 150 300 3000 8000 0 25000 1100", "b 1 2 3 4 5 6 7 8"],
            3_000_000,
        );
        let rates = now.rates(&before, "a").expect("both know it");
        assert_eq!((rates.transactions, rates.queries), (25.0, 50.0));
        assert_eq!((rates.received, rates.sent), (1000.0, 3000.0));
        assert_eq!((rates.query_us, rates.wait_us), (200.0, 100.0));
        assert_eq!(now.rates(&before, "b"), None, "it is new");
        let all = now.all_rates(&before).expect("time has passed");
        assert_eq!(all.queries, (100.0 + 3.0) / 2.0);
        assert_eq!(now.all_rates(&now), None, "no time has passed");
    }

    /// KILL forgets counters, and so does a restart.
    #[test]
    fn counters_that_have_gone_back_give_no_rate() {
        let before = totals(&["a 10 100 200 1000 2000 0 5000 100"], 1_000_000);
        let now = totals(&["a 0 1 1 10 20 0 5 1"], 2_000_000);
        assert_eq!(now.rates(&before, "a"), None);
        assert_eq!(now.all_rates(&before).expect("zero").queries, 0.0);
    }

    /// One role's pool each, as where users log in as themselves.
    #[test]
    fn counters_of_one_database_are_added_up() {
        let sample = totals(&["a 1 1 5 1 1 1 1 1", "a 1 1 7 1 1 1 1 1"], 0);
        assert_eq!(
            sample.totals.get("a").map(|totals| totals.queries),
            Some(12)
        );
    }

    #[test]
    fn answers_are_read_by_the_names_of_columns() {
        let mut sample = Sample::default();
        sample.take(
            "SHOW STATE",
            &answer("key value", &["active no", "paused yes", "suspended no"]),
        );
        assert_eq!(sample.state, "paused");
        sample.take(
            "SHOW STATE",
            &answer("key value", &["active no", "paused no"]),
        );
        assert_eq!(sample.state, "stopping");
        let columns =
            "user database cl_waiting maxwait maxwait_us sv_login sv_tested waits_for last_error";
        let rows = [
            "me a 3 2 500000 1 2 room NULL",
            "pgbouncer pgbouncer 0 0 0 0 0 NULL NULL",
        ];
        sample.take("SHOW POOLS", &answer(columns, &rows));
        let [pool] = &*sample.pools else {
            panic!("{:?}", sample.pools);
        };
        assert_eq!(
            (&*pool.user, pool.cl_waiting, pool.maxwait_us, pool.sv_other),
            ("me", 3, 2_500_000, 3)
        );
        assert_eq!(
            (&*pool.waits_for, &*pool.last_error, pool.max_connections),
            ("room", "", 0)
        );
        let waiting = &commands(Some(View::Waiting))[4];
        sample.take(
            waiting,
            &answer(
                "id wait wait_us addr port",
                &["7 1 2 ::1 55", "8 0 1 unix 0"],
            ),
        );
        let clients = sample.waiting.as_ref().expect("they were asked for");
        assert_eq!(
            (clients[0].id, clients[0].wait_us, &*clients[0].address),
            (7, 1_000_002, "::1:55")
        );
        assert_eq!(clients[1].address, "unix");
        assert_eq!(sample.running, None);
        sample.take(
            "SHOW DATABASES WHERE",
            &answer("name paused disabled", &["a 1 0", "b 0 1"]),
        );
        assert!(sample.paused.contains("a") && sample.disabled.contains("b"));
        assert!(!sample.paused.contains("b"));
    }

    #[test]
    fn a_view_asks_for_what_it_shows() {
        assert_eq!(commands(Some(View::Pools)).len(), 4);
        assert_eq!(commands(Some(View::Running)).len(), 5);
        assert_eq!(commands(None).len(), 7);
    }

    #[test]
    fn a_statement_has_a_pace() {
        let sample = |calls, total_us, at_us| Sample {
            at_us,
            statements: Some(vec![Statement {
                text: "SELECT $1".to_owned(),
                calls,
                total_us,
                ..Statement::default()
            }]),
            ..Sample::default()
        };
        let (before, now) = (sample(10, 1_000, 0), sample(30, 501_000, 2_000_000));
        let of = &now.statements.as_ref().expect("it was asked")[0];
        assert_eq!(now.pace(&before, of), Some((10.0, 250_000.0)));
        assert_eq!(now.pace(&Sample::default(), of), None);
    }
}
