//! Limits and the order of arrival, without any connection: clients, servers and pools are keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::super::Known;
use super::super::share::Share;
use super::*;
use crate::config::{Outside, schema};
use crate::wire::refusal::{Blame, Refusal};

struct Nothing;

impl Outside for Nothing {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
    fn file(&self, _: &Path) -> Result<Vec<u8>, String> {
        Err("no files here".to_owned())
    }
}

const NOW: Tick = Tick(0);

/// Pools, and the engine's part: what it is told to do is done at once, but logins take until [`Book::log_in`].
struct Book {
    pools: Pools,
    pool: BTreeMap<String, PoolKey>,
    logging_in: Vec<(ServerKey, Lane)>,
    busy: BTreeMap<ClientKey, (ServerKey, Lane)>,
    idle: BTreeMap<ServerKey, Lane>,
    /// Servers that are asked what they make of settings.
    asked: Vec<(ServerKey, Lane, Rc<Settings>)>,
    /// Clients in the order in which they were told.
    told: Vec<ClientKey>,
    next: u32,
    /// Clients in the order in which they got a server.
    served: Vec<ClientKey>,
    evicted: Vec<(ServerKey, Limit)>,
}

impl Book {
    fn new(yaml: &str) -> Book {
        let mut book = Book {
            pools: Pools::default(),
            pool: BTreeMap::new(),
            logging_in: Vec::new(),
            busy: BTreeMap::new(),
            idle: BTreeMap::new(),
            asked: Vec::new(),
            told: Vec::new(),
            next: 0,
            served: Vec::new(),
            evicted: Vec::new(),
        };
        book.reload(yaml);
        book
    }

    fn reload(&mut self, yaml: &str) {
        let text = format!("auth: {{type: trust}}\n{yaml}\n");
        let config = schema::read(&text, Path::new("aether.yaml"), &Nothing).expect(yaml);
        self.pools.configure_users(&config);
        for (name, pool) in &config.databases {
            let key = *self.pool.entry(name.clone()).or_insert_with(|| {
                self.pools
                    .insert(Pool::new(name.clone(), pool.clone(), false))
            });
            self.pools.configure(key, pool);
        }
        self.settle();
    }

    fn kind(&mut self, pool: PoolKey, user: &str, set: &str) -> Rc<Kind> {
        let kind = Kind {
            user: user.as_bytes().to_vec(),
            database: b"db".to_vec(),
            parameters: vec![(b"application_name".to_vec(), set.as_bytes().to_vec())],
        };
        self.pools
            .get_mut(pool)
            .expect("the pool")
            .ask(Rc::new(kind))
    }

    /// A client that wants a server.
    fn client(&mut self, pool: &str, user: &str, set: &str) -> ClientKey {
        self.wants(pool, user, set, Wants::Server)
    }

    /// A client that wants to know what servers make of a time zone.
    fn asker(&mut self, zone: &str) -> ClientKey {
        self.wants("a", "alice", "", Wants::Welcome(zone_of(zone)))
    }

    fn wants(&mut self, pool: &str, user: &str, set: &str, wants: Wants) -> ClientKey {
        let pool = self.pool[pool];
        let kind = self.kind(pool, user, set);
        self.next += 1;
        let client = ClientKey::from_parts(self.next, 0);
        let at_hand = self.pools.at_hand(pool, &kind);
        let at_hand = at_hand.filter(|_| wants == Wants::Server);
        self.pools.enqueue(pool, client, &kind, wants, NOW);
        self.settle();
        if let Some(server) = at_hand {
            let got = self.busy.get(&client).map(|(server, _)| *server);
            assert_eq!(got, Some(server), "it was at hand");
        }
        client
    }

