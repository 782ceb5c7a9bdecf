//! Golden: the columns of every SHOW, in order and type, as PgBouncer 1.25 has them; Aether's own behind the bar.

use std::path::Path;
use std::rc::Rc;

use super::super::command::{COMMANDS, Does};
use super::*;
use crate::arena::Tick;
use crate::config::schema;
use crate::engine::Engine;

/// Name, columns (`t` text, `i` int4, `q` int8, `n` numeric, `b` bytea), and behind the bar our own.
const GOLDEN: [(&str, &str); 23] = [
    ("VERSION", "version t"),
    (
        "QUERIES",
        "| database t, calls n, total_time n, mean_time q, max_time q, percent q, query t",
    ),
    ("CONFIG", "key t, value t, default t, changeable t"),
    ("STATE", "key t, value t"),
    ("LISTS", "list t, items i"),
    (
        "USERS",
        "name t, pool_size t, reserve_pool_size t, pool_mode t, max_user_connections i, current_connections i, \
         max_user_client_connections i, current_client_connections i",
    ),
    (
        "DATABASES",
        "name t, host t, port i, database t, force_user t, pool_size i, min_pool_size i, reserve_pool_size i, \
         server_lifetime i, pool_mode t, load_balance_hosts t, max_connections i, current_connections i, \
         max_client_connections i, current_client_connections i, paused i, disabled i",
    ),
    ("PEERS", "peer_id i, host t, port i, pool_size i"),
    (
        "POOLS",
        "database t, user t, cl_active i, cl_waiting i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active i, \
         sv_active_cancel i, sv_being_canceled i, sv_idle i, sv_used i, sv_tested i, sv_login i, maxwait i, maxwait_us i, \
         pool_mode t, load_balance_hosts t | max_connections i, total_connections i, total_sessions q, avg_idle_us q, \
         last_error t, waits_for t",
    ),
    (
        "PEER_POOLS",
        "peer_id i, cl_active_cancel_req i, cl_waiting_cancel_req i, sv_active_cancel i, sv_login i",
    ),
    (
        "CLIENTS",
        "type t, user t, database t, replication t, state t, addr t, port i, local_addr t, local_port i, connect_time t, \
         request_time t, wait i, wait_us i, close_needed i, ptr t, link t, remote_pid i, tls t, application_name t, \
         prepared_statements i, id i | pool_mode t, waits_for t, query_us q, transaction_us q",
    ),
    (
        "SERVERS",
        "type t, user t, database t, replication t, state t, addr t, port i, local_addr t, local_port i, connect_time t, \
         request_time t, wait i, wait_us i, close_needed i, ptr t, link t, remote_pid i, tls t, application_name t, \
         prepared_statements i, id i | transaction t, dirty t, last_used t, sessions q, age_s q, startup_set t, query_us q, \
         transaction_us q",
    ),
    (
        "SOCKETS",
        "type t, user t, database t, replication t, state t, addr t, port i, local_addr t, local_port i, connect_time t, \
         request_time t, wait i, wait_us i, close_needed i, ptr t, link t, remote_pid i, tls t, application_name t, \
         prepared_statements i, id i, recv_pos i, pkt_pos i, pkt_remain i, send_pos i, send_remain i, pkt_avail i, \
         send_avail i",
    ),
    (
        "ACTIVE_SOCKETS",
        "type t, user t, database t, replication t, state t, addr t, port i, local_addr t, local_port i, connect_time t, \
         request_time t, wait i, wait_us i, close_needed i, ptr t, link t, remote_pid i, tls t, application_name t, \
         prepared_statements i, id i, recv_pos i, pkt_pos i, pkt_remain i, send_pos i, send_remain i, pkt_avail i, \
         send_avail i",
    ),
    (
        "STATS",
        "database t, total_server_assignment_count n, total_xact_count n, total_query_count n, total_received n, \
         total_sent n, total_xact_time n, total_query_time n, total_wait_time n, total_client_parse_count n, \
         total_server_parse_count n, total_bind_count n, total_client_login_count n, avg_server_assignment_count n, \
         avg_xact_count n, avg_query_count n, avg_recv n, avg_sent n, avg_xact_time n, avg_query_time n, avg_wait_time n, \
         avg_client_parse_count n, avg_server_parse_count n, avg_bind_count n, avg_client_login_count n | \
         total_server_connects n, total_resets n, total_checks n",
    ),
    (
        "STATS_TOTALS",
        "database t, server_assignment_count n, xact_count n, query_count n, bytes_received n, bytes_sent n, xact_time n, \
         query_time n, wait_time n, client_parse_count n, server_parse_count n, bind_count n, client_login_count n",
    ),
    (
        "STATS_AVERAGES",
        "database t, server_assignment_count n, xact_count n, query_count n, bytes_received n, bytes_sent n, xact_time n, \
         query_time n, wait_time n, avg_client_parse_count n, avg_server_parse_count n, avg_bind_count n, \
         avg_client_login_count n",
    ),
    ("TOTALS", "name t, value n"),
    ("MEM", "name t, size i, used i, free i, memtotal i"),
    ("DNS_HOSTS", "hostname t, ttl q, addrs t"),
    ("DNS_ZONES", "zonename t, serial q, count i"),
    (
        "FDS",
        "fd i, task t, user t, database t, addr t, port i, cancel q, link i, client_encoding t, std_strings t, datestyle t, \
         timezone t, password t, scram_client_key b, scram_server_key b",
    ),
    (
        "TLS",
        "| side t, database t, mode t, subject t, issuer t, not_after t, days_left q",
    ),
];

