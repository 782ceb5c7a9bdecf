//! The rows, and what has none. What is seen without an option stands before what is seen with it.

use nix::sys::socket::sockopt;

use super::probes::*;
use super::{Row, row};

const SHARED: &str = "pool_mode = transaction";
/// One server for all.
const ONE: &str = "pool_size=1";
const FORCED: &str = "user=username password=password";
const TLS: &str = "client_tls_sslmode = prefer\nclient_tls_key_file = {certs}/server.key\nclient_tls_cert_file = {certs}/server.crt";
const TLS_1_2: &str = "client_tls_sslmode = prefer\nclient_tls_key_file = {certs}/server.key\nclient_tls_cert_file = {certs}/server.crt\n\
                       client_tls_protocols = tlsv1.2";
/// Who comes over TLS shows a certificate.
const RULES: &str = "auth_type = hba\nauth_hba_file = {dir}/cert.hba\nclient_tls_sslmode = prefer\n\
                     client_tls_key_file = {certs}/server.key\nclient_tls_cert_file = {certs}/server.crt";
/// With a `/dev` that has our syslog, and nothing else.
const SYSLOG: &[&str] = &[
    "unshare",
    "--map-current-user",
    "--keep-caps",
    "--mount",
    "sh",
    "-c",
    "mount -t tmpfs none /dev && ln -s {dir}/syslog /dev/log && exec \"$@\"",
    "sh",
];

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    // The process, its sockets.
    row("logfile", "{dir}/elsewhere.log", ["no", "yes"], logs_to_the_file),
    row("pidfile", "{dir}/pid", ["no", "yes"], pidfile).at_start(),
    row("listen_addr", "127.0.0.1, 127.0.0.2", ["true false", "true true"], listens_twice).plain("127.0.0.1").at_start(),
    row("so_reuseport", "1", ["no", "yes"], listens_beside).at_start(),
    row("tcp_defer_accept", "0", ["no", "yes"], silence_counts),
    row("listen_backlog", "1", ["8", "2"], backlog),
    row("unix_socket_dir", "{dir}", ["777 none", "none 777"], socket_directory).at_start(),
    row("unix_socket_mode", "0700", ["777", "700"], socket_mode).with("unix_socket_dir = {dir}").at_start(),
    row("tcp_socket_buffer", "4096", ["yes", "no"], takes_much),
    row("tcp_keepalive", "0", ["yes", "no"], keeps_alive),
    row("tcp_keepalive", "0", ["true true", "false false"], |lab| of_sockets(lab, sockopt::KeepAlive)),
    row("tcp_keepidle", "50", ["no", "yes"], keepalive_is_soon),
    row("tcp_keepidle", "50", ["usual usual", "50 50"], |lab| of_sockets(lab, sockopt::TcpKeepIdle)),
    row("tcp_keepintvl", "7", ["usual usual", "7 7"], |lab| of_sockets(lab, sockopt::TcpKeepInterval)),
    row("tcp_keepcnt", "4", ["usual usual", "4 4"], |lab| of_sockets(lab, sockopt::TcpKeepCount)),
    row("tcp_user_timeout", "1234", ["usual usual", "1234 1234"], |lab| of_sockets(lab, sockopt::TcpUserTimeout)),
    row("max_packet_size", "600", ["fine", "08P01"], large_query),
    row("max_packet_size", "600", ["fine", "54000"], large_row),
    row("peer_id", "7", ["no", "yes"], peer_id),

    // Pools and limits.
    row("pool_mode", "transaction", ["no", "yes"], is_shared).database("pool_mode=transaction").user("pool_mode=transaction"),
    row("max_client_conn", "5", ["8", "4"], clients),
    row("default_pool_size", "2", ["4", "2"], servers).with(SHARED).database("pool_size=2").user("pool_size=2"),
    row("min_pool_size", "2", ["0", "2"], kept).with("server_idle_timeout = 0.2")
        .entry("user=username password=password").database("min_pool_size=2"),
    row("reserve_pool_size", "2", ["1", "3"], servers).with("pool_mode = transaction\nreserve_pool_timeout = 0.1").entry(ONE)
        .database("reserve_pool_size=2").user("reserve_pool_size=2"),
    row("reserve_pool_size", "2", ["1", "3"], servers).with("pool_mode = transaction\nreserve_pool_timeout = 0.1").entry(ONE)
        .database("reserve_pool=2"),
    row("reserve_pool_timeout", "0.1", ["1", "2"], servers_after_a_rest).entry(ONE)
        .with("pool_mode = transaction\nreserve_pool_size = 1\nserver_idle_timeout = 0.3"),
    row("max_db_connections", "3", ["6", "3"], servers_of_two).with(SHARED).database("max_db_connections=3"),
    row("max_db_client_connections", "3", ["8", "3"], clients).database("max_db_client_connections=3"),
    row("max_user_connections", "2", ["4", "2"], servers).with(SHARED).user("max_user_connections=2"),
    row("max_user_client_connections", "3", ["8", "3"], clients).user("max_user_client_connections=3"),
    row("server_round_robin", "1", ["the same", "the other"], next_server).with(SHARED).entry("pool_size=2"),
    row("ignore_startup_parameters", "strange_parameter", ["42704", "fine"], brings_a_strange_parameter),
    row("disable_pqexec", "1", ["fine", "0A000"], simple_query),
    row("application_name_add_host", "1", ["me", "me - 127.0.0.1:port"], application_name),
    row("max_prepared_statements", "0", ["fine", "42P05"], named_statement).with(SHARED).entry(ONE),

    // Who gets in.
    row("auth_type", "trust", ["28P01", "in"], wrong_password),
    row("auth_file", "{dir}/others.txt", ["out", "in"], other_password).plain("{dir}/userlist.txt").entry(FORCED),
    row("auth_hba_file", "{dir}/reject.hba", ["in", "out"], usual_login).with("auth_type = hba").plain("{dir}/all.hba"),
    row("auth_ident_file", "{dir}/own.ident", ["out", "in"], peer_login).plain("{dir}/nobody.ident")
        .with("auth_type = hba\nauth_hba_file = {dir}/peer.hba\nunix_socket_dir = {dir}"),
    row("auth_user", "postgres", ["out", "in"], unlisted).database("auth_user=postgres"),
    row("auth_query", "SELECT rolname, current_database()::text FROM pg_authid WHERE rolname = $1", ["password", "first"],
        unlisted_password).with("auth_user = postgres").entry(FORCED)
        .database("auth_query='SELECT rolname, current_database()::text FROM pg_authid WHERE rolname = $1'"),
    row("auth_dbname", "b", ["first", "second"], unlisted_password)
        .with("auth_user = postgres\nauth_query = SELECT rolname, current_database()::text FROM pg_authid WHERE rolname = $1")
        .more("b = host=127.0.0.1 port={pg} dbname=second").entry(FORCED).database("auth_dbname=b"),
    row("scram_iterations", "5000", ["4096", "5000"], iterations).with("auth_type = scram-sha-256"),

    // The log, the console, and what clients are told.
    row("syslog", "1", ["nothing", "daemon pgbouncer"], syslog).under(SYSLOG),
    row("syslog_ident", "of-the-test", ["daemon pgbouncer", "daemon of-the-test"], syslog).under(SYSLOG).with("syslog = 1"),
    row("syslog_facility", "local3", ["daemon pgbouncer", "local3 pgbouncer"], syslog).under(SYSLOG).with("syslog = 1"),
    row("log_connections", "0", ["yes", "no"], says_login),
    row("log_disconnections", "0", ["yes", "no"], says_goodbye),
    row("log_pooler_errors", "0", ["yes", "no"], says_errors),
    row("verbose", "1", ["no", "yes"], says_details),
    row("log_stats", "0", ["yes", "no"], says_stats).with("stats_period = 1"),
    row("stats_period", "1", ["no", "yes"], says_stats),
    row("admin_users", "admin, other", ["none", "all"], rights).plain("admin"),
    row("stats_users", "other", ["none", "to look"], rights),
    row("query_wait_notify", "1", ["no", "yes"], notice_of_wait).with("pool_mode = transaction\nquery_wait_timeout = 20").entry(ONE),
    row("login_notify_message", "maintenance at nine", ["none", "maintenance at nine"], notice_at_login),

    // Servers, and times.
    row("server_reset_query", "SET work_mem = '88kB'", ["4MB", "88kB"], left_behind).entry(ONE),
    row("server_check_delay", "0", ["no", "yes"], notes).with("server_check_query = INSERT INTO noted DEFAULT VALUES").entry(ONE),
    row("server_check_query", "INSERT INTO noted DEFAULT VALUES", ["no", "yes"], notes).with("server_check_delay = 0").entry(ONE),
    row("server_fast_close", "1", ["no", "yes"], session_ends_at_reconnect),
    row("server_lifetime", "1", ["the same", "another"], server_after_a_second).with(SHARED).database("server_lifetime=1"),
    row("server_lifetime", "0", ["the same", "another"], server_of_the_next_transaction).with(SHARED),
    row("server_idle_timeout", "0.2", ["the same", "another"], server_after_a_second).with(SHARED),
    row("server_connect_timeout", "0.3", ["no", "yes"], gives_up).more("silent = host=127.0.0.1 port={silent}"),
    row("server_login_retry", "0.05", ["few", "many"], attempts).with("query_wait_timeout = 1.5")
        .more("refusing = host=127.0.0.1 port={refusing}"),
    row("client_login_timeout", "0.4", ["no", "yes"], silence_ends),
    row("autodb_idle_timeout", "0.2", ["yes", "no"], automatic_database).with("server_idle_timeout = 0.1")
        .more("* = host=127.0.0.1 port={pg} dbname=first"),
    row("query_timeout", "0.4", ["fine", "57014"], long_query).user("query_timeout=1"),
    row("query_wait_timeout", "0.4", ["waits", "53300"], long_wait).with(SHARED).entry(ONE)
        .database("query_wait_timeout=1").user("query_wait_timeout=1"),
    row("cancel_wait_timeout", "0.4", ["no", "yes"], cancel_ends).with("peer_id = 1").more("[peers]\n2 = host=127.0.0.1 port={silent}"),
    row("client_idle_timeout", "0.4", ["no", "yes"], idle_client_ends).user("client_idle_timeout=1"),
    row("idle_transaction_timeout", "0.4", ["no", "yes"], idle_transaction_ends).user("idle_transaction_timeout=1"),
    row("transaction_timeout", "0.4", ["no", "yes"], busy_transaction_ends).user("transaction_timeout=1"),
    row("dns_max_ttl", "100", ["no", "yes"], name_is_kept).entry("host=localhost").later(),
    row("dns_max_ttl", "1", ["yes", "no"], name_is_kept_for_two_seconds).entry("host=localhost").plain("3"),
    row("dns_nxdomain_ttl", "1", ["yes", "no"], absence_is_kept_for_two_seconds).plain("3").with("server_login_retry = 0.1")
        .more("nowhere = host=no..host port={pg}"),

    // TLS.
    row("client_tls_sslmode", "require", ["N in", "S out"], asks_for_tls)
        .with("client_tls_key_file = {certs}/server.key\nclient_tls_cert_file = {certs}/server.crt").begins_without(),
    row("client_tls_cert_file", "{certs}/other_host.crt\nclient_tls_key_file = {certs}/other_host.key", ["server", "localhost"],
        certificate_shown).plain("{certs}/server.crt\nclient_tls_key_file = {certs}/server.key")
        .with("client_tls_sslmode = prefer").not_by_set(),
    row("client_tls_key_file", "{certs}/other_host.key\nclient_tls_cert_file = {certs}/other_host.crt", ["server", "localhost"],
        certificate_shown).plain("{certs}/server.key\nclient_tls_cert_file = {certs}/server.crt")
        .with("client_tls_sslmode = prefer").not_by_set(),
    row("client_tls_ca_file", "{certs}/root.crt", ["out", "in"], certificate_login).plain("{certs}/rogue.crt").with(RULES),
    row("client_tls_protocols", "tlsv1.2", ["TLSv1.3", "TLSv1.2"], client_tls_version).with(TLS),
    row("client_tls_ciphers", "ECDHE-RSA-AES128-GCM-SHA256", ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"],
        client_cipher).with(TLS_1_2),
    row("client_tls13_ciphers", "TLS_CHACHA20_POLY1305_SHA256", ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"],
        client_cipher).with(TLS),
    row("client_tls_ecdhcurve", "prime256v1", ["yes", "no"], client_curve).with(TLS),
    row("server_tls_sslmode", "disable", ["true", "false"], server_is_over_tls),
    row("server_tls_ca_file", "{certs}/root.crt", ["no server", "true"], server_is_over_tls).plain("{certs}/rogue.crt")
        .with("server_tls_sslmode = verify-ca"),
    row("server_tls_cert_file", "{certs}/client.crt\nserver_tls_key_file = {certs}/client.key", ["none", "/CN=username"],
        certificate_of_ours).with("server_tls_sslmode = require").not_by_set(),
    row("server_tls_key_file", "{certs}/client.key\nserver_tls_cert_file = {certs}/client.crt", ["none", "/CN=username"],
        certificate_of_ours).with("server_tls_sslmode = require").not_by_set(),
    row("server_tls_protocols", "tlsv1.2", ["TLSv1.3", "TLSv1.2"], server_tls_version),
    row("server_tls_ciphers", "ECDHE-RSA-AES128-GCM-SHA256", ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"],
        server_cipher).with("server_tls_protocols = tlsv1.2"),
    row("server_tls13_ciphers", "TLS_CHACHA20_POLY1305_SHA256", ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"],
        server_cipher),

    // What only databases say. The last of two keys of one name counts, as in the file.
    row("dbname", "", ["first", "second"], database_there).of_database("dbname=second"),
    row("host", "", ["fine", "no server"], is_served).of_database("host=127.0.0.9"),
    row("port", "", ["fine", "no server"], is_served).of_database("port={refusing}"),
    row("user", "", ["other", "username"], role_there).of_database("user=username"),
    row("password", "", ["fine", "no server"], is_served).entry("user=username").of_database("password=wrong"),
    row("connect_query", "", ["4MB", "99kB"], work_mem).with("server_reset_query =")
        .of_database("connect_query='SET work_mem = ''99kB'''"),
    row("client_encoding", "", ["UTF8", "LATIN1"], encoding).of_database("client_encoding=LATIN1"),
    row("datestyle", "", ["ISO, MDY", "German, DMY"], date_style).of_database("datestyle=German"),
    row("timezone", "", ["Etc/UTC", "Asia/Tokyo"], time_zone).of_database("timezone=Asia/Tokyo"),
    row("application_name", "", ["", "of the ini"], application_name_of_the_database).of_database("application_name='of the ini'"),
    row("load_balance_hosts", "", ["2", "1"], hosts_used).entry("host=127.0.0.1,127.0.0.2").of_database("load_balance_hosts=disable"),

    // What only peers say. To whom a cancel goes for a session of theirs.
    row("host", "", ["nobody", "silent"], cancelled_at).with("peer_id = 1").of_peer("", "host=127.0.0.1 port={silent}"),
    row("host", "", ["nobody", "silent"], cancelled_at).with("peer_id = 1")
        .of_peer("host=127.0.0.9 port={silent}", "host=127.0.0.1 port={silent}"),
    row("port", "", ["refusing", "silent"], cancelled_at).with("peer_id = 1")
        .of_peer("host=127.0.0.1 port={refusing}", "host=127.0.0.1 port={silent}"),
    row("pool_size", "", ["5", "2"], cancels_at_once).with("peer_id = 1")
        .of_peer("host=127.0.0.1 port={silent}", "host=127.0.0.1 port={silent} pool_size=2"),
];

