#!/usr/bin/env bash
# Chaos on a cluster of containers: `chaos-compose.sh [MINUTES [SEED]]`, 3 minutes by any seed unless told
# otherwise. Containers of deploy/compose.yaml are killed, paused, cut off, starved and replaced by the plan
# of the seed, while clients in containers beside them work; everything that these saw is judged. The report
# (Markdown, and the time line as SVG), the plan, histories and logs stay in the directory that it prints.
# Exit code 1: a promise was broken; 2: the machine did not do what was asked.
#
# It needs root and Docker, which it installs and starts on Debian; whatever ran before under the project
# `sharklock-chaos` is removed. SHARKLOCK_BIN=FILE is the binary under test, SHARKLOCK_CHAOS_BIN=FILE this
# program's, ONLY=kill,cut-off,… the kinds of faults. A rolling change needs another build of the same
# formats: OTHER_BINARY=FILE, or OTHER_COMMIT=COMMIT, which is built once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'chaos: %s\n' "$*" >&2; }
minutes=${1:-3}
seed=${2:-$((RANDOM * 32768 + RANDOM))}
target=${CARGO_TARGET_DIR:-target}
export CARGO_TERM_COLOR=never
scripts/docker.sh

missing=()
command -v nft >/dev/null || missing+=(nftables)
command -v tc >/dev/null || missing+=(iproute2)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
faketime() { compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' | head -1; }
[ -n "$(faketime)" ] || missing+=(libfaketime)
if [ "${#missing[@]}" -gt 0 ] && command -v apt-get >/dev/null; then
  say "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

# What the build before this one was, where somebody has built it or asks for it.
other=${OTHER_BINARY:-}
if [ -z "$other" ] && [ -n "${OTHER_COMMIT:-}" ]; then
  other=$target/other/$OTHER_COMMIT/sharklock
  if [ ! -x "$other" ]; then
    say "building $OTHER_COMMIT for the rolling change"
    tree=$(mktemp -d /tmp/sharklock-other.XXXXXX)
    git worktree add --detach --force "$tree" "$OTHER_COMMIT" >/dev/null
    # Dependencies are those of this build: the same directory has them.
    (cd "$tree" && CARGO_TARGET_DIR=$(cd "$OLDPWD" && realpath "$target") \
      cargo build --locked --package sharklock-cli)
    mkdir -p "$(dirname "$other")"
    cp "$target/debug/sharklock" "$other"
    git worktree remove --force "$tree"
  fi
fi
[ -n "$other" ] || say 'rolling change left out: OTHER_BINARY or OTHER_COMMIT names no other build'

binary=${SHARKLOCK_BIN:-}
if [ -z "$binary" ]; then
  cargo build --locked --package sharklock-cli
  binary=$target/debug/sharklock
fi
program=${SHARKLOCK_CHAOS_BIN:-}
if [ -z "$program" ]; then
  cargo build --locked --package sharklock-tests --bin sharklock-chaos
  program=$target/debug/sharklock-chaos
fi
image=sharklock:chaos
scripts/image-offline.sh "$binary" "$image"

dir=${CHAOS_DIR:-$target/chaos/seed-$seed-$(date -u +%Y%m%dT%H%M%S)}
mkdir -p "$dir"
cc -shared -fPIC -O2 -o "$dir/slow_disk.so" tests/shim/slow_disk.c -ldl
options=(--seed "$seed" --minutes "$minutes" --image "$image" --dir "$dir" --sync-shim "$dir/slow_disk.so")
[ -z "$(faketime)" ] || options+=(--faketime "$(faketime)")
[ -z "$other" ] || options+=(--binary "$binary" --other-binary "$other")
[ -z "${ONLY:-}" ] || options+=(--only "$ONLY")
[ -z "${KEEP:-}" ] || options+=(--keep)
# The program removes its containers when it is told to end: this script waits for that.
trap : TERM INT
code=0
"$program" run "${options[@]}" || code=$?
say "$dir has the report (Markdown, SVG), plan.txt, run.log, histories/ and logs/"
exit "$code"
