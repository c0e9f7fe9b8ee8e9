"""Quality and time of methods on a pretrained model: the README's picture and table, from published records.

``python -m pages.real_model`` draws the picture again, with a CSV of what it shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fp_bench.records.record import AccuracyRecord, LatencyRecord
from fp_bench.records.store import read_run
from fp_bench.reports.clusters import divergence_interval
from fp_bench.reports.drawing import (
    COLOURS,
    PANEL_TITLE,
    STYLE,
    Plot,
    length_axis,
    method_colour,
    ratio_axis,
    titled_figure,
)
from fp_bench.sizes import format_length, parse_length
from pages.markdown import table
from pages.tables import RESULTS, measured, number, share, speed_up

FOLDER = Path(__file__).parents[1] / "docs" / "img"
DIGITS = "%.4g"
METHODS = {
    "flashprefill": "FlashPrefill",
    "rbs": "RBS-Attention",
    "stem": "Stem",
    "xattention": "XAttention",
    "prism": "Prism",
    "flexprefill": "FlexPrefill",
    "flashprefill_v2": "FlashPrefill V2",
    "streaming": "StreamingLLM",
    "delta": "Delta Attention",
    "minference": "MInference",
    "spargeattn": "SpargeAttn",
    "skip_softmax": "skip-softmax",
    "cosa": "CoSA",
}
"""Name of a method -> name of its row. TriangleMix is left out: half of its layers are dense; one call says little."""
MAIN = ("alpha", "tau", "gamma", "mass", "budget", "n_local")
"""The parameters along a method's line; other settings are single points."""
MIXED = "real/qwen2.5-coder-1.5b-mixed"
EQUAL_KL = 0.02
"""Nats, at which speeds are compared by length."""


