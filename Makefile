# GTVP. `make demo` and `make test` are all that a new machine needs: they install, build and run.
SHELL := /bin/bash
PROFILE ?= dist
# Tests are not staged: they need no whole-program optimization, and get none.
TEST_PROFILE ?= $(if $(filter dev,$(PROFILE)),dev,release)
TARGET := x86_64-unknown-linux-gnu
OUT := $(or $(CARGO_TARGET_DIR),target)/$(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
BINARIES := gtvpd gtvp-probe gtvp gtvp-management gtvp-security gtvp-components gtvp-communication gtvp-drivers gtvp-gateway \
	gtvp-lazyfs gtvp-fetcher gtvp-guest-init
PREFIX ?= /usr/local

.PHONY: help demo down setup build test verify soak fuzz models bench install clean

help:            ## show this
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1\t/' | expand -t 10

demo:            ## install what is needed, build, join three members, run nginx in a lazy box
	@scripts/demo

down:            ## end the demo: its boxes, its members, their networks
	@scripts/demo down

setup:           ## install what is needed to build and run
	@scripts/setup

build:           ## build, and stage everything in build/
	@cargo build --locked --profile $(PROFILE) --workspace --bins
	@mkdir -p build
	@for b in $(BINARIES); do install -m 755 -C $(OUT)/$$b build/$$b || exit 1; done
	@install -m 644 -C topology.toml build/topology.toml

test: setup build ## install what is needed, pass every test
	@cargo test --locked --profile $(TEST_PROFILE) --workspace

verify:          ## formatting, lints, layers: changes nothing
	@cargo xtask verify

soak:            ## an hour of simulated unions, or MINUTES=N; then gossip, and the full counts of its figures
	@cargo run --locked --release -p gtvp-sim -- soak --minutes $(or $(MINUTES),60)
	@cargo run --locked --release -p gtvp-sim -- gossip soak --minutes $(or $(MINUTES),10)
	@cargo run --locked --release -p gtvp-sim -- gossip spread --seeds 10000
	@cargo run --locked --release -p gtvp-sim -- smp deep
	@cargo test --locked --release -p gtvp-security --test belief -- --ignored --nocapture

fuzz:            ## every parser on changed bytes for an hour, or MINUTES=N
	@cargo run --locked --release -p gtvp-fuzz -- --minutes $(or $(MINUTES),60)

models:          ## verify the formal models of the protocols, and that each guard is needed
	@command -v verifpal >/dev/null || cargo install verifpal --version 1.6.7 --locked --ignore-rust-version
	@models/run

bench: setup build ## measure the published figures, write BENCHMARKS.md
	@cargo bench --locked --package gtvp-e2e

install: build   ## install under PREFIX (default /usr/local) with a systemd unit
	@scripts/install "$(PREFIX)"

clean:           ## remove what was built
	@cargo clean
	@rm -rf build
