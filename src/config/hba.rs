//! Who has to prove what: the rules of a `pg_hba.conf`, in PostgreSQL's own language (that of version 16).
//!
//! The first rule that matches decides; where none does, nobody gets in. Where Aether differs from PostgreSQL: host names are
//! not looked up and are refused when the file is read, and so are the methods that need somebody else (ident over TCP, gss,
//! sspi, ldap, pam, radius, bsd, oauth). There is no GSSAPI encryption here, so `hostgssenc` never matches and `hostnogssenc`
//! is `host`. Roles and their members are known from `auth.roles` only: a rule that needs them is refused if they are not
//! there, because one that silently matches nobody would turn a `reject` into nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;

use super::ident::Maps;
use super::tokens::{Line, Lines, Pattern, Token};
use super::{AuthMethod, ConfigError, Outside};

/// The rules, in their order, and what they refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rc<Rule>>,
    /// For `map=`.
    pub maps: Maps,
    /// For `+role` and `samerole`.
    pub roles: Roles,
    /// The file that they come from; `None`: `auth.type` says it all.
    pub file: Option<String>,
}

/// The members of roles, as `auth.roles` lists them: all of them, also those who are members by way of another role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(pub Option<BTreeMap<String, BTreeSet<String>>>);

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `FILE:LINE`, for the log.
    pub place: String,
    connection: Connection,
    databases: Vec<Databases>,
    users: Vec<Users>,
    /// What a client has to do.
    pub method: Method,
    /// `map=`: which user of the system may be which user here.
    pub map: Option<String>,
    /// `clientcert=`: beside the method. `verify-full` for `cert`.
    pub client_cert: ClientCert,
    /// `clientname=`: what of the certificate is the user's name.
    pub client_name: ClientName,
}

/// What a client has to do where a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Go away.
    Reject,
    /// Prove itself by a password, or not at all.
    Check(AuthMethod),
    /// Be the right user of this machine, which the kernel tells of the other end of a Unix socket.
    Peer,
    /// Have a certificate with its name.
    Cert,
}

impl Method {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Reject => "reject",
            Method::Check(method) => method.as_str(),
            Method::Peer => "peer",
            Method::Cert => "cert",
        }
    }
}

/// What `clientcert=` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCert {
    /// Nothing.
    Off,
    /// A certificate that a trusted authority has signed.
    VerifyCa,
    /// The same, with the user's name in it.
    VerifyFull,
}

/// What `clientname=` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientName {
    /// The subject's common name.
    Cn,
    /// The whole distinguished name, as RFC 2253 writes it.
    Dn,
}

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// By a Unix socket.
    Local,
    /// By TCP.
    Tcp {
        /// Its address.
        address: IpAddr,
        /// Whether TLS is on.
        tls: bool,
    },
    /// By something whose end is not known; only rules for all addresses match.
    Elsewhere {
        /// Whether TLS is on.
        tls: bool,
    },
}

/// Who asks to be let in.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The role.
    pub user: &'a str,
    /// The database.
    pub database: &'a str,
    /// Physical replication, which has no database.
    pub replication: bool,
    /// Where it comes from.
    pub from: From,
}

