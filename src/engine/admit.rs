//! Lets clients in, or not: by which rule, with which proof, and what becomes of those who fail.
//!
//! The order is PostgreSQL's: the rule is found before anything is asked, a certificate is looked at before a password, and
//! whoever fails is told the same, after the same time, whatever the reason was. The reason is in the log.

use std::net::IpAddr;
use std::rc::Rc;

use zeroize::Zeroize;

use super::client::Login;
use super::lookup::Purpose;
use super::stream::Facts;
use super::{ClientKey, ClientState, Engine, Host, Place, Session, Timer, ms};
use crate::auth::{Attempt, Demand, Found, Source, Verify};
use crate::config::hba::{Asking, ClientCert, ClientName, From, Method, Rule};
use crate::config::{AuthMethod, Config, Stored};
use crate::limits;
use crate::pool::Replication;
use crate::wire::frame::printable;
use crate::wire::refusal::{Blame, Refusal};

/// What he calls himself who owns the process, as in PgBouncer.
const OWNER: &str = "pgbouncer";

impl Engine {
    /// Finds the rule for a client whose startup packet has come, and begins what it asks for.
    pub(super) fn begin_proof(&mut self, key: ClientKey, host: &mut dyn Host) {
        if self.is_owner(key) {
            log::info!("pgbouncer access from unix socket");
            return self.authenticated(key, host);
        }
        let config = self.config.clone();
        let Some((facts, session)) = self.facts_and_session(key) else {
            return;
        };
        let asking = asking(session, &facts);
        let found = config.auth.rules.find(&asking, &mut || host.networks());
        let rule = match found {
            Some(rule) if rule.method != Method::Reject => rule,
            other => {
                let refusal = turned_away(other.as_deref(), &asking, &facts);
                self.login_by(key, Method::Reject);
                return self.refuse(key, refusal, host);
            }
        };
        self.login_by(key, rule.method);
        if rule.client_cert != ClientCert::Off && !has_certificate(&facts) {
            let text = "connection requires a valid client certificate";
            let refusal = Refusal::fatal(b"28000", text, Blame::Client);
            return self.refuse(
                key,
                refusal.pgbouncer("certificate authentication failed"),
                host,
            );
        }
        match rule.method {
            Method::Peer => match facts.peer_uid {
                Some(uid) => {
                    self.enter_client(key, ClientState::Identifying(rule));
                    host.user_name(uid, key);
                }
                None => self.fail_login(key, &rule, "it is not connected by a Unix socket", host),
            },
            Method::Cert | Method::Check(AuthMethod::Trust) => {
                self.by_certificate(key, &rule, &config, &facts, host)
            }
            Method::Check(AuthMethod::ScramSha256Plus) if endpoint(&facts).is_none() => {
                self.refuse(key, unbindable(&facts), host)
            }
            Method::Check(_) => self.hold_back(key, &facts, host),
            Method::Reject => {}
        }
    }

    /// Whether it is the user that we run as who wants to see the console, by a Unix socket and under PgBouncer's name: nobody else
    /// can, and he could do worse.
    pub(super) fn is_owner(&self, key: ClientKey) -> bool {
        let is_console =
            |session: &Session| session.place == Place::Console && session.claim.user == OWNER;
        let client = self.clients.get(key);
        client.is_some_and(|client| {
            client.session.as_deref().is_some_and(is_console) && client.link.facts().peer_is_owner
        })
    }

    fn facts_and_session(&self, key: ClientKey) -> Option<(Facts, &Session)> {
        let client = self.clients.get(key)?;
        Some((client.link.facts(), client.session.as_deref()?))
    }

    /// Notes how a client has to prove itself, for counting.
    fn login_by(&mut self, key: ClientKey, method: Method) {
        let client = self.clients.get_mut(key);
        if let Some(session) = client.and_then(|client| client.session.as_deref_mut())
            && session.login != Login::Counted
        {
            session.login = Login::By(method);
        }
    }

