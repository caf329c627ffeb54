# make quickstart   install, pretrain a small MAE on the embedded digits, judge it, draw what it predicts
# make test         lint, types, import rules and the test suite (INTEROP=1: also the comparisons with torch)
# make test-slow    the tests that take long
# make reliability  every fault that is tried, and the table of docs/reliability.md (hours; MIM_JAX_SOAK_MINUTES=60)
# make docs         build the documentation into site/, and check its links
# make lint         lint, types and import rules alone
# make format       put the code into the house's format
# make constraints  resolve the newest versions anew, with the hashes of their files, into constraints/
# make audit        ask the advisory service for known holes in what constraints/ pins (needs the network)
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
# Every process that a test starts would compile the sources anew.
unexport PYTHONDONTWRITEBYTECODE

tag = $(1) -c 'import sys; print("py%d%d" % sys.version_info[:2])'
# Nothing is resolved and nothing is taken that the lock files do not know by its hash. promise comes as source alone.
install = $(BIN)/pip install --quiet --no-deps --no-build-isolation --require-hashes --only-binary :all: --no-binary promise
here = constraints/$$($(call tag,$(BIN)/python))

.PHONY: quickstart test test-slow reliability docs lint format constraints audit clean

quickstart: $(VENV)/.installed
	@$(BIN)/mim-jax quickstart

test: lint $(if $(INTEROP),$(VENV)/.interop)
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m "not slow"

test-slow: $(VENV)/.dev
	$(BIN)/pytest -m slow

reliability: $(VENV)/.dev
	$(BIN)/pytest tests/reliability -m "slow or not slow" --faults results/reliability.json
	$(BIN)/python tools/reliability_table.py results/reliability.json --write

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.installed: pyproject.toml $(wildcard constraints/*.txt)
	@case "$$($(call tag,$(PYTHON)))" in \
	  py311|py312) ;; \
	  *) echo "mim_jax is tested with Python 3.11 and 3.12, and $(PYTHON) is neither: make $(MAKECMDGOALS) PYTHON=python3.12"; \
	     exit 1 ;; \
	esac
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing mim_jax into $(VENV) (about a minute, once)"
	@$(install) --requirement constraints/build.txt
	@$(install) --requirement $(here).txt
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@echo "installing the tools for tests and lint"
	@$(install) --requirement $(here)-dev.txt
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@echo "installing the tools for the documentation"
	@$(install) --requirement $(here)-docs.txt
	@touch $@

# Optional by nature: without torch the comparisons with it are skipped, and say so. A build of torch for CPUs is a
# tenth of the download; it is taken where pip's own settings offer the one that is known.
$(VENV)/.interop: $(VENV)/.dev
	@if $(install) --no-compile --requirement $(here)-interop.txt && \
	    { $(install) --no-compile --requirement constraints/torch-cpu.txt 2> $(VENV)/torch-cpu.log || \
	      $(install) --no-compile --requirement $(here)-torch.txt; }; then touch $@; \
	 else echo "torch could not be installed: the tests that compare with it are skipped"; fi

$(VENV)/.tools: constraints/tools.txt
	@$(PYTHON) -m venv $(VENV)/tools
	@$(VENV)/tools/bin/pip install --quiet --no-deps --require-hashes --only-binary :all: --requirement $<
	@touch $@

constraints: $(VENV)/.tools
	@PATH="$(CURDIR)/$(VENV)/tools/bin:$$PATH" $(VENV)/tools/bin/python tools/lock.py

# The advisory service is asked for every file; what it says about torch's build for CPUs is what it says about torch.
audit: $(VENV)/.tools
	@for lock in $(filter-out %/torch-cpu.txt,$(wildcard constraints/*.txt)); do \
	   echo "$$lock"; $(VENV)/tools/bin/pip-audit --strict --disable-pip --require-hashes --requirement $$lock || exit 1; \
	 done

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