/// An address of this machine and the mask of its network.
pub type Network = (IpAddr, IpAddr);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Connection {
    Local,
    Host(Encryption, Addresses),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Any,
    Tls,
    NoTls,
    /// Which Aether does not have.
    Gss,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Addresses {
    All,
    SameHost,
    SameNet,
    Network(Network),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Databases {
    All,
    SameUser,
    SameRole,
    Replication,
    Matching(Pattern),
    Named(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Users {
    All,
    Members(String),
    Matching(Pattern),
    Named(String),
}

/// Reads the rules of a file.
///
/// # Errors
/// Everything that is wrong, with file and line; at least one.
pub fn read(
    path: &Path,
    maps: Maps,
    roles: Roles,
    outside: &dyn Outside,
) -> Result<Rules, Vec<ConfigError>> {
    let mut lines = Lines::read(path, outside);
    let mut rules = Vec::new();
    for line in std::mem::take(&mut lines.lines) {
        match rule(&line, &roles) {
            Ok(rule) => rules.push(Rc::new(rule)),
            Err(text) => lines.add(line.error(text)),
        }
    }
    let file = path.display().to_string();
    if rules.is_empty() && lines.errors.is_empty() {
        lines.add(ConfigError {
            file: file.clone(),
            line: None,
            key: String::new(),
            text: "no rule is in it, so nobody could log in".to_owned(),
        });
    }
    if !lines.errors.is_empty() {
        return Err(lines.errors);
    }
    Ok(Rules {
        rules,
        maps,
        roles,
        file: Some(file),
    })
}

impl Rules {
    /// The same for everybody.
    pub fn always(method: Method) -> Rules {
        let host = Connection::Host(Encryption::Any, Addresses::All);
        let rules = [Connection::Local, host].map(|connection| {
            Rc::new(Rule {
                place: "auth.type".to_owned(),
                connection,
                databases: vec![Databases::All, Databases::Replication],
                users: vec![Users::All],
                method,
                map: None,
                client_cert: if method == Method::Cert {
                    ClientCert::VerifyFull
                } else {
                    ClientCert::Off
                },
                client_name: ClientName::Cn,
            })
        });
        Rules {
            rules: rules.to_vec(),
            maps: Maps::default(),
            roles: Roles::default(),
            file: None,
        }
    }

    /// The rules, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().map(|rule| &**rule)
    }

    /// The first rule that matches. `networks` is asked at most once, and only by `samehost` and `samenet`.
    pub fn find(
        &self,
        asking: &Asking<'_>,
        networks: &mut dyn FnMut() -> Vec<Network>,
    ) -> Option<Rc<Rule>> {
        let mut known = None;
        let mut networks = || known.get_or_insert_with(&mut *networks).clone();
        let found = self.rules.iter().find(|rule| {
            rule.takes_connection(asking.from, &mut networks)
                && rule.takes_database(asking, &self.roles)
                && rule
                    .users
                    .iter()
                    .any(|users| users.take(asking.user, &self.roles))
        });
        found.cloned()
    }

    /// The method, where it is the same for everybody.
    pub fn single(&self) -> Option<Method> {
        match self.file {
            None => self.rules.first().map(|rule| rule.method),
            Some(_) => None,
        }
    }
}

impl Roles {
    fn has(&self, role: &str, member: &str) -> bool {
        let listed = || self.0.as_ref()?.get(role);
        role == member || listed().is_some_and(|members| members.contains(member))
    }
}

impl Rule {
    fn takes_connection(&self, from: From, networks: &mut dyn FnMut() -> Vec<Network>) -> bool {
        let (encryption, addresses) = match (&self.connection, from) {
            (Connection::Local, From::Local) => return true,
            (Connection::Local, _) | (Connection::Host(..), From::Local) => return false,
            (Connection::Host(encryption, addresses), _) => (encryption, addresses),
        };
        let (address, tls) = match from {
            From::Tcp { address, tls } => (Some(address), tls),
            From::Elsewhere { tls } => (None, tls),
            From::Local => (None, false),
        };
        let encrypted_right = match encryption {
            Encryption::Any => true,
            Encryption::Tls => tls,
            Encryption::NoTls => !tls,
            Encryption::Gss => false,
        };
        encrypted_right && addresses.take(address, networks)
    }

    fn takes_database(&self, asking: &Asking<'_>, roles: &Roles) -> bool {
        self.databases.iter().any(|databases| match databases {
            // Physical replication has no database: only its own word lets it in.
            Databases::Replication => asking.replication,
            _ if asking.replication => false,
            Databases::All => true,
            Databases::SameUser => asking.database == asking.user,
            Databases::SameRole => roles.has(asking.database, asking.user),
            Databases::Matching(pattern) => pattern.matches(asking.database),
            Databases::Named(name) => name == asking.database,
        })
    }

    /// Whether only TLS lets it match.
    pub fn is_for_tls(&self) -> bool {
        matches!(self.connection, Connection::Host(Encryption::Tls, _))
    }

    /// Whether it lets in without a proof, or by one that somebody on the way can read, from other machines than this one.
    /// `only_tls`: nobody comes from there without TLS.
    pub fn is_insecure(&self, only_tls: bool) -> bool {
        let Connection::Host(encryption, addresses) = &self.connection else {
            return false;
        };
        let from_afar = match addresses {
            Addresses::All | Addresses::SameNet => true,
            Addresses::SameHost => false,
            Addresses::Network((address, _)) => !address.is_loopback(),
        };
        let weak = match self.method {
            Method::Check(AuthMethod::Trust) => self.client_cert == ClientCert::Off,
            Method::Check(AuthMethod::Password) => *encryption != Encryption::Tls && !only_tls,
            _ => false,
        };
        weak && from_afar && *encryption != Encryption::Gss
    }
}

impl Users {
    pub(super) fn take(&self, user: &str, roles: &Roles) -> bool {
        match self {
            Users::All => true,
            Users::Members(role) => roles.has(role, user),
            Users::Matching(pattern) => pattern.matches(user),
            Users::Named(name) => name == user,
        }
    }

    /// # Errors
    /// An expression that is none, a role whose members are not known.
    pub(super) fn read(token: &Token, roles: &Roles) -> Result<Users, String> {
        if let Some(pattern) = Pattern::of(token) {
            return pattern.map(Users::Matching);
        }
        match token.text.strip_prefix('+').filter(|_| !token.quoted) {
            Some(role)
                if roles
                    .0
                    .as_ref()
                    .is_none_or(|roles| !roles.contains_key(role)) =>
            {
                Err(format!(
                    "nothing is known of the members of role \"{role}\"; list them in auth.roles of aether.yaml"
                ))
            }
            Some(role) => Ok(Users::Members(role.to_owned())),
            None if token.is_keyword("all") => Ok(Users::All),
            None => Ok(Users::Named(token.text.clone())),
        }
    }
}

impl Addresses {
    fn take(&self, address: Option<IpAddr>, networks: &mut dyn FnMut() -> Vec<Network>) -> bool {
        let address = match (self, address) {
            (Addresses::All, _) => return true,
            (_, None) => return false,
            (_, Some(address)) => address,
        };
        match self {
            Addresses::All => true,
            Addresses::SameHost => networks().iter().any(|(own, _)| *own == address),
            Addresses::SameNet => networks().iter().any(|network| is_in(address, *network)),
            Addresses::Network(network) => is_in(address, *network),
        }
    }
}

fn is_in(address: IpAddr, (network, mask): Network) -> bool {
    match (address, network, mask) {
        (IpAddr::V4(a), IpAddr::V4(n), IpAddr::V4(m)) => {
            a.to_bits() & m.to_bits() == n.to_bits() & m.to_bits()
        }
        (IpAddr::V6(a), IpAddr::V6(n), IpAddr::V6(m)) => {
            a.to_bits() & m.to_bits() == n.to_bits() & m.to_bits()
        }
        _ => false,
    }
}

/// Takes the fields of a line one after the other.
struct Fields<'a>(std::slice::Iter<'a, Vec<Token>>);

impl<'a> Fields<'a> {
    fn many(&mut self, what: &str) -> Result<&'a [Token], String> {
        let field = self.0.next();
        field
            .map(Vec::as_slice)
            .ok_or_else(|| format!("end-of-line before {what}"))
    }

    fn one(&mut self, what: &str, name: &str) -> Result<&'a Token, String> {
        match self.many(what)? {
            [token] => Ok(token),
            _ => Err(format!("multiple values specified for {name}")),
        }
    }
}

