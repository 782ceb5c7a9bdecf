//! Rules, certificates, peers and failures, with pipes that say who is at their other end.

use std::time::Duration;

use super::super::scene::{Scene, Shared, World, is_closed, said};
use super::super::{Event, TlsFacts};
use super::*;
use crate::auth::{Channel, Credentials, Progress, Prove, Terms};
use crate::config::{Demands, Secret};
use crate::wire::{frame, frontend};

/// A scene whose rules are `hba`, with a map `m`.
fn scene(hba: &str, auth: &str) -> Scene {
    let files = vec![
        ("hba".to_owned(), hba.to_owned()),
        (
            "ident".to_owned(),
            "m /^(.*)@host$ \\1\nm root me\n".to_owned(),
        ),
    ];
    let config = format!(
        "pool: {{dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'}}\n\
         auth: {{hba_file: hba, ident_file: ident{auth}}}\n"
    );
    Scene::with_files(&config, files, World::default())
}

fn tcp(address: &str) -> Facts {
    Facts {
        address: address.to_owned(),
        ..Facts::default()
    }
}

fn local(uid: u32) -> Facts {
    Facts {
        address: "unix".to_owned(),
        peer_uid: Some(uid),
        ..Facts::default()
    }
}

fn certified_as(cn: Option<&str>, dn: Option<&str>) -> Facts {
    Facts {
        tls: Some(TlsFacts {
            peer_common_name: cn.map(str::to_owned),
            peer_subject: dn.map(str::to_owned),
            ..TlsFacts::default()
        }),
        ..tcp("10.0.0.1")
    }
}

/// What a client from there is told first: an error's code and text, or what is asked of it.
fn told(scene: &mut Scene, facts: Facts) -> String {
    let client = scene.client_from(facts, &[(b"user", b"me"), (b"database", b"db")]);
    said(&client)
}

const TRUSTED: &str = "R0";

#[test]
fn rules_choose_by_socket_address_and_encryption() {
    let mut scene = scene(
        "local all all trust\nhost all all 10.0.0.1/32 md5\nhostssl all all 10.0.0.0/8 password\n\
         host all all 10.0.0.2/32 reject\nhost all all samenet trust\n",
        "",
    );
    assert_eq!(told(&mut scene, local(7)), TRUSTED);
    assert_eq!(told(&mut scene, tcp("10.0.0.1")), "R5");
    assert_eq!(told(&mut scene, tcp("192.0.2.9")), TRUSTED);
    let encrypted = Facts {
        tls: Some(TlsFacts::default()),
        ..tcp("10.0.0.2")
    };
    assert_eq!(told(&mut scene, encrypted), "R3");
}

/// In PostgreSQL's words (compat section 12 has PgBouncer's, which say less), and at once.
#[test]
fn who_meets_no_rule_or_one_that_rejects_is_told_in_postgresqls_words() {
    let mut scene = scene(
        "host all all 10.0.0.2/32 reject\nlocal other all trust\n",
        "",
    );
    let place = "user \"me\", database \"db\"";
    for (facts, expected) in [
        (
            tcp("10.0.0.2"),
            format!(
                "28000 pg_hba.conf rejects connection for host \"10.0.0.2\", {place}, no encryption"
            ),
        ),
        (
            tcp("::1"),
            format!("28000 no pg_hba.conf entry for host \"::1\", {place}, no encryption"),
        ),
        (
            local(0),
            format!("28000 no pg_hba.conf entry for host \"[local]\", {place}, no encryption"),
        ),
        (
            certified_as(None, None),
            format!("28000 no pg_hba.conf entry for host \"10.0.0.1\", {place}, SSL encryption"),
        ),
    ] {
        assert_eq!(told(&mut scene, facts), expected);
    }
    let replication = [(&b"user"[..], &b"me"[..]), (b"replication", b"on")];
    let client = scene.client_from(tcp("::1"), &replication);
    assert_eq!(
        said(&client),
        "28000 no pg_hba.conf entry for replication connection from host \"::1\", user \"me\", no encryption"
    );
}

