//! Users who are not configured, and whose secrets the server is asked for (issue 4, compat sections 5.3 and 12).

use nix::sys::signal::Signal;

use crate::support::cluster::PASSWORD;
use crate::support::scene::{show, yaml};
use crate::support::{Cluster, Pooler, ServerError, Wire, wait_until};

/// One that reads what is in a table beside the database's own roles, and counts how often it is asked.
const COUNTING: &str = "SELECT * FROM public.lookup($1)";

/// A database in which the role `NAME_asker` may ask, an Aether in front of it.
struct Desk {
    pooler: Pooler,
    database: String,
    text: String,
}

impl Desk {
    /// `dsn_user`: as whom the pool logs in; empty: each client as itself. `more`: keys of `auth`, with a comma in front.
    fn new(database: &str, dsn_user: &str, more: &str) -> Desk {
        let cluster = Cluster::shared();
        let database = cluster.database(database);
        role(&format!("{database}_asker"), "LOGIN PASSWORD 'ask me'");
        cluster.sql(
            &database,
            &format!(
                "GRANT SELECT ON pg_catalog.pg_authid TO {database}_asker; \
                 CREATE TABLE public.users (usename text, passwd text); \
                 CREATE TABLE public.asked (usename text); \
                 CREATE FUNCTION public.lookup(name text) RETURNS TABLE (usename text, passwd text) \
                 LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$ BEGIN \
                 INSERT INTO public.asked VALUES (name); \
                 RETURN QUERY SELECT u.usename, u.passwd FROM public.users u WHERE u.usename = name; END $$"
            ),
        );
        let text = Desk::yaml(&database, dsn_user, more);
        Desk {
            pooler: Pooler::start(&text),
            database,
            text,
        }
    }

    fn yaml(database: &str, dsn_user: &str, more: &str) -> String {
        let port = Cluster::shared().port();
        let keys = format!(
            "auth: {{auth_user: {{name: {database}_asker, password: 'ask me'}}, failure_delay: 0, failure_limit: 0, \
             users: {{username: {PASSWORD}}}{more}}}\n"
        );
        yaml(
            &format!("postgres://{dsn_user}127.0.0.1:{port}/{database}"),
            "",
            &keys,
        )
    }

    fn login(&self, user: &str, password: &str) -> Result<Wire, ServerError> {
        self.login_with(user, password, &[])
    }

    fn login_with(
        &self,
        user: &str,
        password: &str,
        more: &[(&str, &str)],
    ) -> Result<Wire, ServerError> {
        let own = [("user", user), ("database", &self.database)];
        let all: Vec<(&str, &str)> = own.iter().chain(more).copied().collect();
        Wire::try_login(self.pooler.port(), &all, password)
    }

    #[track_caller]
    fn refused(&self, user: &str, password: &str) -> ServerError {
        match self.login(user, password) {
            Ok(_) => panic!("{user} was let in"),
            Err(error) => error,
        }
    }

    #[track_caller]
    fn wrong(&self, user: &str, password: &str) {
        let error = self.refused(user, password);
        let text = format!("password authentication failed for user \"{user}\"");
        assert_eq!((error.sqlstate(), error.message()), ("28P01", &text[..]));
    }

    fn sql(&self, sql: &str) -> String {
        Cluster::shared().sql(&self.database, sql)
    }

    fn asked(&self) -> String {
        self.sql("SELECT count(*) FROM public.asked")
    }
}

const FORCED: &str = "username:password@";

fn role(name: &str, attributes: &str) {
    let cluster = Cluster::shared();
    cluster.sql("postgres", &format!("DROP ROLE IF EXISTS {name}"));
    cluster.sql("postgres", &format!("CREATE ROLE {name} {attributes}"));
}

/// With PgBouncer's own query; R5: whoever fails hears the same.
#[test]
fn roles_of_the_server_log_in_with_their_passwords_there() {
    let desk = Desk::new("aq_roles", FORCED, "");
    role("aq_known", "LOGIN PASSWORD 'their own'");
    role("aq_group", "PASSWORD 'their own'");
    let mut client = desk.login("aq_known", "their own").expect("it is known");
    assert_eq!(
        client.value("SELECT current_user").as_deref(),
        Some("username")
    );
    desk.wrong("aq_known", "another");
    desk.wrong("aq_nobody", "their own");
    desk.wrong("aq_group", "their own");
    desk.wrong("x' OR '1' = '1", "their own");
    // Not the role's password that asks, under any other name (CVE-2015-6817).
    desk.wrong("aq_nobody", "ask me");

    let mut console = Wire::login(desk.pooler.port(), "username", PASSWORD, "aether");
    let users = show(&mut console, "USERS");
    assert!(users.iter().any(|row| row["name"] == "aq_known"));
    assert!(!users.iter().any(|row| row["name"] == "aq_nobody"));
    let pools = show(&mut console, "POOLS");
    assert!(pools.iter().any(|row| row["user"] == "aq_roles_asker"));
    client.terminate();
}

