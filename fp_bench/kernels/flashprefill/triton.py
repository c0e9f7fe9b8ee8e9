"""FlashPrefill's discovery in one Triton kernel: score, threshold, in-order compaction.

A persistent grid of a few programs an SM walks the query blocks, longest first, heads innermost so that the heads of
a group share the pooled keys in L2. For each query block a program

1. loads Q ``[128, head_dim]`` once and keeps it in shared memory (32 KB at head_dim 128);
2. walks the pooled keys in tiles of ``KEY_TILE`` blocks and computes the *transposed* scores
   ``[KEY_TILE, 128] = pooled @ Q^T``: a key block's energy is then a reduction along a row, which lies in four
   neighbouring threads, instead of one down a column across all warps;
3. writes each block's log2 energy to its own scratch row (``key_blocks`` float32, L2 resident, one row a program:
   a few MB in all) and keeps the running maximum in registers;
4. reads the row back, compares with ``maximum + log2(alpha)``, and writes the kept block numbers at their prefix sum.

Only the int16 lists have the size heads x blocks x blocks. There is no sort and there are no atomics, so the lists are
ascending and deterministic. Each score costs one max, one FMA, one exp2 and one add. At head_dim 128 the matrix
product and the exponentials take about the same time, and several programs on an SM overlap them.

Only the last row sees the whole diagonal block, and only when the block is complete, so that one dot product is
computed separately. A second copy of the loop masks rows outside the call (a partial first or last query block).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.backend import capability, multiprocessors
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.launch import CachedKernel, split_options
from fp_bench.kernels.layout import LOG2E, BlockGrid

COMPACT_TILE = 512
"""Key blocks compared and compacted at once."""


SIZES = ("sink", "window", "last_full", "q_len", "kv_len", "first", "rows", "batch_heads", "q_heads", "group")
"""Arguments that change from call to call: one compiled form takes all. ``key_blocks`` is none of them: where it is a
multiple of 16, rows of scratch are aligned."""


@triton.jit
def append(list_ptr, count, blocks, keep):
    """Append those of ascending blocks that are to be kept to a list of ``count``; return its new length."""
    kept = keep.to(tl.int32)
    place = count + tl.cumsum(kept, 0) - 1
    tl.store(list_ptr + place, blocks.to(tl.int16), mask=keep)
    return count + tl.sum(kept, 0)


@triton.jit
def score_blocks(
    q, pooled_ptr, scratch_ptr, a, row_valid, scale_log2, stride_pn,
    KEY_TILE: tl.constexpr, HEAD_DIM: tl.constexpr, MASK_ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write log2 energies of the key blocks before ``a`` to scratch; return the largest."""
    dim = tl.arange(0, HEAD_DIM)
    lane = tl.arange(0, KEY_TILE)
    largest = tl.full((KEY_TILE,), float("-inf"), tl.float32)
    for start in tl.range(0, a, KEY_TILE, num_stages=STAGES):
        c = start + lane
        tile = pooled_ptr + tl.cast(start, tl.int64) * stride_pn
        keys = tl.load(tile + lane[:, None] * stride_pn + dim, mask=c[:, None] < a, other=0.0)
        logits = tl.dot(keys, q.T, input_precision="ieee")
        if MASK_ROWS:
            logits = tl.where(row_valid[None, :], logits, float("-inf"))
        highest = tl.max(logits, 1) * scale_log2
        total = tl.sum(tl.exp2(logits * scale_log2 - highest[:, None]), 1)
        energy = highest + tl.log2(total)
        tl.store(scratch_ptr + c, energy, mask=c < a)
        largest = tl.maximum(largest, tl.where(c < a, energy, float("-inf")))
    return tl.max(largest, 0)


@triton.jit
def diagonal_energy(
    q_base, pooled, a, complete, offset, scale_log2, stride_qn, stride_pn, BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr
):
    """Return the log2 energy of key block ``a`` for itself: visible to the last row of a complete block alone."""
    dim = tl.arange(0, HEAD_DIM)
    last_query = ((a + 1) * BLOCK - 1 - offset).to(tl.int64)
    last_row = tl.load(q_base + last_query * stride_qn + dim, mask=complete & (dim >= 0), other=0.0)
    key = tl.load(pooled + a.to(tl.int64) * stride_pn + dim)
    energy = tl.sum(last_row.to(tl.float32) * key.to(tl.float32), 0) * scale_log2
    return tl.where(complete, energy, float("-inf"))


