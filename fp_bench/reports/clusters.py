"""Intervals of means over positions of texts, where neighbours depend on one another.

The positions of a sample are divided into blocks long enough for neighbouring blocks to be independent; samples
may also differ as a whole. The variance of the mean is that between samples, and at least that of the blocks, because
few samples may agree by chance. Wilson's interval over positions would treat neighbours as independent.
"""

from math import exp, inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fp_bench.reports.scores import wilson

Floats = NDArray[np.float64]


class ClusteredMean(NamedTuple):
    """A mean over the blocks of samples."""

    mean: float
    error: float
    """Its standard error; NaN for a single block."""
    half: float
    """Half width of its 95 % interval, in the units of the mean."""
    p: float
    """Two-sided, of the mean being 0; 1 where one block is all there is."""


def clustered_mean(values: Floats) -> ClusteredMean:
    """Return the mean of blocks and its error.

    Args:
        values: ``[samples, blocks]``.
    """
    samples, blocks = values.shape
    found = []
    if samples > 1:
        found.append((values.mean(axis=1).var(ddof=1) / samples, samples - 1))
    if blocks > 1:
        found.append((values.var(axis=1, ddof=1).mean() / values.size, samples * (blocks - 1)))
    mean = float(values.mean())
    if not found:
        return ClusteredMean(mean, float("nan"), inf, 1.0)
    variance, freedom = max(found)
    error = sqrt(variance)
    p = 1.0 if mean == 0 else float(2 * stats.t.sf(abs(mean) / error, freedom)) if error else 0.0
    return ClusteredMean(mean, error, float(stats.t.ppf(0.975, freedom)) * error, p)


def divergence_interval(values: Floats) -> tuple[float, float]:
    """Return the 95 % interval of a mean divergence, symmetric in its log, because it is positive with a long tail."""
    found = clustered_mean(values)
    if found.mean <= 0 or np.isinf(found.half):
        return 0.0, 0.0 if found.half == 0 else inf
    factor = exp(min(found.half / found.mean, 700.0))
    return found.mean / factor, found.mean * factor


def share_interval(values: Floats) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, with the effective number of independent positions.

    If all blocks are equal, a block counts as one.
    """
    found = clustered_mean(values)
    spread = found.mean * (1 - found.mean)
    if np.isnan(found.error):
        return 0.0, 1.0
    if found.error == 0 or spread == 0:
        return wilson(found.mean, values.size)
    return wilson(found.mean, spread / found.error**2, quantile=found.half / found.error)