    fn settle(&mut self) {
        for server in self.pools.take_surplus() {
            if let Some(lane) = self.idle.get(&server).cloned()
                && self.pools.is_surplus(lane.pool, &lane.kind)
            {
                self.close(server, &lane);
            }
        }
        for pool in self.pools.keys() {
            let told = self.pools.take_welcomed(pool);
            self.told
                .extend(told.iter().map(|(waiter, _)| waiter.client));
            self.pools.wake_paused(pool, NOW);
        }
        while let Some((lane, checkout)) = self.pools.next(NOW) {
            match checkout {
                Checkout::Pair { client, server, .. } => {
                    self.pools.leave_queue(lane.pool, client);
                    self.pools.take_idle(lane.pool, server, &lane.kind);
                    self.idle.remove(&server);
                    self.busy.insert(client, (server, lane));
                    self.served.push(client);
                }
                Checkout::Ask(server, settings) => {
                    self.pools.asking(lane.pool, server, &lane.kind, &settings);
                    self.idle.remove(&server);
                    self.asked.push((server, lane, settings));
                }
                Checkout::Dial(_) => {
                    self.next += 1;
                    let server = ServerKey::from_parts(self.next, 0);
                    self.pools.dialed(lane.pool, &lane.kind);
                    self.logging_in.push((server, lane));
                }
                Checkout::Evict(server, limit) => {
                    self.evicted.push((server, limit));
                    let lane = self.idle[&server].clone();
                    self.close(server, &lane);
                }
                Checkout::Replace(..) => unreachable!("nothing is in reserve here"),
            }
        }
        self.check();
    }

    fn close(&mut self, server: ServerKey, lane: &Lane) {
        self.idle.remove(&server).expect("an idle server");
        self.pools.take_idle(lane.pool, server, &lane.kind);
        self.pools.gone(lane.pool, &lane.kind);
    }

    /// All logins under way go well, in the order in which they began.
    fn log_in(&mut self) {
        while !self.logging_in.is_empty() {
            let (server, lane) = self.logging_in.remove(0);
            self.pools.dial_ended(lane.pool, &lane.kind);
            self.put_idle(server, lane);
        }
    }

    fn put_idle(&mut self, server: ServerKey, lane: Lane) {
        self.pools.put_idle(lane.pool, server, &lane.kind);
        self.idle.insert(server, lane);
        self.settle();
    }

    /// The server that was asked first has an answer, or is of no use.
    fn answer(&mut self, well: bool) {
        let (server, lane, settings) = self.asked.remove(0);
        let (pool, kind) = (lane.pool, &lane.kind);
        if well {
            let (base, vars) = (Rc::default(), Rc::default());
            let pool = self.pools.get_mut(pool).expect("the pool");
            pool.know(kind, &settings, Known::Taken { base, vars });
        }
        self.pools.asking_ended(pool, kind, &settings);
        if well {
            return self.put_idle(server, lane);
        }
        self.pools.gone(pool, kind);
        self.settle();
    }

    /// A client gives its server back.
    fn give_back(&mut self, client: ClientKey) {
        let (server, lane) = self.busy.remove(&client).expect("it has a server");
        self.put_idle(server, lane);
    }

    fn hang_up(&mut self, pool: &str, client: ClientKey) {
        self.pools.leave_queue(self.pool[pool], client);
        self.settle();
    }

    fn has_server(&self, client: ClientKey) -> bool {
        self.busy.contains_key(&client)
    }

    fn limit(&self, pool: &str, client: ClientKey) -> Option<Limit> {
        match self.pools.waits_for(self.pool[pool], client) {
            Some(Waits::ForRoom { limit, .. }) => Some(limit),
            _ => None,
        }
    }

    /// Counts everything anew, and asserts that no limit is exceeded by what was made under it.
    fn check(&self) {
        self.pools.check_settled(NOW);
        let under_way = self.logging_in.iter().map(|(_, lane)| (lane, false, true));
        let busy = self.busy.values().map(|(_, lane)| (lane, false, false));
        let idle = self.idle.values().map(|lane| (lane, true, false));
        let asked = self.asked.iter().map(|(_, lane, _)| (lane, false, false));
        let all = under_way.chain(busy).chain(idle).chain(asked);
        let servers: Vec<(&Lane, bool, bool)> = all.collect();
        for (key, pool) in self.pools.iter() {
            let own = || servers.iter().filter(move |(lane, ..)| lane.pool == key);
            pool.check(
                own().count(),
                own().filter(|(_, idle, _)| *idle).count(),
                own().filter(|(.., connecting)| *connecting).count(),
            );
        }
        for user in ["alice", "bob"] {
            let of_user = |(lane, ..): &&(&Lane, bool, bool)| lane.kind.user == user.as_bytes();
            let count = servers.iter().filter(of_user).count();
            self.pools.check_user(user.as_bytes(), count, 0);
        }
    }
}