/// Options that are looked at elsewhere: section, name, file, test.
#[rustfmt::skip]
pub(super) const ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    ("pgbouncer", "user", "tests/options/start.rs", "root_becomes_the_user_of_the_file_and_only_a_start_changes_that"),
    ("pgbouncer", "listen_port", "tests/options/start.rs", "the_port_is_that_of_the_file_and_only_a_start_changes_it"),
    ("pgbouncer", "unix_socket_group", "tests/options/start.rs", "a_unix_socket_has_the_group_of_the_file_and_only_a_start_changes_it"),
    ("pgbouncer", "suspend_timeout", "tests/options/main.rs", "a_client_that_takes_nothing_holds_up_suspend_for_suspend_timeout"),
];

/// Options that do nothing here: a value that asks for something, and what is said; nothing: it needs nothing.
#[rustfmt::skip]
pub(super) const DELIBERATE: &[(&str, &str, &str)] = &[
    ("conffile", "/etc/other.ini", "a reload reads the file that was named at the start"),
    ("job_name", "other", "for syslog there is syslog_ident"),
    ("pkt_buf", "8192", "leave the option out"),
    ("sbuf_loopcnt", "9", "leave the option out"),
    ("track_extra_parameters", "DateStyle", ""),
    ("auth_ldap_options", "ldapurl=x", "refused: use auth_query, auth_file or auth_type = hba"),
    ("server_reset_query_always", "1", ""),
    ("pool_idle_timeout", "7", ""),
    ("dns_zone_check_period", "7", "leave the option out"),
    ("resolv_conf", "/etc/other.conf", "refused: write the name servers to /etc/resolv.conf"),
    ("client_tls_dheparams", "legacy", "leave the option out"),
];
