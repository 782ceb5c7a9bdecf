//! One picture: from numbers to lines. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::sample::{Client, Pool, Rates, Sample};
use super::table::{Cell, Column, Line, Style, Table};
use super::view::{Choice, View};

/// What is to be seen.
pub(super) struct Scene<'a> {
    /// Whose console this is.
    pub(super) title: &'a str,
    /// What was found out last; `None`: nothing yet.
    pub(super) now: Option<&'a Sample>,
    /// And before it.
    pub(super) before: Option<&'a Sample>,
    /// Why nothing new is found out.
    pub(super) trouble: Option<&'a str>,
    /// What has been chosen.
    pub(super) choice: &'a Choice,
}

/// A wait of which one should know, in microseconds: half of what people notice.
const LONG_US: u64 = 500_000;

const fn left(title: &'static str) -> Column {
    let is_number = false;
    Column { title, is_number }
}

const fn right(title: &'static str) -> Column {
    let is_number = true;
    Column { title, is_number }
}

const POOLS: &[Column] = &[
    left("DATABASE"),
    left("USER"),
    right("CLIENTS"),
    right("WAITING"),
    right("MAXWAIT"),
    right("BUSY"),
    right("IDLE"),
    right("OTHER"),
    right("MAX"),
    right("QUERY/S"),
    right("XACT/S"),
    right("QUERY"),
    right("IN/S"),
    right("OUT/S"),
    left("MODE"),
    left("WHY"),
];
const WAITING: &[Column] = &[
    right("ID"),
    left("DATABASE"),
    left("USER"),
    left("APPLICATION"),
    left("ADDRESS"),
    right("WAIT"),
    left("WAITS FOR"),
];
const RUNNING: &[Column] = &[
    right("ID"),
    left("DATABASE"),
    left("USER"),
    left("APPLICATION"),
    left("ADDRESS"),
    right("PID"),
    right("QUERY"),
    right("XACT"),
];
const STATEMENTS: &[Column] = &[
    left("DATABASE"),
    right("CALLS/S"),
    right("BUSY"),
    right("MEAN"),
    right("MAX"),
    right("CALLS"),
    left("STATEMENT"),
];

const HELP: &str = "\
  1 2 3 4, Tab   pools, waiting clients, running queries, statements (metrics.query_fingerprints)
  < > ← →        sort by the column before, by the next one
  r              reverse the order
  u              pools by role, or by database
  /              only rows with this text; Esc ends it
  ↑ ↓ PgUp PgDn  scroll
  + -            twice as often, half as often
  Space          stop the picture, and go on
  ? h            this
  q              end

  CLIENTS and WAITING have a server, or wait for one; MAXWAIT is how long the first one has waited.
  BUSY and IDLE are server connections, OTHER those being made, tested or cancelled, MAX max_connections.
  QUERY is the mean time of a query, rates are those since the last picture.
  Of a statement, BUSY is how many server connections it keeps busy.";

/// The columns of a view.
pub(super) fn columns(view: View) -> &'static [Column] {
    match view {
        View::Pools => POOLS,
        View::Waiting => WAITING,
        View::Running => RUNNING,
        View::Statements => STATEMENTS,
    }
}

/// Lines above the table.
const ABOVE: usize = 5;

/// How many rows fit below the head of a table.
pub(super) fn page(height: usize) -> usize {
    height.saturating_sub(ABOVE + 1).max(1)
}

/// The whole screen, `height` lines at most.
pub(super) fn screen(scene: &Scene<'_>, height: usize) -> Vec<Line> {
    let mut lines = above(scene);
    let choice = scene.choice;
    if choice.help {
        lines.extend(HELP.lines().map(|line| Line::new(Style::Plain, line)));
    } else if let Some(now) = scene.now {
        let table = table(now, scene.before, choice);
        let most = table.rows.len().saturating_sub(page(height));
        let room = height.saturating_sub(ABOVE);
        lines.extend(below(&table, now, choice, choice.scrolled.min(most), room));
    }
    lines.truncate(height);
    lines
}

/// How far one may scroll.
pub(super) fn scroll_max(scene: &Scene<'_>, height: usize) -> usize {
    let rows = scene
        .now
        .map(|now| table(now, scene.before, scene.choice).rows.len());
    rows.unwrap_or(0).saturating_sub(page(height))
}

