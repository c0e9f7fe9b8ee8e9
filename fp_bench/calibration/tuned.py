"""Results of tuning, as a table, a plot and a file of methods, computed from records."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import yaml

from fp_bench.calibration.trials import sample_number
from fp_bench.methods.registry import Spec
from fp_bench.records.record import AccuracyRecord, LatencyRecord, Record
from fp_bench.reports.clusters import divergence_interval
from fp_bench.reports.drawing import PANEL_TITLE, STYLE, Plot, log_axis, method_colour, new_figure
from fp_bench.reports.table import Table, or_blank
from fp_bench.reports.verdict import Rule, Verdict, compare_times
from fp_bench.sizes import format_length, format_ms

LEAST_KL = 1e-5
"""Nats; smaller ones are drawn as this."""
TIE = 1.1
"""Smallest ratio of two times that is told although rounds are too noisy to prove it."""


@dataclass(frozen=True)
class Tuned:
    """One method at one length."""

    method: str
    length: int
    label: str | None
    """The setting found."""
    problem: str | None
    """Why there is none."""
    density: float | None = None
    kl: float | None = None
    """Of held-out text, nats."""
    kl_low: float | None = None
    kl_high: float | None = None
    attention_ms: float | None = None
    rounds_ms: tuple[float, ...] = ()
    """Time to first token of each round."""

    @classmethod
    def of(cls, method: str, length: int, setting: Spec, records: Sequence[Record], numbers: range) -> "Tuned":
        """Read the cost of a found setting from records.

        Args:
            method: its name.
            length: of the prompts, tokens.
            setting: what was found.
            records: of the run folder.
            numbers: of the held-out samples.
        """
        label = str(setting)
        mine = [record for record in records if record.seq_len == length and record.label == label]
        held_out = [
            record
            for record in mine
            if isinstance(record, AccuracyRecord) and record.status == "ok" and sample_number(record) in numbers
        ]
        timed = [
            record for record in mine if isinstance(record, LatencyRecord) and record.ttft_ms and record.status == "ok"
        ]
        parts = np.array([record.kl_by_part for record in held_out if record.kl_by_part])
        low, high = divergence_interval(parts) if len(parts) else (None, None)
        return cls(
            method,
            length,
            label,
            None if timed else "not timed",
            1.0 if method == "dense" else _mean([record.density for record in held_out]),
            0.0 if method == "dense" else _mean([record.kl for record in held_out]),
            low,
            high,
            median(record.attention_ms for record in timed if record.attention_ms) if timed else None,
            tuple(record.ttft_ms for record in timed if record.ttft_ms),
        )

    @property
    def ttft_ms(self) -> float | None:
        """Median of the rounds."""
        return median(self.rounds_ms) if self.rounds_ms else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def verdicts(found: Sequence[Tuned]) -> list[str]:
    """Name the fastest method at one length, and how much slower each other one is, or that they tie."""
    times = [each.ttft_ms for each in found]
    known = [time for time in times if time is not None]
    if not known:
        return [each.problem or "" for each in found]
    best = found[times.index(min(known))]
    return [_verdict(each, best) for each in found]


def _verdict(each: Tuned, best: Tuned) -> str:
    if each.ttft_ms is None or best.ttft_ms is None:
        return each.problem or ""
    if each is best:
        return "fastest"
    rounds = min(len(each.rounds_ms), len(best.rounds_ms))
    base, new = (np.array([[side.rounds_ms[:rounds]]]) for side in (best, each))
    slower = compare_times(base, new, Rule(), forecast=False).verdict[0] == Verdict.REGRESSED.value
    ratio = each.ttft_ms / best.ttft_ms
    if not slower and ratio < TIE:
        return "tie with the fastest"
    return f"{ratio:.2f}x the fastest{'' if slower else ', but within the noise'}"


def table(found: Sequence[Tuned], limit: str) -> Table:
    """Return one row per method and length, by length and time to first token."""
    rows = []
    for length in sorted({each.length for each in found}):
        here = [each for each in found if each.length == length]
        judged = sorted(zip(here, verdicts(here), strict=True), key=lambda pair: pair[0].ttft_ms or float("inf"))
        rows += [[format_length(length), *_cells(each, verdict)] for each, verdict in judged]
    columns = ["length", "method", "verdict", "KL to dense", "95 %", "density", "attention ms", "first token ms"]
    return Table(f"Fastest setting of each method with {limit}", columns, rows, numbers=3)


def answer(found: Sequence[Tuned], limit: str) -> list[str]:
    """Return two sentences per length: the method to run, and those that are as fast or meet no limit."""
    return [
        sentence
        for length in sorted({each.length for each in found})
        for sentence in _of_length([each for each in found if each.length == length], format_length(length), limit)
    ]


def _of_length(found: Sequence[Tuned], length: str, limit: str) -> list[str]:
    judged = list(zip(found, verdicts(found), strict=True))
    dense = next((each for each in found if each.method == "dense" and each.ttft_ms), None)
    best = next((each for each, verdict in judged if verdict == "fastest"), None)
    if best is None or best.ttft_ms is None:
        return [f"At {length}, nothing was timed with {limit}."]
    if best.method == "dense":
        first = f"At {length}, with {limit}, no sparse method is faster than dense attention."
    else:
        gain = (
            f", {dense.ttft_ms / best.ttft_ms:.2f}x the speed with dense attention" if dense and dense.ttft_ms else ""
        )
        first = (
            f"At {length}, with {limit}, run `{best.label}`: the first token takes {format_ms(best.ttft_ms)} ms{gain}; "
            f"it computes {best.density or 0:.0%} of attention, with a KL of {best.kl or 0:.3f} nats on held-out text."
        )
    ties = [f"`{each.label}`" for each, verdict in judged if verdict == "tie with the fastest"]
    failed = [each.method for each, _ in judged if each.label is None]
    second = [f"As fast: {', '.join(ties)}." if ties else "No other method is as fast."]
    if failed:
        second.append(f"Without a setting: {', '.join(failed)}.")
    return [first, " ".join(second)]


def _cells(each: Tuned, verdict: str) -> list[str]:
    interval = "" if each.kl_low is None else f"{each.kl_low:.4f} to {each.kl_high:.4f}"
    return [
        each.label or each.method,
        verdict,
        or_blank(each.kl, ".4f"),
        interval,
        or_blank(each.density, ".0%"),
        *("" if ms is None else format_ms(ms) for ms in (each.attention_ms, each.ttft_ms)),
    ]


def gain_of_layers(found: Sequence[Tuned]) -> str:
    """Return the gain in attention time of an alpha per layer over one alpha, by length."""
    lines = []
    for length in sorted({each.length for each in found}):
        mine = [each for each in found if each.length == length and each.method == "flashprefill" and each.label]
        times = {"alpha_file" in (each.label or ""): each.attention_ms for each in mine}
        one, each_layer = times.get(False), times.get(True)
        if one and each_layer:
            change = each_layer / one - 1
            than = f"{abs(change):.0%} {'less' if change < 0 else 'more'} attention time"
            lines.append(f"{format_length(length)}: an alpha for each layer takes {than} than one alpha")
    return "; ".join(lines) or "an alpha for each layer cannot be compared: one of both searches found nothing"


def methods_file(found: Sequence[Tuned], model: str) -> str:
    """Return ``tuned.yaml``: by length, the methods that meet the limit, the fastest first."""
    lengths: dict[str, Any] = {}
    for each in sorted(found, key=lambda each: (each.length, each.ttft_ms or float("inf"))):
        if each.label is not None:
            lengths.setdefault(format_length(each.length).lower(), []).append(each.label)
    return yaml.safe_dump({"model": model, "methods": lengths}, sort_keys=False)


def plot(records: Sequence[Record], limit: float | None) -> Plot | None:
    """Draw the loss of each tried setting against its density, and the limit of the KL divergence."""
    tried = [
        {
            "method": record.method,
            "seq_len": record.seq_len,
            "label": record.label,
            "density": record.density,
            "kl": record.kl,
        }
        for record in records
        if isinstance(record, AccuracyRecord) and record.kl is not None and record.method != "dense"
    ]
    if not tried:
        return None
    rows = pd.DataFrame(tried).groupby(["seq_len", "method", "label"], as_index=False).mean()
    lengths = sorted(rows["seq_len"].unique())
    title = "What each setting loses against what it keeps"
    with matplotlib.rc_context(STYLE):
        figure, panels = new_figure(title, "mean over samples; dashed: the limit", len(lengths))
        for axes, length in zip(panels, lengths, strict=True):
            for method, mine in rows[rows["seq_len"] == length].groupby("method"):
                line, colour = mine.sort_values("density"), method_colour(str(method))
                kl = line["kl"].clip(lower=LEAST_KL)
                axes.plot(100 * line["density"], kl, color=colour, marker="o", markeredgecolor="white", label=method)
            if limit is not None:
                axes.axhline(limit, color="black", linewidth=1, linestyle="--")
            log_axis(axes, lambda kl: f"{kl:g}")
            axes.set_xlabel("kept, % of dense attention")
            axes.set_title(format_length(int(length)), **PANEL_TITLE)
        panels[0].set_ylabel("KL to dense attention, nats")
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return Plot("tuned", title, figure, rows)
