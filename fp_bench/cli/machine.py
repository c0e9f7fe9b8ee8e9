"""``fpbench methods`` and ``doctor``: what there is, and what of it runs here."""

from typing import Annotated

import typer

from fp_bench.cli.front import app
from fp_bench.cli.options import within
from fp_bench.cli.recording import exit_code


@app.command()
def methods() -> None:
    """List the methods, their parameters and presets, and whether each runs here."""
    from fp_bench.cli.doctor import method_table
    from fp_bench.cli.terminal import show_tables

    show_tables([method_table()])


@app.command()
def doctor(
    aa: Annotated[
        bool, typer.Option("--aa", help="Measure how much rounds differ here, and what regression can be told from it.")
    ] = False,
    rounds: Annotated[int, typer.Option(callback=within(6, 1000), help="Of --aa.")] = 10,
) -> None:
    """Say what this machine is and which methods, kernels and dense implementations run on it, and why not."""
    if aa:
        _measure_noise(rounds)
        return
    from fp_bench.cli.doctor import machine_table, runnable_table, tested_table
    from fp_bench.cli.terminal import show_tables

    show_tables([machine_table(), tested_table(), runnable_table()])


def _measure_noise(rounds: int) -> None:
    from fp_bench.cli.terminal import show_plan, show_progress, show_tables
    from fp_bench.jobs.latency.aa import aa_plan, aa_table, measure
    from fp_bench.reports.verdict import Rule

    plan = aa_plan(rounds)
    show_plan(plan)
    records = list(show_progress(measure(plan), plan.records))
    show_tables([aa_table(records, Rule())])
    raise typer.Exit(exit_code(records, named=False))
