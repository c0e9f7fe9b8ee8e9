"""Searches the strengths of structured inputs so that sparse methods keep of them what they keep of real models.

A nonlinear least-squares fit (scipy's trust-region reflective one, deterministic) over a few strengths; the others stay
as they are. A residual is the logarithm of a density over the real one, or of a missed share of attention over the real
one: at 95 % recall, 94 % counts as a miss of a fifth.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy.optimize import least_squares

from fp_bench.inputs.source import Shape
from fp_bench.inputs.structured import Strengths, Structured
from fp_bench.methods.base import AttentionCall
from training.inputs.observe import Kept, observe

FITTED: dict[str, tuple[float, float]] = {
    "diffuse": (0.0, 0.6),
    "focus.0": (0.1, 1.0),
    "focus.1": (1.0, 4.0),
    "interest": (0.1, 2.0),
    "common": (0.0, 0.9),
    "sink.0": (4.0, 14.0),
    "sink.1": (4.0, 16.0),
    "sink_focused": (0.0, 10.0),
    "sink_growth": (0.0, 2.0),
    "local.0": (0.0, 0.6),
    "local.1": (0.6, 2.5),
    "recency.0": (0.2, 1.6),
    "recency.1": (0.4, 3.0),
    "offset.1": (0.0, 16.0),
    "token": (0.3, 2.5),
}
"""Names of the fitted strengths with their bounds; ``.0`` and ``.1`` are the ends of a range."""
MISSED = 0.01
"""Missed shares of attention are compared with this added, so that 99.9 % and 99.99 % recall are alike."""
RECALL_WEIGHT = 0.5
"""Of the residuals of missed shares, next to 1 of those of densities."""
STEP = 0.02
"""Of the differences that stand for derivatives, about this share of a strength's range; what is kept jumps in smaller
ones."""

Cells = Mapping[tuple[int, str], Kept]
"""What is kept by length and method."""


def measure(
    strengths: Strengths, cells: Cells, *, heads: tuple[int, int, int], device: torch.device, seed: int = 0
) -> dict[tuple[int, str], Kept]:
    """Return what the methods of some cells keep of structured inputs.

    Args:
        strengths: of the inputs.
        cells: whose lengths and methods are measured.
        heads: query heads, KV heads, head_dim.
        device: where; on a CPU in float32, which is fast there, on a GPU in bfloat16.
        seed: of the inputs.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    kept: dict[tuple[int, str], Kept] = {}
    for length in sorted({length for length, _ in cells}):
        qkv = Structured(strengths=strengths).tensors(
            Shape(1, length, *heads), layer=0, seed=seed, dtype=dtype, device=device
        )
        found = observe(AttentionCall(*qkv, scale=heads[2] ** -0.5), [name for each, name in cells if each == length])
        kept |= {(length, method): one for method, one in found.items()}
    return kept


def residuals(kept: Cells, wanted: Cells) -> list[float]:
    """Return two residuals a cell, of density and of the missed share of attention."""
    found = []
    for cell, real in wanted.items():
        found.append(math.log(kept[cell].density / real.density))
        missed = (1 - kept[cell].recall + MISSED) / (1 - real.recall + MISSED)
        found.append(RECALL_WEIGHT * math.log(missed))
    return found


def fit(
    start: Strengths,
    wanted: Cells,
    keep: Callable[[Strengths], Cells],
    *,
    most: int,
    said: Callable[[str], None],
) -> Strengths:
    """Return the strengths whose cells come nearest to the wanted ones.

    Args:
        start: where to begin.
        wanted: cells of real models.
        keep: measures cells of strengths.
        most: most steps, each of which measures once for every fitted strength and once more.
        said: is told of every measurement.
    """
    low, high = np.array(list(FITTED.values())).T
    best = (math.inf, start)

    def of(places: np.ndarray) -> np.ndarray:
        nonlocal best
        strengths = with_values(start, low + (places - 1) * (high - low))
        found = np.array(residuals(keep(strengths), wanted))
        loss = float((found**2).mean()) ** 0.5
        if loss < best[0]:
            best = loss, strengths
            said(f"{loss:.4f} {strengths.model_dump_json()}")
        return found

    # Places in the ranges are 1 to 2, not 0 to 1, because scipy's steps are relative.
    begin = np.clip(1 + (values_of(start) - low) / (high - low), 1.001, 1.999)
    least_squares(of, begin, bounds=(1, 2), diff_step=STEP, loss="soft_l1", max_nfev=most)
    return best[1]


def values_of(strengths: Strengths) -> np.ndarray:
    """Return the fitted strengths in the order of `FITTED`."""
    return np.array([_part(getattr(strengths, name.partition(".")[0]), name.partition(".")[2]) for name in FITTED])


def _part(value: float | tuple[float, float], end: str) -> float:
    return value[int(end)] if isinstance(value, tuple) else value


def with_values(strengths: Strengths, values: np.ndarray) -> Strengths:
    """Return strengths with the fitted ones replaced, rounded as they are published."""
    changed: dict[str, list[float] | float] = {}
    for name, value in zip(FITTED, (np.round(values, 3) + 0.0).tolist(), strict=True):
        field, _, end = name.partition(".")
        if not end:
            changed[field] = value
        else:
            changed.setdefault(field, list(getattr(strengths, field)))[int(end)] = value  # type: ignore[index]
    return Strengths.model_validate(strengths.model_dump() | changed)
