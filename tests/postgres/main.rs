//! Aether against a real PostgreSQL, which the tests start themselves. One module per question.

#[path = "../support/mod.rs"]
mod support;

mod cancels;
mod faults;
mod life_cycle;
mod load;
mod memory;
mod operations;
mod support_itself;
