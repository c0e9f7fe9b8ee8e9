"""``fpbench compare``: a run judged against another."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fp_bench.cli.front import EXIT_FAILED, EXIT_INCONCLUSIVE, EXIT_REGRESSED, app
from fp_bench.cli.options import read_runs
from fp_bench.errors import UnavailableError, UsageError, did_you_mean
from fp_bench.sizes import parse_share

if TYPE_CHECKING:
    from fp_bench.reports.compare import Comparison


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="The run folder to compare with.")],
    new: Annotated[Path, typer.Argument(help="The run folder that is judged.")],
    min_effect: Annotated[str, typer.Option(help="Smallest change of a time that counts.")] = "3%",
    fdr: Annotated[float, typer.Option(help="Share of false alarms among what is called a change.")] = 0.05,
    max_drop: Annotated[float, typer.Option(help="Points of a score that may be lost.")] = 1.0,
    allow: Annotated[
        str | None,
        typer.Option(help="What may differ: gpu, input, dtype, timer, cache, variant, version, params; commas."),
    ] = None,
    paired: Annotated[
        bool | None, typer.Option(help="Whether rounds of the two alternated; default: the times of the records tell.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="rich, md, csv, json, or customSmallerIsBetter: of NEW.")
    ] = "rich",
    ci: Annotated[str | None, typer.Option(help="github: annotations, and the summary of the job.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 5 where a cell is inconclusive or removed.")
    ] = False,
) -> None:
    """Judge a run against another: regressed, improved, unchanged, or not known yet."""
    effect = parse_share(min_effect, "--min-effect")
    for option, value, high in (("--fdr", fdr, 0.5), ("--max-drop", max_drop, 100.0)):
        if not 0 < value < high:
            raise UsageError(f"{option} {value:g} is out of limits: above 0 and below {high:g}")
    if ci not in (None, "github"):
        raise UsageError(f"--ci {ci!r} is unknown; known: github")
    from fp_bench.cli.terminal import show_comparison
    from fp_bench.reports.compare import compare as compare_runs
    from fp_bench.reports.compare_text import FORMATS
    from fp_bench.reports.verdict import Rule

    if form not in ("rich", *FORMATS):
        raise UsageError(f"--format {form!r} is unknown{did_you_mean(form, ('rich', *FORMATS))}")
    allowed = [name.strip() for name in allow.split(",")] if allow else []
    rule = Rule(effect, fdr, max_drop / 100)
    one, other = read_runs([base, new])
    found = compare_runs(one, other, rule, allow=allowed, paired=paired)
    if form == "rich":
        show_comparison(found)
    else:
        print(FORMATS[form](found).rstrip("\n"))
    if ci:
        _tell_github(found)
    raise typer.Exit(_verdict_code(found, strict))


def _tell_github(found: "Comparison") -> None:
    """Write annotations to stderr, where GitHub reads them too, and the summary of the job."""
    from fp_bench.reports.compare_text import annotations, markdown

    for line in annotations(found):
        print(line, file=sys.stderr)
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a") as file:
                file.write(markdown(found) + "\n")
        except OSError as error:
            raise UnavailableError(f"GITHUB_STEP_SUMMARY {path} cannot be written: {error.strerror}") from None


def _verdict_code(found: "Comparison", strict: bool) -> int:
    from fp_bench.reports.verdict import Verdict

    if found.count(Verdict.REGRESSED):
        return EXIT_REGRESSED
    if found.count(Verdict.NEW_FAILURE):
        return EXIT_FAILED
    return EXIT_INCONCLUSIVE if strict and any(map(found.count, (Verdict.INCONCLUSIVE, Verdict.REMOVED))) else 0
