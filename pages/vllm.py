"""Serving's table of first tokens of a whole model's shape in vLLM, as Markdown, made from published records."""

from collections.abc import Mapping
from dataclasses import dataclass

from fp_bench.records.store import read_run
from fp_bench.sizes import format_length
from pages.markdown import table
from pages.tables import RESULTS, number, speed_up


@dataclass(frozen=True)
class FirstToken:
    """A row per length: seconds of vLLM's own attention, and those of others with their gain over it.

    Args:
        run: folder of the records of `benchmarks.vllm_moe`, below ``results``.
        own: label of vLLM's own attention -> name of its column.
        others: labels of the others -> names of their columns.
    """

    run: str
    own: tuple[str, str]
    others: Mapping[str, str]

    def markdown(self) -> str:
        """Return the table; what was not measured is empty."""
        seconds = {
            (record.seq_len, record.label): float(record.figures["ttft_s"] or 0)
            for record in read_run(RESULTS / self.run).benchmarks
            if record.figures is not None
        }
        own, name = self.own
        lines = []
        for length in sorted({length for length, _ in seconds}):
            line = [format_length(length), f"{number(seconds[length, own])} s"]
            for label in self.others:
                found = seconds.get((length, label))
                line += [f"{number(found)} s", speed_up(seconds[length, own] / found)] if found else ["", ""]
            lines.append(line)
        head = ["length", name, *(part for column in self.others.values() for part in (column, "faster"))]
        return table(head, lines, left=0)


FIRST_TOKEN = FirstToken(
    "h200/vllm-qwen3-30b-a3b",
    ("dense of vLLM", "vLLM's FlashAttention 3"),
    {
        "dense": "plug-in, dense",
        "flashprefill at 0.26": "FlashPrefill, 26 % kept",
        "flashprefill at 0.05": "FlashPrefill, 5 % kept",
    },
)
