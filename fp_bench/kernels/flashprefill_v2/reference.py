"""FlashPrefill V2's selection in plain torch, float32: the definition that its kernel is tested against."""

import math

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E, BlockGrid


def packed_energies(q: Tensor, pooled: Tensor, grid: BlockGrid, scale: float) -> Tensor:
    """Return log2 of each key block's energy for each row of tiles, ``[batch, kv_heads, rows, key_blocks]``.

    The energy of block c is the sum of ``2 ** L[i, h, c]`` over the positions i of the row and the query heads h of
    the KV head, with ``L = log2(e) * scale * q . pooled_c``. A query counts where it sees the block's *first* token,
    and a block has an energy where the row's last query sees it whole; -inf elsewhere (FlashPrefill V2, section 2).

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        pooled: ``[batch, key_blocks, kv_heads, head_dim]``.
        grid: rows of all heads of a KV head, ``packed`` of ``q_heads / kv_heads``.
        scale: factor on the logits.
    """
    batch, q_len, q_heads, _ = q.shape
    kv_heads = pooled.shape[2]
    keys = pooled.float().repeat_interleave(q_heads // kv_heads, dim=2)
    logits = torch.einsum("bihd,bchd->bhic", q.float(), keys) * (scale * LOG2E)
    position = torch.arange(grid.offset, grid.kv_len, device=q.device)
    block = torch.arange(grid.key_blocks, device=q.device)
    logits = logits.masked_fill(position[:, None] < block * grid.block_size, -math.inf)
    logits = logits.view(batch, kv_heads, q_heads // kv_heads, q_len, grid.key_blocks)
    of_row = grid.row_of(position, torch.arange(grid.packed, device=q.device)[:, None])
    energies = []
    for row in range(grid.rows):
        in_row = of_row == row
        last = int(position[in_row.any(0)][-1])
        energy = torch.logsumexp(logits[:, :, in_row] / LOG2E, dim=2) * LOG2E
        energies.append(energy.masked_fill((block + 1) * grid.block_size > last + 1, -math.inf))
    return torch.stack(energies, dim=2)


def select_packed_blocks(
    q: Tensor, pooled: Tensor, rule: KeepRule, *, kv_len: int, scale: float, block_size: int = BLOCK_SIZE
) -> BlockIndex:
    """Return the blocks kept for each row of tiles: energy at least ``alpha`` times the row's largest, or forced.

    A block without an energy, i.e. the row's own before its end, is kept by sinks, window and last rows alone.
    """
    packed = q.shape[2] // pooled.shape[2]
    grid = BlockGrid(q.shape[1], kv_len, block_size, packed)
    energies = packed_energies(q, pooled, grid, scale)
    scored = energies > -math.inf
    kept = scored & (energies >= energies.amax(-1, keepdim=True) + rule.log2_alpha)
    return BlockIndex.from_mask(kept | rule.forced(grid, q.device), q.shape[1], kv_len, block_size, packed)
