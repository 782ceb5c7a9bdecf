//! What the model PostgreSQL tells the one who asks for the secrets of roles (`auth_query`).

use aether::config::AUTH_QUERY;
use aether::wire::backend;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use ring::{digest, hmac, pbkdf2};

/// Who asks.
pub const ASKER: &str = "asker";
/// What is asked where the operator has a query of his own.
pub const OWN_QUERY: &str = "SELECT name, secret FROM keep.lookup($1)";
/// Whom there are secrets of.
const ROLES: [&str; 2] = ["alice", "bob"];

/// In what form secrets are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Plain,
    Md5,
    Scram,
}

impl Form {
    /// What is kept of a role.
    pub fn secret(self, role: &str, password: &str) -> String {
        match self {
            Form::Plain => password.to_owned(),
            Form::Md5 => {
                let hash = Md5::digest(format!("{password}{role}"));
                let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("md5{digits}")
            }
            Form::Scram => verifier(password),
        }
    }
}

/// RFC 5802, with little work.
fn verifier(password: &str) -> String {
    let (salt, mut salted) = (b"salt of the model", [0; 32]);
    let rounds = std::num::NonZeroU32::new(2).expect("two");
    let kind = pbkdf2::PBKDF2_HMAC_SHA256;
    pbkdf2::derive(kind, rounds, salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client_key = hmac::sign(&key, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    let [salt, stored, server] = [&salt[..], stored_key.as_ref(), server_key.as_ref()];
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    format!(
        "SCRAM-SHA-256$2:{}${}:{}",
        text(salt),
        text(stored),
        text(server)
    )
}

/// One session of the one who asks.
pub struct Clerk {
    form: Form,
    password: &'static str,
    /// Who is asked for.
    asked: Option<String>,
}

impl Clerk {
    pub fn new(form: Form, password: &'static str) -> Clerk {
        Clerk {
            form,
            password,
            asked: None,
        }
    }

    /// What the roles have now.
    pub fn learn(&mut self, password: &'static str) {
        self.password = password;
    }

    /// Takes a message, if it belongs to a question; the session takes the others.
    pub fn take(&mut self, tag: u8, body: &[u8], out: &mut Vec<u8>) -> bool {
        match tag {
            b'P' => {
                let sql = String::from_utf8_lossy(body).into_owned();
                let asked = [AUTH_QUERY, OWN_QUERY].map(|query| format!("\0{query}\0\0\0"));
                assert!(asked.contains(&sql), "{sql:?}");
                out.extend_from_slice(b"1\0\0\0\x04");
            }
            b'B' => {
                // Unnamed, all as text, one parameter of some length, results as text.
                let user = body.get(10..body.len() - 2).expect("a parameter");
                assert_eq!(body[..6], [0, 0, 0, 0, 0, 1]);
                self.asked = Some(String::from_utf8(user.to_vec()).expect("a name"));
                out.extend_from_slice(b"2\0\0\0\x04");
            }
            b'D' => {
                let columns = ["rolname", "rolpassword"];
                let columns = columns.into_iter().map(|name| (name, backend::TEXT));
                backend::write_row_description(out, columns);
            }
            b'E' => {
                let role = self.asked.take().expect("it was bound");
                let count = usize::from(ROLES.contains(&role.as_str()));
                if count == 1 {
                    let secret = self.form.secret(&role, self.password);
                    let row = [Some(role.as_str()), Some(secret.as_str())];
                    backend::write_data_row(out, row.into_iter());
                }
                backend::write_command_complete(out, &format!("SELECT {count}"));
            }
            _ => return false,
        }
        true
    }
}
