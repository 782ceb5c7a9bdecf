//! How many servers there are, whose, and where, as the configuration has it, with clients that come and go. Only tests; the rules
//! are `pool`'s.

use std::time::Duration;

use super::scene::{Scene, Shared, World, is_closed, said};
use super::{Tick, ms};
use crate::wire::refusal::{Blame, Refusal};
use crate::wire::{backend, frontend};

const SECOND: Duration = Duration::from_secs(1);

/// A pool with these keys, and what follows it. `user`: user and password in its DSN.
fn text(user: &str, keys: &str, more: &str) -> String {
    format!(
        "pool: {{dsn: 'postgres://{user}127.0.0.1/db?sslmode=disable', mode: transaction, query_wait_notify: 0, check_query: null{keys}}}\n\
         auth: {{type: trust, allow_insecure: true}}\n{more}"
    )
}

fn scene_of(keys: &str, more: &str) -> Scene {
    let mut scene = Scene::with(&text("me:secret@", keys, more), World::default());
    scene.engine.contain(false);
    scene
}

fn asks(scene: &mut Scene, client: &Shared) {
    let mut query = Vec::new();
    frontend::query(&mut query, b"select 1");
    scene.say(client, &query);
}

fn answers(scene: &mut Scene, server: &Shared) {
    let mut answer = Vec::new();
    backend::write_command_complete(&mut answer, "SELECT 1");
    backend::write_ready(&mut answer);
    scene.say(server, &answer);
}

fn leaves(scene: &mut Scene, client: &Shared) {
    let mut bye = Vec::new();
    frontend::terminate(&mut bye);
    scene.say(client, &bye);
}

/// All that were dialled say what they have to; how many are open.
fn open(scene: &mut Scene) -> usize {
    for _ in 0..3 {
        for server in scene.world.servers.clone() {
            if !is_closed(&server) {
                scene.ready(&server);
            }
        }
    }
    let servers = scene.world.servers.clone(); // who asks whether one is closed holds it
    servers.iter().filter(|server| !is_closed(server)).count()
}

/// All servers there are go.
fn retire(scene: &mut Scene) {
    for pool in scene.engine.pools.keys() {
        scene.engine.retire(pool);
    }
}

/// The servers are gone, and whoever asks gives up after `acquire_timeout`.
fn asks_in_vain(scene: &mut Scene, client: &Shared) {
    scene.world.unreachable = Some("it is down".to_owned());
    retire(scene);
    scene.turn(Vec::new());
    asks(scene, client);
    scene.wait(5 * SECOND);
}

fn is_asked(server: &Shared) -> bool {
    String::from_utf8_lossy(&server.borrow().output).contains("select 1")
}

#[test]
fn the_reserve_is_for_those_who_have_waited_for_reserve_pool_timeout() {
    let keys = ", max_connections: 1, reserve_pool_size: 1, reserve_pool_timeout: 2s";
    let mut scene = scene_of(keys, "");
    let clients: Vec<Shared> = (0..3).map(|_| scene.client()).collect();
    for client in &clients {
        asks(&mut scene, client);
    }
    let second_came = scene.engine.now().0 - 1_000;
    let left = Duration::from_micros(Tick(second_came).plus(2 * SECOND).since(scene.engine.now()));
    scene.wait(left - ms(50));
    assert_eq!(open(&mut scene), 1);
    scene.wait(ms(60));
    assert_eq!(open(&mut scene), 2, "one of the reserve");
    scene.wait(20 * SECOND);
    assert_eq!(open(&mut scene), 2, "there is only one in reserve");
    let servers = scene.world.servers.clone();
    assert!(is_asked(&servers[1]));
    for at in [0, 1, 0] {
        answers(&mut scene, &servers[at]); // the third client has got the one that was free first
    }
    drop(servers);
    assert_eq!(
        open(&mut scene),
        2,
        "they are kept until they are idle for too long"
    );
    scene.reload(&text(
        "me:secret@",
        ", max_connections: 1, reserve_pool_timeout: 2s",
        "",
    ));
    assert_eq!(open(&mut scene), 1, "too many servers in the pool");
    for client in &clients {
        assert!(!is_closed(client));
    }
}

