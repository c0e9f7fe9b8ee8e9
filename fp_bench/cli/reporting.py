"""``fpbench report`` and ``merge``: outputs from the records of runs."""

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fp_bench.cli.front import app
from fp_bench.cli.options import Wide, read_runs
from fp_bench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from fp_bench.reports.report import Part

PAGES = (".html", ".htm")
"""How the name of a page ends."""


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are joined into one report.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write elsewhere: NAME.html is the page; another name is a folder for page, tables and plots. "
            "Default: the run itself; of several, the page runs/report-DATE.html.",
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="Output on stdout: rich, json, or customSmallerIsBetter (writes no report).")
    ] = "rich",
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
    wide: Wide = False,
) -> None:
    """Make one HTML page of runs from their records; for a single run also tables, plots and report.md."""
    forms = ("rich", "json", "customSmallerIsBetter")
    if form not in forms:
        raise UsageError(f"--format {form!r} is unknown{did_you_mean(form, forms)}")
    if out is not None and not out.name:
        raise UsageError(f"--out {str(out)!r} names no file or folder")
    read = read_runs(runs)
    if form == "customSmallerIsBetter":
        from fp_bench.reports.comparing.text import smaller_is_better

        print(smaller_is_better(read))
        return
    from fp_bench.reports.report import Part

    parts = [Part(run) for run in read]
    show_parts(parts, as_json or form == "json", wide=wide)
    write_reports(parts, out)


def show_report(folder: Path, as_json: bool, only: str, wide: bool = False, write: bool = True) -> None:
    """Show the tables of one kind of a run's records and, by default, write its report.

    Args:
        folder: the run folder.
        as_json: on stdout, instead of tables.
        only: the kind of records.
        wide: as for `show_tables`.
        write: whether to write tables, plots, ``report.md`` and the page, which takes seconds.
    """
    from fp_bench.records.store import read_run
    from fp_bench.reports.report import Part

    part = Part(read_run(folder))
    show_parts([part], as_json, only, wide)
    if write:
        write_reports([part], None)


def show_parts(parts: "Sequence[Part]", as_json: bool, only: str | None = None, wide: bool = False) -> None:
    """Show the tables of runs, or of one kind of their records."""
    from fp_bench.cli.terminal import show_tables

    chosen = [(part, chapter) for part in parts for chapter in part.chapters if only in (None, chapter.name)]
    if as_json:
        tables = (chapter.data[chapter.name].assign(run=part.run.folder.name) for part, chapter in chosen)
        rows = [row for table in tables for row in json.loads(table.to_json(orient="records"))]
        print(json.dumps(rows, indent=1))
    else:
        for _, chapter in chosen:
            show_tables([*chapter.tables, chapter.failures], wide)


def write_reports(parts: "Sequence[Part]", out: Path | None) -> None:
    """Write one HTML page of runs, for one run also tables, plots and report.md; print its path as the last line.

    Args:
        parts: the runs.
        out: a page if it ends in .html, else a folder; None: the run's own folder, or the page of several.
    """
    from fp_bench.cli.terminal import say
    from fp_bench.reports.html import write_html
    from fp_bench.reports.report import write_markdown

    page = out
    if page is None or page.suffix not in PAGES:
        if len(parts) == 1:
            write_markdown(parts[0], page)
        page = (page or parts[0].run.folder) / "report.html" if page or len(parts) == 1 else _page_of_several()
    say(f"report: {write_html(parts, page)}")


def _page_of_several() -> Path:
    return Path("runs") / f"report-{date.today():%Y-%m-%d}.html"


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one machine.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; it must not hold records.")],
) -> None:
    """Join run folders into one, each round once."""
    from fp_bench.cli.terminal import say
    from fp_bench.records.merge import merge as join

    written, left_out = join(runs, out)
    say(f"{written} records in {out}; {left_out} that several runs share are written once")
