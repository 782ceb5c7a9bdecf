//! What the process weighs: at its start, with many idle clients, and while a gigabyte streams through.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::support::cluster::PASSWORD;
use crate::support::{Cluster, Pooler, Wire, process, wire};
use crate::support::{raise_open_files, scale};

/// The most that the process may weigh while it streams, in kB.
const STREAMING_KB: u64 = 16 * 1024;

fn megabytes() -> u64 {
    scale("AETHER_STREAM_MB", 1024) as u64
}

fn peak_kb(pooler: &Pooler) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pooler.pid())).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("a peak in kB")
}

fn pooler(cluster: &Cluster, more: &str) -> Pooler {
    Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\n\
         pool:\n  dsn: \"postgres://username:{PASSWORD}@127.0.0.1:{}/database\"\n{more}",
        cluster.port()
    ))
}

#[test]
fn a_large_result_streams_in_little_memory_past_a_reader_that_stops() {
    let cluster = Cluster::shared();
    let pooler = pooler(cluster, "");
    let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
    let rows = megabytes() * 1024;
    client.send_message(
        b'Q',
        &wire::terminated(&format!(
            "SELECT repeat('x', 1000) FROM generate_series(1, {rows})"
        )),
    );
    let (mut buffer, mut total, mut stopped) = (vec![0; 1 << 20], 0u64, false);
    let mut tail = Vec::new();
    while !tail.ends_with(b"Z\0\0\0\x05I") {
        let count = client.stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the connection ended after {total} bytes");
        total += count as u64;
        tail.extend_from_slice(&buffer[..count]);
        tail.drain(..tail.len().saturating_sub(16));
        if total > 64 << 20 && !stopped {
            stopped = true;
            thread::sleep(Duration::from_secs(3));
        }
    }
    assert!(total > rows * 1000, "{total} bytes for {rows} rows");
    let peak = peak_kb(&pooler);
    println!("{} MB streamed, peak {peak} kB", total >> 20);
    assert!(peak < STREAMING_KB, "peak {peak} kB");
    client.terminate();
}

/// Catalogue fault R2, C6: memory is had within bounds of our own, so a limit of the kernel's is not met, whatever passes.
#[test]
fn a_limit_of_address_space_is_not_met_by_large_messages_and_many_clients() {
    let cluster = Cluster::shared();
    let mut pooler = pooler(cluster, "  max_connections: 2\n");
    let login = || Wire::login(pooler.port(), "username", PASSWORD, "database");
    let mut clients: Vec<Wire> = vec![login()];
    let status = fs::read_to_string(format!("/proc/{}/status", pooler.pid())).expect("it lives");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let size: u64 = size
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .expect("a size in kB");
    let limit = format!("--as={}", (size + 16 * 1024) * 1024);
    let status = process::command(Path::new("/usr/bin/prlimit"))
        .args(["--pid", &pooler.pid().to_string(), &limit])
        .status();
    assert!(status.expect("prlimit, of util-linux").success());
    for _ in 0..200 {
        clients.push(Wire::connect(pooler.port()));
    }
    let large = 48 << 20;
    let client = &mut clients[0];
    let answer = client.value(&format!("SELECT repeat('x', {large})"));
    assert_eq!(answer.map(|text| text.len()), Some(large));
    let sql = format!("SELECT length('{}')", "y".repeat(large));
    assert_eq!(client.value(&sql), Some(large.to_string()));
    // And a length that nobody has sent yet takes nothing.
    let mut liar = login();
    liar.send(b"Q\x3f\xff\xff\xff");
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    drop(clients);
    assert!(pooler.ended().is_none(), "{}", pooler.log());
}

