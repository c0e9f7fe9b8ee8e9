"""The Typer app: every mistake of a user ends as one line on stderr and an exit code."""

import contextlib
import errno
import os
import sys
import tempfile
import traceback
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import fp_bench
from fp_bench.errors import NotComparableError, UnavailableError, UsageError, first_line
from fp_bench.records.secrets import masked
from fp_bench.reports.escape import one_line

EXIT_REGRESSED, EXIT_USAGE, EXIT_FAILED, EXIT_NOTHING, EXIT_INCONCLUSIVE = 1, 2, 3, 4, 5
EXIT_INTERNAL, EXIT_INTERRUPTED = 70, 130
"""See docs/exit-codes.md."""
UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk and a closed pipe, including standard output."""


VERBS = (
    "latency", "accuracy", "tune", "report", "samples", "compare", "reproduce", "merge", "capture", "calibrate",
    "search-heads", "methods", "suites", "doctor",
)  # fmt: skip
"""The verbs in the order of --help."""


class FrontDoor(TyperGroup):
    """The command group; every mistake of a user ends as one line on stderr and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands: first those that measure, then those that read runs."""
        names: list[str] = super().list_commands(ctx)
        return sorted(names, key=lambda name: VERBS.index(name) if name in VERBS else len(VERBS))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List each command with the whole first sentence of its help, which typer would truncate."""
        rows = []
        for name in self.list_commands(ctx):
            verb = self.get_command(ctx, name)
            if verb is not None and not verb.hidden:
                rows.append((name, " ".join((verb.help or "").partition("\n\n")[0].split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a verb and exit."""
        _open_standard_streams()
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warn  # type: ignore[assignment]
                code = super().main(*args, **extra | {"standalone_mode": False})
            sys.stdout.flush()
        except UnavailableError as error:
            _stop(str(error), EXIT_FAILED)
        except NotComparableError as error:
            _stop(str(error), EXIT_NOTHING)
        except (KeyboardInterrupt, typer.Abort):
            _stop("interrupted", EXIT_INTERRUPTED)
        except UsageError as error:
            _stop(str(error), EXIT_USAGE)
        except Exception as error:
            # typer's own errors, whose class moved from click into typer.
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
                sys.exit(EXIT_USAGE)
            if hasattr(error, "format_message"):
                _stop(_named(error), EXIT_USAGE)
            if isinstance(error, OSError) and error.errno in UNWRITABLE:
                _unwritable(error)
            _stop(_internal(error), EXIT_INTERNAL)
        except SystemExit as ended:
            # typer exits with 1 if standard output's pipe is closed, which means "regressed" here.
            if isinstance(ended.__context__, BrokenPipeError):
                _unwritable(ended.__context__)
            raise
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; report Ctrl-C here, because typer ends without a message."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _stop("interrupted", EXIT_INTERRUPTED)


def _open_standard_streams() -> None:
    """Open closed standard streams, because a file opened later would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115  until the end


def _unwritable(error: OSError) -> NoReturn:
    with contextlib.suppress(OSError):  # what is left to be written at exit would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _stop(f"cannot write: {error.strerror}", EXIT_FAILED)


def _internal(error: Exception) -> str:
    """Save the traceback of an internal error in a file, and return a line that names it."""
    said = f"internal error: {type(error).__name__}: {first_line(error)}"
    try:
        number, path = tempfile.mkstemp(prefix="fpbench-traceback-", suffix=".txt")
        with open(number, "w", errors="replace") as file:
            file.write(masked("".join(traceback.format_exception(error))))
    except OSError as refused:
        return f"{said}; its traceback could not be written: {refused.strerror}"
    return f"{said}; please report it with the traceback in {path}"


def _warn(message: Warning | str, *_where: Any) -> None:
    _tell(f"fpbench: warning: {one_line(str(message))}")


def _stop(reason: str, code: int) -> NoReturn:
    _tell(f"fpbench: {one_line(reason)}")
    sys.exit(code)


def _tell(line: str) -> None:
    """Print a line to stderr; continue if the stream is closed."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _named(error: Any) -> str:
    """Return typer's message about an option, with the value that it omits."""
    complaint: str = error.format_message()
    # A pydantic ValidationError; importing pydantic for its name would slow every start.
    problems: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    return f"{complaint}; got {problems[0]['input']!r}" if problems else complaint


app = typer.Typer(
    cls=FrontDoor,
    help="An honest benchmark of sparse-prefill attention, and the FlashPrefill operator.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
