//! A client: its connection, its state, and what it said of itself.

use std::borrow::Cow;
use std::rc::Rc;

use super::claim::Claim;
use super::link::Link;
use super::lookup::{LookedUp, Purpose};
use super::wheel::Armed;
use crate::arena::{PoolKey, ServerKey, Tick};
use crate::auth::Verify;
use crate::config::hba::{Method, Rule};
use crate::config::{PoolMode, ServerAssignment};
use crate::pool::cancel::CancelKey;
use crate::pool::{Kind, Replication};
use crate::relay::prepared::ClientStatements;
use crate::relay::{Skip, Vars};
use crate::wire::frame::printable_str;
use crate::wire::refusal::Refusal;

/// A client.
pub struct Client {
    pub(super) link: Link,
    pub(super) state: ClientState,
    /// When the state began, or of the last activity in it.
    pub(super) since: Tick,
    /// When the timer wheel will look at it.
    pub(super) armed: Armed,
    /// Counts clients and servers from 1, in the order in which they came.
    pub id: u64,
    /// When it came.
    pub connected_at: Tick,
    /// What its startup packet said; `None` before that.
    pub session: Option<Box<Session>>,
}

/// What is known of a client once its startup packet has come.
pub struct Session {
    /// What its startup packet said.
    pub claim: Rc<Claim>,
    /// Where it wants to go.
    pub(super) place: Place,
    /// What it may cancel itself with; from the welcome on.
    pub(super) cancel: Option<CancelKey>,
    /// When it gives its server back: what held for its role and pool when it came.
    pub(super) mode: PoolMode,
    /// Its pool and its user count it.
    pub(super) counted: bool,
    /// What it believes of the reported parameters; from the welcome on.
    pub(super) vars: Rc<Vars>,
    /// What it has prepared, if it shares its servers with others.
    pub(super) statements: ClientStatements,
    /// What no server gets to see of what it sends while it has none.
    pub(super) skip: Skip,
    /// What its servers must have been started with; once it is authenticated.
    pub(super) kind: Option<Rc<Kind>>,
    /// How its secret was found, if that took an `auth_query`; until it is authenticated.
    pub(super) looked_up: Option<Box<LookedUp>>,
    /// It has waited for its login, and that was charged to where it came from: if it fails, that is paid for.
    pub(super) charged: bool,
    /// What was known of its pool when that was found out ([`crate::pool::Pool::epoch`]).
    pub(super) epoch: u32,
    /// Its login, as far as it is to be counted still.
    pub(super) login: Login,
}

/// A login that is counted when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// No rule was found for it yet.
    Unruled,
    /// How its client has to prove itself.
    By(Method),
    /// It was counted.
    Counted,
}

impl Session {
    /// The kind of replication that it does: the word for SHOW CLIENTS.
    pub fn replication(&self) -> &'static str {
        self.claim.replication().map_or("none", Replication::as_str)
    }

    /// Statements that it has prepared, if it shares its servers with others.
    pub fn statement_count(&self) -> usize {
        self.statements.count()
    }

    /// What it is called; printable. Of one that shares its servers, as it was at the end of its last transaction.
    pub fn application_name(&self) -> String {
        let now = self.vars.get(b"application_name");
        match now.filter(|_| self.mode != PoolMode::Session) {
            Some(name) => crate::wire::frame::printable(name),
            None => self.claim.application_name(),
        }
    }
}

/// Where a client wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To a pool.
    Pool(PoolKey),
    /// To the console.
    Console,
    /// To a database that is not configured; it is told after it has proven who it is, as PostgreSQL does.
    Nowhere,
}

/// What a console session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Every command.
    Admin,
    /// Looking.
    Stats,
}

/// A console session.
#[derive(Debug)]
pub struct Console {
    /// What it may do.
    pub role: Role,
    /// Who has the word.
    pub(super) talk: Talk,
    /// It has asked for something.
    pub(super) used: bool,
    /// What its command waits for, if it does.
    pub waits_for: Option<String>,
}

/// Who has the word in a console session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Talk {
    /// The client.
    Quiet,
    /// The console: it was asked.
    Asked,
    /// The console, when what it has said has gone.
    Answering,
}

/// Where a client stands.
pub enum ClientState {
    /// Before its startup packet.
    Greeting {
        /// SSLRequest was answered.
        ssl_asked: bool,
        /// GSSENCRequest was answered.
        gss_asked: bool,
    },
    /// We wait for its next authentication message.
    Proving(Box<Verify>),
    /// A key derivation runs for it.
    Deriving(Box<Verify>),
    /// The name of the user at the other end of its Unix socket is being looked up, for this rule.
    Identifying(Rc<Rule>),
    /// What is known of its user is asked for, to go on with this.
    LookingUp(Purpose),
    /// Too many logins have failed where it comes from: its own begins then.
    HeldBack(Tick),
    /// It could not show who it is, and is told this then.
    Failing(Box<(Tick, Refusal)>),
    /// Authenticated; it is in its pool's queue, and its welcome needs a server.
    AwaitingWelcome,
    /// Logged in, without a server (`server_assignment: first_query`).
    Idle,
    /// Logged in, it is in its pool's queue with a query.
    Queued,
    /// It has a server.
    Paired(ServerKey),
    /// It has a server and has half-closed: what it is owed is still delivered.
    Departing(ServerKey),
    /// It talks to the console.
    Console(Box<Console>),
    /// Its CancelRequest is being forwarded over this connection.
    Cancelling(ServerKey),
    /// Its CancelRequest waits for a connection to the peer whose key it has.
    AwaitingPeer,
    /// Its last message is being delivered.
    Leaving {
        /// Everything is written and our side is closed.
        shut: bool,
    },
}

