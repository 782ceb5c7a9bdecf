//! Every SHOW: PgBouncer's columns first, in its order and types (1.25), Aether's own at the end.
//!
//! One noun per file. A table is opened once for an answer.

mod certificates;
mod connections;
mod databases;
mod lists;
mod others;
mod pools;
mod queries;
mod settings;
mod stats;
#[cfg(test)]
mod tests;
mod users;
mod when;

use crate::engine::{Engine, Scope};
use crate::wire::backend::{INT4, INT8, TEXT};

use super::command::{self, COMMANDS, Does, FILTER};
use super::table::{Column, Row, Short, Table, Value};
use super::words::Word;
use crate::wire::refusal::{self, Refusal};

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    ActiveSockets,
    Averages,
    Clients,
    Config,
    Databases,
    DnsHosts,
    DnsZones,
    Fds,
    Help,
    Lists,
    Mem,
    PeerPools,
    Peers,
    Pools,
    Queries,
    Servers,
    Sockets,
    State,
    Stats,
    StatsTotals,
    Tls,
    Totals,
    Users,
    Version,
    /// A parameter of PostgreSQL that drivers ask for, and its value.
    Parameter(&'static str, &'static str),
}

const STATE: &[Column] = &[("key", TEXT), ("value", TEXT)];
const PEERS: &[Column] = &[
    ("peer_id", INT4),
    ("host", TEXT),
    ("port", INT4),
    ("pool_size", INT4),
];
const PEER_POOLS: &[Column] = &[
    ("peer_id", INT4),
    ("cl_active_cancel_req", INT4),
    ("cl_waiting_cancel_req", INT4),
    ("sv_active_cancel", INT4),
    ("sv_login", INT4),
];
const DNS_HOSTS: &[Column] = &[("hostname", TEXT), ("ttl", INT8), ("addrs", TEXT)];
const DNS_ZONES: &[Column] = &[("zonename", TEXT), ("serial", INT8), ("count", INT4)];

/// Opens a table as it is now.
pub(super) fn open(engine: &Engine, show: Show) -> Box<dyn Table> {
    match show {
        Show::Clients => Box::new(connections::Clients),
        Show::Servers => Box::new(connections::Servers),
        Show::Sockets => Box::new(connections::Sockets { active: false }),
        Show::ActiveSockets => Box::new(connections::Sockets { active: true }),
        Show::Fds => Box::new(connections::Fds),
        Show::Pools => Box::new(pools::Pools::new(engine)),
        Show::Databases => Box::new(databases::Databases),
        Show::Users => Box::new(users::Users::new(engine)),
        Show::Stats => Box::new(stats::Stats::all()),
        Show::StatsTotals => Box::new(stats::Stats::totals()),
        Show::Averages => Box::new(stats::Stats::averages()),
        Show::Totals => Box::new(stats::sums(engine)),
        Show::Lists => Box::new(lists::lists(engine)),
        Show::Mem => Box::new(lists::mem(engine)),
        Show::Config => Box::new(settings::settings(engine)),
        Show::Queries => Box::new(queries::queries(engine)),
        Show::Tls => Box::new(certificates::certificates(engine)),
        Show::State => Box::new(state(engine)),
        Show::Peers => Box::new(others::peers(engine)),
        Show::PeerPools => Box::new(others::peer_pools(engine)),
        Show::DnsHosts => Box::new(others::dns_hosts(engine)),
        Show::DnsZones => Box::new(empty(DNS_ZONES)),
        Show::Version => Box::new(Short {
            columns: &[("version", TEXT)],
            rows: vec![vec![Value::text(format!(
                "Aether {}",
                env!("CARGO_PKG_VERSION")
            ))]],
        }),
        Show::Parameter(name, value) => Box::new(Parameter(name, value)),
        Show::Help => Box::new(empty(&[])),
    }
}

/// Aether has none of these, which a tool may ask for all the same.
fn empty(columns: &'static [Column]) -> Short {
    Short {
        columns,
        rows: Vec::new(),
    }
}

fn state(engine: &Engine) -> Short {
    let paused = engine.is_paused(Scope::All);
    let suspended = engine.is_suspended();
    let rows = [
        ("active", !paused && !suspended && !engine.is_stopping()),
        ("paused", paused),
        ("suspended", suspended),
    ];
    let word = |is: bool| if is { "yes" } else { "no" };
    let row = |(key, is)| vec![Value::text(key), Value::text(word(is))];
    Short {
        columns: STATE,
        rows: rows.map(row).to_vec(),
    }
}

/// Appends what HELP says: of everything, or of one command.
pub(super) fn help(engine: &Engine, rest: &[Word], out: &mut Vec<u8>) -> Result<(), Refusal> {
    let name: Vec<&str> = rest.iter().filter_map(Word::name).collect();
    let name = name.join(" ");
    if name.is_empty() {
        let lines = COMMANDS.iter().map(|spec| {
            let form = if spec.form == FILTER { "" } else { spec.form };
            let call = format!("{} {form}", spec.name);
            format!("\t{:<32} {}", call.trim_end(), spec.what)
        });
        let lines: Vec<String> = lines.collect();
        let text = format!(
            "\n{}\n\nEvery SHOW may be followed by {FILTER}.\nSHOW HELP and a command tell its columns.",
            lines.join("\n")
        );
        refusal::notice(out, "Console usage", Some(&text));
        return Ok(());
    }
    let names = [name.clone(), format!("SHOW {name}")];
    let Some(spec) = names.iter().find_map(|name| command::named(name)) else {
        let text = format!("there is no command \"{name}\"");
        return Err(Refusal::error(b"42601", text).hint("SHOW HELP lists them."));
    };
    let mut text = format!("\n\t{} {}\n\t{}", spec.name, spec.form, spec.what);
    if let Does::Show(show) = spec.does {
        let columns = open(engine, show).columns();
        let column = |(name, kind): &Column| format!("\t\t{name} {}", kind.name());
        let columns: Vec<String> = columns.iter().map(column).collect();
        text.push_str(&format!("\n{}", columns.join("\n")));
    }
    refusal::notice(out, "Console usage", Some(&text));
    Ok(())
}

/// One row of one column, which is called like the parameter.
struct Parameter(&'static str, &'static str);

impl Table for Parameter {
    fn columns(&self) -> Vec<Column> {
        vec![(self.0, TEXT)]
    }

    fn place(&self, _: &Engine, from: u64) -> Option<u64> {
        (from == 0).then_some(0)
    }

    fn row<'a>(&'a self, _: &'a Engine, _: u64) -> Option<Box<dyn Row + 'a>> {
        Some(Box::new(vec![Value::text(self.1)]))
    }
}
