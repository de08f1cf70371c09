# Every target sets up what it needs; what is built is cached outside the tree, in $LONGBOAT_CACHE (default ~/.cache/longboat).
SHELL := /bin/sh
.DEFAULT_GOAL := help
export PYTHONPATH := operator:.
# Nothing but the build folder and caches of tools is written into the tree; what is compiled is used by all processes.
export PYTHONPYCACHEPREFIX := $(or $(LONGBOAT_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/longboat)/compiled
PY = $$(scripts/venv)/bin/python
TOGETHER = --numprocesses=3 --dist=loadfile --no-loadscope-reorder
PYTEST = $(PY) -m pytest -p no:cacheprovider

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.PHONY: check
check: ## Format, lint, types, layers, generated files, unit tests: no cluster, under two minutes
	@scripts/venv >/dev/null
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	@$(MAKE) --no-print-directory --jobs=2 types unit

# What is found is told as a whole, as the unit tests tell theirs meanwhile.
.PHONY: types
types: # Types and layers
	@found=$$({ $(PY) -m mypy && $$(scripts/venv)/bin/lint-imports; } 2>&1) || { echo "$$found"; exit 1; }; echo "types and layers hold"

.PHONY: unit
unit: # The unit tests
	$(PYTEST) -q --numprocesses=auto --dist=worksteal tests/unit

.PHONY: format
format: ## Format and fix what can be fixed by itself
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

.PHONY: generate
generate: ## Write the generated files (crds/, the chart's copies, manifests/, the API reference)
	$(PY) scripts/generate.py

.PHONY: test
test: check ## Every test, on a local cluster with real parts (about 20 minutes on two free cores, 60 the first time)
	$(PY) -m tests.cluster build
	@# Most tests wait for clocks and pods: three processes share the cluster (tests/turns.py says who may run beside whom).
	$(PYTEST) tests --ignore=tests/unit -m "not long" $(TOGETHER) --durations=25

.PHONY: test-long
test-long: ## The hunts that take hours
	$(PY) -m tests.cluster build
	$(PYTEST) tests -m long

.PHONY: demo
demo: ## The main job on a local cluster, told as it happens; leaves the cluster running (CLUSTER=local|kind|current, ARGS=--help)
	$(PY) -m tests.demo --cluster $(or $(CLUSTER),local) $(ARGS)

.PHONY: guest-image
guest-image: ## The guest's disk for make demo CLUSTER=current, in build/guest, to be put into an image
	$(PY) -m tests.demo.guest_image

.PHONY: bench
bench: ## The mover beside restic, Borg (and rustic) on one image; writes build/bench/data-path.json (ARGS=--help)
	$(PY) -m tests.bench $(ARGS)

.PHONY: bench-plots
bench-plots: ## Tables and pictures of docs/explanation/performance.md from performance.json (ARGS="--take build/bench/data-path.json": those of your run)
	$(PY) -m tests.bench.plots $(ARGS)

.PHONY: cluster
cluster: ## Start the local cluster; build/kubeconfig reaches it
	$(PY) -m tests.cluster up

.PHONY: cluster-stop
cluster-stop: ## Stop the local cluster; nothing of it stays behind but the remote object store
	$(PY) -m tests.cluster stop

.PHONY: shell
shell: ## A shell inside the local cluster's node
	$(PY) -m tests.cluster shell

.PHONY: clean
clean: ## Stop the local cluster and remove its state and the object store; caches stay
	$(PY) -m tests.cluster clean
	rm -rf build

.PHONY: lock
lock: ## Pin the dependencies again, with hashes
	scripts/lock
