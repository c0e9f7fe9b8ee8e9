# make run   the main job on what this machine has: table, plots, report
# make test  linters, types, import rules, tests
# make docs  the site in build/site; misspelt words, unclear phrases, stale tables and dead links fail it
# make wheel-check  the wheel alone in an empty environment: doctor, and one answer
# VENV=none uses the interpreter at hand, e.g. inside a GPU image without pip.

# Without bytecode on disk every process would compile torch again: most of a minute on two slow cores.
export PYTHONDONTWRITEBYTECODE :=

VENV ?= .venv
OUT ?= runs/first
PYTHON ?= python3

ifeq ($(VENV),none)
PY := $(PYTHON)
READY :=
DOCS_READY :=
else
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
endif

.PHONY: run test lint types unit docs wheel-check slow tritons clean

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

docs: $(DOCS_READY)
	$(PY) -m codespell_lib
	$(PY) -m pages.words
	$(PY) -m pages --check
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

wheel-check: $(READY)
	PY=$(PY) tests/wheel_check.sh

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --no-compile -c constraints.txt torch
	$(PY) -m pip install -q --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.docs-ready: $(VENV)/.ready
	$(PY) -m pip install -q --no-compile -c constraints.txt -e '.[docs]'
	@touch $@

# What CI has no time for.
slow: $(READY)
	$(PY) -m pytest -n 2 -m slow --timeout 1800

# The Hopper kernels compiled by every release of Triton that they are for, each in a folder of its own.
TRITONS := 3.6 3.7 3.8 3.9
tritons: $(READY)
	for v in $(TRITONS); do test -d build/triton-$$v || \
	  $(PY) -m pip install -q --no-compile --no-deps --target build/triton-$$v "triton==$$v.*" || exit; done
	TRITONS=$$(printf "build/triton-%s:" $(TRITONS)) $(PY) -m pytest -m slow -k every_release tests/kernels/test_compile.py

clean:
	rm -rf $(VENV) runs build .mypy_cache .ruff_cache .pytest_cache
