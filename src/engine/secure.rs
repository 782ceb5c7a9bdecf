//! Agrees on TLS, on both legs: what clients ask for and are answered, what servers are asked for and answer.
//!
//! Nothing that comes in the clear beside a request for TLS, or beside the answer to one, is ever used (CVE-2021-3935,
//! CVE-2021-23222); what a server says instead of an answer is shown to nobody (CVE-2024-10977).

use std::rc::Rc;

use super::dial::unreachable_text;
use super::server::Stage;
use super::{
    Address, ClientKey, ClientState, Engine, Facts, Host, Link, Protection, ServerKey, ServerState,
    Stream, TlsSide, Who,
};
use crate::config::HostPort;
use crate::limits;
use crate::tls::{Acceptor, Connector, Mode};
use crate::wire::frame::printable;
use crate::wire::frontend;
use crate::wire::refusal::{Blame, Refusal};

/// SQLSTATE of a pg_hba.conf that has no line for somebody, or one that rejects: perhaps it has one with, or without, TLS.
const NOT_THIS_WAY: &str = "28000";

/// The first byte of a TLS handshake.
pub(super) const CLIENT_HELLO: u8 = 0x16;

const BEHIND_THE_ANSWER: &str = "it sent unencrypted data behind its answer to the SSL request";

/// How a connection to a server begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// With the startup packet.
    Plain,
    /// With SSLRequest.
    Asking,
    /// With the handshake.
    Direct,
}

// ---- towards clients ----

impl Engine {
    fn acceptor_for(&self, key: ClientKey) -> Option<Rc<Acceptor>> {
        let acceptor = self.config.server.tls.clone()?;
        let link = &self.clients.get(key)?.link;
        let wanted = acceptor.mode() != Mode::Disable && link.protection() == Protection::None;
        (wanted && !link.is_unix()).then_some(acceptor)
    }

    /// SSLRequest has come, for the first time. `false`: there is no TLS for this client.
    pub(super) fn ssl_asked(
        &mut self,
        key: ClientKey,
        more_behind: bool,
        host: &mut dyn Host,
    ) -> bool {
        let Some(acceptor) = self.acceptor_for(key) else {
            return false;
        };
        if more_behind {
            let refusal = Refusal::protocol("received unencrypted data after SSL request");
            self.refuse(key, refusal, host);
            return true;
        }
        self.send_to_client(key, b"S");
        let direct = false;
        self.secure_client(key, TlsSide::Client { acceptor, direct }, Vec::new(), host);
        true
    }

    /// The first bytes of a connection are those of TLS. `false`: there is no TLS for this client.
    pub(super) fn direct_tls(&mut self, key: ClientKey, bytes: &[u8], host: &mut dyn Host) -> bool {
        let acceptor = self.acceptor_for(key);
        let state = self.clients.get_mut(key).map(|client| &mut client.state);
        let (
            Some(acceptor),
            Some(ClientState::Greeting {
                ssl_asked,
                gss_asked: false,
            }),
        ) = (acceptor, state)
        else {
            return false;
        };
        if std::mem::replace(ssl_asked, true) {
            return false; // and it may not be asked for inside of TLS either
        }
        let direct = true;
        self.secure_client(
            key,
            TlsSide::Client { acceptor, direct },
            bytes.to_vec(),
            host,
        );
        true
    }

    fn secure_client(
        &mut self,
        key: ClientKey,
        side: TlsSide,
        received: Vec<u8>,
        host: &mut dyn Host,
    ) {
        let secured = match self.clients.get_mut(key) {
            Some(client) => client.link.secure(side, received, host),
            None => return,
        };
        match secured {
            Ok(()) => self.list(Who::Client(key)),
            Err(why) => self.close_client(key, &format!("TLS cannot be set up: {why}"), host),
        }
    }

    /// Why a client may not go on in the clear.
    pub(super) fn plain_refused(
        &self,
        key: ClientKey,
        user: &str,
        database: &str,
    ) -> Option<Refusal> {
        let mode = self.acceptor_for(key)?.mode();
        if mode < Mode::Require {
            return None;
        }
        let facts = self.clients.get(key)?.link.facts();
        Some(no_encryption(&facts, user, database, mode))
    }
}

/// PostgreSQL's words for the same decision.
fn no_encryption(facts: &Facts, user: &str, database: &str, mode: Mode) -> Refusal {
    let text = format!(
        "no pg_hba.conf entry for host \"{}\", user \"{}\", database \"{}\", no encryption",
        facts.address,
        printable(user.as_bytes()),
        printable(database.as_bytes())
    );
    Refusal::fatal(b"28000", text, Blame::Client).hint(format!(
        "Aether only takes clients with TLS here (server.tls.mode: {}); connect with sslmode=require.",
        mode.as_str()
    ))
    .pgbouncer("SSL required")
}

// ---- how fast handshakes may come ----

