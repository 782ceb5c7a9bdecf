// postgres.js: prepares every statement and keeps it, pipelines over its pool, looks array types up by itself.
'use strict'

const { Readable } = require('node:stream')
const { pipeline } = require('node:stream/promises')
const postgres = require('postgres')
const kit = require('./kit.js')
const { assert, where, SESSION, BLOCKS, SERVERS, CLIENTS, REFUSED, MEGABYTE, check, fails, times } = kit

const quiet = { onnotice: () => {} }

// A pool of the driver's default size for the length of a block; many checks want one connection only.
async function connected(work, more = {}) {
  const sql = postgres({ ...where, ...quiet, ...more })
  try {
    return await work(sql)
  } finally {
    await sql.end({ timeout: 5 })
  }
}
const single = { max: 1 }

// Several pools of one connection each.
async function several(count, work) {
  const clients = Array.from({ length: count }, () => postgres({ ...where, ...quiet, ...single }))
  try {
    return await work(clients)
  } finally {
    await Promise.all(clients.map((sql) => sql.end({ timeout: 5 })))
  }
}

check('connects by SCRAM, and makes its tables', () => connected(async (sql) => {
  assert.deepEqual([...await sql`SELECT current_user::text, current_database()::text`.values()], [[where.user, where.database]])
  await sql`DROP TABLE IF EXISTS postgresjs_things, postgresjs_copies`
  await sql`CREATE TABLE postgresjs_things (id serial PRIMARY KEY, owner text NOT NULL, n int, note text, extra jsonb, UNIQUE (owner, n))`
  await sql`CREATE TABLE postgresjs_copies (n int, note text)`
}))

check('a wrong password is 28P01, an unknown database 3D000', async () => {
  assert.equal((await fails(connected((sql) => sql`SELECT 1`, { password: 'wrong' }))).code, '28P01')
  assert.equal((await fails(connected((sql) => sql`SELECT 1`, { database: 'nowhere' }))).code, '3D000')
})

check('a simple query with several statements', () => connected(async (sql) => {
  const results = await sql`SELECT 1 AS a, NULL AS b; SELECT 'x' AS c`.simple()
  assert.deepEqual(results.map((rows) => [...rows]), [[{ a: 1, b: null }], [{ c: 'x' }]])
}, single))

// The driver can't read NULLs inside of arrays.
const arrays = kit.ARRAYS.map(([name, type, values]) => [name, type, values.map((value) => value.filter((item) => item !== null))])
for (const [name, type, values] of [...kit.VALUES, ...arrays]) {
  check(`parameters: ${name}`, () => connected(async (sql) => {
    for (const value of values) {
      const [row] = await sql`SELECT ${value}::${sql.unsafe(type)} AS value, ${null}::text AS nothing`
      assert.deepEqual([row.value, row.nothing], [value, null])
    }
  }, single))
}

check('a row of 1 MB each way', () => connected(async (sql) => {
  const [text, raw] = ['ü'.repeat(MEGABYTE / 2), require('node:crypto').randomBytes(MEGABYTE)]
  const [row] = await sql`SELECT ${text}::text AS text, ${raw}::bytea AS raw`
  assert.ok(row.text === text && row.raw.equals(raw))
}, single))

check('many rows, at once and by a cursor', () => connected(async (sql) => {
  const rows = await sql`SELECT i FROM generate_series(1, ${50_000}::int) i`
  assert.equal(rows.length, 50_000)
  // A portal ends with its transaction: a cursor wants one.
  const sum = async (sql) => {
    let sum = 0
    for await (const part of sql`SELECT i FROM generate_series(1, 1000) i`.cursor(70)) sum += part.reduce((n, row) => n + row.i, 0)
    return sum
  }
  if (BLOCKS) assert.equal(await sql.begin(sum), 500500)
}, single))

