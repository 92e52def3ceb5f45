# `make demo` and `make test` do all their own set-up: a virtual environment in .venv with the tested versions.
#
#   make demo [TASK=take_cover|health_gathering]   the whole loop; ends with runs/demo/<task>/report.html
#   make test [TEST_PROCESSES=auto]                every test but the slow ones
#   make slow-test                                 the slow ones
#   make miniworld                                 the system's OpenGL libraries for MiniWorld (Debian, Ubuntu; as root)
#   make minetest                                  Minetest's engine, from Debian or Ubuntu (needs root)
#   make minerl                                    the real MineRL Python client, without the game, for the tests
#   make lint types docs bench clean

PYTHON ?= python3
VENV ?= .venv
TASK ?= take_cover
PYTEST_ARGS ?=
TEST_PROCESSES ?= auto

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := setup.cfg constraints.txt pyproject.toml
# A file's tests stay together, since they share what they train; each process computes on one thread.
IN_PROCESSES := --numprocesses $(TEST_PROCESSES) --dist loadfile
INSTALL_SIZE := About 2 GB on disk with torch's CPU build, some GB more with CUDA's, which is what PyPI has for Linux.

# OpenMP threads that spin while they wait slow every process on a shared machine ten times and more.
export OMP_WAIT_POLICY := PASSIVE

.DELETE_ON_ERROR:
.PHONY: demo test slow-test miniworld minetest minerl lint types docs bench clean

demo: $(VENV)/.installed
	$(BIN)/python -m dreamenv demo --task $(TASK)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" $(IN_PROCESSES) $(PYTEST_ARGS)

slow-test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow $(IN_PROCESSES) $(PYTEST_ARGS)

# libGL, libEGL and libGLU with Mesa's drivers, which draw in software where there is no graphics card; no X server.
miniworld:
	apt-get update
	apt-get install -y libgl1 libegl1 libegl-mesa0 libglu1-mesa libgl1-mesa-dri libfreetype6 libfontconfig1

minetest:
	apt-get update
	apt-get install -y --no-install-recommends minetest lua-socket xvfb

# Built once, in .venv-minerl; the tests of Minecraft run against it, with a fake Malmo server in place of the game.
minerl: $(VENV)/.installed
	$(BIN)/python tests/minerl_client.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot follow an editable install, nor agents/ to dreamenv.agents: it checks what a user would get.
types: $(VENV)/.installed-dev
	rm -rf build/lib build/typing
	$(PIP_INSTALL) --no-deps --target build/typing .
	cd build/typing && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml -p dreamenv

# The API pages are read off the sources, laid out as they are installed: agents/ is dreamenv.agents.
docs: $(VENV)/.installed-docs
	rm -rf build/sources
	mkdir -p build/sources/dreamenv
	cd build/sources/dreamenv && ln -s ../../../dreamenv/* ../../../agents ../../../envs ../../../benchmarks .
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "Wrote site/index.html"

# Alone on the machine, threads that spin are the faster ones.
bench: $(VENV)/.installed
	env -u OMP_WAIT_POLICY $(BIN)/python -m dreamenv.benchmarks.dream_speed --out runs/bench/dream_speed.json
	env -u OMP_WAIT_POLICY $(BIN)/python -m dreamenv.benchmarks.train_speed --out runs/bench/train_speed.json
	env -u OMP_WAIT_POLICY $(BIN)/python -m dreamenv.benchmarks.agent_speed --out runs/bench/agent_speed.json

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dreamenv needs Python 3.11 or newer, this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	@echo "Installing dreamenv with ViZDoom and matplotlib into $(abspath $(VENV)): about 75 packages, torch among them."
	@echo "$(INSTALL_SIZE)"
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[vizdoom,report]'
	@touch $@

$(VENV)/.installed-dev: $(SOURCES) | $(BIN)/python
	@echo "Installing dreamenv with every extra and the tools of the tests into $(abspath $(VENV)), torch among them."
	@echo "$(INSTALL_SIZE)"
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: $(SOURCES) | $(BIN)/python
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[docs]'
	@touch $@
