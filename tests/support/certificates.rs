//! The certificates of `tests/certificates`, and openssl's client.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::process::{self, Place};

/// A copy where servers may read them; keys are theirs alone.
pub fn certificates() -> Place {
    let place = Place::new("certificates");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    for entry in fs::read_dir(from).expect("certificates").flatten() {
        let to = place.path().join(entry.file_name());
        fs::copy(entry.path(), &to).expect("a copy");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("chmod");
        process::own(&to);
    }
    place
}

/// What openssl says that it has met at a port.
pub fn s_client(port: u16, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("openssl");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
