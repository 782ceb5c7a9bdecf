//! A client proves itself to us.
//!
//! Who is unknown, or has no secret that the method can use, goes through the same exchange with an invented salt and fails
//! at its end with the same words (catalogue R5).

use zeroize::Zeroizing;

use super::scram::{Challenge, ClientFirst, Keys, MECHANISM, MECHANISM_PLUS, derivation};
use super::{KeyDerivation, KeyRing, Progress, SaltedPassword, md5, same, scram};
use crate::config::secret::ScramVerifier;
use crate::config::{AuthMethod, Secret, Stored};
use crate::limits;
use crate::wire::backend;
use crate::wire::frame::{cstr, printable, take_cstr};
use crate::wire::frontend;
use crate::wire::refusal::{Blame, Refusal};

/// A client's proof in progress.
#[derive(Debug)]
pub struct Verify {
    user: String,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The password in clear is to come. `decoy`: whoever fails costs what a wrong password costs against a verifier.
    Password {
        stored: Option<Stored>,
        decoy: ScramVerifier,
    },
    /// The password is being derived, to be compared with the verifier.
    Comparing {
        verifier: Verifier,
        job: KeyDerivation,
    },
    /// The answer to the salt is to come; `expected` is `None` for those who cannot succeed.
    Md5 {
        expected: Option<Zeroizing<Vec<u8>>>,
    },
    /// The client's first message is to come.
    ScramFirst { verifier: Verifier, offer: Offer },
    /// The client's last message is to come.
    ScramLast {
        verifier: Verifier,
        challenge: Challenge,
    },
    /// The user's keys are being made, to be held against the client's last message.
    Preparing {
        job: KeyDerivation,
        challenge: Challenge,
        last: Vec<u8>,
    },
}

/// What is asked of a client.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// How it has to prove itself.
    pub method: AuthMethod,
    /// Of verifiers made here.
    pub iterations: u32,
    /// The channel binding `tls-server-end-point` of its connection. `None`: there is no TLS, or our certificate has none.
    pub endpoint: Option<&'a [u8]>,
}

/// What SCRAM is offered with.
#[derive(Debug)]
struct Offer {
    nonce: String,
    /// The mechanism with channel binding is offered, for this.
    endpoint: Option<Vec<u8>>,
    /// And no other.
    only_bound: bool,
}

impl Offer {
    fn request(&self, out: &mut Vec<u8>) {
        let bound = self.endpoint.as_ref().map(|_| MECHANISM_PLUS);
        let unbound = Some(MECHANISM).filter(|_| !self.only_bound);
        let mut list = Vec::with_capacity(64);
        for name in bound.into_iter().chain(unbound).chain([&b""[..]]) {
            cstr(&mut list, name);
        }
        backend::write_authentication(out, 10, &list);
    }

    /// Takes the client's choice of a mechanism and its first message.
    fn taken(&self, body: &[u8]) -> Result<ClientFirst, Refusal> {
        let (mechanism, data) = frontend::read_sasl_initial(body)
            .ok_or_else(|| broken("malformed SASLInitialResponse"))?;
        let bound = mechanism == MECHANISM_PLUS && self.endpoint.is_some();
        if !bound && (mechanism != MECHANISM || self.only_bound) {
            return Err(broken(
                "client selected an invalid SASL authentication mechanism",
            ));
        }
        // Without initial data the client is asked for it with an empty challenge; no driver does that.
        let data = data.ok_or_else(|| broken("malformed SCRAM message"))?;
        ClientFirst::read(data, bound, self.endpoint.as_deref())
    }
}

/// What a proof is held against.
#[derive(Debug)]
enum Verifier {
    /// What is stored: the proven keys are known to nobody else and are remembered.
    Stored(ScramVerifier),
    /// What is made of the password. Not before the client's last message: an earlier wait would tell that there is such a user.
    Password(KeyDerivation),
    /// It goes with no password: no proof is good enough.
    Invented(ScramVerifier),
}

impl Verifier {
    fn salt(&self) -> &[u8] {
        match self {
            Verifier::Stored(scram) | Verifier::Invented(scram) => &scram.salt,
            Verifier::Password(job) => &job.salt,
        }
    }

    fn iterations(&self) -> u32 {
        match self {
            Verifier::Stored(scram) | Verifier::Invented(scram) => scram.iterations,
            Verifier::Password(job) => job.iterations,
        }
    }
}

