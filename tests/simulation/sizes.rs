//! How pools make servers and hand them out, where a world has it other than by default; and what must hold of the counts in every
//! world, recounted from what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use aether::arena::{ClientKey, PoolKey, ServerKey, Tick};
use aether::config::Config;
use aether::engine::{Engine, Server};

use crate::random::Random;

/// Which worlds have sizes of their own: none of [`crate::NAMED`] that are older.
const SIZED: u64 = 81;
const SIZED_PERCENT: u64 = 35;

/// What is not as it is by default. In the words of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    reserve_pool_size: usize,
    reserve_pool_timeout: &'static str,
    pub min_pool_size: usize,
    server_round_robin: bool,
    pub server_fast_fail: bool,
    pub single_use: bool,
    load_balance_hosts: &'static str,
    max_connecting: usize,
    server_login_retry: &'static str,
    /// `pool_size` and `reserve_pool_size` of the role that most have.
    role: Option<(usize, usize)>,
    /// In place of the world's own. The second may be down for a while, which nobody is to notice.
    pub hosts: Option<&'static str>,
}

/// The host of [`Sizes::hosts`] that comes and goes.
pub const UNSTEADY: &str = "10.0.0.2";

impl Sizes {
    /// Of a stream of chance that is only this one's: worlds without sizes are what they were before there were any.
    pub fn draw(seed: u64) -> (Option<Sizes>, Random) {
        let mut random = Random::new(seed ^ SIZED << 32);
        let sizes = random.chance(SIZED_PERCENT).then(|| Sizes {
            reserve_pool_size: random.pick(&[0, 1, 1, 2]),
            reserve_pool_timeout: random.pick(&["0", "50ms", "50ms", "1s", "5s"]),
            min_pool_size: random.pick(&[0, 0, 1, 2, 3]),
            server_round_robin: random.chance(50),
            server_fast_fail: random.chance(30),
            single_use: random.chance(20),
            load_balance_hosts: random.pick(&["disable", "round-robin"]),
            max_connecting: random.pick(&[1, 1, 2, 16]),
            server_login_retry: random.pick(&["0", "500ms", "15s"]),
            role: random
                .chance(25)
                .then(|| random.pick(&[(1, 0), (1, 1), (2, 1)])),
            hosts: random.pick(&[
                None,
                Some("10.0.0.1,10.0.0.2"),
                Some("10.0.0.9,10.0.0.2,10.0.0.1"),
                Some("10.0.0.2,database.example,10.0.0.3"),
            ]),
        });
        (sizes, random)
    }

    /// Lines of the section `pool`.
    pub fn pool_lines(&self) -> String {
        format!(
            "  reserve_pool_size: {}\n  reserve_pool_timeout: {}\n  min_pool_size: {}\n  server_round_robin: {}\n  \
             server_fast_fail: {}\n  single_use: {}\n  load_balance_hosts: {}\n  max_connecting: {}\n  server_login_retry: {}\n",
            self.reserve_pool_size,
            self.reserve_pool_timeout,
            self.min_pool_size,
            self.server_round_robin,
            self.server_fast_fail,
            self.single_use,
            self.load_balance_hosts,
            self.max_connecting,
            self.server_login_retry,
        )
    }

    /// Lines of a role in the section `users`.
    pub fn role_lines(&self) -> String {
        self.role.map_or(String::new(), |(size, reserve)| {
            format!("    pool_size: {size}\n    reserve_pool_size: {reserve}\n")
        })
    }
}

/// Servers that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// Of a role, in all pools.
    Role(Vec<u8>),
    Pool(PoolKey),
    RoleInPool(PoolKey, Vec<u8>),
}

impl Group {
    fn of(server: &Server) -> [Group; 3] {
        let role = || server.kind.user.clone();
        [
            Group::Role(role()),
            Group::Pool(server.pool),
            Group::RoleInPool(server.pool, role()),
        ]
    }

