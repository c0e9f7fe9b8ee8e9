"""Compares two runs: matches their cells, refuses runs that are not comparable, and judges changes."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from typing import Any

import pandas as pd

from fp_bench.errors import NotComparableError, UsageError, did_you_mean
from fp_bench.records.environment import machine_name
from fp_bench.records.record import AccuracyRecord, LatencyRecord, Record
from fp_bench.records.store import Run, newest
from fp_bench.reports.comparing.rows import Matched, Side, accuracy_rows, hashable, latency_rows
from fp_bench.reports.verdict import Rule, Verdict

FACETS = ("gpu", "input", "dtype", "timer", "cache", "variant", "version", "params")
"""Facets that must agree before two cells are compared, unless allowed by name."""
ASKED_FACETS: Mapping[str, Mapping[str, str]] = {
    "latency": {"input": "input", "dtype": "dtype"},
    "accuracy": {"dtype": "dtype", "variant": "variant", "version": "suite_version"},
}
"""Facets that are part of the request -> their field."""


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two runs.

    Args:
        base: the base run.
        new: the judged run.
        rule: when a change counts.
        paired: whether the rounds alternated and were paired.
        latency: one row per cell.
        accuracy: one row per suite, method, length and task, and one for the average over tasks.
        notes: remarks, one sentence each.
    """

    base: Run
    new: Run
    rule: Rule
    paired: bool
    latency: pd.DataFrame
    accuracy: pd.DataFrame
    notes: Sequence[str] = field(default_factory=list)

    def count(self, verdict: Verdict) -> int:
        """Return how many cells and rows have this verdict."""
        return sum(int((rows["verdict"] == verdict).sum()) for rows in (self.latency, self.accuracy) if len(rows))


def compare(
    base: Run, new: Run, rule: Rule | None = None, *, allow: Collection[str] = (), paired: bool | None = None
) -> Comparison:
    """Match the cells of two runs and judge how they changed.

    Args:
        base: the base run.
        new: the run to judge.
        rule: when a change counts; None: the defaults.
        allow: names out of `FACETS` that may differ.
        paired: whether rounds of both alternated; None: decided by the records' times.

    Raises:
        UsageError: ``allow`` names something unknown.
        NotComparableError: the runs differ in a facet, or no cell has a comparable counterpart.
    """
    for name in allow:
        if name not in FACETS:
            raise UsageError(f"--allow {name!r} is unknown{did_you_mean(name, FACETS)}")
    rule = rule or Rule()
    refusals: dict[str, list[str]] = {}
    times = _matched(base, new, LatencyRecord, allow, refusals)
    scores = _matched(base, new, AccuracyRecord, allow, refusals)
    if refusals:
        said = "; ".join(f"{facet}: {found[0]} ({len(found)} cells)" for facet, found in refusals.items())
        raise NotComparableError(
            f"{base.folder} and {new.folder} are not comparable: {said}; --allow {','.join(refusals)} compares them"
        )
    if not any(one and other for one, other in [*times.values(), *scores.values()]):
        raise NotComparableError(
            f"no cell of {base.folder} is in {new.folder}: nothing to compare; give two runs of the same command"
        )
    both_ok = [(one, other) for one, other in times.values() if one and other and not one.failed and not other.failed]
    if paired is None:
        paired = bool(both_ok) and all(_alternate(one, other) for one, other in both_ok)
    latency = latency_rows(times, rule, paired)
    accuracy = accuracy_rows(scores, rule)
    if not len(both_ok) and not (len(accuracy) and accuracy["n"].gt(0).any()):
        failed = {Verdict.NEW_FAILURE.value, Verdict.FIXED.value}
        if not any(failed & set(rows["verdict"]) for rows in (latency, accuracy) if len(rows)):
            raise NotComparableError(
                f"no cell was measured in both {base.folder} and {new.folder}: nothing to compare; "
                "fpbench report says why cells failed"
            )
    return Comparison(base, new, rule, paired, latency, accuracy, list(_notes(base, new, allow)))


