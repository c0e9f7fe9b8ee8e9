"""Results that the steps of FlexPrefill's selection pass to each other."""

from typing import NamedTuple

from torch import Tensor


class Crossing(NamedTuple):
    """Where the prefix sums of a vector, sorted descending, first exceed a budget; one entry a vector."""

    value: Tensor
    """The value that crosses, float32; 0 where the whole sum is within the budget."""
    mass: Tensor
    """Sum of the values above it."""
    entries: Tensor
    """How many are above it, int64."""

    def fitting(self, budget: float) -> Tensor:
        """Return how many prefix sums are within the budget, int64; meaningless where the whole sum is."""
        return self.entries + ((budget - self.mass) / self.value.clamp_min(1e-38)).floor().clamp(0, 2**31).long()


class Attention(NamedTuple):
    """Of query-aware heads: the mass of each pair of blocks, and the value above which one is kept."""

    weights: Tensor
    """``[batch, q_heads, blocks, blocks]`` float32; undefined for other heads."""
    above: Tensor
    """``[batch * q_heads]`` float32; 0 keeps every block."""
    heads: Tensor
    """``[batch, q_heads]`` bool: which heads are query-aware."""
