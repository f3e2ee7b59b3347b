# StreamBus: every task of the project. `make help` lists them.
#
# One build profile (release) serves running, testing and benchmarking, because RocksDB is compiled once per profile.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# ccache makes a second compilation of RocksDB take seconds; without it plain clang is used. Looked for when a recipe runs and
# not when this file is read: `deps` may just have installed it, and another CC next time would compile RocksDB again.
CCACHE = $(shell command -v ccache >/dev/null 2>&1 && echo "ccache ")
export CC = $(CCACHE)clang
export CXX = $(CCACHE)clang++
export CARGO_TERM_COLOR ?= auto

CARGO := cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
STREAMBUS := $(TARGET)/release/streambus
DATA ?= ./data
LISTEN ?= 127.0.0.1:9092
HTTP ?= 127.0.0.1:8080
CYCLES ?= 500
MINUTES ?= 30
SEED ?= $(shell date +%s)

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install what the build needs (Debian packages; nothing when it is all there)
	@scripts/install-deps.sh

.PHONY: build
build: deps ## Build the one binary, streambus
	$(CARGO) build --release --locked -p streambus-cli

# With an explicit target the flag reaches the binary only, not build scripts and macros. RocksDB is compiled once more.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
.PHONY: static
static: deps ## Build streambus without any shared library, for containers and for machines with another glibc
	$(CARGO) build --release --locked -p streambus-cli --target $(HOST) \
		--config 'target.$(HOST).rustflags=["-C","target-feature=+crt-static"]'
	@! ldd $(TARGET)/$(HOST)/release/streambus 2>/dev/null | grep '=>' || { echo 'error: the binary links shared libraries' >&2; exit 1; }

.PHONY: run
run: build ## Build and start a broker: data in ./data, clients on 9092, HTTP on 8080
	exec $(STREAMBUS) server --data-dir $(DATA) --listen $(LISTEN) --http $(HTTP)

.PHONY: test
test: deps planted ## Build and pass every test
	$(CARGO) build --release --locked --workspace --bins
	$(CARGO) test --release --locked --workspace --no-fail-fast
	$(CARGO) test --release --locked -p streambus-planted --features armed --quiet

# A broker with known mistakes in it, one at a time, for the tests of the checker. It shares all dependencies.
.PHONY: planted
planted: deps ## Build streambus-planted, whose mistakes the checker must find; never shipped
	$(CARGO) build --release --locked -p streambus-cli --features planted-bugs --bin streambus-planted

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: lint
lint: deps ## Check formatting, lints and documentation
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --release --locked -p streambus-planted -p streambus-cli --features streambus-cli/planted-bugs --bin streambus-planted -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps --quiet
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --locked check licenses bans sources; \
		else echo 'note: cargo-deny is not installed: licences and sources of dependencies were not checked' >&2; fi

# No part of lint: what is known against a dependency changes without a commit of ours, and looking it up takes a network.
.PHONY: advisories
advisories: ## Look up what is known against our dependencies (needs cargo-deny and a network)
	$(CARGO) deny --locked check advisories

.PHONY: verify
verify: lint test ## The one gate: everything a change must pass

.PHONY: cluster
cluster: build ## Build and start three brokers on this machine, data in ./data/cluster; prints what to try
	exec scripts/cluster.sh $(STREAMBUS) $(DATA)/cluster

.PHONY: demo
demo: build ## A story in the terminal: three brokers, kill -9 of a leader under load, the verdict
	$(CARGO) build --release --locked -p streambus-tests --bin streambus-demo
	$(TARGET)/release/streambus-demo

TRIALS ?= 20
.PHONY: failover
failover: build ## Measure TRIALS (20) times each: kill -9, silent isolation, planned moves, rolling restarts, wiped disks
	$(CARGO) build --release --locked -p streambus-tests --bin streambus-failover
	STREAMBUS_TRIALS=$(TRIALS) $(TARGET)/release/streambus-failover

.PHONY: soak
soak: deps ## Faults with seed after seed for MINUTES (30), CYCLES (500) kills of one broker; appends to docs/soak-ledger.md
	scripts/soak.sh $(MINUTES) $(CYCLES) $(SEED)

.PHONY: bench
bench: deps ## Run every benchmark row beside the machine's own limits; LONG=1: also MINUTES=10 of load, and kill -9 with GIB=10 stored
	$(CARGO) build --release --locked -p streambus-cli -p streambus-bench
	scripts/bench.sh $(TARGET)/release

.PHONY: bench-cluster
bench-cluster: build ## Three brokers: replication factor 3 beside 1, in one run
	scripts/bench-cluster.sh $(TARGET)/release

.PHONY: fuzz
fuzz: ## Fuzz the decoders for a minute each (needs cargo-fuzz and a nightly toolchain)
	cd protocol && for target in frame message batch; do $(CARGO) +nightly fuzz run $$target -- -max_total_time=60; done

.PHONY: install
install: build ## Copy streambus to ~/.local/bin
	install -Dm755 $(STREAMBUS) $(HOME)/.local/bin/streambus
