# make quickstart   install, pretrain a small MAE on the embedded digits, judge it, draw what it predicts
# make test         lint, types, import rules and the test suite (INTEROP=1: also the comparisons with torch)
# make test-slow    the tests that take long
# make lint         lint, types and import rules alone
# make format       put the code into the house's format
# make constraints  resolve the newest versions anew for $(PYTHON), into constraints/
# make clean        remove the environment and all caches; runs stay
#
# Everything is kept inside this folder: the environment in .venv, runs in runs.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(CURDIR)/$(VENV)/cache

export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export XDG_CACHE_HOME := $(CACHE)
export XDG_CONFIG_HOME := $(CACHE)/config
export MPLCONFIGDIR := $(CACHE)/matplotlib

tag = $(1) -c 'import sys; print("py%d%d" % sys.version_info[:2])'
install = $(BIN)/pip install --quiet --constraint constraints/$$($(call tag,$(BIN)/python)).txt

.PHONY: quickstart test test-slow lint format constraints clean

quickstart: $(VENV)/.installed
	@$(BIN)/python tools/quickstart.py

test: lint $(if $(INTEROP),$(VENV)/.interop)
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m "not slow"

test-slow: $(VENV)/.dev
	$(BIN)/pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml $(wildcard constraints/*.txt)
	@case "$$($(call tag,$(PYTHON)))" in \
	  py311|py312) ;; \
	  *) echo "mim_jax is tested with Python 3.11 and 3.12, and $(PYTHON) is neither: make $(MAKECMDGOALS) PYTHON=python3.12"; \
	     exit 1 ;; \
	esac
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing mim_jax into $(VENV) (about a minute, once)"
	@$(install) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "installing the tools for tests and lint"
	@$(install) --editable ".[dev,fast]"
	@touch $@

# Optional by nature: without torch the comparisons with it are skipped, and say so.
$(VENV)/.interop: $(VENV)/.dev
	@if $(install) --no-compile --constraint constraints/interop.txt torch transformers onnx onnx-ir onnxruntime && \
	    $(install) --no-compile --no-deps --constraint constraints/interop.txt timm torchvision jax2onnx dm-pix equinox chex toolz; then touch $@; \
	 else echo "torch could not be installed: the tests that compare with it are skipped"; fi

constraints:
	@fresh=$$(mktemp -d) && tag=$$($(call tag,$(PYTHON))) && $(PYTHON) -m venv $$fresh && \
	 $$fresh/bin/pip install --quiet ".[dev,fast]" && \
	 $$fresh/bin/pip freeze --exclude mim_jax > constraints/$$tag.new && \
	 mv constraints/$$tag.new constraints/$$tag.txt; rm -rf $$fresh

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
