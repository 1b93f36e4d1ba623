# make serve  installs and starts Winnow on 127.0.0.1:8000      make test  installs and runs every check
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
ADVICE := { echo "If hnswlib could not be built: it needs a C++ compiler and Python's headers (Debian, Ubuntu: apt install g++ python3-dev)."; exit 1; }

.PHONY: install serve test lint bench bench-short clean

install: $(VENV)/.installed

serve: install
	@$(BIN)/winnow serve

test: lint
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	$(BIN)/python -m loadtest.bench $(BENCH)

bench-short: $(VENV)/.installed-dev
	$(BIN)/python -m loadtest.bench --short $(BENCH)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing pinned dependencies into $(VENV): a minute or two, torch is large."
	@$(PIP) . || $(ADVICE)
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing pinned dependencies into $(VENV): a minute or two, torch is large."
	@$(PIP) '.[dev]' || $(ADVICE)
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info
