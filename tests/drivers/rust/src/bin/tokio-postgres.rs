//! tokio-postgres: prepared statements for every query, pipelining, portals, COPY, cancel tokens.

use aether_drivers::{CLIENTS, Kit, MEGABYTE, REFUSED, Result, all};
use bytes::Bytes;
use chrono::{DateTime, NaiveDate, Utc};
use futures_util::{SinkExt, StreamExt, TryStreamExt, future::join_all, pin_mut, stream};
use rust_decimal::Decimal;
use std::collections::HashSet;
use std::fmt::Debug;
use std::ops::{Deref, DerefMut};
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, Kind, ToSql, Type};
use tokio_postgres::{
    AsyncMessage, Client, Config, Error, IsolationLevel, NoTls, SimpleQueryMessage,
};

/// A client with the task that carries its traffic, and what that task was sent unasked.
struct Connection {
    client: Client,
    traffic: tokio::task::JoinHandle<()>,
    unasked: tokio::sync::mpsc::UnboundedReceiver<AsyncMessage>,
}

impl Deref for Connection {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Connection {
    /// The driver says goodbye once its client is dropped.
    async fn close(self) -> Result {
        drop(self.client);
        Ok(self.traffic.await?)
    }
}

fn config(kit: &Kit) -> Config {
    let mut config = Config::new();
    config
        .host(&kit.host)
        .port(kit.port)
        .user(&kit.user)
        .password(&kit.password)
        .dbname(&kit.database);
    config
}

async fn connect_with(config: &Config) -> Result<Connection> {
    let (client, mut connection) = config.connect(NoTls).await?;
    let (sender, unasked) = tokio::sync::mpsc::unbounded_channel();
    let traffic = tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            let _ = sender.send(message);
        }
    });
    Ok(Connection {
        client,
        traffic,
        unasked,
    })
}

async fn connect(kit: &Kit) -> Result<Connection> {
    connect_with(&config(kit)).await
}

async fn several(kit: &Kit, count: usize) -> Result<Vec<Connection>> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(connect(kit).await?);
    }
    Ok(all)
}

async fn close_all(connections: Vec<Connection>) -> Result {
    for connection in connections {
        connection.close().await?;
    }
    Ok(())
}

#[track_caller]
fn code<T: Debug>(result: std::result::Result<T, Error>) -> SqlState {
    let error = result.expect_err("no error was raised");
    error
        .code()
        .unwrap_or_else(|| panic!("an error without SQLSTATE: {error:?}"))
        .clone()
}

/// Values of one type that must come back as they went.
async fn comes_back<T>(kit: Kit, sql_type: &str, values: Vec<T>) -> Result
where
    T: ToSql + for<'a> FromSql<'a> + PartialEq + Debug + Sync + Send,
{
    let conn = connect(&kit).await?;
    for value in values {
        let row = conn
            .query_one(
                &format!("SELECT $1::{sql_type}, $2::text"),
                &[&value, &None::<String>],
            )
            .await?;
        assert_eq!(row.try_get::<_, T>(0)?, value);
        assert_eq!(row.try_get::<_, Option<String>>(1)?, None);
    }
    conn.close().await
}

async fn count(client: &Client, owner: &str) -> Result<i64> {
    Ok(client
        .query_one(
            "SELECT count(*) FROM tokio_things WHERE owner = $1",
            &[&owner],
        )
        .await?
        .get(0))
}

const INSERT: &str = "INSERT INTO tokio_things (owner, n, note) VALUES ($1, $2, $3)";

#[tokio::main(worker_threads = 2)]
async fn main() -> Result {
    let kit = Kit::from_env()?;
    connecting(&kit).await;
    values(&kit).await;
    if kit.blocks {
        transactions(&kit).await;
    } else {
        let k = kit.clone();
        kit.check("a transaction block is refused", async move {
            let conn = connect(&k).await?;
            let error = conn
                .batch_execute("BEGIN")
                .await
                .expect_err("no error was raised");
            assert!(format!("{error:?}").contains(REFUSED), "{error:?}");
            Ok(())
        })
        .await;
    }
    statements(&kit).await;
    copies(&kit).await;
    errors(&kit).await;
    many(&kit).await;
    if kit.session {
        sessions(&kit).await;
    }
    kit.done();
    Ok(())
}