/// Where the dsn has no user, what was found also logs in to the server.
#[test]
fn what_was_found_lets_the_role_in_at_the_server_too() {
    let desk = Desk::new("aq_own", "", ", type: md5");
    let mut client = desk.login("md5_user", PASSWORD).expect("by its digest");
    assert_eq!(
        client.value("SELECT current_user").as_deref(),
        Some("md5_user")
    );
    // A password in clear, kept in a table, serves for SCRAM at the server.
    let more = format!(", auth_query: \"{COUNTING}\"");
    role("aq_clear", "LOGIN PASSWORD 'in clear'");
    let desk = Desk::new("aq_own_clear", "", &more);
    desk.sql("INSERT INTO public.users VALUES ('aq_clear', 'in clear')");
    let mut client = desk.login("aq_clear", "in clear").expect("by its password");
    assert_eq!(
        client.value("SELECT current_user").as_deref(),
        Some("aq_clear")
    );
}

/// CVE-2025-2291: a password that has expired is none.
#[test]
fn a_password_that_has_expired_lets_nobody_in() {
    let desk = Desk::new("aq_until", FORCED, ", auth_query_cache: 0");
    for (name, until, in_time) in [
        ("aq_until_past", "VALID UNTIL '2001-01-01'", false),
        ("aq_until_now", "VALID UNTIL 'now'", false),
        ("aq_until_future", "VALID UNTIL '2101-01-01'", true),
        ("aq_until_ever", "VALID UNTIL 'infinity'", true),
        ("aq_until_null", "", true),
    ] {
        role(name, &format!("LOGIN PASSWORD 'x' {until}"));
        match in_time {
            true => drop(desk.login(name, "x").expect(name)),
            false => desk.wrong(name, "x"),
        }
    }
    // Without a cache it holds at once.
    Cluster::shared().sql(
        "postgres",
        "ALTER ROLE aq_until_ever VALID UNTIL '2001-01-01'",
    );
    desk.wrong("aq_until_ever", "x");
}

/// CVE-2025-12819: what a client says of its search_path, or an operator of everybody's, has no effect on the connection that
/// asks; R8.
#[test]
fn an_operator_in_a_schema_that_anyone_may_write_to_is_not_used() {
    let desk = Desk::new("aq_path", FORCED, "");
    role("aq_path_user", "LOGIN PASSWORD 'x'");
    desk.sql(
        "CREATE TABLE public.owned (who text); GRANT ALL ON public.owned TO PUBLIC; \
         CREATE FUNCTION public.evil(a name, b name) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO public.owned VALUES (current_user); RETURN true; END $$; \
         CREATE OPERATOR public.= (FUNCTION = public.evil, LEFTARG = name, RIGHTARG = name); \
         ALTER DATABASE aq_path SET search_path = public, pg_catalog",
    );
    let path = "public, pg_catalog";
    for more in [
        [("search_path", path)],
        [("options", "-c search_path=public,pg_catalog")],
    ] {
        desk.login_with("aq_path_user", "x", &more)
            .expect("it is known");
        desk.login_with("aq_path_nobody", "x", &more)
            .err()
            .expect("it is not");
    }
    assert_eq!(desk.sql("SELECT count(*) FROM public.owned"), "0");
    // It would have been, by itself.
    desk.sql("SET search_path = public, pg_catalog; SELECT 1 FROM pg_authid WHERE rolname = 'x'::name LIMIT 1");
    assert_ne!(desk.sql("SELECT count(*) FROM public.owned"), "0");
}

/// CVE-2015-6817, and PgBouncer's own checks: what is not one row of the user lets nobody in, and the log says why.
#[test]
fn an_answer_about_another_user_is_refused() {
    for (name, query, why) in [
        (
            "aq_other",
            "SELECT 'aq_other_asker', 'ask me' WHERE $1 <> ''",
            "the secret of another user",
        ),
        (
            "aq_two",
            "SELECT $1::text, 'x' FROM generate_series(1, 1000000)",
            "more than one row",
        ),
        ("aq_one", "SELECT $1::text", "1 columns"),
        (
            "aq_error",
            "SELECT usename, passwd FROM no_table WHERE usename = $1",
            "[42P01]",
        ),
    ] {
        let desk = Desk::new(name, FORCED, &format!(", auth_query: \"{query}\""));
        let error = desk.refused("somebody", "ask me");
        assert_eq!(error.sqlstate(), "F0000");
        assert!(!error.message().contains(why), "that is for the log");
        desk.pooler.wait_for_log(why);
        // Those who are configured do not notice.
        desk.login("username", PASSWORD).expect("it is listed");
    }
}

