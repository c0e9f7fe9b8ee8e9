"""``fpbench compare``: judges runs against a base run, or methods of one run."""

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fp_bench.cli.front import EXIT_FAILED, EXIT_INCONCLUSIVE, EXIT_REGRESSED, app
from fp_bench.cli.options import Wide, read_runs
from fp_bench.errors import UnavailableError, UsageError, did_you_mean
from fp_bench.methods.registry import split_unquoted
from fp_bench.sizes import parse_share

if TYPE_CHECKING:
    from fp_bench.records.store import Run
    from fp_bench.reports.comparing.compare import Comparison

GRAVITY = (EXIT_REGRESSED, EXIT_FAILED, EXIT_INCONCLUSIVE)
"""Exit codes of one comparison, worst first; the worst of several counts."""


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="The base run, then the runs to judge; or one run, with --base and --new.")
    ],
    base: Annotated[
        str | None, typer.Option("--base", "-b", help="Base method, e.g. dense; default: the same method.")
    ] = None,
    new: Annotated[
        str | None, typer.Option("--new", help="Methods to compare with --base, e.g. flashprefill:alpha=0.12.")
    ] = None,
    min_effect: Annotated[str, typer.Option(help="Smallest change of a time that counts as a change.")] = "3%",
    fdr: Annotated[float, typer.Option(help="Share of false alarms among the reported changes.")] = 0.05,
    max_drop: Annotated[float, typer.Option(help="Largest loss of a score, in points, that is no regression.")] = 1.0,
    max_kl: Annotated[float, typer.Option(help="Nats that the KL to dense attention may rise.")] = 0.005,
    allow: Annotated[
        str | None,
        typer.Option(help="Differences to allow: gpu, input, dtype, timer, cache, variant, version, params."),
    ] = None,
    paired: Annotated[
        bool | None, typer.Option(help="Whether the rounds of both runs alternated; default: by the records' times.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="rich, md, csv, json, junit, or customSmallerIsBetter (judged values).")
    ] = "rich",
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
    ci: Annotated[str | None, typer.Option(help="github: write annotations and the job summary.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 5 if a cell is inconclusive or was removed.")
    ] = False,
    wide: Wide = False,
) -> None:
    """Judge runs against a base run, or methods against a base: regressed, improved, unchanged or inconclusive."""
    effect = parse_share(min_effect, "--min-effect")
    for option, value, high in (("--fdr", fdr, 0.5), ("--max-drop", max_drop, 100.0), ("--max-kl", max_kl, 100.0)):
        if not 0 < value < high:
            raise UsageError(f"{option} {value:g} is out of limits: above 0 and below {high:g}")
    if ci not in (None, "github"):
        raise UsageError(f"--ci {ci!r} is unknown; known: github")
    if len(runs) == 1 and not (base and new):
        raise UsageError(f"{runs[0]} is the only run; give a second one, or --base METHOD and --new METHOD")
    from fp_bench.cli.terminal import show_comparisons
    from fp_bench.reports.comparing.compare import compare as compare_runs
    from fp_bench.reports.comparing.forms import FORMATS
    from fp_bench.reports.escape import printable
    from fp_bench.reports.verdict import Rule

    form = "json" if as_json else form
    if form not in ("rich", *FORMATS):
        raise UsageError(f"--format {form!r} is unknown{did_you_mean(form, ('rich', *FORMATS))}")
    allowed = [name.strip() for name in allow.split(",")] if allow else []
    rule = Rule(effect, fdr, max_drop / 100, max_kl)
    found = [compare_runs(*sides, rule, allow=allowed, paired=paired) for sides in _sides(read_runs(runs), base, new)]
    if form == "rich":
        show_comparisons(found, wide)
    else:
        print(printable(FORMATS[form](found).rstrip("\n")))
    if ci:
        _tell_github(found)
    codes = [_verdict_code(each, strict) for each in found]
    raise typer.Exit(next((code for code in GRAVITY if code in codes), 0))


def _sides(runs: "list[Run]", base: str | None, new: str | None) -> "Iterator[tuple[Run, Run]]":
    """Yield the pairs to compare: every judged run, and every judged method in it."""
    from fp_bench.reports.comparing.one_method import methods_as_runs

    first, *others = runs
    for other in others or [first]:
        if not (base or new):
            yield first, other
            continue
        for method in split_unquoted(new or base or "", ","):
            yield methods_as_runs(first, base or method, other, method)


def _tell_github(found: "Sequence[Comparison]") -> None:
    """Write annotations to stderr, which GitHub reads too, and the job summary."""
    from fp_bench.reports.comparing.text import annotations, markdown
    from fp_bench.reports.escape import printable

    for line in itertools.chain.from_iterable(map(annotations, found)):
        print(printable(line), file=sys.stderr)
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a") as file:
                file.write(printable("\n\n".join(map(markdown, found))) + "\n")
        except OSError as error:
            raise UnavailableError(f"GITHUB_STEP_SUMMARY {path} cannot be written: {error.strerror}") from None


def _verdict_code(found: "Comparison", strict: bool) -> int:
    from fp_bench.reports.verdict import Verdict

    if found.count(Verdict.REGRESSED):
        return EXIT_REGRESSED
    if found.count(Verdict.NEW_FAILURE):
        return EXIT_FAILED
    return EXIT_INCONCLUSIVE if strict and any(map(found.count, (Verdict.INCONCLUSIVE, Verdict.REMOVED))) else 0
