//! sqlx: its pool and its statement cache, transactions with savepoints, COPY, its listener.

use aether_drivers::{CLIENTS, Kit, MEGABYTE, REFUSED, Result, all};
use chrono::{DateTime, NaiveDate, Utc};
use futures_util::TryStreamExt;
use rust_decimal::Decimal;
use sqlx::postgres::{
    PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolCopyExt, PgPoolOptions, Postgres,
};
use sqlx::{
    AssertSqlSafe, Column, ConnectOptions, Connection, Decode, Encode, Executor, Row, Type,
    TypeInfo, ValueRef,
};
use std::collections::HashSet;
use std::fmt::Debug;

fn options(kit: &Kit) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host(&kit.host)
        .port(kit.port)
        .username(&kit.user)
        .password(&kit.password)
        .database(&kit.database)
        .ssl_mode(sqlx::postgres::PgSslMode::Prefer)
}

async fn connect(kit: &Kit) -> Result<PgConnection> {
    Ok(options(kit).connect().await?)
}

async fn several(kit: &Kit, count: usize) -> Result<Vec<PgConnection>> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(connect(kit).await?);
    }
    Ok(all)
}

async fn close_all(conns: Vec<PgConnection>) -> Result {
    for conn in conns {
        conn.close().await?;
    }
    Ok(())
}

#[track_caller]
fn code<T: Debug>(result: std::result::Result<T, sqlx::Error>) -> String {
    let error = result.expect_err("no error was raised");
    let of = error
        .as_database_error()
        .unwrap_or_else(|| panic!("not the server's error: {error:?}"));
    of.code().expect("an error without SQLSTATE").into_owned()
}

/// Values of one type that must come back as they went.
async fn comes_back<T>(kit: Kit, sql_type: &str, values: Vec<T>) -> Result
where
    T: for<'q> Encode<'q, Postgres>
        + for<'r> Decode<'r, Postgres>
        + Type<Postgres>
        + Clone
        + PartialEq
        + Debug
        + Send
        + Unpin
        + 'static,
{
    let mut conn = connect(&kit).await?;
    for value in values {
        let query = AssertSqlSafe(format!("SELECT $1::{sql_type}, $2::text"));
        let row = sqlx::query(query)
            .bind(value.clone())
            .bind(None::<String>)
            .fetch_one(&mut conn)
            .await?;
        assert_eq!(row.try_get::<T, _>(0)?, value);
        assert_eq!(row.try_get::<Option<String>, _>(1)?, None);
    }
    Ok(conn.close().await?)
}

async fn count(conn: &mut PgConnection, owner: &str) -> Result<i64> {
    let query = sqlx::query_scalar("SELECT count(*) FROM sqlx_things WHERE owner = $1");
    Ok(query.bind(owner.to_owned()).fetch_one(conn).await?)
}

async fn insert(
    conn: &mut PgConnection,
    owner: &str,
    n: i32,
) -> std::result::Result<u64, sqlx::Error> {
    let query = sqlx::query("INSERT INTO sqlx_things (owner, n, note) VALUES ($1, $2, $3)");
    Ok(query
        .bind(owner.to_owned())
        .bind(n)
        .bind(owner.repeat(20))
        .execute(conn)
        .await?
        .rows_affected())
}

