//! SCRAM bound to TLS (issue 4: scram-sha-256-plus, channel_binding) and `sslcertmode`, with libpq and a real PostgreSQL.

use super::*;
use crate::support::ServerError;

/// A cluster with this certificate; `conf`: more lines.
fn cluster_showing(files: &Place, certificate: &str, conf: &[String]) -> Cluster {
    let at = files.path().display();
    let mut lines = vec![
        "ssl = on".to_owned(),
        format!("ssl_cert_file = '{at}/{certificate}.crt'"),
        format!("ssl_key_file = '{at}/{certificate}.key'"),
    ];
    lines.extend_from_slice(conf);
    Cluster::start_with(&Options {
        conf: lines,
        hba: vec!["hostnossl all username all reject".to_owned()],
        ..Options::default()
    })
}

fn log_in(pooler: &Pooler) -> Result<Wire, ServerError> {
    let parameters = [("user", "username"), ("database", "database")];
    Wire::try_login(pooler.port(), &parameters, PASSWORD)
}

/// What a client is told that finds no server.
#[track_caller]
fn refused(pooler: &Pooler, what: &str) -> String {
    match log_in(pooler) {
        Ok(_) => panic!("{what}: let in"),
        Err(error) => format!("{error:?}"),
    }
}

/// psql's channel_binding against certificates of each kind of signature; for Ed25519 RFC 5929 defines none.
#[test]
fn psql_binds_scram_to_the_certificate_of_aether() {
    let files = certificates();
    let cluster = Cluster::shared();
    let at = files.path().display();
    let unbound = "server did not offer an authentication method that supports channel binding";
    for (certificate, required) in [
        ("server", "TLS"),
        ("sha384", "TLS"),
        ("pss", "TLS"),
        ("sec1", "TLS"),
        ("ed25519", unbound),
    ] {
        let own = format!("cert_file: {at}/{certificate}.crt, key_file: {at}/{certificate}.key");
        let pooler = pooler(cluster, &own, "", "");
        for (binding, expected) in [("require", required), ("prefer", "TLS"), ("disable", "TLS")] {
            let words = format!(
                "host=127.0.0.1 port={} sslmode=require channel_binding={binding}",
                pooler.port()
            );
            let output = psql(cluster, &words, "\\conninfo");
            assert!(
                way(&output).contains(expected),
                "{certificate} {binding}: {}",
                way(&output)
            );
        }
    }
}

/// `auth.type: scram-sha-256-plus`: with channel binding or not at all, and the reason is told.
#[test]
fn who_has_to_bind_scram_to_tls_cannot_log_in_without() {
    let files = certificates();
    let cluster = Cluster::shared();
    let socket = Place::new("binding");
    let text = scene::yaml(
        &scene::tcp(cluster, "database"),
        &format!(
            ", unix_socket_dir: {}, unix_socket_mode: \"0777\", tls: {{{}}}",
            socket.path().display(),
            own_certificate(&files)
        ),
        "auth: {type: scram-sha-256-plus}\n",
    );
    let pooler = Pooler::start(&text);
    let none = "none of the server's SASL authentication mechanisms are supported";
    let plain = "channel binding is required, but SSL not in use";
    for (words, expected) in [
        ("host=127.0.0.1 sslmode=require", "TLS"),
        (
            "host=127.0.0.1 sslmode=require channel_binding=require",
            "TLS",
        ),
        (
            "host=127.0.0.1 sslmode=require channel_binding=disable",
            none,
        ),
        ("host=127.0.0.1 sslmode=disable", plain),
        ("host=127.0.0.1 sslmode=disable user=nobody", plain),
        (&format!("host={}", socket.path().display()), plain),
    ] {
        let output = psql(
            cluster,
            &format!("{words} port={}", pooler.port()),
            "\\conninfo",
        );
        assert!(way(&output).contains(expected), "{words}: {}", way(&output));
    }
}

/// channel_binding towards servers, with libpq's meanings.
#[test]
fn aether_binds_scram_to_the_certificate_of_the_server() {
    let files = certificates();
    let bindable = cluster_showing(&files, "server", &[]);
    let ed25519 = cluster_showing(&files, "ed25519", &[]);
    let only_required = "sslmode=require&channel_binding=require&require_auth=scram-sha-256";
    for (cluster, parameters, error) in [
        (&bindable, only_required, ""),
        (&bindable, "sslmode=require", ""),
        (&bindable, "sslmode=require&channel_binding=disable", ""),
        (&ed25519, "sslmode=require", ""),
        (
            &ed25519,
            only_required,
            "none is defined for the signature algorithm of the server's certificate",
        ),
        (
            Cluster::shared(),
            "sslmode=prefer&channel_binding=require",
            "channel binding required, but SSL not in use",
        ),
    ] {
        let pooler = pooler(cluster, "", parameters, "  acquire_timeout: 3s\n");
        match error {
            "" => assert!(log_in(&pooler).is_ok(), "{parameters}: {}", pooler.log()),
            error => {
                let said = refused(&pooler, parameters);
                assert!(said.contains(error), "{parameters}: {said}");
                assert!(said.contains("channel_binding in the pool's dsn"), "{said}");
            }
        }
    }
    // A method that cannot be bound gets nothing: the password least of all.
    let dsn = format!(
        "postgres://clear_user:{PASSWORD}@127.0.0.1:{}/database?sslmode=require&channel_binding=require",
        bindable.port()
    );
    let keys = "auth: {type: scram-sha-256, users: {username: password}}\n";
    let pooler = Pooler::start(&scene::yaml(&dsn, "", keys));
    let said = refused(&pooler, "cleartext");
    assert!(
        said.contains(
            "channel binding required but not supported by server's authentication request"
        ),
        "{said}"
    );
}

/// libpq 16's sslcertmode.
#[test]
fn a_server_that_does_not_ask_for_our_certificate_gets_nothing_where_it_must() {
    let files = certificates();
    let at = files.path().display();
    let asks = cluster_showing(
        &files,
        "server",
        &[format!("ssl_ca_file = '{at}/root.crt'")],
    );
    let does_not = cluster_showing(&files, "server", &[]);
    let own = format!("sslmode=require&sslcert={at}/client.crt&sslkey={at}/client.key");
    let shown = "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for (cluster, mode, expected) in [
        (&asks, "allow", Ok(Some("/CN=username"))),
        (&asks, "require", Ok(Some("/CN=username"))),
        (&asks, "disable", Ok(None)),
        (&does_not, "allow", Ok(None)),
        (
            &does_not,
            "require",
            Err("server did not request an SSL certificate"),
        ),
    ] {
        let parameters = format!("{own}&sslcertmode={mode}");
        let pooler = pooler(cluster, "", &parameters, "  acquire_timeout: 3s\n");
        match expected {
            Ok(name) => {
                let mut client = log_in(&pooler).expect(mode);
                assert_eq!(client.value(shown).as_deref(), name, "{mode}");
            }
            Err(error) => {
                let said = refused(&pooler, mode);
                assert!(said.contains(error), "{mode}: {said}");
            }
        }
    }
    // TLS is on; that the server asks for a password was not even looked at.
    let log = does_not.log();
    assert!(!log.contains("password authentication failed"), "{log}");
}
