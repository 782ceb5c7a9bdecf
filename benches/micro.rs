//! The pieces of the hot path and of a login by themselves: `cargo bench`. What matters is the same run before and after a
//! change on the same machine; what a transaction costs in all is `make bench`'s to say.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use aether::arena::{ClientKey, PoolKey, ServerKey, Tick};
use aether::auth::{Channel, Credentials, Demand, KeyRing, Progress, Prove, Terms, Verify};
use aether::config::{AuthMethod, Config, Demands, Outside, Secret, Stored, schema};
use aether::engine::Wheel;
use aether::limits;
use aether::pool::{Checkout, Kind, Pool, Pools, Wants};
use aether::relay::prepared::{ClientStatements, Library, ServerStatements, With};
use aether::relay::{Relay, Vars};
use aether::wire::{backend, frame, frontend};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

// ---- frames ----

/// Headers of a server's rows, a read full of them: 18 bytes each as of `generate_series`, or 1,000.
#[divan::bench(args = [18, 1_000])]
fn frames_down(bencher: Bencher, width: usize) {
    let value = "x".repeat(width - 11);
    let mut rows = Vec::new();
    while rows.len() + width < limits::READ_MAX {
        backend::write_data_row(&mut rows, [Some(&value[..])].into_iter());
    }
    let mut query = Vec::new();
    frontend::query(&mut query, b"select 1");
    let mut relay = Relay::default();
    relay.up(&query);
    let mut vars = Rc::new(Vars::default());
    bencher
        .counter(BytesCount::new(rows.len()))
        .bench_local(|| relay.down(black_box(&rows), &mut vars));
}

/// A query up, its answer down.
#[divan::bench]
fn simple_transaction(bencher: Bencher) {
    let (mut query, mut answer) = (Vec::new(), Vec::new());
    frontend::query(
        &mut query,
        b"SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
    );
    backend::write_data_row(&mut answer, [Some("0")].into_iter());
    backend::write_command_complete(&mut answer, "SELECT 1");
    backend::write_ready(&mut answer);
    let mut vars = Rc::new(Vars::default());
    bencher.bench_local(|| {
        let mut relay = Relay::default();
        relay.up(black_box(&query));
        relay.down(black_box(&answer), &mut vars)
    });
}

// ---- prepared statements ----

/// Bind, Describe, Execute, Sync of a statement that the server holds under another name, and the answers.
#[divan::bench]
fn prepared_transaction(bencher: Bencher) {
    let (mut client, mut server, mut library) = (
        ClientStatements::default(),
        ServerStatements::default(),
        Library::default(),
    );
    let mut vars = Vars::default();
    vars.report(b"client_encoding\0UTF8\0");
    let vars = Rc::new(vars);
    let message = |kind, body: &[u8]| {
        let mut bytes = Vec::new();
        frame::message(&mut bytes, kind, |out| out.extend_from_slice(body));
        bytes
    };
    let parse = message(
        b'P',
        b"P0_1\0SELECT abalance FROM pgbench_accounts WHERE aid = $1\0\0\0",
    );
    let sync = message(b'S', b"");
    let batch = [
        message(b'B', b"\0P0_1\0\0\0\0\x01\0\0\0\x044711\0\0"),
        message(b'D', b"P\0"),
        message(b'E', b"\0\0\0\0\0"),
        sync.clone(),
    ]
    .concat();
    let mut row = Vec::new();
    backend::write_data_row(&mut row, [Some("0")].into_iter());
    backend::write_command_complete(&mut row, "SELECT 1");
    backend::write_ready(&mut row);
    // A Parse has a Describe of ours behind it.
    let mut prepared = [
        message(b'1', b""),
        message(b't', b"\0\x01\0\0\0\x17"),
        message(b'n', b""),
    ]
    .concat();
    backend::write_ready(&mut prepared);
    let answer = [message(b'2', b""), message(b'n', b""), row].concat();
    let mut pass = |up: &[u8], down: &[u8]| {
        let (mut out, mut relay) = (Vec::new(), Relay::default());
        let mut with = With {
            client: &mut client,
            server: &mut server,
            vars: Some(&vars),
            library: &mut library,
            max: 200,
        };
        relay.up_rewriting(black_box(up), &mut with, &mut out);
        with.vars = None;
        out.clear();
        relay.down_rewriting(black_box(down), &mut vars.clone(), &mut with, &mut out);
        assert!(relay.is_quiet(), "the answers are not all there");
    };
    pass(&[parse, sync].concat(), &prepared);
    bencher.bench_local(|| pass(&batch, &answer));
}

// ---- who gets which server ----

struct Nothing;

impl Outside for Nothing {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
    fn file(&self, _: &Path) -> Result<Vec<u8>, String> {
        Err("no files here".to_owned())
    }
}

fn config(yaml: &str) -> Config {
    schema::read(yaml, Path::new("aether.yaml"), &Nothing).expect("a configuration")
}

/// One pool of 20 servers, all of them idle.
fn pool_of_20() -> (Pools, PoolKey, Rc<Kind>) {
    let config = config(
        "pool: {dsn: 'postgres://me@127.0.0.1/db?sslmode=disable', max_connections: 20}\nauth: {type: trust}\n",
    );
    let mut pools = Pools::default();
    let settings = config.databases.get("db").expect("the pool");
    let pool = pools.insert(Pool::new("db".to_owned(), settings.clone(), false));
    pools.configure(pool, settings);
    let kind = Kind {
        user: b"me".to_vec(),
        database: b"db".to_vec(),
        parameters: Vec::new(),
    };
    let kind = pools.get_mut(pool).expect("the pool").ask(kind.into());
    for number in 0..20 {
        pools.dialed(pool, &kind);
        pools.dial_ended(pool, &kind);
        pools.put_idle(pool, ServerKey::from_parts(number, 0), &kind);
    }
    (pools, pool, kind)
}