async fn connecting(kit: &Kit) {
    let k = kit.clone();
    kit.check("connects by SCRAM, and makes its tables", async move {
        let conn = connect(&k).await?;
        let row = conn.query_one("SELECT current_user::text, current_database()::text", &[]).await?;
        assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), (k.user, k.database));
        conn.batch_execute(
            "DROP TABLE IF EXISTS tokio_things; DROP TABLE IF EXISTS tokio_copies;
             CREATE TABLE tokio_things (id serial PRIMARY KEY, owner text NOT NULL, n int, note text, UNIQUE (owner, n));
             CREATE TABLE tokio_copies (n int, note text)",
        )
        .await?;
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check(
        "a wrong password is 28P01, an unknown database 3D000",
        async move {
            let failure = async |config: &Config| code(config.connect(NoTls).await.map(|_| ()));
            assert_eq!(
                failure(config(&k).password("wrong")).await,
                SqlState::INVALID_PASSWORD
            );
            assert_eq!(
                failure(config(&k).dbname("nowhere")).await,
                SqlState::INVALID_CATALOG_NAME
            );
            Ok(())
        },
    )
    .await;
    let k = kit.clone();
    kit.check("a simple query with several statements", async move {
        let conn = connect(&k).await?;
        let messages = conn
            .simple_query("SELECT 1, NULL; SELECT 'x' FROM generate_series(1, 3)")
            .await?;
        let rows: Vec<_> = messages
            .iter()
            .filter_map(|m| {
                if let SimpleQueryMessage::Row(row) = m {
                    Some(row.get(0))
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(rows, [Some("1"), Some("x"), Some("x"), Some("x")]);
        conn.close().await
    })
    .await;
}

async fn values(kit: &Kit) {
    let k = || kit.clone();
    let time = |text: &str| {
        DateTime::parse_from_rfc3339(text)
            .expect("a time")
            .with_timezone(&Utc)
    };
    kit.check(
        "parameters: integer",
        comes_back(k(), "int4", vec![0, 1, -1, i32::MAX, i32::MIN]),
    )
    .await;
    kit.check(
        "parameters: bigint",
        comes_back(k(), "int8", vec![i64::MAX, i64::MIN]),
    )
    .await;
    kit.check(
        "parameters: boolean",
        comes_back(k(), "bool", vec![true, false]),
    )
    .await;
    let texts = [
        "",
        "it's \\ \"quoted\" $1 %s ${x}; --",
        "Grüße, 世界 🐘\n\t",
    ]
    .map(str::to_owned);
    kit.check("parameters: text", comes_back(k(), "text", texts.to_vec()))
        .await;
    kit.check(
        "parameters: float",
        comes_back(k(), "float8", vec![0.1, -1e308, 5e-324, f64::INFINITY]),
    )
    .await;
    let decimals = ["1234567890.123456789012345678", "-0.000001"]
        .map(|d| d.parse::<Decimal>().expect("a number"));
    kit.check(
        "parameters: numeric",
        comes_back(k(), "numeric", decimals.to_vec()),
    )
    .await;
    let times = vec![
        time("2024-02-29T23:59:59.999999Z"),
        time("1969-07-20T20:17:40Z"),
    ];
    kit.check(
        "parameters: timestamptz",
        comes_back(k(), "timestamptz", times),
    )
    .await;
    kit.check(
        "parameters: date",
        comes_back(k(), "date", vec![NaiveDate::from_ymd_opt(1999, 12, 31)]),
    )
    .await;
    let bytes: Vec<u8> = (0..=255).cycle().take(5120).collect();
    kit.check(
        "parameters: bytea",
        comes_back(k(), "bytea", vec![bytes, vec![]]),
    )
    .await;
    let lists = vec![vec![Some(1), None, Some(-3)], vec![]];
    kit.check(
        "parameters: integer array",
        comes_back(k(), "int4[]", lists),
    )
    .await;
    let lists = vec![vec![
        Some("q\"u,o{t}e\\".to_owned()),
        None,
        Some("NULL".to_owned()),
    ]];
    kit.check("parameters: text array", comes_back(k(), "text[]", lists))
        .await;
    let document = serde_json::json!({"a": [1, 2.5, null, true], "ü": {"nested": "it's"}});
    kit.check(
        "parameters: jsonb",
        comes_back(k(), "jsonb", vec![document]),
    )
    .await;
    kit.check(
        "a value of 1 MB each way, text",
        comes_back(k(), "text", vec!["ü".repeat(MEGABYTE / 2)]),
    )
    .await;
    kit.check(
        "a value of 1 MB each way, bytea",
        comes_back(k(), "bytea", vec![vec![7u8; MEGABYTE]]),
    )
    .await;
    let k = kit.clone();
    kit.check("many rows", async move {
        let conn = connect(&k).await?;
        let rows = conn
            .query(
                "SELECT i, repeat('x', i % 50) FROM generate_series(1, $1::int) i",
                &[&50_000],
            )
            .await?;
        assert_eq!(rows.len(), 50_000);
        for (i, row) in (1..).zip(&rows) {
            assert_eq!(
                (row.get::<_, i32>(0), row.get::<_, &str>(1).len()),
                (i, i as usize % 50)
            );
        }
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check("types that the driver looks up: enum, array of it, composite, domain", async move {
        let conn = connect(&k).await?;
        conn.batch_execute(
            "DROP TABLE IF EXISTS tokio_moods; DROP TYPE IF EXISTS tokio_pair; DROP TYPE IF EXISTS tokio_mood;
             DROP DOMAIN IF EXISTS tokio_small; CREATE TYPE tokio_mood AS ENUM ('sad', 'happy');
             CREATE TYPE tokio_pair AS (mood tokio_mood, n int); CREATE DOMAIN tokio_small AS int CHECK (value < 10)",
        )
        .await?;
        let text = "SELECT $1::tokio_mood[], $2::tokio_pair, $3::tokio_small";
        let statement = conn.prepare(text).await?;
        let [moods, pair, small] = statement.params() else { panic!("three parameters") };
        let Kind::Array(mood) = moods.kind() else { panic!("{moods:?}") };
        assert_eq!(mood.kind(), &Kind::Enum(vec!["sad".to_owned(), "happy".to_owned()]));
        assert!(matches!(pair.kind(), Kind::Composite(fields) if fields.len() == 2), "{pair:?}");
        assert!(matches!(small.kind(), Kind::Domain(base) if *base == Type::INT4), "{small:?}");
        conn.close().await
    })
    .await;
}

async fn transactions(kit: &Kit) {
    let k = kit.clone();
    kit.check(
        "commit, rollback, and what another connection sees",
        async move {
            let (mut conn, other) = (connect(&k).await?, connect(&k).await?);
            let transaction = conn.transaction().await?;
            transaction.execute(INSERT, &[&"commit", &1, &"x"]).await?;
            assert_eq!(count(&other, "commit").await?, 0);
            transaction.commit().await?;
            assert_eq!(count(&other, "commit").await?, 1);
            let transaction = conn.transaction().await?;
            transaction
                .execute(INSERT, &[&"rollback", &1, &"x"])
                .await?;
            // Dropped: the driver rolls it back with the next message.
            drop(transaction);
            assert_eq!(count(&conn, "rollback").await?, 0);
            close_all(vec![conn, other]).await
        },
    )
    .await;
    let k = kit.clone();
    kit.check("an error inside a transaction, and after it", async move {
        let mut conn = connect(&k).await?;
        let transaction = conn
            .build_transaction()
            .isolation_level(IsolationLevel::Serializable)
            .start()
            .await?;
        assert_eq!(
            code(transaction.query("SELECT 1 / $1::int", &[&0]).await),
            SqlState::DIVISION_BY_ZERO
        );
        assert_eq!(
            code(transaction.query("SELECT 1", &[]).await),
            SqlState::IN_FAILED_SQL_TRANSACTION
        );
        transaction.rollback().await?;
        assert_eq!(conn.query_one("SELECT 1", &[]).await?.get::<_, i32>(0), 1);
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check("savepoints", async move {
        let mut conn = connect(&k).await?;
        let mut transaction = conn.transaction().await?;
        transaction.execute(INSERT, &[&"save", &1, &"x"]).await?;
        let savepoint = transaction.savepoint("s").await?;
        let twice = savepoint.execute(INSERT, &[&"save", &1, &"x"]).await;
        assert_eq!(code(twice), SqlState::UNIQUE_VIOLATION);
        savepoint.rollback().await?;
        transaction.execute(INSERT, &[&"save", &2, &"x"]).await?;
        transaction.commit().await?;
        assert_eq!(count(&conn, "save").await?, 2);
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check("portals with row limits, two at a time", async move {
        let mut conn = connect(&k).await?;
        let transaction = conn.transaction().await?;
        let one = transaction
            .bind("SELECT i FROM generate_series(1, $1::int) i", &[&1000])
            .await?;
        let two = transaction
            .bind("SELECT -i FROM generate_series(1, $1::int) i", &[&1000])
            .await?;
        let mut sums = [0, 0];
        loop {
            let rows = [
                transaction.query_portal(&one, 70).await?,
                transaction.query_portal(&two, 70).await?,
            ];
            for (sum, rows) in sums.iter_mut().zip(&rows) {
                *sum += rows.iter().map(|row| row.get::<_, i32>(0)).sum::<i32>();
            }
            if rows[0].is_empty() {
                break;
            }
        }
        assert_eq!(sums, [500_500, -500_500]);
        transaction.commit().await?;
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check("a transaction in one pipeline", async move {
        let conn = connect(&k).await?;
        let (begin, insert, commit) = futures_util::join!(
            conn.batch_execute("BEGIN"),
            conn.execute(INSERT, &[&"piped", &1, &"x"]),
            conn.batch_execute("COMMIT")
        );
        begin?;
        assert_eq!(insert?, 1);
        commit?;
        assert_eq!(count(&conn, "piped").await?, 1);
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check(
        "one prepared statement goes from server to server",
        async move {
            let (mine, holders) = (connect(&k).await?, several(&k, 4).await?);
            let statement = mine.prepare("SELECT pg_backend_pid()").await?;
            for conn in &holders {
                conn.batch_execute("BEGIN").await?;
            }
            let mut pids = HashSet::new();
            for conn in &holders {
                // In transaction mode all servers are held but the one that this rollback lets go.
                conn.batch_execute("ROLLBACK").await?;
                pids.insert(mine.query_one(&statement, &[]).await?.get(0));
                conn.batch_execute("BEGIN").await?;
            }
            // These first: the Close that a dropped statement sends may wait for a server.
            close_all(holders).await?;
            drop(statement);
            mine.close().await?;
            k.saw(&pids);
            Ok(())
        },
    )
    .await;
}

async fn statements(kit: &Kit) {
    let k = kit.clone();
    kit.check(
        "prepared statements over interleaved connections",
        async move {
            let conns = several(&k, 4).await?;
            let mut statements = Vec::new();
            for (i, conn) in conns.iter().enumerate() {
                statements.push(
                    conn.prepare(&format!("SELECT $1::int + {i}, $2::text"))
                        .await?,
                );
            }
            for i in 0..300 {
                let row = conns[i % 4]
                    .query_one(&statements[i % 4], &[&(i as i32), &format!("t{i}")])
                    .await?;
                assert_eq!(
                    (row.get(0), row.get(1)),
                    ((i + i % 4) as i32, format!("t{i}"))
                );
            }
            drop(statements);
            close_all(conns).await
        },
    )
    .await;
    let k = kit.clone();
    kit.check("more statements than the pooler keeps", async move {
        let conn = connect(&k).await?;
        let mut statements = Vec::new();
        for i in 0..300 {
            statements.push(conn.prepare(&format!("SELECT {i}, $1::int")).await?);
        }
        for turn in 0..2 {
            for (i, statement) in (0..).zip(&statements) {
                let row = conn.query_one(statement, &[&turn]).await?;
                assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (i, turn));
            }
        }
        // Each is closed as it is dropped, behind the next query.
        drop(statements);
        assert_eq!(conn.query_one("SELECT 1", &[]).await?.get::<_, i32>(0), 1);
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check(
        "pipelined queries, each with a statement of its own",
        async move {
            let conn = connect(&k).await?;
            let ns: Vec<i32> = (0..300).collect();
            let rows = join_all(ns.iter().map(|n| {
                let conn = &conn;
                async move {
                    conn.query_one("SELECT $1::int, $2::text", &[n, &format!("t{n}")])
                        .await
                }
            }))
            .await;
            for (n, row) in ns.iter().zip(rows) {
                let row = row?;
                assert_eq!(
                    (row.get::<_, i32>(0), row.get::<_, String>(1)),
                    (*n, format!("t{n}"))
                );
            }
            conn.close().await
        },
    )
    .await;
    let k = kit.clone();
    kit.check("pipelined queries, some with errors", async move {
        let conn = connect(&k).await?;
        let statement = conn.prepare("SELECT 100 / $1::int").await?;
        let results = join_all((0..200).map(|n| {
            let (conn, statement) = (&conn, &statement);
            async move { conn.query_one(statement, &[&(n % 5)]).await }
        }))
        .await;
        for (n, result) in (0..).zip(results) {
            match n % 5 {
                0 => assert_eq!(code(result), SqlState::DIVISION_BY_ZERO),
                d => assert_eq!(result?.get::<_, i32>(0), 100 / d),
            }
        }
        drop(statement);
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check("a statement whose Parse failed", async move {
        let conn = connect(&k).await?;
        for _ in 0..3 {
            assert_eq!(
                code(conn.prepare("SELECT * FROM tokio_nowhere").await),
                SqlState::UNDEFINED_TABLE
            );
            assert_eq!(
                conn.query_one("SELECT $1::int", &[&7])
                    .await?
                    .get::<_, i32>(0),
                7
            );
        }
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check("query_typed, the unnamed statement", async move {
        let conn = connect(&k).await?;
        for n in 0..50 {
            let rows = conn
                .query_typed("SELECT $1 * 2", &[(&n, Type::INT4)])
                .await?;
            assert_eq!(rows[0].get::<_, i32>(0), n * 2);
        }
        conn.close().await
    })
    .await;
}

async fn copies(kit: &Kit) {
    let k = kit.clone();
    kit.check("COPY both ways", async move {
        let conn = connect(&k).await?;
        let text: String = (0..50_000).map(|i| format!("{i}\tnote {i}\\n\n")).collect();
        let sink = conn.copy_in("COPY tokio_copies FROM STDIN").await?;
        pin_mut!(sink);
        for part in text.as_bytes().chunks(7777) {
            sink.send(Bytes::copy_from_slice(part)).await?;
        }
        assert_eq!(sink.finish().await?, 50_000);
        let out = conn
            .copy_out("COPY (SELECT * FROM tokio_copies ORDER BY n) TO STDOUT")
            .await?;
        let parts: Vec<Bytes> = out.try_collect().await?;
        assert!(parts.concat() == text.as_bytes());
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check("binary COPY both ways", async move {
        let conn = connect(&k).await?;
        conn.batch_execute("TRUNCATE tokio_copies").await?;
        let sink = conn
            .copy_in("COPY tokio_copies FROM STDIN (FORMAT binary)")
            .await?;
        let writer = BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT]);
        pin_mut!(writer);
        for i in 0..1000 {
            writer.as_mut().write(&[&i, &format!("b{i}")]).await?;
        }
        assert_eq!(writer.finish().await?, 1000);
        let out = conn
            .copy_out("COPY (SELECT * FROM tokio_copies ORDER BY n) TO STDOUT (FORMAT binary)")
            .await?;
        let rows: Vec<_> = BinaryCopyOutStream::new(out, &[Type::INT4, Type::TEXT])
            .try_collect()
            .await?;
        for (i, row) in (0..1000).zip(&rows) {
            assert_eq!(
                (row.get::<i32>(0), row.get::<String>(1)),
                (i, format!("b{i}"))
            );
        }
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check(
        "a COPY that the server refuses, and one that the client gives up",
        async move {
            let conn = connect(&k).await?;
            conn.batch_execute("TRUNCATE tokio_copies").await?;
            let sink = conn.copy_in("COPY tokio_copies (n) FROM STDIN").await?;
            pin_mut!(sink);
            let _ = sink.send(Bytes::from_static(b"1\nthree\n")).await;
            assert_eq!(
                code(sink.finish().await),
                SqlState::INVALID_TEXT_REPRESENTATION
            );
            {
                let sink = conn.copy_in("COPY tokio_copies (n) FROM STDIN").await?;
                pin_mut!(sink);
                sink.send(Bytes::from_static(b"1\n2\n")).await?;
                // Dropped unfinished: the driver sends CopyFail.
            }
            assert_eq!(
                conn.query_one("SELECT count(*) FROM tokio_copies", &[])
                    .await?
                    .get::<_, i64>(0),
                0
            );
            conn.close().await
        },
    )
    .await;
}

async fn errors(kit: &Kit) {
    let k = kit.clone();
    kit.check("errors carry SQLSTATE and fields", async move {
        let conn = connect(&k).await?;
        conn.execute(INSERT, &[&"unique", &1, &"x"]).await?;
        let error = conn
            .execute(INSERT, &[&"unique", &1, &"x"])
            .await
            .expect_err("no error was raised");
        let fields = error.as_db_error().ok_or("no server's error")?;
        assert_eq!(fields.code(), &SqlState::UNIQUE_VIOLATION);
        assert_eq!(fields.constraint(), Some("tokio_things_owner_n_key"));
        assert_eq!(
            code(conn.batch_execute("SELEKT 1").await),
            SqlState::SYNTAX_ERROR
        );
        let raise = "DO $$ BEGIN RAISE 'Ünique' USING ERRCODE = 'AE123', HINT = 'a hint'; END $$";
        let error = conn
            .execute(raise, &[])
            .await
            .expect_err("no error was raised");
        let fields = error.as_db_error().ok_or("no server's error")?;
        assert_eq!(
            (fields.code().code(), fields.hint(), fields.message()),
            ("AE123", Some("a hint"), "Ünique")
        );
        assert_eq!(conn.query_one("SELECT 1", &[]).await?.get::<_, i32>(0), 1);
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check("notices", async move {
        let mut conn = connect(&k).await?;
        conn.batch_execute("DO $$ BEGIN RAISE NOTICE 'one'; END $$")
            .await?;
        let Some(AsyncMessage::Notice(notice)) = conn.unasked.recv().await else {
            panic!("no notice")
        };
        assert_eq!(notice.message(), "one");
        conn.close().await
    })
    .await;
    let k = kit.clone();
    kit.check("cancel", async move {
        let (conn, other) = (connect(&k).await?, connect(&k).await?);
        let token = conn.cancel_token();
        let sleeps = tokio::spawn(async move {
            let result = conn.query("SELECT 'tokio cancel', pg_sleep(30)", &[]).await;
            (code(result), conn)
        });
        let active = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT ''tokio cancel%' AND wait_event = 'PgSleep'";
        while other.query(active, &[]).await?.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        token.cancel_query(NoTls).await?;
        let (sqlstate, conn) = sleeps.await?;
        assert_eq!(sqlstate, SqlState::QUERY_CANCELED);
        assert_eq!(conn.query_one("SELECT 1", &[]).await?.get::<_, i32>(0), 1);
        close_all(vec![conn, other]).await
    })
    .await;
    let k = kit.clone();
    kit.check("a startup setting is the session's default", async move {
        let conn = connect_with(
            config(&k)
                .options("-c statement_timeout=300ms")
                .application_name("tokio's"),
        )
        .await?;
        assert_eq!(
            conn.query_one("SHOW statement_timeout", &[])
                .await?
                .get::<_, String>(0),
            "300ms"
        );
        assert_eq!(
            conn.query_one("SHOW application_name", &[])
                .await?
                .get::<_, String>(0),
            "tokio's"
        );
        assert_eq!(
            code(conn.query("SELECT pg_sleep(30)", &[]).await),
            SqlState::QUERY_CANCELED
        );
        conn.close().await
    })
    .await;
}

/// One of the many clients: returns the servers that ran its tagged statement.
async fn tagged(kit: Kit, i: usize) -> Result<HashSet<i32>> {
    let (me, mut n, mut pids) = (format!("client {i}"), 0, HashSet::new());
    let note = me.repeat(20);
    let mut conn = connect(&kit).await?;
    let statement = conn
        .prepare("SELECT $1::text, $2::int, pg_backend_pid(), pg_sleep($3)::text")
        .await?;
    let insert = conn.prepare(INSERT).await?;
    while kit.goes_on(n, &pids) {
        let row = conn
            .query_one(&statement, &[&me, &n, &Kit::uneven(i, n)])
            .await?;
        assert_eq!(
            (row.get::<_, &str>(0), row.get::<_, i32>(1)),
            (me.as_str(), n)
        );
        pids.insert(row.get(2));
        assert_eq!(conn.execute(&insert, &[&me, &n, &note]).await?, 1);
        if n % 10 == 0 && kit.blocks {
            let transaction = conn.transaction().await?;
            let rows = transaction
                .query(
                    "SELECT n, note FROM tokio_things WHERE owner = $1 ORDER BY n",
                    &[&me],
                )
                .await?;
            transaction.commit().await?;
            let rows: Vec<(i32, String)> =
                rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            assert_eq!(rows, (0..=n).map(|k| (k, note.clone())).collect::<Vec<_>>());
        }
        n += 1;
    }
    drop((statement, insert));
    conn.close().await?;
    Ok(pids)
}

async fn many(kit: &Kit) {
    let k = kit.clone();
    kit.check("many clients, each sees its own rows only", async move {
        for pids in all((0..CLIENTS)
            .map(|i| tokio::spawn(tagged(k.clone(), i)))
            .collect())
        .await?
        {
            k.saw(&pids);
        }
        Ok(())
    })
    .await;
    let k = kit.clone();
    kit.check("a clean close", async move {
        let conn = connect(&k).await?;
        conn.query_one("SELECT 1", &[]).await?;
        conn.close().await
    })
    .await;
}

async fn sessions(kit: &Kit) {
    let k = kit.clone();
    kit.check("SET, temporary tables, LISTEN last as long as the session", async move {
        let (mut conn, other) = (connect(&k).await?, connect(&k).await?);
        conn.batch_execute("SET search_path = pg_catalog; CREATE TEMP TABLE tokio_temp AS SELECT 42 AS n; LISTEN news").await?;
        assert_eq!(conn.query_one("SHOW search_path", &[]).await?.get::<_, String>(0), "pg_catalog");
        assert_eq!(conn.query_one("SELECT n FROM tokio_temp", &[]).await?.get::<_, i32>(0), 42);
        let pid: i32 = other.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        other.batch_execute("NOTIFY news, 'hello'").await?;
        let Some(AsyncMessage::Notification(note)) = conn.unasked.recv().await else { panic!("no notification") };
        assert_eq!((note.payload(), note.process_id()), ("hello", pid));
        close_all(vec![conn, other]).await?;
        // As many as there are servers, so that the one with the search_path is among them.
        let conns = several(&k, k.servers).await?;
        for conn in &conns {
            assert_eq!(conn.query_one("SHOW search_path", &[]).await?.get::<_, String>(0), "\"$user\", public");
        }
        close_all(conns).await
    })
    .await;
}