check('inserts of many rows by the driver\'s helper', () => connected(async (sql) => {
  const things = Array.from({ length: 1000 }, (_, n) => ({ owner: 'helper', n, note: `note ${n}`, extra: { n } }))
  assert.equal((await sql`INSERT INTO postgresjs_things ${sql(things)}`).count, 1000)
  const rows = await sql`SELECT owner, n, note, extra FROM postgresjs_things WHERE owner = 'helper' AND n IN ${sql([5, 7])} ORDER BY n`
  assert.deepEqual([...rows], [things[5], things[7]])
}))

check('queries pipelined in one connection', () => connected(async (sql) => {
  const results = await times(500, (i) => sql`SELECT ${i}::int AS n`)
  results.forEach(([row], i) => assert.equal(row.n, i))
}, single))

check('queries pipelined in one connection, some with errors', () => connected(async (sql) => {
  const results = await times(200, (i) => sql`SELECT 100 / ${i % 5}::int AS n`.then(([row]) => row.n, (error) => error.code))
  results.forEach((result, i) => assert.equal(result, i % 5 ? Math.trunc(100 / (i % 5)) : '22012'))
}, single))

if (BLOCKS) {
  check('commit, rollback, savepoints', () => connected(async (sql) => {
    const count = async (owner) => (await sql`SELECT count(*)::int AS n FROM postgresjs_things WHERE owner = ${owner}`)[0].n
    await sql.begin(async (t) => {
      await t`INSERT INTO postgresjs_things (owner, n) VALUES ('commit', 1)`
      assert.equal(await count('commit'), 0)
      const error = await fails(t.savepoint((s) => s`INSERT INTO postgresjs_things (owner, n) VALUES ('commit', 1)`))
      assert.equal(error.code, '23505')
      await t.savepoint((s) => s`INSERT INTO postgresjs_things (owner, n) VALUES ('commit', 2)`)
    })
    assert.equal(await count('commit'), 2)
    const error = await fails(sql.begin(async (t) => {
      await t`INSERT INTO postgresjs_things (owner, n) VALUES ('rollback', 1)`
      throw new Error('enough')
    }))
    assert.equal(error.message, 'enough')
    assert.equal(await count('rollback'), 0)
  }))

  check('an error inside a transaction, and after it', () => connected(async (sql) => {
    const error = await fails(sql.begin('isolation level serializable', async (t) => {
      assert.equal((await fails(t`SELECT 1 / ${0}::int`)).code, '22012')
      await t`SELECT 1`
    }))
    // The driver remembers the first error of a transaction and ends with it.
    assert.ok(['22012', '25P02'].includes(error.code), error.code)
    assert.equal((await sql`SELECT 1 AS n`)[0].n, 1)
  }, single))

  check('a transaction sent as one pipeline', () => connected(async (sql) => {
    const [[a], [b], { count }] = await sql.begin((t) => [
      t`SELECT ${1}::int AS n`, t`SELECT ${'x'} AS t`, t`INSERT INTO postgresjs_things (owner, n) VALUES ('piped', 1)`])
    assert.deepEqual([a.n, b.t, count], [1, 'x', 1])
  }))

  check('one prepared statement goes from server to server', () => several(5, async ([mine, ...holders]) => {
    const reserved = await Promise.all(holders.map((sql) => sql.reserve()))
    const pids = new Set()
    await mine`SELECT 1`
    for (const sql of reserved) await sql`BEGIN`
    for (const sql of reserved) {
      // In transaction mode all servers are held but the one that this rollback lets go.
      await sql`ROLLBACK`
      pids.add((await mine`SELECT pg_backend_pid() AS pid, ${1}::int AS n`)[0].pid)
      await sql`BEGIN`
    }
    for (const sql of reserved) {
      await sql`ROLLBACK`
      sql.release()
    }
    kit.saw(pids)
  }))
} else {
  check('a transaction block is refused', () => connected(async (sql) => {
    // The driver loses the text when it has sent more behind its BEGIN.
    assert.match((await fails(sql.begin((t) => t`SELECT 1`))).message, new RegExp(`${REFUSED}|CONNECTION_CLOSED`))
    assert.match((await fails(sql.unsafe('BEGIN').simple())).message, new RegExp(`${REFUSED}|UNSAFE_TRANSACTION`))
  }, single))
}

