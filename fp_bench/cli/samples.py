"""``fpbench samples``: a run's prompts and the answer of each method."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fp_bench.cli.front import EXIT_NOTHING, app
from fp_bench.cli.options import read_runs, within
from fp_bench.errors import UnavailableError, UsageError, said
from fp_bench.sizes import format_length, parse_length

if TYPE_CHECKING:
    from fp_bench.records.record import AccuracyRecord
    from fp_bench.reports.accuracy.samples import Answers

KEEP = 400
"""Characters shown of a prompt's start and end."""


@app.command()
def samples(
    run: Annotated[Path, typer.Argument(help="The run folder of an accuracy run.")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Only samples of this task.")] = None,
    differs: Annotated[
        bool, typer.Option("--differs", "-d", help="Only samples on which the methods' scores differ.")
    ] = False,
    method: Annotated[
        str | None, typer.Option("--method", "-m", help="Only this method's answers, next to those of dense attention.")
    ] = None,
    length: Annotated[str | None, typer.Option("--len", "-l", help="Only samples of this length, e.g. 4k.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", callback=within(1, 1_000_000), help="Samples to show.")] = 5,
    full: Annotated[bool, typer.Option("--full", help="Show whole prompts, not only their start and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the samples as JSON on stdout.")] = False,
) -> None:
    """Show prompts, the answer of each method and the expected one; prompts are generated again from the seed."""
    tokens = None if length is None else parse_length(length)
    (read,) = read_runs([run])
    if not read.accuracy:
        raise UsageError(f"{run} has no accuracy records; give a run of fpbench accuracy")
    from fp_bench.cli.terminal import say
    from fp_bench.reports.accuracy.samples import samples as found_in

    found = found_in(read.accuracy, task=task, method=method, length=tokens, differs=differs)
    if not found:
        say("no sample: the methods' scores are the same on all of them" if differs else "no sample")
        raise typer.Exit(EXIT_NOTHING)
    if as_json:
        print(json.dumps([_row(answers) for answers in found[:limit]], indent=1))
    else:
        for answers in found[:limit]:
            _show(answers, full)
    if len(found) > limit:
        say(f"{limit} of {len(found)} samples; --limit {len(found)} shows all of them")


def _show(answers: "Answers", full: bool) -> None:
    from fp_bench.reports.accuracy.samples import answer_lines, shortened
    from fp_bench.reports.escape import printable

    first = answers.first
    name = f"{first.suite}@{first.variant}" if first.variant else first.suite
    lines = [f"== {name} {first.task} at {format_length(first.seq_len)}: {first.sample_id}, seed {first.seed}"]
    text, why_not = _prompt(first)
    if text is None:
        lines.append(f"prompt: not available: {why_not}")
    else:
        template = "; the model read it in its chat template" if first.templated else ""
        lines.append(f"prompt ({first.prompt_tokens or 'unknown'} tokens{template}):")
        lines.append(text if full else shortened(text, KEEP))
    lines.append(f"expected: {', '.join(map(repr, answers.expected)) or 'the distributions of dense attention'}")
    print(printable("\n".join([*lines, *answer_lines(answers)])) + "\n")


def _prompt(record: "AccuracyRecord") -> tuple[str | None, str]:
    """Return a prompt, or the reason why it cannot be generated again."""
    from fp_bench.jobs.accuracy.again import sample_of

    try:
        return sample_of(record).text, ""
    except (UsageError, UnavailableError) as error:
        return None, said(error)


def _row(answers: "Answers") -> dict[str, Any]:
    first = answers.first
    text, why_not = _prompt(first)
    shared = ("suite", "variant", "task", "seq_len", "sample_id", "seed", "model", "prompt_tokens")
    of_each = ("label", "status", "reason", "score", "kl", "prediction")
    return {name: getattr(first, name) for name in shared} | {
        "prompt": text,
        "prompt_missing": why_not or None,
        "expected": answers.expected,
        "answers": [{name: getattr(record, name) for name in of_each} for record in answers.records],
    }
