//! Both machines against each other, and against peers that lie.

use super::*;
use crate::config::secret::ScramVerifier;
use crate::config::{AuthMethod, ChannelBinding, Demands, RequireAuth, Secret, Stored};
use crate::wire::frame;
use crate::wire::refusal::Refusal;

fn random() -> impl FnMut(&mut [u8]) {
    let mut state = 42u64;
    move |into: &mut [u8]| {
        for byte in into {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
    }
}

/// A demand without TLS.
fn demand(method: AuthMethod, iterations: u32) -> Demand<'static> {
    Demand {
        method,
        iterations,
        endpoint: None,
    }
}

/// Nothing is demanded, over this.
fn terms(channel: Channel) -> Terms {
    Terms {
        demands: Demands::default(),
        iterations_max: 100_000,
        channel,
        own_certificate: None,
    }
}

/// A login that begins, with nothing demanded.
fn begin(credentials: Credentials) -> Prove {
    Prove::begin(credentials, terms(Channel::Plain))
}

fn ring() -> KeyRing {
    KeyRing::new(&mut random(), None)
}

fn plain(password: &str) -> Stored {
    Stored::Plain(Secret::new(password))
}

fn md5_secret(user: &str, password: &str) -> Stored {
    Stored::Md5(Secret::new(md5::stored(user, password.as_bytes()).to_vec()))
}

fn scram_secret(password: &str) -> Stored {
    let salt = b"0123456789abcdef".to_vec();
    let keys =
        scram::Keys::new(&scram::derivation(&Secret::new(password), salt.clone(), 4096).run());
    Stored::Scram(ScramVerifier {
        iterations: 4096,
        salt,
        stored_key: keys.stored_key,
        server_key: Secret::new(*keys.server_key),
    })
}

/// What came of a login of our own client at our own server.
#[derive(Debug)]
struct Login {
    result: Result<(), Refusal>,
    /// Type and length of every message that the server sent.
    shape: Vec<(u8, usize)>,
    derivations: (usize, usize),
}

fn login(
    method: AuthMethod,
    user: &str,
    stored: Option<&Stored>,
    typed: &Stored,
    rings: &mut (KeyRing, KeyRing),
) -> Login {
    let terms = terms(Channel::Plain);
    login_over(demand(method, 4096), terms, user, stored, typed, rings)
}

/// The same, over what may be TLS.
fn login_over(
    demand: Demand<'_>,
    terms: Terms,
    user: &str,
    stored: Option<&Stored>,
    typed: &Stored,
    rings: &mut (KeyRing, KeyRing),
) -> Login {
    let mut random = random();
    let (mut down, mut up, mut shape, mut derivations) =
        (Vec::new(), Vec::new(), Vec::new(), (0, 0));
    let mut server = Ok(Verify::begin(
        demand,
        user,
        stored,
        &mut rings.0,
        &mut random,
        &mut down,
    ));
    let credentials = Credentials {
        user: user.to_owned(),
        secret: Some(typed.clone()),
    };
    let mut client = Prove::begin(credentials, terms);
    loop {
        server = match server {
            Ok(Progress::Derive(verify, job)) => {
                derivations.0 += 1;
                verify.derived(&job.run(), &mut rings.0, &mut down)
            }
            other => other,
        };
        if let Err(refusal) = &server {
            return Login {
                result: Err(refusal.clone()),
                shape,
                derivations,
            };
        }
        if matches!(server, Ok(Progress::Done)) {
            crate::wire::backend::write_authentication_ok(&mut down);
        }
        let mut rest = &down[..];
        while let Ok(Some((tag, body, after))) = frame::whole(rest, 10_000) {
            shape.push((tag, body.len()));
            let progress = match client.step(body, &mut rings.1, &mut random, &mut up) {
                Ok(Progress::Derive(prove, job)) => {
                    derivations.1 += 1;
                    prove.derived(&job.run(), &mut rings.1, &mut up)
                }
                other => other,
            };
            client = match progress {
                Ok(Progress::Next(prove)) => prove,
                Ok(Progress::Done) => {
                    return Login {
                        result: Ok(()),
                        shape,
                        derivations,
                    };
                }
                Ok(Progress::Derive(..)) => unreachable!("derived"),
                Err(refusal) => {
                    return Login {
                        result: Err(refusal),
                        shape,
                        derivations,
                    };
                }
            };
            rest = after;
        }
        down.clear();
        let Ok(Some((b'p', body, _))) = frame::whole(&up, 10_000) else {
            panic!("the client has nothing to say")
        };
        server = match server {
            Ok(Progress::Next(verify)) => verify.step(body, &mut rings.0, &mut down),
            other => panic!("{other:?}"),
        };
        up.clear();
    }
}

