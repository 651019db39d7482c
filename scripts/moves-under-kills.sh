#!/usr/bin/env bash
# Fifty replicas and fifty leaderships move under load while a process is killed every five
# seconds: a cluster of four on this machine (`dev --nodes 4`, each node a process of its own) under
# `bench acquire-release`, in four ranges. Each order is given as an operator would, and waited for;
# one that is refused, or not done in 15 s, because somebody is dead is counted, and another given.
# Prints times and counts, and how the cluster stands in the end. Exit code 1: a violation in the
# history of the clients, too few moves in time, or a range without three voters.
# `moves-under-kills.sh`; SHARKLOCK_BIN=FILE and DISK=DIR choose the binary and the disk, CLIENTS=N
# the load, MOVES=N how many of each. It ends by itself within twelve minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source scripts/dev-cluster.sh
clients=${CLIENTS:-16}
wanted=${MOVES:-50}
ended=$((SECONDS + 600))
begin_cluster 4
SHARKLOCK_ENDPOINTS=$(endpoints_of_first 4)
export SHARKLOCK_ENDPOINTS

"$binary" bench acquire-release --clients "$clients" --prefix load/ --warmup 2s --duration 15m \
  --fsync-dir "$dir" --json "$dir/report" >"$dir/table" 2>&1 &
load=$!
for worker in 3 7 11; do
  at=load/$worker/
  "$binary" ranges split "$at" --at "$at" --wait >/dev/null 2>&1
done
have_three_voters() {
  "$binary" ranges ls --output json 2>/dev/null | jq --exit-status \
    '(.ranges | length == 4) and all(.ranges[]; .voter_store_ids | length == 3)' >/dev/null
}
within 60 have_three_voters

# One node after the other dies, in an order that nothing else follows, and is back a second later.
kills() {
  local node next=$((SECONDS + 5)) count=0
  until [ -e "$dir/over" ]; do
    [ "$SECONDS" -ge "$next" ] || { sleep 0.1; continue; }
    next=$((next + 5))
    node=$((1 + RANDOM % 4))
    "$binary" dev kill "$node" >/dev/null 2>&1 || continue
    count=$((count + 1))
    echo "$count" >"$dir/kills"
    sleep 1
    # It says 3 if the node is up and not ready in time: the next kill comes all the same.
    timeout 10 "$binary" dev restart "$node" >/dev/null 2>&1 || true
  done
}

# Gives one order until so many of its kind were done. $1: the kind, $2: a jq filter that gives the
# arguments of the order from `ranges ls`.
orders() {
  local kind=$1 filter=$2 done=0 again=0 order
  while [ "$done" -lt "$wanted" ] && [ "$SECONDS" -lt "$ended" ]; do
    order=$("$binary" ranges ls --output json 2>/dev/null |
      jq --raw-output --argjson dice "$RANDOM" "$filter") || order=
    # shellcheck disable=SC2086 # These are words.
    if [ -n "$order" ] && "$binary" ranges $order --wait --timeout 15s >>"$dir/$kind.log" 2>&1; then
      done=$((done + 1))
    else
      again=$((again + 1))
    fi
    echo "$done $again" >"$dir/$kind"
  done
}
some_move='
  .ranges[$dice % (.ranges | length)]
  | .voter_store_ids as $has
  | [range(1; 5) | tostring | select(. as $it | $has | index($it) | not)] as $free
  | select(($free | length) > 0)
  | "move \(.range_id) --from \($has[($dice / 7 | floor) % ($has | length)]) --to \($free[0])"'
some_leader='
  .ranges[$dice % (.ranges | length)]
  | .leader_store_id as $led | [.voter_store_ids[] | select(. != $led)] as $heirs
  | select(($heirs | length) > 0)
  | "transfer-leader \(.range_id) --to \($heirs[($dice / 7 | floor) % ($heirs | length)])"'

began=$SECONDS
kills &
killer=$!
orders moves "$some_move" &
mover=$!
orders leaders "$some_leader" &
others=("$killer" "$mover" $!)
wait "${others[1]}" "${others[2]}"
touch "$dir/over"
wait "$killer" || true
others=()
took=$((SECONDS - began))

for node in 1 2 3 4; do
  "$binary" dev ps --output json | jq --exit-status --argjson at $((node - 1)) \
    '.nodes[$at].state | test("^ready|^not ready|^starting")' >/dev/null ||
    "$binary" dev restart "$node" >/dev/null 2>&1 || true
done
is_at_rest() {
  have_three_voters && "$binary" status >/dev/null 2>&1 &&
    "$binary" ops ls --output json |
    jq --exit-status 'all(.operators[]; .state != "running")' >/dev/null
}
rested=$SECONDS
within 90 is_at_rest
rested=$((SECONDS - rested))
sleep 2
kill -TERM "$load" 2>/dev/null || true
code=0
wait "$load" || code=$?
load=

cat "$dir/table"
echo
read -r moves moves_again <"$dir/moves"
read -r leaders leaders_again <"$dir/leaders"
moved() { printf '%-56s %4d (given up, and another order given: %d)\n' "$@"; }
moved 'replicas moved' "$moves" "$moves_again"
moved 'leaderships moved' "$leaders" "$leaders_again"
printf '%-56s %4d\n' 'processes killed' "$(cat "$dir/kills")"
printf '%-56s %4d s\n' 'time for all of it' "$took"
printf '%-56s %4d s\n' 'until all was at rest with three voters each' "$rested"
jq --raw-output '
  "violations: \(.history.violations); errors that clients saw: \(.errors.count)",
  "slowest call: \(.slowest.us / 1e4 | round / 100) s"' "$dir/report"
echo "load of the machine: $(cut -d ' ' -f 1-3 /proc/loadavg)"
"$binary" ranges ls
[ "$moves" -ge "$wanted" ] && [ "$leaders" -ge "$wanted" ] ||
  { echo "FAILED: fewer than $wanted moves of each kind in 10 minutes"; exit 1; }
jq --exit-status '.history.violations == 0' "$dir/report" >/dev/null ||
  { echo 'FAILED: the history has a violation'; exit 1; }
[ "$code" = 0 ] || { echo "FAILED: bench ended with $code"; exit 1; }
