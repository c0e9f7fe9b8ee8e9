"""SpargeAttn's selection: predicts blocks of similar tokens from their means, and keeps all other blocks.

(arXiv 2502.18137)
"""

import torch
from torch import Tensor

from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BLOCK_SIZE, LOG2E, BlockGrid, check_scale
from fp_bench.kernels.pooling import block_likeness, pool_cells
from fp_bench.kernels.ranking import Need, heads_at_once, list_best


def select_alike(
    q: Tensor,
    k: Tensor,
    need: float,
    kind: Need,
    *,
    likeness: float,
    scale: float,
    centred: bool = True,
    sink_blocks: int = 0,
    window_blocks: int = 0,
    block_size: int = BLOCK_SIZE,
    backend: str = "auto",
) -> BlockIndex:
    """Return the key blocks that SpargeAttn keeps for each query block of each query head.

    Defined by `reference.select_alike`. Products of means are float32 matrix products; no sort on GPUs, no host sync.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        need: mass that the best of the predicted blocks hold, or their number.
        kind: the unit of the need.
        likeness: a block is predicted if the mean pairwise cosine of its tokens is above this.
        scale: factor on the logits, positive.
        centred: whether the mean of all keys is taken off them before they are compared.
        sink_blocks: key blocks at the start that every row keeps.
        window_blocks: key blocks up to and including the diagonal that are kept.
        block_size: tokens of a block.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernels here.

    Raises:
        UnsupportedError: a scale that is not positive, or more key blocks than a list can name.
    """
    check_scale(scale)
    grid = BlockGrid(q.shape[1], k.shape[1], block_size)
    batch, q_heads = q.shape[0], q.shape[2]
    kv_heads, group = k.shape[2], q_heads // k.shape[2]
    kernels = resolve_backend(q, backend)
    before = grid.offset - grid.first * block_size
    queries = pool_cells(q, before=before, block_size=block_size, backend=kernels)[..., 0, :].float()
    keys = pool_cells(k, block_size=block_size, backend=kernels)[..., 0, :].float()
    mean = keys.sum(1) * (block_size / grid.kv_len) if centred else None
    alike_q = block_likeness(q, before=before, block_size=block_size, backend=kernels) > likeness
    alike_k = block_likeness(k, mean, block_size=block_size, backend=kernels) > likeness
    # [batch * kv_heads, ...], query heads of a KV head one after the other
    of_q = (queries.transpose(1, 2) * (scale * LOG2E)).reshape(batch * kv_heads, group * grid.rows, -1)
    of_k = keys.transpose(1, 2).flatten(0, 1).mT
    always_q = ~alike_q.transpose(1, 2).reshape(batch * kv_heads, group * grid.rows, 1)
    always_k = ~alike_k.transpose(1, 2).flatten(0, 1)[:, None]
    index = BlockIndex.empty(batch, q_heads, grid, q.device)
    needs = torch.full((1, grid.rows), need, dtype=torch.float32, device=q.device)
    step = heads_at_once(group * grid.rows * grid.key_blocks, batch * kv_heads)
    for start in step:
        some = slice(start, min(start + step.step, batch * kv_heads))
        scores = torch.bmm(of_q[some], of_k[some])
        scores.masked_fill_(always_q[some] | always_k[some], float("inf"))
        list_best(
            scores.view(1, -1, grid.rows, grid.key_blocks), needs, kind, index,
            slice(start * group, some.stop * group),
            sink_blocks=sink_blocks, window_blocks=window_blocks, backend=kernels,
        )  # fmt: skip
    return index
