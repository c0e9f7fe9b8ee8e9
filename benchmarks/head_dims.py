"""Attention over one list of blocks, by head_dim: ``python -m benchmarks.head_dims --out RUN``, on a Hopper GPU.

Lists of ``--inputs density:0.05`` (sink, window and random blocks), bf16, for rows of one head and packed rows of a KV
head. Beside each time stand cuDNN's dense rate on the same tensors, in TFLOP/s over the entries that each computes, and
what mean correction adds: means of K and V, the lists as bits, and the loop over means. Median of samples with a cold
cache.
"""

import torch

from benchmarks.bench import Rows, milliseconds
from fp_bench.inputs.density import GivenDensity
from fp_bench.inputs.source import Shape
from fp_bench.jobs.latency.measure import computed_entries
from fp_bench.jobs.latency.timers import CudaEvents
from fp_bench.kernels.attention import block_sparse_attention
from fp_bench.kernels.pooling.means import block_means
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.registry import Spec, create_method

CASES = ((64, 32, 8, 65536), (128, 32, 8, 65536), (128, 32, 8, 131072), (128, 32, 8, 262144), (256, 16, 4, 65536))
"""head_dim, query heads, KV heads, length."""
DENSE_UP_TO = 65536
DENSITY = 0.05
SAMPLES = 7
LABEL = "block-sparse attention"


def measured(call: AttentionCall, packed: int, timer: CudaEvents) -> dict[str, float]:
    """Return times and rates of one list."""
    q, k, v, scale = call.q, call.k, call.v, call.scale
    shape = Shape(1, call.kv_len, call.q_heads, call.kv_heads, call.head_dim)
    index = GivenDensity(DENSITY).given_index(shape, seed=0, device=q.device, packed=packed)
    entries = 4 * call.head_dim * computed_entries(call, index)

    def attend(*, corrected: bool = False, backend: str = "auto") -> float:
        return milliseconds(
            lambda: block_sparse_attention(
                q, k, v, index, scale=scale, means=block_means(k, v) if corrected else None, backend=backend
            ),
            timer,
            SAMPLES,
        )

    plain, corrected, portable = attend(), attend(corrected=True), attend(backend="triton")
    return {
        "density": float(index.density().mean()),
        "ms": plain,
        "tflops": entries / plain / 1e9,
        "portable_tflops": entries / portable / 1e9,
        "corrected_ms": corrected,
        "correction_cost": corrected / plain - 1,
    }


def main() -> None:
    """Write one row a case and kind of list."""
    rows, timer = Rows.asked("head_dims"), CudaEvents(torch.device("cuda"))
    for head_dim, q_heads, kv_heads, length in CASES:
        q, k, v = (
            torch.randn(1, length, heads, head_dim, device="cuda", dtype=torch.bfloat16)
            for heads in (q_heads, kv_heads, kv_heads)
        )
        call = AttentionCall(q, k, v, scale=head_dim**-0.5)
        dense: dict[str, float] = {}
        if length <= DENSE_UP_TO:
            cudnn = create_method(Spec("dense", {"impl": "cudnn"}))
            dense_ms = milliseconds(lambda: cudnn(call), timer, SAMPLES)  # noqa: B023 - called at once
            dense = {"cudnn_tflops": 4 * head_dim * computed_entries(call, None) / dense_ms / 1e9}
        for packed in (1, q_heads // kv_heads):

            def figures(
                packed: int = packed, call: AttentionCall = call, dense: dict[str, float] = dense
            ) -> dict[str, float]:
                found = measured(call, packed, timer)
                share = {"of_cudnn": found["tflops"] / dense["cudnn_tflops"]} if dense else {}
                return found | dense | share

            rows.row(LABEL, length, figures, head_dim=head_dim, heads=f"{q_heads}/{kv_heads}", packed=packed)


if __name__ == "__main__":
    main()