#[test]
fn every_stored_form_works_with_the_methods_that_can_use_it() {
    use AuthMethod::*;
    let (user, typed) = ("me", plain("secret"));
    for method in [Password, Md5, ScramSha256] {
        for (stored, works) in [
            (plain("secret"), true),
            (md5_secret(user, "secret"), method != ScramSha256),
            (scram_secret("secret"), true),
            (plain("other"), false),
            (md5_secret(user, "other"), false),
            (scram_secret("other"), false),
        ] {
            let result = login(method, user, Some(&stored), &typed, &mut (ring(), ring())).result;
            assert_eq!(result.is_ok(), works, "{method:?} {stored:?} {result:?}");
            if let Err(refusal) = result {
                assert_eq!(
                    (refusal.code(), refusal.text().as_str()),
                    ("28P01", "password authentication failed for user \"me\"")
                );
            }
        }
    }
    assert!(
        login(
            Md5,
            user,
            Some(&md5_secret(user, "secret")),
            &md5_secret(user, "secret"),
            &mut (ring(), ring())
        )
        .result
        .is_ok()
    );
}

/// R5: the same messages, in number and length, and the same words at the end.
#[test]
fn an_unknown_user_cannot_be_told_from_a_wrong_password() {
    for method in [
        AuthMethod::Password,
        AuthMethod::Md5,
        AuthMethod::ScramSha256,
    ] {
        let mut rings = (ring(), ring());
        let known = login(
            method,
            "me",
            Some(&plain("secret")),
            &plain("wrong"),
            &mut rings,
        );
        let unknown = login(method, "me", None, &plain("wrong"), &mut rings);
        assert_eq!(known.shape, unknown.shape, "{method:?}");
        assert_eq!(known.result, unknown.result);
        let again = login(method, "me", None, &plain("wrong"), &mut rings);
        assert_eq!(again.shape, unknown.shape);
    }
}

#[test]
fn the_salt_of_an_unknown_user_stays_the_same_and_follows_the_mock_secret() {
    let with = |secret: &str, seed: u8| {
        KeyRing::new(&mut |into| into.fill(seed), Some(&Secret::new(secret)))
    };
    assert_eq!(with("a", 1).salt("x"), with("a", 2).salt("x"));
    assert_ne!(with("a", 1).salt("x"), with("b", 1).salt("x"));
    assert_ne!(with("a", 1).salt("x"), with("a", 1).salt("y"));
}

#[test]
fn a_password_is_turned_into_keys_once() {
    let mut rings = (ring(), ring());
    let stored = plain("secret");
    assert_eq!(
        login(
            AuthMethod::ScramSha256,
            "me",
            Some(&stored),
            &stored,
            &mut rings
        )
        .derivations,
        (1, 1)
    );
    assert_eq!(
        login(
            AuthMethod::ScramSha256,
            "me",
            Some(&stored),
            &stored,
            &mut rings
        )
        .derivations,
        (0, 0)
    );
}

#[test]
fn trust_lets_known_users_in_and_nobody_else() {
    let begin = |stored: Option<&Stored>| {
        Verify::begin(
            demand(AuthMethod::Trust, 4096),
            "me",
            stored,
            &mut ring(),
            &mut random(),
            &mut Vec::new(),
        )
    };
    assert!(matches!(begin(Some(&plain("x"))), Progress::Done));
    assert!(!matches!(begin(None), Progress::Done));
}

#[test]
fn an_empty_password_is_refused() {
    for stored in [None, Some(plain("")), Some(plain("x"))] {
        let Progress::Next(verify) = Verify::begin(
            demand(AuthMethod::Password, 4096),
            "me",
            stored.as_ref(),
            &mut ring(),
            &mut random(),
            &mut Vec::new(),
        ) else {
            panic!("asks for the password")
        };
        assert_eq!(
            verify
                .step(b"\0", &mut ring(), &mut Vec::new())
                .expect_err("refused")
                .code(),
            "28P01"
        );
    }
}