#[test]
fn without_a_timeout_the_reserve_is_never_touched_and_roles_have_their_own() {
    let keys = ", max_connections: 1, reserve_pool_size: 1, reserve_pool_timeout: 0";
    let roles = ", max_connections_per_user: 1, reserve_pool_size: 9, reserve_pool_timeout: 1s";
    for (keys, more, expected) in [
        (keys, "", 1),
        (roles, "", 3),
        (roles, "users: {me: {reserve_pool_size: 1}}\n", 2),
        (roles, "users: {'*': {reserve_pool_size: 0}}\n", 1),
        (
            roles,
            "users: {me: {pool_size: 2, reserve_pool_size: 0}}\n",
            2,
        ),
        (
            roles,
            "users: {me: {pool_size: 2, max_connections: 1}}\n",
            1,
        ),
    ] {
        let mut scene = scene_of(keys, more);
        let clients: Vec<Shared> = (0..3).map(|_| scene.client()).collect();
        for client in &clients {
            asks(&mut scene, client);
        }
        for _ in 0..5 {
            scene.wait(2 * SECOND);
            open(&mut scene);
        }
        assert_eq!(open(&mut scene), expected, "{keys} {more}");
    }
}

#[test]
fn min_pool_size_is_kept_for_the_pools_own_role_or_as_long_as_there_are_clients() {
    let keys = ", min_pool_size: 2, max_idle_time: 5s, max_lifetime: 0";
    let mut scene = scene_of(keys, "");
    scene.turn(Vec::new());
    assert_eq!(open(&mut scene), 2, "without any client");
    scene.wait(60 * SECOND);
    assert_eq!(open(&mut scene), 2, "however long they are idle");
    let lost = scene.world.servers[0].clone();
    let mut error = Vec::new();
    Refusal::fatal(b"57P01", "bye", Blame::Server).write(&mut error);
    scene.say(&lost, &error);
    drop(lost);
    scene.wait(2 * SECOND);
    assert_eq!(open(&mut scene), 2, "another one in its place");

    let mut scene = Scene::with(&text("", keys, ""), World::default());
    scene.turn(Vec::new());
    assert_eq!(open(&mut scene), 0, "nobody knows as whom");
    let client = scene.client();
    assert_eq!(open(&mut scene), 2);
    scene.wait(60 * SECOND);
    assert_eq!(open(&mut scene), 2);
    leaves(&mut scene, &client);
    scene.wait(60 * SECOND);
    assert_eq!(open(&mut scene), 0, "nobody is there");
}

/// Found by the simulation (seed 3706): nothing was done in the pool that lacked servers, so nobody looked at it again.
#[test]
fn min_pool_size_is_made_up_for_when_another_pool_gives_back_what_the_role_may_have() {
    let more = "users: {me: {max_connections: 3}}\ndatabases: {other: {}}\n";
    let keys = ", min_pool_size: 2, max_idle_time: 5s, max_lifetime: 0";
    let mut scene = scene_of(keys, more);
    let totals = |scene: &Scene| -> Vec<usize> {
        let pools = scene.engine.pools.iter().map(|(_, pool)| pool);
        let pools = pools.filter(|pool| !pool.for_lookups);
        pools.map(|pool| pool.total()).collect()
    };
    scene.turn(Vec::new());
    open(&mut scene);
    assert_eq!(totals(&scene), [2, 1], "there is no room for more");
    let clients: Vec<Shared> = (0..3).map(|_| scene.client()).collect();
    for client in &clients {
        asks(&mut scene, client);
    }
    open(&mut scene);
    assert_eq!(totals(&scene), [3, 0], "the idle one has made room");
    for server in scene.world.servers.clone() {
        if is_asked(&server) {
            answers(&mut scene, &server);
        }
    }
    for _ in 0..3 {
        scene.wait(10 * SECOND);
        open(&mut scene);
    }
    assert_eq!(totals(&scene), [2, 1]);
}

/// Catalogue 38 (PgBouncer 647): connections were opened and evicted for ever.
#[test]
fn contradictory_limits_are_no_storm() {
    let mut scene = scene_of(
        ", min_pool_size: 5, max_connections_per_user: 2",
        "users: {me: {max_connections: 1}}\n",
    );
    scene.turn(Vec::new());
    for _ in 0..100 {
        open(&mut scene);
        scene.wait(SECOND);
    }
    assert_eq!((open(&mut scene), scene.world.servers.len()), (1, 1));
}

