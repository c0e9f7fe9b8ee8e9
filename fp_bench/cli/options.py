"""What the options of several verbs share: checks before anything heavy is imported, and files that they name."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fp_bench.errors import UsageError
from fp_bench.methods.registry import Registry, Spec
from fp_bench.sizes import parse_duration

if TYPE_CHECKING:
    from fp_bench.records.store import Run


def within(low: int, high: int) -> Callable[[typer.CallbackParam, int | None], int | None]:
    """Return a check of an option that names the value and the limits, which typer's own does not."""

    def check(param: typer.CallbackParam, value: int | None) -> int | None:
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{param.name} {value} is out of limits: {low} to {high}")
        return value

    return check


def configure(context: typer.Context, path: Path | None) -> Path | None:
    """Take a verb's options from a YAML file; those on the command line win."""
    if path is not None:
        from fp_bench.cli.config import read_config

        options = {
            option.removeprefix("--"): str(parameter.name)
            for parameter in context.command.params
            for option in parameter.opts
            if option.startswith("--") and option not in ("--config", "--help")
        }
        context.default_map = read_config(path, options)
    return path


def span(param: typer.CallbackParam, value: str | None) -> str | None:
    """Check a span of time before anything heavy is imported."""
    if value is not None:
        parse_duration(value, f"--{param.name}")
    return value


def specs(text: str, known: Registry) -> list[Spec]:
    """Parse ``a,b:key=value`` and refuse unknown names."""
    parsed = [Spec.parse(part) for part in text.split(",")]
    for spec in parsed:
        known.check(spec.name)
    return parsed


def numbers(text: str | None, what: str) -> list[int] | None:
    """Parse ``0,3``."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit()):
            raise UsageError(f"{what} {text!r}: {part!r} is not a number; write e.g. 0,3")
    return sorted({int(part) for part in parts})


def read_text(path: Path) -> str:
    """Read the file that ``--text`` names."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--text {path} cannot be read: {error}") from None


def read_runs(folders: list[Path]) -> list["Run"]:
    """Read run folders."""
    from fp_bench.records.store import read_run

    runs = [read_run(folder) for folder in folders]
    # They stay until the end; looking among them for garbage, again and again, would take as long as the rest.
    gc.freeze()
    return runs