#[test]
fn peer_lets_in_whom_the_kernel_and_the_map_know() {
    let mut scene = scene("local db all peer map=m\nlocal all all peer\n", "");
    let failed = "28000 Peer authentication failed for user \"me\"";
    for (database, name, expected) in [
        (&b"db"[..], Ok("root".to_owned()), TRUSTED),
        (b"db", Ok("me@host".to_owned()), TRUSTED),
        (b"db", Ok("me".to_owned()), failed),
        (b"db", Err("there is none".to_owned()), failed),
        (b"other", Ok("root".to_owned()), failed),
        (b"other", Ok("me@host".to_owned()), failed),
    ] {
        let client = scene.client_from(local(42), &[(b"user", b"me"), (b"database", database)]);
        let (uid, key) = scene.world.users.pop().expect("its name is asked for");
        assert_eq!((uid, said(&client).as_str()), (42, ""));
        scene.turn(vec![Event::UserNamed {
            key,
            name: name.clone(),
        }]);
        scene.serve_last();
        scene.wait(Duration::from_millis(200));
        assert_eq!(said(&client), expected, "{name:?}");
    }
}

#[test]
fn a_peer_that_hangs_up_while_its_name_is_looked_up_is_gone() {
    let mut scene = scene("local all all peer\n", "");
    let client = scene.client_from(local(42), &[(b"user", b"me"), (b"database", b"db")]);
    scene.hang_up(&client);
    assert!(is_closed(&client));
    let (_, key) = scene.world.users.pop().expect("its name is asked for");
    scene.turn(vec![Event::UserNamed {
        key,
        name: Ok("me".to_owned()),
    }]);
    assert_eq!(scene.engine.client_count(), 0);
}

/// Catalogue T4: whoever has no certificate, or one with another name, gets 28000 and no reason.
#[test]
fn cert_holds_the_name_in_the_certificate_against_the_user() {
    let (plain, mapped, by_dn) = ("", "map=m", "clientname=DN map=m");
    let failed = "28000 certificate authentication failed for user \"me\"";
    let none = "28000 connection requires a valid client certificate";
    for (options, cn, dn, expected) in [
        (plain, Some("me"), Some("CN=me"), TRUSTED),
        (plain, Some("you"), Some("CN=me"), failed),
        (plain, Some(""), Some("O=x"), failed),
        (plain, None, Some("O=me"), failed),
        (plain, None, None, none),
        (mapped, Some("me@host"), None, TRUSTED),
        (mapped, Some("me"), None, failed),
        (by_dn, Some("x"), Some("root"), TRUSTED),
        (by_dn, Some("root"), Some("x"), failed),
    ] {
        let mut scene = scene(&format!("hostssl all all all cert {options}\n"), "");
        let client = scene.client_from(
            certified_as(cn, dn),
            &[(b"user", b"me"), (b"database", b"db")],
        );
        scene.wait(Duration::from_millis(200));
        assert_eq!(said(&client), expected, "{cn:?} {dn:?}");
    }
}

/// As with PostgreSQL, the password is asked for all the same: what a certificate lacks is not told to those who have no password.
#[test]
fn clientcert_comes_beside_the_password() {
    let rules = "hostssl all all all password clientcert=verify-full\n";
    let mut scene = scene(rules, "");
    for (cn, password, expected) in [
        ("me", &b"secret"[..], TRUSTED),
        (
            "me",
            b"wrong",
            "28P01 password authentication failed for user \"me\"",
        ),
        (
            "you",
            b"secret",
            "28P01 password authentication failed for user \"me\"",
        ),
    ] {
        let client = scene.client_from(
            certified_as(Some(cn), None),
            &[(b"user", b"me"), (b"database", b"db")],
        );
        assert_eq!(said(&client), "R3");
        answer(&mut scene, &client, password);
        scene.wait(Duration::from_millis(200));
        assert_eq!(said(&client), expected, "{cn}");
    }
    assert_eq!(
        told(&mut scene, certified_as(None, None)),
        "28000 connection requires a valid client certificate"
    );
}

fn answer(scene: &mut Scene, client: &Shared, password: &[u8]) {
    let mut bytes = Vec::new();
    frontend::password(&mut bytes, password);
    client.borrow_mut().output.clear();
    client.borrow_mut().input.extend(bytes);
    scene.ready(client);
    scene.derive();
    scene.serve_last();
}

