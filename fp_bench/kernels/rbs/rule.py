"""RBS-Attention's rescue: the share of a block's radius that counts, and the threshold of lifted scores."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fp_bench.errors import UnsupportedError


@dataclass(frozen=True)
class Rescue:
    """Lift each block's score by ``beta * weight * norm(q) * radius``; keep the blocks near the lifted maximum.

    The weight of a block rises from 0 at the ``low`` quantile of its head's radii to 1 at the ``high`` one and above.

    Args:
        alpha: threshold relative to the row's largest lifted energy, at least 0; above 1 rescues none.
        beta: share of the radius that counts where the weight is 1; 1 bounds the score of every key of the block.
        low: quantile of the radii of a prompt, layer and KV head up to which nothing is lifted.
        high: quantile from which on the whole share counts.

    Raises:
        UnsupportedError: the value and its limit.
    """

    alpha: float
    beta: float = 1.0
    low: float = 0.5
    high: float = 0.9

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UnsupportedError(f"{name} {value} must be finite and at least 0")
        if not 0 <= self.low < self.high <= 1:
            raise UnsupportedError(f"quantiles {self.low} and {self.high} must be ascending and between 0 and 1")

    @property
    def log2_alpha(self) -> float:
        """The threshold as it is compared in the log domain; -inf for alpha 0."""
        return math.log2(self.alpha) if self.alpha > 0 else -math.inf

    def lifts(self, radii: Tensor) -> Tensor:
        """Return ``beta * weight * radius`` of each block, shaped as ``radii [batch, key_blocks, kv_heads]``.

        Where both quantiles are equal nothing is lifted, since no block is wider than the others.
        """
        ordered = radii.sort(dim=1).values
        low, high = (_quantile(ordered, share) for share in (self.low, self.high))
        weight = ((radii - low) / (high - low)).clamp(0, 1)
        return torch.where(high > low, self.beta * weight * radii, 0.0)


def _quantile(ordered: Tensor, share: float) -> Tensor:
    """Return a quantile of ascending numbers along dimension 1, between two of them in proportion."""
    place = share * (ordered.shape[1] - 1)
    below = math.floor(place)
    above = min(below + 1, ordered.shape[1] - 1)
    return torch.lerp(ordered[:, below : below + 1], ordered[:, above : above + 1], place - below)
