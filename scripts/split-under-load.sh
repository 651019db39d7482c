#!/usr/bin/env bash
# What clients notice of ten splits by hand: a cluster of three on this machine, `bench
# acquire-release` with 32 clients on it, and a split every two seconds at a name that is in use.
# Prints each second with what was split in it, and the p99 of the seconds with a split over the
# median p99 of the others. Exit code 1: a client had an error, or a call took longer than 1 s.
# `split-under-load.sh`; SHARKLOCK_BIN=FILE and DISK=DIR choose the binary and the disk,
# CLIENTS=N the load. It ends by itself within a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source scripts/dev-cluster.sh
clients=${CLIENTS:-32}
begin_cluster 3
SHARKLOCK_ENDPOINTS=$(endpoints_of_first 3)
export SHARKLOCK_ENDPOINTS

"$binary" bench acquire-release --clients "$clients" --prefix load/ --warmup 3s --duration 24s \
  --fsync-dir "$dir" --json "$dir/report" >"$dir/table" 2>&1 &
load=$!
sleep 5.5
for worker in 3 17 30 8 22 13 1 27 5 10; do
  at=load/$((worker % clients))/7
  began=$(date +%s%3N)
  "$binary" ranges split "$at" --at "$at" --wait --output json >"$dir/split" 2>"$dir/said" || {
    cat "$dir/said" >&2
    exit 1
  }
  jq --compact-output --argjson began "$began" --argjson ended "$(date +%s%3N)" \
    '{$began, $ended, at, range: .upper.range_id}' "$dir/split" >>"$dir/splits"
  rest=$((2000 + began - $(date +%s%3N)))
  [ "$rest" -le 0 ] || sleep "$(printf '%d.%03d' $((rest / 1000)) $((rest % 1000)))"
done
code=0
wait "$load" || code=$?
load=
cat "$dir/table"
echo
jq --raw-output --slurpfile splits "$dir/splits" '
  def median: sort | .[length / 2 | floor];
  def ms: . * 1000 | round | . / 1000;
  (.measured_from | (sub("\\.[0-9]+Z$"; "Z") | fromdateiso8601 * 1000)
    + (capture("\\.(?<ms>[0-9]+)Z$").ms | tonumber)) as $zero
  | [.intervals[] | . as $it
    | .splits = [$splits[] | select(.ended - $zero > $it.from_s * 1000
        and .began - $zero < $it.to_s * 1000)]] as $parts
  | ([$parts[] | select(.splits == []) | .cycle.p99_us] | median) as $quiet
  | ($parts[] | ["\(.from_s)s", "\(.cycles_per_s | round) cycles/s", "\(.errors) errors",
      "p50 \(.cycle.p50_us / 1000 | ms) ms", "p99 \(.cycle.p99_us / 1000 | ms) ms",
      "max \(.cycle.max_us / 1000 | ms) ms",
      (.splits | map("split at \(.at) in \(.ended - .began) ms") | join(", "))] | join("  ")),
    "median p99 of the seconds without a split: \($quiet / 1000 | ms) ms",
    "p99 of those with one, times that: \([$parts[] | select(.splits != [])
      | .cycle.p99_us / $quiet | ms] | sort | map(tostring) | join(" "))",
    "slowest call: \(.slowest.us / 1000 | ms) ms (\(.slowest.call)); errors: \(.errors.count)",
    "names: \(.history.names), each granted \(.history.grants_per_name_min) times or more; violations: \(.history.violations)"
' "$dir/report"
[ "$code" = 0 ] || exit "$code"
jq --exit-status '.errors.count == 0 and .slowest.us < 1e6 and .history.grants_per_name_min > 1' \
  "$dir/report" >/dev/null || { echo 'FAILED: an error, or a call of more than 1 s'; exit 1; }
