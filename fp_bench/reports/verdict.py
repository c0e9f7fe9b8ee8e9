"""Statistics on whether one run's times differ from another's: arrays only, without records, files or GPUs.

The time of a cell is the median of its rounds, which one outlier does not move; for several launches (process
starts), the geometric mean of their medians. Tables show it and tests compare it. Rounds of one launch share
its tuning, memory and clocks, so with several launches the unit of replication is the launch:
Student's t on the logs of the launches' medians. With one launch per side it is the round, with Welch's t, and
the measured spread of launches is added to the error. Rounds that alternated are compared in pairs.

A difference counts if it is significant, after Benjamini and Hochberg's correction for the number of cells
tested, and larger than the smallest relevant effect. It is absent if the interval lies within that effect (two
one-sided tests, Schuirmann 1987).
"""

from dataclasses import dataclass
from enum import StrEnum
from math import expm1, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

LEAST_ROUNDS = 3
"""Fewest rounds per side for a test, because two rounds hardly show their spread."""
LEAST_LAUNCHES = 4
"""Fewest launches of both sides together for a test."""
UNSTEADY = 0.1
"""Standard deviation of the logs of rounds above which one launch per side is not tested.

Such a cell waits for its host; its launches differed by a factor of 1.9 (docs/noise.md).
"""
MOST_MORE = 1000
"""Largest forecast of rounds; beyond it the change is about as large as the smallest effect."""
ODD, LEAST_TO_TELL_ODD = 0.01, 5
"""Error probability of calling a normal round an outlier (Grubbs 1969), and the fewest rounds for it."""


class Verdict(StrEnum):
    """Verdict on a cell, worst first."""

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
        min_effect: smallest relevant change of a time, as a share of it.
        alpha: share of false alarms among reported changes.
        max_drop: loss of a score, 0 to 1, up to which it counts as kept.
        max_kl: rise of a KL divergence in nats up to which it counts as kept.
        restart: standard deviation of the log of a launch's time, used if a side has one launch; measured
            on twelve cells of two leases and six of two runs, see docs/noise.md.
    """

    min_effect: float = 0.03
    alpha: float = 0.05
    max_drop: float = 0.01
    max_kl: float = 0.005
    restart: float = 0.0052

    @property
    def told_from_a_restart(self) -> float:
        """Smallest change of a time that one launch per side can distinguish from a restart, at 95 %."""
        return expm1(stats.norm.ppf(0.975) * sqrt(2) * self.restart)


class TimeChanges(NamedTuple):
    """Changes of cells' times; all arrays have the shape of the cells."""

    verdict: NDArray[np.str_]
    ratio: Floats
    """New over base."""
    low: Floats
    """Ends of the interval that decides on `Verdict.UNCHANGED`, of confidence 1 - 2 alpha."""
    high: Floats
    p: Floats
    """Corrected for the number of tested cells; NaN if not tested."""
    more: Floats
    """Rounds (launches) per side likely to decide an inconclusive cell; infinite above `MOST_MORE`, else NaN."""
    by_launch: NDArray[np.bool_]
    """Whether launches were compared instead of rounds."""


class _Estimate(NamedTuple):
    """A change of log times, and its uncertainty."""

    effect: Floats
    error: Floats
    """Standard error that more units would reduce."""
    fixed: Floats
    """Standard error that they would not reduce: that of a missing restart."""
    freedom: Floats
    units: Floats
    """Launches or rounds per side, of the shorter one."""
    least: Floats
    """Fewest units per side for a test; infinite if one launch per side cannot be tested."""
    by_launch: NDArray[np.bool_]

    @property
    def tested(self) -> NDArray[np.bool_]:
        return self.units >= self.least


def compare_times(base: Floats, new: Floats, rule: Rule, *, paired: bool = False, forecast: bool = True) -> TimeChanges:
    """Judge the times of cells.

    Args:
        base: ``[..., cells, launches, rounds]`` of times above 0, NaN for missing rounds.
        new: the same for the new run; numbers of launches and rounds may differ unless paired.
        rule: when a change counts.
        paired: whether rounds of both alternated.
        forecast: whether to compute how many more rounds would decide; this takes most of the time.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = _paired(np.log(new / base), rule) if paired else _unpaired(np.log(base), np.log(new), rule)
        error = np.hypot(found.error, found.fixed)
        t = np.where(found.effect == 0, 0.0, np.abs(found.effect) / error)
        p = np.where(found.tested, 2 * stats.t.sf(t, found.freedom), np.nan)
    corrected = corrected_for_many(p)
    half = stats.t.ppf(1 - rule.alpha, found.freedom) * error
    effect, limit = found.effect, np.log1p(rule.min_effect)
    significant = corrected < rule.alpha
    verdict = np.select(
        [significant & (effect > limit), significant & (effect < -limit), found.tested & (abs(effect) + half < limit)],
        [Verdict.REGRESSED.value, Verdict.IMPROVED.value, Verdict.UNCHANGED.value],
        Verdict.INCONCLUSIVE.value,
    )
    more = np.full_like(effect, np.nan)
    open_ = verdict == Verdict.INCONCLUSIVE.value
    if forecast and open_.any():
        with np.errstate(divide="ignore", invalid="ignore"):
            # Assume that the other cells keep raising p by the same factor.
            raised = np.where(p > 0, corrected / p, 1.0)[open_]
        more[open_] = _more_units(_Estimate(*(part[open_] for part in found)), np.nan_to_num(raised, nan=1.0), rule)
    ends = np.exp(effect - half), np.exp(effect + half)
    return TimeChanges(verdict, np.exp(effect), *ends, corrected, more, found.by_launch)


def corrected_for_many(p: Floats) -> Floats:
    """Return p corrected by Benjamini and Hochberg over the last axis, ignoring NaN."""
    flat = p.reshape(-1, p.shape[-1]).copy()
    for row in flat:
        tested = ~np.isnan(row)
        if tested.any():
            row[tested] = stats.false_discovery_control(row[tested])
    return flat.reshape(p.shape)


def time_of(times: Floats) -> Floats:
    """Return the time of each cell of ``[..., launches, rounds]``: the geometric mean of the launches' medians."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.exp(_over_launches(np.log(times))[1])


