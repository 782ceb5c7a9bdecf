//! SCRAM-SHA-256 (RFC 5802, RFC 7677): the messages and the arithmetic of both sides.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac};
use zeroize::Zeroizing;

use super::saslprep::prepared;
use super::{KeyDerivation, SaltedPassword};
use crate::config::Secret;
use crate::config::secret::ScramVerifier;
use crate::limits;
use crate::wire::refusal::{Blame, Refusal};

/// The only mechanism without TLS.
pub(super) const MECHANISM: &[u8] = b"SCRAM-SHA-256";
/// The same, bound to the TLS connection.
pub(super) const MECHANISM_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";
/// Longest salt that a server may send, decoded.
const SALT_MAX: usize = 1_024;
/// Bytes of randomness in a nonce, before base64.
const NONCE_LEN: usize = 18;

/// RFC 5802's ClientKey: with a verifier, enough to log in.
pub(super) type ClientKey = Zeroizing<[u8; 32]>;

/// What is derived from a password for one salt and iteration count.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) client_key: ClientKey,
    pub(super) stored_key: [u8; 32],
    pub(super) server_key: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// From SaltedPassword.
    pub(super) fn new(salted: &SaltedPassword) -> Keys {
        let client_key = Zeroizing::new(sign(salted.bytes(), &[b"Client Key"]));
        Keys {
            stored_key: hash(&*client_key),
            server_key: Zeroizing::new(sign(salted.bytes(), &[b"Server Key"])),
            client_key,
        }
    }

    /// From a verifier and a key that goes with it.
    pub(super) fn of(verifier: &ScramVerifier, client_key: &[u8]) -> Option<Keys> {
        Some(Keys {
            client_key: Zeroizing::new(client_key.try_into().ok()?),
            stored_key: verifier.stored_key,
            server_key: Zeroizing::new(verifier.server_key.expose().try_into().ok()?),
        })
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("****")
    }
}

fn sign(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    let mut signature = [0; 32];
    signature.copy_from_slice(context.sign().as_ref());
    signature
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hashed = [0; 32];
    hashed.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hashed
}

fn xor(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|at| a.get(at).copied().unwrap_or(0) ^ b.get(at).copied().unwrap_or(0))
}

/// The job that makes a password's keys.
pub(super) fn derivation(password: &Secret, salt: Vec<u8>, iterations: u32) -> KeyDerivation {
    KeyDerivation {
        password: prepared(password.expose()),
        salt,
        iterations,
    }
}

/// A nonce: printable, without comma.
pub(super) fn nonce(random: &mut dyn FnMut(&mut [u8])) -> String {
    let mut bytes = [0; NONCE_LEN];
    random(&mut bytes);
    STANDARD.encode(bytes)
}

fn is_nonce(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| (0x21..=0x7e).contains(&byte) && byte != b',')
}

/// The three texts that both sides sign.
fn auth_message<'a>(
    client_first: &'a str,
    server_first: &'a str,
    without_proof: &'a str,
) -> [&'a [u8]; 5] {
    [
        client_first.as_bytes(),
        b",",
        server_first.as_bytes(),
        b",",
        without_proof.as_bytes(),
    ]
}

/// How an exchange is bound to its TLS connection (RFC 5802, section 6; RFC 5929, section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    header: &'static str,
    data: Vec<u8>,
}

impl Binding {
    /// The client does not, or does not want to.
    pub(super) const NONE: Binding = Binding::without_data("n,,");
    /// The client would, and believes that the server does not.
    pub(super) const UNOFFERED: Binding = Binding::without_data("y,,");

    const fn without_data(header: &'static str) -> Binding {
        Binding {
            header,
            data: Vec::new(),
        }
    }

    /// By the hash of the server's certificate.
    pub(super) fn endpoint(hash: &[u8]) -> Binding {
        Binding {
            header: "p=tls-server-end-point,,",
            data: hash.to_vec(),
        }
    }

