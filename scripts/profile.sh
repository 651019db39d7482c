#!/usr/bin/env bash
# Where the time of a cycle of acquire and release goes on this machine: `profile.sh [OPTION...]` installs
# what is missing, builds, measures for some three minutes, and writes docs/benchmarks/profile.*. Options go
# to the program: --help shows them, `--loads own:1 --duration 3s --out /tmp` is a short run beside them.
# SHARKLOCK_BIN=FILE is the program to look into, a release build unless told otherwise. It needs root for
# functions and system calls.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never

scripts/setup.sh
if [ "$(id -u)" -ne 0 ]; then
  echo 'profile: functions and system calls are left out: they need root' >&2
else
  if ! command -v perf >/dev/null; then
    if ! command -v apt-get >/dev/null; then
      echo "please install perf, Debian's package linux-perf" >&2
      exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends linux-perf >&2
  fi
  # Here the kernel says when a system call begins.
  tracing=/sys/kernel/tracing
  [ -d "$tracing/events/syscalls" ] || mount -t tracefs nodev "$tracing" ||
    echo 'profile: system calls will not be counted' >&2
fi

if [ -z "${SHARKLOCK_BIN:-}" ]; then
  cargo build --release --locked --package sharklock-cli
fi
cargo build --release --locked --package sharklock-bench --features peers
target=$(cargo metadata --locked --no-deps --format-version 1 |
  sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
"$target/release/sharklock-bench-profile" "$@"
