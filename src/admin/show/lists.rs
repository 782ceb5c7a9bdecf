//! SHOW LISTS and SHOW MEM: how many there are of everything, and what they take.

use std::mem::size_of;

use super::super::table::{Column, Short, Value};
use crate::engine::{Client, Engine, Link, Server, ServerState};
use crate::pool::Pool;
use crate::relay::prepared::Held;
use crate::wire::backend::{INT4, TEXT};

const LISTS: &[Column] = &[("list", TEXT), ("items", INT4)];
const MEM: &[Column] = &[
    ("name", TEXT),
    ("size", INT4),
    ("used", INT4),
    ("free", INT4),
    ("memtotal", INT4),
];

/// SHOW LISTS
pub(super) fn lists(engine: &Engine) -> Short {
    let pools = || engine.pools().iter().filter(|(_, pool)| !pool.for_lookups);
    let databases = pools().count() + 1;
    let users = super::users::Users::new(engine);
    let roles: usize = pools().map(|(_, pool)| pool.role_count().max(1)).sum();
    let clients = engine.clients().iter();
    let logging_in = clients.filter(|(_, client)| !client.state().is_logged_in());
    let login_clients = logging_in.count();
    let used = |(_, server): &(_, &Server)| server.state().client().is_some();
    let servers = || engine.servers().iter();
    let idle = |(_, server): &(_, &Server)| matches!(server.state(), ServerState::Idle);
    let asked = engine.host_names().filter(|host| host.is_asked).count();
    let used_servers = servers().filter(used).count();
    let rows = [
        ("databases", databases),
        ("users", users.count()),
        ("peers", engine.peer_pools().count()),
        ("pools", roles + 1),
        ("peer_pools", engine.peer_pools().count()),
        // PgBouncer keeps what has gone for the next ones; Aether's arenas do that without counting.
        ("free_clients", engine.clients().free()),
        ("used_clients", engine.clients().len() - login_clients),
        ("login_clients", login_clients),
        ("free_servers", servers().filter(idle).count()),
        ("used_servers", used_servers),
        ("dns_names", engine.host_names().count()),
        ("dns_zones", 0),
        ("dns_queries", asked),
        ("dns_pending", asked),
    ];
    let row = |(list, items): (&str, usize)| vec![Value::text(list), Value::number(items)];
    Short {
        columns: LISTS,
        rows: rows.map(row).to_vec(),
    }
}

/// SHOW MEM, with PgBouncer's names for what is nearest to them here: the size of one, how many are in use, how many places are
/// kept for more, and what all of them take.
pub(super) fn mem(engine: &Engine) -> Short {
    let (clients, servers, pools) = (engine.clients(), engine.servers(), engine.pools());
    let of_clients = clients.iter().map(|(_, client)| client.link());
    let of_servers = servers.iter().filter_map(|(_, server)| server.link());
    let held = of_clients.chain(of_servers).map(Link::held);
    let (buffers, bytes) = held.fold((0, 0), |(count, bytes), (carry, outbox)| {
        let both = carry + outbox;
        (count + usize::from(both > 0), bytes + both)
    });
    let statements: usize = servers.iter().map(|(_, s)| s.statements.count()).sum();
    let users = super::users::Users::new(engine).count();
    let databases = engine.config().databases.len();
    let sized = |name, size: usize, used: usize, free: usize| {
        (name, size, used, free, size * (used + free))
    };
    let rows = [
        sized(
            "user_cache",
            size_of::<crate::config::UserConfig>(),
            users,
            0,
        ),
        sized(
            "credentials_cache",
            size_of::<crate::config::Stored>(),
            engine.config().auth.users.len(),
            0,
        ),
        sized(
            "db_cache",
            size_of::<crate::config::PoolConfig>(),
            databases,
            0,
        ),
        sized("peer_cache", 0, 0, 0),
        sized("peer_pool_cache", 0, 0, 0),
        sized("pool_cache", size_of::<Pool>(), pools.len(), 0),
        sized("outstanding_request_cache", 0, 0, 0),
        sized(
            "server_cache",
            size_of::<Server>(),
            servers.len(),
            servers.free(),
        ),
        sized(
            "client_cache",
            size_of::<Client>(),
            clients.len(),
            clients.free(),
        ),
        ("iobuf_cache", 0, buffers, 0, bytes),
        sized("var_list_cache", 0, 0, 0),
        sized(
            "server_prepared_statement_cache",
            size_of::<Held>(),
            statements,
            0,
        ),
    ];
    let row = |(name, size, used, free, total)| {
        let numbers: [usize; 4] = [size, used, free, total];
        let mut row = vec![Value::text(name)];
        row.extend(numbers.map(Value::number));
        row
    };
    Short {
        columns: MEM,
        rows: rows.map(row).to_vec(),
    }
}
