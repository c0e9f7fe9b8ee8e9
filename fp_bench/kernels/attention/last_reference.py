"""Attention of the last queries in plain torch, float32: the definition that `attention.last` is tested against.

With ``rounded``, scaled queries and logits are rounded to the dtype of Q, as in the official code of FlexPrefill.
"""

import math

import torch
from torch import Tensor

from fp_bench.kernels.layout import BLOCK_SIZE


def last_attention(
    q: Tensor, k: Tensor, *, scale: float, block_size: int = BLOCK_SIZE, rounded: bool = False
) -> tuple[Tensor, Tensor]:
    """Return ``(vertical, slash)``, each ``[batch, q_heads, kv_len]``: attention of the last ``block_size`` queries.

    ``vertical[j]`` is the mean over these queries of the mass on key j; ``slash[c]`` the mean of the mass on the key
    ``kv_len - 1 - c`` tokens before the query, so the last entry is the main diagonal. Each sums to 1.
    """
    queries = scaled(q[:, -block_size:], scale, rounded)
    keys = k.float().repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    logits = round_as(torch.einsum("bihd,bjhd->bhij", queries, keys), q.dtype, rounded)
    kv_len = k.shape[1]
    position = torch.arange(kv_len - block_size, kv_len, device=q.device)
    future = torch.arange(kv_len, device=q.device) > position[:, None]
    weights = logits.masked_fill(future, -math.inf).softmax(-1)
    slash = torch.zeros_like(weights[:, :, 0])
    for row in range(block_size):
        before_last = block_size - 1 - row
        slash[..., before_last:] += weights[:, :, row, : kv_len - before_last]
    return weights.mean(2), slash / block_size


def scaled(x: Tensor, scale: float, rounded: bool) -> Tensor:
    """Return ``x * scale`` in float32, rounded to the dtype of ``x`` if ``rounded``."""
    return round_as(x.float() * scale, x.dtype, rounded)


def round_as(x: Tensor, dtype: torch.dtype, rounded: bool) -> Tensor:
    """Return ``x`` in float32, rounded to ``dtype`` on the way if ``rounded``."""
    return x.to(dtype).float() if rounded else x
