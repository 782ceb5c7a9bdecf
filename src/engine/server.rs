//! A server connection: its state, what it was started with, and what it said of itself.

use std::rc::Rc;

use super::bulk::Bulk;
use super::link::Link;
use super::peers::Forward;
use super::requests::Requests;
use super::stream::{Address, TlsSide};
use super::wheel::Armed;
use crate::arena::{ClientKey, PoolKey, ServerKey, Tick};
use crate::lookup::Lookup;
use crate::pool::Kind;
use crate::relay::prepared::ServerStatements;
use crate::relay::{Relay, Vars};
use crate::reset::Reset;
use crate::startup::{Login, Welcome};
use crate::tune::Tuning;

/// A server connection.
pub struct Server {
    /// `None` while a name is being looked up.
    pub(super) link: Option<Link>,
    pub(super) state: ServerState,
    /// When the state began.
    pub(super) since: Tick,
    /// When the timer wheel will look at it.
    pub(super) armed: Armed,
    /// The wheel need not be told when it becomes idle: it was armed for that before, and looks no later. Whenever it comes up, and
    /// after a reload or RESUME, the server is armed anew.
    pub(super) idle_watched: bool,
    /// Counts clients and servers from 1, in the order in which they came.
    pub id: u64,
    /// When the connection was begun.
    pub created_at: Tick,
    /// Its pool.
    pub pool: PoolKey,
    /// What it was started with.
    pub kind: Rc<Kind>,
    /// Where it is connected to, once that is known.
    pub address: Option<Address>,
    /// What is still to be tried when this attempt fails.
    pub(super) route: Route,
    /// TLS that was laid over its connection, and that for cancels must have as well.
    pub(super) tls: Option<TlsSide>,
    /// Process id and key that the server gave.
    pub pid: u32,
    pub(super) key: Vec<u8>,
    /// Reported parameters.
    pub vars: Rc<Vars>,
    /// The same as they were when it had been started; `None` before that.
    pub(super) base: Option<Rc<Vars>>,
    /// Parameters that were found to tell of nobody else than who logged in.
    itself: Option<Rc<Vars>>,
    /// Prepared statements that it holds for clients which share it.
    pub statements: ServerStatements,
    /// Notices from its login, for the clients that get it.
    pub(super) notices: Vec<u8>,
    /// Sessions it has served.
    pub sessions: u64,
    /// Cancel connections under way against it.
    pub(super) cancels: u32,
    /// One that was sent has not come to its end: the server may still act on it, on whoever has it then.
    pub(super) cancel_lost: bool,
    /// Not to be used after this; `None`: no limit.
    pub(super) retire_at: Option<Tick>,
    /// When it was last kept although it had been idle for long enough.
    pub(super) spared_at: Tick,
    /// Closed as soon as its client leaves: its pool's address has changed.
    pub(super) recycle: bool,
    /// Its present client, or the last one, shares it with others.
    pub(super) shared: bool,
    /// What passes between it and its client.
    pub relay: Relay,
    /// How its answers are read.
    pub(super) bulk: Bulk,
    /// How the data of its client's COPY FROM STDIN is read.
    pub(super) copy_in: Bulk,
    /// When the client's request came that it works on.
    pub(super) request_at: Tick,
    /// When the transaction began.
    pub(super) transaction_at: Tick,
    /// How long its client has waited for it, until its first transaction begins.
    pub(super) waited_us: u64,
    /// What its client asks, while that is followed.
    pub(super) requests: Option<Box<Requests>>,
}

/// Places that may be tried for one connection, in order.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// The host of the pool's list that was tried first.
    pub first_host: usize,
    /// Hosts that were tried; after the last of the list comes the first.
    pub tried: usize,
    /// The present one.
    pub host: usize,
    /// The present host, if it is a name that was or is to be looked up.
    pub name: Option<Rc<str>>,
    /// The port there.
    pub port: u16,
    /// Addresses of the present host that have not been tried, the next one last.
    pub addresses: Vec<Address>,
    /// The present address is tried the second way: without TLS, or with.
    pub second: bool,
    /// The next address is the present one, and is tried the second way.
    pub again: bool,
}

/// Where a server stands. Small, since it changes with every transaction.
pub enum ServerState {
    /// Its host's name is being looked up.
    Resolving,
    /// The connection is being made, and SSLRequest waits for an answer.
    AskingTls,
    /// The connection is being made, that of TLS included; the startup packet waits for it.
    Dialing,
    /// It lets us in, or not.
    LoggingIn(Box<Login>),
    /// It has let us in, and runs `connect_query`.
    Preparing(Box<Welcome>),
    /// In its pool's idle stack.
    Idle,
    /// The check query runs; it goes to the client that waits.
    Checking(Reset),
    /// It is asked what it makes of the settings of a client that waits for its welcome.
    Tuning(Box<Tuning>),
    /// It is asked for a user's secret.
    Looking(Box<Lookup>),
    /// A client holds it.
    Paired(ClientKey),
    /// Its client has gone, and it still works for it.
    Draining,
    /// Released, but a cancel is under way against it: what comes next must not be hit.
    Held,
    /// The reset runs.
    Resetting(Reset),
    /// Not a session: carries a CancelRequest.
    Cancelling(Box<Cancel>),
    /// Not a session: carries a CancelRequest to a peer, to whose clients its key belongs.
    Forwarding(Box<Forward>),
}

