# `make run` and `make test` need Python 3.11 or newer and make; everything else is set up by them.

PYTHON ?= python3
SEEDS ?= 200
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
UV_VERSION := 0.13.9
UV := build/uv/bin/uv
COMPILE := $(UV) pip compile --no-config --quiet --universal --python-version=3.11 --generate-hashes --no-strip-extras \
	--custom-compile-command='make lock' $(if $(UPGRADE),--upgrade) pyproject.toml --group=build

# What takes longest starts first (tests/conftest.py).
PYTEST := pytest -q -n auto --dist=loadgroup --no-loadscope-reorder

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run test lint format chaos bench docs pictures dashboards panels image lock clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

run: $(VENV)/.project ## run the exporter: with config.yaml where there is one, else the demo
	@if [ -e config.yaml ]; then set -- --config.file=config.yaml; else echo "no config.yaml here: this is the demo, with a simulated API"; set -- demo; fi; \
	exec $(BIN)/smartstream-exporter "$$@" $(ARGS)

test: $(VENV)/.project $(VENV)/.dev lint ## everything a change must pass; ARGS=tests/counting: some of it
	@scripts/test-tools.sh
ifdef ARGS
	@$(BIN)/python -m $(PYTEST) $(ARGS)
else
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m $(PYTEST)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report
endif

lint: $(VENV)/.project $(VENV)/.dev ## style, format, types
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary

format: $(VENV)/.dev ## format, and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet

chaos: $(VENV)/.project $(VENV)/.dev ## the journeys with SEEDS=N random seeds
	@$(BIN)/python -m $(PYTEST) tests/end_to_end/test_journeys.py --seeds=$(SEEDS)

bench: $(VENV)/.project $(VENV)/.dev ## measure time and memory
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.project $(VENV)/.dev ## write the documents that are made from the code
	@PYTHONPATH=scripts $(BIN)/python -m reference

pictures: $(VENV)/.project $(VENV)/.dev ## take the picture of the status page; takes a while
	@PYTHONPATH=scripts $(BIN)/python -m reference.pictures

dashboards: $(VENV)/.dev ## write the Grafana dashboards
	@$(BIN)/python -m grafana

panels: $(VENV)/.project $(VENV)/.dev ## draw the dashboards for the README; needs npm, takes a while
	@npm --prefix grafana/render ci --silent --no-audit --no-fund
	@$(BIN)/python -m grafana.render

image: ## build the container image, run it, scrape it, stop it
	@$(PYTHON) scripts/image_smoke.py

lock: $(UV) ## pin what pyproject.toml asks for; UPGRADE=1 takes newer releases
	@$(COMPILE) --output-file=requirements.lock
	@$(COMPILE) --group=dev --constraints=requirements.lock --output-file=requirements-dev.lock

clean: ## remove what make made
	rm -rf $(VENV) build grafana/render/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* *.egg-info

# Stamps: each is touched once its step is complete, so a broken step runs again and a complete one does not.

$(VENV)/.made: scripts/venv.sh
	@scripts/venv.sh "$(PYTHON)" $(VENV)
	@touch $@

$(VENV)/.runtime: requirements.lock $(VENV)/.made
	@echo "installing requirements.lock"
	@$(PIP) install --require-hashes --requirement=requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "installing requirements-dev.lock"
	@$(PIP) install --require-hashes --requirement=requirements-dev.lock
	@touch $@

$(VENV)/.project: pyproject.toml exporter/__init__.py $(VENV)/.runtime
	@$(PIP) install --no-deps --no-build-isolation --editable=.
	@touch $@

$(UV): Makefile
	@$(PYTHON) -m venv build/uv
	@build/uv/bin/python -m pip -qq --disable-pip-version-check install uv==$(UV_VERSION)
	@touch $@