fn zone_of(zone: &str) -> Rc<Settings> {
    Rc::new(vec![(b"TimeZone".to_vec(), zone.as_bytes().to_vec())])
}

const ONE_SERVER: &str = "pool: {dsn: 'postgres://h/a', max_connections: 1}";

#[test]
fn all_who_want_to_know_the_same_need_one_server_and_none_while_it_is_asked() {
    let mut book = Book::new("pool: {dsn: 'postgres://h/a'}");
    let askers = ["CET", "CET", "UTC", "CET"].map(|zone| book.asker(zone));
    assert_eq!(book.logging_in.len(), 2, "one for each question");
    book.log_in();
    assert_eq!(book.asked.len(), 2);
    let late = book.asker("CET");
    assert_eq!((book.logging_in.len(), book.asked.len()), (0, 2));
    assert_eq!(
        book.pools.get(book.pool["a"]).expect("the pool").waiting(),
        5
    );
    book.answer(true);
    assert_eq!(book.told, [askers[0], askers[1], askers[3], late]);
    book.answer(true);
    assert_eq!(book.told.last(), Some(&askers[2]));
}

#[test]
fn who_waits_for_an_answer_holds_up_nobody_behind() {
    let mut book = Book::new(ONE_SERVER);
    let first = book.client("a", "alice", "");
    book.log_in();
    let (cet, again) = (book.asker("CET"), book.asker("CET"));
    let behind = book.client("a", "alice", "");
    book.give_back(first);
    assert!(book.asked.len() == 1 && !book.has_server(behind));
    book.answer(true);
    assert_eq!(book.told, [cet, again]);
    assert!(book.has_server(behind));
}

#[test]
fn a_question_goes_on_when_the_client_or_the_server_is_gone() {
    let mut book = Book::new(ONE_SERVER);
    let busy = book.client("a", "alice", "");
    book.log_in();
    let (first, second) = (book.asker("CET"), book.asker("CET"));
    let behind = book.client("a", "alice", "");
    book.hang_up("a", first);
    book.give_back(busy);
    assert!(
        !book.has_server(behind),
        "the place is the second one's by now, which came before"
    );
    book.answer(false);
    assert!(book.told.is_empty() && book.logging_in.len() == 1);
    book.log_in();
    book.answer(true);
    assert_eq!(book.told, [second]);
    assert!(book.has_server(behind));
}

#[test]
fn a_login_that_is_refused_is_told_to_all_who_wait_for_it() {
    let mut book = Book::new("pool: {dsn: 'postgres://h/a'}");
    let waiting = [
        book.asker("CET"),
        book.client("a", "alice", ""),
        book.asker("CET"),
    ];
    let (pool, kind) = (book.pool["a"], book.kind(book.pool["a"], "alice", ""));
    assert_eq!(book.pools.dequeue_kind(pool, &kind), waiting);
    assert_eq!(book.pools.get(pool).expect("the pool").waiting(), 0);
    book.check();
}

/// Found by the simulation (seed 30260): what a client had asked for last was tried again and again, and refused each time.
#[test]
fn what_a_server_has_refused_is_not_what_is_kept_ready() {
    let mut book = Book::new("pool: {dsn: 'postgres://me:x@h/a', min_pool_size: 2}");
    let pool = book.pool["a"];
    let (base, odd) = (book.kind(pool, "me", ""), book.kind(pool, "me", "nonsense"));
    let refusal = Refusal::fatal(b"22023", "bye", Blame::Server);
    let of = book.pools.get_mut(pool).expect("the pool");
    for kind in [&base, &odd] {
        of.state(kind);
        of.note_asked(kind);
    }
    of.login_refused(&odd, refusal, NOW);
    assert_eq!(of.refill(NOW, &mut |_| true), Some(base.clone()));
    // From then on it is known that servers take this one.
    of.login_succeeded(&base);
    of.state(&base).welcome = Some(Rc::default());
    assert_eq!(of.refill(NOW, &mut |_| true), Some(base));
}

const TWO_POOLS: &str = "databases: {a: {dsn: 'postgres://h/a'}, b: {dsn: 'postgres://h/b'}}\n\
                         users: {alice: {max_connections: 1}}";

