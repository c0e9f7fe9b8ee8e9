"""Top-k and top-p over FlashPrefill's energies, to compare with its threshold.

They rank the key blocks of a query block, so PyTorch sorts every row; the threshold needs no sort. The energies come
from the same kernel, so that the rules differ in nothing else.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.backend import resolve_backend
from fp_bench.kernels.block_index import BlockIndex, causal_blocks
from fp_bench.kernels.flashprefill import log2_energies_torch
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.layout import BLOCK_SIZE, BlockGrid, check_scale
from fp_bench.kernels.ranking import heads_at_once

ROUNDING = 1e-9
"""Below a whole number by this, a count is that number: 0.1 of 30 blocks is 3."""


@dataclass(frozen=True)
class _Share:
    """A share of something to keep.

    Raises:
        UnsupportedError: a share outside 0 to 1.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UnsupportedError(f"share {self.share} of the blocks to keep is out of limits: 0 to 1")


class TopK(_Share):
    """Keep this share of a row's causal blocks, those of the largest energies; the count is rounded up."""

    def kept_of_sorted(self, energies: Tensor, grid: BlockGrid) -> Tensor:
        """Return which places of descending log2 energies are kept, ``[..., rows, key_blocks]`` bool."""
        causal = torch.arange(grid.first + 1, grid.key_blocks + 1, device=energies.device, dtype=torch.float64)
        counts = torch.ceil(causal * self.share - ROUNDING)
        kept = torch.arange(grid.key_blocks, device=energies.device) < counts[:, None]
        return kept.expand(energies.shape)


class TopP(_Share):
    """Keep the fewest blocks of a row that hold this share of its energy."""

    def kept_of_sorted(self, energies: Tensor, grid: BlockGrid) -> Tensor:
        """Return which places of descending log2 energies are kept, ``[..., rows, key_blocks]`` bool."""
        del grid
        # A row that sees no block whole has energies of -inf, and keeps none.
        weights = torch.exp2(energies - energies[..., :1].clamp_min(-3e38))
        before = weights.cumsum(-1) - weights
        return before < self.share * weights.sum(-1, keepdim=True)


def select_ranked(
    q: Tensor,
    pooled: Tensor,
    ranking: TopK | TopP,
    forced: KeepRule,
    *,
    kv_len: int,
    scale: float,
    block_size: int = BLOCK_SIZE,
    backend: str = "auto",
) -> BlockIndex:
    """Return the key blocks that a ranking keeps, and those that ``forced`` keeps whatever their energy.

    Defined by `reference.select_top_k` and `reference.select_top_p`. No host sync.

    Args:
        q: ``[batch, q_len, q_heads, head_dim]``.
        pooled: ``[batch, key_blocks, kv_heads, head_dim]``, from `pool_keys`.
        ranking: what to keep of the ranked blocks.
        forced: its sink, window and last blocks are kept too; its alpha is not used.
        kv_len: keys of the sequence; query i has position ``kv_len - q_len + i``.
        scale: factor on the logits, positive.
        block_size: tokens of a query block and of a key block.
        backend: ``auto``, ``triton`` or ``torch``, for the energies; ``hopper`` runs the Triton kernel here.

    Raises:
        UnsupportedError: a scale that is not positive, or more key blocks than a list can name.
    """
    check_scale(scale)
    grid = BlockGrid(q.shape[1], kv_len, block_size)
    index = BlockIndex.empty(q.shape[0], q.shape[2], grid, q.device)
    always, causal = forced.forced(grid, q.device), causal_blocks(grid, q.device)
    kv_heads = pooled.shape[2]
    group = q.shape[2] // kv_heads
    parts = heads_at_once(q.shape[0] * group * causal.numel(), kv_heads)
    for head in parts:
        heads = slice(head * group, (head + parts.step) * group)
        pairs = log2_energies(q[:, :, heads], pooled[:, :, head : head + parts.step], grid, scale, backend)
        energies, order = pairs.sort(dim=-1, descending=True, stable=True)
        kept = ranking.kept_of_sorted(energies, grid)
        mask = torch.zeros_like(kept).scatter_(-1, order, kept)
        _fill(index.blocks[:, heads], index.counts[:, heads], (mask | always) & causal)
    return index


def log2_energies(q: Tensor, pooled: Tensor, grid: BlockGrid, scale: float, backend: str = "auto") -> Tensor:
    """Return log2 of `reference.block_energies`, ``[batch, q_heads, rows, key_blocks]`` float32; -inf for none."""
    if resolve_backend(q, backend) == "triton":
        from fp_bench.kernels.flashprefill.energies_triton import log2_energies_triton

        return log2_energies_triton(q, pooled, grid, scale)
    return log2_energies_torch(q, pooled, grid, scale)


def _fill(lists: Tensor, counts: Tensor, mask: Tensor) -> None:
    """List the blocks of a mask in ascending order at their prefix sums, so that listing costs no second sort."""
    before = mask.cumsum(-1)
    count = before[..., -1:]
    dropped = torch.arange(mask.shape[-1], device=mask.device) - before
    place = torch.where(mask, before - 1, count + dropped)
    blocks = torch.arange(mask.shape[-1], device=mask.device, dtype=torch.int16).expand(mask.shape)
    lists.scatter_(-1, place, blocks)
    counts.copy_(count[..., 0])
