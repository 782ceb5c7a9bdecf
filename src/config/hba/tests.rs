//! The rules against PostgreSQL's documentation, its `hba.c`, and what PgBouncer's own tests expect.

use super::*;

/// Files by path.
struct Files(Vec<(&'static str, String)>);

impl Outside for Files {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, String> {
        let found = self.0.iter().find(|(name, _)| Path::new(name) == path);
        found
            .map(|(_, text)| text.clone().into_bytes())
            .ok_or_else(|| "No such file or directory".to_owned())
    }

    fn directory(&self, path: &Path) -> Result<Vec<String>, String> {
        let inside = |name: &str| {
            let name = Path::new(name);
            let file = name.file_name()?.to_str()?.to_owned();
            (name.parent() == Some(path)).then_some(file)
        };
        let names: Vec<String> = self.0.iter().filter_map(|(name, _)| inside(name)).collect();
        if names.is_empty() {
            return Err("No such file or directory".to_owned());
        }
        Ok(names)
    }
}

fn roles() -> Roles {
    let support = BTreeSet::from(["helga".to_owned()]);
    Roles(Some(BTreeMap::from([
        ("support".to_owned(), support.clone()),
        ("db1".to_owned(), support),
    ])))
}

fn with_files(text: &str, files: &[(&'static str, &str)]) -> Result<Rules, Vec<ConfigError>> {
    let mut all = vec![("/etc/hba.conf", text.to_owned())];
    all.extend(files.iter().map(|(name, text)| (*name, (*text).to_owned())));
    read(
        Path::new("/etc/hba.conf"),
        Maps::default(),
        roles(),
        &Files(all),
    )
}

fn rules(text: &str) -> Rules {
    with_files(text, &[]).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"))
}

fn errors_with(text: &str, files: &[(&'static str, &str)]) -> Vec<String> {
    let errors = with_files(text, files).expect_err(text);
    errors.iter().map(ToString::to_string).collect()
}

/// The one error of a text, without its place in the first line.
fn error(text: &str) -> String {
    let errors = errors_with(text, &[]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].replace("/etc/hba.conf:1: ", "")
}

fn tcp(address: &str) -> From {
    From::Tcp {
        address: address.parse().expect("an address"),
        tls: false,
    }
}

fn tls(address: &str) -> From {
    From::Tcp {
        address: address.parse().expect("an address"),
        tls: true,
    }
}

fn networks() -> Vec<Network> {
    let network = |address: &str, mask: &str| {
        let parse = |text: &str| text.parse().expect("an address");
        (parse(address), parse(mask))
    };
    vec![
        network("127.0.0.1", "255.0.0.0"),
        network("192.0.2.7", "255.255.255.0"),
        network("2001:db8::7", "ffff:ffff:ffff:ffff::"),
    ]
}

/// The method for somebody, and the line that says so.
fn decided(rules: &Rules, from: From, database: &str, user: &str) -> Option<(&'static str, usize)> {
    let asking = Asking {
        user,
        database,
        replication: false,
        from,
    };
    let rule = rules.find(&asking, &mut networks)?;
    let (_, line) = rule.place.rsplit_once(':').expect("a line");
    Some((rule.method.as_str(), line.parse().expect("a number")))
}

fn method_of(text: &str, from: From, database: &str, user: &str) -> Option<&'static str> {
    decided(&rules(text), from, database, user).map(|(method, _)| method)
}

/// The example of PostgreSQL's documentation (20.1, "Example pg_hba.conf Entries"), but for what Aether refuses: a host name,
/// gss and ident.
#[test]
fn the_example_of_postgresqls_documentation_says_what_it_says_there() {
    let text = r#"
# Allow any user on the local system to connect to any database with
# any database user name using Unix-domain sockets (the default for local
# connections).
#
# TYPE  DATABASE        USER            ADDRESS                 METHOD
local   all             all                                     trust

# The same using local loopback TCP/IP connections.
host    all             all             127.0.0.1/32            trust

# The same as the previous line, but using a separate netmask column
host    all             all             127.0.0.1       255.255.255.255     trust

# The same over IPv6.
host    all             all             ::1/128                 trust

host    postgres        all             192.168.93.0/24         md5
host    postgres        all             192.168.12.10/32        scram-sha-256
host    all             mike            .example.com            md5
host    all             /^.*helpdesk$   192.168.0.0/16          md5
local   sameuser        all                                     md5
local   all             /^.*helpdesk$                           md5
local   all             @admins                                 md5
local   all             +support                                md5
local   all             @admins,+support                        md5
local   db1,db2,@demodbs  all                                   md5
local   "/^db\d{2,4}$" all                                      trust
"#;
    let files = [
        ("/etc/admins", "carol  dave\n# nobody else\n"),
        ("/etc/demodbs", "demo1, demo2\n"),
    ];
    let errors = errors_with(text, &files);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].starts_with(
            "/etc/hba.conf:20: \".example.com\" is no IP address, and host names are not looked up"
        ),
        "{errors:?}"
    );
    let text = text.replace(
        "local   all             all     ",
        "local   none            none    ",
    );
    let text = text.replace(".example.com", "10.1.1.0/24 ");
    let all = with_files(&text, &files).expect("rules");
    for (from, database, user, expected) in [
        (tcp("127.0.0.1"), "any", "any", Some(("trust", 10))),
        (tcp("127.0.0.2"), "any", "any", None),
        (tcp("::1"), "any", "any", Some(("trust", 16))),
        (tcp("192.168.93.77"), "postgres", "any", Some(("md5", 18))),
        (
            tcp("192.168.12.10"),
            "postgres",
            "any",
            Some(("scram-sha-256", 19)),
        ),
        (tcp("192.168.12.11"), "postgres", "any", None),
        (tcp("10.1.1.9"), "any", "mike", Some(("md5", 20))),
        (
            tcp("192.168.7.7"),
            "any",
            "first helpdesk",
            Some(("md5", 21)),
        ),
        (tcp("192.168.7.7"), "any", "helpdesker", None),
        (From::Local, "any", "helpdesk", Some(("md5", 23))),
        (From::Local, "ann", "ann", Some(("md5", 22))),
        (From::Local, "any", "dave", Some(("md5", 24))),
        (From::Local, "any", "helga", Some(("md5", 25))),
        // A role is its own member, as in PostgreSQL.
        (From::Local, "any", "support", Some(("md5", 25))),
        (From::Local, "demo2", "x", Some(("md5", 27))),
        (From::Local, "db123", "x", Some(("trust", 28))),
        (From::Local, "db12345", "x", None),
    ] {
        assert_eq!(
            decided(&all, from, database, user),
            expected,
            "{from:?} {database} {user}"
        );
    }
}

/// PgBouncer's `test/hba_test.rules` and `hba_test.eval`, its unit test, in its own cases (compat section 11), but for its
/// names of methods.
#[test]
fn pgbouncers_own_cases_come_out_as_there() {
    let text = r#"
local	db1		user1			trust
host	db2		user2		127.0.0.4/24	md5
host	"q1""q2"	"a , b"		10.0.0.0/8	password
hostssl	db3		all		all		scram-sha-256
hostnossl	all	"all"		2001:db8::/32	md5
host	sameuser	all		fe80::1		ffff:: reject
host	all,x		u1,u2 , u3	0.0.0.0/0	md5
"#;
    // "u1,u2 , u3": the blank ends the field, and "u3" would be an address.
    assert!(errors_with(text, &[])[0].contains("\"u3\" is no IP address"));
    let all = rules(&text.replace("u2 , u3", "u2, u3"));
    for (from, database, user, expected) in [
        (From::Local, "db1", "user1", Some("trust")),
        (From::Local, "db2", "user1", None),
        (tcp("10.1.1.1"), "db1", "user1", None),
        (tcp("127.0.0.33"), "db2", "user2", Some("md5")),
        (tcp("127.0.1.33"), "db2", "user2", None),
        (tcp("10.9.9.9"), "q1\"q2", "a , b", Some("password")),
        (tls("10.9.9.9"), "db3", "who", Some("scram-sha-256")),
        (tcp("10.9.9.9"), "db3", "who", None),
        (tcp("2001:db8::1"), "x", "all", Some("md5")),
        (tcp("2001:db8::1"), "x", "other", None),
        (tls("2001:db8::1"), "x", "all", None),
        (tcp("fe80::99"), "me", "me", Some("reject")),
        (tcp("8.8.8.8"), "x", "u3", Some("md5")),
    ] {
        let found = decided(&all, from, database, user).map(|(method, _)| method);
        assert_eq!(found, expected, "{from:?} {database} {user}");
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_none_means_nobody() {
    let text = "host all bob 10.0.0.1/32 reject\nhost all all 10.0.0.0/8 md5\n";
    assert_eq!(method_of(text, tcp("10.0.0.1"), "d", "bob"), Some("reject"));
    assert_eq!(method_of(text, tcp("10.0.0.2"), "d", "bob"), Some("md5"));
    assert_eq!(method_of(text, tcp("11.0.0.2"), "d", "bob"), None);
    assert_eq!(method_of(text, From::Local, "d", "bob"), None);
}

#[test]
fn connection_types_are_told_apart_by_socket_and_encryption() {
    let method = |word: &str, from| {
        let address = if word == "local" { "" } else { "all" };
        method_of(&format!("{word} all all {address} trust"), from, "d", "u").is_some()
    };
    for (word, local, plain, encrypted) in [
        ("local", true, false, false),
        ("host", false, true, true),
        ("hostssl", false, false, true),
        ("hostnossl", false, true, false),
        ("hostgssenc", false, false, false),
        ("hostnogssenc", false, true, true),
    ] {
        assert_eq!(method(word, From::Local), local, "{word}");
        assert_eq!(method(word, tcp("10.0.0.1")), plain, "{word}");
        assert_eq!(method(word, tls("10.0.0.1")), encrypted, "{word}");
    }
}

#[test]
fn quotes_take_the_meaning_from_a_word_but_not_from_an_expression() {
    for (word, name) in [
        ("\"all\"", "all"),
        ("\"sameuser\"", "sameuser"),
        ("\"samerole\"", "samerole"),
        ("\"replication\"", "replication"),
        ("\"@file\"", "@file"),
        ("a\"l\"l\"\"", "all"),
    ] {
        let text = format!("local {word} all trust");
        let expected = if word == "a\"l\"l\"\"" {
            Some("trust")
        } else {
            None
        };
        assert_eq!(method_of(&text, From::Local, "u", "u"), expected, "{word}");
        assert_eq!(
            method_of(&text, From::Local, name, "x"),
            Some("trust"),
            "{word}"
        );
    }
    let users = "local all \"+support\",\"/^x,y$\" trust";
    assert_eq!(method_of(users, From::Local, "d", "helga"), None);
    assert_eq!(
        method_of(users, From::Local, "d", "+support"),
        Some("trust")
    );
    assert_eq!(method_of(users, From::Local, "d", "x,y"), Some("trust"));
    assert!(error("host all all \"samehost\" trust").contains("is no IP address"));
}

#[test]
fn samerole_and_plus_role_know_the_members_that_the_configuration_lists() {
    let text = "local samerole all trust\nlocal all +support md5\n";
    assert_eq!(method_of(text, From::Local, "db1", "helga"), Some("trust"));
    assert_eq!(method_of(text, From::Local, "db1", "db1"), Some("trust"));
    assert_eq!(method_of(text, From::Local, "db2", "helga"), Some("md5"));
    assert_eq!(method_of(text, From::Local, "db2", "ann"), None);
    assert!(error("local all +unknown reject").contains("list them in auth.roles"));
    let unknown = |text: &str| {
        let files = Files(vec![("/h", text.to_owned())]);
        read(Path::new("/h"), Maps::default(), Roles::default(), &files).is_err()
    };
    assert!(unknown("local all +support trust") && unknown("local samegroup all trust"));
    assert!(!unknown("local all all trust"));
}

/// Compat section 11: a physical replication client matches only rules that list `replication`; a logical one by database.
#[test]
fn physical_replication_is_let_in_by_its_own_word_only() {
    let all = rules("local all,sameuser,/. all md5\nlocal replication all trust\n");
    let found = |replication| {
        let asking = Asking {
            user: "u",
            database: "u",
            replication,
            from: From::Local,
        };
        all.find(&asking, &mut Vec::new)
            .map(|rule| rule.method.as_str())
    };
    assert_eq!(found(true), Some("trust"));
    assert_eq!(found(false), Some("md5"));
    assert_eq!(
        method_of(
            "local replication all trust",
            From::Local,
            "replication",
            "u"
        ),
        None
    );
}

#[test]
fn samehost_and_samenet_look_at_the_addresses_of_this_machine() {
    let text = "host all all samehost trust\nhost all all samenet md5\n";
    assert_eq!(method_of(text, tcp("192.0.2.7"), "d", "u"), Some("trust"));
    assert_eq!(method_of(text, tcp("192.0.2.8"), "d", "u"), Some("md5"));
    assert_eq!(method_of(text, tcp("2001:db8::9"), "d", "u"), Some("md5"));
    assert_eq!(method_of(text, tcp("2001:db8:1::9"), "d", "u"), None);
    assert_eq!(method_of(text, tcp("192.0.3.7"), "d", "u"), None);
    let mut asked = 0;
    let mut count = || {
        asked += 1;
        networks()
    };
    let all = rules(&text.repeat(3));
    let asking = Asking {
        user: "u",
        database: "d",
        replication: false,
        from: tcp("8.8.8.8"),
    };
    assert!(all.find(&asking, &mut count).is_none());
    assert_eq!(asked, 1);
}

#[test]
fn bits_outside_of_the_mask_do_not_count_and_a_mask_may_be_anything() {
    for (network, inside, outside) in [
        ("0.0.0.0/0", "255.255.255.255", "::1"),
        ("::/0", "ffff::1", "0.0.0.0"),
        ("10.1.2.3/8", "10.200.0.1", "11.1.2.3"),
        ("10.1.2.3/32", "10.1.2.3", "10.1.2.4"),
        ("2001:db8::1/127", "2001:db8::", "2001:db8::2"),
        ("10.0.0.7 255.0.0.255", "10.9.9.7", "10.9.9.8"),
    ] {
        let text = format!("host all all {network} trust");
        assert_eq!(
            method_of(&text, tcp(inside), "d", "u"),
            Some("trust"),
            "{network}"
        );
        assert_eq!(method_of(&text, tcp(outside), "d", "u"), None, "{network}");
    }
    // Where the end of a connection is not known, only "all" will do.
    let elsewhere = From::Elsewhere { tls: false };
    assert_eq!(
        method_of("host all all 0.0.0.0/0 trust", elsewhere, "d", "u"),
        None
    );
    assert_eq!(
        method_of("host all all all trust", elsewhere, "d", "u"),
        Some("trust")
    );
}

#[test]
fn options_of_certificates_and_maps_are_read() {
    let all = rules(
        "local all all peer map=\"my map\"\nlocal all all ident\n\
         hostssl all all all cert clientname=DN map=m\nhostssl all all all md5 clientcert=verify-ca\n\
         hostssl all all all trust clientcert=verify-full\n",
    );
    let found: Vec<&Rule> = all.iter().collect();
    assert_eq!(found[0].map.as_deref(), Some("my map"));
    assert_eq!(found[1].method, Method::Peer);
    assert_eq!(
        (found[2].client_cert, found[2].client_name, found[2].method),
        (ClientCert::VerifyFull, ClientName::Dn, Method::Cert)
    );
    assert_eq!(
        (found[3].client_cert, found[3].client_name),
        (ClientCert::VerifyCa, ClientName::Cn)
    );
    assert_eq!(found[4].client_cert, ClientCert::VerifyFull);
}

/// In PostgreSQL's words, where it has them (`hba.c`).
#[test]
fn what_is_wrong_is_told_in_postgresqls_words() {
    for (line, expected) in [
        ("what all all trust", "invalid connection type \"what\""),
        (
            "local,host all all trust",
            "multiple values specified for connection type",
        ),
        ("local", "end-of-line before database specification"),
        ("local all", "end-of-line before role specification"),
        (
            "host all all",
            "end-of-line before IP address specification",
        ),
        (
            "host all all all",
            "end-of-line before authentication method",
        ),
        (
            "host all all 1.1.1.1/8,2.2.2.2/8 md5",
            "multiple values specified for host address",
        ),
        (
            "host all all 1.1.1.1/33 md5",
            "invalid CIDR mask in address \"1.1.1.1/33\"",
        ),
        (
            "host all all 1.1.1.1/ md5",
            "invalid CIDR mask in address \"1.1.1.1/\"",
        ),
        (
            "host all all 1.1.1.1/+8 md5",
            "invalid CIDR mask in address",
        ),
        ("host all all ::1/129 md5", "invalid CIDR mask in address"),
        (
            "host all all 1.1.1.1",
            "end-of-line before netmask specification",
        ),
        ("host all all 1.1.1.1 md5", "invalid IP mask \"md5\""),
        (
            "host all all 1.1.1.1 ffff:: md5",
            "IP address and mask do not match",
        ),
        (
            "host all all localhost md5",
            "host names are not looked up here",
        ),
        (
            "host all all localhost/32 md5",
            "host names are not looked up here",
        ),
        ("host all all 10/8 md5", "is no IP address"),
        (
            "local all all md5,trust",
            "multiple values specified for authentication type",
        ),
        (
            "local all all what",
            "invalid authentication method \"what\"",
        ),
        (
            "host all all all peer",
            "peer authentication is only supported on local sockets",
        ),
        (
            "host all all all cert",
            "cert authentication is only supported on hostssl connections",
        ),
        (
            "local all all trust x",
            "authentication option not in name=value format: x",
        ),
        (
            "local all all trust x=y",
            "unrecognized authentication option name: \"x\"",
        ),
        (
            "local all all md5 map=m",
            "\"map\" is only valid for authentication methods peer and cert",
        ),
        (
            "host all all all md5 clientcert=verify-ca",
            "clientcert can only be configured for \"hostssl\" rows",
        ),
        (
            "host all all all md5 clientname=CN",
            "clientname can only be configured for \"hostssl\" rows",
        ),
        (
            "hostssl all all all md5 clientcert=1",
            "invalid value for clientcert: \"1\"",
        ),
        (
            "hostssl all all all cert clientcert=verify-ca",
            "clientcert only accepts \"verify-full\"",
        ),
        (
            "hostssl all all all cert clientname=cn",
            "invalid value for clientname: \"cn\"",
        ),
        ("local all /( trust", "invalid regular expression \"(\""),
        (r"local /(a)\1 all trust", "\\1 is not known here"),
        (r"local /\y all trust", "\\y is not known here"),
        ("local all \"bob trust", "a quote is not closed"),
        ("local all b\0b trust", "a zero byte"),
        (
            "local all @nowhere trust",
            "/etc/nowhere: cannot be read: No such file",
        ),
        ("", "no rule is in it, so nobody could log in"),
        ("# only a comment", "no rule is in it"),
        (
            "include nowhere",
            "/etc/nowhere: cannot be read: No such file",
        ),
        (
            "include_dir nowhere",
            "/etc/nowhere: cannot be read: No such file",
        ),
        ("include a,b", "multiple values specified for include"),
    ] {
        let found = error(line);
        assert!(found.contains(expected), "{line}: {found}");
    }
    for method in [
        "gss", "sspi", "ldap", "pam", "radius", "bsd", "oauth", "ident",
    ] {
        let text = error(&format!("host all all all {method}"));
        assert!(
            text.contains("it has trust, reject, password, md5"),
            "{text}"
        );
    }
}

/// Issue 4: a bad line is reported with file and line, and not only the first one.
#[test]
fn every_bad_line_is_told_with_its_file_and_line() {
    let found = errors_with(
        "what\nlocal all all trust\ninclude more.conf\nlocal all \\\n all \\\n what\nlocal all all\n",
        &[("/etc/more.conf", "\n\nhost\n")],
    );
    assert_eq!(
        found,
        [
            "/etc/hba.conf:1: invalid connection type \"what\"",
            "/etc/more.conf:3: end-of-line before database specification",
            "/etc/hba.conf:4: invalid authentication method \"what\"",
            "/etc/hba.conf:7: end-of-line before authentication method",
        ]
    );
    let many = errors_with(&"x\n".repeat(1000), &[]);
    assert_eq!(many.len(), crate::limits::HBA_ERRORS_MAX);
}

#[test]
fn lines_go_on_behind_a_backslash_and_end_as_on_windows() {
    let text =
        "local \\\r\nall \\\nall trust # comment \\\nlocal all all md5\nhost all all all md5\\";
    assert_eq!(
        decided(&rules(text), From::Local, "d", "u"),
        Some(("trust", 1))
    );
    // The comment swallowed the line behind it, as in PostgreSQL.
    assert_eq!(rules(text).iter().count(), 2);
}

#[test]
fn files_are_brought_in_from_beside_the_file_that_names_them() {
    let text = "include_if_exists missing.conf\ninclude_dir rules.d\ninclude \"sub/more.conf\"\n";
    let files = [
        ("/etc/rules.d/20.conf", "local two all md5\n"),
        (
            "/etc/rules.d/10.conf",
            "local one all trust\nlocal two all trust\n",
        ),
        ("/etc/rules.d/.hidden.conf", "broken\n"),
        ("/etc/rules.d/old.conf~", "broken\n"),
        (
            "/etc/sub/more.conf",
            "local three @users reject\ninclude deeper.conf\n",
        ),
        ("/etc/sub/deeper.conf", "local four all peer\n"),
        ("/etc/sub/users", "ann @others\n"),
        ("/etc/sub/others", "bob,\"all\"\n"),
    ];
    let all = with_files(text, &files).expect("rules");
    let method =
        |database, user| decided(&all, From::Local, database, user).map(|(method, _)| method);
    assert_eq!(method("two", "x"), Some("trust"));
    assert_eq!(method("three", "bob"), Some("reject"));
    assert_eq!(method("three", "all"), Some("reject"));
    assert_eq!(method("three", "x"), None);
    assert_eq!(method("four", "x"), Some("peer"));
}

/// Issue 4, limits on file size, depth and lines: a file that brings in itself ends in an error, and at once.
#[test]
fn what_brings_in_itself_or_too_much_is_an_error() {
    let found = errors_with("include hba.conf", &[]);
    assert!(found[0].contains("more than 10 levels deep"), "{found:?}");
    let found = errors_with("local all @hba.conf trust\n", &[]);
    assert!(found[0].contains("more than 10 levels deep"), "{found:?}");
    // Ten to the tenth files.
    let found = errors_with(&"include hba.conf\n".repeat(10), &[]);
    assert_eq!(found.len(), crate::limits::HBA_ERRORS_MAX);
    let found = errors_with(&"local all all trust\n".repeat(100_001), &[]);
    assert!(found[0].contains("more than 100000 lines"), "{found:?}");
    let long = format!(
        "local all {} trust",
        "x".repeat(crate::limits::HBA_LINE_BYTES_MAX)
    );
    assert!(error(&long).contains("a line of more than 65536 bytes"));
}

#[test]
fn what_lets_in_without_proof_from_afar_is_known() {
    let insecure = |line: &str| rules(line).iter().all(|rule| rule.is_insecure(false));
    for line in [
        "host all all 10.0.0.0/8 trust",
        "host all all all password",
        "hostssl all all samenet trust",
        "hostnossl all all ::/0 password",
    ] {
        assert!(insecure(line), "{line}");
    }
    for line in [
        "local all all trust",
        "host all all 127.0.0.1/32 trust",
        "host all all ::1/128 password",
        "host all all samehost trust",
        "hostssl all all all password",
        "hostssl all all all trust clientcert=verify-ca",
        "host all all all md5",
        "host all all all reject",
    ] {
        assert!(!insecure(line), "{line}");
    }
    // Where nobody comes in the clear, nobody reads a password on the way; who needs none still needs none.
    let in_tls = |line: &str| rules(line).iter().all(|rule| rule.is_insecure(true));
    assert!(!in_tls("host all all all password"));
    assert!(in_tls("host all all all trust"));
}