#[test]
fn a_client_blocked_by_its_users_limit_does_not_block_other_users() {
    let mut book = Book::new("pool: {dsn: 'postgres://h/a'}\nusers: {alice: {max_connections: 1}}");
    let (one, two) = (book.client("a", "alice", ""), book.client("a", "alice", ""));
    let bob = book.client("a", "bob", "");
    book.log_in();
    assert!(book.has_server(one) && book.has_server(bob) && !book.has_server(two));
    assert_eq!(book.limit("a", two), Some(Limit::User));
    book.give_back(one);
    assert!(book.has_server(two));
}

#[test]
fn a_client_blocked_by_the_pools_limit_blocks_those_behind() {
    let mut book = Book::new("pool: {dsn: 'postgres://h/a', max_connections: 1}");
    let first = book.client("a", "alice", "");
    book.log_in();
    let (second, third) = (book.client("a", "bob", ""), book.client("a", "alice", ""));
    assert_eq!(book.limit("a", second), Some(Limit::Database));
    book.give_back(first);
    book.log_in();
    assert_eq!(book.evicted.len(), 1, "strictly in order, at this price");
    assert!(book.has_server(second) && !book.has_server(third));
}

#[test]
fn the_limit_of_a_user_within_a_pool_is_the_pools_own() {
    let mut book = Book::new(
        "databases: {a: {dsn: 'postgres://h/a', max_connections_per_user: 1}, b: {dsn: 'postgres://h/b'}}",
    );
    let (one, two) = (book.client("a", "alice", ""), book.client("a", "alice", ""));
    let (bob, other) = (book.client("a", "bob", ""), book.client("b", "alice", ""));
    book.log_in();
    assert!(
        [one, bob, other]
            .iter()
            .all(|&client| book.has_server(client))
    );
    assert_eq!(book.limit("a", two), Some(Limit::DatabaseUser));
    let waits = book.pools.waits_for(book.pool["a"], two);
    let (in_use, max) = (1, 1);
    assert_eq!(
        waits,
        Some(Waits::ForRoom {
            limit: Limit::DatabaseUser,
            in_use,
            max
        })
    );
}

/// PgBouncer evicts at `max_user_connections` the least recently used idle server of any pool with the same credentials.
#[test]
fn at_a_users_limit_the_least_recently_used_idle_server_makes_room() {
    let mut book = Book::new(&TWO_POOLS.replace("max_connections: 1", "max_connections: 3"));
    let clients: Vec<ClientKey> = (0..3).map(|_| book.client("a", "alice", "")).collect();
    let bob = book.client("a", "bob", "");
    book.log_in();
    let server = |book: &Book, client| book.busy[&client].0;
    let oldest = server(&book, clients[1]);
    for client in [bob, clients[1], clients[0], clients[2]] {
        book.give_back(client);
    }
    let other = book.client("b", "alice", "");
    assert_eq!(book.evicted, [(oldest, Limit::User)]);
    book.log_in();
    assert!(book.has_server(other));
}

/// Where one closed connection makes room under two limits, two are not closed.
#[test]
fn one_eviction_is_enough_where_it_can_be() {
    let yaml = "databases: {a: {dsn: 'postgres://h/a', max_connections: 2}, b: {dsn: 'postgres://h/b'}}\n\
                users: {alice: {max_connections: 1}}";
    let mut book = Book::new(yaml);
    let (alice, bob) = (book.client("a", "alice", ""), book.client("a", "bob", ""));
    book.log_in();
    book.give_back(bob);
    book.give_back(alice);
    let other = book.client("a", "alice", "other");
    book.log_in();
    assert!(book.has_server(other));
    assert_eq!(book.evicted.len(), 1, "{:?}", book.evicted);
}

#[test]
fn idle_servers_are_not_closed_where_that_would_not_help() {
    let yaml = "databases: {a: {dsn: 'postgres://h/a', max_connections: 1}, b: {dsn: 'postgres://h/b'}}\n\
                users: {alice: {max_connections: 1}}";
    let mut book = Book::new(yaml);
    let (bob, alice) = (book.client("a", "bob", ""), book.client("b", "alice", ""));
    book.log_in();
    // Pool a is full with what is idle; but alice has her only connection in use.
    book.give_back(bob);
    let waits = book.client("a", "alice", "");
    assert_eq!(
        (book.evicted.len(), book.limit("a", waits)),
        (0, Some(Limit::User))
    );
    // And the other way round: her connection is idle, but the pool is in use.
    book.hang_up("a", waits);
    let bob = book.client("a", "bob", "");
    book.give_back(alice);
    let waits = book.client("a", "alice", "");
    assert_eq!(
        (book.evicted.len(), book.limit("a", waits)),
        (0, Some(Limit::Database))
    );
    book.give_back(bob);
    book.log_in();
    assert!(book.has_server(waits));
    assert_eq!(book.evicted.len(), 2);
}

