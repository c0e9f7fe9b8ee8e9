"""FlashPrefill V2's discovery in one Triton kernel.

The walk, the transposed scores and the compaction are those of `flashprefill.triton`, with the same tiles, registers
and scratch. Two things differ. A row holds 128 places of a KV head, all its query heads position by position, so its Q
tile is gathered from several heads. And every query of a row sees the first token of the row's own key block, so one
loop scores all blocks that have an energy, including the own one when the row ends with it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.backend import capability
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.flashprefill.triton import COMPACT_TILE, append, launch_config, program_count, score_blocks
from fp_bench.kernels.launch import CachedKernel, split_options
from fp_bench.kernels.layout import LOG2E

SIZES = ("sink", "window", "last_full", "q_len", "kv_len", "first", "rows", "batch_lists", "lists")
"""Arguments that change from call to call: one compiled form takes all."""


@triton.jit(do_not_specialize=SIZES)
def _discover_packed_kernel(
    q_ptr, pooled_ptr, scratch_ptr, blocks_ptr, counts_ptr,
    scale_log2, log2_alpha, sink, window, last_full,
    q_len, kv_len, first, rows, key_blocks, batch_lists, lists,
    stride_qb, stride_qn, stride_qh, stride_pb, stride_pn, stride_ph,
    BLOCK: tl.constexpr, PACKED: tl.constexpr, HEAD_DIM: tl.constexpr,
    KEY_TILE: tl.constexpr, STAGES: tl.constexpr, COMPACT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    scratch = scratch_ptr + program.to(tl.int64) * key_blocks
    offset = kv_len - q_len
    dim = tl.arange(0, HEAD_DIM)
    in_row = tl.arange(0, BLOCK)
    for tile in range(program, rows * batch_lists, tl.num_programs(0)):
        row = rows - 1 - tile // batch_lists
        batch_list = tile % batch_lists
        batch = (batch_list // lists).to(tl.int64)
        kv_head = (batch_list % lists).to(tl.int64)
        start = (first + row) * BLOCK
        place = start + in_row
        query = place // PACKED - offset
        row_valid = (query >= 0) & (query < q_len)
        q_rows = query.to(tl.int64) * stride_qn + (kv_head * PACKED + place % PACKED) * stride_qh
        q = tl.load(q_ptr + batch * stride_qb + q_rows[:, None] + dim, mask=row_valid[:, None], other=0.0)
        pooled = pooled_ptr + batch * stride_pb + kv_head * stride_ph
        a = (first + row) // PACKED
        scored = tl.minimum((start + BLOCK - 1) // PACKED + 1, kv_len) // BLOCK
        if (start >= offset * PACKED) & (start + BLOCK <= kv_len * PACKED):
            largest = score_blocks(
                q, pooled, scratch, scored, row_valid, scale_log2, stride_pn, KEY_TILE, HEAD_DIM, False, STAGES
            )
        else:
            largest = score_blocks(
                q, pooled, scratch, scored, row_valid, scale_log2, stride_pn, KEY_TILE, HEAD_DIM, True, STAGES
            )

        tl.debug_barrier()  # every warp's energies are written before any warp reads them
        threshold = largest + log2_alpha
        keep_row = row >= rows - last_full
        list_row = (batch_list * rows + row).to(tl.int64)
        count = 0
        for begin in range(0, a + 1, COMPACT):
            c = begin + tl.arange(0, COMPACT)
            energy = tl.load(scratch + c, mask=c < scored, other=float("-inf"))
            keep = ((energy >= threshold) & (c < scored)) | (c < sink) | (a - c < window) | keep_row
            count = append(blocks_ptr + list_row * key_blocks, count, c, keep & (c <= a))
        tl.store(counts_ptr + list_row, count)
        tl.debug_barrier()  # the scratch row is read before the next row overwrites it


_discover_packed = CachedKernel(_discover_packed_kernel)


def discover_packed_triton(q: Tensor, pooled: Tensor, rule: KeepRule, scale: float, index: BlockIndex) -> None:
    """Fill ``index`` with the blocks that ``rule`` keeps; arguments as `flashprefill_v2.select_packed_blocks`."""
    grid = index.grid
    lists = pooled.shape[2]
    batch_lists = q.shape[0] * lists
    count = program_count(q.device, grid.rows * batch_lists)
    scratch = torch.empty((count, grid.key_blocks), dtype=torch.float32, device=q.device)
    tiles, options = split_options(launch_config(q.shape[3], capability(q.device)))
    _discover_packed(
        count,
        (q, pooled, scratch, index.blocks, index.counts),
        (scale * LOG2E, rule.log2_alpha),
        (
            *(rule.sink_blocks, rule.window_blocks, rule.last_full_blocks),
            *(grid.q_len, grid.kv_len, grid.first, grid.rows, grid.key_blocks, batch_lists, lists),
            *(*q.stride()[:3], *pooled.stride()[:3]),
        ),
        {
            "BLOCK": grid.block_size,
            "PACKED": grid.packed,
            "HEAD_DIM": q.shape[3],
            **tiles,
            "COMPACT": COMPACT_TILE,
        },
        options,
    )
