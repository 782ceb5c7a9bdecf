"""psycopg 3: plain, server-side binding and prepared statements, pipelines, COPY, cursors, threads."""

import contextlib
import random
import time

import psycopg
from psycopg import sql
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb

import kit
from kit import BLOCKS, CLIENTS, DOCUMENT, MEGABYTE, REFUSED, SERVERS, SESSION, check, fails


def connect(**more):
    # Statement mode has no transaction blocks, and psycopg opens one unless it is told not to.
    where = dict(host=kit.HOST, port=kit.PORT, user=kit.USER, password=kit.PASSWORD, dbname=kit.DATABASE, autocommit=not BLOCKS)
    return psycopg.connect(**{**where, **more})


@contextlib.contextmanager
def several(count, **more):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(**more)) for _ in range(count)]


def one(conn, query, *args, **more):
    return conn.execute(query, args or None, **more).fetchone()


with connect(autocommit=True) as setup:
    setup.execute("SET client_min_messages = warning" if SESSION else "SELECT 1")
    setup.execute("DROP TABLE IF EXISTS psycopg_things, psycopg_copies")
    setup.execute("CREATE TABLE psycopg_things (id serial PRIMARY KEY, owner text NOT NULL, n int, note text, UNIQUE (owner, n))")
    setup.execute("CREATE TABLE psycopg_copies (n int, note text, at timestamptz, raw bytea)")


# ---- connecting -----------------------------------------------------------------------------------------------------


@check("connects by SCRAM")
def _():
    with connect() as conn:
        assert one(conn, "SELECT current_user::text, current_database()::text") == (kit.USER, kit.DATABASE)
        assert conn.info.parameter_status("server_encoding") == "UTF8"
        if SESSION:
            assert one(conn, "SELECT pg_backend_pid()") == (conn.info.backend_pid,)


@check("a wrong password")
def _():
    error = fails(psycopg.OperationalError, lambda: connect(password="wrong"))
    assert "password authentication failed" in str(error), error


@check("a database that does not exist")
def _():
    error = fails(psycopg.OperationalError, lambda: connect(dbname="nowhere"))
    assert 'database "nowhere" does not exist' in str(error), error


# ---- values ---------------------------------------------------------------------------------------------------------


@check("a simple query with several statements")
def _():
    with connect() as conn:
        cursor = conn.execute("SELECT 1, NULL, 'x'; SELECT 2.50; SELECT generate_series(1, 3)")
        assert cursor.fetchall() == [(1, None, "x")]
        assert cursor.nextset() and str(cursor.fetchone()[0]) == "2.50"
        assert cursor.nextset() and [row[0] for row in cursor] == [1, 2, 3]
        assert not cursor.nextset()


