# Everything a fresh machine lacks is installed by the target that needs it; nothing here wants root.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export UV_PYTHON_DOWNLOADS := never
LOCK := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet pyproject.toml
PIP_SYNC := VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes

.PHONY: help install dev demo up test check bench chaos lock generate clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/uv
	@if [ ! -e $(VENV)/.dev ]; then $(PIP_SYNC) requirements.lock; fi
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/uv
	$(PIP_SYNC) requirements-dev.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

install: $(VENV)/.run ## make .venv with the leeward command
dev: $(VENV)/.dev ## the same with what tests and checks need

lock: | $(BIN)/uv ## pin every dependency with hashes, without a registry's address
	$(LOCK) --extra build -o requirements.lock
	$(LOCK) --extra build --extra dev -c requirements.lock -o requirements-dev.lock
