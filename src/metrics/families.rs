//! The table of everything that is told. A name that was published stays; `docs/metrics.md` lists them, and a test holds the two
//! together.

use super::Kind::{Counter, Gauge, Histogram};
use super::Unit::{Bytes, None, Seconds};
use super::roles::{OTHERS, SERVER_STATES};
use super::{Family, Kind, Of, Out, Sight, Unit};
use crate::arena::PoolKey;
use crate::limits;
use crate::pool::Pool;
use crate::reasons::{connect_failure_word, server_close_word};
use crate::tls::Lifetime;
use crate::wire::frame::printable;

const fn process(
    name: &'static str,
    (kind, unit): (Kind, Unit),
    help: &'static str,
    labels: &'static [&'static str],
    read: fn(&Sight<'_>, &mut Out<'_>),
) -> Family {
    Family {
        name,
        kind,
        unit,
        help,
        labels,
        otel: "",
        of: Of::Process(read),
    }
}

const fn pool(
    name: &'static str,
    (kind, unit): (Kind, Unit),
    help: &'static str,
    labels: &'static [&'static str],
    read: fn(&Sight<'_>, PoolKey, &Pool, &mut Out<'_>),
) -> Family {
    Family {
        name,
        kind,
        unit,
        help,
        labels,
        otel: "",
        of: Of::Pool(read),
    }
}

const fn called(otel: &'static str, family: Family) -> Family {
    Family { otel, ..family }
}

const COUNT: (Kind, Unit) = (Counter, None);
const LEVEL: (Kind, Unit) = (Gauge, None);
const TIMES: (Kind, Unit) = (Histogram, Seconds);
const DATABASE: &[&str] = &["database"];