fn engine() -> Engine {
    let text = "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable', max_connections: 7, acquire_timeout: 90s}\n\
                databases: {a: {backend: {host: [a, b], user: you, password: theirs}}, b: {}}\n\
                admin: {users: [me]}";
    let config = schema::read(text, Path::new("aether.yaml"), &settings::Nothing);
    let config = config.expect("a configuration");
    Engine::new(Rc::new(config), Tick(0), &mut Still)
}

/// A world in which nothing happens.
struct Still;

impl crate::engine::Host for Still {
    fn accept(
        &mut self,
        _: crate::engine::ListenerId,
        _: crate::engine::ClientKey,
    ) -> crate::engine::Accepted {
        crate::engine::Accepted::Blocked
    }
    fn dial(
        &mut self,
        _: &crate::engine::Address,
        _: crate::engine::ServerKey,
    ) -> Result<Box<dyn crate::engine::Stream>, String> {
        Err("nobody is there".to_owned())
    }
    fn secure(
        &mut self,
        _: Box<dyn crate::engine::Stream>,
        _: crate::engine::TlsSide,
        _: crate::engine::Handover,
    ) -> Result<Box<dyn crate::engine::Stream>, String> {
        Err("no TLS here".to_owned())
    }
    fn resolve(&mut self, _: &str) {}
    fn derive(&mut self, _: crate::auth::KeyDerivation, _: crate::engine::Who) {}
    fn user_name(&mut self, _: u32, _: crate::engine::ClientKey) {}
    fn networks(&self) -> Vec<crate::config::hba::Network> {
        Vec::new()
    }
    fn random(&mut self, into: &mut [u8]) {
        into.fill(1);
    }
    fn stop_listening(&mut self) {}
}

fn letter(kind: crate::wire::backend::ColumnType) -> char {
    match kind.name() {
        "int4" => 'i',
        "int8" => 'q',
        "numeric" => 'n',
        "bytea" => 'b',
        _ => 't',
    }
}

fn rows(engine: &Engine, show: Show) -> Vec<Vec<Value>> {
    let table = open(engine, show);
    let width = table.columns().len();
    let mut rows = Vec::new();
    let mut from = 0;
    while let Some(place) = table.place(engine, from) {
        let row = table.row(engine, place).expect("the row is there");
        rows.push((0..width).map(|column| row.value(column)).collect());
        from = place + 1;
    }
    rows
}

#[test]
fn every_show_has_pgbouncers_columns_first_in_their_order_and_types() {
    let engine = engine();
    for (name, golden) in GOLDEN {
        let spec = command::named(&format!("SHOW {name}")).expect("it is a command");
        let Does::Show(show) = spec.does else {
            panic!("{name} shows nothing");
        };
        let columns = open(&engine, show).columns();
        let found: Vec<String> = columns
            .iter()
            .map(|(name, kind)| format!("{name} {}", letter(*kind)))
            .collect();
        let golden = golden.replace(" | ", ", ").replace("| ", "");
        assert_eq!(found.join(", "), golden, "{name}");
    }
    let shows = COMMANDS
        .iter()
        .filter(|spec| spec.name.starts_with("SHOW "));
    assert_eq!(shows.count(), GOLDEN.len() + 1, "all of them, and HELP");
}

/// A value fits the type of its column, and nothing is missing that PgBouncer would tell.
#[test]
fn every_value_is_of_its_columns_type() {
    let engine = engine();
    for spec in COMMANDS {
        let Does::Show(show) = spec.does else {
            continue;
        };
        let columns = open(&engine, show).columns();
        for row in rows(&engine, show) {
            for ((name, kind), value) in columns.iter().zip(&row) {
                let fits = match value {
                    Value::Null => true,
                    Value::Number(_) => super::super::table::is_numeric(*kind),
                    Value::Text(_) => !super::super::table::is_numeric(*kind),
                };
                assert!(fits, "{}: {name} is {value:?}", spec.name);
            }
        }
    }
}

