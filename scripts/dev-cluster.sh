# shellcheck shell=bash
# Sourced, at the top of the tree, by scripts that measure a cluster of processes on this machine:
# `begin_cluster NODES` starts `dev --nodes NODES` in a directory of its own, and waits until it is up.
# Sets `binary`, `dir` and `server`. With the script end the server and the processes that it has put
# into `load` and `others`, and the directory goes. SHARKLOCK_BIN=FILE and DISK=DIR choose the binary
# and the disk, PORT_OFFSET=N the ports.
binary=${SHARKLOCK_BIN:-${CARGO_TARGET_DIR:-target}/release/sharklock}
[ -x "$binary" ] || { scripts/setup.sh && cargo build --release --locked --package sharklock-cli; }
dir=$(mktemp -d "${DISK:-.}/cluster.XXXXXX")
server=
load=
others=()
stop() {
  # By it whatever `others` are doing ends.
  touch "$dir/over"
  for process in $load "${others[@]}" $server; do
    kill -TERM "$process" 2>/dev/null && wait "$process" || true
  done
  rm -rf "$dir"
}
trap stop EXIT
export XDG_RUNTIME_DIR=$dir

begin_cluster() {
  "$binary" dev --nodes "$1" --port-offset "${PORT_OFFSET:-4000}" --data-dir "$dir/data" >"$dir/banner" 2>"$dir/log" &
  server=$!
  local deadline=$((SECONDS + 60))
  until grep -q 'Ctrl-C' "$dir/banner"; do
    if ! kill -0 "$server" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      cat "$dir/log" >&2
      exit 1
    fi
    sleep 0.1
  done
}

# The endpoints of the first so many nodes, as SHARKLOCK_ENDPOINTS takes them.
endpoints_of_first() {
  "$binary" dev ps --output json |
    jq --raw-output --argjson count "$1" '[.nodes[:$count][].gateway | "http://\(.)"] | join(",")'
}

# Whether something is so within so many seconds, asked twice a second: `within SECONDS COMMAND…`. If
# not, the script ends with what the cluster is like.
within() {
  local seconds=$1 end=$((SECONDS + $1))
  shift
  until "$@"; do
    if [ "$SECONDS" -ge "$end" ]; then
      echo "FAILED: not within $seconds s: $*"
      for what in status 'ranges ls' 'ops ls' 'schedule show'; do
        # shellcheck disable=SC2086 # These are words.
        "$binary" $what || true
      done
      exit 1
    fi
    sleep 0.5
  done
}