#[test]
fn copies_in_and_out_stream_in_little_memory() {
    let cluster = Cluster::shared();
    let pooler = pooler(cluster, "");
    let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
    client.run("CREATE TABLE memory_copy (line text)");
    let chunk = wire::message(
        b'd',
        "y".repeat(999)
            .as_bytes()
            .iter()
            .chain(b"\n")
            .copied()
            .collect::<Vec<_>>()
            .as_slice(),
    )
    .repeat(64);
    client.send_message(b'Q', &wire::terminated("COPY memory_copy FROM STDIN"));
    assert_eq!(client.read_message().kind, b'G');
    let chunks = megabytes() * 4;
    for _ in 0..chunks {
        client.stream.write_all(&chunk).unwrap();
    }
    client.send_message(b'c', b"");
    let answer = client.read_until(b'Z');
    assert_eq!(wire::kinds(&answer), "CZ", "{answer:?}");
    assert_eq!(
        client.value("SELECT count(*) FROM memory_copy"),
        Some((chunks * 64).to_string())
    );
    let mut lines = 0;
    client.send_message(b'Q', &wire::terminated("COPY memory_copy TO STDOUT"));
    loop {
        match client.read_message().kind {
            b'd' => lines += 1,
            b'Z' => break,
            _ => {}
        }
    }
    assert_eq!(lines, chunks * 64);
    let peak = peak_kb(&pooler);
    println!("{} MB copied in and out, peak {peak} kB", chunks / 16);
    assert!(peak < STREAMING_KB, "peak {peak} kB");
    client.run("DROP TABLE memory_copy");
    client.terminate();
}

/// Found by reading: thousands of tiny startup parameters cost thirty times their bytes, and a SCRAM message of 64 kB was
/// waited for, before anybody had shown who he is.
#[test]
fn clients_that_have_proven_nothing_hold_little_memory() {
    let cluster = Cluster::shared();
    let pooler = pooler(cluster, "");
    let many = 300;
    let mut body = (3u32 << 16).to_be_bytes().to_vec();
    body.extend(b"user\0username\0database\0database\0");
    (0..3_300).for_each(|n| body.extend([b'a' + (n % 26) as u8, 0, 0]));
    body.push(0);
    let mut held = Vec::new();
    let before = pooler.rss_kb();
    for _ in 0..many {
        let mut client = Wire::connect(pooler.port());
        client.send_untyped(&body);
        assert_eq!(client.read_message().kind, b'R', "asked for its proof");
        client.send(&[&b"p\0\0\x03\xf0"[..], &[b'x'; 900]].concat());
        held.push(client);
    }
    let each = pooler.rss_kb().saturating_sub(before) * 1024 / many;
    println!("{each} bytes per client that has proven nothing");
    assert!(
        each < 20_000,
        "{each} bytes per client that has proven nothing"
    );
    let mut fat = Wire::connect(pooler.port());
    fat.send_untyped(&body);
    fat.read_message();
    fat.send(&[&b"p\0\0\xff\xff"[..], &[b'x'; 60_000]].concat());
    let answer = fat.read_to_end();
    assert_eq!(answer[0].error().expect("an error").sqlstate(), "08P01");
}

/// A message whose claimed length is a gigabyte is streamed, not waited for; one that cannot be is refused at once.
#[test]
fn a_claimed_length_allocates_nothing() {
    let cluster = Cluster::shared();
    let pooler = pooler(cluster, "");
    for length in [0x3fff_fff0u32, 0x7fff_ffff, 0xffff_ffff] {
        let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
        client.send(&[b"Q".as_slice(), &length.to_be_bytes(), &[b'x'; 5_000]].concat());
        thread::sleep(Duration::from_millis(100));
    }
    let peak = peak_kb(&pooler);
    assert!(peak < STREAMING_KB, "peak {peak} kB");
    let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
    assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
}

