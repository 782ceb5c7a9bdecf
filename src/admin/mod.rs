//! The console: answers the commands of clients that asked for the database `aether` or `pgbouncer`.
//!
//! Stands above the engine: reads it through its public methods and sends rows through [`Engine::answer_part`]. Long answers
//! are made a part at a time: where one stops is a slot of an arena, so connections may come and go in between.

mod command;
mod show;

use crate::engine::{ClientState, Engine, Request, Role};
use crate::wire::backend;
use crate::wire::refusal::Refusal;
use command::Command;

/// Rows of one part of a long answer.
const ROWS_PER_PART: usize = 200;

/// Answers a command, or goes on with its answer.
pub fn answer(engine: &mut Engine, request: &Request) {
    let role = match engine
        .clients()
        .get(request.client)
        .map(|client| client.state())
    {
        Some(ClientState::Console(console)) => console.role,
        _ => return,
    };
    let mut out = Vec::new();
    match command::parse(&request.command).and_then(|command| allowed(command, role)) {
        Ok(Some(command)) => {
            if let Some(next) = show::rows(engine, command, request.from, ROWS_PER_PART, &mut out) {
                return engine.answer_part(request.client, &out, next);
            }
            backend::write_command_complete(&mut out, "SHOW");
        }
        Ok(None) => backend::write_empty_query(&mut out),
        Err(refusal) => refusal.write(&mut out),
    }
    backend::write_ready(&mut out);
    engine.answer_end(request.client, &out);
}

/// Whether a role may do it: what is not said to be allowed is not.
fn allowed(command: Option<Command>, role: Role) -> Result<Option<Command>, Refusal> {
    let may = match command {
        None
        | Some(
            Command::Pools
            | Command::Servers
            | Command::Clients
            | Command::Databases
            | Command::Users
            | Command::Stats
            | Command::Tls
            | Command::Version
            | Command::Help,
        ) => {
            matches!(role, Role::Admin | Role::Stats)
        }
    };
    if may {
        Ok(command)
    } else {
        Err(Refusal::error(b"42501", "admin access needed"))
    }
}