fn enqueue(pools: &mut Pools, pool: PoolKey, kind: &Rc<Kind>, number: u32) {
    let client = ClientKey::from_parts(number, 0);
    pools.enqueue(pool, client, kind, Wants::Server, Tick(0));
}

/// The client that is next gets its server.
fn check_out(pools: &mut Pools, pool: PoolKey, kind: &Rc<Kind>) -> (ClientKey, ServerKey) {
    match pools.next(Tick(0)) {
        Some((_, Checkout::Pair { client, server, .. })) => {
            pools.leave_queue(pool, client);
            pools.take_idle(pool, server, kind);
            (client, server)
        }
        other => panic!("no pair: {:?}", other.map(|(_, checkout)| checkout)),
    }
}

/// A client asks, gets its server and gives it back, with so many clients waiting for a server already.
#[divan::bench(args = [0, 500])]
fn checkout(bencher: Bencher, waiting: u32) {
    let (mut pools, pool, kind) = pool_of_20();
    let mut in_use = Vec::new();
    for number in 0..waiting {
        enqueue(&mut pools, pool, &kind, number);
        if number < 20 {
            in_use.push(check_out(&mut pools, pool, &kind).1);
        }
    }
    let mut number = waiting;
    bencher.bench_local(|| {
        enqueue(&mut pools, pool, &kind, number);
        number += 1;
        if let Some(server) = in_use.pop() {
            pools.put_idle(pool, server, &kind);
        }
        let (client, server) = check_out(&mut pools, pool, &kind);
        match waiting {
            0 => pools.put_idle(pool, server, &kind),
            _ => in_use.push(server),
        }
        client
    });
}

// ---- time ----

/// A timer armed a minute ahead and a millisecond gone by, among so many armed timers.
#[divan::bench(args = [0, 100_000])]
fn wheel(bencher: Bencher, armed: u64) {
    let mut wheel = Wheel::new(Tick(0));
    for number in 0..armed {
        wheel.insert(Tick(3_600_000_000 + number * 1_000), number);
    }
    let (mut now, mut due) = (Tick(0), Vec::new());
    bencher.bench_local(|| {
        now = now.plus(Duration::from_millis(1));
        wheel.insert(now.plus(Duration::from_secs(60)), 0);
        due.clear();
        wheel.expire(now, &mut due);
        due.len()
    });
}

// ---- logins ----

const DEMAND: Demand<'static> = Demand {
    method: AuthMethod::ScramSha256,
    iterations: 4096,
    endpoint: None,
};

/// PBKDF2 of one password, 4,096 rounds: what the helper thread does, once for each password.
#[divan::bench]
fn scram_derivation(bencher: Bencher) {
    let mut random = |into: &mut [u8]| into.fill(7);
    let mut ring = KeyRing::new(&mut random, None);
    let demand = Demand {
        method: AuthMethod::Password,
        ..DEMAND
    };
    let begun = Verify::begin(
        demand,
        "alice",
        None,
        &mut ring,
        &mut random,
        &mut Vec::new(),
    );
    let Progress::Next(waiting) = begun else {
        panic!("nobody is asked: {begun:?}");
    };
    let compared = waiting.step(b"secret\0", &mut ring, &mut Vec::new());
    let Ok(Progress::Derive(_, job)) = compared else {
        panic!("nothing to derive: {compared:?}");
    };
    bencher.bench_local(|| black_box(&job).run());
}

/// A whole SCRAM exchange with our own client, keys known on both sides.
#[divan::bench]
fn scram_exchange(bencher: Bencher) {
    let mut rings = [7, 8].map(|byte| KeyRing::new(&mut |into: &mut [u8]| into.fill(byte), None));
    exchange(&mut rings);
    bencher.bench_local(|| exchange(&mut rings));
}

fn exchange([ours, theirs]: &mut [KeyRing; 2]) {
    let mut random = |into: &mut [u8]| into.fill(9);
    let password = Stored::Plain(Secret::new("secret"));
    let (mut down, mut up) = (Vec::new(), Vec::new());
    let mut verify = Verify::begin(
        DEMAND,
        "alice",
        Some(&password),
        ours,
        &mut random,
        &mut down,
    );
    let credentials = Credentials {
        user: "alice".to_owned(),
        secret: Some(password),
    };
    let terms = Terms {
        demands: Demands::default(),
        iterations_max: 4096,
        channel: Channel::Plain,
        own_certificate: None,
    };
    let mut prove = Prove::begin(credentials, terms);
    loop {
        let waiting = match verify {
            Progress::Derive(state, job) => {
                verify = state.derived(&job.run(), ours, &mut down).expect("a proof");
                continue;
            }
            Progress::Done => return,
            Progress::Next(state) => state,
        };
        let said = std::mem::take(&mut down);
        let (_, body, _) = frame::whole(&said, 10_000)
            .expect("a message")
            .expect("a message");
        prove = match prove
            .step(body, theirs, &mut random, &mut up)
            .expect("a step")
        {
            Progress::Derive(state, job) => match state.derived(&job.run(), theirs, &mut up) {
                Ok(Progress::Next(state)) => state,
                other => panic!("after a derivation: {other:?}"),
            },
            Progress::Next(state) => state,
            Progress::Done => panic!("done before the verifier is"),
        };
        let said = std::mem::take(&mut up);
        let (_, body, _) = frame::whole(&said, 10_000)
            .expect("a message")
            .expect("a message");
        verify = waiting.step(body, ours, &mut down).expect("a step");
    }
}