#[test]
fn the_server_used_last_is_next_or_the_one_not_used_for_longest() {
    for (key, expected) in [("", 1), (", server_round_robin: true", 0)] {
        let mut scene = scene_of(key, "");
        let (first, second) = (scene.client(), scene.client());
        asks(&mut scene, &first);
        asks(&mut scene, &second);
        assert_eq!(open(&mut scene), 2);
        let servers = scene.world.servers.clone();
        answers(&mut scene, &servers[0]);
        answers(&mut scene, &servers[1]);
        for server in &servers {
            server.borrow_mut().output.clear();
        }
        asks(&mut scene, &first);
        assert!(is_asked(&servers[expected]), "{key}");
        assert!(!is_asked(&servers[1 - expected]), "{key}");
    }
}

#[test]
fn the_next_host_is_the_one_that_answers_or_the_one_behind_the_last() {
    let at = |keys: &str| {
        text("me:secret@", keys, "").replace("127.0.0.1", "10.0.0.1,10.0.0.2,10.0.0.3")
    };
    let tried = |scene: &Scene| -> String {
        let hosts = scene.world.dialed.iter().map(ToString::to_string);
        hosts
            .map(|to| to["10.0.0.".len()..].chars().take(1).collect::<String>())
            .collect()
    };
    let dial_again = |scene: &mut Scene| {
        let client = scene.client();
        asks(scene, &client);
        open(scene);
        let server = scene.world.servers.last().cloned().expect("a server");
        answers(scene, &server);
        leaves(scene, &client);
        retire(scene);
        scene.turn(Vec::new());
    };
    let mut scene = Scene::with(&at(""), World::default());
    dial_again(&mut scene);
    dial_again(&mut scene);
    assert_eq!(tried(&scene), "11");
    scene.world.down = Some("10.0.0.1");
    dial_again(&mut scene);
    dial_again(&mut scene);
    scene.world.down = None;
    dial_again(&mut scene);
    assert_eq!(
        tried(&scene),
        "111222",
        "the one that has answered is the first from then on"
    );
    scene.world.down = Some("10.0.0.");
    let client = scene.client();
    asks(&mut scene, &client);
    assert_eq!(tried(&scene), "111222231", "all of them, round the list");
    assert!(!is_closed(&client), "it waits");

    let mut scene = Scene::with(&at(", load_balance_hosts: round-robin"), World::default());
    for _ in 0..4 {
        dial_again(&mut scene);
    }
    assert_eq!(tried(&scene), "1231");
    scene.world.down = Some("10.0.0.2");
    dial_again(&mut scene);
    assert_eq!(
        tried(&scene),
        "123123",
        "the one behind it takes over at once"
    );
}

#[test]
fn who_asks_while_no_server_can_be_reached_is_told_at_once_if_that_is_wanted() {
    for (fast, key) in [(false, ""), (true, ", server_fast_fail: true")] {
        let mut scene = scene_of(&format!("{key}, server_login_retry: 1s"), "");
        let (first, second) = (scene.client(), scene.client());
        scene.world.unreachable = Some("it is down".to_owned());
        retire(&mut scene);
        scene.turn(Vec::new());
        first.borrow_mut().output.clear();
        second.borrow_mut().output.clear();
        asks(&mut scene, &first);
        assert!(
            !is_closed(&first) && said(&first).is_empty(),
            "nobody knew yet"
        );
        asks(&mut scene, &second);
        let text = said(&second);
        let told = text.starts_with("08006 server login has been failing, cached error: ")
            && text.ends_with(" (server_login_retry)");
        assert_eq!(told, fast, "{text}");
        // Who waits is served once it can be, and who comes then is, too.
        scene.world.unreachable = None;
        scene.wait(2 * SECOND);
        open(&mut scene);
        let server = scene.world.servers.last().cloned().expect("a server");
        assert!(is_asked(&server));
        answers(&mut scene, &server);
        let third = scene.client();
        third.borrow_mut().output.clear();
        asks(&mut scene, &third);
        assert!(said(&third).is_empty());
    }
}

