"""What a short call costs with the host's time in it: ``python -m benchmarks.host_time --out RUN``.

``fpbench latency`` flushes the cache before each sample, which hides the host's launches as earlier layers do in a
model. Here calls follow each other with nothing between them (eager: the slower of host and GPU counts), come alone
with a sync after each (single: host and GPU one after the other), and replay from a CUDA graph (GPU alone).
Structured inputs, 32/8/128, bf16; medians of 20 batches of 50 calls, and of 200 single ones.
"""

import functools
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.bench import Rows, structured_call
from fp_bench.inputs.source import Shape
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.registry import Spec, create_method

LENGTHS = (1024, 4096, 8192)
METHODS = ("dense:impl=cudnn", "dense:impl=fa2", "flashprefill", "flashprefill:backend=triton")
BATCHES, CALLS, SINGLES = 20, 50, 200


def microseconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return (host, whole) time a call: the host's until all are queued, and until the GPU is done."""
    host, whole = [], []
    for _ in range(BATCHES + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        host.append((time.perf_counter() - start) / CALLS * 1e6)
        torch.cuda.synchronize()
        whole.append((time.perf_counter() - start) / CALLS * 1e6)
    return statistics.median(host[1:]), statistics.median(whole[1:])


def single_microseconds(call: Callable[[], object]) -> float:
    """Return the wall time of one call with the GPU idle before it and done after it."""
    times = []
    for _ in range(SINGLES):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times)


def measured(name: str, call: AttentionCall) -> dict[str, float]:
    """Return the times of one method."""
    method = create_method(Spec.parse(name))
    index = method.select(call)
    run = functools.partial(method, call)
    host, eager = microseconds(run)
    single = single_microseconds(run)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        method(call)
    _, replay = microseconds(graph.replay)
    density = 1.0 if index is None else float(index.density().mean())
    return {"density": density, "host_us": host, "eager_us": eager, "single_us": single, "graph_us": replay}


def main() -> None:
    """Write one row a length and method."""
    rows = Rows.asked("host_time")
    for length in LENGTHS:
        call = structured_call(Shape(1, length, 32, 8, 128), torch.device("cuda"))
        for name in METHODS:
            rows.row(name, length, functools.partial(measured, name, call))


if __name__ == "__main__":
    main()
