"""How alike a block's tokens are, in Triton: the squared length of the sum of their directions.

One program reads one tile ``[block_size, head_dim]`` and keeps it in float32 registers, where the mean pairwise cosine
needs no product of tokens with tokens. Bound by reading the tensor once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.launch import CachedKernel
from fp_bench.kernels.pooling import PARTIAL

SIZES = ("length", "before", "blocks", "heads")
"""Arguments that change from call to call and gain nothing from a form of their own."""


@triton.jit(do_not_specialize=SIZES)
def _likeness_kernel(
    x_ptr, mean_ptr, likeness_ptr, length, before, blocks, heads, stride_xb, stride_xn, stride_xh,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, CENTRED: tl.constexpr, PARTIAL: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) % blocks
    batch = (tl.program_id(0) // blocks // heads).to(tl.int64)
    head = (tl.program_id(0) // blocks % heads).to(tl.int64)
    first = block * BLOCK - before
    token = first + tl.arange(0, BLOCK)
    dim = tl.arange(0, HEAD_DIM)
    x = tl.load(
        x_ptr + batch * stride_xb + head * stride_xh + token.to(tl.int64)[:, None] * stride_xn + dim,
        mask=((token >= 0) & (token < length))[:, None],
        other=0.0,
    ).to(tl.float32)
    if CENTRED:
        x -= tl.load(mean_ptr + (batch * heads + head) * HEAD_DIM + dim)[None, :]
    norm = tl.sqrt(tl.sum(x * x, 1))
    total = tl.sum(x / tl.maximum(norm, 1.0e-12)[:, None], 0)
    cosine = tl.sum(total * total, 0) / (BLOCK * BLOCK)
    whole = (first >= 0) & (first + BLOCK <= length)
    tl.store(likeness_ptr + (batch * blocks + block) * heads + head, tl.where(whole, cosine, PARTIAL))


_likeness = CachedKernel(_likeness_kernel)


def block_likeness_triton(x: Tensor, mean: Tensor | None, before: int, block_size: int) -> Tensor:
    """Return `pooling.block_likeness` computed by one kernel on the tensor's device."""
    batch, length, heads, head_dim = x.shape
    blocks = triton.cdiv(before + length, block_size)
    likeness = torch.empty((batch, blocks, heads), dtype=torch.float32, device=x.device)
    _likeness(
        blocks * batch * heads,
        (x, likeness if mean is None else mean.contiguous(), likeness),
        (),
        (length, before, blocks, heads, *x.stride()[:3]),
        {"BLOCK": block_size, "HEAD_DIM": head_dim, "CENTRED": mean is not None, "PARTIAL": PARTIAL},
        {"num_warps": 8 if head_dim == 256 else 4},
    )
    return likeness
