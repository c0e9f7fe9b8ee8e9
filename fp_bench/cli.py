"""The front door: one short function a verb. Nothing heavy is imported before a verb runs."""

import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

import fp_bench
from fp_bench.durations import parse_duration
from fp_bench.errors import NotComparableError, UnavailableError, UsageError, did_you_mean
from fp_bench.registry import Spec
from fp_bench.registry import methods as known_methods
from fp_bench.registry import suites as known_suites
from fp_bench.sizes import parse_lengths, parse_share

if TYPE_CHECKING:
    from fp_bench.results.compare import Comparison
    from fp_bench.results.record import Record
    from fp_bench.results.report import Part
    from fp_bench.results.store import RecordStore, Run

EXIT_REGRESSED, EXIT_USAGE, EXIT_FAILED, EXIT_NOTHING, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 1, 2, 3, 4, 5, 130
"""See docs/exit-codes.md."""


class FrontDoor(TyperGroup):
    """The command group; every mistake of a user ends as one line on stderr and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a verb and exit."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warn  # type: ignore[assignment]
                code = super().main(*args, **extra | {"standalone_mode": False})
        except UnavailableError as error:
            _stop(str(error), EXIT_FAILED)
        except NotComparableError as error:
            _stop(str(error), EXIT_NOTHING)
        except (KeyboardInterrupt, typer.Abort):
            _stop("interrupted", EXIT_INTERRUPTED)
        except UsageError as error:
            _stop(str(error), EXIT_USAGE)
        except Exception as error:
            # typer's own complaints, whose class moved from click into typer.
            if not hasattr(error, "format_message"):
                raise
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
                sys.exit(EXIT_USAGE)
            _stop(_named(error), EXIT_USAGE)
        sys.exit(code if isinstance(code, int) else 0)


def _warn(message: Warning | str, *_where: Any) -> None:
    print(f"fpbench: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _stop(reason: str, code: int) -> None:
    print(f"fpbench: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(code)


def _named(error: Any) -> str:
    """Return typer's complaint about an option with the value in it, which it leaves out."""
    complaint: str = error.format_message()
    # A pydantic ValidationError; importing pydantic to say so would slow every start.
    problems: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    return f"{complaint}; got {problems[0]['input']!r}" if problems else complaint


def _within(low: int, high: int) -> Callable[[typer.CallbackParam, int | None], int | None]:
    """Return a check of an option that names the value and the limits, which typer's own does not."""

    def check(param: typer.CallbackParam, value: int | None) -> int | None:
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{param.name} {value} is out of limits: {low} to {high}")
        return value

    return check


def _configure(context: typer.Context, path: Path | None) -> Path | None:
    """Take a verb's options from a YAML file; those on the command line win."""
    if path is not None:
        from fp_bench.config import read_config

        options = {
            option.removeprefix("--"): str(parameter.name)
            for parameter in context.command.params
            for option in parameter.opts
            if option.startswith("--") and option not in ("--config", "--help")
        }
        context.default_map = read_config(path, options)
    return path


def _span(param: typer.CallbackParam, value: str | None) -> str | None:
    """Check a span of time before anything heavy is imported."""
    if value is not None:
        parse_duration(value, f"--{param.name}")
    return value


