// node-postgres (pg): clients and its pool, unnamed and named prepared statements, pg-cursor, pg-copy-streams.
'use strict'

const { Readable } = require('node:stream')
const { pipeline } = require('node:stream/promises')
const pg = require('pg')
const Cursor = require('pg-cursor')
const copy = require('pg-copy-streams')
const kit = require('./kit.js')
const { assert, where, SESSION, BLOCKS, SERVERS, CLIENTS, REFUSED, MEGABYTE, check, fails, times } = kit

async function connected(work, more = {}) {
  const client = new pg.Client({ ...where, ...more })
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}

async function several(count, work) {
  const clients = Array.from({ length: count }, () => new pg.Client(where))
  try {
    for (const client of clients) await client.connect()
    return await work(clients)
  } finally {
    await Promise.all(clients.map((client) => client.end()))
  }
}

async function one(client, text, values) {
  return (await client.query({ text, values, rowMode: 'array' })).rows[0]
}

check('connects by SCRAM, and makes its tables', () => connected(async (client) => {
  assert.deepEqual(await one(client, 'SELECT current_user, current_database()'), [where.user, where.database])
  if (SESSION) assert.deepEqual(await one(client, 'SELECT pg_backend_pid()'), [client.processID])
  await client.query('DROP TABLE IF EXISTS node_things, node_copies')
  await client.query('CREATE TABLE node_things (id serial PRIMARY KEY, owner text NOT NULL, n int, note text, UNIQUE (owner, n))')
  await client.query('CREATE TABLE node_copies (n int, note text)')
}))

check('a wrong password is 28P01, an unknown database 3D000', async () => {
  assert.equal((await fails(connected(() => {}, { password: 'wrong' }))).code, '28P01')
  assert.equal((await fails(connected(() => {}, { database: 'nowhere' }))).code, '3D000')
})

check('a simple query with several statements', () => connected(async (client) => {
  const results = await client.query("SELECT 1 AS a, NULL AS b; SELECT 'x' AS c; INSERT INTO node_things (owner) VALUES ('simple'), ('simple')")
  assert.deepEqual(results.map((r) => r.rows), [[{ a: 1, b: null }], [{ c: 'x' }], []])
  assert.equal(results[2].rowCount, 2)
}))

for (const [name, type, values] of [...kit.VALUES, ...kit.ARRAYS]) {
  check(`parameters: ${name}`, () => connected(async (client) => {
    for (const value of values) assert.deepEqual(await one(client, `SELECT $1::${type}, $2::text`, [value, null]), [value, null])
  }))
}

check('a row of 1 MB each way', () => connected(async (client) => {
  const [text, raw] = ['ü'.repeat(MEGABYTE / 2), require('node:crypto').randomBytes(MEGABYTE)]
  assert.deepEqual(await one(client, 'SELECT $1::text, $2::bytea', [text, raw]), [text, raw])
}))

check('many rows', () => connected(async (client) => {
  const { rows } = await client.query("SELECT i, repeat('x', i % 50) AS x FROM generate_series(1, $1::int) i", [50_000])
  assert.equal(rows.length, 50_000)
  rows.forEach((row, i) => assert.ok(row.i === i + 1 && row.x.length === (i + 1) % 50))
}))

check('queries queued at once in one client', () => connected(async (client) => {
  const results = await times(500, (i) => one(client, 'SELECT $1::int', [i]))
  assert.deepEqual(results.map((row) => row[0]), Array.from({ length: 500 }, (_, i) => i))
}))

