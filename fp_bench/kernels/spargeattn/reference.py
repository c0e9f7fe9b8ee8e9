"""What SpargeAttn keeps, in plain torch, float32: the definition the selection is tested against (arXiv 2502.18137)."""

import math

import torch
from torch import Tensor

from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E, BlockGrid
from fp_bench.kernels.pooling.reference import block_likeness, pool_cells
from fp_bench.kernels.ranking import Need
from fp_bench.kernels.ranking.reference import best_blocks


def select_alike(
    q: Tensor, k: Tensor, need: float, kind: Need, *, likeness: float, scale: float, centred: bool = True,
    sink_blocks: int = 0, window_blocks: int = 0, block_size: int = BLOCK_SIZE,
) -> BlockIndex:  # fmt: skip
    """Return what `spargeattn.select_alike` does, whose arguments these are.

    A query block with unlike tokens keeps every block, and every query block keeps a key block with unlike tokens. The
    other pairs are scored by the product of their means; the best are kept.
    """
    grid = BlockGrid(q.shape[1], k.shape[1], block_size)
    batch, q_heads = q.shape[0], q.shape[2]
    before = grid.offset - grid.first * block_size
    queries = pool_cells(q, 1, before=before, block_size=block_size)[..., 0, :].float()
    keys = pool_cells(k, 1, block_size=block_size)[..., 0, :].float()
    mean = keys.sum(1) * block_size / grid.kv_len if centred else None
    alike_q = block_likeness(q, before=before, block_size=block_size) > likeness
    alike_k = block_likeness(k, mean, block_size=block_size) > likeness
    scores = torch.empty((batch, q_heads, grid.rows, grid.key_blocks))
    for b in range(batch):
        for head in range(q_heads):
            kv_head = head // (q_heads // k.shape[2])
            foretold = alike_q[b, :, head, None] & alike_k[b, :, kv_head]
            products = queries[b, :, head] @ keys[b, :, kv_head].T * (scale * LOG2E)
            scores[b, head] = products.masked_fill(~foretold, math.inf)
    needs = torch.full((1, grid.rows), need)
    forced = {"sink_blocks": sink_blocks, "window_blocks": window_blocks}
    mask = best_blocks(scores.flatten(0, 1)[None], needs, kind, grid, **forced)
    return BlockIndex.from_mask(mask.view(scores.shape), q.shape[1], k.shape[1], block_size)