app = typer.Typer(
    cls=FrontDoor,
    help="An honest benchmark of sparse-prefill attention, and the FlashPrefill operator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    app(prog_name="fpbench")


def _version(asked: bool) -> None:
    if asked:
        print(f"fpbench {fp_bench.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """An honest benchmark of sparse-prefill attention, and the FlashPrefill operator."""
    del version


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
    batch: Annotated[int, typer.Option(callback=_within(1, 10_000), help="Sequences in a batch.")] = 1,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "bf16",
    backend: Annotated[str, typer.Option(help="Kernels: auto, hopper, triton or torch.")] = "auto",
    layers: Annotated[str | None, typer.Option(help="Layers of captured inputs, e.g. 0,3; default: all.")] = None,
    rounds: Annotated[
        int | None, typer.Option(callback=_within(1, 10_000), help="Rounds a cell; default: 5, fewer for long calls.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(callback=_within(1, 10_000), help="Timed calls a round; default: by time.")
    ] = None,
    seed: Annotated[int, typer.Option(callback=_within(0, 2**32 - 1), help="Of inputs, sampled rows and order.")] = 0,
    budget: Annotated[
        str | None, typer.Option(callback=_span, help="Start nothing new after e.g. 10m; the rest is counted.")
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(callback=_span, help="A check or a round may take e.g. 5m; default: 10m, more for long calls."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try cells again that an earlier run in --out could not measure.")
    ] = False,
    isolate: Annotated[
        bool, typer.Option(help="A process a method; without, everything in one, for debuggers and profilers.")
    ] = True,
    config: Annotated[
        Path | None,
        typer.Option(is_eager=True, callback=_configure, help="YAML file of these options; the command line wins."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON on stdout.")] = False,
) -> None:
    """Time methods against dense attention; check, density, recall and error of each come with it."""
    del config  # it has become the other options
    lengths = parse_lengths(lens)
    specs = _specs(methods)
    from fp_bench.latency.job import Conduct, count_pending, run
    from fp_bench.latency.plan import Heads, Request, make_plan
    from fp_bench.terminal import show_plan

    plan = make_plan(
        Request(
            lens=lengths,
            methods=specs,
            inputs=inputs,
            heads=Heads.parse(shape) if shape else None,
            batch=batch,
            dtype=dtype,
            backend=backend,
            seed=seed,
            rounds=rounds,
            samples=samples,
            layers=_numbers(layers, "layers"),
            model=model or ("embedded" if ttft else None),
        )
    )
    show_plan(plan)
    if dry_run:
        return
    folder = out or Path("runs") / f"latency-{date.today():%Y-%m-%d}"
    conduct = Conduct(
        timeout=parse_duration(timeout) if timeout else None,
        budget=parse_duration(budget) if budget else None,
        retry_failed=retry_failed,
        isolate=isolate,
    )
    records = _record(
        folder,
        lambda store: run(plan, store, conduct),
        lambda store: count_pending(plan, store, conduct),
        {cell.key for group in plan.groups for cell in group.cells},
        conduct.budget,
    )
    if records:
        _show_report(folder, as_json, only="latency")
    raise typer.Exit(_exit_code(records, named=specs is not None))


@app.command()
def accuracy(
    suite: Annotated[
        str, typer.Option(help="Suites, e.g. probe or fidelity:text=FILE, separated by commas.")
    ] = "probe",
    lens: Annotated[
        str, typer.Option(help="Lengths in tokens of prompt and answer: 4k, 4k-64k (doubling), separated by commas.")
    ] = "4k",
    tasks: Annotated[str | None, typer.Option(help="Tasks of the suite; default: all.")] = None,
    methods: Annotated[
        str | None, typer.Option(help="Methods as for latency; default: dense and FlashPrefill at two alphas.")
    ] = None,
    model: Annotated[str, typer.Option(help="embedded, a folder, or a Hugging Face causal model.")] = "embedded",
    out: Annotated[
        Path | None, typer.Option(help="Run folder; an old one resumes. Default: runs/accuracy-DATE.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(callback=_within(1, 100_000), help="Samples a task and length; default 50, 10 on a CPU."),
    ] = None,
    workers: Annotated[
        int, typer.Option(callback=_within(1, 64), help="Processes, each with the model; they share the GPUs.")
    ] = 1,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32: of the model.")] = "bf16",
    backend: Annotated[str, typer.Option(help="Kernels: auto, hopper, triton or torch.")] = "auto",
    dense_layers: Annotated[
        int, typer.Option(callback=_within(0, 10_000), help="This many first layers run dense.")
    ] = 0,
    chat: Annotated[str, typer.Option(help="Chat template: auto (if the model has one), on or off.")] = "auto",
    seed: Annotated[int, typer.Option(callback=_within(0, 2**32 - 1), help="Of the samples.")] = 0,
    budget: Annotated[
        str | None, typer.Option(callback=_span, help="Start no sample after e.g. 10m; the rest is counted.")
    ] = None,
    timeout: Annotated[str, typer.Option(callback=_span, help="One answer may take e.g. 5m.")] = "10m",
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try samples again that an earlier run in --out could not answer.")
    ] = False,
    isolate: Annotated[bool, typer.Option(help="Processes of their own; without, all in this one.")] = True,
    config: Annotated[
        Path | None,
        typer.Option(is_eager=True, callback=_configure, help="YAML file of these options; the command line wins."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON on stdout.")] = False,
) -> None:
    """Score a model's answers with each method against those with dense attention, on the same prompts."""
    del config  # it has become the other options
    lengths = parse_lengths(lens)
    specs = _specs(methods)
    chosen = _suite_specs(suite)
    from fp_bench.accuracy.job import Conduct, pending_items, run
    from fp_bench.accuracy.plan import Request, make_plan
    from fp_bench.terminal import show_accuracy_plan

    plan = make_plan(
        Request(
            lens=lengths,
            suites=chosen,
            tasks=[task.strip() for task in tasks.split(",")] if tasks else None,
            methods=specs,
            model=model,
            samples=samples,
            seed=seed,
            dtype=dtype,
            backend=backend,
            dense_layers=dense_layers,
            chat=chat,
            workers=workers,
        )
    )
    show_accuracy_plan(plan)
    if dry_run:
        return
    folder = out or Path("runs") / f"accuracy-{date.today():%Y-%m-%d}"
    conduct = Conduct(
        timeout=parse_duration(timeout),
        budget=parse_duration(budget) if budget else None,
        retry_failed=retry_failed,
        isolate=isolate,
    )
    records = _record(
        folder,
        lambda store: run(plan, store, conduct),
        lambda store: len(pending_items(plan, store, conduct)),
        {item.key for item in plan.items},
        conduct.budget,
    )
    if records:
        _show_report(folder, as_json, only="accuracy")
    raise typer.Exit(_exit_code(records, named=specs is not None))


def _suite_specs(text: str) -> list[Spec]:
    """Parse ``a,b:key=value`` and refuse unknown suites before anything heavy is imported."""
    specs = [Spec.parse(part) for part in text.split(",")]
    for spec in specs:
        known_suites.check(spec.name)
    return specs


def _specs(text: str | None) -> list[Spec] | None:
    """Parse ``a,b:key=value`` and refuse unknown names before anything heavy is imported."""
    if text is None:
        return None
    specs = [Spec.parse(part) for part in text.split(",")]
    for spec in specs:
        known_methods.check(spec.name)
    return specs


def _numbers(text: str | None, what: str) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit()):
            raise UsageError(f"{what} {text!r}: {part!r} is not a number; write e.g. 0,3")
    return sorted({int(part) for part in parts})


def _record(
    folder: Path,
    run: Callable[["RecordStore"], Iterable["Record"]],
    count_pending: Callable[["RecordStore"], int],
    keys: set[str],
    budget: float | None,
) -> list["Record"]:
    """Run a job into a run folder and return all its records of these cells.

    Args:
        folder: the run folder.
        run: measures what the store lacks.
        count_pending: how many records that is.
        keys: the cells of the plan.
        budget: seconds that the run was given, if any.
    """
    from fp_bench.results.store import RecordStore, latest
    from fp_bench.terminal import duration, say, show_progress

    with RecordStore(folder) as store:
        if store.torn:
            say(f"note: the last line of {folder} was torn and is dropped; it is measured again")
        try:
            for _ in show_progress(run(store), count_pending(store)):
                pass
        except KeyboardInterrupt:
            say(f"interrupted: {len(store.records)} records are kept in {folder}; the same command resumes")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        if budget and (left := count_pending(store)):
            say(f"note: the budget of {duration(budget)} is spent: {left} records left; the same command goes on")
        return latest(record for record in store.records if record.cell_key in keys)


def _exit_code(records: list["Record"], named: bool) -> int:
    """Return 3 when a cell failed, 4 when nothing was measured; a default method that is not here is only a row."""
    failed = [record for record in records if record.status != "ok" and (named or record.status != "unavailable")]
    if failed:
        return EXIT_FAILED
    return 0 if any(record.status == "ok" for record in records) else EXIT_NOTHING


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; speed and accuracy of several are joined.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML page. Default: report.html in a run, runs/report-DATE.html of several."),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="On stdout: rich, json, or customSmallerIsBetter and nothing written.")
    ] = "rich",
    as_json: Annotated[bool, typer.Option("--json", help="As --format json.")] = False,
) -> None:
    """Make one HTML page of runs, and of one run tables, plots and report.md again, from the records."""
    forms = ("rich", "json", "customSmallerIsBetter")
    if form not in forms:
        raise UsageError(f"--format {form!r} is unknown{did_you_mean(form, forms)}")
    read = _read_runs(runs)
    if form == "customSmallerIsBetter":
        from fp_bench.results.compare_text import smaller_is_better

        print(smaller_is_better([record for run in read for record in run.records]))
        return
    from fp_bench.results.html import write_html
    from fp_bench.results.report import Part
    from fp_bench.terminal import say

    parts = [Part(run) for run in read]
    _show_parts(parts, as_json or form == "json")
    page = out or (runs[0] / "report.html" if len(runs) == 1 else Path("runs") / f"report-{date.today():%Y-%m-%d}.html")
    say(f"report: {write_html(parts, page)}")