impl Verify {
    /// Picks the exchange and appends its first request to `out`. `stored`: `None` for an unknown user.
    pub fn begin(
        demand: Demand<'_>,
        user: &str,
        stored: Option<&Stored>,
        ring: &mut KeyRing,
        random: &mut dyn FnMut(&mut [u8]),
        out: &mut Vec<u8>,
    ) -> Progress<Verify> {
        // An empty password lets nobody in, as with PostgreSQL.
        let empty = |stored: &&Stored| matches!(stored, Stored::Plain(password) if password.expose().is_empty());
        let stored = stored.filter(|stored| !empty(stored));
        let proceed = |state| {
            Progress::Next(Verify {
                user: user.to_owned(),
                state,
            })
        };
        match (demand.method, stored) {
            (AuthMethod::Trust, Some(_)) => Progress::Done,
            (AuthMethod::Password, _) => {
                backend::write_authentication(out, 3, b"");
                let stored = stored.cloned();
                let iterations = demand.iterations;
                Progress::Next(Verify::of_password(user, stored, iterations, ring, random))
            }
            (AuthMethod::Md5, None | Some(Stored::Plain(_) | Stored::Md5(_))) => {
                let mut salt = [0; 4];
                random(&mut salt);
                backend::write_authentication(out, 5, &salt);
                proceed(State::Md5 {
                    expected: stored.and_then(|stored| md5_answer(user, stored, salt)),
                })
            }
            _ => Verify::begin_scram(demand, user, stored, ring, random, out),
        }
    }

    fn begin_scram(
        demand: Demand<'_>,
        user: &str,
        stored: Option<&Stored>,
        ring: &KeyRing,
        random: &mut dyn FnMut(&mut [u8]),
        out: &mut Vec<u8>,
    ) -> Progress<Verify> {
        let iterations = demand.iterations;
        let offer = Offer {
            nonce: scram::nonce(random),
            endpoint: demand.endpoint.map(<[u8]>::to_vec),
            only_bound: demand.method == AuthMethod::ScramSha256Plus,
        };
        let verifier = match stored {
            Some(Stored::Scram(verifier)) => Verifier::Stored(verifier.clone()),
            Some(Stored::Plain(password)) => {
                Verifier::Password(derivation(password, ring.salt(user), iterations))
            }
            None | Some(Stored::Md5(_)) => {
                Verifier::Invented(invented(ring.salt(user), iterations, random))
            }
        };
        offer.request(out);
        Progress::Next(Verify {
            user: user.to_owned(),
            state: State::ScramFirst { verifier, offer },
        })
    }