def _paired(changes: Floats, rule: Rule) -> _Estimate:
    """Estimate from the changes of paired rounds."""
    launches, effect, variance = _over_launches(changes)
    rounds, error, spread = _of_rounds(changes)
    by_launch = launches > 1
    return _Estimate(
        effect,
        np.where(by_launch, np.sqrt(variance / launches), error),
        np.where(by_launch, 0.0, sqrt(2) * rule.restart),
        np.where(by_launch, launches, rounds) - 1,
        np.where(by_launch, launches, rounds),
        np.where(by_launch | (spread < UNSTEADY) | (rounds < LEAST_ROUNDS), float(LEAST_ROUNDS), np.inf),
        by_launch,
    )


def _unpaired(base: Floats, new: Floats, rule: Rule) -> _Estimate:
    """Estimate from two separate runs."""
    launches, places, variances = (np.stack(both) for both in zip(*map(_over_launches, (base, new)), strict=True))
    rounds, errors, spreads = (np.stack(both) for both in zip(*map(_of_rounds, (base, new)), strict=True))
    steady = (spreads.max(axis=0) < UNSTEADY) | (rounds.min(axis=0) < LEAST_ROUNDS)
    by_launch: NDArray[np.bool_] = np.logical_or.reduce(launches > 1, axis=0)
    # Launches are few, so both sides share one spread.
    freedom = np.maximum(launches - 1, 0)
    pooled = (freedom * np.nan_to_num(variances)).sum(axis=0) / freedom.sum(axis=0)
    squares = errors**2
    welch = squares.sum(axis=0) ** 2 / (squares**2 / (rounds - 1)).sum(axis=0)
    # Without any spread the formula is 0 / 0; use its smallest value.
    welch = np.where(squares.sum(axis=0) > 0, welch, rounds.min(axis=0) - 1)
    effect = places[1] - places[0]
    return _Estimate(
        effect,
        np.where(by_launch, np.sqrt(pooled * (1 / launches).sum(axis=0)), np.sqrt(squares.sum(axis=0))),
        np.where(by_launch, 0.0, sqrt(2) * rule.restart),
        np.where(by_launch, freedom.sum(axis=0), welch),
        np.where(by_launch, launches.sum(axis=0) / 2, rounds.min(axis=0)),
        np.where(by_launch, LEAST_LAUNCHES / 2, np.where(steady, float(LEAST_ROUNDS), np.inf)),
        by_launch,
    )


