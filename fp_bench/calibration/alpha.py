"""Finds the alpha of FlashPrefill that keeps a wanted share of a model's attention."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fp_bench.calibration.captured import captured_calls
from fp_bench.errors import UsageError
from fp_bench.inputs.captured import Captured
from fp_bench.methods.base import AttentionCall
from fp_bench.methods.flashprefill import FlashPrefill
from fp_bench.reports.table import Table

SMALLEST_ALPHA = 1e-9
STEPS = 24
"""Steps of the bisection; the logarithm of alpha is then exact to a millionth."""


@dataclass(frozen=True)
class Calibration:
    """An alpha and what it keeps."""

    alpha: float
    by_layer: dict[int, list[float]]
    """Layer -> density of each query head, mean over lengths."""

    @property
    def density(self) -> float:
        """Mean over layers and heads."""
        heads = [density for of_layer in self.by_layer.values() for density in of_layer]
        return sum(heads) / len(heads)

    def table(self) -> Table:
        """Return the density of each layer."""
        rows = [
            [str(layer), f"{sum(heads) / len(heads):.1%}", f"{min(heads):.1%}", f"{max(heads):.1%}"]
            for layer, heads in self.by_layer.items()
        ]
        columns = ["layer", "density", "sparsest head", "densest head"]
        return Table(f"Density by layer at alpha {self.alpha:.4g}", columns, rows, numbers=1)


def check_density(wanted: float) -> None:
    """Refuse an invalid density.

    Raises:
        UsageError: outside (0, 1].
    """
    if not 0 < wanted <= 1:
        raise UsageError(f"density {wanted:g} is outside (0, 1]; FlashPrefill's authors keep about 0.7 at 4K")


@torch.no_grad()
def calibrate(source: Captured, wanted: float, *, device: torch.device, dtype: torch.dtype) -> Calibration:
    """Find the largest alpha that keeps at least ``wanted`` of the causal query-key pairs, in the mean over heads.

    Args:
        source: the captured tensors.
        wanted: mean density over lengths, layers and query heads.
        device: where selections run.
        dtype: of the tensors there.

    Raises:
        UsageError: a density outside (0, 1], or below what sinks, window and last blocks keep at any alpha.
        UnsupportedError: calls that FlashPrefill does not run.
    """
    check_density(wanted)
    calls = captured_calls(source, device, dtype, FlashPrefill())
    low, high = SMALLEST_ALPHA, 1.0
    floor, ceiling = (_densities(calls, alpha).density for alpha in (high, low))
    if not floor <= wanted:
        lengths = ", ".join(map(str, source.manifest.lengths))
        raise UsageError(
            f"density {wanted:g} is below {floor:.3f}, what alpha {high:g} keeps at length {lengths}: sinks, window "
            "and last blocks are always kept; give a higher density or a greater length"
        )
    if ceiling < wanted:
        return _densities(calls, 0.0)  # only 0 keeps everything
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _densities(calls, middle).density >= wanted else (low, middle)
    return _densities(calls, low)


def _densities(calls: Sequence[AttentionCall], alpha: float) -> Calibration:
    method = FlashPrefill(FlashPrefill.Params(alpha=alpha))
    found: dict[int, list[torch.Tensor]] = {}
    for call in calls:
        index = method.select(call)
        assert index is not None  # no dense fallback is asked for
        found.setdefault(call.layer, []).append(index.density().mean(0))
    return Calibration(alpha, {layer: torch.stack(parts).mean(0).tolist() for layer, parts in found.items()})
