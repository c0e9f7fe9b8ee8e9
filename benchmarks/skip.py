"""What skip-softmax gains: ``python -m benchmarks.skip --out RUN``, on a Hopper GPU, about a minute.

Dense attention by the block-sparse kernel, every block listed, 64K, 32/8/128, bf16, with and without skip, in turn on
the same inputs; median of samples with a cold cache. Random Q and K, whose first channel puts some key blocks of each
KV head far below the others: every query tile skips those. They are scattered one by one, which is the worst case for
loading V ahead, or lie in runs of 16. ``gain`` is the time without skip over that with it.
"""

import torch
from torch import Tensor

from benchmarks.bench import Rows, milliseconds, relative_error
from fp_bench.jobs.latency.timers import CudaEvents
from fp_bench.kernels.attention import block_sparse_attention, implementation
from fp_bench.kernels.attention.skipping import skip_tile, skipped_share, skipping_attention
from fp_bench.kernels.layout import BLOCK_SIZE
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.modifiers.skip_softmax import SkipSoftmax

Q_HEADS, KV_HEADS, HEAD_DIM, LENGTH = 32, 8, 128, 65536
SHARES = (0.0, 0.3, 0.5, 0.7, 0.9)
RUNS = (1, 16)
"""Neighbouring key blocks that are skipped or needed together."""
SKIP = 1e-3
SAMPLES = 9
LABEL = "skip_softmax"


def inputs(share: float, run: int) -> AttentionCall:
    """Return a call of which about this share of the tiles can be skipped: runs of low blocks after a high one."""
    draw = torch.Generator("cuda").manual_seed(0)

    def noise(heads: int) -> Tensor:
        return torch.randn((1, LENGTH, heads, HEAD_DIM), generator=draw, device="cuda", dtype=torch.bfloat16)

    q, k, v = noise(Q_HEADS), noise(KV_HEADS), noise(KV_HEADS)
    low = torch.rand((LENGTH // BLOCK_SIZE // run, KV_HEADS), generator=draw, device="cuda") < share
    low = low.repeat_interleave(run, 0)
    low[0] = False
    q[..., 0] = 8.0
    k[0, :, :, 0] = torch.where(low, -64.0, 0.0).repeat_interleave(BLOCK_SIZE, 0).to(k.dtype)
    return AttentionCall(q, k, v, scale=HEAD_DIM**-0.5)


def measured(call: AttentionCall, timer: CudaEvents) -> dict[str, float | str]:
    """Return times without skip and with it, and what was skipped."""
    q, k, v, scale = call.q, call.k, call.v, call.scale
    index = SkipSoftmax().select(call)
    assert index is not None

    def without() -> Tensor:
        return block_sparse_attention(q, k, v, index, scale=scale).out

    def skipping(backend: str = "auto") -> Tensor:
        return skipping_attention(q, k, v, index, scale=scale, skip=SKIP, backend=backend).out

    found = skipping_attention(q, k, v, index, scale=scale, skip=SKIP)
    without_ms, ms = milliseconds(without, timer, SAMPLES), milliseconds(skipping, timer, SAMPLES)
    return {
        "kernel": implementation(q, k, v, skipping=True),
        "skipped": float(skipped_share(found.skipped, index, skip_tile(q, k, v, index)).mean()),
        "without_ms": without_ms,
        "ms": ms,
        "gain": without_ms / ms,
        "portable_ms": milliseconds(lambda: skipping("triton"), timer, SAMPLES // 2),
        "err": relative_error(found.out, without()),
    }


def main() -> None:
    """Write one row a share and length of runs."""
    rows, timer = Rows.asked("skip"), CudaEvents(torch.device("cuda"))
    for run in RUNS:
        for share in SHARES:
            rows.row(
                LABEL,
                LENGTH,
                lambda share=share, run=run: measured(inputs(share, run), timer),
                heads=f"{Q_HEADS}/{KV_HEADS}/{HEAD_DIM}",
                share=share,
                run=run,
            )


if __name__ == "__main__":
    main()
