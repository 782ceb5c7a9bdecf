//! Why connections end, as the few words that metrics count by: whatever text the log has for it comes down to one of these.
//!
//! The texts are the engine's. A test reads them out of its source and fails where one is not in a table here, so whoever writes a
//! new one says what it is counted as. What is in no table is not ours: it is what a server said, in its own words.

/// A word, and what the texts begin with that mean it; behind a `*`, what they contain.
type Table<const N: usize> = [(&'static str, &'static [&'static str]); N];

/// Why server connections are closed, by the beginning of the text. The first that fits counts.
const SERVER: Table<20> = [
    ("lifetime", &["server lifetime over"]),
    ("idle_timeout", &["server idle timeout"]),
    (
        "surplus",
        &[
            "too many servers in the pool",
            "idle servers of too many startup sets",
        ],
    ),
    ("made_room", &["made room "]),
    (
        "reconfigured",
        &[
            "database configuration changed",
            "database removed",
            "clients have shared it, and the mode is session now",
        ],
    ),
    ("shutdown", &["the pooler stops"]),
    ("paused", &["pause mode"]),
    ("suspend_timeout", &["suspend_timeout"]),
    (
        "client_left",
        &[
            "client left in the middle of a message, a copy or a batch",
            "replication client disconnected",
        ],
    ),
    (
        "not_reusable",
        &[
            "client left something behind",
            "client left a COPY that failed",
            "replication connections serve one session",
        ],
    ),
    (
        "abandoned_query",
        &["abandoned_query_timeout: ", "its client was sent away, "],
    ),
    (
        "client_overdue",
        &[
            "query timeout",
            "transaction timeout",
            "idle transaction timeout",
        ],
    ),
    ("cancel", &["a cancel against it did not end"]),
    ("reset_failed", &["reset query failed: "]),
    ("check_failed", &["test query failed: "]),
    (
        "settings_failed",
        &[
            "setting the startup parameters of a client failed",
            "connect_query leaves a transaction open",
        ],
    ),
    ("lookup_failed", &["auth_query failed: "]),
    (
        "protocol",
        &[
            "bad packet",
            "it spoke while nobody had asked",
            "it sent ",
            "transaction blocks not allowed in statement pooling mode",
        ],
    ),
    (
        "lost",
        &[
            "server conn crashed? ",
            "* while it was not in use",
            "* after error ",
        ],
    ),
    ("internal", &["internal error"]),
];

/// How many words there are for the end of a server connection.
pub const SERVER_CLOSES: usize = SERVER.len() + 1;

/// What the server said itself, as `terminating connection due to administrator command`.
const SAID: &str = "server_error";

/// The word of a number that [`server_close`] gave.
pub fn server_close_word(number: usize) -> &'static str {
    SERVER.get(number).map_or(SAID, |(word, _)| word)
}

/// What the end of a server connection is counted as.
pub fn server_close(text: &str) -> usize {
    place(&SERVER, text).unwrap_or(SERVER.len())
}

/// Why client connections are closed without being told why.
const CLIENT: Table<10> = [
    ("terminate", &["client close request"]),
    (
        "left_login",
        &[
            "client left before it was logged in",
            "* before it was logged in",
            "*, and the client did not wait for the answer",
        ],
    ),
    (
        "left_queue",
        &["client closed the connection while it waited for a server"],
    ),
    ("disconnect", &["client closed the connection"]),
    ("login_timeout", &["client_login_timeout "]),
    (
        "too_many",
        &[
            "far too many clients",
            "too many connections that have not logged in",
        ],
    ),
    (
        "cancel_request",
        &[
            "*cancel request",
            "cancel_wait_timeout",
            "could not find peer to forward request to",
            "peer removed",
        ],
    ),
    (
        "protocol",
        &[
            "client sent something that is no startup packet",
            "TLS cannot be set up: ",
        ],
    ),
    ("lost", &["client lost: "]),
    ("suspend_timeout", &["suspend_timeout"]),
];

/// What the end of a client connection is counted as that was not told why.
pub fn client_close(text: &str) -> &'static str {
    place(&CLIENT, text)
        .and_then(|number| CLIENT.get(number))
        .map_or("other", |(word, _)| word)
}

/// Why connections to servers fail, by the SQLSTATE of the error.
const CONNECT: Table<7> = [
    ("protocol", &["08P01"]),
    ("unreachable", &["08"]),
    ("authentication", &["28"]),
    ("too_many", &["53"]),
    ("not_ready", &["57"]),
    ("no_database", &["3D"]),
    ("internal", &["XX"]),
];

/// How many words there are for a failed connection to a server.
pub const CONNECT_FAILURES: usize = CONNECT.len() + 1;

/// The word of a number that [`connect_failure`] gave.
pub fn connect_failure_word(number: usize) -> &'static str {
    CONNECT.get(number).map_or("other", |(word, _)| word)
}

/// What a failed connection to a server is counted as.
pub fn connect_failure(sqlstate: [u8; 5]) -> usize {
    let code = String::from_utf8_lossy(&sqlstate).into_owned();
    place(&CONNECT, &code).unwrap_or(CONNECT.len())
}

fn place<const N: usize>(table: &Table<N>, text: &str) -> Option<usize> {
    let fits = |pattern: &&str| match pattern.strip_prefix('*') {
        Some(inside) => text.contains(inside),
        None => text.starts_with(pattern),
    };
    table
        .iter()
        .position(|(_, patterns)| patterns.iter().any(fits))
}

/// Whether a text is one of those in the table of server connections.
#[cfg(test)]
pub(crate) fn is_known_of_servers(text: &str) -> bool {
    place(&SERVER, text).is_some()
}

/// Whether a text is one of those in the table of client connections.
#[cfg(test)]
pub(crate) fn is_known_of_clients(text: &str) -> bool {
    place(&CLIENT, text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits_counts() {
        let word = |text| server_close_word(server_close(text));
        assert_eq!(word("server lifetime over"), "lifetime");
        assert_eq!(
            word("server conn crashed? Connection reset by peer"),
            "lost"
        );
        assert_eq!(
            word("server closed the connection after error 57P01"),
            "lost"
        );
        assert_eq!(
            word("the server closed the connection while it was not in use"),
            "lost"
        );
        assert_eq!(
            word("terminating connection due to idle-session timeout"),
            SAID
        );
        assert_eq!(
            client_close("client closed the connection without Terminate"),
            "disconnect"
        );
        assert_eq!(
            client_close("client lost: Connection reset by peer"),
            "lost"
        );
        // Found by the script of tests/postgres/metrics_exact.rs: they were counted as something else.
        for text in [
            "cancel request done",
            "failed cancel request",
            "failed to forward cancel request because its TTL was exhausted",
            "too many cancel requests with wrong keys came from this address",
            "too many cancel requests wait to be passed on",
            "could not find peer to forward request to",
        ] {
            assert_eq!(client_close(text), "cancel_request", "{text}");
        }
        let failed = "password authentication failed, and the client did not wait for the answer";
        assert_eq!(client_close(failed), "left_login");
        let failure = |code: &[u8; 5]| connect_failure_word(connect_failure(*code));
        assert_eq!(failure(b"08P01"), "protocol");
        assert_eq!(failure(b"08006"), "unreachable");
        assert_eq!(failure(b"28P01"), "authentication");
        assert_eq!(failure(b"42704"), "other");
    }
}
