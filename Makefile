# make demo   set up and train on the built-in scene (no data, no GPU needed)
# make test   set up and run style, types and tests
# make docs   set up and build the documentation
#
# PYTHON picks the interpreter, VENV the folder of the virtual environment:
#   make test PYTHON=python3.12 VENV=.venv312
#
# WITH is given to pip as well, for a release or a file of constraints; JOBS is the
# number of processes that run the tests, TESTS what pytest is told:
#   make pytest WITH='torchgeo==0.9.0' JOBS=8 TESTS=tests/maps

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
WITH ?=
TESTS ?=

.PHONY: demo test style pytest docs clean

demo: $(VENV)/.installed
	$(BIN)/torchgeo-ekgnet demo

test: style pytest

style: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(TESTS)

docs: $(VENV)/.installed
	$(BIN)/pip install --quiet -e '.[docs]'
	$(BIN)/python -m sphinx -W -b html docs docs/_build/html

$(VENV)/.installed: pyproject.toml $(wildcard torchgeo_ekgnet/layers/_*.[ch])
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install -e '.[tests,style]' $(WITH)
	touch $@

clean:
	rm -rf $(VENV)