    /// The mechanism that goes with it.
    pub(super) fn mechanism(&self) -> &'static [u8] {
        if self.data.is_empty() {
            MECHANISM
        } else {
            MECHANISM_PLUS
        }
    }

    /// What the client's last message says of it, behind `c=`.
    fn attribute(&self) -> Cow<'static, str> {
        if *self == Binding::NONE {
            return Cow::Borrowed("biws"); // as of nearly all
        }
        Cow::Owned(STANDARD.encode([self.header.as_bytes(), &self.data].concat()))
    }

    /// What a client's first message says of it, and the rest of that message. `bound`: the mechanism is the one with channel
    /// binding; `endpoint`: what that was offered for. The words are PostgreSQL's.
    fn read<'a>(
        text: &'a str,
        bound: bool,
        endpoint: Option<&[u8]>,
    ) -> Result<(Binding, &'a str), Refusal> {
        let (flag, rest) = text.split_once(',').unwrap_or((text, ""));
        let binding = match (flag.strip_prefix("p="), endpoint) {
            (None, _) if !matches!(flag, "n" | "y") => {
                return Err(malformed("Unexpected channel-binding flag."));
            }
            (None, _) if bound => {
                return Err(malformed(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
                ));
            }
            (None, Some(_)) if flag == "y" => {
                let text = "SCRAM channel binding negotiation error";
                return Err(Refusal::fatal(b"28000", text, Blame::Client).detail(
                    "The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding.",
                ));
            }
            (None, _) if flag == "y" => Binding::UNOFFERED,
            (None, _) => Binding::NONE,
            (Some("tls-server-end-point"), Some(endpoint)) if bound => Binding::endpoint(endpoint),
            (Some(_), _) if bound => {
                return Err(Refusal::protocol("unsupported SCRAM channel-binding type"));
            }
            (Some(_), _) => {
                return Err(malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
                ));
            }
        };
        match rest.strip_prefix(',') {
            Some(bare) => Ok((binding, bare)),
            None if rest.starts_with('a') => {
                let text = "client uses authorization identity, but it is not supported";
                Err(Refusal::fatal(b"0A000", text, Blame::Client))
            }
            None => Err(malformed("Unexpected attribute in client-first-message.")),
        }
    }
}

fn malformed(detail: &str) -> Refusal {
    Refusal::protocol("malformed SCRAM message").detail(detail)
}

/// A client's first message: `n,,n=,r=...`
#[derive(Debug)]
pub(super) struct ClientFirst {
    /// What the last message must repeat.
    binding: Binding,
    bare: String,
    nonce: String,
}

impl ClientFirst {
    /// Reads it. `bound` and `endpoint` as in [`Binding::read`].
    ///
    /// # Errors
    /// It is broken, or asks for what there is not (another authorization identity, an extension).
    pub(super) fn read(
        message: &[u8],
        bound: bool,
        endpoint: Option<&[u8]>,
    ) -> Result<ClientFirst, Refusal> {
        let text = std::str::from_utf8(message)
            .ok()
            .filter(|text| text.len() <= limits::SASL_MESSAGE_MAX)
            .ok_or_else(|| malformed("It is no text, or too long."))?;
        let (binding, bare) = Binding::read(text, bound, endpoint)?;
        if bare.starts_with("m=") {
            let text = "client requires an unsupported SCRAM extension";
            return Err(Refusal::fatal(b"0A000", text, Blame::Client));
        }
        let nonce = ClientFirst::nonce(bare)
            .ok_or_else(|| malformed("A name and a nonce are expected."))?;
        Ok(ClientFirst {
            binding,
            bare: bare.to_owned(),
            nonce: nonce.to_owned(),
        })
    }

    fn nonce(bare: &str) -> Option<&str> {
        // The name is that of the startup packet, as with PostgreSQL; this one is ignored.
        let (_name, rest) = bare.strip_prefix("n=")?.split_once(',')?;
        let nonce = rest.strip_prefix("r=")?.split(',').next();
        nonce.filter(|nonce| is_nonce(nonce))
    }
}

/// Our exchange with a client, once its first message is answered.
#[derive(Debug)]
pub(super) struct Challenge {
    client: ClientFirst,
    nonce: String,
    server_first: String,
}