#[test]
fn rows_have_pgbouncers_names_in_its_order() {
    let engine = engine();
    let first = |show| {
        let rows = rows(&engine, show);
        let names = rows.iter().filter_map(|row| row[0].clone().into_text());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(first(Show::State), "active paused suspended");
    assert_eq!(
        first(Show::Lists),
        "databases users peers pools peer_pools free_clients used_clients login_clients free_servers used_servers dns_names \
         dns_zones dns_queries dns_pending"
    );
    assert_eq!(
        first(Show::Mem),
        "user_cache credentials_cache db_cache peer_cache peer_pool_cache pool_cache outstanding_request_cache server_cache \
         client_cache iobuf_cache var_list_cache server_prepared_statement_cache"
    );
    let sums = "server_assignment_count xact_count query_count client_bytes server_bytes xact_time query_time wait_time \
                ps_client_parse_count ps_server_parse_count ps_bind_count client_login_count";
    let with = |prefix: &str| {
        let names: Vec<String> = sums
            .split(' ')
            .map(|name| format!("{prefix}{name}"))
            .collect();
        names.join(" ")
    };
    assert_eq!(
        first(Show::Totals),
        format!("{} {}", with("total_"), with("avg_"))
    );
    assert_eq!(first(Show::Databases), "a b db pgbouncer");
    assert_eq!(first(Show::Pools), "a b db pgbouncer");
}

#[test]
fn config_tells_values_defaults_and_what_takes_a_restart() {
    let engine = engine();
    let rows = rows(&engine, Show::Config);
    let of = |key: &str| {
        let row = rows.iter().find(|row| row[0] == Value::text(key));
        let row = row.unwrap_or_else(|| panic!("{key} is not in {rows:?}"));
        let text = |at: usize| row[at].clone().into_text().expect("a text");
        (text(1), text(2), text(3))
    };
    let is = |value: &str, default: &str, changeable: &str| {
        (value.to_owned(), default.to_owned(), changeable.to_owned())
    };
    assert_eq!(of("pool.max_connections"), is("7", "20", "yes"));
    assert_eq!(of("pool.acquire_timeout"), is("90s", "30s", "yes"));
    assert_eq!(of("query_wait_timeout"), is("90", "120", "yes"));
    assert_eq!(of("admin.users"), is("me", "", "yes"));
    for key in ["server.listen_addr", "server.pidfile", "listen_port"] {
        let (_, _, changeable) = of(key);
        assert_eq!(changeable, "no", "{key}");
    }
    let mut keys: Vec<Value> = rows.iter().map(|row| row[0].clone()).collect();
    let before = keys.clone();
    keys.sort_by(Value::order);
    assert_eq!(keys, before, "alphabetical");
    keys.dedup();
    assert_eq!(keys.len(), before.len(), "each once");
}

/// docs/console.md against the tables: each command with its form, each column in the section of its SHOW.
#[test]
fn the_document_has_every_command_and_every_column() {
    let text = include_str!("../../../docs/console.md");
    let section = |name: &str| {
        let from = text.find(&format!("\n### {name}\n"));
        let from = from.unwrap_or_else(|| panic!("docs/console.md has no section {name}")) + 5;
        let rest = text.get(from..).unwrap_or_default();
        let end = rest.find("\n##").unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default()
    };
    let engine = engine();
    for spec in COMMANDS {
        let of = section(spec.name);
        let Does::Show(show) = spec.does else {
            let form = format!("\n    {} {}", spec.name, spec.form);
            let form = format!("{}\n", form.trim_end());
            assert!(of.contains(&form), "{form} is not in {of}");
            continue;
        };
        let mut of = of.to_owned();
        while let Some(other) = ["SHOW CLIENTS", "SHOW SOCKETS"]
            .into_iter()
            .find(|other| of.contains(&format!("The columns of {other}")))
        {
            of = of.replacen(&format!("The columns of {other}"), section(other), 1);
        }
        for (column, _) in open(&engine, show).columns() {
            let quoted = format!("`{column}`");
            assert!(of.contains(&quoted), "{}: {column}", spec.name);
        }
    }
    let headings = text.lines().filter_map(|line| line.strip_prefix("### "));
    for heading in headings {
        assert!(command::named(heading).is_some(), "{heading} is no command");
    }
}
