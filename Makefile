# Each target sets up what it needs the first time and is quick the second.
PYTHON ?= python3
BIN := .venv/bin
MINI := data/mini
SWEEP ?= sweeps/mini.yaml
export PYTHONUNBUFFERED = 1
# Compiled files are kept: without them every process of a test compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup train sweep test test-all learning golden parity lint bench notebooks docs installed dashboard mini-clip

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13) and "gridclip needs Python 3.11 to 3.13; name one with: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

setup: .venv/ready  ## make .venv and install the package with its tools

$(MINI)/val.json: | .venv/ready
	$(BIN)/gridclip data mini $(MINI) --seed 0

train: .venv/ready $(MINI)/val.json  ## train and evaluate GridCLIP on the mini data set (minutes)
	$(BIN)/gridclip fit --config experiments/mini/gridclip.yaml

sweep: .venv/ready $(MINI)/val.json  ## run the small sweep: several trainings, a table of AP / APr / APc / APf; WANDB=1: by W&B
	$(if $(filter 1,$(WANDB)),$(ONLINE),$(BIN)/gridclip sweep run $(SWEEP))

# With an account: W&B hands out the trials. Its agent calls "python", which must be ours.
ONLINE = export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	sweep=$$(wandb sweep $(SWEEP) 2>&1 | tee /dev/stderr | sed -n 's/.*wandb agent //p'); \
	test -n "$$sweep" && wandb agent "$$sweep"

mini-clip: .venv/ready  ## train the tiny CLIP again and record its zero-shot accuracy
	$(BIN)/gridclip clip train

test: .venv/ready  ## run the tests (some six minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile

test-all: .venv/ready $(MINI)/val.json  ## run every test, the slow ones too
	$(BIN)/python -m pytest -m "slow or not slow"

learning: .venv/ready  ## compare 20 steps of every mini row with its golden losses
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/golden -m "slow or not slow"

golden: .venv/ready  ## write the golden losses anew, when learning is meant to change
	GRIDCLIP_WRITE_GOLDEN=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/golden -m "slow or not slow"

# W&B's engine demands numpy < 2 but works with 2, so it has a folder of its own.
.venv/wandb-engine/ready: | .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/wandb-engine \
		sweeps==0.3.0 jsonref scikit-learn joblib cloudpickle threadpoolctl narwhals
	touch $@

parity: .venv/ready .venv/wandb-engine/ready  ## compare sweeps with W&B's own engine and agent, evaluation with lvis
	PYTHONPATH=.venv/wandb-engine OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/parity -m "slow or not slow"

lint: .venv/ready  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready $(MINI)/val.json  ## run the benchmarks, each beside a named peer
	for script in benchmarks/[!_]*.py; do $(BIN)/python $$script || exit 1; done

notebooks: .venv/ready $(MINI)/val.json  ## execute the notebooks
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 notebooks -o addopts=

docs: .venv/ready  ## build the documents as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

installed: .venv/ready  ## build wheel and sdist, and try them outside the checkout
	$(BIN)/python -m pytest tests/runs/test_installed.py -m slow

dashboard: .venv/ready  ## open TensorBoard over all runs
	$(BIN)/tensorboard --logdir runs