def _show_report(folder: Path, as_json: bool, only: str | None = None) -> None:
    from fp_bench.results.report import Part
    from fp_bench.results.store import read_run

    _show_parts([Part(read_run(folder))], as_json, only)


def _show_parts(parts: "Sequence[Part]", as_json: bool, only: str | None = None) -> None:
    """Show the tables of runs, or of one kind of their records; of one run, write its report too."""
    from fp_bench.results.report import write_markdown
    from fp_bench.terminal import say, show_tables

    for chapter in (chapter for part in parts for chapter in part.chapters):
        if only not in (None, chapter.name):
            continue
        if as_json:
            print(chapter.data[chapter.name].to_json(orient="records", indent=1))
        else:
            show_tables([*chapter.tables, chapter.failures])
    if len(parts) == 1:
        say(f"report: {write_markdown(parts[0])}")


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="The run folder to compare with.")],
    new: Annotated[Path, typer.Argument(help="The run folder that is judged.")],
    min_effect: Annotated[str, typer.Option(help="Smallest change of a time that counts.")] = "3%",
    alpha: Annotated[float, typer.Option(help="Share of false alarms among what is called a change.")] = 0.05,
    max_drop: Annotated[float, typer.Option(help="Points of a score that may be lost.")] = 1.0,
    allow: Annotated[
        str | None,
        typer.Option(help="What may differ: gpu, input, dtype, timer, cache, variant, version, params; commas."),
    ] = None,
    paired: Annotated[
        bool | None, typer.Option(help="Whether rounds of the two alternated; default: the times of the records tell.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="rich, md, csv, json, or customSmallerIsBetter: of NEW.")
    ] = "rich",
    ci: Annotated[str | None, typer.Option(help="github: annotations, and the summary of the job.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 5 where a cell is inconclusive or removed.")
    ] = False,
) -> None:
    """Judge a run against another: regressed, improved, unchanged, or not known yet."""
    effect = parse_share(min_effect, "--min-effect")
    for option, value, high in (("--alpha", alpha, 0.5), ("--max-drop", max_drop, 100.0)):
        if not 0 < value < high:
            raise UsageError(f"{option} {value:g} is out of limits: above 0 and below {high:g}")
    if ci not in (None, "github"):
        raise UsageError(f"--ci {ci!r} is unknown; known: github")
    from fp_bench.results.compare import compare as compare_runs
    from fp_bench.results.compare_text import FORMATS
    from fp_bench.results.verdict import Rule
    from fp_bench.terminal import show_comparison

    if form not in ("rich", *FORMATS):
        raise UsageError(f"--format {form!r} is unknown{did_you_mean(form, ('rich', *FORMATS))}")
    allowed = [name.strip() for name in allow.split(",")] if allow else []
    rule = Rule(effect, alpha, max_drop / 100)
    one, other = _read_runs([base, new])
    found = compare_runs(one, other, rule, allow=allowed, paired=paired)
    if form == "rich":
        show_comparison(found)
    else:
        print(FORMATS[form](found).rstrip("\n"))
    if ci:
        _tell_github(found)
    raise typer.Exit(_verdict_code(found, strict))


