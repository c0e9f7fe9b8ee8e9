"""How much rounds differ on this machine when nothing changed, and the smallest regression that can be told from it."""

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
from fp_bench.reports.verdict import Rule, Verdict, compare_times, smallest_found
from fp_bench.sizes import format_length

LENGTHS_GPU, LENGTHS_CPU = (4096, 16384, 65536), (512, 1024)
TITLE = "Rounds of unchanged code, and the smallest slowdown of one cell among 30 that 95 of 100 comparisons find"
FORECAST = (3, 5, 10)
"""Rounds a side that a smallest regression is given for."""


def aa_plan(rounds: int) -> Plan:
    """Return a short run of what `fpbench latency` measures by default, of so many rounds a cell."""
    lens = LENGTHS_CPU if Machine.here().gpu is None else LENGTHS_GPU
    return make_plan(LatencyRequest(lens=list(lens), rounds=rounds))


def measure(plan: Plan) -> Iterator[LatencyRecord]:
    """Measure a plan into a folder that is thrown away; yield the records."""
    with tempfile.TemporaryDirectory() as folder, RecordStore(Path(folder)) as store:
        yield from run(plan, store)


def aa_table(records: Sequence[Record], rule: Rule) -> Table:
    """Return the spread of the rounds of each cell, and the smallest slowdown that is found in 95 of 100 runs.

    The last column compares every second round with the others: nothing changed, so a regression is a false alarm.

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
    times = np.array([[[record.median_ms or np.nan for record in rounds]] for rounds in timed])
    # Every second round: what drifts during the run hits both halves alike, and no process was started in between.
    halves = compare_times(times[..., ::2], times[..., 1::2], replace(rule, restart=0.0), forecast=False)
    rows = []
    for rounds, of_cell, verdict in zip(timed, times, halves.verdict, strict=True):
        first = rounds[0]
        spread = float(np.std(np.log(of_cell), ddof=1))
        found = [smallest_found(spread, n, rule) for n in FORECAST]
        forecast = ["more than 100%" if share is None else f"{share:.1%}" for share in found]
        said = "FALSE ALARM" if verdict in (Verdict.REGRESSED, Verdict.IMPROVED) else str(verdict)
        where = [format_length(first.seq_len), first.label]
        rows.append([*where, f"{np.median(of_cell):.4g}", f"{spread:.2%}", *forecast, said])
    headings = ["length", "method", "ms", "spread of rounds", *(f"found with {n} rounds" for n in FORECAST), "A/A"]
    return Table(TITLE, headings, rows, numbers=2)
