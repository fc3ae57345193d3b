# make demo                 its own environment, then examples/demo.py
# make test                 the same environment with the test extras, then lint, types and every test
# make test-machines        the tests that depend on the machine, on one machine after another
# make test-machines-quick  a few of them, in half a minute
# make lint                 style, format and types only
# make clean                removes the environment and what the tools left behind

BASE_PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PYTHON := $(VENV)/bin/python
# Every install is held to the versions known to work together.
INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt
# An install compiles the kernels too: again when they change.
KERNELS := hatch_build.py $(wildcard rnnforecast/nn/native/*.cpp rnnforecast/nn/native/*.h)
REQUIREMENTS := pyproject.toml constraints.txt $(wildcard $(KERNELS))
# Worker processes for pytest.
JOBS ?= 2
# The networks here are small: a second thread gains little, and costs much where cores are shared.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND := Agg

.DEFAULT_GOAL := help
.PHONY: help demo test test-machines test-machines-quick lint clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(PYTHON):
	@test -n "$(BASE_PYTHON)" || { echo "Python 3.11 or later is needed, none was found" >&2; exit 1; }
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed, $(BASE_PYTHON) is older" >&2; exit 1; }
	@echo "making $(VENV) with $(BASE_PYTHON)"
	@$(BASE_PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: $(REQUIREMENTS) | $(PYTHON)
	@echo "installing rnnforecast[plot] into $(VENV) (minutes on the first run)"
	@$(INSTALL) -e '.[plot]'
	@touch $@

$(VENV)/.installed-test: $(REQUIREMENTS) | $(PYTHON)
	@echo "installing rnnforecast[test] into $(VENV) (minutes on the first run)"
	@$(INSTALL) -e '.[test]'
	@touch $@ $(VENV)/.installed-demo

demo: $(VENV)/.installed-demo
	@$(PYTHON) examples/demo.py

lint: $(VENV)/.installed-test
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

# The tests run even where lint failed, so that one run tells everything; their closing line is last.
test: $(VENV)/.installed-test
	@status=0; \
	$(MAKE) --no-print-directory lint || status=1; \
	$(PYTHON) -m pytest -q -n $(JOBS) || status=1; \
	exit $$status

# Other processors, no kernels, no compiler, 1 and 2 threads, pandas 3: see the script.
test-machines: $(VENV)/.installed-test
	@$(PYTHON) tests/machines.py --jobs $(JOBS)

test-machines-quick: $(VENV)/.installed-test
	@$(PYTHON) tests/machines.py --quick --jobs $(JOBS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis demo_forecast.png
	rm -f rnnforecast/nn/native/_kernels.* rnnforecast/nn/native/_build.txt
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
