# The front door. It needs Python 3.11 or newer, make and git; everything else is
# installed, pinned and by hash, into .venv by the first target that wants it. Where npm is
# there, too, the tests also drive the official npm SDKs; without it those tests are skipped.

# Which interpreter builds .venv: `make venv PYTHON=python3.12`. Empty: the first that fits.
PYTHON ?=
# Which pip installs into .venv: `make venv PIP_VERSION=23.2.1`. Empty: the one that the interpreter brings.
PIP_VERSION ?=
USUAL := python3 python3.11 python3.12 python3.13 python3.14 python
JOBS ?= auto
HOST ?= 127.0.0.1
PORT ?= 8000
# Of the soak.
SECONDS ?= 600
STREAMS ?= 500
# Further arguments for pytest: `make test ARGS="tests/unit -k docs"`.
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

NPM := tests/contract/npm
NPM_INSTALLED := $(NPM)/node_modules/.package-lock.json
TESTABLE := $(INSTALLED) $(if $(shell command -v npm),$(NPM_INSTALLED))

# Compiled files are kept, also where the environment says not to (as images of Python do): the tests start a hundred
# interpreters, and each would compile everything anew. `make clean` takes them away.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv npm demo test check format verify fresh protocols faults soak bench coverage build requirements clean

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

venv: $(INSTALLED)  ## create .venv with the pinned tools and the project

# One stamp, so that this runs again only when the pins or the project's own metadata change.
$(INSTALLED): requirements/dev.txt pyproject.toml
	@set -e; \
	fits='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if [ ! -x $(BIN)/python ]; then \
	  found=; able=; \
	  for name in $(or $(PYTHON),$(USUAL)); do \
	    "$$name" -c "$$fits" 2>/dev/null || continue; \
	    found=$$name; \
	    if "$$name" -c 'import ensurepip' 2>/dev/null; then able=$$name; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo 'Python 3.11 or newer is needed; not found as: $(or $(PYTHON),$(USUAL))' >&2; \
	    echo 'Name one with: make venv PYTHON=/path/to/python' >&2; exit 1; \
	  fi; \
	  if [ -z "$$able" ]; then \
	    echo "$$found cannot make virtual environments: its ensurepip module is missing." >&2; \
	    echo 'On Debian and Ubuntu: apt install python3-venv. Or name another with PYTHON=' >&2; exit 1; \
	  fi; \
	  echo "creating $(VENV) with $$able"; \
	  "$$able" -m venv $(VENV); \
	fi; \
	$(PIP) --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --default-pip
	$(if $(PIP_VERSION),$(PIP) install -qq pip==$(PIP_VERSION))
# The lock is complete, so its packages are installed without a look at their dependencies: pip before 25 would refuse
# a dependency that names an extra (`google-auth[requests]`) although its package is pinned. `pip check` looks instead.
	$(PIP) install -qq --require-hashes --no-deps -r requirements/dev.txt
	$(PIP) install -qq --no-build-isolation --no-deps --editable .
	$(PIP) check
	@touch $@

npm: $(NPM_INSTALLED)  ## install the npm SDKs that some of the tests drive; needs node 20 or newer

# npm writes this file itself; it keeps its old date when nothing had to change.
$(NPM_INSTALLED): $(NPM)/package.json $(NPM)/package-lock.json $(NPM)/.npmrc
	cd $(NPM) && npm ci --loglevel=error
	@touch $@

demo: $(INSTALLED)  ## run the gateway with its simulated provider: no key, no network (HOST, PORT)
	$(BIN)/llmproxy demo --host $(HOST) --port $(PORT)

test: $(TESTABLE)  ## run the tests, without the long ones (JOBS, ARGS)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(INSTALLED)  ## lint, formatting, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy src integrations tests
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# The long runs may sit still for minutes, so the guard against hanging tests is off; property
# tests draw fresh examples here, where `make test` repeats the same ones.
verify: $(INSTALLED)  ## run the long tests only: fuzzing, kill rounds (ARGS)
	$(BIN)/python -m pytest -m 'verify and not clean_install' -o faulthandler_timeout=0 --hypothesis-profile=search $(ARGS)

# FULL=1 makes whole clones as well, by each Python that is found, with old and new pips: some two minutes each.
fresh: $(INSTALLED)  ## install the wheel in a clean environment and run its demo; FULL=1: clones, too (FULL, ARGS)
	$(BIN)/python -m pytest -o faulthandler_timeout=0 -m 'clean_install$(if $(FULL),, and not verify)' tests/e2e/test_clean_install.py $(ARGS)

protocols: $(TESTABLE)  ## run the tests of the fidelity checklist and write docs/protocols.md
	PYTHONPATH=tests $(BIN)/python -m fidelity_checklist

faults: $(INSTALLED)  ## run the tests of the fault matrix and write their table into docs/reliability.md
	PYTHONPATH=tests $(BIN)/python -m fault_matrix

soak: $(INSTALLED)  ## run STREAMS streams with faults for SECONDS and write the figures into docs/reliability.md (ARGS)
	PYTHONPATH=tests $(BIN)/python -m soak --seconds $(SECONDS) --streams $(STREAMS) --page docs/reliability.md $(ARGS)

bench: $(INSTALLED)  ## measure added latency, throughput and memory (ARGS)
	$(BIN)/python tests/bench/run.py $(ARGS)

coverage: $(TESTABLE)  ## run the tests and show the branches they miss (ARGS)
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered $(ARGS)

build: $(INSTALLED)  ## build the wheel and the source distribution into dist/
	$(BIN)/python -m build --no-isolation

# UPGRADE=1 moves the pins to the newest releases; without it only what changed above moves.
requirements: $(INSTALLED)  ## compile requirements/dev.txt anew (UPGRADE=1)
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 --all-extras $(if $(UPGRADE),--upgrade) \
	  pyproject.toml requirements/dev.in --output-file requirements/dev.txt

clean:  ## remove what was built and cached; .venv stays
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage coverage.xml
	find src integrations tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
