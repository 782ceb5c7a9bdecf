"""pgbench: its own load and scripts of ours, by the simple and the extended protocol and with prepared statements."""

import os
import re
import subprocess
import tempfile

import psycopg

import kit
from kit import BLOCKS, CLIENTS, SESSION, check

PGBENCH = os.path.join(os.environ["PGBIN"], "pgbench")
ENVIRONMENT = {**os.environ, "PGHOST": kit.HOST, "PGPORT": str(kit.PORT), "PGUSER": kit.USER, "PGPASSWORD": kit.PASSWORD, "PGDATABASE": kit.DATABASE}


def pgbench(*args, status=0):
    done = subprocess.run([PGBENCH, *map(str, args)], capture_output=True, text=True, env=ENVIRONMENT, timeout=100)
    assert done.returncode == status, done.stderr[-2000:]
    return done.stdout + done.stderr


def script(text, protocol, *args, **more):
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(text)
        file.flush()
        return pgbench("-n", "-M", protocol, "-f", file.name, *args, **more)


def rows(query):
    with psycopg.connect(host=kit.HOST, port=kit.PORT, user=kit.USER, password=kit.PASSWORD, dbname=kit.DATABASE, autocommit=True) as conn:
        return conn.execute(query).fetchall()


def execute(query):
    with psycopg.connect(host=kit.HOST, port=kit.PORT, user=kit.USER, password=kit.PASSWORD, dbname=kit.DATABASE, autocommit=True) as conn:
        conn.execute(query)


# In session mode each client has a server for as long as it goes on, so that not all can go at a time.
CROWD = kit.SERVERS - 2 if SESSION else CLIENTS
# A thread for each: pgbench's threads stand still while one of their clients prepares a statement, also for those that have
# a server in a transaction and would have to give it back first.
CLIENTS_AND_THREADS = "-c", CROWD, "-j", CROWD


@check("initialises its tables")
def _():
    pgbench("-i", "-q", "-I", "dt")
    if BLOCKS:
        # Data come by COPY, in a transaction.
        pgbench("-i", "-q", "-I", "g")
    else:
        execute("INSERT INTO pgbench_branches (bid, bbalance) VALUES (1, 0)")
        execute("INSERT INTO pgbench_accounts (aid, bid, abalance) SELECT i, 1, 0 FROM generate_series(1, 100000) i")
    pgbench("-i", "-q", "-I", "vp")
    execute("DROP TABLE IF EXISTS pgbench_pids, pgbench_tags")
    execute("CREATE TABLE pgbench_pids (protocol text, client int, pid int, UNIQUE (protocol, client, pid))")
    execute("CREATE TABLE pgbench_tags (protocol text, client int, n bigint)")


for protocol in "simple", "extended", "prepared":

    if BLOCKS:

        @check(f"{protocol}: TPC-B, and the books balance")
        def _(protocol=protocol):
            before = rows("SELECT count(*) FROM pgbench_history")[0][0]
            out = pgbench("-n", "-M", protocol, *CLIENTS_AND_THREADS, "-t", 60)
            assert f"actually processed: {CROWD * 60}/{CROWD * 60}" in out, out
            assert rows("SELECT count(*) FROM pgbench_history")[0][0] == before + CROWD * 60
            sums = rows(
                "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),"
                " (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")[0]
            assert len(set(sums)) == 1, sums

    if BLOCKS and protocol != "simple":

        @check(f"{protocol}: a pipeline of ours")
        def _(protocol=protocol):
            out = script(
                "\\set n random(1, 100000)\n\\startpipeline\nBEGIN;\nSELECT :n AS a;\nSELECT abalance FROM pgbench_accounts WHERE aid = :n;\nCOMMIT;\n\\endpipeline\n",
                protocol, *CLIENTS_AND_THREADS, "-t", 40)
            assert f"actually processed: {CROWD * 40}/{CROWD * 40}" in out, out

    @check(f"{protocol}: single statements, each client counts its own")
    def _(protocol=protocol):
        # The divisor fails the client if anybody else's row is seen, or one of its own is not.
        out = script(
            "\\set r random(1, 1000000)\n"
            f"INSERT INTO pgbench_tags VALUES ('{protocol}', :client_id, :r);\n"
            f"SELECT count(*) AS seen FROM pgbench_tags WHERE protocol = '{protocol}' AND client = :client_id AND n = :r \\gset\n"
            "SELECT :r / least(:seen, 1);\n"
            f"INSERT INTO pgbench_pids SELECT '{protocol}', :client_id, pg_backend_pid() FROM pg_sleep(0.0005 * (:r % 5)) ON CONFLICT DO NOTHING;\n",
            protocol, *CLIENTS_AND_THREADS, "-t", kit.ROUNDS)
        assert f"actually processed: {CROWD * kit.ROUNDS}/{CROWD * kit.ROUNDS}" in out, out
        counted = rows(f"SELECT count(*), count(DISTINCT client) FROM pgbench_tags WHERE protocol = '{protocol}'")
        assert counted == [(CROWD * kit.ROUNDS, CROWD)], counted
        pids = rows(f"SELECT array_agg(pid) FROM pgbench_pids WHERE protocol = '{protocol}' GROUP BY client")
        assert len(pids) == CROWD
        for (own,) in pids:
            kit.backends.update(own)
            if protocol == "prepared":
                kit.saw(set(own))

    @check(f"{protocol}: a connection per transaction")
    def _(protocol=protocol):
        out = script("SELECT :client_id + 1;\n", protocol, "-C", "-c", 8, "-t", 15)
        assert "actually processed: 120/120" in out, out

    @check(f"{protocol}: an error ends the client, and no other")
    def _(protocol=protocol):
        out = script("SELECT 1 / :client_id;\n", protocol, "-c", 4, "-t", 20, status=2)
        assert "division by zero" in out and re.search(r"actually processed: 60/80", out), out


@check("select only, built in")
def _():
    out = pgbench("-n", "-M", "prepared", "-S", *CLIENTS_AND_THREADS, "-t", 300)
    assert f"actually processed: {CROWD * 300}/{CROWD * 300}" in out, out


kit.run()
