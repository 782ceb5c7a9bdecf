//! Logging in to a server that says anything at all: ready only after it has let us in, with what it reported and no more.

use aether::auth::{Channel, Credentials, KeyRing, Terms};
use aether::config::{ChannelBinding, Demands, RequireAuth, Secret, Stored};
use aether::limits;
use aether::relay::Vars;
use aether::startup::{Login, Step, Welcome};
use aether::wire::frame;
use arbitrary::{Result, Unstructured};

/// Types of messages, most of them right somewhere in a login.
const TAGS: &[u8] = b"RRRRSSSKKNNEZZZvDX\0";
/// `require_auth`, and the codes of the first requests that it lets through.
const REQUIRED: [(&str, &[u8]); 5] = [
    ("", &[0, 3, 5, 10]),
    ("scram-sha-256", &[10]),
    ("md5,none", &[0, 5]),
    ("!password", &[0, 5, 10]),
    ("gss", &[]),
];
/// Derivations that cost more are not run; the login ends there.
const ITERATIONS_MAX: u32 = 64;

/// The property.
pub fn holds(data: &[u8]) {
    let _ = login(&mut Unstructured::new(data));
}

/// What a server has said, as far as it matters, kept independently of [`Login`].
#[derive(Default)]
struct Said {
    let_in: bool,
    vars: Vars,
    key: Option<Vec<u8>>,
    notices: usize,
}

fn login(u: &mut Unstructured<'_>) -> Result<()> {
    let secret = match u.int_in_range(0..=2)? {
        0 => None,
        1 => Some(Stored::Plain(Secret::new("secret"))),
        _ => Some(Stored::parse(b"md50123456789abcdef0123456789abcdef")),
    };
    let has_secret = secret.is_some();
    let mut random = fixed_random();
    let mut ring = KeyRing::new(&mut random, None);
    let credentials = Credentials {
        user: "me".to_owned(),
        secret,
    };
    let (terms, required) = terms(u)?;
    let bound = terms.demands.channel_binding == ChannelBinding::Require;
    let mut login = Login::begin(credentials, terms);
    let mut first = None;
    let mut said = Said::default();
    while !u.is_empty() {
        let tag = *u.choose(TAGS)?;
        let body = body(tag, u)?;
        let mut out = Vec::new();
        let step = login.step(tag, &body, &mut ring, &mut random, &mut out);
        check_answer(&out, has_secret);
        if tag == b'R' && step.is_ok() && first.is_none() {
            let code = body.get(3).copied().unwrap_or_default();
            assert!(required.contains(&code), "{code} was not allowed");
            assert!(!bound || out.windows(18).any(|text| text == b"SCRAM-SHA-256-PLUS"));
            first = Some(code);
        }
        login = match step {
            Err(refusal) => {
                assert!(!refusal.message.is_empty());
                return Ok(());
            }
            Ok(Step::Ready(welcome)) => {
                assert_eq!(
                    (tag, &body[..]),
                    (b'Z', &b"I"[..]),
                    "only ReadyForQuery makes it ready"
                );
                check_welcome(&welcome, &said);
                return Ok(());
            }
            Ok(Step::More(login)) => login,
            Ok(Step::Derive(login, job)) => {
                assert!(login.is_deriving());
                assert!((1..=limits::SCRAM_ITERATIONS_MAX).contains(&job.iterations));
                if job.iterations > ITERATIONS_MAX {
                    return Ok(());
                }
                let mut out = Vec::new();
                let step = login.derived(&job.run(), &mut ring, &mut out);
                check_answer(&out, has_secret);
                match step {
                    Ok(Step::More(login)) => login,
                    other => panic!("after a derivation comes {other:?}"),
                }
            }
        };
        assert!(tag != b'E', "an error ends a login");
        note(&mut said, tag, &body);
    }
    Ok(())
}

fn terms(u: &mut Unstructured<'_>) -> Result<(Terms, &'static [u8])> {
    let (text, codes) = *u.choose(&REQUIRED)?;
    let require_auth = (!text.is_empty()).then(|| RequireAuth::parse(text).expect("a list"));
    let channel_binding = *u.choose(&[
        ChannelBinding::Disable,
        ChannelBinding::Prefer,
        ChannelBinding::Require,
    ])?;
    let channel = match u.int_in_range(0..=2)? {
        0 => Channel::Plain,
        1 => Channel::Unbindable,
        _ => Channel::Bindable(b"endpoint".to_vec()),
    };
    let terms = Terms {
        demands: Demands {
            require_auth,
            channel_binding,
        },
        iterations_max: limits::SCRAM_ITERATIONS_MAX,
        channel,
        own_certificate: None,
    };
    Ok((terms, codes))
}

