"""Builds command lines from option classes: each field is an option, its description the help text."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar, get_args

import typer
from pydantic import BeforeValidator, Field, ValidationInfo, model_validator
from pydantic.fields import FieldInfo

from fp_bench.cli.front import app
from fp_bench.cli.options import configure
from fp_bench.errors import UsageError
from fp_bench.jobs.request import Options, Request, option_name
from fp_bench.jobs.values import Layers, from_text, parse_numbers
from fp_bench.sizes import parse_duration

if TYPE_CHECKING:
    from fp_bench.jobs.schedule import Conduct


def _seconds(value: Any, info: ValidationInfo) -> Any:
    return parse_duration(value, f"--{info.field_name}") if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds)]
Devices = Annotated[Layers, from_text(lambda text: parse_numbers(text, "--devices"))]


class Conducting(Options):
    """How and where a command measures; a cell's key depends on none of it."""

    out: Path | None = Field(
        None, description="Run folder; an existing run is resumed. Default: a new folder, runs/COMMAND-DATE-TIME."
    )
    resume: bool = Field(False, description="Continue the newest run of this command in runs/.")
    devices: Devices | None = Field(
        None, description="GPUs of this machine that share the work, e.g. 0,1; default: one."
    )
    ray: str | None = Field(
        None, description="Share the work over Ray: local starts it here; auto or HOST:PORT joins a cluster."
    )
    budget: Seconds | None = Field(None, description="Start no new work after, e.g., 10m; the same command continues.")
    timeout: Seconds | None = Field(
        None, description="Time limit of one check, round or answer, e.g. 5m; default: 10m, more for long calls."
    )
    retry_failed: bool = Field(False, description="Measure cells again that failed in an earlier run in the folder.")
    isolate: bool = Field(
        True, description="Use worker processes; --no-isolate runs everything in one, for debuggers and profilers."
    )
    dry_run: bool = Field(False, description="Print the plan and stop.")
    as_json: bool = Field(False, alias="json", description="Print the result as JSON on stdout.")
    quiet: bool = Field(False, description="Hide the plan and the progress; results and errors remain.")
    report: bool = Field(True, description="Write tables, plots and the HTML page at the end; takes seconds.")
    wide: bool = Field(False, description="Print one line per row, however wide the table.")

    @model_validator(mode="after")
    def _one_folder(self) -> Self:
        if self.out is not None and self.resume:
            raise UsageError(f"--resume continues the newest run, but --out names {self.out}; give only one")
        return self

    def conduct(self) -> "Conduct":
        """Return what of this concerns a job."""
        from fp_bench.jobs.schedule import Conduct

        return Conduct(self.timeout, self.budget, self.retry_failed, self.isolate)


SHORT = {
    "--lens": "-l",
    "--methods": "-m",
    "--model": "-M",
    "--suite": "-s",
    "--tasks": "-t",
    "--samples": "-n",
    "--rounds": "-r",
    "--inputs": "-i",
    "--out": "-o",
    "--wide": "-w",
    "--quiet": "-q",
}
"""Frequent options -> their short flag."""

R = TypeVar("R", bound=Request)


def measuring(asked: type[R]) -> Callable[[Callable[[R, Conducting], None]], Callable[..., None]]:
    """Return a decorator that makes a command whose options are those of a request and `Conducting`."""

    def made(verb: Callable[[R, Conducting], None]) -> Callable[..., None]:
        def ask(**given: Any) -> None:
            given.pop("config")  # it has become the other options
            how = {name: given.pop(name) for name in Conducting.model_fields}
            verb(asked.parse(given), Conducting.parse(how))

        parameters = [*parameters_of(asked), *parameters_of(Conducting), CONFIG]
        ask.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        ask.__doc__ = verb.__doc__
        return app.command(name=asked.verb)(ask)

    return made


def parameters_of(options: type[Options]) -> Iterator[inspect.Parameter]:
    """Yield one command-line parameter per field."""
    for name, field in options.model_fields.items():
        kind = list[str] if name in options.repeatable else _kind(field)
        option = f"--{option_name(name, field)}"
        names = [f"{option}/--no-{option.removeprefix('--')}" if field.default is True else option]
        names += [SHORT[option]] if option in SHORT else []
        metavar = "<str>" if name in options.repeatable else _metavar(field)
        about = typer.Option(*names, help=field.description, metavar=metavar)
        taken = kind | None if field.default is None else kind
        annotation = Annotated[taken, about]  # type: ignore[valid-type]  # made here, not written down
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(is_eager=True, callback=configure, help="YAML file of options; the command line overrides it."),
    ],
)


def _kind(field: FieldInfo) -> Any:
    """Return the type that the command line reads: flag, whole number, or text that the field converts."""
    return next((kind for kind in (bool, int) if kind in _types(field)), str)


def _metavar(field: FieldInfo) -> str | None:
    return "<path>" if Path in _types(field) else None


def _types(field: FieldInfo) -> Sequence[Any]:
    """Return the type of a field, or those of its union."""
    return get_args(field.annotation) if isinstance(field.annotation, UnionType) else [field.annotation]