/// With nobody in the queue nobody else would find out that the server is back.
#[test]
fn who_is_told_at_once_has_it_tried_for_the_next() {
    let mut scene = scene_of(", server_fast_fail: true, acquire_timeout: 1s", "");
    let first = scene.client();
    asks_in_vain(&mut scene, &first);
    scene.world.unreachable = None;
    let second = scene.client();
    second.borrow_mut().output.clear();
    asks(&mut scene, &second);
    assert!(said(&second).starts_with("08006"), "{}", said(&second));
    open(&mut scene);
    let third = scene.client();
    third.borrow_mut().output.clear();
    asks(&mut scene, &third);
    assert!(said(&third).is_empty(), "{}", said(&third));
}

/// The server goes away, the operator pauses, fails over and resumes: whoever asks meanwhile waits for that.
#[test]
fn who_would_be_told_at_once_waits_while_the_pool_is_paused() {
    let mut scene = scene_of(", server_fast_fail: true, server_login_retry: 1s", "");
    let (first, second) = (scene.client(), scene.client());
    scene.world.unreachable = Some("it is down".to_owned());
    retire(&mut scene);
    scene.turn(Vec::new());
    asks(&mut scene, &first);
    assert!(scene.engine.pause(super::pause::Scope::All));
    scene.turn(Vec::new());
    scene.wait(5 * SECOND);
    second.borrow_mut().output.clear();
    asks(&mut scene, &second);
    assert!(said(&second).is_empty(), "{}", said(&second));
    scene.world.unreachable = None;
    assert!(scene.engine.resume(super::pause::Scope::All));
    scene.wait(5 * SECOND);
    open(&mut scene);
    let server = scene.world.servers.last().cloned().expect("a server");
    assert!(is_asked(&server), "served after RESUME");
}

/// Simulation, seed 200285: an idle server of another pool took the role's only place, nobody stood in the queue for whom it would
/// have been closed, and everybody was told of the same old error for ever.
#[test]
fn who_would_be_told_at_once_waits_if_room_has_to_be_made_for_trying_again() {
    let more = "databases: {db: {}, other: {}}\nusers: {me: {max_connections: 1}}\n";
    let mut scene = scene_of(", server_fast_fail: true, acquire_timeout: 1s", more);
    let first = scene.client_with("other", &[]);
    assert!(said(&first).starts_with("R0"), "{}", said(&first));
    asks_in_vain(&mut scene, &first);
    scene.world.unreachable = None;
    let elsewhere = scene.client_with("db", &[]);
    assert!(said(&elsewhere).starts_with("R0"), "{}", said(&elsewhere));
    assert_eq!(open(&mut scene), 1, "the role's only place is taken");
    scene.wait(5 * SECOND);
    let second = scene.client_with("other", &[]);
    second.borrow_mut().output.clear();
    asks(&mut scene, &second);
    assert_eq!(open(&mut scene), 1);
    assert!(said(&second).is_empty(), "{}", said(&second));
    let server = scene.world.servers.last().cloned().expect("a server");
    assert!(is_asked(&server), "it has got it");
}

#[test]
fn a_server_for_single_use_is_closed_after_its_first_client() {
    for mode in ["transaction", "session"] {
        let config = text("me:secret@", ", single_use: true", "")
            .replace("mode: transaction", &format!("mode: {mode}"));
        let mut scene = Scene::with(&config, World::default());
        let client = scene.client();
        asks(&mut scene, &client);
        open(&mut scene);
        let server = scene.world.servers[0].clone();
        answers(&mut scene, &server);
        leaves(&mut scene, &client);
        assert!(is_closed(&server), "{mode}");
        let next = scene.client();
        asks(&mut scene, &next);
        open(&mut scene);
        assert_eq!(scene.world.servers.len(), 2, "{mode}");
    }
}

#[test]
fn so_many_connect_at_once_as_may() {
    let mut scene = scene_of(", min_idle_connections: 5, max_connecting: 2", "");
    scene.turn(Vec::new());
    assert_eq!(scene.world.servers.len(), 2);
    let first = scene.world.servers[0].clone();
    scene.ready(&first);
    assert_eq!(scene.world.servers.len(), 3);
    assert_eq!(open(&mut scene), 5);
}

