# make serve: run the node.   make test: run all tests.   make check: lint, format, types, rooms.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= config.yaml

.PHONY: serve test test-bounds test-long fuzz check format bench-codecs bench-literature bench-node clean peers

serve: $(VENV)/.installed
	@exec $(BIN)/dcmpress serve --config $(CONFIG)

test: $(VENV)/.installed-dev peers
	@test -z "$(FORBIDDEN)" || echo "make test: this system forbids mounting or tracing; left out: tests marked privileged" >&2
	$(BIN)/python -m pytest -q -n 2 $(SHARED) -m "not long$(FORBIDDEN)"

# Files of tests are shared out in their order: long ones of few tests must not come last.
SHARED = --dist loadfile --no-loadscope-reorder

# Empty, or what leaves out the tests of small file systems and power cuts where a container forbids what they do.
FORBIDDEN = $(shell d="$$(mktemp -d)"; \
  strace -o /dev/null true 2>/dev/null && mount -t tmpfs tmpfs "$$d" 2>/dev/null && umount "$$d" \
    || echo " and not privileged"; rmdir "$$d")

# The kernels once more with every array access checked.
test-bounds: $(VENV)/.installed-dev
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest -q -n 2 $(SHARED) -m "not long" tests/codecs

# Codecs, then the protocol, in this process and over the network; tests/fuzz has coverage-guided ones too.
fuzz: $(VENV)/.installed-dev
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m tests.fuzz.codecs --minutes 60
	$(BIN)/python -m tests.fuzz.protocol --minutes 60
	$(BIN)/python -m tests.fuzz.live --minutes 15

test-long: $(VENV)/.installed-dev peers
	$(BIN)/python -m pytest -q -m "long$(FORBIDDEN)"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-codecs: $(VENV)/.installed-dev
	$(BIN)/python -m bench.codecs

bench-literature: $(VENV)/.installed-dev
	$(BIN)/python -m bench.literature -o report

bench-node: $(VENV)/.installed-dev
	$(BIN)/python -m bench.node

# What every target needs: an environment of our own, with what pyproject.toml names.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "dcmpress needs Python 3.11 or newer: apt install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "venv is missing: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.made
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

# The peers in the tests: DCMTK's programs, Orthanc, and a PostgreSQL server that each run starts for itself;
# and strace, by which a test writes down what an archive does to the disk.
# RUNLEVEL=1: Debian installs the servers and does not start them as services.
peers:
	@missing="$$(for p in storescu dcmsend findscu getscu movescu echoscu storescp Orthanc initdb strace; do \
	  PATH="$$PATH:/usr/sbin:$$(echo /usr/lib/postgresql/*/bin | tr ' ' :)" command -v "$$p" >/dev/null || echo "$$p"; done)"; \
	test -z "$$missing" || { \
	  test "$$(id -u)" = 0 || { echo "missing for the tests:" $$missing; \
	    echo "apt install dcmtk orthanc postgresql strace"; exit 1; } >&2; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
	    apt-get install -y -qq dcmtk orthanc postgresql strace >/dev/null; }

clean:
	rm -rf $(VENV) build dist report .pytest_cache .mypy_cache .ruff_cache .hypothesis
