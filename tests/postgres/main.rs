//! Aether against a real PostgreSQL, which the tests start themselves. One module per question.

#[path = "../support/mod.rs"]
mod support;

mod cancels;
mod faults;
mod hostile_server;
mod isolation;
mod life_cycle;
mod load;
mod logins;
mod memory;
mod operations;
mod session;
mod support_itself;
