#!/usr/bin/env bash
# Checks and tests the project as CI does, on a machine that has only Rust and a package manager.
#
#   tests/run.sh                    formatting, lints, documentation, then every test
#   tests/run.sh ARGUMENTS          the tests alone; the arguments go to `cargo test`
#   tests/run.sh --serve-databases  both database servers, until Ctrl-C, for working on tests
#
# Missing packages are installed, and the SDKs of tests/sdk/ once into target/sdk. PostgreSQL and MariaDB run on free ports of 127.0.0.1 from a temporary
# directory, and both are gone afterwards; servers that the machine already has are not touched.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly START_ATTEMPTS=5
readonly START_SECONDS=60
readonly MAX_CONNECTIONS=500
readonly USER_NAME=wxtoken

home='' # the temporary directory of the servers
password=''
postgres_bin=''
postgres_started=''
mariadbd=''
faketime=''
redis_server=''
memcached=''
mariadb_pid=''
step_pid=''

say() { printf 'tests/run.sh: %s\n' "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

fail_with_log() {
  cat "$1" >&2
  fail "$2"
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# --- what the machine must have ------------------------------------------------------------------

# PostgreSQL's server programs are outside PATH on Debian, Fedora and Homebrew. One that is in it may be a link, without its companions.
find_postgres() {
  local program directory found=''
  if program=$(command -v initdb); then
    postgres_bin=$(dirname "$(readlink -f "$program")")
    return
  fi
  for directory in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin {/opt/homebrew,/usr/local}/opt/postgresql@*/bin; do
    [ -x "$directory/initdb" ] && found+="$directory"$'\n'
  done
  postgres_bin=$(printf '%s' "$found" | sort -V | tail -n 1)
  [ -n "$postgres_bin" ]
}

find_mariadb() {
  local directory
  mariadbd=$(command -v mariadbd) && return
  for directory in /usr/sbin /usr/libexec /opt/homebrew/bin /usr/local/bin; do
    mariadbd=$directory/mariadbd
    [ -x "$mariadbd" ] && return
  done
  return 1
}

# The library that gives a process a wall clock of its own.
find_faketime() {
  for faketime in /usr/lib/*/faketime/libfaketime.so.1 /usr/lib{64,}/faketime/libfaketime.so.1 \
    {/opt/homebrew,/usr/local}/lib/faketime/libfaketime.1.dylib; do
    [ -f "$faketime" ] && return
  done
  return 1
}

# One that can make virtual environments, which Debian has in a package of its own.
find_python() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

find_node() { command -v node >/dev/null && command -v npm >/dev/null; }

# Both stand where other programs of the system do, on some systems outside PATH.
find_program() {
  local directory
  command -v "$1" && return
  for directory in /usr/sbin /opt/homebrew/bin /usr/local/bin; do
    [ -x "$directory/$1" ] && echo "$directory/$1" && return
  done
  return 1
}

# Valkey, which took the place of Redis in some distributions, speaks the same protocol.
find_redis() { redis_server=$(find_program redis-server) || redis_server=$(find_program valkey-server); }

find_memcached() { memcached=$(find_program memcached); }

as_root() {
  if is_root; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "Installing needs root: run as root, or install sudo, or install the packages by hand. Wanted: $*"
  fi
}

# RUNLEVEL=1 keeps Debian's packages from starting servers of their own where there is no systemd.
install_with_apt() {
  as_root apt-get update
  as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends "$@"
}

# The packages that bring what the second word names, where the first word installs them.
packages_with() {
  case $1-$2 in
  apt-postgres) echo postgresql ;;
  apt-mariadb) echo mariadb-server ;;
  apt-compiler) echo gcc libc6-dev ;;
  apt-python) echo python3-venv ;;
  apt-node | dnf-node) echo nodejs npm ;;
  apt-redis) echo redis-server ;;
  dnf-postgres) echo postgresql-server ;;
  dnf-mariadb) echo mariadb-server ;;
  dnf-compiler) echo gcc ;;
  dnf-python) echo python3 ;;
  brew-postgres) echo postgresql@17 ;;
  brew-compiler) fail "There is no C compiler. Install one with: xcode-select --install" ;;
  *-faketime) echo libfaketime ;;
  *) echo "$2" ;;
  esac
}

install_packages() {
  local source program
  local -a names=()
  if command -v apt-get >/dev/null; then
    source=apt
  elif command -v dnf >/dev/null; then
    source=dnf
  elif command -v brew >/dev/null; then
    source=brew
  else
    fail "There is no apt-get, dnf or brew here. Install these, then run this again: $*"
  fi
  for program in "$@"; do
    # shellcheck disable=SC2207 # Several packages are several words.
    names+=($(packages_with $source "$program"))
  done
  case $source in
  apt) install_with_apt "${names[@]}" ;;
  dnf) as_root dnf install -y "${names[@]}" ;;
  brew) brew install "${names[@]}" ;;
  esac
}

find_compiler() { command -v cc >/dev/null; }

ensure_packages() {
  local program
  local -a missing=()
  for program in postgres mariadb compiler faketime redis memcached python node; do
    "find_$program" || missing+=("$program")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing: ${missing[*]}"
  install_packages "${missing[@]}" </dev/null >&2
  for program in "${missing[@]}"; do
    "find_$program" || fail "What $program needs was installed, and is nowhere to be found."
  done
}

# --- the SDKs --------------------------------------------------------------------------------------

# Installed once; again when the file with their versions has changed, or the interpreter has gone.
ensure_python_sdks() {
  local directory=$1 list=$2
  "$directory/bin/python" -c '' 2>/dev/null && cmp -s "$list" "$directory/installed" && return
  say "installing: SDKs for Python ($list)"
  rm -rf "$directory"
  python3 -m venv "$directory" >&2 || fail "No virtual environment could be made in $directory."
  "$directory/bin/pip" install --disable-pip-version-check --no-input --quiet -r "$list" >&2 ||
    fail "The SDKs of $list could not be installed."
  cp "$list" "$directory/installed"
}

ensure_node_sdks() {
  local directory=$1 lock=tests/sdk/package-lock.json
  cmp -s "$lock" "$directory/installed" && return
  say "installing: SDKs for Node.js ($lock)"
  rm -rf "$directory"
  mkdir -p "$directory"
  cp tests/sdk/package.json "$lock" "$directory"
  # Nothing that a package brings is run before a test uses it.
  (cd "$directory" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error) >&2 ||
    fail "The SDKs of $lock could not be installed."
  cp "$lock" "$directory/installed"
}

ensure_sdks() {
  local place=${CARGO_TARGET_DIR:-$PWD/target}/sdk
  ensure_python_sdks "$place/wechatpy-1" tests/sdk/wechatpy-1.txt </dev/null
  ensure_python_sdks "$place/wechatpy-2" tests/sdk/wechatpy-2.txt </dev/null
  ensure_node_sdks "$place/node" </dev/null
  WXTOKEN_TEST_NODE=$(command -v node)
  export WXTOKEN_TEST_NODE
  export WXTOKEN_TEST_NODE_PATH=$place/node/node_modules
  export WXTOKEN_TEST_PYTHON=$place/wechatpy-1/bin/python
  export WXTOKEN_TEST_PYTHON_NEXT=$place/wechatpy-2/bin/python
}

# Some tests break a server, and start one of their own for that; some set the clocks of the instances that they start.
export_programs() {
  export WXTOKEN_TEST_POSTGRES_BIN=$postgres_bin
  export WXTOKEN_TEST_MARIADBD=$mariadbd
  export WXTOKEN_TEST_FAKETIME=$faketime
  export WXTOKEN_TEST_REDIS_SERVER=$redis_server
  export WXTOKEN_TEST_MEMCACHED=$memcached
}

ensure_rust() {
  command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin
  command -v cargo >/dev/null || fail "There is no cargo here. Install Rust first: https://rustup.rs"
  cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return
  command -v rustup >/dev/null || fail "cargo lacks rustfmt or clippy. Install these components of your Rust first."
  say "installing: rustfmt and clippy"
  rustup component add rustfmt clippy >&2
}

# --- the two servers -----------------------------------------------------------------------------

make_home() {
  local parent=${TMPDIR:-/tmp}
  # The servers' own users must be able to reach it, and root's TMPDIR may be closed to them.
  is_root && parent=/tmp
  home=$(mktemp -d "$parent/wxtoken-tests.XXXXXX")
  chmod 755 "$home"
  password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
}

# Below the range from which systems take the ports of outgoing connections. A port that is taken between this
# and the server's start costs one more attempt.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}

# PostgreSQL refuses to run as root.
as_postgres() {
  if ! is_root; then
    "$@"
  elif command -v runuser >/dev/null; then
    (cd "$home" && runuser -u postgres -- "$@")
  else
    (cd "$home" && su postgres -s /bin/sh -c "$(printf '%q ' "$@")")
  fi
}

start_postgres() {
  local data=$home/postgres log=$home/postgres.log port
  install -d -m 700 "$data"
  (umask 077 && echo "$password" >"$home/postgres.password")
  : >"$log"
  if is_root; then chown postgres "$data" "$log" "$home/postgres.password"; fi
  # Passwords go in the clear over loopback: SCRAM in a debug build costs every connection tens of milliseconds.
  as_postgres "$postgres_bin/initdb" --pgdata="$data" --username=$USER_NAME --pwfile="$home/postgres.password" \
    --auth-local=trust --auth-host=password --encoding=UTF8 --locale=C --no-sync >"$log" 2>&1 ||
    fail_with_log "$log" "PostgreSQL could not be initialised."
  # Said before it is true: an interruption during the start must stop the server too.
  postgres_started=yes
  for _ in $(seq $START_ATTEMPTS); do
    port=$(free_port)
    cat >>"$data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = '$data'
max_connections = $MAX_CONNECTIONS
fsync = off
synchronous_commit = off
full_page_writes = off
dynamic_shared_memory_type = mmap
CONF
    if as_postgres "$postgres_bin/pg_ctl" start -D "$data" -l "$log" -w -t $START_SECONDS >/dev/null 2>&1; then
      export WXTOKEN_TEST_POSTGRES="postgres://$USER_NAME:$password@127.0.0.1:$port/postgres"
      return
    fi
  done
  fail_with_log "$log" "PostgreSQL did not start."
}

# Answers on the server's own socket, which it opens after its port: nobody else's server can answer here.
mariadb_answers() {
  local tick
  for tick in $(seq $((START_SECONDS * 5))); do
    kill -0 "$mariadb_pid" 2>/dev/null || return 1
    "$(mariadb_program mariadb-admin)" --no-defaults --socket="$home/mariadb/socket" --user=root ping >/dev/null 2>&1 &&
      return
    sleep 0.2
  done
  say "MariaDB gave no answer after $tick looks in $START_SECONDS s."
  return 1
}

# The server's companions are in PATH, or, with Homebrew, beside it.
mariadb_program() { command -v "$1" || echo "$(dirname "$mariadbd")/$1"; }

initialise_mariadb() {
  local data=$home/mariadb log=$home/mariadb.log
  local -a user=()
  install -d -m 700 "$data"
  (umask 077 && cat >"$home/mariadb.sql") <<SQL
CREATE USER '$USER_NAME'@'127.0.0.1' IDENTIFIED BY '$password';
GRANT ALL ON *.* TO '$USER_NAME'@'127.0.0.1';
SQL
  if is_root; then
    chown mysql "$data" "$home/mariadb.sql"
    user=(--user=mysql)
  fi
  "$(mariadb_program mariadb-install-db)" --no-defaults --datadir="$data" --auth-root-authentication-method=normal \
    --skip-test-db ${user[@]+"${user[@]}"} >"$log" 2>&1 ||
    fail_with_log "$log" "MariaDB could not be initialised."
}

start_mariadb() {
  local data=$home/mariadb log=$home/mariadb.log port
  local -a options
  initialise_mariadb
  options=(--no-defaults --datadir="$data" --socket="$data/socket" --pid-file="$data/pid" --bind-address=127.0.0.1
    --init-file="$home/mariadb.sql" --max-connections=$MAX_CONNECTIONS --skip-log-bin --skip-name-resolve
    --innodb-flush-log-at-trx-commit=0 --skip-innodb-doublewrite --loose-innodb-flush-method=nosync
    --loose-debug-no-sync)
  if is_root; then options+=(--user=mysql); fi
  for _ in $(seq $START_ATTEMPTS); do
    port=$(free_port)
    "$mariadbd" "${options[@]}" --port="$port" >>"$log" 2>&1 </dev/null &
    mariadb_pid=$!
    if mariadb_answers; then
      export WXTOKEN_TEST_MYSQL="mysql://$USER_NAME:$password@127.0.0.1:$port/mysql"
      return
    fi
    stop_mariadb
  done
  fail_with_log "$log" "MariaDB did not start."
}

# Both servers are ended the hard way: what they would save is deleted the moment after.
stop_mariadb() {
  [ -n "$mariadb_pid" ] || return 0
  kill -KILL "$mariadb_pid" 2>/dev/null || true
  wait "$mariadb_pid" 2>/dev/null || true
  mariadb_pid=''
}

stop_postgres() {
  [ -n "$postgres_started" ] || return 0
  as_postgres "$postgres_bin/pg_ctl" stop -D "$home/postgres" -m immediate >/dev/null 2>&1 || true
  postgres_started=''
}

clean_up() {
  local status=$?
  trap '' INT TERM HUP
  # Those that a test has stopped hear the first only after the second.
  if [ -n "$step_pid" ]; then kill -TERM -- "-$step_pid" 2>/dev/null && kill -CONT -- "-$step_pid" 2>/dev/null || true; fi
  stop_postgres
  stop_mariadb
  [ -z "$home" ] || rm -rf "$home"
  exit "$status"
}

start_databases() {
  local began=$SECONDS
  make_home
  start_postgres
  start_mariadb
  say "PostgreSQL and MariaDB answer ($((SECONDS - began)) s)"
}

# --- the steps -----------------------------------------------------------------------------------

# A step has a process group of its own, so that an interrupted run ends the test binaries along with cargo.
step() {
  local name=$1 began=$SECONDS status=0
  shift
  say "$name: $*"
  set -m
  "$@" </dev/null &
  step_pid=$!
  set +m
  wait "$step_pid" || status=$?
  step_pid=''
  [ "$status" -eq 0 ] || fail "$name failed with status $status ($((SECONDS - began)) s)"
  say "$name: done ($((SECONDS - began)) s)"
}

run_checks() {
  step formatting cargo fmt --check
  step lints cargo clippy --all-targets --all-features --locked -- -D warnings
  step documentation env RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --locked --document-private-items
}

# Most tests wait for something most of the time; one thread a core would leave the cores idle.
run_tests() {
  local name=$1
  shift
  step "$name" env TMPDIR="$home/tests" RUST_TEST_THREADS="${RUST_TEST_THREADS:-16}" \
    cargo test --locked --features fail-points "$@"
}

main() {
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  ensure_rust
  ensure_packages
  export_programs
  ensure_sdks
  if [ "${1:-}" = --serve-databases ]; then
    start_databases
    printf 'export %s=%s\n' WXTOKEN_TEST_POSTGRES "$WXTOKEN_TEST_POSTGRES" WXTOKEN_TEST_MYSQL "$WXTOKEN_TEST_MYSQL" \
      WXTOKEN_TEST_POSTGRES_BIN "$WXTOKEN_TEST_POSTGRES_BIN" WXTOKEN_TEST_MARIADBD "$WXTOKEN_TEST_MARIADBD" \
      WXTOKEN_TEST_FAKETIME "$WXTOKEN_TEST_FAKETIME" WXTOKEN_TEST_REDIS_SERVER "$WXTOKEN_TEST_REDIS_SERVER" \
      WXTOKEN_TEST_MEMCACHED "$WXTOKEN_TEST_MEMCACHED" WXTOKEN_TEST_NODE "$WXTOKEN_TEST_NODE" \
      WXTOKEN_TEST_NODE_PATH "$WXTOKEN_TEST_NODE_PATH" WXTOKEN_TEST_PYTHON "$WXTOKEN_TEST_PYTHON" \
      WXTOKEN_TEST_PYTHON_NEXT "$WXTOKEN_TEST_PYTHON_NEXT"
    say "serving until Ctrl-C"
    wait "$mariadb_pid" || true
    fail "MariaDB ended by itself."
  fi
  [ $# -gt 0 ] || run_checks
  start_databases
  # Tests that are interrupted leave their temporary files; here they go with everything else.
  mkdir "$home/tests"
  if [ $# -gt 0 ]; then
    run_tests tests "$@"
  else
    # Those that hold the program to fractions of a second have the machine to themselves.
    run_tests tests -- --skip promises::fairness --skip promises::instances --skip promises::steadiness --skip outages:: --skip rivals::short --skip mirrors::
    run_tests "timed tests" --test suite -- promises::instances promises::steadiness outages:: mirrors::
    # A thousand accounts are work enough for a small machine, and so are two hundred runs of rivals.
    run_tests fairness --test suite -- promises::fairness --test-threads 1
    run_tests rivals --test suite -- rivals::short
  fi
  say "everything passed (${SECONDS} s)"
}

main "$@"