def _read_runs(folders: list[Path]) -> list["Run"]:
    from fp_bench.results.store import read_run

    runs = [read_run(folder) for folder in folders]
    # They stay until the end; looking among them for garbage, again and again, would take as long as the rest.
    gc.freeze()
    return runs


def _tell_github(found: "Comparison") -> None:
    """Write annotations to stderr, where GitHub reads them too, and the summary of the job."""
    from fp_bench.results.compare_text import annotations, markdown

    for line in annotations(found):
        print(line, file=sys.stderr)
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a") as file:
                file.write(markdown(found) + "\n")
        except OSError as error:
            raise UnavailableError(f"GITHUB_STEP_SUMMARY {path} cannot be written: {error.strerror}") from None


def _verdict_code(found: "Comparison", strict: bool) -> int:
    from fp_bench.results.verdict import Verdict

    if found.count(Verdict.REGRESSED):
        return EXIT_REGRESSED
    if found.count(Verdict.NEW_FAILURE):
        return EXIT_FAILED
    return EXIT_INCONCLUSIVE if strict and any(map(found.count, (Verdict.INCONCLUSIVE, Verdict.REMOVED))) else 0


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one machine.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must hold no records yet.")],
) -> None:
    """Join run folders into one, each round once."""
    from fp_bench.results.merge import merge as join
    from fp_bench.terminal import say

    written, left_out = join(runs, out)
    say(f"{written} records in {out}; {left_out} that two runs have in common are in it once")


