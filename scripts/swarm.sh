#!/usr/bin/env bash
# Runs simulated clusters of ever new seeds on all cores:
# `swarm.sh [--minutes M] [--from SEED] [--keep-going] [--set OPTION=NUMBER]...`. M are minutes of CPU time,
# of all cores together (60). Without --from the seeds are new ones each time. Stops at the first seed that
# breaks something, if it is not told to keep going, and fails with the seeds that did.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

minutes=60
# Seeds that nobody has seen; each core has a million to itself.
from=$(($(date +%s) * 1000000))
flags=()
while [ $# -gt 0 ]; do
  case $1 in
  --minutes) minutes=$2 && shift ;;
  --from) from=$2 && shift ;;
  --keep-going) flags+=(--keep-going) ;;
  --set) flags+=(--set "$2") && shift ;;
  *) sed -n '2,5s/^# //p' "$0" && exit 2 ;;
  esac
  shift
done

export CARGO_TERM_COLOR=never
cargo build --quiet --locked --package sharklock-sim --bin sharklock-sim
binary=${CARGO_TARGET_DIR:-target}/debug/sharklock-sim
cores=$(nproc)
logs=$(mktemp -d)
share=$(awk -v minutes="$minutes" -v cores="$cores" 'BEGIN { print minutes / cores }')
echo "== $minutes CPU-minutes on $cores cores, seeds from $from"

pids=()
stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
}
trap stop EXIT
for ((core = 0; core < cores; core++)); do
  "$binary" swarm --from $((from + core * 1000000)) --seeds 1000000 --minutes "$share" "${flags[@]}" \
    >"$logs/$core" 2>"$logs/$core.told" &
  pids+=($!)
done
failed=0
# The first that finds something ends all: whoever wants more says so.
for ((core = 0; core < cores; core++)); do
  wait -n && continue
  failed=1
  [[ " ${flags[*]} " == *" --keep-going "* ]] || stop
done
trap - EXIT
for ((core = 0; core < cores; core++)); do
  echo "== core $core"
  # What was broken is told beside the counter of runs, which overwrites itself.
  tr '\r' '\n' <"$logs/$core.told" | grep -v ' runs to seed ' || true
  cat "$logs/$core"
done
rm -rf "$logs"
exit $failed
