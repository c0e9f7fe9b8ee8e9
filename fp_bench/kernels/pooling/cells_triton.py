"""Means of a block's tokens by their place in a cell, in Triton: one program reads a tile ``[block_size, head_dim]``.

As `pooling.triton`, each token is read once and summed in float32 registers; a tile is folded along its cells, so that
``stride`` rows come out where that has one. Bound by reading the tensor once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.launch import CachedKernel

SIZES = ("length", "before", "blocks", "heads")
"""Arguments that change from call to call and gain nothing from a form of their own."""


@triton.jit(do_not_specialize=SIZES)
def _cells_kernel(
    x_ptr, pooled_ptr, length, before, blocks, heads, stride_xb, stride_xn, stride_xh,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    CELLS: tl.constexpr = BLOCK // STRIDE
    block = tl.program_id(0) % blocks
    batch = (tl.program_id(0) // blocks // heads).to(tl.int64)
    head = (tl.program_id(0) // blocks % heads).to(tl.int64)
    token = block * BLOCK - before + tl.arange(0, BLOCK)
    dim = tl.arange(0, HEAD_DIM)
    x = tl.load(
        x_ptr + batch * stride_xb + head * stride_xh + token.to(tl.int64)[:, None] * stride_xn + dim,
        mask=((token >= 0) & (token < length))[:, None],
        other=0.0,
    ).to(tl.float32)
    place = tl.arange(0, STRIDE)
    mean = tl.sum(tl.reshape(x, (CELLS, STRIDE, HEAD_DIM)), 0) / CELLS
    out = pooled_ptr + ((batch * blocks + block) * heads + head) * (STRIDE * HEAD_DIM)
    tl.store(out + place[:, None] * HEAD_DIM + dim[None, :], mean.to(pooled_ptr.dtype.element_ty))


_cells = CachedKernel(_cells_kernel)


def pool_cells_triton(x: Tensor, stride: int, before: int, block_size: int) -> Tensor:
    """Return `pooling.pool_cells` computed by one kernel on the tensor's device."""
    batch, length, heads, head_dim = x.shape
    blocks = triton.cdiv(before + length, block_size)
    pooled = torch.empty((batch, blocks, heads, stride, head_dim), dtype=x.dtype, device=x.device)
    _cells(
        blocks * batch * heads,
        (x, pooled),
        (),
        (length, before, blocks, heads, *x.stride()[:3]),
        {"BLOCK": block_size, "HEAD_DIM": head_dim, "STRIDE": stride},
        {"num_warps": 8 if head_dim == 256 else 4},
    )
    return pooled
