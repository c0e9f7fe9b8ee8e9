"""The report of a run: ``report.md`` and what it shows, made from records alone."""

import errno
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fp_bench.errors import UnavailableError, UsageError
from fp_bench.results.accuracy_report import accuracy_chapter
from fp_bench.results.chapter import Chapter
from fp_bench.results.environment import environment_rows, machine_name
from fp_bench.results.latency_report import latency_chapter
from fp_bench.results.record import AccuracyRecord, LatencyRecord, Record
from fp_bench.results.store import read_environments, read_records
from fp_bench.results.table import Table

COUNTED = "--samples"
VARIED = ("--methods", "--lens", "--layers", "--tasks", COUNTED)
"""Options whose values differ between the cells of one command; of a count, the greatest covers the others."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_report(folder: Path) -> Path:
    """Write ``report.md``, ``tables/`` and ``plots/`` of a run folder; return the path of the report.

    Raises:
        UsageError: no records there, or the folder cannot be written.
        UnavailableError: the disk is full.
    """
    records = read_records(folder).records
    if not records:
        raise UsageError(f"{folder} has no whole record yet; measure with fpbench latency or accuracy --out {folder}")
    environment = _environment(records, read_environments(folder))
    try:
        path = folder / "report.md"
        path.write_text("\n\n".join(_sections(records, environment, folder)) + "\n")
    except OSError as error:
        kind = UnavailableError if error.errno in FULL else UsageError
        raise kind(f"cannot write the report to {folder}: {error.strerror}; the records are kept") from None
    return path


def chapters(records: Sequence[Record], machine: str, folder: Path) -> list[Chapter]:
    """Return one chapter for each kind in the records."""
    latency = [record for record in records if isinstance(record, LatencyRecord)]
    accuracy = [record for record in records if isinstance(record, AccuracyRecord)]
    found = [latency_chapter(latency, machine, folder)] if latency else []
    return found + ([accuracy_chapter(accuracy, machine)] if accuracy else [])


def _sections(records: Sequence[Record], environment: Mapping[str, Any], folder: Path) -> Iterator[str]:
    machine = machine_name(environment)
    for chapter in chapters(records, machine, folder):
        yield f"# {chapter.title}"
        yield f"On {machine}."
        yield from _chapter(chapter, folder)
    yield "Again, all of it:"
    yield "```\n" + "\n".join(commands(records)) + "\n```"
    yield "One cell again: its `command` in the records."
    yield "## Environment"
    yield _environment_table(environment).markdown()


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
    for plot in chapter.draw():
        yield f"![{plot.title}]({plot.save(plots).relative_to(folder).as_posix()})"
    if chapter.failures.rows:
        yield f"## {chapter.failures.title}"
        yield chapter.failures.markdown()
    yield "## How it was measured"
    yield chapter.note
    yield "\n".join(f"- {line}" for line in chapter.circumstances)


def _environment(records: Sequence[Record], environments: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the environment of the newest record that has one."""
    return next((environments[r.env] for r in reversed(records) if r.env and r.env in environments), {})


def commands(records: Sequence[Record]) -> list[str]:
    """Return the fewest command lines that measure everything again: one for each setting."""
    by_setting: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for record in records:
        words = shlex.split(record.command or "")
        given = dict(zip(words[2::2], words[3::2], strict=False))
        varied = {option: given.pop(option) for option in VARIED if option in given}
        setting = (*words[:2], *(word for option in given.items() for word in option))
        found = by_setting.setdefault(setting, {})
        for option, value in varied.items():
            if value not in found.setdefault(option, []):
                found[option].append(value)
    return [_command(setting, found) for setting, found in by_setting.items() if found]


def _command(setting: Sequence[str], found: Mapping[str, Sequence[str]]) -> str:
    words = list(setting[:2])
    for option, values in found.items():
        words += [option, max(values, key=int) if option == COUNTED else ",".join(values)]
    return shlex.join([*words, *setting[2:]])


def _environment_table(environment: Mapping[str, Any]) -> Table:
    return Table("Environment", ["what", "value"], environment_rows(environment), numbers=2)
