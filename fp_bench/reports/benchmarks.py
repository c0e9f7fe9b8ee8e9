"""What a report says of the rows that scripts of ``benchmarks/`` wrote."""

from collections.abc import Sequence

import pandas as pd

from fp_bench.records.record import BenchmarkRecord
from fp_bench.records.store import newest
from fp_bench.reports.chapter import Chapter
from fp_bench.reports.table import Table
from fp_bench.sizes import format_length

NOTE = "The first lines of a script say what its columns are, and how it measures: `benchmarks/` in the repository."


def benchmark_chapter(records: Sequence[BenchmarkRecord]) -> Chapter:
    """Return the chapter of benchmarks: a table for each kind of row."""
    shown = newest(records)
    by_figures: dict[tuple[str, ...], list[BenchmarkRecord]] = {}
    for record in shown:
        if record.figures is not None:
            by_figures.setdefault((record.benchmark, *record.case, "", *record.figures), []).append(record)
    failed = [
        [record.label, record.status, format_length(record.seq_len), record.reason or ""]
        for record in shown
        if record.status != "ok"
    ]
    scripts = dict.fromkeys(record.benchmark for record in shown)
    return Chapter(
        title="Benchmarks",
        name="benchmarks",
        headlines=[f"{len(shown)} rows of {', '.join(scripts)}."],
        tables=[_table(rows) for rows in by_figures.values()],
        draw=list,
        failures=Table("Not measured", ["what", "status", "length", "reason"], failed, numbers=4),
        note=NOTE,
        circumstances=[],
        data={"benchmarks": pd.DataFrame([_flat(record) for record in shown])},
    )


def _table(records: Sequence[BenchmarkRecord]) -> Table:
    first = records[0]
    assert first.figures is not None
    rows = [
        [
            format_length(record.seq_len),
            record.label,
            *map(_text, [*record.case.values(), *(record.figures or {}).values()]),
        ]
        for record in records
    ]
    columns = ["length", "what", *first.case, *first.figures]
    return Table(first.benchmark, columns, rows, numbers=2 + len(first.case))


def _text(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _flat(record: BenchmarkRecord) -> dict[str, object]:
    found = {"benchmark": record.benchmark, "label": record.label, "seq_len": record.seq_len, "dtype": record.dtype}
    return found | record.case | {"status": record.status, "reason": record.reason} | (record.figures or {})
