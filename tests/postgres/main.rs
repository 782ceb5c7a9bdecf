//! Aether against a real PostgreSQL, which the tests start themselves. One module per question.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)]
#[path = "../simulation/random.rs"]
mod random;

mod modes;

mod auth_query;
mod batches;
mod blocks;
mod cancels;
mod chaos;
mod console;
mod daemon;
mod ddl;
mod faults;
mod hba;
mod hostile_server;
mod hosts;
mod ini;
mod isolation;
mod life_cycle;
mod limits;
mod load;
mod logins;
mod long_answers;
mod matrix;
mod memory;
mod metrics;
mod metrics_exact;

mod model;
mod operations;
mod operators;
mod peers;
mod relied_on;
mod replication;
mod roles;
mod scale;
mod secrets;
mod series;
mod session;
mod side_by_side;
mod signals;
mod slow;
mod startup;
mod statements;
mod succession;
mod support_itself;
mod tls;
mod top;
mod under_pgbench;
mod vanishing;
