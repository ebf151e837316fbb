# The commands of CONTRIBUTING.md. Needs Python 3.11 to 3.13 and pip, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One stamp for the package and one for what its checks need; either is older than pyproject.toml
# once that changes.
INSTALLED := $(VENV)/.installed
TEST_INSTALLED := $(VENV)/.installed-test

# What pip installs for `make test-torch`: a version, or the options that name another build.
TORCH ?= torch
TORCH_VENV := .venv-torch
TORCH_BIN := $(TORCH_VENV)/bin
TORCH_INSTALLED := $(TORCH_VENV)/.installed
# The tests of the torch backend itself, and those that are the same under every backend.
TORCH_TESTS = $(shell find tests -name 'test_*torch*.py') tests/cnnforge/ops/test_array_op.py \
	tests/cnnforge/training tests/cnnforge/prediction tests/cnnforge/cli/test_train.py

# The inference engines that `make bench-inference` compares with, and what writes their files.
ENGINES ?= onnxruntime openvino onnx
ENGINES_VENV := .venv-engines
ENGINES_BIN := $(ENGINES_VENV)/bin
ENGINES_INSTALLED := $(ENGINES_VENV)/.installed

# The runtimes in which `make test-export` runs exported models, and what writes their files.
EXPORT_VENV := .venv-export
EXPORT_BIN := $(EXPORT_VENV)/bin
EXPORT_INSTALLED := $(EXPORT_VENV)/.installed

# Ray, for `make test-cluster`.
CLUSTER_VENV := .venv-cluster
CLUSTER_BIN := $(CLUSTER_VENV)/bin
CLUSTER_INSTALLED := $(CLUSTER_VENV)/.installed

# `make dist` installs the wheel here. The environment is made again each time. It sees the packages
# of .venv but not its cnnforge; with DIST_FULL=1 it sees nothing and installs every dependency.
DIST_VENV := .venv-dist
DIST_BIN := $(abspath $(DIST_VENV))/bin
DIST_FULL ?=
TWINE := build/twine

# `make fuzz-coverage` finds which files reach new code with it. The tests do not need it.
ATHERIS := build/atheris

# axe-core checks the accessibility of the web pages. Tests of pages skip what needs it, if it is not
# there, and everything that needs Chromium.
AXE_CORE ?= 4.14.1
PAGES := .pages
AXE := $(PAGES)/node_modules/axe-core/axe.min.js

# Tests that compile few kernels: with make lint less than two minutes on two cores.
FAST = tests/architecture tests/cnnforge/data tests/cnnforge/plugin_host tests/cnnforge/reporting \
	tests/cnnforge/runs tests/cnnforge/tasks tests/cnnforge/utils $(wildcard tests/cnnforge/test_*.py) \
	tests/cnnforge_plugins/augmentations tests/cnnforge_plugins/callbacks \
	tests/cnnforge_plugins/datasets tests/cnnforge_plugins/detection_data

ANNOTATED := build/annotated

EPOCHS ?= 3
DEMO_RUNS := runs/demo

.PHONY: help demo test suite test-fast test-torch test-annotated test-pages test-export pictures mutants cases \
	compare-seeds sweep-kills test-slow test-cluster soak fuzz fuzz-made-up fuzz-coverage fuzz-serve lint format docs bench \
	bench-torch bench-inference bench-gate bench-plugin dist lock clean