/// Everything that is told, in this order.
pub static FAMILIES: &[Family] = &[
    // ---- The process ----
    process(
        "aether_build_info",
        LEVEL,
        "1, for the version that runs.",
        &["version"],
        |_, out| {
            out.count(&[env!("CARGO_PKG_VERSION")], 1);
        },
    ),
    process(
        "process_start_time_seconds",
        (Gauge, Seconds),
        "When the process began, in seconds since 1970.",
        &[],
        |sight, out| {
            if let Some(us) = sight.facts.started_us {
                out.micros(&[], us);
            }
        },
    ),
    process(
        "process_cpu_seconds",
        (Counter, Seconds),
        "CPU time, of the loop and of the threads beside it.",
        &[],
        |sight, out| {
            if let Some(us) = sight.facts.cpu_us {
                out.micros(&[], us);
            }
        },
    ),
    process(
        "process_resident_memory_bytes",
        (Gauge, Bytes),
        "Resident memory.",
        &[],
        |sight, out| {
            if let Some(bytes) = sight.facts.resident_bytes {
                out.count(&[], bytes);
            }
        },
    ),
    process(
        "process_open_fds",
        LEVEL,
        "Open file descriptors.",
        &[],
        |sight, out| {
            if let Some(files) = sight.facts.open_files {
                out.count(&[], files);
            }
        },
    ),
    process(
        "process_max_fds",
        LEVEL,
        "The limit of open file descriptors.",
        &[],
        |sight, out| {
            if let Some(files) = sight.facts.max_files {
                out.count(&[], files);
            }
        },
    ),
    process(
        "aether_stopping",
        LEVEL,
        "1 once a graceful stop has begun.",
        &[],
        |sight, out| {
            out.count(&[], u64::from(sight.engine.is_stopping()));
        },
    ),
    process(
        "aether_config_reloads",
        COUNT,
        "Configurations that were taken over after the start.",
        &[],
        |sight, out| {
            out.count(&[], sight.engine.tally().reloads);
        },
    ),
    process(
        "aether_config_reload_failures",
        COUNT,
        "Configurations that were not taken over, for their errors: the old one stays in force.",
        &[],
        |sight, out| {
            out.count(&[], sight.engine.tally().reload_failures);
        },
    ),
    process(
        "aether_log_lines_dropped",
        COUNT,
        "Log lines that were lost because where they go did not take them fast enough.",
        &[],
        |sight, out| {
            out.count(&[], sight.facts.log_dropped);
        },
    ),
    process(
        "aether_log_lines_repeated",
        COUNT,
        "Log lines that were only counted because their reason had had its share of the second (log.repeat_limit).",
        &[],
        |sight, out| {
            out.count(&[], sight.facts.log_repeated);
        },
    ),
    process(
        "aether_contained_panics",
        COUNT,
        "Internal errors that were kept to one connection. Each is a bug.",
        &[],
        |sight, out| {
            out.count(&[], sight.engine.contained());
        },
    ),
    process(
        "aether_loop_turn_duration_seconds",
        TIMES,
        "How long turns of the event loop took, waiting not counted.",
        &[],
        |sight, out| {
            let tally = sight.engine.tally();
            out.times(&[], &tally.turns, tally.turn_us);
        },
    ),
    process(
        "aether_otlp_pushes",
        COUNT,
        "Pushes of metrics to metrics.otlp_endpoint, by outcome.",
        &["outcome"],
        |sight, out| {
            if let Some((taken, failed)) = sight.facts.pushes {
                out.count(&["ok"], taken);
                out.count(&["failed"], failed);
            }
        },
    ),
    // ---- Clients ----
    process(
        "aether_clients",
        LEVEL,
        "Client connections in any state, the console's and those of cancel requests included.",
        &[],
        |sight, out| {
            out.number(&[], sight.engine.client_count());
        },
    ),
    process(
        "aether_clients_max",
        LEVEL,
        "The most there may be (server.max_client_connections).",
        &[],
        |sight, out| {
            out.number(&[], sight.engine.config().server.max_client_connections);
        },
    ),
    process(
        "aether_clients_unauthenticated",
        LEVEL,
        "Client connections that have not shown yet who they are.",
        &[],
        |sight, out| {
            out.number(&[], sight.engine.newcomer_count());
        },
    ),
    process(
        "aether_clients_unauthenticated_max",
        LEVEL,
        "The most there may be of these (server.max_unauthenticated_connections).",
        &[],
        |sight, out| {
            out.number(
                &[],
                sight.engine.config().server.max_unauthenticated_connections,
            );
        },
    ),
    process(
        "aether_clients_accepted",
        COUNT,
        "Client connections that were accepted.",
        &[],
        |sight, out| {
            out.count(&[], sight.engine.tally().accepted);
        },
    ),
    process(
        "aether_client_closes",
        COUNT,
        "Client connections that ended, by reason and by the SQLSTATE that the client was told.",
        &["reason", "sqlstate"],
        |sight, out| {
            for ((reason, code), count) in &sight.engine.tally().client_closes {
                let told = code.iter().any(|byte| *byte != 0);
                let code = if told { printable(code) } else { String::new() };
                out.count(&[reason, &code], *count);
            }
        },
    ),
    process(
        "aether_logins",
        COUNT,
        "Logins of clients that ended, by method and outcome.",
        &["method", "outcome"],
        |sight, out| {
            for ((method, outcome), count) in &sight.engine.tally().logins {
                out.count(&[method, outcome], *count);
            }
        },
    ),
    process(
        "aether_login_duration_seconds",
        TIMES,
        "How long logins took that succeeded, from accepting to the proof.",
        &[],
        |sight, out| {
            let tally = sight.engine.tally();
            out.times(&[], &tally.login_times, tally.login_us);
        },
    ),
    process(
        "aether_cancel_requests",
        COUNT,
        "Cancel requests of clients, by what became of them.",
        &["outcome"],
        |sight, out| {
            for (outcome, count) in &sight.engine.tally().cancels {
                out.count(&[outcome], *count);
            }
        },
    ),
    process(
        "aether_prepared_statement_bytes",
        (Gauge, Bytes),
        "What the texts of prepared statements take, each text once.",
        &[],
        |sight, out| {
            out.number(&[], sight.engine.statement_bytes());
        },
    ),
    process(
        "aether_prepared_statement_max_bytes",
        (Gauge, Bytes),
        "The most that they may take.",
        &[],
        |_, out| {
            out.number(&[], limits::STATEMENT_BYTES_MAX);
        },
    ),
    process(
        "aether_tls_certificate_expiry_timestamp_seconds",
        (Gauge, Seconds),
        "Until when a certificate of ours is valid, in seconds since 1970.",
        &["side", "database", "subject"],
        certificates,
    ),
    // ---- Users ----
    process(
        "aether_user_clients",
        LEVEL,
        "Clients that logged in as this user, in all pools.",
        &["user"],
        |sight, out| {
            users(sight, out, |_, _, clients| Some(clients));
        },
    ),
    process(
        "aether_user_clients_max",
        LEVEL,
        "The most there may be (users.NAME.max_client_connections), where there is a limit.",
        &["user"],
        |sight, out| {
            users(sight, out, |config, _, _| {
                Some(config.max_client_connections).filter(|max| *max > 0)
            });
        },
    ),
    process(
        "aether_user_servers",
        LEVEL,
        "Server connections as this role, in all pools.",
        &["user"],
        |sight, out| {
            users(sight, out, |_, servers, _| Some(servers));
        },
    ),
    process(
        "aether_user_servers_max",
        LEVEL,
        "The most there may be (users.NAME.max_connections), where there is a limit.",
        &["user"],
        |sight, out| {
            users(sight, out, |config, _, _| {
                Some(config.max_connections).filter(|max| *max > 0)
            });
        },
    ),
    // ---- Pools ----
    called(
        "db.client.connection.pending_requests",
        pool(
            "aether_pool_clients",
            LEVEL,
            "Clients in the pool: active with a server, waiting for one, or idle without.",
            &["database", "state"],
            |sight, key, pool, out| {
                let active = sight.roles.paired(key);
                let waiting = pool.waiting();
                out.number(&["active"], active);
                out.number(&["idle"], pool.clients().saturating_sub(active + waiting));
                out.number(&["waiting"], waiting);
            },
        ),
    ),
    pool(
        "aether_pool_clients_max",
        LEVEL,
        "The most clients there may be (max_client_connections of the pool), where there is a limit.",
        DATABASE,
        |_, _, pool, out| {
            if pool.config.max_client_connections > 0 {
                out.number(&[], pool.config.max_client_connections);
            }
        },
    ),
    pool(
        "aether_pool_oldest_wait_seconds",
        (Gauge, Seconds),
        "How long the client has waited that has waited longest; 0: nobody waits.",
        DATABASE,
        |sight, _, pool, out| {
            let since = pool.oldest_wait();
            out.micros(
                &[],
                since.map_or(0, |since| sight.engine.now().since(since)),
            );
        },
    ),
    called(
        "db.client.connection.count",
        pool(
            "aether_pool_servers",
            LEVEL,
            "Server connections, by the role that logged in and the state, in the words of SHOW POOLS.",
            &["database", "user", "state"],
            |sight, key, _, out| {
                for (user, counts) in sight.roles.of_pool(key) {
                    for (state, count) in SERVER_STATES.iter().zip(counts) {
                        out.number(&[user, state], *count);
                    }
                }
            },
        ),
    ),
    called(
        "db.client.connection.max",
        pool(
            "aether_pool_servers_max",
            LEVEL,
            "The most server connections there may be (max_connections of the pool).",
            DATABASE,
            |_, _, pool, out| {
                out.number(&[], pool.config.max_connections);
            },
        ),
    ),
    called(
        "db.client.connection.idle.min",
        pool(
            "aether_pool_servers_idle_min",
            LEVEL,
            "Idle server connections that are kept ready (min_idle_connections of the pool).",
            DATABASE,
            |_, _, pool, out| {
                out.number(&[], pool.config.min_idle_connections);
            },
        ),
    ),
    pool(
        "aether_pool_user_servers_max",
        LEVEL,
        "The most server connections of one role (max_connections_per_user of the pool), where there is a limit.",
        DATABASE,
        |_, _, pool, out| {
            if pool.config.max_connections_per_user > 0 {
                out.number(&[], pool.config.max_connections_per_user);
            }
        },
    ),
    pool(
        "aether_pool_servers_reserve_max",
        LEVEL,
        "Server connections beyond the limit for those who have waited (reserve_pool_size of the pool), where there are any.",
        DATABASE,
        |_, _, pool, out| {
            if pool.config.sizes.reserve_pool_size > 0 {
                out.number(&[], pool.config.sizes.reserve_pool_size);
            }
        },
    ),
    pool(
        "aether_pool_paused",
        LEVEL,
        "1 while the pool gives out no servers: PAUSE, SUSPEND or KILL of the console.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], u64::from(pool.held));
        },
    ),
    pool(
        "aether_pool_disabled",
        LEVEL,
        "1 while the pool takes no new clients: DISABLE of the console.",
        DATABASE,
        |sight, _, pool, out| {
            out.count(&[], u64::from(sight.engine.is_disabled(&pool.name)));
        },
    ),
    pool(
        "aether_pool_up",
        LEVEL,
        "0: no server connection is there and the last attempt has failed; 1: otherwise.",
        DATABASE,
        |_, _, pool, out| {
            let is_reached = pool.total() > pool.connecting();
            out.count(&[], u64::from(is_reached || pool.last_error().is_none()));
        },
    ),
    pool(
        "aether_pool_logins",
        COUNT,
        "Clients that have entered the pool.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.logins);
        },
    ),
    pool(
        "aether_pool_assignments",
        COUNT,
        "Times a server was given to a client.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.assignments);
        },
    ),
    pool(
        "aether_pool_transactions",
        COUNT,
        "Transactions.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.transactions);
        },
    ),
    pool(
        "aether_pool_queries",
        COUNT,
        "Queries, as their ReadyForQuery tells.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.queries);
        },
    ),
    pool(
        "aether_pool_received_bytes",
        (Counter, Bytes),
        "Bytes from clients.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.received);
        },
    ),
    pool(
        "aether_pool_sent_bytes",
        (Counter, Bytes),
        "Bytes to clients.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.sent);
        },
    ),
    called(
        "db.client.connection.wait_time",
        pool(
            "aether_pool_wait_duration_seconds",
            TIMES,
            "How long clients waited for a server.",
            DATABASE,
            |_, _, pool, out| {
                out.times(&[], &pool.stats.times.wait, pool.stats.total.wait_us);
            },
        ),
    ),
    called(
        "db.client.operation.duration",
        pool(
            "aether_pool_query_duration_seconds",
            TIMES,
            "How long servers worked for a client, from its request to ReadyForQuery.",
            DATABASE,
            |_, _, pool, out| {
                out.times(&[], &pool.stats.times.query, pool.stats.total.query_us);
            },
        ),
    ),
    called(
        "db.client.connection.use_time",
        pool(
            "aether_pool_transaction_duration_seconds",
            TIMES,
            "How long transactions took, from their first request on.",
            DATABASE,
            |_, _, pool, out| {
                out.times(
                    &[],
                    &pool.stats.times.transaction,
                    pool.stats.total.transaction_us,
                );
            },
        ),
    ),
    called(
        "db.client.connection.create_time",
        pool(
            "aether_pool_connect_duration_seconds",
            TIMES,
            "How long it took to make a server connection, TLS and login included.",
            DATABASE,
            |_, _, pool, out| {
                out.times(&[], &pool.stats.times.connect, pool.stats.times.connect_us);
            },
        ),
    ),
    pool(
        "aether_pool_server_connects",
        COUNT,
        "Server connections that were made.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.connects);
        },
    ),
    pool(
        "aether_pool_server_connect_failures",
        COUNT,
        "Server connections that could not be made, by reason.",
        &["database", "reason"],
        |_, _, pool, out| {
            for (number, count) in pool.stats.events.connect_failures.iter().enumerate() {
                out.count(&[connect_failure_word(number)], *count);
            }
        },
    ),
    pool(
        "aether_pool_server_closes",
        COUNT,
        "Server connections that were closed, by reason.",
        &["database", "reason"],
        |_, _, pool, out| {
            for (number, count) in pool.stats.events.server_closes.iter().enumerate() {
                out.count(&[server_close_word(number)], *count);
            }
        },
    ),
    pool(
        "aether_pool_statement_parses",
        COUNT,
        "Named statements that clients have prepared, and that were prepared on servers for them, where Aether follows them.",
        &["database", "side"],
        |_, _, pool, out| {
            out.count(&["client"], pool.stats.total.client_parses);
            out.count(&["server"], pool.stats.total.server_parses);
        },
    ),
    pool(
        "aether_pool_statement_binds",
        COUNT,
        "Times that clients have bound such a statement.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.binds);
        },
    ),
    pool(
        "aether_pool_statement_hits",
        COUNT,
        "Those of them for which the server had it already.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.hits);
        },
    ),
    pool(
        "aether_pool_statement_evictions",
        COUNT,
        "Named statements that were closed on servers which held more than max_prepared_statements.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.evictions);
        },
    ),
    pool(
        "aether_pool_statements_per_server_max",
        LEVEL,
        "The most named statements on one server connection (max_prepared_statements of the pool); 0: Aether does not follow them.",
        DATABASE,
        |_, _, pool, out| {
            out.number(&[], pool.config.max_prepared_statements);
        },
    ),
    pool(
        "aether_pool_resets",
        COUNT,
        "Server connections that were reset for the next client.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.resets);
        },
    ),
    pool(
        "aether_pool_checks",
        COUNT,
        "Idle server connections that were checked before they were used again.",
        DATABASE,
        |_, _, pool, out| {
            out.count(&[], pool.stats.total.checks);
        },
    ),
];