const _: () = assert!(size_of::<ServerState>() <= 24);

/// A cancel under way. At most two for one server: one that is sent, and one that waits.
#[derive(Debug)]
pub struct Cancel {
    /// The server that is meant.
    pub(super) victim: ServerKey,
    /// The client whose query is meant; `None`: whatever the server runs, it will not be used again.
    pub owner: Option<ClientKey>,
    /// The connections that brought the CancelRequest: closed when this one is.
    pub(super) askers: Vec<ClientKey>,
    /// How far it is.
    pub(super) stage: Stage,
}

/// How far a connection for a cancel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// SSLRequest waits for an answer.
    Asking,
    /// The connection is being made, that of TLS included, or waits for its turn.
    Opening,
    /// The request is sent.
    Sent,
    /// The server has closed the connection, as it does when it has acted on the request.
    Done,
}

impl ServerState {
    /// The word for SHOW SERVERS.
    pub fn name(&self) -> &'static str {
        match self {
            ServerState::Resolving
            | ServerState::AskingTls
            | ServerState::Dialing
            | ServerState::LoggingIn(_)
            | ServerState::Preparing(_) => "new",
            ServerState::Idle => "idle",
            ServerState::Checking(_) | ServerState::Tuning(_) | ServerState::Resetting(_) => {
                "tested"
            }
            ServerState::Paired(_) | ServerState::Draining | ServerState::Looking(_) => "active",
            ServerState::Held => "being_canceled",
            ServerState::Cancelling(_) | ServerState::Forwarding(_) => "active_cancel",
        }
    }

    /// Whether it is on its way to its first ReadyForQuery.
    pub fn is_connecting(&self) -> bool {
        matches!(
            self,
            ServerState::Resolving
                | ServerState::AskingTls
                | ServerState::Dialing
                | ServerState::LoggingIn(_)
                | ServerState::Preparing(_)
        )
    }

    /// The client that holds it.
    pub fn client(&self) -> Option<ClientKey> {
        match self {
            ServerState::Paired(client) => Some(*client),
            _ => None,
        }
    }

    /// Whether it carries a cancel, be it to a peer.
    pub fn is_cancel(&self) -> bool {
        matches!(
            self,
            ServerState::Cancelling(_) | ServerState::Forwarding(_)
        )
    }
}

impl Server {
    pub(super) fn new(
        state: ServerState,
        id: u64,
        pool: PoolKey,
        kind: Rc<Kind>,
        now: Tick,
    ) -> Server {
        Server {
            link: None,
            state,
            since: now,
            armed: Armed::NOT,
            idle_watched: false,
            id,
            created_at: now,
            pool,
            kind,
            address: None,
            route: Route::default(),
            tls: None,
            pid: 0,
            key: Vec::new(),
            vars: Rc::default(),
            base: None,
            itself: None,
            statements: ServerStatements::default(),
            notices: Vec::new(),
            sessions: 0,
            cancels: 0,
            cancel_lost: false,
            retire_at: None,
            spared_at: now,
            recycle: false,
            shared: false,
            relay: Relay::default(),
            bulk: Bulk::NONE,
            copy_in: Bulk::NONE,
            request_at: now,
            transaction_at: now,
            waited_us: 0,
            requests: None,
        }
    }

    /// Puts it into a state, as [`Client::enter`](super::Client::enter) does.
    pub(super) fn enter(&mut self, state: ServerState, now: Tick) {
        self.since = now;
        match std::mem::replace(&mut self.state, state) {
            old @ (ServerState::Idle | ServerState::Paired(_)) => std::mem::forget(old),
            old => drop(old),
        }
    }

    /// Where it stands.
    pub fn state(&self) -> &ServerState {
        &self.state
    }

    /// When the state began.
    pub fn since(&self) -> Tick {
        self.since
    }

    /// When the client's request came that it works on, or worked on last.
    pub fn request_at(&self) -> Tick {
        self.request_at
    }

    /// When the client's transaction began.
    pub fn transaction_at(&self) -> Tick {
        self.transaction_at
    }

    /// Whether it is closed as soon as its client leaves.
    pub fn is_to_be_closed(&self) -> bool {
        self.recycle
    }

    /// Its connection.
    pub fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// Whether it is who logged in, as far as the server reports it: whatever has changed that, a function or a text that only
    /// the server put together.
    pub(super) fn is_itself(&mut self) -> bool {
        let known = |vars: &Rc<Vars>| Rc::ptr_eq(vars, &self.vars);
        if self.itself.as_ref().is_some_and(known) {
            return true;
        }
        let base = self.base.as_deref();
        let is_itself = base.is_none_or(|base| self.vars.is_same_user(base));
        self.itself = is_itself.then(|| self.vars.clone());
        is_itself
    }

    /// Whether it is shared, and the poll has told nothing of it. Such a one goes from hand to hand too often for a look at its
    /// socket each time.
    pub(super) fn is_quiet(&self) -> bool {
        self.shared && self.link.as_ref().is_some_and(|link| !link.is_readable())
    }

    /// Whether it is too old to be used again.
    pub(super) fn is_expired(&self, now: Tick) -> bool {
        self.retire_at.is_some_and(|at| now >= at)
    }
}