help:
	@echo "make demo    train a small network on bundled digits, then predict a few of them"
	@echo "make test    run every check: style, types, import rules, tests"
	@echo "make suite   run the tests alone"
	@echo "make test-fast   run the checks of style, types and imports, and the quick tests"
	@echo "make test-torch  run the tests of the torch backend, in an environment of its own"
	@echo "make test-annotated  compare readers of boxes with annotated photographs of other packages"
	@echo "make mutants  check each broken layer 20 times: is its fault found in every run?"
	@echo "make compare-seeds  train 42 small runs: compare finds no difference between seeds"
	@echo "make sweep-kills  kill a sweep ten times: it ends with the trials of an uninterrupted one"
	@echo "make test-slow  kill trainings and saves many times: see docs/reliability.md"
	@echo "make soak    interrupt and damage trainings at random for an hour: see docs/soak.md"
	@echo "make test-pages  run the tests of the web pages in Chromium, with axe-core from npm"
	@echo "make fuzz  read 100,000 spoiled files with each reader, READER=npz with one: see docs/fuzzing.md"
	@echo "make fuzz-made-up  read 5,000 files that hypothesis makes up with each reader"
	@echo "make fuzz-coverage READER=npz  look for files that reach new code, with atheris"
	@echo "make fuzz-serve  send 10,000 requests with random faults to cnnforge serve"
	@echo "make test-cluster  run the tests with several workers, with Ray in an environment of its own"
	@echo "make test-export  run exported models in ONNX Runtime and LiteRT"
	@echo "make cases CASES=FOLDER  run the scripts of situations that users reported"
	@echo "make lint    run every check but the tests"
	@echo "make format  format the code and fix what can be fixed"
	@echo "make docs    build the site from the Markdown files and the docstrings; warnings are errors"
	@echo "make pictures  make the pictures of the documents again, with Chromium: half an hour"
	@echo "make bench   measure all layers, write benchmarks/results/"
	@echo "make bench-torch  the same compared with PyTorch too, in the environment of make test-torch"
	@echo "make bench-inference  compare predictions with ONNX Runtime and OpenVINO"
	@echo "make bench-gate  fail if a layer has become slower compared with its reference"
	@echo "make bench-plugin  fail if a layer of plugins/example misses the speed that its cases promise"
	@echo "make dist    build the wheel and the sdist, install the wheel, train and predict with it"
	@echo "make lock    write the versions of the packages in .venv to requirements.lock"
	@echo "make clean   remove the environment and what the tools left behind"

# pip comes last: without it the environment is unfinished and made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), expected Python 3.11 to 3.13;" \
			"run: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(TORCH_BIN)/pip: | $(BIN)/pip
	$(BIN)/python -m venv $(TORCH_VENV)

$(ENGINES_BIN)/pip: | $(BIN)/pip
	$(BIN)/python -m venv $(ENGINES_VENV)

$(EXPORT_BIN)/pip: | $(BIN)/pip
	$(BIN)/python -m venv $(EXPORT_VENV)

$(CLUSTER_BIN)/pip: | $(BIN)/pip
	$(BIN)/python -m venv $(CLUSTER_VENV)

$(INSTALLED): pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(TEST_INSTALLED): pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --editable '.[test,docs]'
	@touch $@ $(INSTALLED)

# torch first, so that the extra finds it and does not choose another build.
$(TORCH_INSTALLED): pyproject.toml | $(TORCH_BIN)/pip
	$(TORCH_BIN)/python -m pip install --quiet $(TORCH)
	$(TORCH_BIN)/python -m pip install --quiet --editable '.[test,torch]'
	@touch $@

$(ENGINES_INSTALLED): pyproject.toml | $(ENGINES_BIN)/pip
	$(ENGINES_BIN)/python -m pip install --quiet --editable . $(ENGINES)
	@touch $@

$(EXPORT_INSTALLED): pyproject.toml | $(EXPORT_BIN)/pip
	$(EXPORT_BIN)/python -m pip install --quiet --editable '.[test,onnx,litert]'
	@touch $@

$(CLUSTER_INSTALLED): pyproject.toml | $(CLUSTER_BIN)/pip
	$(CLUSTER_BIN)/python -m pip install --quiet --editable '.[test,cluster]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/cnnforge train --epochs $(EPOCHS) --output $(DEMO_RUNS)
	$(BIN)/cnnforge predict "$$(ls -td $(DEMO_RUNS)/*/ | head -n 1)" mnist5k --limit 8

# Three processes for two cores: tests that wait for a disk, a server or another process left a sixth
# of the time of two cores unused. tests/conftest.py sorts the files.
TEST_PROCESSES ?= 3
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
	--benchmark-disable --durations=40 --durations-min=5

test: lint
	$(PYTEST)

suite: $(TEST_INSTALLED)
	$(PYTEST)

test-fast: lint
	$(PYTEST) -m "not slow and not gpu" $(FAST)

# CASES: a folder of cases, see tests/support/run_cases.py. ONLY: parts of the names of those to run.
cases: $(INSTALLED)
	$(BIN)/python tests/support/run_cases.py $(CASES) $(ONLY)

mutants: $(TEST_INSTALLED)
	PYTHONPATH=tests/support $(BIN)/python tests/support/repeat_mutants.py