impl ClientState {
    /// Stands in while a step of the login is taken. Not `Leaving`: a client in that state has been told why.
    pub(super) fn undecided() -> ClientState {
        ClientState::Greeting {
            ssl_asked: true,
            gss_asked: true,
        }
    }

    /// The word for SHOW CLIENTS.
    pub fn name(&self) -> &'static str {
        match self {
            ClientState::Greeting { .. } | ClientState::Proving(_) | ClientState::Deriving(_) => {
                "login"
            }
            ClientState::Identifying(_)
            | ClientState::LookingUp(_)
            | ClientState::HeldBack(_)
            | ClientState::Failing(..) => "login",
            ClientState::AwaitingWelcome | ClientState::Queued => "waiting",
            ClientState::Idle | ClientState::Console(_) => "idle",
            ClientState::Paired(_) | ClientState::Departing(_) => "active",
            ClientState::Cancelling(_) => "active_cancel_req",
            ClientState::AwaitingPeer => "waiting_cancel_req",
            ClientState::Leaving { .. } => "leaving",
        }
    }

    /// The server it holds.
    pub fn server(&self) -> Option<ServerKey> {
        match self {
            ClientState::Paired(server) | ClientState::Departing(server) => Some(*server),
            _ => None,
        }
    }

    /// Whether it has got past authentication.
    pub fn is_logged_in(&self) -> bool {
        matches!(
            self,
            ClientState::Idle
                | ClientState::Queued
                | ClientState::Paired(_)
                | ClientState::Departing(_)
                | ClientState::Console(_)
        )
    }

    /// Whether it has not shown yet who it is, and may still do so or waits to be told that it failed.
    pub fn is_unauthenticated(&self) -> bool {
        matches!(
            self,
            ClientState::Greeting { .. }
                | ClientState::Proving(_)
                | ClientState::Deriving(_)
                | ClientState::Identifying(_)
                | ClientState::LookingUp(_)
                | ClientState::HeldBack(_)
                | ClientState::Failing(..)
        )
    }

    /// Whether it has brought a CancelRequest.
    pub fn is_cancel(&self) -> bool {
        matches!(self, ClientState::Cancelling(_) | ClientState::AwaitingPeer)
    }

    /// Whether it is in its pool's queue.
    pub fn is_waiting(&self) -> bool {
        matches!(self, ClientState::AwaitingWelcome | ClientState::Queued)
    }
}

impl Client {
    pub(super) fn new(link: Link, id: u64, now: Tick) -> Client {
        Client {
            link,
            state: ClientState::Greeting {
                ssl_asked: false,
                gss_asked: false,
            },
            since: now,
            armed: Armed::NOT,
            id,
            connected_at: now,
            session: None,
        }
    }

    /// Puts it into a state. What comes and goes with every transaction owns nothing, and is spared the way through all that a
    /// state may own.
    pub(super) fn enter(&mut self, state: ClientState, now: Tick) {
        self.since = now;
        match std::mem::replace(&mut self.state, state) {
            old @ (ClientState::Idle | ClientState::Paired(_)) => std::mem::forget(old),
            old => drop(old),
        }
    }

    /// Where it stands.
    pub fn state(&self) -> &ClientState {
        &self.state
    }

    /// When the state began, or of the last activity in it.
    pub fn since(&self) -> Tick {
        self.since
    }

    /// Its connection.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// `user@database`, for log lines.
    pub(super) fn label(&self) -> String {
        match &self.session {
            Some(session) => format!(
                "{}@{}",
                printable(&session.claim.user),
                printable(&session.claim.database)
            ),
            None => "(no user)".to_owned(),
        }
    }

    /// Where it wants to go and who it says it is, printable.
    pub(super) fn database_and_user(&self) -> (Cow<'_, str>, Cow<'_, str>) {
        match self.session.as_deref() {
            Some(session) => (
                printable_str(&session.claim.database),
                printable_str(&session.claim.user),
            ),
            None => (Cow::Borrowed("(nodb)"), Cow::Borrowed("(nouser)")),
        }
    }

    /// Its pool and the role that logs in there for it, once it is authenticated.
    pub fn pool_and_role(&self) -> Option<(PoolKey, &[u8])> {
        let kind = self.session.as_deref()?.kind.as_deref()?;
        Some((self.pool()?, &kind.user))
    }

    /// Its pool, if that is where it wants to go.
    pub(super) fn pool(&self) -> Option<PoolKey> {
        match self.session.as_deref()?.place {
            Place::Pool(pool) => Some(pool),
            _ => None,
        }
    }

    /// Whether it only gets its server with the first query.
    pub(super) fn is_frugal(&self, pool: &crate::config::PoolConfig) -> bool {
        self.mode() != PoolMode::Session || pool.server_assignment == ServerAssignment::FirstQuery
    }

    /// When it gives its server back.
    pub fn mode(&self) -> PoolMode {
        self.session
            .as_deref()
            .map_or(PoolMode::Session, |session| session.mode)
    }
}

fn printable(text: &str) -> String {
    crate::wire::frame::printable(text.as_bytes())
}
