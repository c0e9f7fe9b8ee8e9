"""The rows of a comparison: the matched cells of two runs, judged one by one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fp_bench.records.record import LatencyRecord, Record
from fp_bench.records.store import Run
from fp_bench.reports.clusters import clustered_mean
from fp_bench.reports.scores import ScoreChange, judge_scores, paired_interval
from fp_bench.reports.verdict import Floats, Rule, Verdict, compare_times, time_of

CLOCKS_APART = 0.02
"""Relative difference of SM clocks from which it is reported."""
AVERAGE = "average over tasks"
IDENTICAL = "identical answers"
"""Note of a row with identical answers, which needs no statistics."""


@dataclass(frozen=True)
class Side:
    """One cell of one run: its rounds, or its samples for accuracy."""

    records: Sequence[Any]
    run: Run

    @property
    def first(self) -> Any:
        """Any of the records: what was asked is the same in all."""
        return self.records[0]

    @property
    def launches(self) -> Sequence[str | None]:
        """The processes that measured its rounds, in order; older records do not name them and count as one."""
        return list(dict.fromkeys(record.launch for record in sorted(self.records, key=lambda record: record.round)))

    @property
    def failed(self) -> Record | None:
        """The first record without a result."""
        return next((record for record in self.records if record.status != "ok"), None)

    @property
    def fell_back(self) -> bool:
        """Whether a sparse method ran dense, which is not its result."""
        return any(record.fallback for record in self.records)

    @property
    def reason(self) -> str:
        """Why it has no result; empty if it has."""
        if self.failed:
            return f"{self.failed.status}: {self.failed.reason}"
        return "fell back to dense" if self.fell_back else ""


Matched = dict[tuple[Any, ...], tuple[Side | None, Side | None]]
"""Request -> the cell in base and in new."""


def hashable(value: Any) -> Any:
    """Return a hashable value: JSON for a mapping."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def latency_rows(cells: Matched, rule: Rule, paired: bool) -> pd.DataFrame:
    """Return one row a cell."""
    rows = []
    tested: list[tuple[dict[str, Any], Side, Side]] = []
    for base, new in cells.values():
        row = _latency_row(base, new)
        rows.append(row)
        if "verdict" not in row and base and new:
            tested.append((row, base, new))
    if tested:
        sides = [side for _, *both in tested for side in both]
        numbers = sorted({record.round for side in sides for record in side.records})
        launches = max(len(side.launches) for side in sides)
        times = np.stack([_times(side, launches, numbers) for side in sides])
        found = compare_times(times[::2], times[1::2], rule, paired=paired)
        for (row, *_), verdict, ratio, low, high, p, more, by_launch in zip(tested, *found, strict=True):
            row |= {"verdict": str(verdict), "ratio": ratio, "low": low, "high": high, "p": p}
            row |= {"more": more, "by": "launches" if by_launch else "rounds"}
    return pd.DataFrame(rows, columns=[*LATENCY_COLUMNS])


LATENCY_COLUMNS = (
    "verdict", "label", "seq_len", "q_len", "layer", "batch", "q_heads", "kv_heads", "head_dim", "dtype", "input",
    "seed", "load", "asked_backend", "base_ms", "new_ms", "ratio", "low", "high", "p", "base_rounds", "new_rounds",
    "base_launches", "new_launches", "by", "more", "note", "method", "cell_key",
)  # fmt: skip


ASKED_SHOWN = frozenset({"label", "load", "cell_key", *LatencyRecord.asked})


def _latency_row(base: Side | None, new: Side | None) -> dict[str, Any]:
    """Return the request and values without statistics."""
    shown = new or base
    assert shown
    row: dict[str, Any] = {name: getattr(shown.first, name) for name in LATENCY_COLUMNS if name in ASKED_SHOWN}
    for name, side in (("base", base), ("new", new)):
        if side and not side.failed:
            numbers = sorted({record.round for record in side.records})
            row[f"{name}_ms"] = float(time_of(_times(side, len(side.launches), numbers)))
            row[f"{name}_rounds"], row[f"{name}_launches"] = len(side.records), len(side.launches)
    if (verdict := _without_numbers(base, new)) is not None:
        reason = next((side.reason for side in (new, base) if side and side.reason), "")
        return row | {"verdict": verdict.value, "note": reason}
    assert base
    assert new
    return row | {"note": "; ".join(_latency_notes(base, new, row["new_ms"] / row["base_ms"]))}


