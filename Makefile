# Everything runs in .venv, made from constraints.txt; a target makes what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
TORCH  := $(shell grep '^torch==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help microbench test lint gate gpu bench samples docs pictures clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

microbench: $(VENV)/run.stamp  ## set everything up and measure this machine's roofs
	@$(BIN)/probe run microbench

# Neighbours in a file share what it prepares: a worker begins with a run of tests, and takes from others what is left.
test: lint  ## set everything up, lint, and run all tests
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

lint: $(VENV)/test.stamp  ## style, types and direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

gate: $(VENV)/test.stamp  ## probe's own gate: its reader and its profiler, against the last tag, else the parent commit
	$(BIN)/python benchmarks/gated.py

# The GPU machine may have no network: what is there is used, whether an environment was made or not.
gpu:  ## on a machine with a GPU: its tests, its microbenchmarks, recorded runs (results in $$OUT, default build/gpu)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py

bench: $(VENV)/test.stamp  ## accuracy of the microbenchmarks, overhead of the profiler, estimated against real savings
	$(BIN)/python benchmarks/microbench_accuracy.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/predictions/measure.py

samples: $(VENV)/run.stamp  ## record sample_traces/ again
	$(BIN)/python sample_traces/record.py

pictures: $(VENV)/test.stamp  ## draw the pictures of README and docs again
	$(BIN)/python docs/pictures.py
	$(BIN)/python docs/concept_pictures.py
	$(BIN)/python docs/screenshots.py

docs: $(VENV)/docs.stamp  ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "build/site/index.html; with search: $(BIN)/python -m http.server --directory build/site"

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "probe needs Python 3.11 or later: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone, so that nothing else decides which build of it is installed.
$(VENV)/run.stamp: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) $(TORCH)
	$(PIP) --editable .
	@touch $@

$(VENV)/test.stamp: $(VENV)/run.stamp
	$(PIP) --editable '.[test,docs]'
	@touch $@

$(VENV)/docs.stamp: $(VENV)/run.stamp
	$(PIP) --editable '.[docs]'
	@touch $@
