# The two main commands are `make demo` and `make test`. `make help` lists all of them.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: venv
venv: $(VENV)/.made ## Create the development environment in .venv (DEV_PYTHON=3.11 selects a version)

$(VENV)/.made: requirements/dev.txt scripts/find-python
	@python=$$(scripts/find-python $(DEV_PYTHON)) && echo "virtual environment: $$python" && rm -rf $(VENV) && "$$python" -m venv $(VENV)
	@$(BIN)/python scripts/pip install -qq --no-compile --require-hashes -r requirements/dev.txt
	@touch $@

.PHONY: lock
lock: ## Update the lock files from the *.in files
	@scripts/lock

.cache/demo-venv/.made: requirements/demo.txt scripts/demo-venv scripts/find-python
	@scripts/demo-venv

.PHONY: demo
demo: .cache/demo-venv/.made ## Run the module end to end on this machine (KEEP=1 leaves it running)
	@.cache/demo-venv/bin/python -m demo $(if $(KEEP),--keep)

.PHONY: demo-stop
demo-stop: ## Stop the demo that `make demo KEEP=1` started
	@if [ -e .cache/demo-venv/.made ]; then .cache/demo-venv/bin/python -m demo --stop; else echo "No demo is running."; fi

.PHONY: terminal-pictures
terminal-pictures: .cache/demo-venv/.made ## Draw docs/pictures/demo.svg and show.svg from a real run of the demo
	@.cache/demo-venv/bin/python -m demo --pictures docs/pictures

.PHONY: test
test: venv ## Run all tests, against real servers
	@scripts/test

.PHONY: fault-matrix
fault-matrix: venv ## Run the fault injection tests and write docs/fault-matrix.md
	@FAULT_MATRIX=docs/fault-matrix.md $(BIN)/python -m pytest --quiet tests/deployed/faults

.PHONY: dashboard-picture
dashboard-picture: venv ## Draw docs/pictures/dashboard.svg from the dashboard's JSON, with example numbers
	@TERRAFORM_MIRROR=$$($(BIN)/python -c 'from testbed.tools import terraform_mirror as m; print(m() or "")') scripts/draw-dashboard

.PHONY: bench
bench: venv ## Run the benchmarks: requests, queue drains, organizations, sweeps, cold starts
	@PYTHONPATH=lambda/src:. $(BIN)/python -m bench

.PHONY: mutants
mutants: venv ## Run mutation tests on the decision code (PART=route53/plan selects a file)
	@PYTHONPATH=lambda/src:. $(BIN)/python -B scripts/mutants.py $(PART)

.PHONY: model
model: venv ## Run the model-based test for longer (HISTORIES=20000)
	@MODEL_HISTORIES=$(or $(HISTORIES),20000) $(BIN)/python -m pytest tests/model/test_histories.py

.PHONY: exhaustive
exhaustive: venv ## Check every step against all small worlds (12 million worlds, 4 minutes)
	@EXHAUSTIVE=all $(BIN)/python -m pytest tests/exhaustive

.PHONY: docs-check
docs-check: venv ## Check the links, commands and tables in the documentation
	@$(BIN)/python -m pytest --quiet tests/unit/test_docs.py tests/unit/test_readme.py tests/unit/test_conventions.py

.PHONY: coverage
coverage: venv ## Report branch coverage of the function (unit, conformance and model tests)
	@mkdir -p .cache/coverage && $(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest --numprocesses 3 --dist loadfile tests/unit tests/conformance tests/model
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report

.PHONY: check
check: venv format-check lint types security test ## Run every check: format, lint, types, security scan, tests

.PHONY: format
format: venv ## Format the Python and Terraform code
	@$(BIN)/ruff format --quiet .
	@terraform fmt -recursive

.PHONY: format-check
format-check: venv
	@$(BIN)/ruff format --quiet --check .
	@terraform fmt -check -recursive

.PHONY: lint
lint: venv
	@$(BIN)/ruff check --quiet .

.PHONY: types
types: venv
	@$(BIN)/mypy lambda/src cli/ec2_decommission_cli testbed demo tests examples bench
	@cd lambda/build && ../../$(BIN)/mypy --config-file ../../pyproject.toml .

.PHONY: security
security: venv .cache/scan/.made
	@$(BIN)/bandit --quiet --recursive --severity-level medium lambda cli
	@scripts/scan-terraform
	@$(BIN)/python scripts/audit # set AUDIT_STRICT=1 where PyPI is reachable

.cache/scan/.made: requirements/scan.txt
	@python=$$(scripts/find-python) && rm -rf .cache/scan && "$$python" -m venv .cache/scan
	@.cache/scan/bin/python scripts/pip install -qq --no-compile --require-hashes -r requirements/scan.txt
	@touch $@

.PHONY: package
package: ## Build a deployment package: make package SPEC=package.json
	@test -n "$(SPEC)" || { echo "SPEC is required: make package SPEC=package.json" >&2; exit 2; }
	@python=$$(scripts/find-python) && "$$python" lambda/build --spec "$(SPEC)"
