"""The report of a run: ``report.md`` with its tables and plots, computed from records."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fp_bench.jobs.request import join_commands
from fp_bench.records.environment import environment_rows
from fp_bench.records.store import Run
from fp_bench.reports.accuracy.report import accuracy_chapter
from fp_bench.reports.benchmarks import benchmark_chapter
from fp_bench.reports.chapter import Chapter
from fp_bench.reports.escape import csv, fenced, markdown, prose
from fp_bench.reports.latency.report import latency_chapter
from fp_bench.reports.output import write, writing
from fp_bench.reports.table import Table

PAGE = "report.md"
TABLES, PLOTS = "tables", "plots"
MARK = "One cell again: its `command` in the records."
"""In every report.md."""


@dataclass(frozen=True)
class Part:
    """One run's part of a report."""

    run: Run

    @cached_property
    def chapters(self) -> Sequence[Chapter]:
        """One chapter for each kind in the records."""
        run = self.run
        found = [latency_chapter(run.latency, run.machine, run.folder)] if run.latency else []
        found += [accuracy_chapter(run.accuracy, run.machine)] if run.accuracy else []
        return found + ([benchmark_chapter(run.benchmarks)] if run.benchmarks else [])

    @cached_property
    def commands(self) -> Sequence[str]:
        """The fewest command lines that measure everything again."""
        return join_commands(record.command for record in self.run.records if record.command)


def write_markdown(part: Part, folder: Path | None = None) -> Path:
    """Write ``report.md``, ``tables/`` and ``plots/``; return the path of the report.

    Args:
        part: of one run.
        folder: output folder; None: the run folder.

    Raises:
        UsageError: the folder cannot be written, or has something else under these names.
        UnavailableError: the disk is full.
    """
    folder = folder or part.run.folder
    page = folder / PAGE
    with writing(page, MARK, (TABLES, PLOTS)):
        write(page, "\n\n".join(_sections(part)) + "\n")
        for chapter in part.chapters:
            for name, data in chapter.data.items():
                write(folder / TABLES / f"{name}.csv", csv(data))
            tables = "\n\n".join(table.latex() for table in chapter.tables)
            write(folder / TABLES / f"{chapter.name}.tex", tables + "\n")
            for plot in chapter.plots:
                plot.save(folder / PLOTS)
    return page


def _sections(part: Part) -> Iterator[str]:
    run = part.run
    for chapter in part.chapters:
        yield f"# {chapter.title}"
        yield f"On {prose(run.machine)}."
        yield from _chapter(chapter)
    yield "Again, all of it:"
    yield fenced("\n".join(part.commands))
    yield MARK
    yield "## Environment"
    yield environment_table(run.environment).markdown()


def _chapter(chapter: Chapter) -> Iterator[str]:
    yield "\n".join(f"- {prose(line)}" for line in chapter.headlines)
    for table in chapter.tables:
        yield f"## {markdown(table.title)}"
        yield table.markdown()
    for plot in chapter.plots:
        yield f"![{plot.title}]({PLOTS}/{plot.name}.png)"
    if chapter.failures.rows:
        yield f"## {chapter.failures.title}"
        yield chapter.failures.markdown()
    yield "## How it was measured"
    yield chapter.note
    yield "\n".join(f"- {prose(line)}" for line in chapter.circumstances)


def environment_table(environment: Mapping[str, Any]) -> Table:
    """Return the facts of an environment."""
    return Table("Environment", ["what", "value"], environment_rows(environment), numbers=2)