/// Everything, one view behind the other, for who reads no screen.
pub(super) fn report(scene: &Scene<'_>) -> Vec<Line> {
    let mut lines = above(scene);
    lines.pop();
    let Some(now) = scene.now else {
        return lines;
    };
    for view in View::ALL {
        let choice = scene.choice.clone().of(view);
        let table = table(now, scene.before, &choice);
        lines.push(Line::default());
        lines.push(Line::new(Style::Bold, format!("{}:", view.name())));
        lines.extend(below(&table, now, &choice, 0, usize::MAX));
    }
    lines
}

fn above(scene: &Scene<'_>) -> Vec<Line> {
    let choice = scene.choice;
    let Some(now) = scene.now else {
        let trouble = scene.trouble.unwrap_or("nothing is known yet");
        return vec![
            Line::new(Style::Bold, scene.title),
            Line::new(Style::Bad, trouble),
        ];
    };
    let state = match now.state.as_str() {
        "active" => Style::Plain,
        _ => Style::Warn,
    };
    let mut first = Line::new(Style::Bold, scene.title).and(state, format!("  {}", now.state));
    if !now.paused.is_empty() && now.state != "paused" {
        first = first.and(
            Style::Warn,
            format!(", {} paused", many(now.paused.len() as u64, "database")),
        );
    }
    first = match (scene.trouble, choice.frozen) {
        (Some(trouble), _) => first.and(Style::Bad, format!("  {trouble}")),
        (None, true) => first.and(Style::Warn, "  stopped: Space goes on"),
        (None, false) => first.and(Style::Dim, format!("  every {}", pace(choice.interval))),
    };
    let mut sum = Pool::default();
    for pool in &now.pools {
        sum.cl_active += pool.cl_active;
        sum.cl_waiting += pool.cl_waiting;
        sum.sv_active += pool.sv_active;
        sum.sv_idle += pool.sv_idle;
        sum.sv_other += pool.sv_other;
    }
    let connections = Line::new(
        Style::Plain,
        format!(
            "{}: {} active, {} waiting; {}: {} busy, {} idle, {} other",
            many(sum.cl_active + sum.cl_waiting, "client"),
            sum.cl_active,
            sum.cl_waiting,
            many(sum.sv_active + sum.sv_idle + sum.sv_other, "server"),
            sum.sv_active,
            sum.sv_idle,
            sum.sv_other,
        ),
    );
    let rates = scene.before.and_then(|before| now.all_rates(before));
    let rates = match rates {
        Some(rates) => format!(
            "{} queries/s, {} transactions/s, in {}/s, out {}/s; a query takes {}, a wait {}",
            count(rates.queries),
            count(rates.transactions),
            bytes(rates.received),
            bytes(rates.sent),
            time(rates.query_us),
            time(rates.wait_us),
        ),
        None => "rates are there with the next picture".to_owned(),
    };
    vec![
        first,
        connections,
        Line::new(Style::Plain, rates),
        longest_wait(now),
        tabs(choice),
    ]
}

/// Who waits longest, and for what.
fn longest_wait(now: &Sample) -> Line {
    let waiting = now.pools.iter().filter(|pool| pool.cl_waiting > 0);
    let Some(pool) = waiting.max_by_key(|pool| pool.maxwait_us) else {
        return Line::new(Style::Dim, "nobody waits");
    };
    let text = format!(
        "{} has waited {} in {}, for {}",
        pool.user,
        time(pool.maxwait_us as f64),
        pool.database,
        or(&pool.waits_for, "what is not told"),
    );
    Line::new(wait_style(pool.maxwait_us), text)
}

fn tabs(choice: &Choice) -> Line {
    let mut line = Line::default();
    for (number, view) in (1..).zip(View::ALL) {
        let style = if view == choice.view {
            Style::Head
        } else {
            Style::Plain
        };
        line = line.and(style, format!(" {number} {} ", view.name()));
    }
    if choice.typing {
        line = line.and(Style::Bold, format!("  /{}_", choice.filter));
    } else if !choice.filter.is_empty() {
        line = line.and(Style::Warn, format!("  /{}", choice.filter));
    }
    line.and(Style::Dim, "  ? help, q end")
}

