"""``fpbench reproduce``: the papers' figures, from our records."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fp_bench.cli.front import EXIT_FAILED, EXIT_NOTHING, app
from fp_bench.cli.options import Wide
from fp_bench.errors import UsageError

if TYPE_CHECKING:
    from fp_bench.reports.papers.figure import PaperFigure

PUBLISHED = (Path("results/h200"), Path("results/h100"))


@app.command()
def reproduce(
    figure: Annotated[str | None, typer.Argument(help="Name of one figure; default: all.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the figures and stop.")] = False,
    records: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of runs; repeat it for several. The first one that measured a statement decides. "
            "Default: results/h200 and results/h100 of a checkout."
        ),
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="First run the figure's commands.")] = False,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the page, its plots, and records of --measure.")
    ] = Path("runs/reproduce"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON on stdout.")] = False,
    wide: Wide = False,
) -> None:
    """Reproduce figures and tables of the papers: our values over theirs, and which of their statements hold."""
    from fp_bench.cli.terminal import say, show_tables
    from fp_bench.reports.papers.figure import load_figure, load_figures

    figures = [load_figure(figure)] if figure else load_figures()
    from fp_bench.reports.papers.page import Again, list_table, overview_table, rows, write_page

    if listing:
        show_tables([list_table(figures)], wide)
        return
    from fp_bench.reports.papers.judge import Judgement
    from fp_bench.reports.papers.measured import read_measured

    if measure and figure and not figures[0].commands:
        raise UsageError(f"{figure} has no command to measure it: {figures[0].unmeasured}")
    fresh = [folder for one in figures for folder in _measure(one, out / "records")] if measure else []
    measured = read_measured([*fresh, *(records or ([] if measure else _published()))])
    made = [Again(one, measured) for one in figures]
    page = write_page(made, out)
    if as_json:
        print(json.dumps(rows(made), indent=1))
    else:
        show_tables([made[0].table() if figure else overview_table(made)], wide)
        if figure and made[0].figure.unmeasured:
            say(f"{figure} is not compared: {made[0].figure.unmeasured}")
    say(f"page: {page}")
    verdicts = [finding.verdict for again in made for finding in again.findings]
    raise typer.Exit(EXIT_NOTHING if all(verdict is Judgement.NOT_MEASURED for verdict in verdicts) else 0)


def _published() -> list[Path]:
    found = [folder for folder in PUBLISHED if folder.is_dir()]
    if not found:
        raise UsageError(
            f"no records: {' and '.join(map(str, PUBLISHED))} of a checkout are not here; give --records or --measure"
        )
    return found


def _measure(figure: "PaperFigure", folder: Path) -> list[Path]:
    """Run a figure's commands like the command line; return their run folders."""
    folders = []
    for number, command in enumerate(figure.commands, 1):
        run = folder / (figure.name if len(figure.commands) == 1 else f"{figure.name}-{number}")
        try:
            app([*shlex.split(command), "--out", str(run)], prog_name="fpbench")
        except SystemExit as ended:
            # Failed cells are records; they give the reason why a statement is not measured.
            if ended.code not in (0, EXIT_FAILED):
                raise
        folders.append(run)
    return folders
