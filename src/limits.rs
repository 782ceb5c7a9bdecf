//! Every maximum in the program, named, with its reason.
//!
//! A queue, a buffer or a loop without a maximum is a bug (STYLE, habit 6). What an operator may want to change is a key
//! of the configuration; what only protects the process is here.

/// Largest startup packet, length word included (PostgreSQL: `MAX_STARTUP_PACKET_LENGTH` plus the length word).
pub const STARTUP_PACKET_MAX: usize = 10_004;
/// Largest password in clear of a client, length word included. PostgreSQL's own limit is 65,535.
pub const PASSWORD_MESSAGE_MAX: usize = 65_535;
/// Largest SASL message that SCRAM needs. Nothing that libpq or any driver sends comes near.
pub const SASL_MESSAGE_MAX: usize = 1_024;
/// Largest of the client's small messages (`S H X C D E c f`), length word included, as in PostgreSQL.
pub const SMALL_MESSAGE_MAX: u32 = 10_000;
/// Largest of the client's large messages (`Q P B F d`), length word included, as in PostgreSQL (1 GB - 2).
pub const LARGE_MESSAGE_MAX: u32 = 0x3FFF_FFFE;
/// Largest message a server may send, length word included.
pub const SERVER_MESSAGE_MAX: u32 = 0x4000_0000;
/// Largest message of a server while it logs in; ParameterStatus and errors are far smaller.
pub const LOGIN_MESSAGE_MAX: usize = 30_000;
/// Messages of a server while it logs in: PostgreSQL sends some twenty, and what triggers for logins have to say.
pub const LOGIN_MESSAGES_MAX: u32 = 4_096;
/// Notices kept from a server's login, to be shown to the clients that get this server.
pub const LOGIN_NOTICES_MAX: usize = 8 * 1024;
/// Largest ParameterStatus that is looked at; a larger one passes, and its server is not used again.
pub const PARAMETER_STATUS_MAX: usize = 16 * 1024;
/// The SQLSTATE of a server's error is looked for in so many bytes from its start; PostgreSQL puts it within the first thirty.
pub const ERROR_CODE_WITHIN: usize = 128;
/// Most parameters remembered per server. PostgreSQL reports some fifteen.
pub const PARAMETERS_MAX: usize = 256;
/// One read, and the size of the loop's one buffer beside the carry. With what was carried before it, it should fit into the largest
/// packet that the kernel makes (64 kB with its headers): of 64 kB a few bytes go in a packet of their own, which doubles what large
/// results cost.
pub const READ_MAX: usize = 56 * 1024;
/// While an answer or a copy is read in large pieces (`server.bulk_after`), so many bytes wake us: four whole reads. With more, little
/// more is saved, and it would not stay in the processor's cache.
pub const BULK_PIECE: usize = 4 * READ_MAX;
/// How long such a piece may take to come; what is there then is read.
pub const BULK_WAIT_MS: u64 = 1;
/// If that is less than this, the answer comes slowly, and waiting for more saves nothing.
pub const BULK_LEAST: usize = 16 * 1024;
/// Most bytes that may wait in `carry` for the rest of a message that must be seen whole.
pub const CARRY_MAX: usize = STATEMENT_MAX + 16 * 1024;
/// Most bytes that may wait in an `outbox` before nothing more is put in: one read and what Aether adds itself.
pub const OUTBOX_MAX: usize = 256 * 1024;
/// Answers that a server may owe before the client is no longer read (catalogue C10).
pub const OWED_MAX: usize = 8_192;
/// Iterations that a server may ask for in SCRAM where nothing else is configured (catalogue R6), and those of our own verifiers.
pub const SCRAM_ITERATIONS_MAX: u32 = 100_000;
/// Most that can be configured: some seconds of one core for each login with new keys.
pub const SCRAM_ITERATIONS_CEILING: u32 = 10_000_000;
/// Longest batch that is kept to be tried again after DDL. As much may stay with each server connection.
pub const BATCH_KEPT_MAX: usize = 16 * 1024;
/// How often a batch is tried again after DDL.
pub const TRIES_AGAIN_MAX: u32 = 2;
/// Largest Parse message, length word and type letter included, whose text is kept.
pub const STATEMENT_MAX: usize = 1024 * 1024;
/// Bytes that the texts of all prepared statements may take together.
pub const STATEMENT_BYTES_MAX: usize = 256 << 20;
/// Named statements that one client may have.
pub const STATEMENTS_PER_CLIENT_MAX: usize = 10_000;
/// Largest ParameterDescription that is kept of a named statement: that of 255 parameters.
pub const DESCRIPTION_MAX: usize = 1_024;
/// Longest names of portal and statement, together, that are looked for in a Bind; longest DEALLOCATE that is read.
pub const NAMES_MAX: usize = 10_000;

