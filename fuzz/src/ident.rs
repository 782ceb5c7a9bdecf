//! pg_ident.conf: any bytes are maps or errors with their lines, and a group hands on a name, never a meaning.

use std::path::Path;

use aether::config::hba::Roles;
use aether::config::ident;

use super::hba::Itself;

/// The property.
pub fn holds(data: &[u8]) {
    let brings_in = data.iter().filter(|&&byte| byte == b'@').count()
        + data.windows(7).filter(|word| word == b"include").count();
    if brings_in > 1 || data.len() > 4096 {
        return;
    }
    let lines = data.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let roles = Roles::default();
    match ident::read(Path::new("/ident"), &roles, &Itself(data)) {
        Err(errors) => {
            assert!((1..=50).contains(&errors.len()));
            for error in errors {
                assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)));
                assert!(!error.to_string().chars().any(char::is_control), "{error}");
            }
        }
        Ok(maps) => {
            for name in ["m", "", "all"] {
                let allowed = maps.allows(Some(name), "ann", "bob", &roles);
                assert!(!allowed || name.is_empty() || maps.has(name));
            }
            assert!(!maps.allows(None, "ann", "bob", &roles));
        }
    }
    // Whoever the system says it is, it gets in as this one only.
    let Ok(name) = std::str::from_utf8(data) else {
        return;
    };
    let maps =
        ident::read(Path::new("/ident"), &roles, &Itself(b"m /^(.*)$ \\1\n")).expect("a map");
    assert!(maps.allows(Some("m"), name, name, &roles));
    assert!(!maps.allows(Some("m"), &format!("{name}x"), name, &roles));
}
