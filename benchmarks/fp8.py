"""What FP8 attention gains and costs: ``python -m benchmarks.fp8 --out RUN``, on one Hopper GPU, about a minute.

The same lists of blocks, FlashPrefill's on structured inputs, 32/8/128, bf16, attended in bf16 and in 8 bits; median of
samples with a cold cache. ``gain`` is bf16's time over FP8's, the pass that rounds K and V included; ``gain_operator``
also counts the selection, and in bf16 the pooling that FP8's pass makes needless. Errors are to exact attention over
the same lists on sampled rows: all, and those of the last two blocks of queries, which read everything.
"""

from functools import partial

import torch
from torch import Tensor

from benchmarks.bench import Rows, milliseconds, relative_error, structured_call
from fp_bench.inputs.source import Shape
from fp_bench.jobs.latency.measure import computed_entries
from fp_bench.jobs.latency.timers import CudaEvents
from fp_bench.kernels.attention import block_sparse_attention
from fp_bench.kernels.attention.reference import attention_rows
from fp_bench.kernels.fp8 import block_sparse_attention_fp8, quantise_kv
from fp_bench.kernels.pooling import pool_keys
from fp_bench.methods.flashprefill import FlashPrefill

Q_HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
LENGTHS = (16384, 32768, 65536, 131072, 262144)
SAMPLES, ROWS = 10, 32
LABEL = "flashprefill:precision=fp8"


def measured(length: int, timer: CudaEvents) -> dict[str, float]:
    """Return one row."""
    call = structured_call(Shape(1, length, Q_HEADS, KV_HEADS, HEAD_DIM), torch.device("cuda"))
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
        "density": float(index.density().mean()),
        "bf16_ms": (bf16_ms := milliseconds(half, timer, SAMPLES)),
        "bf16_tflops": flop / bf16_ms / 1e9,
        "bf16_err": relative_error(half()[:, rows], exact),
        "round_ms": (round_ms := milliseconds(lambda: quantise_kv(k, v), timer, SAMPLES)),
        "pool_ms": (pool_ms := milliseconds(lambda: pool_keys(k), timer, SAMPLES)),
        "select_ms": (select_ms := milliseconds(lambda: method.select(call), timer, SAMPLES) - pool_ms),
    }
    rounded = quantise_kv(k, v)

    def eight() -> Tensor:
        return block_sparse_attention_fp8(q, k, v, index, scale=scale, rounded=rounded)

    found = eight()[:, rows].float()
    by_row = (found - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-6)
    fp8_ms = milliseconds(eight, timer, SAMPLES)
    return base | {
        "fp8_ms": fp8_ms,
        "gain": bf16_ms / (fp8_ms + round_ms),
        "gain_operator": (bf16_ms + pool_ms + select_ms) / (fp8_ms + round_ms + select_ms),
        "fp8_tflops": flop / fp8_ms / 1e9,
        "fp8_err": relative_error(found, exact),
        "fp8_err_last": relative_error(found[:, ROWS:], exact[:, ROWS:]),
        "fp8_err_worst_row": float(by_row.max()),
    }


def main() -> None:
    """Write one row a length."""
    rows, timer = Rows.asked("fp8"), CudaEvents(torch.device("cuda"))
    for length in LENGTHS:
        rows.row(LABEL, length, partial(measured, length, timer))


if __name__ == "__main__":
    main()