# The runs are kept: a second call continues.
compare-seeds: $(TEST_INSTALLED)
	$(BIN)/python tests/support/seed_pairs.py runs/compare-seeds

# KILLS, and SEED of the moments.
KILLS ?= 10
SEED ?= 0
sweep-kills: $(TEST_INSTALLED)
	$(BIN)/python tests/support/kill_sweep.py runs/sweep-kills $(KILLS) $(SEED)

# torch warns of float(tensor) where a gradient is known, which the shared tests take for granted.
test-torch: $(TORCH_INSTALLED)
	KERAS_BACKEND=torch $(TORCH_BIN)/python -m pytest \
		-W "ignore:Converting a tensor with requires_grad" $(TORCH_TESTS)

# The photographs have other licences, so they are not part of this repository.
test-annotated: $(TEST_INSTALLED)
	$(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --dest $(ANNOTATED) \
		labelme==6.3.1
	$(BIN)/python -m pip download --quiet --no-deps --only-binary :all: --dest $(ANNOTATED) \
		stardist==0.9.2
	CNNFORGE_LABELME_SDIST=$$(ls $(ANNOTATED)/labelme-*.tar.gz) \
		CNNFORGE_STARDIST_WHEEL=$$(ls $(ANNOTATED)/stardist-*.whl) \
		$(BIN)/python -m pytest tests/cnnforge_plugins/detection_data/test_real_photographs.py

$(AXE):
	npm install --prefix $(PAGES) --no-save --no-audit --no-fund --silent axe-core@$(AXE_CORE)

test-pages: $(TEST_INSTALLED) $(AXE)
	$(BIN)/python -m pytest tests/cnnforge/pages tests/cnnforge/filtering tests/cnnforge/explaining \
		tests/cnnforge/reports tests/cnnforge/cli/explain tests/cnnforge/cli/compare tests/cnnforge/serving/test_page.py

# Every trial of the promises in docs/reliability.md; `make test` runs some of them.
test-slow: $(TEST_INSTALLED)
	CNNFORGE_SLOW_TESTS=1 $(BIN)/python -m pytest tests/reliability

# READER: names of readers, all by default. INPUTS: how many files each reads.
READER ?=
INPUTS ?=
fuzz: $(TEST_INSTALLED)
	nice -n 19 $(BIN)/python tests/fuzzing/fuzz.py $(READER) $(if $(INPUTS),--inputs $(INPUTS))

# Files that hypothesis makes up. READER: one reader, all by default.
fuzz-made-up: $(TEST_INSTALLED)
	CNNFORGE_FUZZ_INPUTS=$(or $(INPUTS),5000) nice -n 19 $(PYTEST) --dist load \
		tests/fuzzing/test_made_up.py $(if $(READER),-k "[$(READER)]")

$(ATHERIS)/.installed: | $(TEST_INSTALLED)
	$(BIN)/python -m pip install --quiet --target $(ATHERIS) atheris==3.0.0
	@touch $@

# SECONDS_EACH: how long. Atheris has wheels for Python 3.11 to 3.13 on Linux.
SECONDS_EACH ?= 60
fuzz-coverage: $(TEST_INSTALLED) $(ATHERIS)/.installed
	PYTHONPATH=$(ATHERIS) $(BIN)/python tests/fuzzing/fuzz_atheris.py $(READER) $(SECONDS_EACH)

# MINUTES, SEED of the faults, JOBS: trainings at a time, TABLE: file for the result. It ends after
# the trainings that have begun; Ctrl-C ends it earlier.
MINUTES ?= 60
JOBS ?= 1
TABLE ?= build/soak.md
soak: $(TEST_INSTALLED)
	PYTHONPATH=tests/support $(BIN)/python -m soak build/soak --minutes $(MINUTES) --seed $(SEED) \
		--jobs $(JOBS) --table $(TABLE)

fuzz-serve: $(TEST_INSTALLED)
	CNNFORGE_FUZZ=10000 $(BIN)/python -m pytest tests/cnnforge/serving/test_fuzz.py

test-export: $(EXPORT_INSTALLED)
	$(EXPORT_BIN)/python -m pytest tests/cnnforge/exporting tests/cnnforge/cli/export

# Each test starts Ray. They run one after another, because each uses several processes.
test-cluster: $(CLUSTER_INSTALLED)
	CNNFORGE_SLOW_TESTS=1 $(CLUSTER_BIN)/python -m pytest -n 0 tests/cluster

lint: $(TEST_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(TEST_INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The whole site each time: a page that did not change may link to one that did.
docs: $(TEST_INSTALLED)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet \
		--conf-dir docs . build/docs
	@echo "build/docs/index.html"

# Half an hour on two cores: the scripts train what they show.
pictures: $(TEST_INSTALLED)
	$(BIN)/python docs/course/pictures.py
	$(BIN)/python docs/images/pages.py
	$(BIN)/python docs/images/terminal.py

bench: $(TEST_INSTALLED)
	$(BIN)/python -m pytest benchmarks/bench_layers.py --benchmark-columns=median,iqr,rounds

# Keras stays on TensorFlow: PyTorch takes its turns in the same process.
bench-torch: $(TORCH_INSTALLED)
	$(TORCH_BIN)/python -m pytest benchmarks/bench_layers.py --benchmark-columns=median,iqr,rounds

# OPTIONS="--only lenet resnet20", --lanes 8 (AVX2), --json FILE: see `bench_inference.py --help`.
bench-inference: $(ENGINES_INSTALLED)
	$(ENGINES_BIN)/python benchmarks/bench_inference.py $(OPTIONS)

# GATE=--short takes a minute; GATE=--cnnforge-gate-write measures and writes the thresholds.
bench-gate: $(TEST_INSTALLED)
	$(BIN)/python -m pytest benchmarks/bench_layers.py --benchmark-quiet \
		--cnnforge-gate benchmarks/thresholds $(GATE)

# The cases of a plugin promise a speed by min_ratio, which holds on any machine. The plugin is
# installed in a folder of its own, so that the tests do not find it. PROMISING: which cases, as for
# the option -k of pytest.
PROMISING ?= blur_pool2d or squeeze_excite or involution2d
bench-plugin: $(TEST_INSTALLED)
	rm -rf build/example
	$(BIN)/python -m pip install --quiet --no-deps --no-index --no-build-isolation \
		--target build/example plugins/example
	PYTHONPATH=build/example $(BIN)/python -m pytest plugins/example/benchmark.py \
		--benchmark-quiet -p no:cacheprovider -k "$(PROMISING)"

$(TWINE)/.installed: | $(TEST_INSTALLED)
	$(BIN)/python -m pip install --quiet --target $(TWINE) twine
	@touch $@

# The wheel of the sdist must have the files of the wheel. DIST_FULL= takes a minute, and CI runs it;
# DIST_FULL=1 is for a release: it finds dependencies that pyproject.toml does not declare.
dist: $(TEST_INSTALLED) $(TWINE)/.installed
	rm -rf dist $(DIST_VENV)
	$(BIN)/python -m hatchling build --target sdist --target wheel
	PYTHONPATH=$(TWINE) $(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tests/support/check_dist.py dist
	$(BIN)/python -m venv $(DIST_VENV)
	$(if $(DIST_FULL),,$(BIN)/python tests/support/check_dist.py --share $(VENV) $(DIST_VENV))
	$(DIST_BIN)/python -m pip install --quiet $(if $(DIST_FULL),,--no-deps --ignore-installed) \
		dist/*.whl
	rm -rf build/dist-runs && mkdir -p build/dist-runs
	cd build/dist-runs && $(DIST_BIN)/python -c \
		"import cnnforge, sys; assert cnnforge.__file__.startswith(sys.prefix), cnnforge.__file__"
	cd build/dist-runs && $(DIST_BIN)/cnnforge --version
	cd build/dist-runs && $(DIST_BIN)/cnnforge train lenet --epochs 1
	cd build/dist-runs && $(DIST_BIN)/cnnforge predict latest mnist5k --limit 4

# The versions with which the tests have passed: run `make test` first.
lock: $(TEST_INSTALLED)
	@{ echo "# Versions with which cnnforge was tested, on Linux: pip install -c requirements.lock ."; \
		$(BIN)/python -m pip freeze --exclude-editable --exclude cnnforge | grep -v ' @ '; \
	} > requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@echo "requirements.lock: $$(grep -c == requirements.lock) packages"

clean:
	rm -rf $(VENV) $(TORCH_VENV) $(ENGINES_VENV) $(EXPORT_VENV) $(CLUSTER_VENV) $(DIST_VENV) $(PAGES) build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find cnnforge kernels plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +
