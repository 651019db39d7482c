#!/usr/bin/env bash
# Plants each bug of sim/planted in a copy of this tree and lets the simulator look for it:
# `planted-bugs.sh [--minutes M] [NAME...]`. Fails if one is not found within M (10) CPU-minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

minutes=10
if [ "${1:-}" = --minutes ]; then
  minutes=$2
  shift 2
fi
names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
  for patch in sim/planted/*.patch; do
    names+=("$(basename "$patch" .patch)")
  done
fi

export CARGO_TERM_COLOR=never
# A target directory of its own: what is compiled here must never pass for the real thing.
work=${CARGO_TARGET_DIR:-$PWD/target}/planted
export CARGO_TARGET_DIR=$work/target
tree=$work/tree
mkdir -p "$tree"
log=$(mktemp)
missed=0
for name in "${names[@]}"; do
  # A fresh copy each time. Times are kept, so that only what differs is compiled again; what any
  # patch changes is touched, or cargo would take the last bug's code for this one's.
  find "$tree" -mindepth 1 -maxdepth 1 -exec rm -rf {} +
  git ls-files -z --cached --others --exclude-standard | xargs -0 cp -p --parents -t "$tree"
  sed -n 's,^+++ b/,,p' sim/planted/*.patch sim/planted/control/*.patch | sort -u |
    (cd "$tree" && xargs touch)
  patch --quiet --fuzz=0 --strip=1 --directory="$tree" <"sim/planted/$name.patch"
  (cd "$tree" && cargo build --quiet --locked --package sharklock-sim --bin sharklock-sim)
  binary=$CARGO_TARGET_DIR/debug/sharklock-sim
  found=0
  # CPU seconds of this shell's children before and after tell how long it took.
  before=$(awk '{print $16 + $17}' "/proc/$$/stat")
  "$binary" swarm --minutes "$minutes" >"$log" 2>&1 || found=$?
  after=$(awk '{print $16 + $17}' "/proc/$$/stat")
  seconds=$(((after - before) / $(getconf CLK_TCK)))
  if [ "$found" -eq 0 ]; then
    printf '%-32s MISSED after %s CPU seconds\n' "$name" "$seconds"
    missed=1
  else
    printf '%-32s found in %4s CPU seconds: %s\n' "$name" "$seconds" "$(grep -m1 -E ' broken at |panicked' "$log" | cut -c1-160)"
  fi
done
rm -f "$log"
exit "$missed"
