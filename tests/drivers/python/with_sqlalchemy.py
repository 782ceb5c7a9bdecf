"""SQLAlchemy 2: Core and ORM over psycopg, and over asyncpg by asyncio; its pools, pre-ping, savepoints, bulk inserts."""

import asyncio
import contextlib
import datetime
import decimal
import random
import threading
import uuid

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

import kit
from kit import BLOCKS, CLIENTS, DOCUMENT, MEGABYTE, REFUSED, check, fails

# Statement mode has no transaction blocks, and SQLAlchemy opens one unless it is told not to; over psycopg also to look for
# the type hstore.
ISOLATION = {} if BLOCKS else {"isolation_level": "AUTOCOMMIT"}
NO_LOOKUP = {} if BLOCKS else {"use_native_hstore": False}


def url(driver, **more):
    where = dict(username=kit.USER, password=kit.PASSWORD, host=kit.HOST, port=kit.PORT, database=kit.DATABASE)
    return sa.URL.create(f"postgresql+{driver}", **{**where, **more})


class Base(orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "sqlalchemy_authors"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(200), unique=True)
    kind: orm.Mapped[str] = orm.mapped_column(sa.Enum("poet", "clerk", name="sqlalchemy_kind"))
    born: orm.Mapped[datetime.datetime | None] = orm.mapped_column(sa.DateTime(timezone=True))
    wage: orm.Mapped[decimal.Decimal | None] = orm.mapped_column(sa.Numeric(30, 10))
    height: orm.Mapped[float | None]
    photo: orm.Mapped[bytes | None]
    tags: orm.Mapped[list[str] | None] = orm.mapped_column(pg.ARRAY(sa.Text))
    scores: orm.Mapped[list[int] | None] = orm.mapped_column(pg.ARRAY(sa.Integer))
    extra: orm.Mapped[dict | None] = orm.mapped_column(pg.JSONB)
    key: orm.Mapped[uuid.UUID | None]
    books: orm.Mapped[list["Book"]] = orm.relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "sqlalchemy_books"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str]
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("sqlalchemy_authors.id"))
    author: orm.Mapped[Author] = orm.relationship(back_populates="books")


VALUES = dict(
    kind="poet", born=datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, datetime.timezone.utc), wage=decimal.Decimal("12345678901234567890.0123456789"),
    height=0.1, photo=bytes(range(256)), tags=["a", None, 'q"u,o{te'], scores=[1, None, -3], extra=DOCUMENT, key=uuid.UUID(int=7))

engine = sa.create_engine(url("psycopg"), **ISOLATION, **NO_LOOKUP)
# The default pool keeps five connections and has ten more at times: with both engines' that would be all servers and more.
async_engine = create_async_engine(url("asyncpg"), pool_size=4, max_overflow=0, **ISOLATION)


def session():
    return orm.Session(engine)


AsyncSession = async_sessionmaker(async_engine)


@check("psycopg: connects, drops and creates the tables")
def _():
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    # Once more: it looks whether they are there.
    Base.metadata.create_all(engine)
    assert sa.inspect(engine).has_table("sqlalchemy_books")


@check("psycopg: reflection")
def _():
    columns = {c["name"] for c in sa.inspect(engine).get_columns("sqlalchemy_authors")}
    assert columns == {c.name for c in Author.__table__.columns}
    table = sa.Table("sqlalchemy_books", sa.MetaData(), autoload_with=engine)
    assert [fk.target_fullname for fk in table.foreign_keys] == ["sqlalchemy_authors.id"]


@check("psycopg: a wrong password")
def _():
    error = fails(sa.exc.OperationalError, lambda: sa.create_engine(url("psycopg", password="wrong")).connect())
    assert "password authentication failed" in str(error)


@check("psycopg: objects of every type come back as they went")
def _():
    with session() as s:
        s.add(Author(name="typed", **VALUES))
        s.add(Author(name="nulls", kind="clerk"))
        s.commit()
    with session() as s:
        author = s.scalars(sa.select(Author).where(Author.name == "typed")).one()
        assert {name: getattr(author, name) for name in VALUES} == VALUES
        author = s.scalars(sa.select(Author).where(Author.name == "nulls")).one()
        assert [getattr(author, name) for name in VALUES] == ["clerk"] + [None] * (len(VALUES) - 1)


@check("psycopg: relations, eager and lazy, update and delete")
def _():
    with session() as s:
        s.add(Author(name="writer", kind="poet", books=[Book(title=f"volume {i}") for i in range(20)]))
        s.commit()
    with session() as s:
        author = s.scalars(sa.select(Author).options(orm.selectinload(Author.books)).where(Author.name == "writer")).one()
        assert len(author.books) == 20
        author.books[3].title = "changed"
        del author.books[10:]
        s.commit()
        assert s.scalar(sa.select(sa.func.count()).select_from(Book).join(Author).where(Author.name == "writer")) == 10
        assert s.scalars(sa.select(Book.title).where(Book.title == "changed")).all() == ["changed"]


