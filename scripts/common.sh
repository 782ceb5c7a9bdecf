# Shared by the scripts beside it (source it, don't run it): messages, becoming root, becoming somebody else than root,
# installing PostgreSQL by apt, and starting and stopping a scratch cluster. Nothing here touches a system cluster.
# shellcheck shell=bash

set -Eeuo pipefail
trap 'printf "error: %s, line %s: %s\n" "${BASH_SOURCE[0]}" "$LINENO" "$BASH_COMMAND" >&2' ERR

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TARGET=$(realpath -m "${CARGO_TARGET_DIR:-$ROOT/target}")
export CARGO_TARGET_DIR=$TARGET
# Whoever calls us may point psql elsewhere by PG*; scratch clusters are named explicitly.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGPASSWORD PGSERVICE PGOPTIONS PGDATA PGSSLMODE

say() { printf '== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# ---- who we are -----------------------------------------------------------------------------------------------------

# Runs a command as root, by sudo where needed.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "this needs root, and there is no sudo: $*"
    fi
}

# PostgreSQL and Aether refuse to run as root, so root runs them as this user. Everybody else runs them as himself.
if [ "$(id -u)" = 0 ]; then SERVER_USER=${SERVER_USER:-postgres}; else SERVER_USER=$(id -un); fi

# Runs a command as that user.
as_server() { ( become_server "$@" ); }

# The same in place of the calling (sub)shell, so that `( become_server ... ) &` leaves the command's own id in $!. Such a
# background command would find SIGINT and SIGQUIT ignored, as bash does it; and it must not outlive the script.
become_server() {
    local ids=()
    if [ "$(id -u)" = 0 ]; then
        ids=("--reuid=$SERVER_USER" "--regid=$(id -g "$SERVER_USER")" --clear-groups --inh-caps=-all)
        export HOME=/nonexistent
    fi
    exec setpriv "${ids[@]}" --pdeathsig TERM -- env --default-signal=INT,QUIT "$@"
}

# Prints a directory that the server user owns, under target/NAME; a link to a fresh one in /var/tmp when the checkout
# lies where that user can't go (/root), or where a Unix socket's path would be too long (107 bytes).
server_place() {
    local name=$1 at=$TARGET/$1
    mkdir -p "$TARGET"
    if [ -L "$at" ] && [ -d "$at/" ]; then readlink -f "$at"; return; fi
    rm -f "$at" 2>/dev/null || true
    if [ "${#at}" -lt 70 ] && as_server test -x "$TARGET"; then
        mkdir -p "$at"
    else
        local elsewhere
        elsewhere=$(mktemp -d "/var/tmp/aether-$name.XXXXXX")
        chmod 755 "$elsewhere"
        ln -s "$elsewhere" "$at"
        at=$elsewhere
        say "target/$name is a link to $elsewhere ($SERVER_USER can't use $TARGET)"
    fi
    if [ "$(id -u)" = 0 ]; then chown "$SERVER_USER:" "$at"; fi
    printf '%s\n' "$at"
}

# ---- installing -----------------------------------------------------------------------------------------------------

apt_updated=
apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300 "$@" </dev/null >&2; }

# Installs the Debian packages given, asking for the package lists once.
install_packages() {
    command -v apt-get >/dev/null || die "install these by hand, there is no apt here: $*"
    say "installing $*"
    if [ -z "$apt_updated" ]; then apt_get update; apt_updated=1; fi
    apt_get install --no-install-recommends "$@"
}

# The newest PostgreSQL whose server programs are here, as a bin directory; nothing when there is none.
postgres_bin() {
    local found
    for found in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5 -Vr); do
        if [ -x "$found/initdb" ] && [ -x "$found/pgbench" ]; then printf '%s\n' "$found"; return; fi
    done
    found=$(pg_config --bindir 2>/dev/null || true)
    if [ -x "$found/initdb" ] && [ -x "$found/pgbench" ]; then printf '%s\n' "$found"; fi
}

# Makes sure of PostgreSQL's programs and sets PGBIN. Debian's package would create and start a cluster `main` at its
# first installation: a passing line of configuration keeps it from that.
need_postgres() {
    PGBIN=$(postgres_bin)
    if [ -z "$PGBIN" ]; then
        local no_main=/etc/postgresql-common/createcluster.d/aether-no-main-cluster.conf
        as_root mkdir -p "${no_main%/*}"
        printf 'create_main_cluster = false\n' | as_root tee "$no_main" >/dev/null
        install_packages postgresql postgresql-contrib || { as_root rm -f "$no_main"; die "apt could not install PostgreSQL"; }
        as_root rm -f "$no_main"
        PGBIN=$(postgres_bin)
        [ -n "$PGBIN" ] || die "PostgreSQL is installed, but initdb and pgbench are nowhere under /usr/lib/postgresql"
    fi
    export PGBIN
}

# Everything that is made goes under target/.
need_target() {
    if ! mkdir -p "$TARGET" 2>/dev/null || ! [ -w "$TARGET" ]; then
        die "cannot write to $TARGET: take a copy of the checkout of your own, or set CARGO_TARGET_DIR"
    fi
}

# Rust's linker is the C compiler's; rustup does not bring one.
need_rust() {
    local wanted have
    need_target
    # A login shell has this on its path already; sudo and CI may not.
    command -v cargo >/dev/null || PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || die "there is no cargo: install Rust from https://rustup.rs"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml")
    have=$(cd "$ROOT" && cargo --version | awk '{ print $2 }')
    printf '%s\n' "$wanted" "${have%%-*}" | sort -VC \
        || die "Rust $have is too old, Aether needs $wanted or newer: run 'rustup update', or install Rust from https://rustup.rs"
    command -v cc >/dev/null || install_packages gcc libc6-dev
}

# ---- clusters -------------------------------------------------------------------------------------------------------

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A free loopback port from the range below the kernel's own choices.
free_port() {
    local port
    for _ in $(seq 200); do
        port=$((20000 + RANDOM % 12000))
        if port_is_free "$port"; then printf '%s\n' "$port"; return; fi
    done
    die "no free port found"
}

# cluster_create DIR [initdb options]: superuser postgres, no durability.
cluster_create() {
    local dir=$1; shift
    as_server "$PGBIN/initdb" -D "$dir/data" -U postgres --no-sync --encoding=UTF8 --no-locale "$@" >"$dir/initdb.log" 2>&1 </dev/null \
        || { cat "$dir/initdb.log" >&2; die "initdb failed"; }
}

# cluster_start DIR PORT: on loopback and on a Unix socket in DIR.
cluster_start() {
    local dir=$1 port=$2
    as_server "$PGBIN/pg_ctl" -D "$dir/data" -l "$dir/postgres.log" -w -t 60 -s \
        -o "-F -p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$dir" start </dev/null >/dev/null 2>"$dir/pg_ctl.log" \
        || { tail -20 "$dir/pg_ctl.log" "$dir/postgres.log" >&2; die "PostgreSQL did not start on port $port"; }
}

cluster_stop() {
    if [ -e "$1/data/postmaster.pid" ]; then
        as_server "$PGBIN/pg_ctl" -D "$1/data" -m "${2:-fast}" -w -t 60 -s stop </dev/null || true
    fi
}
