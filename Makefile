# Everything sets itself up in .venv; nothing else on the machine is touched.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PLAN ?= full
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo results test test-scale test-faults test-ui test-peers lint format types bench clean

demo: $(VENV)/.base
	$(BIN)/cellcode demo --out runs/demo

# Writes docs/results.md. CAMPUS=folder adds the tables of a real campus; PLAN=quick rehearses in minutes, into runs/rehearsal;
# ONLY=train-hybrid,scale-* makes these stages and what they need. `python -m experiments --list` prints all of them.
results: $(if $(CAMPUS),$(VENV)/.dev,$(VENV)/.base)
	$(BIN)/python -m experiments --plan $(PLAN) $(if $(filter full,$(PLAN)),--out runs/results --docs docs) \
	  $(if $(CAMPUS),--campus $(CAMPUS)) $(if $(ONLY),--only '$(ONLY)')

test: $(VENV)/.dev
	$(BIN)/python -m pytest

# Trainings of several processes, under torchrun, and the checks of an accelerator, tiny and on the CPU.
test-scale: $(VENV)/.dev
	$(BIN)/python -m pytest -m scale tests/scale tests/training

# Commands that are killed, starved and given damaged files, hostile photos, and a service under attack: about a quarter of an hour on
# two cores. Some cases mount a small file system, as root. The numbers go into docs/reliability.md.
test-faults: $(VENV)/.dev
	rm -f runs/faults.json
	$(BIN)/python -m pytest -m faults tests/faults
	$(BIN)/python tools/reliability_page.py

# In a browser: Debian's chromium, which is installed if it is missing (as root or with sudo).
test-ui: $(VENV)/.ui
	$(BIN)/python -m pytest -m ui tests/ui

# Against servers that others wrote, in an environment of their own: titiler, moto, and GeoVisio over Debian's PostgreSQL with PostGIS,
# which is installed if it is missing (as root or with sudo).
test-peers: $(VENV)/.peers
	$(BIN)/python -m pytest -m peers tests/peers

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/search.py

clean:
	rm -rf $(VENV) runs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable ".[dev]"
	touch $@ $(VENV)/.base

$(VENV)/.ui: $(VENV)/.dev
	$(PIP) install --constraint constraints.txt --editable ".[dev,ui]"
	command -v chromium > /dev/null || { S=$$(test $$(id -u) = 0 || echo sudo); \
	  $$S apt-get -q update && $$S apt-get -q install --yes --no-install-recommends chromium; }
	touch $@

$(VENV)/.peers: tests/peers/constraints.txt $(VENV)/.dev
	$(PYTHON) -m venv $(VENV)/peers
	$(VENV)/peers/bin/python -m pip --disable-pip-version-check --quiet install --constraint tests/peers/constraints.txt \
	  titiler.application uvicorn geovisio "moto[server]"
	ls /usr/share/postgresql/*/extension/postgis.control > /dev/null 2>&1 || { S=$$(test $$(id -u) = 0 || echo sudo); \
	  $$S apt-get -q update && $$S apt-get -q install --yes --no-install-recommends postgresql-15-postgis-3; }
	touch $@
