//! TLS on both legs, with libpq's psql, openssl's s_client and a real PostgreSQL with TLS (issue 4). What certificates are worth
//! is tested beside the streams, `src/net/tls/tests.rs`.

mod binding;
mod unix;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sys::signal::Signal;

pub use crate::support::certificates::{certificates, s_client};
use crate::support::cluster::{Options, PASSWORD};
use crate::support::process::{self, Place};
use crate::support::wire::{first_error, terminated};
use crate::support::{Cluster, Pooler, Wire, scene, wait_until};

fn tls_cluster(files: &Place, hba: &[&str]) -> Cluster {
    let at = files.path().display();
    Cluster::start_with(&Options {
        conf: vec![
            "ssl = on".to_owned(),
            format!("ssl_cert_file = '{at}/server.crt'"),
            format!("ssl_key_file = '{at}/server.key'"),
            format!("ssl_ca_file = '{at}/root.crt'"),
        ],
        hba: hba.iter().map(|line| (*line).to_owned()).collect(),
        ..Options::default()
    })
}

/// An Aether whose clients get TLS by these keys of `server.tls`, in front of a DSN with these parameters.
fn pooler(cluster: &Cluster, tls: &str, parameters: &str, more: &str) -> Pooler {
    Pooler::start(&yaml(cluster, tls, parameters, more))
}

fn yaml(cluster: &Cluster, tls: &str, parameters: &str, more: &str) -> String {
    let dsn = scene::tcp(cluster, "database");
    scene::yaml(
        &format!("{dsn}?{parameters}"),
        &format!(", tls: {{{tls}}}"),
        more,
    )
}

pub fn own_certificate(files: &Place) -> String {
    let at = files.path().display();
    format!("cert_file: {at}/server.crt, key_file: {at}/server.key")
}

/// psql by way of libpq's words.
fn psql(cluster: &Cluster, words: &str, command: &str) -> Output {
    Command::new(cluster.program("psql"))
        .args([
            "-X",
            "-A",
            "-t",
            "-d",
            &format!("user=username dbname=database {words}"),
            "-c",
            command,
        ])
        .env("PGPASSWORD", PASSWORD)
        .env("PGCONNECT_TIMEOUT", "20")
        .env("HOME", "/nonexistent")
        .output()
        .expect("psql")
}

/// `TLS`, `plain`, or what libpq says.
fn way(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return String::from_utf8_lossy(&output.stderr).into_owned();
    }
    if out.contains("SSL connection") {
        "TLS"
    } else {
        "plain"
    }
    .to_owned()
}

/// Issue 4, proof 1: psql with every sslmode, against every mode of ours.
#[test]
fn psql_with_every_sslmode_gets_what_both_sides_want() {
    let files = certificates();
    let cluster = Cluster::shared();
    let own = own_certificate(&files);
    let root = files.path().join("root.crt").display().to_string();
    let refused = "no encryption";
    let none = "server does not support SSL, but SSL was required";
    for (mode, expected) in [
        ("disable", ["plain", "plain", "plain", none, none, none]),
        ("allow", ["plain", "plain", "TLS", "TLS", "TLS", "TLS"]),
        ("prefer", ["plain", "plain", "TLS", "TLS", "TLS", "TLS"]),
        ("require", [refused, "TLS", "TLS", "TLS", "TLS", "TLS"]),
    ] {
        let pooler = pooler(cluster, &format!("mode: {mode}, {own}"), "", "");
        let modes = [
            "disable",
            "allow",
            "prefer",
            "require",
            "verify-ca",
            "verify-full",
        ];
        for (sslmode, expected) in modes.into_iter().zip(expected) {
            let words = format!(
                "host=localhost hostaddr=127.0.0.1 port={} sslmode={sslmode} sslrootcert={root}",
                pooler.port()
            );
            let output = psql(cluster, &words, "\\conninfo");
            assert!(
                way(&output).contains(expected),
                "{mode}, {sslmode}: {}",
                way(&output)
            );
        }
    }
}

