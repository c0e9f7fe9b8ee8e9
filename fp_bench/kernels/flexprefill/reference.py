"""FlexPrefill's selection in plain torch, float32: the definition its kernels are tested against.

arXiv 2502.20766 and the code of its authors.

A head is *query-aware* if its mean query predicts the attention of its last queries, otherwise *vertical-slash*. With
``rounded``, scaled queries, their means and logits are rounded to the dtype of Q, as in the official code.
"""

import math

import torch
from torch import Tensor

from fp_bench.kernels.attention.last_reference import last_attention, round_as, scaled
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid
from fp_bench.kernels.pooling.reference import pool_keys


def tokens_to_cover(mass: Tensor, gamma: float) -> int:
    """Return 1 plus how many prefix sums of ``mass [tokens]``, sorted descending, are at most ``gamma``."""
    return 1 + int((mass.double().sort(descending=True).values.cumsum(0) <= gamma).sum())


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the square root of the Jensen-Shannon divergence over the last dimension, natural logarithm.

    ``0 log 0`` is 0.
    """
    mean = (p + q) / 2
    return (torch.xlogy(p, p / mean).nansum(-1) / 2 + torch.xlogy(q, q / mean).nansum(-1) / 2).clamp_min(0).sqrt()


def query_aware_blocks(attention: Tensor, gamma: float) -> Tensor:
    """Return which entries of ``attention [blocks, blocks]`` (rows sum to 1) a query-aware head keeps.

    All entries sorted descending, the longest prefix whose sum is at most ``gamma`` times the number of rows; entries
    equal to the first one left out are left out too.
    """
    order = attention.double().flatten().sort(descending=True).values
    beyond = order.cumsum(0) > gamma * len(attention)
    return attention.double() > order[beyond][0] if beyond.any() else torch.ones_like(attention, dtype=torch.bool)


def block_attention(q: Tensor, k: Tensor, *, scale: float, block_size: int, rounded: bool = False) -> Tensor:
    """Return ``[batch, q_heads, blocks, blocks]``: causal softmax of mean queries on mean keys, each row sums to 1."""
    queries = scaled(pool_keys(q, block_size), scale, rounded)
    keys = pool_keys(k, block_size).float().repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    logits = round_as(torch.einsum("bihd,bjhd->bhij", queries, keys), q.dtype, rounded)
    return logits.masked_fill(~torch.ones_like(logits[0, 0], dtype=torch.bool).tril(), -math.inf).softmax(-1)


def pattern_divergence(
    q: Tensor, k: Tensor, block_mass: Tensor, *, scale: float, block_size: int, rounded: bool = False
) -> Tensor:
    """Return ``[batch, q_heads]``: how badly the last queries' mean predicts ``block_mass``.

    Args:
        q: ``[batch, kv_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        block_mass: ``[batch, q_heads, blocks]``: the last queries' attention, summed over the keys of each block.
        scale: factor on the logits.
        block_size: tokens of a block.
        rounded: as everywhere in this file; and nan where a block has no mass, as in the official code.
    """
    mean = round_as(scaled(q[:, -block_size:], scale, rounded).mean(1), q.dtype, rounded)
    keys = pool_keys(k, block_size).float().repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    foretold = round_as(torch.einsum("bhd,bjhd->bhj", mean, keys), q.dtype, rounded).softmax(-1)
    distance = divergence(foretold, block_mass)
    empty = ((foretold == 0) | (block_mass == 0)).any(-1)
    return distance.masked_fill(empty, math.nan) if rounded else distance


def select_blocks(q: Tensor, k: Tensor, rule: FlexRule, *, scale: float, block_size: int = BLOCK_SIZE) -> BlockIndex:
    """Return the blocks that FlexPrefill keeps; ``q_len == kv_len``, longer than `FlexRule.dense_below`."""
    rounded = rule.official
    kv_len = k.shape[1]
    blocks = BlockGrid(kv_len, kv_len, block_size).key_blocks
    vertical, slash = last_attention(q, k, scale=scale, block_size=block_size, rounded=rounded)
    by_column = _block_sums(vertical, block_size)
    by_offset = _block_sums(slash, block_size)
    distance = pattern_divergence(q, k, by_column, scale=scale, block_size=block_size, rounded=rounded)
    attention = block_attention(q, k, scale=scale, block_size=block_size, rounded=rounded)
    low, high = rule.budget_blocks(blocks, block_size)
    mask = torch.zeros((*vertical.shape[:2], blocks, blocks), dtype=torch.bool, device=q.device)
    for b in range(q.shape[0]):
        for head in range(q.shape[2]):
            query_aware = bool(distance[b, head] < rule.tau)
            counts = [tokens_to_cover(mass[b, head], rule.gamma) // 128 + 1 for mass in (vertical, slash)]
            columns, offsets = (low if query_aware else min(max(count, low), high) for count in counts)
            by_column[b, head, 0] = math.inf
            by_offset[b, head, -1] = math.inf
            for c in by_column[b, head].argsort(descending=True, stable=True)[:columns].tolist():
                mask[b, head, c:, c] = True
            for index in by_offset[b, head].argsort(descending=True, stable=True)[:offsets].tolist():
                mask[b, head].diagonal(-(blocks - 1 - index)).fill_(True)
            if query_aware:
                mask[b, head] |= query_aware_blocks(attention[b, head], rule.gamma)
    return BlockIndex.from_mask(mask, kv_len, kv_len, block_size)


def _block_sums(mass: Tensor, block_size: int) -> Tensor:
    return torch.stack([block.sum(-1) for block in torch.split(mass, block_size, dim=-1)], dim=-1)