/// Catalogue C13, R5: the answer to a failed login waits for a timer, whatever failed.
#[test]
fn a_failed_login_is_answered_after_a_while_and_alike_for_unknown_users() {
    let mut scene = scene("host all all all password\n", ", failure_delay: 1s");
    let mut heard = Vec::new();
    for user in [&b"me"[..], b"nobody"] {
        let client = scene.client_from(tcp("10.0.0.1"), &[(b"user", user), (b"database", b"db")]);
        answer(&mut scene, &client, b"wrong");
        scene.wait(Duration::from_millis(900));
        assert_eq!(said(&client), "");
        scene.wait(Duration::from_millis(700));
        heard.push(said(&client).replace("nobody", "me"));
    }
    assert_eq!(
        heard,
        ["28P01 password authentication failed for user \"me\""; 2]
    );
    // At once, where that is asked for.
    let mut scene = self::scene("host all all all password\n", ", failure_delay: 0");
    let client = scene.client_from(tcp("10.0.0.1"), &[(b"user", b"me"), (b"database", b"db")]);
    answer(&mut scene, &client, b"wrong");
    assert!(said(&client).starts_with("28P01"));
}

/// Catalogue C13: guessing from one address gets slow, and nobody else does.
#[test]
fn who_guesses_waits_before_the_next_attempt_and_others_do_not() {
    let mut scene = scene(
        "host all all all password\n",
        ", failure_delay: 0, failure_limit: 1",
    );
    let asked = |scene: &mut Scene, address: &str| {
        scene.client_from(tcp(address), &[(b"user", b"me"), (b"database", b"db")])
    };
    for _ in 0..7 {
        let client = asked(&mut scene, "10.0.0.1");
        answer(&mut scene, &client, b"wrong");
    }
    let held = asked(&mut scene, "10.0.0.1");
    assert_eq!(said(&held), "");
    let other = asked(&mut scene, "10.0.0.2");
    assert_eq!(said(&other), "R3");
    scene.wait(Duration::from_secs(3));
    assert_eq!(said(&held), "R3");
    answer(&mut scene, &held, b"secret");
    assert_eq!(said(&held), TRUSTED);
    for _ in 0..20 {
        let client = asked(&mut scene, "10.0.0.1");
        scene.wait(Duration::from_millis(1));
        answer(&mut scene, &client, b"wrong");
    }
    let client = asked(&mut scene, "10.0.0.1");
    assert_eq!(
        said(&client),
        "53300 too many failed logins from this address"
    );
}

/// Catalogue C13. Found by reading: an attempt that had waited was charged when it began to wait and again when it failed, so that
/// from there only half as many logins could be tried as `failure_limit` says.
#[test]
fn a_login_that_has_waited_and_fails_is_charged_once() {
    let mut scene = scene(
        "host all all all password\n",
        ", failure_delay: 0, failure_limit: 1",
    );
    let asked = |scene: &mut Scene| {
        scene.client_from(tcp("10.0.0.1"), &[(b"user", b"me"), (b"database", b"db")])
    };
    for _ in 0..6 {
        let client = asked(&mut scene);
        answer(&mut scene, &client, b"wrong");
    }
    for attempt in 0..5 {
        let held = asked(&mut scene);
        assert_eq!(said(&held), "", "{attempt}: it waits");
        scene.wait(Duration::from_millis(1_100));
        assert_eq!(said(&held), "R3", "{attempt}: for its second, not longer");
        answer(&mut scene, &held, b"wrong");
    }
}

/// Catalogue C14, C1: connections that say nothing keep nobody out for long.
#[test]
fn those_who_say_nothing_make_room_for_those_who_come() {
    let config = "server: {max_unauthenticated_connections: 3}\n\
                  pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'}\nauth: {type: password}\n";
    let mut scene = Scene::with(config, World::default());
    (0..3).for_each(|_| scene.connect());
    let client = scene.late_client(tcp("127.0.0.1"), &[(b"user", b"me"), (b"database", b"db")]);
    assert_eq!(client.borrow().who, None, "it waits to be accepted");
    scene.wait(Duration::from_millis(2_500));
    assert!(client.borrow().who.is_some());
    assert_eq!(scene.engine.client_count(), 3);
    // Those who have logged in do not count.
    scene.ready(&client);
    answer(&mut scene, &client, b"secret");
    scene.connect();
    assert_eq!(scene.engine.client_count(), 4);
}

