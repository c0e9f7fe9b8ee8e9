"""The one Typer app: every mistake of a user ends as one line on stderr and an exit code."""

import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import fp_bench
from fp_bench.errors import NotComparableError, UnavailableError, UsageError

EXIT_REGRESSED, EXIT_USAGE, EXIT_FAILED, EXIT_NOTHING, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED = 1, 2, 3, 4, 5, 130
"""See docs/exit-codes.md."""


VERBS = (
    "latency", "accuracy", "report", "samples", "compare", "reproduce", "merge", "capture", "calibrate",
    "search-heads", "methods", "suites", "doctor",
)  # fmt: skip
"""The verbs in the order of --help."""


class FrontDoor(TyperGroup):
    """The command group; every mistake of a user ends as one line on stderr and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs: those that measure first, then those that read runs."""
        names: list[str] = super().list_commands(ctx)
        return sorted(names, key=lambda name: VERBS.index(name) if name in VERBS else len(VERBS))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each verb with the whole first sentence of its help, which typer would cut short."""
        rows = []
        for name in self.list_commands(ctx):
            verb = self.get_command(ctx, name)
            if verb is not None and not verb.hidden:
                rows.append((name, " ".join((verb.help or "").partition("\n\n")[0].split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

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
