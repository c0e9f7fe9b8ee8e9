"""FlashPrefill as other releases of Triton compile it, on a Hopper GPU whose own Triton stays as it is.

Where a release is installed, in a folder of its own (no GPU needed, nothing else of it travels):

    PYTHONPATH=build/triton-3.9 python -m benchmarks.tritons compile compiled-3.9.json

On the GPU, with the files of any releases:

    python -m benchmarks.tritons run compiled-*.json > tritons.csv

Each release's kernels are launched on the same tensors: 16K, 32 query and 8 KV heads (256: 16 and 4), bf16, structured
inputs, alpha 0.12. A row is a release and a head size: the relative error to the float32 definition on sampled rows,
over the blocks that were kept, and the median time with a cold cache. The installed release comes first.
"""

import csv
import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor

from fp_bench.kernels import launch
from fp_bench.kernels.flashprefill import planned
from fp_bench.kernels.flashprefill.prefill import flash_prefill

LENGTH, ALPHA, SAMPLES = 16384, 0.12, 15
CASES = ((64, 32, 8), (128, 32, 8), (256, 16, 4))
"""head_dim, query heads, KV heads."""


def wanted(kernel: Any, *arguments: Any) -> str:
    """Name what `launch.compile_kernel` is asked for."""
    return repr((kernel.__name__, *arguments))


def compile_here(path: Path) -> None:
    """Compile the kernels of all cases for sm_90 with this process's Triton, and write them to a file."""
    from tests.kernels import fake_cuda

    fake_cuda.install()
    made = {}
    compile_kernel = launch.compile_kernel

    def compile_and_keep(*asked: Any) -> launch.Binary:
        made[wanted(*asked)] = compile_kernel(*asked)
        return made[wanted(*asked)]

    launch.compile_kernel = compile_and_keep
    for head_dim, *heads in CASES:
        flash_prefill(*fake_cuda.tensors(LENGTH, tuple(heads), head_dim), alpha=ALPHA)
    binaries = {name: binary._asdict() | {"cubin": b64encode(binary.cubin).decode()} for name, binary in made.items()}
    path.write_text(json.dumps({"triton": triton.__version__, "binaries": binaries}))
    print(f"{path}: {len(made)} kernels of Triton {triton.__version__}, {path.stat().st_size / 1e6:.1f} MB")


def read_binary(facts: dict[str, Any]) -> launch.Binary:
    """Return a kernel from its JSON."""
    maps = tuple(launch.Tma(*numbers, block=tuple(block)) for *numbers, block in facts["maps"])
    return launch.Binary(**facts | {"cubin": b64decode(facts["cubin"]), "maps": maps})


def forget_compiled() -> None:
    """Make the next call compile, or look up, its kernels again."""
    from fp_bench.kernels.attention import hopper
    from fp_bench.kernels.flashprefill import triton as discovery
    from fp_bench.kernels.pooling import triton as pooling

    planned._plans.clear()
    for kernel in (pooling.POOL, discovery.DISCOVER, hopper.ATTEND):
        kernel._forms.clear()
        kernel._prepared.cache_clear()


def run(paths: Sequence[Path]) -> None:
    """Launch what each file holds; write one CSV row a release and head size."""
    from benchmarks.bench import milliseconds
    from fp_bench.inputs.source import Shape
    from fp_bench.inputs.structured import Structured
    from fp_bench.jobs.latency.timers import CudaEvents
    from fp_bench.kernels.attention import reference
    from fp_bench.kernels.flashprefill import select_blocks
    from fp_bench.kernels.flashprefill.rule import KeepRule
    from fp_bench.kernels.pooling import pool_keys

    releases: list[tuple[str, Callable[..., launch.Binary]]] = [(triton.__version__, launch.compile_kernel)]
    for path in paths:
        found = json.loads(path.read_text())
        made = {name: read_binary(facts) for name, facts in found["binaries"].items()}
        releases.append((found["triton"], lambda *asked, made=made: made[wanted(*asked)]))
    out = csv.writer(sys.stdout)
    out.writerow(["head_dim", "triton", "error", "ms", "to_installed"])
    timer = CudaEvents(torch.device("cuda"))
    for head_dim, q_heads, kv_heads in CASES:
        shape = Shape(1, LENGTH, q_heads, kv_heads, head_dim)
        q, k, v = Structured(1).tensors(shape, layer=0, seed=0, dtype=torch.bfloat16, device=torch.device("cuda"))
        scale = head_dim**-0.5
        index = select_blocks(q, pool_keys(k), KeepRule(ALPHA), kv_len=LENGTH, scale=scale)
        rows = reference.sample_rows(LENGTH, seed=0)
        exact = reference.attention_rows(q, k, v, scale=scale, rows=rows, index=index).out

        def call(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
            return flash_prefill(q, k, v, alpha=ALPHA)

        installed = None
        for version, compile_kernel in releases:
            forget_compiled()
            with mock.patch.object(launch, "compile_kernel", compile_kernel):
                found = call()[:, rows.cuda()].float()
            error = float((found - exact).norm() / exact.norm())
            ms = milliseconds(call, timer, SAMPLES)
            installed = installed or ms
            out.writerow([head_dim, version, f"{error:.1e}", f"{ms:.4f}", f"{ms / installed:.3f}"])
            sys.stdout.flush()


if __name__ == "__main__":
    verb, *files = sys.argv[1:]
    if verb == "compile":
        compile_here(Path(files[0]))
    else:
        run(list(map(Path, files)))
