"""Options shared by several commands: early checks, and files that they name."""

import gc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fp_bench.errors import UsageError, unread
from fp_bench.jobs.request import ARGUMENTS, CHANGES, ROPE, with_model_changes
from fp_bench.jobs.values import parse_numbers
from fp_bench.methods.registry import Registry, Spec

if TYPE_CHECKING:
    from fp_bench.records.store import Run


Rope = Annotated[str | None, typer.Option(help=ROPE)]
Changes = Annotated[str | None, typer.Option("--model-config", help=CHANGES)]
Arguments = Annotated[str | None, typer.Option(help=ARGUMENTS)]
LAYERS = "Layers to {}, e.g. 0,3; default: all."
Wide = Annotated[bool, typer.Option("--wide", "-w", help="Print one line per row, however wide the table.")]


def within(low: int, high: int) -> Callable[[typer.CallbackParam, int | None], int | None]:
    """Return a check of an option whose message names the value and the limits, unlike typer's own."""

    def check(param: typer.CallbackParam, value: int | None) -> int | None:
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{param.name} {value} is out of limits: {low} to {high}")
        return value

    return check


def configure(context: typer.Context, path: Path | None) -> Path | None:
    """Take options from a YAML file; the command line overrides them."""
    if path is not None:
        from fp_bench.cli.config import read_config

        options = {
            option.removeprefix("--"): str(parameter.name)
            for parameter in context.command.params
            for option in parameter.opts
            if option.startswith("--") and option not in ("--config", "--help")
        }
        several = {str(parameter.name) for parameter in context.command.params if getattr(parameter, "multiple", False)}
        context.default_map = read_config(path, options, several)
    return path


def known(specs: Iterable[Spec] | None, registry: Registry) -> None:
    """Refuse unknown names before anything heavy is imported, and warn of ignored plug-ins.

    Raises:
        UsageError: the first of them.
    """
    registry.warn_of_hidden()
    for spec in specs or ():
        registry.check(spec.name)


def model_name(model: str | None, rope: str | None, changes: str | None, arguments: str | None) -> str:
    """Return a model's name with the changes to it.

    Raises:
        UsageError: changes without a model.
    """
    given = {"model": model, "rope": rope, "model_changes": changes, "model_arg": arguments}
    name: str = with_model_changes(given)["model"]
    return name


def numbers(text: str | None, what: str) -> list[int] | None:
    """Parse ``0,3``."""
    return None if text is None else parse_numbers(text, what)


def read_text(path: Path) -> str:
    """Read the file that ``--text`` names."""
    try:
        if path.exists() and not path.is_file():  # a folder, or what never ends
            raise OSError("it is no file")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--text {path} cannot be read: {unread(error)}") from None


def read_runs(folders: list[Path]) -> list["Run"]:
    """Read run folders."""
    from fp_bench.records.store import read_run

    runs = [read_run(folder) for folder in folders]
    # They live until the end; repeated garbage collection over them would take as long as the rest.
    gc.freeze()
    return runs
