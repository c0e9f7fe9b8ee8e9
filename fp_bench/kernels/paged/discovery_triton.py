"""FlashPrefill's discovery for a packed batch: flashprefill/triton.py's tile, once a query block of any sequence.

The persistent grid walks the batch's tiles, longest first, heads innermost. Each tile reads its sequence's number from
device memory, so the host needs no lengths. Tiles that only fill the bound are skipped.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fp_bench.kernels.backend import capability
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.flashprefill.triton import COMPACT_TILE, discover_tile, launch_config, program_count
from fp_bench.kernels.launch import CachedKernel, split_options
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E
from fp_bench.kernels.paged.batch import PagedBatch

SIZES = ("sink", "window", "last_full", "tiles", "q_heads", "group")
"""Arguments that change from call to call and gain nothing from a form of their own: one compiled form takes all."""


class PagedLists(NamedTuple):
    """The kept key blocks of each tile and query head; tiles as in `PagedBatch.tiles`."""

    blocks: Tensor
    """``[tiles, q_heads, key_blocks]`` int16, ascending; undefined from ``counts`` on."""
    counts: Tensor
    """``[tiles, q_heads]`` int32; undefined for tiles of no sequence."""


@triton.jit(do_not_specialize=SIZES)
def _paged_discover_kernel(
    q_ptr, pooled_ptr, scratch_ptr, blocks_ptr, counts_ptr, cu_ptr, lens_ptr, ends_ptr, sequence_ptr, block_ptr,
    scale_log2, log2_alpha, sink, window, last_full, tiles, key_blocks, q_heads, group,
    stride_qn, stride_qh,
    BLOCK: tl.constexpr, HEAD_DIM: tl.constexpr, KEY_TILE: tl.constexpr, STAGES: tl.constexpr, COMPACT: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    scratch = scratch_ptr + program.to(tl.int64) * key_blocks
    kv_heads = q_heads // group
    for item in range(program, tiles * q_heads, tl.num_programs(0)):
        tile = item // q_heads
        head = (item % q_heads).to(tl.int64)
        kv_head = (item % q_heads // group).to(tl.int64)
        sequence = tl.load(sequence_ptr + tile).to(tl.int64)
        if sequence >= 0:
            a = tl.load(block_ptr + tile)
            start = tl.load(cu_ptr + sequence)
            q_len = tl.load(cu_ptr + sequence + 1) - start
            kv_len = tl.load(lens_ptr + sequence)
            full_rows = last_full * tl.load(ends_ptr + sequence)
            pooled = pooled_ptr + (sequence * key_blocks * kv_heads + kv_head) * HEAD_DIM
            list_row = tile.to(tl.int64) * q_heads + head
            discover_tile(
                q_ptr + start.to(tl.int64) * stride_qn + head * stride_qh, pooled, scratch,
                blocks_ptr + list_row * key_blocks, counts_ptr + list_row,
                a, a >= tl.cdiv(kv_len, BLOCK) - full_rows, scale_log2, log2_alpha, sink, window,
                q_len, kv_len, stride_qn, kv_heads * HEAD_DIM, BLOCK, HEAD_DIM, KEY_TILE, STAGES, COMPACT,
            )  # fmt: skip


_discover = CachedKernel(_paged_discover_kernel)


def select_paged_blocks(q: Tensor, pooled: Tensor, batch: PagedBatch, rule: KeepRule, scale: float) -> PagedLists:
    """Return the blocks that ``rule`` keeps.

    Args:
        q: ``[tokens, q_heads, head_dim]``.
        pooled: as `pool_paged_keys` returns it.
        batch: whose queries these are.
        rule: what to keep.
        scale: factor on the logits, positive.
    """
    _, q_heads, head_dim = q.shape
    tiles = batch.tile_bound
    blocks = torch.empty((tiles, q_heads, batch.key_blocks), dtype=torch.int16, device=q.device)
    counts = torch.empty((tiles, q_heads), dtype=torch.int32, device=q.device)
    count = program_count(q.device, tiles * q_heads)
    scratch = torch.empty((count, batch.key_blocks), dtype=torch.float32, device=q.device)
    sizes, options = split_options(launch_config(head_dim, capability(q.device)))
    _discover(
        count,
        (q, pooled, scratch, blocks, counts, batch.cu_seqlens_q, batch.kv_lens, batch.ends_prompt, *batch.tiles),
        (scale * LOG2E, rule.log2_alpha),
        (
            *(rule.sink_blocks, rule.window_blocks, rule.last_full_blocks),
            *(tiles, batch.key_blocks, q_heads, q_heads // pooled.shape[2], *q.stride()[:2]),
        ),
        {"BLOCK": BLOCK_SIZE, "HEAD_DIM": head_dim, **sizes, "COMPACT": COMPACT_TILE},
        options,
    )
    return PagedLists(blocks, counts)
