# The commands of CONTRIBUTING.md. Needs Python 3.11 to 3.13 and pip, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One stamp for the package and one for what its checks need; either is older than pyproject.toml
# once that changes.
INSTALLED := $(VENV)/.installed
TEST_INSTALLED := $(VENV)/.installed-test

EPOCHS ?= 3
DEMO_RUNS := runs/demo

.PHONY: help demo test lint format bench clean

help:
	@echo "make demo    train a small network on bundled digits, then predict a few of them"
	@echo "make test    run every check: style, types, import rules, tests"
	@echo "make lint    run every check but the tests"
	@echo "make format  format the code and mend what can be mended"
	@echo "make bench   run the benchmarks"
	@echo "make clean   remove the environment and what the tools left behind"

# pip comes last: without it the environment is unfinished and made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), expected Python 3.11 to 3.13;" \
			"run: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(TEST_INSTALLED): pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/cnnforge train --epochs $(EPOCHS) --output $(DEMO_RUNS)
	$(BIN)/cnnforge predict "$$(ls -td $(DEMO_RUNS)/*/ | head -n 1)" mnist5k --limit 8

test: lint
	$(BIN)/python -m pytest

lint: $(TEST_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(TEST_INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(TEST_INSTALLED)
	$(BIN)/python -m pytest benchmarks

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find cnnforge kernels plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +
