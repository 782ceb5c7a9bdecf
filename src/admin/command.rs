//! The console's commands: one table, from which HELP, who may do what, and the nearest of a wrong one come.

use super::show::Show;
use super::words::{self, Word};
use crate::config::nearest;
use crate::engine::Role;
use crate::wire::frame::printable;
use crate::wire::refusal::Refusal;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// Rows.
    Show(Show),
    /// `SET` of what drivers set at the start of every session: nothing. Of a key: it is changed.
    Set,
    Pause,
    Resume,
    Disable,
    Enable,
    Reconnect,
    WaitClose,
    Kill,
    KillClient,
    CancelClient,
    Reload,
    Shutdown,
    Suspend,
    AddDatabase,
    DropDatabase,
}

/// A command.
#[derive(Debug)]
pub(super) struct Spec {
    /// Its words, in capitals.
    pub(super) name: &'static str,
    /// What may follow them.
    pub(super) form: &'static str,
    /// Who may do it, and whoever may do more.
    pub(super) role: Role,
    /// In one sentence.
    pub(super) what: &'static str,
    /// What happens.
    pub(super) does: Does,
}

/// What may follow every SHOW.
pub(super) const FILTER: &str = "[WHERE condition] [ORDER BY column [DESC], ...] [LIMIT n]";

const fn show(name: &'static str, show: Show, what: &'static str) -> Spec {
    Spec {
        name,
        form: FILTER,
        role: Role::Stats,
        what,
        does: Does::Show(show),
    }
}

const fn control(name: &'static str, form: &'static str, does: Does, what: &'static str) -> Spec {
    Spec {
        name,
        form,
        role: Role::Admin,
        what,
        does,
    }
}

/// All of them, sorted by name within SHOW and the rest.
pub(super) const COMMANDS: &[Spec] = &[
    show(
        "SHOW ACTIVE_SOCKETS",
        Show::ActiveSockets,
        "connections with something in their buffers",
    ),
    show(
        "SHOW CLIENTS",
        Show::Clients,
        "client connections, and what they wait for",
    ),
    show("SHOW CONFIG", Show::Config, "the configuration in force"),
    show(
        "SHOW DATABASES",
        Show::Databases,
        "the databases as they are configured",
    ),
    show(
        "SHOW DNS_HOSTS",
        Show::DnsHosts,
        "host names that were looked up",
    ),
    show(
        "SHOW DNS_ZONES",
        Show::DnsZones,
        "DNS zones that are watched",
    ),
    Spec {
        name: "SHOW FDS",
        form: FILTER,
        role: Role::Admin,
        what: "connections as they would be handed over; no descriptor and no secret is passed",
        does: Does::Show(Show::Fds),
    },
    Spec {
        name: "SHOW HELP",
        form: "[command]",
        role: Role::Stats,
        what: "this text; of one command, its form, and of a SHOW its columns",
        does: Does::Show(Show::Help),
    },
    show(
        "SHOW LISTS",
        Show::Lists,
        "how many there are of everything",
    ),
    show("SHOW MEM", Show::Mem, "memory by what it is for"),
    show(
        "SHOW PEERS",
        Show::Peers,
        "the other processes of the same name",
    ),
    show(
        "SHOW PEER_POOLS",
        Show::PeerPools,
        "cancels on their way to peers",
    ),
    show(
        "SHOW POOLS",
        Show::Pools,
        "clients and servers by database and role, and why clients wait",
    ),
    show(
        "SHOW QUERIES",
        Show::Queries,
        "statements without their values, those first that take the most time (metrics.query_fingerprints)",
    ),
    show("SHOW SERVERS", Show::Servers, "server connections"),
    show(
        "SHOW SOCKETS",
        Show::Sockets,
        "all connections and their buffers",
    ),
    show(
        "SHOW STATE",
        Show::State,
        "whether the pooler is active, paused or suspended",
    ),
    show(
        "SHOW STATS",
        Show::Stats,
        "what was counted, and averages over the last period",
    ),
    show("SHOW STATS_AVERAGES", Show::Averages, "the averages only"),
    show("SHOW STATS_TOTALS", Show::StatsTotals, "the counts only"),
    show(
        "SHOW TLS",
        Show::Tls,
        "certificates, and the days that are left to them",
    ),
    show(
        "SHOW TOTALS",
        Show::Totals,
        "what was counted, over all databases",
    ),
    show(
        "SHOW USERS",
        Show::Users,
        "users, their limits and connections",
    ),
    show("SHOW VERSION", Show::Version, "the version"),
    control(
        "ADD DATABASE",
        "name ['dsn']",
        Does::AddDatabase,
        "a new database, until the next RELOAD",
    ),
    control(
        "CANCEL_CLIENT",
        "id",
        Does::CancelClient,
        "cancels what a client runs or waits with; the session goes on",
    ),
    control(
        "DISABLE",
        "database",
        Does::Disable,
        "lets no new clients into a database",
    ),
    control(
        "DROP DATABASE",
        "name",
        Does::DropDatabase,
        "no new clients from now on, until the next RELOAD; sessions end by themselves",
    ),
    control(
        "ENABLE",
        "database",
        Does::Enable,
        "lets clients into a database again",
    ),
    control(
        "KILL",
        "[database]",
        Does::Kill,
        "drops clients and servers at once, and leaves the database paused",
    ),
    control(
        "KILL_CLIENT",
        "id",
        Does::KillClient,
        "ends a client's connection",
    ),
    control(
        "PAUSE",
        "[database] [TIMEOUT 'time']",
        Does::Pause,
        "waits until no server is in use and gives none out; undone when the time is over",
    ),
    control(
        "RECONNECT",
        "[database]",
        Does::Reconnect,
        "closes idle servers at once, and the others when they are released",
    ),
    control(
        "RELOAD",
        "[DRY RUN]",
        Does::Reload,
        "reads the configuration again; or tells what that would change",
    ),
    control("RESUME", "[database]", Does::Resume, "ends a pause"),
    control(
        "SET",
        "key = value",
        Does::Set,
        "changes a key of SHOW CONFIG until the next RELOAD; what drivers set is ignored",
    ),
    control(
        "SHUTDOWN",
        "[WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]",
        Does::Shutdown,
        "ends the process, at once or as SIGINT and SIGTERM do",
    ),
    control(
        "SUSPEND",
        "",
        Does::Suspend,
        "stops everything where it is, but for the console, until RESUME or its last session ends",
    ),
    control(
        "WAIT_CLOSE",
        "[database] [TIMEOUT 'time']",
        Does::WaitClose,
        "waits until RECONNECT has closed all that it has to",
    ),
];

/// What PostgreSQL's drivers ask for, and what they are told.
const PARAMETERS: [(&str, &str); 5] = [
    ("client_encoding", "UTF-8"),
    ("datestyle", "ISO"),
    ("default_transaction_isolation", "read committed"),
    ("standard_conforming_strings", "on"),
    ("timezone", "GMT"),
];

/// Parameters of a session that are taken and ignored.
const IGNORED: [&str; 14] = [
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
];

/// A command with what follows its name.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) spec: &'static Spec,
    /// What it does: as in the table, but for `SHOW parameter`.
    pub(super) does: Does,
    pub(super) rest: Vec<Word>,
}

/// Reads a command. `None`: nothing but blanks.
///
/// # Errors
/// It cannot be taken apart, or there is no such command; the nearest one is named.
pub(super) fn read(text: &str) -> Result<Option<Call>, Refusal> {
    find(text, words::read(text)?)
}

/// Finds the command that words begin with; `text` is what they were made of.
pub(super) fn find(text: &str, words: Vec<Word>) -> Result<Option<Call>, Refusal> {
    let Some((verb, rest)) = words.split_first() else {
        return Ok(None);
    };
    let call = |spec: &'static Spec, does, rest: &[Word]| {
        let rest = rest.to_vec();
        Ok(Some(Call { spec, does, rest }))
    };
    // PgBouncer takes SELECT for SHOW.
    let shows = verb.is("SHOW") || verb.is("SELECT");
    if shows {
        let what = match rest.first() {
            None => return named("SHOW HELP").map_or(Ok(None), |spec| call(spec, spec.does, &[])),
            Some(what) => what.name().unwrap_or_default(),
        };
        let after = rest.get(1..).unwrap_or_default();
        if let Some(spec) = named(&format!("SHOW {what}")) {
            return call(spec, spec.does, after);
        }
        let parameter = PARAMETERS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(what));
        if let (Some((name, value)), Some(spec)) = (parameter, named("SHOW CONFIG")) {
            return call(spec, Does::Show(Show::Parameter(name, value)), after);
        }
    } else if let Word::Plain(verb) = verb {
        let two = rest.first().and_then(Word::name);
        let two = two.and_then(|object| named(&format!("{verb} {object}")));
        if let Some(spec) = two.filter(|spec| !spec.name.starts_with("SHOW ")) {
            return call(spec, spec.does, rest.get(1..).unwrap_or_default());
        }
        if let Some(spec) = named(verb) {
            return call(spec, spec.does, rest);
        }
    }
    Err(unknown(text, &words))
}

/// Whether a SET is about something that drivers set and that does not matter here.
pub(super) fn is_ignored(rest: &[Word]) -> bool {
    let key = match rest {
        [first, key, ..] if first.is("SESSION") || first.is("LOCAL") => key.name(),
        [key, ..] => key.name(),
        [] => None,
    };
    key.is_some_and(|key| IGNORED.contains(&&*key.to_ascii_lowercase()))
}

/// The command of this name, in any case.
pub(super) fn named(name: &str) -> Option<&'static Spec> {
    COMMANDS
        .iter()
        .find(|spec| spec.name.eq_ignore_ascii_case(name))
}

/// Whether a role may do it: what is not said to be allowed is not. What drivers set, and what does nothing, everybody may.
pub(super) fn allow(call: &Call, role: Role) -> Result<(), Refusal> {
    if call.does == Does::Set && is_ignored(&call.rest) {
        return Ok(());
    }
    allow_spec(call.spec, role)
}

