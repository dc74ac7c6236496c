# `make run` and `make test` need only make and Python 3.11 or newer; they install everything else.

PYTHON ?= python3
SEEDS ?= 200
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
UV_VERSION := 0.13.9
UV := build/uv/bin/uv
AUDIT_VERSION := 2.10.1
AUDIT := build/pip-audit/bin/pip-audit
COMPILE := $(UV) pip compile --no-config --quiet --universal --python-version=3.11 --generate-hashes --no-strip-extras \
	--custom-compile-command='make lock' $(if $(UPGRADE),--upgrade) pyproject.toml --group=build

# The slowest tests start first (tests/conftest.py).
PYTEST := pytest -q -n auto --no-loadscope-reorder

# Helm and kubectl, for the tests of deploy/.
KUBERNETES := build/kubernetes-tools

# Some containers forbid Python to keep compiled modules. Then each start of the program compiles all of them again.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run test coverage lint format chaos bench docs pictures dashboards panels manifests image dist lock audit clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

run: $(VENV)/.project ## run the exporter with config.yaml, or the demo if there is none
	@if [ -e config.yaml ]; then set -- --config.file=config.yaml; else echo "config.yaml not found: running the demo with a simulated API"; set -- demo; fi; \
	exec $(BIN)/smartstream-exporter "$$@" $(ARGS)

test: $(VENV)/.project $(VENV)/.dev $(KUBERNETES)/.made ## everything a change must pass; ARGS=tests/counting: some of it
	@scripts/test-tools.sh
# In a new clone, checking the types and compiling the tests for all workers take a processor each for a while.
	@[ -e $(VENV)/.collected ] || $(BIN)/python -m pytest -q --collect-only >$(VENV)/.collected & \
	$(MAKE) --no-print-directory lint && wait
	@$(BIN)/python -m $(PYTEST) $(ARGS)

coverage: $(VENV)/.project $(VENV)/.dev ## measure the coverage of the packages by their own tests
	@scripts/test-tools.sh
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m $(PYTEST) -m "not unmeasured"
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

lint: $(VENV)/.project $(VENV)/.dev ## check style, format and types
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary

format: $(VENV)/.dev ## format the code and apply the fixes of ruff
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet

chaos: $(VENV)/.project $(VENV)/.dev ## run the journey tests with SEEDS=N random seeds
	@$(BIN)/python -m $(PYTEST) tests/end_to_end/test_journeys.py tests/end_to_end/test_freshness.py --seeds=$(SEEDS)

bench: $(VENV)/.project $(VENV)/.dev ## run the benchmarks
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.project $(VENV)/.dev ## generate the documents that are made from the code
	@PYTHONPATH=scripts $(BIN)/python -m reference

pictures: $(VENV)/.project $(VENV)/.dev ## take the screenshot of the status page (slow)
	@PYTHONPATH=scripts $(BIN)/python -m reference.pictures

dashboards: $(VENV)/.dev ## generate the Grafana dashboards
	@$(BIN)/python -m grafana

panels: $(VENV)/.project $(VENV)/.dev ## render the dashboards for the README (slow, needs npm)
	@npm --prefix grafana/render ci --silent --no-audit --no-fund
	@$(BIN)/python -m grafana.render

manifests: $(VENV)/.dev ## generate the files in deploy/ that repeat others
	@PYTHONPATH=scripts $(BIN)/python -m manifests

image: ## build and smoke-test the container image
	@$(PYTHON) scripts/image_smoke.py

dist: $(VENV)/.project ## build the source distribution and the wheel in dist/
	@rm -rf dist build/lib build/bdist*
	@$(BIN)/python -c "from setuptools.build_meta import build_sdist as s, build_wheel as w; s('dist'); w('dist')" >/dev/null

lock: $(UV) ## pin the dependencies of pyproject.toml; UPGRADE=1 upgrades them
	@$(COMPILE) --output-file=requirements.lock
	@$(COMPILE) --group=dev --constraints=requirements.lock --output-file=requirements-dev.lock

audit: $(AUDIT) ## look up the locked packages in the database of known vulnerabilities
	@$(AUDIT) --disable-pip --require-hashes --requirement=requirements.lock --requirement=requirements-dev.lock

clean: ## remove generated files
	rm -rf $(VENV) build dist grafana/render/node_modules .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* *.egg-info

# Stamps: a target touches its stamp when it succeeds, so that make repeats only failed or outdated steps.

$(VENV)/.made: scripts/venv.sh
	@scripts/venv.sh "$(PYTHON)" $(VENV)
	@touch $@

$(VENV)/.runtime: requirements.lock $(VENV)/.made
	@echo "installing requirements.lock"
	@$(PIP) install --require-hashes --requirement=requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "installing requirements-dev.lock"
	@$(PIP) install --no-compile --require-hashes --requirement=requirements-dev.lock
	@touch $@

$(VENV)/.project: pyproject.toml exporter/__init__.py $(VENV)/.runtime
	@$(PIP) install --no-deps --no-build-isolation --editable=.
	@touch $@

$(KUBERNETES)/.made: scripts/kubernetes-tools.lock scripts/kubernetes_tools.py $(VENV)/.made
	@$(BIN)/python scripts/kubernetes_tools.py
	@mkdir -p $(@D) && touch $@

$(UV): Makefile
	@$(PYTHON) -m venv build/uv
	@build/uv/bin/python -m pip -qq --disable-pip-version-check install uv==$(UV_VERSION)
	@touch $@

$(AUDIT): Makefile
	@$(PYTHON) -m venv build/pip-audit
	@build/pip-audit/bin/python -m pip -qq --disable-pip-version-check install pip-audit==$(AUDIT_VERSION)
	@touch $@
