"""Two runs side by side: their cells matched, refused where they answer different questions, and judged."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import log
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from fp_bench.errors import NotComparableError, UsageError, did_you_mean
from fp_bench.records.environment import machine_name
from fp_bench.records.record import AccuracyRecord, LatencyRecord, Record
from fp_bench.records.store import Run, newest
from fp_bench.reports.verdict import (
    Floats,
    Rule,
    ScoreChange,
    Verdict,
    compare_times,
    judge_scores,
    paired_interval,
)

FACETS = ("gpu", "input", "dtype", "timer", "cache", "variant", "version", "params")
"""What must agree before two cells are compared, unless it is allowed to differ by name."""
ASKED_FACETS: Mapping[str, Mapping[str, str]] = {
    "latency": {"input": "input", "dtype": "dtype"},
    "accuracy": {"dtype": "dtype", "variant": "variant", "version": "suite_version"},
}
"""Facets that are part of what was asked -> their field."""
CLOCKS_APART = 0.02
"""Share by which SM clocks differ before it is said."""
AVERAGE = "average over tasks"
IDENTICAL = "identical answers"
"""Note of a row whose answers are the same word for word, which needs no statistics."""


@dataclass(frozen=True)
class Side:
    """One cell of one run: its rounds, or, of accuracy, its samples."""

    records: Sequence[Any]
    run: Run

    @property
    def first(self) -> Any:
        """Any of the records: what was asked is the same in all."""
        return self.records[0]

    @property
    def failed(self) -> Record | None:
        """The first record without a result."""
        return next((record for record in self.records if record.status != "ok"), None)

    @property
    def fell_back(self) -> bool:
        """Whether a sparse method ran dense: not a result of its own."""
        return any(record.fallback for record in self.records)

    @property
    def reason(self) -> str:
        """Why it has no result of its own; empty when it has."""
        if self.failed:
            return f"{self.failed.status}: {self.failed.reason}"
        return "fell back to dense" if self.fell_back else ""


@dataclass(frozen=True)
class Comparison:
    """What comparing two runs found.

    Args:
        base: the run compared with.
        new: the run that is judged.
        rule: when a change counts.
        paired: whether rounds of the two alternated, so that they were paired.
        latency: one row a cell.
        accuracy: one row a suite, method, length and task, and one for the average over tasks.
        notes: what a reader should know, a sentence each.
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
        base: what to compare with.
        new: what to judge.
        rule: when a change counts; None takes the defaults.
        allow: names out of `FACETS` that may differ.
        paired: whether round r of both was measured side by side; None lets the times of the records tell.

    Raises:
        UsageError: ``allow`` names something unknown.
        NotComparableError: the runs differ in a facet, or no cell of one has a counterpart that can be compared.
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
    latency = _latency_rows(times, rule, paired)
    accuracy = _accuracy_rows(scores, rule)
    if not len(both_ok) and not (len(accuracy) and accuracy["n"].gt(0).any()):
        failed = {Verdict.NEW_FAILURE.value, Verdict.FIXED.value}
        if not any(failed & set(rows["verdict"]) for rows in (latency, accuracy) if len(rows)):
            raise NotComparableError(
                f"no cell was measured in both {base.folder} and {new.folder}: nothing to compare; "
                "fpbench report says why cells failed"
            )
    return Comparison(base, new, rule, paired, latency, accuracy, list(_notes(base, new, allow)))


Matched = dict[tuple[Any, ...], tuple[Side | None, Side | None]]
"""What was asked -> the cell in base and in new."""


def _matched(
    base: Run,
    new: Run,
    kind: type[LatencyRecord] | type[AccuracyRecord],
    allow: Collection[str],
    refusals: dict[str, list[str]],
) -> Matched:
    """Pair the cells of one kind; what keeps two from being compared is added to ``refusals``."""
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
    """Return the cells of a run by what was asked apart from facets, then by the values of these."""
    left_out = {"method_hash", "sample_id", "suite_params", *facets.values()}
    names = ["label", *(name for name in kind.asked if name not in left_out)]
    found: dict[tuple[Any, ...], dict[Any, list[Record]]] = {}
    asked_of, facets_of = attrgetter(*names), attrgetter(*facets.values())
    records: Sequence[Record] = run.latency if kind is LatencyRecord else run.accuracy
    for record in newest(records):
        asked = asked_of(record)
        if isinstance(record, AccuracyRecord) and record.suite_params:
            asked += (_hashable(record.suite_params),)
        values = facets_of(record)
        found.setdefault(asked, {}).setdefault(values, []).append(record)
    return {asked: {values: Side(records, run) for values, records in cells.items()} for asked, cells in found.items()}


