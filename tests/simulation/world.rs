//! One world: a pooler, a PostgreSQL, clients, a network between them and a clock, all driven by one seed; and the oracle.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use aether::admin::{Admin, Changed, Steward};
use aether::arena::{ClientKey, ServerKey, Tick};
use aether::auth::KeyDerivation;
use aether::config::{AuthMethod, Change, Config, ConfigError, Outside, changed, schema};
use aether::engine::{
    Accepted, Address, ClientState, Engine, Event, Handover, Host, ListenerId, Progress, Ready,
    Scope as Held, ServerState, Shutdown, Stream, TlsSide, Unresolved, Who,
};
use aether::net::tls;
use aether::stats::Counters;
use aether::wire::frame::packet;
use aether::wire::frontend;
use aether::wire::refusal::{Blame, Refusal};

use crate::clerk;
use crate::client::{Client, End, Login, Ssl, Tally};
use crate::network::{Connection, NearEnd, Phase, Shared};
use crate::operator::{Operator, Power, Wish};
use crate::plan::{Leave, Planner, Scope, Step};
use crate::postgres::{Backend, Lie, PASSWORD, Postgres, ServerTls};
use crate::random::Random;
use crate::sealed::{self, Sides};
use crate::sizes::{self, Sizes, UNSTEADY, Watch};

/// More steps than any world needs.
const STEPS_MAX: u64 = 3_000_000;
/// How long the pooler may take to come to rest after the last client has gone: longer than every timeout of its own.
const REST_US: u64 = 120_000_000;

const MODES: [&str; 4] = ["session", "transaction", "transaction", "statement"];
/// Who logs in to servers: everybody as the last, or each as himself.
const ROLES: [&str; 3] = ["alice", "bob", "role"];

/// How clients show who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// `auth.type`
    Password(AuthMethod),
    /// By who is at the other end of a Unix socket.
    Peer,
    Certificate,
}

impl Shown {
    /// What section `auth` says of it.
    fn yaml(self) -> String {
        match self {
            Shown::Password(method) => format!("type: {}", method.as_str()),
            Shown::Peer => "hba_file: peer.hba, ident_file: ident".to_owned(),
            Shown::Certificate => "hba_file: certificate.hba, ident_file: ident".to_owned(),
        }
    }

    /// What is said to somebody who is not the user that he says he is.
    fn failed(self, user: &str) -> String {
        let (code, what) = match self {
            Shown::Password(_) => ("28P01", "password"),
            Shown::Peer => ("28000", "Peer"),
            Shown::Certificate => ("28000", "certificate"),
        };
        format!("{code} {what} authentication failed for user \"{user}\"")
    }

    /// Whether a password is asked for.
    fn asks(self) -> bool {
        matches!(self, Shown::Password(method) if method != AuthMethod::Trust)
    }
}

/// Of those who come by Unix sockets.
const UID: u32 = 1_000;

