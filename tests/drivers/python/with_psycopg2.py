"""psycopg2: everything by simple queries, SQL-level PREPARE, COPY, named cursors, threads and its pool."""

import io
import random
import select
import time

import psycopg2
import psycopg2.errors
import psycopg2.extras
import psycopg2.pool

import kit
from kit import BLOCKS, CLIENTS, DOCUMENT, MEGABYTE, SERVERS, SESSION, check, fails

psycopg2.extras.register_uuid()
WHERE = dict(host=kit.HOST, port=kit.PORT, user=kit.USER, password=kit.PASSWORD, dbname=kit.DATABASE)


def connect(autocommit=not BLOCKS, **more):
    # Statement mode has no transaction blocks, and psycopg2 opens one unless it is told not to.
    conn = psycopg2.connect(**{**WHERE, **more})
    conn.autocommit = autocommit
    return conn


def run(conn, query, *args):
    with conn.cursor() as cursor:
        cursor.execute(query, args or None)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def one(conn, query, *args):
    return run(conn, query, *args)[0]


setup = connect(autocommit=True)
run(setup, "DROP TABLE IF EXISTS psycopg2_things, psycopg2_copies")
run(setup, "CREATE TABLE psycopg2_things (id serial PRIMARY KEY, owner text NOT NULL, n int, note text, UNIQUE (owner, n))")
run(setup, "CREATE TABLE psycopg2_copies (n int, note text)")
setup.close()


@check("connects by SCRAM")
def _():
    conn = connect()
    assert one(conn, "SELECT current_user::text, current_database()::text") == (kit.USER, kit.DATABASE)
    if SESSION:
        assert one(conn, "SELECT pg_backend_pid()") == (conn.info.backend_pid,)
    conn.close()


@check("a wrong password")
def _():
    error = fails(psycopg2.OperationalError, lambda: connect(password="wrong"))
    assert "password authentication failed" in str(error), error


for name, type_, values in kit.VALUES:

    @check(f"parameters: {name}")
    def _(type_=type_, values=values):
        conn = connect()
        for value in values:
            got, null = one(conn, f"SELECT CAST(%s AS {type_}), %s::text", value, None)
            assert (bytes(got) if type_ == "bytea" else got, null) == (value, None), value
        conn.close()


@check("parameters: jsonb, a tuple, an interval")
def _():
    conn = connect()
    assert one(conn, "SELECT %s::jsonb", psycopg2.extras.Json(DOCUMENT)) == (DOCUMENT,)
    assert one(conn, "SELECT 3 IN %s", (1, 2, 3)) == (True,)
    assert one(conn, "SELECT interval '1 day 2 hours'")[0].total_seconds() == 26 * 3600
    conn.close()


