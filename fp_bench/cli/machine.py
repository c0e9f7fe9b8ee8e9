"""``fpbench methods``, ``suites`` and ``doctor``: lists, and what runs on this machine."""

from typing import Annotated

import typer

from fp_bench.cli.front import app
from fp_bench.cli.options import Arguments, Changes, Rope, Wide, known, model_name, within
from fp_bench.cli.recording import exit_code
from fp_bench.methods.registry import Spec
from fp_bench.methods.registry import methods as registered


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Show this method in full.")] = None, wide: Wide = False
) -> None:
    """List the methods, one line each, or show one in full: rule, parameters, presets, backends, limits."""
    if name is not None:
        registered.check(name)
    from fp_bench.cli.listings.methods import method_table, method_tables
    from fp_bench.cli.terminal import show_tables

    show_tables(method_tables(name) if name is not None else [method_table()], wide)


@app.command()
def suites(
    name: Annotated[str | None, typer.Argument(help="Show this suite in full.")] = None, wide: Wide = False
) -> None:
    """List the suites and what each needs, one line each, or show one in full: tasks and parameters."""
    from fp_bench.cli.listings.suites import suite_table, suite_tables
    from fp_bench.cli.terminal import show_tables

    show_tables(suite_tables(name) if name is not None else [suite_table()], wide)


@app.command()
def doctor(
    aa: Annotated[
        bool, typer.Option("--aa", help="Measure how much rounds differ here, and which slowdown compare can find.")
    ] = False,
    rounds: Annotated[int, typer.Option(callback=within(6, 1000), help="Rounds of --aa.")] = 10,
    model: Annotated[
        str | None,
        typer.Option("--model", "-M", help="Show which layers of this model would run sparse, and if not, why."),
    ] = None,
    rope: Rope = None,
    model_changes: Changes = None,
    model_arg: Arguments = None,
    chosen: Annotated[
        str | None, typer.Option("--methods", "-m", help="For --model: these methods; default: all available ones.")
    ] = None,
    wide: Wide = False,
) -> None:
    """Describe this machine and what runs on it, or which layers of a model would run sparse, and if not, why."""
    if model or rope or model_changes or model_arg:
        name = model_name(model, rope, model_changes, model_arg)
        specs = Spec.parse_all(chosen) if chosen else None
        known(specs, registered)
        from fp_bench.cli.listings.layers import layer_tables
        from fp_bench.cli.terminal import show_tables

        show_tables(layer_tables(name, specs), wide)
        return
    if aa:
        _measure_noise(rounds)
        return
    from fp_bench.cli.listings.machine import machine_table, runnable_table, tested_table
    from fp_bench.cli.terminal import show_tables

    show_tables([machine_table(), tested_table(), runnable_table()], wide)


def _measure_noise(rounds: int) -> None:
    from fp_bench.cli.terminal import show_plan, show_progress, show_tables
    from fp_bench.jobs.latency.aa import aa_plan, aa_table, measure
    from fp_bench.reports.verdict import Rule

    plan = aa_plan(rounds)
    show_plan(plan)
    records = list(show_progress(measure(plan), plan.records))
    show_tables([aa_table(records, Rule())])
    raise typer.Exit(exit_code(records, named=False))
