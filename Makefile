# `make` alone lists the targets. Every target makes the environment it needs.

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# A Python >= 3.12 to use in place of the one that is looked for.
PYTHON ?=
# More options of pytest, for example PYTEST_FLAGS="-m 'not slow'", or PYTEST_FLAGS="-n 0" for one
# process.
PYTEST_FLAGS ?=

export MPLBACKEND := Agg
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test coverage lint format bench sbc notebooks docs lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: $(STAMP)  ## make .venv and install the locked versions

# Installs again only when what is to be installed has changed. An environment whose Python does
# not run any more is made anew.
$(STAMP): pyproject.toml requirements.lock
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
	    python=$$(.ci/find-python $(PYTHON)) || exit 1; \
	    echo "making $(VENV) with $$python"; \
	    "$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "installing the locked versions into $(VENV), a minute or two"
	$(PY) -m pip install --quiet -r requirements.lock
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: $(STAMP)  ## run the whole way on the shipped library, into runs/demo
	$(VENV)/bin/bayes-cannon demo runs/demo --overwrite

test: lint  ## check style and types, run the whole test suite
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=10 $(PYTEST_FLAGS)

coverage: PYTEST_FLAGS += --cov
coverage: test  ## the same, and which lines of the package the tests ran (slower)

lint: $(STAMP)  ## check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache

format: $(STAMP)  ## put the code into its format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(STAMP)  ## measure speed and memory
	$(PY) benchmarks/bench.py

sbc: $(STAMP)  ## run the long simulation-based calibration
	$(PY) benchmarks/sbc.py

notebooks: $(STAMP)  ## execute the notebooks in place
	$(PY) -m tests.notebook_runner

# Warnings are errors: a broken link, too.
docs: $(STAMP)  ## build the documentation into docs/_build/html
	@$(PY) -c "import myst_parser, pydata_sphinx_theme, sphinx_design" 2>/dev/null \
	    || $(PY) -m pip install --quiet --no-build-isolation -e ".[docs]"
	$(PY) -m sphinx -b html -n -W --keep-going -j auto docs docs/_build/html
	@echo "open docs/_build/html/index.html"

# Upgrades within the limits of pyproject.toml in an environment of its own.
lock:  ## write requirements.lock anew with the newest versions allowed
	@python=$$(.ci/find-python $(PYTHON)) || exit 1; "$$python" -m venv --clear $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet ".[test,notebooks,docs]"
	$(VENV)/lock/bin/python -m pip list --format=freeze --exclude pip --exclude bayes_cannon \
	    >$(VENV)/lock/versions
	@{ echo "# Exact versions of everything that bayes_cannon and its extras need." \
	        "Written by \`make lock\`."; \
	    awk -F == '{ gsub(/[_.]+/, "-", $$1); print tolower($$1) "==" $$2 }' \
	        $(VENV)/lock/versions | LC_ALL=C sort; } >requirements.lock
	rm -rf $(VENV)/lock

clean:  ## remove the environment, caches and the demo's output
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* runs/demo runs/demo-real docs/_build
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
