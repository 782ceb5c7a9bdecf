//! A small world for the engine's own tests: pipes that the test holds the other end of. Whole pools of clients, faults and
//! time belong to `tests/simulation`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::auth::KeyDerivation;
use crate::config::{Outside, schema};
use crate::wire::{backend, frame, frontend};

/// One end of a connection, held by the test; the engine holds the stream.
#[derive(Default)]
pub(super) struct Pipe {
    /// To be read by the engine.
    pub(super) input: VecDeque<u8>,
    /// What the engine wrote.
    pub(super) output: Vec<u8>,
    /// The next read panics.
    pub(super) breaks: bool,
    /// Writes find no room.
    pub(super) stuck: bool,
    /// Who it is to the engine.
    pub(super) who: Option<Who>,
    /// What the engine is told of the other end.
    pub(super) facts: Facts,
    /// It has TLS over it from the beginning.
    pub(super) secured: bool,
    /// Then a read is a step of its handshake, of which so many are left.
    pub(super) handshake: usize,
    /// The engine wants to be told of no fewer bytes; 0: it has not said.
    pub(super) low: usize,
    /// Writes that found room.
    pub(super) writes: usize,
    /// How often the engine has asked for the facts.
    pub(super) asked: usize,
}

/// A pipe, held by the test and by a stream.
pub(super) type Shared = Rc<RefCell<Pipe>>;

struct PipeStream(Shared);

impl Stream for PipeStream {
    fn read(&mut self, into: &mut [u8]) -> Taken {
        let mut pipe = self.0.borrow_mut();
        assert!(!pipe.breaks, "provoked");
        if pipe.handshake > 0 {
            pipe.handshake -= 1;
            return Taken::Blocked;
        }
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
        if pipe.stuck {
            return Given::Blocked;
        }
        pipe.output.extend_from_slice(from);
        pipe.writes += 1;
        Given::Bytes(from.len())
    }

    fn shutdown(&mut self) {}

    fn wake_at(&mut self, bytes: usize) {
        self.0.borrow_mut().low = bytes;
    }

    fn protection(&self) -> Protection {
        let pipe = self.0.borrow();
        match pipe.handshake {
            _ if !pipe.secured => Protection::None,
            0 => Protection::Tls,
            _ => Protection::Handshake,
        }
    }

    fn facts(&self) -> Facts {
        let mut pipe = self.0.borrow_mut();
        pipe.asked += 1;
        pipe.facts.clone()
    }
}

/// A world of pipes.
#[derive(Default)]
pub(super) struct World {
    pub(super) arriving: VecDeque<Shared>,
    pub(super) servers: Vec<Shared>,
    /// Why nothing can be dialled.
    pub(super) unreachable: Option<String>,
    /// Addresses that begin like this cannot be dialled.
    pub(super) down: Option<&'static str>,
    /// Servers that are dialled break when they are read.
    pub(super) servers_break: bool,
    /// What servers say first; when empty, they let everybody in at once.
    pub(super) greeting: Vec<u8>,
    /// Names of hosts that were asked for.
    pub(super) names: Vec<String>,
    /// Where servers were dialled.
    pub(super) dialed: Vec<Address>,
    /// Users whose names were asked for.
    pub(super) users: Vec<(u32, ClientKey)>,
    /// Derivations that were asked for and are not done.
    pub(super) derivations: Vec<(KeyDerivation, Who)>,
    /// Counts what was drawn: no two draws in a row are the same.
    pub(super) drawn: u8,
}

impl Host for World {
    fn accept(&mut self, _: ListenerId, key: ClientKey) -> Accepted {
        match self.arriving.pop_front() {
            None => Accepted::Blocked,
            Some(pipe) => {
                pipe.borrow_mut().who = Some(Who::Client(key));
                Accepted::Stream {
                    stream: Box::new(PipeStream(pipe)),
                    more: !self.arriving.is_empty(),
                }
            }
        }
    }

    fn dial(&mut self, to: &Address, key: ServerKey) -> Result<Box<dyn Stream>, String> {
        if let Some(why) = &self.unreachable {
            return Err(why.clone());
        }
        self.dialed.push(to.clone());
        if self
            .down
            .is_some_and(|down| to.to_string().starts_with(down))
        {
            return Err("it is down".to_owned());
        }
        let mut welcome = self.greeting.clone();
        if welcome.is_empty() {
            backend::write_authentication_ok(&mut welcome);
            backend::write_backend_key_data(&mut welcome, 1 + self.servers.len() as u32, b"key!");
            backend::write_ready(&mut welcome);
        }
        let pipe = Rc::new(RefCell::new(Pipe {
            input: welcome.into(),
            who: Some(Who::Server(key)),
            breaks: self.servers_break,
            ..Pipe::default()
        }));
        self.servers.push(pipe.clone());
        Ok(Box::new(PipeStream(pipe)))
    }

