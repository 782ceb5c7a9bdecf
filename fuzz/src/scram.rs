//! A client and a server of ours prove themselves to each other over a line on which somebody may change what is said.
//!
//! Undisturbed and with the right password it works for both; with a wrong one, or as soon as anything was changed that
//! the exchange protects, nobody gets in and nobody is taken in.

use std::num::NonZeroU32;

use aether::auth::{Channel, Credentials, Demand, KeyRing, Progress, Prove, Terms, Verify};
use aether::config::{AuthMethod, ChannelBinding, Demands, ScramVerifier, Secret, Stored};
use aether::wire::{backend, frame};
use arbitrary::{Result, Unstructured};
use md5::{Digest, Md5};
use ring::{digest, hmac, pbkdf2};

const ITERATIONS: u32 = 2;
/// Somebody who changes the count may ask for work; more than this is not done here.
const ITERATIONS_MAX: u32 = 1_000;
const USER: &str = "me";

/// The property.
pub fn holds(data: &[u8]) {
    let _ = exchange(&mut Unstructured::new(data));
}

/// Somebody on the line.
struct Line<'a, 'u> {
    u: &'a mut Unstructured<'u>,
    /// Whether he does anything at all.
    hostile: bool,
    /// Something that SCRAM and md5 protect was changed on its way up or down.
    changed: bool,
    /// Whether the first request, which nothing protects, was changed.
    first_changed: bool,
    messages: usize,
}

impl Line<'_, '_> {
    fn passes(&mut self, body: &[u8], first: bool) -> Vec<u8> {
        self.messages += 1;
        let mut body = body.to_vec();
        if self.hostile && self.u.ratio(1, 2).unwrap_or(false) {
            let before = body.clone();
            let _ = self.change(&mut body);
            if body != before {
                self.changed |= !first;
                self.first_changed |= first;
            }
        }
        body
    }

    fn change(&mut self, body: &mut Vec<u8>) -> Result<()> {
        let at = self.u.choose_index(body.len() + 1)?;
        match self.u.int_in_range(0..=4)? {
            0 => {
                if let Some(byte) = body.get_mut(at) {
                    *byte = self.u.arbitrary()?;
                }
            }
            1 => body.truncate(at),
            2 => body.insert(at, self.u.arbitrary()?),
            3 => {
                let text: &[u8] = self.u.choose(&[
                    &b",a=b"[..],
                    b",",
                    b"=",
                    b"r=",
                    b"\0",
                    b"y,,",
                    b"m=x,",
                    b"p=tls-unique,,",
                    b"p=tls-server-end-point,,",
                    b"n,,",
                    b"SCRAM-SHA-256\0",
                    b"-PLUS",
                ])?;
                body.splice(at..at, text.iter().copied());
            }
            _ => {
                let length = usize::from(self.u.arbitrary::<u8>()?).min(self.u.len());
                *body = self.u.bytes(length)?.to_vec();
            }
        }
        Ok(())
    }
}

/// How the two are set up.
struct Setting {
    method: AuthMethod,
    /// What the server knows of the user; `None`: nothing.
    stored: Option<Stored>,
    typed: Secret,
    /// The channel bindings of TLS on both sides: they differ where somebody stands in between with a certificate of his own.
    endpoints: (Option<&'static [u8]>, Channel),
    binding: ChannelBinding,
    /// Whether an undisturbed login must succeed.
    works: bool,
}

impl Setting {
    /// With md5, those who are known by a SCRAM verifier go through SCRAM.
    fn is_scram(&self) -> bool {
        match self.method {
            AuthMethod::ScramSha256 | AuthMethod::ScramSha256Plus => true,
            AuthMethod::Md5 => matches!(self.stored, Some(Stored::Scram(_))),
            _ => false,
        }
    }

