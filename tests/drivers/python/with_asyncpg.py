"""asyncpg: its statement cache on, pool, cursors, COPY of records, executemany, timeouts."""

import asyncio
import contextlib
import json
import random

import asyncpg

import kit
from kit import BLOCKS, CLIENTS, DOCUMENT, MEGABYTE, REFUSED, SERVERS, SESSION, check

WHERE = dict(host=kit.HOST, port=kit.PORT, user=kit.USER, password=kit.PASSWORD, database=kit.DATABASE)


@contextlib.asynccontextmanager
async def connect(**more):
    conn = await asyncpg.connect(**{**WHERE, **more})
    try:
        yield conn
    finally:
        await conn.close(timeout=10)


@contextlib.asynccontextmanager
async def several(count):
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect()) for _ in range(count)]


async def afails(kind, awaitable):
    try:
        await awaitable
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


@check("connects by SCRAM, and makes its tables")
async def _():
    async with connect() as conn:
        assert tuple(await conn.fetchrow("SELECT current_user::text, current_database()::text")) == (kit.USER, kit.DATABASE)
        if SESSION:
            assert await conn.fetchval("SELECT pg_backend_pid()") == conn.get_server_pid()
        await conn.execute("DROP TABLE IF EXISTS asyncpg_things; DROP TABLE IF EXISTS asyncpg_copies")
        await conn.execute("CREATE TABLE asyncpg_things (id serial PRIMARY KEY, owner text NOT NULL, n int, note text, UNIQUE (owner, n))")
        await conn.execute("CREATE TABLE asyncpg_copies (n int, note text, at timestamptz, raw bytea)")


@check("a wrong password is 28P01, an unknown database 3D000")
async def _():
    assert (await afails(asyncpg.InvalidPasswordError, asyncpg.connect(**{**WHERE, "password": "wrong"}))).sqlstate == "28P01"
    assert (await afails(asyncpg.InvalidCatalogNameError, asyncpg.connect(**{**WHERE, "database": "nowhere"}))).sqlstate == "3D000"


@check("a simple query with several statements")
async def _():
    async with connect() as conn:
        assert await conn.execute("SELECT 1; SELECT generate_series(1, 3)") == "SELECT 3"


for name, type_, values in kit.VALUES:

    @check(f"parameters: {name}")
    async def _(type_=type_, values=values):
        async with connect() as conn:
            for value in values:
                assert tuple(await conn.fetchrow(f"SELECT $1::{type_}, $2::text", value, None)) == (value, None), value


@check("parameters: jsonb, by a codec of the client's")
async def _():
    async with connect() as conn:
        assert json.loads(await conn.fetchval("SELECT $1::jsonb", json.dumps(DOCUMENT))) == DOCUMENT
        await conn.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        assert await conn.fetchval("SELECT $1::jsonb", DOCUMENT) == DOCUMENT


