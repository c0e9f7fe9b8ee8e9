"""``fpbench capture``, ``calibrate`` and ``search-heads``: inputs and thresholds from a model."""

from pathlib import Path
from typing import Annotated

import typer

from fp_bench.cli.front import app
from fp_bench.cli.options import LAYERS, Arguments, Changes, Rope, model_name, numbers, read_text, within
from fp_bench.errors import UsageError
from fp_bench.methods.registry import Spec
from fp_bench.sizes import parse_lengths

Lens = Annotated[str, typer.Option("--lens", "-l", help="Lengths in tokens, as for latency; all of them are used.")]
Model = Annotated[
    str, typer.Option("--model", "-M", help="embedded, a folder, a GGUF file, or a Hugging Face causal model.")
]
Text = Annotated[Path | None, typer.Option(help="Text file to read; default: a generated prompt.")]
Device = Annotated[str | None, typer.Option(help="Device of the model; default: the GPU if there is one.")]
Dtype = Annotated[str, typer.Option(help="Data type of the model: bf16, fp16 or fp32.")]
Seed = Annotated[int, typer.Option(callback=within(0, 2**32 - 1), help="Seed of the generated prompt.")]


@app.command()
def capture(
    lens: Lens = "4k",
    model: Model = "embedded",
    rope: Rope = None,
    model_changes: Changes = None,
    model_arg: Arguments = None,
    text: Text = None,
    layers: Annotated[str | None, typer.Option(help=LAYERS.format("save"))] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write, for --inputs captured:FOLDER.")] = Path(
        "runs/captured"
    ),
    device: Device = None,
    dtype: Dtype = "bf16",
    seed: Seed = 0,
) -> None:
    """Save the Q, K, V of a model's attention on a text, as inputs for latency."""
    lengths, chosen = parse_lengths(lens), numbers(layers, "layers")
    name = model_name(model, rope, model_changes, model_arg)
    content = read_text(text) if text else None
    from fp_bench.cli.terminal import say
    from fp_bench.jobs.machine import parse_device, parse_dtype
    from fp_bench.models.capture import capture as save

    manifest = save(
        name,
        lengths,
        out,
        layers=chosen,
        text=content,
        seed=seed,
        device=parse_device(device),
        dtype=parse_dtype(dtype),
    )
    say(f"{len(manifest.files)} files of {len(manifest.layers)} layers in {out}; measure them with:")
    print(f"fpbench latency --inputs captured:{out} --lens {','.join(map(str, manifest.lengths))}")


@app.command()
def calibrate(
    method: Annotated[
        str, typer.Option(help="flashprefill finds alpha; xattention or xattention:stride=16 writes a file of taus.")
    ] = "flashprefill",
    density: Annotated[
        float, typer.Option(help="For flashprefill: share of the causal query-key pairs to keep, mean over heads.")
    ] = 0.7,
    coverage: Annotated[
        float, typer.Option(help="For xattention: share of dense attention mass that the needed blocks hold.")
    ] = 0.9,
    lens: Lens = "4k",
    model: Model = "embedded",
    rope: Rope = None,
    model_changes: Changes = None,
    model_arg: Arguments = None,
    text: Text = None,
    layers: Annotated[str | None, typer.Option(help="For flashprefill: " + LAYERS.format("read"))] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="For xattention: the file to write.")] = Path(
        "runs/taus.json"
    ),
    device: Device = None,
    dtype: Dtype = "bf16",
    seed: Seed = 0,
) -> None:
    """Find a method's thresholds on a model: FlashPrefill's alpha for a density, or XAttention's tau per head.

    For a limit on the loss of quality instead of a density, use fpbench tune --max-kl.
    """
    lengths, spec, chosen = parse_lengths(lens), Spec.parse(method), numbers(layers, "layers")
    name = model_name(model, rope, model_changes, model_arg)
    content = read_text(text) if text else None
    if spec.name not in ("flashprefill", "xattention"):
        raise UsageError(f"--method {method!r} has no thresholds to calibrate; write flashprefill or xattention")
    if spec.name == "flashprefill" and spec.options:
        raise UsageError(f"--method {method!r}: alpha is found only for the default rule; write flashprefill")
    if spec.name == "xattention" and spec.options.keys() - {"stride"}:
        raise UsageError(f"--method {method!r}: taus are found only for a stride; write xattention:stride=16")
    if spec.name == "xattention" and chosen is not None:
        raise UsageError("--layers: a file of taus needs every layer; remove it, or calibrate flashprefill")
    from fp_bench.calibration.captured import captured_model
    from fp_bench.cli.terminal import say, show_tables
    from fp_bench.jobs.machine import parse_device, parse_dtype

    on, kind = parse_device(device), parse_dtype(dtype)
    captured = captured_model(name, lengths, layers=chosen, text=content, seed=seed, device=on, dtype=kind)
    if spec.name == "flashprefill":
        from fp_bench.calibration.alpha import calibrate as find_alpha
        from fp_bench.calibration.alpha import check_density

        check_density(density)
        with captured as source:
            found = find_alpha(source, density, device=on, dtype=kind)
        show_tables([found.table()])
        say(f"alpha {found.alpha:.4g} keeps {found.density:.1%} of the causal query-key pairs at {lens}; use it with:")
        print(f"flashprefill:alpha={found.alpha:.4g}")
        return
    from fp_bench.calibration.taus import check_coverage, profile
    from fp_bench.methods.xattention import XAttention

    stride = XAttention.from_options(spec.options).params.stride
    check_coverage(coverage)
    with captured as source:
        taus = profile(source, coverage, stride, device=on, dtype=kind)
    taus.save(out)
    show_tables([taus.table()])
    say(f"taus with mean {taus.mean:.3f} in {out}; use them with:")
    print(f"xattention:stride={stride}:tau_file={out}")


@app.command()
def search_heads(
    lens: Lens = "4k",
    model: Model = "embedded",
    rope: Rope = None,
    model_changes: Changes = None,
    model_arg: Arguments = None,
    text: Text = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("runs/patterns.json"),
    device: Device = None,
    dtype: Dtype = "bf16",
    seed: Seed = 0,
) -> None:
    """Find MInference's pattern for every head of a model: the candidate that covers most of its attention."""
    lengths, name = parse_lengths(lens), model_name(model, rope, model_changes, model_arg)
    content = read_text(text) if text else None
    from fp_bench.calibration.heads import search_model
    from fp_bench.cli.terminal import say, show_tables
    from fp_bench.jobs.machine import parse_device

    found = search_model(name, lengths, text=content, seed=seed, device=parse_device(device), dtype=dtype)
    found.save(out)
    show_tables([found.table()])
    say(f"patterns that cover {found.mean:.1%} of the attention, in {out}; use them with:")
    print(f"minference:config={out}")
