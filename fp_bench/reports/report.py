"""The report of a run: ``report.md`` and what it shows, made from records alone."""

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.jobs.request import join_commands
from fp_bench.records.environment import environment_rows
from fp_bench.records.store import Run
from fp_bench.reports.accuracy.report import accuracy_chapter
from fp_bench.reports.chapter import Chapter
from fp_bench.reports.latency.report import latency_chapter
from fp_bench.reports.table import Table

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Part:
    """One run's part of a report."""

    run: Run

    @cached_property
    def chapters(self) -> Sequence[Chapter]:
        """One chapter for each kind in the records."""
        run = self.run
        found = [latency_chapter(run.latency, run.machine, run.folder)] if run.latency else []
        return found + ([accuracy_chapter(run.accuracy, run.machine)] if run.accuracy else [])

    @cached_property
    def commands(self) -> Sequence[str]:
        """The fewest command lines that measure everything again."""
        return join_commands(record.command for record in self.run.records if record.command)


def write_markdown(part: Part) -> Path:
    """Write ``report.md``, ``tables/`` and ``plots/`` of a run folder; return the path of the report.

    Raises:
        UsageError: the folder cannot be written.
        UnavailableError: the disk is full.
    """
    folder = part.run.folder
    try:
        path = folder / "report.md"
        path.write_text("\n\n".join(_sections(part)) + "\n")
    except OSError as error:
        raise refused(error, folder) from None
    return path


def refused(error: OSError, folder: Path) -> Exception:
    """Return what to raise when a report cannot be written."""
    kind = UnavailableError if error.errno in FULL else UsageError
    return kind(f"cannot write the report to {folder}: {error.strerror}; the records are kept")


def _sections(part: Part) -> Iterator[str]:
    run = part.run
    for chapter in part.chapters:
        yield f"# {chapter.title}"
        yield f"On {run.machine}."
        yield from _chapter(chapter, run.folder)
    yield "Again, all of it:"
    yield "```\n" + "\n".join(part.commands) + "\n```"
    yield "One cell again: its `command` in the records."
    yield "## Environment"
    yield environment_table(run.environment).markdown()


def _chapter(chapter: Chapter, folder: Path) -> Iterator[str]:
    """Write a chapter's files and yield its sections."""
    tables, plots = folder / "tables", folder / "plots"
    tables.mkdir(exist_ok=True)
    plots.mkdir(exist_ok=True)
    for name, data in chapter.data.items():
        data.to_csv(tables / f"{name}.csv", index=False)
    (tables / f"{chapter.name}.tex").write_text("\n\n".join(table.latex() for table in chapter.tables) + "\n")
    yield "\n".join(f"- {line}" for line in chapter.headlines)
    for table in chapter.tables:
        yield f"## {table.title}"
        yield table.markdown()
    for plot in chapter.plots:
        yield f"![{plot.title}]({plot.save(plots).relative_to(folder).as_posix()})"
    if chapter.failures.rows:
        yield f"## {chapter.failures.title}"
        yield chapter.failures.markdown()
    yield "## How it was measured"
    yield chapter.note
    yield "\n".join(f"- {line}" for line in chapter.circumstances)


def environment_table(environment: Mapping[str, Any]) -> Table:
    """Return the facts of an environment."""
    return Table("Environment", ["what", "value"], environment_rows(environment), numbers=2)
