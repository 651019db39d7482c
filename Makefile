# The commands of this repository. Each works alone on a machine with git, make and a Rust
# toolchain: on Debian and Ubuntu it installs what else is missing, elsewhere it says what to install.

.PHONY: help dev test long release up down ps

# `sharklock version` tells it.
export SHARKLOCK_COMMIT ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null)

help:
	@echo 'make dev       build, and run a lock service on this machine (ARGS="--ephemeral" and the like)'
	@echo 'make test      every check and every test'
	@echo 'make long      the random tests at a length that no commit can wait for'
	@echo 'make release   target/release/sharklock'
	@echo 'make up        a cluster of containers on this machine, with Docker (CLUSTER=small: three equal nodes)'
	@echo 'make ps        its containers'
	@echo 'make down      removes it, with its data'

dev:
	@scripts/dev.sh $(ARGS)

test:
	@scripts/test.sh

long:
	@scripts/long.sh

release:
	@scripts/setup.sh
	cargo build --release --locked --package sharklock-cli

up:
	@scripts/compose-cluster.sh up

ps:
	@scripts/compose-cluster.sh ps

down:
	@scripts/compose-cluster.sh down
