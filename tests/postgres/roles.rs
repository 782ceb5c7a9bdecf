//! `role` and `session_authorization` that one client has set never reach another (issue 3), in whatever way they were set that
//! can be seen from outside: by its words, or because the server reports that it is somebody else.

use crate::support::scene::yaml;
use crate::support::{Cluster, Pooler, Wire, wire};

const WHO: &str = "SELECT session_user || ' as ' || current_user";

/// A pool of one connection whose login is `user`, in a database of its own.
fn pool_as(cluster: &Cluster, database: &str, user: &str, mode: &str) -> Pooler {
    let dsn = format!(
        "postgres://{user}:password@127.0.0.1:{}/{database}",
        cluster.port()
    );
    let keys = format!("  mode: {mode}\n  max_connections: 1\nauth: {{type: trust}}\n");
    Pooler::start(&yaml(&dsn, "", &keys))
}

/// Makes a role anew.
fn role(cluster: &Cluster, name: &str, attributes: &str) {
    cluster.sql("postgres", &format!("DROP ROLE IF EXISTS {name}"));
    cluster.sql("postgres", &format!("CREATE ROLE {name} {attributes}"));
}

fn login(pooler: &Pooler, database: &str) -> Wire {
    Wire::login(pooler.port(), "username", "password", database)
}

/// Runs each, and looks what the next client on the same connection is.
#[track_caller]
fn nobody_inherits(pooler: &Pooler, database: &str, ways: &[&str]) {
    let mut next = login(pooler, database);
    let pid = next.value("SELECT pg_backend_pid()");
    let who = next.value(WHO);
    for way in ways {
        for extended in [false, true] {
            let mut client = login(pooler, database);
            if extended {
                let batch = [
                    wire::parse("", way),
                    wire::bind("", "", &[]),
                    wire::execute("", 0),
                    wire::sync(),
                ];
                client.send(&batch.concat());
                let answer = client.read_until(b'Z');
                assert!(wire::first_error(&answer).is_none(), "{way}: {answer:?}");
            } else {
                client.run(way);
            }
            assert_eq!(next.value(WHO), who, "{way}, extended: {extended}");
            assert_eq!(next.value("SELECT pg_backend_pid()"), pid, "{way}");
            assert_eq!(client.value(WHO), who, "{way}: nor does it keep it");
            client.terminate();
        }
    }
    next.terminate();
}

#[test]
fn a_role_that_a_client_takes_reaches_nobody_else() {
    let cluster = Cluster::shared();
    role(cluster, "roles_other", "");
    role(
        cluster,
        "roles_member",
        "LOGIN PASSWORD 'password' IN ROLE roles_other",
    );
    let database = cluster.database("roles_member");
    for mode in ["transaction", "statement"] {
        let pooler = pool_as(cluster, &database, "roles_member", mode);
        nobody_inherits(
            &pooler,
            &database,
            &[
                "SET ROLE roles_other",
                "set session role to 'roles_other'",
                "SELECT set_config('role', 'roles_other', false)",
                "DO $$ BEGIN SET ROLE roles_other; END $$",
                "DO $$ BEGIN EXECUTE 'SET ROLE ' || 'roles_other'; END $$",
                "SET SESSION AUTHORIZATION roles_member",
            ],
        );
    }
}

/// The words of these do not tell; that the server is somebody else now, it reports.
#[test]
fn what_a_function_makes_of_a_superuser_reaches_nobody_else() {
    let cluster = Cluster::shared();
    role(cluster, "roles_lowly", "");
    role(
        cluster,
        "roles_super",
        "LOGIN SUPERUSER PASSWORD 'password'",
    );
    let database = cluster.database("roles_super");
    cluster.sql(
        &database,
        "CREATE FUNCTION become() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('role', 'roles_lowly', false); END $$; \
         CREATE FUNCTION turn_into() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN SET SESSION AUTHORIZATION roles_lowly; END $$",
    );
    for mode in ["transaction", "statement"] {
        let pooler = pool_as(cluster, &database, "roles_super", mode);
        nobody_inherits(
            &pooler,
            &database,
            &[
                "SELECT become()",
                "SELECT turn_into()",
                "DO $$ BEGIN EXECUTE 'SET RO' || 'LE roles_lowly'; END $$",
                "DO $$ BEGIN EXECUTE 'SET SESSION AUTHO' || 'RIZATION roles_lowly'; END $$",
                "SET SESSION AUTHORIZATION roles_lowly",
            ],
        );
    }
}

/// RESET ROLE, not SET ROLE NONE: the role that ALTER ROLE gives is the login's own.
#[test]
fn a_role_given_by_alter_role_is_what_every_client_has_again() {
    let cluster = Cluster::shared();
    role(cluster, "roles_given", "");
    role(
        cluster,
        "roles_taker",
        "LOGIN PASSWORD 'password' IN ROLE roles_given",
    );
    cluster.sql(
        "postgres",
        "ALTER ROLE roles_taker SET role = 'roles_given'",
    );
    let database = cluster.database("roles_given");
    let pooler = pool_as(cluster, &database, "roles_taker", "transaction");
    let mut client = login(&pooler, &database);
    assert_eq!(
        client.value(WHO).as_deref(),
        Some("roles_taker as roles_given")
    );
    client.terminate();
    nobody_inherits(
        &pooler,
        &database,
        &["SET ROLE NONE", "SET ROLE roles_taker"],
    );
}
