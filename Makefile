# Every target sets up what it needs; what is built is cached outside the tree, in $LONGBOAT_CACHE (default ~/.cache/longboat).
SHELL := /bin/sh
.DEFAULT_GOAL := help
export PYTHONPATH := operator:.
export PYTHONDONTWRITEBYTECODE := 1
PY = $$(scripts/venv)/bin/python
PYTEST = $(PY) -m pytest -p no:cacheprovider

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.PHONY: check
check: ## Format, lint, types, layers, generated files, unit tests: no cluster, under two minutes
	@scripts/venv >/dev/null
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$$(scripts/venv)/bin/lint-imports
	$(PYTEST) -q tests/unit

.PHONY: format
format: ## Format and fix what can be fixed by itself
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

.PHONY: generate
generate: ## Write the generated files (crds/, the chart's copies, manifests/, the API reference)
	$(PY) scripts/generate.py

.PHONY: test
test: check ## Every test, on a local cluster with real parts
	$(PYTEST) tests --ignore=tests/unit -m "not long"

.PHONY: lock
lock: ## Pin the dependencies again, with hashes
	scripts/lock
