"""FlexPrefill's selection in plain torch."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fp_bench.kernels.attention.last import last_attention
from fp_bench.kernels.block_index import BlockIndex, causal_blocks
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.pooling import pool_keys

BUDGET_TOKENS = 128
"""Tokens of a budget that one block pays for, whatever the block size, as in the official code."""


class Crossing(NamedTuple):
    """Where the prefix sums of a vector, sorted descending, first exceed a budget; one entry a vector."""

    value: Tensor
    """The value that crosses, float32; 0 where the whole sum is within the budget."""
    entries: Tensor
    """How many prefix sums are within the budget, int64."""


def crossing(values: Tensor, budget: float) -> Crossing:
    """Return where each row of ``values [vectors, length]``, none negative, crosses ``budget``."""
    ordered = values.double().sort(-1, descending=True).values
    entries = (ordered.cumsum(-1) <= budget).sum(-1)
    padded = torch.cat([ordered, ordered.new_zeros((len(ordered), 1))], -1)
    return Crossing(padded.gather(-1, entries[:, None])[:, 0].float(), entries)


def select_flex_torch(q: Tensor, k: Tensor, rule: FlexRule, scale: float, index: BlockIndex) -> None:
    """Fill ``index`` with the blocks that FlexPrefill keeps; arguments as `flexprefill.select_flex`."""
    block_size, blocks = index.block_size, index.grid.key_blocks
    pooled = pool_keys(k, block_size, backend="torch")
    last, factor = _operand(q[:, -block_size:], scale, rule.official)
    mass = last_attention(last, k, factor, rounded=rule.official, backend="torch")
    by_block = mass.view(*mass.shape[:-1], -1, block_size).sum(-1)
    query_aware = _query_aware(last, factor, pooled, by_block[0], rule)
    tokens = crossing(mass.flatten(0, 2), rule.gamma).entries.clamp_max(k.shape[1]) + 1
    low, high = rule.budget_blocks(blocks, block_size)
    budget = (tokens // BUDGET_TOKENS + 1).clamp_min(low).clamp_max(high).view(by_block.shape[:-1])
    budget.masked_fill_(query_aware, low)
    # The first column and the diagonal of offset 0 are forced.
    by_block[0, ..., 0] = torch.inf
    by_block[1, ..., -1] = torch.inf
    columns, diagonals = _largest(by_block, budget)
    a = torch.arange(blocks, device=q.device)
    kept = columns[:, :, None] | diagonals.flip(-1)[..., (a[:, None] - a).clamp_min(0)]
    if rule.tau > 0:
        queries, factor = _operand(pool_keys(q, block_size, backend="torch"), scale, rule.official)
        weights = _block_attention(queries, pooled, factor, rule.official)
        above = crossing(weights.view(query_aware.numel(), -1), rule.gamma * blocks).value.view(*budget.shape[1:], 1, 1)
        kept |= query_aware[..., None, None] & ((weights > above) | (above == 0))
    kept &= causal_blocks(index.grid, q.device)
    index.blocks.copy_(torch.argsort(~kept, dim=-1, stable=True))
    index.counts.copy_(kept.sum(-1))


def _operand(x: Tensor, scale: float, official: bool) -> tuple[Tensor, float]:
    """Return queries as they are multiplied with keys, and the factor on the products."""
    return ((x.float() * scale).to(x.dtype), 1.0) if official else (x, scale)


def _query_aware(last: Tensor, factor: float, pooled: Tensor, foreseen: Tensor, rule: FlexRule) -> Tensor:
    """Return ``[batch, q_heads]`` bool: whose mean last query foretells ``foreseen``, the mass of each key block."""
    batch, _, q_heads, head_dim = last.shape
    if rule.tau == 0:
        return torch.zeros((batch, q_heads), dtype=torch.bool, device=last.device)
    kv_heads = pooled.shape[2]
    mean = last.mean(1, dtype=torch.float32)
    mean = (mean.to(last.dtype).float() if rule.official else mean).view(batch, kv_heads, -1, head_dim)
    logits = (mean @ pooled.float().permute(0, 2, 3, 1)).view(batch, q_heads, -1) * factor
    foretold = (logits.to(last.dtype).float() if rule.official else logits).softmax(-1)
    similar = divergence(foretold, foreseen) < rule.tau
    return similar & (foretold > 0).all(-1) & (foreseen > 0).all(-1) if rule.official else similar


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return the square root of the Jensen-Shannon divergence over the last dimension; 0 log 0 is 0."""
    # xlogy(0, x) is 0 for every x but nan, and the mean of two zeros must not divide.
    mean = ((p + q) / 2).clamp_min(1e-38)
    return ((torch.xlogy(p, p / mean) + torch.xlogy(q, q / mean)).sum(-1) / 2).clamp_min(0).sqrt()


def _largest(values: Tensor, counts: Tensor) -> Tensor:
    """Return a mask of the ``counts[...]`` largest of ``values[..., n]``, of equal ones the first."""
    order = values.argsort(dim=-1, descending=True, stable=True)
    listed = torch.arange(values.shape[-1], device=values.device) < counts[..., None]
    return torch.zeros_like(listed).scatter_(-1, order, listed)


def _block_attention(queries: Tensor, pooled: Tensor, factor: float, rounded: bool) -> Tensor:
    """Return ``[batch, q_heads, blocks, blocks]``: causal softmax of mean queries on mean keys."""
    keys = pooled.float().repeat_interleave(queries.shape[2] // pooled.shape[2], dim=2)
    products = torch.einsum("bihd,bjhd->bhij", queries.float(), keys)
    if rounded:
        products = products.to(pooled.dtype).float()
    causal = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).tril()
    return (products * factor).masked_fill(~causal, -math.inf).softmax(-1)