#[test]
fn a_size_that_shrinks_closes_what_is_idle_at_once_and_the_rest_when_it_is() {
    let keys = ", max_connections_per_user: 4, min_idle_connections: 4";
    let mut scene = scene_of(keys, "");
    scene.turn(Vec::new());
    assert_eq!(open(&mut scene), 4);
    let clients: Vec<Shared> = (0..2).map(|_| scene.client()).collect();
    for client in &clients {
        asks(&mut scene, client);
    }
    let keys = ", max_connections_per_user: 4";
    scene.reload(&text("me:secret@", keys, "users: {me: {pool_size: 1}}\n"));
    assert_eq!(open(&mut scene), 2, "both idle ones are gone");
    for server in scene.world.servers.clone() {
        if is_asked(&server) {
            answers(&mut scene, &server);
        }
    }
    assert_eq!(open(&mut scene), 1);
}

/// As in PgBouncer: who wants to see what goes on is counted, and gets in.
#[test]
fn the_console_is_not_refused_for_too_many_clients() {
    let more = "server: {max_client_connections: 2}\nadmin: {users: [me]}\n";
    let mut scene = scene_of("", more);
    let clients: Vec<Shared> = (0..2).map(|_| scene.client()).collect();
    let refused = scene.client();
    assert!(said(&refused).starts_with("53300"), "{}", said(&refused));
    let console = scene.console();
    assert!(said(&console).starts_with("R0"), "{}", said(&console));
    for client in &clients {
        assert!(said(client).starts_with("R0"));
    }
}

#[test]
fn who_asks_after_resume_is_not_told_what_was_so_before_the_pause() {
    let mut scene = scene_of(", server_fast_fail: true, acquire_timeout: 1s", "");
    let (first, second) = (scene.client(), scene.client());
    asks_in_vain(&mut scene, &first);
    scene.engine.pause(super::pause::Scope::All);
    scene.turn(Vec::new());
    scene.wait(5 * SECOND);
    scene.world.unreachable = None;
    scene.engine.resume(super::pause::Scope::All);
    scene.turn(Vec::new());
    second.borrow_mut().output.clear();
    asks(&mut scene, &second);
    assert!(said(&second).is_empty(), "{}", said(&second));
}

/// KILL paused what RESUME does not know by name, and SUSPEND was refused for it.
#[test]
fn after_kill_and_resume_of_every_database_suspend_is_possible() {
    let more = "databases: {db: {}, other: {}}\n";
    // 1: the pool that stands in for peers and the predecessor.
    let mut scene = scene_of("", more);
    scene.engine.succeed(std::path::PathBuf::from("/nowhere"));
    let asker = Shared::default();
    let mut packet = Vec::new();
    frontend::cancel_request(&mut packet, 7, b"none");
    asker.borrow_mut().input.extend(packet);
    scene.arrive(&asker);
    scene.ready(&asker);
    scene.wait(20 * SECOND);
    scene.engine.kill(super::pause::Scope::All);
    scene.turn(Vec::new());
    for name in ["db", "other"] {
        assert!(scene.engine.resume(super::pause::Scope::Database(name)));
    }
    let peers = scene.engine.suspend();
    // 2: a database that is gone, with a session left.
    let text_of = |more: &str| text("me:secret@", "", more).replace("transaction", "session");
    let mut scene = Scene::with(&text_of(more), World::default());
    let left = scene.client_with("other", &[]);
    assert!(said(&left).starts_with("R0"), "{}", said(&left));
    scene.reload(&text_of("databases: {db: {}}\n"));
    scene.engine.kill(super::pause::Scope::All);
    scene.turn(Vec::new());
    assert!(scene.engine.resume(super::pause::Scope::Database("db")));
    assert!(
        !scene.engine.has_database("other"),
        "the console takes no RESUME other"
    );
    let removed = scene.engine.suspend();
    assert_eq!((peers, removed), (Ok(()), Ok(())));
}

fn comes_as(scene: &mut Scene, user: &str) -> Shared {
    let own: [(&[u8], &[u8]); 2] = [(b"user", user.as_bytes()), (b"database", b"db")];
    scene.client_from(super::Facts::default(), &own)
}