async fn show(conn: &mut PgConnection, setting: &str) -> Result<String> {
    Ok(sqlx::query_scalar(AssertSqlSafe(format!("SHOW {setting}")))
        .fetch_one(conn)
        .await?)
}

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
            let mut conn = connect(&k).await?;
            let error = conn
                .begin()
                .await
                .map(|_| ())
                .expect_err("no error was raised");
            assert!(error.to_string().contains(REFUSED), "{error}");
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
        let mut conn = connect(&k).await?;
        let who: (String, String) =
            sqlx::query_as("SELECT current_user::text, current_database()::text").fetch_one(&mut conn).await?;
        assert_eq!(who, (k.user, k.database));
        conn.execute(
            "DROP TABLE IF EXISTS sqlx_things; DROP TABLE IF EXISTS sqlx_copies;
             CREATE TABLE sqlx_things (id serial PRIMARY KEY, owner text NOT NULL, n int, note text, UNIQUE (owner, n));
             CREATE TABLE sqlx_copies (n int, note text)",
        )
        .await?;
        conn.ping().await?;
        Ok(conn.close().await?)
    })
    .await;
    let k = kit.clone();
    kit.check(
        "a wrong password is 28P01, an unknown database 3D000",
        async move {
            assert_eq!(code(options(&k).password("wrong").connect().await), "28P01");
            assert_eq!(
                code(options(&k).database("nowhere").connect().await),
                "3D000"
            );
            Ok(())
        },
    )
    .await;
    let k = kit.clone();
    kit.check("a simple query with several statements", async move {
        let mut conn = connect(&k).await?;
        let rows: Vec<_> = sqlx::raw_sql("SELECT 1, NULL; SELECT 2 FROM generate_series(1, 3)")
            .fetch_all(&mut conn)
            .await?;
        let firsts: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(firsts, [1, 2, 2, 2]);
        Ok(conn.close().await?)
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
    kit.check("many rows, streamed", async move {
        let mut conn = connect(&k).await?;
        let query = sqlx::query_as::<_, (i32, String)>(
            "SELECT i, repeat('x', i % 50) FROM generate_series(1, $1) i",
        );
        let rows: Vec<_> = query.bind(50_000).fetch(&mut conn).try_collect().await?;
        assert_eq!(rows.len(), 50_000);
        for (i, (n, text)) in (1..).zip(&rows) {
            assert_eq!((*n, text.len()), (i, i as usize % 50));
        }
        Ok(conn.close().await?)
    })
    .await;
    let k = kit.clone();
    kit.check("a type that the driver looks up", async move {
        let mut conn = connect(&k).await?;
        conn.execute(
            "DROP TYPE IF EXISTS sqlx_mood; CREATE TYPE sqlx_mood AS ENUM ('sad', 'happy')",
        )
        .await?;
        for _ in 0..3 {
            let row = sqlx::query("SELECT 'happy'::sqlx_mood")
                .fetch_one(&mut conn)
                .await?;
            assert_eq!(row.columns()[0].type_info().name(), "sqlx_mood");
            let value = row.try_get_raw(0)?;
            assert!(!value.is_null());
            assert_eq!(row.try_get_unchecked::<String, _>(0)?, "happy");
        }
        Ok(conn.close().await?)
    })
    .await;
    let k = kit.clone();
    kit.check("a stream that is dropped half read", async move {
        let mut conn = connect(&k).await?;
        {
            let mut rows = sqlx::query("SELECT i, repeat('x', 100) FROM generate_series(1, $1) i")
                .bind(20_000)
                .fetch(&mut conn);
            assert!(rows.try_next().await?.is_some());
        }
        let n: i32 = sqlx::query_scalar("SELECT 5").fetch_one(&mut conn).await?;
        assert_eq!(n, 5);
        Ok(conn.close().await?)
    })
    .await;
}

async fn transactions(kit: &Kit) {
    let k = kit.clone();
    kit.check(
        "commit, rollback, and what another connection sees",
        async move {
            let (mut conn, mut other) = (connect(&k).await?, connect(&k).await?);
            let mut transaction = conn.begin().await?;
            insert(&mut transaction, "commit", 1).await?;
            assert_eq!(count(&mut other, "commit").await?, 0);
            transaction.commit().await?;
            assert_eq!(count(&mut other, "commit").await?, 1);
            let mut transaction = conn.begin().await?;
            insert(&mut transaction, "rollback", 1).await?;
            // Dropped: the driver rolls it back before the next query.
            drop(transaction);
            assert_eq!(count(&mut conn, "rollback").await?, 0);
            close_all(vec![conn, other]).await
        },
    )
    .await;
    let k = kit.clone();
    kit.check("an error inside a transaction, and after it", async move {
        let mut conn = connect(&k).await?;
        let mut transaction = conn
            .begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE")
            .await?;
        let divide = sqlx::query("SELECT 1 / $1")
            .bind(0)
            .execute(&mut *transaction)
            .await;
        assert_eq!(code(divide), "22012");
        assert_eq!(
            code(sqlx::query("SELECT 1").execute(&mut *transaction).await),
            "25P02"
        );
        transaction.rollback().await?;
        assert_eq!(count(&mut conn, "nobody").await?, 0);
        Ok(conn.close().await?)
    })
    .await;
    let k = kit.clone();
    kit.check("savepoints", async move {
        let mut conn = connect(&k).await?;
        let mut transaction = conn.begin().await?;
        insert(&mut transaction, "save", 1).await?;
        let mut savepoint = transaction.begin().await?;
        assert_eq!(code(insert(&mut savepoint, "save", 1).await), "23505");
        savepoint.rollback().await?;
        insert(&mut transaction, "save", 2).await?;
        transaction.commit().await?;
        assert_eq!(count(&mut conn, "save").await?, 2);
        Ok(conn.close().await?)
    })
    .await;
    let k = kit.clone();
    kit.check(
        "one cached statement goes from server to server",
        async move {
            let (mut mine, mut holders) = (connect(&k).await?, several(&k, 4).await?);
            for conn in &mut holders {
                conn.execute("BEGIN").await?;
            }
            let mut pids = HashSet::new();
            for conn in &mut holders {
                // In transaction mode all servers are held but the one that this rollback lets go.
                conn.execute("ROLLBACK").await?;
                pids.insert(
                    sqlx::query_scalar("SELECT pg_backend_pid() + 0 * $1")
                        .bind(1)
                        .fetch_one(&mut mine)
                        .await?,
                );
                conn.execute("BEGIN").await?;
            }
            mine.close().await?;
            close_all(holders).await?;
            k.saw(&pids);
            Ok(())
        },
    )
    .await;
}

async fn statements(kit: &Kit) {
    let k = kit.clone();
    kit.check(
        "cached statements over interleaved connections",
        async move {
            let mut conns = several(&k, 4).await?;
            for i in 0..300 {
                let query = sqlx::query_as::<_, (i32, String)>("SELECT $1 + 1, $2::text")
                    .bind(i)
                    .bind(format!("t{i}"));
                assert_eq!(
                    query.fetch_one(&mut conns[i as usize % 4]).await?,
                    (i + 1, format!("t{i}"))
                );
            }
            close_all(conns).await
        },
    )
    .await;
    let k = kit.clone();
    kit.check(
        "more statements than the driver and the pooler keep",
        async move {
            // 100 is what the driver keeps when it isn't asked for more.
            for capacity in [100, 250] {
                let mut conn = options(&k)
                    .statement_cache_capacity(capacity)
                    .connect()
                    .await?;
                for turn in 0..2 {
                    for i in 0..300 {
                        let query = sqlx::query_as::<_, (i32, i32)>(AssertSqlSafe(format!(
                            "SELECT {i}, $1::int"
                        )));
                        assert_eq!(query.bind(turn).fetch_one(&mut conn).await?, (i, turn));
                    }
                }
                conn.clear_cached_statements().await?;
                assert_eq!(count(&mut conn, "nobody").await?, 0);
                conn.close().await?;
            }
            Ok(())
        },
    )
    .await;
    let k = kit.clone();
    kit.check("statements that are not cached", async move {
        let mut conn = connect(&k).await?;
        for i in 0..50 {
            let query = sqlx::query_scalar::<_, i32>("SELECT $1::int")
                .bind(i)
                .persistent(false);
            assert_eq!(query.fetch_one(&mut conn).await?, i);
        }
        Ok(conn.close().await?)
    })
    .await;
    let k = kit.clone();
    kit.check("a statement whose Parse failed", async move {
        let mut conn = connect(&k).await?;
        for _ in 0..3 {
            let query = sqlx::query("SELECT $1::int FROM sqlx_nowhere")
                .bind(1)
                .fetch_all(&mut conn)
                .await;
            assert_eq!(code(query.map(|_| ())), "42P01");
            assert_eq!(count(&mut conn, "nobody").await?, 0);
        }
        Ok(conn.close().await?)
    })
    .await;
}

async fn copies(kit: &Kit) {
    let k = kit.clone();
    kit.check("COPY both ways, from a pool", async move {
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .connect_with(options(&k))
            .await?;
        let text: String = (0..50_000).map(|i| format!("{i}\tnote {i}\\n\n")).collect();
        let mut copy = pool.copy_in_raw("COPY sqlx_copies FROM STDIN").await?;
        for part in text.as_bytes().chunks(7777) {
            copy.send(part).await?;
        }
        assert_eq!(copy.finish().await?, 50_000);
        let out = pool
            .copy_out_raw("COPY (SELECT * FROM sqlx_copies ORDER BY n) TO STDOUT")
            .await?;
        let parts: Vec<_> = out.try_collect().await?;
        assert!(parts.concat() == text.as_bytes());
        pool.close().await;
        Ok(())
    })
    .await;
    let k = kit.clone();
    kit.check(
        "a COPY that the server refuses, and one that the client gives up",
        async move {
            let mut conn = connect(&k).await?;
            conn.execute("TRUNCATE sqlx_copies").await?;
            let mut copy = conn.copy_in_raw("COPY sqlx_copies (n) FROM STDIN").await?;
            copy.send(b"1\nthree\n".as_slice()).await?;
            assert_eq!(code(copy.finish().await), "22P02");
            let mut copy = conn.copy_in_raw("COPY sqlx_copies (n) FROM STDIN").await?;
            copy.send(b"1\n2\n".as_slice()).await?;
            copy.abort("enough").await?;
            let n: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlx_copies")
                .fetch_one(&mut conn)
                .await?;
            assert_eq!(n, 0);
            Ok(conn.close().await?)
        },
    )
    .await;
}

async fn errors(kit: &Kit) {
    let k = kit.clone();
    kit.check("errors carry SQLSTATE and fields", async move {
        let mut conn = connect(&k).await?;
        insert(&mut conn, "unique", 1).await?;
        let error = insert(&mut conn, "unique", 1)
            .await
            .expect_err("no error was raised");
        let fields = error.as_database_error().ok_or("not the server's error")?;
        assert!(fields.is_unique_violation());
        assert_eq!(fields.constraint(), Some("sqlx_things_owner_n_key"));
        assert_eq!(code(conn.execute("SELEKT 1").await), "42601");
        let raise = conn
            .execute("DO $$ BEGIN RAISE 'Ünique' USING ERRCODE = 'AE123', HINT = 'a hint'; END $$")
            .await;
        let error = raise.expect_err("no error was raised");
        let fields = error.as_database_error().ok_or("not the server's error")?;
        let fields = fields.downcast_ref::<sqlx::postgres::PgDatabaseError>();
        assert_eq!(
            (fields.code(), fields.hint(), fields.message()),
            ("AE123", Some("a hint"), "Ünique")
        );
        assert_eq!(count(&mut conn, "unique").await?, 1);
        Ok(conn.close().await?)
    })
    .await;
    let k = kit.clone();
    kit.check("a startup setting is the session's default", async move {
        let options = options(&k)
            .options([("statement_timeout", "300ms")])
            .application_name("sqlx's");
        let mut conn = options.connect().await?;
        assert_eq!(show(&mut conn, "statement_timeout").await?, "300ms");
        assert_eq!(code(conn.execute("SELECT pg_sleep(30)").await), "57014");
        // And last something good: a client that hangs up with an error's ReadyForQuery unread resets the connection.
        assert_eq!(show(&mut conn, "application_name").await?, "sqlx's");
        Ok(conn.close().await?)
    })
    .await;
}

/// One of the many clients: returns the servers that ran its tagged statement.
async fn tagged(kit: Kit, i: usize) -> Result<HashSet<i32>> {
    let (me, mut n, mut pids) = (format!("client {i}"), 0, HashSet::new());
    let mut conn = connect(&kit).await?;
    while kit.goes_on(n, &pids) {
        let query = sqlx::query_as::<_, (String, i32, i32)>(
            "SELECT $1::text, $2::int, pg_backend_pid() FROM pg_sleep($3)",
        );
        let (tag, number, pid) = query
            .bind(me.clone())
            .bind(n)
            .bind(Kit::uneven(i, n))
            .fetch_one(&mut conn)
            .await?;
        assert_eq!((&tag, number), (&me, n));
        pids.insert(pid);
        assert_eq!(insert(&mut conn, &me, n).await?, 1);
        if n % 10 == 0 && kit.blocks {
            let mut transaction = conn.begin().await?;
            let query =
                sqlx::query_as("SELECT n, note FROM sqlx_things WHERE owner = $1 ORDER BY n")
                    .bind(me.clone());
            let rows: Vec<(i32, String)> = query.fetch_all(&mut *transaction).await?;
            transaction.commit().await?;
            assert_eq!(
                rows,
                (0..=n).map(|k| (k, me.repeat(20))).collect::<Vec<_>>()
            );
        }
        n += 1;
    }
    conn.close().await?;
    Ok(pids)
}

/// One of the tasks that share a pool.
async fn pooled(pool: PgPool, i: i32, blocks: bool) -> Result<()> {
    for k in 0..10 {
        let row: (i32, i32) = sqlx::query_as("SELECT $1::int, $2::int")
            .bind(i)
            .bind(k)
            .fetch_one(&pool)
            .await?;
        assert_eq!(row, (i, k));
        if blocks {
            let mut transaction = pool.begin().await?;
            insert(&mut transaction, "pool", i * 10 + k).await?;
            if k % 2 == 0 {
                transaction.commit().await?
            } else {
                transaction.rollback().await?
            }
        }
    }
    Ok(())
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
    kit.check(
        "the driver's own pool, with more tasks than connections",
        async move {
            // Its default size.
            let pool = PgPoolOptions::new().connect_with(options(&k)).await?;
            all((0..20)
                .map(|i| tokio::spawn(pooled(pool.clone(), i, k.blocks)))
                .collect())
            .await?;
            if k.blocks {
                assert_eq!(count(&mut *pool.acquire().await?, "pool").await?, 100);
            }
            pool.close().await;
            Ok(())
        },
    )
    .await;
    let k = kit.clone();
    kit.check("a clean close", async move {
        let pool = PgPoolOptions::new().connect_with(options(&k)).await?;
        pool.execute("SELECT 1").await?;
        pool.close().await;
        assert!(matches!(pool.acquire().await, Err(sqlx::Error::PoolClosed)));
        Ok(())
    })
    .await;
}

async fn sessions(kit: &Kit) {
    let k = kit.clone();
    kit.check("the driver's listener", async move {
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .connect_with(options(&k))
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen("sqlx_news").await?;
        sqlx::query("SELECT pg_notify('sqlx_news', $1)")
            .bind("hello")
            .execute(&pool)
            .await?;
        assert_eq!(listener.recv().await?.payload(), "hello");
        listener.unlisten_all().await?;
        drop(listener);
        pool.close().await;
        Ok(())
    })
    .await;
    let k = kit.clone();
    kit.check(
        "SET and temporary tables last as long as the session",
        async move {
            let mut conn = connect(&k).await?;
            conn.execute(
                "SET search_path = pg_catalog; CREATE TEMP TABLE sqlx_temp AS SELECT 42 AS n",
            )
            .await?;
            assert_eq!(show(&mut conn, "search_path").await?, "pg_catalog");
            let n: i32 = sqlx::query_scalar("SELECT n FROM sqlx_temp")
                .fetch_one(&mut conn)
                .await?;
            assert_eq!(n, 42);
            conn.close().await?;
            // As many as there are servers, so that the one with the search_path is among them.
            let mut conns = several(&k, k.servers).await?;
            for conn in &mut conns {
                assert_eq!(show(conn, "search_path").await?, "\"$user\", public");
            }
            close_all(conns).await
        },
    )
    .await;
}
