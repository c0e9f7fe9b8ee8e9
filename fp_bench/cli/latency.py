"""``fpbench latency``."""

from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from fp_bench.cli.devices import Devices, Ray, open_places
from fp_bench.cli.front import app
from fp_bench.cli.options import configure, numbers, span, specs, within
from fp_bench.cli.recording import exit_code, record
from fp_bench.cli.reporting import show_report
from fp_bench.methods.registry import methods as known_methods
from fp_bench.sizes import parse_duration, parse_lengths


@app.command()
def latency(
    lens: Annotated[
        str, typer.Option(help="Lengths in tokens: 4k, 8192, 4k-256k (doubling), separated by commas.")
    ] = "4k,16k",
    methods: Annotated[
        str | None, typer.Option(help="Methods, e.g. dense,flashprefill:alpha=0.18; default: what suits the machine.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; an old one resumes. Default: runs/latency-DATE.")
    ] = None,
    inputs: Annotated[
        str, typer.Option(help="Where Q, K, V come from: structured, random, density:0.04 or captured:FOLDER.")
    ] = "structured",
    shape: Annotated[
        str | None, typer.Option(help="q_heads/kv_heads/head_dim; default 32/8/128 on a GPU, 2/1/128 on a CPU.")
    ] = None,
    ttft: Annotated[
        bool, typer.Option("--ttft", help="Time to first token of a model instead of one attention call.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="For --ttft: embedded (default), a folder, a Hugging Face model, or random:FOLDER."),
    ] = None,
    engine: Annotated[str, typer.Option(help="What runs the model of --ttft: hf (transformers) or vllm.")] = "hf",
    batch: Annotated[int, typer.Option(callback=within(1, 10_000), help="Sequences in a batch.")] = 1,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "bf16",
    backend: Annotated[str, typer.Option(help="Kernels: auto, hopper, triton or torch.")] = "auto",
    layers: Annotated[str | None, typer.Option(help="Layers of captured inputs, e.g. 0,3; default: all.")] = None,
    rounds: Annotated[
        int | None, typer.Option(callback=within(1, 10_000), help="Rounds a cell; default: 5, fewer for long calls.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(callback=within(1, 10_000), help="Timed calls a round; default: by time.")
    ] = None,
    seed: Annotated[int, typer.Option(callback=within(0, 2**32 - 1), help="Of inputs, sampled rows and order.")] = 0,
    devices: Devices = None,
    ray: Ray = None,
    budget: Annotated[
        str | None, typer.Option(callback=span, help="Start nothing new after e.g. 10m; the rest is counted.")
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(callback=span, help="A check or a round may take e.g. 5m; default: 10m, more for long calls."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try cells again that an earlier run in --out could not measure.")
    ] = False,
    isolate: Annotated[
        bool, typer.Option(help="A process a method; without, everything in one, for debuggers and profilers.")
    ] = True,
    config: Annotated[
        Path | None,
        typer.Option(is_eager=True, callback=configure, help="YAML file of these options; the command line wins."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON on stdout.")] = False,
) -> None:
    """Time methods against dense attention; check, density, recall and error of each come with it."""
    del config  # it has become the other options
    lengths = parse_lengths(lens)
    chosen = specs(methods, known_methods) if methods else None
    from fp_bench.cli.terminal import show_plan
    from fp_bench.jobs.latency.job import Conduct, count_pending, run
    from fp_bench.jobs.latency.plan import Heads, Request, make_plan

    request = Request(
        lens=lengths,
        methods=chosen,
        inputs=inputs,
        heads=Heads.parse(shape) if shape else None,
        batch=batch,
        dtype=dtype,
        backend=backend,
        seed=seed,
        rounds=rounds,
        samples=samples,
        layers=numbers(layers, "layers"),
        model=model or ("embedded" if ttft else None),
        engine=engine,
    )
    conduct = Conduct(
        timeout=parse_duration(timeout) if timeout else None,
        budget=parse_duration(budget) if budget else None,
        retry_failed=retry_failed,
        isolate=isolate,
    )
    folder = out or Path("runs") / f"latency-{date.today():%Y-%m-%d}"
    with open_places(devices, ray, engine=engine) as places:
        plan = places[0].run(make_plan, request, places[0].machine)
        show_plan(plan)
        if dry_run:
            return
        records = record(
            folder,
            lambda store: run(plan, store, conduct, places),
            lambda store: count_pending(plan, store, conduct),
            {cell.key for group in plan.groups for cell in group.cells},
            conduct.budget,
        )
    if records:
        show_report(folder, as_json, only="latency")
    raise typer.Exit(exit_code(records, named=chosen is not None))
