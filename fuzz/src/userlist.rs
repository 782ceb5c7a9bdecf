//! Userlists: a written list is read back as it was, and of a broken one everything before the break holds.

use std::collections::BTreeMap;

use aether::config::Stored;
use aether::config::userlist::{self, Userlist};
use arbitrary::{Result, Unstructured};

/// The property.
pub fn holds(data: &[u8]) {
    let list = userlist::parse(data);
    let Userlist { users, broken } = &list;
    let lines = data.iter().filter(|&&byte| byte == b'\n').count() + 1;
    for (user, stored) in users {
        assert!(user.len() <= 127 && !user.contains('\0'));
        assert!(plain(stored).is_none_or(|secret| secret.len() <= 65_530 && !secret.contains(&0)));
    }
    if let Some(broken) = broken {
        assert!((1..=lines).contains(&broken.line), "{broken:?}");
        assert!(broken.text.len() < 100 && !broken.text.chars().any(char::is_control));
        let before: Vec<&[u8]> = data
            .split_inclusive(|&byte| byte == b'\n')
            .take(broken.line - 1)
            .collect();
        assert_eq!(
            userlist::parse(&before.concat()),
            Userlist {
                users: users.clone(),
                broken: None
            }
        );
    }
    // What can be written down again is read as the same.
    let again: Vec<(&str, &[u8])> = users
        .iter()
        .filter_map(|(user, stored)| Some((user.as_str(), plain(stored)?)))
        .collect();
    written(&again);
    let _ = chosen(&mut Unstructured::new(data));
}

fn plain(stored: &Stored) -> Option<&[u8]> {
    match stored {
        Stored::Plain(secret) | Stored::Md5(secret) => Some(secret.expose()),
        Stored::Scram(_) => None,
    }
}

/// Names and secrets of any bytes that may stand in a list.
fn chosen(u: &mut Unstructured<'_>) -> Result<()> {
    let mut entries = Vec::new();
    while !u.is_empty() && entries.len() < 20 {
        let name: String = u
            .arbitrary::<&str>()?
            .chars()
            .filter(|&c| c != '\0')
            .take(30)
            .collect();
        let secret: Vec<u8> = u
            .arbitrary::<&[u8]>()?
            .iter()
            .copied()
            .filter(|&byte| byte != 0)
            .collect();
        entries.push((name, secret));
    }
    let entries: Vec<(&str, &[u8])> = entries
        .iter()
        .map(|(name, secret)| (name.as_str(), secret.as_slice()))
        .collect();
    written(&entries);
    Ok(())
}

fn written(entries: &[(&str, &[u8])]) {
    let mut text = b"; written by hand\n".to_vec();
    let mut expected = BTreeMap::new();
    for (at, (name, secret)) in entries.iter().enumerate() {
        let quoted = |bytes: &[u8]| -> Vec<u8> {
            bytes
                .iter()
                .flat_map(|&byte| {
                    if byte == b'"' {
                        vec![b'"', b'"']
                    } else {
                        vec![byte]
                    }
                })
                .collect()
        };
        // As long as the quotes that are doubled leave room.
        if quoted(name.as_bytes()).len() > 127 || quoted(secret).len() > 65_530 {
            return;
        }
        let between: &[u8] = if at % 2 == 0 { b"\" \"" } else { b"\"\t:\"" };
        text.extend(
            [
                b"\"",
                &quoted(name.as_bytes())[..],
                between,
                &quoted(secret),
                b"\" ; rest\n\n",
            ]
            .concat(),
        );
        expected.insert((*name).to_owned(), Stored::parse(secret));
    }
    assert_eq!(
        userlist::parse(&text),
        Userlist {
            users: expected,
            broken: None
        }
    );
}