fn allow_spec(spec: &Spec, role: Role) -> Result<(), Refusal> {
    match (spec.role, role) {
        (Role::Stats, Role::Stats | Role::Admin) | (Role::Admin, Role::Admin) => Ok(()),
        (Role::Admin, Role::Stats) => Err(Refusal::error(b"42501", "admin access needed")
            .hint(format!("{} is for those in admin.users.", spec.name))),
    }
}

fn unknown(text: &str, words: &[Word]) -> Refusal {
    let text = printable(text.trim().as_bytes());
    let refusal = Refusal::error(
        b"42601",
        format!("invalid command '{text}', use SHOW HELP;"),
    );
    match nearest_of(words) {
        Some(spec) => refusal.hint(format!("Did you mean {}?", spec.name)),
        None if words.first().is_some_and(is_of_transactions) => {
            refusal.hint("The console has no transactions: turn the driver's autocommit on.")
        }
        None => refusal,
    }
}

fn is_of_transactions(word: &Word) -> bool {
    ["BEGIN", "START", "COMMIT", "ROLLBACK"]
        .iter()
        .any(|verb| word.is(verb))
}

/// The command that was meant, perhaps.
fn nearest_of(words: &[Word]) -> Option<&'static Spec> {
    let name = |word: &Word| word.name().map(str::to_ascii_uppercase);
    let first = words.first().and_then(name)?;
    let object = |spec: &'static Spec| spec.name.strip_prefix("SHOW ");
    let shown = COMMANDS.iter().filter_map(object);
    let shown = |what: &str| nearest(what, shown).and_then(|found| named(&format!("SHOW {found}")));
    if first == "SHOW" {
        return shown(&words.get(1).and_then(name)?);
    }
    let verbs = || COMMANDS.iter().map(|spec| spec.name);
    // PAUSE for PAUS, POOLS for SHOW POOLS, ADD DATABASE for ADD.
    let verb = nearest(&first, verbs().filter(|verb| !verb.contains(' '))).and_then(named);
    let alone = named(&format!("SHOW {first}")).filter(|_| words.len() == 1 && first != "HELP");
    alone.or(verb.filter(|spec| spec.name != first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn does(text: &str) -> Option<Does> {
        let call = read(text).unwrap_or_else(|refusal| panic!("{text}: {refusal:?}"));
        call.map(|call| call.does)
    }

    #[test]
    fn commands_are_read_in_any_case_with_or_without_semicolon() {
        assert_eq!(does(" show  Pools ; "), Some(Does::Show(Show::Pools)));
        assert_eq!(does("SHOW STATS"), Some(Does::Show(Show::Stats)));
        assert_eq!(does("select version"), Some(Does::Show(Show::Version)));
        assert_eq!(does("show"), Some(Does::Show(Show::Help)));
        assert_eq!(does(" ; "), None);
        assert_eq!(
            does("SHOW DateStyle"),
            Some(Does::Show(Show::Parameter("datestyle", "ISO")))
        );
        assert_eq!(does("SET extra_float_digits = 3"), Some(Does::Set));
        assert_eq!(does("set session timezone to 'UTC'"), Some(Does::Set));
    }

    #[test]
    fn a_wrong_command_names_the_nearest() {
        for (text, expected) in [
            ("show pool", "Did you mean SHOW POOLS?"),
            ("show client where a = 1", "Did you mean SHOW CLIENTS?"),
            ("pools;", "Did you mean SHOW POOLS?"),
            ("paus shop", "Did you mean PAUSE?"),
            (
                "BEGIN",
                "The console has no transactions: turn the driver's autocommit on.",
            ),
        ] {
            let refusal = read(text).expect_err("no such command");
            let hint = refusal.hint.clone().unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&hint), expected, "{text}");
            assert!(refusal.message.ends_with(b"use SHOW HELP;"), "{text}");
        }
        for text in ["select 1", "help", "database add x"] {
            let refusal = read(text).expect_err("no such command");
            assert!(refusal.message.ends_with(b"use SHOW HELP;"));
            assert_eq!(refusal.hint, None, "{text}");
        }
    }

    #[test]
    fn every_command_is_found_by_its_name_and_says_what_it_does() {
        for (at, spec) in COMMANDS.iter().enumerate() {
            assert_eq!(named(spec.name).map(|found| found.name), Some(spec.name));
            assert!(!spec.what.is_empty() && spec.name == spec.name.to_ascii_uppercase());
            let again = COMMANDS.iter().position(|other| other.name == spec.name);
            assert_eq!(again, Some(at), "{} is there twice", spec.name);
        }
    }

    /// Default deny: what is not marked for those who may only look is not for them.
    #[test]
    fn who_may_only_look_may_only_look() {
        for spec in COMMANDS {
            assert!(allow_spec(spec, Role::Admin).is_ok());
            let may = allow_spec(spec, Role::Stats).is_ok();
            let looks = matches!(spec.does, Does::Show(_)) && spec.name != "SHOW FDS";
            assert_eq!(may, looks, "{}", spec.name);
        }
    }
}
