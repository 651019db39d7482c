#!/usr/bin/env bash
# Every check and every test of this repository; the last lines say how many tests there were.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TERM_COLOR=never
# Tests choose their servers and outputs themselves.
unset SHARKLOCK_ENDPOINTS SHARKLOCK_OUTPUT SHARKLOCK_LOG RUST_LOG

step() { printf '\n== %s\n' "$*"; }

step 'tools'
scripts/setup.sh test
cargo --version

step 'format'
cargo fmt --all --check

step 'lints'
cargo clippy --workspace --all-targets --locked -- -D warnings
# The comparison with other systems is in no build but its own.
cargo clippy --package sharklock-bench --features peers --all-targets --locked -- -D warnings

step 'dependencies'
cargo deny --locked --log-level error check licenses bans sources
if compgen -G "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs/*" >/dev/null; then
  cargo deny --locked --log-level error check --disable-fetch advisories
else
  echo 'advisories skipped: no database at hand (`cargo deny fetch` gets one)'
fi

step 'the cores without their edges'
for crate in proto multiraft master dataserver gateway client; do
  tree=$(cargo tree --locked --package "sharklock-$crate" --no-default-features --edges normal --prefix none)
  if grep -E '^(tokio|tonic|rocksdb)[- ]' <<<"$tree"; then
    echo "sharklock-$crate without its edge must not depend on these" >&2
    exit 1
  fi
  cargo check --locked --package "sharklock-$crate" --no-default-features
done

step 'planted bugs'
# That the simulator finds them takes a build each: scripts/planted-bugs.sh. Here: that they still fit,
# without fuzz, which may put a line where it means something else.
for bug in sim/planted/*.patch sim/planted/control/*.patch; do
  patch --dry-run --silent --fuzz=0 --strip=1 <"$bug" >/dev/null || {
    echo "$bug does not fit the code any more" >&2
    exit 1
  }
done

step 'tests'
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo build --locked --package sharklock-cli
SHARKLOCK_BIN=$(cargo metadata --locked --no-deps --format-version 1 |
  sed -E 's/.*"target_directory":"([^"]*)".*/\1/')/debug/sharklock
export SHARKLOCK_BIN
# Containers of this very binary: `.ci/run` asks for them, and Docker is installed and started.
if [ -n "${SHARKLOCK_TEST_CONTAINERS:-}" ]; then
  export SHARKLOCK_IMAGE=sharklock:test
  scripts/image-offline.sh "$SHARKLOCK_BIN" "$SHARKLOCK_IMAGE"
fi
cargo test --workspace --locked --no-fail-fast --lib --bins --tests --examples 2>&1 | tee "$log"
cargo test --package sharklock-bench --features peers --locked --lib -- peers:: profile:: 2>&1 | tee -a "$log"

step 'documentation tests against a running server'
scripts/with-dev-server.sh "$SHARKLOCK_BIN" \
  cargo test --workspace --locked --no-fail-fast --doc 2>&1 | tee -a "$log"

step 'chaos on containers'
if [ -n "${SHARKLOCK_TEST_CONTAINERS:-}" ]; then
  # Three minutes of the same plan each time, so that a red run is due to the change and not to the draw:
  # longer runs draw their own. It ends by itself, and after ten minutes at the latest.
  seed=${SHARKLOCK_TEST_CHAOS_SEED:-568433}
  echo "scripts/chaos-compose.sh 3 $seed"
  timeout --signal TERM --kill-after 60 600 scripts/chaos-compose.sh 3 "$seed"
else
  echo 'left out, as are the tests of containers: SHARKLOCK_TEST_CONTAINERS=1 runs them, and installs and starts Docker'
fi

step 'how many'
awk -f scripts/count-tests.awk "$log"