@triton.jit
def discover_tile(
    q_base, pooled, scratch, list_ptr, count_ptr, a, keep_row, scale_log2, log2_alpha, sink, window,
    q_len, kv_len, stride_qn, stride_pn,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, KEY_TILE: tl.constexpr, STAGES: tl.constexpr, COMPACT: tl.constexpr,
):  # fmt: skip
    """List the kept blocks of query block ``a`` of one head of one sequence, all of them where ``keep_row``."""
    offset = kv_len - q_len
    dim = tl.arange(0, HEAD_DIM)
    query = a * BLOCK - offset + tl.arange(0, BLOCK)
    row_valid = (query >= 0) & (query < q_len)
    q = tl.load(q_base + query.to(tl.int64)[:, None] * stride_qn + dim, mask=row_valid[:, None], other=0.0)
    complete = (a + 1) * BLOCK <= kv_len
    if complete & (a * BLOCK >= offset):
        largest = score_blocks(
            q, pooled, scratch, a, row_valid, scale_log2, stride_pn, KEY_TILE, HEAD_DIM, False, STAGES
        )
    else:
        largest = score_blocks(
            q, pooled, scratch, a, row_valid, scale_log2, stride_pn, KEY_TILE, HEAD_DIM, True, STAGES
        )
    diagonal = diagonal_energy(q_base, pooled, a, complete, offset, scale_log2, stride_qn, stride_pn, BLOCK, HEAD_DIM)
    largest = tl.maximum(largest, diagonal)

    tl.debug_barrier()  # every warp's energies are written before any warp reads them
    threshold = largest + log2_alpha
    count = 0
    for start in range(0, a + 1, COMPACT):
        c = start + tl.arange(0, COMPACT)
        energy = tl.load(scratch + c, mask=c < a, other=float("-inf"))
        energy = tl.where(c == a, diagonal, energy)
        keep = (energy >= threshold) | (c < sink) | (a - c < window) | keep_row
        count = append(list_ptr, count, c, keep & (c <= a))
    tl.store(count_ptr, count)
    tl.debug_barrier()  # the scratch row is read before the next query block overwrites it


@triton.jit(do_not_specialize=SIZES)
def _discover_kernel(
    q_ptr, pooled_ptr, scratch_ptr, blocks_ptr, counts_ptr,
    scale_log2, log2_alpha, sink, window, last_full,
    q_len, kv_len, first, rows, key_blocks, batch_heads, q_heads, group,
    stride_qb, stride_qn, stride_qh, stride_pb, stride_pn, stride_ph,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, KEY_TILE: tl.constexpr, STAGES: tl.constexpr, COMPACT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    scratch = scratch_ptr + program.to(tl.int64) * key_blocks
    for tile in range(program, rows * batch_heads, tl.num_programs(0)):
        row = rows - 1 - tile // batch_heads
        batch_head = tile % batch_heads
        batch = (batch_head // q_heads).to(tl.int64)
        head = (batch_head % q_heads).to(tl.int64)
        kv_head = (batch_head % q_heads // group).to(tl.int64)
        list_row = (batch_head * rows + row).to(tl.int64)
        discover_tile(
            q_ptr + batch * stride_qb + head * stride_qh,
            pooled_ptr + batch * stride_pb + kv_head * stride_ph,
            scratch, blocks_ptr + list_row * key_blocks, counts_ptr + list_row,
            first + row, row >= rows - last_full, scale_log2, log2_alpha, sink, window,
            q_len, kv_len, stride_qn, stride_pn, BLOCK, HEAD_DIM, KEY_TILE, STAGES, COMPACT,
        )  # fmt: skip


DISCOVER = CachedKernel(_discover_kernel)


def launch_config(head_dim: int, capability: int) -> dict[str, int]:
    """Return tile sizes, warps and the register cap by head_dim and chip: nothing is tuned to a length.

    Args:
        head_dim: 64, 128 or 256.
        capability: ten times the CUDA compute capability; 0 for AMD, which has no such cap.
    """
    if head_dim == 256:
        return {"KEY_TILE": 64 if capability in (90, 100, 103) else 32, "STAGES": 2, "num_warps": 8}
    config = {"KEY_TILE": 64, "STAGES": 2, "num_warps": 4}
    # 168 registers let three programs share an SM: 1.2 times faster than two at 216 (H200, head_dim 128).
    return config | {"maxnreg": 168} if capability else config


def program_count(device: torch.device, tiles: int) -> int:
    """Return the size of the persistent grid: three programs an SM, no more than there are query blocks."""
    if device.type != "cuda":
        return min(tiles, 4)
    return min(tiles, 3 * multiprocessors(device))


def empty_scratch(q: Tensor, grid: BlockGrid, device: torch.device | str) -> Tensor:
    """Allocate a row of energies for each program, ``[programs, key_blocks]``."""
    count = program_count(q.device, grid.rows * q.shape[0] * q.shape[2])
    return torch.empty((count, grid.key_blocks), dtype=torch.float32, device=device)


def discover_triton(q: Tensor, pooled: Tensor, rule: KeepRule, scale: float, index: BlockIndex) -> None:
    """Fill ``index`` with the blocks that ``rule`` keeps; arguments as `flashprefill.select_blocks`."""
    scratch = empty_scratch(q, index.grid, q.device)
    DISCOVER(*discover_arguments(q, pooled, scratch, rule, scale, index))


def discover_arguments(
    q: Tensor, pooled: Tensor, scratch: Tensor, rule: KeepRule, scale: float, index: BlockIndex
) -> tuple[Any, ...]:
    """Return what `DISCOVER` takes."""
    grid = index.grid
    batch, _, q_heads, head_dim = q.shape
    batch_heads = batch * q_heads
    tiles, options = split_options(launch_config(head_dim, capability(q.device)))
    return (
        scratch.shape[0],
        (q, pooled, scratch, index.blocks, index.counts),
        (scale * LOG2E, rule.log2_alpha),
        (
            *(rule.sink_blocks, rule.window_blocks, rule.last_full_blocks),
            *(grid.q_len, grid.kv_len, grid.first, grid.rows, grid.key_blocks),
            *(batch_heads, q_heads, q_heads // pooled.shape[2]),
            *(*q.stride()[:3], *pooled.stride()[:3]),
        ),
        {"BLOCK": grid.block_size, "HEAD_DIM": head_dim, **tiles, "COMPACT": COMPACT_TILE},
        options,
    )
