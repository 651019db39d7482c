#!/usr/bin/env bash
# The random tests at a length that no commit can wait for. They print how far they are, and the seed
# of what fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TERM_COLOR=never
scripts/setup.sh

# A different start each time, or every run would be the same: SHARKLOCK_MODEL_FROM=N starts at N.
export SHARKLOCK_MODEL_COMMANDS=${SHARKLOCK_MODEL_COMMANDS:-100000000}
export SHARKLOCK_MODEL_FROM=${SHARKLOCK_MODEL_FROM:-$(date +%s)}
echo "== locktable against its model: $SHARKLOCK_MODEL_COMMANDS commands from seed $SHARKLOCK_MODEL_FROM"
cargo test --locked --package sharklock-locktable --test model -- --nocapture

echo '== the large worlds of the rules (tens of minutes, gigabytes)'
SHARKLOCK_LARGE_WORLDS=1 cargo test --locked --package sharklock-model --test scenarios -- large_worlds --nocapture

echo '== the simulator over 200 hours, and an hour of seeds that nobody has seen'
SHARKLOCK_SIM_HOURS=${SHARKLOCK_SIM_HOURS:-200} cargo test --locked --package sharklock-sim --test hours -- --nocapture
scripts/swarm.sh --keep-going --minutes "${SHARKLOCK_SWARM_MINUTES:-60}"

echo '== the planted bugs'
scripts/planted-bugs.sh
