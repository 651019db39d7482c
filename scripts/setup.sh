#!/usr/bin/env bash
# Installs what a build needs and this machine lacks: `setup.sh`, or `setup.sh test` for what the
# checks need too. Does nothing, quickly, when everything is there.
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

have_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return
  # Not libclang-cpp, which other packages bring along and bindgen cannot use.
  ldconfig -p 2>/dev/null | grep -qE 'libclang(-[0-9.]+)?\.so' && return
  compgen -G '/usr/lib/llvm-*/lib/libclang[.-][0-9s]*' >/dev/null
}

missing=()
command -v cc >/dev/null || missing+=(gcc)
command -v c++ >/dev/null || command -v g++ >/dev/null || missing+=(g++)
# RocksDB's bindings are generated from its headers.
have_libclang || missing+=(libclang-dev)
# One end-to-end test watches the server's system calls.
[ "${1:-}" != test ] || command -v strace >/dev/null || missing+=(strace)
# One counts instructions.
[ "${1:-}" != test ] || command -v valgrind >/dev/null || missing+=(valgrind)
# Rules, alerts and dashboards are run by the real Prometheus, and its promtool.
[ "${1:-}" != test ] || command -v promtool >/dev/null || missing+=(prometheus)
# The unit is read by systemd itself.
[ "${1:-}" != test ] || command -v systemd-analyze >/dev/null || missing+=(systemd)
# Power cuts are tried on file systems of their own, which only root can mount.
if [ "${1:-}" = test ] && [ "$(id -u)" -eq 0 ]; then
  command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
  command -v mkfs.xfs >/dev/null || missing+=(xfsprogs)
fi
# The planted bugs are patches.
[ "${1:-}" != test ] || command -v patch >/dev/null || missing+=(patch)
if [ "${#missing[@]}" -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    say "please install what is missing, by Debian's names: ${missing[*]}"
    exit 1
  fi
  sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  say "installing ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

if ! command -v cargo >/dev/null; then
  say 'please install a Rust toolchain: https://rustup.rs'
  exit 1
fi

if [ "${1:-}" = test ]; then
  for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 && continue
    if ! command -v rustup >/dev/null; then
      say "please install the toolchain's component $component"
      exit 1
    fi
    say "installing the toolchain's component $component"
    rustup component add "$component"
  done
  if ! cargo deny --version >/dev/null 2>&1; then
    say 'installing cargo-deny (some minutes, once)'
    cargo install --locked --quiet cargo-deny
  fi
fi
