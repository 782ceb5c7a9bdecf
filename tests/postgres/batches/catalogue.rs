//! The SQL of the scripts, and the names and sizes in them.

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Int,
    Text,
    Bytea,
    /// The key of a row.
    Id,
    /// A few rows.
    Few,
    /// As long as makes a row just reach, or just miss, somebody's buffer.
    Size,
}
use Kind::{Bytea, Few, Id, Int, Size, Text};

impl Kind {
    /// The oid of its type.
    pub fn oid(self) -> u32 {
        match self {
            Text => 25,
            Bytea => 17,
            Int | Id | Few | Size => 23,
        }
    }
}

/// A statement. `{t}` is the client's own table.
pub type Template = (&'static str, &'static [Kind]);

/// Those that many clients share, so that a pooler may too.
pub const SHARED: &[Template] = &[
    ("SELECT $1::int + 1", &[Int]),
    ("SELECT $1::text, $2::int", &[Text, Int]),
    ("SELECT $1", &[Text]),
    ("SELECT $1::bytea, NULL::text", &[Bytea]),
    ("SELECT length($1::text)", &[Text]),
    ("SELECT repeat('r', $1::int)", &[Size]),
    ("SELECT repeat('r', $1::int)", &[Size]),
    (
        "SELECT g, repeat('s', $1::int) FROM generate_series(1, $2::int) g",
        &[Size, Few],
    ),
    ("SELECT g FROM generate_series(1, $1::int) g", &[Few]),
    ("SELECT g, NULL::text, -g FROM generate_series(1, 7) g", &[]),
    (
        "SELECT g, repeat('m', 900 * g) FROM generate_series(1, 12) g",
        &[],
    ),
    ("VALUES (1, 'one'), (2, 'two'), (3, NULL)", &[]),
    ("SELECT 10 / (3 - g) FROM generate_series(1, 5) g", &[]),
    ("SELECT", &[]),
    ("SELECT 1 AS \"é\", 'ü'", &[]),
    (
        "SELECT 1.5::numeric, true, date '2001-02-03', ARRAY[1, 2, 3]",
        &[],
    ),
    (
        "SELECT timestamptz '2001-02-03 04:05+00', interval '1 day 2 hours', chr(233)",
        &[],
    ),
    ("SHOW DateStyle", &[]),
    ("DO $$ BEGIN RAISE NOTICE 'a notice'; END $$", &[]),
    ("", &[]),
    ("-- only a comment", &[]),
    (" ; ", &[]),
];

/// Those over the client's own tables.
pub const OWN: &[Template] = &[
    ("SELECT id, v, n FROM {t} ORDER BY id", &[]),
    ("SELECT v FROM {t} WHERE id = $1", &[Id]),
    ("SELECT count(*), max(v) FROM {t}", &[]),
    ("SELECT 100 / n FROM {t} WHERE id = $1", &[Id]),
    ("INSERT INTO {t} VALUES ($1, $2, 1)", &[Id, Text]),
    (
        "INSERT INTO {t} (id, v) VALUES ($1, $2) RETURNING id, v",
        &[Id, Text],
    ),
    (
        "UPDATE {t} SET v = $2, n = n + 1 WHERE id = $1",
        &[Id, Text],
    ),
    ("DELETE FROM {t} WHERE id = $1 RETURNING v", &[Id]),
    ("INSERT INTO {t}_late VALUES ($1)", &[Few]),
    // Not in a block, not behind anything else in a pipeline.
    ("VACUUM {t}", &[]),
];

/// Those that fail in Parse.
pub const WRONG: &[Template] = &[
    ("SELEC 1", &[]),
    ("SELECT 'unterminated", &[]),
    ("SELECT * FROM no_such_table", &[]),
    ("SELECT no_such_column FROM {t}", &[]),
    ("SELECT $2::int", &[Int, Int]),
    ("SELECT 1; SELECT 2", &[]),
    ("SELECT upper(1, 2)", &[]),
];

/// What changes a parameter that PostgreSQL reports.
pub const REPORTED: &[&str] = &[
    "SET DateStyle = 'German'",
    "SET DateStyle = 'ISO, MDY'",
    "SET TimeZone = 'Asia/Tokyo'",
    "SET LOCAL TimeZone = 'UTC'",
    "SET application_name = 'by SET'",
    "SET IntervalStyle = 'iso_8601'",
    "SET client_encoding = 'LATIN1'",
    "SET DateStyle = 'nonsense'",
    "SELECT set_config('IntervalStyle', 'sql_standard', false)",
    "SELECT timestamptz '2001-02-03 04:05+00', interval '1 day 2 hours', chr(233)",
];

/// What takes such a change back.
pub const RESETS: &[&str] = &[
    "RESET DateStyle",
    "RESET TimeZone",
    "RESET application_name",
    "SET IntervalStyle TO DEFAULT",
    "RESET client_encoding",
];

/// What only a session of one's own keeps. `{k}` is the client's number.
pub const SESSION: &[&str] = &[
    "LISTEN {t}",
    "NOTIFY {t}, 'told'",
    "UNLISTEN *",
    "DECLARE held CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 9) g",
    "FETCH 2 FROM held",
    "CLOSE held",
    "CREATE TEMP TABLE passing (a int)",
    "INSERT INTO passing VALUES (1), (2)",
    "SELECT sum(a) FROM passing",
    "DROP TABLE passing",
    "SELECT pg_advisory_lock(length('{t}') * 1000 + {k})",
    "SELECT pg_advisory_unlock_all()",
    "SET work_mem = '7MB'",
    "SHOW work_mem",
    "SET search_path = pg_catalog, public",
    "SET statement_timeout = '1min'",
    "RESET ALL",
    "SELECT setval('{t}_seq', 5)",
    "SELECT nextval('{t}_seq'), currval('{t}_seq')",
];

/// What changes a table under statements that are prepared.
pub const DDL: &[&str] = &[
    "ALTER TABLE {t}_ddl ADD COLUMN more int DEFAULT 7",
    "ALTER TABLE {t}_ddl DROP COLUMN more",
    "ALTER TABLE {t}_ddl ALTER COLUMN v TYPE varchar(50)",
    "ALTER TABLE {t}_ddl ALTER COLUMN v TYPE text",
    "CREATE INDEX ON {t}_ddl (v)",
    "DROP TABLE {t}_ddl",
    "CREATE TABLE {t}_ddl (id int, v text)",
    "INSERT INTO {t}_ddl (id, v) VALUES (1, 'one')",
    "SELECT * FROM {t}_ddl",
];

/// Sizes around which messages are made: the usual buffers, PostgreSQL's and Aether's.
pub const THRESHOLDS: &[usize] = &[
    4_096, 4_096, 8_192, 8_192, 16_384, 16_384, 65_536, 65_536, 65_536, 81_920, 262_144,
];

/// Names of statements.
pub const STATEMENTS: &[&str] = &["", "", "", "a", "b", "c", "d", LONG_A, LONG_B];
/// Names of portals; some are those of statements.
pub const PORTALS: &[&str] = &["", "", "", "a", "b", "p"];
/// Equal in the 63 bytes that PostgreSQL looks at.
pub const LONG_A: &str = "a_name_of_more_than_63_bytes_which_is_cut_by_postgresql_at_that_A";
/// See [`LONG_A`].
pub const LONG_B: &str = "a_name_of_more_than_63_bytes_which_is_cut_by_postgresql_at_that_B";
