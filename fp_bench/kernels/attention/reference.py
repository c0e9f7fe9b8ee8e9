"""Causal attention over a selection in plain torch, float32: the definition the kernels are tested against."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.pooling.means import BlockMeans
from fp_bench.kernels.selection import Selection


class AttentionRows(NamedTuple):
    """Attention of some queries: ``out [batch, rows, q_heads, head_dim]`` and ``lse [batch, q_heads, rows]``, float32.

    ``lse`` is the natural logarithm of the softmax denominator, -inf where nothing is read. The share of dense
    attention mass that a selection covers (its recall) is ``exp(lse_selected - lse_dense)``.
    """

    out: Tensor
    lse: Tensor


def attention_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    rows: Tensor,
    index: Selection | None = None,
    means: BlockMeans | None = None,
) -> AttentionRows:
    """Return `attention_at` of the queries ``rows``, numbers in ``[0, q_len)``, int64; q is ``[batch, q_len, ...]``."""
    rows = rows.to(q.device)
    position = rows + k.shape[1] - q.shape[1]
    return attention_at(q[:, rows], k, v, scale=scale, position=position, index=index, means=means)


def attention_at(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    position: Tensor,
    index: Selection | None = None,
    means: BlockMeans | None = None,
) -> AttentionRows:
    """Return exact causal attention of queries at some positions over the keys of ``index`` (None: over all).

    With ``means``, each block before a query's own that ``index``, a BlockIndex, does not list counts as
    ``block_size`` copies of its mean key, with its mean value (FlashPrefill V2, zero-order correction).

    It computes one head at a time on Q's device, so that a few rows of a 256K call fit next to its tensors.

    Args:
        q: ``[batch, rows, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``; may be on another device.
        v: as ``k``.
        scale: factor on the logits.
        position: of each query among the keys, ``[rows]`` int64.
        index: the keys that each query reads.
        means: of the key blocks.
    """
    batch, _, q_heads, _ = q.shape
    kv_len, kv_heads = k.shape[1], k.shape[2]
    group = q_heads // kv_heads
    visible = torch.arange(kv_len, device=q.device) <= position[:, None]
    out = torch.empty((batch, len(position), q_heads, v.shape[3]), dtype=torch.float32, device=q.device)
    lse = torch.empty((batch, q_heads, len(position)), dtype=torch.float32, device=q.device)
    for b in range(batch):
        for kv_head in range(kv_heads):
            keys, values = (tensor[b, :, kv_head].to(q.device, torch.float32) for tensor in (k, v))
            for head in range(kv_head * group, (kv_head + 1) * group):
                queries = q[b, :, head].float()
                logits = queries @ keys.T * scale
                read = visible if index is None else visible & index.keys_read(b, head, position)
                logits = logits.masked_fill(~read, -math.inf)
                if means is None:
                    with_means = values
                else:
                    assert isinstance(index, BlockIndex)
                    size = index.block_size
                    of_means = queries @ means.k[b, :, kv_head].float().T * scale + math.log(size)
                    block = torch.arange(means.k.shape[1], device=q.device)
                    pruned = (block < (position // size)[:, None]) & ~read[:, ::size] & read.any(1, keepdim=True)
                    logits = torch.cat([logits, of_means.masked_fill(~pruned, -math.inf)], 1)
                    with_means = torch.cat([values, means.v[b, :, kv_head].float()])
                lse[b, head] = logits.logsumexp(-1)
                # A row that reads nothing has output 0.
                weights = torch.exp(logits - lse[b, head, :, None].clamp_min(-3e38))
                out[b, :, head] = weights @ with_means
    return AttentionRows(out, lse)


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float, index: Selection | None = None, means: BlockMeans | None = None
) -> AttentionRows:
    """Return exact causal attention of every query: `attention_rows` with all rows."""
    return attention_rows(q, k, v, scale=scale, rows=torch.arange(q.shape[1]), index=index, means=means)


def sample_rows(q_len: int, seed: int, count: int = 128) -> Tensor:
    """Return ascending query numbers: the first, the last, and one at random of each of ``count`` equal stretches."""
    if q_len <= count:
        return torch.arange(q_len)
    edges = torch.linspace(0, q_len, count + 1, dtype=torch.float64)
    chance = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    stretches = (edges[:-1] + chance * edges.diff()).long()
    return torch.tensor(sorted({0, q_len - 1, *stretches.clamp_max(q_len - 1).tolist()}))