fn rule(line: &Line, roles: &Roles) -> Result<Rule, String> {
    let mut fields = Fields(line.fields.iter());
    let word = &fields.one("connection type", "connection type")?.text;
    let encryption = match word.as_str() {
        "local" => None,
        "host" | "hostnogssenc" => Some(Encryption::Any),
        "hostssl" => Some(Encryption::Tls),
        "hostnossl" => Some(Encryption::NoTls),
        "hostgssenc" => Some(Encryption::Gss),
        other => return Err(format!("invalid connection type \"{other}\"")),
    };
    let databases = fields.many("database specification")?;
    let databases: Result<_, String> = databases
        .iter()
        .map(|token| database(token, roles))
        .collect();
    let users = fields.many("role specification")?;
    let users: Result<_, String> = users
        .iter()
        .map(|token| Users::read(token, roles))
        .collect();
    let (databases, users) = (databases?, users?);
    let connection = match encryption {
        None => Connection::Local,
        Some(encryption) => Connection::Host(encryption, addresses(&mut fields)?),
    };
    let word = &fields
        .one("authentication method", "authentication type")?
        .text;
    let method = method(word, &connection)?;
    let mut rule = Rule {
        place: format!("{}:{}", line.file, line.number),
        connection,
        databases,
        users,
        method,
        map: None,
        client_cert: if method == Method::Cert {
            ClientCert::VerifyFull
        } else {
            ClientCert::Off
        },
        client_name: ClientName::Cn,
    };
    for token in fields.0.flatten() {
        option(&token.text, &mut rule)?;
    }
    Ok(rule)
}

fn database(token: &Token, roles: &Roles) -> Result<Databases, String> {
    if let Some(pattern) = Pattern::of(token) {
        return pattern.map(Databases::Matching);
    }
    Ok(match token.text.as_str() {
        name if token.quoted => Databases::Named(name.to_owned()),
        "all" => Databases::All,
        "sameuser" => Databases::SameUser,
        word @ ("samerole" | "samegroup") => {
            if roles.0.is_none() {
                return Err(format!(
                    "{word} needs the members of roles; list them in auth.roles of aether.yaml"
                ));
            }
            Databases::SameRole
        }
        "replication" => Databases::Replication,
        name => Databases::Named(name.to_owned()),
    })
}

