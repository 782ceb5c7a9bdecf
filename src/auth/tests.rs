//! Both machines against each other, and against peers that lie.

use super::*;
use crate::config::secret::ScramVerifier;
use crate::config::{AuthMethod, Secret, Stored};
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
    let mut random = random();
    let (mut down, mut up, mut shape, mut derivations) =
        (Vec::new(), Vec::new(), Vec::new(), (0, 0));
    let mut server = Ok(Verify::begin(
        method,
        user,
        stored,
        4096,
        &mut rings.0,
        &mut random,
        &mut down,
    ));
    let mut client = Prove::begin(Credentials {
        user: user.to_owned(),
        secret: Some(typed.clone()),
    });
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
            AuthMethod::Trust,
            "me",
            stored,
            4096,
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
            AuthMethod::Password,
            "me",
            stored.as_ref(),
            4096,
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
            method,
            "me",
            Some(&stored),
            4096,
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
        Prove::begin(Credentials {
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
    let prove = Prove::begin(Credentials {
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
        let prove = Prove::begin(Credentials {
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
            AuthMethod::ScramSha256,
            "me",
            Some(&rotated),
            4096,
            &mut self::ring(),
            &mut random,
            &mut out,
        ) {
            Progress::Next(verify) => verify,
            other => panic!("{other:?}"),
        };
        let mut prove = Prove::begin(credentials());
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
            method,
            "me",
            Some(&stored),
            1,
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