impl Challenge {
    /// Answers a client's first message.
    pub(super) fn new(
        client: ClientFirst,
        own_nonce: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Challenge {
        let nonce = [&client.nonce, own_nonce].concat();
        let (salt, iterations) = (STANDARD.encode(salt), iterations.to_string());
        let server_first = ["r=", &nonce, ",s=", &salt, ",i=", &iterations].concat();
        Challenge {
            client,
            nonce,
            server_first,
        }
    }

    /// What to send.
    pub(super) fn text(&self) -> &str {
        &self.server_first
    }

    /// Looks at what the client's last message says of the channel: it must be what the first one said.
    ///
    /// # Errors
    /// In PostgreSQL's words: 28000 when it was made for another connection, 08P01 when it says something else.
    pub(super) fn check_binding(&self, message: &[u8]) -> Result<(), Refusal> {
        let given = message.split(|&byte| byte == b',').next();
        let given = given
            .and_then(|first| first.strip_prefix(b"c="))
            .ok_or_else(|| malformed("Its last message does not begin with c=."))?;
        let binding = &self.client.binding;
        if super::same(given, binding.attribute().as_bytes()) {
            return Ok(());
        }
        Err(if binding.mechanism() == MECHANISM_PLUS {
            let text = "SCRAM channel binding check failed";
            Refusal::fatal(b"28000", text, Blame::Client)
        } else {
            Refusal::protocol("unexpected SCRAM channel-binding attribute in client-final-message")
        })
    }

    /// Looks at the client's last message: what to send it, and the key that it has proven, if its proof is right. `Err(true)`:
    /// the message is broken; `Err(false)`: the proof is wrong.
    pub(super) fn verify(
        &self,
        message: &[u8],
        verifier: &ScramVerifier,
    ) -> Result<(String, ClientKey), bool> {
        let (without_proof, proof) = self.last_message(message).ok_or(true)?;
        let signed = auth_message(&self.client.bare, &self.server_first, without_proof);
        let client_key = Zeroizing::new(xor(&proof, &sign(&verifier.stored_key, &signed)));
        if !super::same(&hash(&*client_key), &verifier.stored_key) {
            return Err(false);
        }
        let signature = sign(verifier.server_key.expose(), &signed);
        Ok((["v=", &STANDARD.encode(signature)].concat(), client_key))
    }

    fn last_message<'a>(&self, message: &'a [u8]) -> Option<(&'a str, [u8; 32])> {
        let text = std::str::from_utf8(message)
            .ok()
            .filter(|text| text.len() <= limits::SASL_MESSAGE_MAX)?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        let rest = without_proof
            .strip_prefix("c=")?
            .strip_prefix(&*self.client.binding.attribute())?;
        let nonce = rest.strip_prefix(",r=")?.split(',').next()?;
        let proof = STANDARD.decode(proof).ok()?.try_into().ok()?;
        (nonce == self.nonce).then_some((without_proof, proof))
    }
}

/// Our exchange with a server, after our first message.
#[derive(Debug)]
pub(super) struct Exchange {
    binding: Binding,
    iterations_max: u32,
    bare: String,
    nonce: String,
}

/// What a server asks us to prove.
#[derive(Debug)]
pub(super) struct ServerFirst {
    text: String,
    without_proof: String,
    bare: String,
    /// Not in base64.
    pub(super) salt: Vec<u8>,
    /// Between 1 and the limit.
    pub(super) iterations: u32,
}

impl Exchange {
    /// Begins: the exchange, and our first message.
    pub(super) fn begin(
        nonce: String,
        binding: Binding,
        iterations_max: u32,
    ) -> (Exchange, String) {
        let bare = format!("n=,r={nonce}");
        let first = format!("{}{bare}", binding.header);
        let exchange = Exchange {
            binding,
            iterations_max,
            bare,
            nonce,
        };
        (exchange, first)
    }

    /// Reads the server's first message; why it is not one.
    pub(super) fn read(self, message: &[u8]) -> Result<ServerFirst, String> {
        let text = std::str::from_utf8(message).map_err(|_| "it is not text")?;
        if text.len() > 2 * SALT_MAX + limits::SASL_MESSAGE_MAX {
            return Err("it is too long".to_owned());
        }
        let mut parts = text.split(',');
        let mut part = |name| parts.next().and_then(|part: &str| part.strip_prefix(name));
        let (nonce, salt, iterations) = (part("r="), part("s="), part("i="));
        let (Some(nonce), Some(salt), Some(iterations)) = (nonce, salt, iterations) else {
            return Err("it lacks a nonce, a salt or an iteration count".to_owned());
        };
        if !nonce.starts_with(&self.nonce)
            || nonce.len() == self.nonce.len()
            || !is_nonce(nonce)
            || nonce.len() > limits::SASL_MESSAGE_MAX
        {
            return Err("its nonce is not ours and something more".to_owned());
        }
        let salt = STANDARD
            .decode(salt)
            .ok()
            .filter(|salt| (1..=SALT_MAX).contains(&salt.len()))
            .ok_or("its salt is no base64")?;
        let iterations = iterations
            .parse()
            .ok()
            .filter(|count| (1..=self.iterations_max).contains(count));
        let iterations = iterations.ok_or_else(|| {
            let max = self.iterations_max;
            format!("its iteration count is not between 1 and {max} (max_scram_iterations)")
        })?;
        Ok(ServerFirst {
            text: text.to_owned(),
            without_proof: format!("c={},r={nonce}", self.binding.attribute()),
            bare: self.bare,
            salt,
            iterations,
        })
    }
}

