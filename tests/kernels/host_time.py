"""Python's part of planned calls, without a GPU: ``python -m tests.kernels.host_time``.

Kernels are compiled for a Hopper that is not here; its driver and allocator do nothing. Prints microseconds of CPU
time a call: the least of several batches, since others may use the machine.
"""

import ctypes
import subprocess
import tempfile
import time
from pathlib import Path

from fp_bench.kernels import launch
from fp_bench.kernels.flashprefill.prefill import flash_prefill
from fp_bench.kernels.flexprefill import select_flex
from fp_bench.kernels.flexprefill.rule import FlexRule
from tests.kernels import fake_cuda

BATCHES, CALLS = 10, 2000


def main() -> None:
    """Time calls at 4K, 32 query and 8 KV heads of 128."""
    fake = fake_cuda.install()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "stub.so"
        source = "int cuLaunchKernel() { return 0; }"
        subprocess.run(["cc", "-xc", "-shared", "-fPIC", "-o", library, "-"], input=source, text=True, check=True)
        fake.cuLaunchKernel = ctypes.CDLL(str(library)).cuLaunchKernel
        fake.cuLaunchKernel.argtypes = launch.LAUNCH_ARGUMENTS
        q, k, v = fake_cuda.tensors(4096)
        rule = FlexRule(0.9, 0.1, 1024, official=True)
        calls = {
            "flash_prefill": lambda: flash_prefill(q, k, v, alpha=0.12),
            "select_flex": lambda: select_flex(q, k, rule, scale=128**-0.5),
        }
        for name, call in calls.items():
            call()
            times = []
            for _ in range(BATCHES):
                start = time.process_time()
                for _ in range(CALLS):
                    call()
                times.append((time.process_time() - start) / CALLS * 1e6)
            print(f"{name}: {min(times):.1f} us")


if __name__ == "__main__":
    main()
