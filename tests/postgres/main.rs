//! Aether against a real PostgreSQL, which the tests start themselves. One module per question.

#[path = "../support/mod.rs"]
mod support;

mod hostile_server;
mod isolation;
mod logins;
mod memory;
mod session;
mod support_itself;