impl Engine {
    /// Whether a connection in the middle of a handshake ([`Link::is_shaking`]) may go on in this turn. The others come first: one step may be a
    /// signature by an RSA key, a millisecond.
    pub(super) fn may_shake(&mut self, who: Who) -> bool {
        if self.handshakes >= limits::HANDSHAKES_PER_TURN {
            self.list(who);
            return false;
        }
        self.handshakes += 1;
        true
    }
}

// ---- towards servers ----

impl Engine {
    fn connector_for(&self, key: ServerKey) -> Option<(Rc<Connector>, String)> {
        let server = self.servers.get(key)?;
        let pool = self.pools.get(server.pool)?;
        let backend = &pool.config.backend;
        let present = server.route.host;
        match backend
            .hosts
            .get(present)
            .filter(|_| server.route.tried > 0)?
        {
            HostPort::Tcp(name, _) => Some((backend.tls.clone()?, name.clone())),
            HostPort::Unix(_) => None,
        }
    }

    fn opening(&self, key: ServerKey) -> Opening {
        let Some((connector, _)) = self.connector_for(key) else {
            return Opening::Plain;
        };
        let second = self
            .servers
            .get(key)
            .is_some_and(|server| server.route.second);
        match connector.mode() {
            Mode::Disable => Opening::Plain,
            Mode::Allow if !second => Opening::Plain,
            Mode::Prefer if second => Opening::Plain,
            _ if connector.is_direct() => Opening::Direct,
            _ => Opening::Asking,
        }
    }

    /// A connection is being made: what comes first?
    pub(super) fn dialed(
        &mut self,
        key: ServerKey,
        address: Address,
        stream: Box<dyn Stream>,
        host: &mut dyn Host,
    ) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        server.link = Some(Link::dialing(stream));
        server.address = Some(address);
        server.tls = None;
        server.route.second = std::mem::take(&mut server.route.again);
        match self.opening(key) {
            Opening::Plain => self.begin_login(key),
            Opening::Asking => {
                self.send_to_server(key, &ssl_request());
                self.enter_server(key, ServerState::AskingTls);
            }
            Opening::Direct => self.secure_server(key, host),
        }
    }

    fn secure_server(&mut self, key: ServerKey, host: &mut dyn Host) {
        let Some((connector, name)) = self.connector_for(key) else {
            return;
        };
        let side = TlsSide::Server {
            connector,
            host: name,
        };
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        server.tls = Some(side.clone());
        let secured = match server.link.as_mut() {
            Some(link) => link.secure(side, Vec::new(), host),
            None => return,
        };
        match secured {
            Ok(()) => self.begin_login(key), // what it sends waits for the end of the handshake
            Err(why) => self.encryption_failed(key, &why, host),
        }
    }

    /// Takes the one byte that answers SSLRequest.
    pub(super) fn ssl_answered(&mut self, key: ServerKey, bytes: &[u8], host: &mut dyn Host) {
        let mode = self
            .connector_for(key)
            .map_or(Mode::Disable, |(connector, _)| connector.mode());
        match bytes {
            b"S" => {
                self.secure_server(key, host);
                self.list(Who::Server(key));
            }
            b"N" if mode <= Mode::Prefer => {
                self.begin_login(key);
                self.list(Who::Server(key));
            }
            b"N" => {
                let text = format!(
                    "it does not support SSL, but sslmode={} requires it",
                    mode.as_str()
                );
                self.encryption_failed(key, &text, host);
            }
            [b'S' | b'N', ..] => self.encryption_failed(key, BEHIND_THE_ANSWER, host),
            [b'E', ..] => {
                let text =
                    "it sent an error in place of an answer to the SSL request; its log says why";
                self.encryption_failed(key, text, host);
            }
            _ => self.encryption_failed(key, "it sent an invalid answer to the SSL request", host),
        }
    }

    /// No TLS to this address: without, where `prefer` allows it, or to the next.
    pub(super) fn encryption_failed(&mut self, key: ServerKey, why: &str, host: &mut dyn Host) {
        let Some(server) = self.servers.get_mut(key) else {
            return;
        };
        let address = server.address.clone();
        let text = unreachable_text(&address.map(|a| a.to_string()).unwrap_or_default(), why);
        if !self.try_other_way(key, Mode::Prefer, host) {
            self.try_next(key, &text, host);
        }
    }

    /// The server lets nobody in this way: with `allow` it is tried with TLS, with `prefer` without.
    pub(super) fn login_refused(
        &mut self,
        key: ServerKey,
        refusal: &Refusal,
        host: &mut dyn Host,
    ) -> bool {
        let in_tls = self
            .servers
            .get(key)
            .is_some_and(|server| server.tls.is_some());
        let mode = if in_tls { Mode::Prefer } else { Mode::Allow };
        refusal.code() == NOT_THIS_WAY && self.try_other_way(key, mode, host)
    }

    /// Once more to the same address, if it is the first attempt there and the mode this one.
    fn try_other_way(&mut self, key: ServerKey, mode: Mode, host: &mut dyn Host) -> bool {
        let is_mode = self
            .connector_for(key)
            .is_some_and(|(connector, _)| connector.mode() == mode);
        let Some(server) = self.servers.get_mut(key) else {
            return false;
        };
        let Some(address) = server
            .address
            .clone()
            .filter(|_| is_mode && !server.route.second)
        else {
            return false;
        };
        server.route.addresses.push(address);
        server.route.again = true;
        self.try_next(key, "", host);
        true
    }

    fn send_to_server(&mut self, key: ServerKey, bytes: &[u8]) {
        if let Some(link) = self
            .servers
            .get_mut(key)
            .and_then(|server| server.link.as_mut())
        {
            link.send(bytes);
        }
    }
}

