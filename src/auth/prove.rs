//! We prove ourselves to a server, and have it prove itself where it can (catalogue R6, R22).

use super::scram::{Exchange, Keys, ServerFirst, derivation, is_signed};
use super::{KeyDerivation, KeyRing, Progress, SaltedPassword, Terms, md5, scram};
use crate::config::secret::ScramVerifier;
use crate::config::{Secret, Stored};
use crate::wire::backend::{self, Authentication};
use crate::wire::frame::printable;
use crate::wire::frontend;
use crate::wire::refusal::{Blame, Refusal};

/// As whom we log in, and with what.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The role.
    pub user: String,
    /// Its secret, in a form that the server's method may or may not be able to use.
    pub secret: Option<Stored>,
}

impl Credentials {
    /// Whether they are a verifier whose keys no client has proven: only a server that asks for nothing is content with it.
    pub fn are_unproven(&self, ring: &KeyRing) -> bool {
        matches!(&self.secret, Some(Stored::Scram(verifier)) if !ring.proven.knows(&self.user, verifier))
    }
}

/// Our proof in progress.
#[derive(Debug)]
pub struct Prove {
    credentials: Credentials,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The server has not said yet what it wants.
    Begin(Terms),
    /// AuthenticationOk is to come.
    Answered,
    /// The server's first SCRAM message is to come.
    ScramFirst(Exchange),
    /// Our keys are being made.
    Deriving {
        first: ServerFirst,
        job: KeyDerivation,
    },
    /// The server's signature is to come.
    ScramLast { signature: [u8; 32] },
}

impl Prove {
    /// Begins before the server has said anything.
    pub fn begin(credentials: Credentials, terms: Terms) -> Prove {
        Prove {
            credentials,
            state: State::Begin(terms),
        }
    }

    /// Looks at the body of one Authentication message; answers are appended to `out`. `Done`: AuthenticationOk has come,
    /// and where the method lets a server prove itself, it has.
    ///
    /// # Errors
    ///
    /// What the server asks for cannot be given, or it makes no sense, or its proof is wrong.
    pub fn step(
        self,
        body: &[u8],
        ring: &mut KeyRing,
        random: &mut dyn FnMut(&mut [u8]),
        out: &mut Vec<u8>,
    ) -> Result<Progress<Prove>, Refusal> {
        let Prove { credentials, state } = self;
        let request = backend::authentication(body)
            .ok_or_else(|| nonsense("a broken Authentication message"))?;
        if let State::Begin(terms) = &state {
            terms.permit(&request)?;
        }
        let state = match (state, request) {
            (State::Begin(_) | State::Answered, Authentication::Ok) => return Ok(Progress::Done),
            (State::Begin(_), Authentication::CleartextPassword) => {
                frontend::password(out, plain(&credentials)?.expose());
                State::Answered
            }
            (State::Begin(_), Authentication::Md5Password(salt)) => {
                frontend::password(out, &md5_answer(&credentials, salt)?);
                State::Answered
            }
            (State::Begin(terms), Authentication::Sasl(mechanisms)) => {
                match &credentials.secret {
                    Some(Stored::Scram(_)) if credentials.are_unproven(ring) => {
                        return Err(unproven(&credentials));
                    }
                    Some(Stored::Scram(_)) => {}
                    _ => _ = plain(&credentials)?,
                }
                let binding = terms.choose(mechanisms)?;
                let mechanism = binding.mechanism();
                let (exchange, first) =
                    Exchange::begin(scram::nonce(random), binding, terms.iterations_max);
                frontend::sasl_initial(out, mechanism, first.as_bytes());
                State::ScramFirst(exchange)
            }
            (State::ScramFirst(exchange), Authentication::SaslContinue(message)) => {
                let first = exchange.read(message).map_err(nonsense)?;
                if let Some(Stored::Scram(verifier)) = &credentials.secret {
                    let keys = proven(&credentials, verifier, &first, ring)?;
                    let state = prove(&first, &keys, out);
                    return Ok(Progress::Next(Prove { credentials, state }));
                }
                let job = derivation(plain(&credentials)?, first.salt.clone(), first.iterations);
                match ring.find(&job) {
                    Some(keys) => prove(&first, keys, out),
                    None => {
                        let state = State::Deriving {
                            first,
                            job: job.clone(),
                        };
                        return Ok(Progress::Derive(Prove { credentials, state }, job));
                    }
                }
            }
            (State::ScramLast { signature }, Authentication::SaslFinal(message)) => {
                if !is_signed(message, &signature) {
                    let text = "the server does not know the password it asked for: its signature is wrong";
                    return Err(Refusal::fatal(b"28000", text, Blame::Server)
                        .hint("Something other than the expected server answers there."));
                }
                State::Answered
            }
            (State::Begin(_), Authentication::Other(code)) => {
                let text = format!(
                    "the server asks for an authentication method that is not supported (code {code})"
                );
                return Err(Refusal::fatal(b"28000", text, Blame::Server)
                    .hint("Use scram-sha-256, md5, password or trust for the pooler in the server's pg_hba.conf."));
            }
            _ => return Err(nonsense("an Authentication message out of turn")),
        };
        Ok(Progress::Next(Prove { credentials, state }))
    }

