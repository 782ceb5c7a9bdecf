//! SHOW CLIENTS, SERVERS, SOCKETS, ACTIVE_SOCKETS and FDS: one row per connection.

use std::cell::OnceCell;

use super::super::table::{Column, Row, Table, Value};
use super::when::time;
use crate::arena::ClientKey;
use crate::engine::{Client, ClientState, Engine, Facts, Link, Server, ServerState, Session};
use crate::pool::Replication;
use crate::wire::backend::{BYTEA, INT4, INT8, TEXT, TransactionStatus};
use crate::wire::frame::printable;

const SOCKET: &[Column] = &[
    ("type", TEXT),
    ("user", TEXT),
    ("database", TEXT),
    ("replication", TEXT),
    ("state", TEXT),
    ("addr", TEXT),
    ("port", INT4),
    ("local_addr", TEXT),
    ("local_port", INT4),
    ("connect_time", TEXT),
    ("request_time", TEXT),
    ("wait", INT4),
    ("wait_us", INT4),
    ("close_needed", INT4),
    ("ptr", TEXT),
    ("link", TEXT),
    ("remote_pid", INT4),
    ("tls", TEXT),
    ("application_name", TEXT),
    ("prepared_statements", INT4),
    ("id", INT4),
];
const BUFFERS: &[Column] = &[
    ("recv_pos", INT4),
    ("pkt_pos", INT4),
    ("pkt_remain", INT4),
    ("send_pos", INT4),
    ("send_remain", INT4),
    ("pkt_avail", INT4),
    ("send_avail", INT4),
];
const CLIENTS_OWN: &[Column] = &[
    ("pool_mode", TEXT),
    ("waits_for", TEXT),
    ("query_us", INT8),
    ("transaction_us", INT8),
];
const SERVERS_OWN: &[Column] = &[
    ("transaction", TEXT),
    ("dirty", TEXT),
    ("last_used", TEXT),
    ("sessions", INT8),
    ("age_s", INT8),
    ("startup_set", TEXT),
    ("query_us", INT8),
    ("transaction_us", INT8),
];
const FDS: &[Column] = &[
    ("fd", INT4),
    ("task", TEXT),
    ("user", TEXT),
    ("database", TEXT),
    ("addr", TEXT),
    ("port", INT4),
    ("cancel", INT8),
    ("link", INT4),
    ("client_encoding", TEXT),
    ("std_strings", TEXT),
    ("datestyle", TEXT),
    ("timezone", TEXT),
    ("password", TEXT),
    ("scram_client_key", BYTEA),
    ("scram_server_key", BYTEA),
];

/// Clients that are logged in, or wait for a server to be.
pub(super) struct Clients;

/// Server connections.
pub(super) struct Servers;

/// All connections, clients first.
pub(super) struct Sockets {
    /// Only those with something in their buffers.
    pub(super) active: bool,
}

/// The connections that PgBouncer would hand over.
pub(super) struct Fds;

/// Places of servers begin here, where both are in one table.
const SERVERS_FROM: u64 = 1 << 32;

fn is_shown(client: &Client) -> bool {
    let state = client.state();
    client.session.is_some() && (state.is_logged_in() || state.is_waiting())
}

/// The first client at or behind a place of which something holds.
fn client_place(engine: &Engine, from: u64, shown: impl Fn(&Client) -> bool) -> Option<u64> {
    let mut slot = u32::try_from(from).ok()?;
    loop {
        let (key, client) = engine.clients().at_or_after(slot)?;
        if shown(client) {
            return Some(u64::from(key.index()));
        }
        slot = key.index() + 1;
    }
}

fn server_place(engine: &Engine, from: u64, shown: impl Fn(&Server) -> bool) -> Option<u64> {
    let mut slot = u32::try_from(from).ok()?;
    loop {
        let (key, server) = engine.servers().at_or_after(slot)?;
        if shown(server) {
            return Some(u64::from(key.index()));
        }
        slot = key.index() + 1;
    }
}

fn client_at(engine: &Engine, place: u64) -> Option<(ClientKey, &Client)> {
    let slot = u32::try_from(place).ok()?;
    let found = engine.clients().at_or_after(slot);
    found.filter(|(key, _)| key.index() == slot)
}

fn server_at(engine: &Engine, place: u64) -> Option<&Server> {
    let slot = u32::try_from(place).ok()?;
    let (key, server) = engine.servers().at_or_after(slot)?;
    (key.index() == slot).then_some(server)
}