/// What kind of world a seed makes.
#[derive(Debug)]
struct Shape {
    faults: bool,
    /// Servers may send nonsense.
    lies: bool,
    /// Connections with tiny buffers and tiny chunks.
    tiny: bool,
    /// Clients settle and say goodbye: counters can be compared.
    tidy: bool,
    frugal: bool,
    mode: &'static str,
    /// The mode of each of [`ROLES`]; `None`: the pool's.
    role_modes: [Option<&'static str>; 3],
    /// Reloads change the modes.
    mode_changes: bool,
    /// Clients come to two databases.
    two_databases: bool,
    /// `max_connections` of each of [`ROLES`].
    role_max: usize,
    max_per_user: usize,
    max_prepared: usize,
    forced_user: bool,
    max_connections: usize,
    min_idle: usize,
    shown: Shown,
    /// Users are looked up, but for one role; whether the query is one of the operator's own.
    looked_up: Option<bool>,
    form: clerk::Form,
    server_method: AuthMethod,
    /// Startup sets that clients come with.
    sets: usize,
    hosts: &'static str,
    check_delay: &'static str,
    lifetime: &'static str,
    idle_time: &'static str,
    /// Limits in time that clients do exceed, in worlds with faults; zeros in the others. Of queries, of transactions, within
    /// transactions, outside of them, and when clients are told that they wait.
    hurry: [&'static str; 5],
    /// `server.peer_id`; 0: none, and process ids are the servers' own.
    peer_id: u16,
    /// Sessions may leave behind what costs a connection.
    leftovers: bool,
    /// How pools make servers, where that is not as it is by default.
    sizes: Option<Sizes>,
    /// `server.tls.mode`; `None`: no TLS for clients.
    client_tls: Option<&'static str>,
    /// What the DSN says of TLS, and what the server makes of that.
    server_tls: (&'static str, ServerTls),
}

impl Shape {
    fn draw(random: &mut Random) -> Shape {
        let faults = random.chance(35);
        let methods = [
            AuthMethod::Trust,
            AuthMethod::Password,
            AuthMethod::Md5,
            AuthMethod::ScramSha256,
        ];
        Shape {
            faults,
            lies: faults && random.chance(15),
            tiny: random.chance(30),
            tidy: random.chance(40),
            frugal: random.chance(30),
            mode: random.pick(&MODES),
            role_modes: [(); 3].map(|()| random.chance(20).then(|| random.pick(&MODES))),
            mode_changes: random.chance(10),
            two_databases: random.chance(40),
            role_max: random.pick(&[0, 0, 1, 2, 3]),
            max_per_user: random.pick(&[0, 0, 0, 1, 2]),
            max_prepared: random.pick(&[1, 2, 200]),
            forced_user: random.chance(60),
            max_connections: random.pick(&[1, 1, 2, 3, 5]),
            min_idle: random.pick(&[0, 0, 1]),
            shown: Shown::Password(random.pick(&methods)),
            looked_up: None,
            form: clerk::Form::Plain,
            server_method: random.pick(&methods),
            sets: random.pick(&[1, 1, 2, 4, 7]),
            hosts: random.pick(&[
                "10.0.0.1",
                "database.example",
                "10.0.0.9,10.0.0.1",
                "[::1]",
                "nowhere.example,10.0.0.1",
            ]),
            check_delay: random.pick(&["0", "1s", "30s"]),
            lifetime: random.pick(&["0", "0", "3s", "1h"]),
            idle_time: random.pick(&["0", "2s", "10m"]),
            hurry: if faults && random.chance(25) {
                [(); 5].map(|()| random.pick(&["0", "100ms", "1s", "5s"]))
            } else {
                ["0"; 5]
            },
            peer_id: random.pick(&[0, 0, 0, 1, 258]),
            leftovers: random.chance(30),
            sizes: None,
            client_tls: None,
            server_tls: ("sslmode=disable", ServerTls::Never),
        }
    }

    /// A world with TLS: every way in which both legs can come to it, or not.
    fn draw_tls(&mut self, random: &mut Random) {
        use ServerTls::{Confused, Demanded, Never, Offered, Shunned};
        self.client_tls = random.pick(&[
            None,
            Some("allow"),
            Some("prefer"),
            Some("require"),
            Some("require"),
        ]);
        self.server_tls = random.pick(&[
            ("sslmode=disable", Shunned),
            ("sslmode=allow", Never),
            ("sslmode=allow", Offered),
            ("sslmode=allow", Demanded),
            ("sslmode=prefer", Never),
            ("sslmode=prefer", Offered),
            ("sslmode=prefer", Demanded),
            ("sslmode=prefer", Shunned),
            ("sslmode=prefer", Confused),
            ("sslmode=require", Offered),
            ("sslmode=require", Demanded),
            ("sslmode=verify-ca&sslrootcert=root.crt", Offered),
            ("sslmode=require&sslnegotiation=direct", Demanded),
        ]);
    }

    /// How people log in beside the methods that every world draws from: what only TLS or a Unix socket brings, and users who are looked up.
    fn draw_logins(&mut self, random: &mut Random, sealed: bool) {
        use AuthMethod::{ScramSha256, ScramSha256Plus};
        if sealed && self.client_tls == Some("require") {
            self.shown = random.pick(&[
                self.shown,
                Shown::Password(ScramSha256),
                Shown::Password(ScramSha256Plus),
                Shown::Certificate,
            ]);
        } else if !sealed && random.chance(10) {
            self.shown = Shown::Peer;
        }
        let bound = ["sslmode=require", "sslmode=verify-ca"];
        if bound
            .iter()
            .any(|words| self.server_tls.0.starts_with(words))
        {
            self.server_method = random.pick(&[self.server_method, ScramSha256, ScramSha256Plus]);
        }
        if random.chance(25) {
            self.looked_up = Some(random.chance(50));
            let scram = |method| matches!(method, ScramSha256 | ScramSha256Plus);
            let passes = self.forced_user || scram(self.server_method);
            self.form = match self.shown {
                Shown::Password(AuthMethod::Md5) if self.forced_user => clerk::Form::Md5,
                Shown::Password(method) if scram(method) && passes => clerk::Form::Scram,
                _ => clerk::Form::Plain,
            };
        }
    }

    /// What section `auth` says.
    fn auth(&self) -> String {
        let shown = self.shown.yaml();
        let users = match self.looked_up {
            None => format!("alice: {PASSWORD:?}, bob: {PASSWORD:?}, role: {PASSWORD:?}"),
            Some(_) => format!("role: {PASSWORD:?}"),
        };
        let asks = match self.looked_up {
            None => String::new(),
            Some(own) => {
                let asker = clerk::ASKER;
                let query = if own {
                    format!(", auth_query: {:?}", clerk::OWN_QUERY)
                } else {
                    String::new()
                };
                format!(", auth_user: {{name: {asker}, password: {PASSWORD:?}}}{query}")
            }
        };
        format!(
            "auth: {{{shown}, scram_iterations: 2, allow_insecure: true, users: {{{users}}}{asks}}}\n"
        )
    }

    /// Whether nothing in it is a reason to close a server connection.
    fn keeps_servers(&self) -> bool {
        let timeless = self.lifetime == "0" && self.idle_time != "2s";
        self.tidy
            && !self.faults
            && !self.leftovers
            && timeless
            && self.sets == 1
            && self.forced_user
            && (self.role_max == 0 || !self.two_databases)
            && !self.mode_changes
            && self.sizes.is_none()
    }

    fn yaml(&self) -> String {
        let user = if self.forced_user {
            "role:secret%20of%20roles@"
        } else {
            ""
        };
        let databases = if self.two_databases {
            "databases: {other: {}}\n"
        } else {
            ""
        };
        let users: String = ROLES
            .iter()
            .zip(self.role_modes)
            .map(|(role, mode)| {
                let mode = mode.unwrap_or("null");
                let own = self.sizes.filter(|_| *role == ROLES[2]);
                let own = own.map_or(String::new(), |sizes| sizes.role_lines());
                format!(
                    "  {role}:\n    mode: {mode}\n    max_connections: {}\n{own}",
                    self.role_max
                )
            })
            .collect();
        let sizes = self.sizes.map_or(String::new(), |sizes| sizes.pool_lines());
        let assignment = if self.frugal { "first_query" } else { "login" };
        let idle = self.idle_time;
        let [query, transaction, within, outside, notify] = self.hurry;
        let authority = match self.shown {
            Shown::Certificate => ", ca_file: root.crt",
            _ => "",
        };
        let tls = self.client_tls.map_or(String::new(), |mode| {
            format!(", tls: {{mode: {mode}, cert_file: bound.crt, key_file: bound.key{authority}}}")
        });
        // What clients ask is followed in some worlds, and nothing else is different in them.
        let follows = match self.role_max % 2 {
            0 => {
                "metrics: {query_fingerprints: 100}\nlog: {slow_query_threshold: 1ms, slow_transaction_threshold: 5ms}\n"
            }
            _ => "",
        };
        // How answers are read is nobody's business either.
        let bulk = [0, 1, 200][self.role_max % 3];
        let own = self.peer_id;
        let peers: String = [1, 2, 258]
            .map(|id| format!("  {id}: {{host: 10.0.1.{}, pool_size: 1}}\n", id % 256))
            .concat();
        format!(
            "pool:\n  dsn: 'postgres://{user}{}/base?{}'\n  max_connections: {}\n  max_connections_per_user: {}\n  min_idle_connections: {}\n  \
             server_assignment: {assignment}\n  mode: {}\n  max_prepared_statements: {}\n  check_delay: {}\n  max_lifetime: {}\n  max_idle_time: {idle}\n  \
             acquire_timeout: {}\n  abandoned_query_timeout: {}\n  query_timeout: {query}\n  transaction_timeout: {transaction}\n  \
             idle_transaction_timeout: {within}\n  client_idle_timeout: {outside}\n  query_wait_notify: {notify}\n{sizes}\
             {}admin: {{users: [alice]}}\nserver: {{peer_id: {own}, bulk_after: {bulk}{tls}}}\npeers:\n{peers}{databases}{follows}users:\n{users}",
            self.hosts,
            self.server_tls.0,
            self.max_connections,
            self.max_per_user,
            self.min_idle,
            self.mode,
            self.max_prepared,
            self.check_delay,
            self.lifetime,
            if self.faults { "20s" } else { "0" },
            if self.faults { "1s" } else { "10m" },
            self.auth(),
        )
    }
}

/// The certificate and its key.
struct Files;

impl Outside for Files {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        match path.to_string_lossy().as_ref() {
            "bound.crt" => Ok(sealed::CERTIFICATE.to_vec()),
            "bound.key" => Ok(sealed::KEY.to_vec()),
            "root.crt" => Ok(sealed::ROOT.to_vec()),
            "peer.hba" => Ok(b"local all all peer map=people\n".to_vec()),
            "certificate.hba" => Ok(b"hostssl all all all cert map=people\n".to_vec()),
            "ident" => {
                let who = sealed::CERTIFIED;
                Ok(format!("people {who} alice\npeople {who} bob\n").into_bytes())
            }
            _ => Err("there is no such file here".to_owned()),
        }
    }
}

fn configuration(yaml: &str) -> Rc<Config> {
    match schema::read(yaml, Path::new("aether.yaml"), &Files) {
        Ok(config) => Rc::new(config),
        Err(errors) => panic!("{errors:?}\n{yaml}"),
    }
}

/// The configuration as it was written, and what operators have changed since.
struct Written<'a>(&'a str, &'a mut Vec<Change>);

impl Steward for Written<'_> {
    fn reload(&mut self) -> Result<Config, Vec<ConfigError>> {
        self.1.clear();
        self.look()
    }

    fn look(&mut self) -> Result<Config, Vec<ConfigError>> {
        schema::read(self.0, Path::new("aether.yaml"), &Files)
    }

    fn change(
        &mut self,
        change: Change,
        accepts: &dyn Fn(&Config) -> Result<(), Refusal>,
    ) -> Result<Config, Changed> {
        let mut changes = self.1.clone();
        changes.push(change);
        let file = Path::new("aether.yaml");
        let new = changed((file, self.0), &changes, Path::new("/"), &Files);
        let new = new.map_err(Changed::Wrong)?;
        accepts(&new).map_err(Changed::Unwanted)?;
        *self.1 = changes;
        Ok(new)
    }
}

/// The kernel, as the engine sees it.
struct Kernel {
    random: Random,
    connections: Vec<(Who, Shared)>,
    backlog: VecDeque<Shared>,
    dialed: Vec<(Address, Shared)>,
    resolving: Vec<String>,
    deriving: Vec<(KeyDerivation, Who)>,
    /// Clients whose user's name is looked up.
    naming: Vec<ClientKey>,
    /// Clients come by Unix sockets.
    local: bool,
    listening: bool,
    /// So many times yet there is no descriptor for a new connection.
    exhausted: u32,
    tiny: bool,
    scratch: tls::Scratch,
}

impl Host for Kernel {
    fn accept(&mut self, _: ListenerId, key: ClientKey) -> Accepted {
        if self.backlog.is_empty() || !self.listening {
            return Accepted::Blocked;
        }
        if self.exhausted > 0 {
            self.exhausted -= 1;
            return Accepted::Exhausted("Too many open files".to_owned());
        }
        let connection = self.backlog.pop_front().expect("somebody waits");
        let local = self.local || connection.borrow().peer_is_owner;
        connection.borrow_mut().peer_uid = local.then_some(UID);
        connection.borrow_mut().spurious(); // bytes may be there already: registering tells
        self.connections
            .push((Who::Client(key), connection.clone()));
        Accepted::Stream {
            stream: Box::new(NearEnd(connection)),
            more: !self.backlog.is_empty() || self.random.chance(20), // who waited may be gone
        }
    }

