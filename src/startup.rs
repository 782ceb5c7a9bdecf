//! Logging in to a server: from our startup packet to its first ReadyForQuery.
//!
//! A cold, pure machine over whole messages; the proof of who we are is [`crate::auth::Prove`]'s. The other direction, a client
//! that logs in to us, is [`crate::wire::startup`] for the packets and [`crate::auth::Verify`] for the proof.

use crate::auth::{Credentials, KeyDerivation, KeyRing, Progress, Prove, SaltedPassword, Terms};
use crate::limits;
use crate::relay::Vars;
use crate::wire::backend;
use crate::wire::frame::{message, printable};
use crate::wire::refusal::{Blame, Refusal};

/// A login in progress.
#[derive(Debug)]
pub struct Login {
    proof: Proof,
    welcome: Welcome,
    /// Messages that have come.
    messages: u32,
}

#[derive(Debug)]
enum Proof {
    Wanted(Prove),
    Deriving(Prove),
    Given,
}

/// What a server says of itself while it lets us in.
#[derive(Clone, Debug, Default)]
pub struct Welcome {
    /// Reported parameters.
    pub vars: Vars,
    /// Process id and cancel key; 0 and empty if the server sent none.
    pub pid: u32,
    /// Empty if the server sent none.
    pub key: Vec<u8>,
    /// Notices, as whole messages.
    pub notices: Vec<u8>,
}

/// What a message leads to.
#[derive(Debug)]
pub enum Step {
    /// Wait for the next message.
    More(Login),
    /// Wait for [`Login::derived`].
    Derive(Login, KeyDerivation),
    /// The server is ready for its first query.
    Ready(Welcome),
}

impl Login {
    /// Begins behind a startup packet that has been sent.
    pub fn begin(credentials: Credentials, terms: Terms) -> Login {
        Login {
            proof: Proof::Wanted(Prove::begin(credentials, terms)),
            welcome: Welcome::default(),
            messages: 0,
        }
    }

    /// Looks at one message; what has to be sent is appended to `out`.
    pub fn step(
        self,
        tag: u8,
        body: &[u8],
        ring: &mut KeyRing,
        random: &mut dyn FnMut(&mut [u8]),
        out: &mut Vec<u8>,
    ) -> Result<Step, Refusal> {
        let Login {
            proof,
            mut welcome,
            messages,
        } = self;
        if messages >= limits::LOGIN_MESSAGES_MAX {
            return Err(endless());
        }
        let messages = messages + 1;
        let proof = match (tag, proof) {
            (b'E', proof) => {
                let refusal = Refusal::read(body, Blame::Server);
                if let Proof::Wanted(prove) = proof {
                    prove.refused(&refusal, ring);
                }
                return Err(refusal);
            }
            (b'R', Proof::Wanted(prove)) => {
                let progress = prove.step(body, ring, random, out)?;
                return Ok(Login::proceed(progress, welcome, messages));
            }
            (b'N', proof) => {
                if welcome.notices.len() + body.len() < limits::LOGIN_NOTICES_MAX {
                    message(&mut welcome.notices, b'N', |b| b.extend_from_slice(body));
                }
                proof
            }
            // The server speaks an older protocol, or does not know an extension: we asked for neither.
            (b'v', proof @ Proof::Wanted(_)) => proof,
            (b'S', Proof::Given) if welcome.vars.report(body) => Proof::Given,
            (b'K', Proof::Given) => {
                let (pid, key) = backend::backend_key_data(body).ok_or_else(|| unexpected(tag))?;
                (welcome.pid, welcome.key) = (pid, key.to_vec());
                Proof::Given
            }
            (b'Z', Proof::Given) if body == b"I" => return Ok(Step::Ready(welcome)),
            _ => return Err(unexpected(tag)),
        };
        Ok(Step::More(Login {
            proof,
            welcome,
            messages,
        }))
    }

    /// The key derivation that was asked for is done.
    pub fn derived(
        self,
        salted: &SaltedPassword,
        ring: &mut KeyRing,
        out: &mut Vec<u8>,
    ) -> Result<Step, Refusal> {
        match self.proof {
            Proof::Deriving(prove) => Ok(Login::proceed(
                prove.derived(salted, ring, out)?,
                self.welcome,
                self.messages,
            )),
            _ => Ok(Step::More(self)),
        }
    }

    /// Whether a message may be looked at now; if not, a key derivation has to be done first.
    pub fn is_deriving(&self) -> bool {
        matches!(self.proof, Proof::Deriving(_))
    }

    fn proceed(progress: Progress<Prove>, welcome: Welcome, messages: u32) -> Step {
        let login = |proof| Login {
            proof,
            welcome,
            messages,
        };
        match progress {
            Progress::Next(prove) => Step::More(login(Proof::Wanted(prove))),
            Progress::Derive(prove, job) => Step::Derive(login(Proof::Deriving(prove)), job),
            Progress::Done => Step::More(login(Proof::Given)),
        }
    }
}

fn nonsense() -> Refusal {
    let text = "the server's answer to the login makes no sense";
    Refusal::fatal(b"08P01", text, Blame::Server)
}

fn endless() -> Refusal {
    let max = limits::LOGIN_MESSAGES_MAX;
    nonsense().detail(format!(
        "More than {max} messages came, and it was not ready."
    ))
}

fn unexpected(tag: u8) -> Refusal {
    let tag = printable(&[tag]);
    nonsense()
        .detail(format!(
            "A message of type \"{tag}\" came where none is expected."
        ))
        .hint("Is there really a PostgreSQL server at the pool's address?")
}
