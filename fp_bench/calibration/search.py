"""Finds the sparsest setting of a method within a limit of loss: decisions on losses, without models.

A method's knob is divided into settings from densest to sparsest. Bisection finds the sparsest that meets the
limit, assuming that the loss grows along them. Each is tried on a few samples, then on more, until Student's t
bound of its mean loss lies on one side of the limit; an undecided setting does not meet it. The risk is divided
over all looks at all settings (Bonferroni), so that the setting found meets the limit with confidence 1 - `RISK`.

Every decision is a function of the losses, so an interrupted search resumes from its records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, exp, log, log2

import numpy as np
from scipy import stats

from fp_bench.methods.base import Knob
from fp_bench.methods.registry import Spec

RISK = 0.1
"""Probability that the mean loss of the setting found is above the limit."""
FIRST_LOOK = 4
"""Samples of the first look; each look has twice as many as the previous one."""
SETTINGS = 16


class Decision(StrEnum):
    """What is known of a setting."""

    MEETS = "meets the limit"
    EXCEEDS = "exceeds the limit"
    OPEN = "open"


@dataclass(frozen=True)
class Trial:
    """The next thing to measure: a setting on the samples 0 to ``samples`` - 1."""

    setting: Spec
    samples: int


@dataclass(frozen=True)
class Settled:
    """The end of a search."""

    setting: Spec | None
    """The sparsest setting that meets the limit; None if none does."""


def settings(spec: Spec, knob: Knob, count: int = SETTINGS) -> list[Spec]:
    """Return a method at several values of its knob, densest first.

    Args:
        spec: the method with its other options; a value for the knob is replaced.
        knob: the parameter to vary.
        count: number of values; fewer if whole numbers coincide.
    """
    if knob.scale == "log":
        values = [exp(value) for value in np.linspace(log(knob.low), log(knob.high), count)]
    else:
        values = list(np.linspace(knob.low, knob.high, count))
    if knob.keeps == "more":
        values.reverse()
    written = dict.fromkeys(str(round(value)) if knob.whole else f"{value:.3g}" for value in values)
    return [Spec(spec.name, {**spec.options, knob.name: value}) for value in written]


def looks(most: int) -> list[int]:
    """Return the sample counts at which a setting is judged, up to ``most``."""
    found: list[int] = []
    while (samples := FIRST_LOOK << len(found)) < most:
        found.append(samples)
    return [*found, most]


def next_step(
    candidates: Sequence[Spec], losses: Mapping[str, Sequence[float]], limit: float, most: int
) -> Trial | Settled:
    """Return the next measurement, or the result of the search.

    Args:
        candidates: settings, densest first.
        losses: by the setting's text, in order of samples; infinite if a sample was not answered.
        limit: largest mean loss.
        most: largest number of samples per setting.
    """
    meets, exceeds = -1, len(candidates)
    while exceeds - meets > 1:
        middle = (meets + exceeds) // 2
        decided = _judge(candidates[middle], losses.get(str(candidates[middle]), ()), limit, most, len(candidates))
        if isinstance(decided, Trial):
            return decided
        meets, exceeds = (middle, exceeds) if decided is Decision.MEETS else (meets, middle)
    return Settled(candidates[meets] if meets >= 0 else None)


def _judge(setting: Spec, found: Sequence[float], limit: float, most: int, candidates: int) -> Decision | Trial:
    plan = looks(most)
    risk = RISK / (len(plan) * ceil(log2(candidates + 1)))
    for samples in plan:
        if len(found) < samples:
            return Trial(setting, samples)
        decision = decide(found[:samples], limit, risk)
        if decision is not Decision.OPEN:
            return decision
    return Decision.EXCEEDS


def decide(losses: Sequence[float], limit: float, risk: float) -> Decision:
    """Judge a mean loss by its samples, with a one-sided risk on each side."""
    values = np.asarray(losses)
    if not np.isfinite(values).all():
        return Decision.EXCEEDS
    mean, half = values.mean(), stats.t.ppf(1 - risk, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    if mean + half <= limit:
        return Decision.MEETS
    return Decision.EXCEEDS if mean - half > limit else Decision.OPEN