    fn secure(
        &mut self,
        _: Box<dyn Stream>,
        _: TlsSide,
        _: Handover,
    ) -> Result<Box<dyn Stream>, String> {
        Err("no TLS here".to_owned())
    }

    fn resolve(&mut self, name: &str) {
        self.names.push(name.to_owned());
    }
    fn derive(&mut self, job: KeyDerivation, who: Who) {
        self.derivations.push((job, who));
    }
    fn user_name(&mut self, uid: u32, key: ClientKey) {
        self.users.push((uid, key));
    }
    fn networks(&self) -> Vec<crate::config::hba::Network> {
        vec![([192, 0, 2, 1].into(), [255, 255, 255, 0].into())]
    }
    fn random(&mut self, into: &mut [u8]) {
        self.drawn = self.drawn.wrapping_add(1);
        into.fill(self.drawn);
    }
    fn stop_listening(&mut self) {}
}

/// The files beside a configuration.
#[derive(Default)]
struct Files(Vec<(String, String)>);

impl Outside for Files {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        let found = self.0.iter().find(|(name, _)| Path::new(name) == path);
        found
            .map(|(_, text)| text.clone().into_bytes())
            .ok_or_else(|| "no such file here".to_owned())
    }
}

const CONFIG: &str = "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'}\nauth: {type: trust, allow_insecure: true}\nadmin: {users: [me]}\n";

/// The engine in its world.
pub(super) struct Scene {
    pub(super) engine: Engine,
    pub(super) world: World,
    /// Commands for the console that nobody has answered.
    requests: Vec<Request>,
    /// What the last period was told as.
    status: Option<String>,
    now: Tick,
}

impl Scene {
    pub(super) fn new() -> Scene {
        Scene::with(CONFIG, World::default())
    }

    pub(super) fn with(config: &str, world: World) -> Scene {
        Scene::with_files(config, Vec::new(), world)
    }

    /// With files by name beside the configuration.
    pub(super) fn with_files(
        config: &str,
        files: Vec<(String, String)>,
        mut world: World,
    ) -> Scene {
        let config =
            schema::read(config, Path::new("aether.yaml"), &Files(files)).expect("a configuration");
        let mut engine = Engine::new(Rc::new(config), Tick(0), &mut world);
        engine.contain(true);
        Scene {
            engine,
            world,
            requests: Vec::new(),
            status: None,
            now: Tick(0),
        }
    }

    /// Takes over another configuration.
    pub(super) fn reload(&mut self, text: &str) {
        self.reload_with_files(text, Vec::new());
    }

    /// The same, with files by name beside it.
    pub(super) fn reload_with_files(&mut self, text: &str, files: Vec<(String, String)>) {
        let config =
            schema::read(text, Path::new("aether.yaml"), &Files(files)).expect("a configuration");
        self.turn(vec![Event::Reload(Rc::new(config))]);
    }

    /// A client that asks to be let in.
    pub(super) fn client(&mut self) -> Shared {
        self.client_of("db")
    }

    /// A client of the console.
    pub(super) fn console(&mut self) -> Shared {
        self.client_of("aether")
    }

    /// Answers the commands for the console that came up, as the floor above does; how many there were.
    pub(super) fn answer_console(&mut self) -> usize {
        let requests = std::mem::take(&mut self.requests);
        for request in &requests {
            self.engine.answer_end(request.client, b"");
        }
        requests.len()
    }

    /// What was told of the last period.
    pub(super) fn status(&mut self) -> Option<String> {
        self.status.take()
    }

    /// A client that says nothing.
    pub(super) fn connect(&mut self) {
        self.arrive(&Shared::default());
    }

    pub(super) fn arrive(&mut self, pipe: &Shared) {
        self.world.arriving.push_back(pipe.clone());
        self.turn(vec![Event::Incoming(ListenerId(0))]);
    }

    fn client_of(&mut self, database: &str) -> Shared {
        self.client_with(database, &[])
    }

    /// A client that asks to be let in, with more startup parameters.
    pub(super) fn client_with(&mut self, database: &str, more: &[(&str, &str)]) -> Shared {
        let own = [("user", "me"), ("database", database)];
        let all = own.iter().chain(more);
        let parameters: Vec<(&[u8], &[u8])> = all
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        self.client_from(Facts::default(), &parameters)
    }

    /// A client that asks to be let in, with this at its other end.
    pub(super) fn client_from(&mut self, facts: Facts, parameters: &[(&[u8], &[u8])]) -> Shared {
        let pipe = self.late_client(facts, parameters);
        self.ready(&pipe);
        self.serve_last();
        pipe
    }

