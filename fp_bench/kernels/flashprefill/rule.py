"""FlashPrefill's rule for keeping blocks: a threshold relative to the row's maximum, and forced blocks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError
from fp_bench.kernels.block_index import causal_blocks
from fp_bench.kernels.layout import BlockGrid


@dataclass(frozen=True)
class KeepRule:
    """Keep a causal block when its energy is at least ``alpha`` times its row's largest, or when it is forced.

    Args:
        alpha: threshold, at least 0; 0 keeps every block, above 1 only the forced ones.
        sink_blocks: key blocks at the start that every query block keeps.
        window_blocks: key blocks up to and including the diagonal that are kept.
        last_full_blocks: rows of tiles (query blocks, or packed rows) at the end of the sequence that keep everything.

    Raises:
        UnsupportedError: the value and its limit.
    """

    alpha: float
    sink_blocks: int = 2
    window_blocks: int = 4
    last_full_blocks: int = 2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise UnsupportedError(f"alpha {self.alpha} must be finite and at least 0")
        for name in ("sink_blocks", "window_blocks", "last_full_blocks"):
            if getattr(self, name) < 0:
                raise UnsupportedError(f"{name} {getattr(self, name)} must be at least 0")

    @property
    def log2_alpha(self) -> float:
        """The threshold as it is compared in the log domain; -inf for alpha 0."""
        return math.log2(self.alpha) if self.alpha > 0 else -math.inf

    def forced(self, grid: BlockGrid, device: torch.device | str = "cpu") -> Tensor:
        """Return ``[rows, key_blocks]``: the causal blocks kept whatever their energy."""
        a = grid.diagonals(device)[:, None]
        c = torch.arange(grid.key_blocks, device=device)
        full_rows = torch.arange(grid.rows, device=device)[:, None] >= grid.rows - self.last_full_blocks
        forced = (c < self.sink_blocks) | (a - c < self.window_blocks) | full_rows
        return forced & causal_blocks(grid, device)
