"""``fpbench tune``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fp_bench.calibration.request import TuneRequest
from fp_bench.cli.asking import Conducting, measuring
from fp_bench.cli.front import EXIT_FAILED
from fp_bench.cli.options import known
from fp_bench.cli.recording import open_places, record, run_folder
from fp_bench.methods.registry import methods as known_methods

if TYPE_CHECKING:
    from fp_bench.calibration.tune import Search
    from fp_bench.calibration.tuned import Tuned
    from fp_bench.jobs.cost import Range
    from fp_bench.jobs.machine import Machine
    from fp_bench.jobs.places import Place
    from fp_bench.records.record import Record


@measuring(TuneRequest)
def tune(request: TuneRequest, how: Conducting) -> None:
    """Find the fastest method and setting for a model within a limit of quality."""
    known(request.methods, known_methods)
    from fp_bench.calibration.tune import results, searches

    folder = run_folder(request.verb, how.out, how.resume)
    with open_places(how.devices, how.ray, request.workers, request.engine) as places:
        todo = searches(request)
        if how.dry_run or not how.quiet:
            _say_plan(request, todo, folder, places)
        if how.dry_run:
            return
        if request.per == "layer":
            request = _with_layers(request, folder, how, places)
            todo = searches(request)
        _search(request, todo, folder, how, places)
    from fp_bench.records.reading import read_records

    records = read_records(folder).records
    found = results(request, todo, records)
    _publish(request, found, records, folder, how)
    raise typer.Exit(0 if any(each.label and each.method != "dense" for each in found) else EXIT_FAILED)


def _say_plan(request: TuneRequest, todo: "Sequence[Search]", folder: Path, places: "Sequence[Place]") -> None:
    """Print what will be searched, and how long it may take."""
    from fp_bench.cli.terminal import between, say

    settings = max(len(search.candidates) for search in todo)
    samples = max(search.most for search in todo)
    count = f"{len(todo)} search{'es' if len(todo) > 1 else ''}"
    say(f"{count} over at most {settings} settings, {samples} samples each; into {folder}")
    seconds = places[0].run(_seconds, request, todo, places[0].machine)
    if seconds is not None:
        say(f"cost: {between(seconds)} for answers, and the time to first token of each setting found")


def _with_layers(request: TuneRequest, folder: Path, how: Conducting, places: "Sequence[Place]") -> TuneRequest:
    """Measure each layer alone; return the request with FlashPrefill at an alpha for each layer beside its methods."""
    from fp_bench.calibration.per_layer import layer_trials, missing
    from fp_bench.calibration.trials import losses_of
    from fp_bench.calibration.tune import profile, with_layers
    from fp_bench.records.reading import read_records

    asked, conduct = layer_trials(request, folder), how.conduct()
    record(
        folder,
        lambda store: profile(request, asked, store, conduct, places),
        lambda store: sum(len(each.numbers) for each in missing(asked, losses_of(request, store.records))),
        set(),
        how.budget,
        how.quiet,
    )
    return with_layers(request, asked, folder, read_records(folder).records)


def _search(
    request: TuneRequest, todo: "Sequence[Search]", folder: Path, how: Conducting, places: "Sequence[Place]"
) -> None:
    """Search, measure what was found again, and time it."""
    from fp_bench.calibration.tune import pending, tune

    conduct = how.conduct()
    record(
        folder,
        lambda store: tune(request, todo, store, conduct, places),
        lambda store: pending(request, todo, store.records),
        set(),
        how.budget,
        how.quiet,
    )


def _publish(
    request: TuneRequest, found: "Sequence[Tuned]", records: "Sequence[Record]", folder: Path, how: Conducting
) -> None:
    """Show what was found, and write ``tuned.yaml`` and the report."""
    from fp_bench.calibration import tuned
    from fp_bench.cli.terminal import say, show_tables
    from fp_bench.records.files import replace_file
    from fp_bench.records.store import read_run
    from fp_bench.reports.html import Lead, write_html
    from fp_bench.reports.report import Part

    times = "" if request.engine == "hf" else f"; times in {request.engine}"
    table = tuned.table(found, request.limit_text + times)
    if how.as_json:
        print(json.dumps([dict(zip(table.columns, row, strict=True)) for row in table.rows], indent=1))
    else:
        show_tables([table], how.wide)
    if request.per == "layer":
        say(tuned.gain_of_layers(found))
    replace_file(folder / "tuned.yaml", tuned.methods_file(found, request.model).encode())
    say(f"methods for --methods, FPBENCH_METHOD and SparsePrefill: {folder / 'tuned.yaml'}")
    if how.report:
        drawn = tuned.plot(records, request.limit if request.measure == "kl" else None)
        plots = [] if drawn is None else [drawn]
        for plot in plots:
            plot.save(folder)
        title = f"Which prefill method for {request.model}, with {request.limit_text}"
        lead = Lead(title, tuned.answer(found, request.limit_text), [table], plots)
        say(f"report: {write_html([Part(read_run(folder))], folder / 'report.html', lead)}")


def _seconds(request: TuneRequest, todo: "Sequence[Search]", machine: "Machine") -> "Range | None":
    """Return how long the answers of all searches may take on one device; None if that cannot be estimated."""
    from fp_bench.calibration.tune import answers
    from fp_bench.jobs.cost import Range, answer_seconds
    from fp_bench.jobs.machine import parse_dtype

    dtype, count = parse_dtype(request.dtype), len(request.methods)
    ends = [
        answer_seconds(request.model, prompts, machine, dtype, methods=count, written=False)
        for prompts in answers(todo)
    ]
    return Range(ends[0].least, ends[1].most) if ends[0] and ends[1] else None
