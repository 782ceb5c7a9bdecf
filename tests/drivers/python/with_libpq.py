"""libpq of today (the one that psycopg brings along: sslnegotiation came with 17): what a client may ask of TLS and of its login.

Every sslmode x sslnegotiation x channel_binding x require_auth, against Aethers of this program's own with no TLS, with TLS for those who
want it and with TLS for all, by SCRAM and by cleartext password. What has to come of each is reckoned from PostgreSQL's rules, below."""

import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import time

import psycopg

import kit
from kit import check

MODES = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]
NEGOTIATIONS = ["postgres", "direct"]
BINDINGS = ["disable", "prefer", "require"]
METHODS = ["", "scram-sha-256", "password", "!password"]
CERTIFICATES = pathlib.Path(__file__).parents[2] / "certificates"


def due(tls, method, sslmode, negotiation, binding, required):
    """What a client gets: "TLS", "plain", or a piece of what libpq says."""
    if negotiation == "direct" and sslmode in ("disable", "allow", "prefer"):
        return f'weak sslmode "{sslmode}" may not be used with sslnegotiation=direct'
    # libpq comes in the clear first with disable and allow, with TLS first otherwise.
    if sslmode == "disable":
        way = "plain" if tls != "require" else "no encryption"
    elif sslmode == "allow":
        way = "plain" if tls != "require" else "TLS"
    elif sslmode == "prefer":
        way = "plain" if tls == "disable" else "TLS"
    elif tls == "disable":
        # Who begins with TLS where there is none is hung up on.
        return "server does not support SSL, but SSL was required" if negotiation == "postgres" else "SSL"
    else:
        way = "TLS"
    if way == "no encryption":
        return way
    asked = {"scram-sha-256": "SASL authentication", "password": "cleartext password"}[method]
    if required not in ("", method) and (required != "!password" or method == "password"):
        return f"failed: server requested {'a ' if method == 'password' else ''}{asked}"
    if binding == "require" and method != "scram-sha-256":
        return "channel binding required but not supported by server's authentication request"
    if binding == "require" and way == "plain":
        return "channel binding required, but SSL not in use"
    return way


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def aether(tls, method):
    """An Aether whose clients get this TLS and this login; its port and the file of its root."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="aether-libpq-") as place:
        place = pathlib.Path(place)
        for name in ("server.crt", "server.key", "root.crt"):
            shutil.copy(CERTIFICATES / name, place / name)
        os.chmod(place / "server.key", 0o600)
        shown = "" if tls == "disable" else f", cert_file: {place}/server.crt, key_file: {place}/server.key"
        (place / "aether.yaml").write_text(
            f'server: {{listen_addr: "127.0.0.1:{port}", tls: {{mode: {tls}{shown}}}}}\n'
            f'pool: {{backend: {{host: "127.0.0.1", port: {os.environ["SERVER_PORT"]}}}, max_connections: 8}}\n'
            f"databases: {{{kit.DATABASE}: {{}}}}\n"
            f"auth: {{type: {method}, failure_limit: 0, failure_delay: 0, users: {{{kit.USER}: {json.dumps(kit.PASSWORD)}}}}}\n")
        user = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam(os.environ["SERVER_USER"])
            for path in (place, *place.iterdir()):
                os.chown(path, owner.pw_uid, owner.pw_gid)
            user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        with open(place / "log", "w") as log:
            process = subprocess.Popen([os.environ["AETHER_BIN"], place / "aether.yaml"], cwd="/", stdout=log, stderr=log, **user)
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, (place / "log").read_text()
                time.sleep(0.1)
            # What a key has to be for libpq is not asked here, only the root is shown to it.
            yield port, place / "root.crt"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def came(port, root, sslmode, negotiation, binding, required):
    """What a client gets, as `due` says it; all of what libpq says if it is an error."""
    words = dict(
        host="localhost", hostaddr="127.0.0.1", port=port, user=kit.USER, password=kit.PASSWORD, dbname=kit.DATABASE, connect_timeout=20,
        sslmode=sslmode, sslnegotiation=negotiation, channel_binding=binding, sslrootcert=root, gssencmode="disable")
    if required:
        words["require_auth"] = required
    try:
        with psycopg.connect(**words) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
            return "TLS" if conn.pgconn.ssl_in_use else "plain"
    except psycopg.OperationalError as error:
        return str(error)


def holds(tls, method):
    wrong, count = [], 0
    with aether(tls, method) as (port, root), concurrent.futures.ThreadPoolExecutor(4) as threads:
        combinations = list(itertools.product(MODES, NEGOTIATIONS, BINDINGS, METHODS))
        results = threads.map(lambda words: came(port, root, *words), combinations)
        for words, result in zip(combinations, results, strict=True):
            count += 1
            expected = due(tls, method, *words)
            succeeds = expected in ("TLS", "plain")
            if result != expected if succeeds else expected not in result:
                wrong.append(f"{words}: {result!r} and not {expected!r}")
    assert count == len(MODES) * len(NEGOTIATIONS) * len(BINDINGS) * len(METHODS) == 144
    assert not wrong, f"{len(wrong)} of {count}: " + "; ".join(wrong[:5])


@check("libpq knows sslnegotiation")
def _():
    assert psycopg.pq.version() >= 170000, psycopg.pq.version()


for _tls, _method in itertools.product(("disable", "prefer", "require"), ("scram-sha-256", "password")):
    check(f"144 ways to come, TLS {_tls}, {_method}")(lambda tls=_tls, method=_method: holds(tls, method))

kit.run()