    /// Whether somebody with a certificate of his own stands in between.
    fn is_split(&self) -> bool {
        matches!(&self.endpoints, (Some(ours), Channel::Bindable(theirs)) if ours != theirs)
    }
}

fn setting(u: &mut Unstructured<'_>) -> Result<Setting> {
    let method = *u.choose(&[
        AuthMethod::Password,
        AuthMethod::Md5,
        AuthMethod::ScramSha256,
        AuthMethod::ScramSha256,
        AuthMethod::ScramSha256Plus,
    ])?;
    let endpoints = match u.int_in_range(0..=3)? {
        _ if method == AuthMethod::ScramSha256Plus => {
            let seen: &[u8] = if u.ratio(1, 4)? { b"his" } else { b"ours" };
            (Some(&b"ours"[..]), Channel::Bindable(seen.to_vec()))
        }
        0 => (None, Channel::Plain),
        1 => (None, Channel::Unbindable),
        2 => (Some(&b"ours"[..]), Channel::Bindable(b"ours".to_vec())),
        _ => (Some(&b"ours"[..]), Channel::Bindable(b"his".to_vec())),
    };
    let binding = match u.int_in_range(0..=2)? {
        0 => ChannelBinding::Disable,
        1 => ChannelBinding::Prefer,
        _ => ChannelBinding::Require,
    };
    let length = u.int_in_range(1..=12usize)?.min(u.len().max(1));
    let password: Vec<u8> = u.bytes(length)?.iter().map(|&byte| byte.max(1)).collect();
    let wrong = u.ratio(1, 4)?;
    let typed = if wrong {
        [&password[..], b"x"].concat()
    } else {
        password.clone()
    };
    let (stored, usable) = match u.int_in_range(0..=3)? {
        0 => (None, false),
        1 => (
            Some(md5_secret(&password)),
            matches!(method, AuthMethod::Password | AuthMethod::Md5),
        ),
        2 => (Some(scram_secret(&password)), true),
        _ => (Some(Stored::Plain(Secret::new(password))), true),
    };
    let mut setting = Setting {
        method,
        endpoints,
        binding,
        works: false,
        typed: Secret::new(typed),
        stored,
    };
    let bindable = setting.is_scram() && setting.endpoints.0.is_some();
    let fits = match binding {
        ChannelBinding::Disable => method != AuthMethod::ScramSha256Plus,
        ChannelBinding::Prefer => !setting.is_scram() || !setting.is_split(),
        ChannelBinding::Require => bindable && !setting.is_split(),
    };
    setting.works = usable && fits && !wrong && setting.stored.is_some();
    Ok(setting)
}

fn exchange(u: &mut Unstructured<'_>) -> Result<()> {
    let setting = setting(u)?;
    let hostile = u.arbitrary()?;
    let mut line = Line {
        u,
        hostile,
        changed: false,
        first_changed: false,
        messages: 0,
    };
    let (server, client) = run(&setting, &mut line);
    let changed = line.changed || line.first_changed;
    if server {
        assert!(setting.works, "a login without the right password");
    }
    // Who asks for no SCRAM at all can make any client believe him; that is for TLS to prevent, or for channel_binding=require.
    let guarded = setting.binding == ChannelBinding::Require;
    if client && (guarded || setting.is_scram() && !line.first_changed) {
        assert!(
            server && !line.changed,
            "the client was taken in by somebody who does not know its password"
        );
    }
    if !changed {
        assert_eq!(
            (server, client),
            (setting.works, setting.works),
            "undisturbed"
        );
    }
    Ok(())
}

/// Whether the server has let the client in, and whether the client believes that it has.
fn run(setting: &Setting, line: &mut Line<'_, '_>) -> (bool, bool) {
    let mut random = super::random(7);
    let mut rings = (
        KeyRing::new(&mut random, None),
        KeyRing::new(&mut random, None),
    );
    let mut down = Vec::new();
    let mut server = Verify::begin(
        Demand {
            method: setting.method,
            iterations: ITERATIONS,
            endpoint: setting.endpoints.0,
        },
        USER,
        setting.stored.as_ref(),
        &mut rings.0,
        &mut random,
        &mut down,
    );
    let secret = Some(Stored::Plain(setting.typed.clone()));
    let credentials = Credentials {
        user: USER.to_owned(),
        secret,
    };
    let terms = Terms {
        demands: Demands {
            channel_binding: setting.binding,
            require_auth: None,
        },
        iterations_max: 100_000,
        channel: setting.endpoints.1.clone(),
        own_certificate: None,
    };
    let mut client = Prove::begin(credentials, terms);
    let mut first = true;
    loop {
        let mut let_in = false;
        server = match server {
            Progress::Derive(verify, job) => {
                match verify.derived(&job.run(), &mut rings.0, &mut down) {
                    Ok(Progress::Done) => {
                        let_in = true;
                        Progress::Done
                    }
                    Ok(progress) => progress,
                    Err(_) => return (false, false),
                }
            }
            Progress::Done => {
                let_in = true;
                Progress::Done
            }
            next => next,
        };
        assert!(
            !let_in || !line.changed,
            "a login although somebody changed what was said"
        );
        let mut up = Vec::new();
        let mut rest = &down[..];
        while let Ok(Some((b'R', body, after))) = frame::whole(rest, usize::MAX) {
            let body = line.passes(body, first);
            first = false;
            client = match client.step(&body, &mut rings.1, &mut random, &mut up) {
                Ok(Progress::Next(prove)) => prove,
                Ok(Progress::Done) => return (let_in, true),
                Ok(Progress::Derive(_, job)) if job.iterations > ITERATIONS_MAX => {
                    return (let_in, false);
                }
                Ok(Progress::Derive(prove, job)) => {
                    match prove.derived(&job.run(), &mut rings.1, &mut up) {
                        Ok(Progress::Next(prove)) => prove,
                        other => panic!("after a derivation comes {other:?}"),
                    }
                }
                Err(_) => return (let_in, false),
            };
            rest = after;
        }
        if let_in {
            // The last word is not protected, and not changed here.
            let mut ok = Vec::new();
            backend::write_authentication_ok(&mut ok);
            let (_, body, _) = frame::whole(&ok, usize::MAX)
                .ok()
                .flatten()
                .expect("a whole message");
            let believes = matches!(
                client.step(body, &mut rings.1, &mut random, &mut up),
                Ok(Progress::Done)
            );
            return (true, believes);
        }
        down.clear();
        let Ok(Some((b'p', body, _))) = frame::whole(&up, usize::MAX) else {
            return (false, false);
        };
        let body = line.passes(body, false);
        let Progress::Next(verify) = server else {
            return (false, false);
        };
        server = match verify.step(&body, &mut rings.0, &mut down) {
            Ok(progress) => progress,
            Err(_) => return (false, false),
        };
        assert!(line.messages < 20, "an exchange has an end");
    }
}

/// PostgreSQL's own rule for what it stores.
fn md5_secret(password: &[u8]) -> Stored {
    let digest = Md5::new()
        .chain_update(password)
        .chain_update(USER)
        .finalize();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Stored::parse(format!("md5{hex}").as_bytes())
}

/// A verifier by RFC 5802, section 3, made without our own machines.
fn scram_secret(password: &[u8]) -> Stored {
    let text = std::str::from_utf8(password)
        .ok()
        .and_then(|text| stringprep::saslprep(text).ok());
    let password = text.as_deref().map_or(password, str::as_bytes);
    let mut salted = [0; 32];
    let iterations = NonZeroU32::new(ITERATIONS).expect("not zero");
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        b"salt",
        password,
        &mut salted,
    );
    let key = |text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &salted), text);
    let stored_key = digest::digest(&digest::SHA256, key(b"Client Key").as_ref());
    Stored::Scram(ScramVerifier {
        iterations: ITERATIONS,
        salt: b"salt".to_vec(),
        stored_key: stored_key.as_ref().try_into().expect("32 bytes"),
        server_key: Secret::new(key(b"Server Key").as_ref()),
    })
}