@dataclass(frozen=True)
class RealModel:
    """Loss and attention time of the settings of several methods at one length.

    Args:
        run: folder of the records, below ``results``: fidelity of a model, and attention on its own Q, K and V if it
            was timed.
        length: as on the command line.
        text: what the model reads.
    """

    run: str
    length: str
    text: str

    def settings(self) -> pd.DataFrame:
        """Return a row per setting: KL and its 95 % interval, nll, agreement, density, milliseconds (or nan)."""
        length = parse_length(self.length)
        everything = read_run(RESULTS / self.run).records
        records = [
            record
            for record in everything
            if isinstance(record, AccuracyRecord) and record.seq_len == length and record.status == "ok"
            if record.method in ("dense", *METHODS)
        ]
        times = measured(self.run) if any(isinstance(record, LatencyRecord) for record in everything) else None
        rows = []
        for label in dict.fromkeys(record.label for record in records):
            mine = [record for record in records if record.label == label]
            blocks = np.array([record.kl_by_part for record in mine])
            low, high = divergence_interval(blocks)
            timed = {"ms": nan, "dense_ms": nan} if times is None else times.loc[(length, label)]
            rows.append(
                {
                    "method": mine[0].method,
                    "label": label,
                    "samples": len(mine),
                    "kl": blocks.mean(),
                    "low": low,
                    "high": high,
                    "nll_difference": np.mean([record.nll_difference for record in mine]),
                    "same_token": np.mean([record.score for record in mine]),
                    "density": np.mean([record.density for record in mine]),
                    "ms": timed["ms"],
                    "dense_ms": timed["dense_ms"],
                }
            )
        return pd.DataFrame(rows)

    def markdown(self, limits: Sequence[float]) -> str:
        """Return the table of attention times at equal loss.

        Args:
            limits: KL divergences at which methods are compared, nats.
        """
        found = self.settings()
        dense_ms = float(found["dense_ms"].iloc[0])
        head = ["", *(text for limit in limits for text in (f"KL {limit:g}: kept", "attention", "vs cuDNN"))]
        lines = []
        for method, name in METHODS.items():
            line = self.line(found, method)
            cells = []
            for limit in limits:
                density, ms = (at_loss(line, column, limit) for column in ("density", "ms"))
                known = density is not None and ms is not None
                cells += [share(density), f"{number(ms)} ms", speed_up(dense_ms / ms)] if known else ["", "", ""]
            if any(cells):
                lines.append([name, *cells])
        dense = ["dense (cuDNN)", *(["100 %", f"{number(dense_ms)} ms", "1.00x"] * len(limits))]
        return table(head, [dense, *lines], left=1)

    def all_settings(self) -> str:
        """Return the table of every setting."""
        found = self.settings()
        timed = bool(found["ms"].notna().all())
        head = [
            "setting",
            "KL, nats",
            "95 %",
            "rise of NLL",
            "same top token",
            "kept",
            *(["attention ms"] if timed else []),
        ]
        lines = [
            [
                f"`{row['label']}`",
                f"{row['kl']:.4f}",
                f"{row['low']:.4f} to {row['high']:.4f}",
                f"{row['nll_difference']:+.4f}",
                share(row["same_token"]),
                share(row["density"]),
                *([number(row["ms"])] if timed else []),
            ]
            for _, row in found.sort_values("ms" if timed else "density").iterrows()
        ]
        return table(head, lines, left=1)

    def beside_structured(self, run: str, lengths: tuple[str, ...], labels: Mapping[str, str]) -> str:
        """Return the kept share of the model's attention next to that of structured inputs, by method.

        Args:
            run: folder of records on structured inputs, below ``results``.
            lengths: as on the command line.
            labels: label of a setting -> name of its row.
        """
        records = [record for record in read_run(RESULTS / self.run).records if isinstance(record, AccuracyRecord)]
        structured = measured(run)
        head = ["", "length", "model: kept", "structured: kept", "model: mass kept", "structured: mass kept"]
        lines = []
        for label, name in labels.items():
            for length in map(parse_length, lengths):
                mine = [record for record in records if record.label == label and record.seq_len == length]
                ours = [np.mean([getattr(record, name) for record in mine]) for name in ("density", "recall")]
                theirs = structured.loc[(length, label)]
                lines.append(
                    [
                        name,
                        format_length(length),
                        share(ours[0]),
                        share(theirs["density"]),
                        share(ours[1]),
                        share(theirs["recall"]),
                    ]
                )
        return table(head, lines, left=2)

    def draw(self, axes: Axes) -> pd.DataFrame:
        """Draw KL against attention time, a line a method and a point a setting; return what is drawn."""
        found = self.settings()
        found = found[found["method"] != "dense"]
        self._draw(axes, found)
        dense_ms = float(found["dense_ms"].iloc[0])
        axes.axvline(dense_ms, color=COLOURS["dense"], linewidth=1.3)
        axes.set_title(f"{format_length(parse_length(self.length))}: {self.text}", **PANEL_TITLE)
        axes.set_xlabel("attention of one call, ms; vertical line: cuDNN")
        axes.set_ylabel("KL, nats")
        return found.assign(seq_len=parse_length(self.length))

    def _draw(self, axes: Axes, found: pd.DataFrame) -> None:
        for method, name in METHODS.items():
            mine, colour = found[found["method"] == method], method_colour(method)
            axes.vlines(mine["ms"], mine["low"], mine["high"], color=colour, linewidth=1)
            line = self.line(found, method)
            axes.plot(line["ms"], line["kl"], color=colour, marker="o", markeredgecolor="white", label=name)
            beside = mine[~mine["label"].isin(line["label"])]
            axes.plot(beside["ms"], beside["kl"], color=colour, marker="D", markeredgecolor="white", linestyle="")
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())

    def line(self, found: pd.DataFrame, method: str) -> pd.DataFrame:
        """Return a method's settings along its main parameter."""
        mine = found[found["method"] == method]
        others = mine["label"].map(
            lambda label: any(part.partition("=")[0] not in MAIN for part in label.split(":")[1:])
        )
        return mine[~others.astype(bool)].sort_values("kl")


def at_loss(line: pd.DataFrame, column: str, limit: float) -> float | None:
    """Return a column at a KL divergence, on a straight line between settings in logarithms; None beyond them."""
    if line.empty:
        return None
    kl = np.log(line["kl"].to_numpy())
    if not kl.min() <= np.log(limit) <= kl.max():
        return None
    return float(np.exp(np.interp(np.log(limit), kl, np.log(line[column].to_numpy()))))


