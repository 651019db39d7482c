#!/usr/bin/env bash
# Makes scale.md and scale.svg beside a file of results of scripts/scale.sh: `scale-page.sh FILE`. One
# function writes the section of a subject, and one line of `bars` puts it into the plot.
set -euo pipefail
results=$1
page=${results%.jsonl}.md
plot=${results%.jsonl}.svg

# Rows of a table: `rows SUBJECT FILTER`, where the filter makes an array of one result.
rows() {
  jq --slurp --raw-output --arg of "$1" "$shown"'.[] | select(.subject == $of) | '"$2"' | "| \(join(" | ")) |"' "$results"
}
has() { jq --slurp --exit-status --arg of "$1" 'any(.[]; .subject == $of)' "$results" >/dev/null; }
# Numbers for people.
shown='
def thousands: tostring | explode | reverse | [range(0; length; 3) as $at | .[$at:$at + 3] | reverse | implode] | reverse | join(",");
def tenth: . * 10 | round / 10 | tostring;
def percent: if . >= 10 then (round | tostring) else tenth end | . + " %";
def ms: . / 1000 | if . >= 10 then (round | tostring) else tenth end | . + " ms";
def seconds: tenth + " s";
def of($role): [.processes[] | select(.role == $role)];
def mean: if length == 0 then 0 else add / length end;
def cpu($role): of($role) | map(.percent) | mean;
def rss($role): of($role) | map(.rss_mb) | max // 0;
def thread($role; $name): of($role) | map(.threads | to_entries | map(select(.key | startswith($name)).value) | add // 0) | mean;
'

sessions() {
  has sessions || return 0
  cat <<'END'

## Sessions that live

Each is a `Client` of its own that holds one lock at the default ttl, 10 s, and renews it every 3.3
s. They share connections (`Connections` of the Rust client), and use the gateways of the two nodes
that do not lead, so that what the leader's process takes is the data server: its store thread, and
the threads that carry its messages. *Answer* is from a keepalive to its answer; gateways send
keepalives in batches 25 ms apart. Processor time is in percents of a core, over 20 s.

| sessions | lost | keepalives/s | connections | answer p50 | p99 | max | leader | its store thread | a gateway's node | the client | leader, memory | client, memory | taken in |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
END
  rows sessions '[(.size | thousands), .stood.lost, (.keepalives.per_s | round | thousands),
    .keepalives.connections, (.keepalives.answers | .p50_us, .p99_us, .max_us | ms),
    (cpu("leader") | percent), (thread("leader"; "store-raft") | percent), (cpu("follower") | percent),
    (cpu("load") | percent), "\(rss("leader") | thousands) MB", "\(rss("load") | thousands) MB", (.stood.built_up_s | seconds)]'
}

waiters() {
  has waiters || return 0
  cat <<'END'

## Waiters

They stand in the queues of ten locks, while 64 clients acquire and release others for 10 s. The
slowest of the calls of these clients is what a queue does to those who have nothing to do with it,
and also what a split does: 64 clients are more commands per second than a range keeps for ten
seconds.

| waiters | lost | all queued after | all given back after | cycles/s | cycle p50 | p99 | slowest call | errors |
|---|---|---|---|---|---|---|---|---|
END
  rows waiters '[(.size | thousands), .stood.lost, (.stood | .built_up_s, .given_back_s | seconds),
    (.cycles_per_s | round | thousands), (.cycle | .p50_us, .p99_us | ms), (.slowest.us // 0 | ms), .errors.count]'
}

connections() {
  has connections || return 0
  cat <<'END'

## Connections

Each has a session of its own with two streams, and does one cycle per second, over all three
gateways from four addresses. Memory and processor time are those of one node, the mean of all
three.

| connections | cycles/s | cycle p50 | p99 | errors | a node, memory | a node | the client, memory | the client |
|---|---|---|---|---|---|---|---|---|
END
  rows connections '[(.size | thousands), (.cycles_per_s | round | thousands), (.cycle | .p50_us, .p99_us | ms),
    .errors.count, "\([.processes[] | select(.role != "load").rss_mb] | mean | round | thousands) MB",
    ([.processes[] | select(.role != "load").percent] | mean | percent), "\(rss("load") | thousands) MB",
    (cpu("load") | percent)]'
}

locks() {
  has locks || return 0
  cat <<'END'

## Locks that are held

Each under a name of its own, 5,000 in a session, 256 acquires under way at a time; a range of
100,000 splits by itself. They are renewed as all locks are, 64 in a keepalive.

| locks | lost | taken in | acquire p50 | p99 | given back in | largest node, memory | busiest node | the client |
|---|---|---|---|---|---|---|---|---|
END
  rows locks '[(.size | thousands), .stood.lost, (.stood.built_up_s | seconds), (.stood.acquire | .p50_us, .p99_us | ms),
    (.stood.given_back_s | seconds), "\([.processes[] | select(.role != "load").rss_mb] | max | thousands) MB",
    ([.processes[] | select(.role != "load").percent] | max | percent), (cpu("load") | percent)]'
}