    /// Waits for a password in clear, for which the client has been asked.
    pub fn of_password(
        user: &str,
        stored: Option<Stored>,
        iterations: u32,
        ring: &KeyRing,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Verify {
        let decoy = invented(ring.salt(user), iterations, random);
        Verify {
            user: user.to_owned(),
            state: State::Password { stored, decoy },
        }
    }

    /// Whether the next message is the password itself.
    pub fn takes_password(&self) -> bool {
        matches!(self.state, State::Password { .. })
    }

    /// Largest message that is waited for, length word included.
    pub fn message_max(&self) -> usize {
        match self.state {
            State::Password { .. } => limits::PASSWORD_MESSAGE_MAX,
            // A mechanism's name and a length come before the first message.
            _ => limits::SASL_MESSAGE_MAX + 64,
        }
    }

    /// Looks at the body of one `p` message; answers are appended to `out`.
    ///
    /// # Errors
    ///
    /// 28P01 when the proof fails, 08P01 when the message makes no sense.
    pub fn step(
        self,
        body: &[u8],
        ring: &mut KeyRing,
        out: &mut Vec<u8>,
    ) -> Result<Progress<Verify>, Refusal> {
        let Verify { user, state } = self;
        if let State::ScramLast { challenge, .. } = &state {
            challenge.check_binding(body)?;
        }
        match state {
            State::Password { stored, decoy } => Verify::password(user, stored, decoy, body, ring),
            State::Md5 { expected } => {
                let given = one_string(body)?;
                match expected {
                    Some(expected) if same(&expected, given) => Ok(Progress::Done),
                    _ => Err(failed(&user)),
                }
            }
            State::ScramFirst { verifier, offer } => {
                let challenge = Challenge::new(
                    offer.taken(body)?,
                    &offer.nonce,
                    verifier.salt(),
                    verifier.iterations(),
                );
                backend::write_authentication(out, 11, challenge.text().as_bytes());
                Ok(Progress::Next(Verify {
                    user,
                    state: State::ScramLast {
                        verifier,
                        challenge,
                    },
                }))
            }
            State::ScramLast {
                verifier: Verifier::Password(job),
                challenge,
            } => {
                let Some(keys) = ring.find(&job) else {
                    let state = State::Preparing {
                        job: job.clone(),
                        challenge,
                        last: body.to_vec(),
                    };
                    return Ok(Progress::Derive(Verify { user, state }, job));
                };
                held_against(&challenge, &verifier(&job, keys), body, &user, out)
                    .map(|_| Progress::Done)
            }
            State::ScramLast {
                verifier: Verifier::Stored(scram),
                challenge,
            } => {
                let client_key = held_against(&challenge, &scram, body, &user, out)?;
                ring.proven.note(&user, &scram, &client_key);
                Ok(Progress::Done)
            }
            State::ScramLast {
                verifier: Verifier::Invented(scram),
                challenge,
            } => {
                held_against(&challenge, &scram, body, &user, &mut Vec::new())?;
                Err(failed(&user).pgbouncer(SASL_FAILED))
            }
            State::Comparing { .. } | State::Preparing { .. } => {
                Err(broken("unexpected password message"))
            }
        }
    }

    fn password(
        user: String,
        stored: Option<Stored>,
        decoy: ScramVerifier,
        body: &[u8],
        ring: &mut KeyRing,
    ) -> Result<Progress<Verify>, Refusal> {
        let given = one_string(body)?;
        let (right, verifier) = match stored {
            _ if given.is_empty() => {
                return Err(Refusal::fatal(
                    b"28P01",
                    "empty password returned by client",
                    Blame::Client,
                ));
            }
            Some(Stored::Plain(password)) => (same(password.expose(), given), None),
            Some(Stored::Md5(digest)) => (same(digest.expose(), &md5::stored(&user, given)), None),
            Some(Stored::Scram(verifier)) => (false, Some(verifier)),
            None => (false, None),
        };
        if right {
            return Ok(Progress::Done);
        }
        let verifier = verifier.map_or(Verifier::Invented(decoy), Verifier::Stored);
        let (salt, iterations) = (verifier.salt().to_vec(), verifier.iterations());
        let job = derivation(&Secret::new(given), salt, iterations);
        match ring.find(&job).cloned() {
            Some(keys) => compare(user, &verifier, &keys, ring),
            None => {
                let state = State::Comparing {
                    verifier,
                    job: job.clone(),
                };
                Ok(Progress::Derive(Verify { user, state }, job))
            }
        }
    }

    /// The derivation that was asked for is done.
    ///
    /// # Errors
    ///
    /// 28P01 when the password turns out to be wrong.
    pub fn derived(
        self,
        salted: &SaltedPassword,
        ring: &mut KeyRing,
        out: &mut Vec<u8>,
    ) -> Result<Progress<Verify>, Refusal> {
        let Verify { user, state } = self;
        let keys = Keys::new(salted);
        match state {
            State::Comparing { verifier, job } => {
                let progress = compare(user, &verifier, &keys, ring)?;
                ring.remember(&job, keys); // not those of guesses, which would push the others out
                Ok(progress)
            }
            State::Preparing {
                job,
                challenge,
                last,
            } => {
                let scram = verifier(&job, &keys);
                ring.remember(&job, keys);
                held_against(&challenge, &scram, &last, &user, out).map(|_| Progress::Done)
            }
            state => Ok(Progress::Next(Verify { user, state })),
        }
    }
}

/// Whether a password's keys are those of the verifier. If so, they are as good as proven by SCRAM.
fn compare(
    user: String,
    verifier: &Verifier,
    keys: &Keys,
    ring: &mut KeyRing,
) -> Result<Progress<Verify>, Refusal> {
    match verifier {
        Verifier::Stored(scram) if same(&keys.stored_key, &scram.stored_key) => {
            ring.proven.note(&user, scram, &keys.client_key);
            Ok(Progress::Done)
        }
        _ => Err(failed(&user)),
    }
}

/// Holds a client's last message against a verifier: the key that it has proven, and the answer in `out`.
fn held_against(
    challenge: &Challenge,
    scram: &ScramVerifier,
    last: &[u8],
    user: &str,
    out: &mut Vec<u8>,
) -> Result<scram::ClientKey, Refusal> {
    match challenge.verify(last, scram) {
        Ok((signature, client_key)) => {
            backend::write_authentication(out, 12, signature.as_bytes());
            Ok(client_key)
        }
        Err(true) => Err(broken("malformed SCRAM message")),
        Err(false) => Err(failed(user).pgbouncer(SASL_FAILED)),
    }
}

/// In PgBouncer's words.
const SASL_FAILED: &str = "SASL authentication failed";

fn md5_answer(user: &str, stored: &Stored, salt: [u8; 4]) -> Option<Zeroizing<Vec<u8>>> {
    match stored {
        Stored::Plain(password) => md5::answer(&md5::stored(user, password.expose()), salt),
        Stored::Md5(digest) => md5::answer(digest.expose(), salt),
        Stored::Scram(_) => None,
    }
}

fn verifier(job: &KeyDerivation, keys: &Keys) -> ScramVerifier {
    ScramVerifier {
        iterations: job.iterations,
        salt: job.salt.clone(),
        stored_key: keys.stored_key,
        server_key: Secret::new(*keys.server_key),
    }
}

fn invented(salt: Vec<u8>, iterations: u32, random: &mut dyn FnMut(&mut [u8])) -> ScramVerifier {
    let mut stored_key = [0; 32];
    random(&mut stored_key);
    ScramVerifier {
        iterations,
        salt,
        stored_key,
        server_key: Secret::new(stored_key),
    }
}

fn one_string(body: &[u8]) -> Result<&[u8], Refusal> {
    match take_cstr(body) {
        Some((text, [])) => Ok(text),
        _ => Err(broken("invalid password packet size")),
    }
}

fn failed(user: &str) -> Refusal {
    let user = printable(user.as_bytes());
    Refusal::fatal(
        b"28P01",
        format!("password authentication failed for user \"{user}\""),
        Blame::Client,
    )
    .pgbouncer("password authentication failed")
}

fn broken(text: &str) -> Refusal {
    debug_assert!(text.len() < limits::QUOTED_TEXT_MAX);
    Refusal::protocol(text)
}
