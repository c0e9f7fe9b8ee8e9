"""``fpbench accuracy``."""

import typer

from fp_bench.cli.asking import Conducting, measuring
from fp_bench.cli.options import known
from fp_bench.cli.recording import exit_code, open_places, record, run_folder
from fp_bench.cli.reporting import show_report
from fp_bench.errors import UsageError
from fp_bench.jobs.request import AccuracyRequest
from fp_bench.methods.registry import methods as known_methods
from fp_bench.suites.registry import suites as known_suites


@measuring(AccuracyRequest)
def accuracy(request: AccuracyRequest, how: Conducting) -> None:
    """Score a model's answers with each method against those with dense attention, on the same prompts."""
    if request.spread and (how.devices or how.ray or (request.workers or 1) > 1):
        raise UsageError("--spread is one copy of the model on all visible GPUs; give no --devices, --ray or --workers")
    known(request.methods, known_methods)
    known(request.suites, known_suites)
    if request.tasks == ["list"]:
        from fp_bench.cli.listings.suites import task_table
        from fp_bench.cli.terminal import show_tables

        show_tables([task_table(spec.name for spec in request.suites)])
        return
    from fp_bench.jobs.server import start_server

    if how.isolate and not how.dry_run and not how.ray:
        # It imports torch and transformers for the workers while this process does so for the plan.
        start_server(["fp_bench.jobs.accuracy.worker", "fp_bench.models.loading.imports"])
    from fp_bench.cli.terminal import show_accuracy_plan
    from fp_bench.jobs.accuracy.job import pending_items, run
    from fp_bench.jobs.accuracy.plan import make_plan
    from fp_bench.jobs.cost import answer_seconds
    from fp_bench.jobs.machine import parse_dtype

    conduct = how.conduct()
    folder = run_folder(request.verb, how.out, how.resume)
    with open_places(how.devices, how.ray, request.workers, request.engine) as places:
        plan = places[0].run(make_plan, request, places[0].machine)
        if how.dry_run or not how.quiet:
            dtype = parse_dtype(request.dtype)
            seconds = (
                None
                if request.servers
                else places[0].run(
                    answer_seconds,
                    request.model,
                    plan.prompts,
                    places[0].machine,
                    dtype,
                    methods=len(plan.candidates),
                    written=not all(item.compared for item in plan.items),
                )
            )
            show_accuracy_plan(plan, seconds, len(places))
        if how.dry_run:
            return
        records = record(
            folder,
            lambda store: run(plan, store, conduct, places),
            lambda store: len(pending_items(plan, store, conduct)),
            {item.key for item in plan.items},
            how.budget,
            how.quiet,
        )
    if records:
        show_report(folder, how.as_json, only="accuracy", wide=how.wide, write=how.report)
    raise typer.Exit(exit_code(records, named=request.methods is not None))