/// The servers' own view, and SHOW's, for each of our sslmodes.
#[test]
fn servers_are_reached_by_every_sslmode_as_libpq_would() {
    let files = certificates();
    let at = files.path().display();
    let no_tls = Cluster::shared();
    let both = tls_cluster(&files, &[]);
    let only_tls = tls_cluster(&files, &["hostnossl all username all reject"]);
    let only_plain = tls_cluster(&files, &["hostssl all username all reject"]);
    let verify_ca = format!("sslmode=verify-ca&sslrootcert={at}/root.crt");
    let verify_full = format!("sslmode=verify-full&sslrootcert={at}/root.crt");
    let wrong_root = format!("sslmode=verify-ca&sslrootcert={at}/rogue.crt");
    let refused = "28000";
    let failed = "08006";
    let table = [
        ("sslmode=disable", ["f", "f", refused, "f"]),
        ("sslmode=allow", ["f", "f", "t", "f"]),
        ("sslmode=prefer", ["f", "t", "t", "f"]),
        ("", ["f", "t", "t", "f"]),
        ("sslmode=require", [failed, "t", "t", refused]),
        (&verify_ca, [failed, "t", "t", refused]),
        (&verify_full, [failed, "t", "t", refused]),
        (&wrong_root, [failed, failed, failed, failed]),
        (
            "sslmode=require&ssl_max_protocol_version=TLSv1.2",
            [failed, "t", "t", refused],
        ),
    ];
    let clusters = [no_tls, &both, &only_tls, &only_plain];
    let (mut databases, mut wanted) = (String::new(), Vec::new());
    for (row, (parameters, expected)) in table.into_iter().enumerate() {
        for (column, (cluster, expected)) in clusters.into_iter().zip(expected).enumerate() {
            let dsn = scene::tcp(cluster, "database");
            databases += &format!("  d{row}_{column}: {{dsn: \"{dsn}?{parameters}\"}}\n");
            wanted.push((format!("d{row}_{column}"), parameters, expected));
        }
    }
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"}}\nadmin: {{users: [username]}}\n\
         pool: {{acquire_timeout: 3s}}\ndatabases:\n{databases}"
    ));
    let port = pooler.port();
    thread::scope(|threads| {
        for (database, parameters, expected) in &wanted {
            threads.spawn(move || {
                let parameters_of = [("user", "username"), ("database", database.as_str())];
                match Wire::try_login(port, &parameters_of, PASSWORD) {
                    Ok(mut client) => {
                        let sql =
                            "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                        let row = client
                            .run(sql)
                            .iter()
                            .find_map(|message| message.row())
                            .expect("a row");
                        assert_eq!(row[0].as_deref(), Some(*expected), "{parameters}");
                        let mut console = Wire::login(port, "username", PASSWORD, "aether");
                        let shown = scene::show(&mut console, "SERVERS");
                        let own = shown
                            .iter()
                            .find(|row| row["database"] == **database)
                            .expect("its server");
                        let version = row[1].clone().unwrap_or_default();
                        assert_eq!(own["tls"].split('/').next(), Some(version.as_str()));
                    }
                    Err(error) => {
                        assert_eq!(error.sqlstate(), *expected, "{parameters}: {error:?}")
                    }
                }
            });
        }
    });
}

/// Bulk data in both directions over TLS on both legs.
#[test]
fn bulk_data_passes_through_tls_on_both_legs_unharmed() {
    let files = certificates();
    let cluster = tls_cluster(&files, &["hostnossl all username all reject"]);
    let pooler = pooler(&cluster, &own_certificate(&files), "sslmode=require", "");
    let words = format!(
        "host=localhost hostaddr=127.0.0.1 port={} sslmode=require",
        pooler.port()
    );
    let sql = "SELECT md5(string_agg(line, '' ORDER BY line)) FROM (SELECT repeat(n::text, 900) AS line FROM generate_series(1, 9000) n) t";
    let hash = cluster.sql("database", sql);
    let copied = psql(
        &cluster,
        &words,
        "COPY (SELECT repeat(n::text, 900) FROM generate_series(1, 9000) n) TO STDOUT",
    );
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );
    let lines: Vec<&[u8]> = copied.stdout.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 9_001);
    cluster.sql(
        "database",
        "CREATE TABLE bulk (line text); GRANT ALL ON bulk TO username",
    );
    let mut child = Command::new(cluster.program("psql"))
        .args([
            "-X",
            "-q",
            "-d",
            &format!("user=username dbname=database {words}"),
            "-c",
            "COPY bulk FROM STDIN",
        ])
        .env("PGPASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .spawn()
        .expect("psql");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(&copied.stdout)
        .expect("it reads");
    assert!(child.wait().expect("it ends").success());
    let sum = "SELECT md5(string_agg(line, '' ORDER BY line)) FROM bulk";
    assert_eq!(cluster.sql("database", sum), hash);
}

fn ssl_request() -> Vec<u8> {
    [8_i32.to_be_bytes(), 80_877_103_i32.to_be_bytes()].concat()
}

