"""``fpbench latency``."""

import typer

from fp_bench.cli.asking import Conducting, measuring
from fp_bench.cli.options import known
from fp_bench.cli.recording import exit_code, open_places, record, run_folder
from fp_bench.cli.reporting import show_report
from fp_bench.jobs.request import LatencyRequest
from fp_bench.methods.registry import methods as known_methods


@measuring(LatencyRequest)
def latency(request: LatencyRequest, how: Conducting) -> None:
    """Time methods against dense attention; also check each one and measure its density, recall and error."""
    known(request.methods, known_methods)
    from fp_bench.cli.terminal import show_plan
    from fp_bench.jobs.latency.job import count_pending, run
    from fp_bench.jobs.latency.plan import make_plan

    conduct = how.conduct()
    folder = run_folder(request.verb, how.out, how.resume)
    with open_places(how.devices, how.ray, engine=request.engine) as places:
        plan = places[0].run(make_plan, request, places[0].machine, how.budget)
        if how.dry_run or not how.quiet:
            show_plan(plan)
        if how.dry_run:
            return
        records = record(
            folder,
            lambda store: run(plan, store, conduct, places),
            lambda store: count_pending(plan, store, conduct),
            {cell.key for group in plan.groups for cell in group.cells},
            how.budget,
            how.quiet,
        )
    if records:
        show_report(folder, how.as_json, only="latency", wide=how.wide, write=how.report)
    raise typer.Exit(exit_code(records, named=request.methods is not None))