fn joined(parts: &[&'static [Column]]) -> Vec<Column> {
    parts.concat()
}

impl Table for Clients {
    fn columns(&self) -> Vec<Column> {
        joined(&[SOCKET, CLIENTS_OWN])
    }

    fn place(&self, engine: &Engine, from: u64) -> Option<u64> {
        client_place(engine, from, is_shown)
    }

    fn row<'a>(&'a self, engine: &'a Engine, place: u64) -> Option<Box<dyn Row + 'a>> {
        let client = client_at(engine, place).filter(|(_, client)| is_shown(client))?;
        Some(Box::new(ClientRow::new(engine, client)))
    }
}

impl Table for Servers {
    fn columns(&self) -> Vec<Column> {
        joined(&[SOCKET, SERVERS_OWN])
    }

    fn place(&self, engine: &Engine, from: u64) -> Option<u64> {
        server_place(engine, from, |_| true)
    }

    fn row<'a>(&'a self, engine: &'a Engine, place: u64) -> Option<Box<dyn Row + 'a>> {
        Some(Box::new(ServerRow::new(engine, server_at(engine, place)?)))
    }
}

impl Sockets {
    fn shows_client(&self, client: &Client) -> bool {
        let is_session = !matches!(
            client.state(),
            ClientState::Cancelling(_) | ClientState::AwaitingPeer | ClientState::Leaving { .. }
        );
        is_session && (!self.active || is_active(Some(client.link())))
    }

    fn shows_server(&self, server: &Server) -> bool {
        !server.state().is_cancel() && (!self.active || is_active(server.link()))
    }
}

/// Whether something is on its way in a connection's buffers.
fn is_active(link: Option<&Link>) -> bool {
    link.is_some_and(|link| link.held() != (0, 0) || link.is_readable())
}

impl Table for Sockets {
    fn columns(&self) -> Vec<Column> {
        joined(&[SOCKET, BUFFERS])
    }

    fn place(&self, engine: &Engine, from: u64) -> Option<u64> {
        let client = client_place(engine, from, |client| self.shows_client(client));
        client.or_else(|| {
            let from = from.saturating_sub(SERVERS_FROM);
            let place = server_place(engine, from, |server| self.shows_server(server))?;
            Some(SERVERS_FROM + place)
        })
    }

    fn row<'a>(&'a self, engine: &'a Engine, place: u64) -> Option<Box<dyn Row + 'a>> {
        let row: SocketRow = match place.checked_sub(SERVERS_FROM) {
            None => {
                let client = client_at(engine, place)?;
                SocketRow {
                    state: client_state(client.1),
                    held: client.1.link().held(),
                    row: Box::new(ClientRow::new(engine, client)),
                }
            }
            Some(place) => {
                let server = server_at(engine, place)?;
                SocketRow {
                    state: server_state(server),
                    held: server.link().map(Link::held).unwrap_or_default(),
                    row: Box::new(ServerRow::new(engine, server)),
                }
            }
        };
        Some(Box::new(row))
    }
}

impl Table for Fds {
    fn columns(&self) -> Vec<Column> {
        FDS.to_vec()
    }

    fn place(&self, engine: &Engine, from: u64) -> Option<u64> {
        Sockets { active: false }.place(engine, from)
    }

    fn row<'a>(&'a self, engine: &'a Engine, place: u64) -> Option<Box<dyn Row + 'a>> {
        let row = match place.checked_sub(SERVERS_FROM) {
            None => {
                let row = ClientRow::new(engine, client_at(engine, place)?);
                let link = row.server().map(|server| server.id);
                FdRow::new("client", row.client.id, link, Box::new(row))
            }
            Some(place) => {
                let row = ServerRow::new(engine, server_at(engine, place)?);
                let link = row.client().map(|client| client.id);
                let vars = row.server.vars.clone();
                let mut fd = FdRow::new("server", row.server.id, link, Box::new(row));
                let names = [
                    &b"client_encoding"[..],
                    b"standard_conforming_strings",
                    b"datestyle",
                    b"timezone",
                ];
                fd.vars = names.map(|name| vars.get(name).map(printable));
                fd
            }
        };
        Some(Box::new(row))
    }
}

// ---- rows ----

struct ClientRow<'a> {
    engine: &'a Engine,
    key: ClientKey,
    client: &'a Client,
    facts: OnceCell<Facts>,
}

