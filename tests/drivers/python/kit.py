"""What the Python programs share: where to connect, and a line per check for scripts/drivers to count."""

import asyncio
import datetime
import decimal
import inspect
import os
import sys
import threading
import time
import traceback
import uuid

HOST, PORT = os.environ["DRIVERS_HOST"], int(os.environ["DRIVERS_PORT"])
USER, PASSWORD, DATABASE = (os.environ["DRIVERS_" + name] for name in ("USER", "PASSWORD", "DATABASE"))
# The console's database; empty where there is no Aether.
CONSOLE = os.environ.get("DRIVERS_CONSOLE", "")
MODE, SERVERS = os.environ["DRIVERS_MODE"], int(os.environ["DRIVERS_SERVERS"])
# What a client may rely on: its session's state, transactions of several statements.
SESSION, BLOCKS = MODE == "session", MODE != "statement"
# Clients of the checks with many of them, and how long one of those goes on until it has met enough servers.
CLIENTS, ROUNDS, MOST_ROUNDS = 17, 40, 600
# In session mode a client is served by one server; else its statement must have been run by three.
ENOUGH = 1 if SESSION else 3
REFUSED = "transaction blocks not allowed in statement pooling mode"
MEGABYTE = 1024 * 1024

backends = set()
_checks = []
_statement_on = 0


def check(name):
    """Registers a function, plain or async, as a check."""

    def register(body):
        _checks.append((name, body))
        return body

    return register


def saw(pids):
    """Takes down the servers that ran one prepared statement of one client, and holds the mode to its promise."""
    global _statement_on
    _statement_on = max(_statement_on, len(pids))
    backends.update(pids)
    assert len(pids) == 1 if SESSION else len(pids) >= ENOUGH, f"the statement ran on {len(pids)} servers"


def goes_on(rounds, pids):
    """Does a client of the concurrency check go on after so many rounds?"""
    return rounds < ROUNDS or len(pids) < ENOUGH and rounds < MOST_ROUNDS


async def _run_all(close):
    for name, body in _checks:
        print("running", name, file=sys.stderr, flush=True)
        begin = time.monotonic()
        try:
            result = body()
            if inspect.isawaitable(result):
                await asyncio.wait_for(result, 60)
            print("ok", name, f"({time.monotonic() - begin:.2f} s)", flush=True)
        except BaseException as error:  # a check that leaves by SystemExit has failed, too
            traceback.print_exc()
            print("not ok", name + ":", " ".join(f"{type(error).__name__}: {error}".split())[:300], flush=True)
    if close:
        await close()
    print("servers", len(backends), _statement_on)
    print("done", flush=True)


def run(close=None):
    """Runs all checks in order, then closes what they share."""
    asyncio.run(_run_all(close))


def in_threads(count, work):
    """Runs work(i) for each i in a thread of its own; the first failure is raised."""
    failures = []

    def one(i):
        try:
            work(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]


def fails(kind, body):
    """Runs body and returns the exception of this kind that it must end with."""
    try:
        body()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


# A value of each type: name, SQL type, values that must come back as they went.
UTC = datetime.timezone.utc
VALUES = [
    ("smallint and integer", "int4", [0, 1, -1, 2**31 - 1, -(2**31)]),
    ("bigint", "int8", [2**63 - 1, -(2**63)]),
    ("boolean", "bool", [True, False]),
    ("text", "text", ["", "plain", "it's \\ \"quoted\" $1 %s ${x}; --", "Grüße, 世界 🐘\n\t"]),
    ("float", "float8", [0.1, -1e308, 5e-324, float("inf")]),
    ("numeric", "numeric", [decimal.Decimal("12345678901234567890.123456789012345678"), decimal.Decimal("-0.000001")]),
    ("timestamptz", "timestamptz", [datetime.datetime(2024, 2, 29, 23, 59, 59, 999999, UTC), datetime.datetime(1, 1, 2, tzinfo=UTC)]),
    ("date", "date", [datetime.date(1999, 12, 31)]),
    ("bytea", "bytea", [bytes(range(256)) * 20, b""]),
    ("integer array", "int4[]", [[1, 2, 3], [], [1, None, 3]]),
    ("text array", "text[]", [["a", None, 'q"u,o{t}e\\', "NULL"]]),
    ("uuid", "uuid", [uuid.UUID("12345678-1234-5678-1234-567812345678")]),
]
DOCUMENT = {"a": [1, 2.5, None, True], "ü": {"nested": "it's"}}