def _without_numbers(base: Side | None, new: Side | None) -> Verdict | None:
    """Return the verdict of a cell that is missing or failed on one side."""
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


def _latency_notes(base: Side, new: Side, ratio: float) -> Iterator[str]:
    """Note other changes: kernel, clocks, noise."""
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
    """Return the median SM clock in MHz; older records have one reading instead of a summary."""
    found = [(record.gpu or {}).get("sm_mhz") for record in side.records]
    readings = [clock.get("median") if isinstance(clock, dict) else clock for clock in found]
    known = [clock for clock in readings if clock]
    return float(np.median(known)) if known else None


def _times(side: Side, launches: int, rounds: Sequence[int]) -> Floats:
    """Return the times ``[launches, rounds]`` of a cell, NaN for missing ones."""
    times = np.full((launches, len(rounds)), np.nan)
    columns = {number: column for column, number in enumerate(rounds)}
    for record in side.records:
        times[side.launches.index(record.launch), columns[record.round]] = record.median_ms
    return times


ACCURACY_COLUMNS = (
    "verdict", "label", "seq_len", "task", "suite", "variant", "suite_params", "model", "dtype", "dense_layers",
    "chat", "reasoning", "seed", "asked_backend", "n", "base_score", "new_score", "difference", "low", "high",
    "worse", "better", "p", "more_samples", "base_kl", "new_kl", "kl_low", "kl_high", "note",
)  # fmt: skip


def accuracy_rows(cells: Matched, rule: Rule) -> pd.DataFrame:
    """Return one row per task, and one for the average if a method has several tasks at a length."""
    rows: list[dict[str, Any]] = []
    judged: list[tuple[dict[str, Any], ScoreChange, ScoreChange]] = []
    averages: dict[tuple[Any, ...], list[_Changes]] = {}

    def judge(row: dict[str, Any], parts: Sequence[_Changes]) -> None:
        rows.append(row)
        scores = _change([part.scores for part in parts], identical=all(part.identical for part in parts))
        kl = [part.kl for part in parts if part.kl is not None]
        if len(kl) < len(parts):
            judged.append((row, scores, scores))
            return
        decisive = _kl_change(kl, rule)
        row |= {"kl_low": -decisive.high, "kl_high": -decisive.low} if np.isfinite(decisive.low) else {}
        judged.append((row, scores, decisive))

    for base, new in cells.values():
        row, changes = _accuracy_row(base, new)
        if changes is None:
            rows.append(row)
            continue
        judge(row, [changes])
        average = tuple(row[name] for name in ACCURACY_COLUMNS if name in row and name in AVERAGED)
        averages.setdefault(average, []).append(changes)
    for parts in averages.values():
        if len(parts) > 1:
            same = all(part.identical for part in parts)
            row = {name: parts[0].row[name] for name in AVERAGED} | {"task": AVERAGE, "note": IDENTICAL if same else ""}
            for name in ("base_score", "new_score", "base_kl", "new_kl"):
                if all(name in part.row for part in parts):
                    row[name] = float(np.mean([part.row[name] for part in parts]))
            judge(row, parts)
    found = judge_scores([decisive for *_, decisive in judged], rule)
    for (row, change, _), verdict, p, more in zip(judged, *found, strict=True):
        settled = row.get("verdict")
        kept = settled if settled and verdict != Verdict.REGRESSED.value else str(verdict)
        row |= {"verdict": kept, "p": p, "more_samples": more, "n": change.n, "difference": change.difference}
        row |= {"low": change.low, "high": change.high, "worse": change.worse, "better": change.better}
    return pd.DataFrame(rows, columns=[*ACCURACY_COLUMNS])


