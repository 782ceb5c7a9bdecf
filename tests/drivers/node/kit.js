// What the Node.js programs share: where to connect, and a line per check for scripts/drivers to count.
'use strict'

const assert = require('node:assert/strict')

const env = process.env
const where = {
  host: env.DRIVERS_HOST,
  port: Number(env.DRIVERS_PORT),
  user: env.DRIVERS_USER,
  password: env.DRIVERS_PASSWORD,
  database: env.DRIVERS_DATABASE,
}
// What a client may rely on: its session's state, transactions of several statements.
const SESSION = env.DRIVERS_MODE === 'session'
const BLOCKS = env.DRIVERS_MODE !== 'statement'
const SERVERS = Number(env.DRIVERS_SERVERS)
// Clients of the checks with many of them, and how long one of those goes on until it has met enough servers.
const CLIENTS = 17
const ROUNDS = 40
const MOST_ROUNDS = 600
// In session mode a client is served by one server; else its statement must have been run by three.
const ENOUGH = SESSION ? 1 : 3
const REFUSED = 'transaction blocks not allowed in statement pooling mode'
const MEGABYTE = 1024 * 1024

const checks = []
const backends = new Set()
let statementOn = 0

// Registers an async function as a check.
function check(name, body) {
  checks.push([name, body])
}

// Takes down the servers that ran one prepared statement of one client, and holds the mode to its promise.
function saw(pids) {
  statementOn = Math.max(statementOn, pids.size)
  pids.forEach((pid) => backends.add(pid))
  assert.ok(SESSION ? pids.size === 1 : pids.size >= ENOUGH, `the statement ran on ${pids.size} servers`)
}

// Does a client of the concurrency check go on after so many rounds?
function goesOn(rounds, pids) {
  return rounds < ROUNDS || (pids.size < ENOUGH && rounds < MOST_ROUNDS)
}

async function within(promise, ms, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} hangs`)), ms)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

// Resolves to what the promise is rejected with.
async function fails(promise) {
  try {
    await promise
  } catch (error) {
    return error
  }
  throw new assert.AssertionError({ message: 'no error was raised' })
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms))

function times(count, work) {
  return Promise.all(Array.from({ length: count }, (_, i) => work(i)))
}

// Runs all checks in order.
async function run() {
  for (const [name, body] of checks) {
    console.error('running', name)
    const begin = Date.now()
    try {
      await within(body(), 60_000, name)
      console.log('ok', name, `(${(Date.now() - begin) / 1000} s)`)
    } catch (error) {
      console.error(error)
      console.log('not ok', `${name}: ${String(error).replace(/\s+/g, ' ').slice(0, 300)}`)
    }
  }
  console.log('servers', backends.size, statementOn)
  console.log('done')
}

process.on('unhandledRejection', (error) => {
  console.error(error)
  console.log('not ok no rejection is left unhandled:', String(error).replace(/\s+/g, ' '))
})

// A value of each type: name, SQL type, values that must come back as they went. Both drivers give numbers that JavaScript
// can't hold as text.
const every = Buffer.from(Array.from({ length: 5120 }, (_, i) => i % 256))
const VALUES = [
  ['integer', 'int4', [0, 1, -1, 2 ** 31 - 1, -(2 ** 31)]],
  ['bigint', 'int8', ['9223372036854775807', '-9223372036854775808']],
  ['boolean', 'bool', [true, false]],
  ['text', 'text', ['', 'plain', 'it\'s \\ "quoted" $1 %s ${x}; --', 'Grüße, 世界 🐘\n\t']],
  ['float', 'float8', [0.1, -1e308, 5e-324, Infinity]],
  ['numeric', 'numeric', ['12345678901234567890.123456789012345678', '-0.000001']],
  ['timestamptz', 'timestamptz', [new Date('2024-02-29T23:59:59.999Z'), new Date('1969-07-20T20:17:40Z')]],
  ['bytea', 'bytea', [every, Buffer.alloc(0)]],
  ['jsonb', 'jsonb', [{ a: [1, 2.5, null, true], ü: { nested: "it's" } }]],
  ['uuid', 'uuid', ['12345678-1234-5678-1234-567812345678']],
]
const ARRAYS = [
  ['integer array', 'int4[]', [[1, 2, 3], [], [1, null, 3]]],
  ['text array', 'text[]', [['a', null, 'q"u,o{t}e\\', 'NULL']]],
]

module.exports = {
  assert, where, SESSION, BLOCKS, SERVERS, CLIENTS, REFUSED, MEGABYTE, VALUES, ARRAYS, backends,
  check, saw, goesOn, fails, sleep, times, run,
}
