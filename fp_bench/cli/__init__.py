"""The command line: one short function per command. Nothing heavy is imported before a command runs."""

import signal

from fp_bench.cli import accuracy, comparing, latency, machine, models, reporting, reproducing, samples, tuning  # noqa: F401  they add their verbs
from fp_bench.cli.front import app


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name="fpbench")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is said: another Ctrl-C ends at once