    fn dial(&mut self, to: &Address, key: ServerKey) -> Result<Box<dyn Stream>, String> {
        if self.random.chance(2) && to.to_string().starts_with("10.0.0.9") {
            return Err("Network is unreachable".to_owned());
        }
        let connection = Connection::new(&mut self.random, Phase::Dialing, self.tiny);
        self.connections
            .push((Who::Server(key), connection.clone()));
        self.dialed.push((to.clone(), connection.clone()));
        Ok(Box::new(NearEnd(connection)))
    }

    fn secure(
        &mut self,
        stream: Box<dyn Stream>,
        side: TlsSide,
        handover: Handover,
    ) -> Result<Box<dyn Stream>, String> {
        tls::secure(stream, side, handover, &self.scratch)
    }

    fn resolve(&mut self, name: &str) {
        let twice = self.resolving.iter().any(|asked| asked == name);
        assert!(!twice, "{name} is asked for twice at a time");
        self.resolving.push(name.to_owned());
    }

    fn derive(&mut self, job: KeyDerivation, who: Who) {
        self.deriving.push((job, who));
    }

    fn user_name(&mut self, uid: u32, key: ClientKey) {
        assert_eq!(uid, UID);
        self.naming.push(key);
    }

    fn networks(&self) -> Vec<aether::config::hba::Network> {
        Vec::new()
    }

    fn random(&mut self, into: &mut [u8]) {
        self.random.fill(into);
    }

    fn stop_listening(&mut self) {
        self.listening = false;
    }
}

/// Somebody who uses the pooler: one session after the other, until as many have gone well as he wants.
struct Person {
    client: Client,
    sessions_left: usize,
    sessions: usize,
    set: usize,
}

/// A connection that brings a cancel request.
struct Canceller {
    connection: Shared,
    output: Vec<u8>,
    /// The person who sends it, for what it asks itself.
    person: Option<usize>,
}

/// What a seed's world came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub digest: u64,
    pub steps: u64,
    pub queries: u64,
    pub faults: u64,
    /// Commands of operators that were answered.
    pub commands: u64,
    /// Requests of clients that operators have cancelled, and clients that they have sent away.
    pub cancelled: u64,
    pub condemned: u64,
}

pub struct World {
    shape: Shape,
    random: Random,
    now: u64,
    steps: u64,
    engine: Engine,
    admin: Admin,
    kernel: Kernel,
    postgres: Postgres,
    people: Vec<Person>,
    cancellers: Vec<Canceller>,
    /// Requests that come to peers, and what has been read of them.
    peers: Vec<(Shared, Vec<u8>)>,
    /// Those who will not get in, and what they are to be told.
    strangers: Vec<(Client, String)>,
    /// What those show and trust who come to TLS.
    sides: Option<Rc<Sides>>,
    console: Option<(Shared, Vec<u8>)>,
    operators: Vec<Operator>,
    /// Their own chance: worlds without them are what they were before there were any.
    whim: Random,
    /// Operators who are still to come.
    operators_left: u32,
    commands: u64,
    /// What they have changed since the configuration was read.
    changes: Vec<Change>,
    yaml: String,
    /// Engine's own wish to be called again.
    wake: Option<u64>,
    incoming: bool,
    events: Vec<Event>,
    stale: Vec<Who>,
    /// So many more times something unusual happens, faults not counted.
    disturbances_left: u32,
    faults_left: u32,
    faults: u64,
    /// Refused dials and logins, hanging dials end then.
    trouble_until: u64,
    trouble: Trouble,
    /// What an operator holds up goes on then.
    held_until: Option<u64>,
    gone: Tally,
    committed: Vec<String>,
    rolled_back: Vec<String>,
    excused: bool,
    /// So many clients were sent away by an operator who meant them.
    condemned: u64,
    /// An operator has disabled a database at some time.
    has_disabled: bool,
    reloaded: bool,
    stopped: bool,
    watch: Watch,
    /// The chance of what [`Sizes`] bring, as [`World::whim`] is that of operators.
    sizing: Random,
    /// [`UNSTEADY`] refuses connections.
    is_down: bool,
    /// What `database.example` stands for.
    addresses: &'static [&'static str],
    /// That has changed.
    moved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Refused,
    Silent,
    Starting,
    /// No name server answers.
    Nameless,
    /// The roles have another password than the pooler knows.
    Rotated,
}

enum Action {
    Turn,
    Carry(usize),
    Person(usize),
    Canceller(usize),
    Console,
    Operator(usize),
    Stranger(usize),
    Backend(usize),
    Dial(usize),
    Peer(usize),
    Resolve(usize),
    Derive(usize),
    Name(usize),
}

/// So many worlds in a row have one with TLS.
const SEALED_EVERY: u64 = 10;
/// Which worlds have operators: most of them, but none of the five of [`crate::NAMED`] that are older.
const OPERATED: u64 = 49;
/// Operators who are there at a time.
const OPERATORS_MAX: usize = 3;
const TOO_LATE: &str = "57014 canceling authentication due to timeout";
const KILLED: &str = "57P01 terminating connection due to administrator command";
/// Nobody's password.
const WRONG: &str = "a wrong password";
/// What the roles have for a while where passwords are rotated: nobody comes with it.
const ROTATED: &str = "a rotated password";