/// The table, or why there is none.
fn below(table: &Table, now: &Sample, choice: &Choice, from: usize, room: usize) -> Vec<Line> {
    let sort = choice.sort();
    if !table.rows.is_empty() {
        return table.lines(from, room, (sort.column, sort.descending));
    }
    let asked = match choice.view {
        View::Pools => true,
        View::Waiting => now.waiting.is_some(),
        View::Running => now.running.is_some(),
        View::Statements => now.statements.is_some(),
    };
    let text = match choice.view {
        _ if !asked => "",
        _ if !choice.filter.is_empty() => "nothing has this text in it",
        View::Pools => "no pool is there yet",
        View::Waiting => "nobody waits",
        View::Running => "nothing runs",
        View::Statements => {
            "no statements: metrics.query_fingerprints says how many are told apart"
        }
    };
    vec![Line::new(Style::Dim, text)]
}

/// The table of a view, filtered and sorted.
pub(super) fn table(now: &Sample, before: Option<&Sample>, choice: &Choice) -> Table {
    let rows = match choice.view {
        View::Pools => pools(now, before, choice.by_user),
        View::Waiting => now.waiting.iter().flatten().map(waiting).collect(),
        View::Running => now.running.iter().flatten().map(running).collect(),
        View::Statements => statements(now, before),
    };
    let columns = columns(choice.view);
    let mut table = Table { columns, rows };
    table.filter(&choice.filter);
    let sort = choice.sort();
    table.sort(sort.column, sort.descending);
    table
}

fn pools(now: &Sample, before: Option<&Sample>, by_user: bool) -> Vec<Vec<Cell>> {
    let mut roles: BTreeMap<&str, u64> = BTreeMap::new();
    for pool in &now.pools {
        *roles.entry(&pool.database).or_default() += 1;
    }
    let lines = match by_user {
        true => now.pools.clone(),
        false => by_database(&now.pools),
    };
    let row = |pool: &Pool| {
        let roles = roles.get(pool.database.as_str()).copied().unwrap_or(1);
        // What one role of several does is not counted.
        let knows = !by_user || roles == 1;
        let rates = before
            .filter(|_| knows)
            .and_then(|before| now.rates(before, &pool.database));
        let user = match (by_user, roles) {
            (false, 2..) => Cell::text(many(roles, "role")),
            _ => Cell::text(&*pool.user),
        };
        let waits = pool.cl_waiting > 0;
        let waiting = Cell::count(pool.cl_waiting);
        let maxwait = Cell::number(
            pool.maxwait_us as f64,
            if waits {
                time(pool.maxwait_us as f64)
            } else {
                String::new()
            },
        );
        let style = wait_style(pool.maxwait_us);
        let rate = |of: fn(&Rates) -> f64, words: fn(f64) -> String| match &rates {
            Some(rates) => Cell::number(of(rates), words(of(rates))),
            None => Cell::unknown(),
        };
        vec![
            Cell::text(&*pool.database),
            user,
            Cell::count(pool.cl_active + pool.cl_waiting),
            if waits {
                waiting.in_style(style)
            } else {
                waiting
            },
            maxwait.in_style(style),
            Cell::count(pool.sv_active),
            Cell::count(pool.sv_idle),
            Cell::count(pool.sv_other),
            Cell::number(
                pool.max_connections as f64,
                if pool.max_connections == 0 {
                    "-".to_owned()
                } else {
                    pool.max_connections.to_string()
                },
            ),
            rate(|rates| rates.queries, count),
            rate(|rates| rates.transactions, count),
            rate(|rates| rates.query_us, time),
            rate(|rates| rates.received, bytes),
            rate(|rates| rates.sent, bytes),
            Cell::text(&*pool.mode),
            why(now, pool),
        ]
    };
    lines.iter().map(row).collect()
}

/// The roles of a database together; what is told of a wait is told of the longest.
fn by_database(pools: &[Pool]) -> Vec<Pool> {
    let mut found: BTreeMap<&str, Pool> = BTreeMap::new();
    for pool in pools {
        let Some(sum) = found.get_mut(pool.database.as_str()) else {
            found.insert(&pool.database, pool.clone());
            continue;
        };
        sum.cl_active += pool.cl_active;
        sum.cl_waiting += pool.cl_waiting;
        sum.sv_active += pool.sv_active;
        sum.sv_idle += pool.sv_idle;
        sum.sv_other += pool.sv_other;
        sum.max_connections = sum.max_connections.max(pool.max_connections);
        if pool.maxwait_us > sum.maxwait_us || sum.waits_for.is_empty() {
            sum.waits_for.clone_from(&pool.waits_for);
        }
        if sum.last_error.is_empty() {
            sum.last_error.clone_from(&pool.last_error);
        }
        if sum.mode != pool.mode {
            "several".clone_into(&mut sum.mode);
        }
        sum.maxwait_us = sum.maxwait_us.max(pool.maxwait_us);
    }
    found.into_values().collect()
}

