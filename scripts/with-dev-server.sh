#!/usr/bin/env bash
# Runs a command while a fresh `sharklock dev` serves it: `with-dev-server.sh BINARY COMMAND…`.
# The command finds the server in SHARKLOCK_ENDPOINTS. The server keeps nothing.
set -euo pipefail

binary=$1
shift
dir=$(mktemp -d)
server=
stop() {
  [ -z "$server" ] || { kill -TERM "$server" 2>/dev/null && wait "$server"; } || true
  rm -rf "$dir"
}
trap stop EXIT

"$binary" dev --ephemeral --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 >"$dir/banner" 2>"$dir/log" &
server=$!
deadline=$((SECONDS + 60))
until endpoint=$(awk '$1 == "gateway" { print $2; found = 1 } END { exit !found }' "$dir/banner"); do
  if ! kill -0 "$server" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
    echo 'sharklock dev did not become ready:' >&2
    cat "$dir/log" >&2
    exit 1
  fi
  sleep 0.1
done
SHARKLOCK_ENDPOINTS=$endpoint "$@"
