# Tenure: `make play` shows it, `make test` proves it. `make help` lists the rest.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup build release play test test-machines packages test-packages test-deploy test-vagrant sim fuzz soak bench check docs clean

# Servers like HAProxy live in sbin, which is not on an ordinary user's path.
export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/local/sbin:/usr/sbin:/sbin

# The same flags for every target: another set would compile everything again. Asked for when a recipe runs, not when
# this file is read, because `setup` may just have installed the linker.
CARGO = RUSTFLAGS="$$(scripts/rustflags)" cargo

MINUTES ?= 60

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install from Debian's packages what is missing; does nothing, and asks for nothing, if all is there
	@scripts/setup

build: setup ## compile for development
	$(CARGO) build --locked --all-targets

release: setup ## compile for use
	$(CARGO) build --locked --release

play: setup ## three PostgreSQL, a store and HAProxy on this machine, live, until Ctrl-C; STORE=zookeeper, ARGS="…"
	$(CARGO) build --locked --bins
	@exec target/debug/tenurectl play $(if $(STORE),--store $(STORE)) $(ARGS)

test: setup ## everything that needs no machines of its own
	@scripts/test

test-machines: setup ## three machines with real systemd, as root; the first time makes their image. ARGS="…" select tests
	@scripts/test-machines $(ARGS)

packages: ## .deb, .rpm and their repositories in dist; TENURE_SIGNING_KEY=… signs, TENURE_ARCHITECTURES=amd64 makes one only
	@scripts/setup packages
	@packaging/make

test-packages: ## as root: the packages judged, installed, upgraded and removed on machines with systemd, and in a root of rpm's
	@scripts/setup packages
	@scripts/test-packages $(ARGS)

test-deploy: setup ## as root: bare machines with systemd become clusters by the playbooks, under a writer; PART=base takes one part
	@scripts/test-deploy $(PART)

test-vagrant: setup ## as root: a box of Debian's packages, `vagrant up` of a topology by libvirt, the plug pulled; half an hour without KVM
	@scripts/test-vagrant

soak: setup ## as root, on real processes: random kills with synchronous replication, for MINUTES=60 in each mode or FAILOVERS=…
	TENURE_SOAK_MINUTES=$(MINUTES) $(if $(FAILOVERS),TENURE_SOAK_FAILOVERS=$(FAILOVERS)) scripts/test --no-capture --test cluster random_kills

bench: setup ## as root: what faults cost under Tenure and under Patroni, hours of it; ARGS="--repetitions 1 --fault host", --help lists all
	@[ -e .tools/patroni ] || scripts/fetch-patroni
	RUSTFLAGS="$$(scripts/rustflags)" scripts/own-memory cargo bench --locked --bench failover -- $(ARGS)

check: ## format, lints and the quick tests, without installing anything
	cargo fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked --lib --test tidy

sim: setup ## the simulator for MINUTES=60
	TENURE_SIM_MINUTES=$(MINUTES) scripts/test --no-capture --lib no_life_of_a_fresh_seed

fuzz: setup ## spoiled bytes into every reader and the REST server for MINUTES=60 each
	TENURE_FUZZ_MINUTES=$(MINUTES) scripts/test --no-capture --test api -E 'test(/^fuzz::/)'

docs: ## write the generated pages and golden texts anew
	TENURE_BLESS=1 $(CARGO) test --locked --lib --test tidy

clean: ## remove what was compiled, not what was installed
	cargo clean
