"""What people see while fpbench works: plans, progress and tables. Results go to stdout, everything else to stderr."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fp_bench.results.record import Record
from fp_bench.results.tables import Table
from fp_bench.sizes import format_length

if TYPE_CHECKING:
    from fp_bench.latency.plan import Plan

PLAIN_WIDTH = 200
"""Columns of a table that goes to a file or a pipe."""


def say(line: str) -> None:
    """Print a line that is no result."""
    _people().print(line, soft_wrap=True, markup=False)


def _people() -> Console:
    return Console(stderr=True, highlight=False)


def show_plan(plan: "Plan") -> None:
    """Print what will be measured, how long it may take, and what to know about the numbers."""
    lengths = list(dict.fromkeys(format_length(group.shape.seq_len) for group in plan.groups))
    labels = [cell.asked["label"] for cell in plan.groups[0].cells]
    shape = plan.groups[0].shape
    layers = len({group.layer for group in plan.groups})
    say(
        f"plan: {', '.join(labels)} at {', '.join(lengths)}"
        f"{f', {layers} layers' if layers > 1 else ''}; {plan.source.name} inputs, heads "
        f"{shape.q_heads}/{shape.kv_heads}/{shape.head_dim}, {plan.request.dtype}; "
        f"{plan.records} records, at most about {duration(plan.seconds)}"
    )
    for note in plan.notes():
        say(f"note: {note}")


def duration(seconds: float) -> str:
    """Return ``40 s``, ``3 min`` or ``1.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_progress(records: Iterable[Record], total: int) -> Iterator[Record]:
    """Pass records on, with a bar on a terminal and a line a record elsewhere."""
    console = _people()
    if not console.is_terminal:
        for done, record in enumerate(records, 1):
            say(f"{done}/{total} {record_line(record)}")
            yield record
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task("checking the first cell", total=total)
        for record in records:
            bar.update(task, advance=1, description=record_line(record)[:80])
            if record.status != "ok":
                bar.console.print(record_line(record), soft_wrap=True, markup=False)
            yield record


def record_line(record: Record) -> str:
    """Return one record in a line."""
    where = f"{format_length(record.seq_len)} {record.label}{f' layer {record.layer}' if record.layer else ''}"
    if record.median_ms is None:
        return f"{where}: {record.status}: {record.reason}"
    return f"{where} round {record.round}: {record.median_ms:.4g} ms, density {record.density or 0:.1%}"


def show_tables(tables: Sequence[Table]) -> None:
    """Print tables on stdout; one that is too wide for the terminal is wrapped by it, never cut."""
    console = Console(highlight=False)
    width = console.width if console.is_terminal else PLAIN_WIDTH
    for table in tables:
        if table.rows:
            console.width = max(width, table.narrowest)
            console.print(table.rich())