fn of_roles(scene: &Scene, user: &[u8]) -> usize {
    let pools = scene
        .engine
        .pools
        .iter()
        .filter_map(|(_, pool)| pool.of_role(user));
    pools.map(crate::pool::Share::used).sum()
}

#[test]
fn min_pool_size_of_one_role_does_not_wait_for_the_limit_of_another() {
    let keys = ", min_pool_size: 2, max_lifetime: 0";
    let more = "users: {anna: {max_connections: 1}}\n";
    let mut scene = Scene::with(&text("", keys, more), World::default());
    let _anna = comes_as(&mut scene, "anna");
    let _bob = comes_as(&mut scene, "bob");
    for _ in 0..5 {
        open(&mut scene);
        scene.wait(5 * SECOND);
    }
    assert_eq!(
        (of_roles(&scene, b"anna"), of_roles(&scene, b"bob")),
        (1, 2)
    );
}

/// Simulation, seed 320280: the pool had never had a server, and then knew of nothing but what the server takes from nobody.
#[test]
fn min_pool_size_is_kept_though_the_first_to_come_asks_for_what_the_server_refuses() {
    let mut world = World::default();
    Refusal::fatal(b"22023", "invalid value for parameter", Blame::Server)
        .write(&mut world.greeting);
    let keys = ", min_pool_size: 1, max_lifetime: 0";
    let config = text("me:secret@", keys, "").replace("transaction", "session");
    let mut scene = Scene::with(&config, world);
    scene.turn(Vec::new());
    let client = scene.client_with("db", &[("TimeZone", "nonsense")]);
    open(&mut scene);
    assert!(said(&client).starts_with("22023"), "{}", said(&client));
    scene.world.greeting.clear();
    scene.wait(2 * SECOND);
    assert_eq!(open(&mut scene), 1);
    let server = scene.world.servers.last().cloned().expect("a server");
    let asked = String::from_utf8_lossy(&server.borrow().output).into_owned();
    assert!(
        asked.contains("user") && !asked.contains("nonsense"),
        "{asked}"
    );
}

#[test]
fn nobodys_servers_are_made_for_those_who_wait_for_room() {
    let more = "users: {bob: {max_connections: 1}}\n";
    let mut scene = Scene::with(&text("", "", more), World::default());
    let bobs: Vec<Shared> = (0..6).map(|_| comes_as(&mut scene, "bob")).collect();
    let _anna = comes_as(&mut scene, "anna");
    for bob in &bobs {
        asks(&mut scene, bob);
    }
    open(&mut scene);
    let of_roles = (of_roles(&scene, b"bob"), of_roles(&scene, b"anna"));
    assert_eq!(of_roles, (1, 1));
}

/// Those that are on their way to others are not ready.
#[test]
fn min_idle_connections_does_not_wait_for_those_who_wait() {
    let mut scene = Scene::with(
        &text("", ", min_idle_connections: 1, max_connecting: 9", ""),
        World::default(),
    );
    let bobs: Vec<Shared> = (0..3).map(|_| comes_as(&mut scene, "bob")).collect();
    open(&mut scene);
    retire(&mut scene);
    scene.turn(Vec::new());
    let _anna = comes_as(&mut scene, "anna");
    open(&mut scene);
    let ready = scene.world.servers.last().cloned().expect("a server");
    for bob in &bobs {
        asks(&mut scene, bob);
    }
    let counts = |scene: &Scene| (of_roles(scene, b"bob"), of_roles(scene, b"anna"));
    assert_eq!(counts(&scene), (3, 1));
    let mut error = Vec::new();
    Refusal::fatal(b"57P01", "bye", Blame::Server).write(&mut error);
    scene.say(&ready, &error);
    scene.wait(SECOND);
    assert!(is_closed(&ready));
    assert_eq!(counts(&scene), (3, 1), "another one in its place");
}

