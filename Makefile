SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
SEEDS ?= 200
SEED ?=

BIN := .venv/bin
PY := $(BIN)/python
PYTEST := $(PY) -m pytest
STAMP := .venv/.stamp

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(STAMP) ## make .venv with everything that development needs

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
		f"perdure needs Python 3.11 or newer; $(PYTHON) is {v}. Try: make setup PYTHON=python3.11")'
	@test -x $(PY) || $(PYTHON) -m venv .venv
	@echo "installing into .venv"
	@# pip's exit code counts; only its remarks about package folders that are not there are dropped
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]' 2>&1 \
		| sed '/^WARNING: Location .* is ignored/d'
	@touch $@

.PHONY: fmt
fmt: $(STAMP) ## format the code and apply the safe fixes
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

.PHONY: lint
lint: $(STAMP) ## formatting and style
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check

.PHONY: types
types: $(STAMP) ## mypy --strict
	@$(BIN)/mypy

.PHONY: layers
layers: $(STAMP) ## who may import whom
	@$(BIN)/lint-imports

.PHONY: size
size: $(STAMP) ## files and functions stay small
	@$(PY) tools/check_size.py

.PHONY: test
test: $(STAMP) ## every test but those of the next three targets
	@$(PYTEST) -n 2 -m "not crash and not sim" --ignore=tests/examples

# Where the engine leans on what a store does by itself: claims, wake-ups, mail, transactions, steering.
ON_POSTGRES := $(filter-out %_joined.py %_sql_start.py,$(wildcard tests/client/test_*.py)) $(addprefix tests/engine/test_,cancel.py children.py continue.py live.py queues.py \
	saga_queues.py sagas.py signals.py sync.py takeover.py transaction.py waits.py artifacts.py) tests/flow/test_crash.py \
	tests/flow/test_costs.py tests/pipeline/test_batch.py tests/pipeline/test_costs.py tests/pipeline/test_rerun.py \
	tests/turn/test_turns.py tests/turn/test_supervised.py tests/turn/test_chat.py

.PHONY: postgres
postgres: $(STAMP) ## the part of the engine's tests that leans most on the store, on Postgres
	@PERDURE_TEST_STORE=postgres $(PYTEST) $(ON_POSTGRES) -n 2

.PHONY: crash
crash: $(STAMP) ## kill real processes, restart them, compare
	@$(PYTEST) tests/crash tests/stream/test_processes.py -n 2

.PHONY: sim
sim: $(STAMP) ## simulate SEEDS=200 seeds, or one: SEED=17
	@PERDURE_SIM_SEEDS=$(SEEDS) $(if $(SEED),PERDURE_SIM_SEED=$(SEED)) $(PYTEST) tests/sim $(if $(SEED),-s,-n 2)

.PHONY: examples
examples: $(STAMP) ## run the examples and compare what they print
	@$(PYTEST) tests/examples -n 2

.PHONY: browser
browser: $(STAMP) ## the chat page in a real browser, whose server is killed
	@$(PY) -c 'import playwright' 2>/dev/null || $(PY) -m pip install -q --disable-pip-version-check -c constraints.txt \
		-e '.[browser]' 2>&1 | sed '/^WARNING: Location .* is ignored/d'
	@command -v chromium chromium-browser google-chrome >/dev/null || { echo "There is no Chromium on the PATH." \
		"Install one, such as with apt-get install chromium, and try again." >&2; exit 1; }
	@PERDURE_BROWSER=1 $(PYTEST) tests/examples/test_chat.py

.PHONY: chat
chat: $(STAMP) ## a chat page, and a button that kills its server
	@$(PY) examples/chat/server.py

.PHONY: demo
demo: $(STAMP) ## see a run survive a kill
	@$(PY) examples/census/demo.py

.PHONY: bench
bench: $(STAMP) ## measure
	@$(PY) bench/run.py

.PHONY: conformance-streams
conformance-streams: $(STAMP) ## run the public suite of the Durable Streams protocol; needs Node
	@$(PY) tools/conformance_streams.py

.PHONY: check
check: lint types layers size test postgres crash sim examples ## all that CI runs, in its order

.PHONY: clean
clean: ## remove .venv, builds and caches; measurements in .bench stay
	@rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.bench/*' -prune -exec rm -rf {} +
