#!/usr/bin/env bash
# Puts a cluster of three nodes into states in which people are called out of bed, and prints for each
# what `status`, `doctor`, `locks ls` and one `lock --try` say: docs/OPERATIONS.md has the output.
# `three-in-the-morning.sh [STATE...]`; without names all ten. It takes about two minutes, listens on
# loopback only (ports from 11700 on), and ends by itself. SHARKLOCK_BIN=FILE chooses the binary.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

binary=$(realpath "${SHARKLOCK_BIN:-${CARGO_TARGET_DIR:-target}/debug/sharklock}")
[ -x "$binary" ] || { scripts/setup.sh && cargo build --locked --package sharklock-cli; }
states=("$@")
[ "${#states[@]}" -gt 0 ] ||
  states=(forming paused killed no-majority masters-gone no-leader slow-disk clock-off wrong-port two-clusters)

dir=$(mktemp -d)
export XDG_RUNTIME_DIR=$dir
servers=()
# Ends what the state has started, by id.
end_all() {
  local server
  for server in "${servers[@]}"; do
    kill -TERM "$server" 2>/dev/null && wait "$server" 2>/dev/null || true
  done
  servers=()
  rm -rf "${dir:?}"/*
}
trap 'end_all; rm -rf "$dir"' EXIT

endpoint() { echo "http://127.0.0.1:$((7700 + 4000 + 100 * ($1 - 1)))"; }
data() { echo "$dir/data"; }

# `dev` with these arguments, until it says that it is up.
cluster() {
  "$binary" dev --port-offset 4000 --data-dir "$(data)" "$@" >"$dir/banner" 2>"$dir/log" &
  servers+=($!)
  wait_for 'the cluster to start' 60 grep -q 'Ctrl-C' "$dir/banner"
}
dev() { "$binary" dev "$@" --data-dir "$(data)" >/dev/null; }

# `wait_for WHAT SECONDS COMMAND…`: until the command succeeds.
wait_for() {
  local what=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" 2>/dev/null >&2; do
    [ "$SECONDS" -lt "$end" ] || { echo "waited in vain for $what" >&2; cat "$dir/log" >&2; exit 1; }
    sleep 0.2
  done
}
says() { { "$binary" status --endpoints "$1" 2>&1 || true; } | grep -q "$2"; }

# What a person would type, with the exit codes.
look() {
  local endpoints=$1 began ended
  export SHARKLOCK_ENDPOINTS=$endpoints
  for command in status doctor 'locks ls' 'lock nightly --try -- echo "the backup runs"'; do
    echo "\$ sharklock $command"
    began=$(date +%s%N)
    # shellcheck disable=SC2294 # The quotes in the last one are meant.
    eval "\"$binary\"" "$command" 2>&1 || echo "[exit code $?]"
    ended=$(date +%s%N)
    case $command in lock\ *) [ $(((ended - began) / 1000000)) -le 1000 ] || echo 'LATE: more than 1 s' ;; esac
    echo
  done
  unset SHARKLOCK_ENDPOINTS
}

forming() {
  echo 'One of three masters has been started: the cluster is still forming.'
  local masters=127.0.0.1:11720,127.0.0.1:11820,127.0.0.1:11920
  "$binary" server --name node-1 --roles master,data,gateway --data-dir "$dir/node-1" \
    --masters "$masters" --listen-gateway 127.0.0.1:11700 --listen-data 127.0.0.1:11710 \
    --listen-master 127.0.0.1:11720 --listen-admin 127.0.0.1:11790 >"$dir/banner" 2>"$dir/log" &
  servers+=($!)
  wait_for 'its gateway to answer' 30 says "$(endpoint 1)" 'still forming'
  look "$(endpoint 1)"
}
paused() {
  echo 'The process of node-2 stands still (SIGSTOP).'
  cluster --nodes 3
  dev pause 2
  wait_for 'that to be seen' 30 says "$(endpoint 1)" 'no answer'
  look "$(endpoint 1)"
  dev resume 2
}
killed() {
  echo 'node-3 has been killed.'
  cluster --nodes 3
  dev kill 3
  wait_for 'that to be seen' 30 says "$(endpoint 1)" 'DOWN'
  wait_for 'a leader' 30 "$binary" lock warm-up --try --endpoints "$(endpoint 1)" -- true
  look "$(endpoint 1),$(endpoint 3)"
}
no-majority() {
  echo 'node-2 and node-3 have been killed: one of three is left.'
  cluster --nodes 3
  dev kill 2
  dev kill 3
  wait_for 'that to be seen' 30 says "$(endpoint 1)" 'no majority.*no leader'
  look "$(endpoint 1)"
}
masters-gone() {
  echo 'All three masters, which have processes of their own, have been killed.'
  cluster --nodes 3 --split-roles
  for master in master-1 master-2 master-3; do dev kill "$master"; done
  wait_for 'that to be seen' 30 says "$(endpoint 1)" '0 of 3 answer'
  look "$(endpoint 1)"
}
no-leader() {
  echo 'The masters are well; two of three data servers have been killed: the range has no leader.'
  cluster --nodes 3 --split-roles
  dev kill 2
  dev kill 3
  wait_for 'that to be seen' 30 says "$(endpoint 1)" 'has no leader: 1 of its 3'
  look "$(endpoint 1)"
}
slow-disk() {
  echo 'Every sync of the process takes 300 ms more (LD_PRELOAD of a library that waits in fdatasync).'
  command -v cc >/dev/null || { echo 'no C compiler: this state is left out'; return; }
  cc -shared -fPIC -o "$dir/slow.so" -x c - -ldl <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static int slow(const char *name, int fd) {
  usleep(300000);
  return ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
}
int fdatasync(int fd) { return slow("fdatasync", fd); }
int fsync(int fd) { return slow("fsync", fd); }
C
  LD_PRELOAD="$dir/slow.so" cluster --nodes 1
  local i
  for i in 1 2 3; do
    "$binary" lock "warm-up-$i" --endpoints "$(endpoint 1)" -- true 2>/dev/null || true
  done
  look "$(endpoint 1)"
}
clock-off() {
  echo 'The wall clock of all processes is 90 s ahead (faketime; their monotonic clocks are right).'
  command -v faketime >/dev/null || { echo 'no faketime (apt-get install faketime): left out'; return; }
  FAKETIME_DONT_FAKE_MONOTONIC=1 DONT_FAKE_MONOTONIC=1 FAKETIME='+90s' \
    LD_PRELOAD=$(find /usr/lib -name 'libfaketimeMT.so.1' | head -1) cluster --nodes 1
  look "$(endpoint 1)"
}
wrong-port() {
  echo 'The admin port is taken for a gateway'"'"'s.'
  cluster --nodes 1
  look http://127.0.0.1:11790
}
two-clusters() {
  echo 'The endpoints belong to two clusters.'
  cluster --nodes 1 --cluster-name prod
  "$binary" dev --ephemeral --cluster-name staging --listen 127.0.0.1:12700 --admin-listen 127.0.0.1:12790 \
    >"$dir/second" 2>>"$dir/log" &
  servers+=($!)
  wait_for 'the second to start' 60 grep -q 'Ctrl-C' "$dir/second"
  look "$(endpoint 1),http://127.0.0.1:12700"
}

for state in "${states[@]}"; do
  echo "=== $state"
  "$state"
  end_all
done
