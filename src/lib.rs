//! Aether, a PostgreSQL connection pooler: pure machines decide, one engine moves bytes, one thin shell knows the kernel.
//!
//! # The floors
//!
//! From the ground up; a module only uses those above it in this list (`tests/layers.rs` holds that):
//!
//! | module | what it owns |
//! |---|---|
//! | [`limits`], [`arena`], [`reasons`], [`stats`] | every maximum; keys and time; why connections end; counters |
//! | [`tls`] | what we show and whom we trust: certificates, ciphers, PostgreSQL's rules for both |
//! | [`config`] | one validated configuration, and `aether.yaml` |
//! | [`wire`] | the protocol: bytes to messages and back |
//! | [`fingerprint`] | statements without their values |
//! | [`auth`] | how a client proves itself, how we prove ourselves to a server |
//! | [`relay`] | what may pass between a client and its server |
//! | [`startup`], [`tune`], [`reset`], [`lookup`] | logging in to a server; trying a client's settings on it; making it fit for the next client; asking it for a user's secret |
//! | [`pool`] | who gets which server |
//! | [`engine`] | moves bytes: turn, links, timers |
//! | [`admin`] | the console, a client that lives inside the engine |
//! | [`metrics`] | what the engine has counted, for Prometheus |
//! | [`log`](mod@log) | the line writer that never blocks |
//! | [`net`] | the only floor that knows the kernel: poll loop, sockets, names, signals |
//! | [`top`] | `aether top`: a client of its own, that shows what the console tells |
//!
//! # The way of one query
//!
//! 1. The kernel says that a client's socket can be read: [`net`] turns that into an [`engine::Event`] and calls
//!    [`engine::Engine::turn`], which puts the client on its list of what to run.
//! 2. The client is paired with a server (`engine/pump.rs`): its bytes are read into the loop's one buffer
//!    (`engine/link.rs`), and [`relay::Relay::up`] looks at the message headers and says how much may pass.
//! 3. That much is written straight to the server's socket; what it does not take waits in its outbox, and as long as it
//!    waits the client is not read.
//!    In transaction mode, where prepared statements have other names on the server, what passes is put together anew
//!    (`relay/rewrite.rs`, `relay/prepared.rs`); after DDL, a batch may go up twice (`relay/recover.rs`). Some of it needs no
//!    server at all (`relay/idle.rs`).
//! 4. The server answers; the same way down, through [`relay::Relay::down`], until ReadyForQuery.
//! 5. When the client leaves (`engine/close.rs`), the server is reset ([`reset::Reset`]) and goes back to its
//!    [`pool::Pool`], which gives it to the client that has waited longest. In transaction mode it goes back when the
//!    transaction is over (`engine/queue.rs`), as it is.

#![forbid(unsafe_code)]

pub mod admin;
pub mod arena;
pub mod auth;
pub mod config;
pub mod engine;
pub mod fingerprint;
pub mod limits;
pub mod log;
pub mod lookup;
pub mod metrics;
pub mod net;
pub mod pool;
pub mod reasons;
pub mod relay;
pub mod reset;
pub mod startup;
pub mod stats;
pub mod tls;
pub mod top;
pub mod tune;
pub mod wire;
