//! No TLS over Unix sockets, on neither leg (issue 4): nobody listens in between.

use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

/// Catalogue R13: SSLRequest is declined, a handshake is not answered, and a client that comes in the clear is let in, although TLS is
/// required by TCP. libpq does not even ask.
#[test]
fn a_client_by_unix_socket_gets_no_tls_and_needs_none() {
    let files = certificates();
    let cluster = Cluster::shared();
    let place = Place::new("unix_clients");
    let directory = place.path().display();
    let pooler = Pooler::start(&scene::yaml(
        &scene::tcp(cluster, "database"),
        &format!(
            ", unix_socket_dir: {directory}, unix_socket_mode: \"0777\", tls: {{mode: require, {}}}",
            own_certificate(&files)
        ),
        "",
    ));
    let socket = place.path().join(format!(".s.PGSQL.{}", pooler.port()));
    let mut asking = UnixStream::connect(&socket).expect("it listens");
    asking.write_all(&ssl_request()).expect("it reads");
    let mut answer = [0];
    asking.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *b"N");
    // The login goes on in the clear, on the same connection.
    let startup = b"\0\0\0\x29\0\x03\0\0user\0username\0database\0database\0\0";
    asking.write_all(startup).expect("it reads");
    asking.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *b"R");
    let mut direct = UnixStream::connect(&socket).expect("it listens");
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc";
    direct.write_all(hello).expect("it reads");
    let mut rest = Vec::new();
    let _ = direct.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{rest:?}");
    for sslmode in ["disable", "prefer", "require", "verify-full"] {
        let root = files.path().join("root.crt").display().to_string();
        let words = format!(
            "host={directory} port={} sslmode={sslmode} sslrootcert={root}",
            pooler.port()
        );
        let output = psql(cluster, &words, "\\conninfo");
        assert_eq!(way(&output), "plain", "{sslmode}");
    }
    let words = format!("host=127.0.0.1 port={} sslmode=disable", pooler.port());
    let output = psql(cluster, &words, "\\conninfo");
    assert!(way(&output).contains("no encryption"), "{}", way(&output));
}

/// As in libpq, sslmode means nothing where the server is reached by a Unix socket.
#[test]
fn a_server_by_unix_socket_is_spoken_to_in_the_clear_whatever_sslmode_says() {
    let files = certificates();
    let cluster = tls_cluster(&files, &[]);
    let at = files.path().display();
    let socket = cluster.socket_dir().display().to_string();
    for parameters in [
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=verify-full&sslrootcert={at}/root.crt"),
        "sslmode=require&sslnegotiation=direct".to_owned(),
    ] {
        let dsn = format!(
            "postgres://username:{PASSWORD}@/database?host={socket}&port={}&{parameters}",
            cluster.port()
        );
        let pooler = Pooler::start(&scene::yaml(&dsn, "", ""));
        let mut client = Wire::login(pooler.port(), "username", PASSWORD, "database");
        let ssl = client.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
        assert_eq!(ssl.as_deref(), Some("f"), "{parameters}");
    }
    // The first thing that it hears is the startup packet.
    let place = Place::new("unix_server");
    let path = place.path().join(".s.PGSQL.5432");
    let listener = UnixListener::bind(&path).expect("the name is free");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("chmod");
    let heard = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = [0; 8];
        stream.read_exact(&mut head).expect("a packet");
        head
    });
    let directory = place.path().display();
    let pooler = Pooler::start(&scene::yaml(
        &format!("postgres://username:{PASSWORD}@/database?host={directory}&sslmode=require"),
        "",
        "  acquire_timeout: 2s\n",
    ));
    let parameters = [("user", "username"), ("database", "database")];
    let _ = Wire::try_login(pooler.port(), &parameters, PASSWORD);
    let head = heard.join().expect("it was dialled");
    assert_eq!(
        head[4..6],
        [0, 3],
        "a protocol version, and no SSLRequest: {head:?}"
    );
}
