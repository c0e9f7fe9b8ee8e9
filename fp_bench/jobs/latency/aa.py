"""The spread of rounds of unchanged code on this machine, and the smallest regression that can be found."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fp_bench.jobs.latency.job import run
from fp_bench.jobs.latency.plan import Plan, make_plan
from fp_bench.jobs.machine import Machine
from fp_bench.jobs.request import LatencyRequest
from fp_bench.records.record import LatencyRecord, Record
from fp_bench.records.store import RecordStore, newest
from fp_bench.reports.table import Table
from fp_bench.reports.verdict import Floats, Rule, Verdict, compare_times, smallest_found, time_of
from fp_bench.sizes import format_length

LENGTHS_GPU, LENGTHS_CPU = (4096, 16384, 65536), (512, 1024)
TITLE = "Rounds of unchanged code, and the smallest slowdown of one cell among 30 that 95 of 100 comparisons find"
FORECAST = (3, 5, 10)
"""Rounds per side for which a smallest regression is given."""
LAUNCHES = 4
"""Two a side are the fewest that are compared."""


def aa_plan(rounds: int) -> Plan:
    """Return a short run of what `fpbench latency` measures by default, of so many rounds a cell or a few more."""
    lens = LENGTHS_CPU if Machine.here().gpu is None else LENGTHS_GPU
    each = -(-rounds // LAUNCHES)
    return make_plan(LatencyRequest(lens=list(lens), rounds=LAUNCHES * each, launches=LAUNCHES))


def measure(plan: Plan) -> Iterator[LatencyRecord]:
    """Measure a plan into a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder, RecordStore(Path(folder)) as store:
        yield from run(plan, store)


def aa_table(records: Sequence[Record], rule: Rule) -> Table:
    """Return the spread of the rounds and launches of each cell, and the smallest slowdown found in 95 of 100 runs.

    The last column compares every second launch (of one launch: round) with the others. Nothing changed, so
    a regression is a false alarm.

    Args:
        records: rounds of unchanged code.
        rule: when a change counts.
    """
    by_cell: dict[str, list[LatencyRecord]] = {}
    for record in newest([record for record in records if isinstance(record, LatencyRecord)]):
        by_cell.setdefault(record.cell_key, []).append(record)
    timed = [rounds for rounds in by_cell.values() if all(record.status == "ok" for record in rounds)]
    if not timed:
        return Table(TITLE, ["length", "method"], [], numbers=2)
    times = _by_launch(timed)
    several = times.shape[1] > 1
    # Every second one, so that drift hits both halves alike.
    halves = (times[:, ::2], times[:, 1::2]) if several else (times[..., ::2], times[..., 1::2])
    # Without a new process in between, launches cannot differ.
    found = compare_times(*halves, rule if several else replace(rule, restart=0.0), forecast=False)
    rows = []
    for rounds, of_cell, verdict in zip(timed, times, found.verdict, strict=True):
        first, logs = rounds[0], np.log(of_cell)
        spread = float(np.sqrt(np.nanmean(np.nanvar(logs, axis=1, ddof=1))))
        launches = float(np.std(np.nanmedian(logs, axis=1), ddof=1)) if several else rule.restart
        forecast = [smallest_found(spread, n, replace(rule, restart=launches)) for n in FORECAST]
        said = "FALSE ALARM" if verdict in (Verdict.REGRESSED, Verdict.IMPROVED) else str(verdict)
        where = [format_length(first.seq_len), first.label, f"{time_of(of_cell):.4g}", f"{spread:.2%}"]
        shown = ["more than 100%" if share is None else f"{share:.1%}" for share in forecast]
        rows.append([*where, *([f"{launches:.2%}"] if several else []), *shown, said])
    headings = ["length", "method", "ms", "spread of rounds", *(["spread of launches"] if several else [])]
    return Table(TITLE, [*headings, *(f"found with {n} rounds" for n in FORECAST), "A/A"], rows, numbers=2)


def _by_launch(cells: Sequence[Sequence[LatencyRecord]]) -> Floats:
    """Return the times ``[cells, launches, rounds]`` in order, NaN for missing rounds."""
    parts = []
    for rounds in cells:
        launches: dict[str | None, list[float]] = {}
        for record in sorted(rounds, key=lambda record: record.round):
            launches.setdefault(record.launch, []).append(record.median_ms or np.nan)
        parts.append(list(launches.values()))
    shape = max(map(len, parts)), max(len(times) for launches in parts for times in launches)
    found = np.full((len(parts), *shape), np.nan)
    for cell, launches_of in enumerate(parts):
        for launch, times in enumerate(launches_of):
            found[cell, launch, : len(times)] = times
    return found
