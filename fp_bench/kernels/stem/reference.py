"""What Stem keeps, in plain torch, float32: the definition the selection is tested against (arXiv 2603.06274).

Symbols follow XAttention's: a cell is ``stride`` consecutive tokens, x of queries and y of keys.
"""

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid
from fp_bench.kernels.ranking import Need
from fp_bench.kernels.ranking.reference import best_blocks
from fp_bench.kernels.stem import LEAST, Budget


def value_bonus(v: Tensor, stride: int, *, block_size: int = BLOCK_SIZE) -> Tensor:
    """Return ``[batch, key_blocks, kv_heads]``: the mean over a block's cells of how far above the rest they stand.

    ``z[y]`` is the logarithm of the largest norm of a value in cell y, less the mean and over the deviation of those of
    the whole cells of the head; below 0 it counts as 0, as cells past the end do. With fewer than two, all is 0.
    """
    batch, kv_len, kv_heads, _ = v.shape
    cells, whole = -(-kv_len // stride), kv_len // stride
    per_block = block_size // stride
    bonus = torch.zeros((batch, -(-kv_len // block_size), kv_heads))
    for b in range(batch if whole > 1 else 0):
        for head in range(kv_heads):
            norms = v[b, :, head].float().norm(dim=-1)
            largest = torch.stack([norms[y * stride : (y + 1) * stride].max() for y in range(cells)])
            logs = (largest + LEAST).log()
            z = (logs - logs[:whole].mean()) / (logs[:whole].std() + LEAST)
            for y in range(cells):
                bonus[b, y // per_block, head] += z[y].clamp_min(0) / per_block
    return bonus


def block_scores(
    q: Tensor, k: Tensor, v: Tensor, *, stride: int, value_weight: float, scale: float, block_size: int = BLOCK_SIZE
) -> Tensor:
    """Return ``[batch, q_heads, rows, key_blocks]``: the mean score of the cells of two blocks, and the bonus of one.

    ``s[x, y]`` sums ``q . k`` along the antidiagonal of the cells x and y, times ``scale / stride``. Cells are cut at
    absolute multiples of ``stride``; tokens outside the call count as zero vectors. Nothing is masked within a block.
    """
    grid = BlockGrid(q.shape[1], k.shape[1], block_size)
    batch, _, q_heads, head_dim = q.shape
    per_block = block_size // stride
    tokens = grid.key_blocks * block_size
    queries = q.new_zeros((batch, tokens, q_heads, head_dim), dtype=torch.float32)
    queries[:, grid.offset : grid.kv_len] = q
    keys = q.new_zeros((batch, tokens, q_heads, head_dim), dtype=torch.float32)
    keys[:, : grid.kv_len] = k.repeat_interleave(q_heads // k.shape[2], dim=2)
    cells = (batch, grid.key_blocks * per_block, stride, q_heads, head_dim)
    scores = torch.einsum("bxthd,bythd->bhxy", queries.view(cells).flip(2), keys.view(cells)) * (scale / stride)
    pairs = scores.view(batch, q_heads, grid.key_blocks, per_block, grid.key_blocks, per_block)
    bonus = value_bonus(v, stride, block_size=block_size).repeat_interleave(q_heads // k.shape[2], dim=2)
    return pairs.mean((3, 5))[:, :, grid.first :] + value_weight * bonus.permute(0, 2, 1)[:, :, None]


def select_strided(
    q: Tensor, k: Tensor, v: Tensor, budget: Budget, *, stride: int, value_weight: float, scale: float,
    sink_blocks: int = 4, window_blocks: int = 4, block_size: int = BLOCK_SIZE,
) -> BlockIndex:  # fmt: skip
    """Return the best blocks of each row, as many as its budget, and the forced ones."""
    grid = BlockGrid(q.shape[1], k.shape[1], block_size)
    scores = block_scores(q, k, v, stride=stride, value_weight=value_weight, scale=scale, block_size=block_size)
    need = budget.of_rows(grid, "cpu")[None]
    forced = {"sink_blocks": sink_blocks, "window_blocks": window_blocks}
    mask = best_blocks(scores.flatten(0, 1)[None], need, Need.COUNT, grid, **forced)
    return BlockIndex.from_mask(mask.view(scores.shape), q.shape[1], k.shape[1], block_size)
