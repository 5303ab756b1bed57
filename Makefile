# Everything sets itself up in .venv; nothing else on the machine is touched.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo results test lint format types bench clean

demo: $(VENV)/.base
	$(BIN)/cellcode demo --out runs/demo

# CAMPUS=folder adds the tables of a real campus.
results: $(if $(CAMPUS),$(VENV)/.dev,$(VENV)/.base)
	$(BIN)/cellcode results --out runs/results --docs docs $(if $(CAMPUS),--campus $(CAMPUS))

test: $(VENV)/.dev
	$(BIN)/python -m pytest

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