def _matched(
    base: Run,
    new: Run,
    kind: type[LatencyRecord] | type[AccuracyRecord],
    allow: Collection[str],
    refusals: dict[str, list[str]],
) -> Matched:
    """Pair the cells of one kind; reasons against a comparison are added to ``refusals``."""
    facets = ASKED_FACETS[kind.model_fields["kind"].default]
    one, other = (_sides(run, kind, facets) for run in (base, new))
    matched: Matched = {}
    for asked in {**one, **other}:
        mine, theirs = one.get(asked, {}), other.get(asked, {})
        same = mine.keys() & theirs.keys()
        if mine and theirs and not same:
            for facet, before, now in zip(facets, next(iter(mine)), next(iter(theirs)), strict=True):
                if before != now and facet not in allow:
                    refusals.setdefault(facet, []).append(f"{before} and {now}")
            if len(mine) == len(theirs) == 1:
                matched[asked, *mine] = next(iter(mine.values())), next(iter(theirs.values()))
                continue
        for values in {**mine, **theirs}:
            matched[asked, values] = mine.get(values), theirs.get(values)
    for before, now in matched.values():
        if before and now:
            for facet, difference in _circumstances(before, now):
                if facet not in allow:
                    refusals.setdefault(facet, []).append(difference)
    return matched


def _sides(run: Run, kind: type[Record], facets: Mapping[str, str]) -> dict[tuple[Any, ...], dict[Any, Side]]:
    """Return the cells of a run by their request without facets, then by the facets' values."""
    left_out = {"method_hash", "sample_id", "suite_params", *facets.values()}
    names = ["label", *(name for name in kind.asked if name not in left_out)]
    found: dict[tuple[Any, ...], dict[Any, list[Record]]] = {}
    asked_of, facets_of = attrgetter(*names), attrgetter(*facets.values())
    records: Sequence[Record] = run.latency if kind is LatencyRecord else run.accuracy
    for record in newest(records):
        asked = asked_of(record)
        if isinstance(record, AccuracyRecord) and record.suite_params:
            asked += (hashable(record.suite_params),)
        values = facets_of(record)
        found.setdefault(asked, {}).setdefault(values, []).append(record)
    return {asked: {values: Side(records, run) for values, records in cells.items()} for asked, cells in found.items()}


def _circumstances(base: Side, new: Side) -> Iterator[tuple[str, str]]:
    """Yield differences between two cells beyond the request; an unknown value is not a difference."""
    known: list[tuple[str, Any, Any]] = [("gpu", _machine(base), _machine(new))]
    if isinstance(base.first, LatencyRecord):
        known += [(name, _of_timed(base, name), _of_timed(new, name)) for name in ("timer", "cache")]
        known.append(("version", base.first.benchmark_version, new.first.benchmark_version))
    for facet, before, now in known:
        if before is not None and now is not None and before != now:
            yield facet, f"{before} and {now}"
    one, other = base.first, new.first
    if one.method_hash == other.method_hash or not (one.params and other.params):
        return
    if one.params == other.params:
        yield "version", f"two definitions of {one.label}"
    # A parameter on one side only was added in between; its default changes nothing.
    for name in sorted(one.params.keys() & other.params.keys()):
        if one.params[name] != other.params[name]:
            yield "params", f"{one.label} with {name} {one.params[name]} and {other.params[name]}"


def _machine(side: Side) -> str | None:
    environment = side.run.environments.get(side.first.env or "")
    return machine_name(environment) if environment else None


def _of_timed(side: Side, name: str) -> Any:
    return next((getattr(record, name) for record in side.records if record.status == "ok"), None)


def _alternate(base: Side, new: Side) -> bool:
    """Return whether both sides of each round were written before either side of the next."""
    one, other = ({record.round: record.time for record in side.records} for side in (base, new))
    if one.keys() != other.keys() or len(one) < 2 or not all([*one.values(), *other.values()]):
        return False
    spans = [sorted((str(one[number]), str(other[number]))) for number in sorted(one)]
    return all(before[1] < after[0] for before, after in pairwise(spans))


def code_of(run: Run) -> str:
    """Return the versions of the code that measured a run."""
    return ", ".join(sorted({record.code_version for record in run.records}))


def side_name(run: Run) -> str:
    """Return a run's folder and the versions of the code that measured it."""
    return f"{run.folder}, code {code_of(run)}"


def _notes(base: Run, new: Run, allow: Collection[str]) -> Iterator[str]:
    """Yield differences between the machines that do not prevent a comparison."""
    one, other = base.environment, new.environment
    if allow:
        yield f"allowed to differ: {', '.join(allow)}"
    facts: list[tuple[str, Callable[[Mapping[str, Any]], Any]]] = [
        ("driver", lambda environment: (environment.get("gpu") or {}).get("driver")),
        *((name, lambda e, name=name: (e.get("packages") or {}).get(name)) for name in ("torch", "triton")),
        *((name, lambda e, name=name: e.get(name)) for name in ("cuda", "cudnn", "python")),
    ]
    for name, of in facts:
        before, now = of(one), of(other)
        if before != now and before is not None and now is not None:
            yield f"{name} {before} in base, {now} in new"
    for name, run in (("base", base), ("new", new)):
        yield f"{name} is {side_name(run)}"