if (BLOCKS) {
  check('commit, rollback, and what another client sees', () => connected((client) => connected(async (other) => {
    const count = async (who, owner) => Number((await one(who, 'SELECT count(*) FROM node_things WHERE owner = $1', [owner]))[0])
    await client.query('BEGIN')
    await client.query("INSERT INTO node_things (owner, n) VALUES ('commit', $1)", [1])
    assert.equal(await count(other, 'commit'), 0)
    await client.query('COMMIT')
    assert.equal(await count(other, 'commit'), 1)
    await client.query('BEGIN')
    await client.query("INSERT INTO node_things (owner, n) VALUES ('rollback', $1)", [1])
    await client.query('ROLLBACK')
    assert.equal(await count(client, 'rollback'), 0)
  })))

  check('an error inside a transaction, and after it', () => connected(async (client) => {
    await client.query('BEGIN')
    assert.equal((await fails(client.query('SELECT 1/$1::int', [0]))).code, '22012')
    assert.equal((await fails(client.query('SELECT 1'))).code, '25P02')
    await client.query('ROLLBACK')
    assert.deepEqual(await one(client, 'SELECT 1'), [1])
  }))

  check('savepoints', () => connected(async (client) => {
    const insert = "INSERT INTO node_things (owner, n) VALUES ('save', $1)"
    await client.query('BEGIN')
    await client.query(insert, [1])
    await client.query('SAVEPOINT s')
    assert.equal((await fails(client.query(insert, [1]))).code, '23505')
    await client.query('ROLLBACK TO s')
    await client.query(insert, [2])
    await client.query('COMMIT')
    assert.deepEqual((await client.query("SELECT n FROM node_things WHERE owner = 'save' ORDER BY n")).rows, [{ n: 1 }, { n: 2 }])
  }))

  check('one named statement goes from server to server', () => several(5, async ([mine, ...holders]) => {
    const pids = new Set()
    for (const client of holders) await client.query('BEGIN')
    for (const client of holders) {
      // In transaction mode all servers are held but the one that this rollback lets go.
      await client.query('ROLLBACK')
      pids.add((await mine.query({ name: 'where am I', text: 'SELECT pg_backend_pid() AS pid' })).rows[0].pid)
      await client.query('BEGIN')
    }
    kit.saw(pids)
  }))
} else {
  check('a transaction block is refused', () => connected(async (client) => {
    client.on('error', () => {})
    assert.match((await fails(client.query('BEGIN'))).message, new RegExp(REFUSED))
  }))
}

check('named statements over interleaved clients', () => several(4, async (clients) => {
  for (let i = 0; i < 300; i++) {
    // The same name for different texts in different clients.
    const client = clients[i % 4]
    const { rows } = await client.query({ name: 'same', text: `SELECT $1::int + ${i % 4} AS n, $2::text AS t`, values: [i, `t${i}`] })
    assert.deepEqual(rows, [{ n: i + (i % 4), t: `t${i}` }])
  }
}))

check('more named statements than the pooler keeps', () => connected(async (client) => {
  for (let turn = 0; turn < 2; turn++) {
    for (let i = 0; i < 300; i++) {
      const { rows } = await client.query({ name: `many ${i}`, text: `SELECT ${i} AS i, $1::int AS turn`, values: [turn] })
      assert.deepEqual(rows, [{ i, turn }])
    }
  }
}))

check('a named statement whose Parse failed', () => connected(async (client) => {
  for (let i = 0; i < 3; i++) {
    assert.equal((await fails(client.query({ name: 'again', text: 'SELECT * FROM node_nowhere', values: [] }))).code, '42P01')
  }
  const { rows } = await client.query({ name: 'again', text: 'SELECT $1::int AS n', values: [1] })
  assert.deepEqual(rows, [{ n: 1 }])
}))

check('a named statement over big and small values, and an error at its execution', () => connected(async (client) => {
  const query = (value) => client.query({ name: 'lengths', text: 'SELECT length($1::text) AS n, 1 / length($1::text) AS x', values: [value] })
  for (let i = 0; i < 20; i++) {
    assert.equal((await fails(query(''))).code, '22012')
    // And last something good: the driver hangs up without a goodbye if an error's ReadyForQuery has not come yet.
    assert.equal((await query('x'.repeat(i % 2 ? 200_000 : 3))).rows[0].n, i % 2 ? 200_000 : 3)
  }
}))

check('a portal with a row limit', () => connected(async (client) => {
  // Portals end with their transaction; several reads of one need one.
  if (BLOCKS) await client.query('BEGIN')
  const cursor = client.query(new Cursor('SELECT i FROM generate_series(1, $1::int) i', [1000]))
  if (BLOCKS) {
    let sum = 0
    for (let rows = await cursor.read(70); rows.length; rows = await cursor.read(70)) sum += rows.reduce((n, row) => n + row.i, 0)
    assert.equal(sum, 500500)
  } else {
    assert.equal((await cursor.read(2000)).length, 1000)
  }
  await cursor.close()
  if (BLOCKS) await client.query('COMMIT')
  assert.deepEqual(await one(client, 'SELECT 1'), [1])
}))

