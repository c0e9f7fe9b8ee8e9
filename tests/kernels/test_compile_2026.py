"""The kernels of the methods of 2026 compile for chips that are not here, within each chip's shared memory."""

import json
import os
import subprocess
import sys

import pytest

from tests.kernels.test_compile import KIB, LIMIT, ROOT

pytest.importorskip("triton", reason="triton is not installed (it exists for Linux only)")
SPILLS = {"rescue": 96, "skipping": 112, "peaks": 96}
"""Bytes of stack: in the loops over tiles two to six words a thread are read or written, the rest around them."""


# Left to `make slow`: most of a minute a chip.
@pytest.mark.slow
@pytest.mark.parametrize("chip", ["cuda-89", "cuda-90", "hip-gfx942"])
def test_they_compile_and_fit(chip, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.aot_2026", *chip.split("-"), "64", "128", "256"],
        capture_output=True, text=True, env=environment | {"TRITON_CACHE_DIR": str(tmp_path)}, cwd=ROOT, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    for report in json.loads(run.stdout):
        assert report["shared_bytes"] <= LIMIT[chip] * KIB, report
        if chip == "cuda-90" and report["head_dim"] <= 128:
            assert report["spill_bytes"] <= SPILLS.get(report["kernel"], 0), report
