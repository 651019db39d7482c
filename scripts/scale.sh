#!/usr/bin/env bash
# How a cluster of three on this machine carries many sessions, waiters, connections and locks, each at
# a hundredth, a tenth and full size: `scale.sh [SUBJECT[:SIZE]...]`, everything unless told, as
# `scale.sh sessions:1000 locks`. It builds, measures for up to half an hour, each size on a cluster of
# its own and for five minutes at most, and ends what it started. What was measured goes into
# docs/benchmarks/scale.jsonl, in place of what was there of the same size, and from all that is there
# docs/benchmarks/scale.md and scale.svg are made.
# SHARKLOCK_BIN=FILE and DISK=DIR choose the binary and the disk; PROFILE names that binary's profile.
# `scale.sh page` makes the pages only. Exit code 1: something did not stand to the end, which the page
# shows. It needs jq and curl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${PROFILE:-release}
source scripts/dev-cluster.sh
results=docs/benchmarks/scale.jsonl
# For so long processors are watched, after the load stands and is in its stride.
watched=${WATCHED:-20}
settles=4

say() { printf 'scale: %s\n' "$*" >&2; }

# Each subject on a fresh cluster: what one leaves behind is not the next one's.
fresh_cluster() {
  begin_cluster 3
  SHARKLOCK_ENDPOINTS=$(endpoints_of_first 3)
  export SHARKLOCK_ENDPOINTS
  within 60 has_leader
  # A cluster that has just begun may not be well yet, which `status` tells by its exit code.
  cluster=$({ "$binary" status --output json || true; } | jq --raw-output .cluster_id)
  # A node's data port is ten above that of its gateway.
  local store at
  store=$("$binary" ranges ls --output json | jq --raw-output '.ranges[0].leader_store_id')
  at=$("$binary" stores ls --output json |
    jq --raw-output --arg id "$store" '.stores[] | select(.store_id == $id).address')
  nodes=$("$binary" dev ps --output json | jq --compact-output --argjson port $((${at##*:} - 10)) \
    '[.nodes[] | {pid, admin, gateway, role: (if (.gateway | endswith(":\($port)")) then "leader" else "follower" end)}]')
}
has_leader() {
  "$binary" ranges ls --output json 2>/dev/null |
    jq --exit-status 'all(.ranges[]; .leader_store_id != null and .leader_store_id != "0")' >/dev/null
}
end_cluster() {
  kill -TERM "$server" && wait "$server" || true
  server=
  rm -rf "$dir/data"
}
# The gateways of those that do not lead, so that the processor time of the one that does is that of
# its data server.
beside_leader() {
  jq --raw-output '[.[] | select(.role == "follower").gateway | "http://\(.)"] | join(",")' <<<"$nodes"
}

# Starts `bench` with these options; what it says goes to files.
begin_load() {
  rm -f "$dir/report"
  "$binary" bench acquire-release --cluster "$cluster" --fsync-dir "$dir" --json "$dir/report" "$@" \
    >"$dir/table" 2>"$dir/told" &
  load=$!
}
load_has_ended() { ! kill -0 "$load" 2>/dev/null; }
# What a load has seen that did not stand to the end is measured, too; without a report the script ends.
end_load() {
  local code=0
  wait "$load" || code=$?
  load=
  [ "$code" = 0 ] || { cat "$dir/told" "$dir/table" >&2 && failed=1; }
  [ -s "$dir/report" ] || exit 1
}
failed=0

# The sum of a metric over all nodes.
metric() {
  jq --raw-output '.[].admin | "http://\(.)/metrics"' <<<"$nodes" | xargs curl --silent --max-time 5 |
    awk -v name="$1" '$1 == name || index($1, name "{") == 1 { sum += $2 } END { printf "%d\n", sum }'
}
reaches() { [ "$(metric "$1")" -ge "$2" ]; }
# Waits until so much of the load stands; `within` would hide why a load has ended.
stands() {
  local end=$((SECONDS + 240))
  until reaches "$1" "$2"; do
    if load_has_ended || [ "$SECONDS" -ge "$end" ]; then
      say "of $2 $1 there are $(metric "$1")"
      cat "$dir/told" "$dir/table" >&2
      exit 1
    fi
    sleep 1
  done
}

# Ticks of every thread: process, thread, ticks, name.
ticks() {
  local pid
  for pid in "$@"; do
    cat /proc/"$pid"/task/*/stat 2>/dev/null | awk -v pid="$pid" '{
      name = $0; sub(/^[^(]*\(/, "", name); sub(/\)[^)]*$/, "", name)
      rest = $0; sub(/^.*\) /, "", rest); split(rest, field, " ")
      print pid, $1, field[12] + field[13], name }'
  done
}
# What all processes take now, over `watched` seconds: percents of a core by thread, and MB.
usage() {
  local pids load_pid=${load:-0}
  mapfile -t pids < <(jq '.[].pid | tonumber' <<<"$nodes")
  [ "$load_pid" = 0 ] || pids+=("$load_pid")
  ticks "${pids[@]}" >"$dir/before"
  sleep "$watched"
  ticks "${pids[@]}" >"$dir/after"
  awk -v per="$(($(getconf CLK_TCK) * watched))" '
    NR == FNR { ticks[$1, $2] = $3; next }
    { name = $0; sub(/^[0-9]+ [0-9]+ [0-9]+ /, "", name); sum[$1 "\t" name] += $3 - ticks[$1, $2] }
    END { for (of in sum) if (sum[of] > 0) printf "%s\t%.1f\n", of, 100 * sum[of] / per }
  ' "$dir/before" "$dir/after" |
    jq --raw-input --null-input --compact-output --argjson nodes "$nodes" --argjson load "$load_pid" \
      --argjson memory "$(memory "${pids[@]}")" '
      [inputs | split("\t") | {pid: .[0], thread: .[1], percent: (.[2] | tonumber)}] as $all
      | [$nodes[] | {pid: (.pid | tostring), role}] + (if $load == 0 then [] else [{pid: ($load | tostring), role: "load"}] end)
      | map(.pid as $pid | ($all | map(select(.pid == $pid))) as $own | {role, rss_mb: $memory[$pid],
          percent: ($own | map(.percent) | add // 0 | . * 10 | round / 10),
          threads: ($own | map({(.thread): .percent}) | add // {})})'
}
memory() {
  local pid
  for pid in "$@"; do awk -v pid="$pid" '$1 == "VmRSS:" { print pid, int($2 / 1024) }' /proc/"$pid"/status; done |
    jq --raw-input --null-input --compact-output '[inputs | split(" ") | {(.[0]): (.[1] | tonumber)}] | add'
}

# Replaces the line of this subject and size: `note SUBJECT SIZE JSON`.
note() {
  touch "$results"
  jq --compact-output --arg of "$1" --argjson size "$2" 'select(.subject != $of or .size != $size)' \
    "$results" >"$dir/lines"
  jq --compact-output --arg of "$1" --argjson size "$2" --arg profile "$profile" \
    --arg commit "$(git rev-parse --short HEAD)" --arg day "$(date -u +%F)" --arg cores "$(nproc)" \
    '{subject: $of, size: $size, profile: $profile, commit: $commit, day: $day, cores: ($cores | tonumber)} + .' \
    <<<"$3" >>"$dir/lines"
  jq --slurp --compact-output 'sort_by(.subject, .size)[]' "$dir/lines" >"$results"
}

# Live sessions with a lock each at the default ttl. Nearly no cycles beside them: what is seen is what
# it costs to keep them alive.
sessions() {
  local seen
  fresh_cluster
  begin_load --endpoints "$(beside_leader)" --clients 1 --rate 1 --sessions "$1" --duration 10m
  stands sharklock_holds "$1"
  sleep "$settles"
  seen=$(usage)
  kill -TERM "$load"
  end_load
  note sessions "$1" "$(jq --argjson seen "$seen" \
    '{processes: $seen, stood: .sessions, keepalives, f_us: .disk.f_us}' "$dir/report")"
}

# Waiters over ten locks, while 64 clients do cycles.
waiters() {
  fresh_cluster
  begin_load --clients 64 --waiters "$1" --queues 10 --duration 10s
  end_load
  note waiters "$1" "$(jq '{stood: .waiters, cycles_per_s, cycle, slowest, errors, f_us: .disk.f_us}' "$dir/report")"
}

# Connections, each with a session, that do nearly nothing. A gateway takes 1,000 from one address.
connections() {
  local seen
  fresh_cluster
  begin_load --clients "$1" --connections "$1" --rate "$1" --names 1 --duration 10m --warmup 1s \
    --local-addresses 127.0.0.1,127.0.0.2,127.0.0.3,127.0.0.4
  stands sharklock_gateway_connections "$1"
  sleep "$settles"
  seen=$(usage)
  kill -TERM "$load"
  end_load
  note connections "$1" "$(jq --argjson seen "$seen" \
    '{processes: $seen, cycles_per_s, cycle, errors, f_us: .disk.f_us}' "$dir/report")"
}

# Locks that are held by as few sessions as may hold them.
locks() {
  local seen
  fresh_cluster
  begin_load --clients 1 --rate 1 --locks "$1" --duration 10m
  stands sharklock_holds "$1"
  sleep "$settles"
  seen=$(usage)
  kill -TERM "$load"
  end_load
  note locks "$1" "$(jq --argjson seen "$seen" '{processes: $seen, stood: .locks, f_us: .disk.f_us}' "$dir/report")"
}

sizes() {
  case $1 in
    sessions | waiters) echo 1000 10000 100000 ;;
    connections) echo 100 1000 10000 ;;
    locks) echo 10000 100000 1000000 ;;
    *) say "no subject: $1" && exit 2 ;;
  esac
}

if [ "$#" = 0 ]; then set -- sessions waiters connections locks; fi
for wanted in "$@"; do
  [ "$wanted" != page ] || continue
  subject=${wanted%%:*}
  all=$(sizes "$subject")
  [ "$subject" = "$wanted" ] || all=${wanted#*:}
  for size in $all; do
    say "$subject: $size"
    "$subject" "$size"
    end_cluster
  done
done
scripts/scale-page.sh "$results"
exit "$failed"
