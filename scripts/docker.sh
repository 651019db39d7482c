#!/usr/bin/env bash
# Makes Docker and Compose answer on this machine: installs Debian's docker.io and docker-compose where they
# are missing and that is allowed, and starts the daemon where none runs. Does nothing, quickly, when
# both answer. What it starts stays: `docker.sh stop` ends a daemon that it started.
set -euo pipefail

say() { printf 'docker: %s\n' "$*" >&2; }
pidfile=/var/run/sharklock-dockerd.pid

if [ "${1:-}" = stop ]; then
  [ -f "$pidfile" ] || exit 0
  pid=$(cat "$pidfile")
  if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then
    kill -TERM "$pid"
    for _ in $(seq 300); do [ -e "/proc/$pid" ] || break; sleep 0.1; done
  fi
  rm -f "$pidfile"
  exit 0
fi

sudo=()
[ "$(id -u)" -eq 0 ] || sudo=(sudo)

answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
has_compose() { docker compose version >/dev/null 2>&1 || docker-compose version >/dev/null 2>&1; }

missing=()
answers || command -v dockerd >/dev/null || missing+=(docker.io)
has_compose || missing+=(docker-compose)
if [ "${#missing[@]}" -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    say "please install what is missing, by Debian's names: ${missing[*]}"
    exit 1
  fi
  say "installing ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  # The package starts its daemon where there is an init system; elsewhere it is started below.
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" iptables >&2
  hash -r
fi

answers && exit 0
if [ -d /run/systemd/system ]; then
  "${sudo[@]}" systemctl start docker
else
  say 'starting dockerd'
  log=$(mktemp /tmp/sharklock-dockerd.XXXXXX.log)
  # A session of its own: it outlives the shell that needed it first.
  "${sudo[@]}" setsid --fork sh -c "echo \$\$ >$pidfile; exec dockerd >$log 2>&1 </dev/null"
fi
for _ in $(seq 300); do
  answers && exit 0
  sleep 0.1
done
say 'the daemon does not answer after 30 s:'
[ -z "${log:-}" ] || tail -5 "$log" >&2
exit 1