/// R3, R10: what a client typed is nowhere any more, neither in the loop's buffer nor in what was carried.
#[test]
fn nothing_of_a_password_is_left_in_the_buffers() {
    let mut scene = scene("host all all all password\n", ", failure_delay: 0");
    for password in [&b"secret"[..], b"a wrong one"] {
        let client = scene.client_from(tcp("10.0.0.1"), &[(b"user", b"me"), (b"database", b"db")]);
        let mut bytes = Vec::new();
        frontend::password(&mut bytes, password);
        // In two pieces, so that it is carried.
        let (first, second) = bytes.split_at(9);
        client.borrow_mut().input.extend(first);
        scene.ready(&client);
        client.borrow_mut().input.extend(second);
        scene.ready(&client);
        let found = scene
            .engine
            .buffer
            .windows(4)
            .any(|part| password.windows(4).any(|word| word == part));
        assert!(!found, "{password:?}");
    }
}

/// R3: however many send the beginning of a long message and stop, what they hold together is bounded.
#[test]
fn unfinished_logins_hold_a_bounded_amount_of_memory() {
    let config = "server: {max_unauthenticated_connections: 1000}\n\
                  pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'}\nauth: {type: password}\n";
    let mut scene = Scene::with(config, World::default());
    let mut clients = Vec::new();
    for _ in 0..400 {
        let client = scene.client_from(tcp("127.0.0.1"), &[(b"user", b"me"), (b"database", b"db")]);
        client.borrow_mut().input.extend(b"p\0\0\xff\xff");
        client.borrow_mut().input.extend([b'x'; 60_000]);
        scene.ready(&client);
        clients.push(client);
    }
    let held: usize = scene
        .engine
        .clients()
        .iter()
        .map(|(_, client)| client.link().held().0)
        .sum();
    assert!(
        held <= limits::LOGIN_BYTES_MAX && held > limits::LOGIN_BYTES_MAX / 2,
        "{held}"
    );
    let refused = clients.iter().filter(|client| {
        client
            .borrow()
            .output
            .windows(5)
            .any(|code| code == b"53200")
    });
    assert!(refused.count() > 100);
}

/// Catalogue R14: no console without a password by TCP, unless that is asked for.
#[test]
fn the_console_lets_nobody_in_by_tcp_without_a_proof() {
    let entered = |rules: &str, keys: &str, facts: Facts| {
        let config = format!(
            "pool: {{dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'}}\nadmin: {{users: [me]}}\n\
             auth: {{hba_file: hba{keys}}}\n"
        );
        let files = vec![("hba".to_owned(), rules.to_owned())];
        let mut scene = Scene::with_files(&config, files, World::default());
        let client = scene.client_from(facts, &[(b"user", b"me"), (b"database", b"aether")]);
        said(&client)
    };
    let trust = "local all all trust\nhost all all all trust\n";
    let refused = "28000 the console lets in nobody by TCP without a proof";
    assert_eq!(entered(trust, "", tcp("127.0.0.1")), refused);
    assert_eq!(entered(trust, "", certified_as(Some("you"), None)), refused);
    assert_eq!(entered(trust, "", local(1)), TRUSTED);
    let allowed = entered(trust, ", allow_insecure: true", tcp("127.0.0.1"));
    assert_eq!(allowed, TRUSTED);
    let by_name = "hostssl all all all cert\n";
    assert_eq!(
        entered(by_name, "", certified_as(Some("me"), None)),
        TRUSTED
    );
}

#[test]
fn a_reload_changes_the_rules_for_those_who_come_then() {
    let mut scene = Scene::with(
        "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'}\nauth: {type: peer}\n",
        World::default(),
    );
    assert_eq!(told(&mut scene, tcp("10.0.0.1")), "");
    scene.reload(
        "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'}\nauth: {type: md5}\n",
    );
    assert_eq!(told(&mut scene, tcp("10.0.0.1")), "R5");
}