/// Portals of one transaction that deallocate prepared statements and are not run yet.
pub const DEALLOCATING_PORTALS_MAX: usize = 100;
/// A client without a server gets one when its first message is whole, or so much of it is here.
pub const FIRST_MESSAGE_WITHIN: usize = 16 * 1024;
/// A CommandComplete's tag is looked at in so many bytes.
pub const TAG_WITHIN: usize = 16;
/// Bytes of a name that PostgreSQL keeps (`NAMEDATALEN` less one).
pub const NAME_LEN: usize = 63;
/// The first word of a query is looked for in so many bytes.
pub const KEYWORD_WITHIN: usize = 128;
/// Most startup sets of which idle servers are kept in one pool.
pub const IDLE_KINDS_MAX: usize = 8;
/// Most startup sets whose welcome is remembered in one pool (`server_assignment: first_query`).
pub const WELCOMES_MAX: usize = 64;
/// Most sets of reported startup parameters of which one pool remembers what its servers make of them.
pub const SETTINGS_MAX: usize = 256;
/// Cancel connections under way to the servers of one pool.
pub const CANCELS_MAX: usize = 64;
/// Connections that wait for the end of one cancel; more are closed at once.
pub const CANCEL_ASKERS_MAX: usize = 16;
/// New connections taken per listener and turn, so that a storm of them does not starve the others.
pub const ACCEPTS_PER_TURN: usize = 64;
/// So many times [`ACCEPTS_PER_TURN`] before a listener is closed: the longest queue that the kernel usually keeps.
pub const LAST_ACCEPTS: usize = 64;
/// Steps of TLS handshakes in one turn: what is costly in one, a signature, takes up to a millisecond (RSA).
pub const HANDSHAKES_PER_TURN: usize = 1;
/// Addresses of one host name that are tried.
pub const ADDRESSES_MAX: usize = 64;
/// For how long the last answer of the name servers is gone by while none of them can be asked.
pub const STALE_ADDRESSES_MS: u64 = 3_600_000;
/// Shortest pause before a name is asked for again of its own accord.
pub const RESOLVE_PAUSE_MS: u64 = 1_000;
/// Pools made from the `"*"` entry that may exist at once.
pub const FALLBACK_POOLS_MAX: usize = 1_000;
/// Derived SCRAM keys remembered.
pub const DERIVED_KEYS_MAX: usize = 10_000;
/// Users whose keys, proven by clients that know the password, are remembered to log in to servers with.
pub const PROVEN_KEYS_MAX: usize = 65_536;
/// Authentication messages a client may send.
pub const AUTH_ROUNDS_MAX: u32 = 4;
/// How long a connection that is being closed may take to read its last message.
pub const LINGER_MS: u64 = 2_000;
/// Log lines that may wait for the writer thread; more are dropped and counted.
pub const LOG_QUEUE_MAX: usize = 8_192;
/// Log lines that are written together have about so many bytes at most.
pub const LOG_WRITE_MAX: usize = 64 * 1024;
/// Longest text of a log line; PgBouncer's lines have 2 kB.
pub const LOG_TEXT_MAX: usize = 2_048;
/// Reasons of which is counted how often they were logged within a second; more are not limited.
pub const LOG_REASONS_MAX: usize = 1_024;
/// How long those may take who are told that the process ends to read it.
pub const FAREWELL_MS: u64 = 1_000;
/// Longest text from a peer inside a log line or an error.
pub const QUOTED_TEXT_MAX: usize = 256;
/// Cancel requests with keys that no client of ours has that are looked at in a second, from one address, in the long run: guesses, and
/// those for peers. A key has 45 random bits at least.
pub const CANCEL_GUESSES_PER_S: u32 = 50;
/// Cancel requests that may wait to be passed on to peers.
pub const FORWARDS_WAITING_MAX: usize = 1_000;
/// Pause after the process ran out of descriptors before it accepts again.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// First pause after a server could not be reached; it doubles with each attempt, up to `server_login_retry`.
pub const RETRY_FIRST_MS: u64 = 50;
/// How often somebody looks whether a question about a user's secret can be asked by now.
pub const LOOKUP_LOOK_MS: u64 = 500;
/// Pause before idle connections are made again after one could not be made; it doubles with each login that is refused.
pub const REFILL_PAUSE_MS: u64 = 1_000;
/// Longest pause before idle connections are tried again whose login the server refuses.
pub const REFILL_PAUSE_MAX_MS: u64 = 60_000;
/// What a client may have sent ahead of its login.
pub const AHEAD_MAX: usize = 70_000;
/// Client connections beyond the configured maximum that are let in to be told so; as many again may linger while they are
/// told at once, more are closed without a word.
pub const OVER_LIMIT_MAX: usize = 128;
/// Largest command for the console.
pub const CONSOLE_COMMAND_MAX: usize = 16 * 1024;
/// Prepared statements, and portals, of a console session: a driver's cache, and no more.
pub const CONSOLE_STATEMENTS_MAX: usize = 256;
/// Parameters of one of them.
pub const CONSOLE_PARAMETERS_MAX: usize = 100;
/// Rounds through those who can go on, in one turn: a client that asks gets its server, and its request sent, in the same turn.
pub const ROUNDS_PER_TURN: usize = 2;
/// Rounds through the pools in one turn; what changes after that waits for the next.
pub const SETTLE_ROUNDS: usize = 8;
/// Files of pg_hba.conf and pg_ident.conf bring in one another at most this deep, as in PostgreSQL (`CONF_FILE_MAX_DEPTH`).
pub const HBA_DEPTH_MAX: usize = 10;
/// Lines of a pg_hba.conf or pg_ident.conf, with those of the files that it brings in and one for each of these files.
pub const HBA_LINES_MAX: usize = 100_000;
/// Longest of these lines, in bytes, when those that go on are joined.
pub const HBA_LINE_BYTES_MAX: usize = 64 * 1024;
/// Errors of such a file that are told at once.
pub const HBA_ERRORS_MAX: usize = 50;
/// Memory that one regular expression of these files may take when it is compiled.
pub const HBA_PATTERN_BYTES_MAX: usize = 256 * 1024;
/// Connections that ask for secrets (`auth_query`) in one database. Beside those of its pool: a pool that is full must not keep out
/// those who come, nor they those who are there.
pub const LOOKUP_CONNECTIONS_PER_DATABASE: usize = 2;
/// The same over all databases: under `"*"`, strangers choose their names.
pub const LOOKUP_CONNECTIONS_MAX: usize = 16;
/// Databases whose users' secrets are remembered.
pub const LOOKUP_DATABASES_MAX: usize = 1_000;
/// Connections that may be lost over one question before it has failed.
pub const LOOKUP_TRIES_MAX: u32 = 2;
/// For how long an answer serves that lets nobody in, and for how long nothing is asked where it could not be.
pub const LOOKUP_PAUSE_MS: u64 = 1_000;
/// Users of one database whose secrets are remembered, and as many that it does not have.
pub const SECRETS_MAX: usize = 10_000;
/// How much of the time to come a source's failed logins may take before the next one has to wait.
pub const FAILURE_BURST_MS: u64 = 5_000;
/// Longest wait before a login is tried from where many have failed; who would wait longer is turned away.
pub const FAILURE_WAIT_MAX_MS: u64 = 5_000;
/// Sources of failed logins that are remembered.
pub const FAILURE_SOURCES_MAX: usize = 65_536;
/// A login is left alone for this long when there are too many of them at once.
pub const LOGIN_UNDISTURBED_MS: u64 = 2_000;
/// What a client that has not logged in may hold, however much the others do.
pub const LOGIN_BYTES_FREE: usize = 2 * 1024;
/// What all clients that have not logged in may hold together, beside that.
pub const LOGIN_BYTES_MAX: usize = 16 << 20;
/// Connections to the metrics' address at once; the one that has taken longest makes room for who comes.
pub const PAGES_MAX: usize = 32;
/// Largest head of a request for metrics.
pub const PAGE_REQUEST_MAX: usize = 8 * 1024;
/// Headers of a request for metrics.
pub const PAGE_HEADERS_MAX: usize = 64;
/// An answer is made in parts of so many bytes, the next when the one before has gone. It is also what one turn of the loop makes.
pub const PAGE_PART: usize = 64 * 1024;
/// A request for metrics must be whole, or the next one begin, after so long.
pub const PAGE_REQUEST_MS: u64 = 30_000;
/// An answer must have been taken after so long.
pub const PAGE_ANSWER_MS: u64 = 30_000;
/// A push of metrics to a collector, its name's look-up as well, must be over after so long.
pub const PUSH_MS: u64 = 10_000;
/// Longest pause before the next push after some that failed, unless the interval is longer.
pub const PUSH_PAUSE_MAX_MS: u64 = 300_000;
/// Longest fingerprint of a statement.
pub const FINGERPRINT_MAX: usize = 1_024;
/// A fingerprint is made of so many bytes of a statement.
pub const FINGERPRINT_WITHIN: usize = 16 * 1024;
/// Most fingerprints that can be asked to be kept: some 100 MB at the worst.
pub const FINGERPRINTS_MAX: u64 = 100_000;
/// Prepared statements of one session whose texts are remembered, for SHOW QUERIES and the log of slow queries.
pub const FOLLOWED_STATEMENTS_MAX: usize = 1_000;
/// Longest name of a statement or a portal that is followed for these.
pub const FOLLOWED_NAME_MAX: usize = 256;
/// Bytes of texts that are kept of a pipeline for the log of slow queries; the statements beyond that are not told.
pub const FOLLOWED_TEXT_MAX: usize = 64 * 1024;
/// Roles of one pool that metrics tell apart; the others are counted together.
pub const METRIC_USERS_PER_POOL_MAX: usize = 100;
/// Users that metrics tell apart; the others are counted together.
pub const METRIC_USERS_MAX: usize = 1_000;
