"""Whether one run differs from another: statistics on arrays, which know nothing of records, files or GPUs.

The unit of replication is a round. Times are compared as the difference of mean logs, i.e. the log of the ratio of
geometric means: by Welch's t where two runs were made one after the other, by the paired t where their rounds
alternated. A difference counts when it is both beyond chance, after Benjamini and Hochberg's correction for the many
cells of a run, and beyond a smallest effect worth knowing; it is absent when the interval lies within that effect
(two one-sided tests, Schuirmann 1987). Scores are paired by sample: the sign test, which on right and wrong answers is
McNemar's exact test, and the interval of the mean difference must agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

LEAST_ROUNDS = 3
"""Rounds a side below which nothing is tested: two say next to nothing of their spread."""
MOST_MORE = 1000
"""Rounds beyond which a forecast would only say that the change is about as large as the least effect."""


NORMAL_QUANTILE = 1.959964
"""Of intervals of 95 %."""


class Verdict(StrEnum):
    """What became of a cell, the gravest first."""

    REGRESSED = "regressed"
    NEW_FAILURE = "new failure"
    IMPROVED = "improved"
    FIXED = "fixed"
    INCONCLUSIVE = "inconclusive"
    REMOVED = "removed"
    ADDED = "added"
    FAILED = "failed in both"
    UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Rule:
    """When a change counts.

    Args:
        min_effect: smallest change of a time worth knowing, as a share of it.
        alpha: share of false alarms among what is called regressed or improved.
        max_drop: loss of a score, 0 to 1, up to which it counts as kept.
    """

    min_effect: float = 0.03
    alpha: float = 0.05
    max_drop: float = 0.01


class TimeChanges(NamedTuple):
    """How times of cells changed; all arrays are shaped like the cells."""

    verdict: NDArray[np.str_]
    ratio: Floats
    """New over base."""
    low: Floats
    """Ends of the interval that decides on `Verdict.UNCHANGED`, of confidence 1 - 2 alpha."""
    high: Floats
    p: Floats
    """Corrected for the number of cells; NaN where nothing was tested."""
    more_rounds: Floats
    """Rounds a side that would likely decide an inconclusive cell; infinite beyond `MOST_MORE`, else NaN."""


def compare_times(base: Floats, new: Floats, rule: Rule, *, paired: bool = False, forecast: bool = True) -> TimeChanges:
    """Judge the times of cells.

    Args:
        base: ``[..., cells, rounds]`` of times above 0, NaN where there was no such round.
        new: the same of the new run; the number of rounds may differ unless they are paired.
        rule: when a change counts.
        paired: whether round r of both was measured side by side.
        forecast: whether to say how many more rounds would decide; it takes longer than all else.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        effect, error, freedom, rounds = _estimates(np.log(base), np.log(new), paired)
        tested = rounds >= LEAST_ROUNDS
        t = np.where(effect == 0, 0.0, np.abs(effect) / error)
    p = np.where(tested, 2 * stats.t.sf(t, freedom), 1.0)
    corrected = stats.false_discovery_control(p, axis=-1) if p.size else p
    half = stats.t.ppf(1 - rule.alpha, freedom) * error
    limit = np.log1p(rule.min_effect)
    verdict = np.select(
        [
            tested & (corrected < rule.alpha) & (effect > limit),
            tested & (corrected < rule.alpha) & (effect < -limit),
            tested & (np.abs(effect) + half < limit),
        ],
        [Verdict.REGRESSED.value, Verdict.IMPROVED.value, Verdict.UNCHANGED.value],
        Verdict.INCONCLUSIVE.value,
    )
    more = np.full_like(effect, np.nan)
    open_ = verdict == Verdict.INCONCLUSIVE.value
    if forecast:
        more[open_] = _more_rounds(effect[open_], error[open_], freedom[open_], rounds[open_], rule)
    corrected = np.where(tested, corrected, np.nan)
    return TimeChanges(verdict, np.exp(effect), np.exp(effect - half), np.exp(effect + half), corrected, more)