check('the same statements over interleaved connections', () => several(4, async (clients) => {
  for (let i = 0; i < 300; i++) {
    const [row] = await clients[i % 4]`SELECT ${i}::int + 1 AS n, ${`t${i}`}::text AS t`
    assert.deepEqual({ ...row }, { n: i + 1, t: `t${i}` })
  }
}))

check('more statements than the pooler keeps', () => connected(async (sql) => {
  for (let turn = 0; turn < 2; turn++) {
    for (let i = 0; i < 300; i++) {
      const [row] = await sql`SELECT ${sql.unsafe(String(i))} AS i, ${turn}::int AS turn`
      assert.deepEqual({ ...row }, { i, turn })
    }
  }
}, single))

check('a statement whose Parse failed', () => connected(async (sql) => {
  const query = () => sql`SELECT n, ${1}::int FROM postgresjs_late`
  await sql`DROP TABLE IF EXISTS postgresjs_late`
  for (let i = 0; i < 3; i++) assert.equal((await fails(query())).code, '42P01')
  await sql`CREATE TABLE postgresjs_late AS SELECT 7 AS n`
  assert.equal((await query())[0].n, 7)
}, single))

check('a statement whose result type changes', () => connected(async (sql) => {
  await sql`DROP TABLE IF EXISTS postgresjs_changing`
  await sql`CREATE TABLE postgresjs_changing AS SELECT 1 AS n`
  const query = () => sql`SELECT * FROM postgresjs_changing`
  assert.deepEqual([...await query()], [{ n: 1 }])
  await sql`ALTER TABLE postgresjs_changing ADD COLUMN note text DEFAULT 'new'`
  // The driver prepares it anew, or the pooler does.
  assert.deepEqual([...await query()], [{ n: 1, note: 'new' }])
}, single))

check('COPY both ways', () => connected(async (sql) => {
  const text = Array.from({ length: 50_000 }, (_, i) => `${i}\t${i % 7 ? `note ${i}\\n` : '\\N'}\n`).join('')
  await pipeline(Readable.from([text]), await sql`COPY postgresjs_copies FROM STDIN`.writable())
  const parts = []
  for await (const part of await sql`COPY (SELECT * FROM postgresjs_copies ORDER BY n) TO STDOUT`.readable()) parts.push(part)
  assert.ok(Buffer.concat(parts).toString() === text)
}, single))

// The driver never tells of an error that comes in the middle of a COPY, directly neither.
check('a COPY that the server refuses at once, and one that the client gives up', () => connected(async (sql) => {
  await sql`TRUNCATE postgresjs_copies`
  assert.equal((await fails(sql`COPY postgresjs_nowhere (n) FROM STDIN`.writable())).code, '42P01')
  async function* broken() {
    yield '1\n2\n'
    throw new Error('enough')
  }
  const given = await sql`COPY postgresjs_copies (n) FROM STDIN`.writable()
  assert.equal((await fails(pipeline(Readable.from(broken()), given))).message, 'enough')
  assert.equal((await sql`SELECT count(*)::int AS n FROM postgresjs_copies`)[0].n, 0)
}, single))

check('errors carry SQLSTATE and fields', () => connected(async (sql) => {
  await sql`INSERT INTO postgresjs_things (owner, n) VALUES ('unique', 1)`
  const error = await fails(sql`INSERT INTO postgresjs_things (owner, n) VALUES ('unique', ${1})`)
  assert.ok(error instanceof postgres.PostgresError)
  assert.deepEqual([error.code, error.table_name, error.constraint_name], ['23505', 'postgresjs_things', 'postgresjs_things_owner_n_key'])
  assert.equal((await fails(sql`SELEKT 1`)).code, '42601')
  const own = await fails(sql.unsafe("DO $$ BEGIN RAISE 'Ünique' USING ERRCODE = 'AE123', HINT = 'a hint'; END $$"))
  assert.deepEqual([own.code, own.hint, own.message], ['AE123', 'a hint', 'Ünique'])
  assert.equal((await sql`SELECT 1 AS n`)[0].n, 1)
}, single))