/// CVE-2021-3935, CVE-2021-43766, R1, R2: whatever came in the clear behind SSLRequest would be taken for something said inside of TLS.
#[test]
fn what_is_sent_in_the_clear_behind_an_ssl_request_is_refused() {
    let files = certificates();
    let pooler = pooler(Cluster::shared(), &own_certificate(&files), "", "");
    let mut wire = Wire::connect(pooler.port());
    let mut startup = vec![0, 3, 0, 0];
    startup.extend(b"user\0username\0\0");
    let length = i32::try_from(startup.len() + 4)
        .expect("short")
        .to_be_bytes();
    wire.send(&[ssl_request(), length.to_vec(), startup].concat());
    let error = first_error(&wire.read_to_end()).expect("an error");
    assert_eq!((error.severity(), error.sqlstate()), ("FATAL", "08P01"));
    assert!(
        error
            .message()
            .contains("unencrypted data after SSL request"),
        "{}",
        error.message()
    );
}

/// A server that answers SSLRequest with these bytes; what it is sent afterwards.
fn answering(answer: &'static [u8]) -> (u16, thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let told = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = [0; 8];
        stream.read_exact(&mut request).expect("SSLRequest");
        assert_eq!(request[..], ssl_request()[..]);
        stream.write_all(answer).expect("it reads");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        rest
    });
    (port, told)
}

/// CVE-2021-23222, CVE-2021-43767, R1: bytes behind a server's `S`. CVE-2024-10977: an error in its place, whose text anybody may have written.
#[test]
fn nothing_that_a_server_says_in_the_clear_beside_its_answer_is_used_or_shown() {
    for (answer, says) in [
        (&b"SR\0\0\0\x08\0\0\0\0"[..], "unencrypted data"),
        (b"NR\0\0\0\x08\0\0\0\0", "unencrypted data"),
        (
            b"E\0\0\0\x1aSFATAL\0C28P01\0MPOISON\0\0",
            "an error in place of an answer",
        ),
        (b"?", "invalid answer"),
        (b"N", "does not support SSL"),
    ] {
        let (port, told) = answering(answer);
        let pooler = Pooler::start(&scene::yaml(
            &format!("postgres://username:{PASSWORD}@127.0.0.1:{port}/database?sslmode=require"),
            "",
            "  acquire_timeout: 2s\n  max_connections: 1\n",
        ));
        let login = Wire::try_login(
            pooler.port(),
            &[("user", "username"), ("database", "database")],
            PASSWORD,
        );
        let error = login.err().expect("no server");
        let all = format!("{error:?}{}", pooler.log());
        assert!(all.contains(says), "{answer:?}: {all}");
        assert!(!all.contains("POISON"), "{all}");
        let rest = told.join().expect("it was asked");
        assert!(rest.is_empty(), "it was told {rest:?}");
    }
}