/// In PgBouncer a session is let in without a server, and told so at its first query.
#[test]
fn a_session_that_begins_while_no_server_can_be_reached_is_told_at_once_if_that_is_wanted() {
    for (key, expected) in [("", false), (", server_fast_fail: true", true)] {
        let config = text("me:secret@", key, "").replace("transaction", "session");
        let mut scene = Scene::with(&config, World::default());
        let first = scene.client();
        assert!(said(&first).starts_with("R0"), "{}", said(&first));
        leaves(&mut scene, &first);
        retire(&mut scene);
        scene.world.unreachable = Some("it is down".to_owned());
        scene.turn(Vec::new());
        let second = scene.client();
        let third = scene.client();
        assert!(said(&second).is_empty(), "nobody knew yet");
        let told = said(&third).starts_with("08006");
        assert_eq!(told, expected, "{key}: {}", said(&third));
    }
}

#[test]
fn who_has_asked_during_a_suspension_was_not_idle() {
    let mut scene = scene_of(", client_idle_timeout: 5s", "");
    let client = scene.client();
    let _console = scene.console();
    client.borrow_mut().output.clear();
    scene.engine.suspend().expect("nothing is held");
    scene.turn(Vec::new());
    scene.wait(3 * SECOND);
    asks(&mut scene, &client);
    scene.wait(10 * SECOND);
    scene.engine.resume(super::pause::Scope::All);
    scene.turn(Vec::new());
    assert!(said(&client).is_empty(), "{}", said(&client));
}

#[test]
fn who_waits_or_works_is_not_charged_with_a_suspension() {
    let limits = ", max_connections: 1, acquire_timeout: 5s, query_timeout: 5s";
    let mut scene = scene_of(limits, "");
    let clients = [scene.client(), scene.client()];
    let _console = scene.console();
    for client in &clients {
        client.borrow_mut().output.clear();
        asks(&mut scene, client);
    }
    let silent = Shared::default();
    scene.arrive(&silent);
    let server = scene.world.servers[0].clone();
    scene.engine.suspend().expect("nothing is held");
    scene.turn(Vec::new());
    answers(&mut scene, &server);
    scene.wait(100 * SECOND);
    scene.engine.resume(super::pause::Scope::All);
    scene.turn(Vec::new());
    let answer = String::from_utf8_lossy(&clients[0].borrow().output).into_owned();
    assert!(answer.contains("SELECT 1"), "{answer}");
    assert!(said(&clients[1]).is_empty(), "{}", said(&clients[1]));
    assert!(is_asked(&server));
    assert!(!is_closed(&silent), "it may still log in");
    scene.wait(10 * SECOND);
    let text = said(&clients[1]);
    assert!(text.starts_with("57014"), "its time goes on: {text}");
}

/// Its time to log in is put off by a suspension; that it came before the stop is not.
#[test]
fn who_came_before_a_stop_is_not_too_late_after_a_suspension() {
    for suspended in [false, true] {
        let mut scene = scene_of("", "");
        let _other = scene.client();
        let _console = scene.console();
        let early = Shared::default();
        scene.arrive(&early);
        scene.engine.shut_down(super::Shutdown::WaitForClients);
        scene.turn(Vec::new());
        if suspended {
            scene.engine.suspend().expect("nothing is held");
        }
        scene.turn(Vec::new());
        scene.wait(20 * SECOND);
        scene.engine.resume(super::pause::Scope::All);
        scene.turn(Vec::new());
        let mut packet = Vec::new();
        let own: [(&[u8], &[u8]); 2] = [(b"user", b"me"), (b"database", b"db")];
        frontend::startup(&mut packet, own);
        early.borrow_mut().input.extend(packet);
        scene.ready(&early);
        assert!(
            said(&early).starts_with("R0"),
            "{suspended}: {}",
            said(&early)
        );
    }
}

#[test]
fn attempts_that_fail_together_are_one() {
    for clients in [1, 8] {
        let mut scene = scene_of(", server_login_retry: 15s", "");
        let all: Vec<Shared> = (0..clients).map(|_| scene.client()).collect();
        retire(&mut scene);
        scene.turn(Vec::new());
        Refusal::fatal(b"57P03", "starting up", Blame::Server).write(&mut scene.world.greeting);
        for client in &all {
            asks(&mut scene, client);
        }
        open(&mut scene);
        scene.world.greeting.clear();
        let before = scene.world.servers.len();
        scene.wait(SECOND);
        assert!(scene.world.servers.len() > before, "{clients}");
    }
}
