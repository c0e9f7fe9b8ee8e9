"""What FlashPrefill keeps, in plain torch, float32: the definition the kernels are tested against.

Symbols follow docs: query block a, key block c, position i; energies are base 2 and relative to the row's maximum.
"""

import math

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E, BlockGrid


def block_energies(q: Tensor, pooled: Tensor, *, kv_len: int, scale: float, block_size: int = BLOCK_SIZE) -> Tensor:
    """Return ``E[batch, q_heads, rows, key_blocks]``: the energy of each key block for each query block.

    ``E[a, c]`` sums ``2 ** (L[i, c] - g[a])`` over the rows i of block a that see the whole of block c, with
    ``L[i, c] = log2(e) * scale * q_i . pooled_c`` and g[a] the largest visible L of the query block. There is no
    per-row softmax. Blocks without a visible row have energy 0.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        pooled: ``[batch, key_blocks, kv_heads, head_dim]``.
        kv_len: keys of the sequence; query i has position ``kv_len - q_len + i``.
        scale: factor on the logits.
        block_size: tokens of a block.
    """
    grid = BlockGrid(q.shape[1], kv_len, block_size)
    group = q.shape[2] // pooled.shape[2]
    keys = pooled.float().repeat_interleave(group, dim=2)
    logits = torch.einsum("bihd,bchd->bhic", q.float(), keys) * (scale * LOG2E)
    position = torch.arange(grid.offset, kv_len, device=q.device)
    last_key = (torch.arange(grid.key_blocks, device=q.device) + 1) * block_size - 1
    visible = position[:, None] >= last_key
    logits = logits.masked_fill(~visible, -math.inf)
    row_block = position // block_size - grid.first
    energies = []
    for row in range(grid.rows):
        of_block = logits[:, :, row_block == row]
        highest = of_block.amax(dim=(2, 3), keepdim=True)
        # Where no key block is wholly visible every energy is 0, not 0 / 0.
        energies.append(torch.exp2(of_block - highest.clamp_min(-3e38)).sum(2))
    return torch.stack(energies, dim=2)


def select_blocks(
    q: Tensor, pooled: Tensor, rule: KeepRule, *, kv_len: int, scale: float, block_size: int = BLOCK_SIZE
) -> BlockIndex:
    """Return the blocks that ``rule`` keeps; the other arguments are those of `block_energies`."""
    grid = BlockGrid(q.shape[1], kv_len, block_size)
    energies = block_energies(q, pooled, kv_len=kv_len, scale=scale, block_size=block_size)
    kept = energies >= rule.alpha * energies.amax(-1, keepdim=True)
    return BlockIndex.from_mask(kept | rule.forced(grid, q.device), q.shape[1], kv_len, block_size)


def select_top_k(
    q: Tensor, pooled: Tensor, share: float, forced: KeepRule, *, kv_len: int, scale: float,
    block_size: int = BLOCK_SIZE,
) -> BlockIndex:  # fmt: skip
    """Return the largest energies of each row, ``share`` of its causal blocks rounded up, and the forced blocks."""
    grid = BlockGrid(q.shape[1], kv_len, block_size)
    energies = block_energies(q, pooled, kv_len=kv_len, scale=scale, block_size=block_size)
    kept = torch.zeros_like(energies, dtype=torch.bool)
    for row in range(grid.rows):
        causal = grid.first + row + 1
        # 0.1 of 30 blocks are 3, whatever the rounding of the product.
        count = math.ceil(share * causal - 1e-9)
        best = energies[:, :, row, :causal].argsort(dim=-1, descending=True, stable=True)[..., :count]
        kept[:, :, row].scatter_(-1, best, True)
    return BlockIndex.from_mask(kept | forced.forced(grid, q.device), q.shape[1], kv_len, block_size)


def select_top_p(
    q: Tensor, pooled: Tensor, share: float, forced: KeepRule, *, kv_len: int, scale: float,
    block_size: int = BLOCK_SIZE,
) -> BlockIndex:  # fmt: skip
    """Return the fewest largest energies of each row whose sum reaches ``share`` of all, and the forced blocks."""
    grid = BlockGrid(q.shape[1], kv_len, block_size)
    energies = block_energies(q, pooled, kv_len=kv_len, scale=scale, block_size=block_size)
    largest, order = energies.sort(dim=-1, descending=True, stable=True)
    before = torch.cat([torch.zeros_like(largest[..., :1]), largest.cumsum(-1)[..., :-1]], dim=-1)
    needed = before < share * energies.sum(-1, keepdim=True)
    kept = torch.zeros_like(needed).scatter_(-1, order, needed)
    return BlockIndex.from_mask(kept | forced.forced(grid, q.device), q.shape[1], kv_len, block_size)
