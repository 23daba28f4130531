# Each target does all its set-up by itself, from a bare clone on. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long chaos bench bench-quick soak check format docs clean

# Two processes suit two cores; a file stays in one process, so that its database serves all its tests.
TEST_OPTIONS ?= -n 2 --dist loadfile
ARGS ?=

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## Make .venv with everything in it; says what it does (APT=no: no system packages)
	@scripts/setup

demo: setup ## Scan a real repository from start to end: server, worker, engines, the three endpoints
	@.venv/bin/python scripts/demo.py

test: setup ## Run all tests on real processes and real PostgreSQL (ARGS='tests/api -k cancel')
	@.venv/bin/python -m pytest $(TEST_OPTIONS) -m 'not long' $(ARGS)

test-long: setup ## Run the tests that are too long for every day: large tables, long campaigns
	@.venv/bin/python -m pytest --timeout 1800 -m long $(ARGS)

chaos: setup ## Break everything for a while and judge what is left (SEED=7 MINUTES=10)
	@.venv/bin/python scripts/chaos.py $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),10)

bench: setup ## Measure everything beside the floor and the peers, an hour or more (BENCH='--only create')
	@bench/setup && .venv/bin/python -m bench.run $(BENCH)

bench-quick: setup ## The same with smaller numbers, ten minutes at most
	@bench/setup && .venv/bin/python -m bench.run --size quick $(BENCH)

soak: setup ## Run at half the peak rate for an hour (MINUTES=60); last part against the first
	@bench/setup && .venv/bin/python -m bench.soak --minutes $(or $(MINUTES),60)

check: setup ## Check without running: format, lint, types, imports, migrations, documents
	@scripts/check

format: setup ## Format the code and mend what the linter can mend
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

docs: setup ## Renew the generated parts of the documents
	@.venv/bin/python scripts/generate_docs.py --write
	@.venv/bin/python -m api.openapi > docs/openapi.json

clean: ## Remove .venv, caches and builds
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
