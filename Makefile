# Everything happens in .venv; nothing else on the machine is touched.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROMETHEUS := $(VENV)/prometheus
EXTRAS := documents,qdrant,edge,otlp,serve
OPENSPEC := @fission-ai/openspec@1.13.2
export HF_HUB_OFFLINE ?= 1

.PHONY: help setup demo demo-full test test-all torture check lint types spec bench eval clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## install everything into .venv (a torch already there is kept)

# torch goes first and alone: with a torch that satisfies pyproject.toml in place, no
# later requirement can replace it by a build with CUDA packages.
$(STAMP): pyproject.toml poetry.lock scripts/lock_constraints.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet 'pip>=25.1'  # the first that knows dependency groups
	$(BIN)/python -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null \
	  || $(BIN)/pip install --quiet "$$($(PYTHON) scripts/lock_constraints.py | grep '^torch==')"
	$(PYTHON) scripts/lock_constraints.py --without-torch > $(VENV)/constraints.txt
	$(BIN)/python -c 'import importlib.metadata as m; \
	  print("torch==" + m.version("torch").split("+")[0])' \
	  >> $(VENV)/constraints.txt
	$(BIN)/pip install --quiet --constraint $(VENV)/constraints.txt \
	  --editable ".[$(EXTRAS)]" --group dev
	touch $@

demo: setup ## a searchable collection from the packages in .venv, then three searches
	$(BIN)/python scripts/demo.py --work-dir demo

demo-full: setup ## the same from everything in those packages (much longer)
	$(BIN)/python scripts/demo.py --work-dir demo --full

# Tests ask a real Prometheus and its promtool. Where none is installed, Debian's package
# is unpacked into .venv; where that cannot be, those tests are skipped with this reason.
$(PROMETHEUS)/.looked-for:
	mkdir -p $(@D)
	{ command -v prometheus && command -v promtool; } > /dev/null \
	  || (cd $(@D) && apt-get --quiet --quiet -o Acquire::http::Timeout=20 download prometheus \
	      && dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb) \
	  || echo 'No Prometheus: neither installed nor to be had by apt-get download.'
	touch $@

test: setup $(PROMETHEUS)/.looked-for ## all tests but the slow ones (6 to 15 minutes on two cores)
	$(BIN)/python -m pytest -m 'not slow and not torture' -n 2

test-all: setup $(PROMETHEUS)/.looked-for ## all tests but torture
	$(BIN)/python -m pytest -m 'not torture' -n 2

torture: setup ## break runs hundreds of times (long), and write docs/reliability.md
	$(BIN)/python -m pytest -m torture -n 2 tests/torture --reliability docs/reliability.md

check: lint types spec ## lint, types and specification

lint: setup ## ruff: style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict on the package
	$(BIN)/mypy

spec: ## validate openspec/
	npx --yes $(OPENSPEC) validate --all --strict

bench: setup ## compare with the field's libraries in one run (BENCH_DATA=FOLDER: its texts), and write docs/benchmarks.md
	$(BIN)/pip install --quiet --constraint $(VENV)/constraints.txt --group bench
	$(BIN)/python -m benchmarks.run_all $(if $(BENCH_DATA),--data "$(BENCH_DATA)")

eval: setup ## judge the BEIR folders in DATA; further options in EVAL_ARGS
	$(BIN)/python scripts/evaluate_bundle.py --data "$(DATA)" $(EVAL_ARGS)

TRAINING ?= residual
residual: setup ## train the shipped reranker anew (hours; JUDGED="DIR ..." BEIR folders to learn from too; FORCE=1 replaces it)
	$(BIN)/python -m training.mine_fetch $(TRAINING)/archives
	$(BIN)/python -m training.mine $(TRAINING)/archives $(TRAINING)/pools
	for set in $(JUDGED); do $(BIN)/python -m training.judged_pool "$$set" "$(TRAINING)/pools/judged-$$(basename "$$set")"; done
	$(BIN)/python -m training.train_residual $(TRAINING)/pools $(if $(FORCE),--force)

clean: ## remove .venv and what make demo wrote
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
