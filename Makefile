# Everything a user or a developer runs. Needs Python 3.11+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-deps lint types docs dashboards check clean
.DEFAULT_GOAL := run

# What `make run` needs: the package alone.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

# What `make test` needs beside it.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

run: $(VENV)/.installed ## start the daemon on :10400 (ARGS="--log.level=debug")
	exec $(BIN)/inference-exporter $(ARGS)

check: $(VENV)/.installed ## what the daemon would find on this host
	$(BIN)/inference-exporter check $(ARGS)

test-deps: $(VENV)/.installed-dev ## the real parts: dockerd, Prometheus, busybox, Triton
	tests/install.sh

test: test-deps lint types ## everything CI runs
	$(BIN)/python -m pytest $(TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed-dev ## write docs/metrics.md and docs/settings.md from the declarations
	mkdir -p docs
	$(BIN)/inference-exporter metrics > docs/metrics.md
	$(BIN)/inference-exporter settings > docs/settings.md

dashboards: $(VENV)/.installed-dev ## write grafana/*.json from tools/dashboards
	$(BIN)/python -m tools.dashboards

clean:
	rm -rf $(VENV) .venv-triton .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
