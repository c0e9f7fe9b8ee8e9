"""The command line: one short function per command. Nothing heavy is imported before a command runs."""

from fp_bench.cli import latency, accuracy, comparing, reporting, samples, reproducing, tuning, models, machine  # noqa: F401, I001  in the order of --help
from fp_bench.cli.front import app


def main() -> None:
    """Run the command line."""
    app(prog_name="fpbench")
