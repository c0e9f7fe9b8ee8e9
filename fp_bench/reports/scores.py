"""Statistics on whether scores differ: arrays only, without records or suites.

Scores are paired by sample. The sign test, which on right and wrong answers is McNemar's exact test, and the interval
of the mean difference must agree. A divergence has a test of its own, and a rise of it is a loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fp_bench.reports.verdict import Floats, Rule, Verdict, corrected_for_many

NORMAL_QUANTILE = 1.959964
"""Of intervals of 95 %."""
MOST_MORE = 100_000
"""Largest forecast of samples; beyond it the change is about as large as the largest allowed drop."""


class ScoreChanges(NamedTuple):
    """Changes of scores; all arrays have one entry per row."""

    verdict: NDArray[np.str_]
    p: Floats
    """Corrected for the number of tested rows; NaN if all answers are identical."""
    more_samples: Floats
    """Samples that would likely decide an inconclusive row; infinite beyond `MOST_MORE`, otherwise NaN."""


@dataclass(frozen=True)
class ScoreChange:
    """Changes of one row's scores, by sample."""

    n: int
    difference: float
    """Mean of new minus base, over tasks the mean of their means."""
    low: float
    high: float
    """Ends of its 95 % interval."""
    worse: int
    better: int
    identical: bool
    """Whether all answers are identical."""
    p: float = float("nan")
    """Of the change being none; NaN is the sign test's."""
    may_lose: float | None = None
    """What may be lost; None is the rule's ``max_drop``."""


def judge_scores(rows: Sequence[ScoreChange], rule: Rule) -> ScoreChanges:
    """Judge the changes of scores.

    A row with identical answers is unchanged for any number of samples. A row with equal
    scores but different answers is not, because a few samples leave room for a loss.
    """
    if not rows:
        return ScoreChanges(np.array([], dtype=str), np.array([]), np.array([]))
    worse, better, n, difference, low, high, own = (
        np.array([getattr(row, name) for row in rows], float)
        for name in ("worse", "better", "n", "difference", "low", "high", "p")
    )
    identical = np.array([row.identical for row in rows])
    may_lose = np.array([rule.max_drop if row.may_lose is None else row.may_lose for row in rows])
    alone = np.where(np.isnan(own), sign_test(worse, better), own)
    p = corrected_for_many(np.where(identical, np.nan, alone))
    verdict = np.where(identical, Verdict.UNCHANGED.value, _verdicts(p, difference, low, high, may_lose, rule))
    more = np.full(len(rows), np.nan)
    if (open_ := verdict == Verdict.INCONCLUSIVE.value).any():
        part = (values[open_, None] for values in (worse, better, n, difference, low, high, own, may_lose))
        # Assume that the other rows keep raising p by the same factor.
        with np.errstate(invalid="ignore"):
            raised = np.nan_to_num(p / alone, nan=1.0)
        more[open_] = _more_samples(*part, raised=raised[open_, None], rule=rule)
    return ScoreChanges(verdict, p, more)


def _verdicts(
    p: Floats, difference: Floats, low: Floats, high: Floats, may_lose: Floats, rule: Rule
) -> NDArray[np.str_]:
    return np.select(
        [
            (p < rule.alpha) & (high < 0) & (difference < -may_lose),
            (p < rule.alpha) & (low > 0) & (difference > may_lose),
            low > -may_lose,
        ],
        [Verdict.REGRESSED.value, Verdict.IMPROVED.value, Verdict.UNCHANGED.value],
        Verdict.INCONCLUSIVE.value,
    )


def _more_samples(
    worse: Floats,
    better: Floats,
    n: Floats,
    difference: Floats,
    low: Floats,
    high: Floats,
    own: Floats,
    may_lose: Floats,
    *,
    raised: Floats,
    rule: Rule,
) -> Floats:
    """Return the number of further samples after which the rule decides, if they are like the seen ones; else infinite.

    All are ``[rows, 1]``.
    """
    more = np.unique(np.geomspace(1, MOST_MORE, 400).round())
    times = (n + more) / n
    signs = sign_test(np.floor(worse * times), np.floor(better * times))
    alone = np.where(np.isnan(own), signs, 2 * stats.norm.sf(stats.norm.isf(own / 2) * np.sqrt(times)))
    p = np.minimum(1.0, raised * alone)
    then_low, then_high = (difference + (end - difference) / np.sqrt(times) for end in (low, high))
    open_ = _verdicts(p, difference, then_low, then_high, may_lose, rule) == Verdict.INCONCLUSIVE.value
    # The first number after which no greater one is undecided, because the sign test moves in steps.
    last_open = np.where(open_, np.arange(1, len(more) + 1), 0).max(axis=1)
    found: Floats = np.append(more, np.inf)[last_open]
    return found


def wilson(share: float, n: float, quantile: float = NORMAL_QUANTILE) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of ``n``; for partial scores it is slightly too wide."""
    spread = quantile**2 / n
    middle = (share + spread / 2) / (1 + spread)
    half = quantile * sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_interval(changes: Sequence[Floats]) -> tuple[float, float, float]:
    """Return the mean over tasks of the mean change of a sample, and its 95 % interval.

    The interval of Bonett and Price (2012) adds one lost and one won answer to the data. Therefore few samples
    give a wide interval, and samples without a change one of positive width. Few samples, few changes and
    partial scores make it wider than needed for 95 %.

    Args:
        changes: for each task the change of every sample's score, -1 to 1.
    """
    everything = np.concatenate(list(changes))
    weight = np.concatenate([np.full(len(change), 1 / (len(changes) * len(change))) for change in changes])
    mean, square = float(weight @ everything), float(weight @ everything**2)
    # Tasks of different sizes have equal weight: use the effective number of samples.
    n = 1 / float(weight @ weight)
    middle = n * mean / (n + 2)
    half = NORMAL_QUANTILE * sqrt(((n * square + 2) / (n + 2) - middle**2) / (n + 2))
    return mean, max(-1.0, middle - half), min(1.0, middle + half)


def changed_answers(changed: int, n: int) -> str:
    """Return the number of changed answers, in words."""
    return f"{changed} of {n}"


def sign_test(worse: ArrayLike, better: ArrayLike) -> Floats:
    """Return the two-sided exact p of these numbers of worse and better samples, if both are equally likely.

    For right and wrong answers it is McNemar's exact test; equal samples do not count.
    """
    a, b = np.asarray(worse), np.asarray(better)
    p: Floats = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(a, b), a + b, 0.5))
    return p