fn addresses(fields: &mut Fields<'_>) -> Result<Addresses, String> {
    let token = fields.one("IP address specification", "host address")?;
    for (word, addresses) in [
        ("all", Addresses::All),
        ("samehost", Addresses::SameHost),
        ("samenet", Addresses::SameNet),
    ] {
        if token.is_keyword(word) {
            return Ok(addresses);
        }
    }
    let text = &token.text;
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text.as_str(), None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(format!(
            "\"{text}\" is no IP address, and host names are not looked up here: write addresses, as 192.0.2.7/32 or 2001:db8::/64"
        ));
    };
    let mask = match bits {
        Some(bits) => mask_of(address, bits)
            .ok_or_else(|| format!("invalid CIDR mask in address \"{text}\""))?,
        None => {
            let mask = fields.one("netmask specification", "netmask").map_err(|text| {
                format!("{text}; specify an address range in CIDR notation, or provide a separate netmask")
            })?;
            let parsed: IpAddr = mask
                .text
                .parse()
                .map_err(|_| format!("invalid IP mask \"{}\"", mask.text))?;
            if parsed.is_ipv4() != address.is_ipv4() {
                return Err("IP address and mask do not match".to_owned());
            }
            parsed
        }
    };
    Ok(Addresses::Network((address, mask)))
}

fn mask_of(address: IpAddr, bits: &str) -> Option<IpAddr> {
    if bits.is_empty() || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bits: u32 = bits.parse().ok()?;
    match address {
        IpAddr::V4(_) => {
            let rest = 32_u32.checked_sub(bits)?;
            Some(IpAddr::V4(u32::MAX.checked_shl(rest).unwrap_or(0).into()))
        }
        IpAddr::V6(_) => {
            let rest = 128_u32.checked_sub(bits)?;
            Some(IpAddr::V6(u128::MAX.checked_shl(rest).unwrap_or(0).into()))
        }
    }
}

fn method(word: &str, connection: &Connection) -> Result<Method, String> {
    let local = *connection == Connection::Local;
    match word {
        "trust" => Ok(Method::Check(AuthMethod::Trust)),
        "reject" => Ok(Method::Reject),
        "password" => Ok(Method::Check(AuthMethod::Password)),
        "md5" => Ok(Method::Check(AuthMethod::Md5)),
        "scram-sha-256" => Ok(Method::Check(AuthMethod::ScramSha256)),
        // PostgreSQL, too, takes the one for the other.
        "peer" | "ident" if local => Ok(Method::Peer),
        "peer" => Err("peer authentication is only supported on local sockets".to_owned()),
        "cert" if matches!(connection, Connection::Host(Encryption::Tls, _)) => Ok(Method::Cert),
        "cert" => Err("cert authentication is only supported on hostssl connections".to_owned()),
        "ident" | "gss" | "sspi" | "ldap" | "pam" | "radius" | "bsd" | "oauth" => Err(format!(
            "Aether has no authentication method \"{word}\"; it has trust, reject, password, md5, scram-sha-256, peer and cert"
        )),
        other => Err(format!("invalid authentication method \"{other}\"")),
    }
}

fn option(text: &str, rule: &mut Rule) -> Result<(), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(format!(
            "authentication option not in name=value format: {text}"
        ));
    };
    let is_hostssl = matches!(rule.connection, Connection::Host(Encryption::Tls, _));
    match name {
        "map" => {
            if !matches!(rule.method, Method::Peer | Method::Cert) {
                return Err(
                    "authentication option \"map\" is only valid for authentication methods peer and cert"
                        .to_owned(),
                );
            }
            rule.map = Some(value.to_owned());
        }
        "clientcert" | "clientname" if !is_hostssl => {
            return Err(format!(
                "{name} can only be configured for \"hostssl\" rows"
            ));
        }
        "clientcert" => {
            rule.client_cert = match value {
                "verify-full" => ClientCert::VerifyFull,
                "verify-ca" if rule.method == Method::Cert => {
                    return Err(
                        "clientcert only accepts \"verify-full\" when using \"cert\" authentication"
                            .to_owned(),
                    );
                }
                "verify-ca" => ClientCert::VerifyCa,
                _ => return Err(format!("invalid value for clientcert: \"{value}\"")),
            }
        }
        "clientname" => {
            rule.client_name = match value {
                "CN" => ClientName::Cn,
                "DN" => ClientName::Dn,
                _ => return Err(format!("invalid value for clientname: \"{value}\"")),
            }
        }
        _ => {
            return Err(format!(
                "unrecognized authentication option name: \"{name}\""
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
