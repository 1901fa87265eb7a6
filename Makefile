# make demo: the main job, end to end. make test: the tests. Both install what
# they need into .venv, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

# The wheels of jax that this machine can use: a TPU, an NVIDIA GPU, else CPU.
ACCELERATOR ?= $(shell \
  if [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ]; then echo tpu; \
  elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then echo cuda; \
  else echo cpu; fi)

.PHONY: demo test test-all lint format clean

# Trains and compares; a second run shows what is there. `make clean` forgets.
demo: $(VENV)/.installed
	$(BIN)/python main.py train --config=configs/digits.py --workdir=$(DEMO)
	$(BIN)/python main.py compare --workdir=$(DEMO)
	@echo 'Try next:'
	@echo '  $(BIN)/python main.py sample --workdir=$(DEMO) --guidance=ig:2@0.3-1,cfg:1.2@0-0.7 --labels=3,8'
	@echo '  $(BIN)/python main.py train --workdir=runs/long --config.train.images=96000   (2.5 times as long: guidance pays less)'
	@echo '  $(BIN)/python main.py compare --workdir=runs/long'

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt requirements-$(ACCELERATOR).txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-$(ACCELERATOR).txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
