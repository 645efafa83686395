# Everything sets itself up: a virtual environment in .venv, filled anew when pyproject.toml changes.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SGLANG_NEEDS := aiohttp pybase64 requests tqdm

.PHONY: help
help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(STAMP)  ## index the demo corpus and ask the bundled apps ten questions
	@$(BIN)/weft demo

.PHONY: test
test: $(STAMP)  ## run the tests; make test ARGS='-k radix' runs some
	$(BIN)/python -P -m pytest $(ARGS)

.PHONY: lint
lint: $(STAMP)  ## check style, format, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python -P scripts/check_imports.py
	$(BIN)/mypy

.PHONY: format
format: $(STAMP)  ## format the code and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: bench
bench: $(STAMP)  ## measure what orchestration costs, beside other frameworks; ARGS=--steps is shorter
	@$(BIN)/python -c 'import haystack, langgraph.graph, workflows' 2>/dev/null || $(BIN)/python -m pip install --editable '.[bench]'
	PYTHONPATH=benchmarks $(BIN)/python -P benchmarks/overhead.py $(ARGS)

.PHONY: optimizer
optimizer: $(STAMP)  ## measure the graph optimizer against its baselines; ARGS=--quick
	@$(BIN)/python -c 'import langgraph.graph' 2>/dev/null || $(BIN)/python -m pip install --editable '.[bench]'
	PYTHONPATH=benchmarks $(BIN)/python -P benchmarks/optimizer.py $(ARGS)

.PHONY: sglang
sglang: $(STAMP)  ## run programs in SGLang's own language on weft; installs its frontend
	$(BIN)/python -m pip install --quiet $(SGLANG_NEEDS)
	$(BIN)/python -m pip install --quiet --no-deps sglang==0.5.17
	$(BIN)/python -P -m pytest tests/e2e/test_sglang.py tests/benchmarks/test_systems.py $(ARGS)

.PHONY: proto
proto: $(STAMP)  ## generate the protobuf code anew
	$(BIN)/python -P scripts/generate_proto.py

.PHONY: clean
clean:  ## remove the virtual environment, caches and everything built
	rm -rf $(VENV) .weft .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist weft.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON); name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "weft needs Python 3.11 or newer, not $$($(PYTHON) -V); name another: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "making a virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing weft and what it needs into $(VENV); the first time takes some minutes"
	@$(BIN)/python -m pip install --progress-bar on --editable '.[dev]'
	@touch $@
