"""Terminal output: plans, progress and tables. Results go to stdout, everything else to stderr."""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from fp_bench.jobs.openai.servers import AS_SERVED
from fp_bench.records.record import AccuracyRecord, LatencyRecord, Record, load_name
from fp_bench.reports.escape import one_line
from fp_bench.reports.table import Table
from fp_bench.sizes import format_length, format_ms

if TYPE_CHECKING:
    from fp_bench.jobs.accuracy.plan import Plan as AccuracyPlan
    from fp_bench.jobs.cost import Range
    from fp_bench.jobs.latency.plan import Plan
    from fp_bench.reports.comparing.compare import Comparison

QUIET_SECONDS = 2.0
"""Seconds between two lines of progress without a terminal."""
LONG_SECONDS = 60.0
"""Seconds after which a line is printed in any case."""
PLAIN_WIDTH = 200
"""Width of a table in a file or a pipe without COLUMNS."""
UNLIMITED = 100_000


def say(line: str) -> None:
    """Print a line that is not a result; continue if the stream is closed."""
    with suppress(OSError):
        _people().print(one_line(line), soft_wrap=True, markup=False)


class _Console(Console):
    """A console that raises if its pipe is closed; rich's own exits with 1, which means "regressed"."""

    def on_broken_pipe(self) -> None:
        """Raise what the pipe raised."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def _people() -> Console:
    return _Console(stderr=True, highlight=False)


def show_plan(plan: "Plan") -> None:
    """Print the plan of measurements, its time limit, and notes about the numbers."""
    lengths = list(dict.fromkeys(format_length(group.shape.seq_len) for group in plan.groups))
    labels = [cell.asked["label"] for cell in plan.groups[0].cells]
    shape = plan.groups[0].shape
    layers = len({group.layer for group in plan.groups})
    say(
        f"plan: {', '.join(labels)} at {', '.join(lengths)}"
        f"{f', {layers} layers' if layers > 1 else ''}; {_subject(plan)}, heads "
        f"{shape.q_heads}/{shape.kv_heads}/{shape.head_dim}, {plan.groups[0].cells[0].asked['dtype']}; "
        f"{plan.records} records{_launches(plan)}{'' if plan.seconds is None else f', {between(plan.seconds)}'}"
    )
    for note in plan.notes():
        say(f"note: {note}")


def _launches(plan: "Plan") -> str:
    most = max(group.effort.launches for group in plan.groups)
    return f", processes started anew {'once' if most == 2 else f'{most - 1} times'}" if most > 1 else ""


def _subject(plan: "Plan") -> str:
    model, loads = plan.request.model, plan.request.loads if plan.request.servers else ()
    what = f"time to first token of {model}" if model else f"{plan.input_name} inputs"
    return ", ".join([what, *(load_name(load.concurrency, load.rate) for load in loads)])


def show_accuracy_plan(plan: "AccuracyPlan", seconds: "Range | None", devices: int) -> None:
    """Print what will be answered, how long that may take, and what to know about the numbers.

    Args:
        plan: of the run.
        seconds: on one device; None where there is no estimate.
        devices: number of devices that share it.
    """
    asked = plan.request
    lengths = ", ".join(format_length(length) for length in asked.lens)
    stripes = dict.fromkeys(item.stripe[:2] for item in plan.items)
    suites = ", ".join(f"{spec} ({sum(name == str(spec) for name, _ in stripes)} tasks)" for spec in asked.suites)
    labels = ", ".join(str(candidate.fields()["label"]) for candidate in plan.candidates)
    workers = f", {asked.workers} processes" if (asked.workers or 1) > 1 else ""
    whole = plan.samples * len(stripes) * len(asked.lens) * len(plan.candidates)
    most = "at most " if len(plan.items) < whole else ""
    dtype = AS_SERVED if asked.servers else asked.dtype
    say(
        f"plan: {labels} on {suites} at {lengths}; {most}{plan.samples} samples each, model {asked.model}, "
        f"{dtype}{', chat template' if plan.chat else ''}{workers}; {len(plan.items)} answers"
    )
    if seconds is None:
        why = "the estimate needs a causal language model with attention heads in every layer"
        say(f"cost: not estimated; {'a server does the work' if asked.servers else why}")
    else:
        where = f"on {devices} devices" if devices > 1 else "here"
        shared = type(seconds)(*(end / devices for end in seconds))
        say(f"cost: {between(shared)} {where}, the least for prefill at the rate of a large matrix product")
    for note in plan.notes():
        say(f"note: {note}")


def between(seconds: "Range") -> str:
    """Return ``about 20 s to 3 min``."""
    return f"about {duration(seconds.least)} to {duration(seconds.most)}"


def duration(seconds: float) -> str:
    """Return ``40 s``, ``3 min`` or ``1.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_progress(records: Iterable[Record], total: int, quiet: bool = False) -> Iterator[Record]:
    """Yield the records and show progress: a live bar with rate and time left on a terminal, lines elsewhere.

    Args:
        records: as they are measured.
        total: how many there will be.
        quiet: show no progress.
    """
    if quiet:
        yield from records
        return
    console = _people()
    if not console.is_terminal:
        yield from _progress_lines(records, total)
        return
    what = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True))
    columns = (BarColumn(20), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(elapsed_when_finished=True), what)
    told: set[object] = set()
    with Progress(*columns, console=console, transient=True, expand=True, speed_estimate_period=600) as bar:
        task = bar.add_task("starting", total=total)
        for record in records:
            line = one_line(record_line(record))
            bar.update(task, advance=1, description=line)
            if record.status != "ok" and _first(told, _cell(record), record.reason):
                bar.console.print(line, soft_wrap=True, markup=False)
            yield record