@check("psycopg: bulk insert, a thousand rows with their keys")
def _():
    with session() as s:
        keys = s.scalars(sa.insert(Author).returning(Author.id, sort_by_parameter_order=True), [{"name": f"bulk {i}", "kind": "clerk"} for i in range(1000)]).all()
        s.commit()
        names = dict(s.execute(sa.select(Author.id, Author.name).where(Author.id.in_(keys))).tuples().all())
        assert [names[key] for key in keys] == [f"bulk {i}" for i in range(1000)]


if BLOCKS:

    @check("psycopg: commit, rollback, savepoint")
    def _():
        with session() as s:
            s.add(Author(name="kept", kind="poet"))
            s.flush()
            fails(sa.exc.IntegrityError, lambda: add_twice(s))
            s.commit()
        with session() as s:
            s.add(Author(name="lost", kind="poet"))
            s.flush()
            s.rollback()
            assert s.scalars(sa.select(Author.name).where(Author.name.in_(["kept", "lost"]))).all() == ["kept"]

    def add_twice(s):
        with s.begin_nested():
            s.execute(sa.insert(Author).values(name="kept", kind="clerk"))

    @check("psycopg: an error, and the session after its rollback")
    def _():
        with session() as s:
            error = fails(sa.exc.DataError, lambda: s.execute(sa.text("SELECT 1/0")))
            assert error.orig.sqlstate == "22012"
            assert fails(sa.exc.InternalError, lambda: s.execute(sa.text("SELECT 1"))).orig.sqlstate == "25P02"
            s.rollback()
            assert s.scalar(sa.text("SELECT 1")) == 1

    @check("psycopg: a streamed result (a cursor on the server)")
    def _():
        with engine.connect().execution_options(yield_per=100) as conn:
            assert sum(conn.scalars(sa.text("SELECT i FROM generate_series(1, 5000) i"))) == 12502500

    @check("psycopg: two-phase commit")
    def _():
        with orm.Session(engine, twophase=True) as s:
            s.add(Author(name="two phases", kind="poet"))
            s.commit()
            assert s.scalar(sa.select(sa.func.count()).where(Author.name == "two phases")) == 1

else:

    @check("psycopg: a transaction block is refused")
    def _():
        # Already what the engine asks to get to know the server.
        assert REFUSED in str(fails(sa.exc.DBAPIError, sa.create_engine(url("psycopg")).connect))


