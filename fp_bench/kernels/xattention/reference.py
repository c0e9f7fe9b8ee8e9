"""XAttention's selection in plain torch, float32: the definition that its kernels are tested against.

Symbols: a cell is ``stride`` consecutive tokens, x of queries and y of keys; a block holds ``block_size // stride``
cells (arXiv 2503.16428).
"""

import math

import torch
from torch import Tensor

from fp_bench.kernels.block_index import causal_blocks
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid


def antidiagonal_weights(
    q: Tensor, k: Tensor, *, stride: int, scale: float, block_size: int = BLOCK_SIZE, rounded: bool = False
) -> Tensor:
    """Return ``W[batch, q_heads, rows, key_blocks]`` float32: the estimated attention mass of each pair of blocks.

    ``s[x, y]`` sums ``q . k`` along the antidiagonal of the cells x and y, so that each query and each key of them is
    used once. The softmax of ``s * scale / stride`` over y <= x is summed over the cells of a query block and of a
    key block: a row of a whole query block sums to ``block_size // stride``. The diagonal cell is kept whole.
    Cells are cut at absolute multiples of ``stride``; tokens outside the call count as zero vectors, and cells
    without a query of the call have no weight.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        stride: tokens of a cell, a divisor of ``block_size``.
        scale: factor on the logits.
        block_size: tokens of a block.
        rounded: round scores and weights to Q's dtype, as the official kernels do by storing them so.
    """
    grid = BlockGrid(q.shape[1], k.shape[1], block_size)
    batch, _, q_heads, head_dim = q.shape
    cells = -(-grid.kv_len // stride)
    queries = q.new_zeros((batch, cells * stride, q_heads, head_dim), dtype=torch.float32)
    queries[:, grid.offset : grid.kv_len] = q
    keys = q.new_zeros((batch, cells * stride, q_heads, head_dim), dtype=torch.float32)
    keys[:, : grid.kv_len] = k.repeat_interleave(q_heads // k.shape[2], dim=2)
    query_cells = queries.view(batch, cells, stride, q_heads, head_dim).flip(2)
    key_cells = keys.view(batch, cells, stride, q_heads, head_dim)
    scores = torch.einsum("bxthd,bythd->bhxy", query_cells, key_cells)
    if rounded:
        scores = scores.to(q.dtype).float()
    cell = torch.arange(cells, device=q.device)
    scores = (scores * (scale / stride)).masked_fill(cell > cell[:, None], -math.inf)
    weights = scores.softmax(-1) * (cell >= grid.offset // stride)[:, None]
    of_block = cell * stride // block_size
    by_block = weights.new_zeros((batch, q_heads, grid.key_blocks, grid.key_blocks))
    for a in range(grid.key_blocks):
        rows = weights[:, :, of_block == a].sum(2)
        for c in range(grid.key_blocks):
            by_block[:, :, a, c] = rows[:, :, of_block == c].sum(-1)
    by_block = by_block[:, :, grid.first :]
    return by_block.to(q.dtype).float() if rounded else by_block


def cumulative_blocks(weights: Tensor, tau: Tensor, grid: BlockGrid, *, lagging: int = 0) -> Tensor:
    """Return ``[batch, q_heads, rows, key_blocks]``: the smallest set that holds ``tau`` of each row's mass.

    The first and the diagonal block are forced; then the others by decreasing weight, equal ones in ascending order,
    while the mass held is below ``tau`` times the row's.

    Args:
        weights: as `antidiagonal_weights` returns them.
        tau: ``[q_heads]``.
        grid: where the query blocks lie.
        lagging: query blocks at the start of the prompt for which the official block finder forgets the mass of the
            first block and looks at its running sum one pick too late; 0 is the intended rule.
    """
    kept = torch.zeros_like(weights, dtype=torch.bool)
    for b, head, row in torch.cartesian_prod(*map(torch.arange, weights.shape[:3])).tolist():
        a = grid.first + row
        mass = weights[b, head, row].double()
        need = float(tau[head]) * float(mass[: a + 1].sum())
        forced = {a} if a < lagging else {0, a}
        held = sum(float(mass[c]) for c in forced)
        others = sorted(set(range(a + 1)) - forced, key=lambda c: (-float(mass[c]), c))
        count = 0
        while count < len(others) and held < need:
            held += float(mass[others[count]])
            count += 1
        if a < lagging and need > 0:
            count += 1
        kept[b, head, row, [0, a, *others[:count]]] = True
    return kept & causal_blocks(grid, weights.device)