    /// How many there may be, and how many more for those who have waited for long; `None`: any number.
    fn limit(&self, engine: &Engine) -> Option<(usize, usize)> {
        let user = |role: &[u8]| {
            let config = engine.config();
            let name = String::from_utf8_lossy(role);
            *config.users.get(&*name).unwrap_or(&config.user_defaults)
        };
        let (most, reserve) = match self {
            Group::Role(role) => (user(role).max_connections, 0),
            Group::Pool(pool) => {
                let config = &engine.pools().get(*pool)?.config;
                match config.max_connections_per_user {
                    0 => (config.max_connections, config.sizes.reserve_pool_size),
                    _ => (config.max_connections, 0),
                }
            }
            Group::RoleInPool(pool, role) => {
                let (config, own) = (&engine.pools().get(*pool)?.config, user(role));
                (
                    own.pool_size.unwrap_or(config.max_connections_per_user),
                    own.reserve_pool_size
                        .unwrap_or(config.sizes.reserve_pool_size),
                )
            }
        };
        (most > 0).then_some((most, reserve))
    }

    fn has(&self, pool: PoolKey, role: &[u8]) -> bool {
        match self {
            Group::Role(own) => own == role,
            Group::Pool(own) => *own == pool,
            Group::RoleInPool(own, name) => *own == pool && name == role,
        }
    }
}

/// A client that waits for a server: where, as whom, since when.
type Waiting = BTreeMap<ClientKey, (PoolKey, Vec<u8>, Tick)>;

/// What there was after the last turn, and what must hold of what there is after the next one.
#[derive(Default)]
pub struct Watch {
    single_use: bool,
    has_reserve: bool,
    config: Option<Rc<Config>>,
    /// All but those that carry cancels.
    servers: Vec<ServerKey>,
    counts: BTreeMap<Group, usize>,
    /// Kept where there is a reserve.
    waiting: Waiting,
    /// Who has had a server, where each is for one client.
    holders: BTreeMap<ServerKey, ClientKey>,
}

impl Watch {
    pub fn of(sizes: Option<Sizes>) -> Watch {
        let has_reserve = |sizes: Sizes| {
            let of_role = sizes.role.map_or(0, |(_, reserve)| reserve);
            sizes.reserve_pool_size > 0 || of_role > 0
        };
        Watch {
            single_use: sizes.is_some_and(|sizes| sizes.single_use),
            has_reserve: sizes.is_some_and(has_reserve),
            ..Watch::default()
        }
    }

    /// Asserts that no server was made that is one more than there may be, out of the reserve for nobody who had waited for long,
    /// or beside more attempts than may be made at once; and that a server for single use has had one client.
    ///
    /// This is done after each turn: where nothing came or went, there is nothing to count.
    pub fn look(&mut self, engine: &Engine, now: Tick) {
        let servers = || {
            let servers = engine.servers().iter();
            servers.filter(|(_, server)| !server.state().is_cancel())
        };
        if self.single_use {
            self.watch_holders(engine);
        }
        if !servers()
            .map(|(key, _)| key)
            .eq(self.servers.iter().copied())
        {
            let (mut counts, mut grown) = (BTreeMap::<Group, usize>::new(), BTreeSet::new());
            for (key, server) in servers() {
                for group in Group::of(server) {
                    if !self.servers.contains(&key) {
                        grown.insert(group.clone());
                    }
                    *counts.entry(group).or_default() += 1;
                }
            }
            // In a turn in which limits change, nobody can say from outside which ones were asked.
            let is_same = |config: &Rc<Config>| Rc::ptr_eq(config, engine.config());
            if self.config.as_ref().is_some_and(is_same) {
                for group in &grown {
                    self.check_group(group, counts[group], engine, now);
                }
            }
            check_attempts(engine);
            self.servers = servers().map(|(key, _)| key).collect();
            self.counts = counts;
        }
        if self.has_reserve {
            self.waiting = waiting(engine);
        }
        self.config = Some(engine.config().clone());
    }