impl<'a> ClientRow<'a> {
    fn new(engine: &'a Engine, (key, client): (ClientKey, &'a Client)) -> ClientRow<'a> {
        let facts = OnceCell::new();
        ClientRow {
            engine,
            key,
            client,
            facts,
        }
    }

    fn facts(&self) -> &Facts {
        self.facts.get_or_init(|| self.client.link().facts())
    }

    fn server(&self) -> Option<&'a Server> {
        let key = self.client.state().server()?;
        self.engine.servers().get(key)
    }

    fn session(&self) -> Option<&'a Session> {
        self.client.session.as_deref()
    }

    fn waited_us(&self) -> u64 {
        let is_waiting = self.client.state().is_waiting();
        let waited = self.engine.now().since(self.client.since());
        if is_waiting { waited } else { 0 }
    }

    fn request_at(&self) -> crate::arena::Tick {
        let busy = self.server().filter(|server| server.relay.is_busy());
        busy.map_or(self.client.since(), Server::request_at)
    }

    /// What it waits for, if it does.
    fn waits_for(&self) -> Option<String> {
        if let ClientState::Console(console) = self.client.state() {
            return console.waits_for.clone();
        }
        let (pool_key, role) = self.client.pool_and_role()?;
        let waits = self.client.state().is_waiting();
        waits.then(|| self.engine.why_waiting(pool_key, self.key, role))?
    }
}

impl Row for ClientRow<'_> {
    fn value(&self, column: usize) -> Value {
        let (engine, client) = (self.engine, self.client);
        match column {
            0 => Value::text("C"),
            1 => Value::text(self.session().map_or("(nouser)".to_owned(), |session| {
                printable(session.claim.user.as_bytes())
            })),
            2 => Value::text(self.session().map_or("(nodb)".to_owned(), |session| {
                printable(session.claim.database.as_bytes())
            })),
            3 => Value::text(self.session().map_or("none", Session::replication)),
            4 => Value::text(client.state().name()),
            5 => Value::text(&*self.facts().address),
            6 => Value::number(self.facts().port),
            7 => Value::text(&*self.facts().local_address),
            8 => Value::number(self.facts().local_port),
            9 => Value::text(time(engine, client.connected_at)),
            10 => Value::text(time(engine, self.request_at())),
            11 => Value::number(self.waited_us() / 1_000_000),
            12 => Value::number(self.waited_us() % 1_000_000),
            13 => Value::Number(0),
            14 => Value::text(format!("c{}", client.id)),
            15 => Value::text(match self.server() {
                Some(server) => format!("s{}", server.id),
                None => String::new(),
            }),
            16 => Value::number(self.server().map_or(0, |server| server.pid)),
            17 => Value::text(tls(self.facts())),
            18 => Value::text(
                self.session()
                    .map(Session::application_name)
                    .unwrap_or_default(),
            ),
            19 => Value::number(self.session().map_or(0, Session::statement_count)),
            20 => Value::number(client.id),
            21 => Value::text(client.mode().as_str()),
            22 => Value::optional(self.waits_for()),
            23 => Value::number(self.server().map_or(0, |server| query_us(engine, server))),
            24 => Value::number(
                self.server()
                    .map_or(0, |server| transaction_us(engine, server)),
            ),
            _ => Value::Null,
        }
    }
}

/// For how long a server has worked on what it was asked last; 0 if it is done.
fn query_us(engine: &Engine, server: &Server) -> u64 {
    let busy = server.state().client().is_some() && server.relay.is_busy();
    let since = engine.now().since(server.request_at());
    if busy { since } else { 0 }
}

/// For how long the transaction goes on; 0 if there is none.
fn transaction_us(engine: &Engine, server: &Server) -> u64 {
    let open = server.relay.is_busy() || server.relay.status() != TransactionStatus::Idle;
    let open = open && server.state().client().is_some();
    let since = engine.now().since(server.transaction_at());
    if open { since } else { 0 }
}

struct ServerRow<'a> {
    engine: &'a Engine,
    server: &'a Server,
    facts: OnceCell<Facts>,
}

impl<'a> ServerRow<'a> {
    fn new(engine: &'a Engine, server: &'a Server) -> ServerRow<'a> {
        let facts = OnceCell::new();
        ServerRow {
            engine,
            server,
            facts,
        }
    }

    fn facts(&self) -> &Facts {
        let facts = || self.server.link().map(Link::facts).unwrap_or_default();
        self.facts.get_or_init(facts)
    }

    fn client(&self) -> Option<&'a Client> {
        let key = self.server.state().client()?;
        self.engine.clients().get(key)
    }

    fn startup_set(&self) -> String {
        let pair = |(name, value): &(Vec<u8>, Vec<u8>)| {
            format!("{}={}", printable(name), printable(value))
        };
        let set: Vec<String> = self.server.kind.parameters.iter().map(pair).collect();
        set.join(" ")
    }

    fn used_at(&self) -> crate::arena::Tick {
        let server = self.server;
        let busy = server.state().client().is_some() && server.relay.is_busy();
        if busy {
            server.request_at()
        } else {
            server.since()
        }
    }
}

