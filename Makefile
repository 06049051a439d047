# make setup   create .venv and install
# make run     … and run the quick extrapolation study
# make test    … and pass the tests
# make report  … and write report.html from the committed results
# make docs    … and build the documentation into docs/_build
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup run report docs test lint benchmark clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

run: setup
	$(BIN)/python -m eltbench.studies.extrapolation

report: setup
	$(BIN)/eltbench report

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

benchmark: setup
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable -s

clean:
	rm -rf .venv build dist *.egg-info
