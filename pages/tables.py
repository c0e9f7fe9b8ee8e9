"""The README's tables of speed and scores, as Markdown, made from published records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import floor, isnan, log10
from pathlib import Path

import pandas as pd

from fp_bench.records.record import LatencyRecord
from fp_bench.records.store import read_run
from fp_bench.reports.accuracy.tables import points, signed, summary
from fp_bench.reports.latency.load import served
from fp_bench.reports.latency.tables import comparison
from fp_bench.sizes import format_length, parse_length, parse_lengths
from pages.markdown import table

RESULTS = Path(__file__).parents[1] / "results"
IMPLEMENTATIONS = {"cudnn": "cuDNN", "fa2": "FlashAttention-2", "fa3": "FlashAttention-3"}


@dataclass(frozen=True)
class ByLength:
    """A row per length: one method next to dense attention.

    Args:
        run: folder of the records, below ``results``.
        lengths: as on the command line.
        method: label of the method, as in the records.
    """

    run: str
    lengths: str
    method: str

    def markdown(self) -> str:
        """Return the table."""
        found = measured(self.run)
        rows = [found.loc[(length, self.method)] for length in parse_lengths(self.lengths)]
        dense = ", ".join(dict.fromkeys(IMPLEMENTATIONS.get(row["dense"], row["dense"]) for row in rows))
        head = ["length", "FlashAttention-2", f"fastest dense ({dense})", self.method, "kept", "mass in it", "vs FA2"]
        lines = []
        for row in rows:
            times = [f"{number(row[name])} ms" for name in ("fa2_ms", "dense_ms", "ms")]
            gains = [speed_up(row[name]) for name in ("speedup_fa2", "speedup_dense")]
            kept = [share(row["density"]), share(row["recall"])]
            lines.append([format_length(row.name[0]), *times, *kept, *gains, spread(row["spread"])])
        return table([*head, "vs fastest dense", "spread"], lines, left=0)


@dataclass(frozen=True)
class ByMethod:
    """A row per method: milliseconds by length, and its density at one of them.

    Args:
        run: folder of the records, below ``results``.
        lengths: as on the command line.
        kept_at: the length at which density and recall are shown.
        methods: label of a method, as in the records -> name of its row.
    """

    run: str
    lengths: str
    kept_at: str
    methods: Mapping[str, str]

    def markdown(self) -> str:
        """Return the table."""
        found = measured(self.run)
        lengths, at = parse_lengths(self.lengths), parse_length(self.kept_at)
        head = ["", *map(format_length, lengths), f"kept at {format_length(at)}", "attention mass in it"]
        lines = []
        for label, name in self.methods.items():
            times = [number(found.loc[(length, label)]["ms"]) for length in lengths]
            kept = found.loc[(at, label)]
            lines.append([name, *times, share(kept["density"]), share(kept["recall"])])
        return table(head, lines, left=1)


@cache
def measured(run: str) -> pd.DataFrame:
    """Return the measured rows of a published run, by length and label; each run is read and compared once."""
    records = [record for record in read_run(RESULTS / run).records if isinstance(record, LatencyRecord)]
    found = comparison(records)
    by_cell = found[found["status"] == "ok"].set_index(["seq_len", "label"])
    if not by_cell.index.is_unique:
        raise ValueError(f"{run} has several settings (shapes, inputs); a table is of one")
    return by_cell


def number(value: float) -> str:
    """Return three significant digits, or all digits of thousands: ``0.499``, ``57.3``, ``1712``."""
    return f"{value:.{max(0, 2 - floor(log10(value)))}f}"


def share(value: float) -> str:
    """Return a percentage with two significant digits: ``66 %``, ``3.3 %``."""
    percent = 100 * value
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def spread(value: float) -> str:
    """Return how far the medians of rounds lie apart: ``0.3 %``; nan of a single round."""
    return "one round" if isnan(value) else share(value)


def speed_up(value: float) -> str:
    """Return ``1.24x``, ``5.7x`` or ``44x``."""
    digits = 2 if value < 1.995 else 1 if value < 9.95 else 0
    return f"{value:.{digits}f}x"


@dataclass(frozen=True)
class Scores:
    """A row per method: scores by length, and at one of them its difference to dense attention and its density.

    Args:
        run: folder of the records, below ``results``.
        lengths: as on the command line.
        at: the length of the difference and the density.
        methods: label of a method, as in the records -> name of its row.
    """

    run: str
    lengths: str
    at: str
    methods: Mapping[str, str]

    def markdown(self) -> str:
        """Return the table."""
        found = scores(self.run).set_index(["seq_len", "label"])
        lengths, at = parse_lengths(self.lengths), parse_length(self.at)
        name = format_length(at)
        head = ["", *map(format_length, lengths), f"to dense at {name}, 95 %", f"kept at {name}"]
        lines = []
        for label, called in self.methods.items():
            there = [
                found.loc[(length, label)]["score"] if (length, label) in found.index else None for length in lengths
            ]
            row = found.loc[(at, label)]
            change = "" if label == "dense" else f"{signed(row['difference'])} ({_interval(row)})"
            lines.append(
                [called, *("" if score is None else points(score) for score in there), change, share(row["density"])]
            )
        return table(head, lines, left=1)


def _interval(row: pd.Series) -> str:
    return f"{signed(row['difference_low'])} to {signed(row['difference_high'])}"


@dataclass(frozen=True)
class UnderLoad:
    """A row per length, load and server: percentiles of the first token's time, times between tokens, requests.

    Args:
        runs: folders of the records, below ``results``.
        servers: label of a server, as in the records -> name of its row.
    """

    runs: Sequence[str]
    servers: Mapping[str, str]

    def markdown(self) -> str:
        """Return the table."""
        found = pd.concat([served(read_run(RESULTS / run).latency) for run in self.runs])
        head = ["length", "at once", "", "first token p50", "p90", "p99", "between tokens p50", "p90", "requests/s"]
        lines = []
        for _, row in found.iterrows():
            times = [f"{number(row[name])} ms" for name in ("p50_ttft_ms", "p90_ttft_ms", "p99_ttft_ms")]
            between = [f"{number(row[name])} ms" for name in ("p50_itl_ms", "p90_itl_ms")]
            name = self.servers[row["label"]]
            load = [format_length(row["seq_len"]), f"{row['concurrency']:.0f}", name]
            lines.append([*load, *times, *between, number(row["request_throughput"])])
        return table(head, lines, left=3)


def scores(run: str) -> pd.DataFrame:
    """Return `accuracy_tables.summary` of the RULER scores of a published run."""
    return summary([record for record in read_run(RESULTS / run).accuracy if record.suite == "ruler"])


OPERATOR = "h200/operator"
SPEED = ByLength("h200/front", lengths="4k,16k,64k,128k,256k", method="flashprefill")
RIVALS = ByMethod(
    OPERATOR,
    lengths="4k,16k,64k,128k",
    kept_at="64k",
    methods={
        "dense:impl=fa2": "FlashAttention-2",
        "dense": "cuDNN",
        "minference": "MInference, 1000 columns, 6096 diagonals",
        "prism": "Prism",
        "xattention": "XAttention, stride 8, tau 0.9",
        "flexprefill": "FlexPrefill, gamma 0.9",
        "stem": "Stem",
        "streaming": "StreamingLLM, 128 and 3968 tokens",
        "rbs": "RBS-Attention, alpha 0.12",
        "flashprefill_v2": "FlashPrefill V2, alpha 0.1, correction",
        "flashprefill": "FlashPrefill, alpha 0.12",
        "flashprefill:precision=fp8": "the same, attention in 8 bits",
    },
)
VERSION_1 = "h100/all-32-8-128"
"""Structured inputs of version 1, on which XAttention and FlexPrefill followed their papers."""
ACCURACY = Scores(
    "real/qwen2.5-coder-1.5b-ruler",
    lengths="32k",
    at="32k",
    methods={
        "dense": "dense",
        "flashprefill:alpha=0.0593": "FlashPrefill, alpha 0.0593",
        "flashprefill": "FlashPrefill, alpha 0.12",
        "xattention:tau=0.906": "XAttention, tau 0.906",
        "flexprefill:gamma=0.966": "FlexPrefill, gamma 0.966",
    },
)
LOAD = UnderLoad(
    ("real/qwen2.5-coder-1.5b-vllm-load", "real/qwen2.5-coder-1.5b-vllm-load-long"),
    {
        "dense": "vLLM's FlashAttention 3",
        "flashprefill:alpha=0.0593": "FlashPrefill, alpha 0.0593",
        "flashprefill:alpha=0.0205": "FlashPrefill, alpha 0.0205",
    },
)