/// Found by reading: who was held back in the clear while a reload required TLS was asked for its password in the clear.
#[test]
fn who_is_held_back_in_the_clear_is_turned_away_once_tls_is_required() {
    let config = "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'}\n\
                  auth: {type: password, failure_delay: 0, failure_limit: 1}\n";
    let mut scene = Scene::with(config, World::default());
    let asked = |scene: &mut Scene| {
        scene.client_from(tcp("10.0.0.1"), &[(b"user", b"me"), (b"database", b"db")])
    };
    for _ in 0..7 {
        let client = asked(&mut scene);
        answer(&mut scene, &client, b"wrong");
    }
    let held = asked(&mut scene);
    assert_eq!(said(&held), "");
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let files = vec![
        file(
            "crt",
            include_str!("../../../tests/certificates/server.crt"),
        ),
        file(
            "key",
            include_str!("../../../tests/certificates/server.key"),
        ),
    ];
    let tls = "server: {tls: {mode: require, cert_file: crt, key_file: key}}\n";
    scene.reload_with_files(&format!("{tls}{config}"), files);
    scene.wait(Duration::from_secs(3));
    assert_eq!(
        said(&held),
        "28000 no pg_hba.conf entry for host \"10.0.0.1\", user \"me\", database \"db\", no encryption"
    );
}

/// Each is a call of the kernel (issue 5: what a login costs).
#[test]
fn a_login_takes_no_more_writes_and_questions_than_it_must() {
    let config = |auth: &str| {
        format!(
            "pool: {{dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable', mode: transaction}}\n\
             auth: {{{auth}}}\n"
        )
    };
    let mut scene = Scene::with(
        &config("type: scram-sha-256, users: {me: secret}"),
        World::default(),
    );
    // The first welcome waits for a server, and what is derived from the password is kept for the next login.
    for writes in [4, 3] {
        let client = scene.client_from(tcp("10.0.0.1"), &[(b"user", b"me"), (b"database", b"db")]);
        assert_eq!(log_in(&mut scene, &client), b"RRRRKZ");
        let client = client.borrow();
        assert_eq!((client.writes, client.asked), (writes, 1));
    }
    let mut scene = Scene::with(&config("type: trust"), World::default());
    for _ in 0..2 {
        let client = scene.client_from(tcp("10.0.0.1"), &[(b"user", b"me"), (b"database", b"db")]);
        let client = client.borrow();
        assert_eq!((client.writes, client.asked), (1, 1));
    }
}

/// Answers what a client is asked, until nothing more comes; the messages that it was sent.
fn log_in(scene: &mut Scene, client: &Shared) -> Vec<u8> {
    let terms = Terms {
        demands: Demands::default(),
        iterations_max: 100_000,
        channel: Channel::Plain,
        own_certificate: None,
    };
    let credentials = Credentials {
        user: "me".to_owned(),
        secret: Some(Stored::Plain(Secret::new("secret"))),
    };
    let mut ring = crate::auth::KeyRing::new(&mut |into| into.fill(7), None);
    let mut prove = Some(Prove::begin(credentials, terms));
    let mut tags = Vec::new();
    loop {
        let said = std::mem::take(&mut client.borrow_mut().output);
        if said.is_empty() {
            return tags;
        }
        let (mut rest, mut answer) = (&said[..], Vec::new());
        while let Ok(Some((tag, body, after))) = frame::whole(rest, 10_000) {
            tags.push(tag);
            rest = after;
            let Some(step) = prove.take_if(|_| tag == b'R') else {
                continue;
            };
            let step = step.step(body, &mut ring, &mut |into| into.fill(9), &mut answer);
            let step = match step.expect("a proof") {
                Progress::Derive(waits, job) => waits.derived(&job.run(), &mut ring, &mut answer),
                other => Ok(other),
            };
            prove = match step.expect("a proof") {
                Progress::Next(next) => Some(next),
                _ => None,
            };
        }
        scene.say(client, &answer);
        scene.derive();
        scene.serve_last();
    }
}
