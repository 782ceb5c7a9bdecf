//! Answers that are read in large pieces (`bulk_after`) are those of a direct connection, with their pauses, and whoever comes next
//! is served as always.

use std::time::{Duration, Instant};

use crate::support::cluster::PASSWORD;
use crate::support::wire::{Message, first_error};
use crate::support::{Cluster, Pooler, Wire};

/// Rows of all lengths, more than some kilobytes of them too, and a pause every now and then: 12 MB.
const UNEVEN: &str = "SELECT n, repeat('x', (n * 7919) % 1700), CASE WHEN n % 3000 = 0 THEN pg_sleep(0.02)::text END, \
                      CASE WHEN n % 2000 = 1 THEN repeat('y', 300000) END FROM generate_series(1, 10000) n";
const COPY: &str = "COPY (SELECT repeat('z', 99) FROM generate_series(1, 60000)) TO STDOUT";
/// Fails after two megabytes.
const FAILING: &str = "SELECT 1 / (20000 - n), repeat('x', 100) FROM generate_series(1, 30000) n";
/// Says that it goes on for long, and does not.
const PAUSING: &str = "SELECT CASE WHEN n = 3000 THEN pg_sleep(30)::text ELSE repeat('x', 1000) END FROM generate_series(1, 4000) n";

fn same(here: &[Message], there: &[Message], what: &str) {
    assert_eq!(here.len(), there.len(), "{what}");
    for (here, there) in here.iter().zip(there) {
        assert!(here == there, "{what}: {here:?} is not {there:?}");
    }
}

#[test]
fn long_answers_are_those_of_a_direct_connection_however_they_are_read() {
    let cluster = Cluster::shared();
    let database = cluster.database("long_answers");
    let mut direct = Wire::login(cluster.port(), "username", PASSWORD, &database);
    for (mode, after) in [
        ("session", 1),
        ("transaction", 0),
        ("transaction", 1),
        ("transaction", 100_000),
        ("statement", 100_000),
    ] {
        let pooler = Pooler::start(&format!(
            "server: {{listen_addr: \"127.0.0.1:{{port}}\", bulk_after: {after}}}\n\
             pool:\n  dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/{database}\"\n  mode: {mode}\n  max_connections: 1\n",
            cluster.port()
        ));
        let mut client = Wire::login(pooler.port(), "username", PASSWORD, &database);
        for sql in [UNEVEN, "SELECT 1", COPY, FAILING, "SELECT 2", COPY] {
            let what = format!("{mode}, {after}: {sql}");
            same(&client.query(sql), &direct.query(sql), &what);
        }
        // A cancel while nothing comes, and somebody else on the same server.
        client.send_message(b'Q', &crate::support::wire::terminated(PAUSING));
        let begin = Instant::now();
        let mut rows = 0;
        while rows < 2_900 {
            rows += usize::from(client.read_message().kind == b'D');
        }
        client.cancel();
        let rest = client.read_until(b'Z');
        let error = first_error(&rest).expect("it was cancelled");
        assert_eq!(error.sqlstate(), "57014", "{mode}, {after}");
        assert!(begin.elapsed() < Duration::from_secs(30), "it slept");
        client.terminate();
        let mut next = Wire::login(pooler.port(), "username", PASSWORD, &database);
        assert_eq!(next.value("SELECT 'next'"), Some("next".to_owned()));
        next.terminate();
    }
}
