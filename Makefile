# Everything is installed into .venv from the lock; nothing outside this folder is changed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help install demo test test-all chaos lint format bench up clean

help:
	@echo "make demo      install, start everything on this machine and run the main job; MODEL=folder DATA=file.jsonl KEEP=1"
	@echo "make test      install, lint and run the tests (what CI runs)"
	@echo "make test-all  also the long tests and those in a browser"
	@echo "make chaos     kill, freeze and cut off every part of real installations at random (20 minutes); SEED= FAULTS="
	@echo "make lint      format check, types, import rules"
	@echo "make up        install and start the service on http://127.0.0.1:8000"
	@echo "make bench     measure the service on this machine; writes bench/results/"
	@echo "make clean     remove .venv, caches and the demo's data"

install: $(INSTALLED)

$(INSTALLED): constraints.txt pyproject.toml client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Finesmith needs Python 3.11 or newer: make PYTHON=python3.11 …"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,deepspeed,tracking,optimizers,s3,telemetry,test]' -e './client[cli]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python -m examples.demo $(if $(MODEL),--model '$(MODEL)') $(if $(DATA),--data '$(DATA)') $(if $(KEEP),--keep)

test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow and not gpu and not browser'

test-all: lint
	$(BIN)/python -m pytest -q -m 'not gpu'

chaos: $(INSTALLED)
	$(BIN)/python -m bench.chaos --database sqlite --faults $(or $(FAULTS),300) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m bench.chaos --database postgres --faults $(or $(FAULTS),300) $(if $(SEED),--seed $(SEED))

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python -m bench.service

up: $(INSTALLED)
	$(BIN)/finesmith-server up

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-data demo-report.json *.egg-info client/src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