@check("a row of 1 MB each way")
async def _():
    async with connect() as conn:
        text, raw = "ü" * (MEGABYTE // 2), random.randbytes(MEGABYTE)
        assert tuple(await conn.fetchrow("SELECT $1::text, $2::bytea", text, raw)) == (text, raw)


@check("many rows")
async def _():
    async with connect() as conn:
        rows = await conn.fetch("SELECT i, repeat('x', i % 50) FROM generate_series(1, $1) i", 50_000)
        assert len(rows) == 50_000 and all(tuple(row) == (i, "x" * (i % 50)) for i, row in enumerate(rows, 1))


@check("types that the driver looks up: enum, composite, array of it, domain")
async def _():
    async with connect() as conn:
        await conn.execute("DROP TABLE IF EXISTS asyncpg_moods; DROP TYPE IF EXISTS asyncpg_pair; DROP TYPE IF EXISTS asyncpg_mood; DROP DOMAIN IF EXISTS asyncpg_small")
        await conn.execute("CREATE TYPE asyncpg_mood AS ENUM ('sad', 'happy')")
        await conn.execute("CREATE TYPE asyncpg_pair AS (mood asyncpg_mood, n int)")
        await conn.execute("CREATE DOMAIN asyncpg_small AS int CHECK (value < 10)")
        assert await conn.fetchval("SELECT $1::asyncpg_mood[]", ["sad", "happy"]) == ["sad", "happy"]
        assert tuple(await conn.fetchval("SELECT $1::asyncpg_pair", ("happy", 3))) == ("happy", 3)
        assert await conn.fetchval("SELECT $1::asyncpg_small", 3) == 3
        await afails(asyncpg.CheckViolationError, conn.fetchval("SELECT $1::asyncpg_small", 30))


if BLOCKS:

    @check("commit, rollback, and what another connection sees")
    async def _():
        async with connect() as conn, connect() as other:
            count = "SELECT count(*) FROM asyncpg_things WHERE owner = $1"
            async with conn.transaction():
                await conn.execute("INSERT INTO asyncpg_things (owner, n) VALUES ('commit', $1)", 1)
                assert await other.fetchval(count, "commit") == 0
            assert await other.fetchval(count, "commit") == 1
            transaction = conn.transaction()
            await transaction.start()
            await conn.execute("INSERT INTO asyncpg_things (owner, n) VALUES ('rollback', $1)", 1)
            await transaction.rollback()
            assert await conn.fetchval(count, "rollback") == 0

    @check("an error inside a transaction, and after it")
    async def _():
        async with connect() as conn:
            transaction = conn.transaction()
            await transaction.start()
            assert (await afails(asyncpg.DivisionByZeroError, conn.fetchval("SELECT 1/$1::int", 0))).sqlstate == "22012"
            assert (await afails(asyncpg.InFailedSQLTransactionError, conn.fetchval("SELECT 1"))).sqlstate == "25P02"
            await transaction.rollback()
            assert await conn.fetchval("SELECT 1") == 1

    @check("nested transactions are savepoints")
    async def _():
        async with connect() as conn:
            insert = "INSERT INTO asyncpg_things (owner, n) VALUES ('nested', $1)"

            async def inner():
                async with conn.transaction():
                    await conn.execute(insert, 2)
                    await conn.execute(insert, 1)

            async with conn.transaction(isolation="serializable"):
                await conn.execute(insert, 1)
                await afails(asyncpg.UniqueViolationError, inner())
                await conn.execute(insert, 3)
            assert [r["n"] for r in await conn.fetch("SELECT n FROM asyncpg_things WHERE owner = 'nested' ORDER BY n")] == [1, 3]

    @check("cursors, two at a time")
    async def _():
        async with connect() as conn, conn.transaction():
            one = await conn.cursor("SELECT i FROM generate_series(1, $1) i", 100)
            assert [r[0] for r in await one.fetch(3)] == [1, 2, 3]
            assert sum([r[0] async for r in conn.cursor("SELECT i FROM generate_series(1, 1000) i", prefetch=70)]) == 500500
            await one.forward(5)
            assert (await one.fetchrow())[0] == 9

    @check("a prepared statement over several transactions")
    async def _():
        async with connect() as conn:
            statement = await conn.prepare("SELECT $1::int + 1")
            for i in range(50):
                async with conn.transaction():
                    assert await statement.fetchval(i) == i + 1

    @check("one prepared statement goes from server to server")
    async def _():
        async with several(5) as (mine, *holders):
            statement = await mine.prepare("SELECT pg_backend_pid()")
            # The driver sends no Sync behind a prepare: that comes, and the server goes, with an execution.
            await statement.fetchval()
            for conn in holders:
                await conn.execute("BEGIN; SELECT 1")
            pids = set()
            for conn in holders:
                # In transaction mode all servers are held but the one that this rollback lets go.
                await conn.execute("ROLLBACK")
                pids.add(await statement.fetchval())
                await conn.execute("BEGIN; SELECT 1")
        kit.saw(pids)

else:

    @check("a transaction block is refused")
    async def _():
        async with connect() as conn:
            assert REFUSED in str(await afails(asyncpg.PostgresError, conn.transaction().start()))


@check("cached statements over interleaved connections")
async def _():
    async with several(4) as conns:
        for i in range(300):
            conn = conns[i % 4]
            assert tuple(await conn.fetchrow("SELECT $1::int + 1, $2::text", i, f"t{i}")) == (i + 1, f"t{i}")
            assert tuple(await conn.fetchrow("SELECT $1::text, $2::int * 2", f"u{i}", i)) == (f"u{i}", i * 2)


@check("more statements than the driver and the pooler keep")
async def _():
    async with connect(statement_cache_size=250) as conn:
        for turn in range(2):
            for i in range(300):
                assert tuple(await conn.fetchrow(f"SELECT {i}, $1::int", turn)) == (i, turn)


@check("a statement whose result type changes")
async def _():
    async with connect() as conn, connect() as other:
        await conn.execute("DROP TABLE IF EXISTS asyncpg_changing; CREATE TABLE asyncpg_changing AS SELECT 1 AS n")
        assert tuple(await conn.fetchrow("SELECT * FROM asyncpg_changing")) == (1,)
        await other.execute("ALTER TABLE asyncpg_changing ADD COLUMN note text DEFAULT 'new'")
        # Outside of a transaction the driver or the pooler prepares it anew.
        assert tuple(await conn.fetchrow("SELECT * FROM asyncpg_changing")) == (1, "new")


@check("reload_schema_state, and a pool's reset of its connections")
async def _():
    async with asyncpg.create_pool(**WHERE, min_size=1, max_size=3) as pool:
        for i in range(20):
            async with pool.acquire() as conn:
                assert await conn.fetchval("SELECT $1::int", i) == i
                await conn.reload_schema_state()


@check("executemany")
async def _():
    async with connect() as conn:
        insert = "INSERT INTO asyncpg_things (owner, n) VALUES ($1, $2)"
        await conn.executemany(insert, [("many", i) for i in range(2000)])
        assert await conn.fetchval("SELECT count(*) FROM asyncpg_things WHERE owner = 'many'") == 2000
        # All or nothing: what came before the error is gone, too.
        await afails(asyncpg.UniqueViolationError, conn.executemany(insert, [("more", 1), ("more", 2), ("many", 5), ("more", 3)]))
        assert await conn.fetchval("SELECT count(*) FROM asyncpg_things WHERE owner = 'more'") == 0
        rows = await conn.fetchmany("INSERT INTO asyncpg_things (owner, n) VALUES ($1, $2) RETURNING n", [("got", i) for i in range(100)])
        assert [r[0] for r in rows] == list(range(100))


@check("COPY of records both ways")
async def _():
    records = [(i, None if i % 7 == 0 else f"note\t{i}", kit.VALUES[6][2][0], bytes([i % 256])) for i in range(20_000)]
    async with connect() as conn:
        assert await conn.copy_records_to_table("asyncpg_copies", records=records) == "COPY 20000"
        assert [tuple(r) for r in await conn.fetch("SELECT * FROM asyncpg_copies ORDER BY n")] == records
        out = bytearray()

        async def take(data):
            out.extend(data)

        await conn.copy_from_query("SELECT n FROM asyncpg_copies WHERE n < $1 ORDER BY n", 1000, output=take)
        assert out.decode().split() == [str(i) for i in range(1000)]


@check("a COPY that fails at the client's side, and at the server's")
async def _():
    async with connect() as conn:
        await conn.execute("TRUNCATE asyncpg_copies")

        async def broken():
            yield b"1\n2\n"
            raise KeyError("enough")

        await afails(KeyError, conn.copy_to_table("asyncpg_copies", source=broken(), columns=["n"]))

        async def bad():
            yield b"1\nthree\n"
            for _ in range(100):
                yield b"4\n" * 10_000

        await afails(asyncpg.InvalidTextRepresentationError, conn.copy_to_table("asyncpg_copies", source=bad(), columns=["n"]))
        assert await conn.fetchval("SELECT count(*) FROM asyncpg_copies") == 0


@check("errors carry SQLSTATE and fields")
async def _():
    async with connect() as conn:
        insert = "INSERT INTO asyncpg_things (owner, n) VALUES ('unique', $1)"
        await conn.execute(insert, 1)
        error = await afails(asyncpg.UniqueViolationError, conn.execute(insert, 1))
        assert (error.sqlstate, error.constraint_name) == ("23505", "asyncpg_things_owner_n_key")
        for _ in range(3):
            assert (await afails(asyncpg.UndefinedTableError, conn.fetch("SELECT $1::int FROM asyncpg_nowhere", 1))).sqlstate == "42P01"
        assert (await afails(asyncpg.PostgresSyntaxError, conn.execute("SELEKT 1"))).sqlstate == "42601"
        error = await afails(asyncpg.RaiseError, conn.execute("DO $$ BEGIN RAISE 'Ünique' USING HINT = 'a hint'; END $$"))
        assert (error.sqlstate, error.hint, error.message) == ("P0001", "a hint", "Ünique")
        assert await conn.fetchval("SELECT 1") == 1


@check("a timeout, which the driver cancels")
async def _():
    async with connect() as conn:
        for _ in range(3):
            await afails(asyncio.TimeoutError, conn.fetchval("SELECT pg_sleep(30)", timeout=0.1))
            assert await conn.fetchval("SELECT $1::int", 5) == 5


@check("a cancelled task, whose query the driver cancels")
async def _():
    async with connect() as conn, connect() as other:
        task = asyncio.ensure_future(conn.fetchval("SELECT 'asyncpg cancel', pg_sleep(30)"))
        active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE $1 AND wait_event = 'PgSleep'"
        while await other.fetchval(active, "SELECT 'asyncpg cancel'%") == 0:
            await asyncio.sleep(0.02)
        task.cancel()
        await afails(asyncio.CancelledError, task)
        assert await conn.fetchval("SELECT 5") == 5
        assert await other.fetchval(active, "SELECT 'asyncpg cancel'%") == 0


@check("many clients, each sees its own rows only")
async def _():
    async def work(i):
        me, rounds, pids = f"client {i}", 0, set()
        async with connect() as conn:
            while kit.goes_on(rounds, pids):
                tag, n, pid, _ = await conn.fetchrow("SELECT $1::text, $2::int, pg_backend_pid(), pg_sleep($3)", me, rounds, random.random() / 500)
                assert (tag, n) == (me, rounds)
                pids.add(pid)
                await conn.execute("INSERT INTO asyncpg_things (owner, n, note) VALUES ($1, $2, $3)", me, rounds, me * 20)
                if rounds % 10 == 0 and BLOCKS:
                    async with conn.transaction():
                        rows = await conn.fetch("SELECT n, note FROM asyncpg_things WHERE owner = $1 ORDER BY n", me)
                    assert [tuple(row) for row in rows] == [(k, me * 20) for k in range(rounds + 1)]
                rounds += 1
            await afails(asyncpg.UniqueViolationError, conn.execute("INSERT INTO asyncpg_things (owner, n) VALUES ($1, 0)", me))
        return pids

    for pids in await asyncio.gather(*(work(i) for i in range(CLIENTS))):
        kit.saw(pids)


@check("the driver's own pool, with more tasks than connections")
async def _():
    async with asyncpg.create_pool(**WHERE, min_size=4, max_size=8) as pool:

        async def work(i):
            for k in range(10):
                assert tuple(await pool.fetchrow("SELECT $1::int, $2::int", i, k)) == (i, k)

        await asyncio.gather(*(work(i) for i in range(20)))


if SESSION:

    @check("SET, temporary tables, LISTEN last as long as the session")
    async def _():
        async with connect() as conn, connect() as other:
            got = asyncio.get_running_loop().create_future()
            await conn.execute("SET search_path = pg_catalog")
            await conn.execute("CREATE TEMP TABLE asyncpg_temp AS SELECT 42 AS n")
            await conn.add_listener("asyncpg_news", lambda _, pid, channel, payload: got.set_result((pid, channel, payload)))
            assert await conn.fetchval("SHOW search_path") == "pg_catalog"
            assert await conn.fetchval("SELECT n FROM asyncpg_temp") == 42
            await other.execute("SELECT pg_notify($1, $2)", "asyncpg_news", "hello")
            assert await asyncio.wait_for(got, 20) == (other.get_server_pid(), "asyncpg_news", "hello")
            await conn.remove_listener("asyncpg_news", lambda *_: None)
        # As many as there are servers, so that the one with the search_path is among them.
        async with several(SERVERS) as conns:
            for conn in conns:
                assert await conn.fetchval("SHOW search_path") == '"$user", public'


@check("a startup setting is the session's default")
async def _():
    async with connect(server_settings={"application_name": "asyncpg's", "statement_timeout": "77s"}) as conn:
        assert await conn.fetchval("SHOW application_name") == "asyncpg's"
        assert await conn.fetchval("SHOW statement_timeout") == "77s"


@check("a clean close")
async def _():
    async with connect() as conn:
        await conn.fetchval("SELECT 1")
    assert conn.is_closed()
    await afails(asyncpg.InterfaceError, conn.fetchval("SELECT 1"))


kit.run()