REAL = RealModel(MIXED, "32k", "novels and Python source")
LONG = RealModel("real/qwen2.5-coder-1.5b-128k", "128k", "the same, YaRN factor 4")
RIVALS_2026 = RealModel("real/qwen2.5-coder-1.5b-32k-2026", "32k", "the same")
RETRIEVAL = RealModel("real/qwen2.5-coder-1.5b-retrieval", "32k", "RULER's prompts with their answers")
OTHER_LENGTHS = {
    length: RealModel("real/qwen2.5-coder-1.5b-lengths", length, "the same") for length in ("8k", "16k", "64k")
}
PROSE = RealModel("real/qwen2.5-coder-1.5b", "32k", "novels")

BESIDE = {
    "flashprefill": "FlashPrefill, alpha 0.12",
    "flashprefill_v2": "FlashPrefill V2, alpha 0.1",
    "xattention": "XAttention, tau 0.9",
    "flexprefill": "FlexPrefill, gamma 0.9",
    "minference": "MInference",
    "streaming": "StreamingLLM",
}


def at_equal_loss(limit: float) -> pd.DataFrame:
    """Return by length and method: kept share, milliseconds and speed-up over cuDNN where the KL is ``limit`` nats."""
    rows = []
    for panel in (OTHER_LENGTHS["8k"], OTHER_LENGTHS["16k"], REAL, OTHER_LENGTHS["64k"], LONG):
        found = panel.settings()
        dense_ms = float(found["dense_ms"].iloc[0])
        for method, name in METHODS.items():
            line = panel.line(found, method)
            density, ms = (at_loss(line, column, limit) for column in ("density", "ms"))
            if density is not None and ms is not None:
                length = parse_length(panel.length)
                rows.append((length, method, name, density, ms, dense_ms / ms))
    return pd.DataFrame(rows, columns=["seq_len", "method", "name", "density", "ms", "speedup"])


def equal_loss_table(limit: float) -> str:
    """Return speed-up and kept share of each method by length at one loss."""
    found = at_equal_loss(limit).set_index(["name", "seq_len"])
    lengths = sorted(found.index.get_level_values("seq_len").unique())
    rows = []
    for name in METHODS.values():
        known = [(name, length) in found.index for length in lengths]
        if sum(known) > 1:
            cells = (found.loc[(name, length)] if here else None for length, here in zip(lengths, known, strict=True))
            rows.append(
                [name, *("" if c is None else f"{speed_up(c['speedup'])} ({share(c['density'])})" for c in cells)]
            )
    return table(["", *map(format_length, lengths)], rows, left=1)


def picture() -> Plot:
    """Return KL against attention time at two lengths, and the speed-up at equal KL against length."""
    title = "What a pretrained model loses against what attention takes"
    note = "Qwen2.5-Coder-1.5B (4-bit weights); KL of the next token to dense attention; "
    note += "time: three layers side by side (36 query, 6 KV heads), H200; bars: 95 %"
    caption = f"records: results/{MIXED}, -lengths and -128k; one point a setting; lower and further left is better; "
    caption += "diamond: FlashPrefill with mean correction; right: a line has only lengths with settings on both sides"
    with matplotlib.rc_context(STYLE):
        figure = titled_figure(title, caption, (18.0, 5.4), below=0.3, above=0.75, note=note)
        *panels, right = figure.subplots(1, 3)
        drawn = [panel.draw(axes) for panel, axes in zip((REAL, LONG), panels, strict=True)]
        drawn.append(_draw_speed(right))
        handles, labels = panels[0].get_legend_handles_labels()
        right.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=9.5)
    return Plot("real-model", title, figure, pd.concat(drawn))


def _draw_speed(axes: Axes) -> pd.DataFrame:
    found = at_equal_loss(EQUAL_KL)
    for method, mine in found.groupby("method", sort=False):
        axes.plot(
            mine["seq_len"], mine["speedup"], color=method_colour(str(method)), marker="o", markeredgecolor="white"
        )
    axes.axhline(1, color=COLOURS["dense"], linewidth=1.3)
    ratio_axis(axes)
    length_axis(axes, found)
    axes.set_title(f"speed-up over cuDNN at a KL of {EQUAL_KL:g}", **PANEL_TITLE)
    return found.assign(kl=EQUAL_KL)


def main() -> None:
    """Draw the picture and write its PNG and CSV."""
    drawn = picture()
    (FOLDER / f"{drawn.name}.png").write_bytes(drawn.png)
    drawn.data.to_csv(FOLDER / f"{drawn.name}.csv", index=False, float_format=DIGITS)


if __name__ == "__main__":
    main()
