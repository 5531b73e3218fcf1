# Two commands do everything: `make demo` and `make test`. Each target brings up what it needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
DEV := python3 -m dev
VENV := .venv/bin
PYTEST := $(VENV)/python -m pytest
# Two processes: most tests wait for programs that start. The order is kept, so that the pods of tests/e2e, which come
# last, have the processors for themselves.
PARALLEL := --numprocesses=2 --dist=loadscope --no-loadscope-reorder
PYTHON := python3
# The tests start thousands of Python processes, which are not to compile our modules each time.
unexport PYTHONDONTWRITEBYTECODE
GPU_PYTHON := 3.12
GPU_PLATFORMS := manylinux_2_28 manylinux_2_17 manylinux2014
GPU_PACKAGES := annotated-types|obstore|prometheus-client|pydantic|pydantic-core|typing-extensions|typing-inspection

.PHONY: help demo test test-all test-unit test-component test-e2e test-matrix test-gpu gpu-wheels features reference soak fuzz bench-training bench-quality bench-calibration bench-drift bench-gates bench-memory bench-serving bench-hostile bench-capture bench-batch bench-operator lint cluster cluster-down images binaries venv requirements

help: ## show this
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 18

demo: ## a cluster, images, training, predictions: the whole path on this machine (CLUSTER=current: on yours)
	@$(DEV) demo

test: venv ## lint, unit, component and the main end-to-end path
	@$(MAKE) --no-print-directory cluster lint
	@$(PYTEST) $(PARALLEL) -m "not extended" tests/component tests/unit tests/e2e

test-all: venv ## all of that, and every row that needs real pods
	@$(MAKE) --no-print-directory cluster lint
	@$(PYTEST) $(PARALLEL) tests/component tests/unit tests/e2e

test-unit: venv ## the pure tests
	@$(PYTEST) tests/unit

test-component: venv binaries ## the operator and the kinds against a real API server
	@$(PYTEST) tests/component

test-e2e: venv cluster ## real pods on the cluster
	@$(PYTEST) tests/e2e

test-matrix: venv binaries ## the kinds, the operator and the chart with the API server of each supported minor, and with older Gateway APIs (MINORS=1.30,1.35)
	@$(VENV)/python -m tests.matrix

gpu-wheels: venv ## wheels that the GPU tests need beside torch, for a machine without a registry, into .gpu-wheels/ (GPU_PYTHON=3.12)
	@rm -rf .gpu-wheels
	@$(VENV)/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
	  --python-version $(GPU_PYTHON) $(foreach platform,$(GPU_PLATFORMS),--platform $(platform)_x86_64) -d .gpu-wheels \
	  $$(grep -E '^($(GPU_PACKAGES))==' trainer-image/requirements.txt)
	@du -sh .gpu-wheels

