//! A client that disappears in transaction or statement mode (issue 3; catalogue B11, C7): what it had asked for in whole is
//! done to its end, what it had not is not done at all, and the next client on that server sees nothing of it.

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::wire::{self, kinds, terminated};
use crate::support::{Cluster, Scene, Wire, wait_until};

fn query(sql: &str) -> Vec<u8> {
    wire::message(b'Q', &terminated(sql))
}

/// A statement as a simple query or as a batch.
fn statement(sql: &str, extended: bool) -> Vec<u8> {
    if !extended {
        return query(sql);
    }
    let parts = [
        wire::parse("", sql),
        wire::bind("", "", &[]),
        wire::execute("", 0),
        wire::sync(),
    ];
    parts.concat()
}

struct Stage {
    scene: Scene,
    extended: bool,
    blocks: bool,
}

impl Stage {
    fn client(&self) -> Wire {
        self.scene.login()
    }

    /// Runs a statement to its end.
    fn run(&self, client: &mut Wire, sql: &str) {
        client.send(&statement(sql, self.extended));
        let answer = client.read_until(b'Z');
        assert!(wire::first_error(&answer).is_none(), "{sql}: {answer:?}");
    }

    fn rows(&self) -> String {
        Cluster::shared().sql(&self.scene.database, "SELECT count(*) FROM rows")
    }

    /// What a next client finds: the server's process id. Nothing else is there.
    fn next(&self) -> Option<String> {
        let mut next = self.client();
        let answer = next.query("SELECT pg_backend_pid()");
        assert_eq!(kinds(&answer), "TDCZ", "{answer:?}");
        let pid = answer[1].row().expect("a row").remove(0);
        assert_eq!(next.value("SELECT txid_current_if_assigned()"), None);
        next.terminate();
        self.scene.wait_for_rest();
        pid
    }
}

/// In both modes, and both protocols.
fn on_every_stage(name: &str, more: &str, play: impl Fn(&Stage)) {
    for mode in ["transaction", "statement"] {
        let keys = format!("  mode: {mode}\n  max_connections: 1\n{more}");
        for extended in [false, true] {
            let scene = Scene::new(Cluster::shared(), &format!("vanishing_{name}"), &keys);
            Cluster::shared().sql(
                &scene.database,
                "CREATE TABLE rows (x text); GRANT ALL ON rows TO PUBLIC",
            );
            let blocks = mode == "transaction";
            play(&Stage {
                scene,
                extended,
                blocks,
            });
        }
    }
}

fn wait_for_sleeper(stage: &Stage) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event = 'PgSleep'",
        stage.scene.database
    );
    wait_until("the statement runs", || {
        Cluster::shared().sql("postgres", &sql) == "1"
    });
}

#[test]
fn a_statement_whose_client_has_gone_is_done_to_its_end_and_its_server_kept() {
    on_every_stage("query", "", |stage| {
        let pid = stage.next();
        for (reset, rows) in [(false, "1"), (true, "2")] {
            let mut client = stage.client();
            let sql = "INSERT INTO rows SELECT 'x' FROM pg_sleep(0.3)";
            client.send(&statement(sql, stage.extended));
            wait_for_sleeper(stage);
            if reset {
                let at_once = nix::libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&client.stream, sockopt::Linger, &at_once).expect("SO_LINGER");
            }
            drop(client);
            assert_eq!(stage.next(), pid, "reset: {reset}");
            assert_eq!(stage.rows(), rows);
        }
    });
}

#[test]
fn a_statement_that_nobody_waits_for_is_cancelled_after_its_time() {
    on_every_stage("timeout", "  abandoned_query_timeout: 200ms\n", |stage| {
        let pid = stage.next();
        let mut client = stage.client();
        let sql = "INSERT INTO rows SELECT 'x' FROM pg_sleep(60)";
        client.send(&statement(sql, stage.extended));
        wait_for_sleeper(stage);
        drop(client);
        assert_ne!(stage.next(), pid);
        assert_eq!(stage.rows(), "0");
        stage.scene.pooler.wait_for_log("abandoned_query_timeout");
    });
}