/// What is the matter with a pool, if anything is.
fn why(now: &Sample, pool: &Pool) -> Cell {
    let mut words = Vec::new();
    if now.paused.contains(&pool.database) {
        words.push("paused");
    }
    if now.disabled.contains(&pool.database) {
        words.push("disabled");
    }
    let style = if words.is_empty() {
        Style::Plain
    } else {
        Style::Warn
    };
    if !pool.waits_for.is_empty() {
        words.push(&pool.waits_for);
    } else if !pool.last_error.is_empty() {
        words.push(&pool.last_error);
    }
    let style = if pool.cl_waiting > 0 {
        wait_style(pool.maxwait_us)
    } else {
        style
    };
    Cell::text(words.join("; ")).in_style(style)
}

fn waiting(client: &Client) -> Vec<Cell> {
    let style = wait_style(client.wait_us);
    let own = [
        Cell::number(client.wait_us as f64, time(client.wait_us as f64)).in_style(style),
        Cell::text(&*client.waits_for),
    ];
    named(client).into_iter().chain(own).collect()
}

fn running(client: &Client) -> Vec<Cell> {
    let own = [
        Cell::count(client.pid),
        Cell::number(client.query_us as f64, time(client.query_us as f64)),
        Cell::number(
            client.transaction_us as f64,
            time(client.transaction_us as f64),
        ),
    ];
    named(client).into_iter().chain(own).collect()
}

fn named(client: &Client) -> [Cell; 5] {
    [
        Cell::count(client.id),
        Cell::text(&*client.database),
        Cell::text(&*client.user),
        Cell::text(&*client.application),
        Cell::text(&*client.address),
    ]
}

fn statements(now: &Sample, before: Option<&Sample>) -> Vec<Vec<Cell>> {
    let row = |of: &super::sample::Statement| {
        let pace = before.and_then(|before| now.pace(before, of));
        let (calls, busy) = match pace {
            Some((calls, us)) => {
                let servers = us / 1e6;
                (
                    Cell::number(calls, count(calls)),
                    Cell::number(servers, format!("{servers:.2}")),
                )
            }
            None => (Cell::unknown(), Cell::unknown()),
        };
        let mean = of.total_us as f64 / of.calls.max(1) as f64;
        vec![
            Cell::text(&*of.database),
            calls,
            busy,
            Cell::number(mean, time(mean)),
            Cell::number(of.max_us as f64, time(of.max_us as f64)),
            Cell::count(of.calls),
            Cell::text(&*of.text),
        ]
    };
    now.statements.iter().flatten().map(row).collect()
}

