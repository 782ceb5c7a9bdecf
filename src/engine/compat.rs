//! What clients of a PgBouncer are used to: its texts, its one SQLSTATE, and nothing else (`server.sqlstate_compat: pgbouncer`).
//!
//! Each [`Refusal`] carries PgBouncer's words beside ours where they differ. What a server has said passes as it is.

use std::borrow::Cow;

use super::Engine;
use crate::config::SqlstateCompat;
use crate::wire::frame::printable;
use crate::wire::refusal::{Refusal, Severity, Words};

/// PgBouncer cuts its texts there, in bytes.
const TEXT_MAX: usize = 127;

impl Engine {
    /// An error as clients are to see it.
    pub(super) fn worded<'a>(&self, refusal: &'a Refusal) -> Cow<'a, Refusal> {
        match self.config.server.sqlstate_compat {
            SqlstateCompat::Postgres => Cow::Borrowed(refusal),
            SqlstateCompat::PgBouncer => Cow::Owned(as_pgbouncer(refusal)),
        }
    }
}

/// An error in PgBouncer's words.
pub(super) fn text(refusal: &Refusal) -> String {
    match &refusal.words {
        Words::Otherwise(text) => printable(text.as_bytes()),
        Words::Ours | Words::Servers => refusal.text(),
    }
}

fn as_pgbouncer(refusal: &Refusal) -> Refusal {
    if refusal.words == Words::Servers {
        return refusal.clone();
    }
    let mut message = match &refusal.words {
        Words::Otherwise(text) => text.as_bytes().to_vec(),
        Words::Ours | Words::Servers => refusal.message.clone(),
    };
    message.truncate(TEXT_MAX);
    while std::str::from_utf8(&message).is_err_and(|error| error.error_len().is_none()) {
        message.pop(); // the start of a character
    }
    Refusal {
        severity: Severity::Fatal,
        sqlstate: *b"08P01",
        message,
        detail: None,
        hint: None,
        blame: refusal.blame,
        words: Words::Ours,
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Scene, World, said};
    use super::*;
    use crate::wire::refusal::Blame;

    #[test]
    fn a_client_of_pgbouncer_is_told_what_it_is_used_to() {
        let config = "pool: {dsn: 'postgres://me:secret@127.0.0.1/db?sslmode=disable'}\n\
                      auth: {type: trust, allow_insecure: true}\nserver: {sqlstate_compat: pgbouncer}\n";
        let mut scene = Scene::with(config, World::default());
        let client = scene.client_with("nowhere", &[]);
        assert_eq!(said(&client), "08P01 no such database: nowhere");
        scene.reload(&config.replace("sqlstate_compat: pgbouncer", "sqlstate_compat: postgres"));
        let client = scene.client_with("nowhere", &[]);
        assert_eq!(said(&client), "3D000 database \"nowhere\" does not exist");
    }

    #[test]
    fn a_servers_error_passes_as_it_is() {
        let mut greeting = Vec::new();
        Refusal::fatal(b"53300", "sorry, too many clients already", Blame::Server)
            .detail("of all")
            .write(&mut greeting);
        let error = Refusal::read(greeting.get(5..).unwrap_or_default(), Blame::Server);
        assert_eq!(as_pgbouncer(&error), error);
    }

    #[test]
    fn texts_are_cut_where_pgbouncer_cuts_them() {
        let long = Refusal::fatal(b"3D000", "x", Blame::Client)
            .pgbouncer(format!("no such database: {}", "ö".repeat(100)));
        let cut = as_pgbouncer(&long);
        assert!(cut.message.len() <= TEXT_MAX && cut.message.len() > TEXT_MAX - 2);
        assert!(String::from_utf8(cut.message).is_ok_and(|text| text.ends_with('ö')));
        assert_eq!((cut.detail, cut.hint), (None, None));
    }
}