/// Issue 4: the login of a second client of the same user costs no round trip, and is not for ever.
#[test]
fn an_answer_serves_for_its_time_and_until_a_login_fails() {
    let more = format!(", type: password, auth_query: \"{COUNTING}\"");
    let desk = Desk::new("aq_cache", FORCED, &more);
    desk.sql("INSERT INTO public.users VALUES ('alice', 'old')");
    for _ in 0..5 {
        desk.login("alice", "old").expect("it is known");
    }
    assert_eq!(desk.asked(), "1");
    // Changed: the new password lets in at once, where it comes in clear.
    desk.sql("UPDATE public.users SET passwd = 'new'");
    desk.login("alice", "new").expect("it was changed");
    desk.wrong("alice", "old");
    assert_eq!(desk.asked(), "3");
    desk.login("alice", "new").expect("it is known");
    assert_eq!(desk.asked(), "3");

    // By SCRAM the next attempt finds it; the reload with the same query keeps what is known.
    let scram = desk.text.replace("type: password", "type: scram-sha-256");
    reload(&desk.pooler, &scram);
    desk.login("alice", "new").expect("it is known");
    assert_eq!(desk.asked(), "3");
    desk.sql("UPDATE public.users SET passwd = 'newer'");
    desk.wrong("alice", "newer");
    desk.login("alice", "newer").expect("it was changed");
    assert_eq!(desk.asked(), "4");

    // Another query knows others.
    let other = "SELECT usename, passwd || '!' FROM public.users WHERE usename = $1";
    desk.sql("GRANT SELECT ON public.users TO aq_cache_asker");
    reload(&desk.pooler, &scram.replace(COUNTING, other));
    desk.wrong("alice", "newer");
    desk.login("alice", "newer!").expect("by the other query");
}

/// Found by reading: what a lookup function left in the session (statements, cursors, settings) was there for the next question:
/// the second user heard that auth_query had failed, or was looked up under another search_path (R8).
#[test]
fn what_a_query_leaves_in_its_session_is_discarded() {
    let desk = Desk::new(
        "aq_left",
        FORCED,
        ", auth_query: \"SELECT * FROM public.untidy($1)\"",
    );
    desk.sql(
        "CREATE FUNCTION public.untidy(name text) RETURNS TABLE (usename text, passwd text) \
         LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN \
         EXECUTE 'PREPARE left_behind AS SELECT 1'; \
         EXECUTE 'DECLARE left_open CURSOR WITH HOLD FOR SELECT 1'; \
         CREATE TEMPORARY TABLE left_over (n int); \
         INSERT INTO public.asked VALUES (current_setting('search_path')); \
         PERFORM set_config('search_path', 'public', false); \
         RETURN QUERY SELECT u.usename, u.passwd FROM public.users u WHERE u.usename = name; END $$",
    );
    desk.sql("INSERT INTO public.users SELECT 'user' || n, 'x' FROM generate_series(1, 6) n");
    for number in 1..=6 {
        desk.login(&format!("user{number}"), "x")
            .expect("it is known");
    }
    let paths = "SELECT DISTINCT usename || ' ' || count(*) FROM public.asked GROUP BY usename";
    assert_eq!(desk.sql(paths), "pg_catalog 6");
}

fn reload(pooler: &Pooler, text: &str) {
    let before = pooler.log().matches("was reloaded").count();
    pooler.rewrite_config(text);
    pooler.signal(Signal::SIGHUP);
    wait_until("it is reloaded", || {
        pooler.log().matches("was reloaded").count() > before
    });
}

/// R20: strangers who name users that there are not hold few connections of the server, and keep nobody out for long.
#[test]
fn guesses_cost_few_connections() {
    let desk = Desk::new("aq_guess", FORCED, "");
    role("aq_guess_user", "LOGIN PASSWORD 'x'");
    let guesses: Vec<Wire> = (0..100)
        .map(|number| {
            let mut wire = Wire::connect(desk.pooler.port());
            let user = format!("guess {number}");
            wire.startup(&[("user", &user), ("database", "aq_guess")]);
            wire
        })
        .collect();
    desk.login("aq_guess_user", "x").expect("it is known");
    for mut guess in guesses {
        assert_eq!(guess.read_message().kind, b'R', "it is asked for a proof");
    }
    let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'aq_guess_asker'";
    let count: u32 = desk.sql(count).parse().expect("a number");
    assert!((1..=2).contains(&count), "{count}");
}

/// PgBouncer: one auth_dbname for all, and keys of a single database that win.
#[test]
fn a_database_may_ask_elsewhere_or_nobody() {
    let desk = Desk::new("aq_place", FORCED, ", auth_dbname: aq_place");
    role("aq_place_user", "LOGIN PASSWORD 'x'");
    let mut text = desk.text.clone();
    text.push_str(
        "databases:\n  elsewhere: {backend: {database: no_such_database}}\n  alone: {auth_user: \"\"}\n",
    );
    reload(&desk.pooler, &text);
    let login = |database: &str| {
        let parameters = [("user", "aq_place_user"), ("database", database)];
        Wire::try_login(desk.pooler.port(), &parameters, "x").map(drop)
    };
    assert_eq!(
        login("aq_place").map_err(|e| e.sqlstate().to_owned()),
        Ok(())
    );
    // It has proven itself by then, and is told what the server says.
    for (database, code) in [
        ("elsewhere", "3D000"),
        ("not configured", "3D000"),
        ("alone", "28P01"),
    ] {
        let error = login(database).expect_err(database);
        assert_eq!(error.sqlstate(), code, "{database}");
    }
}