impl Row for ServerRow<'_> {
    fn value(&self, column: usize) -> Value {
        let (engine, server) = (self.engine, self.server);
        match column {
            0 => Value::text("S"),
            1 => Value::text(printable(&server.kind.user)),
            2 => Value::text(match engine.pools().get(server.pool) {
                Some(pool) => pool.label(),
                None => "(nodb)".into(),
            }),
            3 => Value::text(
                server
                    .kind
                    .replication()
                    .map_or("none", Replication::as_str),
            ),
            4 => Value::text(server.state().name()),
            5 => Value::text(&*self.facts().address),
            6 => Value::number(self.facts().port),
            7 => Value::text(&*self.facts().local_address),
            8 => Value::number(self.facts().local_port),
            9 => Value::text(time(engine, server.created_at)),
            10 => Value::text(time(engine, self.used_at())),
            11 | 12 => Value::Number(0),
            13 => Value::number(u8::from(server.is_to_be_closed())),
            14 => Value::text(format!("s{}", server.id)),
            15 => Value::text(match self.client() {
                Some(client) => format!("c{}", client.id),
                None => String::new(),
            }),
            16 => Value::number(server.pid),
            17 => Value::text(tls(self.facts())),
            18 => Value::text(
                server
                    .vars
                    .get(b"application_name")
                    .map(printable)
                    .unwrap_or_default(),
            ),
            19 => Value::number(server.statements.count()),
            20 => Value::number(server.id),
            21 => Value::text(match (server.state(), server.relay.status()) {
                (ServerState::Paired(_), TransactionStatus::InBlock) => "open",
                (ServerState::Paired(_), TransactionStatus::Failed) => "failed",
                _ => "",
            }),
            22 => Value::text(server.relay.seen().describe()),
            23 => Value::text(time(engine, server.since())),
            24 => Value::number(server.sessions),
            25 => Value::number(engine.now().since(server.created_at) / 1_000_000),
            26 => Value::text(self.startup_set()),
            27 => Value::number(query_us(engine, server)),
            28 => Value::number(transaction_us(engine, server)),
            _ => Value::Null,
        }
    }
}

/// A row of SHOW SOCKETS: that of SHOW CLIENTS or SHOW SERVERS with another state, and what the buffers hold.
struct SocketRow<'a> {
    row: Box<dyn Row + 'a>,
    state: &'static str,
    /// Bytes that came and were not passed on, and bytes that are still to be written.
    held: (usize, usize),
}

fn client_state(client: &Client) -> &'static str {
    match client.state() {
        state if state.is_waiting() => "cl_waiting",
        state if state.is_logged_in() => "cl_active",
        _ => "cl_login",
    }
}

fn server_state(server: &Server) -> &'static str {
    match server.state().name() {
        "idle" => "sv_idle",
        "tested" => "sv_tested",
        "new" => "sv_login",
        _ => "sv_active",
    }
}

impl Row for SocketRow<'_> {
    fn value(&self, column: usize) -> Value {
        let (came, goes) = self.held;
        match column {
            4 => Value::text(self.state),
            // Aether's buffers begin where something is in them.
            21 => Value::number(came),
            22 | 24 => Value::Number(0),
            23 | 26 => Value::number(came),
            25 | 27 => Value::number(goes),
            column => self.row.value(column),
        }
    }
}

/// A row of SHOW FDS. Descriptors and secrets are not shown; the ids of SHOW SOCKETS stand in the place of the former.
struct FdRow<'a> {
    task: &'static str,
    id: u64,
    link: Option<u64>,
    vars: [Option<String>; 4],
    row: Box<dyn Row + 'a>,
}

impl<'a> FdRow<'a> {
    fn new(task: &'static str, id: u64, link: Option<u64>, row: Box<dyn Row + 'a>) -> FdRow<'a> {
        FdRow {
            task,
            id,
            link,
            vars: Default::default(),
            row,
        }
    }
}

impl Row for FdRow<'_> {
    fn value(&self, column: usize) -> Value {
        match column {
            0 => Value::number(self.id),
            1 => Value::text(self.task),
            2 => self.row.value(1),
            3 => self.row.value(2),
            4 => self.row.value(5),
            5 => self.row.value(6),
            6 => Value::Number(0),
            7 => Value::number(self.link.unwrap_or(0)),
            8..=11 => Value::optional(self.vars.get(column - 8).cloned().flatten()),
            _ => Value::Null,
        }
    }
}

/// What protects a connection, as PgBouncer writes it.
fn tls(facts: &Facts) -> String {
    facts.tls.as_ref().map_or_else(String::new, |tls| {
        format!("{}/{}/{}", tls.protocol, tls.cipher, tls.group)
    })
}