check('a portal that is closed half read', () => connected(async (client) => {
  if (BLOCKS) await client.query('BEGIN')
  const cursor = client.query(new Cursor('SELECT i FROM generate_series(1, $1::int) i', [100_000]))
  assert.equal((await cursor.read(10)).length, 10)
  await cursor.close()
  if (BLOCKS) await client.query('ROLLBACK')
  assert.deepEqual(await one(client, 'SELECT 1'), [1])
}))

check('COPY both ways', () => connected(async (client) => {
  const text = Array.from({ length: 50_000 }, (_, i) => `${i}\t${i % 7 ? `note ${i}\\n` : '\\N'}\n`).join('')
  const into = client.query(copy.from('COPY node_copies FROM STDIN'))
  await pipeline(Readable.from([text]), into)
  assert.equal(into.rowCount, 50_000)
  const parts = []
  const out = client.query(copy.to('COPY (SELECT * FROM node_copies ORDER BY n) TO STDOUT'))
  for await (const part of out) parts.push(part)
  assert.equal(Buffer.concat(parts).toString(), text)
}))

check('a COPY that the server refuses, and one that the client gives up', () => connected(async (client) => {
  await client.query('TRUNCATE node_copies')
  const bad = client.query(copy.from('COPY node_copies (n) FROM STDIN'))
  assert.equal((await fails(pipeline(Readable.from(['1\nthree\n', '4\n'.repeat(100_000)]), bad))).code, '22P02')
  async function* broken() {
    yield '1\n2\n'
    throw new Error('enough')
  }
  const given = client.query(copy.from('COPY node_copies (n) FROM STDIN'))
  assert.equal((await fails(pipeline(Readable.from(broken()), given))).message, 'enough')
  assert.deepEqual(await one(client, 'SELECT count(*) FROM node_copies'), ['0'])
}))

check('errors carry SQLSTATE and fields', () => connected(async (client) => {
  await client.query("INSERT INTO node_things (owner, n) VALUES ('unique', 1)")
  const error = await fails(client.query("INSERT INTO node_things (owner, n) VALUES ('unique', $1)", [1]))
  assert.ok(error instanceof pg.DatabaseError)
  assert.deepEqual([error.code, error.table, error.constraint], ['23505', 'node_things', 'node_things_owner_n_key'])
  assert.equal((await fails(client.query('SELEKT 1'))).code, '42601')
  const own = await fails(client.query("DO $$ BEGIN RAISE 'Ünique' USING ERRCODE = 'AE123', HINT = 'a hint'; END $$"))
  assert.deepEqual([own.code, own.hint, own.message], ['AE123', 'a hint', 'Ünique'])
  assert.deepEqual(await one(client, 'SELECT 1'), [1])
}))