fn certificates(sight: &Sight<'_>, out: &mut Out<'_>) {
    let config = sight.engine.config();
    let mut tell = |side: &str, database: &str, of: &[Lifetime]| {
        // The first is our own; the others are those between it and a root, and may outlive nobody.
        let mut seen = std::collections::BTreeSet::new();
        for Lifetime {
            subject, not_after, ..
        } in of.iter().filter(|of| seen.insert(&of.subject))
        {
            let subject = printable(subject.as_bytes());
            out.signed(
                &[side, &printable(database.as_bytes()), &subject],
                *not_after,
            );
        }
    };
    if let Some(tls) = &config.server.tls {
        tell("client", "", tls.lifetimes());
    }
    let pools = config
        .databases
        .iter()
        .map(|(name, pool)| (name.as_str(), pool));
    for (name, pool) in pools.chain(config.fallback.iter().map(|pool| ("*", pool))) {
        if let Some(tls) = &pool.backend.tls {
            tell("server", name, tls.lifetimes());
        }
    }
}

/// A number of each user. Beyond the most that are told apart, the sum of the others.
fn users(
    sight: &Sight<'_>,
    out: &mut Out<'_>,
    number: fn(crate::config::UserConfig, usize, usize) -> Option<usize>,
) {
    let mut others = Option::<usize>::None;
    for (place, (name, config, servers, clients)) in sight.engine.pools().users().enumerate() {
        let Some(number) = number(config, servers, clients) else {
            continue;
        };
        if place < limits::METRIC_USERS_MAX {
            out.number(&[&printable(name)], number);
        } else {
            *others.get_or_insert(0) += number;
        }
    }
    if let Some(others) = others {
        out.number(&[OTHERS], others);
    }
}