    /// A login is over: counts it, once.
    pub(super) fn count_login(&mut self, key: ClientKey, outcome: &'static str) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let Some(session) = client.session.as_deref_mut() else {
            return;
        };
        let method = match std::mem::replace(&mut session.login, Login::Counted) {
            Login::Counted => return,
            Login::Unruled => "none",
            Login::By(method) => method.as_str(),
        };
        self.tally.login_ended(method, outcome);
        if outcome == "ok" {
            let took = self.now.since(client.connected_at);
            self.tally.login_times.note(took);
            self.tally.login_us += took;
        }
    }

    /// No password is asked for: the name in the certificate is enough, or nothing is needed.
    fn by_certificate(
        &mut self,
        key: ClientKey,
        rule: &Rc<Rule>,
        config: &Config,
        facts: &Facts,
        host: &mut dyn Host,
    ) {
        let client = self.clients.get(key);
        let Some(session) = client.and_then(|client| client.session.as_deref()) else {
            return;
        };
        match certified(rule, config, &session.claim.user, facts) {
            Err(why) => self.fail_login(key, rule, &why, host),
            Ok(()) => {
                if let Some(found) = self.look_up(key, Purpose::LetIn(rule.clone()), host) {
                    self.let_in(key, rule, &found, host);
                }
            }
        }
    }

    /// A client has shown all that a rule asks for, but for a password: is there such a user?
    pub(super) fn let_in(
        &mut self,
        key: ClientKey,
        rule: &Rule,
        found: &Found,
        host: &mut dyn Host,
    ) {
        match found {
            Found::Somebody(_) => self.authenticated(key, host),
            Found::Nobody => {
                let why = "it is not among the users of auth, and no auth_query knows it";
                self.fail_login(key, rule, why, host);
            }
        }
    }

    /// The user of this machine at the other end of a Unix socket is known by name.
    pub(super) fn user_named(
        &mut self,
        key: ClientKey,
        name: Result<String, String>,
        host: &mut dyn Host,
    ) {
        let config = self.config.clone();
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let ClientState::Identifying(rule) = &client.state else {
            return;
        };
        let (rule, rules) = (rule.clone(), &config.auth.rules);
        client.state = ClientState::undecided();
        let Some(session) = client.session.as_deref() else {
            return;
        };
        let map = rule.map.as_deref();
        let why = match name {
            Err(why) => why,
            Ok(name)
                if !rules
                    .maps
                    .allows(map, &session.claim.user, &name, &rules.roles) =>
            {
                no_match(map, &session.claim.user, &name)
            }
            Ok(_) => {
                if let Some(found) = self.look_up(key, Purpose::LetIn(rule.clone()), host) {
                    self.let_in(key, &rule, &found, host);
                    self.read_ahead(key, host);
                }
                return;
            }
        };
        self.fail_login(key, &rule, &why, host);
    }

    /// Before a password is asked for: has there been too much guessing from there?
    fn hold_back(&mut self, key: ClientKey, facts: &Facts, host: &mut dyn Host) {
        let limit = self.config.auth.failure_limit;
        let session = self
            .clients
            .get_mut(key)
            .and_then(|client| client.session.as_deref_mut());
        let Some(session) = session else {
            return;
        };
        let attempt = match source(facts) {
            Some(source) if !session.charged => self.failures.attempt(source, self.now, limit),
            _ => Attempt::Now,
        };
        match attempt {
            Attempt::Now => self.ask_password(key, facts, host),
            Attempt::At(tick) => {
                session.charged = true;
                self.enter_client(key, ClientState::HeldBack(tick));
            }
            Attempt::Refused => {
                let text = "too many failed logins from this address";
                let refusal = Refusal::fatal(b"53300", text, Blame::Client).hint(
                    "Try again in some seconds; see auth.failure_limit in Aether's configuration.",
                );
                self.refuse(key, refusal, host);
            }
        }
    }

    /// Begins the exchange of the rule's method, once the user's secret is known. While the client was held back the configuration
    /// may have changed.
    fn ask_password(&mut self, key: ClientKey, facts: &Facts, host: &mut dyn Host) {
        let client = self.clients.get(key);
        let Some(session) = client.and_then(|client| client.session.as_deref()) else {
            return;
        };
        if let Some(refusal) = self.plain_refused(key, &session.claim.user, &session.claim.database)
        {
            return self.refuse(key, refusal, host);
        }
        if let Some(found) = self.look_up(key, Purpose::Prove, host) {
            self.challenge(key, found, facts, host);
        }
    }

    /// Asks a client for its proof.
    pub(super) fn challenge(
        &mut self,
        key: ClientKey,
        found: Found,
        facts: &Facts,
        host: &mut dyn Host,
    ) {
        let Some((method, user, stored)) = self.proof_of(key, found, facts, host) else {
            return;
        };
        let mut out = Vec::new();
        let random = &mut |into: &mut [u8]| host.random(into);
        let demand = Demand {
            method,
            iterations: self.config.auth.scram_iterations,
            endpoint: endpoint(facts),
        };
        let progress = Verify::begin(
            demand,
            &user,
            stored.as_ref(),
            &mut self.ring,
            random,
            &mut out,
        );
        self.send_to_client(key, &out);
        self.proof_progress(key, Ok(progress), host);
    }

    /// How a client has to prove that it is its user, and what its proof is held against. The rule is found anew: the
    /// configuration may have changed in between. `None`: nothing has to be proven any more, and the client goes on elsewhere.
    pub(super) fn proof_of(
        &mut self,
        key: ClientKey,
        found: Found,
        facts: &Facts,
        host: &mut dyn Host,
    ) -> Option<(AuthMethod, String, Option<Stored>)> {
        let config = self.config.clone();
        let session = self.clients.get(key)?.session.as_deref()?;
        let rules = &config.auth.rules;
        let rule = rules.find(&asking(session, facts), &mut || host.networks());
        let method = match rule.as_deref().map(|rule| rule.method) {
            Some(Method::Check(method)) if method != AuthMethod::Trust => method,
            _ => {
                self.begin_proof(key, host);
                return None;
            }
        };
        let stored = match found {
            Found::Somebody(stored) => stored,
            Found::Nobody => None,
        };
        // Who has a wrong certificate goes through the whole exchange all the same.
        let stored = rule.and_then(|rule| {
            let certified = certified(&rule, &config, &session.claim.user, facts);
            certified
                .map_err(|why| log::info!("{}: {why}", rule.place))
                .ok()
                .and(stored)
        });
        Some((method, session.claim.user.clone(), stored))
    }

    /// Whether a client that was let in has shown who it is, or is at least on this machine for certain.
    pub(super) fn has_proven_itself(&self, key: ClientKey, host: &mut dyn Host) -> bool {
        let Some((facts, session)) = self.facts_and_session(key) else {
            return false;
        };
        let asking = asking(session, &facts);
        let rules = &self.config.auth.rules;
        let found = rules.find(&asking, &mut || host.networks());
        asking.from == From::Local
            || found.is_some_and(|rule| {
                rule.method != Method::Check(AuthMethod::Trust)
                    || rule.client_cert == ClientCert::VerifyFull
            })
    }

    /// A client could not show who it is by what a rule asks for; the reason is for the log.
    fn fail_login(&mut self, key: ClientKey, rule: &Rule, why: &str, host: &mut dyn Host) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let (id, label) = (client.id, client.label());
        log::info!(
            "client {id} {label}: {}: {}",
            rule.place,
            printable(why.as_bytes())
        );
        let user = client
            .session
            .as_deref()
            .map(|session| session.claim.user.as_str());
        let refusal = failed(rule.method, user.unwrap_or_default());
        self.answer_failure(key, refusal, host);
    }

    /// Answers a failed login, after a while that does not depend on the reason, and remembers where it came from.
    pub(super) fn answer_failure(&mut self, key: ClientKey, refusal: Refusal, host: &mut dyn Host) {
        let auth = &self.config.auth;
        let (delay, limit) = (auth.failure_delay, auth.failure_limit);
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let facts = client.link.facts();
        let is_charged = client
            .session
            .as_deref()
            .is_some_and(|session| session.charged);
        self.count_login(key, "failed");
        if let Some(source) = source(&facts)
            && !is_charged
        {
            self.failures.note(source, self.now, limit);
        }
        if delay.is_zero() {
            return self.refuse(key, refusal, host);
        }
        let mut byte = [0];
        host.random(&mut byte);
        let until = self.now.plus(delay + delay * u32::from(byte[0]) / 512);
        self.enter_client(key, ClientState::Failing(Box::new((until, refusal))));
    }

    /// The time of a client that was held back, or whose answer was, may be over.
    pub(super) fn held_back_expired(&mut self, key: ClientKey, host: &mut dyn Host) -> bool {
        let now = self.now;
        let Some(client) = self.clients.get_mut(key) else {
            return false;
        };
        match std::mem::replace(&mut client.state, ClientState::undecided()) {
            ClientState::HeldBack(until) if until <= now => {
                let facts = client.link.facts();
                self.ask_password(key, &facts, host);
                self.read_ahead(key, host);
                true
            }
            ClientState::Failing(last) => {
                let (_, refusal) = *last;
                self.refuse(key, refusal, host);
                true
            }
            other => {
                client.state = other;
                false
            }
        }
    }

    /// A client that waits for something in its login has gone.
    #[cold]
    pub(super) fn gave_up_login(&mut self, key: ClientKey, host: &mut dyn Host) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let why = match &client.state {
            ClientState::Failing(last) => {
                format!(
                    "{}, and the client did not wait for the answer",
                    last.1.text()
                )
            }
            _ => "client closed the connection before it was logged in".to_owned(),
        };
        self.close_client(key, &why, host);
    }

    /// Whether one more may come who has not shown yet who he is. Where there are as many as there may be, those who come wait until
    /// the oldest has had its time (catalogue C14: connections that say nothing must not keep the others out).
    pub(super) fn has_room_for_newcomer(&mut self) -> bool {
        if self.newcomers.len() < self.config.server.max_unauthenticated_connections {
            return true;
        }
        let oldest = self.newcomers.by_age().next();
        let undisturbed = oldest
            .and_then(|key| self.clients.get(key))
            .is_some_and(|client| {
                self.now.since(client.connected_at) < limits::LOGIN_UNDISTURBED_MS * 1000
            });
        if !undisturbed {
            return true;
        }
        self.accept_after = self.now.plus(ms(limits::ACCEPT_PAUSE_MS));
        self.wheel.insert(self.accept_after, Timer::Accept);
        false
    }

    /// Takes in somebody new. Where there are too many now, the one that has taken longest goes.
    pub(super) fn greet_newcomer(&mut self, key: ClientKey, host: &mut dyn Host) {
        if let Some(client) = self.clients.get(key) {
            self.newcomers.insert(client.id, key);
            self.arm_logins();
        }
        if self.newcomers.len() <= self.config.server.max_unauthenticated_connections {
            return;
        }
        let Some(oldest) = self.newcomers.by_age().next() else {
            return;
        };
        let text = "too many connections that have not logged in";
        match self.clients.get(oldest) {
            Some(client) if client.session.is_some() => {
                let refusal = Refusal::fatal(b"53300", text, Blame::Operator)
                    .hint("See server.max_unauthenticated_connections in Aether's configuration.");
                self.refuse(oldest, refusal, host);
            }
            Some(_) => self.close_client(oldest, text, host),
            None => {}
        }
    }
}