/// CVE-2026-6664: every message of a client, cut at every byte and with every byte changed, is refused or at least no proof.
#[test]
fn broken_client_messages_are_no_proof() {
    for method in [
        AuthMethod::Password,
        AuthMethod::Md5,
        AuthMethod::ScramSha256,
    ] {
        let stored = scram_secret("secret");
        let begin = || match Verify::begin(
            demand(method, 4096),
            "me",
            Some(&stored),
            &mut ring(),
            &mut random(),
            &mut Vec::new(),
        ) {
            Progress::Next(verify) => verify,
            other => panic!("{other:?}"),
        };
        let good = b"SCRAM-SHA-256\0\0\0\0\x10n,,n=,r=abcdefgh";
        for cut in 0..good.len() {
            assert!(!matches!(
                begin().step(&good[..cut], &mut ring(), &mut Vec::new()),
                Ok(Progress::Done)
            ));
            let mut changed = good.to_vec();
            changed[cut] ^= 0xff;
            assert!(!matches!(
                begin().step(&changed, &mut ring(), &mut Vec::new()),
                Ok(Progress::Done)
            ));
        }
        for length in [0u32, 1, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff] {
            let body = [b"SCRAM-SHA-256\0".as_slice(), &length.to_be_bytes(), b"n,,"].concat();
            assert!(!matches!(
                begin().step(&body, &mut ring(), &mut Vec::new()),
                Ok(Progress::Done)
            ));
        }
    }
}

/// R6: nothing but a proven server gets past SCRAM, and an Ok in the middle is no proof.
#[test]
fn a_server_that_skips_its_proof_is_refused() {
    let begin = || {
        self::begin(Credentials {
            user: "me".to_owned(),
            secret: Some(plain("secret")),
        })
    };
    let sasl = b"\0\0\0\x0aSCRAM-SHA-256\0\0";
    let step =
        |prove: Prove, body: &[u8]| prove.step(body, &mut ring(), &mut random(), &mut Vec::new());
    assert!(matches!(step(begin(), b"\0\0\0\0"), Ok(Progress::Done)));
    let Ok(Progress::Next(asked)) = step(begin(), sasl) else {
        panic!("answers")
    };
    assert!(step(asked, b"\0\0\0\0").is_err());
    for body in [
        &b""[..],
        b"\0\0\0\x0b",
        b"\0\0\0\x0c",
        b"\0\0\0\x07",
        b"\0\0\0\x0aOTHER\0\0",
        b"\0\0\0\x05abc",
        b"\xff\xff\xff\xff",
    ] {
        assert!(step(begin(), body).is_err(), "{body:?}");
    }
}

#[test]
fn a_server_that_cannot_sign_is_refused() {
    let mut random = random();
    let (mut ring, mut out) = (ring(), Vec::new());
    let prove = begin(Credentials {
        user: "me".to_owned(),
        secret: Some(plain("secret")),
    });
    let Ok(Progress::Next(prove)) = prove.step(
        b"\0\0\0\x0aSCRAM-SHA-256\0\0",
        &mut ring,
        &mut random,
        &mut out,
    ) else {
        panic!("answers")
    };
    let first = String::from_utf8_lossy(&out).into_owned();
    let nonce = first.split("r=").nth(1).expect("a nonce").to_owned();
    let challenge = [
        &b"\0\0\0\x0b"[..],
        format!("r={nonce}x,s=c2FsdA==,i=1").as_bytes(),
    ]
    .concat();
    let Ok(Progress::Derive(prove, job)) = prove.step(&challenge, &mut ring, &mut random, &mut out)
    else {
        panic!("derives")
    };
    let Ok(Progress::Next(prove)) = prove.derived(&job.run(), &mut ring, &mut out) else {
        panic!("answers")
    };
    let last = b"\0\0\0\x0cv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    assert!(prove.step(last, &mut ring, &mut random, &mut out).is_err());
}

