//! pg_hba.conf: any bytes are rules or errors with their lines; and a written file decides as its author meant it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use aether::config::hba::{self, Asking, From, Method, Network, Roles, Rules};
use aether::config::ident::Maps;
use aether::config::{AuthMethod, Outside};
use arbitrary::{Result, Unstructured};

/// The property.
pub fn holds(data: &[u8]) {
    any_bytes(data);
    let _ = written(&mut Unstructured::new(data));
}

/// The file itself under every name: what it brings in is itself.
pub(crate) struct Itself<'a>(pub &'a [u8]);

impl Outside for Itself<'_> {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn file(&self, _: &Path) -> std::result::Result<Vec<u8>, String> {
        Ok(self.0.to_vec())
    }

    fn directory(&self, _: &Path) -> std::result::Result<Vec<String>, String> {
        Ok(vec!["a.conf".to_owned(), "b".to_owned()])
    }
}

fn read(text: &[u8]) -> std::result::Result<Rules, Vec<aether::config::ConfigError>> {
    hba::read(
        Path::new("/hba"),
        Maps::default(),
        Roles::default(),
        &Itself(text),
    )
}

fn any_bytes(data: &[u8]) {
    // Files that bring in themselves, tenfold at each level, are a test of their own and would only take time here.
    let brings_in = data.iter().filter(|&&byte| byte == b'@').count()
        + data.windows(7).filter(|word| word == b"include").count();
    if brings_in > 1 || data.len() > 4096 {
        return;
    }
    let lines = data.iter().filter(|&&byte| byte == b'\n').count() + 1;
    match read(data) {
        Err(errors) => {
            assert!((1..=50).contains(&errors.len()));
            for error in errors {
                assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)));
                assert!(!error.to_string().chars().any(char::is_control), "{error}");
            }
        }
        Ok(rules) => {
            assert!(rules.iter().count() > 0);
            for from in [
                From::Local,
                From::Elsewhere { tls: true },
                From::Tcp {
                    address: Ipv4Addr::LOCALHOST.into(),
                    tls: false,
                },
            ] {
                for replication in [false, true] {
                    let asking = Asking {
                        user: "all",
                        database: "replication",
                        replication,
                        from,
                    };
                    let _ = rules.find(&asking, &mut Vec::new);
                }
            }
            // Nobody else can get in by what stands behind a rule for everybody.
            let reject = [
                b"local all,replication all reject\nhost all,replication all all reject\n",
                data,
            ]
            .concat();
            let asking = Asking {
                user: "u",
                database: "d",
                replication: false,
                from: From::Local,
            };
            if let Ok(rules) = read(&reject) {
                let method = rules.find(&asking, &mut Vec::new).map(|rule| rule.method);
                assert_eq!(method, Some(Method::Reject));
            }
        }
    }
}

const NAMES: [&str; 6] = ["all", "bob", "a b", "x,y", "q\"q", "#"];
const ADDRESSES: [&str; 3] = ["10.0.0.1", "10.0.7.1", "11.0.0.1"];
const METHODS: [(&str, Method); 3] = [
    ("trust", Method::Check(AuthMethod::Trust)),
    ("md5", Method::Check(AuthMethod::Md5)),
    ("reject", Method::Reject),
];

/// Rules of a few names, and what each of them says.
fn written(u: &mut Unstructured<'_>) -> Result<()> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut text = String::new();
    let mut meant = Vec::new();
    for _ in 0..u.int_in_range(1..=6)? {
        let database = u.choose(&NAMES)?;
        let user: Option<&&str> = if u.arbitrary()? {
            Some(u.choose(&NAMES)?)
        } else {
            None
        };
        let bits: u32 = u.int_in_range(0..=32)?;
        let address: IpAddr = u.choose(&ADDRESSES)?.parse().expect("an address");
        let (word, method) = u.choose(&METHODS)?;
        let blank = u.choose(&[" ", "\t", " \\\n ", "  "])?;
        let users = user.map_or("all".to_owned(), |user| format!("nobody,{}", quoted(user)));
        let fields = [
            "host",
            &quoted(database),
            &users,
            &format!("{address}/{bits}"),
            word,
        ];
        text += &format!("{} # said\n", fields.join(blank));
        meant.push((*database, user, (address, bits), *method));
    }
    let rules = read(text.as_bytes()).unwrap_or_else(|errors| panic!("{text}\n{errors:?}"));
    for database in NAMES {
        for user in NAMES {
            for address in ADDRESSES {
                let address: IpAddr = address.parse().expect("an address");
                let from = From::Tcp {
                    address,
                    tls: false,
                };
                let asking = Asking {
                    user,
                    database,
                    replication: false,
                    from,
                };
                let fits = |rule: &&(&str, Option<&&str>, (IpAddr, u32), Method)| {
                    rule.0 == database
                        && rule.1.is_none_or(|name| *name == user)
                        && same_bits(address, rule.2.0, rule.2.1)
                };
                let expected = meant.iter().find(fits).map(|rule| rule.3);
                let mut none = Vec::<Network>::new;
                let found = rules.find(&asking, &mut none).map(|rule| rule.method);
                assert_eq!(found, expected, "{text}{asking:?}");
            }
        }
    }
    Ok(())
}

/// Bit by bit.
fn same_bits(a: IpAddr, b: IpAddr, bits: u32) -> bool {
    let (IpAddr::V4(a), IpAddr::V4(b)) = (a, b) else {
        return false;
    };
    (0..bits).all(|bit| (a.to_bits() >> (31 - bit)) & 1 == (b.to_bits() >> (31 - bit)) & 1)
}