fn note(said: &mut Said, tag: u8, body: &[u8]) {
    match tag {
        b'R' if body.starts_with(&[0; 4]) => {
            assert!(!said.let_in, "let in twice");
            said.let_in = true;
        }
        b'S' | b'K' => {
            assert!(
                said.let_in,
                "a server says nothing of itself before it has let us in"
            );
            match tag {
                b'S' => assert!(said.vars.report(body)),
                _ => said.key = Some(body[4..].to_vec()),
            }
        }
        b'N' => said.notices += 1,
        _ => {}
    }
}

fn check_welcome(welcome: &Welcome, said: &Said) {
    assert!(said.let_in, "ready without AuthenticationOk");
    assert_eq!(welcome.vars, said.vars);
    assert_eq!(welcome.key, said.key.clone().unwrap_or_default());
    assert!(welcome.key.is_empty() || (4..=256).contains(&welcome.key.len()));
    assert!(welcome.notices.len() < limits::LOGIN_NOTICES_MAX + frame::HEADER_LEN);
    let (mut rest, mut notices) = (&welcome.notices[..], 0);
    while let Ok(Some((tag, _, after))) = frame::whole(rest, usize::MAX) {
        assert_eq!(tag, b'N');
        (rest, notices) = (after, notices + 1);
    }
    assert!(
        rest.is_empty() && notices <= said.notices,
        "only whole notices are kept"
    );
}

/// What we send is at most one whole password message, and nothing at all without a secret.
fn check_answer(out: &[u8], has_secret: bool) {
    if out.is_empty() {
        return;
    }
    assert!(has_secret, "an answer without a secret");
    let (tag, _, rest) = frame::whole(out, limits::PASSWORD_MESSAGE_MAX)
        .ok()
        .flatten()
        .expect("a whole message");
    assert_eq!((tag, rest), (b'p', &[][..]));
}

/// A body: raw, or one that fits its type, so that a login gets somewhere.
fn body(tag: u8, u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let raw = |u: &mut Unstructured<'_>| -> Result<Vec<u8>> {
        let length = usize::from(u.arbitrary::<u8>()?).min(u.len());
        Ok(u.bytes(length)?.to_vec())
    };
    if u.ratio(1, 4)? {
        return raw(u);
    }
    Ok(match tag {
        b'R' => match u.int_in_range(0..=6)? {
            0 => vec![0; 4],
            1 => b"\0\0\0\x03".to_vec(),
            2 => b"\0\0\0\x05salt".to_vec(),
            3 => b"\0\0\0\x0aSCRAM-SHA-256\0\0".to_vec(),
            4 => b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0".to_vec(),
            5 => [
                &b"\0\0\0\x0br="[..],
                our_nonce().as_bytes(),
                &raw(u)?,
                b",s=c2FsdA==,i=2",
            ]
            .concat(),
            _ => [&b"\0\0\0\x0cv="[..], &raw(u)?].concat(),
        },
        b'S' => [
            &[b'a' + u.int_in_range(0..=25)?],
            &b"\0"[..],
            &without_nul(raw(u)?),
            b"\0",
        ]
        .concat(),
        b'K' => [&[0, 0, 0, 7][..], &raw(u)?].concat(),
        // Many of them are more than what is kept.
        b'N' => vec![b'x'; usize::from(u.arbitrary::<u16>()?)],
        b'Z' => b"I".to_vec(),
        _ => raw(u)?,
    })
}

fn without_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.retain(|&byte| byte != 0);
    bytes
}

fn fixed_random() -> impl FnMut(&mut [u8]) {
    super::random(1)
}

/// The nonce with which our exchange begins here: the machine is asked for it, so that the server can go on with it.
fn our_nonce() -> String {
    let mut random = fixed_random();
    let mut ring = KeyRing::new(&mut random, None);
    let credentials = Credentials {
        user: "me".to_owned(),
        secret: Some(Stored::Plain(Secret::new("secret"))),
    };
    let mut out = Vec::new();
    let terms = Terms {
        demands: Demands::default(),
        iterations_max: limits::SCRAM_ITERATIONS_MAX,
        channel: Channel::Plain,
        own_certificate: None,
    };
    let _ = Login::begin(credentials, terms).step(
        b'R',
        b"\0\0\0\x0aSCRAM-SHA-256\0\0",
        &mut ring,
        &mut random,
        &mut out,
    );
    let text = String::from_utf8_lossy(&out).into_owned();
    text.rsplit_once("r=")
        .map(|(_, nonce)| nonce.to_owned())
        .unwrap_or_default()
}