    /// The same, who may have to wait until it is accepted.
    pub(super) fn late_client(&mut self, facts: Facts, parameters: &[(&[u8], &[u8])]) -> Shared {
        let mut packet = Vec::new();
        frontend::startup(&mut packet, parameters.iter().copied());
        let pipe = Rc::new(RefCell::new(Pipe {
            input: packet.into(),
            facts,
            ..Pipe::default()
        }));
        self.arrive(&pipe);
        pipe
    }

    /// The server that was dialled last says what it has to say.
    pub(super) fn serve_last(&mut self) {
        if let Some(server) = self.world.servers.last().cloned() {
            self.ready(&server);
        }
    }

    /// Derivations are done.
    pub(super) fn derive(&mut self) {
        for (job, who) in std::mem::take(&mut self.world.derivations) {
            let salted = job.run();
            self.turn(vec![Event::Derived { who, salted }]);
        }
    }

    /// The poll reports that a pipe's other end has gone.
    pub(super) fn hang_up(&mut self, pipe: &Shared) {
        let ready = Ready {
            hung_up: true,
            ..Ready::default()
        };
        let who = pipe.borrow().who.expect("the engine knows it");
        self.turn(vec![Event::Ready(who, ready)]);
    }

    /// A query of a client's.
    pub(super) fn ask(&mut self, client: &Shared, sql: &[u8]) {
        let mut bytes = Vec::new();
        frontend::query(&mut bytes, sql);
        self.say(client, &bytes);
    }

    /// Bytes come from a pipe's other end.
    pub(super) fn say(&mut self, pipe: &Shared, bytes: &[u8]) {
        pipe.borrow_mut().input.extend(bytes);
        self.ready(pipe);
    }

    /// Time goes by in silence.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.turn(Vec::new());
    }

    pub(super) fn turn(&mut self, events: Vec<Event>) {
        self.now = self.now.plus(ms(1));
        let mut busy = self.one_turn(events);
        while busy {
            busy = self.one_turn(Vec::new());
        }
    }

    /// One turn and no more; whether somebody could go on at once.
    pub(super) fn one_turn(&mut self, mut events: Vec<Event>) -> bool {
        let turn = self.engine.turn(self.now, &mut events, &mut self.world);
        self.requests.extend(turn.requests);
        self.status = turn.status.or(self.status.take());
        self.engine.check();
        let busy = !self.engine.runnable.is_empty();
        assert!(!busy || turn.wake == Some(self.now), "nobody calls again");
        busy
    }

    /// The poll reports a pipe.
    pub(super) fn ready(&mut self, pipe: &Shared) {
        self.turn(vec![readable(pipe)]);
    }

    /// What comes out of `to` when `bytes` are put into `from`.
    pub(super) fn passes(&mut self, from: &Shared, bytes: &[u8], to: &Shared) -> Vec<u8> {
        to.borrow_mut().output.clear();
        from.borrow_mut().input.extend(bytes);
        self.ready(from);
        to.borrow().output.clone()
    }

    /// A query and its answer, through and back.
    pub(super) fn works(&mut self, client: &Shared, server: &Shared) {
        let (mut query, mut answer) = (Vec::new(), Vec::new());
        frontend::query(&mut query, b"select 1");
        backend::write_command_complete(&mut answer, "SELECT 1");
        backend::write_ready(&mut answer);
        assert_eq!(self.passes(client, &query, server), query);
        assert_eq!(self.passes(server, &answer, client), answer);
    }
}

/// The poll's report of a pipe.
pub(super) fn readable(pipe: &Shared) -> Event {
    let ready = Ready {
        read: true,
        write: true,
        hung_up: false,
    };
    Event::Ready(pipe.borrow().who.expect("the engine knows it"), ready)
}

/// Whether only the test still holds a pipe (and its world, for servers).
pub(super) fn is_closed(pipe: &Shared) -> bool {
    let by_world = usize::from(matches!(pipe.borrow().who, Some(Who::Server(_))));
    Rc::strong_count(pipe) <= 1 + by_world
}

/// What a client is told first: code and text of an error, or what is asked of it.
pub(super) fn said(client: &Shared) -> String {
    let output = client.borrow().output.clone();
    match frame::whole(&output, 10_000) {
        Ok(Some((b'E', body, _))) => {
            let refusal = Refusal::read(body, Blame::Client);
            format!("{} {}", refusal.code(), refusal.text())
        }
        Ok(Some((b'R', body, _))) => format!("R{}", body.get(3).copied().unwrap_or_default()),
        _ => String::new(),
    }
}
