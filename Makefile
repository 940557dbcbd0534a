# Everything happens in .venv; nothing else on the machine is touched.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := documents,qdrant,edge,otlp
OPENSPEC := @fission-ai/openspec@1.13.2
export HF_HUB_OFFLINE ?= 1

.PHONY: help setup demo demo-full test test-all check lint types spec bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## install everything into .venv (a torch already there is kept)

# torch goes first and alone: with a torch that satisfies pyproject.toml in place, no
# later requirement can replace it by a build with CUDA packages.
$(STAMP): pyproject.toml poetry.lock scripts/lock_constraints.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet 'pip>=25.1'  # the first that knows dependency groups
	$(BIN)/python -c 'import torch' 2>/dev/null \
	  || $(BIN)/pip install --quiet "$$($(PYTHON) scripts/lock_constraints.py | grep '^torch==')"
	$(PYTHON) scripts/lock_constraints.py --without-torch > $(VENV)/constraints.txt
	$(BIN)/python -c 'import torch; print("torch==" + torch.__version__.split("+")[0])' \
	  >> $(VENV)/constraints.txt
	$(BIN)/pip install --quiet --constraint $(VENV)/constraints.txt \
	  --editable ".[$(EXTRAS)]" --group dev
	touch $@

