"""FlashPrefill's discovery: score every key block, keep those near the row's maximum, list them in order."""

import math

import torch
from torch import Tensor

from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex, causal_blocks, few_rows, list_kept
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E, BlockGrid, check_scale


def select_blocks(
    q: Tensor,
    pooled: Tensor,
    rule: KeepRule,
    *,
    kv_len: int,
    scale: float,
    block_size: int = BLOCK_SIZE,
    backend: str = "auto",
) -> BlockIndex:
    """Return the key blocks that FlashPrefill keeps for each query block of each query head.

    Defined by `reference.select_blocks`. Energies are compared in the log domain; no sort on GPUs, no tensor of
    heads x blocks x blocks scores, no host sync.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        pooled: ``[batch, key_blocks, kv_heads, head_dim]``, from `pool_keys`.
        rule: what to keep.
        kv_len: keys of the sequence; query i has position ``kv_len - q_len + i``.
        scale: factor on the logits, positive.
        block_size: tokens of a query block and of a key block.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernel here.

    Raises:
        UnsupportedError: a scale that is not positive, or more key blocks than a list can name.
    """
    check_scale(scale)
    grid = BlockGrid(q.shape[1], kv_len, block_size)
    index = BlockIndex.empty(q.shape[0], q.shape[2], grid, q.device)
    if resolve_backend(q, backend) == "triton":
        from fp_bench.kernels.flashprefill.triton import discover_triton

        discover_triton(q, pooled, rule, scale, index)
    else:
        _discover_torch(q, pooled, rule, scale, index)
    return index


def _discover_torch(q: Tensor, pooled: Tensor, rule: KeepRule, scale: float, index: BlockIndex) -> None:
    """Fill ``index`` a few query blocks at a time, reading only the key blocks up to their diagonal."""
    grid = index.grid
    forced = rule.forced(grid, q.device)
    causal = causal_blocks(grid, q.device)
    group = q.shape[2] // pooled.shape[2]
    for b, head, rows in few_rows(q.shape[0], q.shape[2], grid):
        energy = _log2_energies(q[b, :, head], pooled[b, :, head // group].float(), grid, rows, scale * LOG2E)
        width = energy.shape[1]
        kept = energy >= energy.amax(-1, keepdim=True) + rule.log2_alpha
        list_kept(index, b, head, rows, (kept | forced[rows, :width]) & causal[rows, :width])


def log2_energies_torch(q: Tensor, pooled: Tensor, grid: BlockGrid, scale: float) -> Tensor:
    """Return log2 of `reference.block_energies`, ``[batch, q_heads, rows, key_blocks]`` float32; -inf for none."""
    batch, _, q_heads, _ = q.shape
    energies = q.new_full((batch, q_heads, grid.rows, grid.key_blocks), -math.inf, dtype=torch.float32)
    group = q_heads // pooled.shape[2]
    for b, head, rows in few_rows(batch, q_heads, grid):
        of_rows = _log2_energies(q[b, :, head], pooled[b, :, head // group].float(), grid, rows, scale * LOG2E)
        energies[b, head, rows, : of_rows.shape[1]] = of_rows
    return energies


def _log2_energies(q: Tensor, keys: Tensor, grid: BlockGrid, rows: slice, scale_log2: float) -> Tensor:
    """Return ``[rows, key blocks up to the last row's diagonal]``: log2 of each block's energy, -inf for none."""
    size = grid.block_size
    start = (grid.first + rows.start) * size - grid.offset
    stop = min((grid.first + rows.stop) * size - grid.offset, grid.q_len)
    before = max(-start, 0)  # rows of the first query block that belong to an earlier chunk
    width = grid.first + rows.stop
    logits = q[start + before : stop].float() @ keys[:width].T * scale_log2
    position = torch.arange(start + before, stop, device=q.device) + grid.offset
    last_key = (torch.arange(width, device=q.device) + 1) * size - 1
    logits.masked_fill_(position[:, None] < last_key, -math.inf)
    count = rows.stop - rows.start
    padded = logits.new_full((count * size, width), -math.inf)
    padded[before : before + len(logits)] = logits
    by_block = padded.view(count, size, width)
    # Blocks that no row sees stay at -inf instead of becoming nan.
    highest = by_block.amax(1).clamp_min(-3e38)
    return highest + torch.exp2(by_block - highest[:, None]).sum(1).log2()