@app.command()
def capture(
    lens: Annotated[str, typer.Option(help="Lengths in tokens, as for latency.")] = "4k",
    model: Annotated[str, typer.Option(help="embedded, a folder, or a Hugging Face causal model.")] = "embedded",
    text: Annotated[
        Path | None, typer.Option(help="Text file to read; default: a prompt of the embedded model's kind.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to save, e.g. 0,3; default: all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write, for --inputs captured:FOLDER.")] = Path("runs/captured"),
    device: Annotated[
        str | None, typer.Option(help="Device the model runs on; default: the GPU if there is one.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32: of the model and of what is saved.")] = "bf16",
    seed: Annotated[int, typer.Option(callback=_within(0, 2**32 - 1), help="Of the generated prompt.")] = 0,
) -> None:
    """Save the Q, K, V that a model's attention sees on a text, as inputs of latency."""
    lengths, chosen = parse_lengths(lens), _numbers(layers, "layers")
    content = _read_text(text) if text else None
    from fp_bench.machine import parse_device, parse_dtype
    from fp_bench.models.capture import capture as save
    from fp_bench.terminal import say

    manifest = save(
        model,
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
        str, typer.Option(help="flashprefill: its alpha; xattention or xattention:stride=16: a file of taus.")
    ] = "flashprefill",
    density: Annotated[
        float, typer.Option(help="For flashprefill: share of the causal block pairs to keep, mean over heads.")
    ] = 0.7,
    coverage: Annotated[
        float, typer.Option(help="For xattention: share of dense attention mass that the needed blocks hold.")
    ] = 0.9,
    lens: Annotated[str, typer.Option(help="Lengths in tokens, as for latency; all of them count.")] = "4k",
    model: Annotated[str, typer.Option(help="embedded, a folder, or a Hugging Face causal model.")] = "embedded",
    text: Annotated[
        Path | None, typer.Option(help="Text file to read; default: a prompt of the embedded model's kind.")
    ] = None,
    out: Annotated[Path, typer.Option(help="For xattention: the file to write.")] = Path("runs/taus.json"),
    device: Annotated[
        str | None, typer.Option(help="Device the model runs on; default: the GPU if there is one.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "bf16",
    seed: Annotated[int, typer.Option(callback=_within(0, 2**32 - 1), help="Of the generated prompt.")] = 0,
) -> None:
    """Find a method's thresholds on a model: FlashPrefill's alpha for a density, XAttention's tau of every head."""
    lengths, spec = parse_lengths(lens), Spec.parse(method)
    content = _read_text(text) if text else None
    if spec.name not in ("flashprefill", "xattention"):
        raise UsageError(f"--method {method!r} has no thresholds to calibrate; write flashprefill or xattention")
    from fp_bench.machine import parse_device
    from fp_bench.terminal import say, show_tables

    on = parse_device(device)
    if spec.name == "flashprefill":
        from fp_bench.calibration.alpha import calibrate_model

        found = calibrate_model(model, lengths, density, text=content, seed=seed, device=on, dtype=dtype)
        show_tables([found.table()])
        say(f"alpha {found.alpha:.4g} keeps {found.density:.1%} of the causal block pairs at {lens}; use it with:")
        print(f"flashprefill:alpha={found.alpha:.4g}")
        return
    from fp_bench.baselines.xattention import XAttention
    from fp_bench.calibration.taus import profile_model

    stride = XAttention.from_options(spec.options).params.stride
    taus = profile_model(model, lengths, coverage, stride, text=content, seed=seed, device=on, dtype=dtype)
    taus.save(out)
    show_tables([taus.table()])
    say(f"taus of mean {taus.mean:.3f} in {out}; use them with:")
    print(f"xattention:stride={stride}:tau_file={out}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--text {path} cannot be read: {error}") from None


@app.command()
def methods() -> None:
    """List the methods, their parameters and presets, and whether each runs here."""
    from fp_bench.doctor import method_table
    from fp_bench.terminal import show_tables

    show_tables([method_table()])


@app.command()
def doctor(
    aa: Annotated[
        bool, typer.Option("--aa", help="Measure how much rounds differ here, and what regression can be told from it.")
    ] = False,
    rounds: Annotated[int, typer.Option(callback=_within(6, 1000), help="Of --aa.")] = 10,
) -> None:
    """Say what this machine is and which methods, kernels and dense implementations run on it, and why not."""
    if aa:
        _measure_noise(rounds)
        return
    from fp_bench.doctor import machine_table, runnable_table, tested_table
    from fp_bench.terminal import show_tables

    show_tables([machine_table(), tested_table(), runnable_table()])


def _measure_noise(rounds: int) -> None:
    from fp_bench.latency.aa import aa_plan, aa_table, measure
    from fp_bench.results.verdict import Rule
    from fp_bench.terminal import show_plan, show_progress, show_tables

    plan = aa_plan(rounds)
    show_plan(plan)
    records = list(show_progress(measure(plan), plan.records))
    show_tables([aa_table(records, Rule())])
    raise typer.Exit(_exit_code(records, named=False))