impl ServerFirst {
    /// Our last message, and the signature that the server must answer with.
    pub(super) fn prove(&self, keys: &Keys) -> (String, [u8; 32]) {
        let signed = auth_message(&self.bare, &self.text, &self.without_proof);
        let proof = xor(&keys.client_key, &sign(&keys.stored_key, &signed));
        (
            format!("{},p={}", self.without_proof, STANDARD.encode(proof)),
            sign(&*keys.server_key, &signed),
        )
    }
}

/// Whether a server's last message carries the signature.
pub(super) fn is_signed(message: &[u8], signature: &[u8; 32]) -> bool {
    let text = std::str::from_utf8(message)
        .ok()
        .and_then(|text| text.strip_prefix("v="));
    text.and_then(|text| STANDARD.decode(text).ok())
        .is_some_and(|given| super::same(&given, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nearly_all_say_of_their_channel_is_what_it_would_be_encoded_to() {
        for binding in [Binding::NONE, Binding::UNOFFERED] {
            assert_eq!(binding.attribute(), STANDARD.encode(binding.header));
        }
    }

    /// RFC 7677, section 3; the name is not empty there, which makes no difference but in the signed text.
    #[test]
    fn the_test_vector_of_rfc_7677() {
        let client = ClientFirst::read(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", false, None)
            .expect("a first message");
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let challenge = Challenge::new(client, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", &salt, 4096);
        assert_eq!(
            challenge.text(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let keys = Keys::new(&derivation(&Secret::new(*b"pencil"), salt.clone(), 4096).run());
        let verifier = ScramVerifier {
            iterations: 4096,
            salt,
            stored_key: keys.stored_key,
            server_key: Secret::new(*keys.server_key),
        };
        let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(
            challenge.verify(last, &verifier),
            Ok((
                "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_owned(),
                keys.client_key
            ))
        );
    }

    #[test]
    fn first_messages_that_ask_for_what_there_is_not_are_refused() {
        for broken in [
            &b""[..],
            b"n,,",
            b"n,,n=,r=",
            b"n,,n=,r=a\x7f",
            b"n,a=other,n=,r=abc",
            b"p=tls-server-end-point,,n=,r=abc",
            b"n,,m=ext,n=,r=abc",
            b"n,,r=abc,n=",
            b"\xff\xfe",
        ] {
            assert!(
                ClientFirst::read(broken, false, None).is_err(),
                "{broken:?}"
            );
        }
        let mut long = b"n,,n=,r=".to_vec();
        long.resize(5_000, b'a');
        assert!(ClientFirst::read(&long, false, None).is_err());
    }

    /// CVE-2026-6665 (nonce, salt), CVE-2026-42198 (iterations).
    #[test]
    fn hostile_server_messages_are_refused() {
        let read = |text: &str| {
            Exchange::begin("abc".to_owned(), Binding::NONE, 100_000)
                .0
                .read(text.as_bytes())
                .map(|_| ())
        };
        assert_eq!(read("r=abcdef,s=c2FsdA==,i=4096"), Ok(()));
        let (long, long_salt) = ("x".repeat(5_000), STANDARD.encode(vec![0; 2_000]));
        for broken in [
            "r=abc,s=c2FsdA==,i=4096".to_owned(),
            "r=xbcdef,s=c2FsdA==,i=4096".to_owned(),
            format!("r=abc{long},s=c2FsdA==,i=4096"),
            format!("r=abcdef,s={long_salt},i=4096"),
            "r=abcdef,s=,i=4096".to_owned(),
            "r=abcdef,s=!!,i=4096".to_owned(),
            "r=abcdef,s=c2FsdA==,i=0".to_owned(),
            "r=abcdef,s=c2FsdA==,i=-1".to_owned(),
            "r=abcdef,s=c2FsdA==,i=2147483647".to_owned(),
            "r=abcdef,s=c2FsdA==,i=99999999999999999999".to_owned(),
            "m=ext,r=abcdef,s=c2FsdA==,i=4096".to_owned(),
            String::new(),
        ] {
            assert!(read(&broken).is_err(), "{broken:.60}");
        }
    }
}
