"""CoSA's selection in plain torch, float32: the definition that the kernels are tested against.

Symbols: a cell is ``stride`` consecutive tokens, x of queries and y of keys (arXiv 2607.25291 and its code).
"""

import math

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid

NEARLY = 0.999


def peaks(q: Tensor, k: Tensor, *, stride: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return the mass of each pair of blocks, and whether a query cell has its largest score there.

    Both are ``[batch, q_heads, rows, key_blocks]``, float32 and bool. ``s[x, y]`` sums ``q . k`` along the antidiagonal
    of two cells, times ``scale / stride``. A cell x gives a key block ``exp(max_y s[x, y] - max s[x])``, the first
    maximum over the block's cells y <= x, the second over all of them. The mass of a query block sums what its cells
    give. A cell has its largest score where it gives at least 0.999. Cells without a query of the call give nothing;
    tokens outside the call count as zero vectors.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        stride: tokens of a cell, a divisor of the block.
        scale: factor on the logits.
    """
    grid = BlockGrid(q.shape[1], k.shape[1])
    batch, _, q_heads, head_dim = q.shape
    mass = torch.zeros((batch, q_heads, grid.rows, grid.key_blocks), device=q.device)
    leads = torch.zeros_like(mass, dtype=torch.bool)
    cells = -(-grid.kv_len // stride)
    block = torch.arange(cells, device=q.device) * stride // BLOCK_SIZE
    for b in range(batch):
        for head in range(q_heads):
            queries, keys = q.new_zeros((2, cells * stride, head_dim), dtype=torch.float32)
            queries[grid.offset : grid.kv_len] = q[b, :, head]
            keys[: grid.kv_len] = k[b, :, head * k.shape[2] // q_heads]
            mirrored = queries.view(cells, stride, head_dim).flip(1).flatten(1)
            scores = mirrored @ keys.view(cells, stride * head_dim).T * (scale / stride)
            for x in range(grid.offset // stride, cells):
                row = int(block[x]) - grid.first
                for c in range(int(block[x]) + 1):
                    of_block = scores[x, : x + 1][block[: x + 1] == c]
                    given = torch.exp(of_block.max() - scores[x, : x + 1].max())
                    mass[b, head, row, c] += given
                    leads[b, head, row, c] |= given >= NEARLY
    return mass, leads


def select_covering(q: Tensor, k: Tensor, coverage: float, *, stride: int, scale: float) -> BlockIndex:
    """Return the blocks taken while those before hold less than ``coverage`` of a row's mass; at 1 all of them.

    The first block and the diagonal one are taken in any case. Then come the blocks that hold a cell's largest score,
    then the others, both by decreasing mass, and equal ones in ascending order.
    """
    mass, leads = peaks(q, k, stride=stride, scale=scale)
    return BlockIndex.from_mask(
        covering(mass, leads, coverage, BlockGrid(q.shape[1], k.shape[1])), q.shape[1], k.shape[1]
    )


def covering(mass: Tensor, leads: Tensor, coverage: float, grid: BlockGrid) -> Tensor:
    """Return which blocks `select_covering` takes, ``[batch, q_heads, rows, key_blocks]`` bool."""
    kept = torch.zeros_like(leads)
    for b, head, row in torch.cartesian_prod(*map(torch.arange, mass.shape[:3])).tolist():
        a = grid.first + row
        of_row = mass[b, head, row].double()
        need = math.inf if coverage == 1 else coverage * float(of_row[: a + 1].sum())
        order = sorted(range(a + 1), key=lambda c: (c not in (0, a), not leads[b, head, row, c], -float(of_row[c]), c))
        held = 0.0
        for c in order:
            if held < need or c in (0, a):
                kept[b, head, row, c] = True
            held += float(of_row[c])
    return kept