#[test]
fn a_secret_in_the_wrong_form_says_what_to_configure() {
    for (secret, request) in [
        (None, &b"\0\0\0\x03"[..]),
        (None, b"\0\0\0\x05abcd"),
        (Some(scram_secret("x")), b"\0\0\0\x05abcd"),
        (Some(scram_secret("x")), b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
        (Some(md5_secret("me", "x")), b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
        (Some(md5_secret("me", "x")), b"\0\0\0\x03"),
    ] {
        let prove = begin(Credentials {
            user: "me".to_owned(),
            secret,
        });
        let refusal = prove
            .step(request, &mut ring(), &mut random(), &mut Vec::new())
            .expect_err("cannot be answered");
        assert!(refusal.hint.is_some() && refusal.code() == "28P01");
    }
}

/// What a server with this verifier makes of a login with what is known of it. A ring that serves both sides would know too much.
fn pass_through(stored: &Stored, on_server: &Stored, ring: KeyRing) -> (Login, KeyRing) {
    let mut rings = (self::ring(), ring);
    let login = login(
        AuthMethod::ScramSha256,
        "me",
        Some(on_server),
        stored,
        &mut rings,
    );
    (login, rings.1)
}

/// A ring after a client's login.
fn ring_after(method: AuthMethod, user: &str, stored: &Stored, typed: &str) -> KeyRing {
    let mut rings = (ring(), ring());
    let _ = login(method, user, Some(stored), &plain(typed), &mut rings);
    rings.0
}

fn text(login: &Login) -> &str {
    let refusal = login.result.as_ref().expect_err("it is refused");
    assert_eq!(refusal.code(), "28P01");
    std::str::from_utf8(&refusal.message).expect("text")
}

const UNPROVEN: &str = "of which Aether has only a SCRAM verifier that no client has proven";

/// Issue 4: a client's proven keys log in to the server, however it has proven them.
#[test]
fn what_a_client_has_proven_logs_in_to_a_server_with_the_same_verifier() {
    let stored = scram_secret("secret");
    let (login, _) = pass_through(&stored, &stored, ring());
    assert!(text(&login).contains(UNPROVEN), "{login:?}");
    for method in [
        AuthMethod::Password,
        AuthMethod::Md5,
        AuthMethod::ScramSha256,
    ] {
        let after = ring_after(method, "me", &stored, "secret");
        let (login, after) = pass_through(&stored, &stored, after);
        assert!(login.result.is_ok(), "{method:?} {login:?}");
        assert_eq!(login.derivations, (0, 0), "nothing is derived");
        let (again, _) = pass_through(&stored, &stored, after);
        assert!(again.result.is_ok(), "and again: {again:?}");

        let wrong = ring_after(method, "me", &stored, "wrong");
        let (login, _) = pass_through(&stored, &stored, wrong);
        assert!(text(&login).contains(UNPROVEN), "{method:?} {login:?}");
        let other_user = ring_after(method, "you", &stored, "secret");
        let (login, _) = pass_through(&stored, &stored, other_user);
        assert!(text(&login).contains(UNPROVEN), "{method:?} {login:?}");
    }
}

#[test]
fn a_server_with_another_salt_or_iteration_count_is_told_apart() {
    let stored = scram_secret("secret");
    let Stored::Scram(verifier) = &stored else {
        panic!("a verifier")
    };
    for (salt, iterations) in [(b"another salt".to_vec(), 4096), (verifier.salt.clone(), 5)] {
        let other = Stored::Scram(ScramVerifier {
            salt,
            iterations,
            ..verifier.clone()
        });
        let after = ring_after(AuthMethod::ScramSha256, "me", &stored, "secret");
        let (login, after) = pass_through(&stored, &other, after);
        assert_eq!(
            text(&login),
            "the verifier on the server differs from the one that Aether has for user \"me\""
        );
        assert!(pass_through(&stored, &stored, after).0.result.is_ok());
    }
}

/// R6: the keys are of no use to a server that does not have the verifier, and it has to prove that.
#[test]
fn a_server_that_cannot_sign_is_refused_with_proven_keys_too() {
    let stored = scram_secret("secret");
    let Stored::Scram(verifier) = &stored else {
        panic!("a verifier")
    };
    let liar = Stored::Scram(ScramVerifier {
        server_key: Secret::new([7; 32]),
        ..verifier.clone()
    });
    let after = ring_after(AuthMethod::ScramSha256, "me", &stored, "secret");
    let (login, _) = pass_through(&stored, &liar, after);
    let refusal = login.result.expect_err("the signature is wrong");
    assert!(refusal.text().contains("its signature is wrong"));
}

#[test]
fn keys_go_when_a_server_refuses_them_or_the_secret_changes() {
    let stored = scram_secret("secret");
    let proven = || ring_after(AuthMethod::ScramSha256, "me", &stored, "secret");
    let knows = |ring: KeyRing| pass_through(&stored, &stored, ring).0.result.is_ok();

    // The same salt and iterations, another key: the server refuses.
    let Stored::Scram(verifier) = &stored else {
        panic!("a verifier")
    };
    let rotated = Stored::Scram(ScramVerifier {
        stored_key: [7; 32],
        ..verifier.clone()
    });
    let credentials = || Credentials {
        user: "me".to_owned(),
        secret: Some(stored.clone()),
    };
    for (code, stay) in [(b"28P01", false), (b"53300", true), (b"57P03", true)] {
        let mut ring = proven();
        let (mut out, mut random) = (Vec::new(), random());
        let mut verify = match Verify::begin(
            demand(AuthMethod::ScramSha256, 4096),
            "me",
            Some(&rotated),
            &mut self::ring(),
            &mut random,
            &mut out,
        ) {
            Progress::Next(verify) => verify,
            other => panic!("{other:?}"),
        };
        let mut prove = begin(credentials());
        for _ in 0..2 {
            let mut answer = Vec::new();
            let (_, body, _) = frame::whole(&out, 10_000).expect("ours").expect("whole");
            prove = match prove.step(body, &mut ring, &mut random, &mut answer) {
                Ok(Progress::Next(prove)) => prove,
                other => panic!("{other:?}"),
            };
            out.clear();
            let (_, body, _) = frame::whole(&answer, 10_000).expect("ours").expect("whole");
            match verify.step(body, &mut self::ring(), &mut out) {
                Ok(Progress::Next(next)) => verify = next,
                Err(refusal) => {
                    assert_eq!(refusal.code(), "28P01");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let refusal = Refusal::fatal(code, "no", crate::wire::refusal::Blame::Server);
        prove.refused(&refusal, &mut ring);
        assert_eq!(knows(ring), stay, "{code:?}");
    }

    let users = |secret: Option<&Stored>| {
        let one = secret.map(|secret| ("me".to_owned(), secret.clone()));
        one.into_iter()
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    for (old, new, stay) in [
        (Some(&stored), Some(&stored), true),
        (None, None, true), // from elsewhere
        (Some(&stored), Some(&rotated), false),
        (Some(&stored), None, false),
    ] {
        let mut ring = proven();
        ring.proven.reconfigured(&users(old), &users(new));
        assert_eq!(knows(ring), stay, "{old:?} {new:?}");
    }
}

#[test]
fn the_keys_of_users_who_are_here_are_the_last_to_go() {
    let Stored::Scram(verifier) = scram_secret("secret") else {
        panic!("a verifier")
    };
    let mut proven = Proven::default();
    let name = |number: usize| format!("user{number}");
    let key = zeroize::Zeroizing::new([1; 32]);
    for number in 0..=crate::limits::PROVEN_KEYS_MAX {
        assert!(!proven.is_over_limit(), "{number}");
        proven.note(&name(number), &verifier, &key);
    }
    assert!(proven.is_over_limit());
    assert!(proven.find(&name(3), &verifier).is_some(), "it is used");
    proven.trim(&std::collections::BTreeSet::from([&b"user1"[..]]));
    let knows = |number| proven.knows(&name(number), &verifier);
    assert!(!knows(0) && knows(1) && !knows(2) && knows(3));
    assert!(knows(crate::limits::PROVEN_KEYS_MAX) && !proven.is_over_limit());
}

/// Found by reading: a SCRAM verifier that clear passwords are held against had its keys derived at every login.
#[test]
fn a_clear_password_is_derived_once_and_a_wrong_one_is_not_remembered() {
    let (mut ring, mut random, mut out) = (ring(), random(), Vec::new());
    let stored = scram_secret("secret");
    let mut login = |password: &[u8]| {
        let method = AuthMethod::Password;
        let begun = Verify::begin(
            demand(method, 1),
            "me",
            Some(&stored),
            &mut ring,
            &mut random,
            &mut out,
        );
        let Progress::Next(verify) = begun else {
            panic!("asks for the password")
        };
        match verify.step(password, &mut ring, &mut out) {
            Ok(Progress::Derive(verify, job)) => {
                let done = verify.derived(&job.run(), &mut ring, &mut out);
                (true, matches!(done, Ok(Progress::Done)))
            }
            other => (false, matches!(other, Ok(Progress::Done))),
        }
    };
    assert_eq!(login(b"wrong\0"), (true, false));
    assert_eq!(login(b"wrong\0"), (true, false));
    assert_eq!(login(b"secret\0"), (true, true));
    assert_eq!(login(b"secret\0"), (false, true));
}

const ENDPOINT: &[u8] = b"hash of the certificate";

fn bindable() -> Terms {
    terms(Channel::Bindable(ENDPOINT.to_vec()))
}

fn with(terms: Terms, channel_binding: ChannelBinding) -> Terms {
    let demands = Demands {
        channel_binding,
        ..terms.demands
    };
    Terms { demands, ..terms }
}

/// Issue 4: scram-sha-256-plus. Who stands in between with a certificate of his own gets neither side to believe him.
#[test]
fn scram_is_bound_to_the_certificate_that_both_sides_see() {
    use AuthMethod::{ScramSha256, ScramSha256Plus};
    use ChannelBinding::{Disable, Prefer, Require};
    let his = || terms(Channel::Bindable(b"another certificate".to_vec()));
    let none = || terms(Channel::Unbindable);
    let mismatch = "SCRAM channel binding check failed";
    let not_offered = "channel binding is required, but server did not offer an authentication method that supports channel binding";
    for (method, endpoint, terms, binding, says) in [
        (ScramSha256, Some(ENDPOINT), bindable(), Prefer, ""),
        (ScramSha256, Some(ENDPOINT), bindable(), Require, ""),
        (ScramSha256, Some(ENDPOINT), bindable(), Disable, ""),
        (ScramSha256Plus, Some(ENDPOINT), bindable(), Prefer, ""),
        (
            ScramSha256Plus,
            Some(ENDPOINT),
            bindable(),
            Disable,
            "none of the server's SASL authentication mechanisms are supported",
        ),
        (ScramSha256, Some(ENDPOINT), his(), Prefer, mismatch),
        (ScramSha256, Some(ENDPOINT), his(), Require, mismatch),
        (ScramSha256, None, bindable(), Prefer, ""),
        (ScramSha256, None, bindable(), Require, not_offered),
        (ScramSha256, Some(ENDPOINT), none(), Prefer, ""),
        (
            ScramSha256,
            Some(ENDPOINT),
            none(),
            Require,
            "channel binding is required, but none is defined for the signature algorithm of the server's certificate",
        ),
        (
            ScramSha256,
            Some(ENDPOINT),
            self::terms(Channel::Plain),
            Prefer,
            "server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection",
        ),
        (
            ScramSha256,
            None,
            self::terms(Channel::Plain),
            Require,
            "channel binding required, but SSL not in use",
        ),
    ] {
        let case = format!("{method:?} {endpoint:?} {terms:?} {binding:?}");
        let demand = Demand {
            endpoint,
            ..demand(method, 4096)
        };
        for stored in [Some(plain("secret")), None] {
            let says = match says {
                "" if stored.is_none() => "password authentication failed for user \"me\"",
                says => says,
            };
            let terms = with(terms.clone(), binding);
            let (typed, mut rings) = (plain("secret"), (ring(), ring()));
            let login = login_over(demand, terms, "me", stored.as_ref(), &typed, &mut rings);
            let text = login
                .result
                .map_or_else(|why| why.text(), |()| String::new());
            assert_eq!(text, says, "{case} {stored:?}");
        }
    }
}

/// RFC 5802, section 6, in PostgreSQL's words, for those who are known and those who are not.
#[test]
fn what_a_client_says_of_the_channel_must_fit_what_was_offered() {
    let plus = &b"SCRAM-SHA-256-PLUS"[..];
    let simple = &b"SCRAM-SHA-256"[..];
    let malformed = ("08P01", "malformed SCRAM message");
    let no_data = "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.";
    let data = "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.";
    let downgraded = "The client supports SCRAM channel binding but thinks the server does not.  However, this server does support channel binding.";
    let mechanism = (
        "08P01",
        "client selected an invalid SASL authentication mechanism",
    );
    for (endpoint, mechanism, header, (code, text), detail) in [
        (
            Some(ENDPOINT),
            simple,
            "y,,",
            ("28000", "SCRAM channel binding negotiation error"),
            downgraded,
        ),
        (None, simple, "y,,", ("", ""), ""),
        (Some(ENDPOINT), simple, "n,,", ("", ""), ""),
        (Some(ENDPOINT), plus, "n,,", malformed, no_data),
        (Some(ENDPOINT), plus, "y,,", malformed, no_data),
        (
            Some(ENDPOINT),
            simple,
            "p=tls-server-end-point,,",
            malformed,
            data,
        ),
        (
            Some(ENDPOINT),
            plus,
            "p=tls-unique,,",
            ("08P01", "unsupported SCRAM channel-binding type"),
            "",
        ),
        (
            Some(ENDPOINT),
            plus,
            "p=tls-server-end-point,,",
            ("", ""),
            "",
        ),
        (
            Some(ENDPOINT),
            plus,
            "x,,",
            malformed,
            "Unexpected channel-binding flag.",
        ),
        (None, plus, "p=tls-server-end-point,,", mechanism, ""),
        (
            Some(ENDPOINT),
            simple,
            "n,a=other,",
            (
                "0A000",
                "client uses authorization identity, but it is not supported",
            ),
            "",
        ),
        (
            None,
            simple,
            "n,,m=x,",
            ("0A000", "client requires an unsupported SCRAM extension"),
            "",
        ),
    ] {
        let stored = scram_secret("secret");
        for stored in [Some(&stored), None] {
            let demand = Demand {
                endpoint,
                ..demand(AuthMethod::ScramSha256, 4096)
            };
            let (mut ring, mut random, mut out) = (ring(), random(), Vec::new());
            let begun = Verify::begin(demand, "me", stored, &mut ring, &mut random, &mut out);
            let Progress::Next(verify) = begun else {
                panic!("it asks")
            };
            let first = format!("{header}n=,r=abcdefgh");
            let length = u32::try_from(first.len()).expect("short").to_be_bytes();
            let body = [mechanism, b"\0", &length, first.as_bytes()].concat();
            let case = format!("{endpoint:?} {header} {stored:?}");
            match verify.step(&body, &mut ring, &mut out) {
                Ok(_) => assert_eq!(code, "", "{case}"),
                Err(refusal) => {
                    let said = refusal.detail.clone().unwrap_or_default();
                    assert_eq!(
                        (refusal.code(), refusal.text().as_str()),
                        (code, text),
                        "{case}"
                    );
                    assert_eq!(String::from_utf8_lossy(&said), detail, "{case}");
                }
            }
        }
    }
}

/// The last message repeats what the first said; it is signed, so nobody in between can change one of them alone.
#[test]
fn the_last_message_of_a_client_must_repeat_its_channel_binding() {
    use base64::Engine as _;
    let encoded = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let bound = [&b"p=tls-server-end-point,,"[..], ENDPOINT].concat();
    for (mechanism, header, given, says) in [
        (
            "SCRAM-SHA-256",
            "n,,",
            encoded(b"y,,"),
            "unexpected SCRAM channel-binding attribute in client-final-message",
        ),
        (
            "SCRAM-SHA-256",
            "n,,",
            encoded(b"n,,"),
            "password authentication failed for user \"me\"",
        ),
        (
            "SCRAM-SHA-256-PLUS",
            "p=tls-server-end-point,,",
            encoded(b"p=tls-server-end-point,,other"),
            "SCRAM channel binding check failed",
        ),
        (
            "SCRAM-SHA-256-PLUS",
            "p=tls-server-end-point,,",
            encoded(b"n,,"),
            "SCRAM channel binding check failed",
        ),
        (
            "SCRAM-SHA-256-PLUS",
            "p=tls-server-end-point,,",
            encoded(&bound),
            "password authentication failed for user \"me\"",
        ),
        (
            "SCRAM-SHA-256-PLUS",
            "p=tls-server-end-point,,",
            String::new(),
            "SCRAM channel binding check failed",
        ),
    ] {
        let demand = Demand {
            endpoint: Some(ENDPOINT),
            ..demand(AuthMethod::ScramSha256, 4096)
        };
        let stored = scram_secret("secret");
        let (mut ring, mut random, mut out) = (ring(), random(), Vec::new());
        let begun = Verify::begin(
            demand,
            "me",
            Some(&stored),
            &mut ring,
            &mut random,
            &mut out,
        );
        let Progress::Next(verify) = begun else {
            panic!("it asks")
        };
        out.clear();
        let first = format!("{header}n=,r=abcdefgh");
        let length = u32::try_from(first.len()).expect("short").to_be_bytes();
        let body = [mechanism.as_bytes(), b"\0", &length, first.as_bytes()].concat();
        let Ok(Progress::Next(verify)) = verify.step(&body, &mut ring, &mut out) else {
            panic!("it answers")
        };
        let challenge = String::from_utf8_lossy(&out).into_owned();
        let nonce = challenge
            .split("r=")
            .nth(1)
            .and_then(|rest| rest.split(',').next());
        let last = format!(
            "c={given},r={},p={}",
            nonce.expect("a nonce"),
            encoded(&[0; 32])
        );
        let refusal = verify
            .step(last.as_bytes(), &mut ring, &mut out)
            .expect_err("no proof");
        assert_eq!(refusal.text(), says, "{mechanism} {given}");
    }
}

/// libpq's `require_auth` and `channel_binding`, R6: what is not allowed gets nothing, and the error names the method and the key.
#[test]
fn a_server_that_asks_for_what_it_may_not_gets_nothing() {
    let requests: [(&str, &[u8]); 7] = [
        ("none", b"\0\0\0\0"),
        ("password", b"\0\0\0\x03"),
        ("md5", b"\0\0\0\x05salt"),
        ("scram-sha-256", b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
        ("unknown", b"\0\0\0\x07"),
        ("unknown", b"\0\0\0\x09"),
        ("unknown", b"\0\0\0\x0bx"),
    ];
    for (list, allowed) in [
        ("scram-sha-256", &["scram-sha-256"][..]),
        ("md5,none", &["md5", "none"]),
        ("!password", &["md5", "scram-sha-256", "none"]),
        ("!none", &["password", "md5", "scram-sha-256"]),
        ("gss", &[]),
    ] {
        for (method, request) in requests {
            let mut terms = terms(Channel::Plain);
            terms.demands.require_auth = Some(RequireAuth::parse(list).expect("a list"));
            let credentials = Credentials {
                user: "me".to_owned(),
                secret: Some(plain("secret")),
            };
            let (mut out, case) = (Vec::new(), format!("{list} {method}"));
            match Prove::begin(credentials, terms).step(
                request,
                &mut ring(),
                &mut random(),
                &mut out,
            ) {
                Ok(_) => assert!(allowed.contains(&method), "{case}"),
                Err(refusal) => {
                    assert!(!allowed.contains(&method), "{case}: {refusal:?}");
                    assert!(out.is_empty(), "{case}: {out:?}");
                    let hint = String::from_utf8_lossy(&refusal.hint.clone().unwrap_or_default())
                        .into_owned();
                    assert!(
                        refusal
                            .text()
                            .contains(&format!("requirement \"{list}\" failed")),
                        "{case}"
                    );
                    assert!(
                        refusal.text().contains(method),
                        "{case}: {}",
                        refusal.text()
                    );
                    assert!(hint.contains("require_auth"), "{case}: {hint}");
                }
            }
        }
    }
    for (request, says) in [
        (
            &b"\0\0\0\0"[..],
            "server authenticated client without channel binding",
        ),
        (
            b"\0\0\0\x03",
            "not supported by server's authentication request",
        ),
        (
            b"\0\0\0\x05salt",
            "not supported by server's authentication request",
        ),
        (b"\0\0\0\x0aSCRAM-SHA-256\0\0", "server did not offer"),
    ] {
        let credentials = Credentials {
            user: "me".to_owned(),
            secret: Some(plain("secret")),
        };
        let (terms, mut out) = (with(bindable(), ChannelBinding::Require), Vec::new());
        let step =
            Prove::begin(credentials, terms).step(request, &mut ring(), &mut random(), &mut out);
        let refusal = step.expect_err("it may not");
        assert!(
            refusal.text().contains(says) && out.is_empty(),
            "{refusal:?}"
        );
    }
}

/// R5, C15: keys are made once the proof is there. A wait before the challenge would tell that there is such a user.
#[test]
fn nobody_waits_for_keys_before_the_challenge() {
    let secret = plain("secret");
    for stored in [Some(&secret), None] {
        let (mut ring, mut random) = (ring(), random());
        let demand = demand(AuthMethod::ScramSha256, 4096);
        let mut out = Vec::new();
        let begun = Verify::begin(demand, "me", stored, &mut ring, &mut random, &mut out);
        let Progress::Next(verify) = begun else {
            panic!("{stored:?}: {begun:?}");
        };
        let first = b"SCRAM-SHA-256\0\0\0\0\x0cn,,n=,r=abcd";
        let challenged = verify.step(first, &mut ring, &mut out);
        assert!(
            matches!(challenged, Ok(Progress::Next(_))),
            "{stored:?}: {challenged:?}"
        );
    }
}
