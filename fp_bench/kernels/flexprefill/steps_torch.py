"""The steps of `flexprefill` in plain torch; `flexprefill.triton` has the same functions."""

import math

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex, causal_blocks
from fp_bench.kernels.flexprefill.parts import Attention, Crossing


def crossing(values: Tensor, budget: float, active: Tensor | None) -> Crossing:
    """Return where each row of ``values [vectors, length]``, none negative, crosses ``budget``; all are computed."""
    del active
    ordered = values.double().sort(-1, descending=True).values
    within = ordered.cumsum(-1) <= budget
    at = within.sum(-1, keepdim=True)
    padded = torch.cat([ordered, ordered.new_zeros((len(ordered), 1))], -1)
    value = padded.gather(-1, at)
    above = ordered > value
    return Crossing(value[:, 0].float(), (ordered * above).sum(-1), above.sum(-1))


def block_attention(queries: Tensor, pooled: Tensor, factor: float, active: Tensor, rounded: bool) -> Tensor:
    """Return ``[batch, q_heads, blocks, blocks]``: causal softmax of mean queries on mean keys; all heads' here."""
    del active
    keys = pooled.float().repeat_interleave(queries.shape[2] // pooled.shape[2], dim=2)
    products = torch.einsum("bihd,bjhd->bhij", queries.float(), keys)
    if rounded:
        products = products.to(pooled.dtype).float()
    causal = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).tril()
    return (products * factor).masked_fill(~causal, -math.inf).softmax(-1)


def write_lists(columns: Tensor, diagonals: Tensor, attention: Attention | None, index: BlockIndex) -> None:
    """Fill ``index`` with the union of columns, diagonals and, for query-aware heads, single blocks.

    Args:
        columns: ``[batch, q_heads, blocks]`` bool.
        diagonals: the same, by how many blocks the key lies before the query.
        attention: single blocks; None for no head.
        index: to fill.
    """
    blocks = columns.shape[-1]
    a = torch.arange(blocks, device=columns.device)
    offset = (a[:, None] - a).clamp_min(0)
    kept = columns[:, :, None] | diagonals[..., offset]
    if attention is not None:
        above = attention.above.view(*attention.heads.shape, 1, 1)
        kept |= attention.heads[..., None, None] & ((attention.weights > above) | (above == 0))
    kept &= causal_blocks(index.grid, columns.device)
    index.blocks.copy_(torch.argsort(~kept, dim=-1, stable=True))
    index.counts.copy_(kept.sum(-1))
