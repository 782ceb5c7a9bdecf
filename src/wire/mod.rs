//! The PostgreSQL protocol, version 3: bytes to messages and back.
//!
//! Pure: knows no sockets, no clock, no pool. Type letters overlap between the directions, so everything a client sends is
//! in [`frontend`], everything a server sends in [`backend`], and the packets before login, which have no type letter, in
//! [`startup`]. Errors are values: [`refusal::Refusal`] *is* an ErrorResponse.

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod refusal;
pub mod startup;
