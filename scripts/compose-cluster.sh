#!/usr/bin/env bash
# A cluster of containers on this machine: `compose-cluster.sh up|down|ps`, which `make up`, `make down` and
# `make ps` call. CLUSTER=small takes deploy/compose.small.yaml. The image is built where it is missing, or
# always with REBUILD=1: by deploy/docker/Dockerfile where the registry answers, else by
# scripts/image-offline.sh; BUILD=registry or BUILD=offline chooses. SHARKLOCK_IMAGE=TAG takes one that is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
project=${SHARKLOCK_PROJECT:-sharklock}
image=${SHARKLOCK_IMAGE:-sharklock:local}
export SHARKLOCK_IMAGE=$image
file=deploy/compose.yaml
[ "${CLUSTER:-}" != small ] || file=deploy/compose.small.yaml

compose() {
  if docker compose version >/dev/null 2>&1; then
    docker compose --project-name "$project" --file "$file" "$@"
  else
    docker-compose --project-name "$project" --file "$file" "$@"
  fi
}
of_project() { docker "$1" ls "${@:2}" --quiet --filter "label=com.docker.compose.project=$project"; }

build() {
  local how=${BUILD:-}
  if [ -z "$how" ]; then
    if timeout 30 docker pull --quiet debian:bookworm-slim >/dev/null 2>&1; then how=registry; else how=offline; fi
  fi
  case $how in
    registry)
      say "building $image by deploy/docker/Dockerfile (the first time compiles RocksDB, which takes a while)"
      docker build --file deploy/docker/Dockerfile --tag "$image" \
        --build-arg COMMIT="$(git rev-parse --short=12 HEAD 2>/dev/null || true)" .
      ;;
    offline)
      say "no registry answers: building $image of Debian's packages and a binary that is built here"
      local binary=${SHARKLOCK_BIN:-}
      if [ -z "$binary" ]; then
        scripts/setup.sh
        SHARKLOCK_COMMIT=$(git rev-parse --short=12 HEAD 2>/dev/null || true) \
          cargo build --release --locked --package sharklock-cli
        binary=${CARGO_TARGET_DIR:-target}/release/sharklock
      fi
      scripts/image-offline.sh "$binary" "$image"
      ;;
    *) say "BUILD=$how: registry or offline" && exit 2 ;;
  esac
}

# Names of containers with their health, one a line.
health() {
  docker ps --all --filter "label=com.docker.compose.project=$project" \
    --format '{{.Label "com.docker.compose.service"}} {{.Status}}' | sort
}

up() {
  scripts/docker.sh
  if [ -n "${REBUILD:-}" ] || ! docker image inspect "$image" >/dev/null 2>&1; then build; fi
  compose up --detach
  local end=$((SECONDS + 120))
  # Each is healthy: as many lines as containers, and none that says anything else.
  until [ "$(health | grep -c '(healthy)')" = "$(health | grep -c .)" ]; do
    if [ "$SECONDS" -ge "$end" ] || health | grep -qE ' Exited \(78\)'; then
      say 'not all containers became ready:'
      health >&2
      local name
      for name in $(health | grep -v '(healthy)' | cut -d ' ' -f 1); do
        compose logs --tail 3 "$name" >&2
      done
      exit 1
    fi
    sleep 0.5
  done
  local first second
  case $file in
    *small*) first=node-1 second=node-2 ;;
    *) first=gateway-1 second=gateway-2 ;;
  esac
  cat <<TEXT
The cluster is ready: $(health | grep -c .) containers.

  $first   http://$(compose port "$first" 7700)
  $second   http://$(compose port "$second" 7700)

  export SHARKLOCK_ENDPOINTS=http://$(compose port "$first" 7700),http://$(compose port "$second" 7700)
  sharklock status
  sharklock lock hello -- date

Without the binary on this machine: docker exec $(compose ps -q "$first" | cut -c 1-12) sharklock status
make ps shows the containers, make down removes them with their data.
TEXT
}

down() {
  scripts/docker.sh
  # Whichever of the two files it was started by: the project's name says what is its own.
  compose down --volumes --remove-orphans
  local left
  left=$(of_project container --all; of_project volume; of_project network)
  if [ -n "$left" ]; then
    # Volumes of the other file are none of this one's.
    of_project volume | xargs --no-run-if-empty docker volume rm >/dev/null
    of_project network | xargs --no-run-if-empty docker network rm >/dev/null
  fi
  say "containers, network and data are gone; the image stays for the next start: docker image rm $image"
}

case ${1:-} in
  up) up ;;
  down) down ;;
  # Those that have ended, too: Compose 2 hides them.
  ps) scripts/docker.sh && compose ps --all ;;
  *) say 'compose-cluster.sh up|down|ps' && exit 2 ;;
esac
