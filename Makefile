# make setup   set up .venv and nothing else          make train   run the main job
# make test    lint, types and all tests              make lint    lint and types alone
# make bench   run every benchmark                    make format  rewrite the sources by ruff
# make clean   remove .venv and caches                The others set up first what they need.
#
# Variables: PYTHON=python3.12, VENV=.venv, PRESET=..., ARGS="--seed 1", PYTEST_ARGS="-k replay",
# TORCH_INDEX=https://download.pytorch.org/whl/cpu (a torch without CUDA: gigabytes less).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help setup train test bench lint format clean check-system

PYTHON ?=
VENV ?= .venv
PRESET ?= dreamer-cartpole
ARGS ?=
BENCHES ?= replay actors learner ranks weights system search dream
PYTEST_ARGS ?=
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(VENV)/.stamp-run check-system

train: $(VENV)/.stamp-run check-system
	$(BIN)/wm-distributed train $(PRESET) $(ARGS)

bench: $(VENV)/.stamp-run
	for name in $(BENCHES); do $(BIN)/wm-distributed bench $$name; done

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint check-system
	$(BIN)/python -m pytest $(PYTEST_ARGS)

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up: nothing happens while pyproject.toml and constraints.txt are unchanged.

$(VENV)/.stamp-dev: $(VENV)/.stamp-torch
	$(INSTALL) --quiet --no-build-isolation --editable '.[all,dev]'
	touch $(VENV)/.stamp-run $@

$(VENV)/.stamp-run: $(VENV)/.stamp-torch
	$(INSTALL) --quiet --no-build-isolation --editable '.[all]'
	touch $@

# torch goes first and alone, so that nothing else chooses its build. hatchling builds the
# editable package, by its pinned version too.
$(VENV)/.stamp-torch: $(VENV)/pyvenv.cfg pyproject.toml constraints.txt
	@echo 'Installing into $(VENV): a few minutes the first time.'
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) )torch
	$(INSTALL) --quiet hatchling
	touch $@

# A name on the PATH may be a shim for a Python that is not there: only a run tells.
$(VENV)/pyvenv.cfg:
	@for python in $(or $(PYTHON),python3.11 python3.12 python3); do \
	    if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	        2> /dev/null; then \
	        echo "Creating $(VENV) with $$($$python --version)"; \
	        $$python -m venv --clear $(VENV) && exit 0; \
	        rm -rf $(VENV); \
	        version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	        echo "$$python could not create $(VENV). On Debian and Ubuntu:" \
	            "sudo apt-get install -y python$$version-venv" >&2; \
	        exit 1; \
	    fi; \
	done; \
	echo 'Needs Python 3.11 or 3.12, found neither: name one with make PYTHON=/path/to/python.' \
	    'On Debian and Ubuntu: sudo apt-get install -y python3 python3-venv' >&2; \
	exit 1

# Only MuJoCo's pictures need these two: a run without them goes on, and its tests will fail.
check-system: $(VENV)/pyvenv.cfg
	@if [ "$$(uname)" = Linux ]; then \
	    $(BIN)/python -c 'import ctypes; ctypes.CDLL("libEGL.so.1"); ctypes.CDLL("libGL.so.1")' \
	        2> /dev/null \
	    || echo 'Missing libEGL or libGL: dmc_vision/* cannot render. On Debian and Ubuntu:' \
	        'sudo apt-get install -y libegl1 libgl1' >&2; \
	fi