def _estimates(base: Floats, new: Floats, paired: bool) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the difference of means, its standard error, degrees of freedom, and rounds of the shorter side."""
    if paired:
        n, effect, variance = _moments(new - base)
        return effect, np.sqrt(variance / n), n - 1, n
    n_base, mean_base, var_base = _moments(base)
    n_new, mean_new, var_new = _moments(new)
    of_base, of_new = var_base / n_base, var_new / n_new
    fewer = np.minimum(n_base, n_new)
    freedom = (of_base + of_new) ** 2 / (of_base**2 / (n_base - 1) + of_new**2 / (n_new - 1))
    # Without any spread the formula is 0 / 0; the least it can be does.
    freedom = np.where(of_base + of_new > 0, freedom, fewer - 1)
    return mean_new - mean_base, np.sqrt(of_base + of_new), freedom, fewer


def _moments(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return number, mean and variance over the last axis, leaving NaN out."""
    n = (~np.isnan(values)).sum(axis=-1).astype(float)
    mean = np.nansum(values, axis=-1) / n
    return n, mean, np.nansum((values - mean[..., None]) ** 2, axis=-1) / (n - 1)


def _more_rounds(effect: Floats, error: Floats, freedom: Floats, rounds: Floats, rule: Rule) -> Floats:
    """Return the fewest further rounds after which effect and spread as they are now would decide, by bisection.

    The correction for many cells is left out: how many cells would be significant then is not known.
    """
    limit = np.log1p(rule.min_effect)
    least = np.maximum(0.0, LEAST_ROUNDS - rounds)

    def decides(more: Floats) -> NDArray[np.bool_]:
        grown = rounds + more
        with np.errstate(divide="ignore", invalid="ignore"):
            then = error * np.sqrt(rounds / grown)
            df = freedom * (grown - 1) / (rounds - 1)
            two_sided, one_sided = stats.t.ppf(1 - rule.alpha / 2, df), stats.t.ppf(1 - rule.alpha, df)
        found = (np.abs(effect) > limit) & (np.abs(effect) > two_sided * then)
        done: NDArray[np.bool_] = found | (np.abs(effect) + one_sided * then < limit)
        return done

    low, high = np.maximum(least - 1, 0.0), np.full_like(effect, MOST_MORE)
    for _ in range(MOST_MORE.bit_length()):
        middle = np.ceil((low + high) / 2)
        enough = decides(middle)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    # With fewer than two rounds the spread is not known: at least what is needed for any test.
    known = np.where(decides(high), np.maximum(high, least), np.inf)
    return np.where(rounds >= 2, known, least)


class ScoreChanges(NamedTuple):
    """How scores changed; all arrays have one entry a row."""

    verdict: NDArray[np.str_]
    p: Floats
    """Corrected for the number of rows."""
    more_samples: Floats
    """Samples that would likely decide an inconclusive row; NaN elsewhere, or where none would."""


@dataclass(frozen=True)
class ScoreChange:
    """How the scores of one row changed, sample by sample."""

    n: int
    difference: float
    """Mean of new minus base, 0 to 1; over tasks the mean of their means."""
    low: float
    high: float
    """Ends of its 95 % interval."""
    worse: int
    better: int
    identical: bool
    """Whether every answer is the same word for word."""