/// Issue 3: pools that share a user's limit are served in turn, not in alphabetical order.
#[test]
fn pools_under_one_users_limit_are_served_in_the_order_of_arrival() {
    let mut book = Book::new(TWO_POOLS);
    let first = book.client("a", "alice", "");
    book.log_in();
    let order: Vec<ClientKey> = ["b", "a", "b", "b", "a"]
        .into_iter()
        .map(|pool| book.client(pool, "alice", ""))
        .collect();
    let mut last = first;
    for &client in &order {
        book.give_back(last);
        book.log_in();
        last = client;
    }
    assert_eq!(book.served[1..], order);
}

#[test]
fn limits_can_be_raised_lowered_and_taken_away_while_clients_wait() {
    let mut book = Book::new(TWO_POOLS);
    let clients: Vec<ClientKey> = (0..4).map(|_| book.client("b", "alice", "")).collect();
    let with =
        |max: usize| TWO_POOLS.replace("max_connections: 1", &format!("max_connections: {max}"));
    book.log_in();
    assert_eq!(book.served, clients[..1]);
    book.reload(&with(3));
    book.log_in();
    assert_eq!(book.served, clients[..3]);
    book.reload(&with(0));
    book.log_in();
    assert_eq!(book.served, clients);
    // Lowered: what is in use stays until it is given back, and is then closed down to the limit.
    book.reload(&with(2));
    clients.iter().for_each(|&client| book.give_back(client));
    assert_eq!(book.idle.len(), 2);
    book.reload(&with(1));
    assert_eq!(book.idle.len(), 1);
}

/// Idle servers are listed only where they may have to make room: whoever was idle before a limit came is found all the same.
#[test]
fn a_limit_that_comes_finds_who_is_idle_already() {
    let two = |of_pool: &str, of_user: &str| {
        format!(
            "databases: {{a: {{dsn: 'postgres://h/a'{of_pool}}}, b: {{dsn: 'postgres://h/b'}}}}\n\
             users: {{alice: {{{of_user}}}}}"
        )
    };
    for (of_pool, of_user, limit) in [
        ("", "max_connections: 2", Limit::User),
        (", max_connections_per_user: 2", "", Limit::DatabaseUser),
        ("", "pool_size: 2", Limit::DatabaseUser),
    ] {
        let mut book = Book::new(&two("", "mode: session"));
        let clients: Vec<ClientKey> = (0..3).map(|_| book.client("a", "alice", "")).collect();
        book.log_in();
        let servers: Vec<ServerKey> = clients.iter().map(|key| book.busy[key].0).collect();
        for place in [1, 0, 2] {
            book.give_back(clients[place]);
        }
        book.reload(&two(of_pool, of_user));
        let idle: Vec<ServerKey> = book.idle.keys().copied().collect();
        assert_eq!(
            idle,
            [servers[0], servers[2]],
            "{limit:?}: the oldest is above the limit"
        );
        book.client("a", "alice", "other");
        assert_eq!(book.evicted, [(servers[0], limit)]);
        // And once it has gone nothing is listed any more.
        book.reload(&two("", "mode: session"));
        book.log_in();
    }
}

#[test]
fn who_leaves_the_queue_takes_nobody_along() {
    let mut book = Book::new(TWO_POOLS);
    let first = book.client("a", "alice", "");
    let (second, third) = (book.client("b", "alice", ""), book.client("a", "alice", ""));
    let fourth = book.client("a", "alice", "");
    book.log_in();
    book.hang_up("b", second);
    book.hang_up("a", third);
    book.give_back(first);
    assert!(book.has_server(fourth));
    let pool = book.pools.get(book.pool["a"]).expect("a");
    assert_eq!(pool.waiting(), 0);
}

/// xorshift: the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }
}

