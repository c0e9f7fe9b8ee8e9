"""The best blocks of each row by a sort, in plain torch."""

import math

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex, causal_blocks
from fp_bench.kernels.ranking import Need


def list_best_torch(
    scores: Tensor, need: Tensor, kind: Need, index: BlockIndex, lists: slice, sink_blocks: int, window_blocks: int
) -> None:
    """Fill lists as `ranking.list_best`."""
    grid = index.grid
    causal = causal_blocks(grid, scores.device)
    a = grid.diagonals(scores.device)[:, None]
    c = torch.arange(grid.key_blocks, device=scores.device)
    always = scores == math.inf
    ordered, order = scores.masked_fill(always | ~causal, -math.inf).sort(dim=-1, descending=True, stable=True)
    free = ordered > -math.inf
    weights = free.double()
    wanted = need[:, None, :, None].double()
    if kind is not Need.COUNT:
        weights = torch.exp2(ordered.double() - ordered[..., :1].clamp_min(-3e38)) * free
        wanted = wanted * weights.sum(-1, keepdim=True)
    held = weights.cumsum(-1)
    taken = (held <= wanted) | (c == 0) if kind is Need.SHARE_WITHIN else held - weights < wanted
    best = torch.zeros_like(taken).scatter_(-1, order, taken & free) | always
    forced = (c < sink_blocks) | (a - c < window_blocks)
    kept = (best.any(0) | forced) & causal
    index.blocks.flatten(0, 1)[lists] = torch.argsort(~kept, dim=-1, stable=True).to(torch.int16)
    index.counts.flatten(0, 1)[lists] = kept.sum(-1, dtype=torch.int32)