/// Overwrites what may hold a password.
pub(super) fn wipe(buffer: &mut [u8], count: usize) {
    if let Some(used) = buffer.get_mut(..count) {
        used.zeroize();
    }
}

pub(super) fn source(facts: &Facts) -> Option<Source> {
    facts.address.parse().ok().map(Source::of)
}

fn origin(facts: &Facts) -> From {
    let tls = facts.tls.is_some();
    match facts.address.parse::<IpAddr>() {
        Ok(address) => From::Tcp {
            address: address.to_canonical(),
            tls,
        },
        Err(_) if facts.address == "unix" => From::Local,
        Err(_) => From::Elsewhere { tls },
    }
}

fn asking<'a>(session: &'a Session, facts: &Facts) -> Asking<'a> {
    Asking {
        user: &session.claim.user,
        database: &session.claim.database,
        replication: session.claim.replication() == Some(Replication::Physical),
        from: origin(facts),
    }
}

fn has_certificate(facts: &Facts) -> bool {
    facts
        .tls
        .as_ref()
        .is_some_and(|tls| tls.peer_subject.is_some() || tls.peer_common_name.is_some())
}

/// The channel binding of a client's connection.
fn endpoint(facts: &Facts) -> Option<&[u8]> {
    facts.tls.as_ref()?.endpoint.as_deref()
}

