# Deis on one machine. `make` tells what there is.
HOSTS   ?=
DEMO    ?= yes
PROFILE ?= dev
PREFIX  ?= /usr/local
NAME    ?= default

CARGO   ?= cargo
OUT     := target/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
DEISCTL := $(OUT)/deisctl

export CARGO_TERM_COLOR ?= auto

.DEFAULT_GOAL := help
.PHONY: help up down status build install packages fmt lint openapi test test-lib sim mutants test-cluster test-leftovers test-packages nextest bench-units bench-scheduler bench-scale bench-hosts bench-deploy bench-router fuzz soak soak-leftovers

help: ## This list
	@echo "Deis: a Heroku-like platform on systemd hosts and etcd"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  HOSTS=5 gives five hosts, DEMO=no stops before the first user, PROFILE=release builds fast programs"

up: build ## A cluster of three systemd hosts on this machine, with an example app
	@$(DEISCTL) cluster up --local $(if $(HOSTS),--hosts $(HOSTS)) --name $(NAME) $(if $(filter no,$(DEMO)),--no-demo)

down: ## Stop it and leave nothing behind
	@if [ -x $(DEISCTL) ]; then $(DEISCTL) cluster down --name $(NAME); \
	elif [ -x /var/lib/deis-local/$(NAME)/opt/bin/deisctl ]; then \
	  cp /var/lib/deis-local/$(NAME)/opt/bin/deisctl /tmp/deisctl-down.$$$$ && \
	  /tmp/deisctl-down.$$$$ cluster down --name $(NAME); status=$$?; rm -f /tmp/deisctl-down.$$$$; exit $$status; \
	else $(MAKE) --no-print-directory build && $(DEISCTL) cluster down --name $(NAME); fi

status: ## What is up
	@test -x $(DEISCTL) || { echo "nothing is built here: make up"; exit 3; }
	@$(DEISCTL) cluster status --name $(NAME)

build: packages ## The four programs
	@$(CARGO) build --locked --profile $(PROFILE) --bins

install: build ## `deis` below PREFIX, with its manual pages and completions for bash, zsh and fish
	@install -D -m 755 $(OUT)/deis $(DESTDIR)$(PREFIX)/bin/deis
	@$(OUT)/deis man --dir $(DESTDIR)$(PREFIX)/share/man/man1
	@set -e; put() { mkdir -p "$(DESTDIR)$(PREFIX)/share/$$2"; \
	  $(OUT)/deis completion $$1 >"$(DESTDIR)$(PREFIX)/share/$$2/$$3"; }; \
	put bash bash-completion/completions deis; \
	put zsh zsh/site-functions _deis; \
	put fish fish/vendor_completions.d deis.fish

# A compiler and a linker, TLS for libssh2, protoc for etcd's API.
packages:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: https://rustup.rs (1.95 or newer)"; exit 1; }
	@missing=; for package in build-essential pkg-config libssl-dev protobuf-compiler libprotobuf-dev; do \
	  dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null 2>&1 || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; }; fi

fmt: ## Format the code
	@$(CARGO) fmt

lint: packages ## Formatting and lints, as CI wants them
	@$(CARGO) fmt --check
	@$(CARGO) clippy --locked --all-targets -- -D warnings

openapi: packages nextest ## Write docs/openapi.json anew, from the table of routes
	@UPDATE_OPENAPI=1 $(CARGO) nextest run --locked --lib controller::tests::table::

test: lint test-lib test-cluster ## Every test there is

test-lib: test-packages nextest ## Unit, property and snapshot tests
	@$(CARGO) nextest run --locked --lib --test layering --test logs --test builder --test oneoff --test cli --test fuzz

# Mutations of fuzz/corpus, blind to coverage. What is found lies in fuzz/found.
SECONDS ?= 60
fuzz: packages ## Feed what is parsed from the network with SECONDS=60 of nonsense each
	@FUZZ_SECONDS=$(SECONDS) FUZZ_TARGET=$(TARGET) $(CARGO) test --locked --test fuzz --profile $(PROFILE) -- --nocapture

# docs/simulation.md tells what it is. SEED=7 tells one story, with everything that happens in it.
SEEDS ?= 1000
FROM  ?= 1
sim: packages ## Simulate SEEDS=1000 stories of the platform in one thread each, or tell one: SEED=7
	@SEED=$(SEED) SEEDS=$(SEEDS) FROM=$(FROM) $(CARGO) test --locked --lib --profile $(PROFILE) -- \
	  --exact sim::tests::seeds --ignored --nocapture

mutants: packages ## Break the platform on purpose, in fourteen ways: each has to be caught by the simulation
	@CARGO=$(CARGO) SEEDS=$(SEEDS) sh tests/mutants/run.sh $(MUTANT)

