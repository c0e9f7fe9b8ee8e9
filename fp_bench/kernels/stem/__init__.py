"""Stem's selection: antidiagonal scores averaged over blocks, a bonus for large values, a budget that falls by row.

The score of two cells sums ``q . k`` along their antidiagonal. Scores are averaged over the pairs of cells of two
blocks, without exponentials. So the mean over all pairs is one product of means by place in a cell: ``stride *
head_dim`` multiply-adds for each pair of blocks. Scoring cell by cell takes ``(block / stride) ** 2`` times as many
(arXiv 2603.06274).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid, check_scale
from fp_bench.kernels.pooling import pool_cells
from fp_bench.kernels.ranking import Need, heads_at_once, list_best

LEAST = 1e-6
"""Added to norms before their logarithm, and to the deviation of these before it divides."""


@dataclass(frozen=True)
class Budget:
    """How many blocks a row keeps by score: all of short prompts, and a share of long ones that falls along the rows.

    Of N blocks a row has ``k``: N of them below `FULL_BELOW`, ``N / 5 + 30`` below `BLENDED_BELOW`, ``N / 10 + 30``
    from there on, each times ``factor``. The rows from k on have less and less, down to ``k * decay`` at the end.

    Args:
        factor: on the published budgets, above 0.
        decay: of the budget at the prompt's end, above 0 and at most 1.

    Raises:
        UnsupportedError: the value and its limit.
    """

    factor: float = 1.0
    decay: float = 0.7

    FULL_BELOW = 56
    BLENDED_BELOW = 160

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise UnsupportedError(f"factor {self.factor} on the budgets must be finite and above 0")
        if not 0 < self.decay <= 1:
            raise UnsupportedError(f"decay {self.decay} must be above 0 and at most 1")

    def first(self, blocks: int) -> int:
        """Return the budget of the first rows of a prompt of so many blocks."""
        if blocks < self.FULL_BELOW:
            published = blocks
        elif blocks < self.BLENDED_BELOW:
            published = int(blocks * 0.2 + 30)
        else:
            published = int(blocks * 0.1) + 30
        return min(max(int(published * self.factor), 1), blocks)

    def of_rows(self, grid: BlockGrid, device: torch.device | str) -> Tensor:
        """Return the budgets of a call's rows, ``[rows]`` float32."""
        blocks = grid.key_blocks
        first = self.first(blocks)
        falling = torch.linspace(first, first * self.decay, blocks - first, dtype=torch.float64, device=device)
        falling = falling.floor().clamp(1, first).float()
        return torch.cat([falling.new_full((first,), first), falling])[grid.first :]


def value_bonus(v: Tensor, stride: int, *, block_size: int = BLOCK_SIZE) -> Tensor:
    """Return what large values add to a block's score, before any weight, ``[batch, key_blocks, kv_heads]`` float32.

    Defined by `reference.value_bonus`.
    """
    batch, kv_len, kv_heads, _ = v.shape
    blocks = -(-kv_len // block_size)
    whole = kv_len // stride
    if whole < 2:  # no deviation
        return v.new_zeros((batch, blocks, kv_heads), dtype=torch.float32)
    norms = torch.linalg.vector_norm(v, dim=-1, dtype=torch.float32)
    padded = torch.nn.functional.pad(norms, (0, 0, 0, blocks * block_size - kv_len))
    cells = (padded.view(batch, -1, stride, kv_heads).amax(2) + LEAST).log()
    mean, deviation = cells[:, :whole].mean(1, keepdim=True), cells[:, :whole].std(1, keepdim=True)
    return ((cells - mean) / (deviation + LEAST)).relu().view(batch, blocks, -1, kv_heads).mean(2)


def select_strided(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    budget: Budget,
    *,
    stride: int,
    value_weight: float,
    scale: float,
    sink_blocks: int = 4,
    window_blocks: int = 4,
    block_size: int = BLOCK_SIZE,
    backend: str = "auto",
) -> BlockIndex:
    """Return the key blocks that Stem keeps for each query block of each query head.

    Defined by `reference.select_strided`. Products of means are float32 matrix products; no sort on GPUs, no host sync.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        k: ``[batch, kv_len, kv_heads, head_dim]``.
        v: as ``k``.
        budget: how many blocks a row keeps.
        stride: tokens of a cell, a power of two and a divisor of ``block_size``.
        value_weight: of `value_bonus`.
        scale: factor on the logits, positive.
        sink_blocks: key blocks at the start that every row keeps.
        window_blocks: key blocks up to and including the diagonal that are kept.
        block_size: tokens of a block.
        backend: ``auto``, ``triton`` or ``torch``; ``hopper`` runs the Triton kernels here.

    Raises:
        UnsupportedError: a stride or scale outside its limits, or more key blocks than a list can name.
    """
    check_scale(scale)
    if stride < 1 or block_size % stride or stride & (stride - 1):
        raise UnsupportedError(f"stride {stride} is not a power of two that divides the block of {block_size} tokens")
    grid = BlockGrid(q.shape[1], k.shape[1], block_size)
    batch, q_heads = q.shape[0], q.shape[2]
    kv_heads, group = k.shape[2], q_heads // k.shape[2]
    kernels = resolve_backend(q, backend)
    before = grid.offset - grid.first * block_size
    # Each query of a cell meets the key at its mirrored place: [batch * heads, blocks, stride * head_dim].
    queries = pool_cells(q, stride, before=before, block_size=block_size, backend=kernels).flip(3)
    queries = queries.flatten(3).transpose(1, 2).reshape(batch * kv_heads, group * grid.rows, -1)
    keys = pool_cells(k, stride, block_size=block_size, backend=kernels)
    keys = keys.flatten(3).transpose(1, 2).flatten(0, 1)
    bonus = value_weight * value_bonus(v, stride, block_size=block_size).transpose(1, 2).flatten(0, 1)[:, None]
    index = BlockIndex.empty(batch, q_heads, grid, q.device)
    need = budget.of_rows(grid, q.device)[None]
    step = heads_at_once(group * grid.rows * grid.key_blocks, batch * kv_heads)
    for start in step:
        some = slice(start, min(start + step.step, batch * kv_heads))
        scores = torch.baddbmm(bonus[some], queries[some].float(), keys[some].float().mT, alpha=scale / stride)
        list_best(
            scores.view(1, -1, grid.rows, grid.key_blocks), need, Need.COUNT, index,
            slice(start * group, some.stop * group),
            sink_blocks=sink_blocks, window_blocks=window_blocks, backend=kernels,
        )  # fmt: skip
    return index
