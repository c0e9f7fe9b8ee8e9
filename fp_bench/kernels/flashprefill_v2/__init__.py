"""FlashPrefill V2's discovery: one list of key blocks for all query heads of a KV head (arXiv 2608.19758)."""

import math

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex, causal_blocks, few_rows, list_kept
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E, BlockGrid, check_scale


def select_packed_blocks(
    q: Tensor,
    pooled: Tensor,
    rule: KeepRule,
    *,
    kv_len: int,
    scale: float,
    block_size: int = BLOCK_SIZE,
    backend: str = "auto",
) -> BlockIndex:
    """Return the key blocks that FlashPrefill V2 keeps for each row of tiles of each KV head.

    Defined by `flashprefill_v2.reference.select_packed_blocks`. No tensor of scores, no sort on GPUs, no host sync.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        pooled: ``[batch, key_blocks, kv_heads, head_dim]``, from `pool_keys`.
        rule: what to keep; its last full blocks are packed rows.
        kv_len: keys of the sequence; query i has position ``kv_len - q_len + i``.
        scale: factor on the logits, positive.
        block_size: tokens of a key block, and most rows of Q in a row of tiles.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernel here.

    Raises:
        UnsupportedError: a scale that is not positive, more key blocks than a list can name, or more heads of a KV head
            than rows of Q in a row of tiles.
    """
    check_scale(scale)
    kv_heads = pooled.shape[2]
    packed = q.shape[2] // kv_heads
    if packed > block_size:
        raise UnsupportedError(f"{packed} query heads of a KV head do not fit a row of {block_size}")
    grid = BlockGrid(q.shape[1], kv_len, block_size, packed)
    index = BlockIndex.empty(q.shape[0], kv_heads, grid, q.device)
    if resolve_backend(q, backend) == "triton":
        from fp_bench.kernels.flashprefill_v2.triton import discover_packed_triton

        discover_packed_triton(q, pooled, rule, scale, index)
    else:
        _discover_torch(q, pooled, rule, scale, index)
    return index


def _discover_torch(q: Tensor, pooled: Tensor, rule: KeepRule, scale: float, index: BlockIndex) -> None:
    """Fill ``index`` a few rows at a time, reading only the key blocks up to their own."""
    grid, packed = index.grid, index.packed
    forced, causal = rule.forced(grid, q.device), causal_blocks(grid, q.device)
    for b, kv_head, rows in few_rows(q.shape[0], pooled.shape[2], grid):
        queries, keys = q[b, :, kv_head * packed : (kv_head + 1) * packed], pooled[b, :, kv_head].float()
        energy = _log2_energies(queries, keys, grid, rows, scale * LOG2E)
        width = energy.shape[1]
        kept = (energy >= energy.amax(-1, keepdim=True) + rule.log2_alpha) & (energy > -math.inf)
        list_kept(index, b, kv_head, rows, (kept | forced[rows, :width]) & causal[rows, :width])


def _log2_energies(q: Tensor, keys: Tensor, grid: BlockGrid, rows: slice, scale_log2: float) -> Tensor:
    """Return ``[rows, key blocks up to the last row's own]``: log2 of each block's energy, -inf for none."""
    size, packed = grid.block_size, grid.packed
    start = (grid.first + rows.start) * size - grid.offset * packed  # a place of this call, like the next two
    stop = min((grid.first + rows.stop) * size - grid.offset * packed, grid.q_len * packed)
    before = max(-start, 0)  # places of the first row that belong to an earlier chunk
    row = grid.first + torch.arange(rows.start, rows.stop)
    ends = ((row * size + size - 1) // packed + 1).clamp_max(grid.kv_len)
    width = -(-int(ends[-1]) // size)
    place = torch.arange(start + before, stop, device=q.device)
    block = torch.arange(width, device=q.device)
    logits = q[place // packed, place % packed].float() @ keys[:width].T * scale_log2
    logits.masked_fill_((place // packed + grid.offset)[:, None] < block * size, -math.inf)
    padded = logits.new_full((len(ends) * size, width), -math.inf)
    padded[before : before + len(logits)] = logits
    by_row = padded.view(len(ends), size, width)
    highest = by_row.amax(1).clamp_min(-3e38)  # blocks that no query sees stay at -inf instead of becoming nan
    energy = highest + torch.exp2(by_row - highest[:, None]).sum(1).log2()
    return energy.masked_fill((block + 1) * size > ends.to(q.device)[:, None], -math.inf)
