"""Every operator again in plain torch, float32, no blocks skipped: the definition all others are tested against.

Symbols follow docs: query block a, key block c, position i; energies are base 2 and relative to the row's maximum.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E, BlockGrid
from fp_bench.kernels.means import BlockMeans
from fp_bench.kernels.rule import KeepRule
from fp_bench.kernels.selection import Selection


def pool_keys(k: Tensor, block_size: int = BLOCK_SIZE) -> Tensor:
    """Return the mean key of each block, ``[batch, key_blocks, kv_heads, head_dim]`` in K's dtype.

    Accumulated in float32 and rounded once; a partial last block is divided by its real length
    (FlashPrefill, arXiv 2603.06199, key pooling).
    """
    blocks = [block.float().mean(1) for block in torch.split(k, block_size, dim=1)]
    return torch.stack(blocks, dim=1).to(k.dtype)


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
    """Return exact causal attention of the queries ``rows`` over the keys of ``index`` (None: over all).

    With ``means`` each block before a query's own that ``index``, a BlockIndex, does not list takes part as
    ``block_size`` keys that are all its mean key, with its mean value (FlashPrefill V2, zero-order correction).

    Works head by head, so that a few rows of a 256K call fit beside its tensors.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        v: as ``k``.
        scale: factor on the logits.
        rows: query numbers in ``[0, q_len)``, int64.
        index: the keys that each query reads.
        means: of the key blocks.
    """
    batch, q_len, q_heads, _ = q.shape
    kv_len, kv_heads = k.shape[1], k.shape[2]
    group = q_heads // kv_heads
    rows = rows.to(q.device)
    position = rows + kv_len - q_len
    visible = torch.arange(kv_len, device=q.device) <= position[:, None]
    out = torch.empty((batch, len(rows), q_heads, v.shape[3]), dtype=torch.float32, device=q.device)
    lse = torch.empty((batch, q_heads, len(rows)), dtype=torch.float32, device=q.device)
    for b in range(batch):
        for kv_head in range(kv_heads):
            keys, values = k[b, :, kv_head].float(), v[b, :, kv_head].float()
            for head in range(kv_head * group, (kv_head + 1) * group):
                logits = q[b, rows, head].float() @ keys.T * scale
                read = visible if index is None else visible & index.keys_read(b, head, position)
                logits = logits.masked_fill(~read, -math.inf)
                if means is None:
                    with_means = values
                else:
                    assert isinstance(index, BlockIndex)
                    size = index.block_size
                    of_means = q[b, rows, head].float() @ means.k[b, :, kv_head].float().T * scale + math.log(size)
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
