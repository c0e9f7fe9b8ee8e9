"""FlexPrefill's selection: the attention of the last queries decides each head's columns, diagonals or blocks."""

from types import ModuleType

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.attention.last import last_attention
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.flexprefill.parts import Attention
from fp_bench.kernels.flexprefill.rule import FlexRule
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid, check_scale
from fp_bench.kernels.pooling import pool_keys

BUDGET_TOKENS = 128
"""Tokens of a budget that one block pays for, whatever the block size, as in the official code."""


def select_flex(
    q: Tensor, k: Tensor, rule: FlexRule, *, scale: float, block_size: int = BLOCK_SIZE, backend: str = "auto"
) -> BlockIndex:
    """Return the key blocks that FlexPrefill keeps for each query block of each query head.

    Defined by `reference.select_blocks`. Takes two vectors of ``kv_len`` floats and ``blocks ** 2`` floats a
    head; on GPUs nothing longer than ``blocks`` is sorted, and nothing waits for the device.

    Args:
        q: ``[batch, kv_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``, longer than ``rule.dense_below(block_size)``.
        rule: what to keep.
        scale: factor on the logits, positive.
        block_size: tokens of a query block and of a key block.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernels here.

    Raises:
        UnsupportedError: a chunk of a prompt, a call that is to be dense, or more key blocks than a list can name.
    """
    check_scale(scale)
    kv_len = k.shape[1]
    if q.shape[1] != kv_len:
        raise UnsupportedError(f"q_len {q.shape[1]} is not kv_len {kv_len}; FlexPrefill selects for whole prompts")
    if kv_len <= rule.dense_below(block_size):
        raise UnsupportedError(f"kv_len {kv_len} is not above {rule.dense_below(block_size)}, up to where it is dense")
    index = BlockIndex.empty(k.shape[0], q.shape[2], BlockGrid(kv_len, kv_len, block_size), q.device)
    steps = _steps(q, backend)
    pooled = pool_keys(k, block_size, backend=backend)
    last, factor = _operand(q[:, -block_size:], scale, rule.official)
    mass = last_attention(last, k, factor, rounded=rule.official, backend=backend)
    by_block = mass.view(*mass.shape[:-1], -1, block_size).sum(-1)
    query_aware = _query_aware(last, factor, pooled, by_block[0], rule)
    tokens = steps.crossing(mass.flatten(0, 2), rule.gamma, None).fitting(rule.gamma).clamp_max(kv_len) + 1
    low, high = rule.budget_blocks(index.grid.key_blocks, block_size)
    budget = (tokens // BUDGET_TOKENS + 1).clamp_min(low).clamp_max(high).view(by_block.shape[:-1])
    budget.masked_fill_(query_aware, low)
    # The first column and the diagonal of offset 0 are forced.
    by_block[0, ..., 0] = torch.inf
    by_block[1, ..., -1] = torch.inf
    columns, diagonals = _largest(by_block, budget)
    attention = None
    if rule.tau > 0:
        queries, factor = _operand(pool_keys(q, block_size, backend=backend), scale, rule.official)
        weights = steps.block_attention(queries, pooled, factor, query_aware, rule.official)
        budgeted = rule.gamma * index.grid.key_blocks
        above = steps.crossing(weights.view(query_aware.numel(), -1), budgeted, query_aware).value
        attention = Attention(weights, above, query_aware)
    steps.write_lists(columns, diagonals.flip(-1), attention, index)
    return index


def _steps(q: Tensor, backend: str) -> ModuleType:
    """Return the module whose functions compute the steps."""
    if resolve_backend(q, backend) == "triton":
        from fp_bench.kernels.flexprefill import triton as flex_triton

        return flex_triton
    from fp_bench.kernels.flexprefill import steps_torch as flex_torch

    return flex_torch


def _operand(x: Tensor, scale: float, official: bool) -> tuple[Tensor, float]:
    """Return queries as they are multiplied with keys, and the factor on the products."""
    return ((x.float() * scale).to(x.dtype), 1.0) if official else (x, scale)


def _query_aware(last: Tensor, factor: float, pooled: Tensor, foreseen: Tensor, rule: FlexRule) -> Tensor:
    """Return ``[batch, q_heads]`` bool: heads whose mean query predicts ``foreseen``, the mass of each key block."""
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