class _Rate(ProgressColumn):
    """Records per second, or seconds per record."""

    def render(self, task: Task) -> Text:
        """Return the rate of the last minutes."""
        return Text(rate(task.speed), style="progress.data.speed")


def rate(speed: float | None) -> str:
    """Return ``12.5/s``, or ``8.0 s each`` below one per second.

    Args:
        speed: records per second; None or 0 if unknown.
    """
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def _progress_lines(records: Iterable[Record], total: int) -> Iterator[Record]:
    """Print the position and the time left: at most one line per cell, and one per failed cell.

    Lines are at least `QUIET_SECONDS` apart; a cell that takes minutes is reported again every `LONG_SECONDS`. The
    time left follows from the records after the first, because that one waits for models and compilers.
    """
    said = first = monotonic()
    told: set[object] = set()
    for done, record in enumerate(records, 1):
        now = monotonic()
        first = now if done == 1 else first
        failed = record.status != "ok" and _first(told, _cell(record), record.reason)
        news = now - said > QUIET_SECONDS and _first(told, _cell(record))
        if failed or news or done == total or now - said > LONG_SECONDS:
            left = (now - first) / max(1, done - 1) * (total - done)
            say(f"{done}/{total} {record_line(record)}{f'; about {duration(left)} left' if left else ''}")
            said = now
        yield record


def _cell(record: Record) -> tuple[object, ...]:
    """Return a key shared by the rounds or samples of one cell."""
    part = record.task if isinstance(record, AccuracyRecord) else record.cell_key
    return record.label, record.seq_len, part


def _first(told: set[object], *what: object) -> bool:
    """Return whether this was not reported yet, and mark it as reported."""
    new = what not in told
    told.add(what)
    return new


def record_line(record: Record) -> str:
    """Return one record in a line."""
    where = f"{format_length(record.seq_len)} {record.label}"
    if isinstance(record, AccuracyRecord):
        where += f" {record.sample_id}"
    elif isinstance(record, LatencyRecord) and record.layer:
        where += f" layer {record.layer}"
    elif isinstance(record, LatencyRecord) and record.load:
        where += f" {record.load}"
    if record.status != "ok":
        return f"{where}: {record.status}: {record.reason}"
    kept = "" if record.density is None else f", density {record.density:.1%}"
    if isinstance(record, AccuracyRecord):
        score = f"{100 * (record.score or 0):.0f}" if record.kl is None else f"KL {record.kl:.4f}"
        return f"{where}: {score}{kept}"
    assert isinstance(record, LatencyRecord)
    return f"{where} round {record.round}: {format_ms(record.median_ms or 0)} ms{kept}"


def show_tables(tables: Sequence[Table], wide: bool = False) -> None:
    """Print tables on stdout; columns that do not fit go below, and nothing is truncated.

    Args:
        tables: empty ones are omitted.
        wide: one line per row, however long.
    """
    console = _Console(highlight=False)
    known = console.is_terminal or "COLUMNS" in os.environ
    width = UNLIMITED if wide else console.width if known else PLAIN_WIDTH
    for table in tables:
        for block in table.blocks(width) if table.rows else ():
            console.width = max(width, block.narrowest)
            console.print(block.rich())


def show_comparisons(comparisons: "Sequence[Comparison]", wide: bool = False) -> None:
    """Print the changes, worst first, and counts of verdicts; after several comparisons also an overview."""
    from fp_bench.reports.comparing.text import overview, summary, tables, title

    console = _Console(highlight=False)
    for comparison in comparisons:
        if len(comparisons) > 1:
            console.print(one_line(f"== {title(comparison)}"), soft_wrap=True, markup=False)
        show_tables(tables(comparison), wide)
        for line in summary(comparison):
            console.print(one_line(line), soft_wrap=True, markup=False)
    if len(comparisons) > 1:
        show_tables([overview(comparisons)], wide)