fn wait_style(us: u64) -> Style {
    match us {
        0..LONG_US => Style::Plain,
        LONG_US..5_000_000 => Style::Warn,
        _ => Style::Bad,
    }
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

fn many(count: u64, what: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {what}{end}")
}

/// A time in words, three digits or so.
pub(super) fn time(us: f64) -> String {
    match us {
        us if us < 100.0 => format!("{us:.0} us"),
        us if us < 10_000.0 => format!("{:.1} ms", us / 1e3),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us if us < 100e6 => format!("{:.1} s", us / 1e6),
        us if us < 6_000e6 => format!("{:.0} min", us / 60e6),
        us => format!("{:.0} h", us / 3_600e6),
    }
}

fn pace(interval: Duration) -> String {
    time(interval.as_micros() as f64)
}

/// A count for each second.
pub(super) fn count(number: f64) -> String {
    match number {
        number if number <= 0.0 => "0".to_owned(),
        number if number < 10.0 => format!("{number:.1}"),
        number if number < 100e3 => format!("{number:.0}"),
        number => format!("{:.0}k", number / 1e3),
    }
}

/// Bytes, in powers of ten.
pub(super) fn bytes(number: f64) -> String {
    match number {
        number if number < 1e3 => format!("{number:.0} B"),
        number if number < 10e3 => format!("{:.1} kB", number / 1e3),
        number if number < 1e6 => format!("{:.0} kB", number / 1e3),
        number if number < 1e9 => format!("{:.1} MB", number / 1e6),
        number => format!("{:.1} GB", number / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Statement, Totals};
    use super::super::view::Key;
    use super::*;

    fn pool(database: &str, user: &str) -> Pool {
        Pool {
            database: database.to_owned(),
            user: user.to_owned(),
            mode: "transaction".to_owned(),
            cl_active: 10,
            sv_active: 3,
            sv_idle: 2,
            max_connections: 20,
            ..Pool::default()
        }
    }

    fn samples() -> (Sample, Sample) {
        let totals = |queries, sent| Totals {
            transactions: queries / 2,
            queries,
            received: sent / 10,
            sent,
            query_us: queries * 1_500,
            wait_us: queries * 10,
            assignments: queries / 2,
        };
        let before = Sample {
            at_us: 0,
            totals: [
                ("shop".to_owned(), totals(1_000, 10_000)),
                ("wiki".to_owned(), totals(0, 0)),
            ]
            .into(),
            ..Sample::default()
        };
        let mut waiting = pool("wiki", "editor");
        waiting.cl_waiting = 4;
        waiting.maxwait_us = 7_250_000;
        waiting.waits_for = "room: 20 of 20 servers are in use (max_connections)".to_owned();
        let now = Sample {
            at_us: 2_000_000,
            state: "active".to_owned(),
            pools: vec![pool("shop", "a"), pool("shop", "b"), waiting],
            totals: [
                ("shop".to_owned(), totals(5_000, 4_010_000)),
                ("wiki".to_owned(), totals(2, 100)),
            ]
            .into(),
            ..Sample::default()
        };
        (before, now)
    }

    fn scene<'a>(now: &'a Sample, before: &'a Sample, choice: &'a Choice) -> Scene<'a> {
        Scene {
            title: "aether 0.1.0 at /run/aether",
            now: Some(now),
            before: Some(before),
            trouble: None,
            choice,
        }
    }

    fn text(lines: &[Line]) -> Vec<String> {
        lines.iter().map(Line::plain).collect()
    }

    #[test]
    fn numbers_become_lines() {
        let (before, now) = samples();
        let choice = Choice::new(Duration::from_secs(2));
        let lines = text(&screen(&scene(&now, &before, &choice), 24));
        let expected = [
            "aether 0.1.0 at /run/aether  active  every 2.0 s",
            "34 clients: 30 active, 4 waiting; 15 servers: 9 busy, 6 idle, 0 other",
            "2001 queries/s, 1000 transactions/s, in 200 kB/s, out 2.0 MB/s; a query takes 1.5 ms, a wait 20 us",
            "editor has waited 7.2 s in wiki, for room: 20 of 20 servers are in use (max_connections)",
            " 1 pools  2 waiting  3 running  4 statements   ? help, q end",
            "DATABASE   USER     CLIENTS   WAITING▼  MAXWAIT   BUSY   IDLE   OTHER   MAX  QUERY/S   XACT/S    QUERY    IN/S   OUT/S  \
             MODE         WHY",
            "wiki       editor         14         4     7.2 s      3      2       0    20       1.0      0.5   1.5 ms     5 B    50 B  \
             transaction  room: 20 of 20 servers are in use (max_connections)",
            "shop       2 roles        20         0                6      4       0    20      2000     1000   1.5 ms  200 kB  2.0 MB  \
             transaction",
        ];
        let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let found: Vec<String> = lines.iter().map(|line| squeeze(line)).collect();
        assert_eq!(found, expected.map(squeeze));
        let place = |line: &str, word: &str| {
            line.find(word)
                .map(|at| line[..at].chars().count() + word.len())
        };
        assert_eq!(place(&lines[5], "MAXWAIT"), place(&lines[6], "7.2 s"));
    }

    #[test]
    fn roles_can_be_told_apart_and_what_is_not_counted_is_not_told() {
        let (before, now) = samples();
        let mut choice = Choice::new(Duration::from_secs(2));
        choice.press(Key::Char('u'), 10, POOLS.len());
        let lines = text(&screen(&scene(&now, &before, &choice), 24));
        assert_eq!(lines.len(), 6 + 3);
        assert!(
            lines[7].starts_with("shop") && lines[7].contains(" a "),
            "{lines:?}"
        );
        assert!(lines[7].contains(" - "), "{lines:?}");
        assert!(
            lines[6].contains("1.0"),
            "one role is all of them: {lines:?}"
        );
    }

    /// Not a line more than there is room for, however little that is.
    #[test]
    fn every_size_of_a_terminal_is_kept_to() {
        let (before, mut now) = samples();
        now.pools
            .extend((0..50).map(|n| pool(&format!("db{n}"), "me")));
        let mut choice = Choice::new(Duration::from_secs(2));
        for height in 0..40 {
            for key in [Key::Home, Key::Char('?'), Key::Escape, Key::End] {
                choice.press(key, page(height), POOLS.len());
                let lines = screen(&scene(&now, &before, &choice), height);
                assert!(lines.len() <= height, "{height} {key:?}");
            }
            let lines = text(&screen(&scene(&now, &before, &choice), height));
            if height > 6 {
                assert_eq!(lines.len(), height, "the last page is full");
                assert!(
                    lines[height - 1].starts_with("wiki") || lines[height - 1].starts_with("shop"),
                    "{lines:?}"
                );
            }
        }
        assert_eq!(
            screen(&scene(&now, &before, &choice), 20)[0].to_terminal(7, true),
            "\x1b[1maether \x1b[0m"
        );
    }

    #[test]
    fn what_is_wrong_is_said_above() {
        let (before, mut now) = samples();
        let choice = Choice::new(Duration::from_secs(2));
        let mut scene_now = scene(&now, &before, &choice);
        scene_now.trouble = Some("the connection was closed; trying again");
        assert!(
            text(&screen(&scene_now, 24))[0]
                .ends_with("active  the connection was closed; trying again")
        );
        scene_now.now = None;
        assert_eq!(
            text(&screen(&scene_now, 24))[1],
            "the connection was closed; trying again"
        );
        now.paused.insert("shop".to_owned());
        now.disabled.insert("wiki".to_owned());
        let lines = text(&screen(&scene(&now, &before, &choice), 24));
        assert!(lines[0].contains("active, 1 database paused"), "{lines:?}");
        assert!(
            lines[6].ends_with("disabled; room: 20 of 20 servers are in use (max_connections)"),
            "{lines:?}"
        );
        assert!(lines[7].ends_with("paused"), "{lines:?}");
    }

    #[test]
    fn clients_and_statements_have_views_of_their_own() {
        let (mut before, mut now) = samples();
        let client = |id, us| Client {
            id,
            application: "app".to_owned(),
            wait_us: us,
            query_us: us,
            waits_for: "room".to_owned(),
            ..Client::default()
        };
        now.waiting = Some(vec![client(1, 5_000), client(2, 900_000)]);
        now.running = Some(Vec::new());
        let statement = |calls| Statement {
            text: "SELECT * FROM t WHERE id = $1".to_owned(),
            calls,
            total_us: calls * 2_000,
            max_us: 3_000_000,
            ..Statement::default()
        };
        before.statements = Some(vec![statement(10)]);
        now.statements = Some(vec![statement(1_010)]);
        let choice = Choice::new(Duration::from_secs(2));
        let of = |view| text(&screen(&scene(&now, &before, &choice.clone().of(view)), 24));
        let waiting = of(View::Waiting);
        assert!(
            waiting[6].contains("900 ms") && waiting[6].ends_with("room"),
            "{waiting:?}"
        );
        assert!(waiting[7].contains("5.0 ms"), "{waiting:?}");
        assert_eq!(of(View::Running)[5], "nothing runs");
        let statements = of(View::Statements);
        let words: Vec<&str> = statements[6].split_whitespace().take(7).collect();
        assert_eq!(
            words,
            ["500", "1.00", "2.0", "ms", "3.0", "s", "1010"],
            "{statements:?}"
        );
        let report = text(&report(&scene(&now, &before, &choice)));
        for title in ["pools:", "waiting:", "running:", "statements:"] {
            assert!(report.iter().any(|line| line == title), "{report:?}");
        }
        assert!(
            !report.iter().any(|line| line.contains("q end")),
            "nobody presses keys"
        );
    }

    #[test]
    fn numbers_are_short() {
        let times = [
            0.0,
            99.0,
            1_234.0,
            56_789.0,
            999_000.0,
            12_345_678.0,
            600e6,
            7_200e6,
        ];
        let words = [
            "0 us", "99 us", "1.2 ms", "57 ms", "999 ms", "12.3 s", "10 min", "2 h",
        ];
        assert_eq!(times.map(time), words);
        assert_eq!(
            [0.0, 0.51, 12.3, 1_234.0, 123_456.0].map(count),
            ["0", "0.5", "12", "1234", "123k"]
        );
        assert_eq!(
            [999.0, 1_500.0, 56_000.0, 7.2e6, 3.1e9].map(bytes),
            ["999 B", "1.5 kB", "56 kB", "7.2 MB", "3.1 GB"]
        );
    }
}
