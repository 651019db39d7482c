#!/usr/bin/env bash
# SharkLock beside etcd, ZooKeeper and Redis on this machine: `bench-peers.sh [OPTION...]` installs
# what is missing, builds, measures for about half an hour, and writes docs/benchmarks/peers.*.
# Options go to the program: --help shows them, `--rounds 1 --clients 1,256` is a short run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never

scripts/setup.sh
missing=()
command -v etcd >/dev/null || missing+=(etcd-server)
command -v redis-server >/dev/null || missing+=(redis-server)
[ -d /usr/share/zookeeper ] || [ -d /usr/share/java/zookeeper ] ||
  compgen -G '/usr/share/java/zookeeper*.jar' >/dev/null || missing+=(zookeeper)
if [ "${#missing[@]}" -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "please install what is missing, by Debian's names: ${missing[*]}" >&2
    exit 1
  fi
  sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  # The packages' own services stay off: this run starts its servers itself.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
    "${sudo[@]}" chmod +x "$policy"
    trap '"${sudo[@]}" rm -f "$policy"' EXIT
  fi
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

cargo build --release --locked --package sharklock-cli
cargo build --release --locked --package sharklock-bench --features peers
target=$(cargo metadata --locked --no-deps --format-version 1 |
  sed -E 's/.*"target_directory":"([^"]*)".*/\1/')
"$target/release/sharklock-bench-peers" "$@"
