"""FlashPrefill's energies, written to memory by one Triton kernel, for rules that sort them.

One program computes one query block; heads are innermost. It scores with the same function as flashprefill/triton.py,
directly into the query block's row of ``[batch, q_heads, rows, key_blocks]`` float32 (512 MiB at 256K and 32 heads).
The threshold rule never writes this tensor. Rows outside the call are always masked, which costs a few percent of the
scoring's time.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.backend import capability
from fp_bench.kernels.flashprefill.triton import diagonal_energy, launch_config, score_blocks
from fp_bench.kernels.launch import CachedKernel, split_options
from fp_bench.kernels.layout import LOG2E, BlockGrid

SIZES = ("q_len", "kv_len", "first", "rows", "batch_heads", "q_heads", "group")
"""Arguments that change from call to call: one compiled form takes all."""


@triton.jit(do_not_specialize=SIZES)
def _energies_kernel(
    q_ptr, pooled_ptr, energies_ptr,
    scale_log2,
    q_len, kv_len, first, rows, key_blocks, batch_heads, q_heads, group,
    stride_qb, stride_qn, stride_qh, stride_pb, stride_pn, stride_ph,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, KEY_TILE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = rows - 1 - tl.program_id(0) // batch_heads
    batch_head = tl.program_id(0) % batch_heads
    batch = (batch_head // q_heads).to(tl.int64)
    head = (batch_head % q_heads).to(tl.int64)
    kv_head = (batch_head % q_heads // group).to(tl.int64)
    a = first + row
    dim = tl.arange(0, HEAD_DIM)
    offset = kv_len - q_len
    query = a * BLOCK - offset + tl.arange(0, BLOCK)
    row_valid = (query >= 0) & (query < q_len)
    q_base = q_ptr + batch * stride_qb + head * stride_qh
    pooled = pooled_ptr + batch * stride_pb + kv_head * stride_ph
    energies = energies_ptr + (batch_head * rows + row).to(tl.int64) * key_blocks
    q = tl.load(q_base + query.to(tl.int64)[:, None] * stride_qn + dim, mask=row_valid[:, None], other=0.0)
    score_blocks(q, pooled, energies, a, row_valid, scale_log2, stride_pn, KEY_TILE, HEAD_DIM, True, STAGES)
    complete = (a + 1) * BLOCK <= kv_len
    diagonal = diagonal_energy(q_base, pooled, a, complete, offset, scale_log2, stride_qn, stride_pn, BLOCK, HEAD_DIM)
    tl.store(energies + a, diagonal)


_energies = CachedKernel(_energies_kernel)


def log2_energies_triton(q: Tensor, pooled: Tensor, grid: BlockGrid, scale: float) -> Tensor:
    """Return what `ranked.log2_energies` does."""
    batch, _, q_heads, head_dim = q.shape
    shape = (batch, q_heads, grid.rows, grid.key_blocks)
    energies = torch.full(shape, -math.inf, dtype=torch.float32, device=q.device)
    tiles, options = split_options(launch_config(head_dim, capability(q.device)))
    _energies(
        grid.rows * batch * q_heads,
        (q, pooled, energies),
        (scale * LOG2E,),
        (
            *(grid.q_len, grid.kv_len, grid.first, grid.rows, grid.key_blocks),
            *(batch * q_heads, q_heads, q_heads // pooled.shape[2]),
            *(*q.stride()[:3], *pooled.stride()[:3]),
        ),
        {"BLOCK": grid.block_size, "HEAD_DIM": head_dim, **tiles},
        options,
    )
    return energies