check('notices', async () => {
  const notices = []
  await connected((sql) => sql.unsafe("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$"), { onnotice: (n) => notices.push(n.message) })
  assert.deepEqual(notices, ['one', 'two'])
})

check('cancel', () => connected((sql) => connected(async (other) => {
  const query = sql`SELECT 'postgresjs cancel', pg_sleep(${30})`
  const failed = fails(query.execute())
  while ((await other`SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT ''postgresjs cancel%' AND wait_event = 'PgSleep'`).length === 0) await kit.sleep(20)
  query.cancel()
  assert.equal((await failed).code, '57014')
  assert.equal((await sql`SELECT 1 AS n`)[0].n, 1)
}, single), single))

check('a startup setting is the session\'s default', () => connected(async (sql) => {
  assert.equal((await sql`SHOW statement_timeout`)[0].statement_timeout, '300ms')
  assert.equal((await fails(sql`SELECT pg_sleep(30)`)).code, '57014')
}, { ...single, connection: { statement_timeout: 300 } }))

check('many clients, each sees its own rows only', async () => {
  const work = (i) => connected(async (sql) => {
    const [me, pids] = [`client ${i}`, new Set()]
    for (let n = 0; kit.goesOn(n, pids); n++) {
      const [row] = await sql`SELECT ${me}::text AS me, ${n}::int AS n, pg_backend_pid() AS pid FROM pg_sleep(${Math.random() / 500})`
      assert.deepEqual([row.me, row.n], [me, n])
      pids.add(row.pid)
      await sql`INSERT INTO postgresjs_things (owner, n, note) VALUES (${me}, ${n}, ${me.repeat(20)})`
      if (n % 10 === 0) {
        const read = (sql) => sql`SELECT n, note FROM postgresjs_things WHERE owner = ${me} ORDER BY n`
        const rows = await (BLOCKS ? sql.begin(read) : read(sql))
        assert.deepEqual([...rows], Array.from({ length: n + 1 }, (_, k) => ({ n: k, note: me.repeat(20) })))
      }
    }
    return pids
  }, single)
  for (const pids of await times(CLIENTS, work)) kit.saw(pids)
})

check('the driver\'s own pool, with more tasks than connections', () => connected(async (sql) => {
  await times(300, async (i) => {
    const [row] = await sql`SELECT ${i}::int AS n, ${`task ${i}`} AS t`
    assert.deepEqual({ ...row }, { n: i, t: `task ${i}` })
    if (BLOCKS) await sql.begin((t) => [t`INSERT INTO postgresjs_things (owner, n) VALUES ('pool', ${i})`, t`SELECT 1`])
  })
  if (BLOCKS) assert.equal((await sql`SELECT count(*)::int AS n FROM postgresjs_things WHERE owner = 'pool'`)[0].n, 300)
}))

if (SESSION) {
  check('LISTEN', () => connected(async (sql) => {
    const got = new Promise((resolve) => { sql.listen('postgresjs_news', resolve).then(() => sql.notify('postgresjs_news', 'hello')) })
    assert.equal(await got, 'hello')
  }))

  check('SET lasts as long as the session, and is gone for the next', async () => {
    await connected(async (sql) => {
      await sql`SET search_path = pg_catalog`
      assert.equal((await sql`SHOW search_path`)[0].search_path, 'pg_catalog')
    }, single)
    // As many as there are servers, so that the one of that session is among them.
    await several(SERVERS, async (clients) => {
      for (const sql of clients) assert.equal((await sql`SHOW search_path`)[0].search_path, '"$user", public')
    })
  })
}

check('a clean close', async () => {
  const sql = postgres({ ...where, ...quiet })
  await sql`SELECT 1`
  await sql.end({ timeout: 5 })
  assert.equal((await fails(sql`SELECT 1`)).code, 'CONNECTION_ENDED')
})

kit.run()