@check("a row of 1 MB each way")
def _():
    conn = connect()
    text, raw = "ü" * (MEGABYTE // 2), random.randbytes(MEGABYTE)
    got = one(conn, "SELECT %s::text, %s::bytea", text, raw)
    assert (got[0], bytes(got[1])) == (text, raw)
    conn.close()


@check("many rows")
def _():
    conn = connect()
    rows = run(conn, "SELECT i, repeat('x', i %% 50) FROM generate_series(1, %s) i", 50_000)
    assert len(rows) == 50_000 and all(row == (i, "x" * (i % 50)) for i, row in enumerate(rows, 1))
    conn.close()


if BLOCKS:

    @check("commit, and another connection sees it")
    def _():
        conn, other = connect(), connect(autocommit=True)
        run(conn, "INSERT INTO psycopg2_things (owner, n) VALUES ('commit', 1)")
        assert one(other, "SELECT count(*) FROM psycopg2_things WHERE owner = 'commit'") == (0,)
        conn.commit()
        assert one(other, "SELECT count(*) FROM psycopg2_things WHERE owner = 'commit'") == (1,)
        conn.close(), other.close()

    @check("rollback, also by leaving a block with an exception")
    def _():
        conn = connect()

        def fail():
            with conn:
                run(conn, "INSERT INTO psycopg2_things (owner, n) VALUES ('rollback', 1)")
                raise KeyError

        fails(KeyError, fail)
        run(conn, "INSERT INTO psycopg2_things (owner, n) VALUES ('rollback', 1)")
        conn.rollback()
        assert one(conn, "SELECT count(*) FROM psycopg2_things WHERE owner = 'rollback'") == (0,)
        conn.close()

    @check("an error inside a transaction, and after it")
    def _():
        conn = connect()
        run(conn, "INSERT INTO psycopg2_things (owner, n) VALUES ('error', 1)")
        assert fails(psycopg2.errors.DivisionByZero, lambda: run(conn, "SELECT 1/0")).pgcode == "22012"
        assert fails(psycopg2.errors.InFailedSqlTransaction, lambda: run(conn, "SELECT 1")).pgcode == "25P02"
        conn.rollback()
        assert one(conn, "SELECT count(*) FROM psycopg2_things WHERE owner = 'error'") == (0,)
        conn.close()

    @check("a savepoint")
    def _():
        conn = connect()
        run(conn, "INSERT INTO psycopg2_things (owner, n) VALUES ('save', 1); SAVEPOINT s")
        fails(psycopg2.errors.UniqueViolation, lambda: run(conn, "INSERT INTO psycopg2_things (owner, n) VALUES ('save', 1)"))
        run(conn, "ROLLBACK TO s")
        conn.commit()
        assert one(conn, "SELECT count(*) FROM psycopg2_things WHERE owner = 'save'") == (1,)
        conn.close()

    @check("set_session")
    def _():
        conn = connect()
        conn.set_session(isolation_level="SERIALIZABLE", readonly=True)
        assert one(conn, "SHOW transaction_isolation") == ("serializable",)
        fails(psycopg2.errors.ReadOnlySqlTransaction, lambda: run(conn, "DELETE FROM psycopg2_things"))
        conn.rollback()
        conn.close()

    @check("a named cursor")
    def _():
        conn = connect()
        with conn.cursor("steps") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT i FROM generate_series(1, %s) i", (1000,))
            assert sum(row[0] for row in cursor) == 500500
        conn.close()

    @check("PREPARE and EXECUTE in one transaction")
    def _():
        conn = connect()
        run(conn, "PREPARE psycopg2_plan (int) AS SELECT $1 + 1")
        for i in range(100):
            assert one(conn, "EXECUTE psycopg2_plan (%s)", i) == (i + 1,)
        run(conn, "DEALLOCATE psycopg2_plan")
        conn.commit()
        conn.close()

    @check("two-phase commit")
    def _():
        conn = connect()
        conn.tpc_begin(conn.xid(1, "psycopg2", "x"))
        run(conn, "INSERT INTO psycopg2_things (owner, n) VALUES ('tpc', 1)")
        conn.tpc_prepare()
        conn.tpc_commit()
        assert one(conn, "SELECT count(*) FROM psycopg2_things WHERE owner = 'tpc'") == (1,)
        conn.close()

    @check("statement_timeout in a transaction")
    def _():
        conn = connect()
        run(conn, "SET LOCAL statement_timeout = 50")
        assert fails(psycopg2.errors.QueryCanceled, lambda: run(conn, "SELECT pg_sleep(30)")).pgcode == "57014"
        conn.rollback()
        conn.close()

else:

    @check("a transaction block is refused")
    def _():
        # The driver shows no text of an error that ends the connection.
        conn = connect(autocommit=False)
        fails(psycopg2.OperationalError, lambda: run(conn, "SELECT 1"))
        assert conn.closed


@check("execute_values and execute_batch")
def _():
    conn = connect()
    with conn.cursor() as cursor:
        got = psycopg2.extras.execute_values(
            cursor, "INSERT INTO psycopg2_things (owner, n) VALUES %s RETURNING n", [("many", i) for i in range(500)], fetch=True)
        assert sorted(row[0] for row in got) == list(range(500))
        psycopg2.extras.execute_batch(cursor, "UPDATE psycopg2_things SET note = %s WHERE owner = 'many' AND n = %s", [(f"n{i}", i) for i in range(500)])
    assert one(conn, "SELECT count(*) FROM psycopg2_things WHERE owner = 'many' AND note = 'n' || n") == (500,)
    conn.commit()
    conn.close()


@check("COPY both ways")
def _():
    conn = connect(autocommit=True)
    text = "".join(f"{i}\tnote {i}\\n\n" if i % 7 else f"{i}\t\\N\n" for i in range(50_000))
    with conn.cursor() as cursor:
        cursor.copy_expert("COPY psycopg2_copies FROM STDIN", io.StringIO(text))
        assert cursor.rowcount == 50_000
        out = io.StringIO()
        cursor.copy_expert("COPY (SELECT * FROM psycopg2_copies ORDER BY n) TO STDOUT", out)
    assert out.getvalue() == text
    conn.close()


@check("a COPY that the server refuses, and one whose source fails")
def _():
    class Broken(io.StringIO):
        def read(self, *_):
            raise KeyError("enough")

    conn = connect(autocommit=True)
    run(conn, "TRUNCATE psycopg2_copies")
    with conn.cursor() as cursor:
        bad = io.StringIO("1\tx\nthree\ty\n" + "4\tz\n" * 100_000)
        error = fails(psycopg2.errors.InvalidTextRepresentation, lambda: cursor.copy_expert("COPY psycopg2_copies FROM STDIN", bad))
        assert error.pgcode == "22P02"
        error = fails(psycopg2.errors.QueryCanceled, lambda: cursor.copy_expert("COPY psycopg2_copies FROM STDIN", Broken()))
        assert error.pgcode == "57014"
    assert one(conn, "SELECT count(*) FROM psycopg2_copies") == (0,)
    conn.close()


@check("errors carry SQLSTATE and fields")
def _():
    conn = connect(autocommit=True)
    run(conn, "INSERT INTO psycopg2_things (owner, n) VALUES ('unique', 1)")
    error = fails(psycopg2.IntegrityError, lambda: run(conn, "INSERT INTO psycopg2_things (owner, n) VALUES ('unique', 1)"))
    assert (error.pgcode, error.diag.constraint_name) == ("23505", "psycopg2_things_owner_n_key")
    assert fails(psycopg2.errors.UndefinedTable, lambda: run(conn, "SELECT * FROM nowhere")).pgcode == "42P01"
    assert one(conn, "SELECT 1") == (1,)
    conn.close()


@check("notices")
def _():
    conn = connect(autocommit=True)
    run(conn, "DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
    assert [notice.strip() for notice in conn.notices] == ["NOTICE:  one", "WARNING:  two"]
    conn.close()


@check("cancel from another thread")
def _():
    conn, other = connect(autocommit=True), connect(autocommit=True)

    def work(i):
        if i == 0:
            assert fails(psycopg2.errors.QueryCanceled, lambda: run(conn, "SELECT 'psycopg2 cancel', pg_sleep(30)")).pgcode == "57014"
        else:
            while one(other, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND wait_event = 'PgSleep'", "SELECT 'psycopg2 cancel'%") == (0,):
                time.sleep(0.02)
            conn.cancel()

    kit.in_threads(2, work)
    assert one(conn, "SELECT 1") == (1,)
    conn.close(), other.close()


@check("many clients, each sees its own rows only")
def _():
    seen = [set() for _ in range(CLIENTS)]

    def work(i):
        me, rounds = f"client {i}", 0
        conn = connect(autocommit=True)
        while kit.goes_on(rounds, seen[i]):
            tag, n, pid, _ = one(conn, "SELECT %s, %s, pg_backend_pid(), pg_sleep(%s)", me, rounds, random.random() / 500)
            assert (tag, n) == (me, rounds)
            seen[i].add(pid)
            assert run(conn, "INSERT INTO psycopg2_things (owner, n, note) VALUES (%s, %s, %s)", me, rounds, me * 20) == 1
            if rounds % 10 == 0:
                rows = run(conn, "SELECT n, note FROM psycopg2_things WHERE owner = %s ORDER BY n", me)
                assert rows == [(k, me * 20) for k in range(rounds + 1)]
            rounds += 1
        conn.close()

    kit.in_threads(CLIENTS, work)
    kit.backends.update(*seen)
    assert SESSION or all(len(pids) >= kit.ENOUGH for pids in seen)


if BLOCKS:

    @check("the driver's own pool")
    def _():
        pool = psycopg2.pool.ThreadedConnectionPool(2, 8, **WHERE)

        def work(i):
            for k in range(20):
                conn = pool.getconn(key=i)
                assert one(conn, "SELECT %s, %s", i, k) == (i, k)
                pool.putconn(conn, key=i)

        kit.in_threads(8, work)
        pool.closeall()


if SESSION:

    @check("SET and LISTEN last as long as the session")
    def _():
        conn, other = connect(autocommit=True), connect(autocommit=True)
        run(conn, "SET search_path = pg_catalog; LISTEN psycopg2_news")
        assert one(conn, "SHOW search_path") == ("pg_catalog",)
        run(other, "NOTIFY psycopg2_news, 'hello'")
        while not conn.notifies:
            assert select.select([conn], [], [], 20)[0], "no notification"
            conn.poll()
        assert (conn.notifies[0].payload, conn.notifies[0].pid) == ("hello", other.info.backend_pid)
        conn.close(), other.close()
        # As many as there are servers, so that the one with the search_path is among them.
        conns = [connect() for _ in range(SERVERS)]
        assert all(one(conn, "SHOW search_path") == ('"$user", public',) for conn in conns)
        [conn.close() for conn in conns]


@check("a clean close")
def _():
    conn = connect()
    one(conn, "SELECT 1")
    conn.close()
    fails(psycopg2.InterfaceError, lambda: run(conn, "SELECT 1"))


kit.run()
