//! Aether against a real PostgreSQL, which the tests start themselves. One module per question.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)]
#[path = "../simulation/random.rs"]
mod random;

mod modes;

mod batches;
mod cancels;
mod chaos;
mod faults;
mod hostile_server;
mod isolation;
mod life_cycle;
mod limits;
mod load;
mod logins;
mod memory;
mod operations;
mod session;
mod support_itself;
