# Everything a fresh machine needs beyond Python 3.11, Java 11 or 17 and Maven is set up here.
# `make help` lists the targets.

PYTHON ?= python3.11
UV_VERSION := 0.13.9

VENV := .venv
BIN := $(VENV)/bin
UV := build/uv-$(UV_VERSION)/bin/uv
JAR := build/flink-aws-connectors.jar
MODEL := build/model/metrics.json
OPTIONS = $(if $(REVIEWS),--reviews "$(REVIEWS)") $(if $(RATE),--rate "$(RATE)") \
	$(if $(LIMIT),--limit "$(LIMIT)") $(if $(DURATION),--duration "$(DURATION)") \
	$(if $(SEED),--seed "$(SEED)") $(if $(JOBS),--jobs "$(JOBS)") $(ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help tools setup lock lint typecheck test test-faults bench-baseline bench-scoring bench-metrics \
	run cluster submit stop package verify-package clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Every time: what was there when the project was set up may have changed since.
tools:
	@deploy/local/check-tools.sh $(PYTHON)

setup: tools build/.setup $(JAR) ## virtual environment and connector jar (implied by the others)

lint: tools build/.setup ## ruff: style, imports, docstrings, format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

typecheck: tools build/.setup ## mypy, strict where PyFlink is not involved
	$(BIN)/mypy

test: setup $(MODEL) ## unit, embedded Flink, whole jobs over the emulator (PYTEST= further options)
	$(BIN)/python -m pytest $(PYTEST)

test-faults: setup $(MODEL) ## break one thing at a time, lose nothing; 15 minutes (ARGS=--help: more)
	@$(BIN)/python -m tests.faults $(ARGS)

bench-baseline: setup $(MODEL) ## what the engine and each job can do; 12 minutes (ARGS=--help: more)
	@$(BIN)/python -m tests.benchmarks baseline $(ARGS)

bench-scoring: setup $(MODEL) ## the async UDF beside one call a review; 8 minutes (ARGS=--help: more)
	@$(BIN)/python -m tests.benchmarks scoring $(ARGS)

bench-metrics: setup ## windows of sketches: rates, error, state; 12 minutes (ARGS=--help: more)
	@$(BIN)/python -m tests.benchmarks metrics $(ARGS)

run: setup $(MODEL) ## everything on this machine (REVIEWS=FILE RATE=N LIMIT=N DURATION=S SEED=N JOBS=a,b; ARGS=--help: more)
	@$(BIN)/python -m deploy.local run $(OPTIONS)

cluster: setup $(MODEL) ## emulator, endpoint and Flink cluster to play with; they stay
	@$(BIN)/python -m deploy.local cluster $(ARGS)

submit: setup ## submit jobs to that cluster with plain flink run (JOBS=a,b)
	@$(BIN)/python -m deploy.local submit $(if $(JOBS),--jobs "$(JOBS)")

stop: build/.setup ## end that cluster
	@$(BIN)/python -m deploy.local stop

package: setup ## the zip that runs on Managed Service for Apache Flink: build/package/
	@$(BIN)/python -m deploy.package

verify-package: package $(MODEL) ## run that zip as the service does, account for every record (LIMIT=N)
	@$(BIN)/python -m deploy.verify_package $(if $(LIMIT),--limit "$(LIMIT)")

lock: tools $(UV) ## compile requirements.lock anew from pyproject.toml
	$(UV) pip compile pyproject.toml --all-extras --generate-hashes --universal --python-version 3.11 \
		--upgrade --custom-compile-command "make lock" --quiet --output-file requirements.lock

clean: ## remove everything that was built or installed
	rm -rf build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV):
	@echo "installing uv $(UV_VERSION)"
	@$(PYTHON) -m venv build/uv-$(UV_VERSION)
	@build/uv-$(UV_VERSION)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# Order only: the interpreter's time is that of the system's, which the link leads to.
$(BIN)/python: | $(UV)
	@$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)

build/.setup: requirements.lock $(UV) $(BIN)/python
	@echo "installing the locked packages into $(VENV)"
	@$(UV) pip sync --quiet --python $(BIN)/python requirements.lock
	@touch $@

$(JAR): deploy/pom.xml
	@echo "building the connector jar with Maven"
	@mkdir -p build
	@mvn --quiet --batch-mode --file deploy/pom.xml package >build/maven.log 2>&1 || \
		{ tail -n 20 build/maven.log >&2; echo "Maven failed: see build/maven.log" >&2; exit 1; }

$(MODEL): deploy/model/train.py deploy/model/report.py deploy/model/inference.py deploy/local/generator.py deploy/local/texts.py build/.setup
	@$(BIN)/python -m deploy.model.train --output build/model