{
  cat <<'END'
# Scale

What many sessions, waiters, connections and locks cost: `scripts/scale.sh` measures it on a cluster
of three processes on one machine, with the client beside them, and writes this page and the plot
from `scale.jsonl`. Each figure is of one run on a fresh cluster.

![What it costs](scale.svg)

END
  jq --slurp --raw-output '
    ([.[].f_us] | sort) as $f
    | "Measured on \([.[].day] | unique | join(", ")) with \(.[0].cores) virtual cores for all processes, commit \([.[].commit] | unique | join(", "))."
    + " F, the median of `fdatasync` in each run, was \($f[0] | round) to \($f[-1] | round) us.",
    if all(.[]; .profile == "release") then empty else
      "", "**Not a release build:** profile \([.[].profile] | unique | join(", ")), which takes more processor time for the same work."
    end' "$results" | fold --spaces --width 100 | sed 's/ *$//'
  sessions
  waiters
  connections
  locks
} >"$page"

# One line for each bar: panel, size, what, value.
bars() {
  jq --slurp --raw-output "$shown"'.[] | (.size | thousands) as $size |
    if .subject == "sessions" then
      ["sessions: percents of a core", $size, "leader", cpu("leader")],
      ["sessions: percents of a core", $size, "a gateway", cpu("follower")],
      ["sessions: percents of a core", $size, "client", cpu("load")]
    elif .subject == "waiters" then
      ["waiters: slowest call beside them, ms", $size, "slowest", (.slowest.us // 0) / 1000],
      ["waiters: slowest call beside them, ms", $size, "p99", .cycle.p99_us / 1000]
    elif .subject == "connections" then
      ["connections: memory of a node, MB", $size, "node", ([.processes[] | select(.role != "load").rss_mb] | mean)]
    elif .subject == "locks" then
      ["locks: memory of the largest node, MB", $size, "node", ([.processes[] | select(.role != "load").rss_mb] | max)]
    else empty end | @tsv' "$results"
}
bars | awk -F '\t' '
  function y(value) { return base - 150 * (value <= 1 ? 0 : log(value) / log(10)) / decades }
  { if (!($1 in panel)) { panel[$1] = ++panels; title[panels] = $1 }
    p = panel[$1]; if (!((p, $2) in group)) { group[p, $2] = ++groups[p]; label[p, groups[p]] = $2 }
    if (!((p, $3) in series)) { series[p, $3] = ++kinds[p]; kind[p, kinds[p]] = $3 }
    value[p, group[p, $2], series[p, $3]] = $4; if ($4 > most[p]) most[p] = $4 }
  END {
    split("#0b6e99 #d98324 #7a9e3a", colour, " ")
    rows = int((panels + 1) / 2); height = rows * 240 + 10
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 %d\" font-family=\"sans-serif\" font-size=\"12\">\n", height
    printf "<rect width=\"800\" height=\"%d\" fill=\"white\"/>\n", height
    for (p = 1; p <= panels; p++) {
      left = 50 + 400 * ((p - 1) % 2); top = 10 + 240 * int((p - 1) / 2); base = top + 205
      decades = 1; while (10 ^ decades < most[p]) decades++
      printf "<text x=\"%d\" y=\"%d\" font-weight=\"bold\">%s</text>\n", left, top + 12, title[p]
      for (k = 1; k <= kinds[p] && kinds[p] > 1; k++)
        printf "<rect x=\"%d\" y=\"%d\" width=\"9\" height=\"9\" fill=\"%s\"/><text x=\"%d\" y=\"%d\" font-size=\"10\">%s</text>\n",
          left + 80 * (k - 1), top + 20, colour[k], left + 80 * (k - 1) + 13, top + 28, kind[p, k]
      for (d = 0; d <= decades; d++)
        printf "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%d</text>\n",
          left, left + 330, y(10 ^ d), y(10 ^ d), left - 5, y(10 ^ d) + 4, 10 ^ d
      for (g = 1; g <= groups[p]; g++) {
        at = left + 110 * (g - 1) + 10; wide = 90 / kinds[p]
        printf "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", at + 45, base + 16, label[p, g]
        for (k = 1; k <= kinds[p]; k++) if ((p, g, k) in value) {
          v = value[p, g, k]
          printf "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"><title>%s: %s</title></rect>",
            at + wide * (k - 1), y(v), wide - 3, base - y(v), colour[k], kind[p, k], v
          printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" font-size=\"9\">%.*f</text>\n",
            at + wide * (k - 0.5) - 1.5, y(v) - 3, (v < 10 ? 1 : 0), v
        }
      }
    }
    print "</svg>"
  }' >"$plot"