/// With any number of pools under one user's limit, whoever is served has waited longest of all: nobody is overtaken, so
/// everybody gets a server within the number of services ahead of him.
#[test]
fn nobody_is_overtaken_under_one_users_limit() {
    for seed in 1..200 {
        let mut random = Random(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let (pools, max) = (2 + random.below(6), 1 + random.below(3));
        let databases: String = (0..pools)
            .map(|n| format!("d{n}: {{dsn: 'postgres://h/x', max_connections: 100}}, "))
            .collect();
        let mut book = Book::new(&format!(
            "databases: {{{databases}}}\nusers: {{alice: {{max_connections: {max}}}}}"
        ));
        let mut waiting: Vec<(ClientKey, String)> = Vec::new();
        for _ in 0..200 {
            let before = book.served.len();
            match random.below(10) {
                0..5 => {
                    let pool = format!("d{}", random.below(pools));
                    let set = ["", "x"][random.below(2)];
                    let client = book.client(&pool, "alice", set);
                    waiting.push((client, pool));
                }
                5 if !waiting.is_empty() => {
                    let (client, pool) = waiting.remove(random.below(waiting.len()));
                    book.hang_up(&pool, client);
                }
                _ => {
                    let busy: Vec<ClientKey> = book.busy.keys().copied().collect();
                    if !busy.is_empty() {
                        book.give_back(busy[random.below(busy.len())]);
                    }
                }
            }
            book.log_in();
            let served: BTreeSet<ClientKey> = book.served[before..].iter().copied().collect();
            let oldest: BTreeSet<ClientKey> = waiting
                .iter()
                .take(served.len())
                .map(|(client, _)| *client)
                .collect();
            assert_eq!(served, oldest, "seed {seed}");
            waiting.retain(|(client, _)| !served.contains(client));
            let in_use = book.busy.len();
            assert!(in_use <= max, "seed {seed}: {in_use} of {max}");
            assert!(waiting.is_empty() || in_use == max, "seed {seed}");
        }
    }
}

/// Any limits, users, startup sets and pools: nobody waits who could be served (`check_settled`), no limit is exceeded
/// (`dialed`), and once everybody gives his server back, everybody has had one.
#[test]
fn nobody_is_forgotten_whatever_the_limits() {
    for seed in 1..200 {
        let mut random = Random(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let yaml = |random: &mut Random| {
            let mut pool = |name| {
                format!(
                    "{name}: {{dsn: 'postgres://h/x', max_connections: {}, max_connections_per_user: {}}}",
                    1 + random.below(3),
                    random.below(3)
                )
            };
            let (a, b) = (pool("a"), pool("b"));
            let (alice, bob) = (random.below(4), random.below(4));
            format!(
                "databases: {{{a}, {b}}}\nusers: {{alice: {{max_connections: {alice}}}, bob: {{max_connections: {bob}}}}}"
            )
        };
        let mut book = Book::new(&yaml(&mut random));
        let (mut clients, mut askers) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            match random.below(12) {
                10 => askers.push(book.asker(["CET", "UTC", "WET"][random.below(3)])),
                11 if !book.asked.is_empty() => book.answer(random.below(3) > 0),
                0..5 => {
                    let pool = ["a", "b"][random.below(2)];
                    let user = ["alice", "bob"][random.below(2)];
                    clients.push(book.client(pool, user, ["", "x"][random.below(2)]));
                }
                5 if random.below(5) == 0 => book.reload(&yaml(&mut random)),
                6 => book.log_in(),
                _ => {
                    let busy: Vec<ClientKey> = book.busy.keys().copied().collect();
                    if !busy.is_empty() {
                        book.give_back(busy[random.below(busy.len())]);
                    }
                }
            }
        }
        for _ in 0..1_000 {
            book.log_in();
            while !book.asked.is_empty() {
                book.answer(true);
            }
            let busy: Vec<ClientKey> = book.busy.keys().copied().collect();
            busy.into_iter().for_each(|client| book.give_back(client));
        }
        assert_eq!(book.served.len(), clients.len(), "seed {seed}");
        assert_eq!(book.told.len(), askers.len(), "seed {seed}");
    }
}

#[test]
fn a_share_without_a_limit_always_has_room() {
    let mut share = Share::new(0);
    (0..5).for_each(|_| share.add());
    assert!(share.has_room() && share.surplus() == 0);
    share.limit(3, 0);
    assert!(!share.has_room() && !share.can_serve() && share.surplus() == 2);
}
