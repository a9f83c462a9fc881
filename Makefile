# `make demo` and `make test` set up, build and run all they need. PROFILE=dev builds faster, for a look around; PROFILE=pgo takes longer,
# for production.
PROFILE ?= release
# Arguments of the demo, such as DEMO="--port 7432 --admin-port 9188".
DEMO ?=
target_folder = $(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
PROGRAM = $(or $(CARGO_TARGET_DIR),target)/$(target_folder)/pg-ha-proxy
export PATH := $(PATH):$(HOME)/.cargo/bin

# What `make deploy-test` runs: full or short.
DEPLOY_TEST ?= full

.PHONY: build setup demo test check chaos truth conformance conformance-short drivers pgo fuzz deploy-check deploy-test bench
build: setup
ifeq ($(PROFILE),pgo)
	@scripts/pgo
else
	cargo build --locked --profile $(PROFILE)
endif

# Patroni, PostgreSQL 18, etcd and protoc, into .local
setup:
	@scripts/setup

# A local cluster with the proxy before it, until Ctrl-C
demo: build
	@$(PROGRAM) demo $(DEMO)

# Everything: units, and what needs the real programs
test: setup
	cargo test --locked

# Form, lints and documentation, each warning an error
check: setup
	cargo fmt --check
	rustfmt --check --edition 2024 fuzz/targets/*.rs
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# Kills, freezes and cuts off a cluster under load: CHAOS_SEED, CHAOS_SECONDS (900), CHAOS_FAULTS; tests/chaos/README.md
chaos: setup
	cargo test --locked --profile $(PROFILE) --test chaos -- --ignored --nocapture --test-threads=1

# Every statement of PostgreSQL's own tests on a primary and a standby, against where it is sent: TRUTH_SEED; tests/truth/README.md
truth: setup
	cargo build --locked --bin pg-ha-proxy --example truth_judge
	.local/runtime/bin/python tests/truth/run.py

# PostgreSQL's own suites through the proxy and directly, three ways; tests/conformance/README.md
conformance: setup
	cargo build --locked --bin pg-ha-proxy
	.local/runtime/bin/python tests/conformance/run.py

# Half a minute of it
conformance-short: setup
	cargo build --locked --bin pg-ha-proxy
	.local/runtime/bin/python tests/conformance/run.py --way proxy --schedule tests/conformance/short_schedule --folder target/conformance-short

# The release build, laid out by a profile of itself at work: target/pgo/pg-ha-proxy; scripts/pgo
pgo:
	@$(MAKE) --no-print-directory build PROFILE=pgo

# The proxy beside PgBouncer and HAProxy, as ratios: BENCH="--rounds 5 --clients 8"; benches/README.md
bench: setup
	cargo build --locked --release
	benches/side-by-side $(BENCH)

# Suites of drivers and of programs on top of them, directly and through the proxy: DRIVERS="--suite asyncpg"; tests/drivers/README.md
drivers: setup
	cargo build --locked --bin pg-ha-proxy
	.local/runtime/bin/python tests/drivers/run.py $(DRIVERS)

# Each fuzz target for FUZZ_SECONDS (30); fuzz/README.md
fuzz: setup
	fuzz/run

# The deployment's descriptions held together: Terraform, Compose, secrets, monitoring. Needs no Docker engine
deploy-check:
	@deploy/test/run descriptions.py

# The deployment on this machine's Docker engine, from nothing, with its leader lost and its data brought back; deploy/README.md
deploy-test:
	@PROFILE=$(PROFILE) deploy/test/run deploy_test.py $(DEPLOY_TEST)
