# Every target makes its environment by itself. PYTHON is any Python 3.11, 3.12 or 3.13.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: quickstart test check docs pictures faults gpu-check format clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

quickstart: .venv/installed  ## all four stages on real data, in ten to twenty minutes
	$(BIN)/trivium quickstart

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py

docs: .venv/installed  ## the documentation as a site, in site/
	$(BIN)/python -m experiments.docs.site

pictures: .venv/installed  ## all pictures of the documentation, those of runs from runs/
	$(BIN)/python -m experiments.docs.all_pictures

faults: .venv/installed  ## 192 kills: 4 stages x 4 strategies x 12 moments, as a table; and all other faults
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --every-moment tests/faults

gpu-check: .venv/installed  ## what only a GPU can show, in one table, within eight minutes
	$(BIN)/python -m experiments.benchmarks.gpu_check

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs site .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