test-gpu: ## the GPU path on a machine with a GPU: a plain checkout, its own torch, and .gpu-wheels/ (PYTHON=python3)
	@test ! -d .gpu-wheels || $(PYTHON) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
	  --upgrade --target build/gpu-site .gpu-wheels/*.whl
	@PYTHONPATH=build/gpu-site:trainer-image/src:model-format/src $(PYTHON) -m pytest -p no:cacheprovider -rs tests/gpu

soak: venv cluster ## churn, kills and outages for MINUTES=30; fails where something leaks or is lost; the last line is one JSON object
	@$(VENV)/python -m tests.soak

fuzz: venv ## random archives, images, labels, listings and requests for MINUTES=10 by SEED=1 (ONLY=archives,heads CASE=17); the last line is one JSON object
	@$(VENV)/python -m tests.fuzz

features: venv ## what users can do, and the tests that show it; fails where there is none
	@$(VENV)/python -m tools.features

reference: venv ## write docs/reference.md and the template of crds/retrainings.yaml from crds/, and docs/modules.md from docstrings
	@$(VENV)/python -m tools.crd_template
	@$(VENV)/python -m tools.reference
	@$(VENV)/python -m tools.modules

bench-training: venv ## measure datasets and training, side by side; the last line is one JSON object
	@$(VENV)/python -m bench.training

bench-quality: venv binaries ## train real photographs by defaults: FLOWERS=folder WEIGHTS=file, ONLY=head,all,few,scratch,…; the last line is one JSON object
	@$(VENV)/python -m bench.quality

bench-calibration: venv ## the calibration error of a model of real photographs, in the trainer, a server, a kit and int8: FLOWERS=folder WEIGHTS=file; fails above 0.05; the last line is one JSON object
	@$(VENV)/python -m bench.calibration

bench-drift: venv ## the drift that a server shows for photographs like those of its reference, and for darkened and foreign ones: FLOWERS=folder WEIGHTS=file; the last line is one JSON object
	@$(VENV)/python -m bench.drift

bench-gates: venv ## rollouts of good and bad models of real photographs, judged by disagreement and confidence: FLOWERS=folder WEIGHTS=file; fails where one ends wrongly; the last line is one JSON object
	@$(VENV)/python -m bench.gates

bench-memory: venv cluster ## the most memory that training each preset takes, beside its pod's limit: FLOWERS=folder PRESETS=… STEPS=20; the last line is one JSON object
	@$(VENV)/python -m bench.memory

bench-serving: venv ## measure the model server beside its peers, and the gateway where the cluster runs; the last line is one JSON object (needs wrk)
	@$(VENV)/python -m bench.serving

bench-hostile: venv ## measure a well-behaved client of the model server beside hostile ones, for ten minutes; the last line is one JSON object
	@$(VENV)/python -m bench.hostile

bench-capture: venv binaries ## measure what capture costs the requests of a service, and a store that is away for a minute; the last line is one JSON object
	@$(VENV)/python -m bench.capture

bench-batch: venv ## measure a batch prediction beside a bare loop of the same engine, killed three times, and its memory; the last line is one JSON object
	@$(VENV)/python -m bench.batch

bench-operator: venv binaries ## measure the operator with 1,000 jobs and 300 services beside Kubeflow's; the last line is one JSON object
	@$(VENV)/python -m bench.scale

lint: venv binaries ## ruff, mypy, import-linter, the words of CONTRIBUTING.md, helm lint
	@$(VENV)/ruff check .
	@$(VENV)/ruff format --check .
	@$(VENV)/mypy -p bloomery_model -p bloomery_operator -p bloomery_trainer -p bloomery_serving -p kubectl_bloomery -p dev -p tools
	@$(VENV)/lint-imports
	@$(VENV)/python -m tools.words
	@.dev/bin/helm lint charts/bloomery --strict --quiet

cluster: ## build and start the single-node Kubernetes of dev/ with all images
	@$(DEV) cluster

cluster-down: ## end it; what was built stays in .dev/
	@$(DEV) cluster-down

images: ## build our images again where their files changed
	@$(DEV) images

binaries: ## build only Kubernetes, kubectl and helm
	@$(DEV) binaries

venv: .venv/.complete ## the development environment

.venv/.complete: requirements-dev.txt $(foreach package,model-format operator trainer-image serving-image plugin,$(package)/pyproject.toml) $(foreach package,operator trainer-image serving-image plugin,$(package)/requirements.txt)
	@$(DEV) packages
	@test -x $(VENV)/python || python3 -m venv .venv
	@$(VENV)/python -m pip install --quiet --disable-pip-version-check uv==$$(python3 -c 'from dev.versions import UV; print(UV)')
	@$(VENV)/uv pip install --quiet --compile-bytecode --python $(VENV)/python -r requirements-dev.txt
	@$(VENV)/uv pip install --quiet --python $(VENV)/python --no-deps -e model-format -e operator -e trainer-image -e serving-image -e plugin
	@touch $@

requirements: venv ## pin all packages anew
	@for package in operator trainer-image serving-image plugin; do \
	  $(VENV)/uv pip compile -q --python-version 3.11 --no-annotate --no-header --no-emit-index-url --no-emit-package bloomery-model --all-extras $$package/pyproject.toml -o $$package/requirements.txt; done
	@for folder in . dev/images/mlflow; do name=requirements; [ $$folder = . ] && name=requirements-dev; \
	  $(VENV)/uv pip compile -q --python-version 3.11 --no-annotate --no-header --no-emit-index-url $$folder/$$name.in -o $$folder/$$name.txt; done
	@kit=serving-image/kit; for platform in linux windows; do for flavour in cpu nvidia; do \
	  sources="serving-image/pyproject.toml"; [ $$platform = linux ] || sources="$$sources $$kit/windows.in"; \
	  [ $$flavour = cpu ] || sources="$$sources $$kit/nvidia.in --override $$kit/without-cpu.txt"; \
	  [ $$platform-$$flavour = linux-cpu ] || $(VENV)/uv pip compile -q --python-version 3.11 --python-platform $$platform \
	    --constraint serving-image/requirements.txt --no-annotate --no-header --no-emit-index-url --no-emit-package bloomery-model $$sources -o $$kit/$$platform-$$flavour.txt; \
	done; done
	@$(VENV)/uv pip compile -q --python-version 3.11 --no-annotate --no-header --no-emit-index-url serving-image/kit/tools.in -o serving-image/kit/tools.txt
