#!/usr/bin/env bash
# Build wheel and sdist, install the wheel alone into an empty environment, and use it as a new user would.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
most_mib=40
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PY:-python3}" -m hatchling build -d "$work/dist"
wheel=$(echo "$work"/dist/*.whl)
size=$(stat -c %s "$wheel")
echo "$(basename "$wheel"): $((size / 1024)) KiB; $(basename "$work"/dist/*.tar.gz): $(($(stat -c %s "$work"/dist/*.tar.gz) / 1024)) KiB"
if ((size > most_mib * 1024 * 1024)); then
  echo "the wheel is larger than $most_mib MiB" >&2
  exit 1
fi

"${PY:-python3}" -m venv "$work/venv"
# Torch first and by the constraint: the wheel's own requirement would take any.
"$work/venv/bin/pip" install -q -c "$root/constraints.txt" torch
"$work/venv/bin/pip" install -q -c "$root/constraints.txt" "$wheel"
# Elsewhere than in the sources, so that nothing but the wheel can be imported.
cd "$work"
unset PYTHONPATH
venv/bin/python -c "import fp_bench; print('installed:', fp_bench.__version__); assert '/venv/' in fp_bench.__file__"
venv/bin/fpbench doctor
venv/bin/fpbench accuracy --suite ruler --lens 4k --samples 1 --tasks niah_single_1 --methods dense --out run
venv/bin/fpbench report run
echo "the wheel works alone"
