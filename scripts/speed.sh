#!/usr/bin/env bash
# The speed of this machine's SharkLock: own names with 1 and 256 clients and one hot lock with 64,
# once on a disk (durable) and once in memory (/dev/shm: what the CPU alone allows). Starts its own
# servers and ends them. `speed.sh [DURATION]`, 10s when not given; DISK=DIR chooses the disk.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

duration=${1:-10s}
binary=${SHARKLOCK_BIN:-${CARGO_TARGET_DIR:-target}/release/sharklock}
[ -x "$binary" ] || { scripts/setup.sh && cargo build --release --locked --package sharklock-cli; }

disk=$(mktemp -d "${DISK:-.}/speed.XXXXXX")
memory=$(mktemp -d /dev/shm/speed.XXXXXX)
server=
stop() {
  [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null && wait "$server"; } || true
  server=
}
trap 'stop; rm -rf "$disk" "$memory"' EXIT

for dir in "$disk" "$memory"; do
  printf '\n#### data in %s\n' "$dir"
  "$binary" dev --data-dir "$dir/data" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
    >"$dir/banner" 2>"$dir/log" &
  server=$!
  deadline=$((SECONDS + 30))
  until endpoint=$(awk '$1 == "gateway" { print $2; found = 1 } END { exit !found }' "$dir/banner"); do
    if ! kill -0 "$server" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
      cat "$dir/log" >&2
      exit 1
    fi
    sleep 0.1
  done
  for load in 'acquire-release --clients 1' 'acquire-release --clients 256' 'contend --clients 64'; do
    echo
    # shellcheck disable=SC2086 # the load is several words
    "$binary" bench $load --duration "$duration" --endpoints "$endpoint" --fsync-dir "$dir"
  done
  stop
done