check('notices', () => connected(async (client) => {
  const notices = []
  client.on('notice', (notice) => notices.push(notice.message))
  await client.query("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
  assert.deepEqual(notices, ['one', 'two'])
}))

check('cancel by pg_cancel_backend and by a request of its own', () => connected((client) => connected(async (other) => {
  const active = async () => (await one(other, "SELECT max(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT ''node%' AND wait_event = 'PgSleep'"))[0]
  const running = async () => {
    for (;;) {
      const pid = await active()
      if (pid !== null) return pid
      await kit.sleep(20)
    }
  }
  for (const how of ['function', 'request']) {
    const failed = fails(client.query("SELECT 'node cancel', pg_sleep(30)"))
    const pid = await running()
    if (how === 'function') await other.query('SELECT pg_cancel_backend($1)', [pid])
    else new pg.Client(where).cancel(client, client._activeQuery)
    assert.equal((await failed).code, '57014')
    assert.deepEqual(await one(client, 'SELECT 1'), [1])
  }
})))

check('a startup setting is the session\'s default', () => connected(async (client) => {
  assert.deepEqual(await one(client, 'SHOW statement_timeout'), ['300ms'])
  assert.equal((await fails(client.query('SELECT pg_sleep(30)'))).code, '57014')
  assert.deepEqual(await one(client, 'SHOW application_name'), ["node's"])
}, { statement_timeout: 300, application_name: "node's" }))

check('many clients, each sees its own rows only', async () => {
  const work = (i) => connected(async (client) => {
    const [me, pids] = [`client ${i}`, new Set()]
    for (let n = 0; kit.goesOn(n, pids); n++) {
      const text = 'SELECT $1::text AS me, $2::int AS n, pg_backend_pid() AS pid FROM pg_sleep($3)'
      const [row] = (await client.query({ name: 'tagged', text, values: [me, n, Math.random() / 500] })).rows
      assert.deepEqual([row.me, row.n], [me, n])
      pids.add(row.pid)
      await client.query({ name: 'insert', text: 'INSERT INTO node_things (owner, n, note) VALUES ($1, $2, $3)', values: [me, n, me.repeat(20)] })
      if (n % 10 === 0) {
        if (BLOCKS) await client.query('BEGIN')
        const { rows } = await client.query('SELECT n, note FROM node_things WHERE owner = $1 ORDER BY n', [me])
        if (BLOCKS) await client.query('COMMIT')
        assert.deepEqual(rows, Array.from({ length: n + 1 }, (_, k) => ({ n: k, note: me.repeat(20) })))
      }
    }
    return pids
  })
  for (const pids of await times(CLIENTS, work)) kit.saw(pids)
})

check('the driver\'s own pool, with more tasks than clients', async () => {
  const pool = new pg.Pool({ ...where, max: 8 })
  await times(200, async (i) => {
    assert.deepEqual((await pool.query('SELECT $1::int AS n', [i])).rows, [{ n: i }])
    if (!BLOCKS) return
    const client = await pool.connect()
    await client.query('BEGIN')
    await client.query("INSERT INTO node_things (owner, n) VALUES ('pool', $1)", [i])
    await client.query(i % 2 ? 'COMMIT' : 'ROLLBACK')
    client.release()
  })
  if (BLOCKS) assert.equal((await pool.query("SELECT count(*)::int AS n FROM node_things WHERE owner = 'pool'")).rows[0].n, 100)
  await pool.end()
})

if (SESSION) {
  check('SET, temporary tables, LISTEN last as long as the session', () => connected(async (client) => {
    const note = new Promise((resolve) => client.on('notification', resolve))
    await client.query('SET search_path = pg_catalog; CREATE TEMP TABLE node_temp AS SELECT 42 AS n; LISTEN node_news')
    assert.deepEqual(await one(client, 'SHOW search_path'), ['pg_catalog'])
    assert.deepEqual(await one(client, 'SELECT n FROM node_temp'), [42])
    await client.query("NOTIFY node_news, 'hello'")
    const { payload, processId } = await note
    assert.deepEqual([payload, processId], ['hello', client.processID])
  }))

  // As many as there are servers, so that the one of the check above is among them.
  check('what a session left is gone for the next', () => several(SERVERS, async (clients) => {
    for (const client of clients) assert.deepEqual(await one(client, 'SHOW search_path'), ['"$user", public'])
  }))
}

const CONSOLE = process.env.DRIVERS_CONSOLE
if (CONSOLE) {
  check('the console: plain, with parameters, prepared; errors with their codes', () => connected(async (client) => {
    const pools = await client.query('SHOW POOLS')
    assert.deepEqual(pools.fields.slice(0, 3).map((f) => f.name), ['database', 'user', 'cl_active'])
    assert.ok(pools.rows.some((row) => row.database === 'pgbouncer'))
    for (const name of [undefined, 'shown', 'shown']) {
      const text = 'SHOW DATABASES WHERE name = $1 AND paused = $2 LIMIT $3'
      const { rows } = await client.query({ name, text, values: [where.database, 0, 1] })
      assert.deepEqual(rows.map((row) => [row.name, row.paused]), [[where.database, 0]])
    }
    for (const command of ['RECONNECT', 'ENABLE']) {
      assert.equal((await client.query(`${command} ${where.database}`)).command, command)
    }
    assert.equal((await fails(client.query('PAUSE nowhere'))).code, '3D000')
    assert.equal((await fails(client.query('SHOW POOLS WHERE databse = $1', ['x']))).code, '42703')
    assert.equal((await client.query('SHOW VERSION')).rowCount, null)
  }, { database: CONSOLE }))
}

check('a clean close', async () => {
  const client = new pg.Client(where)
  await client.connect()
  await client.query('SELECT 1')
  await client.end()
  assert.match((await fails(client.query('SELECT 1'))).message, /closed/)
})

kit.run()
