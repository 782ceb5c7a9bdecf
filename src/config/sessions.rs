//! What sessions begin with: which of a client's startup parameters count, what a server runs first, what clients may send.

/// Of a pool. In PgBouncer's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Startup parameters of clients that count for nothing, in lower case. `options` among them: whatever it holds that servers do
    /// not report.
    pub ignore_startup_parameters: Vec<String>,
    /// What a server connection runs before its first use; empty: nothing.
    pub connect_query: String,
    /// Simple queries are refused.
    pub disable_pqexec: bool,
    /// Largest message of a client or a server that may pass, its type letter not counted; 0: PostgreSQL's own limits.
    pub max_packet_size: u32,
}
