"""psql (libpq): what people type, scripts, \\copy, SQL-level PREPARE, Ctrl-C."""

import os
import re
import signal
import subprocess
import tempfile
import time

import kit
from kit import BLOCKS, CLIENTS, MEGABYTE, REFUSED, SESSION, check

PSQL = os.path.join(os.environ["PGBIN"], "psql")
ENVIRONMENT = {**os.environ, "PGPASSWORD": kit.PASSWORD, "PGCONNECT_TIMEOUT": "20"}
WHERE = f"host={kit.HOST} port={kit.PORT} user={kit.USER} dbname={kit.DATABASE}"


def start(*args, where=WHERE, env=ENVIRONMENT):
    return subprocess.Popen(
        [PSQL, "-X", "-q", "-A", "-t", *args, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def psql(text, *args, status=0, **more):
    """Runs a script; returns what it printed and, after it, what it complained of."""
    process = start(*args, **more)
    out, err = process.communicate(text, timeout=60)
    assert process.returncode == status, f"status {process.returncode}: {err}"
    return out.rstrip("\n"), err


def same(text, expected, **more):
    out, err = psql(text, "-v", "ON_ERROR_STOP=1", **more)
    assert (out, err) == (expected, ""), (out, err)


@check("connects by SCRAM, and makes its tables")
def _():
    same("SELECT current_user, current_database()", f"{kit.USER}|{kit.DATABASE}")
    psql("DROP TABLE IF EXISTS psql_things; CREATE TABLE psql_things (owner text, n int, note text, UNIQUE (owner, n))", "-v", "ON_ERROR_STOP=1")


@check("a wrong password, an unknown database")
def _():
    out, err = psql("", status=2, env={**ENVIRONMENT, "PGPASSWORD": "wrong"})
    assert f'password authentication failed for user "{kit.USER}"' in err
    out, err = psql("", status=2, where=WHERE + "x")
    assert f'database "{kit.DATABASE}x" does not exist' in err


@check("values of many types")
def _():
    same("SELECT 1, 'ü''s', 0.1::float8, 12345678901234567890.0123456789, NULL, true, '\\xdeadbeef'::bytea, '{1,NULL,3}'::int[], '{\"a\": [1]}'::jsonb,"
         " timestamptz '2024-02-29 12:00+00' AT TIME ZONE 'UTC'",
         "1|ü's|0.1|12345678901234567890.0123456789||t|\\xdeadbeef|{1,NULL,3}|{\"a\": [1]}|2024-02-29 12:00:00")


@check("\\gdesc, \\gset, \\gexec, \\if, \\crosstabview")
def _():
    same("SELECT 1 AS a, 'x'::text AS b \\gdesc", "a|integer\nb|text")
    same("SELECT 42 AS x \\gset \n SELECT :x + 1;\nSELECT true AS t \\gset \n\\if :t\n SELECT 'yes';\n\\endif", "43\nyes")
    same("SELECT format('SELECT %s', i) FROM generate_series(1, 3) i \\gexec", "1\n2\n3")
    same("VALUES ('r1','c1',1), ('r2','c2',2) \\crosstabview", "r1|1|\nr2||2")


@check("the commands that look into the catalogues")
def _():
    out, _ = psql("\\d psql_things\n\\dt psql_*\n\\l\n\\du\n\\df pg_backend_pid\n\\conninfo")
    assert "owner|text|" in out and "public|psql_things|table" in out and str(kit.PORT) in out, out


@check("several statements in one string are one transaction")
def _():
    out, err = psql("", "-c", "INSERT INTO psql_things VALUES ('string', 1); SELECT 1/0", status=1)
    assert "division by zero" in err
    same("SELECT count(*) FROM psql_things WHERE owner = 'string'", "0")


if BLOCKS:

    @check("commit and rollback, with an error inside")
    def _():
        out, err = psql("BEGIN; INSERT INTO psql_things VALUES ('rollback', 1); ROLLBACK;\nBEGIN; INSERT INTO psql_things VALUES ('commit', 1); COMMIT;\n"
                        "BEGIN;\nSELECT 1/0;\nSELECT 1;\nROLLBACK;\nSELECT owner FROM psql_things WHERE owner IN ('rollback', 'commit')")
        assert out == "commit" and "current transaction is aborted" in err, (out, err)

    @check("a script in a single transaction, chained commits")
    def _():
        psql("INSERT INTO psql_things VALUES ('single', 1);\nSELECT 1/0;", "-1", "-v", "ON_ERROR_STOP=1", "-f", "-", status=3)
        same("SELECT count(*) FROM psql_things WHERE owner = 'single'", "0")
        same("BEGIN; INSERT INTO psql_things VALUES ('chain', 1); COMMIT AND CHAIN; INSERT INTO psql_things VALUES ('chain', 2); ROLLBACK AND CHAIN; SELECT 1; COMMIT;"
             " SELECT count(*) FROM psql_things WHERE owner = 'chain'", "1\n1")

    @check("AUTOCOMMIT off, ON_ERROR_ROLLBACK")
    def _():
        out, err = psql("\\set AUTOCOMMIT off\n\\set ON_ERROR_ROLLBACK on\nINSERT INTO psql_things VALUES ('save', 1);\n"
                        "INSERT INTO psql_things VALUES ('save', 1);\nINSERT INTO psql_things VALUES ('save', 2);\nCOMMIT;\nSELECT count(*) FROM psql_things WHERE owner = 'save'")
        assert out == "2" and "duplicate key" in err

    @check("FETCH_COUNT reads by a cursor")
    def _():
        same("\\set FETCH_COUNT 100\nSELECT i FROM generate_series(1, 5000) i", "\n".join(str(i) for i in range(1, 5001)))

    @check("cursors, PREPARE and temporary tables within a transaction")
    def _():
        same("BEGIN; DECLARE c SCROLL CURSOR FOR SELECT i FROM generate_series(1, 100) i; FETCH 2 FROM c; MOVE 10 IN c; FETCH BACKWARD 1 FROM c; CLOSE c;"
             " PREPARE p (int) AS SELECT $1 * 2; EXECUTE p (4); DEALLOCATE p;"
             " CREATE TEMP TABLE psql_temp (n int) ON COMMIT DROP; INSERT INTO psql_temp VALUES (9); SELECT n FROM psql_temp; COMMIT", "1\n2\n11\n8\n9")

    @check("two-phase commit")
    def _():
        same("BEGIN; INSERT INTO psql_things VALUES ('2pc', 1); PREPARE TRANSACTION 'psql';\nCOMMIT PREPARED 'psql';\nSELECT count(*) FROM psql_things WHERE owner = '2pc'", "1")

else:

    @check("a transaction block is refused")
    def _():
        assert REFUSED in psql("BEGIN;\nSELECT 1;", status=2)[1]


@check("a row of 1 MB each way")
def _():
    text = "ü" * (MEGABYTE // 2)
    same(f"SELECT '{text}'", text)


@check("\\copy both ways")
def _():
    rows = "".join(f"copy\t{i}\tnote {i}\\n\n" for i in range(50_000))
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
        file.write(rows)
        file.flush()
        same(f"\\copy psql_things FROM '{file.name}'", "")
    same("\\copy (SELECT * FROM psql_things WHERE owner = 'copy' ORDER BY n) TO STDOUT", rows.rstrip("\n"))
    same("COPY psql_things FROM STDIN (FORMAT csv);\ncsv,1,\"x,y\"\n\\.\nSELECT note FROM psql_things WHERE owner = 'csv'", "x,y")


@check("a COPY that the server refuses")
def _():
    out, err = psql("COPY psql_things FROM STDIN;\nbad\tthree\tx\n" + "bad\t1\tx\n" * 100_000 + "\\.\nSELECT count(*) FROM psql_things WHERE owner = 'bad'")
    assert out == "0" and "invalid input syntax" in err


@check("errors carry SQLSTATE, place and hint")
def _():
    out, err = psql("\\set VERBOSITY verbose\nSELECT nowhere;\n\\echo :SQLSTATE\nSELEKT;\n\\echo :LAST_ERROR_SQLSTATE\n"
                    "DO $$ BEGIN RAISE 'own' USING ERRCODE = 'AE123', HINT = 'a hint'; END $$;\n\\echo :SQLSTATE\nSELECT 1;\n\\echo :SQLSTATE")
    assert out.split() == ["42703", "42601", "AE123", "1", "00000"] and "HINT:  a hint" in err, (out, err)
    assert re.search(r"LOCATION: .*parse_relation\.c", err)


@check("notices")
def _():
    out, err = psql("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
    assert err == "NOTICE:  one\nWARNING:  two\n"


@check("Ctrl-C cancels the query, and the session goes on")
def _():
    process = start("-v", "ON_ERROR_STOP=0")
    process.stdin.write("SELECT 'psql cancel', pg_sleep(30);\nSELECT 'after';\n")
    process.stdin.flush()
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT ''psql cancel''%' AND wait_event = 'PgSleep'"
    while psql(running)[0] != "1":
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    # psql leaves a script at Ctrl-C only if it is interactive or told to stop at errors.
    out, err = process.communicate(timeout=20)
    assert "canceling statement due to user request" in err, err
    assert psql(running)[0] == "0"


@check("two thousand round trips in one session")
def _():
    process = start()
    out, _ = process.communicate("".join(f"SELECT {i};\n" for i in range(2000)), timeout=60)
    assert out.split() == [str(i) for i in range(2000)]


if SESSION:

    @check("SET, PREPARE, LISTEN and temporary tables last as long as the session")
    def _():
        out, _ = psql("SET search_path = pg_catalog;\nPREPARE p (int) AS SELECT $1 + 1;\nCREATE TEMP TABLE t AS SELECT 7 AS n;\nLISTEN news;\nBEGIN;\nCOMMIT;\n"
                      "SHOW search_path;\nEXECUTE p (1);\nSELECT n FROM t;\nNOTIFY news, 'hello';\nSELECT pg_backend_pid();")
        setting, value, n, note, pid = out.split("\n")
        assert (setting, value, n) == ("pg_catalog", "2", "7")
        assert note == f'Asynchronous notification "news" with payload "hello" received from server process with PID {pid}.'

    @check("\\c keeps to the pooler")
    def _():
        same("\\c\nSELECT 1", "1")


@check("a startup setting is the session's default")
def _():
    where = WHERE + " options='-c statement_timeout=77s'"
    same("SHOW statement_timeout", "77s", where=where)
    if SESSION:
        same("SET statement_timeout = 5; RESET ALL; SHOW statement_timeout", "77s", where=where)


@check("many clients, each sees its own rows only")
def _():
    pids = [set() for _ in range(CLIENTS)]

    def work(i):
        script = "".join(f"INSERT INTO psql_things VALUES ('client {i}', {k}, 'x');\nSELECT 'client {i}', {k}, pg_backend_pid();\n" for k in range(100))
        out, _ = psql(script + f"SELECT count(*) FROM psql_things WHERE owner = 'client {i}'", "-v", "ON_ERROR_STOP=1")
        *rows, count = [line.split("|") for line in out.split("\n")]
        assert [row[:2] for row in rows] == [[f"client {i}", str(k)] for k in range(100)] and count == ["100"]
        pids[i].update(row[2] for row in rows)

    kit.in_threads(CLIENTS, work)
    kit.backends.update(*pids)
    assert all(len(own) == 1 for own in pids) if SESSION else len(kit.backends) >= kit.ENOUGH


kit.run()
