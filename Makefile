# make setup   create .venv and install
# make run     … and run the quick extrapolation study
# make test    … and pass the tests
# make thorough  … and those that take long: mutated files, notebooks, the README's path, benchmarks once
# make report  … and write report.html from the committed results
# make docs    … and build the documentation into docs/_build
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

NEWEST ?= python3.13

unexport PYTHONDONTWRITEBYTECODE  # else every process of the tests compiles what it imports again

# Python compiles what it imports; pip would spend a minute on modules that nobody loads
PIP = install --quiet --disable-pip-version-check --no-compile

.PHONY: setup run report docs test lint pytest thorough floors newest benchmark clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip $(PIP) --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

run: setup
	$(BIN)/python -m eltbench.studies.extrapolation

report: setup
	$(BIN)/eltbench report

docs: setup
	$(BIN)/python -m pip $(PIP) --constraint constraints.txt --editable ".[docs]"
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup
	$(MAKE) --jobs 2 lint pytest

PYTEST = $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

pytest: setup
	$(PYTEST) -m "not thorough"

thorough: setup
	$(PYTEST) -m thorough

# what is run in either environment
define smoke
	set -e; for backend in torch jax; do \
	  $(1)/bin/python -m eltbench.studies.extrapolation --preset smoke --trainers elt no-ilsd --backend $$backend \
	    --runs $(1)/runs --results $(1)/results/$$backend; done
	$(1)/bin/eltbench report --narrow --results $(1)/results/torch --out $(1)/report.html
endef

floors: setup
	$(PYTHON) -m venv --clear .venv-floors
	$(BIN)/python tests/floors.py jax > .venv-floors/floors.txt
	.venv-floors/bin/python -m pip $(PIP) --requirement .venv-floors/floors.txt --editable .
	$(call smoke,.venv-floors)

newest:
	$(NEWEST) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip $(PIP) --constraint constraints.txt --editable ".[jax]"
	$(call smoke,.venv-newest)

benchmark: setup
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable -s

clean:
	rm -rf .venv .venv-floors .venv-newest build dist *.egg-info
