"""CoSA's selection: peaks of antidiagonal sums by block, and the blocks of rows' maxima before the others.

XAttention's two kernels compute it (`xattention.triton`): a block's largest weight takes the place of its sum, and the
search for the last mass taken looks at blocks of rows' maxima before all others (arXiv 2607.25291).
"""

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.xattention import antidiagonal_peaks, cumulative_blocks

EVERYTHING = 2.0
"""Coverage asked of the kernels for 1: rounding may leave the sum of all blocks below the row's."""


def select_covering(
    q: Tensor, k: Tensor, coverage: float, *, stride: int, scale: float, backend: str = "auto"
) -> BlockIndex:
    """Return the key blocks that CoSA keeps for each query block of each query head; no host sync on GPUs.

    Defined by `reference.select_covering`.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        coverage: share of a row's peaks that its blocks hold, above 0; 1 keeps every block.
        stride: tokens of a cell, a divisor of the block of 128.
        scale: factor on the logits, positive.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernels here.

    Raises:
        UnsupportedError: a coverage, stride or scale outside its limits, or more key blocks than a list can name.
    """
    if not 0 < coverage <= 1:
        raise UnsupportedError(f"coverage {coverage} must be above 0 and at most 1")
    peaks = antidiagonal_peaks(q, k, stride=stride, scale=scale, backend=backend)
    asked = torch.full((q.shape[2],), EVERYTHING if coverage == 1 else coverage, device=q.device)
    kernels = "triton" if resolve_backend(q, backend) == "triton" else "torch"
    return cumulative_blocks(peaks, asked, BlockGrid(q.shape[1], k.shape[1]), peaks=True, backend=kernels)
