"""What FP8 attention gains and costs: ``python -m benchmarks.fp8 > fp8.csv``, on one Hopper GPU, about a minute.

The same lists of blocks, FlashPrefill's on structured inputs, 32/8/128, bf16, attended in bf16 and in FP8; median of
samples with a cold cache. ``gain`` is bf16's time over FP8's, the pass that rounds K and V included; ``gain_operator``
also counts the selection, and in bf16 the pooling that FP8's pass makes needless. Errors are to exact attention over
the same lists on sampled rows: all, and those of the last two blocks of queries, which read everything.
"""

import csv
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from fp_bench.flashprefill import FlashPrefill
from fp_bench.inputs.source import Shape
from fp_bench.inputs.structured import Structured
from fp_bench.kernels import block_sparse_fp8
from fp_bench.kernels.block_sparse import block_sparse_attention
from fp_bench.kernels.fp8 import fp8_missing, quantise_kv
from fp_bench.kernels.pooling import pool_keys
from fp_bench.kernels.reference import attention_rows
from fp_bench.latency.measure import CudaEvents, computed_entries
from fp_bench.method import AttentionCall

Q_HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
LENGTHS = (16384, 32768, 65536, 131072, 262144)
SAMPLES, ROWS = 10, 32
NEVER = 1 << 20
VARIANTS = ((16, True), (4, True), (NEVER, True), (16, False))
"""Tiles summed by tensor cores, and whether the softmax runs under the product: the first is the default."""
COLUMNS = (
    "length", "density", "sum_tiles", "under", "bf16_ms", "fp8_ms", "round_ms", "pool_ms", "select_ms", "gain",
    "gain_operator", "bf16_tflops", "fp8_tflops", "bf16_err", "fp8_err", "fp8_err_last", "fp8_err_worst_row", "failed",
)  # fmt: skip


def structured_call(length: int) -> AttentionCall:
    """Return a call on structured inputs."""
    shape = Shape(1, length, Q_HEADS, KV_HEADS, HEAD_DIM)
    device = torch.device("cuda")
    return AttentionCall(*Structured().tensors(shape, layer=0, seed=0, dtype=torch.bfloat16, device=device), 128**-0.5)


def milliseconds(call: Callable[[], object], timer: CudaEvents) -> float:
    """Return the median time of warm calls."""
    call()
    call()
    return statistics.median(timer.samples(call, SAMPLES))


def error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    return float((found.float() - expected).norm() / expected.norm())


def measured(length: int, timer: CudaEvents, write: Callable[[dict[str, object]], None]) -> None:
    """Write one row a variant."""
    call = structured_call(length)
    method = FlashPrefill()
    q, k, v, scale = call.q, call.k, call.v, call.scale
    index = method.select(call)
    assert index is not None
    sampled = torch.linspace(0, length - 257, ROWS).long()
    rows = torch.cat([sampled, torch.arange(length - 256, length, 16)]).cuda()
    exact = attention_rows(q, k, v, scale=scale, rows=rows, index=index).out
    flop = 4 * HEAD_DIM * computed_entries(call, index)

    def half() -> Tensor:
        return block_sparse_attention(q, k, v, index, scale=scale).out

    base = {
        "length": length,
        "density": float(index.density().mean()),
        "bf16_ms": (bf16_ms := milliseconds(half, timer)),
        "bf16_tflops": flop / bf16_ms / 1e9,
        "bf16_err": error(half()[:, rows], exact),
        "round_ms": (round_ms := milliseconds(lambda: quantise_kv(k, v), timer)),
        "pool_ms": (pool_ms := milliseconds(lambda: pool_keys(k), timer)),
        "select_ms": (select_ms := milliseconds(lambda: method.select(call), timer) - pool_ms),
    }
    rounded = quantise_kv(k, v)
    for sum_tiles, under in VARIANTS:
        row: dict[str, object] = {**base, "sum_tiles": sum_tiles, "under": under}
        block_sparse_fp8.SUM_TILES, block_sparse_fp8.SOFTMAX_UNDER_PRODUCT = sum_tiles, under

        def eight() -> Tensor:
            return block_sparse_fp8.block_sparse_attention_fp8_hopper(q, rounded, index, scale)[0]

        try:
            found = eight()[:, rows].float()
            fp8_ms = milliseconds(eight, timer)
        except Exception as failure:  # the other variants still count
            write(row | {"failed": f"{type(failure).__name__}: {str(failure).strip().splitlines()[-1][:150]}"})
            continue
        by_row = (found - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-6)
        write(
            row
            | {
                "fp8_ms": fp8_ms,
                "gain": bf16_ms / (fp8_ms + round_ms),
                "gain_operator": (bf16_ms + pool_ms + select_ms) / (fp8_ms + round_ms + select_ms),
                "fp8_tflops": flop / fp8_ms / 1e9,
                "fp8_err": error(found, exact),
                "fp8_err_last": error(found[:, ROWS:], exact[:, ROWS:]),
                "fp8_err_worst_row": float(by_row.max()),
            }
        )


def main() -> None:
    """Write one CSV row a length and variant to stdout, and the reason of what fails to stderr."""
    timer = CudaEvents(torch.device("cuda"))
    out = csv.DictWriter(sys.stdout, COLUMNS, restval="")
    out.writeheader()
    small = structured_call(1024)
    print(torch.cuda.get_device_name(), fp8_missing(small.q, small.k, small.v) or "fp8 runs", file=sys.stderr)

    def write(row: dict[str, object]) -> None:
        out.writerow({name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()})
        sys.stdout.flush()

    for length in LENGTHS:
        try:
            measured(length, timer, write)
        except Exception as failure:  # the other lengths still count
            write({"length": length, "failed": f"{type(failure).__name__}: {str(failure).strip()[-150:]}"})


if __name__ == "__main__":
    main()
