# Everything a contributor runs. Each target sets up what it needs by itself.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
STAMP := .venv/.setup

# step NAME,COMMAND: one line when it passes, all of its output when it does not.
define step
@if out=$$($(2) 2>&1); then echo "ok  $(1)"; else printf '%s\n' "$$out"; echo "FAILED  $(1)"; exit 1; fi
endef

.PHONY: help setup run test test-clients simulate faults faults-quick demo check bench bench-quick gen fmt story clean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Make .venv with the pinned dependencies (the other targets do it when needed)

$(STAMP): pyproject.toml requirements.lock tools/setup.sh
	@tools/setup.sh

run: $(STAMP) ## Serve on 127.0.0.1:50051 with the embedded store
	@exec $(BIN)/holdgate serve

test: $(STAMP) ## Run the tests; ARGS="-k window" passes options to pytest
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-clients: $(STAMP) ## Build the clients of all languages and play the golden transcripts with them
	@$(MAKE) -C clients
	@$(BIN)/python -m pytest clients/conformance $(ARGS)

simulate: $(STAMP) ## Play a million random steps against the real scripts in a simulated store; SEED=, STEPS=, EPISODE=
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(if $(STEPS),--steps $(STEPS)) $(if $(EPISODE),--episode $(EPISODE))

faults: $(STAMP) ## Hold every promise about faults at full size and write docs/reliability.md (a quarter of an hour)
	@$(BIN)/python -m tests.faults --write docs/reliability.md

faults-quick: $(STAMP) ## A fair sample of that in under a minute, nothing written
	@$(BIN)/python -m tests.faults --quick

demo: $(STAMP) ## Start a server, make a few calls, show what they answer
	@$(BIN)/python examples/demo.py

story: $(STAMP) ## Play one system's acceptance stories: make story SYSTEM=<a policy's name>
	@test -n "$(SYSTEM)" || { echo "story: say which, e.g. make story SYSTEM=$$(basename -s .yaml "$$(ls policies/*.yaml | head -n 1)")"; exit 2; }
	@$(BIN)/python -m pytest -k "$(SYSTEM)" tests/test_scenarios.py $(ARGS) || { status=$$?; [ $$status != 5 ] || \
		echo "story: there is none of $(SYSTEM); there are those of $$(basename -as .yaml policies/*.yaml | xargs)"; exit $$status; }

check: $(STAMP) ## Format, lint, types, layers, scripts, protos, stub drift
	$(call step,ruff format,$(BIN)/ruff format --check .)
	$(call step,ruff check,$(BIN)/ruff check .)
	$(call step,mypy,$(BIN)/mypy)
	$(call step,import layers,$(BIN)/lint-imports)
	$(call step,lua scripts,$(BIN)/python tools/lint_lua.py)
	$(call step,buf lint,$(BIN)/buf lint)
	$(call step,stub drift,$(BIN)/python tools/generate_protos.py --check)

bench: $(STAMP) ## Measure every budget and write docs/benchmarks.md (some minutes); ARGS=--large goes up to a million
	@$(BIN)/python -m benchmarks --write docs/benchmarks.md $(ARGS)

bench-quick: $(STAMP) ## The same in under a minute, nothing written; the last line is JSON
	@$(BIN)/python -m benchmarks --quick $(ARGS)

gen: $(STAMP) ## Write gen/ anew from protos/
	@$(BIN)/python tools/generate_protos.py

fmt: $(STAMP) ## Format, and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## Remove caches and builds; .venv stays (rm -r .venv removes it)
	@rm -rf build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name .venv -prune -o -type d -name __pycache__ -print0 | xargs -0 rm -rf
