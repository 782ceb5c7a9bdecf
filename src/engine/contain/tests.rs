//! Connections whose streams panic, beside others that must not notice.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use super::super::scene::{Pipe, Scene, Shared, is_closed};
use super::super::{BUFFER_LEN, Event, ListenerId, Ready};
use super::text_of;
use crate::wire::frontend;

/// Two clients with their servers.
fn two_pairs() -> (Scene, [Shared; 2], [Shared; 2]) {
    let mut scene = Scene::new();
    let clients = [scene.client(), scene.client()];
    let servers = [
        scene.world.servers[0].clone(),
        scene.world.servers[1].clone(),
    ];
    for at in 0..2 {
        scene.works(&clients[at], &servers[at]);
    }
    (scene, clients, servers)
}

#[test]
fn a_panic_closes_its_pair_and_another_pair_goes_on() {
    let (mut scene, clients, servers) = two_pairs();
    assert!(!is_closed(&clients[0]) && !is_closed(&servers[0]));
    servers[0].borrow_mut().breaks = true;
    scene.ready(&servers[0]);
    assert!(is_closed(&clients[0]) && is_closed(&servers[0]));
    assert_eq!(scene.engine.contained(), 1);
    assert_eq!(
        (scene.engine.client_count(), scene.engine.server_count()),
        (1, 1)
    );
    scene.works(&clients[1], &servers[1]);

    // The same from the client's end, with somebody new beside it.
    let newcomer = scene.client();
    let its_server = scene.world.servers[2].clone();
    clients[1].borrow_mut().breaks = true;
    scene.ready(&clients[1]);
    assert!(is_closed(&clients[1]) && is_closed(&servers[1]));
    assert_eq!(scene.engine.contained(), 2);
    scene.works(&newcomer, &its_server);
}

#[test]
fn a_panic_while_several_are_run_in_one_turn_leaves_the_others_theirs() {
    let (mut scene, clients, servers) = two_pairs();
    clients[0].borrow_mut().breaks = true;
    let mut query = Vec::new();
    frontend::query(&mut query, b"");
    clients[1].borrow_mut().input.extend(&query);
    servers[1].borrow_mut().output.clear();
    let ready = Ready {
        read: true,
        ..Ready::default()
    };
    let events = clients
        .iter()
        .map(|pipe| Event::Ready(pipe.borrow().who.expect("known"), ready));
    scene.turn(events.collect());
    assert_eq!(servers[1].borrow().output, query);
    assert_eq!(scene.engine.contained(), 1);
}

/// The loop's buffer is taken along while somebody without a pair is read.
#[test]
fn a_panic_in_a_login_gives_the_buffer_back() {
    let mut scene = Scene::new();
    let broken = Rc::new(RefCell::new(Pipe {
        breaks: true,
        ..Pipe::default()
    }));
    scene.world.arriving.push_back(broken.clone());
    scene.turn(vec![Event::Incoming(ListenerId(0))]);
    scene.ready(&broken);
    assert!(is_closed(&broken));
    assert_eq!(scene.engine.buffer.len(), BUFFER_LEN);
    let client = scene.client();
    let server = scene.world.servers[0].clone();
    scene.works(&client, &server);
}

#[test]
fn a_panic_in_a_servers_login_is_told_to_who_waits_and_not_tried_again_at_once() {
    let mut scene = Scene::new();
    scene.world.servers_break = true;
    let client = scene.client();
    let told = String::from_utf8_lossy(&client.borrow().output).into_owned();
    assert!(
        told.contains("CXX000") && told.contains("internal error of the pooler"),
        "{told:?}"
    );
    assert_eq!(
        (scene.engine.contained(), scene.world.servers.len()),
        (1, 1)
    );
    assert!(is_closed(&scene.world.servers[0].clone()));

    scene.world.servers_break = false;
    let next = scene.client();
    let server = scene.world.servers[1].clone();
    scene.works(&next, &server);
}

#[test]
fn books_that_do_not_agree_after_a_panic_end_the_process() {
    let (mut scene, _, servers) = two_pairs();
    let pool = scene.engine.pools.keys()[0];
    let kind = scene
        .engine
        .servers
        .iter()
        .next()
        .expect("a server")
        .1
        .kind
        .clone();
    // A server that nobody has: what a step that broke in its middle would leave.
    scene.engine.pools.dialed(pool, &kind);
    servers[0].borrow_mut().breaks = true;
    let ended = catch_unwind(AssertUnwindSafe(|| scene.ready(&servers[0])));
    let panic = ended.expect_err("the process ends");
    assert_eq!(text_of(&*panic), "provoked", "for its first reason");
}

#[test]
fn in_simulation_and_tests_every_panic_is_one() {
    let (mut scene, _, servers) = two_pairs();
    scene.engine.contain(false);
    servers[0].borrow_mut().breaks = true;
    let ended = catch_unwind(AssertUnwindSafe(|| scene.ready(&servers[0])));
    assert!(ended.is_err());
    assert_eq!(scene.engine.contained(), 0);
}
