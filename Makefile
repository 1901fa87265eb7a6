# make demo: the main job, end to end. make test: the tests. Both install what
# they need into .venv, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
# Scales that were chosen on the digits.
METHODS := --guidance=none --guidance=cfg:1.2 --guidance=ig:1.5 --guidance=s2:1.5 --guidance=ig:1.5,cfg:1.2

# The wheels of jax that this machine can use: a TPU, an NVIDIA GPU, else CPU.
ACCELERATOR ?= $(shell \
  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then echo cuda; \
  elif [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ]; then echo tpu; \
  else echo cpu; fi)

.PHONY: demo test test-all examples lint format docs bench clean

# Trains and compares; a second run shows what is there. `make clean` forgets.
demo: $(VENV)/.for-$(ACCELERATOR)
	$(BIN)/python main.py train --config=configs/digits.py --workdir=$(DEMO)
	$(BIN)/python main.py compare --workdir=$(DEMO) $(METHODS)
	$(BIN)/python main.py report --workdir=$(DEMO)
	@echo 'Look at $(DEMO)/report.html, and try next:'
	@echo '  $(BIN)/python main.py sample --workdir=$(DEMO) --guidance=ig:2@0.3-1,cfg:1.2@0-0.7 --labels=3,8'
	@echo '  $(BIN)/python main.py explore --workdir=$(DEMO)   (sliders in a browser; needs: $(BIN)/pip install -r requirements-explore.txt)'
	@echo '  $(BIN)/python main.py train --workdir=runs/long --config.train.images=96000   (2.5 times as long: guidance pays less)'
	@echo '  $(BIN)/python main.py compare --workdir=runs/long $(METHODS)'

test: $(VENV)/.dev-$(ACCELERATOR)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/.dev-$(ACCELERATOR)
	$(BIN)/python -m pytest -n 2

# The notebooks of examples/, on small settings.
examples: $(VENV)/.dev-$(ACCELERATOR)
	$(BIN)/python -m pytest -n 2 tests/test_examples.py

lint: $(VENV)/.dev-$(ACCELERATOR)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev-$(ACCELERATOR)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Builds docs/ as a site in runs/site; a wrong link is an error.
docs: $(VENV)/.docs
	REPOSITORY=$$(git remote get-url origin 2>/dev/null) $(BIN)/zensical build --strict
	@echo 'Open runs/site/index.html'

# Speed, against this machine's own matrix products; see docs/performance.md.
bench: $(VENV)/.for-$(ACCELERATOR)
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.sampling
	$(BIN)/python -m benchmarks.compile_time

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.for-$(ACCELERATOR): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-$(ACCELERATOR).txt
	touch $@

$(VENV)/.dev-$(ACCELERATOR): $(VENV)/.for-$(ACCELERATOR)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(VENV)/.docs: $(VENV)/.for-$(ACCELERATOR)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@
