#!/usr/bin/env bash
# Builds the image of SharkLock on a machine without a registry: `image-offline.sh BINARY [TAG]`. The base
# is made once, of Debian's packages (debootstrap), and trimmed as Debian's own slim images are; BINARY,
# which is built already, goes in stripped. Its symbols stay beside it, in BINARY.debug. The rest is what
# deploy/docker/Dockerfile says of its runtime.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# The image's user is another than this one, and is to read what goes in.
umask 022

say() { printf 'image: %s\n' "$*" >&2; }
binary=${1:?image-offline.sh BINARY [TAG]}
tag=${2:-sharklock:local}
# The base has the libraries of this machine's release, for which the binary was built.
suite=${SHARKLOCK_DEBIAN:-$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")}
base=sharklock-base:$suite
scripts/docker.sh

sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)
dir=$(mktemp -d "${TMPDIR:-/tmp}/sharklock-image.XXXXXX")
trap '"${sudo[@]}" rm -rf "$dir"' EXIT

missing=()
command -v debootstrap >/dev/null || missing+=(debootstrap)
command -v objcopy >/dev/null || missing+=(binutils)
if [ "${#missing[@]}" -gt 0 ]; then
  say "installing ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi

if ! docker image inspect "$base" >/dev/null 2>&1; then
  say "making the base $base of Debian's packages (a minute, once)"
  "${sudo[@]}" debootstrap --variant=minbase --include=libstdc++6 "$suite" "$dir/root" \
    "${SHARKLOCK_DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$dir/debootstrap.log" 2>&1 || {
    tail -5 "$dir/debootstrap.log" >&2
    exit 1
  }
  for path in var/cache/apt/archives var/lib/apt/lists usr/share/doc usr/share/man usr/share/info \
    usr/share/locale usr/share/i18n usr/share/lintian var/log; do
    "${sudo[@]}" find "$dir/root/$path" -mindepth 1 -delete 2>/dev/null || true
  done
  "${sudo[@]}" tar -C "$dir/root" -c . | docker import - "$base" >/dev/null
fi

mkdir "$dir/context"
objcopy --only-keep-debug "$binary" "$binary.debug"
objcopy --strip-all "$binary" "$dir/context/sharklock"
(cd "$(dirname "$binary")" && objcopy --add-gnu-debuglink="$(basename "$binary").debug" "$dir/context/sharklock")
sed -n '/^# -- runtime --$/,$p' deploy/docker/Dockerfile |
  sed -e "s|^FROM .* AS runtime|FROM $base|" -e 's|^COPY --from=build /out/|COPY |' >"$dir/context/Dockerfile"
# Its warnings are about how to build faster.
docker build --quiet --tag "$tag" "$dir/context" >"$dir/build.log" 2>&1 || {
  cat "$dir/build.log" >&2
  exit 1
}
say "$tag is ready: $(docker image inspect --format '{{.Size}}' "$tag" | awk '{ printf "%.0f MB", $1 / 1e6 }')"
