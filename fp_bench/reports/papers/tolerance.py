"""Tolerances: as close as published values of the same quantity are to each other."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import yaml

Kind = Literal["time ratio", "density", "score difference"]

SHARE = 0.75
"""Share of the published pairs that lie within the tolerance."""


@dataclass(frozen=True)
class Tolerance:
    """The range of values that count as equal to the published one.

    Args:
        kind: of quantity. Ratios and densities may differ by a factor, differences of scores by points.
        size: the factor, above 1, or the points.
    """

    kind: Kind
    size: float

    def limits(self, published: float) -> tuple[float, float]:
        """Return the lowest and the highest value that count as ``published``."""
        if self.kind == "score difference":
            return published - self.size, published + self.size
        return published / self.size, published * self.size

    def __str__(self) -> str:
        return f"{self.size:.1f} points" if self.kind == "score difference" else f"a factor of {self.size:.2f}"


@cache
def tolerance(kind: Kind) -> Tolerance:
    """Return the tolerance of a kind of quantity: the `SHARE` quantile of the differences in spread.yaml."""
    pairs: list[dict[str, Any]] = yaml.safe_load(files("fp_bench.reports.papers").joinpath("spread.yaml").read_text())[
        kind
    ]
    apart: Callable[[float, float], float] = _points if kind == "score difference" else _factor
    found = [apart(*values) for pair in pairs for values in zip(pair["one"], pair["other"], strict=True)]
    return Tolerance(kind, float(np.quantile(found, SHARE)))


def _factor(one: float, other: float) -> float:
    return max(one, other) / min(one, other)


def _points(one: float, other: float) -> float:
    return abs(one - other)