impl World {
    pub fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let mut shape = Shape::draw(&mut random);
        let sealed = seed % SEALED_EVERY == 1;
        if sealed {
            shape.draw_tls(&mut random);
        }
        shape.draw_logins(&mut random, sealed);
        let (mut sizes, sizing) = Sizes::draw(seed);
        if let (Some(sizes), (_, ServerTls::Confused)) = (&mut sizes, shape.server_tls) {
            sizes.server_fast_fail = false; // some logins of such a server fail, and clients are to notice nothing
        }
        shape.sizes = sizes;
        if let Some(hosts) = sizes.and_then(|sizes| sizes.hosts) {
            shape.hosts = hosts;
        }
        let certified = shape.shown == Shown::Certificate;
        let sides = sealed.then(|| Rc::new(Sides::new(certified)));
        let mut whim = Random::new(seed ^ OPERATED << 32);
        let operated = whim.chance(60);
        let long_wait = if operated { "100ms" } else { "0" };
        let long_wait = format!("log: {{long_wait: {long_wait}");
        let yaml = match shape.yaml() {
            yaml if yaml.contains("log: {") => yaml.replace("log: {", &format!("{long_wait}, ")),
            yaml => format!("{yaml}{long_wait}}}\n"),
        };
        let mut kernel = Kernel {
            random: Random::new(random.next()),
            connections: Vec::new(),
            backlog: VecDeque::new(),
            dialed: Vec::new(),
            resolving: Vec::new(),
            deriving: Vec::new(),
            naming: Vec::new(),
            local: shape.shown == Shown::Peer,
            listening: true,
            exhausted: 0,
            tiny: shape.tiny,
            scratch: tls::Scratch::default(),
        };
        let mut postgres = Postgres::new(shape.server_method, &mut random);
        postgres.tls = shape.server_tls.1;
        postgres.sides = sides.clone();
        postgres.form = shape.form;
        // With two pools the one that came first would keep all there is: neither knows that they share a server.
        let alone = !shape.two_databases && shape.looked_up.is_none();
        let limited = shape.faults && alone && random.chance(20);
        if limited {
            postgres.most = random.between(1, 3) as usize;
        }
        let engine = Engine::new(configuration(&yaml), Tick(0), &mut kernel);
        let mut world = World {
            random,
            now: 0,
            steps: 0,
            engine,
            admin: Admin::default(),
            kernel,
            postgres,
            people: Vec::new(),
            cancellers: Vec::new(),
            peers: Vec::new(),
            strangers: Vec::new(),
            sides,
            console: None,
            operators: Vec::new(),
            operators_left: if operated {
                whim.between(1, 5) as u32
            } else {
                0
            },
            whim,
            commands: 0,
            changes: Vec::new(),
            yaml,
            wake: Some(0),
            incoming: false,
            events: Vec::new(),
            stale: Vec::new(),
            disturbances_left: 0,
            faults_left: 0,
            faults: 0,
            trouble_until: 0,
            trouble: Trouble::None,
            held_until: None,
            gone: Tally::default(),
            committed: Vec::new(),
            rolled_back: Vec::new(),
            condemned: 0,
            has_disabled: false,
            excused: limited || shape.hurry != ["0"; 5],
            reloaded: operated,
            stopped: false,
            watch: Watch::of(shape.sizes),
            sizing,
            is_down: false,
            addresses: &["10.0.0.9", "10.0.0.1"],
            moved: false,
            shape,
        };
        world.disturbances_left = world.random.between(0, 15) as u32;
        if world.shape.faults {
            world.faults_left = world.random.between(1, 8) as u32;
        }
        for id in 0..world.random.between(1, 6) as usize {
            let sessions_left = world.random.between(1, 3) as usize;
            let set = world.random.below(world.shape.sets);
            let client = world.client(id, 0, set);
            world.people.push(Person {
                client,
                sessions_left,
                sessions: 0,
                set,
            });
        }
        world
    }

    /// This world, where the engine goes the long way for each server that is given out or taken back.
    pub fn without_short_ways(mut self) -> World {
        self.engine.take_short_ways(false);
        self
    }

    /// Runs the world to its end.
    ///
    /// # Panics
    /// On every violation.
    pub fn run(mut self) -> Outcome {
        while !self.people.iter().all(|person| person.sessions_left == 0) {
            self.step();
        }
        (self.faults_left, self.disturbances_left) = (0, 0);
        self.operators_left = 0;
        self.operators.iter_mut().for_each(Operator::close);
        self.heal();
        self.let_go();
        self.come_to_rest();
        self.keep_servers();
        self.check_end();
        self.stop();
        let digest = [
            self.gone.digest,
            self.now,
            self.gone.queries,
            self.gone.received,
        ]
        .iter()
        .fold(0, |digest: u64, part| {
            (digest.rotate_left(7) ^ part).wrapping_mul(0x0100_0000_01b3)
        });
        Outcome {
            digest,
            steps: self.steps,
            queries: self.gone.queries,
            faults: self.faults,
            commands: self.commands,
            cancelled: self.gone.cancelled,
            condemned: self.condemned,
        }
    }

    /// The modes in which a client may be served.
    fn modes(&self, id: usize) -> Vec<&'static str> {
        if self.shape.mode_changes {
            return MODES.to_vec();
        }
        let role = if self.shape.forced_user { 2 } else { id % 2 };
        vec![self.shape.role_modes[role].unwrap_or(self.shape.mode)]
    }

    /// Whether a client may have to wait for a server with a query of its own.
    fn waits_with_queries(&self, id: usize) -> bool {
        self.shape.frugal || self.modes(id) != ["session"]
    }

    // ---- people ----

    fn connect(&mut self) -> Shared {
        let connection = Connection::new(&mut self.random, Phase::Open, self.shape.tiny);
        if self.kernel.listening {
            self.kernel.backlog.push_back(connection.clone());
            self.incoming = true;
        } else {
            connection.borrow_mut().far_reset();
        }
        connection
    }

    fn client(&mut self, id: usize, session: usize, set: usize) -> Client {
        let connection = self.connect();
        let sets: [&[(&str, &str)]; 7] = [
            &[],
            &[("application_name", "app"), ("client_encoding", "utf-8")],
            &[("search_path", "tenant"), ("DateStyle", "SQL")],
            &[("statement_timeout", "5")],
            &[
                ("timezone", "CET"),
                (
                    "options",
                    "-c TimeZone=WET -c search_path=tenant -c DateStyle=German",
                ),
            ],
            &[("DateStyle", "DMY"), ("TimeZone", "nonsense")],
            &[
                ("DateStyle", "DMY"),
                ("application_name", "app"),
                ("statement_timeout", "5"),
            ],
        ];
        let parameters = sets[set]
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let modes = self.modes(id);
        let shares = !modes.contains(&"session");
        let login = Login {
            user: ROLES[id % 2].to_owned(),
            database: if self.shape.two_databases && id % 3 == 1 {
                "other"
            } else {
                "base"
            }
            .to_owned(),
            password: PASSWORD.to_owned(),
            parameters,
            shares,
            notified: self.shape.hurry[4] != "0",
            ssl: self.ssl(),
            sides: self.client_sides(),
        };
        let scope = Scope {
            session: modes == ["session"],
            shares,
            blocks: !modes.contains(&"statement"),
            pids: !self.waits_with_queries(id) && self.shape.peer_id == 0,
            tidy: self.shape.tidy,
            half_closes: !self.waits_with_queries(id),
            large: !self.shape.tiny,
            leftovers: self.shape.leftovers,
        };
        let mut steps = Planner::plan(&mut self.random, scope, id, session);
        let many = !self.shape.tiny && self.random.chance(1) && self.random.chance(20);
        // Each of them would cost a server of its own, and the world more steps than there are.
        let single_use = self.shape.sizes.is_some_and(|sizes| sizes.single_use);
        if many && !single_use {
            steps.extend((0..9_000).map(|_| Step::Send(b'Q', b"\0".to_vec())));
            steps.extend([Step::Settle, Step::Leave(Leave::Terminate)]);
            steps.retain({
                let mut left = 1;
                move |step| {
                    *step != Step::Leave(Leave::Terminate) && !matches!(step, Step::Leave(_)) || {
                        left -= 1;
                        left < 0
                    }
                }
            });
        }
        Client::new(id, connection, &login, steps, &mut self.random)
    }

    fn client_sides(&self) -> Option<Rc<Sides>> {
        self.sides
            .clone()
            .filter(|_| self.shape.client_tls.is_some())
    }

    /// What a client who wants to get in does about TLS.
    fn ssl(&mut self) -> Ssl {
        match self.shape.client_tls {
            None => self.random.pick(&[Ssl::Unwanted, Ssl::Asked]),
            Some("require") => self.random.pick(&[Ssl::Asked, Ssl::Direct]),
            Some(_) => self.random.pick(&[Ssl::Unwanted, Ssl::Asked, Ssl::Direct]),
        }
    }

    /// Somebody comes who lacks what it takes: the password, a name that is known, a database that is there, TLS.
    fn send_stranger(&mut self) {
        let id = 1_000 + self.strangers.len();
        let (mut user, mut database, mut password) =
            (self.random.pick(&["alice", "bob"]), "base", PASSWORD);
        let mut ssl = self.ssl();
        let failed = |user: &str| self.shape.shown.failed(user);
        let proves = self.shape.shown.asks();
        let told = match self.random.below(5) {
            0 if proves => {
                password = WRONG;
                failed(user)
            }
            1 if proves => {
                (password, database) = (WRONG, "nowhere");
                failed(user)
            }
            2 => {
                user = "mallory";
                failed(user)
            }
            3 if self.shape.client_tls == Some("require") => {
                ssl = Ssl::Unwanted;
                format!(
                    "28000 no pg_hba.conf entry for host \"simulated\", user \"{user}\", database \"base\", no encryption"
                )
            }
            // Nobody is known there, so nobody is told more than that.
            _ if self.shape.looked_up.is_some() => {
                database = "nowhere";
                failed(user)
            }
            _ => {
                database = "nowhere";
                "3D000 database \"nowhere\" does not exist".to_owned()
            }
        };
        let login = Login {
            user: user.to_owned(),
            database: database.to_owned(),
            password: password.to_owned(),
            parameters: Vec::new(),
            shares: false,
            notified: false,
            ssl,
            sides: self.client_sides(),
        };
        let connection = self.connect();
        let client = Client::new(id, connection, &login, VecDeque::new(), &mut self.random);
        self.strangers.push((client, told));
    }

    fn run_stranger(&mut self, at: usize) {
        let (client, told) = &mut self.strangers[at];
        client.run(self.now, &mut self.random);
        let Some(end) = client.end() else {
            return;
        };
        let told = End::Told(told.clone());
        // An hour that passes at once is more than a login may take, and than a last word waits for its reader.
        let too_late = *end == End::Lost || *end == End::Told(TOO_LATE.to_owned());
        let unknown = matches!(end, End::Told(text) if text.contains("cannot be authenticated"));
        let excused = self.excused
            && (too_late
                || *end == End::Told(KILLED.to_owned())
                || unknown && self.shape.looked_up.is_some());
        // DISABLE or DROP DATABASE, at some time, of what it asked for or of where its secret is.
        let disabled = self.has_disabled
            && matches!(end, End::Told(text) if text.ends_with("\" is disabled") || text.contains("was removed from"));
        assert!(
            *end == told || excused || disabled,
            "stranger {at}: {end:?} and not {told:?}; faults {}",
            self.faults
        );
        self.strangers.remove(at);
    }

    fn run_person(&mut self, at: usize) {
        let person = &mut self.people[at];
        let cancel = person.client.run(self.now, &mut self.random);
        if let Some((pid, key)) = cancel {
            self.send_cancel(pid, &key, Some(at));
        }
        self.look_at(at);
    }

    fn send_cancel(&mut self, pid: u32, key: &[u8], person: Option<usize>) {
        let connection = self.connect();
        let mut output = Vec::new();
        frontend::cancel_request(&mut output, pid, key);
        self.cancellers.push(Canceller {
            connection,
            output,
            person,
        });
    }

    /// What the engine knows a person's client by, once it was accepted.
    fn key_of(&self, at: usize) -> Option<ClientKey> {
        let own = &self.people[at].client.connection;
        let mut connections = self.kernel.connections.iter();
        let found = connections.find(|(_, connection)| Rc::ptr_eq(connection, own));
        found.and_then(|(who, _)| match who {
            Who::Client(key) => Some(*key),
            Who::Server(_) => None,
        })
    }

    /// The number that operators know it by.
    fn id_of(&self, at: usize) -> Option<u64> {
        let key = self.key_of(at)?;
        Some(self.engine.clients().get(key)?.id)
    }

    /// Whether a cancel is under way for what a person asks. What operators have ordered was carried out in the turn that has just
    /// ended.
    fn is_being_cancelled(&self, at: usize) -> bool {
        let key = self.key_of(at);
        let ordered = self.id_of(at).map(|id| format!("CANCEL_CLIENT {id}"));
        let mut servers = self.engine.servers().iter();
        self.cancellers.iter().any(|one| one.person == Some(at))
            || ordered.is_some_and(|text| self.operators.iter().any(|of| of.has_given(&text)))
            || servers.any(|(_, server)| {
                matches!(server.state(), ServerState::Cancelling(cancel)
                    if cancel.owner.is_some() && cancel.owner == key)
            })
    }

    /// Those whose cancels are over are told.
    fn end_cancels(&mut self) {
        for at in 0..self.people.len() {
            if self.people[at].client.is_being_cancelled() && !self.is_being_cancelled(at) {
                self.people[at].client.cancels_end();
            }
        }
    }

    /// Is a session over, and how?
    fn look_at(&mut self, at: usize) {
        let person = &self.people[at];
        let Some(end) = person.client.end().cloned() else {
            return;
        };
        if person.sessions_left == 0 {
            return;
        }
        let person = &mut self.people[at];
        self.committed.append(&mut person.client.committed);
        self.rolled_back.append(&mut person.client.rolled_back);
        let tally = person.client.tally;
        self.gone.queries += tally.queries;
        self.gone.transactions += tally.transactions;
        self.gone.sent += tally.sent;
        self.gone.received += tally.received;
        self.gone.sessions += tally.sessions;
        self.gone.cancelled += tally.cancelled;
        self.gone.digest =
            (self.gone.digest.rotate_left(5) ^ tally.digest).wrapping_mul(0x0100_0000_01b3);
        // Told what a server of its own would have said.
        let refused = person.client.refusal_due().as_ref() == Some(&end);
        self.gone.sessions += u64::from(refused);
        let well = end == End::Left || refused;
        let fails_fast = self.shape.sizes.is_some_and(|sizes| sizes.server_fast_fail);
        assert!(
            fails_fast || !matches!(&end, End::Told(text) if text.contains("server_login_retry")),
            "client {at} was told of a failure though it may wait: {end:?}"
        );
        let killed =
            person.client.condemned && [End::Told(KILLED.to_owned()), End::Lost].contains(&end);
        assert!(
            well || killed || self.excused,
            "client {at} has lost its session without a fault: {end:?}; {}",
            self.describe()
        );
        if let End::Deceived(what) = &end {
            assert!(self.shape.lies, "client {at} was deceived: {what}");
            let own = format!("c{at}.");
            let foreign = (0..self.people.len())
                .map(|id| format!("c{id}."))
                .find(|tag| *tag != own && what.contains(tag));
            assert_eq!(
                foreign, None,
                "client {at} got what belongs to somebody else: {what}"
            );
        }
        let person = &mut self.people[at];
        person.sessions_left -= usize::from(well);
        person.sessions += 1;
        if person.sessions_left > 0 {
            let (session, set) = (person.sessions, person.set);
            let client = self.client(at, session, set);
            self.people[at].client = client;
        }
    }

    fn run_canceller(&mut self, at: usize) {
        let canceller = &mut self.cancellers[at];
        let mut connection = canceller.connection.borrow_mut();
        let _ = connection.far_read();
        let count = connection.far_write(&canceller.output);
        canceller.output.drain(..count);
        if connection.far_ended() {
            connection.far_close();
            drop(connection);
            self.cancellers.remove(at);
        }
    }

    /// An operator looks at everything there is to see.
    fn run_console(&mut self) {
        let Some((connection, output)) = &mut self.console else {
            return;
        };
        let mut far = connection.borrow_mut();
        let _ = far.far_read();
        let count = far.far_write(output);
        output.drain(..count);
        if far.far_ended() {
            far.far_close();
            drop(far);
            self.console = None;
        }
    }

    /// Another operator comes, by the Unix socket.
    fn send_operator(&mut self) {
        self.operators_left -= 1;
        let connection = self.connect();
        connection.borrow_mut().peer_is_owner = true;
        let faults = self.shape.faults;
        let power = Power {
            harsh: faults,
            adds: self.postgres.most == usize::MAX,
            timely: !faults,
        };
        let operator = Operator::new(connection, power, self.now, &mut self.whim);
        self.operators.push(operator);
    }

    fn run_operator(&mut self, at: usize) {
        // Who waits for an answer is meant more often.
        let everybody = 0..self.people.len();
        let busy = |at: &usize| !self.people[*at].client.is_settled();
        let waiting: Vec<usize> = everybody.clone().filter(busy).collect();
        let people = waiting.iter().chain(&waiting).copied().chain(everybody);
        let people: Vec<u64> = people.filter_map(|at| self.id_of(at)).collect();
        let operator = &mut self.operators[at];
        let wishes = operator.run(self.now, &people, &mut self.whim);
        if operator.is_gone() {
            self.commands += operator.answered;
            self.operators.swap_remove(at);
        }
        for wish in wishes {
            let text = match wish {
                Wish::Cancel(pid, key) => {
                    self.send_cancel(pid, &key, None);
                    continue;
                }
                Wish::Began(text) => text,
            };
            crate::trace(|| format!("{} an operator says {text}", self.now));
            let verb = text.split(' ').next().unwrap_or_default();
            let person = (0..self.people.len())
                .filter(|_| verb.ends_with("_CLIENT"))
                .find(|&at| {
                    self.id_of(at)
                        .is_some_and(|id| text.ends_with(&format!(" {id}")))
                });
            match (verb, person) {
                ("CANCEL_CLIENT", Some(at)) => self.people[at].client.cancel_begins(false),
                ("KILL_CLIENT", Some(at)) => {
                    self.people[at].client.condemned = true;
                    self.condemned += 1;
                }
                // A stranger, or another operator, or nobody.
                ("KILL_CLIENT", None) => self.excused |= self.shape.faults,
                _ => {}
            }
            if ["KILL", "DISABLE", "DROP"].contains(&verb) {
                self.excused = true;
            }
            self.has_disabled |= ["DISABLE", "DROP"].contains(&verb);
        }
    }

    /// What operators hold up goes on some time, whatever they forget.
    fn watch_operators(&mut self) {
        let held = self.engine.is_suspended()
            || [
                Held::All,
                Held::Database("base"),
                Held::Database("other"),
                Held::Database("third"),
            ]
            .into_iter()
            .any(|held| self.engine.is_paused(held))
            || ["base", "other"]
                .iter()
                .any(|name| self.engine.is_disabled(name))
            || self
                .changes
                .iter()
                .any(|change| matches!(change, Change::Drop(_)));
        if held && self.held_until.is_none() {
            let time = self.whim.pick(&[5_000, 300_000, 4_000_000]);
            self.held_until = Some(self.now + time);
        }
    }

    fn open_console(&mut self) {
        let by_itself = self.shape.shown == Shown::Password(AuthMethod::Trust)
            && self.shape.looked_up.is_none()
            && self.shape.client_tls != Some("require");
        if self.console.is_some() || !by_itself {
            return;
        }
        let connection = self.connect();
        let mut output = Vec::new();
        frontend::startup(
            &mut output,
            [(&b"user"[..], &b"alice"[..]), (b"database", b"aether")],
        );
        for what in [
            "SHOW POOLS",
            "SHOW SERVERS",
            "SHOW CLIENTS",
            "SHOW STATS",
            "SHOW USERS",
            "SHOW DATABASES",
            "SHOW nonsense",
            "",
        ] {
            frontend::query(&mut output, what.as_bytes());
        }
        frontend::terminate(&mut output);
        self.console = Some((connection, output));
    }

    // ---- one step ----

    fn step(&mut self) {
        self.steps += 1;
        assert!(
            self.steps < STEPS_MAX,
            "no end in sight: {}",
            self.describe()
        );
        self.now += self.random.between(0, 40);
        if self.trouble != Trouble::None && self.now >= self.trouble_until {
            self.heal();
        }
        if self.held_until.is_some_and(|until| self.now >= until) {
            self.let_go();
        }
        if self.random.chance(1) {
            self.disturb();
        }
        if self.operators_left > 0 && self.operators.len() < OPERATORS_MAX && self.whim.chance(1) {
            self.send_operator();
        }
        // There is another host in the list, so nobody is to notice.
        let is_listed = self.shape.sizes.is_some_and(|sizes| sizes.hosts.is_some());
        if is_listed && self.sizing.chance(1) {
            self.is_down = !self.is_down;
        }
        let mut actions = self.actions();
        if actions.is_empty() {
            return self.wait();
        }
        let chosen = self.random.below(actions.len());
        match actions.swap_remove(chosen) {
            Action::Turn => self.turn(),
            Action::Carry(at) => self.kernel.connections[at].1.borrow_mut().carry(),
            Action::Person(at) => self.run_person(at),
            Action::Canceller(at) => self.run_canceller(at),
            Action::Console => self.run_console(),
            Action::Operator(at) => self.run_operator(at),
            Action::Stranger(at) => self.run_stranger(at),
            Action::Backend(at) => self.postgres.run(at, self.now, &mut self.random),
            Action::Dial(at) => self.finish_dial(at),
            Action::Peer(at) => self.run_peer(at),
            Action::Resolve(at) => self.finish_resolve(at),
            Action::Derive(at) => {
                let (job, who) = self.kernel.deriving.swap_remove(at);
                self.events.push(Event::Derived {
                    who,
                    salted: job.run(),
                });
            }
            Action::Name(at) => {
                let key = self.kernel.naming.swap_remove(at);
                let name = Ok(sealed::CERTIFIED.to_owned());
                self.events.push(Event::UserNamed { key, name });
            }
        }
    }

    fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let edges = self
            .kernel
            .connections
            .iter()
            .any(|(_, connection)| connection.borrow().has_edge());
        let due = self.wake.is_some_and(|wake| wake <= self.now);
        if edges || due || self.incoming || !self.events.is_empty() {
            actions.extend([Action::Turn, Action::Turn]);
        }
        for (at, (_, connection)) in self.kernel.connections.iter().enumerate() {
            if connection.borrow().is_under_way() {
                actions.push(Action::Carry(at));
            }
        }
        let people = self.people.iter().enumerate();
        actions.extend(
            people
                .filter(|(_, p)| p.client.can_run(self.now))
                .map(|(at, _)| Action::Person(at)),
        );
        let active = |connection: &Shared, output: &[u8]| {
            let far = connection.borrow();
            far.far_has_input() || !output.is_empty() && far.far_has_room()
        };
        let cancellers = self.cancellers.iter().enumerate();
        actions.extend(
            cancellers
                .filter(|(_, c)| active(&c.connection, &c.output))
                .map(|(at, _)| Action::Canceller(at)),
        );
        if self
            .console
            .as_ref()
            .is_some_and(|(connection, output)| active(connection, output))
        {
            actions.push(Action::Console);
        }
        let operators = self.operators.iter().enumerate();
        actions.extend(
            operators
                .filter(|(_, operator)| operator.can_run(self.now))
                .map(|(at, _)| Action::Operator(at)),
        );
        let strangers = self.strangers.iter().enumerate();
        actions.extend(
            strangers
                .filter(|(_, (client, _))| client.can_run(self.now))
                .map(|(at, _)| Action::Stranger(at)),
        );
        let backends = 0..self.postgres.backends.len();
        actions.extend(
            backends
                .filter(|&at| self.postgres.can_run(at, self.now))
                .map(Action::Backend),
        );
        if self.trouble != Trouble::Silent {
            actions.extend((0..self.kernel.dialed.len()).map(Action::Dial));
        }
        let peers = self.peers.iter().enumerate();
        actions.extend(
            peers
                .filter(|(_, (connection, _))| connection.borrow().far_has_input())
                .map(|(at, _)| Action::Peer(at)),
        );
        actions.extend((0..self.kernel.resolving.len()).map(Action::Resolve));
        actions.extend((0..self.kernel.deriving.len()).map(Action::Derive));
        actions.extend((0..self.kernel.naming.len()).map(Action::Name));
        actions
    }

    /// Nothing can happen now: time passes until something can.
    fn wait(&mut self) {
        let trouble = (self.trouble != Trouble::None).then_some(self.trouble_until);
        let people = self
            .people
            .iter()
            .filter_map(|person| person.client.next_wake());
        let others = [
            self.wake,
            self.postgres.next_wake(self.now),
            trouble,
            self.held_until,
        ]
        .into_iter()
        .flatten();
        let operators = self.operators.iter().filter_map(Operator::next_wake);
        let next = people
            .chain(operators)
            .chain(others)
            .filter(|&at| at > self.now)
            .min();
        match next {
            Some(at) => self.now = at,
            None => panic!("nothing can happen any more: {}", self.describe()),
        }
    }

    fn turn(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        let mut late = Vec::new();
        for (who, connection) in &self.kernel.connections {
            let mut connection = connection.borrow_mut();
            if connection.has_edge() && self.random.chance(90) {
                events.push(Event::Ready(*who, connection.take_edge()));
            }
        }
        if std::mem::take(&mut self.incoming) {
            events.push(Event::Incoming(ListenerId(0)));
        }
        if let Some(&who) = self.stale.last()
            && self.random.chance(5)
        {
            let everything = Ready {
                read: true,
                write: true,
                hung_up: true,
            };
            let gone = !self
                .kernel
                .connections
                .iter()
                .any(|(known, _)| *known == who);
            late.extend(gone.then_some(Event::Ready(who, everything)));
        }
        events.append(&mut late);
        let reload = |event: &Event| match event {
            Event::Reload(config) => Some(config.clone()),
            _ => None,
        };
        let mut reloads: VecDeque<Rc<Config>> = events.iter().filter_map(reload).collect();
        for at in (1..events.len()).rev() {
            events.swap(at, self.random.below(at + 1));
        }
        // One configuration replaces another in the order in which they were made.
        for event in &mut events {
            if let Event::Reload(config) = event {
                *config = reloads.pop_front().expect("as many as there were");
            }
        }
        let before = self.held_pairs();
        let turn = self
            .engine
            .turn(Tick(self.now), &mut events, &mut self.kernel);
        self.engine.check();
        self.watch.look(&self.engine, Tick(self.now));
        self.end_cancels();
        for pair in self.held_pairs() {
            assert!(before.contains(&pair), "{pair:?}: out of a paused pool");
        }
        self.wake = turn.wake.map(|wake| wake.0);
        let mut steward = Written(&self.yaml, &mut self.changes);
        let answered = self.admin.serve(
            &mut self.engine,
            &turn.requests,
            &mut steward,
            &mut self.kernel,
        );
        if !turn.requests.is_empty() {
            let took = Duration::from_micros(self.random.below(2_000) as u64);
            self.admin.served(took, Tick(self.now));
        }
        self.events.extend(answered);
        let wakes = self.wake.into_iter();
        self.wake = wakes.chain(self.admin.wake().map(|wake| wake.0)).min();
        self.stopped |= turn.stopped;
        self.watch_operators();
        self.kernel.connections.retain(|(who, connection)| {
            let connection = connection.borrow();
            let gone = connection.is_gone() && !connection.is_under_way();
            if gone {
                self.stale.push(*who);
            }
            !gone
        });
    }

    fn finish_dial(&mut self, at: usize) {
        let (address, connection) = self.kernel.dialed.swap_remove(at);
        if connection.borrow().is_gone() {
            return; // it was given up
        }
        let at = address.to_string();
        let is_down = at.starts_with("10.0.0.9") || self.is_down && at.starts_with(UNSTEADY);
        let well = self.trouble != Trouble::Refused && !is_down;
        connection.borrow_mut().connected(well);
        if well && address.to_string().starts_with("10.0.1.") {
            // A peer: it reads the request, and closes.
            self.peers.push((connection, Vec::new()));
        } else if well {
            self.postgres.connect(connection, &mut self.random);
        }
    }

    /// A peer reads a request that was passed on, and closes.
    fn run_peer(&mut self, at: usize) {
        let (connection, request) = &mut self.peers[at];
        let mut far = connection.borrow_mut();
        request.extend(far.far_read());
        let over = far.far_ended();
        assert!(request.len() <= 16, "a cancel request has 16 bytes");
        if request.len() == 16 || over {
            assert!(self.shape.peer_id > 0, "somebody without peers has one");
            far.far_close();
            drop(far);
            self.peers.swap_remove(at);
        }
    }

    fn finish_resolve(&mut self, at: usize) {
        let name = self.kernel.resolving.swap_remove(at);
        let address = |text: &&str| std::net::SocketAddr::new(text.parse().expect("an address"), 0);
        let failure = |passing| Unresolved {
            text: format!("could not translate host name \"{name}\""),
            passing,
        };
        let known = name == "database.example";
        let result = match self.addresses {
            _ if known && self.trouble == Trouble::Nameless => Err(failure(true)),
            addresses if known => Ok(addresses.iter().map(address).collect()),
            _ => Err(failure(false)),
        };
        self.events.push(Event::Resolved { name, result });
    }

    /// The name stands for other places from now on.
    fn move_name(&mut self) {
        self.addresses = self.random.pick(&[
            &["10.0.0.1"],
            &["10.0.0.2"],
            &["10.0.0.9", "10.0.0.2"],
            &["10.0.0.3", "10.0.0.1", "10.0.0.2"],
        ]);
        self.moved = true;
    }

    // ---- what disturbs ----

    /// Something that happens in every world, or a fault.
    fn disturb(&mut self) {
        if self.faults_left > 0 && self.random.chance(40) {
            return self.fault();
        }
        if self.disturbances_left == 0 {
            return;
        }
        self.disturbances_left -= 1;
        match self.random.below(13) {
            9..12 => self.hold(),
            12 => self.move_name(),
            0 => self.now += self.random.pick(&[3_000, 200_000]),
            1 => self.reload(),
            2 => self.open_console(),
            3 => self.guess_a_key(),
            4 => {
                let at = self.random.below(self.kernel.connections.len());
                if let Some((_, connection)) = self.kernel.connections.get(at) {
                    connection.borrow_mut().spurious();
                }
            }
            5 => self.send_nonsense(),
            6 | 7 => self.send_stranger(),
            _ => self.kernel.exhausted = self.random.below(3) as u32,
        }
    }

    fn reload(&mut self) {
        let limit = self.random.pick(&[1, 2, 3, 5]);
        let idle = self.random.below(limit + 1);
        let (of_role, per_user) = (self.random.below(4), self.random.below(4));
        let modes = self.shape.mode_changes;
        let mode = self.random.pick(&MODES);
        let yaml: Vec<String> = self
            .yaml
            .lines()
            .map(|line| match line.trim_start().split(':').next() {
                Some("max_connections") if line.starts_with("    ") => {
                    format!("    max_connections: {of_role}")
                }
                Some("max_connections") => format!("  max_connections: {limit}"),
                Some("max_connections_per_user") => {
                    format!("  max_connections_per_user: {per_user}")
                }
                Some("mode") if modes && line.starts_with("    ") => format!("    mode: {mode}"),
                Some("min_idle_connections") => format!("  min_idle_connections: {idle}"),
                _ => line.to_owned(),
            })
            .collect();
        self.yaml = yaml.join("\n");
        self.reloaded = true;
        self.changes.clear();
        self.events.push(Event::Reload(configuration(&self.yaml)));
    }

    fn guess_a_key(&mut self) {
        let mut key = [0; 4];
        self.random.fill(&mut key);
        if self.random.chance(50) {
            // It is passed on to a peer, if there are any.
            let pid = self.random.pick(&[0x0001_0007, 0x0002_0007, 0x0002_0107]);
            return self.send_cancel(pid, &key, None);
        }
        let pid = self
            .postgres
            .backends
            .first()
            .map_or(1, |backend| backend.pid);
        self.send_cancel(pid, &key, None);
    }

    /// A stranger talks nonsense.
    fn send_nonsense(&mut self) {
        let connection = self.connect();
        let mut output = Vec::new();
        let code: u32 = self
            .random
            .pick(&[80_877_103, 80_877_104, 196_608, 131_072, 0x4745_5420]);
        packet(&mut output, |b| {
            b.extend_from_slice(&code.to_be_bytes());
            let mut bytes = vec![0; self.random.below(20)];
            self.random.fill(&mut bytes);
            b.extend_from_slice(&bytes);
        });
        if self.random.chance(50) {
            connection.borrow_mut().far_write(&output);
            connection.borrow_mut().far_shutdown();
            output.clear();
        }
        self.cancellers.push(Canceller {
            connection,
            output,
            person: None,
        });
    }

    fn fault(&mut self) {
        self.faults_left -= 1;
        self.faults += 1;
        self.excused = true;
        let backend = self.random.below(self.postgres.backends.len());
        let trouble_us = self.random.pick(&[50_000, 1_000_000, 25_000_000]);
        match self.random.below(14) {
            12 | 13 => self.send_away(),
            0 | 1 => {
                if let Some(backend) = self.postgres.backends.get_mut(backend) {
                    backend.terminate();
                }
            }
            2 | 3 => {
                if let Some(backend) = self.postgres.backends.get_mut(backend) {
                    backend.crash();
                }
            }
            4 | 5 => {
                let at = self.random.below(self.people.len());
                let reset = self.random.chance(50);
                if self.people[at].client.end().is_none() {
                    self.people[at].client.vanish(reset);
                    self.look_at(at);
                }
            }
            6 => {
                // A restart: everybody is thrown out, and nobody let in for a while.
                self.trouble = self.random.pick(&[
                    Trouble::Refused,
                    Trouble::Silent,
                    Trouble::Starting,
                    Trouble::Nameless,
                    Trouble::Rotated,
                ]);
                self.trouble_until = self.now + trouble_us;
                if self.trouble == Trouble::Starting {
                    let text = "the database system is starting up";
                    self.postgres.refuses = Some(Refusal::fatal(b"57P03", text, Blame::Server));
                }
                if self.trouble == Trouble::Rotated {
                    self.postgres.password = ROTATED;
                    // Whoever is told so comes again at once.
                    self.trouble_until = self.now + 50_000;
                }
                let kill = self.random.chance(50);
                self.postgres
                    .backends
                    .iter_mut()
                    .for_each(|b| if kill { b.terminate() } else { b.crash() });
            }
            7 => {
                if let Some(backend) = self
                    .postgres
                    .backends
                    .get_mut(backend)
                    .filter(|backend| backend.is_at_rest())
                {
                    backend.frozen_until = self.now + trouble_us;
                    backend.faulty = true;
                }
            }
            8 => {
                if let Some(backend) = self.postgres.backends.get_mut(backend) {
                    backend.make_stubborn();
                }
            }
            9 if self.shape.lies => {
                let lies = [
                    Lie::ExtraReady,
                    Lie::RowWithoutQuery,
                    Lie::UnknownStatus,
                    Lie::BadLength,
                    Lie::HalfMessage,
                ];
                let lie = self.random.pick(&lies);
                if let Some(backend) = self.postgres.backends.get_mut(backend) {
                    backend.lies = Some(lie);
                }
            }
            10 => self.now += 3_600_000_000,
            _ => {
                // A dial that never comes to an end.
                let at = self.random.below(self.kernel.dialed.len());
                if at < self.kernel.dialed.len() {
                    self.kernel.dialed.swap_remove(at);
                }
            }
        }
    }

    /// An operator holds something up, for a while, in a way that nobody must notice but by waiting.
    fn hold(&mut self) {
        let held = self
            .random
            .pick(&[Held::All, Held::Database("base"), Held::Database("other")]);
        match self.random.below(5) {
            4 => drop(self.engine.suspend()),
            0 => self.engine.reconnect(held),
            1 => drop(self.engine.resume(held)),
            _ => drop(self.engine.pause(held)),
        }
        self.reloaded = true; // servers come and go
        self.go_on_later();
    }

    /// The same, but with less regard for those who are there.
    fn send_away(&mut self) {
        let database = self.random.pick(&["base", "other"]);
        match self.random.below(3) {
            0 => self.engine.kill(Held::Database(database)),
            1 => {
                self.engine.disable(database);
                self.has_disabled = true;
            }
            _ => {
                let clients = self.engine.clients().iter();
                let ids: Vec<u64> = clients.map(|(_, client)| client.id).collect();
                if !ids.is_empty() {
                    let id = self.random.pick(&ids);
                    assert!(self.engine.kill_client(id));
                }
            }
        }
        self.go_on_later();
    }

    fn go_on_later(&mut self) {
        let time = self.random.pick(&[5_000, 300_000, 4_000_000]);
        self.held_until = Some(self.now + time);
        self.wake = Some(self.now);
    }

    fn let_go(&mut self) {
        let databases = ["base", "other", "third"].map(Held::Database);
        for held in [Held::All].into_iter().chain(databases) {
            // A pause holds up no cancel request that goes on to a peer.
            let is_left = |server: &aether::engine::Server| {
                !matches!(server.state(), ServerState::Forwarding(_))
            };
            let servers = self.engine.servers().iter();
            let left = servers.filter(|(_, server)| is_left(server)).count();
            let done = self.engine.pause_progress(held) == Progress::Done;
            assert!(
                !done || held != Held::All || left == 0,
                "{left} servers are there"
            );
            self.engine.resume(held);
        }
        self.engine.enable("base");
        self.engine.enable("other");
        if !self.changes.is_empty() {
            self.changes.clear();
            self.events.push(Event::Reload(configuration(&self.yaml)));
        }
        self.held_until = None;
        self.wake = Some(self.now);
    }

    /// Who has which server of a paused pool.
    fn held_pairs(&self) -> BTreeSet<(ClientKey, ServerKey)> {
        let is_held = |server: &aether::engine::Server| {
            let pool = self.engine.pools().get(server.pool);
            pool.is_some_and(|pool| pool.held)
        };
        let servers = self.engine.servers().iter();
        let held = servers.filter(|(_, server)| is_held(server));
        held.filter_map(|(key, server)| Some((server.state().client()?, key)))
            .collect()
    }

    fn heal(&mut self) {
        self.trouble = Trouble::None;
        self.postgres.refuses = None;
        self.postgres.password = PASSWORD;
    }

    // ---- the end ----

    fn come_to_rest(&mut self) {
        let limit = self.now + REST_US;
        while !self.is_at_rest() {
            assert!(
                self.now < limit,
                "the pooler does not come to rest: {}",
                self.describe()
            );
            self.step();
        }
    }

    /// Nobody is there any more, and `min_pool_size` holds all the same where the pool has a role of its own.
    fn keep_servers(&mut self) {
        // Who looks users up counts among the servers, and so does a server that is full of others.
        if self.shape.looked_up.is_some() || self.postgres.most != usize::MAX {
            return;
        }
        let limit = self.now + REST_US;
        while !sizes::are_kept(&self.engine) || !self.is_at_rest() {
            let text = "servers that are to be kept are not made";
            assert!(self.now < limit, "{text}: {}", self.describe());
            self.step();
        }
    }

    fn is_at_rest(&self) -> bool {
        let clients = self.engine.client_count() == 0
            && self.cancellers.is_empty()
            && self.peers.is_empty()
            && self.strangers.is_empty()
            && self.console.is_none()
            && self.operators.is_empty();
        let servers = self.engine.servers().iter().all(|(_, server)| {
            // The late end of a refused copy may still have to be written.
            let written = server.link().is_none_or(|link| link.held() == (0, 0));
            matches!(server.state(), ServerState::Idle) && written
        });
        let quiet = self.kernel.connections.iter().all(|(_, connection)| {
            let connection = connection.borrow();
            !connection.is_under_way() && !connection.has_edge()
        });
        clients
            && servers
            && quiet
            && self.postgres.backends.iter().all(Backend::has_said_all)
            && self.kernel.backlog.is_empty()
            && self.events.is_empty()
            && !self.incoming
            && self.wake.is_none_or(|wake| wake > self.now)
    }

    fn check_end(&mut self) {
        self.engine.check();
        for (key, server) in self.engine.servers().iter() {
            let held = server.link().map(|link| link.held());
            assert_eq!(held, Some((0, 0)), "server {key:?} is idle and holds bytes");
        }
        let mut all = Counters::default();
        for (_, pool) in self.engine.pools().iter() {
            assert_eq!((pool.waiting(), pool.clients()), (0, 0));
            let counters = &pool.stats.total;
            all.queries += counters.queries;
            all.transactions += counters.transactions;
            all.received += counters.received;
            all.sent += counters.sent;
            all.logins += counters.logins;
            let times = &pool.stats.times;
            // What no server was needed for took none its time.
            assert!(times.query.count() <= counters.queries, "times of queries");
            let transactions = times.transaction.count();
            assert!(transactions <= counters.transactions, "and transactions");
            assert!(times.wait.count() >= counters.assignments, "and of waits");
            if self.shape.keeps_servers() && !self.reloaded && !self.moved {
                assert!(
                    counters.connects <= pool.config.max_connections as u64,
                    "{} connections",
                    counters.connects
                );
            }
        }
        let calls: u64 = self.engine.queries().iter().map(|of| of.calls).sum();
        // What was counted of a database that a reload or an operator has dropped has gone with it.
        assert!(self.reloaded || calls <= all.queries, "{calls} calls");
        let hurried = self.shape.hurry != ["0"; 5];
        if self.shape.tidy && self.faults == 0 && self.condemned == 0 && !hurried {
            assert_eq!(all.queries, self.gone.queries, "queries");
            assert_eq!(all.transactions, self.gone.transactions, "transactions");
            assert_eq!(all.received, self.gone.sent, "bytes from clients");
            assert_eq!(all.sent, self.gone.received, "bytes to clients");
            assert_eq!(all.logins, self.gone.sessions, "logins");
        }
        let rows = &self.postgres.rows;
        for row in &self.committed {
            assert!(
                rows.contains(row),
                "{row} was reported as committed, and is not there"
            );
        }
        for row in self.rolled_back.iter().filter(|row| !row.starts_with('x')) {
            assert!(
                !rows.contains(row),
                "{row} was reported as rolled back, and is there"
            );
        }
    }

    fn stop(&mut self) {
        let how = self.random.pick(&[
            Shutdown::WaitForClients,
            Shutdown::WaitForServers,
            Shutdown::Immediate,
        ]);
        self.events.push(Event::Shutdown(how));
        self.turn();
        assert!(
            self.stopped,
            "nobody is there, and the pooler does not stop"
        );
    }

    fn describe(&self) -> String {
        let mut text = format!(
            "{:?}, at {} us, wake {:?}, {:?} until {}\n",
            self.shape, self.now, self.wake, self.trouble, self.trouble_until
        );
        for person in self.people.iter().filter(|person| person.sessions_left > 0) {
            text += &format!("  {}\n", person.client.describe());
        }
        for operator in &self.operators {
            text += &format!("  operator: {}\n", operator.describe());
        }
        for (key, client) in self.engine.clients().iter() {
            let logged_in = !matches!(client.state(), ClientState::Greeting { .. });
            text += &format!(
                "  client {key:?}: {} {logged_in} since {:?} holds {:?} readable {} writable {}\n",
                client.state().name(),
                client.since(),
                client.link().held(),
                client.link().is_readable(),
                client.link().is_writable()
            );
        }
        for (key, server) in self.engine.servers().iter() {
            let link = server
                .link()
                .map(|link| (link.held(), link.is_readable(), link.is_writable()));
            text += &format!(
                "  server {key:?}: {} since {:?} {link:?} {:?}\n",
                server.state().name(),
                server.since(),
                server.relay
            );
        }
        text
    }
}