    fn check_group(&self, group: &Group, count: usize, engine: &Engine, now: Tick) {
        let Some((most, reserve)) = group.limit(engine) else {
            return;
        };
        assert!(
            count <= most + reserve,
            "{group:?}: {count} servers, one of them new, and there may be {most} and {reserve} more"
        );
        let before = self.counts.get(group).copied().unwrap_or_default();
        let out_of_reserve = count.saturating_sub(most.max(before));
        if out_of_reserve > 0 {
            let patient = self.patient(group, engine, now);
            assert!(
                out_of_reserve <= patient,
                "{group:?}: {out_of_reserve} servers out of the reserve for {patient} who have waited for long"
            );
        }
    }

    fn watch_holders(&mut self, engine: &Engine) {
        for (key, server) in engine.servers().iter() {
            // Who has said nothing has not used it.
            if let Some(client) = server.state().client()
                && server.relay.is_touched()
            {
                let first = *self.holders.entry(key).or_insert(client);
                assert_eq!(first, client, "server {key:?} is for one client");
            }
        }
    }

    /// How many wait, or did before this turn, who may have what is in reserve.
    fn patient(&self, group: &Group, engine: &Engine, now: Tick) -> usize {
        let waiting = waiting(engine);
        let all = self.waiting.iter().chain(&waiting);
        let is_patient = |(pool, role, since): &(PoolKey, Vec<u8>, Tick)| {
            let config = engine.pools().get(*pool).map(|pool| &pool.config);
            let timeout = config.map(|config| config.sizes.reserve_pool_timeout);
            let is_over = timeout.is_some_and(|time| !time.is_zero() && since.plus(time) <= now);
            group.has(*pool, role) && is_over
        };
        let patient = all.filter(|(_, client)| is_patient(client));
        let patient: BTreeSet<_> = patient.map(|(key, _)| key).collect();
        patient.len()
    }
}

fn check_attempts(engine: &Engine) {
    let mut connecting = BTreeMap::<PoolKey, usize>::new();
    for (_, server) in engine.servers().iter() {
        if server.state().is_connecting()
            && let Some(pool) = engine.pools().get(server.pool)
        {
            let count = connecting.entry(server.pool).or_default();
            *count += 1;
            let most = pool.config.sizes.max_connecting;
            assert!(*count <= most, "{count} attempts at a time, of {most}");
        }
    }
}

fn waiting(engine: &Engine) -> Waiting {
    let clients = engine.clients().iter();
    let waiting = clients.filter(|(_, client)| client.state().is_waiting());
    waiting
        .filter_map(|(key, client)| {
            let (pool, role) = client.pool_and_role()?;
            Some((key, (pool, role.to_vec(), client.since())))
        })
        .collect()
}

/// Whether every pool with a role of its own has `min_pool_size` servers of it, or as many as there may be.
pub fn are_kept(engine: &Engine) -> bool {
    let mut counts = BTreeMap::<Group, usize>::new();
    let servers = engine.servers().iter();
    for (_, server) in servers.filter(|(_, server)| !server.state().is_cancel()) {
        for group in Group::of(server) {
            *counts.entry(group).or_default() += 1;
        }
    }
    let mut pools = engine.pools().iter();
    pools.all(|(key, pool)| {
        let Some(role) = pool
            .config
            .backend
            .user
            .as_ref()
            .filter(|_| !pool.removed && !pool.for_lookups)
        else {
            return true;
        };
        let role = role.as_bytes().to_vec();
        let groups = [
            Group::RoleInPool(key, role.clone()),
            Group::Pool(key),
            Group::Role(role),
        ];
        let count = |group: &Group| counts.get(group).copied().unwrap_or_default();
        let is_full = |group: &Group| {
            let limit = group.limit(engine);
            limit.is_some_and(|(most, _)| count(group) >= most)
        };
        count(&groups[0]) >= pool.config.sizes.min_pool_size || groups.iter().any(is_full)
    })
}