def _over_launches(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the number of launches in ``[..., launches, rounds]``, and mean and variance of their medians."""
    _, medians = _medians(values)
    n = (~np.isnan(medians)).sum(axis=-1).astype(float)
    mean = np.nansum(medians, axis=-1) / n
    return n, mean, np.nansum((medians - mean[..., None]) ** 2, axis=-1) / (n - 1)


def _medians(values: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return the number of values over the last axis, and their median, ignoring NaN."""
    ordered = np.sort(values, axis=-1)
    n = (~np.isnan(values)).sum(axis=-1)
    middle = [np.take_along_axis(ordered, np.maximum(at, 0)[..., None], -1)[..., 0] for at in ((n - 1) // 2, n // 2)]
    return n, (middle[0] + middle[1]) / 2


def _of_rounds(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the number of rounds of the first launch without an outlier, the error of their median, and their spread.

    One outlier (Grubbs' test) does not count for the spread. The variance of a median
    of n normal values is pi/2 of a mean's of n + 1/2 of them, of an even n of n + 1.3 (within 1 % from n = 3 on).
    """
    some = ~np.isnan(values).all(axis=-1)
    first = np.argmax(some, axis=-1)
    kept = np.take_along_axis(values, first[..., None, None], axis=-2)[..., 0, :]
    n, mean, variance = _moments(kept)
    apart = np.abs(kept - mean[..., None])
    farthest = np.where(np.isnan(apart), -1.0, apart).argmax(axis=-1)[..., None]
    odd = np.take_along_axis(apart, farthest, -1)[..., 0] > _too_far(n) * np.sqrt(variance)
    without = kept.copy()
    np.put_along_axis(without, farthest, np.nan, axis=-1)
    fewer, _, smaller = _moments(without)
    telling, variance = np.where(odd, fewer, n), np.where(odd, smaller, variance)
    worth = n + np.where(n % 2 == 1, 0.5, 1.3)
    return telling, np.sqrt(np.pi / 2 * variance / worth), np.sqrt(variance)


def _moments(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return number, mean and variance over the last axis, ignoring NaN."""
    n = (~np.isnan(values)).sum(axis=-1).astype(float)
    mean = np.nansum(values, axis=-1) / n
    return n, mean, np.nansum((values - mean[..., None]) ** 2, axis=-1) / (n - 1)


def _too_far(n: Floats) -> Floats:
    """Return the standard deviations from the mean beyond which one of ``n`` values is an outlier, by Grubbs' test."""
    sizes, place = np.unique(n, return_inverse=True)
    t = stats.t.ppf(1 - ODD / (2 * sizes), sizes - 2)
    limits = np.where(
        sizes >= LEAST_TO_TELL_ODD, (sizes - 1) / np.sqrt(sizes) * np.sqrt(t**2 / (sizes - 2 + t**2)), np.inf
    )
    found: Floats = limits[place.reshape(n.shape)]
    return found


def _more_units(now: _Estimate, raised: Floats, rule: Rule) -> Floats:
    """Return the fewest further units that would decide with the present effect and spread, by bisection.

    Args:
        now: estimates of the undecided cells.
        raised: factor by which the correction for many cells raises their p.
        rule: the rule, applied completely.
    """
    limit, effect = np.log1p(rule.min_effect), np.abs(now.effect)
    least = np.ceil(np.maximum(0.0, now.least - now.units))

    def decides(more: Floats) -> NDArray[np.bool_]:
        grown = now.units + more
        with np.errstate(divide="ignore", invalid="ignore"):
            then = np.hypot(now.error * np.sqrt(now.units / grown), now.fixed)
            df = now.freedom * (grown - 1) / (now.units - 1)
            two_sided, one_sided = stats.t.ppf(1 - rule.alpha / (2 * raised), df), stats.t.ppf(1 - rule.alpha, df)
        found = (effect > limit) & (effect > two_sided * then)
        done: NDArray[np.bool_] = found | (effect + one_sided * then < limit)
        return done

    low, high = np.clip(least - 1, 0.0, MOST_MORE), np.full_like(effect, MOST_MORE)
    for _ in range(MOST_MORE.bit_length()):
        middle = np.ceil((low + high) / 2)
        enough = decides(middle)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    # With fewer than two units the spread is unknown: require the minimum of a test.
    known = np.where(decides(high) & np.isfinite(least), np.maximum(high, least), np.inf)
    return np.where(now.units >= 2, known, least)


def found_share(
    noise: float,
    slowdown: float,
    rounds: int,
    rule: Rule,
    *,
    cells: int = 30,
    launches: int = 1,
    restart: float | None = None,
    pairs: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Simulate pairs of runs; return how often a slowdown of one cell is found, and how often another cell is accused.

    Args:
        noise: standard deviation of the log of a round's time; rounds of a launch are independent and normal in it.
        slowdown: of the first cell, as a share of its time.
        rounds: of a launch.
        rule: when a change counts.
        cells: of a run.
        launches: a side.
        restart: standard deviation of the log of a launch's time; None: the rule's.
        pairs: of runs.
        seed: of the noise.
    """
    draw = np.random.default_rng(seed)
    of_launch = (rule.restart if restart is None else restart) * draw.standard_normal((2, pairs, cells, launches, 1))
    base, new = np.exp(of_launch + noise * draw.standard_normal((2, pairs, cells, launches, rounds)))
    new[:, 0] *= 1 + slowdown
    verdict = compare_times(base, new, rule, forecast=False).verdict
    accused = (verdict == Verdict.REGRESSED.value) | (verdict == Verdict.IMPROVED.value)
    return float((verdict[:, 0] == Verdict.REGRESSED.value).mean()), float(accused[:, 1:].any(axis=1).mean())


def smallest_found(noise: float, rounds: int, rule: Rule, *, power: float = 0.95) -> float | None:
    """Return the smallest slowdown of one cell among 30 that is found with this power, in steps of half a per cent.

    None if even a doubled time is not found.
    """
    steps = np.arange(0.005, 1.0, 0.005)
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        found, _ = found_share(noise, float(steps[middle]), rounds, rule, pairs=200)
        low, high = (low, middle) if found >= power else (middle + 1, high)
    return float(steps[low]) if low < len(steps) else None