def judge_scores(rows: Sequence[ScoreChange], rule: Rule) -> ScoreChanges:
    """Judge the changes of scores.

    A row whose answers are all the same word for word is unchanged whatever the number of samples; one that has equal
    scores in other words is not, since a few samples leave room for a loss.
    """
    if not rows:
        return ScoreChanges(np.array([], dtype=str), np.array([]), np.array([]))
    difference, low, high, n = (
        np.array([getattr(row, name) for row in rows], float) for name in ("difference", "low", "high", "n")
    )
    p = stats.false_discovery_control(sign_test([row.worse for row in rows], [row.better for row in rows]))
    verdict = np.select(
        [
            np.array([row.identical for row in rows]),
            (p < rule.alpha) & (high < 0) & (difference < -rule.max_drop),
            (p < rule.alpha) & (low > 0) & (difference > rule.max_drop),
            low > -rule.max_drop,
        ],
        [Verdict.UNCHANGED.value, Verdict.REGRESSED.value, Verdict.IMPROVED.value, Verdict.UNCHANGED.value],
        Verdict.INCONCLUSIVE.value,
    )
    # An interval narrows with the root of the samples: until it leaves 0 out, or stays above the greatest drop.
    lost = difference < -rule.max_drop
    half = np.where(lost, high - difference, difference - low)
    room = np.where(lost, -difference, difference + rule.max_drop)
    with np.errstate(divide="ignore", invalid="ignore"):
        more = np.ceil(n * (half / room) ** 2 - n)
    more = np.where(np.isfinite(more), np.maximum(more, 1), np.nan)
    return ScoreChanges(verdict, p, np.where(verdict == Verdict.INCONCLUSIVE.value, more, np.nan))


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of ``n``, by Wilson's formula; of partial scores it is a bit too wide."""
    spread = NORMAL_QUANTILE**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = NORMAL_QUANTILE * sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_interval(changes: Sequence[Floats]) -> tuple[float, float, float]:
    """Return the mean over tasks of the mean change of a sample, and its 95 % interval.

    The interval of Bonett and Price (2012): one answer lost and one won are added to what was seen, so that few samples
    leave a wide interval, and samples without a change one that is not of width zero. Few samples, few changes and
    partial scores make it wider than 95 % needs.

    Args:
        changes: for each task the change of every sample's score, -1 to 1.
    """
    everything = np.concatenate(list(changes))
    weight = np.concatenate([np.full(len(change), 1 / (len(changes) * len(change))) for change in changes])
    mean, square = float(weight @ everything), float(weight @ everything**2)
    # Tasks of different sizes weigh the same: as many samples of one weight would say as much.
    n = 1 / float(weight @ weight)
    middle = n * mean / (n + 2)
    half = NORMAL_QUANTILE * sqrt(((n * square + 2) / (n + 2) - middle**2) / (n + 2))
    return mean, max(-1.0, middle - half), min(1.0, middle + half)


def changed_answers(changed: int, n: int) -> str:
    """Return how many answers changed, in words."""
    return f"{changed} of {n}"


def sign_test(worse: ArrayLike, better: ArrayLike) -> Floats:
    """Return the two-sided exact p of as many samples worse and better, were both as likely.

    On right and wrong answers it is McNemar's exact test; equal samples say nothing in it.
    """
    a, b = np.asarray(worse), np.asarray(better)
    p: Floats = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(a, b), a + b, 0.5))
    return p


def found_share(
    noise: float, slowdown: float, rounds: int, rule: Rule, *, cells: int = 30, pairs: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Simulate pairs of runs; return how often a slowdown of one cell is found, and how often another one is accused.

    Args:
        noise: standard deviation of the log of a round's time; rounds are independent and normal in it.
        slowdown: of the first cell, as a share of its time.
        rounds: a side.
        rule: when a change counts.
        cells: of a run.
        pairs: of runs.
        seed: of the noise.
    """
    draw = np.random.default_rng(seed)
    base, new = np.exp(noise * draw.standard_normal((2, pairs, cells, rounds)))
    new[:, 0] *= 1 + slowdown
    regressed = compare_times(base, new, rule, forecast=False).verdict == Verdict.REGRESSED.value
    return float(regressed[:, 0].mean()), float(regressed[:, 1:].any(axis=1).mean())


def smallest_found(noise: float, rounds: int, rule: Rule, *, power: float = 0.95) -> float | None:
    """Return the smallest slowdown of one cell among 30 that is found with this power, in steps of half a per cent.

    None where even a doubled time is not found.
    """
    steps = np.arange(0.005, 1.0, 0.005)
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        found, _ = found_share(noise, float(steps[middle]), rounds, rule, pairs=200)
        low, high = (low, middle) if found >= power else (middle + 1, high)
    return float(steps[low]) if low < len(steps) else None
