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
# formats: OTHER_BINARY=FILE, or OTHER_COMMIT=COMMIT, which is built once. From ten minutes on it is the
# build of the commit since which formats are stable; OTHER_COMMIT=none leaves the rolling change out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'chaos: %s\n' "$*" >&2; }
minutes=${1:-3}
seed=${2:-$((RANDOM * 32768 + RANDOM))}
target=${CARGO_TARGET_DIR:-target}
export CARGO_TERM_COLOR=never
# Formats are stable from this commit on: each later build can take its place, and give it back.
stable=3666b6c

unable() { say "$*" && exit 2; }
[ "$(id -u)" -eq 0 ] || unable 'it puts rules into the networks of containers and mounts a disk: run it as root'
scripts/docker.sh || unable 'there is no Docker'
# Two runs would remove each other's containers. The daemon, which is started above, must not inherit it.
exec 9>/tmp/sharklock-chaos.lock
flock --nonblock 9 || unable 'another run is under way on this machine'

missing=()
command -v nft >/dev/null || missing+=(nftables)
command -v tc >/dev/null || missing+=(iproute2)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
for tool in nsenter prlimit setpriv mount; do command -v "$tool" >/dev/null || missing+=(util-linux); done
faketime() { compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' | head -1; }
[ -n "$(faketime)" ] || missing+=(libfaketime)
if [ "${#missing[@]}" -gt 0 ] && command -v apt-get >/dev/null; then
  say "installing ${missing[*]}"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >&2 || say 'that did not work'
  hash -r
fi
for tool in nft tc nsenter prlimit setpriv mount; do
  command -v "$tool" >/dev/null || unable "there is no $tool; please install what is missing, by Debian's names: ${missing[*]}"
done

dir=${CHAOS_DIR:-$target/chaos/seed-$seed-$(date -u +%Y%m%dT%H%M%S)}
mkdir -p "$dir"
tree=
clean() {
  rm -f "$dir/under-test" "$dir/under-test.debug"
  [ -z "$tree" ] || git worktree remove --force "$tree" >/dev/null 2>&1 || true
}
trap clean EXIT

# A copy: whoever builds in the meantime changes the file.
binary=${SHARKLOCK_BIN:-}
if [ -z "$binary" ]; then
  cargo build --locked --package sharklock-cli
  binary=$target/debug/sharklock
fi
cp "$binary" "$dir/under-test"

other=${OTHER_BINARY:-}
commit=${OTHER_COMMIT:-}
[ -n "$commit" ] || [ "$minutes" -lt 10 ] || commit=$stable
if [ -z "$other" ] && [ -n "$commit" ] && [ "$commit" != none ]; then
  if id=$(git rev-parse --verify --quiet "$commit^{commit}"); then
    # Built once for every run, and under its whole id: a branch may have moved meanwhile.
    other=$target/other/$id/sharklock
    if [ ! -x "$other" ]; then
      say "building $commit for the rolling change"
      tree=$(mktemp -d /tmp/sharklock-other.XXXXXX)
      git worktree add --detach --force "$tree" "$id" >/dev/null
      # In a directory of its own, dependencies and all: cargo takes what the one commit left for what the
      # other needs, since it goes by the time of the sources.
      mkdir -p "$target/other"
      build=$(realpath "$target")/other/build
      (cd "$tree" && CARGO_TARGET_DIR=$build cargo build --locked --package sharklock-cli)
      mkdir -p "$(dirname "$other")"
      mv "$build/debug/sharklock" "$other"
      rm -rf "$build"
    fi
  elif [ -n "${OTHER_COMMIT:-}" ]; then
    unable "OTHER_COMMIT=$commit is not in this clone"
  else
    say "the commit $commit is not in this clone, which may be a shallow one"
  fi
fi
[ -n "$other" ] || say 'the rolling change is left out: it needs OTHER_BINARY or OTHER_COMMIT'

program=${SHARKLOCK_CHAOS_BIN:-}
if [ -z "$program" ]; then
  cargo build --locked --package sharklock-tests --bin sharklock-chaos
  program=$target/debug/sharklock-chaos
fi
image=sharklock:chaos
scripts/image-offline.sh "$dir/under-test" "$image" || unable "there is no image $image"

options=(--seed "$seed" --minutes "$minutes" --image "$image" --dir "$dir")
if command -v cc >/dev/null; then
  cc -shared -fPIC -O2 -o "$dir/slow_disk.so" tests/shim/slow_disk.c -ldl
  options+=(--sync-shim "$dir/slow_disk.so")
else
  say 'slow disks and failing syncs are left out: there is no compiler'
fi
[ -z "$(faketime)" ] || options+=(--faketime "$(faketime)")
[ -z "$other" ] || options+=(--binary "$dir/under-test" --other-binary "$other")
[ -z "${ONLY:-}" ] || options+=(--only "$ONLY")
[ -z "${KEEP:-}" ] || options+=(--keep)
# The program removes its containers when it is told to end: this script waits for that.
trap : TERM INT
code=0
"$program" run "${options[@]}" || code=$?
say "$dir has the report (Markdown, SVG), slots.csv, leaders.csv, plan.txt, run.log, histories/ and logs/"
# What an hour came to is shown to whoever reads the repository.
report=$dir/report shown=docs/benchmarks/chaos-compose
if [ "$minutes" -ge 60 ] && [ -f "${report}.md" ]; then
  sed 's/(report\.svg)/(chaos-compose.svg)/' "${report}.md" >"${shown}.md"
  cp "${report}.svg" "${shown}.svg"
  say "${shown}.md has the report, too"
fi
exit "$code"