def _change(changes: Sequence[Floats], *, identical: bool) -> ScoreChange:
    """Return the change of one row.

    Args:
        changes: for each task the new score minus the base's of every sample that both have.
        identical: whether all answers are identical.
    """
    everything = np.concatenate(list(changes))
    worse, better = int((everything < 0).sum()), int((everything > 0).sum())
    return ScoreChange(len(everything), *paired_interval(changes), worse, better, identical)


def _kl_change(changes: Sequence[Floats], rule: Rule) -> ScoreChange:
    """Return the change of one row in KL, a rise as a loss.

    Args:
        changes: for each task the rise of every sample, ``[samples, blocks]``.
        rule: says how much may be lost.
    """
    fewest = min(change.shape[1] for change in changes)
    everything = -np.concatenate([change[:, :fewest] for change in changes])
    of_sample = everything.mean(axis=1)
    found = clustered_mean(everything)
    return ScoreChange(
        len(everything),
        found.mean,
        found.mean - found.half,
        found.mean + found.half,
        int((of_sample < 0).sum()),
        int((of_sample > 0).sum()),
        identical=not everything.any(),
        p=found.p,
        may_lose=rule.max_kl,
    )


AVERAGED = ("label", "seq_len", "suite", "variant", "suite_params", "model", "dtype", "dense_layers", "chat",
            "reasoning", "seed", "asked_backend")  # fmt: skip
"""Tasks that agree in these are averaged."""


@dataclass(frozen=True)
class _Changes:
    """How the samples of one task changed that both answered."""

    row: dict[str, Any]
    scores: Floats
    identical: bool
    """Whether all answers are identical."""
    kl: Floats | None
    """Rise of the KL to dense attention, ``[samples, blocks]``; None where answers are scored, not distributions."""


def _accuracy_row(base: Side | None, new: Side | None) -> tuple[dict[str, Any], _Changes | None]:
    """Return a row, and how the samples changed that both answered, if there are any."""
    shown = new or base
    assert shown
    row = {name: hashable(getattr(shown.first, name)) for name in (*AVERAGED, "task")} | {"note": ""}
    if base is None or new is None:
        verdict = Verdict.ADDED if base is None else Verdict.REMOVED
        return row | {"verdict": verdict.value, "n": 0}, None
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
        return row | {"n": 0}, None
    scores = np.array([[one[name].score, other[name].score] for name in both])
    row |= {"base_score": float(scores[:, 0].mean()), "new_score": float(scores[:, 1].mean())}
    identical = all(one[name].prediction == other[name].prediction for name in both)
    # A suite without answers scores distributions, so equal words mean nothing.
    same = identical and bool((scores[:, 0] == scores[:, 1]).all())
    sides = [one[name] for name in both], [other[name] for name in both]
    kl = None
    if all(record.kl is not None for side in sides for record in side):
        row |= {
            name: float(np.mean([r.kl for r in side])) for name, side in zip(("base_kl", "new_kl"), sides, strict=True)
        }
        kl = _kl_by_block(*sides)
        same = same and not kl.any()
    if same and not row["note"]:
        row["note"] = IDENTICAL
    return row, _Changes(row, scores[:, 1] - scores[:, 0], same, kl)


def _kl_by_block(base: Sequence[Any], new: Sequence[Any]) -> Floats:
    """Return how much KL rose, ``[samples, blocks]``; where records have no parts, a sample is one block."""
    parts = [(after.kl_by_part, before.kl_by_part) for after, before in zip(new, base, strict=True)]
    if all(after and before and len(after) == len(before) for after, before in parts):
        fewest = min(len(after) for after, _ in parts)
        return np.array([np.subtract(after[:fewest], before[:fewest]) for after, before in parts])
    return np.array([[after.kl - before.kl] for after, before in zip(new, base, strict=True)])


def geometric_mean(latency: pd.DataFrame) -> tuple[float, int]:
    """Return the geometric mean of the decided sparse cells' ratios, and their number; NaN for none."""
    decided = latency["verdict"].isin([Verdict.REGRESSED.value, Verdict.IMPROVED.value, Verdict.UNCHANGED.value])
    ratios = latency.loc[decided & (latency["method"] != "dense"), "ratio"].dropna().to_numpy(float)
    return (float(np.exp(np.log(ratios).mean())) if len(ratios) else float("nan")), len(ratios)
