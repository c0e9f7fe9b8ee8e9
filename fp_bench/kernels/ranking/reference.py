"""The best blocks of each row in plain Python: the definition that the kernels are tested against."""

import math

import torch
from torch import Tensor

from fp_bench.kernels.block_index import causal_blocks
from fp_bench.kernels.layout import BlockGrid
from fp_bench.kernels.ranking import Need


def best_blocks(
    scores: Tensor, need: Tensor, kind: Need, grid: BlockGrid, *, sink_blocks: int = 0, window_blocks: int = 0
) -> Tensor:
    """Return ``[lists, rows, key_blocks]`` bool: what `list_best` lists, whose arguments these are.

    For each band of a row the blocks are taken by descending score, equal ones in ascending order: while fewer than
    the need were taken (COUNT), while those before hold less than it (SHARE), or while they hold no more than it
    together with the block (SHARE_WITHIN; the first is always taken).
    """
    bands, lists, rows, blocks = scores.shape
    kept = torch.zeros((lists, rows, blocks), dtype=torch.bool)
    for number, row in torch.cartesian_prod(torch.arange(lists), torch.arange(rows)).tolist():
        a = grid.first + row
        for band in range(bands):
            of_row = scores[band, number, row, : a + 1].tolist()
            wanted = float(need[band, row])
            free = sorted((c for c in range(a + 1) if math.isfinite(of_row[c])), key=lambda c: (-of_row[c], c))
            weights = [1.0 if kind is Need.COUNT else 2.0 ** (of_row[c] - of_row[free[0]]) for c in free]
            wanted *= 1.0 if kind is Need.COUNT else sum(weights)
            held = 0.0
            for place, (c, weight) in enumerate(zip(free, weights, strict=True)):
                first = kind is Need.SHARE_WITHIN and place == 0
                if not first and not (held + weight <= wanted if kind is Need.SHARE_WITHIN else held < wanted):
                    break
                kept[number, row, c] = True
                held += weight
            kept[number, row, [c for c in range(a + 1) if of_row[c] == math.inf]] = True
        kept[number, row, :sink_blocks] = True
        kept[number, row, max(a + 1 - window_blocks, 0) : a + 1] = True
    return kept & causal_blocks(grid)
