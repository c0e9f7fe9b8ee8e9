"""Mean keys and the radius of each block in Triton: `pooling.triton` with a second reduction over the same tile.

The tile of K stays in registers (128 a thread), so K is read once; the radius adds a
subtraction and a multiply-add an element, under the load of the next program's tile.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.launch import CachedKernel

SIZES = ("kv_len", "key_blocks", "kv_heads")
"""Arguments that change from call to call and gain nothing from a form of their own."""


@triton.jit(do_not_specialize=SIZES)
def _radii_kernel(
    k_ptr, pooled_ptr, radii_ptr, kv_len, key_blocks, kv_heads, stride_kb, stride_kn, stride_kh,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) % key_blocks
    batch = (tl.program_id(0) // key_blocks // kv_heads).to(tl.int64)
    head = (tl.program_id(0) // key_blocks % kv_heads).to(tl.int64)
    token = block * BLOCK + tl.arange(0, BLOCK)
    dim = tl.arange(0, HEAD_DIM)
    real = token < kv_len
    keys = tl.load(
        k_ptr + batch * stride_kb + head * stride_kh + token.to(tl.int64)[:, None] * stride_kn + dim,
        mask=real[:, None],
        other=0.0,
    ).to(tl.float32)
    mean = tl.sum(keys, 0) / tl.minimum(kv_len - block * BLOCK, BLOCK)
    off = keys - mean[None, :]
    square = tl.max(tl.where(real, tl.sum(off * off, 1), 0.0), 0)
    place = (batch * key_blocks + block) * kv_heads + head
    tl.store(pooled_ptr + place * HEAD_DIM + dim, mean.to(pooled_ptr.dtype.element_ty))
    tl.store(radii_ptr + place, tl.sqrt(square))


_radii = CachedKernel(_radii_kernel)


def pool_with_radii_triton(k: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Return `pooling.pool_with_radii` computed by one kernel on K's device."""
    batch, kv_len, kv_heads, head_dim = k.shape
    key_blocks = triton.cdiv(kv_len, block_size)
    pooled = torch.empty((batch, key_blocks, kv_heads, head_dim), dtype=k.dtype, device=k.device)
    radii = torch.empty((batch, key_blocks, kv_heads), dtype=torch.float32, device=k.device)
    _radii(
        key_blocks * batch * kv_heads,
        (k, pooled, radii),
        (),
        (kv_len, key_blocks, kv_heads, *k.stride()[:3]),
        {"BLOCK": block_size, "HEAD_DIM": head_dim},
        {"num_warps": 8 if head_dim == 256 else 4},
    )
    return pooled, radii
