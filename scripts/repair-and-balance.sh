#!/usr/bin/env bash
# What the masters do by themselves, timed: a cluster of five on this machine under `bench
# acquire-release`, in thirteen ranges. One store is killed for good, another is drained, two are
# added. Prints how long each took until all ranges had three voters again, the store was empty, all
# stores had about the same. Exit code 1: it did not come to that, a client had an error, or the
# history of the clients a violation.
# `repair-and-balance.sh`; SHARKLOCK_BIN=FILE and DISK=DIR choose the binary and the disk, CLIENTS=N
# the load, DOWN=DURATION after how long a store counts as down (20s; as shipped 5m). Balancing does
# not wait either: patience is 5 s and the cool-down of leaders 10 s (30 s and 11 min). It ends by
# itself within fifteen minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source scripts/dev-cluster.sh
clients=${CLIENTS:-8}
export SHARKLOCK_CLUSTER__STORE_DOWN=${DOWN:-20s}
begin_cluster 5
node() { "$binary" dev ps --output json | jq --raw-output ".nodes[$1 - 1].$2"; }
# A node's data port is ten above that of its gateway.
store_of() {
  local gateway
  gateway=$(node "$1" gateway)
  "$binary" stores ls --output json | jq --raw-output --arg at ":$((${gateway##*:} + 10))" \
    '.stores[] | select(.address | endswith($at)).store_id'
}
# The nodes that stay serve the clients.
SHARKLOCK_ENDPOINTS=$(endpoints_of_first 3)
export SHARKLOCK_ENDPOINTS

"$binary" bench acquire-release --clients "$clients" --prefix load/ --warmup 2s --duration 15m \
  --fsync-dir "$dir" --json "$dir/report" >"$dir/table" 2>&1 &
load=$!
for part in 0 1 2 3 4 5; do
  for name in 0 8; do
    at=load/$part/$name
    "$binary" ranges split "$at" --at "$at" --wait >/dev/null 2>&1
  done
done
"$binary" schedule set patience=5s cool-down=10s >/dev/null

are_three_without() {
  "$binary" ranges ls --output json 2>/dev/null | jq --exit-status --arg gone "$1" \
    'all(.ranges[]; (.voter_store_ids | length == 3 and all(. != $gone)))' >/dev/null
}
# Stores that serve differ by two at most, in replicas and in leaders.
are_even() {
  "$binary" stores ls --output json 2>/dev/null | jq --exit-status '
    [.stores[] | select(.duty == "serves" and .liveness == "up")]
    | length == 5 and all([map(.replicas_count), map(.leaders_count)][]; max - min <= 2)' >/dev/null
}
took() {
  printf '%-64s %4d s\n' "$1" $((SECONDS - began))
}

within 120 are_three_without 0
began=$SECONDS
lost=$(store_of 5)
"$binary" dev kill 5 >/dev/null
within 180 are_three_without "$lost"
took "store $lost killed for good: all ranges have three voters again"

began=$SECONDS
drained=$(store_of 4)
"$binary" stores drain "$drained" --wait --timeout 3m >/dev/null 2>&1
within 60 are_three_without "$drained"
took "store $drained drained: it is empty"

began=$SECONDS
"$binary" stores remove "$lost" >/dev/null
"$binary" dev add >/dev/null
"$binary" dev add >/dev/null
is_five() {
  "$binary" stores ls --output json | jq --exit-status \
    '[.stores[] | select(.duty == "serves" and .liveness == "up")] | length == 5' >/dev/null
}
within 60 is_five
within 300 are_even
took "two stores added: replicas and leaders differ by two at most"

sleep 2
"$binary" stores ls
kill -TERM "$load" 2>/dev/null || true
code=0
wait "$load" || code=$?
load=
cat "$dir/table"
jq --raw-output '
  "violations: \(.history.violations); errors that clients saw: \(.errors.count)",
  "slowest call: \(.slowest.us / 1e4 | round / 100) s"' "$dir/report"
echo "load of the machine: $(cut -d ' ' -f 1-3 /proc/loadavg)"
[ "$code" = 0 ] || exit "$code"
jq --exit-status '.errors.count == 0 and .history.violations == 0' "$dir/report" >/dev/null ||
  { echo 'FAILED: a client had an error, or the history a violation'; exit 1; }
