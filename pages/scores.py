"""Which score and which threshold need the fewest blocks for a share of the attention mass, from published records."""

from collections.abc import Mapping
from dataclasses import dataclass

from fp_bench.records.record import BenchmarkRecord
from fp_bench.records.store import read_run
from pages.markdown import table
from pages.tables import RESULTS, share

NAMES = {
    "mean 128": "mean keys of 128 tokens (FlashPrefill)",
    "mean 64": "of 64 tokens",
    "mean 32": "of 32 tokens",
    "mean 16": "of 16 tokens",
    "mean 8": "of 8 tokens",
    "antidiagonal 16": "antidiagonals, stride 16",
    "antidiagonal 8": "antidiagonals, stride 8 (XAttention)",
    "true mass": "the true mass",
}
"""Score, as in a row's label -> name of its row."""
RULES = {"of the maximum": "share of the maximum", "coverage": "coverage"}


@dataclass(frozen=True)
class KeptShares:
    """The kept share of each score with either threshold.

    Args:
        run: folder of the records of `benchmarks.scores`, below ``results``.
        inputs: start of a capture's name -> its text.
        forced: what is kept in any case, as in the records.
    """

    run: str
    inputs: Mapping[str, str]
    forced: str = "window 4, 2 sinks"

    def markdown(self, lost: float) -> str:
        """Return a row per score.

        Args:
            lost: share of the attention mass that is not kept.
        """
        kept = {
            (str(record.case["inputs"]).partition("@")[0], record.label): float(
                (record.figures or {})[f"kept_at_{lost:g}"] or 0.0
            )
            for record in read_run(RESULTS / self.run).records
            if isinstance(record, BenchmarkRecord) and record.case["forced"] == self.forced
        }
        head = ["score", *(f"{text}: {rule}" for text in self.inputs.values() for rule in RULES.values())]
        rows = [
            [name, *(share(kept[f"captured:{inputs}", f"{score}, {rule}"]) for inputs in self.inputs for rule in RULES)]
            for score, name in NAMES.items()
        ]
        return table(head, rows, left=1)


SCORES = KeptShares("cpu/scores", {"qwen-prose": "prose", "qwen-code": "code"})
