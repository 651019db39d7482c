#!/usr/bin/env bash
# Builds `sharklock` and runs `sharklock dev` with the arguments given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
echo 'building sharklock (the first time compiles RocksDB, which takes a while)' >&2
cargo build --locked --package sharklock-cli
exec "${CARGO_TARGET_DIR:-target}/debug/sharklock" dev "$@"