/// SCRAM cannot be bound to this connection, and has to be.
fn unbindable(facts: &Facts) -> Refusal {
    let (text, hint) = match &facts.tls {
        None => (
            "channel binding is required, but SSL not in use",
            "Connect by TCP with sslmode=require and channel_binding=require.",
        ),
        Some(_) => (
            "channel binding is required, but none is defined for the signature algorithm of Aether's certificate",
            "The operator has to choose an RSA or ECDSA certificate for server.tls.cert_file.",
        ),
    };
    Refusal::fatal(b"28000", text, Blame::Client).hint(format!(
        "auth.type in Aether's configuration is scram-sha-256-plus. {hint}"
    ))
}

/// Whether the certificate has the user's name in it, where the rule asks for that.
fn certified(rule: &Rule, config: &Config, user: &str, facts: &Facts) -> Result<(), String> {
    if rule.client_cert != ClientCert::VerifyFull {
        return Ok(());
    }
    let tls = facts.tls.as_ref();
    let name = tls.and_then(|tls| match rule.client_name {
        ClientName::Cn => tls.peer_common_name.as_deref(),
        ClientName::Dn => tls.peer_subject.as_deref(),
    });
    let rules = &config.auth.rules;
    match name {
        None | Some("") => Err("client certificate contains no user name".to_owned()),
        Some(name)
            if rules
                .maps
                .allows(rule.map.as_deref(), user, name, &rules.roles) =>
        {
            Ok(())
        }
        Some(name) => Err(no_match(rule.map.as_deref(), user, name)),
    }
}

