//! The tools of these tests, tried on PostgreSQL without a pooler.

use crate::support::cluster::{self, PASSWORD};
use crate::support::wire::{self, first_error, kinds};
use crate::support::{Cluster, Stop, Wire, process, wait_until};

#[test]
fn every_way_to_log_in_works_and_a_wrong_password_does_not() {
    let cluster = Cluster::shared();
    for user in ["username", "md5_user", "clear_user", "postgres"] {
        let mut client = Wire::login(cluster.port(), user, PASSWORD, "database");
        assert_eq!(client.value("SELECT current_user").as_deref(), Some(user));
        assert_eq!(
            client.value("SELECT pg_backend_pid()"),
            Some(client.pid.to_string())
        );
        assert!(client.parameters.contains_key("server_version"));
        client.terminate();
    }
    for user in ["username", "md5_user", "clear_user", "nobody_of_that_name"] {
        let parameters = [("user", user), ("database", "database")];
        let error = Wire::try_login(cluster.port(), &parameters, "wrong")
            .err()
            .expect("a refusal");
        assert_eq!(
            (error.severity(), error.sqlstate()),
            ("FATAL", "28P01"),
            "{user}"
        );
    }
}

#[test]
fn the_extended_protocol_and_errors_come_through_the_wire() {
    let cluster = Cluster::shared();
    let database = cluster.database("support_extended");
    let mut client = Wire::login(cluster.port(), "username", PASSWORD, &database);
    client.send(
        &[
            wire::parse("s", "SELECT $1::text"),
            wire::bind("", "s", &["hello"]),
            wire::execute("", 0),
            wire::sync(),
        ]
        .concat(),
    );
    let answer = client.read_until(b'Z');
    assert_eq!(kinds(&answer), "12DCZ");
    assert_eq!(answer[2].row(), Some(vec![Some("hello".to_string())]));
    assert_eq!(client.error("SELECT 1/0").sqlstate(), "22012");
    assert_eq!(client.value("SELECT NULL"), None);
}

#[test]
fn a_cancel_request_reaches_its_session() {
    let cluster = Cluster::shared();
    let mut client = Wire::login(cluster.port(), "username", PASSWORD, "database");
    client.send_message(b'Q', &wire::terminated("SELECT pg_sleep(15)"));
    let running = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event = 'PgSleep'",
        client.pid
    );
    wait_until("the query runs", || {
        cluster.sql("postgres", &running) == "1"
    });
    client.cancel();
    assert_eq!(
        first_error(&client.read_until(b'Z'))
            .expect("an error")
            .sqlstate(),
        "57014"
    );
}

#[test]
fn a_cluster_of_ones_own_can_be_frozen_stopped_and_restarted() {
    let options = cluster::Options {
        max_connections: 12,
        conf: vec!["work_mem = '5MB'".to_string()],
        ..cluster::Options::default()
    };
    let cluster = Cluster::start_with(&options);
    let mut client = Wire::login(cluster.port(), "username", PASSWORD, "database");
    assert_eq!(client.value("SHOW max_connections").as_deref(), Some("12"));
    assert_eq!(client.value("SHOW work_mem").as_deref(), Some("5MB"));

    cluster.freeze();
    client
        .stream
        .set_read_timeout(Some(std::time::Duration::from_millis(300)))
        .expect("a timeout");
    client.send_message(b'Q', &wire::terminated("SELECT 1"));
    assert!(
        client.try_read_message().is_err(),
        "a frozen server answered"
    );
    cluster.thaw();
    client
        .stream
        .set_read_timeout(Some(crate::support::PATIENCE))
        .expect("a timeout");
    assert_eq!(kinds(&client.read_until(b'Z')), "TDCZ");

    cluster.restart(Stop::Fast);
    let farewell = client.read_to_end();
    assert_eq!(
        first_error(&farewell).expect("a farewell").sqlstate(),
        "57P01"
    );
    Wire::login(cluster.port(), "username", PASSWORD, "database").terminate();

    cluster.stop(Stop::Immediate);
    assert!(Wire::try_connect(cluster.port()).is_err());
    assert!(!process::listening(cluster.port()));
}