def register(kind, make, binary):
    for name, type_, values in kit.VALUES:

        @check(f"{kind}: {name}")
        def _(type_=type_, values=values):
            with connect(cursor_factory=make) as conn:
                for value in values:
                    query = sql.SQL("SELECT CAST(%s AS {}), %s::text IS NULL").format(sql.SQL(type_))
                    cursor = conn.cursor(**binary).execute(query, (value, None))
                    assert cursor.fetchone() == (value, True), value

    @check(f"{kind}: jsonb")
    def _():
        with connect(cursor_factory=make) as conn:
            assert conn.cursor(**binary).execute("SELECT %s::jsonb", (Jsonb(DOCUMENT),)).fetchone() == (DOCUMENT,)

    @check(f"{kind}: a row of 1 MB each way")
    def _():
        text, raw = "ü" * (MEGABYTE // 2), random.randbytes(MEGABYTE)
        with connect(cursor_factory=make) as conn:
            assert conn.cursor(**binary).execute("SELECT %s::text, %s::bytea", (text, raw)).fetchone() == (text, raw)


register("server-side binding", psycopg.Cursor, {})
register("binary results", psycopg.Cursor, {"binary": True})
register("client-side binding", psycopg.ClientCursor, {})


@check("many rows")
def _():
    with connect() as conn:
        rows = conn.execute("SELECT i, repeat('x', i %% 50) FROM generate_series(1, %s) i", (50_000,)).fetchall()
        assert len(rows) == 50_000 and all(row == (i, "x" * (i % 50)) for i, row in enumerate(rows, 1))


# ---- transactions ---------------------------------------------------------------------------------------------------

if BLOCKS:

    @check("a type that the driver looks up, in a transaction of its own")
    def _():
        with connect(autocommit=True) as conn:
            conn.execute("DROP TYPE IF EXISTS psycopg_mood")
            conn.execute("CREATE TYPE psycopg_mood AS ENUM ('sad', 'happy')")
            info = EnumInfo.fetch(conn, "psycopg_mood")
            register_enum(info, conn)
            assert one(conn, "SELECT %s", info.enum.happy) == (info.enum.happy,)
            conn.execute("DROP TYPE psycopg_mood")

    @check("commit, and another connection sees it")
    def _():
        with connect() as conn, connect() as other:
            conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('commit', 1)")
            assert one(other, "SELECT count(*) FROM psycopg_things WHERE owner = 'commit'") == (0,)
            conn.commit()
            assert one(other, "SELECT count(*) FROM psycopg_things WHERE owner = 'commit'") == (1,)

    @check("rollback")
    def _():
        with connect() as conn:
            conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('rollback', 1)")
            conn.rollback()
            assert one(conn, "SELECT count(*) FROM psycopg_things WHERE owner = 'rollback'") == (0,)

    @check("an error inside a transaction, and after it")
    def _():
        with connect() as conn:
            conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('error', 1)")
            fails(psycopg.errors.DivisionByZero, lambda: conn.execute("SELECT 1/0"))
            error = fails(psycopg.errors.InFailedSqlTransaction, lambda: conn.execute("SELECT 1"))
            assert error.sqlstate == "25P02"
            conn.rollback()
            assert one(conn, "SELECT count(*) FROM psycopg_things WHERE owner = 'error'") == (0,)

    @check("savepoints")
    def _():
        with connect(autocommit=True) as conn:
            with conn.transaction():
                conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('outer', 1)")

                def inner():
                    with conn.transaction():
                        conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('outer', 1)")

                fails(psycopg.errors.UniqueViolation, inner)
                with conn.transaction():
                    conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('outer', 2)")
            assert conn.execute("SELECT n FROM psycopg_things WHERE owner = 'outer' ORDER BY n").fetchall() == [(1,), (2,)]

    @check("isolation level, read only, deferrable")
    def _():
        with connect() as conn:
            conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            conn.read_only = True
            fails(psycopg.errors.ReadOnlySqlTransaction, lambda: conn.execute("DELETE FROM psycopg_things"))
            conn.rollback()
            assert one(conn, "SHOW transaction_isolation") == ("serializable",)

    @check("a named cursor")
    def _():
        with connect() as conn, conn.cursor(name="steps") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT i FROM generate_series(1, %s) i", (1000,))
            assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
            cursor.scroll(7)
            assert cursor.fetchone() == (11,)
            assert sum(row[0] for row in cursor) == sum(range(12, 1001))

    @check("two-phase commit")
    def _():
        with connect() as conn:
            for note, end in ("rolled back", conn.tpc_rollback), ("committed", conn.tpc_commit):
                conn.tpc_begin(conn.xid(1, "psycopg", note))
                conn.execute("INSERT INTO psycopg_things (owner, note) VALUES ('tpc', %s)", (note,))
                conn.tpc_prepare()
                end()
            assert conn.tpc_recover() == []
            assert conn.execute("SELECT note FROM psycopg_things WHERE owner = 'tpc'").fetchall() == [("committed",)]

else:

    @check("a transaction block is refused")
    def _():
        with connect(autocommit=False) as conn:
            error = fails(psycopg.Error, lambda: conn.execute("SELECT 1"))
            assert REFUSED in str(error), error


# ---- prepared statements --------------------------------------------------------------------------------------------


@check("prepared from the first execution, over interleaved connections")
def _():
    with several(4, prepare_threshold=1, autocommit=True) as conns:
        for i in range(200):
            conn = conns[i % 4]
            assert one(conn, "SELECT %s::int + 1, %s::text", i, f"t{i}") == (i + 1, f"t{i}")
            assert one(conn, "SELECT %s::text, %s::int * 2", f"u{i}", i) == (f"u{i}", i * 2)


@check("the default threshold of five")
def _():
    with connect() as conn:
        for i in range(50):
            assert one(conn, "SELECT %s::int - 1", i) == (i - 1,)
            conn.commit() if BLOCKS else None


@check("more statements than the driver and the pooler keep")
def _():
    with connect(prepare_threshold=0, autocommit=True) as conn:
        conn.prepared_max = 250
        for turn in range(2):
            for i in range(300):
                assert one(conn, f"SELECT {i}, %s::int", turn) == (i, turn)


@check("a statement whose Parse failed")
def _():
    with connect(prepare_threshold=0, autocommit=True) as conn:
        for _ in range(3):
            fails(psycopg.errors.UndefinedTable, lambda: conn.execute("SELECT %s FROM psycopg_nowhere", (1,)))
            assert one(conn, "SELECT %s::int", 7) == (7,)


@check("DEALLOCATE ALL by the driver's own hand")
def _():
    with connect(prepare_threshold=0, autocommit=True) as conn:
        for i in range(3):
            assert one(conn, "SELECT %s::int", i) == (i,)
            conn.execute("DEALLOCATE ALL")


if BLOCKS:

    @check("one prepared statement goes from server to server")
    def _():
        with connect(prepare_threshold=0, autocommit=True) as mine, several(4) as holders:
            for conn in holders:
                conn.execute("SELECT 1")
            pids = set()
            for conn in holders:
                # In transaction mode all servers are held but the one that this rollback lets go.
                conn.rollback()
                pids.add(one(mine, "SELECT pg_backend_pid(), %s::int", 1)[0])
                conn.execute("SELECT 1")
        kit.saw(pids)


# ---- pipelines ------------------------------------------------------------------------------------------------------


@check("a pipeline")
def _():
    with connect(autocommit=True) as conn, conn.pipeline():
        cursors = [conn.execute("SELECT %s::int, %s::text", (i, "x" * i)) for i in range(300)]
        assert [cursor.fetchone() for cursor in cursors] == [(i, "x" * i) for i in range(300)]


@check("a pipeline with an error, and after it")
def _():
    with connect(autocommit=True) as conn:

        def run():
            with conn.pipeline() as pipeline:
                conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('pipeline', 1)")
                pipeline.sync()
                conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('pipeline', 2)")
                conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('pipeline', 1)")
                conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('pipeline', 3)")

        fails(psycopg.errors.UniqueViolation, run)
        assert conn.execute("SELECT n FROM psycopg_things WHERE owner = 'pipeline'").fetchall() == [(1,)]


@check("executemany, which is a pipeline")
def _():
    with connect(autocommit=True) as conn:
        cursor = conn.cursor()
        cursor.executemany("INSERT INTO psycopg_things (owner, n) VALUES (%s, %s) RETURNING n", [("many", i) for i in range(500)], returning=True)
        got = [cursor.fetchone()[0]]
        while cursor.nextset():
            got.append(cursor.fetchone()[0])
        assert got == list(range(500))


if BLOCKS:

    @check("a pipeline with a transaction in it")
    def _():
        with connect(autocommit=True) as conn, conn.pipeline():
            with conn.transaction():
                conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('piped', 1)")
                conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('piped', 2)")
            assert one(conn, "SELECT count(*) FROM psycopg_things WHERE owner = 'piped'") == (2,)


# ---- COPY -----------------------------------------------------------------------------------------------------------


@check("COPY both ways")
def _():
    rows = [(i, None if i % 7 == 0 else f"note\t{i}\\\n", kit.VALUES[6][2][0], bytes([i % 256])) for i in range(20_000)]
    with connect(autocommit=True) as conn, conn.cursor() as cursor:
        conn.execute("TRUNCATE psycopg_copies")
        with cursor.copy("COPY psycopg_copies FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        assert cursor.rowcount == len(rows)
        with cursor.copy("COPY (SELECT * FROM psycopg_copies ORDER BY n) TO STDOUT") as copy:
            copy.set_types(["int4", "text", "timestamptz", "bytea"])
            assert list(copy.rows()) == rows


@check("binary COPY both ways")
def _():
    with connect(autocommit=True) as conn, conn.cursor() as cursor:
        conn.execute("TRUNCATE psycopg_copies")
        with cursor.copy("COPY psycopg_copies (n, note) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            for i in range(1000):
                copy.write_row((i, f"b{i}"))
        with cursor.copy("COPY (SELECT n, note FROM psycopg_copies ORDER BY n) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == [(i, f"b{i}") for i in range(1000)]


@check("a COPY that the server refuses, and one that the client gives up")
def _():
    with connect(autocommit=True) as conn, conn.cursor() as cursor:
        conn.execute("TRUNCATE psycopg_copies")

        def bad():
            with cursor.copy("COPY psycopg_copies (n) FROM STDIN") as copy:
                copy.write("1\n2\nthree\n")
                copy.write("4\n" * 100_000)

        assert fails(psycopg.errors.InvalidTextRepresentation, bad).sqlstate == "22P02"

        def given_up():
            with cursor.copy("COPY psycopg_copies (n) FROM STDIN") as copy:
                copy.write("1\n")
                raise KeyError("enough")

        fails(KeyError, given_up)
        assert one(conn, "SELECT count(*) FROM psycopg_copies") == (0,)


@check("a COPY TO that is left half read, which the driver cancels")
def _():
    with connect(autocommit=True) as conn, conn.cursor() as cursor:

        def half():
            with cursor.copy("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 20000)) TO STDOUT") as copy:
                assert len(copy.read()) > 0
                raise KeyError("enough")

        fails(KeyError, half)
        assert one(conn, "SELECT 5") == (5,)


# ---- errors, cancels ------------------------------------------------------------------------------------------------


@check("errors carry SQLSTATE and fields")
def _():
    with connect(autocommit=True) as conn:
        conn.execute("INSERT INTO psycopg_things (owner, n) VALUES ('unique', 1)")
        error = fails(psycopg.errors.UniqueViolation, lambda: conn.execute("INSERT INTO psycopg_things (owner, n) VALUES (%s, 1)", ("unique",)))
        assert (error.sqlstate, error.diag.table_name, error.diag.constraint_name) == ("23505", "psycopg_things", "psycopg_things_owner_n_key")
        error = fails(psycopg.errors.SyntaxError, lambda: conn.execute("SELEKT 1"))
        assert (error.sqlstate, error.diag.statement_position) == ("42601", "1")
        error = fails(psycopg.errors.RaiseException, lambda: conn.execute("DO $$ BEGIN RAISE 'Ünique' USING HINT = 'a hint', DETAIL = 'a detail'; END $$"))
        assert (error.sqlstate, error.diag.message_hint, error.diag.message_detail) == ("P0001", "a hint", "a detail")
        assert error.diag.message_primary == "Ünique"
        assert one(conn, "SELECT 1") == (1,)


@check("notices")
def _():
    with connect(autocommit=True) as conn:
        notices = []
        conn.add_notice_handler(lambda diag: notices.append(diag.message_primary))
        conn.execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
        assert notices == ["one", "two"]


@check("cancel from another thread")
def _():
    with connect(autocommit=True) as conn, connect(autocommit=True) as other:

        def work(i):
            if i == 0:
                error = fails(psycopg.errors.QueryCanceled, lambda: conn.execute("SELECT 'psycopg cancel', pg_sleep(30)"))
                assert error.sqlstate == "57014"
            else:
                while one(other, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND wait_event = 'PgSleep'", "SELECT 'psycopg cancel'%") == (0,):
                    time.sleep(0.02)
                conn.cancel_safe()

        kit.in_threads(2, work)
        assert one(conn, "SELECT 1") == (1,)


if BLOCKS:

    @check("cancel of a statement that was prepared on another server")
    def _():
        with connect(prepare_threshold=0, autocommit=True) as mine, several(4) as holders:
            for conn in holders:
                conn.execute("SELECT 1")
            first, second, watcher, _ = holders
            # In transaction mode it is prepared on the server that the first lets go, and runs on the second's, where the
            # pooler has to prepare it first.
            first.rollback()
            mine.execute("SELECT 'psycopg moved', pg_sleep(%s)", (0,))
            first.execute("SELECT 1")
            second.rollback()

            def work(i):
                if i == 0:
                    assert fails(psycopg.errors.QueryCanceled, lambda: mine.execute("SELECT 'psycopg moved', pg_sleep(%s)", (20,)))
                else:
                    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND wait_event = 'PgSleep'"
                    while one(watcher, sleeping, "SELECT 'psycopg moved'%") == (0,):
                        watcher.execute("SELECT pg_stat_clear_snapshot()")
                        time.sleep(0.02)
                    mine.cancel_safe()

            kit.in_threads(2, work)

    @check("statement_timeout in a transaction")
    def _():
        with connect() as conn:
            conn.execute("SET LOCAL statement_timeout = 50")
            assert fails(psycopg.errors.QueryCanceled, lambda: conn.execute("SELECT pg_sleep(30)")).sqlstate == "57014"
            conn.rollback()
            assert one(conn, "SHOW statement_timeout") == ("0",)


# ---- many -----------------------------------------------------------------------------------------------------------


@check("many clients, each sees its own rows only")
def _():
    seen = [set() for _ in range(CLIENTS)]

    def work(i):
        me, rounds = f"client {i}", 0
        with connect(prepare_threshold=1, autocommit=True) as conn:
            while kit.goes_on(rounds, seen[i]):
                tag, n, pid, _ = one(conn, "SELECT %s::text, %s::int, pg_backend_pid(), pg_sleep(%s)", me, rounds, random.random() / 500)
                assert (tag, n) == (me, rounds)
                seen[i].add(pid)
                conn.execute("INSERT INTO psycopg_things (owner, n, note) VALUES (%s, %s, %s)", (me, rounds, me * 20))
                if rounds % 10 == 0 and BLOCKS:
                    with conn.transaction():
                        rows = conn.execute("SELECT n, note FROM psycopg_things WHERE owner = %s ORDER BY n", (me,)).fetchall()
                    assert rows == [(k, me * 20) for k in range(rounds + 1)]
                rounds += 1
            fails(psycopg.errors.UniqueViolation, lambda: conn.execute("INSERT INTO psycopg_things (owner, n) VALUES (%s, 0)", (me,)))

    kit.in_threads(CLIENTS, work)
    for pids in seen:
        kit.saw(pids)


@check("connections that come and go")
def _():
    def work(i):
        for k in range(10):
            with connect() as conn:
                assert one(conn, "SELECT %s::int", i * 100 + k) == (i * 100 + k,)

    kit.in_threads(8, work)


# ---- a session's own ------------------------------------------------------------------------------------------------

if SESSION:

    @check("SET, temporary tables, LISTEN and advisory locks last as long as the session")
    def _():
        with connect(autocommit=True) as conn, connect(autocommit=True) as other:
            conn.execute("SET search_path = pg_catalog")
            conn.execute("CREATE TEMP TABLE psycopg_temp AS SELECT 42 AS n")
            conn.execute("SELECT pg_advisory_lock(42)")
            conn.execute("LISTEN psycopg_news")
            assert one(conn, "SHOW search_path") == ("pg_catalog",) and one(conn, "SELECT n FROM psycopg_temp") == (42,)
            assert one(other, "SELECT pg_try_advisory_lock(42)") == (False,)
            other.execute("NOTIFY psycopg_news, 'hello'")
            note = next(conn.notifies(timeout=20))
            assert (note.payload, note.pid) == ("hello", other.info.backend_pid)

    @check("what a session left is gone for the next")
    def _():
        # As many as there are servers, so that the one of the check above is among them.
        with several(SERVERS, autocommit=True) as conns:
            for conn in conns:
                assert one(conn, "SHOW search_path") == ('"$user", public',)
                assert one(conn, "SELECT to_regclass('pg_temp.psycopg_temp')") == (None,)
            assert one(conns[0], "SELECT pg_try_advisory_lock(42)") == (True,)


if kit.CONSOLE:

    @check("the console: plain, with parameters, prepared, in binary; errors with their codes")
    def _():
        with connect(dbname=kit.CONSOLE, autocommit=True) as conn:
            cursor = conn.execute("SHOW POOLS")
            assert [column.name for column in cursor.description][:3] == ["database", "user", "cl_active"]
            assert "pgbouncer" in [row[0] for row in cursor]
            for binary in (False, True):
                for prepare in (False, True, True):
                    query = "SHOW DATABASES WHERE name = %s AND paused = %s ORDER BY name LIMIT %s"
                    cursor = conn.execute(query, [kit.DATABASE, 0, 1], binary=binary, prepare=prepare)
                    names = [column.name for column in cursor.description]
                    (row,) = cursor.fetchall()
                    row = dict(zip(names, row))
                    assert (row["name"], row["paused"], row["host"]) == (kit.DATABASE, 0, "127.0.0.1"), row
                stats = conn.execute("SHOW STATS WHERE database = %s", [kit.DATABASE], binary=binary).fetchone()
                assert stats[0] == kit.DATABASE and stats[2] > 0, stats
            for command in ("RECONNECT", "ENABLE"):
                assert conn.execute(f"{command} {kit.DATABASE}").statusmessage == command
            error = fails(psycopg.errors.InvalidCatalogName, lambda: conn.execute("PAUSE nowhere"))
            assert "no such database" in str(error), error
            fails(psycopg.errors.UndefinedColumn, lambda: conn.execute("SHOW POOLS WHERE databse = %s", ["x"]))
            assert conn.execute("SHOW VERSION").fetchone()[0].startswith("Aether")


@check("a clean close")
def _():
    conn = connect()
    one(conn, "SELECT 1")
    conn.close()
    assert conn.closed
    fails(psycopg.OperationalError, lambda: conn.execute("SELECT 1"))


kit.run()