# The cluster tests boot their own hosts in a network namespace: a running `make up` doesn't matter.
# They run one after the other, and what is left of an earlier run is cleared first.
test-cluster: build nextest ## Three real hosts, driven as users do
	@$(CARGO) nextest run --locked --test suite --no-run
	@$(DEISCTL) cluster down --name test; rm -rf $${TMPDIR:-/tmp}/deis-suite-test
	@sh tests/leftovers.sh >target/before
	@$(DEISCTL) cluster up --local --hosts 3 --name test --netns deis-test --no-demo
	@nsenter --net=/run/netns/deis-test env DEIS_TEST_CLUSTER=test \
	  $(CARGO) nextest run --locked --offline --test suite --test-threads 1 --no-fail-fast --success-output final $(TESTS); \
	status=$$?; $(if $(KEEP),,$(MAKE) --no-print-directory test-leftovers || status=1;) exit $$status

test-leftovers:
	@$(DEISCTL) cluster down --name test
	@sh tests/leftovers.sh >target/after
	@diff target/before target/after && echo "the cluster left nothing behind"

# The long trials, on a cluster of their own: TRIALS='word...' picks, docs/soak.md tells what came of it.
soak: build test-packages ## Hours of outages, partitions and power cuts, on three real hosts
	@$(CARGO) test --locked --test soak --no-run
	@if [ "$(TRIALS)" = --list ]; then $(CARGO) test -q --locked --test soak -- --list; exit; fi; \
	$(DEISCTL) cluster down --name soak; rm -rf $${TMPDIR:-/tmp}/deis-suite-soak; \
	sh tests/leftovers.sh >target/soak-before; \
	$(DEISCTL) cluster up --local --hosts 3 --name soak --netns deis-soak --no-demo && \
	nsenter --net=/run/netns/deis-soak env DEIS_TEST_CLUSTER=soak \
	  $(CARGO) test -q --locked --offline --test soak -- $(TRIALS); \
	status=$$?; $(if $(KEEP),,$(MAKE) --no-print-directory soak-leftovers || status=1;) exit $$status

soak-leftovers:
	@$(DEISCTL) cluster down --name soak
	@rm -rf $${TMPDIR:-/tmp}/deis-suite-soak
	@sh tests/leftovers.sh >target/soak-after
	@diff target/soak-before target/soak-after && echo "the cluster left nothing behind"

# Measurements: built with optimization, a table on stdout, and bench/results/NAME.json, which is
# committed. docs/benchmarks.md says what they mean. Nothing else should run meanwhile.
BENCH = $(CARGO) bench --locked --bench

bench-scheduler: packages ## Measure: placements per second
	@$(BENCH) scheduler

bench-scale: test-packages ## Measure: 1,000 hosts with 20 processes each on one etcd
	@$(BENCH) scale

bench-units: packages ## Measure: starts, idle cost and memory, on three real hosts
	@$(call bench-on-hosts,units)

bench-hosts: packages ## Measure: hosts killed with 30 processes on them, until those run elsewhere
	@$(call bench-on-hosts,hosts)

bench-deploy: packages ## Measure: requests through deploys, and addresses from etcd to the routers
	@$(call bench-on-hosts,deploy)

bench-router: test-packages ## Measure: the router beside nginx and HAProxy, on a core each
	@missing=; for program in /usr/sbin/nginx:nginx-light /usr/sbin/haproxy:haproxy; do \
	  test -x $${program%%:*} || missing="$$missing $${program##*:}"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi
	@$(BENCH) router

# A bench that drives a cluster finds its name in DEIS_TEST_CLUSTER, as the cluster tests do
# (tests/support).
define bench-on-hosts
$(MAKE) --no-print-directory build PROFILE=release; \
$(BENCH) $(1) --no-run || exit 1; \
target/release/deisctl cluster down --name bench; rm -rf $${TMPDIR:-/tmp}/deis-suite-bench; \
target/release/deisctl cluster up --local --hosts 3 --name bench --netns deis-bench --no-demo || exit 1; \
nsenter --net=/run/netns/deis-bench env DEIS_TEST_CLUSTER=bench $(BENCH) $(1) --offline; \
status=$$?; target/release/deisctl cluster down --name bench; exit $$status
endef

# Edges are tested against the real thing: etcd members, an sshd, a registry, on loopback.
test-packages: packages
	@missing=; for program in etcd:etcd-server pebble:pebble docker-registry:docker-registry /usr/sbin/sshd:openssh-server git:git; do \
	  command -v $${program%%:*} >/dev/null || missing="$$missing $${program##*:}"; done; \
	if [ -n "$$missing" ]; then echo "installing$$missing"; \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

nextest:
	@command -v cargo-nextest >/dev/null || $(CARGO) install --locked cargo-nextest