def _hashable(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def _circumstances(base: Side, new: Side) -> Iterator[tuple[str, str]]:
    """Yield what differs between two cells beyond what was asked; what one side does not know is no difference."""
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
    # A parameter that only one side has was added in between, and its default changes nothing.
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


def _latency_rows(cells: Matched, rule: Rule, paired: bool) -> pd.DataFrame:
    """Return one row a cell."""
    rows = []
    tested: list[tuple[dict[str, Any], Side, Side]] = []
    for base, new in cells.values():
        row = _latency_row(base, new)
        rows.append(row)
        if "verdict" not in row and base and new:
            tested.append((row, base, new))
    if tested:
        numbers = {record.round for _, *sides in tested for side in sides for record in side.records}
        columns = {number: column for column, number in enumerate(sorted(numbers))}
        before = np.stack([_times(base, columns) for _, base, _ in tested])
        now = np.stack([_times(new, columns) for *_, new in tested])
        found = compare_times(before, now, rule, paired=paired)
        for (row, *_), verdict, ratio, low, high, p, more in zip(tested, *found, strict=True):
            row |= {"verdict": str(verdict), "ratio": ratio, "low": low, "high": high, "p": p, "more_rounds": more}
    return pd.DataFrame(rows, columns=[*LATENCY_COLUMNS])


LATENCY_COLUMNS = (
    "verdict", "label", "seq_len", "q_len", "layer", "batch", "q_heads", "kv_heads", "head_dim", "dtype", "input",
    "seed", "asked_backend", "base_ms", "new_ms", "ratio", "low", "high", "p", "base_rounds", "new_rounds",
    "more_rounds", "note", "cell_key",
)  # fmt: skip


ASKED_SHOWN = frozenset({"label", "cell_key", *LatencyRecord.asked})


def _latency_row(base: Side | None, new: Side | None) -> dict[str, Any]:
    """Return what was asked and what needs no statistics."""
    shown = new or base
    assert shown
    row: dict[str, Any] = {name: getattr(shown.first, name) for name in LATENCY_COLUMNS if name in ASKED_SHOWN}
    for name, side in (("base", base), ("new", new)):
        if side and not side.failed:
            # The geometric mean of the rounds, so that the two times have the ratio that is judged.
            row[f"{name}_ms"] = float(np.exp(np.mean([log(record.median_ms) for record in side.records])))
            row[f"{name}_rounds"] = len(side.records)
    if (verdict := _without_numbers(base, new)) is not None:
        return row | {"verdict": verdict.value, "note": _why(base, new)}
    assert base
    assert new
    return row | {"note": "; ".join(_latency_notes(base, new, row["new_ms"] / row["base_ms"]))}


def _without_numbers(base: Side | None, new: Side | None) -> Verdict | None:
    """Return the verdict of a cell that one side lacks or failed."""
    if base is None:
        return Verdict.ADDED
    if new is None:
        return Verdict.REMOVED
    if new.failed:
        return Verdict.FAILED if base.failed else Verdict.NEW_FAILURE
    if base.failed:
        return Verdict.FIXED
    if base.fell_back != new.fell_back:
        return Verdict.NEW_FAILURE if new.fell_back else Verdict.FIXED
    return None


def _why(base: Side | None, new: Side | None) -> str:
    return (new.reason if new else "") or (base.reason if base else "")


def _latency_notes(base: Side, new: Side, ratio: float) -> Iterator[str]:
    """Say what else changed: the kernel, the clocks, the noise."""
    if new.fell_back:
        yield "fell back to dense in both"
    before, now = base.first.backend, new.first.backend
    if before != now:
        yield f"kernel {before} became {now}"
    clocks = [_clock(side) for side in (base, new)]
    if clocks[0] and clocks[1] and abs(clocks[1] / clocks[0] - 1) > CLOCKS_APART:
        yield f"SM clock {clocks[0]:.0f} became {clocks[1]:.0f} MHz: in cycles {ratio * clocks[1] / clocks[0]:.3f}"
    throttled = [sum(bool(record.throttled) for record in side.records) for side in (base, new)]
    if throttled[0] != throttled[1]:
        yield f"clocks held down in {throttled[0]} and {throttled[1]} rounds"


def _clock(side: Side) -> float | None:
    """Return the median SM clock in MHz; records of older code have one reading instead of a summary."""
    found = [(record.gpu or {}).get("sm_mhz") for record in side.records]
    readings = [clock.get("median") if isinstance(clock, dict) else clock for clock in found]
    known = [clock for clock in readings if clock]
    return float(np.median(known)) if known else None


def _times(side: Side, columns: Mapping[int, int]) -> Floats:
    times = np.full(len(columns), np.nan)
    for record in side.records:
        times[columns[record.round]] = record.median_ms
    return times


ACCURACY_COLUMNS = (
    "verdict", "label", "seq_len", "task", "suite", "variant", "suite_params", "model", "dtype", "dense_layers",
    "chat", "seed", "asked_backend", "n", "base_score", "new_score", "difference", "low", "high", "worse", "better",
    "p", "more_samples", "note",
)  # fmt: skip


def _accuracy_rows(cells: Matched, rule: Rule) -> pd.DataFrame:
    """Return one row a task, and one for the average where a method has several tasks at a length."""
    rows: list[dict[str, Any]] = []
    judged: list[tuple[dict[str, Any], ScoreChange]] = []
    averages: dict[tuple[Any, ...], list[tuple[dict[str, Any], Floats, bool]]] = {}
    for base, new in cells.values():
        row, changes, identical = _accuracy_row(base, new)
        rows.append(row)
        if len(changes):
            judged.append((row, _change([changes], identical=identical)))
            average = tuple(row[name] for name in ACCURACY_COLUMNS if name in row and name in AVERAGED)
            averages.setdefault(average, []).append((row, changes, identical))
    for parts in averages.values():
        if len(parts) > 1:
            same = all(identical for *_, identical in parts)
            row = {name: parts[0][0][name] for name in AVERAGED} | {"task": AVERAGE, "note": IDENTICAL if same else ""}
            for name in ("base_score", "new_score"):
                row[name] = float(np.mean([part[name] for part, *_ in parts]))
            change = _change([changes for _, changes, _ in parts], identical=same)
            rows.append(row)
            judged.append((row, change))
    found = judge_scores([change for _, change in judged], rule)
    for (row, change), verdict, p, more in zip(judged, *found, strict=True):
        settled = row.get("verdict")
        kept = settled if settled and verdict != Verdict.REGRESSED.value else str(verdict)
        row |= {"verdict": kept, "p": p, "more_samples": more, "n": change.n, "difference": change.difference}
        row |= {"low": change.low, "high": change.high, "worse": change.worse, "better": change.better}
    return pd.DataFrame(rows, columns=[*ACCURACY_COLUMNS])


def _change(changes: Sequence[Floats], *, identical: bool) -> ScoreChange:
    """Return the change of one row.

    Args:
        changes: for each task the new score minus the base's of every sample that both have.
        identical: whether every answer is the same word for word.
    """
    everything = np.concatenate(list(changes))
    worse, better = int((everything < 0).sum()), int((everything > 0).sum())
    return ScoreChange(len(everything), *paired_interval(changes), worse, better, identical)


AVERAGED = ("label", "seq_len", "suite", "variant", "suite_params", "model", "dtype", "dense_layers", "chat", "seed",
            "asked_backend")  # fmt: skip
"""Tasks that agree in these are averaged."""


def _accuracy_row(base: Side | None, new: Side | None) -> tuple[dict[str, Any], Floats, bool]:
    """Return a row, the change of each sample that both answered, and whether all answers are the same."""
    shown = new or base
    assert shown
    row = {name: _hashable(getattr(shown.first, name)) for name in (*AVERAGED, "task")} | {"note": ""}
    nothing = np.array([])
    if base is None or new is None:
        verdict = Verdict.ADDED if base is None else Verdict.REMOVED
        return row | {"verdict": verdict.value, "n": 0}, nothing, False
    one, other = ({record.sample_id: record for record in side.records} for side in (base, new))
    shared = one.keys() & other.keys()
    both = sorted(name for name in shared if one[name].status == other[name].status == "ok")
    broken = [name for name in shared if one[name].status == "ok" != other[name].status]
    mended = [name for name in shared if one[name].status != "ok" == other[name].status]
    if not shared:
        row |= {"verdict": Verdict.INCONCLUSIVE.value, "note": "no sample in common"}
    elif broken:
        row |= {"verdict": Verdict.NEW_FAILURE.value, "note": f"{len(broken)} answers failed: {new.reason}"}
    elif mended:
        row |= {"verdict": Verdict.FIXED.value, "note": f"{len(mended)} answers failed before: {base.reason}"}
    elif not both:
        row |= {"verdict": Verdict.FAILED.value, "note": new.reason}
    elif new.fell_back and not base.fell_back:
        row |= {"verdict": Verdict.NEW_FAILURE.value, "note": "fell back to dense"}
    if not both:
        return row | {"n": 0}, nothing, False
    scores = np.array([[one[name].score, other[name].score] for name in both])
    row |= {"base_score": float(scores[:, 0].mean()), "new_score": float(scores[:, 1].mean())}
    identical = all(one[name].prediction == other[name].prediction for name in both)
    # A suite without answers scores distributions: there equal words say nothing.
    same = identical and bool((scores[:, 0] == scores[:, 1]).all())
    if same and not row["note"]:
        row["note"] = IDENTICAL
    return row, scores[:, 1] - scores[:, 0], same


def _notes(base: Run, new: Run, allow: Collection[str]) -> Iterator[str]:
    """Say what differs between the machines without making the runs incomparable."""
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
    versions = [sorted({record.code_version for record in run.records}) for run in (base, new)]
    yield f"code {', '.join(versions[0])} in base, {', '.join(versions[1])} in new"


def geometric_mean(latency: pd.DataFrame) -> tuple[float, int]:
    """Return the geometric mean of the ratios of cells measured on both sides, and how many; NaN of none."""
    ratios = latency["ratio"].dropna().to_numpy(float)
    return (float(np.exp(np.log(ratios).mean())) if len(ratios) else float("nan")), len(ratios)