@check("psycopg: a row of 1 MB each way")
def _():
    with engine.connect() as conn:
        text = "ü" * (MEGABYTE // 2)
        assert conn.scalar(sa.select(sa.literal(text, sa.Text))) == text


@check("psycopg: errors are mapped, with SQLSTATE")
def _():
    with session() as s:
        s.add(Author(name="typed", kind="poet"))
        error = fails(sa.exc.IntegrityError, s.commit)
        assert (error.orig.sqlstate, error.orig.diag.constraint_name) == ("23505", "sqlalchemy_authors_name_key")
        s.rollback()
        assert fails(sa.exc.ProgrammingError, lambda: s.execute(sa.text("SELECT * FROM nowhere"))).orig.sqlstate == "42P01"


@check("psycopg: many threads share an engine's pool, with pre-ping")
def _():
    shared = sa.create_engine(url("psycopg"), pool_pre_ping=True, pool_size=6, max_overflow=2, **ISOLATION, **NO_LOOKUP)
    pids, lock = set(), threading.Lock()

    def work(i):
        for k in range(20):
            with orm.Session(shared) as s:
                tag, n, pid = s.execute(sa.select(sa.literal(f"thread {i}"), sa.literal(k), sa.func.pg_backend_pid())).one()
                assert (tag, n) == (f"thread {i}", k)
                s.add(Author(name=f"thread {i} {k}", kind="clerk", extra={"thread": i}))
                s.commit()
                assert s.scalar(sa.select(sa.func.count()).where(Author.name.like(f"thread {i} %"))) == k + 1
            with lock:
                pids.add(pid)

    kit.in_threads(CLIENTS, work)
    shared.dispose()
    kit.backends.update(pids)


@check("asyncpg: objects of every type come back as they went")
async def _():
    async with AsyncSession() as s:
        s.add(Author(name="async typed", **VALUES))
        await s.commit()
    async with AsyncSession() as s:
        author = (await s.scalars(sa.select(Author).where(Author.name == "async typed"))).one()
        assert {name: getattr(author, name) for name in VALUES} == VALUES


@check("asyncpg: relations, update and delete")
async def _():
    async with AsyncSession() as s:
        s.add(Author(name="async writer", kind="poet", books=[Book(title=f"async {i}") for i in range(20)]))
        await s.commit()
    async with AsyncSession() as s:
        author = (await s.scalars(sa.select(Author).options(orm.selectinload(Author.books)).where(Author.name == "async writer"))).one()
        author.height = 1.5
        await s.delete(author.books[0])
        await s.commit()
        assert await s.scalar(sa.select(sa.func.count()).where(Book.title.like("async %"))) == 19


@check("asyncpg: bulk insert")
async def _():
    async with AsyncSession() as s:
        await s.execute(sa.insert(Author), [{"name": f"async bulk {i}", "kind": "clerk"} for i in range(1000)])
        await s.commit()
        assert await s.scalar(sa.select(sa.func.count()).where(Author.name.like("async bulk %"))) == 1000


if BLOCKS:

    @check("asyncpg: rollback, savepoint, error and after it")
    async def _():
        async with AsyncSession() as s:
            s.add(Author(name="async kept", kind="poet"))
            await s.flush()
            try:
                async with s.begin_nested():
                    await s.execute(sa.insert(Author).values(name="async kept", kind="clerk"))
                raise AssertionError("no error")
            except sa.exc.IntegrityError as error:
                assert error.orig.sqlstate == "23505"
            await s.commit()
        async with AsyncSession() as s:
            s.add(Author(name="async lost", kind="poet"))
            await s.flush()
            await s.rollback()
            assert (await s.scalars(sa.select(Author.name).where(Author.name.in_(["async kept", "async lost"])))).all() == ["async kept"]

    @check("asyncpg: one prepared statement goes from server to server")
    async def _():
        alone = create_async_engine(url("asyncpg"), poolclass=sa.NullPool)
        where = sa.select(sa.func.pg_backend_pid(), sa.literal("prepared"))
        pids = set()
        async with contextlib.AsyncExitStack() as stack:
            mine, *holders = [await stack.enter_async_context(alone.connect()) for _ in range(5)]
            await mine.execution_options(isolation_level="AUTOCOMMIT")
            for conn in holders:
                await conn.execute(sa.text("SELECT 1"))
            for conn in holders:
                # In transaction mode all servers are held but the one that this rollback lets go.
                await conn.rollback()
                pids.add((await mine.execute(where)).one()[0])
                await conn.execute(sa.text("SELECT 1"))
        kit.saw(pids)

    @check("asyncpg: a streamed result")
    async def _():
        async with async_engine.connect() as conn:
            result = await conn.stream_scalars(sa.text("SELECT i FROM generate_series(1, 5000) i"))
            assert sum([i async for i in result]) == 12502500


@check("asyncpg: a table whose columns change between two queries of the pool")
async def _():
    async with async_engine.connect() as conn:
        await conn.execute(sa.text("DROP TABLE IF EXISTS sqlalchemy_changing"))
        await conn.execute(sa.text("CREATE TABLE sqlalchemy_changing AS SELECT 1 AS n"))
        await conn.commit()
        assert (await conn.execute(sa.text("SELECT n FROM sqlalchemy_changing"))).one() == (1,)
        await conn.commit()
        await conn.execute(sa.text("ALTER TABLE sqlalchemy_changing ADD COLUMN note text DEFAULT 'new'"))
        await conn.commit()
        assert (await conn.execute(sa.text("SELECT n, note FROM sqlalchemy_changing"))).one() == (1, "new")


@check("asyncpg: many tasks share an engine's pool")
async def _():
    async def work(i):
        pids = set()
        for k in range(20):
            async with AsyncSession() as s:
                row = (await s.execute(sa.select(sa.literal(f"task {i}"), sa.literal(k), sa.func.pg_backend_pid()))).one()
                assert row[:2] == (f"task {i}", k)
                pids.add(row[2])
        return pids

    kit.backends.update(*await asyncio.gather(*(work(i) for i in range(CLIENTS))))


@check("asyncpg: many clients, each keeps its statements")
async def _():
    alone = create_async_engine(url("asyncpg"), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    query = sa.text("SELECT CAST(:me AS text), CAST(:n AS int), pg_backend_pid() FROM pg_sleep(:seconds)")

    async def work(i):
        me, n, pids = f"client {i}", 0, set()
        async with alone.connect() as conn:
            while kit.goes_on(n, pids):
                row = (await conn.execute(query, {"me": me, "n": n, "seconds": random.random() / 500})).one()
                assert row[:2] == (me, n)
                pids.add(row[2])
                n += 1
        return pids

    for pids in await asyncio.gather(*(work(i) for i in range(CLIENTS))):
        kit.saw(pids)


@check("a clean close")
async def _():
    engine.dispose()
    await async_engine.dispose()
    assert engine.pool.checkedout() == 0 and async_engine.pool.checkedin() == 0


kit.run()