fn ssl_request() -> Vec<u8> {
    let mut packet = Vec::new();
    frontend::ssl_request(&mut packet);
    packet
}

// ---- cancels ----

impl Engine {
    /// What a connection for a cancel sends first: as its victim's did, so does it.
    pub(super) fn open_cancel(&mut self, key: ServerKey, host: &mut dyn Host) {
        let side = self.servers.get(key).and_then(|server| server.tls.clone());
        match side {
            None => {}
            Some(TlsSide::Server { ref connector, .. }) if connector.is_direct() => {
                self.secure_cancel(key, host)
            }
            Some(_) => {
                self.send_to_server(key, &ssl_request());
                self.set_stage(key, Stage::Asking);
            }
        }
    }

    /// Something came over a connection for a cancel: nothing but the answer to its SSLRequest means anything.
    pub(super) fn cancel_answered(&mut self, key: ServerKey, agreed: bool, host: &mut dyn Host) {
        let state = self.servers.get(key).map(|server| &server.state);
        let asking =
            matches!(state, Some(ServerState::Cancelling(cancel)) if cancel.stage == Stage::Asking);
        match agreed {
            _ if !asking => {}
            true => self.secure_cancel(key, host),
            false => self.close_server(key, "a cancel got no TLS", host),
        }
    }

    fn secure_cancel(&mut self, key: ServerKey, host: &mut dyn Host) {
        let secured = match self.servers.get_mut(key) {
            Some(server) => match (server.tls.clone(), server.link.as_mut()) {
                (Some(side), Some(link)) => link.secure(side, Vec::new(), host),
                _ => return,
            },
            None => return,
        };
        match secured {
            Ok(()) => {
                self.set_stage(key, Stage::Opening);
                self.list(Who::Server(key));
            }
            Err(why) => self.close_server(key, &format!("a cancel got no TLS: {why}"), host),
        }
    }

    fn set_stage(&mut self, key: ServerKey, stage: Stage) {
        if let Some(server) = self.servers.get_mut(key)
            && let ServerState::Cancelling(cancel) = &mut server.state
        {
            cancel.stage = stage;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::scene::{Scene, Shared, readable};
    use crate::wire::{backend, frontend};

    const NEWCOMERS: usize = 20;

    /// A client in the middle of its handshake, whose next flight has come.
    fn shaking(scene: &mut Scene) -> Shared {
        let pipe = Shared::default();
        pipe.borrow_mut().secured = true;
        scene.arrive(&pipe);
        pipe.borrow_mut().handshake = 1;
        pipe
    }

    /// Issue 4: TLS handshakes never stall established clients. Whatever comes at once, there is one signature in a turn, and
    /// between two of them everybody else is served, however the poll orders its events.
    #[test]
    fn a_burst_of_tls_hellos_takes_its_turns_behind_the_clients_that_are_in() {
        let mut scene = Scene::new();
        let client = scene.client();
        let server = scene.world.servers.last().cloned().unwrap();
        scene.works(&client, &server);
        let newcomers: Vec<Shared> = (0..NEWCOMERS).map(|_| shaking(&mut scene)).collect();
        let left = || -> usize { newcomers.iter().map(|pipe| pipe.borrow().handshake).sum() };

        let (mut query, mut answer) = (Vec::new(), Vec::new());
        frontend::query(&mut query, b"select 1");
        backend::write_command_complete(&mut answer, "SELECT 1");
        backend::write_ready(&mut answer);
        let mut events: Vec<_> = newcomers.iter().map(readable).collect();
        for steps in 1..=NEWCOMERS {
            // Every other turn brings a question, and the next one its answer.
            let (from, bytes, to) = match steps % 2 {
                1 => (&client, &query, &server),
                _ => (&server, &answer, &client),
            };
            to.borrow_mut().output.clear();
            from.borrow_mut().input.extend(bytes);
            events.push(readable(from));
            let busy = scene.one_turn(std::mem::take(&mut events));
            assert_eq!(&to.borrow().output, bytes, "in turn {steps}");
            assert_eq!(NEWCOMERS - left(), steps, "handshakes after as many turns");
            assert_eq!(busy, left() > 0, "the others are not forgotten");
        }
    }
}