/// Issue 5: an idle client costs at most 0.40 of what it costs PgBouncer, which is 1,043 bytes.
#[test]
fn five_thousand_idle_clients_cost_no_server_and_little_memory() {
    let cluster = Cluster::shared();
    let many = scale("AETHER_IDLE_CLIENTS", 5_000.min(raise_open_files() / 4)) as u64;
    let pooler = pooler(
        cluster,
        "  server_assignment: first_query\n  max_connections: 2\nauth: {type: trust, allow_insecure: true}\nadmin: {users: [username]}\n",
    );
    let at_start = pooler.rss_kb();
    let login = || Wire::login(pooler.port(), "username", PASSWORD, "database");
    let mut clients: Vec<Wire> = (0..10).map(|_| login()).collect();
    let before = pooler.rss_kb();
    clients.extend((0..many).map(|_| login()));
    let each = (pooler.rss_kb() - before) * 1024 / many;
    println!("RSS at start {at_start} kB, per idle client {each} bytes");
    assert!(at_start < 16 * 1024, "RSS at start {at_start} kB");
    assert!(each < 450, "{each} bytes per idle client");
    for client in clients.iter_mut().step_by(1_000).take(2) {
        assert_eq!(client.value("SELECT 1").as_deref(), Some("1"));
    }
    let mut console = Wire::login(pooler.port(), "username", PASSWORD, "aether");
    let rows = console.run("SHOW POOLS");
    let pool = rows.iter().find_map(wire::Message::row).unwrap();
    assert_eq!(
        pool[2].as_deref(),
        Some((many + 10).to_string().as_str()),
        "{pool:?}"
    );
    let listed = console
        .run("SHOW CLIENTS")
        .iter()
        .filter(|message| message.kind == b'D')
        .count() as u64;
    assert_eq!(
        listed,
        many + 11,
        "a long answer of the console is complete"
    );
}

/// Issue 5: a day's worth of connections leaves the memory as it was, whatever they call themselves.
#[test]
fn many_connections_one_after_the_other_leave_the_memory_as_it_was() {
    let cluster = Cluster::shared();
    let pooler = pooler(
        cluster,
        "  mode: transaction\n  max_connections: 2\nauth: {type: trust}\n",
    );
    let mut number = 0;
    let mut connect = |many: usize| {
        for _ in 0..many {
            number += 1;
            // One in ten has a name of its own, which a server has to be asked about.
            let name = format!("application {}", if number % 10 == 0 { number } else { 0 });
            let parameters = [
                ("user", "username"),
                ("database", "database"),
                ("application_name", &name),
            ];
            let client = Wire::try_login(pooler.port(), &parameters, PASSWORD);
            client.expect("it is let in").terminate();
        }
    };
    let many = scale("AETHER_CONNECTIONS", 10_000);
    connect(3_000);
    let before = pooler.rss_kb();
    connect(many);
    let grown = pooler.rss_kb().saturating_sub(before);
    println!("{many} connections: from {before} kB, grown by {grown} kB");
    assert!(grown < 512, "grown by {grown} kB");
}

/// Issue 5: so do distinct prepared statements, be they closed or left to a client that goes.
#[test]
fn many_distinct_prepared_statements_leave_the_memory_as_it_was() {
    let cluster = Cluster::shared();
    let pooler = pooler(
        cluster,
        "  mode: transaction\n  max_connections: 2\nauth: {type: trust}\n",
    );
    let mut number = 0;
    let mut prepare = |many: usize| {
        while number < many {
            let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
            for batch in 0..10 {
                let mut bytes = Vec::new();
                for _ in 0..100 {
                    number += 1;
                    let name = format!("statement_{number}");
                    bytes.extend(wire::parse(&name, &format!("SELECT {number}")));
                    bytes.extend(wire::bind("", &name, &[]));
                    if batch % 2 == 0 {
                        bytes.extend(wire::close(b'S', &name));
                    }
                }
                bytes.extend(wire::sync());
                client.send(&bytes);
                let answers = client.read_until(b'Z');
                assert!(wire::first_error(&answers).is_none(), "{answers:?}");
            }
            client.terminate();
        }
        number = 0;
        pooler.rss_kb()
    };
    let many = scale("AETHER_STATEMENTS", 100_000);
    let before = prepare(20_000);
    let grown = prepare(many).saturating_sub(before);
    println!("{many} statements: from {before} kB, grown by {grown} kB");
    assert!(grown < 1024, "grown by {grown} kB");
}