#[test]
fn half_a_message_is_never_run() {
    on_every_stage("message", "  abandoned_query_timeout: 0\n", |stage| {
        let pid = stage.next();
        let short = statement("INSERT INTO rows VALUES ('x')", stage.extended);
        let mut client = stage.client();
        client.send(&short[..short.len() - 3]);
        drop(client);
        stage.next();
        // So long that its server has the start of it.
        let long = format!("INSERT INTO rows VALUES ('{}')", "x".repeat(2 << 20));
        let long = statement(&long, stage.extended);
        let mut client = stage.client();
        client.send(&long[..long.len() / 2]);
        stage.scene.wait_for_pool("sv_active", 1);
        drop(client);
        assert_ne!(stage.next(), pid);
        assert_eq!(stage.rows(), "0");
    });
}

#[test]
fn half_a_copy_is_not_committed() {
    on_every_stage("copy", "  abandoned_query_timeout: 0\n", |stage| {
        let pid = stage.next();
        let mut client = stage.client();
        let mut copy = statement("COPY rows FROM STDIN", stage.extended);
        if stage.extended {
            copy.truncate(copy.len() - wire::sync().len());
            copy.extend(wire::message(b'H', b""));
        }
        client.send(&copy);
        client.read_until(b'G');
        client.send(&wire::message(b'd', b"x\n"));
        drop(client);
        assert_ne!(stage.next(), pid);
        assert_eq!(stage.rows(), "0");
    });
}

#[test]
fn an_open_transaction_is_rolled_back_and_its_server_kept() {
    on_every_stage("block", "", |stage| {
        if !stage.blocks {
            return;
        }
        let pid = stage.next();
        for failed in [false, true] {
            let mut client = stage.client();
            stage.run(&mut client, "BEGIN");
            stage.run(&mut client, "INSERT INTO rows VALUES ('x')");
            stage.run(&mut client, "SET LOCAL work_mem = '7MB'");
            if failed {
                client.send(&statement("SELECT 1/0", stage.extended));
                assert!(wire::first_error(&client.read_until(b'Z')).is_some());
            }
            drop(client);
            assert_eq!(stage.next(), pid, "failed: {failed}");
            assert_eq!(stage.rows(), "0");
        }
    });
}

#[test]
fn a_commit_that_was_sent_is_done() {
    on_every_stage("commit", "", |stage| {
        let pid = stage.next();
        let mut client = stage.client();
        if stage.blocks {
            stage.run(&mut client, "BEGIN");
            stage.run(&mut client, "INSERT INTO rows VALUES ('x')");
            client.send(&statement("COMMIT", stage.extended));
        } else {
            let sql = "BEGIN; INSERT INTO rows VALUES ('x'); COMMIT";
            client.send(&query(sql));
        }
        drop(client);
        wait_until("the commit is done", || stage.rows() == "1");
        assert_eq!(stage.next(), pid);
    });
}

/// Whoever goes while he waits leaves the queue, and what he would have asked is not asked.
#[test]
fn a_client_that_goes_while_it_waits_has_asked_nothing() {
    on_every_stage("queue", "", |stage| {
        let mut holder = stage.client();
        holder.send(&query("SELECT pg_sleep(0.5)"));
        wait_for_sleeper(stage);
        let mut client = stage.client();
        client.send(&statement("INSERT INTO rows VALUES ('x')", stage.extended));
        stage.scene.wait_for_pool("cl_waiting", 1);
        drop(client);
        stage.scene.wait_for_pool("cl_waiting", 0);
        assert_eq!(kinds(&holder.read_until(b'Z')), "TDCZ");
        holder.terminate();
        stage.next();
        assert_eq!(stage.rows(), "0");
    });
}
