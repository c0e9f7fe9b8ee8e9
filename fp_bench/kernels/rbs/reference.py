"""What RBS-Attention keeps, in plain torch, float32: the definition the kernels are tested against.

Symbols follow FlashPrefill's: query block a, key block c, position i (arXiv 2609.20971, as its summaries tell it).
"""

import math

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill.reference import block_energies
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E, BlockGrid
from fp_bench.kernels.rbs.rule import Rescue


def lifted_energies(
    q: Tensor, pooled: Tensor, lifts: Tensor, *, kv_len: int, scale: float, block_size: int = BLOCK_SIZE
) -> Tensor:
    """Return FlashPrefill's energies of lifted scores, ``[batch, q_heads, rows, key_blocks]``.

    As `flashprefill.reference.block_energies`, with ``scale * (q_i . pooled_c + norm(q_i) * lifts_c)`` for the product
    of a query and a mean key.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        pooled: ``[batch, key_blocks, kv_heads, head_dim]``.
        lifts: ``[batch, key_blocks, kv_heads]``.
        kv_len: keys of the sequence; query i has position ``kv_len - q_len + i``.
        scale: factor on the logits.
        block_size: tokens of a block.
    """
    grid = BlockGrid(q.shape[1], kv_len, block_size)
    group = q.shape[2] // pooled.shape[2]
    keys = pooled.float().repeat_interleave(group, dim=2)
    lift = lifts.repeat_interleave(group, dim=2).permute(0, 2, 1)[:, :, None]
    norms = q.float().norm(dim=-1).permute(0, 2, 1)[..., None]
    logits = (torch.einsum("bihd,bchd->bhic", q.float(), keys) + norms * lift) * (scale * LOG2E)
    position = torch.arange(grid.offset, kv_len, device=q.device)
    last_key = (torch.arange(grid.key_blocks, device=q.device) + 1) * block_size - 1
    logits = logits.masked_fill(position[:, None] < last_key, -math.inf)
    energies = []
    for row in range(grid.rows):
        of_block = logits[:, :, position // block_size - grid.first == row]
        highest = of_block.amax(dim=(2, 3), keepdim=True)
        # Where no key block is wholly visible every energy is 0, not 0 / 0.
        energies.append(torch.exp2(of_block - highest.clamp_min(-3e38)).sum(2))
    return torch.stack(energies, dim=2)


def select_rescued(
    q: Tensor, pooled: Tensor, radii: Tensor, rule: KeepRule, rescue: Rescue, *, kv_len: int, scale: float,
    block_size: int = BLOCK_SIZE,
) -> BlockIndex:  # fmt: skip
    """Return the union of what ``rule`` keeps by mean keys and what ``rescue`` keeps by lifted scores.

    ``radii`` is ``[batch, key_blocks, kv_heads]``; the other arguments are those of `lifted_energies`.
    """
    grid = BlockGrid(q.shape[1], kv_len, block_size)
    base = block_energies(q, pooled, kv_len=kv_len, scale=scale, block_size=block_size)
    lifted = lifted_energies(q, pooled, rescue.lifts(radii), kv_len=kv_len, scale=scale, block_size=block_size)
    kept = base >= rule.alpha * base.amax(-1, keepdim=True)
    kept |= lifted >= rescue.alpha * lifted.amax(-1, keepdim=True)
    return BlockIndex.from_mask(kept | rule.forced(grid, q.device), q.shape[1], kv_len, block_size)
