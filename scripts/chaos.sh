#!/usr/bin/env bash
# Five minutes of 50 clients on three nodes with a kill, a freeze or a cut every three seconds:
# `chaos.sh [SECONDS [SEED]]`. Prints the plan as it goes, and what it came to.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never
export SHARKLOCK_CHAOS_SECONDS=${1:-300}
[ -z "${2:-}" ] || export SHARKLOCK_CHAOS_SEED=$2
cargo build --locked --package sharklock-cli
exec cargo test --locked --package sharklock-tests --test e2e chaos:: -- --nocapture
