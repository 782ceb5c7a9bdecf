//! The PgBouncer that Aether is measured beside: Debian's, or another that `AETHER_PGBOUNCER` names (`scripts/pgbouncer` builds one).

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// A PgBouncer.
pub struct PgBouncer {
    /// The program.
    pub program: PathBuf,
    /// What it calls itself: `PgBouncer 1.18.0`.
    pub name: String,
    /// It has prepared statements in transaction mode, as since 1.21.
    pub prepares: bool,
}

/// The one to measure.
pub fn pgbouncer() -> &'static PgBouncer {
    static FOUND: OnceLock<PgBouncer> = OnceLock::new();
    FOUND.get_or_init(|| {
        let given = std::env::var_os("AETHER_PGBOUNCER").map(PathBuf::from);
        let program = given.unwrap_or_else(|| "/usr/sbin/pgbouncer".into());
        let output = Command::new(&program).arg("--version").output();
        let output = output.unwrap_or_else(|error| {
            panic!(
                "{}, which `make bench` installs, does not run: {error}",
                program.display()
            )
        });
        let said = String::from_utf8_lossy(&output.stdout);
        let name = said.lines().next().unwrap_or_default().to_owned();
        let prepares = prepares(&name);
        PgBouncer {
            program,
            name,
            prepares,
        }
    })
}

impl PgBouncer {
    /// The mode in which a client finds what it has prepared.
    pub fn mode_for_prepared(&self) -> &'static str {
        match self.prepares {
            true => "transaction",
            false => "session",
        }
    }

    /// Lines of its configuration. As many statements for a server as Aether has: before 1.24 it had none unless asked.
    pub fn more_ini(&self) -> &'static str {
        match self.prepares {
            true => "max_prepared_statements = 200\n",
            false => "",
        }
    }
}

fn prepares(name: &str) -> bool {
    let version = name.strip_prefix("PgBouncer ");
    let version = version.unwrap_or_else(|| panic!("this is no PgBouncer: {name:?}"));
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    let [major, minor] = [(); 2].map(|()| numbers.next().flatten().unwrap_or(0_u32));
    (major, minor) >= (1, 21)
}

#[test]
fn prepared_statements_came_with_1_21() {
    let names = ["PgBouncer 1.18.0", "PgBouncer 1.9", "PgBouncer 1.21.0"];
    assert_eq!(names.map(prepares), [false, false, true]);
    assert!(prepares("PgBouncer 2.0dev"));
}
