# make run   the main job on what this machine has: table, plots, report
# make test  linters, types, import rules, tests
# VENV=none uses the interpreter at hand, e.g. inside a GPU image without pip.

VENV ?= .venv
OUT ?= runs/first
PYTHON ?= python3

ifeq ($(VENV),none)
PY := $(PYTHON)
READY :=
else
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
endif

.PHONY: run test lint types unit clean

run: $(READY)
	$(PY) -m fp_bench latency --lens 4k,16k --out $(OUT)
	$(PY) -m fp_bench accuracy --lens 4k --tasks niah_multivalue,vt,qa_1 --samples 2 --out $(OUT)

test: $(READY) lint types unit

# With VENV=none the linters and type checkers may be absent: say so instead of failing.
lint: $(READY)
	@if $(PY) -c "import ruff, importlinter" 2>/dev/null; then \
	  $(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -c "import sys; from importlinter.cli import lint_imports_command as c; sys.argv=['lint-imports']; c()"; \
	else echo "lint: ruff or import-linter is not installed here, not run"; fi

types: $(READY)
	@if $(PY) -c "import mypy" 2>/dev/null; then $(PY) -m mypy; else echo "types: mypy is not installed here, not run"; fi

unit: $(READY)
	$(PY) -m pytest -n 2

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt torch
	$(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