/// In PostgreSQL's words.
fn no_match(map: Option<&str>, user: &str, name: &str) -> String {
    match map {
        None | Some("") => {
            format!("provided user name ({user}) and authenticated user name ({name}) do not match")
        }
        Some(map) => {
            format!("no match in usermap \"{map}\" for user \"{user}\" authenticated as \"{name}\"")
        }
    }
}

/// What PgBouncer tells whose SCRAM exchange has failed.
const SASL: &str = "SASL authentication failed";

/// What everybody is told who cannot show who he is, whatever the reason.
fn failed(method: Method, user: &str) -> Refusal {
    let user = printable(user.as_bytes());
    let (code, what) = match method {
        Method::Peer => (b"28000", "Peer"),
        Method::Cert => (b"28000", "certificate"),
        Method::Check(_) | Method::Reject => (b"28P01", "password"),
    };
    let text = format!("{what} authentication failed for user \"{user}\"");
    let pgbouncer = match method {
        Method::Peer => "unix socket login rejected",
        Method::Cert => "certificate authentication failed",
        Method::Check(AuthMethod::Trust) => "\"trust\" authentication failed",
        Method::Check(AuthMethod::ScramSha256 | AuthMethod::ScramSha256Plus) => SASL,
        Method::Check(_) | Method::Reject => "password authentication failed",
    };
    Refusal::fatal(code, text, Blame::Client).pgbouncer(pgbouncer)
}

/// No rule, or one that rejects: in PostgreSQL's words.
fn turned_away(rule: Option<&Rule>, asking: &Asking<'_>, facts: &Facts) -> Refusal {
    let (host, user) = match asking.from {
        From::Local => ("[local]", asking.user),
        From::Tcp { .. } | From::Elsewhere { .. } => (facts.address.as_str(), asking.user),
    };
    let user = printable(user.as_bytes());
    let encryption = match facts.tls {
        Some(_) => "SSL encryption",
        None => "no encryption",
    };
    let kind = match (rule, asking.replication) {
        (Some(_), true) => "pg_hba.conf rejects replication connection for",
        (Some(_), false) => "pg_hba.conf rejects connection for",
        (None, true) => "no pg_hba.conf entry for replication connection from",
        (None, false) => "no pg_hba.conf entry for",
    };
    let database = if asking.replication {
        String::new()
    } else {
        format!(", database \"{}\"", printable(asking.database.as_bytes()))
    };
    let text = format!("{kind} host \"{host}\", user \"{user}\"{database}, {encryption}");
    let pgbouncer = match rule {
        Some(_) => "login rejected",
        None => "no authentication method is found",
    };
    Refusal::fatal(b"28000", text, Blame::Client).pgbouncer(pgbouncer)
}

#[cfg(test)]
mod tests;
