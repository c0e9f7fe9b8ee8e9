"""``fpbench accuracy``."""

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from fp_bench.cli.devices import Devices, Ray, open_places
from fp_bench.cli.front import app
from fp_bench.cli.options import configure, span, specs, within
from fp_bench.cli.recording import exit_code, record
from fp_bench.cli.reporting import show_report
from fp_bench.errors import UsageError
from fp_bench.methods.registry import methods as known_methods
from fp_bench.sizes import parse_duration, parse_lengths
from fp_bench.suites.registry import suites as known_suites


@app.command()
def accuracy(
    suite: Annotated[
        str, typer.Option(help="Suites, e.g. ruler or fidelity:text=FILE, separated by commas.")
    ] = "ruler",
    lens: Annotated[
        str, typer.Option(help="Lengths in tokens of prompt and answer: 4k, 4k-64k (doubling), separated by commas.")
    ] = "4k",
    tasks: Annotated[str | None, typer.Option(help="Tasks of the suite; default: all.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods as for latency; default: dense and all others.")] = None,
    model: Annotated[str, typer.Option(help="embedded, a folder, or a Hugging Face causal model.")] = "embedded",
    out: Annotated[
        Path | None, typer.Option(help="Run folder; an old one resumes. Default: runs/accuracy-DATE.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(callback=within(1, 100_000), help="Samples a task and length; default 50, 3 on a CPU."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(callback=within(1, 64), help="Processes, each with the model, in turn over the devices."),
    ] = None,
    devices: Devices = None,
    ray: Ray = None,
    spread: Annotated[
        bool, typer.Option("--spread", help="One copy of the model over all visible GPUs, where one is too small.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32: of the model.")] = "bf16",
    backend: Annotated[str, typer.Option(help="Kernels: auto, hopper, triton or torch.")] = "auto",
    engine: Annotated[str, typer.Option(help="What runs the model: hf (transformers) or vllm.")] = "hf",
    dense_layers: Annotated[
        int, typer.Option(callback=within(0, 10_000), help="This many first layers run dense.")
    ] = 0,
    chat: Annotated[str, typer.Option(help="Chat template: auto (if the model has one), on or off.")] = "auto",
    seed: Annotated[int, typer.Option(callback=within(0, 2**32 - 1), help="Of the samples.")] = 0,
    budget: Annotated[
        str | None, typer.Option(callback=span, help="Start no sample after e.g. 10m; the rest is counted.")
    ] = None,
    timeout: Annotated[str, typer.Option(callback=span, help="One answer may take e.g. 5m.")] = "10m",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try samples again that an earlier run in --out could not answer.")
    ] = False,
    isolate: Annotated[bool, typer.Option(help="Processes of their own; without, all in this one.")] = True,
    config: Annotated[
        Path | None,
        typer.Option(is_eager=True, callback=configure, help="YAML file of these options; the command line wins."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON on stdout.")] = False,
) -> None:
    """Score a model's answers with each method against those with dense attention, on the same prompts."""
    del config  # it has become the other options
    if spread and (devices or ray or (workers or 1) > 1):
        raise UsageError("--spread is one copy of the model on all visible GPUs; give no --devices, --ray or --workers")
    lengths = parse_lengths(lens)
    chosen = specs(methods, known_methods) if methods else None
    asked = specs(suite, known_suites)
    from fp_bench.cli.terminal import show_accuracy_plan
    from fp_bench.jobs.accuracy.cost import prefill_seconds
    from fp_bench.jobs.accuracy.job import Conduct, pending_items, run
    from fp_bench.jobs.accuracy.plan import Request, make_plan
    from fp_bench.jobs.machine import parse_dtype

    request = Request(
        lens=lengths,
        suites=asked,
        tasks=[task.strip() for task in tasks.split(",")] if tasks else None,
        methods=chosen,
        model=model,
        samples=samples,
        seed=seed,
        dtype=dtype,
        backend=backend,
        dense_layers=dense_layers,
        chat=chat,
        workers=workers,
        spread=spread,
        engine=engine,
    )
    conduct = Conduct(
        timeout=parse_duration(timeout),
        budget=parse_duration(budget) if budget else None,
        retry_failed=retry_failed,
        isolate=isolate,
    )
    folder = out or Path("runs") / f"accuracy-{date.today():%Y-%m-%d}"
    with open_places(devices, ray, workers, engine) as places:
        plan = places[0].run(make_plan, request, places[0].machine)
        seconds = places[0].run(prefill_seconds, model, plan.prompts, places[0].machine, parse_dtype(dtype))
        show_accuracy_plan(plan, seconds, len(places))
        if dry_run:
            return
        records = record(
            folder,
            lambda store: run(plan, store, conduct, places),
            lambda store: len(pending_items(plan, store, conduct)),
            {item.key for item in plan.items},
            conduct.budget,
        )
    if records:
        show_report(folder, as_json, only="accuracy")
    raise typer.Exit(exit_code(records, named=chosen is not None))
