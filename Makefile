PYTHON ?= python3
BIN := .venv/bin
ENV := .venv/ready
SOURCES := $(wildcard plugins/*/)
.PHONY: bench test perf reliability check fix

bench: $(ENV)  # train and compare four methods on a real model, print the table
	$(BIN)/alignbench fetch
	$(BIN)/alignbench run quickstart
test: $(ENV)
	$(BIN)/alignbench fetch
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
perf: $(ENV)  # time the engine beside its peers and the machine's floor; K=dpo times one work
	$(BIN)/python -m pytest benchmarks/perf -rs $(if $(K),-k "$(K)")
reliability: $(ENV)  # measure what the suite promises, each point beside a control that fails; P=kill measures one
	$(BIN)/python -m benchmarks.reliability $(or $(P),--table benchmarks/reliability/RESULTS.md)
check: $(ENV)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
fix: $(ENV)
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

$(ENV): requirements.lock pyproject.toml $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e . $(SOURCES:%=-e ./%) && touch $@