/// `sslnegotiation=direct` of libpq 17, whose first byte is TLS's own; catalogue R16, and T2 for what is too old.
#[test]
fn openssl_gets_direct_and_negotiated_tls_of_the_right_versions() {
    let files = certificates();
    let cluster = Cluster::shared();
    let keys = format!("mode: require, {}", own_certificate(&files));
    let pooler = pooler(cluster, &keys, "", "");
    let root = files.path().join("root.crt").display().to_string();
    let verify = [
        "-CAfile",
        &root,
        "-verify_return_error",
        "-verify_hostname",
        "localhost",
    ];
    let ok = "Verification: OK";
    for (arguments, says) in [
        (&["-starttls", "postgres"][..], ok),
        (
            &["-starttls", "postgres", "-tls1_2"],
            "TLSv1.2, Cipher is ECDHE-RSA-AES256-GCM-SHA384",
        ),
        (&["-starttls", "postgres", "-tls1_3"], "TLSv1.3"),
        (
            &[
                "-starttls",
                "postgres",
                "-tls1_1",
                "-cipher",
                "ALL:@SECLEVEL=0",
            ],
            "alert",
        ),
        (
            &["-starttls", "postgres", "-tls1_2", "-cipher", "AES128-SHA"],
            "alert handshake failure",
        ),
        (
            &["-starttls", "postgres", "-alpn", "h2"],
            "alert no application protocol",
        ),
        (&["-alpn", "postgresql"], "ALPN protocol: postgresql"),
    ] {
        let said = s_client(pooler.port(), &[&verify[..], arguments].concat());
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    // Without the protocol's name, direct TLS ends behind the handshake.
    let mut plain = pooler_log_after(&pooler, || s_client(pooler.port(), &verify));
    plain.retain(|line| line.contains("direct TLS without the protocol's name"));
    assert_eq!(plain.len(), 1);
}

/// Lines that the log gains.
fn pooler_log_after(pooler: &Pooler, act: impl FnOnce() -> String) -> Vec<String> {
    let before = pooler.log().lines().count();
    act();
    wait_until("the log tells", || pooler.log().lines().count() > before);
    pooler
        .log()
        .lines()
        .skip(before)
        .map(str::to_owned)
        .collect()
}

/// Catalogue T4.
#[test]
fn verify_full_lets_in_whoever_shows_a_certificate_of_ours() {
    let files = certificates();
    let cluster = Cluster::shared();
    let at = files.path().display();
    let keys = format!(
        "mode: verify-full, ca_file: {at}/root.crt, crl_file: {at}/root.crl, {}",
        own_certificate(&files)
    );
    let pooler = pooler(cluster, &keys, "", "");
    for (name, expected) in [
        ("client", "TLS"),
        ("revoked", "alert certificate revoked"),
        ("stranger", "alert"),
        ("", "alert certificate required"),
    ] {
        let own = match name {
            "" => String::new(),
            name => format!(
                "sslcert={} sslkey={}",
                readable(&files, name, "crt"),
                readable(&files, name, "key")
            ),
        };
        let words = format!(
            "host=127.0.0.1 port={} sslmode=require {own}",
            pooler.port()
        );
        let output = psql(cluster, &words, "\\conninfo");
        assert!(way(&output).contains(expected), "{name}: {}", way(&output));
    }
}

/// Issue 4: hostssl, hostnossl and cert of a pg_hba.conf go by what the connection really is; catalogue R12 and R13.
#[test]
fn rules_see_tls_and_whose_certificate_was_shown() {
    let files = certificates();
    let cluster = Cluster::shared();
    let at = files.path().display();
    let subject = include_str!("../certificates/subject.txt").trim_end();
    files.write("ident", &format!("dn \"{subject}\" username\n"));
    let hba = "hostssl mapped all all cert clientname=DN map=dn\n\
               hostssl locked all all trust clientcert=verify-ca\n\
               hostssl all all all cert\n\
               hostnossl all all all reject\n";
    files.write("hba", hba);
    let own = own_certificate(&files);
    let tls = format!(", tls: {{{own}, ca_file: {at}/root.crt, crl_file: {at}/root.crl}}");
    let dsn = scene::tcp(cluster, "database");
    let pooler = Pooler::start(&format!(
        "server: {{listen_addr: \"127.0.0.1:{{port}}\"{tls}}}\n\
         databases: {{database: {{dsn: \"{dsn}\"}}, mapped: {{dsn: \"{dsn}\"}}, locked: {{dsn: \"{dsn}\"}}}}\n\
         auth: {{hba_file: {at}/hba, ident_file: {at}/ident}}\n"
    ));
    let failed = "certificate authentication failed for user";
    let (missing, revoked) = (
        "requires a valid client certificate",
        "alert certificate revoked",
    );
    for (certificate, database, user, sslmode, expected) in [
        ("client", "database", "username", "require", "TLS"),
        ("client", "database", "other", "require", failed),
        ("subject", "database", "username", "require", "TLS"),
        ("", "database", "username", "require", missing),
        ("revoked", "database", "username", "require", revoked),
        ("stranger", "database", "username", "require", "alert"),
        ("subject", "mapped", "username", "require", "TLS"),
        ("subject", "mapped", "other", "require", failed),
        ("client", "mapped", "username", "require", failed),
        ("client", "locked", "anybody", "require", "TLS"),
        ("", "locked", "anybody", "require", missing),
        (
            "client",
            "database",
            "username",
            "disable",
            "pg_hba.conf rejects connection",
        ),
    ] {
        let shown = match certificate {
            "" => String::new(),
            name => format!(
                "sslcert={} sslkey={}",
                readable(&files, name, "crt"),
                readable(&files, name, "key")
            ),
        };
        let words = format!(
            "host=127.0.0.1 port={} sslmode={sslmode} user={user} dbname={database} {shown}",
            pooler.port()
        );
        let output = psql(cluster, &words, "\\conninfo");
        assert!(
            way(&output).contains(expected),
            "{certificate} {database} {user} {sslmode}: {}",
            way(&output)
        );
    }
}

/// libpq wants a key that belongs to the user who runs it, or to root.
fn readable(files: &Place, name: &str, suffix: &str) -> String {
    let to = files.path().join(format!("own_{name}.{suffix}"));
    let from: PathBuf = files.path().join(format!("{name}.{suffix}"));
    fs::write(&to, fs::read(from).expect("a file")).expect("a copy");
    fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("chmod");
    to.display().to_string()
}

/// A client certificate opens a server whose pg_hba.conf asks for one.
#[test]
fn our_certificate_logs_in_to_a_server_that_asks_for_it() {
    let files = certificates();
    let cluster = tls_cluster(&files, &["hostssl all username all cert"]);
    let at = files.path().display();
    let own = format!("sslmode=require&sslcert={at}/client.crt&sslkey={at}/client.key");
    let pooler = pooler(&cluster, "", &own, "");
    let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
    let name = client.value("SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    assert_eq!(name.as_deref(), Some("/CN=username"));
}

/// Cancels go the way of the connection that they are about, over TLS on both legs.
#[test]
fn a_cancel_reaches_its_query_over_tls_on_both_legs() {
    let files = certificates();
    let cluster = tls_cluster(&files, &["hostnossl all username all reject"]);
    let pooler = pooler(&cluster, &own_certificate(&files), "sslmode=require", "");
    let words = format!("host=127.0.0.1 port={} sslmode=require", pooler.port());
    let mut child = Command::new(cluster.program("psql"))
        .args([
            "-X",
            "-d",
            &format!("user=username dbname=database {words}"),
            "-c",
            "SELECT pg_sleep(60)",
        ])
        .env("PGPASSWORD", PASSWORD)
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql");
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait_until("the query runs", || cluster.sql("postgres", sleeps) == "1");
    process::signal(child.id(), Signal::SIGINT);
    let mut said = String::new();
    let mut pipe = child.stderr.take().expect("a pipe");
    pipe.read_to_string(&mut said).expect("text");
    let _ = child.wait();
    assert!(
        said.contains("canceling statement due to user request"),
        "{said}"
    );
    wait_until("nothing runs", || cluster.sql("postgres", sleeps) == "0");
    // And one whose client came in the clear.
    let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
    client.send_message(b'Q', &terminated("SELECT pg_sleep(60)"));
    wait_until("the query runs", || cluster.sql("postgres", sleeps) == "1");
    client.cancel();
    let error = first_error(&client.read_until(b'Z')).expect("cancelled");
    assert_eq!(error.sqlstate(), "57014");
}

/// Catalogue T3: certificates are changed under way; a broken one changes nothing. Days to expiry are visible.
#[test]
fn a_reload_brings_new_certificates_to_new_connections_and_a_broken_one_is_refused() {
    let files = certificates();
    let cluster = Cluster::shared();
    let at = files.path().display();
    let keys = format!("cert_file: {at}/now.crt, key_file: {at}/now.key");
    let put = |name: &str| {
        for suffix in ["crt", "key"] {
            let to = files.path().join(format!("now.{suffix}"));
            fs::write(
                &to,
                fs::read(files.path().join(format!("{name}.{suffix}"))).expect("a file"),
            )
            .expect("a copy");
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("chmod");
            process::own(&to);
        }
    };
    put("server");
    let pooler = pooler(cluster, &keys, "", "");
    let subject = || s_client(pooler.port(), &["-starttls", "postgres"]);
    assert!(subject().contains("subject=CN = server"));
    let mut open = Wire::login(pooler.port(), "username", PASSWORD, "database");
    let days = |column: &str| {
        let mut console = Wire::login(pooler.port(), "username", PASSWORD, "aether");
        scene::show(&mut console, "TLS")[0][column].clone()
    };
    assert!(days("days_left").parse::<i64>().expect("a number") > 30_000);

    put("expired");
    pooler.signal(Signal::SIGHUP);
    pooler.wait_for_log("has expired");
    pooler.wait_for_log("the configuration was reloaded");
    assert!(subject().contains("subject=CN = localhost"));
    assert!(days("days_left").starts_with('-'));

    fs::write(files.path().join("now.crt"), "nonsense").expect("written");
    pooler.signal(Signal::SIGHUP);
    pooler.wait_for_log("now.crt: the file holds no certificate in PEM");
    pooler.wait_for_log("the old one stays in force");
    assert!(subject().contains("subject=CN = localhost"));
    assert_eq!(open.value("SELECT 1").as_deref(), Some("1"));
}

/// R2, protocol-notes 17: SSLRequest where there is no TLS, and twice; a TLS handshake where there is none is not answered.
#[test]
fn without_a_certificate_ssl_is_declined_and_direct_tls_is_closed() {
    let pooler = pooler(Cluster::shared(), "", "", "");
    let mut wire = Wire::connect(pooler.port());
    assert_eq!(wire.ask_encryption(80_877_103), b'N');
    let mut stream = TcpStream::connect(("127.0.0.1", pooler.port())).expect("it listens");
    stream
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        .expect("it reads");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
}