    /// The server has answered with an error. Keys that it does not take are not tried again: perhaps a client has others.
    pub fn refused(&self, refusal: &Refusal, ring: &mut KeyRing) {
        if let (State::ScramLast { .. }, Some(Stored::Scram(verifier))) =
            (&self.state, &self.credentials.secret)
            && refusal.sqlstate == *b"28P01"
        {
            ring.proven.forget(&self.credentials.user, verifier);
        }
    }

    /// The derivation that was asked for is done.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn derived(
        self,
        salted: &SaltedPassword,
        ring: &mut KeyRing,
        out: &mut Vec<u8>,
    ) -> Result<Progress<Prove>, Refusal> {
        let Prove { credentials, state } = self;
        let state = match state {
            State::Deriving { first, job } => {
                let keys = Keys::new(salted);
                let state = prove(&first, &keys, out);
                ring.remember(&job, keys);
                state
            }
            state => state,
        };
        Ok(Progress::Next(Prove { credentials, state }))
    }
}

fn prove(first: &ServerFirst, keys: &Keys, out: &mut Vec<u8>) -> State {
    let (last, signature) = first.prove(keys);
    frontend::sasl_response(out, last.as_bytes());
    State::ScramLast { signature }
}

/// The keys that a client has proven, if the server has the verifier that they go with.
fn proven(
    credentials: &Credentials,
    verifier: &ScramVerifier,
    first: &ServerFirst,
    ring: &mut KeyRing,
) -> Result<Keys, Refusal> {
    if first.salt != verifier.salt || first.iterations != verifier.iterations {
        let user = printable(credentials.user.as_bytes());
        let text = format!(
            "the verifier on the server differs from the one that Aether has for user \"{user}\""
        );
        return Err(Refusal::fatal(b"28P01", text, Blame::Server).hint(
            "Copy rolpassword from the server's pg_authid anew into Aether's configuration. A role that does not exist there, or \
             has no SCRAM password, looks the same.",
        ));
    }
    let keys = ring.proven.find(&credentials.user, verifier);
    keys.ok_or_else(|| unproven(credentials))
}

fn plain(credentials: &Credentials) -> Result<&Secret, Refusal> {
    match &credentials.secret {
        Some(Stored::Plain(password)) => Ok(password),
        Some(Stored::Md5(_) | Stored::Scram(_)) => Err(wrong_form(credentials)),
        None => Err(no_password(credentials)),
    }
}

fn md5_answer(
    credentials: &Credentials,
    salt: [u8; 4],
) -> Result<zeroize::Zeroizing<Vec<u8>>, Refusal> {
    let answer = match &credentials.secret {
        Some(Stored::Plain(password)) => {
            md5::answer(&md5::stored(&credentials.user, password.expose()), salt)
        }
        Some(Stored::Md5(digest)) => md5::answer(digest.expose(), salt),
        Some(Stored::Scram(_)) => None,
        None => return Err(no_password(credentials)),
    };
    answer.ok_or_else(|| wrong_form(credentials))
}

fn no_password(credentials: &Credentials) -> Refusal {
    let user = printable(credentials.user.as_bytes());
    Refusal::fatal(
        b"28P01",
        format!("the server asks for a password and none is configured for user \"{user}\""),
        Blame::Server,
    )
    .hint("Put it into the pool's dsn, or list the user under auth in Aether's configuration.")
}

fn unproven(credentials: &Credentials) -> Refusal {
    let user = printable(credentials.user.as_bytes());
    let text = format!(
        "the server asks for the password of user \"{user}\", of which Aether has only a SCRAM verifier that no client has proven"
    );
    Refusal::fatal(b"28P01", text, Blame::Server).hint(
        "Log in to Aether as this user with the password (scram-sha-256 or password), or configure the password itself.",
    )
}

fn wrong_form(credentials: &Credentials) -> Refusal {
    let user = printable(credentials.user.as_bytes());
    Refusal::fatal(b"28P01", format!("the stored secret of user \"{user}\" cannot answer what the server asks for"), Blame::Server)
        .hint("An md5 secret can only answer md5, a SCRAM verifier only scram-sha-256: configure the password itself, or the server's own rolpassword.")
}

fn nonsense(what: impl std::fmt::Display) -> Refusal {
    Refusal::fatal(
        b"08P01",
        "the server's authentication makes no sense",
        Blame::Server,
    )
    .detail(format!("The server's message: {what}."))
}
