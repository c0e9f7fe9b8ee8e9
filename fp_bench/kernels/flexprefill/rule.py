"""FlexPrefill's rule for keeping blocks."""

import math
from dataclasses import dataclass

from fp_bench.errors import UnsupportedError


@dataclass(frozen=True)
class FlexRule:
    """How much attention mass to cover, and how a head's kind is decided.

    Args:
        gamma: share of the attention mass to cover, in (0, 1].
        tau: heads whose divergence is below this are query-aware; 0 makes none so.
        min_budget: fewest tokens of columns and of slash diagonals, at least 1.
        max_budget: most tokens of each, or None.
        official: round as the official code does (scaled queries, means and logits in Q's dtype), and let a block
            without any mass make its head vertical-slash, as the official nan does.

    Raises:
        UnsupportedError: the value and its limit.
    """

    gamma: float
    tau: float = 0.1
    min_budget: int = 1
    max_budget: int | None = None
    official: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise UnsupportedError(f"gamma {self.gamma} must be in (0, 1]")
        if not (math.isfinite(self.tau) and self.tau >= 0):
            raise UnsupportedError(f"tau {self.tau} must be finite and at least 0")
        if self.min_budget < 1 or (self.max_budget is not None and self.max_budget < self.min_budget):
            raise UnsupportedError(
                f"min_budget {self.min_budget} must be at least 1, max_budget {self.max_budget} no less than it"
            )

    def budget_blocks(self, blocks: int, block_size: int) -> tuple[int, int]:
        """Return the fewest and the most blocks of columns and of diagonals, for a call of ``blocks`` key blocks."""
        low = -(-self.min_budget // block_size)
        high = blocks if self.max_budget is None else min(-(-self.max_budget // block_size), blocks)
        return low, high

    def dense_below(self, block_size: int) -> int:
        """Return the longest call, in tokens, that is attended to densely."""
        return max(2 * block_size, -(-self.min_budget // block_size) * block_size)
