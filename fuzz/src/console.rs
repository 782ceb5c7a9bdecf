//! The console: whatever is said to it, it answers in whole messages, and a simple query ends with ReadyForQuery unless its command
//! waits or the client is sent away.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;

use aether::admin::{Admin, Changed, Steward};
use aether::arena::{ClientKey, ServerKey, Tick};
use aether::auth::KeyDerivation;
use aether::config::hba::Network;
use aether::config::{Change, Config, ConfigError, Outside, schema};
use aether::engine::{
    Accepted, Address, ClientState, Engine, Event, Facts, Given, Handover, Host, ListenerId,
    Protection, Ready, Stream, Taken, TlsSide, Who,
};
use aether::wire::frame;
use aether::wire::frontend;
use aether::wire::refusal::Refusal;

/// The property. The first byte says whether the others are the text of one query, or messages.
pub fn holds(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let mut scene = Scene::new();
    let mut input = Vec::new();
    let is_query = first % 2 == 0;
    if is_query {
        let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        frontend::query(&mut input, text.get(..4_000).unwrap_or(text));
    } else {
        input.extend_from_slice(rest.get(..16_000).unwrap_or(rest));
    }
    scene.said(&input);
    let answer = scene.answer();
    let mut messages = answer.as_slice();
    let mut last = 0;
    while let Ok(Some((tag, _, rest))) = frame::whole(messages, 1 << 26) {
        (last, messages) = (tag, rest);
    }
    assert!(messages.is_empty(), "whole messages only");
    if is_query {
        let waits_or_gone = scene.waits_or_is_gone();
        assert!(
            last == b'Z' || waits_or_gone,
            "it ends with {}",
            last as char
        );
    }
}

const CONFIG: &str = "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'}\n\
    databases: {a: {}, b: {mode: transaction}, \"c d\": {}}\nusers: {alice: {max_connections: 3}}\n\
    metrics: {query_fingerprints: 10}\nauth: {type: trust, allow_insecure: true}\nadmin: {users: [me]}\n";

struct Scene {
    engine: Engine,
    admin: Admin,
    world: World,
    now: Tick,
    client: Option<Who>,
}

impl Scene {
    /// A client of the console, logged in.
    fn new() -> Scene {
        let mut world = World::default();
        let mut scene = Scene {
            engine: Engine::new(Rc::new(config()), Tick(0), &mut world),
            admin: Admin::default(),
            world,
            now: Tick(0),
            client: None,
        };
        let mut packet = Vec::new();
        let own: [(&[u8], &[u8]); 2] = [(b"user", b"me"), (b"database", b"aether")];
        frontend::startup(&mut packet, own);
        scene.world.pipe.borrow_mut().input.extend(packet);
        scene.world.arrives = true;
        scene.turn(vec![Event::Incoming(ListenerId(0))]);
        scene.client = scene.world.accepted.map(Who::Client);
        scene.said(b"");
        let welcome = scene.answer();
        assert!(welcome.ends_with(b"Z\0\0\0\x05I"), "it is let in");
        scene
    }

    fn said(&mut self, bytes: &[u8]) {
        self.world.pipe.borrow_mut().input.extend(bytes);
        for _ in 0..200 {
            let ready = Ready {
                read: true,
                write: true,
                hung_up: false,
            };
            let events = self.client.map(|who| Event::Ready(who, ready));
            let before = self.world.pipe.borrow().output.len();
            self.turn(events.into_iter().collect());
            let pipe = self.world.pipe.borrow();
            if pipe.input.is_empty() && pipe.output.len() == before {
                break;
            }
        }
    }

    fn turn(&mut self, mut events: Vec<Event>) {
        for _ in 0..50 {
            self.now = Tick(self.now.0 + 1);
            let turn = self.engine.turn(self.now, &mut events, &mut self.world);
            let (engine, world) = (&mut self.engine, &mut self.world);
            events = self.admin.serve(engine, &turn.requests, &mut Kept, world);
            if events.is_empty() {
                break;
            }
        }
        self.engine.check();
    }

    fn answer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.world.pipe.borrow_mut().output)
    }

    /// Its command waits for something, or it was sent away, or everything stops.
    fn waits_or_is_gone(&self) -> bool {
        let Some(Who::Client(key)) = self.client else {
            return true;
        };
        match self.engine.clients().get(key).map(|client| client.state()) {
            Some(ClientState::Console(console)) => {
                console.waits_for.is_some() || self.engine.is_stopping()
            }
            _ => true,
        }
    }
}

fn config() -> Config {
    schema::read(CONFIG, Path::new("aether.yaml"), &Nothing).expect("a configuration")
}

/// The configuration, which nobody changes.
struct Kept;

impl Steward for Kept {
    fn reload(&mut self) -> Result<Config, Vec<ConfigError>> {
        Ok(config())
    }

    fn look(&mut self) -> Result<Config, Vec<ConfigError>> {
        Ok(config())
    }

    fn change(
        &mut self,
        _: Change,
        _: &dyn Fn(&Config) -> Result<(), Refusal>,
    ) -> Result<Config, Changed> {
        Err(Changed::Unwanted(Refusal::error(
            b"55000",
            "nothing is changed here",
        )))
    }
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

#[derive(Default)]
struct Pipe {
    input: VecDeque<u8>,
    output: Vec<u8>,
}

struct PipeStream(Rc<RefCell<Pipe>>);

impl Stream for PipeStream {
    fn read(&mut self, into: &mut [u8]) -> Taken {
        let mut pipe = self.0.borrow_mut();
        let count = pipe.input.len().min(into.len());
        for (to, byte) in into.iter_mut().zip(pipe.input.drain(..count)) {
            *to = byte;
        }
        match count {
            0 => Taken::Blocked,
            _ => Taken::Bytes {
                count,
                more: !pipe.input.is_empty(),
            },
        }
    }

    fn write(&mut self, from: &[u8]) -> Given {
        let mut pipe = self.0.borrow_mut();
        assert!(pipe.output.len() < 64 << 20, "an endless answer");
        pipe.output.extend_from_slice(from);
        Given::Bytes(from.len())
    }

    fn shutdown(&mut self) {}

    fn protection(&self) -> Protection {
        Protection::None
    }

    fn facts(&self) -> Facts {
        Facts::default()
    }
}

/// A world with one client, in which nothing else happens.
#[derive(Default)]
struct World {
    pipe: Rc<RefCell<Pipe>>,
    arrives: bool,
    accepted: Option<ClientKey>,
}

impl Host for World {
    fn accept(&mut self, _: ListenerId, key: ClientKey) -> Accepted {
        if !std::mem::take(&mut self.arrives) {
            return Accepted::Blocked;
        }
        self.accepted = Some(key);
        Accepted::Stream {
            stream: Box::new(PipeStream(self.pipe.clone())),
            more: true,
        }
    }

    fn dial(&mut self, _: &Address, _: ServerKey) -> Result<Box<dyn Stream>, String> {
        Err("nobody is there".to_owned())
    }

    fn secure(
        &mut self,
        _: Box<dyn Stream>,
        _: TlsSide,
        _: Handover,
    ) -> Result<Box<dyn Stream>, String> {
        Err("no TLS here".to_owned())
    }

    fn resolve(&mut self, _: &str) {}
    fn derive(&mut self, _: KeyDerivation, _: Who) {}
    fn user_name(&mut self, _: u32, _: ClientKey) {}
    fn networks(&self) -> Vec<Network> {
        Vec::new()
    }
    fn random(&mut self, into: &mut [u8]) {
        into.fill(1);
    }
    fn stop_listening(&mut self) {}
}
