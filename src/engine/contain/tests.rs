//! Connections whose streams panic, beside others that must not notice.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;

use super::super::*;
use super::*;
use crate::auth::KeyDerivation;
use crate::config::{Outside, schema};
use crate::wire::{backend, frontend};

/// One end of a connection, held by the test; the engine holds the stream.
#[derive(Default)]
struct Pipe {
    /// To be read by the engine.
    input: VecDeque<u8>,
    /// What the engine wrote.
    output: Vec<u8>,
    /// The next read panics.
    breaks: bool,
    /// Who it is to the engine.
    who: Option<Who>,
}

type Shared = Rc<RefCell<Pipe>>;

struct PipeStream(Shared);

impl Stream for PipeStream {
    fn read(&mut self, into: &mut [u8]) -> Taken {
        let mut pipe = self.0.borrow_mut();
        assert!(!pipe.breaks, "provoked");
        let count = pipe.input.len().min(into.len());
        for (to, byte) in into.iter_mut().zip(pipe.input.drain(..count)) {
            *to = byte;
        }
        match count {
            0 => Taken::Blocked,
            _ => Taken::Bytes { count, more: false },
        }
    }

    fn write(&mut self, from: &[u8]) -> Given {
        self.0.borrow_mut().output.extend_from_slice(from);
        Given::Bytes(from.len())
    }

    fn shutdown(&mut self) {}

    fn facts(&self) -> Facts {
        Facts::default()
    }
}

/// A world of pipes: servers let everybody in at once.
#[derive(Default)]
struct World {
    arriving: VecDeque<Shared>,
    servers: Vec<Shared>,
    /// Servers that are dialled break when they are read.
    servers_break: bool,
}

impl Host for World {
    fn accept(&mut self, _: ListenerId, key: ClientKey) -> Accepted {
        match self.arriving.pop_front() {
            None => Accepted::Blocked,
            Some(pipe) => {
                pipe.borrow_mut().who = Some(Who::Client(key));
                Accepted::Stream(Box::new(PipeStream(pipe)))
            }
        }
    }

    fn dial(&mut self, _: &Address, key: ServerKey) -> Result<Box<dyn Stream>, String> {
        let mut welcome = Vec::new();
        backend::write_authentication_ok(&mut welcome);
        backend::write_backend_key_data(&mut welcome, 1 + self.servers.len() as u32, b"key!");
        backend::write_ready(&mut welcome);
        let pipe = Rc::new(RefCell::new(Pipe {
            input: welcome.into(),
            who: Some(Who::Server(key)),
            breaks: self.servers_break,
            ..Pipe::default()
        }));
        self.servers.push(pipe.clone());
        Ok(Box::new(PipeStream(pipe)))
    }

    fn resolve(&mut self, _: &str, _: u16, _: ServerKey) {}
    fn derive(&mut self, _: KeyDerivation, _: Who) {}
    fn random(&mut self, into: &mut [u8]) {
        into.fill(7);
    }
    fn stop_listening(&mut self) {}
}

struct Nothing;

impl Outside for Nothing {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
    fn file(&self, _: &Path) -> Result<Vec<u8>, String> {
        Err("no files here".to_owned())
    }
}

const CONFIG: &str = "pool: {dsn: 'postgres://me@127.0.0.1/db'}\nauth: {type: trust}\n";

/// The engine in its world.
struct Scene {
    engine: Engine,
    world: World,
    now: Tick,
}

impl Scene {
    fn new() -> Scene {
        let config =
            schema::read(CONFIG, Path::new("aether.yaml"), &Nothing).expect("a configuration");
        let mut world = World::default();
        let mut engine = Engine::new(Rc::new(config), Tick(0), &mut world);
        engine.contain(true);
        Scene {
            engine,
            world,
            now: Tick(0),
        }
    }

    /// A client that asks to be let in.
    fn client(&mut self) -> Shared {
        let mut packet = Vec::new();
        frontend::startup(
            &mut packet,
            [(&b"user"[..], &b"me"[..]), (b"database", b"db")],
        );
        let pipe = Rc::new(RefCell::new(Pipe {
            input: packet.into(),
            ..Pipe::default()
        }));
        self.world.arriving.push_back(pipe.clone());
        self.turn(vec![Event::Incoming(ListenerId(0))]);
        self.ready(&pipe);
        if let Some(server) = self.world.servers.last().cloned() {
            self.ready(&server);
        }
        pipe
    }

    fn turn(&mut self, mut events: Vec<Event>) {
        self.now = self.now.plus(ms(1));
        self.engine.turn(self.now, &mut events, &mut self.world);
        while !self.engine.runnable.is_empty() {
            self.engine.turn(self.now, &mut Vec::new(), &mut self.world);
        }
        self.engine.check();
    }

    /// The poll reports a pipe.
    fn ready(&mut self, pipe: &Shared) {
        let ready = Ready {
            read: true,
            write: true,
            hung_up: false,
        };
        let who = pipe.borrow().who.expect("the engine knows it");
        self.turn(vec![Event::Ready(who, ready)]);
    }

    /// What comes out of `to` when `bytes` are put into `from`.
    fn passes(&mut self, from: &Shared, bytes: &[u8], to: &Shared) -> Vec<u8> {
        to.borrow_mut().output.clear();
        from.borrow_mut().input.extend(bytes);
        self.ready(from);
        to.borrow().output.clone()
    }

    /// A query and its answer, through and back.
    fn works(&mut self, client: &Shared, server: &Shared) {
        let (mut query, mut answer) = (Vec::new(), Vec::new());
        frontend::query(&mut query, b"select 1");
        backend::write_command_complete(&mut answer, "SELECT 1");
        backend::write_ready(&mut answer);
        assert_eq!(self.passes(client, &query, server), query);
        assert_eq!(self.passes(server, &answer, client), answer);
    }

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
}

/// Whether only the test still holds a pipe (and its world, for servers).
fn is_closed(pipe: &Shared) -> bool {
    let by_world = usize::from(matches!(pipe.borrow().who, Some(Who::Server(_))));
    Rc::strong_count(pipe) <= 1 + by_world
}

#[test]
fn a_panic_closes_its_pair_and_another_pair_goes_on() {
    let (mut scene, clients, servers) = Scene::two_pairs();
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
    let (mut scene, clients, servers) = Scene::two_pairs();
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
    let (mut scene, _, servers) = Scene::two_pairs();
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
    scene
        .engine
        .pools
        .get_mut(pool)
        .expect("the pool")
        .dialed(&kind);
    servers[0].borrow_mut().breaks = true;
    let ended = catch_unwind(AssertUnwindSafe(|| scene.ready(&servers[0])));
    let panic = ended.expect_err("the process ends");
    assert_eq!(text_of(&*panic), "provoked", "for its first reason");
}

#[test]
fn in_simulation_and_tests_every_panic_is_one() {
    let (mut scene, _, servers) = Scene::two_pairs();
    scene.engine.contain(false);
    servers[0].borrow_mut().breaks = true;
    let ended = catch_unwind(AssertUnwindSafe(|| scene.ready(&servers[0])));
    assert!(ended.is_err());
    assert_eq!(scene.engine.contained(), 0);
}
